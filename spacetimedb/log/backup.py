"""Backups: a backup is a snapshot (see `snapshot`) in a file of any name.

    backed_up_identity(backup)                             whose it is, without reading all of it
    unpack_backup(files, backup, directory, ...)           a database's directory that recovery starts from

The directory gets a snapshot with the backup's rows and an empty log that goes on behind it. The row of `st_module` is
written anew: it names the database and its owner, and both may be others than before.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from spacetimedb.log.files import OPERATING_SYSTEM, FileSystem
from spacetimedb.log.recovery import snapshot_state
from spacetimedb.log.segments import start_segment
from spacetimedb.log.snapshot import HEADER, MAGIC, SnapshotDamaged, parse_snapshot, snapshot_directory, write_snapshot
from spacetimedb.schema.system_tables import ST_MODULE_ID, SYSTEM_TABLES
from spacetimedb.types.bsatn import codec
from spacetimedb.types.errors import DecodeError


class Unpacked(msgspec.Struct, frozen=True):
    """What was in a backup. `owner` is the one that the database has now."""

    next_offset: int
    rows: int
    owner: bytes
    program: bytes
    program_hash: bytes


def backed_up_identity(backup: Path) -> bytes:
    """Identity of the database that was backed up. Raises SnapshotDamaged, OSError."""
    with backup.open("rb") as file:
        head = file.read(HEADER.size)
    if len(head) < HEADER.size or not head.startswith(MAGIC):
        raise SnapshotDamaged(backup, "is no backup")
    identity: bytes = HEADER.unpack(head)[5]
    return identity


def unpack_backup(
    backup: Path,
    directory: Path,
    identity: bytes,
    owner: bytes | None,
    created_us: int,
    files: FileSystem = OPERATING_SYSTEM,
) -> Unpacked:
    """Makes the files of database `identity` in `directory`; `owner` None keeps the owner.

    Raises SnapshotDamaged, OSError; what is in `directory` is of no use then.
    """
    state = snapshot_state(parse_snapshot(backup, files.read(backup)))
    rows = state.tables.get(ST_MODULE_ID) or {}
    if len(rows) != 1:
        raise SnapshotDamaged(backup, f"has {len(rows)} programs instead of one")
    module_codec = codec(SYSTEM_TABLES[ST_MODULE_ID - 1].shape)
    try:
        module = module_codec.decode_exact(next(iter(rows)))
    except DecodeError as error:
        raise SnapshotDamaged(backup, str(error)) from error
    module.database_identity = int.from_bytes(identity, "little")
    if owner is not None:
        module.owner_identity = int.from_bytes(owner, "little")
    state.tables[ST_MODULE_ID] = {module_codec.encode(module): None}
    log = directory / "clog"
    write_snapshot(files, snapshot_directory(log), state.tables, state.next_offset, identity, created_us)
    files.make_directory(log)
    start_segment(files, log, state.next_offset)
    files.sync_directory(log)
    return Unpacked(
        state.next_offset,
        sum(map(len, state.tables.values())),
        module.owner_identity.to_bytes(32, "little"),
        module.program_bytes,
        module.program_hash.to_bytes(32, "little"),
    )
