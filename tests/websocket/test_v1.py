"""What v1 clients are promised beyond the recorded conversations."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from server_process import ServerProcess
from session_client import Ended, SessionClient
from session_view import Names, actual_view
from test_sessions import SESSIONS, prepare
from v1_view import V1Message

from spacetimedb.protocol import v1
from spacetimedb.types.bsatn import codec
from spacetimedb.types.shapes import shape_of

_encode = codec(shape_of(v1.CLIENT_MESSAGE)).encode
TAGS = {kind.__name__: tag for tag, kind in enumerate(v1.MESSAGES)}
ITEM = "SELECT * FROM item"
HIGH = "SELECT * FROM item WHERE score > 5"


class Speaker:
    """A v1 client; messages go out and come in as sums of named fields."""

    def __init__(self, server: ServerProcess, database: str, form: str, query: str = "") -> None:
        protocol = f"v1.{form}.spacetimedb"
        self.raw = SessionClient(server.base_url, database, [protocol], query or "compression=None")
        self.is_text = form == "json"
        self.names = Names()
        (self.greeting,) = self.read().values()

    def send(self, kind: str, **fields: Any) -> None:
        if self.is_text:
            self.raw.send_text(json.dumps({kind: fields}))
        else:
            self.raw.send(binary(kind, **fields))

    def read(self) -> dict[str, Any]:
        message = self.raw.receive()
        assert isinstance(message, V1Message)
        if message.tag == 3:
            return {"IdentityToken": message.fields}
        view: dict[str, Any] = actual_view(message, self.names)
        return view

    def ask(self, kind: str, **fields: Any) -> dict[str, Any]:
        self.send(kind, **fields)
        return self.read()

    def call(self, reducer: str, args: list[Any], flags: int = 0, request_id: int = 77) -> None:
        """Arguments as JSON, which a server takes from clients of either form in a text message."""
        fields = {"reducer": reducer, "args": json.dumps(args), "request_id": request_id, "flags": flags}
        self.raw.send_text(json.dumps({"CallReducer": fields}))

    def silent(self) -> None:
        with pytest.raises(TimeoutError):
            self.raw.receive(0.1)


def binary(kind: str, **fields: Any) -> bytes:
    values = [(value["id"],) if isinstance(value, dict) else value for value in fields.values()]
    return _encode((TAGS[kind], tuple(values)))


Connect = Callable[..., Speaker]


@pytest.fixture(scope="module")
def probe(server: ServerProcess) -> Iterator[tuple[ServerProcess, str, SessionClient]]:
    identity = server.publish(SESSIONS / "probe.py", "probe-v1")
    watcher = SessionClient(server.base_url, identity, ["v2.bsatn.spacetimedb"], "compression=None")
    watcher.receive()
    yield server, identity, watcher
    watcher.close()


@pytest.fixture
def connect(probe: tuple[ServerProcess, str, SessionClient]) -> Iterator[Connect]:
    server, database, watcher = probe
    prepare(watcher)
    speakers: list[Speaker] = []

    def open_one(form: str = "bsatn", query: str = "") -> Speaker:
        speakers.append(Speaker(server, database, form, query))
        return speakers[-1]

    yield open_one
    for speaker in speakers:
        speaker.raw.close()


def shown(update: dict[str, Any]) -> dict[str, list[tuple[list[Any], list[Any]]]]:
    """DatabaseUpdate: table name to (deletes, inserts) of each query."""
    tables: dict[str, list[tuple[list[Any], list[Any]]]] = {}
    for table in update["tables"]:
        pairs = []
        for wrapped in table["updates"]:
            one = wrapped.get("Uncompressed", wrapped)
            pairs.append((one["deletes"]["rows"], one["inserts"]["rows"]))
        assert table["num_rows"] == sum(len(rows) for pair in pairs for rows in pair)
        tables.setdefault(table["table_name"], []).extend(sorted(pairs))
    return tables


def light(message: dict[str, Any]) -> dict[str, list[tuple[list[Any], list[Any]]]]:
    return shown(message["TransactionUpdateLight"]["update"])


@pytest.mark.parametrize("form", ["bsatn", "json"])
def test_legacy_subscribe_replaces_its_queries(connect: Connect, form: str) -> None:
    client = connect(form)
    client.call("add_item", [1, "one", 3])
    client.call("add_tag", [1, "red"])
    client.read(), client.read()
    first = client.ask("Subscribe", query_strings=[ITEM, HIGH], request_id=1)["InitialSubscription"]
    assert first["request_id"] == 1
    assert shown(first["database_update"]) == {"item": [([], []), ([], [[1, "one", 3]])]}
    single = client.ask("SubscribeSingle", query=HIGH, request_id=2, query_id={"id": 9})["SubscribeApplied"]
    assert single["rows"]["table_rows"]["num_rows"] == 0
    # A query held by both counts twice.
    client.call("set_score", [1, 8], flags=1)
    moved = ([[1, "one", 3]], [[1, "one", 8]])
    assert light(client.read()) == {"item": sorted([moved, ([], [[1, "one", 8]]), ([], [[1, "one", 8]])])}
    error = client.ask("Subscribe", query_strings=["SELECT * FROM nosuch"], request_id=3)["SubscriptionError"]
    none: Any = {"none": []} if form == "json" else None
    assert (error["request_id"], error["query_id"], error["table_id"]) == ({"some": 3}, none, none)
    assert error["error"].startswith("no such table: `nosuch`")
    second = client.ask("Subscribe", query_strings=["SELECT * FROM tag"], request_id=4)["InitialSubscription"]
    assert shown(second["database_update"]) == {"tag": [([], [[1, "red"]])]}
    client.call("set_score", [1, 9], flags=1)
    assert light(client.read()) == {"item": [([[1, "one", 8]], [[1, "one", 9]])]}
    client.call("set_score", [1, 1], flags=1)
    assert light(client.read()) == {"item": [([[1, "one", 9]], [])]}
    empty = client.ask("Subscribe", query_strings=[], request_id=5)["InitialSubscription"]
    assert empty["database_update"] == {"tables": []}


def test_queries_are_counted(connect: Connect) -> None:
    client = connect()
    client.call("add_item", [1, "one", 9])
    client.read()
    row: tuple[list[Any], list[Any]] = ([], [[1, "one", 9]])
    both = client.ask("SubscribeMulti", query_strings=[ITEM, HIGH, ITEM], request_id=1, query_id={"id": 1})
    assert shown(both["SubscribeMultiApplied"]["update"]) == {"item": [row, row]}
    # Held already: not sent again; a single subscription always has its rows.
    again = client.ask("SubscribeMulti", query_strings=[ITEM], request_id=2, query_id={"id": 2})
    assert again["SubscribeMultiApplied"]["update"] == {"tables": []}
    single = client.ask("SubscribeSingle", query=f" {ITEM} ", request_id=3, query_id={"id": 3})["SubscribeApplied"]
    assert shown({"tables": [single["rows"]["table_rows"]]}) == {"item": [row]}
    used = client.ask("SubscribeSingle", query=HIGH, request_id=4, query_id={"id": 1})["SubscriptionError"]
    assert (used["request_id"], used["query_id"]) == ({"some": 4}, {"some": 1})
    assert used["error"].startswith("Subscription with id QuerySetId { id: 1 } already exists for client: (Identity(")
    client.call("set_score", [1, 7])
    update = client.read()["TransactionUpdate"]
    change = ([[1, "one", 9]], [[1, "one", 7]])
    assert shown(update["status"]["Committed"]) == {"item": [change, change]}
    # The first id goes: ITEM is still held by two others.
    gone = client.ask("UnsubscribeMulti", request_id=5, query_id={"id": 1})["UnsubscribeMultiApplied"]
    assert shown(gone["update"]) == {"item": [([[1, "one", 7]], [])]}
    refused = client.ask("Unsubscribe", request_id=6, query_id={"id": 3})["SubscriptionError"]
    assert refused["error"] == "Internal error"
    last = client.ask("Unsubscribe", request_id=7, query_id={"id": 2})["UnsubscribeApplied"]
    assert shown({"tables": [last["rows"]["table_rows"]]}) == {"item": [([[1, "one", 7]], [])]}
    unknown = client.ask("Unsubscribe", request_id=8, query_id={"id": 2})["SubscriptionError"]
    assert unknown["error"].startswith("Client not found: (Identity(")
    client.call("set_score", [1, 8], flags=1)
    client.silent()


def test_event_tables(connect: Connect) -> None:
    client, other = connect("json"), connect()
    single = client.ask("SubscribeSingle", query="SELECT * FROM flash", request_id=1, query_id={"id": 1})
    assert single["SubscriptionError"]["error"] == v1.EVENTS_NEED_V2
    multi = client.ask("SubscribeMulti", query_strings=["SELECT * FROM flash"], request_id=1, query_id={"id": 1})
    assert multi["SubscriptionError"]["error"] == v1.EVENTS_NEED_V2
    client.ask("Subscribe", query_strings=["SELECT * FROM flash"], request_id=2)
    other.call("emit", ["x", 1], flags=1, request_id=5)
    message = client.read()
    assert message["TransactionUpdateLight"]["request_id"] == 5
    ((deletes, inserts),) = light(message)["flash"]
    assert (deletes, [row[0] for row in inserts]) == ([], ["x"])


def test_calls_that_are_refused(connect: Connect) -> None:
    text, other = connect("json"), connect()

    def outcome(client: Speaker) -> tuple[str, str, int, Any, Any]:
        update = client.read()["TransactionUpdate"]
        info = update["reducer_call"]
        return update["status"]["Failed"], info["reducer_name"], info["request_id"], info["args"], info["reducer_id"]

    text.call("add_item", [1], flags=1)
    assert outcome(text) == (
        "invalid arguments for reducer add_item: .: invalid arguments for function add_item: .: .: "
        "invalid length 1, expected reducer args for add_item with 3 elements at line 1 column 3",
        *("add_item", 0, "[]", "<reducer id>"),
    )
    text.call("nosuch", [], flags=1)
    assert outcome(text) == ("no such reducer", "nosuch", 0, "[]", v1.UNKNOWN_REDUCER)
    other.send("CallReducer", reducer="add_item", args=b"\1", request_id=3, flags=0)
    detail = "data too short for u32: Expected 4, given 1"
    expected = f"add_item: {detail}: invalid arguments for function add_item: {detail}: {detail}"
    shown_args = {"hex": ""}
    assert outcome(other) == (f"invalid arguments for reducer {expected}", "add_item", 0, shown_args, "<reducer id>")
    answer = text.ask("CallProcedure", procedure="nosuch", args="[]", request_id=9, flags=0)["ProcedureResult"]
    assert (answer["status"], answer["request_id"]) == ({"InternalError": "No such procedure"}, 9)
    answer = text.ask("CallProcedure", procedure="add", args="[1]", request_id=10, flags=0)["ProcedureResult"]
    assert answer["status"] == {"InternalError": "invalid arguments for procedure add: ."}
    answer = other.ask("OneOffQuery", message_id=b"\7", query_string="SELECT")["OneOffQueryResponse"]
    assert answer["message_id"] == {"hex": "07"}
    assert answer["error"]["some"]
    assert answer["tables"] == []


def test_either_kind_of_frame_is_understood(connect: Connect) -> None:
    """The frame decides how a message is read, the subprotocol how it is answered."""
    text, other = connect("json"), connect("bsatn", "compression=Gzip&light=true&confirmed=true")
    args = b"\x01\0\0\0" + b"\x03\0\0\0one" + (5).to_bytes(8, "little")
    text.raw.send(binary("CallReducer", reducer="add_item", args=args, request_id=1, flags=0))
    update = text.read()["TransactionUpdate"]
    assert update["status"] == {"Committed": {"tables": []}}
    assert json.loads(update["reducer_call"]["args"]) == [1, "one", 5]
    other.call("set_score", [1, 6])
    update = other.read()["TransactionUpdate"]
    assert update["status"] == {"Committed": {"tables": []}}
    assert update["reducer_call"]["args"] == {"hex": "010000000600000000000000"}
    other.raw.send_text('{"OneOffQuery":{"message_id":"01","query_string":"SELECT * FROM item"}}')
    (table,) = other.read()["OneOffQueryResponse"]["tables"]
    assert table["rows"]["rows"] == [[1, "one", 6]]


def test_subscriptions_keep_their_place_among_calls(connect: Connect) -> None:
    """Pipelined calls, and a subscription in their midst: its snapshot and the later updates give the final state."""
    for client in (connect("json"), connect()):
        first = 100 if client.is_text else 200
        for number in range(20):
            client.call("add_item", [first + number, f"n{first + number}", 1], flags=number % 2)
        client.send("SubscribeMulti", query_strings=[ITEM], request_id=50, query_id={"id": 1})
        for number in range(20, 40):
            client.call("add_item", [first + number, f"n{first + number}", 1], flags=number % 2)
        messages = [client.read() for _ in range(10 + 1 + 20)]
        kinds = [next(iter(message)) for message in messages]
        assert kinds == ["TransactionUpdate"] * 10 + ["SubscribeMultiApplied"] + [
            "TransactionUpdate" if number % 2 == 0 else "TransactionUpdateLight" for number in range(20)
        ]
        ((_, rows),) = shown(messages[10]["SubscribeMultiApplied"]["update"])["item"]
        assert sum(row[0] >= first for row in rows) == 20
        later = [
            light(m) if "TransactionUpdateLight" in m else shown(m["TransactionUpdate"]["status"]["Committed"])
            for m in messages[11:]
        ]
        assert [update["item"][0][1][0][0] for update in later] == [first + number for number in range(20, 40)]


@pytest.mark.parametrize(("form", "value"), [("json", "1"), ("bsatn", {"hex": "0100000000000000"})])
def test_procedures_and_views(connect: Connect, form: str, value: Any) -> None:
    """What a procedure commits comes before its result, with request id 0, also to its caller."""
    client = connect(form)
    client.ask("SubscribeMulti", query_strings=["SELECT * FROM top_items", ITEM], request_id=1, query_id={"id": 1})
    fields = {"procedure": "item_proc", "args": '[20,"n"]', "request_id": 9, "flags": 0}
    client.raw.send_text(json.dumps({"CallProcedure": fields}))
    message = client.read()
    assert message["TransactionUpdateLight"]["request_id"] == 0
    assert light(message) == {"item": [([], [[20, "n", 7]])]}
    result = client.read()["ProcedureResult"]
    assert (result["status"], result["request_id"]) == ({"Returned": value}, 9)
    client.call("set_score", [20, 100], flags=1)
    change = light(client.read())
    assert change["top_items"] == [([], [[20, "n", 100]])]
    ended = client.ask("UnsubscribeMulti", request_id=2, query_id={"id": 1})["UnsubscribeMultiApplied"]
    rows: tuple[list[Any], list[Any]] = ([[20, "n", 100]], [])
    assert shown(ended["update"]) == {"top_items": [rows], "item": [rows]}


@pytest.mark.parametrize(
    ("form", "payload", "reason"),
    [
        ("json", "x", "expected value at line 1 column 1"),
        ("json", '{"Subscribe":{"request_id":1}}', "missing field `query_strings` at line 1 column 29"),
        ("bsatn", b"\x09", "unknown tag 0x9 for sum type ClientMessage"),
        ("bsatn", "{", "EOF while parsing an object at line 1 column 1"),
    ],
)
def test_messages_that_cannot_be_read(connect: Connect, form: str, payload: bytes | str, reason: str) -> None:
    client = connect(form)
    if isinstance(payload, str):
        client.raw.send_text(payload)
    else:
        client.raw.send(payload)
    with pytest.raises(Ended) as caught:
        client.raw.receive()
    assert (caught.value.code, caught.value.reason) == (1011, reason)
