// The first subscription to a large table: rows per second of server CPU, and how long other clients' calls take meanwhile.
//   node large_table.mjs --url ws://127.0.0.1:3000 --db rows --rows 1000000 --server-pid PID
import { performance } from 'node:perf_hooks';
import { cpuSeconds, options, percentiles } from './common.mjs';
import { RawClient } from './raw.mjs';

const BATCH = 100_000, ROW_BYTES = 24;
const o = options({ url: 'ws://127.0.0.1:3000', db: 'rows', rows: 1_000_000, subscriptions: 5, server_pid: 0, no_populate: false });
const caller = await RawClient.open(o);
const begun = performance.now();
if (!o.no_populate) for (let at = 0; at < o.rows; at += BATCH) await caller.call('populate', at, Math.min(BATCH, o.rows - at), 1000);
const populate_s = (performance.now() - begun) / 1000;
await new Promise(resolve => setTimeout(resolve, 500));

// Sequential calls that change rows of the table, from a client that subscribes to nothing.
const latencies = [];
let running = true, counting = false, number = 0;
const calls = (async () => {
  while (running) {
    const { ms } = await caller.call('touch', number++ * 7919 % o.rows);
    if (counting) latencies.push(ms);
    await new Promise(resolve => setTimeout(resolve, 1));
  }
})();
await new Promise(resolve => setTimeout(resolve, 500));

const times = [];
let rows = 0, cpu = 0, bytes = 0;
for (let i = 0; i < o.subscriptions; i++) {
  const client = await RawClient.open(o);
  // What the calls cost in the same time is taken off: measured while nobody subscribes.
  const idleBegun = performance.now(), idleBefore = cpuSeconds(o.server_pid), callsBefore = number;
  await new Promise(resolve => setTimeout(resolve, 1000));
  const idleCpuPerCall = o.server_pid ? (cpuSeconds(o.server_pid) - idleBefore) / Math.max(1, number - callsBefore) : 0;
  const before = cpuSeconds(o.server_pid), numberBefore = number;
  counting = true;
  const { ms, data } = await client.subscribe(1, 'SELECT * FROM things');
  counting = false;
  times.push(ms);
  await new Promise(resolve => setTimeout(resolve, 50));
  if (o.server_pid) cpu += cpuSeconds(o.server_pid) - before - idleCpuPerCall * (number - numberBefore);
  rows += (data.length - 31) / ROW_BYTES;
  bytes += data.length;
  client.close();
  await new Promise(resolve => setTimeout(resolve, 100));
}
running = false;
await calls;
const expected = o.rows * o.subscriptions;
console.log(JSON.stringify({
  benchmark: 'large-table', ...o, populate_s: Number(populate_s.toFixed(3)), missing_rows: expected - Math.round(rows),
  subscribe: percentiles(times), rows_per_cpu_s: o.server_pid ? Math.round(rows / Math.max(cpu, 0.01)) : null,
  server_cpu_s: Number(cpu.toFixed(3)), calls_meanwhile: latencies.length, call: percentiles(latencies),
}, null, 2));
process.exit(0);
