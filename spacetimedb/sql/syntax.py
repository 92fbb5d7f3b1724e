"""What a text says before anything is known about tables: trees of the general grammar, and our statements.

The first half is what ``grammar`` builds: general SQL, including much that no statement of ours may hold, so that a
refusal can quote it. ``render`` gives the quoted text (keywords upper case, one space). Trees lean left in chains of
operators and may be as deep as the text is long, so walkers go down the left side in a loop.

The second half is what ``parser`` makes of them: the statements that the server runs.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

# ---- general trees ------------------------------------------------------------------------------------------------


class Name(Struct, frozen=True):
    """An identifier as written; ``quoted`` only matters for rendering."""

    text: str
    quoted: bool = False

    def __str__(self) -> str:
        return '"' + self.text.replace('"', '""') + '"' if self.quoted else self.text


class Column(Struct, frozen=True):
    """``a.b.c``: the last part is the column, the others joined with ``.`` are the table."""

    parts: tuple[Name, ...]

    def split(self) -> tuple[str | None, str]:
        """(table or None, column)."""
        names = [part.text for part in self.parts]
        return (".".join(names[:-1]) if len(names) > 1 else None), names[-1]


class Value(Struct, frozen=True):
    """A literal. ``kind``: number, string, hex, bool, or another that is always refused (null, placeholder, other).

    ``text`` is what counts for typing; for the refused kinds it is the rendered text.
    """

    kind: str
    text: str


class Nested(Struct):
    """``( inner )``."""

    inner: Tree
    depth: int


class Unary(Struct):
    """A sign, or other prefix operators (which are refused), as rendered before the operand."""

    operator: str
    inner: Tree


class Binary(Struct):
    """``left operator right``; ``operator`` canonical (``=``, ``<>``, ``AND``)."""

    operator: str
    left: Tree
    right: Tree
    depth: int


class Function(Struct, frozen=True):
    """A call. ``is_count_star`` is ``count(*)``, whatever the case and quotes of the name.

    ``name`` is set, and ``arguments`` are, for a plain call ``name(a, b)``.
    """

    text: str
    is_count_star: bool = False
    name: str = ""
    arguments: tuple[Tree, ...] = ()


class Row(Struct, frozen=True):
    """``(a, b)`` (constructor ``row``) or ``ARRAY[a, b]`` (constructor ``array``), and as the text to quote."""

    text: str
    constructor: str
    items: tuple[Tree, ...]


class Other(Struct, frozen=True):
    """An expression that no statement may hold, as the text to quote."""

    text: str


Tree = Row | Column | Value | Nested | Unary | Binary | Function | Other


def depth_of(tree: Tree) -> int:
    """Levels of the tree: leaves, binary operators and parentheses count."""
    return tree.depth if isinstance(tree, Nested | Binary) else 1


def render(tree: Tree) -> str:
    """Canonical text of an expression."""
    tail: list[str] = []
    while isinstance(tree, Binary):
        tail.append(f" {tree.operator} {render(tree.right)}")
        tree = tree.left
    match tree:
        case Column(parts):
            head = ".".join(map(str, parts))
        case Value("string", text):
            head = "'" + text.replace("'", "''") + "'"
        case Value("hex", text):
            head = f"X'{text}'"
        case Value(_, text):
            head = text
        case Nested(inner):
            head = f"({render(inner)})"
        case Unary(operator, inner):
            head = operator + render(inner)
        case Function(text) | Row(text) | Other(text):
            head = text
    return head + "".join(reversed(tail))


class Star(Struct, frozen=True):
    """``*`` or ``table.*``."""

    table: tuple[Name, ...] | None


class Item(Struct):
    """An expression of a projection list with its alias."""

    tree: Tree
    alias: Name | None


class Source(Struct):
    """What stands after FROM or JOIN. ``name`` is None for anything that is not just a table."""

    text: str
    name: tuple[Name, ...] | None
    alias: Name | None = None


class JoinClause(Struct):
    """``kind`` as rendered (``JOIN``, ``LEFT JOIN``); ``on`` the condition; ``using`` other constraints."""

    kind: str
    source: Source
    on: Tree | None = None
    using: str = ""


class FromItem(Struct):
    """A table and the joins hung on it."""

    source: Source
    joins: list[JoinClause]


class SelectTree(Struct):
    """One SELECT block. ``before`` holds DISTINCT or TOP, ``after`` GROUP BY and the like: both make it refused.

    Except that ``group`` holds the expressions of GROUP BY if there is nothing else in ``after``.
    """

    items: list[Star | Item]
    tables: list[FromItem]
    where: Tree | None
    before: str = ""
    into: str = ""
    after: str = ""
    group: list[Tree] | None = None


class QueryTree(Struct):
    """A whole query. ``body`` is a SELECT, or the text of a set operation; ``rows`` is set for a VALUES list.

    ``order`` has (expression, is descending) of ``order_by`` if that is all there is in it; ``offset_rows`` is the
    expression in ``offset``.
    """

    body: SelectTree | str
    rows: list[list[Tree]] | None = None
    with_clause: str = ""
    order_by: str = ""
    limit: Tree | None = None
    offset: str = ""
    fetch: str = ""
    locks: str = ""
    order: list[tuple[Tree, bool]] | None = None
    offset_rows: Tree | None = None


class InsertTree(Struct):
    """INSERT. ``odd`` is set if something stands in it that is always refused; ``text`` renders all of it."""

    table: tuple[Name, ...]
    columns: list[Name]
    source: QueryTree | None
    odd: bool
    text: str


class UpdateTree(Struct):
    """UPDATE; fields as in InsertTree. Targets of assignments are all words before the ``=``."""

    table: FromItem
    assignments: list[tuple[list[Name], Tree]]
    where: Tree | None
    odd: bool
    text: str


class DeleteTree(Struct):
    """DELETE; fields as in InsertTree."""

    tables: list[FromItem]
    where: Tree | None
    odd: bool
    text: str


class SetTree(Struct):
    """SET; fields as in InsertTree."""

    variable: str
    values: list[Tree]
    odd: bool
    text: str


class ShowTree(Struct):
    """SHOW."""

    variable: str


class ExplainTree(Struct):
    """EXPLAIN of a query."""

    query: QueryTree
    text: str
    inner: str
    """The query as written."""


class OtherStatement(Struct):
    """A statement that is always refused, rendered."""

    text: str


StatementTree = QueryTree | InsertTree | UpdateTree | DeleteTree | SetTree | ShowTree | ExplainTree | OtherStatement


def render_from_item(item: FromItem) -> str:
    """``a JOIN b ON a.x = b.y``."""
    out = item.source.text
    for join in item.joins:
        on = f" ON {render(join.on)}" if join.on is not None else ""
        out += f" {join.kind} {join.source.text}{on}{join.using}"
    return out


def render_item(item: Star | Item) -> str:
    """One entry of a projection list."""
    if isinstance(item, Star):
        return ".".join(map(str, item.table)) + ".*" if item.table else "*"
    return render(item.tree) + (f" AS {item.alias}" if item.alias else "")


def render_select(select: SelectTree) -> str:
    """One SELECT block."""
    out = "SELECT " + select.before + ", ".join(map(render_item, select.items))
    if select.into:
        out += " " + select.into
    if select.tables:
        out += " FROM " + ", ".join(map(render_from_item, select.tables))
    if select.where is not None:
        out += " WHERE " + render(select.where)
    return out + select.after


def render_query(query: QueryTree) -> str:
    """A whole query."""
    body = query.body if isinstance(query.body, str) else render_select(query.body)
    limit = f" LIMIT {render(query.limit)}" if query.limit is not None else ""
    return query.with_clause + body + query.order_by + limit + query.offset + query.fetch + query.locks


# ---- statements ---------------------------------------------------------------------------------------------------


class Reference(Struct, frozen=True):
    """A column; ``table`` is the alias or table name as written, None only before names are qualified."""

    table: str | None
    column: str


class Literal(Struct, frozen=True):
    """A literal: kind number, string, hex or bool. Numbers carry their sign in ``text``."""

    kind: str
    text: str


class Composite(Struct, frozen=True):
    """A literal of several parts. kind: null; array; row, ``(a, b)``; call, ``name(a)``: a variant of a sum."""

    kind: str
    text: str
    name: str = ""
    items: tuple[Literal | Composite, ...] = ()


class Not(Struct, frozen=True):
    """``NOT inner``."""

    inner: Expression


class Sender(Struct, frozen=True):
    """``:sender``."""


class Comparison(Struct, frozen=True):
    """``first op1 x1 op2 x2 ...`` grouped to the left: ``rest`` holds (operator, operand)."""

    first: Expression
    rest: tuple[tuple[str, Expression], ...]


class Logical(Struct, frozen=True):
    """AND or OR over two or more terms, in order."""

    operator: str
    terms: tuple[Expression, ...]


Expression = Reference | Literal | Composite | Sender | Comparison | Logical | Not


class TableName(Struct, frozen=True):
    """A table in FROM. ``alias`` is the name it has in the rest of the statement."""

    name: str
    alias: str


class Join(Struct, frozen=True):
    """A joined table; ``on`` is None for a cross join, else (left column, right column) as written."""

    table: TableName
    on: tuple[Reference, Reference] | None


class WholeRows(Struct, frozen=True):
    """``*`` (table None) or ``table.*``."""

    table: str | None


class Columns(Struct, frozen=True):
    """A column list: (reference, output name)."""

    items: tuple[tuple[Reference, str], ...]


class Count(Struct, frozen=True):
    """``COUNT(*) AS alias``."""

    alias: str


class Aggregate(Struct, frozen=True):
    """``function(column) AS alias``; ``function`` is count, sum, min, max or avg; ``column`` is None for COUNT(*)."""

    function: str
    column: Reference | None


class Aggregates(Struct, frozen=True):
    """A projection with aggregates: (column of the GROUP BY or aggregate, output name)."""

    items: tuple[tuple[Reference | Aggregate, str], ...]
    group: tuple[Reference, ...]


class Select(Struct, frozen=True):
    """A SELECT of either language; ``limit`` and ``offset`` are the texts of numbers.

    ``order``: (column, or name of an output, is descending).
    """

    projection: WholeRows | Columns | Count | Aggregates
    table: TableName
    joins: tuple[Join, ...]
    where: Expression | None
    limit: str | None = None
    order: tuple[tuple[Reference, bool], ...] = ()
    offset: str | None = None


class Explain(Struct, frozen=True):
    """EXPLAIN; ``text`` is the query as written."""

    select: Select
    text: str


class Insert(Struct, frozen=True):
    """INSERT of literal rows; column names are not looked at, only counted."""

    table: str
    column_count: int
    rows: tuple[tuple[Literal | Composite, ...], ...]


class Update(Struct, frozen=True):
    """UPDATE with literal values."""

    table: str
    assignments: tuple[tuple[str, Literal | Composite], ...]
    where: Expression | None


class Delete(Struct, frozen=True):
    """DELETE."""

    table: str
    where: Expression | None


class SetVariable(Struct, frozen=True):
    """SET of a system variable."""

    variable: str
    value: Literal


class ShowVariable(Struct, frozen=True):
    """SHOW of a system variable."""

    variable: str


Statement = Select | Insert | Update | Delete | SetVariable | ShowVariable | Explain

COMPARISONS: Final = frozenset(("=", "<>", "<", ">", "<=", ">="))
