"""Who may read from a relay: keys, Host and Origin, and what is refused."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import requests
import websocket

from tests.cli.conftest import Front
from tests.relay.processes import SocketReader, relaying


def test_relay_key_prints_the_stored_key_and_rotates_it(front: Front) -> None:
    read, send = front("relay", "key"), front("relay", "key", "--send")
    assert (read.code, send.code) == (0, 0)
    assert front("relay", "key").out == read.out != send.out
    rotated = front("relay", "key", "--rotate", "-o", "json").record
    assert rotated == {"kind": "relay-key", "session": "default", "right": "read", "key": rotated["key"]}
    assert rotated["key"] != read.out.strip()
    assert front("relay", "key").out.strip() == rotated["key"]
    folder = Path(front.environ["GUESTCTL_STATE"]) / "relay"
    modes = {path.name.rpartition(".")[2]: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {"key": 0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_relay_needs_a_stored_session(front: Front) -> None:
    for command in (("key",), ("serve", "--http", "127.0.0.1:0")):
        missing = front("relay", *command, "-s", "nobody")
        assert missing.code == 10
        assert "nobody" in missing.err


def test_without_a_valid_key_nothing_is_served(front: Front) -> None:
    with relaying(front) as relay:
        for key in ("", "wrong", relay.key + "x", relay.key[:-1]):
            for path in ("/v1/events", "/v1/history"):
                refused = relay.get(path, key)
                assert refused.status_code == 401
                assert refused.headers["WWW-Authenticate"].startswith("Bearer")
        assert relay.get(f"/v1/events?key={relay.key}", "").status_code == 401
        assert relay.get(f"/v1/events?key={relay.key}").status_code == 400
        with pytest.raises(websocket.WebSocketBadStatusException) as refusal:
            SocketReader(relay, header=["Authorization: Bearer wrong"])
        assert refusal.value.status_code == 401
        assert relay.get("/healthz", "").json() == {"status": "serving"}
        for path in ("/healthz", "/readyz"):
            assert requests.head(relay.url + path, timeout=30).status_code == 200
        new = relay.front("relay", "key", "--rotate").out.strip()
        assert relay.get("/v1/history").status_code == 401
        assert relay.get("/v1/history", new).status_code == 200


def test_a_web_socket_takes_the_key_as_a_subprotocol(front: Front) -> None:
    with relaying(front) as relay:
        bearer = f"guestctl.bearer.{relay.key}"
        both = SocketReader(relay, header=[], subprotocols=["guestctl.relay.v1", bearer])
        assert both.socket.getsubprotocol() == "guestctl.relay.v1"
        with pytest.raises(websocket.WebSocketBadStatusException) as refusal:
            SocketReader(relay, header=[], subprotocols=[bearer])
        assert refusal.value.status_code == 400
        assert relay.key.lower() not in str(refusal.value).lower()  # a header of the answer would show the key


def test_a_foreign_host_or_web_page_is_refused(front: Front) -> None:
    with relaying(front) as relay:
        port = relay.url.rpartition(":")[2]
        assert relay.get("/healthz", Host=f"localhost:{port}").status_code == 200
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1"):
            assert relay.get("/healthz", Host=host).status_code == 403
        assert relay.get("/healthz", Origin=relay.url).status_code == 200
        for origin in ("https://evil.example", "null"):
            assert relay.get("/healthz", Origin=origin).status_code == 403
            with pytest.raises(websocket.WebSocketBadStatusException) as refusal:
                SocketReader(relay, origin=origin)
            assert refusal.value.status_code == 403


#: Path -> status and part of the message of a request that is refused.
_WRONG = {
    "/v1/events?after=yesterday": (400, '"yesterday" is not a position'),
    "/v1/events?kinds=nonsense": (400, 'no kind "nonsense"'),
    "/v1/events?after=first&after=last": (400, "given twice"),
    "/v1/events?session=other": (404, "does not serve this session"),
    "/v1/history?last=-1": (400, "not a number"),
    "/v1/nothing": (404, "no such path"),
    "/v1/messages": (405, "no such method"),
}


def test_a_wrong_request_is_answered_with_the_reason(front: Front) -> None:
    with relaying(front) as relay:
        for path, (status, part) in _WRONG.items():
            answer = relay.get(path)
            assert answer.status_code == status, path
            assert part in answer.json()["error"]["message"]


def test_a_wrong_request_for_a_web_socket_is_answered_before_the_upgrade(front: Front) -> None:
    with relaying(front, "--strict") as relay:
        for query, status, part in (
            ("?after=yesterday", 400, "is not a position"),
            ("?kinds=nonsense", 400, "no kind"),
            ("?after=1-1", 410, "no longer has"),
        ):
            with pytest.raises(websocket.WebSocketBadStatusException) as refusal:
                SocketReader(relay, query)
            assert refusal.value.status_code == status
            assert part in str(refusal.value)
