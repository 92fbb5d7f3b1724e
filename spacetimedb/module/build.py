"""From what decorators recorded to specs, checking everything on the way.

All problems of a module are collected, each with file and line, and raised together: an author should not have to
publish ten times to learn of ten mistakes. What the schema room checks (uniqueness across kinds of objects, identifiers
after conversion) is checked there again; here are the mistakes that can be told in terms of the author's source.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple, get_args, get_origin

from spacetimedb.schema.names import identifier_problem, index_name, snake_case
from spacetimedb.types import algebraic
from spacetimedb.types.algebraic import AlgebraicType, Product, ProductElement
from spacetimedb.types.bsatn import codec
from spacetimedb.types.shapes import (
    SCHEDULE_AT_SHAPE,
    UNIT_SHAPE,
    FieldShape,
    ProductShape,
    Scalar,
)

from .columns import MARKERS, Pk
from .context import AnonymousViewContext, HttpContext, ProcedureContext, ReducerContext, ViewContext
from .declared import (
    DeclaredFunction,
    DeclaredRoute,
    DeclaredTable,
    attribute_line,
    class_line,
    function_place,
)
from .errors import ModuleError, Problem
from .http import Request, Response
from .query import Query
from .resolver import (
    BadAnnotation,
    Case,
    Field,
    NamedType,
    Resolved,
    Resolver,
    describe,
    function_annotations,
    is_direct_key,
    is_integer,
    is_key,
)
from .rows import Row, wire_name
from .specs import (
    Algorithm,
    ColumnSpec,
    HandlerSpec,
    IndexSpec,
    ProcedureSpec,
    ReducerSpec,
    RouteSpec,
    TableSpec,
    ViewForm,
    ViewSpec,
)

ROUTE_PATH: Final = re.compile(r"(/[a-z0-9\-_~/]*)?")
MAX_INDEX_COLUMNS: Final = 6
KEYS: Final = "a key is an integer, bool, str, Identity, ConnectionId, Timestamp, Uuid or an enum"
CONTEXTS: Final = {"reducer": ReducerContext, "procedure": ProcedureContext}


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
    explicit_names: list[tuple[Literal["Table", "Function"], str]]


def build(
    case: Case, tables: list[DeclaredTable], functions: list[DeclaredFunction], routes: list[DeclaredRoute]
) -> Built:
    """Specs of a module. Raises ModuleError."""
    return _Builder(case, tables, functions).build(routes)


class _Builder:
    def __init__(self, case: Case, tables: list[DeclaredTable], functions: list[DeclaredFunction]) -> None:
        self.case = case
        self.resolver = Resolver(case)
        self.problems: list[Problem] = []
        self.declared_tables = tables
        self.declared_functions = functions
        self.scheduled: dict[int, DeclaredFunction] = {}  # by id of the table's key
        self.params: dict[str, Product] = {}
        self.view_columns: dict[str, list[str]] = {}

    def build(self, routes: list[DeclaredRoute]) -> Built:
        for function in self.declared_functions:
            self._note_schedule(function)
        tables = [t for t in map(self._table, self.declared_tables) if t is not None]
        self._unique_names(
            "table", [(t.name, t.declaration.file, class_line(t.declaration)) for t in self.declared_tables]
        )
        reducers: list[ReducerSpec] = []
        procedures: list[ProcedureSpec] = []
        views: list[ViewSpec] = []
        for function in self.declared_functions:
            if function.kind == "view":
                views += [v for v in [self._view(function)] if v is not None]
                continue
            params = self._params(function)
            if function.kind == "reducer":
                reducers += [r for r in [self._reducer(function, params)] if r is not None]
            else:
                procedures += [p for p in [self._procedure(function, params)] if p is not None]
        self._unique_names("function", [(self._name(f), *function_place(f.function)) for f in self.declared_functions])
        self._one_per_event()
        handlers, checked_routes = self._http(routes)
        self._unique_types()
        if self.problems:
            raise ModuleError(self.problems)
        explicit: list[tuple[Literal["Table", "Function"], str]] = [
            ("Table", t.name) for t in self.declared_tables if t.explicit
        ]
        explicit += [("Function", f.name) for f in self.declared_functions if f.explicit]
        return Built(
            tables,
            reducers,
            procedures,
            views,
            handlers,
            checked_routes,
            self.resolver.typespace(),
            [(n.name, n.ref) for n in self.resolver.named.values()],
            self.params,
            self.view_columns,
            explicit,
        )

    # -- problems

    def _report(self, place: tuple[str, int], text: str) -> None:
        self.problems.append(Problem(*place, text))

    def _report_annotation(self, error: BadAnnotation, place: tuple[str, int], prefix: str) -> None:
        """An error inside a class is reported where the class says it, one in a signature at the function."""
        if error.at is not None:
            declaration, attr = error.at
            self._report((declaration.file, attribute_line(declaration, attr)), str(error))
        else:
            self._report(place, f"{prefix}: {error}")

    def _unique_names(self, kind: str, named: list[tuple[str, str, int]]) -> None:
        seen: dict[str, tuple[str, int]] = {}
        for name, file, line in named:
            if name in seen:
                other_file, other_line = seen[name]
                where = f"line {other_line}" if other_file == file else f"{other_file}:{other_line}"
                self._report((file, line), f"there is another {kind} named {name!r} ({where})")
            seen.setdefault(name, (file, line))

    def _unique_types(self) -> None:
        seen: dict[str, object] = {}
        for key, named in self.resolver.named.items():
            if named.name in seen:
                declaration = getattr(key, "__declaration__", None) or getattr(
                    seen[named.name], "__declaration__", None
                )
                place = (declaration.file, class_line(declaration)) if declaration is not None else ("<module>", 1)
                self._report(place, f"two different types of the module are named {named.name}")
            seen.setdefault(named.name, key)

    def _one_per_event(self) -> None:
        seen: set[str] = set()
        for function in self.declared_functions:
            if function.lifecycle in seen:
                decorator = {"init": "init"}.get(function.lifecycle or "", f"client_{(function.lifecycle or '')[3:]}ed")
                self._report(function_place(function.function), f"there is another function with @m.{decorator}")
            if function.lifecycle is not None:
                seen.add(function.lifecycle)

    def _name(self, function: DeclaredFunction) -> str:
        """Canonical name of a function."""
        return function.name if function.explicit or self.case == "none" else snake_case(function.name)

    # -- tables

    def _note_schedule(self, function: DeclaredFunction) -> None:
        if function.schedule is None:
            return
        place = function_place(function.function)
        if not any(t.key is function.schedule for t in self.declared_tables):
            shown = getattr(function.schedule, "__name__", repr(function.schedule))
            self._report(place, f"on_schedule={shown}: that is no table of this module")
        elif id(function.schedule) in self.scheduled:
            other = self.scheduled[id(function.schedule)].name
            self._report(place, f"the schedule table already calls {other}; a table calls one function")
        self.scheduled.setdefault(id(function.schedule), function)

    def _table(self, table: DeclaredTable) -> TableSpec | None:
        place = (table.declaration.file, class_line(table.declaration))
        problem = identifier_problem(table.name)
        if problem is not None:
            self._report(place, problem)
        if table.name.startswith("st_"):
            self._report(place, f"table {table.name}: names that start with st_ are the system's own")
        try:
            named = self.resolver.structure(table.row)
        except BadAnnotation as error:
            self._report_annotation(error, place, table.row.__name__)
            return None
        before = len(self.problems)
        columns = self._columns(table, named)
        indexes = self._indexes(table, named)
        keys = [n for n, f in enumerate(named.fields) if f.marker is Pk]
        if len(keys) > 1:
            names = ", ".join(named.fields[n].attr for n in keys)
            self._report(place, f"{table.row.__name__} has several primary keys: {names}")
        function = self.scheduled.get(id(table.key))
        at_column = self._schedule_column(table, named, keys) if function is not None else None
        if len(self.problems) > before:
            return None
        shape = named.resolved.shape
        assert isinstance(shape, ProductShape)
        return TableSpec(
            source_name=table.name,
            name=table.name if table.explicit or self.case == "none" else snake_case(table.name),
            key=table.key,
            row=table.row,
            shape=shape,
            type_ref=named.ref,
            columns=columns,
            primary_key=keys[0] if keys else None,
            indexes=indexes,
            is_public=table.public,
            is_event=table.event,
            scheduled_function=function.name if function is not None else None,
            schedule_at_column=at_column,
        )

    def _columns(self, table: DeclaredTable, named: NamedType) -> tuple[ColumnSpec, ...]:
        row = table.row
        auto_increment: set[str] = set()
        defaults: dict[str, object] = {}
        for base in reversed(row.__mro__):
            declaration = base.__dict__.get("__declaration__")
            if declaration is not None:
                auto_increment |= declaration.auto_increment
                defaults.update(declaration.defaults)
        columns: list[ColumnSpec] = []
        wire_names = [wire_name(f.attr) for f in named.fields]
        canonical_names = [self.resolver.canonical(name) for name in wire_names]
        for number, field in enumerate(named.fields):
            place = self._column_place(table, field.attr)
            source_name = wire_names[number]
            same = canonical_names.index(canonical_names[number])
            if same != number:
                other = named.fields[same].attr
                self._report(
                    place, f"{row.__name__}: columns {other} and {field.attr} are both {canonical_names[same]!r}"
                )
            if not canonical_names[number]:
                self._report(place, f"{row.__name__}.{field.attr}: a name of underscores only is empty")
            self._check_marker(row, field, place)
            unique = MARKERS[field.marker][1] if field.marker is not None else False
            auto_inc = field.attr in auto_increment
            if auto_inc and not is_integer(field.resolved.shape):
                self._report(place, f"{row.__name__}.{field.attr}: auto_inc() is for integer columns")
            default: bytes | None = None
            if field.attr in defaults:
                try:
                    default = codec(field.resolved.shape).encode(defaults[field.attr])
                except Exception as error:
                    self._report(place, f"{row.__name__}.{field.attr}: the default does not fit the column: {error}")
                if unique or auto_inc:
                    default = None  # for the constructor only: equal values in old rows would collide
            columns.append(
                ColumnSpec(
                    field.attr,
                    source_name,
                    canonical_names[number],
                    field.resolved.shape,
                    field.resolved.type,
                    unique,
                    auto_inc,
                    default,
                )
            )
        return tuple(columns)

    def _column_place(self, table: DeclaredTable, attr: str) -> tuple[str, int]:
        """Where the class, or the base it has the column from, says it."""
        for base in table.row.__mro__:
            declaration = base.__dict__.get("__declaration__")
            if declaration is not None and attr in getattr(base, "__annotations__", {}):
                return declaration.file, attribute_line(declaration, attr)
        return table.declaration.file, class_line(table.declaration)

    def _check_marker(self, row: type[Any], field: Field, place: tuple[str, int]) -> None:
        algorithm = MARKERS[field.marker][0] if field.marker is not None else None
        shape = field.resolved.shape
        if algorithm == "direct" and not is_direct_key(shape):
            self._report(place, f"{row.__name__}.{field.attr}: a direct index is for u8, u16, u32, u64 and enums")
        elif algorithm is not None and not is_key(shape):
            self._report(place, f"{row.__name__}.{field.attr}: its type cannot be a key; {KEYS}")

    def _indexes(self, table: DeclaredTable, named: NamedType) -> tuple[IndexSpec, ...]:
        numbers = {f.attr: n for n, f in enumerate(named.fields)}
        found: list[IndexSpec] = []
        taken: set[str] = set()
        for number, field in enumerate(named.fields):
            algorithm, unique, _face = MARKERS[field.marker] if field.marker is not None else (None, False, None)
            if algorithm is not None:
                name = index_name(table.name, [wire_name(field.attr)], algorithm)
                found.append(IndexSpec(name, field.attr, _algorithm(algorithm), (number,), unique))
                taken.add(field.attr)
        declared = [
            (i, base.__dict__["__declaration__"])
            for base in reversed(table.row.__mro__)
            if "__declaration__" in base.__dict__
            for i in base.__dict__["__declaration__"].indexes
        ]
        for index, declaration in [*declared, *((i, table.declaration) for i in table.indexes)]:
            place = (declaration.file, attribute_line(declaration, index.name or ""))
            shown = f"{table.row.__name__}.{index.name or index.algorithm}"
            missing = [c for c in index.columns if c not in numbers]
            if not index.name:
                self._report(place, f"{shown}: an index in indexes=[...] needs name=")
            elif index.name in taken or index.name in numbers:
                self._report(place, f"{shown}: the table has a column or index of this name")
            if missing:
                self._report(place, f"{shown}: there is no column {', '.join(missing)}")
                continue
            if not 1 <= len(index.columns) <= MAX_INDEX_COLUMNS or len(set(index.columns)) < len(index.columns):
                self._report(place, f"{shown}: an index has 1 to {MAX_INDEX_COLUMNS} different columns")
            for attr in index.columns:
                if not is_key(named.fields[numbers[attr]].resolved.shape):
                    self._report(place, f"{shown}: the type of {attr} cannot be a key; {KEYS}")
            taken.add(index.name or "")
            columns = tuple(numbers[c] for c in index.columns)
            name = index_name(table.name, [wire_name(c) for c in index.columns], index.algorithm)
            if any(i.source_name == name for i in found):
                self._report(place, f"{shown}: there is another index over the same columns")
            found.append(IndexSpec(name, index.name or "", _algorithm(index.algorithm), columns, False))
        return tuple(found)

    def _schedule_column(self, table: DeclaredTable, named: NamedType, keys: list[int]) -> int | None:
        place = (table.declaration.file, class_line(table.declaration))
        times = [n for n, f in enumerate(named.fields) if f.resolved.shape == SCHEDULE_AT_SHAPE]
        key_shapes = [named.fields[n].resolved.shape for n in keys]
        if len(times) != 1 or key_shapes != [Scalar("u64")]:
            text = f"{table.row.__name__}: a schedule table has a primary key of type u64 and one ScheduleAt column"
            self._report(place, f"{text}; derive it from Schedule")
            return None
        return times[0]

    # -- functions

    def _signature(self, function: DeclaredFunction) -> tuple[dict[str, object], list[inspect.Parameter]] | None:
        """Annotations by name, and the parameters after the context; None when there is nothing to go on with."""
        place = function_place(function.function)
        shown = function.name
        if not inspect.isfunction(function.function):
            self._report(place, f"{shown} is no function")
            return None
        if inspect.iscoroutinefunction(function.function) or inspect.isasyncgenfunction(function.function):
            self._report(place, f"{shown}: async functions cannot run here; a {function.kind} is a plain def")
            return None
        if inspect.isgeneratorfunction(function.function):
            self._report(place, f"{shown}: a {function.kind} cannot be a generator; return a list")
            return None
        parameters = list(inspect.signature(function.function).parameters.values())
        sound = True
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                self._report(place, f"{shown}: *{parameter.name} has no type on the wire; name every parameter")
                sound = False
            elif parameter.kind is parameter.KEYWORD_ONLY:
                self._report(place, f"{shown}: parameter {parameter.name} must not be keyword-only")
                sound = False
            elif parameter.annotation is parameter.empty:
                self._report(place, f"{shown}: parameter {parameter.name} has no annotation")
                sound = False
        if not parameters:
            self._report(place, f"{shown}: the first parameter is the context")
            sound = False
        if not sound:
            return None
        try:
            return function_annotations(function.function, function.local_names), parameters[1:]
        except BadAnnotation as error:
            self._report(place, str(error))
            return None

    def _params(self, function: DeclaredFunction) -> tuple[dict[str, object], ProductShape] | None:
        """Annotations and arguments of a reducer or procedure."""
        signature = self._signature(function)
        if signature is None:
            return None
        annotations, parameters = signature
        place = function_place(function.function)
        problems = len(self.problems)
        context = CONTEXTS[function.kind]
        first = next(iter(annotations), "")
        if annotations.get(first) is not context or first in [p.name for p in parameters]:
            self._report(place, f"{function.name}: the first parameter must be annotated {context.__name__}")
        if function.every:
            self._every_params(function, parameters)
        elements: list[ProductElement] = []
        fields: list[FieldShape] = []
        for name, annotation in self._arguments(function, annotations, parameters).items():
            try:
                resolved = self.resolver.resolve(annotation)
            except BadAnnotation as error:
                self._report_annotation(error, place, f"{function.name}: parameter {name}")
                continue
            elements.append(ProductElement(wire_name(name), resolved.type))
            fields.append(FieldShape(name, wire_name(name), resolved.shape))
        if function.schedule is not None and len(self.problems) == problems and not function.every:
            rows = [t.row for t in self.declared_tables if t.key is function.schedule]
            if rows and [f.shape for f in fields] != [self.resolver.structure(rows[0]).resolved.shape]:
                text = f"{function.name}: a scheduled function takes one argument, a row of type {rows[0].__name__}"
                self._report(place, text)
        if len(self.problems) > problems:
            return None
        self.params[function.name] = Product(tuple(elements))
        return annotations, ProductShape(None, tuple(fields))

    def _arguments(
        self, function: DeclaredFunction, annotations: dict[str, object], parameters: list[inspect.Parameter]
    ) -> dict[str, object]:
        if function.every:
            return {"timer": function.schedule}
        return {p.name: annotations[p.name] for p in parameters}

    def _every_params(self, function: DeclaredFunction, parameters: list[inspect.Parameter]) -> None:
        if parameters:
            self._report(function_place(function.function), f"{function.name}: with @m.every it takes the context only")

    def _schedule_name(self, function: DeclaredFunction) -> str | None:
        return next((t.name for t in self.declared_tables if t.key is function.schedule), None)

    def _reducer(
        self, function: DeclaredFunction, signed: tuple[dict[str, object], ProductShape] | None
    ) -> ReducerSpec | None:
        if signed is None:
            return None
        annotations, params = signed
        place = function_place(function.function)
        if annotations.get("return") not in (None, type(None)):
            self._report(place, f"{function.name}: a reducer returns None; it answers with changes of tables")
        if function.lifecycle is not None and params.fields:
            self._report(place, f"{function.name}: a lifecycle function takes the context only")
        private = function.private or function.lifecycle is not None or function.schedule is not None
        return ReducerSpec(
            function.name,
            self._name(function),
            function.body,
            params,
            function.lifecycle,
            private,
            self._schedule_name(function),
        )

    def _procedure(
        self, function: DeclaredFunction, signed: tuple[dict[str, object], ProductShape] | None
    ) -> ProcedureSpec | None:
        if signed is None:
            return None
        annotations, params = signed
        place = function_place(function.function)
        if "return" not in annotations:
            self._report(place, f"{function.name}: the return type is missing")
            return None
        returns = annotations["return"]
        if returns in (None, type(None)):
            resolved = Resolved(algebraic.UNIT, UNIT_SHAPE)
        else:
            try:
                resolved = self.resolver.resolve(returns)
            except BadAnnotation as error:
                self._report_annotation(error, place, f"{function.name}: return type")
                return None
            if function.schedule is not None:
                self._report(place, f"{function.name}: a scheduled procedure returns None")
        return ProcedureSpec(
            function.name,
            self._name(function),
            function.body,
            params,
            resolved.shape,
            resolved.type,
            function.private or function.schedule is not None,
            self._schedule_name(function),
        )

    # -- views

    def _view(self, function: DeclaredFunction) -> ViewSpec | None:
        signature = self._signature(function)
        if signature is None:
            return None
        annotations, parameters = signature
        place = function_place(function.function)
        context = next(iter(annotations.values()))
        if context not in (ViewContext, AnonymousViewContext):
            self._report(place, f"{function.name}: the first parameter must be ViewContext or AnonymousViewContext")
            return None
        if parameters:
            self._report(place, f"{function.name}: a view takes the context only")
            return None
        returned = self._view_row(function, annotations)
        if returned is None:
            return None
        form, row = returned
        try:
            named = self.resolver.structure(row)
        except BadAnnotation as error:
            self._report_annotation(error, place, f"{function.name}: return type")
            return None
        if any(t.event and t.row is row for t in self.declared_tables) and not any(
            t.row is row and not t.event for t in self.declared_tables
        ):
            self._report(place, f"{function.name}: rows of an event table cannot be shown by a view")
        key = self._view_key(function, named)
        self.view_columns[function.name] = [wire_name(f.attr) for f in named.fields]
        shape = named.resolved.shape
        assert isinstance(shape, ProductShape)
        return ViewSpec(
            function.name,
            self._name(function),
            function.body,
            context is AnonymousViewContext,
            form,
            row,
            shape,
            named.ref,
            key,
        )

    def _view_row(
        self, function: DeclaredFunction, annotations: dict[str, object]
    ) -> tuple[ViewForm, type[Any]] | None:
        place = function_place(function.function)
        returns = annotations.get("return")
        form: ViewForm
        row: object
        if get_origin(returns) is Query:
            form, row = "query", get_args(returns)[0]
        elif get_origin(returns) is list:
            form, row = "list", get_args(returns)[0]
        else:
            members = [m for m in get_args(returns) if m is not type(None)]
            form, row = "option", members[0] if len(members) == 1 else None
        if not isinstance(row, type) or "__declaration__" not in vars(row):
            shown = "nothing" if returns is None else describe(returns)
            self._report(place, f"{function.name}: a view returns list[Row], Row | None or Query[Row], not {shown}")
            return None
        if form == "query" and not issubclass(row, Row):
            self._report(place, f"{function.name}: a query returns rows of a table, {row.__name__} is none")
            return None
        return form, row

    def _view_key(self, function: DeclaredFunction, named: NamedType) -> int | None:
        if function.primary_key is None:
            return None
        place = function_place(function.function)
        for number, field in enumerate(named.fields):
            if field.attr == function.primary_key:
                if not is_key(field.resolved.shape):
                    self._report(place, f"{function.name}: {field.attr} cannot be a key; {KEYS}")
                return number
        self._report(place, f"{function.name}: {named.name} has no column {function.primary_key}")
        return None

    # -- HTTP

    def _http(self, routes: list[DeclaredRoute]) -> tuple[list[HandlerSpec], list[RouteSpec]]:
        handlers: dict[str, Callable[..., object]] = {}
        found: list[RouteSpec] = []
        for route in routes:
            place = function_place(route.function)
            name = route.function.__name__
            self._check_handler(route, place, name)
            if handlers.setdefault(name, route.function) is not route.function:
                self._report(place, f"there is another HTTP handler named {name!r}")
            if not ROUTE_PATH.fullmatch(route.path):
                text = "a path is empty or starts with /, and has only a-z, 0-9 and -_~/"
                self._report(place, f"{name}: route {route.path!r}: {text}")
            for other in found:
                if other.path == route.path and (None in (other.method, route.method) or other.method == route.method):
                    self._report(place, f"{name}: route {route.path!r} is also answered by {other.handler}")
            found.append(RouteSpec(route.method, route.path, name))
        convert = snake_case if self.case == "snake" else str
        return [HandlerSpec(name, convert(name), function) for name, function in handlers.items()], found

    def _check_handler(self, route: DeclaredRoute, place: tuple[str, int], name: str) -> None:
        if inspect.iscoroutinefunction(route.function):
            self._report(place, f"{name}: async functions cannot run here; a handler is a plain def")
            return
        try:
            annotations = function_annotations(route.function, {})
        except BadAnnotation as error:
            self._report(place, str(error))
            return
        if list(annotations.values()) != [HttpContext, Request, Response]:
            self._report(place, f"{name}: a handler is written def {name}(ctx: HttpContext, req: Request) -> Response")


def _algorithm(text: str) -> Algorithm:
    return "btree" if text == "btree" else "hash" if text == "hash" else "direct"
