"""HTTP connections: read requests with h11, have them answered by `http.api`, hand upgrades on to `websocket`.

A client must get on: a head within HEAD_S, bodies and answers with at least MIN_BYTES_PER_S. All the bodies that the
process holds at one time are limited together.
"""

from __future__ import annotations

import traceback
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Final

import h11
import trio

from spacetimedb.http.api import close_stream
from spacetimedb.http.h11_events import body_events, head_path, request_of, response_head
from spacetimedb.http.messages import Response, text_response
from spacetimedb.http.routes import body_limit
from spacetimedb.http.upgrade import Upgrade
from spacetimedb.workers.reader.http.websocket import open_websocket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from spacetimedb.workers.reader.reader import Reader

READ_BYTES: Final = 64 << 10
HEAD_LIMIT_BYTES: Final = 64 << 10
HEAD_S: Final = 60.0
"""How long a connection may be open without a complete request head."""
STALL_S: Final = 30.0
"""The grace that a body or a piece of an answer has before MIN_BYTES_PER_S counts."""
MIN_BYTES_PER_S: Final = 16 << 10
MAX_BODIES_BYTES: Final = 512 << 20
"""Of all bodies in this process; a request whose body would pass it is refused."""
MAX_DROPPED_BYTES: Final = 16 << 20
"""Read and dropped of a body that is refused, so that its sender sees the answer; then the connection is closed."""
SEND_BYTES: Final = 256 << 10
"""A piece of an answer."""
MAX_AHEAD_BYTES: Final = 64 << 10
"""Taken from a client while it is sent a stream, to notice when it goes away."""
NO_ROOM: Final = "The server has too many requests at once; try again."


async def serve_connection(reader: Reader, stream: trio.SocketStream) -> None:
    """Serves one accepted connection to its end. Whatever a client does ends here."""
    reader.http_connections += 1
    try:
        async with stream:
            await _serve(reader, stream)
    except (trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError, OSError):
        pass  # the client went away or does not speak HTTP
    except Exception:
        # One connection's failure stays its own.
        traceback.print_exc()
    finally:
        reader.http_connections -= 1


async def _serve(reader: Reader, stream: trio.SocketStream) -> None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT_BYTES)
    while True:
        head = None
        with trio.move_on_after(HEAD_S):
            try:
                head = await _next_event(connection, stream)
            except h11.RemoteProtocolError as error:
                await _refuse(connection, stream, error)
                return
        if not isinstance(head, h11.Request):
            return
        with _Body(body_limit(head_path(head))) as body:
            if not await _read_body(connection, stream, body):
                return
            reader.requests_running += 1
            try:
                if body.is_refused:
                    answer: Response | Upgrade = text_response(503, NO_ROOM)
                else:
                    answer = await reader.api.handle(request_of(head, body.take(), _peer(stream)))
                if isinstance(answer, Response) and isinstance(answer.body, bytes):
                    await _send(connection, stream, answer, head.method == b"HEAD")
            finally:
                reader.requests_running -= 1
        if isinstance(answer, Upgrade):
            rest = connection.trailing_data[0]
            link = await reader.link_for(answer.database.identity)
            if link is not None:
                open_websocket(stream, reader.lane, link, answer, rest)
            return
        if not isinstance(answer.body, bytes):
            await _send(connection, stream, answer, head.method == b"HEAD")
        if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
            return
        connection.start_next_cycle()


def _peer(stream: trio.abc.Stream) -> str | None:
    """IP address of the client; None if it is gone or has none."""
    if not isinstance(stream, trio.SocketStream):
        return None
    try:
        return str(stream.socket.getpeername()[0])
    except (OSError, IndexError):
        return None


async def _next_event(connection: h11.Connection, stream: trio.SocketStream) -> object:
    while True:
        event = connection.next_event()
        if event is not h11.NEED_DATA:
            return event
        if connection.they_are_waiting_for_100_continue:
            go_ahead = connection.send(h11.InformationalResponse(status_code=100, headers=[]))
            await _write(stream, go_ahead or b"")
        connection.receive_data(await stream.receive_some(READ_BYTES))


class _Body:
    """A request's body, from its first byte until the request is answered. `is_refused`: the process has no room."""

    held: ClassVar[int] = 0
    """Bytes of all bodies."""

    def __init__(self, limit: int) -> None:
        self.is_refused = False
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = self._dropped = 0
        self._is_too_long = False

    def __enter__(self) -> _Body:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._let_go()

    def add(self, data: bytes) -> bool:
        """Takes what came, or drops it. False: enough has been dropped."""
        self._is_too_long = self._is_too_long or self._size + len(data) > self._limit
        self.is_refused = self.is_refused or (not self._is_too_long and _Body.held + len(data) > MAX_BODIES_BYTES)
        if self._is_too_long or self.is_refused:
            self._let_go()
            self._dropped += len(data)
            return self._dropped <= MAX_DROPPED_BYTES
        self._parts.append(data)
        self._size += len(data)
        _Body.held += len(data)
        return True

    def take(self) -> bytes | None:
        """All of it; None if it is longer than its route allows. To be called once."""
        parts, self._parts = self._parts, []
        return None if self._is_too_long else b"".join(parts)

    def _let_go(self) -> None:
        _Body.held -= self._size
        self._size = 0
        self._parts.clear()


async def _read_body(connection: h11.Connection, stream: trio.SocketStream, body: _Body) -> bool:
    """False: the client went away, or is too slow."""
    started, received = trio.current_time(), 0
    with trio.CancelScope(deadline=started + STALL_S) as scope:
        while connection.their_state is h11.SEND_BODY:
            event = await _next_event(connection, stream)
            if isinstance(event, h11.EndOfMessage):
                break
            if not isinstance(event, h11.Data):
                return False
            received += len(event.data)
            scope.deadline = started + STALL_S + received / MIN_BYTES_PER_S
            if not body.add(bytes(event.data)):
                break
    return not scope.cancelled_caught


async def _send(connection: h11.Connection, stream: trio.SocketStream, answer: Response, is_head: bool) -> None:
    data = connection.send(response_head(answer)) or b""
    if isinstance(answer.body, bytes):
        for event in body_events(answer, "HEAD" if is_head else "GET"):
            data += connection.send(event) or b""
        await _write(stream, data + (connection.send(h11.EndOfMessage()) or b""))
        return
    try:
        await _write(stream, data)
        await _send_stream(connection, stream, answer.body)
    finally:
        with trio.CancelScope(shield=True):
            await close_stream(answer.body)


async def _send_stream(connection: h11.Connection, stream: trio.SocketStream, pieces: AsyncIterator[bytes]) -> None:
    """Sends what comes for as long as the client is there."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch, connection, stream, nursery.cancel_scope)
        try:
            async for piece in pieces:
                await _write(stream, connection.send(h11.Data(data=piece)) or b"")
            await _write(stream, connection.send(h11.EndOfMessage()) or b"")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            connection.send_failed()
        nursery.cancel_scope.cancel()


async def _watch(connection: h11.Connection, stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    """Cancels the scope when the client goes away."""
    ahead = 0
    try:
        while ahead < MAX_AHEAD_BYTES:
            data = await stream.receive_some(READ_BYTES)
            if not data:
                break
            ahead += len(data)
            connection.receive_data(data)
        else:
            return
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    scope.cancel()


async def _write(stream: trio.SocketStream, data: bytes) -> None:
    """Raises BrokenResourceError also if the client takes it too slowly."""
    view = memoryview(data)
    for at in range(0, len(data), SEND_BYTES):
        with trio.move_on_after(STALL_S + SEND_BYTES / MIN_BYTES_PER_S) as scope:
            await stream.send_all(view[at : at + SEND_BYTES])
        if scope.cancelled_caught:
            raise trio.BrokenResourceError


async def _refuse(connection: h11.Connection, stream: trio.SocketStream, error: h11.RemoteProtocolError) -> None:
    if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return
    text = b"malformed request"
    headers = [
        ("content-type", "text/plain; charset=utf-8"),
        ("content-length", str(len(text))),
        ("connection", "close"),
    ]
    data = connection.send(h11.Response(status_code=error.error_status_hint or 400, headers=headers)) or b""
    data += connection.send(h11.Data(data=text)) or b""
    await _write(stream, data + (connection.send(h11.EndOfMessage()) or b""))
