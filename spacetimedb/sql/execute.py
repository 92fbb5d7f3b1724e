"""Answers to a SELECT, from the rows of a moment.

One table is filtered by one generated loop. Joins go from left to right over tuples of rows: the condition of each
table alone is applied first, an equality with a table before it becomes a hash look-up, what is left is checked as soon
as its tables are there. MAX_JOINED_ROWS tuples may come up on the way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from msgspec import Struct

from spacetimedb.sql.errors import SqlError
from spacetimedb.sql.layout import RowLayout
from spacetimedb.sql.predicate import columns_of, compile_projection, compile_row, compile_rows, key_functions
from spacetimedb.sql.resolve import ColumnRef, Combine, Compare, Typed
from spacetimedb.sql.select_plan import JoinOn, ResultColumn, SelectPlan
from spacetimedb.sql.shaping import Shaper

MAX_JOINED_ROWS: Final = 5_000_000


class RowSource(Protocol):
    """The committed rows of a database at one moment; event tables are never asked for."""

    def rows(self, table_id: int) -> Sequence[bytes]:
        """Every row, as BSATN, in any order."""

    def row_count(self, table_id: int) -> int:
        """How many there are."""

    def find(self, table_id: int, column: int, key: bytes) -> Iterable[bytes] | None:
        """The rows with this index key in a column, if there is an index of it already; None if not."""


class SelectResult(Struct):
    """Columns of the result, and each row as the BSATN of their product."""

    columns: tuple[ResultColumn, ...]
    rows: list[bytes]


def execute_select(plan: SelectPlan, source: RowSource) -> SelectResult:
    """Runs the plan, all fragments of it. Raises SqlError if a join gets too large."""
    if plan.limit == 0:
        return SelectResult(plan.columns, [])
    if plan.shaping is not None:
        shaper = Shaper(plan)
        for fragment in plan.fragments:
            shaper.add(fragment, _joined(fragment, source))
        return SelectResult(plan.columns, shaper.result())
    if plan.others:
        parts = [_execute(fragment, source).rows for fragment in plan.fragments]
        if plan.returned is None and plan.picked is None:
            total = sum(int.from_bytes(row, "little") for rows in parts for row in rows)
            return SelectResult(plan.columns, [total.to_bytes(8, "little")])
        every = [row for rows in parts for row in rows]
        return SelectResult(plan.columns, every if plan.limit is None else every[: plan.limit])
    return _execute(plan, source)


def _execute(plan: SelectPlan, source: RowSource) -> SelectResult:
    """Runs one fragment, whose limit is not 0."""
    if plan.is_single:
        return SelectResult(plan.columns, _single(plan, source))
    joined = _join(plan, source)
    if plan.returned is not None:
        at = plan.returned
        out = [rows[at] for rows in joined]
    elif plan.picked is not None:
        project = compile_projection(_layouts(plan), list(plan.picked))
        out = list(map(project, joined if plan.limit is None else joined[: plan.limit]))
    else:
        return SelectResult(plan.columns, [len(joined).to_bytes(8, "little")])
    return SelectResult(plan.columns, out if plan.limit is None else out[: plan.limit])


def table_rows(plan: SelectPlan, relvar: int, source: RowSource) -> Sequence[bytes]:
    """All rows of one table of the plan; none for an event table."""
    table = plan.relvars[relvar].table
    return () if table.is_event else source.rows(table.table_id)


def _matching(plan: SelectPlan, source: RowSource) -> list[bytes]:
    """The rows of a plan over one table."""
    table = plan.relvars[0].table
    rows: Iterable[bytes] | None = None
    if not table.is_event:
        for column, value in plan.equalities().items():
            rows = source.find(table.table_id, column, value.key)
            if rows is not None:
                break
    if rows is None:
        rows = table_rows(plan, 0, source)
    return list(rows) if plan.filter is None else plan.filter[1](rows)


def _single(plan: SelectPlan, source: RowSource) -> list[bytes]:
    table = plan.relvars[0].table
    counts = plan.returned is None and plan.picked is None
    if counts and plan.filter is None:
        count = 0 if table.is_event else source.row_count(table.table_id)
        return [count.to_bytes(8, "little")]
    out = _matching(plan, source)
    if counts:
        return [len(out).to_bytes(8, "little")]
    if plan.limit is not None:
        del out[plan.limit :]
    if plan.picked is not None:
        project = compile_projection(_layouts(plan), list(plan.picked))
        return [project((row,)) for row in out]
    return out


def _joined(plan: SelectPlan, source: RowSource) -> list[tuple[bytes, ...]]:
    """The rows of one fragment, unlimited and unprojected."""
    if not plan.is_single:
        return _join(plan, source)
    return [(row,) for row in _matching(plan, source)]


def _layouts(plan: SelectPlan) -> dict[int, RowLayout]:
    return {number: relvar.table.layout for number, relvar in enumerate(plan.relvars)}


def _join(plan: SelectPlan, source: RowSource) -> list[tuple[bytes, ...]]:
    layouts = _layouts(plan)
    pending: list[tuple[set[int], Typed]] = []
    own: defaultdict[int, list[Typed]] = defaultdict(list)
    for term in plan.terms:
        tables = {number for number, _ in columns_of(term)}
        if len(tables) == 1:
            own[tables.pop()].append(term)
        else:
            pending.append((tables, term))
    joined: list[tuple[bytes, ...]] = [(row,) for row in _own_rows(plan, 0, own[0], source)]
    budget = MAX_JOINED_ROWS
    for number in range(1, len(plan.relvars)):
        rows = _own_rows(plan, number, own[number], source)
        on = plan.joins[number - 1]
        if on is None:
            on, pending = _take_equality(pending, number)
        checks = [term for tables, term in pending if tables <= set(range(number + 1))]
        pending = [item for item in pending if not item[0] <= set(range(number + 1))]
        matches = compile_rows(layouts, _all(checks)) if checks else None
        joined, budget = _step(joined, rows, on, layouts, matches, budget)
    return joined


def _own_rows(plan: SelectPlan, number: int, terms: list[Typed], source: RowSource) -> Sequence[bytes]:
    rows = table_rows(plan, number, source)
    if not terms:
        return rows
    return compile_row(plan.relvars[number].table.layout, _all(terms), number)[1](rows)


def _step(
    joined: list[tuple[bytes, ...]],
    rows: Sequence[bytes],
    on: JoinOn | None,
    layouts: dict[int, RowLayout],
    matches: Callable[[tuple[bytes, ...]], bool] | None,
    budget: int,
) -> tuple[list[tuple[bytes, ...]], int]:
    """Joins one more table; gives the tuples and what is left of the budget."""
    out: list[tuple[bytes, ...]] = []
    if on is not None:
        by_key: dict[bytes, list[bytes]] = {}
        for row, key in zip(rows, key_functions(layouts[on.joined.relvar], on.joined.column)[1](rows), strict=True):
            by_key.setdefault(key, []).append(row)
        key_of = key_functions(layouts[on.earlier.relvar], on.earlier.column)[0]
        at = on.earlier.relvar
    for left in joined:
        partners: Sequence[bytes] = rows if on is None else by_key.get(key_of(left[at]), ())
        budget -= len(partners)
        if budget < 0:
            raise SqlError(f"The query joins more than {MAX_JOINED_ROWS} rows")
        if matches is None:
            out += [(*left, row) for row in partners]
        else:
            out += [rows_ for row in partners if matches(rows_ := (*left, row))]
    return out, budget


def _take_equality(
    pending: list[tuple[set[int], Typed]], number: int
) -> tuple[JoinOn | None, list[tuple[set[int], Typed]]]:
    """An equality of a column of table ``number`` with one before it, taken out of the conditions."""
    for position, (_, term) in enumerate(pending):
        match term:
            case Compare("=", ColumnRef() as left, ColumnRef() as right):
                if left.relvar == number:
                    left, right = right, left
                if right.relvar == number and left.relvar < number:
                    return JoinOn(left, right), pending[:position] + pending[position + 1 :]
    return None, pending


def _all(terms: list[Typed]) -> Typed:
    return terms[0] if len(terms) == 1 else Combine("AND", tuple(terms))
