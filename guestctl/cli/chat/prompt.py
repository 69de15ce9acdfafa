"""`chat`: the terminal side of a conversation, with line editing.

Knows: prompt_toolkit, loaded when the conversation starts; how lines are read while other lines are printed.
Must not know: what a line means (`guestctl.cli.chat.loop`), how anything is sent.

The keyboard has a thread of its own, in which prompt_toolkit draws the line being typed. The command, the
client and every signal stay in the main thread, as in any other command. Output of the main thread is drawn
by the keyboard thread, above the line being typed, and the main thread waits until it is drawn. So nothing is
lost between the two. (prompt_toolkit's own proxy for stdout does not wait, and loses what arrives while a line
is being accepted.)
"""

from __future__ import annotations

import contextvars
import os
import signal
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

from guestctl.cli.chat.completions import complete
from guestctl.cli.chat.resizing import rows_above, wraps_again
from guestctl.cli.invocation import Environment, Invocation
from guestctl.cli.options import command
from guestctl.cli.parameters import CommandOption, TraceAttribute
from guestctl.cli.signals import send_signal
from guestctl.core.errors import UsageError

if TYPE_CHECKING:
    from asyncio import TimerHandle

    from prompt_toolkit.layout.screen import Char
    from prompt_toolkit.output import Output as Drawing

    from guestctl.cli.chat.loop import ChatInput, InputEvent

#: Seconds in which the keyboard thread must restore the terminal.
_RESTORE_TIMEOUT = 2.0
#: Seconds in which Ctrl-Z stops the process. Without a shell to return to, the system ignores it.
_SUSPEND_TIMEOUT = 1.0
#: Seconds without another new width before the line is drawn again; tmux reports a width up to 0.25 s late.
_RESIZE_PAUSE = 0.3
#: Rows above the line being typed that completions may use.
_CHOICE_ROWS = 5


@command("guestctl chat", "guestctl chat -s cart --replay 50")
def chat(
    run: Invocation,
    replay: Annotated[int, CommandOption("--replay", metavar="N", min=0, help="show the last N messages first")] = 10,
    trace_attribute: TraceAttribute = None,
) -> None:
    """Chat in the terminal: replies appear above the line you type.

    Without a stored session, chat creates one and reports it. A number picks an offered option. /help lists the
    commands: /pick, /form, /file, /history, /end. Alt-Enter starts a new line; Tab completes commands and the
    paths after /file. Ctrl-D leaves; Ctrl-C clears the line, a second Ctrl-C leaves with exit code 130. The
    conversation continues after you leave. --timeout applies to each answer of the service.
    """
    if not (run.out.terminal.stdin and run.out.terminal.stdout):
        raise UsageError(
            "chat needs a terminal on stdin and stdout", hint="in scripts, use `guestctl send` and `guestctl listen`"
        )
    if run.options.output not in {None, "auto", "table"}:
        raise UsageError(
            "chat has no output format but the terminal's", hint="use `guestctl listen -o jsonl` for records"
        )
    run.trace_attribute = trace_attribute
    run.out.mode, run.out.json_errors = "table", False
    run.out.usual_sources = frozenset({"live", "history", "replayed"})
    _need_session(run)
    from guestctl.cli.chat.loop import Chat

    with _terminal(run.world) as (keyboard, screen), run.out.through(screen):
        run.out.notice(f"session {run.client.session_name}: /help lists the commands, Ctrl-D leaves")
        Chat(run.client, keyboard, run.out, cwd=run.world.cwd, replay=replay).run()


def _need_session(run: Invocation) -> None:
    """Create a session if none is stored."""
    created = run.client.create_missing()
    if created is not None:
        run.out.notice(f'created session "{created.name}", because there was none')


class _Stop(Exception):
    """The command has ended: stop reading."""


@contextmanager
def _terminal(world: Environment) -> Iterator[tuple[ChatInput, Any]]:
    """Read the keyboard and yield it with the screen; restore the terminal afterwards."""
    if world.environ.get("TERM", "dumb") in {"dumb", "unknown"} and os.name == "posix":
        plain = PlainKeyboard(world)
        with plain.connect_wait.handling_signals():
            yield plain, world.stdout
        return
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.input import create_input
    from prompt_toolkit.output import create_output

    output = create_output(world.stdout)
    if hasattr(output, "enable_cpr"):
        # prompt_toolkit asks the terminal for the cursor's position; simple terminals answer late or never.
        output.enable_cpr = False
    with create_app_session(input=create_input(world.stdin), output=output):
        keyboard = Keyboard(output, world)
        keyboard.start()
        try:
            with keyboard.connect_wait.handling_signals(), keyboard.watching_terminal():
                yield keyboard, keyboard
        finally:
            keyboard.stop()


class ConnectWait:
    """The main thread's wait for a connection, which ends when the user leaves.

    Connecting blocks for up to --timeout. Only a signal interrupts it, so the keyboard thread sends one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = self._left = self._interrupted = False

    def set_connecting(self, connecting: bool) -> None:
        from guestctl.cli.chat.loop import LeftWhileConnecting

        # The lock decides the order: a signal was sent before, and arrives here at the latest, or is not sent.
        with self._lock:
            self._waiting = connecting
        if connecting and self._left:
            raise LeftWhileConnecting

    def leave(self) -> None:
        """End the wait, because the user left. Called in the keyboard thread."""
        with self._lock:
            self._left = True
            if self._waiting and not self._interrupted:
                self._interrupted = True
                send_signal(signal.SIGINT)

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Distinguish the keyboard thread's signal from a real Ctrl-C, which keeps its handler."""
        from guestctl.cli.chat.loop import LeftWhileConnecting

        before = signal.getsignal(signal.SIGINT)

        def on_interrupt(number: int, frame: FrameType | None) -> None:
            if self._interrupted:
                raise LeftWhileConnecting
            if callable(before):
                before(number, frame)

        signal.signal(signal.SIGINT, on_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


class Keyboard:
    """Reads lines in a thread of its own, and is the stream that writes above them.

    The stream has no file descriptor, so that no code can bypass it. `_read` and what it calls run in the
    keyboard thread, everything else in the main thread.
    """

    encoding = "utf-8"

    def __init__(self, output: Drawing, world: Environment) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import InMemoryHistory

        from guestctl.cli.chat.loop import PROMPT

        self._output = output
        self._typed: SimpleQueue[InputEvent] = SimpleQueue()
        self._status = ""
        self._prompt_text = PROMPT
        self._ctrl_c_leaves = False
        self._cwd = world.cwd
        #: The completions that Tab found, shown until the line changes.
        self._choices: tuple[str, ...] = ()
        self._wraps_again = wraps_again(world.environ)
        self._columns = output.get_size().columns
        self._continued = threading.Event()
        self._redraw: TimerHandle | None = None
        self.connect_wait = ConnectWait()
        self.set_connecting = self.connect_wait.set_connecting
        self._history = InMemoryHistory()
        self._prompt: PromptSession[str] = PromptSession(
            self._message,
            history=self._history,
            key_bindings=self._keys(),
            erase_when_done=True,
            enable_history_search=True,
            multiline=True,
            prompt_continuation=lambda width, number, wrapped: "" if wrapped else " " * len(PROMPT),
            reserve_space_for_menu=0,
            output=output,
        )
        self._prompt.default_buffer.on_text_changed += self._changed
        # Every key that enters a line ends in this handler. The one it replaces would end the prompt.
        self._prompt.default_buffer.accept_handler = self._entered
        self._prompt.app.before_render += lambda app: self._follow_width()
        self._prompt.app.terminal_size_polling_interval = None  # `watching_terminal` notices a new width
        # The thread, and what it draws, belong to the same prompt_toolkit session as the main thread.
        self._drawing = contextvars.copy_context()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=contextvars.copy_context().run, args=(self._read,), daemon=True)

    def start(self) -> None:
        """Start reading. Return when the terminal is ready."""
        self._thread.start()
        while not self._ready.wait(0.05) and self._thread.is_alive():
            pass

    def stop(self) -> None:
        """Stop reading, discard the line being typed, and wait until the terminal is restored."""
        self._in_thread(lambda: self._exit_prompt(_Stop()))
        self._thread.join(_RESTORE_TIMEOUT)

    @contextmanager
    def watching_terminal(self) -> Iterator[None]:
        """Redraw when the width changes, and when the process continues after a stop."""

        def on_resize(number: int, frame: FrameType | None) -> None:
            self._in_thread(self._redraw_later)

        def on_continue(number: int, frame: FrameType | None) -> None:
            self._continued.set()
            self._in_thread(self._resume)

        handlers = {signal.SIGWINCH: on_resize, signal.SIGCONT: on_continue}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def next_event(self) -> InputEvent | None:
        try:
            return self._typed.get_nowait()
        except Empty:
            return None

    def show_status(self, text: str) -> None:
        self._status = text
        self._in_thread(self._prompt.app.invalidate)

    def set_prompt(self, text: str) -> None:
        self._prompt_text = text
        self._in_thread(self._prompt.app.invalidate)

    def add_to_history(self, text: str) -> None:
        if text.strip():
            self._in_thread(lambda: self._history.append_string(text))

    def write(self, text: str) -> int:
        """Draw a text above the line being typed. Return when it is drawn."""
        drawn = threading.Event()

        def above() -> None:
            # `run_in_terminal` would leave raw mode while it draws, and lose or repeat a key pressed then.
            self._follow_width()
            self._prompt.app.renderer.erase()
            self._draw(text.replace("\n", "\r\n"))
            self._prompt.app.invalidate()
            drawn.set()

        if self._in_thread(above):
            while not drawn.wait(0.05) and self._thread.is_alive():
                pass
        if not drawn.is_set():
            self._draw(text)
        return len(text)

    def _draw(self, text: str) -> None:
        # Raw output keeps guestctl's styles. Remote text is safe: its control characters were escaped earlier.
        self._output.write_raw(text)
        self._output.flush()

    def flush(self) -> None:
        """Do nothing: `write` does not buffer."""

    # --- keyboard thread ---

    def _read(self) -> None:
        from guestctl.cli.chat.loop import InputClosed, InputFailed

        try:
            self._prompt.prompt(pre_run=self._ready.set)
        except EOFError:
            self._typed.put(InputClosed())
            self.connect_wait.leave()
        except _Stop:
            pass
        except BaseException as error:
            self._typed.put(InputFailed(error))

    def _message(self) -> Any:
        from guestctl.output.terminal import visible

        width = max(1, self._output.get_size().columns - 1)
        above = "Ctrl-C again leaves" if self._ctrl_c_leaves else visible(self._status)
        rows = [above[:width]] if above else []
        if self._choices:
            shown = textwrap.wrap("  ".join(visible(one).replace(" ", "\u00a0") for one in self._choices), width)
            rows += shown[:_CHOICE_ROWS] if len(shown) <= _CHOICE_ROWS else [*shown[: _CHOICE_ROWS - 1], "…"[:width]]
        return [("", "".join(f"{row}\n" for row in rows)), ("", visible(self._prompt_text))]

    def _follow_width(self) -> None:
        """Erase what is drawn if the width has changed since."""
        columns = self._output.get_size().columns
        if columns == self._columns:
            return
        self._columns = columns
        app = self._prompt.app
        screen = app.renderer.last_rendered_screen
        if screen is None:
            return
        cursor = screen.get_cursor_position(app.layout.current_window)
        if self._wraps_again:
            # prompt_toolkit would start at the row that was the first one before the terminal wrapped it.
            rows = [_widths(screen.data_buffer[y]) for y in range(cursor.y + 1)]
            self._output.cursor_up(max(0, rows_above(rows, cursor.x, columns) - cursor.y))
        app.renderer.erase()

    def _redraw_later(self) -> None:
        """Redraw when the width no longer changes.

        While the user drags the border of the window, the terminal can be narrower than the system reports. It
        would cut off a row drawn now.
        """
        if self._redraw is not None:
            self._redraw.cancel()
        loop = self._prompt.app.loop
        if loop is not None:
            self._redraw = loop.call_later(_RESIZE_PAUSE, self._prompt.app.invalidate, context=self._drawing)

    def _resume(self) -> None:
        """Return to raw mode, which the shell has left while the process was stopped, and draw the line again."""
        if not self._prompt.app.is_running:
            return
        self._prompt.app.input.raw_mode().__enter__()  # `prompt` restores the first mode at its end
        self._prompt.app.renderer.erase()
        self._prompt.app.invalidate()

    def _entered(self, buffer: Any) -> bool:
        """Queue a line that the user entered. Return False: the buffer becomes empty for the next one."""
        from guestctl.cli.chat.loop import LineEntered

        self._ctrl_c_leaves = False
        self._typed.put(LineEntered(buffer.text))
        return False

    def _changed(self, buffer: Any) -> None:
        from guestctl.cli.chat.loop import LineChanged, is_command

        self._ctrl_c_leaves = False
        self._choices = ()
        text = buffer.text.strip()
        if text and not text.isdigit() and not is_command(text):
            self._typed.put(LineChanged())

    def _keys(self) -> Any:
        from prompt_toolkit.application import run_in_terminal
        from prompt_toolkit.filters import is_searching
        from prompt_toolkit.key_binding import KeyBindings
        from prompt_toolkit.search import accept_search

        from guestctl.cli.chat.loop import COMMANDS

        keys = KeyBindings()

        @keys.add("enter", filter=~is_searching)
        @keys.add("c-o", filter=~is_searching)
        def enter(event: Any) -> None:
            event.current_buffer.validate_and_handle()

        @keys.add("enter", filter=is_searching)
        def enter_found_line(event: Any) -> None:
            # As in a shell: Enter sends the line that was found. Without one, it only leaves the search.
            wanted = event.current_buffer.text
            accept_search()
            line = self._prompt.default_buffer
            if wanted and wanted in line.text:
                line.validate_and_handle()

        @keys.add("escape", "enter", filter=~is_searching)
        def new_line(event: Any) -> None:
            event.current_buffer.newline(copy_margin=False)

        @keys.add("tab", filter=~is_searching)
        def complete_word(event: Any) -> None:
            buffer = event.current_buffer
            before = buffer.document.text_before_cursor
            found = complete(before, COMMANDS, self._cwd)
            if found is not None:
                if found.insert != before[found.start :]:
                    buffer.delete_before_cursor(len(before) - found.start)
                    buffer.insert_text(found.insert)
                self._choices = found.choices

        @keys.add("c-c", filter=~is_searching)
        @keys.add("<sigint>")
        def interrupt(event: Any) -> None:
            if self._ctrl_c_leaves:
                self._exit_prompt(_Stop())
                send_signal(signal.SIGINT)  # as a terminal does at Ctrl-C outside raw mode
            else:
                event.current_buffer.reset()
                self._choices = ()
                self._ctrl_c_leaves = True

        @keys.add("c-z")
        def suspend(event: Any) -> None:
            run_in_terminal(self._stop_process)

        return keys

    def _stop_process(self) -> None:
        """Stop the process group, and return when it continues."""
        # Another thread may receive the signal. Without the wait, this one could be back in raw mode before the stop.
        self._continued.clear()
        os.kill(0, signal.SIGTSTP)
        self._continued.wait(_SUSPEND_TIMEOUT)

    def _exit_prompt(self, why: BaseException) -> None:
        with suppress(Exception):  # the prompt is closing already
            self._prompt.app.exit(exception=why)

    def _in_thread(self, action: Callable[[], object]) -> bool:
        """Run an action in the keyboard thread. Return False if the thread no longer runs."""
        loop = self._prompt.app.loop
        if loop is None or not self._thread.is_alive():
            return False
        try:
            loop.call_soon_threadsafe(action, context=self._drawing)
        except RuntimeError:  # closed in between
            return False
        return True


def _widths(row: Mapping[int, Char]) -> list[int]:
    """Return the widths of a row's characters up to the last one that is not blank."""
    last = max((x for x, char in row.items() if char.char != " "), default=-1)
    return [row[x].width for x in range(last + 1)]


class PlainKeyboard:
    """For a terminal without cursor control: reads whole lines, edited by the terminal itself."""

    def __init__(self, world: Environment) -> None:
        self._world = world
        self._typed: SimpleQueue[InputEvent] = SimpleQueue()
        self.connect_wait = ConnectWait()
        self.set_connecting = self.connect_wait.set_connecting
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        from guestctl.cli.chat.loop import InputClosed, InputFailed, LineEntered

        try:
            while line := self._world.stdin.readline():
                self._typed.put(LineEntered(line.rstrip("\r\n")))
            self._typed.put(InputClosed())
            self.connect_wait.leave()
        except (OSError, ValueError) as error:
            self._typed.put(InputFailed(error))

    def next_event(self) -> InputEvent | None:
        try:
            return self._typed.get_nowait()
        except Empty:
            return None

    def show_status(self, text: str) -> None:
        """Do nothing: this terminal has no status line."""

    def set_prompt(self, text: str) -> None:
        from guestctl.cli.chat.loop import PROMPT
        from guestctl.output.terminal import visible

        if text != PROMPT:
            self._world.stdout.write(visible(text) + "\n")
            self._world.stdout.flush()

    def add_to_history(self, text: str) -> None:
        """Do nothing: this terminal has no line history."""
