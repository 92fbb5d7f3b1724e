// What the official client must see. Every exported function is one test; run.mjs runs one by name.
import assert from 'node:assert/strict';
import WebSocket from 'ws';
import { DbConnection, OutdatedConnection } from './bindings.mjs';

const DEADLINE_MS = 90_000;
const FATAL = 'The instance encountered a fatal error.';

/** A promise with its resolve on the outside, and a deadline that names what was waited for. */
function expected(what) {
  let settle;
  const promise = new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`waited too long for: ${what}`)), DEADLINE_MS);
    settle = value => { clearTimeout(timer); resolve(value); };
  });
  promise.catch(() => {});
  return { promise, settle };
}

export function connect({ url, db }, { token, connection = DbConnection } = {}) {
  const up = expected('connection');
  const builder = connection.builder().withUri(url).withDatabaseName(db)
    .onConnect((conn, identity, newToken) => up.settle({ conn, identity, token: newToken }))
    .onConnectError((_ctx, error) => up.settle({ error }));
  if (token) builder.withToken(token);
  builder.build();
  return up.promise.then(result => { if (result.error) throw result.error; return result; });
}

function subscribe(conn, queries) {
  const done = expected(`subscription to ${queries}`);
  const handle = conn.subscriptionBuilder()
    .onApplied(() => done.settle(null))
    .onError(ctx => done.settle(ctx.event ?? new Error('subscription error')))
    .subscribe(queries);
  return done.promise.then(error => { if (error) throw error; return handle; });
}

/** Resolves once `test` holds, looking again after every callback registered with `on`. */
function until(what, on, test) {
  const done = expected(what);
  const look = () => { if (test()) done.settle(); };
  on.forEach(register => register(look));
  look();
  return done.promise;
}

const levels = (conn, prefix) =>
  Object.fromEntries([...conn.db.item.iter()].filter(i => i.name.startsWith(prefix)).map(i => [i.name, i.level]));

export async function connects_without_token(server) {
  const { conn, identity, token } = await connect(server);
  assert.match(identity.toHexString(), /^c200[0-9a-f]{60}$/);
  assert.equal(token.split('.').length, 3);
  assert.ok(conn.isActive);
  assert.equal(conn.connectionId.toHexString().length, 32);
}

export async function connects_with_token(server) {
  const first = await connect(server), second = await connect(server, { token: first.token });
  assert.equal(second.identity.toHexString(), first.identity.toHexString());
  assert.notEqual(second.conn.connectionId.toHexString(), first.conn.connectionId.toHexString());
  const stranger = await connect(server);
  assert.notEqual(stranger.identity.toHexString(), first.identity.toHexString());
}

export async function refuses_a_bad_token(server) {
  await assert.rejects(connect(server, { token: 'no.such.token' }));
}

export async function subscribes_with_rows_present(server) {
  const { conn } = await connect(server);
  await conn.reducers.addItem({ name: 'present a', level: 1 });
  await conn.reducers.addItem({ name: 'present b', level: 2 });
  const inserted = [];
  conn.db.item.onInsert((ctx, row) => inserted.push([row.name, ctx.event.tag]));
  await subscribe(conn, "SELECT * FROM item WHERE name = 'present a' OR name = 'present b'");
  assert.deepEqual(levels(conn, 'present'), { 'present a': 1, 'present b': 2 });
  await until('insert callbacks', [], () => true);
  await new Promise(resolve => setImmediate(resolve)); // row callbacks of the same message come after onApplied
  assert.deepEqual(inserted.sort(), [['present a', 'SubscribeApplied'], ['present b', 'SubscribeApplied']]);
}

export async function two_clients_see_each_other(server) {
  const { conn: writer } = await connect(server), { conn: watcher } = await connect(server);
  const seen = [], own = [];
  const note = (list, conn) => {
    conn.db.item.onInsert((ctx, row) => list.push(['insert', row.name, row.level, ctx.event.tag]));
    conn.db.item.onUpdate((ctx, old, row) => list.push(['update', row.name, old.level, row.level, ctx.event.tag]));
    conn.db.item.onDelete((ctx, row) => list.push(['delete', row.name, row.level, ctx.event.tag]));
  };
  await subscribe(watcher, "SELECT * FROM item WHERE name = 'pair'");
  await subscribe(writer, 'SELECT * FROM item');
  note(seen, watcher);
  note(own, writer);
  const gone = expected('the delete at the other client');
  watcher.db.item.onDelete(() => gone.settle());
  await writer.reducers.addItem({ name: 'pair', level: 3 });
  await writer.reducers.setLevel({ name: 'pair', level: 4 });
  await writer.reducers.removeItem({ name: 'pair' });
  await gone.promise;
  assert.deepEqual(seen, [['insert', 'pair', 3, 'Transaction'], ['update', 'pair', 3, 4, 'Transaction'], ['delete', 'pair', 4, 'Transaction']]);
  assert.deepEqual(own.filter(entry => entry[1] === 'pair'),
    [['insert', 'pair', 3, 'Reducer'], ['update', 'pair', 3, 4, 'Reducer'], ['delete', 'pair', 4, 'Reducer']]);
  assert.deepEqual(levels(watcher, 'pair'), {});
}

export async function reducer_error_text(server) {
  const { conn } = await connect(server);
  await subscribe(conn, 'SELECT * FROM item');
  await assert.rejects(conn.reducers.fail({ text: 'zu wenig Gold ✨' }), error => {
    assert.equal(error.constructor.name, 'SenderError');
    assert.equal(error.message, 'zu wenig Gold ✨');
    return true;
  });
  assert.deepEqual(levels(conn, 'never'), {}, 'what a failed reducer wrote must be gone');
  await assert.rejects(conn.reducers.fail({ text: '' }), error => error.message === '');
}

export async function internal_errors_tell_nothing(server) {
  const { conn } = await connect(server);
  await assert.rejects(conn.reducers.crash({}), error => {
    assert.equal(error.constructor.name, 'InternalError');
    assert.equal(error.message, FATAL);
    return true;
  });
}

export async function unique_violation(server) {
  const { conn } = await connect(server);
  await conn.reducers.addItem({ name: 'unique', level: 1 });
  await assert.rejects(conn.reducers.addItem({ name: 'unique', level: 2 }), error => error.message === FATAL);
  await assert.rejects(conn.reducers.addItemOrSay({ name: 'unique' }), error => error.message === 'there is a unique already');
  await subscribe(conn, "SELECT * FROM item WHERE name = 'unique'");
  assert.deepEqual(levels(conn, 'unique'), { unique: 1 });
}

export async function unknown_reducer(server) {
  const { conn } = await connect(server);
  await assert.rejects(conn.reducers.noSuchReducer({}), error => {
    assert.equal(error.constructor.name, 'InternalError');
    assert.match(error.message, /no_such_reducer|no such reducer/i);
    return true;
  });
  await conn.reducers.addItem({ name: 'after unknown', level: 1 }); // the connection goes on
}

export async function bad_arguments(server) {
  const { conn } = await connect(server, { connection: OutdatedConnection });
  await assert.rejects(conn.reducers.addItem({ name: 'outdated' }), error => {
    assert.equal(error.constructor.name, 'InternalError');
    assert.match(error.message, /invalid arguments/i);
    return true;
  });
  await conn.reducers.setLevel({ name: 'nobody', level: 1 }).then(() => assert.fail('must fail'), () => {}); // and goes on
}

export async function bad_subscriptions(server) {
  const { conn } = await connect(server);
  for (const query of ['SELECT * FROM nothing', 'SELECT name FROM item', 'nonsense', "SELECT * FROM item WHERE level = 'x'"]) {
    await assert.rejects(subscribe(conn, query), error => error.message.length > 0, query);
  }
  await assert.rejects(subscribe(conn, ['SELECT * FROM item', 'SELECT * FROM beat_timer']), /no such table: `beat_timer`/);
  await subscribe(conn, 'SELECT * FROM beat');
}

export async function unsubscribe(server) {
  const { conn } = await connect(server);
  await conn.reducers.addItem({ name: 'unsubscribe', level: 1 });
  const handle = await subscribe(conn, "SELECT * FROM item WHERE name = 'unsubscribe'");
  assert.deepEqual(levels(conn, 'unsubscribe'), { unsubscribe: 1 });
  const ended = expected('the end of the subscription'), deleted = expected('the deleted row');
  conn.db.item.onDelete(() => deleted.settle());
  handle.unsubscribeThen(() => ended.settle());
  await ended.promise;
  await deleted.promise;
  assert.ok(handle.isEnded());
  assert.deepEqual(levels(conn, 'unsubscribe'), {});
  let news = 0;
  conn.db.item.onInsert(() => news++);
  await conn.reducers.setLevel({ name: 'unsubscribe', level: 2 });
  assert.equal(news, 0);
}

export async function overlapping_query_sets(server) {
  const { conn } = await connect(server);
  await conn.reducers.addItem({ name: 'overlap a', level: 10 });
  await conn.reducers.addItem({ name: 'overlap b', level: 20 });
  const counts = { insert: 0, update: 0, delete: 0 };
  conn.db.item.onInsert(() => counts.insert++);
  conn.db.item.onUpdate(() => counts.update++);
  conn.db.item.onDelete(() => counts.delete++);
  const both = await subscribe(conn, "SELECT * FROM item WHERE name = 'overlap a' OR name = 'overlap b'");
  const one = await subscribe(conn, ["SELECT * FROM item WHERE name = 'overlap a'", "SELECT * FROM item WHERE level = 10 AND name = 'overlap a'"]);
  await new Promise(resolve => setImmediate(resolve));
  assert.deepEqual(counts, { insert: 2, update: 0, delete: 0 });
  await conn.reducers.setLevel({ name: 'overlap a', level: 11 }); // leaves the third query
  assert.deepEqual(counts, { insert: 2, update: 1, delete: 0 });
  const ended = expected('unsubscribe');
  both.unsubscribeThen(() => ended.settle());
  await ended.promise;
  await new Promise(resolve => setImmediate(resolve));
  assert.deepEqual(levels(conn, 'overlap'), { 'overlap a': 11 });
  assert.deepEqual(counts, { insert: 2, update: 1, delete: 1 });
  await conn.reducers.setLevel({ name: 'overlap a', level: 10 });
  await conn.reducers.removeItem({ name: 'overlap a' });
  assert.deepEqual(counts, { insert: 2, update: 2, delete: 2 });
  assert.ok(one.isActive());
}

export async function event_table(server) {
  const { conn: one, identity } = await connect(server), { conn: other } = await connect(server);
  const heard = [expected('own event'), expected('event at the other client')];
  [one, other].forEach((conn, n) => conn.db.shout.onInsert((_ctx, row) => heard[n].settle([row.sender.toHexString(), row.text])));
  await subscribe(one, 'SELECT * FROM shout');
  await subscribe(other, 'SELECT * FROM shout');
  await one.reducers.shout({ text: 'hello' });
  for (const each of heard) assert.deepEqual(await each.promise, [identity.toHexString(), 'hello']);
  assert.equal(Number(one.db.shout.count()), 0);
  const late = await connect(server);
  await subscribe(late.conn, 'SELECT * FROM shout');
  assert.equal(Number(late.conn.db.shout.count()), 0);
}

export async function scheduled_updates_arrive(server) {
  const { conn } = await connect(server);
  await subscribe(conn, 'SELECT * FROM beat WHERE id = 7');
  const times = [], enough = expected('five beats');
  conn.db.beat.onUpdate((ctx, old, row) => {
    assert.equal(row.count, old.count + 1);
    assert.equal(ctx.event.tag, 'Transaction');
    times.push(performance.now());
    if (times.length === 5) enough.settle();
  });
  const begun = performance.now();
  await conn.reducers.startBeat({ id: 7, milliseconds: 40 });
  await enough.promise;
  await conn.reducers.stopBeat({ id: 7 });
  const span = times[4] - begun;  // they may arrive together, but not before they were due
  assert.ok(span > 100, `five beats of 40 ms took ${span} ms`);
}

export async function reconnects_with_the_same_token(server) {
  const first = await connect(server), watcher = await connect(server);
  const me = first.identity.toHexString();
  await subscribe(watcher.conn, `SELECT * FROM visitor WHERE identity = 0x${me}`);
  const visitor = () => [...watcher.conn.db.visitor.iter()][0];
  const on = [look => watcher.conn.db.visitor.onUpdate(look)];
  assert.equal(visitor().online, true);
  const down = expected('disconnect callback');
  first.conn.disconnect();
  await until('the visitor is offline', on, () => visitor().online === false);
  down.settle();
  const again = await connect(server, { token: first.token });
  assert.equal(again.identity.toHexString(), me);
  await until('the visitor is back', on, () => visitor().online && visitor().visits === 2);
}

/** One that subscribes and then never reads must neither slow the others down nor stay for ever. */
export async function a_client_that_never_reads(server) {
  const { conn } = await connect(server);
  const url = `${server.url}/v1/database/${server.db}/subscribe?compression=None&confirmed=false`;
  const deaf = new WebSocket(url, ['v2.bsatn.spacetimedb'], { perMessageDeflate: false });
  const greeted = expected('greeting');
  deaf.once('message', data => greeted.settle(data.subarray(2, 34)));
  deaf.on('error', () => {});
  const identity = Buffer.from(await greeted.promise).reverse().toString('hex');
  await subscribe(conn, [`SELECT * FROM visitor WHERE identity = 0x${identity}`]);
  const query = Buffer.from('SELECT * FROM ballast'), message = Buffer.alloc(17 + query.length);
  message.writeUInt32LE(1, 1);
  message.writeUInt32LE(1, 5);
  message.writeUInt32LE(1, 9);
  message.writeUInt32LE(query.length, 13);
  query.copy(message, 17);
  const applied = expected('subscription of the deaf client');
  deaf.once('message', () => applied.settle());
  deaf.send(message);
  await applied.promise;
  deaf._socket.pause();
  let gone = false, slowest = 0, calls = 0;
  conn.db.visitor.onUpdate((_ctx, _old, row) => { gone ||= !row.online; });
  while (!gone && calls < 1500) {
    const begun = performance.now();
    await conn.reducers.setBallast({ rows: 20, size: 10_000, mark: 'ab'[calls % 2] });
    slowest = Math.max(slowest, performance.now() - begun);
    calls++;
  }
  assert.ok(gone, `still connected after ${calls} updates of 400 kB`);
  assert.ok(slowest < 20_000, `the slowest call of the others took ${slowest} ms`);
  deaf.terminate();
}
