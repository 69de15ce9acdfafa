"""The relay over gRPC-Web: `guestctl.relay.v1.ChatStream` on the port of the web server, for browsers.

Knows: the frames and trailers of gRPC-Web, its two content types, deadlines. Must not know: grpcio, tornado, what the
calls do.

The calls need the package protobuf of the extra `guestctl[grpc]`, but not grpcio. It is imported for the first call
with a valid key. Without it, that call ends with UNIMPLEMENTED and names the extra.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from urllib.parse import quote

from guestctl.core.clock import Clock
from guestctl.relay.call_status import SERVICE, CallEnded, Status, after_last, bearer
from guestctl.relay.relay import KEY_WANTED, Relay
from guestctl.relay.web_reader import Pump, WebReader
from guestctl.transport.web_routes import (
    JSON,
    WebRefusal,
    WebReply,
    WebRequest,
    WebRoute,
    error_body,
)
from guestctl.transport.web_server import WebServer

if TYPE_CHECKING:
    from guestctl.relay.chat_service import ChatService

#: Request headers that the official client of browsers sends.
PAGE_HEADERS = ("X-Grpc-Web", "X-User-Agent", "Grpc-Timeout")
#: Content type of a request -> that of the answer. `-text` means that the frames are written in base64.
_TYPES = {
    "application/grpc-web": "application/grpc-web+proto",
    "application/grpc-web+proto": "application/grpc-web+proto",
    "application/grpc-web-text": "application/grpc-web-text+proto",
    "application/grpc-web-text+proto": "application/grpc-web-text+proto",
}
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
#: What a `grpc-message` contains as it is: all printable ASCII except the percent sign.
_PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


class GrpcWebApi:
    """The routes. `timeout` is how long Send and History wait for the service, in seconds; None: without a limit."""

    def __init__(self, relay: Relay, clock: Clock, *, timeout: float | None) -> None:
        self._relay = relay
        self._clock = clock
        self._timeout = timeout
        self._service: ChatService | None = None
        self._server: WebServer
        self._pump: Pump

    def routes(self) -> list[WebRoute]:
        """Return the routes of the calls."""
        return [
            WebRoute("POST", f"/{SERVICE}/Subscribe", self._subscribe),
            WebRoute("POST", f"/{SERVICE}/Send", self._send),
            WebRoute("POST", f"/{SERVICE}/History", self._history),
        ]

    def attach(self, server: WebServer) -> None:
        """Use this server, which has not started yet, for the routes."""
        self._server, self._pump = server, Pump(server)

    async def _subscribe(self, request: WebRequest) -> WebReply | None:
        content_type, write = _answering(request)
        try:
            key, service = self._admitted(request)
            seconds = _deadline(request)
            subscription, encode = service.subscribe(key, _message(request), self._pump.wake, "grpc-web")
        except CallEnded as ended:
            return WebReply(200, write(_trailers(ended)), {"Content-Type": content_type})
        stream = request.stream(content_type)

        def end(data: bytes, last: str) -> None:
            stream.end(data + write(_trailers(after_last(last))))

        def expire() -> None:
            if subscription.ended is None and not stream.closed:
                subscription.close()
                stream.end(write(_trailers(_too_late())))

        if seconds is not None:
            self._server.call_later(seconds, expire)
        self._pump.add(WebReader(self._server, stream, subscription, lambda entry: write(_frame(encode(entry))), end))
        return None

    async def _send(self, request: WebRequest) -> WebReply:
        async def call(key: str, service: ChatService) -> list[bytes]:
            return [await service.send(key, _message(request))]

        return await self._call(request, call)

    async def _history(self, request: WebRequest) -> WebReply:
        async def call(key: str, service: ChatService) -> list[bytes]:
            return await service.history(key, _message(request))

        return await self._call(request, call)

    async def _call(self, request: WebRequest, call: Callable[[str, ChatService], Awaitable[list[bytes]]]) -> WebReply:
        """Return the complete answer to a call: its messages and its status."""
        content_type, write = _answering(request)
        messages: list[bytes] = []
        try:
            key, service = self._admitted(request)
            seconds = _deadline(request)
            messages = await asyncio.wait_for(call(key, service), seconds)
            ended = CallEnded(Status.OK)
        except CallEnded as error:
            ended = error
        except (TimeoutError, asyncio.TimeoutError):
            ended = _too_late()
        body = write(b"".join([_frame(message) for message in messages]) + _trailers(ended))
        return WebReply(200, body, {"Content-Type": content_type})

    def _admitted(self, request: WebRequest) -> tuple[str, ChatService]:
        """Return the key of a call that has a valid one, and the service."""
        key = bearer(request.headers.get("Authorization", ""))
        if not self._relay.permits(key):
            raise CallEnded(
                Status.UNAUTHENTICATED,
                KEY_WANTED,
            )
        if self._service is None:
            try:
                from guestctl.relay.chat_service import ChatService
            except ImportError:
                raise CallEnded(Status.UNIMPLEMENTED, "the relay has no gRPC: install guestctl[grpc] for it") from None
            self._service = ChatService(self._relay, self._clock, timeout=self._timeout)
        return key, self._service


def _answering(request: WebRequest) -> tuple[str, Callable[[bytes], bytes]]:
    """Return the content type of an answer, and the function that writes its frames. Raises WebRefusal."""
    given = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if given not in _TYPES:
        body = error_body(f"the content type is not one of {', '.join(_TYPES)}")
        raise WebRefusal(WebReply(415, body, {"Content-Type": JSON}))
    return _TYPES[given], base64.b64encode if "-text" in given else bytes


def _message(request: WebRequest) -> bytes:
    """Return the one message of a request."""
    body = request.body
    if "-text" in request.headers.get("Content-Type", ""):
        try:
            # Each chunk of a text is padded on its own.
            body = b"".join(base64.b64decode(part, validate=True) for part in re.findall(rb"[^=]+=*", body))
        except binascii.Error:
            raise CallEnded(Status.INVALID_ARGUMENT, "the request is not base64") from None
    if len(body) < 5 or body[0] != 0 or int.from_bytes(body[1:5], "big") != len(body) - 5:
        raise CallEnded(Status.INVALID_ARGUMENT, "the request is not one frame with an uncompressed message")
    return body[5:]


def _frame(message: bytes) -> bytes:
    return b"\0%s%s" % (len(message).to_bytes(4, "big"), message)


def _trailers(ended: CallEnded) -> bytes:
    """Return the frame with the trailers, which is the last of an answer."""
    lines = [f"grpc-status: {int(ended.status)}"]
    if ended.message:
        lines.append(f"grpc-message: {quote(ended.message, safe=_PRINTABLE)}")
    if ended.details is not None:
        lines.append(f"grpc-status-details-bin: {base64.b64encode(ended.details).decode().rstrip('=')}")
    block = "".join(f"{line}\r\n" for line in lines).encode()
    return b"\x80%s%s" % (len(block).to_bytes(4, "big"), block)


def _too_late() -> CallEnded:
    return CallEnded(Status.DEADLINE_EXCEEDED, "the deadline of the call has passed")


def _deadline(request: WebRequest) -> float | None:
    """Return the seconds that a call may take, None without a limit."""
    text = request.headers.get("Grpc-Timeout")
    if text is None:
        return None
    found = _TIMEOUT.fullmatch(text)
    if found is None:
        raise CallEnded(Status.INVALID_ARGUMENT, "the header grpc-timeout is not a time")
    return int(found[1]) * _UNITS[found[2]]
