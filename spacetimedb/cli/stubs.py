"""`spacetime stubs`: type stubs of a module's tables."""

from __future__ import annotations

from pathlib import Path

import click

from spacetimedb.codegen.stubs import stub_name, stub_text
from spacetimedb.hosts.program import ProgramError, load_program
from spacetimedb.module.errors import ModuleError

from .packaging import find_module, program_bytes


@click.command()
@click.argument("module_path", type=click.Path(path_type=Path), default=Path())
@click.option("--check", is_flag=True, help="Write nothing; fail if the stubs are out of date.")
def stubs(module_path: Path, check: bool) -> None:
    """Writes a stub file beside the module MODULE_PATH (default: the one in this directory), so that mypy, pyright and
    editors know `ctx.db.<table>`, its columns and indexes.

    The module is run for that, as `spacetime publish` would run it.
    """
    path = find_module(module_path).resolve()
    is_package = path.is_dir()
    name = path.name if is_package else path.stem
    file = (path if is_package else path.parent) / stub_name(name)
    try:
        module = load_program(program_bytes(path))
        module.describe()
        text = stub_text(module, name, is_package=is_package)
    except (ProgramError, ModuleError) as error:
        raise click.ClickException(f"the module cannot be loaded:\n{error}") from None
    is_current = file.is_file() and file.read_text() == text
    if check and not is_current:
        raise click.ClickException(f"{file} is out of date: run `spacetime stubs {module_path}`")
    if is_current:
        click.echo(f"{file} is up to date")
        return
    file.write_text(text)
    click.echo(f'Wrote {file}. For type checkers: from {file.stem} import Tables, and ReducerContext["Tables"]')
