"""Names and types: a parsed statement becomes columns, constants and operators that are known to fit.

Comparisons need two values of the same comparable type; nothing is converted. In ``a op b`` the side that is a literal
or ``:sender`` takes the type of the other; otherwise ``b`` has to have the type of ``a``. The order in which parts are
looked at decides which of several errors a caller sees, so it is part of the behaviour.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from spacetimedb.sql.catalog import Catalog, TableRef
from spacetimedb.sql.composite import encoded
from spacetimedb.sql.errors import SqlError
from spacetimedb.sql.literals import COMPARABLE, Constant, constant, parse
from spacetimedb.sql.syntax import (
    Comparison,
    Composite,
    Expression,
    Literal,
    Logical,
    Not,
    Reference,
    Sender,
    TableName,
)
from spacetimedb.types.algebraic import BOOL, BYTES, IDENTITY, AlgebraicType, display
from spacetimedb.types.special import Identity


class ColumnRef(Struct, frozen=True):
    """Column number ``column`` of table number ``relvar`` of the FROM clause."""

    relvar: int
    column: int
    algebraic_type: AlgebraicType


class Compare(Struct, frozen=True):
    """``left op right`` over values of one comparable type."""

    operator: str
    left: Typed
    right: Typed
    algebraic_type: AlgebraicType = BOOL


class Combine(Struct, frozen=True):
    """AND or OR over boolean terms."""

    operator: str
    terms: tuple[Typed, ...]
    algebraic_type: AlgebraicType = BOOL


Typed = ColumnRef | Constant | Compare | Combine


class Relvar(Struct, frozen=True, eq=False):
    """A table in FROM under the name it goes by there."""

    table: TableRef
    alias: str


class Scope:
    """The tables of a FROM clause, and the caller that ``:sender`` stands for.

    ``uses_sender`` tells afterwards whether the statement depends on the caller.
    """

    def __init__(self, catalog: Catalog, caller: Identity, extended: bool = False) -> None:
        self.catalog = catalog
        self.extended = extended
        """Values of any type may be compared for equality with literals."""
        self.caller = caller
        self.uses_sender = False
        self.relvars: list[Relvar] = []
        self._aliases: dict[str, int] = {}

    def add(self, name: TableName) -> Relvar:
        """Brings a table into scope."""
        if name.alias in self._aliases:
            raise SqlError(f"Duplicate name `{name.alias}`")
        relvar = Relvar(find_table(self.catalog, name.name), name.alias)
        self._aliases[name.alias] = len(self.relvars)
        self.uses_sender |= relvar.table.is_per_caller
        self.relvars.append(relvar)
        return relvar

    def relvar(self, alias: str) -> int:
        """Number of the table that goes by this name."""
        found = self._aliases.get(alias)
        if found is None:
            raise not_in_scope(alias)
        return found

    def column(self, reference: Reference) -> ColumnRef:
        """The column that a reference names; it has to be qualified."""
        assert reference.table is not None
        relvar = self.relvar(reference.table)
        table = self.relvars[relvar].table
        column = table.column(reference.column)
        if column is None:
            raise not_in_scope(reference.column)
        return ColumnRef(relvar, column, table.type_of(column))

    def typed(self, expression: Expression, expected: AlgebraicType | None) -> Typed:
        """The expression as a value of the expected type, of its own type if None is expected."""
        match expression:
            case Not(inner):
                _match(BOOL, expected)
                return negated(self.typed(inner, BOOL))
            case Composite():
                if expected is None:
                    raise SqlError("Cannot resolve type for literal expression")
                data = encoded(expression, expected)
                return constant(BYTES, data[4:]) if expected == BYTES else Constant(expected, data, data, data)
            case Literal(kind, text):
                return self._literal(kind, text, expected)
            case Sender():
                return self._sender(expected)
            case Reference():
                column = self.column(expression)
                _match(column.algebraic_type, expected)
                return column
            case Logical(operator, terms):
                _match(BOOL, expected)
                return Combine(operator, tuple(self.typed(term, BOOL) for term in terms))
            case Comparison(first, rest):
                _match(BOOL, expected)
                return self._comparison(first, rest)

    def typed_pair(self, left: Reference, right: Reference) -> tuple[ColumnRef, ColumnRef]:
        """The two columns of the condition of a join."""
        first = self.column(left)
        second = self.column(right)
        _match(second.algebraic_type, first.algebraic_type)
        _compare("=", first, second)
        return first, second

    def _comparison(self, first: Expression, rest: tuple[tuple[str, Expression], ...]) -> Typed:
        operator, operand = rest[0]
        if isinstance(first, Literal | Composite | Sender):
            right = self.typed(operand, None)
            left = self.typed(first, right.algebraic_type)
        else:
            left = self.typed(first, None)
            right = self.typed(operand, left.algebraic_type)
        out: Typed = _compare(operator, left, right, self.extended)
        for operator, operand in rest[1:]:
            out = _compare(operator, out, self.typed(operand, BOOL))
        return out

    def _literal(self, kind: str, text: str, expected: AlgebraicType | None) -> Constant:
        if kind == "bool":
            _match(BOOL, expected)
            return constant(BOOL, text == "true")
        if expected is None:
            raise SqlError("Cannot resolve type for literal expression")
        if self.extended and expected not in COMPARABLE:
            data = encoded(Literal(kind, text), expected)
            return Constant(expected, data, data, data)
        return _parsed(text, expected)

    def _sender(self, expected: AlgebraicType | None) -> Constant:
        self.uses_sender = True
        if expected == BYTES:
            return constant(BYTES, bytes(self.caller)[::-1])
        _match(IDENTITY, expected)
        return constant(IDENTITY, int.from_bytes(bytes(self.caller), "little"))


def find_table(catalog: Catalog, name: str) -> TableRef:
    """The readable table of this name; raises SqlError."""
    table = catalog.table(name)
    if table is None:
        raise SqlError(f"no such table: `{name}`. If the table exists, it may be marked private.")
    return table


def not_in_scope(name: str) -> SqlError:
    """The error for a name that nothing has."""
    return SqlError(f"`{name}` is not in scope")


def unexpected(actual: AlgebraicType, wanted: AlgebraicType) -> SqlError:
    """The error for a value of another type than its place needs."""
    return SqlError(f"Unexpected type: (expected) {display(actual)} != {display(wanted)} (inferred)")


def _match(actual: AlgebraicType, expected: AlgebraicType | None) -> None:
    if expected is not None and expected != actual:
        raise unexpected(actual, expected)


def _parsed(text: str, algebraic_type: AlgebraicType) -> Constant:
    found = parse(text, algebraic_type)
    if found is None:
        raise SqlError(f"The literal expression `{text}` cannot be parsed as type `{display(algebraic_type)}`")
    return found


def _compare(operator: str, left: Typed, right: Typed, extended: bool = False) -> Compare:
    if left.algebraic_type not in COMPARABLE:
        is_equality = operator in ("=", "<>") and isinstance(left, Constant) != isinstance(right, Constant)
        if not extended or not is_equality:
            raise SqlError(f"Invalid binary operator `{operator}` for type `{display(left.algebraic_type)}`")
    return Compare(operator, left, right)


_OPPOSITE: Final = {"=": "<>", "<>": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}


def negated(term: Typed) -> Typed:
    """What holds where the boolean ``term`` does not: all values are ordered, so there are no other cases."""
    match term:
        case Compare(operator, left, right):
            return Compare(_OPPOSITE[operator], left, right)
        case Combine(operator, terms):
            return Combine("OR" if operator == "AND" else "AND", tuple(map(negated, terms)))
        case Constant():
            return constant(BOOL, not term.value)
    return Compare("=", term, constant(BOOL, False))
