"""Requests that a sandbox must not spend memory, time or files on."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import requests

from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.store import Store, StoreError
from tests.sandbox.conftest import Make
from tests.sandbox.stranger import Join

MIB = 1024 * 1024
REFRESH = "/api/v2/webdeployments/token/refresh"


def half_sent(sandbox: Sandbox, path: str, *, size: int, sent: int, method: str = "POST", **headers: str) -> Any:
    """Open a connection, send a head and the first `sent` bytes of a body, and leave it open."""
    line = socket.create_connection(("127.0.0.1", sandbox.port), timeout=10)
    given = {"Host": f"127.0.0.1:{sandbox.port}", "Content-Length": str(size), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in given.items())
    line.sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + b"x" * sent)
    return line


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("PUT", "/uploads/x?signature=y", {"Host": "evil.example"}),
        ("PUT", "/uploads/x?signature=y", {}),
        ("POST", "/sandbox/admin/push", {}),
        ("POST", "/sandbox/admin/push", {"Origin": "https://evil.example"}),
        ("POST", "/nothing", {}),
        ("POST", REFRESH, {"Origin": "https://evil.example"}),
        ("POST", REFRESH, {}),
    ],
)
def test_bodies_of_refused_requests_are_not_buffered(
    make: Make, method: str, path: str, headers: dict[str, str]
) -> None:
    """40 half-sent bodies of 21 MiB once took 840 MB."""
    sandbox = make(origins=("https://shop.example",))
    lines = [half_sent(sandbox, path, method=method, size=21 * MIB, sent=21 * MIB - 1, **headers) for _ in range(4)]
    for line in lines:
        line.sendall(b"x")  # now the body is complete, and so all of it has been read
        assert line.recv(12)[:9] == b"HTTP/1.1 "
        line.close()
    assert sandbox.bodies.peak == 0


def test_all_bodies_together_are_bounded(make: Make) -> None:
    sandbox = make()
    sandbox.bodies._limit = 3 * MIB
    lines = [half_sent(sandbox, REFRESH, size=MIB, sent=MIB - 1) for _ in range(8)]
    for line in lines:
        line.sendall(b"x")
    answers = [line.recv(12)[9:] for line in lines]
    assert set(answers) <= {b"400", b"503"}
    assert sandbox.bodies.peak <= 3 * MIB
    for line in lines:
        line.close()
    assert requests.post(sandbox.url + REFRESH, data=b"x" * MIB, timeout=5).status_code == 400, "all was released"


def test_a_broken_body_is_released(make: Make) -> None:
    sandbox = make()
    sandbox.bodies._limit = MIB
    for _ in range(5):
        half_sent(sandbox, REFRESH, size=MIB, sent=MIB // 2).close()
    # The server may still be reading the broken ones: until it has released them, it answers 503.
    while (status := requests.post(sandbox.url + REFRESH, data=b"x" * MIB, timeout=5).status_code) == 503:
        pass
    assert status == 400


@pytest.mark.parametrize("sent", [b"", b"GET /v1 HTTP/1.1\r\n", b"GET /v1 HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 1000])
def test_slow_heads_time_out(make: Make, sent: bytes) -> None:
    sandbox = make(head_timeout=0.05)
    line = socket.create_connection(("127.0.0.1", sandbox.port), timeout=10)
    with line:
        line.sendall(sent)
        assert line.recv(1) == b""


def test_slow_bodies_time_out(make: Make) -> None:
    sandbox = make(body_timeout=0.05)
    with half_sent(sandbox, REFRESH, size=100, sent=10) as line:
        assert line.recv(1) == b""


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
@pytest.mark.parametrize("dangling", [True, False])
def test_a_link_in_the_place_of_the_state_is_refused(tmp_path: Path, suffix: str, dangling: bool) -> None:
    target = tmp_path / "somebody-else's"
    if not dangling:
        target.write_bytes(b"")
    (tmp_path / f"state{suffix}").symlink_to(target)
    with pytest.raises(StoreError, match="symbolic link"):
        Store(tmp_path / "state")
    assert target.exists() != dangling
    assert dangling or target.read_bytes() == b""


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://shop.example", 401),
        ("https://shop.example:443", 401),
        ("https://shop.example:444", 403),
        ("http://shop.example", 403),
        ("https://shop.example.evil", 403),
    ],
)
def test_another_port_is_another_origin(make: Make, origin: str, status: int) -> None:
    sandbox = make(origins=("https://shop.example",))
    answer = requests.get(sandbox.url + "/api/v2/webmessaging/messages", headers={"Origin": origin}, timeout=5)
    assert answer.status_code == status


class Counted(list[Any]):
    """A list that counts the entries that are read from it."""

    reads = 0

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        type(self).reads += len(found) if isinstance(index, slice) else 1
        return found

    def __iter__(self) -> Any:
        type(self).reads += len(self)
        return super().__iter__()


@pytest.mark.parametrize("lag", [(), ("lag:ms=1",)])
def test_a_page_of_history_costs_the_same_in_a_long_conversation(make: Make, join: Join, lag: tuple[str, ...]) -> None:
    """Work is counted, not time: reading all of history used to be quadratic."""
    costs = []
    for length in (200, 5000):
        sandbox = make(fast=True, faults=lag)
        guest = join(sandbox)
        guest.configure()
        jwt = guest.jwt()

        def fill(sandbox: Sandbox = sandbox, length: int = length) -> None:
            (conversation,) = sandbox.service.conversations.values()
            for number in range(length):
                sandbox.service.send(conversation, str(number), notify=False)
            for message in conversation.messages:
                message.millis -= 60_000  # each has a millisecond of its own, so the last are ahead of the clock
            conversation.messages = Counted(conversation.messages)

        sandbox.call(fill)
        Counted.reads = 0
        for page in (1, 2, 7):
            assert len(guest.history(jwt, pageNumber=page)["entities"]) == 25
        costs.append(Counted.reads)
    assert costs[1] <= costs[0] + 3 * 13, "a page reads its entries, and a lag is found by bisection"
    assert costs[0] < 3 * (25 + 13)


def test_a_platform_client_finds_the_conversation_of_a_message(make: Make, join: Join) -> None:
    """HTTP Basic and no scope are what the platform's SDKs send; the id is that of the guest's frame."""
    sandbox = make(fast=True)
    guest = join(sandbox)
    guest.configure()
    guest.message("Hi")
    echo = guest.expect("StructuredMessage")["body"]
    answer = requests.post(
        sandbox.url + "/oauth/token",
        data={"grant_type": "client_credentials"},
        auth=(sandbox.client_id, sandbox.client_secret),
        timeout=5,
    )
    assert answer.status_code == 200, answer.text
    bearer = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    path = f"{sandbox.url}/api/v2/conversations/messages/{{}}/details"
    found = requests.get(path.format(echo["id"]), headers=bearer, timeout=5).json()
    (conversation,) = sandbox.call(lambda: list(sandbox.service.conversations))
    expected = {"id": echo["id"], "conversationId": conversation, "direction": "inbound", "textBody": "Hi"}
    assert expected.items() <= found.items()
    assert requests.get(path.format("0" * 32), headers=bearer, timeout=5).status_code == 404
    assert requests.get(path.format(echo["id"]), timeout=5).status_code == 401


@pytest.mark.parametrize("auth", [("x", "y"), ("sandbox-client", ""), ("", "")])
def test_a_wrong_basic_client_is_refused(sandbox: Sandbox, auth: tuple[str, str]) -> None:
    form = {"grant_type": "client_credentials"}
    answer = requests.post(sandbox.url + "/oauth/token", data=form, auth=auth, timeout=5)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert answer.headers["WWW-Authenticate"].startswith("Basic")


@pytest.mark.parametrize("name", ["webmessaging", "api", "api-cdn", "login"])
@pytest.mark.parametrize("port", [True, False])
def test_the_hosts_of_a_domain_are_served(make: Make, name: str, port: bool) -> None:
    sandbox = make(domain="mypurecloud.test")
    suffix = f":{sandbox.port}" if port else ""
    host = {"Host": f"{name}.mypurecloud.test{suffix}"}
    path = f"{sandbox.url}/webdeployments/v1/deployments/{sandbox.deployment_id}/config.json"
    config = requests.get(path, headers=host, timeout=5).json()
    assert config["apiEndpoint"] == f"http://api.mypurecloud.test{suffix}"
    conversations = config["messenger"]["apps"]["conversations"]
    assert conversations["messagingEndpoint"] == f"ws://webmessaging.mypurecloud.test{suffix}"
    for foreign in ("mypurecloud.test", "evil.mypurecloud.test", f"{name}.mypurecloud.test.evil"):
        assert requests.get(path, headers={"Host": foreign + suffix}, timeout=5).status_code == 421
