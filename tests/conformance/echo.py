"""An echo client on guestctl's reader and writer, and an echo server on the sandbox's engine.

Knows: where guestctl takes only short texts, and how to have it take all that RFC 6455 allows. Must
not know: who is at the other end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tornado.web import Application

from guestctl.core.clock import Deadline, SystemClock
from guestctl.core.errors import NetworkError, Unreadable
from guestctl.core.wire import Frame
from guestctl.sandbox.events import SocketEvents
from guestctl.sandbox.handler import GuestHandler, GuestSocket
from guestctl.sandbox.interfaces import Api, Peer, Route, ServerRequest, SocketRoute
from guestctl.sandbox.peer import RawConnection
from guestctl.sandbox.server import Sandbox
from guestctl.transport.frame_reader import Frames
from guestctl.transport.network import Network
from guestctl.transport.socket import Socket
from tests.transport.peers import BINARY, frame

#: More than the suite's largest message, and its most fragments.
LARGE = 1 << 26
MANY = 1 << 20
PATIENCE = 120.0
CLOCK = SystemClock()


class Binary(str):
    """A binary message as a text: each character is one byte."""

    @property
    def payload(self) -> bytes:
        return self.encode("latin-1")


class EchoSocket(Socket):
    """The client's connection without its limits: it accepts binary and large messages too."""

    def __init__(self, stream: Any, rest: bytes, **more: Any) -> None:
        super().__init__(stream, b"", **more)
        self._frames = Frames(binary=True, max_message=LARGE, max_fragments=MANY)
        self._frames.feed(rest)

    def _message(self, heard: str | bytes) -> Frame:
        return super()._message(Binary(heard, "latin-1") if isinstance(heard, bytes) else heard)

    def say(self, text: str) -> None:
        """Send a message back unchanged."""
        deadline = Deadline.after(CLOCK, PATIENCE)
        if isinstance(text, Binary):
            self._write(self._abnf.create_frame(text.payload, self._abnf.OPCODE_BINARY).format(), deadline)
        else:
            self.send(text, deadline=deadline)


def connect(url: str) -> EchoSocket:
    socket = EchoSocket.connect(
        url,
        headers={},
        network=Network(ca=None, environ={}),
        clock=CLOCK,
        deadline=Deadline.after(CLOCK, PATIENCE),
        user_agent="guestctl/conformance",
    )
    assert isinstance(socket, EchoSocket)
    return socket


def converse(url: str, *, echo: bool) -> list[str]:
    """Receive until the peer ends the connection, and send everything back if `echo`."""
    socket = connect(url)
    heard: list[str] = []
    try:
        while (frame := socket.receive(PATIENCE)) is not None:
            if echo:
                socket.say(frame.text)
            else:
                heard.append(frame.text)
    except (NetworkError, Unreadable):
        pass  # the peer judges how it ended
    finally:
        socket.close()
    return heard


class EchoSandbox(Sandbox):
    """The sandbox's engine with one API that echoes every message."""

    def __init__(self) -> None:
        super().__init__(apis=lambda *_: [_Echo()], frame_limit=LARGE, message_limit=LARGE)

    def _application(self) -> Application:
        return Application([(r".*", _EchoHandler, {"sandbox": self})])


class _EchoGuestSocket(GuestSocket):
    """A guest's socket that echoes binary messages too."""

    def __init__(
        self,
        sandbox: Any,
        api: Api,
        request: ServerRequest,
        connection: RawConnection,
        events: SocketEvents | None = None,
    ) -> None:
        self._connection = connection
        super().__init__(sandbox, api, request, connection, events)

    def receive(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            self._connection.write(frame(BINARY, message))
        else:
            super().receive(message)


class _EchoHandler(GuestHandler):
    """A handler without limits, like the client above."""

    unsent_limit = LARGE
    socket_class = _EchoGuestSocket


class _Echo:
    name = "echo"
    agent_files = None

    def routes(self) -> Sequence[Route]:
        return ()

    def route_of(self, text: str) -> str | None:
        return None

    def socket_routes(self) -> Sequence[SocketRoute]:
        return (SocketRoute("/", lambda request: None),)

    def opened(self, peer: Peer) -> None:
        pass

    def received(self, peer: Peer, text: str) -> None:
        peer.send(text)

    def closed(self, peer: Peer, clean: bool) -> None:
        pass

    def message_stored(self, *_: Any) -> None:
        raise AssertionError("nothing is stored here")
