"""Copies of rows.

The store never shares a mutable object with module code: rows are copied in and out. A flat copy of a Struct costs
60 ns; lists and mutable Structs inside it are cloned too, else a caller could edit committed state. Frozen rows without
lists are shared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec
from msgspec.structs import replace

from spacetimedb.types.shapes import (
    ArrayShape,
    FieldShape,
    OptionShape,
    ProductShape,
    RefShape,
    ResultShape,
    Shape,
    SumShape,
)

Clone: TypeAlias = Callable[[Any], Any]


def is_frozen(cls: type[Any]) -> bool:
    """Whether instances of a row or struct class refuse assignments."""
    return issubclass(cls, msgspec.Struct) and cls.__struct_config__.frozen


def is_mutable(shape: Shape) -> bool:
    """Whether a value of this shape, or anything in it, can be changed in place."""
    match shape:
        case ArrayShape() | RefShape():
            return True
        case OptionShape(some):
            return is_mutable(some)
        case ResultShape(ok, err):
            return is_mutable(ok) or is_mutable(err)
        case ProductShape(cls, fields):
            return (cls is not None and not is_frozen(cls)) or any(is_mutable(f.shape) for f in fields)
        case SumShape(_, variants):
            return any(
                (v.cls is not None and not is_frozen(v.cls)) or (v.shape is not None and is_mutable(v.shape))
                for v in variants
            )
        case _:
            return False


def cloner(shape: Shape) -> Clone | None:
    """A function that copies a value as deep as it is mutable; None when the value itself may be shared."""
    if not is_mutable(shape):
        return None
    match shape:
        case ArrayShape(element):
            clone = cloner(element)
            return list if clone is None else lambda value: [clone(item) for item in value]
        case OptionShape(some):
            inner = _always(cloner(some))
            return lambda value: None if value is None else inner(value)
        case ResultShape(ok, err):
            payload = {"ok": _always(cloner(ok)), "err": _always(cloner(err))}
            return lambda value: (value[0], payload[value[0]](value[1]))
        case ProductShape(None, fields):
            parts = [_always(cloner(f.shape)) for f in fields]
            return lambda value: tuple([part(item) for part, item in zip(parts, value, strict=True)])
        case ProductShape(cls, fields) if cls is not None:
            return _struct_cloner(cls, fields)
        case SumShape():
            return _sum_cloner(shape)
        case _:
            return copy.deepcopy


def _always(clone: Clone | None) -> Clone:
    return clone or (lambda value: value)


def _struct_cloner(cls: type[Any], fields: tuple[FieldShape, ...]) -> Clone:
    deep = [(f.attr, clone) for f in fields if (clone := cloner(f.shape)) is not None]
    if not deep:
        flat: Clone = cls.__copy__
        return flat
    return lambda value: replace(value, **{attr: clone(getattr(value, attr)) for attr, clone in deep})


def _sum_cloner(shape: SumShape) -> Clone:
    clones: dict[Any, Clone] = {}
    for tag, variant in enumerate(shape.variants):
        clone: Clone | None = None
        if variant.cls is None:
            clone = None if variant.shape is None else cloner(variant.shape)
            if clone is not None:
                clones[tag] = clone
            continue
        if variant.kind == "product" and isinstance(variant.shape, ProductShape):
            clone = cloner(ProductShape(variant.cls, variant.shape.fields))
        elif variant.kind == "value" and variant.shape is not None:
            clone = _struct_cloner(variant.cls, (FieldShape("value", None, variant.shape),))
        if clone is not None:
            clones[variant.cls] = clone
    if any(variant.cls is None for variant in shape.variants):
        return lambda value: (value[0], clones[value[0]](value[1])) if value[0] in clones else value
    return lambda value: clones[value.__class__](value) if value.__class__ in clones else value
