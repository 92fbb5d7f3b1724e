"""`log check` and `log repair`: what they find, what is left, and that it opens again."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from spacetimedb.cli.main import main
from spacetimedb.log.commit_log import CommitLogWriter, LogLocked
from spacetimedb.log.recovery import recover
from spacetimedb.log.repair import check, repair
from spacetimedb.log.segments import LogDamaged, list_segments

from .faulty_files import MemoryFiles
from .test_commit_log import LOG
from .test_snapshots import PAIRS, SNAPSHOTS, log_of, take


def repaired(files: MemoryFiles) -> int:
    """Repairs, checks that it opens and takes transactions again; the number of transactions that are left."""
    assert check(LOG, files).problem is not None
    assert repair(LOG, files)
    report = check(LOG, files)
    assert report.problem is None
    state = recover(LOG, SNAPSHOTS, files)
    assert len(state.tables[PAIRS]) == state.next_offset == report.next_offset
    log_of(state.next_offset + 3, files)
    assert recover(LOG, SNAPSHOTS, files).next_offset == state.next_offset + 3
    assert repair(LOG, files) == []
    return state.next_offset


def damage(files: MemoryFiles, segment: int, at: int) -> int:
    """Flips a bit; first offset of the segment."""
    first, path = list_segments(files, LOG)[segment]
    files.entries[path].now[at] ^= 4
    return first


@pytest.mark.parametrize("segment", [0, 1, -2, -1])
@pytest.mark.parametrize("at", [3, 30, 60])
def test_damage_is_cut_off(segment: int, at: int) -> None:
    files = MemoryFiles()
    log_of(40, files)
    first = damage(files, segment, at)
    if first == 0 and at < 400:  # the creation itself is damaged: there is nothing to keep
        with pytest.raises(LogDamaged):
            repair(LOG, files)
        return
    assert first <= repaired(files) < 40
    assert [path for path in files.entries if ".damaged-" in path.name]


def test_a_missing_segment() -> None:
    files = MemoryFiles()
    log_of(40, files)
    for number in (2, -1):
        segments = list_segments(files, LOG)
        del files.entries[segments[number][1]]
        assert repaired(files) == segments[number][0]


def test_a_snapshot_behind_the_damage_is_kept() -> None:
    files = MemoryFiles()
    log_of(20, files)
    take(20, files, prune_log=False)
    log_of(30, files)
    damage(files, 1, 60)
    assert check(LOG, files).problem is None, "the snapshot makes that part unnecessary"
    damage(files, -1, 30)
    assert 20 < repaired(files) < 30
    for _, path in list_segments(files, LOG):
        files.entries[path].now = files.entries[path].now[:10]
    assert repaired(files) == 20


def test_a_log_in_use_is_left_alone() -> None:
    files = MemoryFiles()
    log_of(10, files)
    with CommitLogWriter.open(LOG, files), pytest.raises(LogLocked, match="stop the server"):
        repair(LOG, files)


def test_the_commands(tmp_path: Path) -> None:
    log = tmp_path / "clog"
    with CommitLogWriter.open(log) as writer:
        memory = MemoryFiles()
        log_of(9, memory, 1 << 20)
        data = bytes(memory.entries[LOG / "00000000000000000000.stdb.log"].now)
        del writer
    (log / "00000000000000000000.stdb.log").write_bytes(data)
    run = CliRunner().invoke
    fine = run(main, ["log", "check", str(tmp_path)])
    assert (fine.exit_code, fine.output.splitlines()[-1][:22]) == (0, "Whole: 9 transactions,")
    (log / "00000000000000000000.stdb.log").write_bytes(data[:-100] + b"?" + data[-99:])
    (log / "00000000000000000000.stdb.mark").unlink()
    broken = run(main, ["log", "check", str(log)])
    assert broken.exit_code == 1
    assert "spacetime log repair" in broken.output
    assert run(main, ["log", "repair", str(log)]).exit_code == 1
    mended = run(main, ["log", "repair", str(log), "--yes"])
    assert mended.exit_code == 0, mended.output
    assert "transactions are left" in mended.output
    assert run(main, ["log", "check", str(log)]).exit_code == 0
    assert "Nothing is damaged" in run(main, ["log", "repair", str(log)]).output
