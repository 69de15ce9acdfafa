"""`chat`: a conversation at a terminal, as one loop over received events and typed lines.

Knows: slash commands, which options can be picked, which lines wait for a connection, when to send a typing
indicator. Must not know: line editing, streams, any API.

A `Client` works in one thread, and one is enough: `listen` yields at every tick, and the loop sends the lines
typed since the last tick on the same socket. So there is one socket, one order of events and nothing to lock.
A second client would have an idle socket: it would notice a broken connection only at its next send, which
would leave that message in doubt. Only the keyboard has its own thread (see `ChatInput`), because the user
goes on typing while a message is sent. Lines typed without a connection wait for it. During a long upload,
received events wait until it is done.
"""

from __future__ import annotations

import shlex
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from guestctl.core.clock import rfc3339
from guestctl.core.errors import NEXT_STEPS, Failure, NetworkError, RateLimited, SessionOver, UsageError
from guestctl.core.model import (
    Connection,
    Event,
    FormField,
    Message,
    Outgoing,
    Presence,
    ServiceError,
    SessionEvent,
    Typing,
    Unknown,
)
from guestctl.core.values import immutable
from guestctl.dialects.capabilities import Ability
from guestctl.dialects.features import RichContent
from guestctl.output.records import Record, event_record

if TYPE_CHECKING:
    from guestctl.client import Client
    from guestctl.output.terminal import Terminal

#: Seconds between two looks at the keyboard.
TICK = 0.1
#: Seconds between two typing indicators (web-messaging.md §9), and the timeout of one.
TYPING_INTERVAL, TYPING_TIMEOUT = 5.0, 1.0
#: Seconds to show a typing indicator that has no duration.
TYPING_SHOWN = 5.0
#: Number of messages that `/history` shows.
DEFAULT_HISTORY = 20
PROMPT = "> "

HELP = (
    ("/pick N...", "pick from the offered options, by number or label; a number alone works too"),
    ("/form", "fill in the form, field by field"),
    ("/file PATH...", "send files"),
    ("/history [N|all]", "show the conversation again"),
    ("/say TEXT", "send a text that is a number or starts with a slash"),
    ("/end", "end the conversation"),
    ("/help", "show this list"),
    ("Alt-Enter", "start a new line in the message"),
    ("Tab", "complete a command, or a path after /file"),
    ("Ctrl-D", "leave"),
    ("Ctrl-C", "clear the line; a second Ctrl-C leaves"),
)


@immutable
class LineEntered:
    """The user entered a whole line."""

    text: str


@immutable
class LineChanged:
    """The line being typed has changed. It is neither empty nor a command."""


@immutable
class InputClosed:
    """The user left; no more lines will come."""


@immutable
class InputFailed:
    """The keyboard thread crashed."""

    error: BaseException


class LeftWhileConnecting(KeyboardInterrupt):
    """The user left while the main thread waited for a connection. The wait is no longer needed."""


InputEvent: TypeAlias = "LineEntered | LineChanged | InputClosed | InputFailed"


class ChatInput(Protocol):
    """The keyboard, and the lines around the one being typed."""

    def next_event(self) -> InputEvent | None:
        """Return the next input event, None if there is none. Never blocks."""

    def show_status(self, text: str) -> None:
        """Show a text above the line being typed; an empty text removes it."""

    def set_prompt(self, text: str) -> None:
        """Show a text before the line being typed."""

    def set_connecting(self, connecting: bool) -> None:
        """Report whether the chat waits for a connection. While it does, leaving raises `LeftWhileConnecting`."""

    def add_to_history(self, text: str) -> None:
        """Make an earlier guest message available through the arrow keys."""


class ChatOutput(Protocol):
    """The screen that shows the conversation."""

    @property
    def terminal(self) -> Terminal: ...

    def event(self, record: Record) -> object: ...

    def notice(self, text: str) -> None: ...

    def answer(self, text: str) -> None:
        """Print the answer to a command."""

    def failure(self, failure: Failure) -> None: ...


class FormPrompt:
    """A form that the user fills in field by field."""

    def __init__(self, message: Message, fields: Sequence[FormField]) -> None:
        self.message = message
        self.answers: dict[str, list[str]] = {}
        self._fields = list(fields)
        self._index = 0

    @property
    def field(self) -> FormField | None:
        """The current field, None after the last one."""
        return self._fields[self._index] if self._index < len(self._fields) else None

    def choices(self) -> list[str]:
        """Return the choices for the current field, one line each."""
        field = self.field
        return [] if field is None else [f"[{n}] {title}" for n, (title, _) in enumerate(field.items, 1)]

    def prompt(self) -> str:
        field = self.field
        if field is None:
            return PROMPT
        more = ["required"] if field.required else []
        more += ["separate several with commas"] if field.several else []
        more += ["a date such as 2026-03-09"] if field.kind == "date" and not field.items else []
        return f"{field.title or field.id}{' (' + ', '.join(more) + ')' if more else ''}: "

    def values(self, text: str) -> list[str]:
        """Return the typed text as values of the current field."""
        field = self.field
        parts = text.split(",") if field is not None and field.several else [text]
        return [part.strip() for part in parts if part.strip()]

    def answers_with(self, values: Sequence[str]) -> dict[str, list[str]]:
        """Return all answers with these values for the current field.

        Later required fields get a placeholder, so that the values can be validated before the form is complete.
        """
        answers = {**self.answers, self._fields[self._index].id: list(values)}
        return {**answers, **{later.id: ["-"] for later in self._fields[self._index + 1 :] if later.required}}

    def accept(self, values: Sequence[str]) -> None:
        if values:
            self.answers[self._fields[self._index].id] = list(values)
        self._index += 1


class Chat:
    """The guest's side of the conversation. `replay` is the number of earlier messages to show first."""

    def __init__(self, client: Client, keyboard: ChatInput, output: ChatOutput, *, cwd: Path, replay: int = 0) -> None:
        self._client = client
        self._keyboard = keyboard
        self._output = output
        self._cwd = cwd
        self._replay = replay
        self._clock = client.clock
        self._pending: deque[str] = deque()
        self._leaving = False
        self._live = False
        self._was_live = False
        self._connecting = "connecting"
        #: Ids of our messages that were shown when the service accepted them.
        self._own_shown: set[str] = set()
        #: The newest message with options, the newest with a form, and whether a number alone picks an option.
        self._choice_message: Message | None = None
        self._form_message: Message | None = None
        self._number_picks = False
        self._form: FormPrompt | None = None
        self._confirming = False
        self._typing_until = 0.0
        self._typing_name = ""
        self._typing_sent_at: float | None = None
        self._sends_typing = Ability.TYPING in client.dialect.abilities
        self._rich = client.dialect.rich_content
        self._status = ""

    def run(self) -> None:
        """Run until the user leaves or ends the conversation. Raises the Failure that ended it otherwise."""
        try:
            self._keyboard.set_connecting(True)
            try:
                self._converse()
            finally:
                self._keyboard.set_connecting(False)
        except LeftWhileConnecting:
            self._process_input()
        except SessionOver as failure:
            unsent = self._unsent()
            if unsent:
                failure.message += f"; {unsent} typed line{'s' * (unsent > 1)} not sent"
            raise

    def _unsent(self) -> int:
        """Return how many entered lines have not been processed."""
        while (typed := self._keyboard.next_event()) is not None:
            if isinstance(typed, LineEntered):
                self._pending.append(typed.text)
        return len(self._pending)

    def _converse(self) -> None:
        self._show_status()
        self._sends_typing = self._sends_typing and self._client.deployment().guest_typing
        replay = self._replay if Ability.HISTORY in self._client.dialect.abilities else 0
        with closing(self._client.listen(replay=replay, wake=lambda: TICK)) as events:
            for event in events:
                if event is not None:
                    self._handle_event(event)
                if self._process_input():
                    return
                self._show_status()

    # --- received events ---

    def _handle_event(self, event: Event) -> None:
        if isinstance(event, Message):
            self._handle_message(event)
        elif isinstance(event, Typing):
            if event.sender.role != "guest":
                seconds = TYPING_SHOWN if event.duration is None else event.duration / 1000
                self._typing_until = self._clock.monotonic() + min(seconds, 60.0)
                self._typing_name = event.sender.name or event.sender.role or "someone"
        elif isinstance(event, Connection):
            self._handle_connection(event)
        elif not isinstance(event, (Unknown, ServiceError)):  # the listener has reported a ServiceError
            self._show(event)
            if isinstance(event, (Presence, SessionEvent)) and _read_only(event):
                self._output.notice("the conversation is read-only: nothing more can be sent; Ctrl-D leaves")

    def _handle_message(self, message: Message) -> None:
        if message.id in self._own_shown:
            self._own_shown.discard(message.id)
            return
        self._show(message)
        if message.direction == "inbound":
            self._keyboard.add_to_history(message.text)
            return
        self._typing_until = 0.0
        if self._rich is None:
            return
        if self._rich.form_fields(message):
            self._form_message = message
            self._output.notice("/form fills in this form")
        elif _has_choice(self._rich, message):
            self._choice_message, self._number_picks = message, True

    def _handle_connection(self, event: Connection) -> None:
        if event.state == "live":
            if self._was_live and not self._live:
                more = f", {event.recovered} recovered" if event.recovered else ""
                self._output.notice(f"reconnected{more}")
            self._live = self._was_live = True
            self._keyboard.set_connecting(False)
        elif event.state == "lost" and self._live:
            self._live = False
            self._keyboard.set_connecting(True)
            self._output.notice(f"connection lost ({event.detail or 'no reason given'}); reconnecting")
        if event.state == "retrying":
            self._connecting = f"reconnecting, attempt {event.attempt}"

    def _show(self, event: Event) -> None:
        at = rfc3339(self._clock.now())
        self._output.event(event_record(event, self._client.session_name, at=at))

    def _show_status(self, text: str = "") -> None:
        if not text and not self._live:
            waiting = f"; {len(self._pending)} waiting to be sent" if self._pending else ""
            text = f"{self._connecting} …{waiting}"
        elif not text and self._typing_until > self._clock.monotonic():
            text = f"{self._typing_name} is typing …"
        if text != self._status:
            self._status = text
            self._keyboard.show_status(text)

    # --- input ---

    def _process_input(self) -> bool:
        """Process the pending input. Return whether the chat is over."""
        while (typed := self._keyboard.next_event()) is not None:
            if isinstance(typed, LineEntered):
                self._pending.append(typed.text)
            elif isinstance(typed, InputClosed):
                self._leaving = True
            elif isinstance(typed, InputFailed):
                raise typed.error
            elif not self._pending:
                self._send_typing()
        while self._pending and self._live:
            if self._process_line(self._pending.popleft()):
                return True
        if self._leaving and self._pending:
            raise NetworkError(f"left before the connection was restored: {len(self._pending)} not sent", written=False)
        return self._leaving

    def _process_line(self, text: str) -> bool:
        """Process one line. Return whether it ends the chat."""
        if self._confirming:
            self._confirming = False
            self._keyboard.set_prompt(PROMPT)
            if text.strip().lower() in {"y", "yes"}:
                return self._attempt(self._end)
            self._output.answer("not ended")
            return False
        command, *more = text.strip().split(maxsplit=1) or [""]
        rest = more[0] if more else ""
        if self._form is not None and command != "/cancel":
            self._fill_in(text)
            return False
        if not command:
            return False
        if not command.startswith("/"):
            if self._number_picks and self._choice_message is not None and _picks(text, self._choice_message):
                self._pick([text.strip()])
            else:
                self._send(text)
            return False
        do = _COMMANDS.get(command)
        if do is None:
            self._output.answer(f"unknown command {command}: /help lists the commands, /say {command} sends it as text")
            return False
        return self._attempt(lambda: do(self, rest.strip()))

    def _attempt(self, action: Callable[[], bool | None]) -> bool:
        """Run an action and print its failure. Return whether it ends the chat. Raises SessionOver."""
        try:
            return bool(action())
        except SessionOver:
            raise
        except Failure as failure:
            self._fail(failure)
            return False

    def _send(self, text: str = "", **more: Any) -> None:
        """Send a message and show it once the service has accepted it. Raises SessionOver, which ends the chat."""
        self._typing_until = 0.0
        try:
            sent = self._client.send(text, **more)
        except Failure as failure:
            sent_before = getattr(failure, "sent", None)
            for message in sent_before.earlier if sent_before is not None else ():
                self._show_own(message)
            if isinstance(failure, SessionOver):
                raise
            self._fail(failure)
            return
        for message in (*sent.earlier, *([sent.message] if sent.message is not None else [])):
            self._show_own(message)
        self._number_picks = False

    def _fail(self, failure: Failure) -> None:
        if failure.hint == NEXT_STEPS["usage"]:  # that hint is about the command line
            failure.hint = "/help lists the commands"
        self._output.failure(failure)

    def _show_own(self, message: Message) -> None:
        self._show(message)
        self._own_shown.add(message.id)

    def _pick(self, wanted: Sequence[str]) -> None:
        self._send(pick=wanted, answering=self._choice_message)

    def _send_typing(self) -> None:
        """Send a typing indicator, unless one was sent recently or the deployment does not accept it."""
        now = self._clock.monotonic()
        if not (self._sends_typing and self._live) or self._form is not None or self._confirming:
            return
        if self._typing_sent_at is not None and now - self._typing_sent_at < TYPING_INTERVAL:
            return
        self._typing_sent_at = now
        timeout, self._client.timeout = self._client.timeout, TYPING_TIMEOUT
        try:
            self._client.typing()
        except SessionOver:
            raise
        except (RateLimited, NetworkError):
            pass
        except Failure:
            self._sends_typing = False
        finally:
            self._client.timeout = timeout

    # --- commands ---

    def _help(self, rest: str) -> None:
        from guestctl.cli.help import columns

        for line in columns(HELP, self._output.terminal.stderr_width).splitlines():
            self._output.answer(line)

    def _pick_command(self, rest: str) -> None:
        words = rest.replace(",", " ").split()
        wanted = words if words and all(word.isdigit() for word in words) else [rest]
        if not rest:
            raise UsageError("/pick needs a number or a label")
        self._pick(wanted)

    def _say_command(self, rest: str) -> None:
        if rest:
            self._send(rest)

    def _file_command(self, rest: str) -> None:
        paths = [self._cwd / _expand_home(word) for word in _paths(rest)]
        if not paths:
            raise UsageError("/file needs a path")
        started = self._clock.monotonic()

        def progress(done: int, total: int) -> None:
            if total and self._clock.monotonic() - started > 1.0:
                self._show_status(f"uploading {100 * done // total} %")

        self._send(files=paths, progress=progress)

    def _history_command(self, rest: str) -> None:
        if rest not in {"", "all"} and not _number(rest, 10**6):
            raise UsageError(f'/history needs a number or "all", not "{rest}"')
        last = None if rest == "all" else int(rest or DEFAULT_HISTORY)
        for item in self._client.history(last=last):
            self._show(item)

    def _form_command(self, rest: str) -> None:
        if self._form_message is None or self._rich is None:
            raise UsageError("no form to fill in")
        message = self._form_message
        self._form = FormPrompt(message, self._rich.form_fields(message))
        self._output.answer("an empty line skips a field; /cancel leaves the form")
        self._ask_field()

    def _cancel(self, rest: str) -> None:
        if self._form is None:
            raise UsageError("nothing to cancel")
        self._form = None
        self._keyboard.set_prompt(PROMPT)

    def _end_command(self, rest: str) -> bool:
        # An API with both abilities has one frame for both, so that ending also clears.
        if {Ability.END, Ability.CLEAR} <= set(self._client.dialect.abilities):
            self._confirming = True
            self._keyboard.set_prompt("this also deletes the transcript; end the conversation? [y/N] ")
            return False
        return self._end()

    def _end(self) -> bool:
        self._client.end()
        self._output.notice("the conversation has ended")
        return True

    # --- forms ---

    def _ask_field(self) -> None:
        assert self._form is not None
        for line in self._form.choices():
            self._output.answer(line)
        self._keyboard.set_prompt(self._form.prompt())

    def _fill_in(self, text: str) -> None:
        form, rich = self._form, self._rich
        assert form is not None
        assert rich is not None
        values = form.values(text)
        try:
            rich.answer(Outgoing("-"), form.message, (), form.answers_with(values))
        except UsageError as wrong:
            self._output.answer(wrong.message)
            self._ask_field()
            return
        form.accept(values)
        if form.field is not None:
            self._ask_field()
            return
        self._form = None
        self._keyboard.set_prompt(PROMPT)
        self._send(form=form.answers, answering=form.message)


_COMMANDS: dict[str, Callable[[Chat, str], bool | None]] = {
    "/help": Chat._help,
    "/pick": Chat._pick_command,
    "/form": Chat._form_command,
    "/cancel": Chat._cancel,
    "/file": Chat._file_command,
    "/history": Chat._history_command,
    "/say": Chat._say_command,
    "/end": Chat._end_command,
}


COMMANDS = tuple(_COMMANDS)


def is_command(text: str) -> bool:
    """Whether a line being typed is a command and not a message."""
    return text.lstrip().startswith("/")


def _read_only(event: Presence | SessionEvent) -> bool:
    return event.change == "read_only" if isinstance(event, SessionEvent) else False


def _number(text: str, most: int) -> bool:
    """Whether the text is a number from 1 to `most`."""
    word = text.strip()
    return word.isascii() and word.isdigit() and len(word) < 8 and 1 <= int(word) <= most


def _picks(text: str, message: Message) -> bool:
    """Whether the text is a number that picks an option of the message: its place, label or payload."""
    word = text.strip()
    names = {name.strip() for option in message.options for name in (option.text, option.payload)}
    return _number(word, len(message.options)) or (word.isascii() and word.isdigit() and word in names)


def _paths(text: str) -> list[str]:
    """Split a text into words as a shell does; a quote without its partner is part of a name."""
    try:
        return shlex.split(text)
    except ValueError:
        return [text]


def _expand_home(word: str) -> Path:
    """Return a path with `~` expanded; if there is no such home directory, `~` is part of the path."""
    try:
        return Path(word).expanduser()
    except RuntimeError:
        return Path(word)


def _has_choice(rich: RichContent, message: Message) -> bool:
    """Whether the message offers something to pick: an option, or a free date."""
    try:
        return rich.answer(Outgoing("-"), message, ["2000-01-01"], None) is not None
    except UsageError:
        return True
