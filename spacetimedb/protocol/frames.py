"""WebSocket frames (RFC 6455), server side: split what clients send, frame what the server sends.

One frame, all integers big-endian:

    byte 0      FIN bit 0x80, three reserved bits (must be 0: no extension is ever negotiated), opcode (low 4 bits)
    byte 1      MASK bit 0x80, length 0..125, or 126 (then u16 length follows), or 127 (then u64 length follows)
    0|2|8 bytes extended length
    4 bytes     masking key, exactly if MASK is set; client frames must be masked, server frames never are
    payload     client: byte i is XORed with key[i % 4]

Opcodes: 0 continuation, 1 text, 2 binary, 8 Close, 9 Ping, 10 Pong. Control frames (8..10) are never fragmented, carry
at most 125 bytes, and may stand between the fragments of a message.

Reading works on whole `recv` results. The usual case, a read that holds some complete small frames and nothing else,
leaves no state behind, so an idle connection costs one slotted object. A frame that is still incomplete is kept as the
list of the reads it came in and is looked at again only when all its bytes are there: a message of n bytes is copied
O(1) times however small the reads are. XOR runs over the whole payload as one big integer.
"""

from __future__ import annotations

import struct
from typing import Final

CONTINUATION: Final = 0
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING_OPCODE: Final = 9
PONG_OPCODE: Final = 10

MAX_MESSAGE: Final = 0x2000000
"""Longest client message in bytes (32 MiB), fragments together; that length itself is accepted. Beyond: close 1009."""
MAX_FRAME_PAYLOAD: Final = 16 * 1024 * 1024
"""Longest payload of one server frame; longer messages are fragmented (a client refuses longer frames)."""
MAX_CLOSE_REASON: Final = 123
"""Bytes of UTF-8 that fit behind the code of a Close frame."""

PING: Final = b"\x89\x00"
"""A whole Ping frame with empty payload."""
TOO_LONG: Final = 1009
"""Close code for a client message above MAX_MESSAGE."""

Frame = tuple[int, bytes]
"""(opcode, payload): a whole data message (TEXT, BINARY) or one control frame (CLOSE, PING_OPCODE, PONG_OPCODE)."""

_U16: Final = struct.Struct(">H")
_U64: Final = struct.Struct(">Q")
_HEAD_16: Final = struct.Struct(">BBH")
_HEAD_64: Final = struct.Struct(">BBQ")
_EMPTY_KEY: Final = b"\0\0\0\0"


class FrameError(Exception):
    """The client broke the framing rules.

    `close_code` is None where the connection is to be dropped without a Close, 1009 for a message that is too long.
    `frames` are the frames that were complete before the violation: they are valid and still to be processed.
    """

    def __init__(self, text: str, close_code: int | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.close_code = close_code
        self.frames: list[Frame] = []


def unmask(payload: bytes, key: bytes) -> bytes:
    """XOR `payload` with the repeated 4-byte `key`; masking and unmasking are the same."""
    size = len(payload)
    if key == _EMPTY_KEY or not size:
        return payload
    mask = (key * ((size + 3) >> 2))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(mask, "little")).to_bytes(size, "little")


class FrameSplitter:
    """Cuts the byte stream of one client into messages.

    Invariants: `_pending` holds the reads of an incomplete frame, `_pending_size` bytes, worth looking at from
    `_needed` bytes on. `_message` is the unmasked beginning of a fragmented message of type `_opcode` (0: none).
    """

    __slots__ = ("_closed", "_message", "_needed", "_opcode", "_pending", "_pending_size", "max_message")

    def __init__(self, max_message: int = MAX_MESSAGE) -> None:
        self.max_message = max_message
        self._pending: list[bytes] | None = None
        self._pending_size = 0
        self._needed = 0
        self._message: bytearray | None = None
        self._opcode = 0
        self._closed = False

    def feed(self, data: bytes) -> list[Frame]:
        """Take one read and return the messages and control frames that are now complete, in order.

        Everything after a Close frame is ignored. Raises FrameError (its `frames` hold what came before).
        """
        if self._closed:
            return []
        pending = self._pending
        if pending is not None:
            pending.append(data)
            self._pending_size += len(data)
            if self._pending_size < self._needed:
                return []
            data = b"".join(pending)
            self._pending = None
        frames: list[Frame] = []
        at = 0
        end = len(data)
        try:
            while at < end:
                if end - at < 6:
                    self._keep(data[at:], 6)
                    break
                first = data[at]
                size = data[at + 1] - 128
                start = at + 6
                if size > 125:
                    if size == 126:
                        start = at + 8
                        if end < start:
                            self._keep(data[at:], 8)
                            break
                        size = _U16.unpack_from(data, at + 2)[0]
                    else:
                        start = at + 14
                        if end < start:
                            self._keep(data[at:], 14)
                            break
                        size = _U64.unpack_from(data, at + 2)[0]
                        if size > self.max_message:
                            # Refused before a byte of the payload is kept.
                            self._check_head(first, size)
                            raise FrameError("message too long", TOO_LONG)
                elif size < 0:
                    raise FrameError("client frame is not masked")
                stop = start + size
                if stop > end:
                    self._check_head(first, size)
                    self._keep(data[at:], stop - at)
                    break
                if size:
                    mask = (data[start - 4 : start] * ((size + 3) >> 2))[:size]
                    payload = (int.from_bytes(data[start:stop], "little") ^ int.from_bytes(mask, "little")).to_bytes(
                        size, "little"
                    )
                else:
                    payload = b""
                at = stop
                if first == 0x82 and self._message is None and size <= self.max_message:
                    frames.append((2, payload))
                    continue
                self._check_head(first, size)
                frame = self._slow(first, payload)
                if frame is not None:
                    frames.append(frame)
                    if self._closed:
                        break
        except FrameError as error:
            self._closed = True
            self._message = None
            error.frames = frames
            raise
        return frames

    def _keep(self, rest: bytes, needed: int) -> None:
        self._pending = [rest]
        self._pending_size = len(rest)
        self._needed = needed

    def _check_head(self, first: int, size: int) -> None:
        """Refuse what the first byte and the length already show to be wrong."""
        opcode = first & 0x0F
        if first & 0x70:
            raise FrameError("reserved bit set")
        if opcode >= 8:
            if opcode > 10:
                raise FrameError("reserved opcode")
            if not first & 0x80:
                raise FrameError("fragmented control frame")
            if size > 125:
                raise FrameError("control frame too long")
            return
        if opcode > 2:
            raise FrameError("reserved opcode")
        message = self._message
        if opcode == 0:
            if message is None:
                raise FrameError("continuation without a start")
            size += len(message)
        elif message is not None:
            raise FrameError("new message inside a fragmented one")
        if size > self.max_message:
            raise FrameError("message too long", TOO_LONG)

    def _slow(self, first: int, payload: bytes) -> Frame | None:
        """Everything but a whole binary message; the head is already checked."""
        opcode = first & 0x0F
        if opcode >= 8:
            if opcode == CLOSE:
                self._check_close(payload)
                self._closed = True
            return opcode, payload
        if not first & 0x80:
            if opcode:
                self._opcode = opcode
                self._message = bytearray(payload)
            elif self._message is not None:
                self._message += payload
            return None
        message = self._message
        if opcode == CONTINUATION and message is not None:
            opcode = self._opcode
            message += payload
            payload = bytes(message)
            self._message = None
        if opcode == TEXT:
            try:
                payload.decode()
            except UnicodeDecodeError:
                raise FrameError("text message is not UTF-8") from None
        return opcode, payload

    @staticmethod
    def _check_close(payload: bytes) -> None:
        if len(payload) == 1:
            raise FrameError("Close with one byte")
        try:
            payload[2:].decode()
        except UnicodeDecodeError:
            raise FrameError("Close reason is not UTF-8") from None


def server_frame(length: int, opcode: int = BINARY, fin: bool = True) -> bytes:
    """Header of a server frame with `length` bytes of payload; the caller appends the payload."""
    first = opcode | 0x80 if fin else opcode
    if length < 126:
        return bytes((first, length))
    if length < 65536:
        return _HEAD_16.pack(first, 126, length)
    return _HEAD_64.pack(first, 127, length)


def data_frames(body: bytes, opcode: int) -> bytes:
    """`body` as one message: one frame, or fragments of MAX_FRAME_PAYLOAD bytes if it is longer than that."""
    length = len(body)
    if length <= MAX_FRAME_PAYLOAD:
        return server_frame(length, opcode) + body
    parts: list[bytes] = []
    for at in range(0, length, MAX_FRAME_PAYLOAD):
        piece = body[at : at + MAX_FRAME_PAYLOAD]
        parts.append(server_frame(len(piece), opcode if at == 0 else CONTINUATION, at + MAX_FRAME_PAYLOAD >= length))
        parts.append(piece)
    return b"".join(parts)


def binary_frames(body: bytes) -> bytes:
    """`body` (tag byte included) as one binary message."""
    return data_frames(body, BINARY)


def text_frames(text: bytes) -> bytes:
    """`text` (UTF-8) as one text message."""
    return data_frames(text, TEXT)


def pong_frame(payload: bytes) -> bytes:
    """The answer to a Ping with this payload (at most 125 bytes)."""
    return bytes((0x80 | PONG_OPCODE, len(payload))) + payload


def close_frame(code: int | None, reason: str = "") -> bytes:
    """A Close frame; `code` None gives an empty one. The reason is cut to 123 bytes at a character boundary."""
    if code is None:
        return b"\x88\x00"
    text = reason.encode("utf-8", "replace")
    if len(text) > MAX_CLOSE_REASON:
        text = text[:MAX_CLOSE_REASON].decode("utf-8", "ignore").encode()
    return bytes((0x80 | CLOSE, len(text) + 2)) + _U16.pack(code) + text


def close_echo(payload: bytes) -> bytes:
    """The answer to a client's Close frame: code and reason unchanged, an empty Close by an empty one."""
    return bytes((0x80 | CLOSE, len(payload))) + payload
