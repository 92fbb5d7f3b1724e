"""`spacetime version`."""

from __future__ import annotations

import sys

import click

from .api import version


@click.command("version")
def print_version() -> None:
    """Prints the version of this program."""
    click.echo(f"spacetime {version()} (Python {sys.version.split()[0]})")
