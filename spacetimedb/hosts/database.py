"""One database: the core of the transaction actor, without processes, sockets or files.

Requests go in one at a time; what happened comes out as records (`store/commit_record.py`, `hosts/mail.py`) in `out`,
in order, ready for the commit ring. Whoever drives it (the actor process, `TestHost`) takes `out`, feeds requests and
calls `run_due` when `next_due_us` has come. Nothing here waits.

Rules kept here:
* one transaction per call: commit when the function returns, undo everything when it raises;
* a client exists from its `connect` to its `disconnect`: its rows in `st_client` and `st_connection_credentials` are
  written in the same transaction as the hooks, and are gone after `disconnect` whatever the hook does;
* timestamps rise by at least a microsecond from call to call, so that no two calls draw the same random numbers;
* the text of an exception that is no `ReducerError` goes to the module log, never to a client.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct as Layout
from time import perf_counter_ns
from typing import Any, Final

import msgspec

from spacetimedb.hosts import mail
from spacetimedb.hosts.budget import NO_CALL, Budget
from spacetimedb.hosts.figures import INTERNAL, SQL, Changes, DatabaseFigures
from spacetimedb.hosts.mail import Outcome
from spacetimedb.hosts.memory_reserve import MemoryReserve
from spacetimedb.hosts.module_log import ModuleLog, text_of
from spacetimedb.hosts.procedures import Procedures
from spacetimedb.hosts.row_import import import_rows
from spacetimedb.hosts.schedule_table import ScheduleTable
from spacetimedb.hosts.scheduler import Job
from spacetimedb.hosts.schedules import Schedules
from spacetimedb.hosts.statements import run_statement
from spacetimedb.hosts.view_evaluation import ViewFailed
from spacetimedb.hosts.views import Views
from spacetimedb.memory.figures import Board, Histogram
from spacetimedb.memory.heap import RowHeap
from spacetimedb.module import Module
from spacetimedb.module.context import ReducerContext
from spacetimedb.module.errors import BudgetExceeded, ReducerError, UniqueViolation
from spacetimedb.schema.definition import ModuleDef
from spacetimedb.schema.system_tables import ST_CLIENT_ID, ST_CONNECTION_CREDENTIALS_ID
from spacetimedb.sql.errors import SqlError
from spacetimedb.store.commit_record import (
    INPUTS_AND_MUTATIONS,
    LOGGED,
    MUTATIONS_ONLY,
    NO_READER,
    NO_REDUCER,
    SILENT,
    UNLOGGED,
    TableDelta,
    build_commit,
)
from spacetimedb.store.store import Store
from spacetimedb.store.table import Table
from spacetimedb.types.errors import DecodeError
from spacetimedb.types.special import ConnectionId, Identity, Timestamp

FATAL: Final = "The instance encountered a fatal error."
OUT_OF_ENERGY: Final = "reducer ran out of energy"
OUT_OF_MEMORY: Final = "out of memory: the call wanted more than this database may have (`spacetime start --memory-mb`)"
CONNECT_NAME: Final = "call_identity_connected"
DISCONNECT_NAME: Final = "call_identity_disconnected"
NO_CONNECTION: Final = ConnectionId(bytes(16))

_I64: Final = Layout("<q")


class Caller(msgspec.Struct, gc=False):
    """Who calls: an identity, and the connection it came over (None for the database itself).

    `reader`, `connection` are the reader's slot and its number for the connection; they come back in the answers.
    """

    identity: Identity
    connection_id: ConnectionId | None
    reader: int
    connection: int
    log_key: bytes
    """Identity and connection id as the log's inputs begin with them (48 bytes)."""


def caller(
    identity: Identity, connection_id: ConnectionId | None, reader: int = NO_READER, connection: int = 0
) -> Caller:
    """A Caller with its log key."""
    return Caller(identity, connection_id, reader, connection, bytes(identity) + bytes(connection_id or NO_CONNECTION))


class Reducer(msgspec.Struct, gc=False):
    """A reducer ready to run: `decode(args, 0)` gives the tuple of arguments."""

    id: int
    name: str
    function: Callable[..., object]
    decode: Callable[[bytes, int], tuple[tuple[Any, ...], int]]
    is_private: bool
    lifecycle: str | None
    log_name: bytes
    """Length byte and name, as the log's inputs hold them."""
    elapsed: Histogram
    """Durations of its committed calls."""
    changed: Changes
    """What they have changed."""


class DatabaseContext:
    """What contexts see of their database."""

    def __init__(self, identity: Identity, log: ModuleLog, claims: Callable[[ConnectionId], str | None]) -> None:
        self.identity = identity
        self.logger = log.logger
        self.claims = claims
        self.view_db: Any = None


class Database:
    """Tables, module, clients and schedules of one database. See the head of the module.

    `clock` gives microseconds since the epoch. `horizon` is the number of logged transactions so far.
    """

    def __init__(
        self,
        identity: Identity,
        owner: Identity,
        heap: RowHeap,
        clock: Callable[[], int],
        board: Board | None = None,
    ) -> None:
        self.identity = identity
        self.owner = owner
        self.heap = heap
        self.store = Store(heap)
        self.figures = DatabaseFigures(board or Board.private(), self.store)
        self.out: list[bytes] = []
        self.horizon = 0
        self.calls = 0
        self.errors = 0
        self.reducer_micros = 0
        self.budget = Budget()
        self.memory = MemoryReserve()
        self.log = ModuleLog(clock)
        self.schedules = Schedules(clock)
        self.clients: dict[tuple[int, int], Caller] = {}
        self._sockets: dict[bytes, int] = {}
        """Clients with the same identity and connection id, by both (`Caller.log_key`)."""
        self.module: Module
        self.definition: ModuleDef
        self.reducers: list[Reducer] = []
        self.by_name: dict[str, Reducer] = {}
        self.db: Any = None
        self.tables: dict[object, Table] = {}
        """Tables of the module by what module code calls them with."""
        self.raw_definition = b""
        self.table_ids: dict[str, int] = {}
        self.program_hash = b""
        self.checks_determinism = False
        """Reducers run twice (see `determinism`)."""
        self.now_us = clock
        self.generation = -1
        """Number of the program, modulo mail.GENERATIONS."""
        self._signatures: dict[int, list[tuple[str, object]]] = {}
        """Name and parameters of the reducers by id in each generation."""
        self._clock = clock
        self._last_us = 0
        self._on_connect: Reducer | None = None
        self._on_disconnect: Reducer | None = None
        self._self = caller(identity, None)
        self._context = DatabaseContext(identity, self.log, self.claims_of)
        self.procedures = Procedures(self)
        self.views = Views(self, self._context)
        self.commit: Callable[[], list[TableDelta]] = self.store.commit
        """Makes a transaction final; `views` puts its own in this place while a view is in use."""

    def install(
        self,
        module: Module,
        definition: ModuleDef,
        raw_definition: bytes,
        table_ids: dict[str, int],
        program_hash: bytes,
        reducers: list[Reducer],
        db: Any,
        tables: dict[object, Table],
    ) -> None:
        """The functions of a module, over tables that are in the store. Forgets all schedules: see `Schedules.add`."""
        self.module, self.definition, self.raw_definition = module, definition, raw_definition
        self.table_ids, self.program_hash = table_ids, program_hash
        self.figures.look_again()
        self.reducers, self.by_name = reducers, {r.name: r for r in reducers}
        self.generation = (self.generation + 1) % mail.GENERATIONS
        self._signatures[self.generation] = [(r.name, r.params) for r in definition.all_reducers]
        self.db, self.tables = db, tables
        lifecycle = {r.lifecycle: r for r in reducers}
        self._on_connect, self._on_disconnect = lifecycle.get("on_connect"), lifecycle.get("on_disconnect")
        self._context.view_db = self.store.read_only_db(tables)
        self.procedures.install(module)
        self.views.install(module.views, definition, table_ids, tables)
        self.schedules.clear()

    def new_context(self) -> DatabaseContext:
        """What contexts see, with tables of their own: `view_db` is to be set."""
        return DatabaseContext(self.identity, self.log, self.claims_of)

    # -- time

    def timestamp_us(self, at_least: int = 0) -> int:
        """The timestamp of a new call: now, but later than every timestamp before."""
        now = max(self._clock(), at_least)
        if now <= self._last_us:
            now = self._last_us + 1
        self._last_us = now
        return now

    # -- requests

    def call(self, who: Caller, reducer_id: int, request_id: int, args: bytes) -> None:
        """Runs a reducer for a client. The outcome is a commit record or an answer to (reader, connection, request)."""
        reducer = self.reducers[reducer_id]
        if reducer.is_private and (reducer.lifecycle or who.identity != self.owner):
            self._refuse_private(who, reducer, request_id)
            return
        timestamp = self._clock()
        if timestamp <= self._last_us:
            timestamp = self._last_us + 1
        self._last_us = timestamp
        try:
            values = reducer.decode(args, 0)[0]
        except DecodeError as error:
            self._bad_arguments(who, reducer, request_id, timestamp, error)
            return
        self.calls += 1
        budget = self.budget
        started = perf_counter_ns()
        self.log.function = reducer.name
        context = ReducerContext(who.identity, who.connection_id, Timestamp(timestamp), self.db, self._context)
        try:
            budget.left = budget.full
            reducer.function(context, *values)
            budget.left = NO_CALL
            deltas = self.commit()
        except BaseException as error:
            self._undo(error, reducer.name, who, request_id, timestamp, started)
            return
        duration = (perf_counter_ns() - started) // 1000
        self.reducer_micros += duration
        self.emit(
            deltas,
            self._inputs(reducer.log_name, who.log_key, timestamp, args),
            timestamp,
            who.reader,
            who.connection,
            request_id,
            reducer.id,
            duration,
            0,
        )

    def call_by_name(self, who: Caller, name: str, request_id: int, args: bytes) -> None:
        """As `call`, for a name that the reader did not know; unknown here too, it is refused and logged."""
        reducer = self.by_name.get(name)
        if reducer is not None:
            self.call(who, reducer.id, request_id, args)
            return
        self.no_such_reducer(name)
        self.answer(Outcome.NO_SUCH_REDUCER, who, request_id, self.timestamp_us(), "no such reducer")

    def call_of_old_program(self, who: Caller, generation: int, reducer_id: int, request_id: int, args: bytes) -> None:
        """A call that a reader sent before it knew of the present program: ids may mean other reducers now, and
        arguments other types."""
        name, params = self._signatures[generation][reducer_id]
        reducer = self.by_name.get(name)
        if reducer is not None and self._signatures[self.generation][reducer.id][1] != params:
            error = DecodeError("the program was replaced while the call was under way, and its parameters differ now")
            self._bad_arguments(who, reducer, request_id, self.timestamp_us(), error)
            return
        self.call_by_name(who, name, request_id, args)

    def no_such_reducer(self, name: str, kind: str = "reducer") -> None:
        """Writes the module log's line about a call of an unknown reducer or procedure."""
        self.log.system(
            f'External attempt to call nonexistent {kind} "{name}" failed. Have you run `spacetime generate` recently?',
            "Error",
            name,
        )

    def log_bad_arguments(self, name: str, kind: str = "reducer") -> None:
        """Writes the module log's line about a call whose arguments do not fit."""
        self.log.system(
            f'External attempt to call {kind} "{name}" failed, invalid arguments.\n'
            "This is likely due to a mismatched client schema, have you run `spacetime generate` recently?",
            "Error",
            name,
        )

    def call_procedure(self, who: Caller, name: str, request_id: int, args: bytes) -> None:
        """Starts a procedure for a client; the answer comes when it ends."""
        self.procedures.call(who, name, request_id, args)

    def connect(self, who: Caller, request_id: int, claims: str) -> None:
        """A client came: its rows and the module's hook in one transaction.

        Answers CONNECTED, or REFUSED with the hook's text.
        """
        timestamp = self.timestamp_us()
        started = perf_counter_ns()
        assert who.connection_id is not None
        hook = self._on_connect
        try:
            rows = self.store.tables[ST_CLIENT_ID]
            rows.handle.insert(rows.row_class(identity=int(who.identity), connection_id=int(who.connection_id)))
            rows = self.store.tables[ST_CONNECTION_CREDENTIALS_ID]
            rows.handle.insert(rows.row_class(connection_id=int(who.connection_id), jwt_payload=claims))
            if hook is not None:
                self.run(hook, who, timestamp, ())
            deltas = self.commit()
        except BaseException as error:
            text = self.rolled_back(error, hook.name if hook else CONNECT_NAME, timestamp)[1]
            self.answer(Outcome.REFUSED, who, request_id, timestamp, text, started)
            return
        self.clients[who.reader, who.connection] = who
        self._sockets[who.log_key] = self._sockets.get(who.log_key, 0) + 1
        inputs = self._inputs(log_name(CONNECT_NAME), who.log_key, timestamp, b"")
        silent = SILENT if hook is None else 0
        self.emit(deltas, inputs, timestamp, NO_READER, 0, 0, NO_REDUCER, 0, silent, always_logged=True)
        self.answer(Outcome.CONNECTED, who, request_id, timestamp, "", started)

    def disconnect(self, reader: int, connection: int) -> None:
        """A client went. Does nothing for a connection that is not known (never accepted, or gone already)."""
        who = self.clients.pop((reader, connection), None)
        if who is None:
            return
        others = self._sockets.pop(who.log_key) - 1
        if others:
            self._sockets[who.log_key] = others
        else:
            self.end_client(who)

    def end_client(self, who: Caller, with_hook: bool = True) -> None:
        """The module's hook and the removal of the client's rows, in one transaction; if the hook fails, in a second
        one."""
        identity, connection_id = int(who.identity), int(who.connection_id or NO_CONNECTION)
        clients = self.store.tables[ST_CLIENT_ID]
        row = clients.row_class(identity=identity, connection_id=connection_id)
        timestamp = self.timestamp_us()
        hook = self._on_disconnect if with_hook else None
        inputs = MUTATIONS_ONLY
        deltas: list[TableDelta] | None = None
        if hook is not None:
            try:
                self.run(hook, who, timestamp, ())
                self._remove_client_rows(row, connection_id)
                deltas = self.commit()
                inputs = self._inputs(hook.log_name, who.log_key, timestamp, b"")
            except BaseException as error:
                self.rolled_back(error, hook.name, timestamp)
        if deltas is None:
            self._remove_client_rows(row, connection_id)
            deltas = self.store.commit()
            if hook is None:
                inputs = self._inputs(log_name(DISCONNECT_NAME), who.log_key, timestamp, b"")
        silent = SILENT if hook is None else 0
        self.emit(deltas, inputs, timestamp, NO_READER, 0, 0, NO_REDUCER, 0, silent, always_logged=True)

    def reader_gone(self, reader: int) -> None:
        """A reader process ended: all its clients went."""
        self.views.reader_gone(reader)
        for slot, connection in [key for key in self.clients if key[0] == reader]:
            self.disconnect(slot, connection)

    def sql(self, who: Caller, request_id: int, text: str, is_owner: bool) -> None:
        """Runs one statement that changes rows. Answers SQL_DONE with three row counts, or SQL_ERROR."""
        self._change(who, request_id, lambda: run_statement(self, text, who.identity, is_owner))

    def import_rows(self, who: Caller, request_id: int, table: str, data: bytes) -> None:
        """Inserts rows given as BSATN, all or none. Answers as `sql`."""
        self._change(who, request_id, lambda: import_rows(self, table, data))

    def _change(self, who: Caller, request_id: int, change: Callable[[], bytes]) -> None:
        timestamp = self.timestamp_us()
        started = perf_counter_ns()
        self.log.function = None
        try:
            counts = change()
            deltas = self.commit()
            self.figures.sql.observe((perf_counter_ns() - started) // 1000)
        except SqlError as error:
            self.store.rollback()
            self.answer(Outcome.SQL_ERROR, who, request_id, timestamp, str(error), started)
            return
        except UniqueViolation as error:
            self.store.rollback()
            self.answer(Outcome.SQL_ERROR, who, request_id, timestamp, self.store.explain_violation(error), started)
            return
        except BaseException as error:
            text = self.rolled_back(error, "sql", timestamp)[1]
            self.answer(Outcome.SQL_ERROR, who, request_id, timestamp, text, started)
            return
        if deltas:
            changes = self.figures.changes(SQL)
            self.emit(deltas, MUTATIONS_ONLY, timestamp, NO_READER, 0, 0, NO_REDUCER, 0, 0, changes=changes)
        self.answer(Outcome.SQL_DONE, who, request_id, timestamp, counts, started)

    # -- schedules

    def next_due_us(self) -> int | None:
        """When `run_due` has something to do next (microseconds), or None."""
        return self.schedules.next_due_us()

    def run_due(self) -> bool:
        """Runs the earliest scheduled call that is due. False if none is."""
        job = self.schedules.pop_due()
        if job is None:
            return False
        self._run_job(job)
        return True

    def _run_job(self, job: Job) -> None:
        schedule = self.schedules.tables[job.table_id]
        row = schedule.find(job.key)
        if row is None:
            return
        if schedule.function_name in self.procedures.by_name:
            self.procedures.run_job(job, schedule, row, self._self)
            return
        reducer = self.by_name[schedule.function_name]
        timestamp = self.timestamp_us(job.due_us)
        self.figures.delayed(reducer.name, timestamp - job.due_us)
        started = perf_counter_ns()
        args = schedule.encode(row)
        try:
            self.run(reducer, self._self, timestamp, (row,))
            deltas = self.commit()
        except BaseException as error:
            outcome, _ = self.rolled_back(error, reducer.name, timestamp)
            self.figures.undone(reducer.name, outcome.name.lower(), (perf_counter_ns() - started) // 1000)
        else:
            duration = (perf_counter_ns() - started) // 1000
            if deltas:
                inputs = self._inputs(reducer.log_name, self._self.log_key, timestamp, args)
                self.emit(deltas, inputs, timestamp, NO_READER, 0, 0, reducer.id, duration, 0)
        if self.arm_next(job, schedule):
            schedule.delete(job.key)
            deltas = self.views.commit_regardless()
            self.emit(deltas, MUTATIONS_ONLY, self.timestamp_us(), NO_READER, 0, 0, NO_REDUCER, 0, 0)

    def arm_next(self, job: Job, schedule: ScheduleTable) -> bool:
        """See `Schedules.arm_next`."""
        return self.schedules.arm_next(job, schedule)

    # -- the inside of a call

    def run(self, reducer: Reducer, who: Caller, timestamp: int, values: tuple[Any, ...]) -> None:
        """Calls the function within its time budget. Its changes are in the store, not committed."""
        self.log.function = reducer.name
        context = ReducerContext(who.identity, who.connection_id, Timestamp(timestamp), self.db, self._context)
        self.budget.begin()
        reducer.function(context, *values)
        self.budget.end()

    def _inputs(self, log_name: bytes, log_key: bytes, timestamp: int, args: bytes) -> bytes:
        length = len(log_name) + 56 + len(args)
        return b"".join(
            (INPUTS_AND_MUTATIONS, length.to_bytes(4, "little"), log_name, log_key, _I64.pack(timestamp), args)
        )

    def emit(
        self,
        deltas: list[TableDelta],
        inputs: bytes,
        timestamp: int,
        reader: int,
        connection: int,
        request_id: int,
        reducer_id: int,
        duration_us: int,
        flags: int,
        always_logged: bool = False,
        changes: Changes | None = None,
    ) -> None:
        """Counts the transaction, if it is one for the log, and appends its record. `changes`: where its rows are
        counted, if it is no reducer's."""
        if reducer_id != NO_REDUCER:
            reducer = self.reducers[reducer_id]
            reducer.elapsed.later.append(duration_us)
            changes = reducer.changed
        elif changes is None:
            changes = self.figures.changes(INTERNAL)
        for delta in deltas:
            counts = changes[delta.table_id]
            counts[0] += len(delta.inserts)
            counts[1] += len(delta.deletes)
        if deltas or always_logged:
            if always_logged or not deltas[0].flags & UNLOGGED or not all(d.flags & UNLOGGED for d in deltas):
                self.horizon += 1
                flags |= LOGGED
            if self.schedules.tables:
                self.schedules.follow(deltas)
        self.out.append(
            build_commit(
                deltas,
                inputs,
                self.horizon,
                flags,
                timestamp,
                reader,
                connection,
                request_id,
                reducer_id,
                duration_us,
            )
        )

    def _undo(
        self, error: BaseException, function: str, who: Caller, request_id: int, timestamp: int, started: int
    ) -> None:
        outcome, text = self.rolled_back(error, function, timestamp)
        self.figures.undone(function, outcome.name.lower(), (perf_counter_ns() - started) // 1000)
        self.answer(outcome, who, request_id, timestamp, text, started)

    def rolled_back(self, error: BaseException, function: str, timestamp: int) -> tuple[Outcome, str]:
        """Undoes the transaction, writes the module log's line, and says what the caller may know."""
        if isinstance(error, MemoryError):
            self.memory.give_up()
        self.budget.end()
        self.store.rollback()
        self.errors += 1
        if isinstance(error, ReducerError):
            self.figures.failed(function, "error")
            text = text_of(error)
            self.log.system(text, "Error", function, timestamp)
            return Outcome.ERROR, text
        if isinstance(error, BudgetExceeded):
            self.figures.failed(function, "out_of_energy")
            self.log.system(f"{function} was stopped: it ran longer than {self.budget.limit_s:g} s", "Error")
            return Outcome.OUT_OF_ENERGY, OUT_OF_ENERGY
        self.figures.failed(function, "internal")
        if isinstance(error, ViewFailed):
            self.views.log_failure(error)
        elif isinstance(error, MemoryError):
            self.log.system(OUT_OF_MEMORY, "Error", function)
        else:
            self.log.panic(error, function)
        return Outcome.INTERNAL, FATAL

    def answer(
        self, outcome: Outcome, who: Caller, request_id: int, timestamp: int, body: str | bytes, started: int = 0
    ) -> None:
        data = body.encode("utf-8", "replace") if isinstance(body, str) else body
        duration = (perf_counter_ns() - started) // 1000 if started else 0
        self.out.append(
            mail.answer(outcome, who.reader, who.connection, request_id, self.horizon, timestamp, duration, data)
        )

    def _refuse_private(self, who: Caller, reducer: Reducer, request_id: int) -> None:
        event = {"init": "Init", "on_connect": "OnConnect", "on_disconnect": "OnDisconnect"}.get(
            reducer.lifecycle or ""
        )
        if event:
            text = f"can't directly call special {event} lifecycle reducer"
            self.answer(Outcome.LIFECYCLE, who, request_id, self.timestamp_us(), text)
        else:
            self.no_such_reducer(reducer.name)
            self.answer(Outcome.NO_SUCH_REDUCER, who, request_id, self.timestamp_us(), "no such reducer")

    def _bad_arguments(
        self, who: Caller, reducer: Reducer, request_id: int, timestamp: int, error: DecodeError
    ) -> None:
        self.log_bad_arguments(reducer.name)
        text = f"invalid arguments for reducer {reducer.name}: {error}"
        self.answer(Outcome.BAD_ARGUMENTS, who, request_id, timestamp, text)

    def _remove_client_rows(self, row: Any, connection_id: int) -> None:
        self.store.tables[ST_CLIENT_ID].handle.delete(row)
        self.store.tables[ST_CONNECTION_CREDENTIALS_ID].handle.connection_id.delete(connection_id)

    @property
    def view_db(self) -> Any:
        """Handles that only read."""
        return self._context.view_db

    def claims_of(self, connection_id: ConnectionId) -> str | None:
        """The claims a connection came with, as JSON text."""
        row = self.store.tables[ST_CONNECTION_CREDENTIALS_ID].handle.connection_id.find(int(connection_id))
        return None if row is None else row.jwt_payload


def log_name(name: str) -> bytes:
    """A reducer's name as the log's inputs hold it: a length byte, at most 255 bytes of UTF-8 cut at a character."""
    data = name.encode()[:255].decode(errors="ignore").encode()
    return bytes((len(data),)) + data
