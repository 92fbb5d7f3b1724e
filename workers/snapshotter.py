"""The snapshotter: a short-lived process that writes one snapshot of one database.

It reads files only: the newest snapshot and the commit log up to an offset that is durable. The database does not wait
for it and is not asked anything; it runs at low priority beside it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Final

from spacetimedb.log.files import OPERATING_SYSTEM
from spacetimedb.log.recovery import ReplayError
from spacetimedb.log.segments import LogDamaged
from spacetimedb.log.snapshotter import Diverged, take_snapshot
from spacetimedb.workers.channel import Channel, ChannelClosed
from spacetimedb.workers.messages import SnapshotDone, SnapshotFailed, SnapshotterSetup

NICENESS: Final = 10
LOCK_NAME: Final = "snapshot.lock"


def run(setup: SnapshotterSetup) -> SnapshotDone | SnapshotFailed:
    """Takes the snapshot and tells how that went."""
    directory = Path(setup.snapshot_directory)
    started = time.monotonic()
    try:
        OPERATING_SYSTEM.make_directory(directory)
        lock = OPERATING_SYSTEM.lock(directory / LOCK_NAME)
    except OSError as error:
        return SnapshotFailed(f"{directory / LOCK_NAME}: {error}", False)
    try:
        taken = take_snapshot(
            Path(setup.log_directory),
            directory,
            setup.next_offset,
            setup.identity,
            time.time_ns() // 1000,
            setup.row_counts,
            keep=setup.keep,
            prune_log=setup.prune_log,
        )
    except Diverged as error:
        return SnapshotFailed(str(error), True)
    except ReplayError as error:
        return SnapshotFailed(str(error), True)
    except (LogDamaged, OSError) as error:
        return SnapshotFailed(str(error), False)
    finally:
        OPERATING_SYSTEM.close(lock)
    return SnapshotDone(
        str(taken.path), taken.next_offset, taken.rows, taken.path.stat().st_size, time.monotonic() - started
    )


def main() -> None:
    """Entry of the process; the argument is the number of the inherited channel descriptor."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS)
    channel = Channel.from_fd(int(sys.argv[1]), SnapshotterSetup)
    first = channel.receive()
    if first is None:
        return
    try:
        channel.send(run(first[0]))
    except ChannelClosed:
        pass


if __name__ == "__main__":
    main()
