"""A sandbox as a program: `sandbox serve`, the agent at the terminal, and `sandbox exec`.

Knows: signals, processes, the ready line, the environment of a command under the sandbox. Must not know: how requests
are served, the client's state and profiles, exit codes other than those of a shell.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from guestctl.core.clock import Clock, SystemClock
from guestctl.core.stop_signals import exit_code_of, handling, stop_signals
from guestctl.sandbox.subshell import greeting, is_interactive_shell, with_prompt

if TYPE_CHECKING:
    from guestctl.sandbox.events import WireObserver
    from guestctl.sandbox.faults import Faults
    from guestctl.sandbox.interfaces import Api
    from guestctl.sandbox.server import Sandbox
    from guestctl.sandbox.service_state import Conversation, Service, StoredMessage
    from guestctl.sandbox.settings import SandboxOptions

NOT_EXECUTABLE, NOT_FOUND = 126, 127  # the exit codes of shells
GRACE = 2.0  # seconds between SIGTERM and SIGKILL for processes that a command left running
#: Variables that would point a command's guestctl to another service, or make the sandbox refuse it.
_OVERRIDES = ("GUESTCTL_DEPLOYMENT_ID", "GUESTCTL_SESSION", "GUESTCTL_OAUTH_", "GUESTCTL_TLS_", "GUESTCTL_SANDBOX_")


class SandboxPage(Protocol):
    """A page for a browser on the sandbox's own port. `rules` are tornado's; `observe` gets the traffic."""

    @property
    def rules(self) -> Sequence[Any]: ...

    @property
    def observe(self) -> Callable[[str, Mapping[str, Any]], None]: ...

    def address(self, base_url: str) -> str:
        """Return the address for the user, which contains a secret."""

    def end(self) -> None:
        """Say goodbye, because the sandbox stops. Called in the sandbox's thread."""


class CannotServe(Exception):
    """The sandbox cannot start: an invalid script or fault, a port in use, a missing extra. The text is one line."""


def addresses(sandbox: Sandbox) -> dict[str, Any]:
    """Return the addresses and public names of a ready sandbox (contract.md §7)."""
    names = ("url", "socket_url", "config_url", "admin_url", "admin_key", "deployment_id", "client_id", "client_secret")
    found: dict[str, Any] = {name: str(getattr(sandbox, name)) for name in names}
    found["deduplicates"] = sandbox.options.deduplicates
    found["limits"] = _limits(sandbox.options)
    found["sockets"] = sandbox.sockets
    if "web-messaging" in sandbox.service.apis:  # a replay serves only what was recorded
        found["deployment_url"] = f"{sandbox.url}/webdeployments/v1/deployments/{sandbox.deployment_id}/config.json"
        found["oauth_url"] = f"{sandbox.url}/oauth/token"
    if sandbox.options.domain is not None:
        found["hosts"] = [f"{name}:{sandbox.port}" for name in sandbox.options.domain_hosts]
    return found | ({"ca": sandbox.ca} if sandbox.ca is not None else {})


def _ready_text(found: Mapping[str, Any], options: SandboxOptions) -> str:
    """Return the ready line for people: how guestctl uses the sandbox, and the addresses that other clients need."""
    allowed = options.origins[0] if options.origins else ""
    origin = allowed if "://" in allowed else f"https://{allowed}"
    asked = f" --origin {origin}" if allowed else ""
    others = [
        f"socket {' or '.join(places)}" for name, places in found["sockets"].items() if name in {options.api, "replay"}
    ]
    if "deployment_url" in found:
        others.append(f"deployment {found['deployment_id']}")
        others += [f"its configuration {found['deployment_url']}"] * (options.api == "web-messaging")
        others.append(f"OAuth {found['oauth_url']}")
    if "hosts" in found:
        others.append(f"the same under {', '.join(found['hosts'])}, if these names lead to {options.host}")
    if "ca" in found:
        others.append(f"certificate authority {found['ca']}")
    line = f"sandbox ready at {found['url']} (guestctl -p sandbox{asked} uses it; Ctrl-C stops it)"
    return f"{line}; other clients need: {'; '.join(others)}" if others else line


def _limits(options: SandboxOptions) -> str:
    """Return what the sandbox announces: whether it enforces rate limits."""
    return "none" if options.fast else "enforced"


@contextmanager
def running(
    options: SandboxOptions,
    *,
    clock: Clock | None = None,
    watch: Callable[[Conversation, StoredMessage], None] | None = None,
    apis: Callable[[Service, Faults, SandboxOptions], Sequence[Api]] | None = None,
    page: Callable[[Sandbox], SandboxPage] | None = None,
    observer: WireObserver | None = None,
) -> Iterator[Sandbox]:
    """Start a sandbox, with certificates if asked for, and stop it at the end. Raises CannotServe.

    `page` makes a page for a browser, whose address is the sandbox's `ui_url`.
    """
    from guestctl.sandbox.bot.bot_script import ScriptError
    from guestctl.sandbox.faults import FaultError
    from guestctl.sandbox.server import Sandbox
    from guestctl.sandbox.store import StoreError
    from guestctl.sandbox.tls import NAMES, TlsUnavailable, certificates

    clock = clock or SystemClock()
    with ExitStack() as stack:
        try:
            context, ca = None, None
            if options.tls:
                import ssl

                made = certificates(clock, list(dict.fromkeys((*NAMES, options.host, *options.domain_hosts))))
                stack.callback(made.remove)
                context, ca = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), str(made.ca)
                context.load_cert_chain(made.certificate, made.key)
            chosen: dict[str, Any] = {} if apis is None else {"apis": apis}
            sandbox = Sandbox(options, clock=clock, watch=watch, tls=context, ca=ca, observer=observer, **chosen)
            stack.callback(sandbox.stop)
            shown = None if page is None else page(sandbox)
            if shown is not None:
                sandbox.extra_rules = shown.rules
                sandbox.events.add(shown.observe)
            sandbox.start()
            if shown is not None:
                sandbox.ui_url = shown.address(sandbox.url)
                stack.callback(sandbox.call, shown.end)
        except (FaultError, ScriptError, StoreError, TlsUnavailable) as error:
            raise CannotServe(str(error)) from error
        except OSError as error:
            where = f"{options.host}:{options.port}"
            # asyncio adds the number and the address to the system's text.
            reason = re.sub(r"^\[Errno .*?\] | \(while attempting .*$", "", error.strerror or str(error))
            raise CannotServe(f"cannot listen on {where}: {reason}") from error
        yield sandbox


def serve(
    options: SandboxOptions,
    *,
    out: TextIO,
    ready_json: bool,
    agent_out: TextIO | None = None,
    agent_in: TextIO | None = None,
    on_ready: Callable[[Mapping[str, Any]], object] = lambda found: None,
    wrapped: Callable[[str], str] = str,
    clock: Clock | None = None,
    apis: Callable[[Service, Faults, SandboxOptions], Sequence[Api]] | None = None,
    page: Callable[[Sandbox], SandboxPage] | None = None,
    observer: WireObserver | None = None,
) -> int:
    """Serve until SIGINT, SIGTERM or SIGHUP. Call it in the main thread.

    Return 0 after SIGTERM, else 128 plus the signal's number.

    One line is written to `out` when the port accepts connections. `on_ready` is called with the addresses just
    before, so that a reader of the line finds them registered. With `page`, the line for programs has `ui_url`, and a
    second line for people has the same address. It contains a secret, so `on_ready` does not get it.

    With `options.agent`, each line of `agent_in` is sent as the agent, and messages are shown on `agent_out` (default:
    `out`). `wrapped` breaks a line for people into lines that fit the terminal. `observer` receives the
    events of all guests. Raises CannotServe.
    """
    with ExitStack() as stack:
        stopper = stack.enter_context(stop_signals())
        agent = Agent(agent_out or out, wrapped) if options.agent else None
        watch = agent.show if agent else None
        sandbox = stack.enter_context(
            running(options, clock=clock, watch=watch, apis=apis, observer=observer, page=page)
        )
        found = addresses(sandbox)
        on_ready(found)
        if ready_json:
            lines = [json.dumps(found if sandbox.ui_url is None else {**found, "ui_url": sandbox.ui_url})]
        else:
            lines = [wrapped(_ready_text(found, options))]
            lines += [f"inspector at {sandbox.ui_url}"] * (sandbox.ui_url is not None)
        out.write("".join(f"{line}\n" for line in lines))
        out.flush()
        if agent is not None:
            agent.start(sandbox)
        keys = _InputLines(agent_in) if agent_in is not None and agent is not None else None
        while True:
            waiting = [stopper.fileno(), *([keys.fileno] if keys is not None else [])]
            readable, _, _ = select.select(waiting, [], [])
            if stopper.fileno() in readable:
                number = stopper.recv(1)[0]
                return exit_code_of(number)
            assert agent is not None
            assert keys is not None
            for line in keys.lines():
                agent.handle(line)
            if keys.ended:
                keys = None  # the agent has left; the sandbox continues


class _InputLines:
    """Reads whole lines from a file that `select` watches. Python's own buffer would hide lines from it."""

    def __init__(self, agent_in: TextIO) -> None:
        self.fileno = agent_in.fileno()
        self.ended = False
        self._rest = b""

    def lines(self) -> list[str]:
        """Return the lines typed since the last call. Call it when the file is readable."""
        chunk = os.read(self.fileno, 65536)
        self.ended = not chunk
        *whole, self._rest = (self._rest + (chunk or b"\n")).split(b"\n")
        return [line.decode(errors="replace").rstrip("\r") for line in whole]


class Agent:
    """A person at the terminal who answers as the agent.

    A typed line goes to the newest conversation, or to the one chosen with `/to ID`. The start of an id is enough;
    `/to` alone chooses the newest again. `/typing` shows the agent as typing, and `/end` ends the conversation.
    """

    def __init__(self, agent_out: TextIO, wrapped: Callable[[str], str] = str) -> None:
        self._out = agent_out
        self._wrapped = wrapped
        self._lock = threading.Lock()  # the sandbox's thread writes, too
        self._sandbox: Sandbox | None = None
        self._chosen: str | None = None

    def start(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._write("You are the agent. Each line is sent to the newest conversation. Commands: /to ID, /typing, /end")

    def show(self, conversation: Conversation, message: StoredMessage) -> None:
        """Show a message of the guest or the bot. Called in the sandbox's thread."""
        if message.role in ("guest", "bot") and message.kind != "event":
            kinds = [str(item.get("contentType", "?")) for item in message.content]
            shown = " ".join([message.text or "", *(f"[{kind}]" for kind in kinds)]).strip()
            self._write(f"{conversation.id[:8]} {message.role}: {shown}")

    def handle(self, line: str) -> None:
        """Perform what one typed line asks for."""
        assert self._sandbox is not None
        command, _, rest = line.strip().partition(" ")
        if not command:
            return
        try:
            if command == "/to":
                self._choose(rest.strip())
            elif command in ("/typing", "/end") and not rest:
                self._sandbox.call(lambda: self._do(command))
            elif command.startswith("/"):
                self._write(f'unknown command "{command}"; the commands are /to ID, /typing and /end')
            else:
                self._sandbox.call(lambda: self._do(line))
        except _NoConversation as problem:
            self._write(str(problem))

    def _do(self, what: str) -> None:
        """Perform a command or send a line, in the sandbox's thread."""
        assert self._sandbox is not None
        service, conversation = self._sandbox.service, self._target()
        api = service.apis[conversation.api]
        if what == "/end":
            api.ended(conversation, "agent")
        elif what == "/typing":
            api.typing(conversation, "agent", None, 5000)
        else:
            service.send(conversation, what, role="agent")

    def _target(self) -> Conversation:
        assert self._sandbox is not None
        service = self._sandbox.service
        live = [conversation for conversation in service.conversations.values() if service.live(conversation)]
        if self._chosen is not None:
            live = [conversation for conversation in live if conversation.id == self._chosen]
            if not live:
                raise _NoConversation("that conversation has ended; choose another with /to ID, or the newest with /to")
        if not live:
            raise _NoConversation("there is no conversation yet; nothing was sent")
        return live[-1]

    def _choose(self, start: str) -> None:
        assert self._sandbox is not None
        service = self._sandbox.service
        if not start:
            self._chosen = None
            return
        fits = self._sandbox.call(lambda: [found for found in service.conversations if found.startswith(start)])
        if len(fits) != 1:
            raise _NoConversation(f'{len(fits) or "no"} conversations start with "{start}"')
        self._chosen = fits[0]
        self._write(f"lines now go to {self._chosen[:8]}")

    def _write(self, text: str) -> None:
        with self._lock, suppress(OSError, ValueError):  # the terminal has been closed
            self._out.write(self._wrapped(_visible(text)) + "\n")
            self._out.flush()


class _NoConversation(Exception):
    """There is no conversation for this line."""


def _visible(text: str) -> str:
    """Escape remote text for a terminal: show unprintable characters as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def run_under(
    options: SandboxOptions,
    command: Sequence[str],
    environ: Mapping[str, str],
    *,
    cannot_run: Callable[[int, str], object],
    entered: Callable[[str], object] = lambda line: None,
    clock: Clock | None = None,
    page: Callable[[Sandbox], SandboxPage] | None = None,
    observer: WireObserver | None = None,
) -> int:
    """Run a command against a new sandbox and return its exit code, as a shell reports it.

    If the command is an interactive shell, its prompt shows that it uses the sandbox, and `entered` is called with a
    line for its user. With `page`, it is called with the address of the page, too, which the command does not get.
    `observer` receives the events of all guests.

    The code is 128 plus the number of the signal that ended the command, 127 if the command does not exist, and 126 if
    it cannot be run; `cannot_run` is called with these two and the reason. The command receives SIGINT, SIGTERM and
    SIGHUP once each. Call it in the main thread. Raises CannotServe.

    If the terminal's keys send signals to our process group, the command joins that group, as under a shell: Ctrl-C
    and Ctrl-Z then reach both. Otherwise the command gets a session of its own, so that processes it leaves running
    can be ended.
    """
    clock = clock or SystemClock()
    alone = hasattr(os, "killpg") and not _controls_terminal()
    with ExitStack() as stack:
        relay = _Relay(alone)
        stack.enter_context(handling(relay.signal))  # the command inherits a signal that is ignored
        sandbox = stack.enter_context(running(options, clock=clock, observer=observer, page=page))
        state = stack.enter_context(_private_directory())
        variables = _environment(environ, options, sandbox, state)
        if is_interactive_shell(command):
            directory = Path(stack.enter_context(_private_directory()))
            command, variables = with_prompt(command, variables, directory)
            entered(greeting(sandbox.url, options.api))
        if sandbox.ui_url is not None:
            entered(f"inspector at {sandbox.ui_url}")
        try:
            child = subprocess.Popen(list(command), env=variables, start_new_session=alone)
        except (OSError, ValueError) as error:
            code = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
            cannot_run(code, getattr(error, "strerror", None) or str(error))
            return code
        relay.to(child)
        code = child.wait()
        if alone:
            _end_group(child.pid, clock)
        return code if code >= 0 else 128 - code


def _environment(environ: Mapping[str, str], options: SandboxOptions, sandbox: Sandbox, state: str) -> dict[str, str]:
    variables = {key: value for key, value in environ.items() if not key.startswith(_OVERRIDES)}
    variables |= {
        "GUESTCTL_PROFILE": "sandbox",
        "GUESTCTL_API": options.api,
        "GUESTCTL_SANDBOX_URL": sandbox.url,
        "GUESTCTL_SANDBOX_ADMIN_KEY": sandbox.admin_key,
        "GUESTCTL_SANDBOX_DEDUPLICATES": options.deduplicates,
        "GUESTCTL_SANDBOX_LIMITS": _limits(options),
        "GUESTCTL_STATE": state,
    }
    if sandbox.ca is not None:
        variables["GUESTCTL_SANDBOX_CA"] = sandbox.ca
    # `guestctl` must work under a guestctl started by its path. It is added last, so that it hides nothing.
    path, scripts = variables.get("PATH", os.defpath), sysconfig.get_path("scripts")
    if shutil.which("guestctl", path=path) is None and shutil.which("guestctl", path=scripts) is not None:
        variables["PATH"] = os.pathsep.join([path, scripts])
    return variables


@contextmanager
def _private_directory() -> Iterator[str]:
    directory = tempfile.mkdtemp(prefix="guestctl-exec-")  # mkdtemp creates it with mode 0700
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _controls_terminal() -> bool:
    """Return whether the terminal's keys send signals to our process group."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


class _Relay:
    """Passes signals on to the command once it runs."""

    def __init__(self, alone: bool) -> None:
        self._alone = alone
        self._child: subprocess.Popen[Any] | None = None
        self._early: list[int] = []

    def to(self, child: subprocess.Popen[Any]) -> None:
        self._child = child
        for number in self._early:
            self.signal(number, None)

    def signal(self, number: int, frame: FrameType | None) -> None:
        if self._child is None:
            self._early.append(number)
        elif self._alone:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, number)
        elif number != signal.SIGINT:  # the terminal has already sent SIGINT to the command
            self._child.send_signal(number)


def _end_group(group: int, clock: Clock) -> None:
    """End the processes that the command left running: SIGTERM, a wait, then SIGKILL."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGTERM)
        until = clock.monotonic() + GRACE
        while clock.monotonic() < until:
            clock.sleep(0.02)
            os.killpg(group, 0)
        os.killpg(group, signal.SIGKILL)
