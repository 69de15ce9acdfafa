"""The cursor file with hooks: a message found after later ones is not taken for written before its hooks."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from guestctl.cli.commands.cursor import CursorFile
from guestctl.core.model import Message, Session
from guestctl.storage.state import State
from tests.fakes import FakeClock

SESSION = Session(api="web-messaging", profile="p", created_at=1.0)


def message(second: int, *, numbered: bool) -> Message:
    number = second if numbered else None
    return Message(f"m{second}", "outbound", "", f"2026-03-04T09:15:{second:02}.000Z", sequence=number)


@pytest.mark.parametrize("numbered", [False, True])
@pytest.mark.parametrize(("late", "stored"), [(4, "m3"), (2, None)])
def test_a_late_message_moves_the_position_back_until_its_hooks_are_done(
    tmp_path: Path, clock: FakeClock, numbered: bool, late: int, stored: str | None
) -> None:
    path = tmp_path / "cursor"
    with State.open(None, clock) as state:
        cursor = CursorFile(path, state, "scope", SESSION, io.BytesIO(), hooked=True)
        for second in (3, 5, 7):
            cursor.before_hooks(message(second, numbered=numbered))
            cursor.written(message(second, numbered=numbered))
        cursor.before_hooks(message(late, numbered=numbered))
        assert json.loads(path.read_text())["after"] == stored
        cursor.written(message(late, numbered=numbered))
        assert json.loads(path.read_text())["after"] == "m7"
