"""Long queries in steps: no step does much, and the result is the same."""

from __future__ import annotations

import pytest

from spacetimedb.sql.errors import SqlError
from spacetimedb.sql.execute import MAX_JOINED_ROWS, PIECE_ROWS, execute_select, select_steps
from spacetimedb.sql.plan import plan_sql
from spacetimedb.sql.select_plan import SelectPlan
from sql.sample_database import SampleDatabase, identity_of

ROWS = 3 * PIECE_ROWS
OWNER = identity_of("owner")
SCHEMA = {
    "tables": [
        {"name": "a", "cols": [["id", "U32"], ["x", "U32"]]},
        {"name": "b", "cols": [["id", "U32"], ["x", "U32"]]},
    ],
    "rows": {"a": [[n, n % 7] for n in range(ROWS)], "b": [[n, n % 5] for n in range(100)]},
}


def plan_of(text: str, database: SampleDatabase) -> SelectPlan:
    plan = plan_sql(text, database.catalog(True), OWNER, True)
    assert isinstance(plan, SelectPlan)
    return plan


@pytest.mark.parametrize(
    ("text", "rows", "least_steps"),
    [
        ("SELECT a.* FROM a JOIN b ON a.id = b.id", 100, 3),
        ("SELECT a.* FROM a JOIN b ON a.x = b.x WHERE b.id = 3 AND a.x > 1", ROWS // 7 + (ROWS % 7 > 3), 6),
        ("SELECT COUNT(*) AS n FROM b JOIN a WHERE a.x = 0", 1, 30),
        ("SELECT b.id, COUNT(*) AS n FROM b JOIN a ON a.x = b.x GROUP BY b.id", 100, 30),
        ("SELECT a.id FROM a JOIN b ON a.id = b.id LIMIT 7", 7, 3),
    ],
)
def test_steps(text: str, rows: int, least_steps: int) -> None:
    database = SampleDatabase(SCHEMA)
    plan = plan_of(text, database)
    steps = select_steps(plan, database)
    count = 0
    try:
        while True:
            next(steps)
            count += 1
    except StopIteration as end:
        result = end.value
    assert count >= least_steps
    assert len(result.rows) == rows
    assert result.rows == execute_select(plan, database).rows


def test_a_join_that_gets_too_large_ends_within_its_budget() -> None:
    database = SampleDatabase(SCHEMA)
    with pytest.raises(SqlError, match=f"joins more than {MAX_JOINED_ROWS} rows"):
        execute_select(plan_of("SELECT COUNT(*) AS n FROM a JOIN a AS c WHERE a.x = 1", database), database)
