"""What a module describes: the definition, the specs for hosts, and row classes at run time."""

from __future__ import annotations

import gc
import json
from enum import IntEnum
from pathlib import Path
from typing import Annotated, TypeAlias

import pytest

from spacetimedb.module import (
    AnonymousViewContext,
    DirectIndex,
    HashIndex,
    HttpContext,
    Identity,
    Index,
    Module,
    Pk,
    ProcedureContext,
    Query,
    ReducerContext,
    Request,
    Response,
    Row,
    Schedule,
    Struct,
    Sum,
    Timestamp,
    Unique,
    Unit,
    Uuid,
    Variant,
    ViewContext,
    auto_inc,
    btree,
    default,
    every,
    hash_index,
    i64,
    replace,
    select,
    u8,
    u16,
    u32,
    u64,
    u256,
)
from spacetimedb.schema.raw import decode_raw, encode_raw
from spacetimedb.schema.raw_structs import RawBTree, RawDefault, RawHash, RawModuleDefV10
from spacetimedb.schema.validation import validate
from spacetimedb.types import algebraic as t
from spacetimedb.types.algebraic import AlgebraicType, Ref, option, product, sum_of
from spacetimedb.types.bsatn import codec
from spacetimedb.types.shapes import EnumShape, FieldShape, ProductShape, Scalar, SumShape
from spacetimedb.types.special import ConnectionId, TimeDuration

BSATN = Path(__file__).parents[1] / "vectors" / "bsatn"

m = Module()


def btree_over(*columns: int) -> RawBTree:
    return RawBTree(columns)


def hash_over(*columns: int) -> RawHash:
    return RawHash(columns)


class Color(IntEnum):
    Red = 0
    DarkBlue = 1


class Box(Struct):
    w: float
    h: float


class Circle(Variant[float]): ...


class Nothing(Unit): ...


Shape: TypeAlias = Annotated[Circle | Box | Nothing, Sum("Shape")]


@m.table(public=True, indexes=[hash_index("teamId", "color", name="team_color")])
class Player(Row):
    ident: Pk[Identity]
    teamId: Index[u16] = default(7)
    score: u64 = auto_inc()
    nick: Unique[str]
    color: HashIndex[Color] = default(Color.DarkBlue)
    shapes: list[Shape] = []
    conn: ConnectionId | None = None
    big: u256 = 0
    from_: bytes = b""
    byTeam = btree("teamId", "nick")


benched = m.add_table(Player, name="benched")


@m.table(event=True)
class Chat(Row):
    sender: Identity
    text: str


@m.table
class Slot(Row, frozen=True):
    slot: DirectIndex[u8]


@m.table(name="oneU8")
class Ticker(Schedule):
    note: str = ""


class Badge(Struct):
    name: str


@m.init
def start(ctx: ReducerContext) -> None: ...


@m.reducer
def setName(ctx: ReducerContext, nick: str, from_: Shape) -> None: ...


@m.reducer(name="rename_it", private=True)
def other(ctx: ReducerContext) -> None: ...


@m.reducer(on_schedule=Ticker)
def tick(ctx: ReducerContext, row: Ticker) -> None: ...


@m.procedure
def double(ctx: ProcedureContext, n: u32) -> u64 | None:
    return 2 * n


@m.procedure
def quiet(ctx: ProcedureContext) -> None: ...


@m.view(primary_key="nick")
def top(ctx: AnonymousViewContext) -> list[Player]:
    return []


@m.view
def mine(ctx: ViewContext) -> Badge | None:
    return None


@m.view
def low(ctx: AnonymousViewContext) -> Query[Player]:
    return Player.teamId < 3


@m.http.get("/x")
@m.http.any("")
def handler(ctx: HttpContext, req: Request) -> Response:
    return Response("")


m.row_filter("SELECT * FROM player WHERE ident = :sender")


@pytest.fixture(scope="module")
def raw() -> RawModuleDefV10:
    return m.describe()


def test_types(raw: RawModuleDefV10) -> None:
    """A class is one named type; the type of what is met first stands before the types inside it."""
    names = {r.source_name.source_name: r.ty for r in raw.types}
    assert names == {"Player": 0, "Color": 1, "Shape": 2, "Box": 3, "Chat": 4, "Slot": 5, "Ticker": 6, "Badge": 7}
    assert all(r.custom_ordering for r in raw.types)
    columns: dict[str, AlgebraicType] = {
        "ident": t.IDENTITY,
        "teamId": t.U16,
        "score": t.U64,
        "nick": t.STRING,
        "color": Ref(1),
        "shapes": t.Array(Ref(2)),
        "conn": option(t.CONNECTION_ID),
        "big": t.U256,
        "from": t.BYTES,
    }
    assert raw.typespace[0] == product(**columns)
    assert raw.typespace[1] == sum_of(Red=t.UNIT, DarkBlue=t.UNIT)
    assert raw.typespace[2] == sum_of(Circle=t.F64, Box=Ref(3), Nothing=t.UNIT)
    assert raw.typespace[6] == product(scheduled_id=t.U64, scheduled_at=t.SCHEDULE_AT, note=t.STRING)


def test_tables(raw: RawModuleDefV10) -> None:
    player, second, chat, slot, ticker = raw.tables
    assert [x.source_name for x in raw.tables] == ["player", "benched", "chat", "slot", "ticker"]
    assert (player.product_type_ref, second.product_type_ref) == (0, 0)
    assert player.primary_key == (0,)
    assert [(i.source_name, i.accessor_name, i.algorithm) for i in player.indexes] == [
        ("player_ident_idx_btree", "ident", btree_over(0)),
        ("player_teamId_idx_btree", "teamId", btree_over(1)),
        ("player_nick_idx_btree", "nick", btree_over(3)),
        ("player_color_idx_hash", "color", hash_over(4)),
        ("player_teamId_nick_idx_btree", "byTeam", btree_over(1, 3)),
        ("player_teamId_color_idx_hash", "team_color", hash_over(1, 4)),
    ]
    assert [c.data.columns for c in player.constraints] == [(0,), (3,)]
    assert [s.column for s in player.sequences] == [2]
    assert [(d.col_id, d.value) for d in player.default_values] == [
        (1, b"\7\0"),
        (4, b"\1"),
        (5, bytes(4)),
        (6, b"\1"),
        (7, bytes(32)),
        (8, bytes(4)),
    ]
    assert [i.accessor_name for i in second.indexes][-1] == "byTeam"  # indexes=[...] belong to one table
    assert (chat.is_event, player.is_event) == (True, False)
    assert [c.data.columns for c in slot.constraints] == [(0,)]
    assert slot.primary_key == ()
    assert ticker.default_values == (RawDefault(2, bytes(4)),)


def test_functions(raw: RawModuleDefV10) -> None:
    assert [(r.source_name, r.visibility.name) for r in raw.reducers] == [
        ("start", "PRIVATE"),
        ("setName", "CLIENT_CALLABLE"),
        ("rename_it", "PRIVATE"),
        ("tick", "PRIVATE"),
    ]
    assert raw.reducers[1].params == t.Product((t.ProductElement("nick", t.STRING), t.ProductElement("from", Ref(2))))
    assert [(p.source_name, p.return_type) for p in raw.procedures] == [("double", option(t.U64)), ("quiet", t.UNIT)]
    assert [(v.source_name, v.index, v.is_anonymous, v.return_type) for v in raw.views] == [
        ("top", 0, True, t.Array(Ref(0))),
        ("mine", 0, False, option(Ref(7))),
        ("low", 1, True, t.query_of(Ref(0))),
    ]
    assert [(k.view_source_name, k.columns) for k in raw.view_primary_keys] == [("top", ("nick",))]
    assert [(s.table_name, s.schedule_at_col, s.function_name) for s in raw.schedules] == [("ticker", 1, "tick")]
    assert [(x.lifecycle_spec.name, x.function_name) for x in raw.lifecycle_reducers] == [("INIT", "start")]
    assert [h.source_name for h in raw.http_handlers] == ["handler"]
    assert [(r.method and r.method.name, r.path) for r in raw.http_routes] == [(None, ""), ("Get", "/x")]
    assert [r.sql for r in raw.row_level_security] == ["SELECT * FROM player WHERE ident = :sender"]
    assert {(e.kind, e.source_name, e.canonical_name) for e in raw.explicit_names} == {
        ("Table", "benched", "benched"),
        ("Table", "ticker", "oneU8"),
        ("Function", "rename_it", "rename_it"),
    }


def test_the_definition_is_valid_and_survives_encoding(raw: RawModuleDefV10) -> None:
    assert decode_raw(encode_raw(raw)) == raw
    definition = validate(raw)
    by_source = {table.accessor_name: table for table in definition.tables}
    for spec in m.tables:
        table = by_source[spec.source_name]
        assert spec.name == table.name
        assert [c.name for c in spec.columns] == [c.name for c in table.columns]
        assert [f.name for f in spec.shape.fields] == [c.name for c in table.columns]
        assert spec.primary_key == table.primary_key
    assert [r.name for r in m.reducers] == [r.name for r in definition.reducers]
    assert [v.name for v in m.views] == [v.name for v in definition.views]


def test_shapes_carry_canonical_names_and_classes() -> None:
    player = m.tables[0]
    assert [f.attr for f in player.shape.fields][-1] == "from_"
    assert [f.name for f in player.shape.fields][1] == "team_id"
    shapes = {c.attr: c.shape for c in player.columns}
    assert shapes["color"] == EnumShape(Color, ("red", "darkBlue"))
    inner = shapes["shapes"].element  # type: ignore[union-attr]
    assert isinstance(inner, SumShape)
    assert [(v.name, v.cls, v.kind) for v in inner.variants] == [
        ("circle", Circle, "value"),
        ("box", Box, "product"),
        ("nothing", Nothing, "unit"),
    ]
    assert m.reducers[1].params.fields[1].name == "from"  # parameters keep the declared names
    row = Player(ident=Identity.ZERO, nick="x", shapes=[Circle(1.5), Box(2.0, h=3.0), Nothing()], big=2**200)
    encoded = codec(player.shape).encode(row)
    assert codec(player.shape).decode_exact(encoded) == row


def test_case_none_keeps_names() -> None:
    module = Module(case="none")

    @module.table()
    class PlayerScore(Row):
        maxValue: Pk[u32]

    @module.reducer
    def addScore(ctx: ReducerContext) -> None: ...

    definition = validate(module.describe())
    assert [(x.name, x.columns[0].name) for x in definition.tables] == [("player_score", "maxValue")]
    assert [r.name for r in definition.reducers] == ["addScore"] == [r.name for r in module.reducers]


def test_the_same_definition_as_another_binding() -> None:
    """The vector was made by the npm package for an equivalent module. It has types of reducer parameters besides."""
    module = Module()

    @module.table(public=True)
    class Person(Row):
        id: Pk[u32] = auto_inc()
        name: Index[str]
        age: u8 = default(18)

    @module.reducer
    def add(ctx: ReducerContext, name: str, age: u8) -> None: ...

    @module.reducer
    def sayHello(ctx: ReducerContext) -> None: ...

    @module.init
    def init(ctx: ReducerContext) -> None: ...

    @module.client_connected
    def onConnect(ctx: ReducerContext) -> None: ...

    @module.client_disconnected
    def onDisconnect(ctx: ReducerContext) -> None: ...

    vector = json.loads((BSATN / "moduledef_v10_basic.json").read_text())
    theirs = decode_raw(bytes.fromhex(vector["bsatn"]))
    assert isinstance(theirs, RawModuleDefV10)
    ours = module.describe()
    assert ours.tables == theirs.tables
    assert ours.types[0] == theirs.types[0]
    assert ours.typespace[0] == theirs.typespace[0]
    assert ours.lifecycle_reducers == theirs.lifecycle_reducers
    assert [(r.source_name, r.params) for r in ours.reducers] == [(r.source_name, r.params) for r in theirs.reducers]
    assert validate(ours).reducers == validate(theirs).reducers


def test_every_makes_a_schedule() -> None:
    module = Module()
    ran: list[object] = []

    @module.every(seconds=0.05)
    def moveAll(ctx: ReducerContext) -> None:
        ran.append(ctx)

    definition = validate(module.describe())
    (table,) = definition.tables
    assert table.name == "move_all_timer"
    assert table.schedule is not None
    assert table.schedule.function_name == "move_all"
    assert module.repeats[0].interval == TimeDuration.millis(50)
    (spec,) = module.reducers
    spec.function("context", "row")
    assert ran == ["context"]


def test_annotations_as_text_and_names_that_come_later() -> None:
    module = Module()

    @module.table()
    class Holder(Row):
        later: Later

    class Later(Struct):
        v: u8

    @module.reducer
    def put(ctx: ReducerContext, holder: Holder, later: Annotated[Circle | Nothing, Sum("Local")]) -> None: ...

    Holder.__declaration__.local_names = {"Later": Later}  # in a function names must exist when the class is made
    assert module.tables[0].columns[0].shape == ProductShape(Later, (FieldShape("v", "v", Scalar("u8")),))
    assert [f.name for f in module.reducers[0].params.fields] == ["holder", "later"]


def test_rows_are_plain_slots() -> None:
    row = Player(ident=Identity.ZERO, nick="a")
    assert (row.teamId, row.score, row.color, row.shapes, row.from_) == (7, 0, Color.DarkBlue, [], b"")
    row.shapes.append(Nothing())
    assert Player(ident=Identity.ZERO, nick="a").shapes == []
    assert not gc.is_tracked(row)
    assert row == replace(row, teamId=7)
    assert replace(row, teamId=8) != row
    assert row.__copy__() == row
    with pytest.raises(TypeError):
        Player(Identity.ZERO)  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        Slot(slot=1).slot = 2  # type: ignore[misc]
    assert Slot(slot=1) in {Slot(slot=1)}
    assert Box(1.0, 2.0) == Box(w=1.0, h=2.0)
    assert Ticker(scheduled_at=every(50)).scheduled_id == 0


def test_columns_may_have_the_names_of_table_methods() -> None:
    module = Module()

    @module.table()
    class Tally(Row):
        name: Pk[str]
        count: u32
        insert: u8 = 0

    assert Tally(name="x", count=3).count == 3
    assert (Tally.count < 3).sql == 'SELECT * FROM "tally" WHERE ("tally"."count" < 3)'  # type: ignore[attr-defined, operator]


def test_a_row_class_is_no_table_handle() -> None:
    row = Player(ident=Identity.ZERO, nick="a")
    with pytest.raises(TypeError, match=r"ctx\.db\[Player\]\.insert"):
        Player.insert(row)
    with pytest.raises(AttributeError, match=r"ctx\.db\[Table\]\.ident\.find"):
        Player.ident.find(Identity.ZERO)


def test_queries() -> None:
    assert low(AnonymousViewContext({}, None)).sql == 'SELECT * FROM "player" WHERE ("player"."teamId" < 3)'  # type: ignore[arg-type]
    assert select(Chat).sql == 'SELECT * FROM "chat"'
    both = (Player.nick == "it's") & (Player.teamId >= 2)
    assert both.sql == """SELECT * FROM "player" WHERE (("player"."nick" = 'it''s') AND ("player"."teamId" >= 2))"""
    assert (both | (Player.teamId != 3)).sql.count("OR") == 1
    assert (select(Player) & both).sql == both.sql
    assert (benched.nick == "x").sql == """SELECT * FROM "benched" WHERE ("benched"."nick" = 'x')"""
    joined = Player.teamId.semijoin(benched.teamId, benched.nick > "m")
    assert joined.sql == (
        'SELECT "player".* FROM "player" JOIN "benched" ON "player"."teamId" = "benched"."teamId" '
        """WHERE ("benched"."nick" > 'm')"""
    )
    with pytest.raises(TypeError, match="no truth value"):
        bool(both)
    with pytest.raises(TypeError, match="different tables"):
        both & (Slot.slot == 3)  # type: ignore[operator]
    with pytest.raises(TypeError, match="cannot be compared"):
        Player.color == Color.Red  # noqa: B015


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "TRUE"),
        (-5, "-5"),
        (1.5, "1.5"),
        ("a'b", "'a''b'"),
        (b"\x01\xff", "0x01ff"),
        (Identity.from_int(255), "0x" + "0" * 62 + "ff"),
        (ConnectionId.from_int(1), "0x" + "0" * 31 + "1"),
        (Uuid.from_int(1), "0x" + "0" * 31 + "1"),
        (Timestamp(1_000), "'1970-01-01T00:00:00.001000Z'"),
        (Timestamp(-1), "'1969-12-31T23:59:59.999999Z'"),
    ],
)
def test_literals(value: object, text: str) -> None:
    assert (Player.nick == value).sql.endswith(f"= {text})")  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", [None, [1], TimeDuration(1), float("nan"), Color.Red, every(5)])
def test_what_is_no_literal(value: object) -> None:
    with pytest.raises(TypeError, match="cannot be compared"):
        Player.nick == value  # noqa: B015


def test_a_class_that_is_no_table_has_no_query() -> None:
    class Loose(Row):
        x: Index[i64]

    with pytest.raises(TypeError, match="Loose is not a table"):
        (Loose.x < 3).sql  # noqa: B018
