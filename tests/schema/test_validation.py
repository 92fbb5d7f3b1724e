"""Validation: recorded answers to definitions, and what a valid definition becomes."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest

from spacetimedb.schema.definition import ModuleDef
from spacetimedb.schema.json import schema_v9, schema_v10
from spacetimedb.schema.migration import plan
from spacetimedb.schema.raw import decode_raw, encode_raw
from spacetimedb.schema.raw_structs import (
    RawBTree,
    RawConstraint,
    RawIndex,
    RawModuleDefV10,
    RawReducer,
    RawSequence,
    RawTable,
    RawType,
    RawTypeName,
    RawUnique,
)
from spacetimedb.schema.system_catalogue import creation_rows
from spacetimedb.schema.validation import ModuleDefErrors, validate
from spacetimedb.types.algebraic import (
    U8,
    U64,
    AlgebraicType,
    Array,
    Product,
    ProductElement,
    Ref,
    option,
    product,
    result,
)
from spacetimedb.types.errors import DecodeError

from .vectors import RECORDED_BUT_REFUSED_HERE, Case, definition_cases, error_cases, name_of, schema_cases


def is_row_filter_error(case: Case) -> bool:
    """Row filters are compiled when they are created, by the SQL room: here their texts are not looked at."""
    return str(case.get("body", "")).startswith("failed to create row-level security: ")


@pytest.mark.parametrize("case", [c for c in error_cases() if c["outcome"] == "refused"], ids=name_of)
def test_refused_with_the_recorded_text(case: Case) -> None:
    definition = decode_raw(bytes.fromhex(case["raw_hex"]))
    if is_row_filter_error(case):
        assert validate(definition).row_level_security
        return
    with pytest.raises(ModuleDefErrors) as refusal:
        validate(definition)
    assert str(refusal.value) == case["body"]


@pytest.mark.parametrize("case", [c for c in error_cases() if c["outcome"] == "accepted"], ids=name_of)
def test_accepted(case: Case) -> None:
    definition = decode_raw(bytes.fromhex(case["raw_hex"]))
    if case["name"] in RECORDED_BUT_REFUSED_HERE:
        with pytest.raises(ModuleDefErrors, match="failed to create table t"):
            validate(definition)
        return
    validate(definition)


@pytest.mark.parametrize("case", [c for c in error_cases() if c["outcome"] == "server_exits"], ids=name_of)
def test_definitions_that_end_the_recorded_server_are_refused(case: Case) -> None:
    with pytest.raises(ModuleDefErrors, match="Errors occurred:\n"):
        validate(decode_raw(bytes.fromhex(case["raw_hex"])))


@pytest.mark.parametrize("case", definition_cases(), ids=name_of)
def test_definitions_of_other_bindings_are_valid(case: Case) -> None:
    validate(decode_raw(bytes.fromhex(case["bsatn"])))


def recorded(name: str) -> ModuleDef:
    case = next(case for case in schema_cases() if case["name"] == name)
    return validate(decode_raw(bytes.fromhex(case["raw_hex"])))


def test_table_of_a_definition() -> None:
    table = recorded("explicit_names").table("oneU8")
    assert table is not None
    assert (table.name, table.accessor_name, table.primary_key) == ("oneU8", "FooBar", 0)
    assert [(c.name, c.accessor_name) for c in table.columns] == [("some_id", "someId"), ("v_2", "v2")]
    assert [(i.name, i.source_name, i.accessor_name, i.is_unique) for i in table.indexes] == [
        ("My_Index", "my_src", "byV2", False),
        ("oneU8_some_id_idx_btree", "FooBar_someId_idx_btree", "someId", True),
    ]
    assert table.sequences[0].name == "oneU8_some_id_seq"
    assert table.column("v_2") == 1
    assert table.column("v2") is None


def test_look_ups_are_by_canonical_name() -> None:
    definition = recorded("explicit_names")
    assert definition.reducer_ids == {"ins": 0, "doIt2": 1}
    reducer = definition.reducer("doIt2")
    assert reducer is not None
    assert reducer.accessor_name == "DoIt2"
    assert [element.name for element in reducer.params.elements] == ["someArg"]
    assert definition.reducer("DoIt2") is None
    assert definition.table("FooBar") is None
    assert definition.procedure("ins") is None
    assert definition.view("ins") is None


def test_lifecycle_and_scheduled_functions_are_private() -> None:
    lifecycle = recorded("lifecycle")
    assert [(r.name, r.is_private, r.lifecycle) for r in lifecycle.reducers] == [
        ("ins", False, None),
        ("on_init", True, "init"),
        ("client_in", True, "on_connect"),
        ("client_out", True, "on_disconnect"),
    ]
    assert lifecycle.lifecycle_reducers == {"init": 1, "on_connect": 2, "on_disconnect": 3}
    scheduled = recorded("schedule_reducer")
    tick = scheduled.reducer("tick")
    assert tick is not None
    assert tick.is_private
    schedule = scheduled.tables[0].schedule
    assert schedule is not None
    assert (schedule.name, schedule.function_name, schedule.at_column) == ("timer_sched", "tick", 1)
    assert scheduled.schedules == (schedule,)


def test_submodules_have_prefixed_names_and_ids_after_the_root() -> None:
    definition = recorded("submodules")
    assert [table.name for table in definition.tables] == ["person"]
    assert [table.name for table in definition.all_tables] == ["person", "lib.item", "lib.deep.leaf", "MyOther.person"]
    assert list(definition.reducer_ids)[:3] == ["ins", "lib.ins", "lib.do_lib"]
    item = definition.table("lib.item")
    assert item is not None
    assert item.accessor_name == "lib.Item"
    assert item.indexes[0].name == "lib.item_item_id_idx_btree"
    assert item.constraints[0].name == "lib.item_item_id_key"


def test_view_keys_are_declared_or_inherited() -> None:
    views = {view.name: view for view in recorded("views").views}
    assert [(v.kind, v.primary_key) for v in views.values()] == [
        ("array", 0),
        ("option", None),
        ("query", 0),
    ]
    assert [column.name for column in views["mine"].columns] == ["id", "name", "age"]


def one_table(
    *columns: AlgebraicType,
    sequences: tuple[RawSequence, ...] = (),
    unique: tuple[int, ...] = (),
    index: tuple[int, ...] = (),
) -> RawModuleDefV10:
    elements = tuple(ProductElement(f"c{chr(97 + i)}", t) for i, t in enumerate(columns))
    return RawModuleDefV10.of(
        typespace=[Product(elements), product(inner=U8)],
        types=[RawType(RawTypeName((), "T"), 0), RawType(RawTypeName((), "Inner"), 1)],
        tables=[
            RawTable(
                "t",
                0,
                indexes=(RawIndex("i", "i", RawBTree(index)),) if index else (),
                constraints=(RawConstraint(None, RawUnique(unique)),) if unique else (),
                sequences=sequences,
            )
        ],
    )


def test_columns_are_inlined() -> None:
    table = validate(one_table(Array(Ref(1)), option(Ref(1)))).tables[0]
    inner = product(inner=U8)
    assert [column.algebraic_type for column in table.columns] == [Array(inner), option(inner)]
    assert table.row_type == product(ca=Array(inner), cb=option(inner))


def test_unique_constraint_over_the_same_set_makes_an_index_unique() -> None:
    table = validate(one_table(U8, U8, unique=(1, 0), index=(0, 1))).tables[0]
    assert table.indexes[0].is_unique
    assert table.constraints[0].columns == (0, 1)
    assert table.constraints[0].name == "t_cb_ca_key"


@pytest.mark.parametrize(
    ("sequence", "is_fine"),
    [
        (RawSequence(None, 0), True),
        (RawSequence(None, 0, start=5, min_value=1, max_value=10), True),
        (RawSequence(None, 0, start=0), False),
        (RawSequence(None, 0, min_value=2), False),
        (RawSequence(None, 0, increment=0), False),
        (RawSequence(None, 0, min_value=-10, max_value=-1, start=-1, increment=-1), True),
        (RawSequence(None, 0, min_value=1, max_value=3, increment=2), False),
    ],
)
def test_sequences_must_be_able_to_count(sequence: RawSequence, is_fine: bool) -> None:
    definition = one_table(U64, sequences=(sequence,))
    if is_fine:
        assert validate(definition).tables[0].sequences[0].increment == sequence.increment
    else:
        with pytest.raises(ModuleDefErrors):
            validate(definition)


def test_recursive_parameters_keep_their_reference() -> None:
    tree = RawModuleDefV10.of(
        typespace=[product(kids=Array(Ref(0)))],
        types=[RawType(RawTypeName((), "Tree"), 0)],
        reducers=[RawReducer("grow", product(tree=Ref(0), size=U8))],
    )
    params = validate(tree).reducers[0].params
    assert params == product(tree=Ref(0), size=U8)


def test_aliases_in_a_circle_through_arrays_end() -> None:
    definition = RawModuleDefV10.of(typespace=[Array(Ref(0))], reducers=[RawReducer("r", product(x=Ref(0)))])
    with pytest.raises(ModuleDefErrors, match="invalid AlgebraicTypeRef"):
        validate(definition)


def test_aliases_that_branch_without_end_are_looked_at_once() -> None:
    count = 60
    types = [result(Ref(index + 1), Ref(index + 1)) for index in range(count)]
    definition = RawModuleDefV10.of(typespace=[*types, U8], reducers=[RawReducer("r", product(x=Ref(0)))])
    assert validate(definition).reducers[0].params == product(x=Ref(0))


def test_long_chains_of_aliases_are_refused() -> None:
    types = [Ref(index + 1) for index in range(5000)]
    definition = RawModuleDefV10.of(typespace=[*types, U8], reducers=[RawReducer("r", product(x=Ref(0)))])
    with pytest.raises(ModuleDefErrors, match="invalid AlgebraicTypeRef"):
        validate(definition)


@pytest.mark.parametrize("case", definition_cases(), ids=name_of)
def test_damaged_definitions_are_refused_or_valid_but_never_crash(case: Case) -> None:
    data = bytes.fromhex(case["bsatn"])
    draw = random.Random(case["name"])
    outcomes = Counter[str]()
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(draw.randint(1, 3)):
            damaged[draw.randrange(len(damaged))] = draw.choice((0, 1, 2, 255, draw.randrange(256)))
        try:
            definition = validate(decode_raw(bytes(damaged)))
        except (DecodeError, ModuleDefErrors) as error:
            outcomes[type(error).__name__] += 1
        else:
            outcomes["valid"] += 1
            assert decode_raw(encode_raw(definition.raw)) == definition.raw
            json.loads(schema_v10(definition))
            json.loads(schema_v9(definition))
            creation_rows(definition, database_identity=1, owner_identity=2, program_hash=bytes(32), program_bytes=b"")
            assert not plan(definition, definition).breaks_clients
    assert outcomes["DecodeError"] > 0
