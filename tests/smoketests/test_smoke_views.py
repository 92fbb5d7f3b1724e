"""Views: in SQL, for subscribers, in joins, and what becomes of them when a module changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from patience import until
from smoketest import User, deletes, new_name

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
        owner: Index[Identity]


    @m.table(public=True)
    class Right(Row):
        id: Pk[u8]
        ok: Col[bool]
        owner: Index[Identity]


    @m.table(public=True)
    class Item(Row):
        value: u8


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
    def replace_player_state(ctx: ReducerContext, id: u64, level: u64) -> None:
        ctx.db[PlayerState].id.delete(id)
        ctx.db[PlayerState].insert(PlayerState(id=id, level=level))


    @m.reducer
    def insert_named(ctx: ReducerContext, name: str) -> None:
        ctx.db[Named].insert(Named(identity=ctx.sender, name=name))


    @m.procedure
    def insert_named_later(ctx: ProcedureContext, name: str) -> None:
        ctx.with_tx(insert_named, name)


    @m.reducer
    def set_left(ctx: ReducerContext, id: u8, ok: bool) -> None:
        ctx.db[Left].id.upsert(Left(id=id, ok=ok, owner=ctx.sender))


    @m.reducer
    def delete_left(ctx: ReducerContext, id: u8) -> None:
        ctx.db[Left].id.delete(id)


    @m.reducer
    def set_right(ctx: ReducerContext, id: u8, ok: bool) -> None:
        ctx.db[Right].id.upsert(Right(id=id, ok=ok, owner=ctx.sender))


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
    def left_list(ctx: ViewContext) -> list[Left]:
        return list(ctx.db[Left].iter())


    @m.view(primary_key="id")
    def right_list(ctx: AnonymousViewContext) -> list[Right]:
        return list(ctx.db[Right].iter())


    @m.view
    def left_all(ctx: AnonymousViewContext) -> Query[Left]:
        return select(Left)


    @m.view
    def right_all(ctx: AnonymousViewContext) -> Query[Right]:
        return select(Right)


    @m.view
    def left_mine(ctx: ViewContext) -> Query[Left]:
        return Left.owner == ctx.sender


    @m.view
    def right_mine(ctx: ViewContext) -> Query[Right]:
        return Right.owner == ctx.sender


    @m.view
    def seven(ctx: ViewContext) -> Item | None:
        return Item(value=7)


    @m.reducer
    def keep_seven(ctx: ReducerContext) -> None:
        item = seven(ctx.as_view())
        assert item is not None
        ctx.db[Item].insert(item)
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
FOLLOWING = """
    from spacetimedb import Module, Pk, Row, Struct, ViewContext, u64

    m = Module()


    @m.table()
    class Old(Row):
        id: Pk[u64]
        value: u64


    @m.table()
    class New(Row):
        id: Pk[u64]
        value: u64


    class Shown(Struct):
        id: u64


    class Marker(Struct):
        label: str


    @m.view
    def switched(ctx: ViewContext) -> Shown | None:
        ctx.log.info("switched runs")
        row = ctx.db[Old].id.find(0)
        return None if row is None else Shown(row.id)


    @m.view
    def z_counter(ctx: ViewContext) -> Old | None:
        return ctx.db[Old].id.find(0)
"""
MARKER = """

    @m.view
    def a_marker(ctx: ViewContext) -> Marker | None:
        return Marker("0")
"""


@pytest.fixture
def views(user: User) -> str:
    return user.publish(VIEWS)


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
    user.call(views, "keep_seven")  # a reducer calls a view
    assert rows("item") == [["7"]]


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
        if view == "player":
            alice.call(views, "set_player_state", 42, 2)
            assert keep.next()[view]["inserts"] == [{"id": 42, "level": 2}]
        else:
            alice.call(views, "replace_player_state", 42, 2)  # the count stays the same: nothing is sent
        user.sql(views, "DELETE FROM player_state WHERE id = 42")
        gone = keep.next()[view]
        expected: list[dict[str, Any]] = [] if view == "player" else [{"count": 0}]
        assert (gone["inserts"], len(gone["deletes"])) == (expected, 1)
        keep.close()


JOINS = {
    "lists": ("left_list", "right_list", "WHERE left_list.ok = true AND right_list.ok = true"),
    "list-and-table": ("left_list", "right", "WHERE left_list.ok = true AND right.ok = true"),
    "of-the-sender": ("left_mine", "right_mine", "WHERE left_mine.ok = true AND right_mine.ok = true"),
    "of-all": ("left_all", "right_all", "WHERE left_all.ok = true AND right_all.ok = true"),
    "filtered-by-sender": ("left_all", "right", "WHERE left_all.ok = true AND right.owner = :sender"),
    "table-filtered-by-sender": ("left_all", "right", "WHERE right.owner = :sender"),
    "no-filter": ("left_mine", "right", ""),
}
"""What is joined on `id`: the rows that are shown, the others, the condition."""


def test_joins_of_views_with_keys(new_user: NewUser, views: str) -> None:
    """Rows come and go as their partners do, or fulfil the condition, or exist; another's rows change nothing."""
    other, user = new_user(), new_user()
    other.call(views, "set_left", 200, True)
    other.call(views, "set_right", 200, True)
    for number, (left, right, condition) in enumerate(JOINS.values()):
        one, two = 2 * number, 2 * number + 1
        watch = user.subscribe(views, f"SELECT {left}.* FROM {left} JOIN {right} ON {left}.id = {right}.id {condition}")
        user.call(views, "set_left", one, True)
        user.call(views, "set_right", one, True)
        if f"{right}.ok" in condition:
            user.call(views, "set_right", one, False)
        elif f"{left}.ok" in condition:
            user.call(views, "set_left", one, False)
        else:
            user.call(views, "delete_left", one)
        user.call(views, "set_right", two, True)
        user.call(views, "set_left", two, True)
        user.call(views, "delete_left", two)
        seen = [
            (kind, row["id"], row["ok"])
            for change in watch.take(4)
            for kind in ("deletes", "inserts")
            for row in change[left][kind]
        ]
        assert seen == [
            ("inserts", one, True),
            ("deletes", one, True),
            ("inserts", two, True),
            ("deletes", two, True),
        ], left + right + condition
        watch.close()


def test_changes_of_views(user: User) -> None:
    """Views come and go with a publish; one with a new key; those that are refused."""
    name = user.publish(PLAYER + PLAYER_VIEW)
    assert user.sql(name, "SELECT * FROM st_view") == [
        " view_id | view_name | table_id      | is_public | is_anonymous",
        "---------+-----------+---------------+-----------+--------------",
        ' 4096    | "player"  | (some = 4097) | true      | false',
    ]
    assert user.sql_rows(name, "SELECT * FROM st_view_column") == [
        ["4096", "0", '"id"', "0x0d"],
        ["4096", "1", '"level"', "0x0d"],
    ]
    user.sql(name, "INSERT INTO player_state (id, level) VALUES (1, 1)")
    assert user.sql_rows(name, "SELECT * FROM player") == [["1", "1"]]
    watch = user.subscribe(name, "SELECT * FROM player")
    other = PLAYER_VIEW.replace("find(1)", "find(2)")
    user.publish(PLAYER + other, name, "--yes")
    assert user.sql_rows(name, "SELECT * FROM player") == []
    assert watch.next() == deletes("player", {"id": 1, "level": 1})
    user.publish(PLAYER + PLAYER_VIEW.replace("@m.view", '@m.view(primary_key="id")'), name, "--break-clients")
    assert watch.session.receive_all()[1].code == 1001
    assert "Disconnecting all users" in user.await_log(name, "client disconnected")
    assert user.sql_rows(name, "SELECT * FROM player") == [["1", "1"]]
    user.publish(PLAYER, name, "--break-clients")
    assert "no such table" in user.sql_fails(name, "SELECT * FROM player")
    for wrong in (
        PLAYER_VIEW.replace("def player(", "def player_state("),
        PLAYER_VIEW.replace("PlayerState | None", "u64 | None"),
    ):
        user.publish_fails(PLAYER + wrong, new_name())


def test_a_view_that_fails_after_a_publish(user: User) -> None:
    """In use, it keeps the old program; else its next user hears of it; the next publish repairs it."""
    name = user.publish(PLAYER + PLAYER_VIEW)
    failing = PLAYER_VIEW.replace("return ", 'raise RuntimeError("trapped")  # ')
    repaired = PLAYER_VIEW.replace("find(1)", "find(2)")
    user.sql(name, "INSERT INTO player_state (id, level) VALUES (1, 1)")
    watch = user.subscribe(name, "SELECT * FROM player")
    assert "trapped" in user.publish_fails(PLAYER + failing, name, "--yes")
    assert user.sql_rows(name, "SELECT * FROM player") == [["1", "1"]]
    user.sql(name, "UPDATE player_state SET level = 2 WHERE id = 1")
    assert watch.next()["player"]["inserts"] == [{"id": 1, "level": 2}]
    watch.close()
    until(lambda: user.try_publish(PLAYER + failing, name, "--yes").exit_code, lambda code: code == 0)
    assert "Error materializing view `player`" in user.sql_fails(name, "SELECT * FROM player")
    user.sql(name, "UPDATE player_state SET level = 3 WHERE id = 1")
    user.publish(PLAYER + repaired, name, "--yes")
    assert user.sql_rows(name, "SELECT * FROM player") == []


def test_subscribers_follow_a_changed_view(user: User) -> None:
    """Another view takes its place in the module's list; what it read before the publish does not matter any more."""
    name = user.publish(FOLLOWING)
    for table in ("old", "new"):
        user.sql(name, f"INSERT INTO {table} (id, value) VALUES (0, 0)")
    counter = user.subscribe(name, "SELECT * FROM z_counter")
    user.subscribe(name, "SELECT * FROM switched")
    changed = FOLLOWING.replace("row = ctx.db[Old]", "row = ctx.db[New]")
    at = changed.index("    @m.view")
    runs = user.logs(name).count("switched runs")
    user.publish(changed[:at].rstrip() + MARKER + "\n\n" + changed[at:], name)
    published = user.logs(name).count("switched runs")
    assert published > runs
    user.sql(name, "UPDATE old SET value = 1 WHERE id = 0")
    assert counter.next() == {"z_counter": {"deletes": [{"id": 0, "value": 0}], "inserts": [{"id": 0, "value": 1}]}}
    assert user.logs(name).count("switched runs") == published
