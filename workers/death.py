"""Why a database process ended, and what follows from it."""

from __future__ import annotations

import signal
from typing import Final

import msgspec

from spacetimedb.workers.last_words import Culprit
from spacetimedb.workers.messages import Note

CAREFUL_AFTER: Final = 3
"""Ends in a row that calls of the database itself (schedules, hooks) have brought about."""
QUIET_S: Final = 60.0
"""A process that lived for so long begins a new row."""
FIRST_BACKOFF_S: Final = 0.1
MAX_BACKOFF_S: Final = 5.0
SHORT_LIFE_S: Final = 2.0
_LAST_LINE: Final = 300


class Death(msgspec.Struct, frozen=True):
    """One end. `text` is for the module's author; `culprit` None: it is not known which function ran."""

    text: str
    culprit: Culprit | None
    is_ours: bool = False
    """The module had no part in it."""


def explain(returncode: int | None, was_stuck: bool, culprit: Culprit | None, last_words: str) -> Death:
    """What can be said of a process that ended with this status."""
    named = f"`{culprit.function}` ({culprit.place})" if culprit else "a function of the module"
    if was_stuck:
        return Death(f"{named} did not return and could not be interrupted", culprit)
    if returncode == -signal.SIGKILL:
        return Death("the database process was killed", None, is_ours=True)
    if returncode is not None and returncode < 0:
        name = signal.Signals(-returncode).name if -returncode in set(signal.Signals) else f"signal {-returncode}"
        return Death(f"{named} crashed the database process ({name})", culprit)
    if returncode:
        said = last_words.strip().rpartition("\n")[2][:_LAST_LINE]
        return Death(f"the database process ended with status {returncode}" + (f": {said}" if said else ""), culprit)
    return Death("the database process ended", None, is_ours=True)


class History:
    """The ends of one database's processes so far."""

    def __init__(self) -> None:
        self.notes: list[Note] = []
        """For the module log, to be written by the next process."""
        self.backoff_s = 0.0
        """How long to wait before the next start."""
        self._own_calls = 0

    @property
    def is_careful(self) -> bool:
        """Whether the next process must run nothing that nobody asks for."""
        return self._own_calls >= CAREFUL_AFTER

    def add(self, death: Death, lived_s: float) -> None:
        """Counts an end after `lived_s` seconds of life."""
        if lived_s > QUIET_S:
            self.forget()
        if lived_s < SHORT_LIFE_S or not death.is_ours:
            self.delay()
        else:
            self.backoff_s = 0.0
        culprit = death.culprit
        if culprit is not None and culprit.is_own_call:
            self._own_calls += 1
        if not death.is_ours:
            function = None if culprit is None else culprit.function
            self.notes.append(Note(function, f"{death.text}; the database process was replaced"))
            if self.is_careful:
                self.notes.append(
                    Note(
                        function,
                        f"this has happened {self._own_calls} times: schedules do not run until another program is "
                        "published, and lost clients are removed without client_disconnected",
                    )
                )

    def delay(self) -> None:
        """A start failed: the next one comes later."""
        self.backoff_s = min(max(FIRST_BACKOFF_S, self.backoff_s * 2), MAX_BACKOFF_S)

    def forget(self) -> None:
        """Another program runs, or all has been well for a while."""
        self.backoff_s = 0.0
        self._own_calls = 0
