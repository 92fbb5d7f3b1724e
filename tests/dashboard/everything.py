"""A module with all that the dashboard shows: every column type, keys, a schedule, a view, events, kinds of calls."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, TypeAlias

from spacetimedb import (
    AnonymousViewContext,
    ConnectionId,
    Identity,
    Index,
    Module,
    Pk,
    ProcedureContext,
    ReducerContext,
    ReducerError,
    Row,
    Schedule,
    Struct,
    Sum,
    TimeDuration,
    Timestamp,
    Unique,
    Unit,
    Uuid,
    Variant,
    auto_inc,
    default,
    every,
    f32,
    i8,
    i64,
    i128,
    i256,
    u8,
    u16,
    u32,
    u64,
    u128,
    u256,
)

m = Module()


class Rank(IntEnum):
    Novice = 0
    Veteran = 1
    Legend = 2


class Place(Struct):
    x: f32
    y: f32


class Walking(Variant[Place]): ...


class Resting(Variant[u32]): ...


class Away(Unit): ...


State: TypeAlias = Annotated[Walking | Resting | Away, Sum("State")]


@m.table(public=True)
class Player(Row):
    player_id: Pk[u64] = auto_inc()
    name: Unique[str]
    rank: Rank = Rank.Novice
    score: Index[i64] = default(0)
    state: State = Away()
    nickname: str | None = None
    tags: list[str] = []


@m.table(public=True)
class Item(Row):
    item_id: Pk[u64] = auto_inc()
    player_id: Index[u64]
    kind: str
    amount: u32


@m.table(public=True)
class Everything(Row):
    id: Pk[u32]
    flag: bool
    tiny: i8
    large: u64
    larger: u128
    largest: u256
    deep: i256
    short: f32
    long: float
    text: str
    data: bytes
    who: Identity
    conn: ConnectionId
    at: Timestamp
    lasts: TimeDuration
    uuid: Uuid
    maybe: u32 | None
    rank: Rank
    state: State
    place: Place
    places: list[Place]
    numbers: list[u16]


@m.table(public=True, event=True)
class Shout(Row):
    name: str
    text: str


@m.table()
class Secret(Row):
    key: Pk[str]
    value: str


@m.table()
class Tick(Schedule):
    note: str = ""


@m.init
def init(ctx: ReducerContext) -> None:
    ctx.db[Tick].insert(Tick(scheduled_at=every(3_600_000), note="hourly"))
    ctx.db[Secret].insert(Secret(key="colour", value="mauve"))
    ctx.db[Player].insert(Player(name="Ann", rank=Rank.Legend, score=12, state=Resting(30), tags=["red", "new"]))
    ctx.db[Player].insert(Player(name="Bob", score=7, state=Walking(Place(1.5, -2.0)), nickname="bobby"))
    for kind, amount in (("sword", 1), ("apple", 12), ("coin", 250)):
        ctx.db[Item].insert(Item(player_id=1, kind=kind, amount=amount))
    ctx.db[Everything].insert(
        Everything(
            id=1,
            flag=True,
            tiny=-5,
            large=2**64 - 1,
            larger=2**100 + 1,
            largest=2**255 + 7,
            deep=-(2**200),
            short=0.1,
            long=1 / 3,
            text="naïve 'quoted' text",
            data=b"\x00\xff\x10",
            who=ctx.sender,
            conn=ConnectionId(bytes(range(16))),
            at=Timestamp(1_700_000_000_123_456),
            lasts=TimeDuration(90_500_000),
            uuid=Uuid(bytes(range(16))),
            maybe=None,
            rank=Rank.Veteran,
            state=Walking(Place(3.0, 4.0)),
            place=Place(1.0, 2.0),
            places=[Place(0.0, 0.5)],
            numbers=[1, 2, 65535],
        )
    )


@m.reducer(on_schedule=Tick)
def tick(ctx: ReducerContext, row: Tick) -> None:
    ctx.log.info("tick %s", row.note)


@m.reducer
def join(ctx: ReducerContext, name: str) -> None:
    if not name.strip():
        raise ReducerError("a player needs a name")
    ctx.db[Player].insert(Player(name=name))
    ctx.db[Shout].insert(Shout(name=name, text="joined"))
    ctx.log.info("%s joined", name)


@m.reducer
def set_score(ctx: ReducerContext, player_id: u64, score: i64) -> None:
    player = ctx.db[Player].player_id.get(player_id)
    player.score = score
    ctx.db[Player].player_id.update(player)


@m.reducer
def put(
    ctx: ReducerContext,
    id: u32,
    flag: bool,
    tiny: i8,
    large: u64,
    larger: i128,
    largest: u256,
    long: float,
    text: str,
    data: bytes,
    who: Identity,
    conn: ConnectionId,
    at: Timestamp,
    lasts: TimeDuration,
    maybe: u8 | None,
    rank: Rank,
    state: State,
    states: list[State | None],
    place: Place,
) -> None:
    old = ctx.db[Everything].id.get(1)
    old.id, old.flag, old.tiny, old.large, old.larger, old.largest = id, flag, tiny, large, abs(larger), largest
    old.long, old.text, old.data, old.who, old.conn, old.at, old.lasts = long, text, data, who, conn, at, lasts
    old.maybe, old.rank, old.state, old.place = maybe, rank, state, place
    ctx.db[Everything].insert(old)
    ctx.log.warning("put %d with %d states", id, len(states))


@m.reducer
def grumble(ctx: ReducerContext, text: str) -> None:
    ctx.log.debug("about to grumble")
    ctx.log.error("%s", text)


@m.reducer
def fill(ctx: ReducerContext, count: u32) -> None:
    items = ctx.db[Item]
    for number in range(count):
        items.insert(Item(player_id=number % 1000, kind=f"kind {number % 7}", amount=number))


@m.reducer(private=True)
def reset_scores(ctx: ReducerContext) -> None:
    for player in list(ctx.db[Player].iter()):
        player.score = 0
        ctx.db[Player].player_id.update(player)


@m.procedure
def add(ctx: ProcedureContext, a: u32, b: u32) -> u64:
    return a + b


@m.view(primary_key="player_id")
def leaders(ctx: AnonymousViewContext) -> list[Player]:
    return list(ctx.db[Player].score.filter(ge=10))
