"""The part of the HTTP backend that moves whole databases and tables: see `http.backend.Backend` for the promises."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import trio

from spacetimedb.auth.tokens import Claims
from spacetimedb.hosts import mail
from spacetimedb.hosts.mail import Outcome
from spacetimedb.http.backend import BackendError, BackupFile, DatabaseInfo, Restored
from spacetimedb.types.special import ConnectionId, Identity
from spacetimedb.workers.reader.database_link import DatabaseLink
from spacetimedb.workers.reader.http.durable_answers import until_durable
from spacetimedb.workers.reader.waiter import Waiter

FILE_PIECE_BYTES: Final = 256 << 10
MAX_BACKUP_BYTES: Final = 64 << 30
"""Longest backup that is taken in."""


class BackupRequests:
    """Methods of `ReaderBackend`."""

    async def _ask(self, method: str, **arguments: Any) -> Any:
        raise NotImplementedError

    async def link(self, database: DatabaseInfo) -> DatabaseLink:
        raise NotImplementedError

    async def _run(
        self,
        link: DatabaseLink,
        caller: Claims,
        connection_id: ConnectionId,
        requests: list[bytes],
        waiter: Waiter,
        stays: bool = False,
    ) -> None:
        raise NotImplementedError

    async def backup(self, database: DatabaseInfo) -> BackupFile:
        """From a snapshot that is taken now."""
        made = await self._ask("backup", identity=bytes(database.identity))
        try:
            fd = os.open(made["path"], os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            raise BackendError(503, "The backup was replaced by a newer one; try again.") from None
        return BackupFile(made["transactions"], made["rows"], made["bytes"], _file(fd))

    async def begin_restore(self, caller: Claims, name: str, overwrite: bool, keep_owner: bool) -> str:
        """By the supervisor."""
        upload: str = await self._ask(
            "begin_restore",
            caller=bytes(caller.identity),
            name=name,
            overwrite=overwrite,
            keep_owner=keep_owner,
        )
        return upload

    async def restore_piece(self, caller: Claims, upload: str, offset: int, data: bytes) -> int:
        """Written by this reader, into the file that the supervisor made."""
        path = await self._ask("upload_path", caller=bytes(caller.identity), upload=upload)
        return await trio.to_thread.run_sync(_append, Path(path), offset, data)

    async def restore(self, caller: Claims, upload: str) -> Restored:
        """By the supervisor; it goes on when the client hangs up."""
        with trio.CancelScope(shield=True):
            done = await self._ask("restore", caller=bytes(caller.identity), upload=upload)
        return Restored(Identity(done["identity"]), Identity(done["owner"]), done["transactions"], done["rows"])

    async def abandon_restore(self, caller: Claims, upload: str) -> None:
        """By the supervisor."""
        await self._ask("abandon_restore", caller=bytes(caller.identity), upload=upload)

    async def import_rows(
        self, caller: Claims, connection_id: ConnectionId, database: DatabaseInfo, table: str, rows: bytes
    ) -> int:
        """By the actor, as one transaction; durable when it returns."""
        link = await self.link(database)
        waiter = link.waiter()
        request = mail.request(mail.IMPORT, 0, waiter.number, 0, mail.named(table, rows))
        await self._run(link, caller, connection_id, [request], waiter)
        if waiter.refused:
            raise BackendError(403, waiter.body.decode())
        if waiter.outcome is not Outcome.SQL_DONE:
            raise BackendError(400, waiter.body.decode())
        await until_durable(link, waiter.horizon)
        inserted: int = mail.ROW_COUNTS.unpack(waiter.body)[0]
        return inserted


async def _file(fd: int) -> AsyncIterator[bytes]:
    """The content of an open file, which is closed at the end."""
    try:
        while data := await trio.to_thread.run_sync(os.read, fd, FILE_PIECE_BYTES):
            yield data
    finally:
        os.close(fd)


def _append(path: Path, offset: int, data: bytes) -> int:
    """Adds a piece at the end of an upload; its new length. Raises BackendError."""
    try:
        with path.open("r+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            if size != offset:
                raise BackendError(409, f"{size} bytes of the backup are here, the piece begins at {offset}.")
            if size + len(data) > MAX_BACKUP_BYTES:
                raise BackendError(413, f"A backup has at most {MAX_BACKUP_BYTES} bytes.")
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            return size + len(data)
    except OSError as error:
        raise BackendError(507, f"The backup cannot be stored: {error.strerror}.") from None
