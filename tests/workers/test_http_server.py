"""Clients that send, read or stay away as slowly as they can, against one connection's task."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from patience import PATIENCE_S
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair

from spacetimedb.http.messages import Request, Response
from spacetimedb.workers.reader.http import http_server
from spacetimedb.workers.reader.http.http_server import HEAD_S, MAX_BODIES_BYTES, MAX_DROPPED_BYTES, STALL_S

serve_connection: Any = http_server.serve_connection
"""Streams in memory do for it, as long as nobody upgrades."""
POST = b"POST /v1/database/x/sql HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
GET = b"GET /v1/ping HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Api:
    """Answers with the length of the body, or with `answer`."""

    def __init__(self, answer: Response | None = None) -> None:
        self.answer = answer
        self.requests: list[Request] = []

    async def handle(self, request: Request) -> Response:
        self.requests.append(request)
        return self.answer or Response(200, [], b"none" if request.body is None else b"%d" % len(request.body))


def reader(api: Api) -> Any:
    return SimpleNamespace(api=api, http_connections=0, requests_running=0)


async def read(stream: Any, until: bytes) -> bytes:
    data = b""
    while until not in data:
        more = await stream.receive_some()
        assert more, data
        data += bytes(more)
    return data


async def test_requests_one_after_the_other(nursery: trio.Nursery) -> None:
    client, server = memory_stream_pair()
    api = Api()
    nursery.start_soon(serve_connection, reader(api), server)
    for size in (0, 1, 100_000, 2 << 20):
        await client.send_all(POST % size + bytes(size))
        assert (await read(client, b"\r\n\r\n%d" % size)).startswith(b"HTTP/1.1 200")
    assert http_server._Body.held == 0
    await client.aclose()


async def test_a_head_that_never_ends(autojump_clock: MockClock) -> None:
    client, server = memory_stream_pair()
    await client.send_all(GET[:10])
    with trio.fail_after(HEAD_S + 1):
        await serve_connection(reader(Api()), server)


async def test_a_body_that_trickles(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    client, server = memory_stream_pair()

    async def trickle() -> None:
        await client.send_all(POST % 1000)
        while True:
            await trio.sleep(1)
            try:
                await client.send_all(b"x")
            except trio.BrokenResourceError:
                return

    nursery.start_soon(trickle)
    api = Api()
    with trio.fail_after(STALL_S + 5):
        await serve_connection(reader(api), server)
    assert not api.requests
    assert http_server._Body.held == 0


async def test_a_body_that_is_too_long(nursery: trio.Nursery) -> None:
    client, server = memory_stream_pair()
    api = Api()
    nursery.start_soon(serve_connection, reader(api), server)
    await client.send_all(POST % (3 << 20) + bytes(3 << 20))
    assert b"none" in await read(client, b"none")
    await client.send_all(POST % (1 << 40))
    sent = 0
    try:
        while sent < 4 * MAX_DROPPED_BYTES:
            await client.send_all(bytes(1 << 20))
            await trio.testing.wait_all_tasks_blocked()
            sent += 1 << 20
    except trio.BrokenResourceError:
        pass  # it was cut
    assert sent <= MAX_DROPPED_BYTES + (4 << 20)


async def test_bodies_of_all_requests_are_limited(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server._Body, "held", MAX_BODIES_BYTES - 10)
    client, server = memory_stream_pair()
    api = Api()
    nursery.start_soon(serve_connection, reader(api), server)
    await client.send_all(POST % 11 + bytes(11))
    assert b"HTTP/1.1 503" in await read(client, b"try again.")
    await client.send_all(POST % 10 + bytes(10))
    assert b"HTTP/1.1 200" in await read(client, b"\r\n\r\n10")
    await client.aclose()
    assert len(api.requests) == 1


async def test_an_answer_that_is_not_read(autojump_clock: MockClock) -> None:
    client, server = lockstep_stream_pair()
    api = Api(Response(200, [], bytes(1 << 20)))
    async with trio.open_nursery() as tasks:
        tasks.start_soon(client.send_all, GET)
        with trio.fail_after(120):
            await serve_connection(reader(api), server)


async def test_a_follower_that_goes_away(nursery: trio.Nursery) -> None:
    closed = trio.Event()

    async def lines() -> AsyncIterator[bytes]:
        try:
            yield b"first\n"
            await trio.sleep_forever()
        finally:
            closed.set()

    client, server = memory_stream_pair()
    nursery.start_soon(serve_connection, reader(Api(Response(200, [], lines()))), server)
    await client.send_all(GET)
    await read(client, b"first")
    await client.aclose()
    with trio.fail_after(PATIENCE_S):
        await closed.wait()
