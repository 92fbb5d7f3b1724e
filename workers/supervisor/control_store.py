"""The control store: which databases there are, whose they are, what they run, and what they are called.

SQLite in WAL mode with synchronous=FULL: a change is on disk when the method returns. One process uses it.

    databases(identity, owner, replica, program, program_hash, initial_program, created)   one row per existing database
    names(name, identity, position)         what leads to an identity, whether or not a database is there
    claims(name, owner)                     who may register a name; a claim outlives the name
    locks(identity)                         locked against deletion and reset; outlives the database
    counters(name, value)                   `replica`: directories are never used twice

Identities are the 32 bytes that BSATN holds (little-endian), programs and hashes plain bytes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS databases (
    identity BLOB PRIMARY KEY, owner BLOB NOT NULL, replica INTEGER NOT NULL, program BLOB NOT NULL,
    program_hash BLOB NOT NULL, initial_program BLOB NOT NULL, created INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS names (name TEXT PRIMARY KEY, identity BLOB NOT NULL, position INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS claims (name TEXT PRIMARY KEY, owner BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS locks (identity BLOB PRIMARY KEY);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""


class DatabaseRow(msgspec.Struct, frozen=True):
    """One existing database. `initial_program` is the hash of its first program, or of the last reset."""

    identity: bytes
    owner: bytes
    replica: int
    program: bytes
    program_hash: bytes
    initial_program: bytes


class NameTaken(Exception):
    """The name leads to an identity already."""


class NameClaimed(Exception):
    """The name is claimed by somebody else."""


class ControlStore:
    """See the head of the module."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._db.isolation_level = None
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)

    @classmethod
    def open(cls, path: Path | None) -> ControlStore:
        """The store in a file, made when missing; None keeps everything in memory."""
        return cls(sqlite3.connect(":memory:" if path is None else path))

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # -- databases

    def databases(self) -> list[DatabaseRow]:
        """All databases in order of creation."""
        rows = self._db.execute(
            "SELECT identity, owner, replica, program, program_hash, initial_program FROM databases ORDER BY created"
        )
        return [DatabaseRow(*row) for row in rows]

    def database(self, identity: bytes) -> DatabaseRow | None:
        """One database, None if there is none under this identity."""
        row = self._db.execute(
            "SELECT identity, owner, replica, program, program_hash, initial_program FROM databases WHERE identity = ?",
            (identity,),
        ).fetchone()
        return None if row is None else DatabaseRow(*row)

    def new_replica(self) -> int:
        """A number for a data directory that was never used before."""
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO counters VALUES ('replica', 0)")
            self._db.execute("UPDATE counters SET value = value + 1 WHERE name = 'replica'")
            (value,) = self._db.execute("SELECT value FROM counters WHERE name = 'replica'").fetchone()
        return int(value)

    def put_database(self, row: DatabaseRow) -> None:
        """Creates or replaces a database."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO databases VALUES (?, ?, ?, ?, ?, ?, (SELECT COALESCE(MAX(created), 0) + 1 FROM databases))"
                " ON CONFLICT (identity) DO UPDATE SET owner = excluded.owner, replica = excluded.replica,"
                " program = excluded.program, program_hash = excluded.program_hash,"
                " initial_program = excluded.initial_program",
                (row.identity, row.owner, row.replica, row.program, row.program_hash, row.initial_program),
            )

    def set_program(self, identity: bytes, program: bytes, program_hash: bytes) -> None:
        """The database runs another program."""
        self._db.execute(
            "UPDATE databases SET program = ?, program_hash = ? WHERE identity = ?", (program, program_hash, identity)
        )

    def delete_database(self, identity: bytes) -> None:
        """The database is gone; its names and its lock stay."""
        self._db.execute("DELETE FROM databases WHERE identity = ?", (identity,))

    # -- locks

    def is_locked(self, identity: bytes) -> bool:
        """Whether the database is protected from deletion and reset."""
        return self._db.execute("SELECT 1 FROM locks WHERE identity = ?", (identity,)).fetchone() is not None

    def set_locked(self, identity: bytes, locked: bool) -> None:
        """Sets or takes away the protection."""
        if locked:
            self._db.execute("INSERT OR IGNORE INTO locks VALUES (?)", (identity,))
        else:
            self._db.execute("DELETE FROM locks WHERE identity = ?", (identity,))

    # -- names

    def all_names(self) -> list[tuple[str, bytes]]:
        """Every name with its identity, the names of an identity in their order."""
        return list(self._db.execute("SELECT name, identity FROM names ORDER BY identity, position"))

    def resolve(self, name: str) -> bytes | None:
        """The identity a name leads to."""
        row = self._db.execute("SELECT identity FROM names WHERE name = ?", (name,)).fetchone()
        return None if row is None else bytes(row[0])

    def _claim(self, name: str, owner: bytes) -> None:
        row = self._db.execute("SELECT owner FROM claims WHERE name = ?", (name,)).fetchone()
        if row is not None and bytes(row[0]) != owner:
            raise NameClaimed(name)
        self._db.execute("INSERT OR IGNORE INTO claims VALUES (?, ?)", (name, owner))

    def add_name(self, name: str, identity: bytes, owner: bytes) -> None:
        """Registers one more name. Raises NameClaimed, NameTaken."""
        with self._transaction():
            self._claim(name, owner)
            if self.resolve(name) is not None:
                raise NameTaken(name)
            self._db.execute(
                "INSERT INTO names VALUES"
                " (?, ?, (SELECT COALESCE(MAX(position), 0) + 1 FROM names WHERE identity = ?))",
                (name, identity, identity),
            )

    def set_names(self, names: list[str], identity: bytes, owner: bytes) -> None:
        """Replaces all names of an identity. Raises NameClaimed, NameTaken (also for a name it has now)."""
        with self._transaction():
            for name in names:
                if self.resolve(name) is not None:
                    raise NameTaken(name)
            old = [row[0] for row in self._db.execute("SELECT name FROM names WHERE identity = ?", (identity,))]
            for name in [*names, *old]:
                self._claim(name, owner)
            self._db.execute("DELETE FROM names WHERE identity = ?", (identity,))
            for position, name in enumerate(dict.fromkeys(names)):
                self._db.execute("INSERT INTO names VALUES (?, ?, ?)", (name, identity, position))
