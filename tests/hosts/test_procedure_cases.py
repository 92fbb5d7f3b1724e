"""Recorded behaviour of procedures and HTTP handlers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from procedure_player import ProcedurePlayer

CASES = Path(__file__).parents[1] / "vectors" / "module"
FILES = {
    "procedures": None,
    "routes": None,
    "context": {"procedure-context"},
    "errors": {"unknown-function"},
    "schedules": {"not-callable-by-clients"},
    "views": {"view-and-procedure"},
}
"""File, and the cases of it that are about procedures (None: all)."""


def cases() -> list[Any]:
    return [
        pytest.param(case, id=f"{file}-{case['name']}")
        for file, names in FILES.items()
        for case in json.loads((CASES / f"{file}.json").read_text())["cases"]
        if names is None or case["name"] in names
    ]


@pytest.mark.parametrize("case", cases())
def test_case(case: dict[str, Any]) -> None:
    player = ProcedurePlayer(case["module"])
    try:
        player.play(case["steps"])
    finally:
        player.close()
