"""Decode errors of client messages, grouping of server messages, and random input."""

from __future__ import annotations

import contextlib
import gzip
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacetimedb.protocol import v2, v2_client
from spacetimedb.protocol.frames import FrameSplitter, unmask


def call(request_id: int, args: bytes = b"") -> bytes:
    return v2_client.call_reducer(request_id, "tick", args)


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"\x09", "unknown tag 0x9 for sum type ClientMessage"),
        (b"\x03\x01", "data too short for u32: Expected 4, given 1"),
        (b"", "data too short for u8: Expected 1, given 0"),
        (struct.pack("<BIBI", 3, 1, 0, 2) + b"\xff\xff" + bytes(4), "invalid utf8"),
        (struct.pack("<BIBI", 3, 1, 7, 0) + bytes(4), "invalid call reducer flag 7"),
        (struct.pack("<BIBI", 4, 1, 7, 0) + bytes(4), "invalid call procedure flag 7"),
        (struct.pack("<BIBI", 3, 1, 0, 0xFFFFFFFF), "data too short for [u8]: Expected 4294967295, given 0"),
        (struct.pack("<BIIB", 1, 1, 1, 2), "unknown tag 0x2 for sum type UnsubscribeFlags"),
        (struct.pack("<BIII", 0, 1, 1, 0xFFFFFFFF), "data too short for u32: Expected 4, given 0"),
    ],
)
def test_decode_error(payload: bytes, text: str) -> None:
    with pytest.raises(v2.ClientDecodeError) as caught:
        v2.parse_messages(payload, False)
    assert caught.value.text == text
    assert caught.value.close_code == 1011


def test_messages_before_a_bad_one_are_kept() -> None:
    with pytest.raises(v2.ClientDecodeError) as caught:
        v2.parse_messages(call(1) + call(2) + b"\x09" + call(4), True)
    assert [message[1] for message in caught.value.messages] == [1, 2]


def test_v2_ignores_what_follows_the_message() -> None:
    assert v2.parse_messages(call(1) + b"\xff\xff", False) == [(3, 1, "tick", b"")]


def test_number_of_messages_is_limited() -> None:
    limit = v2.MAX_MESSAGES_PER_FRAME
    assert len(v2.parse_messages(call(1) * limit, True)) == limit
    with pytest.raises(v2.TooManyRequests) as caught:
        v2.parse_messages(call(1) * (limit + 1), True)
    assert caught.value.close_code == 1013
    assert len(caught.value.messages) == limit


def split_server(data: bytes) -> list[bytes]:
    """Payloads of unmasked server frames, by masking them and using the splitter."""
    frames: list[bytes] = []
    at = 0
    while at < len(data):
        size, start = data[at + 1], at + 2
        if size == 126:
            size, start = int.from_bytes(data[start : start + 2], "big"), start + 2
        elif size == 127:
            size, start = int.from_bytes(data[start : start + 8], "big"), start + 8
        assert size <= 16 * 1024 * 1024
        frames.append(bytes([data[at]]) + data[start : start + size])
        at = start + size
    return frames


def test_v3_packing_respects_the_cap_and_the_order() -> None:
    sizes = [200_000, 200_000, 200_000, 10, v2.MAX_COALESCED, 1, 600_000, 5, 17 * 1024 * 1024]
    messages = [bytes([index + 1]) * size for index, size in enumerate(sizes)]
    frames = split_server(v2.pack_v3(messages))
    joined = b"".join(frame[2:] if frame[0] & 0x0F else frame[1:] for frame in frames)
    assert joined == b"".join(messages)
    for frame in frames:
        assert frame[0] & 0x0F == 0 or frame[1] == 0
        assert len(frame) <= v2.MAX_COALESCED + 2 or len(set(frame[2:])) == 1
    assert [frame[0] for frame in frames] == [0x82] * 6 + [0x02, 0x80]
    assert v2.pack_v3([]) == b""


def test_v2_packing_is_one_message_each() -> None:
    messages = [b"a", b"b" * 70_000, b"c" * 125, b"d" * 124, bytes(16 * 1024 * 1024)]
    frames = split_server(v2.pack_v2(messages))
    assert frames[:4] == [b"\x82\0" + message for message in messages[:4]]
    assert [frame[0] for frame in frames[4:]] == [0x02, 0x80]


def test_compressed_server_frames() -> None:
    body = v2.subscription_error(None, 7, "boom")
    assert v2_client.decode_frame(b"\2" + gzip.compress(body)) == v2_client.decode_frame(b"\0" + body)
    for frame in (b"", b"\1abc", b"\2abc", b"\2" + gzip.compress(body)[:-3]):
        with pytest.raises(v2_client.ServerDecodeError):
            v2_client.decode_frame(frame)


@given(st.binary(max_size=200), st.booleans())
def test_random_client_bytes(payload: bytes, several: bool) -> None:
    with contextlib.suppress(v2.ClientDecodeError):
        v2.parse_messages(payload, several)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.data())
def test_damaged_client_messages(kinds: list[int], data: st.DataObject) -> None:
    samples = (
        v2_client.subscribe(1, 2, ["SELECT * FROM a", "x"]),
        v2_client.unsubscribe(1, 2),
        v2_client.one_off_query(1, "q"),
        call(3, b"abc"),
    )
    payload = bytearray(b"".join(samples[kind] for kind in kinds))
    assert len(v2.parse_messages(bytes(payload), True)) == len(kinds)
    place = data.draw(st.integers(0, len(payload) - 1))
    payload[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(payload)))
    with contextlib.suppress(v2.ClientDecodeError):
        v2.parse_messages(bytes(payload[:cut]), True)


@given(st.binary(max_size=200))
def test_random_server_bytes(payload: bytes) -> None:
    try:
        v2_client.decode_frame(payload)
    except v2_client.ServerDecodeError:
        pass


def test_call_survives_the_way_through_a_frame() -> None:
    payload = b"".join(call(index, bytes(index)) for index in range(50))
    frame = struct.pack(">BBH", 0x82, 254, len(payload)) + b"abcd" + unmask(payload, b"abcd")
    ((opcode, received),) = FrameSplitter().feed(frame)
    assert opcode == 2
    assert [message[1] for message in v2.parse_messages(received, True)] == list(range(50))
