// Values as SQL answers carry them (positional: products are arrays, sums [tag, payload]): shown, and written as SQL.

import { h } from './dom.js';
import { isEnum, isInteger, isUnit } from './schema.js';

const MOST = 240;

/** The text of a value. */
export function text(type, value) {
  switch (type.kind) {
    case 'string': return value;
    case 'bytes': return value === '' ? '0x' : `0x${value}`;
    case 'identity': return hex(value[0], 64);
    case 'connection': return hex(value[0], 32);
    case 'uuid': return uuid(value[0]);
    case 'timestamp': return timestamp(value[0]);
    case 'duration': return duration(value[0]);
    case 'u256': case 'i256': return BigInt(value.replace('-', '')) < 10n ** 24n ? signed(value).toString() : value;
    case 'option': return value[0] === 0 ? text(type.of, value[1]) : 'none';
    case 'array': return `[${value.map(item => text(type.of, item)).join(', ')}]`;
    case 'product': return `(${type.fields.map((field, at) => `${field.name}: ${text(field.type, value[at])}`).join(', ')})`;
    case 'sum': {
      const variant = type.variants[value[0]];
      return isUnit(variant.type) ? variant.name : `${variant.name}(${text(variant.type, value[1])})`;
    }
    default: return value === null ? 'NaN' : String(value);
  }
}

const signed = value => (value.startsWith('-') ? -BigInt(value.slice(1)) : BigInt(value));

function hex(value, digits) {
  return BigInt(value).toString(16).padStart(digits, '0');
}

function uuid(value) {
  return hex(value, 32).replace(/(.{8})(.{4})(.{4})(.{4})(.{12})/, '$1-$2-$3-$4-$5');
}

/** Microseconds since 1970 as UTC. */
export function timestamp(micros) {
  const whole = BigInt(micros), ms = whole / 1000n - (whole % 1000n < 0n ? 1n : 0n);
  const date = new Date(Number(ms));
  if (Number.isNaN(date.getTime())) return `${whole} µs`;
  const rest = String(whole - ms * 1000n).padStart(3, '0');
  return date.toISOString().replace('Z', `${rest}Z`);
}

/** Microseconds as a duration. */
export function duration(micros) {
  const value = Number(micros) / 1e6;
  if (Math.abs(value) < 1) return `${Number(micros) / 1000} ms`;
  if (Math.abs(value) < 60) return `${value} s`;
  if (Math.abs(value) < 3600) return `${+(value / 60).toFixed(2)} min`;
  return `${+(value / 3600).toFixed(2)} h`;
}

/** A value in a table's cell. */
export function cell(type, value) {
  const full = text(type, value);
  const shown = full.length > MOST ? `${full.slice(0, MOST)}…` : full;
  if (type.kind === 'bool') return h('span.value.bool', { class: value ? 'yes' : 'no' }, String(value));
  if (type.kind === 'option' && value[0] === 1) return h('span.value.none', {}, 'none');
  if (isEnum(type) || (type.kind === 'sum' && isUnit(type.variants[value[0]].type))) return h('span.value.tag', {}, shown);
  if (['identity', 'connection', 'uuid'].includes(type.kind)) {
    return h('span.value.id', { title: full }, `${full.slice(0, type.kind === 'identity' ? 10 : 8)}…`);
  }
  if (type.kind === 'timestamp') return h('span.value', { title: full }, full.replace('T', ' ').replace(/\.?\d*Z$/, ''));
  if (type.kind === 'string' && value === '') return h('span.value.none', {}, 'empty');
  return h('span.value', { title: full.length > 40 ? full : null }, shown);
}

/** Whether a column stands at the right, as numbers do. */
export const isRight = type => isInteger(type) || type.kind === 'f32' || type.kind === 'f64';

/** A name in SQL. */
export const name = identifier => `"${identifier.replaceAll('"', '""')}"`;

const string = value => `'${value.replaceAll("'", "''")}'`;

/** The SQL literal of a value. */
export function literal(type, value) {
  switch (type.kind) {
    case 'string': return string(value);
    case 'bytes': return `X'${value}'`;
    case 'identity': case 'connection': case 'uuid': return `0x${hex(value[0], type.kind === 'identity' ? 64 : 32)}`;
    case 'timestamp': return string(timestamp(value[0]));
    case 'duration': return String(value[0]);
    case 'u256': case 'i256': return signed(value).toString();
    case 'f32': case 'f64': return value === null ? '1e999' : String(value);
    case 'option': return value[0] === 0 ? literal(type.of, value[1]) : 'NULL';
    case 'array': return `ARRAY[${value.map(item => literal(type.of, item)).join(', ')}]`;
    case 'product': {
      const fields = type.fields.map((field, at) => literal(field.type, value[at]));
      // One value in parentheses is that value.
      return fields.length === 1 ? fields[0] : `(${fields.join(', ')})`;
    }
    case 'sum': {
      const variant = type.variants[value[0]];
      return isUnit(variant.type) ? string(variant.name) : `${name(variant.name)}(${literal(variant.type, value[1])})`;
    }
    default: return String(value);
  }
}

/** The SQL literal of what somebody typed into a field of this type; what does not fit is the server's to refuse. */
export function typed(type, input) {
  if (type.kind === 'string') return string(input);
  const trimmed = input.trim();
  switch (type.kind) {
    case 'bytes': return `X'${trimmed.replace(/^0x/, '')}'`;
    case 'identity': case 'connection': case 'uuid': return `0x${trimmed.replace(/^0x/, '').replaceAll('-', '')}`;
    case 'timestamp': return string(trimmed);
    case 'option': return trimmed === '' || trimmed === 'none' ? 'NULL' : typed(type.of, input);
    case 'sum': return /^\w+$/.test(trimmed) ? string(trimmed) : trimmed;
    case 'array': return trimmed.startsWith('[') ? `ARRAY${trimmed}` : trimmed;
    default: return /^(true|false|[-+]?[\d.]+([eE][-+]?\d+)?)$/i.test(trimmed) ? trimmed : string(trimmed);
  }
}

/** What a field for editing starts with. */
export function editable(type, value) {
  if (['array', 'product', 'sum'].includes(type.kind)) {
    const sqlText = literal(type, value);
    if (type.kind === 'array') return sqlText.slice('ARRAY'.length);
    return type.kind === 'sum' && isUnit(type.variants[value[0]].type) ? type.variants[value[0]].name : sqlText;
  }
  if (type.kind === 'option') return value[0] === 0 ? editable(type.of, value[1]) : '';
  if (type.kind === 'duration') return String(value[0]);
  return text(type, value);
}

/** A value as plain JSON for an export, with names. */
export function plain(type, value) {
  switch (type.kind) {
    case 'option': return value[0] === 0 ? plain(type.of, value[1]) : null;
    case 'array': return value.map(item => plain(type.of, item));
    case 'product': return Object.fromEntries(type.fields.map((field, at) => [field.name, plain(field.type, value[at])]));
    case 'sum': {
      const variant = type.variants[value[0]];
      return isUnit(variant.type) ? variant.name : { [variant.name]: plain(variant.type, value[1]) };
    }
    case 'identity': case 'connection': case 'timestamp': case 'duration': case 'uuid': return text(type, value);
    default: return value;
  }
}
