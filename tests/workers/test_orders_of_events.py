"""What happens at a reader in random order: calls, subscriptions that come and go, clients that leave in the middle,
programs that change, all of it between any two of the small steps that make up its work. At the end every client has
the rows that its queries give, and when all have left nothing is kept."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from random import Random

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from link_rig import OWNER, Bag, Rig, RigClient

from spacetimedb.hosts import refs_copies, row_lookups
from spacetimedb.sql.catalog import SchemaCatalog
from spacetimedb.sql.execute import execute_select
from spacetimedb.sql.plan import plan_subscription
from spacetimedb.subscriptions import large_rows, large_tables
from spacetimedb.workers.reader import large_answers, live_rows, lookups
from spacetimedb.workers.reader.client import OPEN

HEAD = """
from typing import Annotated
from spacetimedb import *
m = Module()

class Low(Struct):
    a: u32

class High(Struct):
    b: u64

class Some(Struct):
    c: u32
"""
REST = """
@m.table(public=True)
class Things(Row):
    kind: Kind
    name: str
    id: Pk[u32]
    owner: Index[u32]

@m.table(public=True)
class Places(Row):
    kind: Kind
    id: Pk[u32]
    chunk: CHUNK

@m.table(public=True)
class Notes(Row):
    id: Pk[u32]
    who: Identity

m.row_filter("SELECT * FROM notes WHERE who = :sender")

@m.view
def first_notes(ctx: AnonymousViewContext) -> list[Notes]:
    return [note for note in ctx.db[Notes].iter() if note.id < 9]

def kind_of(c: u32) -> Kind:
    return [lambda: Low(a=c), lambda: High(b=c), lambda: Some(c=c)][c % KINDS]()

@m.reducer
def put(ctx: ReducerContext, id: u32, owner: u32, c: u32) -> None:
    row = Things(kind=kind_of(c), name="n" * (c % 3), id=id, owner=owner)
    if ctx.db[Things].id.find(id):
        ctx.db[Things].id.update(row)
    else:
        ctx.db[Things].insert(row)

@m.reducer
def take(ctx: ReducerContext, id: u32, _a: u32, _b: u32) -> None:
    ctx.db[Things].id.delete(id)

@m.reducer
def move(ctx: ReducerContext, id: u32, chunk: u32, c: u32) -> None:
    ctx.db[Places].id.delete(id)
    ctx.db[Places].insert(Places(kind=kind_of(c), id=id, chunk=chunk))

@m.reducer
def note(ctx: ReducerContext, id: u32, _a: u32, _b: u32) -> None:
    ctx.db[Notes].id.delete(id)
    ctx.db[Notes].insert(Notes(id=id, who=ctx.sender))
"""


def program(kinds: int, has_index: bool) -> str:
    names = " | ".join(("Low", "High", "Some")[:kinds])
    rest = REST.replace("KINDS", str(kinds)).replace("CHUNK", "Index[u32]" if has_index else "u32")
    return f'{HEAD}\nKind = Annotated[{names}, Sum("Kind")]\n{rest}'


PROGRAMS = [program(2, True), program(2, False), program(3, False), program(3, True)]
IDS, OWNERS, CHUNKS = 24, 3, 3
JOIN = "JOIN places ON things.id = places.id WHERE"
TEXTS = [
    "SELECT * FROM things",
    "SELECT * FROM places",
    "SELECT * FROM notes",
    "SELECT * FROM first_notes",
    *[f"SELECT * FROM things WHERE owner = {owner}" for owner in range(OWNERS)],
    "SELECT * FROM things WHERE id = 3",
    "SELECT * FROM things WHERE id > 7",
    *[f"SELECT things.* FROM things {JOIN} places.chunk = {chunk}" for chunk in range(CHUNKS)],
    *[f"SELECT places.* FROM things {JOIN} places.chunk = {chunk}" for chunk in range(CHUNKS)],
    f"SELECT places.* FROM things {JOIN} things.owner = 1",
    f"SELECT things.* FROM things {JOIN} places.id = 3",
    f"SELECT places.* FROM things {JOIN} things.id = 4",
    f"SELECT things.* FROM things {JOIN} places.chunk = 1 AND things.owner = 1",
]
VIEW = ("SELECT * FROM first_notes", "SELECT * FROM notes WHERE id < 9")
"""With a query that gives the same rows to the owner."""
ONE_OFFS = ["SELECT COUNT(*) AS n FROM things", "SELECT * FROM places LIMIT 3", TEXTS[0], TEXTS[-1]]
NAMES = ["put", "put", "take", "move", "move", "move", "note", "note"]


class Committed:
    """The rows of the actor's tables, as queries read them."""

    def __init__(self, rig: Rig) -> None:
        self._tables = rig.actor.database.store.tables

    def rows(self, table_id: int) -> list[bytes]:
        return self._tables[table_id].images()

    def row_count(self, table_id: int) -> int:
        return self._tables[table_id].row_count

    def find(self, table_id: int, column: int, key: bytes) -> None:
        return None


class Play:
    """One run. `clients`: with the texts of their query sets."""

    def __init__(self, seed: int, has_programs: bool) -> None:
        self.draw = draw = Random(seed)
        self.rig = Rig(PROGRAMS[0])
        self.clients: dict[RigClient, dict[int, list[str]]] = {}
        self.program = 0
        self.next_set = 1
        self.steps: list[Callable[[], object]] = [
            *[self.call] * 8,
            *[self.overtake] * 3,
            *[self.subscribe] * 3,
            self.unsubscribe,
            self.ask,
            *[self.turn_actor] * 4,
            *[self.publish] * 4,
            *[self.pump] * 8,
            *[self.slice] * 8,
            *[self.rig.actor.make_durable] * 2,
            self.come,
            self.leave,
            self.wait,
            *[self.change_program] * has_programs,
        ]
        for _ in range(3):
            self.come()
        for _ in range(draw.choice((0, 40))):
            self.overtake()

    def client(self) -> RigClient | None:
        open_ones = [client for client in self.clients if client.client.state == OPEN]
        return self.draw.choice(open_ones) if open_ones else None

    def come(self) -> None:
        if len(self.clients) < 6:
            owner, confirmed = self.draw.random() < 0.6, self.draw.random() < 0.4
            self.clients[self.rig.client(owner=owner, confirmed=confirmed)] = {}

    def leave(self) -> None:
        if (client := self.client()) is not None and len(self.clients) > 1:
            if self.draw.random() < 0.5:
                self.rig.lane.drop(client.client)
            else:
                client.lose()
            del self.clients[client]

    def _arguments(self) -> tuple[str, bytes]:
        draw = self.draw
        return draw.choice(NAMES), struct.pack(
            "<III", draw.randrange(IDS), draw.randrange(3), draw.randrange(900, 1100)
        )

    def call(self) -> None:
        if (client := self.client()) is not None:
            client.call(*self._arguments())

    def overtake(self) -> None:
        self.rig.actor.overtake(*self._arguments())

    def subscribe(self) -> None:
        if (client := self.client()) is not None:
            number = self.next_set = self.next_set + 1
            texts = self.draw.sample(TEXTS, self.draw.choice((1, 1, 1, 2, 3)))
            self.clients[client][number] = texts
            client.subscribe(number, *texts)

    def unsubscribe(self) -> None:
        if (client := self.client()) is not None and self.clients[client]:
            number = self.draw.choice(list(self.clients[client]))
            del self.clients[client][number]
            client.unsubscribe(number, self.draw.random() < 0.6)

    def ask(self) -> None:
        if (client := self.client()) is not None:
            client.ask(self.draw.choice(ONE_OFFS))

    def turn_actor(self) -> None:
        self.rig.link.post()
        self.rig.actor.turn()

    def publish(self) -> None:
        self.rig.actor.publish()

    def pump(self) -> None:
        self.rig.link.pump()
        self.rig.link.outbox.flush()

    def slice(self) -> None:
        self.rig.slice()

    def wait(self) -> None:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        clock.jump(self.draw.choice((4, 11)))
        self.rig.link.tables.forget_unused()

    def change_program(self) -> None:
        if self.draw.random() < 0.4:
            self.program = self.draw.choice((0, 1, 2, 3) if self.program < 2 else (2, 3))
            self.rig.actor.run_program(PROGRAMS[self.program])

    def settle(self) -> None:
        quiet = turns = 0
        while quiet < 10:
            self.rig.turn()
            self.rig.actor.make_durable()
            is_busy = self.rig.link.lookups.is_pausing or any(client.client.deferred for client in self.clients)
            quiet = 0 if is_busy else quiet + 1
            turns += 1
            assert turns < 1000, "somebody waits for nothing"

    def compare(self) -> None:
        database = self.rig.actor.database
        for client, sets in self.clients.items():
            client.take()
            assert not client.is_closed
            assert not client.client.deferred
            assert client.bags.keys() == sets.keys()
            for number, texts in sets.items():
                wanted: Bag = Counter()
                for text in texts:
                    is_view = text == VIEW[0]
                    caller = OWNER if is_view else client.client.identity
                    catalog = SchemaCatalog(database.definition, database.table_ids, owner=caller == OWNER)
                    plan = plan_subscription(VIEW[1] if is_view else text, catalog, caller)
                    name = "first_notes" if is_view else plan.table.name
                    wanted.update((name, row) for row in execute_select(plan, Committed(self.rig)).rows)
                assert client.bags[number] == wanted, texts

    def end(self) -> None:
        """All leave; nothing is kept."""
        link = self.rig.link
        for client in link.all_clients():
            self.rig.lane.drop(client)
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        for _ in range(4):
            self.settle()
            clock.jump(30)
            link.tables.forget_unused()
        assert not link.subscriptions.tables
        assert not link.tables.known
        assert not link.subscriptions.live.has_partial_joins
        assert link.views.statistics() == {"instances": 0, "requested": 0}
        assert not link.lookups._asked
        assert not link.lookups._pages
        assert not link.lookups.is_used
        assert link.subscriptions.statistics()["clients"] == 0
        assert link.subscriptions.query_count == 0
        assert not link.clients
        assert not self.rig.lane.slices._jobs
        assert len(self.rig.actor.database.clients) == 1


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 1 << 32), st.booleans(), st.integers(50, 250))
def test_any_order(seed: int, has_programs: bool, steps: int) -> None:
    async def run() -> None:
        play = Play(seed, has_programs)
        for _ in range(steps):
            play.draw.choice(play.steps)()
        play.settle()
        play.compare()
        play.end()

    with pytest.MonkeyPatch.context() as patch:
        for module in (row_lookups, large_tables, lookups, large_answers):
            patch.setattr(module, "LARGE_TABLE", 8)
        patch.setattr(refs_copies, "PIECE_REFS", 4)
        patch.setattr(large_rows, "ROWS_PER_PART", 4)
        patch.setattr(live_rows, "PIECE", 4)
        patch.setattr(large_answers, "JOINED_ROWS", 4)
        patch.setattr(lookups, "PAUSES_BEFORE_INDEX", 3)
        trio.run(run, clock=trio.testing.MockClock())
