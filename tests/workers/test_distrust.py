"""What the supervisor does with an actor whose module sends what no actor would send, or is silent. The module alters
the process that it runs in, from outside of every rule, as a hostile author would."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from patience import PATIENCE_S

from spacetimedb.memory.doorbell import Doorbell
from spacetimedb.workers.supervisor import actor_process
from spacetimedb.workers.supervisor.errors import DatabaseFailed
from spacetimedb.workers.supervisor.heartbeat import Heartbeats
from spacetimedb.workers.supervisor.processes import DatabaseProcesses
from spacetimedb.workers.supervisor.reader_link import ReaderLink

GOOD = """
from spacetimedb import Module, Pk, Row, u64
m = Module()
@m.table()
class A(Row):
    id: Pk[u64]
@m.table()
class B(Row):
    id: Pk[u64]
"""
ACTOR = """
main = __import__("sys").modules["spacetimedb.workers.transaction_actor.transaction_actor"]
Actor = main.TransactionActor
"""
SILENT = ACTOR + "Actor._update = lambda self, message: None" + GOOD
FLOODING = (
    ACTOR
    + """
def flood(self):
    while True:
        self._channel.send(main.RowCounts(1, {}))
Actor._sleep = flood
"""
    + GOOD
)
DEAF = ACTOR + "Actor._look_at_channel = lambda self: None" + GOOD
NEVER_READY = (
    ACTOR
    + """
main.signal.setitimer(main.signal.ITIMER_REAL, 0)
(actor,) = (found for found in main.gc.get_objects() if type(found) is Actor)
actor._control.words[main.words.ACTOR_HEARTBEAT] = 0
__import__("threading").Event().wait()
"""
    + GOOD
)
ANSWERS = {
    "no definition": {"definition": b"\xff"},
    "no table": {"table_ids": {}},
    "one id, of two tables": {"table_ids": {"a": 1 << 40, "b": 1 << 40}},
    "a generation that is none": {"generation": 1 << 40},
}
LYING = (
    ACTOR
    + f"""
answers = {ANSWERS!r}
from msgspec.structs import replace
def lie(self, message):
    self._channel.send(replace(self.ready(), **answers[message.program.decode()]))
Actor._update = lie
"""
    + GOOD
)
HASH = bytes(32)


class Supervised:
    """A database that is kept running, as the supervisor does. `said` is what it would print."""

    def __init__(self, directory: Path, program: str) -> None:
        self.said: list[str] = []
        self.heartbeats = Heartbeats()
        self.link = ReaderLink(0, Doorbell.create(), self._send)
        self.database = DatabaseProcesses(
            bytes(range(32)), bytes(32), directory, False, lambda: [self.link], self.said.append
        )
        self.database.program, self.database.program_hash = program.encode(), HASH
        self.starts = 0

    async def _send(self, *_message: object) -> None:
        """A reader hears of the database whenever it starts."""
        self.starts += 1

    async def start(self) -> None:
        database = self.database
        await database.start(True, database.program, database.program_hash)

    async def until_replaced(self, times: int) -> None:
        """Waits until it serves after so many replacements."""
        with trio.fail_after(PATIENCE_S):
            while self.starts <= times or self.database.ready is None:
                await trio.sleep(0.01)


@asynccontextmanager
async def supervised(directory: Path, program: str) -> AsyncIterator[Supervised]:
    made = Supervised(directory, program)

    async def down(_reason: str) -> None:
        pass

    def slow_reader(_number: int) -> None:
        pass

    await made.start()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.database.supervise, down, slow_reader)
        try:
            yield made
        finally:
            with trio.CancelScope(shield=True):
                await made.database.stop()
            nursery.cancel_scope.cancel()
            made.link.bell.close()


async def test_an_update_that_is_not_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor_process, "UPDATE_LIMIT_S", 1.0)
    async with supervised(tmp_path, SILENT) as made:
        with pytest.raises(DatabaseFailed, match="did not answer within 1 s") as failure:
            await made.database.update(GOOD.encode(), b"new", False)
        assert failure.value.status == 504
        await made.until_replaced(1)
        assert made.database.ready is not None
        assert made.database.ready.program_hash == HASH, "what ran before runs again"


async def test_answers_that_are_none(tmp_path: Path) -> None:
    async with supervised(tmp_path, LYING) as made:
        for number, answer in enumerate(ANSWERS, 1):
            with pytest.raises(DatabaseFailed, match="announced a definition that is none"):
                await made.database.update(answer.encode(), b"new", False)
            await made.until_replaced(number)


async def test_messages_without_end(tmp_path: Path) -> None:
    """This task goes on meanwhile: whoever sends more than can be read does not keep the supervisor to himself."""
    async with supervised(tmp_path, FLOODING) as made:
        await made.until_replaced(1)
        assert any("messages that nobody has asked for" in line for line in made.said), made.said


async def test_a_process_that_does_not_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers that come and go must not wait for it."""
    monkeypatch.setattr(actor_process, "TELL_S", 0.5)
    async with supervised(tmp_path, DEAF) as made:
        assert made.database._actor is not None
        made.database._actor.child.channel.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        with trio.fail_after(PATIENCE_S):
            while not any("takes no messages" in line for line in made.said):
                await made.database.detach_reader(0)
                await made.database.attach_reader(made.link)


async def test_a_start_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor_process, "START_LIMIT_S", 1.0)
    made = Supervised(tmp_path, NEVER_READY)
    with pytest.raises(DatabaseFailed, match="killed while the database started"):
        await made.start()
    assert any("did not start within 1 s" in line for line in made.said), made.said
    made.link.bell.close()
