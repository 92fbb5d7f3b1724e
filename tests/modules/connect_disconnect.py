"""Port of upstream's module `sdk-test-connect-disconnect`: lifecycle reducers leave a row each."""

from spacetimedb import Identity, Module, ReducerContext, Row

m = Module()


@m.table(public=True)
class Connected(Row):
    identity: Identity


@m.table(public=True)
class Disconnected(Row):
    identity: Identity


@m.client_connected
def identity_connected(ctx: ReducerContext) -> None:
    ctx.db[Connected].insert(Connected(identity=ctx.sender))


@m.client_disconnected
def identity_disconnected(ctx: ReducerContext) -> None:
    ctx.db[Disconnected].insert(Disconnected(identity=ctx.sender))
