"""`spacetime subscribe`: prints what changes, one JSON line per transaction.

A line is `{"TABLE": {"deletes": [ROW...], "inserts": [ROW...]}, ...}`; rows are objects with the columns' names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlencode, urlsplit

import click

from .api import Server, refused_text
from .options import OptionalValues, Settings, anonymous_option, pass_settings, server_option, yes_option
from .schema import Schema

MAXIMUM_MESSAGE_BYTES = 512 * 1024 * 1024
SUBPROTOCOLS = ("v3.bsatn.spacetimedb", "v2.bsatn.spacetimedb")

RowPrinter = Callable[[bytes], Any]


@click.command(cls=OptionalValues, short_help="Print changes as they happen.")
@click.argument("database")
@click.argument("queries", nargs=-1, required=True)
@server_option
@click.option("-n", "--num-updates", type=click.IntRange(1), help="Stop after so many updates.")
@click.option("-t", "--timeout", type=click.FloatRange(min=0, min_open=True), help="Stop after so many seconds.")
@click.option("--print-initial-update", is_flag=True, help="Begin with the rows that are there already.")
@click.option("--confirmed", type=bool, help="false: show changes before they are safe on disk.")
@yes_option
@anonymous_option
@pass_settings
def subscribe(
    settings: Settings,
    database: str,
    queries: tuple[str, ...],
    server: str | None,
    num_updates: int | None,
    timeout: float | None,
    print_initial_update: bool,
    confirmed: bool | None,
    yes: frozenset[str],
    anonymous: bool,
) -> None:
    """Subscribes to QUERIES (e.g. "SELECT * FROM player") and prints every change, until Ctrl-C."""
    target = settings.connect(server, anonymous=anonymous)
    identity = target.resolve(database)
    printers = row_printers(Schema(target.schema(identity)))
    target.close()
    import trio  # heavy: only this command needs it

    watch = _Watch(target, identity, queries, printers, num_updates, print_initial_update, confirmed)
    with trio.CancelScope() if timeout is None else trio.CancelScope():
        trio.run(watch.run, timeout)
    if watch.timed_out:
        click.echo(f"timed out after {timeout:g}s", err=True)


def row_printers(schema: Schema) -> dict[str, RowPrinter]:
    """For each table a function from the bytes of a row to its JSON object."""
    from ..types.algebraic import Typespace, type_from_json

    typespace = Typespace(tuple(type_from_json(t) for t in schema.types))
    return {name: row_printer(typespace, typespace[table.type_ref]) for name, table in schema.tables.items()}
