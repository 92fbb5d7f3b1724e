"""Recorded behaviour of modules: tables, sequences, events, errors, lifecycle hooks, schedules, contexts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from case_player import Player

CASES = Path(__file__).parents[1] / "vectors" / "module"
FILES = ("tables", "sequences", "events", "errors", "lifecycle", "context", "schedules", "views")
NOT_PLAYED = {"publish", "route", "procedure", "answer"}
"""Steps that need a server, or threads: see `test_procedure_cases`."""
WITH_PROCEDURES = {"unknown-function", "not-callable-by-clients"}
"""Played there too."""
OTHERWISE = {"rearm-own-row", "nobody-subscribed"}
"""Here the recording shows what we do not have: see `test_test_host.test_a_run_may_set_its_row_a_new_time` (a flaw) and
`test_views.test_what_nobody_uses_does_not_run` (a view that goes on running after its last subscriber left)."""


def cases() -> list[Any]:
    found = []
    for name in FILES:
        for case in json.loads((CASES / f"{name}.json").read_text())["cases"]:
            if case["name"] not in WITH_PROCEDURES | OTHERWISE and not any(
                NOT_PLAYED & step.keys() for step in case["steps"]
            ):
                found.append(pytest.param(case, id=f"{name}-{case['name']}"))
    return found


@pytest.mark.parametrize("case", cases())
def test_case(case: dict[str, Any]) -> None:
    player = Player(case["module"])
    try:
        player.play(case["steps"])
    finally:
        player.close()
