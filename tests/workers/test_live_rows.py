"""The rows of a table as a reader follows them, against a set; snapshots stay what they were while commits go on."""

from __future__ import annotations

import random
from array import array

import pytest

from spacetimedb.memory.heap import RowHeap
from spacetimedb.memory.region import Region
from spacetimedb.store.commit_record import Rows, TableChange
from spacetimedb.workers.reader.live_rows import LiveRows


class Writer:
    """A table in a heap: changes it at random, and reuses the blocks of deleted rows at once."""

    def __init__(self, seed: int, is_fixed: bool) -> None:
        self.random = random.Random(seed)
        self.is_fixed = is_fixed
        self.heap = RowHeap(Region.private(1 << 24))
        self.live: dict[int, bytes] = {}
        self.position = 0
        self.other_refs: list[int] = []

    def row(self) -> bytes:
        """A new row, and sometimes a row of another table beside it."""
        if self.random.random() < 0.2:
            self.other_refs.append(self.heap.put(b"x" * 24))
        length = 24 if self.is_fixed else self.random.choice((0, 1, 13, 24, 24, 300, 40_000))
        return self.random.randbytes(length)

    def insert(self, count: int) -> array[int]:
        """Refs of new rows."""
        refs = array("Q")
        for _ in range(count):
            row = self.row()
            ref = self.heap.put(row)
            self.live[ref] = row
            refs.append(ref)
        return refs

    def commit(self, deleted: int, inserted: int) -> TableChange:
        """A change of so many rows; `reuse` afterwards gives the blocks back."""
        gone = self.random.sample(sorted(self.live), min(deleted, len(self.live)))
        rows = [self.live.pop(ref) for ref in gone]
        refs = self.insert(inserted)
        self.heap.retire(gone)
        new = [self.live[ref] for ref in refs]
        return TableChange(1, 0, _rows(rows), _rows(new), array("Q", gone).tobytes(), refs.tobytes())

    def reuse(self) -> None:
        """What was deleted is overwritten by other rows from now on."""
        self.position += 1
        self.heap.seal(self.position)
        self.heap.reclaim(self.position)


def _rows(rows: list[bytes]) -> Rows:
    return Rows(len(rows), b"".join(rows), 0, list(map(len, rows)))


@pytest.mark.parametrize("is_fixed", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_rows_and_snapshots(seed: int, is_fixed: bool) -> None:
    writer = Writer(seed, is_fixed)
    base = writer.insert(5000 if is_fixed else 300)
    if seed % 2:
        writer.random.shuffle(base)
    rows = LiveRows(writer.heap, base.tobytes(), is_fixed)
    while not rows.is_ready:
        rows.enter_some()
    for _ in range(20):
        before = sorted(writer.live.values())
        snapshot = rows.snapshot()
        batches = snapshot.batches()
        found = list(next(batches))
        for _ in range(3):
            rows.change(writer.commit(writer.random.randrange(40), writer.random.randrange(40)))
            writer.reuse()
            found += next(batches, ())
        for batch in batches:
            found += batch
        assert sorted(found) == before
        assert snapshot.count == len(before)
        assert len(rows) == len(writer.live)
        assert sorted(rows.rows()) == sorted(writer.live.values())
        assert set(rows.refs()) == set(writer.live)
    rows.change(writer.commit(len(writer.live), 0))
    assert rows.rows() == []


@pytest.mark.parametrize("stride", [32, -32, 48, -48])
def test_runs_of_refs(stride: int) -> None:
    """Refs at equal distances, upwards and downwards, over the ends of chunks."""
    refs = array("Q", range(1 << 17, 1 << 19, abs(stride)))
    if stride < 0:
        refs.reverse()
    rows = LiveRows(RowHeap(Region.private(1 << 20)), refs.tobytes())
    assert set(rows.refs()) == set(refs)
    some = array("Q", refs[1000:7000])
    rows.change(TableChange(1, 0, _rows([b""] * len(some)), _rows([]), some.tobytes(), b""))
    assert set(rows.refs()) == set(refs) - set(some)


def test_large_lists_are_entered_piece_by_piece() -> None:
    refs = array("Q", range(1 << 16, 1 << 24, 16))
    rows = LiveRows(RowHeap(Region.private(1 << 25)), refs.tobytes())
    pieces = 0
    while not rows.is_ready:
        rows.enter_some()
        pieces += 1
    assert pieces > 10
    assert list(rows.refs()) == list(refs)
