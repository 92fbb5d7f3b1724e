"""What is said of a database process that ended, and what follows from it."""

from __future__ import annotations

import faulthandler
import signal
import tempfile
from pathlib import Path

from spacetimedb.workers.last_words import Culprit, LastWords, find_culprit
from spacetimedb.workers.supervisor.death import CAREFUL_AFTER, MAX_BACKOFF_S, QUIET_S, History, explain

STACKS = """Fatal Python error: Segmentation fault

Thread 0x00007f01 (most recent call first):
  File "module.py", line 90 in spin
  File "/lib/spacetimedb/hosts/procedures.py", line 300 in <lambda>
  File "/lib/spacetimedb/hosts/procedure_threads.py", line 90 in _run_next

Current thread 0x00007f02 (most recent call first):
  File "game/rules.py", line 12 in match
  File "<template of entry>", line 3 in insert
  File "game/__init__.py", line 40 in tick
  File "/lib/spacetimedb/hosts/database.py", line 390 in run
  File "/lib/spacetimedb/hosts/database.py", line 380 in _run_job
  File "/lib/spacetimedb/workers/transaction_actor/transaction_actor.py", line 200 in run
"""


def test_the_culprit_is_found_in_the_main_thread() -> None:
    assert find_culprit(STACKS) == Culprit("tick", "game/rules.py:12", True)
    other = STACKS.replace("game/", "/lib/").replace("_run_job", "call")
    assert find_culprit(other) == Culprit("spin", "module.py:90", False)
    assert find_culprit("Thread 0x1 (most recent call first):\n  no frame\n") is None
    assert find_culprit("") is None


def test_stacks_that_are_still_being_written_blame_nobody_in_vain() -> None:
    """The main thread comes last: what has been written of the others says nothing yet."""
    lines = STACKS.splitlines(keepends=True)
    found = [find_culprit("".join(lines[:count]), is_whole=False) for count in range(len(lines) + 1)]
    first = found.index(Culprit("tick", "game/rules.py:12", True))
    assert found[:first] == [None] * first
    idle = STACKS.replace("game/", "/lib/") + '  File "<frozen runpy>", line 198 in _run_module_as_main\n'
    assert find_culprit(idle, is_whole=False) == Culprit("spin", "module.py:90", False)


def test_last_words_are_cut_and_cleaned() -> None:
    words = LastWords()
    with open(words.fd, "r+b", buffering=0, closefd=False) as file:
        file.write(b"one\x1b[31m\n\xff two")
        assert words.text() == "one[31m\n\N{REPLACEMENT CHARACTER} two"
        words.clear()
        assert words.text() == ""
        assert file.write(b"again") == 5
    assert words.text() == "again"
    words.close()


def test_the_format_is_that_of_this_python() -> None:
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file)
        file.seek(0)
        text = file.read().decode().replace(str(Path(__file__)), "module.py")
    culprit = find_culprit(text)
    assert culprit is not None
    assert culprit.function == "test_the_format_is_that_of_this_python"


def test_texts() -> None:
    tick = Culprit("tick", "module.py:3", True)
    stuck = explain(-signal.SIGKILL, True, tick, "")
    assert stuck.text == "`tick` did not return and could not be interrupted"
    assert stuck.detail == "`tick` (module.py:3) did not return and could not be interrupted"
    crash = explain(-signal.SIGSEGV, False, None, "")
    assert crash.detail == "a function of the module crashed the database process (SIGSEGV)"
    status = explain(1, False, None, "Traceback ...\nMemoryError: in /a/path")
    assert status.text == "the database process ended", "clients do not see the last words"
    assert status.detail.endswith("with status 1: MemoryError: in /a/path")
    assert explain(-signal.SIGKILL, False, None, "").is_ours


def test_ends_in_a_row() -> None:
    history = History()
    tick = explain(-signal.SIGSEGV, False, Culprit("tick", "module.py:3", True), "")
    waits = []
    for number in range(1, 12):
        history.add(tick, 5.0)
        waits.append(history.backoff_s)
        assert history.is_careful == (number >= CAREFUL_AFTER)
    assert waits[:3] == [0.1, 0.1, 0.1]
    assert waits == sorted(waits)
    assert waits[-1] == MAX_BACKOFF_S
    assert "schedules do not run" in history.notes[-1].text
    history.add(tick, QUIET_S + 1)
    assert not history.is_careful
    assert history.backoff_s == 0.1
    history.add(explain(-signal.SIGKILL, False, None, ""), 5.0)
    assert history.backoff_s == 0.0, "who was killed from outside starts again at once"
