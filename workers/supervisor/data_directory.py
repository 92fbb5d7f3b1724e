"""The data directory: held by one server at a time, and by servers of this program only.

    spacetime.pid       locked by the server that uses the directory; holds its pid
    metadata.toml       version = "V", edition = "python": the official server refuses a directory of another edition
    control.sqlite      databases, names and owners (`control_store`)
    replicas/N/         one database: clog/ (log and snapshots), module_logs/

The official server, whose default directory is the same, numbers `replicas` by itself: two in one directory would write
into each other's logs.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from spacetimedb.workers.options import ServerOptions
from spacetimedb.workers.supervisor.errors import ServerError

METADATA: Final = '# This directory belongs to SpacetimeDB in Python.\nversion = "2.8.3"\nedition = "python"\n'
OFFICIAL_STORE: Final = "control-db"
"""Where the official server keeps what `control.sqlite` holds here."""


@asynccontextmanager
async def data_directory(options: ServerOptions) -> AsyncIterator[Path]:
    """The data directory, locked for this process; a temporary one for a server in memory. Raises ServerError."""
    if options.in_memory or options.data_dir is None:
        directory = Path(tempfile.mkdtemp(prefix="spacetimedb-"))
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        return
    directory = options.data_dir
    try:
        directory.mkdir(parents=True, exist_ok=True)
        pid_file = directory / "spacetime.pid"
        fd = os.open(pid_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ServerError(f"cannot use the data directory {directory}: {error.strerror}") from None
    try:
        # Nobody removes the file, so whoever locks it locks the same one.
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(fd, 32).decode(errors="replace")
        os.close(fd)
        raise ServerError(
            f"the data directory {directory} is in use by the server with pid {owner}; "
            "stop it or choose another --data-dir"
        ) from None
    try:
        _claim(directory)
        os.ftruncate(fd, 0)
        os.write(fd, str(os.getpid()).encode())
        os.fdatasync(fd) if hasattr(os, "fdatasync") else os.fsync(fd)
        yield directory
    finally:
        os.ftruncate(fd, 0)
        os.close(fd)


def _claim(directory: Path) -> None:
    """Marks a directory as this program's. ServerError if it is another's."""
    metadata = directory / "metadata.toml"
    try:
        edition = tomllib.loads(metadata.read_text("utf-8")).get("edition")
    except FileNotFoundError:
        edition = "standalone" if (directory / OFFICIAL_STORE).exists() else None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise ServerError(f"{metadata} cannot be read; if the directory is this program's, delete the file") from None
    if edition is None:
        metadata.write_text(METADATA)
    elif edition != "python":
        raise ServerError(
            f"the data directory {directory} belongs to another server (SpacetimeDB, edition {edition}); "
            "choose another with --data-dir"
        )
