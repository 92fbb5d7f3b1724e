"""Messages of the subprotocols v1.bsatn.spacetimedb and v1.json.spacetimedb; here the types, and BSATN as their form.

Both protocols have the same messages in two forms, so messages are values of the types below and a form (`Bsatn` here,
`Json` in `v1_json`) turns them into bytes. A client message in either form becomes one of the NamedTuples.

    client message: the sum CLIENT_MESSAGE; flags of CallReducer: 0 FullUpdate, 1 NoSuccessNotify; of CallProcedure: 0
    server message: the sum that `server_message` makes; on v1.bsatn behind a compression tag (always 0)
    BsatnRowList    size hint: 0 FixedSize u16 | 1 RowOffsets array<u64>; then the rows as bytes (u32 length first)

The types differ in three places: rows are a BsatnRowList or an array of JSON texts, an update of a query is wrapped
(Uncompressed) only in BSATN, and arguments and results are bytes or JSON text.

Row lists come from `subscriptions` as BSATN, with the rows of v2 (inserts before deletes): `split_update`, `split_rows`
take them apart without looking at rows.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from sys import byteorder
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias

from spacetimedb.subscriptions.wire import NO_ROWS
from spacetimedb.types.algebraic import (
    BYTES,
    CONNECTION_ID,
    IDENTITY,
    STRING,
    TIME_DURATION,
    TIMESTAMP,
    U8,
    U16,
    U32,
    U64,
    U128,
    UNIT,
    AlgebraicType,
    Array,
    Product,
    Sum,
    option,
    product,
    sum_of,
)
from spacetimedb.types.bsatn import Buffer, codec
from spacetimedb.types.errors import DecodeError
from spacetimedb.types.sats_json import row_to_json
from spacetimedb.types.shapes import shape_of
from spacetimedb.types.special import ConnectionId, Identity

from .v2 import ClientDecodeError, pack_v2

FULL_UPDATE: Final = 0
NO_SUCCESS_NOTIFY: Final = 1
UNKNOWN_REDUCER: Final = 0xFFFFFFFF
"""`reducer_id` of a reducer that does not exist."""
EVENTS_NEED_V2: Final = (
    "Subscribing to event tables requires WebSocket v2. "
    "Please upgrade your client SDK and regenerate your module bindings."
)

# --- client messages --------------------------------------------------------------------------------------------------

QUERY_ID: Final = product(id=U32)


def client_message(arguments: AlgebraicType) -> Sum:
    """The type of client messages; `arguments` is BYTES or STRING."""
    return sum_of(
        CallReducer=product(reducer=STRING, args=arguments, request_id=U32, flags=U8),
        Subscribe=product(query_strings=Array(STRING), request_id=U32),
        OneOffQuery=product(message_id=BYTES, query_string=STRING),
        SubscribeSingle=product(query=STRING, request_id=U32, query_id=QUERY_ID),
        SubscribeMulti=product(query_strings=Array(STRING), request_id=U32, query_id=QUERY_ID),
        Unsubscribe=product(request_id=U32, query_id=QUERY_ID),
        UnsubscribeMulti=product(request_id=U32, query_id=QUERY_ID),
        CallProcedure=product(procedure=STRING, args=arguments, request_id=U32, flags=U8),
    )


FIRST_TAG: Final = 16
"""Tags of v1 messages inside this server start here, so that they are told apart from those of v2."""
CALL_REDUCER: Final[Literal[16]] = 16
CALL_PROCEDURE: Final[Literal[23]] = 23


class CallReducer(NamedTuple):
    """`args`: BSATN, or the JSON text. `flags`: FULL_UPDATE, NO_SUCCESS_NOTIFY."""

    tag: Literal[16]
    reducer: str
    args: bytes | str
    request_id: int
    flags: int


class Subscribe(NamedTuple):
    """Replaces all queries of earlier messages of this kind."""

    tag: Literal[17]
    query_strings: list[str]
    request_id: int


class OneOffQuery(NamedTuple):
    tag: Literal[18]
    message_id: bytes
    query_string: str


class SubscribeSingle(NamedTuple):
    tag: Literal[19]
    query: str
    request_id: int
    query_id: int


class SubscribeMulti(NamedTuple):
    tag: Literal[20]
    query_strings: list[str]
    request_id: int
    query_id: int


class Unsubscribe(NamedTuple):
    tag: Literal[21]
    request_id: int
    query_id: int


class UnsubscribeMulti(NamedTuple):
    tag: Literal[22]
    request_id: int
    query_id: int


class CallProcedure(NamedTuple):
    """`args`: BSATN, or the JSON text."""

    tag: Literal[23]
    procedure: str
    args: bytes | str
    request_id: int
    flags: int


ClientMessage: TypeAlias = (
    CallReducer
    | Subscribe
    | OneOffQuery
    | SubscribeSingle
    | SubscribeMulti
    | Unsubscribe
    | UnsubscribeMulti
    | CallProcedure
)

MESSAGES: Final = (
    CallReducer,
    Subscribe,
    OneOffQuery,
    SubscribeSingle,
    SubscribeMulti,
    Unsubscribe,
    UnsubscribeMulti,
    CallProcedure,
)
"""Their kinds by tag."""
_KINDS: Final[tuple[Callable[..., ClientMessage], ...]] = MESSAGES
CLIENT_MESSAGE: Final = client_message(BYTES)
_CLIENT_CODEC: Final = codec(shape_of(CLIENT_MESSAGE))


def parse(payload: bytes, several: bool = False) -> list[ClientMessage]:
    """The one message of a binary WebSocket message; bytes after it are ignored. Raises ClientDecodeError."""
    if payload and payload[0] >= len(_KINDS):
        raise ClientDecodeError(f"unknown tag {payload[0]:#x} for sum type ClientMessage")
    try:
        (tag, fields), _end = _CLIENT_CODEC.decode(payload)
    except DecodeError as error:
        raise ClientDecodeError(str(error)) from None
    return [message_of(tag, fields)]


def message_of(tag: int, fields: tuple[Any, ...]) -> ClientMessage:
    """A decoded message. Raises ClientDecodeError for flags that do not exist."""
    message = _KINDS[tag](FIRST_TAG + tag, *[field[0] if type(field) is tuple else field for field in fields])
    if isinstance(message, CallReducer) and message.flags > NO_SUCCESS_NOTIFY:
        raise ClientDecodeError(f"invalid call reducer flag {message.flags}")
    if isinstance(message, CallProcedure) and message.flags:
        raise ClientDecodeError(f"invalid call procedure flag {message.flags}")
    return message


# --- types of server messages -----------------------------------------------------------------------------------------

ROW_LIST: Final = product(size_hint=sum_of(FixedSize=U16, RowOffsets=Array(U64)), rows_data=BYTES)
_ENERGY: Final = product(quanta=U128)


def server_message(rows: AlgebraicType, query_update: AlgebraicType, arguments: AlgebraicType) -> Sum:
    """The type of server messages in one form."""
    table_update = product(table_id=U32, table_name=STRING, num_rows=U64, updates=Array(query_update))
    database_update = product(tables=Array(table_update))
    subscribe_rows = product(table_id=U32, table_name=STRING, table_rows=table_update)
    applied = product(request_id=U32, total_host_execution_duration_micros=U64, query_id=QUERY_ID, rows=subscribe_rows)
    multi_applied = product(
        request_id=U32, total_host_execution_duration_micros=U64, query_id=QUERY_ID, update=database_update
    )
    return sum_of(
        InitialSubscription=product(
            database_update=database_update, request_id=U32, total_host_execution_duration=TIME_DURATION
        ),
        TransactionUpdate=product(
            status=sum_of(Committed=database_update, Failed=STRING, OutOfEnergy=UNIT),
            timestamp=TIMESTAMP,
            caller_identity=IDENTITY,
            caller_connection_id=CONNECTION_ID,
            reducer_call=product(reducer_name=STRING, reducer_id=U32, args=arguments, request_id=U32),
            energy_quanta_used=_ENERGY,
            total_host_execution_duration=TIME_DURATION,
        ),
        TransactionUpdateLight=product(request_id=U32, update=database_update),
        IdentityToken=product(identity=IDENTITY, token=STRING, connection_id=CONNECTION_ID),
        OneOffQueryResponse=product(
            message_id=BYTES,
            error=option(STRING),
            tables=Array(product(table_name=STRING, rows=rows)),
            total_host_execution_duration=TIME_DURATION,
        ),
        SubscribeApplied=applied,
        UnsubscribeApplied=applied,
        SubscriptionError=product(
            total_host_execution_duration_micros=U64,
            request_id=option(U32),
            query_id=option(U32),
            table_id=option(U32),
            error=STRING,
        ),
        SubscribeMultiApplied=multi_applied,
        UnsubscribeMultiApplied=multi_applied,
        ProcedureResult=product(
            status=sum_of(Returned=arguments, OutOfEnergy=UNIT, InternalError=STRING),
            timestamp=TIMESTAMP,
            total_host_execution_duration=TIME_DURATION,
            request_id=U32,
        ),
    )


Value: TypeAlias = Any
"""A value of one of the types above: products as tuples, sums as (tag, payload)."""


class Table:
    """What messages need of a table."""

    def __init__(self, table_id: int, name: str, row_type: Product) -> None:
        self.table_id = table_id
        self.name = name
        self.row_type = row_type

    @cached_property
    def object_text(self) -> Callable[[Buffer, int], tuple[str, int]]:
        """JSON of a row read from the table: an object."""
        return row_to_json(self.row_type, "row")

    @cached_property
    def array_text(self) -> Callable[[Buffer, int], tuple[str, int]]:
        """JSON of a row out of a transaction: an array."""
        return row_to_json(self.row_type, "untyped")


class Form(Protocol):
    """How messages are written."""

    def query_update(self, table: Table, deletes: bytes, inserts: bytes, is_delta: bool) -> Value:
        """What changed for one query, given as BsatnRowLists."""

    def rows(self, table: Table, rows: bytes) -> Value:
        """The rows of a BsatnRowList."""

    def encode(self, message: Value) -> bytes:
        """One server message."""

    def pack(self, messages: Sequence[bytes]) -> bytes:
        """Encoded messages as WebSocket messages, ready to be sent."""


QUERY_UPDATE: Final = sum_of(Uncompressed=product(deletes=ROW_LIST, inserts=ROW_LIST), Brotli=BYTES, Gzip=BYTES)
SERVER_MESSAGE: Final = server_message(ROW_LIST, QUERY_UPDATE, BYTES)
_SERVER_CODEC: Final = codec(shape_of(SERVER_MESSAGE))


class Bsatn:
    """The form of v1.bsatn."""

    def query_update(self, table: Table, deletes: bytes, inserts: bytes, is_delta: bool) -> Value:
        return 0, (row_list_value(deletes), row_list_value(inserts))

    def rows(self, table: Table, rows: bytes) -> Value:
        return row_list_value(rows)

    def encode(self, message: Value) -> bytes:
        return _SERVER_CODEC.encode(message)

    def pack(self, messages: Sequence[bytes]) -> bytes:
        return pack_v2(messages)


# --- row lists --------------------------------------------------------------------------------------------------------

_U32: Final = struct.Struct("<I")
_FIXED: Final = struct.Struct("<BHI")


def row_count(rows: bytes) -> int:
    """Number of rows in a BsatnRowList."""
    if rows[0]:
        return int(_U32.unpack_from(rows, 1)[0])
    _, size, length = _FIXED.unpack_from(rows)
    return int(length // size)


def row_list_value(rows: bytes) -> Value:
    """A BsatnRowList as value of ROW_LIST."""
    if not rows[0]:
        return (0, int.from_bytes(rows[1:3], "little")), rows[7:]
    end = 5 + 8 * int(_U32.unpack_from(rows, 1)[0])
    offsets = array("Q", rows[5:end])
    if byteorder == "big":
        offsets.byteswap()
    return (1, offsets.tolist()), rows[end + 4 :]


def row_texts(rows: bytes, text: Callable[[Buffer, int], tuple[str, int]]) -> list[str]:
    """JSON texts of the rows of a BsatnRowList."""
    _hint, data = row_list_value(rows)
    texts: list[str] = []
    at = 0
    for _ in range(row_count(rows)):
        one, at = text(data, at)
        texts.append(one)
    return texts


def split_rows(part: bytes) -> tuple[bytes, bytes]:
    """SingleTableRows of v2: the table's name as BSATN string, and the BsatnRowList."""
    end = 4 + int(_U32.unpack_from(part)[0])
    return part[:end], part[end:]


def split_update(update: bytes) -> dict[bytes, list[tuple[bytes, bytes]]]:
    """array<QuerySetUpdate> of v2, sets merged: table name (as BSATN string) to (deletes, inserts) of each query."""
    tables: dict[bytes, list[tuple[bytes, bytes]]] = {}
    unpack = _U32.unpack_from
    at = 4
    for _ in range(unpack(update)[0]):
        count = unpack(update, at + 4)[0]
        at += 8
        for _ in range(count):
            start, at = at, at + 4 + unpack(update, at)[0]
            found = tables.setdefault(update[start:at], [])
            count_rows = unpack(update, at)[0]
            at += 4
            for _ in range(count_rows):
                is_event = update[at]
                middle = _row_list_end(update, at + 1)
                inserts = update[at + 1 : middle]
                at = middle if is_event else _row_list_end(update, middle)
                found.append((NO_ROWS if is_event else update[middle:at], inserts))
    return tables


def _row_list_end(data: bytes, at: int) -> int:
    if data[at]:
        at += 5 + 8 * int(_U32.unpack_from(data, at + 1)[0])
        return at + 4 + int(_U32.unpack_from(data, at)[0])
    return at + 7 + int(_U32.unpack_from(data, at + 3)[0])


def table_update(form: Form, table: Table, changes: Iterable[tuple[bytes, bytes]], is_delta: bool) -> Value:
    """TableUpdate of (deletes, inserts) of each query. `is_delta`: the rows are out of a transaction."""
    changes = list(changes)
    count = sum([row_count(rows) for change in changes for rows in change])
    return table.table_id, table.name, count, [form.query_update(table, d, i, is_delta) for d, i in changes]


# --- server messages --------------------------------------------------------------------------------------------------

# Durations and timestamps are in microseconds; `tables` are `table_update` results.


class ReducerCall(NamedTuple):
    """ReducerCallInfo; `args` in the form of the receiver."""

    reducer_name: str
    reducer_id: int
    args: bytes | str
    request_id: int


def initial_subscription(tables: list[Value], request_id: int, duration: int) -> Value:
    return 0, ((tables,), request_id, duration)


def committed(tables: list[Value]) -> Value:
    """Status of a transaction."""
    return 0, (tables,)


def failed(text: str) -> Value:
    """Status of a call that changed nothing."""
    return 1, text


OUT_OF_ENERGY: Final[Value] = (2, ())
"""Status of a call, or of a procedure by its own tag, that ran too long."""


def transaction_update(
    status: Value, timestamp: int, identity: Identity, connection_id: ConnectionId, call: ReducerCall, duration: int
) -> Value:
    """The energy is the duration in microseconds."""
    return 1, (status, timestamp, identity, connection_id, call, (duration,), duration)


def transaction_update_light(request_id: int, tables: list[Value]) -> Value:
    return 2, (request_id, (tables,))


def identity_token(identity: Identity, token: str, connection_id: ConnectionId) -> Value:
    return 3, (identity, token, connection_id)


def one_off_response(message_id: bytes, error: str | None, tables: list[Value], duration: int) -> Value:
    """`tables`: one (table name, rows), none with an error."""
    return 4, (message_id, error, tables, duration)


def subscribe_applied(request_id: int, duration: int, query_id: int, update: Value, is_end: bool = False) -> Value:
    """`is_end`: UnsubscribeApplied."""
    table_id, name = update[:2]
    return 6 if is_end else 5, (request_id, duration, (query_id,), (table_id, name, update))


def subscription_error(duration: int, request_id: int | None, query_id: int | None, error: str) -> Value:
    return 7, (duration, request_id, query_id, None, error)


def multi_applied(request_id: int, duration: int, query_id: int, tables: list[Value], is_end: bool = False) -> Value:
    """SubscribeMultiApplied; `is_end`: UnsubscribeMultiApplied."""
    return 9 if is_end else 8, (request_id, duration, (query_id,), (tables,))


def returned(value: bytes | str) -> Value:
    """Status of a procedure; `value` in the form of the receiver."""
    return 0, value


PROCEDURE_OUT_OF_ENERGY: Final[Value] = (1, ())


def internal_error(text: str) -> Value:
    """Status of a procedure."""
    return 2, text


def procedure_result(status: Value, timestamp: int, duration: int, request_id: int) -> Value:
    return 10, (status, timestamp, duration, request_id)
