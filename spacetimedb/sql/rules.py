"""Row-level security: what rules make of the plan of a caller that they bind.

A rule is a query that returns the table it protects. Every reference to a protected table is replaced by the body of
one of its rules; with several rules, or several references, by each combination, and the result is that of all
combinations together (a row that two rules allow comes twice). Rules of tables inside a rule are applied in turn, but a
rule for T leaves references to T in itself alone.

Joins stay a list in which each table is joined to those before it. The rule of the first table takes its place. The
rule of a later one is put after the tables before it: its first table without a condition, and the condition of the
replaced join becomes part of the filter.

Limit: MAX_FRAGMENTS combinations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from spacetimedb.sql.catalog import TableRef
from spacetimedb.sql.errors import SqlError
from spacetimedb.sql.resolve import ColumnRef, Combine, Compare, Typed
from spacetimedb.sql.select_plan import AggregateOf, JoinOn, SelectPlan, Shaping

MAX_FRAGMENTS: Final = 256

PlanRule = Callable[[str], SelectPlan]
"""The plan of a rule's text, with the rights of the caller, its own references untouched."""


def apply_rules(plan: SelectPlan, plan_rule: PlanRule) -> SelectPlan:
    """The plan with all rules applied. Raises SqlError for cycles and for rules that the caller may not run."""
    if not any(relvar.table.rules for relvar in plan.relvars):
        return plan
    first, *others = _expand(plan, None, frozenset(), plan_rule)
    # One rule that names its caller makes the whole plan that caller's, whichever rule stands first.
    uses_sender = any(fragment.uses_sender for fragment in (first, *others))
    return replace(first, others=tuple(others), uses_sender=uses_sender)


def _expand(plan: SelectPlan, current: TableRef | None, outer: frozenset[int], plan_rule: PlanRule) -> list[SelectPlan]:
    """All combinations. ``current``: the table whose rule this is; ``outer``: those around it."""
    combinations = [plan]
    # From the last table to the first, so that numbers of tables still to come stay as they are.
    for number in range(len(plan.relvars) - 1, -1, -1):
        table = plan.relvars[number].table
        if not table.rules or table is current:
            continue
        if table.table_id in outer:
            raise SqlError(f"Discovered cyclic dependency when resolving RLS rules for table id `{table.table_id}`")
        inside = outer if current is None else outer | {current.table_id}
        bodies = [body for rule in table.rules for body in _expand(plan_rule(rule), table, inside, plan_rule)]
        if len(combinations) * len(bodies) > MAX_FRAGMENTS:
            raise SqlError(f"Row-level security splits the query into more than {MAX_FRAGMENTS} parts")
        combinations = [_graft(whole, number, body) for body in bodies for whole in combinations]
    return combinations


def _graft(plan: SelectPlan, number: int, body: SelectPlan) -> SelectPlan:
    """The plan with its table ``number`` replaced by the body of a rule."""
    grown = len(body.relvars)
    assert body.returned is not None
    outside = [n if n < number else n + grown - 1 for n in range(len(plan.relvars))]
    outside[number] = number + body.returned
    inside = [number + n for n in range(grown)]
    terms: list[Typed] = []
    joins: list[JoinOn | None] = []
    for position, on in enumerate(plan.joins, 1):
        moved = on and JoinOn(_column(on.earlier, outside), _column(on.joined, outside))
        if position == number:
            if moved is not None:
                terms.append(Compare("=", moved.earlier, moved.joined))
            joins.append(None)
            joins += _joins(body, inside)
        else:
            joins.append(moved)
    if number == 0:
        joins = [*_joins(body, inside), *joins]
    if body.where is not None:
        terms.append(_moved(body.where, inside))
    if plan.where is not None:
        terms.append(_moved(plan.where, outside))
    where = None if not terms else terms[0] if len(terms) == 1 else Combine("AND", tuple(terms))
    return replace(
        plan,
        relvars=(*plan.relvars[:number], *body.relvars, *plan.relvars[number + 1 :]),
        joins=tuple(joins),
        where=where,
        returned=None if plan.returned is None else outside[plan.returned],
        picked=None if plan.picked is None else tuple(_column(column, outside) for column in plan.picked),
        uses_sender=plan.uses_sender or body.uses_sender,
        shaping=None if plan.shaping is None else _shaping(plan.shaping, outside),
    )


def _shaping(shaping: Shaping, places: list[int]) -> Shaping:
    outputs: list[ColumnRef | AggregateOf] = []
    for output in shaping.outputs or ():
        if isinstance(output, ColumnRef):
            outputs.append(_column(output, places))
        else:
            column = None if output.column is None else _column(output.column, places)
            outputs.append(replace(output, column=column))
    return Shaping(
        None if shaping.outputs is None else tuple(outputs),
        tuple(_column(column, places) for column in shaping.group),
        tuple((key if isinstance(key, int) else _column(key, places), is_down) for key, is_down in shaping.order),
        shaping.offset,
    )


def _joins(plan: SelectPlan, places: list[int]) -> list[JoinOn | None]:
    return [
        None if on is None else JoinOn(_column(on.earlier, places), _column(on.joined, places)) for on in plan.joins
    ]


def _column(column: ColumnRef, places: list[int]) -> ColumnRef:
    return ColumnRef(places[column.relvar], column.column, column.algebraic_type)


def _moved(typed: Typed, places: list[int]) -> Typed:
    """The expression with its tables renumbered. Chains of comparisons lean left and may be long."""
    chain: list[Compare] = []
    while isinstance(typed, Compare):
        chain.append(typed)
        typed = typed.left
    out: Typed = typed
    match typed:
        case ColumnRef():
            out = _column(typed, places)
        case Combine(operator, terms):
            out = Combine(operator, tuple(_moved(term, places) for term in terms))
    for link in reversed(chain):
        out = Compare(link.operator, out, _moved(link.right, places))
    return out
