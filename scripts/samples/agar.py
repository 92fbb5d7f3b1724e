"""agar.io-like game: one file = one module.

Players steer circles over a square board, eat food and smaller circles, and shrink slowly when they are big. The game's
own schedule moves everything 20 times a second; clients only say which way they want to go.
"""

from spacetimedb import (
    AnonymousViewContext,
    Identity,
    Index,
    Module,
    Pk,
    ReducerContext,
    ReducerError,
    Row,
    Schedule,
    Unique,
    auto_inc,
    every,
    f32,
    u32,
)

m = Module()
WORLD, START_MASS, TARGET_FOOD, MAX_SPEED = 1000.0, 15, 600, 4.0


@m.table(public=True)
class Player(Row):
    identity: Pk[Identity]
    player_id: Unique[u32] = auto_inc()
    name: str = ""
    connections: u32 = 0


logged_out = m.add_table(Player, name="logged_out_player")  # second table, same row type, private


@m.table(public=True)
class Entity(Row):  # everything that has a place and a size
    entity_id: Pk[u32] = auto_inc()
    x: f32
    y: f32
    mass: u32


@m.table(public=True)
class Circle(Row):  # the part of an entity that a player steers
    entity_id: Pk[u32]
    player_id: Index[u32]
    dx: f32 = 0.0
    dy: f32 = 0.0


@m.table(public=True)
class Food(Row):
    entity_id: Pk[u32]


@m.table()
class Score(Row):  # private: shown through the view below
    player_id: Pk[u32]
    name: str
    mass: Index[u32]


@m.table(public=True, event=True)
class Chat(Row):  # broadcast at commit, never stored
    sender: Identity
    name: str
    text: str


@m.table()
class MoveTimer(Schedule): ...


@m.table()
class FoodTimer(Schedule): ...


@m.table()
class ScoreTimer(Schedule): ...


@m.init
def init(ctx: ReducerContext) -> None:
    ctx.db[MoveTimer].insert(MoveTimer(scheduled_at=every(50)))
    ctx.db[FoodTimer].insert(FoodTimer(scheduled_at=every(500)))
    ctx.db[ScoreTimer].insert(ScoreTimer(scheduled_at=every(1000)))


@m.client_connected
def connect(ctx: ReducerContext) -> None:
    player = ctx.db[Player].identity.find(ctx.sender)
    if player is None:
        player = ctx.db[logged_out].identity.find(ctx.sender) or Player(identity=ctx.sender)
        ctx.db[logged_out].identity.delete(ctx.sender)
        player = ctx.db[Player].insert(player)
    player.connections += 1  # one person may have the game open twice
    ctx.db[Player].identity.update(player)


@m.client_disconnected
def disconnect(ctx: ReducerContext) -> None:
    player = me(ctx)
    player.connections -= 1
    if player.connections:
        ctx.db[Player].identity.update(player)
        return
    for c in ctx.db[Circle].player_id.filter(player.player_id):
        remove_circle(ctx, c.entity_id)
    ctx.db[Player].identity.delete(ctx.sender)
    ctx.db[logged_out].insert(player)


def me(ctx: ReducerContext) -> Player:
    player = ctx.db[Player].identity.find(ctx.sender)
    if player is None:
        raise ReducerError("not connected")
    return player


def remove_circle(ctx: ReducerContext, entity_id: int) -> None:
    ctx.db[Circle].entity_id.delete(entity_id)
    ctx.db[Entity].entity_id.delete(entity_id)


@m.reducer
def enter_game(ctx: ReducerContext, name: str) -> None:
    if not 0 < len(name) <= 24:
        raise ReducerError("name must have 1 to 24 characters")
    player = me(ctx)
    player.name = name
    ctx.db[Player].identity.update(player)
    if ctx.db[Circle].player_id.count(player.player_id):  # already on the board: only the name is new
        return
    at = ctx.rng.random
    e = ctx.db[Entity].insert(Entity(x=at() * WORLD, y=at() * WORLD, mass=START_MASS))
    ctx.db[Circle].insert(Circle(entity_id=e.entity_id, player_id=player.player_id))


@m.reducer
def steer(ctx: ReducerContext, dx: f32, dy: f32) -> None:
    norm = max(1.0, (dx * dx + dy * dy) ** 0.5)
    for c in ctx.db[Circle].player_id.filter(me(ctx).player_id):
        c.dx, c.dy = dx / norm, dy / norm
        ctx.db[Circle].entity_id.update(c)


@m.reducer
def say(ctx: ReducerContext, text: str) -> None:
    ctx.db[Chat].insert(Chat(sender=ctx.sender, name=me(ctx).name, text=text[:200]))


@m.reducer(on_schedule=MoveTimer)
def move_all(ctx: ReducerContext, timer: MoveTimer) -> None:
    entities, circles, food = ctx.db[Entity].entity_id, ctx.db[Circle], ctx.db[Food].entity_id
    everything = list(ctx.db[Entity].iter())
    for c in circles.iter():
        e = entities.find(c.entity_id)
        if e is None:  # eaten earlier in this tick
            continue
        speed = MAX_SPEED * (START_MASS / e.mass) ** 0.5
        e.x = min(WORLD, max(0.0, e.x + c.dx * speed))
        e.y = min(WORLD, max(0.0, e.y + c.dy * speed))
        reach = float(e.mass)  # radius squared
        for o in everything:
            near = (o.x - e.x) ** 2 + (o.y - e.y) ** 2 < reach
            edible = near and o.mass * 100 < e.mass * 85 and o.entity_id != e.entity_id
            if edible and entities.delete(o.entity_id):  # False: another circle was first
                if not food.delete(o.entity_id):
                    circles.entity_id.delete(o.entity_id)
                e.mass += o.mass
        entities.update(e)


@m.reducer(on_schedule=FoodTimer)
def spawn_food(ctx: ReducerContext, timer: FoodTimer) -> None:
    for _ in range(TARGET_FOOD - ctx.db[Food].count()):
        x, y = ctx.rng.uniform(0, WORLD), ctx.rng.uniform(0, WORLD)
        e = ctx.db[Entity].insert(Entity(x=x, y=y, mass=ctx.rng.randint(2, 4)))
        ctx.db[Food].insert(Food(entity_id=e.entity_id))


@m.reducer(on_schedule=ScoreTimer)
def keep_score(ctx: ReducerContext, timer: ScoreTimer) -> None:
    scores = ctx.db[Score].player_id
    for p in ctx.db[Player].iter():
        mine = ctx.db[Circle].player_id.filter(p.player_id)
        bodies = [e for c in mine if (e := ctx.db[Entity].entity_id.find(c.entity_id))]
        for e in bodies:
            if e.mass > 10 * START_MASS:  # the big ones starve slowly, so that no winner is for ever
                e.mass -= e.mass // 100
                ctx.db[Entity].entity_id.update(e)
        row = Score(player_id=p.player_id, name=p.name, mass=sum(e.mass for e in bodies))
        if scores.find(p.player_id):
            scores.update(row)
        else:
            ctx.db[Score].insert(row)


@m.view
def leaderboard(ctx: AnonymousViewContext) -> list[Score]:  # re-run once a second: reads only Score
    return list(ctx.db[Score].mass.filter(gt=0, reverse=True, limit=10))
