"""One-off queries over WebSocket that want some rows of a large table, or just their number, need not know its rows."""

from __future__ import annotations

import struct

import pytest
from link_rig import Rig, RigClient

from spacetimedb.hosts import row_lookups
from spacetimedb.protocol import v1
from spacetimedb.subscriptions import large_tables
from spacetimedb.workers.reader import large_answers, lookups
from spacetimedb.workers.reader.v1_clients import V1Client

PROGRAM = """
from spacetimedb import *
m = Module()

@m.table(public=True)
class Things(Row):
    id: Pk[u32]
    name: str

@m.table(public=True)
class Few(Row):
    id: Pk[u32]

@m.reducer
def fill(ctx: ReducerContext, first: u32, count: u32) -> None:
    for number in range(first, first + count):
        ctx.db[Things].insert(Things(id=number, name=f"n{number}"))

@m.reducer
def few(ctx: ReducerContext) -> None:
    ctx.db[Few].insert(Few(id=1))
"""


@pytest.fixture(autouse=True)
def ten_rows_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (row_lookups, large_tables, lookups, large_answers):
        monkeypatch.setattr(module, "LARGE_TABLE", 10)


def filled(owner: bool = True) -> tuple[Rig, RigClient, RigClient]:
    rig = Rig(PROGRAM)
    caller, asking = rig.client(), rig.client(owner=owner)
    caller.call("fill", struct.pack("<II", 0, 30))
    caller.call("few")
    rig.turn()
    return rig, caller, asking


def ids(client: RigClient, text: str) -> list[int]:
    tables = client.answer(text).tables
    assert tables is not None
    return [int.from_bytes(row[:4], "little") for row in tables[0].rows.rows()]


@pytest.mark.parametrize("owner", [True, False])
async def test_pages(owner: bool) -> None:
    rig, caller, asking = filled(owner)
    assert ids(asking, "SELECT * FROM things LIMIT 4") == [0, 1, 2, 3]
    assert ids(asking, "SELECT * FROM things LIMIT 4 OFFSET 28") == [28, 29]
    assert ids(asking, "SELECT COUNT(*) AS n FROM things") == [30]
    assert ids(asking, "SELECT * FROM things LIMIT 0") == []
    things = rig.link.catalog.table_ids["things"]
    assert things not in rig.link.tables.known
    assert ids(asking, "SELECT * FROM few LIMIT 4") == [1]  # a small table is refused, and then known
    assert ids(asking, "SELECT COUNT(*) AS n FROM few") == [1]
    assert len(ids(asking, "SELECT * FROM things")) == 30
    assert things in rig.link.tables.known
    assert ids(asking, "SELECT * FROM things LIMIT 4 OFFSET 2") == [2, 3, 4, 5]
    caller.call("fill", struct.pack("<II", 30, 2))
    rig.turn()
    assert ids(asking, "SELECT COUNT(*) AS n FROM things") == [32]
    assert asking.client.page is None
    assert not rig.link.lookups._pages


async def test_a_page_shows_the_calls_that_were_sent_before_and_none_sent_later() -> None:
    rig, _, asking = filled()
    for first in (30, 40):
        asking.call("fill", struct.pack("<II", first, 10))
        asking.ask("SELECT COUNT(*) AS n FROM things")
    for _ in range(4):
        rig.turn()
    counts = [table.rows.rows() for answer in asking.answers() for table in answer.tables or ()]
    assert counts == [[struct.pack("<Q", 40)], [struct.pack("<Q", 50)]]


async def test_who_leaves_while_a_page_comes_leaves_nothing_behind() -> None:
    rig, _, asking = filled()
    asking.ask("SELECT * FROM things LIMIT 4")
    rig.lane.drop(asking.client)
    rig.turn()
    assert not rig.link.lookups._pages
    assert not rig.link.clients.keys() & {asking.client.number}


async def test_v1() -> None:
    rig, _, _ = filled()
    client = rig.client(V1Client)
    rig.link.requests.receive(client.client, [v1.OneOffQuery(18, b"x", "SELECT COUNT(*) AS n FROM things")])
    for _ in range(3):
        rig.turn()
    assert struct.pack("<Q", 30) in client.payloads()[0]
    assert rig.link.catalog.table_ids["things"] not in rig.link.tables.known
