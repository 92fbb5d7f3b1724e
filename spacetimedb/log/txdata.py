"""Transaction payloads: what a commit of the log says about one transaction.

All integers little-endian; `vint` is unsigned LEB128 (7 bits a byte, least significant group first), at most 10 bytes.

    payload   := flags:u8  [inputs]  [outputs]  [mutations]
    inputs    := len:u32  name_len:u8  name[name_len]  args[len - 1 - name_len]       if flags & 0x80
    outputs   := len:u8  text[len]                                                    if flags & 0x40
    mutations := vint n  n * rows(inserts)  vint n  n * rows(deletes)  vint n  n * table_id:u32 (truncates)
                                                                                      if flags & 0x20
    rows      := table_id:u32  vint count  count * BSATN(row)

The other flag bits are ignored. Each list ascends by table id; ids below 4096 are system tables, so a change of schema
comes before the rows in the new schema. Rows have no length of their own: cutting them apart needs the row type that is
in force, which may have been inserted in the same payload. The reader therefore asks for each table's splitter when it
gets there, and reports each group of inserted rows before it goes on.

`args` of a reducer call: caller identity (32 bytes), connection id (16 bytes), timestamp (i64 microseconds), then the
reducer's arguments in BSATN.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct, unpack_from
from struct import error as StructError
from typing import TypeAlias

import msgspec

from spacetimedb.types.errors import DecodeError

INPUTS, OUTPUTS, MUTATIONS = 0x80, 0x40, 0x20

Splitter: TypeAlias = Callable[[bytes, int, int], tuple[list[bytes], int]]
"""split(buf, at, count) -> (rows, end): cuts `count` rows of one table apart."""
SkipRow: TypeAlias = Callable[[bytes, int], int]
"""skip_row(buf, at) -> end: where the row that starts at `at` ends."""
RowGroup: TypeAlias = tuple[int, list[bytes]]
"""Table id and rows."""

_U32 = Struct("<I")


class Inputs(msgspec.Struct, frozen=True, gc=False):
    """The reducer call that caused a transaction."""

    name: str
    args: bytes


class Transaction(msgspec.Struct, frozen=True):
    """A decoded payload. Rows are BSATN; a table in `truncates` has no rows in the other lists."""

    inputs: Inputs | None
    outputs: bytes | None
    inserts: list[RowGroup]
    deletes: list[RowGroup]
    truncates: list[int]


def decode_vint(buf: bytes, at: int) -> tuple[int, int]:
    """(value, end). Raises DecodeError for more than 10 bytes or more than 64 bits."""
    value = shift = 0
    for end in range(at, min(at + 10, len(buf))):
        byte = buf[end]
        value |= (byte & 127) << shift
        if byte < 128:
            if value >> 64:
                break
            return value, end + 1
        shift += 7
    raise DecodeError(f"no variable-length integer at byte {at}")


def decode_payload(
    buf: bytes,
    at: int,
    splitter: Callable[[int], Splitter],
    inserted: Callable[[int, list[bytes]], None] | None = None,
) -> tuple[Transaction, int]:
    """Decodes the payload at `at`; returns it and where it ends.

    `splitter(table_id)` gives a table's splitter and is asked when its rows are reached; `inserted(table_id, rows)` is
    told each group of inserted rows before. Raises DecodeError; whatever `splitter` raises passes through.
    """
    try:
        return _decode(buf, at, splitter, inserted)
    except (StructError, IndexError) as error:
        raise DecodeError(f"payload at byte {at} is cut short") from error


def _decode(
    buf: bytes,
    at: int,
    splitter: Callable[[int], Splitter],
    inserted: Callable[[int, list[bytes]], None] | None,
) -> tuple[Transaction, int]:
    size = len(buf)
    flags = buf[at]
    at += 1
    inputs: Inputs | None = None
    outputs: bytes | None = None
    if flags & INPUTS:
        length: int = unpack_from("<I", buf, at)[0]
        name_end = at + 5 + buf[at + 4]
        end = at + 4 + length
        if not name_end <= end <= size:
            raise DecodeError(f"inputs of {length} bytes at byte {at} do not fit")
        try:
            inputs = Inputs(buf[at + 5 : name_end].decode(), buf[name_end:end])
        except UnicodeDecodeError:
            raise DecodeError("invalid utf8") from None
        at = end
    if flags & OUTPUTS:
        end = at + 1 + buf[at]
        outputs = buf[at + 1 : end]
        at = end
    inserts: list[RowGroup] = []
    deletes: list[RowGroup] = []
    truncates: list[int] = []
    if flags & MUTATIONS:
        for groups in (inserts, deletes):
            count = buf[at]
            at += 1
            if count > 127:
                count, at = decode_vint(buf, at - 1)
            for _ in range(count):
                table_id: int = unpack_from("<I", buf, at)[0]
                row_count = buf[at + 4]
                at += 5
                if row_count > 127:
                    row_count, at = decode_vint(buf, at - 1)
                if row_count > size:
                    raise DecodeError(f"{row_count} rows of table {table_id} in {size} bytes")
                rows, at = splitter(table_id)(buf, at, row_count)
                if at > size:
                    raise DecodeError(f"rows of table {table_id} end at byte {at} of {size}")
                groups.append((table_id, rows))
                if inserted is not None and groups is inserts:
                    inserted(table_id, rows)
        count = buf[at]
        at += 1
        if count > 127:
            count, at = decode_vint(buf, at - 1)
        if count * 4 > size - at:
            raise DecodeError(f"{count} truncated tables in {size - at} bytes")
        if count:
            truncates = [table_id for (table_id,) in _U32.iter_unpack(buf[at : at + count * 4])]
            at += count * 4
    if at > size:
        raise DecodeError(f"payload ends at byte {at} of {size}")
    return Transaction(inputs, outputs, inserts, deletes, truncates), at
