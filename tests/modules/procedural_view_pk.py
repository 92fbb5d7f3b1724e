"""Port of upstream's module `sdk-test-procedural-view-pk`: views that return rows and name a primary key."""

from spacetimedb import Identity, Index, Module, Pk, ReducerContext, Row, ViewContext, u64

m = Module()


@m.table(public=True)
class LeftSource(Row):
    id: Pk[u64]
    sender: Index[Identity]
    filter: u64


@m.table(public=True)
class RightSource(Row):
    id: Pk[u64]
    sender: Index[Identity]
    filter: u64


@m.reducer
def insert_left(ctx: ReducerContext, id: u64, filter: u64) -> None:
    ctx.db[LeftSource].insert(LeftSource(id=id, sender=ctx.sender, filter=filter))


@m.reducer
def update_left(ctx: ReducerContext, id: u64, filter: u64) -> None:
    ctx.db[LeftSource].id.update(LeftSource(id=id, sender=ctx.sender, filter=filter))


@m.reducer
def insert_right(ctx: ReducerContext, id: u64, filter: u64) -> None:
    ctx.db[RightSource].insert(RightSource(id=id, sender=ctx.sender, filter=filter))


@m.view(primary_key="id")
def sender_left_view(ctx: ViewContext) -> list[LeftSource]:
    return list(ctx.db[LeftSource].sender.filter(ctx.sender))


@m.view(primary_key="id")
def sender_right_view(ctx: ViewContext) -> list[RightSource]:
    return list(ctx.db[RightSource].sender.filter(ctx.sender))
