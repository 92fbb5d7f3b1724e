"""Sizes of BSATN values and the `struct` formats that stand for them; what both code generators of `bsatn` share."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from mmap import mmap
from typing import Any, Final, TypeAlias

from spacetimedb.types.codec_errors import INTEGER_BITS
from spacetimedb.types.shapes import ArrayShape, EnumShape, ProductShape, Scalar, Shape, SumShape, Wrapped

Buffer: TypeAlias = bytes | memoryview | mmap

MAX_CACHED_CODECS: Final = 4096
"""Codecs kept for reuse; the least recently used goes first."""

MAX_VARIANTS: Final = 256


CODES: Final[dict[str, str]] = dict(
    zip(("u8", "u16", "u32", "u64", "i8", "i16", "i32", "i64", "f32", "f64"), "BHIQbhiqfd", strict=True)
)
"""Scalars that are one `struct` code as they are."""

SIZES: Final[dict[str, int]] = {kind: bits // 8 for kind, bits in INTEGER_BITS.items()}
SIZES.update(bool=1, f32=4, f64=8, bytes16=16, bytes32=32)


def fixed_size(shape: Shape) -> int | None:
    """Bytes that every value takes, None if values differ."""
    match shape:
        case Scalar(kind) | Wrapped(kind):
            return SIZES.get(kind)
        case EnumShape():
            return 1
        case ProductShape(_, fields):
            total = 0
            for field in fields:
                size = fixed_size(field.shape)
                if size is None:
                    return None
                total += size
            return total
        case _:
            return None


def smallest_size(shape: Shape) -> int:
    """Bytes that any value takes at least."""
    match shape:
        case Scalar(kind) | Wrapped(kind):
            return SIZES.get(kind, 4)
        case ProductShape(_, fields):
            return sum(smallest_size(field.shape) for field in fields)
        case ArrayShape():
            return 4
        case _:
            return 1  # a tag; a recursive type has one somewhere, else it would have no values


def title_of(shape: Shape) -> str:
    match shape:
        case ProductShape(cls):
            return cls.__name__ if cls is not None else "product"
        case Scalar(kind):
            return kind
        case Wrapped(_, cls):
            return cls.__name__
        case SumShape(name):
            return name or "sum"
        case _:
            return type(shape).__name__.removesuffix("Shape").lower()


def format_name(kind: str, codes: str) -> str:
    return f"{kind}_{codes.replace('?', 'o')}"


def check_variants(count: int) -> None:
    if count > MAX_VARIANTS:
        raise ValueError(f"a sum has at most {MAX_VARIANTS} variants")


@lru_cache(maxsize=1024)
def packer(codes: str) -> Callable[..., bytes]:
    return struct.Struct("<" + codes).pack


@lru_cache(maxsize=1024)
def unpacker(codes: str) -> Callable[..., tuple[Any, ...]]:
    return struct.Struct("<" + codes).unpack_from


@lru_cache(maxsize=1024)
def iter_unpacker(codes: str) -> Callable[..., Any]:
    return struct.Struct("<" + codes).iter_unpack
