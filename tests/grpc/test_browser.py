"""The relay over gRPC-Web, with the official client `grpc-web` from npm in Chromium."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from guestctl.sandbox.server import Sandbox
from tests.cli.conftest import Front
from tests.relay.processes import push, relaying

pytest.importorskip("google.protobuf", reason="guestctl[grpc] is not installed (CONTRIBUTING.md has the command)")

HERE = Path(__file__).parent
#: Where `npm ci --prefix tests/node` installs packages.
MODULES = HERE.parent / "node" / "node_modules"


class Page:
    """A page in Chromium. `reports` yields what it reports about its calls."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def call(self, *words: object) -> None:
        """Call a function of the page."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()

    def reports(self) -> Iterator[dict[str, Any]]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            report = json.loads(line)
            assert report["call"] != "page", report
            yield report


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The script of the page with its packages. Skips the tests if something is missing."""
    for program in ("node", "chromium"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    esbuild = shutil.which("esbuild", path=str(MODULES / ".bin"))
    packages = ("grpc-web", "google-protobuf", "playwright-core")
    if esbuild is None or not all((MODULES / name).is_dir() for name in packages):
        pytest.skip("the packages of tests/node are not installed (npm ci --prefix tests/node)")
    out = tmp_path_factory.mktemp("page") / "page.js"
    options = ["--bundle", "--format=iife", "--log-level=warning", f"--outfile={out}"]
    subprocess.run([esbuild, str(HERE / "page.js"), *options], check=True, cwd=HERE, env={"NODE_PATH": str(MODULES)})
    return out.read_bytes()


@contextmanager
def serving(script: bytes) -> Iterator[str]:
    """Serve the page on an origin of its own, and yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<!doctype html><title>reader</title><script>%s</script>" % script
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def browsing(address: str) -> Iterator[Page]:
    """Open the page in Chromium until the block ends."""
    chromium = shutil.which("chromium")
    with subprocess.Popen(
        ["node", str(HERE / "browser.cjs"), str(chromium), address],
        env={"NODE_PATH": str(MODULES), "PATH": "/usr/bin:/bin", "HOME": str(Path.home())},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline()) == {"call": "page", "data": "reader"}
            yield Page(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(30)


def test_a_page_reads_and_sends_with_the_official_client(sandbox: Sandbox, front: Front, script: bytes) -> None:
    with serving(script) as origin, relaying(front, "--cors", origin) as relay, browsing(origin) as page:
        reports = page.reports()

        def report() -> dict[str, Any]:
            return next(reports)

        page.call("stream", relay.url, relay.key, "text", "Subscribe", {"after": "first", "kinds": ["message"]})
        assert report()["data"]["text"] == "hello"
        push(sandbox, "grün ✓")
        live = report()["data"]
        assert (live["kind"], live["text"], json.loads(live["record"])["text"]) == ("message", "grün ✓", "grün ✓")
        page.call("unary", relay.url, relay.send_key, "binary", "Send", {"text": "from a page", "idempotency_key": "k"})
        both = sorted((report(), report()), key=lambda found: str(found["call"]))
        assert [found["call"] for found in both] == ["Send binary", "Subscribe text"]
        assert both[0]["data"]["delivery"] == "accepted"
        assert both[1]["data"]["text"] == "from a page"
        page.call("unary", relay.url, relay.key, "text", "Send", {"text": "no", "idempotency_key": "k2"})
        refused = report()
        assert (refused["error"], "may only read" in refused["message"]) == (7, True)
        for format in ("binary", "text"):
            page.call("stream", relay.url, relay.key, format, "History", {})
            found = [report() for _ in range(4)]
            assert [one["data"]["text"] for one in found[:3]] == ["hello", "grün ✓", "from a page"]
            assert found[3] == {"call": f"History {format}", "status": 0}
        assert relay.stop() == (0, "")
        last, status = report(), report()
        assert (last["data"]["kind"], status) == ("end", {"call": "Subscribe text", "status": 0})
