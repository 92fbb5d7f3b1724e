"""Load test module `pings`: everybody has a row of their own (driven by the scenarios in scripts/loads)."""

from spacetimedb import Identity, Module, Pk, ReducerContext, Row, Timestamp, u32

m = Module()


@m.table(public=True)
class Ping(Row):
    who: Pk[Identity]
    at: Timestamp
    n: u32 = 0


@m.reducer
def ping(ctx: ReducerContext) -> None:
    """Counts, and stamps the caller's row with the time of the call."""
    mine = ctx.db[Ping].who.find(ctx.sender)
    if mine is None:
        ctx.db[Ping].insert(Ping(who=ctx.sender, at=ctx.timestamp, n=1))
        return
    mine.at = ctx.timestamp
    mine.n += 1
    ctx.db[Ping].who.update(mine)
