"""`relay serve` and `relay key`: one connection to the service, many readers.

Knows: the options, what is printed when the relay is ready, signals. Must not know: how events reach readers.
"""

from __future__ import annotations

import re
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from guestctl.cli.invocation import Invocation
from guestctl.cli.options import command, session_name
from guestctl.cli.parameters import CommandOption
from guestctl.core.errors import UsageError
from guestctl.core.stop_signals import exit_code_of, stop_signals

if TYPE_CHECKING:
    import ssl

    from guestctl.client import Client
    from guestctl.core.waker import Waker
    from guestctl.relay.grpc_server import GrpcServer
    from guestctl.relay.metrics import Metrics
    from guestctl.relay.publish import Publisher
    from guestctl.relay.relay import Relay, RelaySession
    from guestctl.transport.network import Observer
    from guestctl.transport.web_server import WebServer


#: Files that the process needs for itself, and for each session; the most that it asks for.
_OWN_FILES, _SESSION_FILES, _MOST_FILES = 64, 16, 1 << 20
_GRPC_HINT = "install it: `pip install 'guestctl[grpc]'`"
#: Seconds that the last events may take to Redis when the relay stops.
LAST_EVENTS = 2.0


@command(
    "guestctl relay serve -s cart --http 127.0.0.1:8787",
    "guestctl relay serve -s cart --http 127.0.0.1:0 -o json",
    needs="profile",
)
def serve(
    run: Invocation,
    session: Annotated[
        list[str] | None,
        CommandOption(
            *("-s", "--session"),
            metavar="NAME",
            help="stored session; repeat it for several (default: the current one) [GUESTCTL_SESSION]",
            completes="session",
        ),
    ] = None,
    http: Annotated[
        str, CommandOption("--http", metavar="HOST:PORT", help="address to listen on; port 0 chooses a free one")
    ] = "127.0.0.1:8787",
    grpc: Annotated[
        str | None,
        CommandOption("--grpc", metavar="HOST:PORT", help="address to serve gRPC on (needs guestctl[grpc])"),
    ] = None,
    retain: Annotated[
        int,
        CommandOption(
            "--retain", metavar="N", min=1, help="events that the log keeps, not counting typing and connection"
        ),
    ] = 10_000,
    readers: Annotated[
        int | None,
        CommandOption(
            "--readers", metavar="N", min=1, help="readers to have room for (default: what the system allows)"
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None, CommandOption("--tls-cert", metavar="FILE", help="PEM file with the certificate and its chain")
    ] = None,
    tls_key: Annotated[
        Path | None, CommandOption("--tls-key", metavar="FILE", help="PEM file with the key of --tls-cert")
    ] = None,
    cors: Annotated[
        list[str] | None,
        CommandOption("--cors", metavar="ORIGIN", help="let web pages of this origin use the relay; may be repeated"),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        CommandOption("--allow-host", metavar="NAME", help="another host name of this machine; may be repeated"),
    ] = None,
    publish: Annotated[
        str | None,
        CommandOption(
            "--publish",
            metavar="URL",
            help="also append every event to a Redis stream: redis://HOST[:PORT]/STREAM [GUESTCTL_REDIS_PASSWORD]",
        ),
    ] = None,
    strict: Annotated[
        bool, CommandOption("--strict", help="refuse a reader that asks for events that the log no longer has")
    ] = False,
) -> int:
    """Hold one connection to the service, and pass its events to many readers.

    Readers get the records of `listen -o jsonl`: as Server-Sent Events or JSON Lines from /v1/events, or on a WebSocket
    at /v1/ws. Each has an id, and a reader that returns continues after the last id that it received. POST /v1/messages
    sends a message over the relay's own connection. `guestctl relay key` prints the key that readers need. --grpc adds
    a gRPC server; web pages can use gRPC-Web at the address of --http.

    Every event is stored before a reader gets it. What was missed while the relay was down is read from history, or
    reported as a gap. With --publish, every event is also appended to a Redis stream under its id, for consumer groups
    on other machines; {session} in STREAM stands for the name of the session. The relay stops at SIGTERM with exit code
    0, and when every session has ended. With several sessions, each request names one: session=NAME.
    """
    from guestctl.relay import grpc_web
    from guestctl.relay.http_api import PAGE_HEADERS, HttpApi
    from guestctl.relay.metrics import Metrics
    from guestctl.relay.relay import Relay
    from guestctl.transport.hosts import is_loopback
    from guestctl.transport.web_server import WebServer

    host, port = _address("--http", http)
    grpc_address = None if grpc is None else _address("--grpc", grpc)
    grpc_server_class = None if grpc is None else _grpc_server_class()
    tls = _tls(tls_cert, tls_key)
    origins = [_origin(text) for text in cors or ()]
    named = [session_name("--session", name) for name in session or ()]
    names: list[str | None] = [*named] or [run.session_name]
    capacity = _capacity(readers, len(names))
    for option, address in (("--http", http), ("--grpc", grpc)):
        if tls is None and address is not None and not is_loopback(_address(option, address)[0]):
            run.out.warning(f"{option} {address} has no TLS: anyone on the network path could read keys and messages")

    def problem(error: BaseException) -> None:
        run.out.warning(f"internal error: {type(error).__name__}")

    with ExitStack() as stack:
        stopper = stack.enter_context(stop_signals())
        sessions: list[RelaySession] = []
        for name in dict.fromkeys(names):
            sessions.append(_session(run, name, retain=retain, strict=strict))
            stack.callback(sessions[-1].close)
            if sessions[-1].log.damaged is not None:
                run.out.warning(f"the log was damaged and set aside as {sessions[-1].log.damaged}; a new one begins")
        relay = Relay(sessions, capacity=capacity)
        metrics = Metrics(relay)
        publishers = [] if publish is None else _publishers(run, publish, sessions, metrics, retain)
        for publisher in publishers:
            stack.callback(publisher.stop, LAST_EVENTS)
        api = HttpApi(relay, metrics, timeout=run.options.timeout)
        web = grpc_web.GrpcWebApi(relay, run.clock, timeout=run.options.timeout)
        server = WebServer(
            [*api.routes(), *web.routes()],
            host=host,
            port=port,
            tls=tls,
            allowed_hosts=allow_host or (),
            origins=origins,
            preflight_headers=(*PAGE_HEADERS, *grpc_web.PAGE_HEADERS),
            problem=problem,
        )
        api.attach(server)
        web.attach(server)
        with _cannot_listen("--http", host, port):
            server.start()
        stack.callback(server.stop)
        api.started()
        grpc_server: GrpcServer | None = None
        if grpc_address is not None and grpc_server_class is not None:
            from guestctl.relay.chat_service import ChatService

            service = ChatService(relay, run.clock, timeout=run.options.timeout)
            pem = None if tls_key is None or tls_cert is None else (tls_key.read_bytes(), tls_cert.read_bytes())
            host, port = grpc_address
            grpc_server = grpc_server_class(service, host=host, port=port, tls=pem, problem=problem)
            with _cannot_listen("--grpc", *grpc_address):
                grpc_server.start()
            stack.callback(grpc_server.stop)
        ended = stack.enter_context(_ended(relay))
        relay.start()
        for publisher in publishers:
            publisher.start()
        _print_ready(run, relay, server, grpc_server)
        readable, _, _ = select.select([stopper, ended], [], [])
        relay.stop()
        if grpc_server is not None:
            grpc_server.begin_to_stop()  # while the web server stops, too
        if stopper in readable:
            return exit_code_of(stopper.recv(1)[0])
        failure = relay.failure
        assert failure is not None
        raise failure


@command("guestctl relay key -s cart", "guestctl relay key -s cart --send --rotate", connects=False)
def key(
    run: Invocation,
    send: Annotated[bool, CommandOption("--send", help="print the key that may also send")] = False,
    rotate: Annotated[bool, CommandOption("--rotate", help="make a new key; the old one is no longer valid")] = False,
) -> None:
    """Print the key that readers of a session's relay need.

    Without --send, it is the key that may only read. The key is made when it is first needed, and stored in a file
    that only you can read. A running relay accepts a new key at once; readers that are connected stay.
    """
    from guestctl.relay.access import AccessKeys, relay_files
    from guestctl.storage.state import State

    session = run.client.session()
    keys = AccessKeys(relay_files(State.directory(run.world.environ), run.client.scope, session.name))
    found = keys.key("send" if send else "read", rotate=rotate).reveal()
    if run.out.mode in {"json", "jsonl", "yaml"}:
        run.out.one({"kind": "relay-key", "session": session.name, "right": "send" if send else "read", "key": found})
    else:
        run.out.verbatim(found + "\n")


def _publishers(
    run: Invocation, address: str, sessions: list[RelaySession], metrics: Metrics, retain: int
) -> list[Publisher]:
    """Return what appends the events of each session to its Redis stream, with its metrics."""
    from guestctl.relay.publish import Publisher, PublisherMetrics, RedisStream

    made = [
        Publisher(
            session.hub,
            RedisStream.read(address, run.world.environ, session.name, only=len(sessions) == 1),
            retain=retain,
            notice=run.out.warning,
        )
        for session in sessions
    ]
    metrics.registry.register(PublisherMetrics(made))
    return made


def _session(run: Invocation, name: str | None, *, retain: int, strict: bool) -> RelaySession:
    """Open the relay of one session. Its clients belong to threads of their own."""
    from guestctl.relay.relay import RelaySession
    from guestctl.storage.state import State
    from guestctl.transport.network import Network

    def report(text: str) -> None:
        # With JSON output, notices wait for the next data. The relay prints none after its first object.
        run.out.notice(run.masked(text))
        run.out.print_held()

    def open_client(waker: Waker | None, observer: Observer | None) -> Client:
        profile = run.resolved.profile
        network = Network(ca=profile.ca, environ=run.world.environ, cleartext=profile.cleartext, waker=waker)
        return run.open_client(name, observer=_both(observer, run.watcher), network=network, notice=report)

    directory = State.directory(run.world.environ)
    return RelaySession(
        directory, open_client, run.clock, retain=retain, strict=strict, masked=run.masked, notice=report
    )


def _both(one: Observer | None, other: Observer | None) -> Observer | None:
    if one is None or other is None:
        return one or other

    def observe(kind: str, data: Any) -> None:
        one(kind, data)
        other(kind, data)

    return observe


@contextmanager
def _ended(relay: Relay) -> Iterator[socket.socket]:
    """Yield a socket that becomes readable when every session has ended."""
    reader, writer = socket.socketpair()
    with reader, writer:

        def note() -> None:
            if relay.failure is not None:
                with suppress(OSError):  # the relay stops already
                    writer.send(b"\0")

        for session in relay.sessions:
            session.upstream.on_end(note)
        yield reader


def _address(option: str, text: str) -> tuple[str, int]:
    """Return the host and the port of `HOST:PORT`. Raises UsageError."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise UsageError(f'{option}: "{text}" is not an address', hint="give a host and a port: 127.0.0.1:8787")
    return host, int(port)


def _origin(text: str) -> str:
    """Return an origin as browsers send it. Raises UsageError."""
    parts = urlsplit(text)
    if (
        parts.scheme not in {"http", "https"}
        or not parts.netloc
        or text.rstrip("/") != f"{parts.scheme}://{parts.netloc}"
    ):
        raise UsageError(f'--cors: "{text}" is not an origin', hint="give a scheme and a host: https://shop.example")
    return f"{parts.scheme}://{parts.netloc}".lower()


def _tls(certificate: Path | None, private_key: Path | None) -> ssl.SSLContext | None:
    """Return the TLS context of a certificate and its key, None without both. Raises UsageError."""
    import ssl

    if certificate is None and private_key is None:
        return None
    if certificate is None or private_key is None:
        raise UsageError("--tls-cert and --tls-key belong together", hint="give both files")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for option, path in (("--tls-cert", certificate), ("--tls-key", private_key)):
        try:
            path.open("rb").close()
        except OSError as error:
            raise UsageError(f"{option} {path}: {error.strerror or error}", hint="name a readable PEM file") from error
    try:
        # The password keeps OpenSSL from asking for one at the terminal.
        context.load_cert_chain(certificate, private_key, password="")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--tls-cert {certificate}: not a certificate with the key in {private_key}",
            hint="both must be PEM files that belong together, and the key may have no password",
        ) from error
    return context


def _capacity(wanted: int | None, sessions: int) -> int:
    """Raise the limit of open files, and return the number of readers that it allows. Raises UsageError."""
    try:
        import resource
    except ImportError:  # Windows
        return wanted or 500
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
            soft = allowed
    room = (_MOST_FILES if soft == resource.RLIM_INFINITY else soft) - _OWN_FILES - _SESSION_FILES * sessions
    if wanted is not None and wanted > room:
        raise UsageError(
            f"--readers {wanted}: this process may open {soft} files, which is enough for {max(0, room)} readers",
            hint="raise the hard limit of open files (ulimit -Hn, LimitNOFILE= of systemd), or ask for fewer readers",
        )
    return room if wanted is None else wanted


@contextmanager
def _cannot_listen(option: str, host: str, port: int) -> Iterator[None]:
    """Turn an address that cannot be used into a UsageError."""
    try:
        yield
    except OSError as error:
        reason = re.sub(r"^\[Errno .*?\] | \(while attempting .*$", "", error.strerror or str(error))
        raise UsageError(
            f"cannot listen on {host}:{port}: {reason}", hint=f"choose another {option}; port 0 chooses a free one"
        ) from error


def _grpc_server_class() -> type[GrpcServer]:
    """Import the gRPC server. Raises UsageError if its packages are missing or too old."""
    try:
        from guestctl.relay.grpc_server import GrpcServer
    except ImportError as error:
        missing = f'there is no module "{error.name}"' if error.name else str(error)
        raise UsageError(f"--grpc needs the extra guestctl[grpc]: {missing}", hint=_GRPC_HINT) from error
    except Exception as error:  # the packages compare the versions of the generated code and of themselves
        raise UsageError(f"--grpc cannot use the installed packages: {error}", hint=_GRPC_HINT) from error
    return GrpcServer


def _print_ready(run: Invocation, relay: Relay, server: WebServer, grpc_server: GrpcServer | None) -> None:
    from guestctl.relay.call_status import SERVICE

    names = [session.name for session in relay.sessions]
    events, web_socket = f"{server.url}/v1/events", f"ws{server.url[4:]}/v1/ws"
    grpc = None if grpc_server is None else grpc_server.address
    if run.out.mode in {"json", "jsonl", "yaml"}:
        ready = {"kind": "relay", "url": server.url, "events": events, "socket": web_socket, "grpc": grpc}
        run.out.one({**ready, "sessions": names})
        return
    keys = " and ".join(f"guestctl relay key -s {name}" for name in names)
    grpc_line = "" if grpc is None else f"  grpc     {grpc}  {SERVICE}  (gRPC-Web on the HTTP port)\n"
    run.out.verbatim(
        "relay ready\n"
        f"  events   {events}   (SSE; JSON Lines with Accept: application/x-ndjson)\n"
        f"  socket   {web_socket}\n"
        f"{grpc_line}"
        f"  key      printed by: {keys}\n"
    )
