"""The variable `row_limit` (a row of st_var): how many rows a query of callers other than the owner may look at.

A reader knows the rows of st_var for as long as such callers ask something.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct as Layout
from typing import TYPE_CHECKING, Final

from spacetimedb.schema.system_tables import ST_VAR_ID
from spacetimedb.sql.errors import SqlError
from spacetimedb.sql.estimate import check_limit

if TYPE_CHECKING:
    from spacetimedb.sql.select_plan import SelectPlan
    from spacetimedb.subscriptions.query import Query
    from spacetimedb.workers.reader.database_link import DatabaseLink

_LENGTH: Final = Layout("<I")
_ROW_LIMIT: Final = b"row_limit"
_U64_TAG: Final = 8
_U64_BYTES: Final = 8


def row_limit(link: DatabaseLink) -> int | None:
    """The limit, None if there is none. The rows of st_var have to be known."""
    for row in link.tables.rows(ST_VAR_ID):
        (length,) = _LENGTH.unpack_from(row)
        value = row[4 + length :]
        if row[4 : 4 + length] == _ROW_LIMIT and value[:1] == bytes((_U64_TAG,)):
            return int.from_bytes(value[1 : 1 + _U64_BYTES], "little")
    return None


def check_queries(link: DatabaseLink, queries: Iterable[Query]) -> None:
    """Raises SqlError if the queries of a Subscribe that nobody has yet look at too many rows."""
    limit = row_limit(link)
    if limit is not None:
        link.subscriptions.check_limit(queries, limit)


def check_plan(link: DatabaseLink, plan: SelectPlan) -> None:
    """The same for a query that is answered once."""
    limit = row_limit(link)
    if limit is not None:
        text = check_limit([plan], link.subscriptions.statistics_of_tables, limit)
        if text is not None:
            raise SqlError(text)
