"""System tables: the catalogue a database keeps of itself, as tables 1 to 20.

The first table, index, constraint, sequence of a module gets id 4096. Id 0 means "not given yet".

``bootstrap_rows`` are the rows that describe the system tables themselves; every database starts with them.
``creation_rows`` are the rows that a module's definition adds, in the order a fresh database gets them: tables sorted
by canonical name, then views sorted by name, then row filters, then the program. Objects of one table are sorted by
name, so the same definition always gives the same ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from spacetimedb.schema.definition import (
    ColumnDef,
    IndexDef,
    ModuleDef,
    SequenceDef,
    TableDef,
    UniqueDef,
    ViewDef,
)
from spacetimedb.schema.names import index_name, unique_name
from spacetimedb.schema.system_rows import (
    INDEX_ALGORITHM_TAGS,
    UNIQUE_CONSTRAINT_TAG,
    StColumn,
    StColumnAccessor,
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
    StView,
    StViewColumn,
    StViewParam,
)
from spacetimedb.schema.system_tables import (
    FIRST_USER_ID,
    ST_COLUMN_ACCESSOR_ID,
    ST_COLUMN_ID,
    ST_CONSTRAINT_ID,
    ST_EVENT_TABLE_ID,
    ST_INDEX_ACCESSOR_ID,
    ST_INDEX_ID,
    ST_MODULE_ID,
    ST_ROW_LEVEL_SECURITY_ID,
    ST_SCHEDULED_ID,
    ST_SEQUENCE_ID,
    ST_TABLE_ACCESSOR_ID,
    ST_TABLE_ID,
    ST_VIEW_COLUMN_ID,
    ST_VIEW_ID,
    ST_VIEW_PARAM_ID,
    SYSTEM_TABLES,
)
from spacetimedb.types.algebraic import (
    U256,
    Product,
    ProductElement,
    encode_type,
)

SEQUENCE_BATCH: Final = 4096
"""How many numbers a sequence sets aside at once."""

PROGRAM_KIND_WASM: Final = 0
PROGRAM_KIND_JS: Final = 1
MODULE_VERSION: Final = "0.0.1"

VIEW_HASH_COLUMN: Final = "arg_hash"
"""First column of a view's backing table: a hash of the view's arguments. Clients never see it."""

Rows = dict[int, list[Any]]
"""Rows of system tables by table id, in the order they are written."""


def bootstrap_rows() -> Rows:
    """The rows that describe the system tables themselves; system tables have no accessor rows."""
    rows: Rows = {table.table_id: [] for table in SYSTEM_TABLES}
    for table in SYSTEM_TABLES:
        definition = table.definition
        rows[ST_TABLE_ID].append(_table_row(table.table_id, definition))
        rows[ST_COLUMN_ID] += _column_rows(table.table_id, definition.columns)
        rows[ST_INDEX_ID] += [_index_row(table.index_ids[i.name], table.table_id, i) for i in definition.indexes]
        rows[ST_CONSTRAINT_ID] += [
            _constraint_row(table.constraint_ids[constraint.name], table.table_id, constraint)
            for constraint in definition.constraints
        ]
        rows[ST_SEQUENCE_ID] += [
            _sequence_row(table.sequence_ids[sequence.name], table.table_id, sequence, FIRST_USER_ID)
            for sequence in definition.sequences
        ]
    return rows


class Creation(Struct):
    """What a definition adds to a database.

    ``rows`` are to be inserted. ``sequence_updates`` are rows of st_sequence that change because ids were handed out:
    (row as it is, row as it will be). The maps go from canonical full names to ids; views are in ``table_ids`` too,
    with their backing tables, whose definitions are in ``view_tables``.
    """

    rows: Rows
    table_ids: dict[str, int]
    index_ids: dict[str, int]
    constraint_ids: dict[str, int]
    sequence_ids: dict[str, int]
    schedule_ids: dict[str, int]
    view_ids: dict[str, int]
    view_tables: dict[str, TableDef]
    sequence_updates: list[tuple[StSequence, StSequence]]


class CatalogueWriter:
    """Gives ids to objects and writes their rows. ``next_ids`` are the next id per system table that hands out ids;
    a fresh database starts with all at 4096, a migration where the database stands."""

    def __init__(self, next_ids: dict[int, int] | None = None) -> None:
        self._next = dict(next_ids or {})
        self.result = Creation({}, {}, {}, {}, {}, {}, {}, {}, [])

    def next_id(self, table_id: int) -> int:
        """A new id in the id column of the system table ``table_id``."""
        given = self._next.get(table_id, FIRST_USER_ID)
        self._next[table_id] = given + 1
        return given

    def add(self, table_id: int, row: Any) -> None:
        """A row of the system table ``table_id``."""
        self.result.rows.setdefault(table_id, []).append(row)

    def add_table(self, table: TableDef, *, is_view: bool = False) -> int:
        """All rows of a table, or of a view's backing table; the table's id."""
        result = self.result
        table_id = self.next_id(ST_TABLE_ID)
        result.table_ids[table.name] = table_id
        self.add(ST_TABLE_ID, _table_row(table_id, table))
        self.add(ST_TABLE_ACCESSOR_ID, StTableAccessor(table.name, table.accessor_name))
        self.add_columns(table_id, table, is_view=is_view)
        schedule = table.schedule
        if schedule is not None:
            schedule_id = self.next_id(ST_SCHEDULED_ID)
            result.schedule_ids[schedule.name] = schedule_id
            self.add(
                ST_SCHEDULED_ID,
                StScheduled(schedule_id, table_id, schedule.function_name, schedule.name, schedule.at_column),
            )
        if table.is_event:
            self.add(ST_EVENT_TABLE_ID, StEventTable(table_id))
        for index in sorted(table.indexes, key=lambda index: index.name):
            self.add_index(table_id, index, has_accessor=not is_view)
        for constraint in sorted(table.constraints, key=lambda constraint: constraint.name):
            self.add_constraint(table_id, constraint)
        for sequence in sorted(table.sequences, key=lambda sequence: sequence.name):
            self.add_sequence(table_id, sequence)
        return table_id

    def add_columns(self, table_id: int, table: TableDef, *, is_view: bool = False) -> None:
        """The rows of all columns of a table."""
        for row in _column_rows(table_id, table.columns):
            self.add(ST_COLUMN_ID, row)
        for column in table.columns[1:] if is_view else table.columns:
            self.add(ST_COLUMN_ACCESSOR_ID, StColumnAccessor(table.name, column.name, column.accessor_name))

    def add_index(self, table_id: int, index: IndexDef, *, has_accessor: bool = True) -> int:
        """The rows of an index; its id."""
        index_id = self.next_id(ST_INDEX_ID)
        self.result.index_ids[index.name] = index_id
        self.add(ST_INDEX_ID, _index_row(index_id, table_id, index))
        if has_accessor:
            self.add(ST_INDEX_ACCESSOR_ID, StIndexAccessor(index.name, index.source_name))
        return index_id

    def add_constraint(self, table_id: int, constraint: UniqueDef) -> int:
        """The row of a unique constraint; its id."""
        constraint_id = self.next_id(ST_CONSTRAINT_ID)
        self.result.constraint_ids[constraint.name] = constraint_id
        self.add(ST_CONSTRAINT_ID, _constraint_row(constraint_id, table_id, constraint))
        return constraint_id

    def add_sequence(self, table_id: int, sequence: SequenceDef) -> int:
        """The row of a sequence; its id. Nothing is set aside yet: ``allocated`` is its start."""
        sequence_id = self.next_id(ST_SEQUENCE_ID)
        self.result.sequence_ids[sequence.name] = sequence_id
        self.add(ST_SEQUENCE_ID, _sequence_row(sequence_id, table_id, sequence, sequence.start))
        return sequence_id

    def add_view(self, view: ViewDef) -> int:
        """The rows of a view and of its backing table; the view's id."""
        backing = view_backing_table(view)
        view_id = self.next_id(ST_VIEW_ID)
        table_id = self.add_table(backing, is_view=True)
        self.result.view_ids[view.name] = view_id
        self.result.view_tables[view.name] = backing
        self.add(ST_VIEW_ID, StView(view_id, view.name, table_id, True, view.is_anonymous))
        for position, param in enumerate(view.params.elements):
            name = f"param_{position}" if param.name is None else param.name
            self.add(ST_VIEW_PARAM_ID, StViewParam(view_id, position, name, encode_type(param.algebraic_type)))
        for position, column in enumerate(view.columns):
            self.add(
                ST_VIEW_COLUMN_ID, StViewColumn(view_id, position, column.name, encode_type(column.algebraic_type))
            )
        return view_id

    def finish(self) -> Creation:
        """Everything written, with the changes of the system's sequences."""
        result = self.result
        for row in bootstrap_rows()[ST_SEQUENCE_ID]:
            if self._next.get(row.table_id, FIRST_USER_ID) > FIRST_USER_ID:
                result.sequence_updates.append((row, replace(row, allocated=FIRST_USER_ID + SEQUENCE_BATCH)))
        return result


def creation_rows(
    definition: ModuleDef,
    *,
    database_identity: int,
    owner_identity: int,
    program_hash: bytes,
    program_bytes: bytes,
    program_kind: int = PROGRAM_KIND_WASM,
    row_filters: Sequence[tuple[str, str]] = (),
) -> Creation:
    """Everything a fresh database gets from its definition (before the init reducer runs).

    Identities are the numbers (``int(Identity)``), ``program_hash`` is the 32-byte digest. ``row_filters`` are pairs of
    table name and SQL text, which only a compiler of SQL can make from ``definition.row_level_security``.
    """
    writer = CatalogueWriter()
    for table in sorted(definition.all_tables, key=lambda table: table.name):
        writer.add_table(table)
    for view in sorted(definition.all_views, key=lambda view: view.name):
        writer.add_view(view)
    for table_name, sql in dict.fromkeys(row_filters):
        writer.add(ST_ROW_LEVEL_SECURITY_ID, StRowLevelSecurity(writer.result.table_ids[table_name], sql))
    writer.add(
        ST_MODULE_ID,
        StModule(
            database_identity,
            owner_identity,
            program_kind,
            int.from_bytes(program_hash, "little"),
            program_bytes,
            MODULE_VERSION,
        ),
    )
    return writer.finish()


def view_backing_table(view: ViewDef) -> TableDef:
    """The table that holds a view's rows: ``arg_hash`` and the view's columns. It has no primary key of its own."""
    columns = (ColumnDef(VIEW_HASH_COLUMN, VIEW_HASH_COLUMN, U256), *view.columns)
    keys = [(0,)] if view.primary_key is None else [(0,), (0, view.primary_key + 1)]
    indexes = []
    constraints = []
    for key in keys:
        names = [columns[position].name for position in key]
        name = index_name(view.name, names, "btree")
        indexes.append(IndexDef(name, name, None, "btree", key, len(key) > 1))
        if len(key) > 1:
            constraints.append(UniqueDef(unique_name(view.name, names), key))
    return TableDef(
        name=view.name,
        accessor_name=view.accessor_name,
        columns=columns,
        row_type=Product(tuple(ProductElement(column.name, column.algebraic_type) for column in columns)),
        type_ref=-1,
        indexes=tuple(indexes),
        constraints=tuple(constraints),
        is_public=view.is_public,
    )


def _table_row(table_id: int, table: TableDef) -> StTable:
    return StTable(
        table_id,
        table.name,
        "system" if table.is_system else "user",
        "public" if table.is_public else "private",
        None if table.primary_key is None else [table.primary_key],
    )


def _column_rows(table_id: int, columns: Sequence[ColumnDef]) -> list[StColumn]:
    return [
        StColumn(table_id, position, column.name, encode_type(column.algebraic_type))
        for position, column in enumerate(columns)
    ]


def _index_row(index_id: int, table_id: int, index: IndexDef) -> StIndex:
    payload: Any = index.columns[0] if index.algorithm == "direct" else list(index.columns)
    return StIndex(index_id, table_id, index.name, (INDEX_ALGORITHM_TAGS[index.algorithm], payload))


def _constraint_row(constraint_id: int, table_id: int, constraint: UniqueDef) -> StConstraint:
    return StConstraint(constraint_id, constraint.name, table_id, (UNIQUE_CONSTRAINT_TAG, sorted(constraint.columns)))


def _sequence_row(sequence_id: int, table_id: int, sequence: SequenceDef, allocated: int) -> StSequence:
    return StSequence(
        sequence_id,
        sequence.name,
        table_id,
        sequence.column,
        sequence.increment,
        sequence.start,
        sequence.minimum,
        sequence.maximum,
        allocated,
    )
