"""Crash points: a workload is stopped before each of its file operations, and each write within it every 64 bytes.

At each moment the disk is looked at in several ways: as a killed process leaves it, and as a power failure may leave
it, with what was not synced kept or lost, for contents of files and entries of directories, and a random part of each.
Every one of these images must open, hold every transaction that was confirmed before, and hold no half of one.

The workload: a bank, whose money is constant, and a journal with entries of very different lengths; commits in batches,
segments that rotate, a log that is opened again, syncs that come late, snapshots, and the removal of old snapshots and
segments.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from random import Random
from struct import pack, unpack

import pytest

from spacetimedb.log.commit_log import CommitLogWriter
from spacetimedb.log.recovery import RecoveredState, recover
from spacetimedb.log.segments import LogDamaged
from spacetimedb.log.snapshot import snapshot_directory
from spacetimedb.log.snapshotter import take_snapshot
from spacetimedb.types.algebraic import I64, STRING, U32

from .faulty_files import Content, MemoryFiles
from .test_commit_log import LOG
from .test_recovery import column_row, payload, string, table_row

SNAPSHOTS = snapshot_directory(LOG)
ACCOUNTS, JOURNAL = 4096, 4097
PEOPLE, MONEY = 6, 1000
TRANSACTIONS = 36
SEGMENT_BYTES = 1200
CUT = 64
CREATE = payload(
    {
        1: [table_row(ACCOUNTS, "accounts"), table_row(JOURNAL, "journal")],
        2: [
            column_row(ACCOUNTS, 0, "id", U32),
            column_row(ACCOUNTS, 1, "balance", I64),
            column_row(JOURNAL, 0, "number", U32),
            column_row(JOURNAL, 1, "text", STRING),
        ],
        ACCOUNTS: [pack("<Iq", number, MONEY) for number in range(PEOPLE)],
    }
)

State = tuple[frozenset[bytes], frozenset[bytes]]


class Script:
    """The transactions of the workload and the state after each prefix of them."""

    def __init__(self) -> None:
        rng = Random(5)
        balances = dict.fromkeys(range(PEOPLE), MONEY)
        journal: list[bytes] = []
        self.payloads = [CREATE]
        self.states: list[State] = [(frozenset(), frozenset())]
        self._note(balances, journal)
        for number in range(1, TRANSACTIONS):
            payer, payee = rng.sample(range(PEOPLE), 2)
            amount = rng.randrange(1, 10)
            before = [pack("<Iq", who, balances[who]) for who in sorted((payer, payee))]
            balances[payer] -= amount
            balances[payee] += amount
            after = [pack("<Iq", who, balances[who]) for who in sorted((payer, payee))]
            entry = pack("<I", number) + string("x" * rng.choice((0, 5, 60, 400, 1500)))
            deletes = {ACCOUNTS: before}
            if len(journal) > 8:
                deletes[JOURNAL] = [journal.pop(0)]
            journal.append(entry)
            self.payloads.append(payload({ACCOUNTS: after, JOURNAL: [entry]}, deletes))
            self._note(balances, journal)

    def _note(self, balances: dict[int, int], journal: list[bytes]) -> None:
        accounts = frozenset(pack("<Iq", who, balance) for who, balance in balances.items())
        self.states.append((accounts, frozenset(journal)))


SCRIPT = Script()


class CrashingFiles(MemoryFiles):
    """Calls `moment()` before each operation and inside each write."""

    def __init__(self) -> None:
        super().__init__()
        self.moment: Callable[[], None] = lambda: None

    def operation(self) -> None:
        super().operation()
        self.moment()

    def write(self, fd: int, at: int, data: bytes) -> int:
        self.operation()
        content = self.open_files[fd]
        now, pending = bytes(content.now), len(content.pending)
        for cut in range(CUT, len(data), CUT):
            self._write(content, at, data[:cut])
            self.moment()
            content.now[:] = now
            del content.pending[pending:]
        self._write(content, at, data)
        return len(data)

    def image(self, keep_contents: bool, keep_entries: bool) -> MemoryFiles:
        """What is found after a crash that keeps, or loses, what was not synced."""
        found = MemoryFiles()
        copies: dict[int, Content] = {}
        for path, content in (self.entries if keep_entries else self.durable_entries).items():
            data = bytes(content.now) if keep_contents else content.durable
            found.entries[path] = copies.setdefault(id(content), Content(data))
        found.durable_entries = dict(found.entries)
        return found


def images(files: CrashingFiles, rng: Random) -> list[tuple[str, MemoryFiles]]:
    """The disk after a crash now, in each of the ways that are tried."""
    found = [
        (f"contents {'kept' if contents else 'lost'}, entries {'kept' if entries else 'lost'}", contents, entries)
        for contents in (True, False)
        for entries in (True, False)
    ]
    return [
        *((name, files.image(contents, entries)) for name, contents, entries in found),
        ("a random part kept", files.after_power_failure(rng)),
    ]


def state_in(recovered: RecoveredState) -> State:
    return frozenset(recovered.tables.get(ACCOUNTS, ())), frozenset(recovered.tables.get(JOURNAL, ()))


def check(files: MemoryFiles, confirmed: int) -> None:
    """`confirmed`: number of transactions that must be there."""
    with CommitLogWriter.open(LOG, files, SEGMENT_BYTES) as log:
        kept = log.next_offset
        assert log.durable_offset == (kept - 1 if kept else None)
    assert kept >= confirmed, f"{confirmed} transactions were confirmed, {kept} are left"
    recovered = recover(LOG, SNAPSHOTS, files)
    assert recovered.next_offset == kept
    assert state_in(recovered) == SCRIPT.states[kept], f"not the state after {kept} transactions"
    if kept:
        assert sum(unpack("<Iq", row)[1] for row in recovered.tables[ACCOUNTS]) == PEOPLE * MONEY


class Workload:
    """Runs the script; `confirmed` is the number of transactions that clients were told are safe."""

    def __init__(self, files: CrashingFiles) -> None:
        self.files = files
        self.confirmed = self.snapshots = self.removed_segments = 0
        self.rng = Random(6)

    def run(self) -> None:
        at = 0
        while at < TRANSACTIONS:
            log = CommitLogWriter.open(LOG, self.files, SEGMENT_BYTES)
            assert log.next_offset == at
            until = min(at + 15, TRANSACTIONS)
            while at < until:
                batch = min(self.rng.choice((1, 1, 2, 3, 5)), until - at)
                log.append(SCRIPT.payloads[at : at + batch])
                at += batch
                if log.durable_offset is not None:
                    self.confirmed = log.durable_offset + 1
                if self.rng.random() < 0.8:
                    self.confirmed = (log.sync() or 0) + 1
                    if self.rng.random() < 0.8:
                        self.snapshot()
            log.close()
            self.confirmed = at

    def snapshot(self) -> None:
        counts = dict(zip((ACCOUNTS, JOURNAL), map(len, SCRIPT.states[self.confirmed]), strict=True))
        taken = take_snapshot(LOG, SNAPSHOTS, self.confirmed, bytes(32), 0, counts, files=self.files)
        assert not taken.problems
        self.snapshots += 1
        self.removed_segments += taken.removed_segments


def test_every_crash_point(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)  # each torn tail is a warning
    files = CrashingFiles()
    workload = Workload(files)
    points = 0

    def crash() -> None:
        nonlocal points
        for name, image in images(files, Random(points)):
            points += 1
            try:
                check(image, workload.confirmed)
            except BaseException as error:
                raise AssertionError(f"operation {files.operations}, point {points}, {name}") from error

    files.moment = crash
    workload.run()
    crash()
    assert workload.confirmed == TRANSACTIONS
    assert workload.snapshots > 3
    assert workload.removed_segments > 3
    assert points >= 2000, f"only {points} points"
    print(f"{points} crash points at {files.operations} file operations")


def test_an_fsync_that_lies_is_found_out() -> None:
    """The checks themselves: if syncs did nothing, crash points would fail."""
    files = CrashingFiles()
    files.sync_data = lambda fd: None  # type: ignore[method-assign]
    workload = Workload(files)
    workload.run()
    with pytest.raises((AssertionError, LogDamaged)):
        check(files.image(keep_contents=False, keep_entries=True), workload.confirmed)
