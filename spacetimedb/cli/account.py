"""Who the user is, and which servers there are: `login`, `logout`, `server`."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

import click

from .api import Server, require, token_identity
from .options import OptionalValues, Settings, pass_settings, server_option, yes_option


@click.group(invoke_without_command=True)
@click.option("--token", help="Use this token from now on.")
@click.option("--server-issued-login", metavar="SERVER", help="Have this server make a new identity.")
@click.option("--no-browser", is_flag=True, hidden=True)
@click.pass_context
def login(ctx: click.Context, token: str | None, server_issued_login: str | None, no_browser: bool) -> None:
    """Sets the identity of this user. Commands that need one make it by themselves at first use."""
    if ctx.invoked_subcommand is not None:
        return
    settings = ctx.ensure_object(Settings)
    if token is None:
        if settings.config.token is not None and server_issued_login is None:
            _show(settings.config.token)
            return
        target = Server(settings.config.server_url(server_issued_login))
        token = str(require(target.request("POST", "/v1/identity"), target.url).json()["token"])
        click.echo("We have logged in directly to your target server.")
        click.echo("WARNING: This login will NOT work for any other servers.")
    settings.config.token = token
    identity = token_identity(token)
    click.echo(f"Logged in with identity {identity}" if identity else "Token saved.")


@login.command("show")
@click.option("--token", "with_token", is_flag=True, help="Print the token too.")
@server_option
@pass_settings
def show(settings: Settings, with_token: bool, server: str | None) -> None:
    """Prints the identity that commands act as (made on the server if there is none yet)."""
    token = settings.connect(server).token or ""
    _show(token)
    if with_token:
        click.echo(f"Your auth token (don't share this!) is {token}")


def _show(token: str) -> None:
    click.echo(f"You are logged in as {token_identity(token) or 'an identity that this program cannot read'}")


@click.command()
@pass_settings
def logout(settings: Settings) -> None:
    """Forgets the saved identity. Without its token it cannot be had again."""
    token = settings.config.token
    if token is None:
        click.echo("You are not logged in.")
        return
    settings.config.token = None
    click.echo(f"Logged out (identity {token_identity(token)}).")


@click.group()
def server() -> None:
    """Servers known by nickname, and whether they answer."""


@server.command("ping", cls=OptionalValues)
@click.argument("name", metavar="[SERVER]", required=False)
@server_option
@yes_option
@pass_settings
def ping(settings: Settings, name: str | None, server: str | None, yes: frozenset[str]) -> None:
    """Tells whether a server answers."""
    target = Server(settings.config.server_url(name or server))
    begun = time.perf_counter()
    require(target.request("GET", "/v1/ping"), target.url)
    click.echo(f"Server is online: {target.url}")
    click.echo(f"(answered in {(time.perf_counter() - begun) * 1000:.1f} ms)", err=True)


@server.command("list")
@pass_settings
def list_servers(settings: Settings) -> None:
    """Lists the servers of the configuration file."""
    rows = [("DEFAULT", "HOSTNAME", "PROTOCOL", "NICKNAME")]
    default = settings.config.default_server
    for entry in settings.config.servers:
        mark = "***" if default in (entry.nickname, entry.host) else ""
        rows.append((mark, entry.host, entry.protocol, entry.nickname or ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


@server.command("add", cls=OptionalValues)
@click.argument("name")
@click.option("--url", required=True, help="http://HOST:PORT")
@click.option("-d", "--default", "make_default", is_flag=True, help="Use it when --server is not given.")
@click.option("--no-fingerprint", is_flag=True, hidden=True)
@yes_option
@pass_settings
def add(settings: Settings, name: str, url: str, make_default: bool, no_fingerprint: bool, yes: frozenset[str]) -> None:
    """Adds a server to the configuration file under a nickname."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise click.ClickException(f"not a server address: {url}")
    settings.config.add_server(name, parts.netloc, parts.scheme)
    if make_default:
        settings.config.default_server = name
    click.echo(f"Host: {parts.netloc}\nProtocol: {parts.scheme}")


@server.command("set-default")
@click.argument("name", metavar="SERVER")
@pass_settings
def set_default(settings: Settings, name: str) -> None:
    """Makes a server the one that is used when --server is not given."""
    settings.config.server_url(name)
    settings.config.default_server = name
