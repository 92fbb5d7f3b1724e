"""EXPLAIN: a plan in words, one row per step: (step, detail)."""

from __future__ import annotations

from typing import Final

from spacetimedb.sql.estimate import Statistics, chosen_index, estimate
from spacetimedb.sql.literals import Constant
from spacetimedb.sql.resolve import ColumnRef, Combine, Compare, Typed
from spacetimedb.sql.select_plan import AggregateOf, ResultColumn, SelectPlan, Shaping
from spacetimedb.types.algebraic import STRING

EXPLAIN_COLUMNS: Final = (ResultColumn("step", STRING), ResultColumn("detail", STRING))
SHOWN_CHARACTERS: Final = 1000
"""Length at which a condition is cut."""


def explain_rows(steps: list[tuple[str, str]]) -> list[bytes]:
    """The rows of the result, as BSATN."""
    return [_string(step) + _string(detail) for step, detail in steps]


def _string(text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    return len(data).to_bytes(4, "little") + data


def explain_plan(plan: SelectPlan, statistics: Statistics) -> list[tuple[str, str]]:
    """The steps of a plan, in the order in which they are done."""
    out: list[tuple[str, str]] = []
    for number, fragment in enumerate(plan.fragments):
        if plan.others:
            out.append(("fragment", f"{number + 1} of {len(plan.fragments)} (row-level security)"))
        out += _fragment(fragment, statistics)
    if plan.shaping is not None:
        out += _shaping(plan, plan.shaping)
    if plan.limit is not None:
        out.append(("limit", f"{plan.limit} rows"))
    out.append(("estimate", f"{estimate(plan, statistics)} rows looked at"))
    return out


def _fragment(plan: SelectPlan, statistics: Statistics) -> list[tuple[str, str]]:
    out: list[tuple[str, str]] = []
    for number, relvar in enumerate(plan.relvars):
        table = relvar.table
        count = "events have no rows" if table.is_event else f"{statistics.row_count(table.table_id)} rows"
        name = table.name if relvar.alias == table.name else f"{table.name} AS {relvar.alias}"
        index = chosen_index(plan, number)
        if index is not None:
            columns = ", ".join(table.columns[column].name for column in index)
            how = f"{name} by index ({columns})"
        else:
            how = name
        on = plan.joins[number - 1] if number else None
        kind = "look up" if index is not None else "scan"
        if number:
            kind = "join" if on is not None else "cross join"
            how += f" ON {_column(plan, on.earlier)} = {_column(plan, on.joined)}" if on is not None else ""
            if on is not None:
                indexed = (on.joined.column,) in table.indexes
                how += " (indexed)" if indexed else " (not indexed)"
        out.append((kind, f"{how}: {count}"))
        terms = plan.terms_on(number)
        if terms:
            out.append(("filter", _shown(" AND ".join(_text(plan, term) for term in terms))))
    alone = {id(term) for number in range(len(plan.relvars)) for term in plan.terms_on(number)}
    mixed = [term for term in plan.terms if id(term) not in alone]
    if mixed:
        out.append(("filter", _shown(" AND ".join(_text(plan, term) for term in mixed))))
    return out


def _shaping(plan: SelectPlan, shaping: Shaping) -> list[tuple[str, str]]:
    out: list[tuple[str, str]] = []
    if shaping.outputs is not None:
        names = [_output(plan, output) for output in shaping.outputs]
        group = ", ".join(_column(plan, column) for column in shaping.group)
        out.append(("aggregate", ", ".join(names) + (f" by {group}" if group else "")))
    if shaping.order:
        keys = []
        for key, is_descending in shaping.order:
            name = plan.columns[key].name if isinstance(key, int) else _column(plan, key)
            keys.append(name + (" descending" if is_descending else ""))
        out.append(("sort", ", ".join(keys)))
    if shaping.offset:
        out.append(("offset", f"{shaping.offset} rows"))
    return out


def _output(plan: SelectPlan, output: ColumnRef | AggregateOf) -> str:
    if isinstance(output, ColumnRef):
        return _column(plan, output)
    return f"{output.function}({'*' if output.column is None else _column(plan, output.column)})"


def _column(plan: SelectPlan, column: ColumnRef) -> str:
    relvar = plan.relvars[column.relvar]
    return f"{relvar.alias}.{relvar.table.columns[column.column].name}"


def _text(plan: SelectPlan, term: Typed) -> str:
    match term:
        case ColumnRef():
            return _column(plan, term)
        case Constant(value=value, encoded=encoded):
            if isinstance(value, bytes):
                return repr(value.decode()) if term.algebraic_type == STRING else "0x" + encoded.hex()
            return str(value)
        case Combine(operator, terms):
            return "(" + f" {operator} ".join(_text(plan, inner) for inner in terms) + ")"
        case Compare():
            chain: list[Compare] = []
            inner: Typed = term
            while isinstance(inner, Compare):
                chain.append(inner)
                inner = inner.left
            text = _text(plan, inner)
            for link in reversed(chain):
                text += f" {link.operator} {_text(plan, link.right)}"
            return text


def _shown(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."
