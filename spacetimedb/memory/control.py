"""The control block: one small region per database with 64-bit words that every process may read.

Each word has one writer; words of different writers are on different cache lines (8 words). All are u64, native order,
and single loads and stores never tear. Times are microseconds of the system-wide monotonic clock.

    word  name                   writer       meaning
    0     magic, 1 version       supervisor   set when the block is made
    8     next_offset            actor        offset the next transaction will get
    9     transactions           actor        committed transactions that got an offset
    10    reducer_calls          actor
    11    reducer_errors         actor        calls that ended in an error
    12    mailbox_depth          actor        bytes waiting in all mailboxes when the actor last looked
    13    ring_position          actor        position behind the last record in the commit ring
    14    heap_bytes             actor        high-water mark of the row heap
    15    rows                   actor        committed rows in all tables
    16    actor_heartbeat        actor        counts up while it works; 0: it sleeps, starts, or may take its time;
                                              DEFIANT: it runs a call that cannot be stopped
    17    actor_pid              actor
    18    actor_state            actor        0 starting, 1 recovering, 2 serving, 3 stopped
    19    ring_stalls            actor        times the actor waited for room in the commit ring
    21    reducer_micros         actor        microseconds spent in reducers
    32    durable                log keeper   durable offset + 1; 0: nothing is durable yet
    33    log_ring_position      log keeper   everything before it is durable
    35    log_pid                log keeper
    36    log_bytes              log keeper   bytes written to the log since start
    37    log_syncs              log keeper   fdatasync calls since start
    38    log_failed             log keeper   1: a write failed, nothing is accepted any more
    39    log_full               log keeper   1: there is no room for the log, calls are refused until there is
    56    expects_log            supervisor   as that of a reader
    57    host_starts            supervisor   how often an actor was started for the database, this one included
    58    host_failures          supervisor   how often that failed
    64    reader 0               reader       eight words each, up to reader 15:
                                              +0 expects_log (lowered by the log keeper),
                                              +1 pid, +2 connections, +3 subscriptions, +4 live queries,
                                              +5 messages sent, +6 connections dropped
    512                          actor        its board of figures (see `figures`), 65536 words
    66048                        log keeper   its board, 2048 words
    68096                        readers      their boards, 8192 words each
    199168                       readers      what their queries cost, as notices (see `notice`), 2048 words each

The constants below are indexes into `ControlBlock.words`; a store takes 30 ns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .figures import Board, Figure, figures
from .notice import Notice
from .region import Region, fence

NEXT_OFFSET: Final = 8
TRANSACTIONS: Final = 9
REDUCER_CALLS: Final = 10
REDUCER_ERRORS: Final = 11
MAILBOX_DEPTH: Final = 12
RING_POSITION: Final = 13
HEAP_BYTES: Final = 14
ROWS: Final = 15
ACTOR_HEARTBEAT: Final = 16
ACTOR_PID: Final = 17
ACTOR_STATE: Final = 18
RING_STALLS: Final = 19
REDUCER_MICROS: Final = 21
DURABLE: Final = 32
LOG_RING_POSITION: Final = 33
LOG_PID: Final = 35
LOG_BYTES: Final = 36
LOG_SYNCS: Final = 37
LOG_FAILED: Final = 38
LOG_FULL: Final = 39
HOST_STARTS: Final = 57
HOST_FAILURES: Final = 58
READERS: Final = 64

READER_SLOTS: Final = 16
SUPERVISOR_SLOT: Final = -1
"""Its place among the readers, where it waits for the log."""
READER_WORDS: Final = 8
READER_EXPECTS_LOG: Final = 0
READER_PID: Final = 1
READER_CONNECTIONS: Final = 2
READER_SUBSCRIPTIONS: Final = 3
READER_QUERIES: Final = 4
READER_MESSAGES: Final = 5
READER_DROPPED: Final = 6

STARTING, RECOVERING, SERVING, STOPPED = 0, 1, 2, 3
"""Values of `actor_state`."""
DEFIANT: Final = (1 << 64) - 1
"""Value of `actor_heartbeat`."""

ACTOR_BOARD: Final = (512, 65536)
"""First word and words of the actor's figures."""
LOG_KEEPER_BOARD: Final = (66048, 2048)
READER_BOARDS: Final = 68096
READER_BOARD_WORDS: Final = 8192
READER_NOTICES: Final = READER_BOARDS + READER_SLOTS * READER_BOARD_WORDS
READER_NOTICE_WORDS: Final = 2048

SIZE: Final = 8 * (READER_NOTICES + READER_SLOTS * READER_NOTICE_WORDS)
"""Bytes of the block's region; what is not used takes no memory."""

_MAGIC = 0x4C525443_42445453
_VERSION = 1


class ControlBlock:
    """Named access to the words of one database's control region."""

    __slots__ = ("region", "words")

    def __init__(self, region: Region) -> None:
        self.region = region
        self.words = region.words
        if self.words[0] != _MAGIC or self.words[1] != _VERSION:
            raise ValueError("the region is no control block of this version")

    @classmethod
    def create(cls, region: Region) -> ControlBlock:
        """Makes a fresh region of at least `SIZE` bytes a control block."""
        if region.size < SIZE:
            raise ValueError(f"a control block needs {SIZE} bytes, not {region.size}")
        region.words[1] = _VERSION
        region.words[0] = _MAGIC
        return cls(region)

    @property
    def durable_offset(self) -> int | None:
        """Highest offset that survives any crash; None before the first."""
        word = self.words[DURABLE]
        return word - 1 if word else None

    def publish_durable(self, offset: int, ring_position: int) -> None:
        """Log keeper: everything up to `offset`, in the ring up to `ring_position`, is on disk."""
        self.words[DURABLE] = offset + 1
        self.words[LOG_RING_POSITION] = ring_position

    def expect_log(self, slot: int) -> None:
        """A reader wants to be rung when the log keeper has written more; it looks once more how far it is now."""
        self.words[READERS + slot * READER_WORDS + READER_EXPECTS_LOG] = 1
        fence()

    def take_expecting(self, slot: int) -> bool:
        """Log keeper, after it has published how far it is, and a fence: whether this reader is to be rung."""
        word = READERS + slot * READER_WORDS + READER_EXPECTS_LOG
        if self.words[word]:
            self.words[word] = 0
            return True
        return False

    @property
    def next_offset(self) -> int:
        """Offset of the next transaction."""
        return self.words[NEXT_OFFSET]

    def actor_board(self) -> Board:
        """The actor's figures, for the actor."""
        return Board(self.words, *ACTOR_BOARD)

    def log_keeper_board(self) -> Board:
        """The log keeper's figures, for the log keeper."""
        return Board(self.words, *LOG_KEEPER_BOARD)

    def reader_board(self, slot: int) -> Board:
        """A reader's figures, for the reader."""
        return Board(self.words, READER_BOARDS + slot * READER_BOARD_WORDS, READER_BOARD_WORDS)

    def reader_notice(self, slot: int) -> Notice:
        """Where a reader says what its queries cost."""
        return Notice(self.region, READER_NOTICES + slot * READER_NOTICE_WORDS, READER_NOTICE_WORDS)

    def boards(self) -> list[tuple[int, int]]:
        """First word and words of every board."""
        readers = [(READER_BOARDS + slot * READER_BOARD_WORDS, READER_BOARD_WORDS) for slot in range(READER_SLOTS)]
        return [ACTOR_BOARD, LOG_KEEPER_BOARD, *readers]

    def figures(self) -> Iterator[Figure]:
        """What is on all boards. Nobody waits for it."""
        for first, size in self.boards():
            yield from figures(self.words, first, size)

    def reader_sums(self) -> list[int]:
        """The words `READER_...`, each added up over all readers."""
        words = self.words[READERS : READERS + READER_SLOTS * READER_WORDS].tolist()
        return [sum(words[word::READER_WORDS]) for word in range(READER_WORDS)]

    def reader(self, slot: int, word: int) -> int:
        """A word (`READER_...`) of a reader."""
        return self.words[self.reader_word(slot, word)]

    def reader_word(self, slot: int, word: int) -> int:
        """Index into `words` of a reader's word."""
        if not (0 <= slot < READER_SLOTS and 0 <= word < READER_WORDS):
            raise ValueError(f"reader {slot}, word {word}")
        return READERS + slot * READER_WORDS + word
