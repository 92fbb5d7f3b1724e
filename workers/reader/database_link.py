"""A reader's end of one database: requests out through the mailbox, commits in through the ring, answers to clients.

Everything here is synchronous; the reader's tasks call `receive` (messages of a client), `pump` (the bell rang) and
`flush`. Order is kept by doing everything at an exact place of the ring: a Subscribe is executed between two records,
after the answers to the client's earlier calls, and sees exactly the rows of that place.

Before a Subscribe or a query the ring is pumped to its head. Whatever a client may have heard of, over any connection
and reader, was in the ring before it heard it, so it is seen.
"""

from __future__ import annotations

import os
from struct import Struct as Layout
from typing import TYPE_CHECKING, Final

import trio

from spacetimedb.hosts import mail
from spacetimedb.memory.control import ControlBlock
from spacetimedb.memory.doorbell import Doorbell
from spacetimedb.memory.heap import RowReader
from spacetimedb.memory.mailbox import MailboxWriter
from spacetimedb.memory.region import Region
from spacetimedb.memory.ring import ReaderDropped, RingCorrupt, RingReader
from spacetimedb.protocol import v2
from spacetimedb.store.commit_record import COMMIT, ENTRY_BYTES, HEADER_BYTES, NO_REDUCER, SILENT, changes
from spacetimedb.subscriptions.query_sets import Subscriptions
from spacetimedb.types.special import Identity
from spacetimedb.workers.messages import BELL_FDS, DatabaseUp
from spacetimedb.workers.reader.answers import follow_answer
from spacetimedb.workers.reader.catalog import DatabaseCatalog
from spacetimedb.workers.reader.client import CONNECTING, Client, Lane
from spacetimedb.workers.reader.client_requests import CALLS, ClientRequests
from spacetimedb.workers.reader.known_tables import KnownTables
from spacetimedb.workers.reader.link_figures import LinkFigures
from spacetimedb.workers.reader.log_watch import LogWatch
from spacetimedb.workers.reader.lookups import RowLookups
from spacetimedb.workers.reader.outbox import Outbox
from spacetimedb.workers.reader.program_change import close_clients, follow_program, follow_record
from spacetimedb.workers.reader.query_costs import QueryCosts
from spacetimedb.workers.reader.v1_clients import V1Client, V1Clients
from spacetimedb.workers.reader.views import follow_ready, instances_of
from spacetimedb.workers.reader.waiter import Waiter

if TYPE_CHECKING:
    from collections.abc import Collection


MAX_DRAIN_BYTES: Final = 8 << 20
"""Bytes taken from the ring at once."""
LEAST_BYTES: Final = 8
"""Of any record."""
MAX_CLOSE_BYTES: Final = 123
"""Longest reason in a WebSocket close frame."""
_COMMIT: Final = Layout("<IBBHQqHHIII")
"""Head of a commit record up to the duration."""
_U32: Final = Layout("<I")
_OK: Final = Layout("<BIqBII")
"""ReducerResult Ok with no return value and no query sets."""


class DatabaseLink:
    """See the head of the module. `statistics` counts what happened since the reader started."""

    def __init__(self, lane: Lane, reader: int, up: DatabaseUp, fds: list[int]) -> None:
        self.lane = lane
        self.reader = reader
        self.identity = Identity(up.identity)
        self.owner = Identity(up.owner)
        control, ring, heap, mailbox = map(Region.attach, fds[:4])
        self._regions = [control, ring, heap, mailbox]
        self.control = ControlBlock(control)
        self.figures = LinkFigures(self.control.reader_board(reader))
        self.ring = ring
        self._ring = RingReader(ring, reader + 1)
        self.heap = RowReader(heap)
        self._mailbox = MailboxWriter(mailbox)
        self._actor_bell = Doorbell.attach(*fds[4 : 4 + BELL_FDS])
        self.up = up
        self.catalog = DatabaseCatalog(up)
        self.clients: dict[int, Client] = {}
        """Those that speak v2 or v3."""
        self.v1 = V1Clients(self)
        self.waiters: dict[int, Waiter] = {}
        # A reader that died may have answers under way for the same place: its numbers must not mean anybody here.
        self._next_number = int.from_bytes(os.urandom(4), "little")
        self.outgoing: list[bytes] = []
        """Mailbox records of this round."""
        self.congested = False
        """The mailbox was full: nothing is read from clients until there is room."""
        self.fault: RingCorrupt | None = None
        self.down = False
        self.down_reason = ""
        """Why the database stopped, if its module is the cause."""
        self.log = LogWatch(self)
        self.outbox = Outbox(lane, self.check_attached, self.log.expect)
        self.requests = ClientRequests(self)
        self._closing: list[tuple[int, list[Client]]] = []
        """Clients that the database disconnected, and what must be durable before they are closed."""
        self.tables = KnownTables(self)
        self.lookups = RowLookups(self)
        self.subscriptions = Subscriptions(self.tables, self.lookups)
        self.costs = QueryCosts(self)
        self.views = instances_of(self)
        self.log_followers: set[trio.MemorySendChannel[bytes]] = set()

    # -- clients

    def new_number(self) -> int:
        """A number for a connection or a request that nobody has now; never 0."""
        while True:
            number = self._next_number = self._next_number % 0xFFFFFFFF + 1
            if number not in self.clients and number not in self.v1.clients and number not in self.waiters:
                return number

    def connect(self, client: Client, claims: str) -> None:
        """Announces a client to the actor; it is greeted, or dropped, when the answer comes."""
        self.figures.spawned.add()
        if isinstance(client, V1Client):
            self.v1.clients[client.number] = client
        else:
            self.clients[client.number] = client
        body = bytes(client.identity) + bytes(client.connection_id) + claims.encode()
        self.outgoing.append(mail.request(mail.CONNECT, 0, client.number, 0, body))
        self.lane.post_soon(self)

    def all_clients(self) -> list[Client]:
        """Whatever they speak."""
        return [*self.clients.values(), *self.v1.clients.values()]

    def has_client(self, client: Client) -> bool:
        """Whether the client is still here."""
        return client.number in self.clients or client.number in self.v1.clients

    def leave(self, client: Client) -> None:
        """A client is gone, or is going: it gets nothing more and the actor hears of it. Idempotent."""
        if not self.has_client(client):
            return
        # Calls that came in before the end are run, though nobody hears of them.
        calls = [message for message in client.deferred if message[0] in CALLS]
        client.deferred.clear()
        if calls and client.state != CONNECTING and not self.down:
            self.requests.receive(client, calls)
        self.clients.pop(client.number, None)
        self.v1.clients.pop(client.number, None)
        self.outbox.forget(client)
        self.figures.ended(client.cause)
        self.subscriptions.drop_client(client.number)
        self.views.done(client.number)
        self.tables.forget_unused()
        if not self.down:
            self.outgoing.append(mail.request(mail.DISCONNECT, 0, client.number, 0, b""))
            self.lane.post_soon(self)

    # -- the mailbox

    def post(self) -> None:
        """Sends this round's requests. A full mailbox leaves them here and sets `congested`."""
        if self.congested or not self.outgoing or self.down:
            return
        if not self.figures.asked[0]:
            self.figures.ask(self.outgoing[0])
        data = b"".join(self.outgoing)
        if len(data) > self._mailbox.capacity // 2:
            self._post_singly()
            return
        if not self._mailbox.send_batch(data):
            if self._mailbox.prepare_wait():
                self.congested = True
                return
            self._mailbox.send_batch(data)
        self.outgoing.clear()
        if self._mailbox.take_sleeper():
            self._actor_bell.ring()

    def _post_singly(self) -> None:
        limit = self._mailbox.capacity // 4
        if max(map(len, self.outgoing)) > limit:
            self.outgoing[:] = [piece for record in self.outgoing for piece in mail.pieces(record, limit)]
        for done, record in enumerate(self.outgoing):
            if not self._mailbox.send_batch(record) and (
                self._mailbox.prepare_wait() or not self._mailbox.send_batch(record)
            ):
                del self.outgoing[:done]
                self.congested = True
                break
        else:
            self.outgoing.clear()
        if self._mailbox.take_sleeper():
            self._actor_bell.ring()

    # -- the ring

    position_horizon = 0
    """Number of logged transactions up to this place of the ring."""

    def pump(self) -> bool:
        """Processes all that is in the ring now, releases what has become durable. False if there was nothing.

        What comes meanwhile waits for the next time: answers must go out between. Raises ReaderDropped, and
        RingCorrupt from then on if it cannot be understood.
        """
        if self.down:
            return False
        if self.fault is not None:
            raise self.fault
        try:
            return self._pump()
        except ReaderDropped:
            raise
        except Exception as error:
            raise self.distrust(error) from error

    def distrust(self, error: Exception) -> RingCorrupt:
        """What the database published cannot be understood: `pump` says so until the database is replaced."""
        self.fault = RingCorrupt("the database published what cannot be read")
        self.fault.__cause__ = error
        return self.fault

    def _pump(self) -> bool:
        worked = False
        ring = self._ring
        goal = ring.position + ring.pending()
        while (not worked or ring.position < goal) and (data := ring.drain(MAX_DRAIN_BYTES)):
            worked = True
            if self._take(data):
                self._actor_bell.ring()
        durable = self.log.look()
        while self._closing and self._closing[0][0] <= durable:
            close_clients(self, self._closing.pop(0)[1])
        return worked

    def _take(self, data: bytes) -> bool:
        """Processes records, as far as the rows are known that they need. Whether the producer waits for room."""
        ring, lookups = self._ring, self.lookups
        if lookups.is_pausing:
            held = lookups.hold(data)
            if held is None:
                return False
            data = held
        left = len(data) - self._process(data)
        if left:
            lookups.pause(data[-left:])
        producer_waits = ring.advance(ring.position - left)
        if not left:
            lookups.go_on()
        return producer_waits

    def check_attached(self) -> None:
        """Raises ReaderDropped if the actor did not wait for this reader any more."""
        if not self.down:
            self._ring.check()

    def prepare_sleep(self) -> bool:
        """Whether the reader may wait for its bell."""
        if (self._closing or self.log.is_awaited) and not self.log.expect():
            return False
        return self._ring.prepare_sleep()

    def awake(self) -> None:
        """The reader's bell rang; room in the mailbox may have been what it rang for."""
        self._ring.awake()
        if self.congested:
            self.congested = False
            self.post()
            if not self.congested:
                self.lane.resume(self)

    def _process(self, data: bytes) -> int:
        """The records of `data` in order: the hot loop of the way out. Gives how many bytes of it; not all of them if
        a commit needs rows that have to be asked for."""
        at, end = 0, len(data)
        head, length_of, ok = _COMMIT.unpack_from, _U32.unpack_from, _OK.pack
        clients, touched = self.clients, self.outbox.touched
        reader = self.reader
        figures = self.figures
        oldest = figures.oldest_us
        asked, asked_request = figures.asked
        live, lookups = self.subscriptions.live, self.lookups
        while at < end:
            kind = data[at + 4]
            if kind == COMMIT:
                length, _, flags, tables, horizon, timestamp, caller, reducer, number, request_id, duration = head(
                    data, at
                )
                if length < HEADER_BYTES:
                    raise RingCorrupt(f"a commit record of {length} bytes")
                if tables and live.has_partial_joins and lookups.holes(data, at, tables):
                    break
                self.position_horizon = horizon
                if not oldest:
                    oldest = figures.oldest_us = timestamp
                    figures.oldest_reducer = reducer
                update = None
                if tables:
                    groups = self._changes(data, at, tables, flags)
                    if groups:
                        own = number if caller == reader else 0
                        update = self._spread(groups, own, horizon, 0 if reducer == NO_REDUCER else request_id)
                if caller == reader and reducer != NO_REDUCER:
                    if number == asked and request_id == asked_request:
                        figures.answered(reducer)
                    client = clients.get(number)
                    if client is not None:
                        if update is None:
                            client.messages.append(ok(6, request_id, timestamp, 0, 0, 0))
                        else:
                            client.messages.append(v2.reducer_result_ok(request_id, timestamp, update))
                        if horizon > client.horizon:
                            client.horizon = horizon
                        touched.add(client)
                        client.pending_calls -= 1
                        if client.deferred and not client.pending_calls and not client.waiting:
                            self.requests.run_deferred(client)
                    elif number in self.v1.clients:
                        self.v1.committed(number, update, timestamp, duration, horizon)
                    elif self.waiters:
                        waiter = self.waiters.get(number)
                        if waiter is not None:
                            waiter.finish(None, b"", duration, horizon)
                at += length
            else:
                (length,) = length_of(data, at)
                if length < LEAST_BYTES:
                    raise RingCorrupt(f"a record of {length} bytes")
                if kind != mail.SPILLED:
                    self._other(kind, data[at : at + length])
                elif not self._process(self.heap.row(mail.SPILLED_RECORD.unpack_from(data, at)[2])):
                    break
                at += length
        return at

    def _changes(self, data: bytes, at: int, tables: int, flags: int) -> list[tuple[bytes, Collection[int]]]:
        """Follows the rows of known tables and evaluates the subscriptions: (updates, clients) groups."""
        subscribed, rows = self.subscriptions.tables, self.tables
        if not subscribed and not rows.known and not rows.coming:
            return []
        first = at + HEADER_BYTES
        ids = [_U32.unpack_from(data, first + i * ENTRY_BYTES)[0] for i in range(tables)]
        if subscribed.keys().isdisjoint(ids) and not rows.concern(ids):
            return []
        found = changes(data, at, tables)
        rows.follow(found)
        if self.lookups.counts:
            self.lookups.follow(found)
        if flags & SILENT:
            self.subscriptions.follow(found)
            return []
        return self.subscriptions.evaluate(found)

    def _spread(
        self, groups: list[tuple[bytes, Collection[int]]], caller: int, horizon: int, request_id: int
    ) -> bytes | None:
        """Queues a TransactionUpdate for everybody in the groups but the caller, whose update is returned."""
        own = None
        clients, touched, shared = self.clients, self.outbox.touched, self.outbox.shared
        for update, numbers in groups:
            message = b"\x04" + update
            shared.append(message)
            for number in numbers:
                if number == caller:
                    own = update
                    continue
                client = clients.get(number)
                if client is not None:
                    client.messages.append(message)
                    if horizon > client.horizon:
                        client.horizon = horizon
                    touched.add(client)
                elif number in self.v1.clients:
                    self.v1.spread(number, update, request_id, horizon)
        return own

    def _other(self, kind: int, record: bytes) -> None:
        if kind == mail.ANSWER:
            follow_answer(self, record)
        elif kind == mail.REFS_READY:
            self.tables.refs_came(record)
        elif kind == mail.REFS_BEGUN:
            self.tables.refs_begun(record)
        elif kind == mail.VIEW_READY:
            follow_ready(self, record)
        elif kind == mail.PROGRAM:
            follow_record(self, mail.program_of(record))
        elif kind == mail.CLOSE_CLIENTS:
            self._closing.append((self.position_horizon, self.all_clients()))
        elif kind == mail.LOG_LINES:
            self._follow_log(record)
        elif kind == mail.RELAYED:
            self.costs.follow(record)
        elif kind == mail.LOOKED_UP:
            self.lookups.came(record)

    def _follow_log(self, record: bytes) -> None:
        if self.log_followers:
            _length, _kind, padding, _zero = mail.LOG_LINES_HEAD.unpack_from(record)
            lines = record[8 : len(record) - padding]
            for follower in list(self.log_followers):
                try:
                    follower.send_nowait(lines)
                except (trio.WouldBlock, trio.BrokenResourceError):
                    pass  # a follower that does not read loses lines

    # -- requests over HTTP

    def waiter(self) -> Waiter:
        """A place for the answers to one HTTP request."""
        waiter = Waiter(self.new_number())
        self.waiters[waiter.number] = waiter
        return waiter

    # -- the end

    def update(self, up: DatabaseUp) -> None:
        """Another program. The ring says so, too: whoever attached too late for that learns it here."""
        follow_program(self, up)

    def go_down(self, reason: str = "") -> None:
        """The database stopped: everybody is closed, everything that waits is woken."""
        self.down = True
        self.down_reason = reason
        self.lane.resume(self)
        text = f"{v2.MODULE_EXITED}: {reason}" if reason else v2.MODULE_EXITED
        for client in self.all_clients():
            self.lane.close(client, v2.MODULE_EXITED_CLOSE, text.encode()[:MAX_CLOSE_BYTES].decode(errors="ignore"))
        for waiter in self.waiters.values():
            waiter.event.set()
        self.tables.give_up()
        self.lookups.go_on()
        self.views.give_up()
        self.costs.expire(is_down=True)
        self.log.moved.set()
        for follower in self.log_followers:
            follower.close()
        self.log_followers.clear()
        for region in self._regions:
            region.close()
        self._actor_bell.close()
