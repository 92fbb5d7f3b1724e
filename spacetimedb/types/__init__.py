"""Algebraic types, the values they have in Python, and the codecs between values, BSATN and JSON."""

from spacetimedb.types.algebraic import (
    AlgebraicType,
    Array,
    Primitive,
    Product,
    ProductElement,
    Ref,
    Sum,
    SumVariant,
    Typespace,
    decode_type,
    display,
    encode_type,
)
from spacetimedb.types.bsatn import Codec, codec, decode_source, encode_source, fixed_size
from spacetimedb.types.errors import DecodeError, RecursiveType
from spacetimedb.types.json_arguments import ArgumentError, ArgumentsDecoder, from_json
from spacetimedb.types.satn import satn_text
from spacetimedb.types.sats_json import row_to_json, to_json
from spacetimedb.types.shapes import Shape, shape_of
from spacetimedb.types.special import (
    ConnectionId,
    Identity,
    Interval,
    ScheduleAt,
    Time,
    TimeDuration,
    Timestamp,
    Uuid,
)

__all__ = [
    "AlgebraicType",
    "ArgumentError",
    "ArgumentsDecoder",
    "Array",
    "Codec",
    "ConnectionId",
    "DecodeError",
    "Identity",
    "Interval",
    "Primitive",
    "Product",
    "ProductElement",
    "RecursiveType",
    "Ref",
    "ScheduleAt",
    "Shape",
    "Sum",
    "SumVariant",
    "Time",
    "TimeDuration",
    "Timestamp",
    "Typespace",
    "Uuid",
    "codec",
    "decode_source",
    "decode_type",
    "display",
    "encode_source",
    "encode_type",
    "fixed_size",
    "from_json",
    "row_to_json",
    "satn_text",
    "shape_of",
    "to_json",
]
