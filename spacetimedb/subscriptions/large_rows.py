"""The rows of new subscriptions to large tables, gathered a piece at a time while commits go on.

A large table is read through a *snapshot*: the rows of one moment, in batches, whatever happens to the table meanwhile.
`LargeRows` makes the answer of one fragment of it, `IndexFilling` indexes.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from spacetimedb.sql.catalog import TableRef
from spacetimedb.sql.execute import RowSource
from spacetimedb.sql.predicate import Select
from spacetimedb.sql.select_plan import SelectPlan
from spacetimedb.subscriptions.changed_table import ChangedTable
from spacetimedb.subscriptions.query import Query, SingleFragment, pick_equality
from spacetimedb.subscriptions.wire import row_list_head

LARGE_TABLE: Final = 32_768
"""Rows from which on a table is read in pieces."""
SEARCHES_BEFORE_INDEX: Final = 2
"""Searches of a large table by a column that go without an index of it."""
REMEMBERED_SEARCHES: Final = 1024
ROWS_PER_PART: Final = 16_384
"""Rows that are put together to one bytes object."""


class Snapshot(Protocol):
    """See the head of the module."""

    count: int

    def batches(self) -> Iterator[Sequence[bytes]]:
        """Every row once. To be called once."""

    def close(self) -> None:
        """Nothing more is read. Idempotent."""


SnapshotOf = Callable[[int], Snapshot]
"""Table id to a snapshot of its rows at this moment."""


class LargeRows:
    """SingleTableRows of one fragment. `step` until it gives False, then `parts` hold the bytes, in order.

    `name` is the table's, as BSATN; `select` the condition (None: all rows); `row_size` the length of every row if they
    have one. It may be shared by several clients; `users` counts them, and nobody gathers for none.
    """

    __slots__ = ("_batches", "_collected", "_count", "_lengths", "_row_size", "_select", "_snapshot", "parts", "users")

    def __init__(self, name: bytes, snapshot: Snapshot, select: Select | None, row_size: int | None) -> None:
        self.parts = [name, b""]
        self.users = 0
        self._snapshot = snapshot
        self._batches: Iterator[Sequence[bytes]] | None = snapshot.batches()
        self._select = select
        self._row_size = row_size
        self._lengths = array("I")
        self._count = 0
        self._collected: list[bytes] = []

    @property
    def is_done(self) -> bool:
        """Whether `parts` are complete."""
        return self._batches is None

    @property
    def count(self) -> int:
        """Rows gathered so far."""
        return self._count

    @property
    def size(self) -> int:
        """Bytes of the parts so far."""
        return sum(map(len, self.parts))

    def step(self) -> bool:
        """Gathers a few thousand rows. False: that was all."""
        if self._batches is None:
            return False
        batch = next(self._batches, None)
        if batch is None:
            self._put_together()
            lengths = self._row_size if self._row_size else self._lengths
            self.parts[1] = row_list_head(self.size - len(self.parts[0]), self._count, lengths)
            self._batches = None
            return False
        self._collected += batch if self._select is None else self._select(batch)
        if len(self._collected) >= ROWS_PER_PART:
            self._put_together()
        return True

    def _put_together(self) -> None:
        rows = self._collected
        if rows:
            self.parts.append(b"".join(rows))
            self._count += len(rows)
            if not self._row_size:
                self._lengths.extend(map(len, rows))
            self._collected = []

    def leave(self) -> None:
        """One user less; the last one ends the gathering."""
        self.users -= 1
        if not self.users and self._batches is not None:
            self._snapshot.close()


class LargeTables:
    """Which queries read large tables, and what they need for it. `tables` are those with live subscriptions."""

    def __init__(self, tables: Mapping[int, ChangedTable], source: RowSource) -> None:
        self._tables = tables
        self._source = source
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
                if index is not None and index.filling is None:
                    return False
                entry.scans[column] = entry.scans.get(column, 0) + 1
        return True

    def _is_large(self, table: TableRef) -> bool:
        return not table.is_event and self._source.row_count(table.table_id) >= LARGE_TABLE

    def missing_indexes(self, queries: Iterable[Query]) -> tuple[TableRef, list[int]] | None:
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
                            index = None if entry is None else entry.indexes.get(column)
                            if column not in columns and (index is None or index.filling is not None):
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
                if index is not None and index.filling is None:
                    continue
                if len(self._searches) >= REMEMBERED_SEARCHES:
                    self._searches.clear()
                self._searches[table_id, column] = times = self._searches.get((table_id, column), 0) + 1
                if times > SEARCHES_BEFORE_INDEX:
                    return relvar.table, [column]
        return None

    def _wanted(self, plan: SelectPlan, number: int, entry: ChangedTable | None) -> list[int]:
        """Columns of one table of a plan of which indexes are wanted."""
        found = pick_equality(plan, number)
        columns = []
        if found is not None and (not plan.is_single or (entry is not None and entry.scans.get(found[0]))):
            columns.append(found[0])
        for on in plan.joins:
            assert on is not None
            columns += [side.column for side in (on.earlier, on.joined) if side.relvar == number]
        return columns
