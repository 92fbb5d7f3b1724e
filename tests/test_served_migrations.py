"""A program is published over another, with clients: what they see, who is closed, what a restart finds."""

from __future__ import annotations

import struct
from typing import Any

import pytest
import trio
from conftest import ServerFactory
from patience import PATIENCE_S
from server_process import RequestFailed, ServerProcess

from spacetimedb.cli.session import Session, SessionLost, open_session
from spacetimedb.protocol import v2_client as v2

HEAD = """
import enum
from spacetimedb import *
m = Module()
"""
PERSON = """
@m.table(public=True)
class Person(Row):
    id: Pk[u64] = auto_inc()
    name: str

@m.reducer
def add(ctx: ReducerContext, name: str) -> None:
    ctx.db[Person].insert(Person(name=name))
"""
WIDE_PERSON = PERSON.replace("    name: str\n\n", "    name: str\n    age: u32 = default(18)\n\n")
VISIT = """
@m.table(public=True)
class Visit(Row):
    at: Pk[u64] = auto_inc()
    what: str

@m.client_disconnected
def gone(ctx: ReducerContext) -> None:
    ctx.db[Visit].insert(Visit(what="gone"))
"""
MOOD = """
class Mood(enum.IntEnum):
    BAD = 0
    GOOD = 1

@m.table(public=True)
class Thing(Row):
    id: Pk[u64]
    mood: Mood
    name: str

@m.reducer
def make(ctx: ReducerContext, id: u64, mood: u8, name: str) -> None:
    ctx.db[Thing].insert(Thing(id=id, mood=Mood(mood), name=name))
"""
MORE_MOODS = MOOD.replace("    GOOD = 1\n", "    GOOD = 1\n    FINE = 2\n")


def publish(server: ServerProcess, name: str, program: str, *, break_clients: bool = False) -> Any:
    query = None
    if break_clients:
        plan = server.request("POST", f"/v1/database/{name}/pre_publish", program.encode()).json()["AutoMigrate"]
        query = {"policy": "BreakClients", "token": plan["token"]}
    return server.request("PUT", f"/v1/database/{name}", program.encode(), query=query).json()


async def next_update(session: Session) -> v2.TransactionUpdate:
    with trio.fail_after(PATIENCE_S):
        while True:
            for message in await session.receive():
                if isinstance(message, v2.TransactionUpdate):
                    return message


async def subscribe(session: Session, *queries: str) -> None:
    await session.send(v2.subscribe(session.next_request(), 1, list(queries)))
    with trio.fail_after(PATIENCE_S):
        applied = [m for m in await session.receive() if isinstance(m, v2.SubscribeApplied)]
    assert applied


async def to_the_end(session: Session) -> tuple[list[object], str]:
    """All messages until the server closes, and why it does."""
    found: list[object] = []
    with trio.fail_after(PATIENCE_S):
        try:
            while True:
                found += await session.receive()
        except SessionLost as end:
            return found, str(end)


def test_clients_stay(server: ServerProcess) -> None:
    """Tables come, columns grow, access changes: subscriptions go on, new tables can be used at once."""
    publish(server, "mig-stay", HEAD + PERSON + MOOD)

    async def run() -> None:
        async with open_session(server.base_url, "mig-stay") as session:
            await subscribe(session, "SELECT * FROM person", "SELECT * FROM thing WHERE name = 'x'")
            program = HEAD + PERSON + MORE_MOODS + VISIT
            await trio.to_thread.run_sync(publish, server, "mig-stay", program)
            await session.send(v2.subscribe(session.next_request(), 2, ["SELECT * FROM visit"]))
            with trio.fail_after(PATIENCE_S):
                assert any(isinstance(m, v2.SubscribeApplied) for m in await session.receive())
            await trio.to_thread.run_sync(server.call, "mig-stay", "make", 1, 2, "y")
            await trio.to_thread.run_sync(server.call, "mig-stay", "make", 2, 2, "x")
            row = struct.pack("<QBI", 2, 2, 1) + b"x"
            while row not in rows_in(update := await next_update(session)):
                assert b"y" not in rows_in(update)
            await trio.to_thread.run_sync(publish, server, "mig-stay", program.replace("public=True", "public=False"))
            await trio.to_thread.run_sync(server.call, "mig-stay", "add", "Ann")
            while b"Ann" not in rows_in(await next_update(session)):
                pass

    trio.run(run)


def rows_in(update: v2.TransactionUpdate) -> bytes:
    """All row bytes of an update."""
    blocks = [block for those in update.query_sets for table in those.tables for block in table.rows]
    lists = [
        rows
        for block in blocks
        for rows in ((block.inserts, block.deletes) if isinstance(block, v2.PersistentRows) else (block.events,))
    ]
    return b"|".join(rows.data for rows in lists)


@pytest.mark.parametrize("readers", [1, 2])
def test_clients_are_closed(start_server: ServerFactory, readers: int) -> None:
    server = start_server(readers=readers)
    first, second = HEAD + PERSON, HEAD + WIDE_PERSON + VISIT
    publish(server, "mig", first)
    server.call("mig", "add", "Ann")
    server.call("mig", "add", "Bob")
    with pytest.raises(RequestFailed, match="400: Failed to create or update the database: Migration plan contains"):
        publish(server, "mig", second)
    ends: list[tuple[list[object], str]] = []

    async def watch(number: int, ready: trio.Event) -> None:
        async with open_session(server.base_url, "mig", confirmed=bool(number % 2)) as session:
            await subscribe(session, "SELECT * FROM person")
            ready.set()
            ends.append(await to_the_end(session))

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(6):
                ready = trio.Event()
                nursery.start_soon(watch, number, ready)
                await ready.wait()
            await trio.to_thread.run_sync(lambda: publish(server, "mig", second, break_clients=True))

    trio.run(run)
    assert len(ends) == 6
    for messages, reason in ends:
        assert "module exited" in reason
        assert not [message for message in messages if isinstance(message, v2.TransactionUpdate)]
    expected = [[1, "Ann", 18], [2, "Bob", 18]]
    assert sorted(server.sql("mig", "SELECT * FROM person")) == expected
    assert [row[1] for row in server.sql("mig", "SELECT * FROM visit")].count("gone") >= 6
    server.kill()
    server.start()
    assert sorted(server.sql("mig", "SELECT * FROM person")) == expected
    server.call("mig", "add", "Cid")
    assert sorted(server.sql("mig", "SELECT * FROM person"))[-1][1:] == ["Cid", 18]


def test_refused_at_execution(server: ServerProcess) -> None:
    """Nothing happens, and the old program goes on."""
    publish(server, "mig-refused", HEAD + PERSON)
    server.call("mig-refused", "add", "Ann")
    server.call("mig-refused", "add", "Ann")
    with pytest.raises(RequestFailed) as refusal:
        publish(server, "mig-refused", HEAD + PERSON.replace("    name: str\n\n", "    name: Unique[str]\n\n"))
    assert refusal.value.status == 400
    assert refusal.value.text == (
        "Failed to create or update the database: DatastoreError: IndexError: Unique constraint violation "
        "'person_name_idx_btree' in table 'person': column(s): '[\"name\"]' value: \"Ann\""
    )
    server.call("mig-refused", "add", "Ann")
    assert len(server.sql("mig-refused", "SELECT * FROM person")) == 3


PLACE = """
@m.table(public=True)
class Place(Row):
    id: Pk[u64]
    person: u64
    chunk: u32

@m.reducer
def put(ctx: ReducerContext, id: u64, person: u64, chunk: u32) -> None:
    ctx.db[Place].id.upsert(Place(id=id, person=person, chunk=chunk))
"""
INDEXED = PLACE.replace("person: u64\n    chunk: u32\n\n", "person: Index[u64]\n    chunk: Index[u32]\n\n")
JOIN = "SELECT person.* FROM place JOIN person ON place.person = person.id WHERE place.chunk = 1"
BACK = "SELECT place.* FROM person JOIN place ON person.id = place.person WHERE person.name = 'Ann'"
TWO = "SELECT * FROM place WHERE person = 1 AND chunk = 1"


def test_indexes_come_and_go_under_live_queries(server: ServerProcess) -> None:
    """What live queries give does not change; new ones, and plans, are those of the program that runs."""
    publish(server, "mig-index", HEAD + PERSON + INDEXED)
    server.call("mig-index", "add", "Ann")

    async def run() -> None:
        async with open_session(server.base_url, "mig-index") as session:
            await subscribe(session, JOIN, BACK, TWO, "SELECT * FROM place")
            for number, program in enumerate((INDEXED, PLACE, INDEXED, PLACE)):
                is_indexed = program == INDEXED
                await trio.to_thread.run_sync(publish, server, "mig-index", HEAD + PERSON + program)
                # The person comes and goes with the chunk of its place.
                for chunk, changes in ((1, True), (2, True), (3, False)):
                    await trio.to_thread.run_sync(server.call, "mig-index", "put", 7, 1, chunk)
                    found = await next_update(session)
                    assert (b"Ann" in rows_in(found)) == changes
                    blocks = [len(table.rows) for those in found.query_sets for table in those.tables]
                    # Place: both queries of places and, while the chunk is 1 or was, the one over two columns.
                    assert sum(blocks) == (4 if changes else 2)
                plan = await trio.to_thread.run_sync(server.sql, "mig-index", f"EXPLAIN {TWO}")
                assert plan[0][0] == ("look up" if is_indexed else "scan")
                await session.send(v2.subscribe(session.next_request(), 100 + number, [BACK]))
                with trio.fail_after(PATIENCE_S):
                    (answer,) = await session.receive()
                assert isinstance(answer, v2.SubscribeApplied if is_indexed else v2.SubscriptionError)
                if isinstance(answer, v2.SubscribeApplied):
                    await session.send(v2.unsubscribe(session.next_request(), 100 + number))
                    await session.receive()
                else:
                    assert "Subscriptions require indexes on join columns" in answer.error

    trio.run(run)


SPLIT = """
class OldPerson(Row):
    id: Pk[u64]
    name: str

@m.table(public=True)
class Person(Row):
    first: str
    id: Pk[u64] = auto_inc()

@m.migration("person", OldPerson)
def first_names(ctx: ReducerContext, old: OldPerson) -> None:
    ctx.db[Person].insert(Person(id=old.id, first=old.name.partition(" ")[0]))

@m.reducer
def add(ctx: ReducerContext, name: str) -> None:
    ctx.db[Person].insert(Person(first=name))
"""


def test_rows_go_through_a_function(start_server: ServerFactory) -> None:
    server = start_server(readers=1)
    publish(server, "mig-rows", HEAD + PERSON)
    server.call("mig-rows", "add", "Ann Lee")
    server.call("mig-rows", "add", "Bob Ray")
    ends: list[tuple[list[object], str]] = []

    async def run() -> None:
        async with open_session(server.base_url, "mig-rows") as session:
            await subscribe(session, "SELECT * FROM person")
            broken = HEAD + SPLIT.replace('partition(" ")[0]', 'partition(" ")[3]')
            with pytest.raises(RequestFailed, match=r"first_names failed for OldPerson.*IndexError"):
                await trio.to_thread.run_sync(lambda: publish(server, "mig-rows", broken, break_clients=True))
            await trio.to_thread.run_sync(lambda: publish(server, "mig-rows", HEAD + SPLIT, break_clients=True))
            ends.append(await to_the_end(session))

    trio.run(run)
    messages, reason = ends[0]
    assert "module exited" in reason
    assert not [message for message in messages if isinstance(message, v2.TransactionUpdate)]
    expected = [["Ann", 1], ["Bob", 2]]
    assert sorted(server.sql("mig-rows", "SELECT * FROM person")) == expected
    columns = server.sql("mig-rows", "SELECT col_name FROM st_column WHERE table_id >= 4096")
    assert columns == [["first"], ["id"]]
    server.kill()
    server.start()
    assert sorted(server.sql("mig-rows", "SELECT * FROM person")) == expected
    server.call("mig-rows", "add", "Cid")
    assert sorted(server.sql("mig-rows", "SELECT * FROM person"))[-1][0] == "Cid"
