"""Carries out a migration plan: the catalogue's rows, then the tables, in one transaction or not at all.

`run` takes the steps in order. Each changes rows of system tables, inside the store's running transaction; nothing else
changes until all are taken. Then every table of the new definition is made anew beside the present ones (rows keep
their refs, except in tables that gained columns: those get a new id and new rows) and the store's tables are exchanged.
`commit` makes it final, `undo` leaves the store as it was before `run`.

Numbers of new tables, indexes and so on come from the sequences of the system tables, so none is ever given twice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

from msgspec.structs import replace

from spacetimedb.schema.definition import ColumnDef, IndexDef, RowMigrationDef, SequenceDef, TableDef, UniqueDef
from spacetimedb.schema.migration import MigrationPlan, Step, StepKind
from spacetimedb.schema.migration_text import debug_line, log_line
from spacetimedb.schema.system_catalogue import CatalogueWriter
from spacetimedb.schema.system_rows import StColumnAccessor, StIndexAccessor, StRowLevelSecurity, StTableAccessor
from spacetimedb.schema.system_tables import (
    ST_COLUMN_ACCESSOR_ID,
    ST_COLUMN_ID,
    ST_CONSTRAINT_ID,
    ST_EVENT_TABLE_ID,
    ST_INDEX_ACCESSOR_ID,
    ST_INDEX_ID,
    ST_ROW_LEVEL_SECURITY_ID,
    ST_SCHEDULED_ID,
    ST_SEQUENCE_ID,
    ST_TABLE_ACCESSOR_ID,
    ST_TABLE_ID,
    ST_VIEW_COLUMN_ID,
    ST_VIEW_ID,
    ST_VIEW_PARAM_ID,
)
from spacetimedb.sql.catalog import SchemaCatalog
from spacetimedb.sql.errors import SqlError
from spacetimedb.sql.plan import protected_table
from spacetimedb.store.commit_record import LOG_ONLY, TRUNCATED, TableDelta
from spacetimedb.store.store import Store
from spacetimedb.store.table import Table
from spacetimedb.types.algebraic import AlgebraicType, Primitive, Product
from spacetimedb.types.bsatn import codec
from spacetimedb.types.satn import satn_text
from spacetimedb.types.shapes import ProductShape, shape_of

MAX_DUPLICATES_TOLD: Final = 10
"""Groups of equal values that the refusal of a unique constraint lists."""


class MigrationFailed(Exception):
    """A step cannot be taken; the text is for whoever published the program."""


class StoredCatalogue(CatalogueWriter):
    """Writes into the system tables of a store, in its running transaction."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._tables = store.tables

    def next_id(self, table_id: int) -> int:
        """The next number of the system table's own sequence."""
        return self._tables[table_id].sequences[0].next_value()

    def add(self, table_id: int, row: Any) -> None:
        """Inserts a row of the system table `table_id`."""
        self._tables[table_id].handle.insert(row)

    def remove(self, system_table: int, **columns: object) -> list[Any]:
        """Deletes the rows whose columns have these values, and returns them. O(rows of the system table)."""
        table = self._tables[system_table]
        found = [row for row in table.reader.iter() if all(getattr(row, c) == v for c, v in columns.items())]
        for row in found:
            table.handle.delete(row)
        return found

    def change(self, system_table: int, key: Mapping[str, object], **columns: object) -> None:
        """Changes columns of the rows that `remove` would find by `key`."""
        for row in self.remove(system_table, **key):
            self.add(system_table, replace(row, **columns))

    def forget_table(self, table_id: int, name: str) -> list[Any]:
        """Deletes all rows of a table but its row filters; returns those of its sequences."""
        self.remove(ST_TABLE_ID, table_id=table_id)
        self.remove(ST_TABLE_ACCESSOR_ID, table_name=name)
        self.forget_columns(table_id, name)
        for index in self.remove(ST_INDEX_ID, table_id=table_id):
            self.remove(ST_INDEX_ACCESSOR_ID, index_name=index.index_name)
        for described in (ST_CONSTRAINT_ID, ST_SCHEDULED_ID, ST_EVENT_TABLE_ID):
            self.remove(described, table_id=table_id)
        return self.remove(ST_SEQUENCE_ID, table_id=table_id)

    def forget_columns(self, table_id: int, name: str) -> None:
        """Deletes the rows of a table's columns."""
        self.remove(ST_COLUMN_ID, table_id=table_id)
        self.remove(ST_COLUMN_ACCESSOR_ID, table_name=name)


class Migration:
    """One plan over one store. `table_ids` are those of tables and views by canonical name, as the steps go on.

    `shapes`: row shape of every table of the new definition. `say` takes lines for the module log.
    """

    def __init__(
        self,
        store: Store,
        plan: MigrationPlan,
        table_ids: Mapping[str, int],
        shapes: Mapping[str, ProductShape],
        say: Callable[[str], object],
    ) -> None:
        self.table_ids = dict(table_ids)
        self._store = store
        self._plan = plan
        self._shapes = shapes
        self._say = say
        self._replaced: list[tuple[Step, Table]] = []
        """Old tables whose rows go through a function of the module."""
        self._old_ids = dict(table_ids)
        self._catalogue = StoredCatalogue(store)
        self._before: dict[int, Table] | None = None
        self._made: list[Table] = []
        """Tables with an id that is new."""
        self._moved: list[tuple[Table, Table]] = []
        """Tables that gained columns: the old one and the new one."""
        self._dropped_views: list[int] = []
        self._changed_durability: list[Table] = []
        """Tables that keep their rows, which are in the log from now on or no longer."""

    # -- the whole

    def run(self) -> None:
        """Takes all steps and puts the new tables into the store, all of it uncommitted.

        Raises MigrationFailed, or what the store raises for tables that it cannot hold; then call `undo`.
        """
        for step in self._plan.steps:
            if step.kind is StepKind.ADD_SEQUENCE:
                self._check_sequence(step)
        self._free_accessors()
        for step in self._plan.steps:
            _STEPS[step.kind](self, step)
        self._make_tables()

    def commit(self) -> list[TableDelta]:
        """Makes everything final. Returns what changed, as `Store.commit` does, ascending by table id."""
        assert self._before is not None
        moves = [delta for old, new in self._moved for delta in _moving(old, new)]
        moves += [_leaving(old) for _step, old in self._replaced if old.refs_by_key]
        deltas = [*self._store.commit(), *moves, *map(_logged_anew, self._changed_durability)]
        for table_id, table in self._before.items():
            if table_id not in self._store.tables:
                self._store.retire(table)
        return sorted(deltas, key=lambda delta: delta.table_id)

    def old_rows(self) -> Iterator[tuple[RowMigrationDef, Sequence[bytes]]]:
        """Functions of the module with the rows (BSATN) that each is to take over. After `run`."""
        for step, old in self._replaced:
            assert step.migration is not None
            yield step.migration, old.images()

    @property
    def made(self) -> list[Table]:
        """Tables with an id that is new. After `run`."""
        return self._made

    def undo(self) -> None:
        """Leaves the store as it was before `run`, wherever that stopped."""
        self._store.rollback()
        if self._before is not None:
            self._store.exchange(self._before)
        for table in self._made:
            self._store.discard(table)

    # -- what must hold before

    def _check_sequence(self, step: Step) -> None:
        sequence = step.part
        assert isinstance(sequence, SequenceDef)
        table = step.table
        column = table.columns[sequence.column].algebraic_type
        _start, minimum, maximum = sequence.declared
        least = 1 if minimum is None else minimum
        most = _largest(column) if maximum is None else maximum
        values = map(itemgetter(sequence.column), self._rows(step))
        if any(least <= value <= most for value in values):
            raise MigrationFailed(f"Precheck failed: added sequence {step.name} already has values in range")

    def _free_accessors(self) -> None:
        """Source names are unique: all that change are taken away first, so that they can change places."""
        remove = self._catalogue.remove
        for step in self._plan.steps:
            if step.kind is StepKind.CHANGE_TABLE_ACCESSOR_NAME:
                remove(ST_TABLE_ACCESSOR_ID, table_name=step.name)
            elif step.kind is StepKind.CHANGE_INDEX_SOURCE_NAME:
                remove(ST_INDEX_ACCESSOR_ID, index_name=step.name)
            elif step.kind is StepKind.CHANGE_COLUMN_ACCESSOR_NAME:
                assert isinstance(step.part, ColumnDef)
                remove(ST_COLUMN_ACCESSOR_ID, table_name=step.name, col_name=step.part.name)

    # -- the steps

    def _told(self, step: Step) -> None:
        line = log_line(step)
        if line is not None:
            self._say(line)

    def _remove_index(self, step: Step) -> None:
        self._told(step)
        self._catalogue.remove(ST_INDEX_ID, table_id=self.table_ids[step.table.name], index_name=step.name)
        self._catalogue.remove(ST_INDEX_ACCESSOR_ID, index_name=step.name)

    def _remove_constraint(self, step: Step) -> None:
        self._told(step)
        table_id = self.table_ids[step.table.name]
        self._catalogue.remove(ST_CONSTRAINT_ID, table_id=table_id, constraint_name=step.name)

    def _remove_sequence(self, step: Step) -> None:
        self._told(step)
        self._catalogue.remove(ST_SEQUENCE_ID, table_id=self.table_ids[step.table.name], sequence_name=step.name)

    def _remove_schedule(self, step: Step) -> None:
        raise MigrationFailed("Removing schedules is not yet implemented")

    def _remove_view(self, step: Step) -> None:
        for view in self._catalogue.remove(ST_VIEW_ID, view_name=step.name):
            self._catalogue.remove(ST_VIEW_PARAM_ID, view_id=view.view_id)
            self._catalogue.remove(ST_VIEW_COLUMN_ID, view_id=view.view_id)
        table_id = self.table_ids.pop(step.name)
        self._dropped_views.append(table_id)
        self._catalogue.forget_table(table_id, step.name)

    def _remove_row_filter(self, step: Step) -> None:
        self._told(step)
        self._catalogue.remove(ST_ROW_LEVEL_SECURITY_ID, sql=step.name)

    def _remove_table(self, step: Step) -> None:
        table = self._store.tables[self.table_ids[step.name]]
        if step.migration is not None:
            self._replaced.append((step, table))
        elif table.row_count:
            raise MigrationFailed(
                f"Cannot remove table `{step.name}`: table contains data. Clear the table's rows (e.g. via a reducer) "
                "before removing it from your schema."
            )
        self._told(step)
        self._catalogue.forget_table(self.table_ids.pop(step.name), step.name)

    def _replace_table(self, step: Step) -> None:
        """Another table under the same name; sequences that keep their names go on."""
        self._told(step)
        old = self._store.tables[self.table_ids[step.name]]
        self._replaced.append((step, old))
        self._come_anew(old, step.table)

    def _change_columns(self, step: Step) -> None:
        """Columns whose types grow, of a table that keeps its rows; any columns of an event table, which has none."""
        self._told(step)
        table_id = self.table_ids[step.name]
        self._catalogue.forget_columns(table_id, step.name)
        self._catalogue.add_columns(table_id, step.table)

    def _add_columns(self, step: Step) -> None:
        """The table comes anew, with another id: with the parts that stay, others have steps of their own."""
        name, table = step.name, step.table
        old = self._store.tables[self.table_ids[name]]
        coming = {
            kind: {other.name for other in self._plan.steps if other.kind is kind and other.table.name == name}
            for kind in (StepKind.ADD_INDEX, StepKind.ADD_CONSTRAINT, StepKind.ADD_SEQUENCE)
        }
        staying = replace(
            table,
            indexes=tuple(i for i in table.indexes if i.name not in coming[StepKind.ADD_INDEX]),
            constraints=tuple(c for c in table.constraints if c.name not in coming[StepKind.ADD_CONSTRAINT]),
            sequences=tuple(s for s in table.sequences if s.name not in coming[StepKind.ADD_SEQUENCE]),
        )
        self._come_anew(old, staying)

    def _come_anew(self, old: Table, table: TableDef) -> None:
        """The catalogue's rows of a table with an id that is new."""
        name = table.name
        reserved = {row.sequence_name: row.allocated for row in self._catalogue.forget_table(old.table_id, name)}
        reserved |= {s.definition.name: s.allocated for s in old.sequences if s.is_bound}
        table_id = self.table_ids[name] = self._catalogue.add_table(table)
        for sequence in table.sequences:
            if sequence.name in reserved:
                key = {"table_id": table_id, "sequence_name": sequence.name}
                self._catalogue.change(ST_SEQUENCE_ID, key, allocated=reserved[sequence.name])

    def _change_index_source_name(self, step: Step) -> None:
        self._told(step)
        assert isinstance(step.part, IndexDef)
        self._catalogue.remove(ST_INDEX_ACCESSOR_ID, index_name=step.name)
        self._catalogue.add(ST_INDEX_ACCESSOR_ID, StIndexAccessor(step.name, step.part.source_name))

    def _change_table_accessor_name(self, step: Step) -> None:
        self._told(step)
        self._catalogue.remove(ST_TABLE_ACCESSOR_ID, table_name=step.name)
        self._catalogue.add(ST_TABLE_ACCESSOR_ID, StTableAccessor(step.name, step.table.accessor_name))

    def _change_column_accessor_name(self, step: Step) -> None:
        self._told(step)
        column = step.part
        assert isinstance(column, ColumnDef)
        self._catalogue.remove(ST_COLUMN_ACCESSOR_ID, table_name=step.name, col_name=column.name)
        self._catalogue.add(ST_COLUMN_ACCESSOR_ID, StColumnAccessor(step.name, column.name, column.accessor_name))

    def _add_table(self, step: Step) -> None:
        self._told(step)
        self.table_ids[step.name] = self._catalogue.add_table(step.table)

    def _add_index(self, step: Step) -> None:
        self._told(step)
        index, table = step.part, step.table
        assert isinstance(index, IndexDef)
        if index.is_unique:
            twice = self._duplicates(step, index.columns)
            if twice:
                names = json.dumps([table.columns[c].name for c in index.columns], ensure_ascii=False)
                t, value = _of_columns(table, index.columns, next(iter(twice)))
                raise MigrationFailed(
                    f"DatastoreError: IndexError: Unique constraint violation '{index.name}' in table '{table.name}': "
                    f"column(s): '{names}' value: {satn_text(t)(value)}"
                )
        self._catalogue.add_index(self.table_ids[table.name], index)

    def _add_constraint(self, step: Step) -> None:
        self._told(step)
        constraint, table = step.part, step.table
        assert isinstance(constraint, UniqueDef)
        table_id = self.table_ids[table.name]
        twice = self._duplicates(step, constraint.columns)
        if twice:
            lines = []
            for key, times in list(twice.items())[:MAX_DUPLICATES_TOLD]:
                t, value = _of_columns(table, constraint.columns, key)
                lines.append(f"\n  - {debug_line(t, codec(shape_of(t)).encode(value))} appears {times} times")
            columns = ", ".join(f"ColId({c})" for c in constraint.columns)
            raise MigrationFailed(
                f"DatastoreError: Cannot add unique constraint on table {table_id} column(s) [{columns}] "
                f"(committed state):\n{len(twice)} duplicate group(s) found.{''.join(lines)}"
            )
        self._catalogue.add_constraint(table_id, constraint)

    def _add_sequence(self, step: Step) -> None:
        self._told(step)
        assert isinstance(step.part, SequenceDef)
        self._catalogue.add_sequence(self.table_ids[step.table.name], step.part)

    def _add_schedule(self, step: Step) -> None:
        raise MigrationFailed("Adding schedules is not yet implemented")

    def _add_view(self, step: Step) -> None:
        self._catalogue.add_view(step.view)
        self.table_ids[step.name] = self._catalogue.result.table_ids[step.name]

    def _add_row_filter(self, step: Step) -> None:
        self._told(step)
        catalog = SchemaCatalog(self._plan.new, self.table_ids, owner=True)
        try:
            protected = protected_table(step.name, catalog)
        except SqlError as error:
            raise MigrationFailed(str(error)) from None
        self._catalogue.add(ST_ROW_LEVEL_SECURITY_ID, StRowLevelSecurity(protected.table_id, step.name))

    def _change_access(self, step: Step) -> None:
        is_public = step.new_view.is_public if step.new_view is not None else step.table.is_public
        access = "public" if is_public else "private"
        self._catalogue.change(ST_TABLE_ID, {"table_id": self.table_ids[step.name]}, table_access=access)

    def _change_primary_key(self, step: Step) -> None:
        self._told(step)
        key = step.table.primary_key
        columns = None if key is None else [key]
        self._catalogue.change(ST_TABLE_ID, {"table_id": self.table_ids[step.name]}, table_primary_key=columns)

    def _change_durability(self, step: Step) -> None:
        """Nothing of it is in the catalogue: the program says it."""
        self._told(step)

    def _update_view(self, step: Step) -> None:
        """Nothing of it is stored: its instances are computed by the new program."""

    def _disconnect_all_users(self, step: Step) -> None:
        """Whoever installs the program does it, once it runs."""
        self._told(step)

    # -- rows

    def _images(self, step: Step) -> list[bytes]:
        """The table's rows as they will be: defaults of new columns appended."""
        old, new = step.old_table, step.new_table
        assert old is not None
        assert new is not None
        images = self._store.tables[self._old_ids[old.name]].images()
        defaults = b"".join(column.default or b"" for column in new.columns[len(old.columns) :])
        return [image + defaults for image in images] if defaults and not new.is_event else images

    def _rows(self, step: Step) -> list[tuple[Any, ...]]:
        decode = codec(shape_of(step.table.row_type)).decode
        return [decode(image, 0)[0] for image in self._images(step)]

    def _duplicates(self, step: Step, columns: tuple[int, ...]) -> dict[Any, int]:
        """Values that several rows have in these columns, with the number of rows, in the order of the rows."""
        counts = Counter(map(itemgetter(*columns), self._rows(step)))
        return {value: times for value, times in counts.items() if times > 1}

    # -- tables

    def _make_tables(self) -> None:
        store = self._store
        old = self._plan.old.tables_by_name
        gone = {self._old_ids[name] for name in old} | set(self._dropped_views)
        tables = {table_id: table for table_id, table in store.tables.items() if table_id not in gone}
        moving = {step.name: step for step in self._plan.steps if step.kind is StepKind.ADD_COLUMNS}
        replaced = {step.name for step, _ in self._replaced}
        for definition in self._plan.new.all_tables:
            name = definition.name
            table_id, shape = self.table_ids[name], self._shapes[name]
            if name in moving:
                before = store.tables[self._old_ids[name]]
                table = store.successor(before, table_id, definition, shape, self._images(moving[name]))
                self._moved.append((before, table))
            elif name in replaced:
                before = store.tables[self._old_ids[name]]
                table = store.successor(before, table_id, definition, shape, [])
            elif name in old:
                table = tables[table_id] = store.rebuilt(table_id, definition, shape)
                if table.row_count and definition.is_durable != old[name].is_durable:
                    self._changed_durability.append(table)
                continue
            else:
                table = store.fresh(table_id, definition, shape)
            self._made.append(table)
            tables[table_id] = table
        self._before = store.exchange(tables)


_STEPS: Final[dict[StepKind, Callable[[Migration, Step], None]]] = {
    StepKind.REMOVE_INDEX: Migration._remove_index,
    StepKind.REMOVE_CONSTRAINT: Migration._remove_constraint,
    StepKind.REMOVE_SEQUENCE: Migration._remove_sequence,
    StepKind.REMOVE_SCHEDULE: Migration._remove_schedule,
    StepKind.REMOVE_VIEW: Migration._remove_view,
    StepKind.REMOVE_ROW_FILTER: Migration._remove_row_filter,
    StepKind.REMOVE_TABLE: Migration._remove_table,
    StepKind.REPLACE_TABLE: Migration._replace_table,
    StepKind.CHANGE_COLUMNS: Migration._change_columns,
    StepKind.RESCHEMA_EVENT_TABLE: Migration._change_columns,
    StepKind.ADD_COLUMNS: Migration._add_columns,
    StepKind.CHANGE_INDEX_SOURCE_NAME: Migration._change_index_source_name,
    StepKind.CHANGE_TABLE_ACCESSOR_NAME: Migration._change_table_accessor_name,
    StepKind.CHANGE_COLUMN_ACCESSOR_NAME: Migration._change_column_accessor_name,
    StepKind.ADD_TABLE: Migration._add_table,
    StepKind.ADD_INDEX: Migration._add_index,
    StepKind.ADD_CONSTRAINT: Migration._add_constraint,
    StepKind.ADD_SEQUENCE: Migration._add_sequence,
    StepKind.ADD_SCHEDULE: Migration._add_schedule,
    StepKind.ADD_VIEW: Migration._add_view,
    StepKind.ADD_ROW_FILTER: Migration._add_row_filter,
    StepKind.CHANGE_ACCESS: Migration._change_access,
    StepKind.CHANGE_PRIMARY_KEY: Migration._change_primary_key,
    StepKind.CHANGE_DURABILITY: Migration._change_durability,
    StepKind.UPDATE_VIEW: Migration._update_view,
    StepKind.DISCONNECT_ALL_USERS: Migration._disconnect_all_users,
}


def _leaving(old: Table) -> TableDelta:
    """All rows of a table are gone."""
    images, refs = old.images(), list(old.refs_by_key.values())
    return TableDelta(old.table_id, old.flags | TRUNCATED, old.row_length, images, [], refs, [])


def _moving(old: Table, new: Table) -> list[TableDelta]:
    """What moving the rows of a table to another id means: all of the old are gone, all of the new have come."""
    if not old.refs_by_key:
        return []
    come, new_refs = new.images(), list(new.refs_by_key.values())
    return [
        _leaving(old),
        TableDelta(new.table_id, new.flags, new.row_length, [], come, [], new_refs),
    ]


def _logged_anew(table: Table) -> TableDelta:
    """What the log must hold when rows that stay where they are begin or cease to be durable."""
    images = table.images()
    if table.definition.is_durable:
        return TableDelta(table.table_id, LOG_ONLY, table.row_length, [], images, [], [])
    return TableDelta(table.table_id, LOG_ONLY | TRUNCATED, table.row_length, images, [], [], [])


def _largest(t: AlgebraicType) -> int:
    """The largest value of an integer type."""
    assert isinstance(t, Primitive)
    bits = int(t.kind[1:])
    return (1 << bits - (t.kind[0] == "I")) - 1


def _of_columns(table: TableDef, columns: tuple[int, ...], key: Any) -> tuple[AlgebraicType, Any]:
    """Type and value of what `itemgetter(*columns)` gives for a row: of several columns a product."""
    elements = tuple(table.row_type.elements[column] for column in columns)
    return (elements[0].algebraic_type if len(elements) == 1 else Product(elements)), key
