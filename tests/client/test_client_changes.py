"""Streams of row changes, and types that follow a publish, on every face; the store of tokens."""

from __future__ import annotations

import gc
import struct
import textwrap
from pathlib import Path
from typing import Any

import pytest
import trio
from client_faces import FACES, Session, run
from server_process import ServerProcess
from test_client_faces import NPM, load

from spacetimedb.client import (
    Backoff,
    ChangesLost,
    Delete,
    Disconnected,
    FileTokenStore,
    Insert,
    Reconnected,
    Reducer,
    Transaction,
    Update,
)
from spacetimedb.client.blocking import connect as connect_blocking
from spacetimedb.client.changes import Feed
from spacetimedb.client.trio import connect as connect_trio

game = load(NPM, "npm_module_of_changes")


async def take(stream: Any, count: int) -> list[Any]:
    """The next changes of a stream, whichever kind it is."""
    found = []
    for _ in range(count):
        found.append(await anext(stream) if hasattr(stream, "__anext__") else next(stream))
    return found


@pytest.mark.parametrize("face", FACES)
def test_changes_come_in_order(server: ServerProcess, npm_database: str, face: str) -> None:
    async def scenario(session: Session) -> None:
        name = f"stream {face}"
        async with session.connect(module=game) as conn, session.connect() as other:
            await conn.subscribe(game.Item.name == name)
            await other.subscribe(f"SELECT * FROM item WHERE name = '{name}'")
            with conn.changes(game.Item) as own, other.changes("item") as seen:
                await conn.call(game.add_item, name, 1)
                await conn.call(game.set_level, name, 2)
                await conn.call(game.remove_item, name)
                for stream, kind in ((own, Reducer), (seen, Transaction)):
                    insert, update, delete = await take(stream, 3)
                    assert isinstance(insert, Insert)
                    assert (insert.row.name, insert.row.level) == (name, 1)
                    assert isinstance(update, Update)
                    assert (update.old.level, update.row.level) == (1, 2)
                    assert isinstance(delete, Delete)
                    assert delete.row.level == 2
                    assert {type(change.event) for change in (insert, update, delete)} == {kind}

    run(face, server.ws_url, npm_database, scenario)


@pytest.mark.parametrize("face", FACES)
def test_a_stream_ends_with_its_connection(server: ServerProcess, npm_database: str, face: str) -> None:
    async def scenario(session: Session) -> None:
        name = f"ending {face}"
        async with session.connect(module=game) as conn:
            await conn.subscribe(game.Item.name == name)
            kept = conn.changes(game.Item)
            newest = conn.changes(game.Item, limit=1, overflow="drop_oldest")
            overrun = conn.changes(game.Item, limit=1)
            for level in (1, 2):
                await conn.call(game.add_item if level == 1 else game.set_level, name, level)
            await conn.call(game.remove_item, name)
            await conn.aclose()
            assert [type(change) for change in await take(kept, 3)] == [Insert, Update, Delete]
            with pytest.raises((StopAsyncIteration, StopIteration)):
                await _next(kept)
            assert [type(change) for change in await take(newest, 1)] == [Delete]
            assert [type(change) for change in await take(overrun, 1)] == [Insert]
            with pytest.raises(ChangesLost, match="more than 1 changes of item"):
                await _next(overrun)

    run(face, server.ws_url, npm_database, scenario)


async def _next(stream: Any) -> Any:
    """As `take`, of one; StopIteration cannot leave a coroutine."""
    if hasattr(stream, "__anext__"):
        return await stream.__anext__()
    for change in stream:
        return change
    raise StopAsyncIteration


def test_a_stream_that_is_forgotten_listens_no_more(server: ServerProcess, npm_database: str) -> None:
    with connect_blocking(server.ws_url, npm_database, module=game) as conn:
        table = conn.db[game.Item]
        stream = conn.changes(game.Item)
        assert table.has_listeners
        del stream
        gc.collect()
        assert not table.has_listeners
        with pytest.raises(ValueError, match="able to keep one"):
            Feed(table, 0, "error")


OLD = """
from spacetimedb import Module, Pk, ReducerContext, Row, u32
m = Module()

@m.table(public=True)
class Item(Row):
    id: Pk[u32]
    level: u32

@m.table(public=True)
class Fading(Row):
    id: Pk[u32]

@m.reducer
def add(ctx: ReducerContext, id: u32) -> None:
    ctx.db[Item].insert(Item(id=id, level=1))
"""
NEW = """
from spacetimedb import Module, Pk, ReducerContext, Row, u32
m = Module()

@m.table(public=True)
class Item(Row):
    id: Pk[u32]
    level: u32
    colour: str = "red"

@m.table(public=True)
class Fresh(Row):
    id: Pk[u32]

@m.reducer
def add(ctx: ReducerContext, id: u32, colour: str) -> None:
    ctx.db[Item].insert(Item(id=id, level=2, colour=colour))
    ctx.db[Fresh].insert(Fresh(id=id))
"""


def break_clients(server: ServerProcess, database: str, program: bytes) -> None:
    path = f"/v1/database/{database}"
    plan = server.request("POST", f"{path}/pre_publish", program).json()
    query = {"policy": "BreakClients", "token": plan["AutoMigrate"]["token"]}
    server.request("PUT", path, program, query=query)


@pytest.mark.parametrize("face", FACES[:3])
def test_a_publish_that_breaks_clients(server: ServerProcess, tmp_path: Path, face: str) -> None:
    """Whoever has the types from the server has the new ones after the reconnect; the rows are there as before."""
    database = f"renewed-{face}"
    module = tmp_path / "renewed.py"
    module.write_text(textwrap.dedent(OLD))
    server.publish(module, database)

    async def scenario(session: Session) -> None:
        async with session.connect(database=database, reconnect=Backoff(first=0.02, longest=0.2)) as conn:
            await conn.subscribe("SELECT * FROM item")
            await conn.call("add", 1)
            table = conn.db.item
            told: list[Any] = []
            table.on_update(lambda event, old, row: told.append((event, old, row)))
            back: list[int] = []
            conn.on_reconnect(lambda: back.append(1))
            module.write_text(textwrap.dedent(NEW))
            break_clients(server, database, module.read_bytes())
            await session.until(lambda: back and told and conn.is_active, "the reconnect")
            ((event, old, row),) = told
            assert isinstance(event, Reconnected)
            assert not hasattr(old, "colour")
            assert (row.id, row.level, row.colour) == (1, 1, "red")
            assert table.find("id", 1).colour == "red"
            await conn.call("add", 2, colour="blue")
            assert {row.id: row.colour for row in table} == {1: "red", 2: "blue"}
            await conn.subscribe("SELECT * FROM fresh")
            assert [row.id for row in conn.db.fresh] == [2]

    run(face, server.ws_url, database, scenario)


@pytest.fixture
def store(tmp_path: Path) -> FileTokenStore:
    return FileTokenStore("game", tmp_path / "credentials")


def test_tokens_are_kept_as_the_official_client_keeps_them(store: FileTokenStore) -> None:
    assert store.load() is None
    store.save("ab.cd.ef")
    assert store.path.read_bytes() == struct.pack("<I", 8) + b"ab.cd.ef"
    assert store.path.stat().st_mode & 0o777 == 0o600
    assert FileTokenStore("game").path == Path.home() / ".spacetimedb_client_credentials" / "game"
    assert store.load() == "ab.cd.ef"
    store.path.write_bytes(b"\x05\0\0\0abc")
    with pytest.raises(ValueError, match="does not hold a token"):
        store.load()
    store.forget()
    store.forget()
    assert store.load() is None
    for key in ("", "..", "a/b"):
        with pytest.raises(ValueError, match="names a file"):
            FileTokenStore(key)


@pytest.mark.parametrize("face", FACES[:3])
def test_a_store_makes_the_same_person_come_back(
    server: ServerProcess, npm_database: str, store: FileTokenStore, face: str
) -> None:
    async def scenario(session: Session) -> None:
        async with session.connect(module=game, token=store) as conn:
            first = conn.identity
            assert store.load() == conn.token
        async with session.connect(module=game, token=store) as conn:
            assert conn.identity == first
        store.forget()
        async with session.connect(module=game, token=store) as conn:
            assert conn.identity != first

    run(face, server.ws_url, npm_database, scenario)


async def test_a_callback_that_raises_ends_a_block_that_waits(server: ServerProcess, npm_database: str) -> None:
    """trio: the block is cancelled at once, wherever it waits."""

    async def use() -> None:
        async with connect_trio(server.ws_url, npm_database, module=game) as conn:
            await conn.subscribe(game.Item)
            conn.db[game.Item].on_insert(lambda *_: 1 // 0)
            try:
                await conn.call(game.add_item, "raising in trio", 1)
            except Disconnected:
                pass
            await trio.sleep_forever()

    with trio.fail_after(60), pytest.raises(ZeroDivisionError):
        await use()
