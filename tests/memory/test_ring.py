"""The commit ring: framing, wrap-around, attach and drop, and real processes that are killed."""

from __future__ import annotations

import random
import signal
import time
import zlib
from struct import pack, unpack_from
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import PATIENCE_S

from spacetimedb.memory.doorbell import Doorbell
from spacetimedb.memory.region import Region
from spacetimedb.memory.ring import (
    ReaderDropped,
    RecordTooLarge,
    RingCorrupt,
    RingReader,
    RingWriter,
    deactivate,
    format_ring,
    iter_records,
    lags,
    pack_record,
)

from .processes import LOST_S, Child

LAST = 2


def make_ring(capacity: int = 4096) -> Region:
    region = Region.private(4096 + capacity)
    format_ring(region)
    return region


def bodies(data: bytes) -> list[bytes]:
    return [data[at + 8 : end] for _, at, end in iter_records(data)]


def test_record_layout() -> None:
    assert pack_record(3, 4, 0x0102, b"abc") == bytes.fromhex("10000000 03 04 0201 616263 0000000000")
    assert pack_record(1, 0, 0, b"") == bytes.fromhex("08000000 01 00 0000")


def test_drain_returns_all_records_of_all_batches() -> None:
    region = make_ring()
    writer, reader = RingWriter(region), RingReader(region, 0)
    assert writer.append_batch([]) == 0
    assert writer.append_batch([pack_record(1, 0, 0, b"a" * 8), pack_record(1, 0, 0, b"b" * 8)]) == 32
    assert writer.append_batch([pack_record(1, 0, 0, b"c" * 8)]) == 48
    assert bodies(reader.drain()) == [b"a" * 8, b"b" * 8, b"c" * 8]
    assert reader.drain() == b""
    writer._check()


def test_padding_at_the_wrap() -> None:
    region = make_ring()
    writer, reader = RingWriter(region), RingReader(region, 0)
    first = [pack_record(1, 0, i, bytes([i]) * 992) for i in range(3)]
    assert writer.append_batch(first) == 3000
    reader.drain()
    reader.advance()
    second = [pack_record(1, 0, i, bytes([i]) * 592) for i in range(3)]
    # One fits before the end (4096 - 3000 >= 600), 496 bytes of padding follow, two start at 0.
    assert writer.append_batch(second) == 4096 + 1200
    data = reader.drain()
    assert len(data) == 1800 + 496
    assert bodies(data) == [bytes([i]) * 592 for i in range(3)]
    reader.advance()
    writer._check()


def test_a_batch_that_ends_at_the_end_needs_no_padding() -> None:
    region = make_ring()
    writer, reader = RingWriter(region), RingReader(region, 0)
    records = [pack_record(1, 0, 0, bytes(504))] * 6
    for _ in range(8):
        assert writer.append_batch(records[:4]) is not None
        assert len(reader.drain()) == 2048
        reader.advance()
    assert writer.head == 8 * 2048


def test_full_ring_names_its_blockers() -> None:
    region = make_ring()
    writer, keeper, slow = RingWriter(region), RingReader(region, 0), RingReader(region, 5)
    batch = [pack_record(1, 0, 0, bytes(504))] * 4
    assert writer.append_batch(batch) is not None
    assert writer.append_batch(batch) is not None
    assert writer.append_batch(batch) is None
    assert writer.blockers() == [0, 5]
    keeper.drain()
    keeper.advance()
    assert writer.append_batch(batch) is None
    assert writer.blockers() == [5]
    assert writer.prepare_wait()
    writer.deactivate(5)
    assert writer.append_batch(batch) is not None
    assert len(keeper.drain()) == 2048
    with pytest.raises(ReaderDropped):
        slow.drain()
    with pytest.raises(ReaderDropped):
        slow.advance()
    assert slow.attach_at_head() == writer.head
    assert slow.drain() == b""
    assert set(lags(region)) == {0, 5}


def test_waiting_for_room_is_answered_by_advance() -> None:
    region = make_ring()
    writer, reader = RingWriter(region), RingReader(region, 0)
    batch = [pack_record(1, 0, 0, bytes(1016))] * 2
    assert writer.append_batch(batch)
    assert writer.append_batch(batch)
    assert writer.append_batch(batch) is None
    assert writer.prepare_wait()
    reader.drain(2048)
    assert reader.advance()
    assert not reader.advance()
    assert not writer.prepare_wait()
    assert writer.append_batch(batch)


def test_limits() -> None:
    writer = RingWriter(make_ring())
    with pytest.raises(RecordTooLarge):
        writer.append_batch([pack_record(1, 0, 0, bytes(1024))])
    with pytest.raises(RecordTooLarge):
        writer.append_batch([pack_record(1, 0, 0, bytes(1016))] * 4)
    with pytest.raises(ValueError, match="multiples of 8"):
        writer.append_batch([b"abc"])
    with pytest.raises(RingCorrupt):
        RingWriter(Region.private(8192))
    with pytest.raises(RingCorrupt):
        list(iter_records(pack("<II", 24, 1)))


def test_drain_limit_keeps_records_whole() -> None:
    region = make_ring()
    writer, reader = RingWriter(region), RingReader(region, 0)
    writer.append_batch([pack_record(1, 0, 0, bytes(92)) for _ in range(5)])
    assert [len(reader.drain(250)), len(reader.drain(10)), len(reader.drain(208)), len(reader.drain(1))] == [
        208,
        104,
        208,
        0,
    ]


def test_sleep_protocol() -> None:
    region = make_ring()
    writer, one, two = RingWriter(region), RingReader(region, 1), RingReader(region, 2)
    assert writer.sleepers() == []
    assert one.prepare_sleep()
    assert two.prepare_sleep()
    writer.append_batch([pack_record(1, 0, 0, b"")])
    assert writer.sleepers() == [1, 2]
    assert writer.sleepers() == []
    assert not one.prepare_sleep()
    one.drain()
    assert one.prepare_sleep()
    one.awake()
    assert writer.sleepers() == []


def test_resume_at_the_published_position() -> None:
    region = make_ring()
    writer, keeper = RingWriter(region), RingReader(region, 0)
    writer.append_batch([pack_record(1, 0, 0, b"a" * 8)])
    keeper.drain()
    keeper.advance()
    writer.append_batch([pack_record(1, 0, 0, b"b" * 8)])
    keeper.drain()  # and dies before it advances
    assert bodies(RingReader(region, 0, resume=True).drain()) == [b"b" * 8]
    assert RingReader(region, 3).drain() == b""
    assert RingWriter(region).head == 32


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.integers(0, 126), min_size=1, max_size=20), max_size=30), st.integers(8, 3000))
def test_any_sequence_of_batches_arrives_in_order(batches: list[list[int]], limit: int) -> None:
    region = make_ring()
    writer, readers = RingWriter(region), [RingReader(region, 0), RingReader(region, 1)]
    sent: list[bytes] = []
    received: list[list[bytes]] = [[], []]
    for n, sizes in enumerate(batches):
        records = [pack_record(1, 0, 0, pack("<I", n) + bytes([size]) * (4 + size * 8)) for size in sizes]
        records = records[: max(1, 3072 // max(map(len, records)))]
        while writer.append_batch(records) is None:
            for reader, into in zip(readers, received, strict=True):
                into += bodies(reader.drain(limit))
                reader.advance()
        sent += [record[8:] for record in records]
        writer._check()
    for reader, into in zip(readers, received, strict=True):
        while data := reader.drain(limit):
            into += bodies(data)
    assert received == [sent, sent]


# Real processes


def produce(region: Region, bells: list[Doorbell], own_bell: Doorbell, batches: int, seed: int) -> None:
    """Batches of numbered, checksummed records; each knows its place in its batch. The last has kind LAST."""
    writer, rng, number = RingWriter(region), random.Random(seed), 0
    for n in range(batches):
        records = []
        size = rng.randrange(1, 40)
        for i in range(size):
            body = pack("<IIII", number, n, i, size) + rng.randbytes(8 * rng.randrange(12))
            number += 1
            body += pack("<II", zlib.crc32(body), 0)
            records.append(pack_record(LAST if n == batches - 1 and i == size - 1 else 1, 0, 0, body))
        deadline = time.monotonic() + LOST_S
        while writer.append_batch(records) is None:
            if time.monotonic() > deadline:
                for slot in writer.blockers():
                    if slot:
                        writer.deactivate(slot)
            if writer.prepare_wait():
                own_bell.wait(0.05)
        for slot in writer.sleepers():
            bells[slot].ring()
    writer._check()


class Checker:
    """Verifies what a consumer drains: numbers without a gap, checksums, whole batches only."""

    def __init__(self) -> None:
        self.next = 0
        self.in_batch = 0
        self.batch_size = 0
        self.last = False

    def take(self, data: bytes) -> None:
        for kind, at, end in iter_records(data):
            number, _, i, size = unpack_from("<IIII", data, at + 8)
            assert number == self.next, f"record {number} instead of {self.next}"
            assert unpack_from("<I", data, end - 8)[0] == zlib.crc32(data[at + 8 : end - 8])
            assert i == self.in_batch
            self.next += 1
            self.batch_size = size
            self.in_batch = (i + 1) % size
            self.last = kind == LAST

    @property
    def whole(self) -> bool:
        return self.in_batch == 0


def consume(
    reader: RingReader, bell: Doorbell, producer_bell: Doorbell, limit: int | None, until: float = PATIENCE_S
) -> Checker:
    checker = Checker()
    deadline = time.monotonic() + until
    while not checker.last and time.monotonic() < deadline:
        bell.clear()
        data = reader.drain(limit)
        checker.take(data)
        if limit is None:
            assert checker.whole, "a drain ended inside a batch"
        if reader.advance():
            producer_bell.ring()
        if not data and reader.prepare_sleep():
            bell.wait(0.2)
            reader.awake()
    return checker


def test_three_consumers_one_of_them_killed() -> None:
    region = Region.create(4096 + 65536, "test-ring")
    format_ring(region)
    bells, own_bell = [Doorbell.create() for _ in range(3)], Doorbell.create()
    readers = [RingReader(region, slot) for slot in range(3)]

    def consumer(slot: int, limit: int | None) -> Child:
        def work() -> None:
            assert consume(readers[slot], bells[slot], own_bell, limit).last

        return Child(work)

    def victim() -> None:
        consume(readers[2], bells[2], own_bell, None, until=0.05)
        time.sleep(10)

    keeper, other, killed = consumer(0, None), consumer(1, 5000), Child(victim)
    producer = Child(lambda: produce(region, bells, own_bell, 4000, 1))
    time.sleep(0.15)
    killed.kill()
    assert killed.join() == -signal.SIGKILL
    deactivate(region, 2)
    own_bell.ring()
    assert (producer.join(), keeper.join(), other.join()) == (0, 0, 0)
    region.close()


def test_attaching_while_the_producer_runs() -> None:
    """A consumer that comes and goes starts at a whole batch each time and misses nothing until it leaves."""
    region = Region.create(4096 + 16384, "test-ring")
    format_ring(region)
    bells, own_bell = [Doorbell.create() for _ in range(2)], Doorbell.create()
    keeper = RingReader(region, 0)
    producer = Child(lambda: produce(region, bells, own_bell, 6000, 3))

    def work() -> None:
        assert consume(keeper, bells[0], own_bell, None).last

    other, visits = Child(work), 0
    guest = RingReader(region, 1)
    while producer.is_running:
        checker = Checker()
        for _ in range(3):
            data = guest.drain()
            if data and checker.next == 0:
                checker.next = unpack_from("<I", data, next(iter_records(data))[1] + 8)[0]
                visits += 1
            checker.take(data)
            if guest.advance():
                own_bell.ring()
        deactivate(region, 1)
        own_bell.ring()
        guest.attach_at_head()
    assert (producer.join(), other.join()) == (0, 0)
    assert visits > 20
    region.close()


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_producer_leaves_whole_batches(seed: int) -> None:
    region = Region.create(4096 + 16384, "test-ring")
    format_ring(region)
    bells, own_bell = [Doorbell.create()], Doorbell.create()
    reader = RingReader(region, 0)
    producer = Child(lambda: produce(region, bells, own_bell, 10**6, seed))
    rng, checker = random.Random(seed), Checker()
    end = time.monotonic() + 0.1 + rng.random() * 0.1
    while time.monotonic() < end or not checker.next:
        checker.take(reader.drain())
        assert checker.whole
        if reader.advance():
            own_bell.ring()
    producer.kill()
    producer.join()
    checker.take(reader.drain())
    assert checker.whole
    assert checker.next > 0
    reader.advance()
    successor = RingWriter(region)
    successor._check()
    successor.append_batch([pack_record(1, 0, 0, b"next")])
    assert bodies(reader.drain()) == [b"next\0\0\0\0"]
    region.close()


class DyingWords:
    """The ring's words for a producer that dies at its first store into them."""

    def __init__(self, words: memoryview[int]) -> None:
        self.words = words

    def __getitem__(self, index: int) -> int:
        return self.words[index]

    def __setitem__(self, index: int, value: int) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("before", [1000, 3000])
def test_a_producer_dead_before_it_publishes_leaves_nothing(before: int) -> None:
    region = make_ring()
    writer, reader = RingWriter(region), RingReader(region, 0)
    writer.append_batch([pack_record(1, 0, 0, bytes(before // 5 - 8))] * 5)
    reader.drain()
    reader.advance()
    writer._words = cast(Any, DyingWords(region.words))
    with pytest.raises(KeyboardInterrupt):
        writer.append_batch([pack_record(1, 0, 0, b"\xff" * 992)] * 2)
    assert reader.drain() == b""
    successor = RingWriter(region)
    successor.append_batch([pack_record(1, 0, 0, b"next")])
    successor._check()
    assert bodies(reader.drain()) == [b"next\0\0\0\0"]


def test_no_wake_up_is_lost() -> None:
    """Two processes that answer each other one record at a time: nobody wakes whom a lost wake-up left asleep."""
    there, back = Region.create(8192, "test-there"), Region.create(8192, "test-back")
    format_ring(there)
    format_ring(back)
    bells = [Doorbell.create(), Doorbell.create()]
    readers = [RingReader(there, 0), RingReader(back, 0)]

    def receive(reader: RingReader, bell: Doorbell) -> bytes:
        while True:
            bell.clear()
            if data := reader.drain():
                reader.advance()
                return data
            if reader.prepare_sleep():
                assert bell.wait(LOST_S), "a wake-up was lost"

    def send(writer: RingWriter, bell: Doorbell) -> None:
        assert writer.append_batch([pack_record(1, 0, 0, b"")])
        if writer.sleepers():
            bell.ring()

    def answer() -> None:
        writer = RingWriter(back)
        for _ in range(10000):
            receive(readers[0], bells[0])
            send(writer, bells[1])

    child, writer = Child(answer), RingWriter(there)
    for _ in range(10000):
        send(writer, bells[0])
        receive(readers[1], bells[1])
    assert child.join() == 0
