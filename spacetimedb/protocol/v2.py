"""Messages of the subprotocols v2.bsatn.spacetimedb and v3.bsatn.spacetimedb, server side.

A client message is BSATN (integers little-endian, `string` and `bytes` = u32 byte length + bytes, `array` = u32 count +
elements) of the sum ClientMessage:

    0 Subscribe      request_id u32, query_set_id u32, query_strings array<string>
    1 Unsubscribe    request_id u32, query_set_id u32, flags u8 (0 Default, 1 SendDroppedRows)
    2 OneOffQuery    request_id u32, query_string string
    3 CallReducer    request_id u32, flags u8 (0), reducer string, args bytes
    4 CallProcedure  request_id u32, flags u8 (0), procedure string, args bytes

v2: one message per binary WebSocket message, bytes after it are ignored. v3: one or more, one after the other.

A server WebSocket message is a compression tag (always 0, raw) and on v2 one, on v3 one or more of the sum
ServerMessage:

    0 InitialConnection   identity [32], connection_id [16], token string
    1 SubscribeApplied    request_id u32, query_set_id u32, QueryRows
    2 UnsubscribeApplied  request_id u32, query_set_id u32, option<QueryRows> (0 some, 1 none)
    3 SubscriptionError   request_id option<u32>, query_set_id u32, error string
    4 TransactionUpdate   array<QuerySetUpdate>
    5 OneOffQueryResult   request_id u32, result<QueryRows, string> (0 ok, 1 err)
    6 ReducerResult       request_id u32, timestamp i64, outcome (0 Ok: ret_value bytes, array<QuerySetUpdate>;
                          1 OkEmpty; 2 Err: bytes; 3 InternalError: string)
    7 ProcedureResult     status (0 Returned: bytes; 1 InternalError: string), timestamp i64, duration i64,
                          request_id u32

    QueryRows       array<(table string, BsatnRowList)>
    QuerySetUpdate  query_set_id u32, array<TableUpdate>
    TableUpdate     table_name string, array<TableUpdateRows>
    TableUpdateRows 0 PersistentTable: inserts BsatnRowList, deletes BsatnRowList; 1 EventTable: events BsatnRowList
    BsatnRowList    size_hint (0 FixedSize: u16; 1 RowOffsets: array<u64>), rows_data bytes

Builders return the bytes of one ServerMessage without the compression tag; `pack_v2` and `pack_v3` add it together with
the frame header. Row lists and updates come from `subscriptions.wire`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, Literal

from .frames import MAX_FRAME_PAYLOAD, binary_frames, server_frame

V1_JSON: Final = "v1.json.spacetimedb"
V1_BSATN: Final = "v1.bsatn.spacetimedb"
V2: Final = "v2.bsatn.spacetimedb"
V3: Final = "v3.bsatn.spacetimedb"

UNCOMPRESSED: Final = 0
"""Compression tag of every message this server sends: a client that decompresses in the background may otherwise apply
a small later message before a large earlier one."""
MAX_COALESCED: Final = 512 * 1024
"""Bytes of messages in one v3 frame; a longer single message goes alone."""
MAX_MESSAGES_PER_FRAME: Final = 16384
"""Client messages in one v3 frame; more is what a full inbound queue is: Close 1013."""

DECODE_ERROR_CLOSE: Final = 1011
TOO_MANY_REQUESTS_CLOSE: Final = 1013
TOO_MANY_REQUESTS: Final = "too many requests"
MODULE_EXITED_CLOSE: Final = 1001
MODULE_EXITED: Final = "module exited"
TEXT_ON_V2: Final = "v2 websocket does not support text messages"
TEXT_ON_V3: Final = "v3 websocket does not support text messages"
EMPTY_ON_V3: Final = "v3 websocket binary payload must contain at least one v2 client message"

SUBSCRIBE: Final[Literal[0]] = 0
UNSUBSCRIBE: Final[Literal[1]] = 1
ONE_OFF_QUERY: Final[Literal[2]] = 2
CALL_REDUCER: Final[Literal[3]] = 3
CALL_PROCEDURE: Final[Literal[4]] = 4

Subscribe = tuple[Literal[0], int, int, list[str]]
Unsubscribe = tuple[Literal[1], int, int, bool]
OneOffQuery = tuple[Literal[2], int, str]
Call = tuple[Literal[3, 4], int, str, bytes]
ClientMessage = Subscribe | Unsubscribe | OneOffQuery | Call
"""(0, request_id, query_set_id, queries) | (1, request_id, query_set_id, send_dropped_rows) | (2, request_id, query) |
(3, request_id, reducer, args) | (4, request_id, procedure, args)"""


class ClientDecodeError(Exception):
    """A client message cannot be decoded: close with `close_code` and `text`.

    `messages` are those that stand before it in the same WebSocket message; they are executed.
    """

    close_code = DECODE_ERROR_CLOSE

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text
        self.messages: list[ClientMessage] = []


class TooManyRequests(ClientDecodeError):
    """More than MAX_MESSAGES_PER_FRAME messages in one v3 frame."""

    close_code = TOO_MANY_REQUESTS_CLOSE


_CALL_HEAD: Final = struct.Struct("<BIBI")
_U32: Final = struct.Struct("<I")
_call_head: Final = _CALL_HEAD.unpack_from
_u32: Final = _U32.unpack_from


def parse_messages(payload: bytes, several: bool) -> list[ClientMessage]:
    """Decode one binary WebSocket message of a client: `several` is True on v3, False on v2.

    Raises ClientDecodeError, whose `messages` hold the ones decoded before the bad one.
    """
    messages: list[ClientMessage] = []
    size = len(payload)
    if not size and several:
        raise ClientDecodeError(EMPTY_ON_V3)
    at = 0
    try:
        while True:
            # Calls are nearly all of the traffic: two unpacks and two slices. Whatever is irregular about one goes to
            # the careful decoder, which finds the right text for it.
            if at < size and payload[at] == 3:
                try:
                    _, request_id, flags, length = _call_head(payload, at)
                    start = at + 10
                    stop = start + length
                    args = stop + 4
                    end = args + _u32(payload, stop)[0]
                    if flags or end > size:
                        raise ValueError
                    messages.append((3, request_id, payload[start:stop].decode(), payload[args:end]))
                    at = end
                except (struct.error, ValueError):
                    message, at = _decode_one(payload, at)
                    messages.append(message)
            else:
                message, at = _decode_one(payload, at)
                messages.append(message)
            if not several or at >= size:
                return messages
            if len(messages) >= MAX_MESSAGES_PER_FRAME:
                raise TooManyRequests(TOO_MANY_REQUESTS)
    except ClientDecodeError as error:
        error.messages = messages
        raise


def _read_u8(data: bytes, at: int) -> tuple[int, int]:
    if at >= len(data):
        raise ClientDecodeError("data too short for u8: Expected 1, given 0")
    return data[at], at + 1


def _read_u32(data: bytes, at: int) -> tuple[int, int]:
    if at + 4 > len(data):
        raise ClientDecodeError(f"data too short for u32: Expected 4, given {len(data) - at}")
    return _u32(data, at)[0], at + 4


def _read_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    length, at = _read_u32(data, at)
    if at + length > len(data):
        raise ClientDecodeError(f"data too short for [u8]: Expected {length}, given {len(data) - at}")
    return data[at : at + length], at + length


def _read_string(data: bytes, at: int) -> tuple[str, int]:
    raw, at = _read_bytes(data, at)
    try:
        return raw.decode(), at
    except UnicodeDecodeError:
        raise ClientDecodeError("invalid utf8") from None


def _decode_one(data: bytes, at: int) -> tuple[ClientMessage, int]:
    """Decode the message at `at`, field by field; returns it and where it ends."""
    tag, at = _read_u8(data, at)
    if tag > CALL_PROCEDURE:
        raise ClientDecodeError(f"unknown tag 0x{tag:x} for sum type ClientMessage")
    request_id, at = _read_u32(data, at)
    if tag == SUBSCRIBE:
        query_set_id, at = _read_u32(data, at)
        count, at = _read_u32(data, at)
        queries: list[str] = []
        for _ in range(count):  # every string takes 4 bytes at least, so a false count ends soon
            query, at = _read_string(data, at)
            queries.append(query)
        return (SUBSCRIBE, request_id, query_set_id, queries), at
    if tag == UNSUBSCRIBE:
        query_set_id, at = _read_u32(data, at)
        flags, at = _read_u8(data, at)
        if flags > 1:
            raise ClientDecodeError(f"unknown tag 0x{flags:x} for sum type UnsubscribeFlags")
        return (UNSUBSCRIBE, request_id, query_set_id, flags == 1), at
    if tag == ONE_OFF_QUERY:
        query, at = _read_string(data, at)
        return (ONE_OFF_QUERY, request_id, query), at
    flags, at = _read_u8(data, at)
    if flags:
        kind = "reducer" if tag == CALL_REDUCER else "procedure"
        raise ClientDecodeError(f"invalid call {kind} flag {flags}")
    name, at = _read_string(data, at)
    args, at = _read_bytes(data, at)
    return (CALL_REDUCER if tag == CALL_REDUCER else CALL_PROCEDURE, request_id, name, args), at


# Parts of server messages

EMPTY_UPDATE: Final = bytes(4)
"""An array<QuerySetUpdate> of length 0: what `reducer_result_ok` carries if the caller is not affected."""


def string_bytes(text: str) -> bytes:
    """Any text as BSATN string."""
    raw = text.encode("utf-8", "replace")
    return _U32.pack(len(raw)) + raw


# Whole server messages

_TAG_3U32: Final = struct.Struct("<BIII")
_TAG_2U32_TAG: Final = struct.Struct("<BIIB")
_ERROR_SOME: Final = struct.Struct("<BBII")
_ERROR_NONE: Final = struct.Struct("<BBI")
_ONE_OFF: Final = struct.Struct("<BIB")
_RESULT: Final = struct.Struct("<BIqB")
_RESULT_OK: Final = struct.Struct("<BIqBI")
_PROCEDURE_TAIL: Final = struct.Struct("<qqI")
_pack_ok: Final = _RESULT_OK.pack


def initial_connection(identity: bytes, connection_id: bytes, token: str) -> bytes:
    """`identity` 32 and `connection_id` 16 bytes, both little-endian (as in BSATN)."""
    return b"".join((b"\0", identity, connection_id, string_bytes(token)))


def subscribe_applied_head(request_id: int, query_set_id: int, count: int) -> bytes:
    """A SubscribeApplied up to its `count` tables."""
    return _TAG_3U32.pack(1, request_id, query_set_id, count)


def unsubscribe_applied_head(request_id: int, query_set_id: int, tables: Sequence[object] | None) -> bytes:
    """An UnsubscribeApplied up to its tables; None if the client did not ask for the dropped rows."""
    if tables is None:
        return _TAG_2U32_TAG.pack(2, request_id, query_set_id, 1)
    return _TAG_2U32_TAG.pack(2, request_id, query_set_id, 0) + len(tables).to_bytes(4, "little")


def subscription_error(request_id: int | None, query_set_id: int, error: str) -> bytes:
    """`request_id` None: the set failed while a transaction was evaluated."""
    if request_id is None:
        head = _ERROR_NONE.pack(3, 1, query_set_id)
    else:
        head = _ERROR_SOME.pack(3, 0, request_id, query_set_id)
    return head + string_bytes(error)


def one_off_ok(request_id: int, tables: Sequence[bytes]) -> bytes:
    """`tables`: exactly one, name and BsatnRowList."""
    return _ONE_OFF.pack(5, request_id, 0) + _U32.pack(len(tables)) + b"".join(tables)


def one_off_err(request_id: int, error: str) -> bytes:
    return _ONE_OFF.pack(5, request_id, 1) + string_bytes(error)


def reducer_result_ok(request_id: int, timestamp: int, update: bytes = EMPTY_UPDATE) -> bytes:
    """`timestamp` in microseconds; `update`: array<QuerySetUpdate>, the caller's own delta."""
    return _pack_ok(6, request_id, timestamp, 0, 0) + update


def reducer_result_err(request_id: int, timestamp: int, error: str) -> bytes:
    """The error the reducer raised, as the bytes of a BSATN string."""
    text = string_bytes(error)
    return b"".join((_RESULT.pack(6, request_id, timestamp, 2), _U32.pack(len(text)), text))


def reducer_result_internal(request_id: int, timestamp: int, error: str) -> bytes:
    """A refusal, a panic or an exhausted budget."""
    return _RESULT.pack(6, request_id, timestamp, 3) + string_bytes(error)


def procedure_result_returned(request_id: int, value: bytes, timestamp: int, duration: int) -> bytes:
    """`value`: BSATN of the returned value; `timestamp` and `duration` in microseconds."""
    return b"".join((b"\7\0", _U32.pack(len(value)), value, _PROCEDURE_TAIL.pack(timestamp, duration, request_id)))


def procedure_result_internal(request_id: int, error: str) -> bytes:
    return b"".join((b"\7\1", string_bytes(error), _PROCEDURE_TAIL.pack(0, 0, request_id)))


# WebSocket messages


@lru_cache(maxsize=4096)
def _tagged_head(length: int) -> bytes:
    """Frame header and compression tag for a body of `length` bytes."""
    return server_frame(length + 1) + b"\0"


def pack_v2(messages: Sequence[bytes]) -> bytes:
    """Server messages as v2 WebSocket messages, one each, ready to be sent."""
    parts: list[bytes] = []
    for message in messages:
        length = len(message)
        if length < MAX_FRAME_PAYLOAD:
            parts.append(_tagged_head(length))
            parts.append(message)
        else:
            parts.append(binary_frames(b"\0" + message))
    return b"".join(parts)


def pack_v3(messages: Sequence[bytes]) -> bytes:
    """Server messages as v3 WebSocket messages of at most MAX_COALESCED bytes (a longer one alone), ready to send."""
    if not messages:
        return b""
    total = sum(map(len, messages))
    if total <= MAX_COALESCED:
        return b"".join((_tagged_head(total), *messages))
    parts: list[bytes] = []
    batch: list[bytes] = []
    room = MAX_COALESCED
    for message in messages:
        length = len(message)
        if batch and length > room:
            parts.append(_pack_batch(batch))
            batch = []
            room = MAX_COALESCED
        batch.append(message)
        room -= length
    parts.append(_pack_batch(batch))
    return b"".join(parts)


def _pack_batch(batch: list[bytes]) -> bytes:
    if len(batch) == 1 and len(batch[0]) >= MAX_FRAME_PAYLOAD:
        return binary_frames(b"\0" + batch[0])
    return b"".join((_tagged_head(sum(map(len, batch))), *batch))
