"""A feed that a test writes itself. It serves the inspector as guestctl does, and records what the page posts."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler

from guestctl.pages.assets import asset, names

TOKEN = "token-of-a-test"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data: blob:; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HELLO = {"type": "hello", "source": "sandbox", "title": "a test", "can": ["agent", "faults"], "instance": "1"}
KINDS = [
    {"kind": "drop", "keys": ["code"], "about": "close the socket instead of sending"},
    {"kind": "delay", "keys": ["ms"], "about": "send a frame or an answer later, in the same order"},
]


class FeedServer:
    """Everything that `say` was given is sent to each page, in order.

    `posts` has the path and the body of each post. With a `refusal`, posts and the feed are refused.
    """

    def __init__(self) -> None:
        self.posts: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
        self.refusal: str | None = None
        self.port = 0
        self._messages: list[str] = []
        self._pages: set[WebSocketHandler] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/_inspector/#{TOKEN}"

    def say(self, *messages: Mapping[str, Any]) -> None:
        """Send messages to every page, and to those that open later."""
        assert self._loop is not None
        texts = [json.dumps(message) for message in messages]
        self._loop.call_soon_threadsafe(self._say, texts)

    def break_connections(self) -> None:
        """Close every feed without a word."""
        assert self._loop is not None
        for page in tuple(self._pages):
            self._loop.call_soon_threadsafe(page.close)

    def _say(self, texts: list[str]) -> None:
        self._messages += texts
        for page in self._pages:
            for text in texts:
                page.write_message(text)

    def _application(self) -> Application:
        server = self

        class Page(RequestHandler):
            def get(self, name: str = "inspector.html") -> None:
                found = asset(name)
                self.set_header("Content-Type", found.content_type)
                self.set_header("Content-Security-Policy", POLICY)
                self.write(found.body)

            def post(self, path: str) -> None:
                if server.refusal is not None:
                    self.set_status(422)
                    self.write({"error": {"message": server.refusal}})
                    return
                server.posts.put((path, json.loads(self.request.body)))
                self.set_status(204)

            def log_exception(self, *args: Any) -> None:
                pass

        class Feed(WebSocketHandler):
            def prepare(self) -> None:
                if server.refusal is not None:
                    self.send_error(403)

            def open(self, *args: str, **kwargs: str) -> None:
                self.set_nodelay(True)
                server._pages.add(self)
                for text in server._messages:
                    self.write_message(text)

            def on_close(self) -> None:
                server._pages.discard(self)

            def on_message(self, message: str | bytes) -> None:
                pass

        assets = "|".join(sorted(names())).replace(".", r"\.")
        return Application(
            [
                (r"/_inspector/", Page),
                (rf"/_inspector/static/({assets})", Page),
                (r"/_inspector/(login|api/\w+)", Page),
                (r"/_inspector/feed", Feed),
            ],
            log_function=lambda handler: None,
        )

    def run(self, ready: threading.Event, stop: list[Any]) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            stop.append(asyncio.Event())
            server = HTTPServer(self._application())
            sockets = bind_sockets(0, "127.0.0.1")
            self.port = sockets[0].getsockname()[1]
            server.add_sockets(sockets)
            ready.set()
            await stop[0].wait()
            server.stop()
            for page in tuple(self._pages):
                page.close()
            await server.close_all_connections()

        asyncio.run(main())


@contextmanager
def feeding(hello: Mapping[str, Any] | None = HELLO) -> Iterator[FeedServer]:
    """Serve a feed until the block ends."""
    server, ready, stop = FeedServer(), threading.Event(), list[Any]()
    thread = threading.Thread(target=server.run, args=(ready, stop))
    thread.start()
    ready.wait()
    try:
        if hello is not None:
            server.say(hello)
        yield server
    finally:
        assert server._loop is not None
        server._loop.call_soon_threadsafe(stop[0].set)
        thread.join()


def frame(number: int, text: str, *, kind: str = "frame_in", session: str = "s-1", **members: Any) -> dict[str, Any]:
    """Return an event of the feed."""
    found = {
        "n": number,
        "time": 1772615800 + number / 100,
        "kind": kind,
        "session": session,
        "socket": 1,
        "exchange": None,
    }
    return {**found, "summary": text[:200], "text": text, **members}
