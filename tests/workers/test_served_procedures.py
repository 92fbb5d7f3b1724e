"""Procedures and HTTP handlers of a real server: threads, hooks, long requests, another program meanwhile."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from patience import PATIENCE_S, until
from server_process import RequestFailed, ServerProcess

from spacetimedb.hosts.procedures import REPLACED

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


@m.procedure
def visit_and_wait(ctx: ProcedureContext) -> None:
    ctx.with_tx(arrive, "third")
    while True:
        ctx.sleep(0.05)
        ctx.with_tx(is_noted, "never")


@m.http.any("/echo")
def echo(ctx: HttpContext, request: Request) -> Response:
    return Response(request.body, headers={"content-type": "text/x"})


@m.http.any("/size")
def size(ctx: HttpContext, request: Request) -> Response:
    return Response(f"{len(request.body)} {request.query}", 202)


@m.http.any("/broken")
def broken(ctx: HttpContext, request: Request) -> Response:
    raise RuntimeError("a secret")


def arrive(tx: ReducerContext, text: str) -> None:
    tx.db[Visit].insert(Visit(text=text))


def is_noted(tx: ReducerContext, text: str) -> bool:
    return tx.db[Visit].text.find(text) is not None


@m.http.any("/nap")
def rest(ctx: HttpContext, request: Request) -> Response:
    ctx.with_tx(arrive, request.body.decode())
    ctx.sleep(1.0)
    return Response("rested")


@m.http.any("/wait")
def wait(ctx: HttpContext, request: Request) -> Response:
    who, _, word = request.body.decode().partition(" ")
    ctx.with_tx(arrive, who)
    while not ctx.with_tx(is_noted, word):
        ctx.sleep(0.05)
    return Response("done")
"""


@pytest.fixture(scope="module")
def database(server: ServerProcess) -> str:
    return server.publish(MODULE, "served-procedures")


def route(server: ServerProcess, database: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    try:
        with urlopen(
            Request(f"{server.base_url}/v1/database/{database}/route{path}", body), timeout=PATIENCE_S
        ) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        with error:
            return error.code, error.read()


def test_many_wait_at_once_and_reducers_run_meanwhile(server: ServerProcess, database: str) -> None:
    with ThreadPoolExecutor(12) as pool:
        waiting = [pool.submit(route, server, database, "/wait", f"{n} meanwhile".encode()) for n in range(12)]
        until(lambda: server.sql(database, "SELECT * FROM visit"), lambda visits: len(visits) == 12)
        assert not any(w.done() for w in waiting)
        server.call(database, "note", "meanwhile")
        assert [w.result() for w in waiting] == [(200, b"done")] * 12


def test_the_caller_over_http_is_connected_until_the_procedure_ends(server: ServerProcess, database: str) -> None:
    assert server.call(database, "nap", 0.2).json() is True

    def logged() -> list[str]:
        lines = server.request("GET", f"/v1/database/{database}/logs").text.splitlines()
        messages = [line.partition('"message":"')[2].partition('"')[0] for line in lines]
        return [message for message in messages if message in ("slept", "left")]

    until(logged, lambda messages: messages[-2:] == ["slept", "left"])


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
    with ThreadPoolExecutor(3) as pool:
        running = pool.submit(route, server, database, "/nap", b"somebody")
        waiting = pool.submit(route, server, database, "/wait", b"another never")
        calling = pool.submit(server.call, database, "visit_and_wait")
        until(lambda: server.sql(database, "SELECT * FROM visit"), lambda visits: len(visits) == 3)
        server.publish(MODULE.replace(b'"/size"', b'"/bytes"'), "served-procedures-2")
        assert running.result() == (200, b"rested")
        assert waiting.result() == (500, REPLACED.encode())
        with pytest.raises(RequestFailed, match=REPLACED):
            calling.result()
    assert route(server, database, "/bytes", b"xyz") == (202, b"3 ")
    assert route(server, database, "/size")[0] == 404
