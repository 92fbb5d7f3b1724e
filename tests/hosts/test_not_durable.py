"""Tables with `durable=False`: in memory and in subscriptions, not in the log, empty after a restart."""

from __future__ import annotations

from test_program_update import FIRST, Running

from spacetimedb.module import Module, Pk, ReducerContext, Row, Schedule, after, auto_inc, u32, u64
from spacetimedb.schema.definition import with_durability
from spacetimedb.schema.migration import StepKind, plan
from spacetimedb.schema.migration_text import plan_text
from spacetimedb.schema.validation import validate
from spacetimedb.store.commit_record import COMMIT, LOGGED, UNLOGGED, changes, header, log_payload
from spacetimedb.testing.host import TestHost

IN_MEMORY = FIRST.replace("@m.table(public=True)\nclass Person", "@m.table(public=True, durable=False)\nclass Person")
WIDER_IN_MEMORY = IN_MEMORY.replace(
    "    name: str\n\n@m.table", "    name: str\n    age: u32 = default(18)\n\n@m.table"
)

m = Module()


@m.table(public=True, durable=False)
class Position(Row):
    player: Pk[u32]
    x: u32


@m.table(public=True, durable=False)
class Shot(Row):
    id: Pk[u64] = auto_inc()


@m.table(public=True)
class Score(Row):
    player: Pk[u32]
    points: u32


@m.table(public=True, event=True, durable=False)
class Bang(Row):
    player: u32


@m.table(durable=False)
class Fuse(Schedule):
    player: u32


@m.reducer
def move(ctx: ReducerContext, player: u32, x: u32) -> None:
    ctx.db[Position].player.upsert(Position(player=player, x=x))


@m.reducer
def score(ctx: ReducerContext, player: u32, points: u32) -> None:
    ctx.db[Score].player.upsert(Score(player=player, points=points))
    ctx.db[Position].player.upsert(Position(player=player, x=0))


@m.reducer
def shoot(ctx: ReducerContext, player: u32) -> None:
    ctx.db[Shot].insert(Shot())
    ctx.db[Bang].insert(Bang(player=player))


@m.reducer
def light(ctx: ReducerContext, player: u32) -> None:
    ctx.db[Fuse].insert(Fuse(scheduled_at=after(ctx, ms=1000), player=player))


@m.reducer(on_schedule=Fuse)
def burn(ctx: ReducerContext, fuse: Fuse) -> None:
    ctx.db[Position].player.upsert(Position(player=fuse.player, x=99))


alice = TestHost.identity("alice")


def test_rows_are_gone_after_a_crash_and_the_others_are_not() -> None:
    host = TestHost(m)
    host.connect(alice)
    positions = host.subscribe(alice, "SELECT * FROM position")
    host.call(alice, move, 1, 5)
    host.call(alice, score, 2, 10)
    host.call(alice, move, 2, 7)
    assert sorted((p.player, p.x) for p in positions.rows(Position)) == [(1, 5), (2, 7)]
    host.restart(crash=True)
    assert list(host.db[Position].iter()) == []
    assert [(s.player, s.points) for s in host.db[Score].iter()] == [(2, 10)]
    host.connect(alice)
    assert host.call(alice, move, 1, 6)[Position].inserts == [Position(player=1, x=6)]


def test_a_number_of_a_sequence_is_not_given_twice() -> None:
    host = TestHost(m)
    host.connect(alice)
    given = [host.call(alice, shoot, 1)[Shot].inserts[0].id for _ in range(3)]
    host.restart(crash=True)
    host.connect(alice)
    given += [host.call(alice, shoot, 1)[Shot].inserts[0].id for _ in range(3)]
    assert len(set(given)) == 6


def test_schedules_run_and_end_with_the_process() -> None:
    host = TestHost(m)
    host.connect(alice)
    host.call(alice, light, 3)
    host.advance(seconds=2)
    assert [(p.player, p.x) for p in host.db[Position].iter()] == [(3, 99)]
    host.call(alice, light, 4)
    host.restart(crash=True)
    host.advance(seconds=2)
    assert list(host.db[Position].iter()) == []


def test_a_transaction_without_durable_rows_writes_nothing_and_reaches_readers() -> None:
    running = Running(IN_MEMORY)
    running.connect(1)
    running.add("first")  # reserves numbers, which is logged
    horizon, logged = running.database.horizon, len(running.payloads)
    before = len(running.records)
    running.add("Ann")
    records = [record for record in running.records[before:] if record[4] == COMMIT]
    assert len(records) == 1
    head = header(records[0])
    assert (head.horizon, head.flags & LOGGED, len(log_payload(records[0]))) == (horizon, 0, 0)
    (change,) = changes(records[0], 0, head.table_count)
    assert (change.flags, change.inserts.row_count) == (UNLOGGED, 1)
    assert (running.database.horizon, len(running.payloads)) == (horizon, logged)


def test_the_option_changes_and_rows_stay_until_the_restart() -> None:
    running = Running(FIRST)
    running.connect(1)
    running.add("Ann", "Bob")
    records = running.update(IN_MEMORY)
    person = running.database.table_ids["person"]
    assert person not in [c.table_id for r in records if r[4] == COMMIT for c in changes(r, 0, header(r).table_count)]
    running.add("Cleo")
    assert [row[1] for row in running.rows("person")] == ["Ann", "Bob", "Cleo"]
    running.restart()
    assert running.rows("person") == []


def test_the_option_changes_back_and_rows_are_kept() -> None:
    running = Running(IN_MEMORY)
    running.connect(1)
    running.add("Ann", "Bob")
    running.update(FIRST)
    running.add("Cleo")
    running.restart()
    assert [row[1] for row in running.rows("person")] == ["Ann", "Bob", "Cleo"]


def test_the_option_changes_together_with_columns() -> None:
    for start, second in ((FIRST, WIDER_IN_MEMORY), (IN_MEMORY, WIDER_IN_MEMORY.replace(", durable=False", ""))):
        running = Running(start)
        running.connect(1)
        running.add("Ann")
        running.update(second, break_clients=True)
        assert [row[1:] for row in running.rows("person")] == [("Ann", 18)]
        running.restart()
        assert [row[1:] for row in running.rows("person")] == ([] if second is WIDER_IN_MEMORY else [("Ann", 18)])


def test_the_plan_says_it_and_clients_stay() -> None:
    old = validate(m.describe())
    steps = plan(old, with_durability(old, ["score"]))
    assert [(step.kind, step.name) for step in steps.steps] == [(StepKind.CHANGE_DURABILITY, "score")]
    assert not steps.breaks_clients
    assert "in memory only" in plan_text(steps)
