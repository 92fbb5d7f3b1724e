"""Every recorded message of the v1 protocols, in both forms and directions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from server_messages import array, event_rows, persistent_rows, query_set_update, table_rows, table_update
from v1_view import Viewer

from spacetimedb.protocol import v1, v1_json
from spacetimedb.protocol.v2 import ClientDecodeError
from spacetimedb.subscriptions.wire import NO_ROWS, row_list_of, string
from spacetimedb.types.bsatn import codec
from spacetimedb.types.json_arguments import from_json
from spacetimedb.types.shapes import shape_of

VECTORS = Path(__file__).parents[1] / "vectors" / "websocket"
JSON_CODEC = codec(shape_of(v1_json.SERVER_MESSAGE))
BSATN_CODEC = codec(shape_of(v1.SERVER_MESSAGE))


def load(name: str) -> list[dict[str, Any]]:
    vectors: list[dict[str, Any]] = json.loads((VECTORS / f"{name}.json").read_text())["vectors"]
    return vectors


def by_name(vector: dict[str, Any]) -> str:
    return str(vector["name"])


def client_view(message: v1.ClientMessage) -> dict[str, Any]:
    def shown(name: str, value: Any) -> Any:
        if name == "query_id":
            return {"id": value}
        return {"hex": value.hex()} if isinstance(value, bytes) else value

    body = {name: shown(name, value) for name, value in message._asdict().items() if name != "tag"}
    return {type(message).__name__: body}


@pytest.mark.parametrize("vector", load("v1_client"), ids=by_name)
def test_binary_client_message(vector: dict[str, Any]) -> None:
    frame = bytes.fromhex(vector["frame_hex"])
    for payload in (frame, frame + b"behind"):
        (message,) = v1.parse(payload)
        assert client_view(message) == vector["message"]
        assert message.tag == v1.FIRST_TAG + frame[0]
    for cut in range(len(frame)):
        with pytest.raises(ClientDecodeError):
            v1.parse(frame[:cut])


@pytest.mark.parametrize("vector", load("v1_server"), ids=by_name)
def test_binary_server_message(vector: dict[str, Any]) -> None:
    body = bytes.fromhex(vector["bsatn_hex"])
    value = BSATN_CODEC.decode_exact(body)
    assert Viewer().view(v1.SERVER_MESSAGE, value) == vector["message"]
    assert v1.Bsatn().encode(value) == body
    frame = bytes.fromhex(vector["frame_hex"])
    assert v1.Bsatn().pack([body]).endswith(frame)


@pytest.mark.parametrize("vector", load("v1_json"), ids=by_name)
def test_text_message(vector: dict[str, Any]) -> None:
    text = vector["text"].encode()
    if vector["direction"] == "client_to_server":
        (message,) = v1_json.parse(text)
        shown = client_view(message)
        if isinstance(message, v1.OneOffQuery):
            shown["OneOffQuery"]["message_id"] = message.message_id.hex()
        assert shown == vector["message"]
    else:
        value = JSON_CODEC.decode_exact(from_json(v1_json.SERVER_MESSAGE, text))
        assert v1_json.Json().encode(value) == text
        assert v1_json.Json().pack([text]).endswith(text)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("x", "expected value at line 1 column 1"),
        ('{"Subscribe":{"request_id":1}}', "missing field `query_strings` at line 1 column 29"),
        (
            '{"CallReducer":{"reducer":"noop","args":"[]","request_id":1,"flags":2}}',
            "invalid call reducer flag 2 at line 1 column 70",
        ),
        (
            '{"CallProcedure":{"procedure":"f","args":"[]","request_id":1,"flags":1}}',
            "invalid call procedure flag 1 at line 1 column 71",
        ),
        ('{"Unsubscribe":{"request_id":1,"query_id":{"id":2}}} x', "trailing characters at line 1 column 54"),
    ],
)
def test_text_that_is_refused(text: str, error: str) -> None:
    with pytest.raises(ClientDecodeError) as caught:
        v1_json.parse(text.encode())
    assert caught.value.text == error


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (b"\x09", "unknown tag 0x9 for sum type ClientMessage"),
        (b"\x05\x01\x00", "data too short for u32: Expected 4, given 2"),
        (b"\x00\x01\x00\x00\x00\xff" + bytes(9), "invalid utf8"),
        (b"\x00" + bytes(12) + b"\x02", "invalid call reducer flag 2"),
        (b"\x07" + bytes(12) + b"\x01", "invalid call procedure flag 1"),
    ],
)
def test_bytes_that_are_refused(payload: bytes, error: str) -> None:
    with pytest.raises(ClientDecodeError) as caught:
        v1.parse(payload)
    assert caught.value.text == error


@given(st.binary(max_size=60))
def test_random_bytes(payload: bytes) -> None:
    for parse in (v1.parse, v1_json.parse):
        try:
            parse(payload)
        except ClientDecodeError:
            pass


def test_other_ways_to_write_a_text_message() -> None:
    expected = v1.OneOffQuery(18, b"\x01\xff", "q")
    for text in (
        '{"OneOffQuery":{"query_string":"q","message_id":[1,255]}}',
        '[2,["01ff","q"]]',
        '{"2":{"message_id":"01ff","query_string":"q"}}',
    ):
        assert v1_json.parse(text.encode()) == [expected]


def test_update_of_several_sets() -> None:
    """The update of a v2 client, sets merged by table, one (deletes, inserts) per query."""
    first, second = row_list_of([b"ab", b"cde"]), row_list_of([b"xyz"])
    update = array(
        [
            query_set_update(0, [table_update("item", [persistent_rows(first, NO_ROWS)])]),
            query_set_update(
                3,
                [
                    table_update("flash", [event_rows(second)]),
                    table_update(
                        "item",
                        [
                            persistent_rows(second, first),
                            persistent_rows(first, second),
                        ],
                    ),
                ],
            ),
        ]
    )
    assert v1.split_update(update) == {
        string("item"): [(NO_ROWS, first), (first, second), (second, first)],
        string("flash"): [(NO_ROWS, second)],
    }
    assert v1.split_rows(table_rows("item", first)) == (string("item"), first)
    assert [v1.row_count(rows) for rows in (first, second, NO_ROWS)] == [2, 1, 0]
    assert v1.row_list_value(first) == ((1, [0, 2]), b"abcde")
    assert v1.row_list_value(second) == ((0, 3), b"xyz")
