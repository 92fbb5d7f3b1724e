"""The committed rows of a table as a reader knows them: refs into the shared heap, at its own place in the commit
ring.

What is live is kept as a map of bytes per heap chunk (64 KiB), one byte for each place where a block can start: 1 where
a row of the table is. So changes cost O(1) each, in any order and number, and rows are gathered chunk by chunk in
address order: where all rows have one length, all blocks of a chunk are unpacked by one precompiled struct and those
of the table picked by its map.

    LiveRows    follows the commits
    Snapshot    the rows of one moment, read piecemeal while commits go on
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import compress
from struct import Struct as Layout
from typing import Final

from spacetimedb.memory.heap import BLOCK_SIZES, CHUNK, RowReader
from spacetimedb.store.commit_record import TableChange

MAX_PENDING: Final = 4096
"""Lists of refs kept before they are entered into the maps, if nobody asks earlier."""
MAX_PENDING_BYTES: Final = 16 << 20
PIECE: Final = 16_384
"""Refs entered at a time while others wait."""
BULK: Final = 256
"""Refs from which on it is worth to look whether they lie closely together."""
SPREAD: Final = 64
"""Places per ref up to which they do."""
_UNIT_BITS: Final = 4
_UNITS_BITS: Final = 12
_CHUNK_BITS: Final = 16
_UNITS: Final = CHUNK >> _UNIT_BITS
_UNIT_MASK: Final = _UNITS - 1


class LiveRows:
    """Rows of one table. `base` is a copy of the refs that the actor made, changes follow in commit order.

    Adding a change is O(1). Asking costs what has changed since, then a few dozen nanoseconds per row.
    """

    __slots__ = ("_at", "_count", "_heap", "_maps", "_pending", "_pending_bytes", "_snapshots", "row_size_is_fixed")

    def __init__(self, heap: RowReader, base: bytes, row_size_is_fixed: bool = False) -> None:
        self._heap = heap
        self._maps: dict[int, bytearray] = {}
        self._pending: deque[tuple[int, bytes]] = deque()
        """(1: inserted, 0: deleted; refs) that are not in the maps yet, oldest first."""
        self._at = 0
        """Refs of the first pending list that are in the maps already."""
        self._pending_bytes = 0
        """Bytes of pending lists since all were entered."""
        self._count = len(base) >> 3
        self._snapshots: list[Snapshot] = []
        self.row_size_is_fixed = row_size_is_fixed
        """All rows of the table have one length at any time."""
        if base:
            self._pending.append((1, base))

    def change(self, change: TableChange) -> None:
        """A committed change of the table, in commit order."""
        deleted, inserted = change.deleted_refs, change.inserted_refs
        if deleted:
            self._pending.append((0, deleted))
            self._count -= len(deleted) >> 3
            for snapshot in self._snapshots:
                snapshot.keep(deleted, change)
        if inserted:
            self._pending.append((1, inserted))
            self._count += len(inserted) >> 3
        self._pending_bytes += len(deleted) + len(inserted)
        if len(self._pending) > MAX_PENDING or self._pending_bytes > MAX_PENDING_BYTES:
            self.enter_all()

    @property
    def is_ready(self) -> bool:
        """Whether asking is quick; if not, call `enter_some` until it is."""
        return not self._pending or len(self._pending[0][1]) - (self._at << 3) <= PIECE << 3

    def enter_some(self) -> None:
        """Does a piece of what has to be done before rows can be told."""
        if self._pending:
            present, data = self._pending[0]
            refs = array("Q", data[self._at << 3 : (self._at + PIECE) << 3])
            self._enter(present, refs)
            self._at += len(refs)
            if self._at << 3 >= len(data):
                self._pending.popleft()
                self._at = 0

    def enter_all(self) -> None:
        """Does all of it."""
        while self._pending:
            self.enter_some()
        self._pending_bytes = 0

    def _enter(self, present: int, refs: array[int]) -> None:
        if len(refs) >= BULK:
            first = min(refs) >> _CHUNK_BITS
            last = max(refs) >> _CHUNK_BITS
            if (last - first + 1) << _UNITS_BITS <= len(refs) * SPREAD:
                self._enter_many(present, refs, first, last)
                return
        maps = self._maps
        for ref in refs:
            found = maps.get(ref >> _CHUNK_BITS)
            if found is None:
                found = maps[ref >> _CHUNK_BITS] = bytearray(_UNITS)
            found[ref >> _UNIT_BITS & _UNIT_MASK] = present

    def _enter_many(self, present: int, refs: array[int], first: int, last: int) -> None:
        """Refs that lie closely together, in the chunks `first` to `last`, through one map of all of these."""
        flat = bytearray((last + 1 - first) << _UNITS_BITS)
        offset = first << _UNITS_BITS
        for ref in refs:
            flat[(ref >> _UNIT_BITS) - offset] = 1
        maps = self._maps
        for chunk in range(first, last + 1):
            at = (chunk - first) << _UNITS_BITS
            new = flat[at : at + _UNITS]
            old = maps.get(chunk)
            if old is None:
                if present:
                    maps[chunk] = new
                continue
            was, now = int.from_bytes(old, "little"), int.from_bytes(new, "little")
            result = was | now if present else was & ~now
            maps[chunk] = bytearray(result.to_bytes(_UNITS, "little"))

    def refs(self) -> array[int]:
        """Refs of all live rows, by address."""
        self.enter_all()
        out = array("Q")
        for chunk, found in self._maps.items():
            out.extend(_refs(chunk, found))
        return out

    def batches(self) -> Iterator[list[bytes]]:
        """Every row as bytes, a chunk's at a time. The table must not change before the end."""
        self.enter_all()
        empty = []
        for chunk, found in self._maps.items():
            rows = _rows_of(self._heap, chunk, found, self.row_size_is_fixed)
            if rows:
                yield rows
            else:
                empty.append(chunk)
        for chunk in empty:
            del self._maps[chunk]

    def rows(self) -> list[bytes]:
        """Every row as bytes."""
        out: list[bytes] = []
        for rows in self.batches():
            out += rows
        return out

    def snapshot(self, keeps: bool = True) -> Snapshot:
        """The rows as they are now, to be read later. Close it. Not `keeps`: without those deleted until then."""
        self.enter_all()
        maps = {chunk: found.copy() for chunk, found in self._maps.items()}
        made = Snapshot(self._heap, maps, self.row_size_is_fixed, self._count, self._snapshots, keeps)
        self._snapshots.append(made)
        return made

    @property
    def is_being_read(self) -> bool:
        """Whether a snapshot is open: the rows must be followed until it is closed."""
        return bool(self._snapshots)

    def __len__(self) -> int:
        return self._count


class Snapshot:
    """The rows of one moment. `batches` may pause for as long as it likes: rows that are deleted meanwhile are kept."""

    __slots__ = ("_heap", "_keeps", "_kept", "_maps", "_open", "count", "row_size_is_fixed")

    def __init__(
        self,
        heap: RowReader,
        maps: dict[int, bytearray],
        fixed: bool,
        count: int,
        open_ones: list[Snapshot],
        keeps: bool,
    ) -> None:
        self._heap = heap
        self._maps = maps
        self._kept: list[bytes] = []
        self._keeps = keeps
        self._open = open_ones
        self.count = count
        """Number of rows."""
        self.row_size_is_fixed = fixed

    def keep(self, deleted_refs: bytes, change: TableChange) -> None:
        """Rows are deleted, and their blocks may soon hold others: those not read yet are copied."""
        maps = self._maps
        for ref, row in zip(array("Q", deleted_refs), change.deletes.split(), strict=True):
            found = maps.get(ref >> _CHUNK_BITS)
            if found is not None and found[ref >> _UNIT_BITS & _UNIT_MASK]:
                found[ref >> _UNIT_BITS & _UNIT_MASK] = 0
                if self._keeps:
                    self._kept.append(row)

    def batches(self) -> Iterator[Sequence[bytes]]:
        """Every row once, some at a time. To be called once."""
        maps = self._maps
        for chunk in list(maps):
            found = maps.pop(chunk)
            yield _rows_of(self._heap, chunk, found, self.row_size_is_fixed)
        self.close()
        yield self._kept

    def close(self) -> None:
        """Nothing more is read. Idempotent."""
        self._maps.clear()
        if self in self._open:
            self._open.remove(self)


def _refs(chunk: int, found: bytearray) -> list[int]:
    start = chunk << _CHUNK_BITS
    return list(compress(range(start, start + CHUNK, 1 << _UNIT_BITS), found))


def _rows_of(heap: RowReader, chunk: int, found: bytearray, fixed: bool) -> list[bytes]:
    """The rows of a table in one chunk, given its map."""
    first = found.find(1)
    if first < 0:
        return []
    start = chunk << _CHUNK_BITS
    if fixed:
        length = heap.length(start + (first << _UNIT_BITS))
        if 0 < length + 4 <= BLOCK_SIZES[-1]:
            layout, size, count = _blocks(length)
            present = found[:: size >> _UNIT_BITS][:count]
            live = present.count(1)
            # Unpacking all costs a third of slicing each.
            if live * 4 > count:
                rows = layout.unpack_from(heap.memory, start)
                return list(rows) if live == count else list(compress(rows, present))
    return heap.rows(_refs(chunk, found))


@lru_cache(256)
def _blocks(length: int) -> tuple[Layout, int, int]:
    """All rows of `length` bytes of a whole chunk as a struct; bytes per block; blocks per chunk."""
    size = BLOCK_SIZES[bisect_left(BLOCK_SIZES, length + 4)]
    count = CHUNK // size
    return Layout(f"4x{length}s{size - 4 - length}x" * count), size, count
