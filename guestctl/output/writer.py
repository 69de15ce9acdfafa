"""The only place that writes stdout and stderr.

Knows: the formats (auto, table, json, jsonl, yaml), flushing, closed pipes, how an error is told.
Must not know: what the records mean, commands, the network. stdout is data, stderr is talk
(contract.md §4). A record is on its way to the reader before the next one is waited for.
"""

from __future__ import annotations

import errno
import json
import os
import select
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias

from guestctl.core.errors import Failure, UsageError
from guestctl.output.records import Record, error_record
from guestctl.output.terminal import Terminal, visible, wrap

if TYPE_CHECKING:
    from subprocess import Popen

    from guestctl.output.views import View

Mode: TypeAlias = Literal["auto", "table", "json", "jsonl", "yaml"]
#: Seconds of work before progress is worth showing.
_PATIENCE = 1.0
#: Columns of a progress bar.
_BAR = 30
#: Columns of a label (`error:`, `hint:`) and the space after it.
_LABEL = 7
#: Bytes of data gathered at most, where lines may be (a pipe takes as many at once).
PIECE = 1 << 16
#: Made once: `json.dumps` would make one for every line of a stream.
_EXACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
MODES: tuple[Mode, ...] = ("auto", "table", "json", "jsonl", "yaml")


class ClosedPipe(Exception):
    """Whoever read our stdout has gone; nothing is left to do."""


class Output:
    """One command's output. `mode` is what was asked for; `auto` depends on whether stdout is a terminal.

    With `json_errors` a failure is told as one JSON object, and remarks nobody is looking at wait for
    the next data or the end, so that a command that fails leaves nothing on stderr but that object.

    Writing to a closed pipe raises ClosedPipe; a full disk, UsageError `output.failed`.
    Talk that cannot be written is lost silently.
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
        self.terminal = terminal
        self.mode = mode
        self.verbose = verbose
        self.json_errors = json_errors
        #: Whether agents and bots write Markdown; asked when a text for people may hold some.
        self.markdown: Callable[[], bool] = lambda: False
        self._held: list[str] = []
        #: A progress bar stands in the line, unfinished.
        self._drawing = False
        #: Somebody else draws the terminal.
        self._drawn = False
        #: A pager has it, until whoever reads there leaves.
        self.paging = False
        self._quiet = quiet
        self._now = now
        self._environ = environ or {}
        self._view_made: View | None = None
        self._pager: IO[bytes] | None = None
        self._gathered: bytearray | None = None

    # --- data ---

    @property
    def human(self) -> bool:
        """Whether records are drawn for a person."""
        return self.mode == "table" or (self.mode == "auto" and self.terminal.stdout)

    def one(self, record: Record, *, more: Mapping[str, Any] | None = None) -> None:
        """A single result. `more` is shown to people only."""
        if self.human:
            self._write(self._view.card(record, more))
        elif self.mode == "yaml":
            self._write(self._yaml(record))
        else:
            self._write(self._json(record))

    def spoken(self, records: Iterable[Record], record: Record) -> None:
        """A single result that people see as chat lines instead of a card."""
        if not self.human:
            self.one(record)
            return
        for line in records:
            self._write(self._view.line(line))

    @contextmanager
    def listing(self, *, chat: bool = False) -> Iterator[Callable[[Record], None]]:
        """A list: an array with `json`, a sequence with `yaml`, one object a line else, or a table
        for people (chat lines when `chat`). Nothing but a table is held in memory."""
        if self.human and not chat:
            rows: list[Record] = []
            yield rows.append
            if rows:
                self._write(self._view.table(rows))
            return
        count = 0

        def add(record: Record) -> None:
            nonlocal count
            if self.mode == "json":
                self._write(("[\n" if count == 0 else ",\n") + self._json(record), end="")
            elif self.mode == "yaml":
                self._write(self._yaml([record]))
            else:
                self.event(record)
            count += 1

        try:
            yield add
        except ClosedPipe:
            raise
        except BaseException:
            if self.mode == "json" and count:
                self._write("\n]")
            raise
        if self.mode == "json":
            self._write("\n]" if count else "[]")
        elif self.mode == "yaml" and not count:
            self._write("[]")

    def event(self, record: Record) -> int:
        """One record of a stream: one flushed line. Returns the bytes written."""
        return self._write(self._stream_text(record))

    def size(self, record: Record) -> int:
        """The bytes `event` will write for this record."""
        return len(self._data(self._stream_text(record)))

    def document(self, value: Mapping[str, Any]) -> None:
        """A JSON document (a schema): indented for people."""
        if self.mode == "yaml":
            self._write(self._yaml(value))
        else:
            self._write(json.dumps(value, indent=2) if self.human else self._json(value))

    def grid(self, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table for people that is no list of records."""
        from guestctl.output.views import layout

        self._write(layout(headers, [[visible(cell) for cell in row] for row in rows], self.terminal))

    def text(self, text: str) -> None:
        """Data that is text. Exact in a pipe; made visible on a terminal."""
        self._write(visible(text, lines=True) if self.terminal.stdout else text)

    def labelled(self, label: str, text: str, style: str | None = None) -> None:
        """Data for people: a label of ours, and text whose further lines stand under its first."""
        self._write(self._view.labelled(label, text, style))

    def verbatim(self, text: str) -> None:
        """Our own text (help, scripts, a document already escaped), as it is."""
        self._write(text, end="")

    @contextmanager
    def paged(self) -> Iterator[None]:
        """Through GUESTCTL_PAGER when it is set and a person is looking; a closed pager ends it quietly."""
        command = self._environ.get("GUESTCTL_PAGER", "")
        if not (command and self.terminal.stdin and self.terminal.stdout):
            yield
            return
        import shlex
        import subprocess

        try:
            words = shlex.split(command)
            process = subprocess.Popen(
                words, stdin=subprocess.PIPE, env={"LESS": "-R", **self._environ, "LESSSECURE": "1"}
            )
        except (OSError, ValueError, IndexError) as error:
            raise UsageError(f"GUESTCTL_PAGER={command}: {error}") from error
        self._pager, self.paging = process.stdin, True
        try:
            yield
        finally:
            self._pager = None
            try:
                _read_out(process)
            finally:
                self.paging = False

    def abandoned(self) -> bool:
        """Whether whoever read our stdout has gone, so that a silent stream can end too."""
        if self._stdout is None or not hasattr(select, "poll"):
            return False
        try:
            poll = select.poll()
            poll.register(self._stdout.fileno(), 0)
            return any(found & (select.POLLERR | select.POLLNVAL) for _, found in poll.poll(0))
        except (OSError, ValueError):
            return False

    @contextmanager
    def through(self, screen: IO[Any]) -> Iterator[None]:
        """Everything, talk too, goes to `screen`: a stream that somebody else draws on the terminal."""
        before, self._stdout, self._stderr = (self._stdout, self._stderr), screen, screen
        self._drawn = True
        try:
            yield
        finally:
            self._drawn = False
            self._stdout, self._stderr = before

    # --- talk ---

    def say(self, text: str) -> None:
        """A remark for people, dropped by --quiet."""
        if self._quiet:
            return
        if self.json_errors and not (self.terminal.stderr or self.verbose):
            self._held.append(visible(text))
        else:
            self._talk(visible(text))

    def answer(self, text: str) -> None:
        """What a person at a prompt asked for; --quiet does not drop it."""
        self._talk(visible(text))

    def release(self) -> None:
        """Let go of the remarks that waited: the command went well so far."""
        held, self._held = self._held, []
        for line in held:
            self._talk(line)

    def detail(self, text: str, level: int = 1) -> None:
        """A remark for --verbose (or -vv)."""
        if self.verbose >= level:
            self._talk(visible(text))

    def interrupted(self) -> None:
        """A sign to whoever is at the terminal that Ctrl-C was seen. Runs inside a signal handler: it only writes."""
        if self.terminal.stderr and not (self._quiet or self._drawn or self.paging):
            self._talk("\rstopping")  # over the ^C that the terminal shows

    def progress(self, doing: str, monotonic: Callable[[], float]) -> Callable[[int, int], None] | None:
        """A callback (done, total) that draws a bar on a terminal's stderr, and only once the work has
        lasted. Work that begins again (another file, another try) is waited for again."""
        if self._quiet or not self.terminal.stderr:
            return None
        begun, before = monotonic(), 0

        def draw(done: int, total: int) -> None:
            nonlocal begun, before
            if done < before:
                begun = monotonic()
            before = done
            if not total or (monotonic() - begun < _PATIENCE and not self._drawing):
                return
            filled = _BAR * min(done, total) // total
            bar = "#" * filled + "-" * (_BAR - filled)
            self._emit(self._stderr, f"\r{doing} [{bar}] {100 * min(done, total) // total:3} %")
            self._drawing = True
            if done >= total:
                self._emit(self._stderr, "\n")
                self._drawing = False

        return draw

    def remark(self, record: Record) -> None:
        """An event as talk: only for someone looking, or with --verbose."""
        if not self._quiet and (self.terminal.stderr or self.verbose):
            self._talk(self._talk_view.line(record))

    def ask(self, question: str, stdin: IO[str]) -> bool:
        """A yes-or-no question; anything but yes is no."""
        self._emit(self._stderr, f"{visible(question)} [y/N] ")
        return stdin.readline().strip().lower() in {"y", "yes"}

    def failure(self, failure: Failure) -> None:
        """Print one failure: an `error:` line and a `hint:` line, or one JSON object."""
        if self.json_errors:
            self._held.clear()
            self._talk(
                json.dumps(error_record(failure), ensure_ascii=self.terminal.stderr, separators=(",", ":"), default=str)
            )
            return
        what = failure.message.rstrip(". ")
        if failure.retry_after is not None:
            what += f" (retry after {failure.retry_after:g} s)"
        self._talk_labelled("error:", what)
        if failure.hint:
            self._talk_labelled("hint:", failure.hint)

    def _talk_labelled(self, label: str, text: str) -> None:
        """Print a label and a text, whose further lines are indented under the first on a terminal."""
        width = self.terminal.talk_width
        room = None if width is None else width - _LABEL
        self._talk(label.ljust(_LABEL) + ("\n" + " " * _LABEL).join(wrap(visible(text), room)))

    def traceback(self, error: BaseException, masked: Callable[[str], str]) -> None:
        """Where it happened, for --debug: never with values of variables, and secrets in messages `masked`."""
        import traceback

        self.trouble(masked("".join(traceback.format_exception(error)).rstrip("\n")))

    def trouble(self, text: str) -> None:
        """Talk that --quiet does not drop and that is ours (a traceback without locals)."""
        self._talk(visible(text, lines=True))

    # --- writing ---

    @property
    def _view(self) -> View:
        if self._view_made is None:
            from guestctl.output.views import View

            self._view_made = View(self.terminal, self._now, lambda: self.markdown())
        return self._view_made

    @property
    def _talk_view(self) -> View:
        from guestctl.output.views import View

        return View(self.terminal.for_talk(), self._now)

    def _json(self, value: Any) -> str:
        """Exact in a pipe; on a terminal, and where UTF-8 cannot carry it, in `\\u` escapes."""
        if not self.terminal.stdout:
            text = _EXACT.encode(value)
            if text.isascii() or _encodable(text):
                return text
        return json.dumps(value, ensure_ascii=True, separators=(",", ":"))

    def _yaml(self, value: Any) -> str:
        import yaml

        return yaml.safe_dump(
            value, allow_unicode=not self.terminal.stdout, sort_keys=False, width=2**31, default_flow_style=False
        ).rstrip("\n")

    @contextmanager
    def gathered(self) -> Iterator[Callable[[], None]]:
        """Lines go out in pieces of `PIECE` bytes, not one by one. The function given hands on what is
        held; it is to be called before anything is waited for, so that no line waits with us."""
        self._gathered = bytearray()
        try:
            yield self._hand_on
        finally:
            self._hand_on()
            self._gathered = None

    def _hand_on(self) -> None:
        if self._gathered:
            data, self._gathered = bytes(self._gathered), bytearray()
            self._put_out(data)

    def _write(self, text: str, end: str = "\n") -> int:
        if self._held:
            self.release()
        data = self._data(text, end)
        if self._gathered is None:
            self._put_out(data)
        else:
            self._gathered += data
            if len(self._gathered) >= PIECE:
                self._hand_on()
        return len(data)

    def _put_out(self, data: bytes) -> None:
        try:
            if self._pager is not None:
                self._pager.write(data)
                self._pager.flush()
            else:
                _put(self._stdout, data)
        except BrokenPipeError as error:
            raise ClosedPipe from error
        except OSError as error:
            raise UsageError(f"stdout: {error.strerror or error}", code="output.failed") from error

    def _stream_text(self, record: Record) -> str:
        if self.human:
            return self._view.line(record)
        return "---\n" + self._yaml(record) if self.mode == "yaml" else self._json(record)

    def _data(self, text: str, end: str = "\n") -> bytes:
        return (text + end).encode(self._encoding(self._stdout) if self.human else "utf-8", "backslashreplace")

    def _talk(self, line: str) -> None:
        broken, self._drawing = "\n" if self._drawing else "", False
        self._emit(self._stderr, f"{broken}{line}\n")

    def _emit(self, stream: IO[Any] | None, text: str) -> None:
        with _ignored(OSError, ValueError):
            _put(stream, text.encode(self._encoding(stream), "backslashreplace"))

    @staticmethod
    def _encoding(stream: IO[Any] | None) -> str:
        return getattr(stream, "encoding", None) or "utf-8"


def _read_out(pager: Popen[bytes]) -> None:
    """Wait until the pager has gone. Ctrl-C at its terminal reaches us, too, and is meant for it."""
    while pager.returncode is None:
        with _ignored(KeyboardInterrupt):
            if pager.stdin is not None:
                with _ignored(OSError):
                    pager.stdin.close()
            pager.wait()


@contextmanager
def _ignored(*kinds: type[BaseException]) -> Iterator[None]:
    try:
        yield
    except kinds:
        pass


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can carry and UTF-8 cannot
        return False
    return True


def _put(stream: IO[Any] | None, data: bytes) -> None:
    """Write all of it now, past Python's buffers: nothing is left to fail when the process ends.
    A pipe that somebody made non-blocking is waited for."""
    if stream is None:  # started with the descriptor closed
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
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:
            select.select([], [descriptor], [])
