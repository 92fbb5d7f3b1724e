// Opens connections that do nothing, prints {"connections", "connect_ms"}, holds them until stdin ends.
//   node idle.mjs --url ws://127.0.0.1:3000 --db ticker --connections 1000
import { performance } from 'node:perf_hooks';
import WebSocket from 'ws';
import { options } from './common.mjs';

const AT_ONCE = 50;
const o = options({ url: 'ws://127.0.0.1:3000', db: 'ticker', connections: 1000 });
const url = `${o.url}/v1/database/${o.db}/subscribe?compression=None`;

function open() {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url, ['v3.bsatn.spacetimedb', 'v2.bsatn.spacetimedb'], { perMessageDeflate: false });
    socket.once('message', () => resolve(socket)); // the greeting
    socket.once('error', reject);
  });
}

const start = performance.now();
const sockets = [];
while (sockets.length < o.connections) {
  const count = Math.min(AT_ONCE, o.connections - sockets.length);
  sockets.push(...(await Promise.all(Array.from({ length: count }, open))));
}
console.log(JSON.stringify({ connections: sockets.length, connect_ms: Math.round(performance.now() - start) }));
process.stdin.on('end', () => process.exit(0)).resume();
