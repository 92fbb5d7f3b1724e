"""Codecs of shapes with author classes, their generated text, their errors."""

import mmap
import traceback
from enum import IntEnum
from typing import Any

import msgspec
import pytest

from spacetimedb.types import (
    ConnectionId,
    DecodeError,
    Identity,
    Interval,
    Shape,
    Time,
    TimeDuration,
    Timestamp,
    Typespace,
    codec,
    decode_source,
    encode_source,
    satn_text,
    shape_of,
    to_json,
)
from spacetimedb.types.algebraic import (
    BYTES,
    F32,
    NEVER,
    STRING,
    U8,
    UNIT,
    Array,
    Ref,
    Sum,
    SumVariant,
    display,
    option,
    product,
    sum_of,
)
from spacetimedb.types.codec_errors import MAX_ZERO_SIZED_ELEMENTS
from spacetimedb.types.shapes import (
    SCHEDULE_AT_SHAPE,
    ArrayShape,
    EnumShape,
    FieldShape,
    OptionShape,
    ProductShape,
    ScalarKind,
    SumShape,
    VariantShape,
    Wrapped,
    scalar,
)
from spacetimedb.types.source import SourceBuilder, compile_source, indented


class Vector(msgspec.Struct, frozen=True):
    x: float
    y: float


class Color(IntEnum):
    RED = 0
    GREEN = 1


class Circle(msgspec.Struct):
    radius: float


class Label(msgspec.Struct):
    value: str


class Nothing(msgspec.Struct):
    pass


class Player(msgspec.Struct, kw_only=True):
    id: int
    name: str
    level: int


class Everything(msgspec.Struct, kw_only=True):
    owner: Identity
    connection: ConnectionId | None
    at: Timestamp
    color: Color
    position: Vector
    path: list[Vector]
    shape: Circle | Label | Nothing
    shapes: list[Circle | Label | Nothing]
    numbers: list[int]
    flags: list[bool]
    colors: list[Color]
    blob: bytes
    names: list[str]
    big: int
    huge: int
    from_: int
    when: Interval | Time


def fields(**shapes: Shape) -> tuple[FieldShape, ...]:
    return tuple(FieldShape(attr, attr.removesuffix("_"), shape) for attr, shape in shapes.items())


VECTOR = ProductShape(Vector, fields(x=scalar("f32"), y=scalar("f32")))
COLOR = EnumShape(Color, ("red", "green"))
FIGURE = SumShape(
    "Figure",
    (
        VariantShape("circle", Circle, "product", ProductShape(Circle, fields(radius=scalar("f64")))),
        VariantShape("label", Label, "value", scalar("string")),
        VariantShape("nothing", Nothing, "unit", None),
    ),
)
PLAYER = ProductShape(Player, fields(id=scalar("u64"), name=scalar("string"), level=scalar("u16")))
EVERYTHING = ProductShape(
    Everything,
    fields(
        owner=Wrapped("bytes32", Identity),
        connection=OptionShape(Wrapped("bytes16", ConnectionId)),
        at=Wrapped("i64", Timestamp),
        color=COLOR,
        position=VECTOR,
        path=ArrayShape(VECTOR),
        shape=FIGURE,
        shapes=ArrayShape(FIGURE),
        numbers=ArrayShape(scalar("i64")),
        flags=ArrayShape(scalar("bool")),
        colors=ArrayShape(COLOR),
        blob=scalar("bytes"),
        names=ArrayShape(scalar("string")),
        big=scalar("i128"),
        huge=scalar("u256"),
        from_=scalar("i8"),
        when=SCHEDULE_AT_SHAPE,
    ),
)
EXAMPLE = Everything(
    owner=Identity.from_int(0xC200),
    connection=None,
    at=Timestamp(-5),
    color=Color.GREEN,
    position=Vector(1.5, -2.0),
    path=[Vector(0.0, 1.0), Vector(2.0, 0.5)],
    shape=Label("hi"),
    shapes=[Circle(2.5), Nothing(), Label("é")],
    numbers=[-1, 2],
    flags=[True, False],
    colors=[Color.RED, Color.GREEN],
    blob=b"\xde\xad",
    names=["a", "", "bc"],
    big=-(1 << 127),
    huge=(1 << 256) - 1,
    from_=-7,
    when=Interval(TimeDuration.millis(50)),
)


def test_everything_there_and_back() -> None:
    made = codec(EVERYTHING)
    raw = made.encode(EXAMPLE)
    value, end = made.decode(raw)
    assert value == EXAMPLE
    assert end == len(raw)
    assert type(value.owner) is Identity
    assert type(value.at) is Timestamp
    assert value.color is Color.GREEN
    assert value.colors == [Color.RED, Color.GREEN]
    assert type(value.colors[0]) is Color
    assert type(value.flags[0]) is bool
    assert made.decode(memoryview(raw)) == (EXAMPLE, end)
    assert type(made.decode(memoryview(raw))[0].blob) is bytes
    with mmap.mmap(-1, 4096) as shared:
        shared[10 : 10 + len(raw)] = raw
        assert made.decode(shared, 10) == (EXAMPLE, 10 + len(raw))
    for size in range(len(raw)):
        with pytest.raises(DecodeError, match="data too short for"):
            made.decode(raw[:size])
        with pytest.raises(DecodeError, match="data too short for"):
            made.decode(memoryview(raw)[:size])


def test_same_bytes_as_the_generic_shape() -> None:
    vector = product(x=F32, y=F32)
    figure = sum_of(circle=product(radius=F32), label=STRING, nothing=UNIT)
    generic = codec(shape_of(product(position=vector, figure=figure)))
    assert generic.encode(((1.0, 2.0), (1, "hi"))) == bytes.fromhex("0000803f0000004001020000006869")
    assert generic.encode(((1.0, 2.0), (2, ()))) == bytes.fromhex("0000803f0000004002")
    assert generic.encode(((1.0, 2.0), (0, (1.0,)))) == bytes.fromhex("0000803f00000040000000803f")


def test_generated_text() -> None:
    assert codec(PLAYER).source == (
        "def encode(v):\n"
        "    try:\n"
        "        name = v.name.encode()\n"
        "        return pack_QI(v.id, len(name)) + name + pack_H(v.level)\n"
        "    except Exception as error:\n"
        "        raise explain_encode(v, error) from None\n"
        "\n\n"
        "def decode(buf, at=0):\n"
        "    try:\n"
        "        id_1, name_size = unpack_QI(buf, at)\n"
        "        name_at = at + 12\n"
        "        name_end = name_at + name_size\n"
        "        name = buf[name_at:name_end].decode()\n"
        "        (level,) = unpack_H(buf, name_end)\n"
        "        return Player(id=id_1, name=name, level=level), name_end + 2\n"
        "    except Exception:\n"
        "        if buf.__class__ is memoryview:\n"
        "            return decode_view(buf, at)\n"
        "        explain_decode(buf, at)\n"
        "        raise\n"
    )


def test_tracebacks_show_generated_lines() -> None:
    with pytest.raises(ValueError, match="level: 70000 is not a u16") as caught:
        codec(PLAYER).encode(Player(id=1, name="a", level=70000))
    text = "".join(traceback.format_exception(caught.value))
    assert "raise explain_encode(v, error) from None" in text
    assert "<spacetimedb encode Player" in text


def test_building_blocks() -> None:
    builder = SourceBuilder()
    statements, expression = encode_source(PLAYER, "row", builder)
    lines = ["def both(row, other):", *indented([*statements, f"first = {expression}"])]
    statements, expression = encode_source(PLAYER, "other", builder)
    lines += indented([*statements, f"return first + {expression}"])
    both = compile_source("test", "\n".join(lines), builder.names, "both")
    a, b = Player(id=1, name="a", level=2), Player(id=3, name="bb", level=4)
    assert both(a, b) == codec(PLAYER).encode(a) + codec(PLAYER).encode(b)

    builder = SourceBuilder()
    statements, first, end = decode_source(PLAYER, builder, "heap", "start")
    lines = ["def two(heap, start):", *indented([*statements, f"a = {first}", f"middle = {end}"])]
    statements, second, end = decode_source(PLAYER, builder, "heap", "middle")
    lines += indented([*statements, f"return a, {second}, {end}"])
    two = compile_source("test", "\n".join(lines), builder.names, "two")
    raw = both(a, b)
    assert two(b"\0" + raw, 1) == (a, b, 1 + len(raw))


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        *((kind, value) for kind in ("u8", "u16", "u32", "u64", "u128", "u256") for value in (-1, "1", None, 1.5)),
        *((f"u{bits}", 1 << bits) for bits in (8, 16, 32, 64, 128, 256)),
        *((f"i{bits}", 1 << bits - 1) for bits in (8, 16, 32, 64, 128, 256)),
        *((f"i{bits}", (-1 << bits - 1) - 1) for bits in (8, 16, 32, 64, 128, 256)),
        *((kind, value) for kind in ("f32", "f64") for value in ("1", None, b"")),
        ("f32", 1e39),
        *(("string", value) for value in (1, None, b"a", "\ud800")),
        *(("bytes", value) for value in ("a", None, [1, 2], 5, bytearray(b"a"))),
    ],
)
def test_values_that_do_not_fit(kind: ScalarKind, bad: Any) -> None:
    shape = ProductShape(None, (FieldShape("a", "amount", scalar(kind)), FieldShape("b", "b", scalar("u8"))))
    with pytest.raises(ValueError, match=r"^amount: .* is not an? "):
        codec(shape).encode((bad, 1))
    with pytest.raises(ValueError, match=r"^\[1\]: .* is not "):
        codec(ArrayShape(scalar(kind))).encode([b"" if kind == "bytes" else "" if kind == "string" else 0, bad])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"owner": b"short"}, "owner: b'short' is not a Identity"),
        ({"owner": 5}, "owner: 5 is not a Identity"),
        ({"connection": b""}, "connection: b'' is not a ConnectionId"),
        ({"at": "now"}, "at: 'now' is not a Timestamp"),
        ({"color": 2}, "color: 2 is not a Color"),
        ({"color": -1}, "color: -1 is not a Color"),
        ({"position": None}, "position: None is not a Vector"),
        ({"position": Vector(1.0, "b")}, "position.y: 'b' is not an f32"),  # type: ignore[arg-type]
        ({"path": [Vector(0.0, 0.0), 3]}, "path[1]: 3 is not a Vector"),
        ({"shape": Color.RED}, "shape: <Color.RED: 0> is not a Figure"),
        ({"shape": Label(5)}, "shape.Label: 5 is not a string"),  # type: ignore[arg-type]
        ({"shapes": [Circle("r")]}, "shapes[0].Circle.radius: 'r' is not an f64"),  # type: ignore[arg-type]
        ({"numbers": 5}, "numbers: 5 is not a list"),
        ({"names": ["a", 5]}, "names[1]: 5 is not a string"),
    ],
)
def test_errors_name_the_place(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        codec(EVERYTHING).encode(msgspec.structs.replace(EXAMPLE, **changes))
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("shape", "raw", "text"),
    [
        (scalar("u32"), "01", "data too short for u32: Expected 4, given 1"),
        (scalar("u256"), "01", "data too short for u256: Expected 32, given 1"),
        (scalar("bool"), "02", "byte 2 not valid as `bool` (must be 0 or 1)"),
        (ArrayShape(scalar("bool")), "020000000102", "byte 2 not valid as `bool` (must be 0 or 1)"),
        (scalar("string"), "02000000ff41", "invalid utf8"),
        (scalar("string"), "ffffffff", "data too short for [u8]: Expected 4294967295, given 0"),
        (scalar("bytes"), "0300000041", "data too short for [u8]: Expected 3, given 1"),
        (COLOR, "02", "unknown tag 0x2 for sum type <unknown>"),
        (FIGURE, "ff", "unknown tag 0xff for sum type <unknown>"),
        (OptionShape(COLOR), "02", "unknown tag 0x2 for sum type <unknown>"),
        (shape_of(NEVER), "00", "unknown tag 0x0 for sum type <unknown>"),
        (ArrayShape(scalar("u64")), "ffffffff", "data too short for u64: Expected 8, given 0"),
        (ArrayShape(scalar("string")), "ffffffff00000000", "data too short for u32: Expected 4, given 0"),
        (ArrayShape(OptionShape(COLOR)), "ffffffff01010101", "data too short for u8: Expected 1, given 0"),
        (shape_of(Array(UNIT)), "ffffffff", f"too many elements for array: at most {MAX_ZERO_SIZED_ELEMENTS} "),
    ],
)
def test_decode_errors(shape: Shape, raw: str, text: str) -> None:
    for buf in (bytes.fromhex(raw), memoryview(bytes.fromhex(raw))):
        with pytest.raises(DecodeError) as caught:
            codec(shape).decode(buf)
        assert str(caught.value).startswith(text)


def test_deep_values_end_in_an_error() -> None:
    typespace = Typespace((option(Ref(0)), product(inside=Ref(1)), Array(Ref(2)), Ref(3)))
    with pytest.raises(DecodeError, match="nested too deep"):
        codec(shape_of(Ref(0), typespace)).decode(bytes(100_000))
    with pytest.raises(DecodeError, match="nested too deep"):
        codec(shape_of(Ref(1), typespace)).decode(b"")
    with pytest.raises(DecodeError, match="nested too deep"):
        codec(shape_of(Ref(2), typespace)).decode(b"\1\0\0\0" * 10_000)
    nested: list[Any] = []
    for _ in range(5_000):
        nested = [nested]
    with pytest.raises(ValueError, match=r"nested too deep|cannot encode"):
        codec(shape_of(Ref(2), typespace)).encode(nested)
    with pytest.raises(ValueError, match="refers to itself"):
        shape_of(Ref(3), typespace)


def test_exact() -> None:
    assert codec(COLOR).decode_exact(b"\1") is Color.GREEN
    with pytest.raises(DecodeError, match="unexpected data length: Expected 1, given 2"):
        codec(COLOR).decode_exact(b"\1\1")


def test_fixed_size() -> None:
    assert codec(VECTOR).fixed_size == 8
    assert codec(PLAYER).fixed_size is None
    assert codec(shape_of(UNIT)).fixed_size == 0


def test_codecs_are_cached() -> None:
    assert codec(PLAYER) is codec(ProductShape(Player, PLAYER.fields))


def test_sums_have_at_most_256_variants() -> None:
    with pytest.raises(ValueError, match="at most 256 variants"):
        codec(shape_of(Sum(tuple(SumVariant(f"v{i}", U8) for i in range(257)))))


def test_options_in_options_stay_apart() -> None:
    made = codec(shape_of(option(option(U8))))
    for value in ((0, 7), (0, None), (1, ())):
        assert made.decode(made.encode(value))[0] == value


def test_display() -> None:
    assert display(product(a=U8, b=BYTES)) == "(a: U8, b: Array<U8>)"
    assert display(sum_of(A=UNIT, B=Ref(3))) == "(A: () | B: &3)"
    assert display(NEVER) == "(|)"
    assert display(Sum((SumVariant(None, U8),))) == "(U8)"


def test_json_of_author_classes() -> None:
    assert to_json(FIGURE, "row")(Circle(1.0)) == '[0,{"radius":1.0}]'
    assert to_json(FIGURE, "untyped")(Circle(1.0)) == "[0,[1.0]]"
    assert to_json(FIGURE, "native")(Nothing()) == '{"nothing":[]}'
    assert to_json(ArrayShape(FIGURE), "row")([Nothing(), Circle(1.0)]) == "[[2,[]],[0,[1.0]]]"
    row = ProductShape(
        Everything, tuple(f for f in EVERYTHING.fields if f.attr in ("owner", "at", "huge", "connection"))
    )
    assert to_json(row, "row")(EXAMPLE) == (
        '{"owner":{"__identity__":"0xc200"},"connection":[1,{}],'
        '"at":{"__timestamp_micros_since_unix_epoch__":-5},"huge":"0x' + "f" * 64 + '"}'
    )


def test_satn() -> None:
    assert satn_text(PLAYER)(Player(id=1, name='a"b', level=2)) == '(id = 1, name = "a"b", level = 2)'
    assert satn_text(FIGURE)(Circle(1.0)) == "(circle = (radius = 1))"
    assert satn_text(FIGURE)(Nothing()) == "(nothing = ())"
    assert satn_text(ArrayShape(scalar("bytes")))([b"\x01"]) == "[0x01]"
    assert satn_text(OptionShape(Wrapped("bytes32", Identity)))(Identity.from_int(7)) == "(some = (__identity__ = 7))"
    assert satn_text(COLOR)(Color.GREEN) == "(green = ())"
