"""The state database under many processes that start, compete and are killed.

A short form runs by default; `GUESTCTL_KILL_ROUNDS=2000`, `GUESTCTL_STATE_PROCESSES=50` and
`GUESTCTL_STATE_OPERATIONS=200` select a long one. Time is real here, but no duration is asserted. A session keeps at
most 10,000 settled sends, so processes times operations must not exceed that.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import indent

import pytest

from guestctl.core.clock import Deadline, SystemClock
from guestctl.core.model import Credential, Secret, Session
from guestctl.storage.private_files import DATABASE_FILE
from guestctl.storage.state import LedgerEntry, State

ROUNDS = int(os.environ.get("GUESTCTL_KILL_ROUNDS", "200"))
PROCESSES = int(os.environ.get("GUESTCTL_STATE_PROCESSES", "10"))
OPERATIONS = int(os.environ.get("GUESTCTL_STATE_OPERATIONS", "100"))
SCOPE = "scope"
LIMIT = 3
DEFAULT = Session("api", "p", created_at=1.0)

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX"),
    pytest.mark.timeout(120 + 2 * ROUNDS + PROCESSES * OPERATIONS),
]

HEAD = """
import os, sys
from dataclasses import replace
from pathlib import Path
from guestctl.core.clock import Deadline, SystemClock
from guestctl.core.model import Credential, Secret, Session
from guestctl.storage.state import LedgerEntry, State
clock = SystemClock()
directory = Path(sys.argv[1])
me = os.getpid()
DEFAULT = Session("api", "p", created_at=1.0)
def soon(): return Deadline.after(clock, 60)
def report(*words): os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""

#: Every operation in turn. A durable one is reported to the parent process after it has returned.
WRITER = """
with State.open(directory, clock) as state:
    number = 0
    while True:
        number += 1
        key = f"{me}-{number}"
        token = f"token-{number}-" + "x" * 3000
        token = Credential("guest", Secret(token), float(number))
        state.put("scope", replace(DEFAULT, notes={"number": number}, credentials={"guest": token}))
        report("session", number)
        state.begin("scope", DEFAULT, key, "text " * 50)
        state.mark("scope", DEFAULT, key, "writing")
        report("writing", key)
        state.mark("scope", DEFAULT, key, "accepted", f"id-{key}")
        report("accepted", key)
        state.record("scope", DEFAULT, [LedgerEntry(f"{key}-{i}") for i in range(20)])
        report("ledger", key)
        state.log("scope", DEFAULT, "event", {"n": number})
        state.budgets.take("bucket", 10**6, 60)
        with state.slot("scope", DEFAULT, 3, soon()):
            pass
"""

WORKER = """
rounds = int(sys.argv[2])
with State.open(directory, clock) as state:
    state.put("scope", DEFAULT)
    for number in range(rounds):
        key = f"{me}-{number}"
        state.begin("scope", DEFAULT, key, "text")
        with state.slot("scope", DEFAULT, 3, soon()):
            inside = directory.parent / "inside" / str(me)
            inside.touch()
            report("inside", len(list(inside.parent.iterdir())))
            inside.unlink()
        state.mark("scope", DEFAULT, key, "accepted", f"id-{key}")
        state.record("scope", DEFAULT, [LedgerEntry(key), LedgerEntry("shared")])
        with state.lock("count", soon()):
            found = state.get("scope", "counter")
            count = 0 if found is None else found.notes["count"]
            state.put("scope", Session("api", "p", name="counter", notes={"count": count + 1}))
        state.log("scope", DEFAULT, "event", {})
        if state.budgets.take("budget", 10, 10**6) == 0:
            report("booked")
"""

HOLDER = """
with State.open(directory, clock) as state:
    with state.lock("held", soon()), state.slot("scope", DEFAULT, 1, soon()):
        report("holding")
        sys.stdin.read()
"""


#: A process that has imported the package. It forks a writer for each round, which takes a millisecond.
FORKER = f"""
import traceback
for _ in sys.stdin:
    child = os.fork()
    if not child:
        me = os.getpid()
        report("born", me)
        try:
{indent(WRITER, " " * 12)}
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    os.waitpid(child, 0)
    report("dead")
"""


def start(body: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HEAD + body, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def running(body: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    process = start(body, *arguments)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _reports_until_killed(forker: subprocess.Popen[str], chance: random.Random) -> list[str]:
    """Return what a writer reported before it was killed."""
    assert forker.stdin is not None
    assert forker.stdout is not None
    forker.stdin.write("\n")
    forker.stdin.flush()
    born = forker.stdout.readline().split()
    try:
        lines = [forker.stdout.readline() for _ in range(chance.randrange(1, 40))]
    finally:
        os.kill(int(born[1]), signal.SIGKILL)
    while (line := forker.stdout.readline()) != "dead\n":
        assert line, "the forker has ended"
        lines.append(line)
    return lines


def intact(directory: Path) -> None:
    connection = sqlite3.connect(directory / DATABASE_FILE)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    finally:
        connection.close()
    assert not list(directory.glob("*damaged*"))


def test_many_processes_at_once_lose_nothing_and_never_exceed_a_limit(tmp_path: Path) -> None:
    """All start with an empty directory: one creates the database, and the others wait for it."""
    (tmp_path / "inside").mkdir()
    directory = tmp_path / "s"
    workers = [start(WORKER, directory, OPERATIONS) for _ in range(PROCESSES)]
    results = [worker.communicate() for worker in workers]
    assert [(worker.returncode, errors) for worker, (_, errors) in zip(workers, results, strict=True)] == [
        (0, "")
    ] * PROCESSES
    said = [line for output, _ in results for line in output.splitlines()]
    inside = [int(line.split()[1]) for line in said if line.startswith("inside")]
    assert len(inside) == PROCESSES * OPERATIONS
    assert max(inside) <= LIMIT
    assert said.count("booked") == 10
    with State.open(directory, SystemClock()) as state:
        keys = [f"{worker.pid}-{number}" for worker in workers for number in range(OPERATIONS)]
        assert {row.key for row in state.outbox(SCOPE, DEFAULT, "accepted")} == set(keys)
        assert state.seen(SCOPE, DEFAULT, [*keys, "shared"]) == {*keys, "shared"}
        assert len(state.activity(SCOPE, DEFAULT)) == PROCESSES * OPERATIONS
        counter = state.get(SCOPE, "counter")
        assert counter is not None
        assert counter.notes["count"] == PROCESSES * OPERATIONS
    intact(directory)


def test_a_kill_at_any_instant_loses_no_confirmed_record(tmp_path: Path) -> None:
    directory = tmp_path / "s"
    chance = random.Random(20260304)
    promised: dict[str, str] = {}
    with running(FORKER, directory) as forker:
        for _ in range(ROUNDS):
            told = [line.split() for line in _reports_until_killed(forker, chance)]
            latest = max((int(what) for kind, what in told if kind == "session"), default=0)
            promised.update({what: kind for kind, what in told if kind != "session"})
            with State.open(directory, SystemClock()) as state:
                kept = {row.key: row for row in state.outbox(SCOPE, DEFAULT)}
                newest = list(promised.items())[-1_000:]
                for key, kind in newest:
                    if kind == "writing":
                        assert kept[key].state in {"writing", "accepted"}
                    else:
                        assert (kept[key].state, kept[key].message_id) == ("accepted", f"id-{key}")
                recorded = [f"{key}-{index}" for key, kind in newest[-200:] if kind == "ledger" for index in range(20)]
                assert state.seen(SCOPE, DEFAULT, recorded) == set(recorded)
                for key in list(kept)[-100:]:  # a batch is stored as a whole or not at all
                    assert len(state.seen(SCOPE, DEFAULT, [f"{key}-{index}" for index in range(20)])) in {0, 20}
                session = state.get(SCOPE, "default")
                assert session is not None
                number = session.notes["number"]
                assert number >= latest
                expected = Credential("guest", Secret(f"token-{number}-" + "x" * 3000), float(number))
                assert session.credential("guest") == expected
                with state.slot(SCOPE, DEFAULT, 1, Deadline.after(SystemClock(), 30)):
                    pass
        assert forker.communicate()[1] == ""
    intact(directory)


def test_a_kill_during_the_creation_of_the_database(tmp_path: Path) -> None:
    chance = random.Random(7)
    made = []
    for round_ in range(max(10, ROUNDS // 20)):
        directory = tmp_path / f"s{round_}"
        # The process is killed between two SQL statements.
        body = f"""
import guestctl.storage.private_files as module, signal
connect, left = module.connect, {chance.randrange(0, 40)}
def traced(path):
    connection = connect(path)
    def count(statement):
        global left
        left -= 1
        if left < 0:
            os.kill(me, signal.SIGKILL)
    connection.set_trace_callback(count)
    return connection
module.connect = traced
State.open(directory, clock).close()
report("made")
"""
        with running(body, directory) as process:
            made.append(process.communicate()[0] == "made\n")
        notices: list[str] = []
        with State.open(directory, SystemClock(), notice=notices.append) as state:
            state.put(SCOPE, Session("api", "p"))
            assert state.get(SCOPE, "default") is not None
        assert notices == []
        intact(directory)
    assert not all(made), "nobody was killed: the test sees nothing"


def test_the_locks_of_a_killed_process_are_released(tmp_path: Path) -> None:
    directory = tmp_path / "s"
    clock = SystemClock()
    with State.open(directory, clock) as state, running(HOLDER, directory) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        for taken in (
            state.lock("held", Deadline.after(clock, 0)),
            state.slot(SCOPE, DEFAULT, 1, Deadline(clock, 0)),
        ):
            with pytest.raises(Exception, match="other guestctl process"), taken:
                pytest.fail("held twice")
        process.send_signal(signal.SIGKILL)
        with state.lock("held", Deadline.after(clock, 60)), state.slot(SCOPE, DEFAULT, 1, Deadline.after(clock, 60)):
            pass


def test_a_second_connection_in_the_process_keeps_its_locks(tmp_path: Path) -> None:
    """Closing any descriptor of a file releases its POSIX locks. Opening the state again must not close one."""
    directory = tmp_path / "s"
    clock = SystemClock()
    probe = """
from guestctl.core.errors import TimedOut
with State.open(directory, clock) as state:
    try:
        with state.lock("held", Deadline.after(clock, 0)):
            report("mine")
    except TimedOut:
        report("taken")
"""
    with State.open(directory, clock) as state, state.lock("held", Deadline.after(clock, 0)):
        with State.open(directory, clock) as other:
            with pytest.raises(Exception, match="another guestctl process"), other.lock("held", Deadline(clock, 0)):
                pytest.fail("held twice")
            other.put(SCOPE, DEFAULT)
            other.record(SCOPE, DEFAULT, [LedgerEntry("m")])
        with running(probe, directory) as process:
            assert process.communicate()[0] == "taken\n"


def test_a_full_disk_as_the_kernel_reports_it(tmp_path: Path) -> None:
    """`ulimit -f` takes the place of a full disk: the kernel refuses the write in the same way."""
    directory = tmp_path / "s"
    body = """
import resource, signal, json
from guestctl.core.errors import UsageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with State.open(directory, clock) as state:
    state.put("scope", DEFAULT)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    kept = []
    try:
        for number in range(10_000):
            state.begin("scope", DEFAULT, f"k{number}", "x" * 2000)
            kept.append(f"k{number}")
    except UsageError as error:
        report(json.dumps([error.code, error.message, kept]))
"""
    with running(body, directory) as process:
        output, errors = process.communicate()
    assert errors == ""
    code, message, kept = json.loads(output)
    assert code == "state.unusable"
    assert str(directory) in message
    assert kept
    with State.open(directory, SystemClock()) as state:
        assert [row.key for row in state.outbox(SCOPE, DEFAULT)] == kept
    intact(directory)
