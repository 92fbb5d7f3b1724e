"""The commit log, opened for writing: append, sync, rotation, and what happens to a torn tail. Format: see `segments`.

    append(payloads)  frames one commit per payload and writes all of them with one write per segment
    sync()            fdatasync, then the watermark; what it returns is durable

A segment that has reached its size is synced and followed by a new one: its header goes into a temporary file, which is
synced and renamed, then the directory is synced, then the old segment's mark is sealed. Each state in between is one
that opening understands.

Opening walks the last segment and cuts off a torn tail: the bytes are copied to `<segment>.torn-<unix time>`, the
segment is truncated and synced, and writing goes on in it. Damage to anything that was durable is refused (LogDamaged).

No room is no failure: `append` raises NoRoom, what it has written of the next commit is cut off, and the rest can be
appended later. A segment that cannot be followed by a new one for want of room just goes on growing.

After any other failed operation the writer refuses everything else with LogFailed: what a failed write or fdatasync
left on disk is unknown. (A fdatasync that finds no room has failed like any other.) Reading it again does not help: it
may come from the page cache and never have reached the disk. So the writer that is opened next with `distrust` cuts off
all that is behind the mark, to be appended and synced anew.
"""

from __future__ import annotations

import errno
import logging
import time
from pathlib import Path
from types import TracebackType

from crc32c import crc32c

from spacetimedb.log.files import OPERATING_SYSTEM, FileSystem, write_all
from spacetimedb.log.segments import (
    COMMIT_HEADER,
    CRC,
    MARK_SLOT,
    SEGMENT_HEADER,
    VERSION,
    LogDamaged,
    Mark,
    Walk,
    judge,
    list_segments,
    mark_path,
    open_walk,
    pack_mark,
    read_mark,
    segment_path,
)

MAX_SEGMENT_BYTES = 32 << 20
"""A segment of this size is followed by a new one; the last commit in it may go beyond."""
LOCK_NAME = "log.lock"

_TEMPORARY = ".tmp-segment"
_log = logging.getLogger(__name__)


class LogFailed(OSError):
    """A file operation of this writer failed before; nothing more is written."""


class NoRoom(OSError):
    """There is no room for a commit. Everything before the writer's `next_offset` is written, nothing from there on."""


def is_no_room(error: OSError) -> bool:
    """Whether more room would have helped: the disk is full, or a quota or limit is reached."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class LogLocked(OSError):
    """Another process has the log open for writing."""


class CommitLogWriter:
    """The one writer of a log.

    `next_offset` is the offset the next payload gets, `durable_offset` the last that is safe (None: none yet),
    `torn_bytes` what opening cut off.
    """

    def __init__(
        self,
        directory: Path,
        files: FileSystem,
        max_segment_bytes: int,
        lock: int,
    ) -> None:
        self.directory = directory
        self.next_offset = 0
        self.durable_offset: int | None = None
        self.epoch = 0
        self.torn_bytes = 0
        self._files = files
        self._max_segment_bytes = self._limit = max_segment_bytes
        self._lock = lock
        self._fd = -1
        self._mark_fd = -1
        self._mark_sequence = 0
        self._end = 0
        self._synced_end = 0
        self._failed = False

    @classmethod
    def open(
        cls,
        directory: Path,
        files: FileSystem = OPERATING_SYSTEM,
        max_segment_bytes: int = MAX_SEGMENT_BYTES,
        distrust: bool = False,
    ) -> CommitLogWriter:
        """Opens the log, creating it if there is none, and makes its end fit for appending.

        `distrust`: after a failed sync; only what is known to be durable stays. Raises LogDamaged, LogLocked, OSError.
        """
        files.make_directory(directory)
        try:
            lock = files.lock(directory / LOCK_NAME)
        except BlockingIOError as error:
            raise LogLocked(errno.EWOULDBLOCK, f"commit log {directory} is in use by another process") from error
        writer = cls(directory, files, max_segment_bytes, lock)
        try:
            if distrust:
                writer._cut_unsynced()
            writer._open()
        except BaseException:
            writer._failed = True
            writer.close()
            raise
        return writer

    def _cut_unsynced(self) -> None:
        """Cuts off what is behind the last segment's mark."""
        segments = list_segments(self._files, self.directory)
        mark = read_mark(self._files, segments[-1][1]) if segments else None
        if mark is None:
            return
        path = segments[-1][1]
        if len(self._files.read(path)) <= mark.end:
            return
        fd = self._files.open(path)
        try:
            self._files.truncate(fd, mark.end)
            self._files.sync_data(fd)
        finally:
            self._files.close(fd)

    def _open(self) -> None:
        files = self._files
        if _TEMPORARY in files.list(self.directory):
            files.remove(self.directory / _TEMPORARY)
        segments = list_segments(files, self.directory)
        if not segments:
            self._create_segment(0)
            return
        first, path = segments[-1]
        walk = open_walk(files, path, first)
        if walk.version != VERSION:
            raise LogDamaged(path, 0, first, f"log format version mismatch: current={VERSION} segment={walk.version}")
        for _ in walk:
            pass
        torn = judge(files, walk, None)
        if walk.next_offset == first and len(segments) > 1:
            # An empty segment continues the one before only if that one ends where this one starts.
            self._check_previous(*segments[-2], first)
        if walk.is_compressed:
            self._follow_compressed(path, walk)
            return
        self._fd = files.open(path)
        if torn:
            self._cut(path, walk, torn)
        elif walk.position < len(SEGMENT_HEADER):  # an empty file
            self._cut(path, walk, 0)
        self._end = max(walk.position, len(SEGMENT_HEADER))
        self.next_offset, self.epoch = walk.next_offset, walk.epoch
        # What was read may be in the page cache only: the process that wrote it died before its sync.
        files.sync_data(self._fd)
        self._open_mark(path, read_mark(files, path), self._end)
        files.sync_directory(self.directory)
        self._synced_end = self._end
        self.durable_offset = self.next_offset - 1 if self.next_offset else None

    def _check_previous(self, first: int, path: Path, following: int) -> None:
        walk = open_walk(self._files, path, first)
        for _ in walk:
            pass
        judge(self._files, walk, following)

    def _follow_compressed(self, path: Path, walk: Walk) -> None:
        """The last segment takes nothing more: a new one begins behind it."""
        fd = self._files.open(path)
        try:
            self._files.sync_data(fd)
        finally:
            self._files.close(fd)
        self.next_offset, self.epoch = walk.next_offset, walk.epoch
        self._create_segment(walk.next_offset)
        self.durable_offset = walk.next_offset - 1

    def _cut(self, path: Path, walk: Walk, torn: int) -> None:
        """Copies a torn tail aside and truncates the segment to its last good commit."""
        files = self._files
        tail = walk.data[walk.position :]
        if any(tail):
            self._keep_tail(path, tail)
        files.truncate(self._fd, walk.position)
        if walk.position < len(SEGMENT_HEADER):
            write_all(files, self._fd, 0, SEGMENT_HEADER)
        self.torn_bytes = torn
        _log.warning(
            "%s: cut off %d bytes of unfinished writing behind offset %d (%s)",
            path,
            torn,
            walk.next_offset,
            walk.problem,
        )

    def _keep_tail(self, path: Path, tail: bytes) -> None:
        """Copies a torn tail into a file of its own, if there is room for that."""
        files = self._files
        target: Path | None = None
        try:
            names = set(files.list(self.directory))
            name = stem = f"{path.name}.torn-{int(time.time())}"
            number = 1
            while name in names:
                number += 1
                name = f"{stem}-{number}"
            target = self.directory / name
            fd = files.open(target)
            try:
                write_all(files, fd, 0, tail)
                files.sync_data(fd)
            finally:
                files.close(fd)
            files.sync_directory(self.directory)
        except OSError as error:
            if not is_no_room(error):
                raise
            _log.warning("%s: no room to keep a copy of %d bytes of unfinished writing", path, len(tail))
            if target is not None and target.name in files.list(self.directory):
                files.remove(target)

    def append(self, payloads: list[bytes]) -> None:
        """Writes one commit per payload, in order; durable after the next `sync`. Raises NoRoom, OSError, LogFailed."""
        self._usable()
        parts: list[bytes] = []
        add = parts.append
        pack_header, pack_crc, checksum = COMMIT_HEADER.pack, CRC.pack, crc32c
        offset, epoch = self.next_offset, self.epoch
        end = self._end
        try:
            for payload in payloads:
                body = pack_header(offset, epoch, 1, len(payload)) + payload
                add(body)
                add(pack_crc(checksum(body)))
                offset += 1
                end += len(body) + 4
                if end >= self._limit:
                    self._write(parts, offset, end)
                    parts.clear()
                    self._rotate()
                    end = self._end
            if parts:
                self._write(parts, offset, end)
        except NoRoom:
            raise
        except BaseException:
            self._failed = True
            raise

    def _write(self, parts: list[bytes], next_offset: int, end: int) -> None:
        try:
            write_all(self._files, self._fd, self._end, b"".join(parts))
        except OSError as error:
            if not is_no_room(error):
                raise
            self._files.truncate(self._fd, self._end)
            raise NoRoom(error.errno, error.strerror) from error
        self._end = end
        self.next_offset = next_offset

    def sync(self) -> int | None:
        """Makes everything appended so far durable and returns the durable offset (None: the log is empty).

        Raises OSError, LogFailed.
        """
        self._usable()
        if self._end == self._synced_end:
            return self.durable_offset
        try:
            self._files.sync_data(self._fd)
            self._write_mark(self._end)
        except BaseException:
            self._failed = True
            raise
        self._synced_end = self._end
        self.durable_offset = self.next_offset - 1
        return self.durable_offset

    def _rotate(self) -> None:
        """Goes on in a new segment; in the old one if there is no room for it."""
        self._files.sync_data(self._fd)
        self._write_mark(self._end)
        self._synced_end = self._end
        self.durable_offset = self.next_offset - 1
        old_fd, old_mark_fd, old_sequence, old_end = self._fd, self._mark_fd, self._mark_sequence, self._end
        try:
            self._create_segment(self.next_offset)
        except NoRoom:
            self._mark_fd, self._mark_sequence = old_mark_fd, old_sequence
            self._limit = self._end + self._max_segment_bytes // 8
            return
        self._limit = self._max_segment_bytes
        self._put_mark(old_mark_fd, old_sequence, old_end, True)
        self._files.close(old_fd)
        self._files.close(old_mark_fd)

    def _create_segment(self, first_offset: int) -> None:
        """Makes the segment that starts at this offset, and its mark, the ones that are written to.

        Raises NoRoom; then there is no such segment.
        """
        files = self._files
        path = segment_path(self.directory, first_offset)
        temporary = self.directory / _TEMPORARY
        fd = -1
        self._mark_fd = -1
        try:
            fd = files.open(temporary)
            write_all(files, fd, 0, SEGMENT_HEADER)
            files.sync_data(fd)
            self._open_mark(path, None, len(SEGMENT_HEADER))
        except BaseException as error:
            for one in (fd, self._mark_fd):
                if one >= 0:
                    files.close(one)
            self._mark_fd = -1
            if isinstance(error, OSError) and is_no_room(error):
                raise NoRoom(error.errno, error.strerror) from error
            raise
        try:
            files.rename(temporary, path)
            files.sync_directory(self.directory)
        except BaseException:
            files.close(fd)
            raise
        self._fd = fd
        self._end = self._synced_end = len(SEGMENT_HEADER)

    def _open_mark(self, segment: Path, mark: Mark | None, end: int) -> None:
        """Opens the segment's mark, `mark` being what is in it, and makes it say `end`; this one time it is synced.

        A segment written here therefore always has an intact mark, also after a power failure.
        """
        files = self._files
        self._mark_fd = files.open(mark_path(segment))
        if mark is None or not mark.intact:
            files.truncate(self._mark_fd, 0)
            write_all(files, self._mark_fd, 0, bytes(2 * MARK_SLOT.size))  # so that later marks need no room
        self._mark_sequence = mark.sequence + 1 if mark is not None else 0
        self._write_mark(end)
        files.sync_data(self._mark_fd)

    def _write_mark(self, end: int) -> None:
        self._put_mark(self._mark_fd, self._mark_sequence, end, False)
        self._mark_sequence += 1

    def _put_mark(self, fd: int, sequence: int, end: int, sealed: bool) -> None:
        slot = pack_mark(self.next_offset, end, sequence, sealed)
        write_all(self._files, fd, sequence % 2 * MARK_SLOT.size, slot)

    def _usable(self) -> None:
        if self._failed:
            raise LogFailed(errno.EIO, "the commit log failed before and takes nothing more")

    def close(self) -> None:
        """Syncs what is left (unless the log has failed) and gives up the lock."""
        try:
            if not self._failed and self._fd >= 0:
                self.sync()
        finally:
            self._failed = True
            for fd in (self._fd, self._mark_fd, self._lock):
                if fd >= 0:
                    self._files.close(fd)
            self._fd = self._mark_fd = self._lock = -1

    def __enter__(self) -> CommitLogWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
