"""`spacetime subscribe`: prints what changes, one JSON line per transaction.

A line is `{"TABLE": {"deletes": [ROW...], "inserts": [ROW...]}, ...}`; rows are objects with the columns' names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import click
import msgspec

from ..protocol import v2_client as v2
from .api import Server
from .options import OptionalValues, Settings, anonymous_option, pass_settings, server_option, yes_option
from .schema import Schema

if TYPE_CHECKING:
    from .session import Session

RowPrinter = Callable[[bytes], str]
"""Bytes of a row -> its JSON text."""

Changes = dict[str, dict[str, list[str]]]
"""By table: "deletes" and "inserts", each a list of JSON texts."""


@click.command(cls=OptionalValues)
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
    watch = Watch(
        target=target,
        identity=identity,
        queries=queries,
        printers=printers,
        num_updates=num_updates,
        print_initial_update=print_initial_update,
        confirmed=confirmed,
    )
    import trio  # heavy: only this command needs it

    async def limited() -> bool:
        with trio.move_on_after(timeout if timeout is not None else float("inf")) as scope:
            await watch.run()
        return scope.cancelled_caught

    try:
        timed_out = trio.run(limited)
    except KeyboardInterrupt:
        return
    if timed_out:
        click.echo(f"timed out after {timeout:g}s", err=True)


class Watch(msgspec.Struct, kw_only=True):
    """One run of `subscribe`; `identity` is the database's, in hex."""

    target: Server
    identity: str
    queries: Sequence[str]
    printers: dict[str, RowPrinter]
    num_updates: int | None
    print_initial_update: bool
    confirmed: bool | None
    printed: int = 0

    async def run(self) -> None:
        """Until so many updates are printed. ClickException if the server refuses, errs or goes away."""
        from .session import SessionLost, SessionRefused, open_session

        try:
            async with open_session(
                self.target.url, self.identity, token=self.target.token, confirmed=self.confirmed
            ) as session:
                await self._watch(session)
        except (SessionRefused, SessionLost) as error:
            raise click.ClickException(str(error)) from None

    async def _watch(self, session: Session) -> None:
        await session.send(v2.subscribe(session.next_request(), 1, self.queries))
        while True:
            for message in await session.receive():
                if isinstance(message, v2.SubscriptionError):
                    raise click.ClickException(f"encountered error in initial subscribe: {message.error}")
                if isinstance(message, v2.SubscribeApplied) and self.print_initial_update:
                    self._print(self.initial(message))
                elif isinstance(message, v2.TransactionUpdate):
                    self._print(self.changes(message.query_sets))
                    self.printed += 1
                    if self.printed == self.num_updates:
                        return

    @staticmethod
    def _print(changes: Changes) -> None:
        tables = (
            f'{json.dumps(table)}:{{"deletes":[{",".join(entry["deletes"])}],"inserts":[{",".join(entry["inserts"])}]}}'
            for table, entry in changes.items()
        )
        click.echo("{" + ",".join(tables) + "}")

    def initial(self, message: v2.SubscribeApplied) -> Changes:
        changes: Changes = {}
        for table in message.tables:
            self._add(changes, table.table, inserts=table.rows.rows())
        return changes

    def changes(self, query_sets: Iterable[v2.QuerySetUpdate]) -> Changes:
        changes: Changes = {}
        for table in (table for query_set in query_sets for table in query_set.tables):
            for rows in table.rows:
                if isinstance(rows, v2.EventRows):
                    self._add(changes, table.table, inserts=rows.events.rows())
                else:
                    self._add(changes, table.table, deletes=rows.deletes.rows(), inserts=rows.inserts.rows())
        return changes

    def _add(
        self, changes: Changes, table: str, *, deletes: Sequence[bytes] = (), inserts: Sequence[bytes] = ()
    ) -> None:
        entry = changes.setdefault(table, {"deletes": [], "inserts": []})
        printer = self.printers.get(table, _unknown_row)
        entry["deletes"] += map(printer, deletes)
        entry["inserts"] += map(printer, inserts)


def _unknown_row(row: bytes) -> str:
    return json.dumps(row.hex())  # of a table that was made after we read the schema


def row_printers(schema: Schema) -> dict[str, RowPrinter]:
    """For each table a function from the bytes of a row to its JSON object."""
    from ..types.algebraic import Typespace, type_from_json
    from ..types.sats_json import row_to_json

    printers: dict[str, RowPrinter] = {}
    for name, table in schema.tables.items():
        typespace = Typespace(tuple(map(type_from_json, table.typespace)))
        reader = row_to_json(typespace.resolve(type_from_json(table.row_type)), "typed", typespace)
        printers[name] = partial(_row_object, reader)
    return printers


def _row_object(reader: Callable[[bytes, int], tuple[str, int]], row: bytes) -> str:
    return reader(row, 0)[0]
