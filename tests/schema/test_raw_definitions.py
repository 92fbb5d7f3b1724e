"""Raw definitions: bytes and JSON of every recorded definition, and bytes that are none."""

from __future__ import annotations

from typing import Any

import pytest

from spacetimedb.schema.raw import SUBMODULE_DEPTH, V9_LAYOUT, V10_LAYOUT, decode_raw, encode_raw
from spacetimedb.schema.raw_structs import (
    CaseConversionPolicy,
    HttpMethod,
    RawHttpRoute,
    RawModuleDef,
    RawModuleDefV10,
    RawReducer,
    RawSubmodule,
    Section,
    SectionTag,
)
from spacetimedb.types.algebraic import UNIT
from spacetimedb.types.errors import DecodeError

from .vectors import Case, definition_cases, error_cases, name_of, schema_cases


def as_json(definition: RawModuleDef) -> Any:
    if isinstance(definition, RawModuleDefV10):
        return {"V10": V10_LAYOUT.json(definition)}
    return {"V9": V9_LAYOUT.json(definition)}


@pytest.mark.parametrize("case", schema_cases(), ids=name_of)
def test_schema_case_round_trips(case: Case) -> None:
    data = bytes.fromhex(case["raw_hex"])
    definition = decode_raw(data)
    assert encode_raw(definition) == data
    assert as_json(definition) == case["definition"]


@pytest.mark.parametrize("case", error_cases(), ids=name_of)
def test_error_case_round_trips(case: Case) -> None:
    data = bytes.fromhex(case["raw_hex"])
    definition = decode_raw(data)
    assert encode_raw(definition) == data
    assert as_json(definition) == case["json"]


@pytest.mark.parametrize("case", definition_cases(), ids=name_of)
def test_definition_of_other_bindings_round_trips(case: Case) -> None:
    data = bytes.fromhex(case["bsatn"])
    definition = decode_raw(data)
    assert encode_raw(definition) == data
    assert as_json(definition) == case["value"]


@pytest.mark.parametrize("case", [c for c in definition_cases() if c["name"] in ("v10_rich", "v9_basic")], ids=name_of)
def test_every_prefix_is_refused(case: Case) -> None:
    data = bytes.fromhex(case["bsatn"])
    for end in range(len(data)):
        with pytest.raises(DecodeError):
            decode_raw(data[:end])
    with pytest.raises(DecodeError, match="unexpected data length"):
        decode_raw(data + b"\0")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "data too short for u8"),
        (b"\x00", "version 8"),
        (b"\x03", "unknown tag 0x3 for sum type RawModuleDef"),
        (b"\x02\xff\xff\xff\xff", "data too short for array"),
        (b"\x02\x01\x00\x00\x00\x0f", "unknown tag 0xf"),
        (b"\x02\x01\x00\x00\x00\x09\x02", "unknown tag 0x2 for sum type CaseConversionPolicy"),
        (b"\x02\x01\x00\x00\x00\x08\x01\x00\x00\x00\x01\x00\x00\x00\xff", "invalid utf8"),
    ],
)
def test_bytes_that_are_no_definition(data: bytes, text: str) -> None:
    with pytest.raises(DecodeError, match=text):
        decode_raw(data)


def test_deep_submodules_are_refused_without_overflow() -> None:
    definition = RawModuleDefV10()
    for _ in range(SUBMODULE_DEPTH + 1):
        definition = RawModuleDefV10.of(submodules=[RawSubmodule("a", definition)])
    with pytest.raises(DecodeError, match="nested more than"):
        decode_raw(encode_raw(definition))
    # The depth is counted anew for every definition.
    assert decode_raw(encode_raw(RawModuleDefV10.of(submodules=[RawSubmodule("a", RawModuleDefV10())])))


def test_of_builds_only_the_sections_that_say_something() -> None:
    definition = RawModuleDefV10.of(reducers=[RawReducer("hi", UNIT)], case_conversion_policy=CaseConversionPolicy.NONE)
    assert [section.tag for section in definition.sections] == [
        SectionTag.TYPESPACE,
        SectionTag.REDUCERS,
        SectionTag.CASE_CONVERSION_POLICY,
    ]
    assert decode_raw(encode_raw(definition)) == definition
    assert definition.tables == ()
    assert RawModuleDefV10().case_conversion_policy is CaseConversionPolicy.SNAKE_CASE


def test_first_of_repeated_sections_counts() -> None:
    first = (RawReducer("first", UNIT),)
    definition = RawModuleDefV10((Section(SectionTag.REDUCERS, first), Section(SectionTag.REDUCERS, ())))
    assert decode_raw(encode_raw(definition)) == definition
    assert definition.reducers == first


def test_http_methods() -> None:
    routes = [
        RawHttpRoute("h", None, "/a"),
        RawHttpRoute("h", HttpMethod("Patch"), "/b"),
        RawHttpRoute("h", HttpMethod("Extension", "PURGE"), "/c"),
    ]
    definition = RawModuleDefV10.of(http_routes=routes)
    decoded = decode_raw(encode_raw(definition))
    assert decoded == definition
    assert as_json(decoded)["V10"]["sections"][1]["HttpRoutes"][2]["method"] == {"Method": {"Extension": "PURGE"}}
