"""`spacetime backup` and `spacetime restore`: a whole database, as it was at one transaction, in one file."""

from __future__ import annotations

import http.client
import os
from pathlib import Path
from urllib.parse import quote

import click

from .api import Server, refused, require
from .options import OptionalValues, Settings, pass_settings, server_option, yes_option
from .progress import progress

PIECE_BYTES = 4 << 20
SUFFIX = ".part"


@click.command(cls=OptionalValues)
@click.argument("database")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
@server_option
@yes_option
@pass_settings
def backup(
    settings: Settings, database: str, file: Path, overwrite: bool, server: str | None, yes: frozenset[str]
) -> None:
    """Writes DATABASE, with its program, into FILE: all that is durable at one moment. Calls go on meanwhile.

    `spacetime restore FILE NAME` makes a database of it, on this or another server.
    """
    if file.exists() and not overwrite:
        raise click.ClickException(f"{file} exists; --overwrite replaces it")
    target = settings.connect(server)
    identity = target.resolve(database)
    click.echo(f"Backing up {database}...", err=True)
    response = target.open(f"/v1/database/{identity}/backup")
    size, transactions, rows = (
        int(response.getheader(f"spacetime-backup-{name}") or 0) for name in ("bytes", "transactions", "rows")
    )
    part = file.with_name(file.name + SUFFIX)
    try:
        _receive(target, response, part, size)
        os.replace(part, file)
    except OSError as error:
        raise click.ClickException(f"{file} cannot be written: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)
    click.echo(f"{file}: {rows} rows (system tables included) after {transactions} transactions, {size / 1e6:.1f} MB")


def _receive(target: Server, response: http.client.HTTPResponse, part: Path, size: int) -> None:
    """Writes the answer into a file, checks it, and makes it durable."""
    from ..log.snapshot import SnapshotDamaged, parse_snapshot

    with part.open("wb") as out, progress("Receiving", size) as advance:
        try:
            while data := response.read(PIECE_BYTES):
                out.write(data)
                advance(len(data))
        except (TimeoutError, ConnectionError, http.client.HTTPException):
            raise click.ClickException(f"the server at {target.url} hung up in the middle of the backup") from None
        out.flush()
        os.fsync(out.fileno())
    try:
        parse_snapshot(part, part.read_bytes())
    except SnapshotDamaged as error:
        raise click.ClickException(f"the backup is damaged: {error}") from None


@click.command(cls=OptionalValues)
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("database")
@click.option("--overwrite", is_flag=True, help="Replace DATABASE, with all its rows, if it exists.")
@click.option("--keep-owner", is_flag=True, help="The database belongs to whom it belonged, not to you.")
@server_option
@yes_option
@pass_settings
def restore(
    settings: Settings,
    file: Path,
    database: str,
    overwrite: bool,
    keep_owner: bool,
    server: str | None,
    yes: frozenset[str],
) -> None:
    """Makes DATABASE of the backup in FILE: rows, program, and everything else that was in it."""
    target = settings.connect(server)
    query = {
        "database": database,
        "overwrite": "true" if overwrite else None,
        "keep_owner": "true" if keep_owner else None,
    }
    upload = require(target.request("POST", "/v1/restore", query=query), target.url).json()["upload"]
    path = f"/v1/restore/{quote(upload, safe='')}"
    try:
        _send(target, path, file)
    except BaseException:
        target.request("DELETE", path)
        raise
    click.echo("Restoring...", err=True)
    answer = target.request("POST", path)
    if not answer.ok:
        raise refused(answer, target.url)
    done = answer.json()
    click.echo(
        f"Restored {database}: {done['rows']} rows (system tables included) after {done['transactions']} transactions."
    )
    click.echo(f"Identity: {done['database_identity']}")


def _send(target: Server, path: str, file: Path) -> None:
    at = 0
    with file.open("rb") as source, progress("Sending", file.stat().st_size) as advance:
        while data := source.read(PIECE_BYTES):
            require(target.request("PUT", path, query={"offset": str(at)}, body=data), target.url)
            at += len(data)
            advance(len(data))
