"""A fake of the chat-completions wire: a real server on loopback, with answers that a test scripts.

Knows: the wire, and how guestctl's requests are read back. Must not know: how guestctl makes them.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

KEY = "sk-canary-0123456789abcdef"


@dataclass(frozen=True)
class Raw:
    """An answer as bytes. `hang`: seconds to wait before it."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    hang: threading.Event | None = None


Reply: TypeAlias = "str | dict[str, Any] | Raw"


@dataclass
class Asked:
    """One request as the server received it."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def system(self) -> str:
        return str(self.body["messages"][0]["content"])

    @property
    def user(self) -> str:
        return str(self.body["messages"][1]["content"])

    @property
    def is_judge(self) -> bool:
        return self.system.startswith("You assess")

    @property
    def conversation(self) -> list[dict[str, Any]]:
        """The messages between the data marks, each of which must be one line of JSON."""
        (block,) = re.findall(r"^<conversation>\n(.*?)^</conversation>$", self.user, re.DOTALL | re.MULTILINE)
        return [json.loads(line) for line in block.splitlines()]

    @property
    def statement(self) -> dict[str, str]:
        (block,) = re.findall(r"^<statement>\n(.*?)\n</statement>$", self.user, re.DOTALL | re.MULTILINE)
        found: dict[str, str] = json.loads(block)
        return found

    @property
    def vote(self) -> int:
        return int(re.findall(r"^Vote (\d+) of", self.user, re.MULTILINE)[0])

    @property
    def turn(self) -> int:
        return int(re.findall(r"message number (\d+) of", self.user)[0])


@dataclass
class FakeModel:
    """A running server. `answer` returns what it answers; `asked` are the requests, and `connections` their number."""

    answer: Callable[[Asked], Reply]
    base_url: str = ""
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    most_at_once: int = 0
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def customers(self) -> list[Asked]:
        return [one for one in self.asked if not one.is_judge]

    @property
    def judges(self) -> list[Asked]:
        return [one for one in self.asked if one.is_judge]


def say(text: str) -> str:
    return json.dumps({"say": text})


def verdict(word: str, messages: Sequence[str] = (), why: str = "as the messages show", **more: Any) -> str:
    return json.dumps({"criterion": "c1", "verdict": word, "messages": list(messages), "why": why, **more})


def completion(text: Any, *, finish: str = "stop", tokens: int = 10, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, **more}
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": {"total_tokens": tokens}}


@contextmanager
def serving(answer: Callable[[Asked], Reply]) -> Iterator[FakeModel]:
    """Run a fake model until the end of the block."""
    model = FakeModel(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            with model._lock:
                model.connections += 1

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked = Asked(self.path, dict(self.headers.items()), body)
            with model._lock:
                model.asked.append(asked)
                model._now += 1
                model.most_at_once = max(model.most_at_once, model._now)
            try:
                self._reply(model.answer(asked))
            finally:
                with model._lock:
                    model._now -= 1

        def _reply(self, reply: Reply) -> None:
            if isinstance(reply, str):
                reply = completion(reply)
            if isinstance(reply, dict):
                reply = Raw(200, json.dumps(reply).encode(), (("Content-Type", "application/json"),))
            if reply.hang is not None:
                reply.hang.wait(20)
            try:
                self.send_response(reply.status)
                for name, value in reply.headers:
                    self.send_header(name, value)
                if not any(name.lower() == "content-length" for name, _ in reply.headers):
                    self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)
            except OSError:
                pass  # the client has closed the connection
            self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    model.base_url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield model
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
