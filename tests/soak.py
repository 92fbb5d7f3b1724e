"""A soak: many clients with overlapping query sets that come and go while writers change everything.

Every client keeps, for each of its query sets, a bag of rows as the messages say: whatever is deleted must be there. At
the end each bag is compared with what the queries give over the server's tables.

    python tests/soak.py [--seconds 60] [--clients 50] [--writers 4] [--official]

`--official` does the same with the official client and its typed query builder (npm/builder_soak.mjs).
"""

from __future__ import annotations

import argparse
import json
import random
import struct
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from patience import PATIENCE_S
from server_process import SAMPLES, ServerProcess
from session_client import Received, SessionClient

from spacetimedb.protocol import v2_client as v2

NPM = Path(__file__).resolve().parent / "npm"
OWNERS, CHUNKS = 20, 10
SETS_PER_CLIENT = 6
CHANGES = 8
Bag = Counter[tuple[str, bytes]]
Thing = tuple[int, int, int, bytes]
"""(id, owner, value, row)."""


class Query:
    """A query's text, and the rows that it gives."""

    def __init__(
        self, text: str, table: str, rows: Callable[[list[Thing], dict[int, tuple[int, bytes]]], Iterable[bytes]]
    ):
        self.text = text
        self.table = table
        self.rows = rows


def draw_query(draw: random.Random) -> Query:
    """A query over the tables of the module `churn`."""
    owner, chunk, value = draw.randrange(OWNERS), draw.randrange(CHUNKS), draw.randrange(100)
    return draw.choice(
        [
            Query("SELECT * FROM things", "things", lambda t, p: [x[3] for x in t]),
            Query("SELECT * FROM places", "places", lambda t, p: [row for _, row in p.values()]),
            Query(
                f"SELECT * FROM things WHERE owner = {owner}", "things", lambda t, p: [x[3] for x in t if x[1] == owner]
            ),
            Query(
                f"SELECT * FROM things WHERE value < {value}", "things", lambda t, p: [x[3] for x in t if x[2] < value]
            ),
            Query(
                f"SELECT * FROM things WHERE owner = {owner} AND NOT (value >= {value})",
                "things",
                lambda t, p: [x[3] for x in t if x[1] == owner and x[2] < value],
            ),
            Query(
                f"SELECT * FROM things WHERE id = {value}", "things", lambda t, p: [x[3] for x in t if x[0] == value]
            ),
            Query(
                f"SELECT things.* FROM things JOIN places ON things.id = places.id WHERE places.chunk = {chunk}",
                "things",
                lambda t, p: [x[3] for x in t if x[0] in p and p[x[0]][0] == chunk],
            ),
            Query(
                f"SELECT places.* FROM things JOIN places ON things.id = places.id WHERE things.owner = {owner}",
                "places",
                lambda t, p: [p[x[0]][1] for x in t if x[1] == owner and x[0] in p],
            ),
        ]
    )


class SoakClient:
    """One connection with its query sets."""

    def __init__(self, url: str, seed: int, protocol: str, database: str = "churn") -> None:
        self.draw = random.Random(seed)
        self.client = SessionClient(url, database, [protocol], "compression=None&confirmed=false")
        self.sets: dict[int, list[Query]] = {}
        self.bags: dict[int, Bag] = {}
        self.waiting: set[int] = set()
        """Query sets that were asked for and have not come."""
        self.next_set = 1
        self.next_request = 1
        self.answered = 0
        self.applied = 0
        self.updates = 0
        self.take(self.client.receive())

    def take(self, message: Received) -> None:
        """Follows one message."""
        match message:
            case v2.SubscribeApplied(_, number, tables):
                self.applied += 1
                self.waiting.discard(number)
                bag = self.bags[number] = Counter()
                for table in tables:
                    bag.update((table.table, row) for row in table.rows.rows())
            case v2.TransactionUpdate(sets):
                self.updates += 1
                self.follow(sets)
            case v2.ReducerResult(_, _, outcome):
                self.answered += 1
                if isinstance(outcome, v2.Ok):
                    self.follow(outcome.query_sets)
                assert isinstance(outcome, v2.Ok | v2.OkEmpty), outcome
            case v2.UnsubscribeApplied(_, number, dropped):
                bag = self.bags.pop(number)
                if dropped is not None:
                    assert Counter((table.table, row) for table in dropped for row in table.rows.rows()) == bag
            case v2.SubscriptionError(_, _, error):
                raise AssertionError(error)

    def follow(self, sets: Iterable[v2.QuerySetUpdate]) -> None:
        """The changes of one transaction: all together must leave no count below 0."""
        for update in sets:
            bag = self.bags[update.query_set_id]
            gone: set[tuple[str, bytes]] = set()
            for table in update.tables:
                for rows in table.rows:
                    assert isinstance(rows, v2.PersistentRows)
                    bag.update((table.table, row) for row in rows.inserts.rows())
                    deleted = [(table.table, row) for row in rows.deletes.rows()]
                    bag.subtract(deleted)
                    gone.update(deleted)
            for key in gone:
                count = bag[key]
                assert count >= 0, f"{key} was deleted more often than it was there"
                if not count:
                    del bag[key]

    def step(self) -> None:
        """Subscribes or unsubscribes, then takes what comes for a moment."""
        if len(self.sets) < SETS_PER_CLIENT and self.draw.random() < 0.7:
            number = self.next_set
            self.next_set += 1
            queries = {query.text: query for query in (draw_query(self.draw) for _ in range(self.draw.randint(1, 3)))}
            self.sets[number] = list(queries.values())
            self.waiting.add(number)
            self.client.send(v2.subscribe(self.request(), number, list(queries)))
        elif self.sets and self.draw.random() < 0.5:
            number = self.draw.choice(list(self.sets))
            if number not in self.waiting:
                del self.sets[number]
                self.client.send(v2.unsubscribe(self.request(), number, self.draw.random() < 0.5))
        self.drain(self.draw.random() * 0.2)

    def request(self) -> int:
        """A new request id."""
        self.next_request += 1
        return self.next_request

    def drain(self, seconds: float) -> None:
        """Takes what comes in this time."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                self.take(self.client.receive(left))
            except TimeoutError:
                return

    def settle(self) -> None:
        """Takes everything that was sent until now."""
        wanted = self.answered + 1
        self.client.send(v2.call_reducer(self.request(), "nothing", b""))
        deadline = time.monotonic() + PATIENCE_S
        while self.answered < wanted:
            self.take(self.client.receive(max(deadline - time.monotonic(), 0.001)))
        assert not self.waiting


class Soak:
    """A run against one server that has the module `churn`."""

    def __init__(self, url: str, clients: int, writers: int, seed: int) -> None:
        protocols = ("v2.bsatn.spacetimedb", "v3.bsatn.spacetimedb")
        self.clients = [SoakClient(url, seed * 1000 + n, protocols[n % 2]) for n in range(clients)]
        self.writers = [SoakClient(url, seed * 1000 + 500 + n, protocols[0]) for n in range(writers)]
        self.errors: list[BaseException] = []
        self.stopping = threading.Event()
        self.writing = True

    def run(self, seconds: float) -> dict[str, int]:
        """Runs, compares, gives figures. Raises AssertionError."""
        reading = [threading.Thread(target=self.guard, args=(self.read, client)) for client in self.clients]
        writing = [threading.Thread(target=self.guard, args=(self.write, client)) for client in self.writers]
        for thread in (*reading, *writing):
            thread.start()
        self.stopping.wait(seconds)
        self.writing = False
        for thread in writing:
            thread.join()
        self.stopping.set()
        for thread in reading:
            thread.join()
        if self.errors:
            raise self.errors[0]
        self.compare()
        return {
            "transactions": sum(client.answered for client in self.writers),
            "updates": sum(client.updates for client in self.clients),
            "subscriptions": sum(client.applied for client in self.clients),
            "sets": sum(len(client.sets) for client in self.clients),
        }

    def guard(self, work: Callable[[SoakClient], None], client: SoakClient) -> None:
        """Runs a client's part; the first failure ends everybody's."""
        try:
            work(client)
        except BaseException as error:
            self.errors.append(error)
            self.writing = False
            self.stopping.set()

    def read(self, client: SoakClient) -> None:
        """A subscriber: goes on until the writers have ended."""
        while not self.stopping.is_set():
            client.step()
        client.settle()

    def write(self, client: SoakClient) -> None:
        """A writer: one transaction after the other."""
        while self.writing:
            args = struct.pack("<II", client.draw.getrandbits(32), client.draw.randint(1, CHANGES))
            client.client.send(v2.call_reducer(client.request(), "churn", args))
            client.take(client.client.receive())
            time.sleep(client.draw.random() * 0.02)

    def compare(self) -> None:
        """Every bag is what the queries of its set give over the tables now."""
        tables: dict[str, list[bytes]] = {}
        asking = self.writers[0]
        for name in ("things", "places"):
            asking.client.send(v2.one_off_query(asking.request(), f"SELECT * FROM {name}"))
            answer = asking.client.receive()
            assert isinstance(answer, v2.OneOffQueryResult)
            assert answer.tables is not None
            tables[name] = answer.tables[0].rows.rows()
        things = [(*struct.unpack_from("<III", row), row) for row in tables["things"]]
        places = {number: (chunk, row) for row in tables["places"] for number, chunk in [struct.unpack("<II", row)]}
        for client in self.clients:
            assert client.bags.keys() == client.sets.keys()
            for number, queries in client.sets.items():
                wanted = Counter((query.table, row) for query in queries for row in query.rows(things, places))
                texts = [query.text for query in queries]
                assert client.bags[number] == wanted, f"stale rows in {texts}"

    def close(self) -> None:
        """Leaves."""
        for client in (*self.clients, *self.writers):
            client.client.drop()


def official_client(
    server: ServerProcess, database: str, seconds: float, clients: int, writers: int, seed: int
) -> dict[str, int]:
    """A run with the official client against a database with the module `churn`. Raises AssertionError."""
    numbers = {"seconds": seconds, "clients": clients, "writers": writers, "seed": seed}
    options = [f"--{name}={value}" for name, value in numbers.items()]
    command = ["node", "builder_soak.mjs", "--url", server.ws_url, "--db", database, *options]
    run = subprocess.run(command, cwd=NPM, capture_output=True, text=True, timeout=seconds + 120)
    assert not run.returncode, run.stderr or run.stdout
    figures: dict[str, int] = json.loads(run.stdout)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--official", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="spacetimedb-soak-") as folder:
        server = ServerProcess(Path(folder)).start()
        try:
            server.publish(SAMPLES / "churn.py", "churn")
            print(f"seed {options.seed}", flush=True)
            numbers = options.clients, options.writers, options.seed
            if options.official:
                figures = official_client(server, "churn", options.seconds, *numbers)
            else:
                soak = Soak(server.base_url, *numbers)
                figures = soak.run(options.seconds)
                soak.close()
            print(", ".join(f"{value} {name}" for name, value in figures.items()))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
