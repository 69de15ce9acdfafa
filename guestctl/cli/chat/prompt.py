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
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

from guestctl.cli.invocation import Environment, Invocation
from guestctl.cli.options import command
from guestctl.cli.parameters import CommandOption
from guestctl.cli.signals import send_signal
from guestctl.core.errors import UsageError

if TYPE_CHECKING:
    from prompt_toolkit.output import Output as Drawing

    from guestctl.cli.chat.loop import ChatInput, InputEvent

#: Seconds in which the keyboard thread must restore the terminal.
_RESTORE_TIMEOUT = 2.0


@command("guestctl chat", "guestctl chat -s cart --replay 50")
def chat(
    run: Invocation,
    replay: Annotated[int, CommandOption("--replay", metavar="N", min=0, help="show the last N messages first")] = 10,
) -> None:
    """Chat in the terminal: replies appear above the line you type.

    A number picks an offered option. /help lists the commands: /pick, /form, /file, /history, /end. Ctrl-D
    leaves; Ctrl-C clears the line, a second Ctrl-C leaves with exit code 130. The conversation continues
    after you leave. --timeout applies to each answer of the service.
    """
    if not (run.out.terminal.stdin and run.out.terminal.stdout):
        raise UsageError(
            "chat needs a terminal on stdin and stdout", hint="in scripts, use `guestctl send` and `guestctl listen`"
        )
    if run.options.output not in {None, "auto", "table"}:
        raise UsageError(
            "chat has no output format but the terminal's", hint="use `guestctl listen -o jsonl` for records"
        )
    run.out.mode, run.out.json_errors = "table", False
    run.out.usual_sources = frozenset({"live", "history", "replayed"})
    run.client.session()
    from guestctl.cli.chat.loop import Chat

    with _terminal(run.world) as (keyboard, screen), run.out.through(screen):
        run.out.notice(f"session {run.client.session_name}: /help lists the commands, Ctrl-D leaves")
        Chat(run.client, keyboard, run.out, cwd=run.world.cwd, replay=replay).run()


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
        keyboard = Keyboard(output)
        keyboard.start()
        try:
            with keyboard.connect_wait.handling_signals():
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

    def __init__(self, output: Drawing) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import InMemoryHistory

        from guestctl.cli.chat.loop import PROMPT

        self._output = output
        self._typed: SimpleQueue[InputEvent] = SimpleQueue()
        self._status = ""
        self._prompt_text = PROMPT
        self._ctrl_c_leaves = False
        self.connect_wait = ConnectWait()
        self.set_connecting = self.connect_wait.set_connecting
        self._history = InMemoryHistory()
        self._prompt: PromptSession[str] = PromptSession(
            self._message,
            history=self._history,
            key_bindings=self._keys(),
            erase_when_done=True,
            enable_history_search=True,
            enable_suspend=True,
            reserve_space_for_menu=0,
            output=output,
        )
        self._prompt.default_buffer.on_text_changed += self._changed
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

        width = self._output.get_size().columns
        above = "Ctrl-C again leaves" if self._ctrl_c_leaves else visible(self._status)
        head = [("", above[: max(1, width - 1)] + "\n")] if above else []
        return [*head, ("", visible(self._prompt_text))]

    def _changed(self, buffer: Any) -> None:
        from guestctl.cli.chat.loop import LineChanged, is_command

        self._ctrl_c_leaves = False
        text = buffer.text.strip()
        if text and not text.isdigit() and not is_command(text):
            self._typed.put(LineChanged())

    def _keys(self) -> Any:
        from prompt_toolkit.key_binding import KeyBindings

        from guestctl.cli.chat.loop import LineEntered

        keys = KeyBindings()

        @keys.add("enter")
        def enter(event: Any) -> None:
            buffer = event.current_buffer
            text = buffer.text
            buffer.append_to_history()
            buffer.reset()
            self._ctrl_c_leaves = False
            self._typed.put(LineEntered(text))

        @keys.add("c-c")
        @keys.add("<sigint>")
        def interrupt(event: Any) -> None:
            if self._ctrl_c_leaves:
                self._exit_prompt(_Stop())
                send_signal(signal.SIGINT)  # as a terminal does at Ctrl-C outside raw mode
            else:
                event.current_buffer.reset()
                self._ctrl_c_leaves = True

        return keys

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
