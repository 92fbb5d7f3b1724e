"""Indexes that a reader keeps over the rows of a table, by the key of one column (keys: see ``sql.literals``).

Rows are kept as bytes: one row alone as itself, several under one key as the keys of a dict (a table has no row twice).
They follow the commits: ``change`` with the rows of a commit brings an index from the state before it to that after it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from spacetimedb.sql.layout import RowLayout
from spacetimedb.sql.predicate import key_functions


class RowIndex:
    """Rows by key of one column. Look-up and change of a row are O(1)."""

    __slots__ = ("_batches", "_rows", "key", "keys", "uses")

    def __init__(self, layout: RowLayout, column: int, rows: Iterable[bytes]) -> None:
        self.key, self.keys = key_functions(layout, column)
        self._rows: dict[bytes, bytes | dict[bytes, None]] = {}
        self.uses = 0
        """Number of joins that need it."""
        self._batches: Iterator[Sequence[bytes]] | None = None
        self._add(list(rows))

    def fill(self, batches: Iterator[Sequence[bytes]]) -> None:
        """Takes the rows that it does not have yet from here, with ``add_some`` or when it is first asked."""
        self._batches = batches

    @property
    def is_complete(self) -> bool:
        """Whether it has all rows."""
        return self._batches is None

    def add_some(self) -> bool:
        """Adds some of the rows that are still missing. False: it is complete."""
        batch = None if self._batches is None else next(self._batches, None)
        if batch is None:
            self._batches = None
            return False
        self._add(batch)
        return True

    def find(self, key: bytes) -> Collection[bytes]:
        """The rows with this key."""
        if self._batches is not None:
            while self.add_some():
                pass
        found = self._rows.get(key)
        if found is None:
            return ()
        return (found,) if isinstance(found, bytes) else found

    def change(self, deletes: Sequence[bytes], inserts: Sequence[bytes]) -> None:
        """Follows one commit."""
        index = self._rows
        for row, key in zip(deletes, self.keys(deletes), strict=True):
            found = index.get(key)
            if found == row:
                del index[key]
            elif isinstance(found, dict):
                found.pop(row, None)
                if len(found) == 1:
                    (index[key],) = found
        self._add(inserts)

    def _add(self, rows: Sequence[bytes]) -> None:
        index = self._rows
        for row, key in zip(rows, self.keys(rows), strict=True):
            found = index.setdefault(key, row)
            if found is row:
                continue
            if isinstance(found, dict):
                found[row] = None
            elif found != row:
                index[key] = {found: None, row: None}

    def __len__(self) -> int:
        """Number of keys."""
        return len(self._rows)
