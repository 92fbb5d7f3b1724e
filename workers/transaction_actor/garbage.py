"""When the transaction actor looks for garbage: it has switched automatic collection off, which would look at all rows
again and again."""

from __future__ import annotations

import gc
from typing import Final

NEW_OBJECTS: Final = 10_000
"""Objects that are not freed by themselves, from which on cycles are looked for."""


def collect_garbage() -> None:
    """What a program needed to load, and what is left of the one before. What is there then is not looked at again."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def collect_cycles() -> None:
    """Module code may make cycles. They are looked for among what is new, between two transactions."""
    if gc.get_count()[0] > NEW_OBJECTS:
        gc.collect(0)
