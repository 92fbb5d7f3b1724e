"""Rows looked up by the keys of an index, as readers ask for them."""

from __future__ import annotations

import pytest

from spacetimedb import HashIndex, Identity, Index, Module, Pk, ReducerContext, Row, TestHost, Unique, u32
from spacetimedb.hosts import mail, row_lookups

m = Module()


@m.table(public=True)
class Player(Row):
    id: Pk[u32]
    name: Unique[str]
    who: Index[Identity]
    team: HashIndex[u32]
    score: u32 = 0


@m.reducer
def add(ctx: ReducerContext, count: u32) -> None:
    for number in range(count):
        ctx.db[Player].insert(Player(id=number, name=f"p{number}", who=ctx.sender, team=number % 3, score=number % 2))


ALICE = TestHost.identity("alice")
COLUMNS = {"id": 0, "name": 1, "who": 2, "team": 3, "score": 4}


@pytest.fixture
def host() -> TestHost:
    host = TestHost(m)
    host.connect(ALICE)
    host.call(ALICE, add, 10)
    return host


def look_up(host: TestHost, column: str, keys: list[bytes], whatever: bool) -> list[int] | None:
    """Ids of the players found, None if declined; through the request and the record."""
    database = host._database
    table = next(table for table in database.store.tables.values() if table.name == "player")
    request = mail.look_up(7, table.table_id, COLUMNS[column], keys, whatever)
    _, kind, flags, detail, _, number = mail.REQUEST_HEAD.unpack_from(request)
    assert kind == mail.LOOK_UP
    body = request[mail.REQUEST_HEAD.size : len(request) - (flags & 7)]
    record = row_lookups.answer(database, 3, number, body, detail == mail.WHATEVER)
    _, kind, _, reader, number, _, count, block = mail.LOOKED_UP_RECORD.unpack(record)
    assert (kind, reader, number) == (mail.LOOKED_UP, 3, 7)
    if not block:
        return None
    assert count == 10
    refs = memoryview(database.heap.row(block)).cast("Q")
    return sorted(int.from_bytes(row[:4], "little") for row in database.heap.rows(refs))


def key(number: int) -> bytes:
    return number.to_bytes(4, "little")


@pytest.mark.parametrize(
    ("column", "keys", "found"),
    [
        ("id", [key(4), key(99), key(2)], [2, 4]),
        ("name", [b"p3", b"", b"p9"], [3, 9]),
        ("who", [bytes(ALICE)], list(range(10))),
        ("who", [bytes(32)], []),
        ("team", [key(1), key(7)], [1, 4, 7]),
        ("score", [key(1)], [1, 3, 5, 7, 9]),
        ("id", [], []),
    ],
)
def test_rows_with_these_keys(host: TestHost, column: str, keys: list[bytes], found: list[int]) -> None:
    assert look_up(host, column, keys, True) == found


def test_declined(host: TestHost, monkeypatch: pytest.MonkeyPatch) -> None:
    assert look_up(host, "id", [key(4)], False) is None  # a small table
    monkeypatch.setattr(row_lookups, "LARGE_TABLE", 5)
    assert look_up(host, "id", [key(4)], False) == [4]
    assert look_up(host, "score", [key(1)], False) is None  # no index
    monkeypatch.setattr(row_lookups, "MAX_FOUND", 2)
    assert look_up(host, "team", [key(1)], False) is None  # too many
    assert look_up(host, "team", [key(1)], True) == [1, 4, 7]
