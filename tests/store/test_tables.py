"""What tables do in single situations: deltas, violations, copies, limits, failures while committing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from spacetimedb.memory.heap import HeapFull, RowHeap
from spacetimedb.memory.region import Region
from spacetimedb.module.errors import NoSuchRow, ReducerError, UniqueViolation
from spacetimedb.module.rows import Row
from spacetimedb.store.commit_record import EVENT, TRUNCATED, UNLOGGED
from spacetimedb.store.store import Store
from spacetimedb.store.table import Table
from spacetimedb.store.violations import IndexViolation
from spacetimedb.types.shapes import ArrayShape, Shape

from .tables import (
    ACCOUNT,
    ACCOUNT_COLUMNS,
    F32,
    PLAYER,
    PLAYER_COLUMNS,
    STRING,
    U8,
    U32,
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

OLD, NEW, NEWER = Account(id=1, balance=1), Account(id=1, balance=2), Account(id=1, balance=3)
MOVED = Account(id=2, balance=1)


def committed(*rows: Account) -> tuple[Store, Table]:
    store = new_store()
    table = account_table(store)
    for row in rows:
        table.handle.insert(row)
    store.commit()
    return store, table


NET_CHANGES: dict[str, tuple[list[Account], Callable[[Any], object], list[Account], list[Account]]] = {
    "insert, delete": ([], lambda t: (t.insert(OLD), t.delete(OLD)), [], []),
    "delete, insert identical": ([OLD], lambda t: (t.delete(OLD), t.insert(OLD)), [], []),
    "insert one that exists": ([OLD], lambda t: t.insert(OLD), [], []),
    "update to identical": ([OLD], lambda t: t.id.update(OLD), [], []),
    "update": ([OLD], lambda t: t.id.update(NEW), [OLD], [NEW]),
    "update twice": ([OLD], lambda t: (t.id.update(NEW), t.id.update(NEWER)), [OLD], [NEWER]),
    "update and back": ([OLD], lambda t: (t.id.update(NEW), t.id.update(OLD)), [], []),
    "insert, update": ([], lambda t: (t.insert(OLD), t.id.update(NEW)), [], [NEW]),
    "another key": ([OLD], lambda t: (t.id.delete(1), t.insert(MOVED)), [OLD], [MOVED]),
    "delete, insert different": ([OLD], lambda t: (t.delete(OLD), t.insert(NEW)), [OLD], [NEW]),
    "delete, insert, update back": ([OLD], lambda t: (t.delete(OLD), t.insert(NEW), t.id.update(OLD)), [], []),
    "clear and load again": ([OLD, MOVED], lambda t: (t.clear(), t.insert(MOVED), t.insert(OLD)), [], []),
    "clear and load other": ([OLD, MOVED], lambda t: (t.clear(), t.insert(MOVED), t.insert(NEW)), [OLD], [NEW]),
    "upsert": ([OLD], lambda t: (t.id.upsert(NEW), t.id.upsert(MOVED)), [OLD], [NEW, MOVED]),
}


@pytest.mark.parametrize("name", NET_CHANGES)
def test_net_change(name: str) -> None:
    before, program, deletes, inserts = NET_CHANGES[name]
    store, table = committed(*before)
    program(table.handle)
    deltas = store.commit()
    if not deletes and not inserts:
        assert deltas == []
        return
    (delta,) = deltas
    assert sorted(delta.deletes) == sorted(map(table.encode, deletes))
    assert sorted(delta.inserts) == sorted(map(table.encode, inserts))
    assert delta.row_length == 12
    assert delta.flags == 0
    assert len(delta.deleted_refs) == len(deletes)
    check(store)


def test_event_rows_live_for_one_transaction() -> None:
    store = new_store()
    definition = define("account", ACCOUNT_COLUMNS, unique("id"), key="id", is_event=True)
    table = store.add_table(4100, definition, shape_from(Account, ACCOUNT_COLUMNS))
    table.handle.insert(OLD)
    table.handle.id.update(NEW)
    table.handle.insert(MOVED)
    table.handle.delete(MOVED)
    assert table.handle.id.find(1) == NEW
    with pytest.raises(UniqueViolation):
        table.handle.insert(OLD)
    (delta,) = store.commit()
    assert (delta.flags, delta.deletes, delta.inserts) == (EVENT, [], [table.encode(NEW)])
    assert (delta.deleted_refs, delta.inserted_refs) == ([], [])
    assert table.row_count == 0
    table.handle.insert(OLD)
    store.rollback()
    assert table.row_count == 0
    assert store.commit() == []
    check(store)


def test_truncated_means_that_rows_went_and_none_is_left() -> None:
    store, table = committed(OLD, MOVED)
    table.handle.clear()
    assert store.commit()[0].flags == TRUNCATED
    table.handle.insert(OLD)
    store.commit()
    table.handle.delete(OLD)
    assert store.commit()[0].flags == TRUNCATED
    table.handle.insert(OLD)
    table.handle.insert(MOVED)
    assert store.commit()[0].flags == 0
    table.handle.delete(OLD)
    assert store.commit()[0].flags == 0


def test_clear_counts_what_is_there_and_rolls_back() -> None:
    store, table = committed(OLD, MOVED)
    handle = table.handle
    handle.insert(Account(id=9, balance=9))
    assert handle.clear() == 3
    assert handle.clear() == 0
    assert handle.count() == 0
    store.rollback()
    check(store)
    assert sorted(row.id for row in handle.iter()) == [1, 2]


def test_deltas_come_in_order_of_table_ids() -> None:
    store = new_store()
    accounts, players = account_table(store), player_table(store)
    accounts.handle.insert(OLD)
    players.handle.insert(Player(id=1, name="a"))
    assert [delta.table_id for delta in store.commit()] == [4096, 4100]
    accounts.handle.insert(MOVED)
    accounts.handle.delete(MOVED)
    players.handle.insert(Player(id=2, name="b"))
    assert [delta.table_id for delta in store.commit()] == [4096], "tables that net to nothing are absent"


def test_insert_of_an_identical_row_is_no_error_but_a_different_one_is() -> None:
    store = new_store()
    handle = player_table(store).handle
    row = Player(id=1, name="a", level=3)
    handle.insert(row)
    again = handle.insert(row)
    assert again == row
    assert again is not row
    with pytest.raises(UniqueViolation):
        handle.insert(Player(id=1, name="a", level=4))


def test_violation_says_which_index_columns_and_key() -> None:
    store = new_store()
    handle = player_table(store).handle
    handle.insert(Player(id=1, name="a"))
    with pytest.raises(IndexViolation) as caught:
        handle.insert(Player(id=2, name="a"))
    error = caught.value
    assert (error.table, error.index, error.columns, error.positions) == (
        "player",
        "player_name_idx_btree",
        ("name",),
        (1,),
    )
    assert error.key == "a"
    assert str(error) == "table player: another row has name = 'a'"
    text = """IndexError: Unique constraint violation 'player_name_idx_btree' in table 'player': """
    assert store.explain_violation(error) == text + """column(s): '["name"]' value: "a\""""


def test_refused_writes_leave_no_trace() -> None:
    store = new_store()
    table = player_table(store)
    handle = table.handle
    handle.insert(Player(id=1, name="a", level=1))
    handle.insert(Player(id=2, name="b", level=2))
    store.commit()
    assert handle.try_insert(Player(id=3, name="a", level=7)) is None
    for refused in (Player(id=2, name="a", level=9), Player(id=3, name="c")):
        with pytest.raises((UniqueViolation, NoSuchRow)):
            handle.id.update(refused)
    check(store)
    assert not table.touched
    assert handle.level.count(7) == handle.level.count(9) == 0


def test_swap_of_unique_values_rolls_back() -> None:
    store = new_store()
    handle = player_table(store).handle
    handle.insert(Player(id=1, name="a"))
    handle.insert(Player(id=2, name="b"))
    store.commit()
    handle.id.update(Player(id=1, name="x"))
    handle.id.update(Player(id=2, name="a"))
    handle.id.update(Player(id=1, name="b"))
    check(store)
    store.rollback()
    check(store)
    assert (handle.name.find("a").id, handle.name.find("b").id) == (1, 2)


def test_update_by_another_unique_column_may_change_the_key() -> None:
    store = new_store()
    handle = player_table(store).handle
    handle.insert(Player(id=1, name="a"))
    handle.insert(Player(id=2, name="b"))
    store.commit()
    with pytest.raises(UniqueViolation):
        handle.name.update(Player(id=2, name="a"))
    handle.name.update(Player(id=3, name="a"))
    check(store)
    assert handle.id.find(1) is None
    (delta,) = store.commit()
    assert (len(delta.deletes), len(delta.inserts)) == (1, 1)
    handle.name.update(Player(id=4, name="a"))
    store.rollback()
    check(store)
    assert handle.id.find(3).name == "a"


def test_rows_are_copied_in_and_out() -> None:
    _, table = committed(OLD)
    row = Account(id=5, balance=5)
    stored = table.handle.insert(row)
    row.balance = stored.balance = 0
    found = table.handle.id.find(5)
    assert found.balance == 5
    found.balance = 1
    (row,) = table.handle.id.filter(5)
    row.balance = 2
    assert table.handle.id.get(5).balance == 5
    table.handle.id.update(row)
    row.balance = 3
    assert table.handle.id.get(5).balance == 2


class Pixel(Row, frozen=True):
    id: int
    shade: float = 0.0


PIXEL_COLUMNS: dict[str, Shape] = {"id": U32, "shade": F32}


def test_frozen_rows_are_shared() -> None:
    store = new_store()
    definition = define("pixel", {"id": U32, "shade": U8}, unique("id"), key="id")
    table = store.add_table(1, definition, shape_from(Pixel, {"id": U32, "shade": U8}))
    row = Pixel(id=1, shade=2)
    assert table.handle.insert(row) is row
    assert table.handle.id.find(1) is row
    assert next(table.handle.iter()) is row


@pytest.mark.parametrize("is_frozen", [False, True])
def test_f32_columns(is_frozen: bool) -> None:
    class Mutable(Row):
        id: int
        shade: float

    cls: type[Any] = Pixel if is_frozen else Mutable
    store = new_store()
    table = store.add_table(1, define("pixel", PIXEL_COLUMNS, unique("id"), key="id"), shape_from(cls, PIXEL_COLUMNS))
    handle = table.handle
    handle.insert(cls(id=1, shade=0.1))
    store.commit()
    rounded = handle.id.find(1).shade
    assert rounded == 0.10000000149011612
    handle.id.update(cls(id=1, shade=0.1))
    assert store.commit() == [], "equal after rounding is unchanged"
    assert handle.id.find(1).shade == rounded
    handle.insert(cls(id=1, shade=0.1))
    handle.insert(cls(id=2, shade=math.nan))
    handle.insert(cls(id=3, shade=0.0))
    store.commit()
    handle.id.update(cls(id=2, shade=math.nan))
    assert store.commit() == [], "NaN is unchanged"
    handle.id.update(cls(id=3, shade=-0.0))
    assert len(store.commit()) == 1, "another zero is a change"
    assert handle.delete(cls(id=2, shade=math.nan))
    assert not handle.delete(cls(id=3, shade=0.0))
    check(store)


def test_writes_during_a_loop_do_not_disturb_it() -> None:
    store = new_store()
    handle = player_table(store).handle
    for number in range(10):
        handle.insert(Player(id=number, name=str(number), level=number % 3))
    seen = []
    for row in handle.iter():
        seen.append(row.id)
        handle.id.delete(row.id)
        handle.insert(Player(id=row.id + 100, name="new" + row.name))
    assert sorted(seen) == list(range(10))
    for row in handle.level.filter(0):
        handle.id.delete(row.id)
    assert handle.count() == 0


def test_bounds_and_arguments() -> None:
    store = new_store()
    table = player_table(store)
    level = table.handle.level
    for number in range(20):
        table.handle.insert(Player(id=number, name=str(number), level=number - 10))
    assert [row.level for row in level.filter(ge=-2, lt=2)] == [-2, -1, 0, 1]
    assert [row.level for row in level.filter(gt=-2, le=2, reverse=True, limit=2)] == [2, 1]
    assert list(level.filter(ge=5, lt=5)) == list(level.filter(ge=6, lt=2)) == []
    assert level.count(lt=0) == 10
    assert level.count() == 20
    assert level.delete(ge=0) == 10
    assert level.count(ge=-100) == 10
    for wrong in ({"ge": 1, "gt": 1}, {"le": 1, "lt": 1}):
        with pytest.raises(TypeError):
            level.filter(**wrong)
    with pytest.raises(TypeError):
        level.filter(1, ge=2)
    with pytest.raises(TypeError):
        level.filter(1, 2)
    for limit in (0, -1):
        assert list(level.filter(-5, limit=limit)) == list(level.filter(limit=limit)) == []
        assert list(table.handle.id.filter(3, limit=limit)) == []
    assert [row.id for row in level.filter(-5, limit=1, reverse=True)] == [5]
    assert [row.id for row in table.handle.id.filter(ge=3, limit=2)] == [3, 4]


def test_order_survives_many_changes_between_scans() -> None:
    store = new_store()
    table = player_table(store)
    handle = table.handle
    for number in range(300):
        handle.insert(Player(id=number, name=str(number), level=number % 90))
    for step in (1, 7, 40, 300):
        expected = sorted(row.level for row in handle.iter())
        assert [row.level for row in handle.level.filter(ge=-100)] == expected
        for number in range(step):
            handle.id.update(Player(id=number, name=str(number), level=step + number))
        check(store)
        store.commit() if step % 2 else store.rollback()
    table.apply([table.encode(handle.id.get(0))], [table.encode(Player(id=1000, name="n", level=-50))])
    assert next(handle.level.filter(ge=-100)).id == 1000


def test_column_names_cannot_disturb_the_generated_code() -> None:
    names = ["rows", "key", "value_0", "by_1", "old", "image", "insert", "count", "touched", "pack_B", "bucket"]
    columns: dict[str, Shape] = {name: STRING if name == "image" else U8 for name in names}
    columns["refs"] = ArrayShape(U8)
    cls = type("Odd", (Row,), {"__annotations__": dict.fromkeys(columns, Any)})
    indexes = [unique("key"), *(Index(name) for name in ("insert", "count", "bucket", "by_1"))]
    store = new_store()
    table = store.add_table(7, define("odd", columns, *indexes), shape_from(cls, columns))
    row = cls(**{name: 1 for name in columns if name not in ("image", "refs")}, image="i", refs=[1])
    table.handle.insert(row)
    (delta,) = store.commit()
    assert table.decode(delta.inserts[0]) == row
    assert table.handle.count() == 1, "methods win over columns of the same name"
    assert table.index_handles["odd_count_idx_btree"].count(1) == 1
    check(store)


def test_table_without_columns_holds_one_row() -> None:
    class Unit(Row):
        pass

    store = new_store()
    table = store.add_table(7, define("unit", {}), shape_from(Unit, {}))
    table.handle.insert(Unit())
    table.handle.insert(Unit())
    (delta,) = store.commit()
    assert delta.inserts == [b""]
    check(store)


def test_rows_of_another_class_are_refused() -> None:
    store, table = committed()
    for action in (table.handle.insert, table.handle.try_insert, table.handle.delete, table.handle.id.update):
        with pytest.raises(TypeError, match="account holds Account rows, not Player"):
            action(Player(id=1, name="a"))
    assert store.commit() == []


def test_a_value_that_does_not_fit_fails_the_commit_of_all_tables() -> None:
    store = new_store()
    players, accounts = player_table(store), account_table(store)
    players.handle.insert(Player(id=1, name="a"))
    accounts.handle.insert(OLD)
    store.commit()
    before = store.statistics()
    players.handle.insert(Player(id=2, name="b"))
    accounts.handle.insert(Account(id=1 << 40, balance=0))
    with pytest.raises(ValueError, match=r"table account: .*id.*1099511627776"):
        store.commit()
    store.rollback()
    assert store.statistics() == before
    check(store)
    players.handle.insert(Player(id=3, name="c"))
    assert len(store.commit()) == 1


def test_a_key_that_cannot_be_hashed_leaves_everything_in_order() -> None:
    store = new_store()
    handle = player_table(store).handle
    handle.insert(Player(id=1, name="a"))
    broken: Any = []
    for row in (Player(id=2, name="b", level=broken), Player(id=2, name=broken), Player(id=broken, name="b")):
        with pytest.raises(TypeError):
            handle.insert(row)
    for row in (Player(id=1, name="a", level=broken), Player(id=1, name=broken)):
        with pytest.raises(TypeError):
            handle.id.update(row)
    check(store)
    handle.insert(Player(id=3, name="c", level="text"))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        handle.level.filter(ge=0)
    store.rollback()
    check(store)
    assert list(handle.level.filter(ge=0)) == []


def test_limit_of_rows_per_transaction() -> None:
    store = new_store(max_rows_per_transaction=10)
    players, accounts = player_table(store), account_table(store)
    for number in range(10):
        accounts.handle.insert(Account(id=number, balance=0))
    with pytest.raises(ReducerError, match="at most 10 rows"):
        accounts.handle.insert(Account(id=10, balance=0))
    players.handle.insert(Player(id=1, name="a"))
    with pytest.raises(ReducerError, match="at most 10 rows"):
        store.commit()
    store.rollback()
    check(store)
    assert accounts.row_count == 0
    for start in (0, 8, 16):
        for number in range(start, start + 8):
            accounts.handle.insert(Account(id=number, balance=0))
        store.commit()
    accounts.handle.clear()
    for number in range(10):
        accounts.handle.insert(Account(id=number, balance=1))
        accounts.handle.insert(Account(id=number + 100, balance=1))
    assert len(store.commit()[0].deletes) == 24, "what a table has already may be replaced"


def test_limit_of_bytes_per_row() -> None:
    store = new_store(max_row_bytes=100)
    table = player_table(store)
    table.handle.insert(Player(id=1, name="a", note="x" * 70))
    store.commit()
    table.handle.id.update(Player(id=1, name="a", note="x" * 100))
    with pytest.raises(ReducerError, match="the limit is 100"):
        store.commit()
    store.rollback()
    note = define("note", {"text": STRING})
    loose = store.add_table(5, note, shape_from(None, {"text": STRING}))
    with pytest.raises(ReducerError, match="a row of table note takes 104 bytes"):
        loose.handle.insert(loose.row_class(text="x" * 100))
    check(store)


def test_full_heap_fails_the_commit() -> None:
    store = Store(RowHeap(Region.private(1 << 18)))
    table = player_table(store)
    table.handle.insert(Player(id=0, name="0", note="x" * 30000))
    store.commit()
    for number in range(1, 20):
        table.handle.insert(Player(id=number, name=str(number), note="x" * 30000))
    with pytest.raises(HeapFull):
        store.commit()
    store.rollback()
    check(store)
    assert table.row_count == 1


def test_tables_that_are_not_durable_mark_their_deltas() -> None:
    store = new_store()
    definition = msgspec.structs.replace(ACCOUNT, is_durable=False)
    table = store.add_table(9, definition, shape_from(Account, ACCOUNT_COLUMNS))
    table.handle.insert(OLD)
    assert store.commit()[0].flags == UNLOGGED
    table.handle.clear()
    assert store.commit()[0].flags == UNLOGGED | TRUNCATED


def test_columns_that_cannot_serve_as_keys_are_refused() -> None:
    for shape in (F32, ArrayShape(U8)):
        columns = {"id": shape}
        with pytest.raises(ValueError, match="cannot be the key"):
            new_store().add_table(1, define("t", columns, Index("id")), shape_from(None, columns))


def test_names_and_ids_are_taken_once() -> None:
    store = new_store()
    player_table(store, 1)
    for table_id, definition in ((1, ACCOUNT), (2, PLAYER)):
        with pytest.raises(ValueError, match="exists already"):
            store.add_table(table_id, definition, shape_from(None, dict.fromkeys(ACCOUNT_COLUMNS, U8)))
    assert PLAYER_COLUMNS


@pytest.mark.parametrize(("offset", "count"), [(0, 3), (2, 5), (6, 3), (9, 1), (8, 9), (10, 4), (99, 1), (3, 0)])
def test_pages_are_in_the_order_of_insertion(offset: int, count: int) -> None:
    store, table = committed(*(Account(id=100 - number, balance=number) for number in range(12)))
    for gone in (100, 95):
        table.handle.id.delete(gone)
    table.handle.id.update(Account(id=98, balance=7))
    store.commit()
    expected = [number for number in range(100, 88, -1) if number not in (100, 95)]
    rows = table._heap.rows(table.page(offset, count))
    assert [int.from_bytes(row[:4], "little") for row in rows] == expected[offset : offset + count]
