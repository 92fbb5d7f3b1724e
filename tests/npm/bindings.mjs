// Hand-written bindings of module.py, as `spacetime generate` would make them.
import WebSocket from 'ws';
import {
  DbConnectionBuilder, DbConnectionImpl, SubscriptionBuilderImpl,
  procedures, reducerSchema, reducers, schema, setGlobalLogLevel, t, table,
} from 'spacetimedb';

// The client uses the global WebSocket; Node 18-21 has none.
globalThis.WebSocket = class extends WebSocket {
  constructor(url, protocols) { super(url, protocols, { perMessageDeflate: false, maxPayload: 0 }); }
};
setGlobalLogLevel('error');

const unique = (tableName, column) =>
  ({ name: `${tableName}_${column}_key`, constraint: 'unique', columns: [column] });

const tableSchema = schema({
  item: table(
    { name: 'item', indexes: [], constraints: [unique('item', 'id'), unique('item', 'name')] },
    t.row({ id: t.u64().primaryKey(), name: t.string(), level: t.u32() }),
  ),
  shout: table({ name: 'shout', event: true, indexes: [], constraints: [] }, t.row({ sender: t.identity(), text: t.string() })),
  beat: table(
    { name: 'beat', indexes: [], constraints: [unique('beat', 'id')] },
    t.row({ id: t.u32().primaryKey(), count: t.u32() }),
  ),
  visitor: table(
    { name: 'visitor', indexes: [], constraints: [unique('visitor', 'identity')] },
    t.row({ identity: t.identity().primaryKey(), visits: t.u32(), online: t.bool() }),
  ),
  ballast: table(
    { name: 'ballast', indexes: [], constraints: [unique('ballast', 'id')] },
    t.row({ id: t.u32().primaryKey(), data: t.string() }),
  ),
});

const reducerSchemas = {
  add_item: { name: t.string(), level: t.u32() },
  set_level: { name: t.string(), level: t.u32() },
  remove_item: { name: t.string() },
  add_item_or_say: { name: t.string() },
  fail: { text: t.string() },
  crash: {},
  shout: { text: t.string() },
  start_beat: { id: t.u32(), milliseconds: t.u32() },
  stop_beat: { id: t.u32() },
  set_ballast: { rows: t.u32(), size: t.u32(), mark: t.string() },
  no_such_reducer: {}, // not in the module
};

function bind(tables, parametersOfReducers) {
  const all = Object.entries(parametersOfReducers);
  const remoteModule = {
    versionInfo: { cliVersion: '2.10.1' },
    tables: tables.schemaType.tables,
    reducers: reducers(...all.map(([name, parameters]) => reducerSchema(name, parameters))).reducersType.reducers,
    ...procedures(),
  };
  class SubscriptionBuilder extends SubscriptionBuilderImpl {}
  return class DbConnection extends DbConnectionImpl {
    static builder = () => new DbConnectionBuilder(remoteModule, config => new this(config));
    subscriptionBuilder = () => new SubscriptionBuilder(this);
  };
}

export const DbConnection = bind(tableSchema, reducerSchemas);
/** Bindings of a version of the module in which add_item had no level. */
export const OutdatedConnection = bind(tableSchema, { ...reducerSchemas, add_item: { name: t.string() } });

const churnSchema = schema({
  things: table(
    { name: 'things', indexes: [], constraints: [unique('things', 'id')] },
    t.row({ id: t.u32().primaryKey(), owner: t.u32().index('btree'), value: t.u32(), name: t.string() }),
  ),
  places: table(
    { name: 'places', indexes: [], constraints: [unique('places', 'id')] },
    t.row({ id: t.u32().primaryKey(), chunk: t.u32().index('btree') }),
  ),
});
/** Of the sample module `churn`. */
export const ChurnConnection = bind(churnSchema, { churn: { seed: t.u32(), changes: t.u32() }, nothing: {} });
