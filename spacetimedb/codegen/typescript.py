"""TypeScript bindings for npm `spacetimedb` 2.x, in the layout of upstream's generator.

    {x}_table.ts       export default __t.row({...}), per table and view
    {x}_reducer.ts     export default {...}, the arguments
    {x}_procedure.ts   params and returnType
    types.ts           every named type; types/reducers.ts, types/procedures.ts: what they come to in TypeScript
    index.ts           the schema objects, REMOTE_MODULE, query builders, contexts, DbConnection

`x` is the snake_case accessor. A field that mentions a named type is a getter, so that types may stand in any order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Final

from spacetimedb.schema.definition import (
    IndexDef,
    ModuleDef,
    ProcedureDef,
    ReducerDef,
    TableDef,
    TypeDef,
    ViewDef,
)
from spacetimedb.schema.names import camel_case, pascal_case, snake_case
from spacetimedb.types.algebraic import (
    AlgebraicType,
    Array,
    Primitive,
    Product,
    ProductElement,
    Ref,
    Sum,
    is_bytes,
    is_option,
    is_result,
    is_special,
    is_unit,
)
from spacetimedb.types.shapes import SCHEDULE_AT_SHAPE, Wrapped, shape_of

from .files import head

CLI_VERSION: Final = "2.8.3"
"""The version of upstream's generator that the files are like; the client refuses to work without one."""
_LINT: Final = "/* eslint-disable */\n/* tslint:disable */\n"
_TYPE_IMPORTS: Final = (
    "import { TypeBuilder as __TypeBuilder, t as __t, type AlgebraicTypeType as __AlgebraicTypeType, "
    'type Infer as __Infer } from "spacetimedb";\n'
)


def typescript_files(definition: ModuleDef, include_private: bool = False) -> dict[str, str]:
    """Paths and texts of the files. Submodules stand in folders of their own, as in upstream's output."""
    files: dict[str, str] = {}
    levels = list(_levels(definition, "", include_private))
    for level in levels:
        files |= level.files()
    files["index.ts"] = _index(levels)
    return files


def _levels(definition: ModuleDef, namespace: str, include_private: bool) -> Iterable[_Level]:
    yield _Level(definition, namespace, include_private)
    for submodule in definition.submodules:
        inner = f"{namespace}.{submodule.namespace}" if namespace else submodule.namespace
        yield from _levels(submodule.module, inner, include_private)


class _Level:
    """One level of a module; `namespace` is dotted, empty at the top."""

    def __init__(self, level: ModuleDef, namespace: str, include_private: bool) -> None:
        self.level = level
        self.namespace = namespace
        self.folder = "".join(f"{part}/" for part in namespace.split(".") if part)
        self.qualifier = f"{namespace}." if namespace else ""
        self.prefix = "".join(f"{pascal_case(part)}_" for part in namespace.split(".") if part)
        shown = [t for t in level.tables if t.is_public or include_private]
        self.tables: list[TableDef] = sorted(shown, key=lambda t: t.name)
        self.views: list[ViewDef] = sorted(level.views, key=lambda v: v.name)
        self.reducers: list[ReducerDef] = [
            r for r in level.reducers if r.lifecycle is None and (include_private or not r.is_private)
        ]
        self.procedures: list[ProcedureDef] = sorted(
            (p for p in level.procedures if include_private or not p.is_private), key=lambda p: p.name
        )
        self.names = {t.type_ref: "".join((*t.scope, t.name)) for t in level.types}

    def files(self) -> dict[str, str]:
        files: dict[str, str] = {}
        for table in self.tables:
            files[f"{self.folder}{snake_case(table.accessor_name)}_table.ts"] = self._row_file(table)
        for view in self.views:
            files[f"{self.folder}{snake_case(view.accessor_name)}_table.ts"] = self._row_file(view)
        for reducer in self.reducers:
            body = f"export default {self._fields(reducer.declared_params.elements)};\n"
            files[f"{self.folder}{snake_case(reducer.accessor_name)}_reducer.ts"] = self._file(body)
        for procedure in self.procedures:
            body = (
                f"export const params = {self._fields(procedure.declared_params.elements)};\n"
                f"export const returnType = {self.type(procedure.declared_return_type)}\n"
            )
            files[f"{self.folder}{snake_case(procedure.accessor_name)}_procedure.ts"] = self._file(body)
        files[f"{self.folder}types.ts"] = self._types()
        if not self.namespace:
            files["types/reducers.ts"] = self._reducer_types()
            files["types/procedures.ts"] = self._procedure_types()
        return files

    # -- types

    def type(self, t: AlgebraicType) -> str:
        """The builder expression of a type."""
        if isinstance(t, Ref):
            name = self.names.get(t.index)
            return name if name is not None else self.type(self.level.typespace[t.index])
        shape = shape_of(t, self.level.typespace)
        if isinstance(shape, Wrapped):
            return f"__t.{camel_case(shape.cls.__name__)}()"
        if shape == SCHEDULE_AT_SHAPE:
            return "__t.scheduleAt()"
        if isinstance(t, Primitive):
            return f"__t.{t.kind.lower()}()"
        if isinstance(t, Array):
            return "__t.byteArray()" if is_bytes(t) else f"__t.array({self.type(t.element)})"
        if isinstance(t, Sum):
            if is_option(t):
                return f"__t.option({self.type(t.variants[0].algebraic_type)})"
            if is_result(t):
                return f"__t.result({', '.join(self.type(v.algebraic_type) for v in t.variants)})"
            return "__t.never()" if not t.variants else f'__t.enum("", {self._variants(t)})'
        if is_unit(t):
            return "__t.unit()"
        assert isinstance(t, Product)
        return f'__t.object("", {self._fields(t.elements)})'

    def _mentioned(self, t: AlgebraicType) -> set[str]:
        """Named types in a type, those behind unnamed ones too."""
        match t:
            case Ref(index):
                name = self.names.get(index)
                return {name} if name is not None else self._mentioned(self.level.typespace[index])
            case Array(element):
                return self._mentioned(element)
            case Product(elements):
                return set().union(*(self._mentioned(e.algebraic_type) for e in elements))
            case Sum(variants):
                return set().union(*(self._mentioned(v.algebraic_type) for v in variants))
        return set()

    def _member(self, key: str, t: AlgebraicType, suffix: str = "") -> str:
        expression = self.type(t) + suffix
        if self._mentioned(t):
            return f"  get {key}() {{\n    return {expression};\n  }},\n"
        return f"  {key}: {expression},\n"

    def _fields(self, elements: Iterable[ProductElement]) -> str:
        members = "".join(self._member(camel_case(e.name or f"_{n}"), e.algebraic_type) for n, e in enumerate(elements))
        return f"{{\n{members}}}" if members else "{}"

    def _variants(self, t: Sum) -> str:
        members = (
            self._member(pascal_case(v.name or f"Variant{n}"), v.algebraic_type) for n, v in enumerate(t.variants)
        )
        return f"{{\n{''.join(members)}}}"

    def _types(self) -> str:
        functions = {pascal_case(r.accessor_name) for r in self.reducers}
        parts = [
            self._named(t)
            for t in sorted(self.level.types, key=lambda t: (t.scope, t.name))
            if self.names[t.type_ref] not in functions
        ]
        return self._head() + _TYPE_IMPORTS + "\n" + "\n".join(part for part in parts if part)

    def _named(self, named: TypeDef) -> str:
        t, name = self.level.typespace[named.type_ref], self.names[named.type_ref]
        note = ": __TypeBuilder<__AlgebraicTypeType, __AlgebraicTypeType>" if name == "AlgebraicType" else ""
        if isinstance(t, Product) and not is_special(t):
            body = f'__t.object("{name}", {self._fields(t.elements)})'
        elif isinstance(t, Sum) and not is_special(t):
            body = f'__t.enum("{name}", {self._variants(t)})'
        else:
            body = self.type(t)
        return f"export const {name}{note} = {body};\nexport type {name} = __Infer<typeof {name}>;\n"

    # -- files

    def _head(self) -> str:
        return f"{head('//')}\n{_LINT}"

    def _file(self, body: str, types: Iterable[str] = ()) -> str:
        used = set(types) or {name for name in self.names.values() if _mentions(body, name)}
        imports = (
            f'import {{\n{"".join(f"  {name},{chr(10)}" for name in sorted(used))}}} from "./types";\n' if used else ""
        )
        return f"{self._head()}{_TYPE_IMPORTS}{imports}\n{body}"

    def _row_file(self, table: TableDef | ViewDef) -> str:
        row = self.level.typespace[table.type_ref]
        assert isinstance(row, Product)
        members = []
        for position, (element, column) in enumerate(zip(row.elements, table.columns, strict=True)):
            key = camel_case(column.accessor_name)
            suffix = ".primaryKey()" if position == table.primary_key else ""
            if key != column.name:
                suffix += f'.name("{column.name}")'
            members.append(self._member(key, element.algebraic_type, suffix))
        return self._file(f"export default __t.row({{\n{''.join(members)}}});\n")

    def _reducer_types(self) -> str:
        imports, types = "", ""
        for reducer in self.reducers:
            name = pascal_case(reducer.accessor_name)
            imports += f'import {name}Reducer from "../{snake_case(reducer.accessor_name)}_reducer";\n'
            types += f"export type {name}Params = __Infer<typeof {name}Reducer>;\n"
        return f'{self._head()}import {{ type Infer as __Infer }} from "spacetimedb";\n\n{imports}\n{types}'

    def _procedure_types(self) -> str:
        imports, types = "", ""
        for procedure in self.procedures:
            name = pascal_case(procedure.accessor_name)
            imports += f'import * as {name}Procedure from "../{snake_case(procedure.accessor_name)}_procedure";\n'
            types += f"export type {name}Args = __Infer<typeof {name}Procedure.params>;\n"
            types += f"export type {name}Result = __Infer<typeof {name}Procedure.returnType>;\n"
        return f'{self._head()}import {{ type Infer as __Infer }} from "spacetimedb";\n\n{imports}\n{types}'

    # -- parts of index.ts

    def imports(self) -> str:
        lines = []
        for reducer in self.reducers:
            name, path = self._place(reducer.accessor_name)
            lines.append(f'import {name}Reducer from "{path}_reducer";')
        for procedure in self.procedures:
            name, path = self._place(procedure.accessor_name)
            lines.append(f'import * as {name}Procedure from "{path}_procedure";')
        for accessor in [t.accessor_name for t in self.tables] + [v.accessor_name for v in self.views]:
            name, path = self._place(accessor)
            lines.append(f'import {name}Row from "{path}_table";')
        return "".join(f"{line}\n" for line in lines)

    def _place(self, accessor: str) -> tuple[str, str]:
        """Name of what a file exports (without its kind), and the file (without its ending)."""
        return f"{self.prefix}{pascal_case(accessor)}", f"./{self.folder}{snake_case(accessor)}"

    def key(self, table: TableDef | ViewDef) -> str:
        """Property of a table in the schema: of a submodule's the full name."""
        return f'"{self.qualifier}{table.name}"' if self.namespace else camel_case(table.accessor_name)

    def table_entries(self) -> str:
        entries = [self._table_entry(table) for table in self.tables]
        for view in self.views:
            row = f"{self._place(view.accessor_name)[0]}Row"
            entries.append(
                f"  {self.key(view)}: __table({{\n    name: '{self.qualifier}{view.name}',\n"
                f"    indexes: [\n    ],\n    constraints: [\n    ],\n  }}, {row}),\n"
            )
        return "".join(entries)

    def _table_entry(self, table: TableDef) -> str:
        def columns(positions: Iterable[int]) -> str:
            return "".join(f"        '{camel_case(table.columns[n].accessor_name)}',\n" for n in positions)

        indexes = "".join(
            f"      {{ accessor: '{index.accessor_name or index.name}', name: '{self.qualifier}{index.name}', "
            f"algorithm: 'btree', columns: [\n{columns(index.columns)}      ] }},\n"
            for index in _chosen(table.indexes)
        )
        constraints = "".join(
            f"      {{ name: '{self.qualifier}{unique.name}', constraint: 'unique', columns: [\n"
            f"{columns(unique.columns)}      ] }},\n"
            for unique in table.constraints
        )
        event = "    event: true,\n" if table.is_event else ""
        return (
            f"  {self.key(table)}: __table({{\n    name: '{self.qualifier}{table.name}',\n"
            f"    indexes: [\n{indexes}    ],\n    constraints: [\n{constraints}    ],\n{event}"
            f"  }}, {self.prefix}{pascal_case(table.accessor_name)}Row),\n"
        )

    def reducer_entries(self) -> str:
        return "".join(
            f'  __reducerSchema("{self.qualifier}{r.name}", {self.prefix}{pascal_case(r.accessor_name)}Reducer),\n'
            for r in self.reducers
        )

    def procedure_entries(self) -> str:
        entries = ""
        for procedure in self.procedures:
            name = f"{self.prefix}{pascal_case(procedure.accessor_name)}Procedure"
            entries += f'  __procedureSchema("{self.qualifier}{procedure.name}", {name}.params, {name}.returnType),\n'
        return entries

    def aliases(self) -> dict[str, str]:
        """Accessors that are not camelCase: the spelling of older bindings."""
        accessors = [t.accessor_name for t in self.tables] + [v.accessor_name for v in self.views]
        keys = {camel_case(a) for a in accessors}
        return {a: camel_case(a) for a in accessors if a not in keys}


def _chosen(indexes: Iterable[IndexDef]) -> list[IndexDef]:
    """Indexes that the module's author asked for and named; what constraints bring along has no accessor."""
    return [index for index in indexes if index.accessor_name is not None]


def _mentions(text: str, name: str) -> bool:
    return re.search(rf"(?<![\w.\"]){re.escape(name)}(?![\w\"])", text) is not None


def _index(levels: list[_Level]) -> str:
    """The text of index.ts."""
    imports = "".join(level.imports() for level in levels)
    tables = "".join(level.table_entries() for level in levels)
    reducers = "".join(level.reducer_entries() for level in levels)
    procedures = "".join(level.procedure_entries() for level in levels)
    aliases = levels[0].aliases()
    return _INDEX.format(
        head=head("//"),
        lint=_LINT,
        version=CLI_VERSION,
        imports=imports,
        tables=tables,
        reducers=reducers,
        procedures=procedures,
        view=_query_builders(levels, aliases),
        connection=_ALIASED_CONNECTION if aliases else "",
        contexts=_contexts(bool(aliases)),
    )


def _query_builders(levels: list[_Level], aliases: dict[str, str]) -> str:
    """`tables`: those of submodules below their namespaces, and deprecated spellings (`chat_message`)."""
    builder, made = "__QueryBuilder<typeof tablesSchema.schemaType>", "__makeQueryBuilder(tablesSchema.schemaType)"
    text = ""
    if len(levels) > 1:
        text = f"const __qb = {made};\nconst __nested = {{\n  ...__qb,\n{_nested(levels, '')}}};\n"
        builder, made = "typeof __nested", "__nested"
    if not aliases:
        return f"{text}export const tables: {builder} = {made};\n"
    members = "".join(
        f"  /** @deprecated Use `{key}`. */\n  {json.dumps(alias)}: T[{json.dumps(key)} & keyof T];\n"
        for alias, key in aliases.items()
    )
    entries = "".join(f"  {json.dumps(alias)}: {json.dumps(key)},\n" for alias, key in aliases.items())
    return f"""{text}type __WithAliases<T> = T & {{
{members}}};

const __aliases: Record<string, string> = {{
{entries}}};

function __withAliases<T extends object>(source: T): __WithAliases<T> {{
  const target = Object.create(Object.getPrototypeOf(source), Object.getOwnPropertyDescriptors(source));
  for (const [alias, key] of Object.entries(__aliases)) {{
    Object.defineProperty(target, alias, {{ get: () => target[key], configurable: true }});
  }}
  return target;
}}

export type Tables = __WithAliases<{builder}>;
export const tables: Tables = __withAliases({made});
"""


def _nested(levels: list[_Level], namespace: str) -> str:
    """Members of the object literal of a namespace: its tables, and the namespaces inside."""
    text = ""
    for level in levels:
        outer, _, name = level.namespace.rpartition(".")
        if level.namespace and outer == namespace:
            tables: list[TableDef | ViewDef] = [*level.tables, *level.views]
            own = "".join(f"{camel_case(t.accessor_name)}: __qb[{level.key(t)}], " for t in tables)
            text += f"  {name}: {{ {own}{_nested(levels, level.namespace).strip()} }},\n"
    return text


def _contexts(has_aliases: bool) -> str:
    view = 'export type DbView = __WithAliases<__DbConnectionImpl<typeof REMOTE_MODULE>["db"]>;\n'
    kinds = ("Event", "ReducerEvent", "SubscriptionEvent", "Error")
    contexts = [f"export type {kind}Context = __{kind}ContextInterface<typeof REMOTE_MODULE>;\n" for kind in kinds]
    return (view if has_aliases else "") + "".join(contexts)


_ALIASED_CONNECTION: Final = """
  declare db: DbView;

  constructor(config: __DbConnectionConfig<typeof REMOTE_MODULE>) {
    super(config);
    this.db = __withAliases(this.db);
  }
"""


_INDEX: Final = """{head}
{lint}
// This was generated using spacetimedb cli version {version} (Python).

import {{
  DbConnectionBuilder as __DbConnectionBuilder,
  DbConnectionImpl as __DbConnectionImpl,
  SubscriptionBuilderImpl as __SubscriptionBuilderImpl,
  convertToAccessorMap as __convertToAccessorMap,
  makeQueryBuilder as __makeQueryBuilder,
  procedureSchema as __procedureSchema,
  procedures as __procedures,
  reducerSchema as __reducerSchema,
  reducers as __reducers,
  schema as __schema,
  table as __table,
  type DbConnectionConfig as __DbConnectionConfig,
  type ErrorContextInterface as __ErrorContextInterface,
  type EventContextInterface as __EventContextInterface,
  type QueryBuilder as __QueryBuilder,
  type ReducerEventContextInterface as __ReducerEventContextInterface,
  type RemoteModule as __RemoteModule,
  type SubscriptionEventContextInterface as __SubscriptionEventContextInterface,
  type SubscriptionHandleImpl as __SubscriptionHandleImpl,
}} from "spacetimedb";

{imports}
const tablesSchema = __schema({{
{tables}}});

const reducersSchema = __reducers(
{reducers});

const proceduresSchema = __procedures(
{procedures});

const REMOTE_MODULE = {{
  versionInfo: {{
    cliVersion: "{version}" as const,
  }},
  tables: tablesSchema.schemaType.tables,
  reducers: reducersSchema.reducersType.reducers,
  ...proceduresSchema,
}} satisfies __RemoteModule<
  typeof tablesSchema.schemaType,
  typeof reducersSchema.reducersType,
  typeof proceduresSchema
>;

{view}
export const reducers = __convertToAccessorMap(reducersSchema.reducersType.reducers);
export const procedures = __convertToAccessorMap(proceduresSchema.procedures);

{contexts}export type SubscriptionHandle = __SubscriptionHandleImpl<typeof REMOTE_MODULE>;

export class SubscriptionBuilder extends __SubscriptionBuilderImpl<typeof REMOTE_MODULE> {{}}

export class DbConnectionBuilder extends __DbConnectionBuilder<DbConnection> {{}}

export class DbConnection extends __DbConnectionImpl<typeof REMOTE_MODULE> {{{connection}
  static builder = (): DbConnectionBuilder =>
    new DbConnectionBuilder(
      REMOTE_MODULE,
      (config: __DbConnectionConfig<typeof REMOTE_MODULE>) => new DbConnection(config),
    );

  override subscriptionBuilder = (): SubscriptionBuilder => new SubscriptionBuilder(this);
}}
"""
