"""Auto-increment columns: what numbers they get, now, after a roll-back and after a restart."""

from __future__ import annotations

from typing import Any

import pytest

from spacetimedb.module.errors import NoSuchRow, UniqueViolation
from spacetimedb.module.rows import Row
from spacetimedb.schema.definition import SequenceDef, TableDef
from spacetimedb.schema.system_rows import StSequence
from spacetimedb.schema.system_tables import ST_SEQUENCE_ID, SYSTEM_TABLES
from spacetimedb.store.commit_record import TableDelta
from spacetimedb.store.sequences import BATCH, Sequence
from spacetimedb.store.store import Store
from spacetimedb.store.table import Table
from spacetimedb.types.shapes import Scalar, Shape

from .tables import STRING, U8, U64, check, define, integer_kind, new_store, shape_from, unique


class Item(Row):
    id: int = 0
    name: str = ""


class Frozen(Row, frozen=True):
    id: int = 0
    name: str = ""


def item_definition(bits: int = 64, is_signed: bool = False, **sequence: Any) -> tuple[TableDef, dict[str, Shape]]:
    columns: dict[str, Shape] = {"id": Scalar(integer_kind(bits, is_signed)), "name": STRING}
    definition = define("item", columns, unique("id"), key="id", sequences=(SequenceDef("item_id_seq", 0, **sequence),))
    return definition, columns


def item_table(store: Store, bits: int = 64, is_signed: bool = False, **sequence: Any) -> Table:
    definition, columns = item_definition(bits, is_signed, **sequence)
    return store.add_table(4096, definition, shape_from(Item, columns))


def database(log: list[list[TableDelta]]) -> tuple[Store, Table]:
    """A store with st_sequence and the table, as a server builds it from its log."""
    store = new_store()
    system = SYSTEM_TABLES[ST_SEQUENCE_ID - 1]
    sequences = store.add_table(ST_SEQUENCE_ID, system.definition, system.shape)
    table = item_table(store)
    if not log:
        sequences.handle.insert(StSequence(4096, "item_id_seq", 4096, 0, 1, 1, 1, (1 << 127) - 1, 1))
        log.append(store.commit())
        return store, table
    for deltas in log:
        for delta in deltas:
            store.tables[delta.table_id].apply(delta.deletes, delta.inserts, bool(delta.flags & 2))
    check(store)
    return store, table


def ids(table: Table) -> list[int]:
    return sorted(row.id for row in table.reader.iter())


def test_zero_is_replaced_and_anything_else_is_kept() -> None:
    store = new_store()
    table = item_table(store, 8, True)
    insert = table.handle.insert
    given = Item(name="a")
    assert insert(given).id == 1
    assert given.id == 0
    assert insert(Item(id=7)).id == 7
    assert insert(Item(id=-1)).id == -1
    assert insert(Item(name="b")).id == 2, "explicit values do not advance the sequence"
    store.commit()
    assert ids(table) == [-1, 1, 2, 7]


def test_frozen_rows_get_numbers_too() -> None:
    store = new_store()
    definition, columns = item_definition()
    table = store.add_table(4096, definition, shape_from(Frozen, columns))
    assert [table.handle.insert(Frozen(name=name)).id for name in "ab"] == [1, 2]


def test_update_replaces_zero_and_then_looks_for_that_row() -> None:
    store = new_store()
    table = item_table(store)
    table.handle.insert(Item(name="a"))
    with pytest.raises(NoSuchRow):
        table.handle.id.update(Item(id=0, name="b"))
    assert table.handle.insert(Item(name="c")).id == 3, "the number is used up"
    assert table.handle.id.upsert(Item(id=0, name="d")).id == 4


def test_collision_with_an_explicit_value_uses_the_number_up() -> None:
    store = new_store()
    table = item_table(store)
    table.handle.insert(Item(id=2, name="mine"))
    assert table.handle.insert(Item(name="a")).id == 1
    with pytest.raises(UniqueViolation) as caught:
        table.handle.insert(Item(name="b"))
    assert "sequence" not in str(caught.value)
    assert table.handle.try_insert(Item(name="c")).id == 3
    table.handle.insert(Item(id=4, name="mine"))
    assert table.handle.try_insert(Item(name="d")) is None
    assert table.handle.insert(Item(name="e")).id == 5


def test_u8_wraps_and_the_violation_names_the_sequence() -> None:
    store = new_store()
    table = item_table(store, 8)
    for expected in range(1, 256):
        assert table.handle.insert(Item(name="x")).id == expected
    assert table.handle.insert(Item(name="x")).id == 0, "256 is cut off to 0 and stored as that"
    for _ in range(255):
        with pytest.raises(UniqueViolation, match="item_id_seq"):
            table.handle.insert(Item(name="y"))
    table.handle.id.delete(0)
    assert table.handle.insert(Item(name="y")).id == 0
    store.commit()
    check(store)


def test_i8_wraps_to_negative_numbers() -> None:
    table = item_table(new_store(), 8, True, start=126)
    assert [table.handle.insert(Item(name="x")).id for _ in range(4)] == [126, 127, -128, -127]


def test_a_sequence_with_a_small_range_runs_round_it() -> None:
    table = item_table(new_store(), 8, False, start=3, minimum=2, maximum=5)
    found = []
    for _ in range(9):
        found.append(table.handle.insert(Item(name="x")).id)
        table.handle.clear()
    assert found == [3, 4, 5, 2, 3, 4, 5, 2, 3]
    table = item_table(new_store(), 8, True, start=1, minimum=-4, maximum=5, increment=-3)
    found = []
    for _ in range(6):
        found.append(table.handle.insert(Item(name="x")).id)
        table.handle.clear()
    assert found == [1, -2, 5, 2, -1, -4]


def test_roll_back_leaves_a_gap_and_clear_changes_nothing() -> None:
    store = new_store()
    table = item_table(store)
    table.handle.insert(Item(name="a"))
    store.rollback()
    assert table.handle.insert(Item(name="a")).id == 2
    table.handle.clear()
    assert table.handle.insert(Item(name="a")).id == 3


def test_numbers_after_restarts() -> None:
    log: list[list[TableDelta]] = []
    store, table = database(log)
    first = [table.handle.insert(Item(name="x")).id for _ in range(3)]
    log.append(store.commit())
    assert [delta.table_id for delta in log[-1]] == [ST_SEQUENCE_ID, 4096]
    table.handle.insert(Item(name="x"))
    log.append(store.commit())
    assert [delta.table_id for delta in log[-1]] == [4096], "the batch is reserved already"
    assert first == [1, 2, 3]
    store, table = database(log)
    assert table.handle.insert(Item(name="x")).id == BATCH + 1
    log.append(store.commit())
    store, table = database(log)
    assert table.handle.insert(Item(name="x")).id == 2 * BATCH + 1


def test_many_numbers_reserve_batch_after_batch() -> None:
    log: list[list[TableDelta]] = []
    store, table = database(log)
    for _ in range(2 * BATCH + 1):
        table.handle.insert(Item(name="x"))
    log.append(store.commit())
    assert ids(table) == list(range(1, 2 * BATCH + 2))
    store, table = database(log)
    assert table.handle.insert(Item(name="x")).id == 3 * BATCH + 1


@pytest.mark.parametrize("before", [0, BATCH - 1])
def test_reservation_by_a_failed_transaction_is_written_by_the_next(before: int) -> None:
    log: list[list[TableDelta]] = []
    store, table = database(log)
    for _ in range(before):
        table.handle.insert(Item(name="x"))
    log.append(store.commit())
    for _ in range(3):
        table.handle.insert(Item(name="lost"))
    store.rollback()
    kept = table.handle.insert(Item(name="kept")).id
    log.append(store.commit())
    assert kept == before + 4
    store, table = database(log)
    fresh = table.handle.insert(Item(name="new")).id
    log.append(store.commit())
    assert fresh > kept, "no number of a stored row is given out again"
    assert fresh % BATCH == 1
    store, table = database(log)
    assert table.handle.insert(Item(name="new")).id > fresh


def test_reservation_is_not_written_by_a_transaction_that_changes_nothing() -> None:
    log: list[list[TableDelta]] = []
    store, table = database(log)
    table.handle.insert(Item(name="lost"))
    store.rollback()
    assert store.commit() == []


def test_event_tables_count_on_across_transactions() -> None:
    store = new_store()
    columns = {"id": U64, "name": STRING}
    definition = define(
        "event", columns, unique("id"), key="id", sequences=(SequenceDef("event_id_seq", 0),), is_event=True
    )
    table = store.add_table(4096, definition, shape_from(Item, columns))
    table.handle.insert(Item(name="a"))
    store.commit()
    assert table.handle.insert(Item(name="a")).id == 2


def test_a_sequence_column_needs_no_index() -> None:
    store = new_store()
    columns = {"id": U8, "name": STRING}
    definition = define("item", columns, sequences=(SequenceDef("item_id_seq", 0),))
    table = store.add_table(4096, definition, shape_from(Item, columns))
    for _ in range(257):
        table.handle.insert(Item(name="x"))
    assert table.row_count == 256, "number 257 is 1 again, and so the row is there already"


def test_generated_numbers_follow_the_rule_of_wrapping() -> None:
    definition = SequenceDef("s", 0, start=9, minimum=1, maximum=10, increment=4)
    sequence = Sequence(definition, 1, Sequence.advance)
    assert [sequence.next_value() for _ in range(6)] == [9, 3, 7, 1, 5, 9]
