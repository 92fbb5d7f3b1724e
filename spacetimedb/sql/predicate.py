"""Generated functions over rows in BSATN: conditions, keys, projections, replacements.

A condition becomes one Python expression over the bytes of the rows; columns are read in place, a column that is needed
twice is read once. ``column = constant`` on a column of fixed size compares bytes without reading a number.

Floats compare in a total order: both zeros are equal, NaN equals itself and is greater than all else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, Final

from spacetimedb.sql.layout import RowLayout, RowReader, fixed_size, generate
from spacetimedb.sql.literals import COMPARABLE, Constant
from spacetimedb.sql.resolve import ColumnRef, Combine, Compare, Typed
from spacetimedb.types.algebraic import F32, F64

Matches = Callable[[bytes], bool]
"""``matches(row)``."""
Select = Callable[[Iterable[bytes]], list[bytes]]
"""``select(rows)``: those that match, in order."""

_PYTHON: Final = {"=": "==", "<>": "!=", "<": "<", ">": ">", "<=": "<=", ">=": ">="}
_MIRRORED: Final = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "<>": "<>"}


class _Condition:
    """Source of one condition. ``steps`` run first, in order; all but the last are always true."""

    def __init__(self, readers: dict[int, RowReader], names: dict[str, Any]) -> None:
        self._readers = readers
        self._names = names
        self._cached: dict[tuple[int, int], str] = {}
        self._steps: list[str] = []
        self._variables = 0

    def source(self, typed: Typed) -> str:
        """The whole condition as one expression."""
        uses: Counter[tuple[int, int]] = Counter()
        _count(typed, uses)
        for key, times in sorted(uses.items()):
            # Positions of columns of variable size have to be computed before anything else uses them.
            reader = self._readers[key[0]]
            if reader.layout.types[key[1]] not in COMPARABLE:
                reader.place(key[1] + 1)
                continue
            value = reader.value(key[1])
            if times > 1:
                self._cached[key] = self._keep(value)
        condition = self._expression(typed)
        steps = [step for reader in self._readers.values() for step in reader.steps]
        return " and ".join([*steps, *self._steps, condition])

    def _keep(self, value: str) -> str:
        name = f"v{self._variables}"
        self._variables += 1
        self._steps.append(f"(({name} := {value}) or True)")
        return name

    def _constant(self, value: object) -> str:
        name = f"c{len(self._names)}"
        self._names[name] = value
        return name

    def _expression(self, typed: Typed) -> str:
        match typed:
            case Combine(operator, terms):
                return "(" + f" {operator.lower()} ".join(map(self._expression, terms)) + ")"
            case Compare():
                return self._comparison(typed)
            case Constant(value=value):
                return "True" if value else "False"
            case ColumnRef():
                return f"{self._value(typed)} == 1"

    def _comparison(self, compare: Compare) -> str:
        # Chains lean left and may be long: each link is kept in a variable, so the source stays flat.
        chain = [compare]
        while isinstance(chain[-1].left, Compare):
            chain.append(chain[-1].left)
        out = self._pair(chain[-1])
        for link in reversed(chain[:-1]):
            kept = self._keep(out)
            out = f"({kept} {_PYTHON[link.operator]} {self._operand(link.right)})"
        return out

    def _operand(self, typed: Typed) -> str:
        match typed:
            case Constant(value=value):
                return self._constant(value)
            case ColumnRef():
                return self._value(typed)
        return f"({self._expression(typed)})"

    def _value(self, column: ColumnRef) -> str:
        kept = self._cached.get((column.relvar, column.column))
        return kept or self._readers[column.relvar].value(column.column)

    def _pair(self, compare: Compare) -> str:
        operator, left, right = compare.operator, compare.left, compare.right
        if isinstance(left, Constant):
            operator, left, right = _MIRRORED[operator], right, left
        if left.algebraic_type not in COMPARABLE and isinstance(left, ColumnRef) and isinstance(right, Constant):
            raw = self._readers[left.relvar].slice(left.column, left.column)
            return f"{raw} {_PYTHON[operator]} {self._constant(right.encoded)}"
        is_float = left.algebraic_type in (F32, F64)
        if isinstance(left, ColumnRef) and isinstance(right, Constant):
            key = left.relvar, left.column
            size = fixed_size(left.algebraic_type)
            if operator in ("=", "<>") and key not in self._cached and not is_float and size is not None and size > 1:
                raw = self._readers[left.relvar].fixed_slice(left.column, size)
                return f"{raw} {_PYTHON[operator]} {self._constant(right.encoded)}"
            value, bound = self._value(left), self._constant(right.value)
            if is_float and operator in (">", ">="):
                # A constant is never NaN, but the column may be.
                return f"not {value} {'<=' if operator == '>' else '<'} {bound}"
            return f"{value} {_PYTHON[operator]} {bound}"
        first, second = self._operand(left), self._operand(right)
        if is_float:
            first, second = f"order_float({first})", f"order_float({second})"
        return f"({first} {_PYTHON[operator]} {second})"


def _count(typed: Typed, uses: Counter[tuple[int, int]]) -> None:
    stack = [typed]
    while stack:
        match stack.pop():
            case ColumnRef(relvar, column):
                uses[relvar, column] += 1
            case Compare(_, left, right):
                stack += (left, right)
            case Combine(_, terms):
                stack += terms


def columns_of(typed: Typed) -> set[tuple[int, int]]:
    """(table number, column) of every column in the expression."""
    uses: Counter[tuple[int, int]] = Counter()
    _count(typed, uses)
    return set(uses)


def compile_row(layout: RowLayout, typed: Typed, relvar: int = 0) -> tuple[Matches, Select]:
    """The condition over rows of one table, which is number ``relvar`` in it."""
    names: dict[str, Any] = {}
    condition = _Condition({relvar: RowReader(layout, "row", "", "", names)}, names).source(typed)
    lines = [
        "def matches(row):",
        f"    return {condition}",
        "def select(rows):",
        f"    return [row for row in rows if {condition}]",
    ]
    pair: tuple[Matches, Select] = generate("condition", lines, "matches, select", names)
    return pair


def compile_rows(layouts: dict[int, RowLayout], typed: Typed) -> Callable[[tuple[bytes, ...]], bool]:
    """The condition over several tables: ``matches(rows)``, ``rows[n]`` the row of table number n of ``layouts``."""
    names: dict[str, Any] = {}
    used = {relvar for relvar, _ in columns_of(typed)}
    readers = {n: RowReader(layout, f"row{n}", "", f"r{n}", names) for n, layout in layouts.items() if n in used}
    condition = _Condition(readers, names).source(typed)
    lines = ["def matches(rows):", *(f"    row{n} = rows[{n}]" for n in readers), f"    return {condition}"]
    function: Callable[[tuple[bytes, ...]], bool] = generate("condition", lines, "matches", names)
    return function


def key_functions(
    layout: RowLayout, column: int
) -> tuple[Callable[[bytes], bytes], Callable[[Iterable[bytes]], list[bytes]]]:
    """(key of one row, keys of many): the column as index key, see ``literals``."""
    pair: tuple[Callable[[bytes], bytes], Callable[[Iterable[bytes]], list[bytes]]] = _key_functions(layout, column)
    return pair


@lru_cache(1024)
def _key_functions(layout: RowLayout, column: int) -> Any:
    names: dict[str, Any] = {}
    reader = RowReader(layout, "row", "", "", names)
    key = reader.key(column)
    before = "".join(f"{step} and " for step in reader.steps)
    lines = [
        "def key(row):",
        f"    return {before}{key}",
        "def keys(rows):",
        f"    return [{before}{key} for row in rows]",
    ]
    return generate("key", lines, "key, keys", names)


def compile_values(layout: RowLayout, column: int) -> Callable[[Iterable[bytes]], list[Any]]:
    """``values(rows)``: a column of a comparable type as Python compares it, floats as a key that orders them."""
    names: dict[str, Any] = {}
    reader = RowReader(layout, "row", "", "", names)
    value = reader.value(column)
    if layout.types[column] in (F32, F64):
        value = f"order_float({value})"
    before = "".join(f"{step} and " for step in reader.steps)
    lines = ["def values(rows):", f"    return [{before}{value} for row in rows]"]
    function: Callable[[Iterable[bytes]], list[Any]] = generate("values", lines, "values", names)
    return function


def compile_projection(layouts: dict[int, RowLayout], columns: list[ColumnRef]) -> Callable[[tuple[bytes, ...]], bytes]:
    """``project(rows)``: the columns in this order as one BSATN row; ``rows`` as in ``compile_rows``."""
    names: dict[str, Any] = {}
    used = sorted({column.relvar for column in columns})
    readers = {n: RowReader(layouts[n], f"row{n}", "", f"r{n}", names) for n in used}
    parts = [readers[relvar].slice(first, last) for relvar, first, last in _runs(columns)]
    lines = ["def project(rows):", *(f"    row{n} = rows[{n}]" for n in used)]
    lines += [f"    {step}" for reader in readers.values() for step in reader.steps]
    lines.append(f"    return {' + '.join(parts)}")
    function: Callable[[tuple[bytes, ...]], bytes] = generate("projection", lines, "project", names)
    return function


def _runs(columns: list[ColumnRef]) -> Iterator[tuple[int, int, int]]:
    """(table, first, last) of neighbouring columns."""
    at = 0
    while at < len(columns):
        relvar, first = columns[at].relvar, columns[at].column
        last = first
        at += 1
        while at < len(columns) and columns[at].relvar == relvar and columns[at].column == last + 1:
            last += 1
            at += 1
        yield relvar, first, last


def compile_replacement(layout: RowLayout, values: dict[int, bytes]) -> Callable[[bytes], bytes]:
    """``replace(row)``: the row with these columns (position to encoded value) put in place of its own."""
    names: dict[str, Any] = {}
    reader = RowReader(layout, "row", "", "", names)
    parts: list[str] = []
    column = 0
    total = len(layout.types)
    while column < total:
        if column in values:
            name = f"c{len(names)}"
            names[name] = values[column]
            parts.append(name)
            column += 1
            continue
        last = column
        while last + 1 < total and last + 1 not in values:
            last += 1
        parts.append(reader.slice(column, last))
        column = last + 1
    lines = ["def replace(row):", *(f"    {step}" for step in reader.steps), f"    return {' + '.join(parts)}"]
    function: Callable[[bytes], bytes] = generate("replacement", lines, "replace", names)
    return function
