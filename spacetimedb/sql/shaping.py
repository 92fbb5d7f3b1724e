"""Aggregates, order and offset: what a query does with the rows of all its fragments together.

    SUM          of integers of up to 64 bits is a 128-bit integer, of larger ones a 256-bit one, of floats F64
    AVG          F64
    MIN, MAX     the type of the column; total order of floats as everywhere
    no rows      without GROUP BY COUNT and SUM are 0; with MIN, MAX or AVG there is no row, as there is no NULL

Sorting is stable; rows that ORDER BY does not tell apart come in no particular order.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from struct import Struct as Layout
from typing import Any, Final

from spacetimedb.sql.errors import SqlError
from spacetimedb.sql.literals import INTEGER_BITS, constant
from spacetimedb.sql.predicate import compile_projection, compile_values, key_functions
from spacetimedb.sql.resolve import ColumnRef
from spacetimedb.sql.select_plan import AggregateOf, SelectPlan, Shaping
from spacetimedb.sql.sorting import in_order, let_go, sorted_numbers
from spacetimedb.types.algebraic import F32, F64, Primitive

Joined = Sequence[tuple[bytes, ...]]
"""Rows of the tables of a fragment, by number of the table."""
KEPT_ROWS: Final = 4096
"""Rows beyond LIMIT that are kept at least before those that will not be in the result are let go of."""
GROUPS_AT_ONCE: Final = 512
_F64: Final = Layout("<d")


class Shaper:
    """Takes the rows of all fragments of a plan in any number of portions, then gives the result. All in steps."""

    def __init__(self, plan: SelectPlan) -> None:
        assert plan.shaping is not None
        self._plan = plan
        self._shaping = plan.shaping
        self._rows: list[bytes] = []
        self._keys: list[list[Any]] = [[] for _ in plan.shaping.order]
        """For each column of ORDER BY its values in `_rows`."""
        self._groups: dict[tuple[bytes, ...], list[list[Any]]] = {}
        """For each group, and each output of it, [how many values, what they came to]."""
        self._last = None if plan.limit is None else plan.shaping.offset + plan.limit

    def add(self, fragment: SelectPlan, joined: Joined) -> Generator[None, None, None]:
        """More rows of a fragment, which are what one step is done with."""
        assert fragment.shaping is not None
        if fragment.shaping.outputs is not None:
            self._group(fragment, fragment.shaping, joined)
            return
        for values, (key, _) in zip(self._keys, fragment.shaping.order, strict=True):
            assert isinstance(key, ColumnRef)
            values += _values(fragment, key, joined)
        if fragment.returned is not None:
            at = fragment.returned
            self._rows += [row[at] for row in joined]
        elif fragment.picked is not None:
            layouts = {number: relvar.table.layout for number, relvar in enumerate(fragment.relvars)}
            self._rows += map(compile_projection(layouts, list(fragment.picked)), joined)
        if self._last is not None and len(self._rows) > self._last + max(KEPT_ROWS, self._last):
            yield from self._sort(self._last)

    def result(self) -> Generator[None, None, list[bytes]]:
        """The rows of the result. Raises SqlError if a sum has no room in its type."""
        if self._shaping.outputs is not None:
            yield from self._finish_groups()
        yield from self._sort(len(self._rows) if self._last is None else self._last)
        for values in self._keys:
            yield from let_go(values)
        del self._rows[: self._shaping.offset]
        return self._rows

    def _sort(self, count: int) -> Generator[None, None, None]:
        """Puts the rows in order and lets go of all but the first ones."""
        if self._shaping.order:
            columns = [(v, is_down) for v, (_, is_down) in zip(self._keys, self._shaping.order, strict=True)]
            order = yield from sorted_numbers(columns, len(self._rows), count)
            self._rows = yield from in_order(self._rows, order)
            for number, values in enumerate(self._keys):
                self._keys[number] = yield from in_order(values, order)
        else:
            del self._rows[count:]

    def _group(self, plan: SelectPlan, shaping: Shaping, joined: Joined) -> None:
        assert shaping.outputs is not None
        keys: list[tuple[bytes, ...]]
        if shaping.group:
            columns = []
            for column in shaping.group:
                layout = plan.relvars[column.relvar].table.layout
                columns.append(key_functions(layout, column.column)[1]([row[column.relvar] for row in joined]))
            keys = list(zip(*columns, strict=True))
        else:
            keys = [()] * len(joined)
        members: dict[tuple[bytes, ...], list[int]] = {}
        for number, key in enumerate(keys):
            members.setdefault(key, []).append(number)
        groups = self._groups
        for key in members:
            if key not in groups:
                groups[key] = [[0, None] for _ in shaping.outputs]
        for position, output in enumerate(shaping.outputs):
            column_ref = output if isinstance(output, ColumnRef) else output.column
            if column_ref is None or (isinstance(output, AggregateOf) and output.function == "count"):
                for key, numbers in members.items():
                    groups[key][position][0] += len(numbers)
                continue
            values = _values(plan, column_ref, joined)
            for key, numbers in members.items():
                _accumulate(output, groups[key][position], [values[number] for number in numbers])

    def _finish_groups(self) -> Generator[None, None, None]:
        outputs, groups = self._shaping.outputs, self._groups
        assert outputs is not None
        if not groups and not self._shaping.group:
            if any(isinstance(output, AggregateOf) and output.function in ("min", "max", "avg") for output in outputs):
                return
            groups[()] = [[0, 0] for _ in outputs]
        for number_of_group, group in enumerate(groups.values(), 1):
            results = [_result(output, *values) for output, values in zip(outputs, group, strict=True)]
            self._rows.append(b"".join([data for data, _ in results]))
            for values, (number, _) in zip(self._keys, self._shaping.order, strict=True):
                assert isinstance(number, int)
                values.append(results[number][1])
            if not number_of_group % GROUPS_AT_ONCE:
                yield


def _values(plan: SelectPlan, column: ColumnRef, joined: Joined) -> list[Any]:
    at = column.relvar
    return compile_values(plan.relvars[at].table.layout, column.column)([row[at] for row in joined])


def _accumulate(output: ColumnRef | AggregateOf, state: list[Any], values: list[Any]) -> None:
    """Brings [how many, what they came to] up to date with more values, of which there is at least one."""
    if isinstance(output, ColumnRef):
        found = values[0] if state[1] is None else state[1]
    elif output.function in ("min", "max"):
        best = min if output.function == "min" else max
        found = best(values) if state[1] is None else best(state[1], best(values))
    else:
        assert output.column is not None
        if output.column.algebraic_type in (F32, F64):
            values = list(map(_float, values))
        found = sum(values) if state[1] is None else state[1] + sum(values)
    state[0] += len(values)
    state[1] = found


def _result(output: ColumnRef | AggregateOf, count: int, found: Any) -> tuple[bytes, Any]:
    """An output of one group: encoded, and as it is ordered."""
    t = output.algebraic_type
    if isinstance(output, ColumnRef) or output.function in ("min", "max"):
        return _encoded(output, found), found
    if output.function == "count":
        return count.to_bytes(8, "little"), count
    if output.function == "avg" or t == F64:
        found = found / count if output.function == "avg" else float(found)
        return _F64.pack(found), (found != found, found)
    assert isinstance(t, Primitive)
    bits, is_signed = INTEGER_BITS[t]
    try:
        return found.to_bytes(bits // 8, "little", signed=is_signed), found
    except OverflowError:
        raise SqlError("The sum is too large") from None


def _encoded(output: ColumnRef | AggregateOf, value: Any) -> bytes:
    return constant(output.algebraic_type, _float(value) if isinstance(value, tuple) else value).encoded


def _float(key: tuple[bool, float]) -> float:
    """The float that has this key of order."""
    return float("nan") if key[0] else key[1]
