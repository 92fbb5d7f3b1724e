"""From annotations to algebraic types and shapes.

Every class met becomes one named type of the module's typespace, in the order of first meeting, a type before the
types inside it. Special types, options and lists stand where they are used. What an annotation gets wrong is a
`BadAnnotation`, whose text tells what to write instead; types that are used in several places are resolved once.
"""

from __future__ import annotations

import enum
import functools
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple, Union, get_args, get_origin

import msgspec

from spacetimedb.schema.names import camel_case, identifier_problem, snake_case
from spacetimedb.types import algebraic
from spacetimedb.types.algebraic import AlgebraicType, Product, ProductElement, Ref, SumVariant
from spacetimedb.types.shapes import (
    SCHEDULE_AT_SHAPE,
    ArrayShape,
    EnumShape,
    FieldShape,
    OptionShape,
    ProductShape,
    ResultShape,
    Scalar,
    Shape,
    SumShape,
    VariantShape,
    Wrapped,
    scalar,
)
from spacetimedb.types.special import ConnectionId, Identity, Interval, Time, TimeDuration, Timestamp, Uuid

from .columns import MARKERS
from .rows import Declaration, Row, Struct, Sum, Unit, Variant, wire_name
from .scalars import Number

Case = Literal["snake", "none"]

PRIMITIVES: Final = {p.kind.lower(): p for p in algebraic.PRIMITIVES}

SPECIAL: Final[dict[type[Any], tuple[AlgebraicType, Shape]]] = {
    Identity: (algebraic.IDENTITY, Wrapped("bytes32", Identity)),
    ConnectionId: (algebraic.CONNECTION_ID, Wrapped("bytes16", ConnectionId)),
    Uuid: (algebraic.UUID, Wrapped("bytes16", Uuid)),
    Timestamp: (algebraic.TIMESTAMP, Wrapped("i64", Timestamp)),
    TimeDuration: (algebraic.TIME_DURATION, Wrapped("i64", TimeDuration)),
    bool: (algebraic.BOOL, scalar("bool")),
    str: (algebraic.STRING, scalar("string")),
    bytes: (algebraic.BYTES, scalar("bytes")),
    float: (algebraic.F64, scalar("f64")),
}

HINTS: Final[dict[object, str]] = {
    int: "int has no width on the wire; write u8 to u256 or i8 to i256",
    list: "write what the list holds, as in list[u32]",
    dict: "there is no dictionary type; use a list of structs, or a table",
    set: "there is no set type; use a list, or a table",
    tuple: "there is no tuple type; use a Struct",
    Any: "Any says nothing about the wire; write the type",
    object: "object says nothing about the wire; write the type",
    Variant: "Variant is a base: class Circle(Variant[f32]): ...",
    Unit: "Unit is a base: class Nothing(Unit): ...",
    Row: "name the row class itself",
    Struct: "name the struct itself",
    Interval: "a schedule column has the type ScheduleAt",
    Time: "a schedule column has the type ScheduleAt",
}


class BadAnnotation(Exception):
    """An annotation that stands for no type. `at` is the class and attribute where it stands, when that is
    elsewhere; `others` are those of further attributes of the same class."""

    def __init__(self, text: str, at: tuple[Declaration, str] | None = None) -> None:
        super().__init__(text)
        self.at = at
        self.others: tuple[BadAnnotation, ...] = ()


class Resolved(NamedTuple):
    """An annotation's type and shape."""

    type: AlgebraicType
    shape: Shape


class Field(NamedTuple):
    """A field of a class: its attribute, marker (None for a plain one) and type."""

    attr: str
    marker: object | None
    resolved: Resolved


class NamedType(NamedTuple):
    """A type of the typespace. `fields` is empty for sums. `declaration` is None for enums."""

    name: str
    ref: int
    resolved: Resolved
    fields: tuple[Field, ...]


def annotations_of(cls: type[Any]) -> dict[str, tuple[object, Declaration]]:
    """Fields of a struct class with their annotations, as objects: bases first, each with the class that declares it.

    Raises BadAnnotation when a name in a text annotation does not exist.
    """
    found: dict[str, tuple[object, Declaration]] = {}
    for base in reversed(cls.__mro__):
        declaration = base.__dict__.get("__declaration__")
        if declaration is None:
            continue
        for attr, annotation in getattr(base, "__annotations__", {}).items() if "__annotations__" in vars(base) else ():
            if attr in cls.__struct_fields__:
                found[attr] = (evaluate(annotation, declaration, attr, base), declaration)
    return found


def evaluate(annotation: object, declaration: Declaration, attr: str, owner: type[Any]) -> object:
    """The object that a text annotation of a class means; other annotations are returned as they are."""
    if not isinstance(annotation, str):
        return annotation
    local_names = {**declaration.local_names, owner.__name__: owner}
    try:
        return eval(annotation, dict(declaration.module_globals), local_names)
    except Exception as error:
        raise BadAnnotation(f"{owner.__name__}.{attr}: {error}", (declaration, attr)) from None


def describe(annotation: object) -> str:
    """An annotation as its author would write it."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation.__name__
    return str(annotation).replace("typing.", "").replace("spacetimedb.module.", "")


class Resolver:
    """Resolves annotations of one module and collects its typespace.

    `case` is the module's policy for canonical names of fields and variants.
    """

    def __init__(self, case: Case) -> None:
        self.named: dict[object, NamedType] = {}
        self._open: list[object] = []
        self._reserved: dict[object, int] = {}
        self._failed: dict[object, BadAnnotation] = {}
        self._field_name: Callable[[str], str] = snake_case if case == "snake" else str
        self._variant_name: Callable[[str], str] = camel_case if case == "snake" else str

    def typespace(self) -> list[AlgebraicType]:
        """The named types by their references. What failed to resolve leaves a unit in its place."""
        space: list[AlgebraicType] = [algebraic.UNIT] * len(self._reserved)
        for named in self.named.values():
            space[named.ref] = named.resolved.type
        return space

    def canonical(self, source_name: str) -> str:
        """Canonical name of a column or field."""
        return self._field_name(source_name)

    def resolve(self, annotation: object) -> Resolved:
        """Type and shape of a value. Raises BadAnnotation."""
        if annotation is None or annotation is type(None):
            raise BadAnnotation("None is no type of a value; an option is written T | None")
        origin = get_origin(annotation)
        if origin is Annotated:
            return self._annotated(annotation)
        if origin in (Union, types.UnionType):
            return self._union(get_args(annotation))
        if origin is list:
            return self._list(get_args(annotation))
        if origin in MARKERS:
            raise BadAnnotation(
                f"{describe(origin)}[...] marks columns of a table row; it has no place inside another type"
            )
        if isinstance(annotation, type) and origin is None:
            return self._class(annotation)
        if isinstance(annotation, str):
            raise BadAnnotation(
                f"the text {annotation!r} inside a type cannot be looked up; write the name without quotes"
            )
        hint = HINTS.get(annotation) or HINTS.get(origin)
        raise BadAnnotation(hint or f"{describe(annotation)} is no type that a column or parameter can have")

    def structure(self, cls: type[Any]) -> NamedType:
        """The named product type of a row class or struct. Raises BadAnnotation."""
        return self._once(cls, cls.__name__, lambda ref: self._structure(cls, ref))

    # -- the cases

    def _class(self, cls: type[Any]) -> Resolved:
        known = SPECIAL.get(cls)
        if known is not None:
            return Resolved(*known)
        if cls in HINTS:
            raise BadAnnotation(HINTS[cls])
        if issubclass(cls, enum.IntEnum):
            return self._refer(self._once(cls, cls.__name__, lambda ref: self._enum(cls, ref)))
        if issubclass(cls, enum.Enum):
            raise BadAnnotation(f"{cls.__name__} must derive from IntEnum, with the values 0, 1, 2, ... in order")
        if issubclass(cls, Variant | Unit):
            raise BadAnnotation(f'{cls.__name__} is a variant: name its union with Annotated[... | ..., Sum("Name")]')
        if issubclass(cls, msgspec.Struct) and "__declaration__" in vars(cls):
            return self._refer(self.structure(cls))
        if issubclass(cls, msgspec.Struct):
            raise BadAnnotation(f"{cls.__name__} must derive from spacetimedb.Struct, not from msgspec.Struct")
        raise BadAnnotation(f"{cls.__name__} is no type that a column or parameter can have; derive it from Struct")

    @staticmethod
    def _refer(named: NamedType) -> Resolved:
        return Resolved(Ref(named.ref), named.resolved.shape)

    def _annotated(self, annotation: object) -> Resolved:
        inner, *extras = get_args(annotation)
        for extra in extras:
            if isinstance(extra, Number):
                return Resolved(PRIMITIVES[extra.kind], Scalar(extra.kind))  # type: ignore[arg-type]
            if isinstance(extra, Sum):
                build = functools.partial(self._sum, extra.name, inner)
                return self._refer(self._once((extra.name, inner), extra.name, build))
        return self.resolve(inner)

    def _union(self, members: tuple[object, ...]) -> Resolved:
        some = [m for m in members if m is not type(None)]
        if set(some) == {Interval, Time}:
            inside = Resolved(algebraic.SCHEDULE_AT, SCHEDULE_AT_SHAPE)
        elif len(some) == 1:
            inside = self.resolve(some[0])
        elif result := _result_sides(some):
            ok, err = (self.resolve(side) for side in result)
            inside = Resolved(algebraic.result(ok.type, err.type), ResultShape(ok.shape, err.shape))
        elif all(isinstance(m, type) and issubclass(m, Variant | Unit | Struct) for m in some):
            raise BadAnnotation('a union of variants needs a name: Annotated[A | B, Sum("Name")]')
        else:
            raise BadAnnotation("a union is T | None, or variants (Struct, Variant, Unit) named with Sum")
        if len(some) == len(members):
            return inside
        if isinstance(inside.shape, OptionShape):
            raise BadAnnotation("an option of an option is not supported")
        return Resolved(algebraic.option(inside.type), OptionShape(inside.shape))

    def _list(self, args: tuple[object, ...]) -> Resolved:
        element = self.resolve(args[0])
        return Resolved(algebraic.Array(element.type), ArrayShape(element.shape))

    def _once(self, key: object, name: str, build: Callable[[int], NamedType]) -> NamedType:
        """Builds a named type the first time it is met. A failure is reported once; later uses refer to it."""
        known = self.named.get(key)
        if known is not None:
            return known
        if key in self._failed:
            raise self._failed[key]
        if key in self._open:
            raise BadAnnotation(f"{name} contains itself; recursive types are not supported")
        problem = identifier_problem(name)
        if problem is not None:
            raise BadAnnotation(problem)
        ref = self._reserved.setdefault(key, len(self._reserved))
        self._open.append(key)
        try:
            named = build(ref)
        except BadAnnotation as error:
            self._failed[key] = error
            raise
        finally:
            self._open.pop()
        self.named[key] = named
        return named

    def _field(self, cls: type[Any], attr: str, annotation: Any) -> Field:
        origin = get_origin(annotation)
        marker = origin if origin in MARKERS else None
        if marker is not None and not issubclass(cls, Row):
            raise BadAnnotation("only rows have index markers")
        if annotation in MARKERS:
            raise BadAnnotation("write the column's type in brackets, as in Pk[u32]")
        return Field(attr, marker, self.resolve(get_args(annotation)[0] if marker is not None else annotation))

    def _structure(self, cls: type[Any], ref: int) -> NamedType:
        fields: list[Field] = []
        mistakes: list[BadAnnotation] = []
        for attr, (annotation, declaration) in annotations_of(cls).items():
            try:
                fields.append(self._field(cls, attr, annotation))
            except BadAnnotation as error:
                if error.at is None:
                    error = BadAnnotation(f"{cls.__name__}.{attr}: {error}", (declaration, attr))
                mistakes.append(error)
        if mistakes:
            # A new error: one of a class that is used in several places must not grow.
            together = BadAnnotation(str(mistakes[0]), mistakes[0].at)
            together.others = (*mistakes[0].others, *mistakes[1:])
            raise together
        elements = tuple(ProductElement(wire_name(f.attr), f.resolved.type) for f in fields)
        shapes = tuple(FieldShape(f.attr, self.canonical(wire_name(f.attr)), f.resolved.shape) for f in fields)
        return NamedType(cls.__name__, ref, Resolved(Product(elements), ProductShape(cls, shapes)), tuple(fields))

    def _enum(self, cls: type[enum.IntEnum], ref: int) -> NamedType:
        members = list(cls)
        if [m.value for m in members] != list(range(len(members))) or len(cls.__members__) != len(members):
            raise BadAnnotation(f"{cls.__name__}: the values of an enum must be 0, 1, 2, ... in order, without aliases")
        if not 1 <= len(members) <= 256:
            raise BadAnnotation(f"{cls.__name__}: an enum has 1 to 256 members")
        variants = tuple(SumVariant(m.name, algebraic.UNIT) for m in members)
        shape = EnumShape(cls, tuple(self._variant_name(m.name) for m in members))
        return NamedType(cls.__name__, ref, Resolved(algebraic.Sum(variants), shape), ())

    def _sum(self, name: str, union: object, ref: int) -> NamedType:
        members = get_args(union) if get_origin(union) in (Union, types.UnionType) else (union,)
        if len(members) > 256:
            raise BadAnnotation(f"{name}: a sum has at most 256 variants")
        variants: list[SumVariant] = []
        shapes: list[VariantShape] = []
        for member in members:
            if not isinstance(member, type) or get_origin(member) is not None or member in (Variant, Unit, Struct):
                raise BadAnnotation(
                    f"{name}: {describe(member)} is no variant; derive a class from Struct, Variant[T] or Unit"
                )
            wire, shown = member.__name__, self._variant_name(member.__name__)
            if issubclass(member, Unit):
                variants.append(SumVariant(wire, algebraic.UNIT))
                shapes.append(VariantShape(shown, member, "unit", None))
            elif issubclass(member, Variant):
                payload = self._payload(name, member)
                variants.append(SumVariant(wire, payload.type))
                shapes.append(VariantShape(shown, member, "value", payload.shape))
            elif issubclass(member, Struct):
                payload = self.resolve(member)
                variants.append(SumVariant(wire, payload.type))
                shapes.append(VariantShape(shown, member, "product", payload.shape))
            else:
                raise BadAnnotation(f"{name}: {wire} is no variant; derive it from Struct, Variant[T] or Unit")
        return NamedType(name, ref, Resolved(algebraic.Sum(tuple(variants)), SumShape(name, tuple(shapes))), ())

    def _payload(self, name: str, member: type[Any]) -> Resolved:
        """What a subclass of `Variant[T]` carries."""
        for base in getattr(member, "__orig_bases__", ()):
            if get_origin(base) is Variant:
                annotation = get_args(base)[0]
                declaration: Declaration = vars(member)["__declaration__"]
                if isinstance(annotation, typing.ForwardRef):
                    annotation = evaluate(annotation.__forward_arg__, declaration, "value", member)
                try:
                    return self.resolve(annotation)
                except BadAnnotation as error:
                    if error.at is not None:
                        raise
                    raise BadAnnotation(f"{name}: {member.__name__}: {error}", (declaration, "")) from None
        raise BadAnnotation(f"{name}: {member.__name__} must say what it carries: class {member.__name__}(Variant[T])")


def _result_sides(members: list[object]) -> tuple[object, object] | None:
    """T and E if these are the members of `Result[T, E]`."""
    sides = {args[0]: args[1] for args in map(get_args, members) if len(args) == 2 and get_origin(args[0]) is Literal}
    ok, err = sides.get(Literal["ok"]), sides.get(Literal["err"])
    return None if ok is None or err is None or len(members) != 2 else (ok, err)


INTEGERS: Final = frozenset({f"{sign}{bits}" for sign in "ui" for bits in (8, 16, 32, 64, 128, 256)})
DIRECT_KINDS: Final = frozenset({"u8", "u16", "u32", "u64"})
KEY_CLASSES: Final = (Identity, ConnectionId, Timestamp, Uuid)


def is_integer(shape: Shape) -> bool:
    """Whether a sequence can fill it."""
    return isinstance(shape, Scalar) and shape.kind in INTEGERS


def is_key(shape: Shape) -> bool:
    """Whether a value can be looked up in an index."""
    if isinstance(shape, Scalar):
        return shape.kind in INTEGERS or shape.kind in ("bool", "string")
    return isinstance(shape, EnumShape) or (isinstance(shape, Wrapped) and shape.cls in KEY_CLASSES)


def is_direct_key(shape: Shape) -> bool:
    """Whether a direct index can hold it."""
    return isinstance(shape, EnumShape) or (isinstance(shape, Scalar) and shape.kind in DIRECT_KINDS)


def context_class(annotation: object) -> object:
    """The class of a context that may say, for type checkers, what knows its tables: `ReducerContext[Tables]`."""
    return get_origin(annotation) or annotation


def function_annotations(function: Callable[..., object], local_names: Mapping[str, Any]) -> dict[str, object]:
    """Annotations of a function as objects. Raises BadAnnotation for a name that does not exist."""
    found: dict[str, object] = {}
    for name, annotation in function.__annotations__.items():
        if isinstance(annotation, str):
            try:
                annotation = eval(annotation, dict(function.__globals__), dict(local_names))
            except Exception as error:
                raise BadAnnotation(f"{function.__name__}: {name}: {error}") from None
        found[name] = annotation
    return found
