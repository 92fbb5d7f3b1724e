// SpacetimeDB's WebSocket protocol (v2 and v3) by hand: what a page needs without any library or build step.
//
// Client messages, little-endian:  Subscribe   00 request:u32 query_set:u32 [string]
//                                  CallReducer 03 request:u32 00 name:string args:bytes
// Server frames: 00 (not compressed), then one message or, in v3, several. string = u32 length + UTF-8.
// A row list is: 00 row_length:u16 | 01 [u64 offsets], then the rows as bytes; rows are read one after another.

const SUBPROTOCOLS = ['v3.bsatn.spacetimedb', 'v2.bsatn.spacetimedb'];
const FIRST_RETRY_MS = 250;
const LAST_RETRY_MS = 4000;
const utf8 = new TextEncoder();
const text = new TextDecoder();

/** Reads BSATN values one after another. */
export class Reader {
  constructor(bytes) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.at = 0;
  }
  get left() { return this.bytes.length - this.at; }
  u8() { return this.bytes[this.at++]; }
  u16() { const value = this.view.getUint16(this.at, true); this.at += 2; return value; }
  u32() { const value = this.view.getUint32(this.at, true); this.at += 4; return value; }
  u64() { const value = this.view.getBigUint64(this.at, true); this.at += 8; return value; }
  f32() { const value = this.view.getFloat32(this.at, true); this.at += 4; return value; }
  take(length) { const part = this.bytes.subarray(this.at, this.at + length); this.at += length; return part; }
  blob() { return this.take(this.u32()); }
  string() { return text.decode(this.blob()); }
  /** 32 bytes as 64 hex digits, most significant first: how identities are written. */
  identity() { return Array.from(this.take(32)).reverse().map(byte => byte.toString(16).padStart(2, '0')).join(''); }
  list(read) { return Array.from({ length: this.u32() }, () => read(this)); }
}

/** Writes BSATN values one after another. */
export class Writer {
  constructor() { this.parts = []; }
  u8(value) { this.parts.push(Uint8Array.of(value)); return this; }
  u32(value) { const part = new Uint8Array(4); new DataView(part.buffer).setUint32(0, value, true); this.parts.push(part); return this; }
  f32(value) { const part = new Uint8Array(4); new DataView(part.buffer).setFloat32(0, value, true); this.parts.push(part); return this; }
  blob(bytes) { this.u32(bytes.length); this.parts.push(bytes); return this; }
  string(value) { return this.blob(utf8.encode(value)); }
  finish() {
    const all = new Uint8Array(this.parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of this.parts) { all.set(part, at); at += part.length; }
    return all;
  }
}

function rowBytes(reader) {
  if (reader.u8() === 0) reader.u16();
  else reader.take(8 * reader.u32());
  return new Reader(reader.blob());
}

/**
 * A connection that comes back by itself. Options:
 *   url       http://host:port of the server
 *   database  its name
 *   storageKey  where the token is kept, so that the same person returns after a reload or a restart
 *   tables    {name: {key: row => any, read: reader => row}}; a table with `event: true` is not kept
 *   queries   SQL texts, one query set
 *   on        {status(text), change(table, inserted, deleted), applied()}
 * `rows[table]` is a Map from key to row.
 */
export class Connection {
  constructor(options) {
    Object.assign(this, options);
    this.rows = {};
    this.requests = new Map();
    this.nextRequest = 1;
    this.retryAfter = FIRST_RETRY_MS;
    this.identity = null;
    this.open();
  }

  async open() {
    this.on.status('connecting');
    const url = new URL(`/v1/database/${this.database}/subscribe`, this.url);
    url.protocol = url.protocol.replace('http', 'ws');
    url.search = 'compression=None&confirmed=false';
    try {
      const token = await this.shortLivedToken();
      if (token) url.searchParams.set('token', token);
    } catch {
      return this.again();
    }
    this.rows = Object.fromEntries(Object.keys(this.tables).map(name => [name, new Map()]));
    const socket = (this.socket = new WebSocket(url, SUBPROTOCOLS));
    socket.binaryType = 'arraybuffer';
    socket.onmessage = event => this.frame(new Uint8Array(event.data));
    socket.onclose = () => this.again();
  }

  /** A browser cannot put headers on a WebSocket: the saved token is traded for one that may stand in a URL. */
  async shortLivedToken() {
    const token = localStorage.getItem(this.storageKey);
    if (!token) return null;
    const headers = { Authorization: `Bearer ${token}` };
    const answer = await fetch(new URL('/v1/identity/websocket-token', this.url), { method: 'POST', headers });
    if (answer.ok) return (await answer.json()).token;
    if (answer.status === 401 || answer.status === 400) localStorage.removeItem(this.storageKey); // the server has new keys
    else throw new Error(`status ${answer.status}`);
    return null;
  }

  again() {
    this.socket = null;
    for (const { reject } of this.requests.values()) reject(new Error('connection lost'));
    this.requests.clear();
    this.on.status('offline');
    setTimeout(() => this.open(), this.retryAfter * (0.75 + Math.random() / 2));
    this.retryAfter = Math.min(2 * this.retryAfter, LAST_RETRY_MS);
  }

  /** Calls a reducer with arguments in a Writer; resolves when it has run, rejects with its error text. */
  call(reducer, args = new Writer()) {
    return new Promise((resolve, reject) => {
      if (this.socket?.readyState !== WebSocket.OPEN) return reject(new Error('not connected'));
      const request = this.nextRequest++;
      this.requests.set(request, { resolve, reject });
      this.socket.send(new Writer().u8(3).u32(request).u8(0).string(reducer).blob(args.finish()).finish());
    });
  }

  frame(bytes) {
    const reader = new Reader(bytes);
    if (reader.u8() !== 0) throw new Error('compressed although we asked for none');
    while (reader.left) this.message(reader);
  }

  message(reader) {
    const tag = reader.u8();
    if (tag === 0) { // InitialConnection
      this.identity = reader.identity();
      reader.take(16);
      const token = reader.string();
      if (!localStorage.getItem(this.storageKey)) localStorage.setItem(this.storageKey, token);
      const subscribe = new Writer().u8(0).u32(0).u32(0).u32(this.queries.length);
      for (const query of this.queries) subscribe.string(query);
      this.socket.send(subscribe.finish());
    } else if (tag === 1) { // SubscribeApplied
      reader.take(8);
      reader.list(() => this.apply(reader.string(), rowBytes(reader), null));
      this.retryAfter = FIRST_RETRY_MS;
      this.on.status('online');
      this.on.applied();
    } else if (tag === 3) { // SubscriptionError
      if (reader.u8() === 0) reader.u32();
      reader.u32();
      console.error(reader.string());
      this.socket.close();
    } else if (tag === 4) { // TransactionUpdate
      this.update(reader);
    } else if (tag === 6) { // ReducerResult
      this.result(reader);
    } else {
      throw new Error(`unexpected message ${tag}`);
    }
  }

  result(reader) {
    const id = reader.u32(), request = this.requests.get(id);
    this.requests.delete(id);
    reader.u64();
    const outcome = reader.u8();
    if (outcome === 0) { reader.blob(); this.update(reader); }
    if (outcome <= 1) request?.resolve();
    else request?.reject(new Error(outcome === 2 ? new Reader(reader.blob()).string() : reader.string()));
  }

  update(reader) {
    reader.list(() => {
      reader.u32();
      reader.list(() => {
        const table = reader.string();
        reader.list(() => {
          const isEvent = reader.u8() === 1;
          const inserts = rowBytes(reader);
          this.apply(table, inserts, isEvent ? null : rowBytes(reader));
        });
      });
    });
  }

  apply(name, inserts, deletes) {
    const table = this.tables[name], rows = this.rows[name], removed = new Map();
    while (deletes?.left) {
      const row = table.read(deletes), key = table.key(row);
      removed.set(key, rows.get(key) ?? row);
      rows.delete(key);
    }
    while (inserts.left) {
      const row = table.read(inserts), key = table.key(row);
      if (!table.event) rows.set(key, row);
      this.on.change(name, row, removed.get(key) ?? null);
      removed.delete(key);
    }
    for (const row of removed.values()) this.on.change(name, null, row);
  }
}
