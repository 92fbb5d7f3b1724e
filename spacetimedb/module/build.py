"""From what decorators recorded to specs, checking everything on the way.

All problems of a module are collected, each with file and line, and raised together: an author should not have to
publish ten times to learn of ten mistakes. What the schema room checks (uniqueness across kinds of objects, identifiers
after conversion) is checked there again; here are the mistakes that can be told in terms of the author's source.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple

from spacetimedb.schema.names import snake_case
from spacetimedb.types.algebraic import AlgebraicType, Product

from .check import Check
from .check_functions import FunctionChecks
from .check_tables import TableChecks
from .context import HttpContext
from .declared import DeclaredFunction, DeclaredRoute, DeclaredTable, class_line, function_place
from .errors import ModuleError, Problem
from .http import Request, Response
from .resolver import BadAnnotation, Case, context_class, function_annotations
from .row_migrations import DeclaredMigration, MigrationSpec, migration_specs
from .specs import HandlerSpec, ProcedureSpec, ReducerSpec, RouteSpec, TableSpec, ViewSpec

ROUTE_PATH: Final = re.compile(r"(/[a-z0-9\-_~/]*)?")


class Built(NamedTuple):
    """A checked module. `params` and `view_columns` (source names of columns) go by function source name."""

    tables: list[TableSpec]
    reducers: list[ReducerSpec]
    procedures: list[ProcedureSpec]
    views: list[ViewSpec]
    handlers: list[HandlerSpec]
    routes: list[RouteSpec]
    typespace: list[AlgebraicType]
    types: list[tuple[str, int]]
    params: dict[str, Product]
    view_columns: dict[str, list[str]]
    explicit_names: list[tuple[Literal["Table", "Function"], str, str]]
    migrations: list[MigrationSpec]


def build(
    case: Case,
    tables: list[DeclaredTable],
    functions: list[DeclaredFunction],
    routes: list[DeclaredRoute],
    migrations: list[DeclaredMigration],
    problems: Sequence[Problem] = (),
) -> Built:
    """Specs of a module. Raises ModuleError, with `problems` among its own."""
    check = Check(case, tables, functions)
    check.problems += problems
    whole = _WholeModule(check)
    table_checks = TableChecks(check)
    for function in functions:
        table_checks.note_schedule(function)
    table_specs = [t for t in map(table_checks.table, tables) if t is not None]
    whole.unique_names(
        "table", [(t.explicit or t.name, t.name, t.declaration.file, class_line(t.declaration)) for t in tables]
    )
    function_checks = FunctionChecks(check)
    reducers: list[ReducerSpec] = []
    procedures: list[ProcedureSpec] = []
    views: list[ViewSpec] = []
    for function in functions:
        if function.kind == "view":
            view = function_checks.view(function)
            views += [view] if view is not None else []
        elif function.kind == "reducer":
            reducer = function_checks.reducer(function)
            reducers += [reducer] if reducer is not None else []
        else:
            procedure = function_checks.procedure(function)
            procedures += [procedure] if procedure is not None else []
    whole.unique_names("function", [(check.canonical(f), f.name, *function_place(f.function)) for f in functions])
    whole.one_per_event()
    handlers, route_specs = whole.http(routes)
    whole.unique_types()
    row_migrations = migration_specs(check, migrations)
    if check.problems:
        raise ModuleError(check.problems)
    explicit: list[tuple[Literal["Table", "Function"], str, str]] = [
        ("Table", t.name, t.explicit) for t in tables if t.explicit
    ]
    explicit += [("Function", f.name, f.explicit) for f in functions if f.explicit]
    return Built(
        table_specs,
        reducers,
        procedures,
        views,
        handlers,
        route_specs,
        check.resolver.typespace(),
        [(n.name, n.ref) for n in check.resolver.named.values()],
        function_checks.params,
        function_checks.view_columns,
        explicit,
        row_migrations,
    )


class _WholeModule:
    """What can only be seen with everything in view, and routes."""

    def __init__(self, check: Check) -> None:
        self.check = check

    def unique_names(self, kind: str, named: list[tuple[str, str, str, int]]) -> None:
        """Canonical and source names, each with its place: two must not have the same of either."""
        seen: dict[tuple[bool, str], tuple[str, int]] = {}
        for canonical, source, file, line in named:
            names = (True, canonical), (False, source)
            taken = next((name for name in names if name in seen), None)
            if taken is not None:
                other_file, other_line = seen[taken]
                where = f"line {other_line}" if other_file == file else f"{other_file}:{other_line}"
                self.check.report((file, line), f"there is another {kind} named {taken[1]!r} ({where})")
            for name in names:
                seen.setdefault(name, (file, line))

    def unique_types(self) -> None:
        seen: dict[str, object] = {}
        for key, named in self.check.resolver.named.items():
            if named.name in seen:
                declaration = getattr(key, "__declaration__", None) or getattr(
                    seen[named.name], "__declaration__", None
                )
                place = (declaration.file, class_line(declaration)) if declaration is not None else ("<module>", 1)
                self.check.report(place, f"two different types of the module are named {named.name}")
            seen.setdefault(named.name, key)

    def one_per_event(self) -> None:
        seen: set[str] = set()
        for function in self.check.functions:
            if function.lifecycle in seen:
                decorator = {"init": "init"}.get(function.lifecycle or "", f"client_{(function.lifecycle or '')[3:]}ed")
                self.check.report(function_place(function.function), f"there is another function with @m.{decorator}")
            if function.lifecycle is not None:
                seen.add(function.lifecycle)

    def http(self, routes: list[DeclaredRoute]) -> tuple[list[HandlerSpec], list[RouteSpec]]:
        handlers: dict[str, Callable[..., object]] = {}
        found: list[RouteSpec] = []
        for route in routes:
            place = function_place(route.function)
            name = route.function.__name__
            self._check_handler(route, place, name)
            if handlers.setdefault(name, route.function) is not route.function:
                self.check.report(place, f"there is another HTTP handler named {name!r}")
            if not ROUTE_PATH.fullmatch(route.path):
                text = "a path is empty or starts with /, and has only a-z, 0-9 and -_~/"
                self.check.report(place, f"{name}: route {route.path!r}: {text}")
            for other in found:
                if other.path == route.path and (None in (other.method, route.method) or other.method == route.method):
                    self.check.report(place, f"{name}: route {route.path!r} is also answered by {other.handler}")
            found.append(RouteSpec(route.method, route.path, name))
        convert = snake_case if self.check.case == "snake" else str
        return [HandlerSpec(name, convert(name), function) for name, function in handlers.items()], found

    def _check_handler(self, route: DeclaredRoute, place: tuple[str, int], name: str) -> None:
        if inspect.iscoroutinefunction(route.function):
            self.check.report(place, f"{name}: async functions cannot run here; a handler is a plain def")
            return
        try:
            annotations = function_annotations(route.function, {})
        except BadAnnotation as error:
            self.check.report(place, str(error))
            return
        if list(map(context_class, annotations.values())) != [HttpContext, Request, Response]:
            self.check.report(
                place, f"{name}: a handler is written def {name}(ctx: HttpContext, req: Request) -> Response"
            )
