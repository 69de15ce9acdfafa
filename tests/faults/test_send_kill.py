"""`send`, killed or interrupted at random moments: the next run settles open messages (contract.md §6).

`GUESTCTL_KILL_ROUNDS=200` repeats it more often.
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
from tests.faults.conftest import OpenShell
from tests.faults.processes import Shell, shows_traceback, stop

ROUNDS = int(os.environ.get("GUESTCTL_KILL_ROUNDS", "4"))
CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130, signal.SIGTERM: 143}

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX"),
    pytest.mark.timeout(120 + 10 * ROUNDS),
]


def interrupted(shell: Shell, random: Random, how: signal.Signals, number: int) -> tuple[str, int, str]:
    """Send a message and stop the process at a random moment, mostly around the moment of sending.

    Return its client key, the exit code, and the delivery that stdout shows.
    """
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
    assert not shows_traceback(err), err
    # -how: before guestctl had installed its signal handlers. "init_": before Python had started.
    assert code in (0, CODES[how], -how) or "Fatal Python error: init_" in err, err
    return key, code, json.loads(out)["delivery"] if out.strip() else ""


@pytest.mark.parametrize("how", list(CODES))
@pytest.mark.parametrize("api", ["web-messaging", "webmessaging-conversations", "messaging-conversations"])
def test_the_next_run_settles_a_send_that_a_signal_ended(open_shell: OpenShell, api: str, how: signal.Signals) -> None:
    shell, random = open_shell(api, faults=("delay:ms=20",)), Random(f"{api} {how}")
    results = [interrupted(shell, random, how, number) for number in range(ROUNDS)]
    code, _, err = shell.run("resume")
    assert code == 0, err
    log = Counter(one["key"] for one in shell.log() if one["direction"] == "inbound")
    for key, code, delivery in results:
        assert log[key] <= 1, "duplicated"
        if code == 0 or delivery == "accepted":
            assert log[key] == 1, "reported as accepted, but lost"
        elif delivery == "not_sent":
            assert log[key] == 0, "reported as not sent, but stored"
    with State.open(shell.folder / "state", SystemClock()) as state:
        [(scope, session)] = state.sessions()
        for row in state.outbox(scope, session):
            assert row.state in ("accepted", "not_sent", "rejected", "in_doubt"), "still open"
            assert log[row.key] == (row.state == "accepted"), "a stored message is found"
    # A message in doubt that was never stored is sent again on request; a stored one is only reported.
    for number, (key, _, _) in enumerate(results):
        code, _, err = shell.run("send", f"guest {number}", "--id", key, "--resend")
        assert code == 0, err
    log = Counter(one["key"] for one in shell.log() if one["direction"] == "inbound")
    assert log == Counter(key for key, _, _ in results)


def test_a_killed_send_lines_reports_only_stored_messages(open_shell: OpenShell) -> None:
    """Every message that stdout reported is stored once and in order."""
    shell = open_shell("messaging-conversations")
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
    reported = [json.loads(line) for line in out.read_text().splitlines(keepends=True) if line.endswith("\n")]
    stored = [one["text"] for one in shell.log() if one["direction"] == "inbound"]
    assert reported
    assert stored[: len(reported)] == [record["text"] for record in reported]
    assert len(stored) <= len(reported) + 1
    code, _, err = shell.run("resume")
    assert code == 0, err
    stored = [one["text"] for one in shell.log() if one["direction"] == "inbound"]
    assert stored == [f"guest {n}" for n in range(len(stored))]
