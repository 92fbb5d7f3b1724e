// Changing rows as the owner, by SQL: a cell in place, a new row in a form, a row removed.

import { sql } from './api.js';
import { fill, h, toast } from './dom.js';
import { icon } from './icons.js';
import { isNumber, typeText } from './schema.js';
import { editable, literal, name, typed } from './values.js';

const COMPARABLE = new Set(['bool', 'string', 'bytes', 'identity', 'connection', 'uuid', 'timestamp']);

/** Whether the columns say which row is meant: by its key, else by all that can be compared. */
function condition(table, row) {
  const columns = table.columns.map((column, at) => ({ ...column, at }));
  const telling = table.key !== null ? [columns[table.key]] : columns.filter(({ type }) => COMPARABLE.has(type.kind) || isNumber(type));
  return telling.map(({ name: column, type, at }) => `${name(column)} = ${literal(type, row[at])}`).join(' AND ');
}

/** Makes a cell an input until it is left. `changed` is called after a success. */
export function editCell(cell, database, table, row, at, changed) {
  if (cell.classList.contains('editing')) return;
  const { name: column, type } = table.columns[at], before = [...cell.childNodes], start = editable(type, row[at]);
  const input = h('input', { type: 'text', value: start, 'aria-label': `${column}, ${typeText(type)}`, spellcheck: 'false' });
  const beside = h('span.beside', { role: 'alert', hidden: true });
  let over = false;
  const leave = (refocus = true) => {
    if (over) return;
    over = true;
    cell.classList.remove('editing');
    fill(cell, before);
    if (refocus) cell.focus();
  };
  const save = async () => {
    if (input.value === start) return leave();
    try {
      const { stats } = await sql(database, `UPDATE ${name(table.name)} SET ${name(column)} = ${typed(type, input.value)} WHERE ${condition(table, row)}`);
      leave();
      if (stats.rows_updated === 0) toast('The row is no longer there', 'bad');
      changed();
    } catch (error) {
      beside.textContent = error.message;
      beside.hidden = false;
      input.setAttribute('aria-invalid', 'true');
    }
    return null;
  };
  input.addEventListener('keydown', event => {
    event.stopPropagation();
    if (event.key === 'Enter') save();
    if (event.key === 'Escape') leave();
  });
  input.addEventListener('blur', () => { if (input.value === start || beside.hidden === false) leave(false); });
  cell.classList.add('editing');
  fill(cell, input, beside);
  input.focus();
  input.select();
}

/** A button that deletes a row when pressed twice. */
export function deleteButton(database, table, row, changed) {
  const button = h('button.quiet.danger', { title: 'Delete this row', 'aria-label': 'Delete this row' }, icon('trash'));
  let sure = false;
  button.addEventListener('blur', () => { sure = false; fill(button, icon('trash')); });
  button.addEventListener('click', async () => {
    if (!sure) {
      sure = true;
      fill(button, 'Delete?');
      return;
    }
    try {
      await sql(database, `DELETE FROM ${name(table.name)} WHERE ${condition(table, row)}`);
      changed();
    } catch (error) {
      toast(error.message, 'bad');
    }
  });
  return button;
}

/** A form for a new row. `done(inserted)` is called at its end. */
export function insertForm(database, table, done) {
  const general = h('div.result.bad', { role: 'alert', hidden: true });
  const fields = table.columns.map(({ name: column, type }, at) => {
    const auto = table.autoInc.includes(at), message = h('span.message', { role: 'alert' });
    const hint = auto ? 'next number' : { timestamp: '2026-01-31T12:00:00Z', option: 'empty for none', bool: 'true or false', array: '[1, 2]', sum: 'variant, or variant(value)', product: '(1, 2)', bytes: 'hex' }[type.kind];
    const input = h('input', { type: 'text', placeholder: hint ?? '', spellcheck: 'false', class: type.kind === 'string' ? '' : 'mono' });
    const element = h('label.field', {}, h('span.head', {}, h('span.name', {}, column), h('span.type', {}, typeText(type))), input, message);
    return { column, kind: type.kind, element, input, message, sql: () => (auto && input.value.trim() === '' ? '0' : typed(type, input.value)) };
  });
  const submit = async event => {
    event.preventDefault();
    general.hidden = true;
    for (const field of fields) { fill(field.message); field.element.classList.remove('refused'); }
    const names = fields.map(field => name(field.column)).join(', ');
    try {
      await sql(database, `INSERT INTO ${name(table.name)} (${names}) VALUES (${fields.map(field => field.sql()).join(', ')})`);
      done(true);
    } catch (error) {
      const culprit = guilty(fields, error.message);
      if (culprit) {
        fill(culprit.message, error.message);
        culprit.element.classList.add('refused');
        culprit.input.focus();
      } else {
        general.textContent = error.message;
        general.hidden = false;
      }
    }
  };
  const form = h('form.card.insert', { onsubmit: submit }, h('div.columns', {}, fields.map(field => field.element)), general,
    h('div.row', {}, h('button.primary', {}, 'Insert row'), h('button', { type: 'button', onclick: () => done(false) }, 'Cancel')));
  form.addEventListener('keydown', event => { if (event.key === 'Escape') done(false); });
  queueMicrotask(() => fields.find((_field, at) => !table.autoInc.includes(at))?.input.focus());
  return form;
}

/** The field that a refusal is about: named as a column, or by the literal that does not fit. */
function guilty(fields, text) {
  const violated = /column\(s\): '\["([^"]+)"/.exec(text);
  if (violated) return fields.find(field => field.column === violated[1]);
  const mistyped = /^Unexpected type: \(expected\) String != (\w+)/.exec(text);
  if (mistyped) return fields.find(field => field.kind.toUpperCase() === mistyped[1].toUpperCase() && field.sql().startsWith("'"));
  const refused = /literal expression `([^`]*)`/.exec(text);
  if (!refused) return null;
  const plain = value => value.replace(/^'|'$/g, '').replace(/^[xX]'|^0x/, '');
  return fields.find(field => field.sql() === refused[1] || plain(field.sql()) === plain(refused[1]));
}
