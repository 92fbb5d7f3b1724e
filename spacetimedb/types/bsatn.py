"""BSATN: the binary form of values. Codecs are Python code generated per shape.

Positional, no padding, integers little-endian:

    bool                 1 byte, 00 or 01
    u8..u256, i8..i256   1 to 32 bytes, two's complement
    f32, f64             IEEE 754 bits (a signalling NaN of an f32 becomes a quiet one: Python's floats are doubles)
    string, bytes        u32 byte length, bytes (string: UTF-8)
    array                u32 count, elements
    product              elements in order
    sum                  u8 tag, payload (an option is a sum: 00 some, 01 none)

Generated code. `encode` reads the fields of the value, then builds the bytes from as few pieces as possible: fields of
fixed size that follow each other, lengths and tags included, become one call of a precompiled `struct.Struct`:

    def encode(v):
        try:
            name = v.name.encode()
            return pack_QI(v.id, len(name)) + name + pack_H(v.level)
        except Exception as error:
            raise explain_encode(shape, v, error) from None

`decode` does the reverse. It does not check sizes where it need not: a slice past the end is harmless as long as a
later read at a position behind it fails, so only the last one is compared with the size of the buffer:

    def decode(buf, at=0):
        try:
            id_1, n = unpack_QI(buf, at)
            start = at + 12
            end = start + n
            name = buf[start:end].decode()
            (level,) = unpack_H(buf, end)
            return Player(id=id_1, name=name, level=level), end + 2
        except Exception:
            explain_decode(shape, buf, at)
            raise

When anything goes wrong a slow walk (`codec_errors`) finds out what, so exact error texts cost nothing on the way.
`encode_source` and `decode_source` give the same code as text, for generators that put it into functions of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from spacetimedb.types.bsatn_decoding import decode_function, decode_source
from spacetimedb.types.bsatn_encoding import encode_function, encode_source
from spacetimedb.types.errors import DecodeError
from spacetimedb.types.layout import MAX_CACHED_CODECS, Buffer, fixed_size, title_of
from spacetimedb.types.shapes import Shape
from spacetimedb.types.source import compile_source

__all__ = ["Buffer", "Codec", "codec", "decode_source", "encode_source", "fixed_size"]


class Codec:
    """Encoder and decoder for the values of one shape.

    encode(value) -> bytes; ValueError naming field and value if it is no value of the shape.
    decode(buf, at=0) -> (value, position after it); DecodeError if there is none. Bytes after it are ignored.
    Both are plain functions: bind them to local names in hot code. `source` is their text.
    `fixed_size` is the size in bytes if it is the same for all values, else None.
    """

    __slots__ = ("decode", "encode", "fixed_size", "shape", "source")

    def __init__(self, shape: Shape) -> None:
        title = title_of(shape)
        encode_lines, encode_names = encode_function(shape)
        decode_lines, decode_names = decode_function(shape)
        encode_text, decode_text = "\n".join(encode_lines) + "\n", "\n".join(decode_lines) + "\n"
        self.shape = shape
        self.fixed_size = fixed_size(shape)
        self.source = encode_text + "\n\n" + decode_text
        self.encode: Callable[[Any], bytes] = compile_source(f"encode {title}", encode_text, encode_names, "encode")
        self.decode: Callable[..., tuple[Any, int]] = compile_source(
            f"decode {title}", decode_text, decode_names, "decode"
        )

    def decode_exact(self, buf: Buffer, at: int = 0) -> Any:
        """The value that fills the rest of `buf`; DecodeError if bytes are left over."""
        value, end = self.decode(buf, at)
        if end != len(buf):
            raise DecodeError(f"unexpected data length: Expected {end - at}, given {len(buf) - at}")
        return value

    def __repr__(self) -> str:
        return f"<Codec {title_of(self.shape)}>"


@lru_cache(maxsize=MAX_CACHED_CODECS)
def codec(shape: Shape) -> Codec:
    """The codec of a shape, generated when first asked for."""
    return Codec(shape)
