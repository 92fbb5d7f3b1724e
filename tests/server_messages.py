"""Messages of a v2 server, put together from the parts that the server has for them (`subscriptions.wire`)."""

from __future__ import annotations

from collections.abc import Sequence

from spacetimedb.protocol import v2
from spacetimedb.subscriptions.wire import set_head, string, u32


def table_rows(table: str, rows: bytes) -> bytes:
    """SingleTableRows; `rows` is a BsatnRowList."""
    return string(table) + rows


def persistent_rows(inserts: bytes, deletes: bytes) -> bytes:
    """TableUpdateRows of a stored table from two BsatnRowLists."""
    return b"\0" + inserts + deletes


def event_rows(events: bytes) -> bytes:
    """TableUpdateRows of an event table from one BsatnRowList."""
    return b"\1" + events


def table_update(table: str, rows: Sequence[bytes]) -> bytes:
    """TableUpdate of one TableUpdateRows per query."""
    return string(table) + array(rows)


def query_set_update(query_set_id: int, tables: Sequence[bytes]) -> bytes:
    """QuerySetUpdate of TableUpdates."""
    return set_head(query_set_id, len(tables)) + b"".join(tables)


def array(elements: Sequence[bytes]) -> bytes:
    """An array of elements in BSATN."""
    return u32(len(elements)) + b"".join(elements)


def subscribe_applied(request_id: int, query_set_id: int, tables: Sequence[bytes]) -> bytes:
    """A whole SubscribeApplied."""
    return v2.subscribe_applied_head(request_id, query_set_id, len(tables)) + b"".join(tables)


def unsubscribe_applied(request_id: int, query_set_id: int, tables: Sequence[bytes] | None) -> bytes:
    """A whole UnsubscribeApplied."""
    return v2.unsubscribe_applied_head(request_id, query_set_id, tables) + b"".join(tables or ())


def transaction_update(updates: Sequence[bytes]) -> bytes:
    """A TransactionUpdate of QuerySetUpdates."""
    return b"\4" + array(updates)
