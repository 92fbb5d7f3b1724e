"""The module that the official client is tested against: one table or reducer for each thing a game does."""

from spacetimedb import (
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
    u32,
    u64,
)

m = Module()


@m.table(public=True)
class Item(Row):
    id: Pk[u64] = auto_inc()
    name: Unique[str]
    level: Index[u32]


@m.table(public=True, event=True)
class Shout(Row):
    sender: Identity
    text: str


@m.table(public=True)
class Beat(Row):
    id: Pk[u32]
    count: u32


@m.table()
class BeatTimer(Schedule):
    beat_id: u32


@m.table(public=True)
class Visitor(Row):
    identity: Pk[Identity]
    visits: u32
    online: bool


@m.table(public=True)
class Ballast(Row):
    id: Pk[u32]
    data: str


@m.client_connected
def connected(ctx: ReducerContext) -> None:
    visitors = ctx.db[Visitor].identity
    visitor = visitors.find(ctx.sender)
    if visitor is None:
        ctx.db[Visitor].insert(Visitor(identity=ctx.sender, visits=1, online=True))
    else:
        visitor.visits += 1
        visitor.online = True
        visitors.update(visitor)


@m.client_disconnected
def disconnected(ctx: ReducerContext) -> None:
    visitor = ctx.db[Visitor].identity.get(ctx.sender)
    visitor.online = False
    ctx.db[Visitor].identity.update(visitor)


@m.reducer
def add_item(ctx: ReducerContext, name: str, level: u32) -> None:
    ctx.db[Item].insert(Item(name=name, level=level))


@m.reducer
def set_level(ctx: ReducerContext, name: str, level: u32) -> None:
    item = ctx.db[Item].name.get(name)
    item.level = level
    ctx.db[Item].id.update(item)


@m.reducer
def remove_item(ctx: ReducerContext, name: str) -> None:
    ctx.db[Item].name.delete(name)


@m.reducer
def add_item_or_say(ctx: ReducerContext, name: str) -> None:
    if ctx.db[Item].try_insert(Item(name=name, level=1)) is None:
        raise ReducerError(f"there is a {name} already")


@m.reducer
def fail(ctx: ReducerContext, text: str) -> None:
    ctx.db[Item].insert(Item(name=f"never {text}", level=0))
    raise ReducerError(text)


@m.reducer
def crash(ctx: ReducerContext) -> None:
    raise ValueError("inner workings that no client may see")


@m.reducer
def shout(ctx: ReducerContext, text: str) -> None:
    ctx.db[Shout].insert(Shout(sender=ctx.sender, text=text))


@m.reducer
def start_beat(ctx: ReducerContext, id: u32, milliseconds: u32) -> None:
    ctx.db[Beat].insert(Beat(id=id, count=0))
    ctx.db[BeatTimer].insert(BeatTimer(scheduled_at=every(milliseconds), beat_id=id))


@m.reducer
def stop_beat(ctx: ReducerContext, id: u32) -> None:
    for timer in ctx.db[BeatTimer].iter():
        if timer.beat_id == id:
            ctx.db[BeatTimer].scheduled_id.delete(timer.scheduled_id)


@m.reducer(on_schedule=BeatTimer)
def beat(ctx: ReducerContext, timer: BeatTimer) -> None:
    row = ctx.db[Beat].id.get(timer.beat_id)
    row.count += 1
    ctx.db[Beat].id.update(row)


@m.reducer
def set_ballast(ctx: ReducerContext, rows: u32, size: u32, mark: str) -> None:
    """Rewrites `rows` rows of `size` characters each: bytes for a client that does not read."""
    for number in range(rows):
        ctx.db[Ballast].id.upsert(Ballast(id=number, data=mark * size))
