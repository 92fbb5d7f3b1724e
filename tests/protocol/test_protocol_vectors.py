"""Every recorded message of the v2/v3 protocol, in both directions."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import server_messages
from message_view import server_view

from spacetimedb.protocol import v2, v2_client
from spacetimedb.subscriptions import wire

VECTORS = Path(__file__).parents[1] / "vectors" / "websocket"


def load(name: str) -> list[dict[str, Any]]:
    vectors: list[dict[str, Any]] = json.loads((VECTORS / f"{name}.json").read_text())["vectors"]
    return vectors


def by_name(vector: dict[str, Any]) -> str:
    return str(vector["name"])


def client_tuple(message: dict[str, Any]) -> tuple[Any, ...]:
    """The tuple `parse_messages` must give for a decoded client message."""
    ((kind, body),) = message.items()
    if kind == "Subscribe":
        return 0, body["request_id"], body["query_set_id"]["id"], body["query_strings"]
    if kind == "Unsubscribe":
        return 1, body["request_id"], body["query_set_id"]["id"], "SendDroppedRows" in body["flags"]
    if kind == "OneOffQuery":
        return 2, body["request_id"], body["query_string"]
    name = body["reducer"] if kind == "CallReducer" else body["procedure"]
    return 3 if kind == "CallReducer" else 4, body["request_id"], name, bytes.fromhex(body["args"]["hex"])


def encode_client(message: tuple[Any, ...]) -> bytes:
    encoders = (
        v2_client.subscribe,
        v2_client.unsubscribe,
        v2_client.one_off_query,
        v2_client.call_reducer,
        v2_client.call_procedure,
    )
    encoded: bytes = encoders[message[0]](*message[1:])
    return encoded


def row_list(value: dict[str, Any]) -> bytes:
    data = bytes.fromhex(value["rows_data"]["hex"])
    hint = value["size_hint"]
    if "FixedSize" in hint:
        return wire.row_list(data, len(data) // hint["FixedSize"], hint["FixedSize"])
    offsets = [*hint["RowOffsets"], len(data)]
    return wire.row_list(data, len(offsets) - 1, [b - a for a, b in pairwise(offsets)])


def tables(value: dict[str, Any]) -> list[bytes]:
    return [server_messages.table_rows(t["table"], row_list(t["rows"])) for t in value["tables"]]


def update_rows(value: dict[str, Any]) -> bytes:
    if "EventTable" in value:
        return server_messages.event_rows(row_list(value["EventTable"]["events"]))
    stored = value["PersistentTable"]
    return server_messages.persistent_rows(row_list(stored["inserts"]), row_list(stored["deletes"]))


def query_sets(value: dict[str, Any]) -> list[bytes]:
    return [
        server_messages.query_set_update(
            s["query_set_id"]["id"],
            [server_messages.table_update(t["table_name"], [update_rows(r) for r in t["rows"]]) for t in s["tables"]],
        )
        for s in value["query_sets"]
    ]


def build_server(message: dict[str, Any]) -> bytes:
    """The server message as the builders make it from its decoded view."""
    ((kind, body),) = message.items()
    if kind == "InitialConnection":
        identity = bytes.fromhex(body["identity"])[::-1]
        return v2.initial_connection(identity, bytes.fromhex(body["connection_id"])[::-1], body["token"])
    if kind == "TransactionUpdate":
        return server_messages.transaction_update(query_sets(body))
    if kind == "ProcedureResult":
        status = body["status"]
        if "InternalError" in status:
            return v2.procedure_result_internal(body["request_id"], status["InternalError"])
        value = bytes.fromhex(status["Returned"]["hex"])
        return v2.procedure_result_returned(
            body["request_id"], value, body["timestamp"], body["total_host_execution_duration"]
        )
    request = body["request_id"]
    if kind == "SubscribeApplied":
        return server_messages.subscribe_applied(request, body["query_set_id"]["id"], tables(body["rows"]))
    if kind == "UnsubscribeApplied":
        dropped = None if body["rows"] is None else tables(body["rows"]["some"])
        return server_messages.unsubscribe_applied(request, body["query_set_id"]["id"], dropped)
    if kind == "SubscriptionError":
        request = None if request is None else request["some"]
        return v2.subscription_error(request, body["query_set_id"]["id"], body["error"])
    if kind == "OneOffQueryResult":
        if "err" in body["result"]:
            return v2.one_off_err(request, body["result"]["err"])
        return v2.one_off_ok(request, tables(body["result"]["ok"]))
    assert kind == "ReducerResult"
    ((outcome, payload),) = body["result"].items()
    if outcome == "Ok":
        assert payload["ret_value"]["hex"] == ""
        update = server_messages.array(query_sets(payload["transaction_update"]))
        return v2.reducer_result_ok(request, body["timestamp"], update)
    if outcome == "Err":
        return v2.reducer_result_err(request, body["timestamp"], bytes.fromhex(payload["hex"])[4:].decode())
    return v2.reducer_result_internal(request, body["timestamp"], payload)


@pytest.mark.parametrize("vector", load("v2_client"), ids=by_name)
@pytest.mark.parametrize("several", [False, True])
def test_client_message(vector: dict[str, Any], several: bool) -> None:
    frame = bytes.fromhex(vector["frame_hex"])
    expected = client_tuple(vector["message"])
    assert v2.parse_messages(frame, several) == [expected]
    assert encode_client(expected) == frame


@pytest.mark.parametrize("vector", load("v2_server"), ids=by_name)
def test_server_message(vector: dict[str, Any]) -> None:
    body = bytes.fromhex(vector["bsatn_hex"])
    if "OkEmpty" not in json.dumps(vector["message"]):  # accepted from others, never built here
        assert build_server(vector["message"]) == body
    message, end = v2_client.decode_message(body)
    assert end == len(body)
    assert server_view(message) == vector["message"]
    assert v2_client.decode_frame(bytes.fromhex(vector["frame_hex"])) == [message]


@pytest.mark.parametrize("vector", load("v3_frames"), ids=by_name)
def test_v3_frame(vector: dict[str, Any]) -> None:
    frame = bytes.fromhex(vector["frame_hex"])
    if "error" in vector:
        with pytest.raises(v2.ClientDecodeError) as caught:
            v2.parse_messages(frame, True)
        assert caught.value.text == vector["error"]
        assert caught.value.messages == []
    elif vector["direction"] == "client_to_server":
        expected = [client_tuple(message) for message in vector["messages"]]
        assert v2.parse_messages(frame, True) == expected
        assert v2.parse_messages(frame, False) == expected[:1]
        assert b"".join(map(encode_client, expected)) == frame
    else:
        packed = v2.pack_v3([build_server(message) for message in vector["messages"]])
        assert packed[-len(frame) :] == frame
        assert len(packed) - len(frame) in (2, 4)
        assert [server_view(message) for message in v2_client.decode_frame(frame)] == vector["messages"]


@pytest.mark.parametrize("vector", load("rows"), ids=by_name)
def test_row_list(vector: dict[str, Any]) -> None:
    rows = [bytes.fromhex(text) for text in vector["row_hex"]]
    encoded = wire.row_list_of(rows)
    assert encoded.hex() == vector["bsatn_hex"]
    assert wire.row_list(b"".join(rows), len(rows), [len(row) for row in rows]) == encoded
    if rows and len({len(row) for row in rows}) == 1:
        assert wire.row_list(b"".join(rows), len(rows), len(rows[0])) == encoded
    body = server_messages.subscribe_applied(1, 2, [server_messages.table_rows("t", encoded)])
    message, _ = v2_client.decode_message(body)
    assert isinstance(message, v2_client.SubscribeApplied)
    assert message.tables[0].rows.rows() == rows


def test_long_equal_rows_get_offsets() -> None:
    rows = [bytes(65536), bytes(65536)]
    for encoded in (wire.row_list_of(rows), wire.row_list(b"".join(rows), 2, 65536)):
        assert encoded[:21] == b"\x01\x02\0\0\0" + bytes(8) + (65536).to_bytes(8, "little")
    assert wire.row_list_of([bytes(65535)])[:3] == b"\x00\xff\xff"
