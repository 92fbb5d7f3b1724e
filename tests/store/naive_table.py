"""A table as a set of encoded rows: slow, and right by inspection.

Rows are BSATN; what a transaction changed is the difference of two sets. Everything is found by looking at every row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Conflict(Exception):
    """A unique value is taken; `number` is that of the index."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Missing(Exception):
    """No row to update."""


class NaiveTable:
    """`uniques`: index number -> attributes. `read(image)` decodes a row, `write(row)` encodes one."""

    def __init__(
        self,
        uniques: dict[int, tuple[str, ...]],
        read: Callable[[bytes], Any],
        write: Callable[[Any], bytes],
        is_event: bool,
    ) -> None:
        self.uniques = uniques
        self.read = read
        self.write = write
        self.is_event = is_event
        self.committed: set[bytes] = set()
        self.rows: set[bytes] = set()

    def value(self, image: bytes, attributes: tuple[str, ...]) -> Any:
        row = self.read(image)
        values = tuple(getattr(row, attribute) for attribute in attributes)
        return values[0] if len(values) == 1 else values

    def where(self, attributes: tuple[str, ...], test: Callable[[Any], bool]) -> set[bytes]:
        return {image for image in self.rows if test(self.value(image, attributes))}

    def _require_free(self, image: bytes, but: bytes | None = None) -> None:
        for number, attributes in self.uniques.items():
            value = self.value(image, attributes)
            if any(other != but and self.value(other, attributes) == value for other in self.rows):
                raise Conflict(number)

    def insert(self, row: Any) -> bytes:
        image = self.write(row)
        if image not in self.rows:
            self._require_free(image)
            self.rows.add(image)
        return image

    def update(self, row: Any, number: int) -> bytes:
        image = self.write(row)
        attributes = self.uniques[number]
        old = self.where(attributes, lambda value: bool(value == self.value(image, attributes)))
        if not old:
            self._require_free(image)
            raise Missing
        (old_image,) = old
        self._require_free(image, old_image)
        self.rows.remove(old_image)
        self.rows.add(image)
        return image

    def delete(self, images: set[bytes]) -> int:
        gone = len(self.rows & images)
        self.rows -= images
        return gone

    def commit(self) -> tuple[set[bytes], set[bytes]]:
        """(deletes, inserts)"""
        delta = self.committed - self.rows, self.rows - self.committed
        if self.is_event:
            self.rows = set()
        self.committed = set(self.rows)
        return delta

    def rollback(self) -> None:
        self.rows = set(self.committed)
