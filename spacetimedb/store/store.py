"""The store: all tables of one database, and the transaction that runs on them.

There is one transaction at a time and nobody else looks meanwhile, so it has no object of its own: writes go to the
tables, `commit` makes them final and tells what changed, `rollback` undoes them. `dirty` holds the tables that the
running transaction has written to; it is the only thing looked at when nothing happened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as SequenceOf
from typing import Any, NamedTuple

import msgspec

from spacetimedb.module.errors import ReducerError, UniqueViolation
from spacetimedb.schema.definition import TableDef
from spacetimedb.schema.system_tables import ST_SEQUENCE_ID
from spacetimedb.types.shapes import ProductShape

from .commit_record import TableDelta
from .database_handle import Db
from .limits import MAX_ROW_BYTES, MAX_ROWS_PER_TRANSACTION
from .sequences import Sequence
from .table import Heap, Table
from .violations import IndexViolation


class TableStatistics(msgspec.Struct, frozen=True):
    """Committed rows of a table and the bytes of their BSATN."""

    name: str
    rows: int
    bytes: int


class Mark(NamedTuple):
    """The state of all sequences at a moment: value, allocated, whether and to which row each is bound."""

    sequences: list[tuple[Sequence, int, int, bool, int | None]]
    behind: set[Sequence]


class Store:
    """Tables by id and by canonical name. Not thread-safe: one transaction at a time."""

    def __init__(
        self,
        heap: Heap,
        *,
        max_rows_per_transaction: int = MAX_ROWS_PER_TRANSACTION,
        max_row_bytes: int = MAX_ROW_BYTES,
    ) -> None:
        self.heap = heap
        self.tables: dict[int, Table] = {}
        self.by_name: dict[str, Table] = {}
        self.dirty: list[Table] = []
        self.max_rows_per_transaction = max_rows_per_transaction
        self.max_row_bytes = max_row_bytes
        self._moved: set[Sequence] = set()
        """Sequences that this transaction reserved numbers for."""
        self._behind: set[Sequence] = set()
        """Sequences whose row in st_sequence lags, because the transaction that wrote it was rolled back."""

    # Tables

    def add_table(self, table_id: int, definition: TableDef, shape: ProductShape) -> Table:
        """Creates an empty table.

        Raises ValueError if the id or name is taken, or a column cannot be the key that the definition makes it.
        """
        if table_id in self.tables or definition.name in self.by_name:
            raise ValueError(f"table {definition.name} with id {table_id} exists already")
        table = self._make(table_id, definition, shape)
        self.tables[table_id] = self.by_name[definition.name] = table
        return table

    # Tables beside the present ones: for changes of several tables that happen together or not at all

    def rebuilt(self, table_id: int, definition: TableDef, shape: ProductShape) -> Table:
        """The table with another row class or other indexes, of the same column types; the store stays as it is.

        Rows keep their refs, sequences their state. Raises ValueError if the rows violate a new unique index. Once it
        is in the store (`exchange`), handles of the old table must not be used any more.
        """
        old = self.tables[table_id]
        table = self._make(table_id, definition, shape, old.sequences)
        table.adopt_from(old)
        return table

    def successor(
        self, old: Table, table_id: int, definition: TableDef, shape: ProductShape, images: SequenceOf[bytes]
    ) -> Table:
        """A table with an id and refs of its own that goes on with the old one's sequences, which must have rows in
        st_sequence already; not in the store. Raises ValueError, UniqueViolation."""
        table = self._make(table_id, definition, shape)
        known = {sequence.definition: sequence for sequence in old.sequences}
        for sequence in table.sequences:
            self._bind(sequence)
            before = known.get(sequence.definition)
            if before is not None and before.is_bound:
                sequence.value, sequence.allocated = before.value, before.allocated
        table.load(images)
        return table

    def fresh(self, table_id: int, definition: TableDef, shape: ProductShape) -> Table:
        """What `add_table` would make; the store stays as it is. Raises ValueError."""
        return self._make(table_id, definition, shape)

    def exchange(self, tables: Mapping[int, Table]) -> dict[int, Table]:
        """Makes these the tables of the store and returns those of before: exchanging again undoes it.

        Rows of tables that are gone stay in the heap until `retire`.
        """
        before = dict(self.tables)
        self.tables.clear()
        self.by_name.clear()
        for table_id, table in tables.items():
            self.tables[table_id] = self.by_name[table.name] = table
        return before

    def retire(self, table: Table) -> None:
        """Retires the rows of a table that is in the store no more. It must have no uncommitted changes."""
        table.drop()
        self._moved.difference_update(table.sequences)
        self._behind.difference_update(table.sequences)

    def discard(self, table: Table) -> None:
        """Gives back the rows of a table that nobody has ever seen: one of `fresh` or `successor`."""
        self.heap.release(list(table.refs_by_key.values()))
        self._moved.difference_update(table.sequences)
        self._behind.difference_update(table.sequences)

    def _make(
        self,
        table_id: int,
        definition: TableDef,
        shape: ProductShape,
        existing: tuple[Sequence, ...] = (),
    ) -> Table:
        """A table that the store does not know yet; it goes on with `existing` sequences of the same definition."""
        known = {sequence.definition: sequence for sequence in existing}
        return Table(
            table_id,
            definition,
            shape,
            self.heap,
            self.dirty,
            [known.get(sequence) or Sequence(sequence, table_id, self._reserve) for sequence in definition.sequences],
            max_rows=self.max_rows_per_transaction,
            max_row_bytes=self.max_row_bytes,
        )

    # Transactions

    def commit(self) -> list[TableDelta]:
        """Makes the transaction's changes final. Returns the net change of each table that has one, ascending by id.

        If it raises (ValueError: a value does not fit its column; ReducerError: a limit; HeapFull) nothing is final
        yet: call `rollback`. Complexity: O(rows touched).
        """
        dirty = self.dirty
        if not dirty:
            return []
        if self._behind:
            for sequence in list(self._behind):
                self._write_row(sequence)
        if len(dirty) == 1:
            prepared = dirty[0].prepare()
            dirty[0].finish(*prepared)
            dirty.clear()
            delta = prepared[0]
            deltas = [] if delta is None else [delta]
        else:
            deltas = self._commit_several()
        if self._moved or self._behind:
            self._moved.clear()
            self._behind.clear()
        return deltas

    def _commit_several(self) -> list[TableDelta]:
        dirty = self.dirty
        dirty.sort(key=_table_id)
        if sum(max(0, len(t.touched) - len(t.refs_by_key)) for t in dirty) > self.max_rows_per_transaction:
            raise ReducerError(f"a transaction may add at most {self.max_rows_per_transaction} rows")
        prepared = []
        try:
            for table in dirty:
                prepared.append(table.prepare())
        except BaseException:
            for delta, _, _ in prepared:
                if delta is not None:
                    self.heap.release(delta.inserted_refs)
            raise
        for table, change in zip(dirty, prepared, strict=True):
            table.finish(*change)
        dirty.clear()
        return [delta for delta, _, _ in prepared if delta is not None]

    def rollback(self) -> None:
        """Undoes the transaction's changes; the numbers that it took from sequences stay taken."""
        for table in self.dirty:
            table.rollback()
        self.dirty.clear()
        if self._moved:
            self._behind |= self._moved
            self._moved.clear()

    def mark(self) -> Mark:
        """Where a transaction begins, to `go_back` to."""
        states = [
            (sequence, sequence.value, sequence.allocated, sequence.is_bound, sequence.row_id)
            for table in self.tables.values()
            for sequence in table.sequences
        ]
        return Mark(states, set(self._behind))

    def go_back(self, mark: Mark) -> None:
        """`rollback`, and the numbers taken from sequences since the mark will be given again."""
        self.rollback()
        for sequence, value, allocated, is_bound, row_id in mark.sequences:
            sequence.value, sequence.allocated = value, allocated
            sequence.is_bound, sequence.row_id = is_bound, row_id
        self._behind = set(mark.behind)

    # Sequences

    def _reserve(self, sequence: Sequence) -> None:
        """Reserves numbers for a sequence and writes its row in st_sequence, if there is one."""
        if not sequence.is_bound:
            self._bind(sequence)
            if sequence.value != sequence.allocated:
                return
        sequence.advance()
        self._allocated(sequence)

    def resume(self, table_id: int, next_value: int) -> None:
        """The numbers of the table's one sequence go on here; its row in st_sequence has reserved them."""
        (sequence,) = self.tables[table_id].sequences
        self._bind(sequence)
        sequence.value = next_value

    def skip_past(self, sequence: Sequence, number: int) -> None:
        """The sequence gives no number up to this one any more, also after a restart; part of the transaction."""
        if not sequence.is_bound:
            self._bind(sequence)
        definition = sequence.definition
        if definition.increment != 1 or not sequence.value <= number < definition.maximum:
            return  # it has passed it, or goes another way
        sequence.value = number + 1
        if sequence.allocated <= number:
            sequence.allocated = number + 1
            self._allocated(sequence)

    def _allocated(self, sequence: Sequence) -> None:
        """Writes down how far numbers are reserved. If that fails, the next commit does it: module code may go on."""
        self._moved.add(sequence)
        self._behind.add(sequence)
        self._write_row(sequence)
        self._behind.discard(sequence)

    def _bind(self, sequence: Sequence) -> None:
        """Takes over the state that st_sequence has for it."""
        table = self.tables.get(ST_SEQUENCE_ID)
        for row in table.reader.iter() if table is not None else ():
            if (row.table_id, row.col_pos) == (sequence.table_id, sequence.column):
                sequence.row_id = row.sequence_id
                sequence.value = sequence.allocated = row.allocated
        sequence.is_bound = True

    def _write_row(self, sequence: Sequence) -> None:
        table = self.tables.get(ST_SEQUENCE_ID)
        if table is None or sequence.row_id is None:
            return
        rows = table.handle.sequence_id
        row = rows.find(sequence.row_id)
        if row is not None and row.allocated != sequence.allocated:
            rows.update(msgspec.structs.replace(row, allocated=sequence.allocated))

    # Handles

    def db(self, bindings: Mapping[object, Table]) -> Db:
        """`ctx.db` of reducers: read-write handles by the object (row class) that module code uses for the table."""
        return Db.of({key: (table, table.handle) for key, table in bindings.items()})

    def read_only_db(
        self,
        bindings: Mapping[object, Table],
        record: Callable[[tuple[int, int | None, Any]], object] | None = None,
    ) -> Db:
        """`ctx.db` of views. `record` is told of everything that is read (see `Table.recording_reader`)."""
        return Db.of(
            {
                key: (table, table.reader if record is None else table.recording_reader(record))
                for key, table in bindings.items()
            }
        )

    def explain_violation(self, error: UniqueViolation) -> str:
        """The text of a violation for SQL answers and logs, with index, columns and value."""
        table = self.by_name.get(error.table)
        return str(error) if table is None or not isinstance(error, IndexViolation) else table.explain_violation(error)

    # Inspection

    def statistics(self) -> list[TableStatistics]:
        """Committed rows and bytes per table, ascending by id. O(rows) for tables whose rows differ in length."""
        found = []
        for table_id in sorted(self.tables):
            table = self.tables[table_id]
            count = len(table.refs_by_key)
            size = count * table.row_length if table.row_length else sum(map(len, table.images()))
            found.append(TableStatistics(table.name, count, size))
        return found

    def _check(self) -> None:
        """Raises AssertionError unless every table's rows, indexes, refs and heap agree. O(everything)."""
        refs: set[int] = set()
        for table in self.tables.values():
            table._check()
            own = set(table.refs_by_key.values())
            assert not refs & own, f"{table.name} shares refs with another table"
            refs |= own
            assert bool(table.touched) == (table in self.dirty), f"{table.name} is dirty and not noted, or the reverse"


def _table_id(table: Table) -> int:
    return table.table_id
