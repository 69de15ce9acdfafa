"""`--print-frames` and `--print-curl` print exactly what would be sent, and send nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import pytest

from guestctl.dialects import NAMES
from guestctl.engine.preview import Planned, shell
from guestctl.sandbox import CLIENT_SECRET, DEPLOYMENT_ID
from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from tests.cli.conftest import Front

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
NAMED = re.compile(r"\$[A-Z]+_ID")
SECRET = re.compile(r"\*\*\*[0-9a-f]{8}|\$[A-Z_]+_(TOKEN|SECRET)")
#: Headers that only say which client it is.
PLUMBING = {"user-agent", "accept-encoding"}


def of(front: Front, api: str) -> Front:
    return Front({**front.environ, "GUESTCTL_API": api}, front.cwd)


def plain(value: Any) -> Any:
    """Return a step without what differs each time: new ids, secrets and their placeholders."""
    return json.loads(UUID.sub("ID", NAMED.sub("ID", SECRET.sub("SECRET", json.dumps(value)))))


def sent(front: Front, *argv: str, stdin: str = "") -> list[Any]:
    """Return what a command sends, from its trace."""
    path = front.cwd / "sent.trace"
    path.unlink(missing_ok=True)
    told = front(*argv, "--trace", str(path), stdin=stdin)
    assert told.code == 0, told.err
    found: list[Any] = []
    for entry in map(json.loads, path.read_text().splitlines()):
        if entry["kind"] == "upgrade":
            found.append(["connect", entry["url"], headers(entry["request_headers"]), None])
        elif entry["kind"] == "frame_out":
            found.append(["frame", None, {}, json.loads(entry["text"])])
        elif entry["kind"] == "request" and entry["route"] != "configuration":
            found.append(["request", entry["url"], headers(entry["headers"]), body(entry["body"])])
    return [plain(step) for step in found]


def planned(front: Front, *argv: str, stdin: str = "") -> list[Any]:
    told = front(*argv, "--print-frames", stdin=stdin)
    assert (told.code, told.err) == (0, "")
    return [plain([r["step"], r["url"], headers(r["headers"]), body(r["body"])]) for r in told.records]


def headers(given: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in given.items() if name.lower() not in PLUMBING}


def body(given: Any) -> Any:
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given)
    except ValueError:
        return parse_qsl(given)


@pytest.mark.parametrize("api", NAMES)
@pytest.mark.parametrize(
    "argv",
    [
        ("send", "hello"),
        ("send", "a", "--attr", "k=v"),
        ("send", "hello", "--wait"),
        ("ask", "hello"),
        ("ask", "--new", "hello"),
        ("history",),
        ("refresh-token",),
        ("typing",),
    ],
    ids=" ".join,
)
def test_print_frames_prints_what_is_sent(front: Front, api: str, argv: tuple[str, ...]) -> None:
    guest = of(front, api)
    assert guest("session", "create").code == 0
    shown = guest(*argv, "--print-frames")
    if shown.code in {2, 12}:  # this API has no such thing, printed or not
        assert guest(*argv).code == shown.code
        return
    steps, really = planned(guest, *argv), sent(guest, *argv)
    # An OAuth grant that is remembered is not asked for again.
    steps = [step for step in steps if "/oauth/" not in str(step[1])]
    assert steps == really[: len(steps)]
    # Where there is no socket to hear the reply on, history is asked.
    looking = [step for step in really[len(steps) :] if step[0] == "request" and step[3] is None]
    assert really == [*steps, *looking]
    assert not looking or argv[0] == "ask" or "--wait" in argv


@pytest.mark.parametrize("api", NAMES)
def test_a_second_message(front: Front, api: str) -> None:
    """If a closed socket invalidates the token, the plan renews it first."""
    guest = of(front, api)
    for argv in (("session", "create"), ("send", "one")):
        assert guest(*argv).code == 0
    assert planned(guest, "send", "two") == sent(guest, "send", "two")


def test_print_frames_does_not_reuse_ids_for_a_new_session(front: Front) -> None:
    guest = of(front, "guest-sessions")
    ids = guest("session", "create").record["ids"]
    assert ids["session"] in guest("ask", "hi", "--print-curl").out
    told = guest("ask", "--new", "hi", "--print-curl").out
    assert '/sessions/"$SESSION_ID"/messages' in told
    assert not any(known in told for known in ids.values() if known is not None)


@pytest.mark.parametrize("api", NAMES)
def test_print_frames_uses_placeholders_for_a_new_session(front: Front, api: str) -> None:
    guest = of(front, api)
    steps = planned(guest, "session", "create", "--as", "shown")
    really = sent(guest, "session", "create", "--as", "shown")
    assert steps == really[: len(steps)]
    assert steps[-1][0] in {"frame", "request"}


@pytest.mark.parametrize("api", NAMES)
@pytest.mark.parametrize("how", ["--print-frames", "--print-curl"])
def test_nothing_is_sent_stored_or_revealed(front: Front, api: str, how: str) -> None:
    guest = of(front, api)
    assert guest("session", "create").code == 0
    token = guest("session", "show", "--show-token").record["token"]
    before = front("sandbox", "sessions").out
    printed = ""
    for argv in (("send", "hi"), ("ask", "hi"), ("ask", "--new", "hi"), ("session", "create", "--new"), ("history",)):
        (guest.cwd / "none").unlink(missing_ok=True)
        told = guest(*argv, how, "--trace", str(guest.cwd / "none"))
        assert told.code == 0, told.err
        assert (guest.cwd / "none").read_text() == ""
        printed += told.out
    assert front("sandbox", "sessions").out == before
    assert token not in printed
    assert CLIENT_SECRET not in printed
    assert "$GUEST_TOKEN" in printed


def test_print_frames_without_a_session_uses_placeholders(front: Front) -> None:
    told = front("send", "hi", "--print-curl", "-s", "none", GUESTCTL_API="guest-sessions")
    assert '/sessions/"$SESSION_ID"/messages' in told.out
    asked = front("ask", "hi", "--print-frames", "-s", "none")
    assert [record["step"] for record in asked.records] == ["connect", "frame", "frame"]
    assert front("session", "list").out == ""


def test_files_and_new_conversations(front: Front) -> None:
    (front.cwd / "a.png").write_bytes(b"png")
    assert front("session", "create").code == 0
    told = front("send", "look", "--file", "a.png", "--print-frames")
    actions = [record["body"]["action"] for record in told.records if record["body"]]
    assert actions == ["configureSession", "onAttachment", "onMessage"]
    assert "$ATTACHMENT_ID" in told.out
    both = front("send", "look", "--attr", "k=v", "--file", "a.png", "--file", "a.png", "--print-frames")
    first, second = [r["body"]["message"] for r in both.records if r["body"] and r["body"]["action"] == "onMessage"]
    assert (first["text"], second["text"]) == ("look", "")
    assert first["channel"] == {"metadata": {"customAttributes": {"k": "v"}}}
    assert "channel" not in second
    assert first["metadata"]["customMessageId"] != second["metadata"]["customMessageId"]
    again = front("session", "create", "--new", "--print-frames")
    actions = [record["body"]["action"] for record in again.records if record["body"]]
    assert actions == ["configureSession", "closeSession", "configureSession"]


def test_a_session_to_be_created_is_planned_on_its_own_name(front: Front) -> None:
    assert front("session", "create", "--as", "cart").code == 0
    for argv in (("session", "create", "--as", "other", "--new"), ("session", "create", "--new")):
        assert planned(front, *argv) == sent(front, *argv)[:2]
        assert front("session", "use", "cart").code == 0
    steps = planned(front, "session", "create", "--as", "cart", "--new")
    assert steps == sent(front, "session", "create", "--as", "cart", "--new")
    assert len(steps) > 2


def test_guest_values_of_the_profile_are_sent_in_the_next_conversation_too(front: Front) -> None:
    place = front.environ["GUESTCTL_SANDBOX_URL"]
    where = f"base_url: {place}, config_url: {place}, socket_url: {place.replace('http', 'ws')}"
    what = f"deployment_id: {DEPLOYMENT_ID}, origin: http://localhost, attributes: {{k: v}}"
    (front.cwd / "p.yaml").write_text(f"profiles: {{only: {{{where}, {what}}}}}\n")
    guest = Front({**front.environ, "GUESTCTL_PROFILE": "only", "GUESTCTL_PROFILES": "p.yaml"}, front.cwd)
    assert guest("session", "create").code == 0
    steps = planned(guest, "ask", "hi", "--new")
    assert steps[-1][3]["message"]["channel"] == {"metadata": {"customAttributes": {"k": "v"}}}
    assert steps == sent(guest, "ask", "hi", "--new")


def test_several_lines(front: Front) -> None:
    told = front("send", "-", "--lines", "--print-frames", stdin="one\ntwo\n")
    assert [r["body"]["message"]["text"] for r in told.records if r["body"] and "message" in r["body"]] == [
        "one",
        "two",
    ]


def test_values_of_session_create_are_sent_with_the_first_message_only(front: Front) -> None:
    assert front("session", "create", "--attr", "k=v").code == 0
    (front.cwd / "a.png").write_bytes(b"png")
    files = [step[3] for step in planned(front, "send", "--file", "a.png", "--file", "a.png") if step[3]]
    assert ["channel" in said["message"] for said in files if said["action"] == "onMessage"] == [True, False]
    lines = ("send", "-", "--lines")
    assert planned(front, *lines, stdin="one\ntwo\n") == sent(front, *lines, stdin="one\ntwo\n")


def test_a_sign_in_is_planned_for_a_new_guest(sandboxed: Callable[[Sandbox], Front]) -> None:
    with running(SandboxOptions(fast=True, sign_in=True)) as sandbox:
        front = sandboxed(sandbox)
        assert front("session", "create").code == 0
        asked = ("session", "create", "--new", "--id-token", "-")
        assert planned(front, *asked, stdin="ann:1") == sent(front, *asked, stdin="ann:1")


def test_print_frames_reports_what_it_cannot_print(front: Front) -> None:
    assert front("send", "--pick", "1", "--print-curl").code == 2
    assert front("send", "hi", "--print-curl", "--print-frames").code == 2
    assert front("send", "", "--print-frames").code == 2
    assert front("send", "x" * 200_000, "--print-frames").error["code"] == "service.too_long"
    assert front("refresh-token", "--print-curl", GUESTCTL_API="guest-sessions").code == 12


def test_print_curl_refuses_an_output_mode(front: Front) -> None:
    front("session", "create")
    refused = front("typing", "--print-curl", "-o", "json")
    assert (refused.code, refused.out) == (2, "")
    assert "--print-curl cannot be combined with --output" in refused.error["message"]
    assert front("typing", "--print-curl", GUESTCTL_OUTPUT="json").code == 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_printed_curl_command_runs(front: Front) -> None:
    guest = of(front, "guest-sessions")
    assert guest("session", "create").code == 0
    token = guest("session", "show", "--show-token").record["token"]
    text = 'it\'s "quoted", $HOME and `not run`'
    line = guest("send", text, "--print-curl").out
    done = subprocess.run(
        ["/bin/sh", "-c", line], env={"PATH": "/usr/bin:/bin", "GUEST_TOKEN": token}, capture_output=True, check=False
    )
    assert json.loads(done.stdout)["sequenceNumber"] == 1, done.stderr
    assert guest("history", "--last", "2").records[0]["text"] == text


def test_shell_words() -> None:
    steps = [
        Planned("request", "http://h/a?b=$GUEST_ID&c=d", "GET", {"Authorization": "Bearer $GUEST_TOKEN"}),
        Planned("connect", "ws://h/x", headers={"Origin": "it's"}),
        Planned("frame", body={"token": "$GUEST_TOKEN", "text": "'; rm -rf $HOME"}),
    ]
    curl, websocat = shell(steps)
    script = "GUEST_ID=id GUEST_TOKEN=tok; curl() { printf '%s|' \"$@\"; }; websocat() { cat; printf '%s|' \"$@\"; }"
    script += f"; sleep() {{ :; }}; {curl}; echo; {websocat}"
    done = subprocess.run(["/bin/sh", "-c", script], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    first, second, third = done.stdout.splitlines()
    assert first == "-sS|http://h/a?b=id&c=d|-H|Authorization: Bearer tok|"
    assert json.loads(second) == {"token": "tok", "text": "'; rm -rf $HOME"}
    # In one word: a header that stands apart would make websocat take the address for another one.
    assert third == "-H=Origin: it's|ws://h/x|"
