// Calling reducers and procedures: forms made of their parameters, errors beside the fields.

import { call } from '../api.js';
import { empty, fill, h, seconds } from '../dom.js';
import { ArgumentForm } from '../form.js';
import { parse, stringify } from '../json.js';
import { typeText } from '../schema.js';
import { text as valueText } from '../values.js';

export function show(body, context) {
  const { schema, database, rest } = context;
  const own = schema.reducers.filter(reducer => !reducer.lifecycle && !reducer.schedule);
  const automatic = schema.reducers.filter(reducer => reducer.lifecycle || reducer.schedule);
  const every = [...own, ...schema.procedures, ...automatic];
  const wanted = every.find(item => item.name === rest[0]) ?? every[0];
  if (!wanted) {
    fill(body, h('div.card', {}, empty('This database has no reducers')));
    return null;
  }
  const badge = item => item.lifecycle ?? (item.schedule ? 'scheduled' : item.isPrivate ? 'private' : null);
  const entry = item => h('a', { href: context.addressOf(database, 'reducers', item.name), 'aria-current': item === wanted ? 'page' : null },
    h('span.name', {}, item.name), badge(item) && h('span.badge', {}, badge(item)));
  const list = h('div.list-of', {}, own.length > 0 && h('h3', {}, 'Reducers'), own.map(entry),
    schema.procedures.length > 0 && h('h3', {}, 'Procedures'), schema.procedures.map(entry),
    automatic.length > 0 && h('h3', {}, 'Run by the server'), automatic.map(entry));
  fill(body, h('div.split', {}, list, h('div.content', {}, panel(database.identity, wanted))));
  return null;
}

function panel(id, item) {
  const signature = item.params.map(param => `${param.name}: ${typeText(param.type)}`).join(', ');
  const title = h('div.title', {}, h('h2', {}, item.name), item.params.length < 5 && h('code.hint', {}, `(${signature})${item.returns ? ` → ${typeText(item.returns)}` : ''}`));
  if (item.lifecycle) {
    return h('div.called', {}, title, h('p.note', {}, `The server runs this one by itself (${item.lifecycle}); nobody can call it.`));
  }
  const form = new ArgumentForm(item.params), result = h('div.result', { hidden: true, role: 'status' });
  const button = h('button.primary', {}, 'Call');
  const tell = (kind, ...text) => { result.hidden = false; result.className = `result ${kind}`; fill(result, ...text); };
  const submit = async event => {
    event.preventDefault();
    form.clear();
    result.hidden = true;
    button.disabled = true;
    try {
      const answer = await call(id, item.name, stringify(form.body()));
      const took = `${seconds(answer.micros / 1e6)} on the server, ${seconds(answer.elapsed)} in all`;
      if (item.returns) tell('good', h('code', {}, valueText(item.returns, parse(answer.text))), `   ${took}`);
      else tell('good', `Committed. ${took}`);
    } catch (error) {
      if (!form.refuse(error.message)) tell('bad', error.message);
    }
    button.disabled = false;
  };
  return h('div.called', {}, title, item.schedule && h('p.note', {}, `Runs by itself for the rows of ${item.schedule.table}.`),
    h('form.card', { onsubmit: submit, novalidate: true },
      item.params.length ? form.element : h('p.hint', {}, 'It takes no arguments.'),
      result, h('div.row', {}, button, h('span.hint', {}, 'as the owner of the database'))));
}
