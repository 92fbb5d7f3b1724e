"""From an accepted upgrade to a client on the lane, which sends the 101 and owns the socket from then on.

The handshake is decided in `http/upgrade.py`, frames are `protocol/frames.py`'s, pings and Closes the lane's. A
library's connection beside the lane (trio-websocket, as it was) costs two tasks, a nursery and buffers for each client:
twice the processor time to connect and six times the memory to stay. That independent implementations find a WebSocket
here is what `tests/websocket/test_interop.py` is for.
"""

from __future__ import annotations

import socket

import trio

from spacetimedb.http.h11_events import encode_headers
from spacetimedb.http.upgrade import Upgrade
from spacetimedb.workers.reader.client import GONE, Client, Lane
from spacetimedb.workers.reader.database_link import DatabaseLink
from spacetimedb.workers.reader.v1_clients import CLIENT_CLASSES


def open_websocket(stream: trio.SocketStream, lane: Lane, link: DatabaseLink, upgrade: Upgrade, rest: bytes) -> None:
    """Answers the handshake and hands the socket on; `stream` is of no more use. `rest`: what came behind the request.

    A database that has gone down meanwhile leaves the connection to its owner, who closes it.
    """
    if link.down:
        return
    ours = stream.socket
    sock = socket.socket(ours.family, ours.type, ours.proto, ours.detach())
    sock.setblocking(False)
    client = CLIENT_CLASSES.get(upgrade.protocol, Client)(
        sock,
        link,
        link.new_number(),
        upgrade.claims.identity,
        upgrade.connection_id,
        upgrade.claims.token,
        upgrade.protocol.startswith("v3"),
        upgrade.confirmed,
    )
    headers = b"".join(b"%s: %s\r\n" % header for header in encode_headers(upgrade.headers))
    lane.add(client, b"HTTP/1.1 101 Switching Protocols\r\n%s\r\n" % headers)
    if client.state != GONE:
        link.connect(client, upgrade.claims.payload)
        if rest:
            lane.take(client, rest)
