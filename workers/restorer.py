"""The restorer: a short-lived process that turns a backup into the directory of a database.

It reads and checks everything in the backup: whole databases are in its memory, not in the supervisor's.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from pathlib import Path

from spacetimedb.log.backup import unpack_backup
from spacetimedb.log.snapshot import SnapshotDamaged
from spacetimedb.workers.channel import Channel, ChannelClosed
from spacetimedb.workers.messages import RestoreDone, RestoreFailed, RestorerSetup
from spacetimedb.workers.snapshotter import NICENESS


def run(setup: RestorerSetup) -> RestoreDone | RestoreFailed:
    """Unpacks the backup and tells how that went."""
    backup = Path(setup.backup)
    try:
        unpacked = unpack_backup(backup, Path(setup.directory), setup.identity, setup.owner, time.time_ns() // 1000)
    except SnapshotDamaged as error:
        return RestoreFailed(str(error).replace(str(backup), "the backup"))
    except OSError as error:
        return RestoreFailed(f"the backup cannot be unpacked: {error.strerror}")
    return RestoreDone(unpacked.next_offset, unpacked.rows, unpacked.owner, unpacked.program, unpacked.program_hash)


def main() -> None:
    """Entry of the process; the argument is the number of the inherited channel descriptor."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS)
    gc.disable()
    channel = Channel.from_fd(int(sys.argv[1]), RestorerSetup)
    first = channel.receive()
    if first is None:
        return
    try:
        channel.send(run(first[0]))
    except ChannelClosed:
        pass


if __name__ == "__main__":
    main()
