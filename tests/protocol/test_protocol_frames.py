"""Frames: splitting under every fragmentation, violations, limits, and what the server builds."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacetimedb.protocol import frames
from spacetimedb.protocol.frames import Frame, FrameError, FrameSplitter


def masked(payload: bytes, opcode: int = 2, fin: bool = True, key: bytes = b"\x01\xf2\x33\x00") -> bytes:
    """A client frame."""
    size = len(payload)
    first = opcode | (0x80 if fin else 0)
    if size < 126:
        head = bytes((first, 128 | size))
    elif size < 65536:
        head = struct.pack(">BBH", first, 254, size)
    else:
        head = struct.pack(">BBQ", first, 255, size)
    mask = (key * (size // 4 + 1))[:size]
    return head + key + bytes(a ^ b for a, b in zip(payload, mask, strict=True))


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 125, 126, 127, 65535, 65536, 70001])
def test_sizes(size: int) -> None:
    payload = bytes(index & 255 for index in range(size))
    splitter = FrameSplitter()
    assert splitter.feed(masked(payload)) == [(2, payload)]
    assert splitter.feed(masked(payload, key=bytes(4)) * 2) == [(2, payload), (2, payload)]


def test_idle_splitter_keeps_nothing() -> None:
    splitter = FrameSplitter()
    splitter.feed(masked(b"abc") * 3)
    assert not hasattr(splitter, "__dict__")
    assert splitter._pending is None
    assert splitter._message is None


stream = st.lists(
    st.one_of(
        st.tuples(st.just("data"), st.binary(max_size=300), st.integers(1, 4)),
        st.tuples(st.just("ping"), st.binary(max_size=125), st.just(1)),
    ),
    max_size=8,
)


@given(stream, st.lists(st.integers(1, 40), max_size=30), st.booleans())
def test_any_fragmentation(parts: list[tuple[str, bytes, int]], cuts: list[int], interleave: bool) -> None:
    data = b""
    expected: list[Frame] = []
    for kind, payload, pieces in parts:
        if kind == "ping":
            data += masked(payload, 9)
            expected.append((9, payload))
            continue
        step = max(1, -(-len(payload) // pieces))
        chunks = [payload[at : at + step] for at in range(0, len(payload), step)] or [b""]
        for index, chunk in enumerate(chunks):
            last = index == len(chunks) - 1
            data += masked(chunk, 0 if index else 2, last)
            if interleave and not last:
                data += masked(b"!", 10)
                expected.append((10, b"!"))
        expected.append((2, payload))
    splitter = FrameSplitter()
    received: list[Frame] = []
    at = 0
    for cut in cuts:
        received += splitter.feed(data[at : at + cut])
        at += cut
    received += splitter.feed(data[at:])
    assert received == expected


@pytest.mark.parametrize(
    "bad",
    [
        b"\x82\x03abcdefg",  # not masked
        masked(b"x", 3),
        masked(b"x", 11),
        b"\xc2" + masked(b"x")[1:],
        masked(b"x", 0),
        masked(b"x", 9, fin=False),
        masked(bytes(126), 9),
        masked(b"x", 8),
        masked(b"\x03\xe8\xff", 8),
        masked(b"\xff", 1),
        masked(b"a", 2, fin=False) + masked(b"b", 2),
        masked(b"a", 1, fin=False) + masked(b"\xff", 0),
    ],
)
def test_violations_drop_the_connection(bad: bytes) -> None:
    splitter = FrameSplitter()
    with pytest.raises(FrameError) as caught:
        splitter.feed(masked(b"before") + bad)
    assert caught.value.close_code is None
    assert caught.value.frames == [(2, b"before")]
    assert splitter.feed(masked(b"after")) == []


def test_a_violation_is_seen_before_the_payload_is_there() -> None:
    for bad in (b"\x83\xff\0\0\0\0\0\1\0\0", masked(bytes(200), 9)[:20]):
        with pytest.raises(FrameError):
            FrameSplitter().feed(bad + bytes(10))


def test_longest_message() -> None:
    splitter = FrameSplitter(1000)
    assert splitter.feed(masked(bytes(1000))) == [(2, bytes(1000))]
    assert splitter.feed(masked(bytes(600), fin=False) + masked(bytes(400), 0)) == [(2, bytes(1000))]
    for bad in (masked(bytes(1001)), masked(bytes(600), fin=False) + masked(bytes(401), 0), masked(bytes(70000))[:14]):
        with pytest.raises(FrameError) as caught:
            FrameSplitter(1000).feed(bad)
        assert caught.value.close_code == frames.TOO_LONG


def test_nothing_after_a_close_is_read() -> None:
    splitter = FrameSplitter()
    close = masked(struct.pack(">H", 1000) + b"bye", 8)
    assert splitter.feed(masked(b"a") + close + masked(b"b")) == [(2, b"a"), (8, b"\x03\xe8bye")]
    assert splitter.feed(masked(b"c")) == []


@given(st.lists(st.binary(max_size=60), max_size=10))
def test_random_bytes(chunks: list[bytes]) -> None:
    splitter = FrameSplitter(5000)
    with contextlib.suppress(FrameError):
        for chunk in chunks:
            splitter.feed(chunk)


def test_server_frames() -> None:
    assert frames.binary_frames(b"abc") == b"\x82\x03abc"
    assert frames.text_frames(b"abc") == b"\x81\x03abc"
    assert frames.binary_frames(bytes(126))[:4] == b"\x82\x7e\x00\x7e"
    assert frames.binary_frames(bytes(65536))[:10] == b"\x82\x7f" + (65536).to_bytes(8, "big")
    assert frames.pong_frame(b"hi") == b"\x8a\x02hi"
    assert frames.close_frame(None) == b"\x88\x00"
    assert frames.close_frame(1011, "no") == b"\x88\x04\x03\xf3no"
    assert frames.close_echo(b"\x03\xe8bye") == b"\x88\x05\x03\xe8bye"
    long = frames.close_frame(1011, "é" * 100)
    assert long[1] == 2 + 122
    assert long[4:].decode() == "é" * 61


def test_long_server_messages_are_fragmented() -> None:
    limit = frames.MAX_FRAME_PAYLOAD
    body = bytes(limit * 2) + b"x"
    data = frames.binary_frames(body)
    heads = [data[0], data[limit + 10], data[2 * (limit + 10)]]
    assert heads == [0x02, 0x00, 0x80]
    assert data[-3:] == b"\x80\x01x"
