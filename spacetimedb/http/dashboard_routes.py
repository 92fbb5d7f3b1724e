"""Handlers of /dashboard/api: what the dashboard needs beyond the routes below /v1, and who may have it.

Somebody at this machine (`local_access`) sees all databases and acts as their owners: POST token trades the identity of
a database for a token that lets its bearer act as the owner for a while, and all else goes through the ordinary
routes. Somebody else needs a token of their own and sees the databases that its identity owns. `spacetime start
--dashboard token` asks everybody for a token, `--dashboard off` answers 404.

    GET  /dashboard/api               {"access": "local"|"token", "version", "databases": [{identity, names, owner}]}
    POST /dashboard/api/token         {"database": identity} -> {"token", "expires_at"}; local only
    GET  /dashboard/api/metrics       Prometheus text of all, or (gzip) of the token's databases; ?names=A,B: only these
    GET  /dashboard/api/loadtest      {"points": [...]} of the newest load test, oldest first
    POST /dashboard/api/loadtest      one point of a running load test, see `LoadPoint`; local, or the database's owner

None of these answers carries CORS headers: pages of other origins cannot read them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final
from zlib import DEFLATED, compressobj

import msgspec

from spacetimedb.types.special import Identity

from .backend import DatabaseInfo
from .exchange import Exchange, resolve_database
from .local_access import is_local
from .messages import TEXT, HttpError, Response, empty_response, json_response, json_text_response
from .query import name_or_identity, read_query
from .server_routes import VERSION

BODY_LIMIT: Final = 8 * 1024
COMPRESSED_BYTES: Final = 64 * 1024
"""Compressed at a time: about half a millisecond."""
GZIP: Final = 31
"""The largest window, with gzip's head, as zlib counts."""
NOT_HERE: Final = (
    "The dashboard is open to this machine only. From elsewhere it needs the token of an identity that owns a database "
    "(`spacetime login show --token`)."
)


class LoadPoint(msgspec.Struct, forbid_unknown_fields=False):
    """Figures of a load test at one moment. Whoever runs the test posts one about every second.

    `run`: any text, the same for all points of a test; points of another run replace those of the one before.
    `elapsed_s`: since the start of the test. `calls_per_s`, `rows_per_s`: since the point before. `latency_ms` and
    `update_age_ms`: percentiles by name ("p50", "p99"), since the point before. `errors`: how often by text, so far.
    `required`: thresholds with whether they hold so far.
    """

    run: str
    scenario: str
    database: str
    elapsed_s: float
    state: str = "running"
    clients: int = 0
    target_clients: int = 0
    workers: int = 1
    calls_per_s: float = 0.0
    rows_per_s: float = 0.0
    calls: int = 0
    failed: int = 0
    latency_ms: dict[str, float] = {}
    update_age_ms: dict[str, float] = {}
    errors: dict[str, int] = {}
    required: dict[str, bool] = {}


_point: Final = msgspec.json.Decoder(LoadPoint)


def _is_local(exchange: Exchange) -> bool:
    """Whether the caller needs no token. Raises HttpError 404 if there is no dashboard."""
    policy = exchange.backend.dashboard_access()
    if policy == "off":
        raise HttpError(404)
    return policy == "local" and is_local(exchange.request)


async def _databases(exchange: Exchange) -> tuple[bool, list[tuple[DatabaseInfo, list[str]]]]:
    """Whether the caller is local, and the databases it may see, with their names. Raises HttpError 401, 403."""
    local = _is_local(exchange)
    every = await exchange.backend.all_databases() if local or exchange.claims is not None else []
    # Who comes with a token is who the token says, also at this machine.
    if exchange.claims is None:
        if not local:
            raise HttpError(401, NOT_HERE)
        return True, every
    own = [(database, names) for database, names in every if database.owner == exchange.claims.identity]
    if not own:
        raise HttpError(403, f"{exchange.claims.identity.hex()} owns no database of this server.")
    return False, own


async def overview(exchange: Exchange) -> Response:
    local, databases = await _databases(exchange)
    listed = [
        {"identity": database.identity.hex(), "owner": database.owner.hex(), "names": names}
        for database, names in databases
    ]
    return json_response({"access": "local" if local else "token", "version": VERSION, "databases": listed})


async def token(exchange: Exchange) -> Response:
    if not _is_local(exchange):
        raise HttpError(401, NOT_HERE)
    body = exchange.request.read_body()
    try:
        wanted = Identity.from_hex(msgspec.json.decode(body, type=dict[str, str])["database"])
    except (msgspec.MsgspecError, KeyError, ValueError):
        raise HttpError(400, 'expected {"database": "<64 hex digits>"}') from None
    database = await resolve_database(exchange.backend, wanted)
    claims = exchange.tokens.dashboard_token(database.owner)
    return json_response({"token": claims.token, "expires_at": claims.expires_at})


async def metrics(exchange: Exchange) -> Response:
    local, databases = await _databases(exchange)
    own = None if local else {database.identity for database, _names in databases}
    names = read_query(exchange.request.query, {"names": _names}).get("names")
    text = await exchange.backend.metrics(own, own, names)
    headers = [("content-type", TEXT), ("cache-control", "no-store")]
    accepted = {coding.partition(";")[0] for coding in exchange.request.header_values("accept-encoding")}
    if local or "gzip" not in accepted:
        return Response(200, headers, text)
    return Response(200, [*headers, ("content-encoding", "gzip")], _compressed(text), chunked=True)


async def _compressed(text: bytes) -> AsyncIterator[bytes]:
    """In pieces that keep nobody waiting. The text is read every second, and becomes a twentieth."""
    compressor = compressobj(1, DEFLATED, GZIP)
    for at in range(0, len(text), COMPRESSED_BYTES):
        if piece := compressor.compress(text[at : at + COMPRESSED_BYTES]):
            yield piece
    yield compressor.flush()


def _names(text: str) -> set[str]:
    return set(text.split(","))


async def load_test(exchange: Exchange) -> Response:
    local, databases = await _databases(exchange)
    points = await exchange.backend.load_test()
    if points and not local:
        tested = await _tested(exchange, _point.decode(points[-1]))
        if all(database.identity != tested.identity for database, _names in databases):
            points = []
    return json_text_response('{"points":[' + ",".join(point.decode() for point in points) + "]}")


async def report_load(exchange: Exchange) -> Response:
    body = exchange.request.read_body()
    local = _is_local(exchange)
    if not local and exchange.claims is None:
        raise HttpError(401, NOT_HERE)
    try:
        point = _point.decode(body)
    except msgspec.MsgspecError as error:
        raise HttpError(400, f"no point of a load test: {error}") from None
    if not local:
        exchange.require_owner(await _tested(exchange, point), "report a load test")
    await exchange.backend.report_load(msgspec.json.encode(point))
    return empty_response()


async def _tested(exchange: Exchange, point: LoadPoint) -> DatabaseInfo:
    try:
        address: Any = name_or_identity(point.database)
    except ValueError as error:
        raise HttpError(400, str(error)) from None
    return await resolve_database(exchange.backend, address)
