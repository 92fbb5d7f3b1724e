"""GET /v1/database/:db/subscribe: everything that is decided before a connection becomes a WebSocket.

The result is an answer (an `HttpError`) or an `Upgrade`, whose 101 the caller sends; client_connected runs after it.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

import msgspec

from spacetimedb.auth.tokens import Claims
from spacetimedb.protocol.v2 import V1_BSATN, V1_JSON, V2, V3
from spacetimedb.types.special import ConnectionId

from .backend import DatabaseInfo
from .database_routes import random_connection_id
from .exchange import Exchange, resolve_database
from .messages import Headers, HttpError
from .query import boolean, connection_id, read_query, variant

PROTOCOLS: Final = (V3, V2, V1_BSATN, V1_JSON)
"""Subprotocols this server speaks, in its order of preference: the first one a client offers is taken."""
CONFIRMED_BY_DEFAULT: Final = frozenset({V3, V2})

_KEY_SUFFIX: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_QUERY: Final = {
    "connection_id": connection_id,
    "compression": variant("None", "Brotli", "Gzip"),
    "light": boolean,
    "confirmed": boolean,
}


class Upgrade(msgspec.Struct, frozen=True):
    """A WebSocket that may be opened.

    `claims`: the caller with its token (the one that was presented, or a new one). `connection_id`: as asked for, or
    random. `headers`: those of the 101, complete.
    """

    database: DatabaseInfo
    claims: Claims
    protocol: str
    connection_id: ConnectionId
    confirmed: bool
    light: bool
    compression: str
    headers: Headers


def accept_key(key: str) -> str:
    """Sec-WebSocket-Accept for a Sec-WebSocket-Key; its content is not checked."""
    return base64.b64encode(hashlib.sha1(key.encode("latin-1", "replace") + _KEY_SUFFIX).digest()).decode()


async def upgrade(exchange: Exchange) -> Upgrade:
    """Checks in the reference server's order. Raises HttpError."""
    request = exchange.request
    claims = exchange.caller
    address = exchange.address()
    query = read_query(request.query, _QUERY)
    if request.method != "GET":
        raise _refusal(405, "", [("allow", "GET,HEAD")])
    wanted = [element.lower() for element in request.header_values("connection")]
    if "upgrade" not in wanted or request.header("upgrade") != "websocket":
        raise _refusal(
            426,
            "This service requires use of the websocket protocol",
            [("connection", "upgrade"), ("upgrade", "websocket")],
        )
    if request.header("sec-websocket-version") != "13":
        raise HttpError(400, "`Sec-WebSocket-Version` header did not include '13'")
    key = request.header("sec-websocket-key")
    if key is None:
        raise HttpError(400, "`Sec-WebSocket-Key` header missing")
    wanted_id: ConnectionId | None = query.get("connection_id")
    if wanted_id == ConnectionId.ZERO:
        raise HttpError(400, "Invalid connection ID: the all-zeros ConnectionId is reserved.")
    database = await resolve_database(exchange.backend, address)
    offered = set(request.header_values("sec-websocket-protocol"))
    protocol = next((name for name in PROTOCOLS if name in offered), None)
    if protocol is None:
        raise HttpError(400, "no valid protocol selected")
    await exchange.backend.launch(database)
    headers = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-accept", accept_key(key)),
        ("sec-websocket-protocol", protocol),
    ]
    return Upgrade(
        database=database,
        claims=claims,
        protocol=protocol,
        connection_id=random_connection_id() if wanted_id is None else wanted_id,
        confirmed=query.get("confirmed", protocol in CONFIRMED_BY_DEFAULT),
        light=query.get("light", False),
        compression=query.get("compression", "Brotli"),
        headers=headers,
    )


def _refusal(status: int, text: str, headers: Headers) -> HttpError:
    error = HttpError(status, text)
    error.response.headers.extend(headers)
    return error
