"""The client's half of v2/v3: encode client messages, decode server messages (formats: head of `v2.py`).

Made for the Python client and for tests. Decoding accepts everything the protocol allows, gzip included; messages come
out as frozen structs, rows as slices of the message's bytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final

import msgspec

from .v2 import string_bytes

MAX_DECOMPRESSED: Final = 512 * 1024 * 1024
"""Bytes a compressed server message may expand to."""


class ServerDecodeError(Exception):
    """A server message does not follow the format."""


class RowList(msgspec.Struct, frozen=True):
    """BsatnRowList: exactly one of `fixed_size` (bytes per row) and `offsets` (start of each row) is set."""

    fixed_size: int | None
    offsets: tuple[int, ...] | None
    data: bytes

    def rows(self) -> list[bytes]:
        """The rows' bytes, in order."""
        data = self.data
        if self.offsets is not None:
            starts = self.offsets
            stops = (*starts[1:], len(data))
            return [data[start:stop] for start, stop in zip(starts, stops, strict=True)] if starts else []
        size = self.fixed_size or 1
        return [data[at : at + size] for at in range(0, len(data), size)]


class TableRows(msgspec.Struct, frozen=True):
    table: str
    rows: RowList


class PersistentRows(msgspec.Struct, frozen=True):
    inserts: RowList
    deletes: RowList


class EventRows(msgspec.Struct, frozen=True):
    events: RowList


class TableUpdate(msgspec.Struct, frozen=True):
    table: str
    rows: tuple[PersistentRows | EventRows, ...]


class QuerySetUpdate(msgspec.Struct, frozen=True):
    query_set_id: int
    tables: tuple[TableUpdate, ...]


class InitialConnection(msgspec.Struct, frozen=True):
    """`identity` 32 bytes, `connection_id` 16 bytes, both little-endian."""

    identity: bytes
    connection_id: bytes
    token: str


class SubscribeApplied(msgspec.Struct, frozen=True):
    request_id: int
    query_set_id: int
    tables: tuple[TableRows, ...]


class UnsubscribeApplied(msgspec.Struct, frozen=True):
    request_id: int
    query_set_id: int
    tables: tuple[TableRows, ...] | None


class SubscriptionError(msgspec.Struct, frozen=True):
    request_id: int | None
    query_set_id: int
    error: str


class TransactionUpdate(msgspec.Struct, frozen=True):
    query_sets: tuple[QuerySetUpdate, ...]


class OneOffQueryResult(msgspec.Struct, frozen=True):
    """`tables` on success, else `error`."""

    request_id: int
    tables: tuple[TableRows, ...] | None
    error: str | None


class Ok(msgspec.Struct, frozen=True):
    value: bytes
    query_sets: tuple[QuerySetUpdate, ...]


class OkEmpty(msgspec.Struct, frozen=True):
    pass


class Err(msgspec.Struct, frozen=True):
    """`value`: BSATN of the reducer's error, usually a string."""

    value: bytes

    @property
    def message(self) -> str:
        return self.value[4:].decode("utf-8", "replace")


class InternalError(msgspec.Struct, frozen=True):
    message: str


class ReducerResult(msgspec.Struct, frozen=True):
    """`timestamp` in microseconds since 1970."""

    request_id: int
    timestamp: int
    outcome: Ok | OkEmpty | Err | InternalError


class Returned(msgspec.Struct, frozen=True):
    value: bytes


class ProcedureResult(msgspec.Struct, frozen=True):
    """`timestamp` and `duration` in microseconds."""

    status: Returned | InternalError
    timestamp: int
    duration: int
    request_id: int


ServerMessage = (
    InitialConnection
    | SubscribeApplied
    | UnsubscribeApplied
    | SubscriptionError
    | TransactionUpdate
    | OneOffQueryResult
    | ReducerResult
    | ProcedureResult
)


# Client messages

_HEAD_2: Final = struct.Struct("<BI")
_HEAD_4: Final = struct.Struct("<BIII")
_UNSUBSCRIBE: Final = struct.Struct("<BIIB")
_CALL: Final = struct.Struct("<BIB")
_U32: Final = struct.Struct("<I")


def subscribe(request_id: int, query_set_id: int, queries: Sequence[str]) -> bytes:
    return _HEAD_4.pack(0, request_id, query_set_id, len(queries)) + b"".join(map(string_bytes, queries))


def unsubscribe(request_id: int, query_set_id: int, send_dropped_rows: bool = True) -> bytes:
    return _UNSUBSCRIBE.pack(1, request_id, query_set_id, send_dropped_rows)


def one_off_query(request_id: int, query: str) -> bytes:
    return _HEAD_2.pack(2, request_id) + string_bytes(query)


def call_reducer(request_id: int, reducer: str, args: bytes) -> bytes:
    """`args`: BSATN product of the parameters."""
    return b"".join((_CALL.pack(3, request_id, 0), string_bytes(reducer), _U32.pack(len(args)), args))


def call_procedure(request_id: int, procedure: str, args: bytes) -> bytes:
    """`args`: BSATN product of the parameters."""
    return b"".join((_CALL.pack(4, request_id, 0), string_bytes(procedure), _U32.pack(len(args)), args))


def call_encoded(is_procedure: bool, request_id: int, name: bytes, args: bytes) -> bytes:
    """A call whose `name` is already a BSATN string."""
    return b"".join((_CALL.pack(4 if is_procedure else 3, request_id, 0), name, _U32.pack(len(args)), args))


# Server messages


class _Reader:
    """A cursor over one message body; every read checks that its bytes are there."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at

    def take(self, size: int) -> bytes:
        at = self.at
        if at + size > len(self.data):
            raise ServerDecodeError(f"{size} bytes expected at {at}, {len(self.data) - at} left")
        self.at = at + size
        return self.data[at : at + size]

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "little")

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def i64(self) -> int:
        return int.from_bytes(self.take(8), "little", signed=True)

    def blob(self) -> bytes:
        return self.take(self.u32())

    def text(self) -> str:
        try:
            return self.blob().decode()
        except UnicodeDecodeError:
            raise ServerDecodeError("invalid utf8") from None

    def tag(self, count: int, of: str) -> int:
        tag = self.u8()
        if tag >= count:
            raise ServerDecodeError(f"unknown tag {tag} of {of}")
        return tag

    def row_list(self) -> RowList:
        if self.tag(2, "RowSizeHint") == 0:
            size = self.u16()
            data = self.blob()
            if not size or len(data) % size:
                raise ServerDecodeError("rows do not fit their fixed size")
            return RowList(size, None, data)
        count = self.u32()
        offsets = struct.unpack(f"<{count}Q", self.take(8 * count))
        data = self.blob()
        if offsets and (offsets[0] or offsets[-1] > len(data) or any(a > b for a, b in pairwise(offsets))):
            raise ServerDecodeError("row offsets do not fit the rows")
        return RowList(None, offsets, data)

    def tables(self) -> tuple[TableRows, ...]:
        return tuple(TableRows(self.text(), self.row_list()) for _ in range(self.u32()))

    def update_rows(self) -> PersistentRows | EventRows:
        if self.tag(2, "TableUpdateRows"):
            return EventRows(self.row_list())
        return PersistentRows(self.row_list(), self.row_list())

    def table_update(self) -> TableUpdate:
        return TableUpdate(self.text(), tuple(self.update_rows() for _ in range(self.u32())))

    def query_set_update(self) -> QuerySetUpdate:
        return QuerySetUpdate(self.u32(), tuple(self.table_update() for _ in range(self.u32())))

    def query_sets(self) -> tuple[QuerySetUpdate, ...]:
        return tuple(self.query_set_update() for _ in range(self.u32()))


def _initial_connection(reader: _Reader) -> ServerMessage:
    return InitialConnection(reader.take(32), reader.take(16), reader.text())


def _subscribe_applied(reader: _Reader) -> ServerMessage:
    return SubscribeApplied(reader.u32(), reader.u32(), reader.tables())


def _unsubscribe_applied(reader: _Reader) -> ServerMessage:
    request_id, query_set_id = reader.u32(), reader.u32()
    return UnsubscribeApplied(request_id, query_set_id, None if reader.tag(2, "option") else reader.tables())


def _subscription_error(reader: _Reader) -> ServerMessage:
    request_id = None if reader.tag(2, "option") else reader.u32()
    return SubscriptionError(request_id, reader.u32(), reader.text())


def _transaction_update(reader: _Reader) -> ServerMessage:
    return TransactionUpdate(reader.query_sets())


def _one_off_query_result(reader: _Reader) -> ServerMessage:
    request_id = reader.u32()
    if reader.tag(2, "result"):
        return OneOffQueryResult(request_id, None, reader.text())
    return OneOffQueryResult(request_id, reader.tables(), None)


def _reducer_result(reader: _Reader) -> ServerMessage:
    request_id, timestamp = reader.u32(), reader.i64()
    tag = reader.tag(4, "ReducerOutcome")
    outcome: Ok | OkEmpty | Err | InternalError
    if tag == 0:
        outcome = Ok(reader.blob(), reader.query_sets())
    elif tag == 1:
        outcome = OkEmpty()
    elif tag == 2:
        outcome = Err(reader.blob())
    else:
        outcome = InternalError(reader.text())
    return ReducerResult(request_id, timestamp, outcome)


def _procedure_result(reader: _Reader) -> ServerMessage:
    failed = reader.tag(2, "ProcedureStatus")
    status: Returned | InternalError = InternalError(reader.text()) if failed else Returned(reader.blob())
    return ProcedureResult(status, reader.i64(), reader.i64(), reader.u32())


_DECODERS: Final[tuple[Callable[[_Reader], ServerMessage], ...]] = (
    _initial_connection,
    _subscribe_applied,
    _unsubscribe_applied,
    _subscription_error,
    _transaction_update,
    _one_off_query_result,
    _reducer_result,
    _procedure_result,
)


def decode_message(body: bytes, at: int = 0) -> tuple[ServerMessage, int]:
    """Decode the server message at `at` (no compression tag); returns it and where it ends."""
    reader = _Reader(body, at)
    message = _DECODERS[reader.tag(len(_DECODERS), "ServerMessage")](reader)
    return message, reader.at


def decompress(frame: bytes) -> bytes:
    """Body of a binary WebSocket message: strips the compression tag. Brotli is never asked for and not understood."""
    if not frame:
        raise ServerDecodeError("empty server frame")
    if frame[0] == 0:
        return frame[1:]
    if frame[0] == 2:
        try:
            inflater = zlib.decompressobj(wbits=31)
            body = inflater.decompress(frame[1:], MAX_DECOMPRESSED)
        except zlib.error as error:
            raise ServerDecodeError(f"bad gzip body: {error}") from None
        if not inflater.eof:
            raise ServerDecodeError("gzip body is cut off or too long")
        return body
    raise ServerDecodeError(f"compression tag {frame[0]} not understood")


def decode_frame(frame: bytes) -> list[ServerMessage]:
    """All messages of one binary WebSocket message (v2: one, v3: one or more)."""
    body = decompress(frame)
    messages: list[ServerMessage] = []
    at = 0
    while True:
        message, at = decode_message(body, at)
        messages.append(message)
        if at == len(body):
            return messages
