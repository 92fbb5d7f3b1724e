// Talking to the server. At this machine no token is needed: one that acts as a database's owner is asked for. From
// elsewhere the owner's own token is kept for as long as the tab is open.

import { parse } from './json.js';

const KEPT = 'dashboard.token';
const RENEW_S = 120;
const owners = new Map();

/** What the server refused: `status`, and `message` in its words. */
export class Refused extends Error {
  constructor(status, text) {
    super(text || `The server answered with status ${status}.`);
    this.status = status;
  }
}

export const ownToken = () => sessionStorage.getItem(KEPT);

export function setOwnToken(token) {
  if (token) sessionStorage.setItem(KEPT, token.trim());
  else sessionStorage.removeItem(KEPT);
  owners.clear();
}

/** A request; the answer if it is a success. Raises Refused, or an Error when the server cannot be reached. */
export async function ask(path, { token = ownToken(), method = 'GET', body = null, type = null, signal = null } = {}) {
  const headers = {};
  if (token) headers.authorization = `Bearer ${token}`;
  if (type) headers['content-type'] = type;
  let answer;
  try {
    answer = await fetch(path, { method, body, headers, signal, cache: 'no-store' });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Error('The server cannot be reached.', { cause: error });
  }
  if (!answer.ok) throw new Refused(answer.status, await answer.text());
  return answer;
}

const json = async (path, options) => parse(await (await ask(path, options)).text());

/** {access, version, databases: [{identity, names, owner}]} */
export const overview = () => json('/dashboard/api');
/** The text of these metrics. */
export const metricsText = async names => (await ask(`/dashboard/api/metrics?names=${names}`)).text();
export const loadPoints = async () => (await json('/dashboard/api/loadtest')).points;

/** The owner's token of a database: the person's own, or one that this machine is given. */
export async function ownerToken(database) {
  if (ownToken()) return ownToken();
  const known = owners.get(database);
  if (known && known.expires_at - Date.now() / 1000 > RENEW_S) return known.token;
  const body = JSON.stringify({ database });
  const given = await json('/dashboard/api/token', { method: 'POST', body, type: 'application/json' });
  owners.set(database, given);
  return given.token;
}

/** A request below /v1/database/:db, as its owner. */
export async function inDatabase(database, path, options = {}) {
  return ask(`/v1/database/${database}${path}`, { ...options, token: await ownerToken(database) });
}

export async function schemaOf(database) {
  return parse(await (await inDatabase(database, '/schema?version=10')).text());
}

/** One SQL statement: {columns: [{name, type}], rows, micros, stats}. */
export async function sql(database, text, signal = null) {
  const answer = await inDatabase(database, '/sql', { method: 'POST', body: text, signal });
  const [result] = parse(await answer.text());
  const columns = result.schema.elements.map(element => ({ name: element.name.some ?? '', type: element.algebraic_type }));
  return { columns, rows: result.rows, micros: result.total_duration_micros, stats: result.stats };
}

/** Calls a reducer or procedure with the JSON text of its arguments: {text, micros}. */
export async function call(database, name, body) {
  const started = performance.now();
  const path = `/call/${encodeURIComponent(name)}`;
  const answer = await inDatabase(database, path, { method: 'POST', body, type: 'application/json' });
  const micros = Number(answer.headers.get('spacetime-execution-duration-micros') ?? 0);
  return { text: await answer.text(), micros, elapsed: (performance.now() - started) / 1000 };
}
