"""Layouts: one description of a value gives its BSATN writer, its BSATN reader and its JSON form.

The definitions of modules are the only values that nest freely (a type holds types, a module holds modules) and that
appear both as BSATN and as "native struct" JSON, so they are described by small objects instead of generated codecs.
They are read once per publish; speed does not matter here.

BSATN as everywhere: integers little-endian, string and array behind a u32 count, option and sum behind a u8 tag.
JSON ("native struct"): a record is an object, a sum ``{"Variant": payload}``, unit ``[]``, option ``{"some": v}`` or
``{"none": []}``, bytes lowercase hex, integers plain numbers.

Readers raise ``DecodeError`` with the usual texts and never trust a count: an element takes at least one byte. What
``parse`` is given comes from a server that one talks to; it raises ``DecodeError`` (``parsed`` sees to that).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, Protocol

from spacetimedb.types.algebraic import (
    AlgebraicType,
    Product,
    ProductElement,
    decode_type,
    encode_type,
    product_to_json,
    type_from_json,
    type_to_json,
)
from spacetimedb.types.errors import DecodeError

Json = Any
"""What ``json.dumps`` takes."""


class Layout(Protocol):
    """How a value is written, read and printed."""

    def write(self, value: Any, out: bytearray) -> None:
        """Append the BSATN of ``value``."""

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        """The value that starts at byte ``at`` and the position after it."""

    def json(self, value: Any) -> Json:
        """The JSON form."""

    def parse(self, json: Json) -> Any:
        """The value of a JSON form; some exception if it is none."""


def parsed(layout: Layout, json: Json) -> Any:
    """The value of a JSON form. Raises ``DecodeError``."""
    try:
        return layout.parse(json)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        raise DecodeError(f"not in the form of {type(layout).__name__.lower()}: {error!r}") from None


def _need(data: bytes, at: int, count: int, what: str) -> int:
    """Position after ``count`` bytes from ``at``; DecodeError when there are fewer."""
    if len(data) - at < count:
        raise DecodeError(f"data too short for {what}: Expected {count}, given {len(data) - at}")
    return at + count


class Number:
    """A fixed-width integer of at most 8 bytes, by its ``struct`` code."""

    def __init__(self, name: str, code: str) -> None:
        self._name = name
        self._struct = struct.Struct("<" + code)

    def write(self, value: int, out: bytearray) -> None:
        out += self._struct.pack(value)

    def read(self, data: bytes, at: int) -> tuple[int, int]:
        end = _need(data, at, self._struct.size, self._name)
        (value,) = self._struct.unpack_from(data, at)
        return value, end

    def json(self, value: int) -> Json:
        return value

    def parse(self, json: Json) -> int:
        return int(json)


class WideInteger:
    """i128."""

    def write(self, value: int, out: bytearray) -> None:
        out += value.to_bytes(16, "little", signed=True)

    def read(self, data: bytes, at: int) -> tuple[int, int]:
        end = _need(data, at, 16, "i128")
        return int.from_bytes(data[at:end], "little", signed=True), end

    def json(self, value: int) -> Json:
        return value

    def parse(self, json: Json) -> int:
        return int(json)


class Boolean:
    """bool: one byte, 0 or 1."""

    def write(self, value: bool, out: bytearray) -> None:
        out.append(1 if value else 0)

    def read(self, data: bytes, at: int) -> tuple[bool, int]:
        end = _need(data, at, 1, "u8")
        if data[at] > 1:
            raise DecodeError(f"byte {data[at]} not valid as `bool` (must be 0 or 1)")
        return data[at] == 1, end

    def json(self, value: bool) -> Json:
        return value

    def parse(self, json: Json) -> bool:
        return bool(json)


class Bytes:
    """Array of u8 as ``bytes``; hex in JSON."""

    def write(self, value: bytes, out: bytearray) -> None:
        U32.write(len(value), out)
        out += value

    def read(self, data: bytes, at: int) -> tuple[bytes, int]:
        length, at = U32.read(data, at)
        end = _need(data, at, length, "bytes")
        return bytes(data[at:end]), end

    def json(self, value: bytes) -> Json:
        return value.hex()

    def parse(self, json: Json) -> bytes:
        return bytes.fromhex(json)


class String:
    """UTF-8 string."""

    def write(self, value: str, out: bytearray) -> None:
        BYTES.write(value.encode(), out)

    def read(self, data: bytes, at: int) -> tuple[str, int]:
        length, at = U32.read(data, at)
        end = _need(data, at, length, "string")
        try:
            return data[at:end].decode(), end
        except UnicodeDecodeError:
            raise DecodeError("invalid utf8") from None

    def json(self, value: str) -> Json:
        return value

    def parse(self, json: Json) -> str:
        return str(json)


class Enumeration:
    """A sum of units as an ``IntEnum``; ``names`` are the variants' names by tag."""

    def __init__(self, members: type[IntEnum], names: Sequence[str]) -> None:
        self._members = members
        self._names = names

    def write(self, value: int, out: bytearray) -> None:
        out.append(value)

    def read(self, data: bytes, at: int) -> tuple[IntEnum, int]:
        end = _need(data, at, 1, "u8")
        if data[at] >= len(self._names):
            raise _unknown_tag(data[at], self._members.__name__)
        return self._members(data[at]), end

    def json(self, value: int) -> Json:
        return {self._names[value]: []}

    def parse(self, json: Json) -> IntEnum:
        (name,) = json
        return self._members(self._names.index(name))


class Option:
    """None or a value: tag 1, or tag 0 and the value."""

    def __init__(self, inner: Layout) -> None:
        self._inner = inner

    def write(self, value: Any, out: bytearray) -> None:
        if value is None:
            out.append(1)
        else:
            out.append(0)
            self._inner.write(value, out)

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        end = _need(data, at, 1, "u8")
        if data[at] == 1:
            return None, end
        if data[at] != 0:
            raise _unknown_tag(data[at], None)
        return self._inner.read(data, end)

    def json(self, value: Any) -> Json:
        return {"none": []} if value is None else {"some": self._inner.json(value)}

    def parse(self, json: Json) -> Any:
        return self._inner.parse(json["some"]) if "some" in json else None


class Sequenced:
    """Array as a tuple."""

    def __init__(self, element: Layout) -> None:
        self._element = element

    def write(self, value: Sequence[Any], out: bytearray) -> None:
        U32.write(len(value), out)
        for element in value:
            self._element.write(element, out)

    def read(self, data: bytes, at: int) -> tuple[tuple[Any, ...], int]:
        count, at = U32.read(data, at)
        _need(data, at, count, "array")
        elements = []
        for _ in range(count):
            element, at = self._element.read(data, at)
            elements.append(element)
        return tuple(elements), at

    def json(self, value: Sequence[Any]) -> Json:
        return [self._element.json(element) for element in value]

    def parse(self, json: Json) -> tuple[Any, ...]:
        return tuple(map(self._element.parse, json))


class Record:
    """A product: an instance of ``cls``, its attributes in the order given, named in JSON as in ``cls``."""

    def __init__(self, cls: Callable[..., Any], **fields: Layout) -> None:
        self._cls = cls
        self._fields = tuple(fields.items())

    def write(self, value: Any, out: bytearray) -> None:
        for name, layout in self._fields:
            layout.write(getattr(value, name), out)

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        values = {}
        for name, layout in self._fields:
            values[name], at = layout.read(data, at)
        return self._cls(**values), at

    def json(self, value: Any) -> Json:
        return {name: layout.json(getattr(value, name)) for name, layout in self._fields}

    def parse(self, json: Json) -> Any:
        return self._cls(**{name: layout.parse(json[name]) for name, layout in self._fields})


class Field:
    """A product of one field, as that field's value; only JSON shows the field."""

    def __init__(self, name: str, inner: Layout) -> None:
        self._name = name
        self._inner = inner

    def write(self, value: Any, out: bytearray) -> None:
        self._inner.write(value, out)

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        return self._inner.read(data, at)

    def json(self, value: Any) -> Json:
        return {self._name: self._inner.json(value)}

    def parse(self, json: Json) -> Any:
        return self._inner.parse(json[self._name])


class Variants:
    """A sum: ``split`` takes a value apart into (tag, payload), ``join`` puts it together; a case is (name, layout)."""

    def __init__(
        self,
        name: str,
        cases: Sequence[tuple[str, Layout]],
        split: Callable[[Any], tuple[int, Any]],
        join: Callable[[int, Any], Any],
    ) -> None:
        self._name = name
        self._cases = cases
        self._split = split
        self._join = join

    def write(self, value: Any, out: bytearray) -> None:
        tag, payload = self._split(value)
        out.append(tag)
        self._cases[tag][1].write(payload, out)

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        end = _need(data, at, 1, "u8")
        tag = data[at]
        if tag >= len(self._cases):
            raise _unknown_tag(tag, self._name)
        payload, end = self._cases[tag][1].read(data, end)
        return self._join(tag, payload), end

    def json(self, value: Any) -> Json:
        tag, payload = self._split(value)
        name, layout = self._cases[tag]
        return {name: layout.json(payload)}

    def parse(self, json: Json) -> Any:
        ((name, payload),) = json.items()
        tag = [known for known, _ in self._cases].index(name)
        return self._join(tag, self._cases[tag][1].parse(payload))


class Unit:
    """The empty product, as None."""

    def write(self, value: None, out: bytearray) -> None:
        pass

    def read(self, data: bytes, at: int) -> tuple[None, int]:
        return None, at

    def json(self, value: None) -> Json:
        return []

    def parse(self, json: Json) -> None:
        return None


class Later:
    """A layout that is defined further down, for values that hold values of their own kind; at most ``depth`` deep."""

    def __init__(self, layout: Callable[[], Layout], depth: int, what: str) -> None:
        self._layout = layout
        self._depth = depth
        self._what = what
        self._level = 0

    def write(self, value: Any, out: bytearray) -> None:
        self._layout().write(value, out)

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        if self._level >= self._depth:
            raise DecodeError(f"{self._what} are nested more than {self._depth} deep")
        self._level += 1
        try:
            return self._layout().read(data, at)
        finally:
            self._level -= 1

    def json(self, value: Any) -> Json:
        return self._layout().json(value)

    def parse(self, json: Json) -> Any:
        return self._layout().parse(json)


class TypeLayout:
    """An algebraic type."""

    def write(self, value: AlgebraicType, out: bytearray) -> None:
        out += encode_type(value)

    def read(self, data: bytes, at: int) -> tuple[AlgebraicType, int]:
        return decode_type(data, at)

    def json(self, value: AlgebraicType) -> Json:
        return type_to_json(value)

    def parse(self, json: Json) -> AlgebraicType:
        return type_from_json(json)


class ProductLayout:
    """A product type by itself, without the tag that marks it as a product among the types."""

    def write(self, value: Product, out: bytearray) -> None:
        ELEMENTS.write(value.elements, out)

    def read(self, data: bytes, at: int) -> tuple[Product, int]:
        elements, at = ELEMENTS.read(data, at)
        return Product(elements), at

    def json(self, value: Product) -> Json:
        return product_to_json(value)

    def parse(self, json: Json) -> Product:
        return Product(ELEMENTS.parse(json["elements"]))


def _unknown_tag(tag: int, name: str | None) -> DecodeError:
    return DecodeError(f"unknown tag {tag:#x} for sum type {name or '<unknown>'}")


U8 = Number("u8", "B")
U16 = Number("u16", "H")
U32 = Number("u32", "I")
I128 = WideInteger()
BOOL = Boolean()
BYTES = Bytes()
STRING = String()
UNIT = Unit()
TYPE = TypeLayout()
ELEMENTS = Sequenced(Record(ProductElement, name=Option(STRING), algebraic_type=TYPE))
PRODUCT = ProductLayout()
