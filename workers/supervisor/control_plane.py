"""Names and programs: the requests that readers pass on to the supervisor.

Every program is first loaded in a process of its own (`loader.py`). Only a program that loads and validates touches a
database; a running one goes on with its old program when anything fails. Requests about one identity run one at a time.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from spacetimedb.auth.identity import derive_identity
from spacetimedb.auth.keccak import keccak256
from spacetimedb.schema.definition import ModuleDef, with_durability, with_row_migrations
from spacetimedb.schema.migration import MigrationErrors, plan
from spacetimedb.schema.migration_text import plan_text
from spacetimedb.schema.raw import decode_raw
from spacetimedb.schema.validation import validate
from spacetimedb.types.algebraic import Product, decode_type
from spacetimedb.workers.messages import DatabaseDown, Load, Loaded, Reply, Request
from spacetimedb.workers.supervisor.backups import Backups
from spacetimedb.workers.supervisor.control_store import DatabaseRow, NameClaimed, NameTaken
from spacetimedb.workers.supervisor.errors import ControlError, DatabaseFailed
from spacetimedb.workers.supervisor.loading import Loaders
from spacetimedb.workers.supervisor.processes import DatabaseProcesses
from spacetimedb.workers.supervisor.snapshots import SnapshotError

if TYPE_CHECKING:
    from spacetimedb.workers.supervisor.supervisor import Supervisor

MAX_LOADING: Final = 2
"""Modules that are loaded at the same time; others wait."""
NOT_DURABLE: Final = "Database update failed: timeout waiting for transaction confirmation"
"""It is in force all the same."""
CONTROL_STORE_FAILED: Final = b"the server cannot write to its disk, which may be full; its output says more"
LOAD_POINTS: Final = 600
"""Points of a load test that are kept; the oldest make room."""
_pack: Final = msgspec.msgpack.encode


class ControlPlane:
    """Methods named `do_...` answer requests; they return a value or raise ControlError, NameClaimed, NameTaken."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._locks: defaultdict[bytes, trio.Lock] = defaultdict(trio.Lock)
        self._loading = trio.CapacityLimiter(MAX_LOADING)
        self.loaders = Loaders()
        self._backups = Backups(supervisor, self)
        self.broken: dict[bytes, str] = {}
        """Databases that could not be opened, with the reason."""
        self._load_test: deque[bytes] = deque(maxlen=LOAD_POINTS)
        self._load_run = ""

    async def answer(self, request: Request) -> Reply:
        """Runs one request."""
        try:
            value = await getattr(self, f"do_{request.method}")(**request.arguments)
        except ControlError as error:
            return Reply(request.request_id, "error", error.status, error.text.encode())
        except NameClaimed as error:
            return Reply(request.request_id, "denied", 401, str(error).encode())
        except NameTaken as error:
            return Reply(request.request_id, "in_use", 400, str(error).encode())
        except sqlite3.OperationalError as error:
            self._supervisor.say(f"{request.method}: the control store cannot be written: {error}")
            return Reply(request.request_id, "error", 507, CONTROL_STORE_FAILED)
        except Exception as error:
            self._supervisor.say(f"{request.method}: {type(error).__name__}: {error}")
            return Reply(request.request_id, "error", 500, b"internal error")
        finally:
            self.loaders.prepare()
        return Reply(request.request_id, "ok", 200, _pack(value))

    # -- names

    async def do_sync(self) -> None:
        """The supervisor sends the directory to the reader that asks, before the answer."""

    async def do_claim_name(self, owner: bytes, name: str) -> bytes:
        """The identity behind a name, a new one if the name is unknown."""
        store = self._supervisor.store
        identity = store.resolve(name)
        if identity is None:
            identity = self.new_identity()
            store.add_name(name, identity, owner)
            await self._supervisor.tell_directory()
        return identity

    async def do_add_name(self, owner: bytes, identity: bytes, name: str) -> None:
        """One more name for a database."""
        self._supervisor.store.add_name(name, identity, owner)
        await self._supervisor.tell_directory()

    async def do_set_names(self, owner: bytes, identity: bytes, names: list[str]) -> None:
        """All names of a database."""
        self._supervisor.store.set_names(names, identity, owner)
        await self._supervisor.tell_directory()

    async def do_set_locked(self, identity: bytes, locked: bool) -> None:
        """Protects a database from deletion and reset, or no longer."""
        self._supervisor.store.set_locked(identity, locked)
        await self._supervisor.tell_directory()

    # -- load tests

    async def do_report_load(self, figures: bytes) -> None:
        """One more point of a load test; the first of another run replaces those of the one before."""
        run = str(msgspec.json.decode(figures)["run"])
        if run != self._load_run:
            self._load_test.clear()
            self._load_run = run
        self._load_test.append(figures)

    async def do_load_test(self) -> list[bytes]:
        """The points of the newest load test."""
        return list(self._load_test)

    # -- programs

    async def do_publish(
        self,
        caller: bytes,
        identity: bytes | None,
        program: bytes,
        clear: bool,
        break_clients: bool,
        token: bytes | None,
        durable_within_s: float,
    ) -> dict[str, Any]:
        """Creates, updates or resets a database. Returns its identity and whether it is new."""
        identity = identity or self.new_identity()
        async with self._locks[identity]:
            row = self._supervisor.store.database(identity)
            if row is None:
                await self._create(identity, caller, program, None)
            elif clear:
                await self._create(identity, row.owner, program, row)
            else:
                await self._update(row, program, break_clients, token, durable_within_s)
        return {"identity": identity, "created": row is None}

    async def do_reset(self, identity: bytes, program: bytes | None) -> None:
        """Empties a database and starts it anew, with its present program if none is given."""
        async with self._locks[identity]:
            row = self._supervisor.store.database(identity)
            if row is None:
                raise ControlError(404, "No such database.")
            await self._create(identity, row.owner, program or row.program, row)

    async def do_delete(self, identity: bytes) -> None:
        """Stops a database and forgets it; its files stay."""
        async with self._locks[identity]:
            supervisor = self._supervisor
            supervisor.store.delete_database(identity)
            self.broken.pop(identity, None)
            database = supervisor.databases.pop(identity, None)
            if database is not None:
                await database.stop(lambda: supervisor.tell_readers(DatabaseDown(identity, True)))
            await supervisor.tell_directory()

    async def do_snapshot(self, identity: bytes) -> dict[str, Any]:
        """Takes a snapshot now; returns what it holds."""
        database = self._supervisor.databases.get(identity)
        if database is None or database.snapshots is None:
            raise ControlError(400, "A database in memory has no snapshots.")
        try:
            taken = await database.snapshots.take()
        except SnapshotError as error:
            raise ControlError(500, f"No snapshot was taken: {error}") from None
        return {"next_offset": taken.next_offset, "rows": taken.rows, "bytes": taken.bytes, "seconds": taken.seconds}

    async def do_backup(self, identity: bytes) -> dict[str, Any]:
        """See `Backups.backup`; so the next four."""
        return await self._backups.backup(identity)

    async def do_begin_restore(self, caller: bytes, name: str, overwrite: bool, keep_owner: bool) -> str:
        return self._backups.begin(caller, name, overwrite, keep_owner)

    async def do_upload_path(self, caller: bytes, upload: str) -> str:
        return self._backups.path(caller, upload)

    async def do_abandon_restore(self, caller: bytes, upload: str) -> None:
        self._backups.abandon(caller, upload)

    async def do_restore(self, caller: bytes, upload: str) -> dict[str, Any]:
        return await self._backups.restore(caller, upload)

    async def do_pre_publish(self, identity: bytes, program: bytes, colour: bool) -> dict[str, Any]:
        """What publishing the program would do to the database."""
        row = self._supervisor.store.database(identity)
        if row is None:
            raise ControlError(404, "No such database.")
        new, _ = await self._load(program)
        program_hash = keccak256(program)
        token = migration_token(identity, row.program_hash, program_hash)
        old = await self._running_definition(identity)
        try:
            migration = plan(old, new)
        except MigrationErrors as error:
            return {"reason": str(error), "text": "", "break_clients": False, "token": token}
        text = plan_text(migration, colours=colour)
        return {
            "reason": None,
            "text": text,
            "break_clients": migration.breaks_clients,
            "token": token,
            "major_version_upgrade": migration.is_major_version_upgrade,
        }

    async def do_replace_process(self, identity: bytes) -> None:
        """A reader cannot understand what the database's process publishes."""
        database = self._supervisor.databases.get(identity)
        if database is not None:
            database.replace_process()

    async def do_attach_again(self, identity: bytes, reader: int) -> None:
        """A database did not wait for a reader, which is asking."""
        await self._supervisor.attach_again(identity, reader)

    async def do_why_down(self, identity: bytes) -> str | None:
        """Why a database does not serve, None if it should."""
        database = self._supervisor.databases.get(identity)
        return self.broken.get(identity) if database is None else database.problem

    # -- for backups too

    def lock(self, identity: bytes) -> trio.Lock:
        """Held by the request that changes the database."""
        return self._locks[identity]

    def new_identity(self) -> bytes:
        """An identity that nobody has."""
        return bytes(derive_identity("localhost", str(uuid.uuid4())))

    async def _load(self, program: bytes) -> tuple[ModuleDef, list[str]]:
        """The validated definition of a program, and the libraries beside Python's own that it imports. Raises
        ControlError with what its author needs to know."""
        async with self._loading:
            answer = await self.loaders.load(_pack(Load(program, self._supervisor.confinement)))
        try:
            result = msgspec.msgpack.decode(answer, type=Loaded)
            definition = None if result.problem is not None else _definition(result)
        except Exception:  # module code runs in that process: it may have answered in its place
            raise ControlError(500, "the module ended its process while it was loaded") from None
        if definition is None:
            raise ControlError(500, str(result.problem))
        return definition, result.libraries

    async def _running_definition(self, identity: bytes) -> ModuleDef:
        database = self._supervisor.databases.get(identity)
        if database is None or not await database.until_serving() or database.ready is None:
            why = self.broken.get(identity) or (database and database.problem) or "it is not running"
            raise ControlError(500, f"error starting database: {why}")
        return database.definition

    async def _create(self, identity: bytes, owner: bytes, program: bytes, old: DatabaseRow | None) -> None:
        """A fresh database under `identity`; the old one, if any, goes on until the new one's module has loaded."""
        supervisor = self._supervisor
        await self._load(program)
        program_hash = keccak256(program)
        replica = supervisor.store.new_replica()
        database = supervisor.new_database(identity, owner, replica)
        row = DatabaseRow(identity, owner, replica, program, program_hash, program_hash)
        await self.put_in_place(database, row, create=True)

    async def put_in_place(self, database: DatabaseProcesses, row: DatabaseRow, create: bool) -> None:
        """Starts a database that takes the place of the one with its identity, if there is one. Raises ControlError."""
        supervisor, identity = self._supervisor, row.identity
        database.initial_program = row.initial_program
        database.program, database.program_hash = row.program, row.program_hash
        try:
            await database.start(create, row.program, row.program_hash, announce=False)
        except DatabaseFailed as error:
            raise ControlError(error.status or 500, str(error)) from None
        try:
            supervisor.store.put_database(row)
        except BaseException:
            with trio.CancelScope(shield=True):
                await database.stop()
            raise
        # From here on it is the new one that a restart finds.
        running = supervisor.databases.pop(identity, None)
        if running is not None:
            await running.stop(lambda: supervisor.tell_readers(DatabaseDown(identity, False)))
        self.broken.pop(identity, None)
        supervisor.adopt(database)
        for link in supervisor.reader_links():
            await database.attach_reader(link)
        await supervisor.tell_directory()

    async def _update(
        self, row: DatabaseRow, program: bytes, break_clients: bool, token: bytes | None, durable_within_s: float
    ) -> None:
        if program == row.program:
            return
        new, libraries = await self._load(program)
        old = await self._running_definition(row.identity)
        try:
            migration = plan(old, new)
        except MigrationErrors as error:
            raise ControlError(400, f"Database update rejected: {error}") from None
        program_hash = keccak256(program)
        failed = "Failed to create or update the database: "
        if break_clients and token != migration_token(row.identity, row.program_hash, program_hash):
            raise ControlError(400, failed + "Token provided is invalid or does not match expected hash")
        if migration.breaks_clients and not break_clients:
            text = "Migration plan contains a client-breaking change which is disallowed under current policy"
            raise ControlError(400, failed + text)
        database = self._supervisor.databases[row.identity]
        try:
            is_durable = await database.update(program, program_hash, break_clients, libraries, durable_within_s)
        except DatabaseFailed as error:
            raise ControlError(error.status or 400, failed + str(error)) from None
        self._supervisor.store.set_program(row.identity, program, program_hash)
        if not is_durable:
            raise ControlError(504, NOT_DURABLE)


def _definition(loaded: Loaded) -> ModuleDef:
    """The definition of a program that was loaded, with what the raw definition does not say."""
    definition = with_durability(validate(decode_raw(loaded.definition)), loaded.not_durable)
    migrations = [(table, decode_type(row_type)[0], name) for table, row_type, name in loaded.migrations]
    return with_row_migrations(definition, [(t, r, n) for t, r, n in migrations if isinstance(r, Product)])


def migration_token(identity: bytes, old_hash: bytes, new_hash: bytes) -> bytes:
    """Keccak-256 of three hex texts: the database identity (big-endian), the old and the new program hash."""
    return keccak256((identity[::-1].hex() + old_hash.hex() + new_hash.hex()).encode())
