"""The log keeper: one process per database that makes commits durable and writes the module log.

Loop: take everything from the commit ring, write the log payloads, one fdatasync, publish the durable offset, ring the
readers. While it syncs, the next batch gathers in the ring: the batch size follows the load. After a failed write or
sync it raises the control block's `log_failed` word, upon which the actor refuses calls, and exits; it never tries the
same descriptor again. The next log keeper trusts only what was synced before, and writes the rest once more from the
ring.

If there is no room, it raises `log_full`, upon which the actor refuses calls, gives up its reserve for what is
committed already, and otherwise waits and tries again. The word goes down when the reserve is held again.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from struct import Struct as Layout
from typing import Final

from spacetimedb.hosts.mail import LOG_LINES, LOG_LINES_HEAD, SPILLED, SPILLED_RECORD
from spacetimedb.log.commit_log import CommitLogWriter, LogLocked, NoRoom, is_no_room
from spacetimedb.log.reserve import Reserve
from spacetimedb.log.segments import LogDamaged
from spacetimedb.log.snapshot import snapshot_directory
from spacetimedb.memory import control as words
from spacetimedb.memory.control import ControlBlock
from spacetimedb.memory.doorbell import Doorbell
from spacetimedb.memory.heap import RowReader
from spacetimedb.memory.region import Region, fence
from spacetimedb.memory.ring import LOG_KEEPER_SLOT, RingReader
from spacetimedb.store.commit_record import COMMIT, LOGGED
from spacetimedb.workers import metric_families
from spacetimedb.workers.channel import Channel
from spacetimedb.workers.messages import (
    BELL_FDS,
    DetachReader,
    LogAttachReader,
    LogKeeperDone,
    LogKeeperFailed,
    LogKeeperReady,
    LogKeeperSetup,
    Stop,
    ToLogKeeper,
)

MAX_BATCH_BYTES: Final = 16 << 20
"""Bytes taken from the ring for one write and sync."""
BATCHES_PER_LOOK: Final = 64
"""A busy log keeper looks for messages of the supervisor once in so many batches."""

LEAST_BYTES: Final = 8
"""Of any record in the ring."""
FULL_RETRY_S: Final = 0.25
"""Between two attempts to find room."""
LOCK_S: Final = 10.0
"""How long it waits for the log keeper of a killed server, which still writes what it had taken."""
LOCK_RETRY_S: Final = 0.02

_COMMIT: Final = Layout("<5xB2xQ24xII")
"""Of a commit record: flags, horizon, position and length of the log payload."""
_FRAME: Final = Layout("<IB")
BLOCK_BYTES: Final = 512
MEASURE_S: Final = 5.0
"""Between two looks at how much room the files take."""


def directory_blocks(directory: Path) -> int:
    """Blocks of BLOCK_BYTES that the files in a directory and below take on the disk."""
    total = 0
    for folder, _folders, names in os.walk(directory):
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_blocks
            except OSError:
                pass  # removed meanwhile
    return total


class ModuleLogFile:
    """Appends lines to `YYYY-MM-DD.log` (UTC) in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._name = ""
        self._fd = -1

    @property
    def size(self) -> int:
        """Bytes of the file that is open; 0 if there is none."""
        return os.fstat(self._fd).st_size if self._fd >= 0 else 0

    def write(self, lines: bytes) -> None:
        """Appends; a failure to write the module log loses lines, nothing else."""
        name = datetime.now(UTC).strftime("%Y-%m-%d.log")
        try:
            if name != self._name:
                if self._fd >= 0:
                    os.close(self._fd)
                    self._fd, self._name = -1, ""
                self._fd = os.open(self._directory / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
                self._name = name
            rest = memoryview(lines)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            print(f"module log: {error}", file=sys.stderr)


class LogKeeper:
    """The loop and its state. `run` returns when told to stop or when the supervisor is gone."""

    def __init__(self, channel: Channel, setup: LogKeeperSetup, fds: list[int]) -> None:
        self._channel = channel
        self._control = ControlBlock(Region.attach(fds[0]))
        self._ring = RingReader(Region.attach(fds[1]), LOG_KEEPER_SLOT, resume=True)
        self._heap = RowReader(Region.attach(fds[2]))
        self._bell = Doorbell.attach(*fds[3 : 3 + BELL_FDS])
        self._actor_bell = Doorbell.attach(*fds[3 + BELL_FDS : 3 + 2 * BELL_FDS])
        self._readers: dict[int, Doorbell] = {}
        self._module_log = ModuleLogFile(Path(setup.module_log_directory))
        self._payloads: list[bytes] = []
        self._lines: list[bytes] = []
        self._horizon = 0
        self._skip = 0
        self._pending = False
        """What was taken from the ring is not written yet, for want of room."""
        self._next_look = 0.0
        self._log: CommitLogWriter | None = None
        self._reserve: Reserve | None = None
        if setup.log_directory is not None:
            self._log = _open_log(Path(setup.log_directory), setup.distrust)
            self._reserve = Reserve(Path(setup.log_directory))
            self._control.words[words.LOG_FULL] = 0 if self._reserve.take() else 1
            if self._log.next_offset:
                # What the log holds is durable, whoever wrote it.
                self._control.words[words.DURABLE] = self._log.next_offset
        self._control.words[words.LOG_FAILED] = 0
        self._control.words[words.LOG_PID] = os.getpid()
        board = self._control.log_keeper_board()
        self._sync_time = board.histogram(metric_families.LOG_SYNC)
        self._append_time = board.histogram(metric_families.LOG_APPEND)
        self._batch = board.histogram(metric_families.LOG_BATCH)
        self._log_size = board.counter(metric_families.LOG_SIZE)
        self._log_blocks = board.counter(metric_families.LOG_BLOCKS)
        self._module_log_size = board.counter(metric_families.MODULE_LOG_SIZE)
        self._snapshot_size = board.counter(metric_families.SNAPSHOT_SIZE)
        self._next_measure = 0.0
        self._measure()

    @property
    def next_offset(self) -> int:
        """Offset of the next transaction that the log lacks."""
        return self._log.next_offset if self._log is not None else self._control.next_offset

    def run(self) -> None:
        """Serves until told to stop."""
        poller = select.poll()
        poller.register(self._bell.fd, select.POLLIN)
        channel_fd = self._channel.socket.fileno()
        poller.register(channel_fd, select.POLLIN)
        stopping = False
        batches = 0
        while True:
            if self._drain():
                if self._control.words[words.LOG_FAILED]:  # which is for this process to say
                    raise RuntimeError("the control block has been written over")
                batches += 1
                if batches % BATCHES_PER_LOOK:
                    continue
                ready = poller.poll(0)
            elif self._pending and not stopping:
                ready = poller.poll(FULL_RETRY_S * 1000)
            elif stopping:
                if self._pending:
                    print(f"no room in the log for the last {len(self._payloads)} transactions", file=sys.stderr)
                self._channel.send(LogKeeperDone())
                break
            elif self._ring.prepare_sleep():
                ready = poller.poll(FULL_RETRY_S * 1000 if self._is_full else None)
                self._ring.awake()
            else:
                continue
            self._bell.clear()
            if self._is_full:
                self._look_for_room()
            if all(fd != channel_fd for fd, _event in ready):
                continue
            messages = self._channel.poll()
            if messages is None:
                stopping = True
                self._drain()
                break
            for message, fds in messages:
                match message:
                    case LogAttachReader(reader):
                        bell = self._readers[reader] = Doorbell.attach(*fds)
                        bell.ring()  # it may wait for what became durable before it was known here
                    case DetachReader(reader):
                        gone = self._readers.pop(reader, None)
                        if gone is not None:
                            gone.close()
                    case Stop():
                        stopping = True
        if self._log is not None:
            self._log.close()

    @property
    def _is_full(self) -> bool:
        return self._control.words[words.LOG_FULL] != 0

    def _look_for_room(self) -> None:
        """Lets calls in again when nothing waits and the reserve can be taken."""
        assert self._reserve is not None
        if self._pending or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + FULL_RETRY_S
        if self._reserve.take():
            self._control.words[words.LOG_FULL] = 0
            self._actor_bell.ring()
            print("the commit log has room again; calls are accepted", file=sys.stderr)

    def _no_room(self, log: CommitLogWriter) -> None:
        """The log took only a part."""
        assert self._reserve is not None
        if not self._is_full:
            self._control.words[words.LOG_FULL] = 1
            print(f"no room for the commit log in {log.directory}: calls are refused until there is", file=sys.stderr)
        del self._payloads[: len(self._payloads) - (self._horizon - log.next_offset)]
        self._pending = True

    def _measure(self) -> None:
        """Looks how much room log and snapshots take, now and then."""
        now = time.monotonic()
        if now < self._next_measure:
            return
        self._next_measure = now + MEASURE_S
        self._module_log_size.set(self._module_log.size)
        if self._log is not None:
            blocks = directory_blocks(self._log.directory)
            self._log_blocks.set(blocks)
            self._log_size.set(BLOCK_BYTES * blocks)
            self._snapshot_size.set(BLOCK_BYTES * directory_blocks(snapshot_directory(self._log.directory)))

    def _drain(self) -> bool:
        """One batch. False if the ring was empty, or if there is no room for the batch yet."""
        if self._pending:
            return self._write()
        data = self._ring.drain(MAX_BATCH_BYTES)
        if not data:
            return False
        self._payloads, self._lines, self._horizon = [], [], 0
        log = self._log
        self._skip = log.next_offset if log is not None else 0
        at, end, skip = 0, len(data), self._skip
        frame, commit, add = _FRAME.unpack_from, _COMMIT.unpack_from, self._payloads.append
        while at < end:
            length, kind = frame(data, at)
            if length < LEAST_BYTES:
                raise RuntimeError(f"a record of {length} bytes in the commit ring")
            if kind == COMMIT:
                flags, horizon, log_at, log_length = commit(data, at)
                if flags & LOGGED:
                    self._horizon = horizon
                    if horizon > skip:
                        log_at += at
                        add(data[log_at : log_at + log_length])
            elif kind == SPILLED:
                self._take(self._heap.row(SPILLED_RECORD.unpack_from(data, at)[2]), 0)
            else:
                self._take(data, at)
            at += length
        return self._write()

    def _write(self) -> bool:
        """Writes what was taken from the ring and makes it durable. False if there is no room for all of it."""
        log = self._log
        payloads, lines, horizon = self._payloads, self._lines, self._horizon
        if payloads and log is not None:
            if log.next_offset + len(payloads) != horizon:
                self._control.words[words.LOG_FAILED] = 1
                raise RuntimeError(f"{len(payloads)} transactions up to {horizon} do not follow {log.next_offset}")
            started = time.perf_counter_ns()
            try:
                try:
                    log.append(payloads)
                except NoRoom:
                    self._no_room(log)
                    if self._reserve is None or not self._reserve.give_up():
                        return False
                    return self._write()
                appended = time.perf_counter_ns()
                log.sync()
            except OSError:
                self._control.words[words.LOG_FAILED] = 1
                raise
            horizon = log.next_offset
            self._control.words[words.LOG_SYNCS] += 1
            self._sync_time.observe((time.perf_counter_ns() - appended) // 1000)
            self._append_time.observe((appended - started) // 1000)
            self._batch.observe(len(payloads))
            self._control.words[words.LOG_BYTES] += sum(map(len, payloads))
        if lines:
            self._module_log.write(b"".join(lines))
        self._measure()
        self._pending = False
        if self._ring.advance():
            self._actor_bell.ring()
        if horizon:
            # A log keeper that was started again may see what is on disk already.
            horizon = max(horizon, self._skip)
            self._control.publish_durable(horizon - 1, self._ring.position)
        else:
            self._control.words[words.LOG_RING_POSITION] = self._ring.position
        fence()
        for reader, bell in self._readers.items():
            if self._control.take_expecting(reader):
                bell.ring()
        return True

    def _take(self, data: bytes, at: int) -> None:
        """Collects what is to be written of the record at `at`, which is none of the usual ones."""
        kind = data[at + 4]
        if kind == COMMIT:
            flags, horizon, log_at, log_length = _COMMIT.unpack_from(data, at)
            if flags & LOGGED:
                self._horizon = horizon
                if horizon > self._skip:
                    self._payloads.append(data[at + log_at : at + log_at + log_length])
        elif kind == LOG_LINES:
            length, _kind, padding, _zero = LOG_LINES_HEAD.unpack_from(data, at)
            self._lines.append(data[at + 8 : at + length - padding])


def _open_log(directory: Path, distrust: bool) -> CommitLogWriter:
    deadline = time.monotonic() + LOCK_S
    while True:
        try:
            return CommitLogWriter.open(directory, distrust=distrust)
        except LogLocked:
            if time.monotonic() > deadline:
                raise
            time.sleep(LOCK_RETRY_S)


def main() -> None:
    """Entry of the process; the argument is the number of the inherited channel descriptor."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    channel = Channel.from_fd(int(sys.argv[1]), ToLogKeeper)
    first = channel.receive()
    if first is None:
        return
    setup, fds = first
    assert isinstance(setup, LogKeeperSetup)
    try:
        keeper = LogKeeper(channel, setup, fds)
    except (OSError, LogDamaged) as error:
        is_full = isinstance(error, OSError) and is_no_room(error)
        text = f"the commit log in {setup.log_directory} cannot be opened: {error}"
        channel.send(LogKeeperFailed(text, is_full))
        return
    channel.send(LogKeeperReady(keeper.next_offset))
    gc.freeze()
    keeper.run()
