"""Shapes: how a value of an algebraic type looks in Python.

An algebraic type says which bytes there are; a shape adds which Python objects stand for them. Module authors' classes
give shapes with classes in them; `shape_of` gives the generic shape of a type, without author classes:

    | type             | shape                       | Python value                                           |
    |------------------|-----------------------------|--------------------------------------------------------|
    | numbers, string  | Scalar(kind)                | bool, int, float, str                                  |
    | Array(U8)        | Scalar("bytes")             | bytes                                                  |
    | Identity, ...    | Wrapped(kind, cls)          | cls(raw)                                               |
    | Array(T)         | ArrayShape                  | list                                                   |
    | Option(T)        | OptionShape                 | None or the value                                      |
    | Result(T, E)     | ResultShape                 | ("ok", value) or ("err", value)                        |
    | product          | ProductShape                | cls(attr=value, ...); cls None: tuple; unit: ()        |
    | sum of units     | EnumShape                   | member of an IntEnum; cls None: the tag, an int        |
    | other sum        | SumShape                    | instance of a variant's cls; cls None: (tag, payload)  |
    | recursive type   | RefShape                    | as what it refers to                                   |

An option directly in an option cannot be told apart as None, so `shape_of` makes the outer one a generic sum.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec

from spacetimedb.types.algebraic import (
    CONNECTION_ID,
    EMPTY_TYPESPACE,
    IDENTITY,
    SCHEDULE_AT,
    TIME_DURATION,
    TIMESTAMP,
    UUID,
    AlgebraicType,
    Array,
    Primitive,
    Product,
    Ref,
    Sum,
    Typespace,
    is_bytes,
    is_option,
    is_result,
    is_unit,
)
from spacetimedb.types.special import ConnectionId, Identity, Interval, Time, TimeDuration, Timestamp, Uuid

ScalarKind: TypeAlias = Literal[
    "bool",
    "u8",
    "u16",
    "u32",
    "u64",
    "u128",
    "u256",
    "i8",
    "i16",
    "i32",
    "i64",
    "i128",
    "i256",
    "f32",
    "f64",
    "string",
    "bytes",
]

SCALAR_KINDS: Final[tuple[ScalarKind, ...]] = get_args(ScalarKind)

WrappedKind: TypeAlias = Literal["bytes32", "bytes16", "i64"]

VariantKind: TypeAlias = Literal["unit", "value", "product"]


class Scalar(msgspec.Struct, frozen=True, gc=False):
    """A number, text or byte string."""

    kind: ScalarKind


class Wrapped(msgspec.Struct, frozen=True, gc=False):
    """One number in a class of its own. `cls` is a subclass of bytes (kinds bytes16, bytes32: the BSATN bytes,
    little-endian) or of int (kind i64), built with `cls(raw)`."""

    kind: WrappedKind
    cls: type[Any]


class ArrayShape(msgspec.Struct, frozen=True):
    """A list."""

    element: Shape


class OptionShape(msgspec.Struct, frozen=True):
    """None or the value; `some` must not itself be an option."""

    some: Shape


class ResultShape(msgspec.Struct, frozen=True):
    """("ok", value) or ("err", value)."""

    ok: Shape
    err: Shape


class FieldShape(msgspec.Struct, frozen=True):
    """One field of a product: the Python attribute, the name of the element in the type, the shape of the value."""

    attr: str
    name: str | None
    shape: Shape


class ProductShape(msgspec.Struct, frozen=True):
    """An instance of `cls`, built with keywords; a tuple if `cls` is None."""

    cls: type[Any] | None
    fields: tuple[FieldShape, ...]


class EnumShape(msgspec.Struct, frozen=True):
    """A sum whose variants carry nothing: the member of `cls` with the tag as its value, or the tag itself."""

    cls: type[IntEnum] | None
    names: tuple[str | None, ...]


class VariantShape(msgspec.Struct, frozen=True):
    """One variant of a sum.

    kind 'unit': built with `cls()`, no shape. 'value': `cls(value)`, read as `.value`. 'product': `shape` is the
    ProductShape of the payload and `cls` the class of that shape: the fields are cls's own. With `cls` None the value
    is (tag, payload), whatever the kind; the payload of a unit is ().
    """

    name: str | None
    cls: type[Any] | None
    kind: VariantKind
    shape: Shape | None


class SumShape(msgspec.Struct, frozen=True):
    """A sum; `name` is for messages only. Every variant has a class of its own, or none has."""

    name: str | None
    variants: tuple[VariantShape, ...]


class RefShape(msgspec.Struct, frozen=True):
    """Type `index` of `typespace`, which is recursive; unfolded only when it is used."""

    typespace: Typespace
    index: int

    def target(self) -> Shape:
        return shape_of(self.typespace.resolve(Ref(self.index)), self.typespace)


Shape: TypeAlias = (
    Scalar | Wrapped | ArrayShape | OptionShape | ResultShape | ProductShape | EnumShape | SumShape | RefShape
)

UNIT_SHAPE: Final = ProductShape(None, ())

SCHEDULE_AT_SHAPE: Final = SumShape(
    "ScheduleAt",
    (
        VariantShape("Interval", Interval, "value", Wrapped("i64", TimeDuration)),
        VariantShape("Time", Time, "value", Wrapped("i64", Timestamp)),
    ),
)

SPECIAL_SHAPES: Final[dict[AlgebraicType, Shape]] = {
    IDENTITY: Wrapped("bytes32", Identity),
    CONNECTION_ID: Wrapped("bytes16", ConnectionId),
    UUID: Wrapped("bytes16", Uuid),
    TIMESTAMP: Wrapped("i64", Timestamp),
    TIME_DURATION: Wrapped("i64", TimeDuration),
    SCHEDULE_AT: SCHEDULE_AT_SHAPE,
}

WRAPPED_FIELD_NAMES: Final[dict[type[Any], str]] = {
    Identity: "__identity__",
    ConnectionId: "__connection_id__",
    Uuid: "__uuid__",
    Timestamp: "__timestamp_micros_since_unix_epoch__",
    TimeDuration: "__time_duration_micros__",
}
"""The name of the one element of the product that the class stands for."""

_SCALARS: Final[dict[str, Scalar]] = {kind: Scalar(kind) for kind in SCALAR_KINDS}


def scalar(kind: ScalarKind) -> Scalar:
    return _SCALARS[kind]


def is_unit_shape(shape: Shape) -> bool:
    return isinstance(shape, ProductShape) and not shape.fields


def shape_of(t: AlgebraicType, typespace: Typespace = EMPTY_TYPESPACE) -> Shape:
    """The generic shape of a type; ValueError if a reference leads nowhere or to itself."""
    match t:
        case Primitive(kind):
            return _SCALARS[kind.lower()]
        case Ref(index):
            resolved = typespace.resolve(t)
            return RefShape(typespace, index) if typespace.is_recursive(t) else shape_of(resolved, typespace)
        case Array(element):
            return _SCALARS["bytes"] if is_bytes(t) else ArrayShape(shape_of(element, typespace))
        case Product(elements):
            if t in SPECIAL_SHAPES:
                return SPECIAL_SHAPES[t]
            parts = [(e.name, shape_of(e.algebraic_type, typespace)) for e in elements]
            return ProductShape(None, tuple(FieldShape(f"_{i}", name, s) for i, (name, s) in enumerate(parts)))
        case Sum():
            return SPECIAL_SHAPES.get(t) or _shape_of_sum(t, typespace)


def _shape_of_sum(t: Sum, typespace: Typespace) -> Shape:
    shapes = [shape_of(v.algebraic_type, typespace) for v in t.variants]
    if is_option(t) and not _may_be_none(shapes[0]):
        return OptionShape(shapes[0])
    if is_result(t):
        return ResultShape(shapes[0], shapes[1])
    if not is_option(t) and all(is_unit(typespace.resolve(v.algebraic_type)) for v in t.variants):
        return EnumShape(None, tuple(v.name for v in t.variants))
    variants = [_generic_variant(v.name, s) for v, s in zip(t.variants, shapes, strict=True)]
    return SumShape(None, tuple(variants))


def _may_be_none(shape: Shape) -> bool:
    if isinstance(shape, RefShape):
        return is_option(shape.typespace.resolve(Ref(shape.index)))
    return isinstance(shape, OptionShape)


def _generic_variant(name: str | None, shape: Shape) -> VariantShape:
    if is_unit_shape(shape):
        return VariantShape(name, None, "unit", None)
    return VariantShape(name, None, "product" if isinstance(shape, ProductShape) else "value", shape)
