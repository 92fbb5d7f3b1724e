"""Saves of the sample game while thirty bots play it."""

from __future__ import annotations

import time
from pathlib import Path

import trio
from bots import Board, Bot, Tally, keep_playing, keep_watching
from server_process import SAMPLES, ServerProcess
from test_dev import Dev

BOTS = 30
SAVES = 10
CALLS_BETWEEN = BOTS
PATIENCE_S = 120.0
LOOK_S = 0.02
BUSY_FACTOR = 20
"""What a machine that does much else at the same time may take longer."""


async def play_on(board: Board, tally: Tally, calls: int) -> None:
    """Returns when the bots have made so many more calls, and most of them are on the board."""
    goal = tally.calls + calls
    with trio.fail_after(PATIENCE_S):
        while tally.calls < goal or len(board.circles) < BOTS * 2 // 3:
            await trio.sleep(LOOK_S)


async def test_players_notice_no_save(server: ServerProcess, tmp_path: Path) -> None:
    """Every save is live, 300 ms after it on a quiet machine; no connection is lost, no call fails."""
    module = tmp_path / "agar.py"
    source = (SAMPLES / "agar.py").read_text()
    module.write_text(source)
    dev = Dev(tmp_path, "agar-reload", "-s", server.base_url, "-p", str(module))
    board, tally = Board(), Tally()
    took_ms = []

    async def save(number: int) -> None:
        at, saved = len(dev.lines), time.perf_counter()
        module.write_text(
            source.replace("MAX_SPEED = 1000.0, 15, 600, 4.0", f"MAX_SPEED = 1000.0, 15, 600, 4.{number}")
        )
        await trio.to_thread.run_sync(dev.until, "agar-reload is live", at)
        took_ms.append((time.perf_counter() - saved) * 1000)

    try:
        await trio.to_thread.run_sync(dev.until, "watching")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_watching, board, server.base_url, "agar-reload")
            for n in range(BOTS):
                nursery.start_soon(keep_playing, Bot(f"bot {n}", board, tally), server.base_url, "agar-reload")
            await play_on(board, tally, CALLS_BETWEEN)
            for number in range(1, SAVES + 1):
                await save(number)
                await play_on(board, tally, CALLS_BETWEEN)
            nursery.cancel_scope.cancel()
        assert (tally.failed, tally.lost) == (0, 0)
        assert min(took_ms) < 300 * BUSY_FACTOR, took_ms
    finally:
        dev.stop()
