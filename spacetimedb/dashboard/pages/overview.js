// The server at work: charts of the last minutes, and its databases.

import { Chart } from '../chart.js';
import { bytes, empty, failure, fill, grouped, h, seconds, short } from '../dom.js';
import { mean, poller, quantile, rate } from '../metrics.js';

const DURATION = 'spacetime_reducer_duration_seconds';

function charts() {
  const perSecond = value => `${short(value)}/s`;
  return [
    {
      chart: new Chart({ title: 'Throughput', unit: perSecond, series: [{ name: 'calls', colour: 1 }, { name: 'transactions', colour: 2 }] }),
      read: (before, now) => [rate(before, now, 'spacetime_reducer_calls_total'), rate(before, now, 'spacetime_num_txns_total')],
    },
    {
      chart: new Chart({ title: 'Time in reducers', unit: seconds, least: 1e-4, series: [{ name: 'mean', colour: 1 }, { name: 'p99', colour: 3 }] }),
      read: (before, now) => [mean(before, now, DURATION), quantile(before, now, DURATION, 0.99)],
    },
    {
      chart: new Chart({ title: 'Connections', unit: short, series: [{ name: 'clients', colour: 1 }, { name: 'query sets', colour: 2 }] }),
      read: (_before, now) => [now.sum('spacetime_worker_connected_clients'), now.sum('spacetime_subscription_sets')],
    },
    {
      chart: new Chart({ title: 'Sent to clients', unit: value => `${bytes(value)}/s`, base: 1024, least: 1024, series: [{ name: 'bytes', colour: 2 }] }),
      read: (before, now) => [rate(before, now, 'spacetime_websocket_sent_bytes_total')],
    },
    {
      chart: new Chart({ title: 'Memory', unit: bytes, base: 1024, series: [{ name: 'processes', colour: 4 }, { name: 'row heap', colour: 2 }] }),
      read: (_before, now) => [now.sum('process_resident_memory_bytes'), now.sum('spacetime_heap_bytes')],
    },
    {
      chart: new Chart({ title: 'Errors', unit: perSecond, series: [{ name: 'failed calls', colour: 5 }, { name: 'clients dropped', colour: 3 }] }),
      read: (before, now) => [rate(before, now, 'spacetime_reducer_errors_total'), rate(before, now, 'spacetime_worker_ws_clients_aborted_total')],
    },
  ];
}

export function show(body, context) {
  const { databases } = context.server;
  const all = charts(), problem = h('div'), figures = h('div.figures'), list = h('tbody');
  const cards = h('div.charts', {}, all.map(({ chart }) => chart.element));
  const table = databases.length
    ? h('div.scroll', {}, h('table.plain', {},
      h('thead', {}, h('tr', {}, h('th', {}, 'Database'), h('th.right', {}, 'Clients'), h('th.right', {}, 'Calls/s'),
        h('th.right', {}, 'Transactions'), h('th.right', {}, 'Row heap'), h('th', {}, 'Identity'))), list))
    : h('div.card', {}, empty('No database yet', 'Publish a module: ', h('code', {}, 'spacetime publish NAME')));
  fill(body, h('div.stack', {}, problem, figures, cards, h('h2', {}, 'Databases'), table));

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
      figure('Transactions', known(now?.sum('spacetime_num_txns_total'), short)),
      figure('Failed calls', known(now?.sum('spacetime_reducer_errors_total'), grouped)),
      figure('Commit log', known(now?.sum('spacetime_message_log_size_bytes'), bytes)));
    for (const { chart, read } of all) {
      chart.draw(samples.map((sample, at) => ({ at: sample.at / 1000, values: read(samples[at - 1] ?? null, sample) })));
    }
    fill(list, databases.map(database => {
      const one = name => now?.sum(name, database.identity);
      return h('tr', {},
        h('td', {}, h('a', { href: context.addressOf(database, 'tables') }, context.nameOf(database))),
        h('td.right', {}, known(one('spacetime_worker_connected_clients'), grouped)),
        h('td.right', {}, known(now && rate(before, now, 'spacetime_reducer_calls_total', database.identity), short)),
        h('td.right', {}, known(one('spacetime_num_txns_total'), grouped)),
        h('td.right', {}, known(one('spacetime_heap_bytes'), bytes)),
        h('td.mono', { title: database.identity }, `${database.identity.slice(0, 16)}…`));
    }));
  };
  draw();
  return poller.listen(draw);
}
