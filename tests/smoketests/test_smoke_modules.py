"""What modules do: views, filters and keys, how SQL shows every type, HTTP handlers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from smoketest import User, deletes, inserts, new_name

from spacetimedb.cli.api import Answer, Server

NewUser = Callable[[], User]

VIEWS = """
    from spacetimedb import (
        AnonymousViewContext, Col, Identity, Index, Module, Pk, ProcedureContext, Query, ReducerContext, Row, Struct,
        Unique, ViewContext, btree, select, u8, u64,
    )

    m = Module()


    @m.table()
    class PlayerState(Row):
        id: Pk[u64]
        level: Index[u64]


    player_level = m.add_table(PlayerState, name="player_level")


    @m.table()
    class PlayerInfo(Row):
        id: Pk[u64]
        age: u64
        level: u64
        age_level = btree("age", "level")


    @m.table()
    class Named(Row):
        identity: Pk[Identity]
        name: Unique[str]


    @m.table(public=True)
    class User(Row):
        identity: Pk[u8]
        name: str
        online: Col[bool]


    @m.table(public=True)
    class Person(Row):
        identity: Pk[u8]
        name: str
        age: Index[u8]


    @m.table(public=True)
    class Left(Row):
        id: Pk[u8]
        ok: Col[bool]


    @m.table(public=True)
    class Right(Row):
        id: Pk[u8]
        ok: Col[bool]


    class Count(Struct):
        count: u64


    @m.init
    def init(ctx: ReducerContext) -> None:
        for identity, name, online in (1, "Alice", True), (2, "BOB", False), (3, "POP", False):
            ctx.db[User].insert(User(identity=identity, name=name, online=online))
        for identity, name, age in (1, "Alice", 30), (2, "BOB", 20):
            ctx.db[Person].insert(Person(identity=identity, name=name, age=age))


    @m.reducer
    def add_player_level(ctx: ReducerContext, id: u64, level: u64) -> None:
        ctx.db[player_level].insert(PlayerState(id=id, level=level))


    @m.reducer
    def set_player_state(ctx: ReducerContext, id: u64, level: u64) -> None:
        ctx.db[PlayerState].id.upsert(PlayerState(id=id, level=level))


    @m.reducer
    def insert_named(ctx: ReducerContext, name: str) -> None:
        ctx.db[Named].insert(Named(identity=ctx.sender, name=name))


    @m.procedure
    def insert_named_later(ctx: ProcedureContext, name: str) -> None:
        ctx.with_tx(insert_named, name)


    @m.reducer
    def set_left(ctx: ReducerContext, id: u8, ok: bool) -> None:
        ctx.db[Left].id.upsert(Left(id=id, ok=ok))


    @m.reducer
    def set_right(ctx: ReducerContext, id: u8, ok: bool) -> None:
        ctx.db[Right].id.upsert(Right(id=id, ok=ok))


    @m.view
    def player(ctx: ViewContext) -> PlayerState | None:
        ctx.log.info("player view called")
        return ctx.db[PlayerState].id.find(42)


    @m.view
    def player_none(ctx: ViewContext) -> PlayerState | None:
        return None


    @m.view
    def player_vec(ctx: ViewContext) -> list[PlayerState]:
        return [ctx.db[PlayerState].id.get(42), PlayerState(id=7, level=3)]


    @m.view
    def player_info_multi_index(ctx: ViewContext) -> PlayerInfo | None:
        ctx.log.info("player_info called")
        return next(iter(ctx.db[PlayerInfo].age_level.filter(25, 7)), None)


    @m.view
    def my_player_and_level(ctx: AnonymousViewContext) -> PlayerState | None:
        return ctx.db[player_level].id.find(0)


    @m.view
    def player_and_level(ctx: AnonymousViewContext) -> list[PlayerState]:
        return list(ctx.db[player_level].level.filter(2))


    @m.view
    def my_name(ctx: ViewContext) -> Named | None:
        return ctx.db[Named].identity.find(ctx.sender)


    @m.view
    def online_users(ctx: ViewContext) -> Query[User]:
        return User.online == True


    @m.view
    def online_users_age(ctx: ViewContext) -> Query[Person]:
        return Person.identity.semijoin(User.identity, User.online == True)


    @m.view
    def users_whos_age_is_known(ctx: ViewContext) -> Query[User]:
        return User.identity.semijoin(Person.identity)


    @m.view
    def offline_user_20_years_old(ctx: ViewContext) -> Query[User]:
        return User.identity.semijoin(Person.identity, Person.age == 20) & (User.online == False)


    @m.view
    def above_20_below_30(ctx: ViewContext) -> Query[Person]:
        return (Person.age > 20) & (Person.age < 30)


    @m.view
    def from_20_to_30(ctx: ViewContext) -> Query[Person]:
        return (Person.age >= 20) & (Person.age <= 30)


    @m.view
    def sender_count(ctx: ViewContext) -> Count | None:
        return Count(ctx.db[PlayerState].count())


    @m.view
    def anonymous_count(ctx: AnonymousViewContext) -> Count | None:
        return Count(ctx.db[PlayerState].count())


    @m.view(primary_key="id")
    def left_view(ctx: ViewContext) -> list[Left]:
        return list(ctx.db[Left].iter())


    @m.view(primary_key="id")
    def right_view(ctx: AnonymousViewContext) -> list[Right]:
        return list(ctx.db[Right].iter())
"""
PLAYER = """
    from spacetimedb import Module, Pk, ReducerContext, Row, ViewContext, u64

    m = Module()


    @m.table()
    class PlayerState(Row):
        id: Pk[u64]
        level: u64


    @m.client_disconnected
    def gone(ctx: ReducerContext) -> None:
        ctx.log.info("client disconnected")
"""
PLAYER_VIEW = """

    @m.view
    def player(ctx: ViewContext) -> PlayerState | None:
        return ctx.db[PlayerState].id.find(1)
"""
VALUES = """
    from enum import IntEnum

    from spacetimedb import (
        ConnectionId, Identity, Index, Module, Pk, Query, ReducerContext, Result, Row, Struct, TimeDuration, Timestamp,
        Uuid, ViewContext, auto_inc, f32, i8, i16, i32, i64, i128, i256, u8, u16, u32, u64, u128, u256,
    )

    m = Module()


    class Action(IntEnum):
        Inactive = 0
        Active = 1


    class Ints(Struct):
        i8: i8
        i16: i16
        i32: i32
        i64: i64
        i128: i128
        i256: i256


    class Others(Struct):
        bool: bool
        f32: f32
        f64: float
        str: str
        bytes: bytes
        identity: Identity
        connection_id: ConnectionId
        timestamp: Timestamp
        duration: TimeDuration
        uuid: Uuid


    @m.table()
    class TInts(Row):
        tuple: Ints
        u128: u128
        u256: u256


    @m.table()
    class TOthers(Row):
        tuple: Others
        bytes: bytes
        timestamp: Timestamp
        duration: TimeDuration
        uuid: Uuid


    @m.table()
    class TEnums(Row):
        bool_opt: bool | None
        bool_result: Result[bool, str]
        action: Action


    @m.table(public=True, name="canonical_table")
    class AccessorRow(Row):
        id: Pk[u32]
        accessor_value1: Index[u32]


    @m.view(name="canonical_filtered")
    def accessor_filtered(ctx: ViewContext) -> Query[AccessorRow]:
        return AccessorRow.accessor_value1 == 7


    @m.init
    def init(ctx: ReducerContext) -> None:
        ints = Ints(-25, -3224, -23443, -2344353, -234434897853, -234434897853)
        ctx.db[TInts].insert(TInts(tuple=ints, u128=4378528978889, u256=4378528978889))
        zero = (Timestamp(0), TimeDuration(0), Uuid(bytes(16)))
        others = Others(
            True, 594806.58906, -3454353.345389043278459, "This is spacetimedb", bytes(range(1, 8)),
            Identity.from_int(1), ConnectionId(bytes(16)), *zero,
        )
        ctx.db[TOthers].insert(
            TOthers(tuple=others, bytes=others.bytes, timestamp=zero[0], duration=zero[1], uuid=zero[2])
        )
        ctx.db[TEnums].insert(TEnums(bool_opt=True, bool_result=("ok", False), action=Action.Active))
        ctx.db[AccessorRow].insert(AccessorRow(id=1, accessor_value1=7))


    KINDS = {
        "u8": u8, "u16": u16, "u32": u32, "u64": u64, "u128": u128,
        "i8": i8, "i16": i16, "i32": i32, "i64": i64, "i128": i128,
    }


    def counting(kind: str) -> None:
        \"\"\"A table whose key counts up, and a reducer that says what it was given.\"\"\"
        row = type(Row)(f"Counted{kind.upper()}", (Row,), {
            "__annotations__": {"key": Pk[KINDS[kind]], "name": str}, "__module__": __name__, "key": auto_inc(),
        })
        table = m.table()(row)

        def add(ctx: ReducerContext, name: str) -> None:
            ctx.log.info(f"{kind} is given {ctx.db[table].insert(table(name=name)).key}")

        m.reducer(name=f"add_{kind}")(add)


    for kind in KINDS:
        counting(kind)
"""
FILTERING = """
    from spacetimedb import Index, Module, Pk, ReducerContext, Row, Unique, auto_inc, btree, i32, u32

    m = Module()


    @m.table()
    class Person(Row):
        id: Unique[i32]
        name: str
        nick: Unique[str]


    @m.table()
    class Nonunique(Row):
        id: Index[i32]
        name: str
        is_human: bool


    @m.table()
    class Indexed(Row):
        player_id: i32
        snazz: u32
        by_both = btree("player_id", "snazz")


    @m.table()
    class Counter(Row):
        key: Unique[i32] = auto_inc()
        name: Unique[str]


    @m.table()
    class Friends(Row):
        friend_1: i32
        friend_2: i32


    @m.reducer
    def insert_person(ctx: ReducerContext, id: i32, name: str, nick: str) -> None:
        ctx.db[Person].insert(Person(id=id, name=name, nick=nick))


    @m.reducer
    def insert_person_twice(ctx: ReducerContext, id: i32, name: str, nick: str) -> None:
        insert_person(ctx, id, name, nick)
        if ctx.db[Person].try_insert(Person(id=id, name=name + "2", nick=nick)) is None:
            ctx.log.info(f"VIOLATION: {id}")


    @m.reducer
    def delete_person(ctx: ReducerContext, id: i32) -> None:
        ctx.db[Person].id.delete(id)


    @m.reducer
    def find(ctx: ReducerContext, id: i32, nick: str) -> None:
        read_only = ctx.as_view()
        for db in ctx.db, read_only.db:
            by_id, by_nick = db[Person].id.find(id), db[Person].nick.find(nick)
            ctx.log.info(f"{by_id.name if by_id else 'nobody'}, {by_nick.id if by_nick else 'nobody'}")


    @m.reducer
    def insert_nonunique(ctx: ReducerContext, id: i32, name: str, is_human: bool) -> None:
        ctx.db[Nonunique].insert(Nonunique(id=id, name=name, is_human=is_human))


    @m.reducer
    def find_nonunique(ctx: ReducerContext, id: i32) -> None:
        exact, above = ctx.db[Nonunique].id.filter(id), ctx.db[Nonunique].id.filter(gt=id)
        humans = [p.name for p in ctx.db[Nonunique].iter() if p.is_human]
        ctx.log.info(f"{sorted(p.name for p in exact)} {sorted(p.name for p in above)} {sorted(humans)}")


    @m.reducer
    def insert_indexed(ctx: ReducerContext) -> None:
        for player in range(3):
            for snazz in range(3):
                ctx.db[Indexed].insert(Indexed(player_id=player, snazz=snazz))
        index = ctx.db[Indexed].by_both
        counts = [len(list(found)) for found in (index.filter(1), index.filter(1, 2), index.filter(1, ge=1))]
        ctx.log.info(f"{counts} {index.delete(1)} {ctx.db[Indexed].count()}")


    @m.reducer
    def add_counted(ctx: ReducerContext, name: str, key: i32) -> None:
        ctx.log.info(f"{name} is {ctx.db[Counter].insert(Counter(key=key, name=name)).key}")


    @m.reducer
    def add_friend(ctx: ReducerContext, mine: i32, theirs: i32) -> None:
        for person in ctx.db[Person].iter():
            if person.id == theirs:
                ctx.db[Friends].insert(Friends(friend_1=mine, friend_2=theirs))


    @m.reducer
    def say_friends(ctx: ReducerContext) -> None:
        for pair in ctx.db[Friends].iter():
            one, other = ctx.db[Person].id.get(pair.friend_1), ctx.db[Person].id.get(pair.friend_2)
            ctx.log.info(f"{one.name} is friends with {other.name}")
"""
ROUTES = """
    from spacetimedb import (
        HttpContext, HttpError, Module, ProcedureContext, ReducerContext, Request, Response, Row, u64,
    )

    m = Module()


    @m.table(public=True)
    class Entry(Row):
        id: u64
        value: str


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


    @m.http.post("/body")
    def body(ctx: HttpContext, request: Request) -> Response:
        return Response(request.body[::-1])


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
        return Response(f"{request.path}?{request.query}")


    @m.procedure
    def reach(ctx: ProcedureContext, url: str) -> str:
        try:
            return f"answered {ctx.http.get(url, timeout=5).status}"
        except HttpError as error:
            return str(error)
"""


@pytest.fixture
def views(user: User) -> str:
    return user.publish(VIEWS)


# -- views


def test_views_in_sql(user: User, views: str) -> None:
    """Views of every form are queried like tables, run again only when what they read has changed."""

    def ran(what: str) -> int:
        return user.logs(views).count(what)

    def players(view: str) -> list[list[str]]:
        return user.sql_rows(views, f"SELECT * FROM {view}")

    assert players("player") == []
    user.subscribe(views, "SELECT * FROM player", "SELECT * FROM player_info_multi_index")
    ran_before = ran("player view called")
    user.sql(views, "INSERT INTO player_state (id, level) VALUES (22, 8)")
    user.sql(views, "INSERT INTO player_info (id, age, level) VALUES (2, 25, 8)")
    assert ran("player view called") == ran_before
    user.sql(views, "INSERT INTO player_state (id, level) VALUES (42, 7)")
    assert ran("player view called") == ran_before + 1
    assert players("player") == [["42", "7"]]
    assert players("player_none") == []
    assert players("player_vec") == [["42", "7"], ["7", "3"]]
    assert players("player_info_multi_index") == []
    user.sql(views, "INSERT INTO player_info (id, age, level) VALUES (1, 25, 7)")
    assert players("player_info_multi_index") == [["1", "25", "7"]]
    user.sql(views, "UPDATE player_info SET age = 26 WHERE id = 1")
    assert players("player_info_multi_index") == []
    for id, level in ((0, 1), (1, 2), (2, 2)):
        user.call(views, "add_player_level", id, level)
    assert players("my_player_and_level") == [["0", "1"]]
    assert players("player_and_level") == [["1", "2"], ["2", "2"]]
    assert user.sql_rows(views, "SELECT * FROM player_and_level WHERE id = 2") == [["2", "2"]]
    assert ["player", "true", "false"] in [
        [name.strip('"'), *rest] for _, name, _, *rest in user.sql_rows(views, "SELECT * FROM st_view")
    ]
    assert '"level"' in user.run("sql", views, "SELECT * FROM st_view_column")


def test_query_views(user: User, views: str) -> None:
    def rows(view: str) -> list[list[str]]:
        return user.sql_rows(views, f"SELECT * FROM {view}")

    alice, bob = ["1", '"Alice"'], ["2", '"BOB"']
    assert rows("online_users") == [[*alice, "true"]]
    assert rows("online_users_age") == [[*alice, "30"]]
    assert rows("users_whos_age_is_known") == [[*alice, "true"], [*bob, "false"]]
    assert rows("offline_user_20_years_old") == [[*bob, "false"]]
    assert rows("above_20_below_30") == []
    assert rows("from_20_to_30") == [[*alice, "30"], [*bob, "20"]]


def test_subscribers_of_views(user: User, new_user: NewUser, views: str) -> None:
    """Rows of the caller alone, also when a procedure writes; counts; clients that leave disturb nobody."""
    alice, bob = new_user(), new_user()
    alice.call(views, "insert_named", "Alice")
    mine, his = alice.subscribe(views, "SELECT * FROM my_name"), bob.subscribe(views, "SELECT * FROM my_name")
    assert [row["name"] for row in mine.initial["my_name"]["inserts"]] == ["Alice"]
    bob.call(views, "insert_named_later", "Bob")
    assert [row["name"] for row in his.next()["my_name"]["inserts"]] == ["Bob"]
    for view in ("player", "sender_count", "anonymous_count"):
        keep, leave = alice.subscribe(views, f"SELECT * FROM {view}"), alice.subscribe(views, f"SELECT * FROM {view}")
        alice.call(views, "set_player_state", 42, 1)
        assert keep.next() == leave.next()
        leave.close()
        user.sql(views, "DELETE FROM player_state WHERE id = 42")
        gone = keep.next()[view]
        expected: list[dict[str, Any]] = [] if view == "player" else [{"count": 0}]
        assert (gone["inserts"], len(gone["deletes"])) == (expected, 1)
        keep.close()


@pytest.mark.parametrize("right", ["right_view", "right"])
def test_joins_of_views_with_keys(user: User, views: str, right: str) -> None:
    query = f"SELECT left_view.* FROM left_view JOIN {right} ON left_view.id = {right}.id WHERE left_view.ok = true"
    watch = user.subscribe(views, f"{query} AND {right}.ok = true")
    user.call(views, "set_left", 1, True)
    user.call(views, "set_right", 1, True)
    user.call(views, "set_right", 1, False)
    user.call(views, "set_right", 2, True)
    user.call(views, "set_left", 2, True)
    user.call(views, "set_left", 2, False)
    one, two = {"id": 1, "ok": True}, {"id": 2, "ok": True}
    expected = [
        inserts("left_view", one),
        deletes("left_view", one),
        inserts("left_view", two),
        deletes("left_view", two),
    ]
    assert watch.take(4) == expected


def test_changes_of_views(user: User) -> None:
    """Views come and go with a publish; one with a new key or that fails; those that are refused."""
    name = user.publish(PLAYER + PLAYER_VIEW)
    user.sql(name, "INSERT INTO player_state (id, level) VALUES (1, 1)")
    assert user.sql_rows(name, "SELECT * FROM player") == [["1", "1"]]
    watch = user.subscribe(name, "SELECT * FROM player")
    other = PLAYER_VIEW.replace("find(1)", "find(2)")
    user.publish(PLAYER + other, name, "--yes")
    assert user.sql_rows(name, "SELECT * FROM player") == []
    assert watch.next() == deletes("player", {"id": 1, "level": 1})
    user.publish(PLAYER + PLAYER_VIEW.replace("@m.view", '@m.view(primary_key="id")'), name, "--break-clients")
    assert watch.session.receive_all()[1].code == 1001
    user.await_log(name, "client disconnected")
    assert user.sql_rows(name, "SELECT * FROM player") == [["1", "1"]]
    user.publish(PLAYER, name, "--break-clients")
    assert "no such table" in user.sql_fails(name, "SELECT * FROM player")
    for wrong in (
        PLAYER_VIEW.replace("def player(", "def player_state("),
        PLAYER_VIEW.replace("PlayerState | None", "u64 | None"),
    ):
        user.publish_fails(PLAYER + wrong, new_name())


# -- rows


def test_how_sql_shows_values(user: User) -> None:
    name = user.publish(VALUES)
    zeros = "00000000-0000-0000-0000-000000000000"
    others = (
        '(bool = true, f_32 = 594806.56, f_64 = -3454353.3453890434, str = "This is spacetimedb", '
        f"bytes = 0x01020304050607, identity = 0x{1:064x}, connection_id = 0x{0:032x}, "
        f'timestamp = 1970-01-01T00:00:00+00:00, duration = +0.000000, uuid = "{zeros}")'
    )
    assert user.sql_rows(name, "SELECT * FROM t_ints") == [
        [
            "(i_8 = -25, i_16 = -3224, i_32 = -23443, i_64 = -2344353, i_128 = -234434897853, i_256 = -234434897853)",
            "4378528978889",
            "4378528978889",
        ]
    ]
    assert user.sql_rows(name, "SELECT * FROM t_others") == [
        [others, "0x01020304050607", "1970-01-01T00:00:00+00:00", "+0.000000", f'"{zeros}"']
    ]
    assert user.sql(name, "SELECT * FROM t_enums") == [
        " bool_opt      | bool_result  | action",
        "---------------+--------------+---------------",
        " (some = true) | (ok = false) | (active = ())",
    ]
    for table in ("canonical_table", "canonical_filtered"):
        assert user.sql_rows(name, f"SELECT * FROM {table}") == [["1", "7"]]
    assert user.sql(name, "SELECT accessor_value1 FROM canonical_table")[0] == " accessor_value1"
    assert user.sql(name, "SELECT accessor_value_1 FROM canonical_table")[0] == " accessor_value_1"
    user.sql(name, "UPDATE canonical_table SET accessor_value_1 = 10 WHERE canonical_table.id = 1")
    assert user.sql_rows(name, "SELECT accessor_value_1 FROM canonical_table WHERE id = 1") == [["10"]]
    user.sql_fails(name, "UPDATE canonical_table SET accessor_value_1 = 8 WHERE other_table.id = 1")
    for kind in ("u8", "u16", "u32", "u64", "u128", "i8", "i16", "i32", "i64", "i128"):
        user.call(name, f"add_{kind}", "Robert")
        assert f"{kind} is given 1" in user.logs(name)


def test_keys_and_filters(user: User) -> None:
    name = user.publish(FILTERING)
    for id, person, nick in ((23, "Alice", "al"), (42, "Bob", "bo"), (64, "Bob", "b2")):
        user.call(name, "insert_person", id, person, nick)
    user.call(name, "find", 23, "bo")
    user.call(name, "find", 43, "none")
    user.call(name, "insert_person_twice", 100, "Cleo", "cl")
    user.call_fails(name, "insert_person", 23, "Alice2", "a2")
    user.call_fails(name, "insert_person", 24, "Alice2", "al")
    user.call(name, "add_friend", 23, 42)
    user.call(name, "add_friend", 23, 99)
    user.call(name, "say_friends")
    user.call(name, "delete_person", 23)
    user.call(name, "find", 23, "al")
    user.call(name, "insert_person", 23, "Alice2", "al")
    user.call(name, "find", 23, "al")
    for id, person, is_human in ((23, "Alice", True), (42, "Bob", True), (42, "Carol", False)):
        user.call(name, "insert_nonunique", id, person, is_human)
    user.call(name, "find_nonunique", 23)
    user.call(name, "find_nonunique", 42)
    user.call(name, "insert_indexed")
    user.call(name, "add_counted", "Robert", 2)  # an explicit value does not move the sequence
    user.call(name, "add_counted", "Success", 0)
    user.call_fails(name, "add_counted", "Failure", 0)
    user.call(name, "add_counted", "Julie", 0)
    logs = user.logs(name)
    for line in (
        "Alice, 42",
        "nobody, nobody",
        "VIOLATION: 100",
        "Alice is friends with Bob",
        "Alice2, 23",
        "['Alice'] ['Bob', 'Carol'] ['Alice', 'Bob']",
        "['Bob', 'Carol'] [] ['Alice', 'Bob']",
        "[3, 1, 2] 3 6",
        "Robert is 2",
        "Success is 1",
        "Julie is 3",
    ):
        assert line in logs
    assert logs.count("is friends with") == 1


# -- HTTP


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
    assert request("POST", "/body", body=b"\x00\x01\xff").body == b"\xff\x01\x00"
    for path, text in (("", "empty"), ("/", "slash"), ("/foo", "foo"), ("/foo/", "foo-slash")):
        assert request("GET", path).text == text
    assert request("GET", "/echo-uri?alpha=1&beta=two").text == "/echo-uri?alpha=1&beta=two"
    for method, path in (("GET", "/post"), ("GET", "/missing"), ("GET", "/count/"), ("GET", "//")):
        refused = request(method, path)
        assert (refused.status, refused.text) == (404, "Database has not registered a handler for this route")
    api.close()
    for url in (
        user.server.base_url,
        "http://localhost:1/",
        "http://[::1]:1/",
        "http://10.0.0.1/",
        "http://169.254.1.1/",
    ):
        assert "refusing to connect to private or special-purpose addresses" in user.call(name, "reach", url)
