"""Commands about what is kept on disk: `snapshot`."""

from __future__ import annotations

import click

from .api import require
from .options import OptionalValues, Settings, pass_settings, server_option, yes_option


@click.command(cls=OptionalValues, short_help="Write a snapshot of a database now.")
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
