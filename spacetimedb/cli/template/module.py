"""A guest book: who is here, and what they wrote. `spacetime dev` publishes this file whenever it is saved."""

from spacetimedb import (
    ConnectionId,
    Identity,
    Index,
    Module,
    Pk,
    ReducerContext,
    ReducerError,
    Row,
    Timestamp,
    auto_inc,
    u64,
)

m = Module()
MAX_CHARACTERS = 500


@m.table(public=True)
class Message(Row):
    """One entry of the guest book."""

    id: Pk[u64] = auto_inc()
    author: Identity
    name: str
    text: str
    written_at: Timestamp


@m.table(public=True)
class Guest(Row):
    """Somebody who looks at the page right now; one row for each open page."""

    connection: Pk[ConnectionId]
    identity: Index[Identity]


@m.client_connected
def guest_came(ctx: ReducerContext) -> None:
    assert ctx.connection_id is not None
    ctx.db[Guest].insert(Guest(connection=ctx.connection_id, identity=ctx.sender))


@m.client_disconnected
def guest_left(ctx: ReducerContext) -> None:
    assert ctx.connection_id is not None
    ctx.db[Guest].connection.delete(ctx.connection_id)


@m.reducer
def write(ctx: ReducerContext, name: str, text: str) -> None:
    """Adds an entry. What it raises reaches the caller, and nothing has changed."""
    if not text.strip():
        raise ReducerError("write something first")
    if len(text) > MAX_CHARACTERS:
        raise ReducerError(f"at most {MAX_CHARACTERS} characters, please")
    ctx.db[Message].insert(
        Message(author=ctx.sender, name=name.strip() or "somebody", text=text, written_at=ctx.timestamp)
    )
    ctx.log.info("%s wrote %d characters", name, len(text))
