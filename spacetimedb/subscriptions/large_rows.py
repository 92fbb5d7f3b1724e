"""The rows of new subscriptions to large tables, gathered a piece at a time while commits go on.

A large table is read through a *snapshot*: the rows of one moment, in batches, whatever happens to the table meanwhile.
`LargeRows` makes the answer of one fragment of it, `row_index.IndexFilling` indexes.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from spacetimedb.sql.predicate import Select
from spacetimedb.subscriptions.wire import row_list_head

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
        """One user less; the last one ends the gathering, and what was gathered is let go of."""
        self.users -= 1
        if not self.users:
            self._snapshot.close()
            self._collected = []
            del self.parts[1:]
