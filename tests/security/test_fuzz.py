"""The short form of the fuzz; `python -m tests.security.fuzz --examples 20000` is the long one."""

from __future__ import annotations

import pytest

from guestctl.dialects.web_messaging import WebMessaging
from guestctl.model import Secret, Session
from guestctl.redact import Redactor
from guestctl.wire import Frame
from tests.security.fuzz import PROFILE, TARGETS, fuzz

EXAMPLES = 60


@pytest.mark.parametrize("target", TARGETS)
def test_only_typed_failures(target: str) -> None:
    fuzz(target, EXAMPLES)


def test_what_fuzzing_has_found() -> None:
    """A class that is no text, and half a character where a secret is expected, ended the command as bugs."""
    dialect = WebMessaging(PROFILE, new_id=lambda: "x")
    for frame in ('{"class":[]}', '{"class":{},"code":200}'):
        assert dialect.decode(Frame(frame, 0.0), Session(api="web-messaging", profile="p"))
    assert Redactor().value({"token": "\ud800"}) == {"token": Secret("\ud800").placeholder}
    assert Redactor().value({"token": "0123456789\ud800"})["token"].startswith("***")
