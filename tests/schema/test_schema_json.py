"""The schema endpoint's JSON, against recorded answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from spacetimedb.schema.json import schema_v9, schema_v10
from spacetimedb.schema.raw import decode_raw
from spacetimedb.schema.validation import validate

from .vectors import RECORDED_BUT_REFUSED_HERE, Case, name_of, schema_cases

CASES = [case for case in schema_cases() if case["name"] not in RECORDED_BUT_REFUSED_HERE]


def text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def without_order(definition: Any) -> Any:
    """A version 10 answer with the lists that come in no fixed order sorted."""
    sections = []
    for section in definition["sections"]:
        ((kind, value),) = section.items()
        if kind in ("Types", "RowLevelSecurity"):
            value = sorted(value, key=text)
        elif kind == "Tables":
            parts = ("indexes", "constraints", "sequences")
            value = [{**table, **{part: sorted(table[part], key=text) for part in parts}} for table in value]
            value.sort(key=text)
        elif kind == "ExplicitNames":
            entries = value["entries"]
            tables = sorted((entry for entry in entries if "Table" in entry), key=text)
            value = tables + [entry for entry in entries if "Table" not in entry]
        elif kind == "Submodules":
            value = [{**submodule, "module": without_order(submodule["module"])} for submodule in value]
        sections.append({kind: value})
    return {"sections": sections}


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_version_10(case: Case) -> None:
    printed = json.loads(schema_v10(validate(decode_raw(bytes.fromhex(case["raw_hex"])))))
    assert without_order(printed) == without_order(case["schema_v10"])


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_version_9(case: Case) -> None:
    printed = json.loads(schema_v9(validate(decode_raw(bytes.fromhex(case["raw_hex"])))))
    recorded = case["schema_v9"]
    for answer in (printed, recorded):
        answer["row_level_security"].sort(key=text)
    assert printed == recorded
