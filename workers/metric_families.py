"""Families of the metrics that the log keeper and the readers count on their boards; the actor's are in
`hosts.figures`."""

from __future__ import annotations

from typing import Final

from spacetimedb.hosts import figures as actor
from spacetimedb.memory.figures import COUNTER, DB, GAUGE, HISTOGRAM, Family

_DISK_US: Final = (50, 100, 250, 500, 1000, 2500, 5000, 10_000, 50_000, 100_000, 500_000, 1_000_000)
_AGE_US: Final = (500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000)
_SECONDS_US: Final = (1000, 10_000, 50_000, 100_000, 250_000, 500_000, 1_000_000)
_TRANSACTIONS: Final = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500)

LOG_SYNC: Final = Family(
    "spacetime_commitlog_sync_seconds", HISTOGRAM, "Duration of one fdatasync of the commit log.", (), 1e-6, _DISK_US
)
LOG_APPEND: Final = Family(
    "spacetime_commitlog_append_seconds", HISTOGRAM, "Duration of writing one batch to the log.", (), 1e-6, _DISK_US
)
LOG_BATCH: Final = Family(
    "spacetime_commitlog_batch_transactions",
    HISTOGRAM,
    "Transactions that became durable together.",
    (),
    1,
    _TRANSACTIONS,
)
LOG_SIZE: Final = Family(
    "spacetime_message_log_size_bytes",
    GAUGE,
    "What the commit log takes on the disk; looked at every five seconds.",
    database=DB,
)
SNAPSHOT_SIZE: Final = Family("spacetime_snapshots_size_bytes", GAUGE, "What the snapshots take on the disk.")
UPDATE_AGE: Final = Family(
    "spacetime_update_age_seconds",
    HISTOGRAM,
    "From the timestamp of the oldest reducer call of a batch until its updates were handed to the sockets.",
    (),
    1e-6,
    _AGE_US,
)
SPAWNED: Final = Family("spacetime_worker_ws_clients_spawned", GAUGE, "WebSocket clients that connected.")
ENDED: Final = Family(
    "spacetime_worker_ws_client_disconnections_total", COUNTER, "Ends of WebSocket connections.", ("cause",)
)
ENDED_BY: Final = {
    "client_close": Family("spacetime_worker_ws_clients_closed_connection", GAUGE, "Clients that sent a Close."),
    "idle_timeout": Family(
        "spacetime_worker_ws_clients_idle_timed_out_total", COUNTER, "Clients dropped because nothing came from them."
    ),
    "outgoing_queue_full": Family(
        "spacetime_client_outgoing_queue_disconnects_total", COUNTER, "Clients dropped for slowness.", database=DB
    ),
}
"""Figures of one cause, which have names of their own in SpacetimeDB."""
REQUESTS: Final = Family("spacetime_websocket_requests_total", COUNTER, "WebSocket messages of clients.", ("protocol",))
REJECTED: Final = Family(
    "spacetime_worker_ws_client_rejections_total",
    COUNTER,
    "WebSocket clients that were not let in: the module's hook refused.",
    ("cause",),
)
SUBSCRIBED: Final = Family("spacetime_num_queries_subscribed", COUNTER, "Queries of query sets that clients asked for.")
COMPILE: Final = Family(
    "spacetime_subscription_compile_time_sec",
    HISTOGRAM,
    "Compiling the queries of one Subscribe.",
    ("workload",),
    1e-6,
    _SECONDS_US,
    DB,
)
HTTP_SENT: Final = Family(
    "spacetime_http_response_size_bytes_total",
    COUNTER,
    "Bytes of heads and bodies that were sent as answers on routes of the database.",
    database=DB,
)
FAMILIES: Final = {
    family.name: family
    for family in (
        *actor.FAMILIES,
        LOG_SYNC,
        LOG_APPEND,
        LOG_BATCH,
        LOG_SIZE,
        SNAPSHOT_SIZE,
        UPDATE_AGE,
        SPAWNED,
        REQUESTS,
        ENDED,
        *ENDED_BY.values(),
        REJECTED,
        SUBSCRIBED,
        HTTP_SENT,
        COMPILE,
    )
}
"""By name; what a board holds that is not here is not shown."""
