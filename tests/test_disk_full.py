"""No room for the commit log: calls are refused with a reason, subscriptions go on, and so does it all with room.

The room is taken from the log keeper with a limit on the size of files, which needs no disk of its own. Its reserve is
of no use against that (tests/log/test_no_room.py tests the reserve), so transactions stay unconfirmed until there is
room again; the client here does not ask for confirmation.
"""

from __future__ import annotations

import resource
import struct

import trio
from conftest import ServerFactory
from patience import PATIENCE_S
from server_process import SAMPLES, ServerProcess

from spacetimedb.cli.session import Session, open_session
from spacetimedb.protocol import v2_client as v2

RETRY_S = 0.05
FULL = "the server's disk is full: nothing can be changed until there is room"
TEXT = "some text " * 2000


def log_keeper(server: ServerProcess) -> int:
    return next(pid for pid, command in server.processes().items() if "log_keeper" in command)


def set_limit(pid: int, file_bytes: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (file_bytes, resource.RLIM_INFINITY))


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


async def write_until_refused(session: Session) -> int:
    """Number of notes that were accepted before."""
    for accepted in range(1000):
        refusal = await write(session, TEXT)
        if refusal is not None:
            assert refusal == FULL
            return accepted
    raise AssertionError("nothing was refused")


async def wait_for_room(session: Session) -> None:
    while (refusal := await write(session, "there is room")) is not None:
        assert refusal == FULL
        await trio.sleep(RETRY_S)


async def test_calls_are_refused_until_there_is_room(start_server: ServerFactory) -> None:
    server = start_server()
    server.publish(SAMPLES / "notes.py", "notes")
    keeper = log_keeper(server)
    accepted = 0
    with trio.fail_after(PATIENCE_S):
        async with open_session(server.base_url, "notes", confirmed=False) as session:
            for file_bytes in (200_000, 400_000):
                set_limit(keeper, file_bytes)
                accepted += await write_until_refused(session)
                assert accepted > 3
                assert await write(session, "small") == FULL
                async with open_session(server.base_url, "notes", confirmed=False) as another:
                    assert await write(another, "small") == FULL
                set_limit(keeper, resource.RLIM_INFINITY)
                await wait_for_room(session)
                accepted += 1
    assert log_keeper(server) == keeper, "it was never restarted"
    assert len(server.sql("notes", "SELECT id FROM note")) == accepted
    server.kill()
    server.start()
    assert len(server.sql("notes", "SELECT id FROM note")) == accepted
    server.stop()


async def test_a_full_server_stops_and_starts(start_server: ServerFactory) -> None:
    """What was never confirmed for want of room is lost with the server, as in a crash; all before is there."""
    server = start_server()
    server.publish(SAMPLES / "notes.py", "notes")
    for _ in range(5):
        server.call("notes", "write", TEXT)
    set_limit(log_keeper(server), 150_000)
    with trio.fail_after(PATIENCE_S):
        async with open_session(server.base_url, "notes", confirmed=False) as session:
            accepted = 5 + await write_until_refused(session)
    server.stop()
    server.start()
    assert 5 <= len(server.sql("notes", "SELECT id FROM note")) <= accepted
    server.call("notes", "write", "on we go")
    server.stop()
