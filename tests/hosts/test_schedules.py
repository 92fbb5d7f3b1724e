"""Schedules, topic by topic. Ids of the cases are the topics; each has recorded cases, cases here, or both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from spacetimedb import (
    At,
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
    Timestamp,
    auto_inc,
    i64,
    u32,
    u64,
)
from spacetimedb.hosts.figures import DELAY
from spacetimedb.hosts.schedule_table import ScheduleRefused
from spacetimedb.hosts.scheduler import MAX_DELAY_US, next_tick_us
from spacetimedb.memory.figures import figures

CASES = Path(__file__).parents[1] / "vectors" / "module"
SECOND = 1_000_000
ALICE = TestHost.identity("alice")

RECORDED = {
    "arming": {"rollback-schedules-nothing", "move-later", "move-earlier"},
    "interval": {"interval", "zero-and-negative-interval", "restart-pending"},
    "time": {"in-the-past"},
    "max-delay": {"delay-too-long"},
    "concurrency": {"order", "insert-from-scheduled"},
    "argument": {"cancel"},
    "one-shot-reducer": {"one-shot", "one-shot-messages", "failing-one-shot", "panicking-one-shot"},
    "rearming": {"rearm-own-row", "one-shot-becomes-interval-while-running"},
    "one-shot-procedure": {"procedure-one-shot"},
    "interval-row": {"deletes-itself", "time-becomes-interval"},
    "failure": {"failing-interval-goes-on", "procedure-panics"},
    "restart": {"restart-overdue", "interval-after-update"},
    "client-calls": {"not-callable-by-clients"},
}
"""Topic: cases of `schedules.json` and `updates.json`, which the tests of recorded cases play."""


def module(version: str = "") -> Module:
    """What `Shot` rows ask for is done by `fire`, what `Wait` rows do by a procedure; both keep a record in `Ran`."""
    m = Module()
    m.table()(Shot)
    m.table()(Wait)
    m.table(public=True)(Ran)

    @m.reducer(on_schedule=Shot)
    def fire(ctx: ReducerContext, shot: Shot) -> None:
        me = ctx.db[Shot].scheduled_id.find(shot.scheduled_id)
        rows = 0 if me is None else 1
        internal = ctx.sender == ctx.identity and ctx.connection_id is None and ctx.auth.is_internal
        what = shot.what + version + ("" if internal else " from outside")
        ctx.db[Ran].insert(Ran(what=what, at=int(ctx.timestamp), rows=rows))
        if shot.what == "refuse":
            raise ReducerError("refused")

    @m.procedure(on_schedule=Wait)
    def wait(ctx: ProcedureContext, row: Wait) -> None:
        def note(tx: ReducerContext) -> None:
            tx.db[Ran].insert(Ran(what=row.what, at=int(ctx.timestamp), rows=tx.db[Wait].count()))

        ctx.with_tx(note)
        ctx.sleep(1)
        if row.what == "break":
            raise RuntimeError("broken")

    @m.reducer
    def put(ctx: ReducerContext, id: u64, what: str, at_us: i64, every_us: i64 | None) -> None:
        at = At(Timestamp(at_us)) if every_us is None else Interval(TimeDuration(every_us))
        ctx.db[Shot].scheduled_id.upsert(Shot(scheduled_id=id, scheduled_at=at, what=what))
        if what == "undone":
            raise ReducerError("undone")

    @m.reducer
    def put_wait(ctx: ReducerContext, id: u64, what: str, every_us: i64) -> None:
        at = Interval(TimeDuration(every_us)) if every_us else At(ctx.timestamp - TimeDuration.seconds(1))
        ctx.db[Wait].insert(Wait(scheduled_id=id, scheduled_at=at, what=what))

    @m.reducer
    def cancel(ctx: ReducerContext, id: u64) -> None:
        assert ctx.db[Shot].scheduled_id.delete(id)

    return m


class Shot(Schedule):
    what: str


class Wait(Schedule):
    what: str


class Ran(Row):
    id: Pk[u32] = auto_inc()
    what: str
    at: i64
    rows: u64


class Rig:
    """A host, and times in seconds since its beginning."""

    def __init__(self) -> None:
        self.host = TestHost(module())
        self.host.connect(ALICE)
        self.start = int(self.host.now)

    def _call(self, name: str, *args: object) -> None:
        self.host.call(ALICE, self.reducer(name), *args)

    def reducer(self, name: str) -> Callable[..., None]:
        """A reducer of the module, by name."""
        return cast(Callable[..., None], next(spec.function for spec in self.host.module.reducers if spec.name == name))

    def shoot(self, id: int, what: str = "shot", at: float = 0.0, every: float = 0.0) -> None:
        self._call("put", id, what, self.start + round(at * SECOND), round(every * SECOND) if every else None)

    def wait(self, id: int, what: str = "wait", every: float = 0.0) -> None:
        self._call("put_wait", id, what, round(every * SECOND))

    def cancel(self, id: int) -> None:
        self._call("cancel", id)

    def ran(self) -> list[tuple[str, float]]:
        rows = sorted(self.host.db[Ran].iter(), key=lambda row: row.id)
        return [(row.what, round((row.at - self.start) / SECOND, 2)) for row in rows]


def rolled_back_update(rig: Rig) -> None:
    for id, wanted in ((1, 0.5), (2, 9.0)):
        rig.shoot(id, at=2)
        with pytest.raises(ReducerError):
            rig.shoot(id, "undone", at=wanted)
    rig.host.advance(10)
    assert rig.ran() == [("shot", 2.0)] * 2


def first_after_one_interval(rig: Rig) -> None:
    rig.shoot(1, every=-2)
    rig.host.advance(1.9)
    assert rig.ran() == []
    rig.host.advance(4.2)
    assert rig.ran() == [("shot", 2.0), ("shot", 4.0), ("shot", 6.0)]
    with pytest.raises(ScheduleRefused, match="interval of 0"):
        rig.shoot(2, every=1e-9)


def missed_ticks_are_skipped(rig: Rig) -> None:
    assert [next_tick_us(100, 10, now) for now in (0, 100, 109, 110, 195)] == [110, 110, 110, 120, 200]
    rig.shoot(1, every=1)
    rig.host._now += round(3.5 * SECOND)  # nothing ran in this time
    rig.host.advance(0)
    rig.host.advance(2)
    assert rig.ran() == [("shot", 3.5), ("shot", 4.0), ("shot", 5.0)]


def lateness_is_counted(rig: Rig) -> None:
    """For whoever runs the server: the metric has it, where upstream's server writes a line from 30 ms on."""
    rig.shoot(1, at=1)
    rig.host._now = rig.start + round(1.04 * SECOND)  # nothing ran in this time
    rig.host.advance(0)
    assert rig.ran() == [("shot", 1.04)]
    words = rig.host._database.figures._board.words
    [delay] = [figure for figure in figures(words, 0, len(words)) if figure.family == DELAY.name]
    total_us, *counts = delay.values
    assert (delay.labels, total_us, sum(counts)) == (("fire",), 40_000, 1)
    assert counts[DELAY.bounds.index(50_000)] == 1


def the_past_is_now(rig: Rig) -> None:
    rig.shoot(1, at=-100)
    rig.host.advance(0)
    assert rig.ran() == [("shot", 0.0)]


def as_long_as_can_be(rig: Rig) -> None:
    limit = MAX_DELAY_US / SECOND
    rig.shoot(1, at=limit - 1)
    for at, every in ((limit + 1, 0.0), (0.0, limit)):
        for id in (1, 2):  # an update, an insert
            with pytest.raises(ScheduleRefused, match="unable to schedule"):
                rig.shoot(id, at=at, every=every)
    assert [int(row.scheduled_at.value) for row in rig.host.db[Shot].iter()] == [
        rig.start + round((limit - 1) * SECOND)
    ]


def never_before_its_time(rig: Rig) -> None:
    rig.shoot(1, at=1.0015)
    rig.host.advance(1.001)
    assert rig.ran() == []
    rig.host.advance(0.001)
    assert len(rig.ran()) == 1


def a_waiting_procedure_holds_up_nobody(rig: Rig) -> None:
    rig.shoot(1, every=0.25)
    rig.wait(1)
    rig.host.advance(1)
    assert rig.ran() == [("wait", 0.0), *[("shot", time) for time in (0.25, 0.5, 0.75, 1.0)]]


def the_row_is_read_when_due(rig: Rig) -> None:
    rig.shoot(1, "first", at=1)
    rig.shoot(1, "second", at=1)
    rig.shoot(2, "cancelled", at=1)
    rig.cancel(2)
    rig.host.advance(2)
    assert rig.ran() == [("second", 1.0)]


def visible_while_it_runs(rig: Rig) -> None:
    rig.shoot(1, at=1)
    run, deletion = rig.host.advance(2)
    assert ([row.rows for row in run[Ran].inserts], Shot in run) == ([1], False)
    assert ([row.what for row in deletion[Shot].deletes], Ran in deletion) == (["shot"], False)
    rig.shoot(2, "refuse", at=1)
    (deletion,) = rig.host.advance(2)
    assert ([row.what for row in deletion[Shot].deletes], Ran in deletion) == (["refuse"], False)


def a_crash_before_its_row_is_deleted(rig: Rig) -> None:
    rig.shoot(1, at=1)
    rig.host.advance(2)
    rig.host._payloads.pop()
    rig.host.restart(crash=True)
    rig.host.advance(0)
    assert [what for what, _ in rig.ran()] == ["shot", "shot"]
    assert rig.host.db[Shot].count() == 0


def gone_before_it_starts(rig: Rig) -> None:
    rig.wait(1)
    deletion, run = rig.host.advance(0)
    assert [row.what for row in deletion[Wait].deletes] == ["wait"]
    assert [row.rows for row in run[Ran].inserts] == [0]
    rig.host._payloads.pop()
    rig.host.restart(crash=True)
    rig.host.advance(5)
    assert rig.ran() == []  # at most once


def until_the_module_deletes_it(rig: Rig) -> None:
    rig.shoot(1, every=1)
    rig.host.advance(2)
    assert rig.host.db[Shot].count() == 1
    rig.cancel(1)
    rig.host.advance(5)
    assert rig.ran() == [("shot", 1.0), ("shot", 2.0)]
    rig.shoot(2, at=9)
    rig.shoot(2, every=1)
    rig.host.advance(2.5)
    assert rig.ran()[2:] == [("shot", 8.0), ("shot", 9.0)]


def failures_do_not_stop_it(rig: Rig) -> None:
    rig.shoot(1, "refuse", every=1)
    rig.wait(1, "break", every=2)
    with pytest.raises(RuntimeError, match="broken"):
        rig.host.advance(7.5)
    assert rig.ran() == [("break", 2.0), ("break", 4.0), ("break", 6.0)]
    assert sum(str(failure) == "refused" for failure in rig.host.failures) == 7


def a_full_interval_from_the_restart(rig: Rig) -> None:
    rig.shoot(1, "often", every=4)
    rig.shoot(2, "overdue", at=1)
    rig.host._now += 3 * SECOND
    for _ in range(2):
        rig.host.restart(crash=True)
        rig.host.advance(0)
    rig.host.advance(4)
    assert rig.ran() == [("overdue", 3.0), ("often", 7.0)]


def the_new_code_after_a_publish(rig: Rig) -> None:
    rig.shoot(1, every=1)
    rig.shoot(2, at=5)
    rig.host.advance(1.5)
    rig.host.publish(module(" of the new version"))
    rig.host.advance(1.2)
    assert rig.ran() == [("shot", 1.0), ("shot of the new version", 2.5)]
    rig.cancel(1)
    rig.host.advance(3)
    assert rig.ran()[2:] == [("shot of the new version", 5.0)]


def from_inside_at_the_due_time(rig: Rig) -> None:
    rig.shoot(1, at=1)
    rig.host.advance(1)
    rig.shoot(2, at=1)  # overdue: the time is now
    rig.host._now += SECOND
    rig.host.advance(0)
    assert rig.ran() == [("shot", 1.0), ("shot", 2.0)]


def by_the_owner_only(rig: Rig) -> None:
    fire = rig.reducer("fire")
    row = Shot(scheduled_id=7, scheduled_at=Interval(TimeDuration(1)), what="by hand")
    with pytest.raises(LookupError, match="no such reducer"):
        rig.host.call(ALICE, fire, row)
    rig.host.call(rig.host.owner, fire, row)
    assert [what for what, _ in rig.ran()] == ["by hand from outside"]


TOPICS: dict[str, tuple[Callable[[Rig], None], ...]] = {
    "arming": (rolled_back_update,),
    "interval": (first_after_one_interval, missed_ticks_are_skipped),
    "time": (the_past_is_now,),
    "max-delay": (as_long_as_can_be,),
    "resolution": (never_before_its_time, lateness_is_counted),
    "concurrency": (a_waiting_procedure_holds_up_nobody,),
    "argument": (the_row_is_read_when_due,),
    "one-shot-reducer": (visible_while_it_runs, a_crash_before_its_row_is_deleted),
    "rearming": (),  # test_test_host.test_a_run_may_set_its_row_a_new_time
    "one-shot-procedure": (gone_before_it_starts,),
    "interval-row": (until_the_module_deletes_it,),
    "failure": (failures_do_not_stop_it,),
    "restart": (a_full_interval_from_the_restart, the_new_code_after_a_publish),
    "context": (from_inside_at_the_due_time,),
    "client-calls": (by_the_owner_only,),
}


@pytest.mark.parametrize(
    "play",
    [pytest.param(play, id=f"{topic}-{play.__name__}") for topic, plays in TOPICS.items() for play in plays],
)
def test_topic(play: Callable[[Rig], None]) -> None:
    play(Rig())


def test_every_recorded_case_has_its_topic() -> None:
    recorded = {case["name"] for case in json.loads((CASES / "schedules.json").read_text())["cases"]}
    assert set().union(*RECORDED.values()) == recorded | {"interval-after-update"}
    assert RECORDED.keys() <= TOPICS.keys()
