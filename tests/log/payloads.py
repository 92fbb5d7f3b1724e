"""Payloads of transactions as tests of the log write them (format: head of `log.txdata`)."""

from __future__ import annotations

from struct import Struct

from spacetimedb.log.txdata import Inputs
from spacetimedb.store.commit_record import leb128

_U32 = Struct("<I")


def encode_payload(
    inputs: Inputs | None,
    inserts: list[tuple[int, int, bytes]],
    deletes: list[tuple[int, int, bytes]],
    truncates: list[int],
) -> bytes:
    """A payload with mutations. A group is (table id, row count, rows back to back); lists must ascend by table id."""
    parts = [b"\x20"]
    if inputs is not None:
        name = inputs.name.encode()
        parts = [b"\xa0", _U32.pack(1 + len(name) + len(inputs.args)), bytes([len(name)]), name, inputs.args]
    for groups in (inserts, deletes):
        parts.append(leb128(len(groups)))
        for table_id, count, rows in groups:
            parts += _U32.pack(table_id), leb128(count), rows
    parts.append(leb128(len(truncates)))
    parts += map(_U32.pack, truncates)
    return b"".join(parts)
