"""Migration plans: recorded pairs of definitions, their plans in both styles, refusals and log lines."""

from __future__ import annotations

import pytest

from spacetimedb.schema.definition import ModuleDef
from spacetimedb.schema.migration import MigrationErrors, StepKind, plan, type_change_errors
from spacetimedb.schema.migration_text import debug_value, log_line, plan_text
from spacetimedb.schema.raw import decode_raw
from spacetimedb.schema.type_layout import size_and_alignment
from spacetimedb.schema.validation import validate
from spacetimedb.types.algebraic import (
    BOOL,
    BYTES,
    I32,
    STRING,
    U8,
    U16,
    U32,
    U64,
    U256,
    UNIT,
    AlgebraicType,
    Array,
    Product,
    product,
    sum_of,
)

from .vectors import Case, migration_cases, name_of

PRINTED_HERE_ONLY = frozenset(("view_private",))
"""The recorded server fails to print the plan that changes a view's visibility; here it is printed."""

CASES = migration_cases()


def definitions(case: Case) -> tuple[ModuleDef, ModuleDef]:
    old, new = (validate(decode_raw(bytes.fromhex(case[which]["raw_hex"]))) for which in ("old", "new"))
    return old, new


@pytest.mark.parametrize("case", [c for c in CASES if c["pre_publish"].get("kind") == "AutoMigrate"], ids=name_of)
def test_plan(case: Case) -> None:
    found = plan(*definitions(case))
    recorded = case["pre_publish"]
    assert plan_text(found) == recorded["plan"]
    assert plan_text(found, colours=True) == recorded["plan_ansi"]
    assert found.breaks_clients == recorded["break_clients"]
    assert found.is_major_version_upgrade == recorded["major_version_upgrade"]


@pytest.mark.parametrize("case", [c for c in CASES if c["pre_publish"].get("kind") == "ManualMigrate"], ids=name_of)
def test_no_plan(case: Case) -> None:
    old, new = definitions(case)
    with pytest.raises(MigrationErrors) as refusal:
        plan(old, new)
    assert str(refusal.value) == case["pre_publish"]["reason"]
    assert case["error"] == f"Database update rejected: {refusal.value}"
    assert (old.version < new.version) == case["pre_publish"]["major_version_upgrade"]


@pytest.mark.parametrize("case", [c for c in CASES if c["outcome"].startswith("accepted")], ids=name_of)
def test_log_lines(case: Case) -> None:
    lines = [line for step in plan(*definitions(case)).steps if (line := log_line(step)) is not None]
    assert ["Updated program to <program hash>", *lines, "Database updated"] == case["module_log"]


def test_every_recorded_case_is_tested() -> None:
    kinds = {"AutoMigrate", "ManualMigrate"}
    assert {c["name"] for c in CASES if c["pre_publish"].get("kind") not in kinds} == PRINTED_HERE_ONLY


def test_visibility_of_a_view_is_printed() -> None:
    case = next(case for case in CASES if case["name"] == "view_private")
    text = plan_text(plan(*definitions(case)))
    assert text.endswith("▸ Changed access for view everyone (public → private)\n")


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_definition_and_itself_differ_in_nothing_stored(case: Case) -> None:
    computed = {StepKind.UPDATE_VIEW, StepKind.REMOVE_ROW_FILTER, StepKind.ADD_ROW_FILTER}
    for definition in definitions(case):
        found = plan(definition, definition)
        assert {step.kind for step in found.steps} <= computed
        assert not found.breaks_clients


def test_an_added_index_is_one_step() -> None:
    case = next(case for case in CASES if case["name"] == "add_index")
    assert [step.kind for step in plan(*definitions(case)).steps] == [StepKind.ADD_INDEX]


@pytest.mark.parametrize(
    ("t", "expected"),
    [
        (U8, (1, 1)),
        (U256, (32, 32)),
        (STRING, (4, 2)),
        (BYTES, (4, 2)),
        (UNIT, (0, 1)),
        (product(a=U8, b=U32), (8, 4)),
        (product(a=U8, b=STRING, c=U8), (8, 2)),
        (sum_of(a=UNIT, b=UNIT), (1, 1)),
        (sum_of(a=U32, b=UNIT), (8, 4)),
        (sum_of(), (1, 1)),
    ],
)
def test_size_and_alignment(t: AlgebraicType, expected: tuple[int, int]) -> None:
    assert size_and_alignment(t) == expected


@pytest.mark.parametrize(
    ("old", "new", "errors"),
    [
        (U8, U8, 0),
        (U8, U16, 1),
        (Array(sum_of(a=UNIT)), Array(sum_of(a=UNIT, b=UNIT)), 0),
        (sum_of(a=UNIT), sum_of(a=UNIT, b=U64), 2),
        (sum_of(a=U32), sum_of(a=U32, b=U16), 0),
        (sum_of(a=UNIT, b=UNIT), sum_of(b=UNIT), 2),
        (product(x=U8), product(y=U8), 1),
        (product(x=U8), Array(U8), 1),
    ],
)
def test_type_changes(old: AlgebraicType, new: AlgebraicType, errors: int) -> None:
    assert len(type_change_errors(old, new, column="c", table="t")) == errors


@pytest.mark.parametrize(
    ("t", "data", "text"),
    [
        (I32, b"\xff\xff\xff\xff", "I32(\n    -1,\n)"),
        (BOOL, b"\x01", "Bool(\n    true,\n)"),
        (STRING, b'\x01\0\0\0"', 'String(\n    "\\"",\n)'),
        (Product(()), b"", "Product(\n    ProductValue {\n        elements: [],\n    },\n)"),
        (
            product(a=U8),
            b"\x07",
            "Product(\n    ProductValue {\n        elements: [\n            U8(\n                7,\n            ),\n"
            "        ],\n    },\n)",
        ),
        (
            sum_of(a=U8),
            b"\0\x07",
            "Sum(\n    SumValue {\n        tag: 0,\n        value: U8(\n            7,\n        ),\n    },\n)",
        ),
        (Array(U16), b"\x01\0\0\0\x02\0", "Array(\n    [\n        U16(\n            2,\n        ),\n    ],\n)"),
    ],
)
def test_defaults_in_debug_form(t: AlgebraicType, data: bytes, text: str) -> None:
    assert "\n".join(debug_value(t, data)) == text
