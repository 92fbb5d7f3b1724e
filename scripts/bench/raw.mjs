// A client that speaks v2.bsatn by hand and decodes next to nothing, so that many of them fit beside the server.
import { performance } from 'node:perf_hooks';
import WebSocket from 'ws';

const text = value => { const bytes = Buffer.from(value); const out = Buffer.alloc(4 + bytes.length); out.writeUInt32LE(bytes.length); bytes.copy(out, 4); return out; };
const u32 = (...values) => { const out = Buffer.alloc(4 * values.length); values.forEach((value, i) => out.writeUInt32LE(value, 4 * i)); return out; };

export class RawClient {
  constructor(socket) { this.socket = socket; this.next = 1; this.waiting = new Map(); this.bytes = 0; this.messages = 0; this.updates = 0; this.onUpdate = null; }

  static open({ url, db }) {
    const socket = new WebSocket(`${url}/v1/database/${db}/subscribe?compression=None&confirmed=false`, ['v2.bsatn.spacetimedb'], { perMessageDeflate: false, maxPayload: 0 });
    const client = new RawClient(socket);
    return new Promise((resolve, reject) => {
      socket.once('error', reject);
      socket.on('message', data => { client.#receive(data); resolve(client); });
    });
  }

  // Message: compression tag, kind, then (for answers) the request id.
  #receive(data) {
    this.bytes += data.length;
    this.messages++;
    const kind = data[1];
    if (kind === 4) { this.updates++; this.onUpdate?.(data); return; }
    if (kind === 0) return;
    const at = kind === 3 ? (data[2] === 0 ? 3 : -1) : 2;
    const id = at < 0 ? 0 : data.readUInt32LE(at);
    const waiting = this.waiting.get(id);
    this.waiting.delete(id);
    if (waiting) waiting({ kind, data, ms: performance.now() - waiting.begun });
  }

  #request(head, ...rest) {
    const id = this.next++;
    return new Promise(resolve => {
      resolve.begun = performance.now();
      this.waiting.set(id, resolve);
      this.socket.send(Buffer.concat([Buffer.from([head]), u32(id), ...rest]));
    });
  }

  async subscribe(set, ...queries) {
    const answer = await this.#request(0, u32(set, queries.length), ...queries.map(text));
    if (answer.kind !== 1) throw new Error(answer.data.subarray(11).toString());
    return answer;
  }

  unsubscribe(set) { return this.#request(1, u32(set), Buffer.from([0])); }

  async call(reducer, ...args) {
    const answer = await this.#request(3, Buffer.from([0]), text(reducer), u32(4 * args.length), u32(...args));
    if (answer.kind !== 6 || answer.data[14] > 1) throw new Error(`${reducer}: ${answer.data.subarray(14).toString()}`);
    return answer;
  }

  async oneOff(query) { return this.#request(2, text(query)); }

  close() { this.socket.terminate(); }
}
