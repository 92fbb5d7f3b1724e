"""Runs a module's migration functions: old rows go in, what they insert stays, in the transaction of the update.

The tables of the new program are in the store already, those that are replaced empty. Afterwards no sequence gives a
number again that a function has put into its column.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from spacetimedb.hosts.migration import Migration, MigrationFailed
from spacetimedb.hosts.module_log import described_error
from spacetimedb.module import Module
from spacetimedb.module.context import ReducerContext
from spacetimedb.module.errors import BudgetExceeded
from spacetimedb.types.bsatn import codec
from spacetimedb.types.special import Timestamp

if TYPE_CHECKING:
    from spacetimedb.hosts.database import Database

ROWS_LIMIT_S: Final = 60.0
"""All migration functions of an update together may take this long."""


def migrate_rows(database: Database, module: Module, migration: Migration) -> None:
    """Calls the functions, in the order in which the module declares them. Raises MigrationFailed."""
    waiting = {(found.table, found.row_type): images for found, images in migration.old_rows()}
    if not waiting:
        return
    store, context = database.store, database.new_context()
    bindings = {spec.key: store.by_name[spec.name] for spec in module.tables}
    context.view_db = store.read_only_db(bindings)
    db: Any = store.db(bindings)
    timestamp = Timestamp(database.timestamp_us())
    ctx = ReducerContext(database.owner, None, timestamp, db, context)
    database.budget.begin_within(ROWS_LIMIT_S)
    try:
        for spec in module.migrations:
            images = waiting.get((spec.table, spec.row_type), ())
            decode = codec(spec.shape).decode_exact
            database.log.function = spec.name
            for image in images:
                row = decode(image)
                try:
                    spec.function(ctx, row)
                except BudgetExceeded:
                    raise
                except Exception as error:
                    text = f"{spec.name} failed for {row!r} of table `{spec.table}`: {described_error(error)}"
                    raise MigrationFailed(text) from error
            if images:
                database.log.system(f"{spec.name} migrated {len(images)} rows of table `{spec.table}`")
    except BudgetExceeded:
        raise MigrationFailed(f"the migration functions took longer than {ROWS_LIMIT_S:g} s") from None
    finally:
        database.budget.end()
        database.log.function = None
    for table in migration.made:
        for part, sequence in zip(table.layout.sequences, table.sequences, strict=True):
            most = max((getattr(row, part.attribute) for row in table.reader.iter()), default=0)
            store.skip_past(sequence, most)
