"""What must hold when something happens at a bad moment: clocks that are set, memory that ends, contexts that leak."""

from __future__ import annotations

from typing import Any

import pytest
from patience import until

from spacetimedb import (
    At,
    ConnectionId,
    Interval,
    Module,
    Pk,
    ProcedureContext,
    ReducerContext,
    ReducerError,
    Row,
    Schedule,
    TestHost,
    TimeDuration,
    Unique,
    WouldBlock,
    auto_inc,
    u32,
    u64,
)
from spacetimedb.hosts import database as database_module
from spacetimedb.hosts.database import caller
from spacetimedb.hosts.procedure_threads import ProcedureThreads
from spacetimedb.hosts.procedures import Unpublished
from spacetimedb.hosts.scheduler import Scheduler
from spacetimedb.schema.system_tables import ST_CLIENT_ID, ST_SEQUENCE_ID

ALICE = TestHost.identity("alice")
HOUR_US = 3_600_000_000
leaked: list[ProcedureContext] = []
m = Module()


@m.table(public=True)
class Note(Row):
    id: Pk[u32] = auto_inc()
    text: Unique[str]


@m.table()
class Timer(Schedule):
    name: str


@m.table()
class Run(Row):
    id: Pk[u64] = auto_inc()
    name: str


@m.reducer
def write(ctx: ReducerContext, text: str) -> None:
    ctx.db[Note].insert(Note(text=text))
    if not text:
        raise ReducerError("nothing written")


@m.reducer
def put(ctx: ReducerContext, id: u32) -> None:
    ctx.db[Note].insert(Note(id=id, text="put"))


@m.reducer
def start(ctx: ReducerContext) -> None:
    second = TimeDuration.millis(1000)
    ctx.db[Timer].insert(Timer(scheduled_at=Interval(second), name="interval"))
    ctx.db[Timer].insert(Timer(scheduled_at=At(ctx.timestamp + second), name="time"))


@m.reducer(on_schedule=Timer)
def run(ctx: ReducerContext, timer: Timer) -> None:
    ctx.db[Run].insert(Run(name=timer.name))


@m.procedure
def leak(ctx: ProcedureContext) -> None:
    leaked.append(ctx)


@m.reducer
def wait(ctx: ReducerContext, how: str) -> None:
    (other,) = leaked
    if how == "sleep":
        other.sleep(0.0)
    elif how == "tx":
        other.with_tx(lambda tx: None)
    else:
        other.http.get("http://localhost")


@pytest.fixture
def host() -> TestHost:
    return TestHost(m)


def runs(host: TestHost) -> list[str]:
    return [run.name for run in host.db[Run].iter()]


def run_until(host: TestHost, now: int) -> None:
    host._now = now
    while host._database.run_due():
        pass


def test_a_clock_that_is_set_back(host: TestHost) -> None:
    host.call(ALICE, start)
    begun = host._now
    run_until(host, begun + 500_000)
    assert runs(host) == []
    set_back = begun - HOUR_US
    run_until(host, set_back)
    run_until(host, set_back + 500_000)
    assert runs(host) == ["interval"]
    run_until(host, set_back + 1_500_000)
    assert runs(host) == ["interval"] * 2
    run_until(host, begun + 1_100_000)
    assert runs(host)[2:].count("time") == 1
    assert len(runs(host)) == 4, "missed runs are not made up for"


def test_a_clock_that_is_set_back_during_a_run() -> None:
    """What runs is queued anew by the clock as it is then."""
    host = TestHost(m)
    host.call(ALICE, start)
    begun = host._now
    host._now = begun + 1_000_000
    clock = host._database.schedules._clock
    table = next(iter(host._database.schedules.tables.values()))
    names = {}
    while (job := host._database.schedules.pop_due()) is not None:
        names[table.find(job.key).name] = job
    host._now = begun - HOUR_US
    host._database.schedules.arm_next(names["interval"], table)
    due = host._database.next_due_us()
    assert due is not None
    assert due - clock() == 1_000_000


def test_a_clock_that_is_set_forward(host: TestHost) -> None:
    host.call(ALICE, start)
    run_until(host, host._now + HOUR_US)
    assert sorted(runs(host)) == ["interval", "time"]


def test_numbers_of_a_transaction_that_was_undone(host: TestHost) -> None:
    """The next commit writes down that they are taken; later ones have nothing to do with it any more."""
    store = host._database.store
    host.connect(ALICE)
    with pytest.raises(ReducerError):
        host.call(ALICE, write, "")
    assert store._behind
    host.call(ALICE, put, 9)  # takes no number
    assert not store._behind
    number = store.by_name["note"].table_id
    (row,) = [row for row in store.tables[ST_SEQUENCE_ID].reader.iter() if row.table_id == number]
    assert row.allocated == 4097


def test_a_transaction_of_a_procedure_that_cannot_be_told(host: TestHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is final in the tables, so the main thread must end: nobody must see what no log holds."""

    def no_memory(*_parts: object) -> bytes:
        raise MemoryError

    database = host._database
    threads = database.procedures.runner = ProcedureThreads(database.log, lambda: host._now, lambda: None)
    host.connect(ALICE)
    monkeypatch.setattr(database_module, "build_commit", no_memory)
    database.call_procedure(host._callers[ALICE], "insert_later", 1, b"")
    with pytest.raises(Unpublished):
        until(threads.run_posted)


@m.procedure
def insert_later(ctx: ProcedureContext) -> None:
    ctx.with_tx(write, "later")


@pytest.mark.parametrize("how", ["sleep", "tx", "http"])
def test_a_reducer_waits_for_nothing_with_a_procedures_context(host: TestHost, how: str) -> None:
    leaked.clear()
    host.procedure(ALICE, leak)
    host._database.procedures.runner = ProcedureThreads(host._database.log, lambda: host._now, lambda: None)
    with pytest.raises(WouldBlock):
        host.call(ALICE, wait, how)


def test_two_sockets_of_one_connection() -> None:
    """The client is gone when the second one is; what it costs does not grow with the others."""
    host = TestHost(m)
    database = host._database
    clients = database.store.tables[ST_CLIENT_ID]
    connection_id = ConnectionId.from_int(7)
    for connection in (1, 2):
        database.connect(caller(ALICE, connection_id, 0, connection), 0, "{}")
    database.disconnect(0, 1)
    assert clients.row_count == 1
    database.disconnect(0, 2)
    assert clients.row_count == 0
    database.disconnect(0, 2)
    assert not database._sockets


def test_intervals_are_shifted_and_times_are_not() -> None:
    queue = Scheduler()
    queue.arm(1, "interval", 1000, 10)
    queue.arm(1, "time", 400, 0)
    queue.arm(1, "gone", 10, 10)
    queue.disarm(1, "gone")
    queue.shift(-900)
    order: list[Any] = []
    while (job := queue.pop_due(5000)) is not None:
        order.append((job.key, job.due_us))
    assert order == [("interval", 100), ("time", 400)]
