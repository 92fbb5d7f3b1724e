// A soak of the official client: many connections whose overlapping query sets, written with its typed query builder,
// come and go while writers change everything. At the end every cache is compared with what the queries give over the
// server's tables, and with what the row callbacks told.
//   node builder_soak.mjs --url ws://127.0.0.1:3000 --db churn [--seconds 60] [--clients 50] [--writers 4] [--seed 1]
import assert from 'node:assert/strict';
import { parseArgs } from 'node:util';
import { setGlobalLogLevel } from 'spacetimedb';
import { ChurnConnection } from './bindings.mjs';
import { connect } from './scenarios.mjs';

const OWNERS = 20, CHUNKS = 10, SETS = 8, QUERIES = 3, CHANGES = 8, PATIENCE_MS = 60_000;
const { values: o } = parseArgs({ options: {
  url: { type: 'string' }, db: { type: 'string' }, seconds: { type: 'string', default: '60' },
  clients: { type: 'string', default: '50' }, writers: { type: 'string', default: '4' }, seed: { type: 'string', default: '1' },
} });
const server = { url: o.url, db: o.db };
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));

// The client only logs that it is told to delete what it does not have.
const complaints = [];
setGlobalLogLevel('warn');
console.log = (...parts) => complaints.push(parts.join(' '));

function generator(seed) { // mulberry32
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let x = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

// [table, the query as the builder makes it, its rows given [...things] and a Map of places]
const { and, not, or } = await import('spacetimedb');
function drawQuery(random) {
  const owner = Math.floor(random() * OWNERS), chunk = Math.floor(random() * CHUNKS), value = Math.floor(random() * 100);
  const isIn = (places, thing, wanted) => places.get(thing.id)?.chunk === wanted;
  const forms = [
    ['things', q => q.things, things => things],
    ['places', q => q.places.where(p => p.chunk.ne(chunk)), (_, places) => [...places.values()].filter(p => p.chunk !== chunk)],
    ['things', q => q.things.where(t => t.owner.eq(owner)), things => things.filter(t => t.owner === owner)],
    ['things', q => q.things.where(t => and(t.owner.lte(owner), t.value.gt(value), t.name.ne(''))),
      things => things.filter(t => t.owner <= owner && t.value > value && t.name !== '')],
    ['things', q => q.things.where(t => or(t.owner.eq(owner), t.value.lt(value), t.id.gte(390))),
      things => things.filter(t => t.owner === owner || t.value < value || t.id >= 390)],
    ['things', q => q.things.where(t => not(or(t.owner.eq(owner), t.value.gte(value)))),
      things => things.filter(t => !(t.owner === owner || t.value >= value))],
    ['things', q => q.things.where(t => t.owner.eq(owner)).where(t => t.value.eq(t.owner)),
      things => things.filter(t => t.owner === owner && t.value === owner)],
    ['things', q => q.things.leftSemijoin(q.places, (t, p) => t.id.eq(p.id)).where(t => t.owner.lt(owner)),
      (things, places) => things.filter(t => places.has(t.id) && t.owner < owner)],
    ['things', q => q.places.where(p => p.chunk.eq(chunk)).rightSemijoin(q.things, (p, t) => p.id.eq(t.id)),
      (things, places) => things.filter(t => isIn(places, t, chunk))],
    ['things', q => q.places.where(p => p.chunk.eq(chunk)).rightSemijoin(q.things, (p, t) => p.id.eq(t.id)).where(t => not(t.value.lt(value))),
      (things, places) => things.filter(t => isIn(places, t, chunk) && t.value >= value)],
    ['places', q => q.places.leftSemijoin(q.things, (p, t) => p.id.eq(t.id)).where(p => p.chunk.gt(chunk)),
      (things, places) => things.filter(t => places.get(t.id)?.chunk > chunk).map(t => places.get(t.id))],
  ];
  return forms[Math.floor(random() * forms.length)];
}

class Client {
  constructor(conn, random) {
    Object.assign(this, { conn, random, sets: new Set(), told: { things: new Map(), places: new Map() }, applied: 0, changes: 0 });
    for (const name of ['things', 'places']) {
      const told = this.told[name], table = conn.db[name];
      table.onInsert((_, row) => { assert.ok(!told.has(row.id), `${name} ${row.id} came twice`); told.set(row.id, row); this.changes++; });
      table.onUpdate((_, old, row) => { assert.deepEqual(told.get(row.id), old); told.set(row.id, row); this.changes++; });
      table.onDelete((_, row) => { assert.deepEqual(told.get(row.id), row); told.delete(row.id); this.changes++; });
    }
  }

  step() {
    if (this.sets.size < SETS && this.random() < 0.6) {
      const queries = Array.from({ length: 1 + Math.floor(this.random() * QUERIES) }, () => drawQuery(this.random));
      const set = { queries, isApplied: false };
      set.handle = this.conn.subscriptionBuilder()
        .onApplied(() => { set.isApplied = true; this.applied++; })
        .onError(ctx => { throw ctx.event ?? new Error('a subscription was refused'); })
        .subscribe(tables => queries.map(([, build]) => build(tables)));
      this.sets.add(set);
    } else {
      const [set] = [...this.sets].filter(each => each.isApplied && this.random() < 0.5);
      if (set) {
        this.sets.delete(set);
        set.handle.unsubscribe();
      }
    }
  }

  async settle() {
    const deadline = Date.now() + PATIENCE_MS;
    while ([...this.sets].some(set => !set.isApplied)) {
      assert.ok(Date.now() < deadline, 'a subscription was never applied');
      await sleep(5);
    }
    await this.conn.reducers.nothing({}); // whatever was committed before has come with the answer
  }

  compare(things, places) {
    for (const name of ['things', 'places']) {
      const wanted = new Map();
      for (const { queries } of this.sets)
        for (const [table, , rows] of queries) if (table === name) for (const row of rows(things, places)) wanted.set(row.id, row);
      const texts = [...this.sets].flatMap(({ queries }) => queries.map(([, build]) => String(build)));
      const sorted = map => [...map.values()].sort((a, b) => a.id - b.id);
      const cached = new Map([...this.conn.db[name].iter()].map(row => [row.id, row]));
      assert.deepEqual(sorted(cached), sorted(wanted), `stale ${name} of ${texts}`);
      assert.deepEqual(sorted(this.told[name]), sorted(wanted), `callbacks of ${name} of ${texts}`);
    }
  }
}

const open = async number => new Client((await connect(server, { connection: ChurnConnection })).conn, generator(Number(o.seed) * 1000 + number));
const clients = await Promise.all(Array.from({ length: Number(o.clients) }, (_, n) => open(n)));
const writers = await Promise.all(Array.from({ length: Number(o.writers) }, (_, n) => open(500 + n)));
const until = Date.now() + Number(o.seconds) * 1000;
let transactions = 0;
await Promise.all([
  ...clients.map(async client => { while (Date.now() < until) { client.step(); await sleep(client.random() * 200); } }),
  ...writers.map(async client => {
    for (let turn = 0; Date.now() < until; turn++) {
      if (turn % 20 === 0) client.step(); // those who call get their changes with the answers
      await client.conn.reducers.churn({ seed: Math.floor(client.random() * 2 ** 32), changes: 1 + Math.floor(client.random() * CHANGES) });
      transactions++;
      await sleep(client.random() * 20);
    }
  }),
]);
const everything = await open(999), all = { queries: [], isApplied: false };
everything.sets.add(all);
everything.conn.subscriptionBuilder().onApplied(() => { all.isApplied = true; }).subscribe(tables => [tables.things, tables.places]);
for (const client of [everything, ...clients, ...writers]) await client.settle();
await sleep(0); // row callbacks of a message run after it
const things = [...everything.conn.db.things.iter()], places = new Map([...everything.conn.db.places.iter()].map(row => [row.id, row]));
for (const client of [...clients, ...writers]) client.compare(things, places);
assert.deepEqual(complaints, []);
const sum = each => clients.reduce((total, client) => total + each(client), 0);
process.stdout.write(JSON.stringify({
  transactions, subscriptions: sum(c => c.applied), sets: sum(c => c.sets.size), row_changes: sum(c => c.changes),
  things: things.length, places: places.size,
}) + '\n');
process.exit(0);
