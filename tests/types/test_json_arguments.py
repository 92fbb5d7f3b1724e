"""Arguments in JSON: what is accepted, and the error texts that clients see."""

import json

import pytest

from spacetimedb.types import (
    AlgebraicType,
    ArgumentError,
    ArgumentsDecoder,
    DecodeError,
    Identity,
    Product,
    Ref,
    Typespace,
    codec,
    from_json,
    shape_of,
)
from spacetimedb.types.algebraic import (
    BOOL,
    BYTES,
    CONNECTION_ID,
    F32,
    F64,
    I8,
    I64,
    I128,
    I256,
    IDENTITY,
    SCHEDULE_AT,
    STRING,
    TIMESTAMP,
    U8,
    U16,
    U32,
    U64,
    U128,
    U256,
    UNIT,
    Array,
    option,
    product,
    sum_of,
)
from spacetimedb.types.sats_json import f32_text, f64_text

ADD_ITEM = product(name=STRING, price=U32)
POINT = product(x=I64, y=I64)
SHAPE = sum_of(circle=F64, rect=POINT, nothing=UNIT)


@pytest.mark.parametrize(
    ("body", "path", "reason"),
    [
        ('["x"]', ".", "invalid length 1, expected reducer args for add_item with 2 elements at line 1 column 5"),
        ('["x", 1, 2]', ".", "trailing characters at line 1 column 10"),
        ('["x", "1"]', "[1]", 'invalid type: string "1", expected u32 at line 1 column 9'),
        ('["x"', ".", "EOF while parsing a list at line 1 column 4"),
        ("", ".", "EOF while parsing a value at line 1 column 0"),
        ('{"name": "x"}', ".", "missing reducer argument `price` at line 1 column 13"),
        ('{"name": "x", "price": 1, "zz": 2}', ".", "trailing comma at line 1 column 25"),
        ('{"price": 1, "price": 2}', ".", "duplicate reducer argument `price` at line 1 column 20"),
        ('{"zz": 2}', ".", "unknown reducer argument `zz`, expected `name` or `price` at line 1 column 5"),
        ('{"name": "x", "price": -1}', "price", "invalid value: integer `-1`, expected u32 at line 1 column 25"),
        ('[\n"x",\n 4294967296]', "[1]", "invalid value: integer `4294967296`, expected u32 at line 3 column 11"),
        ('["x", 1.0]', "[1]", "invalid type: floating point `1.0`, expected u32 at line 1 column 9"),
        ('["x", 1e3]', "[1]", "invalid type: floating point `1000.0`, expected u32 at line 1 column 9"),
        ('["x", null]', "[1]", "invalid type: null, expected u32 at line 1 column 10"),
        ('["x", true]', "[1]", "invalid type: boolean `true`, expected u32 at line 1 column 10"),
        ('["x", [1]]', "[1]", "invalid type: sequence, expected u32 at line 1 column 6"),
        ("[5, 1]", "[0]", "invalid type: integer `5`, expected a string at line 1 column 2"),
        ('["x" 1]', ".", "expected `,` or `]` at line 1 column 6"),
        ('["x",]', ".", "trailing comma at line 1 column 6"),
        ("7", ".", "invalid type: integer `7`, expected a 2-element tuple at line 1 column 1"),
        ("nonsense", ".", "expected ident at line 1 column 2"),
        ('["a\nb", 1]', "[0]", "control character (\\u0000-\\u001F) found while parsing a string at line 2 column 0"),
        ('["\\q", 1]', "[0]", "invalid escape at line 1 column 4"),
        ('["é", "1"]', "[1]", 'invalid type: string "1", expected u32 at line 1 column 10'),
    ],
)
def test_errors_of_arguments(body: str, path: str, reason: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        ArgumentsDecoder("add_item", ADD_ITEM).decode(body)
    error = caught.value
    assert (error.path, error.reason) == (path, reason)
    assert error.message("reducer") == (
        f"invalid arguments for reducer add_item: {path}: "
        f"invalid arguments for function add_item: {path}: {path}: {reason}"
    )


def test_text_after_the_value_has_no_path() -> None:
    with pytest.raises(ArgumentError) as caught:
        ArgumentsDecoder("f", ADD_ITEM).decode('["x", 1] 2')
    reason = "trailing characters at line 1 column 10"
    assert caught.value.message("procedure") == (
        f"invalid arguments for procedure f: {reason}: invalid arguments for function f: {reason}: {reason}"
    )


def test_paths_lead_inside() -> None:
    params = product(a=Array(POINT), s=SHAPE)
    decoder = ArgumentsDecoder("f", params)
    for body, path in (
        ('[[[1,2],[3,"4"]],{"nothing":[]}]', "[0][1][1]"),
        ('[[],{"rect":[1,true]}]', "[1].rect[1]"),
        ('{"s":[1,{"x":1,"y":null}],"a":[]}', "s[1].y"),
        ('[[],{"square":1}]', "[1]"),
    ):
        with pytest.raises(ArgumentError) as caught:
            decoder.decode(body)
        assert caught.value.path == path


def test_arguments_in_any_order() -> None:
    decoder = ArgumentsDecoder("add_item", ADD_ITEM)
    expected = codec(shape_of(ADD_ITEM)).encode(("fig", 8))
    assert decoder.decode(b'{"price": 8, "name": "fig"}') == expected
    assert decoder.decode(' [ "fig" ,\t8 ]\r\n') == expected
    for empty in ("[]", "{}"):
        assert ArgumentsDecoder("f", Product(())).decode(empty) == b""


@pytest.mark.parametrize(
    ("t", "text", "value"),
    [
        (BOOL, "true", True),
        (I8, "-128", -128),
        (U64, str((1 << 64) - 1), (1 << 64) - 1),
        (I128, "-" + str(1 << 127), -1 << 127),
        (U128, str((1 << 128) - 1), (1 << 128) - 1),
        (U256, '"0x00Ff"', 255),
        (I256, '"-0x10"', -16),
        (F64, "1", 1.0),
        (F64, "-1.5e-3", -0.0015),
        (F32, "1e300", float("inf")),
        (F32, "-1e300", float("-inf")),
        (F64, "123456789012345678901234567890", 1.2345678901234568e29),
        (STRING, '"\\u00e9\\ud83d\\ude00\\n\\/"', "é😀\n/"),
        (BYTES, '"00fF"', b"\x00\xff"),
        (BYTES, '""', b""),
        (BYTES, "[0, 255]", b"\x00\xff"),
        (UNIT, "[]", ()),
        (UNIT, "{ }", ()),
        (POINT, '{"y": 2, "x": 1}', (1, 2)),
        (option(U8), "null", None),
        (option(U8), '{"some": 3}', 3),
        (option(U8), "[1, []]", None),
        (option(U8), '{"none": {}}', None),
        (SHAPE, '["rect", [1, 2]]', (1, (1, 2))),
        (SHAPE, '["1", [1, 2]]', (1, (1, 2))),
        (SHAPE, '{"1": [1, 2]}', (1, (1, 2))),
        (SHAPE, "[2, {}]", (2, ())),
        (IDENTITY, '["0x7"]', Identity.from_int(7)),
        (IDENTITY, '{"__identity__": "0x7"}', Identity.from_int(7)),
    ],
)
def test_accepted(t: AlgebraicType, text: str, value: object) -> None:
    raw = from_json(t, text)
    assert codec(shape_of(t)).decode_exact(raw) == value


@pytest.mark.parametrize(
    ("t", "text", "reason"),
    [
        (U8, '"1"', 'invalid type: string "1", expected u8'),
        (U8, "-0", "invalid type: floating point `-0.0`, expected u8"),
        (U8, "01", "invalid number"),
        (U64, str(1 << 64), "invalid type: floating point `18446744073709552000.0`, expected u64"),
        (U128, '"1"', "invalid number"),
        (U128, "-1", "number out of range"),
        (I128, str(1 << 127), "number out of range"),
        (U256, "5", "invalid type: integer `5`, expected a formatted 256-bit integer"),
        (U256, '"5"', "invalid digit found in string"),
        (U256, '"0X5"', "invalid digit found in string"),
        (U256, '"-0x5"', "invalid digit found in string"),
        (U256, '"0x' + "f" * 65 + '"', "number too large to fit in target type"),
        (I256, '"0x8' + "0" * 63 + '"', "number too large to fit in target type"),
        (F64, "1e400", "number out of range"),
        (F64, "NaN", "expected value"),
        (F32, "null", "invalid type: null, expected f32"),
        (BOOL, "0", "invalid type: integer `0`, expected a boolean"),
        (BYTES, '"0x00"', 'invalid value: string "0x00", expected a byte array or hex string'),
        (BYTES, '"0"', 'invalid value: string "0", expected a byte array or hex string'),
        (Array(U16), "null", "invalid type: null, expected an array"),
        (POINT, '{"x": 1}', "missing field `y`"),
        (POINT, '{"x": 1, "z": 1}', "unknown field `z`, expected `x` or `y`"),
        (POINT, '{"x": 1, "y": 1, "z": 1}', "trailing comma"),
        (POINT, "[1, 2, 3]", "trailing characters"),
        (POINT, "[1]", "invalid length 1, expected product type <product> with 2 elements"),
        (UNIT, "null", "invalid type: null, expected a 0-element tuple"),
        (TIMESTAMP, "9", "invalid type: integer `9`, expected a 1-element tuple"),
        (CONNECTION_ID, '"7"', 'invalid type: string "7", expected a 1-element tuple'),
        (SHAPE, '"nothing"', 'invalid type: string "nothing", expected sum type <unknown>'),
        (SHAPE, '{"nothing": null}', "invalid type: null, expected a 0-element tuple"),
        (SHAPE, "{}", "expected map representing sum type to have exactly one field"),
        (SHAPE, '{"7": 1}', "unknown tag 0x7 for sum type <unknown>"),
        (SHAPE, '{"square": 1}', "unknown variant `square`, expected one of `circle`, `rect`, `nothing`"),
        (SHAPE, '{"nothing": [], "rect": [1, 2]}', "trailing comma"),
        (SHAPE, "[256, 1]", "invalid value: integer `256`, expected u8"),
        (SHAPE, "[0]", "invalid length 1, expected sum type <unknown>"),
        (option(U8), "5", "invalid type: integer `5`, expected sum type <unknown>"),
        (SCHEDULE_AT, '{"interval": [1]}', "unknown variant `interval`, expected `Interval` or `Time`"),
        (STRING, '"\\ud800"', "unexpected end of hex escape"),
        (STRING, '"\\udc00"', "lone leading surrogate in hex escape"),
    ],
)
def test_refused(t: AlgebraicType, text: str, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        from_json(t, text)
    assert f": {reason} at line 1 column " in str(caught.value)


def test_depth_is_limited() -> None:
    typespace = Typespace((Array(Ref(0)),))
    assert from_json(Ref(0), "[" * 100 + "]" * 100, typespace)
    with pytest.raises(DecodeError, match="recursion limit exceeded"):
        from_json(Ref(0), "[" * 1000, typespace)


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(DecodeError, match="invalid unicode code point"):
        from_json(STRING, b'"\xff"')
    with pytest.raises(DecodeError):
        from_json(STRING, '"\ud800"')


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (2.0, "2.0"),
        (1e15, "1000000000000000.0"),
        (1e16, "1e16"),
        (1.5e300, "1.5e300"),
        (1e-5, "0.00001"),
        (1.25e-5, "0.0000125"),
        (1e-7, "1e-7"),
        (-1.5e-7, "-1.5e-7"),
        (5e-324, "5e-324"),
        (0.1, "0.1"),
        (float("nan"), "null"),
        (float("inf"), "null"),
    ],
)
def test_f64_text(value: float, text: str) -> None:
    assert f64_text(value) == text
    if text != "null":
        assert json.loads(text) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.10000000149011612, "0.1"),
        (3.4028234663852886e38, "3.4028235e38"),
        (1.401298464324817e-45, "1e-45"),
        (16777216.0, "16777216.0"),
        (1234567936.0, "1234568000.0"),
        (1.0, "1.0"),
        (-0.0, "-0.0"),
        (-1.5, "-1.5"),
        (1.0000000133514319e-10, "1e-10"),
        (float("-inf"), "null"),
    ],
)
def test_f32_text(value: float, text: str) -> None:
    assert f32_text(value) == text
    if text != "null":
        assert codec(shape_of(F32)).decode(from_json(F32, text))[0] == value
