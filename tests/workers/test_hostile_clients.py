"""Input that no honest client or module produces: it is refused or answered, and everybody else notices nothing."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server_process import RequestFailed, ServerProcess
from session_client import SessionClient
from sql.test_hostile_text import REPEATED
from sql.test_sql_vectors import CASES, query_text

from spacetimedb.protocol import v2_client as v2
from spacetimedb.sql.parser import MAX_QUERY_BYTES

BATCH = 500
LONG_QUERY = 2000
"""Characters from which on a query of the vectors is one that tests a limit."""
LONGEST_SECONDS = 45.0
"""For one text in two ways, on a machine that does other things as well."""
NAME = "hostile"
V3 = "v3.bsatn.spacetimedb"


@pytest.fixture(scope="module")
def hostile(server: ServerProcess) -> Iterator[ServerProcess]:
    """A database with the module `hostile`; all processes must be the same ones at the end."""
    server.publish(Path(__file__).with_name("hostile.py"), NAME)
    before = set(server.serving())
    yield server
    assert before <= set(server.serving()), "a process died:\n" + "".join(server.output[-60:])


@pytest.fixture
def client(hostile: ServerProcess) -> Iterator[SessionClient]:
    connection = connect(hostile)
    yield connection
    connection.drop()


def connect(server: ServerProcess, query: str = "compression=None", protocol: str = V3) -> SessionClient:
    connection = SessionClient(server.base_url, NAME, [protocol], query)
    assert isinstance(connection.receive(), v2.InitialConnection)
    return connection


def string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data


def outcome(client: SessionClient, request_id: int, reducer: str, args: bytes) -> Any:
    client.send(v2.call_reducer(request_id, reducer, args))
    answer = client.receive(30)
    assert isinstance(answer, v2.ReducerResult)
    assert answer.request_id == request_id
    return answer.outcome


def status(server: ServerProcess, path: str, body: str) -> int:
    try:
        return server.request("POST", f"/v1/database/{NAME}/{path}", body).status
    except RequestFailed as failure:
        return failure.status


def one_off(client: SessionClient, text: str) -> v2.OneOffQueryResult:
    client.send(v2.one_off_query(9, text))
    answer = client.receive()
    assert isinstance(answer, v2.OneOffQueryResult)
    return answer


@pytest.mark.parametrize("size", [3 << 20, 9 << 20, 20 << 20, (32 << 20) - 100])
def test_long_arguments(client: SessionClient, size: int) -> None:
    assert isinstance(outcome(client, 1, "size", struct.pack("<I", size) + bytes(size)), v2.Ok)
    answer = one_off(client, "SELECT * FROM notes WHERE id = 0")
    assert answer.tables is not None
    assert answer.tables[0].rows.rows() == [struct.pack("<I", 0) + string(str(size))]


def test_long_arguments_for_nobody(client: SessionClient) -> None:
    found = outcome(client, 1, "nothing_" + "x" * (20 << 20), b"")
    assert found == v2.InternalError("no such reducer")


@pytest.mark.parametrize("reducer", ["refuse", "store", "log"])
def test_text_that_is_no_utf8(client: SessionClient, reducer: str) -> None:
    found = outcome(client, 1, reducer, string('"\\ud800"'))
    if reducer == "refuse":
        assert found == v2.Err(string("?"))
    elif reducer == "store":
        assert isinstance(found, v2.InternalError)
    else:
        assert isinstance(found, v2.Ok)


def test_exceptions_without_text(client: SessionClient) -> None:
    assert outcome(client, 1, "fail", b"") == v2.InternalError("The instance encountered a fatal error.")
    assert outcome(client, 2, "refuse_silently", b"") == v2.Err(string(""))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SELECT * FROM notes WHERE id = " + "9" * 5000,
        "SELECT * FROM notes WHERE id = 1e999999999",
        "SELECT * FROM notes WHERE id = -1",
        "SELECT * FROM notes WHERE text = 'x" + "\\" * 10,
        "SELECT * FROM notes WHERE " + "(" * 3000 + "id = 1" + ")" * 3000,
        "SELECT * FROM notes WHERE " + " AND ".join(["id = 1"] * 3000),
        "SELECT * FROM notes WHERE " + " OR ".join(f"id = {n}" for n in range(3000)),
        "SELECT * FROM \0",
        "SELECT * FROM notes LIMIT 99999999999999999999999",
        "SELECT COUNT(*) AS n FROM notes",
        "SELECT * FROM notes WHERE id = 0x" + "f" * 100_000,
        "\ufeffSELECT * FROM notes",
        "SELECT * FROM rings",
        "SELECT * FROM rings WHERE id = 1",
        "SELECT n.* FROM notes n JOIN rings r ON n.id = r.id",
        "SELECT r.* FROM notes n JOIN rings r ON n.id = r.id",
        "SELECT * FROM st_client",
        "SELECT * FROM *",
    ],
    ids=range(19),
)
def test_queries(client: SessionClient, hostile: ServerProcess, text: str) -> None:
    one_off(client, text)
    client.send(v2.subscribe(2, 5, [text]))
    assert isinstance(client.receive(), v2.SubscribeApplied | v2.SubscriptionError)
    assert status(hostile, "sql", text) in (200, 400)


PREFIXES = sorted(
    {text[:end] for case in CASES if len(text := query_text(case)) < LONG_QUERY for end in range(len(text) + 1)}
)


def test_every_prefix_of_every_query(client: SessionClient) -> None:
    """Whatever stands where a query was cut off: each is answered, in order."""
    for at in range(0, len(PREFIXES), BATCH):
        batch = PREFIXES[at : at + BATCH]
        for number, text in enumerate(batch):
            client.send(v2.subscribe(number, number, [text]) if number % 2 else v2.one_off_query(number, text))
        applied = []
        for number, text in enumerate(batch):
            answer = client.receive(30)
            if isinstance(answer, v2.SubscribeApplied):
                assert text.lower().startswith(("select * from st_", "select * from *"))
                applied.append(number)
            else:
                assert isinstance(answer, v2.SubscriptionError if number % 2 else v2.OneOffQueryResult)
            assert answer.request_id == number
        for number in applied:
            client.send(v2.unsubscribe(number, number))
            assert isinstance(client.receive(), v2.UnsubscribeApplied)


@pytest.mark.parametrize("name", REPEATED)
def test_longest_texts(client: SessionClient, name: str) -> None:
    start, piece = REPEATED[name]
    text = start.replace(" t ", " notes ") + piece * ((MAX_QUERY_BYTES - len(start) - 6) // len(piece))
    begun = time.monotonic()
    assert one_off(client, text).error
    client.send(v2.subscribe(2, 5, [text]))
    assert isinstance(client.receive(), v2.SubscriptionError)
    assert time.monotonic() - begun < LONGEST_SECONDS
    assert one_off(client, "SELECT * FROM notes").error is None


def test_numbers_at_their_limits(client: SessionClient) -> None:
    most = 0xFFFFFFFF
    client.send(v2.subscribe(most, most, ["SELECT * FROM notes"]))
    applied = client.receive()
    assert isinstance(applied, v2.SubscribeApplied)
    assert (applied.request_id, applied.query_set_id) == (most, most)
    assert isinstance(outcome(client, most, "keep", struct.pack("<I", most) + string("x")), v2.Ok)
    client.send(v2.unsubscribe(most, most))
    assert isinstance(client.receive(), v2.UnsubscribeApplied)


@pytest.mark.parametrize("body", ['["\\ud800"]', '[{"a": 1e999}]', "[" * 100_000, "[1e400]", '[""', "\0", "[null]"])
def test_json_arguments(hostile: ServerProcess, body: str) -> None:
    assert status(hostile, "call/refuse", body) == 400
