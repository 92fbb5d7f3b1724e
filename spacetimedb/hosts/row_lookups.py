"""Answers of the database to readers that do not know a table: rows by the keys of an index, or by their places in the
table (LOOK_UP and PAGE in `mail`)."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from spacetimedb.hosts import mail
from spacetimedb.subscriptions.large_tables import LARGE_TABLE

if TYPE_CHECKING:
    from spacetimedb.hosts.database import Database
    from spacetimedb.store.table import Table

MAX_FOUND: Final = 65_536
"""Rows that are looked up at once; whoever wants more needs the table."""
MAX_SKIPPED: Final = 2_000_000
"""Rows between a page and the nearer end of its table, which are walked over (some ns each)."""


def answer(database: Database, reader: int, number: int, body: bytes, whatever: bool) -> bytes:
    """The LOOKED_UP record, between two transactions. O(rows found)."""
    table_id, column = mail.LOOK_UP_HEAD.unpack_from(body)
    table = database.store.tables.get(table_id)
    if table is None or (table.row_count < LARGE_TABLE and not whatever):
        return mail.looked_up(reader, number, 0, 0)
    found = table.look_up(column, mail.look_up_keys(body), None if whatever else MAX_FOUND)
    if found is None:
        return mail.looked_up(reader, number, 0, 0)
    return _found(database, reader, number, table, found)


def answer_page(database: Database, reader: int, number: int, body: bytes) -> bytes:
    """The LOOKED_UP record, between two transactions. O(rows between the page and the nearer end of the table)."""
    table_id, count, offset = mail.PAGE_BODY.unpack(body)
    table = database.store.tables.get(table_id)
    if table is None or table.row_count < LARGE_TABLE or count > MAX_FOUND:
        return mail.looked_up(reader, number, 0, 0)
    if min(offset, max(table.row_count - offset - count, 0)) > MAX_SKIPPED:
        return mail.looked_up(reader, number, 0, 0)
    return _found(database, reader, number, table, table.page(offset, count))


def _found(database: Database, reader: int, number: int, table: Table, found: list[int]) -> bytes:
    heap = database.heap
    block = heap.put(array("Q", found).tobytes())
    heap.retired.append(block)
    return mail.looked_up(reader, number, table.row_count, block)
