"""What live subscriptions want to know of one table: which fragments a change of it concerns.

    whole      fragments of one table without condition: everything that changed, forwarded as it stands in the record
    filtered   fragments of one table that look at every changed row
    by_value   fragments with ``column = constant``: per column, the changed rows' values lead to those concerned
    joins      joins that have to be evaluated whenever the table changes
    edges      joins concerned only if a changed row has partners with ``column = constant`` in the other table
    driving    the edges for which this is that other table

So a change costs O(its rows x columns with constants) and the fragments concerned, however many others there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from spacetimedb.sql.catalog import TableRef
from spacetimedb.sql.execute import RowSource
from spacetimedb.sql.predicate import key_functions
from spacetimedb.store.commit_record import Rows, TableChange
from spacetimedb.subscriptions.edges import Edge
from spacetimedb.subscriptions.query import AnyFragment, JoinFragment, SingleFragment
from spacetimedb.subscriptions.row_index import RowIndex

Fragments = dict[AnyFragment, None]
RowLists = tuple[list[bytes], list[bytes]]
"""(inserts, deletes) of one table in one commit."""
_NOTHING: RowLists = [], []
LEAST_CHANGES: Final = 1024
"""Changed rows that an index for searches outlives at least."""


class ValueMap:
    """Fragments by the key of one column."""

    __slots__ = ("fragments", "key", "keys")

    def __init__(self, table: TableRef, column: int) -> None:
        self.key, self.keys = key_functions(table.layout, column)
        self.fragments: dict[bytes, Fragments] = {}

    def add(self, key: bytes, fragment: AnyFragment) -> None:
        """Registers a fragment."""
        self.fragments.setdefault(key, {})[fragment] = None

    def remove(self, key: bytes, fragment: AnyFragment) -> None:
        """Undoes ``add``, however often it was called."""
        found = self.fragments.get(key)
        if found is not None:
            found.pop(fragment, None)
            if not found:
                del self.fragments[key]


class ChangedTable:
    """See the head of the module. ``version`` counts the changes seen; ``uses`` the fragments that read the table."""

    def __init__(self, table: TableRef) -> None:
        self.table = table
        self.version = 0
        self.uses = 0
        self.whole: dict[SingleFragment, None] = {}
        self.filtered: dict[SingleFragment, None] = {}
        self.by_value: dict[int, ValueMap] = {}
        self.joins: dict[JoinFragment, None] = {}
        self.edges: dict[tuple[int, int, int, int], Edge] = {}
        """By place."""
        self.driving: dict[Edge, None] = {}
        self.indexes: dict[int, RowIndex] = {}
        self.scans: dict[int, int] = {}
        """How often the table was searched for a value of a column."""
        self.searched: dict[int, int] = {}
        """Columns with an index that is kept for searches, and how many rows have changed since the last one."""

    def read_as(self, table: TableRef) -> None:
        """Columns have grown; rows that are here stay as they are, and so do their keys."""
        self.table = table
        for column, index in self.indexes.items():
            index.key, index.keys = key_functions(table.layout, column)

    def index(self, column: int, source: RowSource) -> RowIndex:
        """The index over a column, completed now if it is not."""
        found = self.indexes.get(column)
        if found is None or found.known is not None:
            rows: Sequence[bytes] = () if self.table.is_event else source.rows(self.table.table_id)
            found = self.partial_index(column)
            found.complete(rows)
        return found

    def partial_index(self, column: int) -> RowIndex:
        """The index over a column; a partial one without rows if there is none."""
        found = self.indexes.get(column)
        if found is None:
            found = self.indexes[column] = RowIndex(self.table.layout, column, (), True)
        return found

    def values(self, column: int) -> ValueMap:
        """The fragments by value of a column."""
        found = self.by_value.get(column)
        if found is None:
            found = self.by_value[column] = ValueMap(self.table, column)
        return found

    def forget_value(self, column: int, key: bytes, fragment: AnyFragment) -> None:
        """Undoes ``values(column).add(key, fragment)``; a join of the table with itself may have done it twice."""
        found = self.by_value.get(column)
        if found is not None:
            found.remove(key, fragment)
            if not found.fragments:
                del self.by_value[column]

    def follow(self, change: TableChange) -> RowLists:
        """Brings version and indexes to the state after a commit. Gives its rows if anybody needs them one by one."""
        self.version += 1
        if not (self.by_value or self.filtered or self.indexes or self.joins or self.edges or self.driving):
            return _NOTHING
        lists = split(change.inserts), split(change.deletes)
        if not self.table.is_event:
            if self.searched:
                self._grow_old(len(lists[0]) + len(lists[1]))
            for index in self.indexes.values():
                index.change(lists[1], lists[0])
            for edge in self.driving:
                edge.follow(lists[1], lists[0])
        return lists

    def _grow_old(self, rows: int) -> None:
        """Lets go of indexes for searches that have cost more in changes than a search saves."""
        for column, changed in list(self.searched.items()):
            index = self.indexes[column]
            if changed < max(len(index), LEAST_CHANGES):
                self.searched[column] = changed + rows
                continue
            del self.searched[column]
            self.scans.pop(column, None)
            index.uses -= 1
            if not index.uses:
                del self.indexes[column]


def split(rows: Rows) -> list[bytes]:
    """The rows one by one."""
    return [rows.data] if rows.row_count == 1 else rows.split() if rows.row_count else []
