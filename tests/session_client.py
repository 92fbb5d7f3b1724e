"""A WebSocket client that sends exactly the frames a test wants: a blocking socket and the few rules of RFC 6455."""

from __future__ import annotations

import base64
import os
import socket
import struct
import time
from collections import deque
from urllib.parse import urlsplit

import v1_view
from patience import PATIENCE_S
from v1_view import V1Message

from spacetimedb.protocol import v2_client
from spacetimedb.protocol.frames import BINARY, CLOSE, CONTINUATION, PING_OPCODE, PONG_OPCODE, TEXT, unmask
from spacetimedb.protocol.v2_client import ServerMessage

Received = ServerMessage | V1Message


class Refused(Exception):
    """The server answered the upgrade with something else than 101."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status} {body}")
        self.status = status
        self.body = body


class Ended(Exception):
    """The connection ended: with a Close (code and reason), or without (code None)."""

    def __init__(self, code: int | None, reason: str = "") -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


def decode(protocol: str, message: bytes) -> list[Received]:
    """The server messages in one WebSocket message."""
    if protocol.startswith("v1"):
        return [v1_view.decode(message, protocol == "v1.json.spacetimedb")]
    return [*v2_client.decode_frame(message)]


class SessionClient:
    """One connection. `protocol` is the chosen subprotocol."""

    def __init__(
        self, base_url: str, database: str, protocols: list[str], query: str, headers: dict[str, str] | None = None
    ) -> None:
        address = urlsplit(base_url)
        assert address.hostname is not None
        self._socket = socket.create_connection((address.hostname, address.port or 80), PATIENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self._messages: deque[Received] = deque()
        self._fragments: list[bytes] = []
        self._opcode = 0
        self.pongs: list[bytes] = []
        lines = [
            f"GET /v1/database/{database}/subscribe?{query} HTTP/1.1",
            f"Host: {address.netloc}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        ]
        if protocols:
            lines.append(f"Sec-WebSocket-Protocol: {', '.join(protocols)}")
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        head = self._read_head()
        status = int(head[0].split(" ")[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        if status != 101:
            body = self._read_exactly(int(self.headers.get("content-length", "0")))
            self._socket.close()
            raise Refused(status, body.decode())
        self.protocol = self.headers["sec-websocket-protocol"]

    @property
    def port(self) -> int:
        """The client's own."""
        port: int = self._socket.getsockname()[1]
        return port

    def _read_head(self) -> list[str]:
        while b"\r\n\r\n" not in self._buffer:
            self._more(PATIENCE_S)
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head.decode("latin-1").split("\r\n")

    def _more(self, seconds: float) -> None:
        """Read something. Raises TimeoutError, Ended."""
        self._socket.settimeout(max(seconds, 0.001))
        try:
            data = self._socket.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            raise Ended(None)
        self._buffer += data

    def _read_exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more(PATIENCE_S)
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    # Sending

    def send_frame(self, payload: bytes, opcode: int = BINARY, fin: bool = True) -> None:
        size = len(payload)
        first = opcode | (0x80 if fin else 0)
        if size < 126:
            head = bytes((first, 0x80 | size))
        elif size < 65536:
            head = struct.pack(">BBH", first, 0xFE, size)
        else:
            head = struct.pack(">BBQ", first, 0xFF, size)
        key = os.urandom(4)
        self._socket.sendall(head + key + unmask(payload, key))

    def send(self, payload: bytes, opcode: int = BINARY, pieces: int = 1) -> None:
        """One message in so many fragments."""
        step = max(1, -(-len(payload) // pieces))
        parts = [payload[at : at + step] for at in range(0, len(payload), step)] or [b""]
        for index, part in enumerate(parts):
            self.send_frame(part, CONTINUATION if index else opcode, index == len(parts) - 1)

    def send_text(self, text: str) -> None:
        self.send(text.encode(), TEXT)

    def close(self) -> None:
        """Close with 1000 and wait for the end."""
        self.send_frame(struct.pack(">H", 1000), CLOSE)
        try:
            while True:
                self._frame(PATIENCE_S)
        except Ended:
            self._socket.close()

    def drop(self) -> None:
        """Reset the TCP connection, if there is one."""
        if self._socket.fileno() < 0:
            return
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    # Receiving

    def receive(self, seconds: float = PATIENCE_S) -> Received:
        """The next message. Raises TimeoutError, Ended."""
        deadline = time.monotonic() + seconds
        while not self._messages:
            self._frame(deadline - time.monotonic())
        return self._messages.popleft()

    def receive_all(self) -> tuple[list[Received], Ended]:
        """All messages until the connection ends, and how it ended. Raises TimeoutError."""
        try:
            while True:
                self._frame(PATIENCE_S)
        except Ended as end:
            return list(self._messages), end

    def ping(self, payload: bytes) -> None:
        """Ping, and wait for the Pong."""
        self.send_frame(payload, PING_OPCODE)
        while payload not in self.pongs:
            self._frame(PATIENCE_S)
        self.pongs.remove(payload)

    def _frame(self, seconds: float) -> None:
        """Take one frame. Raises TimeoutError, Ended."""
        deadline = time.monotonic() + seconds
        while (parsed := self._parse()) is None:
            self._more(deadline - time.monotonic())
        first, payload = parsed
        opcode = first & 0x0F
        assert not first & 0x70, "reserved bits"
        if opcode == CLOSE:
            code = struct.unpack(">H", payload[:2])[0] if payload else None
            raise Ended(code, payload[2:].decode())
        if opcode == PING_OPCODE:
            self.send_frame(payload, PONG_OPCODE)
        elif opcode == PONG_OPCODE:
            self.pongs.append(payload)
        else:
            expected = TEXT if self.protocol == "v1.json.spacetimedb" else BINARY
            assert opcode in (expected, CONTINUATION), "text from a binary protocol, or the other way round"
            self._fragments.append(payload)
            if first & 0x80:
                message, self._fragments = b"".join(self._fragments), []
                decoded = decode(self.protocol, message)
                assert self.protocol.startswith("v3") or len(decoded) == 1
                self._messages.extend(decoded)

    def _parse(self) -> tuple[int, bytes] | None:
        data = self._buffer
        if len(data) < 2:
            return None
        assert not data[1] & 0x80, "servers do not mask"
        size, start = data[1], 2
        if size == 126:
            if len(data) < 4:
                return None
            size, start = struct.unpack(">H", data[2:4])[0], 4
        elif size == 127:
            if len(data) < 10:
                return None
            size, start = struct.unpack(">Q", data[2:10])[0], 10
        if len(data) < start + size:
            return None
        self._buffer = data[start + size :]
        return data[0], data[start : start + size]
