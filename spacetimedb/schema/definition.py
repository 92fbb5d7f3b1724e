"""A validated module definition: canonical names, inlined column types, resolved ids.

``validation.validate`` makes these values from a raw definition; nothing else does. They are immutable and know no I/O.

Names: ``name`` is always the canonical name (system tables, wire, calls), ``accessor_name`` that in the module's own
source. Types in ``typespace`` and in all inlined types carry canonical field and variant names. Column positions are
0-based. Sequence numbers are i128.

A module may hold submodules, each with a typespace of its own. ``tables``, ``reducers`` and so on are those of this
level; ``all_tables`` and the ``*_ids`` maps go through all levels, depth first in declaration order, with names
``namespace.name``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Literal, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from spacetimedb.schema.raw_structs import HttpMethod, RawModuleDefV9, RawModuleDefV10
from spacetimedb.types.algebraic import AlgebraicType, Product, Typespace

IndexAlgorithm = Literal["btree", "hash", "direct"]
LifecycleEvent = Literal["init", "on_connect", "on_disconnect"]

SEQUENCE_MAXIMUM = 2**127 - 1
"""Largest value of a sequence that names none: that of i128, not that of the column."""


class ColumnDef(Struct, frozen=True):
    """One column: its type is fully inlined; ``default`` is the BSATN of its default value or None."""

    name: str
    accessor_name: str
    algebraic_type: AlgebraicType
    default: bytes | None = None


class IndexDef(Struct, frozen=True):
    """An index. ``source_name`` is the module's own name of it (an alias in the system tables and for modules)."""

    name: str
    source_name: str
    accessor_name: str | None
    algorithm: IndexAlgorithm
    columns: tuple[int, ...]
    is_unique: bool = False


class UniqueDef(Struct, frozen=True):
    """A unique constraint over columns, in ascending order of position."""

    name: str
    columns: tuple[int, ...]


class SequenceDef(Struct, frozen=True):
    """An auto-increment sequence. ``declared`` is (start, minimum, maximum) as the module gave them, None where not."""

    name: str
    column: int
    start: int = 1
    minimum: int = 1
    maximum: int = SEQUENCE_MAXIMUM
    increment: int = 1
    declared: tuple[int | None, int | None, int | None] = (None, None, None)


class ScheduleDef(Struct, frozen=True):
    """That rows of a table call a reducer or procedure (canonical name) at the time in column ``at_column``."""

    name: str
    function_name: str
    at_column: int
    table_name: str
    function_kind: Literal["reducer", "procedure"] = "reducer"


class TableDef(Struct, frozen=True):
    """A table. ``row_type`` is the row as a product, inlined, canonical names; ``type_ref`` its place in the typespace
    (-1 for the backing table of a view and for system tables, whose row types have none). Rows of a table that is not
    durable are in memory only; raw definitions do not say it, see ``with_durability``."""

    name: str
    accessor_name: str
    columns: tuple[ColumnDef, ...]
    row_type: Product
    type_ref: int
    primary_key: int | None = None
    indexes: tuple[IndexDef, ...] = ()
    constraints: tuple[UniqueDef, ...] = ()
    sequences: tuple[SequenceDef, ...] = ()
    is_public: bool = True
    is_event: bool = False
    schedule: ScheduleDef | None = None
    is_system: bool = False
    is_durable: bool = True

    def column(self, name: str) -> int | None:
        """Position of the column with this canonical name, else None."""
        for position, column in enumerate(self.columns):
            if column.name == name:
                return position
        return None


class ReducerDef(Struct, frozen=True):
    """A reducer. ``params`` has the declared parameter names and inlined types (types that contain themselves stay
    references); ``declared_params`` the same with references into the typespace."""

    name: str
    accessor_name: str
    params: Product
    declared_params: Product
    is_private: bool = False
    lifecycle: LifecycleEvent | None = None


class ProcedureDef(Struct, frozen=True):
    """A procedure; types as in ``ReducerDef``."""

    name: str
    accessor_name: str
    params: Product
    declared_params: Product
    return_type: AlgebraicType
    declared_return_type: AlgebraicType
    is_private: bool = False


class ViewDef(Struct, frozen=True):
    """A view. ``kind`` is how it gives its rows; ``row_type`` one row; ``primary_key`` the position of its key column,
    declared or, for query views, that of the tables with the same row type."""

    name: str
    accessor_name: str
    index: int
    is_public: bool
    is_anonymous: bool
    params: Product
    declared_params: Product
    declared_return_type: AlgebraicType
    kind: Literal["array", "option", "query"]
    row_type: Product
    columns: tuple[ColumnDef, ...]
    type_ref: int
    primary_key: int | None = None


class TypeDef(Struct, frozen=True):
    """A named type: scope segments and name (canonical) of the type at ``type_ref``."""

    scope: tuple[str, ...]
    name: str
    type_ref: int
    custom_ordering: bool


class HttpHandlerDef(Struct, frozen=True):
    """A function that answers HTTP requests."""

    name: str
    accessor_name: str


class HttpRouteDef(Struct, frozen=True):
    """A route to a handler (canonical name). ``method`` None means any."""

    handler: str
    method: HttpMethod | None
    path: str


class SubmoduleDef(Struct, frozen=True):
    """A module mounted under a namespace."""

    namespace: str
    module: ModuleDef


class RowMigrationDef(Struct, frozen=True):
    """A function of the module takes over the rows of ``table`` (canonical full name) if it is stored with the columns
    of ``row_type`` (canonical names, inlined)."""

    table: str
    row_type: Product
    function: str


class ModuleDef(Struct, frozen=True, dict=True, eq=False):
    """A whole validated definition. ``version`` is 9 or 10, that of the raw definition it came from; raw definitions
    say nothing of ``row_migrations``, see ``with_row_migrations``."""

    version: int
    typespace: Typespace
    raw: RawModuleDefV9 | RawModuleDefV10
    types: tuple[TypeDef, ...] = ()
    tables: tuple[TableDef, ...] = ()
    reducers: tuple[ReducerDef, ...] = ()
    procedures: tuple[ProcedureDef, ...] = ()
    views: tuple[ViewDef, ...] = ()
    schedules: tuple[ScheduleDef, ...] = ()
    http_handlers: tuple[HttpHandlerDef, ...] = ()
    http_routes: tuple[HttpRouteDef, ...] = ()
    row_level_security: tuple[str, ...] = ()
    submodules: tuple[SubmoduleDef, ...] = ()
    row_migrations: tuple[RowMigrationDef, ...] = ()

    @cached_property
    def tables_by_name(self) -> Mapping[str, TableDef]:
        """Tables of this level and of submodules by canonical full name."""
        return {table.name: table for table in self.all_tables}

    @cached_property
    def all_tables(self) -> tuple[TableDef, ...]:
        """Tables of all levels; those of submodules with full names."""
        return (*self.tables, *(prefixed_table(ns, t) for ns, module in self._submodules() for t in module.tables))

    @cached_property
    def all_reducers(self) -> tuple[ReducerDef, ...]:
        """Reducers of all levels: the position of one here is its id in calls into the module."""
        return (*self.reducers, *(_renamed(ns, r) for ns, module in self._submodules() for r in module.reducers))

    @cached_property
    def all_procedures(self) -> tuple[ProcedureDef, ...]:
        """Procedures of all levels, as ``all_reducers``."""
        return (*self.procedures, *(_renamed(ns, p) for ns, module in self._submodules() for p in module.procedures))

    @cached_property
    def all_views(self) -> tuple[ViewDef, ...]:
        """Views of all levels, as ``all_reducers``."""
        return (*self.views, *(_renamed(ns, v) for ns, module in self._submodules() for v in module.views))

    @cached_property
    def reducer_ids(self) -> Mapping[str, int]:
        """Canonical name to position in ``all_reducers``."""
        return {reducer.name: position for position, reducer in enumerate(self.all_reducers)}

    @cached_property
    def procedure_ids(self) -> Mapping[str, int]:
        """Canonical name to position in ``all_procedures``."""
        return {procedure.name: position for position, procedure in enumerate(self.all_procedures)}

    @cached_property
    def view_ids(self) -> Mapping[str, int]:
        """Canonical name to position in ``all_views``."""
        return {view.name: position for position, view in enumerate(self.all_views)}

    @cached_property
    def lifecycle_reducers(self) -> Mapping[LifecycleEvent, int]:
        """Lifecycle event to the id of its reducer."""
        return {r.lifecycle: position for position, r in enumerate(self.reducers) if r.lifecycle is not None}

    def typespace_of(self, name: str) -> Typespace:
        """The typespace that the declared types of a table or function (canonical full name) refer to."""
        namespace, _, rest = name.partition(".")
        if not rest:
            return self.typespace
        return next(s.module for s in self.submodules if s.namespace == namespace).typespace_of(rest)

    def table(self, name: str) -> TableDef | None:
        """The table with this canonical name, or None."""
        return self.tables_by_name.get(name)

    def reducer(self, name: str) -> ReducerDef | None:
        """The reducer with this canonical name, or None."""
        position = self.reducer_ids.get(name)
        return None if position is None else self.all_reducers[position]

    def procedure(self, name: str) -> ProcedureDef | None:
        """The procedure with this canonical name, or None."""
        position = self.procedure_ids.get(name)
        return None if position is None else self.all_procedures[position]

    def view(self, name: str) -> ViewDef | None:
        """The view with this canonical name, or None."""
        position = self.view_ids.get(name)
        return None if position is None else self.all_views[position]

    def _submodules(self) -> Iterator[tuple[str, ModuleDef]]:
        """(full namespace, module) of every submodule, depth first."""
        for submodule in self.submodules:
            yield submodule.namespace, submodule.module
            for inner, module in submodule.module._submodules():
                yield f"{submodule.namespace}.{inner}", module


def with_durability(definition: ModuleDef, not_durable: Collection[str]) -> ModuleDef:
    """The definition with these tables (canonical full names) kept in memory only, all others durable."""
    if not not_durable:
        return definition
    names = set(not_durable)
    submodules = tuple(
        replace(s, module=with_durability(s.module, {name.removeprefix(f"{s.namespace}.") for name in names}))
        for s in definition.submodules
    )
    tables = tuple(replace(table, is_durable=table.name not in names) for table in definition.tables)
    return replace(definition, tables=tables, submodules=submodules)


def with_row_migrations(definition: ModuleDef, migrations: Iterable[tuple[str, Product, str]]) -> ModuleDef:
    """The definition with these migration functions: table, row type and function of each."""
    return replace(definition, row_migrations=tuple(RowMigrationDef(*migration) for migration in migrations))


def prefixed_table(namespace: str, table: TableDef) -> TableDef:
    """The table as the database knows it when its module is mounted under ``namespace``."""
    schedule = table.schedule
    if schedule is not None:
        schedule = replace(
            schedule,
            name=f"{namespace}.{schedule.name}",
            function_name=f"{namespace}.{schedule.function_name}",
            table_name=f"{namespace}.{schedule.table_name}",
        )
    return replace(
        table,
        name=f"{namespace}.{table.name}",
        accessor_name=f"{namespace}.{table.accessor_name}",
        indexes=tuple(
            replace(index, name=f"{namespace}.{index.name}", source_name=f"{namespace}.{index.source_name}")
            for index in table.indexes
        ),
        constraints=tuple(replace(c, name=f"{namespace}.{c.name}") for c in table.constraints),
        sequences=tuple(replace(s, name=f"{namespace}.{s.name}") for s in table.sequences),
        schedule=schedule,
    )


_Function = TypeVar("_Function", ReducerDef, ProcedureDef, ViewDef)


def _renamed(namespace: str, function: _Function) -> _Function:
    return replace(function, name=f"{namespace}.{function.name}", accessor_name=f"{namespace}.{function.accessor_name}")
