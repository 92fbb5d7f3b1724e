"""JSON to BSATN, directed by the type: arguments of reducers and procedures, values of the JSON protocol.

    | type            | accepted                                                                                      |
    |-----------------|-----------------------------------------------------------------------------------------------|
    | product         | array of exactly the elements, or object with exactly the names in any order                  |
    | sum             | {"name": v}, {"1": v}, ["name", v], ["1", v], [1, v]; a name that reads as a u8 is a tag      |
    | option          | the same, or null for none                                                                    |
    | unit            | [] or {}                                                                                      |
    | integers        | integer in range, up to 128 bits bare; 256 bits as "0x..." or, signed, "-0x..."               |
    | f32, f64        | any number; an f32 out of range becomes infinite                                              |
    | Array(U8)       | hex string without prefix, or array of numbers                                                |

Errors carry the path of the culprit as clients see it: `.` for the whole, `[1]`, `[2][0]`, `[13].rect`, `price`.
"""

from __future__ import annotations

import struct
from typing import Final

from spacetimedb.types.algebraic import (
    EMPTY_TYPESPACE,
    AlgebraicType,
    Array,
    Primitive,
    Product,
    ProductElement,
    Ref,
    Sum,
    Typespace,
    is_bytes,
    is_option,
)
from spacetimedb.types.codec_errors import INTEGER_BITS, integer_range
from spacetimedb.types.errors import DecodeError
from spacetimedb.types.json_reader import JsonError, JsonReader
from spacetimedb.types.satn import plain_float_text

_F32: Final = struct.Struct("<f")
_F64: Final = struct.Struct("<d")
_U32: Final = struct.Struct("<I")
_INFINITE_F32: Final = _F32.pack(float("inf"))


class ArgumentError(DecodeError):
    """JSON that does not fit the parameters.

    `path` names the culprit (None: text after the value), `reason` ends in ` at line L column C`.
    """

    def __init__(self, function_name: str, path: str | None, reason: str) -> None:
        self.function_name = function_name
        self.path = path
        self.reason = reason
        super().__init__(self.message("reducer"))

    @property
    def detail(self) -> str:
        """`path: reason`."""
        return self.reason if self.path is None else f"{self.path}: {self.reason}"

    def message(self, kind: str) -> str:
        """The whole text that a client gets; `kind` is "reducer" or "procedure"."""
        name, short = self.function_name, self.reason if self.path is None else self.path
        return f"invalid arguments for {kind} {name}: {short}: invalid arguments for function {name}: {short}: " + (
            self.detail
        )


class JsonValueError(DecodeError):
    """JSON that does not fit a type: `path` names the culprit, `reason` ends in ` at line L column C`."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path}: {reason}")


class ArgumentsDecoder:
    """Turns the JSON arguments of one function into BSATN.

    `params` has the parameter names as the module declares them. `decode` raises ArgumentError.
    """

    def __init__(self, function_name: str, params: Product, typespace: Typespace = EMPTY_TYPESPACE) -> None:
        self.function_name = function_name
        self.params = params
        self.typespace = typespace

    def decode(self, text: bytes | str) -> bytes:
        """The BSATN of the arguments, all of them one after the other."""
        walk = _Walk(text, self.typespace)
        try:
            made = walk.product(self.params, function_name=self.function_name)
        except JsonError as error:
            raise ArgumentError(self.function_name, walk.path_text(), walk.describe(error)) from None
        try:
            walk.reader.finish()
        except JsonError as error:
            raise ArgumentError(self.function_name, None, walk.describe(error)) from None
        return made


def from_json(t: AlgebraicType, text: bytes | str, typespace: Typespace = EMPTY_TYPESPACE) -> bytes:
    """The BSATN of one value. Raises JsonValueError."""
    walk = _Walk(text, typespace)
    try:
        made = walk.value(t)
        walk.reader.finish()
    except JsonError as error:
        raise JsonValueError(walk.path_text(), walk.describe(error)) from None
    return made


class _Walk:
    """One pass over a text. `path` leads to the value that is being read; it stays as it is after an error."""

    def __init__(self, text: bytes | str, typespace: Typespace) -> None:
        self.reader = JsonReader(text.encode(errors="surrogatepass") if isinstance(text, str) else text)
        self.typespace = typespace
        self.path: list[int | str] = []

    def path_text(self) -> str:
        if not self.path:
            return "."
        text = ""
        for segment in self.path:
            text += f"[{segment}]" if isinstance(segment, int) else f".{segment}" if text else segment
        return text

    def describe(self, error: JsonError) -> str:
        return f"{error.reason} at {self.reader.place(error.index)}"

    def inside(self, segment: int | str, t: AlgebraicType) -> bytes:
        self.path.append(segment)
        made = self.value(t)
        self.path.pop()
        return made

    def value(self, t: AlgebraicType) -> bytes:
        match t:
            case Ref():
                return self.value(self.typespace.resolve(t))
            case Primitive(kind):
                return self.primitive(kind.lower())
            case Array():
                return self.byte_string() if is_bytes(t) else self.array(t.element)
            case Product():
                return self.product(t)
            case Sum():
                return self.sum(t)

    # --- what went wrong

    def unexpected(self, expected: str) -> JsonError:
        """The error for a value of another kind than expected; the value is read first where it is short."""
        reader, byte = self.reader, self.reader.peek_value()
        if byte in b"tfn":
            word = reader.word()
            found = "null" if word is None else f"boolean `{'true' if word else 'false'}`"
        elif byte == ord("-") or 0x30 <= byte <= 0x39:
            found = _number_text(reader.number())
        elif byte == ord('"'):
            found = f"string {_quoted(reader.string())}"
        elif byte in b"[{":
            found = "sequence" if byte == ord("[") else "map"
        else:
            return reader.peek_error("expected value")
        return reader.error(f"invalid type: {found}, expected {expected}")

    # --- scalars

    def primitive(self, kind: str) -> bytes:
        reader, byte = self.reader, self.reader.peek_value()
        if kind == "bool":
            if byte not in b"tf":
                raise self.unexpected("a boolean")
            return b"\x01" if reader.word() else b"\x00"
        if kind == "string":
            if byte != ord('"'):
                raise self.unexpected("a string")
            raw = reader.string().encode()
            return _U32.pack(len(raw)) + raw
        if kind in ("u256", "i256"):
            return self.formatted(kind)
        if kind in ("u128", "i128"):
            return self.wide(kind)
        if byte != ord("-") and not 0x30 <= byte <= 0x39:
            raise self.unexpected(kind)
        number = reader.number()
        if kind == "f64":
            return _F64.pack(number)
        if kind == "f32":
            try:
                return _F32.pack(number)
            except OverflowError:
                return _INFINITE_F32 if number > 0 else _F32.pack(float("-inf"))
        if isinstance(number, float):
            raise reader.error(f"invalid type: {_number_text(number)}, expected {kind}")
        low, high = integer_range(kind)
        if not low <= number <= high:
            raise reader.error(f"invalid value: integer `{number}`, expected {kind}")
        return number.to_bytes(INTEGER_BITS[kind] // 8, "little", signed=low < 0)

    def wide(self, kind: str) -> bytes:
        """An integer of 128 bits."""
        reader = self.reader
        if kind == "u128" and reader.peek() == ord("-"):
            raise reader.peek_error("number out of range")
        number = reader.integer()
        low, high = integer_range(kind)
        if not low <= number <= high:
            raise reader.error("number out of range")
        return number.to_bytes(16, "little", signed=low < 0)

    def formatted(self, kind: str) -> bytes:
        """An integer of 256 bits, as text."""
        reader = self.reader
        if reader.peek_value() != ord('"'):
            raise self.unexpected("a formatted 256-bit integer")
        text = reader.string()
        digits = text.removeprefix("-") if kind == "i256" else text
        hexadecimal = digits[2:]
        if not digits.startswith("0x") or not hexadecimal or not hexadecimal.isascii() or not hexadecimal.isalnum():
            raise reader.error("invalid digit found in string")
        try:
            number = int(hexadecimal, 16)
        except ValueError:
            raise reader.error("invalid digit found in string") from None
        number = number if digits is text else -number
        low, high = integer_range(kind)
        if not low <= number <= high:
            raise reader.error(f"number too {'small' if number < 0 else 'large'} to fit in target type")
        return number.to_bytes(32, "little", signed=low < 0)

    def byte_string(self) -> bytes:
        reader, byte = self.reader, self.reader.peek_value()
        expected = "a byte array or hex string"
        if byte == ord("["):
            return self.array(Primitive("U8"))
        if byte != ord('"'):
            raise self.unexpected(expected)
        text = reader.string()
        if len(text) % 2 or not text.isascii() or not (text.isalnum() or not text):
            raise reader.error(f"invalid value: string {_quoted(text)}, expected {expected}")
        try:
            raw = bytes.fromhex(text)
        except ValueError:
            raise reader.error(f"invalid value: string {_quoted(text)}, expected {expected}") from None
        return _U32.pack(len(raw)) + raw

    # --- composites

    def array(self, element: AlgebraicType) -> bytes:
        reader = self.reader
        if reader.peek_value() != ord("["):
            raise self.unexpected("an array")
        reader.enter()
        parts: list[bytes] = []
        while reader.has_element(not parts):
            parts.append(self.inside(len(parts), element))
        reader.end_array()
        return _U32.pack(len(parts)) + b"".join(parts)

    def product(self, t: Product, function_name: str | None = None) -> bytes:
        """A product, or with `function_name` the arguments of that function: only the error texts differ."""
        elements, byte = t.elements, self.reader.peek_value()
        if byte == ord("["):
            return self.positional(elements, function_name)
        if byte == ord("{"):
            return self.named(elements, function_name)
        raise self.unexpected(f"a {len(elements)}-element tuple")

    def positional(self, elements: tuple[ProductElement, ...], function_name: str | None) -> bytes:
        reader = self.reader
        reader.enter()
        parts: list[bytes] = []
        for position, element in enumerate(elements):
            if not reader.has_element(position == 0):
                reader.end_array()
                of = f"reducer args for {function_name}" if function_name else "product type <product>"
                raise reader.error(f"invalid length {position}, expected {of} with {len(elements)} elements")
            parts.append(self.inside(position, element.algebraic_type))
        reader.end_array()
        return b"".join(parts)

    def named(self, elements: tuple[ProductElement, ...], function_name: str | None) -> bytes:
        reader, what = self.reader, "reducer argument" if function_name else "field"
        reader.enter()
        types = {element.name: element.algebraic_type for element in elements if element.name is not None}
        parts: dict[str, bytes] = {}
        while len(parts) < len(elements):
            if not reader.has_key(not parts):
                missing = next((e.name for e in elements if e.name not in parts), None)
                reader.end_object()
                raise reader.error(f"missing {what} `{missing or ''}`")
            name = reader.string()
            if name not in types:
                raise reader.error(f"unknown {what} `{name}`, expected {_one_of(types)}")
            if name in parts:
                raise reader.error(f"duplicate {what} `{name}`")
            reader.colon()
            parts[name] = self.inside(name, types[name])
        reader.end_object()
        return b"".join([parts[element.name or ""] for element in elements])

    def sum(self, t: Sum) -> bytes:
        reader, byte = self.reader, self.reader.peek_value()
        if byte == ord("n") and is_option(t):
            reader.word()
            return b"\x01"
        if byte == ord("{"):
            reader.enter()
            wanted = "expected map representing sum type to have exactly one field"
            if not reader.has_key(True):
                reader.end_object()
                raise reader.error(wanted)
            key = reader.string()
            tag = self.tag(t, key)
            reader.colon()
            payload = self.inside(key, t.variants[tag].algebraic_type)
            reader.end_object()
            return bytes((tag,)) + payload
        if byte == ord("["):
            reader.enter()
            self.another_of_pair(0)
            self.path.append(0)
            tag = self.tag(t, reader.string() if reader.peek_value() == ord('"') else self.primitive("u8")[0])
            self.path.pop()
            self.another_of_pair(1)
            payload = self.inside(1, t.variants[tag].algebraic_type)
            reader.end_array()
            return bytes((tag,)) + payload
        raise self.unexpected("sum type <unknown>")

    def another_of_pair(self, position: int) -> None:
        if not self.reader.has_element(position == 0):
            self.reader.end_array()
            raise self.reader.error(f"invalid length {position}, expected sum type <unknown>")

    def tag(self, t: Sum, key: int | str) -> int:
        """The tag that a number or a name stands for."""
        if isinstance(key, str) and len(key) < 20 and key.isascii() and key.isdigit() and int(key) < 256:
            key = int(key)
        if isinstance(key, int):
            if key >= len(t.variants):
                raise self.reader.error(f"unknown tag {key:#x} for sum type <unknown>")
            return key
        for tag, variant in enumerate(t.variants):
            if variant.name == key:
                return tag
        names = [variant.name for variant in t.variants if variant.name is not None]
        raise self.reader.error(f"unknown variant `{key}`, expected {_one_of(names)}")


def _one_of(names: list[str] | dict[str, AlgebraicType]) -> str:
    quoted = [f"`{name}`" for name in names]
    if not quoted:
        return "nothing"
    if len(quoted) <= 2:
        return " or ".join(quoted)
    return "one of " + ", ".join(quoted)


def _number_text(number: int | float) -> str:
    if isinstance(number, int):
        return f"integer `{number}`"
    text = plain_float_text(number)
    return f"floating point `{text if '.' in text else text + '.0'}`"


def _quoted(text: str) -> str:
    """As Rust prints a string for debugging."""
    parts = []
    for character in text:
        if character in '"\\':
            parts.append("\\" + character)
        elif character in "\n\r\t\0":
            parts.append({"\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": "\\0"}[character])
        else:
            parts.append(character if character.isprintable() else f"\\u{{{ord(character):x}}}")
    return f'"{"".join(parts)}"'
