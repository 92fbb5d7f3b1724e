"""HTTP: what handlers of modules are asked, what procedures may reach, callers that go away."""

from __future__ import annotations

import http.server
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from patience import until
from server_process import REACHABLE_HOST
from smoketest import User

from spacetimedb.cli.api import Answer, Server

ROUTES = """
    from spacetimedb import (
        HttpContext, HttpError, Module, Pk, ProcedureContext, ReducerContext, Request, Response, Row, auto_inc, u64,
    )

    m = Module()


    @m.table(public=True)
    class Entry(Row):
        id: u64
        value: str


    @m.table()
    class Kept(Row):
        id: Pk[u64] = auto_inc()
        body: bytes


    def insert(tx: ReducerContext) -> None:
        tx.db[Entry].insert(Entry(id=tx.db[Entry].count(), value="posted"))


    @m.http.post("/post")
    def post_insert(ctx: HttpContext, request: Request) -> Response:
        ctx.with_tx(insert)
        return Response("inserted")


    @m.http.get("/count")
    def get_count(ctx: HttpContext, request: Request) -> Response:
        return Response(str(ctx.with_tx(lambda tx: tx.db[Entry].count())))


    @m.http.any("/any")
    def any_handler(ctx: HttpContext, request: Request) -> Response:
        return Response("any")


    @m.http.get("/header")
    def header_echo(ctx: HttpContext, request: Request) -> Response:
        echo = next((value for name, value in request.headers if name == "x-echo"), "")
        return Response(echo, headers={"x-response": "set"})


    @m.http.get("/teapot")
    def teapot(ctx: HttpContext, request: Request) -> Response:
        return Response("teapot", status=418)


    @m.http.post("/reverse-bytes")
    def reverse_bytes(ctx: HttpContext, request: Request) -> Response:
        return Response(request.body[::-1])


    @m.http.post("/reverse-words")
    def reverse_words(ctx: HttpContext, request: Request) -> Response:
        try:
            words = request.body.decode().split(" ")
        except UnicodeDecodeError:
            return Response("the body is no UTF-8", status=400)
        return Response(" ".join(reversed(words)))


    @m.http.post("/insert")
    def insert_body(ctx: HttpContext, request: Request) -> Response:
        def keep(tx: ReducerContext) -> int:
            return tx.db[Kept].insert(Kept(body=request.body)).id

        return Response(str(ctx.with_tx(keep)))


    @m.http.get("/retrieve")
    def retrieve(ctx: HttpContext, request: Request) -> Response:
        wanted = int(request.query.removeprefix("id="))
        kept = ctx.with_tx(lambda tx: tx.db[Kept].id.find(wanted))
        return Response(status=404) if kept is None else Response(kept.body)


    @m.http.get("")
    def empty_root(ctx: HttpContext, request: Request) -> Response:
        return Response("empty")


    @m.http.get("/")
    def slash_root(ctx: HttpContext, request: Request) -> Response:
        return Response("slash")


    @m.http.get("/foo")
    def foo(ctx: HttpContext, request: Request) -> Response:
        return Response("foo")


    @m.http.get("/foo/")
    def foo_slash(ctx: HttpContext, request: Request) -> Response:
        return Response("foo-slash")


    @m.http.get("/echo-uri")
    def echo_uri(ctx: HttpContext, request: Request) -> Response:
        return Response(f"{request.uri} {request.path}?{request.query}")


    @m.procedure
    def reach(ctx: ProcedureContext, url: str) -> str:
        try:
            return f"answered {ctx.http.get(url).status}"
        except HttpError as error:
            return str(error)
"""
SLOW = """
    from spacetimedb import Module, ReducerContext

    m = Module()


    @m.reducer
    def slow(ctx: ReducerContext) -> None:
        ctx.log.info("slow has started")
        sum(range(20_000_000))
        ctx.log.info("slow has finished")
"""
REFUSED = "refusing to connect to private or special-purpose addresses"


class Redirecting(http.server.BaseHTTPRequestHandler):
    """Sends whoever asks for `/NUMBER` to that address of `TARGETS`."""

    TARGETS = ("http://10.0.0.1/", "http://127.0.0.1:1/", "http://localhost:1/", "/end")

    def do_GET(self) -> None:
        if self.path == "/end":
            self.send_response(200)
        else:
            self.send_response(302)
            self.send_header("Location", self.TARGETS[int(self.path[1:])])
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def redirecting() -> Iterator[str]:
    """URL of a server that modules may reach."""
    server = http.server.HTTPServer((REACHABLE_HOST, 0), Redirecting)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://{REACHABLE_HOST}:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_http_handlers(user: User) -> None:
    name = user.publish(ROUTES)
    api = Server(user.server.base_url, None)

    def request(method: str, path: str, **options: Any) -> Answer:
        return api.request(method, f"/v1/database/{name}/route{path}", authorized=False, **options)

    assert [request("POST", "/post").text, request("POST", "/post").text] == ["inserted"] * 2
    assert request("GET", "/count").text == "2"
    assert user.sql_rows(name, "SELECT * FROM entry") == [["0", '"posted"'], ["1", '"posted"']]
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH"):
        assert request(method, "/any").text == "any"
    echoed = request("GET", "/header", headers={"x-echo": "hello"})
    assert (echoed.text, echoed.headers["x-response"]) == ("hello", "set")
    teapot = request("GET", "/teapot")
    assert (teapot.status, teapot.text) == (418, "teapot")
    assert request("POST", "/reverse-bytes", body=b"\xff\x00\xfe\x7f").body == b"\x7f\xfe\x00\xff"
    assert request("POST", "/reverse-words", body="red green blue").text == "blue green red"
    assert request("POST", "/reverse-words", body=b"fo\x80o").status == 400
    number = request("POST", "/insert", body="kept").text
    assert request("GET", f"/retrieve?id={number}").text == "kept"
    assert request("GET", "/retrieve?id=99").status == 404
    assert request("GET", "/retrieve?id=none").status == 500  # the handler raises
    for path, text in (("", "empty"), ("/", "slash"), ("/foo", "foo"), ("/foo/", "foo-slash")):
        assert request("GET", path).text == text
    uri = f"{user.server.base_url}/v1/database/{name}/route/echo-uri?alpha=1&beta=two"
    assert request("GET", "/echo-uri?alpha=1&beta=two").text == f"{uri} /echo-uri?alpha=1&beta=two"
    strange = {"authorization": "Bearer not-a-jwt"}  # the handler's affair, but refused elsewhere
    assert request("GET", "/count", headers=strange).text == "2"
    schema = api.request("GET", f"/v1/database/{name}/schema?version=10", authorized=False, headers=strange)
    assert 400 <= schema.status < 500
    for method, path in (("GET", "/post"), ("GET", "/missing"), ("GET", "/count/"), ("GET", "//"), ("GET", "//foo")):
        refused = request(method, path)
        assert (refused.status, refused.text) == (404, "Database has not registered a handler for this route")
    api.close()


def test_what_procedures_may_reach(user: User, redirecting: str) -> None:
    """No address of the machine or its network, except those that whoever started the server allows; also not when
    an answer leads there."""
    name = user.publish(ROUTES)
    for url in (
        user.server.base_url,
        "http://localhost:1/",
        "http://[::1]:1/",
        "http://10.0.0.1/",
        "http://169.254.1.1/",
    ):
        assert REFUSED in user.call(name, "reach", url)
    *forbidden, allowed = range(len(Redirecting.TARGETS))
    for number in forbidden:
        assert REFUSED in user.call(name, "reach", f"{redirecting}/{number}")
    assert user.call(name, "reach", f"{redirecting}/{allowed}") == '"answered 200"'


def test_a_caller_that_goes_away_leaves_no_client(user: User) -> None:
    """The call goes on, and what it had as a client is gone afterwards."""
    name = user.publish(SLOW)
    caller = socket.create_connection(("127.0.0.1", user.server.port))
    caller.sendall(
        f"POST /v1/database/{name}/call/slow HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {user.token}\r\n"
        "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n[]".encode()
    )
    user.await_log(name, "slow has started")
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closed by a reset
    caller.close()
    user.await_log(name, "slow has finished")
    for table in ("st_client", "st_connection_credentials"):
        until(lambda table=table: not user.sql_rows(name, f"SELECT * FROM {table}"))  # type: ignore[misc]
