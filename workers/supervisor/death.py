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
KILLED: Final = "the database process was killed"
ENDED: Final = "the database process ended"
_LAST_LINE: Final = 300


class Death(msgspec.Struct, frozen=True):
    """One end. `text` is for clients, `detail` for the module's author and whoever runs the server; `culprit` None: it
    is not known which function ran."""

    text: str
    detail: str
    culprit: Culprit | None
    is_ours: bool = False
    """The module had no part in it."""


def explain(returncode: int | None, was_stuck: bool, culprit: Culprit | None, last_words: str) -> Death:
    """What can be said of a process that ended with this status."""
    name = f"`{culprit.function}`" if culprit else "a function of the module"
    place = f" ({culprit.place})" if culprit else ""
    if was_stuck:
        did = "did not return and could not be interrupted"
        return Death(f"{name} {did}", f"{name}{place} {did}", culprit)
    if returncode == -signal.SIGKILL:
        return Death(KILLED, KILLED, None, is_ours=True)
    if returncode is not None and returncode < 0:
        how = signal.Signals(-returncode).name if -returncode in set(signal.Signals) else f"signal {-returncode}"
        did = "crashed the database process"
        return Death(f"{name} {did}", f"{name}{place} {did} ({how})", culprit)
    if returncode:
        said = last_words.strip().rpartition("\n")[2][:_LAST_LINE]
        detail = f"{ENDED} with status {returncode}" + (f": {said}" if said else "")
        return Death(ENDED, detail, culprit)
    return Death(ENDED, ENDED, None, is_ours=True)


class History:
    """The ends of one database's processes so far."""

    def __init__(self) -> None:
        self.notes: list[Note] = []
        """For the module log, to be written by the next process."""
        self.backoff_s = 0.0
        """How long to wait before the next start."""
        self._own_calls = 0
        self._ends = 0

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
            self.backoff_s, self._ends = 0.0, 0
        culprit = death.culprit
        if culprit is not None and culprit.is_own_call:
            self._own_calls += 1
        if not death.is_ours:
            function = None if culprit is None else culprit.function
            self.notes.append(Note(function, f"{death.detail}; the database process was replaced"))
            if self.is_careful:
                self.notes.append(
                    Note(
                        function,
                        f"this has happened {self._own_calls} times: schedules do not run until another program is "
                        "published, and lost clients are removed without client_disconnected",
                    )
                )

    def delay(self) -> None:
        """One more end, or start that failed: the next start comes later, from the third in a row on much later."""
        self._ends += 1
        self.backoff_s = min(FIRST_BACKOFF_S * 2.0 ** min(max(0, self._ends - 3), 10), MAX_BACKOFF_S)

    def forget(self) -> None:
        """Another program runs, or all has been well for a while."""
        self.backoff_s = 0.0
        self._own_calls = self._ends = 0
