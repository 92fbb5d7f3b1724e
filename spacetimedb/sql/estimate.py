"""What a query costs, in rows looked at, as SpacetimeDB estimates it for the variable ``row_limit``.

scan of a table              its rows; with LIMIT n and nothing else: n
point look-up in an index    rows / distinct keys
filter                       its input's cost + its input's rows
index join                   cost of L + rows of L x (1 if the index is unique, else rows of R / distinct keys)
other joins                  cost of L + cost of R + rows of L x rows of R
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from spacetimedb.sql.catalog import TableRef
from spacetimedb.sql.resolve import Compare
from spacetimedb.sql.select_plan import SelectPlan, equality

MAX_LOOKUP_COLUMNS: Final = 3
"""Columns of an index that a look-up can use."""


class Statistics(Protocol):
    """What is known of tables."""

    def row_count(self, table_id: int) -> int:
        """Rows of a table."""

    def distinct(self, table: TableRef, columns: tuple[int, ...]) -> int:
        """Different values of the columns of a table."""


def check_limit(plans: Iterable[SelectPlan], statistics: Statistics, limit: int) -> str | None:
    """The text of the refusal if the plans together look at more rows than that."""
    total = sum(estimate(plan, statistics) for plan in plans)
    return f"Estimated cardinality ({total} rows) exceeds limit ({limit} rows)" if total > limit else None


def estimate(plan: SelectPlan, statistics: Statistics) -> int:
    """Rows that the plan looks at, all fragments together."""
    return sum(_fragment(fragment, statistics) for fragment in plan.fragments)


def chosen_index(plan: SelectPlan, relvar: int) -> tuple[int, ...] | None:
    """Columns of the index that finds the rows of a table by constants, None if there is none."""
    fixed = plan.equalities(relvar)
    best: tuple[int, ...] | None = None
    for columns in plan.relvars[relvar].table.indexes:
        usable = 0 < len(columns) <= MAX_LOOKUP_COLUMNS and all(column in fixed for column in columns)
        if usable and (best is None or len(columns) >= len(best)):
            best = columns
    return best


def _table(plan: SelectPlan, relvar: int, statistics: Statistics) -> tuple[int, int]:
    """(cost, rows) of one table with what narrows it alone."""
    table = plan.relvars[relvar].table
    rows = 0 if table.is_event else statistics.row_count(table.table_id)
    terms = plan.terms_on(relvar)
    index = chosen_index(plan, relvar)
    if index is not None:
        distinct = statistics.distinct(table, index) if rows else 0
        rows = rows // distinct if distinct else 0
        found = [equality(term) for term in terms]
        terms = tuple(t for t, e in zip(terms, found, strict=True) if e is None or e[0].column not in index)
    return rows + (rows if terms else 0), rows


def _fragment(plan: SelectPlan, statistics: Statistics) -> int:
    if plan.is_single:
        cost, rows = _table(plan, 0, statistics)
        if plan.limit is not None and plan.where is None and plan.shaping is None:
            return min(plan.limit, rows)
        return cost
    order = list(range(len(plan.relvars)))
    if len(order) == 2 and not plan.terms_on(0) and plan.terms_on(1):
        order.reverse()
    cost, rows = _table(plan, order[0], statistics)
    for relvar in order[1:]:
        table = plan.relvars[relvar].table
        on = plan.joins[max(relvar, 1) - 1]
        right = 0 if table.is_event else statistics.row_count(table.table_id)
        column = None if on is None else on.joined.column if on.joined.relvar == relvar else on.earlier.column
        if column is not None and (column,) in table.indexes:
            distinct = statistics.distinct(table, (column,)) if right else 0
            matches = right // distinct if distinct else 0
            cost += rows * matches
            rows *= matches
        else:
            cost_right, right = _table(plan, relvar, statistics)
            cost += cost_right + rows * right
            rows *= right
    mixed = [t for t in plan.terms if isinstance(t, Compare) and not any(t in plan.terms_on(r) for r in order)]
    return cost + (rows if mixed else 0)
