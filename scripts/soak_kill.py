"""Kill loop: clients append and transfer while the server's processes are killed at random; then everything is checked.

The clients are those of the official npm package (tests/npm/ledger_clients.mjs): each has one connection with confirmed
reads and several calls in flight: appends of numbers that nobody else appends, and transfers between random accounts.
It also subscribes to the accounts and adds them up after every change. Processes are ended with kill -9: the actor, the
log keeper, a reader, the snapshotter, several of them together, or the whole server. At the end:

* every append that was confirmed is there, and nothing is there twice or was never asked for;
* the appends of one connection are in their order, and an append that was asked for after another one was confirmed
  comes behind it;
* the sum of all balances was the same in every state that any client ever saw, and is at the end.

    scripts/soak_kill.py [--kills 500] [--clients 8] [--seed N]
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from server_process import SAMPLES, RequestFailed, ServerProcess, kill

CLIENTS: Final = Path(__file__).resolve().parent.parent / "tests" / "npm" / "ledger_clients.mjs"
DATABASE: Final = "ledger"
ACCOUNTS: Final = 40
BALANCE: Final = 1_000_000
RETRY_S: Final = 0.05
RECOVERY_S: Final = 60.0
"""After a kill every client must get calls confirmed again within this time."""
PROGRESS: Final = 4
"""So many calls of each client, between two kills."""
LONGEST_PAUSE_S: Final = 0.3
TARGETS: Final = {"transaction_actor": 4, "log_keeper": 3, "workers.reader": 3, "snapshotter": 3}
"""What is killed, by a part of its command line, with weights."""
WHOLE_SERVER: Final = "the whole server"
WHOLE_SERVER_SHARE: Final = 0.15
AT_ONCE: Final = (1, 2, 3, 3)
"""So many are killed together, each as likely."""


class Violation(AssertionError):
    """Something was lost, doubled, out of order, or half done."""


class Lines:
    """Whole lines of what arrives in pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def split(self, data: bytes | bytearray) -> list[bytes]:
        """The lines that are complete now."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines


class Client:
    """What one client asked for and saw, over all its connections. Its n-th append has the value `number << 40 | n`."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.confirmed: set[int] = set()
        self.calls = 0
        """Calls of any kind that were confirmed."""
        self.before: dict[int, int] = {}
        """Of each append: the last one that was confirmed when it was asked for, -1 for none."""
        self.connection_of: dict[int, int] = {}
        self.states = 0
        """States of the accounts that were looked at."""

    def take(self, kind: str, words: list[str]) -> None:
        """What the client told, see `ledger_clients.mjs`."""
        base = self.number << 40
        match kind, words:
            case "ask", [n, connection, last]:
                value = base | int(n)
                self.before[value] = base | int(last) if last != "-1" else -1
                self.connection_of[value] = int(connection)
            case "ok", [n]:
                self.calls += 1
                self.confirmed.add(base | int(n))
            case "moved", []:
                self.calls += 1
            case "seen", [states]:
                self.states = int(states)
            case _:
                raise Violation(f"client {self.number}: {' '.join(words)}")


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
        self.seed = seed
        self.rng = random.Random(seed)
        self.clients = [Client(number) for number in range(clients)]
        self.kills = dict.fromkeys([*TARGETS, WHOLE_SERVER], 0)
        self.longest_s = 0.0
        """The longest time from a kill until every client had a call confirmed."""

    async def run(self, kills: int, say: Callable[[str], None] = lambda text: None) -> None:
        """Kills so many times, then checks. Raises Violation."""
        server = self.server
        server.publish(SAMPLES / "ledger.py", DATABASE)
        server.call(DATABASE, "open_accounts", ACCOUNTS, BALANCE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_clients)
            await self._progress("the start")
            told = 0
            while (done := self.killed) < kills:
                if done - told >= 20:
                    told = done
                    say(f"{done} kills, {sum(client.calls for client in self.clients)} calls confirmed")
                await self._kill_some(kills - done)
            nursery.cancel_scope.cancel()
        await trio.to_thread.run_sync(self.check)

    async def _run_clients(self) -> None:
        """Runs the clients until cancelled, and takes what they tell."""
        numbers = (len(self.clients), self.seed, ACCOUNTS, ACCOUNTS * BALANCE)
        command = ["node", str(CLIENTS), self.server.ws_url, DATABASE, *map(str, numbers)]
        process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        told = Lines()
        try:
            async for data in process.stdout:
                self._take(told.split(data))
            raise Violation("the clients ended")
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                # What they had said when they were killed: the server may have done what they asked for last.
                async for data in process.stdout:
                    self._take(told.split(data))

    def _take(self, lines: list[bytes]) -> None:
        for line in lines:
            kind, number, *words = line.decode().split(" ")
            if number == "-":
                raise Violation(" ".join(words))
            self.clients[int(number)].take(kind, words)

    @property
    def killed(self) -> int:
        """Kills so far."""
        return sum(self.kills.values())

    async def _kill_some(self, at_most: int) -> None:
        begun = time.monotonic()
        if self.rng.random() < WHOLE_SERVER_SHARE:
            targets = [WHOLE_SERVER]
            await trio.to_thread.run_sync(self.server.kill)
            await trio.to_thread.run_sync(self.server.start)
        else:
            count = min(self.rng.choice(AT_ONCE), at_most)
            chance = {target: self.rng.random() ** (1 / weight) for target, weight in TARGETS.items()}
            drawn = set(sorted(chance, key=chance.__getitem__)[-count:])  # weighted, none twice
            # There is a snapshotter only now and then; the others are waited for while they are being started again.
            running = {target: await self._running(target) for target in drawn - {"snapshotter"}}
            running["snapshotter"] = self._pids("snapshotter") if "snapshotter" in drawn else []
            targets = [target for target, pids in running.items() if pids]
            for target in targets:
                kill(self.rng.choice(running[target]))
        for target in targets:
            self.kills[target] += 1
        await self._progress(" and ".join(targets) or "nothing")
        self.longest_s = max(self.longest_s, time.monotonic() - begun)
        await trio.sleep(self.rng.random() * LONGEST_PAUSE_S)

    def _pids(self, target: str) -> list[int]:
        return [pid for pid, command in self.server.processes().items() if target in command]

    async def _running(self, target: str) -> list[int]:
        """Pids of the processes of a kind; waits for one that is being started again."""
        with trio.move_on_after(RECOVERY_S):
            while True:
                if found := self._pids(target):
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
        done = ", ".join(f"{count} x {target}" for target, count in self.kills.items())
        confirmed = sum(len(client.confirmed) for client in self.clients)
        states = sum(client.states for client in self.clients)
        return (
            f"{self.killed} kills ({done}); {confirmed} confirmed appends are all there; "
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
        server = ServerProcess(Path(root), options=["--snapshot-mb", "0.1"]).start()
        try:
            soak = Soak(server, options.clients, options.seed)
            trio.run(soak.run, options.kills, lambda text: print(text, flush=True))
            print(soak.report())
        except BaseException:
            print("".join(server.output[-40:]))
            raise
        finally:
            server.kill()


if __name__ == "__main__":
    main()
