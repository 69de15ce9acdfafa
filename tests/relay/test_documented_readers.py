"""The readers of docs/relay.md run as shown: they print every message once, also after a restart."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from guestctl.sandbox.server import Sandbox
from tests.cli.conftest import Front
from tests.relay.processes import RelayProcess, push, relaying

PAGE = (Path(__file__).parents[2] / "docs" / "relay.md").read_text(encoding="utf-8")
#: Name of the file in its first line -> the program that runs it.
PROGRAMS = {"reader.py": sys.executable, "reader.mjs": shutil.which("node")}
CHROMIUM = shutil.which("chromium")


def block(name: str) -> str:
    """Return the block of the page whose first line names this file."""
    found = re.search(rf"^```\w+\n((?:#|//|<!--) {re.escape(name)}\b.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None, name
    return found[1]


@contextmanager
def reading(relay: RelayProcess, program: str, file: Path) -> Iterator[Iterator[str]]:
    """Run a reader, and yield the lines that it prints."""
    environ = {"RELAY_URL": relay.url, "GUESTCTL_RELAY_KEY": relay.key, "PATH": "/usr/bin:/bin", "PYTHONUTF8": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen([program, file], cwd=file.parent, env=environ, stdout=pipe, encoding="utf-8") as process:
        assert process.stdout is not None
        try:
            yield (line.rstrip("\n") for line in process.stdout)
        finally:
            process.kill()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_documented_reader_has_every_message_once(front: Front, sandbox: Sandbox, name: str) -> None:
    program = PROGRAMS[name]
    if program is None:
        pytest.skip("node is not installed here")
    file = front.cwd / name
    file.write_text(block(name), encoding="utf-8")
    with relaying(front) as relay:
        with reading(relay, program, file) as lines:
            push(sandbox, "one")
            assert [next(lines), next(lines)] == ["inbound hello", "outbound one"]
            push(sandbox, "\u00c5 \u2028 \u20ac", "two")  # wrongly decoded or split, these break the record
            assert [next(lines), next(lines)] == ["outbound \u00c5 \u2028 \u20ac", "outbound two"]
        push(sandbox, "three")
        with reading(relay, program, file) as lines:
            # The position is written after the line, so a kill in between repeats that one line.
            first = next(lines)
            assert first in {"outbound two", "outbound three"}
            if first == "outbound two":
                assert next(lines) == "outbound three"
            assert front("session", "clear", "--yes", "-q").code == 0
            assert list(lines) == []


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed here")
def test_the_documented_page_shows_the_messages_in_a_browser(front: Front, sandbox: Sandbox, tmp_path: Path) -> None:
    """The page is on an origin of its own. A script fills in its form, as a person would."""
    reader = block("reader.mjs")
    function = reader[reader.index("async function*") : reader.index("const before")]
    page = block("relay.html").replace(
        "  // The function `relayEvents` of the reader in Node belongs here.\n", function
    )
    assert function in page
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(bodies[-1])

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as pages:
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        origin = f"http://localhost:{pages.server_port}"
        with relaying(front, "--cors", origin) as relay:
            push(sandbox, "one", "<b>two</b>")
            fill = "document.querySelector('[name={}]').value = {!r};"
            script = f"{fill.format('url', relay.url)} {fill.format('key', relay.key)}"
            script += " document.querySelector('button').click();"
            bodies.append(f"{page}<script type='module'>{script}</script>".encode())
            expected = "<ol><li>guest: hello</li><li>agent: one</li><li>agent: &lt;b&gt;two&lt;/b&gt;</li></ol>"
            ends = time.monotonic() + 300
            while expected not in (found := dumped(f"{origin}/", tmp_path)):  # a busy browser dumps too early
                assert time.monotonic() < ends, found
        pages.shutdown()


def dumped(url: str, profile: Path) -> str:
    """Return what Chromium has made of a page after some seconds of the page's own time."""
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile / 'browser'}"]
    command = [CHROMIUM, *options, "--virtual-time-budget=4000", "--timeout=10000", "--dump-dom", url]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120).stdout


def test_the_page_is_a_whole_document() -> None:
    page = block("relay.html")
    assert page.count("<script") == page.count("</script>") == 1
    assert "relayEvents(url.value, key.value)" in page
    assert "?key=" not in PAGE
