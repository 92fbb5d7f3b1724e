"""Size and alignment of a type in the fixed part of a stored row: what decides whether an enum may grow in place.

bool, i8, u8 1/1   16 bit 2/2   32 bit 4/4   64 bit 8/8   128 bit 16/16   256 bit 32/32   string, array 4/2
product   fields in order, each aligned; alignment the largest of the fields' (at least 1), size rounded up to it
sum       alignment the largest of the variants' (at least 1); size alignment + the largest variant, rounded up
"""

from __future__ import annotations

from spacetimedb.types.algebraic import AlgebraicType, Array, Primitive, Product, Sum

_PRIMITIVES = {
    **dict.fromkeys(("Bool", "I8", "U8"), 1),
    **dict.fromkeys(("I16", "U16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64"), 8),
    **dict.fromkeys(("I128", "U128"), 16),
    **dict.fromkeys(("I256", "U256"), 32),
}
_VARIABLE_LENGTH = (4, 2)


def size_and_alignment(t: AlgebraicType) -> tuple[int, int]:
    """(size, alignment) in bytes of an inlined type; ValueError for a reference."""
    match t:
        case Primitive(kind):
            size = _PRIMITIVES.get(kind)
            return _VARIABLE_LENGTH if size is None else (size, size)
        case Array():
            return _VARIABLE_LENGTH
        case Product(elements):
            end, alignment = 0, 1
            for element in elements:
                size, own = size_and_alignment(element.algebraic_type)
                end = _round_up(end, own) + size
                alignment = max(alignment, own)
            return _round_up(end, alignment), alignment
        case Sum(variants):
            layouts = [size_and_alignment(variant.algebraic_type) for variant in variants]
            largest = max((size for size, _ in layouts), default=0)
            alignment = max((own for _, own in layouts), default=1)
            return alignment + _round_up(largest, alignment), alignment
    raise ValueError("a reference has no size of its own")


def _round_up(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment
