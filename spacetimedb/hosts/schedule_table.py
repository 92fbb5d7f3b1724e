"""A table whose rows call a function: how the database reads keys and times of its rows, and what it refuses at
insert."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Final

from spacetimedb.hosts.scheduler import MAX_DELAY_US
from spacetimedb.types.special import Interval


class ScheduleRefused(Exception):
    """A schedule row whose time cannot be kept. Raised by the insert or update in the module."""


class ScheduleTable:
    """Access to a schedule table. `handle` is the store's read-write handle; its writes are checked from now on."""

    def __init__(
        self,
        name: str,
        function_name: str,
        key_attribute: str,
        at_attribute: str,
        handle: Any,
        encode: Callable[[Any], bytes],
        decode: Callable[[bytes], Any],
        now_us: Callable[[], int],
    ) -> None:
        self.name = name
        self.function_name = function_name
        self.encode: Final = encode
        self.decode: Final = decode
        self._key = key_attribute
        self._at = at_attribute
        self._now_us = now_us
        index = getattr(handle, key_attribute)
        self.find: Final[Callable[[Hashable], Any]] = index.find
        self.delete: Final[Callable[[Hashable], bool]] = index.delete
        for owner, method in ((handle, "insert"), (handle, "try_insert"), (index, "update"), (index, "upsert")):
            setattr(owner, method, self._checked(getattr(owner, method)))

    def key(self, row: Any) -> Hashable:
        """Value of the primary key."""
        value: Hashable = getattr(row, self._key)
        return value

    def at(self, row: Any) -> Any:
        """The row's Interval or Time."""
        return getattr(row, self._at)

    def _checked(self, write: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def checked(row: Any) -> Any:
            at = self.at(row)
            if isinstance(at, Interval):
                delay = abs(int(at.value))
                if not delay:
                    raise ScheduleRefused(f"table {self.name}: an interval of 0 would never let anything else run")
            else:
                delay = int(at.value) - self._now_us()
            if delay >= MAX_DELAY_US:
                raise ScheduleRefused(f"table {self.name}: unable to schedule with a delay of {delay // 1_000_000} s")
            return write(row)

        return checked
