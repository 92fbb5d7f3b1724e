"""Validation: from what a module says of itself to a ``ModuleDef``, or to the texts that tell its author what is wrong.

Three stages; all errors of a stage are reported, a later stage is not reached when an earlier one failed:

1. every object by itself, and the names that tables, views and their objects share;
2. what objects say of each other: functions' and types' names, lifecycle, schedules, view keys, routes;
3. what would only fail while the tables are created (columns that collide, names of system tables).

Row filters (row level security) are not compiled here: the caller does that, it knows SQL.

A version 9 definition is first brought into the form of version 10, with a policy of no conversion.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

from msgspec.structs import replace

from spacetimedb.schema.canonical_names import Naming
from spacetimedb.schema.definition import (
    HttpHandlerDef,
    HttpRouteDef,
    LifecycleEvent,
    ModuleDef,
    ProcedureDef,
    ReducerDef,
    ScheduleDef,
    SubmoduleDef,
    TableDef,
    TypeDef,
    ViewDef,
)
from spacetimedb.schema.names import NAMESPACE_LIMIT
from spacetimedb.schema.raw_structs import (
    HttpMethod,
    Lifecycle,
    RawModuleDef,
    RawModuleDefV9,
    RawModuleDefV10,
    RawProcedure,
    RawReducer,
    RawType,
    RawView,
    Visibility,
)
from spacetimedb.schema.system_tables import SYSTEM_TABLES_BY_NAME
from spacetimedb.schema.validation_errors import Kind, ModuleDefErrors, Problem, Problems
from spacetimedb.schema.validation_tables import Columns, Entities, TableValidator
from spacetimedb.schema.validation_types import TypeUses, debug_product, inlined_or_same
from spacetimedb.schema.version_9 import as_version_10
from spacetimedb.types.algebraic import (
    SCHEDULE_AT,
    STRING,
    U64,
    UNIT,
    AlgebraicType,
    Array,
    Product,
    ProductElement,
    Ref,
    Sum,
    Typespace,
    display,
    is_option,
)

__all__ = ["Kind", "ModuleDefErrors", "Problem", "validate"]

LIFECYCLE_EVENTS: dict[Lifecycle, LifecycleEvent] = {
    Lifecycle.INIT: "init",
    Lifecycle.ON_CONNECT: "on_connect",
    Lifecycle.ON_DISCONNECT: "on_disconnect",
}
LIFECYCLE_NAMES = {Lifecycle.INIT: "Init", Lifecycle.ON_CONNECT: "OnConnect", Lifecycle.ON_DISCONNECT: "OnDisconnect"}
_ROUTE_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_~/")


def validate(raw: RawModuleDef) -> ModuleDef:
    """The validated definition. Raises ``ModuleDefErrors``, whose text is the whole answer to the publisher."""
    if isinstance(raw, RawModuleDefV9):
        problems = Problems()
        converted = as_version_10(raw, problems)
        return _Validator(converted, raw, problems).validate()
    return _Validator(raw, raw, Problems()).validate()


class _Validator:
    """Validates one module, and its submodules with validators of their own."""

    def __init__(self, raw: RawModuleDefV10, original: RawModuleDef, problems: Problems) -> None:
        self._raw = raw
        self._original = original
        self._version: Literal[9, 10] = 9 if isinstance(original, RawModuleDefV9) else 10
        self._problems = problems
        self._naming = Naming(raw, self._version)
        self._source_types = Typespace(raw.typespace)
        self._typespace = Typespace(self._naming.types(raw.typespace))
        self._entities = Entities(problems)
        self._columns = Columns(self._source_types, self._typespace, self._naming, problems)
        defined = {t.ty for t in raw.types} | {table.product_type_ref for table in raw.tables}
        self._uses = TypeUses(self._source_types, defined, problems)
        self._defined = sorted(index for index in defined if index < len(self._source_types))

    def validate(self) -> ModuleDef:
        raw, problems = self._raw, self._problems
        types = [t for raw_type in raw.types if (t := self._type(raw_type)) is not None]
        for index in self._defined:
            self._check_definition(index)
        tables = []
        for raw_table in raw.tables:
            validator = TableValidator(raw_table, self._naming, problems, self._entities, self._version)
            table = validator.validate(self._columns)
            if table is not None:
                tables.append(table)
        reducers = [self._reducer(reducer) for reducer in raw.reducers]
        procedures = [self._procedure(procedure) for procedure in raw.procedures]
        views = [view for raw_view in raw.views if (view := self._view(raw_view)) is not None]
        handlers = [HttpHandlerDef(self._naming.function(h.source_name), h.source_name) for h in raw.http_handlers]
        for handler in handlers:
            problems.identifier(handler.name)
        submodules = self._submodules()
        problems.raise_if_any()
        self._columns.endless.raise_if_any()

        self._check_unique_names(types, [*reducers, *procedures, *views], handlers)
        self._set_lifecycle(reducers)
        schedules = self._schedules(tables, reducers, procedures)
        views = self._with_keys(views, tables)
        routes = self._routes(handlers)
        problems.raise_if_any()
        _check_creation(tables)
        return ModuleDef(
            version=self._version,
            typespace=self._typespace,
            raw=self._original,
            types=tuple(types),
            tables=tuple(tables),
            reducers=tuple(reducers),
            procedures=tuple(procedures),
            views=tuple(views),
            schedules=tuple(schedules),
            http_handlers=tuple(handlers),
            http_routes=tuple(routes),
            row_level_security=tuple(policy.sql for policy in raw.row_level_security),
            submodules=tuple(submodules),
        )

    def _type(self, raw: RawType) -> TypeDef | None:
        name = self._naming.type_name(raw.source_name.source_name)
        scope = tuple(self._naming.type_name(segment) for segment in raw.source_name.scope)
        fine = [self._problems.identifier(part) for part in (*scope, name)]
        if raw.ty >= len(self._source_types):
            full = "::".join((*scope, name))
            self._problems.add(Kind.TYPE_REFERENCE, f'Type "{full}" has invalid ref: &{raw.ty}')
            return None
        if not all(fine):
            return None
        t = self._typespace[raw.ty]
        if not raw.custom_ordering and not _is_ordered_by_name(t):
            full = "::".join((*scope, name))
            self._problems.add(
                Kind.TYPE_ORDER,
                f'type `"{full}"` is not annotated with a custom ordering, but uses one: {display(t)}',
                full,
            )
        return TypeDef(scope, name, raw.ty, raw.custom_ordering)

    def _check_definition(self, index: int) -> None:
        is_named = any(t.ty == index for t in self._raw.types)
        if is_named or isinstance(self._source_types[index], Product):
            self._uses.check_definition(index)

    def _params(self, params: Product, location: str) -> Product:
        """Check a function's parameters; the same with types of canonical names, inlined where they end."""
        self._uses.check_params(params, location)
        for element in params.elements:
            if element.name is not None:
                self._problems.identifier(self._naming.column(element.name))
        return Product(
            tuple(
                ProductElement(element.name, inlined_or_same(self._typespace, element.algebraic_type))
                for element in params.elements
            )
        )

    def _reducer(self, raw: RawReducer) -> ReducerDef:
        name = self._naming.function(raw.source_name)
        self._problems.identifier(name)
        self._problems.identifier(raw.source_name)
        if raw.ok_return_type != UNIT or raw.err_return_type != STRING:
            found = f"Result<{display(raw.ok_return_type)}, {display(raw.err_return_type)}>"
            self._problems.add(Kind.RETURN_TYPE, f"reducer {name} has invalid return type: found {found}", name)
        params = self._params(raw.params, f"reducer `{name}`")
        return ReducerDef(name, raw.source_name, params, raw.params, raw.visibility is Visibility.PRIVATE)

    def _procedure(self, raw: RawProcedure) -> ProcedureDef:
        name = self._naming.function(raw.source_name)
        self._problems.identifier(name)
        self._problems.identifier(raw.source_name)
        params = self._params(raw.params, f"procedure `{name}`")
        self._uses.check_use(raw.return_type, f"procedure `{name}` return value")
        return ProcedureDef(
            name,
            raw.source_name,
            params,
            raw.params,
            inlined_or_same(self._typespace, raw.return_type),
            raw.return_type,
            raw.visibility is Visibility.PRIVATE,
        )

    def _view(self, raw: RawView) -> ViewDef | None:
        name = self._naming.function(raw.source_name)
        if not self._problems.identifier(name):
            return None
        params = self._params(raw.params, f"view `{name}`")
        if not self._entities.add(name):
            return None
        kind, row = _view_rows(raw.return_type)
        if row is None:
            self._problems.add(Kind.VIEW, f"View {name} has invalid return type {display(raw.return_type)}", name)
            return None
        found = self._columns.of(name, row)
        if found is None:
            return None
        if row not in self._defined:
            self._uses.check_use(raw.return_type, f"view `{name}` return value")
        columns, row_type = found
        return ViewDef(
            name=name,
            accessor_name=raw.source_name,
            index=raw.index,
            is_public=raw.is_public,
            is_anonymous=raw.is_anonymous,
            params=params,
            declared_params=raw.params,
            declared_return_type=raw.return_type,
            kind=kind,
            row_type=row_type,
            columns=columns,
            type_ref=row,
        )

    def _submodules(self) -> list[SubmoduleDef]:
        problems = self._problems
        submodules = []
        namespaces = Entities(problems)
        for raw in self._raw.submodules:
            namespace = raw.namespace
            length = len(namespace.encode())
            if length > NAMESPACE_LIMIT:
                problems.add(
                    Kind.SUBMODULE,
                    f"submodule namespace `{namespace}` is {length} bytes, "
                    f"which exceeds the {NAMESPACE_LIMIT}-byte limit",
                )
                continue
            if not problems.identifier(namespace) or not namespaces.add(namespace):
                continue
            lifecycles = raw.module.lifecycle_reducers
            for lifecycle in lifecycles:
                problems.add(
                    Kind.SUBMODULE,
                    f"lifecycle event {LIFECYCLE_NAMES[lifecycle.lifecycle_spec]} is not permitted in submodule under "
                    f"namespace `{namespace}`; lifecycle reducers may only be declared in the root module",
                )
            if lifecycles:
                continue
            try:
                module = _Validator(raw.module, raw.module, Problems()).validate()
            except ModuleDefErrors as errors:
                if not errors.problems:
                    raise
                problems.found += errors.problems
            else:
                submodules.append(SubmoduleDef(namespace, module))
        return submodules

    def _check_unique_names(
        self,
        types: list[TypeDef],
        functions: list[ReducerDef | ProcedureDef | ViewDef],
        handlers: list[HttpHandlerDef],
    ) -> None:
        for full in _repeated(["::".join((*t.scope, t.name)) for t in types]):
            self._problems.add(Kind.DUPLICATE_TYPE_NAME, f"name `{full}` is used for multiple types", full)
        for name in _repeated([function.name for function in functions]):
            self._problems.add(
                Kind.DUPLICATE_FUNCTION, f"Name {name} is used for multiple reducers, procedures and/or views", name
            )
        for name in _repeated([handler.name for handler in handlers]):
            self._problems.add(Kind.HTTP, f"HTTP handler name {name} is used for multiple HTTP handlers")

    def _set_lifecycle(self, reducers: list[ReducerDef]) -> None:
        """Mark the lifecycle reducers, which also makes them private (not in version 9)."""
        positions = {reducer.accessor_name: position for position, reducer in enumerate(reducers)}
        seen: set[Lifecycle] = set()
        for assignment in self._raw.lifecycle_reducers:
            event = assignment.lifecycle_spec
            position = positions.get(assignment.function_name)
            if position is None:
                self._problems.add(Kind.LIFECYCLE, f"lifecycle event {LIFECYCLE_NAMES[event]} without reducer", event)
                continue
            reducer = reducers[position]
            if event in seen or reducer.lifecycle is not None:
                self._problems.add(
                    Kind.DUPLICATE_LIFECYCLE,
                    f"Multiple reducers defined for lifecycle event {LIFECYCLE_NAMES[event]}",
                    event,
                )
            seen.add(event)
            reducers[position] = replace(
                reducer,
                lifecycle=LIFECYCLE_EVENTS[event],
                is_private=reducer.is_private or self._version == 10,
            )

    def _schedules(
        self, tables: list[TableDef], reducers: list[ReducerDef], procedures: list[ProcedureDef]
    ) -> list[ScheduleDef]:
        """The schedules; each is also put into its table, and makes its function private (not in version 9)."""
        table_positions = {table.accessor_name: position for position, table in enumerate(tables)}
        schedules = []
        for raw in self._raw.schedules:
            table_position = table_positions.get(raw.table_name)
            if table_position is None:
                self._problems.add(Kind.TABLE_NOT_FOUND, f"Table {raw.table_name} not found", raw.table_name)
                continue
            table = tables[table_position]
            name = self._naming.schedule(raw.source_name, table.name)
            if not self._entities.add(name) or not self._is_schedulable(table, raw.schedule_at_col):
                continue
            kind = self._scheduled_function(raw.function_name, name, table, reducers, procedures)
            if kind is None:
                continue
            function = self._naming.function(raw.function_name)
            schedule = ScheduleDef(name, function, raw.schedule_at_col, table.name, kind)
            schedules.append(schedule)
            tables[table_position] = replace(table, schedule=schedule)
        return schedules

    def _is_schedulable(self, table: TableDef, at_column: int) -> bool:
        """Whether the at-column says when, and the primary key is a u64."""
        key = table.primary_key
        if (
            at_column < len(table.columns)
            and table.columns[at_column].algebraic_type == SCHEDULE_AT
            and key is not None
            and table.columns[key].algebraic_type == U64
        ):
            return True
        declared = self._typespace[table.type_ref]
        assert isinstance(declared, Product)
        self._problems.add(
            Kind.SCHEDULED_COLUMNS,
            "A scheduled table must have columns `scheduled_id: u64` and `scheduled_at: ScheduledAt`, "
            f"but table `{table.name}` has columns {debug_product(declared)}",
            table.name,
        )
        return False

    def _scheduled_function(
        self,
        source_name: str,
        schedule: str,
        table: TableDef,
        reducers: list[ReducerDef],
        procedures: list[ProcedureDef],
    ) -> Literal["reducer", "procedure"] | None:
        """What kind of function a schedule calls; None when there is no such function or it takes something else."""
        is_version_10 = self._version == 10
        for reducer_position, reducer in enumerate(reducers):
            if reducer.accessor_name == source_name:
                params = reducer.declared_params
                reducers[reducer_position] = replace(reducer, is_private=reducer.is_private or is_version_10)
                return "reducer" if self._takes_row(params, reducer.name, table) else None
        for procedure_position, procedure in enumerate(procedures):
            if procedure.accessor_name == source_name:
                params = procedure.declared_params
                procedures[procedure_position] = replace(procedure, is_private=procedure.is_private or is_version_10)
                return "procedure" if self._takes_row(params, procedure.name, table) else None
        self._problems.add(
            Kind.SCHEDULED_FUNCTION,
            f"Schedule {schedule} refers to a scheduled reducer or procedure "
            f"{self._naming.function(source_name)} that does not exist",
            schedule,
        )
        return None

    def _takes_row(self, params: Product, function: str, table: TableDef) -> bool:
        """Whether the parameters are exactly one row of the table, by the same reference."""
        if [element.algebraic_type for element in params.elements] == [Ref(table.type_ref)]:
            return True
        self._problems.add(
            Kind.SCHEDULED_PARAMETERS,
            f"Scheduled reducer {function} expected to have type (0: &{table.type_ref}), "
            f"but has type {display(params)}",
            function,
        )
        return False

    def _with_keys(self, views: list[ViewDef], tables: list[TableDef]) -> list[ViewDef]:
        """The views with their primary keys: declared, or inherited by queries from the tables they return."""
        positions = {view.accessor_name: position for position, view in enumerate(views)}
        views = list(views)
        declared: set[str] = set()
        for raw in self._raw.view_primary_keys:
            source = raw.view_source_name
            position = positions.get(source)
            if position is None:
                self._problems.add(Kind.VIEW, f"View {source} referenced by primary key definition not found", source)
                continue
            view = views[position]
            if source in declared:
                self._problems.add(Kind.VIEW, f"View {view.name} has multiple primary key definitions", view.name)
                continue
            declared.add(source)
            if len(raw.columns) > 1:
                listed = ", ".join(f'"{column}"' for column in raw.columns)
                self._problems.add(
                    Kind.VIEW, f"View {view.name} has multiple primary key columns: [{listed}]", view.name
                )
                continue
            for column in raw.columns:
                key = next((i for i, c in enumerate(view.columns) if c.accessor_name == column), None)
                if key is None:
                    self._problems.add(
                        Kind.VIEW, f"Primary key column {column} for view {view.name} not found", view.name
                    )
                else:
                    views[position] = replace(view, primary_key=key)
        for position, view in enumerate(views):
            if view.kind == "query" and view.primary_key is None and self._version == 10:
                keys = {table.primary_key for table in tables if table.type_ref == view.type_ref}
                if len(keys) == 1:
                    views[position] = replace(view, primary_key=keys.pop())
        return views

    def _routes(self, handlers: list[HttpHandlerDef]) -> list[HttpRouteDef]:
        names = {handler.accessor_name: handler.name for handler in handlers}
        routes: list[HttpRouteDef] = []
        for raw in self._raw.http_routes:
            path = raw.path
            if (path and not path.startswith("/")) or not _ROUTE_CHARACTERS.issuperset(path):
                self._problems.add(
                    Kind.HTTP,
                    f"HTTP route path `{path}` is invalid; allowed characters are ASCII lowercase letters, "
                    "digits and `-_~/`",
                )
                continue
            handler = names.get(raw.handler_function)
            if handler is None:
                self._problems.add(Kind.HTTP, f"HTTP route refers to unknown HTTP handler `{raw.handler_function}`")
                continue
            if any(
                route.path == path and (route.method is None or raw.method is None or route.method == raw.method)
                for route in routes
            ):
                self._problems.add(
                    Kind.HTTP, f"HTTP route duplicates method {_debug_method(raw.method)} for path {path}"
                )
            routes.append(HttpRouteDef(handler, raw.method, path))
        return routes


def _is_ordered_by_name(t: AlgebraicType) -> bool:
    """Whether a product's elements or a sum's variants are sorted by name, those without name first."""
    if isinstance(t, Product):
        names = [element.name for element in t.elements]
    elif isinstance(t, Sum):
        names = [variant.name for variant in t.variants]
    else:
        return True
    keys = [(name is not None, name or "") for name in names]
    return keys == sorted(keys)


def _view_rows(returned: AlgebraicType) -> tuple[Literal["array", "option", "query"], int | None]:
    """How a view with this return type gives rows, and the reference to their type; None when it gives no rows."""
    if isinstance(returned, Array) and isinstance(returned.element, Ref):
        return "array", returned.element.index
    if is_option(returned):
        some = returned.variants[0].algebraic_type
        return "option", some.index if isinstance(some, Ref) else None
    if isinstance(returned, Product) and len(returned.elements) == 1 and returned.elements[0].name == "__query__":
        row = returned.elements[0].algebraic_type
        return "query", row.index if isinstance(row, Ref) else None
    return "array", None


def _debug_method(method: HttpMethod | None) -> str:
    if method is None:
        return "Any"
    return f'Method(Extension("{method.extension}"))' if method.name == "Extension" else f"Method({method.name})"


def _repeated(names: list[str]) -> list[str]:
    """The names that occur more than once, sorted."""
    return sorted(name for name, count in Counter(names).items() if count > 1)


def _check_creation(tables: list[TableDef]) -> None:
    """What a database would find only while it creates the tables, in the words it would use."""
    for table in sorted(tables, key=lambda table: table.name):
        if table.name in SYSTEM_TABLES_BY_NAME:
            raise _creation_error(table.name, "st_table", ["table_name"], f'"{table.name}"')
        names = [column.name for column in table.columns]
        for name in _repeated(names):
            raise _creation_error(
                table.name, "st_column_accessor", ["table_name", "col_name"], f'(0 = "{table.name}", 1 = "{name}")'
            )


def _creation_error(table: str, system_table: str, columns: list[str], value: str) -> ModuleDefErrors:
    listed = ", ".join(f'"{column}"' for column in columns)
    violation = (
        f"Unique constraint violation '{system_table}_{'_'.join(columns)}_idx_btree' in table '{system_table}': "
        f"column(s): '[{listed}]' value: {value}"
    )
    return ModuleDefErrors(
        (),
        f"failed to create table {table}: DatastoreError: IndexError: {violation}: "
        f"IndexError: {violation}: {violation}",
    )
