"""Mailboxes: wrap-around, full, and two real processes."""

from __future__ import annotations

import random
import time
import zlib
from struct import pack, unpack_from

import pytest
from patience import PATIENCE_S

from spacetimedb.memory.doorbell import Doorbell
from spacetimedb.memory.mailbox import MailboxReader, MailboxWriter, format_mailbox
from spacetimedb.memory.region import Region
from spacetimedb.memory.ring import RecordTooLarge, RingCorrupt, iter_records, pack_record

from .processes import LOST_S, Child


def make_mailbox() -> Region:
    region = Region.private(8192)
    format_mailbox(region)
    return region


def test_batches_arrive_across_the_wrap() -> None:
    region = make_mailbox()
    writer, reader = MailboxWriter(region), MailboxReader(region)
    rng = random.Random(7)
    for n in range(500):
        sent = [pack_record(1, 0, n, rng.randbytes(rng.randrange(900))) for _ in range(rng.randrange(1, 5))]
        assert writer.send_batch(b"".join(sent))
        data = reader.drain()
        assert [data[at:end] for _, at, end in iter_records(data)] == sent
    assert reader.drain() == b""


def test_full_then_room() -> None:
    region = make_mailbox()
    writer, reader = MailboxWriter(region), MailboxReader(region)
    assert writer.send_batch(bytes(4096))
    assert not writer.send_batch(bytes(8))
    assert writer.prepare_wait()
    assert len(reader.drain()) == 4096
    assert reader.take_waiter()
    assert not reader.take_waiter()
    assert not writer.prepare_wait()
    assert writer.send_batch(bytes(8))
    with pytest.raises(RecordTooLarge):
        writer.send_batch(bytes(4104))


def test_sleep_protocol() -> None:
    region = make_mailbox()
    writer, reader = MailboxWriter(region), MailboxReader(region)
    assert reader.prepare_sleep()
    assert writer.send_batch(bytes(8))
    assert writer.take_sleeper()
    assert not writer.take_sleeper()
    assert not reader.prepare_sleep()
    reader.drain()
    assert reader.prepare_sleep()
    reader.awake()
    assert not writer.take_sleeper()


def test_damaged_words_are_noticed() -> None:
    region = make_mailbox()
    reader = MailboxReader(region)
    region.words[8] = 5000
    with pytest.raises(RingCorrupt):
        reader.drain()
    with pytest.raises(RingCorrupt):
        MailboxReader(Region.private(8192))


def test_two_processes() -> None:
    region = Region.create(4096 + 8192, "test-mailbox")
    format_mailbox(region)
    consumer_bell, producer_bell = Doorbell.create(), Doorbell.create()
    total = 60000

    def produce() -> None:
        writer, rng, number = MailboxWriter(region), random.Random(3), 0
        while number < total:
            records = []
            for _ in range(rng.randrange(1, 20)):
                body = pack("<I", number) + rng.randbytes(rng.randrange(100))
                records.append(pack_record(1, 0, len(body), body + pack("<I", zlib.crc32(body))))
                number += 1
            while not writer.send_batch(b"".join(records)):
                if writer.prepare_wait():
                    assert producer_bell.wait(LOST_S), "a wake-up was lost"
            if writer.take_sleeper():
                consumer_bell.ring()

    child, reader, expected = Child(produce), MailboxReader(region), 0
    deadline = time.monotonic() + PATIENCE_S
    while expected < total and time.monotonic() < deadline:
        consumer_bell.clear()
        data = reader.drain()
        if reader.take_waiter():
            producer_bell.ring()
        for _, at, _ in iter_records(data):
            length, number = unpack_from("<HI", data, at + 6)
            assert number == expected
            body = data[at + 8 : at + 8 + length]
            assert unpack_from("<I", data, at + 8 + length)[0] == zlib.crc32(body)
            expected += 1
        if not data and reader.prepare_sleep():
            assert consumer_bell.wait(LOST_S), "a wake-up was lost"
    assert child.join() == 0
    assert expected >= total
