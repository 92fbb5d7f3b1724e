"""Views of a served database: who gets what over the socket and over HTTP, and when they run."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from conftest import ServerFactory
from patience import PATIENCE_S
from server_process import RequestFailed, ServerProcess, kill

from spacetimedb.cli.session import Session, SessionLost, open_session
from spacetimedb.protocol import v2_client as v2

MODULE = """
from spacetimedb import *
m = Module()

@m.table(public=True)
class Player(Row):
    id: Pk[u32]
    owner: Index[Identity]
    level: Index[u32]
    name: str

@m.reducer
def put(ctx: ReducerContext, id: u32, level: u32, name: str) -> None:
    ctx.db[Player].id.upsert(Player(id=id, owner=ctx.sender, level=level, name=name))

@m.view
def mine(ctx: ViewContext) -> list[Player]:
    ctx.log.info("mine runs")
    return list(ctx.db[Player].owner.filter(ctx.sender))

@m.view
def top(ctx: AnonymousViewContext) -> list[Player]:
    ctx.log.info("top runs")
    found = list(ctx.db[Player].level.filter(ge=10))
    if any(player.name == "bomb" for player in found):
        raise RuntimeError("a secret")
    return found

@m.view
def named(ctx: AnonymousViewContext) -> Query[Player]:
    return Player.id < 3
"""


async def applied(session: Session, number: int, *queries: str) -> v2.SubscribeApplied | v2.SubscriptionError:
    await session.send(v2.subscribe(session.next_request(), number, list(queries)))
    return await next_of(session, v2.SubscribeApplied, v2.SubscriptionError)  # type: ignore[no-any-return]


async def next_of(session: Session, *kinds: type[Any]) -> Any:
    with trio.fail_after(PATIENCE_S):
        while True:
            for message in await session.receive():
                if isinstance(message, kinds):
                    return message


def names_in(rows: bytes, *names: str) -> set[str]:
    return {name for name in names if name.encode() in rows}


def rows_of(message: v2.SubscribeApplied) -> bytes:
    return b"|".join(table.rows.data for table in message.tables)


def changed(update: v2.TransactionUpdate) -> tuple[bytes, bytes]:
    every = (b for those in update.query_sets for table in those.tables for b in table.rows)
    blocks = [b for b in every if isinstance(b, v2.PersistentRows)]
    return b"|".join(b.inserts.data for b in blocks), b"|".join(b.deletes.data for b in blocks)


def runs(server: ServerProcess, database: str, view: str) -> int:
    """How often the view has logged that it runs."""
    lines = server.request("GET", f"/v1/database/{database}/logs").body.decode().splitlines()
    return [json.loads(line)["message"] for line in lines].count(f"{view} runs")


@pytest.mark.parametrize("readers", [1, 2])
def test_each_gets_the_own_rows(start_server: ServerFactory, readers: int) -> None:
    server = start_server(readers=readers)
    server.publish(MODULE.encode(), "views")
    server.call("views", "put", 1, 5, "Ann")

    async def run() -> None:
        async with (
            open_session(server.base_url, "views", token=server.owner_token) as own,
            open_session(server.base_url, "views") as other,
        ):
            for session in (own, other):
                first = await applied(session, 1, "SELECT * FROM top", "SELECT * FROM mine", "SELECT * FROM named")
                assert isinstance(first, v2.SubscribeApplied)
            await trio.to_thread.run_sync(server.call, "views", "put", 4, 12, "Bob")
            for session in (own, other):
                update = await next_of(session, v2.TransactionUpdate)
                tables = {table.table for those in update.query_sets for table in those.tables}
                assert tables == ({"top", "mine"} if session is own else {"top"})
                inserts, deletes = changed(update)
                assert names_in(inserts, "Ann", "Bob") == {"Bob"}
                assert not names_in(deletes, "Ann", "Bob")
            again = await applied(other, 2, "SELECT * FROM top WHERE level < 20")
            assert isinstance(again, v2.SubscribeApplied)
            assert names_in(rows_of(again), "Ann", "Bob") == {"Bob"}
            await trio.to_thread.run_sync(server.call, "views", "put", 4, 3, "Bob")
            for session in (own, other):
                inserts, deletes = changed(await next_of(session, v2.TransactionUpdate))
                assert names_in(deletes, "Ann", "Bob") == {"Bob"}

    trio.run(run)
    before = runs(server, "views", "top")
    server.call("views", "put", 5, 30, "Cid")
    assert runs(server, "views", "top") == before, "nobody is left who uses it"
    assert [row[0] for row in server.sql("views", "SELECT id FROM top")] == [5]
    assert server.sql("views", "SELECT COUNT(*) AS n FROM mine") == [[3]]
    joined = server.sql("views", "SELECT p.id FROM mine m JOIN player p ON m.id = p.id")
    assert sorted(row[0] for row in joined) == [1, 4, 5]
    server.call("views", "put", 6, 30, "Dan")
    assert runs(server, "views", "top") == before + 1


def test_a_view_that_fails(server: ServerProcess) -> None:
    server.publish(MODULE.encode(), "views-fail")
    server.call("views-fail", "put", 1, 20, "bomb")

    async def run() -> None:
        async with open_session(server.base_url, "views-fail") as session:
            error = await applied(session, 1, "SELECT * FROM mine", "SELECT * FROM top")
            assert isinstance(error, v2.SubscriptionError)
            assert error.error == "Error materializing view `top`"
            with pytest.raises(RequestFailed, match=r"400: Error materializing view `top`$"):
                await trio.to_thread.run_sync(server.sql, "views-fail", "SELECT * FROM top")
            await trio.to_thread.run_sync(server.call, "views-fail", "put", 1, 20, "calm")
            good = await applied(session, 1, "SELECT * FROM top")
            assert isinstance(good, v2.SubscribeApplied)
            with pytest.raises(RequestFailed, match="530: The instance encountered a fatal error"):
                await trio.to_thread.run_sync(server.call, "views-fail", "put", 2, 20, "bomb")
            await trio.to_thread.run_sync(server.call, "views-fail", "put", 2, 20, "Bea")
            inserts, _ = changed(await next_of(session, v2.TransactionUpdate))
            assert names_in(inserts, "calm", "bomb", "Bea") == {"Bea"}

    trio.run(run)


def test_views_live_through_an_update(server: ServerProcess) -> None:
    server.publish(MODULE.encode(), "views-update")
    server.call("views-update", "put", 1, 5, "Ann")
    server.call("views-update", "put", 2, 12, "Bob")

    async def run() -> None:
        async with open_session(server.base_url, "views-update") as session:
            first = await applied(session, 1, "SELECT * FROM top")
            assert isinstance(first, v2.SubscribeApplied)
            assert names_in(rows_of(first), "Ann", "Bob") == {"Bob"}
            program = MODULE.replace("ge=10", "le=10").encode()
            await trio.to_thread.run_sync(server.publish, program, "views-update")
            inserts, deletes = changed(await next_of(session, v2.TransactionUpdate))
            assert names_in(inserts, "Ann", "Bob") == {"Ann"}
            assert names_in(deletes, "Ann", "Bob") == {"Bob"}
            await trio.to_thread.run_sync(server.call, "views-update", "put", 3, 1, "Cid")
            inserts, _ = changed(await next_of(session, v2.TransactionUpdate))
            assert names_in(inserts, "Cid") == {"Cid"}

    trio.run(run)


def test_a_reader_that_dies_uses_nothing(start_server: ServerFactory) -> None:
    server = start_server(readers=1)
    server.publish(MODULE.encode(), "views-dead")

    async def run() -> None:
        async with open_session(server.base_url, "views-dead") as session:
            assert isinstance(await applied(session, 1, "SELECT * FROM top"), v2.SubscribeApplied)
            (reader,) = [pid for pid, name in server.processes().items() if "workers.reader" in name]
            kill(reader)
            with pytest.raises(SessionLost):
                await next_of(session)

    trio.run(run)
    before = runs(server, "views-dead", "top")
    server.call("views-dead", "put", 1, 20, "Ann")
    assert runs(server, "views-dead", "top") == before == 1
    assert [row[0] for row in server.sql("views-dead", "SELECT id FROM top")] == [1]


def test_a_one_off_query(server: ServerProcess) -> None:
    server.publish(MODULE.encode(), "views-once")
    server.call("views-once", "put", 1, 15, "Ann")

    async def run() -> None:
        async with open_session(server.base_url, "views-once") as session:
            for query, expected in (("SELECT * FROM top", {"Ann"}), ("SELECT * FROM mine WHERE level = 1", set())):
                await session.send(v2.one_off_query(session.next_request(), query))
                result = await next_of(session, v2.OneOffQueryResult)
                assert names_in(b"|".join(table.rows.data for table in result.tables), "Ann") == expected
            await trio.to_thread.run_sync(server.call, "views-once", "put", 2, 15, "Bob")
            assert runs(server, "views-once", "top") == 1

    trio.run(run)
