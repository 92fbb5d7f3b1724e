"""A log keeper without its process, for tests and benchmarks."""

from __future__ import annotations

from pathlib import Path

from spacetimedb.memory import control as words
from spacetimedb.memory import ring as commit_ring
from spacetimedb.memory.control import ControlBlock
from spacetimedb.memory.doorbell import Doorbell
from spacetimedb.memory.heap import RowHeap
from spacetimedb.memory.region import Region
from spacetimedb.memory.ring import RingWriter
from spacetimedb.store.commit_record import LOGGED, MUTATIONS_ONLY, NO_READER, NO_REDUCER, TableDelta, build_commit
from spacetimedb.workers.channel import Channel
from spacetimedb.workers.log_keeper.log_keeper import LogKeeper
from spacetimedb.workers.messages import LogKeeperSetup, ToLogKeeper


class Rig:
    """A log keeper in this process, and the writer of its ring."""

    def __init__(self, directory: Path) -> None:
        regions = [Region.create(size, "test") for size in (words.SIZE, 1 << 20, 1 << 20)]
        self.control = ControlBlock.create(regions[0])
        commit_ring.format_ring(regions[1])
        commit_ring.activate(regions[1], commit_ring.LOG_KEEPER_SLOT)
        RowHeap(regions[2])
        self.ring = RingWriter(regions[1])
        bells = [Doorbell.create() for _ in range(2)]
        self._sockets = Channel.pair()
        fds = [*(region.fd for region in regions), *(fd for bell in bells for fd in bell.fds)]
        setup = LogKeeperSetup(str(directory / "clog"), str(directory / "module_logs"))
        self.keeper = LogKeeper(Channel(self._sockets[0], ToLogKeeper), setup, fds)
        self.offset = 0

    def commit(self, deltas: list[TableDelta] | None = None) -> None:
        self.offset += 1
        record = build_commit(deltas or [], MUTATIONS_ONLY, self.offset, LOGGED, 0, NO_READER, 0, 0, NO_REDUCER, 0)
        assert self.ring.append_batch([record]) is not None

    def close(self) -> None:
        for one in self._sockets:
            one.close()
