"""Migration functions: rows of tables as they once were, taken over by the module in the transaction of the update."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from spacetimedb import Module, ModuleError, Pk, ReducerContext, ReducerError, Row, TestHost, Unique, auto_inc, u8, u32
from spacetimedb.hosts.installation import InstallError, described
from spacetimedb.schema.migration import plan
from spacetimedb.schema.migration_text import plan_text

alice = TestHost.identity("alice")


def first() -> tuple[Module, type[Row], Callable[[ReducerContext, str, str], None]]:
    m = Module()

    @m.table(public=True)
    class Player(Row):
        id: Pk[u32] = auto_inc()
        full_name: str
        level: str

    @m.reducer
    def add(ctx: ReducerContext, full_name: str, level: str) -> None:
        ctx.db[Player].insert(Player(full_name=full_name, level=level))

    return m, Player, add


class OldPlayer(Row):
    id: Pk[u32]
    full_name: str
    level: str


class Player(Row):
    level: u8
    player_id: Pk[u32] = auto_inc()
    first: str


class Surname(Row):
    player_id: Pk[u32]
    name: Unique[str]


def second() -> Module:
    """Columns renamed, reordered, of another type, and one that has moved to another table."""
    m = Module()
    m.table(public=True)(Player)
    m.table(public=True)(Surname)

    @m.migration("player", OldPlayer)
    def split_player(ctx: ReducerContext, old: OldPlayer) -> None:
        given, _, surname = old.full_name.partition(" ")
        row = Player(player_id=old.id, level=int(old.level), first=given)
        ctx.db[Player].insert(row)
        ctx.db[Surname].insert(Surname(player_id=old.id, name=surname))

    @m.reducer
    def join(ctx: ReducerContext, first: str) -> None:
        ctx.db[Player].insert(Player(level=1, first=first))

    return m


def running(*people: tuple[str, str]) -> TestHost:
    module, _, add = first()
    host = TestHost(module)
    for full_name, level in people:
        host.call(alice, add, full_name, level)
    return host


def test_rows_are_taken_over() -> None:
    host = running(("Ann Lee", "3"), ("Bob Ray", "4"))
    host.connect(alice)
    module = second()
    with pytest.raises(InstallError, match="client-breaking"):
        host.publish(module)
    host.publish(module, break_clients=True)

    def seen() -> list[tuple[int, int, str]]:
        return sorted((row.level, row.player_id, row.first) for row in host.db[Player].iter())

    assert seen() == [(3, 1, "Ann"), (4, 2, "Bob")]
    assert sorted(row.name for row in host.db[Surname].iter()) == ["Lee", "Ray"]
    host.connect(alice)  # the update has disconnected her
    host.call(alice, module.reducers[0].function, "Cid")  # type: ignore[arg-type]
    ids = [player_id for _, player_id, _ in seen()]
    assert len(set(ids)) == 3
    host.restart(crash=True)
    assert [first for _, _, first in seen()] == ["Cid", "Ann", "Bob"]
    assert sorted(row.name for row in host.db[Surname].iter()) == ["Lee", "Ray"]
    before = seen()
    host.publish(second())  # what has been migrated is not migrated again, and breaks nobody
    assert seen() == before


def test_all_or_nothing() -> None:
    host = running(("Ann Lee", "3"), ("Bob Lee", "4"))
    before = sorted(map(repr, next(iter(host._database.tables.values())).reader.iter()))
    with pytest.raises(InstallError, match=r"split_player failed for OldPlayer\(.*Bob.*Violation: table surname"):
        host.publish(second(), break_clients=True)
    table = next(iter(host._database.tables.values()))
    assert sorted(map(repr, table.reader.iter())) == before
    assert set(host._database.table_ids) == {"player"}
    host._database.store._check()
    host.call(alice, host.module.reducers[0].function, "Cid Poe", "5")  # type: ignore[arg-type]
    assert table.row_count == 3
    host.restart(crash=True)
    assert next(iter(host._database.tables.values())).row_count == 3


def test_the_error_names_function_row_and_line() -> None:
    host = running(("Ann Lee", "much"))
    with pytest.raises(InstallError, match=r"split_player failed .*ValueError: .*test_row_migrations.py:\d+"):
        host.publish(second(), break_clients=True)


def test_a_table_that_is_gone() -> None:
    m = Module()

    @m.table()
    class Person(Row):
        name: Pk[str]

    @m.migration("player", OldPlayer)
    def rename_table(ctx: ReducerContext, old: OldPlayer) -> None:
        ctx.db[Person].insert(Person(name=old.full_name))

    host = running(("Ann Lee", "3"))
    host.publish(m, break_clients=True)
    assert [row.name for row in host.db[Person].iter()] == ["Ann Lee"]
    assert set(host._database.table_ids) == {"person"}
    host.restart()
    assert host.db[Person].count() == 1


def test_other_columns_are_not_touched() -> None:
    """A function for columns that the stored table does not have is not used."""
    m = Module()

    class Older(Row):
        id: Pk[u32]

    m.table(public=True)(Player)

    @m.migration("player", Older)
    def from_older(ctx: ReducerContext, old: Older) -> None:
        raise ReducerError("not called")

    @m.migration("plyer", OldPlayer)
    def of_no_table(ctx: ReducerContext, old: OldPlayer) -> None:
        raise ReducerError("not called")

    host = running(("Ann Lee", "3"))
    with pytest.raises(InstallError) as refused:
        host.publish(m, break_clients=True)
    said = str(refused.value)
    assert "Removing a column full_name from table player requires a manual migration" in said
    stored = "(id: U32, full_name: String, level: String)"
    assert f"from_older is not used: it takes rows (id: U32), but those of table player are {stored}" in said
    assert "of_no_table is not used: there is no table plyer" in said


def test_the_plan_names_the_function() -> None:
    migration = plan(described(first()[0])[1], described(second())[1])
    assert migration.breaks_clients
    text = plan_text(migration)
    assert "▸ Changed table player (rows are migrated by split_player)\n    Columns:\n        • level: U8" in text


def test_mistakes_are_told() -> None:
    m = Module()
    m.table()(Player)

    @m.migration("player", OldPlayer)  # type: ignore[arg-type]
    def wrong(ctx: ReducerContext, old: Player) -> None: ...

    @m.migration("player", OldPlayer)
    def again(ctx: ReducerContext, old: OldPlayer) -> None: ...

    with pytest.raises(ModuleError) as caught:
        m.describe()
    assert "wrong(ctx: ReducerContext, old: OldPlayer) -> None" in str(caught.value)
    assert "again: another function migrates table player from the same columns" in str(caught.value)
    with pytest.raises(TypeError, match="derives from Row"):
        m.migration("player", int)  # type: ignore[type-var]
