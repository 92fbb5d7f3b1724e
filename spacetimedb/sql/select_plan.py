"""The plan of a SELECT: its tables, how each is joined to those before it, the condition, and what it returns.

``terms`` are the parts of the condition that must all hold. Row-level security may split a query into several
fragments; ``others`` are those after the first, and the result is that of all together, rows as often as they come up.
"""

from __future__ import annotations

from functools import cached_property

from msgspec import Struct

from spacetimedb.sql.catalog import TableRef
from spacetimedb.sql.literals import COMPARABLE, Constant
from spacetimedb.sql.predicate import Matches, Select, columns_of, compile_row
from spacetimedb.sql.resolve import ColumnRef, Combine, Compare, Relvar, Typed
from spacetimedb.types.algebraic import AlgebraicType


class ResultColumn(Struct, frozen=True):
    """A column of a result."""

    name: str
    algebraic_type: AlgebraicType


class JoinOn(Struct, frozen=True):
    """Equality of a column of the joined table and one of a table before it."""

    earlier: ColumnRef
    joined: ColumnRef


class AggregateOf(Struct, frozen=True):
    """count, sum, min, max or avg of a column; ``column`` is None for a count of rows."""

    function: str
    column: ColumnRef | None
    algebraic_type: AlgebraicType


class Shaping(Struct, frozen=True):
    """What happens to the rows of all fragments together.

    If ``outputs`` are set rows are grouped by ``group`` and each group gives one row of them. ``order``: (column, or
    number of an output if there are some; is descending).
    """

    outputs: tuple[ColumnRef | AggregateOf, ...] | None
    group: tuple[ColumnRef, ...]
    order: tuple[tuple[ColumnRef | int, bool], ...]
    offset: int


class SelectPlan(Struct, frozen=True, eq=False, dict=True):
    """A SELECT. ``returned`` is the number of the table whose rows are returned; if None, ``picked`` are the columns
    returned; if that is None too, the result is a count. ``joins[n]`` belongs to ``relvars[n + 1]``, None: cross join.
    """

    relvars: tuple[Relvar, ...]
    joins: tuple[JoinOn | None, ...]
    where: Typed | None
    returned: int | None
    picked: tuple[ColumnRef, ...] | None
    columns: tuple[ResultColumn, ...]
    limit: int | None = None
    uses_sender: bool = False
    """Whether the plan holds for its caller only."""
    others: tuple[SelectPlan, ...] = ()
    shaping: Shaping | None = None
    """Set if there is more to do than to filter, join and cut off."""

    @property
    def fragments(self) -> tuple[SelectPlan, ...]:
        """The plan and ``others``."""
        return (self, *self.others)

    @cached_property
    def stored_tables(self) -> tuple[int, ...]:
        """Ids of the tables whose rows the plan needs, over all fragments; event tables have none."""
        tables = (relvar.table for fragment in self.fragments for relvar in fragment.relvars)
        return tuple(dict.fromkeys(table.table_id for table in tables if not table.is_event))

    @property
    def reads_views(self) -> bool:
        """Whether any of its tables is a view."""
        return any(relvar.table.is_view for fragment in self.fragments for relvar in fragment.relvars)

    @cached_property
    def scan(self) -> tuple[str, str, str]:
        """How the rows that it returns are found, as metrics tell it: `fully_indexed`, `indexed_with_filter` or
        `sequential`, the table, and the columns of the condition that no index finds."""
        number, table = self.returned or 0, self.table
        known = {*self.equalities(number)}
        if self.joins and (on := self.joins[0]) is not None:
            known |= {side.column for side in (on.earlier, on.joined) if side.relvar == number}
        found = next((column for column in known if (column,) in table.indexes), None)
        used = {column for term in self.terms for relvar, column in columns_of(term) if relvar == number}
        columns = ",".join(table.columns[column].name for column in sorted(used - {found}))
        if found is None:
            return "sequential", table.name, columns
        return "indexed_with_filter" if columns else "fully_indexed", table.name, columns

    @property
    def is_single(self) -> bool:
        """Whether it reads one table only."""
        return len(self.relvars) == 1

    @property
    def table(self) -> TableRef:
        """The table whose rows are returned, else the first."""
        return self.relvars[self.returned or 0].table

    @cached_property
    def terms(self) -> tuple[Typed, ...]:
        """The terms of the condition, all of which must hold."""
        return conjuncts(self.where)

    def terms_on(self, relvar: int) -> tuple[Typed, ...]:
        """The terms that look at no other table than this one (and at it)."""
        return tuple(t for t in self.terms if {number for number, _ in columns_of(t)} == {relvar})

    def equalities(self, relvar: int = 0) -> dict[int, Constant]:
        """Column to constant for the terms ``column = constant`` of one table; the first if there are several."""
        out: dict[int, Constant] = {}
        for term in self.terms:
            found = equality(term)
            if found is not None and found[0].relvar == relvar:
                out.setdefault(found[0].column, found[1])
        return out

    @cached_property
    def select(self) -> Select:
        """``select(rows)`` of a single-table plan: those that match."""
        return list if self.filter is None else self.filter[1]

    @cached_property
    def filter(self) -> tuple[Matches, Select] | None:
        """(one row, many rows) condition of a single-table plan; None if every row matches."""
        return None if self.where is None else compile_row(self.relvars[0].table.layout, self.where)


def conjuncts(typed: Typed | None) -> tuple[Typed, ...]:
    """The terms of nested ANDs, in order."""
    if typed is None:
        return ()
    if isinstance(typed, Combine) and typed.operator == "AND":
        return tuple(part for term in typed.terms for part in conjuncts(term))
    return (typed,)


def equality(term: Typed) -> tuple[ColumnRef, Constant] | None:
    """The column and constant of ``column = constant``, either way round; None for any other term."""
    match term:
        case Compare("=", ColumnRef() as column, Constant() as value):
            return (column, value) if column.algebraic_type in COMPARABLE else None
        case Compare("=", Constant() as value, ColumnRef() as column):
            return (column, value) if column.algebraic_type in COMPARABLE else None
    return None
