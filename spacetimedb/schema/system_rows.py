"""Rows of the system tables, one class per table, attributes named and ordered as its columns.

Identities, connection ids, hashes and times are plain integers here, types are bytes (BSATN of the type, inlined), sums
are ``(tag, payload)`` with the tags of ``INDEX_ALGORITHM_TAGS`` and ``UNIQUE_CONSTRAINT_TAG``. A hash as an integer is
its digest read little-endian, so that its BSATN is the digest.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

INDEX_ALGORITHM_TAGS: Final = {"btree": 1, "direct": 2, "hash": 3}
"""Tags in st_index.index_algorithm; they are not those of module definitions."""

UNIQUE_CONSTRAINT_TAG: Final = 1
"""Tag in st_constraint.constraint_data; the payload is the list of columns, ascending."""


class StTable(Struct, gc=False):
    """A table: type "system" or "user", access "public" or "private"."""

    table_id: int
    table_name: str
    table_type: str
    table_access: str
    table_primary_key: list[int] | None


class StColumn(Struct, gc=False):
    """A column of a table."""

    table_id: int
    col_pos: int
    col_name: str
    col_type: bytes


class StSequence(Struct, gc=False):
    """A sequence; ``allocated`` is the number up to which numbers may have been handed out."""

    sequence_id: int
    sequence_name: str
    table_id: int
    col_pos: int
    increment: int
    start: int
    min_value: int
    max_value: int
    allocated: int


class StIndex(Struct, gc=False):
    """An index."""

    index_id: int
    table_id: int
    index_name: str
    index_algorithm: tuple[int, Any]


class StConstraint(Struct, gc=False):
    """A unique constraint."""

    constraint_id: int
    constraint_name: str
    table_id: int
    constraint_data: tuple[int, Any]


class StModule(Struct, gc=False):
    """The program of the database; one row."""

    database_identity: int
    owner_identity: int
    program_kind: int
    program_hash: int
    program_bytes: bytes
    module_version: str


class StClient(Struct, gc=False):
    """A connected client."""

    identity: int
    connection_id: int


class StVar(Struct, gc=False):
    """A setting; the tag of ``value`` is its type."""

    name: str
    value: tuple[int, Any]


class StScheduled(Struct, gc=False):
    """That a table's rows call a reducer or procedure."""

    schedule_id: int
    table_id: int
    reducer_name: str
    schedule_name: str
    at_column: int


class StRowLevelSecurity(Struct, gc=False):
    """A row filter of a table."""

    table_id: int
    sql: str


class StConnectionCredentials(Struct, gc=False):
    """The claims of a connected client."""

    connection_id: int
    jwt_payload: str


class StView(Struct, gc=False):
    """A view; ``table_id`` is its backing table."""

    view_id: int
    view_name: str
    table_id: int | None
    is_public: bool
    is_anonymous: bool


class StViewParam(Struct, gc=False):
    """A parameter of a view."""

    view_id: int
    param_pos: int
    param_name: str
    param_type: bytes


class StViewColumn(Struct, gc=False):
    """A column of a view."""

    view_id: int
    col_pos: int
    col_name: str
    col_type: bytes


class StViewSub(Struct, gc=False):
    """Never written; kept so that clients find the table."""

    view_id: int
    arg_id: int
    identity: int
    num_subscribers: int
    has_subscribers: bool
    last_called: int


class StViewArg(Struct, gc=False):
    """Never written; kept so that clients find the table."""

    id: int
    bytes: bytes


class StEventTable(Struct, gc=False):
    """That a table is an event table."""

    table_id: int


class StTableAccessor(Struct, gc=False):
    """The module's own name of a table or view."""

    table_name: str
    accessor_name: str


class StIndexAccessor(Struct, gc=False):
    """The module's own name of an index."""

    index_name: str
    accessor_name: str


class StColumnAccessor(Struct, gc=False):
    """The module's own name of a column."""

    table_name: str
    col_name: str
    accessor_name: str
