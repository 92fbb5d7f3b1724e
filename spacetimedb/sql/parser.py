"""The two languages: which general trees are statements of ours, and the exact words of every refusal.

``parse_subscription`` is the language of subscriptions and row-level security: one SELECT of whole rows (column lists
and COUNT parse here and are refused later, when names are known). ``parse_sql`` is the language of the SQL route:
SELECT with column lists, COUNT and LIMIT, INSERT, UPDATE, DELETE, SET, SHOW. ``parse_one_off`` takes what only reads.

Beyond SpacetimeDB's own languages all take ``NOT``, which its query builders write, and all but subscriptions

    SELECT ... [GROUP BY column, ...] [ORDER BY column [ASC|DESC], ...] [LIMIT n] [OFFSET n]
    COUNT(column), SUM, MIN, MAX, AVG                  (with an alias, like COUNT(*))
    NULL, ARRAY[a, b], (a, b), name(a)                 literals: no value of an option, array, product, variant of a sum
    EXPLAIN SELECT ...

Limits: MAX_QUERY_BYTES of text, MAX_DEPTH levels of expression (parentheses are limited in ``expressions``).
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from spacetimedb.sql.errors import SqlError
from spacetimedb.sql.grammar import Grammar
from spacetimedb.sql.syntax import (
    COMPARISONS,
    Aggregate,
    Aggregates,
    Binary,
    Column,
    Columns,
    Comparison,
    Composite,
    Count,
    Delete,
    DeleteTree,
    Explain,
    ExplainTree,
    Expression,
    FromItem,
    Function,
    Insert,
    InsertTree,
    Item,
    Join,
    JoinClause,
    Literal,
    Logical,
    Nested,
    Not,
    QueryTree,
    Reference,
    Row,
    Select,
    SelectTree,
    Sender,
    SetTree,
    SetVariable,
    ShowTree,
    ShowVariable,
    Source,
    Star,
    Statement,
    StatementTree,
    TableName,
    Tree,
    Unary,
    Update,
    UpdateTree,
    Value,
    WholeRows,
    depth_of,
    render,
    render_query,
)

MAX_QUERY_BYTES: Final = 50_000
MAX_DEPTH: Final = 1601
_SHOWN: Final = 120
"""Characters of an overlong text that its refusal quotes."""


def parse_subscription(text: str) -> Select:
    """The SELECT in ``text``; raises SqlError."""
    tree = _single(text)
    if not isinstance(tree, QueryTree):
        raise SqlError("Unsupported: Non-SELECT queries")
    if tree.limit is not None and tree.order_by:
        raise SqlError(f"Unsupported: {render_query(tree)}; subscriptions can have no ORDER BY ... LIMIT")
    if tree.limit is not None or _has_clauses(tree):
        raise SqlError(f"Unsupported: {render_query(tree)}")
    body = tree.body
    if not isinstance(body, SelectTree):
        raise SqlError(f"Unsupported set operation: {body}")
    if _is_odd(body):
        raise SqlError(f"Unsupported SELECT: {render_query(tree)}")
    if not body.tables:
        raise SqlError("A FROM clause is required")
    return _select(body, None, False)


def parse_one_off(text: str) -> Select | Explain:
    """The SELECT or EXPLAIN in ``text``, with all that a statement of the SQL route may have; raises SqlError.

    What is no more than a query of the subscription language is refused with the words of that.
    """
    tree = _single(text)
    if isinstance(tree, ExplainTree):
        return Explain(_query(tree.query), tree.inner)
    if isinstance(tree, QueryTree) and isinstance(tree.body, SelectTree):
        body = tree.body
        if tree.order is not None or tree.limit is not None or tree.offset_rows is not None or body.group is not None:
            return _query(tree)
        if not _has_clauses(tree) and not _is_odd(body) and body.tables:
            return _select(body, None, True)
    return parse_subscription(text)


def parse_sql(text: str) -> Statement:
    """The statement in ``text``; raises SqlError."""
    tree = _single(text)
    match tree:
        case QueryTree():
            return _query(tree)
        case ExplainTree():
            return Explain(_query(tree.query), tree.inner)
        case InsertTree():
            return _insert(tree)
        case UpdateTree():
            return _update(tree)
        case DeleteTree():
            return _delete(tree)
        case SetTree():
            if tree.odd:
                raise SqlError(f"Unsupported: {tree.text}")
            value = _assigned(tree.values[0])
            if not isinstance(value, Literal):
                raise SqlError(f"Unsupported literal expression: {value.text}")
            return SetVariable(tree.variable, value)
        case ShowTree():
            return ShowVariable(tree.variable)
    raise SqlError(f"Unsupported: {tree.text}")


def _single(text: str) -> StatementTree:
    if len(text) * 4 > MAX_QUERY_BYTES and len(text.encode("utf-8", "replace")) > MAX_QUERY_BYTES:
        raise SqlError(f'SQL query exceeds maximum allowed length: "{text[:_SHOWN]}..."')
    statements = Grammar(text).statements()
    if not statements:
        raise SqlError("Empty SQL query")
    if len(statements) > 1:
        raise SqlError("Multiple SQL statements are not supported")
    return statements[0]


def _has_clauses(tree: QueryTree) -> bool:
    return bool(tree.with_clause or tree.order_by or tree.offset or tree.fetch or tree.locks)


def _is_odd(select: SelectTree) -> bool:
    return bool(select.before or select.into or select.after)


def _query(tree: QueryTree) -> Select:
    """A query of the SQL route."""
    body = tree.body
    order = tree.order or []
    is_odd = not isinstance(body, SelectTree) or body.before or body.into or (body.after and body.group is None)
    is_odd = is_odd or (tree.order_by and tree.order is None) or tree.with_clause or tree.fetch or tree.locks
    for number in (tree.limit, tree.offset_rows):
        is_odd = is_odd or (number is not None and not (isinstance(number, Value) and number.kind == "number"))
    is_odd = is_odd or not all(isinstance(column, Column) for column, _ in order)
    if is_odd or not isinstance(body, SelectTree) or not all(isinstance(c, Column) for c in body.group or ()):
        raise SqlError(f"Unsupported: {render_query(tree)}")
    if body.group is not None and not any(isinstance(i, Item) and isinstance(i.tree, Function) for i in body.items):
        raise SqlError(f"Unsupported: {render_query(tree)}")
    limit = tree.limit.text if isinstance(tree.limit, Value) else None
    select = _select(body, limit, True)
    columns = tuple((Reference(*tree.split()), is_down) for tree, is_down in order if isinstance(tree, Column))
    if not select.joins:
        columns = tuple((_qualified(column, select.table.alias), is_down) for column, is_down in columns)
    offset = tree.offset_rows.text if isinstance(tree.offset_rows, Value) else None
    projection = select.projection
    if isinstance(projection, Count) and (columns or offset):
        projection = Aggregates(((Aggregate("count", None), projection.alias),), ())
    return replace(select, projection=projection, order=columns, offset=offset)


# ---- SELECT -------------------------------------------------------------------------------------------------------


def _select(tree: SelectTree, limit: str | None, extended: bool) -> Select:
    projection = _projection(tree.items, tree.group, extended)
    table, joins = _from(tree.tables)
    where = _expression(tree.where, extended) if tree.where is not None else None
    if not joins:
        if isinstance(projection, Columns):
            projection = Columns(tuple((_qualified(column, table.alias), name) for column, name in projection.items))
        elif isinstance(projection, Aggregates):
            projection = _qualified_aggregates(projection, table.alias)
        return Select(projection, table, (), qualify(where, table.alias) if where is not None else None, limit)
    references = [column for column, _ in projection.items] if isinstance(projection, Columns) else []
    if isinstance(projection, Aggregates):
        columns = [item.column if isinstance(item, Aggregate) else item for item, _ in projection.items]
        references = [column for column in (*columns, *projection.group) if column is not None]
    references += [column for join in joins if join.on for column in join.on]
    if any(column.table is None for column in references) or (where is not None and not _is_qualified(where)):
        raise SqlError("Names must be qualified when using joins")
    return Select(projection, table, joins, where, limit)


_AGGREGATES: Final = frozenset(("count", "sum", "min", "max", "avg"))


def _aggregate(tree: Tree) -> Aggregate | None:
    """An aggregate function over one column, or over all rows."""
    if isinstance(tree, Function):
        if tree.is_count_star:
            return Aggregate("count", None)
        match tree.arguments:
            case (Column() as column,) if tree.name.lower() in _AGGREGATES:
                return Aggregate(tree.name.lower(), Reference(*column.split()))
    return None


def _aggregates(items: list[Star | Item], group: list[Tree] | None) -> Aggregates | None:
    """A projection with aggregates that is more than COUNT(*); None for any other."""
    found: list[tuple[Reference | Aggregate, str]] = []
    has_functions = has_columns = False
    for item in items:
        if isinstance(item, Star):
            return None
        aggregate = _aggregate(item.tree)
        if aggregate is not None:
            if item.alias is None:
                raise SqlError("Aggregate expressions must have column aliases")
            has_functions = True
            found.append((aggregate, item.alias.text))
        elif isinstance(item.tree, Column):
            has_columns = True
            reference = Reference(*item.tree.split())
            found.append((reference, item.alias.text if item.alias else reference.column))
        else:
            return None
    if not has_functions or (has_columns and group is None):
        return None
    if group is None and len(found) == 1 and found[0][0] == Aggregate("count", None):
        return None
    return Aggregates(tuple(found), tuple(Reference(*c.split()) for c in group or () if isinstance(c, Column)))


def _qualified_aggregates(projection: Aggregates, table: str) -> Aggregates:
    items: list[tuple[Reference | Aggregate, str]] = []
    for item, name in projection.items:
        if isinstance(item, Reference):
            items.append((_qualified(item, table), name))
        else:
            column = None if item.column is None else _qualified(item.column, table)
            items.append((Aggregate(item.function, column), name))
    return Aggregates(tuple(items), tuple(_qualified(column, table) for column in projection.group))


def _projection(
    items: list[Star | Item], group: list[Tree] | None, extended: bool
) -> WholeRows | Columns | Count | Aggregates:
    if extended:
        aggregates = _aggregates(items, group)
        if aggregates is not None:
            return aggregates
    if len(items) == 1:
        item = items[0]
        if isinstance(item, Star):
            return WholeRows(".".join(part.text for part in item.table) if item.table else None)
        if isinstance(item.tree, Function):
            if item.alias is None:
                raise SqlError("Aggregate expressions must have column aliases")
            if not item.tree.is_count_star:
                raise SqlError(f"Unsupported aggregate function: {item.tree.text}")
            return Count(item.alias.text)
    columns: list[tuple[Reference, str]] = []
    for item in items:
        if isinstance(item, Star):
            raise SqlError("Mixed wildcard projections are not supported")
        if not isinstance(item.tree, Column):
            raise SqlError(f"Unsupported projection expression: {render(item.tree)}")
        reference = Reference(*item.tree.split())
        columns.append((reference, item.alias.text if item.alias else reference.column))
    return Columns(tuple(columns))


def _from(tables: list[FromItem]) -> tuple[TableName, tuple[Join, ...]]:
    if not tables:
        raise SqlError("A FROM clause is required")
    if len(tables) > 1:
        raise SqlError("Implicit joins are not supported")
    first = _table(tables[0].source)
    return first, tuple(_join(join) for join in tables[0].joins)


def _table(source: Source) -> TableName:
    if source.name is None:
        raise SqlError(f"Unsupported FROM expression: {source.text}")
    name = ".".join(part.text for part in source.name)
    return TableName(name, source.alias.text if source.alias else name)


def _join(join: JoinClause) -> Join:
    table = _table(join.source)
    if join.kind not in ("JOIN", "CROSS JOIN") or join.using:
        raise SqlError("Non-inner joins are not supported")
    if join.on is None:
        return Join(table, None)
    match join.on:
        case Binary("=", Column() as left, Column() as right):
            return Join(table, (Reference(*left.split()), Reference(*right.split())))
    raise SqlError("Non-inner joins are not supported")


# ---- expressions --------------------------------------------------------------------------------------------------


def _expression(tree: Tree, extended: bool) -> Expression:
    if depth_of(tree) > MAX_DEPTH:
        raise SqlError("Recursion limit exceeded, `sql-parser::parse_expr`")
    return _convert(tree, extended)


def _convert(tree: Tree, extended: bool) -> Expression:
    """Recursion goes only into right operands and parentheses, which the grammar keeps shallow."""
    spine: list[Binary] = []
    while True:
        if isinstance(tree, Binary):
            spine.append(tree)
            tree = tree.left
        elif isinstance(tree, Nested) and not spine:
            tree = tree.inner
        else:
            break
    out = _convert(tree.inner, extended) if isinstance(tree, Nested) else _leaf(tree, extended)
    at = len(spine) - 1
    while at >= 0:
        operator = spine[at].operator
        right = _convert(spine[at].right, extended)
        at -= 1
        if operator in ("AND", "OR"):
            terms = [out, right]
            while at >= 0 and spine[at].operator == operator:
                terms.append(_convert(spine[at].right, extended))
                at -= 1
            out = Logical(operator, tuple(terms))
        elif operator in COMPARISONS:
            rest = [(operator, right)]
            while at >= 0 and spine[at].operator in COMPARISONS:
                rest.append((spine[at].operator, _convert(spine[at].right, extended)))
                at -= 1
            out = Comparison(out, tuple(rest))
        else:
            raise SqlError(f"Unsupported binary operator: {operator}")
    return out


def _leaf(tree: Tree, extended: bool) -> Expression:
    if extended:
        literal = _composite(tree)
        if literal is not None:
            return literal
    match tree:
        case Unary(operators, inner) if operators.startswith("NOT"):
            out = _convert(inner, extended)
            return Not(out) if operators.count("NOT") % 2 else out
        case Column():
            return Reference(*tree.split())
        case Value("placeholder", ":sender"):
            return Sender()
        case Value():
            return _literal(tree)
        case Unary("+" | "-" as sign, Value("number", text)):
            return Literal("number", sign + text)
    raise SqlError(f"Unsupported expression: {render(tree)}")


def _literal(value: Value) -> Literal:
    if value.kind not in ("number", "string", "hex", "bool"):
        raise SqlError(f"Unsupported literal expression: {render(value)}")
    return Literal(value.kind, value.text)


def _composite(tree: Tree) -> Composite | None:
    """A literal of several parts, None for anything else."""
    match tree:
        case Value("null", text):
            return Composite("null", text)
        case Row(text, kind, trees):
            name = ""
        case Function(text, False, name, trees) if name:
            kind = "row" if name.upper() == "ROW" else "call"
        case _:
            return None
    items: list[Literal | Composite] = []
    for inner in trees:
        found = _signed(inner)
        if found is None:
            return None
        items.append(found)
    return Composite(kind, text, name, tuple(items))


def _signed(tree: Tree) -> Literal | Composite | None:
    """A literal, if a number then with or without sign; None for anything else."""
    composite = _composite(tree)
    if composite is not None:
        return composite
    match tree:
        case Value():
            return _literal(tree)
        case Unary("+" | "-" as sign, Value("number", text)):
            return Literal("number", sign + text)
    return None


def qualify(expression: Expression, table: str) -> Expression:
    """The expression with every unqualified column given to ``table``."""
    match expression:
        case Reference():
            return _qualified(expression, table)
        case Not(inner):
            return Not(qualify(inner, table))
        case Comparison(first, rest):
            return Comparison(qualify(first, table), tuple((op, qualify(operand, table)) for op, operand in rest))
        case Logical(operator, terms):
            return Logical(operator, tuple(qualify(term, table) for term in terms))
    return expression


def _qualified(reference: Reference, table: str) -> Reference:
    return reference if reference.table is not None else Reference(table, reference.column)


def _is_qualified(expression: Expression) -> bool:
    match expression:
        case Reference(table, _):
            return table is not None
        case Comparison(first, rest):
            return _is_qualified(first) and all(_is_qualified(operand) for _, operand in rest)
        case Logical(_, terms):
            return all(map(_is_qualified, terms))
        case Not(inner):
            return _is_qualified(inner)
    return True


# ---- DML ----------------------------------------------------------------------------------------------------------


def _insert(tree: InsertTree) -> Insert:
    if tree.odd or tree.source is None:
        raise SqlError(f"Unsupported: {tree.text}")
    source = tree.source
    if source.rows is None:
        raise SqlError(f"Unsupported INSERT expression: {render_query(source)}")
    if _has_clauses(source) or source.limit is not None:
        raise SqlError(f"Unsupported INSERT expression: {render_query(source)}")
    rows: list[tuple[Literal | Composite, ...]] = []
    for row in source.rows:
        values: list[Literal | Composite] = []
        for value in row:
            literal = _signed(value)
            if literal is None:
                raise SqlError(f"Unsupported INSERT value: {render(value)}")
            values.append(literal)
        rows.append(tuple(values))
    return Insert(".".join(part.text for part in tree.table), len(tree.columns), tuple(rows))


def _update(tree: UpdateTree) -> Update:
    if tree.odd:
        raise SqlError(f"Unsupported: {tree.text}")
    table = _table(tree.table.source).name
    assignments = [(".".join(part.text for part in target), _assigned(value)) for target, value in tree.assignments]
    where = qualify(_expression(tree.where, True), table) if tree.where is not None else None
    return Update(table, tuple(assignments), where)


def _assigned(value: Tree) -> Literal | Composite:
    literal = _signed(value)
    if literal is None:
        raise SqlError(f"Unsupported column/variable assignment expression: {render(value)}")
    return literal


def _delete(tree: DeleteTree) -> Delete:
    if tree.odd:
        raise SqlError(f"Unsupported: {tree.text}")
    if len(tree.tables) > 1:
        raise SqlError("Multi-table DELETE is not supported")
    item = tree.tables[0]
    if item.joins or item.source.alias is not None or item.source.name is None:
        text = item.source.text if not item.joins else render_item_tables(item)
        raise SqlError(f"Unsupported table expression in DELETE: {text}")
    table = _table(item.source).name
    where = qualify(_expression(tree.where, True), table) if tree.where is not None else None
    return Delete(table, where)


def render_item_tables(item: FromItem) -> str:
    """The FROM entry as text, for refusals."""
    return " ".join([item.source.text, *(f"{join.kind} {join.source.text}" for join in item.joins)])
