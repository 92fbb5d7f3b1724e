"""A scenario out of any database's schema: subscribe to every public table and view, call public reducers with
generated arguments."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any, Final

from ..client.schema import FunctionType, Schema
from ..module.query import quoted
from ..types.shapes import (
    ArrayShape,
    EnumShape,
    OptionShape,
    ProductShape,
    RefShape,
    ResultShape,
    Scalar,
    Shape,
    SumShape,
    VariantShape,
    Wrapped,
)
from ..types.special import Timestamp
from .scenario import Play, Scenario, Task

if TYPE_CHECKING:
    from .bot import Bot

DEPTH: Final = 6
"""How far types that contain themselves are unfolded."""
LONGEST: Final = 4
"""Elements of a list, and words of a text."""
WORDS: Final = ("red", "green", "blue", "north", "south", "castle", "river", "sword", "grüße", "日本", "🎲", "x")


class _TooDeepError(Exception):
    """No value of this type within the depth."""


def scenario_of(schema: Schema, database: str) -> Scenario:
    """Tasks are the public reducers, all of the same weight; none in a module without reducers."""
    names = sorted(table.name for table in schema.by_wire_name.values() if table.is_public)
    queries = [f"SELECT * FROM {'.'.join(map(quoted, name.split('.')))}" for name in names]

    async def start(bot: Bot) -> None:
        if queries:
            await bot.subscribe(*queries)

    functions = {id(function): function for function in schema.reducers.values() if not function.is_private}
    tasks = [Task(function.name, _caller(function)) for function in functions.values()]
    return Scenario(f"auto:{database}", tuple(tasks), start, (1.0, 1.0), database, schema)


def _caller(function: FunctionType) -> Play:
    async def play(bot: Bot) -> None:
        await bot.call(function.name, *arguments(function, bot.random))

    return play


def arguments(function: FunctionType, rng: random.Random) -> list[Any]:
    """Arguments of the right types for a function."""
    return [value(field.shape, rng) for field in function.shape.fields]


def value(shape: Shape, rng: random.Random, depth: int = DEPTH) -> Any:
    """A value of this shape: mostly small, sometimes at the edge of the type."""
    match shape:
        case Scalar(kind):
            return _scalar(kind, rng)
        case Wrapped(kind, cls):
            return cls(_wrapped(kind, cls, rng))
        case ArrayShape(element):
            try:
                return [value(element, rng, depth - 1) for _ in range(rng.randrange(LONGEST) if depth > 0 else 0)]
            except _TooDeepError:
                return []
        case OptionShape(some):
            try:
                return value(some, rng, depth - 1) if depth > 0 and rng.random() < 0.7 else None
            except _TooDeepError:
                return None
        case ResultShape(ok, err):
            return ("ok", value(ok, rng, depth)) if rng.random() < 0.5 else ("err", value(err, rng, depth))
        case ProductShape(cls, fields):
            values = [value(field.shape, rng, depth) for field in fields]
            if cls is None:
                return tuple(values)
            return cls(**{field.attr: found for field, found in zip(fields, values, strict=True)})
        case EnumShape(cls, names):
            tag = rng.randrange(len(names))
            return tag if cls is None else cls(tag)
        case SumShape(_, variants):
            return _sum(variants, rng, depth)
        case RefShape():
            if depth <= 0:
                raise _TooDeepError
            return value(shape.target(), rng, depth - 1)
    raise TypeError(f"no values for {shape}")


def _sum(variants: tuple[VariantShape, ...], rng: random.Random, depth: int) -> Any:
    tags = list(range(len(variants)))
    rng.shuffle(tags)
    for tag in tags:
        variant = variants[tag]
        try:
            payload = () if variant.shape is None else value(variant.shape, rng, depth - 1)
        except _TooDeepError:
            continue
        if variant.cls is None:
            return tag, payload
        if variant.kind == "product":
            return payload
        return variant.cls() if variant.kind == "unit" else variant.cls(payload)
    raise _TooDeepError


def _scalar(kind: str, rng: random.Random) -> Any:
    if kind == "bool":
        return rng.random() < 0.5
    if kind == "string":
        return " ".join(rng.choice(WORDS) for _ in range(rng.randrange(LONGEST + 1)))
    if kind == "bytes":
        return rng.randbytes(rng.randrange(16))
    if kind in ("f32", "f64"):
        return float(rng.choice((0, 1, -1, rng.randrange(-1000, 1000) / 8, rng.randrange(-4, 5) / 4)))
    bits = int(kind[1:])
    low, high = (0, 2**bits - 1) if kind[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if rng.random() < 0.1:
        return rng.choice((low, high))
    return min(high, rng.randrange(0 if low == 0 or rng.random() < 0.7 else -100, 100))


def _wrapped(kind: str, cls: type[Any], rng: random.Random) -> Any:
    if kind != "i64":
        return rng.randbytes(32 if kind == "bytes32" else 16)
    moment = int(time.time() * 1e6) if cls is Timestamp else 0
    return moment + rng.randrange(1_000_000)
