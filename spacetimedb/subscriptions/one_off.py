"""A query that is answered once."""

from __future__ import annotations

from spacetimedb.sql.plan import ExplainPlan
from spacetimedb.sql.select_plan import SelectPlan


class OneOff:
    """A query that is answered once. ``stored_tables``: the tables whose rows it needs.

    ``explained`` is set, to the text of the query, if the plan is only to be told. ``answer``: its rows, if they need
    not be looked for any more.
    """

    __slots__ = ("answer", "explained", "is_owner", "plan", "stored_tables")

    def __init__(self, plan: SelectPlan | ExplainPlan, is_owner: bool) -> None:
        self.is_owner = is_owner
        self.answer: list[bytes] | None = None
        self.explained = plan.text if isinstance(plan, ExplainPlan) else None
        self.plan = plan.plan if isinstance(plan, ExplainPlan) else plan
        self.stored_tables = self.plan.stored_tables
