"""Commands about what is kept on disk: `snapshot`, and `log check`, `log repair` for the files of a stopped server."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .api import require
from .options import OptionalValues, Settings, confirm, pass_settings, server_option, yes_option


@click.command(cls=OptionalValues)
@click.argument("database")
@server_option
@yes_option
@pass_settings
def snapshot(settings: Settings, database: str, server: str | None, yes: frozenset[str]) -> None:
    """Writes a snapshot of DATABASE, so that recovery needs the commit log only from here on.

    The server takes snapshots by itself when the log has grown enough. Calls go on meanwhile.
    """
    target = settings.connect(server)
    identity = target.resolve(database)
    taken = require(target.request("POST", f"/v1/database/{identity}/snapshot"), target.url).json()
    click.echo(
        f"Snapshot of {taken['rows']} rows after {taken['next_offset']} transactions: "
        f"{taken['bytes'] / 1e6:.1f} MB in {taken['seconds']:.1f} s"
    )


@click.group("log")
def commit_log() -> None:
    """Looks at the files of a database: PATH is its directory below `replicas` in the data directory, or its log's."""


_path = click.argument("path", type=click.Path(path_type=Path, exists=True, file_okay=False))


@commit_log.command("check", short_help="Say what is there and whether it is whole.")
@_path
def check_log(path: Path) -> None:
    """Reads the log and the snapshots in PATH; changes nothing. Exit code 1 if a server would refuse them."""
    from ..log.repair import check, log_directory

    report = check(log_directory(path))
    for line in report.lines:
        click.echo(line)
    if report.problem is not None:
        click.echo(f"Error: {report.problem}", err=True)
        sys.exit(1)
    click.echo(f"Whole: {report.next_offset} transactions, {report.rows} rows.")


@commit_log.command("repair", cls=OptionalValues, short_help="Cut off what is damaged.")
@_path
@yes_option
def repair_log(path: Path, yes: frozenset[str]) -> None:
    """Cuts the log in PATH where it is damaged, so that a server opens it. What is behind the damage is lost.

    Nothing is deleted: what is cut off stays beside it under another name.
    """
    from ..log.commit_log import LogLocked
    from ..log.recovery import ReplayError
    from ..log.repair import check, log_directory, repair
    from ..log.segments import LogDamaged

    directory = log_directory(path)
    problem = check(directory).problem
    if problem is None:
        click.echo("Nothing is damaged.")
        return
    click.echo(problem)
    confirm("Cut the log there?", bool(yes), "not repaired: nobody agreed to it (answer with --yes)")
    try:
        done = repair(directory)
    except (LogDamaged, LogLocked, ReplayError) as error:
        raise click.ClickException(f"this cannot be repaired by cutting: {error}") from None
    for line in done:
        click.echo(line)
