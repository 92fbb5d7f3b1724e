"""Module `churn` of the soak test: two tables that change at random (driven by tests/soak.py)."""

from spacetimedb import Index, Module, Pk, ReducerContext, Row, u32

m = Module()

THINGS = 400
OWNERS = 20
CHUNKS = 10


@m.table(public=True)
class Things(Row):
    id: Pk[u32]
    owner: Index[u32]
    value: u32
    name: str = ""


@m.table(public=True)
class Places(Row):
    id: Pk[u32]
    chunk: Index[u32]


@m.reducer
def churn(ctx: ReducerContext, seed: u32, changes: u32) -> None:
    """Inserts, changes and deletes rows of both tables."""
    things, places = ctx.db[Things], ctx.db[Places]
    draw = ctx.rng.randrange
    for _ in range(changes):
        number = draw(THINGS)
        what = draw(6)
        if what == 0:
            things.id.delete(number)
        elif what == 1:
            places.id.delete(number)
        elif what == 2:
            places.id.upsert(Places(id=number, chunk=draw(CHUNKS)))
        else:
            things.id.upsert(Things(id=number, owner=draw(OWNERS), value=draw(100), name="x" * draw(20)))


@m.reducer
def nothing(ctx: ReducerContext) -> None:
    """A call that only has to be answered."""
