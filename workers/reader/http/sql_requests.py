"""A SELECT or EXPLAIN over HTTP: planned for the program of the moment, answered from shared memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spacetimedb.schema.system_tables import ST_VAR_ID
from spacetimedb.sql.execute import SelectResult
from spacetimedb.sql.explain import EXPLAIN_COLUMNS
from spacetimedb.sql.plan import ExplainPlan, SelectPlan, plan_sql
from spacetimedb.workers.reader.large_answers import indexes_built, page_of, result_of_page, select
from spacetimedb.workers.reader.row_limit import check_plan, row_limit
from spacetimedb.workers.reader.views import plan_over_views

if TYPE_CHECKING:
    from spacetimedb.subscriptions.costs import QueryCost
    from spacetimedb.types.special import Identity
    from spacetimedb.workers.reader.database_link import DatabaseLink


class _Outdated(Exception):
    """Another program has come, which the statement was not planned for."""


async def run_select(link: DatabaseLink, text: str, caller: Identity) -> tuple[SelectResult, int]:
    """The result of a statement that only reads, and the horizon that it shows. Raises SqlError, DatabaseGone."""
    user = link.new_number()
    try:
        while True:
            try:
                return await _run(link, text, caller, user)
            except _Outdated:
                continue
    finally:
        link.views.done(user)
        link.tables.forget_unused()


async def _run(link: DatabaseLink, text: str, caller: Identity, user: int) -> tuple[SelectResult, int]:
    catalog, is_owner = link.catalog, caller == link.owner
    plan = plan_sql(text, catalog.for_caller(caller), caller, is_owner)
    explained = plan.text if isinstance(plan, ExplainPlan) else None
    if isinstance(plan, ExplainPlan):
        plan = plan.plan
    assert isinstance(plan, SelectPlan)
    if plan.reads_views:
        plan = await plan_over_views(link, text, caller, is_owner, user)

    def ready() -> int:
        """Nothing is waited for any more: the horizon, if the plan is still one for the rows that are there."""
        if catalog is not link.catalog:
            raise _Outdated
        return link.position_horizon

    if explained is None and (asked := page_of(plan)) is not None and await _may_page(link, is_owner):
        page = await link.lookups.page(plan.table.table_id, *asked)
        horizon = ready()
        if page is not None:
            return result_of_page(plan, page.rows, page.count), horizon
    tables = plan.stored_tables if is_owner else (*plan.stored_tables, ST_VAR_ID)
    await link.tables.wait_for(tables)
    if not is_owner:
        check_plan(link, plan)
    if explained is not None:
        elsewhere: list[QueryCost] = await link.costs.elsewhere(explained, is_owner)
        await link.tables.wait_for(tables)
        horizon = ready()
        steps = link.subscriptions.explain(plan, explained, is_owner, elsewhere)
        return SelectResult(EXPLAIN_COLUMNS, steps), horizon
    missing = link.subscriptions.missing_search_index(plan)
    if missing is not None:
        await indexes_built(link, *missing)
        await link.tables.wait_for(tables)
    horizon = ready()
    return await select(link, plan), horizon


async def _may_page(link: DatabaseLink, is_owner: bool) -> bool:
    """Whether no limit asks what the query looks at before it is run."""
    if is_owner:
        return True
    await link.tables.wait_for((ST_VAR_ID,))
    return row_limit(link) is None
