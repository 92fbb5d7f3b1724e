"""How a program comes into a database: the first time, after a restart, and in place of an older one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from spacetimedb.hosts import mail
from spacetimedb.hosts.database import Database, Reducer, caller, log_name
from spacetimedb.hosts.determinism import run_twice
from spacetimedb.hosts.figures import REDUCER
from spacetimedb.hosts.migration import Migration, MigrationFailed
from spacetimedb.hosts.module_log import described_error
from spacetimedb.hosts.program import ProgramError, load_program
from spacetimedb.hosts.row_migration import migrate_rows
from spacetimedb.hosts.schedule_table import ScheduleTable
from spacetimedb.hosts.view_evaluation import Evaluation, ViewFailed
from spacetimedb.log.recovery import RecoveredState, ReplayError
from spacetimedb.log.recovery import recover as recover_state
from spacetimedb.log.segments import LogDamaged
from spacetimedb.log.snapshot import snapshot_directory
from spacetimedb.module import Module
from spacetimedb.module.errors import BudgetExceeded, ModuleError, ReducerError
from spacetimedb.module.mounting import descendants
from spacetimedb.schema.definition import ModuleDef, TableDef, with_durability, with_row_migrations
from spacetimedb.schema.migration import MigrationErrors, plan
from spacetimedb.schema.raw import encode_raw
from spacetimedb.schema.system_catalogue import bootstrap_rows, creation_rows
from spacetimedb.schema.system_tables import (
    FIRST_USER_ID,
    ST_CLIENT_ID,
    ST_MODULE_ID,
    ST_SEQUENCE_ID,
    ST_TABLE_ID,
    SYSTEM_TABLES,
)
from spacetimedb.schema.validation import ModuleDefErrors, validate
from spacetimedb.sql.catalog import SchemaCatalog, ViewKey
from spacetimedb.sql.errors import SqlError
from spacetimedb.sql.plan import protected_table
from spacetimedb.store.commit_record import MUTATIONS_ONLY, NO_READER, NO_REDUCER, SILENT
from spacetimedb.types.bsatn import codec
from spacetimedb.types.special import ConnectionId, Identity, Interval

BREAKS_CLIENTS: Final = "Migration plan contains a client-breaking change which is disallowed under current policy"
LOAD_LIMIT_S: Final = 10.0
"""A module must be imported within this time."""
SLOW_RECOVERY_S: Final = 1.0
"""A recovery that takes longer says so."""


class InstallError(Exception):
    """The database cannot run the program. The text is for whoever publishes or starts it."""


def create(database: Database, program: bytes, program_hash: bytes) -> None:
    """A fresh database: system tables, tables of the module, and `init`, in the first transaction."""
    module, definition, raw = _load(database, program)
    create_from(database, module, definition, raw, program, program_hash)


def create_from(
    database: Database, module: Module, definition: ModuleDef, raw: bytes, program: bytes, program_hash: bytes
) -> None:
    """As `create`, for a module that is loaded."""
    table_ids = write_catalogue(database, definition, program, program_hash)
    _add_tables(database, module, definition, table_ids)
    _bind(database, module, definition, raw, table_ids, program_hash)
    for name in sorted(table.name for table in definition.all_tables):
        database.log.system(f"Creating table `{name}`")
    init = next((r for r in database.reducers if r.lifecycle == "init"), None)
    timestamp = database.timestamp_us()
    try:
        if init is not None:
            database.log.system("Invoking `init` reducer")
            database.run(init, caller(database.owner, None), timestamp, ())
        _fill_repeats(database, module)
        deltas = database.store.commit()
    except BaseException as error:
        text = database.rolled_back(error, init.name if init else "init", timestamp)[1]
        if not isinstance(error, ReducerError):
            text = f"{text} (`init`: {described_error(error)})"
        raise InstallError(text) from None
    _warn_of_routes(database, module)
    database.log.system("Database initialized")
    database.emit(deltas, MUTATIONS_ONLY, timestamp, NO_READER, 0, 0, NO_REDUCER, 0, 0)


def write_catalogue(database: Database, definition: ModuleDef, program: bytes, program_hash: bytes) -> dict[str, int]:
    """System tables that describe themselves, and, uncommitted, the rows of the definition; the ids of its tables."""
    store = database.store
    bootstrap = bootstrap_rows()
    filters = _row_filters(definition)
    for system in SYSTEM_TABLES:
        table = store.add_table(system.table_id, system.definition, system.shape)
        table.load([table.encode(row) for row in bootstrap.get(system.table_id, ())])
    creation = creation_rows(
        definition,
        database_identity=int(database.identity),
        owner_identity=int(database.owner),
        program_hash=program_hash,
        program_bytes=program,
        row_filters=filters,
    )
    for _old, new in creation.sequence_updates:
        store.tables[ST_SEQUENCE_ID].handle.sequence_id.update(new)
    for table_id, rows in creation.rows.items():
        insert = store.tables[table_id].handle.insert
        for row in rows:
            insert(row)
    for _old, new in creation.sequence_updates:
        column = store.tables[new.table_id].definition.columns[new.col_pos].name
        store.resume(new.table_id, 1 + max(getattr(row, column) for row in creation.rows[new.table_id]))
    return creation.table_ids


def recover(database: Database, log_directory: Path) -> None:
    """The database as its log left it. Clients that were connected then are disconnected now."""
    recover_from(database, read_state(log_directory), None)


def read_state(log_directory: Path) -> RecoveredState:
    """What the log of a database holds. Raises InstallError."""
    try:
        state = recover_state(log_directory, snapshot_directory(log_directory))
    except (LogDamaged, ReplayError, OSError) as error:
        # Paths are for whoever runs the server, not for clients.
        print(f"the commit log in {log_directory} cannot be read: {error}", file=sys.stderr)
        raise InstallError("the commit log cannot be read") from None
    if not state.next_offset:
        print(f"the commit log in {log_directory} is empty", file=sys.stderr)
        raise InstallError("the commit log is empty")
    for problem in state.problems:
        print(f"a snapshot cannot be used: {problem}", file=sys.stderr)
    if state.seconds > SLOW_RECOVERY_S:
        print(
            f"recovered {state.next_offset} transactions ({state.snapshot_offset} of them from a snapshot, "
            f"{state.row_operations} row operations from the log) in {state.seconds:.1f} s",
            file=sys.stderr,
        )
    return state


def program_of(state: RecoveredState) -> bytes:
    """The program that a state holds."""
    program: bytes = (
        codec(SYSTEM_TABLES[ST_MODULE_ID - 1].shape).decode_exact(state.rows(ST_MODULE_ID)[0]).program_bytes
    )
    return program


def recover_from(
    database: Database,
    state: RecoveredState,
    loaded: tuple[Module, ModuleDef, bytes] | None,
    with_hooks: bool = True,
) -> None:
    """As `recover`, from a state; `loaded` spares loading the program that the state holds.

    `with_hooks` False: the clients that were connected are gone without a call of `client_disconnected`.
    """
    st_module = codec(SYSTEM_TABLES[ST_MODULE_ID - 1].shape).decode_exact(state.rows(ST_MODULE_ID)[0])
    module, definition, raw = loaded or _load(database, st_module.program_bytes)
    store = database.store
    for system in SYSTEM_TABLES:
        store.add_table(system.table_id, system.definition, system.shape).load(state.rows(system.table_id))
    table_ids = {row.table_name: row.table_id for row in store.tables[ST_TABLE_ID].reader.iter()}
    _add_tables(database, module, definition, table_ids)
    for table in definition.all_tables:
        if not table.is_event and table.is_durable:
            store.tables[table_ids[table.name]].load(state.rows(table_ids[table.name]))
    database.horizon = state.next_offset
    program_hash = st_module.program_hash.to_bytes(32, "little")
    _bind(database, module, definition, raw, table_ids, program_hash)
    for row in list(store.tables[ST_CLIENT_ID].reader.iter()):
        dangling = caller(Identity.from_int(row.identity), ConnectionId.from_int(row.connection_id))
        database.end_client(dangling, with_hooks)


def update(database: Database, program: bytes, program_hash: bytes, break_clients: bool = False) -> None:
    """Another program; tables change as the plan says. Nothing has changed when it raises.

    If the plan breaks clients, and it may (`break_clients`), all clients are disconnected from the new program.
    """
    update_from(database, _load(database, program), program, program_hash, break_clients)


def update_from(
    database: Database,
    loaded: tuple[Module, ModuleDef, bytes],
    program: bytes,
    program_hash: bytes,
    break_clients: bool,
) -> None:
    """As `update`, for a module that is loaded."""
    module, definition, raw = loaded
    try:
        steps = plan(database.definition, definition)
    except MigrationErrors as error:
        raise InstallError(str(error)) from None
    if steps.breaks_clients and not break_clients:
        raise InstallError(BREAKS_CLIENTS)
    say = database.log.system
    say(f"Updated program to {program_hash.hex()}")
    shapes = {spec.name: spec.shape for spec in module.tables}
    migration = Migration(database.store, steps, database.table_ids, shapes, say)
    try:
        _replace_program(database, program, program_hash)
        migration.run()
        migrate_rows(database, module, migration)
        _fill_repeats(database, module)
        shown = _preview(database, module, definition, migration)
        deltas = migration.commit()
    except BaseException as error:
        migration.undo()
        text = str(error)
        if not isinstance(error, (MigrationFailed, ReducerError, ValueError)):
            database.log.panic(error, "publish")
            text = "internal error"
        say(f"Database update failed: {text}", "Warn")
        raise InstallError(text) from None
    _bind(database, module, definition, raw, migration.table_ids, program_hash)
    deltas += database.views.show(shown)
    # Rows of tables that are made anew would look deleted to clients that are about to be disconnected.
    flags = SILENT if steps.breaks_clients else 0
    database.emit(deltas, MUTATIONS_ONLY, database.timestamp_us(), NO_READER, 0, 0, NO_REDUCER, 0, flags)
    database.out.append(mail.program(raw, migration.table_ids, database.generation))
    if steps.breaks_clients:
        for reader, connection in list(database.clients):
            database.disconnect(reader, connection)
        database.out.append(mail.CLOSE_CLIENTS_RECORD)
    _warn_of_routes(database, module)
    say("Database updated")


def _preview(
    database: Database, module: Module, definition: ModuleDef, migration: Migration
) -> dict[ViewKey, Evaluation]:
    """What the views that are in use will show. Raises MigrationFailed if one fails."""
    tables = {spec.key: database.store.by_name[spec.name] for spec in module.tables}
    try:
        return database.views.preview(module.views, definition, migration.table_ids, tables)
    except ViewFailed as failed:
        limit = f"it ran longer than {database.budget.limit_s:g} s"
        cause = limit if isinstance(failed.cause, BudgetExceeded) else described_error(failed.cause)
        raise MigrationFailed(f"view `{failed.view}`, which clients are subscribed to, failed: {cause}") from None


def _warn_of_routes(database: Database, module: Module) -> None:
    for namespace, mounted in descendants(module):
        if mounted.routes:
            paths = ", ".join(sorted({f"`{route.path}`" for route in mounted.routes}))
            database.log.system(f"HTTP routes of the mounted module `{namespace}` are not served: {paths}", "Warn")


def _replace_program(database: Database, program: bytes, program_hash: bytes) -> None:
    table = database.store.tables[ST_MODULE_ID]
    row = next(iter(table.reader.iter()))
    table.handle.delete(row)
    row.program_bytes, row.program_hash = program, int.from_bytes(program_hash, "little")
    table.handle.insert(row)


def _load(database: Database, program: bytes) -> tuple[Module, ModuleDef, bytes]:
    database.budget.begin_within(LOAD_LIMIT_S)
    try:
        module = load_program(program, database.log.print_line)
        return described(module)
    except (ProgramError, ModuleError, ModuleDefErrors) as error:
        raise InstallError(str(error)) from None
    except BudgetExceeded:
        raise InstallError(f"the module was not loaded within {LOAD_LIMIT_S:g} s") from None
    except Exception as error:
        database.log.panic(error, "publish")
        raise InstallError("internal error while the module was loaded; its log says more") from None
    finally:
        database.budget.end()


def described(module: Module) -> tuple[Module, ModuleDef, bytes]:
    """A module with its definition, and that as BSATN. Raises ModuleError, ModuleDefErrors."""
    raw = module.describe()
    definition = with_durability(validate(raw), module.not_durable)
    functions = [(spec.table, spec.row_type, spec.name) for spec in module.migrations]
    return module, with_row_migrations(definition, functions), encode_raw(raw)


def _row_filters(definition: ModuleDef) -> list[tuple[str, str]]:
    """Table and text of each rule of row-level security; the rules must compile."""
    ids = {table.name: number for number, table in enumerate(definition.all_tables, FIRST_USER_ID)}
    catalog = SchemaCatalog(definition, ids, owner=True)
    filters = []
    for rule in definition.row_level_security:
        try:
            filters.append((protected_table(rule, catalog).name, rule))
        except SqlError as error:
            raise InstallError(f"failed to create row-level security: `{rule}`: {error}") from None
    return filters


def _add_tables(database: Database, module: Module, definition: ModuleDef, table_ids: dict[str, int]) -> None:
    shapes = {spec.name: spec.shape for spec in module.tables}
    for table in definition.all_tables:
        try:
            database.store.add_table(table_ids[table.name], table, shapes[table.name])
        except ValueError as error:
            raise InstallError(str(error)) from None


def _fill_repeats(database: Database, module: Module) -> None:
    """Gives every empty table behind `m.every` its row."""
    specs = {spec.source_name: spec for spec in module.tables}
    for repeat in module.repeats:
        spec = specs[repeat.table]
        table = database.store.by_name[spec.name]
        if not table.row_count:
            table.handle.insert(spec.row(scheduled_at=Interval(repeat.interval)))


def _bind(
    database: Database,
    module: Module,
    definition: ModuleDef,
    raw: bytes,
    table_ids: dict[str, int],
    program_hash: bytes,
) -> None:
    """Connects the database to the module's functions and rebuilds the queue of schedules."""
    store = database.store
    tables = {spec.key: store.by_name[spec.name] for spec in module.tables}
    functions = {spec.name: spec for spec in module.reducers}
    reducers = []
    for number, reducer in enumerate(definition.all_reducers):
        spec = functions[reducer.name]
        decode = codec(spec.params).decode
        function = spec.function
        if database.checks_determinism and reducer.lifecycle is None:
            function = run_twice(database, reducer.name, function)
        reducers.append(
            Reducer(
                number,
                reducer.name,
                function,
                decode,
                reducer.is_private,
                reducer.lifecycle,
                log_name(reducer.name),
                database.figures.reducer(reducer.name),
                database.figures.changes(REDUCER, reducer.name),
            )
        )
    database.install(module, definition, raw, dict(table_ids), program_hash, reducers, store.db(tables), tables)
    for table in definition.all_tables:
        if table.schedule is not None:
            _bind_schedule(database, table, table_ids[table.name])


def _bind_schedule(database: Database, definition: TableDef, table_id: int) -> None:
    table = database.store.tables[table_id]
    schedule = definition.schedule
    assert schedule is not None
    assert definition.primary_key is not None
    attributes = [field.attr for field in table.shape.fields]
    bound = ScheduleTable(
        table.name,
        schedule.function_name,
        attributes[definition.primary_key],
        attributes[schedule.at_column],
        table.handle,
        table.encode,
        table.decode,
        database.now_us,
    )
    database.schedules.add(table_id, bound, database.store.tables[table_id].reader.iter())
