"""`send`, killed or interrupted at random instants: the next run settles what was left (contract.md §6).

`GUESTCTL_KILL_ROUNDS=200` makes the long form.
"""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections import Counter
from random import Random

import pytest

from guestctl.core.clock import SystemClock
from guestctl.storage.state import State
from tests.faults.conftest import Enter
from tests.faults.processes import Shell, stop, traced

ROUNDS = int(os.environ.get("GUESTCTL_KILL_ROUNDS", "4"))
CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130, signal.SIGTERM: 143}

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX"),
    pytest.mark.timeout(120 + 10 * ROUNDS),
]


def interrupted(shell: Shell, random: Random, how: signal.Signals, number: int) -> tuple[str, int, str]:
    """Send a text and strike at some moment of it, most often when it is about to be, or just was, said.
    Returns its id, the code and what stdout said of it."""
    key = str(uuid.UUID(int=random.getrandbits(128), version=4))
    process = shell.start("send", f"guest {number}", "--id", key, "-o", "json")
    if random.random() < 0.8:
        attached, until = shell.sandbox.call(lambda: sum(shell.sandbox.service.requests.values())), time.monotonic() + 5
        while time.monotonic() < until and process.poll() is None:
            if shell.sandbox.call(lambda: sum(shell.sandbox.service.requests.values())) > attached:
                break
            time.sleep(0.001)
        time.sleep(random.uniform(0.0, 0.08))
    else:
        time.sleep(random.uniform(0.0, 0.5))
    code, out, err = stop(process, how)
    assert not traced(err), err
    # The last two: before guestctl had begun to listen to signals, or Python to run it.
    assert code in (0, CODES[how], -how) or "Fatal Python error: init_" in err, err
    return key, code, json.loads(out)["delivery"] if out.strip() else ""


@pytest.mark.parametrize("how", list(CODES))
@pytest.mark.parametrize("api", ["web-messaging", "webmessaging-conversations", "messaging-conversations"])
def test_what_a_signal_cut_off_is_settled_by_the_next_run(enter: Enter, api: str, how: signal.Signals) -> None:
    shell, random = enter(api, faults=("delay:ms=20",)), Random(f"{api} {how}")
    struck = [interrupted(shell, random, how, number) for number in range(ROUNDS)]
    code, _, err = shell.run("resume")
    assert code == 0, err
    log = Counter(one["key"] for one in shell.log() if one["direction"] == "inbound")
    for key, code, delivery in struck:
        assert log[key] <= 1, "doubled"
        if code == 0 or delivery == "accepted":
            assert log[key] == 1, "said to be accepted, and lost"
        elif delivery == "not_sent":
            assert log[key] == 0, "said not to be sent, and there"
    with State.open(shell.folder / "state", SystemClock()) as state:
        [(scope, session)] = state.sessions()
        for row in state.outbox(scope, session):
            assert row.state in ("accepted", "not_sent", "rejected"), "left open"
            assert log[row.key] == (row.state == "accepted")
    # Each is repeated with its own id, which makes it safe: all are there once, whatever happened before.
    for number, (key, _, _) in enumerate(struck):
        code, _, err = shell.run("send", f"guest {number}", "--id", key)
        assert code == 0, err
    log = Counter(one["key"] for one in shell.log() if one["direction"] == "inbound")
    assert log == Counter(key for key, _, _ in struck)


def test_lines_say_which_were_accepted(enter: Enter) -> None:
    """Killed in the middle of `send --lines`: what stdout said is stored, once, in order."""
    shell = enter("messaging-conversations")
    lines = shell.folder / "lines"
    lines.write_text("".join(f"guest {n}\n" for n in range(400)))
    out = shell.folder / "out"
    with lines.open("rb") as stdin, out.open("wb") as stdout:
        process = shell.start("send", "-", "--lines", "-o", "jsonl", stdin=stdin, stdout=stdout)
        until = time.monotonic() + 20
        while len(out.read_bytes().splitlines()) < 20 and time.monotonic() < until:
            time.sleep(0.005)
        process.kill()
        process.wait()
    said = [json.loads(line) for line in out.read_text().splitlines(keepends=True) if line.endswith("\n")]
    stored = [one["text"] for one in shell.log() if one["direction"] == "inbound"]
    assert said
    assert stored[: len(said)] == [record["text"] for record in said]
    assert len(stored) <= len(said) + 1
    code, _, err = shell.run("resume")
    assert code == 0, err
    stored = [one["text"] for one in shell.log() if one["direction"] == "inbound"]
    assert stored == [f"guest {n}" for n in range(len(stored))]
