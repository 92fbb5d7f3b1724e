"""Bots that receive all rows of a table of which the first bot changes every row again and again, on `ticker`."""

from spacetimedb.loadtest import Bot, task

DATABASE = "ticker"
ROWS = 1000


async def start(bot: Bot) -> None:
    if bot.number == 0:
        await bot.call("populate", ROWS)
    await bot.subscribe("SELECT * FROM entities")


@task(think=0.02)
async def tick(bot: Bot) -> None:
    if bot.number == 0:
        await bot.call("tick", ROWS)
    else:
        await bot.think(10)
