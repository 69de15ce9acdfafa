"""The two published programs (other-apis.md, sources 002 and 003), repeated step by step against the sandbox.

Knows: what those programs send, in which order, with which headers, and their faults. Must not know: the client.
"""

from __future__ import annotations

import base64
import json
from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest
import requests
import websocket

from guestctl.sandbox import CLIENT_ID, CLIENT_SECRET
from guestctl.sandbox.server import Sandbox
from tests.integration.conftest import Serve
from tests.integration.front import Room

PATIENCE = 10.0


class WebMessagingClient:
    """Source 002: start, receive, send, refresh and register again, history, stop."""

    def __init__(self, address: str, queue: str) -> None:
        self.address, self.queue = address, queue
        self.token = "placeholder"
        self.conversation = ""
        self.seen: list[Any] = []
        self.socket: Any = None

    def request(self, endpoint: str, method: str = "GET", body: Any = None) -> Any:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"}
        url = f"{self.address}/api/v2{endpoint}"
        for _ in range(4):
            data = None if body is None else json.dumps(body)
            response = requests.request(method, url, data=data, headers=headers, timeout=PATIENCE)
            if response.status_code == 429:
                int(response.headers.get("Retry-After", "1"))
                continue
            assert response.ok, response.text
            return response.json()
        raise AssertionError("Max retries exceeded for 429 response")

    def start(self) -> None:
        session = self.request(
            "/messaging/conversations",
            "POST",
            {
                "conversationName": "Web Guest Session",
                "routing": {"selectedQueueId": self.queue},
                "attributes": {"custom": {"source": "typescript-client"}},
            },
        )
        assert session["routing"] == {"selectedQueueId": self.queue}
        self.conversation, self.token = session["id"], session["guestToken"]
        self.connect()

    def connect(self) -> None:
        if self.socket is not None:
            self.socket.shutdown()
        self.socket = websocket.create_connection("ws" + self.address[4:] + "/ws", timeout=PATIENCE)
        self.register()

    def register(self) -> None:
        self.say({"type": "register", "conversationId": self.conversation, "guestToken": self.token})
        assert self.hear()["type"] == "registered"

    def say(self, frame: Any) -> None:
        self.socket.send(json.dumps(frame))

    def hear(self) -> Any:
        data = json.loads(self.socket.recv())
        if data["type"] == "message":
            self.seen.append(data["message"])
        return data

    def send(self, text: str) -> str:
        key = str(uuid4())
        self.say({"type": "send", "message": {"text": text, "attributes": {"correlationId": key}}})
        return key

    def refresh(self) -> None:
        answer = self.request(f"/messaging/conversations/{self.conversation}/guest-tokens", "POST")
        assert answer["guestToken"] != self.token
        self.token = answer["guestToken"]
        if self.socket.connected:
            self.register()

    def history(self) -> list[Any]:
        found: list[Any] = []
        page: str | None = None
        while True:
            query = {"limit": "50", "conversationId": self.conversation, **({"nextPageToken": page} if page else {})}
            words = "&".join(f"{name}={value}" for name, value in query.items())
            answer = self.request(f"/messaging/conversations/{self.conversation}/messages?{words}")
            found += answer["messages"]
            page = answer.get("nextPageToken")
            if not page:
                return sorted(found, key=lambda m: datetime.fromisoformat(m["timestamp"].replace("Z", "+00:00")))

    def stop(self) -> None:
        self.socket.close(1000, b"Client shutting down")


def test_source_002(sandbox: Sandbox, room: Room) -> None:
    client = WebMessagingClient(sandbox.url, "queue-1")
    client.start()
    key = client.send("Hello")
    client.hear()
    client.hear()
    echo, reply = client.seen
    assert (echo["text"], echo["attributes"]) == ("Hello", {"correlationId": key})
    assert (reply["text"], reply["from"]["name"]) == ("echo: Hello", "Bot")
    assert {"id", "type", "from", "to", "text", "timestamp"} <= set(reply)

    client.refresh()  # on the open socket
    room.push("from the agent")
    assert client.hear()["message"]["text"] == "from the agent"

    room.disconnect(1006)
    room.say(*[f"missed {n}" for n in range(75)])
    client.connect()
    assert [m["text"] for m in client.history()] == [
        "Hello",
        "echo: Hello",
        "from the agent",
        *(f"missed {n}" for n in range(75)),
    ]
    assert all(m["from"]["name"] for m in client.history())
    client.send("still here")
    assert client.hear()["message"]["text"] == "still here"

    room.expire(token=True)  # 4001, as the program expects: refresh, then a new socket
    client.hear()
    with pytest.raises((websocket.WebSocketConnectionClosedException, json.JSONDecodeError)):
        client.hear()
    client.refresh()
    client.connect()
    client.send("renewed")
    assert client.hear()["message"]["text"] == "renewed"
    client.stop()


def test_source_002_waits_at_most_three_times(sandbox: Sandbox, room: Room) -> None:
    room.faults("ratelimit:retry_after=1,on=create,times=3")
    client = WebMessagingClient(sandbox.url, "queue-1")
    client.start()
    client.stop()


class GuestSessionManager:
    """Source 003: token, guest, claims, handshake, messages, profile, end."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.admin = ""
        self.guest = self.session = self.token = ""
        self.events: list[str] = []
        self.socket: Any = None

    def acquire(self) -> None:
        body = {
            "grant_type": "client_credentials",
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "scope": "guest:create guest:read webchat:send",
        }
        data = requests.post(f"{self.address}/oauth/token", data=body, timeout=PATIENCE).json()
        assert data["token_type"].lower() == "bearer"
        assert set(data["scope"].split()) == set(body["scope"].split())
        assert data["expires_in"] > 0
        self.admin = data["access_token"]

    def create(self) -> None:
        answer = requests.post(
            f"{self.address}/api/v2/guests",
            headers={
                "Authorization": f"Bearer {self.admin}",
                "Content-Type": "application/json",
                "Accept": "application/json",
            },
            data=json.dumps(
                {
                    "name": "Web Guest",
                    "attributes": {"source": "custom_widget", "locale": "en-US", "user_agent": "node"},
                    "routing": {"queue": {"id": "q"}, "skill": {"id": "s"}, "language": "en-US"},
                }
            ),
            timeout=PATIENCE,
        )
        assert answer.ok, answer.text
        data = answer.json()
        self.guest, self.token, self.session = data["id"], data["guestToken"], data["sessions"][0]["id"]
        self.events.append("session_started")

    def validate(self) -> Any:
        """With the published padding, which fits only some lengths."""
        parts = self.token.split(".")
        assert len(parts) == 3
        padding = "=" * (3 - len(parts[1]) % 4)  # Array(4 - n).join("=") has one less than it means to
        return json.loads(_atob(parts[1] + padding))

    def connect(self) -> None:
        address = f"ws{self.address[4:]}/api/v2/guests/{self.guest}/sessions/{self.session}/ws"
        self.socket = websocket.create_connection(address, timeout=PATIENCE)
        self.socket.send(json.dumps({"type": "handshake", "token": self.token}))

    def hear(self) -> Any:
        data = json.loads(self.socket.recv())
        self.events.append("ws_message_received")
        return data

    def sync(self) -> requests.Response:
        body = {
            "attributes": {
                "external_provider_id": "shop",
                "external_email": "ann@shop.example",
                "synced_at": "2026-03-04T09:15:27.412Z",
                "delegation_verified": True,
            }
        }
        return requests.put(
            f"{self.address}/api/v2/guests/{self.guest}",
            headers={"Authorization": f"Bearer {self.admin}", "Content-Type": "application/json"},
            data=json.dumps(body),
            timeout=PATIENCE,
        )

    def terminate(self) -> None:
        self.socket.close(1000, b"Widget disconnect")


def _atob(text: str) -> bytes:
    """As a browser's: strict about alphabet and length."""
    return base64.b64decode(text, validate=True)


def test_source_003(sandbox: Sandbox, room: Room) -> None:
    manager = GuestSessionManager(sandbox.url)
    manager.acquire()
    claims = None
    for _ in range(60):
        manager.create()
        try:
            claims = manager.validate()
            break
        except ValueError:
            continue  # its decoder's fault, which other-apis.md notes: it discards the session and starts over
    assert claims is not None, "no token in sixty had a length this decoder can read"
    assert claims["routing_hints"] == {"queue": "q", "skill": "s", "language": "en-US"}
    assert claims["sub"] == manager.guest
    assert claims["exp"] > claims["iat"]

    manager.connect()
    assert manager.hear() == {"type": "handshake", "payload": {"status": "ok"}}
    manager.socket.send(json.dumps({"type": "message", "payload": {"text": "Hello", "correlationId": "c-1"}}))
    echo, reply = manager.hear(), manager.hear()
    assert (echo["type"], echo["payload"]["correlationId"]) == ("message", "c-1")
    assert reply["payload"]["text"] == "echo: Hello"

    answer = manager.sync()
    assert answer.ok
    assert answer.json()["attributes"]["source"] == "custom_widget"
    assert answer.json()["attributes"]["external_email"] == "ann@shop.example"
    manager.terminate()

    page = requests.get(
        f"{sandbox.url}/api/v2/guests/{manager.guest}/sessions/{manager.session}/messages",
        headers={"Authorization": f"Bearer {manager.token}"},
        timeout=PATIENCE,
    ).json()
    assert [m["text"] for m in page["messages"]] == ["Hello", "echo: Hello"]

    gone = GuestSessionManager(sandbox.url)
    gone.admin, gone.guest = manager.admin, "nobody"
    assert gone.sync().status_code == 404


def test_source_003_with_an_expired_token(serve: Serve) -> None:
    """The connection breaks before any status: 1006, as published."""
    manager = GuestSessionManager(serve(token_life=0.05).url)
    manager.acquire()
    manager.create()
    manager.token = "eyJ.eyJ.sig"
    manager.connect()
    with pytest.raises((websocket.WebSocketConnectionClosedException, ConnectionError)):
        manager.hear()
    manager.socket.shutdown()
