"""Load tests: many bots play a scenario against a server, and what they and the server saw becomes a report.

    from spacetimedb.loadtest import Bot, task

    async def start(bot: Bot) -> None:            # once per bot
        await bot.subscribe("SELECT * FROM player")

    @task(weight=3, think=(0.5, 1.5))             # what bots do again and again
    async def walk(bot: Bot) -> None:
        await bot.call("steer", bot.random.uniform(-1, 1), 0.0)

`spacetime loadtest FILE` runs it. Rooms inside: `scenario` and `auto` (what bots do), `bot` and `crowd` (one bot, the
bots of one process), `worker` (that process), `figures` (histograms and their exchange), `run` (the conductor),
`stages` and `conditions` (how many bots when; what must hold), `server_figures`, `report` (JSON, HTML).
"""

from .bot import Bot
from .scenario import task

__all__ = ["Bot", "task"]
