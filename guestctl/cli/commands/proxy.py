"""`proxy`: a recording reverse proxy in front of a deployment or a sandbox.

Knows: the options, what is printed when the proxy is ready, signals. Must not know: how requests and frames pass.
"""

from __future__ import annotations

import re
import select
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from guestctl.cli.commands.sandbox import Faults
from guestctl.cli.invocation import Invocation
from guestctl.cli.options import NO_TIME_LIMIT, command
from guestctl.cli.parameters import CommandOption
from guestctl.core.errors import UsageError
from guestctl.core.stop_signals import exit_code_of, stop_signals

if TYPE_CHECKING:
    from guestctl.inspector.routes import Inspector
    from guestctl.proxy.proxy_server import RecordingProxy
    from guestctl.proxy.target import Target
    from guestctl.transport.network import Network


@command(
    "guestctl proxy --to staging --trace widget.trace",
    "guestctl proxy --to sandbox --port 4010 --tls -o json",
    needs="nothing",
    timeout=None,
    refuses=NO_TIME_LIMIT,
)
def proxy(
    run: Invocation,
    to: Annotated[
        str | None,
        CommandOption(
            "--to",
            metavar="PROFILE|URL",
            help="the service: a profile or an address (default: the profile of -p)",
            completes="profile",
        ),
    ] = None,
    port: Annotated[
        int, CommandOption("--port", metavar="N", min=0, max=65535, help="port to listen on; 0 chooses a free one")
    ] = 0,
    tls: Annotated[bool, CommandOption("--tls", help="serve https and wss with a temporary CA")] = False,
    origin: Annotated[
        str | None,
        CommandOption("--origin", metavar="URL", help="Origin to send to the service (default: the client's)"),
    ] = None,
    fault: Faults = None,
    ui: Annotated[
        bool, CommandOption("--ui", help="serve a page for the browser: live traffic, switches for faults")
    ] = False,
) -> int:
    """Pass everything between guest clients and a service, and record it, until Ctrl-C.

    Any client of any of the seven APIs works through it: a widget in a browser, the vendor's SDK, guestctl,
    scripts. The proxy listens on 127.0.0.1 and reaches only hosts of the target. It replaces the addresses in
    answers, so that clients stay on it; everything else passes unchanged. -v prints requests and frames, -vv also
    bodies, and --trace FILE records them for `guestctl replay` and `guestctl trace export`, with secrets masked.
    The text that it prints shows how guestctl uses it. A service that cannot be reached is answered with 502 and
    the reason. --fault injects the faults of the sandbox, except `lag`, between the client and the service.
    """
    from guestctl.cli.commands.traffic_log import TrafficLog
    from guestctl.proxy.proxy_server import RecordingProxy

    faults = _faults(fault or [])
    sent_origin = None if origin is None else _origin(origin)
    target, network, profile = _target(run, to)
    if port and _is_own(target, port):
        raise UsageError(f"--port {port}: the target itself has this address", hint="choose another --port")
    log = TrafficLog(run, "proxy")
    with ExitStack() as stack:
        stopper = stack.enter_context(stop_signals())
        context, ca = stack.enter_context(_certificates(run)) if tls else (None, None)
        proxy = RecordingProxy(
            target,
            network,
            clock=run.clock,
            port=port,
            origin=sent_origin,
            tls=context,
            observer=log.observer,
            faults=faults,
        )
        inspector = _inspector(run, proxy) if ui else None
        with _cannot_listen(port):
            proxy.start()
        stack.callback(proxy.stop)
        _print_ready(run, proxy, profile, ca, None if inspector is None else inspector.address(proxy.url))
        select.select([stopper], [], [])
        code = exit_code_of(stopper.recv(1)[0])
    return log.exit_code(code)


def _target(run: Invocation, to: str | None) -> tuple[Target, Network, str | None]:
    """Return the target, the connections to it, and the name of its profile. Raises UsageError."""
    from guestctl.proxy.target import Target
    from guestctl.transport.network import Network

    environ = run.world.environ
    if to is not None and "://" in to:
        target, name = Target.of_url(to), None
        network = Network(ca=environ.get("GUESTCTL_TLS_CA") or None, environ=environ)
    else:
        profile = run.resolve_as_written(to).profile
        target, name = Target(profile), profile.name
        network = Network(ca=profile.ca, environ=environ, cleartext=profile.cleartext)
    network.ssl_context()  # files that cannot be read are reported now
    for base in target.bases:
        network.permit(base)
    return target, network, name


def _faults(specs: list[str]) -> list[str]:
    """Return the faults if the proxy can inject them all. Raises UsageError."""
    from guestctl.proxy.proxy_server import check_fault
    from guestctl.sandbox.faults import FaultError

    for spec in specs:
        try:
            check_fault(spec)
        except FaultError as error:
            raise UsageError(str(error), hint="`guestctl help faults` lists the kinds and their keys") from None
    return specs


def _inspector(run: Invocation, proxy: RecordingProxy) -> Inspector:
    """Return the inspector of a proxy that has not started yet, mounted on its port."""
    from guestctl.inspector.desk import CannotDo
    from guestctl.inspector.routes import Inspector
    from guestctl.proxy.proxy_controls import ProxyControls

    inspector = Inspector(
        source="proxy",
        title=f"proxy of {proxy.target.name}",
        clock=run.clock,
        redactor=run.redactor,
        controls=ProxyControls(proxy, CannotDo),
        port=lambda: proxy.port,
        secure=proxy.secure,
    )
    proxy.mount(inspector.rules, inspector.end)
    proxy.events.add(inspector.observe)
    return inspector


def _is_own(target: Target, port: int) -> bool:
    from guestctl.transport.hosts import is_loopback
    from guestctl.transport.hosts import target as place

    return any(is_loopback(host) and number == port for _, host, number in map(place, target.bases))


def _origin(text: str) -> str:
    """Return an origin as browsers send it. Raises UsageError."""
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise UsageError(f'--origin: "{text}" is not an origin', hint="give a scheme and a host: https://shop.example")
    return f"{parts.scheme}://{parts.netloc}"


@contextmanager
def _certificates(run: Invocation) -> Iterator[tuple[Any, str]]:
    """Make a temporary certificate authority. Raises UsageError without the extra guestctl[tls]."""
    import ssl

    from guestctl.sandbox.tls import TlsUnavailable, certificates

    try:
        made = certificates(run.clock)
    except TlsUnavailable as error:
        raise UsageError(str(error), hint="install it: `pip install cryptography`") from None
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(made.certificate, made.key)
        yield context, str(made.ca)
    finally:
        made.remove()


@contextmanager
def _cannot_listen(port: int) -> Iterator[None]:
    """Turn a port that cannot be used into a UsageError."""
    try:
        yield
    except OSError as error:
        # asyncio adds the number and the address to the system's text.
        reason = re.sub(r"^\[Errno .*?\] | \(while attempting .*$", "", error.strerror or str(error))
        raise UsageError(
            f"cannot listen on 127.0.0.1:{port}: {reason}",
            hint="choose another --port; `--port 0` chooses a free one",
        ) from error


def _print_ready(
    run: Invocation, proxy: RecordingProxy, profile: str | None, ca: str | None, ui_url: str | None
) -> None:
    variables = _variables(proxy, profile, ca)
    if run.out.mode in {"json", "jsonl", "yaml"}:
        ready = {"kind": "proxy", "url": proxy.url, "socket_url": proxy.socket_url, "target": proxy.target.name}
        run.out.one({**ready, "ca": ca, "environment": variables, "ui_url": ui_url})
        return
    words = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    chosen = f" -p {shlex.quote(profile)}" if profile is not None else ""
    authority = "" if ca is None else f"  CA        {ca}\n"
    run.out.verbatim(
        f"proxy ready in front of {proxy.target.name} (Ctrl-C stops it)\n"
        f"  REST      {proxy.url}\n"
        f"  socket    {proxy.socket_url}/v1\n"
        f"{authority}"
        f"  guestctl  {words} guestctl{chosen} ask hi\n" + ("" if ui_url is None else f"inspector at {ui_url}\n")
    )


def _variables(proxy: RecordingProxy, profile: str | None, ca: str | None) -> dict[str, str]:
    """Return the variables with which guestctl uses the proxy. The profile stays the same."""
    if profile == "sandbox":
        found = {"GUESTCTL_SANDBOX_URL": proxy.url}
        return found if ca is None else {**found, "GUESTCTL_SANDBOX_CA": ca}
    known = proxy.target.profile
    found = {"GUESTCTL_BASE_URL": proxy.url}
    if known.socket_url is not None:
        found["GUESTCTL_SOCKET_URL"] = proxy.socket_url
    if known.config_url is not None:
        found["GUESTCTL_CONFIG_URL"] = proxy.url
    return found if ca is None else {**found, "GUESTCTL_TLS_CA": ca}
