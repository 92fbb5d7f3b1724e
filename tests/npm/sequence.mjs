// Plays steps with the official client and prints the events that its callbacks saw, as JSON.
//   node sequence.mjs URL DATABASE STEPS
// Steps: ["subscribe", NAME, [QUERY...]] | ["unsubscribe", NAME] | ["call", REDUCER, {ARGUMENT: VALUE}]
import { connect } from './scenarios.mjs';

const [url, db, text] = process.argv.slice(2);
const { conn } = await connect({ url, db });
const events = [], handles = {};
const turn = () => new Promise(resolve => setImmediate(resolve));

const show = { item: row => [row.name, row.level], shout: row => [row.text], beat: row => [row.id, row.count] };
for (const [table, cells] of Object.entries(show)) {
  const cache = conn.db[table];
  cache.onInsert((ctx, row) => events.push(['insert', table, cells(row), ctx.event.tag, Number(cache.count())]));
  cache.onDelete((ctx, row) => events.push(['delete', table, cells(row), ctx.event.tag, Number(cache.count())]));
  if (table !== 'shout') {
    cache.onUpdate((ctx, old, row) => events.push(['update', table, [...cells(old), ...cells(row)], ctx.event.tag, Number(cache.count())]));
  }
}

const camel = name => name.replace(/_(.)/g, (_, letter) => letter.toUpperCase());
for (const [kind, name, what] of JSON.parse(text)) {
  if (kind === 'subscribe') {
    events.push(await new Promise((resolve, reject) => {
      handles[name] = conn.subscriptionBuilder()
        .onApplied(() => { events.push(['applied', name]); resolve(['subscribed', name]); })
        .onError(ctx => { events.push(['refused', name]); resolve(['subscribed', name]); })
        .subscribe(what);
    }).then(async done => { await turn(); return done; }));
  } else if (kind === 'unsubscribe') {
    await new Promise(resolve => handles[name].unsubscribeThen(() => { events.push(['ended', name]); resolve(); }));
    await turn();
  } else {
    await conn.reducers[camel(name)](what).then(
      () => events.push(['returned', name]),
      error => events.push(['failed', name, error.constructor.name, error.message]),
    );
    await turn();
  }
}
console.log(JSON.stringify(events));
process.exit(0);
