"""How live queries stand in the tables that they read, and which rows they need for that.

Whoever starts a query asks first what is `wanted`: whole tables, or only the rows with some keys of an index that the
database has anyway and can be asked for (`Lookups`). So a join out of a large table needs the rows with its constant
and their partners, and nothing else. What was looked up is in partial indexes (see ``row_index``), which follow the
commits. A commit may bring a driving row whose partners are not known: `holes` tells, before the commit is followed,
which have to be looked up as they are at this place of the commit order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import compress
from typing import Final, Protocol

from spacetimedb.sql.catalog import Catalog, TableRef
from spacetimedb.sql.execute import RowSource
from spacetimedb.sql.predicate import key_functions
from spacetimedb.sql.select_plan import SelectPlan
from spacetimedb.store.commit_record import TableChange
from spacetimedb.subscriptions.changed_table import ChangedTable, split
from spacetimedb.subscriptions.edges import Edge, JoinSides, join_sides, pick_equality
from spacetimedb.subscriptions.large_rows import Snapshot
from spacetimedb.subscriptions.query import (
    JoinFragment,
    Query,
    SingleFragment,
    both_ways,
    make_fragment,
)
from spacetimedb.subscriptions.row_index import IndexFilling, RowIndex

INDEXED_ROWS: Final = 256
"""Tables smaller than this are searched row by row for the rows of a new subscription."""
MAX_LOOK_UP_KEYS: Final = 16_384
"""Keys of one index that are looked up at once; whoever needs more needs the table."""
Keys = dict[tuple[int, int], tuple[TableRef, set[bytes]]]
"""By (table id, column): keys of an index."""


class Lookups(Protocol):
    """What can be looked up without knowing all rows of a table."""

    def can_look_up(self, table: TableRef, column: int) -> bool:
        """Whether the rows with a value in a column can be asked for, and should."""

    def knows(self, table_id: int) -> bool:
        """Whether all rows of the table are known."""


class NoLookups:
    """All tables are known."""

    def can_look_up(self, table: TableRef, column: int) -> bool:
        """Never."""
        return False

    def knows(self, table_id: int) -> bool:
        """Always."""
        return True


class Wanted:
    """What queries need before they can start: all rows of `tables`, rows with these `keys`. Nobody asks for keys
    unless `may_look_up`."""

    def __init__(self, may_look_up: bool) -> None:
        self.may_look_up = may_look_up
        self.tables: set[int] = set()
        self.keys: Keys = {}


class LiveQueries:
    """See the head of the module. `tables`: those that live queries read, by id."""

    def __init__(self, source: RowSource, lookups: Lookups) -> None:
        self._source = source
        self._lookups = lookups
        self.tables: dict[int, ChangedTable] = {}
        self._partial_edges: dict[Edge, None] = {}
        """Edges whose probed side is not known entirely."""

    # ---- what has to be known ----

    def wanted(self, queries: Iterable[Query], may_look_up: bool) -> Wanted:
        """What must be known before the queries can be started, or their rows told."""
        wanted = Wanted(may_look_up)
        for query in queries:
            for plan in query.plans:
                if plan.is_single:
                    found = pick_equality(plan, 0)
                    if found is None or not self._want_keys(wanted, plan.table, found[0], {found[1].key}):
                        self._want_table(wanted, plan.table)
                else:
                    self._want_join(wanted, plan)
        return wanted

    def can_start(self, query: Query) -> bool:
        """Whether a query can be started with what is known. One over single tables always can, as long as nobody asks
        for its rows."""
        wanted = Wanted(False)
        for plan in query.plans:
            if not plan.is_single:
                self._want_join(wanted, plan)
        return all(map(self._lookups.knows, wanted.tables))

    def _want_join(self, wanted: Wanted, plan: SelectPlan) -> None:
        sides = join_sides(plan)
        if sides is None:
            for relvar in plan.relvars:
                self._want_table(wanted, relvar.table)
            return
        rows = self._driving_rows(sides)
        column, key = sides.constant_column, sides.constant.key
        if rows is None and not self._want_keys(wanted, sides.driving, column, {key}):
            self._want_table(wanted, sides.driving)
            if self._lookups.knows(sides.driving.table_id):
                rows = self._search(sides)
        keys = set(key_functions(sides.driving.layout, sides.driving_column)[1](rows or ()))
        if not self._want_keys(wanted, sides.probed, sides.probed_column, keys):
            self._want_table(wanted, sides.probed)

    def _want_table(self, wanted: Wanted, table: TableRef) -> None:
        if not table.is_event:
            wanted.tables.add(table.table_id)

    def _want_keys(self, wanted: Wanted, table: TableRef, column: int, keys: set[bytes]) -> bool:
        """Whether the rows with these keys are here or can be asked for; False: the table is needed."""
        if table.is_event:
            return True
        entry = self.tables.get(table.table_id)
        index = None if entry is None else entry.indexes.get(column)
        if index is not None:
            keys = {key for key in keys if not index.has(key)}
            if not keys:
                return True
        is_worth_it = wanted.may_look_up and len(keys) <= MAX_LOOK_UP_KEYS
        if not is_worth_it or not self._lookups.can_look_up(table, column):
            return False
        wanted.keys.setdefault((table.table_id, column), (table, set()))[1].update(keys)
        return True

    def _driving_rows(self, sides: JoinSides) -> Collection[bytes] | None:
        """The rows from which a join starts, if they are at hand."""
        entry = self.tables.get(sides.probed.table_id)
        edge = None if entry is None else entry.edges.get(sides.place)
        key = sides.constant.key
        if edge is not None and edge.has(key):
            return edge.rows(key)
        entry = self.tables.get(sides.driving.table_id)
        index = None if entry is None else entry.indexes.get(sides.constant_column)
        return index.find(key) if index is not None and index.has(key) else None

    def _search(self, sides: JoinSides) -> Collection[bytes]:
        """The same, looked for among all rows."""
        column, key = sides.constant_column, sides.constant.key
        found = self.search(sides.driving.table_id, column, key)
        if found is not None:
            return found
        rows = self._source.rows(sides.driving.table_id)
        keys = key_functions(sides.driving.layout, column)[1](rows)
        return list(compress(rows, [found == key for found in keys]))

    def search(self, table_id: int, column: int, key: bytes) -> Collection[bytes] | None:
        """The rows with this value, from an index; None if it is not worth one (yet)."""
        entry = self.tables.get(table_id)
        if entry is None:
            return None
        index = entry.indexes.get(column)
        if index is None or not index.has(key):
            entry.scans[column] = entry.scans.get(column, 0) + 1
            if entry.scans[column] < 2 or self._source.row_count(table_id) < INDEXED_ROWS:
                return None
            index = entry.index(column, self._source)
            if column not in entry.searched:
                index.uses += 1
                entry.searched[column] = 0
        if column in entry.searched:
            entry.searched[column] = 0
        return index.find(key)

    @property
    def has_partial_joins(self) -> bool:
        """Whether a commit may have holes."""
        return bool(self._partial_edges)

    def holes(self, changes: Iterable[TableChange]) -> Keys:
        """The keys that a commit needs and that are not known. Enter their rows as they are before the commit."""
        out: Keys = {}
        for change in changes:
            entry = self.tables.get(change.table_id)
            if entry is None or not entry.driving or not change.inserts.row_count:
                continue
            rows = split(change.inserts)
            for edge in entry.driving:
                if edge.probed.known is None:
                    self._partial_edges.pop(edge, None)
                elif found := edge.missing(rows):
                    place = edge.probed_table.table_id, edge.probed_column
                    out.setdefault(place, (edge.probed_table, set()))[1].update(found)
        return out

    def clients_of_partial_joins(self) -> set[int]:
        """The clients whose queries may have holes."""
        queries = {join.query for edge in self._partial_edges for join in edge.joins}
        return {client for query in queries for audience in query.audiences for client in audience.clients}

    # ---- indexes ----

    def enter_rows(self, table: TableRef, column: int, keys: Iterable[bytes], rows: Sequence[bytes]) -> bool:
        """Rows that were looked up: all with these keys, at this place of the commit order.

        True: it is a new index, kept until `release_index`.
        """
        entry = self.entry(table)
        is_new = column not in entry.indexes
        index = entry.partial_index(column)
        if is_new:
            entry.uses += 1
            index.uses += 1
        index.enter(keys, rows)
        return is_new

    def release_index(self, table_id: int, column: int) -> None:
        """Undoes an `enter_rows` that was True: the index goes with its last user."""
        self._leave_index(table_id, column)
        self.release(table_id)

    def _leave_index(self, table_id: int, column: int) -> None:
        entry = self.tables[table_id]
        index = entry.indexes[column]
        index.uses -= 1
        if not index.uses:
            del entry.indexes[column]

    def begin_indexes(self, table: TableRef, columns: Iterable[int], snapshot: Snapshot) -> IndexFilling:
        """Starts indexes for a filling to complete; they follow the commits from now on, until `end_indexes`."""
        entry = self.entry(table)
        entry.uses += 1
        indexes = []
        for column in columns:
            index = entry.partial_index(column)
            index.uses += 1
            indexes.append(index)
        return IndexFilling(indexes, snapshot.batches())

    def end_indexes(self, table_id: int) -> None:
        """Undoes `begin_indexes`: the indexes go with the last subscriber of the table."""
        self.release(table_id)

    # ---- start and end of queries ----

    def entry(self, table: TableRef) -> ChangedTable:
        """What is known of a table, made if there is nothing."""
        entry = self.tables.get(table.table_id)
        if entry is None:
            entry = self.tables[table.table_id] = ChangedTable(table)
        return entry

    def release(self, table_id: int) -> None:
        """One user of a table less."""
        entry = self.tables[table_id]
        entry.uses -= 1
        if not entry.uses:
            del self.tables[table_id]

    def start(self, query: Query) -> None:
        """Makes the query's fragments and puts them where changes find them. Nothing is `wanted` any more for it."""
        for plan in query.plans:
            for relvar in plan.relvars:
                self.entry(relvar.table).uses += 1
            fragment = make_fragment(query, plan)
            query.fragments.append(fragment)
            if isinstance(fragment, SingleFragment):
                entry = self.tables[plan.table.table_id]
                if fragment.equality is not None:
                    entry.values(fragment.equality[0]).add(fragment.equality[1].key, fragment)
                elif plan.where is None:
                    entry.whole[fragment] = None
                else:
                    entry.filtered[fragment] = None
            else:
                self._start_join(fragment)

    def _start_join(self, fragment: JoinFragment) -> None:
        sides = fragment.sides
        if sides is None:
            for side in (fragment.returned, fragment.other):
                side.index = self.tables[side.table_id].index(side.column, self._source)
                side.index.uses += 1
        else:
            fragment.edge = self._edge(sides)
            fragment.probed.index, fragment.driving.index = fragment.edge.probed, fragment.edge.index
            fragment.edge.probed.uses += 1
            fragment.edge.add(sides.constant.key, fragment, fragment.probed.equality is None)
        for side, _ in both_ways(fragment):
            entry = self.tables[side.table_id]
            if side.equality is not None:
                entry.values(side.equality[0]).add(side.equality[1].key, fragment)
            elif sides is None or side is fragment.driving:
                entry.joins[fragment] = None

    def _edge(self, sides: JoinSides) -> Edge:
        """The edge for a join, with the rows that it starts from and an index that knows all their partners."""
        key = sides.constant.key
        entry = self.tables[sides.probed.table_id]
        edge = entry.edges.get(sides.place)
        rows: Collection[bytes] | None = None
        if edge is None or not edge.has(key):
            rows = self._driving_rows(sides)
            if rows is None:
                rows = self._search(sides)
        if edge is None:
            index = entry.indexes.get(sides.probed_column)
            edge = Edge(sides, entry.index(sides.probed_column, self._source) if index is None else index)
            entry.edges[sides.place] = edge
            self.tables[sides.driving.table_id].driving[edge] = None
            if edge.probed.known is not None:
                self._partial_edges[edge] = None
        if rows is not None:
            edge.begin(key, rows)
        probed = edge.probed
        if probed.known is not None and not all(map(probed.has, map(edge.index.key, edge.rows(key)))):
            probed.complete(self._source.rows(sides.probed.table_id))
        return edge

    def stop(self, query: Query) -> None:
        """Takes the query's fragments away."""
        for fragment in query.fragments:
            if isinstance(fragment, SingleFragment):
                entry = self.tables[fragment.plan.table.table_id]
                if fragment.equality is not None:
                    entry.forget_value(fragment.equality[0], fragment.equality[1].key, fragment)
                else:
                    entry.whole.pop(fragment, None)
                    entry.filtered.pop(fragment, None)
            else:
                self._stop_join(fragment)
            for relvar in fragment.plan.relvars:
                self.release(relvar.table.table_id)
        query.fragments = []
        query.initial = None

    def _stop_join(self, fragment: JoinFragment) -> None:
        for side in (fragment.returned, fragment.other):
            entry = self.tables[side.table_id]
            entry.joins.pop(fragment, None)
            if side.equality is not None:
                entry.forget_value(side.equality[0], side.equality[1].key, fragment)
        edge, sides = fragment.edge, fragment.sides
        if edge is None or sides is None:
            for side in (fragment.returned, fragment.other):
                self._leave_index(side.table_id, side.column)
            return
        if edge.remove(sides.constant.key, fragment):
            del self.tables[sides.probed.table_id].edges[edge.place]
            del self.tables[sides.driving.table_id].driving[edge]
            self._partial_edges.pop(edge, None)
        self._leave_index(sides.probed.table_id, sides.probed_column)
        fragment.edge = None

    # ---- other programs ----

    def read_anew(self, tables: Collection[int], catalog: Catalog) -> None:
        """Columns of these tables have grown, and no query reads them now: what is kept is kept with the new types."""
        for table in catalog.user_tables():
            if table.table_id in tables and table.table_id in self.tables:
                self.tables[table.table_id].read_as(table)

    def looked_up(self, queries: Iterable[Query]) -> dict[tuple[int, int], RowIndex]:
        """The rows of live queries that come from tables which are not known, by (table id, column): to start them
        again from these."""
        out: dict[tuple[int, int], RowIndex] = {}
        for fragment in (fragment for query in queries for fragment in query.fragments):
            if not isinstance(fragment, JoinFragment) or fragment.edge is None or fragment.sides is None:
                continue
            edge, sides = fragment.edge, fragment.sides
            if edge.probed.known is not None:
                place = sides.probed.table_id, sides.probed_column
                before = out.get(place)
                out[place] = edge.probed
                if before is not None and before is not edge.probed:
                    edge.probed.enter(before.known or (), before.rows())
            if not self._lookups.knows(sides.driving.table_id):
                place = sides.driving.table_id, sides.constant_column
                index = out.setdefault(place, RowIndex(sides.driving.layout, place[1], (), True))
                for constant, rows in edge.all_rows.items():
                    index.enter((constant,), list(rows))
        return out
