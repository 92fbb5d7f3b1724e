"""Recovery: from the newest snapshot and the commit log to the rows of every table.

    state = recover(directory, snapshots)      # RecoveredState: rows of every table, next offset

A snapshot that is damaged, or that the log does not continue, is passed over for an older one, and at last for the
whole log; `problems` says so. What is wrong with the log itself is an error, whatever the snapshots hold.

The log describes itself. A database begins with the rows that the system tables have of themselves, which are not
logged; the record at offset 0 adds the rows that describe its own tables, and every later change of schema is a change
of such rows. `LogSchema` follows `st_table`, `st_column` and `st_event_table` while a payload is being decoded, because
rows can be cut apart only with the columns in force, and a payload may bring the columns and the rows together.

Applying a payload: all inserts, then all deletes, then the truncates; unique columns are not looked at, they hold again
at the end of the payload. A row is its BSATN bytes. Strictly: inserting a row that is there, deleting one that is not,
and rows of unknown tables are errors (ReplayError); the state is then not what the writer had. The exceptions

* Rows of system tables that are there already may be inserted again (they describe system tables).
* Event tables keep nothing: their rows are cut out and dropped.
* A table whose `st_table` row goes without being replaced is dropped with all its rows; what the same payload says
  about its rows is ignored.
* Inputs and outputs are ignored: recovery runs no reducers.

Unless told where it is, the state before offset 0 is that of `schema.system_catalogue.bootstrap_rows`.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from struct import Struct, unpack_from
from struct import error as StructError
from typing import Final

from spacetimedb.log.files import OPERATING_SYSTEM, FileSystem
from spacetimedb.log.row_splitter import fixed_size, splitter
from spacetimedb.log.segments import LogDamaged, list_segments, read_commits
from spacetimedb.log.snapshot import Snapshot, SnapshotDamaged, list_snapshots, read_snapshot
from spacetimedb.log.txdata import INPUTS, MUTATIONS, OUTPUTS, Splitter, Transaction, decode_payload
from spacetimedb.schema.system_catalogue import bootstrap_rows
from spacetimedb.schema.system_tables import FIRST_USER_ID, ST_COLUMN_ID, ST_EVENT_TABLE_ID, ST_TABLE_ID, SYSTEM_TABLES
from spacetimedb.types.algebraic import Product, ProductElement, decode_type
from spacetimedb.types.bsatn import codec
from spacetimedb.types.errors import DecodeError

MOST_IN_ONE_BYTE: Final = 127
unpack_u32: Final = Struct("<I").unpack_from


class ReplayError(Exception):
    """The log is intact but its transaction at `offset` does not fit the state before it. `file` is its segment."""

    def __init__(self, offset: int, what: str, file: Path | None = None) -> None:
        super().__init__(f"{file}: transaction {offset}: {what}" if file else f"transaction {offset}: {what}")
        self.offset = offset
        self.what = what
        self.file = file


class LogSchema:
    """The tables as the log has described them so far: row types, splitters, which are event tables."""

    def __init__(self, system_tables: Mapping[int, Product]) -> None:
        self.row_types: dict[int, Product] = dict(system_tables)
        """Row type of each system table and of each table whose rows were met; use `row_type` for others."""
        self.event_tables: set[int] = set()
        self.table_rows: dict[int, bytes] = {}
        """Row of `st_table` of each table."""
        self._columns: dict[int, dict[int, bytes]] = {}
        self._splitters: dict[int, Splitter] = {table_id: splitter(t) for table_id, t in system_tables.items()}

    def row_type(self, table_id: int) -> Product:
        """Row type of a table, from its `st_column` rows. Raises DecodeError for an unknown one."""
        found = self.row_types.get(table_id)
        if found is None:
            columns = self._columns.get(table_id)
            if not columns or sorted(columns) != list(range(len(columns))):
                raise DecodeError(f"table {table_id} is unknown or lacks columns")
            elements = []
            for position in range(len(columns)):
                name, type_at = _column_name(columns[position])
                elements.append(ProductElement(name, decode_type(columns[position], type_at)[0]))
            found = self.row_types[table_id] = Product(tuple(elements))
        return found

    def splitter(self, table_id: int) -> Splitter:
        """What cuts the table's rows apart. Raises DecodeError for an unknown table."""
        found = self._splitters.get(table_id)
        if found is None:
            found = self._splitters[table_id] = splitter(self.row_type(table_id))
        return found

    def inserted(self, table_id: int, rows: Iterable[bytes]) -> None:
        """Takes note of rows inserted into a table; only three system tables matter."""
        if table_id == ST_COLUMN_ID:
            for row in rows:
                described, position = unpack_from("<IH", row)
                self._columns.setdefault(described, {})[position] = row
                if described >= FIRST_USER_ID:
                    self.row_types.pop(described, None)
                    self._splitters.pop(described, None)
        elif table_id == ST_TABLE_ID:
            for row in rows:
                self.table_rows[unpack_from("<I", row)[0]] = row
        elif table_id == ST_EVENT_TABLE_ID:
            self.event_tables.update(unpack_from("<I", row)[0] for row in rows)

    def deleted(self, table_id: int, rows: Iterable[bytes]) -> list[int]:
        """Takes note of rows deleted from a table; returns the tables that are dropped by it.

        A row that was replaced in the same payload is no longer the current one and changes nothing.
        """
        dropped: list[int] = []
        if table_id == ST_COLUMN_ID:
            for row in rows:
                described, position = unpack_from("<IH", row)
                columns = self._columns.get(described, {})
                if columns.get(position) == row:
                    del columns[position]
                    if described >= FIRST_USER_ID:
                        self.row_types.pop(described, None)
                        self._splitters.pop(described, None)
        elif table_id == ST_TABLE_ID:
            for row in rows:
                described = unpack_from("<I", row)[0]
                if self.table_rows.get(described) == row:
                    del self.table_rows[described]
                    dropped.append(described)
        elif table_id == ST_EVENT_TABLE_ID:
            self.event_tables.difference_update(unpack_from("<I", row)[0] for row in rows)
        return dropped

    def forget(self, table_id: int) -> None:
        """The table is dropped."""
        self.row_types.pop(table_id, None)
        self._splitters.pop(table_id, None)
        self._columns.pop(table_id, None)


def _column_name(row: bytes) -> tuple[str, int]:
    """Column name of an `st_column` row and where its type starts: table_id:u32 col_pos:u16 name:string type:bytes."""
    name_end = 10 + int(unpack_from("<I", row, 6)[0])
    return row[10:name_end].decode(), name_end + 4


class RecoveredState:
    """The rows of every table after some prefix of the log, and how to go on.

    `tables[table_id]` has the table's rows (BSATN) as keys in the order of their insertion; every table that `st_table`
    knows has an entry, event tables an empty one. `next_offset` is the number of transactions applied.
    """

    def __init__(self, system_tables: Mapping[int, Product], bootstrap: Mapping[int, Iterable[bytes]]) -> None:
        self.schema = LogSchema(system_tables)
        self.tables: dict[int, dict[bytes, None]] = {table_id: {} for table_id in system_tables}
        self.next_offset = 0
        self.row_operations = 0
        """Rows inserted and deleted so far, truncated ones not counted."""
        self.seconds = 0.0
        """Time that `recover` took."""
        self.snapshot_offset = 0
        """Number of transactions that came from a snapshot; 0: none."""
        self.problems: list[str] = []
        """Why better snapshots were not used."""
        self._plain: dict[int, tuple[dict[bytes, None], int]] = {}
        """Rows and row size of tables whose rows are of one size and stay; forgotten with every change of schema."""
        for table_id, rows in bootstrap.items():
            self.tables[table_id] = dict.fromkeys(rows)
            self.schema.inserted(table_id, self.tables[table_id])

    def rows(self, table_id: int) -> list[bytes]:
        """All rows of a table, in the order of their insertion."""
        return list(self.tables.get(table_id, ()))

    def decode(self, buf: bytes, at: int) -> tuple[Transaction, int]:
        """Decodes the payload at `at`, the next to be applied; returns it and its end. Raises DecodeError.

        The schema takes note of what it inserts, so a decoded payload must be applied.
        """
        schema = self.schema
        return decode_payload(buf, at, schema.splitter, schema.inserted)

    def apply(self, transaction: Transaction) -> None:
        """Applies a transaction that `decode` returned. Raises ReplayError; the state is then of no use."""
        tables = self.tables
        for table_id, rows in transaction.inserts:
            table = tables.get(table_id)
            if table is None:
                table = tables[table_id] = {}
            if table_id in self.schema.event_tables:
                continue
            if len(rows) == 1:
                before = len(table)
                table[rows[0]] = None
                if len(table) == before and table_id >= FIRST_USER_ID:
                    raise self._duplicate(table_id)
            else:
                before = len(table) + len(rows)
                table.update(dict.fromkeys(rows))
                if len(table) != before and table_id >= FIRST_USER_ID:
                    raise self._duplicate(table_id)
            self.row_operations += len(rows)
        dropped: list[int] = []
        for table_id, rows in transaction.deletes:
            if table_id < FIRST_USER_ID:
                dropped += self.schema.deleted(table_id, rows)
            elif table_id in dropped or table_id in self.schema.event_tables:
                continue
            table = tables.get(table_id)
            if table is None:
                raise ReplayError(self.next_offset, f"deletes from table {table_id}, which does not exist")
            try:
                for row in rows:
                    del table[row]
            except KeyError:
                raise self._missing(table_id) from None
            self.row_operations += len(rows)
        for table_id in transaction.truncates:
            if table_id in dropped:
                continue
            table = tables.get(table_id)
            if table is None:
                raise ReplayError(self.next_offset, f"truncates table {table_id}, which does not exist")
            if table_id < FIRST_USER_ID:
                dropped += self.schema.deleted(table_id, table)
            table.clear()
        for table_id in dropped:
            tables.pop(table_id, None)
            self.schema.forget(table_id)
        self.next_offset += 1

    def advance(self, buf: bytes, at: int) -> int:
        """Decodes and applies the payload at `at`, the next one; returns its end. Raises DecodeError, ReplayError.

        Most payloads change a few rows of fixed size: those are cut out and applied here, without the detour over a
        Transaction. Everything else goes that way, and nothing has changed before that is known.
        """
        try:
            end = self._advance_plainly(buf, at)
        except (StructError, IndexError):
            end = 0
        if end:
            self.next_offset += 1
            return end
        transaction, end = self.decode(buf, at)
        self.apply(transaction)
        for changed in (transaction.inserts, transaction.deletes):
            if changed and changed[0][0] < FIRST_USER_ID:
                self._plain.clear()
        if transaction.truncates and transaction.truncates[0] < FIRST_USER_ID:
            self._plain.clear()
        return end

    def _advance_plainly(self, buf: bytes, at: int) -> int:
        """0 if it cannot be done in this way. Raises ReplayError; StructError and IndexError for a cut payload."""
        flags = buf[at]
        if flags & OUTPUTS or not flags & MUTATIONS:
            return 0
        at += 1
        if flags & INPUTS:
            at += 4 + unpack_u32(buf, at)[0]
        plain = self._plain
        inserts: list[tuple[dict[bytes, None], list[bytes], int]] = []
        deletes: list[tuple[dict[bytes, None], list[bytes], int]] = []
        for groups in (inserts, deletes):
            count = buf[at]
            at += 1
            if count > MOST_IN_ONE_BYTE:
                return 0
            while count:
                table_id = unpack_u32(buf, at)[0]
                rows = buf[at + 4]
                found = plain.get(table_id) or self._find_plain(table_id)
                if rows > MOST_IN_ONE_BYTE or found is None:
                    return 0
                table, size = found
                start = at + 5
                at = start + rows * size
                groups.append((table, [buf[i : i + size] for i in range(start, at, size)], table_id))
                count -= 1
        if buf[at]:  # truncated tables; the byte also shows that no row is cut short
            return 0
        for table, images, table_id in inserts:
            expected = len(table) + len(images)
            for image in images:
                table[image] = None
            if len(table) != expected:
                raise self._duplicate(table_id)
            self.row_operations += len(images)
        for table, images, table_id in deletes:
            try:
                for image in images:
                    del table[image]
            except KeyError:
                raise self._missing(table_id) from None
            self.row_operations += len(images)
        return at + 1

    def _find_plain(self, table_id: int) -> tuple[dict[bytes, None], int] | None:
        table = self.tables.get(table_id)
        if table is None or table_id < FIRST_USER_ID or table_id in self.schema.event_tables:
            return None
        size = fixed_size(self.schema.row_type(table_id))
        if not size:
            return None
        self._plain[table_id] = table, size
        return table, size

    def _duplicate(self, table_id: int) -> ReplayError:
        return ReplayError(self.next_offset, f"inserts a row of table {table_id} that is there already")

    def _missing(self, table_id: int) -> ReplayError:
        return ReplayError(self.next_offset, f"deletes a row of table {table_id} that is not there")

    def finish(self) -> None:
        """Gives every table of `st_table` its entry, also those that never had a row."""
        for table_id in self.schema.table_rows:
            self.tables.setdefault(table_id, {})


def _system_row_types() -> dict[int, Product]:
    return {table.table_id: table.definition.row_type for table in SYSTEM_TABLES}


def snapshot_state(snapshot: Snapshot) -> RecoveredState:
    """The state that a snapshot holds. Raises SnapshotDamaged."""
    state = RecoveredState(_system_row_types(), {})
    schema = state.schema
    try:
        for table_id, chunks in snapshot.tables():
            rows: list[bytes] = []
            for chunk in chunks:
                part, end = schema.splitter(table_id)(chunk.rows, 0, chunk.count)
                if end != len(chunk.rows):
                    raise SnapshotDamaged(snapshot.path, f"rows of table {table_id} have a wrong length")
                if table_id < FIRST_USER_ID:
                    schema.inserted(table_id, part)
                rows += part
            table = state.tables[table_id] = dict.fromkeys(rows)
            if len(table) != len(rows):
                raise SnapshotDamaged(snapshot.path, f"a row of table {table_id} comes twice")
    except (DecodeError, StructError, IndexError) as error:
        raise SnapshotDamaged(snapshot.path, str(error)) from error
    state.next_offset = state.snapshot_offset = snapshot.next_offset
    return state


def initial_state() -> RecoveredState:
    """The state of a database before its first transaction: system tables that describe themselves."""
    encoders = {table.table_id: codec(table.shape).encode for table in SYSTEM_TABLES}
    rows = {table_id: [encoders[table_id](row) for row in rows] for table_id, rows in bootstrap_rows().items()}
    return RecoveredState(_system_row_types(), rows)


def replay(
    directory: Path, state: RecoveredState, files: FileSystem = OPERATING_SYSTEM, until: int | None = None
) -> None:
    """Applies the rest of the log to `state`.

    `until`: stop after so many transactions and do not look at what follows; the log may be growing meanwhile.
    Raises LogDamaged, ReplayError.
    """
    if until is not None and state.next_offset >= until:
        return
    advance = state.advance
    for path, commit in read_commits(files, directory, state.next_offset):
        body, at = commit.body, commit.at
        try:
            if commit.offset != state.next_offset:
                raise ReplayError(state.next_offset, "begins inside a commit")
            for _ in range(commit.n):
                at = advance(body, at)
            if at != len(body):
                raise DecodeError(f"{len(body) - at} bytes behind the last record")
        except DecodeError as error:
            raise ReplayError(state.next_offset, f"failed to decode tx record: {error}", path) from error
        except ReplayError as error:
            raise ReplayError(error.offset, error.what, path) from error
        if state.next_offset == until:
            return


def starting_state(directory: Path, snapshots: Path | None, files: FileSystem = OPERATING_SYSTEM) -> RecoveredState:
    """The newest state from which the log can be replayed: that of a snapshot, or the initial one.

    Raises LogDamaged if the log does not begin at offset 0 and no snapshot can be used, OSError.
    """
    problems: list[str] = []
    found = list_snapshots(files, snapshots) if snapshots is not None else []
    try:
        segments = list_segments(files, directory)
    except FileNotFoundError:
        segments = []
    if found and not segments:
        raise LogDamaged(directory, 0, 0, f"the log is missing, but {found[0][0]} transactions were durable")
    for next_offset, path in found:
        if segments[0][0] > next_offset:
            problems.append(f"{path}: the log begins behind it, at offset {segments[0][0]}")
            break
        try:
            state = snapshot_state(read_snapshot(files, path))
        except (SnapshotDamaged, OSError) as error:
            problems.append(str(error))
            continue
        state.problems = problems
        return state
    if segments and segments[0][0]:
        first, path = segments[0]
        missing = f"the log begins at offset {first} and no snapshot that it continues can be used"
        raise LogDamaged(path, 0, 0, "; ".join([missing, *problems]))
    state = initial_state()
    state.problems = problems
    return state


def recover(directory: Path, snapshots: Path | None = None, files: FileSystem = OPERATING_SYSTEM) -> RecoveredState:
    """The state at the end of the log in `directory`. A missing or empty log gives the initial state (`next_offset` 0).

    `snapshots` is the directory of its snapshots. Raises LogDamaged, ReplayError, OSError.
    """
    started = time.monotonic()
    collects = gc.isenabled()
    gc.disable()  # millions of objects are made here and none of them is garbage
    try:
        state = starting_state(directory, snapshots, files)
        try:
            replay(directory, state, files)
        except FileNotFoundError:
            if state.next_offset:
                raise
    finally:
        if collects:
            gc.enable()
    state.finish()
    state.seconds = time.monotonic() - started
    return state
