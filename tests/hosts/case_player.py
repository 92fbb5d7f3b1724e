"""Plays recorded module cases (`tests/vectors/module/*.json`) against the core of a database, on a virtual clock.

A case is a module and a list of steps; each step does one thing and `expect` is what it gives: `connect`, `disconnect`,
`subscribe`, `unsubscribe`, `call` (a reducer, over a socket), `http` (a reducer, over HTTP: with a connection of its
own around it), `inbox` (messages that a client got since the last one), `sql`, `logs`, `wait`, `restart`. Waiting is
advancing the clock.

Values: numbers as they are, bytes as hex text, an option null or {"some": v}, a sum {variant: v} with [] for nothing, a
product a list, NaN "NaN"; `$alice` an identity, `$conn.alice` a connection id, `$time` a timestamp after 2020,
{"repeat": [text, n]} a long text. In `expect` "$any" fits everything, {"contains": text}, {"matches": regex} and
{"one_of": [...]} fit as they say, an object only its own keys, floats within 1e-6.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from spacetimedb.hosts.database import Caller, caller
from spacetimedb.hosts.mail import ANSWER_HEAD, ROW_COUNTS, Outcome
from spacetimedb.hosts.view_evaluation import ViewFailed
from spacetimedb.module import Module
from spacetimedb.sql.errors import SqlError
from spacetimedb.sql.execute import execute_select
from spacetimedb.sql.plan import SelectPlan, plan_sql
from spacetimedb.store.commit_record import COMMIT
from spacetimedb.testing.host import TestHost
from spacetimedb.testing.subscribers import Subscription
from spacetimedb.types.bsatn import codec
from spacetimedb.types.json_arguments import ArgumentError, ArgumentsDecoder
from spacetimedb.types.shapes import (
    ArrayShape,
    EnumShape,
    OptionShape,
    ProductShape,
    Scalar,
    Shape,
    SumShape,
    Wrapped,
    shape_of,
)
from spacetimedb.types.special import ConnectionId, Identity, Interval, Timestamp, Uuid

MODULES: Final = Path(__file__).parents[1] / "vectors" / "module" / "modules"
STEP_S: Final = 0.01
PATIENCE_S: Final = 8.0
"""How long `inbox` and `sql ... until` wait for what is expected."""
SETTLE_S: Final = 0.35
SUBJECT: Final = "00000000-0000-4000-8000-000000000000"
YEAR_2020: Final = 1_577_836_800_000_000
STATUS: Final = {
    Outcome.ERROR: 530,
    Outcome.INTERNAL: 530,
    Outcome.BAD_ARGUMENTS: 400,
    Outcome.LIFECYCLE: 400,
    Outcome.NO_SUCH_REDUCER: 404,
    Outcome.OUT_OF_ENERGY: 402,
}


def load(name: str) -> Module:
    """A fresh module object; the logger of loaded modules is `module`."""
    path = MODULES / f"{name}.py"
    spec = importlib.util.spec_from_file_location("module", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules["module"] = loaded
    spec.loader.exec_module(loaded)
    found = loaded.m
    assert isinstance(found, Module)
    return found


class Player:
    """Plays one case."""

    def __init__(self, module: str) -> None:
        self.host = TestHost(load(module))
        self.database = self.host._database
        self.database.budget.start()
        self.sockets: dict[str, Caller] = {}
        self.caches: dict[str, list[tuple[int, Subscription]]] = {}
        self.read: dict[int, int] = {}
        self.connections = 1000

    def close(self) -> None:
        self.database.budget.stop()

    def play(self, steps: list[dict[str, Any]]) -> None:
        """Raises AssertionError naming the step that did not give what it should."""
        kinds = (
            *("connect", "disconnect", "subscribe", "unsubscribe", "call", "http", "inbox", "sql", "logs", "wait"),
            *("restart", "publish"),
        )
        for number, step in enumerate(steps, 1):
            kind = next(k for k in kinds if k in step)
            given = getattr(self, f"step_{kind}")(step)
            expected = step.get("expect")
            if "expect" in step and not fits(expected, given):
                raise AssertionError(f"step {number}: {json.dumps(step)}\n  expected {expected}\n  given    {given}")

    # -- names

    def identity(self, name: str) -> Identity:
        special = {"database": self.database.identity, "owner": self.host.owner, "zero": Identity.ZERO}
        return special.get(name) or self.host.identity(name)

    def named(self, value: Identity | ConnectionId) -> str:
        if isinstance(value, ConnectionId):
            found = [name for name, who in self.sockets.items() if who.connection_id == value]
            return f"$conn.{found[0]}" if found else "$conn"
        names = {self.identity(name): name for name in ("alice", "alice2", "bob", "carol", "dave", "owner", "database")}
        names |= {Identity.ZERO: "zero"}
        names |= {who.identity: name for name, who in self.sockets.items() if who.identity not in names}
        return f"${names.get(value, value)}"

    # -- values

    def show(self, shape: Shape, value: Any) -> Any:
        """A value as the cases write it."""
        match shape:
            case Scalar("bytes"):
                return value.hex()
            case Scalar("u256"):  # system tables hold identities as numbers
                shown = self.named(Identity.from_int(value))
                return value if len(shown) > 60 else shown
            case Scalar():
                return "NaN" if isinstance(value, float) and math.isnan(value) else value
            case Wrapped():
                if isinstance(value, Identity | ConnectionId):
                    return self.named(value)
                if isinstance(value, Uuid):
                    return int(value)
                if isinstance(value, Timestamp):
                    return "$time" if value > YEAR_2020 else int(value)
                return int(value)
            case ArrayShape(element):
                return [self.show(element, v) for v in value]
            case OptionShape(some):
                return None if value is None else {"some": self.show(some, value)}
            case ProductShape(_, fields):
                return [self.show(f.shape, v) for f, v in zip(fields, value, strict=True)]
            case EnumShape(_, names):
                return {names[value]: []}
            case SumShape(_, variants):
                if variants[0].cls is Interval:
                    tag, payload = (0 if isinstance(value, Interval) else 1), value.value
                else:
                    tag, payload = value
                inner = variants[tag].shape
                return {variants[tag].name: [] if inner is None else self.show(inner, payload)}
            case _:
                raise AssertionError(shape)

    def read_value(self, shape: Shape, value: Any) -> Any:
        """The reverse of `show`, for arguments."""
        if isinstance(value, dict) and "repeat" in value:
            text, times = value["repeat"]
            value = text * times
        match shape:
            case Scalar("bytes"):
                return bytes.fromhex(value)
            case Scalar("f32" | "f64"):
                return float(value)
            case Scalar():
                return value
            case Wrapped(_, cls):
                if cls is Identity:
                    return self.identity(value[1:])
                return Uuid.from_int(value) if cls is Uuid else cls(value)
            case ArrayShape(element):
                return [self.read_value(element, v) for v in value]
            case OptionShape(some):
                return None if value is None else self.read_value(some, value["some"])
            case ProductShape(_, fields):
                return tuple(self.read_value(f.shape, v) for f, v in zip(fields, value, strict=True))
            case EnumShape(_, names):
                return names.index(next(iter(value)))
            case SumShape(_, variants):
                ((name, payload),) = value.items()
                tag = [v.name for v in variants].index(name)
                inner = variants[tag].shape
                read = () if inner is None else self.read_value(inner, payload)
                variant = variants[tag].cls
                return (tag, read) if variant is None else variant(read)
            case _:
                raise AssertionError(shape)

    def arguments(self, step: dict[str, Any]) -> bytes:
        """BSATN of a step's arguments."""
        if "raw_args" in step:
            return bytes.fromhex(step["raw_args"])
        definition = self.database.definition
        found = next((r for r in definition.reducers if r.name == step["function"]), None)
        if found is None:
            return b""
        if "body" in step:
            return ArgumentsDecoder(found.name, found.params, definition.typespace).decode(step["body"])
        shape = shape_of(found.params, definition.typespace)
        return codec(shape).encode(self.read_value(shape, step["args"]))

    # -- steps

    def fresh_caller(self, who: Identity) -> Caller:
        self.connections += 1
        return caller(who, ConnectionId.from_int(self.connections), 0, self.connections)

    def connected(self, made: Caller) -> str | None:
        """Connects; the text of a refusal."""
        payload = {
            "hex_identity": made.identity.hex(),
            "sub": "00000000-0000-4000-8000-000000000000",
            "iss": "localhost",
        }
        self.database.connect(made, 0, json.dumps(payload | {"aud": ["spacetimedb"], "iat": 0, "exp": None}))
        outcome, text = self.outcome()
        return text if outcome is Outcome.REFUSED else None

    def outcome(self) -> tuple[Outcome | None, str]:
        """Takes what came out: the last answer, None for a commit alone."""
        last: tuple[Outcome | None, str] = None, ""
        for record in self.database.out:
            if record[4] != COMMIT:
                head = ANSWER_HEAD.unpack_from(record)
                body = record[ANSWER_HEAD.size : ANSWER_HEAD.size + head[8]]
                outcome = Outcome(head[2])
                text = json.dumps(ROW_COUNTS.unpack(body)) if outcome is Outcome.SQL_DONE else body.decode()
                last = outcome, text
        self.host._take()
        return last

    def step_connect(self, step: dict[str, Any]) -> object:
        name = step["connect"]
        person = step.get("as", name)
        made = self.fresh_caller(self.identity(person))
        self.sockets[name] = made
        if self.connected(made) is not None:
            del self.sockets[name]
            return {"dropped": True}
        self.caches[name] = []
        return {"identity": f"${person}"}

    def step_disconnect(self, step: dict[str, Any]) -> object:
        made = self.sockets.pop(step["disconnect"])
        self.host._subscribers.drop(made.connection)
        self.database.disconnect(made.reader, made.connection)
        self.outcome()
        return {}

    def step_subscribe(self, step: dict[str, Any]) -> object:
        made = self.sockets[step["subscribe"]]
        texts = [step["sql"]] if isinstance(step["sql"], str) else step["sql"]
        try:
            cache = self.host._subscribers.subscribe(made.connection, made.identity, tuple(texts))
        except SqlError as error:
            return {"error": str(error)}
        self.caches[step["subscribe"]].append((step.get("id", 1), cache))
        self.read[id(cache)] = 0
        return {"rows": self.rows_of(cache)}

    def step_unsubscribe(self, step: dict[str, Any]) -> object:
        caches = self.caches[step["unsubscribe"]]
        ((_, cache),) = caches
        caches.clear()
        rows = self.rows_of(cache)
        cache.close()
        return {"rows": rows}

    def rows_of(self, cache: Subscription) -> dict[str, list[Any]]:
        return {
            name: sorted((self.show_row(name, row) for row in held), key=json.dumps)
            for name, held in cache._held.items()
        }

    def show_row(self, table: str, row: bytes) -> Any:
        view = self.database.definition.view(table)
        shape = shape_of(self.database.store.by_name[table].definition.row_type if view is None else view.row_type)
        return self.show(shape, codec(shape).decode_exact(row))

    def step_call(self, step: dict[str, Any]) -> object:
        made = self.sockets[step["call"]]
        before = {id(cache): len(cache.messages) for _, cache in self.caches[step["call"]]}
        self.database.call_by_name(made, step["function"], 0, self.arguments(step))
        outcome, text = self.outcome()
        if outcome is None:
            update = self.update([(n, c, before[id(c)]) for n, c in self.caches[step["call"]]])
            for _, cache in self.caches[step["call"]]:
                del cache.messages[before[id(cache)] :]
            return {"ok": update}
        return {"err" if outcome is Outcome.ERROR else "internal": text}

    def update(self, parts: list[tuple[int, Subscription, int]]) -> list[dict[str, Any]]:
        """One transaction's update, of the messages that each cache has at a position."""
        found: list[dict[str, Any]] = []
        for number, cache, at in parts:
            if at >= len(cache.messages):
                continue
            for key, change in cache.messages[at].items():
                name, encode, is_event = self.table_of(key)
                entry: dict[str, Any] = {"table": name}
                if len(parts) > 1:
                    entry["query_set"] = number
                inserts, deletes = (
                    sorted((self.show_row(name, encode(row)) for row in rows), key=json.dumps)
                    for rows in (change.inserts, change.deletes)
                )
                names = ("events", "deletes") if is_event else ("inserts", "deletes")
                entry |= {name: rows for name, rows in zip(names, (inserts, deletes), strict=True) if rows}
                found.append(entry)
        return sorted(found, key=lambda entry: (entry.get("query_set", 0), entry["table"]))

    def table_of(self, key: object) -> tuple[str, Callable[[Any], bytes], bool]:
        """Name and encoder of a table or view, and whether it has events, by its key in module code."""
        for view in self.database.views.views.values():
            if view.spec.function is key:
                return view.name, view.encode, False
        table = self.database.tables.get(key) or self.database.store.by_name[str(key)]
        return table.name, table.encode, table.definition.is_event

    def step_http(self, step: dict[str, Any]) -> object:
        made = self.fresh_caller(self.identity(step["http"]))
        refused = self.connected(made)
        if refused is not None:
            return {"status": 403, "body": refused}
        try:
            try:
                arguments = self.arguments(step)
            except ArgumentError as error:
                return {"status": 400, "body": error.message("reducer")}
            self.database.call_by_name(made, step["function"], 0, arguments)
            outcome, text = self.outcome()
            if outcome is None:
                return {"status": 200, "body": ""}
            return {"status": STATUS[outcome], "body": "No such procedure" if STATUS[outcome] == 404 else text}
        finally:
            self.database.disconnect(made.reader, made.connection)
            self.outcome()

    def step_sql(self, step: dict[str, Any]) -> object:
        waited = 0.0
        while True:
            given = self.sql(step)
            if "until" not in step or waited > PATIENCE_S or fits(step["expect"], given):
                return given
            self.advance(STEP_S)
            waited += STEP_S

    def sql(self, step: dict[str, Any]) -> object:
        who = self.identity(step.get("as", "owner"))
        made = self.fresh_caller(who)
        refused = self.connected(made)
        if refused is not None:
            return {"status": 403, "error": refused}
        try:
            database, is_owner = self.database, who == self.host.owner
            catalog = self.host._subscribers.catalog(who)
            plan = plan_sql(step["sql"], catalog, who, is_owner)
            if not isinstance(plan, SelectPlan):
                database.sql(made, 0, step["sql"], is_owner)
                outcome, text = self.outcome()
                if outcome is not Outcome.SQL_DONE:
                    return {"status": 400, "error": text}
                names = ("rows_inserted", "rows_deleted", "rows_updated")
                return {"changed": dict(zip(names, json.loads(text), strict=True))}
            result = execute_select(plan, self.host._subscribers)
            shapes = [shape_of(c.algebraic_type) for c in result.columns]
            decoders = [codec(shape).decode for shape in shapes]
            rows = []
            for row in result.rows:
                at, values = 0, []
                for shape, decode in zip(shapes, decoders, strict=True):
                    value, at = decode(row, at)
                    values.append(self.show(shape, value))
                rows.append(values)
            return {"rows": sorted(rows, key=json.dumps)}
        except SqlError as error:
            return {"status": 400, "error": str(error)}
        except ViewFailed as error:
            return {"status": 400, "error": error.text}
        finally:
            self.host._subscribers.close_unused()
            self.database.disconnect(made.reader, made.connection)
            self.outcome()

    def advance(self, seconds: float) -> None:
        """Runs what is due; what fails is in the log."""
        self.host.failures.clear()
        with contextlib.suppress(Exception):  # each has its line in the log, which cases look at
            self.host.advance(seconds)

    def step_wait(self, step: dict[str, Any]) -> object:
        self.advance(step["wait"])
        return {}

    def messages(self, name: str) -> list[Any]:
        """Updates not read yet, transaction by transaction."""
        caches = self.caches[name]
        assert len(caches) <= 1, "several query sets and an inbox: messages cannot be told apart"
        return [
            {"update": self.update([(number, cache, at)])}
            for number, cache in caches
            for at in range(self.read[id(cache)], len(cache.messages))
        ]

    def step_inbox(self, step: dict[str, Any]) -> object:
        name = step["inbox"]
        if step["expect"]:
            waited = 0.0
            while len(self.messages(name)) < len(step["expect"]) and waited < PATIENCE_S:
                self.advance(STEP_S)
                waited += STEP_S
        else:
            self.advance(step.get("within", 0.0))
        self.advance(step.get("settle", SETTLE_S))
        given = self.messages(name)
        for _, cache in self.caches[name]:
            self.read[id(cache)] = len(cache.messages)
        return given

    def step_logs(self, step: dict[str, Any]) -> object:
        self.host._take()
        lines = [[line["level"], line.get("function"), line["message"]] for line in self.host.log]
        self.host.log.clear()
        if not step.get("system"):
            lines = [line for line in lines if line[1] != "__spacetimedb__"]
        only = step.get("only")
        if only:
            lines = [line for line in lines if line[0] in only or line[1] in only]
        if step.get("any_order"):
            step["expect"].sort(key=json.dumps)
            lines.sort(key=json.dumps)
        return lines

    def step_restart(self, step: dict[str, Any]) -> object:
        self.database.budget.stop()
        self.host.restart(crash=True)
        self.database = self.host._database
        self.database.budget.start()
        self.sockets.clear()
        self.caches.clear()
        return {}


def fits(expected: Any, given: Any) -> bool:
    """Whether a result is as expected; see the head of the module."""
    if expected == "$any":
        return True
    if expected in ("$conn", "$time") and isinstance(given, str):
        return given.startswith(expected)
    if isinstance(expected, dict):
        if expected.keys() == {"contains"}:
            return isinstance(given, str) and expected["contains"] in given
        if expected.keys() == {"matches"}:
            return isinstance(given, str) and re.fullmatch(expected["matches"], given, re.DOTALL) is not None
        if expected.keys() == {"one_of"}:
            return any(fits(one, given) for one in expected["one_of"])
        if expected.keys() == {"repeat"}:
            return bool(given == expected["repeat"][0] * expected["repeat"][1])
        return isinstance(given, dict) and all(fits(v, given.get(k)) for k, v in expected.items())
    if isinstance(expected, list):
        if not isinstance(given, list) or len(expected) != len(given):
            return False
        return all(fits(e, g) for e, g in zip(expected, given, strict=True))
    if isinstance(expected, float) and isinstance(given, int | float):
        return math.isclose(expected, given, rel_tol=1e-6, abs_tol=1e-6)
    return type(expected) is type(given) and bool(expected == given)
