// The SQL console: statements with history, their plans, their results as files.

import { sql } from '../api.js';
import { download, failure, fill, grouped, h, seconds } from '../dom.js';
import { stringify } from '../json.js';
import { readType, typeText } from '../schema.js';
import { cell, isRight, plain, text } from '../values.js';

const HISTORY = 50;
const SHOWN = 1000;

export function show(body, context) {
  const { database, schema } = context, key = `dashboard.sql.${database.identity}`;
  const history = JSON.parse(localStorage.getItem(key) ?? '[]');
  const first = schema.tables.find(table => !table.isEvent)?.name;
  const area = h('textarea', { 'aria-label': 'SQL', spellcheck: 'false', rows: 5, placeholder: 'SELECT ...' });
  area.value = history[0] ?? (first ? `SELECT * FROM ${first} LIMIT 100` : '');
  const result = h('div.stack'), past = h('div');
  const drawHistory = () => fill(past, history.length > 0 && h('details', {}, h('summary', {}, `History (${history.length})`),
    h('div.card.history', {}, history.map(statement => h('button', { title: statement, onclick: () => { area.value = statement; area.focus(); } }, h('span', {}, statement))))));

  const run = async explain => {
    const statement = area.value.trim().replace(/;+$/, '');
    if (!statement) return;
    buttons.forEach(button => { button.disabled = true; });
    try {
      const answer = await sql(database.identity, explain && !/^explain\b/i.test(statement) ? `EXPLAIN ${statement}` : statement);
      fill(result, drawResult(answer, database));
      if (history[0] !== statement) {
        history.splice(0, history.length, ...[statement, ...history.filter(item => item !== statement)].slice(0, HISTORY));
        localStorage.setItem(key, JSON.stringify(history));
        drawHistory();
      }
    } catch (error) {
      fill(result, failure(error));
    }
    buttons.forEach(button => { button.disabled = false; });
  };
  const buttons = [h('button.primary', { onclick: () => run(false) }, 'Run'), h('button', { onclick: () => run(true) }, 'Explain')];
  area.addEventListener('keydown', event => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) { event.preventDefault(); run(false); }
  });
  drawHistory();
  fill(body, h('div.stack', {}, h('div.editor', {}, area), h('div.row', {}, buttons, h('span.hint', {}, 'Ctrl + Enter runs it, as the owner')), past, result));
  area.focus();
  return null;
}

function drawResult({ columns, rows, micros, stats }, database) {
  const types = columns.map(column => readType(column.type));
  const changed = ['inserted', 'updated', 'deleted'].map(what => [what, stats[`rows_${what}`]]).filter(([, count]) => count > 0);
  const took = `in ${seconds(micros / 1e6)}`;
  if (!columns.length) {
    const told = changed.length ? changed.map(([what, count]) => `${grouped(count)} rows ${what}`).join(', ') : 'Done, nothing changed';
    return h('div.result.good', { role: 'status' }, `${told} ${took}`);
  }
  const name = `${database.names[0] ?? 'database'}-${new Date().toISOString().slice(0, 19).replaceAll(':', '')}`;
  const asJson = () => stringify(rows.map(row => Object.fromEntries(columns.map((column, at) => [column.name, plain(types[at], row[at])]))));
  const asCsv = () => [columns.map(column => quote(column.name)), ...rows.map(row => row.map((value, at) => quote(text(types[at], value))))]
    .map(line => line.join(',')).join('\r\n');
  return h('div.stack', {},
    h('div.row', {}, h('span.grow', { role: 'status' }, `${grouped(rows.length)} ${rows.length === 1 ? 'row' : 'rows'} ${took}`),
      h('button', { onclick: () => download(`${name}.csv`, 'text/csv', asCsv()) }, 'CSV'),
      h('button', { onclick: () => download(`${name}.json`, 'application/json', asJson()) }, 'JSON')),
    h('div.scroll', {}, h('table', {},
      h('thead', {}, h('tr', {}, columns.map((column, at) => h('th', { class: isRight(types[at]) ? 'right' : '' }, column.name, h('span.type', {}, typeText(types[at])))), h('th.filler'))),
      h('tbody', {}, rows.slice(0, SHOWN).map(row => h('tr', {}, row.map((value, at) => h('td', { class: isRight(types[at]) ? 'right' : '' }, cell(types[at], value))), h('td')))))),
    rows.length > SHOWN && h('p.hint', {}, `The first ${grouped(SHOWN)} rows are shown; files hold all.`));
}

/** A field of a CSV file; what a spreadsheet would take for a formula gets an apostrophe. */
function quote(value) {
  const safe = /^[=+@\t\r]|^-(?![\d.])/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
