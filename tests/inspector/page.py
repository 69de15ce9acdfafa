"""A page of the inspector as a browser opens it: plain HTTP requests and a plain WebSocket.

Knows: the paths and messages that docs/inspector.md describes. Must not know: guestctl's own code for them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import requests
import websocket

ROOT = Path(__file__).parents[2]
#: Seconds after which something that must happen counts as stuck. Nothing waits that long.
STUCK = 60.0
Message: TypeAlias = dict[str, Any]


class Page:
    """A page that is logged in and reads the feed. `messages` and `events` have everything that it has received."""

    def __init__(self, ui_url: str, *, ca: str | None = None, buffer: int | None = None) -> None:
        self.address, _, self.token = ui_url.partition("#")
        self.origin = "/".join(self.address.split("/")[:3])
        self.ca = ca
        self.messages: list[Message] = []
        self.events: list[Message] = []
        self._passed = 0
        answer = self.post("login", {"token": self.token})
        assert answer.status_code == 204, answer.text
        self.cookie = answer.headers["Set-Cookie"].partition(";")[0]
        options: dict[str, Any] = {"sslopt": {"ca_certs": ca, "cert_reqs": ssl.CERT_REQUIRED}} if ca else {}
        if buffer is not None:
            options["sockopt"] = [(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)]
        self.socket: Any = websocket.create_connection(
            "ws" + self.address[4:] + "feed",
            header=[f"Cookie: {self.cookie}"],
            origin=self.origin,
            timeout=STUCK,
            skip_utf8_validation=True,  # `json.loads` finds invalid text, too, and faster
            **options,
        )

    def __enter__(self) -> Page:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.socket.shutdown()

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> requests.Response:
        """Send a request as the page sends it, with some headers replaced; an empty one is left out."""
        sent = {"Origin": self.origin, "Content-Type": "application/json", "Cookie": getattr(self, "cookie", "")}
        sent = {name: value for name, value in {**sent, **(headers or {})}.items() if value}
        return requests.post(
            self.address + path, data=json.dumps(body), headers=sent, timeout=STUCK, verify=self.ca or True
        )

    def do(self, path: str, **body: Any) -> None:
        """Send a command that must succeed."""
        answer = self.post(f"api/{path}", body)
        assert answer.status_code == 204, answer.text

    def next(self) -> Message:
        """Return the next message of the feed. Raises EOFError after its end."""
        received = self.socket.recv()
        if not received:
            raise EOFError
        message: Message = json.loads(received)
        self.messages.append(message)
        self.events += message.get("events", [])
        return message

    def until(self, found: Callable[[Message], object]) -> Message:
        """Return the first message from now on that fits."""
        while not found(message := self.next()):
            pass
        return message

    def until_event(self, **members: Any) -> Message:
        """Return the first event that has these members, of those that no call has returned or passed yet."""
        while True:
            for event in self.events[self._passed :]:
                self._passed += 1
                if members.items() <= event.items():
                    return event
            self.next()


@contextmanager
def serving(place: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], Message]]:
    """Run `guestctl sandbox serve --ui` with a state directory of its own. Yield the process and its ready object."""
    environ = {"GUESTCTL_STATE": str(place / "state"), "XDG_CONFIG_HOME": str(place), "PATH": os.defpath}
    with subprocess.Popen(
        [sys.executable, "-m", "guestctl", "sandbox", "serve", "--ui", "-o", "json", *options],
        cwd=place,
        env={**environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            line = process.stdout.readline()
            assert line, process.stderr.read()
            yield process, json.loads(line)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=STUCK)
