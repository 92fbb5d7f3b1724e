"""Backups and restores: the supervisor's side of them.

A backup is a snapshot that is taken now; a reader sends its file to the client. For a restore the client first sends
the backup in pieces, which a reader writes into a file of `uploads`; then a restorer process makes a database's
directory of it, and the database is started from there. Only when it serves does it take the place of the one before.
"""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from spacetimedb.log.backup import backed_up_identity
from spacetimedb.log.files import OPERATING_SYSTEM
from spacetimedb.log.snapshot import SnapshotDamaged
from spacetimedb.workers.channel import ChannelClosed
from spacetimedb.workers.messages import FromRestorer, RestoreDone, RestoreFailed, RestorerSetup
from spacetimedb.workers.supervisor.child import start_child
from spacetimedb.workers.supervisor.control_store import DatabaseRow
from spacetimedb.workers.supervisor.errors import ControlError
from spacetimedb.workers.supervisor.snapshots import SnapshotError

if TYPE_CHECKING:
    from spacetimedb.workers.supervisor.control_plane import ControlPlane
    from spacetimedb.workers.supervisor.supervisor import Supervisor

MAX_UPLOADS: Final = 8
IDLE_S: Final = 3600.0
"""An upload that nobody has gone on with for so long is given up."""
RESTORE_LIMIT_S: Final = 3600.0
"""Time to make a database's files of a backup."""
IN_MEMORY: Final = "This server keeps everything in memory: it has no backups."


class Upload(msgspec.Struct):
    """A backup on its way in. `name` and the choices are those of the restore that it is for."""

    caller: bytes
    name: str
    overwrite: bool
    keep_owner: bool
    path: Path
    last_used: float


class Backups:
    """See the head of the module."""

    def __init__(self, supervisor: Supervisor, control: ControlPlane) -> None:
        self._supervisor = supervisor
        self._control = control
        self._uploads: dict[str, Upload] = {}
        self._directory = supervisor.directory / "uploads"
        shutil.rmtree(self._directory, ignore_errors=True)  # of a server before

    # -- out

    async def backup(self, identity: bytes) -> dict[str, Any]:
        """Takes a snapshot: path and figures of the file that is the backup."""
        database = self._supervisor.databases.get(identity)
        if database is None:
            raise ControlError(503, "The database is not running.")
        if database.snapshots is None:
            raise ControlError(400, IN_MEMORY)
        try:
            taken = await database.snapshots.take()
        except SnapshotError as error:
            raise ControlError(500, f"No backup was made: {error}") from None
        return {"path": taken.path, "transactions": taken.next_offset, "rows": taken.rows, "bytes": taken.bytes}

    # -- in

    def begin(self, caller: bytes, name: str, overwrite: bool, keep_owner: bool) -> str:
        """A new upload, if the restore it is for would be allowed as things are."""
        if self._supervisor.options.in_memory:
            raise ControlError(400, IN_MEMORY)
        self._check(caller, name, overwrite)
        now = trio.current_time()
        for number in [n for n, upload in self._uploads.items() if upload.last_used + IDLE_S < now]:
            self._forget(number)
        if len(self._uploads) >= MAX_UPLOADS:
            raise ControlError(503, f"{MAX_UPLOADS} backups are being restored already; try again later.")
        number = secrets.token_hex(16)
        try:
            OPERATING_SYSTEM.make_directory(self._directory)
            path = self._directory / number
            path.touch()
        except OSError as error:
            raise ControlError(507, f"The backup cannot be stored: {error.strerror}.") from None
        self._uploads[number] = Upload(caller, name, overwrite, keep_owner, path, now)
        return number

    def path(self, caller: bytes, number: str) -> str:
        """Where the next piece of an upload goes."""
        return str(self._known(caller, number).path)

    def abandon(self, caller: bytes, number: str) -> None:
        """Forgets an upload."""
        self._known(caller, number)
        self._forget(number)

    async def restore(self, caller: bytes, number: str) -> dict[str, Any]:
        """Makes the database of a complete upload, and forgets the upload."""
        upload = self._known(caller, number)
        try:
            return await self._restore(upload)
        finally:
            self._forget(number)

    async def _restore(self, upload: Upload) -> dict[str, Any]:
        supervisor, store = self._supervisor, self._supervisor.store
        self._check(upload.caller, upload.name, upload.overwrite)
        identity = store.resolve(upload.name)
        if identity is None:
            identity = self._identity_for(upload)
            store.add_name(upload.name, identity, upload.caller)
        async with self._control.lock(identity):
            self._check(upload.caller, upload.name, upload.overwrite)
            replica = store.new_replica()
            database = supervisor.new_database(identity, upload.caller, replica)
            try:
                owner = None if upload.keep_owner else upload.caller
                done = await unpack(upload.path, database.directory, identity, owner)
                database.owner = done.owner
                row = DatabaseRow(identity, done.owner, replica, done.program, done.program_hash, done.program_hash)
                await self._control.put_in_place(database, row, create=False)
            except BaseException:
                shutil.rmtree(database.directory, ignore_errors=True)
                raise
        return {"identity": identity, "owner": done.owner, "transactions": done.next_offset, "rows": done.rows}

    def _identity_for(self, upload: Upload) -> bytes:
        """The one in the backup, unless that is in use here."""
        try:
            identity = backed_up_identity(upload.path)
        except SnapshotDamaged:
            raise ControlError(400, "This is no backup of a database.") from None
        store = self._supervisor.store
        in_use = store.database(identity) is not None or any(known == identity for _, known in store.all_names())
        return self._control.new_identity() if in_use else identity

    def _check(self, caller: bytes, name: str, overwrite: bool) -> None:
        store = self._supervisor.store
        identity = store.resolve(name)
        row = None if identity is None else store.database(identity)
        if identity is None or row is None:
            return
        if row.owner != caller:
            raise ControlError(403, f"The database `{name}` belongs to another identity.")
        if store.is_locked(identity):
            raise ControlError(403, f"The database `{name}` is locked. Run `spacetime unlock` first.")
        if not overwrite:
            raise ControlError(
                409, f"The database `{name}` exists. With `--overwrite` the backup replaces it and all its rows."
            )

    def _known(self, caller: bytes, number: str) -> Upload:
        upload = self._uploads.get(number)
        if upload is None or upload.caller != caller:
            raise ControlError(404, "There is no such upload; begin the restore anew.")
        upload.last_used = trio.current_time()
        return upload

    def _forget(self, number: str) -> None:
        upload = self._uploads.pop(number, None)
        if upload is not None:
            upload.path.unlink(missing_ok=True)


async def unpack(backup: Path, directory: Path, identity: bytes, owner: bytes | None) -> RestoreDone:
    """Makes a database's directory of a backup; `owner` None keeps the owner. Raises ControlError, OSError."""
    child = await start_child("restorer", "spacetimedb.workers.restorer", FromRestorer)
    received = None
    try:
        with trio.move_on_after(RESTORE_LIMIT_S) as scope:
            await child.channel.send_async(RestorerSetup(str(backup), str(directory), identity, owner))
            received = await child.channel.receive_async()
    except ChannelClosed:
        pass
    finally:
        with trio.CancelScope(shield=True):
            if child.process.returncode is None:
                child.process.kill()
            await child.process.wait()
            child.channel.close()
    if scope.cancelled_caught:
        raise ControlError(504, f"Nothing was restored: it would have taken longer than {RESTORE_LIMIT_S:.0f} s.")
    answer = received[0] if received is not None else RestoreFailed("the process that unpacks the backup ended")
    if not isinstance(answer, RestoreDone):
        raise ControlError(400, f"Nothing was restored: {answer.text}")
    return answer
