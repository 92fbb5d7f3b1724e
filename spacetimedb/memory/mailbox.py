"""Mailboxes: one producer, one consumer, one shared region.

Layout (u64 words, native order; every word on a cache line of its own)

    byte 0      magic, capacity    written once by `format_mailbox`
    byte 64     head               producer's: byte position behind the last published record
    byte 128    tail               consumer's: byte position of the first record not taken yet
    byte 192    consumer_asleep    1 while the consumer sleeps, cleared by the producer that wakes it
    byte 256    producer_waits     1 while the producer waits for room, cleared by the consumer that wakes it
    byte 320    waiting_since      producer's: monotonic microseconds at which it last sent into an empty mailbox
    byte 4096   data, `capacity` bytes

Records have the framing of the commit ring (`ring.pack_record`, `ring.iter_records`). Positions are monotone byte
counters. The producer writes a whole batch, then stores the head once; the consumer copies all up to the head at once,
then moves the tail: both sides see whole batches only, also when the other is killed at any point. Since the consumer
copies everything anyway, a record may cross the data area's end; no padding is needed.

The sleep protocol is that of `ring`, with its fences.
"""

from __future__ import annotations

from time import monotonic_ns

from .region import STRONGLY_ORDERED, Region, fence, publish_fence
from .ring import RecordTooLarge, RingCorrupt

_MAGIC = 0x31584F424D425453
_MAGIC_WORD, _CAPACITY_WORD, _HEAD_WORD, _TAIL_WORD, _ASLEEP_WORD, _WAITS_WORD = 0, 1, 8, 16, 24, 32
_SINCE_WORD = 40
_DATA = 4096


def format_mailbox(region: Region) -> None:
    """Makes a fresh region a mailbox: everything behind the first 4096 bytes becomes the data area."""
    capacity = region.size - _DATA
    if capacity < _DATA:
        raise ValueError(f"a mailbox needs at least {2 * _DATA} bytes, not {region.size}")
    region.words[_CAPACITY_WORD] = capacity
    publish_fence()
    region.words[_MAGIC_WORD] = _MAGIC


def _capacity(region: Region) -> int:
    if region.words[_MAGIC_WORD] != _MAGIC:
        raise RingCorrupt("the region is not formatted as a mailbox")
    return region.words[_CAPACITY_WORD]


class MailboxWriter:
    """The producer's end; goes on at the published head."""

    __slots__ = ("_head", "_limit", "_memory", "_wanted", "_words", "capacity")

    def __init__(self, region: Region) -> None:
        self.capacity = _capacity(region)
        self._memory = region.bytes
        self._words = region.words
        self._head = self._words[_HEAD_WORD]
        self._limit = 0
        self._wanted = 0

    def send_batch(self, data: bytes) -> bool:
        """Publishes whole records; False when there is no room for all of them now (nothing is written).

        Raises RecordTooLarge when they could never fit.
        """
        size = len(data)
        head = self._head
        end = head + size
        if end > self._limit:
            if size > self.capacity:
                raise RecordTooLarge(f"a batch of {size} bytes, the mailbox takes {self.capacity}")
            self._wanted = end
            self._limit = self._words[_TAIL_WORD] + self.capacity
            if end > self._limit:
                return False
            if not STRONGLY_ORDERED:
                publish_fence()
        if self._words[_TAIL_WORD] == head:
            self._words[_SINCE_WORD] = monotonic_ns() // 1000
        at = head % self.capacity
        rest = self.capacity - at
        at += _DATA
        if size <= rest:
            self._memory[at : at + size] = data
        else:
            self._memory[at : at + rest] = data[:rest]
            self._memory[_DATA : _DATA + size - rest] = data[rest:]
        if not STRONGLY_ORDERED:
            publish_fence()
        self._words[_HEAD_WORD] = end
        self._head = end
        return True

    def take_sleeper(self) -> bool:
        """Once per batch, after sending: True if the consumer sleeps; the caller then rings its bell."""
        fence()
        if self._words[_ASLEEP_WORD]:
            self._words[_ASLEEP_WORD] = 0
            return True
        return False

    def prepare_wait(self) -> bool:
        """Announces that the producer sleeps until there is room for the refused batch; False if there is now."""
        self._words[_WAITS_WORD] = 1
        fence()
        if self._words[_TAIL_WORD] + self.capacity >= self._wanted:
            self._words[_WAITS_WORD] = 0
            return False
        return True


class MailboxReader:
    """The consumer's end; goes on at the published tail (records taken by a killed predecessor are gone)."""

    __slots__ = ("_memory", "_tail", "_words", "capacity")

    def __init__(self, region: Region) -> None:
        self.capacity = _capacity(region)
        self._memory = region.bytes
        self._words = region.words
        self._tail = self._words[_TAIL_WORD]

    def drain(self) -> bytes:
        """All records published so far in one copy, b"" if there are none."""
        head = self._words[_HEAD_WORD]
        tail = self._tail
        size = head - tail
        if not size:
            return b""
        if size > self.capacity:
            raise RingCorrupt(f"mailbox head {head}, tail {tail}, capacity {self.capacity}")
        if not STRONGLY_ORDERED:
            publish_fence()
        at = tail % self.capacity
        rest = self.capacity - at
        at += _DATA
        if size <= rest:
            data = self._memory[at : at + size]
        else:
            with memoryview(self._memory) as view:
                data = b"".join((view[at : at + rest], view[_DATA : _DATA + size - rest]))
        if not STRONGLY_ORDERED:
            publish_fence()
        self._words[_TAIL_WORD] = head
        self._tail = head
        return data

    def waited_us(self) -> int:
        """After draining: how long the oldest of the records had waited."""
        return max(monotonic_ns() // 1000 - self._words[_SINCE_WORD], 0)

    def take_waiter(self) -> bool:
        """After draining: True if the producer waits for room; the caller then rings its bell."""
        fence()
        if self._words[_WAITS_WORD]:
            self._words[_WAITS_WORD] = 0
            return True
        return False

    def prepare_sleep(self) -> bool:
        """Raises the asleep flag; True if there is nothing to take and the consumer may sleep until its bell rings."""
        self._words[_ASLEEP_WORD] = 1
        fence()
        if self._words[_HEAD_WORD] != self._tail:
            self._words[_ASLEEP_WORD] = 0
            return False
        return True

    def awake(self) -> None:
        """After a sleep that ended for another reason than the bell: spares the producer a system call."""
        self._words[_ASLEEP_WORD] = 0
