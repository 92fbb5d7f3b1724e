"""The row heap: a slab allocator over one flat, sparse region, written by one process and read by many.

A *ref* is the byte offset of a block and is never 0:

    block := length:u32  data[length]          at a multiple of 16; the length in native order (`I`)

The region is divided into chunks of 64 KiB. Chunk 0 is the header (magic, version; the rest unused). Any other chunk is

* a slab: cut into equal blocks of one size class. Classes are 16, 32, .. 256 bytes (4 of them the length), then each
  about an eighth larger than the one before, up to 32 KiB;
* part of a large block's run: blocks above 32 KiB own whole chunks and start at the first;
* free: in the list of free runs (sorted by start, neighbours merged, first fit), or beyond the high-water mark.

The region holds nothing but blocks; the tables of chunks and free refs are the writer's own objects. A heap therefore
never outlives its writer: a restarted writer makes a new one and fills it from the log.

Lifetime of a block

    put -> ref goes out in a commit record -> retire at a later commit -> seal(position) -> reclaim(position) -> reuse

Blocks are never written between put and reclaim. `position` is the commit ring position behind the record that tells
the readers the row is gone; a reader's published position says it will not follow older refs, so once all have passed
`position` nobody can look at the block. Readers therefore need no locks, and a ref from a record is good until the
reader advances past that record.

Memory: a slab chunk stays with its size class for good; a large block's pages go back to the system when it is 1 MiB or
more, smaller runs stay resident for reuse.

Hot path of the store, with everything bound to locals:

    slots = heap.slots(len(row))                      # once per row length
    ref = slots.free.pop() if slots.free else slots.take()
    mem[ref : ref + 4 + n] = slots.header + row       # mem = heap.memory
    retired.append(ref)                               # retired = heap.retired, always the same list
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable

import msgspec

from .region import Region

CHUNK = 1 << 16
"""Bytes per chunk."""
LARGEST_SLAB = 1 << 15
"""Longest block (with its length) that lives in a slab."""
GIVE_BACK = 1 << 20
"""Large blocks of this many bytes return their pages to the system when they are freed."""

_MAGIC = 0x50414548_42445453
_VERSION = 1
_CHUNK_BITS = 16
_REST, _FREE, _LARGE = 253, 254, 255
"""Values of `chunk_class` that are not size classes; _LARGE marks a run's first chunk, _REST its others and chunk 0."""


def _block_sizes() -> tuple[int, ...]:
    sizes = list(range(16, 257, 16))
    while sizes[-1] < LARGEST_SLAB:
        sizes.append(min((sizes[-1] * 9 // 8 + 15) & ~15, LARGEST_SLAB))
    return tuple(sizes)


BLOCK_SIZES = _block_sizes()
"""Bytes per block of each size class, ascending."""


class HeapFull(Exception):
    """The region has no room for another chunk."""


class HeapCorrupt(Exception):
    """The heap's tables contradict each other."""


class HeapStatistics(msgspec.Struct, frozen=True):
    """Sizes in bytes, the rest counts."""

    size: int
    high_water: int
    slab_chunks: int
    free_chunks: int
    free_blocks: int
    retired_blocks: int
    live_blocks: int


class Slots(msgspec.Struct, gc=False):
    """Where rows of one length go. `free` is shared by all lengths of the size class and is always the same list."""

    header: bytes
    """The row length, packed: what stands before the row in its block."""
    free: list[int]
    """Refs ready for use; take from its end."""
    take: Callable[[], int]
    """A ref when `free` is empty: opens a new chunk (or, for a large row, a run). Raises HeapFull."""


class RowReader:
    """Reads blocks by ref. Any process that has the region may make one; it writes nothing."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.memory = region.bytes
        self._halves = region.halves

    def row(self, ref: int) -> bytes:
        """The block's data."""
        at = ref + 4
        return self.memory[at : at + self._halves[ref >> 2]]

    def rows(self, refs: Iterable[int]) -> list[bytes]:
        """The data of each block, in order."""
        memory, halves = self.memory, self._halves
        return [memory[ref + 4 : ref + 4 + halves[ref >> 2]] for ref in refs]

    def length(self, ref: int) -> int:
        """Length of the block's data, in bytes."""
        return self._halves[ref >> 2]


class RowHeap(RowReader):
    """The writer's end. Formats the region: what was in it is forgotten."""

    def __init__(self, region: Region) -> None:
        super().__init__(region)
        if region.size < 2 * CHUNK:
            raise ValueError(f"a heap needs at least {2 * CHUNK} bytes, not {region.size}")
        region.words[0] = _MAGIC
        region.words[1] = _VERSION
        self.chunk_class = bytearray([_REST])
        """Per chunk: its size class, or what else it is."""
        self.retired: list[int] = []
        """Refs retired since the last `seal`; append to it directly, it is never replaced."""
        self._epochs: deque[tuple[int, list[int]]] = deque()
        self._chunks = region.size >> _CHUNK_BITS
        self._free: list[list[int]] = [[] for _ in BLOCK_SIZES]
        self._take: list[Callable[[], int]] = [self._opener(i) for i in range(len(BLOCK_SIZES))]
        classes = (bisect_left(BLOCK_SIZES, units * 16) for units in range(LARGEST_SLAB // 16 + 1))
        self._class_of_units = bytes(classes)
        self._run_starts: list[int] = []
        self._run_lengths: list[int] = []
        self._large: dict[int, int] = {}
        """Ref of each large block -> chunks in its run."""
        self._slots: dict[int, Slots] = {}

    @property
    def high_water(self) -> int:
        """Bytes of the region that have ever been in use."""
        return len(self.chunk_class) << _CHUNK_BITS

    # Writing

    def slots(self, row_length: int) -> Slots:
        """Where rows of this length go. Cheap after the first call for a length; at most one object per length."""
        slots = self._slots.get(row_length)
        if slots is None:
            header = row_length.to_bytes(4, sys.byteorder)
            size = row_length + 4
            if size > LARGEST_SLAB:
                # Not kept: large rows have many lengths, and their list of free refs is always empty.
                return Slots(header, [], lambda: self._take_large(size))
            size_class = self._class_of_units[(size + 15) >> 4]
            slots = self._slots[row_length] = Slots(header, self._free[size_class], self._take[size_class])
        return slots

    def put(self, row: bytes) -> int:
        """Stores a row, or other bytes (a large commit record), and returns the ref. Raises HeapFull."""
        n = len(row)
        slots = self._slots.get(n) or self.slots(n)
        free = slots.free
        ref = free.pop() if free else slots.take()
        self.memory[ref : ref + 4 + n] = slots.header + row
        return ref

    def seal(self, position: int) -> None:
        """Closes the epoch: what was retired since the last seal is free once all readers have reached `position`."""
        if self.retired:
            if self._epochs and self._epochs[-1][0] > position:
                raise ValueError(f"epoch position {position} is before {self._epochs[-1][0]}")
            self._epochs.append((position, self.retired.copy()))
            self.retired.clear()

    def retire(self, refs: Iterable[int]) -> None:
        """The blocks are garbage from the next sealed position on."""
        self.retired.extend(refs)

    def reclaim(self, min_position: int) -> int:
        """Frees the epochs sealed at or before `min_position`, the smallest position of all readers.

        Returns the number of blocks freed.
        """
        epochs = self._epochs
        freed = 0
        while epochs and epochs[0][0] <= min_position:
            refs = epochs.popleft()[1]
            self._release(refs)
            freed += len(refs)
        return freed

    def release(self, refs: Iterable[int]) -> None:
        """Frees blocks whose refs were never published (a transaction that failed while it committed)."""
        self._release(refs)

    def _release(self, refs: Iterable[int]) -> None:
        free, chunk_class = self._free, self.chunk_class
        for ref in refs:
            size_class = chunk_class[ref >> 16]
            if size_class < _REST:
                free[size_class].append(ref)
            else:
                self._release_large(ref)

    # Chunks

    def _opener(self, size_class: int) -> Callable[[], int]:
        size, free = BLOCK_SIZES[size_class], self._free[size_class]

        def take() -> int:
            if free:
                return free.pop()
            chunk = self._take_run(1)
            self.chunk_class[chunk] = size_class
            first = chunk << _CHUNK_BITS
            last = first + (CHUNK // size - 1) * size
            free.extend(range(last, first, -size))
            return first

        return take

    def _take_large(self, size: int) -> int:
        chunks = (size + CHUNK - 1) >> _CHUNK_BITS
        chunk = self._take_run(chunks)
        classes = self.chunk_class
        classes[chunk : chunk + chunks] = bytes([_LARGE]) + bytes([_REST]) * (chunks - 1)
        ref = chunk << _CHUNK_BITS
        self._large[ref] = chunks
        return ref

    def _release_large(self, ref: int) -> None:
        chunks = self._large.pop(ref, 0)
        if not chunks:
            raise HeapCorrupt(f"ref {ref} is not a block that could be freed")
        if chunks << _CHUNK_BITS >= GIVE_BACK:
            self.region.discard(ref, chunks << _CHUNK_BITS)
        self._release_run(ref >> _CHUNK_BITS, chunks)

    def _take_run(self, chunks: int) -> int:
        """First chunk of a run: the first free one that is long enough, else behind the high-water mark."""
        starts, lengths = self._run_starts, self._run_lengths
        for i, length in enumerate(lengths):
            if length >= chunks:
                start = starts[i]
                if length == chunks:
                    del starts[i], lengths[i]
                else:
                    starts[i] += chunks
                    lengths[i] -= chunks
                return start
        start = len(self.chunk_class)
        if start + chunks > self._chunks:
            raise HeapFull(f"the row heap of {self.region.size} bytes has no run of {chunks} chunks left")
        self.chunk_class += bytes([_FREE]) * chunks
        return start

    def _release_run(self, start: int, chunks: int) -> None:
        self.chunk_class[start : start + chunks] = bytes([_FREE]) * chunks
        starts, lengths = self._run_starts, self._run_lengths
        i = bisect_left(starts, start)
        if i < len(starts) and starts[i] == start + chunks:
            chunks += lengths[i]
            del starts[i], lengths[i]
        if i and starts[i - 1] + lengths[i - 1] == start:
            lengths[i - 1] += chunks
        else:
            starts.insert(i, start)
            lengths.insert(i, chunks)

    # Inspection

    def statistics(self) -> HeapStatistics:
        slab_chunks = blocks = 0
        for size_class, count in Counter(self.chunk_class).items():
            if size_class < _REST:
                slab_chunks += count
                blocks += count * (CHUNK // BLOCK_SIZES[size_class])
        free_blocks = sum(map(len, self._free))
        retired = len(self.retired) + sum(len(refs) for _, refs in self._epochs)
        return HeapStatistics(
            size=self.region.size,
            high_water=len(self.chunk_class) << _CHUNK_BITS,
            slab_chunks=slab_chunks,
            free_chunks=sum(self._run_lengths),
            free_blocks=free_blocks,
            retired_blocks=retired,
            live_blocks=blocks + len(self._large) - free_blocks - retired,
        )

    def _check(self, live: Iterable[int] | None = None) -> None:
        """Raises HeapCorrupt unless every chunk and every block is accounted for exactly once.

        `live`: all refs in use, if the caller knows them.
        """
        classes = self.chunk_class
        seen: set[int] = set()

        def account(ref: int, where: str) -> None:
            if ref in seen:
                raise HeapCorrupt(f"ref {ref} twice, the second time {where}")
            seen.add(ref)
            chunk = ref >> _CHUNK_BITS
            if not 0 < chunk < len(classes):
                raise HeapCorrupt(f"ref {ref} {where} is outside the heap")
            if classes[chunk] == _LARGE:
                if self._large.get(ref) is None:
                    raise HeapCorrupt(f"ref {ref} {where} is inside a large block")
            elif classes[chunk] >= _REST or (ref & CHUNK - 1) % BLOCK_SIZES[classes[chunk]]:
                raise HeapCorrupt(f"ref {ref} {where} is no block's start (chunk class {classes[chunk]})")

        for size_class, free in enumerate(self._free):
            for ref in free:
                account(ref, "in a free list")
                if classes[ref >> _CHUNK_BITS] != size_class:
                    raise HeapCorrupt(f"ref {ref} in the free list of class {size_class}")
        for position, refs in [*self._epochs, (-1, self.retired)]:
            for ref in refs:
                account(ref, f"retired at {position}")
        for ref in live or ():
            account(ref, "in use")
        if live is not None:
            expected = self.statistics()
            total = expected.live_blocks + expected.free_blocks + expected.retired_blocks
            if len(seen) != total:
                raise HeapCorrupt(f"{total} blocks, {len(seen)} of them accounted for")
        free_chunks = 0
        previous = 0
        for start, length in zip(self._run_starts, self._run_lengths, strict=True):
            if start <= previous or length < 1 or classes[start : start + length] != bytes([_FREE]) * length:
                raise HeapCorrupt(f"free run {start}+{length} is wrong")
            previous = start + length
            free_chunks += length
        if free_chunks != classes.count(_FREE):
            raise HeapCorrupt(f"{classes.count(_FREE)} free chunks, {free_chunks} in runs")
        for ref, chunks in self._large.items():
            start = ref >> _CHUNK_BITS
            if classes[start : start + chunks] != bytes([_LARGE]) + bytes([_REST]) * (chunks - 1):
                raise HeapCorrupt(f"large block {ref} of {chunks} chunks is marked wrongly")
