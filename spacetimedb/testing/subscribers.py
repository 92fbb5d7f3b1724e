"""Clients of a `TestHost`: what they subscribed to, and the rows they hold.

The queries run in the same engine as in a reader process, fed with the same commit records; what it gives out for a
client, as the bytes of the WebSocket protocol, is decoded here and applied to a cache as a client does it.

Beside the tables of the database a mirror of the committed rows is kept, since several commits may come out at once and
the engine has to see the rows as they were after each of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar, overload

from msgspec.structs import replace

from spacetimedb.hosts.database import Database
from spacetimedb.hosts.delta import Changes, Delta
from spacetimedb.hosts.view_evaluation import ViewFailed
from spacetimedb.hosts.views import Instance
from spacetimedb.module import Query, ViewContext
from spacetimedb.sql.catalog import CallerCatalog, SchemaCatalog, TableRef, ViewKey
from spacetimedb.sql.errors import SqlError
from spacetimedb.store.commit_record import EVENT, SILENT, TableChange
from spacetimedb.subscriptions.query_sets import Subscriptions
from spacetimedb.types.algebraic import BYTES, STRING, U16, U32, U64, Array, product, sum_of
from spacetimedb.types.bsatn import codec
from spacetimedb.types.shapes import shape_of
from spacetimedb.types.special import Identity

R = TypeVar("R")

READER: Final = 0
"""Whom views know as the one who reads here."""

_ROW_LIST: Final = product(size_hint=sum_of(FixedSize=U16, RowOffsets=Array(U64)), rows_data=BYTES)
_TABLE_ROWS: Final = sum_of(
    PersistentTable=product(inserts=_ROW_LIST, deletes=_ROW_LIST), EventTable=product(events=_ROW_LIST)
)
_TABLE_UPDATE: Final = product(table_name=STRING, rows=Array(_TABLE_ROWS))
_decode_updates: Final = codec(shape_of(Array(product(query_set_id=U32, tables=Array(_TABLE_UPDATE))))).decode_exact
_decode_table_rows: Final = codec(shape_of(product(table_name=STRING, rows=_ROW_LIST))).decode_exact


def _split(row_list: tuple[tuple[int, Any], bytes]) -> list[bytes]:
    """Rows of a BsatnRowList."""
    (kind, hint), data = row_list
    if kind == 0:
        return [data[at : at + hint] for at in range(0, len(data), hint)]
    ends = [*hint[1:], len(data)] if hint else []
    return [data[at:end] for at, end in zip(hint, ends, strict=True)]


class Subscription:
    """The client's side of one query set.

    `rows` gives the rows the client holds of a table. `messages` are the updates that came, one delta per transaction,
    rows of event tables in `inserts`; a client that gets nothing of a transaction gets no message.
    """

    def __init__(self, decode: Callable[[str, bytes], tuple[object, Any]], close: Callable[[], None]) -> None:
        self.messages: list[Delta] = []
        self._held: dict[str, Counter[bytes]] = {}
        self._decode = decode
        self._close = close

    @overload
    def rows(self, table: type[R]) -> list[R]: ...
    @overload
    def rows(self, table: Callable[[ViewContext[Any]], list[R]]) -> list[R]: ...
    @overload
    def rows(self, table: Callable[[ViewContext[Any]], Query[R]]) -> list[R]: ...
    @overload
    def rows(self, table: Callable[[ViewContext[Any]], R | None]) -> list[R]: ...
    def rows(self, table: Any) -> list[Any]:
        """Rows of a table (by class, or by what `add_table` returned) or of a view (by its function), in no order."""
        found = [self._decode(name, row) for name, held in self._held.items() for row in held]
        return [row for key, row in found if key is table]

    def close(self) -> None:
        """Unsubscribes; the client drops the rows."""
        self._held.clear()
        self._close()

    def _start(self, parts: Iterable[bytes]) -> None:
        for part in parts:
            name, rows = _decode_table_rows(part)
            self._held.setdefault(name, Counter()).update(_split(rows))

    def _apply(self, tables: list[Any]) -> None:
        message = Delta()
        for name, blocks in tables:
            held = self._held.setdefault(name, Counter())
            for kind, lists in blocks:
                inserts = _split(lists[0])
                deletes = _split(lists[1]) if kind == 0 else []
                if kind == 0:
                    held.update(inserts)
                    held.subtract(deletes)
                    if any(count < 0 for count in held.values()):
                        raise AssertionError(f"a client was told to drop a row of {name} that it does not have")
                for rows, into in ((inserts, "inserts"), (deletes, "deletes")):
                    for row in rows:
                        key, value = self._decode(name, row)
                        getattr(message.setdefault(key, Changes([], [])), into).append(value)
            self._held[name] = +held
        self.messages.append(message)


class Subscribers:
    """All subscriptions of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._mirror: dict[int, dict[bytes, None]] = {}
        self._engine = Subscriptions(self)
        self._open: dict[tuple[int, int], Subscription] = {}
        self._instances: dict[int, Instance] = {}
        """Instances of views in use, by table id."""
        self._sets = 0

    # What the engine reads

    def rows(self, table_id: int) -> list[bytes]:
        """Committed rows of a table."""
        return list(self._rows(table_id))

    def row_count(self, table_id: int) -> int:
        """How many there are."""
        return len(self._rows(table_id))

    def find(self, table_id: int, column: int, key: bytes) -> None:
        """There are no indexes to look into."""

    def _rows(self, table_id: int) -> dict[bytes, None]:
        found = self._mirror.get(table_id)
        if found is None:
            instance = self._instances.get(table_id)
            images = self._database.store.tables[table_id].images() if instance is None else instance.rows
            found = self._mirror[table_id] = dict.fromkeys(images)
        return found

    def catalog(self, who: Identity) -> CallerCatalog:
        """What a client may name; the views that a query names are there at once. Planning may raise ViewFailed."""
        database = self._database
        tables = SchemaCatalog(database.definition, database.table_ids, who == database.owner)
        return CallerCatalog(tables, who, self._instance)

    def _instance(self, key: ViewKey, table: TableRef) -> TableRef:
        instance = self._database.views.open(READER, key)
        self._instances[instance.table_id] = instance
        return replace(table, table_id=instance.table_id)

    def follow_program(self) -> None:
        """Another program runs: plans are made anew."""
        self._engine.forget_plans()

    def close_unused(self) -> None:
        """Gives back instances of views that nobody is subscribed to."""
        for table_id in [table_id for table_id in self._instances if table_id not in self._engine.tables]:
            del self._instances[table_id]
            self._mirror.pop(table_id, None)
            self._database.views.close(READER, table_id)

    # Clients

    def subscribe(self, client: int, who: Identity, queries: tuple[str, ...]) -> Subscription:
        """Raises SqlError with the text that a client would get. All commits so far must have been followed."""
        is_owner = who == self._database.owner
        try:
            compiled = self._engine.compile_set(queries, who, is_owner, self.catalog(who))
            self._sets += 1
            number = self._sets
            made = Subscription(self._decode, lambda: self._unsubscribe(client, number))
            made._start(self._engine.subscribe(client, number, compiled))
        except ViewFailed as failed:
            raise SqlError(failed.text) from failed.cause
        finally:
            self.close_unused()
        self._open[client, number] = made
        return made

    def drop(self, client: int) -> None:
        """The client is gone; its subscriptions hear nothing more."""
        self._engine.drop_client(client)
        for key in [key for key in self._open if key[0] == client]:
            del self._open[key]
        self.close_unused()

    def follow(self, flags: int, changes: list[TableChange]) -> None:
        """Takes a commit, in order, and hands out what it means."""
        for change in changes:
            rows = self._mirror.get(change.table_id)
            if rows is not None and not change.flags & EVENT:
                for row in change.deletes.split():
                    del rows[row]
                rows.update(dict.fromkeys(change.inserts.split()))
        if flags & SILENT:
            self._engine.follow(changes)
            return
        for payload, clients in self._engine.evaluate(changes):
            for number, tables in _decode_updates(payload):
                for client in clients:
                    self._open[client, number]._apply(tables)

    def _unsubscribe(self, client: int, number: int) -> None:
        if self._open.pop((client, number), None) is not None:
            self._engine.unsubscribe(client, number, False)
            self.close_unused()

    def _decode(self, name: str, row: bytes) -> tuple[object, Any]:
        """The key of a table in module code and the row object; a view's key is its function, a system table's its
        name."""
        view = self._database.views.views.get(name)
        if view is not None:
            return view.spec.function, view.decode(row)
        table = self._database.store.by_name[name]
        key = next((key for key, own in self._database.tables.items() if own is table), name)
        return key, table.decode(row)
