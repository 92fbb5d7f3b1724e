"""A reader's switch to another program of a database, at its place in the commit ring.

Clients stay, and so do their subscriptions: ids of tables change only when all clients are disconnected. Queries over
a table whose columns have grown are compiled anew, because rows with new variants cannot be read with the old types;
those over one table with other indexes too, to be looked up by these.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from spacetimedb.hosts.mail import GENERATIONS, Program
from spacetimedb.protocol import v2
from spacetimedb.types.special import Identity
from spacetimedb.workers.messages import DatabaseUp
from spacetimedb.workers.reader.catalog import DatabaseCatalog

if TYPE_CHECKING:
    from spacetimedb.sql.catalog import Catalog
    from spacetimedb.workers.reader.client import Client
    from spacetimedb.workers.reader.database_link import DatabaseLink

NOBODY: Final = Identity(bytes(32))


def is_newer(generation: int, than: int) -> bool:
    """Whether a program came after another; they are counted modulo GENERATIONS."""
    return 0 < (generation - than) % GENERATIONS < GENERATIONS // 2


def follow_record(link: DatabaseLink, program: Program) -> None:
    """The ring says that another program runs from here on."""
    follow_program(
        link,
        replace(link.up, definition=program.definition, table_ids=program.table_ids, generation=program.generation),
    )


def follow_program(link: DatabaseLink, up: DatabaseUp) -> None:
    """Another program; does nothing if it is known, or older than the one that runs."""
    if not is_newer(up.generation, link.up.generation):
        return
    old = link.catalog
    link.up = up
    link.catalog = new = DatabaseCatalog(up)
    for table_id, rows in link.tables.known.items():
        rows.row_size_is_fixed = table_id in new.fixed_size_tables
    waiting = link.lookups.forget_all()
    link.subscriptions.forget_plans()
    link.v1.follow_catalog(link.catalog.for_caller(link.owner))
    before = old.definition.tables_by_name
    same = {
        new.table_ids[table.name]: (before[table.name], table)
        for table in new.definition.all_tables
        if table.name in before and old.table_ids[table.name] == new.table_ids[table.name]
    }
    grown = {number for number, (was, table) in same.items() if was.row_type != table.row_type}
    reindexed = {number for number, (was, table) in same.items() if was.indexes != table.indexes}
    if not (grown | reindexed).isdisjoint(link.subscriptions.tables):
        for table_id in link.tables.known.keys() & link.subscriptions.tables.keys():
            link.tables.known[table_id].enter_all()
        _compile_anew(link, grown, reindexed)
    for then in waiting:
        then()


def _compile_anew(link: DatabaseLink, grown: Collection[int], reindexed: Collection[int]) -> None:
    """Gives the live queries that read these tables new code; clients do not notice."""

    def catalog_of(is_owner: bool, caller: Identity | None) -> tuple[Catalog, Identity]:
        identity = link.owner if is_owner else caller or NOBODY
        return link.views.catalog(link.catalog.for_caller(identity), identity), identity

    for number in link.subscriptions.compile_anew(grown, reindexed, catalog_of):
        client = link.clients.get(number) or link.v1.clients.get(number)
        if client is not None:  # what it reads was made private by the same program
            close_clients(link, [client])


def close_clients(link: DatabaseLink, clients: Iterable[Client]) -> None:
    """The database has disconnected these clients."""
    for client in clients:
        link.lane.close(client, v2.MODULE_EXITED_CLOSE, v2.MODULE_EXITED)
