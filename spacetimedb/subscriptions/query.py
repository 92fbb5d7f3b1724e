"""A query that is subscribed to, and the audiences that get its changes.

A query has one or more *fragments*, each a plan over one or two tables that is evaluated and sent by itself (rules
of row-level security split a query; without them there is one).

Clients with the same query sets form one *audience*: what a transaction means for one of them it means for all, so it
is put together once. A client with very many sets or queries gets an audience of its own, which can change in place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Final

from spacetimedb.sql.predicate import Matches, Select, columns_of, compile_row, compile_rows
from spacetimedb.sql.resolve import Combine, Typed
from spacetimedb.sql.select_plan import JoinOn, SelectPlan
from spacetimedb.subscriptions.edges import Edge, JoinSides, join_sides, pick_equality
from spacetimedb.subscriptions.row_index import RowIndex
from spacetimedb.subscriptions.wire import string
from spacetimedb.types.special import Identity

SHARED_SETS: Final = 32
"""Query sets up to which a client can share an audience."""
SHARED_QUERIES: Final = 256
"""Queries up to which a client that has sets already can move to another shared audience."""


class Audience:
    """Clients with the same query sets. ``sets``: query set id to its queries."""

    __slots__ = ("clients", "is_shared", "sets")

    def __init__(self, sets: dict[int, tuple[Query, ...]], is_shared: bool) -> None:
        self.clients: dict[int, None] = {}
        self.sets = sets
        self.is_shared = is_shared


class Query:
    """One text for one role or caller. ``key`` names it in its ``Subscriptions``."""

    __slots__ = (
        "audiences",
        "caller",
        "evaluations",
        "fragments",
        "initial",
        "is_outdated",
        "is_owner",
        "key",
        "plans",
        "rows_out",
        "seconds",
        "stored_tables",
        "table_ids",
        "text",
    )

    def __init__(self, key: tuple[object, ...], text: str, plans: tuple[SelectPlan, ...]) -> None:
        self.key = key
        self.text = text
        self.plans = plans
        self.audiences: dict[Audience, tuple[int, ...]] = {}
        """Who has it, and in which query sets of theirs (ascending)."""
        self.is_owner = bool(key[1])
        self.caller = key[2] if len(key) > 2 and isinstance(key[2], Identity) else None
        """Whose it is, if it matters."""
        self.fragments: list[AnyFragment] = []
        """Filled while it is subscribed to."""
        self.initial: tuple[int, list[bytes]] | None = None
        """(sum of the versions of its tables, result) of the latest initial evaluation."""
        self.evaluations = 0
        """Commits that concerned it."""
        self.rows_out = 0
        """Rows that came out of them, inserted or deleted."""
        self.seconds = 0.0
        """Time spent on it alone: on conditions over all changed rows, and on joins."""
        self.is_outdated = False
        """Compiled before tables or rights changed: it only goes on for those who have it."""
        tables = {relvar.table.table_id: relvar.table for plan in plans for relvar in plan.relvars}
        self.table_ids = tuple(tables)
        self.stored_tables = tuple(table_id for table_id, table in tables.items() if not table.is_event)
        """Tables whose rows it needs."""


class Fragment:
    """What all fragments have: the query, the plan, and the name of the table returned (BSATN string)."""

    __slots__ = ("name", "plan", "query")

    def __init__(self, query: Query, plan: SelectPlan) -> None:
        self.query = query
        self.plan = plan
        self.name = string(plan.table.name)


class SingleFragment(Fragment):
    """One table. ``equality`` is the term by which changes find it (column, constant), ``residual`` the condition if
    there are other terms.
    """

    __slots__ = ("equality", "residual")

    def __init__(self, query: Query, plan: SelectPlan) -> None:
        super().__init__(query, plan)
        self.equality = pick_equality(plan, 0)
        self.residual: Matches | None = None
        if self.equality is not None and len(plan.terms) > 1 and plan.filter is not None:
            self.residual = plan.filter[0]

    @property
    def select(self) -> Select | None:
        """The rows that match, None if every row does. Made when first needed: an equality alone may never be."""
        return None if self.plan.where is None else self.plan.select


class Side:
    """One table of a join. ``index`` is over its join column; ``select`` its own condition."""

    __slots__ = ("column", "equality", "index", "is_event", "matches", "select", "table_id")

    def __init__(self, plan: SelectPlan, relvar: int, column: int) -> None:
        table = plan.relvars[relvar].table
        self.table_id = table.table_id
        self.is_event = table.is_event
        self.column = column
        self.equality = pick_equality(plan, relvar)
        self.matches: Matches | None = None
        self.select: Select | None = None
        self.index: RowIndex | None = None
        terms = plan.terms_on(relvar)
        if terms:
            self.matches, self.select = compile_row(table.layout, _all(terms), relvar)

    def chosen(self, rows: Iterable[bytes]) -> list[bytes]:
        """The rows that match the side's own condition."""
        return list(rows) if self.select is None else self.select(rows)


class JoinFragment(Fragment):
    """Two tables joined on one column of each; ``residual`` is the condition over both.

    ``sides`` say from which table it starts (see ``edges``), None: from that returned, all of it. ``edge`` is set while
    it is subscribed to, if there are sides.
    """

    __slots__ = ("driving", "edge", "other", "probed", "residual", "returned", "sides")

    def __init__(self, query: Query, plan: SelectPlan, on: JoinOn) -> None:
        super().__init__(query, plan)
        columns = {on.earlier.relvar: on.earlier.column, on.joined.relvar: on.joined.column}
        first = plan.returned or 0
        self.returned = Side(plan, first, columns[first])
        self.other = Side(plan, 1 - first, columns[1 - first])
        self.sides: JoinSides | None = join_sides(plan)
        self.edge: Edge | None = None
        starts_elsewhere = self.sides is not None and self.sides.driving_relvar != first
        self.driving = self.other if starts_elsewhere else self.returned
        self.probed = self.returned if starts_elsewhere else self.other
        mixed = [term for term in plan.terms if len({number for number, _ in columns_of(term)}) != 1]
        self.residual: Callable[[bytes, bytes], bool] | None = None
        """``residual(row of the table returned, row of the other)``."""
        if mixed:
            layouts = {number: relvar.table.layout for number, relvar in enumerate(plan.relvars)}
            matches = compile_rows(layouts, _all(mixed))
            if first == 0:
                self.residual = lambda row, partner: matches((row, partner))
            else:
                self.residual = lambda row, partner: matches((partner, row))

    def delta(self, changes: dict[int, tuple[list[bytes], list[bytes]]]) -> tuple[list[bytes], list[bytes]]:
        """(inserts, deletes) with multiplicity, given those of the tables in a commit; indexes show the state after it.

        With d for signed changes and ' for the state after the commit, the change of the join is
        dR S' + R' dS - dR dS; counting rows by value cancels what comes and goes.
        """
        counts: dict[bytes, int] = {}
        returned, other, residual = self.returned, self.other, self.residual
        assert returned.index is not None
        assert other.index is not None
        own = _signed(returned, changes)
        partners = _signed(other, changes)
        if returned.is_event:
            # Events have no state: each is joined once, with the partners after the commit, and never taken back.
            partners = []
        elif other.is_event:
            own = []
        key = returned.index.key
        for row, sign in own:
            for partner in other.chosen(other.index.find(key(row))):
                if residual is None or residual(row, partner):
                    counts[row] = counts.get(row, 0) + sign
        key = other.index.key
        both: dict[bytes, list[tuple[bytes, int]]] = {}
        if own and partners:
            for row, sign in own:
                both.setdefault(returned.index.key(row), []).append((row, sign))
        for partner, sign in partners:
            found = key(partner)
            for row in returned.chosen(returned.index.find(found)):
                if residual is None or residual(row, partner):
                    counts[row] = counts.get(row, 0) + sign
            for row, own_sign in both.get(found, ()):
                if residual is None or residual(row, partner):
                    counts[row] = counts.get(row, 0) - sign * own_sign
        inserts = [row for row, count in counts.items() for _ in range(count)]
        deletes = [row for row, count in counts.items() for _ in range(-count)]
        return inserts, deletes

    def rows(self, candidates: Iterable[bytes]) -> list[bytes]:
        """The whole result, given rows of the driving side (own condition not yet applied)."""
        out: list[bytes] = []
        residual = self.residual
        driving, probed = self.driving, self.probed
        assert driving.index is not None
        assert probed.index is not None
        key = driving.index.key
        for row in driving.chosen(candidates):
            for partner in probed.chosen(probed.index.find(key(row))):
                mine, theirs = (row, partner) if driving is self.returned else (partner, row)
                if residual is None or residual(mine, theirs):
                    out.append(mine)
        return out


def _signed(side: Side, changes: dict[int, tuple[list[bytes], list[bytes]]]) -> list[tuple[bytes, int]]:
    change = changes.get(side.table_id)
    if change is None:
        return []
    out = [(row, 1) for row in side.chosen(change[0])]
    if not side.is_event:
        out += [(row, -1) for row in side.chosen(change[1])]
    return out


AnyFragment = SingleFragment | JoinFragment


def make_fragment(query: Query, plan: SelectPlan) -> AnyFragment:
    """The fragment for a plan that subscriptions accept."""
    if plan.is_single:
        return SingleFragment(query, plan)
    on = plan.joins[0]
    assert on is not None
    return JoinFragment(query, plan, on)


def _all(terms: Collection[Typed]) -> Typed:
    return next(iter(terms)) if len(terms) == 1 else Combine("AND", tuple(terms))


def listen(audience: Audience, number: int, queries: Iterable[Query]) -> None:
    """Notes at the queries that the audience has them in this set."""
    for query in queries:
        numbers = query.audiences.get(audience, ())
        query.audiences[audience] = tuple(sorted((*numbers, number)))


def both_ways(fragment: JoinFragment) -> tuple[tuple[Side, Side], tuple[Side, Side]]:
    """Each side of a join with the other."""
    return (fragment.returned, fragment.other), (fragment.other, fragment.returned)
