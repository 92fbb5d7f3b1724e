"""The one error of this room."""

from __future__ import annotations


class SqlError(Exception):
    """A query that is refused. ``str()`` is the text the client gets; it never holds internals."""


class SqlSyntaxError(SqlError):
    """The text is not SQL at all: ``sql parser error: ...``."""
