// What subscriptions cost the server when rows change: many point queries, many clients with one query, semijoins by chunk.
//   node subscriptions.mjs --mode points|shared|chunks --url ws://127.0.0.1:3000 --db rows --server-pid PID
import { performance } from 'node:perf_hooks';
import { cpuSeconds, options, percentiles } from './common.mjs';
import { RawClient } from './raw.mjs';

const BATCH = 100_000;
const o = options({
  mode: 'points', url: 'ws://127.0.0.1:3000', db: 'rows', seconds: 5, server_pid: 0, inflight: 16,
  few: 100, many: 10_000, per_set: 100, clients: 1000, rate: 20, rows: 1_200_000, per_chunk: 1200, turns: 20,
});
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));
const caller = await RawClient.open(o);

async function fill(reducer, rows, last) {
  for (let at = 0; at < rows; at += BATCH) await caller.call(reducer, at, Math.min(BATCH, rows - at), last);
}

// Calls `touch` on random things for a while; CPU microseconds of the server per call.
async function touches(rows, seconds) {
  let calls = 0, running = true;
  const lane = async () => { while (running) { await caller.call('touch', Math.floor(Math.random() * rows)); calls++; } };
  const lanes = Array.from({ length: o.inflight }, lane);
  await sleep(500);
  const before = cpuSeconds(o.server_pid), first = calls;
  await sleep(seconds * 1000);
  const cpu = cpuSeconds(o.server_pid) - before, counted = calls - first;
  running = false;
  await Promise.all(lanes);
  return { cpu_us: (cpu / counted) * 1e6, calls: counted };
}

// N subscriptions `WHERE owner = i`, each to one of N things: every change concerns one of them, whatever N is.
async function points() {
  const out = {};
  for (const [name, count] of [['few', o.few], ['many', o.many]]) {
    await fill('populate', count, count);
    const client = await RawClient.open(o);
    const begun = performance.now();
    for (let at = 0, set = 1; at < count; at += o.per_set, set++)
      await client.subscribe(set, ...Array.from({ length: Math.min(o.per_set, count - at) }, (_, i) => `SELECT * FROM things WHERE owner = ${at + i}`));
    const subscribe_ms = performance.now() - begun;
    const before = client.updates;
    const { cpu_us, calls } = await touches(count, o.seconds);
    await sleep(200);
    out[name] = { subscriptions: count, cpu_us: Number(cpu_us.toFixed(1)), calls, updates: client.updates - before, subscribe_ms: Math.round(subscribe_ms) };
    client.close();
    await sleep(300);
  }
  return { ...out, many_over_few: Number((out.many.cpu_us / out.few.cpu_us).toFixed(3)) };
}

// N clients with the same query; CPU per client and message.
async function shared() {
  await fill('populate', 1000, 10);
  const clients = [];
  for (let i = 0; i < o.clients; i += 50)
    clients.push(...await Promise.all(Array.from({ length: Math.min(50, o.clients - i) }, () => RawClient.open(o))));
  for (const client of clients) await client.subscribe(1, 'SELECT * FROM things WHERE value >= 0');
  await sleep(500);
  const counted = () => clients.reduce((sum, client) => sum + client.updates, 0);
  const begun = counted(), before = cpuSeconds(o.server_pid);
  let calls = 0;
  const timer = setInterval(() => { calls++; caller.call('touch', Math.floor(Math.random() * 1000)); }, 1000 / o.rate);
  await sleep(o.seconds * 1000);
  clearInterval(timer);
  await sleep(1000);
  const cpu = cpuSeconds(o.server_pid) - before, messages = counted() - begun;
  return { clients: o.clients, calls, messages, missing: calls * o.clients - messages, cpu_us_per_message: Number(((cpu / messages) * 1e6).toFixed(2)) };
}

// Semijoins of one chunk each out of a large table: the first of a reader that knows nothing of either table, others, and
// things that move into a chunk that is subscribed to.
async function chunks() {
  await fill('populate', o.rows, 1000);
  await fill('place', o.rows, o.per_chunk);
  const client = await RawClient.open(o);
  const query = chunk => `SELECT things.* FROM things JOIN places ON things.id = places.id WHERE places.chunk = ${chunk}`;
  // Another client's calls meanwhile.
  const other = await RawClient.open(o), waits = [];
  let running = true;
  const calls = (async () => {
    while (running) {
      waits.push((await other.call('nothing')).ms);
      await sleep(1);
    }
  })();
  const cold = await client.subscribe(1, query(0));
  const times = [];
  for (let turn = 1; turn <= o.turns; turn++) {
    times.push((await client.subscribe(turn + 1, query(turn * 7))).ms);
    await client.unsubscribe(turn + 1);
    await sleep(20);
  }
  const moves = [];
  const begun = client.updates;
  for (let turn = 0; turn < o.turns; turn++) {
    const thing = o.per_chunk * (turn + 1) + turn;
    moves.push((await caller.call('move', thing, 0)).ms);
    await caller.call('touch', thing);
  }
  await sleep(300);
  running = false;
  await calls;
  return { rows: o.rows, rows_per_chunk: (cold.data.length - 31) / 24, cold_first_result_ms: Number(cold.ms.toFixed(3)), call: percentiles(waits), first_result: percentiles(times), move: percentiles(moves), updates: client.updates - begun, wanted_updates: 2 * o.turns };
}

const result = await { points, shared, chunks }[o.mode]();
console.log(JSON.stringify({ benchmark: o.mode, ...result }, null, 2));
process.exit(0);
