"""A fault at the proxy looks to a client as the same fault in the sandbox does."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests
import websocket

from guestctl.cli.commands.proxy import proxy as proxy_command
from guestctl.proxy.proxy_server import WITHOUT, check_fault
from guestctl.sandbox.faults import KINDS, FaultError
from guestctl.sandbox.server import Sandbox
from tests.client_keys import RETURNED
from tests.proxy.conftest import PATIENCE, PlainClient, Start, echo
from tests.transport.peers import CLOSE, TEXT, Conn, answer, serving, text

#: Seconds without a frame, after the first, after which a client goes on. A swapped frame waits for half a second.
QUIET = 0.8
TOKEN = "0f3c1a52-8f0e-4c1b-9a51-3f4e2d1c0b9a"


def kind_of(error: Exception) -> str:
    """Return the kind of an error. A reset that a write has met before the read does shows as an end: they are one."""
    broken = ConnectionError | websocket.WebSocketConnectionClosedException
    return "broken" if isinstance(error, broken) else type(error).__name__


def converse(url: str, deployment: str) -> list[Any]:
    """Have a short conversation over `web-messaging`, and return what a plain client sees of it."""
    seen: list[Any] = []
    try:
        line: Any = websocket.create_connection(
            f"ws{url[4:]}/v1?deploymentId={deployment}", timeout=PATIENCE, origin="http://localhost"
        )
    except websocket.WebSocketBadStatusException as refused:
        return [refused.status_code, json.loads(refused.resp_body or b"{}")["message"]]
    jwt = ""

    def read() -> None:
        nonlocal jwt
        line.settimeout(PATIENCE)
        while True:
            try:
                opcode, data = line.recv_data()
                line.settimeout(QUIET)
            except websocket.WebSocketTimeoutException:
                return
            except (OSError, websocket.WebSocketException) as broken:
                seen.append(kind_of(broken))
                return
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                seen.append((int.from_bytes(data[:2], "big"), data[2:].decode()))
                return
            shown = data.decode()
            try:
                frame = json.loads(shown)
            except ValueError:
                # ids differ from run to run, and with them the place where a frame is cut in half
                seen.append("damaged" if shown.startswith("{") else shown)
                continue
            body = frame["body"]
            jwt = body.get("jwt", jwt) if isinstance(body, dict) else jwt
            kept = body.get("text") or body.get("errorMessage") if isinstance(body, dict) else body
            seen.append((frame["class"], frame["code"], kept))

    try:
        line.send(json.dumps({"action": "configureSession", "token": TOKEN, "deploymentId": deployment}))
        read()
        for number in range(2):
            message = {"type": "Text", "text": f"hi {number}"}
            sent = {"action": "onMessage", "token": TOKEN, "message": message, "tracingId": f"tracing-id-{number}"}
            line.send(json.dumps(sent))
            read()
        line.send(json.dumps({"action": "getJwt", "token": TOKEN, "tracingId": "tracing-id-of-jwt"}))
        read()
    except (OSError, websocket.WebSocketException) as broken:
        seen.append(kind_of(broken))
    finally:
        line.shutdown()
    for _ in range(2):
        reply = requests.get(
            f"{url}/api/v2/webmessaging/messages", headers={"Authorization": f"Bearer {jwt}"}, timeout=PATIENCE
        )
        try:
            body = reply.json()
            shown = [one.get("text") for one in body["entities"]] if "entities" in body else body["message"]
        except ValueError:
            shown = "damaged" if reply.text.startswith("{") else reply.text
        seen.append((reply.status_code, reply.headers.get("Retry-After"), shown))
    return seen


@pytest.mark.parametrize(
    "spec",
    [
        "drop:after=2",
        "drop:code=4001,on=send",
        "drop:code=1005,after=3",
        "refuse",
        "refuse:status=503",
        "http:status=500,on=send",
        "http:on=history",
        "unauthorized:on=create",
        "conflict:for=1m,on=history",
        "ratelimit:on=send,retry_after=7",
        "ratelimit:retry_after=2",
        "delay:ms=30",
        "duplicate:after=2",
        "swap:after=3",
        "silence:for=200ms",
        "truncate:on=send",
        "truncate:on=history",
        "garbage:every=2",
        "garbage:on=history,times=1",
        "late:ms=100,on=send,times=1",
        "late:ms=30,on=history",
    ],
)
def test_a_fault_at_the_proxy_equals_the_fault_in_the_sandbox(proxied: Start, spec: str) -> None:
    settings = {**RETURNED, "fast": True}
    with Sandbox(**settings, faults=(spec,)) as faulty:
        wanted = converse(faulty.url, faulty.deployment_id)
    with Sandbox(**settings) as sandbox:
        proxy = proxied(sandbox.url, faults=[spec])
        assert converse(proxy.url, sandbox.deployment_id) == wanted
        assert proxy.faults.report()[0]["fired"]


def test_every_kind_works_or_is_refused_at_the_start() -> None:
    assert set(WITHOUT) == {"lag"}
    for kind in KINDS:
        if kind in WITHOUT:
            with pytest.raises(FaultError, match=rf'^fault "{kind}": .*'):
                check_fault(kind)
        else:
            check_fault(kind)
    assert "`lag`" in proxy_command.about


def test_a_delayed_frame_arrives_before_the_services_close(proxied: Start) -> None:
    def script(conn: Conn) -> None:
        conn.upgrade(text("one") + text("two") + b"\x88\x05\x03\xe8bye")
        conn.read(8)  # the guest's close frame: who ends the connection before it arrives resets it

    with serving(script) as service, PlainClient(proxied(service.http, faults=["delay:ms=100"])) as client:
        client.upgrade()
        assert [client.receive() for _ in range(3)] == [(TEXT, b"one"), (TEXT, b"two"), (CLOSE, b"\x03\xe8bye")]
        client.frame(CLOSE, b"\x03\xe8")
        assert client.rest() == b""


def test_after_a_close_by_a_fault_the_service_receives_the_guests_answer(proxied: Start) -> None:
    with serving(echo) as service, PlainClient(proxied(service.http, faults=["drop:code=4000,after=2"])) as client:
        client.upgrade()
        assert client.frame(TEXT, b"one").receive() == (TEXT, b"one")
        assert client.frame(TEXT, b"two").receive() == (CLOSE, b"\x0f\xa0")
        client.frame(CLOSE, b"\x0f\xa0")
        assert client.rest() == b""


def test_a_request_that_is_late_reaches_the_service_without_its_client(proxied: Start) -> None:
    got: list[bytes] = []

    def script(conn: Conn) -> None:
        got.append(conn.head().body())
        conn.send(answer(200))

    with serving(script) as service:
        with PlainClient(proxied(service.http, faults=["late:ms=200"])) as client:
            client.request(b"POST /api/v2/guests", b"Content-Length: 2", body=b"hi")
        for _ in range(3000):
            if got or service._stopping.wait(0.01):
                break
    assert got == [b"hi"]


def test_a_large_body_is_refused_while_faults_are_armed(proxied: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guestctl.proxy.http_exchange.HELD_LIMIT", 1000)
    with (
        serving(lambda conn: conn.rest()) as service,
        PlainClient(proxied(service.http, faults=["http:after=9"])) as client,
    ):
        client.request(b"PUT /x", b"Content-Length: 2000", body=b"x" * 2000)
        assert client.answer()[0].startswith(b"HTTP/1.1 413 ")
