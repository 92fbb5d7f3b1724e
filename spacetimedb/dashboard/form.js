// A form for values of any type. What is typed goes to the server as it is: the server checks, and its message is put
// beside the field it names.
//
//   field = {element, read() -> a value for json.stringify}
//
// Fields register under the path by which the server names them: [0], [2][1], [13].rect. Items of a list have registries
// of their own, as their places change.

import { fill, h } from './dom.js';
import { icon } from './icons.js';
import { Raw } from './json.js';
import { isEnum, isInteger, isUnit, typeText } from './schema.js';

const UNITS = { us: 1n, µs: 1n, ms: 1000n, s: 1000000n, min: 60000000n, m: 60000000n, h: 3600000000n, d: 86400000000n };

class Registry {
  constructor() {
    this.slots = new Map();
    this.lists = new Map();
  }
  /** Forgets all that is inside the path. */
  forget(path) {
    for (const map of [this.slots, this.lists]) {
      for (const key of [...map.keys()]) if (key.startsWith(path) && key !== path) map.delete(key);
    }
  }
  /** Every [path, {element, message}], those inside lists too. */
  * all(base = '') {
    for (const [path, slot] of this.slots) yield [base + path, slot];
    for (const [path, items] of this.lists) {
      for (const [at, item] of items.entries()) yield* item.registry.all(`${base}${path}[${at}]`);
    }
  }
}

/** Arguments of a function. `element`, `body()`: their JSON text before encoding, `refuse(text)`: shows an error. */
export class ArgumentForm {
  constructor(params) {
    this.registry = new Registry();
    this.fields = params.map((param, at) => labelled(param.name, param.type, `[${at}]`, this.registry));
    this.element = h('div.fields', {}, this.fields.map(field => field.element));
  }

  body() {
    return this.fields.map(field => field.read());
  }

  clear() {
    for (const [, slot] of this.registry.all()) {
      fill(slot.message);
      slot.element.classList.remove('refused');
    }
  }

  /** Shows the server's text beside the field it is about; whether there is one. */
  refuse(text) {
    const reason = /^invalid arguments for \w+ \S+: (\S+): invalid arguments for function \S+: \1: \1: (.*)$/s.exec(text);
    if (!reason) return false;
    const [, path, why] = reason;
    const [found] = [...this.registry.all()].filter(([key]) => path.startsWith(key)).sort(([a], [b]) => b.length - a.length);
    if (!found) return false;
    const [, slot] = found;
    fill(slot.message, why.replace(/ at line \d+ column \d+$/, ''));
    slot.element.classList.add('refused');
    const input = slot.element.querySelector('input, select, textarea');
    input?.focus();
    return true;
  }
}

function labelled(name, type, path, registry) {
  const inner = build(type, path, registry), message = h('span.message', { role: 'alert' });
  const isLarge = ['product', 'array', 'option', 'sum'].includes(type.kind) && !isEnum(type);
  const head = [h('span.name', {}, name), h('span.type', {}, typeText(type))];
  const element = isLarge
    ? h('fieldset.field', {}, h('legend', {}, head), inner.element, message)
    : h('label.field', {}, h('span.head', {}, head), inner.element, message);
  registry.slots.set(path, { element, message });
  return { element, read: inner.read };
}

function build(type, path, registry) {
  switch (type.kind) {
    case 'bool': return checkbox();
    case 'option': return optional(type, path, registry);
    case 'array': return list(type, path, registry);
    case 'product': return product(type, path, registry);
    case 'sum': return isEnum(type) ? choice(type) : sum(type, path, registry);
    default: return line(type);
  }
}

function checkbox() {
  const input = h('input', { type: 'checkbox' }), word = h('span', {}, 'false');
  input.addEventListener('change', () => { word.textContent = String(input.checked); });
  return { element: h('span.check', {}, input, word), read: () => input.checked };
}

const HINTS = {
  bytes: 'hex digits, e.g. 00ff', identity: '64 hex digits', connection: '32 hex digits', uuid: '00000000-0000-...',
  timestamp: '2026-01-31T12:00:00Z, or now', duration: '1.5 s, 250 ms, 2 h', string: '',
};

function line(type) {
  const hint = HINTS[type.kind] ?? (isInteger(type) ? '0' : '0.0');
  const input = h('input', {
    type: 'text', placeholder: hint, spellcheck: 'false', autocomplete: 'off',
    inputmode: isInteger(type) ? 'numeric' : null, class: type.kind === 'string' ? '' : 'mono',
  });
  return { element: input, read: () => typed(type, input.value) };
}

/** What was typed as JSON of the type if it reads as such, else as a text, which the server then explains. */
export function typed(type, input) {
  const text = input.trim();
  if (type.kind === 'string') return input;
  if (/^[ui]256$/.test(type.kind)) return /^-?\d+$/.test(text) ? hex(BigInt(text)) : text;
  if (isInteger(type)) return /^-?(0|[1-9]\d*)$/.test(text) ? new Raw(text) : text;
  if (type.kind === 'f32' || type.kind === 'f64') return /^-?\d+(\.\d+)?([eE][+-]?\d+)?$/.test(text) ? new Raw(text) : text;
  if (type.kind === 'bytes') return text.replace(/^0x/, '');
  if (type.kind === 'identity') return [text.startsWith('0x') ? text : `0x${text}`];
  if (type.kind === 'connection' || type.kind === 'uuid') {
    const digits = text.replace(/^0x/, '').replaceAll('-', '');
    return [/^[0-9a-fA-F]{1,32}$/.test(digits) ? BigInt(`0x${digits}`) : text];
  }
  if (type.kind === 'timestamp') {
    const at = text === 'now' ? Date.now() : Date.parse(text);
    return [Number.isNaN(at) ? text : BigInt(Math.round(at)) * 1000n];
  }
  if (type.kind === 'duration') {
    const found = /^(-?\d+(?:\.\d+)?)\s*(us|µs|ms|s|min|m|h|d)?$/.exec(text);
    return [found ? BigInt(Math.round(Number(found[1]) * Number(UNITS[found[2] ?? 's']))) : text];
  }
  return text;
}

const hex = value => (value < 0n ? `-0x${(-value).toString(16)}` : `0x${value.toString(16)}`);

function choice(type) {
  const select = h('select', {}, type.variants.map(variant => h('option', { value: variant.name }, variant.name)));
  return { element: select, read: () => ({ [select.value]: [] }) };
}

function sum(type, path, registry) {
  const select = h('select', { 'aria-label': 'variant' },
    type.variants.map(variant => h('option', { value: variant.name }, variant.name)));
  const place = h('div.inner');
  let inner = null;
  const change = () => {
    const variant = type.variants[select.selectedIndex], at = `${path}.${variant.name}`;
    registry.forget(path);
    inner = isUnit(variant.type) ? null : part(variant.type, at, registry);
    fill(place, inner?.element);
  };
  select.addEventListener('change', change);
  change();
  return { element: h('div.sum', {}, select, place), read: () => ({ [select.value]: inner ? inner.read() : [] }) };
}

/** A value without a label of its own, with room for a message. */
function part(type, path, registry) {
  const inner = build(type, path, registry), message = h('span.message', { role: 'alert' });
  const element = h('div.part', {}, inner.element, message);
  registry.slots.set(path, { element, message });
  return { element, read: inner.read };
}

function optional(type, path, registry) {
  const set = h('input', { type: 'checkbox' }), place = h('div.inner'), word = h('span', {}, 'none');
  let inner = null;
  set.addEventListener('change', () => {
    word.textContent = set.checked ? 'some' : 'none';
    registry.forget(path);
    inner = set.checked ? part(type.of, `${path}.some`, registry) : null;
    fill(place, inner?.element);
    place.querySelector('input, select')?.focus();
  });
  const element = h('div.optional', {}, h('label.check', {}, set, word), place);
  return { element, read: () => (inner ? { some: inner.read() } : { none: [] }) };
}

function list(type, path, registry) {
  const items = [], place = h('ol.items');
  registry.lists.set(path, items);
  const draw = () => fill(place, items.map(item => item.element));
  const append = () => {
    const own = new Registry(), inner = part(type.of, '', own);
    const remove = h('button.quiet', { type: 'button', title: 'Remove', 'aria-label': 'Remove' }, icon('close'));
    const item = { element: h('li', {}, inner.element, remove), read: inner.read, registry: own };
    remove.addEventListener('click', () => { items.splice(items.indexOf(item), 1); draw(); });
    items.push(item);
    draw();
    item.element.querySelector('input, select')?.focus();
  };
  const more = h('button', { type: 'button', onclick: append }, icon('plus'), `Add ${typeText(type.of)}`);
  return { element: h('div.list', {}, place, more), read: () => items.map(item => item.read()) };
}

function product(type, path, registry) {
  const fields = type.fields.map((field, at) => labelled(field.name, field.type, `${path}[${at}]`, registry));
  const element = fields.length ? h('div.fields.inner', {}, fields.map(field => field.element)) : h('span.none', {}, 'nothing');
  return { element, read: () => fields.map(field => field.read()) };
}
