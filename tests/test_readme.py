"""The README says what the program does: its generated parts are current and its first command runs."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys

import pytest

from guestctl.cli.registry import COMMANDS
from tests.manpage import MANUAL, manual
from tests.readme import BLOCKS, README, generated, settled

TEXT = README.read_text(encoding="utf-8")
SH = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def test_generated_parts_are_current() -> None:
    assert generated(TEXT) == TEXT, "run: python -m tests.readme"


@pytest.mark.parametrize("name", BLOCKS)
def test_every_generated_part_is_there(name: str) -> None:
    assert f"<!-- generated: {name} -->" in TEXT


def test_two_commands_set_everything_up() -> None:
    assert len(SH) == 2
    assert all(len(block.strip().splitlines()) == 1 for block in SH)


def test_first_command_runs_as_written() -> None:
    words = shlex.split(SH[0].rpartition("&&")[2])
    assert words[0].endswith("/guestctl")
    done = subprocess.run([sys.executable, "-m", "guestctl", *words[1:]], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    shown = re.search(r"^\$ guestctl demo\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    assert shown is not None
    assert settled(done.stdout) == shown[1]


def test_every_command_is_documented() -> None:
    for words, entry in COMMANDS.items():
        assert entry.hidden or f"<code>guestctl {' '.join(words)}</code>" in TEXT


def test_the_manual_page_is_current_and_valid() -> None:
    text = manual()
    assert MANUAL.read_text(encoding="utf-8") == text, "run: python -m tests.manpage"
    for words, entry in COMMANDS.items():
        assert entry.hidden or f".SS guestctl {' '.join(words)} ".replace("-", "\\-") in text
    formatter = shutil.which("groff")
    if formatter is None:
        pytest.skip("groff is not installed here")
    done = subprocess.run(
        [formatter, "-k", "-man", "-Tutf8", "-ww", "-z"],
        input=text.encode(),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
