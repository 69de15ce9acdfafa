"""What a command works with: its profile, state, trace and client, each created at its first use.

Knows: how these are built from options and environment. Must not know: what the command does with them. Handed in:
the streams, the environment, the directory and the clock.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from guestctl.core.clock import Clock, SystemClock, rfc3339
from guestctl.core.errors import Failure, UsageError
from guestctl.core.input_files import read_descriptor
from guestctl.core.values import Json, immutable
from guestctl.output.writer import Output

if TYPE_CHECKING:
    from guestctl.cli.options import Common
    from guestctl.client import Client
    from guestctl.config.profiles import Resolved
    from guestctl.core.redact import Redactor
    from guestctl.core.timings import Timings
    from guestctl.storage.state import State
    from guestctl.transport.network import Network, Observer
    from guestctl.transport.span_tree import SpanTree
    from guestctl.transport.spans import SpanExport
    from guestctl.transport.trace import TraceFile, Watcher


def _spans_wanted(environ: Mapping[str, str]) -> bool:
    """Return whether the environment asks for spans (see docs/tracing.md).

    It is here because most commands export none, and then import nothing for it.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporter:
        return "otlp" in {name.strip() for name in exporter.split(",")}
    return bool(environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))


@immutable
class Environment:
    """The process's streams, environment variables, directory and clock."""

    stdin: TextIO = field(default_factory=lambda: sys.stdin or io.StringIO())  # None: the descriptor was closed
    stdout: TextIO = field(default_factory=lambda: sys.stdout)
    stderr: TextIO = field(default_factory=lambda: sys.stderr)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    cwd: Path = field(default_factory=lambda: _here())
    clock: Clock = field(default_factory=SystemClock)
    timings: Timings | None = None

    def read(self) -> str:
        """Return all of stdin as text. Raises UsageError if it is not UTF-8."""
        return "".join(self.lines())

    def read_bytes(self, limit: int) -> bytes:
        """Return what stdin has, at most `limit` bytes of it. Raises OSError, and TimedOut at the deadline."""
        try:
            descriptor = self.stdin.fileno()
        except io.UnsupportedOperation:
            return self.stdin.buffer.read(limit) if hasattr(self.stdin, "buffer") else b""
        return read_descriptor(descriptor, "stdin", limit)

    def lines(self) -> Iterator[str]:
        """Yield the lines of stdin as they arrive, with their line ends but without a byte order mark.

        Raises UsageError if a line is not UTF-8.
        """
        raw = getattr(self.stdin, "buffer", None)
        for number, line in enumerate(self.stdin if raw is None else raw, 1):
            try:
                text = line if isinstance(line, str) else line.decode("utf-8")
            except UnicodeDecodeError:
                raise UsageError(
                    f"stdin, line {number}: not UTF-8", hint="convert the text first: iconv -t utf-8"
                ) from None
            yield text.removeprefix("\ufeff") if number == 1 else text


def _here() -> Path:
    try:
        return Path.cwd()
    except OSError:  # the directory was removed
        return Path()


class Invocation:
    """One run of a command."""

    def __init__(self, options: Common, world: Environment, out: Output) -> None:
        self.options = options
        self.world = world
        self.out = out
        #: The requested profile: -p, or the command's own argument.
        self.chosen_profile = options.profile
        #: The custom attribute of messages that states the trace id (--trace-attribute).
        self.trace_attribute: str | None = None
        #: The words of the command, its exit code and the code of its failure, for its span.
        self.command = ""
        self.exit_code = 0
        self.failure: str | None = None
        self._trees: list[SpanTree] = []
        self._stack = ExitStack()
        self._clients: list[Client] = []

    @property
    def clock(self) -> Clock:
        return self.world.clock

    def now(self) -> str:
        """Return the current time in RFC 3339."""
        return rfc3339(self.clock.now())

    @cached_property
    def watcher(self) -> Watcher | None:
        """The observer of requests and frames for --trace and -v, None without either."""
        file = self.trace_file
        if file is None and not self.out.verbose:
            return None
        from guestctl.transport.trace import Watcher

        return Watcher(self.clock, self.redactor, file, self.out.detail if self.out.verbose else None)

    @cached_property
    def trace_file(self) -> TraceFile | None:
        """The trace that was asked for, None without one. Raises UsageError `output.failed`."""
        traced = self._traced()
        if traced is None:
            return None
        from guestctl.transport.trace import TraceFile

        option, path, append = traced
        return self._stack.enter_context(TraceFile(path, append=append, option=option))

    def _traced(self) -> tuple[str, Path, bool] | None:
        """Return the option or variable that names the trace, its path, and whether the file may exist."""
        options, named = self.options, self.world.environ.get("GUESTCTL_TRACE")
        if options.trace is not None:
            return "--trace", options.trace, False
        if options.trace_append is not None:
            return "--trace-append", options.trace_append, True
        return ("GUESTCTL_TRACE", self.world.cwd / named, True) if named else None

    def watch(self) -> None:
        """Start the trace now, so that the file exists even if nothing is sent."""
        _ = self.watcher

    @cached_property
    def redactor(self) -> Redactor:
        """The redactor, which knows every secret that this command has seen."""
        from guestctl.core.redact import Redactor

        redactor = Redactor()
        redactor.add_proxies(self.world.environ)
        return redactor

    @cached_property
    def state(self) -> State:
        """The state database; with --no-state, one in memory."""
        from guestctl.storage.state import State

        directory = None if self.options.no_state else State.directory(self.world.environ)
        return self._stack.enter_context(State.open(directory, self.clock, notice=self.out.warning))

    def running_sandbox(self) -> Mapping[str, Json] | None:
        """Return the registration of the sandbox that was started last, None without one."""
        found = self.state.sandbox()
        return found if isinstance(found, Mapping) else None

    @cached_property
    def resolved(self) -> Resolved:
        """The effective profile, with the origin of each value."""
        return self._resolve(to_show=False)

    def resolve_to_show(self) -> Resolved:
        """Return the effective profile for printing it. It needs no trust, and must not be connected with."""
        return self._resolve(to_show=True)

    def resolve_as_written(self, name: str | None) -> Resolved:
        """Return a profile as its file has it, without options and variables that replace its values.

        `name` is that of the profile; None: the requested one.
        """
        return self._resolve(name=name, as_written=True)

    def _resolve(self, *, to_show: bool = False, name: str | None = None, as_written: bool = False) -> Resolved:
        from guestctl.config import profiles

        found = profiles.resolve(
            name or self.chosen_profile,
            options=self.options.overrides,
            environ=self.world.environ,
            cwd=self.world.cwd,
            profiles_option=self.options.profiles,
            sandbox=self.running_sandbox,
            as_written=as_written,
            to_show=to_show,
        )
        for warning in found.warnings:
            self.out.warning(warning)
        self.redactor.add_pair(found.profile.client_id, found.profile.client_secret)
        self.redactor.add(found.profile.ai_key)
        return found

    def shown_values(self, found: Resolved) -> dict[str, Json]:
        """Return the values of a profile for printing: secrets are masked, also where another value contains one."""
        from guestctl.core.redact import without

        profile = found.profile
        values = {
            key: without(profile.ai_key, without(profile.client_secret, value)) for key, value in found.values.items()
        }
        return {key: self.redactor.value(value) for key, value in values.items()}

    @property
    def session_name(self) -> str | None:
        """The requested session: -s, or GUESTCTL_SESSION if it is not empty. None means the current session.

        Raises UsageError for an invalid name.
        """
        from guestctl.cli.options import session_name

        if self.options.session is not None:
            return session_name("--session", self.options.session)
        named = self.world.environ.get("GUESTCTL_SESSION")
        return session_name("GUESTCTL_SESSION", named) if named else None

    @cached_property
    def client(self) -> Client:
        """The client for this profile and session."""
        return self.open_client(self.session_name, observer=self._observer())

    def open_client(
        self,
        session: str | None,
        *,
        observer: Observer | None,
        network: Network | None = None,
        notice: Callable[[str], None] | None = None,
    ) -> Client:
        """Return a client for this profile and a session, None for the current one. It is closed with the run.

        `notice` replaces what prints the client's notices.
        """
        from guestctl.client import Client

        spans = self.spans(f"guestctl {self.command}")
        client = Client(
            self.resolved.profile,
            session=session,
            state=self.state,
            timeout=self.options.timeout,
            notice=notice or (lambda text: self.out.notice(self.masked(text))),
            observer=observer,
            traceparent=self.options.traceparent,
            propagate_baggage=self.options.propagate_baggage,
            trace_attribute=self.trace_attribute,
            spans=spans,
            clock=self.clock,
            environ=self.world.environ,
            network=network,
            timings=self.world.timings,
        )
        self._clients.append(client)
        if self.watcher is not None or spans is not None:
            # Without a watcher the secrets are added when there is text to mask; reading a thousand sessions is slow.
            self._learn_from(client)
        self.out.markdown = cache(lambda: client.deployment().markdown)
        return self._stack.enter_context(client)

    def _observer(self) -> Observer | None:
        """Return the watcher; on a terminal, with the counter of waits for the rate limit."""
        watcher, out = self.watcher, self.out
        if not out.terminal.stderr:
            return watcher
        from guestctl.output.progress_bar import QueueCounter

        counter = QueueCounter(lambda: out.progress("", self.clock.monotonic))

        def observe(kind: str, data: Mapping[str, Any]) -> None:
            if kind == "limit":
                counter(data)
            if watcher is not None:
                watcher(kind, data)

        return observe

    def _learn_from(self, client: Client) -> None:
        for secret in client.secrets():
            self.redactor.add(secret)

    @cached_property
    def _export(self) -> SpanExport | None:
        """The export of spans, None if the environment does not ask for it or does not allow it."""
        environ = self.world.environ
        if not _spans_wanted(environ):
            return None
        from guestctl.transport.spans import SpanExport

        try:
            export = SpanExport(environ)
        except UsageError as failure:
            self.out.warning(f"no spans are exported: {failure.message}; {failure.hint}")
            return None
        self._stack.callback(self._end_spans, export)
        return export

    def spans(self, name: str) -> SpanTree | None:
        """Return the observer that makes the spans of a client, None if none are exported. The run ends them."""
        tree = self.spans_of(name)
        if tree is not None:
            self._trees.append(tree)
        return tree

    def spans_of(self, name: str, attributes: Mapping[str, str] | None = None) -> SpanTree | None:
        """Return the observer that makes the spans of a client, None if none are exported. The caller ends them."""
        if self._export is None:
            return None
        with_text = self.world.environ.get("GUESTCTL_SPAN_TEXT", "").lower() in {"1", "yes", "true"}
        text = self.masked if with_text else None
        return self._export.tree(name, now=self.clock.now, attributes=attributes, text=text)

    def _end_spans(self, export: SpanExport) -> None:
        for tree in self._trees:
            tree.end(error=self.failure, attributes={"process.exit.code": self.exit_code})
        problem = export.close()
        if problem is not None:
            self.out.warning(problem)

    def learn(self) -> None:
        """Add the client's secrets to the redactor, including those it received during this command."""
        for client in self._clients:
            with suppress(Failure):  # the state itself may be broken
                self._learn_from(client)

    def masked(self, text: str) -> str:
        """Return a text of the service with the guest's secrets masked."""
        self.learn()
        return self.redactor.text(text)

    def confirmed(self, question: str, yes: bool) -> None:
        """Ask for confirmation. Raises UsageError without it. Without a terminal, only `--yes` confirms."""
        if yes:
            return
        if not (self.out.terminal.stdin and self.out.terminal.stderr):
            raise UsageError(f"this needs --yes without a terminal: {question}", hint="repeat the command with --yes")
        if not self.out.ask(question, self.world.stdin):
            raise UsageError("not confirmed, so nothing was changed", hint="answer y, or add --yes")

    def close(self) -> None:
        """Close everything that was opened."""
        self._stack.close()
