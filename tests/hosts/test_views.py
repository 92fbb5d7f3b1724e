"""Views through the core of a database: what subscribers hold is what the views would show, whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacetimedb import (
    AnonymousViewContext,
    Identity,
    Index,
    Module,
    Pk,
    Query,
    ReducerContext,
    ReducerError,
    Row,
    Struct,
    TestHost,
    Unique,
    ViewContext,
    f32,
    i32,
    u32,
)
from spacetimedb.hosts.view_evaluation import ViewFailed
from spacetimedb.hosts.views import FIRST_INSTANCE_ID
from spacetimedb.sql.errors import SqlError
from spacetimedb.store.commit_record import COMMIT, UNLOGGED, changes, header, log_payload

m = Module()


@m.table(public=True)
class Item(Row):
    id: Pk[u32]
    owner: Index[Identity]
    score: Index[i32]
    weight: f32 = 0.0


@m.table()
class Tag(Row):
    id: Pk[u32]
    item: Index[u32]
    name: str


@m.table()
class Pair(Row):
    left: Index[u32]
    right: u32


@m.table()
class Setting(Row):
    id: Pk[u32]
    value: i32


class Total(Struct):
    name: str
    value: float


@m.reducer
def change(ctx: ReducerContext, steps: list[list[i32]]) -> None:
    for kind, a, b in steps:
        if kind == 0:
            ctx.db[Item].id.upsert(Item(id=a, owner=PEOPLE[b % 2], score=b, weight=b / 10))
        elif kind == 1:
            ctx.db[Item].id.delete(a)
        elif kind == 2:
            ctx.db[Tag].id.upsert(Tag(id=a, item=abs(b), name=str(b % 3)))
        elif kind == 3:
            ctx.db[Tag].id.delete(a)
        elif kind == 4:
            ctx.db[Pair].insert(Pair(left=a, right=abs(b)))
        elif kind == 5:
            ctx.db[Pair].delete(Pair(left=a, right=abs(b)))
        elif kind == 6:
            ctx.db[Setting].id.upsert(Setting(id=0, value=b))
        elif kind == 7:
            ctx.db[Item].clear()
        elif kind == 8:
            raise ReducerError("no")
        elif kind == 9:
            for item in ctx.db[Item].iter():
                item.score += 1
                ctx.db[Item].id.update(item)


@m.view
def mine(ctx: ViewContext) -> list[Item]:
    return list(ctx.db[Item].owner.filter(ctx.sender))


@m.view(primary_key="id")
def best(ctx: AnonymousViewContext) -> list[Item]:
    return list(ctx.db[Item].score.filter(ge=3))


@m.view
def second(ctx: AnonymousViewContext) -> Item | None:
    return ctx.db[Item].id.find(2)


@m.view
def totals(ctx: AnonymousViewContext) -> list[Total]:
    items = list(ctx.db[Item].iter())
    return [Total(name="all", value=sum(i.weight for i in items)), Total(name="pairs", value=ctx.db[Pair].count())]


@m.view
def low(ctx: AnonymousViewContext) -> Query[Item]:
    return Item.score < 0


@m.view
def below(ctx: AnonymousViewContext) -> Query[Item]:
    setting = ctx.db[Setting].id.find(0)
    return Item.score < (setting.value if setting else 0)


@m.view
def tagged(ctx: AnonymousViewContext) -> Query[Item]:
    return Item.id.semijoin(Tag.item)


@m.view
def partners(ctx: AnonymousViewContext) -> list[Pair]:
    return [pair for item in ctx.db[Item].score.filter(1) for pair in ctx.db[Pair].left.filter(item.id)]


@m.view
def named_like_mine(ctx: ViewContext) -> list[Tag]:
    found: list[Tag] = []
    for item in ctx.db[Item].owner.filter(ctx.sender):
        found += ctx.db[Tag].item.filter(item.id)
    return found


PEOPLE = [TestHost.identity("alice"), TestHost.identity("bob")]
VIEWS: list[Callable[[Any], Any]] = [mine, best, second, totals, low, below, tagged, partners, named_like_mine]


def shown(host: TestHost, view: Callable[[Any], Any], who: Identity) -> list[str]:
    """What the view shows now."""
    found = host.view(view, who)
    rows = found if isinstance(found, list) else [] if found is None else [found]
    return sorted({repr(row) for row in rows})


def check(host: TestHost) -> None:
    """Nothing in the store or heap is lost or kept too long."""
    database = host._database
    database.store._check()
    heap = database.heap
    heap.seal(1)
    heap.reclaim(1)
    live = [ref for table in database.store.tables.values() for ref in table.refs_by_key.values()]
    live += [ref for instance in database.views._by_id.values() for ref in instance.rows.values()]
    heap._check(live)


step = st.tuples(st.integers(0, 9), st.integers(0, 4), st.integers(-5, 8)).map(list)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(step, min_size=1, max_size=5), max_size=25), st.data())
def test_subscribers_hold_what_the_views_show(calls: list[list[list[int]]], data: st.DataObject) -> None:
    host = TestHost(m)
    for who in PEOPLE:
        host.connect(who)
    held: dict[tuple[Any, Identity], Any] = {}
    for steps in calls:
        toggled = data.draw(st.tuples(st.sampled_from(VIEWS), st.sampled_from(PEOPLE)))
        if toggled in held:
            held.pop(toggled).close()
        else:
            held[toggled] = host.subscribe(toggled[1], f"SELECT * FROM {toggled[0].__name__}")
        try:
            host.call(data.draw(st.sampled_from(PEOPLE)), change, steps)
        except ReducerError:
            pass
        for (view, who), cache in held.items():
            assert sorted(map(repr, cache.rows(view))) == shown(host, view, who), view.__name__
    for cache in held.values():
        cache.close()
    database = host._database
    assert database.views.statistics() | {"runs": 0} == {"instances": 0, "rows": 0, "runs": 0, "tables": 0, "keys": 0}
    assert database.commit == database.store.commit
    check(host)


@pytest.fixture
def host() -> TestHost:
    made = TestHost(m)
    for who in PEOPLE:
        made.connect(who)
    return made


def runs(host: TestHost) -> int:
    return host._database.views.runs


ALICE, BOB = PEOPLE


def test_what_nobody_uses_does_not_run(host: TestHost) -> None:
    cache = host.subscribe(ALICE, "SELECT * FROM best")
    assert runs(host) == 1
    host.call(ALICE, change, [[0, 1, 5]])
    assert runs(host) == 2
    cache.close()
    host.call(ALICE, change, [[0, 1, 6]])
    assert runs(host) == 2
    again = host.subscribe(ALICE, "SELECT * FROM best")
    assert [item.score for item in again.rows(best)] == [6]


def test_an_instance_is_shared(host: TestHost) -> None:
    caches = [host.subscribe(who, "SELECT * FROM best") for who in (ALICE, BOB, ALICE)]
    host.call(ALICE, change, [[0, 1, 5]])
    assert runs(host) == 2
    assert host._database.views.statistics()["instances"] == 1
    host.disconnect(ALICE)
    host.call(BOB, change, [[0, 2, 5]])
    assert len(caches[1].rows(best)) == 2


def test_only_the_sender_concerned_is_run(host: TestHost) -> None:
    for who in PEOPLE:
        host.subscribe(who, "SELECT * FROM mine")
    before = runs(host)
    host.call(ALICE, change, [[0, 1, 2]])
    assert runs(host) == before + 1


def test_a_query_over_one_table_is_not_run_again(host: TestHost) -> None:
    cache = host.subscribe(ALICE, "SELECT * FROM below")
    host.call(ALICE, change, [[0, 1, -1], [0, 2, 1]])
    assert runs(host) == 1
    assert [item.id for item in cache.rows(below)] == [1]
    host.call(ALICE, change, [[6, 0, 2]])
    assert runs(host) == 2
    assert {item.id for item in cache.rows(below)} == {1, 2}


def test_views_and_tables_join(host: TestHost) -> None:
    cache = host.subscribe(ALICE, "SELECT b.* FROM best b JOIN item i ON b.id = i.id WHERE i.score < 7")
    host.call(ALICE, change, [[0, 1, 5], [0, 2, 8]])
    assert [item.id for item in cache.rows(best)] == [1]


def test_changes_of_views_are_not_logged(host: TestHost) -> None:
    host.subscribe(ALICE, "SELECT * FROM best")
    database = host._database
    who = host._callers[ALICE]
    reducer = database.by_name["change"]
    database.call(who, reducer.id, 0, _args([[0, 1, 5]]))
    (record,) = [r for r in database.out if r[4] == COMMIT]
    entries = changes(record, 0, header(record).table_count)
    assert [(c.table_id >= FIRST_INSTANCE_ID, bool(c.flags & UNLOGGED)) for c in entries] == [
        (False, False),
        (True, True),
    ]
    row = entries[1].inserts.data
    assert entries[0].inserts.data == row
    assert bytes(log_payload(record)).count(row) == 1
    host._take()


def _args(steps: list[list[int]]) -> bytes:
    count = len(steps).to_bytes(4, "little")
    return count + b"".join(
        (3).to_bytes(4, "little") + b"".join(n.to_bytes(4, "little", signed=True) for n in one) for one in steps
    )


def test_restart_forgets_instances(host: TestHost) -> None:
    host.subscribe(ALICE, "SELECT * FROM best")
    host.call(ALICE, change, [[0, 1, 5]])
    host.restart(crash=True)
    assert host._database.views.statistics()["instances"] == 0
    host.connect(ALICE)
    assert [i.id for i in host.subscribe(ALICE, "SELECT * FROM best").rows(best)] == [1]


# Views that go wrong

broken = Module()


@broken.table()
class Knob(Row):
    id: Pk[u32]
    mode: str
    other: Unique[u32]


@broken.table()
class Note(Row):
    id: Pk[u32]


@broken.reducer
def turn(ctx: ReducerContext, mode: str) -> None:
    ctx.db[Knob].id.upsert(Knob(id=0, mode=mode, other=0))


@broken.reducer
def note(ctx: ReducerContext, id: u32) -> None:
    ctx.db[Note].insert(Note(id=id))


class Answer(Struct):
    key: u32
    text: str


@broken.view(primary_key="key")
def answers(ctx: AnonymousViewContext) -> list[Answer]:
    knob = ctx.db[Knob].id.find(0)
    mode: str = knob.mode if knob else "fine"
    wrong: Any = {
        "same key": [Answer(key=1, text="a"), Answer(key=1, text="b")],
        "wrong class": [Note(id=1)],
        "wrong value": [Answer(key=-1, text="")],
        "no list": 5,
        "one row": Answer(key=1, text=""),
    }
    if mode == "refuse":
        raise ReducerError("secret")
    if mode == "exit":
        raise SystemExit(3)
    if mode == "write":
        ctx.db[Note].insert(Note(id=9))
    found: list[Answer] = wrong.get(mode, [Answer(key=1, text=mode), Answer(key=1, text=mode)])
    return found


@broken.view
def odd_query(ctx: AnonymousViewContext) -> Query[Note]:
    knob = ctx.db[Knob].id.find(0)
    wrong: Any = {"wrong table": Knob.id < 5, "no query": []}
    return wrong.get(knob.mode if knob else "", Note.id < 5)  # type: ignore[no-any-return]


MODES = ["same key", "wrong class", "wrong value", "no list", "one row", "refuse", "exit", "write"]


@pytest.mark.parametrize("mode", MODES)
def test_a_view_that_fails_stops_the_writer(mode: str) -> None:
    host = TestHost(broken)
    host.connect(ALICE)
    cache = host.subscribe(ALICE, "SELECT * FROM answers")
    assert [a.text for a in cache.rows(answers)] == ["fine"]
    host.log.clear()
    with pytest.raises(BaseException) as caught:  # noqa: PT011  # whatever the view raised
        host.call(ALICE, turn, mode)
    assert not isinstance(caught.value, ViewFailed)
    assert [(line["level"], line["function"]) for line in host.log] == [("Panic", "answers")]
    assert host.db[Knob].count() == 0
    host.call(ALICE, turn, "well")
    assert [a.text for a in cache.rows(answers)] == ["well"]
    check(host)


@pytest.mark.parametrize(("view", "mode"), [*(("answers", mode) for mode in MODES), ("odd_query", "wrong table")])
def test_a_view_that_fails_at_first_is_refused(view: str, mode: str) -> None:
    host = TestHost(broken)
    host.connect(ALICE)
    host.call(ALICE, turn, mode)
    with pytest.raises(SqlError) as caught:
        host.subscribe(ALICE, f"SELECT * FROM {view}")
    assert str(caught.value) == f"Error materializing view `{view}`"
    assert host._database.views.statistics()["instances"] == 0
    host.call(ALICE, turn, "well")
    check(host)


def test_what_cannot_be_undone_goes_on() -> None:
    host = TestHost(broken)
    host.connect(ALICE)
    cache = host.subscribe(ALICE, "SELECT * FROM answers")
    database = host._database
    knob = database.store.by_name["knob"]
    knob.handle.insert(Knob(id=0, mode="refuse", other=0))
    database.emit(database.views.commit_regardless(), b"\x20", 0, 0xFFFF, 0, 0, 0xFFFF, 0, 0)
    host._take()
    assert [a.text for a in cache.rows(answers)] == ["fine"], "kept"
    host.call(ALICE, turn, "well")
    assert [a.text for a in cache.rows(answers)] == ["well"]
    check(host)


def test_a_failing_view_tells_clients_nothing() -> None:
    host = TestHost(broken)
    host.connect(ALICE)
    host.subscribe(ALICE, "SELECT * FROM answers")
    database = host._database
    text = (6).to_bytes(4, "little") + b"refuse"
    database.call(host._callers[ALICE], database.by_name["turn"].id, 7, text)
    assert b"secret" not in b"".join(database.out)
    assert b"The instance encountered a fatal error." in database.out[-1]
