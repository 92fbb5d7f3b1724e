"""System tables: their own rows, and the rows recorded databases have after their creation."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import astuple

from spacetimedb.schema.raw import decode_raw
from spacetimedb.schema.system_catalogue import CatalogueWriter, Creation, bootstrap_rows, creation_rows
from spacetimedb.schema.system_rows import StRowLevelSecurity
from spacetimedb.schema.system_tables import (
    ST_COLUMN_ID,
    ST_CONSTRAINT_ID,
    ST_INDEX_ID,
    ST_MODULE_ID,
    ST_ROW_LEVEL_SECURITY_ID,
    ST_SEQUENCE_ID,
    ST_TABLE_ID,
    ST_VIEW_COLUMN_ID,
    SYSTEM_TABLES,
    SYSTEM_TABLES_BY_NAME,
)
from spacetimedb.schema.validation import validate
from spacetimedb.types.algebraic import decode_type
from spacetimedb.types.bsatn import codec

from .vectors import RECORDED_BUT_REFUSED_HERE, Case, name_of, schema_cases

CASES = [case for case in schema_cases() if case["name"] not in RECORDED_BUT_REFUSED_HERE]


def created(case: Case, row_filters: tuple[tuple[str, str], ...] = ()) -> Creation:
    return creation_rows(
        validate(decode_raw(bytes.fromhex(case["raw_hex"]))),
        database_identity=1,
        owner_identity=2,
        program_hash=bytes(range(32)),
        program_bytes=b"program",
        row_filters=row_filters,
    )


def case_named(name: str) -> Case:
    return next(case for case in CASES if case["name"] == name)


def sql_form(value: Any, is_option: bool = False) -> Any:
    if is_option:
        return [1, []] if value is None else [0, value]
    return [sql_form(part) for part in value] if isinstance(value, tuple | list) else value


def recorded_form(name: str, creation: Creation) -> list[Any]:
    """The rows of a system table as SQL over HTTP prints them."""
    table = SYSTEM_TABLES_BY_NAME[name]
    optional = {"table_primary_key"} | ({"table_id"} if name == "st_view" else set())
    return [
        [sql_form(getattr(row, f.attr), f.attr in optional) for f in table.shape.fields]
        for row in creation.rows.get(table.table_id, [])
    ]


def test_ids() -> None:
    assert [table.table_id for table in SYSTEM_TABLES] == list(range(1, 21))
    assert sorted(i for table in SYSTEM_TABLES for i in table.index_ids.values()) == list(range(1, 30))
    assert sorted(i for table in SYSTEM_TABLES for i in table.constraint_ids.values()) == list(range(1, 26))
    assert sorted(i for table in SYSTEM_TABLES for i in table.sequence_ids.values()) == list(range(1, 8))
    assert [table.name for table in SYSTEM_TABLES if not table.definition.is_public] == ["st_connection_credentials"]
    assert SYSTEM_TABLES_BY_NAME["st_view_sub"].index_ids["st_view_sub_view_id_arg_id_identity_idx_btree"] == 20


def test_bootstrap_rows_describe_the_tables_that_hold_them() -> None:
    rows = bootstrap_rows()
    assert [row.table_name for row in rows[ST_TABLE_ID]] == [table.name for table in SYSTEM_TABLES]
    for row in rows[ST_COLUMN_ID]:
        column = SYSTEM_TABLES[row.table_id - 1].definition.columns[row.col_pos]
        assert (row.col_name, decode_type(row.col_type)[0]) == (column.name, column.algebraic_type)
    assert all((row.start, row.allocated) == (4097, 4096) for row in rows[ST_SEQUENCE_ID])
    assert len(rows[ST_INDEX_ID]) == 29
    assert len(rows[ST_CONSTRAINT_ID]) == 25


def test_rows_round_trip_through_their_shapes() -> None:
    for rows in (bootstrap_rows(), *(created(case).rows for case in CASES)):
        for table_id, table_rows in rows.items():
            row_codec = codec(SYSTEM_TABLES[table_id - 1].shape)
            for row in table_rows:
                data = row_codec.encode(row)
                assert row_codec.decode(data) == (row, len(data))


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_rows_of_a_fresh_database(case: Case) -> None:
    creation = created(case)
    names = [name for name in case if name.startswith("st_")]
    assert len(names) == 10
    for name in names:
        printed, recorded = recorded_form(name, creation), case[name]
        if name in ("st_index", "st_constraint"):
            # The ids of a table's indexes are in no fixed order: only that they are 4096 and on.
            assert sorted(row[0] for row in printed) == sorted(row[0] for row in recorded)
            printed, recorded = [row[1:] for row in printed], [row[1:] for row in recorded]
        assert sorted(map(str, printed)) == sorted(map(str, recorded)), name


def test_maps_lead_to_the_ids_in_the_rows() -> None:
    creation = created(case_named("submodules"))
    assert creation.table_ids == {row.table_name: row.table_id for row in creation.rows[ST_TABLE_ID]}
    assert creation.index_ids == {row.index_name: row.index_id for row in creation.rows[ST_INDEX_ID]}
    assert creation.sequence_ids == {row.sequence_name: row.sequence_id for row in creation.rows[ST_SEQUENCE_ID]}
    assert list(creation.table_ids) == sorted(creation.table_ids)


def test_system_sequences_move_on_when_ids_were_handed_out() -> None:
    creation = created(case_named("basic"))
    assert [before.sequence_id for before, _ in creation.sequence_updates] == [1, 5, 2, 3]
    assert all((before.allocated, after.allocated) == (4096, 8192) for before, after in creation.sequence_updates)
    assert created(case_named("empty")).sequence_updates == []


def test_the_program_is_written_with_its_digest_in_order() -> None:
    (row,) = created(case_named("empty")).rows[ST_MODULE_ID]
    data = codec(SYSTEM_TABLES_BY_NAME["st_module"].shape).encode(row)
    assert data[65:97] == bytes(range(32))
    assert astuple(row)[4:] == (b"program", "0.0.1")


def test_row_filters_are_written_once() -> None:
    filters = (("person", "SELECT * FROM person"),) * 2
    rows = created(case_named("basic"), filters).rows
    assert rows[ST_ROW_LEVEL_SECURITY_ID] == [StRowLevelSecurity(4096, "SELECT * FROM person")]


def test_backing_tables_of_views() -> None:
    creation = created(case_named("views"))
    backing = creation.view_tables["all_people"]
    assert [column.name for column in backing.columns] == ["arg_hash", "id", "name", "age"]
    assert [(index.columns, index.is_unique) for index in backing.indexes] == [((0,), False), ((0, 1), True)]
    assert backing.primary_key is None
    assert len(creation.rows[ST_VIEW_COLUMN_ID]) == 9


def test_ids_go_on_where_a_database_stands() -> None:
    table = validate(decode_raw(bytes.fromhex(case_named("basic")["raw_hex"]))).tables[0]
    writer = CatalogueWriter({ST_TABLE_ID: 4100, ST_INDEX_ID: 4200})
    assert writer.add_table(table) == 4100
    assert sorted(writer.finish().index_ids.values()) == [4200, 4201]
