"""Recovery: logs that change their schema, commits with several transactions, logs that contradict themselves."""

from __future__ import annotations

from pathlib import Path
from random import Random
from struct import pack

import pytest
from crc32c import crc32c

from spacetimedb.log.commit_log import CommitLogWriter
from spacetimedb.log.recovery import RecoveredState, ReplayError, initial_state, recover, replay
from spacetimedb.log.segments import COMMIT_HEADER, COMMIT_HEADER_V0, SEGMENT_HEADER, segment_path
from spacetimedb.types.algebraic import I64, STRING, U8, U32, UNIT, AlgebraicType, encode_type, product, sum_of
from spacetimedb.types.errors import DecodeError

from .faulty_files import MemoryFiles
from .payloads import encode_payload
from .test_commit_log import LOG

Groups = dict[int, list[bytes]]


def string(text: str) -> bytes:
    return pack("<I", len(text.encode())) + text.encode()


def table_row(table_id: int, name: str, access: str = "public") -> bytes:
    return pack("<I", table_id) + string(name) + string("user") + string(access) + b"\x01"


def column_row(table_id: int, position: int, name: str, t: AlgebraicType) -> bytes:
    encoded = encode_type(t)
    return pack("<IH", table_id, position) + string(name) + pack("<I", len(encoded)) + encoded


def payload(inserts: Groups | None = None, deletes: Groups | None = None, truncates: list[int] | None = None) -> bytes:
    new, gone = ([(i, len(rows), b"".join(rows)) for i, rows in sorted((g or {}).items())] for g in (inserts, deletes))
    return encode_payload(None, new, gone, truncates or [])


CREATE = payload(
    {
        1: [table_row(4096, "pair"), table_row(4097, "event"), table_row(4098, "empty")],
        2: [
            column_row(4096, 0, "key", U32),
            column_row(4096, 1, "text", STRING),
            column_row(4097, 0, "n", U8),
            column_row(4098, 0, "n", I64),
        ],
        17: [pack("<I", 4097)],
        4096: [pack("<I", 1) + string("one")],
        4097: [b"\x01", b"\x02"],
    }
)


def pair(key: int, text: str) -> bytes:
    return pack("<I", key) + string(text)


def state_of(*payloads: bytes) -> RecoveredState:
    files = MemoryFiles()
    with CommitLogWriter.open(LOG, files, 300) as log:
        for one in payloads:
            log.append([one])
    return recover(LOG, files=files)


def test_no_log_yet(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "missing"):
        state = recover(directory)
        assert state.next_offset == 0
        assert len(state.rows(1)) == 20
        assert state.rows(4096) == []


def test_creation() -> None:
    state = state_of(CREATE)
    assert state.next_offset == 1
    assert state.rows(4096) == [pair(1, "one")]
    assert state.tables[4097] == {}
    assert state.tables[4098] == {}
    assert state.schema.row_type(4096) == product(key=U32, text=STRING)
    assert state.schema.event_tables == {4097}


def test_net_effect() -> None:
    state = state_of(
        CREATE,
        payload({4096: [pair(1, "uno"), pair(2, "two")], 4097: [b"\x07"]}, {4096: [pair(1, "one")]}),
        payload({4098: [bytes(8)]}, {4096: [pair(2, "two")]}),
        payload({4096: [pair(3, "three")]}, {}, [4098]),
    )
    assert state.rows(4096) == [pair(1, "uno"), pair(3, "three")]
    assert state.rows(4098) == []
    assert state.next_offset == 4


def test_change_of_access_keeps_the_rows() -> None:
    state = state_of(
        CREATE,
        payload({1: [table_row(4096, "pair", "private")]}, {1: [table_row(4096, "pair")]}),
        payload({4096: [pair(2, "two")]}),
    )
    assert state.rows(4096) == [pair(1, "one"), pair(2, "two")]


def test_a_column_grows_a_variant() -> None:
    old, new = sum_of(a=UNIT, b=U8), sum_of(a=UNIT, b=U8, c=STRING)
    state = state_of(
        payload({1: [table_row(4096, "t")], 2: [column_row(4096, 0, "v", old)], 4096: [b"\x00", b"\x01\x05"]}),
        payload(
            {2: [column_row(4096, 0, "v", new)], 4096: [b"\x02" + string("x")]},
            {2: [column_row(4096, 0, "v", old)], 4096: [b"\x01\x05"]},
        ),
        payload({4096: [b"\x01\x06"]}),
    )
    assert state.rows(4096) == [b"\x00", b"\x02" + string("x"), b"\x01\x06"]
    assert state.schema.row_type(4096) == product(v=new)


def test_dropped_table() -> None:
    columns = [column_row(4096, 0, "key", U32), column_row(4096, 1, "text", STRING)]
    drop = {1: [table_row(4096, "pair")], 2: columns}
    for deletes, truncates in (({}, [4096]), ({4096: [pair(1, "one")]}, []), ({}, [])):
        state = state_of(CREATE, payload({}, {**drop, **deletes}, truncates))
        assert 4096 not in state.tables
        assert 4096 not in state.schema.table_rows
        assert state.rows(4096) == []
        with pytest.raises(ReplayError, match="transaction 2: failed to decode tx record: table 4096 is unknown"):
            state_of(CREATE, payload({}, {**drop, **deletes}, truncates), payload({4096: [pair(2, "two")]}))


def test_table_made_anew_under_another_id() -> None:
    columns = [column_row(4096, 0, "key", U32), column_row(4096, 1, "text", STRING)]
    more = [column_row(4099, 0, "key", U32), column_row(4099, 1, "text", STRING), column_row(4099, 2, "n", U8)]
    state = state_of(
        CREATE,
        payload(
            {1: [table_row(4099, "pair")], 2: more, 4099: [pair(1, "one") + b"\x09"]},
            {1: [table_row(4096, "pair")], 2: columns},
            [4096],
        ),
    )
    assert state.rows(4099) == [pair(1, "one") + b"\x09"]


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (payload({4096: [pair(1, "one")]}), "inserts a row of table 4096 that is there already"),
        (payload({4096: [pair(5, "x"), pair(5, "x")]}), "inserts a row of table 4096 that is there already"),
        (payload({}, {4096: [pair(9, "none")]}), "deletes a row of table 4096 that is not there"),
        (payload({5000: [b""]}), "table 5000 is unknown"),
        (payload({}, {}, [5000]), "truncates table 5000, which does not exist"),
        (payload({4096: [b"\x01\0\0\0"]}), "failed to decode tx record"),
        (CREATE[:-1], "failed to decode tx record"),
        (CREATE + b"\0", "1 bytes behind the last record"),
    ],
)
def test_contradictions_are_errors(bad: bytes, text: str) -> None:
    with pytest.raises(ReplayError, match=text) as caught:
        state_of(CREATE, bad) if not bad.startswith(CREATE[:-1]) else state_of(bad)
    assert caught.value.file is not None
    assert caught.value.offset in (0, 1)
    assert caught.value.file.name in str(caught.value)


def test_several_transactions_in_a_commit_and_version_0() -> None:
    second, third = payload({4096: [pair(2, "two")]}), payload({4096: [pair(3, "three")]})
    records = second + third
    for version in (0, 1):
        files = MemoryFiles()
        data = bytearray(SEGMENT_HEADER)
        data[6] = version
        for offset, n, body in ((0, 1, CREATE), (1, 2, records)):
            if version:
                commit = COMMIT_HEADER.pack(offset, 0, n, len(body)) + body
            else:
                commit = COMMIT_HEADER_V0.pack(offset, n, len(body)) + body
            data += commit + pack("<I", crc32c(commit))
        files.write(files.open(segment_path(LOG, 0)), 0, bytes(data))
        state = initial_state()
        replay(LOG, state, files)
        assert state.next_offset == 3
        assert state.rows(4096) == [pair(1, "one"), pair(2, "two"), pair(3, "three")]


def test_random_changes_replay_to_the_model() -> None:
    for seed in range(20):
        rng = Random(seed)
        model: dict[bytes, None] = {pair(1, "one"): None}
        payloads = [CREATE]
        for _ in range(60):
            gone = rng.sample(list(model), rng.randrange(len(model) + 1)) if rng.random() < 0.5 else []
            new = {pair(rng.randrange(1000), "x" * rng.randrange(300)) for _ in range(rng.randrange(6))} - set(model)
            if rng.random() < 0.05:
                payloads.append(payload({}, {}, [4096]))
                model.clear()
                continue
            payloads.append(payload({4096: sorted(new)} if new else {}, {4096: gone} if gone else {}))
            model.update(dict.fromkeys(sorted(new)))
            for row in gone:
                del model[row]
        assert state_of(*payloads).rows(4096) == list(model), f"seed {seed}"


def both_ways(payloads: list[bytes]) -> tuple[list[object], list[object]]:
    """What replay comes to, and what decoding and applying does: the tables, or the error."""
    outcomes: list[list[object]] = []
    for is_plain in (True, False):
        state = initial_state()
        outcome: list[object] = []
        try:
            for data in payloads:
                if is_plain:
                    at = state.advance(data, 0)
                else:
                    transaction, at = state.decode(data, 0)
                    state.apply(transaction)
                if at != len(data):
                    raise DecodeError("not to its end")
            outcome = [state.tables, state.row_operations, state.next_offset]
        except (ReplayError, DecodeError) as error:
            outcome = [type(error), state.next_offset]
        outcomes.append(outcome)
    return outcomes[0], outcomes[1]


def test_the_short_way_comes_to_the_same() -> None:
    """Rows of fixed size in tables 4098 and 4099 are replayed in a way of their own."""
    create = payload(
        {
            1: [table_row(4098, "number"), table_row(4099, "place"), table_row(4097, "event")],
            2: [
                column_row(4098, 0, "n", I64),
                column_row(4099, 0, "x", U32),
                column_row(4099, 1, "y", U8),
                column_row(4097, 0, "n", U8),
            ],
            17: [pack("<I", 4097)],
        }
    )
    for seed in range(30):
        rng = Random(seed)
        model: dict[int, set[bytes]] = {4098: set(), 4099: set()}
        payloads = [create]
        for _ in range(40):
            new: Groups = {}
            gone: Groups = {}
            for table_id, size in ((4098, 8), (4099, 5)):
                rows = {rng.randbytes(size) for _ in range(rng.choice((0, 1, 2, 200)))} - model[table_id]
                old = rng.sample(sorted(model[table_id]), rng.choice((0, min(2, len(model[table_id])))))
                if rows:
                    new[table_id] = sorted(rows)
                if old:
                    gone[table_id] = old
                model[table_id] |= rows
                model[table_id] -= set(old)
            if rng.random() < 0.1:
                new[4097] = [b"\x01"]
            payloads.append(payload(new, gone))
        short, long = both_ways(payloads)
        assert short == long, f"seed {seed}"
        assert len(short) == 3
        wrong = list(payloads)
        where = rng.randrange(1, len(wrong))
        wrong[where] = rng.choice(
            (
                wrong[where][: rng.randrange(len(wrong[where]))],
                wrong[where - 1] if where > 1 else wrong[where],
                payload({}, {4098: [rng.randbytes(8)]}),
                payload({4099: sorted(model[4099])[:1] * 2}),
                payload({5000: [b"x"]}),
            )
        )
        short, long = both_ways(wrong)
        assert short == long, f"seed {seed}"
