"""Recursion up to Python's limit: a write that has no room left for its own calls leaves no half of itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from spacetimedb import HashIndex, Index, Module, Pk, ReducerContext, Row, TestHost, Unique, auto_inc, btree, u16, u32
from spacetimedb.schema.system_tables import ST_SEQUENCE_ID

ALICE = TestHost.identity("alice")
m = Module()


@m.table(public=True)
class Item(Row):
    id: Pk[u32] = auto_inc()
    name: Unique[str]
    level: Index[u16]
    guild: HashIndex[u32]
    tags: list[u32]
    by_guild_level = btree("guild", "level")


@m.table()
class Plain(Row):
    """Without a key, and without a list that would have to be copied."""

    name: str
    level: Index[u16]


@m.table()
class Fixed(Row, frozen=True):
    """Rows of which no copies are made."""

    id: Pk[u32]
    name: Unique[u32]
    level: Index[u16]


def item(number: int, name: str) -> Item:
    return Item(id=number and 100 + number, name=name, level=number % 3, guild=number % 2, tags=[number])


Write = Callable[[ReducerContext], object]
WRITES: dict[str, Write] = {
    "insert": lambda ctx: ctx.db[Item].insert(item(0, "new")),
    "update": lambda ctx: ctx.db[Item].id.update(item(3, "other")),
    "update by name": lambda ctx: ctx.db[Item].name.update(item(33, "name 3")),
    "upsert": lambda ctx: ctx.db[Item].id.upsert(item(40, "new")),
    "delete": lambda ctx: ctx.db[Item].id.delete(104),
    "delete some": lambda ctx: ctx.db[Item].level.delete(1),
    "delete row": lambda ctx: ctx.db[Item].delete(item(5, "name 5")),
    "clear": lambda ctx: ctx.db[Item].clear(),
    "scan": lambda ctx: list(ctx.db[Item].level.filter(ge=1)),
    "insert plain": lambda ctx: ctx.db[Plain].insert(Plain(name="new", level=9)),
    "delete plain": lambda ctx: ctx.db[Plain].delete(Plain(name="plain", level=1)),
    "insert fixed": lambda ctx: ctx.db[Fixed].insert(Fixed(id=2, name=2, level=1)),
    "update fixed": lambda ctx: ctx.db[Fixed].id.update(Fixed(id=1, name=3, level=3)),
    "update fixed by name": lambda ctx: ctx.db[Fixed].name.update(Fixed(id=4, name=1, level=4)),
    "delete fixed": lambda ctx: ctx.db[Fixed].id.delete(1),
    "clear plain": lambda ctx: ctx.db[Plain].clear(),
}
tries: list[int] = []


def dive(ctx: ReducerContext, write: Write) -> None:
    """At the deepest place the write fails, then one call above, and so on, until there is room for all of it."""
    try:
        dive(ctx, write)
    except RecursionError:
        tries.append(1)
        write(ctx)


@m.reducer
def fill(ctx: ReducerContext) -> None:
    for number in range(1, 10):
        ctx.db[Item].insert(item(number, f"name {number}"))
    ctx.db[Plain].insert(Plain(name="plain", level=1))
    ctx.db[Fixed].insert(Fixed(id=1, name=1, level=1))


@m.reducer
def write_deep(ctx: ReducerContext, what: str, fails: bool) -> None:
    ctx.db[Item].insert(item(20, "of this transaction"))
    # Keys are kept in order from now on.
    for keys, least in ((ctx.db[Item].id, 0), (ctx.db[Item].name, ""), (ctx.db[Fixed].id, 0), (ctx.db[Fixed].name, 0)):
        list(cast(Any, keys).filter(ge=least))
    list(ctx.db[Item].level.filter(ge=0))
    list(ctx.db[Item].by_guild_level.filter(0, ge=0))
    list(ctx.db[Plain].level.filter(ge=0))
    list(ctx.db[Fixed].level.filter(ge=0))
    dive(ctx, WRITES[what])
    if fails:
        raise RuntimeError("undone")


def rows(host: TestHost) -> list[object]:
    return [row for table in (Item, Plain, Fixed) for row in map(repr, host.db[table].iter())]


@pytest.mark.parametrize("what", WRITES)
def test_writes_are_whole(what: str) -> None:
    host = TestHost(m)
    host.call(ALICE, fill)
    before = sorted(map(str, rows(host)))
    tries.clear()
    with pytest.raises(RuntimeError, match="undone"):
        host.call(ALICE, write_deep, what, True)
    assert len(tries) > 1, "it never failed for want of room"
    host._database.store._check()
    assert sorted(map(str, rows(host))) == before
    host.call(ALICE, write_deep, what, False)
    store = host._database.store
    store._check()
    table = store.by_name["item"]
    (sequence,) = table.sequences
    (row,) = [row for row in store.tables[ST_SEQUENCE_ID].reader.iter() if row.table_id == table.table_id]
    assert row.allocated == sequence.allocated, "numbers would be given again after a restart"
