// What is to run by itself: the rows of the schedule tables, and what they call.

import { sql } from '../api.js';
import { empty, failure, fill, grouped, h } from '../dom.js';
import { Live } from '../live.js';
import { duration, name, timestamp } from '../values.js';

const MOST = 50;
const LIVE_MOST = 5000;

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

  const lives = [];
  let left = false;
  const open = async ({ schedule, place }) => {
    const table = tables.find(item => item.name === schedule.table), query = `SELECT * FROM ${name(schedule.table)}`;
    const draw = (rows, count) => fill(place, rows.length ? drawRows(table, schedule, rows, count) : h('p.hint', {}, 'No row: nothing is waiting to run.'));
    try {
      const count = Number((await sql(context.database.identity, `SELECT COUNT(*) AS n FROM ${name(schedule.table)}`)).rows[0][0]);
      if (count > LIVE_MOST) {
        const { rows } = await sql(context.database.identity, `${query} LIMIT ${MOST}`);
        if (!left) draw(rows, count);
        return;
      }
    } catch (error) {
      fill(place, failure(error));
      return;
    }
    if (left) return;
    const rows = new Map(), key = row => String(row[table.key ?? 0]);
    const drawAll = () => draw([...rows.values()].slice(0, MOST), rows.size);
    lives.push(new Live(context.database.identity, query, { kind: 'product', fields: table.columns }, {
      status() {},
      applied(all) { rows.clear(); for (const row of all) rows.set(key(row), row); drawAll(); },
      changed(deleted, inserted) {
        for (const row of deleted) rows.delete(key(row));
        for (const row of inserted) rows.set(key(row), row);
        drawAll();
      },
      refused(why) { fill(place, failure(new Error(why))); },
    }));
  };
  places.forEach(open);
  return () => { left = true; lives.forEach(live => live.close()); };
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
