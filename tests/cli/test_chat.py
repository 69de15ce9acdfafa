"""`chat`: what lines mean, against a scripted client; and the real thing in a terminal, and in tmux with the
agent's side beside it."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pytest

from guestctl.cli.chat.loop import Broken, Chat, FormPrompt, Input, Left, Pressed, Typed, is_command
from guestctl.client import Client
from guestctl.core.errors import Failure, Forbidden, NetworkError, Refused, SessionOver
from guestctl.core.model import (
    Connection,
    Deployment,
    Event,
    FormField,
    Gap,
    Message,
    Option,
    Presence,
    Sender,
    SessionEvent,
    Typing,
)
from guestctl.core.results import Sent
from guestctl.dialects.capabilities import Ability
from guestctl.dialects.web_messaging.answers import WebContent
from guestctl.output.records import Record
from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from tests.cli.conftest import Front
from tests.fakes import FakeClock
from tests.unit.test_answers import FORM

ROOT = Path(__file__).parents[2]
LIVE = Connection("live")


# --- what lines mean ---


class Dialect:
    def __init__(self) -> None:
        self.abilities = frozenset(Ability)

        self.rich = WebContent()


class Scripted:
    """A client that hears what the script says, and notes what it is asked to do."""

    def __init__(self, script: Sequence[Event | None]) -> None:
        self.clock = FakeClock()
        self.dialect = Dialect()
        self.session_name = "default"
        self.timeout: float | None = 30.0
        self.asked: list[tuple[str, Any]] = []
        self.failures: deque[Failure | None] = deque()
        self.script = script
        self.heard = False
        self.guest_typing = True
        self._sent = 0

    def deployment(self) -> Deployment:
        return Deployment(guest_typing=self.guest_typing)

    def listen(self, *, replay: int, wake: Callable[[], float | None]) -> Iterator[Event | None]:
        self.asked.append(("listen", replay))
        yield from self.script
        self.heard = True
        while True:
            yield None

    def send(self, text: str = "", **more: Any) -> Sent:
        self.asked.append(("send", text if not more else {"text": text, **more}))
        failure = self.failures.popleft() if self.failures else None
        if failure is not None:
            raise failure
        self._sent += 1
        message = Message(f"own-{self._sent}", "inbound", text, None, sender=Sender("guest"))
        return Sent("key", "accepted", text, message)

    def typing(self) -> None:
        self.asked.append(("typing", self.timeout))
        failure = self.failures.popleft() if self.failures else None
        if failure is not None:
            raise failure

    def history(self, *, last: int | None) -> Iterator[Event]:
        self.asked.append(("history", last))
        yield Message("old", "outbound", "from before", None)

    def end(self) -> None:
        self.asked.append(("end", None))


class Desk:
    """Gives what is typed, one thing at each look; once all has been heard the person leaves.

    Typing begins when everything has been heard, or at once when `early`; None is a look at nothing typed.
    """

    def __init__(self, client: Scripted, typed: Sequence[str | Input | None], early: bool) -> None:
        self._client = client
        self._typed = deque(Typed(one) if isinstance(one, str) else one for one in typed)
        self._early = early
        self._looked = False
        self.prompts: list[str] = []
        self.statuses: list[str] = []
        self.remembered: list[str] = []

    def take(self) -> Input | None:
        self._looked = not self._looked
        if not self._looked or not (self._early or self._client.heard):
            return None
        if self._typed:
            return self._typed.popleft()
        return Left() if self._client.heard else None

    def status(self, text: str) -> None:
        self.statuses.append(text)

    def prompt(self, text: str) -> None:
        self.prompts.append(text)

    def waiting(self, yes: bool) -> None:
        """Nobody waits here."""

    def remember(self, text: str) -> None:
        self.remembered.append(text)


class Told:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.hints: list[str] = []

    def event(self, record: Record) -> None:
        self.lines.append(record.get("text") or record["kind"])

    def say(self, text: str) -> None:
        self.lines.append(f"* {text}")

    answer = say

    def failure(self, failure: Failure) -> None:
        self.lines.append(f"! {failure.message}")
        self.hints.append(failure.hint)


class Room:
    def __init__(self, *script: Event | None, typed: Sequence[str | Input | None] = (), early: bool = False) -> None:
        self.client = Scripted(script)
        self.desk = Desk(self.client, typed, early)
        self.told = Told()
        self.chat = Chat(cast("Client", self.client), self.desk, self.told, cwd=Path("/home/ada"))

    def run(self) -> Room:
        self.chat.run()
        return self

    @property
    def sent(self) -> list[Any]:
        return [what for verb, what in self.client.asked if verb == "send"]


def bot(text: str, number: int = 1, **more: Any) -> Message:
    return Message(f"bot-{number}", "outbound", text, None, sender=Sender("bot", "Helper"), **more)


OFFER = bot("Colour?", options=(Option("Red", "r", "QuickReply"), Option("Blue", "b", "QuickReply")))
LISTED = bot(
    "Toppings?",
    options=tuple(Option(name, name.lower(), "ListPicker") for name in ("Feta", "Brie")),
    content=(
        {
            "contentType": "ListPicker",
            "listPicker": {
                "sections": [
                    {
                        "title": "T",
                        "multipleSelection": True,
                        "items": [{"id": "feta", "title": "Feta"}, {"id": "brie", "title": "Brie"}],
                    }
                ]
            },
        },
    ),
)


def test_lines_are_sent_and_shown_once_when_accepted() -> None:
    own = Message("own-1", "inbound", "hello", None)
    room = Room(LIVE, None, own, bot("hi"), typed=["hello", ""], early=True).run()
    assert room.sent == ["hello"]
    assert room.told.lines == ["hello", "hi"]


def test_what_another_of_our_processes_says_is_shown_and_remembered() -> None:
    room = Room(LIVE, Message("x", "inbound", "from elsewhere", None)).run()
    assert room.told.lines == ["from elsewhere"]
    assert room.desk.remembered == ["from elsewhere"]


def test_a_number_picks_while_something_is_open() -> None:
    room = Room(LIVE, OFFER, typed=["2", "1"]).run()
    assert room.sent == [{"text": "", "pick": ["2"], "answering": OFFER}, "1"]
    assert Room(LIVE, OFFER, typed=["3"]).run().sent == ["3"]
    assert Room(LIVE, OFFER, typed=["neither", "1"]).run().sent == ["neither", "1"]
    assert Room(LIVE, OFFER, bot("Take your time", 2), typed=["1"]).run().sent[0]["pick"] == ["1"]


@pytest.mark.parametrize(
    ("line", "pick"),
    [("/pick 2", ["2"]), ("/pick Light blue", ["Light blue"]), ("/pick 1 2", ["1", "2"]), ("/pick 1,2", ["1", "2"])],
)
def test_pick(line: str, pick: list[str]) -> None:
    room = Room(LIVE, LISTED, None, typed=["well", line]).run()
    assert room.sent[1] == {"text": "", "pick": pick, "answering": LISTED}


def test_say_sends_it_as_it_is() -> None:
    assert Room(LIVE, OFFER, typed=["/say 1", "/say /etc/passwd", "/say"]).run().sent == ["1", "/etc/passwd"]


def test_a_command_nobody_knows_is_not_sent() -> None:
    room = Room(LIVE, typed=["/etc/passwd is here"]).run()
    assert room.sent == []
    assert "/help" in room.told.lines[0]


def test_files_as_a_shell_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    room = Room(LIVE, typed=["/file a.png '~b c'.txt ~/d", "/file it's", "/file"]).run()
    assert [call["files"] for call in room.sent] == [
        [Path("/home/ada/a.png"), Path("/home/ada/~b c.txt"), Path("/home/ada/d")],
        [Path("/home/ada/it's")],
    ]
    assert room.told.lines[-1] == "! /file needs a path"
    assert room.told.hints == ["/help lists what there is."], "what would help is here, not on the command line"


def test_history() -> None:
    room = Room(LIVE, typed=["/history", "/history 3", "/history all", "/history x"]).run()
    assert [what for verb, what in room.client.asked if verb == "history"] == [20, 3, None]
    assert room.told.lines[:3] == ["from before"] * 3
    assert room.told.lines[3].startswith("! /history x")


def test_help_names_every_command() -> None:
    told = "\n".join(Room(LIVE, typed=["/help"]).run().told.lines)
    for command in ("/pick", "/form", "/file", "/history", "/say", "/end", "Ctrl-D"):
        assert command in told


def test_the_end_is_asked_about_first() -> None:
    room = Room(LIVE, typed=["/end", "no", "/end", "y", "never sent"]).run()
    assert [verb for verb, _ in room.client.asked] == ["listen", "end"]
    assert "transcript" in room.desk.prompts[0]
    assert room.desk.prompts[1] == "> "
    assert "* not ended" in room.told.lines


def test_the_end_is_not_asked_about_where_the_transcript_stays() -> None:
    room = Room(LIVE, typed=["/end", "never sent"])
    room.client.dialect.abilities = frozenset({Ability.END})
    assert [verb for verb, _ in room.run().client.asked] == ["listen", "end"]


def test_a_form_is_asked_for_field_by_field() -> None:
    room = Room(LIVE, FORM, typed=["/form", "", "Ada", "", "soon", "2026-03-09", "1, Cheddar", "Brie, feta", "1"]).run()
    assert room.sent == [
        {
            "text": "",
            "form": {"name": ["Ada"], "day": ["2026-03-09"], "top": ["Brie", "feta"], "size": ["1"]},
            "answering": FORM,
        }
    ]
    assert room.desk.prompts[0] == "Name (needed): "
    assert room.desk.prompts[-1] == "> "
    told = "\n".join(room.told.lines)
    for words in ("/form fills it in", "is required", "'soon' is not any date", "'Cheddar' is not offered", "[2] Brie"):
        assert words in told


def test_a_form_can_be_left() -> None:
    room = Room(LIVE, FORM, typed=["/form", "Ada", "/cancel", "hello", "/cancel"]).run()
    assert room.sent == ["hello"]
    assert room.told.lines[-1] == "! there is nothing to cancel"
    assert Room(LIVE, typed=["/form"]).run().told.lines == ["! there is no form to fill in"]


def test_the_prompts_of_a_form() -> None:
    form = FormPrompt(FORM, [FormField("a", "", "list", items=(("x", "1"), ("y", "2")), several=True)])
    assert form.prompt() == "a (several with commas): "
    assert form.offers() == ["[1] x", "[2] y"]
    assert form.values(" 1, 2 ,") == ["1", "2"]


def test_what_is_typed_without_a_connection_waits_for_it() -> None:
    lost = (LIVE, Connection("lost", "broke"), Connection("retrying", attempt=1, delay=1.0))
    room = Room(
        *lost,
        *[None] * 4,
        Connection("live", recovered=2),
        typed=[None, None, "one", Pressed(), "two"],
        early=True,
    ).run()
    assert room.client.asked == [("listen", 0), ("send", "one"), ("send", "two")]
    assert room.told.lines[:2] == [
        "* the connection is lost (broke); reconnecting",
        "* connected again, 2 recovered",
    ]
    assert "reconnecting, attempt 1 …; 2 waiting to be sent" in room.desk.statuses


def test_leaving_before_it_came_back_says_what_was_not_sent() -> None:
    room = Room(Connection("connecting"), typed=["one"])
    with pytest.raises(NetworkError, match="1 not sent"):
        room.run()
    assert room.sent == []


def test_a_send_that_fails_is_told_and_the_chat_goes_on() -> None:
    room = Room(LIVE, typed=["bad", "good"])
    room.client.failures.append(Refused("too long"))
    room.run()
    assert room.sent == ["bad", "good"]
    assert room.told.lines == ["! too long", "good"]


def test_a_session_that_is_over_ends_it() -> None:
    room = Room(LIVE, typed=["hello", "more"])
    room.client.failures.append(SessionOver("expired"))
    with pytest.raises(SessionOver):
        room.run()
    assert room.sent == ["hello"]


def test_read_only_is_said() -> None:
    room = Room(LIVE, Presence("Disconnect", "outbound"), SessionEvent("read_only"), Gap("a", "b", "why")).run()
    assert room.told.lines == ["presence", "session", "* nothing more can be sent; Ctrl-D leaves", "gap"]


def test_somebody_typing_is_shown_until_it_is_over() -> None:
    room = Room(LIVE, Typing(Sender("agent", "Mina"), 2000), None, bot("there"), None, typed=["ok"]).run()
    assert "Mina is typing …" in room.desk.statuses
    assert room.desk.statuses[-1] == ""


def test_our_typing_is_told_now_and_then() -> None:
    room = Room(LIVE, None, None, None, typed=[Pressed(), Pressed(), "hi"]).run()
    assert [verb for verb, _ in room.client.asked] == ["listen", "typing", "send"]
    assert room.client.asked[1][1] == 1.0
    assert room.client.timeout == 30.0


def test_our_typing_is_not_told_where_nobody_wants_it() -> None:
    room = Room(LIVE, typed=[Pressed()])
    room.client.guest_typing = False
    assert [verb for verb, _ in room.run().client.asked] == ["listen"]
    refused = Room(LIVE, None, typed=[Pressed(), Pressed()])
    refused.client.failures.append(Forbidden("off"))
    refused.client.clock.sleep(10.0)
    assert [verb for verb, _ in refused.run().client.asked] == ["listen", "typing"]
    assert refused.told.lines == []


def test_a_keyboard_that_breaks_ends_it() -> None:
    with pytest.raises(OSError, match="gone"):
        Room(LIVE, typed=[Broken(OSError("gone"))]).run()


def test_what_is_for_us_is_no_typing() -> None:
    assert is_command("/pick 1")
    assert not is_command("pick 1")


# --- through the front door ---


def test_without_a_terminal(front: Front) -> None:
    front("session", "create")
    for told in (front("chat"), front("chat", "-o", "table")):
        assert told.code == 2
        assert told.out == ""
        assert told.err.count("\n") == 2
        assert "`guestctl send`" in told.err
        assert "`guestctl listen`" in told.err


def test_it_has_no_other_output(front: Front) -> None:
    assert front("chat", "-o", "json", tty=True).code == 2


def test_nothing_is_created_silently(front: Front) -> None:
    told = front("chat", tty=True)
    assert told.code == 10
    assert "guestctl session create" in told.err


class Terminal:
    """A real terminal with guestctl in it."""

    def __init__(self, front: Front, *argv: str, term: str = "xterm-256color") -> None:
        self._near, far = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "guestctl", *argv],
            cwd=front.cwd,
            env={**front.environ, "PYTHONPATH": str(ROOT), "TERM": term},
            stdin=far,
            stdout=far,
            stderr=far,
            start_new_session=True,
            preexec_fn=_controlling,
        )
        os.close(far)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self._near, text.encode())

    def until(self, words: str) -> None:
        """Waits for words on the screen; only their never coming is a failure."""
        deadline = time.monotonic() + 20
        while words not in plain(self.seen):
            assert time.monotonic() < deadline, (words, self.seen)
            self._read(0.1)

    def ended(self) -> int:
        deadline = time.monotonic() + 20
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.seen
            self._read(0.05)
        self._read(0.1)
        # As a shell tells it: at a terminal, Ctrl-C is what the command dies of.
        code = int(self.process.returncode)
        return 128 - code if code < 0 else code

    def _read(self, seconds: float) -> None:
        if select.select([self._near], [], [], seconds)[0]:
            try:
                self.seen += os.read(self._near, 65536).decode(errors="replace")
            except OSError:  # the other end is closed
                time.sleep(0.01)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._near)


def _controlling() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]", "", text)


@contextmanager
def chatting(front: Front, *argv: str, term: str = "xterm-256color") -> Iterator[Terminal]:
    terminal = Terminal(front, "chat", *argv, term=term)
    try:
        if "-q" not in argv:
            terminal.until("/help lists the commands")
        yield terminal
    finally:
        terminal.close()


@pytest.mark.parametrize("term", ["xterm-256color", "vt100", "dumb"])
def test_a_conversation_in_a_plain_terminal(front: Front, term: str) -> None:
    front("session", "create")
    with chatting(front, term=term) as terminal:
        terminal.type("hello\r")
        terminal.until("echo: hello")
        terminal.type("/history 1\r")
        terminal.type("\x04")
        assert terminal.ended() == 0
    assert [m["text"] for m in front("history").records] == ["hello", "echo: hello"]


def test_an_end_that_is_refused_is_told_and_the_chat_goes_on(sandboxed: Callable[[Sandbox], Front]) -> None:
    with running(SandboxOptions(fast=True, clear=False)) as sandbox:
        front = sandboxed(sandbox)
        front("session", "create")
        with chatting(front) as terminal:
            terminal.type("/end\ry\rhello\r")
            terminal.until("Conversation Clear are not supported")
            terminal.until("echo: hello")
            terminal.type("\x04")
            assert terminal.ended() == 0


def test_what_was_asked_for_is_told_quietly_too_and_to_a_person(front: Front) -> None:
    front("session", "create")
    with chatting(Front({**front.environ, "GUESTCTL_OUTPUT": "json"}, front.cwd), "-q", term="dumb") as terminal:
        terminal.type("/help\r")
        terminal.until("/pick N")
        terminal.type("/pick 1\r")
        terminal.until("error: ")
        terminal.type("\x04")
        assert terminal.ended() == 0
    assert "lists the commands" not in terminal.seen
    assert '"error"' not in terminal.seen


def test_what_was_said_is_shown_first(front: Front) -> None:
    front("ask", "from before")
    with chatting(front) as terminal:
        terminal.until("echo: from before")
        terminal.type("\x04")
        assert terminal.ended() == 0


def test_ctrl_c_clears_the_line_and_the_second_leaves(front: Front) -> None:
    front("session", "create")
    with chatting(front) as terminal:
        terminal.type("never sent")
        terminal.until("never sent")
        terminal.type("\x03")
        terminal.until("Ctrl-C again leaves")
        terminal.type("hello\r")
        terminal.until("echo: hello")
        terminal.type("\x03")
        time.sleep(0.2)
        terminal.type("\x03")
        assert terminal.ended() == 130
    assert [m["text"] for m in front("history").records] == ["hello", "echo: hello"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_leave_the_terminal_as_it_was(front: Front, number: int, code: int) -> None:
    import termios

    front("session", "create")
    with chatting(front) as terminal:
        terminal.type("hello\r")
        terminal.until("echo: hello")
        terminal.process.send_signal(number)
        assert terminal.ended() == code
        assert termios.tcgetattr(terminal._near)[3] & termios.ICANON
    assert front("ask", "still there?").out == "echo: still there?\n"


@pytest.fixture
def unanswered(sandboxed: Callable[[Sandbox], Front]) -> Iterator[Front]:
    """A session at an address where by now somebody takes the call and says nothing."""
    with running(SandboxOptions(fast=True)) as sandbox:
        front, port = sandboxed(sandbox), urlsplit(sandbox.url).port
        assert front("session", "create").code == 0
    with socket.create_server(("127.0.0.1", port)):
        yield front


@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
@pytest.mark.parametrize("replay", ["0", "10"])
def test_leaving_does_not_wait_for_a_connection(unanswered: Front, term: str, replay: str) -> None:
    with chatting(unanswered, "--timeout", "10m", "--replay", replay, term=term) as terminal:
        if term != "dumb":
            terminal.until("connecting …")
        terminal.type("\x04")
        assert terminal.ended() == 0
        assert "interrupted" not in plain(terminal.seen)


def test_leaving_says_what_waited_for_a_connection(unanswered: Front) -> None:
    with chatting(unanswered, "--timeout", "10m") as terminal:
        terminal.until("connecting …")
        terminal.type("never sent\r\x04")
        assert terminal.ended() == 8
        assert "1 not sent" in plain(terminal.seen)


def test_ctrl_c_does_not_wait_for_a_connection(unanswered: Front) -> None:
    with chatting(unanswered, "--timeout", "10m") as terminal:
        terminal.until("connecting …")
        terminal.type("\x03")
        terminal.until("Ctrl-C again leaves")
        terminal.type("\x03")
        assert terminal.ended() == 130


def test_hostile_text_steers_nothing(front: Front) -> None:
    front("session", "create")
    with chatting(front) as terminal:
        front("sandbox", "push", "\x1b]0;owned\x07\x1b[2J \u202e evil", "--to", mine(front))
        terminal.until("evil")
        terminal.type("\x04")
        assert terminal.ended() == 0
        assert "\x1b]0;owned" not in terminal.seen
        assert "\x1b[2J" not in terminal.seen
        assert "\\x1b]0;owned\\x07\\x1b[2J \\u202e evil" in plain(terminal.seen)


def test_no_key_is_lost_while_messages_pour_in(front: Front) -> None:
    front("session", "create")
    words = " ".join(f"word{n}" for n in range(40))
    with chatting(front) as terminal:
        terminal.type("hello\r")
        terminal.until("echo: hello")
        target = mine(front)
        for number, char in enumerate(words):
            terminal.type(char)
            if number % 8 == 0:
                front("sandbox", "push", f"said {number}", "--to", target)
        terminal.type("\r")
        terminal.until(f"echo: {words[:20]}")
        terminal.type("\x04")
        assert terminal.ended() == 0
    said = [message["text"] for message in front("history").records]
    assert said.count(words) == 1
    assert [n for n in range(0, len(words), 8) if f"said {n}" not in plain(terminal.seen)] == []


def mine(front: Front) -> str:
    return str(front("sandbox", "sessions").records[-1]["id"])


# --- with the agent's side beside it, in tmux ---


class Tmux:
    """A terminal multiplexer of the test's own; `screen` is what a person would see."""

    def __init__(self, directory: Path) -> None:
        self._base = ["tmux", "-S", str(directory / "tmux"), "-f", "/dev/null"]

    def start(self, name: str, *argv: str, environ: dict[str, str]) -> None:
        words = [f"{key}={value}" for key, value in environ.items()]
        # The shell tells the code: tmux sometimes knows that a pane is dead and never why.
        script = 'trap : INT; "$@"; echo "exit code $?"; exec sleep 600'
        command = ("env", *words, "sh", "-c", script, "sh", *argv)
        self._do("new-session", "-d", "-x", "80", "-y", "24", "-s", name, *command)

    def type(self, name: str, text: str, *keys: str) -> None:
        if text:
            self._do("send-keys", "-t", name, "-l", text)
        for key in keys:
            self._do("send-keys", "-t", name, key)

    def screen(self, name: str) -> list[str]:
        return [line.rstrip() for line in self._do("capture-pane", "-p", "-t", name).rstrip("\n").split("\n")]

    def until(self, name: str, true: Callable[[list[str]], bool]) -> list[str]:
        deadline = time.monotonic() + 20
        while not true(screen := self.screen(name)):
            assert time.monotonic() < deadline, "\n".join(screen)
            time.sleep(0.05)
        return screen

    def resize(self, name: str, columns: int) -> None:
        self._do("resize-window", "-t", name, "-x", str(columns), "-y", "24")

    def stop(self) -> None:
        subprocess.run([*self._base, "kill-server"], check=False, capture_output=True)

    def _do(self, *argv: str) -> str:
        return subprocess.run([*self._base, *argv], check=True, capture_output=True, text=True).stdout


def has(words: str) -> Callable[[list[str]], bool]:
    return lambda screen: any(words in line for line in screen)


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed: the two sides are not driven together")
def test_both_sides_in_tmux(alone: Front, tmp_path: Path) -> None:
    tmux = Tmux(tmp_path)
    environ = {**alone.environ, "PYTHONPATH": str(ROOT), "TERM": "screen-256color", "LANG": "C.UTF-8"}
    guestctl = (sys.executable, "-m", "guestctl")
    try:
        origin = ("--origin", "shop.example")
        tmux.start("agent", *guestctl, "sandbox", "serve", "--agent", *origin, environ=environ)
        tmux.until("agent", has("(guestctl -p sandbox --origin"))
        asked = ("-p", "sandbox", "--origin", "https://shop.example")
        assert alone(*asked, "session", "create").code == 0
        tmux.start("guest", *guestctl, *asked, "chat", environ=environ)
        tmux.until("guest", has("/help lists the commands"))

        tmux.type("guest", "Where is my parcel?", "Enter")
        tmux.until("guest", has("> guest: Where is my parcel?"))
        tmux.until("agent", has("guest: Where is my parcel?"))

        # A reply arrives in the middle of a line: it goes above, the line stays whole.
        tmux.type("guest", "half a li")
        tmux.until("guest", lambda screen: screen[-1] == "> half a li")
        tmux.type("agent", "On its way", "Enter")
        # What is drawn above and the line below it are two writes: a picture may be taken between them.
        said = has("< agent: On its way")
        screen = tmux.until("guest", lambda screen: said(screen) and screen[-1] == "> half a li")
        assert not any("half a li" in line for line in screen[:-1])
        tmux.type("agent", "/typing", "Enter")
        tmux.until("guest", lambda screen: screen[-2:] == ["agent is typing …", "> half a li"])
        tmux.type("guest", "ne", "Enter")
        tmux.until("agent", has("guest: half a line"))

        # The arrow key brings it back; a narrower window is drawn anew.
        tmux.type("guest", "", "Up")
        tmux.until("guest", lambda screen: screen[-1] == "> half a line")
        tmux.resize("guest", 40)
        tmux.type("guest", "!", "Enter")
        tmux.until("agent", has("guest: half a line!"))

        (tmp_path / "note.txt").write_text("hello")
        tmux.type("guest", f"/file {tmp_path / 'note.txt'}", "Enter")
        tmux.until("guest", has("(file) note.txt"))
        tmux.type("guest", "", "C-d")
        tmux.until("guest", has("exit code 0"))
        tmux.type("agent", "", "C-c")
        tmux.until("agent", has("exit code 130"))
    finally:
        tmux.stop()
