"""Benchmark module `ticker`: entities that move on command (driven by scripts/bench/fanout.mjs)."""

from spacetimedb import Module, Pk, ReducerContext, Row, f32, i64, u32

m = Module()


@m.table(public=True)
class Entities(Row):
    id: Pk[u32]
    x: f32 = 0.0
    y: f32 = 0.0
    at: i64 = 0


@m.reducer
def populate(ctx: ReducerContext, n: u32) -> None:
    """Empties the table and inserts the entities 0..n-1."""
    entities = ctx.db[Entities]
    entities.clear()
    for number in range(n):
        entities.insert(Entities(id=number))


@m.reducer
def tick(ctx: ReducerContext, moved: u32) -> None:
    """Moves the first `moved` entities and stamps them with the time of the call in microseconds."""
    entities, now = ctx.db[Entities].id, ctx.timestamp.micros
    for number in range(moved):
        entity = entities.get(number)
        entity.x += 1.0
        entity.y += 0.5
        entity.at = now
        entities.update(entity)
