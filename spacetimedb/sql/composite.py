"""Literals of every type that a column can have, as BSATN.

    | type            | literal                                                                               |
    |-----------------|---------------------------------------------------------------------------------------|
    | comparable ones | see ``literals``; identities, ids and times also as strings                           |
    | TimeDuration    | a number: microseconds                                                                |
    | option          | NULL, or a literal of the type within                                                 |
    | array           | ARRAY[a, b]; of bytes also hex digits                                                 |
    | product         | (a, b), ROW(a, b)                                                                     |
    | sum             | name(a) for the variant ``name``, name() or 'name' if it has no value                 |

A variant whose value is a product also takes its fields: ``name(a, b)``.
"""

from __future__ import annotations

from typing import Final

from spacetimedb.sql.errors import SqlError
from spacetimedb.sql.literals import COMPARABLE, constant, parse
from spacetimedb.sql.syntax import Composite, Literal
from spacetimedb.types.algebraic import (
    BOOL,
    CONNECTION_ID,
    I64,
    IDENTITY,
    STRING,
    TIME_DURATION,
    TIMESTAMP,
    UUID,
    AlgebraicType,
    Array,
    Product,
    Sum,
    display,
    is_option,
)

_FROM_STRINGS: Final = frozenset((STRING, IDENTITY, CONNECTION_ID, TIMESTAMP, UUID))
_TOKEN_TYPES: Final = {"string": STRING, "bool": BOOL}


def encoded(literal: Literal | Composite, t: AlgebraicType) -> bytes:
    """The BSATN of a literal as a value of this type. Raises SqlError if it is none."""
    if t in COMPARABLE and isinstance(literal, Literal):
        return _comparable(literal, t)
    if isinstance(literal, Composite) and literal.kind == "null" and not is_option(t):
        raise SqlError("Unsupported literal expression: NULL")
    if t == TIME_DURATION and isinstance(literal, Literal) and literal.kind == "number":
        found = parse(literal.text, I64)
        if found is not None:
            return found.encoded
    elif isinstance(t, Array) and isinstance(literal, Composite) and literal.kind == "array":
        return len(literal.items).to_bytes(4, "little") + b"".join(encoded(item, t.element) for item in literal.items)
    elif isinstance(t, Product) and isinstance(literal, Composite) and literal.kind == "row":
        return _fields(literal, literal.items, t)
    elif isinstance(t, Sum):
        return _sum(literal, t)
    raise _wrong(literal, t)


def _comparable(literal: Literal, t: AlgebraicType) -> bytes:
    own = _TOKEN_TYPES.get(literal.kind)
    if own is not None and own != t and not (own == STRING and t in _FROM_STRINGS):
        raise SqlError(f"Unexpected type: (expected) {display(own)} != {display(t)} (inferred)")
    if own == BOOL:
        return constant(BOOL, literal.text == "true").encoded
    found = parse(literal.text, t)
    if found is None:
        raise _wrong(literal, t)
    return found.encoded


def _fields(literal: Composite, items: tuple[Literal | Composite, ...], t: Product) -> bytes:
    if len(items) != len(t.elements):
        raise _wrong(literal, t)
    return b"".join(encoded(item, element.algebraic_type) for item, element in zip(items, t.elements, strict=True))


def _sum(literal: Literal | Composite, t: Sum) -> bytes:
    if isinstance(literal, Composite) and literal.kind == "call":
        name, items = literal.name, literal.items
    elif isinstance(literal, Literal) and literal.kind == "string" and not is_option(t):
        name, items = literal.text, ()
    elif is_option(t):
        if isinstance(literal, Composite) and literal.kind == "null":
            return b"\x01"
        return b"\0" + encoded(literal, t.variants[0].algebraic_type)
    else:
        raise _wrong(literal, t)
    for tag, variant in enumerate(t.variants):
        if variant.name != name:
            continue
        payload = variant.algebraic_type
        if len(items) == 1 and not (isinstance(payload, Product) and len(payload.elements) == 1 and _is_plain(payload)):
            return bytes((tag,)) + encoded(items[0], payload)
        if isinstance(payload, Product):
            return bytes((tag,)) + _fields(Composite("row", literal.text), items, payload)
    if is_option(t) and isinstance(literal, Composite):
        return b"\0" + encoded(literal, t.variants[0].algebraic_type)
    raise _wrong(literal, t)


def _is_plain(t: Product) -> bool:
    """Whether a product of one field is written by its field, and not by a literal of its own."""
    return t not in COMPARABLE and t != TIME_DURATION


def _wrong(literal: Literal | Composite, t: AlgebraicType) -> SqlError:
    if isinstance(literal, Composite) and t in COMPARABLE:
        return SqlError(f"Unsupported expression: {literal.text}")
    return SqlError(f"The literal expression `{literal.text}` cannot be parsed as type `{display(t)}`")
