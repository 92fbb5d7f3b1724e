"""Row lists and their wrappings in BSATN, as answers and updates carry them.

    BsatnRowList     size hint: 00 FixedSize u16 | 01 RowOffsets array<u64>; then the rows as bytes (u32 length first)
    SingleTableRows  table name (string), BsatnRowList
    TableUpdateRows  00 PersistentTable: inserts, then deletes | 01 EventTable: events
    TableUpdate      table name (string), array<TableUpdateRows>
    QuerySetUpdate   u32 query set id, array<TableUpdate>

A list of rows of one length from 1 to 65535 has the hint FixedSize, an empty one always RowOffsets([]).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate
from struct import Struct as Layout
from typing import Final

from spacetimedb.store.commit_record import Rows

_FIXED: Final = Layout("<BHI")
_COUNT: Final = Layout("<I")
_OFFSETS: Final = Layout("<BI")
_SET: Final = Layout("<II")
_ALONE: Final = Layout("<III")
_TWO_FIXED: Final = Layout("<BBHI")
MAX_FIXED_SIZE: Final = 65_535
NO_ROWS: Final = b"\x01" + bytes(8)
"""The row list without rows."""
_DELETES_ONLY: Final = b"\0" + NO_ROWS


def u32(number: int) -> bytes:
    """A count or id."""
    return _COUNT.pack(number)


def string(text: str) -> bytes:
    """A string."""
    data = text.encode()
    return _COUNT.pack(len(data)) + data


def row_list_head(size: int, count: int, lengths: Sequence[int] | int) -> bytes:
    """What stands before the ``size`` bytes of ``count`` rows in a BsatnRowList; ``lengths``: of all, or of each."""
    if not count:
        return NO_ROWS
    if not isinstance(lengths, int):
        first = lengths[0]
        # A memoryview has no count().
        if not 0 < first <= MAX_FIXED_SIZE or array("I", lengths).count(first) != count:
            offsets = array("Q", accumulate(lengths, initial=0))
            offsets.pop()
            return b"".join((_OFFSETS.pack(1, count), offsets.tobytes(), _COUNT.pack(size)))
        lengths = first
    if 0 < lengths <= MAX_FIXED_SIZE:
        return _FIXED.pack(0, lengths, size)
    offsets = array("Q", range(0, lengths * count, lengths)) if lengths else array("Q", bytes(8 * count))
    return b"".join((_OFFSETS.pack(1, count), offsets.tobytes(), _COUNT.pack(size)))


def row_list(data: bytes, count: int, lengths: Sequence[int] | int) -> bytes:
    """A BsatnRowList of ``count`` rows back to back in ``data``; ``lengths``: of all, or of each."""
    return row_list_head(len(data), count, lengths) + data


def row_list_of(rows: Sequence[bytes]) -> bytes:
    """A BsatnRowList of separate rows."""
    if len(rows) == 1:
        row = rows[0]
        if 0 < len(row) <= MAX_FIXED_SIZE:
            return _FIXED.pack(0, len(row), len(row)) + row
    return row_list(b"".join(rows), len(rows), list(map(len, rows)))


def _forwarded(rows: Rows) -> bytes:
    return row_list(rows.data, rows.row_count, rows.row_length if rows.lengths is None else rows.lengths)


def whole_table_update(inserts: Rows, deletes: Rows) -> bytes:
    """The TableUpdateRows of everything that changed, from the bytes of the commit record."""
    n = inserts.row_length
    if 0 < n <= MAX_FIXED_SIZE and n == deletes.row_length:
        first, second = inserts.data, deletes.data
        return b"".join((_TWO_FIXED.pack(0, 0, n, len(first)), first, _FIXED.pack(0, n, len(second)), second))
    return b"".join((b"\0", _forwarded(inserts), _forwarded(deletes)))


def whole_event_update(events: Rows) -> bytes:
    """The TableUpdateRows of an event table, from the bytes of the commit record."""
    return b"\x01" + _forwarded(events)


def table_update(inserts: Sequence[bytes], deletes: Sequence[bytes]) -> bytes:
    """The TableUpdateRows of a stored table from separate rows."""
    if not inserts:
        return _DELETES_ONLY + row_list_of(deletes)
    return b"".join((b"\0", row_list_of(inserts), row_list_of(deletes) if deletes else NO_ROWS))


def event_update(events: Sequence[bytes]) -> bytes:
    """The TableUpdateRows of an event table from separate rows."""
    return b"\x01" + row_list_of(events)


def alone_head(query_set_id: int) -> bytes:
    """What stands before the only table of the only QuerySetUpdate of an update."""
    return _ALONE.pack(1, query_set_id, 1)


def set_head(query_set_id: int, tables: int) -> bytes:
    """What stands before the tables of a QuerySetUpdate."""
    return _SET.pack(query_set_id, tables)
