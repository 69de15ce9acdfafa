"""A warning about safety is in the output, whatever the command does, how it prints, and how it fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from guestctl.dialects import NAMES
from guestctl.output.writer import Output
from tests.security.gateway import TRICKS
from tests.security.sweep import COMMANDS, MODES, sweep

#: Of all trick × command × mode; a prime, so that each API meets another part.
PART = 41
#: Commands that use no profile of a file.
WITHOUT_PROFILE = {"sandbox sessions", "push"}


@pytest.mark.parametrize("api", NAMES)
def test_a_warning_about_safety_is_in_every_output(api: str, tmp_path: Path) -> None:
    turn = NAMES.index(api)
    with sweep(api, tmp_path) as found:
        found.warn()
        for trick, act in TRICKS.items():
            for what in (what for what in COMMANDS if what not in WITHOUT_PROFILE):
                for mode in MODES:
                    turn += 1
                    if turn % PART == 0:
                        found.begin()
                        found.teller.trick = act
                        found(f"{trick}: {what}", (*COMMANDS[what], *(("--quiet",) if turn % 2 else ())), mode)
                        found.teller.trick = None
    assert found.runs > 5
    assert found.silent == []


def test_the_oracle_finds_a_dropped_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--quiet drops a notice. A warning that is printed like one is missing then."""
    monkeypatch.setattr(Output, "warning", Output.notice)
    with sweep("guests", tmp_path) as found:
        found.warn()
        found.begin()
        found("quiet", (*COMMANDS["send"], "--quiet"), "plain pipe")
    assert len(found.silent) == 1
