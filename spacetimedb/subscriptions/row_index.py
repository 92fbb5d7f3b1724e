"""Indexes that a reader keeps over the rows of a table, by the key of one column (keys: see ``sql.literals``).

Rows are kept as bytes: one row alone as itself, several under one key as the keys of a dict (a table has no row twice).
Indexes follow the commits: ``change`` with the rows of a commit brings one from the state before it to that after it.

An index is *partial* while it has the rows of some keys only (``known``). Either these were looked up elsewhere, and it
follows the changes of no others, or all rows are being filled in, and it follows every change.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from spacetimedb.sql.layout import RowLayout
from spacetimedb.sql.predicate import key_functions


class RowsMissing(Exception):
    """A partial index was asked for a key that it does not know. Whoever asks has to look first: it is a fault."""


class RowIndex:
    """Rows by key of one column. Look-up and change of a row are O(1)."""

    __slots__ = ("_is_unique", "_rows", "filling", "key", "keys", "known", "uses")

    def __init__(self, layout: RowLayout, column: int, rows: Iterable[bytes], is_partial: bool = False) -> None:
        self.key, self.keys = key_functions(layout, column)
        self._rows: dict[bytes, bytes | dict[bytes, None]] = {}
        self._is_unique = True
        """No key had several rows when rows were added in bulk."""
        self.uses = 0
        """Number of joins that need it."""
        self.known: set[bytes] | None = set() if is_partial else None
        """Keys whose rows are all here; None: every row is."""
        self.filling: IndexFilling | None = None
        """Set while rows are being filled in. Asking for a key that is not known adds them all at once."""
        self.add_many(list(rows))

    def has(self, key: bytes) -> bool:
        """Whether all rows with this key are here."""
        return self.known is None or key in self.known

    def add_many(self, rows: Sequence[bytes]) -> None:
        """Adds rows of the state that the index shows, some of which it may have."""
        if not self._is_unique:
            self._add(rows)
            return
        keys = self.keys(rows)
        found = list(map(self._rows.setdefault, keys, rows))
        if found != rows:
            self._is_unique = False
            self._add([row for row, there in zip(rows, found, strict=True) if there is not row])

    def enter(self, keys: Iterable[bytes], rows: Sequence[bytes]) -> None:
        """All rows with these keys, of the state that the index shows."""
        self._add(rows)
        if self.known is not None:
            self.known.update(keys)

    def complete(self, rows: Sequence[bytes]) -> None:
        """All rows there are, of the state that the index shows."""
        self.add_many(rows)
        self.known = None

    def find(self, key: bytes) -> Collection[bytes]:
        """The rows with this key. Raises RowsMissing."""
        if self.known is not None and key not in self.known:
            if self.filling is None:
                raise RowsMissing
            while self.filling.step():
                pass
        found = self._rows.get(key)
        if found is None:
            return ()
        return (found,) if isinstance(found, bytes) else found

    def change(self, deletes: Sequence[bytes], inserts: Sequence[bytes]) -> None:
        """Follows one commit."""
        if self.known is not None and self.filling is None:
            deletes, inserts = self._of_known(deletes), self._of_known(inserts)
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

    def _of_known(self, rows: Sequence[bytes]) -> Sequence[bytes]:
        known = self.known
        assert known is not None
        return [row for row, key in zip(rows, self.keys(rows), strict=True) if key in known] if known else ()

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

    def rows(self) -> list[bytes]:
        """Every row that is here."""
        return [row for found in self._rows.values() for row in ((found,) if isinstance(found, bytes) else found)]

    def known_rows(self) -> list[bytes]:
        """Those with keys that are known; all others are only here until a filling ends."""
        if self.known is None:
            return self.rows()
        return [row for key in self.known for row in self.find(key)]

    def __len__(self) -> int:
        """Number of keys that have rows."""
        return len(self._rows)


class IndexFilling:
    """Partial indexes of one table that get all rows a piece at a time; meanwhile they follow the commits."""

    def __init__(self, indexes: Sequence[RowIndex], batches: Iterator[Sequence[bytes]]) -> None:
        self._indexes = indexes
        self._batches = batches
        for index in indexes:
            index.filling = self

    def step(self) -> bool:
        """Adds some rows. False: the indexes are complete."""
        batch = next(self._batches, None)
        for index in self._indexes:
            if batch is None:
                index.filling = index.known = None
            else:
                index.add_many(batch)
        return batch is not None
