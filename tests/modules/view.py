"""Port of upstream's module `sdk-test-view`: views that return one row, many, and rows of no table."""

from spacetimedb import (
    AnonymousViewContext,
    Identity,
    Index,
    Module,
    Pk,
    ReducerContext,
    Row,
    Struct,
    Unique,
    ViewContext,
    auto_inc,
    i32,
    u64,
)

m = Module()
SIGHT = 5


@m.table(public=True)
class Player(Row):
    entity_id: Pk[u64] = auto_inc()
    identity: Unique[Identity]


@m.table(public=True)
class PlayerLevel(Row):
    entity_id: Unique[u64]
    level: Index[u64]


@m.table()
class PlayerLocation(Row):
    entity_id: Unique[u64]
    active: Index[bool]
    x: i32
    y: i32


class PlayerAndLevel(Struct):
    entity_id: u64
    identity: Identity
    level: u64


@m.reducer
def insert_player(ctx: ReducerContext, identity: Identity, level: u64) -> None:
    player = ctx.db[Player].insert(Player(identity=identity))
    ctx.db[PlayerLevel].insert(PlayerLevel(entity_id=player.entity_id, level=level))


@m.reducer
def delete_player(ctx: ReducerContext, identity: Identity) -> None:
    player = ctx.db[Player].identity.find(identity)
    if player is not None:
        ctx.db[Player].entity_id.delete(player.entity_id)
        ctx.db[PlayerLevel].entity_id.delete(player.entity_id)


@m.reducer
def move_player(ctx: ReducerContext, dx: i32, dy: i32) -> None:
    """Moves the caller, who is made a player if need be, from 0, 0 the first time."""
    player = ctx.db[Player].identity.find(ctx.sender) or ctx.db[Player].insert(Player(identity=ctx.sender))
    place = ctx.db[PlayerLocation].entity_id.find(player.entity_id)
    if place is None:
        ctx.db[PlayerLocation].insert(PlayerLocation(entity_id=player.entity_id, active=True, x=dx, y=dy))
    else:
        ctx.db[PlayerLocation].entity_id.delete(place.entity_id)
        place.x, place.y = place.x + dx, place.y + dy
        ctx.db[PlayerLocation].insert(place)


@m.view
def my_player(ctx: ViewContext) -> Player | None:
    return ctx.db[Player].identity.find(ctx.sender)


@m.view
def my_player_and_level(ctx: ViewContext) -> PlayerAndLevel | None:
    player = ctx.db[Player].identity.find(ctx.sender)
    level = None if player is None else ctx.db[PlayerLevel].entity_id.find(player.entity_id)
    if player is None or level is None:
        return None
    return PlayerAndLevel(player.entity_id, player.identity, level.level)


@m.view
def players_at_level_0(ctx: AnonymousViewContext) -> list[Player]:
    found = (ctx.db[Player].entity_id.find(level.entity_id) for level in ctx.db[PlayerLevel].level.filter(0))
    return [player for player in found if player is not None]


@m.view
def nearby_players(ctx: ViewContext) -> list[PlayerLocation]:
    """Where the other active players in sight are."""
    player = ctx.db[Player].identity.find(ctx.sender)
    mine = None if player is None else ctx.db[PlayerLocation].entity_id.find(player.entity_id)
    if mine is None:
        return []
    return [
        place
        for place in ctx.db[PlayerLocation].active.filter(True)
        if place.entity_id != mine.entity_id and abs(place.x - mine.x) < SIGHT and abs(place.y - mine.y) < SIGHT
    ]
