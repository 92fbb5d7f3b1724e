"""Why a value cannot be encoded, why bytes cannot be decoded: a slow walk along a shape that only says what is wrong.

The generated codecs of `bsatn` detect that something is wrong and call this to find out what. Texts of decoding errors
are part of the protocol.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NoReturn

from spacetimedb.types.errors import DecodeError
from spacetimedb.types.shapes import (
    ArrayShape,
    EnumShape,
    OptionShape,
    ProductShape,
    RefShape,
    ResultShape,
    Scalar,
    Shape,
    SumShape,
    Wrapped,
)

MAX_VALUE_DEPTH: Final = 400
"""Deepest nesting of a value of a recursive type that is looked into."""

MAX_ZERO_SIZED_ELEMENTS: Final = 65_536
"""Longest array whose elements take no bytes; the count alone could otherwise ask for any amount of memory."""

INTEGER_BITS: Final = {f"{sign}{bits}": bits for sign in "ui" for bits in (8, 16, 32, 64, 128, 256)}

_READ_AS: Final = {"bool": "u8", "f32": "u32", "f64": "u64"}
_WRAPPED_READ_AS: Final = {"bytes32": ("u256", 32), "bytes16": ("u128", 16), "i64": ("i64", 8)}


def integer_range(kind: str) -> tuple[int, int]:
    """Smallest and largest value of "u8", "i256", ..."""
    bits = INTEGER_BITS[kind]
    return (0, (1 << bits) - 1) if kind[0] == "u" else (-1 << (bits - 1), (1 << (bits - 1)) - 1)


def explain_encode(shape: Shape, value: Any, error: Exception) -> ValueError:
    """The error to raise when encoding `value` failed with `error`: it names the field and the value."""
    try:
        _check_value(shape, value, "", 0)
    except ValueError as found:
        return found
    except Exception:
        pass  # a class with surprises: the original error says more
    return ValueError(f"cannot encode {value!r}: {error}")


def explain_decode(shape: Shape, buf: Any, at: int) -> None:
    """Raises DecodeError if there is no value of the shape at `at`; returns if there is one."""
    try:
        _check_bytes(shape, buf, at, 0)
    except RecursionError:
        raise DecodeError("value nested too deep") from None


# --- values -----------------------------------------------------------------------------------------------------------


def _wrong(path: str, value: object, expected: str) -> NoReturn:
    text = repr(value)
    if len(text) > 200:
        text = text[:200] + "..."
    raise ValueError(f"{path + ': ' if path else ''}{text} is not {expected}")


def _inside(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _check_value(shape: Shape, value: Any, path: str, depth: int) -> None:
    if depth > MAX_VALUE_DEPTH:
        raise ValueError(f"{path[:60]}: nested too deep")
    match shape:
        case Scalar(kind):
            _check_scalar(kind, value, path)
        case Wrapped(kind, cls):
            if kind == "i64":
                if not isinstance(value, int) or not -(1 << 63) <= value < 1 << 63:
                    _wrong(path, value, f"a {cls.__name__}")
            elif not isinstance(value, bytes) or len(value) != (32 if kind == "bytes32" else 16):
                _wrong(path, value, f"a {cls.__name__}")
        case ArrayShape(element):
            if not isinstance(value, list | tuple):
                _wrong(path, value, "a list")
            for i, entry in enumerate(value):
                _check_value(element, entry, f"{path}[{i}]", depth + 1)
        case OptionShape(some):
            if value is not None:
                _check_value(some, value, path, depth + 1)
        case ResultShape(ok, err):
            if not isinstance(value, tuple) or len(value) != 2 or value[0] not in ("ok", "err"):
                _wrong(path, value, '("ok", value) or ("err", value)')
            _check_value(ok if value[0] == "ok" else err, value[1], _inside(path, value[0]), depth + 1)
        case EnumShape(cls, names):
            if not isinstance(value, int) or not 0 <= value < len(names):
                _wrong(path, value, f"a {cls.__name__}" if cls else f"a tag below {len(names)}")
        case RefShape():
            _check_value(shape.target(), value, path, depth + 1)
        case ProductShape(cls, fields):
            if cls is None:
                if not isinstance(value, tuple | list) or len(value) != len(fields):
                    _wrong(path, value, f"a tuple of {len(fields)}")
                for i, (field, entry) in enumerate(zip(fields, value, strict=True)):
                    _check_value(field.shape, entry, _inside(path, field.name or str(i)), depth + 1)
                return
            for field in fields:
                if not hasattr(value, field.attr):
                    _wrong(path, value, f"a {cls.__name__}")
                _check_value(field.shape, getattr(value, field.attr), _inside(path, field.attr), depth + 1)
        case SumShape():
            _check_sum(shape, value, path, depth)


def _check_sum(shape: SumShape, value: Any, path: str, depth: int) -> None:
    for tag, variant in enumerate(shape.variants):
        if variant.cls is None:
            if isinstance(value, tuple | list) and len(value) == 2 and value[0] == tag:
                if variant.shape is not None:
                    _check_value(variant.shape, value[1], _inside(path, variant.name or str(tag)), depth + 1)
                elif value[1] != ():
                    _wrong(_inside(path, variant.name or str(tag)), value[1], "()")
                return
        elif type(value) is variant.cls:
            if variant.shape is not None:
                payload = value.value if variant.kind == "value" else value
                _check_value(variant.shape, payload, _inside(path, variant.cls.__name__), depth + 1)
            return
    _wrong(path, value, f"a {shape.name or 'variant'}")


def _check_scalar(kind: str, value: Any, path: str) -> None:
    if kind in INTEGER_BITS:
        low, high = integer_range(kind)
        if not isinstance(value, int) or not low <= value <= high:
            _wrong(path, value, f"a {kind}")
    elif kind in ("f32", "f64"):
        if not isinstance(value, int | float):
            _wrong(path, value, f"an {kind}")
        try:
            struct.pack("<f" if kind == "f32" else "<d", value)
        except OverflowError:
            _wrong(path, value, f"an {kind}")
    elif kind == "string":
        if not isinstance(value, str):
            _wrong(path, value, "a string")
        try:
            value.encode()
        except UnicodeEncodeError:
            _wrong(path, value, "a string of valid Unicode")
    elif kind == "bytes" and not isinstance(value, bytes):
        _wrong(path, value, "a byte string")


# --- bytes ------------------------------------------------------------------------------------------------------------


def _need(buf: Any, at: int, size: int, kind: str) -> int:
    """The position after `size` bytes at `at`, if they are there."""
    given = max(0, len(buf) - at)
    if size > given:
        raise DecodeError(f"data too short for {kind}: Expected {size}, given {given}")
    return at + size


def _count(buf: Any, at: int) -> tuple[int, int]:
    end = _need(buf, at, 4, "u32")
    return int.from_bytes(buf[at:end], "little"), end


def _unknown_tag(tag: int, name: str | None) -> DecodeError:
    return DecodeError(f"unknown tag {tag:#x} for sum type {name or '<unknown>'}")


def _check_bytes(shape: Shape, buf: Any, at: int, depth: int) -> int:
    if depth > MAX_VALUE_DEPTH:
        raise DecodeError("value nested too deep")
    match shape:
        case Scalar(kind):
            return _check_scalar_bytes(kind, buf, at)
        case Wrapped(kind):
            read_as, size = _WRAPPED_READ_AS[kind]
            return _need(buf, at, size, read_as)
        case ArrayShape(element):
            count, at = _count(buf, at)
            for i in range(count):
                start = at
                at = _check_bytes(element, buf, at, depth + 1)
                if at == start and i >= MAX_ZERO_SIZED_ELEMENTS:
                    raise DecodeError(f"too many elements for array: at most {MAX_ZERO_SIZED_ELEMENTS} without bytes")
            return at
        case OptionShape(some):
            return _check_tagged((some, None), None, buf, at, depth)
        case ResultShape(ok, err):
            return _check_tagged((ok, err), None, buf, at, depth)
        case EnumShape(_, names):
            return _check_tagged((None,) * len(names), None, buf, at, depth)
        case SumShape(_, variants):
            return _check_tagged(tuple(variant.shape for variant in variants), None, buf, at, depth)
        case ProductShape(_, fields):
            for field in fields:
                at = _check_bytes(field.shape, buf, at, depth + 1)
            return at
        case RefShape():
            return _check_bytes(shape.target(), buf, at, depth + 1)


def _check_tagged(payloads: tuple[Shape | None, ...], name: str | None, buf: Any, at: int, depth: int) -> int:
    end = _need(buf, at, 1, "u8")
    tag = buf[at]
    if tag >= len(payloads):
        raise _unknown_tag(tag, name)
    payload = payloads[tag]
    return end if payload is None else _check_bytes(payload, buf, end, depth + 1)


def _check_scalar_bytes(kind: str, buf: Any, at: int) -> int:
    if kind in ("string", "bytes"):
        length, at = _count(buf, at)
        end = _need(buf, at, length, "[u8]")
        if kind == "string":
            try:
                str(buf[at:end], "utf-8")
            except UnicodeDecodeError:
                raise DecodeError("invalid utf8") from None
        return end
    read_as = _READ_AS.get(kind, kind)
    end = _need(buf, at, INTEGER_BITS[read_as] // 8, read_as)
    if kind == "bool" and buf[at] > 1:
        raise DecodeError(f"byte {buf[at]} not valid as `bool` (must be 0 or 1)")
    return end
