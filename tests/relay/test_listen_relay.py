"""`listen --relay`: the ordinary listen as a reader of a relay."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from guestctl.core.clock import SystemClock
from guestctl.relay.log import EntryId, LogEntry
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.tls import certificates
from guestctl.transport.web_routes import WebReply, WebRequest, WebRoute, WebSocketRoute, WebStream
from guestctl.transport.web_server import WebServer
from tests.cli.conftest import Front
from tests.integration.front import InstantClock
from tests.ports import lasting_port
from tests.relay.processes import ROOT, flood, push, relaying


def test_listen_reads_from_a_relay_with_the_stored_key(front: Front, sandbox: Sandbox) -> None:
    with relaying(front) as relay:
        push(sandbox, "one", "goodbye")
        cursor = front.cwd / "cursor"
        argv = ("listen", "--relay", relay.url, "--cursor", str(cursor), "-o", "jsonl")
        first = front(*argv, "--max", "2")
        assert (first.code, first.err) == (0, "")
        assert [record["text"] for record in first.records] == ["hello", "one"]
        assert json.loads(cursor.read_text()) == {"relay_after": first.records[-1]["relay_id"]}
        push(sandbox, "two", "bye")
        second = front(*argv, "--until", "^bye$", "--from", "agent")
        assert [record["text"] for record in second.records] == ["goodbye", "two", "bye"]
        (shown,) = front(*argv, "--max", "1", "--only", "connection", "--cursor", str(front.cwd / "other")).records
        assert (shown["kind"], shown["state"]) == ("connection", "connecting")
        missed = front("listen", "--relay", relay.url, "--until", "never", "--for", "100ms")
        assert missed.code == 9
        wrong = front("listen", "--relay", relay.url, GUESTCTL_RELAY_KEY="wrong")
        assert (wrong.code, wrong.error["code"]) == (4, "relay.key")
        absent = front("listen", "--relay", relay.url, "-s", "cart", GUESTCTL_RELAY_KEY=relay.key)
        assert (absent.code, absent.error["code"], absent.error["http_status"]) == (3, "relay.refused", 404)
        mixed = front("listen", "--cursor", str(cursor))
        assert (mixed.code, "not a cursor file" in mixed.error["message"]) == (2, True)


def test_listen_continues_when_the_relay_was_killed_and_started_again(front: Front, sandbox: Sandbox) -> None:
    address = f"127.0.0.1:{lasting_port()}"
    found = []

    def listen() -> None:
        url, cursor = f"http://{address}", str(front.cwd / "cursor")
        found.append(front("listen", "--relay", url, "--cursor", cursor, "--until", "three", "-o", "jsonl"))

    with relaying(front, "--http", address) as relay:
        thread = threading.Thread(target=listen)
        thread.start()
        push(sandbox, "one")
        relay.stop(signal.SIGKILL)
    push(sandbox, "two")
    with relaying(front, "--http", address):
        push(sandbox, "three")
        thread.join(60)
    (done,) = found
    assert [record["text"] for record in done.records] == ["hello", "one", "two", "three"]


def test_the_end_of_the_session_ends_listen(front: Front) -> None:
    with relaying(front) as relay:
        assert front("session", "clear", "--yes", "-q").code == 0
        relay.process.wait(60)
    with relaying_frames([end("session.cleared")]) as url:
        ended = front("listen", "--relay", url, GUESTCTL_RELAY_KEY="k")
        assert (ended.code, ended.error["code"]) == (10, "session.cleared")


def test_a_reader_that_fell_behind_continues_after_its_last_record(front: Front) -> None:
    slow = LogEntry(None, "slow", None, 0.0, b'{"kind":"slow","session":"s","resume_after":"0000abcd-2","time":"t"}')
    asked: list[str] = []
    with relaying_frames([text(1), text(2), slow], [text(3), end(None)], [text(4)], asked=asked) as url:
        done = front("listen", "--relay", url, "--max", "4", "-o", "jsonl", GUESTCTL_RELAY_KEY="k")
    assert [record["text"] for record in done.records] == ["1", "2", "3", "4"]
    assert asked == ["last", "0000abcd-2", "0000abcd-3"]


def test_an_address_with_the_wrong_scheme_is_one_error(front: Front) -> None:
    """A port without TLS does not answer a handshake, and one with TLS resets plain HTTP: both look like a failure."""
    made = certificates(SystemClock(), ["127.0.0.1"])
    try:
        with relaying(front, attached=False) as relay:
            plain = front("listen", "--relay", relay.url.replace("http:", "https:"), GUESTCTL_RELAY_KEY="k")
            place = relay.url.removeprefix("http://")
        assert (plain.code, plain.out) == (2, "")
        assert plain.error["message"] == f"--relay: the TLS handshake fails because {place} speaks plain HTTP"
        assert plain.error["hint"] == f"use http://{place}"
        with relaying(front, "--tls-cert", str(made.certificate), "--tls-key", str(made.key), attached=False) as relay:
            place = relay.url.removeprefix("https://")
            for trusted in (str(made.ca), ""):  # an untrusted certificate proves TLS, too
                secure = front("listen", "--relay", f"http://{place}", GUESTCTL_RELAY_KEY="k", SSL_CERT_FILE=trusted)
                assert (secure.code, secure.out) == (2, "")
                assert secure.error["message"] == f"--relay: {place} speaks TLS, and http:// has none"
                assert secure.error["hint"] == f"use https://{place}"
            right = front(
                *("listen", "--relay", relay.url, "--for", "100ms", "--until", "x"),
                GUESTCTL_RELAY_KEY=relay.key,
                SSL_CERT_FILE=str(made.ca),
            )
            assert (right.code, right.error["code"]) == (9, "timeout")
    finally:
        made.remove()


def test_listen_gives_up_when_there_is_no_relay(front: Front) -> None:
    url = f"http://127.0.0.1:{lasting_port()}"
    given_up = replace(front, clock=InstantClock())("listen", "--relay", url, GUESTCTL_RELAY_KEY="k")
    assert (given_up.code, given_up.error["code"]) == (8, "network.gave_up")
    stopped = front("listen", "--relay", url, "--for", "50ms", GUESTCTL_RELAY_KEY="k")
    assert (stopped.code, stopped.error["code"]) == (8, "network.connect")
    assert (
        front("listen", "--relay", "http://192.0.2.1:8787", GUESTCTL_RELAY_KEY="k").error["code"] == "config.cleartext"
    )
    for wrong in ("127.0.0.1:8787", "ftp://127.0.0.1", "http://key@127.0.0.1"):
        assert front("listen", "--relay", wrong, GUESTCTL_RELAY_KEY="k").code == 2
    assert front("listen", "--relay", url).error["code"] == "relay.key"


def test_a_run_that_was_killed_after_a_line_does_not_repeat_it(front: Front, sandbox: Sandbox) -> None:
    """The cursor says what was about to be written, and the file shows whether it was."""
    out, cursor = front.cwd / "out.jsonl", front.cwd / "cursor"
    with relaying(front) as relay:
        flood(sandbox, ["one", "two", "three"])
        argv = ["listen", "--relay", relay.url, "--cursor", str(cursor), "-o", "jsonl", "--max"]

        def run(most: int) -> None:
            with out.open("ab") as stdout:
                command = [sys.executable, "-m", "guestctl", *argv, str(most)]
                environ = {**front.environ, "PYTHONPATH": str(ROOT), "PATH": os.defpath}
                subprocess.run(command, env=environ, stdout=stdout, check=True)

        run(2)
        after = json.loads(cursor.read_text())["relay_after"]
        lines = out.read_bytes().splitlines(keepends=True)
        ids = [json.loads(line)["relay_id"] for line in lines]
        begin = len(lines[0])
        place = f"{out.stat().st_dev}:{out.stat().st_ino}:{begin}:{out}"
        before = {"relay_after": ids[0], "line": {"id": ids[1], "place": place, "end": begin + len(lines[1])}}
        cursor.write_text(json.dumps(before))  # killed after the second line
        run(1)
        assert [json.loads(line)["text"] for line in out.read_text().splitlines()] == ["hello", "one", "two"]
        cursor.write_text(json.dumps(before | {"relay_after": ids[0]}))
        out.write_bytes(lines[0] + lines[1][:20])  # killed in the middle of the second line
        run(1)
        assert after == ids[1]
    texts = [json.loads(line)["text"] for line in out.read_text().splitlines()]
    assert texts == ["hello", "one"]


def text(number: int) -> LogEntry:
    body = {"kind": "message", "text": str(number), "direction": "outbound", "session": "s"}
    return LogEntry(EntryId("0000abcd", number), "message", None, 0.0, json.dumps(body).encode())


def end(code: str | None) -> LogEntry:
    body = {"kind": "end", "session": "s", "resume_after": "0000abcd-9", "code": code, "reason": "over", "time": "t"}
    return LogEntry(None, "end", None, 0.0, json.dumps(body).encode())


@contextmanager
def relaying_frames(*connections: Sequence[LogEntry], asked: list[str] | None = None) -> Iterator[str]:
    """Serve literal records on `/v1/ws`, others on each connection. `asked` gets each position."""
    left = list(connections)

    def opened(request: WebRequest, stream: WebStream) -> None:
        if asked is not None:
            asked.append(request.query["after"][0])
        entries = left.pop(0)
        data = b"".join(entry.frame for entry in entries)
        if entries[-1].kind in {"slow", "end"}:
            stream.end(data, 1001)
        else:
            stream.write(data, lambda: None)

    async def no_answer(request: WebRequest) -> WebReply:
        return WebReply(404)

    routes: list[WebRoute | WebSocketRoute] = [
        WebSocketRoute("/v1/ws", lambda request: None, opened),
        WebRoute("GET", "/", no_answer),
    ]
    server = WebServer(routes, host="127.0.0.1", port=0)
    server.start()
    try:
        yield server.url
    finally:
        server.stop(seconds=0)
