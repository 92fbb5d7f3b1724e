"""The log that a real server left behind: each commit decodes to what is written about it and replays to its end state.

`clog` is the directory as it was; all but its last segment are compressed with zstd.
`clog-plain` holds the same segments uncompressed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from struct import unpack_from
from typing import Any

import pytest

from spacetimedb.log.commit_log import CommitLogWriter
from spacetimedb.log.files import OPERATING_SYSTEM
from spacetimedb.log.recovery import RecoveredState, initial_state, recover
from spacetimedb.log.repair import check, repair
from spacetimedb.log.segments import ZSTD_MAGIC, LogDamaged, Walk, list_segments, read_commits
from spacetimedb.log.txdata import RowGroup, Transaction
from spacetimedb.types.algebraic import AlgebraicType, Array, Primitive, Product, Sum, is_bytes

from .faulty_files import Content, MemoryFiles
from .payloads import encode_payload
from .test_commit_log import LOG

VECTORS = Path(__file__).parent.parent / "vectors" / "durability" / "a"
PLAIN = VECTORS / "clog-plain"
EXPECTED = json.loads((VECTORS / "log.json").read_text())
LAST = "00000000000000000118.stdb.log"


def value(t: AlgebraicType, buf: bytes, at: int) -> tuple[Any, int]:
    """A value as log.json writes it, and its end."""
    match t:
        case Product(elements):
            fields = {}
            for element in elements:
                fields[element.name], at = value(element.algebraic_type, buf, at)
            return fields, at
        case Sum(variants):
            variant = variants[buf[at]]
            inner, at = value(variant.algebraic_type, buf, at + 1)
            return {variant.name: inner}, at
        case Array(element):
            count = unpack_from("<I", buf, at)[0]
            at += 4
            if is_bytes(t):
                return buf[at : at + count].hex(), at + count
            values = []
            for _ in range(count):
                item, at = value(element, buf, at)
                values.append(item)
            return values, at
        case Primitive("String"):
            end = at + 4 + unpack_from("<I", buf, at)[0]
            return buf[at + 4 : end].decode(), end
        case Primitive("Bool"):
            return bool(buf[at]), at + 1
        case Primitive(kind):
            size = int(kind[1:]) // 8
            if kind[0] == "F":
                return unpack_from("<f" if size == 4 else "<d", buf, at)[0], at + size
            return int.from_bytes(buf[at : at + size], "little", signed=kind[0] == "I"), at + size
    raise AssertionError(t)


def row_value(row_type: Product, row: bytes) -> dict[str, Any]:
    fields, end = value(row_type, row, 0)
    assert end == len(row)
    if "program_bytes" in fields:
        fields["program_bytes"] = len(fields["program_bytes"]) // 2
    assert isinstance(fields, dict)
    return fields


def program_length(stored: Any) -> Any:
    """log.json gives the program's length in one of several spellings; the number is what counts."""
    if isinstance(stored, dict):
        return next(iter(stored.values()))
    return int("".join(filter(str.isdigit, stored))) if isinstance(stored, str) else stored


def test_every_commit_and_record() -> None:
    commits = [commit for segment in EXPECTED["segments"] for commit in segment["commits"]]
    found = list(read_commits_plain())
    assert [commit.offset for commit in found] == [commit["offset"] for commit in commits] == list(range(121))
    for commit, expected in zip(found, commits, strict=True):
        assert (commit.epoch, commit.n, len(commit.body) - commit.at) == (
            expected["epoch"],
            expected["n"],
            expected["len"],
        )
    state = initial_state()
    transactions = one_by_one(state)
    for expected in commits:
        (record,) = expected["records"]
        offset, transaction = next(transactions)
        assert offset == expected["offset"]
        inputs = record.get("inputs")
        assert (transaction.inputs is None) == (inputs is None)
        if transaction.inputs is not None:
            assert transaction.inputs.name == inputs["reducer"]
            assert transaction.inputs.args.hex() == inputs["args_hex"]
        for groups, key in ((transaction.inserts, "inserts"), (transaction.deletes, "deletes")):
            written = record.get(key, [])
            assert [table_id for table_id, _ in groups] == [group["table"] for group in written]
            for (table_id, rows), group in zip(groups, written, strict=True):
                row_type = state.schema.row_type(table_id)
                decoded = [row_value(row_type, row) for row in rows]
                for row in group["rows"]:
                    if "program_bytes" in row:
                        row["program_bytes"] = program_length(row["program_bytes"])
                assert decoded == group["rows"], f"offset {offset}, table {table_id}"
        assert transaction.truncates == record.get("truncates", [])
    assert next(transactions, None) is None


def one_by_one(state: RecoveredState) -> Iterator[tuple[int, Transaction]]:
    """Each transaction of the log, after it was applied, with its offset."""
    for _, commit in read_commits(OPERATING_SYSTEM, PLAIN):
        at = commit.at
        for offset in range(commit.offset, commit.offset + commit.n):
            transaction, at = state.decode(commit.body, at)
            state.apply(transaction)
            yield offset, transaction


def read_commits_plain() -> Any:
    return (commit for _, commit in read_commits(FILES, PLAIN))


class VectorFiles(MemoryFiles):
    """The vectors' directory, loaded into memory as /log and as itself."""

    def __init__(self, changed: dict[str, bytes | None] | None = None, indexes: bool = True) -> None:
        super().__init__()
        for directory in (LOG, PLAIN):
            for path in [*PLAIN.iterdir(), *((VECTORS / "clog").glob("*.ofs") if indexes else ())]:
                content = (changed or {}).get(path.name, path.read_bytes())
                if content is not None:
                    fd = self.open(directory / path.name)
                    self.write(fd, 0, content)


FILES = VectorFiles()


def encode_again(groups: list[RowGroup]) -> list[tuple[int, int, bytes]]:
    return [(table_id, len(rows), b"".join(rows)) for table_id, rows in groups]


def test_encoding_gives_the_same_bytes() -> None:
    state = initial_state()
    transactions = one_by_one(state)
    for commit, (_, transaction) in zip(read_commits_plain(), transactions, strict=True):
        payload = encode_payload(
            transaction.inputs,
            encode_again(transaction.inserts),
            encode_again(transaction.deletes),
            transaction.truncates,
        )
        assert payload == commit.body[commit.at :]


def test_state_at_the_end() -> None:
    state = recover(PLAIN)
    assert state.next_offset == 121
    names = {}
    for row in state.rows(1):
        table = row_value(state.schema.row_type(1), row)
        names[table["table_name"]] = table["table_id"]
    for name, expected in EXPECTED["state_at_end"].items():
        table_id = names[name]
        rows = (
            [row_value(state.schema.row_type(table_id), row) for row in state.rows(table_id)]
            if state.rows(table_id)
            else []
        )
        assert sorted(map(repr, rows)) == sorted(map(repr, expected)), name
    assert state.rows(names["ev"]) == []
    assert state.schema.event_tables == {names["ev"]}


def test_our_writer_continues_it() -> None:
    files = VectorFiles()
    with CommitLogWriter.open(LOG, files) as log:
        assert (log.next_offset, log.torn_bytes) == (121, 0)
        log.append([b"\x20\0\0\0"])
    state = recover(LOG, files=files)
    assert state.next_offset == 122


def compressed(files: MemoryFiles) -> list[Path]:
    """Puts the log as the server left it into `files`; returns the compressed segments."""
    for path in sorted((VECTORS / "clog").iterdir()):
        files.entries[LOG / path.name] = Content(path.read_bytes())
    return [path for _, path in list_segments(files, LOG) if files.read(path).startswith(ZSTD_MAGIC)]


def test_a_log_with_compressed_segments_opens_and_goes_on() -> None:
    files = MemoryFiles()
    assert len(compressed(files)) == 8
    state, plain = recover(LOG, files=files), recover(PLAIN)
    assert (state.next_offset, state.tables) == (121, plain.tables)
    with CommitLogWriter.open(LOG, files) as log:
        assert log.next_offset == 121
        log.append([b"\x20\0\0\0"])
    assert recover(LOG, files=files).next_offset == 122
    assert check(LOG, files).problem is None


def test_a_new_segment_follows_when_the_last_one_is_compressed() -> None:
    files = MemoryFiles()
    compressed(files)
    files.remove(LOG / LAST)
    with CommitLogWriter.open(LOG, files) as log:
        assert (log.next_offset, log.durable_offset) == (118, 117)
        log.append([b"\x20\0\0\0"])
    assert list_segments(files, LOG)[-1] == (118, LOG / LAST)
    assert recover(LOG, files=files).next_offset == 119


def test_damage_of_a_compressed_segment_is_found_and_repaired() -> None:
    whole = MemoryFiles()
    third = compressed(whole)[3]
    data = whole.read(third)
    state = recover(LOG, files=whole)
    refused: set[Path] = set()
    for damaged in (
        *(data[:n] for n in range(1, len(data), 7)),
        *(data[:n] + bytes([data[n] ^ 0x10]) + data[n + 1 :] for n in range(0, len(data) - 200, 3)),
    ):
        files = MemoryFiles()
        compressed(files)
        files.entries[third] = Content(damaged)
        try:
            assert recover(LOG, files=files).tables == state.tables  # the bit is in what zstd does not need
        except LogDamaged as error:
            refused.add(error.file)
    assert refused == {third}
    assert repair(LOG, files)
    assert check(LOG, files).problem is None
    assert recover(LOG, files=files).next_offset == int(third.name[:20])


def test_commit_positions() -> None:
    for segment in EXPECTED["segments"]:
        data = (PLAIN / segment["file"]).read_bytes()
        assert len(data) == segment["uncompressed_size"]
        walk = Walk(PLAIN / segment["file"], segment["first_offset"], data)
        positions = []
        at = walk.position
        for _ in walk:
            positions.append(at)
            at = walk.position
        assert positions == [commit["at"] for commit in segment["commits"]]
        assert (walk.position, walk.next_offset, walk.problem) == (len(data), segment["next_offset"], None)


def damaged(case: dict[str, Any]) -> dict[str, bytes | None] | None:
    """The changed files of a case of recovery.json that damages the log only, None for other cases."""
    changed: dict[str, bytes | None] = {}
    for step in case["damage"]:
        name = step.get("file", "")
        if not (PLAIN / name).is_file():
            return None
        data = bytearray(changed.get(name) or (PLAIN / name).read_bytes())
        match step["op"]:
            case "truncate":
                del data[step["size"] :]
            case "xor":
                data[step["offset"]] ^= step["value"]
            case "append":
                data += bytes(4096) if step["hex"].startswith("4096") else bytes.fromhex(step["hex"])
            case "zero":
                data[step["offset"] : step["offset"] + step["size"]] = bytes(step["size"])
            case "remove":
                changed[name] = None
                continue
            case _:
                return None
        changed[name] = bytes(data)
    return changed


CASES = {
    case["name"]: (case, changed)
    for case in json.loads((VECTORS / "recovery.json").read_text())
    if (changed := damaged(case))
}

OURS: dict[str, int | str] = {
    # A torn first commit: we use the segment again, the real server refuses to start.
    "tail_cut_first_commit": 117,
    # Damage before a good commit: the real server starts with what is before it and loses the rest.
    "flip_second_commit_of_last_segment": "good commit behind it, at byte 356",
    "flip_len_second_commit_of_last_segment": "good commit behind it, at byte 356",
    "flip_offset_second_commit_of_last_segment": "good commit behind it, at byte 356",
    # Damage the real server does not notice, because it starts from a snapshot.
    "flip_middle_segment": "checksum mismatch at offset=19, but the data up to byte 3674 was durable",
    "missing_middle_segment": "the segment ends, and the next segment starts at 22",
    "missing_first_segment": "begins at offset 1 and no snapshot",
    # Both refuse.
    "flip_first_commit_of_last_segment": "checksum mismatch at offset=118",
    "last_segment_bad_magic": r"does not start with magic: expected \[28, 64, 73, 29, 5e, 32\], got \[29, 64, ",
    "last_segment_version_0": "checksum mismatch at offset=118, but the data up to byte 183 was durable",
    "last_segment_version_2": "unsupported log format version: 2",
    "last_segment_checksum_algo_1": "unsupported checksum algorithm: 1",
}
"""Cases in which we refuse (with this text) or differ from the real server (last offset kept)."""


@pytest.mark.parametrize("name", sorted(CASES))
def test_damage(name: str) -> None:
    case, changed = CASES[name]
    files = VectorFiles(changed)
    expected = OURS.get(name, case.get("last_offset_kept"))
    if isinstance(expected, str):
        with pytest.raises(LogDamaged, match=expected):
            recover(LOG, files=files)
        return
    assert expected is not None
    state = recover(LOG, files=files)
    with CommitLogWriter.open(LOG, files) as log:
        assert log.next_offset == state.next_offset == expected + 1
    if "account_rows" in case:
        account = next(unpack_from("<I", row)[0] for row in state.rows(1) if row[8:15] == b"account")
        rows = sorted([*row_value(state.schema.row_type(account), row).values()] for row in state.rows(account))
        assert rows == case["account_rows"]


def test_the_last_segment_was_walked() -> None:
    assert list_segments(FILES, LOG)[-1][1].name == LAST
