"""Aggregates, order and offset: what a query does with the rows of all its fragments together.

    SUM          of integers of up to 64 bits is a 128-bit integer, of larger ones a 256-bit one, of floats F64
    AVG          F64
    MIN, MAX     the type of the column; total order of floats as everywhere
    no rows      without GROUP BY COUNT and SUM are 0; with MIN, MAX or AVG there is no row, as there is no NULL

Sorting is stable; rows that ORDER BY does not tell apart come in no particular order.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct as Layout
from typing import Any, Final

from spacetimedb.sql.errors import SqlError
from spacetimedb.sql.literals import INTEGER_BITS, constant
from spacetimedb.sql.predicate import compile_projection, compile_values, key_functions
from spacetimedb.sql.resolve import ColumnRef
from spacetimedb.sql.select_plan import AggregateOf, SelectPlan, Shaping
from spacetimedb.types.algebraic import F32, F64, Primitive

Joined = Sequence[tuple[bytes, ...]]
"""Rows of the tables of a fragment, by number of the table."""
_F64: Final = Layout("<d")


def shape(plan: SelectPlan, parts: list[Joined]) -> list[bytes]:
    """The rows of the result, given those of each fragment. Raises SqlError if a sum has no room in its type."""
    assert plan.shaping is not None
    if plan.shaping.outputs is None:
        rows, keys = _plain(plan, parts)
    else:
        rows, keys = _grouped(plan, parts)
    order = list(range(len(rows)))
    for values, (_, is_descending) in reversed(list(zip(keys, plan.shaping.order, strict=True))):
        order.sort(key=values.__getitem__, reverse=is_descending)
    first = plan.shaping.offset
    last = None if plan.limit is None else first + plan.limit
    return [rows[number] for number in order[first:last]]


def _plain(plan: SelectPlan, parts: list[Joined]) -> tuple[list[bytes], list[list[Any]]]:
    """Rows as they are returned, and the values that order them by each column of ORDER BY."""
    assert plan.shaping is not None
    rows: list[bytes] = []
    keys: list[list[Any]] = [[] for _ in plan.shaping.order]
    for fragment, joined in zip(plan.fragments, parts, strict=True):
        assert fragment.shaping is not None
        for values, (key, _) in zip(keys, fragment.shaping.order, strict=True):
            assert isinstance(key, ColumnRef)
            values += _values(fragment, key, joined)
        if fragment.returned is not None:
            at = fragment.returned
            rows += [row[at] for row in joined]
        elif fragment.picked is not None:
            layouts = {number: relvar.table.layout for number, relvar in enumerate(fragment.relvars)}
            rows += map(compile_projection(layouts, list(fragment.picked)), joined)
    return rows, keys


def _values(plan: SelectPlan, column: ColumnRef, joined: Joined) -> list[Any]:
    at = column.relvar
    return compile_values(plan.relvars[at].table.layout, column.column)([row[at] for row in joined])


def _grouped(plan: SelectPlan, parts: list[Joined]) -> tuple[list[bytes], list[list[Any]]]:
    assert plan.shaping is not None
    outputs = plan.shaping.outputs
    assert outputs is not None
    groups: dict[tuple[bytes, ...], list[list[Any]]] = {}
    for fragment, joined in zip(plan.fragments, parts, strict=True):
        assert fragment.shaping is not None
        _collect(fragment, fragment.shaping, joined, groups)
    if not groups and not plan.shaping.group:
        if any(isinstance(output, AggregateOf) and output.function in ("min", "max", "avg") for output in outputs):
            return [], [[] for _ in plan.shaping.order]
        groups[()] = [[] for _ in outputs]
    rows: list[bytes] = []
    keys: list[list[Any]] = [[] for _ in plan.shaping.order]
    for group in groups.values():
        results = [_result(output, values) for output, values in zip(outputs, group, strict=True)]
        rows.append(b"".join([data for data, _ in results]))
        for values, (number, _) in zip(keys, plan.shaping.order, strict=True):
            assert isinstance(number, int)
            values.append(results[number][1])
    return rows, keys


def _collect(
    plan: SelectPlan, shaping: Shaping, joined: Joined, groups: dict[tuple[bytes, ...], list[list[Any]]]
) -> None:
    """Adds a fragment's rows to the groups: for each output the values that go into it."""
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
    inputs: list[list[Any]] = []
    for output in shaping.outputs:
        column_ref = output if isinstance(output, ColumnRef) else output.column
        if column_ref is None or (isinstance(output, AggregateOf) and output.function == "count"):
            inputs.append([0] * len(joined))
        else:
            inputs.append(_values(plan, column_ref, joined))
    for number, key in enumerate(keys):
        group = groups.get(key)
        if group is None:
            group = groups[key] = [[] for _ in shaping.outputs]
        for values, found in zip(group, inputs, strict=True):
            values.append(found[number])


def _result(output: ColumnRef | AggregateOf, values: list[Any]) -> tuple[bytes, Any]:
    """An output of one group: encoded, and as it is ordered."""
    t = output.algebraic_type
    if isinstance(output, ColumnRef):
        return _encoded(output, values[0]), values[0]
    match output.function:
        case "count":
            return len(values).to_bytes(8, "little"), len(values)
        case "min" | "max":
            value = min(values) if output.function == "min" else max(values)
            return _encoded(output, value), value
    assert output.column is not None
    if output.column.algebraic_type in (F32, F64):
        values = list(map(_float, values))
    total = sum(values)
    if output.function == "avg" or t == F64:
        total = total / len(values) if output.function == "avg" else float(total)
        return _F64.pack(total), (total != total, total)
    assert isinstance(t, Primitive)
    bits, is_signed = INTEGER_BITS[t]
    try:
        return total.to_bytes(bits // 8, "little", signed=is_signed), total
    except OverflowError:
        raise SqlError("The sum is too large") from None


def _encoded(output: ColumnRef | AggregateOf, value: Any) -> bytes:
    return constant(output.algebraic_type, _float(value) if isinstance(value, tuple) else value).encoded


def _float(key: tuple[bool, float]) -> float:
    """The float that has this key of order."""
    return float("nan") if key[0] else key[1]
