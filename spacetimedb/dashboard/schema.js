// A database's schema as the pages use it, from the answer of /schema?version=10.
//
//   {types: [name], tables: [{name, columns: [{name, type}], key, isPublic, isEvent, indexes, unique, autoInc, schedule}],
//    views: [{name, columns, ...}], reducers: [{name, params, isPrivate, lifecycle, schedule}], procedures: [..., returns]}
//
// A type is {kind, ...}: a primitive ('u8' ... 'string'), 'array' {of}, 'bytes', 'option' {of}, 'product' {fields: [{name,
// type}]}, 'sum' {variants: [{name, type}]}, or one of the special products: 'identity', 'connection', 'timestamp',
// 'duration', 'uuid'. `name` is set for named ones.

const SPECIAL = {
  __identity__: 'identity',
  __connection_id__: 'connection',
  __timestamp_micros_since_unix_epoch__: 'timestamp',
  __time_duration_micros__: 'duration',
  __uuid__: 'uuid',
};

const nameOf = option => option?.some ?? null;
const tag = sum => Object.keys(sum)[0];

/** The type of a JSON one; `types` and `names` resolve references. */
export function readType(raw, types = [], names = new Map()) {
  const kind = tag(raw), body = raw[kind];
  if (kind === 'Ref') {
    const type = readType(types[body], types, names);
    return names.has(body) ? { ...type, name: names.get(body) } : type;
  }
  if (kind === 'Array') {
    const of = readType(body, types, names);
    return of.kind === 'u8' ? { kind: 'bytes' } : { kind: 'array', of };
  }
  if (kind === 'Product') {
    const fields = body.elements.map((element, at) => ({
      name: nameOf(element.name) ?? String(at), type: readType(element.algebraic_type, types, names),
    }));
    if (fields.length === 1 && SPECIAL[fields[0].name]) return { kind: SPECIAL[fields[0].name] };
    return { kind: 'product', fields };
  }
  if (kind === 'Sum') {
    const variants = body.variants.map((variant, at) => ({
      name: nameOf(variant.name) ?? String(at), type: readType(variant.algebraic_type, types, names),
    }));
    if (variants.length === 2 && variants[0].name === 'some' && variants[1].name === 'none' && isUnit(variants[1].type)) {
      return { kind: 'option', of: variants[0].type };
    }
    return { kind: 'sum', variants };
  }
  return { kind: kind.toLowerCase() };
}

export const isUnit = type => type.kind === 'product' && type.fields.length === 0;
export const isInteger = type => /^[ui]\d+$/.test(type.kind);
export const isNumber = type => isInteger(type) || type.kind === 'f32' || type.kind === 'f64';
/** Whether every variant of a sum is bare, as in an enumeration. */
export const isEnum = type => type.kind === 'sum' && type.variants.every(variant => isUnit(variant.type));

/** How people write a type. */
export function typeText(type) {
  if (type.name) return type.name;
  if (type.kind === 'array') return `[${typeText(type.of)}]`;
  if (type.kind === 'option') return `${typeText(type.of)}?`;
  if (type.kind === 'product') return isUnit(type) ? '()' : `(${type.fields.map(field => field.name).join(', ')})`;
  if (type.kind === 'sum') return type.variants.map(variant => variant.name).join(' | ') || 'never';
  return { connection: 'connection id' }[type.kind] ?? type.kind;
}

/** The schema of a database. */
export function readSchema(raw) {
  const sections = {};
  for (const section of raw.sections) sections[tag(section)] = section[tag(section)];
  const types = sections.Typespace?.types ?? [];
  const names = new Map((sections.Types ?? []).map(entry => [entry.ty, entry.source_name.source_name]));
  const canonical = { Table: new Map(), Function: new Map() };
  for (const entry of sections.ExplicitNames?.entries ?? []) {
    canonical[tag(entry)]?.set(entry[tag(entry)].source_name, entry[tag(entry)].canonical_name);
  }
  const functionName = name => canonical.Function.get(name) ?? name;
  const tableName = name => canonical.Table.get(name) ?? name;
  const schedules = (sections.Schedules ?? []).map(entry => ({
    table: tableName(entry.table_name), column: entry.schedule_at_col, calls: functionName(entry.function_name),
  }));
  const read = type => readType(type, types, names);
  const columnsOf = type => (type.kind === 'product' ? type.fields : []);
  const tables = (sections.Tables ?? []).map(entry => {
    const name = tableName(entry.source_name);
    const algorithm = index => index.algorithm[tag(index.algorithm)];
    return {
      name,
      rowType: names.get(entry.product_type_ref) ?? null,
      columns: columnsOf(readType(types[entry.product_type_ref], types, names)),
      key: entry.primary_key[0] ?? null,
      isPublic: 'Public' in entry.table_access,
      isEvent: entry.is_event ?? false,
      isView: false,
      indexes: entry.indexes.map(index => [algorithm(index)].flat()),
      unique: entry.constraints.filter(item => item.data.Unique).map(item => item.data.Unique.columns),
      autoInc: entry.sequences.map(sequence => sequence.column),
      schedule: schedules.find(schedule => schedule.table === name) ?? null,
    };
  });
  const keys = new Map((sections.ViewPrimaryKeys ?? []).map(entry => [entry.view_source_name, entry.columns]));
  const views = (sections.Views ?? []).map(entry => {
    const result = read(entry.return_type), row = result.of ?? result;
    const columns = columnsOf(row);
    const key = columns.findIndex(column => column.name === keys.get(entry.source_name)?.[0]);
    return {
      name: functionName(entry.source_name), rowType: row.name ?? null, columns, key: key < 0 ? null : key,
      isPublic: entry.is_public, isEvent: false, isView: true, isAnonymous: entry.is_anonymous,
      indexes: [], unique: [], autoInc: [], schedule: null,
    };
  });
  const lifecycles = new Map(
    (sections.LifeCycleReducers ?? []).map(entry => [functionName(entry.function_name), tag(entry.lifecycle_spec)]));
  const params = entry => columnsOf(read({ Product: entry.params }));
  const reducers = (sections.Reducers ?? []).map(entry => {
    const name = functionName(entry.source_name);
    return {
      name, params: params(entry), isPrivate: 'Private' in entry.visibility,
      lifecycle: lifecycles.get(name) ?? null, schedule: schedules.find(item => item.calls === name) ?? null,
    };
  });
  const procedures = (sections.Procedures ?? []).map(entry => ({
    name: functionName(entry.source_name), params: params(entry), returns: read(entry.return_type), lifecycle: null,
    isPrivate: 'Private' in entry.visibility, schedule: schedules.find(item => item.calls === functionName(entry.source_name)) ?? null,
  }));
  const byName = (a, b) => a.name.localeCompare(b.name);
  return { tables: tables.sort(byName), views: views.sort(byName), reducers, procedures, schedules };
}
