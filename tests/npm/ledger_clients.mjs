// Clients of the module `ledger` for scripts/soak_kill.py: node ledger_clients.mjs URL DATABASE CLIENTS SEED ACCOUNTS MONEY
//
// Every client has one connection with confirmed reads and several calls in flight: it appends numbers and transfers
// money between random accounts. It subscribes to the accounts and looks at all of them after every change. When the
// connection ends it opens another one. Ends when its standard input does. What happens is told on standard output:
//
//   ask CLIENT N CONNECTION LAST   append N is sent; LAST is the last one confirmed before, -1 for none
//   ok CLIENT N                    append N is confirmed
//   moved CLIENT                   a transfer is confirmed
//   seen CLIENT STATES             so many states of the accounts were looked at so far
//   bad CLIENT TEXT                something was seen that must not be
import WebSocket from 'ws';
import {
  DbConnectionBuilder, DbConnectionImpl, SubscriptionBuilderImpl,
  procedures, reducerSchema, reducers, schema, setGlobalLogLevel, t, table,
} from 'spacetimedb';

globalThis.WebSocket = class extends WebSocket {
  constructor(url, protocols) { super(url, protocols, { perMessageDeflate: false, maxPayload: 0 }); }
};

const IN_FLIGHT = 4;
const RETRY_MS = 50;
const [url, database, clients, seed, accounts, money] = process.argv.slice(2).map((arg, i) => (i < 2 ? arg : Number(arg)));
const tell = (...words) => process.stdout.write(words.join(' ') + '\n');

// The official client only logs that a row it must change is not there.
setGlobalLogLevel('warn');
console.log = (...texts) => { if (/cache|row/i.test(texts.join(' '))) tell('bad', '-', texts.join(' ')); };

const ledger = schema({
  accounts: table(
    { name: 'accounts', indexes: [], constraints: [{ name: 'accounts_id_key', constraint: 'unique', columns: ['id'] }] },
    t.row({ id: t.u32().primaryKey(), balance: t.i64() }),
  ),
});
const remoteModule = {
  versionInfo: { cliVersion: '2.10.1' },
  tables: ledger.schemaType.tables,
  reducers: reducers(
    reducerSchema('append', { value: t.u64() }),
    reducerSchema('transfer', { payer: t.u32(), payee: t.u32(), amount: t.i64() }),
  ).reducersType.reducers,
  ...procedures(),
};
class SubscriptionBuilder extends SubscriptionBuilderImpl {}
class Connection extends DbConnectionImpl {
  static builder = () => new DbConnectionBuilder(remoteModule, config => new Connection(config));
  subscriptionBuilder = () => new SubscriptionBuilder(this);
}

/** Numbers in [0, 1), the same for the same seed (mulberry32). */
function random(state) {
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let x = Math.imul(state ^ (state >>> 15), 1 | state);
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
    return ((x ^ (x >>> 14)) >>> 0) / 4294967296;
  };
}

class Client {
  constructor(number) {
    this.number = number;
    this.draw = random(seed * 1000 + number);
    this.asked = 0;
    this.connections = 0;
    this.lastConfirmed = -1;
    this.states = 0;
    this.token = undefined;
  }

  connect() {
    let over = false;
    const again = () => {
      if (over) return;
      over = true;
      this.connection = null;
      setTimeout(() => this.connect(), RETRY_MS);
    };
    Connection.builder().withUri(url).withDatabaseName(database).withConfirmedReads(true).withToken(this.token)
      .onConnect((connection, _identity, token) => { this.token = token; this.work(connection); })
      .onDisconnect(again)
      .onConnectError(again)
      .build();
  }

  work(connection) {
    this.connection = connection;
    this.connections += 1;
    const look = () => this.look(connection);
    connection.db.accounts.onUpdate(look);
    connection.subscriptionBuilder().onApplied(look)
      .onError(ctx => tell('bad', this.number, `subscription: ${ctx.event}`))
      .subscribe(['SELECT * FROM accounts']);
    for (let i = 0; i < IN_FLIGHT; i++) this.ask(connection);
  }

  /** All accounts, after everything of one message has been applied. */
  look(connection) {
    let sum = 0n, count = 0;
    for (const account of connection.db.accounts.iter()) { sum += account.balance; count += 1; }
    if (count !== accounts || sum !== BigInt(money)) tell('bad', this.number, `${count} accounts with ${sum} in all`);
    this.states += 1;
    if (this.states % 64 === 1) tell('seen', this.number, this.states);
  }

  ask(connection) {
    if (this.connection !== connection) return;
    let call, done;
    if (this.draw() < 0.5) {
      const n = this.asked++;
      tell('ask', this.number, n, this.connections, this.lastConfirmed);
      call = connection.reducers.append({ value: (BigInt(this.number) << 40n) | BigInt(n) });
      done = () => { tell('ok', this.number, n); this.lastConfirmed = n; };
    } else {
      const payer = Math.floor(this.draw() * accounts);
      const payee = (payer + 1 + Math.floor(this.draw() * (accounts - 1))) % accounts;
      call = connection.reducers.transfer({ payer, payee, amount: BigInt(1 + Math.floor(this.draw() * 99)) });
      done = () => tell('moved', this.number);
    }
    call.then(
      () => { done(); this.ask(connection); },
      error => { if (this.connection === connection && connection.isActive) tell('bad', this.number, `call: ${error}`); },
    );
  }
}

process.on('unhandledRejection', error => tell('bad', '-', String(error)));
process.stdin.resume().on('end', () => process.exit(0));
for (let number = 0; number < clients; number++) new Client(number).connect();
