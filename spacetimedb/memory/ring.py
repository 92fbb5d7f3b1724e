"""The commit ring: one producer, up to 16 consumers, in one shared region.

Layout (all words u64, native order; one cache line = 64 bytes)

    byte 0      magic            line 0: written once by `format_ring`
    byte 8      capacity         length of the data area, a multiple of the page size
    byte 64     head             line 1: the producer's; byte position behind the last published record
    byte 128    producer_waits   line 2: 1 while the producer waits for room, cleared by the consumer that wakes it
    byte 256    asleep[16]       two lines: 1 while consumer i sleeps, cleared by the producer that wakes it
    byte 1024   slot[16]         one line per consumer: position, state; state = generation * 2 + active
    byte 4096   data

Positions count bytes since the ring was formatted and never wrap; position p is at data byte p % capacity.

    record := total_length:u32  kind:u8  flags:u8  n:u16  body[total_length - 8]

`total_length` is a multiple of 8 and includes the header; `kind`, `flags`, `n` and the body belong to whoever writes
the record, but kind 0 is PAD: it fills the data area's end where the next record did not fit, so that every record is
contiguous. A record is at most a quarter of the capacity, a batch at most three quarters (its padding fits too).

Invariants

* The head is stored once per `append_batch`, after all data: a producer killed at any point leaves whole batches only.
* The producer writes only where `end - capacity <= position` of every active consumer. It keeps the smallest position
  it saw as a limit and looks again only when the limit is reached: positions never go back, so an old limit is safe.
* A consumer that attaches stores a position, then its active state, a fence, then takes the head as its position. A
  limit computed without seeing the active state was computed before that head was loaded, from positions <= it.
* A consumer's position says: I need nothing before this, neither records nor the heap rows they refer to.
* Whoever deactivates a slot only stores its state. A consumer looks at its state after it has copied and throws the
  copy away when it has been dropped, because the data may have been overwritten meanwhile.

Sleeping (see `region` for the barrier)

    consumer: asleep = 1; fence; if head has moved: asleep = 0, go on; else sleep in poll
    producer: store head; fence; for each raised flag: clear it, ring the bell

The flag is cleared before the bell is rung: a consumer that raises it anew in between then gets a ring too many, never
one too few. The producer's own wait for room is the same protocol with the roles exchanged.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from struct import Struct, unpack_from

from .region import STRONGLY_ORDERED, Region, fence, publish_fence

SLOTS = 16
"""Consumers at most."""
LOG_KEEPER_SLOT = 0
"""The consumer that is never dropped."""
PAD = 0
"""Kind of a record that only fills space."""

RECORD_HEADER = Struct("<IBBH")
"""total_length, kind, flags, n"""

_MAGIC = 0x31474E4952425453
_MAGIC_WORD, _CAPACITY_WORD, _HEAD_WORD, _WAITS_WORD = 0, 1, 8, 16
_ASLEEP_WORD, _SLOT_WORD, _SLOT_STRIDE = 32, 128, 8
_ASLEEP_START, _ASLEEP_END = _ASLEEP_WORD * 8, (_ASLEEP_WORD + SLOTS) * 8
_NOBODY_SLEEPS = bytes(SLOTS * 8)
_DATA = 4096
_MAX_RECORD = 0xFFFFFFF8


class RingCorrupt(Exception):
    """The words or records of a ring contradict each other."""


class RecordTooLarge(ValueError):
    """A record or batch is larger than the ring takes; larger ones go through the heap."""


class ReaderDropped(Exception):
    """This consumer's slot was deactivated: it has missed records and must start over."""


def pack_record(kind: int, flags: int, n: int, body: bytes) -> bytes:
    """A record with its header, zero-padded to a multiple of 8 (the body's own format tells where it ends)."""
    length = (len(body) + 15) & ~7
    return RECORD_HEADER.pack(length, kind, flags, n) + body + bytes(length - 8 - len(body))


def iter_records(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(kind, start, end) of each record in a result of `drain`, PAD left out; its header is at start."""
    at, size = 0, len(data)
    while at < size:
        length, kind = unpack_from("<IB", data, at)
        end = at + length
        if length < 8 or end > size:
            raise RingCorrupt(f"a record of length {length} at byte {at} of {size}")
        if kind:
            yield kind, at, end
        at = end


def format_ring(region: Region) -> None:
    """Makes a fresh region a ring: everything behind the first 4096 bytes becomes the data area."""
    capacity = region.size - _DATA
    if capacity < _DATA:
        raise ValueError(f"a ring needs at least {2 * _DATA} bytes, not {region.size}")
    region.words[_CAPACITY_WORD] = capacity
    publish_fence()
    region.words[_MAGIC_WORD] = _MAGIC


def _capacity(region: Region) -> int:
    if region.words[_MAGIC_WORD] != _MAGIC:
        raise RingCorrupt("the region is not formatted as a ring")
    return region.words[_CAPACITY_WORD]


def lags(region: Region) -> dict[int, int]:
    """Bytes that each active consumer has not taken yet, by slot. From any process, at any time."""
    words = region.words
    found = {}
    for slot in range(SLOTS):
        word = _SLOT_WORD + slot * _SLOT_STRIDE
        if words[word + 1] & 1:
            position = words[word]
            found[slot] = max(words[_HEAD_WORD] - position, 0)
    return found


def activate(region: Region, slot: int) -> int:
    """Gives a slot to a consumer, at the head, and returns that position.

    From any process: a slot activated before its consumer runs holds the records for it.
    """
    words, word = region.words, _SLOT_WORD + slot * _SLOT_STRIDE
    if not 0 <= slot < SLOTS:
        raise ValueError(f"slot {slot} of {SLOTS}")
    words[_ASLEEP_WORD + slot] = 0
    words[word] = words[_HEAD_WORD]
    publish_fence()
    words[word + 1] = (words[word + 1] | 1) + 2
    fence()
    position = words[_HEAD_WORD]
    words[word] = position
    return position


def deactivate(region: Region, slot: int) -> None:
    """The consumer of this slot no longer counts (it died, or is too slow). From any process."""
    words, word = region.words, _SLOT_WORD + slot * _SLOT_STRIDE
    words[word + 1] &= ~1
    fence()


class RingWriter:
    """The producer's end. `head` is the position behind the last published record.

    A restarted producer goes on at the published head: what its predecessor had not published was never visible.
    """

    __slots__ = (
        "_active",
        "_last_states",
        "_limit",
        "_memory",
        "_positions",
        "_region",
        "_states",
        "_wanted",
        "_words",
        "capacity",
        "head",
        "max_batch",
        "max_record",
    )

    def __init__(self, region: Region) -> None:
        self._region = region
        self._memory = region.bytes
        self._words = region.words
        self.capacity = _capacity(region)
        self.max_record = min(self.capacity // 4 & ~7, _MAX_RECORD)
        """Longest record, in bytes."""
        self.max_batch = self.capacity // 4 * 3
        """Longest sum of the records of one `append_batch`, in bytes."""
        last = _SLOT_WORD + SLOTS * _SLOT_STRIDE
        self._positions = region.words[_SLOT_WORD:last:_SLOT_STRIDE]
        self._states = region.words[_SLOT_WORD + 1 : last : _SLOT_STRIDE]
        self._last_states: list[int] = []
        self._active: list[int] = []
        self.head = self._words[_HEAD_WORD]
        self._limit = 0
        self._wanted = 0

    def append_batch(self, records: list[bytes]) -> int | None:
        """Publishes the records together; returns the position behind them, or None when there is no room now.

        Each record has its header and a length that is a multiple of 8. Raises RecordTooLarge for a record above
        `max_record` or a batch above `max_batch`.
        """
        data = b"".join(records)
        size = len(data)
        if size > self.max_record:
            self._check_sizes(records, size)
        if size & 7:
            raise ValueError("records must have lengths that are multiples of 8")
        head = self.head
        at = head % self.capacity
        if at + size <= self.capacity:
            end = head + size
            if end > self._limit and not self._room(end):
                return None
            at += _DATA
            self._memory[at : at + size] = data
        else:
            at_end = self._append_wrapped(records, data, at)
            if at_end is None:
                return None
            end = at_end
        if not STRONGLY_ORDERED:
            publish_fence()
        self._words[_HEAD_WORD] = end
        self.head = end
        return end

    def _append_wrapped(self, records: list[bytes], data: bytes, at: int) -> int | None:
        """The same for a batch that does not fit before the data area's end: writes without publishing."""
        rest = self.capacity - at
        ends = list(accumulate(map(len, records)))
        whole = bisect_right(ends, rest)
        cut = ends[whole - 1] if whole else 0
        pad = rest - cut
        end = self.head + len(data) + pad
        if end > self._limit and not self._room(end):
            return None
        memory, at = self._memory, at + _DATA
        memory[at : at + cut] = data[:cut]
        if pad:
            at += cut
            memory[at : at + 8] = RECORD_HEADER.pack(pad, PAD, 0, 0)
        memory[_DATA : _DATA + len(data) - cut] = data[cut:]
        return end

    def _check_sizes(self, records: list[bytes], size: int) -> None:
        longest = max(map(len, records))
        if longest > self.max_record:
            raise RecordTooLarge(f"a record of {longest} bytes, the ring takes {self.max_record}")
        if size > self.max_batch:
            raise RecordTooLarge(f"a batch of {size} bytes, the ring takes {self.max_batch}")

    def _room(self, end: int) -> bool:
        self._limit = self.min_position() + self.capacity
        self._wanted = end
        return end <= self._limit

    def min_position(self) -> int:
        """The smallest position of all active consumers (the head without any): nobody needs what is before it."""
        states = self._states.tolist()  # before the positions: see the invariants
        if states != self._last_states:
            self._last_states = states
            self._active = [slot for slot, state in enumerate(states) if state & 1]
        if not STRONGLY_ORDERED:
            publish_fence()
        if not self._active:
            return self.head
        positions = self._positions
        return min([positions[slot] for slot in self._active])

    def blockers(self) -> list[int]:
        """The slots that hold back the batch that was refused last."""
        least = self._wanted - self.capacity
        self.min_position()
        return [slot for slot in self._active if self._positions[slot] < least]

    def sleepers(self) -> list[int]:
        """Once per batch: slots of the consumers that sleep. Their flags are lowered: the caller rings their bells."""
        fence()
        flags = self._memory[_ASLEEP_START:_ASLEEP_END]
        if flags == _NOBODY_SLEEPS:
            return []
        words = self._words
        asleep = [slot for slot in range(SLOTS) if flags[slot * 8]]
        for slot in asleep:
            words[_ASLEEP_WORD + slot] = 0
        return asleep

    def prepare_wait(self) -> bool:
        """Announces that the producer sleeps until there is room for the refused batch; False if there is now.

        True: sleep until the producer's bell rings, then try again.
        """
        self._words[_WAITS_WORD] = 1
        fence()
        if self._room(self._wanted):
            self._words[_WAITS_WORD] = 0
            return False
        return True

    def deactivate(self, slot: int) -> None:
        deactivate(self._region, slot)

    def _check(self) -> None:
        """Raises RingCorrupt unless the words are consistent and the published records form a chain up to the head."""
        head = self._words[_HEAD_WORD]
        if head != self.head:
            raise RingCorrupt(f"head {head} is not the producer's {self.head}")
        position = self.min_position()
        for slot in self._active:
            if not head - self.capacity <= self._positions[slot] <= head:
                raise RingCorrupt(f"slot {slot} at {self._positions[slot]}, head {head}")
        while position < head:
            at = position % self.capacity
            length, _, _, _ = RECORD_HEADER.unpack_from(self._memory, _DATA + at)
            if length < 8 or length & 7 or at + length > self.capacity or position + length > head:
                raise RingCorrupt(f"a record of length {length} at position {position}, head {head}")
            position += length


class RingReader:
    """A consumer's end. `position` is what it has drained so far; `advance` publishes it.

    `resume` continues at the slot's published position (the log keeper after a restart); without it the slot starts at
    the head.
    """

    __slots__ = (
        "_asleep_word",
        "_memory",
        "_position_word",
        "_region",
        "_state",
        "_words",
        "capacity",
        "position",
        "slot",
    )

    def __init__(self, region: Region, slot: int, resume: bool = False) -> None:
        self._region = region
        self._memory = region.bytes
        self._words = region.words
        self.capacity = _capacity(region)
        self.slot = slot
        self._asleep_word = _ASLEEP_WORD + slot
        self._position_word = _SLOT_WORD + slot * _SLOT_STRIDE
        self.position = 0
        self._state = 0
        if resume and self._words[self._position_word + 1] & 1:
            self._state = self._words[self._position_word + 1]
            self.position = self._words[self._position_word]
        else:
            self.attach_at_head()

    def attach_at_head(self) -> int:
        """Starts (or starts over) with the next record to be published; returns the position."""
        self.position = activate(self._region, self.slot)
        self._state = self._words[self._position_word + 1]
        return self.position

    def drain(self, limit_bytes: int | None = None) -> bytes:
        """One copy of all published records not drained yet (b"" if there are none); moves `position` behind them.

        With a limit: as many whole records as fit in it, at least one. Raises ReaderDropped.
        """
        head = self._words[_HEAD_WORD]
        position = self.position
        size = head - position
        if not size:
            if self._words[self._position_word + 1] != self._state:
                raise ReaderDropped(f"slot {self.slot}")
            return b""
        if not STRONGLY_ORDERED:
            publish_fence()
        if limit_bytes is not None and size > limit_bytes:
            size = self._whole_records(position, size, limit_bytes)
        at = position % self.capacity
        rest = self.capacity - at
        at += _DATA
        if size <= rest:
            data = self._memory[at : at + size]
        else:
            with memoryview(self._memory) as view:
                data = b"".join((view[at : at + rest], view[_DATA : _DATA + size - rest]))
        if not STRONGLY_ORDERED:
            publish_fence()
        if self._words[self._position_word + 1] != self._state:
            raise ReaderDropped(f"slot {self.slot}")
        self.position = position + size
        return data

    def _whole_records(self, position: int, size: int, limit: int) -> int:
        """Length of the whole records from `position` that fit in `limit` bytes; of one record if none does."""
        memory, capacity, done = self._memory, self.capacity, 0
        while done < size:
            length: int = unpack_from("<I", memory, _DATA + (position + done) % capacity)[0]
            if length < 8 or done + length > size:
                if self._words[self._position_word + 1] != self._state:
                    raise ReaderDropped(f"slot {self.slot}")
                raise RingCorrupt(f"a record of length {length} at position {position + done}")
            if done and done + length > limit:
                break
            done += length
        return done

    def advance(self, position: int | None = None) -> bool:
        """Publishes that this consumer needs nothing before `position` (default: all it has drained).

        True if the producer waits for room: the caller rings its bell.
        """
        words = self._words
        if words[self._position_word + 1] != self._state:
            raise ReaderDropped(f"slot {self.slot}")
        if not STRONGLY_ORDERED:
            publish_fence()
        words[self._position_word] = self.position if position is None else position
        fence()
        if words[_WAITS_WORD]:
            words[_WAITS_WORD] = 0
            return True
        return False

    def check(self) -> None:
        """Raises ReaderDropped if this consumer was dropped: what it read from the heap may be wrong."""
        if self._words[self._position_word + 1] != self._state:
            raise ReaderDropped(f"slot {self.slot}")

    def pending(self) -> int:
        """Bytes published and not drained yet."""
        return self._words[_HEAD_WORD] - self.position

    def prepare_sleep(self) -> bool:
        """Raises the asleep flag; True if there is nothing to drain and the consumer may sleep until its bell rings."""
        self._words[self._asleep_word] = 1
        fence()
        if self._words[_HEAD_WORD] != self.position or self._words[self._position_word + 1] != self._state:
            self._words[self._asleep_word] = 0
            return False
        return True

    def awake(self) -> None:
        """After a sleep that ended for another reason than the bell: spares the producer a system call."""
        self._words[self._asleep_word] = 0
