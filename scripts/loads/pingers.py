"""Bots that are subscribed to a row of their own and change it, on the module `pings`."""

from spacetimedb.loadtest import Bot

DATABASE = "pings"


async def start(bot: Bot) -> None:
    await bot.subscribe(f"SELECT * FROM ping WHERE who = 0x{bot.identity.hex()}")


async def ping(bot: Bot) -> None:
    await bot.call("ping")
