"""The relay over gRPC: `guestctl.relay.v1.ChatStream`, with health checking and reflection.

Knows: grpcio, metadata, trailers, TLS, keepalive, an orderly stop. Must not know: what the calls do, events, keys.

The server runs in an event loop of its own, in one thread: a stream is a task there, not a thread. This module is
imported only for `--grpc`, and needs the extra `guestctl[grpc]`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, NoReturn

# The C core of grpcio would write its own diagnostics to stderr. It reads this variable when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from guestctl.relay.call_status import SERVICE, CallEnded, Status, after_last, bearer
from guestctl.relay.chat_service import ChatService
from guestctl.relay.hub import Subscription
from guestctl.transport.hosts import authority
from guestctl.transport.web_routes import BODY_LIMIT, LAST_BYTES

#: Entries that a stream takes at once. A stream that is cut has first sent all of them.
PAGE = 32
#: Streams and calls at once, of all connections, and of one.
CALLS, CALLS_OF_ONE = 2_000, 1_000
#: Seconds between two pings on a connection, until a ping without an answer ends it, and between two looks at the
#: state that health checking reports.
PING_INTERVAL, PING_TIMEOUT, HEALTH_INTERVAL = 30, 10, 1.0

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a second relay on the same port fails
    ("grpc.max_receive_message_length", BODY_LIMIT),
    ("grpc.max_concurrent_streams", CALLS_OF_ONE),
    ("grpc.keepalive_time_ms", PING_INTERVAL * 1000),
    ("grpc.keepalive_timeout_ms", PING_TIMEOUT * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A client may ping as often as is usual; gRPC would close its connection after a few.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)


class _Pump:
    """Wakes the streams of a server. `wake` may be called from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.streams: set[_Stream] = set()
        self._loop = loop
        self._awake = False

    def wake(self) -> None:
        """Wake all streams soon. Many calls until then count as one."""
        if not self._awake:
            self._awake = True
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._run)

    def _run(self) -> None:
        self._awake = False
        for stream in tuple(self.streams):
            stream.wake()


class _Stream:
    """One call of Subscribe, in its task."""

    def __init__(self) -> None:
        self.subscription: Subscription
        self._something = asyncio.Event()
        self._task = asyncio.current_task()
        self._limit: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        """Look for new entries. A stream that has fallen behind gets some seconds for what it has taken."""
        self._something.set()
        if self.subscription.is_slow and self._limit is None and self._task is not None:
            self._limit = asyncio.get_running_loop().call_later(LAST_BYTES, self._task.cancel)

    async def run(self, write: Callable[[bytes], Any], encode: Callable[[Any], bytes]) -> str:
        """Write entries until the last one, and return its kind."""
        reader = self.subscription
        try:
            while reader.ended is None:
                self._something.clear()
                entries = reader.take(PAGE)
                for entry in entries:
                    await write(encode(entry))
                if not entries:
                    await self._something.wait()
        except asyncio.CancelledError:
            if not reader.is_slow or self._limit is None or self._limit.when() > asyncio.get_running_loop().time():
                raise  # the reader has gone
            return "slow"
        finally:
            if self._limit is not None:
                self._limit.cancel()
        return reader.ended


class GrpcServer:
    """One port. `port` is the actual one after `start`.

    `tls` has the PEM texts of the private key and of the certificate chain, None for a server without TLS. `problem` is
    called with each exception that nobody expected.
    """

    def __init__(
        self,
        service: ChatService,
        *,
        host: str,
        port: int,
        tls: tuple[bytes, bytes] | None = None,
        problem: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        self.host = host
        self.port = port
        self._service = service
        self._tls = tls
        self._problem = problem
        self._pump: _Pump
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event
        self._thread = threading.Thread(target=self._run, name="gRPC server", daemon=True)
        self._started: Future[None] = Future()

    @property
    def address(self) -> str:
        """The host and the port for clients. A wildcard address is shown as loopback."""
        return authority("127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host, self.port)

    def start(self) -> None:
        """Start to serve, and return when the port accepts connections. Raises OSError."""
        self._thread.start()
        self._started.result()

    def begin_to_stop(self) -> None:
        """End every call soon. Streams have some seconds for their last entry."""
        if self._loop is not None:
            with suppress(RuntimeError):  # it has stopped
                self._loop.call_soon_threadsafe(self._stopping.set)

    def stop(self) -> None:
        """Stop, and return when every connection is closed."""
        self.begin_to_stop()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._started.done():
                self._problem(error)
            else:
                self._started.set_exception(error)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        self._stopping, self._pump = asyncio.Event(), _Pump(loop)
        server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=CALLS)
        handlers = {
            "Subscribe": grpc.unary_stream_rpc_method_handler(self._subscribe),
            "Send": grpc.unary_unary_rpc_method_handler(self._send),
            "History": grpc.unary_stream_rpc_method_handler(self._history),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        checked = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(checked, server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        self.port = self._bind(server)
        await server.start()
        self._loop = loop
        self._started.set_result(None)
        watching = asyncio.create_task(self._report_health(checked))
        await self._stopping.wait()
        watching.cancel()
        await checked.enter_graceful_shutdown()
        await self._last_entries()
        await server.stop(0.2)  # for the status after the last entry; streams of health checks do not end by themselves
        if rest := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(rest, timeout=1)  # otherwise gRPC would print that they were cancelled

    def _bind(self, server: Any) -> int:
        address = authority(self.host, self.port)
        try:
            if self._tls is None:
                return int(server.add_insecure_port(address))
            return int(server.add_secure_port(address, grpc.ssl_server_credentials([self._tls])))
        except RuntimeError as error:
            # gRPC does not say why. The system does.
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            socket.create_server((self.host, self.port), family=family).close()
            raise OSError("the certificate or its key cannot be used" if self._tls else "no reason given") from error

    async def _last_entries(self) -> None:
        """Wait for the streams, which the end of their sessions ends, but not for those that nobody reads."""
        loop = asyncio.get_running_loop()
        until = loop.time() + LAST_BYTES
        while self._pump.streams and loop.time() < until:
            await asyncio.sleep(0.005)

    async def _report_health(self, checked: Any) -> None:
        """Report whether every session is attached, as `/readyz` does. The process itself is the service ''."""
        serving = health_pb2.HealthCheckResponse.ServingStatus
        while True:
            ready = self._service.relay.ready
            await checked.set(SERVICE, serving.Value("SERVING" if ready else "NOT_SERVING"))
            await asyncio.sleep(HEALTH_INTERVAL)

    # --- the calls ---

    async def _subscribe(self, request: bytes, context: Any) -> None:
        stream = _Stream()
        try:
            stream.subscription, encode = self._service.subscribe(_key(context), request, self._pump.wake, "grpc")
        except CallEnded as ended:
            await _end(context, ended)
        self._pump.streams.add(stream)
        try:
            # The head tells the client that it is subscribed, before the first event.
            await context.send_initial_metadata(())
            last = after_last(await stream.run(context.write, encode))
            if last.status is not Status.OK:
                await _end(context, last)
        finally:
            self._pump.streams.discard(stream)
            stream.subscription.close()

    async def _send(self, request: bytes, context: Any) -> bytes:
        try:
            return await self._service.send(_key(context), request)
        except CallEnded as ended:
            await _end(context, ended)

    async def _history(self, request: bytes, context: Any) -> None:
        try:
            messages = await self._service.history(_key(context), request)
        except CallEnded as ended:
            await _end(context, ended)
        for message in messages:
            await context.write(message)


def _key(context: Any) -> str:
    for name, value in context.invocation_metadata():
        if name == "authorization":
            return bearer(str(value))
    return ""


async def _end(context: Any, ended: CallEnded) -> NoReturn:
    """End a call with a status, and its details. Raises what `abort` raises."""
    trailers = () if ended.details is None else (("grpc-status-details-bin", ended.details),)
    await context.abort(_CODES[ended.status], ended.message, trailers)
    raise AssertionError("unreachable")
