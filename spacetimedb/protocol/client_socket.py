"""The client's end of one WebSocket, without I/O: bytes in, messages out, and the bytes that are to be sent.

An answer that is no 101 is read with h11. The frames (format: head of `frames.py`; here the server's are not masked
and the client's are) take a lane of their own: a read that holds whole, small, unfragmented binary frames costs a few
slices. An incomplete frame is kept as the list of reads it came in and is looked at again when all its bytes are there.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import Final

import h11
from wsproto.utilities import generate_accept_token, generate_nonce

from .frames import BINARY, CLOSE, CONTINUATION, PING_OPCODE, PONG_OPCODE, TEXT, unmask

MAX_SERVER_MESSAGE: Final = 512 * 1024 * 1024
"""Longest message in bytes, fragments together; a longer one ends the connection with 1009."""
MAX_REFUSAL: Final = 64 * 1024
"""Bytes of a refusal's body that are kept."""
MAX_HEAD: Final = 64 * 1024
"""Longest head of a 101 in bytes."""
NORMAL_CLOSE: Final = 1000

_SWITCHING: Final = b"HTTP/1.1 101"
_UPGRADE: Final = (
    b"GET %b HTTP/1.1\r\nHost: %b\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: %b\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: %b\r\n%b\r\n"
)
_U16: Final = struct.Struct(">H")
_U64: Final = struct.Struct(">Q")
_HEAD_16: Final = struct.Struct(">BBH")
_HEAD_64: Final = struct.Struct(">BBQ")


class HandshakeRefused(Exception):
    """The server answered the upgrade with `status` and `text` instead of 101."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text or f"HTTP status {status}")
        self.status = status
        self.text = text


class SocketError(Exception):
    """The server broke the rules of HTTP or WebSocket."""


def client_frame(payload: bytes, opcode: int = BINARY) -> bytes:
    """One whole, masked frame."""
    size = len(payload)
    key = os.urandom(4)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65536:
        head = _HEAD_16.pack(0x80 | opcode, 0xFE, size)
    else:
        head = _HEAD_64.pack(0x80 | opcode, 0xFF, size)
    return head + key + unmask(payload, key)


class ClientSocket:
    """One connection from its first byte to its last.

    `outgoing` collects bytes to be sent (handshake, pongs, the answer to a Close): the owner takes and clears it.
    `subprotocol` is the chosen one, None before the handshake is over. `close_code` and `close_reason` are set when the
    server closes.
    """

    __slots__ = (
        "_head",
        "_needed",
        "_nonce",
        "_parts",
        "_pending",
        "_pending_size",
        "_refusal",
        "_refusing",
        "close_code",
        "close_reason",
        "is_closing",
        "outgoing",
        "subprotocol",
    )

    def __init__(
        self, host: str, resource: str, subprotocols: Sequence[str], headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        self._nonce = generate_nonce()
        if any(sign in value for _, value in headers for sign in (b"\r", b"\n", b"\0")):
            raise ValueError("a header of the handshake (the token) has a line break in it")
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        names = ", ".join(subprotocols).encode("ascii")
        self.outgoing = _UPGRADE % (resource.encode("ascii"), host.encode("idna"), self._nonce, names, lines)
        self._head: bytes | None = b""
        """What has come of the answer's head; None when the connection is open."""
        self._refusing: h11.Connection | None = None
        """Reads an answer that is no 101."""
        self._refusal: tuple[int, bytes] = (0, b"")
        self._pending: list[bytes] | None = None
        self._pending_size = 0
        self._needed = 0
        self._parts: bytearray | None = None
        self.subprotocol: str | None = None
        self.close_code: int | None = None
        self.close_reason = ""
        self.is_closing = False

    def receive(self, data: bytes) -> list[bytes]:
        """The payloads of the binary messages that are complete with this read, in order.

        Raises HandshakeRefused, SocketError.
        """
        if self._head is not None:
            data = self._shake(data)
            if not data:
                return []
        if self._pending is not None:
            self._pending.append(data)
            self._pending_size += len(data)
            if self._pending_size < self._needed:
                return []
            data = b"".join(self._pending)
            self._pending = None
        payloads: list[bytes] = []
        at, end = 0, len(data)
        while at < end:
            if end - at < 2:
                self._keep(data[at:], 2)
                break
            first, size = data[at], data[at + 1]
            start = at + 2
            if size > 125:
                start = at + (4 if size == 126 else 10)
                if end < start:
                    self._keep(data[at:], start - at)
                    break
                if size == 126:
                    size = _U16.unpack_from(data, at + 2)[0]
                elif size == 127:
                    size = _U64.unpack_from(data, at + 2)[0]
                    if size > MAX_SERVER_MESSAGE:
                        raise SocketError(f"the server sent a frame of {size} bytes")
                else:
                    raise SocketError("the server sent a masked frame")
            stop = start + size
            if stop > end:
                self._keep(data[at:], stop - at)
                break
            if first == 0x82 and self._parts is None:
                payloads.append(data[start:stop])
            else:
                message = self._irregular(first, data[start:stop])
                if message is not None:
                    payloads.append(message)
                if self.close_code is not None:
                    break
            at = stop
        return payloads

    def end_of_stream(self) -> None:
        """The server sent its last byte. Raises HandshakeRefused if that completes a refusal, SocketError if not yet
        open."""
        if self._head is not None:
            if self._head:
                self._refuse(self._head)
            self._refuse(b"")
            if self._refusal[0]:
                raise HandshakeRefused(self._refusal[0], self._refusal[1].decode("utf-8", "replace"))
            raise SocketError("the server ended the connection during the handshake")

    def close(self, code: int = NORMAL_CLOSE) -> None:
        """Puts a Close into `outgoing`; nothing else may be sent after it."""
        if not self.is_closing:
            self.is_closing = True
            self.outgoing += client_frame(_U16.pack(code), CLOSE)

    def _shake(self, data: bytes) -> bytes:
        """Takes bytes of the answer; returns what came behind a complete 101."""
        if self._refusing is not None:
            self._refuse(data)
            return b""
        head = self._head = (self._head or b"") + data
        if not head.startswith(_SWITCHING[: len(head)]):
            self._head = b""
            self._refuse(head)
            return b""
        end = head.find(b"\r\n\r\n")
        if end < 0:
            if len(head) > MAX_HEAD:
                raise SocketError("the server's answer to the handshake is too long")
            return b""
        fields = (line.partition(b":") for line in head[:end].split(b"\r\n")[1:])
        headers = {name.lower(): value.strip() for name, _, value in fields}
        if headers.get(b"sec-websocket-accept") != generate_accept_token(self._nonce):
            raise SocketError("the handshake failed: no WebSocket server answered")
        self.subprotocol = headers.get(b"sec-websocket-protocol", b"").decode("ascii", "replace")
        self._head = None
        return head[end + 4 :]

    def _refuse(self, data: bytes) -> None:
        """Feeds the refusal (b"": the stream ended). Raises HandshakeRefused when it is complete, SocketError."""
        refusing = self._refusing
        if refusing is None:
            refusing = self._refusing = h11.Connection(h11.CLIENT)
            refusing.send(h11.Request(method=b"GET", target=b"/", headers=[(b"host", b"")]))
            refusing.send(h11.EndOfMessage())
        status, body = self._refusal
        try:
            refusing.receive_data(data)
            while (event := refusing.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                if isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.Data):
                    body = (body + event.data)[:MAX_REFUSAL]
                elif isinstance(event, h11.EndOfMessage):
                    raise HandshakeRefused(status, body.decode("utf-8", "replace"))
                else:
                    break
        except h11.RemoteProtocolError as error:
            if not status:
                why = error if data else "the server ended the connection"
                raise SocketError(f"{why} during the handshake") from None
        self._refusal = status, body

    def _keep(self, rest: bytes, needed: int) -> None:
        self._pending = [rest]
        self._pending_size = len(rest)
        self._needed = needed

    def _irregular(self, first: int, payload: bytes) -> bytes | None:
        """Everything but a whole binary message; a message if this completes one."""
        if first & 0x70:
            raise SocketError("the server set a reserved bit")
        opcode = first & 0x0F
        if opcode == PING_OPCODE:
            self.outgoing += client_frame(payload, PONG_OPCODE)
        elif opcode == CLOSE:
            self.close_code = _U16.unpack_from(payload)[0] if len(payload) >= 2 else 1005
            self.close_reason = payload[2:].decode("utf-8", "replace")
            if not self.is_closing:
                self.is_closing = True
                self.outgoing += client_frame(payload, CLOSE)
        elif opcode == TEXT:
            raise SocketError("the server sent a text message")
        elif opcode in (BINARY, CONTINUATION):
            return self._fragment(first, opcode, payload)
        elif opcode != PONG_OPCODE:
            raise SocketError(f"the server sent a frame of the reserved kind {opcode}")
        return None

    def _fragment(self, first: int, opcode: int, payload: bytes) -> bytes | None:
        if (opcode == BINARY) == (self._parts is not None):
            raise SocketError("the server sent fragments out of order")
        if self._parts is None:
            self._parts = bytearray()
        self._parts += payload
        if len(self._parts) > MAX_SERVER_MESSAGE:
            raise SocketError(f"the server sent a message of more than {MAX_SERVER_MESSAGE} bytes")
        if not first & 0x80:
            return None
        message, self._parts = bytes(self._parts), None
        return message
