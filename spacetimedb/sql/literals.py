"""What the text of a literal means, given the type of the column it meets.

Tokens have no type of their own: ``5``, ``'5'`` and ``0x05`` are texts, and the column decides. A value comes in three
forms: as Python compares it in generated code (int, float, or bytes for strings and byte arrays), as BSATN, and as the
key under which indexes find it.

    | type                      | accepted text                                   | Python value              |
    |---------------------------|-------------------------------------------------|---------------------------|
    | integers                  | decimal with fraction and exponent, if integral | int                       |
    | F32, F64                  | the same; too large is infinity                 | float                     |
    | String                    | anything                                        | UTF-8 bytes               |
    | Array<U8>                 | hex digits in pairs                             | bytes                     |
    | Identity, ConnectionId    | 64, 32 hex digits, most significant first       | int                       |
    | Uuid                      | 32 hex digits, hyphens and braces as usual      | int                       |
    | Timestamp                 | RFC 3339 with zone                              | int, microseconds         |
"""

from __future__ import annotations

import re
from datetime import date
from struct import Struct as Format
from typing import Final

from msgspec import Struct

from spacetimedb.types.algebraic import (
    BOOL,
    BYTES,
    CONNECTION_ID,
    F32,
    F64,
    I64,
    IDENTITY,
    STRING,
    TIMESTAMP,
    U128,
    U256,
    UUID,
    AlgebraicType,
    Primitive,
)

_DECIMAL: Final = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]+))?", re.ASCII)
_HEX: Final = re.compile(r"(?:0x)?((?:[0-9a-fA-F]{2})*)")
_UUID: Final = re.compile(
    r"([0-9a-fA-F]{32})|(?P<open>\{|urn:uuid:)?([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12})(\})?"
)
_TIMESTAMP: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_MAX_DIGITS: Final = 78
"""Digits of the largest 256-bit integer."""
_F32: Final = Format("<f")
_F64: Final = Format("<d")
NAN_KEY: Final = b"nan"

INTEGER_BITS: Final = {
    Primitive(f"{sign}{bits}"): (bits, sign == "I") for sign in "IU" for bits in (8, 16, 32, 64, 128, 256)
}
"""(bits, is signed) of every integer type."""

COMPARABLE: Final = frozenset((*INTEGER_BITS, BOOL, F32, F64, STRING, BYTES, IDENTITY, CONNECTION_ID, TIMESTAMP, UUID))
"""The types whose values can be compared; all six operators work on each."""

INNER: Final[dict[AlgebraicType, Primitive]] = {IDENTITY: U256, CONNECTION_ID: U128, UUID: U128, TIMESTAMP: I64}
"""The integer inside each comparable product."""


class Constant(Struct, frozen=True):
    """A typed value in its three forms, see the head of this module."""

    algebraic_type: AlgebraicType
    value: int | float | bytes
    encoded: bytes
    key: bytes


def constant(algebraic_type: AlgebraicType, value: int | float | bytes) -> Constant:
    """The constant of a comparable type with this Python value, which must be in range."""
    if isinstance(value, bytes):
        return Constant(algebraic_type, value, len(value).to_bytes(4, "little") + value, value)
    if isinstance(value, float):
        encoded = _F32.pack(value) if algebraic_type == F32 else _F64.pack(value)
        return Constant(algebraic_type, value, encoded, float_key(encoded))
    if algebraic_type == BOOL:
        encoded = bytes((value,))
    else:
        bits, signed = INTEGER_BITS[_integer_of(algebraic_type)]
        encoded = value.to_bytes(bits // 8, "little", signed=signed)
    return Constant(algebraic_type, value, encoded, encoded)


def float_key(encoded: bytes) -> bytes:
    """The index key of an encoded F32 or F64: one for both zeros, one for every NaN."""
    (value,) = (_F32 if len(encoded) == 4 else _F64).unpack(encoded)
    return encoded if value == value and value else b"\0" * len(encoded) if value == 0 else NAN_KEY


def parse(text: str, algebraic_type: AlgebraicType) -> Constant | None:
    """The value of a number, string or hex token (without its prefix) as this type; None if it has none."""
    if algebraic_type == STRING:
        return constant(STRING, text.encode("utf-8", "surrogatepass"))
    if isinstance(algebraic_type, Primitive) and algebraic_type in INTEGER_BITS:
        number = _integer(text, *INTEGER_BITS[algebraic_type])
        return None if number is None else constant(algebraic_type, number)
    if algebraic_type in (F32, F64):
        real = _float(text, algebraic_type == F32)
        return None if real is None else constant(algebraic_type, real)
    if algebraic_type == BYTES:
        found = _HEX.fullmatch(text)
        return None if found is None else constant(BYTES, bytes.fromhex(found[1]))
    if algebraic_type in (IDENTITY, CONNECTION_ID):
        digits = text.removeprefix("0x")
        wanted = 64 if algebraic_type == IDENTITY else 32
        if len(digits) != wanted or _HEX.fullmatch(digits) is None:
            return None
        return constant(algebraic_type, int(digits, 16))
    if algebraic_type == UUID:
        found = _UUID.fullmatch(text)
        if found is None or (found["open"] == "{") != (found[4] == "}"):
            return None
        return constant(UUID, int((found[1] or found[3]).replace("-", ""), 16))
    if algebraic_type == TIMESTAMP:
        micros = timestamp_micros(text)
        return None if micros is None else constant(TIMESTAMP, micros)
    return None


def timestamp_micros(text: str) -> int | None:
    """Microseconds since the epoch of an RFC 3339 text, fractions floored; None if it is none."""
    found = _TIMESTAMP.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second = map(int, found.groups()[:6])
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour <= 23 and minute <= 59 and second <= 60):
        return None
    # Python's calendar starts with year 1; the Gregorian calendar repeats after 400 years.
    shift = 400 if year == 0 else 0
    try:
        days = date(year + shift, month, day).toordinal() - _EPOCH_DAY - (146_097 if shift else 0)
    except ValueError:
        return None
    offset = 0
    if found[8]:
        hours, minutes = int(found[9]), int(found[10])
        if hours > 23 or minutes > 59:
            return None
        offset = (hours * 60 + minutes) * (-60 if found[8] == "-" else 60)
    seconds = days * 86_400 + hour * 3600 + minute * 60 + second - offset
    return seconds * 1_000_000 + int((found[7] or "")[:6].ljust(6, "0"))


def _integer_of(algebraic_type: AlgebraicType) -> Primitive:
    return algebraic_type if isinstance(algebraic_type, Primitive) else INNER[algebraic_type]


def _decimal(text: str) -> tuple[str, str, str, int] | None:
    """(sign, digits before the point, digits after it, exponent)."""
    found = _DECIMAL.fullmatch(text[:1] + text[1:].replace("_", ""))
    if found is None:
        return None
    sign, whole, fraction, exponent = found.groups(default="")
    if not whole and not fraction:
        return None
    # An exponent of more digits than this is beyond every range, whatever stands before it.
    bounded = exponent[:1] + exponent[1:].lstrip("0")[:9] if exponent[:1] in ("+", "-") else exponent.lstrip("0")[:9]
    return sign, whole, fraction, int(bounded) if bounded.strip("+-") else 0


def _integer(text: str, bits: int, signed: bool) -> int | None:
    parts = _decimal(text)
    if parts is None:
        return None
    sign, whole, fraction, exponent = parts
    digits = (whole + fraction).lstrip("0")
    scale = exponent - len(fraction)
    if not digits:
        return 0 if bits < 256 or scale >= 0 else None
    if scale < 0:
        if bits == 256 or -scale > len(digits) or digits[scale:].strip("0"):
            return None
        digits = digits[:scale] or "0"
        scale = 0
    if len(digits) + scale > _MAX_DIGITS:
        return None
    value = int(digits) * 10**scale
    if sign == "-":
        value = -value
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return value if low <= value <= high else None


def _float(text: str, single: bool) -> float | None:
    parts = _decimal(text)
    if parts is None:
        return None
    sign, whole, fraction, exponent = parts
    value = float(f"{sign}{whole}.{fraction}e{exponent}" if whole or fraction else "0")
    if single:
        try:
            (value,) = _F32.unpack(_F32.pack(value))
        except OverflowError:
            value = float("-inf" if sign == "-" else "inf")
    return value or 0.0
