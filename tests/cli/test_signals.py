"""The real program: signals, closed pipes, a real terminal, kill -9 (contract.md §4, §5)."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from guestctl.cli.signals import Signals, Terminated
from guestctl.client import Client
from tests.cli.conftest import Front

ROOT = Path(__file__).parents[2]


@contextmanager
def started(
    front: Front, *argv: str, program: Sequence[str] = (sys.executable, "-m", "guestctl"), **more: object
) -> Iterator[subprocess.Popen[bytes]]:
    given: dict[str, object] = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "stdin": subprocess.DEVNULL,
        **more,
    }
    process = subprocess.Popen(
        [*program, *argv],
        cwd=front.cwd,
        env={**front.environ, "PYTHONPATH": str(ROOT), "PATH": os.defpath},
        **given,  # type: ignore[call-overload]
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(true: Callable[[], bool]) -> None:
    for _ in range(400):
        if true():
            return
        time.sleep(0.025)
    pytest.fail("it never came")


def listening(front: Front) -> bool:
    """Wait until listen is attached and has read the newest message from history."""
    return any(session["sockets"] and "history" in session["requests"] for session in mine(front))


def shown(terminal: int) -> bytes:
    """Return what was written to the pipe after its other end was closed."""
    shown = b""
    with suppress(OSError), os.fdopen(terminal, "rb", buffering=0) as file:
        while piece := file.read(4096):
            shown += piece
    return shown


def mine(front: Front) -> list[dict[str, Any]]:
    return front("sandbox", "sessions").records[-1:]


def push(front: Front, text: str) -> None:
    front("sandbox", "push", text, "--to", str(mine(front)[0]["id"]))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_end_a_listener_and_leave_state_consistent(front: Front, number: int, code: int) -> None:
    front("session", "create")
    with started(front, "listen") as process:
        until(lambda: listening(front))
        push(front, "one")
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["text"] == "one"
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
    assert process.returncode == code
    assert (out, err) == (b"", b"")
    assert front("ask", "still there?").out == "echo: still there?\n"


def test_ctrl_c_at_a_terminal_ends_the_shells_loop_too(front: Front) -> None:
    """A shell continues its loop unless the command dies of the signal."""
    front("session", "create")
    near, far = pty.openpty()
    loop = f'for n in 1 2; do "{sys.executable}" -m guestctl listen; done; echo went on'
    with started(front, program=["bash", "-c", loop], stderr=far, start_new_session=True) as process:
        os.close(far)
        until(lambda: listening(front))
        os.killpg(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=10)
    told = shown(near)
    assert process.returncode == -signal.SIGINT
    assert b"went on" not in out
    assert told.endswith(b"\rstopping\r\n")


def test_quiet_prints_nothing_at_ctrl_c(front: Front) -> None:
    front("session", "create")
    near, far = pty.openpty()
    with started(front, "listen", "--quiet", stderr=far) as process:
        os.close(far)
        until(lambda: listening(front))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
    assert (process.returncode, shown(near)) == (-signal.SIGINT, b"")


@pytest.mark.parametrize("name", ["INT", "HUP"])
def test_a_signal_that_the_parent_process_ignores_is_ignored(front: Front, name: str) -> None:
    """As for a command that a shell script runs in the background, or that `nohup` started."""
    front("session", "create")
    with started(
        front, program=["bash", "-c", f'trap "" {name}; exec "{sys.executable}" -m guestctl listen --max 1']
    ) as it:
        until(lambda: listening(front))
        it.send_signal(getattr(signal, f"SIG{name}"))
        push(front, "still here")
        out, _ = it.communicate(timeout=10)
    assert (it.returncode, json.loads(out)["text"]) == (0, "still here")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_message_that_was_accepted_is_not_hidden_by_a_full_disk(front: Front) -> None:
    front("session", "create")
    key = "3b5b8f0e-6c0f-4b6e-9a55-0f3c1b1b7a11"
    with open("/dev/full", "w") as full, started(front, "send", "hi", "--id", key, stdout=full) as process:
        _, err = process.communicate(timeout=10)
    assert process.returncode == 2
    told = json.loads(err)["error"]
    assert (told["code"], f"the message was accepted (--id {key})" in told["message"]) == ("output.failed", True)
    again = front("send", "hi", "--id", key).record
    assert again["delivery"] == "accepted"
    assert [message["text"] for message in front("history").records].count("hi") == 1


#: What each command that sends reports of the message if stdout cannot be written.
REPORTED = {
    ("send", "hi"): "the message was accepted (--id ",
    ("send", "hi", "--wait"): "the message was accepted (--id ",
    ("send", "-", "--lines"): "the message was accepted (--id ",
    ("ask", "hi"): "the question was accepted and answered",
    ("ask", "hi", "--first"): "the question was accepted and answered",
}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("mode", ["table", "json"])
@pytest.mark.parametrize("words", REPORTED, ids=" ".join)
@pytest.mark.parametrize(
    ("target", "hint"), [(">/dev/full", "free some space"), (">&-", "stdout is closed: redirect it")]
)
def test_output_that_cannot_be_written_names_the_outcome(
    front: Front, words: tuple[str, ...], mode: str, target: str, hint: str
) -> None:
    """And the hint fits the cause: a closed stdout is no lack of space."""
    front("session", "create")
    line = f'echo hi | "{sys.executable}" -m guestctl {" ".join(words)} -o {mode} {target}'
    with started(front, program=["bash", "-c", line]) as process:
        _, err = process.communicate(timeout=20)
    assert process.returncode == 2
    assert REPORTED[words] in err.decode()
    assert hint in err.decode()
    assert [message["text"] for message in front("history").records].count("hi") == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize(
    "words",
    ["listen --replay 2 --for 5", "history", "history -o json", "resume", "session list", "session report", "apis"],
)
@pytest.mark.parametrize("target", [">/dev/full", ">&-"])
def test_output_that_cannot_be_written_is_one_error_and_nothing_else(front: Front, words: str, target: str) -> None:
    """No traceback of what ended late follows it, and the next command prints what was not printed."""
    front("session", "create")
    for text in ("one", "two"):
        front("send", text, "--wait")
    line = f'"{sys.executable}" -m guestctl {words} {target}'
    with started(front, program=["bash", "-c", line]) as process:
        _, err = process.communicate(timeout=20)
    assert process.returncode == 2
    [only] = err.decode().splitlines()
    assert json.loads(only)["error"]["code"] == "output.failed"
    assert [message["text"] for message in front("history").records] == ["one", "echo: one", "two", "echo: two"]


def test_a_stdin_that_was_closed(front: Front) -> None:
    front("session", "create")
    argv = f'"{sys.executable}" -m guestctl send - <&-'
    with started(front, program=["bash", "-c", argv]) as process:
        _, err = process.communicate(timeout=10)
    assert process.returncode == 2
    assert "nothing to send" in json.loads(err)["error"]["message"]


def test_a_closed_pipe_ends_listen_quietly(front: Front) -> None:
    front("session", "create")
    with started(front, "listen") as process:
        until(lambda: listening(front))
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(10) == 141
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_head_receives_its_line(front: Front) -> None:
    front("session", "create")
    front("send", "-", "--lines", stdin="\n".join("abcdefghij"))
    done = subprocess.run(
        [f"{sys.executable} -m guestctl history | head -1; exit ${{PIPESTATUS[0]}}"],
        shell=True,
        executable="/bin/bash",
        env={**front.environ, "PYTHONPATH": str(ROOT), "PATH": os.defpath},
        capture_output=True,
        check=False,
    )
    assert json.loads(done.stdout)["text"] == "a"
    assert done.returncode in {0, 141}
    assert done.stderr == b""


def test_a_real_terminal(front: Front) -> None:
    front("session", "create")
    front("send", "-", stdin="\x1b]0;owned\x07\n" + "x" * 200 + "\n12:00:00 < agent: fake")
    near, far = pty.openpty()
    with started(front, "history", "--last", "1", stdout=far, stdin=far, stderr=far) as process:
        os.close(far)
        seen = b""
        while True:
            try:
                chunk = os.read(near, 65536)
            except OSError:
                break
            if not chunk:
                break
            seen += chunk
        assert process.wait(10) == 0
    os.close(near)
    plain = re.sub(rb"\x1b\[(?:0|1|2|32|36)m", b"", seen)
    assert b"\x1b" not in plain
    assert b"\x07" not in plain
    lines = plain.decode().replace("\r\n", "\n").splitlines()
    assert lines[0].startswith("TIME ")
    assert all(line.startswith(" ") for line in lines[2:])
    assert max(map(len, lines)) <= 80


def test_a_command_of_listen_ends_with_it(front: Front, tmp_path: Path) -> None:
    """The message whose command was ended is passed on again by the next run."""
    front("ask", "one")
    started_file, cursor = tmp_path / "started", tmp_path / "cursor"
    hook = tmp_path / "hook.sh"
    hook.write_text(f"echo $$ > {started_file}.new; mv {started_file}.new {started_file}; exec sleep 60\n")
    with started(front, "listen", "--cursor", str(cursor), "--exec", f"sh {hook}") as process:
        until(started_file.exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int(started_file.read_text()), 0)
    hook.write_text(f"cat > {tmp_path}/text")
    assert front("listen", "--cursor", str(cursor), "--idle", "300ms", "--exec", f"sh {hook}").code == 0
    assert (tmp_path / "text").read_text() == "echo: one\n"


def test_a_cursor_loses_and_repeats_no_line(front: Front, tmp_path: Path) -> None:
    """After repeated kill -9 during a replay, the file has every message exactly once and complete."""
    front("session", "create")
    key = front("send", "begin").record["key"]
    here = next(
        session["id"]
        for session in front("sandbox", "sessions").records
        if key in {message["key"] for message in session["messages"]}
    )
    for n in range(78):  # a guest may not say so much so fast
        front("sandbox", "push", f"m{n}", "--to", here)
    until(lambda: len(front("history").records) == 80)
    everything = [record["id"] for record in front("history").records]
    cursor, log = tmp_path / "cursor", tmp_path / "log.jsonl"
    for patience in (0.45, 0.5, 0.55, 0.6, 0.7):
        with open(log, "ab") as file, started(front, "listen", "--cursor", str(cursor), stdout=file) as process:
            time.sleep(patience)
            process.kill()
    with (
        open(log, "ab") as file,
        started(front, "listen", "--cursor", str(cursor), "--idle", "1", stdout=file) as process,
    ):
        assert process.wait(20) == 0
    assert [json.loads(line)["id"] for line in log.read_text().splitlines()] == everything


def test_a_partial_last_line_is_removed(front: Front, tmp_path: Path) -> None:

    front("ask", "one")
    cursor, log = tmp_path / "cursor", tmp_path / "log.jsonl"
    first = front("history").records[0]["id"]
    with (
        open(log, "ab") as file,
        started(front, "listen", "--cursor", str(cursor), "--idle", "1", stdout=file) as process,
    ):
        assert process.wait(20) == 0
    whole = log.read_bytes().splitlines(keepends=True)
    assert len(whole) == 2
    # As if it had been killed in the middle of the second line.
    log.write_bytes(whole[0] + whole[1][:30])
    cursor.write_text(json.dumps({"after": first}))
    with (
        open(log, "ab") as file,
        started(front, "listen", "--cursor", str(cursor), "--idle", "1", stdout=file) as process,
    ):
        assert process.wait(20) == 0
    assert [json.loads(line)["text"] for line in log.read_text().splitlines()] == ["one", "echo: one"]
    # As if it had been killed after the line and before the note.
    cursor.write_text(json.dumps({"after": first}))
    with (
        open(log, "ab") as file,
        started(front, "listen", "--cursor", str(cursor), "--idle", "1", stdout=file) as process,
    ):
        assert process.wait(20) == 0
    assert len(log.read_text().splitlines()) == 2


def test_sandbox_serve_prints_its_address_and_stops(alone: Front) -> None:
    with started(alone, "sandbox", "serve", "--api", "guests", "-o", "json") as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert set(told) >= {"url", "socket_url", "config_url", "admin_url", "admin_key", "deployment_id"}
        assert alone("-p", "sandbox", "ask", "hi").out == "echo: hi\n"
        found = alone("sandbox", "sessions").records[0]
        assert (found["kind"], found["api"]) == ("sandbox-session", "guests")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert alone("-p", "sandbox", "ask", "hi").code == 2


@pytest.mark.parametrize("command", ["sandbox serve", "replay recorded.trace"])
def test_sandbox_serve_prints_its_address_as_yaml_too(front: Front, command: str) -> None:
    front("session", "create", "--trace", str(front.cwd / "recorded.trace"))
    with started(front, *command.split(), "-o", "yaml") as process:
        assert process.stdout is not None
        told = yaml.safe_load(process.stdout.readline())
        assert told["url"].startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_sandbox_exec_exits_with_the_commands_exit_code(alone: Front) -> None:
    with started(alone, "sandbox", "exec", "--", "sh", "-c", "exit 7") as process:
        assert process.wait(10) == 7


# --- where Python loses what a handler raises ---


def test_ctrl_c_in_a_pager_goes_to_the_pager(front: Front, tmp_path: Path) -> None:
    """The shell must not get the terminal back before the user leaves the pager."""
    front("session", "create")
    front("send", "to be read")
    hurried = "from guestctl.cli import signals; signals.GRACE = 1; from guestctl.__main__ import command; command()"
    pager, left = tmp_path / "pager.py", tmp_path / "left"
    pager.write_text(
        "import os, signal, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "print(sys.stdin.read(), os.environ['LESS'], 'all', flush=True)\n"
        f"while not os.path.exists({str(left)!r}): time.sleep(0.02)\n"
    )
    paging = replace(front, environ={**front.environ, "GUESTCTL_PAGER": f"{sys.executable} {pager}"})
    near, far = pty.openpty()
    terminal = {"stdin": far, "stdout": far, "stderr": far}
    with started(paging, "history", program=[sys.executable, "-c", hurried], **terminal) as process:
        os.close(far)
        seen = b""
        while not seen.endswith(b"all\r\n"):
            seen += os.read(near, 4096)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.75)
        left.touch()
        assert process.wait(10) == 0
    assert b"to be read" in seen
    assert b" -R all" in seen  # or `less` shows our colours as they are written
    assert shown(near) == b""


def test_an_open_pager_is_not_killed_after_the_grace_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guestctl.cli.signals.GRACE", 0.05)
    ended: list[int] = []
    monkeypatch.setattr("os._exit", ended.append)
    with Signals(lambda: None, lambda: True).handled():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        time.sleep(0.2)
    assert ended == []


class Callback:
    """Code that a signal interrupts at a point where Python discards exceptions."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __del__(self) -> None:
        signal.raise_signal(self._number)


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_signal_that_python_lost_is_sent_again(number: int, raised: type[BaseException]) -> None:
    answered: list[bool] = []

    def wait() -> bool:
        time.sleep(10)
        return True

    with pytest.raises(raised), Signals(lambda: answered.append(True)).handled():
        until(lambda: Callback(number) is not None and wait())
    assert answered == [True] * (number == signal.SIGINT)


def test_a_lost_exception_of_another_ctrl_c_handler_is_raised_again() -> None:
    class Left(KeyboardInterrupt):
        pass

    def leave(number: int, frame: object) -> None:
        raise Left

    def wait() -> bool:
        signal.signal(signal.SIGINT, leave)
        Callback(signal.SIGINT)
        time.sleep(10)
        return True

    with pytest.raises(Left), Signals(lambda: None).handled():
        until(wait)


def test_other_lost_exceptions_are_reported_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: told.append(found.exc_type))

    class Broken:
        def __del__(self) -> None:
            raise ValueError

    with Signals(lambda: None).handled():
        Broken()
    Broken()
    assert told == [ValueError, ValueError]


def test_a_signal_that_python_turned_into_another_error_is_no_internal_error(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does while it creates a class, before Python 3.12."""

    def history(*_: object, **__: object) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as error:
            raise RuntimeError("Error calling __set_name__") from error

    front("session", "create")
    monkeypatch.setattr(Client, "history", history)
    done = front("history")
    assert (done.code, done.out, done.err) == (143, "", "")


def test_a_shutdown_that_hangs_is_ended_by_force() -> None:
    """A signal that arrives while a lock is taken: unwinding then waits for a lock that is never released."""
    program = """if True:
        import threading, time
        from guestctl.cli import signals
        signals.GRACE, lock = 0.2, threading.Lock()
        with signals.Signals(lambda: None).handled():
            try:
                print("ready", flush=True)
                time.sleep(60)
            finally:
                lock.acquire()
                lock.acquire()
    """
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        assert process.wait(30) == 143


def test_a_slow_shutdown_within_the_grace_time_completes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guestctl.cli.signals.GRACE", 0.05)
    ended: list[int] = []
    monkeypatch.setattr("os._exit", ended.append)
    with pytest.raises(Terminated), Signals(lambda: None).handled():
        signal.raise_signal(signal.SIGTERM)
    time.sleep(0.2)
    assert ended == []


# --- while a slow pattern runs ---

SLOW = "(a|a)*$"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("command", ["check", "check --parallel 2", "send", "listen"])
def test_signals_end_a_command_while_a_slow_pattern_runs(
    front: Front, tmp_path: Path, command: str, number: int, code: int
) -> None:
    front("session", "create")
    text = "a" * 40 + f" {tmp_path.name} {number}"
    steps = [{"say": text}, {"expect": {"matches": SLOW}}]
    (tmp_path / "s.json").write_text(json.dumps({"scenarios": {"slow": steps, "slower": steps}}))
    argv = {
        "send": ["send", text, "--expect", SLOW],
        "listen": ["listen", "--replay", "1", "--until", SLOW],
    }.get(command, ["check", "s.json", *command.split()[1:]])

    def answered() -> bool:
        sessions = front("sandbox", "sessions").records
        return any(message["text"] == f"echo: {text}" for one in sessions for message in one["messages"])

    if command == "listen":
        front("send", text, "--wait")
    with started(front, *argv, start_new_session=True) as process:
        if command == "listen":
            assert process.stdout is not None
            process.stdout.readline()
        else:
            until(answered)
        process.send_signal(number)
        process.communicate(timeout=20)
    assert process.returncode in (code, -number)
