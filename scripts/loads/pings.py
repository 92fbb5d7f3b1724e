"""Bots that are subscribed to a row of their own and change it once a second; `--think 0`: as fast as they can."""

from spacetimedb.loadtest import Bot

DATABASE = "pings"
THINK = 1.0


async def start(bot: Bot) -> None:
    await bot.subscribe(f"SELECT * FROM ping WHERE who = 0x{bot.identity.hex()}")


async def ping(bot: Bot) -> None:
    await bot.call("ping")
