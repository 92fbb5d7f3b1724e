"""The ten-line module of the README: a public notebook."""

from spacetimedb import Identity, Module, Pk, ReducerContext, Row, auto_inc, u64

m = Module()


@m.table(public=True)
class Note(Row):
    id: Pk[u64] = auto_inc()
    author: Identity
    text: str


@m.reducer
def write(ctx: ReducerContext, text: str) -> None:
    ctx.db[Note].insert(Note(author=ctx.sender, text=text))
