"""A WebSocket session of protocol v3 or v2 over trio-websocket: a thin shell for `subscribe`, the bots and tests."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast
from urllib.parse import quote, urlencode, urlsplit

import trio
import trio_websocket

from ..protocol import v2_client

SUBPROTOCOLS = ("v3.bsatn.spacetimedb", "v2.bsatn.spacetimedb")
MAXIMUM_MESSAGE_BYTES = 512 * 1024 * 1024
MESSAGES_BUFFERED = 64
CLOSE_SECONDS = 1.0
LAST_WORDS_SECONDS = 0.1
"""For what came before the end of the stream to be understood."""


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

    def __init__(
        self, socket: Any, greeting: v2_client.InitialConnection, early: Sequence[v2_client.ServerMessage]
    ) -> None:
        self._socket = socket
        self._early = list(early)
        self._request = 0
        self.identity = greeting.identity
        self.connection_id = greeting.connection_id
        self.token = greeting.token

    def next_request(self) -> int:
        self._request += 1
        return self._request

    async def send(self, message: bytes) -> None:
        """Sends one client message (made by `protocol.v2_client`). SessionLost if the connection is gone."""
        try:
            await self._socket.send_message(message)
        except (trio_websocket.ConnectionClosed, OSError, trio.BrokenResourceError) as error:
            raise SessionLost(_reason(error)) from None

    async def receive(self) -> list[v2_client.ServerMessage]:
        """Messages of the next frame, at least one. SessionLost at the end."""
        if self._early:
            early, self._early = self._early, []
            return early
        return v2_client.decode_frame(await _frame(self._socket))


async def _frame(socket: Any) -> bytes:
    try:
        frame = await socket.get_message()
    except (trio_websocket.ConnectionClosed, OSError, trio.BrokenResourceError) as error:
        raise SessionLost(_reason(error)) from None
    if not isinstance(frame, bytes):
        raise SessionLost("the server sent a text frame")
    return frame


def _reason(error: Exception) -> str:
    closed = getattr(error, "reason", None)
    text = getattr(closed, "reason", None) or ""
    return f"the server closed the connection: {text}" if text else "the connection was lost"


def _meaning(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What the exceptions of a session's tasks come to. A failed handshake is raised in the library's own task."""
    if failed := group.subgroup(trio_websocket.HandshakeError):
        error = _first(failed)
        if isinstance(error, trio_websocket.ConnectionRejected):
            return SessionRefused(error.status_code, (error.body or b"").decode("utf-8", "replace"))
        return SessionLost(f"the handshake failed: {error}")
    only: BaseException = group
    while isinstance(only, BaseExceptionGroup) and len(only.exceptions) == 1:
        only = only.exceptions[0]
    return only


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class _WatchedStream(trio.abc.Stream):
    """A stream that says when the peer has ended it: the WebSocket library waits on for an answer to its handshake."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.ended = trio.Event()
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError:
            self.ended.set()
            raise

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        try:
            data = await self._stream.receive_some(max_bytes)
        except trio.BrokenResourceError:
            self.ended.set()
            raise
        if not data:
            self.ended.set()
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _open_stream(host: str, port: int, secure: bool) -> _WatchedStream:
    if not secure:
        return _WatchedStream(await trio.open_tcp_stream(host, port))
    context = ssl.create_default_context()
    return _WatchedStream(await trio.open_ssl_over_tcp_stream(host, port, ssl_context=context, https_compatible=True))


async def _shake_hands(
    nursery: trio.Nursery,
    stream: _WatchedStream,
    host: str,
    resource: str,
    subprotocols: Sequence[str],
    headers: list[tuple[bytes, bytes]],
) -> Any:
    """The open WebSocket. SessionLost if the stream ends before."""
    opened: list[Any] = []
    async with trio.open_nursery() as race:

        async def lose() -> None:
            await stream.ended.wait()
            await trio.sleep(LAST_WORDS_SECONDS)
            race.cancel_scope.cancel()

        race.start_soon(lose)
        opened.append(
            await trio_websocket.wrap_client_stream(
                nursery,
                cast(Any, stream),  # any stream does
                host,
                resource,
                subprotocols=list(subprotocols),
                extra_headers=headers,
                message_queue_size=MESSAGES_BUFFERED,
                max_message_size=MAXIMUM_MESSAGE_BYTES,
            )
        )
        race.cancel_scope.cancel()
    if not opened:
        await trio.aclose_forcefully(stream)
        raise SessionLost("the server ended the connection during the handshake")
    return opened[0]


@asynccontextmanager
async def open_session(
    url: str,
    database: str,
    *,
    token: str | None = None,
    confirmed: bool | None = None,
    subprotocols: Sequence[str] = SUBPROTOCOLS,
) -> AsyncIterator[Session]:
    """A session with `database` (name or identity) on the server at `url` (http or https).

    SessionRefused if the server says no to the handshake, SessionLost if there is no connection to be had.
    """
    parts = urlsplit(url)
    parameters = {"compression": "None"} | ({} if confirmed is None else {"confirmed": str(confirmed).lower()})
    resource = f"{parts.path.rstrip('/')}/v1/database/{quote(database, safe='')}/subscribe?{urlencode(parameters)}"
    secure = parts.scheme == "https"
    headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
    try:
        async with trio.open_nursery() as nursery:
            try:
                stream = await _open_stream(parts.hostname or "", parts.port or (443 if secure else 80), secure)
                socket = await _shake_hands(
                    nursery, stream, parts.netloc.rpartition("@")[2], resource, subprotocols, headers
                )
            except OSError as error:
                raise SessionLost(f"no connection to {url}: {error}") from None
            try:
                first, *early = v2_client.decode_frame(await _frame(socket))
                if not isinstance(first, v2_client.InitialConnection):
                    raise SessionLost("the server did not greet")
                yield Session(socket, first, early)
            finally:
                with trio.move_on_after(CLOSE_SECONDS, shield=True):
                    await socket.aclose()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:  # the nursery is our own affair: callers catch what was raised, not groups
        raise _meaning(group) from None
