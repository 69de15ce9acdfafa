"""`chat`: a conversation at a terminal, as one loop over what is heard and what is typed.

Knows: slash commands, which options are open, what waits for a connection, when to say that the
guest is typing. Must not know: line editing, streams, any API.

A `Client` is for one thread, and one is enough: `listen` hands control back at every tick, and what
was typed meanwhile is sent between two ticks, on the same socket. So there is one socket, one order
of events, and nothing to lock; a second client would have an idle socket whose death it would
notice only when it next sends, with the message in doubt. Only the keyboard has a thread of its own
(`Desk`), because a person goes on typing while something is sent. What is typed while there is no
connection waits for it; a long upload holds up what is heard until it is done.
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
from guestctl.core.model import Connection, Event, FormField, Message, Outgoing, Presence, SessionEvent, Typing, Unknown
from guestctl.core.values import immutable
from guestctl.dialects.capabilities import Ability
from guestctl.dialects.features import RichContent
from guestctl.output.records import Record, event_record

if TYPE_CHECKING:
    from guestctl.client import Client

#: Seconds after which the loop looks at the keyboard again.
TICK = 0.1
#: Seconds between two typing indicators (web-messaging.md §9), and for how long one may hold things up.
TYPING_EVERY, TYPING_PATIENCE = 5.0, 1.0
#: Seconds somebody is shown as typing when that is not said.
TYPING_SHOWN = 5.0
#: Messages that `/history` shows.
USUAL_HISTORY = 20
PROMPT = "> "

HELP = """\
/pick N...        answer with what is offered, by number or label; a number alone does, too
/form             fill in the form, field by field
/file PATH...     send files
/history [N|all]  show the conversation again
/say TEXT         send a text as it is: a number, or one that begins with a slash
/end              end the conversation
/help             this
Ctrl-D leaves; Ctrl-C clears the line, twice leaves"""


@immutable
class Typed:
    """A whole line."""

    text: str


@immutable
class Pressed:
    """The line being typed has changed, and is neither empty nor a command."""


@immutable
class Left:
    """Nothing more will be typed."""


@immutable
class Broken:
    """The keyboard's thread has come to grief."""

    error: BaseException


class Hurried(KeyboardInterrupt):
    """The person has left while nothing but a connection was waited for, which need not come any more."""


Input: TypeAlias = "Typed | Pressed | Left | Broken"


class Desk(Protocol):
    """Where the person sits: what is typed, and the lines that stand around it."""

    def take(self) -> Input | None:
        """The next thing typed; None when there is none. Never waits."""

    def status(self, text: str) -> None:
        """What stands above the line being typed; empty: nothing does."""

    def prompt(self, text: str) -> None:
        """What stands before it."""

    def waiting(self, yes: bool) -> None:
        """Whether nothing but a connection is waited for: until that ends, leaving raises `Hurried`."""

    def remember(self, text: str) -> None:
        """Something the guest said before, for the arrow keys."""


class ChatOutput(Protocol):
    """Where the conversation is shown."""

    def event(self, record: Record) -> object: ...

    def say(self, text: str) -> None: ...

    def answer(self, text: str) -> None:
        """What the person asked for."""

    def failure(self, failure: Failure) -> None: ...


class FormPrompt:
    """A form being filled in, one field after the other."""

    def __init__(self, message: Message, fields: Sequence[FormField]) -> None:
        self.message = message
        self.answers: dict[str, list[str]] = {}
        self._fields = list(fields)
        self._at = 0

    @property
    def field(self) -> FormField | None:
        """The one asked for; None when all have been."""
        return self._fields[self._at] if self._at < len(self._fields) else None

    def offers(self) -> list[str]:
        """What it can be, a line each."""
        field = self.field
        return [] if field is None else [f"[{n}] {title}" for n, (title, _) in enumerate(field.items, 1)]

    def prompt(self) -> str:
        field = self.field
        if field is None:
            return PROMPT
        more = ["needed"] if field.required else []
        more += ["several with commas"] if field.several else []
        more += ["a date, such as 2026-03-09"] if field.kind == "date" and not field.items else []
        return f"{field.title or field.id}{' (' + ', '.join(more) + ')' if more else ''}: "

    def values(self, text: str) -> list[str]:
        """What was typed for the field, as its values."""
        field = self.field
        parts = text.split(",") if field is not None and field.several else [text]
        return [part.strip() for part in parts if part.strip()]

    def with_(self, values: Sequence[str]) -> dict[str, list[str]]:
        """All answers, these for the field among them, and something in every later one that needs it."""
        given = {**self.answers, self._fields[self._at].id: list(values)}
        return {**given, **{later.id: ["-"] for later in self._fields[self._at + 1 :] if later.required}}

    def accept(self, values: Sequence[str]) -> None:
        if values:
            self.answers[self._fields[self._at].id] = list(values)
        self._at += 1


class Chat:
    """One person's side of the conversation. `replay`: how many messages are shown first."""

    def __init__(self, client: Client, desk: Desk, told: ChatOutput, *, cwd: Path, replay: int = 0) -> None:
        self._client = client
        self._desk = desk
        self._told = told
        self._cwd = cwd
        self._replay = replay
        self._clock = client.clock
        self._lines: deque[str] = deque()
        self._left = False
        self._live = False
        self._was_live = False
        self._connecting = "connecting"
        #: Our own messages that have been shown already, when they were accepted.
        self._shown: set[str] = set()
        #: The newest message with something to pick, with a form; and whether a bare number picks.
        self._offer: Message | None = None
        self._form_offer: Message | None = None
        self._open = False
        self._form: FormPrompt | None = None
        self._confirming = False
        self._typing_until = 0.0
        self._typing_who = ""
        self._typed_at: float | None = None
        self._tells_typing = Ability.TYPING in client.dialect.abilities
        self._rich = client.dialect.rich_content
        self._status = ""

    def run(self) -> None:
        """Until the person leaves or ends the conversation. Raises the Failure that ended it otherwise."""
        try:
            self._desk.waiting(True)
            try:
                self._converse()
            finally:
                self._desk.waiting(False)
        except Hurried:
            self._serve()

    def _converse(self) -> None:
        self._show_status()
        self._tells_typing = self._tells_typing and self._client.deployment().guest_typing
        replay = self._replay if Ability.HISTORY in self._client.dialect.abilities else 0
        with closing(self._client.listen(replay=replay, wake=lambda: TICK)) as events:
            for event in events:
                if event is not None:
                    self._hear(event)
                if self._serve():
                    return
                self._show_status()

    # --- hearing ---

    def _hear(self, event: Event) -> None:
        if isinstance(event, Message):
            self._message(event)
        elif isinstance(event, Typing):
            if event.sender.role != "guest":
                seconds = TYPING_SHOWN if event.duration is None else event.duration / 1000
                self._typing_until = self._clock.monotonic() + min(seconds, 60.0)
                self._typing_who = event.sender.name or event.sender.role or "somebody"
        elif isinstance(event, Connection):
            self._connection(event)
        elif not isinstance(event, Unknown):
            self._show(event)
            if isinstance(event, (Presence, SessionEvent)) and _read_only(event):
                self._told.say("nothing more can be sent; Ctrl-D leaves")

    def _message(self, message: Message) -> None:
        if message.id in self._shown:
            self._shown.discard(message.id)
            return
        self._show(message)
        if message.direction == "inbound":
            self._desk.remember(message.text)
            return
        self._typing_until = 0.0
        if self._rich is None:
            return
        if self._rich.form_fields(message):
            self._form_offer = message
            self._told.say("/form fills it in")
        elif _offers(self._rich, message):
            self._offer, self._open = message, True

    def _connection(self, event: Connection) -> None:
        if event.state == "live":
            if self._was_live and not self._live:
                more = f", {event.recovered} recovered" if event.recovered else ""
                self._told.say(f"connected again{more}")
            self._live = self._was_live = True
            self._desk.waiting(False)
        elif event.state == "lost" and self._live:
            self._live = False
            self._desk.waiting(True)
            self._told.say(f"the connection is lost ({event.detail or 'no reason given'}); reconnecting")
        if event.state == "retrying":
            self._connecting = f"reconnecting, attempt {event.attempt}"

    def _show(self, event: Event) -> None:
        at = rfc3339(self._clock.now())
        self._told.event(event_record(event, self._client.session_name, at=at))

    def _show_status(self, text: str = "") -> None:
        if not text and not self._live:
            waiting = f"; {len(self._lines)} waiting to be sent" if self._lines else ""
            text = f"{self._connecting} …{waiting}"
        elif not text and self._typing_until > self._clock.monotonic():
            text = f"{self._typing_who} is typing …"
        if text != self._status:
            self._status = text
            self._desk.status(text)

    # --- what is typed ---

    def _serve(self) -> bool:
        """Do what was typed; whether it is time to go."""
        while (given := self._desk.take()) is not None:
            if isinstance(given, Typed):
                self._lines.append(given.text)
            elif isinstance(given, Left):
                self._left = True
            elif isinstance(given, Broken):
                raise given.error
            elif not self._lines:
                self._say_typing()
        while self._lines and self._live:
            if self._line(self._lines.popleft()):
                return True
        if self._left and self._lines:
            raise NetworkError(f"left before the connection came back: {len(self._lines)} not sent", written=False)
        return self._left

    def _line(self, text: str) -> bool:
        """One line; whether it ends the chat."""
        if self._confirming:
            self._confirming = False
            self._desk.prompt(PROMPT)
            if text.strip().lower() in {"y", "yes"}:
                return self._do(self._end)
            self._told.answer("not ended")
            return False
        command, _, rest = text.strip().partition(" ")
        if self._form is not None and command != "/cancel":
            self._fill_in(text)
            return False
        if not command:
            return False
        if not command.startswith("/"):
            if self._open and self._offer is not None and _number(text, len(self._offer.options)):
                self._pick([text.strip()])
            else:
                self._send(text)
            return False
        do = _COMMANDS.get(command)
        if do is None:
            self._told.answer(f"there is no {command}; /help lists what there is, /say {command} would send it")
            return False
        return self._do(lambda: do(self, rest.strip()))

    def _do(self, what: Callable[[], bool | None]) -> bool:
        """Do it; whether it ends the chat. One that fails does not, unless the session is over."""
        try:
            return bool(what())
        except SessionOver:
            raise
        except Failure as failure:
            self._fail(failure)
            return False

    def _send(self, text: str = "", **more: Any) -> None:
        """Send, and show what was accepted; a session that is over ends the chat."""
        self._typing_until = 0.0
        try:
            sent = self._client.send(text, **more)
        except Failure as failure:
            became = getattr(failure, "sent", None)
            for message in became.earlier if became is not None else ():
                self._show_own(message)
            if isinstance(failure, SessionOver):
                raise
            self._fail(failure)
            return
        for message in (*sent.earlier, *([sent.message] if sent.message is not None else [])):
            self._show_own(message)
        self._open = False

    def _fail(self, failure: Failure) -> None:
        if failure.hint == NEXT_STEPS["usage"]:  # which speaks of the command line
            failure.hint = "/help lists what there is."
        self._told.failure(failure)

    def _show_own(self, message: Message) -> None:
        self._show(message)
        self._shown.add(message.id)

    def _pick(self, wanted: Sequence[str]) -> None:
        self._send(pick=wanted, answering=self._offer)

    def _say_typing(self) -> None:
        """Tell the other side, unless that was done a moment ago or the deployment does not want it."""
        now = self._clock.monotonic()
        if not (self._tells_typing and self._live) or self._form is not None or self._confirming:
            return
        if self._typed_at is not None and now - self._typed_at < TYPING_EVERY:
            return
        self._typed_at = now
        timeout, self._client.timeout = self._client.timeout, TYPING_PATIENCE
        try:
            self._client.typing()
        except SessionOver:
            raise
        except (RateLimited, NetworkError):
            pass
        except Failure:
            self._tells_typing = False
        finally:
            self._client.timeout = timeout

    # --- commands ---

    def _help(self, rest: str) -> None:
        for line in HELP.splitlines():
            self._told.answer(line)

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
        paths = [self._cwd / _at_home(word) for word in _paths(rest)]
        if not paths:
            raise UsageError("/file needs a path")
        begun = self._clock.monotonic()

        def progress(done: int, total: int) -> None:
            if total and self._clock.monotonic() - begun > 1.0:
                self._show_status(f"uploading {100 * done // total} %")

        self._send(files=paths, progress=progress)

    def _history_command(self, rest: str) -> None:
        if rest not in {"", "all"} and not _number(rest, 10**6):
            raise UsageError(f"/history {rest}: give a number, or all")
        last = None if rest == "all" else int(rest or USUAL_HISTORY)
        for item in self._client.history(last=last):
            self._show(item)

    def _form_command(self, rest: str) -> None:
        if self._form_offer is None or self._rich is None:
            raise UsageError("there is no form to fill in")
        message = self._form_offer
        self._form = FormPrompt(message, self._rich.form_fields(message))
        self._told.answer("an empty line leaves a field out; /cancel leaves the form")
        self._ask_field()

    def _cancel(self, rest: str) -> None:
        if self._form is None:
            raise UsageError("there is nothing to cancel")
        self._form = None
        self._desk.prompt(PROMPT)

    def _end_command(self, rest: str) -> bool:
        # An API with both has one frame for them.
        if {Ability.END, Ability.CLEAR} <= set(self._client.dialect.abilities):
            self._confirming = True
            self._desk.prompt("this clears the conversation, transcript included; go on? [y/N] ")
            return False
        return self._end()

    def _end(self) -> bool:
        self._client.end()
        self._told.say("the conversation has ended")
        return True

    # --- forms ---

    def _ask_field(self) -> None:
        assert self._form is not None
        for line in self._form.offers():
            self._told.answer(line)
        self._desk.prompt(self._form.prompt())

    def _fill_in(self, text: str) -> None:
        form, rich = self._form, self._rich
        assert form is not None
        assert rich is not None
        values = form.values(text)
        try:
            rich.answer(Outgoing("-"), form.message, (), form.with_(values))
        except UsageError as wrong:
            self._told.answer(wrong.message)
            self._ask_field()
            return
        form.accept(values)
        if form.field is not None:
            self._ask_field()
            return
        self._form = None
        self._desk.prompt(PROMPT)
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


def is_command(text: str) -> bool:
    """Whether a line being typed is for us and not for the other side."""
    return text.lstrip().startswith("/")


def _read_only(event: Presence | SessionEvent) -> bool:
    return event.change == "read_only" if isinstance(event, SessionEvent) else False


def _number(text: str, most: int) -> bool:
    """Whether it is a number from 1 to `most`."""
    word = text.strip()
    return word.isascii() and word.isdigit() and len(word) < 8 and 1 <= int(word) <= most


def _paths(text: str) -> list[str]:
    """Words as a shell would have them; a lone quote is part of a name."""
    try:
        return shlex.split(text)
    except ValueError:
        return [text]


def _at_home(word: str) -> Path:
    """A path whose `~` is the home folder; where there is none of that name, it is part of the path."""
    try:
        return Path(word).expanduser()
    except RuntimeError:
        return Path(word)


def _offers(rich: RichContent, message: Message) -> bool:
    """Whether something can be picked of it: an option, or a date that is in no list."""
    try:
        return rich.answer(Outgoing("-"), message, ["2000-01-01"], None) is not None
    except UsageError:
        return True
