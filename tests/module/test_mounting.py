"""Modules mounted in a module: names, tables, functions, schedules, in the core and on a server."""

from __future__ import annotations

import io
import json
import re
import zipfile

import pytest
import trio
from server_process import RequestFailed, ServerProcess

from spacetimedb import (
    AnonymousViewContext,
    HttpContext,
    Module,
    ModuleError,
    Pk,
    ProcedureContext,
    Query,
    ReducerContext,
    Request,
    Response,
    Row,
    Schedule,
    TestHost,
    auto_inc,
    every,
    select,
    u32,
)
from spacetimedb.client.trio import connect
from spacetimedb.hosts.installation import InstallError

LOG = """
from spacetimedb import *
m = Module()

@m.table(public=True)
class Line(Row):
    id: Pk[u32] = auto_inc()
    text: str

@m.reducer
def write(ctx: ReducerContext, text: str) -> None:
    ctx.db[Line].insert(Line(text=text))

@m.view
def long_lines(ctx: AnonymousViewContext) -> list[Line]:
    return [line for line in ctx.db.lib.line.iter() if len(line.text) > 5]

@m.procedure
def count(ctx: ProcedureContext) -> u32:
    return ctx.with_tx(lambda tx: tx.db[Line].count())

@m.reducer
def refuse(ctx: ReducerContext) -> None:
    raise ReducerError("refused in lib")

@m.reducer
def crash(ctx: ReducerContext) -> None:
    write(ctx, 1 / 0)

@m.view
def broken(ctx: AnonymousViewContext) -> list[Line]:
    return [ctx.db[Line].id.get(7)]

@m.http.get("/health")
def health(ctx: HttpContext, request: Request) -> Response:
    return Response("well")
"""
ROOT = """
from spacetimedb import *
from . import log

m = Module()
m.mount("lib", log.m)

@m.table(public=True)
class Line(Row):
    text: str

@m.reducer
def both(ctx: ReducerContext, text: str) -> None:
    ctx.db[Line].insert(Line(text=text))
    log.write(ctx, text)
"""


def package(**files: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, source in files.items():
            archive.writestr(f"{name}.py", source)
    return data.getvalue()


def test_everything_in_a_test_host() -> None:
    inner, root = Module(), Module()

    @inner.table(public=True)
    class Tick(Row):
        id: Pk[u32] = auto_inc()

    @inner.table()
    class Timer(Schedule): ...

    @inner.reducer(on_schedule=Timer)
    def tick(ctx: ReducerContext, timer: Timer) -> None:
        ctx.db[Tick].insert(Tick())

    @inner.every(seconds=1)
    def often(ctx: ReducerContext) -> None:
        ctx.db[Tick].insert(Tick())

    @inner.reducer
    def start(ctx: ReducerContext) -> None:
        ctx.db[Timer].insert(Timer(scheduled_at=every(seconds=1)))

    @inner.view
    def late(ctx: AnonymousViewContext) -> Query[Tick]:
        return select(Tick).where(Tick.id > 4)

    @inner.procedure
    def ticks(ctx: ProcedureContext) -> u32:
        return ctx.with_tx(lambda tx: tx.db[Tick].count())

    middle = Module()
    middle.mount("clock", inner)
    root.mount("lib", middle)
    host, alice = TestHost(root), TestHost.identity("alice")
    host.connect(alice)
    host.call(alice, start)
    host.advance(seconds=3.5)
    assert host.db[Tick].count() == 6
    assert host.procedure(alice, ticks) == 6
    assert sorted(row.id for row in host.view(late)) == [5, 6]
    assert "lib.clock.tick" in host._database.table_ids
    names = {spec.name for spec in root.reducers}
    assert names == {"lib.clock.tick", "lib.clock.often", "lib.clock.start"}
    seen = host.subscribe(alice, "SELECT * FROM lib.clock.tick WHERE id > 6")
    host.advance(seconds=1)
    assert seen.messages
    host.restart(crash=True)
    assert host.db[Tick].count() == 8
    assert TestHost(inner).db[Tick].count() == 0  # by itself it is still a module


def test_mistakes_are_told() -> None:
    inner, root = Module(), Module()
    inner.row_filter("SELECT * FROM user")

    @inner.init
    def init(ctx: ReducerContext) -> None: ...

    root.mount("pg_catalog", inner)
    root.mount("my-lib", inner)
    with pytest.raises(ModuleError) as caught:
        root.describe()
    text = str(caught.value)
    for part in ("reserved", "my-lib", "mounted twice", "row filters can only", "init, client_connected"):
        assert part in text


def test_a_migration_function_of_a_mounted_module() -> None:
    def whole(inner: Module) -> Module:
        root = Module()
        root.mount("lib", inner)
        return root

    class OldUser(Row):
        id: Pk[u32] = auto_inc()
        full_name: str

    class User(Row):
        first: str
        id: Pk[u32] = auto_inc()

    old, new = Module(), Module()
    old.table(name="user")(OldUser)
    new.table()(User)

    @old.reducer
    def add(ctx: ReducerContext, full_name: str) -> None:
        ctx.db[OldUser].insert(OldUser(full_name=full_name))

    @new.reducer
    def join(ctx: ReducerContext, first: str) -> None:
        ctx.db[User].insert(User(first=first))

    @new.migration("user", OldUser)
    def first_names(ctx: ReducerContext, row: OldUser) -> None:
        ctx.db[User].insert(User(id=row.id, first=row.full_name.split()[0]))

    host, alice = TestHost(whole(old)), TestHost.identity("alice")
    for name in ("Ann Lee", ""):
        host.call(alice, add, name)
    with pytest.raises(InstallError, match=r"first_names failed for OldUser.* of table `lib.user`: IndexError"):
        host.publish(whole(new), break_clients=True)
    host.call(alice, add, "Bob Ray")
    host._database.tables[OldUser].handle.id.delete(2)
    host._database.store.commit()
    host.publish(whole(new), break_clients=True)
    host.call(alice, join, "Cid")
    assert sorted((row.first, row.id) for row in host.db[User].iter())[:2] == [("Ann", 1), ("Bob", 3)]
    assert "lib.user" in host._database.table_ids
    host.restart(crash=True)
    assert sorted(row.first for row in host.db[User].iter()) == ["Ann", "Bob", "Cid"]


def test_routes_of_a_mounted_module_are_not_served_and_the_log_says_so() -> None:
    inner, root = Module(), Module()

    @inner.http.get("/health")
    @inner.http.any("/")
    def health(ctx: HttpContext, request: Request) -> Response:
        return Response("well")

    root.mount("lib", inner)
    host = TestHost(root)
    with pytest.raises(LookupError, match="no handler"):
        host.request("GET", "/health")
    warning = ("Warn", "HTTP routes of the mounted module `lib` are not served: `/`, `/health`")
    assert [(line["level"], line["message"]) for line in host.log].count(warning) == 1
    host.publish(root)
    assert [(line["level"], line["message"]) for line in host.log].count(warning) == 2


def test_on_a_server(server: ServerProcess) -> None:
    program = package(__init__=ROOT, log=LOG)
    server.publish(program, "mounted")
    server.call("mounted", "both", "hello world")
    server.call("mounted", "lib.write", "hi")
    assert server.sql("mounted", "SELECT * FROM line") == [["hello world"]]
    assert server.sql("mounted", "SELECT * FROM lib.line") == [[1, "hello world"], [2, "hi"]]
    assert server.sql("mounted", "SELECT * FROM lib.long_lines") == [[1, "hello world"]]
    assert server.call("mounted", "lib.count").json() == 2
    names = server.sql("mounted", "SELECT table_name FROM st_table WHERE table_type = 'user'")
    assert sorted(name for (name,) in names) == ["lib.broken", "lib.line", "lib.long_lines", "line"]
    with pytest.raises(RequestFailed, match="404"):
        server.call("mounted", "write", "hi")

    async def client() -> None:
        async with connect(server.base_url, "mounted", token=server.owner_token) as connection:
            await connection.subscribe("SELECT * FROM lib.line")
            with trio.fail_after(90):
                await connection.call("lib.write", "over WebSocket")
            assert sorted(row.text for row in connection.db["lib.line"].iter()) == [
                "hello world",
                "hi",
                "over WebSocket",
            ]

    trio.run(client)


def test_what_a_server_says_about_mounted_functions(server: ServerProcess) -> None:
    """Errors and log name them as clients do."""
    server.publish(package(__init__=ROOT, log=LOG), "mounted-errors")
    for call, text in (
        (("lib.refuse",), r"530: refused in lib$"),
        (("lib.crash",), r"530: The instance encountered a fatal error\.$"),
        (("lib.write", 5), r"400: invalid arguments for reducer lib\.write"),
        (("lib.nothing",), r"404: No such procedure"),
        (("lib.health",), r"404: No such procedure"),
    ):
        with pytest.raises(RequestFailed, match=text):
            server.call("mounted-errors", *call)
    server.call("mounted-errors", "lib.write", "one")
    for statement, text in (
        ("SELECT * FROM lib.broken", "Error materializing view `lib.broken`"),
        ("SELECT * FROM lib.nothing", "no such table: `lib.nothing`"),
        ("INSERT INTO lib.line (id, text) VALUES (1, 'two')", "in table 'lib.line': column"),
        (
            "INSERT INTO lib.broken (id, text) VALUES (1, 'two')",
            "`lib.broken` is a view; DML on views is not supported",
        ),
    ):
        with pytest.raises(RequestFailed, match=re.escape(text)):
            server.sql("mounted-errors", statement)
    with pytest.raises(RequestFailed, match="404: Database has not registered a handler for this route"):
        server.request("GET", "/v1/database/mounted-errors/route/health")
    lines = [json.loads(line) for line in server.request("GET", "/v1/database/mounted-errors/logs").text.splitlines()]
    told = {(line["level"], line["function"]) for line in lines}
    assert {("Error", "lib.refuse"), ("Panic", "lib.crash"), ("Panic", "lib.broken")} <= told
    assert any("HTTP routes of the mounted module `lib` are not served: `/health`" in line["message"] for line in lines)
