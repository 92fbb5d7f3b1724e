"""Every reducer runs twice: what differs between the runs is told, what does not is as if it had run once."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from spacetimedb import (
    Module,
    Pk,
    ProcedureContext,
    ReducerContext,
    ReducerError,
    Row,
    Schedule,
    TestHost,
    at,
    auto_inc,
    u32,
    u64,
)
from spacetimedb.hosts.determinism import NotDeterministic

ALICE = TestHost.identity("alice")


class Item(Row):
    id: Pk[u64] = auto_inc()
    value: u32
    text: str = ""


class Timer(Schedule): ...


class Rig:
    """A module whose reducers remember in `calls` how often they have run."""

    def __init__(self) -> None:
        self.calls: Iterator[int] = count()
        self.runs = 0
        m = self.module = Module()
        m.table(public=True)(Item)
        m.table()(Timer)

        @m.reducer
        def add(ctx: ReducerContext, values: list[u32]) -> None:
            self.runs += 1
            ctx.log.info(f"adds {len(values)} values")
            while values:
                ctx.db[Item].insert(Item(value=values.pop(), text=f"{ctx.rng.random()} {ctx.uuid7()}"))

        @m.reducer
        def add_counted(ctx: ReducerContext) -> None:
            ctx.db[Item].insert(Item(value=next(self.calls)))

        @m.reducer
        def change_once(ctx: ReducerContext) -> None:
            if next(self.calls) == 0:
                ctx.db[Item].id.delete(1)

        @m.reducer
        def fail_once(ctx: ReducerContext) -> None:
            if next(self.calls) == 0:
                raise ReducerError("the first time")

        @m.reducer
        def fail(ctx: ReducerContext) -> None:
            ctx.db[Item].insert(Item(value=1))
            raise ReducerError("always")

        @m.reducer
        def later(ctx: ReducerContext) -> None:
            ctx.db[Timer].insert(Timer(scheduled_at=at(ctx.timestamp)))

        @m.reducer(on_schedule=Timer)
        def tick(ctx: ReducerContext, timer: Timer) -> None:
            ctx.db[Item].insert(Item(value=next(self.calls)))

        @m.procedure
        def add_in_procedure(ctx: ProcedureContext) -> None:
            ctx.with_tx(add, [1])

        self.add, self.add_counted, self.change_once, self.fail_once = add, add_counted, change_once, fail_once
        self.fail, self.later, self.add_in_procedure = fail, later, add_in_procedure
        self.host = TestHost(m, check_determinism=True)
        self.host.connect(ALICE)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_what_is_deterministic_shows_one_run(rig: Rig) -> None:
    """Numbers of sequences, random numbers, uuids and the module log are those of one run."""
    delta = rig.host.call(ALICE, rig.add, [5, 6])
    assert rig.runs == 2
    assert [(row.id, row.value) for row in delta[Item].inserts] == [(1, 6), (2, 5)]
    once = TestHost(rig.module)
    once.connect(ALICE)
    assert once.call(ALICE, rig.add, [5, 6])[Item].inserts == delta[Item].inserts
    assert [line["message"] for line in rig.host.log if "adds" in line["message"]] == ["adds 2 values"]
    rig.host.call(ALICE, rig.add, [7])
    assert sorted(row.id for row in rig.host.db[Item].iter()) == [1, 2, 3]
    rig.host.restart(crash=True)
    rig.host.connect(ALICE)
    rig.host.call(ALICE, rig.add, [8])
    assert max(row.id for row in rig.host.db[Item].iter()) == 4097


def test_rows_that_differ(rig: Rig) -> None:
    text = r"`add_counted` is not deterministic.*in table `item` one left Item\(id=1, value=0.*the other left .*value=1"
    with pytest.raises(NotDeterministic, match=text):
        rig.host.call(ALICE, rig.add_counted)
    assert rig.host.db[Item].count() == 0


def test_a_change_that_one_run_makes(rig: Rig) -> None:
    rig.host.call(ALICE, rig.add, [5])
    with pytest.raises(NotDeterministic, match="one deleted the row with key 1, the other did not touch the row"):
        rig.host.call(ALICE, rig.change_once)
    rig.host.call(ALICE, rig.change_once)


def test_errors(rig: Rig) -> None:
    with pytest.raises(NotDeterministic, match="one raised ReducerError: the first time, the other returned"):
        rig.host.call(ALICE, rig.fail_once)
    with pytest.raises(ReducerError, match="always"):
        rig.host.call(ALICE, rig.fail)
    assert rig.host.db[Item].count() == 0


def test_scheduled_runs_too_but_not_transactions_of_procedures(rig: Rig) -> None:
    rig.host.procedure(ALICE, rig.add_in_procedure)
    assert rig.runs == 1
    rig.host.call(ALICE, rig.later)
    with pytest.raises(NotDeterministic, match="`tick`"):
        rig.host.advance(1)


def test_not_by_default() -> None:
    rig = Rig()
    host = TestHost(rig.module)
    host.connect(ALICE)
    host.call(ALICE, rig.add_counted)
