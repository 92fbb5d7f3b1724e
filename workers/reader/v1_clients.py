"""Clients that speak v1: their subscriptions, and what commits and answers mean for them.

Below, everything is as for v2: each query that a client holds through Single or Multi is a query set of its own in the
link's `Subscriptions`, whatever the number of query ids that share it; the queries of the legacy Subscribe are together
the set LEGACY. Updates come as v2 makes them and are rewritten here, once for all clients of a form.
"""

from __future__ import annotations

from collections import deque
from itertools import chain
from time import perf_counter_ns
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from spacetimedb.hosts import mail
from spacetimedb.hosts.mail import Outcome
from spacetimedb.protocol import v1, v1_json, v2
from spacetimedb.protocol.v1 import Table, Value
from spacetimedb.sql.errors import SqlError
from spacetimedb.sql.explain import EXPLAIN_COLUMNS
from spacetimedb.subscriptions.large_rows import LargeRows
from spacetimedb.subscriptions.query_sets import QuerySetInUse, QuerySetUnknown
from spacetimedb.subscriptions.wire import NO_ROWS, string
from spacetimedb.types.algebraic import Product, ProductElement
from spacetimedb.types.json_arguments import ArgumentError
from spacetimedb.types.sats_json import row_to_json
from spacetimedb.workers.reader.catalog import DatabaseCatalog
from spacetimedb.workers.reader.client import MAX_UNANSWERED, OPEN, Client
from spacetimedb.workers.reader.large_answers import Part, answer_later, bytes_of, large_one_off
from spacetimedb.workers.reader.link_figures import MODULE_REFUSED
from spacetimedb.workers.reader.v1_large import Marked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from spacetimedb.sql.catalog import Catalog
    from spacetimedb.subscriptions.one_off import OneOff
    from spacetimedb.subscriptions.query import Query
    from spacetimedb.workers.reader.database_link import DatabaseLink

V1Part = bytes | Marked
"""SingleTableRows of v2, or what stands for them."""
_NO_STEPS: Final = iter(())
LEGACY: Final = 0
"""Query set of the legacy Subscribe; those of single queries count from 1."""
_BEFORE_EXECUTION: Final = frozenset({Outcome.NO_SUCH_REDUCER, Outcome.BAD_ARGUMENTS, Outcome.LIFECYCLE})
_OF_PROCEDURES: Final = frozenset(
    {Outcome.RETURNED, Outcome.PROCEDURE_FAILED, Outcome.NO_SUCH_PROCEDURE, Outcome.BAD_PROCEDURE_ARGUMENTS}
)


class _Call(NamedTuple):
    """A reducer call that is not answered yet."""

    info: v1.ReducerCall
    flags: int
    problem: str | None
    """What is wrong with its JSON arguments."""


class _ProcedureCall(NamedTuple):
    request_id: int
    name: str
    catalog: DatabaseCatalog
    """Of the program that was asked."""


class _Held:
    """A query that a client holds through Single or Multi: its query set, and how many query ids share it."""

    __slots__ = ("count", "set_id")

    def __init__(self, set_id: int) -> None:
        self.set_id = set_id
        self.count = 0


class V1Client(Client):
    """What a v1 client has beyond others."""

    __slots__ = ("calls", "has_legacy", "last_number", "procedures", "queries", "registered")

    form: ClassVar[v1.Form] = v1.Bsatn()
    parse = staticmethod(v1.parse)
    parse_text = staticmethod(v1_json.parse)
    pack = staticmethod(form.pack)
    first_kind: ClassVar[int] = 16

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.calls: deque[_Call] = deque()
        """In the order of their answers."""
        self.procedures: dict[int, _ProcedureCall] = {}
        """By the request id that the actor is given."""
        self.has_legacy = False
        self.queries: dict[int, list[Query]] = {}
        """By query id of Single and Multi."""
        self.registered: dict[tuple[object, ...], _Held] = {}
        """What it holds through Single or Multi, by the key of the query."""
        self.last_number = 0
        """Of a query set or a procedure call."""

    def next_number(self) -> int:
        self.last_number = self.last_number % 0xFFFFFFFF + 1
        return self.last_number


class V1JsonClient(V1Client):
    """A client that gets text."""

    __slots__ = ()

    form: ClassVar[v1.Form] = v1_json.Json()
    is_text: ClassVar[bool] = True
    pack = staticmethod(form.pack)
    first_kind: ClassVar[int] = 32


CLIENT_CLASSES: Final[dict[str, type[Client]]] = {v2.V1_BSATN: V1Client, v2.V1_JSON: V1JsonClient}
"""Subprotocols whose clients are of a class of their own."""


class V1Clients:
    """All v1 clients of a link."""

    def __init__(self, link: DatabaseLink) -> None:
        self.clients: dict[int, V1Client] = {}
        self._link = link
        self._tables: dict[bytes, Table] = {}
        """Tables that queries name, by name as BSATN string."""
        self._translated: tuple[bytes, dict[v1.Form, list[Value]]] = b"", {}
        """The latest update, and what it is in each form."""
        self._light: tuple[bytes, int, dict[v1.Form, bytes]] = b"", 0, {}

    def follow_catalog(self, catalog: Catalog) -> None:
        """Another program: rows of known tables may have grown. `catalog`: the owner's."""
        for name, table in self._tables.items():
            found = catalog.table(table.name)
            if found is not None and found.row_type != table.row_type:
                self._tables[name] = Table(table.table_id, table.name, found.row_type)

    # -- calls

    def call(self, client: V1Client, message: v1.CallReducer | v1.CallProcedure) -> None:
        """Sends a call to the actor."""
        if isinstance(message, v1.CallReducer):
            self._call_reducer(client, message)
        else:
            self._call_procedure(client, message)

    def _call_reducer(self, client: V1Client, message: v1.CallReducer) -> None:
        # By name: what the reducer's number is may change on the way.
        link, name, args = self._link, message.reducer, message.args
        catalog = link.catalog
        problem, detail, binary = None, mail.BY_NAME, b""
        if isinstance(args, bytes):
            binary = args
        else:
            reducer = catalog.reducers.get(name)
            if reducer is not None and reducer.lifecycle is None and (client.is_owner or not reducer.is_private):
                try:
                    binary = catalog.decoder("reducer", name).decode(args)
                except ArgumentError as error:
                    problem, detail = error.message("reducer"), mail.BAD_CALL
        shown = self._arguments(client, name, args, binary)
        info = v1.ReducerCall(name, catalog.reducer_ids.get(name, v1.UNKNOWN_REDUCER), shown, message.request_id)
        client.calls.append(_Call(info, message.flags, problem))
        client.pending_calls += 1
        body = mail.named(name, binary)
        link.outgoing.append(mail.request(mail.CALL, detail, client.number, message.request_id, body))

    def _arguments(self, client: V1Client, name: str, args: bytes | str, binary: bytes) -> bytes | str:
        """Arguments in the form of the client, which may have used the other one."""
        if not client.is_text:
            return binary
        if isinstance(args, str):
            return args
        reducer = self._link.catalog.reducers.get(name)
        if reducer is None:
            return "[]"
        try:
            return row_to_json(reducer.declared_params, typespace=self._link.catalog.definition.typespace_of(name))(
                args, 0
            )[0]
        except ValueError:  # they do not fit, as the actor will say
            return "[]"

    def _call_procedure(self, client: V1Client, message: v1.CallProcedure) -> None:
        link, name, args = self._link, message.procedure, message.args
        if len(client.procedures) >= MAX_UNANSWERED:
            link.lane.close(client, v2.TOO_MANY_REQUESTS_CLOSE, v2.TOO_MANY_REQUESTS)
            return
        if isinstance(args, str):
            text, args = args, b""
            if name in link.catalog.procedures:
                try:
                    args = link.catalog.decoder("procedure", name).decode(text)
                except ArgumentError:
                    status = v1.internal_error(f"invalid arguments for procedure {name}: .")
                    self._tell(client, v1.procedure_result(status, 0, 0, message.request_id))
                    return
        number = client.next_number()
        client.procedures[number] = _ProcedureCall(message.request_id, name, link.catalog)
        link.outgoing.append(mail.request(mail.PROCEDURE, 0, client.number, number, mail.named(name, args)))

    # -- commits and answers

    def spread(self, number: int, update: bytes, request_id: int, horizon: int) -> None:
        """An update, as v2 has it, for a client that is not the caller. `request_id`: the caller's."""
        client = self.clients[number]
        form = client.form
        if update is not self._light[0] or request_id != self._light[1]:
            self._light = update, request_id, {}
        encoded = self._light[2]
        if form not in encoded:
            encoded[form] = form.encode(v1.transaction_update_light(request_id, self._tables_of(update, form)))
        self._link.outbox.tell(client, encoded[form], horizon)

    def committed(self, number: int, update: bytes | None, timestamp: int, duration: int, horizon: int) -> None:
        """A client's call changed something, or nothing; `update` is its own part of it."""
        client = self.clients[number]
        call = client.calls.popleft()
        if call.flags != v1.NO_SUCCESS_NOTIFY:
            tables = [] if update is None else self._tables_of(update, client.form)
            self._tell_outcome(client, call.info, v1.committed(tables), timestamp, duration, horizon)
        elif update is not None:
            self.spread(number, update, call.info.request_id, horizon)
        self._answered(client)

    def answer(
        self, number: int, outcome: int, request_id: int, horizon: int, timestamp: int, duration: int, body: bytes
    ) -> None:
        """An ANSWER record for a v1 client."""
        client = self.clients[number]
        link = self._link
        if outcome == Outcome.CONNECTED:
            client.state = OPEN
            self._tell(client, v1.identity_token(client.identity, client.token, client.connection_id))
            link.requests.run_deferred(client)
        elif outcome == Outcome.REFUSED:
            link.lane.drop(client, MODULE_REFUSED)
        elif outcome in _OF_PROCEDURES:
            procedure = client.procedures.pop(request_id)
            if outcome == Outcome.RETURNED:
                value = procedure.catalog.result_to_json(procedure.name, body) if client.is_text else body
                status = v1.returned(value)
                self._tell(client, v1.procedure_result(status, timestamp, duration, procedure.request_id), horizon)
            else:
                self._tell(
                    client, v1.procedure_result(v1.internal_error(body.decode()), 0, 0, procedure.request_id), horizon
                )
        else:
            call = client.calls.popleft()
            if outcome in _BEFORE_EXECUTION:
                text = call.problem or _doubled(body.decode(), call.info.reducer_name, outcome)
                info = call.info._replace(args="[]" if client.is_text else b"", request_id=0)
                self._tell_outcome(client, info, v1.failed(text), timestamp, 0)
            elif call.flags != v1.NO_SUCCESS_NOTIFY:
                status = v1.OUT_OF_ENERGY if outcome == Outcome.OUT_OF_ENERGY else v1.failed(body.decode())
                self._tell_outcome(client, call.info, status, timestamp, duration)
            self._answered(client)

    def _answered(self, client: V1Client) -> None:
        client.pending_calls -= 1
        if client.deferred and not client.pending_calls and not client.waiting:
            self._link.requests.run_deferred(client)

    def _tables_of(self, update: bytes, form: v1.Form) -> list[Value]:
        if update is not self._translated[0]:
            self._translated = update, {}
        found = self._translated[1].get(form)
        if found is None:
            tables = self._tables
            found = self._translated[1][form] = [
                v1.table_update(form, tables[name], changes, True) for name, changes in v1.split_update(update).items()
            ]
        return found

    def _tell(self, client: V1Client, message: Value, horizon: int = 0) -> None:
        self._link.outbox.tell(client, client.form.encode(message), horizon)

    def _tell_outcome(
        self, client: V1Client, call: v1.ReducerCall, status: Value, timestamp: int, duration: int, horizon: int = 0
    ) -> None:
        message = v1.transaction_update(status, timestamp, client.identity, client.connection_id, call, duration)
        self._tell(client, message, horizon)

    # -- subscriptions

    def execute(self, client: V1Client, message: v1.ClientMessage) -> bool:
        """Everything but calls, at the present place of the ring. False: tables must come first."""
        started = perf_counter_ns()

        def took() -> int:
            return (perf_counter_ns() - started) // 1000

        match message:
            case v1.OneOffQuery():
                return self._one_off(client, message, took)
            case v1.Subscribe(_, _, request_id):
                query_id = None
            case _:
                request_id, query_id = message.request_id, getattr(message, "query_id", None)
        try:
            match message:
                case v1.Subscribe(_, texts):
                    return self._subscribe_legacy(client, texts, request_id, took)
                case v1.SubscribeSingle(_, text, _, number):
                    return self._subscribe(client, [text], request_id, number, True, took)
                case v1.SubscribeMulti(_, texts, _, number):
                    return self._subscribe(client, texts, request_id, number, False, took)
                case v1.Unsubscribe(_, _, number):
                    return self._unsubscribe(client, request_id, number, True, took)
                case v1.UnsubscribeMulti(_, _, number):
                    return self._unsubscribe(client, request_id, number, False, took)
        except QuerySetInUse:
            problem = self._link.requests.set_in_use(client, query_id or 0)
        except QuerySetUnknown:
            problem = self._link.requests.set_unknown(client, query_id or 0)
        except SqlError as error:
            problem = str(error)
        self._tell(client, v1.subscription_error(took(), request_id, query_id, problem))
        return True

    def _one_off(self, client: V1Client, message: v1.OneOffQuery, took: Callable[[], int]) -> bool:
        link = self._link

        def answer(error: str | None, tables: list[Value]) -> Value:
            return v1.one_off_response(message.message_id, error, tables, took())

        try:
            query = link.requests.one_off(client, message.query_string)
            if query is None:
                return False
            of_table = _result_of(query)
            later = large_one_off(link, query)
            part = link.requests.one_off_rows(client, query) if later is None else b""
        except SqlError as problem:
            self._tell(client, answer(str(problem), []))
            return True
        if later is None:
            self._tell(client, answer(None, [self._one_off_rows(client, of_table, part)]), link.position_horizon)
            return True
        marked = [Marked(large, of_table, client.is_text) for large in later.larges]

        def value() -> Value:
            try:
                found = marked[0] if marked else b"".join(bytes_of(later.parts()))
                return answer(None, [self._one_off_rows(client, of_table, found)])
            except SqlError as problem:
                return answer(str(problem), [])

        self._answer(client, marked, value, later.steps)
        return True

    def _one_off_rows(self, client: V1Client, table: Table, part: V1Part) -> Value:
        if isinstance(part, Marked):
            return table.name, client.form.rows(part.table, part.rows)
        return table.name, client.form.rows(table, v1.split_rows(part)[1])

    def _subscribe_legacy(self, client: V1Client, texts: list[str], request_id: int, took: Callable[[], int]) -> bool:
        link = self._link
        queries = link.requests.queries(client, texts)
        if queries is None:
            return False
        if client.has_legacy:
            link.subscriptions.unsubscribe(client.number, LEGACY, False)
        client.has_legacy = True
        self._note_tables(queries)
        parts = self._parts(client, link.subscriptions.begin(client.number, LEGACY, queries, link.tables.snapshot))

        def value() -> Value:
            return v1.initial_subscription([self._table(client, [p], False) for p in parts], request_id, took())

        self._answer(client, parts, value)
        link.tables.forget_unused()
        return True

    def _subscribe(
        self,
        client: V1Client,
        texts: list[str],
        request_id: int,
        query_id: int,
        is_single: bool,
        took: Callable[[], int],
    ) -> bool:
        link = self._link
        if query_id in client.queries:
            raise QuerySetInUse
        queries = link.requests.queries(client, texts)
        if queries is None:
            return False
        if any(plan.table.is_event for query in queries for plan in query.plans):
            raise SqlError(v1.EVENTS_NEED_V2)
        if is_single and len(queries) != 1:
            raise SqlError(f"SELECT * FROM * is not supported here, executing: `{texts[0]}`")
        self._note_tables(queries)
        client.queries[query_id] = queries
        every: list[V1Part] = []
        for query in queries:
            held = client.registered.get(query.key)
            is_new = held is None
            if held is None:
                held = client.registered[query.key] = _Held(client.next_number())
            elif is_single:  # its rows come with a new registration
                link.subscriptions.unsubscribe(client.number, held.set_id, False)
                is_new = True
            if is_new:
                found = link.subscriptions.begin(client.number, held.set_id, [query], link.tables.snapshot)
                every += self._parts(client, found)
            held.count += 1

        def value() -> Value:
            if is_single:
                table = self._table(client, every, False, queries[0])
                return v1.subscribe_applied(request_id, took(), query_id, table)
            tables = [self._table(client, [part], False) for part in every]
            return v1.multi_applied(request_id, took(), query_id, tables)

        self._answer(client, every, value)
        return True

    def _unsubscribe(
        self, client: V1Client, request_id: int, query_id: int, is_single: bool, took: Callable[[], int]
    ) -> bool:
        link = self._link
        queries = client.queries.get(query_id)
        if queries is None:
            raise QuerySetUnknown
        dropped = [query for query in queries if client.registered[query.key].count == 1]
        if not link.requests.have_rows(client, dropped):
            return False
        del client.queries[query_id]
        every: list[V1Part] = []
        for query in queries:
            held = client.registered[query.key]
            held.count -= 1
            if not held.count:
                del client.registered[query.key]
                every += self._parts(client, link.subscriptions.end(client.number, held.set_id, link.tables.snapshot))
        if is_single and len(dropped) != 1:
            link.tables.forget_unused()
            raise SqlError("Internal error")  # as clients of v1 know it

        def value() -> Value:
            if is_single:
                table = self._table(client, every, True, queries[0])
                return v1.subscribe_applied(request_id, took(), query_id, table, True)
            tables = [self._table(client, [part], True) for part in every]
            return v1.multi_applied(request_id, took(), query_id, tables, True)

        self._answer(client, every, value)
        link.tables.forget_unused()
        return True

    def _parts(self, client: V1Client, parts: Iterable[Part]) -> list[V1Part]:
        """SingleTableRows of known tables, markers for those that are still to be gathered."""
        return [
            Marked(part, self._tables[part.parts[0]], client.is_text) if isinstance(part, LargeRows) else part
            for part in parts
        ]

    def _answer(
        self, client: V1Client, parts: Sequence[V1Part], value: Callable[[], Value], steps: Iterator[None] = _NO_STEPS
    ) -> None:
        """Sends a message, at once or, if there are markers or steps, when all is gathered."""
        marked = [part for part in parts if isinstance(part, Marked)]
        if not marked and steps is _NO_STEPS:
            self._tell(client, value(), self._link.position_horizon)
            return

        def message() -> list[bytes]:
            out = [client.form.encode(value())]
            for one in marked:
                out = one.put_into(out)
            return out

        everything = chain(steps, *(one.steps for one in marked))
        answer_later(self._link, client, [one.large for one in marked], everything, message)

    def _note_tables(self, queries: Iterable[Query]) -> None:
        """Remembers the tables that updates and rows of these queries name."""
        for query in queries:
            for plan in query.plans:
                table, name = plan.table, string(plan.table.name)
                known = self._tables.get(name)
                if known is None or known.row_type is not table.row_type or known.table_id != table.table_id:
                    self._tables[name] = Table(table.table_id, table.name, table.row_type)

    def _table(self, client: V1Client, parts: Sequence[V1Part], is_end: bool, query: Query | None = None) -> Value:
        """TableUpdate of SingleTableRows of one table, that of the query; `is_end`: deletes, the subscription ends."""
        if query is not None:
            table = self._tables[string(query.plans[0].table.name)]
        else:
            (part,) = parts
            table = self._tables[part.name if isinstance(part, Marked) else v1.split_rows(part)[0]]
        count, updates = 0, []
        for part in parts or [string(table.name) + NO_ROWS]:
            if isinstance(part, Marked):
                shown, rows = part.table, part.rows
                count += part.large.count
            else:
                shown, rows = table, v1.split_rows(part)[1]
                count += v1.row_count(rows)
            deletes, inserts = (rows, NO_ROWS) if is_end else (NO_ROWS, rows)
            updates.append(client.form.query_update(shown, deletes, inserts, False))
        return table.table_id, table.name, count, updates


def _result_of(query: OneOff) -> Table:
    """The result of a query as a table; it need not have the rows of the table that it is named after."""
    table, columns = query.plan.table, query.plan.columns if query.explained is None else EXPLAIN_COLUMNS
    elements = tuple(ProductElement(column.name, column.algebraic_type) for column in columns)
    return Table(table.table_id, table.name, Product(elements))


def _doubled(text: str, name: str, outcome: int) -> str:
    """Texts about arguments repeat themselves in v1."""
    if outcome != Outcome.BAD_ARGUMENTS:
        return text
    start = f"invalid arguments for reducer {name}: "
    detail = text.removeprefix(start)
    return f"{start}{detail}: invalid arguments for function {name}: {detail}: {detail}"
