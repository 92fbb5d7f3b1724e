"""The instances of views that the queries of one reader use.

A query that names a view reads an instance of it (see `sql.catalog`), which the transaction actor makes when it is
asked to and keeps current while somebody uses it. Here is what a reader knows: the instances that exist for it, the
requests on their way, and who waits for them.

A *user* is whoever plans queries, by a number: a client, or a request over HTTP. It plans with `catalog`, then calls
`want`. If instances are missing they are requested, and the user plans again when it is called back: all are there
then, or `want` raises what one of them failed with. From `want` to `done` the user's instances are *pinned*; apart from
that an instance is used while a live subscription reads it. `release` gives back one that is not.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from spacetimedb.sql.catalog import CallerCatalog, TableRef, Tables, ViewKey
from spacetimedb.sql.errors import SqlError
from spacetimedb.types.special import Identity


class _Known(Struct):
    """An instance that exists. `tables`: table of the view to that of the instance; all of them look like `shape`."""

    table_id: int
    tables: dict[TableRef, TableRef]
    shape: tuple[object, ...] | None = None


class _Wait(Struct):
    """A user that waits for instances. `then` is called once."""

    user: int
    missing: set[ViewKey]
    then: Callable[[], None]
    is_over: bool = False


class ViewInstances:
    """See the head of the module.

    `request(number, key)` is to ask the actor for an instance, whose answer is given to `came` or `failed`;
    `unused(table_id)` is to tell it that an instance is not used any more. Requests are numbered from behind
    `last_number`: where answers to a predecessor may still be under way, it has to be a random one.
    """

    def __init__(
        self, request: Callable[[int, ViewKey], None], unused: Callable[[int], None], last_number: int = 0
    ) -> None:
        self._request = request
        self._unused = unused
        self._known: dict[ViewKey, _Known] = {}
        self._keys: dict[int, ViewKey] = {}
        """Table id to key, of those known."""
        self._requested: dict[ViewKey, list[_Wait]] = {}
        self._numbers: dict[int, ViewKey] = {}
        self._last_number = last_number
        self._pinned: dict[int, frozenset[ViewKey]] = {}
        self._failures: dict[int, str] = {}
        """User to the text it is to be told."""

    def catalog(self, tables: Tables, caller: Identity) -> CallerCatalog:
        """What a caller who may read these tables can name."""
        return CallerCatalog(tables, caller, self._find)

    def want(self, user: int, catalog: CallerCatalog, then: Callable[[], None]) -> bool:
        """Whether everything that was named in the catalog is there; if not, `then` is called later.

        Raises SqlError if a view failed that this user waited for.
        """
        failure = self._failures.pop(user, None)
        if failure is not None:
            raise SqlError(failure)
        if not catalog.used:
            return True
        self._pinned[user] = frozenset(catalog.used)
        if not catalog.missing:
            return True
        wait = _Wait(user, set(catalog.missing), then)
        for key in catalog.missing:
            waits = self._requested.get(key)
            if waits is not None:
                waits.append(wait)
                continue
            self._requested[key] = [wait]
            number = self._last_number = self._last_number % 0xFFFFFFFF + 1
            self._numbers[number] = key
            self._request(number, key)
        return False

    def done(self, user: int) -> bool:
        """The user has registered or run its queries, or is gone. Whether it had pinned anything. Idempotent."""
        self._failures.pop(user, None)
        for waits in self._requested.values():
            for wait in waits:
                wait.is_over |= wait.user == user
        return self._pinned.pop(user, None) is not None

    def expects(self, number: int) -> bool:
        """Whether there is a request with this number that has not been answered."""
        return number in self._numbers

    def came(self, number: int, table_id: int) -> None:
        """The instance of a request exists, with this table id; its rows are known to the reader."""
        key = self._numbers.pop(number)
        self._known[key] = _Known(table_id, {})
        self._keys[table_id] = key
        for wait in self._requested.pop(key):
            wait.missing.discard(key)
            if not wait.missing:
                _end(wait)

    def failed(self, number: int, text: str) -> None:
        """The view of a request failed; `text` may be told to clients."""
        key = self._numbers.pop(number)
        for wait in self._requested.pop(key):
            if not wait.is_over:
                self._failures[wait.user] = text
                _end(wait)

    def release(self, table_id: int) -> bool:
        """Gives back an instance that no live query reads. False if it is pinned; True, too, for any other table."""
        key = self._keys.get(table_id)
        if key is None:
            return True
        if any(key in pinned for pinned in self._pinned.values()):
            return False
        del self._keys[table_id]
        known = self._known.get(key)
        if known is not None and known.table_id == table_id:
            del self._known[key]
        self._unused(table_id)
        return True

    def give_up(self) -> None:
        """The actor is gone: everybody who waits is called."""
        requested, self._requested = self._requested, {}
        self._numbers.clear()
        for waits in requested.values():
            for wait in waits:
                _end(wait)

    def _find(self, key: ViewKey, table: TableRef) -> TableRef | None:
        known = self._known.get(key)
        if known is None:
            return None
        shape = table.columns, table.indexes
        if known.shape is None:
            known.shape = shape
        elif known.shape != shape:
            return None  # another program, in which the view has other rows
        found = known.tables.get(table)
        if found is None:
            found = known.tables[table] = replace(table, table_id=known.table_id)
        return found

    def statistics(self) -> dict[str, int]:
        """Instances known, and requested."""
        return {"instances": len(self._known), "requested": len(self._requested)}


def _end(wait: _Wait) -> None:
    if not wait.is_over:
        wait.is_over = True
        wait.then()
