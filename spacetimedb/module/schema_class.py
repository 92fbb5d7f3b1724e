"""Tables named in one class, so that type checkers know `ctx.db.player`.

    @m.schema
    class Tables(Schema):
        player = table(Player, public=True)
        logged_out_player = table(Player)

    @m.reducer
    def rename(ctx: ReducerContext[Tables], name: str) -> None:
        player = ctx.db.player.identity.get(ctx.sender)

At run time `ctx.db.player` works for every table of a module, however it was declared, and the class is no more than
the declaration. `ctx.db[Player]` is the first table of that row class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from .columns import IndexDeclaration, MultiIndexMarker
from .context import Db

R = TypeVar("R")


class SchemaTable:
    """What `table` leaves in the class. `key` is what `ctx.db[...]` is asked with, once it is registered."""

    def __init__(
        self, row: type[Any], name: str | None, public: bool, event: bool, durable: bool, indexes: Sequence[Any]
    ) -> None:
        self.row = row
        self.name = name
        self.public = public
        self.event = event
        self.durable = durable
        self.indexes = tuple(i for i in indexes if isinstance(i, IndexDeclaration))
        self.key: object = None


if TYPE_CHECKING:

    class Schema(Db):
        """Base of the class that names the tables."""

else:

    class Schema:
        """Base of the class that names the tables."""


def table(
    row: type[R],
    *,
    public: bool = False,
    name: str | None = None,
    event: bool = False,
    durable: bool = True,
    indexes: Sequence[MultiIndexMarker] = (),
) -> type[R]:
    """A table in a `Schema` class, named like its attribute; the options are those of `m.table`."""
    made: Any = SchemaTable(row, name, public, event, durable, indexes)
    return made  # type: ignore[no-any-return]
