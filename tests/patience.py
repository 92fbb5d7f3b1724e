"""How long tests wait for what must come, and how: looking again until it is there.

The bound is for a machine that is slow and does other things as well. It is met only by what never comes, so its length
costs nothing when all is well.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

from server_process import RequestFailed

PATIENCE_S: Final = 90.0
LOOK_S: Final = 0.02
"""Between two looks."""
T = TypeVar("T")


def until(look: Callable[[], T], condition: Callable[[T], object] = bool, patience_s: float = PATIENCE_S) -> T:
    """Looks again and again until the condition holds for what was seen; returns that.

    A request that is refused counts as nothing seen yet: a database whose process is being replaced answers so.
    """
    deadline = time.monotonic() + patience_s
    while True:
        seen: object
        try:
            found = look()
            if condition(found):
                return found
            seen = found
        except RequestFailed as refusal:
            seen = refusal
        assert time.monotonic() < deadline, f"waited too long; last seen: {seen!r}"
        time.sleep(LOOK_S)
