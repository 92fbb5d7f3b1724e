"""`spacetime generate`: bindings for clients, from a module's source or from a running database.

`spacetime extract-schema` is what upstream's generator runs to learn what a module defines, if the environment variable
SPACETIMEDB_SCHEMA_EXTRACTOR names this program: it prints one JSON object, `{"V10": ...}`.
"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from .options import OptionalValues, Settings, pass_settings, project_options, server_option, yes_option
from .packaging import find_module, program_bytes
from .project import load_project

if TYPE_CHECKING:
    from ..schema.definition import ModuleDef

LANGUAGES = {"python": "python", "py": "python", "typescript": "typescript", "ts": "typescript"}
ELSEWHERE = ("csharp", "cs", "c#", "rust", "rs", "unrealcpp", "unreal", "uecpp", "ue5cpp")


@click.command(cls=OptionalValues)
@click.option("-l", "--lang", help="python or typescript.")
@click.option("-o", "--out-dir", type=click.Path(path_type=Path, file_okay=False), help="Folder for the files.")
@click.option(
    "-p",
    "--module-path",
    type=click.Path(path_type=Path),
    help="Module: a .py file, or a directory that holds one. Default: the current directory.",
)
@click.option("-b", "--bin-path", type=click.Path(path_type=Path, dir_okay=False), help="A module as it is uploaded.")
@click.option("-d", "--database", help="Take the module of a running database instead.")
@click.option(
    "--module-def",
    type=click.File("rb"),
    help='A definition as JSON, {"V10": ...} (`-`: standard input), e.g. of a module in another language.',
)
@server_option
@click.option("--include-private", is_flag=True, help="Private tables and functions too.")
@project_options
@yes_option
@pass_settings
def generate(
    settings: Settings,
    lang: str | None,
    out_dir: Path | None,
    module_path: Path | None,
    bin_path: Path | None,
    database: str | None,
    module_def: IO[bytes] | None,
    server: str | None,
    include_private: bool,
    env: str | None,
    no_config: bool,
    yes: frozenset[str],
) -> None:
    """Writes files from which a client knows the tables and functions of a module.

    In a project without --lang and --out-dir: those of `generate` in its spacetime.json.

    Files that have not changed are left alone. Generated files in --out-dir that are no longer needed are deleted,
    after a question.
    """
    agreed = "delete-data" in yes or "all" in yes
    if lang is None and out_dir is None:
        project = None if no_config else load_project(env)
        entries = [] if project is None else [(t, b) for t in project.targets for b in t.bindings]
        if not entries:
            raise click.UsageError("--lang and --out-dir are needed (no spacetime.json has `generate` either)")
        for target, bindings in entries:
            definition = _definition_of(find_module(module_path or target.source or Path(".")))
            whole = include_private or bindings.include_private
            _generate(bindings.language, bindings.out_dir, definition, whole, agreed)
        return
    if lang is None or out_dir is None:
        raise click.UsageError("--lang and --out-dir belong together")
    _language(lang)
    if sum(given is not None for given in (module_path, bin_path, database, module_def)) > 1:
        raise click.UsageError("give one of --module-path, --bin-path, --database and --module-def")
    if database is not None:
        running = settings.connect(server)
        definition = _from_json(json.dumps({"V10": running.schema(running.resolve(database))}))
        running.close()
    elif module_def is not None:
        definition = _from_json(module_def.read())
    else:
        definition = _definition_of(bin_path if bin_path is not None else find_module(module_path or Path(".")))
    _generate(lang, out_dir, definition, include_private, agreed)


def _generate(lang: str, out_dir: Path, definition: ModuleDef, include_private: bool, agreed: bool) -> None:
    _write(out_dir, _files(_language(lang), definition, include_private), agreed)
    hidden = sorted(table.name for table in definition.all_tables if not table.is_public)
    if hidden and not include_private:
        click.echo(f"Skipping private tables during codegen: {', '.join(hidden)}.")


@click.command("extract-schema")
@click.argument("module", type=click.Path(path_type=Path), metavar="MODULE")
def extract_schema(module: Path) -> None:
    """Prints what MODULE (a .py file, a package, or a file as it is uploaded) defines, as JSON.

    For the generator of the official command line: its `generate --module-def FILE` reads this, or it runs this
    program by itself if SPACETIMEDB_SCHEMA_EXTRACTOR holds its path.
    """
    from ..schema.json import schema_v10

    with redirect_stdout(sys.stderr):  # where a module prints while it loads
        definition = _definition_of(module)
    click.echo(f'{{"V10":{schema_v10(definition)}}}')


def _language(lang: str) -> str:
    language = LANGUAGES.get(lang.lower())
    if language is None and lang.lower() in ELSEWHERE:
        raise click.ClickException(
            f"--lang {lang}: use `generate --bin-path MODULE` of the official command line, with the environment "
            "variable SPACETIMEDB_SCHEMA_EXTRACTOR set to the path of this one (docs/official-cli.md)."
        )
    if language is None:
        raise click.UsageError(f"--lang {lang}: python or typescript")
    return language


def _definition_of(path: Path) -> ModuleDef:
    """The definition of a module's source, which is loaded for it."""
    from ..hosts.program import ProgramError, load_program
    from ..module.errors import ModuleError
    from ..schema.validation import validate
    from ..schema.validation_errors import ModuleDefErrors

    if not path.exists():
        raise click.ClickException(f"no such file: {path}")
    try:
        return validate(load_program(program_bytes(path)).describe())
    except (ProgramError, ModuleError, ModuleDefErrors) as error:
        raise click.ClickException(f"{path}: {error}") from None


def _from_json(text: bytes | str) -> ModuleDef:
    from ..client.definition import definition_from_json
    from ..client.errors import ProtocolError

    try:
        outer = json.loads(text)
        return definition_from_json(json.dumps(outer.get("V10", outer)))
    except (ValueError, AttributeError, ProtocolError) as error:
        raise click.ClickException(f"that is no module definition of version 10: {error}") from None


def _files(language: str, definition: ModuleDef, include_private: bool) -> dict[str, str]:
    if language == "python":
        from ..codegen.python import python_files

        return python_files(definition, include_private)
    from ..codegen.typescript import typescript_files

    return typescript_files(definition, include_private)


def _write(out_dir: Path, files: dict[str, str], agreed: bool) -> None:
    from ..codegen.files import stale_files, write_files

    try:
        for path in write_files(out_dir, files):
            click.echo(f"Writing file {path}")
        stale = stale_files(out_dir, files)
        if not stale:
            return
        click.echo("No longer generated:")
        for path in stale:
            click.echo(f"  {path}")
        if not agreed and not (sys.stdin.isatty() and click.confirm("Delete these files?")):
            click.echo("They are kept; --yes deletes them.")
            return
        for path in stale:
            path.unlink()
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from None
