"""`spacetime start`: runs a server in the foreground."""

from __future__ import annotations

import ipaddress
import os
import sys
from pathlib import Path
from typing import Literal

import click

from ..auth.publishers import Publishers
from ..types.special import Identity
from .options import Settings, pass_settings

DEFAULT_LISTEN_ADDR = "127.0.0.1:3000"
LEAST_MEMORY_MB = 256


def parse_address(text: str) -> tuple[str, int]:
    """`HOST:PORT`, `:PORT` or `[IPv6]:PORT`; UsageError for anything else. Port 0: the system picks one."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise click.UsageError(f"--listen-addr must be HOST:PORT, e.g. {DEFAULT_LISTEN_ADDR}; got {text!r}")
    return host or "0.0.0.0", int(port)


def parse_publishers(text: str) -> Publishers:
    """The value of --publishers. UsageError for what is no identity."""
    if text == "anyone":
        return Publishers(anyone=True)
    if text == "local":
        return Publishers(local=True)
    try:
        return Publishers(frozenset(map(Identity.from_hex, text.split(","))))
    except ValueError:
        raise click.UsageError(
            f"--publishers must be local, anyone, or identities (64 hex digits); got {text}"
        ) from None


def parse_reach(is_off: bool, networks: tuple[str, ...]) -> tuple[str, ...] | None:
    """Where procedures may send HTTP requests, as the server's options say it. UsageError for what is no network."""
    if is_off:
        if networks:
            raise click.UsageError("--no-outbound-http and --outbound-http-to contradict each other")
        return None
    for network in networks:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise click.UsageError(f"--outbound-http-to must be a network like 10.1.2.0/24: {error}") from None
    return networks


def default_memory_mb() -> int:
    """Half of this machine's memory."""
    return max(LEAST_MEMORY_MB, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 21)


@click.command()
@click.option(
    "-l", "--listen-addr", metavar="HOST:PORT", help=f"Where to listen [{DEFAULT_LISTEN_ADDR}]; port 0 picks one."
)
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Where databases are kept.")
@click.option("--in-memory", is_flag=True, help="Keep no database on disk: all of it is gone at the end.")
@click.option("--readers", type=click.IntRange(1, 16), help="Processes that serve clients [cores less one].")
@click.option(
    "--jwt-key-dir", type=click.Path(path_type=Path, file_okay=False), help="Directory of the key pair id_ecdsa."
)
@click.option(
    "--snapshot-mb",
    type=click.FloatRange(min=0, min_open=True),
    default=192,
    show_default=True,
    help="Write a snapshot after so many MiB of commit log.",
)
@click.option("--keep-log", is_flag=True, help="Keep all of the commit log, also what snapshots make unnecessary.")
@click.option(
    "--dashboard",
    type=click.Choice(["local", "token", "off"]),
    default="local",
    show_default=True,
    help="Open /dashboard/ to this machine and owners of databases, to owners only (behind a proxy), to nobody.",
)
@click.option(
    "--publishers",
    metavar="local|anyone|IDENTITY,...",
    default="local",
    show_default=True,
    help="Who may publish: whoever sits at this machine, everybody, or (beside the holder of the keys) these.",
)
@click.option(
    "--memory-mb",
    type=click.IntRange(min=0),
    help="Memory a database's process may have, in MiB; 0: no limit [half of this machine's].",
)
@click.option("--no-outbound-http", is_flag=True, help="Modules may send no HTTP requests.")
@click.option(
    "--outbound-http-to",
    metavar="NETWORK",
    multiple=True,
    help="Modules may send HTTP requests to this network, too (e.g. 10.1.2.0/24 or one address); otherwise only to "
    "public addresses.",
)
@click.option(
    "--check-determinism",
    is_flag=True,
    help="Run every reducer twice, and fail it if the runs differ (for development: halves the speed).",
)
@click.option("--no-sandbox", is_flag=True, help="Do not confine the processes that run modules (to debug them).")
@click.option("--edition", type=click.Choice(["standalone"]), hidden=True)
@click.option("--non-interactive", is_flag=True, hidden=True)
@pass_settings
def start(
    settings: Settings,
    listen_addr: str | None,
    data_dir: Path | None,
    in_memory: bool,
    readers: int | None,
    jwt_key_dir: Path | None,
    snapshot_mb: float,
    keep_log: bool,
    dashboard: Literal["local", "token", "off"],
    publishers: str,
    memory_mb: int | None,
    no_outbound_http: bool,
    outbound_http_to: tuple[str, ...],
    no_sandbox: bool,
    check_determinism: bool,
    edition: str | None,
    non_interactive: bool,
) -> None:
    """Runs a server until Ctrl-C. One line tells where it listens.

    Only this machine can reach it unless --listen-addr says otherwise (e.g. 0.0.0.0:3000).
    """
    if memory_mb is not None and 0 < memory_mb < LEAST_MEMORY_MB:
        raise click.UsageError(f"--memory-mb must be 0 or at least {LEAST_MEMORY_MB}")
    host, port = parse_address(listen_addr or settings.config.listen_addr or DEFAULT_LISTEN_ADDR)
    from ..workers.options import ModuleRules, ServerOptions, SnapshotPolicy
    from ..workers.supervisor.supervisor import serve  # heavy: only the server itself needs it

    options = ServerOptions(
        listen_host=host,
        listen_port=port,
        data_dir=(data_dir or settings.paths.data).absolute(),
        in_memory=in_memory,
        readers=readers,
        jwt_key_dir=(jwt_key_dir or settings.paths.key_dir).absolute(),
        snapshots=SnapshotPolicy(log_bytes=int(snapshot_mb * (1 << 20)), prune_log=not keep_log),
        dashboard=dashboard,
        is_confined=not no_sandbox,
        memory_bytes=(default_memory_mb() if memory_mb is None else memory_mb) << 20,
        rules=ModuleRules(
            http_reach=parse_reach(no_outbound_http, outbound_http_to), checks_determinism=check_determinism
        ),
        publishers=parse_publishers(publishers),
    )
    elsewhere = settings.config.default_is_elsewhere()
    if elsewhere is not None:
        click.echo(elsewhere, err=True)
    sys.exit(serve(options))
