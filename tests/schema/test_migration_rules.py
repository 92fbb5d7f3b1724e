"""The rules of migration, row by row: which recorded cases show each, and cases for what is not recorded."""

from __future__ import annotations

from enum import IntEnum

import pytest
from msgspec.structs import replace

from spacetimedb import (
    AnonymousViewContext,
    HttpContext,
    Index,
    Module,
    Pk,
    ProcedureContext,
    ReducerContext,
    Request,
    Response,
    Row,
    TestHost,
    Unique,
    u32,
    u64,
)
from spacetimedb.hosts.installation import InstallError, described
from spacetimedb.schema.migration import MigrationErrors, StepKind, plan

from .vectors import migration_cases

CASES = {case["name"] for case in migration_cases()}
RULES = {
    "add table": "add_table add_private_table event_add_table add_scheduled_table",
    "remove table": "remove_table_empty remove_table_with_rows event_remove_table",
    "rename table": "rename_table rename_table_with_rows",
    "accessor names": "accessor_change_same_canonical column_accessor_change change_index_source_name "
    "v9_camel_column_to_v10 policy_none_to_snake",
    "public and private": "public_to_private private_to_public",
    "visibility of a view": "view_private",
    "primary key": "remove_primary_key add_primary_key change_primary_key add_primary_key_with_unique "
    "drop_primary_key_unique_index",
    "add column with default": "add_column_end_default add_column_end_default_empty_table add_two_columns_default "
    "add_column_string_default enum_append_and_add_column",
    "add column without default": "add_column_no_default add_column_no_default_empty_table "
    "v9_to_v9_add_column_no_default",
    "add column in the middle": "add_column_middle_default",
    "remove or rename column": "remove_column_last remove_column_first_non_pk rename_column",
    "reorder columns": "reorder_columns reorder_columns_empty_table",
    "column type": "change_column_type_u32_u64 change_column_type_u32_i32 change_column_type_string_bytes "
    "change_column_type_to_option",
    "type upgrade: sums": "enum_append_variant enum_append_variant_empty_table enum_append_payload_variant_grows "
    "enum_append_payload_fits enum_append_payload_larger_alignment enum_remove_variant enum_rename_variant "
    "enum_reorder_variants enum_insert_variant_front enum_change_payload",
    "type upgrade: inside": "enum_in_array_append enum_in_option_append",
    "type upgrade: products": "struct_add_field struct_remove_field struct_rename_field struct_change_field_type",
    "default": "change_default_only add_default_only",
    "table type": "user_to_system",
    "event flag": "event_flag_added event_flag_removed",
    "columns of an event table": "event_add_column event_remove_column event_change_type event_rename_column",
    "indexes": "add_index add_hash_index add_multi_column_index remove_index change_index_algorithm_other_name "
    "change_index_algorithm_same_name change_index_columns_same_name",
    "accessor of an index": "change_index_accessor change_index_accessor_to_none",
    "add unique": "add_unique_no_duplicates add_unique_with_duplicates add_unique_with_duplicates_index_present "
    "add_unique_two_columns_duplicates add_unique_empty_table",
    "remove unique": "remove_unique_keep_index remove_unique_and_index",
    "add or change sequence": "add_sequence_values_in_range add_sequence_empty_table add_sequence_zero_only "
    "change_sequence_start change_sequence_start_empty",
    "remove sequence": "remove_sequence",
    "schedule of a table": "add_schedule remove_schedule change_schedule_function",
    "add view": "add_view_anonymous add_view_sender",
    "remove view": "remove_view view_rename",
    "view made anew": "view_anonymous_to_sender view_add_column view_remove_column view_change_column_type "
    "view_reorder_columns view_rename_column view_pk_added",
    "view updated": "view_array_to_option view_unchanged",
    "row-level security": "rls_added rls_removed rls_changed rls_unchanged rls_unknown_table rls_bad_sql",
    "functions and types": "add_reducer remove_reducer change_reducer_params reducer_to_private add_lifecycle "
    "add_procedure add_type_only v9_to_v10_same v10_to_v9_same same_definition",
    "order of steps, list of errors": "many_steps many_errors",
}
"""Rule: the recorded cases that show it. `test_migration` makes the plans, `test_migrations_done` carries them out."""


@pytest.mark.parametrize("rule", RULES)
def test_rule_is_recorded(rule: str) -> None:
    assert set(RULES[rule].split()) <= CASES


def test_every_recorded_case_has_its_rule() -> None:
    assert sorted(" ".join(RULES.values()).split()) == sorted(CASES)


class Kind(IntEnum):
    A = 0
    B = 1


def module(*, with_functions: bool = False) -> Module:
    m = Module()

    @m.table(public=True)
    class Thing(Row):
        id: Pk[u64]
        name: Unique[str]
        age: Index[u32]

    if with_functions:

        @m.http.get("/things")
        def things(ctx: HttpContext, request: Request) -> Response:
            return Response("")

        @m.procedure
        def kind(ctx: ProcedureContext, of: Kind) -> Kind:
            return of

        @m.client_connected
        def connected(ctx: ReducerContext) -> None: ...

    return m


def test_columns_of_a_constraint_of_the_same_name() -> None:
    _, old, _ = described(module())
    (table,) = old.tables
    by_name = next(constraint for constraint in table.constraints if constraint.columns == (1,))
    moved = tuple(replace(c, columns=(1, 2)) if c is by_name else c for c in table.constraints)
    new = replace(old, tables=(replace(table, constraints=moved),))
    with pytest.raises(MigrationErrors) as refused:
        plan(old, new)
    assert refused.value.errors == (f"Changing a unique constraint {by_name.name} requires a manual migration",)


@pytest.mark.parametrize("with_functions", [False, True], ids=["removed", "added"])
def test_handlers_routes_procedures_hooks_and_types_are_not_compared(with_functions: bool) -> None:
    old, new = (described(module(with_functions=which))[1] for which in (not with_functions, with_functions))
    assert plan(old, new).steps == ()


def test_one_disconnect_stands_last() -> None:
    """However many steps disconnect."""

    class Shown(Row):
        id: Pk[u64]

    old = module()
    old.table()(Shown)

    @old.view
    def all_shown(ctx: AnonymousViewContext) -> list[Shown]:
        return []

    old.row_filter("SELECT * FROM thing WHERE id = 1")
    steps = [step.kind for step in plan(described(old)[1], described(Module())[1]).steps]
    assert steps[-1] is StepKind.DISCONNECT_ALL_USERS
    assert steps.count(StepKind.DISCONNECT_ALL_USERS) == 1
    assert steps.count(StepKind.REMOVE_TABLE) == 2
    assert {StepKind.REMOVE_VIEW, StepKind.REMOVE_ROW_FILTER} <= set(steps)
    host = TestHost(old)
    with pytest.raises(InstallError, match="client-breaking change"):
        host.publish(Module())
    host.publish(Module(), break_clients=True)
