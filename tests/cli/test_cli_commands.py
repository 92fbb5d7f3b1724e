"""Commands against a scripted server: which requests they make, what they print, how they fail."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from scripted_server import ScriptedServer

from spacetimedb.cli.main import main
from spacetimedb.cli.packaging import program_bytes
from spacetimedb.schema.migration_text import LINE, TITLE

ME = "c200" + "1" * 60
DB = "c200" + "d" * 60
TOKEN = ".".join(
    ["e30", base64.urlsafe_b64encode(json.dumps({"hex_identity": ME}).encode()).decode().rstrip("="), "sig"]
)

Run = Callable[..., Result]


def product(**fields: Any) -> dict[str, Any]:
    return {"elements": [{"name": {"some": name}, "algebraic_type": kind} for name, kind in fields.items()]}


def option(some: dict[str, Any]) -> dict[str, Any]:
    unit: dict[str, Any] = {"Product": {"elements": []}}
    variants = (("some", some), ("none", unit))
    return {"variants": [{"name": {"some": name}, "algebraic_type": kind} for name, kind in variants]}


SCHEMA: dict[str, list[dict[str, Any]]] = {
    "sections": [
        {"Typespace": {"types": [{"Product": product(id={"U32": []}, name={"String": []})}]}},
        {
            "Tables": [
                {
                    "source_name": "Item",
                    "product_type_ref": 0,
                    "primary_key": [0],
                    "table_access": {"Public": []},
                    "is_event": False,
                }
            ]
        },
        {
            "Reducers": [
                {"source_name": "addItem", "params": product(name={"String": []}, price={"U32": []}), "visibility": {}},
                {"source_name": "init", "params": product(), "visibility": {"Private": []}},
            ]
        },
        {"Procedures": [{"source_name": "sum", "params": product(a={"U32": []}), "visibility": {}}]},
        {"LifeCycleReducers": [{"lifecycle_spec": {"Init": []}, "function_name": "init"}]},
        {
            "ExplicitNames": {
                "entries": [
                    {"Table": {"source_name": "Item", "canonical_name": "item"}},
                    {"Function": {"source_name": "addItem", "canonical_name": "add_item"}},
                ]
            }
        },
    ]
}


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    server.answers["POST /v1/identity"] = 200, {"identity": ME, "token": TOKEN}
    server.answers["GET /v1/database/shop/identity"] = 200, DB
    server.answers[f"GET /v1/database/{DB}/schema"] = 200, SCHEMA
    yield server
    server.close()


@pytest.fixture
def run(scripted: ScriptedServer, tmp_path: Path) -> Run:
    """Runs `spacetime ARGS...` with files below a temporary directory; the scripted server is the default one."""
    config = tmp_path / "config" / "cli.toml"
    config.parent.mkdir()
    host = scripted.url.removeprefix("http://")
    config.write_text(
        f'default_server = "here"\n\n[[server_configs]]\nnickname = "here"\nhost = "{host}"\nprotocol = "http"\n'
    )

    def spacetime(*arguments: str, **options: Any) -> Result:
        return CliRunner().invoke(main, ["--root-dir", str(tmp_path), *arguments], **options)

    return spacetime


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "shop.py"
    path.write_text("from spacetimedb import Module\nm = Module()\n")
    return path


# -- identity ----------------------------------------------------------------------------------------------------------


def test_first_use_makes_an_identity_and_keeps_it(run: Run, scripted: ScriptedServer, tmp_path: Path) -> None:
    assert run("login", "show", "--token").stdout.splitlines() == [
        f"You are logged in as {ME}",
        f"Your auth token (don't share this!) is {TOKEN}",
    ]
    assert run("login", "show").stdout == f"You are logged in as {ME}\n"
    assert scripted.requests() == ["POST /v1/identity"]
    assert f'spacetimedb_token = "{TOKEN}"' in (tmp_path / "config" / "cli.toml").read_text()
    assert (tmp_path / "config" / "cli.toml").stat().st_mode & 0o777 == 0o600


def test_logout_forgets_the_token_only(run: Run, tmp_path: Path) -> None:
    run("login", "show")
    assert run("logout").stdout == f"Logged out (identity {ME}).\n"
    text = (tmp_path / "config" / "cli.toml").read_text()
    assert "spacetimedb_token" not in text
    assert 'nickname = "here"' in text


def test_anonymous_sends_no_token(run: Run, scripted: ScriptedServer) -> None:
    scripted.answers[f"POST /v1/database/{DB}/sql"] = 200, [{"schema": {"elements": []}, "rows": [], "stats": {}}]
    assert run("sql", "--anonymous", "shop", "DELETE FROM item").exit_code == 0
    assert all(asked.token is None for asked in scripted.asked)


# -- publish -----------------------------------------------------------------------------------------------------------


def success(op: str) -> tuple[int, Any]:
    return 200, {"Success": {"domain": "shop", "database_identity": DB, "op": op}}


def test_publish_a_new_database(run: Run, scripted: ScriptedServer, module: Path) -> None:
    scripted.answers["PUT /v1/database/shop"] = success("created")
    result = run("publish", "-p", str(module), "shop")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == f"Created new database with name: shop, identity: {DB}"
    put = scripted.asked[-1]
    assert (put.body, put.token, put.query) == (program_bytes(module), TOKEN, {})


def test_publish_an_update_uses_the_plan_of_the_server(run: Run, scripted: ScriptedServer, module: Path) -> None:
    plan = {"migrate_plan": "the plan", "break_clients": False, "token": "0x1f", "major_version_upgrade": False}
    scripted.answers["POST /v1/database/shop/pre_publish"] = 200, {"AutoMigrate": plan}
    scripted.answers["PUT /v1/database/shop"] = success("updated")
    result = run("publish", "-p", str(module), "shop")
    assert "the plan" in result.stdout
    assert f"Updated database with name: shop, identity: {DB}" in result.stdout
    assert scripted.asked[-1].query == {"token": "0x1f", "policy": "BreakClients"}
    empty = plan | {"migrate_plan": f"{LINE}\n{TITLE}\n{LINE}\n"}
    scripted.answers["POST /v1/database/shop/pre_publish"] = 200, {"AutoMigrate": empty}
    result = run("publish", "-p", str(module), "shop")
    assert result.exit_code == 0
    assert TITLE not in result.stdout, "nothing to tell"


@pytest.mark.parametrize("agreed", [["--break-clients"], ["--yes"], ["-y"], ["--yes=remote,break-clients"]])
def test_breaking_clients_needs_consent(run: Run, scripted: ScriptedServer, module: Path, agreed: list[str]) -> None:
    plan = {"migrate_plan": "", "break_clients": True, "token": "0x1", "major_version_upgrade": False}
    scripted.answers["POST /v1/database/shop/pre_publish"] = 200, {"AutoMigrate": plan}
    scripted.answers["PUT /v1/database/shop"] = success("updated")
    refused = run("publish", "-p", str(module), "--yes=migrate", "shop")
    assert refused.exit_code == 1
    assert "clients would break" in refused.stderr
    assert run("publish", "-p", str(module), *agreed, "shop").exit_code == 0


def test_manual_migration(run: Run, scripted: ScriptedServer, module: Path) -> None:
    reason = {"ManualMigrate": {"reason": "column price changes", "major_version_upgrade": False}}
    scripted.answers["POST /v1/database/shop/pre_publish"] = 200, reason
    scripted.answers["PUT /v1/database/shop"] = success("updated")
    refused = run("publish", "-p", str(module), "shop")
    assert refused.exit_code == 1
    assert "column price changes" in refused.stdout
    assert "--delete-data" in refused.stderr
    assert run("publish", "-p", str(module), "--delete-data=on-conflict", "-y", "shop").exit_code == 0
    assert scripted.asked[-1].query == {"clear": "true"}


@pytest.mark.parametrize(
    "flags", [["-c", "-y"], ["-yc"], ["--delete-data", "--yes"], ["--delete-data=always", "--yes=all"]]
)
def test_delete_data_takes_no_word_that_follows(
    run: Run, scripted: ScriptedServer, module: Path, flags: list[str]
) -> None:
    scripted.answers["PUT /v1/database/shop"] = success("updated")
    result = run("publish", *flags, "shop", "-p", str(module))
    assert result.exit_code == 0, result.output
    assert "This will DESTROY" in result.stdout
    assert scripted.asked[-1].query == {"clear": "true"}
    assert "pre_publish" not in str(scripted.requests())


def test_delete_data_without_consent_sends_nothing(run: Run, scripted: ScriptedServer, module: Path) -> None:
    assert run("publish", "-c", "shop", "-p", str(module)).exit_code == 1
    assert "PUT" not in str(scripted.requests())


def test_publish_shows_what_is_wrong_with_the_module(run: Run, scripted: ScriptedServer, module: Path) -> None:
    text = f"Errors occurred:\n{module.name}:12: reducer `hit`: parameter `power` has no type"
    scripted.answers["PUT /v1/database/shop"] = 500, text
    result = run("publish", "-p", str(module), "shop")
    assert result.exit_code == 1
    shown = text.replace(module.name, str(module))
    assert result.stderr.endswith(f"Error: the module was not accepted:\n{shown}\n")


def test_publish_under_a_name_that_is_taken(run: Run, scripted: ScriptedServer, module: Path) -> None:
    scripted.answers["PUT /v1/database/shop"] = 401, {"PermissionDenied": {"name": "shop"}}
    assert "the name `shop` belongs to another identity" in run("publish", "-p", str(module), "shop").stderr
    denied = f"{ME} is not authorized to perform action on database {DB}: update database"
    scripted.answers["PUT /v1/database/shop"] = 403, denied
    assert denied in run("publish", "-p", str(module), "shop").stderr


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Shop", "invalid characters"),
        ("my_shop", "invalid characters"),
        ("shop-", "invalid hyphen"),
        ("a--b", "invalid hyphen"),
    ],
)
def test_bad_names_are_refused_before_anything_is_sent(
    run: Run, scripted: ScriptedServer, module: Path, name: str, text: str
) -> None:
    result = run("publish", "-p", str(module), "--", name)
    assert result.exit_code == 1
    assert text in result.stderr
    assert not scripted.asked


def test_publish_from_the_wrong_directory(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    assert "holds no Python module" in run("publish", "shop").stderr
    assert "no such file or directory: game.py" in run("publish", "shop", "-p", "game.py").stderr
    (empty / "one.py").write_text("import spacetimedb\n")
    (empty / "two.py").write_text("from spacetimedb import Row\n")
    assert "several modules (one.py, two.py)" in run("publish", "shop").stderr


def test_no_server(run: Run, scripted: ScriptedServer, module: Path) -> None:
    scripted.close()
    for command in (["publish", "-p", str(module), "shop"], ["list"], ["server", "ping"], ["call", "shop", "x"]):
        result = run(*command)
        assert result.exit_code == 1
        assert f"no server answers at {scripted.url}" in result.stderr
        assert "spacetime start" in result.stderr


# -- call, sql, describe -----------------------------------------------------------------------------------------------


def test_call_quotes_words_for_texts(run: Run, scripted: ScriptedServer) -> None:
    scripted.answers[f"POST /v1/database/{DB}/call/add_item"] = 200, ""
    for words, body in (
        (["plum", "3"], '["plum", 3]'),
        (['"plum"', "3"], '["plum", 3]'),
        (["3", "3"], '["3", 3]'),
        (['say "hi" ü', "3"], '["say \\"hi\\" ü", 3]'),
        (["null", "-1"], '["null", -1]'),
    ):
        result = run("call", "shop", "add_item", *words)
        assert (result.exit_code, result.stdout) == (0, ""), result.output
        assert scripted.asked[-1].body.decode() == body


def test_call_of_an_unknown_function(run: Run, scripted: ScriptedServer) -> None:
    result = run("call", "shop", "ad_item", "1")
    assert result.exit_code == 1
    assert "No such reducer OR procedure `ad_item` for database `shop`" in result.stderr
    assert "Did you mean `add_item`?" in result.stderr
    assert "- add_item(name: String, price: U32)" in result.stderr
    assert "init" not in result.stderr
    assert "POST /v1/database" not in str(scripted.requests())


def test_call_failures(run: Run, scripted: ScriptedServer) -> None:
    where = f"POST /v1/database/{DB}/call/add_item"
    scripted.answers[where] = 400, "invalid arguments for reducer add_item: [1]: no number"
    bad = run("call", "shop", "add_item", "x", "y").stderr
    assert "add_item(name: String, price: U32)" in bad
    assert "[1]: no number" in bad
    scripted.answers[where] = 530, "out of stock"
    assert run("call", "shop", "add_item", "x", "1").stderr.endswith("Error: Response text: out of stock\n")
    scripted.answers[where] = 530, "The instance encountered a fatal error."
    assert "spacetime logs shop" in run("call", "shop", "add_item", "x", "1").stderr


def test_call_prints_the_result_of_a_procedure(run: Run, scripted: ScriptedServer) -> None:
    scripted.answers[f"POST /v1/database/{DB}/call/sum"] = 200, "[7]"
    assert run("call", "shop", "sum", "3").stdout == "[7]\n"


def test_sql_table(run: Run, scripted: ScriptedServer) -> None:
    identity = {"Product": product(__identity__={"U256": []})}
    level = {"Sum": option({"I32": []})}
    place = {"Product": product(x={"I32": []}, y={"I32": []})}
    columns = product(id={"U64": []}, name={"String": []}, owner=identity, level=level, at=place)
    rows = [[1, "ann", ["0x" + "c2" * 32], [0, 3], [1, 2]], [20, 'q"', ["0x1"], [1, []], [-1, 0]]]
    scripted.answers[f"POST /v1/database/{DB}/sql"] = 200, [{"schema": columns, "rows": rows, "stats": {}}]
    assert run("sql", "shop", "SELECT * FROM item").stdout.splitlines() == [
        f" id | name  | owner{' ' * 62}| level       | at",
        f"----+-------+{'-' * 68}+-------------+-----------------",
        f' 1  | "ann" | 0x{"c2" * 32} | (some = 3)  | (x = 1, y = 2)',
        f' 20 | "q\\"" | 0x{1:064x} | (none = ()) | (x = -1, y = 0)',
    ]
    assert scripted.asked[-1].body == b"SELECT * FROM item"
    raw = run("sql", "--format", "json", "--confirmed", "false", "shop", "SELECT * FROM item")
    assert json.loads(raw.stdout)[0]["rows"] == rows
    assert scripted.asked[-1].query == {"confirmed": "false"}


def test_sql_errors(run: Run, scripted: ScriptedServer) -> None:
    scripted.answers[f"POST /v1/database/{DB}/sql"] = (
        400,
        "no such table: `x`. If the table exists, it may be marked private.",
    )
    result = run("sql", "shop", "SELECT * FROM x")
    assert (result.exit_code, "no such table: `x`" in result.stderr) == (1, True)
    scripted.answers[f"POST /v1/database/{DB}/sql"] = 400, "`Ann` is not in scope"
    assert "single quotes: 'Ann'" in run("sql", "shop", "SELECT * FROM x WHERE name = Ann").stderr
    assert "failed to find database `store`" in run("sql", "store", "SELECT * FROM x").stderr


def test_describe(run: Run) -> None:
    assert json.loads(run("describe", "--json", "shop").stdout) == SCHEMA
    assert json.loads(run("describe", "--json", "shop", "reducer", "add_item").stdout)["source_name"] == "addItem"
    assert "no such table" in run("describe", "--json", "shop", "table", "x").stderr
    assert "    id: U32  primary key" in run("describe", "shop").stdout


def test_describe_names_views_and_submodules(run: Run, scripted: ScriptedServer) -> None:
    item = {"Product": product(owner={"Product": product(__identity__={"U256": []})}, tags={"Array": {"String": []}})}
    view = {"source_name": "mine", "return_type": {"Array": {"Ref": 0}}}
    lib = {
        "sections": [
            {"Typespace": {"types": [item]}},
            {"Views": [view, view | {"source_name": "first", "return_type": {"Sum": option({"Ref": 0})}}]},
            {"Reducers": [{"source_name": "clear", "params": product(item={"Ref": 0}), "visibility": {}}]},
        ]
    }
    nested = {"sections": [*SCHEMA["sections"], {"Submodules": [{"namespace": "lib", "module": lib}]}]}
    scripted.answers[f"GET /v1/database/{DB}/schema"] = 200, nested
    lines = run("describe", "shop").stdout.splitlines()
    assert lines[:3] == ["table item", "    id: U32  primary key", "    name: String"]
    for view_name in ("mine", "first"):
        at = lines.index(f"view lib.{view_name}")
        assert lines[at + 1 : at + 3] == ["    owner: Identity", "    tags: Array<String>"]
    assert "reducer lib.clear(item: {owner: Identity, tags: Array<String>})" in lines
    assert "reducer init()  (not for clients)" in lines


def test_lock_and_unlock(run: Run, scripted: ScriptedServer) -> None:
    scripted.answers[f"POST /v1/database/{DB}/lock"] = 200, ""
    scripted.answers[f"POST /v1/database/{DB}/unlock"] = 200, ""
    assert run("lock", "shop").stdout == f"Database {DB} is now locked. It cannot be deleted until unlocked.\n"
    assert run("unlock", "shop").stdout == f"Database {DB} is now unlocked.\n"


def test_list(run: Run, scripted: ScriptedServer) -> None:
    scripted.answers[f"GET /v1/identity/{ME}/databases"] = 200, {"identities": [DB]}
    scripted.answers[f"GET /v1/database/{DB}/names"] = 200, {"names": ["shop", "store"]}
    assert run("list").stdout.splitlines()[-1] == f" shop, store      | {DB}"
    scripted.answers[f"GET /v1/identity/{ME}/databases"] = 200, {"identities": []}
    assert run("list").stdout == f"No databases found for {ME}.\n"


def test_delete_asks_first(run: Run, scripted: ScriptedServer) -> None:
    scripted.answers[f"DELETE /v1/database/{DB}"] = 200, ""
    assert run("delete", "shop").exit_code == 1
    assert "DELETE" not in str(scripted.requests())
    assert run("delete", "shop", "--yes").exit_code == 0
    assert "DELETE" in str(scripted.requests())


def test_logs(run: Run, scripted: ScriptedServer) -> None:
    records = [
        {
            "level": "Info",
            "ts": 1755830000123456,
            "target": "shop",
            "filename": "shop.py",
            "line_number": 12,
            "function": "add",
            "message": "hi",
        },
        {
            "level": "Warn",
            "ts": 1755830000000000,
            "target": "__spacetimedb__",
            "filename": "__spacetimedb__",
            "function": "__spacetimedb__",
            "message": "host",
        },
        {
            "level": "Panic",
            "ts": 1755830001000000,
            "filename": "shop.py",
            "line_number": 3,
            "function": "buy",
            "message": "oh",
            "trace": [{"module_name": "shop", "func_name": "buy"}],
        },
    ]
    scripted.answers[f"GET /v1/database/{DB}/logs"] = 200, "".join(json.dumps(record) + "\n" for record in records)
    assert run("logs", "shop", "-n", "3").stdout.splitlines() == [
        "2025-08-22T02:33:20.123456Z  INFO: add shop.py:12: hi",
        "2025-08-22T02:33:20.000000Z  WARN: host",
        "2025-08-22T02:33:21.000000Z PANIC: buy shop.py:3: oh",
        "    in shop :: buy",
    ]
    assert scripted.asked[-1].query == {"num_lines": "3", "follow": "false"}
    assert len(run("logs", "shop", "--level", "error").stdout.splitlines()) == 2
    run("logs", "-f", "shop")
    assert scripted.asked[-1].query == {"num_lines": "10", "follow": "true"}


def test_logs_of_somebody_else(run: Run, scripted: ScriptedServer) -> None:
    text = f"{ME} is not authorized to perform action on database {DB}: view module logs"
    scripted.answers[f"GET /v1/database/{DB}/logs"] = 403, text
    result = run("logs", "shop")
    assert text in result.stderr
    assert "spacetime login show" in result.stderr


def test_a_login_that_the_server_does_not_know(run: Run, scripted: ScriptedServer) -> None:
    scripted.answers[f"POST /v1/database/{DB}/sql"] = 401, "Invalid token: InvalidToken"
    assert "spacetime logout" in run("sql", "shop", "SELECT * FROM item").stderr


# -- start, server -----------------------------------------------------------------------------------------------------


def test_server_commands(run: Run, scripted: ScriptedServer) -> None:
    scripted.answers["GET /v1/ping"] = 200, ""
    assert f"Server is online: {scripted.url}" in run("server", "ping").stdout
    assert run("server", "add", "--url", "http://example.com:4000", "far").exit_code == 0
    assert run("server", "add", "--url", "http://example.com:4000", "again").exit_code == 1
    assert run("server", "set-default", "far").exit_code == 0
    assert run("server", "list").stdout.splitlines()[-1] == "***      example.com:4000  http      far"
    assert "no server named `near`" in run("server", "ping", "near").stderr


@pytest.mark.parametrize("address", ["3000", "localhost", "1.2.3.4:99999", "1.2.3.4:http"])
def test_start_refuses_bad_addresses(run: Run, address: str) -> None:
    result = run("start", "--listen-addr", address)
    assert result.exit_code == 2
    assert "--listen-addr must be HOST:PORT" in result.stderr
