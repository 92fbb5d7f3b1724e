"""Snapshots: the rows of every table after some number of transactions, so that recovery need not read the whole log.

A directory holds one file per snapshot, `<number of transactions in it, 20 digits>.snap`. Integers are little-endian.

    snapshot := magic "STDBSNAP"  version:u32 = 1  tables:u32  next_offset:u64  created:u64 (microseconds since the
                epoch)  identity[32]  table*  blake3[32] (of everything before it)
    table    := table_id:u32  chunks:u32  rows:u64  chunk*
    chunk    := rows:u32  0:u32  raw:u64  stored:u64  data[stored]

`data` is compressed with zlib; it is `raw` bytes of BSATN, whole rows back to back, in the order of their insertion.
Tables ascend by id, so the system tables, which say how rows of the others are cut apart, come first; tables without
rows (event tables among them) may be missing. `identity` is the database's.

A snapshot is written to a temporary file, synced piece by piece, renamed, and the directory is synced: a file with the
right name is whole unless the disk damaged it. The hash is verified before anything of it is used.

Only durable transactions go into a snapshot. So a log that ends before its newest snapshot has lost its end.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from struct import Struct
from struct import error as StructError
from typing import Final

import msgspec
from blake3 import blake3

from spacetimedb.log.files import FileSystem, write_all

MAGIC: Final = b"STDBSNAP"
VERSION: Final = 1
HEADER: Final = Struct("<8sIIQQ32s")
"""magic, version, tables, next_offset, created, identity"""
TABLE: Final = Struct("<IIQ")
"""table id, chunks, rows"""
CHUNK: Final = Struct("<IIQQ")
"""rows, 0, raw, stored"""
HASH_BYTES: Final = 32
CHUNK_BYTES: Final = 1 << 20
"""About so many bytes of rows are compressed together; a row is never divided."""
SYNC_BYTES: Final = 8 << 20
"""So much is written between two syncs: one sync of everything would hold up those of the commit log."""
COMPRESSION_LEVEL: Final = 1
KEPT_SNAPSHOTS: Final = 2

_NAME = re.compile(r"\d{20}\.snap")
_TEMPORARY = ".tmp-snapshot"


class SnapshotDamaged(Exception):
    """The snapshot in `file` cannot be used."""

    def __init__(self, file: Path, what: str) -> None:
        super().__init__(f"{file}: {what}")
        self.file = file


class Chunk(msgspec.Struct, frozen=True):
    """`count` rows of a table, back to back."""

    count: int
    rows: bytes


class Snapshot:
    """A snapshot that was read and whose hash is right. `tables()` yields the content, ascending by id."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path = path
        self._data = data
        _, _, self._tables, self.next_offset, self.created_us, self.identity = HEADER.unpack_from(data)

    def tables(self) -> Iterator[tuple[int, Iterator[Chunk]]]:
        """Table ids with their chunks; each table's must be taken before the next table is asked for.

        Raises SnapshotDamaged if the file, though as it was written, makes no sense.
        """
        self._at = HEADER.size
        try:
            for _ in range(self._tables):
                table_id, chunks, _rows = TABLE.unpack_from(self._data, self._at)
                self._at += TABLE.size
                yield table_id, self._chunks(chunks)
        except (zlib.error, StructError, ValueError) as error:
            raise SnapshotDamaged(self.path, f"is not a snapshot: {error}") from error
        if self._at != len(self._data) - HASH_BYTES:
            raise SnapshotDamaged(self.path, "has a wrong length")

    def _chunks(self, count: int) -> Iterator[Chunk]:
        for _ in range(count):
            rows, _, raw, stored = CHUNK.unpack_from(self._data, self._at)
            start = self._at + CHUNK.size
            self._at = start + stored
            data = zlib.decompress(self._data[start : self._at], bufsize=max(raw, 1))
            if len(data) != raw:
                raise SnapshotDamaged(self.path, f"a chunk has {len(data)} bytes instead of {raw}")
            yield Chunk(rows, data)


def snapshot_directory(log_directory: Path) -> Path:
    """Where the snapshots that belong to a log are."""
    return log_directory.with_name("snapshots")


def snapshot_path(directory: Path, next_offset: int) -> Path:
    return directory / f"{next_offset:020}.snap"


def list_snapshots(files: FileSystem, directory: Path) -> list[tuple[int, Path]]:
    """(number of transactions, path) of every snapshot, newest first. Empty if there is no such directory."""
    try:
        names = files.list(directory)
    except FileNotFoundError:
        return []
    return [(int(name[:20]), directory / name) for name in sorted(names, reverse=True) if _NAME.fullmatch(name)]


def read_snapshot(files: FileSystem, path: Path) -> Snapshot:
    """Reads and verifies a snapshot. Raises SnapshotDamaged, OSError."""
    snapshot = parse_snapshot(path, files.read(path))
    if path.name != snapshot_path(path.parent, snapshot.next_offset).name:
        raise SnapshotDamaged(path, f"holds {snapshot.next_offset} transactions, its name says otherwise")
    return snapshot


def parse_snapshot(path: Path, data: bytes) -> Snapshot:
    """Verifies the content of a snapshot in a file of any name. Raises SnapshotDamaged."""
    if len(data) < HEADER.size + HASH_BYTES:
        raise SnapshotDamaged(path, f"is cut short, {len(data)} bytes")
    if blake3(memoryview(data)[:-HASH_BYTES]).digest() != data[-HASH_BYTES:]:
        raise SnapshotDamaged(path, "its content does not match its hash")
    magic, version = HEADER.unpack_from(data)[:2]
    if magic != MAGIC or version != VERSION:
        raise SnapshotDamaged(path, f"is not a snapshot of version {VERSION}")
    return Snapshot(path, data)


class _Output:
    """The temporary file: writes at the end, hashes, syncs now and then."""

    def __init__(self, files: FileSystem, fd: int) -> None:
        self._files = files
        self._fd = fd
        self._hash = blake3()
        self._at = 0
        self._unsynced = 0

    def write(self, data: bytes) -> None:
        self._hash.update(data)
        self._put(data)

    def _put(self, data: bytes) -> None:
        write_all(self._files, self._fd, self._at, data)
        self._at += len(data)
        self._unsynced += len(data)
        if self._unsynced >= SYNC_BYTES:
            self._files.sync_data(self._fd)
            self._unsynced = 0

    def finish(self) -> None:
        self._put(self._hash.digest())
        self._files.sync_data(self._fd)


def write_snapshot(
    files: FileSystem,
    directory: Path,
    tables: Mapping[int, Iterable[bytes]],
    next_offset: int,
    identity: bytes,
    created_us: int,
) -> Path:
    """Writes the snapshot of a database with these rows; returns its path. Raises OSError.

    A failed attempt leaves a temporary file, which the next one replaces.
    """
    files.make_directory(directory)
    temporary = directory / _TEMPORARY
    fd = files.open(temporary)
    try:
        files.truncate(fd, 0)
        out = _Output(files, fd)
        held = {table_id: list(tables[table_id]) for table_id in sorted(tables)}
        held = {table_id: rows for table_id, rows in held.items() if rows}
        out.write(HEADER.pack(MAGIC, VERSION, len(held), next_offset, created_us, identity))
        for table_id, rows in held.items():
            row_bytes = sum(map(len, rows)) // len(rows)
            step = max(1, CHUNK_BYTES // max(1, row_bytes))
            out.write(TABLE.pack(table_id, -(-len(rows) // step), len(rows)))
            for start in range(0, len(rows), step):
                part = rows[start : start + step]
                raw = b"".join(part)
                stored = zlib.compress(raw, COMPRESSION_LEVEL)
                out.write(CHUNK.pack(len(part), 0, len(raw), len(stored)))
                out.write(stored)
        out.finish()
        path = snapshot_path(directory, next_offset)
        files.rename(temporary, path)
        files.sync_directory(directory)
    finally:
        files.close(fd)
    return path


def prune_snapshots(files: FileSystem, directory: Path, keep: int = KEPT_SNAPSHOTS) -> int:
    """Removes damaged snapshots and all but the newest `keep` others; returns the oldest kept number of transactions.

    0 if none is left. Raises OSError.
    """
    kept: list[int] = []
    for next_offset, path in list_snapshots(files, directory):
        usable = len(kept) < keep
        if usable:
            try:
                read_snapshot(files, path)
            except SnapshotDamaged:
                usable = False
        if usable:
            kept.append(next_offset)
        else:
            files.remove(path)
    files.sync_directory(directory)
    return kept[-1] if kept else 0
