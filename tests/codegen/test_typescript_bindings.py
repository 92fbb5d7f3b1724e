"""Generated TypeScript: `tsc --strict` accepts it, and the official client works with it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from server_process import SAMPLES, ServerProcess

from spacetimedb.codegen.files import write_files
from spacetimedb.codegen.typescript import typescript_files
from spacetimedb.hosts.program import load_program
from spacetimedb.schema.validation import validate

TESTS = Path(__file__).parents[1]
NPM = TESTS / "npm"
PROBE = TESTS / "vectors" / "websocket" / "sessions" / "probe.py"
MODULES = [*(TESTS / "modules" / f"{name}.py" for name in ("case_conversion", "view", "event_table")), PROBE]
MODULES += [SAMPLES / "agar.py", NPM / "module.py"]
SECONDS = 300

CONFIG = {
    "compilerOptions": {
        "strict": True,
        "target": "es2022",
        "module": "esnext",
        "moduleResolution": "bundler",
        "skipLibCheck": True,
        "lib": ["es2022", "dom"],
        "outDir": "js",
        "rootDir": ".",
    },
    "include": ["bindings", "use.ts"],
}

USE = """
import { DbConnection, tables, type EventContext } from "./bindings/probe/index";

export function use(url: string, db: string, done: (result: unknown) => void): void {
  DbConnection.builder().withUri(url).withDatabaseName(db)
    .onConnect((conn: DbConnection) => {
      const told: unknown[] = [];
      conn.db.kinds.onInsert((_ctx: EventContext, row) => {
        if (row.id === 9) told.push([row.optText, row.color.tag, row.shape.tag, row.place.x]);
      });
      conn.subscriptionBuilder()
        .onApplied(async () => {
          await conn.reducers.setKinds({
            id: 9, opt: undefined, optText: "text", color: { tag: "Green" }, shape: { tag: "Circle", value: 1.5 },
            numbers: [1], data: new Uint8Array([1]), words: ["a"], big: -1n, huge: 1n, ratio: 0.5, flag: true,
            place: { x: 3, y: 4 },
          });
          told.push(conn.db.kinds.id.find(9)?.words);
          told.push(await conn.procedures.add({ a: 2, b: 3 }));
          told.push(conn.db.conn_log === conn.db.connLog);
          done(told);
        })
        .subscribe([tables.kinds, tables.item.where(r => r.score.gt(5n)), tables.connLog]);
    })
    .build();
}
"""

RUN = """
import WebSocket from 'ws';
globalThis.WebSocket = class extends WebSocket {
  constructor(url, protocols) { super(url, protocols, { perMessageDeflate: false }); }
};
const { use } = await import('./js/use.js');
setTimeout(() => { console.error('too late'); process.exit(1); }, 20000);
use(process.argv[2], process.argv[3], result => { console.log(JSON.stringify(result)); process.exit(0); });
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bindings of every module, and a program that uses one of them, through the compiler."""
    folder = tmp_path_factory.mktemp("typescript")
    for path in MODULES:
        definition = validate(load_program(path.read_bytes()).describe())
        write_files(folder / "bindings" / path.stem, typescript_files(definition, include_private=True))
    (folder / "node_modules").symlink_to(NPM / "node_modules")
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "tsconfig.json").write_text(json.dumps(CONFIG))
    (folder / "use.ts").write_text(USE)
    (folder / "run.mjs").write_text(RUN)
    compiler = NPM / "node_modules" / "typescript" / "bin" / "tsc"
    assert compiler.is_file(), "run scripts/setup: tests/npm is not installed"
    done = subprocess.run(
        ["node", str(compiler), "-p", "."], cwd=folder, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stdout
    return folder


def test_the_official_client_works_with_it(server: ServerProcess, probe_database: str, compiled: Path) -> None:
    """Types, aliases, query builder, reducers and procedures; that the bindings compile is the fixture's doing."""
    for file in (compiled / "js").rglob("*.js"):  # node insists on the endings of files, bundlers do not
        file.write_text(re.sub(r'(from\s+")(\.{1,2}/[^"]*)(")', r"\1\2.js\3", file.read_text()))
    done = subprocess.run(
        ["node", "run.mjs", server.ws_url, probe_database],
        cwd=compiled,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [["text", "Green", "Circle", 3], ["a"], 5, True]
