"""Right uses of the module API: both type checkers accept every line. Also runs."""

from collections.abc import Iterator
from enum import IntEnum
from typing import Annotated, TypeAlias, assert_never, assert_type

from spacetimedb import (
    AnonymousViewContext,
    At,
    Col,
    DirectIndex,
    HashIndex,
    HttpContext,
    Identity,
    Index,
    Interval,
    Module,
    Pk,
    ProcedureContext,
    Query,
    ReducerContext,
    Request,
    Response,
    Row,
    Schedule,
    ScheduleAt,
    Struct,
    Sum,
    TestHost,
    TimeDuration,
    Timestamp,
    Unique,
    Unit,
    Variant,
    ViewContext,
    after,
    at,
    auto_inc,
    btree,
    default,
    every,
    f32,
    replace,
    select,
    u8,
    u16,
    u32,
    u64,
)

m = Module()


class Color(IntEnum):
    RED = 0
    GREEN = 1


class Point(Struct):
    x: f32
    y: f32 = 0.0


class Circle(Variant[f32]): ...


class Nothing(Unit): ...


Shape: TypeAlias = Annotated[Circle | Point | Nothing, Sum("Shape")]


@m.table(public=True)
class Player(Row):
    identity: Pk[Identity]
    player_id: Unique[u32] = auto_inc()
    level: Index[u16] = default(1)
    guild: HashIndex[u64] = default(0)
    slot: DirectIndex[u8]
    name: Col[str] = default("")
    color: Color = Color.RED
    shape: Shape = Nothing()
    tags: list[str] = []
    note: str | None = None
    by_level_and_guild = btree("level", "guild")


logged_out = m.add_table(Player, name="logged_out")


@m.table
class Entity(Row, frozen=True):
    entity_id: Pk[u32] = auto_inc()
    place: Point


@m.table()
class Timer(Schedule):
    label: str = ""


@m.init
def init(ctx: ReducerContext) -> None:
    ctx.db[Timer].insert(Timer(scheduled_at=every(50)))
    ctx.db[Timer].insert(Timer(scheduled_at=at(ctx.timestamp + TimeDuration.seconds(1)), label="once"))
    ctx.db[Timer].insert(Timer(scheduled_at=after(ctx, seconds=5)))


@m.client_connected
def connected(ctx: ReducerContext) -> None:
    if ctx.connection_id is None or ctx.auth.is_internal:
        ctx.log.info("%s", ctx.sender)


@m.reducer
def enter(ctx: ReducerContext, name: str, slot: u8) -> None:
    players = ctx.db[Player]
    player = Player(identity=ctx.sender, name=name, slot=slot)
    assert_type(player.name, str)
    assert_type(player.level, int)
    assert_type(players.insert(player), Player)
    assert_type(players.try_insert(player), Player | None)
    assert_type(players.identity.find(ctx.sender), Player | None)
    assert_type(players.player_id.get(3), Player)
    assert_type(players.level.filter(3), Iterator[Player])
    assert_type(players.level.filter(ge=3, lt=9, reverse=True, limit=2), Iterator[Player])
    assert_type(players.level.delete(gt=100), int)
    assert_type(players.guild.filter(7), Iterator[Player])
    assert_type(players.by_level_and_guild.filter(1, ge=3), Iterator[Player])
    assert_type(players.slot.find(1), Player | None)
    assert_type(players.slot.delete(1), bool)
    assert_type(players.iter(), Iterator[Player])
    assert_type(players.clear(), int)
    assert_type(ctx.sender in players.identity, bool)
    assert_type(replace(player, level=2), Player)
    assert_type(ctx.db.insert(player), Player)
    player.level += 1
    player.note = None
    players.identity.update(player)
    players.identity.upsert(player)
    second = ctx.db[logged_out].identity.find(ctx.sender)
    ctx.db[Player].insert(second or player)
    entity = ctx.db[Entity].insert(Entity(place=Point(1.0, y=2.0)))
    assert_type(entity.place.x, float)
    assert_type(ctx.rng.random(), float)
    top_players(ctx.as_view())
    my_player(ctx.as_view())
    leave(ctx)


@m.reducer(private=True, name="go_away")
def leave(ctx: ReducerContext) -> None:
    for table in (Player, Entity):
        ctx.db[table].clear()


def area(shape: Shape) -> float:
    match shape:
        case Circle(radius):
            assert_type(radius, float)
            return radius * radius
        case Point(x, y):
            return x + y
        case Nothing():
            return 0.0
        case _:
            assert_never(shape)


@m.reducer(on_schedule=Timer)
def tick(ctx: ReducerContext, timer: Timer) -> None:
    when: ScheduleAt = timer.scheduled_at
    match when:
        case Interval(value):
            assert_type(value, TimeDuration)
        case At(value):
            assert_type(value, Timestamp)
    ctx.db[Timer].scheduled_id.delete(timer.scheduled_id)


@m.procedure
def sum_up(ctx: ProcedureContext, a: u32, b: u32) -> u64:
    ctx.with_tx(enter, "Ann", slot=3)
    ctx.sleep(0.5)
    assert_type(ctx.with_tx(lambda tx: tx.db[Player].count()), int)
    return a + b + len(ctx.http.get("https://example.com", timeout=5).text)


@m.view(primary_key="player_id")
def top_players(ctx: AnonymousViewContext) -> list[Player]:
    return list(ctx.db[Player].level.filter(ge=10))


@m.view
def my_player(ctx: ViewContext) -> Player | None:
    return ctx.db[Player].identity.find(ctx.sender)


@m.view
def low_players(ctx: AnonymousViewContext) -> Query[Player]:
    assert_type(select(Player), Query[Player])
    return ((Player.level < 3) & (Player.name == "Ann")) | (Player.player_id >= 7)


@m.view
def placed(ctx: AnonymousViewContext) -> Query[Player]:
    return Player.player_id.semijoin(Entity.entity_id, Entity.entity_id > 3)


@m.http.get("/")
@m.http.post("/hello")
def hello(ctx: HttpContext, req: Request) -> Response:
    count = ctx.with_tx(lambda tx: tx.db[Player].count())
    return Response(f"{req.method} {count}", status=201, headers={"x-a": "b"})


@m.every(ms=50)
def beat(ctx: ReducerContext) -> None: ...


def in_a_test(alice: Identity) -> None:
    host = TestHost(m)
    host.connect(alice)
    delta = host.call(alice, enter, "Ann", 3)
    assert_type(delta[Player].inserts[0], Player)
    assert_type(host.db[Player].count(), int)
    assert_type(host.view(top_players), list[Player])
    assert_type(host.view(my_player, alice), Player | None)
    assert_type(host.view(low_players), list[Player])
    cache = host.subscribe(alice, "SELECT * FROM player")
    assert_type(cache.rows(Player), list[Player])
    assert_type(cache.messages[0][Player].deletes, list[Player])
    host.advance(seconds=5)
    host.restart(crash=True)
    host.disconnect(alice)
