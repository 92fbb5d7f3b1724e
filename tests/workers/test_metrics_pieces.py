"""Text of metrics over many databases, in one process: made in pieces, current, right whatever stands on a board."""

from __future__ import annotations

import os
from collections.abc import Iterable
from time import thread_time
from types import SimpleNamespace
from typing import Any, cast

import trio
from prometheus_client.parser import text_string_to_metric_families

from spacetimedb.hosts import figures as actor
from spacetimedb.memory import control as words
from spacetimedb.memory import ring as commit_ring
from spacetimedb.memory.control import ControlBlock
from spacetimedb.memory.figures import COUNTER, Family
from spacetimedb.memory.region import Region
from spacetimedb.types.special import Identity
from spacetimedb.workers import metric_families as families
from spacetimedb.workers.reader.exposition import BoardText
from spacetimedb.workers.reader.metrics import Metrics
from spacetimedb.workers.reader.query_costs import shown

DATABASES = 100
PIECE_LIMIT_S = 0.1
"""CPU time; a piece is some 3 ms."""


class Block:
    """What a scrape sees of a database."""

    def __init__(self) -> None:
        self.control = ControlBlock.create(Region.private(words.SIZE))
        self.identity = Identity(os.urandom(32))
        self.ring = Region.private(1 << 16)
        self.down = False
        commit_ring.format_ring(self.ring)
        commit_ring.activate(self.ring, commit_ring.LOG_KEEPER_SLOT)

    def metrics(self, *others: Block) -> Metrics:
        links = {block.identity: block for block in (self, *others)}
        return Metrics(cast(Any, SimpleNamespace(links=links, number=0)))


def samples(text: str | bytes) -> dict[tuple[str, ...], float]:
    """Values by name and values of labels, without the database."""
    lines = text.decode() if isinstance(text, bytes) else text
    return {
        (
            sample.name,
            *(value for name, value in sample.labels.items() if name not in ("db", "database_identity")),
        ): sample.value
        for family in text_string_to_metric_families(lines)
        for sample in family.samples
    }


def text_of(boards: BoardText) -> str:
    return "".join(boards.texts().values())


def test_texts_follow_the_boards() -> None:
    block = Block()
    boards = BoardText(block.control, "aa")
    assert text_of(boards) == ""
    board = block.control.actor_board()
    board.histogram(actor.ELAPSED, "Reducer", 'a "b"\\\n%s').observe(70)
    key = ("Reducer", 'a "b"\\\n%s')
    seen = samples(text_of(boards))
    assert seen["spacetime_txn_elapsed_time_sec_bucket", *key, "5e-05"] == 0
    assert seen["spacetime_txn_elapsed_time_sec_bucket", *key, "0.0001"] == 1
    assert seen["spacetime_txn_elapsed_time_sec_bucket", *key, "+Inf"] == 1
    assert seen["spacetime_txn_elapsed_time_sec_sum", *key] == 7e-5
    assert seen["spacetime_num_txns_total", *key, "true"] == 1
    # The same figure of two readers is one; what is counted later, or new, is there in the next text.
    for slot in (0, 3):
        block.control.reader_board(slot).counter(families.SPAWNED).add(slot + 1)
    board.counter(actor.TABLE_ROWS, "4096", "note").set(-2)
    for outcome in ("error", "internal"):
        board.counter(actor.FAILED, "f", outcome).add(2)
    seen = samples(text_of(boards))
    assert seen["spacetime_worker_ws_clients_spawned",] == 5
    assert seen["spacetime_num_table_rows", "4096", "note"] == -2
    assert seen["spacetime_num_txns_total", "Reducer", "f", "false"] == 4
    assert boards.texts() is boards.texts(), "nothing changed"
    board.counter(actor.TABLE_ROWS, "4096", "note").set(9)
    assert samples(text_of(boards))["spacetime_num_table_rows", "4096", "note"] == 9


def test_boards_that_hold_nonsense_harm_nobody_else() -> None:
    block = Block()
    board = block.control.actor_board()
    board.counter(Family("unheard_of", COUNTER, ""))
    board.counter(Family(actor.ELAPSED.name, COUNTER, ""))
    board.counter(Family(actor.FAILED.name, COUNTER, "", ("a", "b", "c")), "1", "2", "3")
    board.counter(actor.TABLE_ROWS, "x" * 2000, "cut away")
    board.counter(actor.TABLE_BYTES, "1", "good").set(5)
    boards = BoardText(block.control, "aa")
    assert samples(text_of(boards)) == {("spacetime_table_size_bytes", "1", "good"): 5}
    for noise in (b"\xff", os.urandom(64)):
        size = words.SIZE - 8 * 512
        block.control.region.bytes[8 * 512 : 8 * 512 + size] = (noise * size)[:size]
        boards.texts()
        assert all(cost.text is not None for cost in shown(block.control))


async def _longest_turn(work: trio.Event) -> float:
    """CPU seconds between two turns of this task, at most, until the work is done."""
    longest = 0.0
    while not work.is_set():
        before = thread_time()
        await trio.lowlevel.checkpoint()
        longest = max(longest, thread_time() - before)
    return longest


async def test_a_scrape_of_many_databases_leaves_turns_to_others() -> None:
    blocks = [Block() for _ in range(DATABASES)]
    for block in blocks:
        for name in ("a", "b", "c"):
            block.control.actor_board().histogram(actor.ELAPSED, "Reducer", name).observe(5)
    metrics = blocks[0].metrics(*blocks[1:])
    done = trio.Event()
    text = b""

    async def scrape() -> None:
        nonlocal text
        for _ in range(3):
            text = await metrics.text(None, None)
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrape)
        longest = await _longest_turn(done)
    assert text.count(b"spacetime_txn_elapsed_time_sec_count{") == 3 * DATABASES
    assert 0 < longest < PIECE_LIMIT_S


async def test_databases_that_go_down_meanwhile_are_left_out() -> None:
    blocks = [Block() for _ in range(DATABASES)]
    metrics = blocks[0].metrics(*blocks[1:])
    texts: list[bytes] = []

    async def scrape() -> None:
        texts.append(await metrics.text(None, None))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrape)
        await trio.lowlevel.checkpoint()
        for block in blocks[10:]:
            block.down = True
            block.control.words.release()
            block.ring.words.release()
    assert texts[0].count(b"spacetime_durable_transactions_total{") >= 10
    assert _databases(await metrics.text(None, None)) == {block.identity.hex() for block in blocks[:10]}
    own = blocks[3].identity
    text = await metrics.text({own}, ())
    assert _databases(text) == {own.hex()}
    assert b"supervisor" not in text


def _databases(text: bytes) -> Iterable[str]:
    return {
        sample.labels["database_identity"]
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if sample.labels["database_identity"]
    }
