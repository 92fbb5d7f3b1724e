"""What a loaded module consists of, for hosts and stores: one spec per table and function.

Names: `source_name` is what the definition carries, `name` the canonical name (what clients, SQL and logs use). Shapes
carry the canonical names of fields and variants; the fields of `params` alone keep the names the author declared.
Column numbers are positions in `columns`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from spacetimedb.types.algebraic import AlgebraicType
from spacetimedb.types.shapes import ProductShape, Shape
from spacetimedb.types.special import TimeDuration

Algorithm = Literal["btree", "hash", "direct"]
Lifecycle = Literal["init", "on_connect", "on_disconnect"]
ViewForm = Literal["list", "option", "query"]


class ColumnSpec(msgspec.Struct, frozen=True):
    """A column. `attr` is the attribute of the row class; `default` the BSATN that fills old rows, or None.

    `algebraic_type` may contain references into the module's typespace.
    """

    attr: str
    source_name: str
    name: str
    shape: Shape
    algebraic_type: AlgebraicType
    is_unique: bool
    auto_inc: bool
    default: bytes | None


class IndexSpec(msgspec.Struct, frozen=True):
    """An index. `accessor` is its attribute at the table's handle: the column's attribute, or a name of its own."""

    source_name: str
    accessor: str
    algorithm: Algorithm
    columns: tuple[int, ...]
    is_unique: bool


class TableSpec(msgspec.Struct, frozen=True):
    """A table. `key` is what `ctx.db[...]` is asked with: the row class, or what `add_table` returned.

    Rows of one that is not durable are in memory only. `type_ref` is the row type's place in the typespace. Schedule
    tables name the function (source name) and the column with the time.
    """

    source_name: str
    name: str
    key: object
    row: type[Any]
    shape: ProductShape
    type_ref: int
    columns: tuple[ColumnSpec, ...]
    primary_key: int | None
    indexes: tuple[IndexSpec, ...]
    is_public: bool
    is_event: bool
    scheduled_function: str | None = None
    schedule_at_column: int | None = None
    is_durable: bool = True


class ReducerSpec(msgspec.Struct, frozen=True):
    """A reducer: `function(ctx, *args)`; `params` decodes to the tuple of arguments. `schedule_table`: a source
    name."""

    source_name: str
    name: str
    function: Callable[..., object]
    params: ProductShape
    lifecycle: Lifecycle | None = None
    is_private: bool = False
    schedule_table: str | None = None


class ProcedureSpec(msgspec.Struct, frozen=True):
    """A procedure: `function(ctx, *args)` gives a value of shape `returns`; None for unit."""

    source_name: str
    name: str
    function: Callable[..., object]
    params: ProductShape
    returns: Shape
    return_type: AlgebraicType
    is_private: bool = False
    schedule_table: str | None = None


class ViewSpec(msgspec.Struct, frozen=True):
    """A view: `function(ctx)` with a ViewContext, or an AnonymousViewContext when `is_anonymous`.

    `form`: it returns a list of `row`, an optional `row`, or a Query over a table of `row`. `type_ref` is the row
    type's place in the typespace, `primary_key` a column number.
    """

    source_name: str
    name: str
    function: Callable[..., object]
    is_anonymous: bool
    form: ViewForm
    row: type[Any]
    shape: ProductShape
    type_ref: int
    primary_key: int | None = None


class HandlerSpec(msgspec.Struct, frozen=True):
    """An HTTP handler: `function(ctx, request)` gives a Response."""

    source_name: str
    name: str
    function: Callable[..., object]


class RouteSpec(msgspec.Struct, frozen=True):
    """A route to a handler (source name). `method` in capitals, None for any."""

    method: str | None
    path: str
    handler: str


class RepeatSpec(msgspec.Struct, frozen=True):
    """From `m.every`: at `init`, and after an update when it is empty, the table (source name) gets a row."""

    table: str
    interval: TimeDuration
