"""Random tables, rules, views and queries on a real server: after every transaction the rows that each client holds are
what the same query gives it now, for the owner and for others, over v1 and over v2.

Each caller has a v2, a v1.bsatn and a v1.json connection that subscribe to the same queries, some of them while
transactions run. A one-off query is answered behind all updates of the transactions it sees: it must give exactly what
the client holds by then, rows as often as they come up.
"""

from __future__ import annotations

import base64
import json
import struct
from collections import Counter
from itertools import count
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from server_process import ServerProcess
from session_client import SessionClient
from test_v1 import binary
from v1_view import V1Message

from spacetimedb.protocol import v2_client as v2

EXAMPLES = 4
OTHERS = 2
"""Callers beside the owner."""
PUT, DELETE = 0, 1
HEAD = """
import json
from spacetimedb import *
m = Module()
"""
REDUCER = """
@m.reducer
def change(ctx: ReducerContext, changes: str) -> None:
    tables = {TABLES}
    for name, is_delete, values in json.loads(changes):
        table = ctx.db[tables[name]]
        if is_delete:
            table.id.delete(values["id"])
        else:
            values["owner"] = Identity.from_hex(values["owner"])
            table.id.upsert(tables[name](**values))
"""
names = count()


class Column(NamedTuple):
    name: str
    annotation: str
    is_indexed: bool


class Table(NamedTuple):
    name: str
    columns: tuple[Column, ...]

    @property
    def class_name(self) -> str:
        return self.name.capitalize()

    def source(self) -> str:
        lines = [f"@m.table(public=True)\nclass {self.class_name}(Row):"]
        for column in self.columns:
            kind = f"Index[{column.annotation}]" if column.is_indexed else column.annotation
            lines.append(f"    {column.name}: {'Pk[u32]' if column.name == 'id' else kind}")
        return "\n".join(lines) + "\n"

    def indexed(self) -> list[str]:
        return [c.name for c in self.columns if c.is_indexed or c.name == "id"]


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "u32": st.integers(0, 5),
    "i16": st.integers(-2, 2),
    "bool": st.booleans(),
    "str": st.sampled_from(["", "a", "b'", "\u00e4"]),
    "float": st.sampled_from([0.0, 1.5, -1.5]),
}


@st.composite
def tables(draw: st.DrawFn, name: str) -> Table:
    kinds = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=3))
    columns = [Column(f"c{n}", kind, draw(st.booleans()) and kind != "float") for n, kind in enumerate(kinds)]
    columns += [Column("key", "u32", draw(st.booleans())), Column("owner", "Identity", draw(st.booleans()))]
    return Table(name, tuple(draw(st.permutations([Column("id", "u32", False), *columns]))))


@st.composite
def terms(draw: st.DrawFn, alias: str, table: Table, sender: bool = True) -> str:
    column = draw(st.sampled_from(table.columns))
    if column.annotation == "Identity":
        return f"{alias}.owner {draw(st.sampled_from(['=', '<>']))} :sender" if sender else f"{alias}.id < 4"
    value = draw(VALUES[column.annotation])
    operator = draw(st.sampled_from(["=", "=", "<>", "<", ">="]))
    text = "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value).lower()
    return f"{alias}.{column.name} {operator} {text}"


@st.composite
def conditions(draw: st.DrawFn, /, **tables_by_alias: Table) -> str:
    parts: list[str] = []
    for alias, table in tables_by_alias.items():
        if draw(st.booleans()):
            parts.append(draw(terms(alias, table)))
    if draw(st.booleans()) and parts:
        alias, table = draw(st.sampled_from(sorted(tables_by_alias.items())))
        parts[-1] = f"({parts[-1]} {draw(st.sampled_from(['OR', 'AND']))} NOT ({draw(terms(alias, table))}))"
    return " WHERE " + " AND ".join(parts) if parts else ""


@st.composite
def queries(draw: st.DrawFn, every: tuple[Table, ...], views: tuple[Table, ...] = ()) -> str:
    first = draw(st.sampled_from(every + views))
    if draw(st.booleans()):
        return f"SELECT * FROM {first.name} AS p{draw(conditions(p=first))}"
    second = draw(st.sampled_from(every))
    on = draw(st.sampled_from([c for c in second.indexed() if c in ("id", "key")]))
    mine = draw(st.sampled_from(["id", "key"]))
    condition = draw(conditions(p=first, q=second))
    returned = draw(st.sampled_from("pq"))
    return f"SELECT {returned}.* FROM {first.name} p JOIN {second.name} q ON p.{mine} = q.{on}{condition}"


@st.composite
def rules(draw: st.DrawFn, every: tuple[Table, ...]) -> list[str]:
    table, other = every
    choices = [
        f"SELECT * FROM {table.name} WHERE {table.name}.owner = :sender",
        f"SELECT * FROM {table.name} WHERE {draw(terms(table.name, table))}",
        f"SELECT {table.name}.* FROM {other.name} JOIN {table.name} ON {other.name}.key = {table.name}.id"
        f" WHERE {draw(terms(other.name, other))}",
    ]
    return draw(st.lists(st.sampled_from(choices), max_size=2, unique=True))


@st.composite
def views(draw: st.DrawFn, every: tuple[Table, ...]) -> tuple[str, tuple[Table, ...]]:
    """Source of some views, and each as the table that it looks like."""
    out, like = [], []
    for number in range(draw(st.integers(0, 2))):
        table = draw(st.sampled_from(every))
        row = table.class_name
        is_owned = draw(st.booleans())
        kind = "ViewContext" if is_owned else "AnonymousViewContext"
        chosen = "row.owner == ctx.sender" if is_owned else "row.key < 3"
        body = f"[row for row in ctx.db[{row}].iter() if {chosen}]"
        returns = f"list[{row}]"
        if not is_owned and draw(st.booleans()):
            returns, body = f"Query[{row}]", f"{row}.key < 3"
        elif not is_owned and draw(st.booleans()):
            body = f"[row for number in range(3) if (row := ctx.db[{row}].id.find(number)) is not None]"
        out.append(f"\n@m.view\ndef v{number}(ctx: {kind}) -> {returns}:\n    return {body}\n")
        like.append(Table(f"v{number}", table.columns))
    return "".join(out), tuple(like)


class Case(NamedTuple):
    tables: tuple[Table, ...]
    source: str
    queries: list[str]
    late: list[str]
    transactions: list[list[tuple[str, int, dict[str, Any]]]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    every = draw(tables("t")), draw(tables("u"))
    view_source, like = draw(views(every))
    both = draw(rules(every))
    classes = "{" + ", ".join(f'"{table.name}": {table.class_name}' for table in every) + "}"
    source = HEAD + "".join(table.source() for table in every) + REDUCER.replace("{TABLES}", classes) + view_source
    source += "".join(f"m.row_filter({rule!r})\n" for rule in both)
    change = st.sampled_from(every).flatmap(
        lambda table: st.tuples(
            st.just(table.name),
            st.sampled_from([PUT, PUT, PUT, DELETE]),
            st.fixed_dictionaries(
                {c.name: VALUES.get(c.annotation, st.integers(0, OTHERS)) for c in table.columns if c.name != "id"}
                | {"id": st.integers(0, 5)}
            ),
        )
    )
    some = st.lists(queries(every, like), min_size=2, max_size=4, unique=True)
    transactions = draw(st.lists(st.lists(change, min_size=1, max_size=5), min_size=3, max_size=5))
    first = draw(some)
    return Case(every, source, first, [text for text in draw(some) if text not in first], transactions)


class Holder:
    """One connection: the rows it holds by query, or all together in v1, as a bag."""

    def __init__(self, server: ServerProcess, database: str, protocol: str, token: str) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        self.client = SessionClient(server.base_url, database, [protocol], "compression=None&confirmed=false", headers)
        self.protocol = protocol
        self.client.receive()
        self.held: dict[str, Counter[Any]] = {}
        self.texts: dict[int, str] = {}

    def subscribe(self, number: int, text: str) -> bool:
        """False if the query is refused."""
        raise NotImplementedError

    def one_off(self, text: str) -> Counter[Any]:
        """What the query gives now; follows the updates before that."""
        raise NotImplementedError

    def check(self) -> None:
        raise NotImplementedError


class V2Holder(Holder):
    def take(self) -> Any:
        message = self.client.receive(30)
        if isinstance(message, v2.TransactionUpdate):
            self.follow(message.query_sets)
            return self.take()
        return message

    def follow(self, sets: Any) -> None:
        for update in sets:
            bag = self.held[self.texts[update.query_set_id]]
            for rows in (rows for table in update.tables for rows in table.rows):
                bag.update(rows.inserts.rows())
                bag.subtract(rows.deletes.rows())
            assert all(number >= 0 for number in bag.values())

    def subscribe(self, number: int, text: str) -> bool:
        self.client.send(v2.subscribe(number, number, [text]))
        answer = self.take()
        if isinstance(answer, v2.SubscriptionError):
            return False
        self.texts[number] = text
        self.held[text] = Counter(row for table in answer.tables for row in table.rows.rows())
        return True

    def one_off(self, text: str) -> Counter[Any]:
        self.client.send(v2.one_off_query(1, text))
        answer = self.take()
        assert answer.error is None, answer.error
        return Counter(answer.tables[0].rows.rows())

    def check(self) -> None:
        for text, bag in self.held.items():
            found = self.one_off(text)
            assert +bag == found, text


class V1Holder(Holder):
    def send(self, kind: str, **fields: Any) -> None:
        if self.protocol == "v1.json.spacetimedb":
            self.client.send_text(json.dumps({kind: fields}))
        else:
            if "message_id" in fields:
                fields["message_id"] = b""
            self.client.send(binary(kind, **fields))

    def rows(self, found: Any) -> list[Any]:
        if isinstance(found, list):
            return [plain(json.loads(text)) for text in found]
        (kind, hint), data = found
        starts = list(range(0, len(data), hint) if not kind else hint)
        return [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=False)]

    def take(self) -> Any:
        message = self.client.receive(30)
        assert isinstance(message, V1Message)
        if message.tag == 2:
            self.follow(message.fields[1][0])
            return self.take()
        return message

    def follow(self, changed: Any) -> None:
        bag = self.held.setdefault("", Counter())
        for _id, name, _count, updates in changed:
            for update in updates:
                deletes, inserts = update[1] if isinstance(update[0], int) else update
                bag.update((name, row) for row in self.rows(inserts))
                bag.subtract((name, row) for row in self.rows(deletes))
        assert all(number >= 0 for number in bag.values())

    def subscribe(self, number: int, text: str) -> bool:
        self.send("SubscribeMulti", query_strings=[text], request_id=number, query_id={"id": number})
        answer = self.take()
        if answer.tag == 7:
            return False
        self.texts[number] = text
        self.follow(answer.fields[3][0])
        return True

    def one_off(self, text: str) -> Counter[Any]:
        self.send("OneOffQuery", message_id="", query_string=text)
        answer = self.take()
        _id, error, found, _duration = answer.fields
        assert error is None, error
        return Counter((name, row) for name, rows in found for row in self.rows(rows))

    def check(self) -> None:
        wanted: Counter[Any] = Counter()
        for text in self.texts.values():
            wanted.update(self.one_off(text))
        assert +self.held.get("", Counter()) == wanted, self.texts


def plain(value: Any) -> Any:
    """JSON objects and arrays as tuples of their values."""
    if isinstance(value, dict | list):
        return tuple(map(plain, value.values() if isinstance(value, dict) else value))
    return value


@settings(
    deadline=None,
    max_examples=EXAMPLES,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(case=cases())
def test_all_clients_hold_what_their_queries_give(
    server: ServerProcess, callers: list[dict[str, str]], case: Case
) -> None:
    database = f"random-{next(names)}"
    server.publish(case.source.encode(), database)
    kinds = {"v2.bsatn.spacetimedb": V2Holder, "v1.bsatn.spacetimedb": V1Holder, "v1.json.spacetimedb": V1Holder}
    holders: list[list[Holder]] = [
        [kind(server, database, protocol, caller["token"]) for protocol, kind in kinds.items()] for caller in callers
    ]
    writer = V2Holder(server, database, "v2.bsatn.spacetimedb", callers[0]["token"])
    everybody = [holder for those in holders for holder in those]
    try:
        for turn, transaction in enumerate(case.transactions):
            for first, texts in ((0, case.queries), (len(case.transactions) // 2, case.late)):
                if turn == first:
                    for number, text in enumerate(texts):
                        for those in holders:
                            accepted = {holder.subscribe(100 * turn + number + 1, text) for holder in those}
                            assert len(accepted) == 1, f"refused by some: {text}"
            changes = [
                (name, kind, values | {"owner": callers[values["owner"]]["identity"]})
                for name, kind, values in transaction
            ]
            arguments = json.dumps(changes).encode()
            writer.client.send(v2.call_reducer(1, "change", struct.pack("<I", len(arguments)) + arguments))
            answer = writer.take()
            assert isinstance(answer.outcome, v2.Ok | v2.OkEmpty), (answer, case.source)
            for holder in everybody:
                holder.check()
    finally:
        for holder in (*everybody, writer):
            holder.client.drop()


@pytest.fixture(scope="module")
def callers(server: ServerProcess) -> list[dict[str, str]]:
    """The owner and others: identity (hex) and token."""
    payload = server.owner_token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    owner = {"identity": claims["hex_identity"], "token": server.owner_token}
    return [owner, *(server.identity() for _ in range(OTHERS))]
