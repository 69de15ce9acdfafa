"""`listen --exec`, `--forward-to` and `--from` (contract.md §8)."""

from __future__ import annotations

import hashlib
import hmac
import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.conftest import Front
from tests.cli.receiver import Post, Receiver, receiving
from tests.integration.front import InstantClock, check

ROOT = Path(__file__).parents[2]
SECRET = "a-secret-of-the-receiver"
ALL = ("--replay", "4", "--max", "4")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def asked(front: Front) -> Front:
    """A guest who has asked twice, so that the conversation has four messages. Waits take no time."""
    front = replace(front, clock=InstantClock(), environ={**front.environ, "GUESTCTL_FORWARD_SECRET": SECRET})
    front("ask", "one")
    front("ask", "two")
    return front


def script(front: Front, lines: str) -> str:
    """Return a command that runs a shell script."""
    path = front.cwd / "hook.sh"
    path.write_text(lines)
    return f"sh {shlex.quote(str(path))}"


def signed(post: Post) -> bool:
    """Check a signature as a receiver does, from its description in the contract alone."""
    parts = dict(part.split("=", 1) for part in post.headers["guestctl-signature"].split(","))
    expected = hmac.new(SECRET.encode(), parts["t"].encode() + b"." + post.body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(parts["v1"], expected)


# --- commands ---


def test_a_command_gets_the_text_on_stdin_and_the_ids_in_variables(asked: Front) -> None:
    """The guest's own messages are printed and not passed to the command."""
    log = asked.cwd / "log"
    hook = script(
        asked,
        f'{{ echo "$GUESTCTL_RECORD_KIND $GUESTCTL_RECORD_ROLE $GUESTCTL_RECORD_ID $#"; cat; }} >> {log}\n'
        f'echo "$GUESTCTL_PROFILE $GUESTCTL_SESSION ${{GUESTCTL_FORWARD_SECRET:-none}}" >> {log}\n',
    )
    plain = asked("listen", *ALL)
    done = asked("listen", *ALL, "--exec", hook)
    assert (done.code, done.out, done.err) == (0, plain.out, "")
    replies = [record for record in done.records if record["direction"] == "outbound"]
    assert log.read_text() == "".join(
        f"message bot {record['id']} 0\n{record['text']}\nsandbox default none\n" for record in replies
    )


def test_no_shell_reads_the_command_or_the_text(front: Front) -> None:
    front("session", "create")
    front("send", "--wait", "$(touch text) `touch text`; touch text")
    log = front.cwd / "log"
    hook = script(front, f"""printf '%s\\n' "$@" > {log}; cat >> {log}""") + " $(touch command) '; touch command'"
    done = front("listen", "--replay", "1", "--max", "1", "--exec", hook)
    assert done.code == 0
    assert log.read_text().splitlines() == [
        *("$(touch", "command)", "; touch command"),
        "echo: $(touch text) `touch text`; touch text",
    ]
    assert sorted(path.name for path in front.cwd.iterdir() if path.is_file()) == ["hook.sh", "log"]


@pytest.mark.parametrize("mode", ["json", "table"])
def test_a_command_that_fails_is_reported_and_listening_goes_on(asked: Front, mode: str) -> None:
    done = asked("listen", *ALL, "--exec", script(asked, "exit 3\n"), "-o", mode)
    assert done.code == 0
    assert done.err.count("--exec: sh exited 3 (message ") == 2


@pytest.mark.parametrize(
    ("given", "error"),
    [("", "no command"), ("'x", "cannot split"), ("no-such-program here", 'no program "no-such-program"')],
)
def test_a_command_that_cannot_be_run_is_refused_at_once(asked: Front, given: str, error: str) -> None:
    done = asked("listen", "--exec", given)
    assert (done.code, done.out) == (2, "")
    assert error in done.error["message"]


def test_a_command_that_answers_does_not_answer_itself(front: Front) -> None:
    """The command's guestctl works on the session of `listen` without options of its own."""
    for name in ("other", "cart"):
        front("session", "create", "--as", name)
    answer = f"{sys.executable} -m guestctl send answered -q"
    front = replace(front, environ={**front.environ, "PYTHONPATH": str(ROOT)})
    front("sandbox", "push", "question", "--to", front("sandbox", "sessions").records[-1]["id"])
    front("session", "use", "other")
    done = front("-s", "cart", "listen", "--replay", "1", "--max", "3", "--for", "20", "--exec", answer)
    texts = [record["text"] for record in done.records]
    # The bot replies to each answer: what the guest sent caused no further answer.
    assert texts == ["question", "answered", "echo: answered"]
    assert [record["text"] for record in front("-s", "cart", "history").records].count("answered") == 2


# --- posts ---


def test_each_record_is_posted_in_order_and_signed(asked: Front, receiver: Receiver) -> None:
    done = asked("listen", *ALL, "--forward-to", receiver.url)
    assert (done.code, done.err) == (0, "")
    replies = [record for record in done.records if record["direction"] == "outbound"]
    assert [post.record for post in receiver.posts] == replies
    for post in receiver.posts:
        assert post.path == "/hook"
        assert post.headers["content-type"] == "application/json"
        assert signed(post)


def test_a_post_is_repeated_until_the_receiver_accepts_it(asked: Front, receiver: Receiver) -> None:
    receiver.answer = lambda number, post: ({1: 500, 2: 429, 4: 503}.get(number, 200), {"Retry-After": "7"})
    done = asked("listen", *ALL, "--forward-to", receiver.url)
    assert done.code == 0
    assert receiver.texts == ["echo: one"] * 3 + ["echo: two"] * 2
    assert all(signed(post) for post in receiver.posts)
    assert isinstance(asked.clock, InstantClock)
    assert [wait for wait in asked.clock.sleeps if wait >= 7] == [7.0, 7.0, 7.0]


def test_with_a_cursor_a_message_counts_only_after_the_receiver_has_accepted_it(
    asked: Front, receiver: Receiver, tmp_path: Path
) -> None:
    cursor = ("--cursor", str(tmp_path / "cursor"), "--idle", "300ms", "--forward-to", receiver.url)
    receiver.answer = lambda number, post: (500 if number > 1 else 200, {})
    failed = asked("listen", *cursor)
    assert failed.code == 8
    assert (failed.error["code"], failed.error["http_status"]) == ("forward.failed", 500)
    assert receiver.texts == ["echo: one"] + ["echo: two"] * 4
    receiver.answer = lambda number, post: (200, {})
    assert asked("listen", *cursor).code == 0
    assert receiver.texts[5:] == ["echo: two"]
    assert asked("listen", *cursor).records == []
    assert len(receiver.posts) == 6


@pytest.mark.parametrize("status", [302, 400, 404])
def test_a_refusal_ends_the_command_and_no_redirect_is_followed(asked: Front, receiver: Receiver, status: int) -> None:
    receiver.answer = lambda number, post: (status, {"Location": receiver.url})
    done = asked("listen", *ALL, "--forward-to", receiver.url)
    assert (done.code, done.error["code"], done.error["http_status"]) == (3, "forward.refused", status)
    assert receiver.texts == ["echo: one"]
    # What was received is still printed.
    assert [record["text"] for record in done.records] == ["one", "echo: one", "two", "echo: two"]


def test_a_receiver_that_is_down_is_named(asked: Front, receiver: Receiver) -> None:
    with receiving() as gone:
        pass
    done = asked("listen", *ALL, "--forward-to", gone.url)
    error = check(done, 8, "forward.failed", gone.url.split("/")[2])
    assert "--cursor" in error["hint"]


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://hooks.example/x", "hooks.example has no TLS"),
        ("ws://127.0.0.1/x", "not an http or https address"),
        ("hooks.example/x", "not an http or https address"),
        ("https://ann:word@hooks.example/x", "contains a user name"),
        ("http://[::1", "not an address"),
    ],
)
def test_an_address_without_tls_or_with_a_user_is_refused(asked: Front, url: str, error: str) -> None:
    done = asked("listen", "--forward-to", url)
    assert (done.code, done.out) == (2, "")
    assert error in done.error["message"]


def test_a_post_needs_the_secret(front: Front, receiver: Receiver) -> None:
    front("session", "create")
    done = front("listen", "--forward-to", receiver.url)
    assert (done.code, "GUESTCTL_FORWARD_SECRET is not set" in done.error["message"]) == (2, True)


def test_the_secret_is_in_no_output(asked: Front, receiver: Receiver, tmp_path: Path) -> None:
    receiver.answer = lambda number, post: (500, {})
    trace = tmp_path / "trace"
    done = asked("listen", *ALL, "-vv", "--debug", "--trace", str(trace), "--forward-to", receiver.url)
    assert done.code == 8
    assert SECRET not in done.out + done.err + trace.read_text()


# --- senders ---


@pytest.mark.parametrize(
    ("given", "texts"),
    [
        ("bot", ["echo: one", "echo: two"]),
        ("guest", ["one", "two"]),
        ("agent", []),
        ("guest,bot", ["one", "echo: one", "two", "echo: two"]),
    ],
)
def test_from_filters_what_is_printed_and_passed_on(
    asked: Front, receiver: Receiver, given: str, texts: list[str]
) -> None:
    """Hooks receive the guest's own messages only if --from names the guest."""
    done = asked("listen", "--replay", "4", "--idle", "300ms", "--from", given, "--forward-to", receiver.url)
    assert done.code == 0
    assert [record["text"] for record in done.records] == texts
    assert receiver.texts == texts


def test_an_unknown_sender_is_refused(front: Front) -> None:
    front("session", "create")
    done = front("listen", "--from", "robot,bot")
    assert (done.code, 'no sender "robot"' in done.error["message"]) == (2, True)
    assert "available senders: bot, agent, guest, system" in done.error["hint"]


def test_events_are_passed_on_too(front: Front, receiver: Receiver) -> None:
    """A record without a text gives the command an empty stdin."""
    front("session", "create")
    log = front.cwd / "log"
    hook = script(front, f'echo "$GUESTCTL_RECORD_KIND:$(wc -c | tr -d " ")" >> {log}\n')
    done = front(
        *("listen", "--only", "connection", "--max", "2", "--idle", "1", "--exec", hook),
        *("--forward-to", receiver.url),
        GUESTCTL_FORWARD_SECRET=SECRET,
    )
    assert done.code == 0
    assert [post.record for post in receiver.posts] == [json.loads(line) for line in done.out.splitlines()]
    assert log.read_text() == "connection:0\nconnection:0\n"
