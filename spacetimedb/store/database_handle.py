"""`ctx.db`: table handles by row class, and by name.

A dict subclass, because subscripting one is the fastest look-up there is: `ctx.db[Player]` costs 30 ns. Attributes
are the accessor names of the tables (`ctx.db.player`) and win over dict methods of the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from .table import Table


class Db(dict[object, Any]):
    """Handles of a database's tables. Read only: what it holds is decided when it is made."""

    if TYPE_CHECKING:

        def __getattr__(self, accessor: str) -> Any: ...

    @classmethod
    def of(cls, handles: Mapping[object, tuple[Table, Any]]) -> Db:
        """`handles`: key in module code -> (table, handle)."""
        db = cls({key: handle for key, (_, handle) in handles.items()})
        for table, handle in handles.values():
            *namespaces, accessor = table.definition.accessor_name.split(".")
            names = db.__dict__
            for namespace in namespaces:  # tables of mounted modules: db.auth.user
                names = names.setdefault(namespace, SimpleNamespace()).__dict__
            if accessor.isidentifier():
                names[accessor] = handle
        return db

    def insert(self, row: Any) -> Any:
        """Inserts into the table of the row's class."""
        return self[type(row)].insert(row)

    def __missing__(self, key: object) -> Any:
        raise KeyError(f"{getattr(key, '__name__', key)!s} is not a table of this module")
