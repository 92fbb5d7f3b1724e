"""Row classes and the other classes that authors derive from: `Row`, `Schedule`, `Struct`, `Variant`, `Unit`, `Sum`.

All are msgspec Structs. The metaclass does four things when a class statement runs:

* takes `auto_inc()`, `default(v)` and plain values out of the body and leaves constructor defaults that msgspec accepts
  (a mutable value becomes a factory that copies it);
* takes `btree(...)` and `hash_index(...)` out of the body;
* remembers file, line and name space, for error messages and for annotations that are text;
* gives every row class a metaclass of its own with one property per column, so that `Player.score` is an expression
  while `player.score` stays a plain slot at the price of one.

What it learns is kept in `__declaration__`, a `Declaration`. Annotations are not looked at here: that happens at
load, when names that come later in the file exist.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Iterator, Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    Literal,
    NamedTuple,
    Protocol,
    Self,
    TypeAlias,
    TypeVar,
    dataclass_transform,
)

import msgspec

from spacetimedb.types.special import Interval, ScheduleAt, TimeDuration, Timestamp
from spacetimedb.types.special import Time as At

from .columns import AutoIncrement, Default, IndexDeclaration, Pk, auto_inc
from .query import Column
from .scalars import u64

S = TypeVar("S")
T = TypeVar("T")
E = TypeVar("E")

# Values that rows may share: what cannot be changed need not be copied.
_IMMUTABLE = (bool, int, float, str, bytes, type(None))


class Declaration:
    """What a class statement said, beside its annotations.

    `table_name` is the canonical name of the first table of the class, under the namespace that its module is mounted
    with; it has none until it is registered. `module_globals`
    and `local_names` are the name spaces for annotations that are text.
    """

    def __init__(self, file: str, line: int, module_globals: Mapping[str, Any], local_names: Mapping[str, Any]) -> None:
        self.file = file
        self.line = line
        self.module_globals = module_globals
        self.local_names = local_names
        self.class_name = ""
        self.registered_name: str | None = None
        self.namespace = ""
        self.auto_increment: set[str] = set()
        self.defaults: dict[str, object] = {}
        self.indexes: list[IndexDeclaration] = []

    @property
    def table_name(self) -> str:
        if self.registered_name is None:
            raise TypeError(f"{self.class_name} is not a table: decorate it with @m.table()")
        return f"{self.namespace}.{self.registered_name}" if self.namespace else self.registered_name


def _column_property(attribute: str) -> property:
    """`Player.score`: an object for query expressions. Which index it has is for type checkers; see columns.py."""
    name = wire_name(attribute)

    def read(cls: type[Any]) -> Column[Any, Any]:
        return Column(cls.__declaration__, name)

    return property(read)


def wire_name(attribute: str) -> str:
    """Name of a field or parameter on the wire: one trailing underscore, there to avoid a keyword, is dropped."""
    return attribute[:-1] if attribute.endswith("_") and attribute.strip("_") else attribute


def _own_annotations(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Annotations of a class body by name, text or objects. Python 3.14 keeps them behind a function."""
    if "__annotations__" in namespace:
        found: dict[str, Any] = namespace["__annotations__"]
        return found
    if sys.version_info >= (3, 14):
        import annotationlib

        function = annotationlib.get_annotate_from_class_namespace(namespace)
        if function is not None:
            return dict(annotationlib.call_annotate_function(function, annotationlib.Format.FORWARDREF))
    return {}


def _take_apart(name: str, namespace: dict[str, Any], declaration: Declaration) -> list[str]:
    """Replaces markers in a class body by plain defaults. Returns the names of its fields."""
    fields = [f for f, a in _own_annotations(namespace).items() if "ClassVar" not in str(a)]
    for field in fields:
        if field not in namespace:
            continue
        value = namespace[field]
        if isinstance(value, AutoIncrement):
            declaration.auto_increment.add(field)
            namespace[field] = 0
            continue
        if isinstance(value, Default):
            value = value.value
        declaration.defaults[field] = value
        frozen = isinstance(value, msgspec.Struct) and value.__struct_config__.frozen
        if isinstance(value, _IMMUTABLE) or frozen:
            namespace[field] = value
        else:
            namespace[field] = msgspec.field(default_factory=functools.partial(copy.deepcopy, value))
    for attribute, value in list(namespace.items()):
        if isinstance(value, IndexDeclaration):
            declaration.indexes.append(IndexDeclaration(value.algorithm, value.columns, value.name or attribute))
            del namespace[attribute]
    return fields


class _DeclaringMeta(type(msgspec.Struct)):  # type: ignore[misc]  # msgspec does not publish the name of its metaclass
    """Metaclass that records a `Declaration`."""

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **config: Any) -> _DeclaringMeta:
        frame = sys._getframe(1)  # where the class statement stands
        local_names = {} if frame.f_locals is frame.f_globals else dict(frame.f_locals)
        declaration = Declaration(frame.f_code.co_filename, frame.f_lineno, frame.f_globals, local_names)
        declaration.class_name = name
        fields = _take_apart(name, namespace, declaration)
        namespace["__declaration__"] = declaration
        return mcls._make(name, bases, namespace, fields, config)

    @classmethod
    def _make(
        mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], fields: list[str], config: dict[str, Any]
    ) -> _DeclaringMeta:
        made: _DeclaringMeta = super().__new__(mcls, name, bases, namespace, **config)
        return made


if TYPE_CHECKING:

    @dataclass_transform(kw_only_default=True)
    class RowMeta(type):
        """The methods of `ctx.db[Player]`. That they sit on the metaclass keeps their names free for columns."""

        def insert(cls: type[S], row: S) -> S:
            """Stores the row and returns it with generated columns filled in. An identical row is no error.

            Raises UniqueViolation.
            """

        def try_insert(cls: type[S], row: S) -> S | None:
            """As `insert`, but None when a unique value is taken."""

        def iter(cls: type[S]) -> Iterator[S]:
            """All rows as of now; writes during the loop do not disturb it."""

        def count(cls: type[Any]) -> int:
            """Number of rows, with the changes of this transaction."""

        def delete(cls: type[S], row: S) -> bool:
            """Deletes the row equal to this one in every column; whether there was one."""

        def clear(cls: type[Any]) -> int:
            """Deletes all rows; how many that were."""

    class Row(metaclass=RowMeta):
        """Base of table rows. Columns are annotations; keyword construction only."""

        __declaration__: ClassVar[Declaration]

        def __init_subclass__(cls, *, frozen: bool = False) -> None: ...
        def __copy__(self) -> Self: ...

    @dataclass_transform(frozen_default=True)
    class StructMeta(type): ...

    class Struct(metaclass=StructMeta):
        """Base of product types used inside rows and arguments. Frozen unless `frozen=False` is said."""

        __declaration__: ClassVar[Declaration]

        def __init_subclass__(cls, *, frozen: bool = True) -> None: ...

    class Variant(Generic[T]):
        """Base of a sum's variant that carries one value: `class Circle(Variant[f32]): ...`."""

        __match_args__ = ("value",)
        __declaration__: ClassVar[Declaration]

        def __init__(self, value: T) -> None: ...
        @property
        def value(self) -> T: ...
        def __hash__(self) -> int: ...

    class Unit:
        """Base of a sum's variant without payload: `class Nothing(Unit): ...`."""

        __declaration__: ClassVar[Declaration]

        def __hash__(self) -> int: ...

else:

    class RowMeta(_DeclaringMeta):
        @classmethod
        def _make(mcls, name, bases, namespace, fields, config):
            config.setdefault("kw_only", True)  # msgspec does not inherit this one
            columns = {f: _column_property(f) for f in fields if not hasattr(type, f)}
            indexes = {i.name: _column_property(i.name) for i in namespace["__declaration__"].indexes}
            own_meta = type(f"{name}Columns", (mcls,), {"__slots__": (), **columns, **indexes})
            return type(msgspec.Struct).__new__(own_meta, name, bases, namespace, **config)

        def _no_table(cls, method):
            raise TypeError(f"{cls.__name__}.{method}: tables are used through a context, as in "
                            f"ctx.db[{cls.__name__}].{method}(...)")  # fmt: skip

        def insert(cls, row):
            cls._no_table("insert")

        def try_insert(cls, row):
            cls._no_table("try_insert")

        def iter(cls):
            cls._no_table("iter")

        def count(cls):
            cls._no_table("count")

        def delete(cls, row):
            cls._no_table("delete")

        def clear(cls):
            cls._no_table("clear")

    class Row(msgspec.Struct, metaclass=RowMeta, kw_only=True, gc=False):
        """Base of table rows. Columns are annotations; keyword construction only."""

    class Struct(msgspec.Struct, metaclass=_DeclaringMeta, frozen=True, gc=False):
        """Base of product types used inside rows and arguments. Frozen unless `frozen=False` is said."""

    class Variant(msgspec.Struct, Generic[T], metaclass=_DeclaringMeta, frozen=True, gc=False):
        """Base of a sum's variant that carries one value: `class Circle(Variant[f32]): ...`."""

        value: T

    class Unit(msgspec.Struct, metaclass=_DeclaringMeta, frozen=True, gc=False):
        """Base of a sum's variant without payload: `class Nothing(Unit): ...`."""


class Schedule(Row):
    """Base of schedule tables: one row per run or series of runs of the function given with `on_schedule=`."""

    scheduled_id: Pk[u64] = auto_inc()
    scheduled_at: ScheduleAt


class Sum(NamedTuple):
    """Names a union of variants: `Shape: TypeAlias = Annotated[Circle | Rect | Nothing, Sum("Shape")]`."""

    name: str


Result: TypeAlias = tuple[Literal["ok"], T] | tuple[Literal["err"], E]
"""`Result[u32, str]` is `("ok", 5)` or `("err", "why not")`; `match`, or `if r[0] == "ok"`, tells them apart."""


def replace(row: S, **changes: Any) -> S:
    """A copy of a row or struct with some fields changed."""
    return msgspec.structs.replace(row, **changes)  # type: ignore[type-var]


def every(ms: float = 0, *, seconds: float = 0) -> Interval:
    """Runs again and again; the first time one interval from now."""
    return Interval(TimeDuration(round(ms * 1_000 + seconds * 1_000_000)))


def at(moment: Timestamp) -> At:
    """Runs once at this time, or as soon as possible when it has passed."""
    return At(moment)


class _HasTimestamp(Protocol):
    @property
    def timestamp(self) -> Timestamp: ...


def after(ctx: _HasTimestamp, *, ms: float = 0, seconds: float = 0) -> At:
    """Runs once, this much later than the call's `ctx.timestamp`."""
    return At(Timestamp(int(ctx.timestamp) + round(ms * 1_000 + seconds * 1_000_000)))
