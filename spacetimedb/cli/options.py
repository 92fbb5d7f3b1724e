"""Options that several commands share, and upstream's options with an optional value (`--yes`, `--yes=migrate`)."""

from __future__ import annotations

import select
import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from .api import Server, connect
from .config import Config, Paths

F = TypeVar("F", bound=Callable[..., Any])

LOOK_S: Final = 0.2
"""Between two looks whether a question is still open."""
YES_CHOICES = ("all", "remote", "migrate", "break-clients", "skip-login", "delete-data")


class Settings:
    """What the main command was told: where the files are. `config` is read when first asked for."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self._config: Config | None = None

    @property
    def config(self) -> Config:
        if self._config is None:
            self._config = Config(self.paths.config_file)
        return self._config

    def connect(self, server: str | None, *, anonymous: bool = False) -> Server:
        return connect(self.config, server, anonymous=anonymous)


pass_settings = click.make_pass_decorator(Settings)


class OptionalValues(click.Command):
    """A command whose `--yes` and `--delete-data` take a value only after `=`, as upstream's do.

    click would eat the next word as the value (`--yes mydb`), so a bare flag is completed before it parses.
    """

    BARE = {
        "-y": "--yes=all",
        "--yes": "--yes=all",
        "-c": "--delete-data=always",
        "--delete-data": "--delete-data=always",
    }

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = {name for parameter in self.params for name in parameter.opts}
        completed: list[str] = []
        for n, word in enumerate(args):
            if word == "--":
                completed += args[n:]
                break
            cluster = (
                [f"-{letter}" for letter in word[1:]] if len(word) == 3 and set(word[1:]) == {"y", "c"} else [word]
            )
            for part in cluster:
                if part.startswith(("-y=", "-c=")):
                    part = self.BARE[part[:2]].partition("=")[0] + part[2:]
                completed.append(self.BARE[part] if part in self.BARE and part in known else part)
        return super().parse_args(ctx, completed)


def server_option(function: F) -> F:
    return click.option("-s", "--server", metavar="SERVER", help="Nickname, host or URL of the server.")(function)


def anonymous_option(function: F) -> F:
    return click.option(
        "--anonymous", is_flag=True, help="Send no token: the server makes an identity for this request."
    )(function)


def project_options(function: F) -> F:
    """--env and --no-config, of commands that look at `spacetime.json`."""
    function = click.option("--env", metavar="ENV", help="Take spacetime.ENV.json into account.")(function)
    return click.option("--no-config", is_flag=True, help="Do not look at spacetime.json.")(function)


def yes_option(function: F) -> F:
    return click.option(
        "-y",
        "--yes",
        metavar="[=all,remote,migrate,...]",
        callback=_parse_yes,
        expose_value=True,
        help="Answer yes to questions: all of them, or the kinds named after `=` (" + ", ".join(YES_CHOICES) + ").",
    )(function)


def _parse_yes(ctx: click.Context, parameter: click.Parameter, value: str | None) -> frozenset[str]:
    if value is None:
        return frozenset()
    kinds = frozenset(value.split(","))
    for kind in sorted(kinds - set(YES_CHOICES)):
        raise click.BadParameter(f"{kind!r} is not one of {', '.join(YES_CHOICES)}", ctx, parameter)
    return frozenset(YES_CHOICES) if "all" in kinds else kinds


class Pointless(Exception):
    """A question needs no answer any more."""


def confirm(question: str, agreed: bool, refusal: str, pointless: Callable[[], bool] | None = None) -> None:
    """Returns if the user agrees; ClickException(refusal) if not, or if nobody can be asked.

    `pointless` is looked at while the answer is awaited; once it is true, Pointless is raised.
    """
    if agreed:
        return
    if not sys.stdin.isatty():
        raise click.ClickException(refusal)
    if pointless is None:
        agreed = click.confirm(question)
    else:
        click.echo(f"{question} [y/N]: ", nl=False)
        while not select.select([sys.stdin], [], [], LOOK_S)[0]:
            if pointless():
                click.echo()
                raise Pointless
        agreed = sys.stdin.readline().strip().lower() in ("y", "yes")
    if not agreed:
        raise click.ClickException(refusal)
