"""The server: who may connect, limits, how faults affect a guest, and that nothing is left running."""

from __future__ import annotations

import contextlib
import gc
import json
import socket
import ssl
import struct
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import requests
import websocket

from guestctl.core.clock import SystemClock
from guestctl.sandbox import DEPLOYMENT_ID, Sandbox
from guestctl.sandbox.bot.bot_script import load
from guestctl.sandbox.bot.bots import EchoBot
from guestctl.sandbox.faults import FaultError
from guestctl.sandbox.store import StoreError
from guestctl.sandbox.tls import certificates
from tests.sandbox.bare import GuestSession, gone
from tests.sandbox.conftest import Make
from tests.sandbox.published import check_error
from tests.sandbox.stranger import PATIENCE, Control, HandClock, Join, Stranger, history
from tests.transport.peers import CLOSE, PING, TEXT, frame

CONFIG = f"/webdeployments/v1/deployments/{DEPLOYMENT_ID}/config.json"
MESSAGES = "/api/v2/webmessaging/messages"


# -- who may connect


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "LocalHost", "[::1]"])
def test_requests_with_a_loopback_host_are_served(sandbox: Sandbox, name: str) -> None:
    headers = {"Host": f"{name}:{sandbox.port}"}
    config = requests.get(sandbox.url + CONFIG, headers=headers, timeout=5)
    assert config.status_code == 200
    assert config.json()["apiEndpoint"] == f"http://{name}:{sandbox.port}", (
        "addresses are given as the client wrote ours"
    )


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost.evil:{port}", ""]
)
def test_requests_with_another_host_are_refused(sandbox: Sandbox, host: str) -> None:
    """A page whose name resolves to loopback gets nothing (DNS rebinding)."""
    host = host.format(port=sandbox.port)
    for path in (CONFIG, MESSAGES, "/sandbox/admin/health", "/nothing"):
        answer = requests.get(sandbox.url + path, headers={"Host": host}, timeout=5)
        assert answer.status_code == 421, path
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        Stranger(sandbox, host=host or "x")
    assert refused.value.status_code == 421


def test_further_hosts_can_be_allowed(make: Make) -> None:
    sandbox = make(also_hosts=["127.0.0.1:9"])
    assert requests.get(sandbox.url + CONFIG, headers={"Host": "127.0.0.1:9"}, timeout=5).status_code == 200


def test_every_reply_has_the_server_header(sandbox: Sandbox, join: Join) -> None:
    for path in (CONFIG, MESSAGES, "/nothing", "/sandbox/admin/health"):
        assert requests.get(sandbox.url + path, timeout=5).headers["Server"] == "guestctl-sandbox"
    assert join(sandbox).socket.headers["server"] == "guestctl-sandbox"


def test_cors_headers_follow_the_allowed_origins(make: Make) -> None:
    sandbox = make(origins=("shop.example",))
    asks = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization,x-more"}
    answer = requests.options(sandbox.url + MESSAGES, headers={"Origin": "https://www.shop.example", **asks}, timeout=5)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["Access-Control-Allow-Origin"] == "https://www.shop.example"
    assert answer.headers["Access-Control-Allow-Methods"] == "GET"
    assert answer.headers["Access-Control-Allow-Headers"] == "authorization,x-more"
    assert "Access-Control-Allow-Private-Network" not in answer.headers
    answer = requests.get(sandbox.url + MESSAGES, headers={"Origin": "https://shop.example"}, timeout=5)
    assert answer.status_code == 401
    assert answer.headers["Access-Control-Allow-Origin"] == "https://shop.example", "a page may read errors, too"
    assert answer.headers["Vary"] == "Origin"
    refused = requests.options(sandbox.url + MESSAGES, headers={"Origin": "https://evil.example", **asks}, timeout=5)
    assert (refused.status_code, "Access-Control-Allow-Origin" in refused.headers) == (403, False)
    refused = requests.get(sandbox.url + MESSAGES, headers={"Origin": "https://evil.example"}, timeout=5)
    check_error(refused.json(), 403)
    for method, path, status in (("GET", "/nothing", 404), ("POST", MESSAGES, 405)):
        answer = requests.request(method, sandbox.url + path, headers={"Origin": "https://shop.example"}, timeout=5)
        check_error(answer.json(), status)
        assert answer.headers["Access-Control-Allow-Origin"] == "https://shop.example"
    private = {"Origin": "https://any.example", "Access-Control-Request-Private-Network": "true"}
    answer = requests.options(sandbox.url + CONFIG, headers=private, timeout=5)
    assert answer.headers["Access-Control-Allow-Private-Network"] == "true"
    put = requests.options(sandbox.url + "/uploads/x", headers={"Origin": "https://any.example"}, timeout=5)
    assert put.headers["Access-Control-Allow-Methods"] == "PUT"


def test_head_is_get_without_the_body(sandbox: Sandbox) -> None:
    """RFC 9110 §9.3.2."""
    for path, status in ((CONFIG, 200), (MESSAGES, 401), ("/nothing", 404)):
        asked, answer = (requests.request(method, sandbox.url + path, timeout=5) for method in ("HEAD", "GET"))
        assert (asked.status_code, asked.content) == (status, b"")
        assert asked.headers["Content-Length"] == answer.headers["Content-Length"]


def test_an_upgrade_with_fetch_metadata_is_accepted(sandbox: Sandbox, join: Join) -> None:
    header = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "websocket"}
    assert join(sandbox, origin="https://shop.example", header=header).configure()["connected"]


def test_unknown_paths_and_methods_are_refused(sandbox: Sandbox) -> None:
    answer = requests.get(sandbox.url + "/nothing", timeout=5)
    check_error(answer.json(), 404)
    answer = requests.post(sandbox.url + MESSAGES, timeout=5)
    check_error(answer.json(), 405)
    assert answer.headers["Allow"] == "GET"
    assert requests.options(sandbox.url + "/nothing", timeout=5).status_code == 404
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        websocket.create_connection(f"ws://127.0.0.1:{sandbox.port}/nothing")
    assert refused.value.status_code == 404
    assert requests.get(sandbox.url + "/v1", timeout=5).status_code == 404


# -- limits


def test_a_body_above_the_limit_is_refused(sandbox: Sandbox) -> None:
    path = "/api/v2/webdeployments/token/refresh"
    answer = requests.post(sandbox.url + path, data=b"x" * (1024 * 1024 + 1), timeout=5)
    check_error(answer.json(), 413)
    with contextlib.suppress(requests.ConnectionError):  # refused because of its header
        answer = requests.post(sandbox.url + path, headers={"Content-Length": str(2**40)}, timeout=5)
        assert answer.status_code >= 400
    assert requests.get(sandbox.url + CONFIG, timeout=5).ok


def wide(size: int) -> str:
    """Return a configure frame of exactly this many bytes."""
    frame = json.dumps({"action": "configureSession", "deploymentId": DEPLOYMENT_ID, "token": "T", "pad": ""})
    return frame[:-2] + "x" * (size - len(frame)) + '"}'


def test_a_frame_above_the_limit_closes_1009(sandbox: Sandbox, join: Join) -> None:
    guest = join(sandbox)
    guest.socket.send(wide(32 * 1024))
    guest.expect("SessionResponse")
    guest.socket.send(wide(32 * 1024 + 1))
    assert guest.expect_close() == 1009
    history_free = join(sandbox)
    assert history_free.configure()["newSession"] is False


@pytest.mark.parametrize(("total", "fits"), [(128 * 1024, True), (128 * 1024 + 1, False)])
def test_a_message_above_the_limit_closes_1009(sandbox: Sandbox, join: Join, total: int, fits: bool) -> None:
    guest = join(sandbox)
    text = wide(total)
    parts = [text[start : start + 32 * 1024] for start in range(0, total, 32 * 1024)]
    for number, part in enumerate(parts):
        opcode = websocket.ABNF.OPCODE_CONT if number else websocket.ABNF.OPCODE_TEXT
        last = int(number == len(parts) - 1)
        guest.socket.send_frame(websocket.ABNF.create_frame(part, opcode, last))
    if fits:
        guest.expect("SessionResponse")
    else:
        assert guest.expect_close() == 1009


def test_the_message_limit_counts_small_fragments(make: Make, join: Join) -> None:
    guest = join(make(message_limit=400))
    guest.socket.sock.sendall(masked(TEXT, b"x" * 14, fin=False) + masked(0, b"x" * 14, fin=False) * 29)
    assert guest.expect_close() == 1009


def test_a_giant_frame_is_refused_on_its_header(sandbox: Sandbox, join: Join) -> None:
    guest = join(sandbox)
    guest.socket.sock.sendall(struct.pack("!BBQ", 0x81, 0xFF, 2**40) + b"mask")
    assert guest.expect_close() == 1009


def test_limits_can_be_set(make: Make, join: Join) -> None:
    guest = join(make(frame_limit=200, message_limit=400))
    guest.socket.send(wide(201))
    assert guest.expect_close() == 1009


def test_a_binary_message_closes_1003(sandbox: Sandbox, join: Join) -> None:
    guest = join(sandbox)
    guest.socket.send_binary(b"{}")
    assert guest.expect_close() == 1003


def masked(opcode: int, payload: bytes = b"", **how: Any) -> bytes:
    return frame(opcode, payload, mask=b"\x00\x00\x00\x00", **how)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"{}"), 1002),  # without a mask
        (masked(TEXT, b"{}", rsv=4), 1002),
        (masked(3), 1002),
        (masked(0xB), 1002),
        (masked(0, b"x"), 1002),
        (masked(TEXT, b"x", fin=False) + masked(TEXT, b"y"), 1002),
        (masked(PING, fin=False), 1002),
        (masked(PING, b"x" * 126), 1002),
        (masked(TEXT, b"\xff"), 1007),
        (masked(TEXT, b"\xc3", fin=False) + masked(0, b"x"), 1007),
        (masked(CLOSE, b"\x03"), 1002),
        (masked(CLOSE, b"\x03\xe8\xff"), 1007),
        *[(masked(CLOSE, struct.pack("!H", code)), 1002) for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000)],
        *[(masked(CLOSE, struct.pack("!H", code) + b"why"), code) for code in (1000, 1001, 1014, 3000, 4999)],
    ],
)
def test_a_protocol_violation_is_answered_with_its_close_code(
    sandbox: Sandbox, join: Join, caplog: pytest.LogCaptureFixture, data: bytes, code: int
) -> None:
    """Each violation of RFC 6455 is answered with a close code, not with a broken connection."""
    guest = join(sandbox)
    guest.socket.sock.sendall(data)
    assert guest.expect_close() == code
    assert not caplog.records


def test_pings_are_answered(sandbox: Sandbox, join: Join) -> None:
    guest = join(sandbox)
    guest.socket.ping("are you there")
    opcode, data = guest.socket.recv_data(control_frame=True)
    assert (opcode, data) == (websocket.ABNF.OPCODE_PONG, b"are you there")


def test_a_guests_close_is_answered(sandbox: Sandbox, join: Join) -> None:
    guest = join(sandbox)
    guest.socket.send_close(1000, b"The user has closed the connection.")
    assert guest.expect_close() == 1000


def test_an_answered_close_ends_the_connection(sandbox: Sandbox, join: Join) -> None:
    guest = join(sandbox)
    guest.configure()
    Control(sandbox)("POST", "/disconnect", code=4001)
    assert guest.expect_close() == 4001  # and the guest's library answers it
    guest.socket.sock.settimeout(PATIENCE / 2)  # less than the server waits for an answer
    assert guest.socket.sock.recv(1) == b""


def test_idle_and_old_sockets_are_closed(make: Make, join: Join, hand_clock: HandClock) -> None:
    sandbox = make(clock=hand_clock, fast=True)
    idle, busy = join(sandbox, "A"), join(sandbox, "B")
    idle.configure()
    busy.configure()
    hand_clock.advance(599)
    busy.send("echo", message={"type": "Text", "text": "ping"})
    busy.expect("StructuredMessage")
    hand_clock.advance(1)
    assert idle.expect_close() == 1001
    for _ in range(11):
        hand_clock.advance(599)
        busy.send("echo", message={"type": "Text", "text": "ping"})
        busy.expect("StructuredMessage")
    hand_clock.advance(100)
    assert busy.expect_close() == 1001
    assert [session["state"] for session in Control(sandbox).sessions()] == ["active", "active"]


def test_idle_and_age_limits_can_be_disabled(make: Make, join: Join, hand_clock: HandClock) -> None:
    guest = join(make(clock=hand_clock, idle_timeout=0, socket_life=0))
    guest.configure()
    hand_clock.advance(100_000)
    time.sleep(0.6)  # one sweep of the server's loop
    guest.configure()


def test_a_guest_that_does_not_read_is_disconnected(make: Make, join: Join) -> None:
    sandbox = make(fast=True)
    deaf = join(sandbox)
    deaf.configure()
    (session,) = Control(sandbox).sessions()

    def shout() -> int:
        conversation = sandbox.service.conversations[session["id"]]
        for _ in range(80):
            sandbox.service.send(conversation, "x" * 1_000_000)
        return len(conversation.observers)

    sandbox.call(shout)
    assert sandbox.call(lambda: len(sandbox.peers)) == 0


def test_an_internal_error_is_answered_like_the_gateway(
    make: Make, join: Join, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(EchoBot):
        def reply_to(self, *args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("bot is broken")

    guest = join(make(bot=Broken()))
    guest.configure()
    guest.message("x")
    guest.expect("StructuredMessage")
    frame = json.loads(guest.socket.recv())
    assert set(frame) == {"message", "connectionId", "requestId"}
    assert "could not be handled" in caplog.text
    guest.configure()


# -- faults as a guest sees them


@pytest.fixture
def faulty(make: Make, join: Join) -> Any:
    """A configured guest, a function that arms faults, and the sandbox."""
    sandbox = make(fast=True)
    guest = join(sandbox)
    guest.configure()
    return guest, lambda *specs: Control(sandbox)("POST", "/faults", specs=list(specs)), sandbox


@pytest.mark.parametrize(("code", "seen"), [(1006, 1006), (1001, 1001), (4001, 4001), (1005, 1005), (999, 999)])
def test_drop_closes_after_the_nth_frame(faulty: Any, join: Join, code: int, seen: int) -> None:
    guest, arm, sandbox = faulty
    arm(f"drop:code={code},after=2")
    guest.message("one")
    assert guest.expect("StructuredMessage")["body"]["text"] == "one"
    assert guest.expect_close() == seen
    back = join(sandbox)
    assert back.configure()["newSession"] is False
    assert back.texts() == ["echo: one", "one"], "the message is stored"


def test_duplicate_swap_and_delay(faulty: Any) -> None:
    guest, arm, _ = faulty
    arm("duplicate:times=1")
    guest.message("a")
    assert [guest.receive()["body"]["text"] for _ in range(3)] == ["a", "a", "echo: a"]
    arm("swap:times=1")
    guest.message("b")
    assert [guest.receive()["body"]["text"] for _ in range(2)] == ["echo: b", "b"]
    arm("delay:ms=50,times=1")
    guest.message("c")
    assert [guest.receive()["body"]["text"] for _ in range(2)] == ["c", "echo: c"], "order stays"


def test_swap_without_a_next_frame(faulty: Any) -> None:
    guest, arm, _ = faulty
    arm("swap:times=1")
    guest.send("getJwt")
    guest.expect("JwtResponse")


def test_truncate_and_garbage(faulty: Any) -> None:
    guest, arm, _ = faulty
    for spec in ("truncate:times=1", "garbage:times=1"):
        arm(spec)
        guest.send("getJwt")
        with pytest.raises(ValueError):
            json.loads(guest.socket.recv())
        guest.send("getJwt")
        guest.expect("JwtResponse")


def test_silence_delays_pongs(faulty: Any, join: Join) -> None:
    guest, arm, sandbox = faulty
    other = join(sandbox, "U")
    other.configure()
    arm("silence:for=400ms")
    guest.message("held")
    other.message("also held")
    other.socket.ping("x")
    other.expect_nothing()
    guest.expect_nothing()
    assert [guest.receive()["body"]["text"] for _ in range(2)] == ["held", "echo: held"]
    seen = [other.socket.recv_data(control_frame=True)[0] for _ in range(3)]
    assert sorted(seen) == [websocket.ABNF.OPCODE_TEXT] * 2 + [websocket.ABNF.OPCODE_PONG]


@pytest.mark.parametrize(
    ("specs", "heard"),
    [
        (("delay:ms=200", "drop:code=4001,after=3"), ["one", "echo: one"]),
        (("silence:for=400ms",), ["one", "echo: one", "two", "echo: two"]),
        (("silence:for=400ms", "swap:after=4"), ["one", "echo: one", "two", "echo: two"]),
        (("delay:ms=60000,after=3,times=2", "drop:code=1006,after=4"), ["one", "echo: one"]),
    ],
)
def test_a_close_waits_for_delayed_frames_and_a_reset_does_not(faulty: Any, specs: Any, heard: list[str]) -> None:
    guest, arm, sandbox = faulty
    arm(*specs)
    guest.message("one")
    guest.message("two")
    code = 1006 if "code=1006" in specs[-1] else 4001
    if code == 4001:
        waited_for(sandbox, 4)
        Control(sandbox)("POST", "/disconnect", code=code)
        assert Control(sandbox)("POST", "/disconnect", code=1000) == {"disconnected": 0}, "it is closing"
        guest.message("too late")
    assert [guest.receive()["body"]["text"] for _ in heard] == heard
    assert guest.expect_close() == code
    assert len(Control(sandbox).sessions()[0]["messages"]) == 4


def waited_for(sandbox: Sandbox, messages: int) -> None:
    """Wait until this many messages are stored."""
    deadline = time.monotonic() + PATIENCE
    while len(Control(sandbox).sessions()[0]["messages"]) < messages:
        assert time.monotonic() < deadline


def test_a_swapped_frame_is_sent_before_a_close(faulty: Any) -> None:
    guest, arm, sandbox = faulty
    arm("swap:times=1")
    guest.send("getJwt")
    guest.socket.ping("x")
    assert guest.socket.recv_data(control_frame=True)[0] == websocket.ABNF.OPCODE_PONG
    Control(sandbox)("POST", "/disconnect", code=4001)
    guest.expect("JwtResponse")
    assert guest.expect_close() == 4001


def test_the_guests_close_is_answered_after_a_silence(faulty: Any) -> None:
    guest, arm, _ = faulty
    arm("silence:for=400ms")
    guest.message("held")
    guest.socket.send_close(1000, b"bye")
    guest.expect_nothing()
    assert [guest.receive()["body"]["text"] for _ in range(2)] == ["held", "echo: held"]
    assert guest.expect_close() == 1000


def test_a_guest_can_disconnect_during_a_silence(faulty: Any) -> None:
    guest, arm, sandbox = faulty
    arm("silence:for=60s")
    guest.message("held")
    guest.socket.send_close(1000, b"bye")
    guest.leave()
    gone(sandbox)


def test_a_stop_does_not_wait_for_delayed_frames(faulty: Any) -> None:
    guest, arm, sandbox = faulty
    arm("silence:for=60s")
    guest.message("held")
    waited_for(sandbox, 2)
    Control(sandbox)("POST", "/disconnect", code=4001)
    sandbox.stop()
    assert guest.expect_close() == 1001


def test_refuse_answers_an_upgrade_with_its_status(faulty: Any, join: Join) -> None:
    _, arm, sandbox = faulty
    arm("refuse:status=429,times=1")
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        Stranger(sandbox)
    assert refused.value.status_code == 429
    assert join(sandbox).configure()


@pytest.mark.parametrize(
    ("spec", "status"),
    [("http:status=503,times=1", 503), ("unauthorized:times=1", 401), ("ratelimit:retry_after=7,times=1", 429)],
)
def test_faults_refuse_requests(faulty: Any, spec: str, status: int) -> None:
    guest, arm, sandbox = faulty
    jwt = guest.jwt()
    arm(spec)
    requests.get(sandbox.url + CONFIG, timeout=5)  # not counted
    answer = requests.get(sandbox.url + MESSAGES, headers={"Authorization": f"Bearer {jwt}"}, timeout=5)
    check_error(answer.json(), status)
    assert answer.headers.get("Retry-After") == ("7" if status == 429 else None)
    history(sandbox, jwt)


def test_conflict_lasts_for_its_window(make: Make, join: Join, hand_clock: HandClock) -> None:
    sandbox = make(clock=hand_clock)
    guest = join(sandbox)
    guest.configure()
    jwt = guest.jwt()
    Control(sandbox)("POST", "/faults", specs=["conflict:for=2s"])
    for _ in range(2):
        assert history(sandbox, jwt, 409)["code"] == "session.locked"
    hand_clock.advance(2)
    history(sandbox, jwt)


@pytest.mark.parametrize(
    ("spec", "name", "code"),
    [
        ("ratelimit:retry_after=7,on=send,times=1", "TooManyRequestsErrorMessage", 429),
        ("ratelimit:retry_after=0,on=send,times=1", "TooManyRequestsErrorMessage", 429),
        ("http:status=503,on=send,times=1", "string", 503),
        ("unauthorized:on=send,times=1", "string", 401),
    ],
)
def test_faults_refuse_actions(faulty: Any, spec: str, name: str, code: int) -> None:
    guest, arm, _ = faulty
    arm(spec)
    guest.message("refused", "r")
    frame = guest.expect(name, code)
    assert frame["tracingId"] == "r"
    if code == 429:
        assert f"retry_after={frame['body']['retryAfter']}," in spec
    guest.message("taken")
    guest.expect("StructuredMessage")
    guest.expect("StructuredMessage")
    assert guest.history()["total"] == 2


def test_history_faults_hide_and_damage_messages(faulty: Any) -> None:
    guest, arm, sandbox = faulty
    guest.message("fresh")
    guest.expect("StructuredMessage")
    guest.expect("StructuredMessage")
    jwt = guest.jwt()
    arm("lag:ms=60000,times=1")
    assert history(sandbox, jwt)["total"] == 0
    assert history(sandbox, jwt)["total"] == 2
    for spec in ("truncate:on=history,times=1", "garbage:on=history,times=1"):
        arm(spec)
        answer = requests.get(sandbox.url + MESSAGES, headers={"Authorization": f"Bearer {jwt}"}, timeout=5)
        assert answer.status_code == 200
        with pytest.raises(ValueError):
            answer.json()
    arm("delay:ms=20,on=history,times=1")
    assert history(sandbox, jwt)["total"] == 2


def test_faults_can_be_armed_at_the_start(make: Make) -> None:
    sandbox = make(faults=("refuse:status=403",))
    with pytest.raises(websocket.WebSocketBadStatusException):
        Stranger(sandbox)


# -- starting, stopping, surviving


def test_stop_leaves_no_thread_or_socket() -> None:
    """Run many sandboxes in one process and stop them with connected guests and pending replies."""
    before = threading.active_count()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        for _ in range(5):
            first, second = Sandbox(fast=True), Sandbox(bot_delay=30.0)
            with first, second:
                assert first.port != second.port
                assert first.admin_key != second.admin_key
                guests = [Stranger(first), Stranger(second), Stranger(second)]
                for guest in guests[:2]:
                    guest.configure()
                    guest.message("x")
                session = requests.Session()
                session.get(first.url + CONFIG, timeout=5)
            for guest in guests[1:]:
                frames = []
                with contextlib.suppress(websocket.WebSocketException, OSError):
                    while True:
                        frames.append(guest.socket.recv_data())
                        if frames[-1][0] == websocket.ABNF.OPCODE_CLOSE:
                            break
                assert frames[-1][1][:2] == struct.pack("!H", 1001)
            for guest in guests:
                guest.leave()
            session.close()
            with pytest.raises(OSError):
                socket.create_connection(("127.0.0.1", first.port), timeout=1)
        gc.collect()
    assert threading.active_count() == before


def test_stop_during_a_slow_answer_and_twice(make: Make) -> None:
    sandbox = make()
    Control(sandbox)("POST", "/faults", specs=["delay:ms=60000,on=history"])
    problems: list[Exception] = []

    def ask() -> None:
        try:
            requests.get(sandbox.url + MESSAGES, timeout=PATIENCE)
        except requests.RequestException as problem:
            problems.append(problem)

    asking = threading.Thread(target=ask)
    asking.start()
    deadline = time.monotonic() + PATIENCE
    while not sandbox.call(lambda: sandbox.faults._armed[0].tallies):  # wait until the request has reached the fault
        assert time.monotonic() < deadline
    sandbox.stop()
    sandbox.stop()
    asking.join(PATIENCE)
    assert not asking.is_alive()
    assert isinstance(problems[0], requests.ConnectionError)


def test_a_port_in_use_is_an_error(make: Make) -> None:
    first = make()
    with pytest.raises(OSError):
        Sandbox(port=first.port).start()
    first.stop()
    with Sandbox(port=first.port) as second:
        assert second.url == first.url


def test_a_failed_start_raises_its_cause(tmp_path: Path) -> None:
    with pytest.raises(FaultError):
        Sandbox(faults=("dance",)).start()
    with pytest.raises(StoreError):
        Sandbox(state=tmp_path).start()


def test_addresses(sandbox: Sandbox) -> None:
    assert sandbox.url == f"http://127.0.0.1:{sandbox.port}"
    assert sandbox.socket_url == f"ws://127.0.0.1:{sandbox.port}/v1"
    assert sandbox.config_url == sandbox.url
    assert sandbox.admin_url == f"{sandbox.url}/sandbox/admin"
    assert (sandbox.deployment_id, sandbox.client_id, sandbox.client_secret) == (
        "5a4db0c5-0000-4000-8000-677565737463", "sandbox-client", "sandbox-secret",
    )  # fmt: skip


def test_sessions_survive_a_restart_with_state(make: Make, join: Join, tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    first = make(fast=True, state=path, deployment={"sign_in": True, "session_upgrade": True})
    guest = join(first)
    guest.configure()
    guest.message("before", channel={"metadata": {"customAttributes": {"plan": "gold"}}})
    guest.expect("StructuredMessage")
    guest.expect("StructuredMessage")
    body = {"deploymentId": DEPLOYMENT_ID, "oauth": {"code": "ada:1", "redirectUri": "x"}}
    tokens = requests.post(
        first.url + "/api/v2/webdeployments/token/oauthcodegrantjwtexchange", json=body, timeout=5
    ).json()
    before = guest.history(pageSize=1)["entities"]
    identifier = Control(first).sessions()[0]["id"]
    first.stop()
    second = make(fast=True, state=path, deployment={"sign_in": True, "session_upgrade": True})
    (session,) = Control(second).sessions()
    assert (session["id"], session["attributes"], len(session["messages"])) == (identifier, {"plan": "gold"}, 2)
    guest = join(second)
    assert guest.configure()["newSession"] is False
    assert guest.history(pageSize=1)["entities"] == before
    refresh = second.url + "/api/v2/webdeployments/token/refresh"
    assert requests.post(refresh, json={"refreshToken": tokens["refreshToken"]}, timeout=5).ok
    guest.configure(startNew=True)
    second.stop()
    third = make(fast=True, state=path)
    guest = join(third)
    assert guest.configure()["newSession"] is False
    assert guest.texts() == [], "the newer conversation of the token is the one that is resumed"


def test_counts_complaints_and_bot_memory_survive_a_restart(make: Make, join: Join, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"fast": True, "state": tmp_path / "state.db"}
    settings["bot"] = load("rules: [{equals: psst, times: 1, replies: []}]\notherwise: What?", "bot.yaml", delay=0.0)
    first = make(**settings)
    quiet, guest = join(first, "Q"), join(first)
    quiet.configure()
    quiet.jwt()
    quiet.message("x" * 5000)
    quiet.expect_error(4011)
    guest.configure()
    guest.message("psst", tracing="p")
    guest.expect("StructuredMessage")
    legacy = {"metadata": {"customAttributes": {"note": "x" * 3000}}}
    guest.send("onMessage", message={"type": "Text", "text": "y"}, channel=legacy)
    guest.expect_error(4013)
    numbered = GuestSession(first)
    numbered.ask("GET", numbered.messages, headers={"traceparent": f"00-{'4bf9' * 8}-{'00f0' * 4}-01"})
    numbered.listen()
    before = Control(first).sessions()
    assert before[1]["complaints"]
    assert before[2]["traceparents"]
    first.stop()
    second = make(**settings)
    assert [session | {"sockets": 0} for session in before] == Control(second).sessions()
    guest = join(second)
    guest.configure()
    guest.message("psst")
    guest.expect("StructuredMessage")
    assert guest.expect("StructuredMessage")["body"]["text"] == "What?"


def test_a_sandbox_with_tls_is_served(make: Make) -> None:
    made = certificates(SystemClock())
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(made.certificate, made.key)
        sandbox = make(fast=True, tls=context, ca=str(made.ca))
        assert sandbox.url.startswith("https://")
        assert sandbox.socket_url.startswith("wss://")
        config = requests.get(sandbox.url + CONFIG, verify=str(made.ca), timeout=5).json()
        assert config["messenger"]["apps"]["conversations"]["messagingEndpoint"] == sandbox.socket_url[:-3]
        with Stranger(sandbox, sslopt={"ca_certs": str(made.ca)}) as guest:
            guest.configure()
            guest.message("sealed")
            guest.expect("StructuredMessage")
            Control(sandbox, verify=str(made.ca))("POST", "/disconnect", code=1006)
            guest.expect("StructuredMessage")
            assert guest.expect_close() == 1006
        with pytest.raises(ssl.SSLError):
            Stranger(sandbox)
    finally:
        made.remove()


def test_importing_a_name_does_not_load_the_server() -> None:
    import subprocess
    import sys

    code = "import sys; from guestctl.sandbox import DEPLOYMENT_ID; sys.exit('tornado' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
