"""Answers of the database to readers that look for rows by the keys of an index (LOOK_UP in `mail`)."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from spacetimedb.hosts import mail
from spacetimedb.subscriptions.large_tables import LARGE_TABLE

if TYPE_CHECKING:
    from spacetimedb.hosts.database import Database

MAX_FOUND: Final = 65_536
"""Rows that are looked up at once; whoever wants more needs the table."""


def answer(database: Database, reader: int, number: int, body: bytes, whatever: bool) -> bytes:
    """The LOOKED_UP record, between two transactions. O(rows found)."""
    table_id, column = mail.LOOK_UP_HEAD.unpack_from(body)
    table = database.store.tables.get(table_id)
    if table is None or (table.row_count < LARGE_TABLE and not whatever):
        return mail.looked_up(reader, number, 0, 0)
    found = table.look_up(column, mail.look_up_keys(body), None if whatever else MAX_FOUND)
    if found is None:
        return mail.looked_up(reader, number, 0, 0)
    heap = database.heap
    block = heap.put(array("Q", found).tobytes())
    heap.retired.append(block)
    return mail.looked_up(reader, number, table.row_count, block)
