"""kill -9 of every process, one at a time and all at once, under load: the service goes on, no confirmed call is lost.

Payer w moves 1 from account 2w to account 2w + 1, again and again, over a connection with confirmed reads. Whatever is
killed: the balance of account 2w + 1 has grown by at least as much as the payer saw confirmed and at most by what it
asked for.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Awaitable, Callable

import pytest
import trio
from conftest import ServerFactory
from patience import PATIENCE_S, until
from server_process import SAMPLES, RequestFailed, ServerProcess, kill

from spacetimedb.cli.session import Session, SessionLost, SessionRefused, open_session
from spacetimedb.protocol import v2_client as v2

PAYERS = 6
IN_FLIGHT = 20
BALANCE = 1_000_000
RETRY_SECONDS = 0.1
IDLE = 0.02
"""Of a core."""


class Payer:
    """`asked` and `confirmed` count transfers over all connections; `failed` must stay 0."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.asked = self.confirmed = self.failed = 0
        self.token: str | None = None

    async def pay(self, session: Session) -> None:
        self.token = session.token
        arguments = struct.pack("<IIq", 2 * self.number, 2 * self.number + 1, 1)
        for _ in range(IN_FLIGHT):
            await self._ask(session, arguments)
        while True:
            for message in await session.receive():
                if isinstance(message, v2.ReducerResult):
                    if isinstance(message.outcome, v2.Ok | v2.OkEmpty):
                        self.confirmed += 1
                    else:
                        self.failed += 1
                    await self._ask(session, arguments)

    async def _ask(self, session: Session, arguments: bytes) -> None:
        self.asked += 1
        await session.send(v2.call_reducer(session.next_request(), "transfer", arguments))

    async def keep_paying(self, server: ServerProcess) -> None:
        while True:
            try:
                async with open_session(server.base_url, "bank", token=self.token, confirmed=True) as session:
                    await self.pay(session)
            except (SessionLost, SessionRefused):
                await trio.sleep(RETRY_SECONDS)


def check_the_money(server: ServerProcess, payers: list[Payer]) -> None:
    balances = dict(server.sql("bank", "SELECT * FROM accounts"))
    assert sum(balances.values()) == 2 * PAYERS * BALANCE
    for payer in payers:
        moved = balances[2 * payer.number + 1] - BALANCE
        assert balances[2 * payer.number] == BALANCE - moved
        assert payer.confirmed <= moved <= payer.asked
        assert payer.failed == 0


async def progress(payers: list[Payer], calls: int) -> None:
    """Returns when every payer has seen so many more transfers confirmed. AssertionError if that takes too long."""
    goals = [payer.confirmed + calls for payer in payers]
    with trio.move_on_after(PATIENCE_S):
        while any(payer.confirmed < goal for payer, goal in zip(payers, goals, strict=True)):
            await trio.sleep(RETRY_SECONDS / 4)
        return
    left = [goal - payer.confirmed for payer, goal in zip(payers, goals, strict=True)]
    raise AssertionError(f"no progress: still to be confirmed {left}")


async def under_load(server: ServerProcess, during: Callable[[list[Payer]], Awaitable[None]]) -> list[Payer]:
    """Runs `during(payers)` (an async function) while all payers pay."""
    payers = [Payer(number) for number in range(PAYERS)]
    async with trio.open_nursery() as nursery:
        for payer in payers:
            nursery.start_soon(payer.keep_paying, server)
        await progress(payers, 50)
        await during(payers)
        nursery.cancel_scope.cancel()
    return payers


def bank(start_server: ServerFactory) -> ServerProcess:
    server = start_server()
    server.publish(SAMPLES / "bank.py", "bank")
    server.call("bank", "seed", 2 * PAYERS, BALANCE)
    return server


async def test_every_process_in_turn(start_server: ServerFactory) -> None:
    server = bank(start_server)

    async def one_after_the_other(payers: list[Payer]) -> None:
        tree = server.serving()
        assert len(tree) >= 4, f"supervisor, actor, log keeper, reader: {tree}"
        for pid, command in tree.items():
            if pid == server.pid:
                continue
            kill(pid)
            try:
                await progress(payers, 50)
            except AssertionError as error:
                raise AssertionError(f"after the end of {command}: {error}") from None
        await trio.to_thread.run_sync(until, server.serving, lambda found: len(found) == len(tree))

    payers = await under_load(server, one_after_the_other)
    check_the_money(server, payers)
    server.stop()


async def test_the_whole_server_at_once(start_server: ServerFactory) -> None:
    server = bank(start_server)

    async def twice(payers: list[Payer]) -> None:
        for _ in range(2):
            await trio.to_thread.run_sync(server.kill)
            await trio.to_thread.run_sync(server.start)
            await progress(payers, 50)

    payers = await under_load(server, twice)
    server.kill()
    server.start()
    check_the_money(server, payers)


async def test_the_supervisor_alone(start_server: ServerFactory) -> None:
    """Its children notice, flush and end; nothing is left over, and the next start finds everything."""
    server = bank(start_server)
    rest = [pid for pid in server.processes() if pid != server.pid]

    async def behead(payers: list[Payer]) -> None:
        kill(server.pid)

    payers = await under_load(server, behead)
    server.await_end(rest)
    server.start()
    check_the_money(server, payers)


def test_a_stopped_server_keeps_everything(start_server: ServerFactory) -> None:
    server = bank(start_server)
    server.call("bank", "transfer", 0, 1, 5)
    server.stop()
    server.start()
    assert sorted(server.sql("bank", "SELECT * FROM accounts WHERE id < 2")) == [[0, BALANCE - 5], [1, BALANCE + 5]]
    server.call("bank", "transfer", 1, 0, 5)
    server.stop()


def test_in_memory_keeps_nothing(start_server: ServerFactory) -> None:
    server = start_server(in_memory=True)
    server.publish(SAMPLES / "notes.py", "notes")
    server.call("notes", "write", "gone")
    server.stop()
    server.start()
    with pytest.raises(RequestFailed, match="404"):
        server.sql("notes", "SELECT * FROM note")


@pytest.mark.parametrize("readers", [1, 3])
def test_number_of_readers(start_server: ServerFactory, readers: int) -> None:
    server = start_server(in_memory=True, readers=readers)
    server.publish(SAMPLES / "notes.py", "notes")
    for n in range(10):
        server.call("notes", "write", f"note {n}")
    assert len(server.sql("notes", "SELECT * FROM note")) == 10
    server.stop()


def test_an_idle_server_does_not_poll(start_server: ServerFactory) -> None:
    server = start_server()
    server.publish(SAMPLES / "notes.py", "notes")

    def used(seconds: float) -> float:
        """Share of a core; sleeping is the measurement itself: what a server does when nothing happens."""
        before, begun = server.cpu_seconds(), time.monotonic()
        time.sleep(seconds)
        return (server.cpu_seconds() - before) / (time.monotonic() - begun)

    until(lambda: used(0.3), lambda share: share < IDLE)  # what comes after a publish is over
    share = used(3.0)
    assert share < IDLE, f"an idle server uses {share:.1%} of a core"
