"""A reader pauses in front of a commit, because a join needs rows that it does not know, and meanwhile the program
changes, tables vanish, or the ring brings more than it holds: what clients have is exact all the same."""

from __future__ import annotations

import struct

import pytest
from link_rig import Rig, RigClient

from spacetimedb.hosts import row_lookups
from spacetimedb.protocol.v2_client import TransactionUpdate
from spacetimedb.subscriptions import large_tables
from spacetimedb.workers.reader import lookups
from spacetimedb.workers.reader.client import OPEN

HEAD = """
from typing import Annotated
from spacetimedb import *
m = Module()

class Low(Struct):
    a: u32

class High(Struct):
    b: u64
"""
KIND = """
Kind = Annotated[Low | High, Sum("Kind")]
"""
MORE_KINDS = """
class Some(Struct):
    c: u32

Kind = Annotated[Low | High | Some, Sum("Kind")]

@m.reducer
def touch(ctx: ReducerContext, id: u32, c: u32) -> None:
    ctx.db[Things].id.update(Things(kind=Some(c=c), name="n", title="t", id=id))

@m.reducer
def shift(ctx: ReducerContext, id: u32, chunk: u32, c: u32) -> None:
    ctx.db[Places].id.update(Places(kind=Some(c=c), name="n", title="t", id=id, chunk=chunk))
"""
THINGS = """
@m.table(public=True)
class Things(Row):
    kind: Kind
    name: str
    title: str
    id: Pk[u32]
"""
PLACES = """
@m.table(public=True)
class Places(Row):
    kind: Kind
    name: str
    title: str
    id: Pk[u32]
    chunk: Index[u32]
"""
REDUCERS = """
@m.reducer
def fill(ctx: ReducerContext, count: u32) -> None:
    for number in range(count):
        ctx.db[Things].insert(Things(kind=Low(a=number), name="", title="", id=number))
        ctx.db[Places].insert(Places(kind=High(b=number), name="", title="", id=number, chunk=number // 4))

@m.reducer
def move(ctx: ReducerContext, id: u32, chunk: u32) -> None:
    place = ctx.db[Places].id.find(id)
    ctx.db[Places].id.update(Places(kind=place.kind, name="", title="", id=id, chunk=chunk))

@m.reducer
def clear(ctx: ReducerContext) -> None:
    ctx.db[Things].clear()
"""
PROGRAM = HEAD + KIND + THINGS + PLACES + REDUCERS
GROWN = HEAD + MORE_KINDS + THINGS + PLACES + REDUCERS
WITHOUT_THINGS = HEAD + KIND + PLACES
JOIN = "SELECT things.* FROM things JOIN places ON things.id = places.id WHERE places.chunk = 0"


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (row_lookups, large_tables, lookups):
        monkeypatch.setattr(module, "LARGE_TABLE", 4)


def call(client: RigClient, name: str, *args: int) -> None:
    client.call(name, struct.pack(f"<{len(args)}I", *args))


def overtake(rig: Rig, name: str, *args: int) -> None:
    rig.actor.overtake(name, struct.pack(f"<{len(args)}I", *args))


def subscribed() -> tuple[Rig, RigClient, RigClient]:
    rig = Rig(PROGRAM)
    caller, reader = rig.client(), rig.client()
    call(caller, "fill", 20)
    rig.turn()
    reader.subscribe(1, JOIN)
    for _ in range(4):
        rig.turn()
    reader.take()
    assert len(reader.bags[1]) == 4
    assert not rig.link.tables.known
    return rig, caller, reader


def rows_of(update: TransactionUpdate, side: str) -> int:
    """How many rows it inserts or deletes."""
    tables = [table for one in update.query_sets for table in one.tables]
    return sum(len(getattr(rows, side).rows()) for table in tables for rows in table.rows)


def settle(rig: Rig, reader: RigClient) -> None:
    for _ in range(4):
        rig.turn()
    assert not rig.link.lookups.is_pausing
    reader.take()
    assert reader.bags[1] == reader.wanted(JOIN)


async def test_a_program_with_more_variants_comes_while_the_reader_pauses() -> None:
    rig, caller, reader = subscribed()
    call(caller, "move", 7, 0)
    rig.actor.turn()
    rig.publish()
    assert rig.link.lookups.is_pausing
    rig.actor.run_program(GROWN)
    rig.publish()
    overtake(rig, "touch", 7, 1000)
    overtake(rig, "touch", 7, 2000)
    overtake(rig, "shift", 9, 0, 1000)
    overtake(rig, "shift", 9, 0, 2000)
    settle(rig, reader)
    assert len(reader.bags[1]) == 6


async def test_a_program_with_more_variants_stands_behind_the_commit_that_the_reader_pauses_for() -> None:
    rig, caller, reader = subscribed()
    call(caller, "move", 7, 0)
    rig.actor.turn()
    rig.actor.run_program(GROWN)
    overtake(rig, "touch", 7, 1000)
    overtake(rig, "shift", 9, 0, 1000)
    overtake(rig, "shift", 9, 0, 2000)
    rig.publish()
    assert rig.link.lookups.is_pausing
    settle(rig, reader)
    assert len(reader.bags[1]) == 6


async def test_a_table_vanishes_while_the_reader_pauses() -> None:
    """The look-up is refused, but its rows are among the held records."""
    rig, caller, reader = subscribed()
    call(caller, "move", 7, 0)
    rig.actor.turn()
    rig.publish()
    assert rig.link.lookups.is_pausing
    overtake(rig, "clear")
    rig.actor.run_program(WITHOUT_THINGS, break_clients=True)
    assert "things" not in rig.actor.database.store.by_name
    for _ in range(4):
        rig.turn()
    assert not rig.link.lookups.is_pausing
    come, gone = [message for message in reader.take() if isinstance(message, TransactionUpdate)]
    assert rows_of(come, "inserts") == 1
    assert rows_of(gone, "deletes") == 5
    assert not reader.bags[1]


async def test_who_needs_a_look_up_that_does_not_come_is_dropped_and_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lookups, "MAX_HELD_BYTES", 8192)
    rig, caller, reader = subscribed()
    other = rig.client()
    other.subscribe(1, "SELECT * FROM places WHERE chunk = 0")
    for _ in range(3):
        rig.turn()
    call(caller, "move", 7, 0)
    rig.actor.turn()
    rig.publish()
    turns = 0
    while rig.link.lookups.is_pausing:
        overtake(rig, "move", 9, turns % 2)
        rig.publish()
        turns += 1
        assert turns < 100
        assert reader.client.state == OPEN or not rig.link.lookups.is_pausing
    assert turns > 10
    reader.take()
    assert reader.is_closed
    assert reader.client.cause == "too_slow"
    assert not rig.link.subscriptions.live.has_partial_joins
    overtake(rig, "move", 11, 0)
    for _ in range(3):
        rig.turn()  # the answer that came too late
    other.take()
    assert other.bags[1] == other.wanted("SELECT * FROM places WHERE chunk = 0")
    again = rig.client()
    again.subscribe(1, JOIN)
    settle(rig, again)
    assert len(again.bags[1]) == len(other.bags[1])
