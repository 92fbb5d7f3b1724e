"""Which queries read large tables from end to end, and which indexes of large tables queries need."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from spacetimedb.sql.catalog import TableRef
from spacetimedb.sql.execute import RowSource
from spacetimedb.sql.select_plan import SelectPlan
from spacetimedb.subscriptions.changed_table import ChangedTable
from spacetimedb.subscriptions.edges import join_sides, pick_equality
from spacetimedb.subscriptions.large_rows import LargeRows, SnapshotOf
from spacetimedb.subscriptions.live_queries import LiveQueries, Lookups
from spacetimedb.subscriptions.query import Query, SingleFragment

LARGE_TABLE: Final = 32_768
"""Rows from which on a table is read in pieces."""
SEARCHES_BEFORE_INDEX: Final = 2
"""Searches of a large table by a column that go without an index of it."""
REMEMBERED_SEARCHES: Final = 1024


class LargeTables:
    """See the head of the module. A table of which the rows with some keys only are known is none."""

    def __init__(self, live: LiveQueries, source: RowSource, lookups: Lookups) -> None:
        self._tables = live.tables
        self._source = source
        self._lookups = lookups
        self._gathering: dict[Query, tuple[ChangedTable, int, list[LargeRows]]] = {}
        """With the table and its version: what is being gathered, for clients that make the same query meanwhile."""
        self._searches: dict[tuple[int, int], int] = {}
        """How often a table (id) was searched for a value of a column by queries that are answered once."""

    def rows(self, query: Query, snapshot_of: SnapshotOf) -> list[LargeRows] | None:
        """The rows of a query, if it reads one large table from end to end; None for any other."""
        if len(query.table_ids) != 1 or not self._is_scan(query):
            return None
        table_id = query.table_ids[0]
        entry = self._tables[table_id]
        for other, (_, _, parts) in list(self._gathering.items()):
            if all(part.is_done or not part.users for part in parts):
                del self._gathering[other]
        found = self._gathering.get(query)
        if found is None or found[0] is not entry or found[1] != entry.version:
            parts = []
            for fragment in query.fragments:
                assert isinstance(fragment, SingleFragment)
                row_size = fragment.plan.table.layout.row_size
                parts.append(LargeRows(fragment.name, snapshot_of(table_id), fragment.select, row_size))
            found = self._gathering[query] = entry, entry.version, parts
        for part in found[2]:
            part.users += 1
        return list(found[2])

    def _is_scan(self, query: Query) -> bool:
        for fragment in query.fragments:
            if not isinstance(fragment, SingleFragment) or not self._is_large(fragment.plan.table):
                return False
            if fragment.equality is not None:
                entry = self._tables[fragment.plan.table.table_id]
                column = fragment.equality[0]
                index = entry.indexes.get(column)
                if index is not None and index.has(fragment.equality[1].key):
                    return False
                entry.scans[column] = entry.scans.get(column, 0) + 1
        return True

    def _is_large(self, table: TableRef) -> bool:
        table_id = table.table_id
        return not table.is_event and self._lookups.knows(table_id) and self._source.row_count(table_id) >= LARGE_TABLE

    def missing_indexes(self, queries: Iterable[Query], may_look_up: bool) -> tuple[TableRef, list[int]] | None:
        """See `Subscriptions.missing_indexes`. The first search of a table for a value goes without an index."""
        missing: dict[int, tuple[TableRef, list[int]]] = {}
        for query in queries:
            for plan in query.plans:
                for number, relvar in enumerate(plan.relvars):
                    table = relvar.table
                    if self._is_large(table):
                        entry = self._tables.get(table.table_id)
                        columns = missing.setdefault(table.table_id, (table, []))[1]
                        for column in self._wanted(plan, number, entry):
                            if may_look_up and self._lookups.can_look_up(table, column):
                                continue
                            index = None if entry is None else entry.indexes.get(column)
                            if column not in columns and (index is None or index.known is not None):
                                columns.append(column)
        return next((found for found in missing.values() if found[1]), None)

    def missing_search_index(self, plan: SelectPlan) -> tuple[TableRef, list[int]] | None:
        """See `Subscriptions.missing_search_index`."""
        for fragment in plan.fragments:
            for number, relvar in enumerate(fragment.relvars):
                found = pick_equality(fragment, number)
                if found is None or not self._is_large(relvar.table):
                    continue
                table_id, column = relvar.table.table_id, found[0]
                entry = self._tables.get(table_id)
                index = None if entry is None else entry.indexes.get(column)
                if index is not None and index.has(found[1].key):
                    continue
                if len(self._searches) >= REMEMBERED_SEARCHES:
                    self._searches.clear()
                self._searches[table_id, column] = times = self._searches.get((table_id, column), 0) + 1
                if times > SEARCHES_BEFORE_INDEX:
                    return relvar.table, [column]
        return None

    def _wanted(self, plan: SelectPlan, number: int, entry: ChangedTable | None) -> list[int]:
        """Columns of one table of a plan of which indexes are wanted."""
        if plan.is_single:
            found = pick_equality(plan, number)
            return [found[0]] if found is not None and entry is not None and entry.scans.get(found[0]) else []
        sides = join_sides(plan)
        if sides is not None:
            return [sides.constant_column if number == sides.driving_relvar else sides.probed_column]
        on = plan.joins[0]
        assert on is not None
        return [side.column for side in (on.earlier, on.joined) if side.relvar == number]
