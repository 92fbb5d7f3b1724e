"""Random programs on tables of many shapes, against a table that is just a set of encoded rows.

After every call the answers must agree, after every commit the deltas, after every commit and roll-back everything the
store can check of itself. What goes in and comes out is scribbled on afterwards: that must not reach the table.
Iterators stay open over later writes and must give what was there when they were made.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Any

import msgspec
import pytest

from spacetimedb.module.errors import NoSuchRow, ReducerError, UniqueViolation
from spacetimedb.module.rows import Row, Struct
from spacetimedb.store.commit_record import EVENT, TRUNCATED, TableDelta
from spacetimedb.store.layout import IndexLayout
from spacetimedb.store.violations import IndexViolation
from spacetimedb.types.bsatn import codec
from spacetimedb.types.shapes import (
    ArrayShape,
    EnumShape,
    FieldShape,
    OptionShape,
    ProductShape,
    Scalar,
    Shape,
    Wrapped,
)
from spacetimedb.types.special import Identity, Timestamp

from .naive_table import Conflict, Missing, NaiveTable
from .tables import (
    BOOL,
    F32,
    F64,
    I16,
    I64,
    PLAYER,
    PLAYER_COLUMNS,
    STRING,
    U8,
    U16,
    Index,
    Player,
    check,
    define,
    new_store,
    shape_from,
    unique,
)


class Color(IntEnum):
    RED = 0
    GREEN = 1
    BLUE = 2


class Point(Struct):
    x: float
    y: float


class Bag(Struct, frozen=False):
    weight: int
    items: list[int]


class Member(Row):
    id: int
    guild: int
    rank: int
    name: str


class Pair(Row):
    a: int
    b: str


class Fixed(Row):
    a: int
    b: bool


class Measure(Row):
    id: int
    x: float
    y: float
    z: list[float]


class Sample(Row):
    x: float
    at: Point


class FrozenSample(Row, frozen=True):
    id: int
    x: float
    tags: list[str]


class Pixel(Row, frozen=True):
    id: int
    color: Color
    shade: int


class Person(Row):
    who: Identity
    friend: Identity
    seen: Timestamp
    level: int


class Chest(Row):
    id: int
    bag: Bag
    more: list[Bag]
    spare: Bag | None
    names: list[str] | None


class Twice(Row):
    a: int
    b: str
    c: int


class Chat(Row):
    id: int
    text: str
    room: int


IDENTITY = Wrapped("bytes32", Identity)
BAG = ProductShape(Bag, (FieldShape("weight", "weight", U8), FieldShape("items", "items", ArrayShape(U8))))
POINT = ProductShape(Point, (FieldShape("x", "x", F32), FieldShape("y", "y", F64)))
COLOR = EnumShape(Color, ("red", "green", "blue"))

MEMBER: dict[str, Shape] = {"id": U8, "guild": U8, "rank": I16, "name": STRING}
PAIR: dict[str, Shape] = {"a": U8, "b": STRING}
FIXED: dict[str, Shape] = {"a": U8, "b": BOOL}
MEASURE: dict[str, Shape] = {"id": U8, "x": F32, "y": F64, "z": ArrayShape(F32)}
SAMPLE: dict[str, Shape] = {"x": F32, "at": POINT}
FROZEN_SAMPLE: dict[str, Shape] = {"id": U8, "x": F32, "tags": ArrayShape(STRING)}
PIXEL: dict[str, Shape] = {"id": U8, "color": COLOR, "shade": U8}
PERSON: dict[str, Shape] = {"who": IDENTITY, "friend": IDENTITY, "seen": Wrapped("i64", Timestamp), "level": U8}
CHEST: dict[str, Shape] = {
    "id": U8,
    "bag": BAG,
    "more": ArrayShape(BAG),
    "spare": OptionShape(BAG),
    "names": OptionShape(ArrayShape(STRING)),
}
TWICE: dict[str, Shape] = {"a": U8, "b": STRING, "c": I64}
CHAT: dict[str, Shape] = {"id": U8, "text": STRING, "room": U16}

TABLES = {
    "usual": (PLAYER, Player, PLAYER_COLUMNS),
    "several columns": (
        define(
            "member",
            MEMBER,
            unique("id", "direct"),
            Index("guild rank", accessor="by_guild_rank"),
            Index("guild", "hash"),
            Index("guild rank name", accessor="by_all"),
            Index("rank name", "hash", accessor="by_rank_name"),
            key="id",
        ),
        Member,
        MEMBER,
    ),
    "no key": (define("pair", PAIR, Index("a")), Pair, PAIR),
    "no index": (define("fixed", FIXED), Fixed, FIXED),
    "floats": (define("measure", MEASURE, unique("id"), key="id"), Measure, MEASURE),
    "floats without key": (define("sample", SAMPLE), Sample, SAMPLE),
    "frozen with floats and lists": (
        define("frozen_sample", FROZEN_SAMPLE, unique("id"), key="id"),
        FrozenSample,
        FROZEN_SAMPLE,
    ),
    "frozen": (define("pixel", PIXEL, unique("id"), Index("color"), Index("shade")), Pixel, PIXEL),
    "identities": (
        define(
            "person",
            PERSON,
            unique("who"),
            unique("friend level", accessor="by_friend_level"),
            Index("seen"),
            Index("friend"),
            key="who",
        ),
        Person,
        PERSON,
    ),
    "lists and structs": (define("chest", CHEST, unique("id"), key="id"), Chest, CHEST),
    "two unique columns": (define("twice", TWICE, unique("a"), unique("b", "hash"), Index("c")), Twice, TWICE),
    "key that is not the first": (
        define("twice_b", TWICE, unique("a", "hash"), unique("b"), Index("c"), key="b"),
        Twice,
        TWICE,
    ),
    "event": (define("chat", CHAT, unique("id"), Index("room"), key="id", is_event=True), Chat, CHAT),
    "no class": (PLAYER, None, PLAYER_COLUMNS),
}

PROGRAMS, STEPS = 12, 150

FLOATS = [0.0, -0.0, 0.1, 0.1 + 1e-12, 1.5, math.nan, math.inf, 2.0**-150]


def random_value(rng: random.Random, shape: Shape) -> Any:
    """A value from so few that programs meet the same one again and again."""
    match shape:
        case Scalar("f32" | "f64"):
            return rng.choice(FLOATS)
        case Scalar("string"):
            return rng.choice(["", "a", "b", "ab", "é", "z"])
        case Scalar("bool"):
            return rng.random() < 0.5
        case Scalar("i16" | "i64"):
            return rng.randint(-3, 3)
        case Scalar():
            return rng.randint(0, 7)
        case Wrapped(_, cls):
            if issubclass(cls, int):
                return cls(rng.randint(-3, 3))
            return cls.from_int(rng.choice([1, 2, 256, 255, 1 << 64, (1 << 64) + 1, 1 << 200, 3 << 200]))
        case EnumShape(cls, names):
            tag = rng.randrange(len(names))
            return tag if cls is None else cls(tag)
        case ArrayShape(element):
            return [random_value(rng, element) for _ in range(rng.choice([0, 0, 1, 2]))]
        case OptionShape(some):
            return None if rng.random() < 0.5 else random_value(rng, some)
        case ProductShape(cls, fields) if cls is not None:
            return cls(**{field.attr: random_value(rng, field.shape) for field in fields})
        case _:
            raise AssertionError(shape)


def scribble(value: Any) -> None:
    """Changes everything in a value that lets itself be changed."""
    if isinstance(value, list):
        for item in value:
            scribble(item)
        value.append(value[0] if value else 9)
    elif isinstance(value, msgspec.Struct):
        frozen = value.__struct_config__.frozen
        for name in value.__struct_fields__:
            scribble(getattr(value, name))
            if not frozen and not isinstance(getattr(value, name), (list, msgspec.Struct)):
                setattr(value, name, "scribbled")


class Program:
    """One store with one table, its naive twin, and the operations on both."""

    def __init__(self, name: str, seed: int) -> None:
        definition, cls, columns = TABLES[name]
        self.rng = random.Random(f"{name} {seed}")
        self.store = new_store()
        self.table = self.store.add_table(4096, definition, shape_from(cls, columns))
        self.cls = self.table.row_class
        layout = self.table.layout
        key_first = sorted(layout.indexes, key=lambda index: index is not layout.key)
        row_codec = codec(self.table.shape)
        self.naive = NaiveTable(
            {index.number: index.attributes for index in key_first if index.is_unique},
            lambda image: row_codec.decode(image)[0],
            row_codec.encode,
            definition.is_event,
        )
        self.open: list[tuple[Iterator[Any], list[bytes] | set[bytes]]] = []
        handle = self.table.handle
        self.steps: list[tuple[int, Callable[[], None]]] = [
            (10, lambda: self.insert(handle.insert)),
            (4, lambda: self.insert(handle.try_insert)),
            (3, self.delete_row),
            (1, self.clear),
            (2, self.look_at_all),
            (3, self.commit),
            (2, self.rollback),
            (1, self.check),
        ]
        for index in layout.indexes:
            if index.is_unique:
                self.steps += [
                    (6, lambda index=index: self.update(index)),  # type: ignore[misc]
                    (2, lambda index=index: self.upsert(index)),  # type: ignore[misc]
                    (2, lambda index=index: self.find(index)),  # type: ignore[misc]
                ]
            self.steps += [
                (2, lambda index=index: self.filter(index)),  # type: ignore[misc]
                (2, lambda index=index: self.delete(index)),  # type: ignore[misc]
            ]

    def run(self, steps: int) -> None:
        weights = [weight for weight, _ in self.steps]
        for _, step in self.rng.choices(self.steps, weights, k=steps):
            step()
        self.rollback()
        for iterator, expected in self.open:
            assert sorted(map(self.image, iterator)) == sorted(expected)
        self.clear()
        self.commit()
        self.check()
        assert not self.table.refs_by_key

    def image(self, row: Any) -> bytes:
        """A row that came out, as bytes; it is scribbled on afterwards."""
        image = self.naive.write(row)
        scribble(row)
        return image

    def images(self, rows: Iterator[Any]) -> list[bytes]:
        return [self.image(row) for row in rows]

    def handle_of(self, index: IndexLayout) -> Any:
        return self.table.index_handles[index.name]

    def row(self) -> Any:
        """A row of random values; half the time one of the table, perhaps with one column changed."""
        fields = self.table.shape.fields
        values = {field.attr: random_value(self.rng, field.shape) for field in fields}
        if self.naive.rows and self.rng.random() < 0.5:
            old = self.naive.read(self.rng.choice(sorted(self.naive.rows)))
            change = self.rng.choice([None, *values])
            values = {name: values[name] if name == change else getattr(old, name) for name in values}
        return self.cls(**values)

    def expect(self, action: Callable[[Any], Any], naive: Callable[[Any], bytes]) -> None:
        """Runs an operation that takes a row on both sides."""
        row = self.row()
        twin = self.naive.read(self.naive.write(row))
        try:
            expected = naive(twin)
        except Conflict as conflict:
            self.expect_conflict(action, row, conflict.number)
        except Missing:
            with pytest.raises(NoSuchRow):
                action(row)
        else:
            given = self.naive.write(row)
            returned = action(row)
            assert self.naive.write(row) == given, "the argument was changed"
            assert self.image(returned) == expected
        scribble(row)

    def expect_conflict(self, action: Callable[[Any], Any], row: Any, number: int) -> None:
        if action == self.table.handle.try_insert:
            assert action(row) is None
            return
        with pytest.raises(UniqueViolation) as caught:
            action(row)
        assert isinstance(caught.value, IndexViolation)
        assert caught.value.index == self.table.layout.indexes[number].name

    def insert(self, action: Callable[[Any], Any]) -> None:
        self.expect(action, self.naive.insert)

    def update(self, index: IndexLayout) -> None:
        self.expect(self.handle_of(index).update, lambda row: self.naive.update(row, index.number))

    def upsert(self, index: IndexLayout) -> None:
        def naive(row: Any) -> bytes:
            value = self.naive.value(self.naive.write(row), index.attributes)
            if self.naive.where(index.attributes, lambda other: bool(other == value)):
                return self.naive.update(row, index.number)
            return self.naive.insert(row)

        self.expect(self.handle_of(index).upsert, naive)

    def delete_row(self) -> None:
        row = self.row()
        expected = self.naive.delete({self.naive.write(row)})
        assert self.table.handle.delete(row) is bool(expected)
        scribble(row)

    def clear(self) -> None:
        assert self.table.handle.clear() == len(self.naive.rows)
        self.naive.rows.clear()

    def keys(self, index: IndexLayout, count: int) -> list[Any]:
        shapes = {field.attr: field.shape for field in self.table.shape.fields}
        return [random_value(self.rng, shapes[attribute]) for attribute in index.attributes[:count]]

    def find(self, index: IndexLayout) -> None:
        keys = self.keys(index, len(index.attributes))
        value = keys[0] if len(keys) == 1 else tuple(keys)
        found = self.naive.where(index.attributes, lambda other: bool(other == value))
        handle = self.handle_of(index)
        assert (value in handle) is bool(found)
        row = handle.find(*keys)
        if not found:
            assert row is None
            with pytest.raises(ReducerError, match=f"no such {self.table.name}"):
                handle.get(*keys)
            return
        assert {self.image(row)} == found
        assert {self.image(handle.get(*keys))} == found
        reader = self.table.index_readers[index.name]
        assert {self.image(reader.find(*keys))} == found

    def selection(self, index: IndexLayout) -> tuple[list[Any], dict[str, Any], set[bytes]]:
        """Arguments for an index and the rows that they select."""
        attributes = index.attributes
        if not index.is_ordered:
            keys = self.keys(index, len(attributes))
            value = keys[0] if len(keys) == 1 else tuple(keys)
            return keys, {}, self.naive.where(attributes, lambda other: bool(other == value))
        keys = self.keys(index, self.rng.randint(0, len(attributes)))
        bounds: dict[str, Any] = {}
        if len(keys) < len(attributes):
            for kinds in (("ge", "gt"), ("le", "lt")):
                if self.rng.random() < 0.6:
                    bounds[self.rng.choice(kinds)] = self.keys(index, len(attributes))[len(keys)]

        def test(value: Any) -> bool:
            values = value if len(attributes) > 1 else (value,)
            if list(values[: len(keys)]) != keys:
                return False
            return all(_COMPARE[kind](values[len(keys)], bound) for kind, bound in bounds.items())

        return keys, bounds, self.naive.where(attributes, test)

    def filter(self, index: IndexLayout) -> None:
        keys, bounds, expected = self.selection(index)
        handle = self.handle_of(index)
        assert handle.count(*keys, **bounds) == len(expected)
        if self.rng.random() < 0.3:
            self.open.append((handle.filter(*keys, **bounds), expected))
            return
        if not index.is_ordered:
            assert set(self.images(handle.filter(*keys))) == expected
            return
        reverse, limit = self.rng.random() < 0.5, self.rng.choice([None, None, 0, 1, 2, 5])
        found = self.images(handle.filter(*keys, **bounds, reverse=reverse, limit=limit))
        order = [self.naive.value(image, index.attributes) for image in found]
        whole = sorted((self.naive.value(image, index.attributes) for image in expected), reverse=reverse)
        assert order == whole[:limit]
        assert set(found) <= expected
        assert len(set(found)) == len(found)

    def delete(self, index: IndexLayout) -> None:
        handle = self.handle_of(index)
        if index.is_unique:
            keys = self.keys(index, len(index.attributes))
            value = keys[0] if len(keys) == 1 else tuple(keys)
            images = self.naive.where(index.attributes, lambda other: bool(other == value))
            assert handle.delete(*keys) is bool(self.naive.delete(images))
            return
        keys, bounds, images = self.selection(index)
        assert handle.delete(*keys, **bounds) == self.naive.delete(images)

    def look_at_all(self) -> None:
        handle, reader = self.table.handle, self.table.reader
        assert handle.count() == reader.count() == self.table.row_count == len(self.naive.rows)
        if self.rng.random() < 0.3:
            self.open.append((handle.iter(), set(self.naive.rows)))
        assert sorted(self.images(reader.iter())) == sorted(self.naive.rows)

    def commit(self) -> None:
        deletes, inserts = self.naive.commit()
        before = dict(zip(self.table.refs_by_key.values(), self.table.images(), strict=True))
        deltas = self.store.commit()
        if not deletes and not inserts:
            assert deltas == []
        else:
            (delta,) = deltas
            assert isinstance(delta, TableDelta)
            assert (sorted(delta.deletes), sorted(delta.inserts)) == (sorted(deletes), sorted(inserts))
            is_truncated = bool(deletes) and not self.naive.rows
            assert delta.flags == (EVENT if self.naive.is_event else 0) | (TRUNCATED if is_truncated else 0)
            assert [before[ref] for ref in delta.deleted_refs] == delta.deletes
            if self.naive.is_event:
                assert delta.inserted_refs == []
            else:
                assert self.store.heap.rows(delta.inserted_refs) == delta.inserts
        assert set(self.table.images()) == self.naive.rows
        for image, row in zip(
            sorted(self.naive.rows), sorted(self.table.rows.values(), key=self.naive.write), strict=True
        ):
            same = msgspec.structs.asdict(row) == msgspec.structs.asdict(self.naive.read(image))
            assert same or "nan" in repr(row), "stored rows must be what their bytes say"
        self.check()
        heap: Any = self.store.heap
        heap.seal(1)
        heap.reclaim(1)

    def rollback(self) -> None:
        self.naive.rollback()
        self.store.rollback()
        assert set(map(self.naive.write, self.table.rows.values())) == self.naive.rows
        self.check()

    def check(self) -> None:
        check(self.store)


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "ge": lambda a, b: bool(a >= b),
    "gt": lambda a, b: bool(a > b),
    "le": lambda a, b: bool(a <= b),
    "lt": lambda a, b: bool(a < b),
}


@pytest.mark.parametrize("name", TABLES)
def test_random_programs(name: str) -> None:
    for seed in range(PROGRAMS):
        try:
            Program(name, seed).run(STEPS)
        except Exception as error:
            error.add_note(f"table {name!r}, seed {seed}")
            raise
