"""The log keeper when its disk fails: after a failed sync nothing is called durable any more, whatever comes later."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from spacetimedb.log.files import OPERATING_SYSTEM
from spacetimedb.memory import control as words
from spacetimedb.memory import ring as commit_ring
from spacetimedb.memory.control import ControlBlock
from spacetimedb.memory.doorbell import Doorbell
from spacetimedb.memory.heap import RowHeap
from spacetimedb.memory.region import Region
from spacetimedb.memory.ring import RingWriter
from spacetimedb.store.commit_record import LOGGED, MUTATIONS_ONLY, NO_READER, NO_REDUCER, build_commit
from spacetimedb.workers.channel import Channel
from spacetimedb.workers.log_keeper import LogKeeper
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

    def commit(self) -> None:
        self.offset += 1
        record = build_commit([], MUTATIONS_ONLY, self.offset, LOGGED, 0, NO_READER, 0, 0, NO_REDUCER, 0)
        assert self.ring.append_batch([record]) is not None

    def close(self) -> None:
        for one in self._sockets:
            one.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


def fail(*_: object) -> None:
    raise OSError(errno.EIO, "the disk is broken")


def test_after_a_failed_sync_nothing_is_durable(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.commit()
    assert rig.keeper._drain()
    assert rig.control.words[words.DURABLE] == 1
    rig.commit()
    with monkeypatch.context() as patch:
        patch.setattr(type(OPERATING_SYSTEM), "sync_data", fail)
        with pytest.raises(OSError, match="broken"):
            rig.keeper._drain()
    assert rig.control.words[words.LOG_FAILED] == 1
    rig.commit()
    with pytest.raises(OSError, match="takes nothing more"):
        rig.keeper._drain()
    assert rig.control.words[words.DURABLE] == 1


def test_without_room_it_waits(rig: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write = type(OPERATING_SYSTEM).write
    room = 30

    def no_room(self: object, fd: int, at: int, data: bytes) -> int:
        if at + len(data) > room:
            raise OSError(errno.ENOSPC, "no room")
        return write(OPERATING_SYSTEM, fd, at, data)

    rig.commit()
    with monkeypatch.context() as patch:
        patch.setattr(type(OPERATING_SYSTEM), "write", no_room)
        assert not rig.keeper._drain()
        assert rig.control.words[words.LOG_FULL] == 1
        assert rig.control.words[words.DURABLE] == 0
        rig.commit()
        assert not rig.keeper._drain()
        rig.keeper._look_for_room()
        assert rig.control.words[words.LOG_FULL] == 1, "what waits goes first"
    assert rig.keeper._drain()
    assert rig.keeper._drain()
    rig.keeper._look_for_room()
    assert (rig.control.words[words.LOG_FULL], rig.control.words[words.LOG_FAILED]) == (0, 0)
    assert rig.control.words[words.DURABLE] == 2
    assert "no room for the commit log" in capsys.readouterr().err
