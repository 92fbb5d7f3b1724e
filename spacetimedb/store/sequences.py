"""Sequences: where the numbers of auto-increment columns come from.

State of a sequence: `value`, the next number, and `allocated`, up to where numbers may be given out. When they meet,
the sequence reserves `BATCH` more: `allocated` moves on and is written to the sequence's row in st_sequence, inside
the running transaction. Generation resumes at the stored `allocated` after a restart: 1, 2, 3, restart, 4097.

A roll-back undoes the row in st_sequence but neither `value` nor `allocated`. The store therefore remembers which
sequences are ahead of their rows and writes the rows again with the next commit that changes anything: a number that
stands in a committed row is never given out twice.

Numbers are 128 bits wide and run from minimum to maximum and round again; what goes into a narrower column is cut off.
"""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import Final

from spacetimedb.schema.definition import SequenceDef

BATCH: Final = 4096
"""Numbers reserved at once."""


class Sequence:
    """One sequence. `reserve(sequence)` is called when the reserved numbers are used up, and must call `advance`."""

    __slots__ = ("_reserve", "allocated", "column", "definition", "is_bound", "row_id", "table_id", "value")

    def __init__(self, definition: SequenceDef, table_id: int, reserve: Callable[[Sequence], None]) -> None:
        self.definition = definition
        self.table_id = table_id
        self.column = definition.column
        self.value = self.allocated = definition.start
        self.is_bound = False
        """Whether the stored state has been looked for."""
        self.row_id: int | None = None
        """Id of the sequence's row in st_sequence, None if it has none."""
        self._reserve = reserve

    def next_value(self) -> int:
        """The next number, not yet cut to the column's width."""
        if self.value == self.allocated:
            self._reserve(self)
        value = self.value
        definition = self.definition
        following = value + definition.increment
        if not definition.minimum <= following <= definition.maximum:
            following = self._after(value, 1)
        self.value = following
        return value

    def advance(self) -> None:
        """Moves `allocated` on by a batch, or by as much as does not lead back to where it was."""
        definition = self.definition
        span = definition.maximum - definition.minimum + 1
        steps = min(BATCH, span // gcd(span, definition.increment) - 1)
        self.allocated = self._after(self.allocated, steps)

    def _after(self, value: int, steps: int) -> int:
        definition = self.definition
        span = definition.maximum - definition.minimum + 1
        return definition.minimum + (value - definition.minimum + steps * definition.increment) % span

    def generator(self, bits: int, is_signed: bool) -> Callable[[], int]:
        """A function that gives the next number cut to `bits` bits."""
        next_value = self.next_value
        mask = (1 << bits) - 1
        half = 1 << bits - 1 if is_signed else 0

        def generate() -> int:
            return ((next_value() + half) & mask) - half

        return generate

    def exhausted(self, bits: int, is_signed: bool) -> bool:
        """Whether numbers no longer fit a column of that width, so that they repeat."""
        return abs(self.value) > 1 << (bits - 1 if is_signed else bits)
