"""Reading server messages (formats: head of `protocol/v2.py`), made for speed: rows stay slices of bytes.

One WebSocket message is a compression tag, then one or more server messages. `changes` maps a table's wire name to its
(inserts, deletes), lists of rows in order of arrival over all query sets; tables stand in order of first appearance.
Whatever cannot be read raises ServerDecodeError.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from spacetimedb.protocol.v2_client import ServerDecodeError, decompress

Rows = list[bytes]
Changes = dict[bytes, tuple[Rows, Rows]]

_U16: Final = struct.Struct("<H").unpack_from
_U32: Final = struct.Struct("<I").unpack_from
_U32_U32: Final = struct.Struct("<II").unpack_from
_HINT_FIXED: Final = struct.Struct("<HI").unpack_from
_RESULT: Final = struct.Struct("<IqB").unpack_from
_TAIL: Final = struct.Struct("<qqI").unpack_from

OK: Final = 0
OK_EMPTY: Final = 1
ERROR: Final = 2
INTERNAL: Final = 3


class Greeting(NamedTuple):
    """InitialConnection: identity of 32 bytes, connection id of 16, both little-endian."""

    identity: bytes
    connection_id: bytes
    token: str


class Applied(NamedTuple):
    """SubscribeApplied, or UnsubscribeApplied when `is_end` (whose rows stand among the deletes)."""

    request_id: int
    query_set_id: int
    changes: Changes
    is_end: bool


class Refused(NamedTuple):
    """SubscriptionError."""

    request_id: int | None
    query_set_id: int
    error: str


class Update(NamedTuple):
    """TransactionUpdate."""

    changes: Changes


class QueryAnswer(NamedTuple):
    """OneOffQueryResult: rows by table, or `error`."""

    request_id: int
    changes: Changes
    error: str | None


class ReducerAnswer(NamedTuple):
    """ReducerResult. `timestamp` in microseconds; `outcome` one of OK, OK_EMPTY, ERROR, INTERNAL; `error` the text."""

    request_id: int
    timestamp: int
    outcome: int
    changes: Changes
    error: str


class ProcedureAnswer(NamedTuple):
    """ProcedureResult: the value's BSATN, or the text of the failure."""

    request_id: int
    value: bytes
    error: str | None


Message = Greeting | Applied | Refused | Update | QueryAnswer | ReducerAnswer | ProcedureAnswer


def read_frame(frame: bytes) -> list[Message]:
    """All messages of one binary WebSocket message."""
    if frame[:1] == b"\0":
        body, at = frame, 1
    else:
        body, at = decompress(frame), 0
    end = len(body)
    messages: list[Message] = []
    try:
        while True:
            message, at = _read_message(body, at)
            messages.append(message)
            if at >= end:
                break
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ServerDecodeError(f"server message cut off or damaged at byte {at}: {error}") from None
    if at > end:
        raise ServerDecodeError("server message cut off")
    return messages


def _read_message(body: bytes, at: int) -> tuple[Message, int]:
    tag = body[at]
    at += 1
    if tag == 4:
        changes: Changes = {}
        at = _read_query_sets(body, at, changes)
        return Update(changes), at
    if tag == 6:
        return _read_reducer_result(body, at)
    if tag == 1:
        request_id, query_set_id = _U32_U32(body, at)
        changes = {}
        at = _read_tables(body, at + 8, changes, False)
        return Applied(request_id, query_set_id, changes, False), at
    if tag == 2:
        request_id, query_set_id = _U32_U32(body, at)
        has_rows, at = body[at + 8] == 0, at + 9
        changes = {}
        if has_rows:
            at = _read_tables(body, at, changes, True)
        return Applied(request_id, query_set_id, changes, True), at
    if tag == 7:
        failed, at = body[at], at + 1
        value, at = _read_bytes(body, at)
        _, _, request_id = _TAIL(body, at)
        error = value.decode() if failed else None
        return ProcedureAnswer(request_id, b"" if failed else value, error), at + 20
    if tag == 5:
        (request_id,) = _U32(body, at)
        failed, at = body[at + 4], at + 5
        changes = {}
        if failed:
            error, at = _read_text(body, at)
            return QueryAnswer(request_id, changes, error), at
        return QueryAnswer(request_id, changes, None), _read_tables(body, at, changes, False)
    if tag == 3:
        answered, at = body[at] == 0, at + 1
        request: int | None = None
        if answered:
            (request,) = _U32(body, at)
            at += 4
        (query_set_id,) = _U32(body, at)
        error, at = _read_text(body, at + 4)
        return Refused(request, query_set_id, error), at
    if tag == 0:
        identity, connection_id = body[at : at + 32], body[at + 32 : at + 48]
        token, at = _read_text(body, at + 48)
        return Greeting(identity, connection_id, token), at
    raise ServerDecodeError(f"unknown tag {tag} of ServerMessage")


def _read_reducer_result(body: bytes, at: int) -> tuple[Message, int]:
    request_id, timestamp, outcome = _RESULT(body, at)
    at += 13
    changes: Changes = {}
    if outcome == OK:
        at += 4 + _U32(body, at)[0]
        at = _read_query_sets(body, at, changes)
        return ReducerAnswer(request_id, timestamp, OK, changes, ""), at
    if outcome == OK_EMPTY:
        return ReducerAnswer(request_id, timestamp, OK_EMPTY, changes, ""), at
    if outcome == ERROR:
        value, at = _read_bytes(body, at)
        return ReducerAnswer(request_id, timestamp, ERROR, changes, value[4:].decode("utf-8", "replace")), at
    if outcome == INTERNAL:
        text, at = _read_text(body, at)
        return ReducerAnswer(request_id, timestamp, INTERNAL, changes, text), at
    raise ServerDecodeError(f"unknown tag {outcome} of ReducerOutcome")


def _read_query_sets(body: bytes, at: int, changes: Changes) -> int:
    (sets,) = _U32(body, at)
    at += 4
    for _ in range(sets):
        tables = _U32_U32(body, at)[1]
        at += 8
        for _ in range(tables):
            start = at + 4
            at = start + _U32(body, at)[0]
            name = body[start:at]
            entry = changes.get(name)
            if entry is None:
                entry = changes[name] = ([], [])
            (count,) = _U32(body, at)
            at += 4
            for _ in range(count):
                kind = body[at]
                at = _read_rows(body, at + 1, entry[0])
                if kind == 0:
                    at = _read_rows(body, at, entry[1])
                elif kind != 1:
                    raise ServerDecodeError(f"unknown tag {kind} of TableUpdateRows")
    return at


def _read_tables(body: bytes, at: int, changes: Changes, as_deletes: bool) -> int:
    """QueryRows."""
    (count,) = _U32(body, at)
    at += 4
    for _ in range(count):
        start = at + 4
        at = start + _U32(body, at)[0]
        name = body[start:at]
        entry = changes.get(name)
        if entry is None:
            entry = changes[name] = ([], [])
        at = _read_rows(body, at, entry[as_deletes])
    return at


def _read_rows(body: bytes, at: int, into: Rows) -> int:
    """BsatnRowList: its rows are appended; returns where it ends."""
    hint = body[at]
    if hint == 0:
        size, length = _HINT_FIXED(body, at + 1)
        at += 7
        end = at + length
        if length == size:
            into.append(body[at:end])
        elif not size or length % size:
            raise ServerDecodeError("rows do not fit their fixed size")
        else:
            into += [body[start : start + size] for start in range(at, end, size)]
    elif hint == 1:
        (count,) = _U32(body, at + 1)
        at += 5
        if not count:
            return at + 4 + int(_U32(body, at)[0])
        offsets = struct.unpack_from(f"<{count}Q", body, at)
        at += 8 * count
        (length,) = _U32(body, at)
        at += 4
        end = at + length
        if offsets[0] or offsets[-1] > length:
            raise ServerDecodeError("row offsets do not fit the rows")
        starts = [at + offset for offset in offsets]
        starts.append(end)
        into += [body[starts[i] : starts[i + 1]] for i in range(count)]
    else:
        raise ServerDecodeError(f"unknown tag {hint} of RowSizeHint")
    if end > len(body):
        raise ServerDecodeError("rows are cut off")
    return int(end)


def _read_bytes(body: bytes, at: int) -> tuple[bytes, int]:
    start = at + 4
    end = start + _U32(body, at)[0]
    if end > len(body):
        raise ServerDecodeError("server message cut off")
    return body[start:end], end


def _read_text(body: bytes, at: int) -> tuple[str, int]:
    raw, end = _read_bytes(body, at)
    return raw.decode(), end
