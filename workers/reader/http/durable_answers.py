"""Answers over HTTP that wait for the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from spacetimedb.http.backend import BackendError
from spacetimedb.workers.reader.waiter import DatabaseGone, LogUnwritable

if TYPE_CHECKING:
    from spacetimedb.workers.reader.database_link import DatabaseLink

LOG_UNWRITABLE: Final = (
    "the commit log cannot be written: this is not safe on disk (with confirmed=false a query does not wait for that)"
)


async def until_durable(link: DatabaseLink, horizon: int) -> None:
    """Waits until so many transactions are durable. Raises BackendError."""
    try:
        await link.log.wait_durable(horizon)
    except DatabaseGone:
        raise gone(link) from None
    except LogUnwritable:
        raise BackendError(503, LOG_UNWRITABLE) from None


def gone(link: DatabaseLink) -> BackendError:
    """The database stopped while a request ran."""
    why = link.down_reason or "the database stopped"
    return BackendError(503, f"{why} while the request ran; it may have been executed")
