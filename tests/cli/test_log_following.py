"""`spacetime logs -f` ends at Ctrl-C, whenever it comes."""

from __future__ import annotations

import subprocess
import sys

from patience import PATIENCE_S
from smoketest import User

PROGRAM = """
import signal, sys, threading, time
from spacetimedb.cli.main import main

def press():
    sys.stdin.read(1)
    while sys._current_frames()[threading.main_thread().ident].f_code.co_name != "readinto":
        time.sleep(0.01)
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)

threading.Thread(target=press, daemon=True).start()
main()
"""
"""The thread takes the signal, so it interrupts no call of the main one: as if it had come just before the call."""
MODULE = b"from spacetimedb import Module\nm = Module()\n"


def test_a_ctrl_c_that_interrupts_nothing_is_noticed(user: User) -> None:
    user.home.joinpath("quiet.py").write_bytes(MODULE)
    user.run("publish", "quiet-log", "--module-path", str(user.home / "quiet.py"), "-y")
    command = [sys.executable, "-c", PROGRAM, "--root-dir", str(user.home), "logs", "-f", "quiet-log"]
    following = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert following.stdout is not None
        assert b"Database initialized" in following.stdout.readline()
        _, complaints = following.communicate(b"\n", PATIENCE_S)
        assert (following.returncode, complaints) == (0, b"")
    finally:
        following.kill()
        following.wait()
