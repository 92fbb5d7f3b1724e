// JSON without loss: integers beyond 2^53 become BigInt when read, and BigInt is written as a bare number.

const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
const LARGE = '\u0001n';

/** The value of a JSON text. */
export function parse(text) {
  let found = false;
  const marked = text.replace(TOKEN, token => {
    if (token.length < 16 || token[0] === '"' || /[.eE]/.test(token)) return token;
    found = true;
    return `"\\u0001n${token}"`;
  });
  if (!found) return JSON.parse(text);
  return JSON.parse(marked, (_key, value) =>
    typeof value === 'string' && value.startsWith(LARGE) ? BigInt(value.slice(LARGE.length)) : value);
}

/** JSON text of a value. A `Raw` is written as it stands. */
export function stringify(value) {
  if (value instanceof Raw) return value.text;
  if (typeof value === 'bigint') return value.toString();
  if (Array.isArray(value)) return `[${value.map(stringify).join(',')}]`;
  if (value && typeof value === 'object') {
    return `{${Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}:${stringify(item)}`).join(',')}}`;
  }
  return JSON.stringify(value) ?? 'null';
}

/** A piece of JSON text. */
export class Raw {
  constructor(text) { this.text = text; }
}
