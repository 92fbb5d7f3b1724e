"""Plans: what a statement will do, as data.

``plan_subscription`` plans a query that a client subscribes to, ``plan_one_off`` the same language for a single answer,
``plan_sql`` a statement of the SQL route. All raise SqlError with the text that the caller gets, bare (a subscription
adds its own suffix).

Callers other than the owner get what row-level security leaves them (see ``rules``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from msgspec import Struct

from spacetimedb.sql.catalog import NO_PROJECTIONS, Catalog, TableRef
from spacetimedb.sql.composite import encoded
from spacetimedb.sql.errors import SqlError
from spacetimedb.sql.literals import COMPARABLE, INTEGER_BITS, Constant, parse
from spacetimedb.sql.parser import parse_one_off, parse_sql, parse_subscription
from spacetimedb.sql.predicate import Matches, compile_replacement
from spacetimedb.sql.resolve import (
    ColumnRef,
    Combine,
    Compare,
    Scope,
    Typed,
    find_table,
    not_in_scope,
)
from spacetimedb.sql.rules import apply_rules
from spacetimedb.sql.select_plan import AggregateOf, JoinOn, ResultColumn, SelectPlan, Shaping
from spacetimedb.sql.syntax import (
    Aggregates,
    Columns,
    Comparison,
    Count,
    Delete,
    Explain,
    Expression,
    Insert,
    Literal,
    Reference,
    SetVariable,
    ShowVariable,
    TableName,
    Update,
    WholeRows,
)
from spacetimedb.sql.syntax import Select as SelectStatement
from spacetimedb.types.algebraic import (
    BOOL,
    BYTES,
    F32,
    F64,
    I128,
    I256,
    STRING,
    U64,
    U128,
    U256,
    AlgebraicType,
    Primitive,
    display,
)
from spacetimedb.types.special import Identity

__all__ = [
    "DeletePlan",
    "ExplainPlan",
    "InsertPlan",
    "Plan",
    "SelectPlan",
    "SetPlan",
    "UpdatePlan",
    "plan_one_off",
    "plan_rule",
    "plan_sql",
    "plan_subscription",
    "protected_table",
]

SYSTEM_VARIABLES: Final = ("row_limit",)
VARIABLES_TABLE: Final = "st_var"
MAX_TABLES_IN_SUBSCRIPTION: Final = 2


class InsertPlan(Struct, frozen=True):
    """INSERT of rows in BSATN. A zero in an auto-increment column is replaced as for any insert."""

    table: TableRef
    rows: tuple[bytes, ...]


class DeletePlan(Struct, frozen=True, eq=False):
    """DELETE of the rows for which ``matches`` holds (None: all). ``equalities``: column to its index key."""

    table: TableRef
    matches: Matches | None
    equalities: dict[int, bytes]


class UpdatePlan(Struct, frozen=True, eq=False):
    """UPDATE: delete every matching row, then insert ``replace(row)`` for each. ``columns`` are those assigned."""

    table: TableRef
    matches: Matches | None
    equalities: dict[int, bytes]
    columns: tuple[int, ...]
    replace: Callable[[bytes], bytes]


class SetPlan(Struct, frozen=True):
    """SET: insert ``(variable, value)`` into ``st_var``."""

    variable: str
    value: int


class ExplainPlan(Struct, frozen=True, eq=False):
    """EXPLAIN of a plan; ``text`` is that of the query."""

    plan: SelectPlan
    text: str


Plan = SelectPlan | ExplainPlan | InsertPlan | DeletePlan | UpdatePlan | SetPlan


def plan_subscription(text: str, catalog: Catalog, caller: Identity) -> SelectPlan:
    """The plan of a query to subscribe to, with the rules for joins in subscriptions."""
    plan = _with_rules(plan_rule(text, catalog, caller), catalog, caller)
    for fragment in plan.fragments:
        _check_joins(fragment)
    return plan


def plan_one_off(text: str, catalog: Catalog, caller: Identity) -> SelectPlan | ExplainPlan:
    """The plan of a query that is answered once; any number of tables, indexed or not."""
    statement = parse_one_off(text)
    if isinstance(statement, Explain):
        return _plan_explain(statement, catalog, caller)
    plan = _plan_select(statement, catalog, caller, True)
    if isinstance(statement.projection, Columns):
        raise SqlError(NO_PROJECTIONS)
    return _with_rules(plan, catalog, caller)


def _plan_explain(statement: Explain, catalog: Catalog, caller: Identity) -> ExplainPlan:
    plan = _with_rules(_plan_select(statement.select, catalog, caller, True), catalog, caller)
    return ExplainPlan(plan, statement.text)


def plan_rule(text: str, catalog: Catalog, caller: Identity) -> SelectPlan:
    """The plan of a query in the subscription language as it stands, without row-level security."""
    plan = _plan_select(parse_subscription(text), catalog, caller)
    if plan.returned is None:
        raise SqlError(NO_PROJECTIONS)
    return plan


def protected_table(rule: str, catalog: Catalog) -> TableRef:
    """The table that a rule of row-level security protects: the one it returns. Raises SqlError for a bad rule.

    ``catalog`` is that of the owner.
    """
    table = plan_rule(rule, catalog, Identity(bytes(32))).table
    if not table.is_public:
        raise SqlError(
            f"Cannot define RLS rule on private table: {table.name}. "
            "Please make table public if you wish to restrict access using RLS."
        )
    return table


def _with_rules(plan: SelectPlan, catalog: Catalog, caller: Identity) -> SelectPlan:
    return apply_rules(plan, lambda rule: plan_rule(rule, catalog, caller))


def plan_sql(text: str, catalog: Catalog, caller: Identity, may_write: bool) -> Plan:
    """The plan of a statement of the SQL route. ``may_write``: the caller may change data (it is the owner)."""
    statement = parse_sql(text)
    plan: Plan
    match statement:
        case SelectStatement():
            return _with_rules(_plan_select(statement, catalog, caller, True), catalog, caller)
        case Explain():
            return _plan_explain(statement, catalog, caller)
        case ShowVariable(variable):
            _check_variable(variable)
            where: Expression = _name_is(variable)
            table = TableName(VARIABLES_TABLE, VARIABLES_TABLE)
            item = Reference(VARIABLES_TABLE, "value")
            return _plan_select(SelectStatement(Columns(((item, "value"),)), table, (), where), catalog, caller)
        case Insert():
            plan = _plan_insert(statement, catalog)
        case Update():
            plan = _plan_update(statement, catalog, caller)
        case Delete():
            plan = _plan_delete(statement, catalog, caller)
        case SetVariable():
            plan = _plan_set(statement)
    if not may_write:
        raise SqlError(f"Caller {caller.hex()} is not authorized to run SQL DML statements")
    return plan


# ---- SELECT -------------------------------------------------------------------------------------------------------


def _plan_select(select: SelectStatement, catalog: Catalog, caller: Identity, extended: bool = False) -> SelectPlan:
    scope = Scope(catalog, caller, extended)
    scope.add(select.table)
    joins: list[JoinOn | None] = []
    extra: list[Typed] = []
    same_table = False
    for number, join in enumerate(select.joins, 1):
        scope.add(join.table)
        on: JoinOn | None = None
        if join.on is not None:
            left, right = scope.typed_pair(*join.on)
            if left.relvar == right.relvar:
                same_table = True
            elif right.relvar == number:
                on = JoinOn(left, right)
            elif left.relvar == number:
                on = JoinOn(right, left)
            else:
                extra.append(Compare("=", left, right))
        joins.append(on)
    where = scope.typed(select.where, BOOL) if select.where is not None else None
    if extra:
        where = Combine("AND", (*extra, *([where] if where is not None else [])))
    relvars = tuple(scope.relvars)
    returned: int | None = None
    picked: tuple[ColumnRef, ...] | None = None
    outputs: tuple[ColumnRef | AggregateOf, ...] | None = None
    columns: tuple[ResultColumn, ...]
    match select.projection:
        case WholeRows(table):
            if table is None and len(relvars) > 1:
                raise SqlError("SELECT * is not supported for joins")
            returned = 0 if table is None else scope.relvar(table)
            columns = tuple(ResultColumn(c.name, c.algebraic_type) for c in relvars[returned].table.columns)
        case Columns(items):
            names: set[str] = set()
            found: list[ColumnRef] = []
            for reference, name in items:
                column = scope.column(reference)
                if name in names:
                    raise SqlError(f"Duplicate name `{name}`")
                names.add(name)
                found.append(column)
            picked = tuple(found)
            columns = tuple(
                ResultColumn(name, column.algebraic_type) for (_, name), column in zip(items, picked, strict=True)
            )
        case Count(alias):
            columns = (ResultColumn(alias, U64),)
        case Aggregates():
            outputs, columns = _aggregates(select.projection, scope)
    limit = None if select.limit is None else _limit(select.limit)
    if same_table:
        raise SqlError("Could not compute positional arguments during query planning")
    shaping = None
    if outputs is not None or select.order or select.offset is not None:
        group = select.projection.group if isinstance(select.projection, Aggregates) else ()
        items = select.projection.items if isinstance(select.projection, Columns) else ()
        aliases = [(name, column) for column, name in items]
        shaping = Shaping(
            outputs,
            tuple(map(scope.column, group)),
            tuple((_order_key(column, scope, outputs, columns, aliases), is_down) for column, is_down in select.order),
            0 if select.offset is None else _limit(select.offset),
        )
    return SelectPlan(
        relvars, tuple(joins), where, returned, picked, columns, limit, scope.uses_sender, shaping=shaping
    )


def _aggregates(
    projection: Aggregates, scope: Scope
) -> tuple[tuple[ColumnRef | AggregateOf, ...], tuple[ResultColumn, ...]]:
    group = {scope.column(column) for column in projection.group}
    outputs: list[ColumnRef | AggregateOf] = []
    columns: list[ResultColumn] = []
    for item, name in projection.items:
        if any(column.name == name for column in columns):
            raise SqlError(f"Duplicate name `{name}`")
        output: ColumnRef | AggregateOf
        if isinstance(item, Reference):
            output = scope.column(item)
            if output not in group:
                raise SqlError(f"`{item.column}` has to be in GROUP BY, or in an aggregate")
        elif item.column is None:
            output = AggregateOf(item.function, None, U64)
        else:
            column = scope.column(item.column)
            output = AggregateOf(item.function, column, _aggregate_type(item.function, column.algebraic_type))
        outputs.append(output)
        columns.append(ResultColumn(name, output.algebraic_type))
    return tuple(outputs), tuple(columns)


def _aggregate_type(function: str, t: AlgebraicType) -> AlgebraicType:
    """Sums of integers are twice as wide as 64-bit ones (or 256 bits), averages are F64, the rest is as the column."""
    bits, is_signed = INTEGER_BITS.get(t, (0, False)) if isinstance(t, Primitive) else (0, False)
    if function == "count":
        return U64
    if function in ("min", "max"):
        if t in COMPARABLE:
            return t
    elif bits or t in (F32, F64):
        if function == "avg" or not bits:
            return F64
        return (I128 if is_signed else U128) if bits <= 64 else I256 if is_signed else U256
    raise SqlError(f"Invalid aggregate function `{function}` for type `{display(t)}`")


def _order_key(
    reference: Reference,
    scope: Scope,
    outputs: tuple[ColumnRef | AggregateOf, ...] | None,
    columns: tuple[ResultColumn, ...],
    aliases: Iterable[tuple[str, Reference]],
) -> ColumnRef | int:
    if outputs is not None:
        for number, column in enumerate(columns):
            if column.name == reference.column:
                key: ColumnRef | int = number
                break
        else:
            raise not_in_scope(reference.column)
        t = columns[number].algebraic_type
    else:
        named = dict(aliases)
        if reference.table is None and reference.column not in named:
            raise SqlError("Names must be qualified when using joins")
        key = scope.column(named.get(reference.column, reference))
        t = key.algebraic_type
    if t not in COMPARABLE:
        raise SqlError(f"Invalid ORDER BY for type `{display(t)}`")
    return key


def _limit(text: str) -> int:
    found = parse(text, U64)
    if found is None:
        raise SqlError(f"The literal expression `{text}` cannot be parsed as type `U64`")
    assert isinstance(found.value, int)
    return found.value


def _check_joins(plan: SelectPlan) -> None:
    """What subscriptions may join: two tables, the one that is looked up indexed and no event table."""
    if plan.is_single:
        return
    for on in plan.joins:
        if on is None:
            raise SqlError("Subscriptions require indexes on join columns")
        lookup = on.joined
        if len(plan.relvars) == 2 and not _is_filtered(plan, 0) and _is_filtered(plan, 1):
            lookup = on.earlier
        table = plan.relvars[lookup.relvar].table
        fixed = plan.equalities(lookup.relvar)
        if not any(
            columns and columns[-1] == lookup.column and all(column in fixed for column in columns[:-1])
            for columns in table.indexes
        ):
            raise SqlError("Subscriptions require indexes on join columns")
        if len(plan.relvars) <= MAX_TABLES_IN_SUBSCRIPTION and table.is_event:
            raise SqlError("Event tables cannot be used as the lookup table in subscription joins")
    if len(plan.relvars) > MAX_TABLES_IN_SUBSCRIPTION:
        raise SqlError(f"Invalid number of tables in subscription: {len(plan.relvars)}")


def _is_filtered(plan: SelectPlan, relvar: int) -> bool:
    """Whether a comparison with a constant narrows this table before the join; views always are."""
    if plan.relvars[relvar].table.is_view:
        return True
    for term in plan.terms:
        match term:
            case Compare(_, ColumnRef(number, _), Constant()) | Compare(_, Constant(), ColumnRef(number, _)):
                if number == relvar:
                    return True
    return False


# ---- DML ----------------------------------------------------------------------------------------------------------


def _writable(catalog: Catalog, name: str) -> TableRef:
    table = find_table(catalog, name)
    if table.is_view:
        raise SqlError(f"`{name}` is a view; DML on views is not supported")
    if table.is_system and table.name != VARIABLES_TABLE:
        # Rows of the other system tables describe the database to itself: changing them would break it.
        raise SqlError(f"`{name}` is a system table; DML on system tables is not supported")
    return table


def _plan_insert(insert: Insert, catalog: Catalog) -> InsertPlan:
    table = _writable(catalog, insert.table)
    count = len(table.columns)
    if insert.column_count != count:
        raise SqlError(
            f"The number of fields ({insert.column_count}) in the INSERT does not match the number of columns "
            f"({count}) of the table `{insert.table}`"
        )
    rows: list[bytes] = []
    for values in insert.rows:
        if len(values) != count:
            raise SqlError(f"Inserting a row with {len(values)} values into `{insert.table}` which has {count} fields")
        rows.append(b"".join(encoded(value, c.algebraic_type) for value, c in zip(values, table.columns, strict=True)))
    return InsertPlan(table, tuple(rows))


def _plan_update(update: Update, catalog: Catalog, caller: Identity) -> UpdatePlan:
    table = _writable(catalog, update.table)
    values: dict[int, bytes] = {}
    for name, literal in update.assignments:
        column = table.column(name)
        if column is None:
            raise SqlError(f"`{update.table}` does not have a field `{name}`")
        # A column that is assigned twice keeps the first value.
        values.setdefault(column, encoded(literal, table.type_of(column)))
    matches, equalities = _condition(update.table, update.where, catalog, caller)
    replace = compile_replacement(table.layout, values)
    return UpdatePlan(table, matches, equalities, tuple(sorted(values)), replace)


def _plan_delete(delete: Delete, catalog: Catalog, caller: Identity) -> DeletePlan:
    table = _writable(catalog, delete.table)
    return DeletePlan(table, *_condition(delete.table, delete.where, catalog, caller))


def _condition(
    name: str, where: Expression | None, catalog: Catalog, caller: Identity
) -> tuple[Matches | None, dict[int, bytes]]:
    select = SelectStatement(WholeRows(None), TableName(name, name), (), where)
    plan = _plan_select(select, catalog, caller, True)
    keys = {column: value.key for column, value in plan.equalities().items()}
    return (plan.filter[0] if plan.filter else None), keys


def _plan_set(statement: SetVariable) -> SetPlan:
    _check_variable(statement.variable)
    literal = statement.value
    token_types: dict[str, AlgebraicType] = {"bool": BOOL, "string": STRING, "hex": BYTES}
    own = token_types.get(literal.kind)
    if own is not None:
        raise SqlError(f"Unexpected type: (expected) {display(U64)} != {display(own)} (inferred)")
    return SetPlan(statement.variable, _limit(literal.text))


def _check_variable(variable: str) -> None:
    if variable not in SYSTEM_VARIABLES:
        raise SqlError(f"{variable} is not a valid system variable")


def _name_is(variable: str) -> Expression:
    return Comparison(Reference(VARIABLES_TABLE, "name"), (("=", Literal("string", variable)),))
