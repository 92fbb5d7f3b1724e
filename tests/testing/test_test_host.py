"""`TestHost`: calls, errors, the clock, restarts, subscriptions, views."""

from __future__ import annotations

import pytest

from spacetimedb.module import (
    AnonymousViewContext,
    Identity,
    Index,
    Interval,
    Module,
    Pk,
    Query,
    ReducerContext,
    ReducerError,
    Row,
    Schedule,
    TimeDuration,
    UniqueViolation,
    Uuid,
    ViewContext,
    after,
    auto_inc,
    u8,
    u32,
    u64,
)
from spacetimedb.sql.errors import SqlError
from spacetimedb.testing.host import TestHost

m = Module()


@m.table(public=True)
class Player(Row):
    id: Pk[u32] = auto_inc()
    name: Index[str]
    owner: Identity


retired = m.add_table(Player, name="retired")


@m.table(public=True, event=True)
class Chat(Row):
    text: str


@m.table()
class Visit(Row):
    id: Pk[u64] = auto_inc()
    what: str
    who: Identity


@m.table()
class Job(Schedule):
    action: str


@m.init
def init(ctx: ReducerContext) -> None:
    ctx.db[Visit].insert(Visit(what="init", who=ctx.sender))


@m.client_connected
def connected(ctx: ReducerContext) -> None:
    assert ctx.auth.jwt is not None
    if ctx.auth.jwt.subject == "unwanted":
        raise ReducerError("go away")
    ctx.db[Visit].insert(Visit(what="in", who=ctx.sender))


@m.client_disconnected
def disconnected(ctx: ReducerContext) -> None:
    ctx.db[Visit].insert(Visit(what="out", who=ctx.sender))
    if any(p.name == "fails" for p in ctx.db[Player].name.filter("fails")):
        raise ReducerError("cannot leave")


@m.reducer
def add(ctx: ReducerContext, name: str, times: u8 = 1) -> None:
    if not name:
        raise ReducerError("a name, please")
    for _ in range(times):
        ctx.db[Player].insert(Player(name=name, owner=ctx.sender))
    ctx.log.info("added %s", name)


@m.reducer
def retire(ctx: ReducerContext, id: u32) -> None:
    player = ctx.db[Player].id.get(id)
    ctx.db[Player].id.delete(id)
    ctx.db[retired].insert(player)


@m.reducer
def rename(ctx: ReducerContext, id: u32, name: str) -> None:
    player = ctx.db[Player].id.get(id)
    player.name = name
    ctx.db[Player].id.update(player)


@m.reducer
def say(ctx: ReducerContext, text: str) -> None:
    ctx.db[Chat].insert(Chat(text=text))


@m.reducer
def collide(ctx: ReducerContext) -> None:
    ctx.db[Player].insert(Player(id=1, name="other", owner=ctx.sender))


@m.reducer
def plan(ctx: ReducerContext, seconds: float, action: str) -> None:
    ctx.db[Job].insert(Job(scheduled_at=after(ctx, seconds=seconds), action=action))


@m.reducer
def plan_often(ctx: ReducerContext, seconds: float, action: str) -> None:
    ctx.db[Job].insert(Job(scheduled_at=Interval(TimeDuration.seconds(seconds)), action=action))


@m.reducer
def plan_and_fail(ctx: ReducerContext) -> None:
    plan(ctx, 1, "never")
    raise ReducerError("changed my mind")


@m.reducer(on_schedule=Job)
def run_job(ctx: ReducerContext, job: Job) -> None:
    if job.action == "refuse":
        raise ReducerError("refused")
    if job.action == "break":
        raise RuntimeError("broken")
    if job.action == "again":
        job.scheduled_at, job.action = after(ctx, seconds=1), "second"
        ctx.db[Job].scheduled_id.update(job)
    ctx.db[Visit].insert(Visit(what=f"{job.action} at {(ctx.timestamp - START).micros}", who=ctx.sender))


@m.view
def named(ctx: AnonymousViewContext) -> list[Player]:
    return list(ctx.db[Player].name.filter(ge="M"))


@m.view
def mine(ctx: ViewContext) -> Player | None:
    return next((p for p in ctx.db[Player].iter() if p.owner == ctx.sender), None)


@m.view
def early(ctx: AnonymousViewContext) -> Query[Player]:
    return Player.id < 2


ALICE, BOB = TestHost.identity("alice"), TestHost.identity("bob")
START = TestHost(m).now


@pytest.fixture
def host() -> TestHost:
    made = TestHost(m)
    made.connect(ALICE)
    return made


def visits(host: TestHost) -> list[str]:
    return [v.what for v in sorted(host.db[Visit].iter(), key=lambda v: v.id)]


def test_init_runs_as_the_owner() -> None:
    host = TestHost(m)
    assert [(v.what, v.who) for v in host.db[Visit].iter()] == [("init", host.owner)]


def test_an_init_that_raises() -> None:
    module = Module()

    @module.init
    def init(ctx: ReducerContext) -> None:
        raise ReducerError("cannot start")

    with pytest.raises(ReducerError, match="cannot start"):
        TestHost(module)


def test_a_call_gives_what_changed(host: TestHost) -> None:
    delta = host.call(ALICE, add, "Ann", times=2)
    assert [(p.id, p.name, p.owner) for p in delta[Player].inserts] == [(1, "Ann", ALICE), (2, "Ann", ALICE)]
    assert delta[Player].deletes == []
    assert delta[Visit].inserts == []
    moved = host.call(ALICE, retire, 1)
    assert (len(moved[Player].deletes), len(moved[retired].inserts)) == (1, 1)
    assert (host.db[Player].count(), host.db[retired].count()) == (1, 1)
    assert host.call(ALICE, say, "hi")[Chat].inserts == [Chat(text="hi")]
    assert host.db[Chat].count() == 0


def test_exceptions_arrive_as_they_are_and_leave_nothing(host: TestHost) -> None:
    host.log.clear()
    with pytest.raises(ReducerError, match="a name, please"):
        host.call(ALICE, add, "")
    host.call(ALICE, add, "Ann")
    with pytest.raises(UniqueViolation):
        host.call(ALICE, collide)
    with pytest.raises(ReducerError):
        host.call(ALICE, plan_and_fail)
    assert host.db[Player].count() == 1
    assert host.db[Job].count() == 0
    assert [line["level"] for line in host.log] == ["Error", "Info", "Panic", "Error"]
    assert host.log[1]["message"] == "added Ann"


def test_wrong_calls(host: TestHost) -> None:
    with pytest.raises(ValueError, match="times"):
        host.call(ALICE, add, "Ann", 256)
    with pytest.raises(TypeError, match="too many positional arguments"):
        host.call(ALICE, add, "Ann", 1, 2)  # type: ignore[call-arg]
    with pytest.raises(LookupError, match="no such reducer"):
        host.call(ALICE, run_job, Job(scheduled_at=Interval(TimeDuration(1)), action=""))
    with pytest.raises(LookupError, match="lifecycle"):
        host.call(ALICE, init)
    with pytest.raises(LookupError, match="is no reducer"):
        host.call(ALICE, lambda ctx: None)
    with pytest.raises(ValueError, match="connected already"):
        host.connect(ALICE)
    with pytest.raises(ValueError, match="not connected"):
        host.disconnect(BOB)
    with pytest.raises(ValueError, match="forward"):
        host.advance(-1)


def test_the_owner_may_call_what_is_private(host: TestHost) -> None:
    host.call(host.owner, run_job, Job(scheduled_at=Interval(TimeDuration(1)), action="by hand"))
    assert any(v.startswith("by hand") for v in visits(host))


def test_clients_come_and_go(host: TestHost) -> None:
    host.connect(BOB)
    host.disconnect(ALICE)
    assert visits(host) == ["init", "in", "in", "out"]
    with pytest.raises(ReducerError, match="go away"):
        host.connect(ALICE, claims={"sub": "unwanted"})
    assert visits(host) == ["init", "in", "in", "out"]
    host.call(ALICE, add, "Ann", 1)  # not connected: as over HTTP
    assert visits(host)[4:] == ["in", "out"]


def test_a_client_that_cannot_leave_is_gone_all_the_same(host: TestHost) -> None:
    host.call(ALICE, add, "fails", 1)
    host.disconnect(ALICE)
    assert [str(f) for f in host.failures] == ["cannot leave"]
    assert visits(host) == ["init", "in"]
    host.connect(ALICE)


def test_the_clock_runs_schedules(host: TestHost) -> None:
    host.call(ALICE, plan, 2.0, "once")
    host.call(ALICE, plan_often, 1.0, "tick")
    began = host.now
    assert host.advance(seconds=0.9) == []
    deltas = host.advance(seconds=2.2)
    assert host.now - began == TimeDuration.seconds(3.1)
    assert [delta[Visit].inserts[0].what.split()[0] for delta in deltas if delta[Visit].inserts] == [
        "tick",
        "tick",
        "once",
        "tick",
    ]
    assert [j.action for j in host.db[Job].iter()] == ["tick"]
    times = [int(v.split()[-1]) for v in visits(host) if v.startswith("tick")]
    assert all(abs(t - second * 1_000_000) < 100 for t, second in zip(times, (1, 2, 3), strict=True))


def test_a_run_may_set_its_row_a_new_time(host: TestHost) -> None:
    host.call(ALICE, plan, 1.0, "again")
    host.advance(5)
    assert len([v for v in visits(host) if v.startswith("second")]) == 2
    assert host.db[Job].count() == 0


def test_scheduled_runs_that_fail(host: TestHost) -> None:
    host.call(ALICE, plan, 1.0, "refuse")
    host.advance(2)
    assert [str(f) for f in host.failures] == ["refused"]
    assert host.db[Job].count() == 0
    host.call(ALICE, plan, 1.0, "break")
    host.call(ALICE, plan, 1.5, "fine")
    with pytest.raises(RuntimeError, match="broken"):
        host.advance(2)
    assert any(v.startswith("fine") for v in visits(host))


def test_a_schedule_that_lets_no_time_pass(host: TestHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spacetimedb.testing.host.MAX_RUNS_PER_ADVANCE", 100)
    host.call(ALICE, plan_often, 0.000001, "tick")
    with pytest.raises(RuntimeError, match="more than 100 scheduled runs"):
        host.advance(1)


@pytest.mark.parametrize("crash", [False, True])
def test_restart(host: TestHost, crash: bool) -> None:
    host.call(ALICE, add, "Ann", 2)
    host.call(ALICE, say, "hi")
    host.call(ALICE, plan, 5.0, "once")
    host.restart(crash=crash)
    assert [p.name for p in host.db[Player].iter()] == ["Ann", "Ann"]
    assert [v.split()[0] for v in visits(host)] == ["init", "in", "out"]
    host.connect(ALICE)
    delta = host.call(ALICE, add, "Bob", 1)
    assert delta[Player].inserts[0].id == 4097  # generation goes on behind what was reserved
    host.advance(6)
    assert visits(host)[-1].startswith("once")
    host.restart(crash=crash)
    assert host.db[Player].count() == 3


def test_subscriptions(host: TestHost) -> None:
    host.connect(BOB)
    host.call(ALICE, add, "Ann", 2)
    everything = host.subscribe(BOB, "SELECT * FROM player", "SELECT * FROM chat")
    named_zoe = host.subscribe(ALICE, "SELECT * FROM player WHERE name = 'Zoe'")
    assert [p.id for p in everything.rows(Player)] == [1, 2]
    assert named_zoe.rows(Player) == []
    host.call(ALICE, rename, 2, "Zoe")
    assert sorted(p.name for p in everything.rows(Player)) == ["Ann", "Zoe"]
    assert [p.name for p in named_zoe.rows(Player)] == ["Zoe"]
    (message,) = everything.messages
    assert [p.name for p in message[Player].deletes + message[Player].inserts] == ["Ann", "Zoe"]
    host.call(BOB, say, "hello")
    assert everything.messages[1][Chat].inserts == [Chat(text="hello")]
    assert everything.rows(Chat) == []
    assert len(named_zoe.messages) == 1
    host.call(ALICE, retire, 2)
    assert named_zoe.rows(Player) == []
    everything.close()
    host.call(ALICE, add, "Eve", 1)
    assert (len(everything.messages), everything.rows(Player)) == (3, [])
    host.disconnect(ALICE)
    host.call(BOB, add, "Zoe", 1)
    assert len(named_zoe.messages) == 2


def test_what_cannot_be_subscribed_to(host: TestHost) -> None:
    with pytest.raises(SqlError, match="no such table: `visit`"):
        host.subscribe(ALICE, "SELECT * FROM visit")
    with pytest.raises(ValueError, match="not connected"):
        host.subscribe(BOB, "SELECT * FROM player")


def test_views(host: TestHost) -> None:
    host.call(ALICE, add, "Ann", 1)
    host.call(BOB, add, "Zoe", 1)
    assert [p.name for p in host.view(named)] == ["Zoe"]
    found = host.view(mine, BOB)
    assert found is not None
    assert found.name == "Zoe"
    assert host.view(mine, host.owner) is None
    assert [p.name for p in host.view(early)] == ["Ann"]
    with pytest.raises(TypeError, match="which identity"):
        host.view(mine)
    with pytest.raises(LookupError, match="no view"):
        host.view(lambda ctx: None)


def test_every_call_has_a_later_timestamp(host: TestHost) -> None:
    for _ in range(3):
        host.call(ALICE, plan, 10.0, "x")
    due = [int(j.scheduled_at.value) for j in sorted(host.db[Job].iter(), key=lambda j: j.scheduled_id)]
    assert due == sorted(set(due))


def test_every_call_has_its_own_chance() -> None:
    module = Module()

    @module.table()
    class Drawn(Row):
        id: Pk[u32] = auto_inc()
        number: u64
        four: Uuid
        seven: Uuid

    @module.reducer
    def draw(ctx: ReducerContext) -> None:
        ctx.db[Drawn].insert(Drawn(number=ctx.rng.getrandbits(64), four=ctx.uuid4(), seven=ctx.uuid7()))

    @module.every(seconds=1)
    def draw_often(ctx: ReducerContext) -> None:
        draw(ctx)

    host = TestHost(module)
    for _ in range(20):
        host.call(ALICE, draw)
    host.advance(20)
    rows = sorted(host.db[Drawn].iter(), key=lambda row: row.id)
    assert len(rows) == 40
    for values in ([row.number for row in rows], [row.four for row in rows], [row.seven for row in rows]):
        assert len(set(values)) == 40


def test_an_author_hears_once_of_a_view_that_reads_a_whole_table(host: TestHost) -> None:
    for who in (ALICE, BOB):
        host.view(mine, who)
        host.view(named)
    told = [(line["level"], line["function"]) for line in host.log if "reads all rows of `player`" in line["message"]]
    assert told == [("Debug", "mine")]
