"""What a reader knows of a database's schema: ids of reducers and tables, and the tables that a caller may read."""

from __future__ import annotations

from spacetimedb.schema.definition import ModuleDef
from spacetimedb.schema.raw import decode_raw
from spacetimedb.schema.validation import validate
from spacetimedb.sql.catalog import SchemaCatalog
from spacetimedb.types.special import Identity
from spacetimedb.workers.messages import DatabaseUp


class DatabaseCatalog:
    """Made anew for every program that the database runs."""

    def __init__(self, up: DatabaseUp) -> None:
        self.definition: ModuleDef = validate(decode_raw(up.definition))
        self.table_ids = up.table_ids
        self.owner = Identity(up.owner)
        self.reducer_ids = {r.name: i for i, r in enumerate(self.definition.reducers)}
        self._public = SchemaCatalog(self.definition, up.table_ids, owner=False)
        self._all = SchemaCatalog(self.definition, up.table_ids, owner=True)

    def for_caller(self, identity: Identity) -> SchemaCatalog:
        """The tables this caller may name."""
        return self._all if identity == self.owner else self._public
