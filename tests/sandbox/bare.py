"""Independent guests for the APIs of other-apis.md: plain requests, plain websocket-client, literal paths and frames.

Knows: those APIs, restated by hand. Must not know: the client, how the sandbox works.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any, ClassVar
from uuid import uuid4

import requests
import websocket

from guestctl.sandbox import CLIENT_ID, CLIENT_SECRET
from guestctl.sandbox.server import Sandbox
from tests.sandbox.published import check_error
from tests.sandbox.stranger import PATIENCE, QUIET


class Line:
    """One open socket."""

    lines: ClassVar[list[Line]] = []  # all sockets that were opened

    def __init__(self, sandbox: Sandbox, path: str, token: str | None = None, **headers: str) -> None:
        header = {**({} if token is None else {"Authorization": f"Bearer {token}"}), **headers}
        self.socket: Any = websocket.create_connection("ws" + sandbox.url[4:] + path, timeout=PATIENCE, header=header)
        self.lines.append(self)

    def shut(self) -> None:
        """Close the descriptor."""
        self.socket.shutdown()

    def say(self, **frame: Any) -> None:
        self.socket.send(json.dumps(frame))

    def hear(self, **expected: Any) -> Any:
        """Return the next frame, which must have these members."""
        opcode, data = self.socket.recv_data()
        assert opcode == websocket.ABNF.OPCODE_TEXT, (opcode, data)
        frame = json.loads(data)
        assert expected.items() <= frame.items(), frame
        return frame

    def hear_nothing(self) -> None:
        self.socket.settimeout(QUIET)
        try:
            frame = self.socket.recv()
        except websocket.WebSocketTimeoutException:
            return
        finally:
            self.socket.settimeout(PATIENCE)
        raise AssertionError(f"nothing was due, but {frame!r} came")

    def closed(self) -> int:
        """Return the close code; 1006 if the connection broke."""
        try:
            opcode, data = self.socket.recv_data()
        except (websocket.WebSocketConnectionClosedException, ConnectionError):
            return 1006
        assert opcode == websocket.ABNF.OPCODE_CLOSE, (opcode, data)
        return int.from_bytes(data[:2], "big")

    def leave(self) -> None:
        """Close with a close frame (RFC 6455)."""
        self.socket.close(1000)

    def tear(self) -> None:
        """Break the connection."""
        raw = self.socket.sock
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.close()
        self.socket.sock = None


def refused(sandbox: Sandbox, path: str, token: str | None = None) -> tuple[int, Any]:
    """Return status and body of an upgrade that must be refused."""
    try:
        Line(sandbox, path, token).leave()
    except websocket.WebSocketBadStatusException as error:
        return error.status_code, json.loads(error.resp_body or b"{}")
    raise AssertionError("the upgrade was not refused")


class Guest:
    """A guest of one API. Subclasses define each operation; `ask` performs one REST request."""

    api: ClassVar[str]
    key_name: ClassVar[str] = "messageId"
    id_name: ClassVar[str] = "id"

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.token = ""
        self.id = self.guest = self.session = ""
        self.created = self.create()

    def ask(
        self, method: str, path: str, body: Any = None, *, status: int = 200, token: str | None = None, **more: Any
    ) -> Any:
        """Perform a REST request. `token` None: the guest's own; empty: none."""
        bearer = self.token if token is None else token
        headers = {**({"Authorization": f"Bearer {bearer}"} if bearer else {}), **more.pop("headers", {})}
        answer = requests.request(
            method, self.sandbox.url + path, json=body, headers=headers, timeout=PATIENCE, allow_redirects=False, **more
        )
        assert answer.status_code == status, (answer.status_code, answer.text)
        if status >= 400:
            assert answer.headers["Content-Type"] == "application/json"
            check_error(answer.json(), status)
        self.headers = answer.headers
        return answer.json() if answer.content else None

    def oauth(self, scope: str, **wrong: str) -> str:
        form = {
            "grant_type": "client_credentials",
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "scope": scope,
            **wrong,
        }
        answer = requests.post(self.sandbox.url + "/oauth/token", data=form, timeout=PATIENCE)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def create(self) -> Any:
        raise NotImplementedError

    def send(self, text: str, key: str | None = None, *, status: int = 200) -> Any:
        """Send a message over REST."""
        raise NotImplementedError

    def history(self, *, status: int = 200, **query: Any) -> Any:
        raise NotImplementedError

    def listen(self) -> Line:
        """Return a socket on which the first frames have been exchanged."""
        raise NotImplementedError

    def message_in(self, frame: Any) -> Any:
        return frame["message"]

    def pushed(self, line: Line) -> Any:
        """Return the message in the next frame."""
        return self.message_in(line.hear())

    def texts(self) -> list[str]:
        return [message["text"] for message in self.history()["messages"]]


class Numbered(Guest):
    """What the two APIs with numbered messages share."""

    id_name = "messageId"
    messages: str
    socket: str

    def send(self, text: str, key: str | None = None, *, status: int = 200) -> Any:
        return self.ask("POST", self.messages, {"text": text, "messageId": key or str(uuid4())}, status=status)

    def history(self, *, status: int = 200, **query: Any) -> Any:
        return self.ask("GET", self.messages, params=query, status=status)

    def listen(self) -> Line:
        line = Line(self.sandbox, self.socket, self.token)
        line.hear(type="connected")
        return line

    def typing(self, *, status: int = 204) -> None:
        path = f"/api/v2/conversations/messaging/external-contacts/{self.guest}/typing"
        self.ask("POST", path, status=status)


class GuestSession(Numbered):
    api = "guest-sessions"

    def create(self) -> Any:
        body = {"customAttributes": {"plan": "gold"}}
        made = self.ask("POST", "/api/v2/guest/webmessaging/sessions", body, status=201)
        self.id, self.guest, self.token = made["webMessagingSessionId"], made["guestId"], made["sessionToken"]
        self.messages = f"/api/v2/guest/webmessaging/sessions/{self.id}/messages"
        self.socket = f"/v2/guest/webmessaging/events?sessionId={self.id}"
        return made


class ExternalContact(Numbered):
    api = "external-contacts"

    def create(self) -> Any:
        path = "/api/v2/conversations/messaging/addresses"
        made = self.ask("POST", path, {"address": "email:ada@shop.example"}, status=201)
        self.guest, self.token = made["guestId"], made["sessionToken"]
        self.messages = f"/api/v2/conversations/messaging/external-contacts/{self.guest}/messages"
        self.socket = f"/v2/guest/webmessaging/events?guestId={self.guest}"
        return made


class ConversationGuest(Guest):
    api = "conversation-guests"

    def create(self) -> Any:
        made = self.ask("POST", GUESTS, {"attributes": {"plan": "gold"}}, status=201)
        self.id, self.guest, self.token = made["conversationId"], made["guestId"], made["token"]
        return made

    def reattach(self, *, status: int = 200) -> Any:
        made = self.ask("POST", GUESTS, {"conversationId": self.id, "guestId": self.guest}, status=status)
        if status == 200:
            self.token = made["token"]
        return made

    def history(self, *, status: int = 200, **query: Any) -> Any:
        return self.ask("GET", f"{GUESTS}/{self.guest}/messages", params=query, status=status)

    def connect(self, path: str = "/api/v2/conversations/webmessaging/websocket", **more: str) -> Line:
        line = Line(self.sandbox, path)
        line.say(type="CONNECT", conversationId=self.id, guestId=self.guest, token=self.token, **more)
        return line

    def listen(self) -> Line:
        """Connect with a new token: one whose socket has closed cannot send."""
        self.reattach()
        line = self.connect()
        line.hear(type="CONVERSATION_UPDATED", conversationId=self.id, state="connected")
        return line

    def say(self, line: Line, text: str, key: str) -> None:
        line.say(type="SEND_MESSAGE", conversationId=self.id, messageId=key, text=text)


GUESTS = "/api/v2/conversations/webmessaging/guests"


class Registrant(Guest):
    api = "messaging-conversations"
    key_name = "correlationId"
    path = "/api/v2/messaging/conversations"

    def create(self) -> Any:
        body = {
            "conversationName": "Web Guest Session",
            "routing": {"selectedQueueId": "q-1"},
            "attributes": {"custom": {"source": "stranger"}},
        }
        made = self.ask("POST", self.path, body, status=201, token="placeholder")
        self.id, self.guest, self.token = made["id"], made["guestId"], made["guestToken"]
        return made

    def history(self, *, status: int = 200, **query: Any) -> Any:
        query = {"limit": 50, "conversationId": self.id, **query}
        return self.ask("GET", f"{self.path}/{self.id}/messages", params=query, status=status)

    def refresh(self, *, status: int = 200) -> Any:
        made = self.ask("POST", f"{self.path}/{self.id}/guest-tokens", status=status)
        if status == 200:
            self.token = made["guestToken"]
        return made

    def register(self, line: Line, **more: str) -> None:
        line.say(type="register", conversationId=self.id, guestToken=self.token, **more)

    def listen(self) -> Line:
        line = Line(self.sandbox, "/ws")
        self.register(line)
        assert line.hear() == {"type": "registered"}
        return line

    def say(self, line: Line, text: str, key: str) -> None:
        line.say(type="send", message={"text": text, "attributes": {"correlationId": key}})


class Profiled(Guest):
    """A guest of `guests`."""

    api = "guests"
    key_name = "correlationId"
    path = "/api/v2/guests"
    routing: ClassVar[Any] = {"queue": {"id": "q-1"}, "skill": {"id": "s-1"}, "language": "de"}

    def create(self) -> Any:
        self.access = self.oauth("guest:create guest:read webchat:send")
        body = {"name": "Web Guest", "attributes": {"plan": "gold"}, "routing": self.routing}
        made = self.ask("POST", self.path, body, status=201, token=self.access)
        self.guest, self.token, self.session = made["id"], made["guestToken"], made["sessions"][0]["id"]
        return made

    def refresh(self, *, status: int = 201) -> Any:
        made = self.ask("POST", f"{self.path}/{self.guest}/sessions", status=status, token=self.access)
        if status == 201:
            self.token, self.session = made["guestToken"], made["sessions"][0]["id"]
        return made

    def sync(self, attributes: Any, *, status: int = 200, guest: str | None = None) -> Any:
        body = {"attributes": attributes}
        return self.ask("PUT", f"{self.path}/{guest or self.guest}", body, status=status, token=self.access)

    def history(self, *, status: int = 200, **query: Any) -> Any:
        path = f"{self.path}/{self.guest}/sessions/{self.session}/messages"
        return self.ask("GET", path, params=query, status=status)

    def connect(self, session: str | None = None) -> Line:
        return Line(self.sandbox, f"{self.path}/{self.guest}/sessions/{session or self.session}/ws")

    def listen(self) -> Line:
        line = self.connect()
        line.say(type="handshake", token=self.token)
        assert line.hear() == {"type": "handshake", "payload": {"status": "ok"}}
        return line

    def say(self, line: Line, text: str, key: str) -> None:
        line.say(type="message", payload={"text": text, "correlationId": key})

    def message_in(self, frame: Any) -> Any:
        assert frame["type"] == "message"
        return frame["payload"]


class Poller(Guest):
    """A guest of `webmessaging-conversations`."""

    api = "webmessaging-conversations"
    path = "/api/v2/webmessaging/conversations"

    def create(self) -> Any:
        self.access = self.oauth("webmessaging:conversation:write")
        made = self.ask("POST", self.path, {}, status=201, token=self.access)
        self.id, self.guest, self.token = made["conversationId"], made["guestId"], made["sessionToken"]
        self.messages = f"{self.path}/{self.id}/messages"
        return made

    def send(self, text: str, key: str | None = None, *, status: int = 200) -> Any:
        body = {"type": "text", "text": text, "guestId": self.guest, "messageId": key or str(uuid4())}
        return self.ask("POST", self.messages, body, status=status)

    def history(self, *, status: int = 200, **query: Any) -> Any:
        return self.ask("GET", self.messages, params=query, status=status)

    def refresh(self, *, status: int = 200) -> Any:
        """Refresh the token in the first documented form."""
        path = f"{self.path}/{self.id}/guests/{self.guest}/refresh"
        return self._refreshed(self.ask("POST", path, {"guestId": self.guest}, status=status, token=self.access))

    def refresh_by_token(self, *, status: int = 200) -> Any:
        """Refresh the token in the second documented form."""
        body = {"conversationId": self.id, "guestId": self.guest}
        return self._refreshed(self.ask("POST", f"{self.path}/{self.id}/guest-token", body, status=status))

    def _refreshed(self, made: Any) -> Any:
        self.token = made.get("sessionToken", self.token)
        return made


REST_SENDERS = (GuestSession, ExternalContact, Poller)
SOCKET_SENDERS = (ConversationGuest, Registrant, Profiled)
EVERYBODY = (GuestSession, ExternalContact, ConversationGuest, Registrant, Profiled, Poller)


def gone(sandbox: Sandbox, left: int = 0) -> None:
    """Wait until the sandbox has at most `left` sockets."""
    deadline = time.monotonic() + PATIENCE
    while sandbox.call(lambda: len(sandbox.peers)) > left:
        assert time.monotonic() < deadline, "a socket is still there"
        time.sleep(0.005)
