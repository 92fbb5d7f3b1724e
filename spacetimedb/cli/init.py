"""`spacetime init`: a new project that runs at once."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import click

from .publish import check_name

TEMPLATE = ("module.py", "test_module.py", "README.md", "gitignore", "page/index.html", "page/app.js")


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", help="Name of its database [the directory's].")
def init(directory: Path, name: str | None) -> None:
    """Makes a project in DIRECTORY (new, or empty): a module, its tests, and a page that shows its tables live."""
    name = name or database_name(directory)
    check_name(name)
    if directory.exists() and any(directory.iterdir()):
        raise click.ClickException(f"{directory} is not empty: choose a new directory")
    for path, text in project_files(name).items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    click.echo(f"Made {directory}. Next:\n\n  cd {directory}\n  spacetime dev\n")


def database_name(directory: Path) -> str:
    """A valid name of a database after a directory's: lower case, digits and single hyphens."""
    return re.sub("[^a-z0-9]+", "-", directory.resolve().name.lower()).strip("-") or "my-database"


def project_files(name: str) -> dict[str, str]:
    """Text by path."""
    package = files("spacetimedb")
    template = package / "cli" / "template"
    found = {path: (template / path).read_text() for path in TEMPLATE}
    found["README.md"] = found["README.md"].replace("{name}", name)
    found[".gitignore"] = found.pop("gitignore")
    found["page/connection.js"] = (package / "demo" / "connection.js").read_text()
    found["pyproject.toml"] = f'[project]\nname = "{name}"\nversion = "0.1.0"\ndependencies = ["spacetimedb"]\n'
    return found
