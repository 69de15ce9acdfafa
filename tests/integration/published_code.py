"""Run the code of the published sources with node, against a sandbox.

The texts are not part of this repository: they are read from `GUESTCTL_SOURCES`, or from a directory next to the
repository, when it is there. Only the addresses in the code are changed. `HOST` supplies what the code expects of a
browser, the packages that it imports (`ws` and `uuid`), and timers that run only when the test runs them.

Knows: how code is found in a text, compiled and run. Must not know: what the code does.
"""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from guestctl.sandbox.server import Sandbox

SOURCES = Path(os.environ.get("GUESTCTL_SOURCES", Path(__file__).parents[3] / "shared" / "sources"))
#: Where `npm ci --prefix tests/node` installs programs.
_PROGRAMS = Path(__file__).parents[1] / "node" / "node_modules" / ".bin"
PATIENCE = 60.0  # seconds for an answer of node on a busy machine

#: The first words of a statement of code. Prose in the texts starts with a capital or a bullet.
_STATEMENT = re.compile(r"(export|import|const|let|interface|class|function|async function|if)\b|\w+\(\);$")
_ADDRESS = re.compile(r"(https|wss)://[^/'\"`\s]+")
_PATH = re.compile(r"(?<=fetch\(['`])/")

HOST = r"""
const { readFileSync } = require("node:fs");
const { EventEmitter } = require("node:events");
const [file, names] = [process.argv[2], JSON.parse(process.argv[3])];
const print = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const shown = (value) => (value instanceof Error || value instanceof Event ? String(value) : value);

const logging = (level) => (...words) => print({ [level]: words.map(shown) });
const timers = [];
const store = new Map(Object.entries(names.stored ?? {}));

class Ws extends EventEmitter {
  constructor(address) {
    super();
    let closed = false;
    const close = (code, reason) => { if (!closed) { closed = true; this.emit("close", code, reason); } };
    const socket = new WebSocket(address);
    socket.onopen = () => this.emit("open");
    socket.onmessage = (event) => this.emit("message", event.data);
    socket.onclose = (event) => close(event.code, event.reason);
    socket.onerror = () => { this.emit("error", new Error("connection failed")); close(1006, ""); };
    this.close = () => {};
  }
}

const packages = { ws: Ws, uuid: { v4: () => crypto.randomUUID() } };
const supplied = {
  console: { log: logging("log"), warn: logging("warn"), error: logging("error") },
  setTimeout: (run, wait) => { const timer = { run, wait }; timers.push(timer); print({ timer: wait }); return timer; },
  clearTimeout: (timer) => { if (timers.includes(timer)) timers.splice(timers.indexOf(timer), 1); },
  localStorage: {
    getItem: (key) => store.get(key) ?? null,
    setItem: (key, value) => store.set(key, value),
    removeItem: (key) => store.delete(key),
  },
  require: (name) => packages[name],
  module: { exports: {} },
  exports: {},
  print,
  ...names,
};

const AsyncFunction = (async () => {}).constructor;
const code = readFileSync(file, "utf-8") + "\nreturn (text) => eval(text);";
const started = new AsyncFunction(...Object.keys(supplied), code)(...Object.values(supplied));
started.then(
  (evaluate) => {
    print({ started: true });
    require("node:readline").createInterface({ input: process.stdin }).on("line", async (line) => {
      const command = JSON.parse(line);
      if ("timers" in command) {
        const due = timers.filter((timer) => timer.wait <= command.timers);
        for (const timer of due) { timers.splice(timers.indexOf(timer), 1); timer.run(); }
        return;
      }
      try {
        print({ value: (await evaluate(command.run)) ?? null });
      } catch (error) {
        print({ raised: error.message });
      }
    }).on("close", () => process.exit());
  },
  (error) => print({ failed: String(error) }),
);
"""


def statements(source: str) -> Iterator[str]:
    """Yield the top-level statements of the code in a text. Brackets that are open continue a statement."""
    lines = iter(source.splitlines())
    for line in lines:
        if not _STATEMENT.match(line):
            continue
        statement = line
        while _open(statement) or not statement.rstrip().endswith(("}", ";")):
            statement += "\n" + next(lines)
        yield statement


def _open(statement: str) -> int:
    return sum(statement.count(bracket) for bracket in "({[") - sum(statement.count(bracket) for bracket in ")}]")


def code_of(number: str, *wanted: str) -> list[str]:
    """Return the statements of a source, or those that contain a wanted text. Skip the test without the sources."""
    files = sorted(SOURCES.glob(f"{number}_*.txt"))
    if not files:
        pytest.skip("the published sources are not on this machine")
    found = list(statements(files[0].read_text(encoding="utf-8")))
    return [each for each in found if not wanted or any(text in each for text in wanted)]


def addressed(code: str, sandbox: Sandbox) -> str:
    """Replace the scheme and host of each address, and nothing else, by those of the sandbox."""
    code = _ADDRESS.sub(lambda found: sandbox.url if found[1] == "https" else "ws" + sandbox.url[4:], code)
    return _PATH.sub(f"{sandbox.url}/", code)


@cache
def node() -> tuple[str, ...]:
    """Return the command of node with a WebSocket. Skip the test without one."""
    path = shutil.which("node")
    if path is None:
        pytest.skip("node is not installed")
    for flags in ((), ("--experimental-websocket",)):
        check = [path, *flags, "-e", "process.exit(typeof WebSocket === 'function' ? 0 : 1)"]
        if subprocess.run(check, capture_output=True, check=False).returncode == 0:
            return (path, *flags, "--no-warnings")
    pytest.skip("this node has no WebSocket")


@cache
def compiled(typescript: str) -> str:
    """Return JavaScript for TypeScript: by esbuild, by tsc, or by a node that can. Skip the test without any."""
    esbuild = shutil.which("esbuild", path=str(_PROGRAMS)) or shutil.which("esbuild")
    tsc = shutil.which("tsc")
    with tempfile.TemporaryDirectory() as place:
        file, done = Path(place) / "source.ts", Path(place) / "source.js"
        file.write_text(typescript, encoding="utf-8")
        if esbuild is not None:
            _run(esbuild, str(file), "--format=cjs", "--target=es2022", f"--outfile={done}")
        elif tsc is not None:
            # tsc reports names that only the host has, and writes the file nevertheless.
            _run(tsc, "--target", "es2022", "--module", "commonjs", "--outDir", place, str(file), strict=False)
        else:
            done.write_text(_compiled_by_node(file), encoding="utf-8")
        return done.read_text(encoding="utf-8")


def _compiled_by_node(file: Path) -> str:
    transform = "require('node:module').stripTypeScriptTypes(fs.readFileSync(process.argv[1], 'utf-8'), how)"
    script = f"const how = {{ mode: 'transform' }}; process.stdout.write({transform})"
    result = subprocess.run([*node(), "-e", script, str(file)], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        pytest.skip("neither esbuild nor tsc is installed, and this node cannot compile TypeScript")
    # Node leaves the imports and exports of a module; the host runs a function.
    code = re.sub(r"^export (?=class)", "", result.stdout, flags=re.MULTILINE)
    return re.sub(
        r"^import \{ (\w+) as (\w+) \} from (.*);", r"const {\1: \2} = require(\3);", code, flags=re.MULTILINE
    )


def _run(*command: str, strict: bool = True) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not strict or result.returncode == 0, result.stderr


class Program:
    """A published program that runs in node. Its lines are read in order; its timers run when told to."""

    def __init__(self, code: Path, names: Mapping[str, Any]) -> None:
        host = code.with_name("host.cjs")
        host.write_text(HOST, encoding="utf-8")
        self._node = subprocess.Popen(
            [*node(), str(host), str(code), json.dumps(names)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        #: Everything printed so far, in order.
        self.seen: list[dict[str, Any]] = []

    def _read(self) -> None:
        assert self._node.stdout is not None
        for line in self._node.stdout:
            self._lines.put(json.loads(line))
        self._lines.put(None)

    def _tell(self, **command: Any) -> None:
        assert self._node.stdin is not None
        print(json.dumps(command), file=self._node.stdin, flush=True)

    def begin(self, expression: str) -> None:
        """Evaluate an expression among the names of the program, without waiting for its value."""
        self._tell(run=expression)

    def __call__(self, expression: str) -> Any:
        """Return the value of an expression."""
        self.begin(expression)
        return self.await_line("value")

    def raised(self, expression: str) -> Any:
        """Return the message of the error that an expression raises."""
        self.begin(expression)
        return self.await_line("raised")

    def run_timers(self, longest: float = 60_000) -> None:
        """Run the pending timers of at most this many milliseconds, without waiting for their time."""
        self._tell(timers=longest)

    def await_line(self, kind: str, text: str = "") -> Any:
        """Read lines until one has this kind and contains the text. Return its value."""
        while True:
            line = self._lines.get(timeout=PATIENCE)
            assert line is not None, ("node ended", self.seen)
            self.seen.append(line)
            assert kind in {"raised", "failed"} or not {"raised", "failed"} & line.keys(), self.seen
            if kind in line and text in json.dumps(line[kind]):
                return line[kind]

    def await_total(self, kind: str, text: str, total: int) -> None:
        """Read lines until this many of all lines have this kind and contain the text."""
        while sum(text in json.dumps(line) for line in self.lines(kind)) < total:
            self.await_line(kind)

    def lines(self, kind: str) -> list[Any]:
        """Return what was read of this kind."""
        return [line[kind] for line in self.seen if kind in line]

    def stop(self) -> None:
        """End node, which ends by itself when its input ends."""
        assert self._node.stdin is not None
        assert self._node.stdout is not None
        self._node.stdin.close()
        self._node.wait(PATIENCE)
        self._reader.join(PATIENCE)
        self._node.stdout.close()


Start = Callable[..., Program]
