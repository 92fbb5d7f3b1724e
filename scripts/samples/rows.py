"""Benchmark module `rows`: large tables, and small changes in them (driven by scripts/bench/subscriptions.mjs)."""

from spacetimedb import Index, Module, Pk, ReducerContext, Row, i64, u32, u64

m = Module()


@m.table(public=True)
class Things(Row):
    """Rows of 24 bytes."""

    id: Pk[u32]
    owner: Index[u32]
    value: u64 = 0
    at: i64 = 0


@m.table(public=True)
class Places(Row):
    """Where a thing is: joined with Things by id."""

    id: Pk[u32]
    chunk: Index[u32]


@m.reducer
def populate(ctx: ReducerContext, first: u32, count: u32, owners: u32) -> None:
    """Inserts `count` things with owners below `owners`; those there before are deleted if `first` is 0."""
    things = ctx.db[Things]
    if not first:
        things.clear()
    for number in range(first, first + count):
        things.insert(Things(id=number, owner=number % owners))


@m.reducer
def place(ctx: ReducerContext, first: u32, count: u32, per_chunk: u32) -> None:
    """Inserts `count` places in chunks of `per_chunk`; those there before are deleted if `first` is 0."""
    places = ctx.db[Places]
    if not first:
        places.clear()
    for number in range(first, first + count):
        places.insert(Places(id=number, chunk=number // per_chunk))


@m.reducer
def touch(ctx: ReducerContext, id: u32) -> None:
    """Counts a thing up."""
    things = ctx.db[Things].id
    thing = things.get(id)
    thing.value += 1
    thing.at = ctx.timestamp.micros
    things.update(thing)


@m.reducer
def move(ctx: ReducerContext, id: u32, chunk: u32) -> None:
    """Puts a thing into another chunk."""
    places = ctx.db[Places].id
    place = places.get(id)
    place.chunk = chunk
    places.update(place)


@m.reducer
def nothing(ctx: ReducerContext) -> None:
    """A call that only has to be answered."""
