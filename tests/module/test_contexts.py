"""Contexts: what they cost, and what they compute late."""

from __future__ import annotations

import json
import logging
import timeit
from collections.abc import Callable
from typing import Any

import pytest

from spacetimedb.module import (
    Db,
    HttpContext,
    Identity,
    ProcedureContext,
    ReducerContext,
    Response,
    Row,
    Timestamp,
    ViewContext,
    u8,
)
from spacetimedb.module.http import HttpClient
from spacetimedb.types.special import ConnectionId

ALICE = Identity.from_int(1)
CONNECTION = ConnectionId.from_int(2)


class FakeHost:
    """Stands for the database and for the host of procedures."""

    identity = Identity.from_int(9)
    logger = logging.getLogger("fake")
    view_db = Db()
    http: HttpClient

    def __init__(self, claims: str | None = None) -> None:
        self._claims = claims
        self.ran: list[object] = []

    def claims(self, connection_id: ConnectionId) -> str | None:
        assert connection_id == CONNECTION
        return self._claims

    def transaction(self, ctx: object, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        self.ran.append(ctx)
        return function("tx", *args, **kwargs)

    def sleep(self, until: Timestamp) -> Timestamp:
        return until + 7


def context(host: FakeHost, at: int = 5, connection: ConnectionId | None = CONNECTION) -> ReducerContext:
    return ReducerContext(ALICE, connection, Timestamp(at), Db(), host)


def test_a_context_is_made_in_no_time() -> None:
    names = {"C": ReducerContext, "a": ALICE, "c": CONNECTION, "t": Timestamp(5), "d": Db(), "h": FakeHost()}
    seconds = min(timeit.repeat("C(a, c, t, d, h)", globals=names, number=20_000, repeat=7)) / 20_000
    assert seconds < 1e-6  # 90 ns here; the goal of 150 ns is for the benchmarks, a test machine may be busy


def test_random_numbers_depend_on_the_timestamp_alone() -> None:
    host = FakeHost()
    assert context(host).rng.random() == context(host).rng.random()
    assert context(host, 5).rng.random() != context(host, 6).rng.random()
    one = context(host)
    assert one.rng is one.rng


def test_uuids() -> None:
    ctx = context(FakeHost(), 1_767_225_600_123_456)
    made = [ctx.uuid7() for _ in range(1000)]
    assert made == sorted(set(made))
    assert str(made[0]).startswith("019b76da-a87b-7")
    assert {str(ctx.uuid4())[14] for _ in range(20)} == {"4"}
    assert context(FakeHost()).uuid4() == context(FakeHost()).uuid4()


def test_auth() -> None:
    claims = json.dumps({"sub": "s", "iss": "i", "aud": "one", "x": 1})
    auth = context(FakeHost(claims)).auth
    assert not auth.is_internal
    assert auth.jwt is not None
    assert (auth.jwt.subject, auth.jwt.issuer, auth.jwt.audience, auth.jwt.identity) == ("s", "i", ["one"], ALICE)
    assert auth.jwt.raw_payload == claims
    several = context(FakeHost('{"aud": ["a", "b"]}')).auth.jwt
    assert several is not None
    assert several.audience == ["a", "b"]
    nobody = context(FakeHost('{"sub": "s"}')).auth.jwt
    assert nobody is not None
    assert nobody.audience == []
    assert context(FakeHost(None)).auth.jwt is None
    internal = context(FakeHost(), connection=None).auth
    assert internal.is_internal
    assert internal.jwt is None


def test_a_context_knows_its_database() -> None:
    host = FakeHost()
    ctx = context(host)
    assert ctx.identity == host.identity
    assert ctx.log is host.logger
    view = ctx.as_view()
    assert isinstance(view, ViewContext)
    assert (view.sender, view.db, view.identity, view.log) == (ALICE, host.view_db, host.identity, host.logger)


@pytest.mark.parametrize("kind", [ProcedureContext, HttpContext])
def test_what_may_wait(kind: type[ProcedureContext | HttpContext]) -> None:
    host = FakeHost()
    ctx = kind(ALICE, CONNECTION, Timestamp(100), host)
    assert ctx.with_tx(lambda tx: (tx, 3)) == ("tx", 3)  # type: ignore[comparison-overlap]
    assert host.ran == [ctx]
    ctx.sleep(0.5)
    assert ctx.timestamp == 100 + 500_000 + 7
    assert not hasattr(ctx, "db")


def test_handles_are_found_by_class_and_by_name() -> None:
    class Thing(Row):
        x: u8

    class Handle:
        def insert(self, row: Thing) -> Thing:
            return row

    db = Db()
    handle = Handle()
    db.bind(Thing, "thing", handle)
    assert db[Thing] is handle  # type: ignore[comparison-overlap]
    assert db.thing is handle  # type: ignore[attr-defined]
    assert db.insert(Thing(x=1)) == Thing(x=1)
    with pytest.raises(KeyError, match="Row is no table of this module"):
        db[Row]
    with pytest.raises(KeyError, match="str is no table"):
        db.insert("text")


def test_responses() -> None:
    assert (Response("ä").body, Response(b"x").body, Response().status) == ("ä".encode(), b"x", 200)
    assert Response("", headers={"a": "b"}).headers == (("a", "b"),)
    assert Response("", headers=[("a", "b"), ("a", "c")]).headers == (("a", "b"), ("a", "c"))
