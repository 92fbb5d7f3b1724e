"""Definitions of the system tables 1 to 20, and the ids of their indexes, constraints and sequences.

All ids below 4096 belong to the system. Names of the tables' objects are the generated ones. Index accessors are the
columns' names joined with ``_``; they exist only for code that uses the tables, not in the catalogue.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

from spacetimedb.schema.definition import (
    SEQUENCE_MAXIMUM,
    ColumnDef,
    IndexDef,
    SequenceDef,
    TableDef,
    UniqueDef,
)
from spacetimedb.schema.names import index_name, sequence_name, unique_name
from spacetimedb.schema.system_rows import (
    StClient,
    StColumn,
    StColumnAccessor,
    StConnectionCredentials,
    StConstraint,
    StEventTable,
    StIndex,
    StIndexAccessor,
    StModule,
    StRowLevelSecurity,
    StScheduled,
    StSequence,
    StTable,
    StTableAccessor,
    StVar,
    StView,
    StViewArg,
    StViewColumn,
    StViewParam,
    StViewSub,
)
from spacetimedb.types.algebraic import (
    BOOL,
    BYTES,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    I128,
    STRING,
    U8,
    U16,
    U32,
    U64,
    U128,
    U256,
    AlgebraicType,
    Array,
    Product,
    ProductElement,
    Sum,
    SumVariant,
    option,
    sum_of,
)
from spacetimedb.types.shapes import FieldShape, ProductShape, shape_of

FIRST_USER_ID: Final = 4096
"""The first table, index, constraint or sequence of a module."""

ST_TABLE_ID: Final = 1
ST_COLUMN_ID: Final = 2
ST_SEQUENCE_ID: Final = 3
ST_INDEX_ID: Final = 4
ST_CONSTRAINT_ID: Final = 5
ST_MODULE_ID: Final = 6
ST_CLIENT_ID: Final = 7
ST_VAR_ID: Final = 8
ST_SCHEDULED_ID: Final = 9
ST_ROW_LEVEL_SECURITY_ID: Final = 10
ST_CONNECTION_CREDENTIALS_ID: Final = 11
ST_VIEW_ID: Final = 12
ST_VIEW_PARAM_ID: Final = 13
ST_VIEW_COLUMN_ID: Final = 14
ST_VIEW_SUB_ID: Final = 15
ST_VIEW_ARG_ID: Final = 16
ST_EVENT_TABLE_ID: Final = 17
ST_TABLE_ACCESSOR_ID: Final = 18
ST_INDEX_ACCESSOR_ID: Final = 19
ST_COLUMN_ACCESSOR_ID: Final = 20

_COLUMN_LIST = Array(U16)
_INDEX_ALGORITHM = sum_of(Unused=U128, BTree=_COLUMN_LIST, Direct=U16, Hash=_COLUMN_LIST)
_CONSTRAINT_DATA = sum_of(Unused=U128, Unique=_COLUMN_LIST)
VAR_TYPES: Final = (BOOL, I8, U8, I16, U16, I32, U32, I64, U64, I128, U128, F32, F64, STRING)
"""Types of settings, by tag of st_var.value."""


class SystemTable(Struct, frozen=True):
    """A system table: its id, definition, row class, the shape bound to it, and the ids of its objects by name."""

    table_id: int
    definition: TableDef
    row: type[Any]
    shape: ProductShape
    index_ids: dict[str, int]
    constraint_ids: dict[str, int]
    sequence_ids: dict[str, int]

    @property
    def name(self) -> str:
        """The table's name."""
        return self.definition.name


def _system_table(
    table_id: int,
    row: type[Any],
    columns: dict[str, AlgebraicType],
    *,
    key: str | None = None,
    indexes: dict[int, str] | None = None,
    unique: dict[int, str] | None = None,
    sequence: tuple[int, str] | None = None,
    is_public: bool = True,
) -> SystemTable:
    """``indexes`` and ``unique`` map ids to column names joined by commas; ``sequence`` is (id, column)."""
    name = "st" + "".join(f"_{c.lower()}" if c.isupper() else c for c in row.__name__.removeprefix("St"))
    positions = {column: position for position, column in enumerate(columns)}
    index_defs, constraint_defs, sequence_defs = [], [], []
    index_ids, constraint_ids, sequence_ids = {}, {}, {}
    unique_columns = set((unique or {}).values())
    for index_id, joined in (indexes or {}).items():
        names = joined.split(",")
        index = index_name(name, names, "btree")
        index_ids[index] = index_id
        column_positions = tuple(positions[column] for column in names)
        index_defs.append(IndexDef(index, index, "_".join(names), "btree", column_positions, joined in unique_columns))
    for constraint_id, joined in (unique or {}).items():
        names = joined.split(",")
        constraint = unique_name(name, names)
        constraint_ids[constraint] = constraint_id
        constraint_defs.append(UniqueDef(constraint, tuple(sorted(positions[column] for column in names))))
    if sequence is not None:
        sequence_id, column = sequence
        sequence_ids[sequence_name(name, column)] = sequence_id
        sequence_defs.append(
            SequenceDef(sequence_name(name, column), positions[column], FIRST_USER_ID + 1, 1, SEQUENCE_MAXIMUM)
        )
    definition = TableDef(
        name=name,
        accessor_name=name,
        columns=tuple(ColumnDef(column, column, t) for column, t in columns.items()),
        row_type=Product(tuple(ProductElement(column, t) for column, t in columns.items())),
        type_ref=-1,
        primary_key=None if key is None else positions[key],
        indexes=tuple(index_defs),
        constraints=tuple(constraint_defs),
        sequences=tuple(sequence_defs),
        is_public=is_public,
        is_system=True,
    )
    shape = ProductShape(row, tuple(FieldShape(column, column, shape_of(t)) for column, t in columns.items()))
    return SystemTable(table_id, definition, row, shape, index_ids, constraint_ids, sequence_ids)


SYSTEM_TABLES: Final[tuple[SystemTable, ...]] = (
    _system_table(
        ST_TABLE_ID,
        StTable,
        {
            "table_id": U32,
            "table_name": STRING,
            "table_type": STRING,
            "table_access": STRING,
            "table_primary_key": option(_COLUMN_LIST),
        },
        key="table_id",
        indexes={1: "table_id", 2: "table_name"},
        unique={1: "table_id", 2: "table_name"},
        sequence=(1, "table_id"),
    ),
    _system_table(
        ST_COLUMN_ID,
        StColumn,
        {"table_id": U32, "col_pos": U16, "col_name": STRING, "col_type": BYTES},
        indexes={3: "table_id,col_pos"},
        unique={3: "table_id,col_pos"},
    ),
    _system_table(
        ST_SEQUENCE_ID,
        StSequence,
        {
            "sequence_id": U32,
            "sequence_name": STRING,
            "table_id": U32,
            "col_pos": U16,
            "increment": I128,
            "start": I128,
            "min_value": I128,
            "max_value": I128,
            "allocated": I128,
        },
        key="sequence_id",
        indexes={4: "sequence_id"},
        unique={4: "sequence_id"},
        sequence=(5, "sequence_id"),
    ),
    _system_table(
        ST_INDEX_ID,
        StIndex,
        {"index_id": U32, "table_id": U32, "index_name": STRING, "index_algorithm": _INDEX_ALGORITHM},
        key="index_id",
        indexes={5: "index_id"},
        unique={5: "index_id"},
        sequence=(2, "index_id"),
    ),
    _system_table(
        ST_CONSTRAINT_ID,
        StConstraint,
        {"constraint_id": U32, "constraint_name": STRING, "table_id": U32, "constraint_data": _CONSTRAINT_DATA},
        key="constraint_id",
        indexes={6: "constraint_id"},
        unique={6: "constraint_id"},
        sequence=(3, "constraint_id"),
    ),
    _system_table(
        ST_MODULE_ID,
        StModule,
        {
            "database_identity": U256,
            "owner_identity": U256,
            "program_kind": U8,
            "program_hash": U256,
            "program_bytes": BYTES,
            "module_version": STRING,
        },
    ),
    _system_table(
        ST_CLIENT_ID,
        StClient,
        {"identity": U256, "connection_id": U128},
        indexes={7: "identity,connection_id"},
        unique={7: "identity,connection_id"},
    ),
    _system_table(
        ST_VAR_ID,
        StVar,
        {"name": STRING, "value": Sum(tuple(SumVariant(t.kind, t) for t in VAR_TYPES))},
        key="name",
        indexes={8: "name"},
        unique={8: "name"},
    ),
    _system_table(
        ST_SCHEDULED_ID,
        StScheduled,
        {"schedule_id": U32, "table_id": U32, "reducer_name": STRING, "schedule_name": STRING, "at_column": U16},
        key="schedule_id",
        indexes={9: "schedule_id", 10: "table_id"},
        unique={9: "schedule_id", 10: "table_id"},
        sequence=(4, "schedule_id"),
    ),
    _system_table(
        ST_ROW_LEVEL_SECURITY_ID,
        StRowLevelSecurity,
        {"table_id": U32, "sql": STRING},
        key="sql",
        indexes={11: "table_id", 12: "sql"},
        unique={11: "sql"},
    ),
    _system_table(
        ST_CONNECTION_CREDENTIALS_ID,
        StConnectionCredentials,
        {"connection_id": U128, "jwt_payload": STRING},
        key="connection_id",
        indexes={13: "connection_id"},
        unique={12: "connection_id"},
        is_public=False,
    ),
    _system_table(
        ST_VIEW_ID,
        StView,
        {"view_id": U32, "view_name": STRING, "table_id": option(U32), "is_public": BOOL, "is_anonymous": BOOL},
        key="view_id",
        indexes={14: "view_id", 15: "view_name"},
        unique={13: "view_id", 14: "view_name"},
        sequence=(6, "view_id"),
    ),
    _system_table(
        ST_VIEW_PARAM_ID,
        StViewParam,
        {"view_id": U32, "param_pos": U16, "param_name": STRING, "param_type": BYTES},
        indexes={16: "view_id,param_pos"},
        unique={15: "view_id,param_pos"},
    ),
    _system_table(
        ST_VIEW_COLUMN_ID,
        StViewColumn,
        {"view_id": U32, "col_pos": U16, "col_name": STRING, "col_type": BYTES},
        indexes={17: "view_id,col_pos"},
        unique={16: "view_id,col_pos"},
    ),
    _system_table(
        ST_VIEW_SUB_ID,
        StViewSub,
        {
            "view_id": U32,
            "arg_id": U64,
            "identity": U256,
            "num_subscribers": U64,
            "has_subscribers": BOOL,
            "last_called": I64,
        },
        indexes={18: "identity", 19: "has_subscribers", 20: "view_id,arg_id,identity"},
    ),
    _system_table(
        ST_VIEW_ARG_ID,
        StViewArg,
        {"id": U64, "bytes": BYTES},
        key="id",
        indexes={21: "id", 22: "bytes"},
        unique={17: "id", 18: "bytes"},
        sequence=(7, "id"),
    ),
    _system_table(
        ST_EVENT_TABLE_ID,
        StEventTable,
        {"table_id": U32},
        key="table_id",
        indexes={23: "table_id"},
        unique={19: "table_id"},
    ),
    _system_table(
        ST_TABLE_ACCESSOR_ID,
        StTableAccessor,
        {"table_name": STRING, "accessor_name": STRING},
        indexes={24: "table_name", 25: "accessor_name"},
        unique={20: "table_name", 21: "accessor_name"},
    ),
    _system_table(
        ST_INDEX_ACCESSOR_ID,
        StIndexAccessor,
        {"index_name": STRING, "accessor_name": STRING},
        indexes={26: "index_name", 27: "accessor_name"},
        unique={22: "index_name", 23: "accessor_name"},
    ),
    _system_table(
        ST_COLUMN_ACCESSOR_ID,
        StColumnAccessor,
        {"table_name": STRING, "col_name": STRING, "accessor_name": STRING},
        indexes={28: "table_name,col_name", 29: "table_name,accessor_name"},
        unique={24: "table_name,col_name", 25: "table_name,accessor_name"},
    ),
)
"""By id: table n is at position n - 1."""

SYSTEM_TABLES_BY_NAME: Final = {table.name: table for table in SYSTEM_TABLES}
