"""From an accepted upgrade to a client on the lane.

trio-websocket does the handshake and answers control frames. It works on a `LaneStream`: what it reads is the request's
head and later the control frames that the lane splits off; what it writes goes to the socket between the lane's frames.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import trio
from trio_websocket import ConnectionClosed, wrap_server_stream
from wsproto.utilities import LocalProtocolError

from spacetimedb.http.upgrade import Upgrade
from spacetimedb.workers.client import CLOSING, GONE, Client, Lane
from spacetimedb.workers.database_link import DatabaseLink
from spacetimedb.workers.v1_clients import CLIENT_CLASSES

HANDSHAKE_S: Final = 10.0
CLOSE_HANDSHAKE_S: Final = 0.25
"""How long a client may take to answer our Close."""
CLOSE_BACKLOG_S: Final = 5.0
"""How long a client that is to be closed may take to read what was sent to it before."""
BACKLOG_LOOK_S: Final = 0.02
MAX_CONTROL_FRAMES: Final = 4096
"""Control frames of a client that trio-websocket has not answered yet; with more it is dropped."""


class LaneStream(trio.abc.Stream):
    """The byte stream that trio-websocket sees. `client` is set when the lane takes over."""

    def __init__(self, stream: trio.SocketStream, lane: Lane, head: bytes) -> None:
        self._stream = stream
        self._lane = lane
        self._incoming = deque([head])
        self._arrived = trio.Event()
        self.client: Client | None = None

    def put(self, data: bytes) -> None:
        """The bytes of a control frame for trio-websocket; b"" for the end of the stream."""
        if len(self._incoming) >= MAX_CONTROL_FRAMES and data and self.client is not None:
            self._lane.drop(self.client)
            return
        self._incoming.append(data)
        self._arrived.set()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """The head, then what `put` brought."""
        while not self._incoming:
            self._arrived = trio.Event()
            await self._arrived.wait()
        return self._incoming.popleft()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """To the socket; through the lane once it has taken over."""
        if self.client is None:
            await self._stream.send_all(data)
        elif self.client.state != GONE:
            self._lane.send(self.client, bytes(data))
        else:
            raise trio.BrokenResourceError
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        """Nothing to wait for: the lane keeps what the socket does not take."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """trio-websocket has finished: the connection is cut."""
        if self.client is not None:
            self._lane.drop(self.client)
        self.put(b"")
        await trio.lowlevel.checkpoint()


async def serve_websocket(
    stream: trio.SocketStream, lane: Lane, link: DatabaseLink, upgrade: Upgrade, key: str, rest: bytes
) -> None:
    """Performs the handshake and keeps the connection until it ends. `rest`: bytes that came behind the request."""
    try:
        await _serve(stream, lane, link, upgrade, key, rest)
    except* LocalProtocolError:
        pass  # trio-websocket came to a Ping when the Close was out already


async def _serve(
    stream: trio.SocketStream, lane: Lane, link: DatabaseLink, upgrade: Upgrade, key: str, rest: bytes
) -> None:
    head = (
        "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {upgrade.protocol}\r\n\r\n"
    )
    lane_stream = LaneStream(stream, lane, head.encode())
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(HANDSHAKE_S) as handshake:
            request = await wrap_server_stream(nursery, lane_stream)
            own = ("connection", "upgrade", "sec-websocket-accept", "sec-websocket-protocol")
            headers = [(name.encode(), value.encode()) for name, value in upgrade.headers if name not in own]
            connection = await request.accept(subprotocol=upgrade.protocol, extra_headers=headers)
        if handshake.cancelled_caught or link.down:
            nursery.cancel_scope.cancel()
            return
        client = CLIENT_CLASSES.get(upgrade.protocol, Client)(
            stream.socket._sock,  # type: ignore[attr-defined]
            link,
            link.new_number(),
            upgrade.claims.identity,
            upgrade.connection_id,
            upgrade.claims.token,
            upgrade.protocol.startswith("v3"),
            upgrade.confirmed,
            lane_stream.put,
        )
        lane_stream.client = client
        try:
            lane.add(client)
            if client.state != GONE:
                link.connect(client, upgrade.claims.payload)
                if rest:
                    lane.take(client, rest)
            await client.ended.wait()
            if client.state == CLOSING and client.close_code is not None:
                with trio.move_on_after(CLOSE_BACKLOG_S):
                    while client.backlog:
                        await trio.sleep(BACKLOG_LOOK_S)
                with trio.move_on_after(CLOSE_HANDSHAKE_S, shield=True):
                    try:
                        await connection.aclose(client.close_code, _short(client.close_reason))
                    except ConnectionClosed:
                        pass
        finally:
            # However this ends, the lane must not keep a socket that is about to be closed.
            lane.drop(client)
        nursery.cancel_scope.cancel()


def _short(reason: str) -> str:
    """At most 123 bytes of UTF-8."""
    return reason.encode()[:123].decode(errors="ignore")
