"""Bots that play the sample game over real WebSocket connections, all in one process.

One connection more, the eye, watches the board; every bot looks through it for food, prey and danger. A bot that loses
its connection comes back with its token; one that was eaten joins again.

    scripts/bots.py --url http://127.0.0.1:3000 --db agar --bots 30 [--seconds 20]
"""

from __future__ import annotations

import argparse
import math
import random
import struct
import time
from collections.abc import Iterable

import trio

from spacetimedb.cli.session import Session, SessionLost, SessionRefused, open_session
from spacetimedb.protocol import v2_client as v2

NAMES = [
    *("Ada", "Alan", "Anita", "Annie", "Barbara", "Bjarne", "Dennis", "Donald", "Edgar", "Edsger", "Emmy", "Frances"),
    *("Grace", "Guido", "Hedy", "Ida", "Jean", "Joan", "John", "Karen", "Katherine", "Ken", "Leslie", "Linus"),
    *("Margaret", "Marvin", "Mary", "Niklaus", "Peter", "Radia", "Richard", "Rózsa", "Shafi", "Sophie", "Tim", "Vint"),
]
WORLD = 1000.0
THINK_SECONDS = 0.25
SIGHT = 140.0
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.2, 2.0
ANSWER_SECONDS = 15.0

_ENTITY = struct.Struct("<IffI")
_CIRCLE = struct.Struct("<IIff")
_PLAYER_HEAD = struct.Struct("<32sII")


class Board:
    """What the eye sees: entities (x, y, mass) and circles (player) by entity id, and player ids by identity."""

    def __init__(self) -> None:
        self.entities: dict[int, tuple[float, float, int]] = {}
        self.circles: dict[int, int] = {}
        self.players: dict[bytes, int] = {}

    def clear(self) -> None:
        for rows in (self.entities, self.circles, self.players):
            rows.clear()

    def apply(self, table: str, rows: Iterable[bytes], *, deleted: bool = False) -> None:
        if table == "entity":
            for row in rows:
                key, x, y, mass = _ENTITY.unpack(row)
                if deleted:
                    self.entities.pop(key, None)
                else:
                    self.entities[key] = (x, y, mass)
        elif table == "circle":
            for row in rows:
                key, player, _, _ = _CIRCLE.unpack(row)
                if deleted:
                    self.circles.pop(key, None)
                else:
                    self.circles[key] = player
        elif table == "player":
            for row in rows:
                identity, player, _ = _PLAYER_HEAD.unpack_from(row)
                if deleted:
                    self.players.pop(identity, None)
                else:
                    self.players[identity] = player

    def message(self, message: v2.ServerMessage) -> None:
        if isinstance(message, v2.SubscribeApplied):
            for table in message.tables:
                self.apply(table.table, table.rows.rows())
        elif isinstance(message, v2.TransactionUpdate):
            for update in (update for query_set in message.query_sets for update in query_set.tables):
                for rows in update.rows:
                    if isinstance(rows, v2.PersistentRows):
                        self.apply(update.table, rows.deletes.rows(), deleted=True)
                        self.apply(update.table, rows.inserts.rows())

    def direction(self, identity: bytes) -> tuple[float, float] | None:
        """Where a player should go: away from danger nearby, else to something to eat. None: not on the board."""
        player = self.players.get(identity)
        mine = [entity for entity, owner in self.circles.items() if owner == player and entity in self.entities]
        if player is None or not mine:
            return None
        x, y, mass = max((self.entities[entity] for entity in mine), key=lambda entity: entity[2])
        best, found = SIGHT * SIGHT, None
        for key, owner in self.circles.items():
            ox, oy, other = self.entities.get(key, (0.0, 0.0, 0))
            distance = (ox - x) ** 2 + (oy - y) ** 2
            if owner == player or distance > best:
                continue
            if other * 85 > mass * 100:
                best, found = distance, (x - ox, y - oy)
            elif other * 100 < mass * 85 and other:
                best, found = distance / 2, (ox - x, oy - y)
        if found is None:
            food = [self.entities[key] for key in random.sample(sorted(self.entities), min(80, len(self.entities)))]
            nearest = min(food, key=lambda f: (f[0] - x) ** 2 + (f[1] - y) ** 2 if f[2] * 100 < mass * 85 else 1e9)
            found = (nearest[0] - x, nearest[1] - y)
        length = math.hypot(*found) or 1.0
        return found[0] / length, found[1] / length


class Tally:
    """Figures of one run; latencies in seconds."""

    def __init__(self) -> None:
        self.calls = self.failed = self.lost = 0
        self.latencies: list[float] = []

    def text(self, seconds: float) -> str:
        ordered = sorted(self.latencies) or [0.0]
        p50, p99 = (ordered[int(share * (len(ordered) - 1))] * 1000 for share in (0.5, 0.99))
        return (
            f"{self.calls} calls in {seconds:.0f} s ({self.calls / seconds:.0f}/s), p50 {p50:.1f} ms, "
            f"p99 {p99:.1f} ms, {self.failed} failed, {self.lost} connections lost"
        )


class Bot:
    """One player: a session, its answers, and a mind that decides a few times a second."""

    def __init__(self, name: str, board: Board, tally: Tally) -> None:
        self.name, self.board, self.tally = name, board, tally
        self.token: str | None = None
        self._answers: dict[int, trio.Event] = {}

    async def play(self, session: Session) -> None:
        self.token = session.token
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, session)
            heading = random.uniform(0, 2 * math.pi)
            while True:
                toward = self.board.direction(session.identity)
                if toward is None:
                    text = self.name.encode()
                    await self._call(session, "enter_game", struct.pack("<I", len(text)) + text)
                    heading += random.uniform(-1, 1)
                    toward = math.cos(heading), math.sin(heading)
                await self._call(session, "steer", struct.pack("<ff", *toward))
                await trio.sleep(THINK_SECONDS * random.uniform(0.7, 1.3))

    async def _call(self, session: Session, reducer: str, arguments: bytes) -> None:
        request, begun = session.next_request(), time.perf_counter()
        self._answers[request] = answered = trio.Event()
        await session.send(v2.call_reducer(request, reducer, arguments))
        with trio.move_on_after(ANSWER_SECONDS) as waiting:
            await answered.wait()
        if waiting.cancelled_caught:
            raise SessionLost("no answer")
        self.tally.calls += 1
        self.tally.latencies.append(time.perf_counter() - begun)

    async def _listen(self, session: Session) -> None:
        while True:
            for message in await session.receive():
                if isinstance(message, v2.ReducerResult):
                    if isinstance(message.outcome, v2.Err | v2.InternalError):
                        self.tally.failed += 1
                    answered = self._answers.pop(message.request_id, None)
                    if answered is not None:
                        answered.set()


async def keep_playing(bot: Bot, url: str, database: str) -> None:
    """A bot's whole life: connects, plays, and comes back when the connection is lost."""
    wait = FIRST_RETRY_SECONDS
    while True:
        try:
            async with open_session(url, database, token=bot.token, confirmed=False) as session:
                wait = FIRST_RETRY_SECONDS
                await bot.play(session)
        except* (SessionLost, SessionRefused):
            bot.tally.lost += 1
        await trio.sleep(wait * random.uniform(0.7, 1.3))
        wait = min(2 * wait, LAST_RETRY_SECONDS)


async def keep_watching(board: Board, url: str, database: str) -> None:
    """The eye: one subscription whose rows all bots share."""
    wait = FIRST_RETRY_SECONDS
    while True:
        try:
            async with open_session(url, database, confirmed=False) as session:
                queries = ["SELECT * FROM player", "SELECT * FROM entity", "SELECT * FROM circle"]
                await session.send(v2.subscribe(session.next_request(), 1, queries))
                board.clear()
                wait = FIRST_RETRY_SECONDS
                while True:
                    for message in await session.receive():
                        board.message(message)
        except (SessionLost, SessionRefused):
            pass
        await trio.sleep(wait * random.uniform(0.7, 1.3))
        wait = min(2 * wait, LAST_RETRY_SECONDS)


async def run(url: str, database: str, bots: int, seconds: float, tally: Tally) -> None:
    """Plays for so many seconds (0: for ever)."""
    board = Board()
    with trio.move_on_after(seconds or math.inf):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_watching, board, url, database)
            for n in range(bots):
                name = NAMES[n % len(NAMES)] + ("" if n < len(NAMES) else f" {n // len(NAMES) + 1}")
                nursery.start_soon(keep_playing, Bot(name, board, tally), url, database)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--url", default="http://127.0.0.1:3000")
    parser.add_argument("--db", default="agar")
    parser.add_argument("--bots", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=0.0, help="0: until Ctrl-C")
    options = parser.parse_args()
    begun = time.perf_counter()
    tally = Tally()
    try:
        trio.run(run, options.url, options.db, options.bots, options.seconds, tally)
    except* KeyboardInterrupt:
        pass
    print(tally.text(time.perf_counter() - begun))


if __name__ == "__main__":
    main()
