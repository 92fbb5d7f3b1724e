"""When a database gets a snapshot, and how: the supervisor's side of it.

Every few seconds the commit log is compared with the newest snapshot. When too much lies between them, the actor is
asked how many rows its tables have now; when what it has committed by then is durable, a snapshotter process is started
that replays the log to exactly that offset, compares, and writes. If it finds a difference, that is said loudly and no
more snapshots are taken: older ones and the whole log since them stay as they are. The database goes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from spacetimedb.log.files import OPERATING_SYSTEM
from spacetimedb.log.segments import list_segments
from spacetimedb.log.snapshot import list_snapshots, snapshot_directory
from spacetimedb.memory import control as words
from spacetimedb.memory.control import ControlBlock
from spacetimedb.workers.channel import ChannelClosed
from spacetimedb.workers.messages import (
    AnnounceRows,
    FromSnapshotter,
    RowCounts,
    SnapshotDone,
    SnapshotFailed,
    SnapshotterSetup,
)
from spacetimedb.workers.options import SnapshotPolicy
from spacetimedb.workers.supervisor.child import start_child

LOOK_S: Final = 5.0
"""Between two looks at the log."""
ANSWER_S: Final = 30.0
"""The actor must have answered and the log keeper must have caught up within this time."""
DURABLE_LOOK_S: Final = 0.02
PAUSE_S: Final = 60.0
"""After a snapshot that failed."""


class SnapshotError(Exception):
    """No snapshot was taken; the text says why."""


class LogSince(msgspec.Struct, frozen=True):
    """What recovery would have to replay."""

    transactions: int
    bytes: int


def log_since_snapshot(log_directory: Path, next_offset: int) -> LogSince:
    """What the log holds beyond the newest snapshot. The bytes of the segment that it lies in are estimated."""
    found = list_snapshots(OPERATING_SYSTEM, snapshot_directory(log_directory))
    start = found[0][0] if found else 0
    segments = list_segments(OPERATING_SYSTEM, log_directory)
    size = 0
    for i, (first, path) in enumerate(segments):
        end = segments[i + 1][0] if i + 1 < len(segments) else next_offset
        if end > start:
            own = path.stat().st_size
            size += own if first >= start else own * (end - start) // max(1, end - first)
    return LogSince(next_offset - start, size)


class Snapshots:
    """The snapshots of one database. `diverged`: why none is taken any more."""

    def __init__(
        self, identity: bytes, log_directory: Path, policy: SnapshotPolicy, say: Callable[[str], None]
    ) -> None:
        self.diverged: str | None = None
        self._identity = identity
        self._log_directory = log_directory
        self._policy = policy
        self._say = say
        self._one_at_a_time = trio.Lock()
        self._announced: trio.MemorySendChannel[RowCounts] | None = None
        self._ask_actor: Callable[[Any], Awaitable[None]]
        self._control: ControlBlock | None = None

    async def watch(self, ask_actor: Callable[[Any], Awaitable[None]], control: ControlBlock) -> None:
        """Takes snapshots when they are due, until cancelled. `ask_actor` sends a message to the actor and wakes it."""
        self._ask_actor, self._control = ask_actor, control
        seen = -1
        try:
            while self.diverged is None:
                await trio.sleep(LOOK_S)
                durable = control.words[words.DURABLE]
                if durable == seen:
                    continue
                seen = durable
                try:
                    if self._is_due(durable):
                        await self.take()
                except (SnapshotError, OSError) as error:
                    self._say(f"no snapshot: {error}")
                    await trio.sleep(PAUSE_S)
        finally:
            self._control = None

    def _is_due(self, durable: int) -> bool:
        since = log_since_snapshot(self._log_directory, durable)
        return since.bytes >= self._policy.log_bytes or since.transactions >= self._policy.transactions

    def announced(self, counts: RowCounts) -> bool:
        """The actor's answer; what nobody has asked for is ignored (False)."""
        try:
            if self._announced is None:
                return False
            self._announced.send_nowait(counts)
        except trio.WouldBlock:
            return False
        return True

    async def take(self) -> SnapshotDone:
        """Takes a snapshot now. Raises SnapshotError."""
        async with self._one_at_a_time:
            if self.diverged is not None:
                raise SnapshotError(f"the database and its log diverged: {self.diverged}")
            if self._control is None:
                raise SnapshotError("the database is not running")
            counts = await self._row_counts(self._control)
            answer = await self._run(counts)
        if isinstance(answer, SnapshotFailed):
            if answer.diverged:
                self.diverged = answer.text
                self._say(
                    f"THE DATABASE AND THE REPLAY OF ITS LOG DIVERGED: {answer.text}. No more snapshots are taken; "
                    "the log is kept from the last one on. Please report this"
                )
            raise SnapshotError(answer.text)
        self._say(
            f"snapshot of {answer.rows} rows after {answer.next_offset} transactions: "
            f"{answer.bytes / 1e6:.1f} MB in {answer.seconds:.1f} s"
        )
        return answer

    async def _row_counts(self, control: ControlBlock) -> RowCounts:
        send, receive = trio.open_memory_channel[RowCounts](1)
        self._announced = send
        try:
            with trio.fail_after(ANSWER_S):
                await self._ask_actor(AnnounceRows())
                counts = await receive.receive()
                while control.words[words.DURABLE] < counts.next_offset:
                    await trio.sleep(DURABLE_LOOK_S)
        except ChannelClosed:
            raise SnapshotError("the database process ended") from None
        except trio.TooSlowError:
            raise SnapshotError(f"the database did not answer within {ANSWER_S:.0f} s") from None
        finally:
            self._announced = None
        return counts

    async def _run(self, counts: RowCounts) -> SnapshotDone | SnapshotFailed:
        setup = SnapshotterSetup(
            self._identity,
            str(self._log_directory),
            str(snapshot_directory(self._log_directory)),
            counts.next_offset,
            counts.rows,
            self._policy.keep,
            self._policy.prune_log,
        )
        child = await start_child(
            "snapshotter", "spacetimedb.workers.snapshotter", FromSnapshotter, self._identity[::-1].hex()
        )
        try:
            await child.channel.send_async(setup)
            received = await child.channel.receive_async()
        except ChannelClosed:
            received = None
        finally:
            with trio.CancelScope(shield=True):
                child.process.kill()
                await child.process.wait()
                child.channel.close()
        if received is None:
            return SnapshotFailed("the snapshotter ended early", False)
        answer = received[0]
        assert isinstance(answer, SnapshotDone | SnapshotFailed)
        return answer
