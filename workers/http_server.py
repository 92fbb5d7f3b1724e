"""HTTP connections: read requests with h11, have them answered by `http.api`, hand upgrades on to `websocket`."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Final

import h11
import trio

from spacetimedb.http.api import close_stream
from spacetimedb.http.h11_events import body_events, head_path, request_of, response_head
from spacetimedb.http.messages import Response
from spacetimedb.http.routes import body_limit
from spacetimedb.http.upgrade import Upgrade
from spacetimedb.workers.websocket import serve_websocket

if TYPE_CHECKING:
    from spacetimedb.workers.reader import Reader

READ_BYTES: Final = 64 << 10
HEAD_LIMIT_BYTES: Final = 64 << 10
HEAD_S: Final = 60.0
"""How long a connection may be open without a complete request."""


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
        body = await _read_body(connection, stream, head)
        answer = await reader.api.handle(request_of(head, body))
        if isinstance(answer, Upgrade):
            rest = connection.trailing_data[0]
            link = await reader.link_for(answer.database.identity)
            if link is not None:
                key = next(value.decode("latin-1") for name, value in head.headers if name == b"sec-websocket-key")
                await serve_websocket(stream, reader.lane, link, answer, key, rest)
            return
        await _send(connection, stream, answer, head.method == b"HEAD")
        if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
            return
        connection.start_next_cycle()


async def _next_event(connection: h11.Connection, stream: trio.SocketStream) -> object:
    while True:
        event = connection.next_event()
        if event is not h11.NEED_DATA:
            return event
        if connection.they_are_waiting_for_100_continue:
            go_ahead = connection.send(h11.InformationalResponse(status_code=100, headers=[]))
            await stream.send_all(go_ahead or b"")
        connection.receive_data(await stream.receive_some(READ_BYTES))


async def _read_body(connection: h11.Connection, stream: trio.SocketStream, head: h11.Request) -> bytes | None:
    """The whole body; None if it is longer than its route allows (what comes behind is read and dropped)."""
    limit = body_limit(head_path(head))
    parts: list[bytes] = []
    size = 0
    while True:
        if connection.their_state is not h11.SEND_BODY:
            break
        event = await _next_event(connection, stream)
        if isinstance(event, h11.Data):
            size += len(event.data)
            if limit is None or size <= limit:
                parts.append(bytes(event.data))
            else:
                parts.clear()
        elif isinstance(event, h11.EndOfMessage):
            break
        else:
            return None
    return None if limit is not None and size > limit else b"".join(parts)


async def _send(connection: h11.Connection, stream: trio.SocketStream, answer: Response, is_head: bool) -> None:
    data = connection.send(response_head(answer)) or b""
    if isinstance(answer.body, bytes):
        for event in body_events(answer, "HEAD" if is_head else "GET"):
            data += connection.send(event) or b""
        await stream.send_all(data + (connection.send(h11.EndOfMessage()) or b""))
        return
    try:
        await stream.send_all(data)
        async for piece in answer.body:
            await stream.send_all(connection.send(h11.Data(data=piece)) or b"")
        await stream.send_all(connection.send(h11.EndOfMessage()) or b"")
    finally:
        with trio.CancelScope(shield=True):
            await close_stream(answer.body)


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
    await stream.send_all(data + (connection.send(h11.EndOfMessage()) or b""))
