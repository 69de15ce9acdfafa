"""`chat`: the meaning of lines with a scripted client; the whole command in a terminal, and in tmux together
with the agent's console."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pyte
import pytest

from guestctl.cli.chat.completions import complete
from guestctl.cli.chat.loop import (
    COMMANDS,
    Chat,
    FormPrompt,
    InputClosed,
    InputEvent,
    InputFailed,
    LineChanged,
    LineEntered,
    is_command,
)
from guestctl.client import Client
from guestctl.core.clock import Deadline
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
from guestctl.dialects import NAMES
from guestctl.dialects.capabilities import Ability
from guestctl.dialects.web_messaging.answers import WebContent
from guestctl.output import terminal as terminals
from guestctl.output.records import Record
from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from tests.cli.conftest import Front
from tests.fakes import FakeClock
from tests.integration.middle import Gateway, answer
from tests.sandbox.stranger import Control
from tests.unit.test_answers import FORM

ROOT = Path(__file__).parents[2]
LIVE = Connection("live")


# --- the meaning of lines ---


class Dialect:
    def __init__(self) -> None:
        self.abilities = frozenset(Ability)

        self.rich_content = WebContent()


class ScriptedClient:
    """A client that receives the events of a script and records the calls."""

    def __init__(self, script: Sequence[Event | None]) -> None:
        self.clock = FakeClock()
        self.dialect = Dialect()
        self.session_name = "default"
        self.timeout: float | None = 30.0
        self.calls: list[tuple[str, Any]] = []
        self.failures: deque[Failure | None] = deque()
        self.script = script
        self.script_done = False
        self.guest_typing = True
        self._sent = 0

    def deployment(self) -> Deployment:
        return Deployment(guest_typing=self.guest_typing)

    def listen(self, *, replay: int, wake: Callable[[], float | None]) -> Iterator[Event | None]:
        self.calls.append(("listen", replay))
        yield from self.script
        self.script_done = True
        while True:
            yield None

    def send(self, text: str = "", **more: Any) -> Sent:
        self.calls.append(("send", text if not more else {"text": text, **more}))
        failure = self.failures.popleft() if self.failures else None
        if failure is not None:
            raise failure
        self._sent += 1
        message = Message(f"own-{self._sent}", "inbound", text, None, sender=Sender("guest"))
        return Sent("key", "accepted", text, message)

    def typing(self) -> None:
        self.calls.append(("typing", self.timeout))
        failure = self.failures.popleft() if self.failures else None
        if failure is not None:
            raise failure

    def history(self, *, last: int | None) -> Iterator[Event]:
        self.calls.append(("history", last))
        yield Message("old", "outbound", "from before", None)

    def end(self) -> None:
        self.calls.append(("end", None))


class FakeKeyboard:
    """Returns one input event at every other call; after the script's last event, the user leaves.

    Input starts after the script's last event, or at once if `early`. None stands for a call without input.
    """

    def __init__(self, client: ScriptedClient, typed: Sequence[str | InputEvent | None], early: bool) -> None:
        self._client = client
        self._typed = deque(LineEntered(one) if isinstance(one, str) else one for one in typed)
        self._early = early
        self._skip = False
        self.prompts: list[str] = []
        self.statuses: list[str] = []
        self.history: list[str] = []

    def next_event(self) -> InputEvent | None:
        self._skip = not self._skip
        if not self._skip or not (self._early or self._client.script_done):
            return None
        if self._typed:
            return self._typed.popleft()
        return InputClosed() if self._client.script_done else None

    def show_status(self, text: str) -> None:
        self.statuses.append(text)

    def set_prompt(self, text: str) -> None:
        self.prompts.append(text)

    def set_connecting(self, connecting: bool) -> None:
        """Do nothing: this keyboard never waits."""

    def add_to_history(self, text: str) -> None:
        self.history.append(text)


class FakeOutput:
    terminal = terminals.Terminal()

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.hints: list[str] = []

    def event(self, record: Record) -> None:
        self.lines.append(record.get("text") or record["kind"])

    def notice(self, text: str) -> None:
        self.lines.append(f"* {text}")

    answer = notice

    def failure(self, failure: Failure) -> None:
        self.lines.append(f"! {failure.message}")
        self.hints.append(failure.hint)


class ChatRun:
    def __init__(
        self, *script: Event | None, typed: Sequence[str | InputEvent | None] = (), early: bool = False
    ) -> None:
        self.client = ScriptedClient(script)
        self.keyboard = FakeKeyboard(self.client, typed, early)
        self.output = FakeOutput()
        self.chat = Chat(cast("Client", self.client), self.keyboard, self.output, cwd=Path("/home/ada"))

    def run(self) -> ChatRun:
        self.chat.run()
        return self

    @property
    def sent(self) -> list[Any]:
        return [what for verb, what in self.client.calls if verb == "send"]


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


def test_an_accepted_line_is_shown_once() -> None:
    own = Message("own-1", "inbound", "hello", None)
    chat = ChatRun(LIVE, None, own, bot("hi"), typed=["hello", ""], early=True).run()
    assert chat.sent == ["hello"]
    assert chat.output.lines == ["hello", "hi"]


def test_a_message_of_another_process_is_shown_and_added_to_the_line_history() -> None:
    chat = ChatRun(LIVE, Message("x", "inbound", "from elsewhere", None)).run()
    assert chat.output.lines == ["from elsewhere"]
    assert chat.keyboard.history == ["from elsewhere"]


def test_a_number_picks_while_options_are_offered() -> None:
    chat = ChatRun(LIVE, OFFER, typed=["2", "1"]).run()
    assert chat.sent == [{"text": "", "pick": ["2"], "answering": OFFER}, "1"]
    assert ChatRun(LIVE, OFFER, typed=["3"]).run().sent == ["3"]
    assert ChatRun(LIVE, OFFER, typed=["neither", "1"]).run().sent == ["neither", "1"]
    assert ChatRun(LIVE, OFFER, bot("Take your time", 2), typed=["1"]).run().sent[0]["pick"] == ["1"]


def test_a_number_that_is_a_label_or_payload_picks_although_it_is_beyond_the_options() -> None:
    ratings = bot("How was it?", options=(Option("10", "ten", "QuickReply"), Option("20", "40", "QuickReply")))
    assert ChatRun(LIVE, ratings, typed=["40"]).run().sent == [{"text": "", "pick": ["40"], "answering": ratings}]
    assert ChatRun(LIVE, ratings, typed=["20"]).run().sent == [{"text": "", "pick": ["20"], "answering": ratings}]
    assert ChatRun(LIVE, ratings, typed=["30"]).run().sent == ["30"]


@pytest.mark.parametrize(
    ("line", "pick"),
    [("/pick 2", ["2"]), ("/pick Light blue", ["Light blue"]), ("/pick 1 2", ["1", "2"]), ("/pick 1,2", ["1", "2"])],
)
def test_pick(line: str, pick: list[str]) -> None:
    chat = ChatRun(LIVE, LISTED, None, typed=["well", line]).run()
    assert chat.sent[1] == {"text": "", "pick": pick, "answering": LISTED}


def test_say_sends_the_text_unchanged() -> None:
    assert ChatRun(LIVE, OFFER, typed=["/say 1", "/say /etc/passwd", "/say"]).run().sent == ["1", "/etc/passwd"]


def test_an_unknown_command_is_not_sent() -> None:
    chat = ChatRun(LIVE, typed=["/etc/passwd is here"]).run()
    assert chat.sent == []
    assert "/help" in chat.output.lines[0]


def test_file_splits_paths_as_a_shell_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    chat = ChatRun(LIVE, typed=["/file a.png '~b c'.txt ~/d", "/file it's", "/file"]).run()
    assert [call["files"] for call in chat.sent] == [
        [Path("/home/ada/a.png"), Path("/home/ada/~b c.txt"), Path("/home/ada/d")],
        [Path("/home/ada/it's")],
    ]
    assert chat.output.lines[-1] == "! /file needs a path"
    assert chat.output.hints == ["/help lists the commands"], "the hint is about the chat, not about the command line"


def test_history() -> None:
    chat = ChatRun(LIVE, typed=["/history", "/history 3", "/history all", "/history x"]).run()
    assert [what for verb, what in chat.client.calls if verb == "history"] == [20, 3, None]
    assert chat.output.lines[:3] == ["from before"] * 3
    assert chat.output.lines[3] == '! /history needs a number or "all", not "x"'


def test_help_names_every_command() -> None:
    printed = "\n".join(ChatRun(LIVE, typed=["/help"]).run().output.lines)
    for command in ("/pick", "/form", "/file", "/history", "/say", "/end", "Ctrl-D"):
        assert command in printed


def test_end_asks_for_confirmation() -> None:
    chat = ChatRun(LIVE, typed=["/end", "no", "/end", "y", "never sent"]).run()
    assert [verb for verb, _ in chat.client.calls] == ["listen", "end"]
    assert "transcript" in chat.keyboard.prompts[0]
    assert chat.keyboard.prompts[1] == "> "
    assert "* not ended" in chat.output.lines


def test_end_needs_no_confirmation_where_the_transcript_remains() -> None:
    chat = ChatRun(LIVE, typed=["/end", "never sent"])
    chat.client.dialect.abilities = frozenset({Ability.END})
    assert [verb for verb, _ in chat.run().client.calls] == ["listen", "end"]


def test_form_prompts_for_each_field() -> None:
    chat = ChatRun(
        LIVE, FORM, typed=["/form", "", "Ada", "", "soon", "2026-03-09", "1, Cheddar", "Brie, feta", "1"]
    ).run()
    assert chat.sent == [
        {
            "text": "",
            "form": {"name": ["Ada"], "day": ["2026-03-09"], "top": ["Brie", "feta"], "size": ["1"]},
            "answering": FORM,
        }
    ]
    assert chat.keyboard.prompts[0] == "Name (required): "
    assert chat.keyboard.prompts[-1] == "> "
    printed = "\n".join(chat.output.lines)
    for words in (
        "/form fills in this form",
        "requires the field",
        '"soon" is not any date',
        'no option "Cheddar"',
        "[2] Brie",
    ):
        assert words in printed


def test_cancel_leaves_the_form() -> None:
    chat = ChatRun(LIVE, FORM, typed=["/form", "Ada", "/cancel", "hello", "/cancel"]).run()
    assert chat.sent == ["hello"]
    assert chat.output.lines[-1] == "! nothing to cancel"
    assert ChatRun(LIVE, typed=["/form"]).run().output.lines == ["! no form to fill in"]


def test_form_prompts_and_choices() -> None:
    form = FormPrompt(FORM, [FormField("a", "", "list", items=(("x", "1"), ("y", "2")), several=True)])
    assert form.prompt() == "a (separate several with commas): "
    assert form.choices() == ["[1] x", "[2] y"]
    assert form.values(" 1, 2 ,") == ["1", "2"]


def test_lines_typed_without_a_connection_wait_for_it() -> None:
    lost = (LIVE, Connection("lost", "broke"), Connection("retrying", attempt=1, delay=1.0))
    chat = ChatRun(
        *lost,
        *[None] * 4,
        Connection("live", recovered=2),
        typed=[None, None, "one", LineChanged(), "two"],
        early=True,
    ).run()
    assert chat.client.calls == [("listen", 0), ("send", "one"), ("send", "two")]
    assert chat.output.lines[:2] == [
        "* connection lost (broke); reconnecting",
        "* reconnected, 2 recovered",
    ]
    assert "reconnecting, attempt 1 …; 2 waiting to be sent" in chat.keyboard.statuses


def test_leaving_without_a_connection_reports_unsent_lines() -> None:
    chat = ChatRun(Connection("connecting"), typed=["one"])
    with pytest.raises(NetworkError, match="1 not sent"):
        chat.run()
    assert chat.sent == []


def test_a_failed_send_is_printed_and_the_chat_continues() -> None:
    chat = ChatRun(LIVE, typed=["bad", "good"])
    chat.client.failures.append(Refused("too long"))
    chat.run()
    assert chat.sent == ["bad", "good"]
    assert chat.output.lines == ["! too long", "good"]


def test_the_end_of_the_session_ends_the_chat() -> None:
    chat = ChatRun(LIVE, typed=["hello", "more"])
    chat.client.failures.append(SessionOver("expired"))
    with pytest.raises(SessionOver):
        chat.run()
    assert chat.sent == ["hello"]


def test_a_read_only_conversation_is_announced() -> None:
    chat = ChatRun(LIVE, Presence("Disconnect", "outbound"), SessionEvent("read_only"), Gap("a", "b", "why")).run()
    assert chat.output.lines == [
        "presence",
        "session",
        "* the conversation is read-only: nothing more can be sent; Ctrl-D leaves",
        "gap",
    ]


def test_a_typing_indicator_is_shown_until_it_ends() -> None:
    chat = ChatRun(LIVE, Typing(Sender("agent", "Mina"), 2000), None, bot("there"), None, typed=["ok"]).run()
    assert "Mina is typing …" in chat.keyboard.statuses
    assert chat.keyboard.statuses[-1] == ""


def test_typing_indicators_are_sent_at_intervals() -> None:
    chat = ChatRun(LIVE, None, None, None, typed=[LineChanged(), LineChanged(), "hi"]).run()
    assert [verb for verb, _ in chat.client.calls] == ["listen", "typing", "send"]
    assert chat.client.calls[1][1] == 1.0
    assert chat.client.timeout == 30.0


def test_no_typing_indicator_where_the_deployment_refuses_it() -> None:
    chat = ChatRun(LIVE, typed=[LineChanged()])
    chat.client.guest_typing = False
    assert [verb for verb, _ in chat.run().client.calls] == ["listen"]
    refused = ChatRun(LIVE, None, typed=[LineChanged(), LineChanged()])
    refused.client.failures.append(Forbidden("off"))
    refused.client.clock.sleep(10.0)
    assert [verb for verb, _ in refused.run().client.calls] == ["listen", "typing"]
    assert refused.output.lines == []


def test_a_crashed_keyboard_ends_the_chat() -> None:
    with pytest.raises(OSError, match="gone"):
        ChatRun(LIVE, typed=[InputFailed(OSError("gone"))]).run()


def test_commands_are_not_messages() -> None:
    assert is_command("/pick 1")
    assert not is_command("pick 1")


# --- the command ---


def test_chat_without_a_terminal_is_a_usage_error(front: Front) -> None:
    front("session", "create")
    for result in (front("chat"), front("chat", "-o", "table")):
        assert result.code == 2
        assert result.out == ""
        assert result.err.count("\n") == 2
        assert "`guestctl send`" in result.err
        assert "`guestctl listen`" in result.err


def test_chat_has_no_json_output(front: Front) -> None:
    assert front("chat", "-o", "json", tty=True).code == 2


@pytest.mark.parametrize("api", NAMES)
def test_chat_creates_a_session_if_there_is_none(front: Front, api: str) -> None:
    front = replace(front, environ={**front.environ, "GUESTCTL_API": api})
    with chatting(front, "-s", "cart") as terminal:
        assert 'created session "cart", because there was none' in plain(terminal.seen)
        terminal.type("hello\r")
        terminal.until("echo: hello")
        terminal.type("\x04")
        assert terminal.ended() == 0
    with chatting(front, "-s", "cart") as terminal:
        assert "created session" not in plain(terminal.seen)
        terminal.type("\x04")
        assert terminal.ended() == 0


def test_chats_that_start_at_the_same_time_create_one_session(front: Front) -> None:
    started: list[Terminal] = []
    try:
        with Client(environ=front.environ) as client:
            owner = f"{client.scope}/cart"
            with client.state.lock("create", Deadline.after(client.clock, 0.0), owner=owner):
                started += [Terminal(front, "chat", "-s", "cart") for _ in range(2)]
                for terminal in started:
                    terminal.until("still holds the lock")
        for terminal in started:
            terminal.until("/help lists the commands")
            terminal.type("\x04")
        assert [terminal.ended() for terminal in started] == [0, 0]
    finally:
        for terminal in started:
            terminal.close()
    assert sum("created session" in plain(terminal.seen) for terminal in started) == 1
    assert [line["name"] for line in front("session", "list", "-o", "jsonl").records] == ["cart"]


def test_chat_creates_no_session_in_place_of_one_that_has_ended(front: Front) -> None:
    front("session", "create")
    assert front("session", "end", "--yes").code == 0
    terminal = Terminal(front, "chat")
    try:
        assert terminal.ended() == 10
    finally:
        terminal.close()
    assert "created session" not in plain(terminal.seen)


class Terminal:
    """A pseudo-terminal that runs guestctl."""

    def __init__(self, front: Front, *argv: str, term: str = "xterm-256color") -> None:
        self._near, far = pty.openpty()
        self.resize(80)
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

    def resize(self, columns: int) -> None:
        import fcntl
        import termios

        fcntl.ioctl(self._near, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._near, text.encode())

    def until(self, words: str) -> None:
        """Wait until the screen shows a text; fail after 20 s."""
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
        # Convert a signal into the exit code that a shell reports: Ctrl-C ends the command by SIGINT.
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


def test_a_refused_end_is_printed_and_the_chat_continues(sandboxed: Callable[[Sandbox], Front]) -> None:
    with running(SandboxOptions(fast=True, clear=False)) as sandbox:
        front = sandboxed(sandbox)
        front("session", "create")
        with chatting(front) as terminal:
            terminal.type("/end\ry\rhello\r")
            terminal.until("Conversation Clear are not supported")
            terminal.until("echo: hello")
            terminal.type("\x04")
            assert terminal.ended() == 0


def test_quiet_chat_still_answers_commands_in_plain_text(front: Front) -> None:
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


def test_replay_shows_earlier_messages_first(front: Front) -> None:
    front("ask", "from before")
    with chatting(front) as terminal:
        terminal.until("echo: from before")
        terminal.type("\x04")
        assert terminal.ended() == 0


def test_ctrl_c_clears_the_line_and_a_second_one_leaves(front: Front) -> None:
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


def test_alt_enter_starts_a_new_line(front: Front) -> None:
    front("session", "create")
    with chatting(front) as terminal:
        terminal.type("one\x1b\rtwo\r")
        terminal.until("echo: one")
        terminal.type("/say three\x1b\rfour\r")
        terminal.until("echo: three")
        terminal.type("\x04")
        assert terminal.ended() == 0
    said = [message["text"] for message in front("history").records]
    assert said == ["one\ntwo", "echo: one\ntwo", "three\nfour", "echo: three\nfour"]


def test_every_key_that_enters_a_line_sends_it_and_the_chat_continues(front: Front) -> None:
    front("session", "create")
    with chatting(front) as terminal:
        for number, key in enumerate(("\x0f", "\n", "\r")):
            terminal.type(f"line {number}{key}")
            terminal.until(f"echo: line {number}")
        terminal.type("\x04")
        assert terminal.ended() == 0


def test_enter_sends_the_line_that_a_search_found(front: Front) -> None:
    front("session", "create")
    with chatting(front) as terminal:
        terminal.type("first line\r")
        terminal.until("echo: first line")
        terminal.type("second line\r")
        terminal.until("echo: second line")
        terminal.type("\x12fir")
        terminal.until("backward: fir")
        terminal.type("\r")
        terminal.type("\x12never typed\r")  # nothing is found: nothing is sent
        terminal.type("\x12sec\x03")  # Ctrl-C leaves the search, and not the chat
        terminal.type("last\r")
        terminal.until("echo: last")
        terminal.type("\x04")
        assert terminal.ended() == 0
    said = [message["text"] for message in front("history").records if message["direction"] == "inbound"]
    assert said == ["first line", "second line", "first line", "last"]


def test_tab_completes_commands_and_paths(front: Front) -> None:
    front("session", "create")
    (front.cwd / "note.txt").write_text("hello")
    (front.cwd / "my notes").mkdir()
    (front.cwd / "my notes" / "plan.txt").write_text("hello")
    with chatting(front) as terminal:
        terminal.type("/f\t")
        terminal.until("/form  /file")
        terminal.type("i\tno\t\r")
        terminal.until("(file) note.txt")
        terminal.type("/file m\tp\t\r")
        terminal.until("(file) plan.txt")
        terminal.type("\x04")
        assert terminal.ended() == 0


@pytest.mark.parametrize(
    ("text", "completed", "choices"),
    [
        ("/he", "/help ", ()),
        ("  /he", "  /help ", ()),
        ("/f", "/f", ("/form", "/file")),
        ("/x", None, ()),
        ("no /he", None, ()),
        ("/say a", None, ()),
        ("", None, ()),
        ("/file al", "/file alpha-", ()),
        ("/file alpha-", "/file alpha-", ("alpha-1.txt", "alpha-2.txt")),
        ("/file alpha-1", "/file alpha-1.txt ", ()),
        ("/file alpha-1.txt it", "/file alpha-1.txt it\\'s\\ me/", ()),
        ("/file 'with sp", "/file with\\ space.txt ", ()),
        ("/file with\\ sp", "/file with\\ space.txt ", ()),
        ("/file \"it's me/", "/file it\\'s\\ me/inner.txt ", ()),
        ("/file ~/in", "/file ~/in-home.txt ", ()),
        ("/file .h", "/file .hidden ", ()),
        ("/file missing/", None, ()),
        ("/file ~nobody-here/", None, ()),
    ],
)
def test_completion_of_a_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, completed: str | None, choices: tuple[str, ...]
) -> None:
    home = tmp_path / "home"
    work = tmp_path / "work"
    (work / "it's me").mkdir(parents=True)
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    names = ("alpha-1.txt", "alpha-2.txt", "with space.txt", ".hidden", "it's me/inner.txt", "with\x1bescape")
    for path in (*(work / name for name in names), home / "in-home.txt"):
        path.write_text("")
    found = complete(text, COMMANDS, work)
    if completed is None:
        assert found is None
    else:
        assert found is not None
        assert text[: found.start] + found.insert == completed
        assert found.choices == choices


def test_a_narrower_terminal_that_cuts_rows_off_loses_no_message(front: Front) -> None:
    front("session", "create")
    words = "one two three four five six seven eight nine ten eleven twelve"
    with chatting(front) as terminal:
        terminal.type("hello\r")
        terminal.until("echo: hello")
        terminal.type(words)
        terminal.until(words)
        before = len(terminal.seen)
        terminal.resize(40)
        terminal.type("!")
        terminal.until("twelve!")
        screen = pyte.Screen(80, 24)
        stream = pyte.Stream(screen)
        stream.feed(terminal.seen[:before])
        screen.resize(24, 40)
        stream.feed(terminal.seen[before:])
    rows = [row.rstrip() for row in screen.display if row.strip()]
    assert rows[-3].endswith("echo: hello")
    assert "".join(rows[-2:]) == f"> {words}!"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_restore_the_terminal(front: Front, number: int, code: int) -> None:
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
    """A session at an address where a server now accepts connections and never answers."""
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


def test_leaving_while_connecting_reports_unsent_lines(unanswered: Front) -> None:
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


# --- the session ends while the chat is open ---


def said_new_session(middle: Gateway, sandbox: Sandbox) -> None:
    """The service answers the next re-attach with a new session."""
    middle.rewrite = lambda text: text.replace('"newSession":false', '"newSession":true')


def expired(middle: Gateway, sandbox: Sandbox) -> None:
    """The session expires while the chat reconnects, so that no event reports it."""
    Control(sandbox)("POST", "/expire")


@pytest.fixture
def through(sandboxed: Callable[[Sandbox], Front]) -> Iterator[tuple[Front, Gateway, Sandbox]]:
    """A session whose every connection goes through a gateway."""
    with Gateway() as middle, Sandbox(fast=True, also_hosts=(f"127.0.0.1:{middle.port}",)) as sandbox:
        middle.behind = sandbox.port
        front = sandboxed(sandbox)
        front = replace(front, environ={**front.environ, "GUESTCTL_SANDBOX_URL": middle.url})
        assert front("session", "create").code == 0
        yield front, middle, sandbox


@pytest.mark.parametrize("ends", [said_new_session, expired])
def test_a_chat_never_goes_on_in_a_new_conversation(
    through: tuple[Front, Gateway, Sandbox], ends: Callable[[Gateway, Sandbox], None]
) -> None:
    front, middle, sandbox = through
    with chatting(front) as terminal:
        terminal.type("hello\r")
        terminal.until("echo: hello")
        middle.rule = lambda asked: answer(503) if asked.upgrade else None
        middle.cut()
        ends(middle, sandbox)
        terminal.type("into the void\r")
        terminal.until("1 waiting to be sent")
        middle.rule = lambda asked: None
        terminal.until("hint: ")
        assert terminal.ended() == 10
    shown = " ".join(plain(terminal.seen).split())
    assert "had expired: the service answered with a new one; 1 typed line not sent" in shown
    assert "another command" not in shown
    texts = [message["text"] for one in Control(sandbox).sessions() for message in one["messages"]]
    assert texts == ["hello", "echo: hello"]
    assert front("session", "show").record["state"] == "expired"


def test_a_chat_ends_when_its_session_expires(through: tuple[Front, Gateway, Sandbox]) -> None:
    front, _, sandbox = through
    with chatting(front) as terminal:
        terminal.type("hello\r")
        terminal.until("echo: hello")
        Control(sandbox)("POST", "/expire")
        terminal.until("the session expired")
        assert terminal.ended() == 10
    assert "another command" not in terminal.seen
    assert len(Control(sandbox).sessions()) == 1


def test_control_characters_in_messages_are_escaped(front: Front) -> None:
    front("session", "create")
    with chatting(front) as terminal:
        front("sandbox", "push", "\x1b]0;owned\x07\x1b[2J \u202e evil", "--to", mine(front))
        terminal.until("evil")
        terminal.type("\x04")
        assert terminal.ended() == 0
        assert "\x1b]0;owned" not in terminal.seen
        assert "\x1b[2J" not in terminal.seen
        assert "\\x1b]0;owned\\x07\\x1b[2J \\u202e evil" in plain(terminal.seen)


def test_no_key_is_lost_while_messages_arrive(front: Front) -> None:
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


# --- together with the agent's console, in tmux ---


class Tmux:
    """A separate tmux server; `screen` returns what the user sees."""

    def __init__(self, directory: Path) -> None:
        self._base = ["tmux", "-S", str(directory / "tmux"), "-f", "/dev/null"]

    def start(self, name: str, *argv: str, environ: dict[str, str]) -> None:
        words = [f"{key}={value}" for key, value in environ.items()]
        # The shell prints the exit code: tmux does not always report it for a closed pane.
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

    def width(self, name: str) -> int:
        """Return the number of columns that the program in the window can read."""
        descriptor = os.open(
            self._do("display-message", "-p", "-t", name, "#{pane_tty}").strip(), os.O_RDWR | os.O_NOCTTY
        )
        try:
            return os.get_terminal_size(descriptor).columns
        finally:
            os.close(descriptor)

    def stop(self) -> None:
        subprocess.run([*self._base, "kill-server"], check=False, capture_output=True)

    def _do(self, *argv: str) -> str:
        return subprocess.run([*self._base, *argv], check=True, capture_output=True, text=True).stdout


def has(words: str) -> Callable[[list[str]], bool]:
    return lambda screen: any(words in line for line in screen)


def shows(sender: str, text: str) -> Callable[[list[str]], bool]:
    """Return whether the screen shows a message in its columns."""
    return lambda screen: any(re.search(rf"\d +{re.escape(sender)} +{re.escape(text)}$", line) for line in screen)


@pytest.mark.skipif(
    shutil.which("tmux") is None, reason="tmux is not installed: guest and agent cannot be driven together"
)
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
        tmux.until("guest", shows("> guest", "Where is my parcel?"))
        tmux.until("agent", has("guest: Where is my parcel?"))

        # A reply arrives while the guest types: it is drawn above, and the line stays whole.
        tmux.type("guest", "half a li")
        tmux.until("guest", lambda screen: screen[-1] == "> half a li")
        tmux.type("agent", "On its way", "Enter")
        # The message above and the line below are two writes; the screen may be captured between them.
        said = shows("< agent", "On its way")
        screen = tmux.until("guest", lambda screen: said(screen) and screen[-1] == "> half a li")
        assert not any("half a li" in line for line in screen[:-1])
        tmux.type("agent", "/typing", "Enter")
        tmux.until("guest", lambda screen: screen[-2:] == ["agent is typing …", "> half a li"])
        tmux.type("guest", "ne", "Enter")
        tmux.until("agent", has("guest: half a line"))

        # The arrow key restores the line; a narrower window is redrawn.
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


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator[Tmux]:
    if shutil.which("tmux") is None or shutil.which("bash") is None:
        pytest.skip("tmux or bash is not installed: no shell can stop and resume the chat")
    made = Tmux(tmp_path)
    yield made
    made.stop()


def in_a_shell(tmux: Tmux, front: Front) -> None:
    """Start a chat from an interactive shell."""
    environ = {**front.environ, "PYTHONPATH": str(ROOT), "TERM": "screen-256color", "LANG": "C.UTF-8", "PS1": "shell: "}
    tmux.start("guest", "bash", "--norc", "--noprofile", "-i", environ=environ)
    tmux.until("guest", has("shell:"))
    tmux.type("guest", f"{sys.executable} -m guestctl chat", "Enter")
    tmux.until("guest", has("/help lists the commands"))


@pytest.mark.parametrize("stop", ["Ctrl-Z", "SIGSTOP", "SIGTSTP"])
def test_a_stopped_chat_continues_with_fg(tmux: Tmux, front: Front, stop: str) -> None:
    in_a_shell(tmux, front)
    tmux.type("guest", "half a")
    tmux.until("guest", lambda screen: screen[-1] == "> half a")
    if stop == "Ctrl-Z":
        tmux.type("guest", "", "C-z")
    else:
        os.kill(chat_of(tmux), getattr(signal, stop))
    tmux.until("guest", lambda screen: any("Stopped" in line for line in screen) and screen[-1] == "shell:")
    tmux.type("guest", "stty -a | tr ' ' '\\n' | grep -x -e -icanon -e icanon; fg", "Enter")
    tmux.until("guest", lambda screen: screen[-1] == "> half a")
    tmux.type("guest", " line", "Enter")
    screen = tmux.until("guest", shows("< bot", "echo: half a line"))
    assert "icanon" in screen
    tmux.type("guest", "", "C-d")
    tmux.until("guest", lambda screen: screen[-1] == "shell:")
    tmux.type("guest", "stty -a | tr ' ' '\\n' | grep -x -e -echo -e echo", "Enter")
    tmux.until("guest", lambda screen: screen[-2:] == ["echo", "shell:"])


def chat_of(tmux: Tmux) -> int:
    """Return the process id of the chat in the shell."""
    shell = tmux._do("list-panes", "-t", "guest", "-F", "#{pane_pid}").strip()
    children = [(shell, "")]
    while children:
        parent, words = children.pop()
        if words.endswith("guestctl chat") and "bash" not in words:
            return int(parent)
        listed = subprocess.run(
            ["ps", "-o", "pid=,args=", "--ppid", parent], check=False, capture_output=True, text=True
        )
        for line in listed.stdout.splitlines():
            pid, _, args = line.strip().partition(" ")
            children.append((pid, args.strip()))
    raise AssertionError("the shell runs no chat")


def test_a_narrower_window_leaves_no_rows_behind(tmux: Tmux, front: Front) -> None:
    in_a_shell(tmux, front)
    tmux.type("guest", "hello", "Enter")
    tmux.until("guest", shows("< bot", "echo: hello"))
    words = "one two three four five six seven eight nine ten eleven twelve"
    tmux.type("guest", words)
    tmux.until("guest", has(words))
    for columns in (40, 33, 70, 45):
        tmux.resize("guest", columns)
        tmux.until("guest", lambda screen, columns=columns: tmux.width("guest") == columns)  # type: ignore[misc]
        words += "!"  # this key draws the line again
        tmux.type("guest", "!")
        shown = [row.rstrip() for row in rows_of(f"> {words}", columns)]
        screen = tmux.until("guest", lambda screen, shown=shown: screen[-len(shown) :] == shown)  # type: ignore[misc]
        assert "".join(screen).count("> one") == 1
        assert "".join(screen[: -len(shown)]).endswith("hello")
    tmux.type("guest", "", "C-c", "C-d")
    tmux.until("guest", lambda screen: screen[-1] == "shell:")


def rows_of(text: str, columns: int) -> list[str]:
    return [text[start : start + columns] for start in range(0, len(text), columns)]
