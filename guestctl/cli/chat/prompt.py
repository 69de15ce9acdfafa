"""`chat`: the terminal side of a conversation, with line editing.

Knows: prompt_toolkit, loaded when the conversation begins; how lines come in while others go out.
Must not know: what a line means (`guestctl.cli.chat.loop`), how anything is sent.

The keyboard has a thread of its own, in which prompt_toolkit draws the line being typed; the command
itself, the client and every signal stay in the main thread, as in any other command. What the main
thread shows is drawn in the keyboard's thread, above the line, and the main thread waits for that:
nothing can get lost between the two. (prompt_toolkit's own proxy for stdout does not wait, and
loses what arrives while a line is being accepted.)
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

import typer

from guestctl.cli.invocation import Environment, Invocation
from guestctl.cli.options import command
from guestctl.cli.signals import give
from guestctl.core.errors import UsageError

if TYPE_CHECKING:
    from prompt_toolkit.output import Output as Drawing

    from guestctl.cli.chat.loop import Desk, Input

#: Seconds the keyboard's thread has for putting the terminal back as it was.
_FAREWELL = 2.0


@command("guestctl chat", "guestctl chat -s cart --replay 50")
def chat(
    run: Invocation,
    replay: Annotated[int, typer.Option("--replay", metavar="N", min=0, help="show the last N messages first")] = 10,
) -> None:
    """Talk, at a terminal: live replies above the line being typed.

    A number picks what is offered; /help lists the commands: /pick, /form, /file, /history, /end. Ctrl-D
    leaves, Ctrl-C clears the line and the second one leaves with 130. The conversation goes on without
    you. --timeout is for each answer of the service.
    """
    if not (run.out.terminal.stdin and run.out.terminal.stdout):
        raise UsageError(
            "chat needs a terminal on stdin and stdout", hint="In scripts use `guestctl send` and `guestctl listen`."
        )
    if run.options.output not in {None, "auto", "table"}:
        raise UsageError("chat is for people, it has no other output", hint="`guestctl listen -o jsonl` has.")
    run.out.mode, run.out.json_errors = "table", False
    run.client.session()
    from guestctl.cli.chat.loop import Chat

    with _seated(run.world) as (desk, screen), run.out.through(screen):
        run.out.say(f"session {run.client.session_name}: /help lists the commands, Ctrl-D leaves")
        Chat(run.client, desk, run.out, cwd=run.world.cwd, replay=replay).run()


class _Stop(Exception):
    """The command is over: stop reading."""


@contextmanager
def _seated(world: Environment) -> Iterator[tuple[Desk, Any]]:
    """A keyboard that is being read, and a screen; the terminal is as it was afterwards."""
    if world.environ.get("TERM", "dumb") in {"dumb", "unknown"} and os.name == "posix":
        plain = PlainKeyboard(world)
        with plain.patience.heeded():
            yield plain, world.stdout
        return
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.input import create_input
    from prompt_toolkit.output import create_output

    output = create_output(world.stdout)
    if hasattr(output, "enable_cpr"):
        # Asking a terminal where its cursor is makes plain ones answer late or not at all.
        output.enable_cpr = False
    with create_app_session(input=create_input(world.stdin), output=output):
        keyboard = Keyboard(output)
        keyboard.begin()
        try:
            with keyboard.patience.heeded():
                yield keyboard, keyboard
        finally:
            keyboard.stop()


class Patience:
    """The main thread's wait for a connection, which whoever leaves cuts short. Connecting blocks, as long as
    --timeout allows: a signal is what reaches it."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._waiting = self._left = self._cut = False

    def waiting(self, yes: bool) -> None:
        from guestctl.cli.chat.loop import Hurried

        # With the lock: a signal was either sent before, and arrives here at the latest, or is not sent.
        with self._turn:
            self._waiting = yes
        if yes and self._left:
            raise Hurried

    def end(self) -> None:
        """In the keyboard's thread: the person has left."""
        with self._turn:
            self._left = True
            if self._waiting and not self._cut:
                self._cut = True
                give(signal.SIGINT)

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Tell our signal from a Ctrl-C, which means what it meant."""
        from guestctl.cli.chat.loop import Hurried

        before = signal.getsignal(signal.SIGINT)

        def heard(number: int, frame: FrameType | None) -> None:
            if self._cut:
                raise Hurried
            if callable(before):
                before(number, frame)

        signal.signal(signal.SIGINT, heard)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


class Keyboard:
    """Reads lines in a thread of its own, and is the screen above them: a stream without a descriptor, so
    that nobody writes past it. What `_read` calls runs in the thread, everything else in the main one."""

    encoding = "utf-8"

    def __init__(self, output: Drawing) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import InMemoryHistory

        from guestctl.cli.chat.loop import PROMPT

        self._output = output
        self._typed: SimpleQueue[Input] = SimpleQueue()
        self._above = ""
        self._before = PROMPT
        self._armed = False
        self.patience = Patience()
        self.waiting = self.patience.waiting
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
        # The thread, and what is drawn in it, belong to the same prompt_toolkit session as we do.
        self._drawing = contextvars.copy_context()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=contextvars.copy_context().run, args=(self._read,), daemon=True)

    def begin(self) -> None:
        """Start reading; returns when the terminal is ready for it."""
        self._thread.start()
        while not self._ready.wait(0.05) and self._thread.is_alive():
            pass

    def stop(self) -> None:
        """Stop reading, whatever is being typed, and wait until the terminal is itself again."""
        self._there(lambda: self._leave(_Stop()))
        self._thread.join(_FAREWELL)

    def take(self) -> Input | None:
        try:
            return self._typed.get_nowait()
        except Empty:
            return None

    def status(self, text: str) -> None:
        self._above = text
        self._there(self._prompt.app.invalidate)

    def prompt(self, text: str) -> None:
        self._before = text
        self._there(self._prompt.app.invalidate)

    def remember(self, text: str) -> None:
        if text.strip():
            self._there(lambda: self._history.append_string(text))

    def write(self, text: str) -> int:
        """Draw above the line; returns when it is there."""
        drawn = threading.Event()

        def above() -> None:
            # Not `run_in_terminal`: that leaves raw mode meanwhile, and a key pressed then is lost or doubled.
            self._prompt.app.renderer.erase()
            self._draw(text.replace("\n", "\r\n"))
            self._prompt.app.invalidate()
            drawn.set()

        if self._there(above):
            while not drawn.wait(0.05) and self._thread.is_alive():
                pass
        if not drawn.is_set():
            self._draw(text)
        return len(text)

    def _draw(self, text: str) -> None:
        # Raw: our styles pass, and nothing of theirs does, for all that is remote has been made visible.
        self._output.write_raw(text)
        self._output.flush()

    def flush(self) -> None:
        """Nothing waits here."""

    # --- in the thread ---

    def _read(self) -> None:
        from guestctl.cli.chat.loop import Broken, Left

        try:
            self._prompt.prompt(pre_run=self._ready.set)
        except EOFError:
            self._typed.put(Left())
            self.patience.end()
        except _Stop:
            pass
        except BaseException as error:
            self._typed.put(Broken(error))

    def _message(self) -> Any:
        from guestctl.output.terminal import visible

        width = self._output.get_size().columns
        above = "Ctrl-C again leaves" if self._armed else visible(self._above)
        head = [("", above[: max(1, width - 1)] + "\n")] if above else []
        return [*head, ("", visible(self._before))]

    def _changed(self, buffer: Any) -> None:
        from guestctl.cli.chat.loop import Pressed, is_command

        self._armed = False
        text = buffer.text.strip()
        if text and not text.isdigit() and not is_command(text):
            self._typed.put(Pressed())

    def _keys(self) -> Any:
        from prompt_toolkit.key_binding import KeyBindings

        from guestctl.cli.chat.loop import Typed

        keys = KeyBindings()

        @keys.add("enter")
        def enter(event: Any) -> None:
            buffer = event.current_buffer
            text = buffer.text
            buffer.append_to_history()
            buffer.reset()
            self._armed = False
            self._typed.put(Typed(text))

        @keys.add("c-c")
        @keys.add("<sigint>")
        def interrupt(event: Any) -> None:
            if self._armed:
                self._leave(_Stop())
                give(signal.SIGINT)  # what a terminal does at Ctrl-C while it is not in raw mode
            else:
                event.current_buffer.reset()
                self._armed = True

        return keys

    def _leave(self, why: BaseException) -> None:
        with suppress(Exception):  # it is leaving by itself
            self._prompt.app.exit(exception=why)

    def _there(self, do: Callable[[], object]) -> bool:
        """Have it done in the thread; whether that will read it."""
        loop = self._prompt.app.loop
        if loop is None or not self._thread.is_alive():
            return False
        try:
            loop.call_soon_threadsafe(do, context=self._drawing)
        except RuntimeError:  # closed meanwhile
            return False
        return True


class PlainKeyboard:
    """For a terminal that can do nothing: whole lines, as the terminal itself lets them be edited."""

    def __init__(self, world: Environment) -> None:
        self._world = world
        self._typed: SimpleQueue[Input] = SimpleQueue()
        self.patience = Patience()
        self.waiting = self.patience.waiting
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        from guestctl.cli.chat.loop import Broken, Left, Typed

        try:
            while line := self._world.stdin.readline():
                self._typed.put(Typed(line.rstrip("\r\n")))
            self._typed.put(Left())
            self.patience.end()
        except (OSError, ValueError) as error:
            self._typed.put(Broken(error))

    def take(self) -> Input | None:
        try:
            return self._typed.get_nowait()
        except Empty:
            return None

    def status(self, text: str) -> None:
        """There is no place for it."""

    def prompt(self, text: str) -> None:
        from guestctl.cli.chat.loop import PROMPT
        from guestctl.output.terminal import visible

        if text != PROMPT:
            self._world.stdout.write(visible(text) + "\n")
            self._world.stdout.flush()

    def remember(self, text: str) -> None:
        """There is no history."""
