// node acceptance.mjs SCENARIO URL DATABASE BINDINGS: the official client with the modules of tests/modules and generated
// bindings. It must get exactly these events, in this order. Exit code 0 if the scenario holds.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { ConnectionId, Identity, TimeDuration, Timestamp, Uuid, setGlobalLogLevel } from 'spacetimedb';
import WebSocket from 'ws';

globalThis.WebSocket = class extends WebSocket {
  constructor(url, protocols) { super(url, protocols, { perMessageDeflate: false }); }
};
setGlobalLogLevel('error');
const SECONDS = 90;
const [scenario, url, db, bindings] = process.argv.slice(2);
const { DbConnection } = await import(join(bindings, 'index.js'));

function connect() {
  return new Promise((resolve, reject) => DbConnection.builder().withUri(url).withDatabaseName(db)
    .onConnect((conn, identity) => resolve({ conn, identity })).onConnectError((_ctx, error) => reject(error)).build());
}

function subscribe(conn, queries, onApplied = () => {}) {
  return new Promise((resolve, reject) => {
    const handle = conn.subscriptionBuilder()
      .onApplied(ctx => { onApplied(ctx); setImmediate(() => resolve(handle)); }) // row callbacks come in between
      .onError(ctx => reject(ctx.event)).subscribe(queries);
  });
}

const unsubscribe = (handle, onEnded = () => {}) =>
  new Promise(resolve => handle.unsubscribeThen(() => { onEnded(); setImmediate(resolve); }));

/** Notes all row events of some tables as [table, kind, row(s)..., tag of the event]. */
function record(conn, tables, events = []) {
  for (const table of tables) {
    conn.db[table].onInsert((ctx, row) => events.push([table, 'insert', row, ctx.event.tag]));
    conn.db[table].onDelete?.((ctx, row) => events.push([table, 'delete', row, ctx.event.tag]));
    conn.db[table].onUpdate?.((ctx, old, row) => events.push([table, 'update', old, row, ctx.event.tag]));
  }
  return events;
}

async function until(what, test) {
  const end = Date.now() + SECONDS * 1000;
  while (!test()) {
    if (Date.now() > end) throw new Error(`not seen within ${SECONDS} s: ${what()}`);
    await new Promise(resolve => setTimeout(resolve, 2));
  }
}

const events = list => [...list].splice(0, list.splice(0).length);
const camel = name => name.replace(/_([a-z0-9])/g, (_, c) => c.toUpperCase());

// -- values of every type

const unit = tag => ({ tag, value: {} });
const LARGE = { u64: 2n ** 64n - 1n, u128: 2n ** 128n - 1n, u256: 2n ** 256n - 1n, i64: -(2n ** 63n), i128: -(2n ** 127n), i256: -(2n ** 255n) };
const identity = new Identity('c200' + '5a'.repeat(30)), connectionId = new ConnectionId(0x0102030405060708090a0b0c0d0e0f10n);
const timestamp = new Timestamp(-9_876_543_210n), uuid = Uuid.parse('01020304-0506-7708-890a-0b0c0d0e0f10');
const duration = new TimeDuration(-67_419_000_000_003n);
const PRIMITIVE = {
  a: 255, b: 65535, c: 4294967295, d: LARGE.u64, e: LARGE.u128, f: LARGE.u256, g: -128, h: -32768, i: -2147483648,
  j: LARGE.i64, k: LARGE.i128, l: LARGE.i256, m: true, n: -0.5, o: 1e300, p: 'grüße 🎲\u0000', q: identity, r: connectionId,
  s: timestamp, t: duration, u: uuid,
};
const VECTORS = Object.fromEntries(Object.entries(PRIMITIVE).map(([k, v]) => [k, k === 'a' ? new Uint8Array([1, 0, 255]) : [v, v]]));
const KEYS = {
  u_8: ['n', 255], u_16: ['n', 65535], u_32: ['n', 4294967295], u_64: ['n', LARGE.u64], u_128: ['n', LARGE.u128],
  u_256: ['n', LARGE.u256], i_8: ['n', -128], i_16: ['n', -32768], i_32: ['n', -2147483648], i_64: ['n', LARGE.i64],
  i_128: ['n', LARGE.i128], i_256: ['n', LARGE.i256], bool: ['b', true], string: ['s', 'grüße'], identity: ['i', identity],
  connection_id: ['a', connectionId], uuid: ['u', uuid],
};
const COLUMNS = {
  ...KEYS, f_32: ['f', -0.5], f_64: ['f', 1e300], timestamp: ['t', timestamp], simple_enum: ['e', unit('Two')],
  enum_with_payload: ['e', { tag: 'SimpleEnums', value: [unit('One'), unit('Zero')] }], unit_struct: ['s', {}],
  byte_struct: ['s', { b: 7 }], every_primitive_struct: ['s', PRIMITIVE], every_vec_struct: ['s', VECTORS],
};
const OPTIONS = {
  i_32: ['n', -1], string: ['s', ''], identity: ['i', identity], uuid: ['u', uuid], simple_enum: ['e', unit('One')],
  every_primitive_struct: ['s', PRIMITIVE], vec_option_i_32: ['v', [1, undefined, -1]],
};
const RESULTS = {
  i_32_string: [-1, 'no'], string_i_32: ['yes', 3], identity_string: [identity, ''], simple_enum_i_32: [unit('Two'), -3],
  every_primitive_struct_string: [PRIMITIVE, 'no'], vec_i_32_string: [[1, 2], 'no'],
};
const PAYLOADS = [
  ['U8', 1], ['U16', 2], ['U32', 3], ['U64', 4n], ['U128', 5n], ['U256', LARGE.u256], ['I8', -1], ['I16', -2], ['I32', -3],
  ['I64', -4n], ['I128', -5n], ['I256', LARGE.i256], ['Bool', false], ['F32', 1.5], ['F64', 0.1], ['Str', 'x'],
  ['Identity', identity], ['ConnectionId', connectionId], ['Timestamp', timestamp], ['Uuid', uuid],
  ['Bytes', new Uint8Array([9])], ['Ints', [-1, 1]], ['Strings', ['', 'a']], ['SimpleEnums', [unit('Two')]],
];

// -- scenarios

/** Every column type goes in as an argument, comes back in an event and from a subscription, and goes out by value. */
async function every_type() {
  const { conn } = await connect(), { conn: other } = await connect();
  const plain = [
    ...Object.entries(COLUMNS).filter(([name]) => name !== 'unit_struct') // the client counts rows by their bytes: here none
      .map(([name, [column, value]]) => [`one_${name}`, { [column]: value }]),
    ...Object.entries(COLUMNS).map(([name, [column, value]]) =>
      [`vec_${name}`, { [column]: name === 'u_8' ? new Uint8Array([value, 0]) : [value, value] }]),
    ...Object.entries(COLUMNS).map(([name, [column]]) => [`vec_${name}`, { [column]: name === 'u_8' ? new Uint8Array() : [] }]),
    ...Object.entries(OPTIONS).flatMap(([name, [column, value]]) =>
      [[`option_${name}`, { [column]: value }], [`option_${name}`, { [column]: undefined }]]),
    ...Object.entries(RESULTS).map(([name, [ok]]) => [`result_${name}`, { r: { ok } }]),
    ...PAYLOADS.map(([tag, value]) => ['one_enum_with_payload', { e: { tag, value } }]),
    ['large_table', {
      ...Object.fromEntries(Object.entries(PRIMITIVE).filter(([k]) => k <= 'p')), q: unit('One'), r: { tag: 'Str', value: '' },
      s: {}, t: { b: 1 }, u: PRIMITIVE, v: VECTORS,
    }],
    ['table_holds_table', { a: { n: 3 }, b: { n: new Uint8Array([4]) } }],
  ];
  const tables = [...new Set(plain.map(([table]) => table))];
  for (const each of [conn, other]) await subscribe(each, tables.map(table => `SELECT * FROM ${table}`));
  const mine = record(conn, tables.map(camel)), theirs = record(other, tables.map(camel)), expected = [];
  for (const [table, row] of plain) {
    await conn.reducers[camel(`insert_${table}`)](row);
    expected.push([camel(table), 'insert', row]);
    assert.deepEqual(events(mine), [[camel(table), 'insert', row, 'Reducer']]);
    const late = [...conn.db[camel(table)].iter()];
    assert.deepEqual(late.at(-1), row);
    const remove = conn.reducers[camel(table === 'large_table' ? 'delete_large_table' : `delete_all_${table}`)];
    if (remove && table !== 'one_u_8') {
      await remove(row);
      expected.push([camel(table), 'delete', row]);
      assert.deepEqual(events(mine), [[camel(table), 'delete', row, 'Reducer']]);
    }
  }
  for (const [name, [, err]] of Object.entries(RESULTS)) { // the client writes errors as if they had the type of the success
    const body = JSON.stringify([{ err }]), headers = { 'content-type': 'application/json' };
    const call = `${url.replace('ws', 'http')}/v1/database/${db}/call/insert_result_${name}`;
    assert.equal((await fetch(call, { method: 'POST', headers, body })).status, 200);
    expected.push([camel(`result_${name}`), 'insert', { r: { err } }]);
  }
  await until(() => theirs.length, () => theirs.length === expected.length);
  assert.deepEqual(theirs, expected.map(event => [...event, 'Transaction']));
  const { conn: third } = await connect(); // what is left comes with a first subscription, too
  const first = record(third, ['oneU8', 'resultVecI32String', 'tableHoldsTable']);
  await subscribe(third, ['SELECT * FROM one_u_8', 'SELECT * FROM result_vec_i_32_string', 'SELECT * FROM table_holds_table']);
  assert.deepEqual(first.map(([table, kind, , tag]) => [table, kind, tag]), [
    ['oneU8', 'insert', 'SubscribeApplied'], ['resultVecI32String', 'insert', 'SubscribeApplied'],
    ['resultVecI32String', 'insert', 'SubscribeApplied'], ['tableHoldsTable', 'insert', 'SubscribeApplied'],
  ]);
  assert.deepEqual(first.at(-1)[2], { a: { n: 3 }, b: { n: new Uint8Array([4]) } });
}

/** A replaced row with a unique column is a delete and an insert, with a primary key an update. */
async function every_key() {
  const { conn } = await connect();
  const kinds = Object.keys(KEYS), tables = kinds.flatMap(name => [`unique_${name}`, `pk_${name}`]);
  await subscribe(conn, tables.map(table => `SELECT * FROM ${table}`));
  const seen = record(conn, tables.map(camel));
  for (const family of ['unique', 'pk']) {
    for (const [name, [column, key]] of Object.entries(KEYS)) {
      const table = camel(`${family}_${name}`), call = verb => conn.reducers[camel(`${verb}_${family}_${name}`)];
      const [before, after] = [{ [column]: key, data: 1 }, { [column]: key, data: -2 }];
      await call('insert')(before);
      await assert.rejects(call('insert')(after), error => error.constructor.name === 'InternalError');
      await call('update')(after);
      assert.deepEqual(conn.db[table][column].find(key), after);
      await call('delete')({ [column]: key });
      const changed = family === 'pk' ? [[table, 'update', before, after, 'Reducer']]
        : [[table, 'insert', after, 'Reducer'], [table, 'delete', before, 'Reducer']];
      assert.deepEqual(events(seen), [[table, 'insert', before, 'Reducer'], ...changed, [table, 'delete', after, 'Reducer']]);
    }
  }
}

/** The whole message is in the cache before the first callback; own handlers stand around the rows as documented. */
async function callback_order() {
  const { conn } = await connect();
  await conn.reducers.insertPkU32({ n: 1, data: 10 });
  const seen = [], note = what => seen.push(what);
  const both = () => [conn.db.pkU32.n.find(1)?.data, conn.db.uniqueU32.n.find(1)?.data];
  conn.db.pkU32.onInsert(() => note(['pk insert', ...both()]));
  conn.db.pkU32.onUpdate(() => note(['pk update', ...both()]));
  conn.db.pkU32.onDelete(() => note(['pk delete', ...both()]));
  conn.db.uniqueU32.onInsert(() => note(['unique insert', ...both()]));
  conn.db.uniqueU32.onDelete(() => note(['unique delete', ...both()]));
  const handle = await subscribe(conn, ['SELECT * FROM pk_u_32', 'SELECT * FROM unique_u_32'], () => note(['applied', ...both()]));
  assert.deepEqual(events(seen), [['applied', 10, undefined], ['pk insert', 10, undefined]]);
  await conn.reducers.insertUniqueU32UpdatePkU32({ n: 1, dUnique: 5, dPk: 11 }).then(() => note(['promise', ...both()]));
  const told = events(seen);
  assert.deepEqual(told.at(-1), ['promise', 11, 5]);
  assert.deepEqual(told.slice(0, -1).sort(), [['pk update', 11, 5], ['unique insert', 11, 5]]);
  await conn.reducers.insertPkU32({ n: 1, data: 0 }).then(() => assert.fail('must fail'), () => note(['rejected', ...both()]));
  assert.deepEqual(events(seen), [['rejected', 11, 5]]);
  await conn.reducers.noOpSucceeds({}).then(() => note(['nothing']));
  assert.deepEqual(events(seen), [['nothing']]);
  await unsubscribe(handle, () => note(['ended', ...both()]));
  const ended = events(seen);
  assert.deepEqual(ended[0], ['ended', undefined, undefined]);
  assert.deepEqual(ended.slice(1).sort(), [['pk delete', undefined, undefined], ['unique delete', undefined, undefined]]);
}

/** Events come once, in the order of insertion, and are stored nowhere. */
async function event_tables() {
  const { conn } = await connect(), { conn: other } = await connect(), { conn: filtered } = await connect();
  const mine = record(conn, ['testEvent']), theirs = record(other, ['testEvent']), some = record(filtered, ['testEvent']);
  await subscribe(conn, 'SELECT * FROM test_event');
  await subscribe(other, 'SELECT * FROM test_event');
  await subscribe(filtered, 'SELECT * FROM test_event WHERE value > 1');
  await conn.reducers.emitMultipleTestEvents({});
  const rows = [{ name: 'a', value: 1n }, { name: 'b', value: 2n }, { name: 'c', value: 3n }];
  assert.deepEqual(mine.map(event => event[2]), rows);
  assert.equal(conn.db.testEvent.count(), 0n);
  await conn.reducers.noop({});
  await conn.reducers.emitTestEvent({ name: 'd', value: 4n });
  rows.push({ name: 'd', value: 4n });
  assert.deepEqual(mine, rows.map(row => ['testEvent', 'insert', row, 'Reducer']));
  await until(() => theirs.length, () => theirs.length === 4 && some.length === 3);
  assert.deepEqual(theirs, rows.map(row => ['testEvent', 'insert', row, 'Transaction']));
  assert.deepEqual(some.map(event => event[2].name), ['b', 'c', 'd']);
  assert.equal(other.db.testEvent.count(), 0n);
}

/** Without a primary key a changed row of a view is a delete and an insert; everybody sees rows of their own. */
async function views_without_key() {
  const alice = await connect(), bob = await connect(), tables = ['myPlayer', 'myPlayerAndLevel', 'nearbyPlayers', 'playersAtLevel0'];
  const queries = ['my_player', 'my_player_and_level', 'nearby_players', 'players_at_level_0'].map(view => `SELECT * FROM ${view}`);
  const [mine, his] = [alice, bob].map(({ conn }) => record(conn, tables));
  await subscribe(alice.conn, queries);
  await subscribe(bob.conn, queries);
  await alice.conn.reducers.insertPlayer({ identity: alice.identity, level: 0n });
  const player = { entityId: 1n, identity: alice.identity };
  assert.deepEqual(events(mine).sort(), [
    ['myPlayer', 'insert', player, 'Reducer'], ['myPlayerAndLevel', 'insert', { ...player, level: 0n }, 'Reducer'],
    ['playersAtLevel0', 'insert', player, 'Reducer'],
  ]);
  await until(() => his, () => his.length === 1);
  assert.deepEqual(events(his), [['playersAtLevel0', 'insert', player, 'Transaction']]);
  await alice.conn.reducers.movePlayer({ dx: 1, dy: 1 });
  await bob.conn.reducers.movePlayer({ dx: 2, dy: 2 });
  await until(() => mine, () => mine.length === 1);
  const place = (x, y) => ({ entityId: 2n, active: true, x, y });
  assert.deepEqual(events(mine), [['nearbyPlayers', 'insert', place(2, 2), 'Transaction']]);
  await bob.conn.reducers.movePlayer({ dx: 1, dy: 0 });
  await until(() => mine, () => mine.length === 2);
  assert.deepEqual(events(mine), [
    ['nearbyPlayers', 'insert', place(3, 2), 'Transaction'], ['nearbyPlayers', 'delete', place(2, 2), 'Transaction'],
  ]);
  await bob.conn.reducers.movePlayer({ dx: 10, dy: 0 });
  await until(() => mine, () => mine.length === 1);
  assert.deepEqual(events(mine), [['nearbyPlayers', 'delete', place(3, 2), 'Transaction']]);
}

/** A view that names a primary key, and one that is a query on a table with one, tell of updates. */
async function views_with_key() {
  const alice = await connect(), bob = await connect();
  const mine = record(alice.conn, ['senderLeftView']), his = record(bob.conn, ['senderLeftView']);
  await subscribe(alice.conn, 'SELECT * FROM sender_left_view');
  await subscribe(bob.conn, 'SELECT * FROM sender_left_view');
  await alice.conn.reducers.insertLeft({ id: 1n, filter: 5n });
  await alice.conn.reducers.updateLeft({ id: 1n, filter: 6n });
  await bob.conn.reducers.updateLeft({ id: 1n, filter: 7n }); // and now it is bob's
  const row = (of, filter) => ({ id: 1n, sender: of.identity, filter });
  await until(() => mine, () => mine.length === 3);
  assert.deepEqual(mine, [
    ['senderLeftView', 'insert', row(alice, 5n), 'Reducer'], ['senderLeftView', 'update', row(alice, 5n), row(alice, 6n), 'Reducer'],
    ['senderLeftView', 'delete', row(alice, 6n), 'Transaction'],
  ]);
  assert.deepEqual(his, [['senderLeftView', 'insert', row(bob, 7n), 'Reducer']]);
}

async function query_views() {
  const { conn } = await connect();
  const seen = record(conn, ['allViewPkPlayers', 'senderViewPkPlayersA']);
  await subscribe(conn, ['SELECT * FROM all_view_pk_players', 'SELECT * FROM sender_view_pk_players_a']);
  await conn.reducers.insertViewPkPlayer({ id: 1n, name: 'before' });
  await conn.reducers.insertViewPkMembership({ id: 9n, playerId: 1n });
  await conn.reducers.updateViewPkPlayer({ id: 1n, name: 'after' });
  const [before, after] = [{ id: 1n, name: 'before' }, { id: 1n, name: 'after' }];
  assert.deepEqual(seen, [
    ['allViewPkPlayers', 'insert', before, 'Reducer'], ['senderViewPkPlayersA', 'insert', before, 'Reducer'],
    ['allViewPkPlayers', 'update', before, after, 'Reducer'], ['senderViewPkPlayersA', 'update', before, after, 'Reducer'],
  ]);
}

/** Results of every kind; rows of a procedure's transactions are there before its result. */
async function procedures() {
  const { conn } = await connect();
  const seen = record(conn, ['myTable', 'procInsertsInto']);
  await subscribe(conn, ['SELECT * FROM my_table', 'SELECT * FROM proc_inserts_into']);
  assert.equal(await conn.procedures.returnPrimitive({ lhs: 1, rhs: 2 }), 3);
  assert.deepEqual(await conn.procedures.returnStruct({ a: 42, b: 'x' }), { a: 42, b: 'x' });
  assert.deepEqual(await conn.procedures.returnEnumA({ a: 42 }), { tag: 'A', value: 42 });
  assert.deepEqual(await conn.procedures.returnEnumB({ b: 'x' }), { tag: 'B', value: 'x' });
  await assert.rejects(conn.procedures.willPanic({}), error => /fatal error/.test(String(error)) && !/expected to/.test(String(error)));
  assert.match(await conn.procedures.invalidRequest({}), /error.*http:\/\/foo\.invalid\//s);
  await conn.procedures.insertWithTxRollback({});
  assert.deepEqual(events(seen), []);
  await conn.procedures.insertWithTxCommit({});
  assert.deepEqual(events(seen), [['myTable', 'insert', { field: { a: 42, b: 'magic' } }, 'Transaction']]);
  await conn.reducers.scheduleProc({});
  await until(() => seen, () => seen.length === 1);
  const [table, kind, row, tag] = seen[0];
  assert.deepEqual([table, kind, row.x, row.y, tag], ['procInsertsInto', 'insert', 42, 24, 'Transaction']);
  const late = row.procedureTs.microsSinceUnixEpoch - row.reducerTs.microsSinceUnixEpoch;
  assert.ok(late >= 1_000_000n && late < 10_000_000n, `${late} us after it was scheduled for one second later`);
}

const scenarios = {
  every_type, every_key, callback_order, event_tables, views_without_key, views_with_key, query_views, procedures,
};
process.on('unhandledRejection', error => { console.error(error); process.exit(1); });
try {
  await scenarios[scenario]();
  process.exit(0);
} catch (error) {
  console.error(error);
  process.exit(1);
}
