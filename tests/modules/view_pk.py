"""Port of upstream's module `sdk-test-view-pk`: views that return a query keep the table's primary key."""

from spacetimedb import Index, Module, Pk, Query, ReducerContext, Row, ViewContext, select, u64

m = Module()


@m.table(public=True)
class ViewPkPlayer(Row):
    id: Pk[u64]
    name: str


@m.table(public=True)
class ViewPkMembership(Row):
    id: Pk[u64]
    player_id: Index[u64]


@m.table(public=True)
class ViewPkMembershipSecondary(Row):
    id: Pk[u64]
    player_id: Index[u64]


@m.reducer
def insert_view_pk_player(ctx: ReducerContext, id: u64, name: str) -> None:
    ctx.db[ViewPkPlayer].insert(ViewPkPlayer(id=id, name=name))


@m.reducer
def update_view_pk_player(ctx: ReducerContext, id: u64, name: str) -> None:
    ctx.db[ViewPkPlayer].id.update(ViewPkPlayer(id=id, name=name))


@m.reducer
def insert_view_pk_membership(ctx: ReducerContext, id: u64, player_id: u64) -> None:
    ctx.db[ViewPkMembership].insert(ViewPkMembership(id=id, player_id=player_id))


@m.reducer
def insert_view_pk_membership_secondary(ctx: ReducerContext, id: u64, player_id: u64) -> None:
    ctx.db[ViewPkMembershipSecondary].insert(ViewPkMembershipSecondary(id=id, player_id=player_id))


@m.view
def all_view_pk_players(ctx: ViewContext) -> Query[ViewPkPlayer]:
    return select(ViewPkPlayer)


@m.view
def sender_view_pk_players_a(ctx: ViewContext) -> Query[ViewPkPlayer]:
    return ViewPkPlayer.id.semijoin(ViewPkMembership.player_id)


@m.view
def sender_view_pk_players_b(ctx: ViewContext) -> Query[ViewPkPlayer]:
    return ViewPkPlayer.id.semijoin(ViewPkMembershipSecondary.player_id)
