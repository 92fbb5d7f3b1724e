"""Port of upstream's module `sdk-test-case-conversion`: names in every style, some given explicitly."""

from typing import Annotated, TypeAlias

from spacetimedb import (
    AnonymousViewContext,
    Col,
    Index,
    Module,
    Pk,
    Query,
    ReducerContext,
    Row,
    Struct,
    Sum,
    Unit,
    Variant,
    auto_inc,
    replace,
    u8,
    u32,
)

m = Module()


class Active1(Unit): ...


class BannedUntil(Variant[u32]): ...


Player2Status: TypeAlias = Annotated[Active1 | BannedUntil, Sum("Player2Status")]


class Person3Info(Struct):
    AgeValue1: u8
    ScoreTotal: u32


@m.table(public=True, name="Player1Canonical")
class Player1(Row):
    Player1Id: Pk[u32] = auto_inc()
    player_name: str
    currentLevel2: Col[u32]
    status3Field: Player2Status


@m.table(public=True)
class Person2(Row):
    Person2Id: Pk[u32] = auto_inc()
    FirstName: str
    playerRef: Index[u32]
    personInfo: Person3Info


@m.reducer
def CreatePlayer1(ctx: ReducerContext, Player1Name: str, Start2Level: u32) -> None:
    ctx.db[Player1].insert(Player1(player_name=Player1Name, currentLevel2=Start2Level, status3Field=Active1()))


@m.reducer
def AddPerson2(ctx: ReducerContext, First3Name: str, playerRef: u32, AgeValue: u8, ScoreTotal: u32) -> None:
    info = Person3Info(AgeValue, ScoreTotal)
    ctx.db[Person2].insert(Person2(FirstName=First3Name, playerRef=playerRef, personInfo=info))


@m.reducer(name="banPlayer1")
def BanPlayer1(ctx: ReducerContext, Player1Id: u32, BanUntil6: u32) -> None:
    player = ctx.db[Player1].Player1Id.find(Player1Id)
    if player is not None:
        ctx.db[Player1].Player1Id.update(replace(player, status3Field=BannedUntil(BanUntil6)))


@m.view(name="Level2Person")
def person_at_level_2(ctx: AnonymousViewContext) -> Query[Person2]:
    return Person2.playerRef.semijoin(Player1.Player1Id, Player1.currentLevel2 == 2)
