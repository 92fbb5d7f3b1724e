"""MCP over the routes: what the recorded exchanges (test_vectors.py) leave out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_server import JSON_TYPE, Server, body_of, json_of, told

from spacetimedb.http.backend import CallKind, CallOutcome

HOST = "/v1/mcp"


async def send(server: Server, message: Any, path: str = HOST) -> Any:
    body = message if isinstance(message, str) else json.dumps(message)
    return await server("POST", path, body, headers=JSON_TYPE, by=server.owner)


async def request(server: Server, method: object, path: str = HOST, **params: Any) -> Any:
    """The reply to a request, without what all replies have."""
    message = {"jsonrpc": "2.0", "id": 7, "method": method, **({"params": params} if params else {})}
    reply = json_of(await send(server, message, path))
    assert (reply.pop("id"), reply.pop("jsonrpc")) == (7, "2.0")
    return reply


async def use(server: Server, tool: str, path: str = HOST, **arguments: Any) -> tuple[str, bool | None]:
    """A tool's (text, isError); (message, None) if its arguments were refused."""
    reply = await request(server, "tools/call", path, name=tool, arguments=arguments)
    if "error" in reply:
        assert reply["error"]["code"] == -32602
        return reply["error"]["message"], None
    (content,) = reply["result"]["content"]
    assert content["type"] == "text"
    return content["text"], reply["result"]["isError"]


async def test_messages() -> None:
    server = Server()
    for silent in ({"method": "ping"}, [], 5, [{"id": 1, "method": "ping"}]):
        assert told(await send(server, silent)) == (202, "")
    assert await request(server, "ping") == {"result": {}}
    nobody = json_of(await send(server, {"id": None, "method": "ping"}))
    assert nobody == {"id": None, "jsonrpc": "2.0", "result": {}}
    large = json_of(await send(server, {"id": 10**30, "method": "ping"}))
    assert large["id"] == 10**30
    assert (await request(server, 5))["error"] == {"code": -32600, "message": "invalid request: missing method"}
    status, text = told(await send(server, "{"))
    assert (status, text[:45]) == (400, "Failed to parse the request body as JSON: EOF")
    assert (await send(server, r'{"id": 1, "method": "\ud800"}')).status == 400
    plain = await server("POST", HOST, '{"id": 1, "method": "ping"}', headers={"content-type": "text/plain"})
    assert plain.status == 415
    typed = {"content-type": "application/json; charset=utf-8"}
    assert (await server("POST", HOST, '{"id": 1, "method": "ping"}', headers=typed)).status == 200
    assert (await server("GET", HOST)).status == 405


async def test_lists_of_tools() -> None:
    server = Server()
    whole = {tool["name"]: tool for tool in (await request(server, "tools/list"))["result"]["tools"]}
    one = {
        tool["name"]: tool for tool in (await request(server, "tools/list", "/v1/database/gone/mcp"))["result"]["tools"]
    }
    assert whole.keys() - one.keys() == {"list_databases"}
    assert whole["sql"]["inputSchema"]["required"] == ["database", "sql"]
    assert one["sql"]["inputSchema"]["required"] == ["sql"]
    assert "required" not in one["get_schema"]["inputSchema"]
    hints = {name: tool["annotations"]["readOnlyHint"] for name, tool in whole.items()}
    assert hints == {"list_databases": True, "ping": True, "get_schema": True, "sql": False, "call": False}
    assert all(tool["annotations"]["destructiveHint"] is not hints[name] for name, tool in whole.items())


@pytest.mark.parametrize("scoped", [False, True])
async def test_tools(scoped: bool) -> None:
    server = Server()
    identity = await server.publish()
    path = "/v1/database/foo/mcp" if scoped else HOST
    where = {} if scoped else {"database": "foo"}
    assert await use(server, "ping", path) == ("pong", False)
    assert await use(server, "ping", path, message="hello") == ("pong: hello", False)
    assert await use(server, "ping", path, message=3) == ("pong", False)
    assert await use(server, "get_schema", path, **where) == ('{"version":9}', False)
    rows, failed = await use(server, "sql", path, sql="SELECT", confirmed=False, **where)
    assert (json.loads(rows)[0]["rows"], failed) == ([[1]], False)
    assert server.backend.calls[-1:] == [("sql", "SELECT", False)]
    await use(server, "sql", path, sql="SELECT", confirmed="no", **where)
    assert server.backend.calls[-1:] == [("sql", "SELECT", True)]
    assert await use(server, "sql", path, sql="", **where) == ("Empty SQL query", True)

    server.backend.outcomes = {
        "fine": CallOutcome(CallKind.COMMITTED),
        "bad": CallOutcome(CallKind.FAILED, "why"),
        "trap": CallOutcome(CallKind.PANICKED),
        "tired": CallOutcome(CallKind.OUT_OF_ENERGY),
        "wrong": CallOutcome(CallKind.BAD_ARGUMENTS, "three arguments"),
        "shut": CallOutcome(CallKind.CONNECT_REFUSED),
    }
    assert await use(server, "call", path, reducer="fine", args=[1, "é"], **where) == (
        "reducer 'fine' committed",
        False,
    )
    assert server.backend.calls[-1:] == [("call", "fine", '[1, "\\u00e9"]')]
    for reducer, text in {
        "bad": "reducer 'bad' failed: why",
        "trap": "reducer 'trap' failed: The instance encountered a fatal error.",
        "tired": "reducer 'tired' exceeded the energy budget",
        "wrong": "three arguments",
        "shut": "request failed with HTTP 403",
        "none": "no such reducer",
    }.items():
        assert await use(server, "call", path, reducer=reducer, args=None, **where) == (text, True)
    if scoped:
        assert await use(server, "list_databases", path) == ("unknown tool: list_databases", None)
    else:
        listed, _ = await use(server, "list_databases")
        assert json.loads(listed) == {"databases": [{"identity": identity, "names": ["foo"]}]}


async def test_mistakes_in_arguments() -> None:
    server = Server()
    await server.publish()
    assert (await request(server, "tools/call"))["error"]["message"] == "missing params"
    assert (await request(server, "tools/call", x=1))["error"]["message"] == "missing tool name"
    assert await use(server, "drop") == ("unknown tool: drop", None)
    assert await use(server, "sql", sql="SELECT") == ("database argument must be a string", None)
    assert await use(server, "sql", database="foo") == ("sql argument must be a string", None)
    assert await use(server, "call", database="foo", reducer=1) == ("reducer argument must be a string", None)
    assert await use(server, "call", database="foo", reducer="a", args={}) == ("args must be a JSON array", None)
    refused, _ = await use(server, "get_schema", database="No Name")
    assert refused.startswith("invalid database 'No Name': ")
    assert await use(server, "get_schema", database="nobody") == ("`nobody` not found", True)
    assert await use(server, "get_schema", "/v1/database/nobody/mcp") == ("`nobody` not found", True)
    answer = await send(server, {"id": 1, "method": "initialize"}, "/v1/database/nobody/mcp")
    assert json.loads(body_of(answer))["result"]["protocolVersion"] == "2025-06-18"
    long, _ = await use(server, "get_schema", "/v1/database/" + "x" * 100_000 + "/mcp")
    assert len(long) == 64 * 1024
