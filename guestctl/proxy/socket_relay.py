"""One WebSocket through the proxy: its upgrade, and what passes on it in both directions.

Knows: tornado's streams, the upgrade, frames as far as they pass (`frame_splitter`), how a connection ends. Must not
know: which host serves a path, any API.

Frames pass as the bytes that arrived. Only messages of the service that contain addresses of the target change.
Pings, pongs and close frames go from end to end, and so do resets. Each direction waits until the other side has taken
its bytes, so a slow reader slows the writer down and fills no memory.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from tornado.http1connection import HTTP1Connection, HTTP1ConnectionParameters
from tornado.httputil import (
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    HTTPOutputError,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream, StreamClosedError

from guestctl.core.errors import Failure
from guestctl.proxy import frame_splitter as frames
from guestctl.proxy.frame_splitter import FrameSplitter, WireFrame
from guestctl.proxy.service_streams import ServiceStream, reset, watch
from guestctl.transport.network import CONNECT_TIMEOUT
from guestctl.transport.server_frames import text_frame

if TYPE_CHECKING:
    from guestctl.proxy.faulty_socket import GuestPeer, SocketFaults
    from guestctl.proxy.http_exchange import ProxiedRequest
    from guestctl.proxy.target import ServiceAddress
    from guestctl.sandbox.events import SocketEvents

_READ = 64 << 10
#: Seconds for the guest's answer to a close frame that a fault has sent.
CLOSE_TIMEOUT = 5.0
#: Largest body of a refused upgrade.
_REFUSAL_LIMIT = 1 << 20


class SocketUpgrade(HTTPMessageDelegate):
    """The upgrade of one socket. `perform` runs before the client's request is regarded as read."""

    def __init__(
        self, request: ProxiedRequest, upstream: ServiceAddress, headers: HTTPHeaders, events: SocketEvents
    ) -> None:
        self._request = request
        self._upstream = upstream
        self._headers = headers
        self._events = events
        self._service: ServiceStream | None = None
        self._connection: HTTP1Connection | None = None
        self._status = 0
        self._answer = HTTPHeaders()
        self._reason = ""
        self._body = b""

    async def perform(self) -> tuple[IOStream, ServiceStream] | None:
        """Return both connections if the service accepts the upgrade; otherwise pass its refusal on."""
        events, request = self._events, self._request
        sent = request.outgoing(self._headers, self._upstream)
        if "Sec-Websocket-Extensions" in sent:  # compressed frames could not be read
            del sent["Sec-Websocket-Extensions"]
        sent["Connection"], sent["Upgrade"] = "Upgrade", "websocket"
        self._headers = sent
        events.connect(sent, None)
        try:
            stream = await request.proxy.connect(self._upstream)
        except Failure as failure:
            request.refuse_upgrade(failure)
            events.upgrade(502, dict(self._headers.items()), {}, failure.message.encode())
            return None
        parameters = HTTP1ConnectionParameters(max_body_size=_REFUSAL_LIMIT, no_keep_alive=True)
        self._connection = HTTP1Connection(stream, True, parameters)  # type: ignore[arg-type]
        try:
            self._connection.write_headers(RequestStartLine("GET", self._upstream.path, ""), sent)
            self._connection.finish()
            await asyncio.wait_for(self._connection.read_response(self), CONNECT_TIMEOUT)
        except (StreamClosedError, HTTPInputError, HTTPOutputError, asyncio.TimeoutError, TimeoutError):
            pass
        if self._status == 101 and self._service is not None:
            return await self._accept(self._service)
        broken = stream.broken
        stream.close()
        if self._status:
            await self._refuse()
        else:
            self._events.broke("the service ended the connection without an answer", sent=True)
            self._events.closed()
            _end(request.client.stream, broken=broken)
        return None

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
        if 100 <= start_line.code < 200 and start_line.code != 101:
            return
        self._status, self._reason, self._answer = start_line.code, start_line.reason, headers
        if start_line.code == 101 and self._connection is not None:
            self._service = self._connection.detach()  # type: ignore[assignment]

    def data_received(self, chunk: bytes) -> None:
        self._body += chunk

    def finish(self) -> None:
        """Do nothing: `perform` continues when the answer has been read."""

    def on_connection_close(self) -> None:
        """Do nothing: what has been read of a refusal is passed on."""

    async def _accept(self, service: ServiceStream) -> tuple[IOStream, ServiceStream]:
        self._events.upgrade(101, dict(self._headers.items()), dict(self._answer.items()))
        client = self._request.client
        sent = self._request.incoming(self._answer)
        sent["Upgrade"], sent["Connection"] = self._answer.get("Upgrade", "websocket"), "Upgrade"
        with suppress(StreamClosedError):
            await client.write_headers(ResponseStartLine("HTTP/1.1", 101, self._reason), sent)
        return client.detach(), service

    async def _refuse(self) -> None:
        self._events.upgrade(self._status, dict(self._headers.items()), dict(self._answer.items()), self._body)
        sent = self._request.incoming(self._answer)
        body = self._body
        sent["Content-Length"] = str(len(body))
        if self._status in (204, 304):
            body = b""
        client = self._request.client
        with suppress(StreamClosedError, HTTPOutputError):
            await client.write_headers(ResponseStartLine("HTTP/1.1", self._status, self._reason), sent, body)
            client.finish()


class SocketRelay:
    """An open socket. `run` returns when both connections have ended.

    `replaced` returns a text of the service with its addresses replaced.
    """

    def __init__(
        self,
        guest: IOStream,
        service: ServiceStream,
        events: SocketEvents,
        replaced: Callable[[str], str],
        faults: SocketFaults,
    ) -> None:
        self._guest = guest
        self._service = service
        self._events = events
        self._replaced = replaced
        self._faults = faults
        self._closed_by_fault = False

    async def run(self) -> None:
        """Pass frames until the connections end."""
        self._guest.set_nodelay(True)
        watch(self._guest)
        await asyncio.gather(self._from_guest(), self._from_service())
        self._events.closed()

    def stop(self) -> None:
        """Tell both ends that the proxy goes away, and end the connections."""
        self._write(self._guest, frames.close_frame(1001, "the proxy stops"))
        self._write(self._service, frames.close_frame(1001, "Going away", mask=os.urandom(4)))
        self._guest.close()
        self._service.close()

    async def _from_guest(self) -> None:
        await self._pass(self._guest, self._service, _Direction(self._out))
        if self._guest.error is not None:
            self._events.broke("the guest reset the connection", sent=False)
        else:
            self._events.broke("the guest ended the connection", sent=False)
        if self._faults.peer is not None:
            await self._faults.none_is_late()
        if self._guest.error is not None:
            self._service.reset()
        else:
            self._service.close()

    async def _from_service(self) -> None:
        await self._pass(self._service, self._guest, _Direction(self._in))
        broken = self._service.broken
        if self._faults.peer is not None and not broken:
            await self._faults.peer.has_room(0)
        if broken:
            self._events.broke("the service reset the connection", sent=True)
            reset(self._guest)
        else:
            self._events.broke("the service ended the connection", sent=True)
            self._guest.close()

    async def _pass(self, source: Any, sink: Any, direction: _Direction) -> None:
        """Pass bytes until the source ends, or the sink takes no more."""
        with suppress(StreamClosedError):
            while True:
                data = await source.read_bytes(_READ, partial=True)
                passed = direction.feed(data)
                if passed or self._faults.peer is not None:
                    await sink.write(passed)
                if self._faults.peer is not None and source is self._service:
                    await self._faults.peer.has_room()

    def _out(self, frame: WireFrame, text: str | None) -> bytes:
        """Return what the service gets at once for a frame or message of the guest."""
        self._report(frame, text, sent=False)
        if text is not None and self._faults.active:
            self._faults.from_guest(self._peer, text, partial(self._write, self._service, frame.raw))
            return b""
        return frame.raw

    def _in(self, frame: WireFrame, text: str | None) -> bytes:
        """Return what the guest gets at once for a frame or message of the service."""
        if self._faults.active:
            self._in_with_faults(frame, text)
            return b""
        self._report(frame, text, sent=True)
        if text is not None:
            new = self._replaced(text)
            if new != text:
                return _text_frame(new)
        return frame.raw

    def _in_with_faults(self, frame: WireFrame, text: str | None) -> None:
        peer = self._peer
        if text is not None:
            peer.send(text, self._faults.route_of_answer(text))
        elif frame.opcode == frames.CLOSE:
            peer.answer_close(partial(self._deliver_frame, frame))
        else:
            peer.pass_on(partial(self._deliver_frame, frame))

    @property
    def _peer(self) -> GuestPeer:
        return self._faults.attach(self._deliver, self)

    def _deliver(self, text: str) -> None:
        """Write a text to the guest."""
        self._events.frame_in(text)
        self._write(self._guest, _text_frame(self._replaced(text)))

    def _deliver_frame(self, frame: WireFrame) -> None:
        if not self._closed_by_fault:
            self._report(frame, None, sent=True)
            self._write(self._guest, frame.raw)

    def _report(self, frame: WireFrame, text: str | None, *, sent: bool) -> None:
        events = self._events
        if not events.observed and frame.opcode != frames.CLOSE:
            return
        if text is not None:
            events.frame_in(text) if sent else events.frame_out(text)
        elif frame.opcode == frames.BINARY and not sent:
            events.frame_out(frame.payload)
        elif frame.opcode == frames.PING:
            events.ping(sent=sent)
        elif frame.opcode == frames.PONG:
            events.pong(sent=sent)
        elif frame.opcode == frames.CLOSE:
            code, reason = frames.close_status(frame.payload)
            events.close(code, reason, sent=sent)

    # -- the guest's connection, as faults see it (see `sandbox.peer.RawConnection`)

    def is_closing(self) -> bool:
        return self._closed_by_fault or self._guest.closed()

    def write(self, data: bytes) -> None:
        self._write(self._guest, data)

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        """Send a close frame to the guest. Its answer goes to the service; without one, both connections end."""
        if not self._closed_by_fault:
            self._closed_by_fault = True
            self._events.close(code, reason or "", sent=True)
            self._write(self._guest, frames.close_frame(code, reason or ""))
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self.drop)

    def reset(self) -> None:
        """Break both connections: to the guest, and to the service, which would notice that, too."""
        self._events.broke("a fault", sent=True)
        reset(self._guest)
        self._service.reset()

    def drop(self) -> None:
        self._guest.close()

    @staticmethod
    def _write(stream: Any, data: bytes) -> None:
        with suppress(StreamClosedError):
            stream.write(data)


class _Direction:
    """Collects the frames of one direction to messages.

    `handle` gets a frame, or all frames of a message in one, with the text of a text message; it returns the bytes to
    pass on.
    """

    def __init__(self, handle: Callable[[WireFrame, str | None], bytes]) -> None:
        self._handle = handle
        self._splitter = FrameSplitter()
        self._raw: list[bytes] = []
        self._payload = bytearray()
        self._opcode: int | None = None

    def feed(self, data: bytes) -> bytes:
        """Return the bytes to pass on now."""
        passed: list[bytes] = []
        for frame in self._splitter.feed(data):
            opcode = frame.opcode
            if opcode is None or len(self._payload) > frames.MESSAGE_LIMIT:
                passed += [*self._take(), frame.raw]
            elif opcode >= frames.CLOSE:
                passed.append(self._handle(frame, None))
            elif frame.final and self._opcode is None:
                passed.append(self._whole(frame))
            else:
                self._collect(frame)
                if frame.final:
                    opcode, payload = self._opcode, bytes(self._payload)
                    passed.append(self._whole(WireFrame(opcode, True, payload, b"".join(self._take()))))
        return b"".join(passed) if len(passed) != 1 else passed[0]

    def _whole(self, frame: WireFrame) -> bytes:
        text = None
        if frame.opcode == frames.TEXT:
            with suppress(UnicodeDecodeError):  # the other end refuses it
                text = frame.payload.decode()
        return self._handle(frame, text)

    def _collect(self, frame: WireFrame) -> None:
        if self._opcode is None:
            self._opcode = frame.opcode
        self._raw.append(frame.raw)
        self._payload += frame.payload

    def _take(self) -> list[bytes]:
        raw, self._raw, self._opcode = self._raw, [], None
        self._payload.clear()
        return raw


def _text_frame(text: str) -> bytes:
    return text_frame(text.encode("utf-8", "surrogatepass"))


def _end(stream: IOStream | None, *, broken: bool) -> None:
    if stream is None or stream.closed():
        return
    if broken:
        reset(stream)
    else:
        stream.close()
