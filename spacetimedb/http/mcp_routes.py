"""MCP: databases as tools for agents and editors: `POST /v1/mcp` (all of them), `POST /v1/database/:db/mcp` (one).

JSON-RPC 2.0, one message per request and one reply, without streams, sessions or batches:

    {"jsonrpc": "2.0", "id": I, "method": "initialize" | "ping" | "tools/list" | "tools/call", "params": {...}}
    200 {"id": I, "jsonrpc": "2.0", "result": {...}}       tools/call: {"content": [{"text", "type"}], "isError"}
    200 {"error": {"code": C, "message": M}, "id": I, "jsonrpc": "2.0"}                C: -32600, -32601, -32602
    202 without a body                                     for a message without `id`, or one that is no object

What a tool's work says, also that it failed, is its result (`isError`); wrong arguments are errors of JSON-RPC. The
route of one database looks it up only when a tool needs it, so that an agent is told so.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from spacetimedb.types.special import Identity

from .backend import BackendError, CallKind, DatabaseInfo
from .database_routes import call_response, random_connection_id, sql_json
from .exchange import Exchange, resolve_database
from .json_body import read_json
from .messages import HttpError, Response, empty_response, json_text_response
from .query import name_or_identity
from .server_routes import VERSION

PROTOCOL_VERSION: Final = "2025-06-18"
RESULT_LIMIT: Final = 64 * 1024
"""Bytes of a failure's text that reach the agent."""
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
_ABOUT: Final = (
    "SpacetimeDB: relational databases whose modules hold functions. Read `get_schema` first. Query with `sql`; "
    "change data by calling reducers with `call`, each of which is a transaction."
)
_ONE_DATABASE: Final = " All tools work on one database."


class RpcError(Exception):
    """The answer is an error of JSON-RPC."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Failed(Exception):
    """A tool's work failed; the text is its result."""


class Tool(msgspec.Struct, frozen=True):
    """`needs_database`: host-wide it has a `database` argument. Argument schemas are those of JSON Schema."""

    title: str
    about: str
    run: Callable[[Exchange, dict[str, Any]], Awaitable[str]]
    arguments: dict[str, dict[str, Any]] = {}
    required: tuple[str, ...] = ()
    needs_database: bool = False
    read_only: bool = True


async def answer(exchange: Exchange) -> Response:
    message, _ = read_json(exchange.request)
    if not isinstance(message, dict) or "id" not in message:
        return empty_response(202)
    reply: dict[str, Any]
    try:
        reply = {"id": message["id"], "jsonrpc": "2.0", "result": await _dispatch(exchange, message)}
    except RpcError as error:
        reply = {"error": {"code": error.code, "message": error.message}, "id": message["id"], "jsonrpc": "2.0"}
    return json_text_response(json.dumps(reply, ensure_ascii=False))


async def _dispatch(exchange: Exchange, message: dict[str, Any]) -> dict[str, Any]:
    method = message.get("method")
    if not isinstance(method, str):
        raise RpcError(INVALID_REQUEST, "invalid request: missing method")
    if method == "initialize":
        return {
            "capabilities": {"tools": {}},
            "instructions": _ABOUT + (_ONE_DATABASE if _is_scoped(exchange) else ""),
            "protocolVersion": PROTOCOL_VERSION,
            "serverInfo": {"name": "spacetimedb", "version": VERSION},
        }
    if method == "ping":
        return {}
    if method == "tools/list":
        return {"tools": [_described(name, tool, _is_scoped(exchange)) for name, tool in _tools(exchange).items()]}
    if method == "tools/call":
        return await _call_tool(exchange, message.get("params"))
    raise RpcError(METHOD_NOT_FOUND, f"method not found: {method}")


def _is_scoped(exchange: Exchange) -> bool:
    return "db" in exchange.parameters


def _tools(exchange: Exchange) -> dict[str, Tool]:
    if not _is_scoped(exchange):
        return TOOLS
    return {name: tool for name, tool in TOOLS.items() if name != "list_databases"}


def _described(name: str, tool: Tool, is_scoped: bool) -> dict[str, Any]:
    properties, required = dict(tool.arguments), list(tool.required)
    if tool.needs_database and not is_scoped:
        properties = {"database": {"description": "Name or identity of a database.", "type": "string"}, **properties}
        required.insert(0, "database")
    schema: dict[str, Any] = {"properties": properties, "type": "object"}
    if required:
        schema["required"] = required
    return {
        "annotations": {
            "destructiveHint": not tool.read_only,
            "openWorldHint": False,
            "readOnlyHint": tool.read_only,
            "title": tool.title,
        },
        "description": tool.about,
        "inputSchema": schema,
        "name": name,
    }


async def _call_tool(exchange: Exchange, params: object) -> dict[str, Any]:
    if params is None:
        raise RpcError(INVALID_PARAMS, "missing params")
    name = params.get("name") if isinstance(params, dict) else None
    if not isinstance(params, dict) or not isinstance(name, str):
        raise RpcError(INVALID_PARAMS, "missing tool name")
    tool = _tools(exchange).get(name)
    if tool is None:
        raise RpcError(INVALID_PARAMS, f"unknown tool: {name}")
    arguments = params.get("arguments")
    try:
        text, failed = await tool.run(exchange, arguments if isinstance(arguments, dict) else {}), False
    except Failed as error:
        text, failed = str(error), True
    except HttpError as error:
        text, failed = _text_of(error.response), True
    except BackendError as error:
        text, failed = error.text or _status(error.status), True
    if failed:
        text = text.encode()[:RESULT_LIMIT].decode("utf-8", "ignore")
    return {"content": [{"text": text, "type": "text"}], "isError": failed}


def _text_of(response: Response) -> str:
    body = response.body
    return body.decode("utf-8", "replace") if isinstance(body, bytes) and body else _status(response.status)


def _status(status: int) -> str:
    return f"request failed with HTTP {status}"


def _text(arguments: dict[str, Any], name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str):
        raise RpcError(INVALID_PARAMS, f"{name} argument must be a string")
    return value


def _database(exchange: Exchange, arguments: dict[str, Any]) -> Callable[[], Awaitable[DatabaseInfo]]:
    """Looks the tool's database up when it is called; what is wrong with its address is told at once."""
    if _is_scoped(exchange):
        return exchange.look_up
    given = _text(arguments, "database")
    try:
        address: str | Identity = name_or_identity(given)
    except ValueError as error:
        raise RpcError(INVALID_PARAMS, f"invalid database '{given}': {error}") from None
    return lambda: resolve_database(exchange.backend, address)


async def _list_databases(exchange: Exchange, arguments: dict[str, Any]) -> str:
    owned = await exchange.backend.databases_of(exchange.caller.identity)
    listed = [{"identity": database.hex(), "names": await exchange.backend.names(database)} for database in owned]
    return json.dumps({"databases": listed}, ensure_ascii=False)


async def _ping(exchange: Exchange, arguments: dict[str, Any]) -> str:
    message = arguments.get("message")
    return f"pong: {message}" if isinstance(message, str) else "pong"


async def _get_schema(exchange: Exchange, arguments: dict[str, Any]) -> str:
    database = await _database(exchange, arguments)()
    return await exchange.backend.schema(database, "9")


async def _sql(exchange: Exchange, arguments: dict[str, Any]) -> str:
    look_up = _database(exchange, arguments)
    statement = _text(arguments, "sql")
    confirmed = arguments.get("confirmed")
    outcome = await exchange.backend.sql(
        exchange.caller, random_connection_id(), await look_up(), statement, confirmed is not False
    )
    return sql_json(outcome)


async def _call(exchange: Exchange, arguments: dict[str, Any]) -> str:
    look_up = _database(exchange, arguments)
    reducer = _text(arguments, "reducer")
    given = arguments.get("args")
    if given is not None and not isinstance(given, list):
        raise RpcError(INVALID_PARAMS, "args must be a JSON array")
    database = await look_up()
    outcome = await exchange.backend.call(
        exchange.caller, random_connection_id(), database, reducer, json.dumps(given or []), procedures=False
    )
    if outcome.kind is CallKind.COMMITTED:
        return f"reducer '{reducer}' committed"
    if outcome.kind is CallKind.NOT_FOUND:
        raise Failed("no such reducer")
    if outcome.kind is CallKind.OUT_OF_ENERGY:
        raise Failed(f"reducer '{reducer}' exceeded the energy budget")
    told = _text_of(call_response(outcome))
    if outcome.kind in (CallKind.FAILED, CallKind.PANICKED):
        told = f"reducer '{reducer}' failed: {told}"
    raise Failed(told)


_STRING: Final = {"type": "string"}
TOOLS: Final = {
    "list_databases": Tool("List databases", "Your own databases on this server, with their names.", _list_databases),
    "ping": Tool(
        "Ping",
        "Answers `pong`: tells that the server is there.",
        _ping,
        {"message": {"description": "Comes back in the answer.", **_STRING}},
    ),
    "get_schema": Tool(
        "Get schema",
        "Tables with columns, indexes and constraints, types, reducers and their parameters, as JSON.",
        _get_schema,
        needs_database=True,
    ),
    "sql": Tool(
        "Run SQL",
        "Runs one SQL statement and gives its rows. INSERT, UPDATE and DELETE are for the owner.",
        _sql,
        {
            "sql": {"description": "The statement.", **_STRING},
            "confirmed": {
                "description": "Wait until what is answered is on disk (the default).",
                "type": "boolean",
            },
        },
        ("sql",),
        needs_database=True,
        read_only=False,
    ),
    "call": Tool(
        "Call reducer",
        "Calls a reducer, in one transaction.",
        _call,
        {
            "reducer": {"description": "Name of the reducer.", **_STRING},
            "args": {"description": "Its arguments in order, as `get_schema` shows them.", "type": "array"},
        },
        ("reducer",),
        needs_database=True,
        read_only=False,
    ),
}
