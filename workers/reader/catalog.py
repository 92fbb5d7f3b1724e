"""What a reader knows of a database's schema: ids of reducers and tables, and the tables that a caller may read."""

from __future__ import annotations

from spacetimedb.hosts.mail import GENERATIONS
from spacetimedb.schema.definition import ModuleDef
from spacetimedb.schema.raw import decode_raw
from spacetimedb.schema.validation import validate
from spacetimedb.sql.catalog import SchemaCatalog
from spacetimedb.types.json_arguments import ArgumentsDecoder
from spacetimedb.types.sats_json import row_to_json
from spacetimedb.types.special import Identity
from spacetimedb.workers.messages import DatabaseUp


class DatabaseCatalog:
    """Made anew for every program that the database runs."""

    def __init__(self, up: DatabaseUp) -> None:
        self.definition: ModuleDef = validate(decode_raw(up.definition))
        self.table_ids = up.table_ids
        self.owner = Identity(up.owner)
        self.generation = up.generation
        self.generation_bits = (up.generation % GENERATIONS) << 3
        self.reducers = {r.name: r for r in self.definition.all_reducers}
        self.reducer_names = [r.name for r in self.definition.all_reducers]
        """By id."""
        self.reducer_ids = {r.name: i for i, r in enumerate(self.definition.all_reducers)}
        self.procedures = {p.name: p for p in self.definition.all_procedures}
        self._decoders: dict[tuple[str, str], ArgumentsDecoder] = {}
        self._public = SchemaCatalog(self.definition, up.table_ids, owner=False)
        self._all = SchemaCatalog(self.definition, up.table_ids, owner=True)

        tables = [table for table in self._all.all() if not table.is_view]
        self.stored_tables = {table.table_id for table in tables}
        """Ids of the tables, without views."""
        self.fixed_size_tables = {table.table_id for table in tables if table.layout.row_size is not None}
        """Those whose rows all have one length."""

    def for_caller(self, identity: Identity) -> SchemaCatalog:
        """The tables this caller may name."""
        return self._all if identity == self.owner else self._public

    def decoder(self, kind: str, name: str) -> ArgumentsDecoder:
        """Decodes the JSON arguments of a `reducer` or `procedure`."""
        found = self._decoders.get((kind, name))
        if found is None:
            function = self.reducers[name] if kind == "reducer" else self.procedures[name]
            found = self._decoders[kind, name] = ArgumentsDecoder(
                name, function.declared_params, self.definition.typespace_of(name)
            )
        return found

    def result_to_json(self, procedure: str, value: bytes) -> str:
        """JSON of a procedure's result."""
        returned = self.procedures[procedure].declared_return_type
        return row_to_json(returned, typespace=self.definition.typespace_of(procedure))(value, 0)[0]
