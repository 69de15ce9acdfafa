"""`guestctl proxy` as a program: its ready text, its records, its errors, and how it stops."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from guestctl.sandbox.server import Sandbox
from tests.client_keys import RETURNED
from tests.proxy.conftest import PlainClient

ROOT = Path(__file__).parents[2]


class Program:
    """Runs guestctl in processes of its own, with a state directory and profiles of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environ = {
            "PATH": os.defpath,
            "PYTHONPATH": str(ROOT),
            "GUESTCTL_STATE": str(directory / "state"),
            "XDG_CONFIG_HOME": str(directory / "config"),
        }

    def __call__(self, *argv: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "guestctl", *argv],
            cwd=self.directory,
            env={**self.environ, **more},
            capture_output=True,
            text=True,
            timeout=60,
        )

    @contextmanager
    def started(self, *argv: str, **more: str) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            [sys.executable, "-m", "guestctl", *argv],
            cwd=self.directory,
            env={**self.environ, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(**RETURNED, fast=True) as running:
        yield running


def ready(process: subprocess.Popen[str]) -> Mapping[str, object]:
    """Return the ready record of `-o json`."""
    assert process.stdout is not None
    found: Mapping[str, object] = json.loads(process.stdout.readline())
    return found


def test_a_conversation_through_the_proxy_is_recorded_and_replayed(
    program: Program, sandbox: Sandbox, tmp_path: Path
) -> None:
    """Also: the printed variables are all that guestctl needs, and no token is in the trace or on stderr."""
    trace = tmp_path / "widget.trace"
    words = ("proxy", "--to", "sandbox", "--trace", str(trace), "-vv", "-o", "json")
    with program.started(*words, GUESTCTL_SANDBOX_URL=sandbox.url) as process:
        found = ready(process)
        assert (found["kind"], found["target"], found["ca"]) == ("proxy", sandbox.url, None)
        variables = found["environment"]
        assert variables == {"GUESTCTL_SANDBOX_URL": found["url"]}
        asked = program("-p", "sandbox", "ask", "hello", **variables)
        assert (asked.returncode, asked.stdout) == (0, "echo: hello\n")
        sent = program("-p", "sandbox", "send", "--file", __file__, **variables)
        assert sent.returncode == 0, sent.stderr
        assert program("-p", "sandbox", "history", **variables).returncode == 0
        shown = json.loads(program("-p", "sandbox", "session", "show", "--show-token", **variables).stdout)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr is not None
        said = process.stderr.read()
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    assert {"connect", "upgrade", "frame_out", "frame_in", "request", "response", "closed"} <= {
        line["kind"] for line in lines
    }
    assert all(sandbox.url[7:] in line["url"] for line in lines if "url" in line)
    for text in (trace.read_text(), said):
        assert shown["token"] not in text
    assert "> guest: hello" in said
    assert oct(trace.stat().st_mode & 0o777) == "0o600"
    with program.started("replay", str(trace), "-o", "json") as process:
        replay = str(ready(process)["url"])
        again = program(
            "-p", "sandbox", "ask", "hello", GUESTCTL_SANDBOX_URL=replay, GUESTCTL_STATE=str(tmp_path / "b")
        )
        assert (again.returncode, again.stdout) == (0, "echo: hello\n")
    assert program("trace", "export", str(trace), "--har", "-").returncode == 0


def test_people_get_the_addresses_and_a_command(program: Program, sandbox: Sandbox) -> None:
    with program.started("proxy", "--to", sandbox.url, "--ui", "-o", "table") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]
        url = lines[1].split()[1]
        assert lines == [
            f"proxy ready in front of {sandbox.url} (Ctrl-C stops it)\n",
            f"  REST      {url}\n",
            f"  socket    ws{url[4:]}/v1\n",
            f"  guestctl  GUESTCTL_BASE_URL={url} guestctl ask hi\n",
        ]
        assert process.stdout.readline().startswith(f"inspector at {url}/_inspector/#")
        asked = program("ask", "hi", GUESTCTL_BASE_URL=url, GUESTCTL_DEPLOYMENT_ID=sandbox.deployment_id)
        assert asked.stdout == "echo: hi\n", asked.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_tls_serves_https_and_wss_with_its_own_authority(program: Program, sandbox: Sandbox) -> None:
    pytest.importorskip("cryptography")
    with program.started("proxy", "--tls", "-o", "json", "-p", "sandbox", GUESTCTL_SANDBOX_URL=sandbox.url) as process:
        found = ready(process)
        variables = found["environment"]
        assert isinstance(variables, dict)
        assert str(found["url"]).startswith("https://127.0.0.1:")
        assert variables["GUESTCTL_SANDBOX_CA"] == found["ca"]
        asked = program("-p", "sandbox", "ask", "hi", **variables)
        assert asked.stdout == "echo: hi\n", asked.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert not Path(str(found["ca"])).exists()


def test_a_proxy_in_front_of_a_sandbox_with_tls_trusts_its_authority(program: Program) -> None:
    pytest.importorskip("cryptography")
    with program.started("sandbox", "serve", "--tls", "--fast", "-o", "json") as serving:
        assert str(ready(serving)["url"]).startswith("https://")
        with program.started("proxy", "--to", "sandbox", "-o", "json") as process:
            found = ready(process)
            asked = program("-p", "sandbox", "ask", "hi", **found["environment"])  # type: ignore[arg-type]
            assert asked.stdout == "echo: hi\n", asked.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--to", "nowhere"), 'no profile "nowhere"'),
        (("--to", "http://service.example"), "has no TLS"),
        (("--to", "ftp://service.example"), "not an http"),
        (("--to", "https://user:secret@service.example"), "credentials"),
        (("--to", "sandbox"), "no sandbox is running"),
        (("--to", "https://service.example", "--origin", "shop.example"), "is not an origin"),
        (("--to", "https://service.example", "--port", "99999"), "--port"),
        (("--to", "https://service.example", "--fault", "lag"), "only a sandbox"),
        (("--to", "https://service.example", "--fault", "drup"), "unknown kind"),
        (("--to", "http://127.0.0.1:4010", "--port", "4010"), "the target itself"),
    ],
)
def test_mistakes_are_named(program: Program, words: tuple[str, ...], said: str) -> None:
    result = program("proxy", *words)
    assert result.returncode == 2, result.stderr
    assert said in result.stderr
    assert "hint:" in result.stderr
    assert "secret" not in result.stderr


def test_a_port_in_use_is_an_error(program: Program) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = program("proxy", "--to", "https://service.example", "--port", str(port))
    assert result.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in result.stderr


def test_a_profile_of_a_region_reaches_every_host_of_it(program: Program, tmp_path: Path) -> None:
    """The addresses are those of the profile as written: variables that lead to the proxy do not lead it to itself."""
    (tmp_path / "profiles.yaml").write_text(
        "profiles: {staging: {region: mypurecloud.de, deployment_id: d, socket_url: 'wss://webmessaging.mypurecloud.de'}}"
    )
    with program.started("proxy", "--to", "staging", "-o", "json", GUESTCTL_BASE_URL="http://127.0.0.1:1") as process:
        found = ready(process)
    assert found["target"] == "https://api.mypurecloud.de"
    url = str(found["url"])
    assert found["environment"] == {"GUESTCTL_BASE_URL": url, "GUESTCTL_SOCKET_URL": "ws" + url[4:]}


def test_a_trace_that_cannot_be_written_is_reported_once(program: Program, sandbox: Sandbox, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with program.started("proxy", "--to", sandbox.url, "--trace-append", "/dev/full", "-o", "json") as process:
        port = int(str(ready(process)["url"]).rpartition(":")[2])

        with PlainClient(port) as client:
            for _ in range(2):
                assert client.request(b"GET /nothing").answer()[0].startswith(b"HTTP/1.1 404")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 2
        assert process.stderr is not None
        assert process.stderr.read().count("the proxy goes on without it") == 1


def test_a_connection_that_is_being_opened_does_not_delay_the_end(program: Program) -> None:
    """The service accepts the connection and never continues its TLS handshake."""
    with socket.create_server(("127.0.0.1", 0)) as service:
        url = f"https://127.0.0.1:{service.getsockname()[1]}"
        with program.started("proxy", "--to", url, "-o", "json") as process:
            with PlainClient(int(str(ready(process)["url"]).rpartition(":")[2])) as client:
                client.request(b"GET /")
                connection, _ = service.accept()
                with connection:
                    assert connection.recv(1)  # the client's part of the handshake
                    process.send_signal(signal.SIGTERM)
                    assert process.wait(8) == 0
            assert process.stderr is not None
            assert process.stderr.read() == ""
