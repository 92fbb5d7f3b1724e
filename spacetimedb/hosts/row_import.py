"""Rows that an owner brings along: inserted as they are, in one transaction.

`data` is BSATN of whole rows of one table, back to back. As in a reducer, a zero in an auto-increment column stands for
a number yet to be given. The column's sequence goes on behind the largest number that came.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spacetimedb.hosts.mail import ROW_COUNTS
from spacetimedb.module.errors import UniqueViolation
from spacetimedb.sql.errors import SqlError
from spacetimedb.types.bsatn import codec
from spacetimedb.types.errors import DecodeError

if TYPE_CHECKING:
    from spacetimedb.hosts.database import Database


def import_rows(database: Database, name: str, data: bytes) -> bytes:
    """Inserts the rows in the present transaction; returns the three row counts.

    Rows that are there already are passed over. Raises SqlError; of a row's error the text begins with `row N: `,
    counted from 0.
    """
    table = database.store.by_name.get(name) if name in database.definition.tables_by_name else None
    if table is None:
        raise SqlError(f"no such table: `{name}`")
    if table.definition.is_event:
        raise SqlError(f"`{name}` is an event table, which holds no rows")
    decode = codec(table.shape).decode
    insert = table.handle.insert
    attributes = [table.shape.fields[sequence.column].attr for sequence in table.sequences]
    largest = [0] * len(attributes)
    before, at, number = table.row_count, 0, 0
    try:
        while at < len(data):
            row, at = decode(data, at)
            insert(row)
            for n, attribute in enumerate(attributes):
                largest[n] = max(largest[n], getattr(row, attribute))
            number += 1
    except DecodeError as error:
        raise SqlError(f"row {number}: {error}") from None
    except UniqueViolation as error:
        raise SqlError(f"row {number}: {database.store.explain_violation(error)}") from None
    for sequence, number in zip(table.sequences, largest, strict=True):
        database.store.skip_past(sequence, number)
    return ROW_COUNTS.pack(table.row_count - before, 0, 0)
