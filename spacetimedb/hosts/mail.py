"""What readers and the transaction actor say to each other, byte by byte.

Requests travel in the mailbox of a reader, answers in the commit ring (so that their place among the commits is given).
All integers are little-endian; every record is padded to a multiple of 8 bytes.

    request (reader -> actor)
     0  u32  length of the record
     4  u8   kind: CALL, CONNECT, DISCONNECT, REFS, SQL, PROCEDURE, NOTHING, HANDLER, VIEW, VIEW_UNUSED, PIECE,
                RELAY, IMPORT, LOOK_UP, PAGE
     5  u8   low 3 bits: how many of the last bytes are padding; CALL: above them the generation of the reducer ids
     6  u16  CALL: reducer id, or BY_NAME, BAD_CALL: the body starts with a name; PIECE: MORE; LOOK_UP: WHATEVER;
             otherwise 0
     8  u32  connection number, as the reader counts them
    12  u32  request id, echoed in the answer
    16       body

    CALL        arguments as BSATN; with BY_NAME: u32 length of the name, the name, then the arguments
    CONNECT     identity (32), connection id (16), then the payload of the token as JSON text
    DISCONNECT  nothing
    REFS        u32 table id: leave a copy of the refs of that table and announce it
    SQL         u8 permission (1 owner), the text of one statement that changes rows
    PROCEDURE   u32 length of the name, the name, the arguments
    IMPORT      u32 length of the name of a table, the name, rows as BSATN; answered as SQL
    NOTHING     nothing; answered SQL_DONE, so that a query over HTTP runs between the hooks of its caller
    HANDLER     a request to an HTTP handler of the module (`handler_calls.HandlerCall`), without a CONNECT before it.
                Answered RETURNED with `handler_calls.HandlerAnswer`, PROCEDURE_FAILED or NO_SUCH_PROCEDURE
    VIEW        u32 length of the name of a view, the name, then the identity (32) whose instance is wanted; none for a
                view that is everybody's. The reader uses the instance from then on; the request id comes back in
                VIEW_READY
    VIEW_UNUSED u32 table id: the reader does not use this instance of a view any more
    PIECE       a piece of a record that is too long for the mailbox; the last piece comes without MORE
    LOOK_UP     u32 table id, u32 column, then keys of the index of this column (as in `sql.literals`), each with its
                u32 length before it: where are the rows with these keys? The request id comes back in LOOKED_UP
    PAGE        u32 table id, u32 count, u64 offset: where are so many rows, from the offset in the order in which the
                table keeps them? The request id comes back in LOOKED_UP
    RELAY       what readers tell each other (`workers.reader.query_costs`): put into the ring as RELAYED

    answer (actor -> readers, kind ANSWER in the commit ring)
     0  u32  length of the record
     4  u8   kind = ANSWER
     5  u8   outcome, one of Outcome
     6  u16  reader slot
     8  u32  connection number
    12  u32  request id
    16  u64  horizon: everything up to this number of logged transactions had happened
    24  i64  timestamp of the call, microseconds
    32  u32  length of the body
    36  u32  duration in microseconds, MAX_DURATION_US if it was longer
    40       body: a text (UTF-8), the BSATN of a result, or three u64 row counts (inserted, deleted, updated)

    refs (kind REFS_READY): u32 length, u8 kind, 3 bytes 0, u32 table id, u32 number, u64 ref of a heap block with the
    u64 refs of all live rows of the table, number 0: at this place of the ring; otherwise at that of REFS_BEGUN

    refs begun (kind REFS_BEGUN): the same with the number of the copy and ref 0: REFS_READY follows

    view (kind VIEW_READY): u32 length, u8 kind, u8 padding, u16 reader slot, u32 request id, u32 table id of the
    instance, u64 ref of a heap block with the refs of its rows at this place of the ring; or, if the view failed,
    table id and ref 0 and then the text for clients (UTF-8)

    looked up (kind LOOKED_UP): u32 length, u8 kind, u8 0, u16 reader slot, u32 request id, u32 0, u64 number of rows of
    the table, u64 ref of a heap block with the refs of the rows found at this place of the ring; both 0: declined, as
    it is better to ask for the REFS of the table: it is small, the rows found are many, or there is no such index. A
    request with WHATEVER is not declined because of sizes

    log lines (kind LOG_LINES): u32 length, u8 kind, u8 padding, u16 0, then JSON lines as the module log stores them

    program (kind PROGRAM): u32 length, u8 kind, u8 padding, u16 0, then MessagePack of [raw module definition, ids of
    tables by name, generation]: records from here on are those of this program

    close clients (kind CLOSE_CLIENTS): u32 length, u8 kind, 3 bytes 0: the database has disconnected all its clients

    relayed (kind RELAYED): u32 length, u8 kind, u8 padding, u16 slot of the reader that says it, u32 how many readers
    there are, u32 request id of the RELAY, then its body

    spilled (kind SPILLED): u32 length, u8 kind, 3 bytes 0, u64 ref of a heap block: a record too big for the ring
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from struct import Struct as Layout
from typing import Final

import msgspec

CALL: Final = 1
CONNECT: Final = 2
DISCONNECT: Final = 3
REFS: Final = 4
SQL: Final = 5
PROCEDURE: Final = 6
NOTHING: Final = 7
HANDLER: Final = 8
VIEW: Final = 9
VIEW_UNUSED: Final = 10
PIECE: Final = 11
RELAY: Final = 12
IMPORT: Final = 13
LOOK_UP: Final = 14
PAGE: Final = 15
MORE: Final = 1
WHATEVER: Final = 1
GENERATIONS: Final = 32
"""Reducer ids are those of a generation: programs are counted modulo this number."""

BY_NAME: Final = 0xFFFF
BAD_CALL: Final = 0xFFFE
"""The reader found the arguments to be wrong: the call is only logged."""

ANSWER: Final = 2
REFS_READY: Final = 3
LOG_LINES: Final = 4
SPILLED: Final = 5
PROGRAM: Final = 6
CLOSE_CLIENTS: Final = 7
VIEW_READY: Final = 8
RELAYED: Final = 9
LOOKED_UP: Final = 10
REFS_BEGUN: Final = 11

REQUEST_HEAD: Final = Layout("<IBBHII")
ANSWER_HEAD: Final = Layout("<IBBHIIQqII")
REFS_READY_RECORD: Final = Layout("<IB3xIIQ")
SPILLED_RECORD: Final = Layout("<IB3xQ")
LOG_LINES_HEAD: Final = Layout("<IBBH")
PROGRAM_HEAD: Final = Layout("<IBBH")
VIEW_READY_HEAD: Final = Layout("<IBBHIIQ")
RELAYED_HEAD: Final = Layout("<IBBHII")
LOOKED_UP_RECORD: Final = Layout("<IBBHIIQQ")
LOOK_UP_HEAD: Final = Layout("<II")
PAGE_BODY: Final = Layout("<IIQ")
CLOSE_CLIENTS_RECORD: Final = Layout("<IB3x").pack(8, CLOSE_CLIENTS)
ROW_COUNTS: Final = Layout("<QQQ")
PADDING: Final = [b"\0" * n for n in range(8)]
_LENGTH: Final = Layout("<I")
MAX_DURATION_US: Final = 0xFFFFFFFF
"""Longest duration that a record tells (71 minutes); a procedure may take longer."""


class Outcome(IntEnum):
    """What became of a request that has no commit record of its own."""

    ERROR = 1
    """The reducer refused with a text of its own."""
    INTERNAL = 2
    """The reducer failed; the body is the text for the caller."""
    NO_SUCH_REDUCER = 3
    BAD_ARGUMENTS = 4
    LIFECYCLE = 5
    """A lifecycle reducer called by name."""
    OUT_OF_ENERGY = 6
    REFUSED = 7
    """`client_connected` refused the connection; the body is its text."""
    RETURNED = 8
    """A procedure's result."""
    PROCEDURE_FAILED = 9
    """It raised; the body is the text for the caller."""
    NO_SUCH_PROCEDURE = 10
    SQL_DONE = 11
    SQL_ERROR = 12
    CONNECTED = 13
    """The connection is known; sent after the commit record of the connect transaction."""
    BAD_PROCEDURE_ARGUMENTS = 14


def request(kind: int, detail: int, connection: int, request_id: int, body: bytes, generation: int = 0) -> bytes:
    """One mailbox record."""
    padding = -len(body) % 8
    flags = padding | (generation % GENERATIONS) << 3
    head = REQUEST_HEAD.pack(16 + len(body) + padding, kind, flags, detail, connection, request_id)
    return head + body + PADDING[padding]


def pieces(record: bytes, limit: int) -> list[bytes]:
    """A record as PIECE records of at most `limit` bytes; a shorter one as it is."""
    if len(record) <= limit:
        return [record]
    step = (limit - REQUEST_HEAD.size) & ~7
    ends = range(step, len(record) + step, step)
    return [request(PIECE, MORE if end < len(record) else 0, 0, 0, record[end - step : end]) for end in ends]


def named(name: str, rest: bytes) -> bytes:
    """Body of a CALL by name or of a PROCEDURE request."""
    text = name.encode()
    return _LENGTH.pack(len(text)) + text + rest


def split_named(body: bytes) -> tuple[str, bytes]:
    """The name and the rest of a body that `named` made."""
    (length,) = _LENGTH.unpack_from(body)
    return body[4 : 4 + length].decode(), body[4 + length :]


def look_up(number: int, table_id: int, column: int, keys: Iterable[bytes], whatever: bool) -> bytes:
    """One LOOK_UP request."""
    parts = [LOOK_UP_HEAD.pack(table_id, column)]
    for key in keys:
        parts += (_LENGTH.pack(len(key)), key)
    return request(LOOK_UP, WHATEVER if whatever else 0, 0, number, b"".join(parts))


def look_up_keys(body: bytes) -> list[bytes]:
    """The keys of a LOOK_UP request."""
    keys = []
    at = LOOK_UP_HEAD.size
    while at < len(body):
        (length,) = _LENGTH.unpack_from(body, at)
        at += 4 + length
        keys.append(body[at - length : at])
    return keys


def page(number: int, table_id: int, count: int, offset: int) -> bytes:
    """One PAGE request."""
    return request(PAGE, 0, 0, number, PAGE_BODY.pack(table_id, count, offset))


def looked_up(reader: int, number: int, row_count: int, block: int) -> bytes:
    """One LOOKED_UP record."""
    return LOOKED_UP_RECORD.pack(32, LOOKED_UP, 0, reader, number, 0, row_count, block)


def answer(
    outcome: int,
    reader: int,
    connection: int,
    request_id: int,
    horizon: int,
    timestamp_us: int,
    duration_us: int,
    body: bytes,
) -> bytes:
    """One ANSWER record."""
    padding = -len(body) % 8
    head = ANSWER_HEAD.pack(
        40 + len(body) + padding,
        ANSWER,
        outcome,
        reader,
        connection,
        request_id,
        horizon,
        timestamp_us,
        len(body),
        min(duration_us, MAX_DURATION_US),
    )
    return head + body + PADDING[padding]


def log_lines(lines: list[bytes]) -> bytes:
    """One LOG_LINES record of whole lines, each ended by a newline."""
    body = b"".join(lines)
    padding = -len(body) % 8
    return LOG_LINES_HEAD.pack(8 + len(body) + padding, LOG_LINES, padding, 0) + body + PADDING[padding]


def relayed(reader: int, readers: int, request_id: int, body: bytes) -> bytes:
    """One RELAYED record."""
    padding = -len(body) % 8
    head = RELAYED_HEAD.pack(16 + len(body) + padding, RELAYED, padding, reader, readers, request_id)
    return head + body + PADDING[padding]


def view_ready(reader: int, request_id: int, table_id: int, block: int) -> bytes:
    """The VIEW_READY record of an instance that exists."""
    return VIEW_READY_HEAD.pack(24, VIEW_READY, 0, reader, request_id, table_id, block)


def view_failed(reader: int, request_id: int, text: str) -> bytes:
    """The VIEW_READY record of one that does not."""
    body = text.encode("utf-8", "replace")
    padding = -len(body) % 8
    length = 24 + len(body) + padding
    return VIEW_READY_HEAD.pack(length, VIEW_READY, padding, reader, request_id, 0, 0) + body + PADDING[padding]


class Program(msgspec.Struct, array_like=True):
    """Body of a PROGRAM record."""

    definition: bytes
    table_ids: dict[str, int]
    generation: int


_encode_program: Final = msgspec.msgpack.Encoder().encode
_decode_program: Final = msgspec.msgpack.Decoder(Program).decode


def program(definition: bytes, table_ids: dict[str, int], generation: int) -> bytes:
    """One PROGRAM record."""
    body = _encode_program(Program(definition, table_ids, generation))
    padding = -len(body) % 8
    return PROGRAM_HEAD.pack(8 + len(body) + padding, PROGRAM, padding, 0) + body + PADDING[padding]


def program_of(record: bytes) -> Program:
    """The body of a PROGRAM record."""
    _length, _kind, padding, _zero = PROGRAM_HEAD.unpack_from(record)
    return _decode_program(record[8 : len(record) - padding])
