"""Messages on the control channels. Each names the descriptors that travel with it, in order.

`bell` stands for the descriptors of a doorbell: one (eventfd) or two (pipe), see BELL_FDS.
"""

from __future__ import annotations

import sys
from typing import Any, Final, Literal

import msgspec

from spacetimedb.auth.publishers import Publishers
from spacetimedb.workers.sandbox import Confinement

BELL_FDS: Final = 1 if sys.platform == "linux" else 2
MAX_READERS: Final = 15
"""Reader r takes slot r + 1 of the commit ring; slot 0 is the log keeper's."""


class _Message(msgspec.Struct, tag=True, array_like=True):
    pass


# supervisor -> transaction actor


class Note(msgspec.Struct, array_like=True):
    """A line for the module log about a function of the module; `function` None: about the database."""

    function: str | None
    text: str


class ActorSetup(_Message):
    """First message. Descriptors: control block, commit ring, row heap, own bell, log keeper's bell, last words, and
    the socket for HTTP requests if `has_outbound`."""

    identity: bytes
    owner: bytes
    create: bool
    """True: a new database with `program`; False: recover it from `log_directory`."""
    program: bytes
    program_hash: bytes
    log_directory: str | None
    confinement: Confinement
    has_outbound: bool = False
    libraries: list[str] = []
    """To be loaded though the program does not import them yet."""
    notes: list[Note] = []
    """Why the actor before it ended."""
    is_careful: bool = False
    """Run nothing that no client asks for: no schedules until the next program, no hooks of lost clients."""
    checks_determinism: bool = False
    """See `ModuleRules`."""


class ActorOutbound(_Message):
    """HTTP requests go another way from now on. Descriptors: the socket."""


class ActorAttachReader(_Message):
    """A reader may send. Descriptors: its mailbox, its bell."""

    reader: int


class DetachReader(_Message):
    """A reader process ended (to the actor and the log keeper)."""

    reader: int


class UpdateProgram(_Message):
    """Run this program from now on, and change the tables as it needs. `break_clients`: clients may be disconnected."""

    program: bytes
    program_hash: bytes
    break_clients: bool


class AnnounceRows(_Message):
    """Say how many rows there are."""


class Stop(_Message):
    """Finish what was accepted, then exit."""


# transaction actor -> supervisor


class ActorRecovered(_Message):
    """First message: the log has been read. From here on code of the module may run."""


class ActorReady(_Message):
    """The database serves. `definition` is the raw module definition as BSATN, `table_ids` by canonical name."""

    definition: bytes
    table_ids: dict[str, int]
    next_offset: int
    program_hash: bytes
    generation: int
    """How many programs this actor has loaded: calls name it together with their reducer's id."""
    not_durable: list[str]
    """Names of the tables whose rows are in memory only."""
    libraries: list[str] = []
    """Libraries beside Python's own that the process has loaded; it can load no more."""
    recovered_program: bytes | None = None
    """The program that the log has, if it is another than the supervisor knows: an update whose end it did not see."""


class ActorFailed(_Message):
    """The database cannot start, or an update failed and the old program goes on. The text is for the publisher."""

    text: str


class SlowReader(_Message):
    """The actor dropped a reader that held back the commit ring for too long."""

    reader: int


class RowCounts(_Message):
    """Rows of each logged table, by id, after the first `next_offset` transactions."""

    next_offset: int
    rows: dict[int, int]


# supervisor -> snapshotter


class SnapshotterSetup(_Message):
    """Take a snapshot of the first `next_offset` transactions, which are durable, and compare it with `rows`."""

    identity: bytes
    log_directory: str
    snapshot_directory: str
    next_offset: int
    row_counts: dict[int, int]
    keep: int
    prune_log: bool


# snapshotter -> supervisor


class SnapshotDone(_Message):
    """The snapshot is on disk."""

    path: str
    next_offset: int
    rows: int
    bytes: int
    seconds: float


class SnapshotFailed(_Message):
    """No snapshot was written. `diverged`: because database and log disagree."""

    text: str
    diverged: bool


# supervisor -> loader


class Load(msgspec.Struct):
    """A program to be loaded, and how the process that does so is to confine itself."""

    program: bytes
    confinement: Confinement


# loader -> supervisor


class Loaded(msgspec.Struct):
    """`problem` None: `definition` is the raw module definition as BSATN; else a text for the author. `libraries`:
    those beside Python's own that it imports. `not_durable`: tables whose rows are not kept. `migrations`: table, row
    type (BSATN) and name of each migration function."""

    definition: bytes
    problem: str | None
    libraries: list[str] = []
    not_durable: list[str] = []
    migrations: list[tuple[str, bytes, str]] = []


# supervisor -> restorer


class RestorerSetup(_Message):
    """Make the directory of database `identity` from a backup; `owner` None: it keeps the one in the backup."""

    backup: str
    directory: str
    identity: bytes
    owner: bytes | None


# restorer -> supervisor


class RestoreDone(_Message):
    """The directory is made."""

    next_offset: int
    rows: int
    owner: bytes
    program: bytes
    program_hash: bytes


class RestoreFailed(_Message):
    """It is not; the text is for whoever brought the backup."""

    text: str


# supervisor -> log keeper


class LogKeeperSetup(_Message):
    """First message. Descriptors: control block, commit ring, row heap, own bell, actor's bell.

    `log_directory` None: nothing is written, everything counts as durable.
    """

    log_directory: str | None
    module_log_directory: str
    distrust: bool = False
    """The log keeper before failed to write or sync: only what is known to be durable counts."""


class LogAttachReader(_Message):
    """A reader waits for the durable offset. Descriptors: its bell."""

    reader: int


# log keeper -> supervisor


class LogKeeperReady(_Message):
    """The log is open at this offset."""

    next_offset: int


class LogKeeperFailed(_Message):
    """The log cannot be opened; the text says why. `is_full`: for want of room."""

    text: str
    is_full: bool = False


class LogKeeperDone(_Message):
    """After Stop: everything that was in the ring is on disk."""


# supervisor -> reader


class ReaderSetup(_Message):
    """First message. Descriptors: listening socket, own bell."""

    reader: int
    private_key: bytes
    public_key: bytes
    demo_directory: str | None
    dashboard: Literal["local", "token", "off"] = "local"
    """Who may use the dashboard."""
    publishers: Publishers = Publishers()


class DatabaseUp(_Message):
    """A database serves. Descriptors: control block, commit ring, row heap, mailbox to the actor, actor's bell."""

    identity: bytes
    owner: bytes
    definition: bytes
    table_ids: dict[str, int]
    initial_program: bytes
    module_log_directory: str
    generation: int
    is_update: bool
    """True: the same processes go on with another program; no descriptors travel."""


class DatabaseDown(_Message):
    """A database stopped serving; its clients are closed. `deleted`: it will not come back by itself. `reason`: why it
    was stopped, if the module was the cause."""

    identity: bytes
    deleted: bool
    reason: str = ""


class DatabaseRecord(msgspec.Struct, array_like=True):
    """A database that exists, whether or not it serves at the moment."""

    identity: bytes
    owner: bytes
    initial_program: bytes
    locked: bool


class Directory(_Message):
    """All names with their identities, in order, and all databases in order of creation."""

    names: list[tuple[str, bytes]]
    databases: list[DatabaseRecord]


class Reply(_Message):
    """The answer to a Request. `kind` ok: `body` is the value as MessagePack; error: a text for the client, with an
    HTTP status; denied, in_use: `body` is the name."""

    request_id: int
    kind: str
    status: int
    body: bytes


class Ping(_Message):
    """Somebody says that this reader is stuck."""


# reader -> supervisor


class Pong(_Message):
    """It is not."""


class Request(_Message):
    """A change of the control store, or a question about it; `method` is one of `ControlPlane`'s."""

    request_id: int
    method: str
    arguments: dict[str, Any]


ToActor = ActorSetup | ActorOutbound | ActorAttachReader | DetachReader | UpdateProgram | AnnounceRows | Stop
FromActor = ActorRecovered | ActorReady | ActorFailed | SlowReader | RowCounts
ToLogKeeper = LogKeeperSetup | LogAttachReader | DetachReader | Stop
FromLogKeeper = LogKeeperReady | LogKeeperFailed | LogKeeperDone
FromSnapshotter = SnapshotDone | SnapshotFailed
FromRestorer = RestoreDone | RestoreFailed
ToReader = ReaderSetup | DatabaseUp | DatabaseDown | Directory | Reply | Ping | Stop
FromReader = Request | Pong
