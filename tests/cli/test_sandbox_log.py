"""-v, -vv and --trace of a sandbox: what it exchanges with its guests, on stderr and in a file."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from guestctl.sandbox import DEPLOYMENT_ID
from tests.cli.conftest import Front, Result
from tests.cli.test_signals import started

ASK = (sys.executable, "-m", "guestctl", "ask", "hi")
LINE = re.compile(r"\d\d:\d\d:\d\d (?P<label>\S+( \d+)?) +(?P<text>[<>=*] .*)")


def under(alone: Front, *options: str, **more: Any) -> Result:
    """Run `ask` against a new sandbox."""
    return alone("sandbox", "exec", "--fast", *options, "--", *ASK, **more)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_v_prints_one_line_for_each_request_and_frame(alone: Front) -> None:
    told = under(alone, "-v")
    assert told.code == 0
    found = [LINE.fullmatch(line) for line in told.err.splitlines()]
    assert all(found), told.err
    seen = [(line["label"], re.sub(r"\(\d+ ms\)", "(0 ms)", line["text"])) for line in found if line is not None]
    session = seen[-1][0]
    assert re.fullmatch("[0-9a-f]{8}", session)
    assert [label for label, _ in seen] == ["socket 1"] * 3 + [session] * 2 + ["requests"] + [session] * 5
    assert [re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", text) for _, text in seen] == [
        "> connect /v1?deploymentId=ID&application=guestctl-0.1.0",
        "< connected",
        "> configureSession",
        "* session ID",
        "< SessionResponse",
        "= GET /webdeployments/v1/deployments/ID/config.json 200 (0 ms)",
        "> guest: hi",
        "< echo: hi",
        "< bot: echo: hi",
        "> close 1000 Guest client disconnect",
        "< close 1000",
    ]


def test_vv_prints_bodies_without_secrets(alone: Front) -> None:
    told = under(alone, "-vv", "--api", "guests")
    assert told.code == 0
    bodies = [line.strip()[2:] for line in told.err.splitlines() if not LINE.fullmatch(line)]
    assert any(body.startswith("grant_type=client_credentials") for body in bodies)
    parsed = [json.loads(body) for body in bodies if body.startswith("{")]
    (handshake,) = [body for body in parsed if body.get("type") == "handshake" and "token" in body]
    assert re.fullmatch(r"\*\*\*[0-9a-f]{8}", handshake["token"])
    assert "sandbox-secret" not in told.err
    assert "eyJ" not in told.err


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_a_line_fits_the_terminal_and_keeps_the_status(alone: Front, columns: int) -> None:
    told = under(alone, "-v", "--api", "webmessaging-conversations", tty=True, COLUMNS=str(columns))
    assert told.code == 0
    rows = told.err.splitlines()
    assert max(map(len, rows)) <= columns
    assert all(re.search(r" (200|201) \(\d+ ms\)$", row) for row in rows)
    assert len(rows) >= 4


def test_without_v_nothing_is_printed(alone: Front) -> None:
    assert under(alone).err == ""


def test_a_trace_is_private_and_has_no_secret(alone: Front, tmp_path: Path) -> None:
    path = tmp_path / "service.trace"
    assert under(alone, "--trace", str(path), "--api", "guests").code == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert "sandbox-secret" not in text
    assert "eyJ" not in text
    kinds = {line["kind"] for line in lines_of(path)}
    assert kinds >= {"request", "response", "connect", "upgrade", "frame_in", "frame_out", "close", "closed"}


@pytest.mark.parametrize("words", [("sandbox", "serve"), ("sandbox", "exec", "--", "true"), ("replay", "absent")])
def test_a_trace_never_replaces_a_file(alone: Front, tmp_path: Path, words: tuple[str, ...]) -> None:
    path = tmp_path / "service.trace"
    path.write_text("mine")
    refused = alone("--trace", str(path), *words)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == (
        f"error: --trace {path}: the file exists\nhint:  give another name, or extend the file with --trace-append\n"
    )
    assert path.read_text() == "mine"


def test_a_trace_can_be_extended(alone: Front, tmp_path: Path) -> None:
    path = tmp_path / "service.trace"
    for _ in range(2):
        assert under(alone, "--trace-append", str(path)).code == 0
    sockets = [line["socket"] for line in lines_of(path) if line["kind"] == "connect"]
    assert sockets == [1, 1]


def test_the_trace_of_the_environment_is_that_of_the_guest(alone: Front, tmp_path: Path) -> None:
    path = tmp_path / "guest.trace"
    told = alone("sandbox", "exec", "--fast", "--", *ASK, GUESTCTL_TRACE=str(path))
    assert told.code == 0
    assert not any("socket" in line for line in lines_of(path))
    assert sum(line["kind"] == "connect" for line in lines_of(path)) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize(("command", "code"), [(shlex.join(ASK), 2), ("exit 7", 7), (f"{shlex.join(ASK)}; exit 7", 7)])
def test_exec_reports_a_trace_that_breaks_off_once(alone: Front, command: str, code: int) -> None:
    told = alone("sandbox", "exec", "--fast", "--trace", "/dev/full", "--", "sh", "-c", command)
    assert told.code == code
    assert (
        told.err.splitlines() == []
        if command == "exit 7"
        else [
            "error: --trace /dev/full: No space left on device",
            "hint:  the trace ends here; the sandbox goes on without it, and guestctl does not exit with 0",
        ]
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_serve_goes_on_without_its_trace_and_exits_with_2(alone: Front) -> None:
    with started(alone, "sandbox", "serve", "--fast", "--port", "0", "--trace", "/dev/full") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"sandbox ready")
        for _ in range(2):
            told = alone("ask", "hi", "-p", "sandbox")
            assert (told.code, told.err) == (0, "")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert err.decode().count("error: --trace /dev/full: No space left on device") == 1


def test_what_fits_of_a_trace_on_a_full_disk_can_be_read(alone: Front, tmp_path: Path) -> None:
    path = tmp_path / "service.trace"
    guest = f"ulimit -S -f unlimited; exec {shlex.join(ASK)}"
    words = [*ASK[:3], "sandbox", "exec", "--fast", "--trace", str(path), "--", "sh", "-c", guest]
    command = f"trap '' XFSZ; ulimit -S -f 4; exec {shlex.join(words)}"
    with started(alone, "-c", command, program=("sh",)) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, b"echo: hi\n")
    assert b"File too large" in err
    assert {line["kind"] for line in lines_of(path)} >= {"connect", "frame_out"}
    assert path.stat().st_size <= 4 * 1024


def test_serve_logs_while_it_serves(alone: Front, tmp_path: Path) -> None:
    path = tmp_path / "service.trace"
    with started(alone, "sandbox", "serve", "--fast", "--port", "0", "-v", "--trace", str(path)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        assert alone("ask", "hi", "-p", "sandbox").code == 0
        while b"close 1000\n" not in process.stderr.readline():
            pass
        assert [line for line in lines_of(path) if line["kind"] == "frame_out"]
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 0


def test_a_replay_logs_and_records_too(alone: Front, tmp_path: Path) -> None:
    first, second = tmp_path / "first.trace", tmp_path / "second.trace"
    assert under(alone, "--trace", str(first)).code == 0
    with started(alone, "replay", str(first), "-v", "--trace", str(second)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        told = alone("ask", "hi", "-p", "sandbox")
        assert (told.code, told.out) == (0, "echo: hi\n"), told.err
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert b"> guest: hi\n" in err

    def frames(path: Path) -> list[str]:
        return [line["kind"] for line in lines_of(path) if line["kind"].startswith("frame")]

    assert frames(second) == frames(first)
    assert os.stat(second).st_mode & 0o777 == 0o600


def test_a_frame_that_is_nested_deep_is_logged_and_answered(alone: Front, tmp_path: Path) -> None:
    path = tmp_path / "service.trace"
    guest = f"""
import os, websocket
socket = websocket.create_connection("ws" + os.environ["GUESTCTL_SANDBOX_URL"][4:] + "/v1?deploymentId={DEPLOYMENT_ID}")
socket.send('{{"action":"echo","token":"canary-canary","deep":' + "[" * 700 + "]" * 700 + "}}")
assert "code" in socket.recv()
"""
    told = alone("sandbox", "exec", "-vv", "--trace", str(path), "--", sys.executable, "-c", guest)
    assert told.code == 0
    assert told.err.count("[" * 700) == 1
    assert "canary" not in told.err + path.read_text()
