"""What `spacetime start` hands to the supervisor. Light on purpose: the command line imports it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from spacetimedb.auth.publishers import Publishers


class SnapshotPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When snapshots are taken and what stays.

    One is taken when recovery would have to replay `log_bytes` or `transactions`: about ten seconds. The newest `keep`
    stay, and with `prune_log` only that part of the commit log that the oldest of them needs.
    """

    log_bytes: int = 192 << 20
    transactions: int = 1_200_000
    keep: int = 2
    prune_log: bool = True


HttpReach = tuple[str, ...] | None
"""Networks (`10.1.2.0/24`) that procedures may send HTTP requests to besides public addresses; None: nowhere at all."""


class ModuleRules(msgspec.Struct, frozen=True, kw_only=True):
    """How modules run. `http_reach`: see there. `checks_determinism`: every reducer runs twice, and both runs must do
    the same."""

    http_reach: HttpReach = ()
    checks_determinism: bool = False


class ServerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Choices of one server process tree.

    `listen_port` 0 lets the system pick a port; the line printed at the start names it. `data_dir` is None only
    together with `in_memory`, and then nothing is kept. `readers` None means one per core less one, at least one.
    `jwt_key_dir` holds the key pair `id_ecdsa` / `id_ecdsa.pub`, made when missing; None keeps it in the data directory
    (or in memory). `dashboard`: who may use it, this machine and owners of databases, owners only, or nobody.

    `is_confined`: processes that run modules confine themselves as far as the system lets them. `memory_bytes`: what
    one of them may have, 0 for no limit. `rules`: how modules run.
    `publishers`: who may publish.
    """

    listen_host: str = "127.0.0.1"
    listen_port: int = 3000
    data_dir: Path | None = None
    in_memory: bool = False
    readers: int | None = None
    jwt_key_dir: Path | None = None
    snapshots: SnapshotPolicy = SnapshotPolicy()
    dashboard: Literal["local", "token", "off"] = "local"
    is_confined: bool = True
    memory_bytes: int = 0
    rules: ModuleRules = ModuleRules()
    publishers: Publishers = Publishers()
