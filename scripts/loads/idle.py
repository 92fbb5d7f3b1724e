"""Bots that are connected and do nothing, on the module `pings`."""

from spacetimedb.loadtest import Bot

DATABASE = "pings"


async def start(bot: Bot) -> None:
    pass
