// The server's metrics: Prometheus text read once a second while somebody looks, the last minutes kept.

import { metricsText } from './api.js';

export const EVERY_MS = 1000;
const KEPT = 300;
const KEPT_SERIES = 400_000; // of all samples: servers with many databases have a shorter past
const SHOWN = [
  ...['committed_transactions_total', 'reducer_calls_total', 'reducer_errors_total', 'txn_elapsed_time_sec', 'update_age_seconds',
    'commitlog_sync_seconds', 'message_log_size_bytes', 'memory_region_bytes', 'num_table_rows', 'subscription_sets',
    'worker_connected_clients', 'worker_ws_clients_aborted', 'websocket_sent_msg_size_bytes', 'websocket_sent_messages_total',
    'query_evaluations_total', 'query_rows_total', 'query_seconds_total', 'query_subscribers'].map(name => `spacetime_${name}`),
  'process_cpu_seconds_total', 'process_resident_memory_bytes',
];
const LINE = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"/g;

/** {name: [{labels, value}]} of Prometheus text; the database is `database_identity` in all. */
export function parseMetrics(text) {
  const families = new Map();
  for (const line of text.split('\n')) {
    const found = line[0] === '#' ? null : LINE.exec(line);
    if (!found) continue;
    const labels = {};
    for (const [, key, value] of (found[2] ?? '').matchAll(LABEL)) {
      labels[key] = value.replace(/\\(.)/g, (_all, char) => (char === 'n' ? '\n' : char));
    }
    labels.database_identity ??= labels.db;
    if (!families.has(found[1])) families.set(found[1], []);
    families.get(found[1]).push({ labels, value: Number(found[3]) });
  }
  return families;
}

/** One reading of all metrics. */
export class Sample {
  constructor(text, at) {
    this.at = at;
    this.families = parseMetrics(text);
    this.size = [...this.families.values()].reduce((sum, series) => sum + series.length, 0);
  }
  /** Series of a metric, of one database if given. */
  series(name, database = null) {
    const found = this.families.get(name) ?? [];
    return database ? found.filter(series => series.labels.database_identity === database) : found;
  }
  /** Sum over the series; null if there are none. */
  sum(name, database = null) {
    const found = this.series(name, database);
    return found.length ? found.reduce((sum, series) => sum + series.value, 0) : null;
  }
}

/** Increase per second of a counter between two samples; null if unknown. Processes come and go: what is in both counts. */
export function rate(before, now, name, database = null) {
  if (!before) return null;
  const key = ({ labels }) => Object.values(labels).join('\n');
  const values = new Map(before.series(name, database).map(series => [key(series), series.value]));
  const both = now.series(name, database).filter(series => values.has(key(series)));
  if (!both.length) return null;
  return both.reduce((sum, series) => sum + Math.max(0, series.value - values.get(key(series))), 0) / ((now.at - before.at) / 1000);
}

/** Seconds at a quantile of a histogram's increase between two samples; null if nothing happened or there is none. */
export function quantile(before, now, name, share, database = null) {
  if (!before) return null;
  const totals = new Map();
  for (const [sample, sign] of [[now, 1], [before, -1]]) {
    for (const { labels, value } of sample.series(`${name}_bucket`, database) ?? []) {
      const edge = Number(labels.le.replace('+Inf', 'Infinity'));
      totals.set(edge, (totals.get(edge) ?? 0) + sign * value);
    }
  }
  const edges = [...totals.keys()].sort((a, b) => a - b), all = totals.get(Infinity) ?? 0;
  if (!(all > 0)) return null;
  let last = 0, below = 0;
  for (const edge of edges) {
    const count = totals.get(edge);
    if (count >= share * all) {
      if (edge === Infinity) return last;
      return last + ((edge - last) * (share * all - below)) / Math.max(count - below, 1e-9);
    }
    last = edge;
    below = count;
  }
  return last;
}

/** Reads on while there are listeners and the page is seen. */
class Poller {
  constructor() {
    this.samples = [];
    this.listeners = new Set();
    this.error = null;
    document.addEventListener('visibilitychange', () => this.tick());
  }
  get newest() { return this.samples.at(-1) ?? null; }

  /** Calls back after every reading; returns how to stop. */
  listen(listener) {
    this.listeners.add(listener);
    if (this.newest) listener();
    this.tick();
    return () => this.listeners.delete(listener);
  }

  async tick() {
    if (this.running || document.hidden || !this.listeners.size) return;
    this.running = true;
    try {
      const text = await metricsText(SHOWN);
      this.samples.push(new Sample(text, performance.now()));
      const most = Math.max(2, Math.min(KEPT, KEPT_SERIES / (this.newest.size + 1)));
      while (this.samples.length > most) this.samples.shift();
      this.error = null;
    } catch (error) {
      this.error = error;
    }
    this.running = false;
    for (const listener of this.listeners) listener();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.tick(), EVERY_MS);
  }
}

export const poller = new Poller();
