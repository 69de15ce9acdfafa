"""The readers of docs/relay.md run as shown: they print every message once, also after a restart."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from guestctl.sandbox.server import Sandbox
from tests.cli.conftest import Front
from tests.relay.processes import RelayProcess, push, relaying

PAGE = (Path(__file__).parents[2] / "docs" / "relay.md").read_text(encoding="utf-8")
#: Name of the file in its first line -> the program that runs it.
PROGRAMS = {"reader.py": sys.executable, "reader.mjs": shutil.which("node")}


def block(name: str) -> str:
    """Return the block of the page whose first line names this file."""
    found = re.search(rf"^```\w+\n((?:#|//|<!--) {re.escape(name)}\b.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None, name
    return found[1]


@contextmanager
def reading(relay: RelayProcess, program: str, file: Path) -> Iterator[Iterator[str]]:
    """Run a reader, and yield the lines that it prints."""
    environ = {"RELAY_URL": relay.url, "GUESTCTL_RELAY_KEY": relay.key, "PATH": "/usr/bin:/bin", "PYTHONUTF8": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen([program, file], cwd=file.parent, env=environ, stdout=pipe, encoding="utf-8") as process:
        assert process.stdout is not None
        try:
            yield (line.rstrip("\n") for line in process.stdout)
        finally:
            process.kill()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_documented_reader_has_every_message_once(front: Front, sandbox: Sandbox, name: str) -> None:
    program = PROGRAMS[name]
    if program is None:
        pytest.skip("node is not installed here")
    file = front.cwd / name
    file.write_text(block(name), encoding="utf-8")
    with relaying(front) as relay:
        with reading(relay, program, file) as lines:
            push(sandbox, "one")
            assert [next(lines), next(lines)] == ["inbound hello", "outbound one"]
            push(sandbox, "\u00c5 \u2028 \u20ac", "two")  # wrongly decoded or split, these break the record
            assert [next(lines), next(lines)] == ["outbound \u00c5 \u2028 \u20ac", "outbound two"]
        push(sandbox, "three")
        with reading(relay, program, file) as lines:
            # The position is written after the line, so a kill in between repeats that one line.
            first = next(lines)
            assert first in {"outbound two", "outbound three"}
            if first == "outbound two":
                assert next(lines) == "outbound three"
            assert front("session", "clear", "--yes", "-q").code == 0
            assert list(lines) == []


def test_the_page_is_a_whole_document() -> None:
    page = block("relay.html")
    assert page.count("<script") == page.count("</script>") == 1
    assert "relayEvents(url.value, key.value)" in page
    assert "?key=" not in PAGE
