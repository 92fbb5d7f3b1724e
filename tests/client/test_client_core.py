"""The client's protocol core without a network: recorded conversations with upstream's server, and invented ones."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server_messages import (
    persistent_rows,
    query_set_update,
    subscribe_applied,
    table_rows,
    table_update,
    transaction_update,
)

from spacetimedb import Module, Pk, ReducerContext, Row, u32
from spacetimedb.client import ConnectError, Disconnected, ProtocolError, ReducerError, schema_of, updates
from spacetimedb.client.address import Address
from spacetimedb.client.cache import Table
from spacetimedb.client.core import Core
from spacetimedb.client.definition import schema_from_json
from spacetimedb.client.schema import Schema, TableType
from spacetimedb.hosts.program import load_program
from spacetimedb.protocol import v2, v2_client
from spacetimedb.protocol.client_socket import ClientSocket, SocketError
from spacetimedb.protocol.frames import FrameSplitter, data_frames, server_frame
from spacetimedb.schema.json import schema_v10
from spacetimedb.schema.validation import validate
from spacetimedb.subscriptions import wire
from spacetimedb.types import codec

VECTORS = Path(__file__).parents[1] / "vectors" / "websocket"
SESSIONS = sorted(
    path for path in (VECTORS / "sessions").glob("*.json") if path.stem not in ("v1_bsatn", "v1_json", "handshake")
)
ADDRESS = Address.parse("ws://127.0.0.1:3000", "probe")
GREETING = v2.initial_connection(bytes(range(32)), bytes(range(16)), "a.b.c")


@pytest.fixture(scope="module")
def probe() -> Schema:
    return schema_of(load_program((VECTORS / "sessions" / "probe.py").read_bytes()))


def accept(request: bytes, protocol: str) -> bytes:
    """A server's answer to a handshake."""
    found = re.search(rb"(?i)sec-websocket-key: (\S+)", request)
    assert found is not None
    digest = hashlib.sha1(found[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
    ).encode()


def opened(schema: Schema, protocol: str = "v2.bsatn.spacetimedb", greeting: bytes = b"\0" + GREETING) -> Core:
    core = Core(ADDRESS, schema)
    core.open()
    request = core.data_to_send()
    assert b"compression=None" in request
    core.receive_data(accept(request, protocol) + data_frames(greeting, 2))
    assert core.state == "open"
    return core


def sent(core: Core) -> list[bytes]:
    """Payloads of the frames that the core wants to send."""
    return [payload for _, payload in FrameSplitter().feed(core.data_to_send())]


def held(table: Table[Any]) -> Counter[bytes]:
    """Rows with how often they are held."""
    return Counter({row: 1 + table.extra.get(key, 0) for key, row in table.rows.items()})


class Mirror:
    """What a program that only listens to callbacks believes to be there."""

    def __init__(self, core: Core, tables: list[TableType]) -> None:
        self.rows: dict[str, Counter[str]] = {}
        for table in tables:
            rows = self.rows[table.name] = Counter()
            cache = core.db[table.name]

            def change(old: Any, new: Any, rows: Counter[str] = rows) -> None:
                if old is not None:
                    rows[repr(old)] -= 1
                if new is not None:
                    rows[repr(new)] += 1

            cache.on_insert(lambda event, row, change=change: change(None, row))  # type: ignore[misc]
            cache.on_delete(lambda event, row, change=change: change(row, None))  # type: ignore[misc]
            if table.primary_key is not None:
                cache.on_update(lambda event, old, row, change=change: change(old, row))  # type: ignore[misc]


class Played:
    """One client of a recorded conversation: our core, and the bag of rows that an independent decoder counts."""

    def __init__(self, schema: Schema, protocol: str, greeting: bytes) -> None:
        self.core = opened(schema, protocol, greeting)
        self.tables = [t for key, t in schema.tables.items() if isinstance(key, str) and not t.is_event]
        self.mirror = Mirror(self.core, self.tables)
        self.bags: dict[str, Counter[bytes]] = {}

    def send(self, message: dict[str, Any]) -> None:
        """Makes the request; the core's numbers are those of the recording."""
        ((kind, fields),) = message.items()
        core = self.core
        number = fields["query_set_id"]["id"] if kind in ("Subscribe", "Unsubscribe") else fields["request_id"]
        core._numbers = itertools.count(number)
        if kind == "Subscribe" and fields["query_strings"]:
            core.subscribe(fields["query_strings"])
        elif kind == "Unsubscribe" and number in core._subscriptions and fields["flags"] == {"SendDroppedRows": []}:
            core.unsubscribe(core._subscriptions[number])
        elif kind in ("CallReducer", "CallProcedure"):
            functions = core.schema.reducers if kind == "CallReducer" else core.schema.procedures
            function = functions.get(fields["reducer" if kind == "CallReducer" else "procedure"])
            arguments = bytes.fromhex(fields["args"]["hex"])
            if function is not None:
                try:
                    values = codec(function.shape).decode_exact(arguments)
                except Exception:
                    return  # sent wrong on purpose
                core.data_to_send()
                core.call(function, values, {})
                tag = 4 if kind == "CallProcedure" else 3
                maker = v2_client.call_procedure if tag == 4 else v2_client.call_reducer
                assert sent(core) == [maker(number, function.name, arguments)]
        core.data_to_send()

    def receive(self, frame: bytes) -> None:
        for message in v2_client.decode_frame(frame):
            self._count(message)
        self.core.receive_data(data_frames(frame, 2))

    def _count(self, message: Any) -> None:
        if isinstance(message, v2_client.SubscribeApplied):
            self._add(message.tables, 1)
        elif isinstance(message, v2_client.UnsubscribeApplied):
            self._add(message.tables or (), -1)
        outcome = getattr(message, "outcome", None)
        sets = outcome.query_sets if isinstance(outcome, v2_client.Ok) else getattr(message, "query_sets", ())
        for update in (update for query_set in sets for update in query_set.tables):
            bag = self.bags.setdefault(update.table, Counter())
            for rows in update.rows:
                if isinstance(rows, v2_client.PersistentRows):
                    bag.update(rows.inserts.rows())
                    bag.subtract(rows.deletes.rows())

    def _add(self, tables: Any, sign: int) -> None:
        for table in tables:
            bag = self.bags.setdefault(table.table, Counter())
            for row in table.rows.rows():
                bag[row] += sign

    def check(self) -> None:
        for table in self.tables:
            cache = self.core.db[table.name]
            assert held(cache) == +self.bags.get(table.name, Counter()), table.name
            assert +self.mirror.rows[table.name] == Counter(map(repr, cache)), table.name


@pytest.mark.parametrize("path", SESSIONS, ids=lambda path: str(path.stem))
def test_recorded_conversations(path: Path, probe: Schema) -> None:
    """After every message our cache, the callbacks and a naive count of the rows agree."""
    clients: dict[str, Played] = {}
    greetings: dict[str, str] = {}
    played = 0
    for step in json.loads(path.read_text())["steps"]:
        if "connect" in step and "status" not in step:
            greetings[step["connect"]] = step["protocol"]
        elif "receive" in step and "frames" in step:
            name = step["receive"]
            for frame in map(bytes.fromhex, step["frames"]):
                if name not in clients:
                    clients[name] = Played(probe, greetings[name], frame)
                else:
                    clients[name].receive(frame)
                    clients[name].check()
                    played += 1
        elif "send" in step and "messages" in step and step["send"] in clients:
            for message in step["messages"]:
                clients[step["send"]].send(message)
    assert played > 3


def test_every_server_message_is_read_like_the_other_decoder_does() -> None:
    vectors = json.loads((VECTORS / "v2_server.json").read_text())["vectors"]
    assert len(vectors) > 10
    for vector in vectors:
        frame = b"\0" + bytes.fromhex(vector["bsatn_hex"])
        (ours,) = updates.read_frame(frame)
        (theirs,) = v2_client.decode_frame(frame)
        for field in ("request_id", "query_set_id", "token"):
            assert getattr(ours, field, None) == getattr(theirs, field, getattr(ours, field, None))
        for cut in range(1, len(frame)):
            with pytest.raises(v2_client.ServerDecodeError):
                updates.read_frame(frame[:cut])


# -- invented conversations


@pytest.fixture(scope="module")
def simple() -> Schema:
    m = Module()

    @m.table(public=True)
    class Thing(Row):
        id: Pk[u32]
        size: u32

    @m.table(public=True)
    class Mark(Row):
        at: u32

    @m.reducer
    def go(ctx: ReducerContext) -> None: ...

    return schema_of(m)


def thing(number: int, size: int) -> bytes:
    return number.to_bytes(4, "little") + size.to_bytes(4, "little")


def update(query_set: int, table: str, inserts: list[bytes], deletes: list[bytes]) -> bytes:
    rows = persistent_rows(wire.row_list_of(inserts), wire.row_list_of(deletes))
    return query_set_update(query_set, [table_update(table, [rows])])


def feed(core: Core, *messages: bytes) -> None:
    for message in messages:
        core.receive_data(data_frames(b"\0" + message, 2))


ROWS = st.tuples(st.integers(0, 3), st.integers(0, 2))


@settings(deadline=None, max_examples=200)
@given(st.lists(st.lists(st.tuples(st.booleans(), st.integers(0, 2), ROWS), max_size=8), max_size=8))
def test_cache_against_a_bag(history: list[list[tuple[bool, int, tuple[int, int]]]]) -> None:
    """Query sets that hold rows, changed at random but as a server would: the cache is always their sum."""
    m = Module()

    class Thing(Row):
        id: Pk[u32]
        size: u32

    m.table(public=True)(Thing)
    core = opened(schema_of(m))
    mirror = Mirror(core, [core.schema.table("thing")])
    stored: dict[int, int] = {}
    member: dict[int, set[int]] = {0: set(), 1: set(), 2: set()}  # which keys a query set selects
    for transaction in history:
        before = {s: {k: stored[k] for k in keys if k in stored} for s, keys in member.items()}
        for is_present, query_set, (key, size) in transaction:
            member[query_set] ^= {key}
            if is_present:
                stored[key] = size
            else:
                stored.pop(key, None)
        parts = []
        for query_set, keys in member.items():
            after = {k: stored[k] for k in keys if k in stored}
            inserts = [thing(*item) for item in after.items() - before[query_set].items()]
            deletes = [thing(*item) for item in before[query_set].items() - after.items()]
            if inserts or deletes:
                parts.append(update(query_set, "thing", inserts, deletes))
        if parts:
            feed(core, transaction_update(parts))
        expected = Counter(thing(k, stored[k]) for keys in member.values() for k in keys if k in stored)
        assert held(core.db["thing"]) == expected
        assert +mirror.rows["thing"] == Counter(map(repr, core.db["thing"]))
        for key in range(4):
            found = core.db["thing"].find("id", key)
            assert (None if found is None else found.size) == (
                stored[key] if thing(key, stored.get(key, 9)) in expected else None
            )


def test_what_is_not_looked_at_is_not_decoded(simple: Schema, monkeypatch: pytest.MonkeyPatch) -> None:
    core = opened(simple)
    decoded: list[bytes] = []
    type_ = simple.table("thing")
    decode = type_.decode

    def noted(row: bytes) -> Any:
        decoded.append(row)
        return decode(row)

    monkeypatch.setattr(type_, "decode", noted)
    core.subscribe(["SELECT * FROM thing"])
    feed(
        core,
        subscribe_applied(1, 1, [table_rows("thing", wire.row_list_of([thing(1, 1), thing(2, 2)]))]),
    )
    feed(core, transaction_update([update(1, "thing", [thing(1, 5)], [thing(1, 1)])]))
    assert core.db["thing"].count() == 2
    assert decoded == []
    found: Any = core.db["thing"].find("id", 1)
    assert found.size == 5
    assert core.db["thing"].find("id", 1) is found
    assert decoded == [thing(1, 5)]


def test_all_tables_change_before_anybody_hears(simple: Schema) -> None:
    core = opened(simple)
    seen: list[tuple[int, int]] = []
    core.db["mark"].on_insert(lambda event, row: seen.append((core.db["thing"].count(), core.db["mark"].count())))
    core.db["thing"].on_insert(lambda event, row: seen.append((core.db["thing"].count(), core.db["mark"].count())))
    both = query_set_update(
        1,
        [
            table_update("mark", [persistent_rows(wire.row_list_of([b"\1\0\0\0"]), wire.NO_ROWS)]),
            table_update("thing", [persistent_rows(wire.row_list_of([thing(1, 1)]), wire.NO_ROWS)]),
        ],
    )
    feed(core, transaction_update([both]))
    assert seen == [(1, 1), (1, 1)]


def test_a_row_that_leaves_one_query_as_it_changes_in_another_is_an_update(simple: Schema) -> None:
    core = opened(simple)
    told: list[str] = []
    core.db["thing"].on_insert(lambda event, row: told.append(f"+{row.size}"))
    core.db["thing"].on_delete(lambda event, row: told.append(f"-{row.size}"))
    core.db["thing"].on_update(lambda event, old, row: told.append(f"{old.size}>{row.size}"))
    feed(
        core,
        transaction_update([update(1, "thing", [thing(1, 1)], []), update(2, "thing", [thing(1, 1)], [])]),
    )
    feed(
        core,
        transaction_update([update(1, "thing", [], [thing(1, 1)]), update(2, "thing", [thing(1, 2)], [thing(1, 1)])]),
        transaction_update([update(2, "thing", [thing(1, 2)], [thing(1, 2)])]),  # nothing has happened
        transaction_update([update(2, "thing", [], [thing(1, 2)])]),
        transaction_update([update(2, "thing", [], [thing(1, 2)])]),  # of what is not here
    )
    assert told == ["+1", "1>2", "-2"]
    assert not core.db["thing"].extra


def test_v3_puts_what_waits_into_one_frame(simple: Schema) -> None:
    core = opened(simple, "v3.bsatn.spacetimedb")
    go = simple.function("reducer", "go")
    for _ in range(3):
        core.call(go, (), {})
    (frame,) = sent(core)
    assert [message[0] for message in v2.parse_messages(frame, several=True)] == [3, 3, 3]
    answers = b"".join(v2.reducer_result_ok(number, 5) for number in (1, 2)) + v2.reducer_result_err(3, 5, "no")
    pending = list(core._calls.values())
    feed(core, answers)
    assert [p.done for p in pending] == [True, True, True]
    assert pending[0].result() == 5
    with pytest.raises(ReducerError, match=r"^no$"):
        pending[2].result()


def test_unknown_tables_and_answers_are_passed_over(simple: Schema) -> None:
    core = opened(simple)
    feed(
        core,
        transaction_update([update(1, "later", [b"abc"], []), update(1, "thing", [thing(1, 1)], [])]),
    )
    feed(core, v2.reducer_result_ok(99, 0), v2.one_off_ok(99, []), v2.procedure_result_returned(99, b"", 0, 0))
    assert core.db["thing"].count() == 1


def test_rows_of_another_version_of_the_module_end_the_connection(simple: Schema) -> None:
    core = opened(simple)
    core.db["thing"].on_insert(lambda event, row: None)
    with pytest.raises(ProtocolError, match="another version of the module"):
        feed(core, transaction_update([update(1, "thing", [b"\1\0\0\0\1"], [])]))


def test_the_end_is_told_to_everyone_who_waits(simple: Schema) -> None:
    core = opened(simple)
    pending = [core.call(simple.function("reducer", "go"), (), {}), core.query("SELECT * FROM thing")]
    subscription = core.subscribe(["SELECT * FROM thing"])
    core.lost(core.end_of_stream())
    core.abandon(Disconnected("over"))
    for each in (*pending, subscription.applied):
        with pytest.raises(Disconnected):
            each.result()
    with pytest.raises(Disconnected):
        core.query("SELECT * FROM thing")


def test_reads_may_be_cut_anywhere(simple: Schema) -> None:
    """Handshake, fragments and control frames in reads of one byte."""
    core = Core(ADDRESS, simple)
    core.open()
    message = transaction_update([update(1, "thing", [thing(n, n) for n in range(50)], [])])
    body = b"\0" + message
    fragments = server_frame(100, 2, fin=False) + body[:100] + server_frame(1, 9) + b"p"
    fragments += server_frame(len(body) - 100, 0) + body[100:]
    stream = accept(core.data_to_send(), "v2.bsatn.spacetimedb") + data_frames(b"\0" + GREETING, 2) + fragments
    for byte in stream:
        core.receive_data(bytes([byte]))
    assert core.db["thing"].count() == 50
    assert sent(core) == [b"p"]
    with pytest.raises(Disconnected, match="going away"):
        core.receive_data(server_frame(12, 8) + b"\x03\xe9going away")
    assert sent(core) == [b"\x03\xe9going away"]


def test_refusals_of_the_handshake(simple: Schema) -> None:
    for head, text in ((b"content-length: 9\r\n", b"not found"), (b"", b"no length")):
        core = Core(ADDRESS, simple)
        core.open()
        answer = b"HTTP/1.1 404 Not Found\r\n" + head + b"\r\n" + text
        if head:
            with pytest.raises(ConnectError, match="not found") as refused:
                core.receive_data(answer)
            assert refused.value.status == 404
        else:
            core.receive_data(answer)
            error = core.end_of_stream()
            assert isinstance(error, ConnectError)
            assert (error.status, str(error)) == (404, "no length")
    core = Core(ADDRESS, simple)
    core.open()
    with pytest.raises(ConnectError, match="no WebSocket server answered"):
        core.receive_data(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")


@pytest.mark.parametrize(
    "frame", [b"\xc2\x00", b"\x81\x00", b"\x80\x00", b"\x83\x00", b"\x82\x80", b"\x82\x7f" + b"\xff" * 8]
)
def test_broken_frames(frame: bytes) -> None:
    socket = ClientSocket("h", "/", ["v2.bsatn.spacetimedb"])
    socket.receive(accept(socket.outgoing, "v2.bsatn.spacetimedb"))
    with pytest.raises(SocketError):
        socket.receive(frame + bytes(8))


def test_a_schema_survives_the_servers_json(probe: Schema) -> None:
    """From the definition that a server gives: the same bytes mean the same values, with classes made on the spot."""
    module = load_program((VECTORS / "sessions" / "probe.py").read_bytes())
    fetched = schema_from_json(schema_v10(validate(module.describe())))
    for name, table in probe.tables.items():
        if isinstance(name, str):
            other = fetched.table(name)
            assert list(other.columns) == list(table.columns)
            assert (other.primary_key, other.is_event, other.is_view, other.unique) == (
                table.primary_key,
                table.is_event,
                table.is_view,
                table.unique,
            )
    row = fetched.table("item").decode(b"\1\0\0\0\2\0\0\0ab" + bytes(8))
    assert (row.id, row.name, row.score) == (1, "ab", 0)
