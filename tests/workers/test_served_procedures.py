"""Procedures and HTTP handlers of a real server: threads, hooks, long requests, another program meanwhile."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from server_process import RequestFailed, ServerProcess

MODULE = b"""
from spacetimedb import HttpContext, Identity, Module, Pk, ProcedureContext, ReducerContext, Request, Response, Row, u32

m = Module()


@m.table(public=True)
class Visit(Row):
    text: Pk[str]


@m.client_disconnected
def left(ctx: ReducerContext) -> None:
    ctx.log.info("left")


@m.reducer
def note(ctx: ReducerContext, text: str) -> None:
    ctx.db[Visit].insert(Visit(text=text))


@m.procedure
def nap(ctx: ProcedureContext, seconds: float) -> bool:
    ctx.sleep(seconds)
    ctx.log.info("slept")
    return ctx.with_tx(lambda tx: tx.auth.jwt is not None)


@m.http.any("/echo")
def echo(ctx: HttpContext, request: Request) -> Response:
    return Response(request.body, headers={"content-type": "text/x"})


@m.http.any("/size")
def size(ctx: HttpContext, request: Request) -> Response:
    return Response(f"{len(request.body)} {request.query}", 202)


@m.http.any("/broken")
def broken(ctx: HttpContext, request: Request) -> Response:
    raise RuntimeError("a secret")


@m.http.any("/nap")
def slow(ctx: HttpContext, request: Request) -> Response:
    ctx.sleep(0.5)
    return Response("rested")
"""


@pytest.fixture(scope="module")
def database(server: ServerProcess) -> str:
    return server.publish(MODULE, "served-procedures")


def route(server: ServerProcess, database: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    try:
        with urlopen(Request(f"{server.base_url}/v1/database/{database}/route{path}", body), timeout=30) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        with error:
            return error.code, error.read()


def test_many_wait_at_once_and_reducers_run_meanwhile(server: ServerProcess, database: str) -> None:
    server.owner_token  # noqa: B018 - made once, not by each thread
    started = time.monotonic()
    with ThreadPoolExecutor(13) as pool:
        waiting = [pool.submit(route, server, database, "/nap") for _ in range(12)]
        time.sleep(0.1)
        server.call(database, "note", "meanwhile")
        assert not any(w.done() for w in waiting)
        assert [w.result() for w in waiting] == [(200, b"rested")] * 12
    assert 0.5 <= time.monotonic() - started < 3.0


def test_the_caller_over_http_is_connected_until_the_procedure_ends(server: ServerProcess, database: str) -> None:
    assert server.call(database, "nap", 0.2).json() is True
    lines = server.request("GET", f"/v1/database/{database}/logs").text
    messages = [line.partition('"message":"')[2].partition('"')[0] for line in lines.splitlines()]
    assert [message for message in messages if message in ("slept", "left")][-2:] == ["slept", "left"]


def test_long_requests_and_answers(server: ServerProcess, database: str) -> None:
    body = bytes(range(256)) * (20 << 12)  # 20 MiB: longer than a mailbox
    assert route(server, database, "/size?a=b", body) == (202, f"{len(body)} a=b".encode())
    status, answer = route(server, database, "/echo", body)
    assert status == 200
    assert answer == body


def test_failures_tell_nothing(server: ServerProcess, database: str) -> None:
    assert route(server, database, "/broken") == (500, b"The module instance encountered a fatal error")
    assert route(server, database, "/nothing")[0] == 404
    with pytest.raises(RequestFailed) as caught:
        server.call(database, "nap", 1e300)
    assert caught.value.status == 500
    assert caught.value.text == "The module instance encountered a fatal error: see the module log"


def test_another_program_takes_over(server: ServerProcess) -> None:
    database = server.publish(MODULE, "served-procedures-2")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(route, server, database, "/nap")
        time.sleep(0.1)
        server.publish(MODULE.replace(b'"/size"', b'"/bytes"'), "served-procedures-2")
        assert running.result() == (200, b"rested")
    assert route(server, database, "/bytes", b"xyz") == (202, b"3 ")
    assert route(server, database, "/size")[0] == 404
