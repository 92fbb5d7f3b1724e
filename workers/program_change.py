"""A reader's switch to another program of a database, at its place in the commit ring.

Clients stay, and so do their subscriptions: ids of tables change only when all clients are disconnected. Queries over
a table whose columns have grown are compiled anew, because rows with new variants cannot be read with the old types.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from spacetimedb.hosts.mail import GENERATIONS, Program
from spacetimedb.protocol import v2
from spacetimedb.sql.errors import SqlError
from spacetimedb.workers.catalog import DatabaseCatalog
from spacetimedb.workers.messages import DatabaseUp

if TYPE_CHECKING:
    from spacetimedb.workers.client import Client
    from spacetimedb.workers.database_link import DatabaseLink


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
    link.subscriptions.forget_plans()
    link.v1.follow_catalog(link.catalog.for_caller(link.owner))
    grown = {
        new.table_ids[table.name]
        for table in new.definition.all_tables
        if table.name in old.definition.tables_by_name
        and old.table_ids[table.name] == new.table_ids[table.name]
        and old.definition.tables_by_name[table.name].row_type != table.row_type
    }
    if not grown.isdisjoint(link.subscriptions.tables):
        _subscribe_again(link, grown)


def _subscribe_again(link: DatabaseLink, grown: Iterable[int]) -> None:
    """Gives the clients that read these tables new queries for the old ones; they do not notice."""
    subscriptions = link.subscriptions
    concerned: list[tuple[Client, dict[int, list[str]]]] = []
    for client in link.all_clients():
        if not subscriptions.reads_of(client.number).isdisjoint(grown):
            concerned.append((client, subscriptions.texts_of(client.number)))
    for client, _sets in concerned:
        subscriptions.drop_client(client.number)
    for client, sets in concerned:
        catalog = link.catalog.for_caller(client.identity)
        try:
            for set_id, texts in sets.items():
                queries = subscriptions.compile_set(texts, client.identity, client.is_owner, catalog)
                subscriptions.subscribe(client.number, set_id, queries)
        except SqlError:  # what it reads was made private by the same program
            link.lane.close(client, v2.MODULE_EXITED_CLOSE, v2.MODULE_EXITED)


def close_clients(link: DatabaseLink, clients: Iterable[Client]) -> None:
    """The database has disconnected these clients."""
    for client in clients:
        link.lane.close(client, v2.MODULE_EXITED_CLOSE, v2.MODULE_EXITED)
