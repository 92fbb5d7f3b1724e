"""Joins that start from the rows with ``column = constant`` of one table, the *driving* one, and look for the partners
of each in the other, the *probed* one.

All such joins over the same columns share an *edge*. It keeps the driving rows with the constants that joins ask for,
and no others, so it is small however large the table. A changed row of the probed table finds its partners among them,
and over their constants the joins that it concerns; a changed row of the driving table needs an index of the probed
one by the join column, of which the keys of the driving rows are enough (see ``row_index``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from spacetimedb.sql.catalog import TableRef
from spacetimedb.sql.literals import Constant
from spacetimedb.sql.predicate import key_functions
from spacetimedb.sql.select_plan import SelectPlan
from spacetimedb.subscriptions.row_index import RowIndex

if TYPE_CHECKING:
    from spacetimedb.subscriptions.changed_table import Fragments
    from spacetimedb.subscriptions.query import JoinFragment


class JoinSides(Struct, frozen=True):
    """How a join of two tables goes: from the rows of ``driving`` where ``constant_column = constant`` over the column
    ``driving_column`` to ``probed_column`` of ``probed``. ``driving_relvar``: number of the driving table in the plan.
    """

    driving: TableRef
    driving_column: int
    constant_column: int
    constant: Constant
    probed: TableRef
    probed_column: int
    driving_relvar: int

    @property
    def place(self) -> tuple[int, int, int, int]:
        """Where the edge stands among those of the probed table."""
        return self.probed_column, self.driving.table_id, self.driving_column, self.constant_column


def pick_equality(plan: SelectPlan, relvar: int) -> tuple[int, Constant] | None:
    """The term ``column = constant`` by which changes of a table are looked up; on an indexed column if possible."""
    found = plan.equalities(relvar)
    if not found:
        return None
    indexed = {columns[0] for columns in plan.relvars[relvar].table.indexes if len(columns) == 1}
    column = next((column for column in found if column in indexed), next(iter(found)))
    return column, found[column]


def join_sides(plan: SelectPlan) -> JoinSides | None:
    """How a join goes, None if no table of it is narrowed by a constant (events have no rows to start from).

    If both are, it starts from one where an index finds them, else from the one returned. `plan`: one of those that
    subscriptions accept, of two tables joined on a column of each; `plan_subscription` refuses all others.
    """
    on = plan.joins[0]
    assert on is not None
    columns = {on.earlier.relvar: on.earlier.column, on.joined.relvar: on.joined.column}
    first = plan.returned or 0
    best: JoinSides | None = None
    for relvar in (first, 1 - first):
        table, probed = plan.relvars[relvar].table, plan.relvars[1 - relvar].table
        found = pick_equality(plan, relvar)
        if found is not None and not table.is_event:
            sides = JoinSides(table, columns[relvar], *found, probed, columns[1 - relvar], relvar)
            if (found[0],) in table.indexes:
                return sides
            best = best or sides
    return best


class Edge:
    """See the head of the module. ``index``: the driving rows by join column; ``probed``: index of the other side."""

    def __init__(self, sides: JoinSides, probed: RowIndex) -> None:
        self.place = sides.place
        self.probed_table = sides.probed
        self.probed_column = sides.probed_column
        self.probed = probed
        self.index = RowIndex(sides.driving.layout, sides.driving_column, ())
        self._key = key_functions(sides.probed.layout, sides.probed_column)[0]
        self._constant, self._constants = key_functions(sides.driving.layout, sides.constant_column)
        self._rows: dict[bytes, dict[bytes, None]] = {}
        """Driving rows by constant, of all constants that are asked for."""
        self._uses: dict[bytes, int] = {}
        self._fragments: dict[bytes, Fragments] = {}
        """The joins that a change of the probed table finds over the edge, by constant."""
        self.joins: dict[JoinFragment, None] = {}
        """All that go over it."""

    def has(self, constant: bytes) -> bool:
        """Whether the driving rows with this constant are here."""
        return constant in self._rows

    def rows(self, constant: bytes) -> Collection[bytes]:
        """The driving rows with a constant that is asked for."""
        return self._rows[constant]

    @property
    def all_rows(self) -> dict[bytes, dict[bytes, None]]:
        """The driving rows by constant."""
        return self._rows

    def begin(self, constant: bytes, rows: Iterable[bytes]) -> None:
        """All rows with a constant of which there were none here."""
        held = self._rows[constant] = dict.fromkeys(rows)
        self._uses[constant] = 0
        self.index.change((), list(held))

    def add(self, constant: bytes, fragment: JoinFragment, is_found: bool) -> None:
        """A join that asks for a constant that has begun. ``is_found``: changes of the probed table find it here."""
        self._uses[constant] += 1
        self.joins[fragment] = None
        if is_found:
            self._fragments.setdefault(constant, {})[fragment] = None

    def remove(self, constant: bytes, fragment: JoinFragment) -> bool:
        """Undoes ``add``. Whether nobody needs the edge any more."""
        del self.joins[fragment]
        found = self._fragments.get(constant)
        if found is not None:
            found.pop(fragment, None)
            if not found:
                del self._fragments[constant]
        self._uses[constant] -= 1
        if not self._uses[constant]:
            del self._uses[constant]
            self.index.change(list(self._rows.pop(constant)), ())
        return not self.joins

    def follow(self, deletes: Sequence[bytes], inserts: Sequence[bytes]) -> None:
        """A commit changes the driving table."""
        rows = self._rows
        gone = [(row, key) for row, key in zip(deletes, self._constants(deletes), strict=True) if key in rows]
        new = [(row, key) for row, key in zip(inserts, self._constants(inserts), strict=True) if key in rows]
        for row, key in gone:
            rows[key].pop(row, None)
        for row, key in new:
            rows[key][row] = None
        if gone or new:
            self.index.change([row for row, _ in gone], [row for row, _ in new])

    def concerned(self, rows: Iterable[bytes], out: Fragments) -> None:
        """Adds the joins that a change of these rows of the probed table concerns."""
        if not self._fragments:
            return
        for row in rows:
            for partner in self.index.find(self._key(row)):
                found = self._fragments.get(self._constant(partner))
                if found:
                    out.update(found)

    def missing(self, rows: Sequence[bytes]) -> set[bytes]:
        """Keys of which the probed side has to be known before these new rows of the driving table are followed."""
        has, key, wanted = self.probed.has, self.index.key, self._rows
        out = set()
        for row, constant in zip(rows, self._constants(rows), strict=True):
            if constant in wanted:
                found = key(row)
                if not has(found):
                    out.add(found)
        return out
