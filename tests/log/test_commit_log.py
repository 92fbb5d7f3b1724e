"""The commit log's files: bytes, rotation, opening again, torn tails, damage, failing disks, power failures."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from spacetimedb.log.commit_log import CommitLogWriter, LogFailed, LogLocked
from spacetimedb.log.files import OPERATING_SYSTEM, FileSystem
from spacetimedb.log.segments import SEGMENT_HEADER, LogDamaged, list_segments, read_commits, read_mark, segment_path

from .faulty_files import MemoryFiles, PowerFailure
from .test_txdata import SMALLEST, TRANSFER

LOG = Path("/log")


def payloads_of(directory: Path, files: FileSystem = OPERATING_SYSTEM) -> list[bytes]:
    """Payloads of all commits, one each."""
    result: list[bytes] = []
    for _, commit in read_commits(files, directory):
        assert (commit.offset, commit.n) == (len(result), 1)
        result.append(commit.body[commit.at :])
    return result


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [b"payload %d " % i * (i % 4 + 1) for i in range(start, start + count)]


def test_worked_bytes(tmp_path: Path) -> None:
    log = CommitLogWriter.open(tmp_path)
    assert (log.next_offset, log.durable_offset, log.sync()) == (0, None, None)
    log.append([SMALLEST])
    assert log.sync() == 0
    log.append([bytes(1)] * 6 + [TRANSFER])
    assert (log.next_offset, log.durable_offset, log.sync()) == (8, 0, 7)
    log.close()
    data = segment_path(tmp_path, 0).read_bytes()
    assert data[:10] == SEGMENT_HEADER == bytes.fromhex("28647329 5e32 01 00 0000")
    first = bytes.fromhex("0000000000000000 0000000000000000 0100 15000000") + SMALLEST + bytes.fromhex("d350d9b2")
    assert len(first) == 47
    assert data[10:57] == first
    last = bytes.fromhex("07000000000000000000000000000000 0100 93000000") + TRANSFER + bytes.fromhex("4f82ba43")
    assert len(last) == 173
    assert data[-173:] == last


def test_rotation_and_opening_again(tmp_path: Path) -> None:
    expected: list[bytes] = []
    for round_number in range(6):
        with CommitLogWriter.open(tmp_path, max_segment_bytes=200) as log:
            assert log.next_offset == len(expected)
            assert log.torn_bytes == 0
            batch = numbered(7, len(expected))
            log.append(batch[:3])
            log.append(batch[3:])
            expected += batch
            if round_number % 2:
                assert log.sync() == len(expected) - 1
        assert payloads_of(tmp_path) == expected
    segments = list_segments(OPERATING_SYSTEM, tmp_path)
    assert len(segments) > 5
    for first, path in segments[:-1]:
        mark = read_mark(OPERATING_SYSTEM, path)
        assert mark is not None
        assert (mark.sealed, mark.end) == (True, path.stat().st_size)
        assert 200 <= path.stat().st_size < 300
        assert first < mark.next_offset
    assert not list(tmp_path.glob("*torn*"))


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with CommitLogWriter.open(tmp_path / "a" / "b"), pytest.raises(LogLocked):
        CommitLogWriter.open(tmp_path / "a" / "b")
    CommitLogWriter.open(tmp_path / "a" / "b").close()


def copy(source: Path, target: Path) -> Path:
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_a_torn_tail_at_every_length(tmp_path: Path) -> None:
    """Durable up to 10 transactions, ten more written without a sync, cut at every length."""
    log = CommitLogWriter.open(tmp_path / "log", max_segment_bytes=1 << 20)
    payloads = numbered(20)
    log.append(payloads[:10])
    log.sync()
    log.append(payloads[10:])
    segment = segment_path(tmp_path / "log", 0)
    data = segment.read_bytes()
    marks = read_mark(OPERATING_SYSTEM, segment)
    assert marks is not None
    for size in range(len(data)):
        files = MemoryFiles()
        fill(files, tmp_path / "log")
        name = LOG / segment.name
        files.entries[name].now = bytearray(data[:size])
        if size < marks.end:
            for use in (payloads_of, open_and_close):
                with pytest.raises(LogDamaged) as caught:
                    use(LOG, files)
                assert caught.value.offset < 10
                assert caught.value.position <= size
            continue
        kept = payloads_of(LOG, files)
        assert 10 <= len(kept) < 20
        assert kept == payloads[: len(kept)]
        again = CommitLogWriter.open(LOG, files)
        assert again.next_offset == len(kept)
        assert again.durable_offset == len(kept) - 1
        assert again.torn_bytes == size - len(files.read(name))
        torn = [path for path in files.entries if ".torn-" in path.name]
        assert bool(torn) == bool(again.torn_bytes)
        if torn:
            assert files.read(name) + files.read(torn[0]) == data[:size]
        again.append([b"next"])
        again.close()
        assert payloads_of(LOG, files) == [*kept, b"next"]
    log.close()


def open_and_close(directory: Path, files: FileSystem) -> None:
    CommitLogWriter.open(directory, files).close()


def fill(files: MemoryFiles, directory: Path) -> None:
    for path in directory.iterdir():
        fd = files.open(LOG / path.name)
        files.write(fd, 0, path.read_bytes())
        files.sync_data(fd)
        files.close(fd)
    files.sync_directory(LOG)


def make_log(transactions: int = 12, max_segment_bytes: int = 200) -> MemoryFiles:
    files = MemoryFiles()
    with CommitLogWriter.open(LOG, files, max_segment_bytes) as log:
        for payload in numbered(transactions):
            log.append([payload])
            log.sync()
    return files


def damage_of(files: MemoryFiles) -> LogDamaged | None:
    """Why the log of `make_log` is refused; None if it reads as it was written."""
    try:
        payloads = payloads_of(LOG, files)
    except LogDamaged as error:
        return error
    assert payloads == numbered(12)
    return None


def test_every_bit_flip_in_durable_data_is_refused() -> None:
    files = make_log()
    for _, path in list_segments(files, LOG):
        content = files.entries[path]
        for at in range(len(content.now)):
            for bit in (1, 0x80):
                content.now[at] ^= bit
                damage = damage_of(files)
                if damage is None:
                    # The reserved bytes may be anything; whether an empty segment is of version 0 makes no difference.
                    assert at in (8, 9) or (at, len(content.now)) == (6, 10)
                else:
                    assert damage.file == path
                    assert str(path) in str(damage)
                    assert damage.position <= max(at, 10)
                content.now[at] ^= bit
    assert damage_of(files) is None


def test_bit_flips_in_the_last_segment_are_refused_by_the_writer() -> None:
    files = make_log()
    path = list_segments(files, LOG)[-1][1]
    content = files.entries[path]
    before = bytes(content.now)
    for at in range(len(content.now)):
        if at in (8, 9):  # reserved, not looked at
            continue
        content.now[at] ^= 1
        with pytest.raises(LogDamaged):
            CommitLogWriter.open(LOG, files)
        content.now[at] ^= 1
    assert bytes(content.now) == before


def test_damaged_marks_never_lose_data() -> None:
    files = make_log()
    expected = numbered(12)
    for path in [path for path in files.entries if path.name.endswith(".mark")]:
        content = files.entries[path]
        for at in range(len(content.now)):
            content.now[at] ^= 0x55
            assert payloads_of(LOG, files) == expected
            content.now[at] ^= 0x55
        before, content.now = content.now, bytearray()
        assert payloads_of(LOG, files) == expected
        content.now = before


def test_zero_tails_are_torn_tails() -> None:
    for size in (1, 21, 22, 100, 4096):
        files = make_log()
        path = list_segments(files, LOG)[-1][1]
        files.entries[path].now += bytes(size)
        with CommitLogWriter.open(LOG, files) as log:
            assert (log.next_offset, log.torn_bytes) == (12, size)
        assert not [path for path in files.entries if "torn" in path.name]


def test_without_marks_damage_before_a_good_commit_is_refused() -> None:
    files = make_log(5, 1 << 20)
    for path in [path for path in files.entries if path.name.endswith(".mark")]:
        del files.entries[path]
    path = segment_path(LOG, 0)
    content = files.entries[path]
    content.now[40] ^= 1
    with pytest.raises(LogDamaged, match="good commit behind it"):
        CommitLogWriter.open(LOG, files)
    content.now[40] ^= 1
    content.now[-1] ^= 1
    with CommitLogWriter.open(LOG, files) as log:
        assert log.next_offset == 4


def test_missing_segments_are_noticed() -> None:
    files = make_log()
    segments = list_segments(files, LOG)
    assert len(segments) > 3
    for i, (first, path) in enumerate(segments):
        content = files.entries.pop(path)
        with pytest.raises(LogDamaged):
            payloads_of(LOG, files)
        if i == len(segments) - 1:
            with pytest.raises(LogDamaged, match=f"offset {first} is missing"):
                CommitLogWriter.open(LOG, files)
        files.entries[path] = content


def test_repeated_and_forked_commits() -> None:
    files = make_log(3, 1 << 20)
    content = files.entries[segment_path(LOG, 0)]
    last = bytes(content.now[-(26 + len(numbered(3)[2])) :])
    content.now += last
    assert payloads_of(LOG, files) == numbered(3)
    files.entries[segment_path(LOG, 0)].now += bytes.fromhex("09") + last[1:-4] + b"\0\0\0\0"
    with CommitLogWriter.open(LOG, files) as log:
        assert log.next_offset == 3


def test_a_failed_writer_takes_nothing_more(tmp_path: Path) -> None:
    files = MemoryFiles()
    log = CommitLogWriter.open(LOG, files)
    files.fail_at = files.operations + 2
    log.append([b"one"])
    with pytest.raises(OSError, match="EIO"):
        log.sync()
    with pytest.raises(LogFailed):
        log.append([b"two"])
    with pytest.raises(LogFailed):
        log.sync()
    log.close()
    assert not files.open_files
    with CommitLogWriter.open(LOG, files) as again:
        assert again.next_offset == 1


def test_after_a_failed_sync_only_what_was_synced_is_trusted() -> None:
    """What can be read back may have been dropped on its way to the disk: it is cut off, and written anew."""
    files = MemoryFiles()
    log = CommitLogWriter.open(LOG, files, 150)
    for payload in numbered(7):
        log.append([payload])
        log.sync()
    files.fail_at = files.operations + 2
    with pytest.raises(OSError, match="EIO"):  # noqa: PT012
        log.append(numbered(8)[7:])
        log.sync()
    log.close()
    assert payloads_of(LOG, files) == numbered(8)
    with CommitLogWriter.open(LOG, files, 150, distrust=True) as again:
        assert (again.next_offset, again.durable_offset) == (7, 6)
        again.append(numbered(9)[7:])
    assert payloads_of(LOG, files) == numbered(9)
    with CommitLogWriter.open(LOG, files, 150, distrust=True) as again:
        assert again.next_offset == 9


def scenario(files: MemoryFiles, acknowledged: list[int]) -> None:
    """Opens twice, writes 18 transactions in several segments; `acknowledged` gets every durable offset."""
    for start in (0, 10):
        log = CommitLogWriter.open(LOG, files, 150)
        acknowledged.append(-1 if log.durable_offset is None else log.durable_offset)
        batch = numbered(start + 8)[log.next_offset :]
        for i in range(0, len(batch), 2):
            log.append(batch[i : i + 2])
            if i % 4 == 0:
                acknowledged.append(log.sync() or 0)
        log.close()
        acknowledged.append(log.durable_offset or 0)


def check_survivors(files: MemoryFiles, acknowledged: list[int]) -> None:
    with CommitLogWriter.open(LOG, files, 150) as log:
        kept = log.next_offset
    assert kept > max(acknowledged, default=-1)
    assert payloads_of(LOG, files) == numbered(kept)
    with CommitLogWriter.open(LOG, files, 150) as log:
        assert (log.next_offset, log.torn_bytes) == (kept, 0)


@pytest.mark.parametrize("failure", ["EIO", "ENOSPC", "short", "short then ENOSPC", "power"])
def test_every_operation_may_fail(failure: str) -> None:
    """Fails operation 1, 2, ... until a run gets by without; each time everything acknowledged must still be there."""
    number = 0
    while True:
        number += 1
        files, acknowledged = MemoryFiles(), list[int]()
        files.fail_at, files.failure = number, failure
        try:
            scenario(files, acknowledged)
        except (OSError, PowerFailure):
            check_survivors(files.after_kill(), acknowledged)
        else:
            assert payloads_of(LOG, files) == numbered(18)
            if number > files.operations:
                break
    assert number > 50


def test_power_failures() -> None:
    """Power fails at a random operation; of what was not synced a random part survives."""
    files = MemoryFiles()
    scenario(files, [])
    total = files.operations
    for seed in range(1500):
        rng = Random(seed)
        files, acknowledged = MemoryFiles(), list[int]()
        files.fail_at, files.failure = rng.randrange(1, total + 1), "power"
        with pytest.raises(PowerFailure):
            scenario(files, acknowledged)
        try:
            check_survivors(files.after_power_failure(rng), acknowledged)
        except BaseException as error:
            raise AssertionError(f"seed {seed}") from error


def test_what_a_new_writer_calls_durable_survives_a_power_failure() -> None:
    """A writer is killed before its sync; what the next one finds is in the page cache only, until it syncs it."""
    for seed in range(50):
        first = MemoryFiles()
        log = CommitLogWriter.open(LOG, first, 100)
        log.append(numbered(5))
        second = first.after_kill()
        again = CommitLogWriter.open(LOG, second, 100)
        assert again.durable_offset == 4
        check_survivors(second.after_power_failure(Random(seed)), [4])
