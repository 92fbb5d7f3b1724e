"""Bots that play the sample game and see all of it, on `agar`."""

from spacetimedb.loadtest import Bot, task

DATABASE = "agar"
THINK = (0.2, 0.3)


async def start(bot: Bot) -> None:
    await bot.subscribe(*(f"SELECT * FROM {table}" for table in ("player", "entity", "circle", "food", "leaderboard")))
    await bot.call("enter_game", f"bot {bot.number}")


@task(weight=20)
async def steer(bot: Bot) -> None:
    await bot.call("steer", bot.random.uniform(-1, 1), bot.random.uniform(-1, 1))


@task(weight=1)
async def join_again(bot: Bot) -> None:
    """Does nothing for those who have not been eaten."""
    await bot.call("enter_game", f"bot {bot.number}")
