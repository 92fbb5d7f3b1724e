"""What a database process leaves behind when it ends: its standard error, in memory that the supervisor shares.

Once the process is confined its output and error go here (`LastWords.fd`), and so do the stacks that `faulthandler`
writes when it crashes or, asked by STACK_SIGNAL, while it is stuck inside a C call. The memory has a fixed size and is
filled by code that nobody trusts: it is read as text, cut and stripped of control characters.
"""

from __future__ import annotations

import faulthandler
import fcntl
import os
import re
import signal
import sys
import tempfile
from typing import Final

import msgspec

SIZE: Final = 64 << 10
STACK_SIGNAL: Final = signal.SIGUSR1
_SEALS: Final = 1 | 2 | 4
"""F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW."""
_ADD_SEALS: Final = 1033
_FRAME: Final = re.compile(r'^  File "([^"\n]{1,200})", line (\d+) in (\S{1,100})', re.MULTILINE)
_THREAD: Final = re.compile(r"^(?:Current t|T)hread 0x[0-9a-f]+ .*$", re.MULTILINE)
_LAST_FRAME: Final = " in _run_module_as_main"
"""The outermost frame of the main thread."""
_OWN_CALLS: Final = frozenset(["_run_job", "end_client", "create_from"])
"""Functions of the host that run module code without a client's asking."""


class Culprit(msgspec.Struct, frozen=True):
    """The function of the module that ran: its name in the source, where exactly it was, and whether the database
    itself called it (a schedule or a hook) and will do so again."""

    function: str
    place: str
    is_own_call: bool


class LastWords:
    """The supervisor's end."""

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self.fd = os.memfd_create("spacetimedb-last-words", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(self.fd, SIZE)
            fcntl.fcntl(self.fd, _ADD_SEALS, _SEALS)
        else:
            self.fd, path = tempfile.mkstemp(prefix="spacetimedb-")
            os.unlink(path)
            os.ftruncate(self.fd, SIZE)

    def clear(self) -> None:
        """Room for the next to be written."""
        os.pwrite(self.fd, bytes(SIZE), 0)
        os.lseek(self.fd, 0, os.SEEK_SET)

    def text(self) -> str:
        """All of it, printable."""
        data = os.pread(self.fd, SIZE, 0).partition(b"\0")[0].decode("utf-8", "replace")
        return "".join(c for c in data if c.isprintable() or c == "\n")

    def culprit(self, is_whole: bool = True) -> Culprit | None:
        """Which function of the module the stacks show. `is_whole` False: they may still be being written."""
        return find_culprit(self.text(), is_whole)

    def close(self) -> None:
        """Forgets it."""
        os.close(self.fd)


def find_culprit(text: str, is_whole: bool = True) -> Culprit | None:
    """The thread in which module code runs, the main one rather than a procedure's: files of a module have relative
    paths, all others absolute ones.

    Threads are written one after the other, frame by frame, the innermost first. As long as the main one may be
    missing (`is_whole` False) no other is the culprit.
    """
    is_whole = is_whole or _LAST_FRAME in text
    culprit = None
    for thread in _THREAD.split(text)[1:]:
        frames = [(found[1], found[2], found[3]) for found in _FRAME.finditer(thread)]
        own = [frame for frame in frames if frame[0][0] not in "/<"]
        is_main = any(file.endswith("/transaction_actor.py") for file, _, _ in frames)
        if own and (is_main or (is_whole and culprit is None)):
            file, line, _name = own[0]
            culprit = Culprit(own[-1][2], f"{file}:{line}", any(name in _OWN_CALLS for _, _, name in frames))
            if is_main:
                break
    return culprit


def speak_into(fd: int) -> None:
    """In the process itself: standard output and error go there from now on, and so do stacks."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    faulthandler.enable(2, all_threads=True)
    faulthandler.register(STACK_SIGNAL, 2, all_threads=True, chain=False)
