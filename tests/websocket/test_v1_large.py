"""Answers to v1 clients over tables that are read in pieces: complete, exact under changes, and nobody waits."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from server_process import SAMPLES, ServerProcess
from session_client import SessionClient
from soak import SoakClient
from test_v1 import binary
from v1_view import V1Message

from spacetimedb.protocol import v2_client as v2

DATABASE = "large-v1"
ROWS = 34_000
OWNERS = 50
THINGS = "SELECT * FROM things"
SOME = "SELECT * FROM things WHERE owner < 10"


class V1Client(SessionClient):
    """A connection of either form."""

    def __init__(self, server: ServerProcess, form: str) -> None:
        super().__init__(server.base_url, DATABASE, [f"v1.{form}.spacetimedb"], "compression=None&confirmed=false")
        self.is_text = form == "json"
        self.receive()


@pytest.fixture(scope="module")
def large(server: ServerProcess) -> ServerProcess:
    server.publish(SAMPLES / "rows.py", DATABASE)
    server.call(DATABASE, "populate", 0, ROWS, OWNERS)
    return server


@pytest.fixture(params=["bsatn", "json"])
def client(large: ServerProcess, request: pytest.FixtureRequest) -> Iterator[V1Client]:
    connection = V1Client(large, request.param)
    yield connection
    connection.drop()


def ask(client: V1Client, kind: str, **fields: Any) -> None:
    if client.is_text:
        fields = {name: value.hex() if isinstance(value, bytes) else value for name, value in fields.items()}
        client.send_text(json.dumps({kind: fields}))
    else:
        client.send(binary(kind, **fields))


def receive(client: V1Client) -> V1Message:
    message = client.receive(60)
    assert isinstance(message, V1Message)
    return message


def rows_of(rows: Any) -> list[tuple[int, ...]]:
    """The rows of a list, in either form."""
    if isinstance(rows, tuple):
        return list(struct.iter_unpack("<IIQq", rows[1]))
    found = [json.loads(text) for text in rows]
    return [tuple(row.values()) if isinstance(row, dict) else tuple(row) for row in found]


def changes(table: Any) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """(deletes, inserts) of a TableUpdate."""
    _id, name, count, updates = table
    assert name == "things"
    deletes, inserts = [], []
    for update in updates:
        one = update[1] if isinstance(update[0], int) else update
        deletes += rows_of(one[0])
        inserts += rows_of(one[1])
    assert count == len(deletes) + len(inserts)
    return deletes, inserts


def follow(client: V1Client, cache: dict[int, tuple[int, ...]], until: str) -> Any:
    """Follows updates up to the answer; a row that is deleted must be there as it is."""
    tags = {"InitialSubscription": 0, "SubscribeApplied": 5, "UnsubscribeApplied": 6, "OneOff": 4, "Multi": 8, "End": 9}
    while True:
        message = receive(client)
        if message.tag != 2:
            assert message.tag == tags[until], message.fields
            return message.fields
        for table in message.fields[1][0]:
            deletes, inserts = changes(table)
            for row in deletes:
                assert cache.pop(row[0]) == row
            cache.update({row[0]: row for row in inserts})


def state(server: ServerProcess, query: str) -> dict[int, tuple[int, ...]]:
    return {row[0]: tuple(row[:3]) for row in server.sql(DATABASE, query)}


def shown(cache: dict[int, tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
    return {key: row[:3] for key, row in cache.items()}


@pytest.mark.parametrize("query", [THINGS, SOME])
def test_subscriptions_under_changes(large: ServerProcess, client: V1Client, query: str) -> None:
    stop = threading.Event()
    writer = SoakClient(large.base_url, 1, "v2.bsatn.spacetimedb", DATABASE)
    writing = threading.Thread(target=touch, args=(writer, stop))
    writing.start()
    try:
        cache: dict[int, tuple[int, ...]] = {}
        ask(client, "SubscribeSingle", query=query, request_id=1, query_id={"id": 7})
        applied = follow(client, cache, "SubscribeApplied")
        assert applied[0] == 1
        deletes, inserts = changes(applied[3][2])
        assert not deletes
        cache.update({row[0]: row for row in inserts})
        assert len(cache) == len(inserts) == (ROWS if query == THINGS else ROWS // 5)
        ask(client, "OneOffQuery", message_id=b"\x01\x02", query_string=query)
        ((name, rows),) = follow(client, cache, "OneOff")[2]
        assert name == "things"
        assert {row[0]: row for row in rows_of(rows)} == cache
    finally:
        stop.set()
        writing.join()
        writer.client.drop()
    ask(client, "OneOffQuery", message_id=b"", query_string="SELECT COUNT(*) AS n FROM things WHERE value >= 0")
    assert follow(client, cache, "OneOff")[1] is None
    assert shown(cache) == state(large, query)
    ask(client, "Unsubscribe", request_id=2, query_id={"id": 7})
    deletes, inserts = changes(follow(client, cache, "UnsubscribeApplied")[3][2])
    assert not inserts
    assert {row[0]: row for row in deletes} == cache


def touch(writer: SoakClient, stop: threading.Event) -> None:
    while not stop.is_set():
        writer.client.send(v2.call_reducer(1, "touch", struct.pack("<I", writer.draw.randrange(ROWS))))
        writer.take(writer.client.receive())


def test_several_queries_and_nothing_found(large: ServerProcess, client: V1Client) -> None:
    nothing = "SELECT * FROM things WHERE value > 1000000"
    cache: dict[int, tuple[int, ...]] = {}
    ask(client, "SubscribeMulti", query_strings=[SOME, nothing], request_id=1, query_id={"id": 1})
    tables = follow(client, cache, "Multi")[3][0]
    assert sorted(len(changes(table)[1]) for table in tables) == [0, ROWS // 5]
    ask(client, "UnsubscribeMulti", request_id=2, query_id={"id": 1})
    tables = follow(client, cache, "End")[3][0]
    assert sorted(len(changes(table)[0]) for table in tables) == [0, ROWS // 5]
    ask(client, "Subscribe", query_strings=[THINGS], request_id=3)
    (table,) = follow(client, cache, "InitialSubscription")[0][0]
    assert {row[0]: row[:3] for row in changes(table)[1]} == state(large, THINGS)


def test_nobody_waits(large: ServerProcess) -> None:
    """While a text client's rows are written as JSON, others are served."""
    slow = V1Client(large, "json")
    other = SoakClient(large.base_url, 2, "v2.bsatn.spacetimedb", DATABASE)
    answered = threading.Event()

    def wait() -> None:
        slow.receive(60)
        answered.set()

    waiting = threading.Thread(target=wait)
    slow.send_text(json.dumps({"Subscribe": {"query_strings": [THINGS], "request_id": 1}}))
    waiting.start()
    calls = 0
    while not answered.is_set() and calls < 10:
        other.settle()
        calls += 1
    assert calls >= 5, "the reader did nothing else"
    waiting.join()
    slow.drop()
    other.client.drop()


def test_results_that_are_no_rows_of_the_table(client: V1Client) -> None:
    for query, columns in (("SELECT COUNT(*) AS n FROM things", 1), ("EXPLAIN SELECT * FROM things", 2)):
        ask(client, "OneOffQuery", message_id=b"", query_string=query)
        _id, error, tables, _duration = follow(client, {}, "OneOff")
        assert error is None
        if client.is_text:
            assert {len(json.loads(text)) for text in tables[0][1]} == {columns}
