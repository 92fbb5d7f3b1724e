"""The client for scripts, notebooks and game loops: every call waits for its answer.

    with connect("ws://127.0.0.1:3000", "notes", module=notes) as conn:
        conn.subscribe(notes.Note)
        conn.call(notes.write, "Hello")
        print(list(conn.db[notes.Note]))

A thread reads, so `conn.db` is up to date at any time; callbacks run in that thread. They may use the `..._nowait`
methods, not those that wait. With `thread=False` there is no thread: rows change and callbacks run only inside
`conn.tick()`, which a game loop calls once a frame, and inside the methods that wait.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Unpack, overload

from spacetimedb.module.query import Query
from spacetimedb.types.special import Timestamp

from .address import Address
from .changes import KEPT, Changes, Overflow
from .core import Pending, Subscription
from .definition import schema_from_json
from .errors import ClientError, ConnectError, Disconnected, SubscriptionError
from .face import (
    CLOSE_SECONDS,
    READ_BYTES,
    SILENCE_SECONDS,
    Backoff,
    Face,
    P,
    ProcedureFunction,
    Queryable,
    R,
    ReducerFunction,
    connect_error,
    may_come_back,
)
from .options import Asked, ConnectOptions, Plan
from .schema import Schema

__all__ = ["ConnectOptions", "Connection", "connect", "fetch_schema", "open_connection"]


def fetch_schema(url: str, database: str, *, token: str | None = None) -> Schema:
    """The schema that the server gives for a database; share it among connections. ConnectError."""
    return schema_from_json(Address.parse(url, database, token=token).fetch_definition())


@contextmanager
def connect(url: str, database: str, *, thread: bool = True, **options: Unpack[ConnectOptions]) -> Iterator[Connection]:
    """A connection to a database, open while the block runs. In a notebook use `open_connection` and `close()`.

    `thread` False: nothing happens outside of `tick()` and what waits. See `ConnectOptions`. Raises ConnectError.
    """
    connection = open_connection(url, database, thread=thread, **options)
    try:
        yield connection
    except BaseException as error:
        connection.abort()
        if isinstance(error, Disconnected):
            connection._check_failure()
        raise
    connection.close()


def open_connection(url: str, database: str, *, thread: bool = True, **options: Unpack[ConnectOptions]) -> Connection:
    """As `connect`, without a block: call `close()` at the end."""
    plan = Plan.of(url, database, options)
    connection = Connection(plan, Asked(plan.address.fetch_definition()) if plan.schema is None else None)
    connection._open()
    if thread:
        connection._start_thread()
    return connection


class Connection(Face):
    """A connection of one thread and its own reading thread; made by `connect` or `open_connection`.

    `lock` is held while a message is applied: hold it to see several tables at one moment.
    """

    __slots__ = (
        "_asked",
        "_backoff",
        "_changed",
        "_closed",
        "_error",
        "_failure",
        "_heard",
        "_is_closing",
        "_sending",
        "_socket",
        "_store",
        "_thread",
        "_unsent",
        "lock",
    )

    def __init__(self, plan: Plan, asked: Asked | None = None) -> None:
        self.lock = threading.RLock()
        schema = plan.schema if asked is None else asked.schema
        assert schema is not None
        super().__init__(plan.address, schema, self.lock)
        self._asked = asked
        self._store = plan.store
        self._sending = threading.Lock()
        self._unsent: deque[bytes] = deque()
        self._changed = threading.Condition(self.lock)
        self._closed = threading.Event()
        self._backoff = plan.backoff
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._error: ClientError | None = None
        self._failure: Exception | None = None
        self._is_closing = False
        self._heard = 0.0

    # -- what waits

    @overload
    def call(self, reducer: ReducerFunction[P], /, *args: P.args, **kwargs: P.kwargs) -> Timestamp: ...
    @overload
    def call(self, reducer: str, /, *args: Any, **kwargs: Any) -> Timestamp: ...
    def call(self, reducer: Any, /, *args: Any, **kwargs: Any) -> Timestamp:
        """Calls a reducer and waits for its end; returns the time at which it ran.

        Raises ReducerError (its own text), InternalError, Disconnected; TypeError or ValueError for bad arguments.
        """
        pending: Pending[Timestamp] = self.call_nowait(reducer, *args, **kwargs)
        return self.wait(pending)

    @overload
    def procedure(self, procedure: ProcedureFunction[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def procedure(self, procedure: str, /, *args: Any, **kwargs: Any) -> Any: ...
    def procedure(self, procedure: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Calls a procedure and returns its value. Raises InternalError, Disconnected, TypeError, ValueError."""
        with self.lock:
            pending = self.core.call(self.core.schema.function("procedure", procedure), args, kwargs)
        self._flush()
        return self.wait(pending)

    @overload
    def query(self, query: Query[R]) -> list[R]: ...
    @overload
    def query(self, query: type[R]) -> list[R]: ...
    @overload
    def query(self, query: str) -> list[Any]: ...
    def query(self, query: Any) -> list[Any]:
        """Rows as of now, without a subscription. Raises QueryError, Disconnected."""
        with self.lock:
            pending = self.core.query(self._text(query))
        self._flush()
        return self.wait(pending)

    def subscribe(self, *queries: Queryable) -> Subscription:
        """Subscribes and waits until the rows are there. Raises SubscriptionError, Disconnected."""
        subscription = self.subscribe_nowait(*queries)
        self.wait(subscription.applied)
        return subscription

    @overload
    def changes(self, table: type[R], *, limit: int = KEPT, overflow: Overflow = "error") -> Changes[R]: ...
    @overload
    def changes(
        self, table: str | Callable[[Any], Any], *, limit: int = KEPT, overflow: Overflow = "error"
    ) -> Changes[Any]: ...
    def changes(self, table: Any, *, limit: int = KEPT, overflow: Overflow = "error") -> Changes[Any]:
        """`for change in conn.changes(Note)`: Insert, Update and Delete objects from now on, each waited for.

        `limit` of them wait for a slow reader; beyond that the stream ends with ChangesLost, or forgets the oldest.
        """
        with self.lock:
            return Changes(self, self._feed(table, limit, overflow))

    def unsubscribe(self, subscription: Subscription) -> None:
        """Ends a subscription and waits until its rows are gone."""
        self.wait(self.unsubscribe_nowait(subscription))

    def wait(self, pending: Pending[R], timeout: float | None = None) -> R:
        """The answer to a `..._nowait`. TimeoutError after so many seconds."""
        self.wait_until(lambda: pending.done, timeout)
        try:
            return pending.result()
        except Disconnected:
            self._check_failure()
            raise

    def wait_until(self, condition: Callable[[], bool], timeout: float | None = None) -> None:
        """Until a condition holds, looked at after every message. TimeoutError; Disconnected if the connection ends for
        good before; what a callback raised."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("a callback cannot wait: use call_nowait and its like")
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self.lock:
                if condition():
                    return
                self._check_failure()
                if self._closed.is_set():
                    raise self._error or Disconnected("the connection was closed")
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"nothing came within {timeout:g} s")
                if self._thread is not None:
                    self._changed.wait(left)
                    continue
            self._pump_or_return(left)

    def wait_closed(self) -> None:
        """Until the connection is over for good: returns if this side closed it, raises the ClientError otherwise, or
        what a callback raised."""
        while self._thread is None and not self._closed.is_set():
            self._pump_or_return(None)
        self._closed.wait()
        self._check_failure()
        if self._error is not None:
            raise self._error

    def tick(self) -> None:
        """Applies what has arrived and runs callbacks, without waiting. For connections with `thread=False`.

        Raises what a callback raises; Disconnected if the connection has ended for good.
        """
        if self._thread is not None:
            raise RuntimeError("a thread does this already: connect with thread=False")
        while self._socket is not None and self._readable(self._socket, 0):
            self._pump_or_return(0)
        self._check_failure()
        if self._closed.is_set() and self._error is not None:
            raise self._error

    # -- what does not wait, from any thread

    def call_nowait(self, reducer: Any, /, *args: Any, **kwargs: Any) -> Pending[Timestamp]:
        with self.lock:
            return super().call_nowait(reducer, *args, **kwargs)

    def subscribe_nowait(
        self,
        *queries: Queryable,
        on_applied: Callable[[], object] | None = None,
        on_error: Callable[[SubscriptionError], object] | None = None,
    ) -> Subscription:
        with self.lock:
            return super().subscribe_nowait(*queries, on_applied=on_applied, on_error=on_error)

    def unsubscribe_nowait(self, subscription: Subscription) -> Pending[None]:
        with self.lock:
            return super().unsubscribe_nowait(subscription)

    def close(self) -> None:
        """Closes the connection in order; calls that were sent are executed. Raises what a callback raised."""
        self._is_closing = True
        if self._socket is not None and threading.current_thread() is not self._thread:
            with self.lock:
                self.core.close()
            self._flush()
            deadline = time.monotonic() + CLOSE_SECONDS
            if self._thread is not None:
                self._closed.wait(CLOSE_SECONDS)
            while self._thread is None and not self._closed.is_set() and time.monotonic() < deadline:
                self._pump_or_return(deadline - time.monotonic())
        self.abort()
        self._check_failure()

    def abort(self) -> None:
        """The end without ceremony."""
        self._is_closing = True
        self._finish(None)
        thread, opened = self._thread, self._socket
        if opened is not None:
            try:
                opened.shutdown(socket.SHUT_RDWR)  # wakes the thread
            except OSError:
                pass
        if thread is not None and thread is not threading.current_thread():
            thread.join(CLOSE_SECONDS)
        self._drop(Disconnected("the connection was closed"))

    # -- inside

    def _check_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _open(self) -> None:
        """Connects and waits for the greeting. ConnectError."""
        core, address = self.core, self.core.address
        deadline = time.monotonic() + address.timeout
        try:
            raw = socket.create_connection((address.host, address.port), address.timeout)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tls = address.tls()
            self._socket = raw if tls is None else tls.wrap_socket(raw, server_hostname=address.host)
            with self.lock:
                self._unsent.clear()
                core.open()
            self._flush()
            while core.state != "open":
                self._socket.settimeout(max(0.001, deadline - time.monotonic()))
                data = self._socket.recv(READ_BYTES)
                with self.lock:
                    if not data:
                        raise core.end_of_stream()
                    core.receive_data(data)
            self._socket.settimeout(SILENCE_SECONDS)
            self._heard = time.monotonic()
        except BaseException as error:
            self._drop(error if isinstance(error, ClientError) else ConnectError(str(error)))
            raise connect_error(error, address) from None
        self._flush()
        if self._store is not None and self.token is not None and self._store.load() != self.token:
            self._store.save(self.token)

    def _start_thread(self) -> None:
        self._thread = threading.Thread(target=self._run, name=f"spacetimedb {self.core.address.database}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        """The reading thread: until the connection is over for good."""
        while not self._closed.is_set():
            self._pump_or_return(None)

    @staticmethod
    def _readable(opened: socket.socket, seconds: float) -> bool:
        if hasattr(opened, "pending") and opened.pending():
            return True
        with selectors.DefaultSelector() as selector:  # `select.select` takes no descriptor above 1023
            selector.register(opened, selectors.EVENT_READ)
            return bool(selector.select(seconds))

    def _pump_or_return(self, seconds: float | None) -> None:
        """Takes one read, or comes back after so many seconds without one; sees to the end of the connection."""
        opened = self._socket
        if opened is None:
            self._finish(None)
            return
        try:
            if seconds is not None and not self._readable(opened, max(0.0, seconds)):
                return
            data = opened.recv(READ_BYTES)
        except TimeoutError:
            self._ended(Disconnected(f"the server was silent for {SILENCE_SECONDS:g} s"))
            return
        except (OSError, ValueError):
            data = b""
        core = self.core
        error: ClientError | None = None
        with self.lock:
            try:
                if data:
                    core.receive_data(data)
                    if core.is_close_finished:
                        error = Disconnected("the connection was closed")
                elif core.state != "closed":
                    error = core.end_of_stream()
            except ClientError as caught:
                error = caught
            except Exception as failure:  # of a callback: it ends the connection and is raised where somebody waits
                self._failure = failure
                self._is_closing = True
                error = Disconnected(f"a callback raised {failure!r}")
            self._changed.notify_all()
        self._flush()
        if error is not None:
            self._ended(error)

    def _ended(self, error: ClientError) -> None:
        self._drop(error)
        shown = None if self._is_closing else error
        self._tell_disconnected(shown)
        if shown is not None and self._backoff is not None and may_come_back(error):
            self._come_back(self._backoff)
        else:
            self._finish(shown)

    def _come_back(self, backoff: Backoff) -> None:
        """Connects again, as often as it takes, or until the server does not want us any more."""
        attempt = 0
        while not self._closed.wait(backoff.delay(attempt)):
            attempt += 1
            try:
                if self._asked is not None and self._asked.renew(self.core.address.fetch_definition()):
                    with self.lock:
                        self.core.adopt(self._asked.schema)
                self._open()
            except ClientError as error:
                if not may_come_back(error):
                    self._finish(error)
                    return
            else:
                self._tell_reconnected()
                with self.lock:
                    self._changed.notify_all()
                return

    def _drop(self, error: ClientError) -> None:
        with self.lock:
            opened, self._socket = self._socket, None
            self.core.lost(error)
            self._changed.notify_all()
        if opened is not None:
            opened.close()

    def _finish(self, error: ClientError | None) -> None:
        with self.lock:
            if self._closed.is_set():
                return
            self._error = error
            self._over(error)
            self._closed.set()
            self.core.abandon(error or Disconnected("the connection was closed"))
            self._changed.notify_all()

    def _flush(self) -> None:
        with self.lock:
            data = self.core.data_to_send()
            if data:
                self._unsent.append(data)
        with self._sending:  # whoever holds this one never waits for `lock`
            while self._unsent:
                opened = self._socket
                data = self._unsent.popleft()
                if opened is not None:
                    try:
                        opened.sendall(data)
                    except OSError:
                        pass  # the reading side notices
