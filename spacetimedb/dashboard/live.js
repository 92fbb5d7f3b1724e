// A subscription over WebSocket (v2.bsatn), which comes back by itself.
//
//   client: Subscribe  00 request:u32 query_set:u32 [string]      OneOffQuery  02 request:u32 string
//   server: 00, then  00 InitialConnection | 01 SubscribeApplied | 03 SubscriptionError | 04 TransactionUpdate | 05 OneOffQueryResult

import { ownerToken } from './api.js';
import { Reader } from './bsatn.js';

const RETRY_MS = 500, LAST_RETRY_MS = 8000;

function oneOff(query) {
  const text = new TextEncoder().encode(query), message = new Uint8Array(9 + text.length);
  message[0] = 2;
  new DataView(message.buffer).setUint32(5, text.length, true);
  message.set(text, 9);
  return message;
}

function subscribe(query) {
  const text = new TextEncoder().encode(query), message = new Uint8Array(17 + text.length), view = new DataView(message.buffer);
  view.setUint32(9, 1, true);
  view.setUint32(13, text.length, true);
  message.set(text, 17);
  return message;
}

/**
 * One query over one table, kept current until closed.
 *
 *   status(text)                  'connecting' | 'live' | 'offline'
 *   applied(rows)                 all rows, at first and after every reconnection
 *   changed(deleted, inserted)    rows of one transaction
 *   refused(text)                 the server does not take the query; nothing comes any more
 *
 * With `everyMs` it asks again and again instead, for what is not announced to subscribers.
 */
export class Live {
  constructor(database, query, rowType, on, everyMs = null) {
    Object.assign(this, { database, query, rowType, on, everyMs });
    this.retry = RETRY_MS;
    this.open();
  }

  async open() {
    this.on.status('connecting');
    let token;
    try {
      token = await ownerToken(this.database);
    } catch {
      return this.again();
    }
    if (this.closed) return;
    const url = new URL(`/v1/database/${this.database}/subscribe`, location.href);
    url.protocol = url.protocol.replace('http', 'ws');
    url.search = new URLSearchParams({ compression: 'None', confirmed: 'false', token });
    const socket = (this.socket = new WebSocket(url, 'v2.bsatn.spacetimedb'));
    socket.binaryType = 'arraybuffer';
    socket.onmessage = event => this.message(new Reader(new Uint8Array(event.data, 1)));
    socket.onclose = () => this.again();
  }

  again() {
    if (this.closed) return;
    clearTimeout(this.timer);
    this.on.status('offline');
    this.timer = setTimeout(() => this.open(), this.retry);
    this.retry = Math.min(2 * this.retry, LAST_RETRY_MS);
  }

  message(reader) {
    const tag = reader.u8();
    if (tag === 0) {
      this.socket.send(this.everyMs ? oneOff(this.query) : subscribe(this.query));
    } else if (tag === 1) {
      reader.take(8);
      const rows = reader.list(() => { reader.string(); return reader.rows(this.rowType); }).flat();
      this.retry = RETRY_MS;
      this.on.status('live');
      this.on.applied(rows);
    } else if (tag === 5) {
      reader.u32();
      if (reader.u8() !== 0) {
        this.close();
        this.on.refused(reader.string());
        return;
      }
      this.retry = RETRY_MS;
      this.on.status('live');
      this.on.applied(reader.list(() => { reader.string(); return reader.rows(this.rowType); }).flat());
      this.timer = setTimeout(() => { if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(oneOff(this.query)); }, this.everyMs);
    } else if (tag === 3) {
      if (reader.u8() === 0) reader.u32();
      reader.u32();
      this.close();
      this.on.refused(reader.string());
    } else if (tag === 4) {
      reader.list(() => {
        reader.u32();
        reader.list(() => {
          reader.string();
          reader.list(() => {
            const isEvent = reader.u8() === 1, inserted = reader.rows(this.rowType);
            this.on.changed(isEvent ? [] : reader.rows(this.rowType), inserted);
          });
        });
      });
    }
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    this.socket?.close();
  }
}
