// Live queries with what they cost, from the metrics (the most expensive ones).

import { Chart } from '../chart.js';
import { bytes, empty, failure, fill, grouped, h, seconds, short } from '../dom.js';
import { poller, rate } from '../metrics.js';

const PREFIX = 'spacetime_query_';

export function show(body, context) {
  const id = context.database.identity;
  const sent = new Chart({ title: 'Messages to clients', unit: value => `${short(value)}/s`, series: [{ name: 'messages', colour: 1 }] });
  const size = new Chart({ title: 'Bytes to clients', unit: value => `${bytes(value)}/s`, base: 1024, least: 1024, series: [{ name: 'bytes', colour: 2 }] });
  const sets = new Chart({ title: 'Live query sets', unit: short, series: [{ name: 'query sets', colour: 4 }] });
  const problem = h('div'), place = h('div.stack');
  fill(body, h('div.stack', {}, problem, h('div.charts', {}, sent.element, size.element, sets.element),
    h('h2', {}, 'Queries that cost most'), place));

  const draw = () => {
    fill(problem, poller.error && failure(poller.error));
    const { samples, newest: now } = poller;
    if (!now) return;
    const series = read => samples.map((sample, at) => ({ at: sample.at / 1000, values: [read(samples[at - 1] ?? null, sample)] }));
    sent.draw(series((before, sample) => rate(before, sample, 'spacetime_websocket_sent_messages_total', id)));
    size.draw(series((before, sample) => rate(before, sample, 'spacetime_websocket_sent_msg_size_bytes_sum', id)));
    sets.draw(series((_before, sample) => sample.sum('spacetime_subscription_sets', id)));
    const queries = new Map();
    for (const figure of ['evaluations_total', 'rows_total', 'seconds_total', 'subscribers']) {
      for (const { labels, value } of now.series(PREFIX + figure, id)) {
        const query = queries.get(labels.query) ?? { text: labels.query };
        query[figure] = (query[figure] ?? 0) + value;
        queries.set(labels.query, query);
      }
    }
    if (!queries.size) {
      fill(place, h('div.card', {}, empty('Nobody is subscribed', 'Queries appear here as soon as a client subscribes.')));
      return;
    }
    const number = value => grouped(value ?? 0);
    const rows = [...queries.values()].sort((a, b) => (b.seconds_total ?? 0) - (a.seconds_total ?? 0) || (b.rows_total ?? 0) - (a.rows_total ?? 0));
    fill(place, h('div.scroll', {}, h('table.wrap', {},
      h('thead', {}, h('tr', {}, h('th', {}, 'Query'), h('th.right', {}, 'Clients'), h('th.right', {}, 'Transactions'),
        h('th.right', {}, 'Rows out'), h('th.right', {}, 'Time'), h('th.right', {}, 'Time each'))),
      h('tbody', {}, rows.map(query => h('tr', {}, h('td', {}, query.text), h('td.right', {}, number(query.subscribers)),
        h('td.right', {}, number(query.evaluations_total)), h('td.right', {}, number(query.rows_total)),
        h('td.right', {}, seconds(query.seconds_total ?? 0)),
        h('td.right', {}, query.evaluations_total ? seconds(query.seconds_total / query.evaluations_total) : '–')))))),
    h('p.hint', {}, 'Time goes into conditions that look at every changed row, and into joins. '
      + 'Queries for a whole table, or one value of a column, take none of their own.'));
  };
  return poller.listen(draw);
}
