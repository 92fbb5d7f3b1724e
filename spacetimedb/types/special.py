"""Values of the special types: Identity, ConnectionId, Uuid, Timestamp, TimeDuration, ScheduleAt.

The three byte types hold their BSATN bytes, which are the little-endian bytes of the number; their text is the
big-endian hex of it. They order by the number. The two times are plain integers of microseconds and mix with int.
All are immutable and hashable; equality is that of bytes and int.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Final, Self, TypeAlias, overload

import msgspec

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class _Number(bytes):
    """A number of `SIZE` bytes, held as its little-endian bytes."""

    __slots__ = ()

    SIZE: ClassVar[int] = 0

    def __new__(cls, raw: bytes) -> Self:
        """ValueError unless `raw` is exactly `SIZE` bytes long (little-endian)."""
        if not isinstance(raw, bytes | bytearray | memoryview) or len(raw) != cls.SIZE:
            raise ValueError(f"{cls.__name__} takes {cls.SIZE} bytes, not {raw!r}")
        return bytes.__new__(cls, raw)

    @classmethod
    def from_int(cls, value: int) -> Self:
        """ValueError if `value` is negative or too large."""
        try:
            return bytes.__new__(cls, value.to_bytes(cls.SIZE, "little"))
        except OverflowError:
            raise ValueError(f"{value} is out of range for {cls.__name__}") from None

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """From exactly 2 * SIZE hex digits, most significant first, `0x` before them allowed; ValueError otherwise."""
        digits = text.removeprefix("0x")
        if len(digits) != 2 * cls.SIZE or not digits.isascii() or not digits.isalnum():
            raise ValueError(f"{cls.__name__} takes {2 * cls.SIZE} hex digits")
        try:
            return bytes.__new__(cls, bytes.fromhex(digits)[::-1])
        except ValueError:
            raise ValueError(f"{cls.__name__} takes {2 * cls.SIZE} hex digits") from None

    def hex(self) -> str:  # type: ignore[override]
        """2 * SIZE lower-case hex digits, most significant first (so not the order of the bytes)."""
        return self[::-1].hex()

    def to_hex(self) -> str:
        """The same as `hex`."""
        return self[::-1].hex()

    def __int__(self) -> int:
        return int.from_bytes(self, "little")

    def __str__(self) -> str:
        return self[::-1].hex()

    def __repr__(self) -> str:
        return f"{type(self).__name__}.from_hex({self.hex()!r})"

    def __lt__(self, other: bytes) -> bool:
        return self[::-1] < other[::-1]

    def __le__(self, other: bytes) -> bool:
        return self[::-1] <= other[::-1]

    def __gt__(self, other: bytes) -> bool:
        return self[::-1] > other[::-1]

    def __ge__(self, other: bytes) -> bool:
        return self[::-1] >= other[::-1]


class Identity(_Number):
    """Who somebody is: 256 bits, `Identity(bytes)` takes the 32 BSATN bytes (little-endian)."""

    __slots__ = ()

    SIZE: ClassVar[int] = 32

    ZERO: ClassVar[Identity]


class ConnectionId(_Number):
    """One connection of a client: 128 bits, `ConnectionId(bytes)` takes the 16 BSATN bytes. Zero means none."""

    __slots__ = ()

    SIZE: ClassVar[int] = 16

    ZERO: ClassVar[ConnectionId]


class Uuid(_Number):
    """An RFC 4122 UUID; `Uuid(bytes)` takes the 16 BSATN bytes, the reverse of the order in the text."""

    __slots__ = ()

    SIZE: ClassVar[int] = 16

    NIL: ClassVar[Uuid]

    @classmethod
    def parse(cls, text: str) -> Uuid:
        """From the text with or without hyphens; ValueError if it is none."""
        return cls.from_uuid(uuid.UUID(text))

    @classmethod
    def from_uuid(cls, value: uuid.UUID) -> Uuid:
        return bytes.__new__(cls, value.bytes[::-1])

    @classmethod
    def v4(cls, random: bytes) -> Uuid:
        """A version 4 UUID from 16 random bytes."""
        raw = bytearray(random)
        raw[6] = raw[6] & 0x0F | 0x40
        raw[8] = raw[8] & 0x3F | 0x80
        return cls(bytes(raw[::-1]))

    @classmethod
    def v7(cls, at: Timestamp, counter: int, random: bytes) -> Uuid:
        """A version 7 UUID of the time `at` (its milliseconds), a counter of 31 bits and 4 random bytes.

        Bytes in text order: 0-5 milliseconds; 6 version; 7 counter bits 30..23; 8 variant; 9 bits 22..15;
        10 bits 14..7; 11 bits 6..0 shifted left by one; 12-15 random with the top bit clear.
        """
        raw = bytearray(16)
        raw[0:6] = (int(at) // 1000 & (1 << 48) - 1).to_bytes(6, "big")
        raw[6] = 0x70
        raw[7] = counter >> 23 & 0xFF
        raw[8] = 0x80
        raw[9] = counter >> 15 & 0xFF
        raw[10] = counter >> 7 & 0xFF
        raw[11] = counter << 1 & 0xFE
        raw[12] = random[0] & 0x7F
        raw[13:16] = random[1:4]
        return cls(bytes(raw[::-1]))

    def to_uuid(self) -> uuid.UUID:
        return uuid.UUID(bytes=self[::-1])

    def __str__(self) -> str:
        return str(self.to_uuid())

    def __repr__(self) -> str:
        return f"Uuid.parse({str(self)!r})"


Identity.ZERO = Identity(bytes(32))
ConnectionId.ZERO = ConnectionId(bytes(16))
Uuid.NIL = Uuid(bytes(16))


class TimeDuration(int):
    """A span of time in microseconds, may be negative. `TimeDuration(1500)` is 1.5 ms."""

    __slots__ = ()

    @classmethod
    def millis(cls, count: float) -> TimeDuration:
        return cls(round(count * 1_000))

    @classmethod
    def seconds(cls, count: float) -> TimeDuration:
        return cls(round(count * 1_000_000))

    @classmethod
    def minutes(cls, count: float) -> TimeDuration:
        return cls(round(count * 60_000_000))

    @classmethod
    def hours(cls, count: float) -> TimeDuration:
        return cls(round(count * 3_600_000_000))

    @classmethod
    def from_timedelta(cls, value: timedelta) -> TimeDuration:
        return cls(value // _MICROSECOND)

    def to_timedelta(self) -> timedelta:
        """OverflowError beyond some 2.7 million years."""
        return timedelta(microseconds=int(self))

    @property
    def micros(self) -> int:
        return int(self)

    @property
    def total_seconds(self) -> float:
        return int(self) / 1_000_000

    @overload
    def __add__(self, other: Timestamp) -> Timestamp: ...  # type: ignore[overload-overlap]
    @overload
    def __add__(self, other: int) -> TimeDuration: ...
    def __add__(self, other: int) -> int:
        if isinstance(other, Timestamp):
            return Timestamp(int.__add__(self, other))
        return TimeDuration(int.__add__(self, other)) if isinstance(other, int) else NotImplemented

    def __sub__(self, other: int) -> TimeDuration:
        return TimeDuration(int.__sub__(self, other)) if isinstance(other, int) else NotImplemented

    def __mul__(self, factor: int) -> TimeDuration:
        return TimeDuration(int.__mul__(self, factor)) if isinstance(factor, int) else NotImplemented

    __rmul__ = __mul__

    def __floordiv__(self, divisor: int) -> TimeDuration:
        return TimeDuration(int.__floordiv__(self, divisor)) if isinstance(divisor, int) else NotImplemented

    def __neg__(self) -> TimeDuration:
        return TimeDuration(int.__neg__(self))

    def __abs__(self) -> TimeDuration:
        return TimeDuration(int.__abs__(self))

    def __str__(self) -> str:
        seconds, micros = divmod(abs(int(self)), 1_000_000)
        return f"{'-' if self < 0 else '+'}{seconds}.{micros:06}"

    def __repr__(self) -> str:
        return f"TimeDuration({int(self)})"


class Timestamp(int):
    """A point in time: microseconds since 1970-01-01T00:00:00Z, may be negative."""

    __slots__ = ()

    EPOCH: ClassVar[Timestamp]

    @classmethod
    def from_datetime(cls, value: datetime) -> Timestamp:
        """ValueError if `value` has no time zone."""
        if value.tzinfo is None:
            raise ValueError("a timestamp needs a datetime with a time zone")
        return cls((value - _EPOCH) // _MICROSECOND)

    def to_datetime(self) -> datetime:
        """In UTC; OverflowError outside of the years 1 to 9999."""
        return _EPOCH + timedelta(microseconds=int(self))

    @property
    def micros(self) -> int:
        return int(self)

    def __add__(self, other: int) -> Timestamp:
        if isinstance(other, Timestamp):
            raise TypeError("two timestamps cannot be added")
        return Timestamp(int.__add__(self, other)) if isinstance(other, int) else NotImplemented

    __radd__ = __add__

    @overload
    def __sub__(self, other: Timestamp) -> TimeDuration: ...  # type: ignore[overload-overlap]
    @overload
    def __sub__(self, other: int) -> Timestamp: ...
    def __sub__(self, other: int) -> int:
        if isinstance(other, Timestamp):
            return TimeDuration(int.__sub__(self, other))
        return Timestamp(int.__sub__(self, other)) if isinstance(other, int) else NotImplemented

    def __str__(self) -> str:
        """RFC 3339 in UTC, with as many of 0, 3 or 6 digits of the second as it has."""
        try:
            value = self.to_datetime()
        except OverflowError:
            return f"{int(self)}us"
        micros = int(self) % 1_000_000
        if micros == 0:
            return value.isoformat(timespec="seconds")
        return value.isoformat(timespec="microseconds" if micros % 1_000 else "milliseconds")

    def __repr__(self) -> str:
        return f"Timestamp({int(self)})"


Timestamp.EPOCH = Timestamp(0)


class Interval(msgspec.Struct, frozen=True, gc=False):
    """Schedule: again and again, `value` apart (the sign is ignored)."""

    value: TimeDuration


class Time(msgspec.Struct, frozen=True, gc=False):
    """Schedule: once, at `value`."""

    value: Timestamp


ScheduleAt: TypeAlias = Interval | Time
