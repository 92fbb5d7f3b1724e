"""Query strings and path parameters: typed reading with the reference server's refusals.

`a=1&b=2`, percent-encoded, `+` is a space. Parameters are read in the order they stand in; the first bad one is told:
400 `Failed to deserialize query string: {reason}`. Unknown parameters are ignored, a known one given twice is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from spacetimedb.schema.names import database_name_problem
from spacetimedb.types.special import ConnectionId, Identity

from .messages import HttpError

Reader = Callable[[str], Any]
"""Value of a parameter's text; raises ValueError with the reason."""

_NUMBER: Final = re.compile(r"\+?[0-9]+")
_HEX: Final = re.compile(r"[0-9a-fA-F]+")
_HEX_64: Final = re.compile(r"[0-9a-fA-F]{64}")
_HEX_BYTES: Final = re.compile(r"([0-9a-fA-F]{2})*")
_DURATION: Final = re.compile(r"\s*([0-9]+)\s*([a-z]+)")
_UNITS: Final[Mapping[str, int]] = {
    **dict.fromkeys(("ns", "nsec", "nanos"), 1),
    **dict.fromkeys(("us", "usec", "micros"), 1_000),
    **dict.fromkeys(("ms", "msec", "millis"), 1_000_000),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1_000_000_000),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60_000_000_000),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3_600_000_000_000),
    **dict.fromkeys(("d", "day", "days"), 86_400_000_000_000),
    **dict.fromkeys(("w", "week", "weeks"), 604_800_000_000_000),
}


def decode_pairs(query: str) -> list[tuple[str, str]]:
    """The parameters in order, decoded; bytes that are no UTF-8 become U+FFFD."""
    pairs: list[tuple[str, str]] = []
    for part in query.split("&"):
        if part:
            name, _, value = part.partition("=")
            pairs.append((_decode(name), _decode(value)))
    return pairs


def _decode(text: str) -> str:
    return unquote_to_bytes(text.replace("+", " ")).decode("utf-8", "replace")


def read_query(
    query: str, readers: Mapping[str, Reader], required: tuple[str, ...] = (), aliases: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The known parameters that are present, by name (an alias counts as its name). Raises HttpError 400."""
    values: dict[str, Any] = {}
    try:
        for given, text in decode_pairs(query):
            name = aliases.get(given, given) if aliases else given
            reader = readers.get(name)
            if reader is None:
                continue
            if name in values:
                raise ValueError(f"duplicate field `{name}`")
            values[name] = reader(text)
        for name in required:
            if name not in values:
                raise ValueError(f"missing field `{name}`")
    except ValueError as error:
        raise HttpError(400, f"Failed to deserialize query string: {error}") from None
    return values


def boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("provided string was not `true` or `false`")
    return text == "true"


def integer(bits: int) -> Reader:
    """Unsigned integer of so many bits."""

    def read(text: str) -> int:
        if not text:
            raise ValueError("cannot parse integer from empty string")
        if not _NUMBER.fullmatch(text):
            raise ValueError("invalid digit found in string")
        # Past the digits of any 128-bit number there is no need to convert what is too large anyway.
        if len(text.lstrip("+0")) > 40 or (value := int(text)) >> bits:
            raise ValueError("number too large to fit in target type")
        return value

    return read


def variant(*names: str) -> Reader:
    def read(text: str) -> str:
        if text in names:
            return text
        quoted = [f"`{name}`" for name in names]
        expected = " or ".join(quoted) if len(names) == 2 else "one of " + ", ".join(quoted)
        raise ValueError(f"unknown variant `{text}`, expected {expected}")

    return read


def text(value: str) -> str:
    return value


def hash_value(text: str) -> bytes:
    """A hash as u256 (`0x` and hex, most significant digit first): its 32 little-endian bytes."""
    digits = text.removeprefix("0x")
    if not _HEX.fullmatch(digits) or digits == text:
        raise ValueError("invalid digit found in string")
    if len(digits.lstrip("0")) > 64:
        raise ValueError("number too large to fit in target type")
    return int(digits, 16).to_bytes(32, "little")


def _check_hex(text: str, size: int) -> None:
    """ValueError unless `text` is the hex of so many bytes."""
    if not _HEX_BYTES.fullmatch(text):
        raise ValueError(f'invalid value: string "{text}", expected a byte array or hex string')
    if len(text) != 2 * size:
        raise ValueError(f"too {'few' if len(text) < 2 * size else 'many'} elements for array")


def connection_id(text: str) -> ConnectionId:
    """Exactly 32 hex digits."""
    _check_hex(text, 16)
    return ConnectionId.from_hex(text)


def duration(text: str) -> int:
    """A length of time such as `5s 200ms`, in nanoseconds."""
    at = total = 0
    while at < len(text):
        match = _DURATION.match(text, at)
        if match is None:
            raise ValueError(f"expected number at {at}")
        unit = _UNITS.get(match[2])
        if unit is None:
            raise ValueError(f'unknown time unit "{match[2]}"')
        if len(match[1]) > 20:
            raise ValueError("number is too large")
        total += int(match[1]) * unit
        at = match.end()
        if not text[at:].strip():
            break
    if not text.strip():
        raise ValueError("value was empty")
    return total


def name_or_identity(text: str) -> str | Identity:
    """A database's address: 64 hex digits, `0x` allowed before them, or else its name."""
    if _HEX_64.fullmatch(text.removeprefix("0x")):
        return Identity.from_hex(text)
    problem = database_name_problem(text)
    if problem is not None:
        raise ValueError(problem)
    return text


def bare_identity(text: str) -> Identity:
    """Exactly 64 hex digits."""
    _check_hex(text, 32)
    return Identity.from_hex(text)


def path_parameter(raw: str, reader: Reader) -> Any:
    """A decoded path segment. Raises HttpError 400."""
    try:
        return reader(unquote_to_bytes(raw).decode())
    except UnicodeDecodeError:
        raise HttpError(400, f"Invalid URL: Invalid UTF-8 in `{raw}`") from None
    except ValueError as error:
        raise HttpError(400, f"Invalid URL: {error}") from None
