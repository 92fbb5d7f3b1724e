"""The commit record: what readers cut out of it, and its log payload, are what went in."""

from __future__ import annotations

from array import array
from struct import unpack_from

from hypothesis import given, settings
from hypothesis import strategies as st

from spacetimedb.store.commit_record import (
    COMMIT,
    EVENT,
    INPUTS_AND_MUTATIONS,
    LOGGED,
    MUTATIONS_ONLY,
    NO_READER,
    NO_REDUCER,
    SILENT,
    TRUNCATED,
    UNLOGGED,
    TableDelta,
    build_commit,
    changes,
    header,
    leb128,
    log_payload,
)

U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))


@st.composite
def deltas(draw: st.DrawFn) -> list[TableDelta]:
    """Net changes as a store gives them: ascending ids, none empty, refs unless it is an event table."""
    found = []
    for table_id in sorted(draw(st.sets(U32, max_size=4))):
        length = draw(st.sampled_from([0, 0, 1, 7, 16]))
        some = st.lists(st.binary(min_size=length, max_size=length or 20), max_size=4)
        deletes, inserts = draw(some), draw(some)
        flags = draw(st.sampled_from([0, 0, 0, UNLOGGED]))
        if draw(st.booleans()):
            flags |= EVENT
            deletes = []
        elif deletes and not inserts and draw(st.booleans()):
            flags |= TRUNCATED
        deleted, inserted = (
            [] if flags & EVENT else draw(st.lists(U64, min_size=len(rows), max_size=len(rows)))
            for rows in (deletes, inserts)
        )
        if deletes or inserts:
            found.append(TableDelta(table_id, flags, length, deletes, inserts, deleted, inserted))
    return found


def read_leb128(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        shift += 7
        at += 1
        if byte < 128:
            return value, at


def read_payload(payload: bytes, at: int, row_counts: dict[tuple[int, bool], list[bytes]]) -> list[int]:
    """Reads the mutations of a log payload, with the rows expected in it for their lengths; the truncated tables."""
    for is_insert in (True, False):
        groups, at = read_leb128(payload, at)
        for _ in range(groups):
            (table_id,) = unpack_from("<I", payload, at)
            count, at = read_leb128(payload, at + 4)
            expected = row_counts.pop((table_id, is_insert))
            assert count == len(expected)
            data = b"".join(expected)
            assert payload[at : at + len(data)] == data
            at += len(data)
    count, at = read_leb128(payload, at)
    truncated = list(unpack_from(f"<{count}I", payload, at))
    assert at + 4 * count == len(payload)
    return truncated


@given(deltas(), U64, st.integers(0, 3), st.integers(-(1 << 63), (1 << 63) - 1), U16, U32, U32, U16, U32, st.binary())
@settings(max_examples=300, deadline=None)
def test_round_trip(
    given_deltas: list[TableDelta],
    horizon: int,
    flags: int,
    timestamp: int,
    reader: int,
    connection: int,
    request: int,
    reducer: int,
    duration: int,
    inputs: bytes,
) -> None:
    lead = INPUTS_AND_MUTATIONS + inputs if inputs else MUTATIONS_ONLY
    record = build_commit(given_deltas, lead, horizon, flags, timestamp, reader, connection, request, reducer, duration)
    before = b"\1" * 24
    data = before + record + b"\2" * 8
    head = header(data, len(before))
    assert head.length == len(record)
    assert len(record) % 8 == 0
    assert (head.kind, head.flags, head.table_count) == (COMMIT, flags, len(given_deltas))
    assert (head.horizon, head.timestamp_us, head.reader) == (horizon, timestamp, reader)
    assert (head.connection, head.request_id, head.reducer_id) == (connection, request, reducer)
    assert head.duration_us == duration
    found = changes(data, len(before), head.table_count)
    for change, delta in zip(found, given_deltas, strict=True):
        assert (change.table_id, change.flags) == (delta.table_id, delta.flags)
        assert change.deletes.split() == delta.deletes
        assert change.inserts.split() == delta.inserts
        assert (change.deletes.row_count, change.inserts.row_count) == (len(delta.deletes), len(delta.inserts))
        assert change.deleted_refs == array("Q", delta.deleted_refs).tobytes()
        assert change.inserted_refs == array("Q", delta.inserted_refs).tobytes()
    payload = bytes(log_payload(data, len(before)))
    if not flags & LOGGED:
        assert payload == b""
        return
    assert payload.startswith(lead)
    logged = [delta for delta in given_deltas if not delta.flags & UNLOGGED]
    rows = {(d.table_id, True): d.inserts for d in logged if d.inserts}
    rows |= {(d.table_id, False): d.deletes for d in logged if d.deletes and not d.flags & TRUNCATED}
    assert read_payload(payload, len(lead), rows) == [d.table_id for d in logged if d.flags & TRUNCATED]
    assert rows == {}


@given(U64)
def test_leb128(value: int) -> None:
    assert read_leb128(leb128(value), 0) == (value, len(leb128(value)))


def test_one_small_transaction_byte_for_byte() -> None:
    delta = TableDelta(4096, 0, 3, [b"old"], [b"new"], [16], [32])
    record = build_commit([delta], MUTATIONS_ONLY, 7, LOGGED | SILENT, -1, NO_READER, 0, 0, NO_REDUCER, 5)
    payload = b"\x20" + b"\x01\x00\x10\x00\x00\x01new" + b"\x01\x00\x10\x00\x00\x01old" + b"\x00"
    assert bytes(log_payload(record)) == payload
    assert record[104 : 104 + len(payload)] == payload
    assert record[104 + len(payload) :].rstrip(b"\0") == b"\x10" + bytes(7) + b"\x20"
