// What is to run by itself: the rows of the schedule tables, and what they call.

import { sql } from '../api.js';
import { empty, failure, fill, grouped, h } from '../dom.js';
import { duration, name, timestamp } from '../values.js';

const MOST = 50;
const EVERY_MS = 2000;

export function show(body, context) {
  const { schedules, tables } = context.schema;
  if (!schedules.length) {
    fill(body, h('div.card', {}, empty('Nothing is scheduled', 'A table of the kind ', h('code', {}, 'Schedule'), ' makes a reducer run later, or again and again.')));
    return null;
  }
  const places = schedules.map(schedule => ({ schedule, place: h('div') }));
  fill(body, h('div.stack', {}, places.map(({ schedule, place }) => h('section', {},
    h('div.row', {}, h('h2', {}, schedule.table), h('span.hint', {}, 'calls'),
      h('a.mono', { href: context.addressOf(context.database, 'reducers', schedule.calls) }, schedule.calls)), place))));

  let timer = null, left = false;
  const look = async () => {
    for (const { schedule, place } of places) {
      const table = tables.find(item => item.name === schedule.table);
      try {
        const from = ` FROM ${name(schedule.table)}`;
        const [{ rows: [[count]] }, { rows }] = await Promise.all([
          sql(context.database.identity, `SELECT COUNT(*) AS n${from}`),
          sql(context.database.identity, `SELECT *${from} LIMIT ${MOST}`),
        ]);
        if (left) return;
        fill(place, rows.length ? drawRows(table, schedule, rows, count) : h('p.hint', {}, 'No row: nothing is waiting to run.'));
      } catch (error) {
        fill(place, failure(error));
      }
    }
    if (!left) timer = setTimeout(look, EVERY_MS);
  };
  look();
  return () => { left = true; clearTimeout(timer); };
}

function drawRows(table, schedule, rows, count) {
  const id = table.key ?? 0, now = BigInt(Date.now()) * 1000n;
  const when = ([tag, [micros]]) => {
    if (tag === 0) return [h('span.badge.accent', {}, 'every'), ` ${duration(micros)}`];
    const wait = BigInt(micros) - now;
    return [h('span.badge', {}, 'once'), ` ${timestamp(micros).slice(0, 19).replace('T', ' ')} UTC`, wait > 0n ? ` (in ${duration(wait)})` : ' (due)'];
  };
  return h('div.scroll', {}, h('table', {},
    h('thead', {}, h('tr', {}, h('th', {}, table.columns[id].name), h('th', {}, 'Runs'))),
    h('tbody', {}, rows.map(row => h('tr', {}, h('td', {}, String(row[id])), h('td', {}, when(row[schedule.column])))),
      count > rows.length && h('tr', {}, h('td', { colspan: 2 }, `${grouped(count)} rows in all`)))));
}
