"""The catalog of a module's definition: who sees what, system tables, rules."""

from __future__ import annotations

import pytest

from spacetimedb import Identity, Module, Pk, Row, u32
from spacetimedb.schema.definition import ModuleDef
from spacetimedb.schema.validation import validate
from spacetimedb.sql.catalog import SchemaCatalog
from spacetimedb.sql.errors import SqlError
from spacetimedb.sql.plan import SelectPlan, plan_sql, plan_subscription, protected_table
from sql.sample_database import identity_of

OWNER = identity_of("owner")
STRANGER = identity_of("a")
IDS = {"mail": 4096, "notes": 4097}


def definition_with(*filters: str) -> ModuleDef:
    module = Module()

    @module.table(public=True)
    class Mail(Row):
        id: Pk[u32]
        to: Identity

    @module.table()
    class Notes(Row):
        id: Pk[u32]

    for text in filters:
        module.row_filter(text)
    return validate(module.describe())


def test_strangers_see_public_tables_only() -> None:
    definition = definition_with()
    owner, stranger = (SchemaCatalog(definition, IDS, is_owner) for is_owner in (True, False))
    assert [table.name for table in owner.user_tables()] == ["mail", "notes"]
    assert [table.name for table in stranger.user_tables()] == ["mail"]
    assert plan_subscription("select * from mail where id = 1", stranger, STRANGER).table.table_id == 4096
    with pytest.raises(SqlError, match="no such table: `notes`"):
        plan_subscription("select * from notes", stranger, STRANGER)
    for name in ("st_table", "st_column", "st_client", "st_var"):
        assert plan_subscription(f"select * from {name}", stranger, STRANGER).table.is_system
    with pytest.raises(SqlError, match="no such table: `st_connection_credentials`"):
        plan_subscription("select * from st_connection_credentials", stranger, STRANGER)
    shown = plan_sql("show row_limit", stranger, STRANGER, False)
    assert isinstance(shown, SelectPlan)
    assert [column.name for column in shown.columns] == ["value"]


def test_system_tables_cannot_be_written() -> None:
    catalog = SchemaCatalog(definition_with(), IDS, owner=True)
    for text in ("delete from st_table", "update st_table set table_name = 'x'"):
        with pytest.raises(SqlError, match="system table"):
            plan_sql(text, catalog, OWNER, True)
    plan_sql("delete from st_var where name = 'row_limit'", catalog, OWNER, True)


def test_rules_bind_strangers() -> None:
    rule = "select * from mail where to = :sender"
    definition = definition_with(rule)
    owner, stranger = (SchemaCatalog(definition, IDS, is_owner) for is_owner in (True, False))
    assert protected_table(rule, owner).name == "mail"
    assert plan_subscription("select * from mail", owner, OWNER).where is None
    plan = plan_subscription("select * from mail", stranger, STRANGER)
    assert plan.uses_sender
    assert plan.filter is not None
    assert plan.filter[0](bytes(4) + bytes(STRANGER))
    assert not plan.filter[0](bytes(4) + bytes(OWNER))


def test_a_rule_that_cannot_be_understood_hides_everything() -> None:
    for rule in ("select id from mail", "select * from nowhere", "nonsense"):
        definition = definition_with(rule)
        assert SchemaCatalog(definition, IDS, owner=False).all() == ()
        with pytest.raises(SqlError):
            protected_table(rule, SchemaCatalog(definition, IDS, owner=True))


def test_private_tables_cannot_be_protected() -> None:
    catalog = SchemaCatalog(definition_with(), IDS, owner=True)
    with pytest.raises(SqlError) as refused:
        protected_table("select * from notes", catalog)
    assert str(refused.value) == (
        "Cannot define RLS rule on private table: notes. "
        "Please make table public if you wish to restrict access using RLS."
    )
