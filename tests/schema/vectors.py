"""Cases of the captured data that the tests of this room share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parent.parent / "vectors"

Case = dict[str, Any]

RECORDED_BUT_REFUSED_HERE = frozenset(("duplicate_column", "duplicate_column_names"))
"""Two columns of one name: the recorded server takes them, we refuse them (no row class could hold both)."""


def schema_cases() -> list[Case]:
    """Definitions with what the schema endpoint and the system tables show of them."""
    return [json.loads(path.read_text()) for path in sorted((VECTORS / "schema-json").glob("*.json"))]


def error_cases() -> list[Case]:
    """Definitions with the answer to their publisher; ``file`` is where the case comes from."""
    return [
        {**case, "file": path.stem}
        for path in sorted((VECTORS / "schema-errors").glob("*.json"))
        for case in json.loads(path.read_text())
    ]


def definition_cases() -> list[Case]:
    """Whole definitions as the TypeScript bindings write them."""
    return [json.loads(path.read_text()) for path in sorted((VECTORS / "bsatn").glob("moduledef_*.json"))]


def name_of(case: Case) -> str:
    """For test ids."""
    return str(case["name"])


def migration_cases() -> list[Case]:
    """Pairs of definitions with the plan between them, or why there is none."""
    return [
        {**case, "file": path.stem}
        for path in sorted((VECTORS / "migrations").glob("*.json"))
        for case in json.loads(path.read_text())
    ]
