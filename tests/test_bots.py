"""Thirty bots play over real connections, also while the server's processes are killed one after the other."""

from __future__ import annotations

import trio
from bots import Board, Bot, Tally, keep_playing, keep_watching
from conftest import ServerFactory
from patience import PATIENCE_S
from server_process import SAMPLES, kill

BOTS = 30
LOOK_SECONDS = 0.05


async def progress(board: Board, tally: Tally, calls: int) -> None:
    """Returns when the bots have made so many more calls and most of them are on the board."""
    goal = tally.calls + calls
    with trio.move_on_after(PATIENCE_S):
        while tally.calls < goal or len(board.circles) < BOTS * 2 // 3:
            await trio.sleep(LOOK_SECONDS)
        return
    raise AssertionError(f"{goal - tally.calls} calls missing, {len(board.circles)} circles on the board")


async def test_the_game_goes_on_whatever_is_killed(start_server: ServerFactory) -> None:
    server = start_server()
    server.publish(SAMPLES / "agar.py", "agar")
    board, tally = Board(), Tally()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_watching, board, server.base_url, "agar")
        for n in range(BOTS):
            nursery.start_soon(keep_playing, Bot(f"bot {n}", board, tally), server.base_url, "agar")
        await progress(board, tally, 500)
        assert len(board.entities) > 400, "food grows by itself"
        assert (tally.failed, tally.lost) == (0, 0)
        for pid, command in server.serving().items():
            if pid != server.pid:
                kill(pid)
                try:
                    await progress(board, tally, 300)
                except AssertionError as error:
                    raise AssertionError(f"after the end of {command}: {error}") from None
        assert tally.failed == 0
        nursery.cancel_scope.cancel()
    server.stop()
