// A load test while it runs: the points that `spacetime loadtest` reports.

import { loadPoints } from '../api.js';
import { Chart } from '../chart.js';
import { empty, failure, fill, grouped, h, seconds, short } from '../dom.js';

const EVERY_MS = 1000;
const milliseconds = value => seconds(value / 1000);

function charts() {
  const percentiles = [{ name: 'p50', colour: 1 }, { name: 'p90', colour: 2 }, { name: 'p99', colour: 3 }];
  const options = { fromStart: true };
  const share = (key, names) => point => names.map(({ name }) => point[key][name] ?? null);
  return [
    { chart: new Chart({ ...options, title: 'Clients', unit: short, series: [{ name: 'connected', colour: 1 }, { name: 'wanted', colour: 6 }] }),
      read: point => [point.clients, point.target_clients] },
    { chart: new Chart({ ...options, title: 'Calls', unit: value => `${short(value)}/s`, series: [{ name: 'calls', colour: 1 }] }),
      read: point => [point.calls_per_s] },
    { chart: new Chart({ ...options, title: 'Call latency', unit: milliseconds, series: percentiles }), read: share('latency_ms', percentiles) },
    { chart: new Chart({ ...options, title: 'Update age', unit: milliseconds, series: percentiles }), read: share('update_age_ms', percentiles) },
    { chart: new Chart({ ...options, title: 'Rows received', unit: value => `${short(value)}/s`, series: [{ name: 'rows', colour: 2 }] }),
      read: point => [point.rows_per_s] },
    { chart: new Chart({ ...options, title: 'Failed calls so far', unit: short, series: [{ name: 'failed', colour: 5 }] }),
      read: point => [point.failed] },
  ];
}

export function show(body, context) {
  const all = charts(), head = h('div'), cards = h('div.charts', {}, all.map(({ chart }) => chart.element)), rest = h('div.stack');
  const stack = h('div.stack', {}, head, cards, rest), mark = h('span.live-state');
  fill(context.tools, mark);
  let timer = null, left = false;

  const draw = points => {
    const last = points.at(-1);
    if (!last) {
      mark.hidden = true;
      fill(body, h('div.card', {}, empty('No load test is running', 'Start one with ', h('code', {}, 'spacetime loadtest SCENARIO.py'), '; its figures appear here.')));
      return;
    }
    mark.hidden = false;
    mark.textContent = last.state;
    mark.className = `live-state ${last.state === 'running' ? 'live' : ''}`;
    if (!stack.isConnected) fill(body, stack);
    const figure = (label, value) => h('div', {}, h('div.label', {}, label), h('div.number', {}, value));
    fill(head, h('div.stack', {},
      h('p.hint', {}, `${last.scenario} on ${last.database}, ${last.workers} worker process${last.workers === 1 ? '' : 'es'}`),
      h('div.figures', {}, figure('Elapsed', `${Math.round(last.elapsed_s)} s`), figure('Clients', grouped(last.clients)),
        figure('Calls', grouped(last.calls)), figure('Failed', grouped(last.failed)),
        figure('Calls per second', short(last.calls_per_s)),
        figure('Latency p99', last.latency_ms.p99 === undefined ? '–' : milliseconds(last.latency_ms.p99)),
        figure('Update age p99', last.update_age_ms.p99 === undefined ? '–' : milliseconds(last.update_age_ms.p99)))));
    for (const { chart, read } of all) chart.draw(points.map(point => ({ at: point.elapsed_s, values: read(point) })));
    const required = Object.entries(last.required), errors = Object.entries(last.errors);
    fill(rest,
      required.length > 0 && h('section', {}, h('h2', {}, 'Required'), h('div.row', {}, required.map(([text, holds]) =>
        h('span.badge', { class: holds ? 'public' : 'bad' }, `${text}: ${holds ? 'holds' : 'broken'}`)))),
      errors.length > 0 && h('div.scroll', {}, h('table.wrap', {}, h('thead', {}, h('tr', {}, h('th', {}, 'Error'), h('th.right', {}, 'Times'))),
        h('tbody', {}, errors.map(([text, count]) => h('tr', {}, h('td', {}, text), h('td.right', {}, grouped(count))))))));
  };
  const look = async () => {
    if (!document.hidden) {
      try {
        const points = await loadPoints();
        if (left) return;
        draw(points);
      } catch (error) {
        if (!left) fill(body, failure(error));
      }
    }
    if (!left) timer = setTimeout(look, EVERY_MS);
  };
  look();
  return () => { left = true; clearTimeout(timer); };
}
