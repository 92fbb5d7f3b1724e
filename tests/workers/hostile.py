"""A module that does what modules should not, as its callers ask."""

import json

from spacetimedb import Module, Pk, ReducerContext, ReducerError, Row, u32

m = Module()


@m.table(public=True)
class Notes(Row):
    id: Pk[u32]
    text: str


@m.table(public=True, event=True)
class Rings(Row):
    id: u32


class Unspeakable(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class UnspeakableError(ReducerError):
    """Likewise, meant for the client."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@m.reducer
def keep(ctx: ReducerContext, id: u32, text: str) -> None:
    """Stores a text."""
    ctx.db[Notes].id.upsert(Notes(id=id, text=text))


@m.reducer
def ring(ctx: ReducerContext, id: u32) -> None:
    """An event."""
    ctx.db[Rings].insert(Rings(id=id))


@m.reducer
def size(ctx: ReducerContext, data: bytes) -> None:
    """Stores the length of what came."""
    ctx.db[Notes].id.upsert(Notes(id=0, text=str(len(data))))


@m.reducer
def refuse(ctx: ReducerContext, text: str) -> None:
    """Refuses with the string that the JSON text holds."""
    raise ReducerError(json.loads(text))


@m.reducer
def store(ctx: ReducerContext, text: str) -> None:
    """Stores the string that the JSON text holds."""
    ctx.db[Notes].insert(Notes(id=1000, text=json.loads(text)))


@m.reducer
def log(ctx: ReducerContext, text: str) -> None:
    """Logs the string that the JSON text holds."""
    ctx.log.info(json.loads(text))


@m.reducer
def fail(ctx: ReducerContext) -> None:
    """Fails without a text."""
    raise Unspeakable


@m.reducer
def refuse_silently(ctx: ReducerContext) -> None:
    """Refuses without a text."""
    raise UnspeakableError("x")
