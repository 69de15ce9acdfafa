"""The Autobahn suite, if it is installed, and tests of the echo client and server that it runs against."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conformance.autobahn import AGENT, EXCLUDED, SPEED, VARIABLE, Missing, interpreter, results
from tests.conformance.echo import Binary, EchoSandbox, connect
from tests.conformance.halves import HALVES

PATIENCE = 60.0


@pytest.mark.parametrize("half", HALVES)
def test_no_case_fails_and_no_close_is_wrong(half: str, tmp_path: Path) -> None:
    try:
        python = interpreter(None)
    except Missing as missing:
        pytest.skip(str(missing))
    found = HALVES[half](python, tmp_path, ["*"], [*EXCLUDED, SPEED])
    assert len(found.cases) == 247
    assert not found.bad, found.table()


@pytest.mark.parametrize(
    "said", ["", "é", "x" * 70_000, Binary(""), Binary("\x00\xff"), Binary("\xff" * (1 << 20) + "\x00")]
)
def test_the_echo_servers_accept_every_case(said: str) -> None:
    with EchoSandbox() as sandbox:
        socket = connect(f"ws://127.0.0.1:{sandbox.port}/")
        socket.say(said)
        heard = socket.receive(PATIENCE)
        assert socket.close() == []
    assert heard is not None
    assert heard.text == said
    assert type(heard.text) is type(said)


def test_bad_results_are_recognized(tmp_path: Path) -> None:
    said = {
        "10.1": ("FAILED", "OK"),
        "9.1": ("OK", "WRONG CODE"),
        "2.1": ("OK", "OK"),
        "2.2": ("NON-STRICT", "OK"),
        "7.1": ("INFORMATIONAL", "INFORMATIONAL"),
    }
    written = {case: {"behavior": one, "behaviorClose": two} for case, (one, two) in said.items()}
    (tmp_path / "index.json").write_text(json.dumps({AGENT: written}))
    found = results(tmp_path)
    assert list(found.cases) == ["2.1", "2.2", "7.1", "9.1", "10.1"]
    assert found.bad == ["9.1", "10.1"]
    assert "2.1" not in found.table()


def test_a_missing_suite_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(Missing, match=VARIABLE):
        interpreter(None)
    with pytest.raises(Missing, match="cannot import"):
        interpreter("/nonexistent/python")
