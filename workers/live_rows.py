"""The committed rows of a table as a reader knows them: refs into the shared heap, at its own place in the commit
ring."""

from __future__ import annotations

from array import array
from typing import Final

from spacetimedb.memory.heap import RowReader
from spacetimedb.store.commit_record import TableChange

MAX_PENDING: Final = 4096
"""Changes kept before they are folded into the list of refs, if nobody asks earlier."""


class LiveRows:
    """Refs of one table. `base` is a copy that the actor made; changes since then are folded in when somebody asks.

    Adding a change is O(1); asking is O(rows) once after changes, O(1) otherwise.
    """

    __slots__ = ("_base", "_heap", "_pending")

    def __init__(self, heap: RowReader, base: bytes) -> None:
        self._heap = heap
        self._base = array("Q")
        self._base.frombytes(base)
        self._pending: list[tuple[bytes, bytes]] = []

    def change(self, change: TableChange) -> None:
        """A committed change of the table, in commit order."""
        self._pending.append((change.deleted_refs, change.inserted_refs))
        if len(self._pending) > MAX_PENDING:
            self.refs()

    def refs(self) -> array[int]:
        """Refs of all live rows, in no order."""
        if self._pending:
            live = set(self._base)
            for deleted, inserted in self._pending:
                live.difference_update(memoryview(deleted).cast("Q"))
                live.update(memoryview(inserted).cast("Q"))
            self._base = array("Q", live)
            self._pending.clear()
        return self._base

    def rows(self) -> list[bytes]:
        """Every row as bytes."""
        return self._heap.rows(self.refs())

    def __len__(self) -> int:
        return len(self.refs())
