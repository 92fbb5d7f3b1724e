"""Looking at a log while no server uses it, and cutting off what is damaged.

    check(log, snapshots)    what is there, and whether a server would open it
    repair(log, snapshots)   makes it openable, losing as little as possible; nothing is deleted, only put aside

A repaired log ends where the damage begins. If the newest good snapshot holds more than the log before the damage, it
is kept instead, and the log starts anew behind it. Files, or the parts of them, that are cut off get the name
`<name>.damaged-<unix time>` and can be looked at; servers ignore them.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from spacetimedb.log.commit_log import LOCK_NAME, CommitLogWriter, LogLocked
from spacetimedb.log.files import OPERATING_SYSTEM, FileSystem, write_all
from spacetimedb.log.recovery import ReplayError, recover
from spacetimedb.log.segments import (
    SEGMENT_HEADER,
    LogDamaged,
    list_segments,
    mark_path,
    open_walk,
    read_commits,
    start_segment,
    unpack_segment,
)
from spacetimedb.log.snapshot import SnapshotDamaged, list_snapshots, read_snapshot, snapshot_directory


class Report(msgspec.Struct, frozen=True):
    """`lines` describe the files; `problem` is why a server would refuse the log, None if it would not."""

    lines: list[str]
    problem: str | None
    next_offset: int
    rows: int


def log_directory(path: Path) -> Path:
    """The log's directory, given itself or the database's directory."""
    inside = path / "clog"
    return inside if inside.is_dir() else path


def check(directory: Path, files: FileSystem = OPERATING_SYSTEM) -> Report:
    """Reads everything, changes nothing. Raises OSError."""
    snapshots = snapshot_directory(directory)
    lines = []
    for first, path in list_segments(files, directory):
        try:
            walk = open_walk(files, path, first)
            for _ in walk:
                pass
        except LogDamaged as error:
            lines.append(f"{path.name}: {error.what}")
            continue
        size = f"{len(walk.data)} bytes" + (" unpacked" if walk.is_compressed else "")
        text = f"{path.name}: {size}, {walk.next_offset - first} transactions"
        if walk.problem is not None:
            text += f", good up to byte {walk.position}: {walk.problem}"
        lines.append(text)
    for next_offset, path in list_snapshots(files, snapshots):
        try:
            read_snapshot(files, path)
            lines.append(f"{path.name}: the first {next_offset} transactions")
        except SnapshotDamaged as error:
            lines.append(f"{path.name}: {error}")
    try:
        state = recover(directory, snapshots, files)
    except (LogDamaged, ReplayError) as error:
        return Report(lines, str(error), 0, 0)
    return Report(lines + state.problems, None, state.next_offset, sum(map(len, state.tables.values())))


class _Aside:
    """Puts files aside under names that nobody reads."""

    def __init__(self, files: FileSystem) -> None:
        self._files = files
        self._suffix = f".damaged-{int(time.time())}"
        self.done: list[str] = []

    def move(self, path: Path) -> None:
        target = path.with_name(path.name + self._suffix)
        self._files.rename(path, target)
        self.done.append(f"{path.name} is now {target.name}")

    def move_segment(self, path: Path) -> None:
        self.move(path)
        self.remove_mark(path)

    def remove_mark(self, path: Path) -> None:
        """The mark of a segment says what was durable and whether another segment follows; neither is so any more."""
        if mark_path(path).name in self._files.list(path.parent):
            self._files.remove(mark_path(path))

    def cut(self, path: Path, position: int) -> None:
        """Shortens a segment; what it was is kept beside it."""
        files = self._files
        data = files.read(path)
        copy = path.with_name(path.name + self._suffix)
        fd = files.open(copy)
        try:
            write_all(files, fd, 0, data)
            files.sync_data(fd)
        finally:
            files.close(fd)
        unpacked = unpack_segment(path, 0, data)
        fd = files.open(path)
        try:
            if unpacked is not data:
                files.truncate(fd, 0)
                write_all(files, fd, 0, unpacked[:position])
            files.truncate(fd, position)
            files.sync_data(fd)
        finally:
            files.close(fd)
        self.done.append(f"{path.name} is cut at byte {position} of {len(unpacked)}; {copy.name} is what it was")


def repair(directory: Path, files: FileSystem = OPERATING_SYSTEM) -> list[str]:
    """Makes a damaged log openable and says what was done; nothing if it is not damaged.

    Raises LogLocked if a server uses it, LogDamaged or ReplayError for what cutting does not help against, OSError.
    """
    try:
        lock = files.lock(directory / LOCK_NAME)
    except BlockingIOError as error:
        raise LogLocked(error.errno, f"{directory} is in use: stop the server first") from None
    try:
        snapshots = snapshot_directory(directory)
        aside = _Aside(files)
        try:
            recover(directory, snapshots, files)
            return []
        except LogDamaged as error:
            damage = error
        newest = max(_good_snapshots(files, snapshots), default=0)
        segments = list_segments(files, directory)
        intact = _intact(files, directory, newest) if segments and segments[0][0] <= newest else 0
        if intact >= newest and intact:
            _cut_behind(files, directory, newest, aside)
            end = intact
        elif newest:
            for _, path in segments:
                aside.move_segment(path)
            start_segment(files, directory, newest)
            aside.done.append(f"the log starts anew behind the snapshot of {newest} transactions")
            end = newest
        else:
            raise damage
        files.sync_directory(directory)
        aside.done.append(f"{end} transactions are left; those from offset {end} on are lost")
    finally:
        files.close(lock)
    recover(directory, snapshots, files)
    CommitLogWriter.open(directory, files).close()
    return aside.done


def _good_snapshots(files: FileSystem, snapshots: Path) -> list[int]:
    good = []
    for next_offset, path in list_snapshots(files, snapshots):
        try:
            read_snapshot(files, path)
        except SnapshotDamaged:
            continue
        good.append(next_offset)
    return good


def _intact(files: FileSystem, directory: Path, start: int) -> int:
    """Number of transactions before the first damage of the log, what is before `start` not looked at."""
    end = start
    try:
        for _, commit in read_commits(files, directory, start):
            end = commit.offset + commit.n
    except LogDamaged as error:
        return error.offset
    return end


def _cut_behind(files: FileSystem, directory: Path, start: int, aside: _Aside) -> None:
    """Cuts the log at its first damage."""
    try:
        for _ in read_commits(files, directory, start):
            pass
    except LogDamaged as error:
        for _, path in reversed(list_segments(files, directory)):
            if path > error.file or (path == error.file and error.position < len(SEGMENT_HEADER)):
                aside.move_segment(path)
            elif path == error.file:
                aside.cut(path, error.position)
        aside.remove_mark(list_segments(files, directory)[-1][1])
