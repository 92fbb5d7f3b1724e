"""What is refused when a module is loaded: every problem, with file and line, together."""

from __future__ import annotations

import linecache
from pathlib import Path

import pytest

from spacetimedb.module import Module, ModuleError

HEAD = """\
from enum import Enum, IntEnum
from typing import Annotated, Any
from spacetimedb import *
m = Module()
"""


def problems_of(body: str, path: Path) -> list[tuple[str, str]]:
    """(Source line, text) of every problem of a module."""
    path.write_text(HEAD + body)
    linecache.checkcache(str(path))
    namespace: dict[str, object] = {"__name__": "bad"}
    exec(compile(path.read_text(), str(path), "exec", dont_inherit=True), namespace)
    module = namespace["m"]
    assert isinstance(module, Module)
    with pytest.raises(ModuleError) as caught:
        module.describe()
    lines = path.read_text().splitlines()
    found = []
    for problem in caught.value.problems:
        assert problem.file == str(path)
        found.append((lines[problem.line - 1].strip(), problem.text))
    return found


COLUMNS = [
    ("id: Pk[int]", "T.id: int has no width on the wire; write u8 to u256 or i8 to i256"),
    ("id: Pk", "T.id: write the column's type in brackets, as in Pk[u32]"),
    ("x: dict[str, u8]", "T.x: there is no dictionary type; use a list of structs, or a table"),
    ("x: Any", "T.x: Any says nothing about the wire; write the type"),
    ("x: list", "T.x: write what the list holds, as in list[u32]"),
    ("x: list[int]", "T.x: int has no width on the wire; write u8 to u256 or i8 to i256"),
    ("x: 'Missing'", "T.x: name 'Missing' is not defined"),
    ("x: str | u8", "T.x: a union is T | None, or variants (Struct, Variant, Unit) named with Sum"),
    ("x: Circle | Nothing", 'T.x: a union of variants needs a name: Annotated[A | B, Sum("Name")]'),
    ("x: Circle", 'T.x: Circle is a variant: name its union with Annotated[... | ..., Sum("Name")]'),
    ("x: Plain", "T.x: Plain must derive from IntEnum, with the values 0, 1, 2, ... in order"),
    ("x: Gap", "T.x: Gap: the values of an enum must be 0, 1, 2, ... in order, without aliases"),
    ("x: list[Pk[u32]]", "T.x: Pk[...] marks columns of a table row; it has no place inside another type"),
    ("x: object", "T.x: object says nothing about the wire; write the type"),
    ("x: complex", "T.x: complex is no type that a column or parameter can have; derive it from Struct"),
    ("x: None", "T.x: None is no type of a value; an option is written T | None"),
    ("x: Interval", "T.x: a schedule column has the type ScheduleAt"),
    ("x: str = auto_inc()", "T.x: auto_inc() is for integer columns"),
    ("x: f32 = auto_inc()", "T.x: auto_inc() is for integer columns"),
    ("x: u8 = default('a')", "T.x: the default does not fit the column"),
    ("x: u8 = 256", "T.x: the default does not fit the column"),
    ("g: HashIndex[u64 | None]", "T.g: its type cannot be a key"),
    ("g: Index[f32]", "T.g: its type cannot be a key"),
    ("g: Unique[bytes]", "T.g: its type cannot be a key"),
    ("g: Pk[list[u8]]", "T.g: its type cannot be a key"),
    ("g: Index[TimeDuration]", "T.g: its type cannot be a key"),
    ("g: DirectIndex[i32]", "T.g: a direct index is for u8, u16, u32, u64 and enums"),
    ("by = btree('nowhere')", "T.by: there is no column nowhere"),
    ("a1: u8\n    a_1: u8", "T: columns a1 and a_1 are both 'a_1'"),
    ("__: u8", "T.__: a name of underscores only is empty"),
    ("self_: 'T'", "T.self_: T contains itself; recursive types are not supported"),
]


@pytest.mark.parametrize(("column", "text"), COLUMNS, ids=[c for c, _ in COLUMNS])
def test_columns(column: str, text: str, tmp_path: Path) -> None:
    body = f"""
class Circle(Variant[f32]): ...
class Nothing(Unit): ...
class Plain(Enum):
    A = 0
class Gap(IntEnum):
    A = 0
    B = 2
@m.table()
class T(Row):
    {column}
"""
    found = problems_of(body, tmp_path / "bad.py")
    assert len(found) == 1, found
    line, told = found[0]
    assert told.startswith(text)
    assert line == column.splitlines()[-1].strip()


FUNCTIONS = [
    ("@m.reducer\ndef f(ctx: ReducerContext, a) -> None: ...", "f: parameter a has no annotation"),
    ("@m.reducer\ndef f(ctx, a: u8) -> None: ...", "f: parameter ctx has no annotation"),
    (
        "@m.reducer\ndef f(ctx: ReducerContext, *a: u8) -> None: ...",
        "f: *a has no type on the wire; name every parameter",
    ),
    ("@m.reducer\ndef f(ctx: ReducerContext, **a: u8) -> None: ...", "f: *a has no type on the wire"),
    ("@m.reducer\ndef f(ctx: ReducerContext, *, a: u8) -> None: ...", "f: parameter a must not be keyword-only"),
    ("@m.reducer\ndef f() -> None: ...", "f: the first parameter is the context"),
    (
        "@m.reducer\ndef f(ctx: ProcedureContext) -> None: ...",
        "f: the first parameter must be annotated ReducerContext",
    ),
    (
        "@m.reducer\ndef f(a: u8, ctx: ReducerContext) -> None: ...",
        "f: the first parameter must be annotated ReducerContext",
    ),
    ("@m.reducer\ndef f(ctx: ReducerContext, a: int) -> None: ...", "f: parameter a: int has no width on the wire"),
    (
        "@m.reducer\nasync def f(ctx: ReducerContext) -> None: ...",
        "f: async functions cannot run here; a reducer is a plain def",
    ),
    (
        "@m.reducer\ndef f(ctx: ReducerContext) -> u8: ...",
        "f: a reducer returns None; it answers with changes of tables",
    ),
    ("@m.reducer\ndef f(ctx: ReducerContext) -> None: yield", "f: a reducer cannot be a generator; return a list"),
    ("@m.reducer\ndef f(ctx: 'Nowhere') -> None: ...", "f: ctx: name 'Nowhere' is not defined"),
    ("@m.init\ndef f(ctx: ReducerContext, a: u8) -> None: ...", "f: a lifecycle function takes the context only"),
    ("@m.procedure\ndef f(ctx: ProcedureContext): ...", "f: the return type is missing"),
    ("@m.procedure\ndef f(ctx: ProcedureContext) -> int: ...", "f: return type: int has no width on the wire"),
    (
        "@m.view\ndef f(ctx: ReducerContext) -> list[T]: ...",
        "f: the first parameter must be ViewContext or AnonymousViewContext",
    ),
    ("@m.view\ndef f(ctx: ViewContext, a: u8) -> list[T]: ...", "f: a view takes the context only"),
    ("@m.view\ndef f(ctx: ViewContext) -> T: ...", "f: a view returns list[Row], Row | None or Query[Row], not T"),
    ("@m.view\ndef f(ctx: ViewContext): ...", "f: a view returns list[Row], Row | None or Query[Row], not nothing"),
    ("@m.view\ndef f(ctx: ViewContext) -> list[u8]: ...", "f: a view returns list[Row], Row | None or Query[Row], not"),
    ("@m.view\ndef f(ctx: ViewContext) -> list[E]: ...", "f: rows of an event table cannot be shown by a view"),
    ("@m.view(primary_key='b')\ndef f(ctx: ViewContext) -> list[T]: ...", "f: T has no column b"),
    (
        "@m.reducer(on_schedule=T)\ndef f(ctx: ReducerContext, t: T) -> None: ...",
        "T: a schedule table has a primary key of type u64",
    ),
    (
        "@m.reducer(on_schedule=W)\ndef f(ctx: ReducerContext) -> None: ...",
        "f: a scheduled function takes one argument, a row of type W",
    ),
    (
        "@m.reducer(on_schedule=Other)\ndef f(ctx: ReducerContext, o: Other) -> None: ...",
        "on_schedule=Other: that is no table of this module",
    ),
    (
        "@m.procedure(on_schedule=W)\ndef f(ctx: ProcedureContext, w: W) -> u8: ...",
        "f: a scheduled procedure returns None",
    ),
    ("@m.every(ms=5)\ndef f(ctx: ReducerContext, a: u8) -> None: ...", "f: with @m.every it takes the context only"),
    (
        "@m.http.get('x')\ndef f(ctx: HttpContext, req: Request) -> Response: ...",
        "f: route 'x': a path is empty or starts with /",
    ),
    (
        "@m.http.get('/')\ndef f(ctx: HttpContext) -> Response: ...",
        "f: a handler is written def f(ctx: HttpContext, req: Request)",
    ),
    (
        "@m.http.get('/')\n@m.http.any('/')\ndef f(ctx: HttpContext, req: Request) -> Response: ...",
        "f: route '/' is also answered by f",
    ),
]


@pytest.mark.parametrize(("source", "text"), FUNCTIONS, ids=range(len(FUNCTIONS)))
def test_functions(source: str, text: str, tmp_path: Path) -> None:
    body = f"""
class Other(Schedule): ...
@m.table()
class T(Row):
    a: u8
@m.table(event=True)
class E(Row):
    a: u8
@m.table()
class W(Schedule): ...
{source}
"""
    found = problems_of(body, tmp_path / "bad.py")
    assert len(found) == 1, found
    line, told = found[0]
    assert told.startswith(text)
    assert line.startswith("class T" if text.startswith("T:") else ("def f", "async def f"))


def test_all_problems_are_told_together_in_order(tmp_path: Path) -> None:
    body = """
@m.table()
class A(Row):
    x: int
    y: Pk[u8]

@m.table()
class B(Row):
    x: Pk[u8]
    y: Pk[u8]

@m.table(name="b")
class C(Row):
    x: u8

class Inner(Struct):
    v: int

@m.table(name="st_mine")
class D(Row):
    a: Inner
    b: Inner

@m.reducer
def f(ctx: ReducerContext, a) -> None: ...

@m.reducer(name="f")
def g(ctx: ReducerContext, inner: Inner) -> None: ...

@m.init
def first(ctx: ReducerContext) -> None: ...

@m.init
def second(ctx: ReducerContext) -> None: ...
"""
    found = problems_of(body, tmp_path / "bad.py")
    assert found == [
        ("x: int", "A.x: int has no width on the wire; write u8 to u256 or i8 to i256"),
        ("class B(Row):", "B has several primary keys: x, y"),
        ("class C(Row):", "there is another table named 'b' (line 12)"),
        ("v: int", "Inner.v: int has no width on the wire; write u8 to u256 or i8 to i256"),
        ("class D(Row):", "table st_mine: names that start with st_ are the system's own"),
        ("def f(ctx: ReducerContext, a) -> None: ...", "f: parameter a has no annotation"),
        ("def g(ctx: ReducerContext, inner: Inner) -> None: ...", "there is another function named 'f' (line 29)"),
        ("def second(ctx: ReducerContext) -> None: ...", "there is another function with @m.init"),
    ]


def test_every_bad_column_of_a_class_is_told(tmp_path: Path) -> None:
    body = """
class P(Struct):
    v: int
    w: dict

class Q(Struct):
    v: int

@m.table()
class A(Row):
    p: P
    score: int
    q: Q

@m.table()
class B(Row):
    q: Q
    p: P
    other: int
"""
    told = [text.partition(":")[0] for _line, text in problems_of(body, tmp_path / "bad.py")]
    assert told == ["P.v", "P.w", "Q.v", "A.score", "B.other"]


def test_two_types_of_one_name(tmp_path: Path) -> None:
    body = """
class P(Struct):
    a: u8
@m.table()
class T(Row):
    p: P
class P(Struct):
    b: u8
@m.table()
class U(Row):
    p: P
"""
    found = problems_of(body, tmp_path / "bad.py")
    assert [text for _, text in found] == ["two different types of the module are named P"]


def test_indexes(tmp_path: Path) -> None:
    body = """
@m.table(indexes=[btree("a", "b"), btree("a", "c", name="a_c"), hash_index("a", "a", name="twice")])
class T(Row):
    a: Index[u8]
    b: u8
    c: f32
    a_again = btree("a")
"""
    found = problems_of(body, tmp_path / "bad.py")
    assert {text for _, text in found} == {
        "T.btree: an index in indexes=[...] needs name=",
        "T.a_c: the type of c cannot be a key; a key is an integer, bool, str, Identity, ConnectionId, Timestamp, "
        "Uuid or an enum",
        "T.twice: an index has 1 to 6 different columns",
        "T.a_again: there is another index over the same columns",
    }


def test_what_is_no_row_class_is_refused_at_once() -> None:
    module = Module()
    with pytest.raises(TypeError, match="a table is a class that derives from Row"):
        module.table(dict)  # type: ignore[type-var]


def test_the_text_names_how_many() -> None:
    module = Module()

    @module.reducer
    def f(ctx, a) -> None:  # type: ignore[no-untyped-def]
        ...

    with pytest.raises(ModuleError, match=r"2 problems in the module:\n.*test_problems.py:\d+: f: parameter a has no"):
        module.describe()
