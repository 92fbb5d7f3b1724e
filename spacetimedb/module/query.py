"""Query expressions of views: `Item.score < 0` is a `Query[Item]` whose `.sql` the host plans like any subscription.

Columns compare with constants and with columns of the same table; conditions join with `&` and `|`; `semijoin` keeps
the rows that have a partner. There is no negation: the accepted SQL has none. Table names are looked up when the text
is asked for, so an expression may be written before its table is registered.
"""

from __future__ import annotations

import datetime
import enum
import math
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

from spacetimedb.types.special import TimeDuration, Timestamp

R = TypeVar("R", bound="Any")
T = TypeVar("T")


class Source(Protocol):
    """A table as queries see it."""

    @property
    def table_name(self) -> str:
        """Canonical name; raises TypeError while the row class belongs to no table."""


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(value: object) -> str:
    """SQL text of a constant. Raises TypeError for what SQL cannot compare: lists, options, structs, enums."""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, Timestamp):
        moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=int(value))
        return f"'{moment.isoformat(timespec='microseconds')}Z'"
    if isinstance(value, int) and not isinstance(value, TimeDuration | enum.Enum):
        return str(int(value))
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, bytes):
        return f"0x{value.hex()}"  # Identity and friends give their most significant digit first
    raise TypeError(f"{value!r} cannot be compared in a query")


class Query(Generic[R]):
    """All rows of one table that fulfil a condition (None: all of them). Immutable."""

    __slots__ = ("_condition", "_join", "_source")

    def __init__(self, source: Source, condition: Condition | None = None, join: Join | None = None) -> None:
        self._source = source
        self._condition = condition
        self._join = join

    @property
    def sql(self) -> str:
        """The statement, table and column names quoted."""
        table = quoted(self._source.table_name)
        if self._join is None:
            text = f"SELECT * FROM {table}"
        else:
            other = quoted(self._join.right.source.table_name)
            text = f"SELECT {table}.* FROM {table} JOIN {other} ON {self._join.left.sql} = {self._join.right.sql}"
        return text if self._condition is None else f"{text} WHERE {self._condition.sql}"

    def __and__(self, other: Query[R]) -> Query[R]:
        return self._combine("AND", other)

    def __or__(self, other: Query[R]) -> Query[R]:
        if self._join is not None or other._join is not None:
            raise TypeError("a semijoin can only be narrowed with &")
        return self._combine("OR", other)

    def where(self, condition: Query[R]) -> Query[R]:
        """The rows that fulfil this condition too; the same as `&`."""
        return self & condition

    def __bool__(self) -> bool:
        raise TypeError("a query has no truth value; combine conditions with & and |, each in parentheses")

    def __repr__(self) -> str:
        return f"Query({self.sql})"

    def _combine(self, word: str, other: Query[R]) -> Query[R]:
        if other._source.table_name != self._source.table_name:
            raise TypeError("conditions of different tables cannot be combined")
        if self._join is not None and other._join is not None:
            raise TypeError("a query can have only one semijoin")
        join = self._join or other._join
        if self._condition is None or other._condition is None:
            whole = word == "OR"  # every row, or a row that ...
            return Query(self._source, None if whole else self._condition or other._condition, join)
        return Query(self._source, Condition(self._condition, word, other._condition), join)


class Column(Generic[R, T]):
    """A column of a table in a query expression."""

    __slots__ = ("name", "source")
    __hash__ = object.__hash__

    def __init__(self, source: Source, name: str) -> None:
        self.source = source
        self.name = name

    @property
    def sql(self) -> str:
        return f"{quoted(self.source.table_name)}.{quoted(self.name)}"

    def __lt__(self, other: T | Column[R, T]) -> Query[R]:
        return self._compare("<", other)

    def __le__(self, other: T | Column[R, T]) -> Query[R]:
        return self._compare("<=", other)

    def __gt__(self, other: T | Column[R, T]) -> Query[R]:
        return self._compare(">", other)

    def __ge__(self, other: T | Column[R, T]) -> Query[R]:
        return self._compare(">=", other)

    def __eq__(self, other: T | Column[R, T]) -> Query[R]:  # type: ignore[override]  # an expression, not a truth value
        return self._compare("=", other)

    def __ne__(self, other: T | Column[R, T]) -> Query[R]:  # type: ignore[override]
        return self._compare("<>", other)

    def semijoin(self, partner: Column[Any, T], where: Query[Any] | None = None) -> Query[R]:
        """Rows for which the partner's table has a row with an equal value, one that fulfils `where`.

        Both columns need an index.
        """
        condition = where._condition if where is not None else None
        return Query(self.source, condition, Join(self, partner))

    def __repr__(self) -> str:
        return f"<column {self.name}>"

    if not TYPE_CHECKING:

        def __getattr__(self, method: str) -> object:
            use = f"ctx.db[Table].{self.name}.{method}"
            raise AttributeError(f"{self!r} has no {method}; an index is used through a context, as in {use}(...)")

    def _compare(self, sign: str, other: T | Column[R, T]) -> Query[R]:
        right: Column[R, T] | Constant = other if isinstance(other, Column) else Constant(literal(other))
        return Query(self.source, Condition(self, sign, right))


class Constant:
    """A literal, already as SQL text."""

    __slots__ = ("sql",)

    def __init__(self, sql: str) -> None:
        self.sql = sql


class Join:
    """`left` belongs to the table whose rows are returned."""

    __slots__ = ("left", "right")

    def __init__(self, left: Column[Any, Any], right: Column[Any, Any]) -> None:
        self.left = left
        self.right = right


class Condition:
    """Two operands and the sign or word between them."""

    __slots__ = ("left", "right", "word")

    def __init__(self, left: Operand, word: str, right: Operand) -> None:
        self.left = left
        self.word = word
        self.right = right

    @property
    def sql(self) -> str:
        return f"({self.left.sql} {self.word} {self.right.sql})"


Operand = Condition | Column[Any, Any] | Constant


@overload
def select(table: type[R]) -> Query[R]: ...
@overload
def select(table: Source) -> Query[Any]: ...
def select(table: Any) -> Query[Any]:
    """Every row of a table, as a query."""
    source = getattr(table, "__declaration__", None) or table
    return Query(source)
