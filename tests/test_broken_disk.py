"""A disk that fails, or has no room for a new database: what is refused, what goes on, and that nothing is lost.

The failure is made in the server's own processes: with a `sitecustomize` module that lets their file operations raise
while a file exists.
"""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest
import trio
from conftest import ServerFactory
from patience import PATIENCE_S
from server_process import SAMPLES, RequestFailed, ServerProcess

from spacetimedb.cli.session import Session, open_session
from spacetimedb.protocol import v2_client as v2

BROKEN = "the commit log cannot be written"
ROOM = 500
FAILING = """
import errno, os
fdatasync, pwrite = os.fdatasync, os.pwrite
def failing_sync(fd):
    if os.path.exists({flag!r}):
        raise OSError(errno.EIO, "the disk is broken")
    fdatasync(fd)
def failing_write(fd, data, at):
    if at + len(data) > {room} and os.path.exists({flag!r} + ".full"):
        raise OSError(errno.ENOSPC, "no room")
    return pwrite(fd, data, at)
os.fdatasync, os.pwrite = failing_sync, failing_write
"""


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """While this file exists, no server that is started from now on can sync; while it exists with the ending `.full`,
    no file of a log gets longer than ROOM."""
    flag = tmp_path / "broken"
    (tmp_path / "patch").mkdir()
    (tmp_path / "patch" / "sitecustomize.py").write_text(FAILING.format(flag=str(flag), room=ROOM))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "patch"))
    return flag


async def write(session: Session, text: str) -> str | None:
    """Calls `write`; the error's text, None if there is none."""
    data = text.encode()
    request_id = session.next_request()
    await session.send(v2.call_reducer(request_id, "write", struct.pack("<I", len(data)) + data))
    while True:
        for message in await session.receive():
            if isinstance(message, v2.ReducerResult) and message.request_id == request_id:
                outcome = message.outcome
                return outcome.message if isinstance(outcome, v2.Err | v2.InternalError) else None


async def write_until(session: Session, accepted: bool) -> int:
    """How many calls were accepted until one was, or was refused."""
    count = 0
    while True:
        refusal = await write(session, "a note")
        count += refusal is None
        if (refusal is None) == accepted:
            return count
        assert refusal is None or BROKEN in refusal
        await trio.sleep(0.02)


def notes(server: ServerProcess, confirmed: str = "true") -> int:
    answer = server.request("POST", "/v1/database/notes/sql", "SELECT id FROM note", query={"confirmed": confirmed})
    return len(answer.json()[0]["rows"])


async def test_a_failed_sync(start_server: ServerFactory, broken: Path) -> None:
    server = start_server()
    server.publish(SAMPLES / "notes.py", "notes")
    server.call("notes", "write", "confirmed")
    processes = [pid for pid, command in server.processes().items() if "transaction_actor" in command]
    with trio.fail_after(PATIENCE_S):
        async with open_session(server.base_url, "notes", confirmed=False) as session:
            broken.touch()
            written = 1 + await write_until(session, accepted=False)
            # Reads and subscriptions go on, of what is not confirmed too.
            assert await trio.to_thread.run_sync(notes, server, "false") == written
            await session.send(v2.subscribe(session.next_request(), 1, ["SELECT * FROM note"]))
            found = -1
            while found < 0:
                for message in await session.receive():
                    if isinstance(message, v2.SubscribeApplied):
                        found = len(message.tables[0].rows.rows())
            assert found == written
            # Whoever wants to be sure is told that nobody can be.
            with pytest.raises(RequestFailed, match=f"503: {BROKEN}"):
                await trio.to_thread.run_sync(notes, server)
            broken.unlink()
            written += await write_until(session, accepted=True)
    assert processes == [pid for pid, command in server.processes().items() if "transaction_actor" in command]
    assert notes(server) == written
    server.kill()
    server.start()
    assert notes(server) == written
    server.stop()


def test_a_first_publish_that_finds_no_room(start_server: ServerFactory, broken: Path) -> None:
    server = start_server()
    full = broken.with_name(broken.name + ".full")
    full.touch()
    started = time.monotonic()
    with pytest.raises(RequestFailed, match="500: the server's disk is full"):
        server.publish(SAMPLES / "ledger.py", "ledger")
    assert time.monotonic() - started < PATIENCE_S
    full.unlink()
    server.publish(SAMPLES / "ledger.py", "ledger")
    server.call("ledger", "open_accounts", 3, 5)
    assert len(server.sql("ledger", "SELECT * FROM accounts")) == 3
    server.stop()
