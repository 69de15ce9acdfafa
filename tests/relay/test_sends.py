"""Sending through a relay: one message for each Idempotency-Key, over the relay's own socket, with its true outcome."""

from __future__ import annotations

import json
import signal
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from guestctl.dialects import NAMES
from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from tests.cli.conftest import Front
from tests.relay.processes import EventReader, push, relaying, sockets, texts_until
from tests.sandbox.stranger import Control


def inbound(sandbox: Sandbox) -> list[str]:
    """Return the texts that the service has stored for the guest."""
    return [m["text"] for s in Control(sandbox).sessions() for m in s["messages"] if m["direction"] == "inbound"]


@pytest.mark.parametrize("api", NAMES)
def test_every_api_is_relayed(sandbox: Sandbox, sandboxed: Callable[[Sandbox], Front], api: str) -> None:
    front = sandboxed(sandbox)
    front = Front({**front.environ, "GUESTCTL_API": api}, front.cwd)
    assert front("session", "create", "--as", "default", "-q").code == 0
    with relaying(front) as relay:
        reader = EventReader(relay, "?after=first&kinds=message")
        answer = relay.post({"text": "over the relay"}, "key-1")
        assert (answer.status_code, answer.json()["delivery"]) == (200, "accepted"), answer.text
        assert texts_until(reader, "over the relay") == ["over the relay"]
        push(sandbox, "from the agent")
        assert texts_until(reader, "from the agent") == ["from the agent"]
        history = [json.loads(line)["text"] for line in relay.get("/v1/history").text.splitlines()]
        assert history[-2:] == ["over the relay", "from the agent"]
        assert sockets(sandbox) <= 1
    assert inbound(sandbox) == ["over the relay"]


def test_one_key_is_sent_once_and_repeats_report_the_outcome(sandbox: Sandbox, front: Front) -> None:
    key = str(uuid.uuid4())
    with relaying(front) as relay:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: relay.post({"text": "once"}, key), range(4)))
        assert [answer.status_code for answer in answers] == [200] * 4
        assert len({answer.text for answer in answers}) == 1
        record = answers[0].json()
        assert (record["kind"], record["text"], record["key"], record["delivery"]) == (
            "message",
            "once",
            key,
            "accepted",
        )
        other = relay.post({"text": "another"}, key)
        assert (other.status_code, other.json()["error"]["code"]) == (409, "conflict.key")
        assert relay.post({"text": "two"}, "not a UUID").status_code == 200
        relay.stop(signal.SIGKILL)
    with relaying(front) as relay:
        assert relay.post({"text": "once"}, key).json() == record
        assert relay.post({"text": "two"}, "not a UUID").status_code == 200
        assert texts_until(EventReader(relay, "?after=first"), "two") == ["hello", "once", "two"]
    assert inbound(sandbox) == ["hello", "once", "two"]
    (session,) = Control(sandbox).sessions()
    assert session["configures"] == 4  # two commands of the fixture, and one socket of each relay


def test_a_rejected_message_is_422(sandbox: Sandbox, sandboxed: Callable[[Sandbox], Front]) -> None:
    front = sandboxed(sandbox)
    front = Front({**front.environ, "GUESTCTL_API": "messaging-conversations"}, front.cwd)
    assert front("session", "create", "--as", "default", "-q").code == 0
    with relaying(front) as relay:
        sandbox.call(lambda: sandbox.faults.add("http:status=403,on=send,times=1"))
        answer = relay.post({"text": "no"}, "key-1")
        assert answer.status_code == 422
        record = answer.json()
        assert (record["delivery"], record["text"], record["error"]["code"]) == ("rejected", "no", "forbidden")
        assert relay.post({"text": "no"}, "key-1").json() == record
        assert relay.post({"text": "yes"}, "key-2").status_code == 200
    assert inbound(sandbox) == ["yes"]


def test_a_message_in_doubt_is_202_until_history_shows_it(sandboxed: Callable[[Sandbox], Front]) -> None:
    """It is sent once: the connection breaks before the echo, and history lags until the fault is removed."""
    with running(SandboxOptions(fast=True, agent=True)) as sandbox:
        front = sandboxed(sandbox)
        assert front("session", "create", "--as", "default", "-q").code == 0
        with relaying(front, "--timeout", "3") as relay:
            reader = EventReader(relay, "?kinds=connection")
            sandbox.call(lambda: sandbox.faults.add("lag:ms=3600000"))
            sandbox.call(lambda: sandbox.faults.add("drop:code=1006,after=1,on=send"))
            answer = relay.post({"text": "perhaps"}, "key-1")
            assert answer.status_code == 202, answer.text
            assert answer.json()["delivery"] == "in_doubt"
            sandbox.call(sandbox.faults.clear)
            next(record for _, record in reader if record["state"] == "live")
            settled = relay.post_until_connected({"text": "perhaps"}, "key-1")
            assert (settled.status_code, settled.json()["delivery"]) == (200, "accepted"), settled.text
        assert inbound(sandbox) == ["perhaps"]


def test_a_message_that_was_not_sent_is_503_and_may_be_repeated(front: Front, sandbox: Sandbox) -> None:
    with relaying(front, "--timeout", "700ms") as relay:
        reader = EventReader(relay, "?kinds=connection")
        sandbox.call(lambda: sandbox.faults.add("refuse:status=503"))
        Control(sandbox)("POST", "/disconnect", code=1006)
        next(record for _, record in reader if record["state"] == "lost")
        answer = relay.post({"text": "later"}, "key-1")
        assert answer.status_code == 503, answer.text
        assert (answer.json()["delivery"], answer.json()["error"]["code"]) == ("not_sent", "timeout")
        assert relay.get("/readyz").status_code == 503
        assert relay.get("/healthz").status_code == 200
        sandbox.call(sandbox.faults.clear)
        next(record for _, record in reader if record["state"] == "live")
        assert relay.post_until_connected({"text": "later"}, "key-1").status_code == 200
    assert inbound(sandbox) == ["hello", "later"]


#: Body and key -> part of the message of a send that is refused with 400.
_WRONG: list[tuple[object, str, str]] = [
    ({"text": "hi"}, "", "no Idempotency-Key"),
    ({"text": "hi"}, "x" * 256, "an idempotency key has 1 to 255 printable ASCII characters"),
    ({"text": ""}, "k", "empty"),
    ({"text": 1}, "k", "wrong type"),
    ({"text": "hi", "to": "me"}, "k", 'unknown member "to"'),
    (["hi"], "k", "not a JSON object"),
]


def test_a_send_that_cannot_be_used_is_400_and_needs_the_right_to_send(front: Front, sandbox: Sandbox) -> None:
    with relaying(front) as relay:
        for body, key, part in _WRONG:
            answer = relay.post(body, key)
            assert answer.status_code == 400, answer.text
            assert part in answer.json()["error"]["message"]
        assert relay.post({"text": "hi"}, "k", Authorization=f"Bearer {relay.key}").status_code == 403
        assert relay.post({"text": "hi"}, "k", Authorization="Bearer wrong").status_code == 401
    assert inbound(sandbox) == ["hello"]


#: Python code that the relay runs at its start: while a file is there, the log has no room for a message.
FULL = """
import pathlib
from guestctl.core.errors import UsageError
from guestctl.relay.log import EventLog

begin_send = EventLog.begin_send

def begin_send_or_fail(self, *message):
    if pathlib.Path({flag!r}).exists():
        raise UsageError("database or disk is full", code="state.unusable")
    begin_send(self, *message)

EventLog.begin_send = begin_send_or_fail
"""


def test_a_message_that_the_relay_cannot_store_is_refused_for_now(
    sandbox: Sandbox, front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is not the fault of the request, which may be repeated with the same key."""
    flag, code = tmp_path / "full", tmp_path / "code"
    code.mkdir()
    (code / "sitecustomize.py").write_text(FULL.format(flag=str(flag)))
    monkeypatch.setenv("PYTHONPATH", str(code))
    with relaying(front) as relay:
        flag.touch()
        refused = relay.post({"text": "once"}, "key-1")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "state.unusable"), refused.text
        flag.unlink()
        sent = relay.post({"text": "once"}, "key-1")
        assert (sent.status_code, sent.json()["delivery"]) == (200, "accepted"), sent.text
    assert inbound(sandbox).count("once") == 1
