"""Copies of a table's refs for readers that do not know its rows (REFS in `mail`), made while transactions go on.

What belongs to a copy is fixed when it begins, by a list that shares the numbers; REFS_BEGUN says so at that place of
the ring. Making bytes of a million numbers takes longer than callers should wait, so it is done PIECE_REFS at a time,
and the copy comes with REFS_READY some transactions later. The reader applies to it what has changed between the two.
"""

from __future__ import annotations

from array import array
from collections import deque
from typing import TYPE_CHECKING, Final

from spacetimedb.hosts import mail

if TYPE_CHECKING:
    from spacetimedb.hosts.database import Database

PIECE_REFS: Final = 32_768
"""Refs that are copied between two looks into the mailboxes."""


class RefsCopies:
    """Copies under way, one after the other."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._number = 0
        self._jobs: deque[tuple[int, int, list[int], array[int]]] = deque()
        """(number, table id, all refs, those copied)."""

    def begin(self, table_id: int) -> None:
        """Begins a copy of the refs of this moment, between two transactions; a small one is ready at once."""
        table = self._database.store.tables.get(table_id)
        refs = [] if table is None else list(table.refs_by_key.values())
        if len(refs) <= PIECE_REFS:
            self._ready(0, table_id, array("Q", refs))
            return
        self._number = self._number % 0xFFFFFFFF + 1
        self._database.out.append(mail.REFS_READY_RECORD.pack(24, mail.REFS_BEGUN, table_id, self._number, 0))
        self._jobs.append((self._number, table_id, refs, array("Q")))

    def step(self) -> bool:
        """Copies some more. False if there is nothing to copy."""
        if not self._jobs:
            return False
        number, table_id, refs, copied = self._jobs[0]
        copied.fromlist(refs[len(copied) : len(copied) + PIECE_REFS])
        if len(copied) == len(refs):
            self._jobs.popleft()
            self._ready(number, table_id, copied)
        return True

    def _ready(self, number: int, table_id: int, copied: array[int]) -> None:
        database = self._database
        block = database.heap.put(copied.tobytes())
        database.heap.retired.append(block)
        database.out.append(mail.REFS_READY_RECORD.pack(24, mail.REFS_READY, table_id, number, block))
