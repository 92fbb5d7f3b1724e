"""Checks of tables: columns, indexes, keys, schedules."""

from __future__ import annotations

from typing import Any, Final

from spacetimedb.schema.names import identifier_problem, index_name, snake_case
from spacetimedb.types.bsatn import codec
from spacetimedb.types.shapes import SCHEDULE_AT_SHAPE, ProductShape, Scalar

from .check import KEYS, Check
from .columns import MARKERS, Pk
from .declared import DeclaredFunction, DeclaredTable, attribute_line, class_line, function_place
from .resolver import BadAnnotation, Field, NamedType, is_direct_key, is_integer, is_key
from .rows import wire_name
from .specs import Algorithm, ColumnSpec, IndexSpec, TableSpec

MAX_INDEX_COLUMNS: Final = 6


class TableChecks:
    """Makes specs of tables; what is wrong goes to `check`."""

    def __init__(self, check: Check) -> None:
        self.check = check
        self.scheduled: dict[int, DeclaredFunction] = {}  # by id of the table's key

    def note_schedule(self, function: DeclaredFunction) -> None:
        """Must have been called for all functions before `table`."""
        if function.schedule is None:
            return
        place = function_place(function.function)
        if not any(t.key is function.schedule for t in self.check.tables):
            shown = getattr(function.schedule, "__name__", repr(function.schedule))
            self.check.report(place, f"on_schedule={shown}: that is no table of this module")
        elif id(function.schedule) in self.scheduled:
            other = self.scheduled[id(function.schedule)].name
            self.check.report(place, f"the schedule table already calls {other}; a table calls one function")
        self.scheduled.setdefault(id(function.schedule), function)

    def table(self, table: DeclaredTable) -> TableSpec | None:
        """None when something is wrong with it."""
        place = (table.declaration.file, class_line(table.declaration))
        name = table.explicit or table.name
        problem = identifier_problem(name)
        if problem is not None:
            self.check.report(place, problem)
        if name.startswith("st_"):
            self.check.report(place, f"table {name}: names that start with st_ are the system's own")
        try:
            named = self.check.resolver.structure(table.row)
        except BadAnnotation as error:
            self.check.report_annotation(error, place, table.row.__name__)
            return None
        before = len(self.check.problems)
        columns = self._columns(table, named)
        indexes = self._indexes(table, named)
        keys = [n for n, f in enumerate(named.fields) if f.marker is Pk]
        if len(keys) > 1:
            names = ", ".join(named.fields[n].attr for n in keys)
            self.check.report(place, f"{table.row.__name__} has several primary keys: {names}")
        function = self.scheduled.get(id(table.key))
        at_column = self._schedule_column(table, named, keys) if function is not None else None
        if len(self.check.problems) > before:
            return None
        shape = named.resolved.shape
        assert isinstance(shape, ProductShape)
        return TableSpec(
            source_name=table.name,
            name=table.explicit or (table.name if self.check.case == "none" else snake_case(table.name)),
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
            is_durable=table.durable,
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
        canonical_names = [self.check.resolver.canonical(name) for name in wire_names]
        for number, field in enumerate(named.fields):
            place = self._column_place(table, field.attr)
            source_name = wire_names[number]
            same = canonical_names.index(canonical_names[number])
            if same != number:
                other = named.fields[same].attr
                self.check.report(
                    place, f"{row.__name__}: columns {other} and {field.attr} are both {canonical_names[same]!r}"
                )
            if not canonical_names[number]:
                self.check.report(place, f"{row.__name__}.{field.attr}: a name of underscores only is empty")
            self._check_marker(row, field, place)
            unique = MARKERS[field.marker][1] if field.marker is not None else False
            auto_inc = field.attr in auto_increment
            if auto_inc and not is_integer(field.resolved.shape):
                self.check.report(place, f"{row.__name__}.{field.attr}: auto_inc() is for integer columns")
            default: bytes | None = None
            if field.attr in defaults:
                try:
                    default = codec(field.resolved.shape).encode(defaults[field.attr])
                except Exception as error:
                    self.check.report(
                        place, f"{row.__name__}.{field.attr}: the default does not fit the column: {error}"
                    )
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
            self.check.report(place, f"{row.__name__}.{field.attr}: a direct index is for u8, u16, u32, u64 and enums")
        elif algorithm is not None and not is_key(shape):
            self.check.report(place, f"{row.__name__}.{field.attr}: its type cannot be a key; {KEYS}")

    def _indexes(self, table: DeclaredTable, named: NamedType) -> tuple[IndexSpec, ...]:
        numbers = {f.attr: n for n, f in enumerate(named.fields)}
        found: list[IndexSpec] = []
        taken: set[str] = set()
        for number, field in enumerate(named.fields):
            algorithm, unique = MARKERS[field.marker] if field.marker is not None else (None, False)
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
                self.check.report(place, f"{shown}: an index in indexes=[...] needs name=")
            elif index.name in taken or index.name in numbers:
                self.check.report(place, f"{shown}: the table has a column or index of this name")
            if missing:
                self.check.report(place, f"{shown}: there is no column {', '.join(missing)}")
                continue
            if not 1 <= len(index.columns) <= MAX_INDEX_COLUMNS or len(set(index.columns)) < len(index.columns):
                self.check.report(place, f"{shown}: an index has 1 to {MAX_INDEX_COLUMNS} different columns")
            for attr in index.columns:
                if not is_key(named.fields[numbers[attr]].resolved.shape):
                    self.check.report(place, f"{shown}: the type of {attr} cannot be a key; {KEYS}")
            taken.add(index.name or "")
            columns = tuple(numbers[c] for c in index.columns)
            name = index_name(table.name, [wire_name(c) for c in index.columns], index.algorithm)
            if any(i.source_name == name for i in found):
                self.check.report(place, f"{shown}: there is another index over the same columns")
            found.append(IndexSpec(name, index.name or "", _algorithm(index.algorithm), columns, False))
        return tuple(found)

    def _schedule_column(self, table: DeclaredTable, named: NamedType, keys: list[int]) -> int | None:
        place = (table.declaration.file, class_line(table.declaration))
        times = [n for n, f in enumerate(named.fields) if f.resolved.shape == SCHEDULE_AT_SHAPE]
        key_shapes = [named.fields[n].resolved.shape for n in keys]
        if len(times) != 1 or key_shapes != [Scalar("u64")]:
            text = f"{table.row.__name__}: a schedule table has a primary key of type u64 and one ScheduleAt column"
            self.check.report(place, f"{text}; derive it from Schedule")
            return None
        return times[0]


def _algorithm(text: str) -> Algorithm:
    return "btree" if text == "btree" else "hash" if text == "hash" else "direct"
