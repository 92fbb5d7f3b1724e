"""The transaction actor: one process per database, the only one that writes to it.

Loop: take everything that waits in the mailboxes, run some of it, publish the records in the commit ring, wake who
sleeps. A round takes a moment, however much waits: between two of them due schedules run, what procedures have posted,
and what the supervisor wants, another program above all. With nothing to do it sleeps in poll until its bell rings or
a schedule is due.

It dies: records that were published are in the ring and will be logged; what was not published has not happened. It can
be killed at any point.

Before the first line of module code it confines itself (`sandbox`): what it needs is loaded and open then. While it
works a timer counts up its heartbeat in the control block; the supervisor replaces an actor whose heartbeat stands
still.
"""

from __future__ import annotations

import gc
import math
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from spacetimedb.hosts import mail, row_lookups
from spacetimedb.hosts.database import Caller, Database, caller
from spacetimedb.hosts.installation import InstallError, create, program_of, read_state, recover_from, update
from spacetimedb.hosts.mail import Outcome
from spacetimedb.hosts.policy import ON_DEMAND
from spacetimedb.hosts.procedure_threads import ProcedureThreads
from spacetimedb.hosts.program import libraries_of, load_libraries
from spacetimedb.hosts.refs_copies import RefsCopies
from spacetimedb.memory import control as words
from spacetimedb.memory.control import ControlBlock
from spacetimedb.memory.doorbell import Doorbell
from spacetimedb.memory.heap import RowHeap
from spacetimedb.memory.mailbox import MailboxReader
from spacetimedb.memory.region import Region
from spacetimedb.memory.ring import LOG_KEEPER_SLOT, RingWriter
from spacetimedb.store.commit_record import EVENT, UNLOGGED
from spacetimedb.types.special import ConnectionId, Identity
from spacetimedb.workers.channel import Channel
from spacetimedb.workers.last_words import speak_into
from spacetimedb.workers.messages import (
    BELL_FDS,
    ActorAttachReader,
    ActorFailed,
    ActorOutbound,
    ActorReady,
    ActorRecovered,
    ActorSetup,
    AnnounceRows,
    DetachReader,
    RowCounts,
    SlowReader,
    Stop,
    ToActor,
    UpdateProgram,
)
from spacetimedb.workers.outbound import OutboundClient
from spacetimedb.workers.sandbox import NotConfined, confine
from spacetimedb.workers.transaction_actor.garbage import collect_cycles, collect_garbage

REQUESTS_PER_ROUND: Final = 256
"""Of each reader. Then their records are published, so that the readers work at the same time."""
TICKS_PER_ROUND: Final = 2
"""Requests of a reader that take longer are a round, too: the time is between one and two of the budget's ticks."""
PUBLISH_WITHIN_S: Final = 0.01
"""Records wait no longer than this (and the round that is running) for others to go out with them."""
JOBS_PER_ROUND: Final = 16
"""Scheduled calls between two looks into the mailboxes."""
SLOW_READER_S: Final = 5.0
"""A reader that holds back a full ring for so long is dropped."""
RING_LOOK_S: Final = 0.1
"""How long it sleeps at most while the ring is full."""
MAX_IDLE_S: Final = 60.0
"""So soon schedules notice a clock that was set while nothing happened."""
LAST_REQUESTS_S: Final = 1.0
"""So long goes an actor that is to stop on with what waits, and with what a reader has left that is gone."""
FIGURES_S: Final = 0.25
"""Figures of tables are this old at most, for metrics."""
FULL_LOOK_S: Final = 0.25
"""While the commit log has no room, between two looks whether schedules may go on."""
NEEDS_MEMORY: Final = "the database needs more memory than it may have; start the server with a larger --memory-mb"
KEEPS_MEMORY: Final = "the module keeps the memory that a call has used up: the database process is replaced"
DISK_FULL: Final = "the server's disk is full: nothing can be changed until there is room"
LOG_BROKEN: Final = (
    "the commit log cannot be written: nothing can be changed until it can; the server's output says why"
)
DISCONNECTED: Final = "the database disconnected this client before the request came; try again"
_REFUSALS: Final = {
    mail.CALL: Outcome.ERROR,
    mail.SQL: Outcome.SQL_ERROR,
    mail.IMPORT: Outcome.SQL_ERROR,
    mail.PROCEDURE: Outcome.PROCEDURE_FAILED,
}
"""Requests that are refused while the commit log has no room, and as what."""


def wall_clock_us() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


class TransactionActor:
    """The process's state: the database core, its mailboxes and the commit ring."""

    def __init__(self, channel: Channel, setup: ActorSetup, fds: list[int]) -> None:
        self._channel = channel
        self._control = ControlBlock(Region.attach(fds[0]))
        self._ring = RingWriter(Region.attach(fds[1]))
        heap = RowHeap(Region.attach(fds[2]))
        self._bell = Doorbell.attach(*fds[3 : 3 + BELL_FDS])
        self._bells: dict[int, Doorbell] = {LOG_KEEPER_SLOT: Doorbell.attach(*fds[3 + BELL_FDS : 3 + 2 * BELL_FDS])}
        """Bell of the consumer in each slot of the ring."""
        self._mailboxes: dict[int, MailboxReader] = {}
        self._mailbox_regions: dict[int, Region] = {}
        self._taken: dict[int, tuple[bytes, int]] = {}
        """Requests out of the mailbox that were not all run, by reader: all of them, and where to go on."""
        self._pieces: dict[int, list[bytes]] = {}
        """Beginnings of long requests that are not complete, by reader; as long as a client's message at most."""
        self._stopping = False
        self._stops_by = math.inf
        self.database = database = Database(
            Identity(setup.identity), Identity(setup.owner), heap, wall_clock_us, self._control.actor_board()
        )
        self._refs_copies = RefsCopies(database)
        self._figures_due = 0.0
        self._procedures = ProcedureThreads(database.log, wall_clock_us, self._bell.ring)
        database.procedures.runner = self._procedures
        self._outbound = OutboundClient()
        database.procedures.exchange = self._outbound.exchange
        database.checks_determinism = setup.checks_determinism
        self._holds_schedules = setup.is_careful
        self._spare_bytes = setup.confinement.memory_bytes // 4
        self._beats = 0
        database.budget.beat, database.budget.defied = self._beat, self._defied
        words_ = self._control.words
        words_[words.ACTOR_PID] = os.getpid()
        words_[words.ACTOR_STATE] = words.RECOVERING
        started = time.monotonic()
        state = None
        program = setup.program
        if not setup.create:
            assert setup.log_directory is not None
            state = read_state(Path(setup.log_directory))
            program = program_of(state)
        self._recovered_program = program if program != setup.program else None
        load_libraries({*setup.libraries, *libraries_of(program)})
        own = fds[3 + 2 * BELL_FDS :]
        if setup.has_outbound:
            self._outbound.use(own[1])
        speak_into(own[0])
        try:
            confine(setup.confinement)
        except NotConfined:
            pass  # the supervisor has said so
        if not database.memory.take():
            raise InstallError(NEEDS_MEMORY)
        for note in setup.notes:
            database.log.system(note.text, "Error", *((note.function,) if note.function else ()))
        channel.send(ActorRecovered())
        self._work()
        if state is None:
            create(self.database, setup.program, setup.program_hash)
        else:
            recover_from(self.database, state, None, not setup.is_careful)
            database.figures.recovered(state.next_offset - state.snapshot_offset, time.monotonic() - started)
        self._rest()
        words_[words.NEXT_OFFSET] = self.database.horizon
        self._poller = select.poll()
        self._poller.register(self._bell.fd, select.POLLIN)
        self._channel_fd = channel.socket.fileno()
        self._poller.register(self._channel_fd, select.POLLIN)

    def ready(self) -> ActorReady:
        """What the supervisor tells the readers."""
        database = self.database
        recovered, self._recovered_program = self._recovered_program, None
        return ActorReady(
            database.raw_definition,
            database.table_ids,
            database.horizon,
            database.program_hash,
            database.generation,
            database.module.not_durable,
            [name for name in sorted(ON_DEMAND) if name in sys.modules],
            recovered,
        )

    # -- the heartbeat

    def _beat(self) -> None:
        self._beats += 1
        self._control.words[words.ACTOR_HEARTBEAT] = self._beats

    def _defied(self) -> None:
        self._control.words[words.ACTOR_HEARTBEAT] = words.DEFIANT

    def _rest(self) -> None:
        """No heartbeats are to be expected until `_work`."""
        self.database.budget.stop()
        self._control.words[words.ACTOR_HEARTBEAT] = 0

    def _work(self) -> None:
        self.database.budget.start()
        self._beat()

    # -- the loop

    def run(self) -> None:
        """Serves until told to stop, or until the supervisor is gone."""
        database = self.database
        self.publish()
        self._control.words[words.ACTOR_STATE] = words.SERVING
        self._work()
        self._look_at_channel()
        beats, since = 0, 0.0
        while True:
            if not database.out:
                since = time.perf_counter()
            worked = False
            waiting = 0
            if self._beats != beats:  # not in every round
                beats = self._beats
                self._look_at_channel()
                collect_cycles()
                self._show_figures()
            for reader, mailbox in self._mailboxes.items():
                data, at = self._taken.pop(reader) if reader in self._taken else (self._take(reader, mailbox), 0)
                if data:
                    worked = True
                    waiting += len(data) - at
                    at = self._run_requests(reader, data, at)
                    if at < len(data):
                        self._taken[reader] = data, at
            if worked:
                self._control.words[words.MAILBOX_DEPTH] = waiting
                database.figures.show_queue()
            for _ in range(JOBS_PER_ROUND):
                if self._is_full or self._holds_schedules or not database.run_due():
                    break
                worked = True
            if self._procedures.run_posted():
                worked = True
            if self._refs_copies.step():
                worked = True
            if worked and len(database.out) < REQUESTS_PER_ROUND and time.perf_counter() - since < PUBLISH_WITHIN_S:
                continue  # what came meanwhile goes out together with this
            if database.out or database.log.pending:
                self.publish()
            if database.memory.is_missing and not self._regain_memory():
                break
            if self._stopping and (not worked or time.monotonic() > self._stops_by):
                break
            if not worked:
                self._sleep()
        self._rest()
        self._control.words[words.ACTOR_STATE] = words.STOPPED

    def _take(self, reader: int, mailbox: MailboxReader) -> bytes:
        """What waits in a mailbox; a reader that waits for room goes on."""
        data = mailbox.drain()
        if data:
            self.database.figures.wait.observe(mailbox.waited_us())
            if mailbox.take_waiter():
                self._bells[reader + 1].ring()
        return data

    def _sleep(self) -> None:
        database = self.database
        collect_cycles()
        # Waiting for room in the ring may have cleared the bell that a procedure rang.
        if not self._procedures.posted and all(mailbox.prepare_sleep() for mailbox in self._mailboxes.values()):
            due = None if self._holds_schedules else database.next_due_us()
            wait_s = MAX_IDLE_S if due is None else max(0.0, (due - wall_clock_us()) / 1e6)
            if self._is_full:
                wait_s = FULL_LOOK_S
            if not self._show_figures():
                wait_s = min(wait_s, FIGURES_S)
            if wait_s > 0:
                database.figures.queue.set(0)
                self._rest()
                ready = self._poller.poll(min(wait_s, MAX_IDLE_S) * 1000 + 0.5)
                self._work()
                self._bell.clear()
                if any(fd == self._channel_fd for fd, _event in ready):
                    self._look_at_channel()
        for mailbox in self._mailboxes.values():
            mailbox.awake()

    def _show_figures(self) -> bool:
        """Brings the tables' figures to the board, not too often. False if there are later ones than on it."""
        figures = self.database.figures
        if not figures.is_current:
            now = time.monotonic()
            if now < self._figures_due:
                return False
            self._figures_due = now + FIGURES_S
            figures.refresh()
        return True

    def _regain_memory(self) -> bool:
        """After a call that used up the memory. False: its module does not let go of it, and this process must end."""
        self._rest()
        gc.collect()
        self._work()
        if self.database.memory.take(self._spare_bytes):
            return True
        self.database.log.system(KEEPS_MEMORY, "Error")
        self.publish()
        return False

    def _look_at_channel(self) -> None:
        messages = self._channel.poll()
        if messages is None:
            self._stop()
            return
        for message, fds in messages:
            self._obey(message, fds)

    def _obey(self, message: ToActor, fds: list[int]) -> None:
        match message:
            case ActorAttachReader(reader):
                region = self._mailbox_regions[reader] = Region.attach(fds[0])
                self._mailboxes[reader] = MailboxReader(region)
                bell = self._bells[reader + 1] = Doorbell.attach(*fds[1:])
                bell.ring()
            case DetachReader(reader):
                self._forget_reader(reader)
            case ActorOutbound():
                self._outbound.use(fds[0])
            case UpdateProgram():
                self._update(message)
            case AnnounceRows():
                self._channel.send(RowCounts(self.database.horizon, self._row_counts()))
            case Stop():
                self._stop()

    def _stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._stops_by = time.monotonic() + LAST_REQUESTS_S

    def _row_counts(self) -> dict[int, int]:
        """Rows of every table whose rows are logged; between two transactions."""
        tables = self.database.store.tables
        return {number: table.row_count for number, table in tables.items() if not table.flags & (EVENT | UNLOGGED)}

    def _update(self, message: UpdateProgram) -> None:
        if self._is_full:
            self._channel.send(ActorFailed(self._log_problem))
            return
        try:
            update(self.database, message.program, message.program_hash, message.break_clients)
        except InstallError as error:
            self._channel.send(ActorFailed(str(error)))
            return
        self._holds_schedules = False
        self.publish()
        self._channel.send(self.ready())
        self._rest()
        collect_garbage()
        self._work()

    def _forget_reader(self, reader: int) -> None:
        mailbox = self._mailboxes.pop(reader, None)
        if mailbox is not None:
            taken, at = self._taken.pop(reader, (b"", 0))
            rest = taken[at:] + mailbox.drain()
            at, by = 0, time.monotonic() + LAST_REQUESTS_S
            while at < len(rest) and time.monotonic() < by:
                at = self._run_requests(reader, rest, at)
                self.publish()
            self._mailbox_regions.pop(reader).close()
        self._pieces.pop(reader, None)
        self.database.reader_gone(reader)
        bell = self._bells.pop(reader + 1, None)
        if bell is not None:
            bell.close()

    # -- requests

    def _run_requests(self, reader: int, data: bytes, at: int = 0) -> int:
        """Runs a mailbox's records in order, those of a round from `at` on, at least one; where the next one begins."""
        database = self.database
        clients, unpack = database.clients, mail.REQUEST_HEAD.unpack_from
        call: Callable[[Caller, int, int, bytes], None] = self._refuse if self._is_full else database.call
        first, end, count, late = at, len(data), 0, self._beats + TICKS_PER_ROUND
        while at < end:
            length, kind, flags, detail, connection, request_id = unpack(data, at)
            who = clients.get((reader, connection))
            padding = flags & 7
            if kind == mail.CALL and detail < mail.BAD_CALL:
                if who is None:
                    self._answer_nobody(reader, kind, connection, request_id)
                elif flags >> 3 == database.generation:
                    call(who, detail, request_id, data[at + 16 : at + length - padding])
                else:
                    database.call_of_old_program(
                        who, flags >> 3, detail, request_id, data[at + 16 : at + length - padding]
                    )
            else:
                self._run_other(
                    reader, kind, detail, who, connection, request_id, data[at + 16 : at + length - padding]
                )
            at += length
            count += 1
            if count == REQUESTS_PER_ROUND or self._beats >= late:
                break
        database.figures.found += count if at == end else count * (end - first) // (at - first)
        return at

    def _run_other(
        self, reader: int, kind: int, detail: int, who: Caller | None, connection: int, request_id: int, body: bytes
    ) -> None:
        database = self.database
        if kind == mail.CONNECT:
            identity, connection_id = Identity(body[:32]), ConnectionId(body[32:48])
            database.connect(caller(identity, connection_id, reader, connection), request_id, body[48:].decode())
        elif kind == mail.DISCONNECT:
            database.disconnect(reader, connection)
        elif kind == mail.REFS:
            self._refs_copies.begin(int.from_bytes(body, "little"))
        elif kind == mail.LOOK_UP:
            database.out.append(row_lookups.answer(database, reader, request_id, body, detail == mail.WHATEVER))
        elif kind == mail.PAGE:
            database.out.append(row_lookups.answer_page(database, reader, request_id, body))
        elif kind == mail.VIEW:
            name, sender = mail.split_named(body)
            database.views.answer(reader, request_id, (name, Identity(sender) if sender else None))
        elif kind == mail.VIEW_UNUSED:
            database.views.close(reader, int.from_bytes(body, "little"))
        elif kind == mail.RELAY:
            database.out.append(mail.relayed(reader, len(self._mailboxes), request_id, body))
        elif kind == mail.PIECE:
            pieces = self._pieces.setdefault(reader, [])
            pieces.append(body)
            if detail != mail.MORE:
                del self._pieces[reader]
                self._run_requests(reader, b"".join(pieces))
        elif kind == mail.HANDLER:
            nobody = caller(Identity.ZERO, None, reader, connection)
            database.procedures.handle(nobody, request_id, body)
        elif who is None:
            self._answer_nobody(reader, kind, connection, request_id)
        elif kind in _REFUSALS and self._is_full:
            self._refuse(who, kind, request_id, body, _REFUSALS[kind])
        elif kind == mail.CALL:
            name, args = mail.split_named(body)
            if detail == mail.BAD_CALL:
                database.log_bad_arguments(name, "procedure" if name in database.procedures.by_name else "reducer")
                database.answer(Outcome.BAD_ARGUMENTS, who, request_id, database.timestamp_us(), "")
            else:
                database.call_by_name(who, name, request_id, args)
        elif kind == mail.SQL:
            database.sql(who, request_id, body[1:].decode(), body[0] == 1)
        elif kind == mail.IMPORT:
            name, rows = mail.split_named(body)
            database.import_rows(who, request_id, name, rows)
        elif kind == mail.NOTHING:
            database.answer(Outcome.SQL_DONE, who, request_id, database.timestamp_us(), mail.ROW_COUNTS.pack(0, 0, 0))
        elif kind == mail.PROCEDURE:
            name, args = mail.split_named(body)
            database.call_procedure(who, name, request_id, args)

    def _answer_nobody(self, reader: int, kind: int, connection: int, request_id: int) -> None:
        """To somebody who was refused when he connected, and then listens no more, or was disconnected by an update
        while he sent."""
        nobody = caller(Identity.ZERO, None, reader, connection)
        self._refuse(nobody, kind, request_id, b"", _REFUSALS.get(kind, Outcome.SQL_ERROR), DISCONNECTED)

    @property
    def _is_full(self) -> bool:
        """Whether the commit log has no room, or cannot be written."""
        control = self._control.words
        return control[words.LOG_FULL] != 0 or control[words.LOG_FAILED] != 0

    @property
    def _log_problem(self) -> str:
        return LOG_BROKEN if self._control.words[words.LOG_FAILED] else DISK_FULL

    def _refuse(
        self,
        who: Caller,
        _detail: int,
        request_id: int,
        _body: bytes,
        outcome: Outcome = Outcome.ERROR,
        text: str = "",
    ) -> None:
        self.database.answer(outcome, who, request_id, self.database.timestamp_us(), text or self._log_problem)

    # -- records

    def publish(self) -> None:
        """Puts all records into the ring at one go, closes the heap's epoch, wakes the sleepers. Waits for room."""
        database = self.database
        if database.log.pending:
            database.out.append(mail.log_lines(database.log.take()))
        records, database.out = database.out, []
        if not records:
            return
        database.figures.look_again()
        database.figures.batch.observe(len(records))
        ring, heap = self._ring, database.heap
        end = ring.append_batch(records) if sum(map(len, records)) <= ring.max_record else None
        if end is None:
            end = self._append_slowly(records)
        heap.seal(end)
        heap.reclaim(ring.min_position())
        self._wake(ring.sleepers())
        control = self._control.words
        control[words.NEXT_OFFSET] = database.horizon
        control[words.TRANSACTIONS] = database.horizon
        control[words.REDUCER_CALLS] = database.calls
        control[words.REDUCER_MICROS] = database.reducer_micros
        control[words.REDUCER_ERRORS] = database.errors
        control[words.RING_POSITION] = end
        control[words.HEAP_BYTES] = heap.high_water

    def _wake(self, slots: list[int]) -> None:
        for slot in slots:
            bell = self._bells.get(slot)
            if bell is not None:  # a new reader whose bell has not arrived yet is rung when it does
                bell.ring()

    def _append_slowly(self, records: list[bytes]) -> int:
        """Appends in pieces, waiting for room; a record too long for the ring goes into the heap."""
        ring, heap = self._ring, self.database.heap
        end = ring.head
        batch: list[bytes] = []
        size = 0
        for record in records:
            if len(record) > ring.max_record:
                block = heap.put(record)
                heap.retired.append(block)
                record = mail.SPILLED_RECORD.pack(16, mail.SPILLED, block)
            if size + len(record) > ring.max_record:
                end = self._append_waiting(batch)
                batch, size = [], 0
            batch.append(record)
            size += len(record)
        return self._append_waiting(batch) if batch else end

    def _append_waiting(self, batch: list[bytes]) -> int:
        ring = self._ring
        deadline = time.monotonic() + SLOW_READER_S
        self.database.budget.end()
        while (end := ring.append_batch(batch)) is None:
            self._control.words[words.RING_STALLS] += 1
            self._wake(ring.sleepers())
            if ring.prepare_wait():
                self._bell.wait(RING_LOOK_S)
                if self._is_left_alone():
                    os._exit(1)  # and so is the log keeper: there will never be room
            if time.monotonic() > deadline:
                for slot in ring.blockers():
                    if slot != LOG_KEEPER_SLOT:
                        ring.deactivate(slot)
                        self._channel.send(SlowReader(slot - 1))
                deadline += SLOW_READER_S
        return end

    def _is_left_alone(self) -> bool:
        """Whether the supervisor is gone."""
        poller = select.poll()
        poller.register(self._channel_fd, 0)
        return bool(poller.poll(0))


def main() -> None:
    """Entry of the process; the argument is the number of the inherited channel descriptor."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    channel = Channel.from_fd(int(sys.argv[1]), ToActor)
    first = channel.receive()
    if first is None:
        return
    setup, fds = first
    assert isinstance(setup, ActorSetup)
    gc.disable()  # recovery makes millions of objects that stay
    try:
        actor = TransactionActor(channel, setup, fds)
    except InstallError as error:
        channel.send(ActorFailed(str(error)))
        return
    except MemoryError:
        channel.send(ActorFailed(NEEDS_MEMORY))
        return
    collect_garbage()
    channel.send(actor.ready())
    try:
        actor.run()
    finally:
        actor.database.budget.stop()  # its signal would end a process that is ending, and hide the reason
