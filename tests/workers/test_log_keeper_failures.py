"""The log keeper when its disk fails: after a failed sync nothing is called durable any more, whatever comes later."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
from log_keeper_rig import Rig

from spacetimedb.log.files import OPERATING_SYSTEM
from spacetimedb.memory import control as words


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
