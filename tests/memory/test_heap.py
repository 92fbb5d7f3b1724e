"""The row heap: allocation, epochs, large blocks, and a reader process that verifies rows while the writer churns."""

from __future__ import annotations

import os
import random
import time
import zlib
from array import array
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacetimedb.memory.doorbell import Doorbell
from spacetimedb.memory.heap import BLOCK_SIZES, CHUNK, HeapCorrupt, HeapFull, RowHeap, RowReader
from spacetimedb.memory.region import Region
from spacetimedb.memory.ring import RingReader, RingWriter, format_ring, iter_records, pack_record

from .processes import Child

GIB = 1 << 30


def make_heap(size: int = GIB) -> RowHeap:
    return RowHeap(Region.private(size))


def test_size_classes() -> None:
    assert BLOCK_SIZES[:17] == (*range(16, 257, 16), 288)
    assert BLOCK_SIZES[-1] == 32768
    assert all(size % 16 == 0 for size in BLOCK_SIZES)
    assert list(BLOCK_SIZES) == sorted(set(BLOCK_SIZES))


def test_every_length_comes_back() -> None:
    heap = make_heap()
    lengths = [*range(600), 4092, 4093, 32763, 32764, 32765, 65531, 65532, 65533, 3_000_000]
    rows = [bytes([n & 255]) * n for n in lengths]
    refs = [heap.put(row) for row in rows]
    assert 0 not in refs
    assert heap.rows(refs) == rows
    assert [heap.row(ref) for ref in refs] == rows
    assert [heap.length(ref) for ref in refs] == lengths
    heap._check(refs)
    assert heap.statistics().live_blocks == len(refs)


def test_the_hot_path_of_the_store() -> None:
    heap = make_heap()
    slots, memory, row = heap.slots(20), heap.memory, b"x" * 20
    refs = []
    for _ in range(10000):
        ref = slots.free.pop() if slots.free else slots.take()
        memory[ref : ref + 24] = slots.header + row
        refs.append(ref)
    assert len(set(refs)) == 10000
    assert heap.rows(array("Q", refs)) == [row] * 10000
    assert heap.slots(20).free is slots.free
    heap._check(refs)


def test_a_ref_is_reused_only_after_its_epoch() -> None:
    heap = make_heap()
    one, two = heap.put(b"one"), heap.put(b"two")
    heap.retired.append(one)
    heap.seal(100)
    heap.retire([two])
    heap.seal(200)
    heap._check([])
    assert heap.reclaim(99) == 0
    assert heap.reclaim(100) == 1
    assert heap.put(b"new") == one
    assert heap.row(two) == b"two"
    assert heap.reclaim(1000) == 1
    assert heap.put(b"new") == two
    heap.seal(300)  # nothing retired: no epoch
    assert heap.reclaim(300) == 0
    heap.retire([two])
    heap.seal(400)
    heap.retire([one])
    with pytest.raises(ValueError, match="before"):
        heap.seal(399)


def test_large_runs_are_merged_and_reused() -> None:
    heap = make_heap()
    refs = [heap.put(bytes(n * CHUNK - 4)) for n in (1, 20, 3, 5)]
    assert refs == [CHUNK, 2 * CHUNK, 22 * CHUNK, 25 * CHUNK]
    heap.release([refs[0], refs[2]])
    heap._check([refs[1], refs[3]])
    heap.release([refs[1]])
    heap._check([refs[3]])
    assert heap.statistics().free_chunks == 24
    assert heap.put(bytes(24 * CHUNK - 4)) == CHUNK
    assert heap.statistics().free_chunks == 0
    with pytest.raises(HeapCorrupt):
        heap.release([refs[1]])


def test_a_freed_large_block_goes_back_to_the_system() -> None:
    region = Region.create(64 * GIB, "test-heap")
    heap = RowHeap(region)
    assert os.fstat(region.fd).st_blocks * 512 < 1 << 20
    ref = heap.put(b"\xff" * (32 << 20))
    assert os.fstat(region.fd).st_blocks * 512 > 32 << 20
    heap.release([ref])
    assert os.fstat(region.fd).st_blocks * 512 < 1 << 20
    region.close()


def test_full_heap() -> None:
    heap = make_heap(4 * CHUNK)
    refs = [heap.put(bytes(32764)) for _ in range(6)]
    with pytest.raises(HeapFull):
        heap.put(bytes(32764))
    with pytest.raises(HeapFull):
        heap.put(bytes(40000))
    heap.release(refs[:1])
    assert heap.put(bytes(32764)) == refs[0]
    heap._check(refs)


def test_check_finds_damage() -> None:
    heap = make_heap()
    ref = heap.put(b"row")
    heap.retire([ref, ref])
    with pytest.raises(HeapCorrupt, match="twice"):
        heap._check()
    heap.retired.clear()
    heap.retire([ref + 8])
    with pytest.raises(HeapCorrupt, match="no block"):
        heap._check()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ppprsc"), st.integers(0, 3000) | st.integers(30000, 200000)), max_size=120),
)
def test_any_sequence_keeps_the_rows(steps: list[tuple[str, int]]) -> None:
    heap = make_heap(64 << 20)
    live: dict[int, bytes] = {}
    position = 0
    for step, n in steps:
        if step == "p":
            row = bytes([n & 255]) * n
            ref = heap.put(row)
            assert ref not in live
            live[ref] = row
        elif step == "r" and live:
            ref = list(live)[n % len(live)]
            del live[ref]
            heap.retire([ref])
        elif step == "s":
            position += 1
            heap.seal(position)
        elif step == "c":
            heap.reclaim(position - n % 3)
    assert heap.rows(live) == list(live.values())
    heap._check(live)


def test_a_reader_never_sees_a_reused_row() -> None:
    """The writer replaces rows without pause; the reader follows every ref of a record before it advances past it."""
    heap_region, ring_region = Region.create(GIB, "test-heap"), Region.create(4096 + 65536, "test-ring")
    format_ring(ring_region)
    bell, producer_bell = Doorbell.create(), Doorbell.create()
    reader = RingReader(ring_region, 1)

    def read() -> None:
        rows = RowReader(heap_region)
        live: set[int] = set()
        rng = random.Random(1)
        checked = 0
        done = False
        while not done:
            bell.clear()
            data = reader.drain()
            for kind, at, end in iter_records(data):
                refs = array("Q", data[at + 8 : end])
                n = refs[0]
                gone = refs[2 : 2 + n]
                for row in rows.rows(gone):  # a deleted row can still be read until we advance
                    assert zlib.crc32(row[4:]) == int.from_bytes(row[:4], "little")
                live.difference_update(gone)
                live.update(refs[2 + n :])
                done = kind == 2
            for row in rows.rows(rng.sample(sorted(live), min(len(live), 20))):
                assert zlib.crc32(row[4:]) == int.from_bytes(row[:4], "little")
                checked += 1
            if reader.advance():
                producer_bell.ring()
            if not data and reader.prepare_sleep():
                bell.wait(0.2)
                reader.awake()
        assert checked > 100

    child = Child(read)
    heap, writer, rng = RowHeap(heap_region), RingWriter(ring_region), random.Random(2)
    live: list[int] = []
    end = time.monotonic() + 1.5
    reused = 0
    last = False
    while not last:
        last = time.monotonic() > end and reused > 1000
        gone = [live.pop(rng.randrange(len(live))) for _ in range(min(len(live) // 2, 20))]
        new = []
        for _ in range(rng.randrange(30)):
            body = rng.randbytes(rng.choice((10, 50, 50, 50, 200, 3000)))
            new.append(heap.put(pack("<I", zlib.crc32(body)) + body))
        if rng.random() < 0.05:
            body = rng.randbytes(1000) * 100
            new.append(heap.put(pack("<I", zlib.crc32(body)) + body))
        live += new
        refs = array("Q", [len(gone), len(new), *gone, *new])
        while (position := writer.append_batch([pack_record(2 if last else 1, 0, 0, refs.tobytes())])) is None:
            if writer.prepare_wait():
                producer_bell.wait(0.1)
        heap.retire(gone)
        heap.seal(position)
        reused += heap.reclaim(writer.min_position())
        for _ in writer.sleepers():
            bell.ring()
    assert child.join() == 0
    heap._check(live)
