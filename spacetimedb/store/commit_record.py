"""The commit record: one committed transaction as one byte string, for the log, the readers and the clients.

The transaction actor builds it once. The log keeper writes a slice of it (the log payload) to disk, readers cut the
contiguous rows out of it and forward them. Nobody encodes a row again. All integers are little-endian.

    at  size  field
     0  u32   length of the record, a multiple of 8 (ring framing)
     4  u8    kind = COMMIT
     5  u8    flags: LOGGED, SILENT
     6  u16   number of table entries
     8  u64   horizon: number of transactions logged up to and including this one; its own offset is horizon - 1
    16  i64   timestamp of the transaction, microseconds since the epoch
    24  u16   reader slot of the caller, NO_READER if the caller is no socket
    26  u16   reducer id, NO_REDUCER if the transaction ran none
    28  u32   connection number of the caller, as its reader counts them
    32  u32   request id of the caller
    36  u32   duration of the reducer in microseconds
    40  u32   position of the log payload in the record
    44  u32   length of the log payload, 0 if the transaction is not logged
    48  u32   base: where the inputs end in the log payload; its start if the transaction is not logged
    52  u32   0
    56        table entries of 48 bytes, ascending by table id

    table entry
     0  u32   table id
     4  u32   flags: EVENT, TRUNCATED, UNLOGGED (the log does not hold this change)
     8  u32   number of deleted rows        24  u32  number of inserted rows
    12  u32   position of their bytes       28  u32  position of their bytes
    16  u32   length of their bytes         32  u32  length of their bytes
    20  u32   length of each, 0: lengths    36  u32  length of each, 0: lengths
    40  u32   position of the extras: u32 length of each deleted row, then of each inserted row (each list only where
              the entry has no common length), then u64 refs of the deleted, then of the inserted rows (not for events)
    44  u32   0

Positions in an entry count from the base, so that the entry of a small change is the same for every transaction that
deletes and inserts as many rows of one length in one table: it is packed once and kept.

Then the log payload, rows that the log does not hold (truncated and unlogged tables), the extras, padding.

The log payload is the transaction payload of SpacetimeDB's commit log: a flags byte (0x80 inputs present, 0x20
mutations present), the inputs, then three lists, each led by a LEB128 count: inserts and deletes (u32 table id, LEB128
row count, rows back to back), truncated table ids (u32). A table whose rows are all gone is named in the truncates
instead of listing its deleted rows.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from struct import Struct as Layout
from typing import Final, NamedTuple

import msgspec

COMMIT: Final = 1
"""Ring record kind of a commit record."""

LOGGED: Final = 1
SILENT: Final = 2
"""The change is not announced to subscribers (a client came or went and the module has no hook for it)."""
EVENT: Final = 1
TRUNCATED: Final = 2
UNLOGGED: Final = 4
LOG_ONLY: Final = 8
"""The log holds the change, readers do not see it: rows that stay begin to be logged, or are logged no more."""

NO_READER: Final = 0xFFFF
NO_REDUCER: Final = 0xFFFF
MUTATIONS_ONLY: Final = b"\x20"
"""Leading bytes of a log payload without inputs."""
INPUTS_AND_MUTATIONS: Final = b"\xa0"

_HEADER: Final = Layout("<IBBHQqHHIIIIIII")
_ENTRY: Final = Layout("<IIIIIIIIIIII")
_U32: Final = Layout("<I")
_pack_header: Final = _HEADER.pack
HEADER_BYTES: Final = _HEADER.size
ENTRY_BYTES: Final = _ENTRY.size
_PADDING: Final = [b"\0" * n for n in range(8)]
_SMALL_COUNT: Final = [bytes((n,)) for n in range(128)]


class TableDelta(msgspec.Struct, gc=False):
    """Net change of one table in one transaction, rows as BSATN.

    `row_length` > 0 promises that every row of the table has that length. Refs stand in the order of the rows; event
    tables have none. A TRUNCATED delta still lists all rows it deleted.
    """

    table_id: int
    flags: int
    row_length: int
    deletes: list[bytes]
    inserts: list[bytes]
    deleted_refs: list[int]
    inserted_refs: list[int]


class Header(NamedTuple):
    """The fixed head of a commit record, as in the table at the head of this module."""

    length: int
    kind: int
    flags: int
    table_count: int
    horizon: int
    timestamp_us: int
    reader: int
    reducer_id: int
    connection: int
    request_id: int
    duration_us: int
    log_at: int
    log_length: int
    base: int
    zero: int


class Rows(NamedTuple):
    """A list of rows in a record: `data` holds them back to back; `lengths` is None when all are `row_length` long."""

    row_count: int
    data: bytes
    row_length: int
    lengths: Sequence[int] | None

    def split(self) -> list[bytes]:
        """Every row as its own bytes, in order. O(rows)."""
        data = self.data
        if self.lengths is None:
            n = self.row_length
            return [data[at : at + n] for at in range(0, len(data), n)] if n else [b""] * self.row_count
        rows = []
        at = 0
        for length in self.lengths:
            rows.append(data[at : at + length])
            at += length
        return rows


NO_ROWS: Final = Rows(0, b"", 0, None)


class TableChange(NamedTuple):
    """What a reader sees of one table entry. Refs are u64 in native byte order of the writer (little-endian)."""

    table_id: int
    flags: int
    deletes: Rows
    inserts: Rows
    deleted_refs: bytes
    inserted_refs: bytes


def leb128(n: int) -> bytes:
    """Unsigned LEB128: 7 bits a byte, least significant group first."""
    if n < 128:
        return _SMALL_COUNT[n]
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def build_commit(
    deltas: list[TableDelta],
    inputs: bytes,
    horizon: int,
    flags: int,
    timestamp_us: int,
    reader: int,
    connection: int,
    request_id: int,
    reducer_id: int,
    duration_us: int,
) -> bytes:
    """One record of the net changes `deltas` (ascending by table id).

    `inputs` leads the log payload: MUTATIONS_ONLY, or INPUTS_AND_MUTATIONS followed by the reducer inputs.
    `flags`: LOGGED and SILENT; a logged transaction must have counted itself in `horizon`.
    Complexity: O(bytes of the rows), in joins.
    """
    logged = flags & LOGGED
    d = deltas[0] if len(deltas) == 1 else None
    if d is None or not d.row_length or d.flags != (0 if logged else UNLOGGED) or flags & SILENT:
        return _build(
            deltas, inputs, horizon, flags, timestamp_us, reader, connection, request_id, reducer_id, duration_us
        )
    # The usual case: one table, rows of one length, neither event nor truncated.
    if not logged:
        inputs = b""
    key = (d.table_id, len(d.inserts), len(d.deletes), d.row_length, d.flags)
    outline = _OUTLINES.get(key) or _outline(*key)
    base = _SINGLE_LOG_AT + len(inputs)
    end = base + outline.length
    padding = -end & 7
    head = _pack_header(
        end + padding,
        COMMIT,
        flags,
        1,
        horizon,
        timestamp_us,
        reader,
        reducer_id,
        connection,
        request_id,
        duration_us,
        _SINGLE_LOG_AT,
        len(inputs) + outline.log_length if flags else 0,
        base,
        0,
    )
    refs = outline.pack_refs(*d.deleted_refs, *d.inserted_refs)
    return b"".join(
        (
            head,
            outline.entry,
            inputs,
            outline.lead_in,
            *d.inserts,
            outline.lead_out,
            *d.deletes,
            outline.tail,
            refs,
            _PADDING[padding],
        )
    )


def _build(
    deltas: list[TableDelta],
    inputs: bytes,
    horizon: int,
    flags: int,
    timestamp_us: int,
    reader: int,
    connection: int,
    request_id: int,
    reducer_id: int,
    duration_us: int,
) -> bytes:
    """`build_commit` for any transaction."""
    logged = flags & LOGGED
    shown = [d for d in deltas if not d.flags & LOG_ONLY]
    log_at = HEADER_BYTES + ENTRY_BYTES * len(shown)
    base = at = log_at
    log: list[bytes] = []
    outside: list[bytes] = []
    positions: dict[tuple[int, bool], int] = {}
    if logged:
        log.append(inputs)
        at += len(inputs)
        base = at
        for inserted in (True, False):
            groups = [
                d
                for d in deltas
                if not d.flags & UNLOGGED and (d.inserts if inserted else d.deletes and not d.flags & TRUNCATED)
            ]
            count = leb128(len(groups))
            log.append(count)
            at += len(count)
            for d in groups:
                rows = d.inserts if inserted else d.deletes
                lead = _U32.pack(d.table_id) + leb128(len(rows))
                data = b"".join(rows)
                at += len(lead)
                positions[d.table_id, inserted] = at - base
                at += len(data)
                log.append(lead)
                log.append(data)
        truncated = [d.table_id for d in deltas if d.flags & TRUNCATED and not d.flags & UNLOGGED]
        tail = leb128(len(truncated)) + b"".join(map(_U32.pack, truncated))
        log.append(tail)
        at += len(tail)
    log_length = at - log_at
    entries: list[bytes] = []
    for d in shown:
        for inserted in (False, True):
            rows = d.inserts if inserted else d.deletes
            if rows and (d.table_id, inserted) not in positions:
                data = b"".join(rows)
                outside.append(data)
                positions[d.table_id, inserted] = at - base
                at += len(data)
    for d in shown:
        extras_at = at - base
        fields: list[int] = []
        for inserted in (False, True):
            rows = d.inserts if inserted else d.deletes
            if d.row_length:
                common, length = d.row_length, d.row_length * len(rows)
            else:
                lengths = list(map(len, rows))
                length = sum(lengths)
                common = lengths[0] if lengths and lengths.count(lengths[0]) == len(lengths) else 0
                if not common and lengths:
                    outside.append(array("I", lengths).tobytes())
                    at += 4 * len(lengths)
            fields += (len(rows), positions.get((d.table_id, inserted), 0), length, common)
        refs = array("Q", d.deleted_refs + d.inserted_refs).tobytes()
        outside.append(refs)
        at += len(refs)
        entries.append(_ENTRY.pack(d.table_id, d.flags, *fields, extras_at, 0))
    padding = _PADDING[-at % 8]
    head = _HEADER.pack(
        at + len(padding),
        COMMIT,
        flags,
        len(shown),
        horizon,
        timestamp_us,
        reader,
        reducer_id,
        connection,
        request_id,
        duration_us,
        log_at,
        log_length,
        base,
        0,
    )
    return b"".join((head, *entries, *log, *outside, padding))


class _Outline(msgspec.Struct, gc=False):
    """Everything about a record of `_build_single` that does not depend on the rows: see `build_commit`."""

    entry: bytes
    lead_in: bytes
    lead_out: bytes
    tail: bytes
    log_length: int
    """Bytes of the log payload behind the inputs."""
    length: int
    """Bytes behind the inputs, without the padding."""
    pack_refs: Callable[..., bytes]


_SINGLE_LOG_AT: Final = HEADER_BYTES + ENTRY_BYTES
_OUTLINES: dict[tuple[int, int, int, int, int], _Outline] = {}
MAX_OUTLINES: Final = 4096


def _outline(table_id: int, n_in: int, n_out: int, row_length: int, flags: int) -> _Outline:
    table = _U32.pack(table_id)
    lead_in = lead_out = tail = b""
    if not flags:  # the rows stand in a log payload
        lead_in = b"\x01" + table + leb128(n_in) if n_in else b"\0"
        lead_out = b"\x01" + table + leb128(n_out) if n_out else b"\0"
        tail = b"\0"
    inserts_at = len(lead_in)
    deletes_at = inserts_at + n_in * row_length + len(lead_out)
    extras_at = deletes_at + n_out * row_length + len(tail)
    outs, ins = n_out * row_length, n_in * row_length
    entry = _ENTRY.pack(
        table_id, flags, n_out, deletes_at, outs, row_length, n_in, inserts_at, ins, row_length, extras_at, 0
    )
    refs = Layout(f"<{n_in + n_out}Q")
    made = _Outline(entry, lead_in, lead_out, tail, extras_at, extras_at + refs.size, refs.pack)
    if len(_OUTLINES) >= MAX_OUTLINES:
        _OUTLINES.clear()
    _OUTLINES[table_id, n_in, n_out, row_length, flags] = made
    return made


def header(record: bytes | memoryview, at: int = 0) -> Header:
    """The head of the commit record that starts at `at`."""
    return Header._make(_HEADER.unpack_from(record, at))


def log_payload(record: bytes | memoryview, at: int = 0) -> bytes | memoryview:
    """The slice that goes to the commit log; empty for an unlogged transaction."""
    start, length = _LOG_SLICE.unpack_from(record, at + 40)
    return record[at + start : at + start + length]


_LOG_SLICE: Final = Layout("<II")


def changes(record: bytes, at: int, table_count: int) -> list[TableChange]:
    """All table entries of the commit record at `at`. O(tables), rows are one slice each."""
    out = []
    entry_at = at + HEADER_BYTES
    base = at + _U32.unpack_from(record, at + 48)[0]
    for _ in range(table_count):
        (
            table_id,
            flags,
            n_out,
            out_at,
            out_length,
            out_common,
            n_in,
            in_at,
            in_length,
            in_common,
            extras_at,
            _zero,
        ) = _ENTRY.unpack_from(record, entry_at)
        entry_at += ENTRY_BYTES
        extras_at += base
        out_lengths = in_lengths = None
        if n_out and not out_common and out_length:
            out_lengths = memoryview(record[extras_at : extras_at + 4 * n_out]).cast("I")
            extras_at += 4 * n_out
        elif n_out and not out_common:
            extras_at += 4 * n_out
        if n_in and not in_common and in_length:
            in_lengths = memoryview(record[extras_at : extras_at + 4 * n_in]).cast("I")
            extras_at += 4 * n_in
        elif n_in and not in_common:
            extras_at += 4 * n_in
        if flags & EVENT:
            deleted_refs = inserted_refs = b""
        else:
            deleted_refs = record[extras_at : extras_at + 8 * n_out]
            inserted_refs = record[extras_at + 8 * n_out : extras_at + 8 * (n_out + n_in)]
        out.append(
            TableChange(
                table_id,
                flags,
                Rows(n_out, record[base + out_at : base + out_at + out_length], out_common, out_lengths)
                if n_out
                else NO_ROWS,
                Rows(n_in, record[base + in_at : base + in_at + in_length], in_common, in_lengths) if n_in else NO_ROWS,
                deleted_refs,
                inserted_refs,
            )
        )
    return out
