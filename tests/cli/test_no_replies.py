"""What is no reply: receipts, a guest's own choice that the service repeats, and messages whose text is no text.

Knows: the command line, and a service that sends such things before its reply. Must not know: how they are read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from guestctl.dialects import NAMES
from guestctl.sandbox.bot.bots import BotAction, Memory
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from tests.cli.conftest import Front

CHOICE = {"contentType": "ButtonResponse", "buttonResponse": {"type": "QuickReply", "text": "Red", "payload": "red"}}


def receipt(**more: Any) -> str:
    body = {
        "id": "0123456789abcdef0123456789abcdef",
        "type": "Receipt",
        "direction": "Outbound",
        "status": "Delivered",
        "isFinalReceipt": True,
        "channel": {"time": "2026-11-30T08:00:00.000Z", "type": "Private"},
        **more,
    }
    return json.dumps({"type": "message", "class": "StructuredMessage", "code": 200, "body": body})


#: What only web-messaging has: frames that are pushed, and the content of a message.
FRAMES = {
    "receipt": receipt(),
    "receipt with a text": receipt(text="delivered"),
    "receipt with content": receipt(content=[], originatingEntity="Bot", reasons=[{"code": "x", "message": "y"}]),
}
CONTENTS = {"choice": (CHOICE,), "choices": (CHOICE, CHOICE)}
#: What every API can have instead of a text.
EMPTY: Mapping[str, Any] = {"null": None, "empty": ""}
TEXTS: Mapping[str, Any] = {**EMPTY, "number": 5, "decimal": 2.5, "flag": True, "list": ["a"], "object": {"text": "a"}}


class OddBot:
    """Sends the thing that the guest names, and then its reply."""

    sandbox: Sandbox

    def greeting(self, attributes: Mapping[str, str]) -> list[BotAction]:
        return []

    def reply_to(
        self, text: str, *, payload: str | None, attributes: Mapping[str, str], count: int, memory: Memory
    ) -> list[BotAction]:
        reply = BotAction("message", 0.02, "the reply")
        if text in FRAMES:
            self.sandbox.later(0.01, lambda: cast("None", self.sandbox.admin.push(frame=FRAMES[text])))
            return [reply]
        if text in CONTENTS:
            return [BotAction("message", content=CONTENTS[text]), reply]
        if text in TEXTS:
            return [BotAction("message", text=TEXTS[text]), reply]
        return []


@contextmanager
def odd(sandboxed: Callable[[Sandbox], Front], api: str) -> Iterator[Front]:
    bot = OddBot()
    with Sandbox(SandboxOptions(fast=True, api=api), bot=bot) as sandbox:
        bot.sandbox = sandbox
        front = sandboxed(sandbox)
        yield Front({**front.environ, "GUESTCTL_API": api}, front.cwd)


CASES = [("web-messaging", kind) for kind in (*FRAMES, *CONTENTS, *TEXTS)]
CASES += [(api, kind) for api in NAMES if api != "web-messaging" for kind in ("number", "object")]


@pytest.mark.parametrize(("api", "kind"), CASES)
def test_no_command_takes_it_for_the_reply(
    sandboxed: Callable[[Sandbox], Front], tmp_path: Path, api: str, kind: str
) -> None:
    with odd(sandboxed, api) as front:
        assert front("session", "create").code == 0
        asked = front("ask", kind, "--timeout", "10s")
        assert (asked.code, asked.out) == (0, "the reply\n"), asked
        sent = front("send", kind, "--wait", "--timeout", "10s", "-o", "json")
        assert (sent.code, sent.record["reply"]["text"]) == (0, "the reply")
        sent = front("send", kind, "--expect", "[^]*", "--timeout", "10s", "-o", "json")
        assert (sent.code, sent.record["reply"]["text"]) == (0, "the reply")
        steps = [{"say": kind}, {"expect": {"matches": "[^]*", "saveAs": "got"}}, {"say": "got ${got}"}]
        (tmp_path / "s.json").write_text(json.dumps({"scenarios": {"a": steps}}))
        checked = front("check", str(tmp_path / "s.json"), "--timeout", "10s")
        assert checked.code == 0, checked.out
        assert front("sandbox", "sessions").records[-1]["messages"][-1]["text"] == "got the reply"


@pytest.mark.parametrize(("api", "kind"), CASES)
def test_listen_and_history_show_it_as_it_is(sandboxed: Callable[[Sandbox], Front], api: str, kind: str) -> None:
    with odd(sandboxed, api) as front:
        front("ask", kind, "--timeout", "10s")
        for argv in (("history",), ("listen", "--replay", "5", "--idle", "100ms")):
            result = front(*argv, "-o", "jsonl")
            assert result.code == 0, result
            texts = [record["text"] for record in result.records if record["kind"] == "message"]
            assert [text for text in texts if text] == [kind, "the reply"]
            unknown = [record for record in result.records if record["kind"] == "unknown"]
            assert len(unknown) == (kind in TEXTS and kind not in EMPTY), argv
