"""A reader's link and the actor of its database in one process, one turn at a time: the test says what happens when."""

from __future__ import annotations

import socket
from collections import Counter, deque
from collections.abc import Iterable
from itertools import count

from spacetimedb.auth.keccak import keccak256
from spacetimedb.hosts.database import Database, caller
from spacetimedb.hosts.installation import create, update
from spacetimedb.hosts.refs_copies import RefsCopies
from spacetimedb.memory import control as words
from spacetimedb.memory import ring as commit_ring
from spacetimedb.memory.control import ControlBlock
from spacetimedb.memory.doorbell import Doorbell
from spacetimedb.memory.heap import RowHeap
from spacetimedb.memory.mailbox import MailboxReader, format_mailbox
from spacetimedb.memory.region import Region
from spacetimedb.memory.ring import RingWriter
from spacetimedb.protocol.frames import BINARY, CLOSE
from spacetimedb.protocol.v2_client import (
    Ok,
    OneOffQueryResult,
    PersistentRows,
    QuerySetUpdate,
    ReducerResult,
    ServerMessage,
    SubscribeApplied,
    SubscriptionError,
    TransactionUpdate,
    UnsubscribeApplied,
    call_reducer,
    decode_frame,
    one_off_query,
    subscribe,
    unsubscribe,
)
from spacetimedb.types.special import ConnectionId, Identity
from spacetimedb.workers.messages import DatabaseUp
from spacetimedb.workers.reader.client import Client, Lane
from spacetimedb.workers.reader.database_link import DatabaseLink
from spacetimedb.workers.transaction_actor.transaction_actor import TransactionActor, wall_clock_us

OWNER = Identity(bytes(32))
READER = 0
Bag = Counter[tuple[str, bytes]]


class RigActor(TransactionActor):
    """The actor without its process: no channel, no sandbox, no loop."""

    def __init__(self, regions: list[Region], mailbox: Region, program: str) -> None:
        control, ring, heap = regions
        self._control = ControlBlock(control)
        self._ring = RingWriter(ring)
        self._bells = {}
        self._pieces = {}
        self._beats = 0
        self._mailboxes = {READER: MailboxReader(mailbox)}
        self.database = Database(OWNER, OWNER, RowHeap(heap), wall_clock_us, self._control.actor_board())
        self._refs_copies = RefsCopies(self.database)
        source = program.encode()
        create(self.database, source, keccak256(source))
        self._other = caller(OWNER, ConnectionId(bytes(16)), READER + 1, 1)
        self.database.connect(self._other, 0, "{}")
        self.publish()

    def turn(self) -> None:
        """What waits in the mailbox, then a piece of a copy; nobody has heard of it yet."""
        data, at = self._mailboxes[READER].drain(), 0
        while at < len(data):
            at = self._run_requests(READER, data, at)
        self._refs_copies.step()

    def overtake(self, name: str, args: bytes = b"") -> None:
        """A call through another reader, before all that waits in the mailbox."""
        self.database.call_by_name(self._other, name, 0, args)

    def make_durable(self) -> None:
        """All that was published is in the log."""
        self._control.publish_durable(self._control.words[words.NEXT_OFFSET] - 1, self._ring.head)

    def run_program(self, program: str, break_clients: bool = False) -> None:
        """Another program; nobody has heard of it yet."""
        source = program.encode()
        update(self.database, source, keccak256(source), break_clients)


class RigClient:
    """A client of the link, as its cache sees things: whatever is deleted must be there."""

    def __init__(self, rig: Rig, cls: type[Client], owner: bool, confirmed: bool) -> None:
        self._rig = rig
        ours, self._socket = socket.socketpair()
        for end in (ours, self._socket):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        self._data = b""
        self.bags: dict[int, Bag] = {}
        self.messages: deque[ServerMessage] = deque()
        self.is_closed = False
        self._requests = count(1)
        link = rig.link
        number = link.new_number()
        identity = OWNER if owner else Identity(number.to_bytes(32, "big"))
        connection = ConnectionId(number.to_bytes(16, "big"))
        self.client = cls(ours, link, number, identity, connection, "", False, confirmed)
        rig.lane.clients.add(self.client)
        link.connect(self.client, "{}")

    def send(self, *messages: bytes) -> None:
        """Messages as the client would frame them."""
        for message in messages:
            self._rig.link.requests.receive(self.client, self.client.parse(message, False))
        self._rig.link.post()

    def call(self, name: str, args: bytes = b"") -> None:
        """A reducer call."""
        self.send(call_reducer(next(self._requests), name, args))

    def subscribe(self, set_id: int, *texts: str) -> None:
        """A query set."""
        self.send(subscribe(next(self._requests), set_id, texts))

    def unsubscribe(self, set_id: int, send_dropped: bool = True) -> None:
        """The end of a query set."""
        self.send(unsubscribe(next(self._requests), set_id, send_dropped))

    def lose(self) -> None:
        """The connection breaks; the reader learns it when it sends."""
        self._socket.close()

    def take(self) -> list[ServerMessage]:
        """What has been sent to it since the last time; follows it."""
        found = [message for payload in self.payloads() for message in decode_frame(payload)]
        for message in found:
            self._follow(message)
        return found

    def payloads(self) -> list[bytes]:
        """The messages that have been sent to it since the last time."""
        try:
            while data := self._socket.recv(1 << 20):
                self._data += data
            self.is_closed = True
        except BlockingIOError:
            pass
        found: list[bytes] = []
        while len(self._data) >= 2:
            size, head = self._data[1], 2
            if size >= 126:
                head = 4 if size == 126 else 10
                size = int.from_bytes(self._data[2:head], "big")
            if len(self._data) < head + size:
                break
            opcode, payload = self._data[0] & 15, self._data[head : head + size]
            self._data = self._data[head + size :]
            if opcode == BINARY:
                found.append(payload)
            elif opcode == CLOSE:
                self.is_closed = True
        return found

    def _follow(self, message: ServerMessage) -> None:
        match message:
            case SubscribeApplied(_, number, tables):
                assert number not in self.bags
                self.bags[number] = Counter((table.table, row) for table in tables for row in table.rows.rows())
            case UnsubscribeApplied(_, number, dropped):
                bag = self.bags.pop(number)
                if dropped is not None:
                    assert Counter((table.table, row) for table in dropped for row in table.rows.rows()) == bag
            case TransactionUpdate(sets):
                self._change(sets)
            case ReducerResult(_, _, Ok() as outcome):
                self._change(outcome.query_sets)
            case SubscriptionError(_, _, error):
                raise AssertionError(error)

    def _change(self, sets: Iterable[QuerySetUpdate]) -> None:
        for one in sets:
            bag = self.bags[one.query_set_id]
            for table in one.tables:
                for rows in table.rows:
                    assert isinstance(rows, PersistentRows)
                    bag.update((table.table, row) for row in rows.inserts.rows())
                    bag.subtract((table.table, row) for row in rows.deletes.rows())
            assert all(number >= 0 for number in bag.values()), "deleted more often than it was there"
            self.bags[one.query_set_id] = +bag

    def ask(self, text: str) -> None:
        """A one-off query."""
        self.send(one_off_query(next(self._requests), text))

    def answers(self) -> list[OneOffQueryResult]:
        """Those to one-off queries that have come since the last time."""
        return [message for message in self.take() if isinstance(message, OneOffQueryResult)]

    def answer(self, text: str) -> OneOffQueryResult:
        """What a one-off query gives, now."""
        self.ask(text)
        for _ in range(10):
            if found := self.answers():
                return found[0]
            self._rig.turn()
        raise AssertionError(f"no answer to {text}")

    def wanted(self, *texts: str) -> Bag:
        """What the queries give over the tables now."""
        bag: Bag = Counter()
        for text in dict.fromkeys(texts):
            result = self.answer(text)
            assert result.tables is not None, result.error
            bag.update((table.table, row) for table in result.tables for row in table.rows.rows())
        return bag


class Rig:
    """See the head of the module. Needs trio for its clock."""

    def __init__(self, program: str) -> None:
        sizes = (words.SIZE, 1 << 22, 1 << 28, 1 << 20)
        regions = [Region.create(size, "test") for size in sizes]
        ControlBlock.create(regions[0])
        commit_ring.format_ring(regions[1])
        format_mailbox(regions[3])
        self._bell = Doorbell.create()
        self.actor = RigActor(regions[:3], regions[3], program)
        self.lane = Lane()
        fds = [*(region.fd for region in regions), *self._bell.fds]
        self.link = DatabaseLink(self.lane, READER, self.up(False), fds)

    def up(self, is_update: bool) -> DatabaseUp:
        """What the supervisor says of the program."""
        database = self.actor.database
        return DatabaseUp(
            bytes(OWNER),
            bytes(OWNER),
            database.raw_definition,
            database.table_ids,
            b"",
            "",
            database.generation,
            is_update,
        )

    def client(self, cls: type[Client] = Client, owner: bool = True, confirmed: bool = False) -> RigClient:
        """A client that has been greeted. `confirmed`: it hears of what is durable only."""
        client = RigClient(self, cls, owner, confirmed)
        self.turn()
        client.payloads()
        return client

    def publish(self) -> None:
        """The actor's records come to the reader, which goes on as far as it can; its own pieces of work wait."""
        self.actor.publish()
        while self.link.pump():
            pass
        self.link.outbox.flush()
        self.link.post()

    def slice(self) -> bool:
        """One piece of the reader's long work. False if there is none."""
        jobs = self.lane.slices._jobs
        if not jobs:
            return False
        if not jobs[0][1]():
            jobs.popleft()
        return True

    def turn(self) -> None:
        """Everything that waits on either side, once."""
        while self.slice():
            pass
        self.link.post()
        self.actor.turn()
        self.publish()
        while self.slice():
            pass
