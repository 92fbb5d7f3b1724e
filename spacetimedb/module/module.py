"""`Module`: what a module's author decorates tables and functions with.

Decorators record and return what they decorate, unchanged: a reducer is called from another reducer, or from a test,
like any function. Nothing is checked before the module is loaded; then `describe` (or any of the spec lists) checks
all of it and raises one `ModuleError` with every problem.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, TypeVar, overload

import msgspec

from spacetimedb.schema.names import pascal_case, snake_case
from spacetimedb.schema.raw_structs import RawModuleDefV10, RawSubmodule
from spacetimedb.types.special import TimeDuration

from .build import Built, build
from .columns import IndexDeclaration, MultiIndexMarker
from .context import HttpContext, ProcedureContext, ReducerContext, ViewContext
from .declared import DeclaredFunction, DeclaredRoute, DeclaredTable, FunctionKind, TableAlias, function_place
from .describe import definition
from .http import Request, Response
from .mounting import Mounted, descendants, mounting_problems, prefixed
from .query import Query
from .resolver import Case
from .row_migrations import DeclaredMigration, MigrationSpec, is_row_class
from .rows import Declaration, Row, Schedule, Struct
from .schema_class import Schema, SchemaTable
from .specs import (
    HandlerSpec,
    Lifecycle,
    ProcedureSpec,
    ReducerSpec,
    RepeatSpec,
    RouteSpec,
    TableSpec,
    ViewSpec,
)

R = TypeVar("R", bound=Row)
S = TypeVar("S", bound=Schema)
Spec = TypeVar("Spec", bound=msgspec.Struct)
ReducerFunction = TypeVar("ReducerFunction", bound=Callable[Concatenate[ReducerContext[Any], ...], None])
HookFunction = TypeVar("HookFunction", bound=Callable[[ReducerContext[Any]], None])
ProcedureFunction = TypeVar("ProcedureFunction", bound=Callable[Concatenate[ProcedureContext[Any], ...], object])
ViewFunction = TypeVar("ViewFunction", bound=Callable[[ViewContext[Any]], list[Any] | Query[Any] | Row | Struct | None])
HandlerFunction = TypeVar("HandlerFunction", bound=Callable[[HttpContext[Any], Request], Response])


class HttpRoutes:
    """`m.http`: decorators for HTTP handlers. They can be stacked: one handler, several routes.

    Paths are exact: empty, or `/` and ASCII lower-case letters, digits and `-_~/`.
    """

    def __init__(self, module: Module) -> None:
        self._module = module

    def route(self, method: str | None, path: str) -> Callable[[HandlerFunction], HandlerFunction]:
        """A route for a method by name (any method: None)."""

        def decorate(function: HandlerFunction) -> HandlerFunction:
            self._module._add_route(DeclaredRoute(method.upper() if method else None, path, function))
            return function

        return decorate

    def get(self, path: str) -> Callable[[HandlerFunction], HandlerFunction]:
        return self.route("GET", path)

    def head(self, path: str) -> Callable[[HandlerFunction], HandlerFunction]:
        return self.route("HEAD", path)

    def post(self, path: str) -> Callable[[HandlerFunction], HandlerFunction]:
        return self.route("POST", path)

    def put(self, path: str) -> Callable[[HandlerFunction], HandlerFunction]:
        return self.route("PUT", path)

    def delete(self, path: str) -> Callable[[HandlerFunction], HandlerFunction]:
        return self.route("DELETE", path)

    def patch(self, path: str) -> Callable[[HandlerFunction], HandlerFunction]:
        return self.route("PATCH", path)

    def options(self, path: str) -> Callable[[HandlerFunction], HandlerFunction]:
        return self.route("OPTIONS", path)

    def any(self, path: str) -> Callable[[HandlerFunction], HandlerFunction]:
        """Every method."""
        return self.route(None, path)


class Module:
    """The tables and functions of one database. `case="none"` keeps canonical names as written in the source.

    Of the default, `case="snake"`: names of tables, columns and functions become snake_case for clients and SQL,
    variants camelCase, types PascalCase; `name=` sets a name verbatim.
    """

    def __init__(self, case: Case = "snake") -> None:
        self.case: Case = case
        self.http = HttpRoutes(self)
        self._tables: list[DeclaredTable] = []
        self._functions: list[DeclaredFunction] = []
        self._routes: list[DeclaredRoute] = []
        self._row_filters: list[str] = []
        self._repeats: list[RepeatSpec] = []
        self._migrations: list[DeclaredMigration] = []
        self.mounted: list[Mounted] = []
        """Modules that are part of this one."""
        self._built: Built | None = None

    # -- tables

    @overload
    def table(self, row: type[R], /) -> type[R]: ...
    @overload
    def table(
        self,
        /,
        *,
        public: bool = False,
        name: str | None = None,
        event: bool = False,
        durable: bool = True,
        indexes: Sequence[MultiIndexMarker] = (),
    ) -> Callable[[type[R]], type[R]]: ...
    def table(
        self,
        row: Any = None,
        /,
        *,
        public: bool = False,
        name: str | None = None,
        event: bool = False,
        durable: bool = True,
        indexes: Sequence[MultiIndexMarker] = (),
    ) -> Any:
        """Makes a row class a table.

        `public`: clients can read it. `name`: what clients and SQL call it, otherwise the class's name in snake_case.
        `event`: its rows are sent at commit and never stored. `durable=False`: its rows are in memory only, neither in
        the log nor in snapshots, and gone after a restart. `indexes`: indexes over several columns, `btree(..., name=)`
        and `hash_index`.
        """

        def decorate(row: type[R]) -> type[R]:
            self._add_table(row, row, name, public, event, durable, indexes)
            return row

        return decorate if row is None else decorate(row)

    def add_table(
        self,
        row: type[R],
        *,
        name: str,
        public: bool = False,
        event: bool = False,
        durable: bool = True,
        indexes: Sequence[MultiIndexMarker] = (),
    ) -> type[R]:
        """One more table of a row class. Use the result as the class is used: `ctx.db[logged_out]`."""
        alias: Any = TableAlias(row, name)
        self._add_table(alias, row, name, public, event, durable, indexes, name)
        made: type[R] = alias
        return made

    def schema(self, tables: type[S]) -> type[S]:
        """Makes tables of a class that names them: see `Schema`."""
        for accessor, one in vars(tables).items():
            if isinstance(one, SchemaTable):
                is_first = all(known.key is not one.row for known in self._tables)
                one.key = one.row if is_first else TableAlias(one.row, one.name or accessor)
                self._add_table(
                    one.key,
                    one.row,
                    one.name,
                    one.public,
                    one.event,
                    one.durable,
                    one.indexes,
                    accessor,
                )
        return tables

    def _add_table(
        self,
        key: object,
        row: type[Any],
        name: str | None,
        public: bool,
        event: bool,
        durable: bool,
        indexes: Sequence[MultiIndexMarker],
        source_name: str | None = None,
    ) -> None:
        """`name` is the canonical name, None to make it of the source name, which is the class's if not given."""
        declaration = getattr(row, "__declaration__", None)
        if not isinstance(row, type) or not issubclass(row, Row) or not isinstance(declaration, Declaration):
            raise TypeError(f"a table is a class that derives from Row, not {row!r}")
        source_name = source_name or snake_case(row.__name__)
        if key is row:
            declaration.registered_name = name or (source_name if self.case == "none" else snake_case(source_name))
        own = tuple(i for i in indexes if isinstance(i, IndexDeclaration))
        self._built = None
        self._tables.append(DeclaredTable(key, row, source_name, name, public, event, durable, own, declaration))

    # -- functions

    def init(self, function: HookFunction) -> HookFunction:
        """Runs once, in the transaction that creates the database; the sender is its owner."""
        return self._add_hook(function, "init")

    def client_connected(self, function: HookFunction) -> HookFunction:
        """Runs for every new connection; raising refuses it."""
        return self._add_hook(function, "on_connect")

    def client_disconnected(self, function: HookFunction) -> HookFunction:
        """Runs for every connection that ended, whatever the reason."""
        return self._add_hook(function, "on_disconnect")

    @overload
    def reducer(self, function: ReducerFunction, /) -> ReducerFunction: ...
    @overload
    def reducer(
        self, /, *, name: str | None = None, private: bool = False, on_schedule: type[Row] | None = None
    ) -> Callable[[ReducerFunction], ReducerFunction]: ...
    def reducer(
        self,
        function: Any = None,
        /,
        *,
        name: str | None = None,
        private: bool = False,
        on_schedule: type[Row] | None = None,
    ) -> Any:
        """A function that clients call and that runs as one transaction.

        `private`: clients cannot call it. `on_schedule`: runs for the rows of this schedule table when they are due.
        """
        return self._decorator("reducer", function, name, private, on_schedule, None)

    @overload
    def procedure(self, function: ProcedureFunction, /) -> ProcedureFunction: ...
    @overload
    def procedure(
        self, /, *, name: str | None = None, private: bool = False, on_schedule: type[Row] | None = None
    ) -> Callable[[ProcedureFunction], ProcedureFunction]: ...
    def procedure(
        self,
        function: Any = None,
        /,
        *,
        name: str | None = None,
        private: bool = False,
        on_schedule: type[Row] | None = None,
    ) -> Any:
        """A function that may wait, answers with a value, and opens transactions with `ctx.with_tx`."""
        return self._decorator("procedure", function, name, private, on_schedule, None)

    @overload
    def view(self, function: ViewFunction, /) -> ViewFunction: ...
    @overload
    def view(
        self, /, *, name: str | None = None, primary_key: str | None = None
    ) -> Callable[[ViewFunction], ViewFunction]: ...
    def view(self, function: Any = None, /, *, name: str | None = None, primary_key: str | None = None) -> Any:
        """A computed table that clients can read: list[Row], Row | None or Query[Row], for everybody
        (AnonymousViewContext) or per caller (ViewContext).

        `primary_key` is a column that is different in every row; clients then see updates instead of deletes and
        inserts.
        """
        return self._decorator("view", function, name, False, None, primary_key)

    def every(self, ms: float = 0, *, seconds: float = 0) -> Callable[[HookFunction], HookFunction]:
        """Runs a function of the context alone again and again, from `init` on.

        Makes a private schedule table `<function>_timer`; the host keeps one row in it.
        """
        interval = TimeDuration(round(ms * 1_000 + seconds * 1_000_000))

        def decorate(function: HookFunction) -> HookFunction:
            file, line = function_place(function)
            class_name = pascal_case(f"{function.__name__}_timer")
            metaclass: Any = type(Schedule)
            timer = metaclass(class_name, (Schedule,), {"__module__": function.__module__})
            timer.__declaration__ = Declaration(file, line, {}, {})
            timer.__declaration__.class_name = class_name
            self._add_table(timer, timer, None, False, False, True, ())
            self._repeats.append(RepeatSpec(snake_case(class_name), interval))

            def body(ctx: ReducerContext, _timer: object) -> None:
                function(ctx)

            self._add_function(
                DeclaredFunction("reducer", function, body, function.__name__, None, {}, schedule=timer, every=True)
            )
            return function

        return decorate

    def migration(
        self, table: str, old: type[R]
    ) -> Callable[[Callable[[ReducerContext[Any], R], None]], Callable[[ReducerContext[Any], R], None]]:
        """Takes over rows of a table (by its name in SQL) that are stored with the columns of another row class.

        When such a module is published, the table is made anew and the function gets every old row, all in one
        transaction; what it inserts into any table is what stays. If it raises, nothing has changed. A table that
        is in the module no more is removed. Clients are disconnected, as for every new column. Where the stored table
        has other columns than `old` the function is not used: it can stay for databases that have not been updated.
        """
        if not is_row_class(old):
            raise TypeError(f"rows of the old table are described by a class that derives from Row, not {old!r}")

        def decorate(function: Callable[[ReducerContext[Any], R], None]) -> Callable[[ReducerContext[Any], R], None]:
            self._built = None
            self._migrations.append(DeclaredMigration(table, old, function))
            return function

        return decorate

    def mount(self, namespace: str, module: Module) -> None:
        """Takes in another module: its tables and functions are called `namespace.name` by clients and in SQL.

        In Python nothing changes: `ctx.db[auth.User]` is the table, in functions of either module. Lifecycle functions
        and row filters belong to the module that is published; HTTP routes of a mounted module are not served.
        """
        frame = sys._getframe(1)
        self._built = None
        self.mounted.append(Mounted(namespace, module, frame.f_code.co_filename, frame.f_lineno))

    def row_filter(self, sql: str) -> None:
        """Lets clients see only those rows of a public table that a query selects; several filters add up.

        `:sender` is the caller's identity.
        """
        self._built = None
        self._row_filters.append(sql)

    def _add_hook(self, function: HookFunction, lifecycle: Lifecycle) -> HookFunction:
        local_names = sys._getframe(2).f_locals
        self._add_function(
            DeclaredFunction("reducer", function, function, function.__name__, None, local_names, lifecycle=lifecycle)
        )
        return function

    def _decorator(
        self,
        kind: FunctionKind,
        function: Any,
        name: str | None,
        private: bool,
        schedule: object,
        primary_key: str | None,
    ) -> Any:
        frame = sys._getframe(2)
        local_names = {} if frame.f_locals is frame.f_globals else dict(frame.f_locals)

        def decorate(function: Any) -> Any:
            own_name: str = getattr(function, "__name__", repr(function))
            self._add_function(
                DeclaredFunction(
                    kind,
                    function,
                    function,
                    own_name if kind == "view" else name or own_name,
                    name,
                    local_names,
                    private=private,
                    schedule=schedule,
                    primary_key=primary_key,
                )
            )
            return function

        return decorate if function is None else decorate(function)

    def _add_function(self, function: DeclaredFunction) -> None:
        self._built = None
        self._functions.append(function)

    def _add_route(self, route: DeclaredRoute) -> None:
        self._built = None
        self._routes.append(route)

    # -- the loaded module

    def build(self) -> Built:
        """Checks everything and returns the specs of this module without mounted ones. Raises ModuleError with every
        problem."""
        if self._built is None:
            problems = mounting_problems(self) if self.mounted else []
            self._built = build(self.case, self._tables, self._functions, self._routes, self._migrations, problems)
        return self._built

    def describe(self) -> RawModuleDefV10:
        """The module's definition as clients and the schema room know it. Raises ModuleError with every problem."""
        for namespace, module in [("", self), *descendants(self)]:
            for table in module._tables:
                place = table.key if isinstance(table.key, TableAlias) else table.declaration
                place.namespace = namespace
        return self._describe()

    def _describe(self) -> RawModuleDefV10:
        submodules = [RawSubmodule(mounted.namespace, mounted.module._describe()) for mounted in self.mounted]
        return definition(self.build(), self.case, self._row_filters, submodules)

    def _all(self, own: Callable[[Module], list[Spec]]) -> list[Spec]:
        """Specs of this module and, with names as they are here, of mounted ones."""
        mounted = descendants(self)
        return [*own(self), *(prefixed(namespace, spec) for namespace, module in mounted for spec in own(module))]

    @property
    def tables(self) -> list[TableSpec]:
        """Those of mounted modules too; so the next ones."""
        return self._all(lambda module: module.build().tables)

    @property
    def not_durable(self) -> list[str]:
        """Canonical names of the tables with `durable=False`: the definition that clients know has no place for it."""
        return [table.name for table in self.tables if not table.is_durable]

    @property
    def reducers(self) -> list[ReducerSpec]:
        """Lifecycle and scheduled reducers among them, in the order of declaration, which is that of the definition."""
        return self._all(lambda module: module.build().reducers)

    @property
    def procedures(self) -> list[ProcedureSpec]:
        return self._all(lambda module: module.build().procedures)

    @property
    def views(self) -> list[ViewSpec]:
        return self._all(lambda module: module.build().views)

    @property
    def migrations(self) -> list[MigrationSpec]:
        """Functions for rows of tables as they once were."""
        return self._all(lambda module: module.build().migrations)

    @property
    def repeats(self) -> list[RepeatSpec]:
        """Schedule tables that the host keeps filled."""
        return self._all(lambda module: module._repeats)

    @property
    def handlers(self) -> list[HandlerSpec]:
        """HTTP handlers of this module; those of mounted ones are not served."""
        return self.build().handlers

    @property
    def routes(self) -> list[RouteSpec]:
        """HTTP routes, as `handlers`."""
        return self.build().routes

    @property
    def row_filters(self) -> list[str]:
        """SQL of the row filters."""
        return list(self._row_filters)
