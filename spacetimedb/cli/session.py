"""A WebSocket session, message by message: a thin shell for `subscribe`, `export`, the bots and tests.

For what subscribes and calls there is `spacetimedb.client`; this one hands on the server's messages as they are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from ..client.address import Address
from ..client.trio_wire import open_stream
from ..protocol import v2_client
from ..protocol.client_socket import ClientSocket, HandshakeRefused, SocketError, client_frame

CONNECT_SECONDS = 60.0
"""A database that starts may take a while to greet."""
CLOSE_SECONDS = 1.0


class SessionRefused(Exception):
    """The server answered the handshake with an error: `status` and its text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text or f"HTTP status {status}")
        self.status = status


class SessionLost(Exception):
    """The connection is gone, or never came to be."""


class Session:
    """One open connection after its greeting.

    `receive()` gives the messages of the next frame. Requests are numbered by `next_request()`; answers carry the
    number.
    """

    def __init__(self, stream: trio.abc.Stream, socket: ClientSocket) -> None:
        self._stream = stream
        self._socket = socket
        self._sending = trio.StrictFIFOLock()
        self._frames: deque[bytes] = deque()
        self._request = 0
        self._early: list[v2_client.ServerMessage] = []
        self.identity = b""
        self.connection_id = b""
        self.token = ""

    def next_request(self) -> int:
        self._request += 1
        return self._request

    async def send(self, message: bytes) -> None:
        """Sends one client message (made by `protocol.v2_client`). SessionLost if the connection is gone."""
        if self._socket.close_code is not None:
            raise SessionLost(self._reason())
        await self._send(client_frame(message))

    async def _send(self, data: bytes) -> None:
        try:
            async with self._sending:
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise SessionLost(self._reason()) from None

    async def receive(self) -> list[v2_client.ServerMessage]:
        """Messages of the next frame, at least one. SessionLost at the end."""
        if self._early:
            early, self._early = self._early, []
            return early
        return v2_client.decode_frame(await self._frame())

    async def _frame(self) -> bytes:
        while not self._frames:
            if self._socket.close_code is not None:
                raise SessionLost(self._reason())
            try:
                data = bytes(await self._stream.receive_some())
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            try:
                if data:
                    self._frames += self._socket.receive(data)
                else:
                    self._socket.end_of_stream()
            except HandshakeRefused as refused:
                raise SessionRefused(refused.status, refused.text) from None
            except SocketError as error:
                raise SessionLost(str(error)) from None
            await self._flush()
            if not data and not self._frames:
                raise SessionLost(self._reason())
        return self._frames.popleft()

    async def _flush(self) -> None:
        data, self._socket.outgoing = self._socket.outgoing, b""
        if data:
            try:
                await self._send(data)
            except SessionLost:
                pass  # what was received before is still to be handed on

    def _reason(self) -> str:
        text = self._socket.close_reason
        return f"the server closed the connection: {text}" if text else "the connection was lost"

    async def greet(self) -> None:
        """Shakes hands and takes the greeting. SessionRefused, SessionLost."""
        await self._flush()
        first, *self._early = v2_client.decode_frame(await self._frame())
        if not isinstance(first, v2_client.InitialConnection):
            raise SessionLost("the server did not greet")
        self.identity, self.connection_id, self.token = first.identity, first.connection_id, first.token

    async def close(self) -> None:
        """Closes in order, as far as the server goes along."""
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            try:
                self._socket.close()
                await self._flush()
                while self._socket.close_code is None:
                    self._frames.clear()
                    await self._frame()
            except (SessionLost, SessionRefused):
                pass
        await trio.aclose_forcefully(self._stream)


@asynccontextmanager
async def open_session(
    url: str, database: str, *, token: str | None = None, confirmed: bool | None = None
) -> AsyncIterator[Session]:
    """A session with `database` (name or identity) on the server at `url` (http or https).

    SessionRefused if the server says no to the handshake, SessionLost if there is no connection to be had.
    """
    address = Address.parse(url, database, token=token, confirmed=confirmed)
    try:
        stream = await open_stream(address)
    except OSError as error:
        raise SessionLost(f"no connection to {url}: {error}") from None
    session = Session(stream, address.socket(token))
    try:
        with trio.move_on_after(CONNECT_SECONDS) as waiting:
            await session.greet()
        if waiting.cancelled_caught:
            raise SessionLost(f"{url} did not answer within {CONNECT_SECONDS:g} s")
        yield session
    finally:
        await session.close()
