"""Algebraic types: what a type is, how it is named, its BSATN and its JSON.

BSATN of a type: one tag byte, then the payload (integers little-endian):

    0 Ref      u32 index into the typespace
    1 Sum      u32 count, then per variant: name (option of string), type
    2 Product  u32 count, then per element: name (option of string), type
    3 Array    the type of the element
    4 String  5 Bool  6 I8  7 U8  8 I16  9 U16  10 I32  11 U32  12 I64  13 U64
    14 I128  15 U128  16 I256  17 U256  18 F32  19 F64

    option of string: 00, u32 byte length, UTF-8  |  01 (none)

JSON of a type: {"U64":[]}, {"Ref":3}, {"Array":T}, {"Product":{"elements":[{"name":{"some":"x"},"algebraic_type":T}]}},
{"Sum":{"variants":[...]}}; a missing name is {"none":[]}.

Types are compared by structure, names included. Special types (Identity, options, ...) are recognised by their exact
structure, references are not followed.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct as Format
from struct import error as StructError
from typing import Any, Final, TypeAlias, TypeGuard, TypeVar

import msgspec

from spacetimedb.types.errors import DecodeError, RecursiveType

_Part = TypeVar("_Part")

MAX_TYPE_DEPTH: Final = 96
"""Deepest nesting of a type that `decode_type`, `type_from_json` and `Typespace.inline` accept."""

MAX_INLINED_NODES: Final = 100_000
"""Largest inlined type, counted in nodes: a small typespace of references can unfold to an exponential size."""


class Ref(msgspec.Struct, frozen=True, gc=False):
    """The type at `index` of the typespace."""

    index: int


class SumVariant(msgspec.Struct, frozen=True):
    name: str | None
    algebraic_type: AlgebraicType


class Sum(msgspec.Struct, frozen=True):
    """One of several variants; the tag in BSATN is the position."""

    variants: tuple[SumVariant, ...]


class ProductElement(msgspec.Struct, frozen=True):
    name: str | None
    algebraic_type: AlgebraicType


class Product(msgspec.Struct, frozen=True):
    """All of several elements, in order."""

    elements: tuple[ProductElement, ...]


class Array(msgspec.Struct, frozen=True):
    """Any number of elements of one type. `Array(U8)` is a byte string."""

    element: AlgebraicType


class Primitive(msgspec.Struct, frozen=True, gc=False):
    """A type without parts; `kind` is spelled as in the tag table above: "String", "Bool", "U64", ..."""

    kind: str


AlgebraicType: TypeAlias = Ref | Sum | Product | Array | Primitive

STRING: Final = Primitive("String")
BOOL: Final = Primitive("Bool")
I8: Final = Primitive("I8")
U8: Final = Primitive("U8")
I16: Final = Primitive("I16")
U16: Final = Primitive("U16")
I32: Final = Primitive("I32")
U32: Final = Primitive("U32")
I64: Final = Primitive("I64")
U64: Final = Primitive("U64")
I128: Final = Primitive("I128")
U128: Final = Primitive("U128")
I256: Final = Primitive("I256")
U256: Final = Primitive("U256")
F32: Final = Primitive("F32")
F64: Final = Primitive("F64")

PRIMITIVES: Final = (
    *(STRING, BOOL, I8, U8, I16, U16, I32, U32, I64, U64),
    *(I128, U128, I256, U256, F32, F64),
)
"""In the order of their tags; the first has FIRST_PRIMITIVE_TAG."""

FIRST_PRIMITIVE_TAG: Final = 4

PRIMITIVE_OF_KIND: Final = {primitive.kind: primitive for primitive in PRIMITIVES}


def product(**elements: AlgebraicType) -> Product:
    """`product(x=F32, y=F32)`: a product with named elements."""
    return Product(tuple(ProductElement(name, t) for name, t in elements.items()))


def sum_of(**variants: AlgebraicType) -> Sum:
    """`sum_of(circle=F64, nothing=UNIT)`: a sum with named variants."""
    return Sum(tuple(SumVariant(name, t) for name, t in variants.items()))


UNIT: Final = Product(())
NEVER: Final = Sum(())
BYTES: Final = Array(U8)
IDENTITY: Final = product(__identity__=U256)
CONNECTION_ID: Final = product(__connection_id__=U128)
TIMESTAMP: Final = product(__timestamp_micros_since_unix_epoch__=I64)
TIME_DURATION: Final = product(__time_duration_micros__=I64)
UUID: Final = product(__uuid__=U128)
SCHEDULE_AT: Final = sum_of(Interval=TIME_DURATION, Time=TIMESTAMP)

SPECIAL_TYPES: Final[dict[AlgebraicType, str]] = {
    IDENTITY: "Identity",
    CONNECTION_ID: "ConnectionId",
    TIMESTAMP: "Timestamp",
    TIME_DURATION: "TimeDuration",
    UUID: "Uuid",
    SCHEDULE_AT: "ScheduleAt",
}
"""The special types that have no parameters, with the names client languages give them."""


def option(t: AlgebraicType) -> Sum:
    return sum_of(some=t, none=UNIT)


def result(ok: AlgebraicType, err: AlgebraicType) -> Sum:
    return sum_of(ok=ok, err=err)


def query_of(t: AlgebraicType) -> Product:
    """What a view that returns a query declares as its return type."""
    return product(__query__=t)


def is_unit(t: AlgebraicType) -> TypeGuard[Product]:
    return isinstance(t, Product) and not t.elements


def is_bytes(t: AlgebraicType) -> TypeGuard[Array]:
    return isinstance(t, Array) and t.element == U8


def is_option(t: AlgebraicType) -> TypeGuard[Sum]:
    return (
        isinstance(t, Sum)
        and len(t.variants) == 2
        and t.variants[0].name == "some"
        and t.variants[1].name == "none"
        and is_unit(t.variants[1].algebraic_type)
    )


def is_result(t: AlgebraicType) -> TypeGuard[Sum]:
    return isinstance(t, Sum) and len(t.variants) == 2 and t.variants[0].name == "ok" and t.variants[1].name == "err"


def is_special(t: AlgebraicType) -> bool:
    """True for the types that every client language has built in; they are never renamed and never defined."""
    if isinstance(t, Product):
        return len(t.elements) == 1 and t in SPECIAL_TYPES
    return isinstance(t, Sum) and (is_option(t) or is_result(t) or t == SCHEDULE_AT)


def is_unit_enum(t: AlgebraicType) -> TypeGuard[Sum]:
    """True for a sum with at least one variant whose variants all carry nothing."""
    return isinstance(t, Sum) and bool(t.variants) and all(is_unit(v.algebraic_type) for v in t.variants)


class Typespace(msgspec.Struct, frozen=True):
    """The types that `Ref` refers to."""

    types: tuple[AlgebraicType, ...] = ()

    def __getitem__(self, index: int) -> AlgebraicType:
        """The type at `index`; ValueError if there is none (no negative indexes)."""
        if not 0 <= index < len(self.types):
            raise ValueError(f"no type &{index} in a typespace of {len(self.types)} types")
        return self.types[index]

    def __len__(self) -> int:
        return len(self.types)

    def resolve(self, t: AlgebraicType) -> AlgebraicType:
        """`t` itself, or what it refers to if it is a reference (or a chain of them); its parts may be references.

        RecursiveType if the chain never ends.
        """
        for _ in range(len(self.types) + 1):
            if not isinstance(t, Ref):
                return t
            t = self[t.index]
        raise RecursiveType(f"{display(t)} refers to itself")

    def inline(self, t: AlgebraicType) -> AlgebraicType:
        """`t` with every reference replaced by what it refers to.

        RecursiveType if that never ends, ValueError if a reference leads nowhere or the result is too large.
        """
        nodes = 0

        def walk(t: AlgebraicType, open_refs: tuple[int, ...], depth: int) -> AlgebraicType:
            nonlocal nodes
            nodes += 1
            if depth > MAX_TYPE_DEPTH or nodes > MAX_INLINED_NODES:
                raise ValueError("type too large")
            match t:
                case Primitive():
                    return t
                case Ref(index):
                    if index in open_refs:
                        raise RecursiveType(f"&{index} contains itself")
                    return walk(self[index], (*open_refs, index), depth + 1)
                case Array(element):
                    inlined = walk(element, open_refs, depth + 1)
                    return t if inlined is element else Array(inlined)
                case Product(elements):
                    parts = [walk(e.algebraic_type, open_refs, depth + 1) for e in elements]
                    if all(new is e.algebraic_type for new, e in zip(parts, elements, strict=True)):
                        return t
                    pairs = zip(parts, elements, strict=True)
                    return Product(tuple(ProductElement(e.name, new) for new, e in pairs))
                case Sum(variants):
                    parts = [walk(v.algebraic_type, open_refs, depth + 1) for v in variants]
                    if all(new is v.algebraic_type for new, v in zip(parts, variants, strict=True)):
                        return t
                    return Sum(tuple(SumVariant(v.name, new) for new, v in zip(parts, variants, strict=True)))

        return walk(t, (), 0)

    def is_recursive(self, t: AlgebraicType) -> bool:
        """True if `t` contains itself (ValueError as for `inline`)."""
        try:
            self.inline(t)
        except RecursiveType:
            return True
        return False


EMPTY_TYPESPACE: Final = Typespace()


def display(t: AlgebraicType) -> str:
    """The type as error texts and migration plans print it: `(a: U32, b: Array<String>)`, `(A: () | B: U8)`, `&3`."""
    match t:
        case Primitive(kind):
            return kind
        case Ref(index):
            return f"&{index}"
        case Array(element):
            return f"Array<{display(element)}>"
        case Product(elements):
            parts = [f"{i if e.name is None else e.name}: {display(e.algebraic_type)}" for i, e in enumerate(elements)]
            return f"({', '.join(parts)})"
        case Sum(variants):
            if not variants:
                return "(|)"
            parts = ["" if v.name is None else f"{v.name}: " for v in variants]
            return f"({' | '.join(p + display(v.algebraic_type) for p, v in zip(parts, variants, strict=True))})"


# --- BSATN ------------------------------------------------------------------------------------------------------------

_TAG_AND_U32 = Format("<BI")
_U32 = Format("<I")
_NO_NAME = b"\x01"
_PRIMITIVE_BYTES = {p: bytes((FIRST_PRIMITIVE_TAG + i,)) for i, p in enumerate(PRIMITIVES)}


def encode_type(t: AlgebraicType) -> bytes:
    """BSATN of the type itself."""
    match t:
        case Primitive():
            return _PRIMITIVE_BYTES[t]
        case Ref(index):
            return _TAG_AND_U32.pack(0, index)
        case Array(element):
            return b"\x03" + encode_type(element)
        case Product(elements):
            parts = [_encode_name(e.name) + encode_type(e.algebraic_type) for e in elements]
            return _TAG_AND_U32.pack(2, len(elements)) + b"".join(parts)
        case Sum(variants):
            parts = [_encode_name(v.name) + encode_type(v.algebraic_type) for v in variants]
            return _TAG_AND_U32.pack(1, len(variants)) + b"".join(parts)


def _encode_name(name: str | None) -> bytes:
    if name is None:
        return _NO_NAME
    raw = name.encode()
    return _TAG_AND_U32.pack(0, len(raw)) + raw


def decode_type(buf: bytes | memoryview, at: int = 0) -> tuple[AlgebraicType, int]:
    """The type at `at` and the position after it; DecodeError if there is none."""
    return _decode_type(buf, at, 0)


def _decode_type(buf: bytes | memoryview, at: int, depth: int) -> tuple[AlgebraicType, int]:
    if depth > MAX_TYPE_DEPTH:
        raise DecodeError("type nested too deep")
    if at >= len(buf):
        raise DecodeError("data too short for u8: Expected 1, given 0")
    tag = buf[at]
    at += 1
    if FIRST_PRIMITIVE_TAG <= tag < FIRST_PRIMITIVE_TAG + len(PRIMITIVES):
        return PRIMITIVES[tag - FIRST_PRIMITIVE_TAG], at
    if tag == 0:
        index, at = _decode_u32(buf, at)
        return Ref(index), at
    if tag == 3:
        element, at = _decode_type(buf, at, depth + 1)
        return Array(element), at
    if tag > 3:
        raise DecodeError(f"unknown tag {tag:#x} for sum type AlgebraicType")
    count, at = _decode_u32(buf, at)
    parts = []
    for _ in range(count):  # ends early when the bytes run out: every part takes at least two
        name, at = _decode_name(buf, at)
        t, at = _decode_type(buf, at, depth + 1)
        parts.append((name, t))
    if tag == 1:
        return Sum(tuple(SumVariant(name, t) for name, t in parts)), at
    return Product(tuple(ProductElement(name, t) for name, t in parts)), at


def _decode_u32(buf: bytes | memoryview, at: int) -> tuple[int, int]:
    try:
        return _U32.unpack_from(buf, at)[0], at + 4
    except StructError:
        raise DecodeError(f"data too short for u32: Expected 4, given {max(0, len(buf) - at)}") from None


def _decode_name(buf: bytes | memoryview, at: int) -> tuple[str | None, int]:
    if at >= len(buf):
        raise DecodeError("data too short for u8: Expected 1, given 0")
    tag = buf[at]
    at += 1
    if tag == 1:
        return None, at
    if tag != 0:
        raise DecodeError(f"unknown tag {tag:#x} for sum type <unknown>")
    length, at = _decode_u32(buf, at)
    if length > len(buf) - at:
        raise DecodeError(f"data too short for [u8]: Expected {length}, given {len(buf) - at}")
    try:
        return str(buf[at : at + length], "utf-8"), at + length
    except UnicodeDecodeError:
        raise DecodeError("invalid utf8") from None


# --- JSON -------------------------------------------------------------------------------------------------------------


def type_to_json(t: AlgebraicType) -> dict[str, Any]:
    """The type as JSON-able objects, in the form of the schema endpoint."""
    match t:
        case Primitive(kind):
            return {kind: []}
        case Ref(index):
            return {"Ref": index}
        case Array(element):
            return {"Array": type_to_json(element)}
        case Product():
            return {"Product": product_to_json(t)}
        case Sum(variants):
            parts = [{"name": name_to_json(v.name), "algebraic_type": type_to_json(v.algebraic_type)} for v in variants]
            return {"Sum": {"variants": parts}}


def product_to_json(t: Product) -> dict[str, Any]:
    """A product type without the `Product` tag around it, as definitions hold reducer parameters."""
    parts = [{"name": name_to_json(e.name), "algebraic_type": type_to_json(e.algebraic_type)} for e in t.elements]
    return {"elements": parts}


def name_to_json(name: str | None) -> dict[str, Any]:
    return {"none": []} if name is None else {"some": name}


def type_from_json(value: Any) -> AlgebraicType:
    """The reverse of `type_to_json`; DecodeError if `value` is no type."""
    return _type_from_json(value, 0)


def _type_from_json(value: Any, depth: int) -> AlgebraicType:
    if depth > MAX_TYPE_DEPTH:
        raise DecodeError("type nested too deep")
    tag, payload = _variant(value)
    if tag in PRIMITIVE_OF_KIND:
        return PRIMITIVE_OF_KIND[tag]
    if tag == "Ref" and isinstance(payload, int) and 0 <= payload < 1 << 32:
        return Ref(payload)
    if tag == "Array":
        return Array(_type_from_json(payload, depth + 1))
    if tag == "Product":
        return Product(_parts_from_json(payload, "elements", ProductElement, depth))
    if tag == "Sum":
        return Sum(_parts_from_json(payload, "variants", SumVariant, depth))
    raise DecodeError(f"unknown algebraic type `{tag}`")


def _parts_from_json(
    payload: Any, key: str, part: Callable[[str | None, AlgebraicType], _Part], depth: int
) -> tuple[_Part, ...]:
    parts = payload.get(key) if isinstance(payload, dict) else None
    if not isinstance(parts, list):
        raise DecodeError(f"missing field `{key}`")
    built = []
    for entry in parts:
        if not isinstance(entry, dict) or "algebraic_type" not in entry:
            raise DecodeError("missing field `algebraic_type`")
        built.append(part(_name_from_json(entry.get("name")), _type_from_json(entry["algebraic_type"], depth + 1)))
    return tuple(built)


def _name_from_json(value: Any) -> str | None:
    if value is None:
        return None
    tag, payload = _variant(value)
    if tag == "some" and isinstance(payload, str):
        return payload
    if tag == "none":
        return None
    raise DecodeError("expected a name")


def _variant(value: Any) -> tuple[str, Any]:
    if isinstance(value, dict) and len(value) == 1:
        ((tag, payload),) = value.items()
        return str(tag), payload
    raise DecodeError("expected an object with one key")
