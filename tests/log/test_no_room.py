"""A disk that is full: nothing is lost, nothing is half written, and it goes on when there is room."""

from __future__ import annotations

import pytest

from spacetimedb.log.commit_log import CommitLogWriter, NoRoom
from spacetimedb.log.reserve import Reserve

from .faulty_files import MemoryFiles
from .test_commit_log import LOG, make_log, numbered, payloads_of


def test_appending_goes_on_when_there_is_room() -> None:
    """With room for 0, 1, 2, ... more bytes, also where a new segment would have to be begun."""
    for more in range(0, 1200, 7):
        files = MemoryFiles()
        log = CommitLogWriter.open(LOG, files, 150)
        files.room = sum(len(content.now) for content in files.entries.values()) + more
        todo = numbered(30)
        with pytest.raises(NoRoom):
            log.append(todo)
        assert log.sync() == (log.next_offset - 1 if log.next_offset else None)
        assert payloads_of(LOG, files.after_kill()) == todo[: log.next_offset]
        with pytest.raises(NoRoom):
            log.append(todo[log.next_offset :])
        files.room += 100
        try:
            log.append(todo[log.next_offset :])
        except NoRoom:
            files.room = None
            log.append(todo[log.next_offset :])
        files.room = None
        log.append([b"after"])
        log.close()
        assert payloads_of(LOG, files) == [*todo, b"after"]
        with CommitLogWriter.open(LOG, files, 150) as again:
            assert (again.next_offset, again.torn_bytes) == (31, 0)


def test_opening_needs_no_room_for_a_torn_tail() -> None:
    files = make_log()
    path = max(path for path in files.entries if path.name.endswith(".stdb.log"))
    files.entries[path].now += b"unfinished, more than a header has"
    files.room = 0
    with CommitLogWriter.open(LOG, files, 200) as log:
        assert (log.next_offset, log.torn_bytes) == (12, 34)
    assert not [path for path in files.entries if "torn" in path.name]


def test_the_reserve_gives_room() -> None:
    files = MemoryFiles()
    log = CommitLogWriter.open(LOG, files, 1 << 20)
    reserve = Reserve(LOG, files, 1000)
    assert reserve.take()
    assert reserve.take()
    files.room = sum(len(content.now) for content in files.entries.values())
    with pytest.raises(NoRoom):
        log.append(numbered(5))
    assert reserve.give_up()
    assert not reserve.give_up()
    log.append(numbered(5)[log.next_offset :])
    assert log.sync() == 4
    assert not reserve.take()
    assert not [path for path in files.entries if "reserve" in path.name]
    files.room = None
    assert reserve.take()
    log.close()
