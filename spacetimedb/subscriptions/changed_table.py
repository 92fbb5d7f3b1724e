"""What live subscriptions want to know of one table: which fragments a change of it concerns.

    whole      fragments of one table without condition: everything that changed, forwarded as it stands in the record
    filtered   fragments of one table that look at every changed row
    by_value   fragments with ``column = constant``: per column, the changed rows' values lead to those concerned
    joins      joins that have to be evaluated whenever the table changes
    edges      joins concerned only if a changed row has partners with ``column = constant`` in the other table

So a change costs O(its rows x columns with constants) and the fragments concerned, however many others there are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from spacetimedb.sql.catalog import TableRef
from spacetimedb.sql.execute import RowSource
from spacetimedb.sql.predicate import key_functions
from spacetimedb.store.commit_record import Rows, TableChange
from spacetimedb.subscriptions.query import AnyFragment, JoinFragment, SingleFragment
from spacetimedb.subscriptions.row_index import RowIndex

Fragments = dict[AnyFragment, None]
RowLists = tuple[list[bytes], list[bytes]]
"""(inserts, deletes) of one table in one commit."""
_NOTHING: RowLists = [], []


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


class Edge:
    """From a changed row over its partners in another table to the value of a column there."""

    __slots__ = ("index", "key", "values")

    def __init__(self, table: TableRef, column: int, index: RowIndex, values: ValueMap) -> None:
        self.key = key_functions(table.layout, column)[0]
        self.index = index
        self.values = values

    def concerned(self, rows: Iterable[bytes], out: Fragments) -> None:
        """Adds the joins that a change of these rows concerns."""
        for row in rows:
            for partner in self.index.find(self.key(row)):
                found = self.values.fragments.get(self.values.key(partner))
                if found:
                    out.update(found)


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
        """By (own column, other table, its join column, its constant column)."""
        self.indexes: dict[int, RowIndex] = {}
        self.scans: dict[int, int] = {}
        """How often the table was searched for a value of a column."""

    def index(self, column: int, source: RowSource) -> RowIndex:
        """The index over a column, built now if there is none."""
        found = self.indexes.get(column)
        if found is None:
            rows: Collection[bytes] = () if self.table.is_event else source.rows(self.table.table_id)
            found = self.indexes[column] = RowIndex(self.table.layout, column, rows)
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
        if not (self.by_value or self.filtered or self.indexes or self.joins or self.edges):
            return _NOTHING
        lists = _split(change.inserts), _split(change.deletes)
        if self.indexes and not self.table.is_event:
            for index in self.indexes.values():
                index.change(lists[1], lists[0])
        return lists


def _split(rows: Rows) -> list[bytes]:
    return [rows.data] if rows.row_count == 1 else rows.split() if rows.row_count else []
