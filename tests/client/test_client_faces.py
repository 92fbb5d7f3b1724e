"""What a client sees, on every face, against a real server. The scenarios are those of npm/scenarios.mjs, and then
some; the module is the same."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from client_faces import FACES, Scenario, Session, run
from server_process import ServerProcess, descendants, kill

from spacetimedb.client import (
    Backoff,
    ClientError,
    ConnectError,
    Disconnected,
    InternalError,
    QueryError,
    Reconnected,
    ReducerError,
    SubscriptionError,
)
from spacetimedb.module import ReducerError as ModuleReducerError

NPM = Path(__file__).resolve().parent.parent / "npm" / "module.py"
FATAL = "The instance encountered a fatal error."


def load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


game = load(NPM, "npm_module")


Play = Callable[[Scenario], None]


@pytest.fixture(params=FACES)
def play(request: pytest.FixtureRequest, server: ServerProcess, npm_database: str) -> Play:
    return lambda scenario: run(request.param, server.ws_url, npm_database, scenario)


def note(connection: Any, table: Any, seen: list[Any], name: str) -> None:
    """Writes down what happens to rows of this name."""

    def write(what: str, event: Any, row: Any, *numbers: int) -> None:
        if row.name == name:
            seen.append((what, *numbers, type(event).__name__))

    connection.db[table].on_insert(lambda event, row: write("insert", event, row, row.level))
    connection.db[table].on_update(lambda event, old, row: write("update", event, row, old.level, row.level))
    connection.db[table].on_delete(lambda event, row: write("delete", event, row, row.level))


def test_identity_and_token(play: Play) -> None:
    async def scenario(session: Session) -> None:
        async with session.connect(module=game) as first:
            assert first.identity.hex().startswith("c200")
            assert first.is_active
            assert first.token.count(".") == 2
            async with session.connect(module=game, token=first.token) as second, session.connect(module=game) as other:
                assert second.identity == first.identity != other.identity
                assert second.connection_id != first.connection_id
                assert second.token == first.token
        assert not first.is_active

    play(scenario)


def test_refused_connections(play: Play) -> None:
    async def scenario(session: Session) -> None:
        with pytest.raises(ConnectError) as refused:
            async with session.connect(module=game, token="no.such.token"):
                pass
        assert refused.value.status == 401
        with pytest.raises(ConnectError, match=r"no database `no-such-database` at ws://.*not found") as unknown:
            async with session.connect(module=game, database="no-such-database"):
                pass
        assert unknown.value.status == 404
        with pytest.raises(ConnectError, match=r"no connection.*no server listens at port 1 "):
            async with session.connect(module=game, url="ws://127.0.0.1:1"):
                pass
        with pytest.raises(ValueError, match="not a server address"):
            async with session.connect(module=game, url="ftp://127.0.0.1"):
                pass
        with pytest.raises(TypeError, match="no option modul; it has module, token"):
            async with session.connect(modul=game):
                pass
        with pytest.raises(TypeError, match="reconnect takes a Backoff"):
            async with session.connect(reconnect=True):
                pass

    play(scenario)


def test_rows_and_events_of_two_clients(play: Play) -> None:
    async def scenario(session: Session) -> None:
        name = f"pair {session.face}"
        async with session.connect(module=game) as writer, session.connect() as watcher:
            seen: list[Any] = []
            own: list[Any] = []
            await watcher.subscribe(f"SELECT * FROM item WHERE name = '{name}'")
            await writer.subscribe(game.Item.name == name)
            note(watcher, "item", seen, name)
            note(writer, game.Item, own, name)
            stamp = await writer.call(game.add_item, name, 3)
            assert writer.db[game.Item].find(game.Item.name, name).level == 3
            assert stamp.to_datetime().year >= 2024
            await writer.call(game.set_level, name=name, level=4)
            await writer.call("remove_item", name)
            await session.until(lambda: len(seen) == 3, "the delete at the other client")
            steps = [("insert", 3), ("update", 3, 4), ("delete", 4)]
            assert own == [(*step, "Reducer") for step in steps]
            assert seen == [(*step, "Transaction") for step in steps]
            assert watcher.db.item.find("name", name) is None

    play(scenario)


def test_order_within_a_subscription(play: Play) -> None:
    """The official clients' order: the rows are there, the subscription is told, then its rows."""

    async def scenario(session: Session) -> None:
        name = f"order {session.face}"
        async with session.connect(module=game) as conn:
            await conn.call(game.add_item, name, 1)
            order: list[Any] = []
            table = conn.db[game.Item]
            table.on_insert(lambda event, row: order.append((type(event).__name__, row.level)))
            subscription = conn.subscribe_nowait(
                game.Item.name == name, on_applied=lambda: order.append(("applied", table.count()))
            )
            await session.until(lambda: len(order) == 2)
            assert order == [("applied", 1), ("SubscribeApplied", 1)]
            assert subscription.is_active
            table.on_delete(lambda event, row: order.append((type(event).__name__, table.count())))
            pending = conn.unsubscribe_nowait(subscription)
            pending.then = lambda _: order.append(("ended", table.count()))
            await session.until(lambda: len(order) == 4)
            assert order[2:] == [("ended", 0), ("UnsubscribeApplied", 0)]
            assert subscription.is_ended
            await conn.unsubscribe(subscription)  # once more is no error

    play(scenario)


def test_errors_have_the_servers_text(play: Play) -> None:
    async def scenario(session: Session) -> None:
        async with session.connect(module=game) as conn:
            await conn.subscribe(game.Item)
            with pytest.raises(ReducerError) as refused:
                await conn.call(game.fail, "zu wenig Gold ✨")
            assert str(refused.value) == "zu wenig Gold ✨"
            assert isinstance(refused.value, ModuleReducerError)
            assert not list(conn.db[game.Item].filter(game.Item.name, "never zu wenig Gold ✨"))
            with pytest.raises(ReducerError, match=r"^$"):
                await conn.call("fail", "")
            with pytest.raises(InternalError) as crashed:
                await conn.call(game.crash)
            assert str(crashed.value) == FATAL
            with pytest.raises(QueryError, match="no such table"):
                await conn.query("SELECT * FROM nothing")
            for query in ("SELECT * FROM nothing", "SELECT name FROM item", "nonsense", "SELECT * FROM beat_timer"):
                with pytest.raises(SubscriptionError, match=r"."):
                    await conn.subscribe(query)
            with pytest.raises(SubscriptionError, match="no such table: `beat_timer`"):
                await conn.subscribe(game.Item, game.BeatTimer)
            await conn.call(game.set_ballast, 0, 0, "")  # the connection goes on

    play(scenario)


def test_mistakes_of_the_caller(play: Play) -> None:
    async def scenario(session: Session) -> None:
        async with session.connect(module=game) as conn:
            with pytest.raises(LookupError, match="no reducer 'nix'; there are add_item"):
                await conn.call("nix")
            with pytest.raises(LookupError, match=r"add_item is no procedure: call it with conn.call\(...\)"):
                await conn.procedure(game.add_item, "x", 1)
            with pytest.raises(TypeError, match=r"add_item\(name, level\): level is missing"):
                await conn.call(game.add_item, "x")
            with pytest.raises(TypeError, match="unknown argument colour"):
                await conn.call("add_item", "x", 1, colour=3)
            with pytest.raises(ValueError, match="level"):
                await conn.call("add_item", "x", -1)
            with pytest.raises(LookupError, match="no table 'nix'"):
                conn.db["nix"]
            with pytest.raises(LookupError, match="no column 'nix'"):
                conn.db[game.Item].find("nix", 1)
            with pytest.raises(TypeError, match="no primary key"):
                conn.db[game.Shout].on_update(lambda *_: None)
            with pytest.raises(ValueError, match="at least one query"):
                await conn.subscribe()
            assert conn.is_active

    play(scenario)


def test_overlapping_subscriptions(play: Play) -> None:
    async def scenario(session: Session) -> None:
        a, b = f"overlap a {session.face}", f"overlap b {session.face}"
        async with session.connect(module=game) as conn:
            await conn.call(game.add_item, a, 10)
            await conn.call(game.add_item, b, 20)
            counts = {"insert": 0, "update": 0, "delete": 0}

            def counting(what: str) -> Callable[..., None]:
                return lambda *_: counts.__setitem__(what, counts[what] + 1)

            table = conn.db[game.Item]
            table.on_insert(counting("insert"))
            table.on_update(counting("update"))
            table.on_delete(counting("delete"))
            both = await conn.subscribe((game.Item.name == a) | (game.Item.name == b))
            one = await conn.subscribe(game.Item.name == a, (game.Item.level == 10) & (game.Item.name == a))
            assert counts == {"insert": 2, "update": 0, "delete": 0}
            await conn.call(game.set_level, a, 11)  # leaves the third query
            assert counts == {"insert": 2, "update": 1, "delete": 0}
            await conn.unsubscribe(both)
            assert {row.name: row.level for row in table} == {a: 11}
            assert counts == {"insert": 2, "update": 1, "delete": 1}
            await conn.call(game.set_level, a, 10)
            await conn.call(game.remove_item, a)
            assert counts == {"insert": 2, "update": 2, "delete": 2}
            assert one.is_active
            await conn.call(game.remove_item, b)

    play(scenario)


def test_event_tables_are_told_and_not_kept(play: Play) -> None:
    async def scenario(session: Session) -> None:
        async with session.connect(module=game) as one, session.connect() as other:
            heard: list[Any] = []
            one.db[game.Shout].on_insert(lambda event, row: heard.append((row.sender, row.text)))
            other.db["shout"].on_insert(lambda event, row: heard.append((row.sender, row.text)))
            await one.subscribe(game.Shout)
            await other.subscribe("SELECT * FROM shout")
            await one.call(game.shout, "hello")
            await session.until(lambda: len(heard) == 2)
            assert heard == [(one.identity, "hello")] * 2
            assert one.db[game.Shout].count() == other.db.shout.count() == 0

    play(scenario)


def test_one_off_queries_and_indexes(play: Play) -> None:
    async def scenario(session: Session) -> None:
        name = f"query {session.face}"
        async with session.connect(module=game, confirmed=True) as conn:
            await conn.call(game.add_item, name, 5)
            (row,) = await conn.query(game.Item.name == name)
            assert (row.name, row.level) == (name, 5)
            assert type(row) is game.Item
            assert await conn.query("SELECT * FROM item WHERE name = 'nobody'") == []
            assert conn.db[game.Item].count() == 0
            await conn.subscribe(game.Item)
            table = conn.db[game.Item]
            assert table.find(game.Item.id, row.id) == row
            assert row in list(table.filter(game.Item.level, 5))
            await conn.call(game.set_level, name, 6)
            assert row.id not in [found.id for found in table.filter("level", 5)]
            assert name in [found.name for found in table.filter("level", 6)]
            await conn.call(game.remove_item, name)
            assert table.find(game.Item.id, row.id) is None
            assert name not in [found.name for found in table.filter("level", 6)]

    play(scenario)


def test_calls_from_callbacks_and_pipelined_calls(play: Play) -> None:
    async def scenario(session: Session) -> None:
        name = f"chain {session.face}"
        async with session.connect(module=game, confirmed=False) as conn:
            await conn.subscribe(game.Item.name == name)
            table = conn.db[game.Item]
            outcomes: list[Any] = []

            def go_on(_event: object, row: Any) -> None:
                conn.call_nowait(game.set_level, name, row.level + 1)

            remove = table.on_insert(go_on)
            table.on_update(lambda event, old, row: go_on(event, row) if row.level < 5 else None)
            await conn.call(game.add_item, name, 1)
            await session.until(lambda: [row.level for row in table] == [5])
            remove()
            for _ in range(500):
                conn.call_nowait(game.set_ballast, 0, 0, "").then = outcomes.append
            conn.call_nowait(game.fail, "on purpose").then = outcomes.append
            await session.until(lambda: len(outcomes) == 501)
            assert [str(o.error) for o in outcomes if o.error is not None] == ["on purpose"]
            await conn.call(game.remove_item, name)

    play(scenario)


def test_a_raising_callback_ends_the_connection(play: Play) -> None:
    async def scenario(session: Session) -> None:
        name = f"raise {session.face}"

        def angry(_event: object, _row: object) -> None:
            raise ZeroDivisionError("in a callback")

        connections: list[Any] = []

        async def use() -> None:
            async with session.connect(module=game) as conn:
                connections.append(conn)
                await conn.subscribe(game.Item.name == name)
                conn.db[game.Item].on_insert(angry)
                try:
                    await conn.call(game.add_item, name, 1)
                except Disconnected:
                    pass
                await conn.wait_closed()

        with pytest.raises(ZeroDivisionError, match="in a callback"):
            await use()
        assert not connections[0].is_active

    play(scenario)


def test_what_follows_does_not_hide_what_a_callback_raised(play: Play) -> None:
    async def scenario(session: Session) -> None:
        name = f"hidden {session.face}"

        def angry(_event: object, _row: object) -> None:
            raise ZeroDivisionError("in a callback")

        async def use() -> None:
            async with session.connect(module=game) as conn:
                conn.db[game.Item].on_insert(angry)
                await conn.subscribe(game.Item.name == name)
                await conn.call(game.add_item, name, 1)
                await session.until(lambda: not conn.is_active)
                await conn.call(game.remove_item, name)

        with pytest.raises(ZeroDivisionError, match="in a callback"):
            await use()

    play(scenario)


def test_after_the_end(play: Play) -> None:
    async def scenario(session: Session) -> None:
        ends: list[ClientError | None] = []
        async with session.connect(module=game) as conn:
            conn.on_disconnect(ends.append)
            await conn.aclose()
            await conn.wait_closed()
            assert not conn.is_active
            with pytest.raises(Disconnected):
                await conn.call(game.crash)
            with pytest.raises(Disconnected):
                await conn.query(game.Item)
        assert ends == [None]

    play(scenario)


@pytest.mark.parametrize("face", FACES)
def test_procedures_and_views(server: ServerProcess, probe_database: str, face: str) -> None:
    """Views with a primary key have updates; what a procedure commits is there before its answer."""

    async def scenario(session: Session) -> None:
        number = 100 + FACES.index(face)
        async with session.connect() as conn:
            assert await conn.procedure("add", 2, 3) == 5
            with pytest.raises(InternalError):
                await conn.procedure("proc_panic")
            await conn.subscribe(f"SELECT * FROM item WHERE id = {number}", "SELECT * FROM low_items")
            await conn.procedure("item_proc", number, f"by procedure {face}")
            assert conn.db.item.find("id", number).name == f"by procedure {face}"
            told: list[Any] = []
            low = conn.db["low_items"]
            low.on_insert(lambda event, row: told.append(("insert", row.id, row.score)))
            low.on_update(lambda event, old, row: told.append(("update", row.id, old.score, row.score)))
            low.on_delete(lambda event, row: told.append(("delete", row.id, row.score)))
            for score in (-1, -2, 3):
                await conn.call("set_score", number, score)
            await session.until(lambda: len(told) == 3)
            assert told == [("insert", number, -1), ("update", number, -1, -2), ("delete", number, -2)]

    run(face, server.ws_url, probe_database, scenario)


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server whose processes these tests kill."""
    running = ServerProcess(tmp_path_factory.mktemp("own")).start()
    running.publish(NPM, "game")
    try:
        yield running
    finally:
        running.kill()


def kill_readers(server: ServerProcess) -> None:
    for pid in list(descendants(server.pid)):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"workers.reader" in command:
            kill(pid)


@pytest.mark.parametrize("face", FACES[:3])
def test_a_lost_connection_is_told(own_server: ServerProcess, face: str) -> None:
    async def scenario(session: Session) -> None:
        async with session.connect(module=game) as conn:
            ends: list[ClientError | None] = []
            conn.on_disconnect(ends.append)
            kill_readers(own_server)
            with pytest.raises(Disconnected):
                await conn.wait_closed()
            assert len(ends) == 1
            assert isinstance(ends[0], Disconnected)
            with pytest.raises(Disconnected):
                await conn.call(game.crash)

    run(face, own_server.ws_url, "game", scenario)


@pytest.mark.parametrize("face", FACES[:3])
def test_reconnecting_tells_what_has_changed(own_server: ServerProcess, face: str) -> None:
    async def scenario(session: Session) -> None:
        names = [f"{what} {face}" for what in ("kept", "changed", "gone", "new")]
        query = " OR ".join(f"name = '{name}'" for name in names)
        async with session.connect(module=game, reconnect=Backoff(first=0.05, longest=0.5)) as conn:
            for name in names[:3]:
                await conn.call(game.add_item, name, 1)
            await conn.subscribe(f"SELECT * FROM item WHERE {query}")
            table = conn.db[game.Item]
            told: list[Any] = []
            back: list[int] = []
            table.on_insert(lambda event, row: told.append((event, "insert", row.name)))
            table.on_update(lambda event, old, row: told.append((event, "update", row.name, old.level, row.level)))
            table.on_delete(lambda event, row: told.append((event, "delete", row.name)))
            conn.on_reconnect(lambda: back.append(1))
            identity = conn.identity
            kill_readers(own_server)
            own_server.call("game", "set_level", names[1], 2)
            own_server.call("game", "remove_item", names[2])
            own_server.call("game", "add_item", names[3], 1)
            await session.until(lambda: back and len(told) == 3, "the changes after the reconnect")
            events = {type(entry[0]) for entry in told}
            if events == {Reconnected}:  # unless the connection was back before the calls
                assert sorted(entry[1:] for entry in told) == [
                    ("delete", names[2]),
                    ("insert", names[3]),
                    ("update", names[1], 1, 2),
                ]
            assert {row.name: row.level for row in table} == {names[0]: 1, names[1]: 2, names[3]: 1}
            assert conn.identity == identity
            await conn.call(game.set_level, names[0], 7)
            assert table.find("name", names[0]).level == 7

    run(face, own_server.ws_url, "game", scenario)


def test_a_server_that_ends_the_handshake() -> None:
    """A connection that is dropped before an answer is an error, not a wait."""
    import socket
    import threading

    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]

    def hang_up() -> None:
        for _ in FACES:
            accepted, _address = listener.accept()
            accepted.recv(10)
            accepted.close()

    thread = threading.Thread(target=hang_up)
    thread.start()

    async def scenario(session: Session) -> None:
        with pytest.raises(ConnectError):
            async with session.connect(module=game):
                pass

    for face in FACES:
        run(face, f"ws://127.0.0.1:{port}", "game", scenario)
    thread.join()
    listener.close()
