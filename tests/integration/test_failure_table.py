"""The table of failure classes: each produced through the front door, told as an object and as a line.

The object has the exit code, the stable code, and the words; the line says what and what next.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from guestctl.core.errors import NEXT_STEPS
from guestctl.sandbox.serve import running
from guestctl.sandbox.settings import SandboxOptions
from tests.cli.conftest import Result
from tests.integration.conftest import Enter, Serve
from tests.integration.front import Guest, Room
from tests.sandbox.stranger import Stranger

OBJECT = ["code", "exit", "message", "hint", "api", "http_status", "service_code", "retry_after", "body"]


@dataclass
class Scene:
    """Where a failure is staged."""

    serve: Serve
    enter: Enter
    here: Path
    stack: ExitStack
    form: tuple[str, str]

    def guest(self, **settings: Any) -> tuple[Guest, Room]:
        """With a session, on a sandbox of its own."""
        guest, room = self.stranger(**settings)
        guest.ok("session", "create")
        return guest, room

    def stranger(self, **settings: Any) -> tuple[Guest, Room]:
        sandbox = self.serve(**settings)
        return self.enter(sandbox, "web-messaging"), Room(sandbox)

    def profile(self, text: str) -> str:
        file = self.here / "p.yaml"
        file.write_text(text)
        return str(file)

    def pointing_at(self, url: str) -> tuple[str, str]:
        text = f"profiles: {{only: {{base_url: '{url}', deployment_id: d}}}}\n"
        return "--profiles", self.profile(text)

    def __call__(self, guest: Guest, *argv: str, **more: Any) -> Result:
        """The command that fails, with errors told in this scene's form."""
        return guest(*argv, *self.form, **more)


@pytest.fixture(params=["object", "line"])
def scene(serve: Serve, enter: Enter, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    with ExitStack() as stack:
        form = ("-o", "json" if request.param == "object" else "table")
        yield Scene(serve, enter, tmp_path, stack, form)


def unknown_deployment(scene: Scene) -> Result:
    guest, _ = scene.stranger(unknown_deployment="refused")
    return scene(guest, "session", "create", "--deployment-id", "no-such-deployment")


def unknown_deployment_on_the_socket(scene: Scene) -> Result:
    guest, _ = scene.stranger()
    return scene(guest, "session", "create", "--deployment-id", "no-such-deployment")


def refused_origin(scene: Scene) -> Result:
    guest, _ = scene.stranger(origins=("shop.example",))
    return scene(guest, "session", "create", "--origin", "https://evil.example")


def wrong_host(scene: Scene) -> Result:
    guest, _ = scene.stranger()
    return scene(guest, "session", "create", "-p", "only", *scene.pointing_at("https://no-such-host.invalid"))


def dead_port(scene: Scene) -> Result:
    guest, _ = scene.stranger()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        return scene(guest, "session", "create", "-p", "only", *scene.pointing_at(url))


def bad_certificate(scene: Scene) -> Result:
    sandbox = scene.stack.enter_context(running(SandboxOptions(fast=True, tls=True)))
    return scene(scene.enter(sandbox, "web-messaging"), "session", "create")


def expired_session(scene: Scene) -> Result:
    guest, room = scene.guest()
    guest.ok("send", "one")
    room.expire()
    return scene(guest, "send", "two")


def read_only_conversation(scene: Scene) -> Result:
    guest, room = scene.guest()
    room.end()
    return scene(guest, "send", "too late")


def evicted(scene: Scene) -> Result:
    """By the third socket of somebody else's: ours never open a fourth."""
    guest, room = scene.guest()
    token = guest.token()
    strangers: list[Stranger] = []

    def crowd() -> None:
        for _ in range(3):
            stranger = scene.stack.enter_context(Stranger(room.sandbox, token))
            stranger.configure(startNew=False)
            strangers.append(stranger)

    def on(record: Any) -> None:
        if not strangers and "live" in (record.get("state"), *record.get("line", "").split()):
            crowd()

    return scene(guest, "listen", "--only", "connection", on=on)


def rate_limited(scene: Scene) -> Result:
    guest, room = scene.guest()
    room.faults("ratelimit:retry_after=60,on=send")
    return scene(guest, "send", "hi")


def attributes_too_large(scene: Scene) -> Result:
    guest, _ = scene.guest()
    return scene(guest, "send", "hi", "--attr", "note=" + "x" * 3000)


def text_too_long(scene: Scene) -> Result:
    guest, _ = scene.guest()
    return scene(guest, "send", "-", stdin="x" * 5000)


def no_reply_in_time(scene: Scene) -> Result:
    guest, _ = scene.guest(agent=True)
    return scene(guest, "ask", "anybody?", "--timeout", "2")


def malformed_answer(scene: Scene) -> Result:
    guest, room = scene.stranger()
    room.faults("garbage:on=socket")
    return scene(guest, "session", "create", "--timeout", "5")


def broken_profile(scene: Scene) -> Result:
    guest, _ = scene.stranger()
    return scene(guest, "send", "hi", "--profiles", scene.profile("profiles:\n  only: [\n"), "-p", "only")


def unknown_profile_key(scene: Scene) -> Result:
    guest, _ = scene.stranger()
    file = scene.profile("profiles:\n  only:\n    regoin: mypurecloud.de\n")
    return scene(guest, "send", "hi", "--profiles", file, "-p", "only")


TABLE: list[tuple[Callable[[Scene], Result], int, str, str]] = [
    (unknown_deployment, 5, "forbidden.upgrade", "403"),
    (unknown_deployment_on_the_socket, 3, "service.refused", "Deployment not found"),
    (refused_origin, 5, "forbidden.upgrade", "403"),
    (wrong_host, 8, "network.dns", "no-such-host.invalid"),
    (dead_port, 8, "network.connect", "127.0.0.1"),
    (bad_certificate, 8, "network.tls", "certificate"),
    (expired_session, 10, "session.expired", "answered with a new one"),
    (read_only_conversation, 6, "conflict.read_only", "read-only"),
    (evicted, 10, "session.evicted", "evicted this connection"),
    (rate_limited, 7, "rate.limited", "4029"),
    (attributes_too_large, 3, "service.attributes", "3004 bytes"),
    (text_too_long, 3, "service.too_long", "4096"),
    (no_reply_in_time, 9, "timeout", "timed out waiting for a reply"),
    (malformed_answer, 11, "answer.unreadable", "not JSON"),
    (broken_profile, 2, "config.file", "p.yaml"),
    (unknown_profile_key, 2, "config.file", 'did you mean "region"'),
]


@pytest.mark.parametrize(("stage", "exit_code", "code", "words"), TABLE, ids=[row[0].__name__ for row in TABLE])
def test_failure(scene: Scene, stage: Callable[[Scene], Result], exit_code: int, code: str, words: str) -> None:
    result = stage(scene)
    assert result.code == exit_code, (result.out, result.err)
    assert "Traceback" not in result.err
    lines = result.err.replace("\n       ", " ").splitlines()
    if scene.form[1] == "json":
        error = json.loads(lines[-1])["error"]
        assert list(error) == OBJECT
        assert (error["exit"], error["code"]) == (exit_code, code)
        assert words in error["message"]
        assert error["hint"]
        return
    shown, hint = lines[-2:]
    assert shown.startswith("error: ")
    assert words in shown
    assert hint.startswith("hint:  ")
    assert hint.removeprefix("hint:  ")
    if code not in {"config.file"}:
        assert hint == f"hint:  {NEXT_STEPS[code]}"
