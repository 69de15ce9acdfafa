"""A guest that does not use guestctl: plain websocket-client, plain requests, literal frames.

Every received frame is checked against the documented shape first.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Any

import requests
import websocket

from guestctl.sandbox import DEPLOYMENT_ID
from guestctl.sandbox.server import Sandbox
from tests.sandbox.published import check_error, check_frame, check_page

PATIENCE = 5.0  # seconds to wait for what must arrive
QUIET = 0.15  # seconds to wait for what must not arrive


class HandClock:
    """A clock that moves only when a test moves it."""

    def __init__(self, at: float = 1_772_615_727.0) -> None:
        self.at = at

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds

    advance = sleep


class Stranger:
    """One open socket."""

    def __init__(self, sandbox: Sandbox, token: str = "T", *, query: str | None = None, **options: Any) -> None:
        self.sandbox = sandbox
        self.token = token
        address = f"{sandbox.socket_url}?{query if query is not None else f'deploymentId={DEPLOYMENT_ID}'}"
        self.socket: Any = websocket.create_connection(address, timeout=PATIENCE, **options)

    def __enter__(self) -> Stranger:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.leave()

    def leave(self, *, broken: bool = False) -> None:
        """Close the connection without a close frame; `broken` resets it."""
        raw = self.socket.sock
        if raw is not None:
            if broken:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raw.close()
            self.socket.sock = None

    def send(self, action: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"action": action, "token": self.token, **fields}))

    def receive(self) -> Any:
        """Return the next frame, checked."""
        opcode, data = self.socket.recv_data()
        assert opcode == websocket.ABNF.OPCODE_TEXT, (opcode, data)
        frame = json.loads(data)
        check_frame(frame)
        return frame

    def expect(self, name: str, code: int = 200) -> Any:
        """Return the next frame, which must have this class and code."""
        frame = self.receive()
        assert (frame["class"], frame["code"]) == (name, code), frame
        return frame

    def expect_error(self, code: int, part: str = "") -> Any:
        frame = self.expect("string", code)
        assert part in frame["body"]
        return frame

    def expect_nothing(self) -> None:
        self.socket.settimeout(QUIET)
        try:
            frame = self.socket.recv()
        except websocket.WebSocketTimeoutException:
            return
        finally:
            self.socket.settimeout(PATIENCE)
        raise AssertionError(f"nothing was due, but {frame!r} came")

    def expect_close(self) -> int:
        """Return the close code; 1006 if the connection broke."""
        try:
            opcode, data = self.socket.recv_data()
        except (websocket.WebSocketConnectionClosedException, ConnectionError):
            return 1006
        except websocket.WebSocketProtocolException as illegal:  # "Invalid close opcode 5000"
            return int(str(illegal).rpartition(" ")[2])
        assert opcode == websocket.ABNF.OPCODE_CLOSE, (opcode, data)
        return int.from_bytes(data[:2], "big") if data else 1005

    def configure(self, **fields: Any) -> Any:
        self.send("configureSession", **{"deploymentId": DEPLOYMENT_ID, **fields})
        return self.expect("SessionResponse")["body"]

    def message(self, text: str | None = None, tracing: str | None = None, **message: Any) -> None:
        body = {"type": "Text", **({} if text is None else {"text": text}), **message}
        self.send("onMessage", message=body, **({} if tracing is None else {"tracingId": tracing}))

    def event(self, event_type: str, kind: str, **fields: Any) -> None:
        event = {"eventType": event_type, event_type.lower(): {"type": kind}}
        self.send("onMessage", message={"type": "Event", "events": [event], **fields})

    def jwt(self) -> str:
        self.send("getJwt")
        return str(self.expect("JwtResponse")["body"]["jwt"])

    def history(self, jwt: str | None = None, **query: Any) -> Any:
        return history(self.sandbox, jwt or self.jwt(), **query)

    def texts(self, jwt: str | None = None, **query: Any) -> list[str]:
        """Return the texts of one page of history, newest first as sent."""
        return [entity.get("text") for entity in self.history(jwt, **query)["entities"]]


Join = Callable[..., Stranger]


def history(sandbox: Sandbox, jwt: str, status: int = 200, origin: str | None = None, **query: Any) -> Any:
    headers = {"Authorization": f"bearer {jwt}", **({"Origin": origin} if origin else {})}
    answer = requests.get(
        f"{sandbox.url}/api/v2/webmessaging/messages", params=query, headers=headers, timeout=PATIENCE
    )
    assert answer.status_code == status, answer.text
    assert answer.headers["Server"] == "guestctl-sandbox"
    if status == 200:
        check_page(answer.json())
    else:
        check_error(answer.json(), status)
    return answer.json()


class Control:
    """The admin endpoint, with plain requests."""

    def __init__(self, sandbox: Sandbox, verify: str | bool = True) -> None:
        self._url = sandbox.admin_url
        self._verify = verify
        self._headers = {"Authorization": f"Bearer {sandbox.admin_key}"}

    def __call__(self, method: str, path: str, status: int = 200, **body: Any) -> Any:
        answer = requests.request(
            method, self._url + path, json=body or None, headers=self._headers, timeout=PATIENCE, verify=self._verify
        )
        assert answer.status_code == status, answer.text
        return answer.json()

    def sessions(self) -> list[Any]:
        return list(self("GET", "/sessions")["sessions"])
