"""What hosts do with tables: recovery, hot swap, handles for reducers and views, generated code in tracebacks."""

from __future__ import annotations

import sys
import traceback
from array import array
from types import FrameType
from typing import Any

import pytest

from spacetimedb.memory.heap import RowHeap
from spacetimedb.module.errors import UniqueViolation
from spacetimedb.module.rows import Row
from spacetimedb.schema.system_catalogue import bootstrap_rows
from spacetimedb.schema.system_tables import SYSTEM_TABLES
from spacetimedb.store.store import TableStatistics
from spacetimedb.store.table import in_table_code

from .tables import (
    ACCOUNT,
    ACCOUNT_COLUMNS,
    PLAYER_COLUMNS,
    STRING,
    U8,
    Account,
    Index,
    Player,
    account_table,
    check,
    define,
    new_store,
    player_table,
    shape_from,
    unique,
)


def players(count: int) -> list[Player]:
    return [Player(id=n, name=f"name {n}", level=n % 10, note="x" * n) for n in range(count)]


def test_load_and_refs() -> None:
    store = new_store()
    table = player_table(store)
    images = [table.encode(row) for row in players(100)]
    table.load(images)
    check(store)
    assert table.row_count == 100
    refs = array("Q", table.refs_by_key.values())
    assert store.heap.rows(refs) == table.images()
    assert sorted(table.images()) == sorted(images)
    assert store.commit() == []
    assert [row.id for row in table.handle.level.filter(3)] == list(range(3, 100, 10))
    with pytest.raises(UniqueViolation, match="name 1"):
        table.load([table.encode(Player(id=200, name="name 1"))])
    loose = store.add_table(5, define("loose", {"id": U8}), shape_from(None, {"id": U8}))
    with pytest.raises(ValueError, match="comes twice"):
        loose.load([b"1", b"1"])


def test_apply_replays_deltas() -> None:
    source, target = new_store(), new_store()
    table, twin = player_table(source), player_table(target)
    for row in players(20):
        table.handle.insert(row)
    deltas = source.commit()
    table.handle.level.delete(ge=5)
    table.handle.id.update(Player(id=1, name="new name"))
    deltas += source.commit()
    for delta in deltas:
        twin.apply(delta.deletes, delta.inserts)
    check(target)
    assert sorted(twin.images()) == sorted(table.images())
    twin.apply([], [table.encode(Player(id=1, name="only"))], is_truncated=True)
    check(target)
    assert [row.name for row in twin.handle.iter()] == ["only"]
    with pytest.raises(ValueError, match="not there"):
        twin.apply([table.encode(Player(id=5, name="never"))], [])
    twin.handle.insert(Player(id=2, name="b"))
    with pytest.raises(RuntimeError, match="uncommitted"):
        twin.apply([], [])


def test_a_rebuilt_table_with_a_new_row_class_keeps_rows_refs_and_sequences() -> None:
    class Person(Row):
        id: int
        name: str
        level: int
        note: str

    store = new_store()
    table = player_table(store)
    for row in players(30):
        table.handle.insert(row)
    store.commit()
    refs = sorted(array("Q", table.refs_by_key.values()))
    definition = define("player", PLAYER_COLUMNS, unique("id"), Index("name"), key="id")
    swapped = store.rebuilt(4096, definition, shape_from(Person, PLAYER_COLUMNS))
    store.exchange({4096: swapped})
    check(store)
    assert store.tables[4096] is store.by_name["player"] is swapped
    assert sorted(array("Q", swapped.refs_by_key.values())) == refs
    found = swapped.handle.name.filter("name 7")
    assert [type(row) for row in found] == [Person]
    swapped.handle.id.delete(7)
    assert store.commit()[0].deletes == [table.encode(players(8)[7])]
    stricter = define("player", PLAYER_COLUMNS, unique("id"), unique("level"), key="id")
    with pytest.raises(UniqueViolation) as caught:
        store.rebuilt(4096, stricter, shape_from(Person, PLAYER_COLUMNS))
    assert "'player_level_idx_btree' in table 'player': column(s): '[\"level\"]' value: 0" in (
        store.explain_violation(caught.value)
    )
    assert store.tables[4096] is swapped
    check(store)


def test_drop_retires_the_rows() -> None:
    store = new_store()
    table = account_table(store)
    table.handle.insert(Account(id=1, balance=1))
    store.commit()
    store.exchange({})
    store.retire(table)
    assert store.tables == {}
    check(store)
    assert isinstance(store.heap, RowHeap)
    store.heap.seal(1)
    store.heap.reclaim(1)
    assert store.heap.statistics().live_blocks == 0
    account_table(store)


def test_statistics() -> None:
    store = new_store()
    accounts, table = account_table(store), player_table(store)
    accounts.handle.insert(Account(id=1, balance=1))
    table.handle.insert(Player(id=1, name="ab"))
    assert [entry.rows for entry in store.statistics()] == [0, 0]
    store.commit()
    assert store.statistics() == [TableStatistics("player", 1, 16), TableStatistics("account", 1, 12)]


def test_system_tables_are_tables() -> None:
    store = new_store()
    for system in SYSTEM_TABLES:
        store.add_table(system.table_id, system.definition, system.shape)
    rows = bootstrap_rows()
    for table_id, some in rows.items():
        for row in some:
            store.tables[table_id].handle.insert(row)
    deltas = store.commit()
    assert [delta.table_id for delta in deltas] == sorted(table_id for table_id, some in rows.items() if some)
    check(store)
    columns = store.by_name["st_column"].index_handles["st_column_table_id_col_pos_idx_btree"]
    assert [row.col_name for row in columns.filter(1)][:2] == ["table_id", "table_name"]


def test_db_by_class_and_by_name() -> None:
    store = new_store()
    accounts, table = account_table(store), player_table(store)
    other = store.add_table(5000, define("other", ACCOUNT_COLUMNS), shape_from(Account, ACCOUNT_COLUMNS))
    token = object()
    db = store.db({Account: accounts, Player: table, token: other})
    assert db[Account] is db.account is accounts.handle
    assert db[token] is db.other is other.handle
    db.insert(Player(id=1, name="a"))
    assert db.player.count() == 1
    with pytest.raises(KeyError, match="str is not a table"):
        db[str]


def test_read_only_db_has_no_writing_methods() -> None:
    store = new_store()
    table = player_table(store)
    table.handle.insert(Player(id=1, name="a"))
    db = store.read_only_db({Player: table})
    assert db[Player].id.find(1).name == "a"
    for method in ("insert", "try_insert", "delete", "clear"):
        assert not hasattr(db[Player], method)
    for method in ("update", "upsert", "delete"):
        assert not hasattr(db[Player].id, method)
        assert not hasattr(db[Player].level, method)


def test_recording_reader_reports_every_read() -> None:
    store = new_store()
    columns = {"id": U8, "guild": U8, "name": STRING}
    definition = define(
        "member", columns, unique("id"), Index("guild name", accessor="by_guild"), Index("guild", "hash"), key="id"
    )
    table = store.add_table(4096, definition, shape_from(None, columns))
    table.handle.insert(table.row_class(id=1, guild=2, name="a"))
    (delta,) = store.commit()
    reads: list[Any] = []
    reader: Any = store.read_only_db({"member": table}, reads.append)["member"]
    assert reader.id.find(1).name == "a"
    assert 3 not in reader.id
    assert len(list(reader.guild.filter(2))) == reader.guild.count(2) == 1
    assert len(list(reader.by_guild.filter(2))) == reader.by_guild.count(2, "a") == 1
    assert len(list(reader.id.filter(ge=0))) == reader.count() == len(list(reader.iter())) == 1
    whole = (4096, None, None)
    assert reads == [
        (4096, 0, 1),
        (4096, 0, 3),
        (4096, 2, 2),
        (4096, 2, 2),
        (4096, 1, None),
        (4096, 1, (2, "a")),
        (4096, 0, None),
        whole,
        whole,
    ]
    assert table.keys_of(0, delta.inserts) == [1]
    assert table.keys_of(1, delta.inserts) == [(2, "a")]


EXPECTED_SOURCE = """
    def update_0(row):
        given = row
        if row.__class__ is not Row:
            raise wrong_row(row)
        row = row.__copy__()
        key = row.id
        old = get(key)
        if old is None:
            raise no_such_row(0, row.id)
        if key not in touched:
            if not touched:
                dirty.append(table)
            touched[key] = old
        rows[key] = row
        return given
"""


def test_generated_source_reads_like_written() -> None:
    table = account_table(new_store())
    print(table.source)  # shown when something below fails
    assert EXPECTED_SOURCE in table.source
    assert "pack_Iq(row.id, row.balance)" in table.source
    assert max(map(len, table.source.splitlines())) <= 300


def test_tracebacks_show_lines_of_generated_code() -> None:
    table = player_table(new_store())
    table.handle.insert(Player(id=1, name="a"))
    try:
        table.handle.insert(Player(id=2, name="a"))
    except UniqueViolation as error:
        text = "".join(traceback.format_exception(error))
    assert "<spacetimedb table player" in text
    assert "raise violation(1, value_1)" in text


def test_signal_handlers_can_see_that_table_code_runs() -> None:
    seen: list[bool] = []

    class Key(int):
        def __hash__(self) -> int:
            frame: FrameType | None = sys._getframe()
            seen.append(in_table_code(frame))
            return super().__hash__()

    table = account_table(new_store())
    table.handle.insert(Account(id=Key(3), balance=1))
    assert seen
    assert all(seen)
    assert not in_table_code(sys._getframe())
    assert ACCOUNT.name == "account"
