"""Identity and friends: spellings, arithmetic, order."""

import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest

from spacetimedb.types import ConnectionId, Identity, Interval, Time, TimeDuration, Timestamp, Uuid

HEX = "c200ef884364c1a99be0298dc68f2004e6b97c09d1b1658b7db22f51fb662059"


def test_identity_spellings() -> None:
    identity = Identity.from_hex(HEX)
    assert identity == bytes.fromhex(HEX)[::-1]
    assert str(identity) == identity.hex() == identity.to_hex() == f"{identity}" == HEX
    assert repr(identity) == f"Identity.from_hex('{HEX}')"
    assert int(identity) == int(HEX, 16)
    assert Identity.from_int(int(HEX, 16)) == identity == Identity(bytes(identity))
    assert Identity.from_hex("0x" + HEX.upper()) == identity
    assert {identity: 1}[Identity.from_hex(HEX)] == 1


@pytest.mark.parametrize("text", ["", HEX[1:], HEX + "0", "0X" + HEX, " " + HEX[1:], "g" + HEX[1:], "0x" + HEX[2:]])
def test_no_identity(text: str) -> None:
    with pytest.raises(ValueError, match="Identity takes 64 hex digits"):
        Identity.from_hex(text)


def test_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match="Identity takes 32 bytes"):
        Identity(b"short")
    with pytest.raises(ValueError, match="ConnectionId takes 16 bytes"):
        ConnectionId(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="out of range for ConnectionId"):
        ConnectionId.from_int(1 << 128)
    with pytest.raises(ValueError, match="out of range for ConnectionId"):
        ConnectionId.from_int(-1)


def test_order_is_that_of_the_numbers() -> None:
    numbers = [0, 1, 255, 256, 1 << 64, (1 << 128) - 1]
    ids = [ConnectionId.from_int(n) for n in numbers]
    assert sorted([*ids[3:], *ids[:3]]) == ids
    assert ids[1] < ids[3] <= ids[3] < ids[4] > ids[2] >= ids[2]


def test_values_are_immutable() -> None:
    for value in (Identity.ZERO, Timestamp(1), TimeDuration(1), Interval(TimeDuration(1)), Time(Timestamp(1))):
        with pytest.raises(AttributeError):
            value.value = 1  # type: ignore[union-attr, misc]


def test_uuid() -> None:
    text = "0190163d-8694-739b-aea5-966c26f8ad91"
    value = Uuid.parse(text)
    assert str(value) == text
    assert value.to_uuid() == uuid.UUID(text)
    assert int(value) == uuid.UUID(text).int
    assert repr(value) == f"Uuid.parse('{text}')"
    assert Uuid.v4(bytes(range(16))).to_uuid().version == 4
    assert Uuid.v4(bytes(range(16))).to_uuid().variant == uuid.RFC_4122


def test_uuid_version_7() -> None:
    at = Timestamp(1_700_000_000_123_456)
    made = Uuid.v7(at, 0x7FFFFFFF, b"\xff\xff\xff\xff").to_uuid()
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert made.bytes.hex() == f"{1_700_000_000_123:012x}" + "70ff80ff" + "fffe" + "7fffffff"
    ordered = [Uuid.v7(at, counter, b"\0\0\0\0") for counter in (0, 1, 127, 128, 1 << 15, 1 << 23, (1 << 31) - 1)]
    assert sorted(ordered) == ordered


def test_timestamps() -> None:
    at = Timestamp(1_700_000_000_123_456)
    assert str(at) == "2023-11-14T22:13:20.123456+00:00"
    assert str(Timestamp(1_000)) == "1970-01-01T00:00:00.001+00:00"
    assert str(Timestamp(-1_000_000)) == "1969-12-31T23:59:59+00:00"
    assert str(Timestamp(1 << 62)) == f"{1 << 62}us"
    assert repr(at) == "Timestamp(1700000000123456)"
    assert at.micros == 1_700_000_000_123_456
    assert Timestamp.from_datetime(at.to_datetime()) == at
    assert Timestamp.from_datetime(datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))) == Timestamp.EPOCH
    with pytest.raises(ValueError, match="time zone"):
        Timestamp.from_datetime(datetime(1970, 1, 1))
    assert Timestamp.from_datetime(datetime(1969, 12, 31, tzinfo=UTC)) == -86_400_000_000


def test_durations() -> None:
    assert TimeDuration.millis(1.5) == 1_500 == TimeDuration(1_500).micros
    assert TimeDuration.seconds(2) == TimeDuration.millis(2_000)
    assert TimeDuration.minutes(1) * 60 == TimeDuration.hours(1) == 60 * TimeDuration.minutes(1)
    assert str(TimeDuration(1_500_000)) == "+1.500000"
    assert str(TimeDuration(-1)) == "-0.000001"
    assert TimeDuration.from_timedelta(timedelta(days=-1)).to_timedelta() == timedelta(days=-1)
    assert abs(-TimeDuration.seconds(1)) == TimeDuration.seconds(1)
    assert TimeDuration.seconds(1).total_seconds == 1.0


def test_arithmetic_keeps_the_types() -> None:
    at, span = Timestamp(100), TimeDuration(7)
    for value, expected, cls in (
        (at + span, 107, Timestamp),
        (span + at, 107, Timestamp),
        (at - span, 93, Timestamp),
        (at - Timestamp(90), 10, TimeDuration),
        (at + 5, 105, Timestamp),
        (span + span, 14, TimeDuration),
        (span - span, 0, TimeDuration),
        (span * 3, 21, TimeDuration),
        (span // 2, 3, TimeDuration),
        (-span, -7, TimeDuration),
    ):
        assert value == expected
        assert type(value) is cls
    with pytest.raises(TypeError):
        at + at
