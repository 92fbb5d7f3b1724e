"""Kill loop: clients append and transfer while the server's processes are killed at random; then everything is checked.

Every client has one connection with confirmed reads and several calls in flight: appends of numbers that nobody else
appends, and transfers between random accounts. It also subscribes to the accounts and follows every change. Processes
are ended with kill -9: the actor, the log keeper, a reader, or the whole server. At the end:

* every append that was confirmed is there, and nothing is there twice or was never asked for;
* the appends of one connection are in their order, and an append that was asked for after another one was confirmed
  comes behind it;
* the sum of all balances was the same in every state that any client ever saw, and is at the end.

    scripts/soak_kill.py [--kills 500] [--clients 8] [--seed N]
"""

from __future__ import annotations

import argparse
import random
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import trio

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from server_process import SAMPLES, RequestFailed, ServerProcess, kill

from spacetimedb.cli.session import Session, SessionLost, SessionRefused, open_session
from spacetimedb.protocol import v2_client as v2

DATABASE: Final = "ledger"
ACCOUNTS: Final = 40
BALANCE: Final = 1_000_000
IN_FLIGHT: Final = 10
RETRY_S: Final = 0.05
RECOVERY_S: Final = 60.0
"""After a kill every client must get calls confirmed again within this time."""
PROGRESS: Final = 4
"""So many calls of each client, between two kills."""
LONGEST_PAUSE_S: Final = 0.3
TARGETS: Final = {"transaction_actor": 40, "log_keeper": 25, "workers.reader": 20, "": 15}
"""What is killed, by a part of its command line, with weights; the empty one is the whole server."""

_ACCOUNT: Final = struct.Struct("<Iq")
_TRANSFER: Final = struct.Struct("<IIq")
_NUMBER: Final = struct.Struct("<Q")


class Violation(AssertionError):
    """Something was lost, doubled, out of order, or half done."""


class Client:
    """One client over all its connections. Its n-th append has the value `number << 40 | n`."""

    def __init__(self, number: int, rng: random.Random) -> None:
        self.number = number
        self.confirmed: set[int] = set()
        self.asked = 0
        self.calls = 0
        """Calls of any kind that were confirmed."""
        self.before: dict[int, int] = {}
        """Of each append: the last one that was confirmed when it was asked for, if any."""
        self.connection_of: dict[int, int] = {}
        self.states = 0
        """States of the accounts that were seen."""
        self._rng = rng
        self._connections = 0
        self._last_confirmed = -1
        self._token: str | None = None
        self._balances: dict[bytes, int] = {}

    async def keep_going(self, url: Callable[[], str]) -> None:
        while True:
            try:
                async with open_session(url(), DATABASE, token=self._token, confirmed=True) as session:
                    self._token = session.token
                    await self._work(session)
            except (SessionLost, SessionRefused):
                await trio.sleep(RETRY_S)

    async def _work(self, session: Session) -> None:
        self._connections += 1
        self._balances.clear()
        await session.send(v2.subscribe(session.next_request(), 1, ["SELECT * FROM accounts"]))
        waiting: dict[int, int | None] = {}
        for _ in range(IN_FLIGHT):
            await self._ask(session, waiting)
        while True:
            for message in await session.receive():
                match message:
                    case v2.SubscribeApplied():
                        self._apply((), message.tables[0].rows.rows())
                    case v2.TransactionUpdate():
                        self._follow(message.query_sets)
                    case v2.ReducerResult(request_id=request_id, outcome=outcome):
                        if isinstance(outcome, v2.Ok):
                            self._follow(outcome.query_sets)
                        elif not isinstance(outcome, v2.OkEmpty):
                            raise Violation(f"a call failed: {outcome}")
                        value = waiting.pop(request_id)
                        self.calls += 1
                        if value is not None:
                            self.confirmed.add(value)
                            self._last_confirmed = value
                        await self._ask(session, waiting)
                    case v2.SubscriptionError():
                        raise Violation(message.error)

    async def _ask(self, session: Session, waiting: dict[int, int | None]) -> None:
        request_id = session.next_request()
        if self._rng.random() < 0.5:
            value = self.number << 40 | self.asked
            self.asked += 1
            waiting[request_id] = value
            self.before[value] = self._last_confirmed
            self.connection_of[value] = self._connections
            await session.send(v2.call_reducer(request_id, "append", _NUMBER.pack(value)))
        else:
            waiting[request_id] = None
            payer, payee = self._rng.sample(range(ACCOUNTS), 2)
            arguments = _TRANSFER.pack(payer, payee, self._rng.randrange(1, 100))
            await session.send(v2.call_reducer(request_id, "transfer", arguments))

    def _follow(self, query_sets: Iterable[v2.QuerySetUpdate]) -> None:
        for query_set in query_sets:
            for table in query_set.tables:
                for rows in table.rows:
                    if isinstance(rows, v2.PersistentRows):
                        self._apply(rows.deletes.rows(), rows.inserts.rows())

    def _apply(self, deletes: Iterable[bytes], inserts: Iterable[bytes]) -> None:
        balances = self._balances
        for row in deletes:
            if balances.pop(row, None) is None:
                raise Violation(f"client {self.number}: {_ACCOUNT.unpack(row)} is deleted and was not there")
        for row in inserts:
            if row in balances:
                raise Violation(f"client {self.number}: {_ACCOUNT.unpack(row)} is inserted and was there")
            balances[row] = _ACCOUNT.unpack(row)[1]
        self.states += 1
        if len(balances) != ACCOUNTS or sum(balances.values()) != ACCOUNTS * BALANCE:
            raise Violation(f"client {self.number} saw {len(balances)} accounts with {sum(balances.values())} in all")


def check_entries(clients: list[Client], values: list[int]) -> None:
    """`values`: all entries in the order of their ids. Raises Violation."""
    position = {value: at for at, value in enumerate(values)}
    if len(position) != len(values):
        raise Violation(f"{len(values) - len(position)} appends are there twice")
    for client in clients:
        missing = client.confirmed - position.keys()
        if missing:
            raise Violation(f"client {client.number}: {len(missing)} confirmed appends are missing, {min(missing)}")
        latest: dict[int, int] = {}
        for value, confirmed_before in client.before.items():
            at = position.get(value)
            if at is None:
                continue
            connection = client.connection_of[value]
            if latest.get(connection, -1) > at:
                raise Violation(f"client {client.number}: append {value} is before one that it followed")
            latest[connection] = at
            if confirmed_before >= 0 and position[confirmed_before] > at:
                raise Violation(f"client {client.number}: append {value} is before one confirmed earlier")
    invented = position.keys() - {value for client in clients for value in client.before}
    if invented:
        raise Violation(f"{len(invented)} entries that nobody asked for, {min(invented)}")


class Soak:
    """A server, its clients, and what is done to it. `kills` counts by target."""

    def __init__(self, server: ServerProcess, clients: int, seed: int) -> None:
        self.server = server
        self.rng = random.Random(seed)
        self.clients = [Client(number, random.Random(seed * 1000 + number)) for number in range(clients)]
        self.kills = dict.fromkeys(TARGETS, 0)
        self.longest_s = 0.0
        """The longest time from a kill until every client had a call confirmed."""

    async def run(self, kills: int, say: Callable[[str], None] = lambda text: None) -> None:
        """Kills so many times, then checks. Raises Violation."""
        server = self.server
        server.publish(SAMPLES / "ledger.py", DATABASE)
        server.call(DATABASE, "open_accounts", ACCOUNTS, BALANCE)
        async with trio.open_nursery() as nursery:
            for client in self.clients:
                nursery.start_soon(client.keep_going, lambda: server.base_url)
            await self._progress("the start")
            for number in range(kills):
                await self._kill_one()
                if number % 20 == 19:
                    say(f"{number + 1} kills, {sum(client.calls for client in self.clients)} calls confirmed")
            nursery.cancel_scope.cancel()
        await trio.to_thread.run_sync(self.check)

    async def _kill_one(self) -> None:
        target = self.rng.choices(list(TARGETS), list(TARGETS.values()))[0]
        begun = time.monotonic()
        if target:
            kill(self.rng.choice(await self._running(target)))
        else:
            await trio.to_thread.run_sync(self.server.kill)
            await trio.to_thread.run_sync(self.server.start)
        self.kills[target] += 1
        await self._progress(target or "the whole server")
        self.longest_s = max(self.longest_s, time.monotonic() - begun)
        await trio.sleep(self.rng.random() * LONGEST_PAUSE_S)

    async def _running(self, target: str) -> list[int]:
        """Pids of the processes of a kind; waits for one that is being started again."""
        with trio.move_on_after(RECOVERY_S):
            while True:
                found = [pid for pid, command in self.server.processes().items() if target in command]
                if found:
                    return found
                await trio.sleep(RETRY_S)
        raise Violation(f"no {target} was started:\n" + "".join(self.server.output[-20:]))

    async def _progress(self, after: str) -> None:
        goals = [client.calls + PROGRESS for client in self.clients]
        with trio.move_on_after(RECOVERY_S):
            while any(client.calls < goal for client, goal in zip(self.clients, goals, strict=True)):
                await trio.sleep(RETRY_S)
            return
        raise Violation(f"no progress after the end of {after}:\n" + "".join(self.server.output[-20:]))

    def check(self) -> None:
        """Restarts the server and looks at what it holds. Raises Violation, RequestFailed."""
        self.server.kill()
        self.server.start()
        balances = self._rows("SELECT * FROM accounts")
        if len(balances) != ACCOUNTS or sum(balance for _, balance in balances) != ACCOUNTS * BALANCE:
            raise Violation(f"the money is {sum(balance for _, balance in balances)}")
        entries = sorted(self._rows("SELECT * FROM entry"))
        check_entries(self.clients, [value for _, value in entries])

    def _rows(self, query: str) -> list[list[int]]:
        for _ in range(20):
            try:
                return self.server.sql(DATABASE, query)
            except RequestFailed:
                time.sleep(RETRY_S)
        return self.server.sql(DATABASE, query)

    def report(self) -> str:
        """What was done and seen, on one line."""
        done = ", ".join(f"{count} x {target or 'whole server'}" for target, count in self.kills.items())
        confirmed = sum(len(client.confirmed) for client in self.clients)
        states = sum(client.states for client in self.clients)
        return (
            f"{sum(self.kills.values())} kills ({done}); {confirmed} confirmed appends are all there; "
            f"{states} states seen with the same money; longest pause {self.longest_s:.1f} s"
        )


def main() -> None:
    """The long form, as a script."""
    parser = argparse.ArgumentParser(description="Kills the server's processes under load and checks what is left.")
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as root:
        server = ServerProcess(Path(root), options=["--snapshot-mb", "0.5"]).start()
        try:
            soak = Soak(server, options.clients, options.seed)
            trio.run(soak.run, options.kills, lambda text: print(text, flush=True))
            print(soak.report())
        finally:
            server.kill()


if __name__ == "__main__":
    main()
