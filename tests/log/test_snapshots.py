"""Snapshots: what they hold, damaged ones, which one recovery takes, what is kept, and whether they agree."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from spacetimedb.log.commit_log import CommitLogWriter
from spacetimedb.log.files import OPERATING_SYSTEM
from spacetimedb.log.recovery import RecoveredState, recover, replay, snapshot_state, starting_state
from spacetimedb.log.segments import LogDamaged, list_segments, segment_path
from spacetimedb.log.snapshot import (
    SnapshotDamaged,
    list_snapshots,
    prune_snapshots,
    read_snapshot,
    snapshot_directory,
    snapshot_path,
    write_snapshot,
)
from spacetimedb.log.snapshotter import Diverged, Taken, take_snapshot

from .faulty_files import MemoryFiles
from .test_commit_log import LOG
from .test_recovery import CREATE, pair, payload, table_row

SNAPSHOTS = snapshot_directory(LOG)
IDENTITY = bytes(range(32))
PAIRS = 4096


def log_of(count: int, files: MemoryFiles, segment_bytes: int = 400) -> None:
    """Writes a log of so many transactions; number k inserts pair k + 1."""
    with CommitLogWriter.open(LOG, files, segment_bytes) as log:
        for k in range(log.next_offset, count):
            log.append([payload({PAIRS: [pair(k + 1, "text" * (k % 7))]}) if k else CREATE])


def take(until: int, files: MemoryFiles, **options: bool) -> Taken:
    return take_snapshot(LOG, SNAPSHOTS, until, IDENTITY, 5, {PAIRS: until}, files=files, **options)


def same(one: RecoveredState, other: RecoveredState) -> bool:
    """Equal also in the order of the rows."""
    names = {table_id for state in (one, other) for table_id, rows in state.tables.items() if rows}
    return one.next_offset == other.next_offset and all(one.rows(name) == other.rows(name) for name in names)


def test_a_snapshot_holds_the_state() -> None:
    files = MemoryFiles()
    log_of(30, files)
    taken = take(20, files)
    assert (taken.next_offset, taken.replayed, taken.removed_segments) == (20, 20, 0)
    snapshot = read_snapshot(files, taken.path)
    assert (snapshot.next_offset, snapshot.identity, snapshot.created_us) == (20, IDENTITY, 5)
    state = snapshot_state(snapshot)
    assert state.rows(PAIRS) == [pair(k + 1, "text" * (k % 7) if k else "one") for k in range(20)]
    assert state.schema.event_tables == {4097}
    whole = recover(LOG, files=files)
    with_snapshot = recover(LOG, SNAPSHOTS, files)
    assert (whole.snapshot_offset, with_snapshot.snapshot_offset) == (0, 20)
    assert same(whole, with_snapshot)
    assert with_snapshot.tables.keys() == whole.tables.keys()
    assert take(30, files).replayed == 10


def test_schema_changes_after_a_snapshot() -> None:
    files = MemoryFiles()
    log_of(3, files)
    take(3, files)
    access = payload({1: [table_row(PAIRS, "pair", "private")]}, {1: [table_row(PAIRS, "pair")]})
    drop = payload(None, {1: [table_row(PAIRS, "pair", "private")]}, [PAIRS])
    for change in (access, payload({PAIRS: [pair(9, "nine")]}), drop):
        with CommitLogWriter.open(LOG, files) as log:
            log.append([change])
        assert same(recover(LOG, files=files), recover(LOG, SNAPSHOTS, files))
    assert PAIRS not in recover(LOG, SNAPSHOTS, files).tables


def test_old_snapshots_and_segments_go() -> None:
    files = MemoryFiles()
    for until in range(10, 60, 10):
        log_of(until, files)
        take(until, files)
    assert [offset for offset, _ in list_snapshots(files, SNAPSHOTS)] == [50, 40]
    first = list_segments(files, LOG)[0][0]
    assert 30 < first <= 40
    names = sorted(path.name for path in files.entries if path.parent == LOG and path.name[0] == "0")
    assert len(names) == 2 * len(list_segments(files, LOG)), "each segment has its mark, and there are no other marks"
    state = recover(LOG, SNAPSHOTS, files)
    assert (state.next_offset, len(state.tables[PAIRS])) == (50, 50)
    with CommitLogWriter.open(LOG, files) as log:
        assert log.next_offset == 50


def test_a_kept_log() -> None:
    files = MemoryFiles()
    log_of(60, files)
    for until in (10, 20, 30, 60):
        take(until, files, prune_log=False)
    assert list_segments(files, LOG)[0][0] == 0
    assert len(list_snapshots(files, SNAPSHOTS)) == 2
    assert same(recover(LOG, files=files), recover(LOG, SNAPSHOTS, files))


def test_every_damaged_byte_falls_back() -> None:
    """To the older snapshot, then to the whole log; what was recovered is always the same."""
    files = MemoryFiles()
    log_of(12, files)
    take(6, files, prune_log=False)
    take(12, files, prune_log=False)
    whole = recover(LOG, files=files)
    newest = files.entries[snapshot_path(SNAPSHOTS, 12)]
    good = bytes(newest.now)
    rng = Random(3)
    for at in {*range(80), *rng.sample(range(len(good)), 150), *range(len(good) - 34, len(good))}:
        newest.now[at] ^= 1 << rng.randrange(8)
        state = recover(LOG, SNAPSHOTS, files)
        assert state.snapshot_offset == 6
        assert len(state.problems) == 1
        assert same(state, whole)
        newest.now[at] = good[at]
    for size in (0, 10, 80, len(good) // 2, len(good) - 1):
        newest.now = bytearray(good[:size])
        assert recover(LOG, SNAPSHOTS, files).snapshot_offset == 6
    older = files.entries[snapshot_path(SNAPSHOTS, 6)]
    older.now[100] ^= 1
    state = recover(LOG, SNAPSHOTS, files)
    assert (state.snapshot_offset, len(state.problems)) == (0, 2)
    assert same(state, whole)
    newest.now = bytearray(good)
    assert prune_snapshots(files, SNAPSHOTS) == 12
    assert [offset for offset, _ in list_snapshots(files, SNAPSHOTS)] == [12]


def test_a_pruned_log_without_its_snapshots_is_refused() -> None:
    files = MemoryFiles()
    for until in range(10, 50, 10):
        log_of(until, files)
        take(until, files)
    assert list_segments(files, LOG)[0][0] > 0
    with pytest.raises(LogDamaged, match="no snapshot that it continues"):
        recover(LOG, files=files)
    for _, path in list_snapshots(files, SNAPSHOTS):
        files.entries[path].now[70] ^= 1
    with pytest.raises(LogDamaged, match="does not match its hash"):
        recover(LOG, SNAPSHOTS, files)


def test_a_log_that_ends_before_its_snapshot_is_refused() -> None:
    files = MemoryFiles()
    log_of(30, files)
    take(30, files)
    for _, path in list_segments(files, LOG):
        del files.entries[path]
    with pytest.raises(LogDamaged, match="the log is missing, but 30 transactions were durable"):
        recover(LOG, SNAPSHOTS, files)
    files = MemoryFiles()
    log_of(30, files, 1 << 20)
    take(30, files)
    for path in [path for path in files.entries if path.name.endswith(".mark")]:
        del files.entries[path]
    log = files.entries[segment_path(LOG, 0)]
    log.now = log.now[:-3]
    with pytest.raises(LogDamaged, match="ends at offset 29, but 30 transactions were durable"):
        recover(LOG, SNAPSHOTS, files)


def test_a_divergence_is_noticed_and_writes_nothing() -> None:
    files = MemoryFiles()
    log_of(10, files)
    with pytest.raises(Diverged, match="table 4096 has 11 rows, its log gives 10"):
        take_snapshot(LOG, SNAPSHOTS, 10, IDENTITY, 0, {PAIRS: 11}, files=files)
    with pytest.raises(Diverged, match="12 transactions are durable, the log holds 10"):
        take(12, files)
    assert not list_snapshots(files, SNAPSHOTS)


def test_the_log_may_grow_meanwhile() -> None:
    """A snapshot looks at nothing behind its last transaction, whatever is being written there."""
    files = MemoryFiles()
    log_of(10, files, 1 << 20)
    files.entries[segment_path(LOG, 0)].now += b"half a commit, longer than its header"
    state = starting_state(LOG, SNAPSHOTS, files)
    replay(LOG, state, files, 7)
    assert state.next_offset == 7
    assert take(10, files).rows > 10


def test_rows_of_many_sizes(tmp_path: Path) -> None:
    rng = Random(1)
    tables = {
        5000: [rng.randbytes(rng.choice((1, 100, 3_000_000))) for _ in range(9)],
        4999: [pair(n, "x") for n in range(300_000)],
        1: [],
    }
    path = write_snapshot(OPERATING_SYSTEM, tmp_path / "s", tables, 7, IDENTITY, 0)
    found = read_snapshot(OPERATING_SYSTEM, path)
    content = {table_id: list(chunks) for table_id, chunks in found.tables()}
    assert list(content) == [4999, 5000]
    for table_id, chunks in content.items():
        assert b"".join(chunk.rows for chunk in chunks) == b"".join(tables[table_id])
        assert sum(chunk.count for chunk in chunks) == len(tables[table_id])
    assert len(content[4999]) > 1
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(SnapshotDamaged):
        read_snapshot(OPERATING_SYSTEM, path)
