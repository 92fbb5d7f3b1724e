"""A child process of the supervisor and the channel to it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any, Final

import trio

from spacetimedb.workers.channel import ChannelClosed
from spacetimedb.workers.task_channel import TaskChannel

_HARMLESS_VARIABLES: Final = frozenset(
    ["HOME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ", "VIRTUAL_ENV"]
)
STOP_S: Final = 10.0
"""A process that was told to stop and has not after this time is killed."""


class Child:
    """A child process and our end of its channel."""

    def __init__(self, name: str, process: trio.Process, channel: TaskChannel) -> None:
        self.name = name
        self.process = process
        self.channel = channel

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    async def stop(self, message: Any = None) -> None:
        """Sends Stop, waits for the end, kills what does not end in time."""
        with trio.CancelScope(shield=True):
            try:
                if message is not None:
                    await self.channel.send_async(message)
            except ChannelClosed:
                pass
            with trio.move_on_after(STOP_S):
                await self.process.wait()
            if self.process.returncode is None:
                self.process.kill()
                await self.process.wait()
            self.channel.close()


def bare_environment() -> dict[str, str]:
    """For processes that run modules: what Python needs to start, and nothing that might be a secret."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _HARMLESS_VARIABLES or name.startswith(("LC_", "PYTHON"))
    }


async def start_child(name: str, module: str, kinds: Any, *arguments: str, is_trusted: bool = True) -> Child:
    """Starts `python -m module` with a channel. Raises OSError where the system has no room for it.

    `-P`: files and folders of the directory in which the server was started are no modules to it.
    `arguments` tell whoever looks at the list of processes what it works for.
    `is_trusted` False: it runs modules, and has no business with the environment.
    """
    ours, theirs = TaskChannel.pair()
    environment = {**(os.environ if is_trusted else bare_environment()), "PYTHONHASHSEED": "0"}
    try:
        with theirs:
            process = await trio.lowlevel.open_process(
                [sys.executable, "-P", "-m", module, str(theirs.fileno()), *arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment,
            )
    except BaseException:
        ours.close()
        raise
    return Child(name, process, TaskChannel(ours, kinds, takes_descriptors=False))
