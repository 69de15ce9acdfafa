"""A receiver of `listen --forward-to`: an HTTP server that records each post and answers as the test decides.

Knows: HTTP. Must not know: guestctl.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Post:
    """One request. `body` is as sent."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def record(self) -> dict[str, Any]:
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found


@dataclass
class Receiver:
    """`answer` returns the status and the headers for the n-th post, counted from 1."""

    url: str
    posts: list[Post] = field(default_factory=list)
    answer: Callable[[int, Post], tuple[int, Mapping[str, str]]] = lambda number, post: (204, {})

    @property
    def texts(self) -> list[str]:
        return [post.record["text"] for post in self.posts]


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Run a receiver on loopback."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            post = Post(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            with lock:
                found.posts.append(post)
                status, headers = found.answer(len(found.posts), post)
            self.send_response(status)
            for name, value in {"Content-Length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found = Receiver(f"http://127.0.0.1:{server.server_address[1]}/hook")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
