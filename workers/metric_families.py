"""Families of the metrics that the log keeper and the readers count on their boards; the actor's are in
`hosts.figures`."""

from __future__ import annotations

from typing import Final

from spacetimedb.hosts import figures as actor
from spacetimedb.memory.figures import COUNTER, DB, GAUGE, HISTOGRAM, Family

_DISK_US: Final = (50, 100, 250, 500, 1000, 2500, 5000, 10_000, 50_000, 100_000, 500_000, 1_000_000)
_AGE_US: Final = (500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000)
_USUAL: Final = (5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000)
"""Thousandths: the bounds that SpacetimeDB's histograms have if nothing else is said."""
_USUAL_US: Final = tuple(1000 * bound for bound in _USUAL)
_SENT_BYTES: Final = (
    *(100, 500, 1000, 10_000, 100_000, 500_000, 10**6, 5 * 10**6, 10**7),
    *(25 * 10**6, 5 * 10**7, 75 * 10**6, 10**8, 5 * 10**8),
)
_PONG_US: Final = tuple(
    1000 * milliseconds for milliseconds in (5, 25, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 120_000)
)
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
LOG_BLOCKS: Final = Family("spacetime_message_log_size_blocks", GAUGE, "The same in blocks of 512 bytes.", database=DB)
MODULE_LOG_SIZE: Final = Family(
    "spacetime_module_log_file_size_bytes", GAUGE, "The file of the module log that is written to.", database=DB
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
CALL_AND_QUERIES: Final = Family(
    "spacetime_reducer_plus_query_duration_sec",
    HISTOGRAM,
    "From the start of the oldest reducer call of a batch until its updates were handed to the sockets.",
    ("reducer",),
    1e-6,
    _USUAL_US,
    DB,
)
ROUND_TRIP: Final = Family(
    "spacetime_request_round_trip_time",
    HISTOGRAM,
    "From the arrival of a reducer call until its answer went out; of one call at a time of each reader.",
    ("txn_type", "reducer_symbol"),
    1e-6,
    _USUAL_US,
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
REQUEST_SIZE: Final = Family(
    "spacetime_websocket_request_msg_size",
    HISTOGRAM,
    "Bytes of WebSocket messages of clients.",
    ("protocol",),
    1e-3,
    _USUAL,
)
SENT_SIZE: Final = Family(
    "spacetime_websocket_sent_msg_size_bytes",
    HISTOGRAM,
    "Bytes of WebSocket messages to clients.",
    (),
    1,
    _SENT_BYTES,
    DB,
)
SENT_BYTES: Final = Family(
    "spacetime_num_bytes_sent_to_clients_total", COUNTER, "Bytes of messages to clients.", ("txn_type",), database=DB
)
PONG: Final = Family(
    "spacetime_websocket_pong_rtt_secs",
    HISTOGRAM,
    "From a ping to its answer.",
    (),
    1e-6,
    _PONG_US,
    DB,
)
REQUESTS: Final = Family("spacetime_websocket_requests_total", COUNTER, "WebSocket messages of clients.", ("protocol",))
REJECTED: Final = Family(
    "spacetime_worker_ws_client_rejections_total",
    COUNTER,
    "WebSocket clients that were not let in: the module's hook refused.",
    ("cause",),
)
SUBSCRIBED: Final = Family(
    "spacetime_num_queries_subscribed", COUNTER, "Queries of query sets that clients asked for.", database=DB
)
COMPILE: Final = Family(
    "spacetime_subscription_compile_time_sec",
    HISTOGRAM,
    "Compiling the queries of one Subscribe.",
    ("workload",),
    1e-6,
    _USUAL_US,
    DB,
)
HTTP_SENT: Final = Family(
    "spacetime_http_response_size_bytes_total",
    COUNTER,
    "Bytes of heads and bodies that were sent as answers on routes of the database.",
    database=DB,
)
NEW_QUERIES: Final = Family(
    "spacetime_num_new_queries_subscribed",
    COUNTER,
    "Those of them that no other client of the reader had.",
    database=DB,
)
EVALUATED: Final = Family(
    "spacetime_num_queries_evaluated",
    COUNTER,
    "Queries whose rows were told when their set began or ended.",
    ("workload",),
    database=DB,
)
DELTAS_EVALUATED: Final = Family(
    "spacetime_num_delta_queries_evaluated",
    COUNTER,
    "Evaluations of live queries for transactions that may concern them.",
    database=DB,
)
DELTAS_MATCHED: Final = Family(
    "spacetime_num_delta_queries_matched", COUNTER, "Those of them that gave rows.", database=DB
)
SCANS: Final = Family(
    "spacetime_subscription_queries_total",
    COUNTER,
    "Queries of new query sets, by how the rows of their table are found.",
    ("scan_type", "table", "unindexed_columns"),
    database=DB,
)
SUBSCRIBERS: Final = Family("spacetime_subscription_connections", GAUGE, "Clients that have query sets.")
SUBSCRIPTIONS: Final = Family("spacetime_query_subscriptions", GAUGE, "Queries in the query sets of all clients.")
LEGACY: Final = Family("spacetime_legacy_subscriptions", GAUGE, "Clients with a subscription of the first form of v1.")
SEND_QUEUE: Final = Family(
    "spacetime_subscription_send_queue_length", GAUGE, "Batches of messages that wait until they are durable."
)
INCOMING: Final = Family(
    "spacetime_total_incoming_queue_length",
    GAUGE,
    "Messages of clients that wait for the answers of earlier ones.",
    database=DB,
)
OUTGOING: Final = Family(
    "spacetime_total_outgoing_queue_length",
    GAUGE,
    "Batches of messages that wait until their clients take them.",
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
        LOG_BLOCKS,
        MODULE_LOG_SIZE,
        SNAPSHOT_SIZE,
        UPDATE_AGE,
        CALL_AND_QUERIES,
        ROUND_TRIP,
        SPAWNED,
        REQUESTS,
        REQUEST_SIZE,
        SENT_SIZE,
        SENT_BYTES,
        PONG,
        ENDED,
        *ENDED_BY.values(),
        REJECTED,
        SUBSCRIBED,
        NEW_QUERIES,
        EVALUATED,
        DELTAS_EVALUATED,
        DELTAS_MATCHED,
        SCANS,
        SUBSCRIBERS,
        SUBSCRIPTIONS,
        LEGACY,
        SEND_QUEUE,
        INCOMING,
        OUTGOING,
        HTTP_SENT,
        COMPILE,
    )
}
"""By name; what a board holds that is not here is not shown."""
