"""Taking a snapshot of a running database: replays the log up to a durable offset, compares, writes, cleans up.

Nothing here touches the database itself: the state comes from the newest snapshot and the log. So a snapshot is a
rehearsal of recovery. What was announced of the database at that offset, how many rows each table had, must be what the
replay gave; if it is not, either the log or the database is wrong, and no snapshot is written.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path

import msgspec

from spacetimedb.log.files import OPERATING_SYSTEM, FileSystem
from spacetimedb.log.recovery import RecoveredState, replay, starting_state
from spacetimedb.log.segments import prune_segments
from spacetimedb.log.snapshot import KEPT_SNAPSHOTS, list_snapshots, prune_snapshots, write_snapshot


class Diverged(Exception):
    """The database and the replay of its log do not agree."""


class Taken(msgspec.Struct, frozen=True):
    """What taking a snapshot did: `rows` in it, `replayed` transactions, `removed_segments` of the log."""

    path: Path
    next_offset: int
    rows: int
    replayed: int
    removed_segments: int
    problems: list[str]


def differences(state: RecoveredState, row_counts: Mapping[int, int]) -> list[str]:
    """Tables whose number of rows is not the announced one, in words."""
    return [
        f"table {table_id} has {announced} rows, its log gives {len(state.tables.get(table_id, ()))}"
        for table_id, announced in sorted(row_counts.items())
        if announced != len(state.tables.get(table_id, ()))
    ]


def take_snapshot(
    log_directory: Path,
    snapshots: Path,
    until: int,
    identity: bytes,
    created_us: int,
    row_counts: Mapping[int, int],
    *,
    files: FileSystem = OPERATING_SYSTEM,
    keep: int = KEPT_SNAPSHOTS,
    prune_log: bool = True,
) -> Taken:
    """Writes a snapshot of the first `until` transactions, all of them durable. `row_counts`: rows of each table then.

    Afterwards the newest `keep` snapshots stay and, with `prune_log`, the log from the oldest of them on.
    Raises Diverged, LogDamaged, ReplayError, OSError. The garbage collector is off afterwards.
    """
    gc.disable()
    state = starting_state(log_directory, snapshots, files)
    start = state.next_offset
    replay(log_directory, state, files, until)
    state.finish()
    if state.next_offset != until:
        raise Diverged(f"{until} transactions are durable, the log holds {state.next_offset}")
    wrong = differences(state, row_counts)
    if wrong:
        raise Diverged(f"after {until} transactions: " + "; ".join(wrong))
    path = write_snapshot(files, snapshots, state.tables, until, identity, created_us)
    oldest = prune_snapshots(files, snapshots, keep)
    # With a single snapshot the log before it is the only other copy of what it holds.
    several = len(list_snapshots(files, snapshots)) >= keep
    removed = prune_segments(files, log_directory, oldest) if prune_log and several else 0
    rows = sum(map(len, state.tables.values()))
    return Taken(path, until, rows, until - start, removed, state.problems)
