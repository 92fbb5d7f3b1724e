"""Answers to a SELECT, from the rows of a moment.

One table is filtered by one generated loop. Joins go from left to right over tuples of rows: the condition of each
table alone is applied first, an equality with a table before it becomes a hash look-up, what is left is checked as soon
as its tables are there. MAX_JOINED_ROWS tuples may come up on the way.

Everything is done in steps of some thousand rows, so that whoever has other things to do can stop between two of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Final, Protocol, TypeVar

from msgspec import Struct

from spacetimedb.sql.errors import SqlError
from spacetimedb.sql.layout import RowLayout
from spacetimedb.sql.predicate import Select, columns_of, compile_projection, compile_row, compile_rows, key_functions
from spacetimedb.sql.resolve import ColumnRef, Combine, Compare, Typed
from spacetimedb.sql.select_plan import JoinOn, ResultColumn, SelectPlan
from spacetimedb.sql.shaping import Shaper

MAX_JOINED_ROWS: Final = 5_000_000
PIECE_ROWS: Final = 8192
"""Rows per step."""
T = TypeVar("T")


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
    steps = select_steps(plan, source)
    try:
        while True:
            next(steps)
    except StopIteration as end:
        result: SelectResult = end.value
        return result


def select_steps(plan: SelectPlan, source: RowSource) -> Generator[None, None, SelectResult]:
    """The same in short pieces of work; `source` must show the same rows until the end."""
    if plan.limit == 0:
        return SelectResult(plan.columns, [])
    if plan.shaping is not None:
        shaper = Shaper(plan)
        for fragment in plan.fragments:
            joined = yield from _joined(fragment, source)
            for piece in _pieces(joined):
                yield from shaper.add(fragment, piece)
                yield
        return SelectResult(plan.columns, (yield from shaper.result()))
    if plan.others:
        parts = []
        for fragment in plan.fragments:
            parts.append((yield from _execute(fragment, source)).rows)
        if plan.returned is None and plan.picked is None:
            total = sum(int.from_bytes(row, "little") for rows in parts for row in rows)
            return SelectResult(plan.columns, [total.to_bytes(8, "little")])
        every = [row for rows in parts for row in rows]
        return SelectResult(plan.columns, every if plan.limit is None else every[: plan.limit])
    return (yield from _execute(plan, source))


def _execute(plan: SelectPlan, source: RowSource) -> Generator[None, None, SelectResult]:
    """Runs one fragment, whose limit is not 0."""
    if plan.is_single:
        return SelectResult(plan.columns, (yield from _single(plan, source)))
    joined = yield from _join(plan, source)
    if plan.returned is None and plan.picked is None:
        return SelectResult(plan.columns, [len(joined).to_bytes(8, "little")])
    if plan.limit is not None:
        del joined[plan.limit :]
    out: list[bytes] = []
    at = plan.returned
    project = None if plan.picked is None else compile_projection(_layouts(plan), list(plan.picked))
    while joined:  # so they go in pieces, too
        piece = joined[-PIECE_ROWS:]
        del joined[-PIECE_ROWS:]
        if at is not None:
            out += [rows[at] for rows in piece]
        elif project is not None:
            out += map(project, piece)
        yield
    return SelectResult(plan.columns, out)


def _pieces(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """The rows, some thousand at a time."""
    if len(rows) <= PIECE_ROWS:
        return iter((rows,))
    return (rows[at : at + PIECE_ROWS] for at in range(0, len(rows), PIECE_ROWS))


def table_rows(plan: SelectPlan, relvar: int, source: RowSource) -> Sequence[bytes]:
    """All rows of one table of the plan; none for an event table."""
    table = plan.relvars[relvar].table
    return () if table.is_event else source.rows(table.table_id)


def _matching(plan: SelectPlan, source: RowSource) -> Generator[None, None, list[bytes]]:
    """The rows of a plan over one table."""
    table = plan.relvars[0].table
    rows: Iterable[bytes] | None = None
    if not table.is_event:
        for column, value in plan.equalities().items():
            rows = source.find(table.table_id, column, value.key)
            if rows is not None:
                break
    every = table_rows(plan, 0, source) if rows is None else list(rows)
    if plan.filter is None:
        return list(every)
    return (yield from _chosen(every, plan.filter[1]))


def _chosen(rows: Sequence[bytes], select: Select) -> Generator[None, None, list[bytes]]:
    """Those that match."""
    out: list[bytes] = []
    for piece in _pieces(rows):
        out += select(piece)
        yield
    return out


def _single(plan: SelectPlan, source: RowSource) -> Generator[None, None, list[bytes]]:
    table = plan.relvars[0].table
    counts = plan.returned is None and plan.picked is None
    if counts and plan.filter is None:
        count = 0 if table.is_event else source.row_count(table.table_id)
        return [count.to_bytes(8, "little")]
    out = yield from _matching(plan, source)
    if counts:
        return [len(out).to_bytes(8, "little")]
    if plan.limit is not None:
        del out[plan.limit :]
    if plan.picked is not None:
        project = compile_projection(_layouts(plan), list(plan.picked))
        rows, out = out, []
        for piece in _pieces(rows):
            out += [project((row,)) for row in piece]
            yield
    return out


def _joined(plan: SelectPlan, source: RowSource) -> Generator[None, None, list[tuple[bytes, ...]]]:
    """The rows of one fragment, unlimited and unprojected."""
    if not plan.is_single:
        return (yield from _join(plan, source))
    rows = yield from _matching(plan, source)
    return (yield from _alone(rows))


def _alone(rows: Sequence[bytes]) -> Generator[None, None, list[tuple[bytes, ...]]]:
    """Tuples of one row each."""
    out: list[tuple[bytes, ...]] = []
    for piece in _pieces(rows):
        out += [(row,) for row in piece]
        yield
    return out


def _layouts(plan: SelectPlan) -> dict[int, RowLayout]:
    return {number: relvar.table.layout for number, relvar in enumerate(plan.relvars)}


def _join(plan: SelectPlan, source: RowSource) -> Generator[None, None, list[tuple[bytes, ...]]]:
    layouts = _layouts(plan)
    pending: list[tuple[set[int], Typed]] = []
    own: defaultdict[int, list[Typed]] = defaultdict(list)
    for term in plan.terms:
        tables = {number for number, _ in columns_of(term)}
        if len(tables) == 1:
            own[tables.pop()].append(term)
        else:
            pending.append((tables, term))
    first = yield from _own_rows(plan, 0, own[0], source)
    joined: list[tuple[bytes, ...]] = yield from _alone(first)
    budget = MAX_JOINED_ROWS
    for number in range(1, len(plan.relvars)):
        rows = yield from _own_rows(plan, number, own[number], source)
        on = plan.joins[number - 1]
        if on is None:
            on, pending = _take_equality(pending, number)
        checks = [term for tables, term in pending if tables <= set(range(number + 1))]
        pending = [item for item in pending if not item[0] <= set(range(number + 1))]
        matches = compile_rows(layouts, _all(checks)) if checks else None
        joined, budget = yield from _step(joined, rows, on, layouts, matches, budget)
    return joined


def _own_rows(
    plan: SelectPlan, number: int, terms: list[Typed], source: RowSource
) -> Generator[None, None, Sequence[bytes]]:
    rows = table_rows(plan, number, source)
    if not terms:
        return rows
    return (yield from _chosen(rows, compile_row(plan.relvars[number].table.layout, _all(terms), number)[1]))


def _step(
    joined: list[tuple[bytes, ...]],
    rows: Sequence[bytes],
    on: JoinOn | None,
    layouts: dict[int, RowLayout],
    matches: Callable[[tuple[bytes, ...]], bool] | None,
    budget: int,
) -> Generator[None, None, tuple[list[tuple[bytes, ...]], int]]:
    """Joins one more table; gives the tuples and what is left of the budget."""
    out: list[tuple[bytes, ...]] = []
    by_key: dict[bytes, bytes | list[bytes]] = {}  # a list per row would be work for the garbage collector
    if on is not None:
        keys_of = key_functions(layouts[on.joined.relvar], on.joined.column)[1]
        for piece in _pieces(rows):
            for row, key in zip(piece, keys_of(piece), strict=True):
                there = by_key.setdefault(key, row)
                if isinstance(there, list):
                    there.append(row)
                elif there is not row:
                    by_key[key] = [there, row]
            yield
        key_of = key_functions(layouts[on.earlier.relvar], on.earlier.column)[0]
        at = on.earlier.relvar
    done = 0
    for left in joined:
        found = rows if on is None else by_key.get(key_of(left[at]), ())
        partners: Sequence[bytes] = (found,) if isinstance(found, bytes) else found
        budget -= len(partners)
        if budget < 0:
            raise SqlError(f"The query joins more than {MAX_JOINED_ROWS} rows")
        for part in _pieces(partners):
            if matches is None:
                out += [(*left, row) for row in part]
            else:
                out += [rows_ for row in part if matches(rows_ := (*left, row))]
            done += len(part) + 1
            if done >= PIECE_ROWS:
                done = 0
                yield
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
