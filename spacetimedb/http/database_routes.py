"""Handlers of the routes below /v1/database/:db that work with an existing database."""

from __future__ import annotations

import os
import re
import time
from typing import Final
from urllib.parse import unquote_to_bytes

from spacetimedb.types.special import ConnectionId

from .backend import CallKind, CallOutcome, HandlerRequest, SqlOutcome
from .exchange import LOCKED_DELETE, Exchange, resolve_identity
from .messages import (
    NDJSON,
    HttpError,
    Response,
    decode_utf8,
    empty_response,
    json_response,
    json_text_response,
    text_response,
)
from .query import boolean, integer, path_parameter, read_query, text, variant

NO_HANDLER: Final = "Database has not registered a handler for this route"
SANDBOX: Final = "sandbox allow-scripts allow-forms allow-popups allow-modals allow-downloads"
"""For all that handlers answer: as a page it has an origin of its own, and cannot act as the dashboard, which shares
its host, nor ask for an identity that may publish. Which answers a browser takes for pages is not for us to guess."""
_ENERGY: Final = "spacetime-energy-used"
_DURATION: Final = "spacetime-execution-duration-micros"


def hash_json(raw: bytes) -> str:
    """A 32-byte hash as JSON shows it: the u256 with these little-endian bytes."""
    return f"0x{int.from_bytes(raw, 'little'):x}"


def random_connection_id() -> ConnectionId:
    """16 random bytes, never all zero."""
    while not any(raw := os.urandom(16)):
        pass
    return ConnectionId(raw)


async def info(exchange: Exchange) -> Response:
    database = await exchange.look_up()
    return json_response(
        {
            "database_identity": {"__identity__": f"0x{int(database.identity):x}"},
            "owner_identity": {"__identity__": f"0x{int(database.owner):x}"},
            "host_type": {database.host_type: []},
            "initial_program": hash_json(database.initial_program),
        }
    )


async def identity(exchange: Exchange) -> Response:
    """A name's identity; an identity is given back whether or not it is one of a database."""
    return text_response(200, (await resolve_identity(exchange.backend, exchange.address())).hex())


async def delete(exchange: Exchange) -> Response:
    found = await resolve_identity(exchange.backend, exchange.address())
    database = await exchange.backend.database(found)
    if database is not None:
        caller = exchange.require_owner(database, "delete database")
        if database.locked:
            raise HttpError(403, LOCKED_DELETE)
        await exchange.backend.delete(caller, database)
    return empty_response()


async def lock(exchange: Exchange) -> Response:
    exchange.require_owner(exchange.database, "delete database")
    await exchange.backend.set_locked(exchange.database, True)
    return empty_response()


async def unlock(exchange: Exchange) -> Response:
    exchange.require_owner(exchange.database, "delete database")
    await exchange.backend.set_locked(exchange.database, False)
    return empty_response()


async def snapshot(exchange: Exchange) -> Response:
    exchange.require_owner(exchange.database, "take a snapshot")
    return json_response(await exchange.backend.snapshot(exchange.database))


async def schema(exchange: Exchange) -> Response:
    query = read_query(exchange.request.query, {"version": variant("9", "10")}, required=("version",))
    return json_text_response(await exchange.backend.schema(exchange.database, query["version"]))


async def timestamp(exchange: Exchange) -> Response:
    return json_response({"__timestamp_micros_since_unix_epoch__": time.time_ns() // 1000})


async def logs(exchange: Exchange) -> Response:
    query = read_query(exchange.request.query, {"num_lines": integer(32), "follow": boolean})
    exchange.require_owner(exchange.database, "view module logs")
    stream = await exchange.backend.logs(exchange.database, query.get("num_lines"), query.get("follow", False))
    return Response(200, [("content-type", NDJSON), ("cache-control", "no-cache")], stream, chunked=True)


async def sql(exchange: Exchange) -> Response:
    query = read_query(exchange.request.query, {"confirmed": boolean})
    statement = decode_utf8(exchange.request.read_body())
    outcome = await exchange.backend.sql(
        exchange.caller, random_connection_id(), exchange.database, statement, query.get("confirmed", True)
    )
    response = json_text_response(sql_json(outcome))
    response.headers.append((_DURATION, str(outcome.duration_micros)))
    return response


def sql_json(outcome: SqlOutcome) -> str:
    """The results of all statements (one) as JSON text."""
    return (
        f'[{{"schema":{outcome.schema},"rows":{outcome.rows},"total_duration_micros":{outcome.duration_micros},'
        f'"stats":{{"rows_inserted":{outcome.rows_inserted},"rows_deleted":{outcome.rows_deleted},'
        f'"rows_updated":{outcome.rows_updated}}}}}]'
    )


async def call(exchange: Exchange) -> Response:
    content_type = exchange.request.header("content-type")
    if content_type is None:
        raise HttpError(400, "Header of type `content-type` was missing")
    if content_type.lower() != "application/json":
        raise HttpError(415, "Expected request with `Content-Type: application/json`")
    arguments = decode_utf8(exchange.request.read_body(), with_reason=False)
    function = path_parameter(exchange.parameters["function"], text)
    outcome = await exchange.backend.call(
        exchange.caller, random_connection_id(), exchange.database, function, arguments
    )
    return call_response(outcome)


_CALL_STATUS: Final[dict[CallKind, tuple[int, str | None]]] = {
    # status, text; None stands for the outcome's own text
    CallKind.COMMITTED: (200, ""),
    CallKind.FAILED: (530, None),
    CallKind.PANICKED: (530, "The instance encountered a fatal error."),
    CallKind.OUT_OF_ENERGY: (402, "Module energy budget exhausted."),
    CallKind.RETURNED: (200, None),
    CallKind.PROCEDURE_PANICKED: (500, "The module instance encountered a fatal error: {}"),
    CallKind.PROCEDURE_OUT_OF_ENERGY: (500, "Procedure terminated due to insufficient budget"),
    CallKind.BAD_ARGUMENTS: (400, None),
    CallKind.LIFECYCLE: (400, "can't directly call special {} lifecycle reducer"),
    CallKind.NOT_FOUND: (404, "No such procedure"),
    CallKind.MODULE_GONE: (404, "no such module"),
    CallKind.CONNECT_REFUSED: (403, None),
    CallKind.CONNECT_PANICKED: (403, "The instance encountered a fatal error."),
    CallKind.CONNECT_OUT_OF_ENERGY: (503, "Insufficient energy balance to run `client_connected` reducer"),
}
_REDUCER_ENDS: Final = frozenset({CallKind.COMMITTED, CallKind.FAILED, CallKind.PANICKED, CallKind.OUT_OF_ENERGY})


def call_response(outcome: CallOutcome) -> Response:
    """The answer to a call."""
    kind = outcome.kind
    status, told = _CALL_STATUS[kind]
    told = outcome.text if told is None else told.replace("{}", outcome.text)
    if kind is CallKind.RETURNED:
        response = json_text_response(told)
    else:
        # With a content type even if there is no text.
        response = text_response(status, told)
    if kind in _REDUCER_ENDS:
        response.headers.append((_ENERGY, str(outcome.energy)))
    if kind in _REDUCER_ENDS or kind is CallKind.RETURNED:
        response.headers.append((_DURATION, str(outcome.duration_micros)))
    return response


async def route(exchange: Exchange) -> Response:
    """A module's own HTTP handler: no authentication, the request goes through as it came."""
    request = exchange.request
    raw = exchange.parameters.get("path")
    path = "" if raw is None else unquote_to_bytes("/" + raw).decode("utf-8", "replace")
    target = request.path + ("?" + request.query if request.query else "")
    scheme = _forwarded(request.header("x-forwarded-proto")) or "http"
    host = _forwarded(request.header("x-forwarded-host")) or request.header("host") or ""
    passed = HandlerRequest(
        request.method, path, f"{scheme}://{host}{target}", request.version, request.headers, request.read_body()
    )
    answer = await exchange.backend.route(exchange.database, passed)
    if answer is None:
        raise HttpError(404, NO_HANDLER)
    # Framing is this server's business; whatever the handler says about it would contradict it.
    headers = [
        (name, value) for name, value in answer.headers if name.lower() not in _FRAMING and _HEADER_NAME.fullmatch(name)
    ]
    if exchange.backend.dashboard_access() != "off" or exchange.publishers.local:
        headers.append(("content-security-policy", SANDBOX))
    if not 200 <= answer.status <= 999:
        raise HttpError(500, "The handler answered with a status that is none.")
    return Response(answer.status, headers, answer.body)


_FRAMING: Final = frozenset({"content-length", "transfer-encoding", "connection", "keep-alive", "upgrade"})
_HEADER_NAME: Final = re.compile(r"[0-9A-Za-z!#$%&'*+.^_`|~-]+")


def _forwarded(value: str | None) -> str | None:
    return value.split(",")[0].strip() if value else None
