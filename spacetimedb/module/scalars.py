"""Numbers with a width. For a type checker each is `int` or `float`; the width is read from the annotation at load."""

from __future__ import annotations

from typing import Annotated, NamedTuple, TypeAlias


class Number(NamedTuple):
    """What an annotation says about a number: its kind as in algebraic types (`u8` to `i256`, `f32`, `f64`)."""

    kind: str


u8: TypeAlias = Annotated[int, Number("u8")]
u16: TypeAlias = Annotated[int, Number("u16")]
u32: TypeAlias = Annotated[int, Number("u32")]
u64: TypeAlias = Annotated[int, Number("u64")]
u128: TypeAlias = Annotated[int, Number("u128")]
u256: TypeAlias = Annotated[int, Number("u256")]
i8: TypeAlias = Annotated[int, Number("i8")]
i16: TypeAlias = Annotated[int, Number("i16")]
i32: TypeAlias = Annotated[int, Number("i32")]
i64: TypeAlias = Annotated[int, Number("i64")]
i128: TypeAlias = Annotated[int, Number("i128")]
i256: TypeAlias = Annotated[int, Number("i256")]
f32: TypeAlias = Annotated[float, Number("f32")]
f64: TypeAlias = Annotated[float, Number("f64")]
