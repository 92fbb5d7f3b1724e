"""A module as docs/modules.md writes it: everything by `from spacetimedb import *`."""
# ruff: noqa: F403, F405

from spacetimedb import *

m = Module()


@m.table(public=True)
class Note(Row):
    id: Pk[u64] = auto_inc()
    text: str


@m.reducer
def write(ctx: ReducerContext, text: str) -> None:
    ctx.db[Note].insert(Note(text=text))


host = TestHost(m)
host.call(TestHost.identity("ann"), write, "Hello")
