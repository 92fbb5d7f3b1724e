// The server at work: charts of the last minutes, and its databases.

import { Chart } from '../chart.js';
import { bytes, empty, failure, fill, grouped, h, seconds, short } from '../dom.js';
import { poller, quantile, rate } from '../metrics.js';

const ELAPSED = 'spacetime_txn_elapsed_time_sec', AGE = 'spacetime_update_age_seconds', SYNC = 'spacetime_commitlog_sync_seconds';

function charts() {
  const perSecond = value => `${short(value)}/s`;
  const times = name => (before, now) => [quantile(before, now, name, 0.5), quantile(before, now, name, 0.99)];
  const percentiles = [{ name: 'p50', colour: 1 }, { name: 'p99', colour: 3 }];
  const rates = (...names) => (before, now) => names.map(name => rate(before, now, name));
  const region = (sample, name) => {
    const found = sample.series('spacetime_memory_region_bytes').filter(({ labels }) => labels.region === name);
    return found.length ? found.reduce((sum, { value }) => sum + value, 0) : null;
  };
  const chart = (title, unit, series, read, options = {}) => ({ chart: new Chart({ title, unit, series, ...options }), read });
  return [
    chart('Throughput', perSecond, [{ name: 'calls', colour: 1 }, { name: 'commits', colour: 2 }],
      rates('spacetime_reducer_calls_total', 'spacetime_committed_transactions_total')),
    chart('Call time', seconds, percentiles, times(ELAPSED), { least: 1e-4 }),
    chart('Update age', seconds, percentiles, times(AGE), { least: 1e-3 }),
    chart('Connections', short, [{ name: 'clients', colour: 1 }, { name: 'sets', colour: 2 }],
      (_before, now) => [now.sum('spacetime_worker_connected_clients'), now.sum('spacetime_subscription_sets')]),
    chart('Sent to clients', value => `${bytes(value)}/s`, [{ name: 'bytes', colour: 2 }],
      rates('spacetime_websocket_sent_msg_size_bytes_sum'), { base: 1024, least: 1024 }),
    chart('Memory', bytes, [{ name: 'total', colour: 4 }, { name: 'rows', colour: 2 }],
      (_before, now) => [now.sum('process_resident_memory_bytes'), region(now, 'heap')], { base: 1024, least: 1 << 20 }),
    chart('Processor', value => `${short(100 * value)} %`, [{ name: 'all processes', colour: 4 }],
      rates('process_cpu_seconds_total'), { least: 0.1 }),
    chart('Log sync', seconds, percentiles, times(SYNC), { least: 1e-4 }),
    chart('Errors', perSecond, [{ name: 'failed', colour: 5 }, { name: 'dropped', colour: 3 }],
      rates('spacetime_reducer_errors_total', 'spacetime_worker_ws_clients_aborted')),
  ];
}

/** Rows of a database's own tables. */
function rowsOf(sample, identity) {
  const own = sample.series('spacetime_num_table_rows', identity).filter(({ labels }) => !labels.table_name.startsWith('st_'));
  return own.reduce((sum, { value }) => sum + value, 0);
}

export function show(body, context) {
  const { databases } = context.server;
  const all = charts(), problem = h('div'), figures = h('div.figures');
  const cells = databases.map(() => Array.from({ length: 4 }, () => h('td.right')));
  const list = h('tbody', {}, databases.map((database, at) => h('tr', {},
    h('td', {}, h('a', { href: context.addressOf(database, 'tables') }, context.nameOf(database))), cells[at],
    h('td.mono', { title: database.identity }, `${database.identity.slice(0, 16)}…`))));
  const cards = h('div.charts', {}, all.map(({ chart }) => chart.element));
  const table = h('div.scroll', {}, h('table.plain', {},
    h('thead', {}, h('tr', {}, h('th', {}, 'Database'), h('th.right', {}, 'Clients'), h('th.right', {}, 'Calls/s'),
      h('th.right', {}, 'Transactions'), h('th.right', {}, 'Rows'), h('th', {}, 'Identity'))), list));
  const first = h('div.card', {}, empty('No database yet', 'Publish a module: ', h('code', {}, 'spacetime publish NAME')));
  fill(body, h('div.stack', {}, problem, figures,
    databases.length ? [cards, h('h2', {}, 'Databases'), table] : [first, cards]));

  const draw = () => {
    fill(problem, poller.error && failure(poller.error));
    const { samples } = poller, now = poller.newest;
    const before = samples.at(-2) ?? null;
    const figure = (label, value) => h('div', {}, h('div.label', {}, label), h('div.number', {}, value));
    const known = (value, unit) => (value === null || value === undefined ? '–' : unit(value));
    fill(figures,
      figure('Databases', grouped(databases.length)),
      figure('Clients', known(now?.sum('spacetime_worker_connected_clients'), grouped)),
      figure('Calls per second', known(now && rate(before, now, 'spacetime_reducer_calls_total'), short)),
      figure('Transactions', known(now?.sum('spacetime_committed_transactions_total'), short)),
      figure('Failed calls', known(now?.sum('spacetime_reducer_errors_total'), grouped)),
      figure('Commit log', known(now?.sum('spacetime_message_log_size_bytes'), bytes)));
    for (const { chart, read } of all) {
      chart.draw(samples.map((sample, at) => ({ at: sample.at / 1000, values: read(samples[at - 1] ?? null, sample) })));
    }
    databases.forEach(({ identity }, at) => [
      known(now?.sum('spacetime_worker_connected_clients', identity), grouped),
      known(now && rate(before, now, 'spacetime_reducer_calls_total', identity), short),
      known(now?.sum('spacetime_committed_transactions_total', identity), grouped),
      known(now && rowsOf(now, identity), grouped),
    ].forEach((text, column) => { cells[at][column].textContent = text; }));
  };
  draw();
  return poller.listen(draw);
}
