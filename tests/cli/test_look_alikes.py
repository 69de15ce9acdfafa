"""Errors show the difference between two texts that look the same: other spaces and hyphens, and accents of their own.

Knows: commands whose error quotes two texts, one of them from the service. Must not know: how a text is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from tests.cli.conftest import Front
from tests.faults.command_line import CountedGuest

#: What the bot says, what is wanted, and how an error quotes each.
PAIRS = [
    ("5\u00a0EUR", "5 EUR", "5\\xa0EUR", "5 EUR"),
    ("5 EUR", "5\u202fEUR", "5 EUR", "5\\u202fEUR"),
    ("cafe\u0301", "caf\u00e9", "cafe\\u0301", "caf\u00e9"),
    ("a-b", "a\u2010b", "a-b", "a\\u2010b"),
]


@pytest.mark.parametrize(("said", "wanted", "shown", "quoted"), PAIRS)
def test_send_expect_shows_why_the_reply_does_not_match(
    tmp_path: Path, said: str, wanted: str, shown: str, quoted: str
) -> None:
    with CountedGuest("web-messaging", tmp_path).installed() as guest:
        sent = guest("send", said, "--expect", f"^echo: {wanted}$", "--timeout", "5", "-o", "json")
    message = json.loads(sent.err.splitlines()[-1])["error"]["message"]
    assert (sent.code, sent.records[0]["delivery"]) == (9, "accepted")
    assert f'"^echo: {quoted}$"' in message
    assert f'"echo: {shown}"' in message


def test_listen_until_shows_the_pattern_that_never_matched(tmp_path: Path) -> None:
    with CountedGuest("web-messaging", tmp_path).installed() as guest:
        guest("send", "5 EUR")
        listened = guest("listen", "--replay", "2", "--until", "5\u00a0EUR", "--for", "2", "-o", "jsonl")
    assert listened.code == 9, listened.err
    assert "5\\\\xa0EUR" in listened.err


@pytest.mark.parametrize(("said", "wanted", "shown", "quoted"), PAIRS)
@pytest.mark.parametrize("mode", ["json", "table"])
def test_a_pick_shows_why_no_option_matches(
    sandboxed: Callable[[Sandbox], Front], tmp_path: Path, mode: str, said: str, wanted: str, shown: str, quoted: str
) -> None:
    script = tmp_path / "bot.json"
    script.write_text(json.dumps({"otherwise": {"reply": "Choose", "quickReplies": [said]}}))
    with running(SandboxOptions(fast=True, script=script)) as sandbox:
        front = sandboxed(sandbox)
        front("ask", "hi")
        failed = front("send", "--pick", wanted, "-o", mode)
    message = failed.error["message"] if mode == "json" else failed.err
    assert failed.code == 2
    assert f'no option "{quoted}"' in message
    assert f'1 "{shown}"' in message
