"""Procedures that run while another program takes over: they end, and nothing else does."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from patience import PATIENCE_S

from spacetimedb import (
    Interval,
    Module,
    Pk,
    ProcedureContext,
    ReducerContext,
    Row,
    Schedule,
    TestHost,
    TimeDuration,
    u32,
)
from spacetimedb.hosts.mail import ANSWER_HEAD, Outcome
from spacetimedb.hosts.procedure_threads import ProcedureThreads
from spacetimedb.hosts.procedures import REPLACED

ALICE = TestHost.identity("alice")
EVERY_MS = 100


class Gate:
    """Procedures go in, wait, and are let out one by one."""

    def __init__(self) -> None:
        self.inside = threading.Semaphore(0)
        self.open = threading.Semaphore(0)

    def wait(self) -> None:
        self.inside.release()
        assert self.open.acquire(timeout=PATIENCE_S)


def program(gate: Gate) -> Module:
    """Always the same one, with classes of its own."""
    m = Module()

    @m.table(public=True)
    class Note(Row):
        text: Pk[str]

    @m.table()
    class Timer(Schedule): ...

    def write(tx: ReducerContext, text: str) -> None:
        tx.db[Note].insert(Note(text=text))

    @m.reducer
    def note(ctx: ReducerContext, text: str) -> None:
        write(ctx, text)

    @m.reducer
    def begin(ctx: ReducerContext) -> None:
        ctx.db[Timer].insert(Timer(scheduled_at=Interval(TimeDuration.millis(EVERY_MS))))

    @m.procedure
    def stubborn(ctx: ProcedureContext) -> u32:
        gate.wait()
        for attempt in range(100):
            try:
                ctx.with_tx(write, f"attempt {attempt}")
            except Exception:
                continue
        return 1

    @m.procedure
    def patient(ctx: ProcedureContext) -> u32:
        gate.wait()
        return 7

    @m.procedure(on_schedule=Timer)
    def often(ctx: ProcedureContext, timer: Timer) -> None:
        gate.wait()

    return m


class Rig:
    """A database with threads for procedures; this thread is the main one."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.host = TestHost(program(self.gate))
        self.database = self.host._database
        self.bell = threading.Event()
        self.threads = ProcedureThreads(self.database.log, lambda: self.host._now, self.bell.set)
        self.database.procedures.runner = self.threads

    def start(self, procedure: str) -> None:
        """Calls it and waits until it stands at the gate."""
        self.host.connect(ALICE)
        self.database.call_procedure(self.host._callers[ALICE], procedure, 1, b"")
        assert self.gate.inside.acquire(timeout=PATIENCE_S)

    def publish(self) -> None:
        self.host.publish(program(self.gate))

    def run_until(self, done: Callable[[], bool]) -> None:
        while not done():
            self.bell.clear()
            if not self.threads.run_posted():
                assert self.bell.wait(PATIENCE_S), "nothing happens any more"

    def answer(self) -> tuple[Outcome, bytes]:
        """Lets one procedure out; what it ends with."""
        self.gate.open.release()
        found: list[tuple[Outcome, bytes]] = []

        def take() -> bool:
            for record in self.database.out:
                head = ANSWER_HEAD.unpack_from(record)
                if head[5] == 1:
                    found.append((Outcome(head[2]), bytes(record[ANSWER_HEAD.size : ANSWER_HEAD.size + head[8]])))
            self.host._take()
            return bool(found)

        self.run_until(take)
        return found[0]

    def notes(self) -> list[str]:
        return [row.text for row in self.database.store.by_name["note"].reader.iter()]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_it_ends_at_its_next_transaction(rig: Rig) -> None:
    rig.start("stubborn")
    rig.publish()
    assert rig.answer() == (Outcome.PROCEDURE_FAILED, REPLACED.encode())
    lines = [(line["level"], line["message"]) for line in rig.host.log if line["function"] == "stubborn"]
    assert lines == [("Error", REPLACED)]
    assert not rig.notes()
    rig.database.call_by_name(rig.host._callers[ALICE], "note", 2, len("new").to_bytes(4, "little") + b"new")
    assert rig.notes() == ["new"]


def test_it_goes_on_if_it_wants_no_transaction(rig: Rig) -> None:
    rig.start("patient")
    rig.publish()
    assert rig.answer() == (Outcome.RETURNED, (7).to_bytes(4, "little"))


def test_the_next_program_runs_its_own_schedule(rig: Rig) -> None:
    """A run of the old program that ends while the new one's runs does not queue that row a second time."""
    database, host = rig.database, rig.host
    host.connect(ALICE)
    database.call_by_name(host._callers[ALICE], "begin", 2, b"")

    def run_next() -> None:
        host._now += EVERY_MS * 1000
        assert database.run_due()
        assert rig.gate.inside.acquire(timeout=PATIENCE_S)
        assert database.next_due_us() is None, "the same row would run twice at a time"

    run_next()
    rig.publish()
    run_next()
    unfinished = rig.threads._unfinished
    rig.gate.open.release()
    rig.run_until(lambda: rig.threads._unfinished < unfinished)
    assert database.next_due_us() is None
    rig.gate.open.release()
    rig.run_until(lambda: rig.threads._unfinished == 0)
    assert database.next_due_us() is not None
