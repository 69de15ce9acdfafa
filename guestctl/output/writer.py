"""The only place that writes stdout and stderr.

Knows: the output modes (auto, table, json, jsonl, yaml), flushing, closed pipes, how an error is printed.
Must not know: the meaning of records, commands, the network. Data goes to stdout, diagnostics to stderr
(contract.md §4). A record is flushed before guestctl waits for the next one.
"""

from __future__ import annotations

import errno
import json
import os
import re
import select
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias

from guestctl.core.errors import Failure, UsageError
from guestctl.core.interrupts import INTERRUPTS
from guestctl.output.ci_commands import escaped, has_command, runs_in_actions
from guestctl.output.records import Record, error_record
from guestctl.output.terminal import Terminal, distinct, visible, wrap

if TYPE_CHECKING:
    from guestctl.output.columns import Column
    from guestctl.output.progress_bar import ProgressBar
    from guestctl.output.views import View

Mode: TypeAlias = Literal["auto", "table", "json", "jsonl", "yaml", "csv"]
#: Columns of a label (`error:`, `hint:`) and the space after it.
_LABEL = 7
#: Bytes that `gathered` collects before it writes them: as many as a pipe takes at once.
PIECE = 1 << 16
#: Created once, because `json.dumps` creates an encoder for every line of a stream.
_EXACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
MODES: tuple[Mode, ...] = ("auto", "table", "json", "jsonl", "yaml", "csv")


class ClosedPipe(Exception):
    """Raised when the reader of stdout has closed it, so that there is nothing left to do."""


class Output:
    """The output of one command. `mode` is the requested mode; `auto` depends on whether stdout is a terminal.

    With `json_errors` a failure is printed as one JSON object. Notices then wait for the next data or the end,
    unless stderr is a terminal, so that a failed command writes nothing but that object to stderr. Warnings that wait
    at a failure become part of the object.

    Writing to a closed pipe raises ClosedPipe; a full disk raises UsageError `output.failed`.
    Diagnostics that cannot be written are dropped.
    """

    def __init__(
        self,
        stdout: IO[Any] | None,
        stderr: IO[Any] | None,
        terminal: Terminal,
        *,
        mode: Mode = "auto",
        now: Callable[[], float],
        environ: Mapping[str, str] | None = None,
        quiet: bool = False,
        verbose: int = 0,
        json_errors: bool = False,
    ) -> None:
        self._stdout = stdout
        self._stderr = stderr
        #: Whose window may be resized.
        self._screen = stdout
        self.terminal = terminal
        self.mode = mode
        self.verbose = verbose
        self.json_errors = json_errors
        #: Returns whether agents and bots write Markdown. Called only for a text that may contain it.
        self.markdown: Callable[[], bool] = lambda: False
        self._held: list[str] = []
        #: Those of the held texts that are warnings.
        self._held_warnings: list[str] = []
        #: A progress bar is on the current line, unfinished.
        self._drawing = False
        #: Another component draws the terminal.
        self._drawn = False
        #: A pager has the terminal until its user quits.
        self.paging = False
        self._quiet = quiet
        self._now = now
        self._environ = environ or {}
        self._in_actions = runs_in_actions(self._environ)
        #: Makes a text for people harmless: in a CI job, a text may contain commands for the runner.
        self._guarded: Callable[[str], str] = escaped if self._in_actions else str
        self._views: dict[Terminal, View] = {}
        #: The sources of messages that tables do not name, because the command prints no others.
        self.usual_sources: frozenset[str] = frozenset({"live"})
        self._pager: IO[bytes] | None = None
        self._gathered: bytearray | None = None

    # --- data ---

    @property
    def human(self) -> bool:
        """Whether records are printed as tables."""
        return self.mode == "table" or (self.mode == "auto" and self.terminal.stdout)

    def one(self, record: Record, *, more: Mapping[str, Any] | None = None) -> None:
        """Print a single result. `more` has further details for the table."""
        if self.human:
            self._write(self._view().card(record, more))
        elif self.mode == "yaml":
            self._write(self._yaml(record))
        else:
            self._write(self._json(record), exact=True)

    def one_as_lines(self, records: Iterable[Record], record: Record) -> None:
        """Print a single result, as lines of a conversation (`records`) for people and as `record` otherwise."""
        if not self.human:
            self.one(record)
            return
        for line in records:
            self.event(line)

    @contextmanager
    def listing(
        self, *, conversation: bool = False, header: bool = False, kind: str | None = None
    ) -> Iterator[Callable[[Record], None]]:
        """Print a list: an array for `json`, a sequence for `yaml`, rows for `csv`, a table for people, and otherwise
        one object per line. Records of a conversation are printed one by one, for people with a `header`; only other
        tables are collected in memory. `kind`: that of the records, for the header of an empty list in CSV."""
        if self.mode == "csv":
            from guestctl.output.csv_rows import CsvRows

            lines = CsvRows(self.text, kind)
            yield lines.add
            lines.close()
            return
        if self.human and not conversation:
            rows: list[Record] = []
            yield rows.append
            if rows:
                self._write(self._view().table(rows))
            return
        records = _Records(self, header=header)
        try:
            yield records.add
        except ClosedPipe:
            raise
        except BaseException:
            records.abort()
            raise
        records.close()

    def event(self, record: Record) -> int:
        """Print one record of a stream as one flushed line. Return the number of bytes written."""
        return self._write(self._stream_text(record), exact=True)

    def line(self, record: Record) -> bytes:
        """Return what `event` will write for this record."""
        return self._data(self._stream_text(record))

    def document(self, value: Mapping[str, Any]) -> None:
        """Print a JSON document such as a schema, indented for people."""
        if self.mode == "yaml":
            self._write(self._yaml(value))
        else:
            self._write(json.dumps(value, indent=2) if self.human else self._json(value), exact=True)

    def grid(self, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
        """Print a table that is not a list of records."""
        self._write(self._view().grid(columns, rows))

    def row(self, columns: Sequence[Column], cells: Sequence[tuple[str, str]]) -> None:
        """Print one row of a table without a header: texts with their styles."""
        self._write(self._view().columns(columns, cells))

    def text(self, text: str, *, prose: bool = False) -> None:
        """Print a text: unchanged in a pipe, with control characters made visible on a terminal. There the lines of
        `prose` are wrapped at spaces; a command or a path stays whole."""
        shown = visible(text, lines=True) if self.terminal.stdout else text
        self._write(self.wrapped(shown) if prose else shown)

    def wrapped(self, text: str) -> str:
        """Return a text with its lines wrapped at spaces, if stdout is a terminal."""
        return _wrapped(text, self.terminal.width)

    def reply(self, record: Record) -> None:
        """Print the text of a message, or its other content if it has no text."""
        if record["text"].strip():
            self.text(record["text"], prose=True)
        elif self.terminal.stdout:
            self._write(self._view().content(record) or "(empty message)")
        else:
            from guestctl.output.rich_content_lines import plain

            self._write(plain(record) or "(empty message)")

    def parts(self, *parts: tuple[str, str], hanging: int) -> None:
        """Print one line: texts with their styles. In a table its further lines are indented by `hanging`; elsewhere
        it is one line."""
        if self.human:
            self._write(self._view().parts(parts, hanging=hanging))
        else:
            self._write(visible("".join(text for text, _ in parts)))

    def verbatim(self, text: str, *, command: bool = False) -> None:
        """Print a trusted text (help, scripts, a document that is already escaped) unchanged.

        In a CI job it contains no commands for the runner, unless it is one.
        """
        self._write(text, end="", exact=command)

    def raw(self, data: bytes) -> None:
        """Write data, such as the content of a file, to stdout."""
        self.print_held()
        self._write_data(data)

    @contextmanager
    def on_stderr(self) -> Iterator[Callable[[bytes], None]]:
        """Print data on stderr, because a file takes stdout. Yields the function that writes the file to stdout."""
        stdout, self._stdout = self._stdout, self._stderr

        def write(data: bytes) -> None:
            self._stdout = stdout
            try:
                self.raw(data)
            finally:
                self._stdout = self._stderr

        try:
            yield write
        finally:
            self._stdout = stdout

    @contextmanager
    def paged(self) -> Iterator[None]:
        """Send output through GUESTCTL_PAGER if it is set and the output is a terminal. A closed pager is no error."""
        command = self._environ.get("GUESTCTL_PAGER", "")
        if not (command and self.terminal.stdin and self.terminal.stdout):
            yield
            return
        from guestctl.output.pager import Pager

        pager = Pager(command, self._environ)
        self._pager, self.paging = pager.stdin, True
        try:
            yield
        finally:
            self._pager = None
            try:
                pager.wait()
            finally:
                self.paging = False

    def reader_is_gone(self) -> bool:
        """Return whether the reader of stdout has closed it, so that a stream without new records ends too."""
        return self._stdout is not None and _reader_is_gone(self._stdout)

    @contextmanager
    def through(self, screen: IO[Any]) -> Iterator[None]:
        """Write everything to `screen`, diagnostics too, while another component draws the terminal."""
        before, self._stdout, self._stderr = (self._stdout, self._stderr), screen, screen
        self._drawn = True
        try:
            yield
        finally:
            self._drawn = False
            self._stdout, self._stderr = before

    # --- diagnostics ---

    def notice(self, text: str) -> None:
        """Print a notice on stderr. --quiet drops it."""
        if self._quiet:
            return
        if self.json_errors and not (self.terminal.stderr or self.verbose):
            self._held.append(visible(text))
        else:
            self._say(text)

    def warning(self, text: str) -> None:
        """Print a warning about safety or damage on stderr. Neither --quiet nor a failure drops it."""
        if self.json_errors and not (self.terminal.stderr or self.verbose):
            self._held.append(visible(text))
            self._held_warnings.append(text)
        else:
            self._say(text)

    def answer(self, text: str) -> None:
        """Print the answer to a command typed at a prompt. --quiet does not drop it."""
        self._say(text)

    def print_held(self) -> None:
        """Print the notices that were held back, because the command has not failed so far."""
        held, self._held, self._held_warnings = self._held, [], []
        for line in held:
            self._print_diagnostic(line)

    def detail(self, text: str, level: int = 1) -> None:
        """Print a notice only with --verbose (`level` 2: with -vv)."""
        if self.verbose >= level:
            self._say(text)

    def _say(self, text: str) -> None:
        """Print one line on stderr, wrapped at spaces on a terminal."""
        self._print_diagnostic(_wrapped(visible(text), self.terminal.stderr_width))

    def interrupted(self) -> None:
        """Confirm Ctrl-C on the terminal. Runs inside a signal handler, so it only writes."""
        if self.terminal.stderr and not (self._quiet or self._drawn or self.paging):
            self._print_diagnostic("\rstopping")  # over the ^C that the terminal shows

    def progress(self, label: str, monotonic: Callable[[], float]) -> ProgressBar | None:
        """Return a callback (done, total) that draws a progress bar on stderr, None where none can be drawn."""
        if self._quiet or self._drawn or self.paging or not self.terminal.stderr:
            return None
        from guestctl.output.drawing import Canvas
        from guestctl.output.progress_bar import ProgressBar

        def draw(text: str, unfinished: bool) -> None:
            self._emit(self._stderr, text)
            self._drawing = unfinished

        return ProgressBar(lambda: Canvas(self.terminal.for_stderr()), label, monotonic, draw, lambda: self._drawing)

    def event_notice(self, record: Record) -> None:
        """Print an event on stderr, if stderr is a terminal or with --verbose."""
        if self._quiet or not (self.terminal.stderr or self.verbose):
            return
        if self.human:
            drawn = self._view(self.terminal.for_stderr()).line(record, usual=self.usual_sources)
        else:
            from guestctl.output.event_texts import event_text, mark
            from guestctl.output.times import stamp

            drawn = f"{stamp(record['time'], self._now())} {mark(record)} {event_text(record)}"
        self._print_diagnostic(drawn)

    def card_notice(self, record: Record) -> None:
        """Print a single result on stderr, for people. --quiet drops it. Only for a command that has succeeded."""
        if not self._quiet:
            self._print_diagnostic(self._view(self.terminal.for_stderr()).card(record))

    def ask(self, question: str, stdin: IO[str]) -> bool:
        """Ask a yes-or-no question and return whether the answer was yes."""
        self._emit(self._stderr, f"{visible(question)} [y/N] ")
        return stdin.readline().strip().lower() in {"y", "yes"}

    def failure(self, failure: Failure) -> None:
        """Print one failure: an `error:` line and a `hint:` line, or one JSON object."""
        if self.json_errors:
            record = error_record(failure)
            record["error"]["message"] = distinct(failure.message)  # two texts that it quotes never look the same
            if self._held_warnings:
                record["error"]["warnings"] = self._held_warnings
            self._held, self._held_warnings = [], []
            self._print_diagnostic(
                json.dumps(record, ensure_ascii=self.terminal.stderr, separators=(",", ":"), default=str), exact=True
            )
            return
        what = re.sub(r"(?<!\.)\. *$", "", failure.message)  # the service's own text may end with a full stop
        if failure.retry_after is not None:
            what += f" (retry after {failure.retry_after:g} s)"
        for label, text in (("error:", what), ("hint:", failure.hint)):
            if text:
                self._print_diagnostic(_labelled(label, visible(distinct(text)), self.terminal.stderr_width))

    def traceback(self, error: BaseException, masked: Callable[[str], str]) -> None:
        """Print a traceback for --debug, without values of variables and with secrets masked."""
        import traceback

        self.diagnostic(masked("".join(traceback.format_exception(error)).rstrip("\n")))

    def diagnostic(self, text: str, *, command: bool = False) -> None:
        """Print a text of several lines, or a command for a CI runner, on stderr. --quiet does not drop it."""
        self._print_diagnostic(visible(text, lines=True), exact=command)

    # --- writing ---

    def _view(self, terminal: Terminal | None = None) -> View:
        """Return what draws records on a terminal: that of stdout, with its present size, unless one is given."""
        terminal = terminal or self.terminal.resized(self._screen, self._environ)
        if terminal not in self._views:
            from guestctl.output.views import View

            self._views[terminal] = View(terminal, self._now, lambda: self.markdown(), full_times=self.verbose > 0)
        return self._views[terminal]

    def _json(self, value: Any) -> str:
        """Return JSON: exact in a pipe, with `\\u` escapes on a terminal and for text that UTF-8 cannot encode."""
        return json.dumps(value, separators=(",", ":")) if self.terminal.stdout else exact_json(value)

    def _yaml(self, value: Any) -> str:
        text = yaml_text(value, ascii_only=self.terminal.stdout)
        return yaml_text(value, ascii_only=True, quoted=True) if self._in_actions and has_command(text) else text

    @contextmanager
    def gathered(self) -> Iterator[Callable[[], None]]:
        """Write lines in pieces of `PIECE` bytes instead of one by one.

        The function that it yields writes the collected lines. The caller calls it before it waits for anything, so
        that no line is delayed.
        """
        self._gathered = bytearray()
        try:
            yield self._flush_gathered
        finally:
            self._flush_gathered()
            self._gathered = None

    def _flush_gathered(self) -> None:
        if self._gathered:
            data, self._gathered = bytes(self._gathered), bytearray()
            self._write_data(data)

    def _write(self, text: str, end: str = "\n", *, exact: bool = False) -> int:
        if self._held:
            self.print_held()
        text = text if exact else self._guarded(text)
        data = self._data(text, end)
        if self._gathered is None:
            self._write_data(data)
        else:
            self._gathered += data
            if len(self._gathered) >= PIECE:
                self._flush_gathered()
        return len(data)

    def _write_data(self, data: bytes) -> None:
        try:
            if self._pager is not None:
                self._pager.write(data)
                self._pager.flush()
            else:
                _put(self._stdout, data)
        except BrokenPipeError as error:
            raise ClosedPipe from error
        except OSError as error:
            closed = error.errno == errno.EBADF
            hint = "stdout is closed: redirect it to a file or to /dev/null" if closed else None
            raise UsageError(f"stdout: {error.strerror or error}", code="output.failed", hint=hint) from error

    def _stream_text(self, record: Record) -> str:
        if self.human:
            return self._guarded(self._view().line(record, usual=self.usual_sources))
        return "---\n" + self._yaml(record) if self.mode == "yaml" else self._json(record)

    def _data(self, text: str, end: str = "\n") -> bytes:
        return (text + end).encode(_encoding(self._stdout) if self.human else "utf-8", "backslashreplace")

    def _print_diagnostic(self, line: str, *, exact: bool = False) -> None:
        line = line if exact else self._guarded(line)
        line_end, self._drawing = "\n" if self._drawing else "", False  # after an unfinished progress bar
        self._emit(self._stderr, f"{line_end}{line}\n")

    def _emit(self, stream: IO[Any] | None, text: str) -> None:
        with _ignored(OSError, ValueError):
            _put(stream, text.encode(_encoding(stream), "backslashreplace"))


class _Records:
    """The records of a list, printed one by one, and the text around them."""

    def __init__(self, output: Output, *, header: bool) -> None:
        self._output = output
        self._header = header and output.human
        self._count = 0

    def add(self, record: Record) -> None:
        output = self._output
        if self._header and not self._count and (drawn := output._view().header()):
            output._write(drawn)
        if output.mode == "json":
            output._write(("[\n" if self._count == 0 else ",\n") + output._json(record), end="", exact=True)
        elif output.mode == "yaml":
            output._write(output._yaml([record]))
        else:
            output.event(record)
        self._count += 1

    def abort(self) -> None:
        """End the list after a failure, so that it stays readable."""
        if self._output.mode == "json" and self._count:
            self._output._write("\n]")

    def close(self) -> None:
        if self._output.mode == "json":
            self._output._write("\n]" if self._count else "[]")
        elif self._output.mode == "yaml" and not self._count:
            self._output._write("[]")


def _reader_is_gone(stream: IO[Any]) -> bool:
    if not hasattr(select, "poll"):
        return False
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(found & (select.POLLERR | select.POLLNVAL) for _, found in poll.poll(0))
    except (OSError, ValueError):
        return False


def _encoding(stream: IO[Any] | None) -> str:
    return getattr(stream, "encoding", None) or "utf-8"


def _labelled(label: str, text: str, width: int | None) -> str:
    """Return a label and a text, whose further lines on a terminal are indented under the first."""
    room = None if width is None else width - _LABEL
    return label.ljust(_LABEL) + ("\n" + " " * _LABEL).join(wrap(text, room))


def _wrapped(text: str, width: int | None) -> str:
    """Return a text whose lines are wrapped at spaces, each part of a line indented like its first."""
    if width is None:
        return text
    lines = []
    for line in text.split("\n"):
        indent = " " * (len(line) - len(line.lstrip(" ")))
        fits = line.isascii() and len(line) <= width
        lines += [line] if fits else [indent + part for part in wrap(line[len(indent) :], width - len(indent))]
    return "\n".join(lines)


@contextmanager
def _ignored(*kinds: type[BaseException]) -> Iterator[None]:
    try:
        yield
    except kinds:
        pass


def yaml_text(value: Any, *, ascii_only: bool, quoted: bool = False) -> str:
    """Return YAML. `quoted`: texts are in double quotes on one line, and `##[` is escaped in them."""
    import yaml

    style = '"' if quoted else None
    text: str = yaml.safe_dump(
        value,
        allow_unicode=not ascii_only,
        sort_keys=False,
        width=2**31,
        default_flow_style=False,
        default_style=style,
    )
    return (text.replace("##[", "\\x23#[") if quoted else text).rstrip("\n")


def exact_json(value: Any) -> str:
    """Return compact JSON, with `\\u` escapes only for a text that UTF-8 cannot encode."""
    text = _EXACT.encode(value)
    if text.isascii() or _encodable(text):
        return text
    return json.dumps(value, separators=(",", ":"))


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can carry and UTF-8 cannot
        return False
    return True


def _put(stream: IO[Any] | None, data: bytes) -> None:
    """Write all data now, past Python's buffers, so that nothing can fail when the process ends.

    Waits for a pipe that another process made non-blocking.
    """
    if stream is None:  # the process was started with the descriptor closed
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    try:
        descriptor = stream.fileno()
    except (OSError, AttributeError, ValueError):
        target = getattr(stream, "buffer", None)
        if target is None:
            stream.write(data.decode("utf-8", "replace"))
        else:
            target.write(data)
        stream.flush()
        return
    stream.flush()
    if INTERRUPTS.are_held:
        # A signal may interrupt the wait for a slow reader, but not a line of which a part was written.
        with INTERRUPTS.allowed():
            select.select([], [descriptor], [])
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:
            select.select([], [descriptor], [])
