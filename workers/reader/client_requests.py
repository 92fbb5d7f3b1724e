"""Messages of v2 and v3 clients in their turn: calls go to the actor, the rest is executed at a place of the ring.

A Subscribe waits until the client's earlier calls are answered, and until the rows, views and indexes that it needs are
here; what the client sent behind it waits with it.
"""

from __future__ import annotations

import time
import traceback
from typing import TYPE_CHECKING, Final

from spacetimedb.hosts import mail
from spacetimedb.memory.ring import ReaderDropped
from spacetimedb.protocol import v1, v2
from spacetimedb.schema.system_tables import ST_VAR_ID
from spacetimedb.sql.errors import SqlError
from spacetimedb.subscriptions.large_rows import LargeRows
from spacetimedb.subscriptions.query_sets import QuerySetInUse, QuerySetUnknown
from spacetimedb.workers.reader.client import CONNECTING, OPEN, Client, Message
from spacetimedb.workers.reader.large_answers import (
    Part,
    answer_later,
    build_indexes,
    bytes_of,
    large_one_off,
    page_of,
    result_of_page,
)
from spacetimedb.workers.reader.row_limit import check_plan, check_queries, row_limit
from spacetimedb.workers.reader.v1_clients import V1Client

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from spacetimedb.sql.catalog import CallerCatalog
    from spacetimedb.subscriptions.costs import QueryCost
    from spacetimedb.subscriptions.one_off import OneOff
    from spacetimedb.subscriptions.query import Query
    from spacetimedb.workers.reader.database_link import DatabaseLink
    from spacetimedb.workers.reader.lookups import Page

MAX_LOOK_UPS: Final = 8
"""Look-ups for one message, because the rows that a join starts from have changed meanwhile; then it needs the tables.
"""
CALLS: Final = frozenset({v2.CALL_REDUCER, v2.CALL_PROCEDURE, v1.CALL_REDUCER, v1.CALL_PROCEDURE})


class ClientRequests:
    """What the clients of one link ask for."""

    def __init__(self, link: DatabaseLink) -> None:
        self._link = link

    def receive(self, client: Client, messages: Iterable[Message]) -> None:
        """Messages of a client, in order. Calls go out with the next `post`; the rest is executed in its turn."""
        reducer_ids, generation = self._link.catalog.reducer_ids, self._link.catalog.generation_bits
        outgoing, number, head = self._link.outgoing, client.number, mail.REQUEST_HEAD.pack
        for message in messages:
            if client.deferred or client.state == CONNECTING:
                client.deferred.append(message)
            elif message[0] == v2.CALL_REDUCER:
                _tag, request_id, name, args = message
                client.pending_calls += 1
                reducer_id = reducer_ids.get(name)
                if reducer_id is None:
                    outgoing.append(mail.request(mail.CALL, mail.BY_NAME, number, request_id, mail.named(name, args)))
                else:
                    padding = -len(args) & 7
                    record = head(
                        16 + len(args) + padding, mail.CALL, padding | generation, reducer_id, number, request_id
                    )
                    outgoing.append(record + args + mail.PADDING[padding])
            elif message[0] == v2.CALL_PROCEDURE:
                _tag, request_id, name, args = message
                outgoing.append(mail.request(mail.PROCEDURE, 0, number, request_id, mail.named(name, args)))
            elif message[0] == v1.CALL_REDUCER or message[0] == v1.CALL_PROCEDURE:
                assert isinstance(client, V1Client)
                self._link.v1.call(client, message)
            elif client.pending_calls:
                client.deferred.append(message)
            else:
                self._link.pump()
                if client.state != OPEN:
                    return
                if self._link.lookups.is_pausing:
                    client.deferred.append(message)
                    self._when_current(client)
                    continue
                if client.deferred or client.pending_calls or not self._execute(client, message):
                    client.deferred.append(message)

    def run_deferred(self, client: Client) -> None:
        """Executes what waited, as far as it can be, at the present place of the ring."""
        if self._link.lookups.is_pausing:
            self._when_current(client)
            return
        client.waiting = False
        deferred = client.deferred
        while deferred and client.state == OPEN:
            message = deferred[0]
            if message[0] in CALLS:
                deferred.popleft()
                rest, client.deferred = deferred, type(deferred)()
                self.receive(client, (message,))
                client.deferred = rest
                deferred = rest
            elif client.pending_calls or not self._execute(client, message):
                return
            elif deferred:  # not closed meanwhile
                deferred.popleft()

    def _when_current(self, client: Client) -> None:
        """Goes on with the client when the reader pauses no more."""
        client.waiting = True
        self._link.lookups.when_current(lambda: self.run_deferred(client))

    def _execute(self, client: Client, message: Message) -> bool:
        """Subscribe, Unsubscribe, OneOffQuery at the present place of the ring. False: tables must come first."""
        try:
            return self._try_to_execute(client, message)
        except ReaderDropped:
            raise
        except Exception:
            # A fault of ours that one client has found: it must not take the others with it.
            traceback.print_exc()
            self._link.lane.close(client, v2.DECODE_ERROR_CLOSE, "internal error")
            return True

    def _try_to_execute(self, client: Client, message: Message) -> bool:
        if message[0] == v2.SUBSCRIBE:
            is_done = self._subscribe(client, message)
        elif message[0] == v2.UNSUBSCRIBE:
            is_done = self._unsubscribe(client, message)
        elif message[0] == v2.ONE_OFF_QUERY:
            is_done = self._one_off(client, message)
        else:
            assert isinstance(message, v1.MESSAGES)
            assert isinstance(client, V1Client)
            is_done = self._link.v1.execute(client, message)
        if is_done:
            client.page = None
            if self._link.views.done(client.number):
                self._link.tables.forget_unused()
        return is_done

    def _subscribe(self, client: Client, message: v2.Subscribe) -> bool:
        link = self._link
        _tag, request_id, set_id, texts = message
        try:
            if link.subscriptions.has_set(client.number, set_id):
                raise QuerySetInUse
            queries = self.queries(client, texts)
            if queries is None:
                return False
            parts = link.subscriptions.begin(client.number, set_id, queries, link.tables.snapshot)
        except QuerySetInUse:
            link.outbox.tell(client, v2.subscription_error(request_id, set_id, self.set_in_use(client, set_id)))
        except SqlError as error:
            link.outbox.tell(client, v2.subscription_error(request_id, set_id, str(error)))
        else:
            head = v2.subscribe_applied_head(request_id, set_id, len(parts))
            self._answer(client, head, parts)
        return True

    def _unsubscribe(self, client: Client, message: v2.Unsubscribe) -> bool:
        link = self._link
        _tag, request_id, set_id, send_dropped = message
        try:
            if send_dropped and not self.have_rows(client, link.subscriptions.queries_of(client.number, set_id)):
                return False
            rows = None
            if send_dropped:
                rows = link.subscriptions.end(client.number, set_id, link.tables.snapshot)
            else:
                link.subscriptions.unsubscribe(client.number, set_id, False)
        except QuerySetUnknown:
            link.outbox.tell(client, v2.subscription_error(request_id, set_id, self.set_unknown(client, set_id)))
        else:
            self._answer(client, v2.unsubscribe_applied_head(request_id, set_id, rows), rows or ())
            link.lane.active.set()
            link.tables.forget_unused()
        return True

    def _answer(self, client: Client, head: bytes, parts: Sequence[Part]) -> None:
        """Sends SingleTableRows behind the head of a message, at once or as soon as they are gathered."""
        larges = [part for part in parts if isinstance(part, LargeRows)]
        if larges:
            answer_later(self._link, client, larges, iter(()), lambda: [head, *bytes_of(parts)])
        else:
            self._link.outbox.tell(client, b"".join([head, *bytes_of(parts)]), self._link.position_horizon)

    def _one_off(self, client: Client, message: v2.OneOffQuery) -> bool:
        _tag, request_id, text = message
        link = self._link
        try:
            query = self.one_off(client, text)
            if query is None:
                return False
            later = large_one_off(link, query)
            if later is None:
                rows = self.one_off_rows(client, query)
                link.outbox.tell(client, v2.one_off_ok(request_id, [rows]), link.position_horizon)
                return True
        except SqlError as error:
            link.outbox.tell(client, v2.one_off_err(request_id, str(error)))
            return True

        def answer() -> list[bytes]:
            try:
                return [v2.one_off_ok(request_id, [b""]), *bytes_of(later.parts())]
            except SqlError as error:
                return [v2.one_off_err(request_id, str(error))]

        answer_later(link, client, later.larges, later.steps, answer)
        return True

    def queries(self, client: Client, texts: Iterable[str]) -> list[Query] | None:
        """The queries of a Subscribe; None: tables must come first. Raises SqlError."""
        catalog = self._link.views.catalog(self._link.catalog.for_caller(client.identity), client.identity)
        started = time.perf_counter_ns()
        queries = self._link.subscriptions.compile_set(texts, client.identity, client.is_owner, catalog)
        self._link.figures.compiled(time.perf_counter_ns() - started)
        self._link.lane.active.set()
        if not self._have_views(client, catalog):
            return None
        may_look_up = True
        if not client.is_owner:
            if not self._link.tables.have(client, (ST_VAR_ID,)):
                return None
            may_look_up = row_limit(self._link) is None
        if not self.have_rows(client, queries, may_look_up):
            return None
        if not may_look_up:
            check_queries(self._link, queries)
        return queries

    def have_rows(self, client: Client, queries: Sequence[Query], may_look_up: bool = True) -> bool:
        """Whether the rows and indexes are here that the queries need to start, or to tell their rows; as
        `have_tables`. Without `may_look_up` whole tables are."""
        link = self._link
        may_look_up = may_look_up and client.looked_up < MAX_LOOK_UPS
        wanted = link.subscriptions.live.wanted(queries, may_look_up)
        tables = wanted.tables
        if not may_look_up:
            tables |= {table_id for query in queries for table_id in query.stored_tables}
        if not link.tables.have(client, tables):
            return False
        if wanted.keys:
            client.waiting = True
            client.looked_up += 1
            link.lookups.ask(wanted.keys, lambda: self.run_deferred(client))
            return False
        missing = link.subscriptions.missing_indexes(queries, may_look_up)
        if missing is not None:
            client.waiting = True
            build_indexes(link, *missing, lambda: self.run_deferred(client))
            return False
        client.looked_up = 0
        return True

    def one_off(self, client: Client, text: str) -> OneOff | None:
        """A query that can be answered now; None: something must come first. Raises SqlError."""
        link = self._link
        catalog = link.views.catalog(link.catalog.for_caller(client.identity), client.identity)
        query = link.subscriptions.compile_one_off(text, client.identity, client.is_owner, catalog)
        tables = query.stored_tables if client.is_owner else (*query.stored_tables, ST_VAR_ID)
        if not self._have_views(client, catalog) or not self._have_page(client, query):
            return None
        if query.answer is not None:
            return query
        if not link.tables.have(client, tables):
            return None
        if not client.is_owner:
            check_plan(link, query.plan)
        missing = link.subscriptions.missing_search_index(query.plan)
        if missing is not None:
            client.waiting = True
            build_indexes(link, *missing, lambda: self.run_deferred(client))
            return None
        if query.explained is not None and client.elsewhere is None:
            self._ask_elsewhere(client, query.explained)
            return None
        return query

    def _have_page(self, client: Client, query: OneOff) -> bool:
        """Whether a query that wants just a page of a large table has it, or has to do without; as `have_tables`."""
        link, lookups, table_id = self._link, self._link.lookups, query.plan.table.table_id
        asked = page_of(query.plan) if query.explained is None else None
        if asked is None or not lookups.can_page(table_id) or (not asked[1] and lookups.knows(table_id)):
            return True
        if not client.is_owner:
            if not link.tables.have(client, (ST_VAR_ID,)):
                return False
            if row_limit(link) is not None:
                return True
        if client.page is not None and client.page[:3] == (table_id, *asked):
            page = client.page[3]
            if page is not None:
                query.answer = result_of_page(query.plan, page.rows, page.count).rows
            return True

        def then(page: Page | None) -> None:
            client.page = table_id, *asked, page
            self.run_deferred(client)
            if page is not None:  # it is that of this place
                client.page = None

        client.waiting = True
        lookups.ask_page(table_id, *asked, then)
        return False

    def one_off_rows(self, client: Client, query: OneOff) -> bytes:
        """Its answer (SingleTableRows). Raises SqlError."""
        elsewhere, client.elsewhere = client.elsewhere or (), None
        rows = self._link.subscriptions.one_off_rows(query, elsewhere)
        self._link.tables.forget_unused()
        return rows

    def _ask_elsewhere(self, client: Client, text: str) -> None:
        """What the query costs other readers; the client goes on when they have said it."""

        def then(costs: list[QueryCost]) -> None:
            client.elsewhere = costs
            self.run_deferred(client)

        client.waiting = True
        self._link.costs.ask(text, client.is_owner, then)

    def set_in_use(self, client: Client, set_id: int) -> str:
        """The text for a query set id, or in v1 a query id, that the client has already."""
        return f"Subscription with id QuerySetId {{ id: {set_id} }} already exists for client: {_who(client)}"

    def set_unknown(self, client: Client, set_id: int) -> str:
        """The text for a query set, or in v1 a query, that the client does not have."""
        if self._link.subscriptions.has_client(client.number):
            return f"Subscription not found: ({_who(client)}, QuerySetId {{ id: {set_id} }})"
        return f"Client not found: {_who(client)}"

    def _have_views(self, client: Client, catalog: CallerCatalog) -> bool:
        """Whether all views named in the catalog are there; as `have_tables`. Raises SqlError if one failed."""
        client.waiting = not self._link.views.want(client.number, catalog, lambda: self.run_deferred(client))
        return not client.waiting


def _who(client: Client) -> str:
    """A client as upstream's texts name it."""
    return f"(Identity({client.identity.to_hex()}), ConnectionId({client.connection_id.to_hex()}))"
