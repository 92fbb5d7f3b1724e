"""A JSON reader that is told what to expect and knows where it is.

It stands in for the parser of the reference server, whose error texts with line and column reach clients: an error is
reported either at the position read so far (`error`) or at the character looked at (`peek_error`, one further). Columns
count bytes from the last line break. Not for hot paths.
"""

from __future__ import annotations

import re
from typing import Final

from spacetimedb.types.errors import DecodeError

MAX_JSON_DEPTH: Final = 127
"""Deepest nesting of arrays and objects."""

_BLANKS: Final = re.compile(rb"[ \t\r\n]*")
_DIGITS: Final = re.compile(rb"[0-9]*")
_PLAIN: Final = re.compile(rb'[^"\\\x00-\x1f]*')
_ESCAPES: Final = {
    **dict(zip(b'"\\/', '"\\/', strict=True)),
    **dict(zip(b"bfnrt", "\b\f\n\r\t", strict=True)),
}
_WORDS: Final[dict[int, tuple[bytes, bool | None]]] = {
    ord("t"): (b"true", True),
    ord("f"): (b"false", False),
    ord("n"): (b"null", None),
}


class JsonError(DecodeError):
    """`reason` without the position; `index` is the byte position to report, None until it is known."""

    def __init__(self, reason: str, index: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.index = index


class JsonReader:
    """Reads `data` (UTF-8) from `index` on."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.index = 0
        self.depth = 0

    # --- errors

    def error(self, reason: str) -> JsonError:
        return JsonError(reason, self.index)

    def peek_error(self, reason: str) -> JsonError:
        return JsonError(reason, min(len(self.data), self.index + 1))

    def place(self, index: int | None) -> str:
        """`line L column C` of a position."""
        before = self.data[: self.index if index is None else index]
        start = before.rfind(b"\n") + 1
        return f"line {before.count(10, 0, start) + 1} column {len(before) - start}"

    # --- tokens

    def peek(self) -> int | None:
        """The next byte that is not blank, None at the end."""
        match = _BLANKS.match(self.data, self.index)
        if match is not None:
            self.index = match.end()
        return self.data[self.index] if self.index < len(self.data) else None

    def peek_value(self) -> int:
        """The first byte of the value that must follow."""
        byte = self.peek()
        if byte is None:
            raise self.peek_error("EOF while parsing a value")
        return byte

    def finish(self) -> None:
        """Nothing but blanks may follow."""
        if self.peek() is not None:
            raise self.peek_error("trailing characters")

    def word(self) -> bool | None:
        """`true`, `false` or `null`; the first letter has been seen."""
        text, value = _WORDS[self.data[self.index]]
        for position, byte in enumerate(text):
            if position:
                if self.index >= len(self.data):
                    raise self.error("EOF while parsing a value")
                if self.data[self.index] != byte:
                    self.index += 1
                    raise self.error("expected ident")
            self.index += 1
        return value

    def string(self) -> str:
        """A string; its opening quote has been seen."""
        self.index += 1
        parts: list[str] = []
        while True:
            match = _PLAIN.match(self.data, self.index)
            assert match is not None  # the pattern matches the empty text too
            try:
                parts.append(match.group().decode())
            except UnicodeDecodeError:
                raise self.error("invalid unicode code point") from None
            self.index = match.end()
            if self.index >= len(self.data):
                raise self.error("EOF while parsing a string")
            byte = self.data[self.index]
            self.index += 1
            if byte == ord('"'):
                return "".join(parts)
            if byte != ord("\\"):
                raise self.error("control character (\\u0000-\\u001F) found while parsing a string")
            parts.append(self._escape())

    def _escape(self) -> str:
        if self.index >= len(self.data):
            raise self.error("EOF while parsing a string")
        byte = self.data[self.index]
        self.index += 1
        if byte in _ESCAPES:
            return _ESCAPES[byte]
        if byte != ord("u"):
            raise self.error("invalid escape")
        code = self._hex4()
        if 0xDC00 <= code < 0xE000:
            raise self.error("lone leading surrogate in hex escape")
        if 0xD800 <= code < 0xDC00:
            if self.data[self.index : self.index + 2] != b"\\u":
                raise self.error("unexpected end of hex escape")
            self.index += 2
            low = self._hex4()
            if not 0xDC00 <= low < 0xE000:
                raise self.error("lone leading surrogate in hex escape")
            code = 0x10000 + ((code - 0xD800) << 10 | low - 0xDC00)
        return chr(code)

    def _hex4(self) -> int:
        digits = self.data[self.index : self.index + 4]
        if len(digits) < 4:
            self.index = len(self.data)
            raise self.error("EOF while parsing a string")
        self.index += 4
        if not re.fullmatch(rb"[0-9a-fA-F]{4}", digits):
            raise self.error("invalid escape")
        return int(digits, 16)

    def number(self) -> int | float:
        """A number; its first character has been seen. An int only if it is spelled as one and fits 64 bits."""
        start = self.index
        integer = self.integer()
        is_float = False
        if self._at(b"."):
            is_float = True
            self.index += 1
            self._fraction_digits()
        if self._at(b"e") or self._at(b"E"):
            is_float = True
            self.index += 1
            if self._at(b"+") or self._at(b"-"):
                self.index += 1
            self._fraction_digits()
        if not is_float and -(1 << 63) <= integer < 1 << 64 and not (integer == 0 and self.data[start] == ord("-")):
            return integer
        value = float(self.data[start : self.index])
        if value in (float("inf"), float("-inf")):
            raise self.error("number out of range")
        return value

    def integer(self) -> int:
        """The digits of an integer of any size, with a sign."""
        start = self.index
        if self._at(b"-"):
            self.index += 1
        first = self.data[self.index : self.index + 1]
        if not first:
            raise self.error("EOF while parsing a value")
        if not first.isdigit():
            self.index += 1
            raise self.error("invalid number")
        match = _DIGITS.match(self.data, self.index)
        assert match is not None
        if first == b"0" and match.end() > self.index + 1:
            self.index += 1
            raise self.peek_error("invalid number")
        self.index = match.end()
        try:
            return int(self.data[start : self.index])
        except ValueError:  # more digits than int() takes
            raise self.error("number out of range") from None

    def _at(self, byte: bytes) -> bool:
        return self.data.startswith(byte, self.index)

    def _fraction_digits(self) -> None:
        match = _DIGITS.match(self.data, self.index)
        assert match is not None
        if match.end() == self.index:
            at_end = self.index >= len(self.data)
            raise self.peek_error("EOF while parsing a value" if at_end else "invalid number")
        self.index = match.end()

    # --- arrays and objects

    def enter(self) -> None:
        """Steps into the array or object whose bracket has been seen."""
        if self.depth >= MAX_JSON_DEPTH:
            raise self.peek_error("recursion limit exceeded")
        self.depth += 1
        self.index += 1

    def has_element(self, first: bool) -> bool:
        """True if the array goes on; the comma has then been read."""
        byte = self.peek()
        if byte is None:
            raise self.peek_error("EOF while parsing a list")
        if byte == ord("]"):
            return False
        if first:
            return True
        if byte != ord(","):
            raise self.peek_error("expected `,` or `]`")
        self.index += 1
        byte = self.peek_value()
        if byte == ord("]"):
            raise self.peek_error("trailing comma")
        return True

    def end_array(self) -> None:
        """The closing bracket must follow."""
        self.depth -= 1
        byte = self.peek()
        if byte is None:
            raise self.peek_error("EOF while parsing a list")
        if byte == ord("]"):
            self.index += 1
            return
        if byte == ord(","):
            self.index += 1
            if self.peek() == ord("]"):
                raise self.peek_error("trailing comma")
        raise self.peek_error("trailing characters")

    def has_key(self, first: bool) -> bool:
        """True if the object goes on with a key; the comma has then been read."""
        byte = self.peek()
        if byte is None:
            raise self.peek_error("EOF while parsing an object")
        if byte == ord("}"):
            return False
        if not first:
            if byte != ord(","):
                raise self.peek_error("expected `,` or `}`")
            self.index += 1
            byte = self.peek_value()
            if byte == ord("}"):
                raise self.peek_error("trailing comma")
        if byte != ord('"'):
            raise self.peek_error("key must be a string")
        return True

    def colon(self) -> None:
        byte = self.peek()
        if byte is None:
            raise self.peek_error("EOF while parsing an object")
        if byte != ord(":"):
            raise self.peek_error("expected `:`")
        self.index += 1

    def end_object(self) -> None:
        """The closing brace must follow."""
        self.depth -= 1
        byte = self.peek()
        if byte is None:
            raise self.peek_error("EOF while parsing an object")
        if byte != ord("}"):
            raise self.peek_error("trailing comma" if byte == ord(",") else "trailing characters")
        self.index += 1
