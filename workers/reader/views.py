"""Views over a database's link: how a reader asks the actor for instances, and waits for them (see
`subscriptions.view_instances`)."""

from __future__ import annotations

import os
from struct import Struct as Layout
from typing import TYPE_CHECKING, Final

import trio

from spacetimedb.hosts import mail
from spacetimedb.sql.plan import ExplainPlan, SelectPlan, plan_sql
from spacetimedb.subscriptions.view_instances import ViewInstances
from spacetimedb.workers.reader.live_rows import LiveRows
from spacetimedb.workers.reader.waiter import DatabaseGone

if TYPE_CHECKING:
    from spacetimedb.sql.catalog import ViewKey
    from spacetimedb.types.special import Identity
    from spacetimedb.workers.reader.database_link import DatabaseLink

_U32: Final = Layout("<I")


def instances_of(link: DatabaseLink) -> ViewInstances:
    """The instances that the link's queries use; requests go out with its mail."""

    def request(number: int, key: ViewKey) -> None:
        name, sender = key
        link.outgoing.append(mail.request(mail.VIEW, 0, 0, number, mail.named(name, bytes(sender or b""))))
        link.post()

    def unused(table_id: int) -> None:
        if not link.down:
            link.outgoing.append(mail.request(mail.VIEW_UNUSED, 0, 0, 0, _U32.pack(table_id)))

    return ViewInstances(request, unused, int.from_bytes(os.urandom(4), "little"))


def follow_ready(link: DatabaseLink, record: bytes) -> None:
    """A VIEW_READY record of the ring, perhaps another reader's."""
    _length, _kind, padding, reader, number, table_id, block = mail.VIEW_READY_HEAD.unpack_from(record)
    if reader != link.reader or not link.views.expects(number):
        return
    if table_id:
        link.tables.known[table_id] = LiveRows(link.heap, link.heap.row(block))
        link.views.came(number, table_id)
    else:
        text = record[mail.VIEW_READY_HEAD.size : len(record) - padding].decode()
        link.views.failed(number, text)
    link.tables.forget_unused()


async def plan_over_views(link: DatabaseLink, text: str, caller: Identity, is_owner: bool, user: int) -> SelectPlan:
    """The plan of a SELECT whose views are there, pinned for `user`. Raises SqlError, DatabaseGone."""
    while True:
        if link.down:
            raise DatabaseGone
        catalog = link.views.catalog(link.catalog.for_caller(caller), caller)
        plan = plan_sql(text, catalog, caller, is_owner)
        if isinstance(plan, ExplainPlan):
            plan = plan.plan
        assert isinstance(plan, SelectPlan)
        event = trio.Event()
        if link.views.want(user, catalog, event.set):
            return plan
        await event.wait()
