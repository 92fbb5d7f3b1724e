"""SQL statements that change rows, run by the transaction actor inside a transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from spacetimedb.hosts.mail import ROW_COUNTS
from spacetimedb.schema.system_tables import ST_VAR_ID
from spacetimedb.sql.catalog import SchemaCatalog
from spacetimedb.sql.errors import SqlError
from spacetimedb.sql.plan import DeletePlan, ExplainPlan, InsertPlan, SelectPlan, SetPlan, UpdatePlan, plan_sql
from spacetimedb.sql.predicate import Matches
from spacetimedb.store.table import Table
from spacetimedb.types.special import Identity

if TYPE_CHECKING:
    from spacetimedb.hosts.database import Database

VALUE_U64: Final = 8
"""Tag of U64 among the types that a system variable can have."""


def run_statement(database: Database, text: str, identity: Identity, is_owner: bool) -> bytes:
    """Runs one statement in the present transaction; returns the three row counts. Raises SqlError, UniqueViolation."""
    catalog = SchemaCatalog(database.definition, database.table_ids, owner=is_owner)
    plan = plan_sql(text, catalog, identity, is_owner)
    inserted = deleted = updated = 0
    match plan:
        case InsertPlan(ref, rows):
            table = database.store.tables[ref.table_id]
            before = table.row_count
            for row in rows:
                table.handle.insert(table.decode(row))
            inserted = table.row_count - before
        case DeletePlan(ref, matches, _):
            table = database.store.tables[ref.table_id]
            for image in _matching(table, matches):
                deleted += table.handle.delete(table.decode(image))
        case UpdatePlan(ref, matches, _, _, replace):
            table = database.store.tables[ref.table_id]
            images = _matching(table, matches)
            for image in images:
                table.handle.delete(table.decode(image))
            for image in images:
                table.handle.insert(table.decode(replace(image)))
            updated = len(images)
        case SetPlan(variable, value):
            table = database.store.tables[ST_VAR_ID]
            table.handle.insert(table.row_class(name=variable, value=(VALUE_U64, value)))
            inserted = 1
        case SelectPlan() | ExplainPlan():
            raise SqlError("a SELECT does not change rows")
    return ROW_COUNTS.pack(inserted, deleted, updated)


def _matching(table: Table, matches: Matches | None) -> list[bytes]:
    """Rows as they were before the statement."""
    images = table.images()
    return images if matches is None else [image for image in images if matches(image)]
