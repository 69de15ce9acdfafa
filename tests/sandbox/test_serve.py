"""`serve` and `run_under` as real processes: ready lines, signals, exit codes, and nothing left running."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import websocket

from guestctl.core.errors import Conflict, Failure, NetworkError, Refused, Unauthorised, Unreadable, UsageError
from guestctl.core.model import Secret
from guestctl.sandbox import CLIENT_ID, CLIENT_SECRET, DEPLOYMENT_ID
from guestctl.sandbox.serve import CannotServe, running
from guestctl.sandbox.settings import SandboxOptions
from guestctl.sandbox_tools.admin_client import SandboxAdmin

PATIENCE = 30.0

SERVE = """
import sys
from guestctl.sandbox.settings import SandboxOptions
from guestctl.sandbox.serve import serve
found = []
options = SandboxOptions(**eval(sys.argv[1]))
code = serve(options, out=sys.stdout, ready_json=True, agent_in=sys.stdin, on_ready=found.append)
assert set(found[0]) >= {"url", "admin_key"}
sys.exit(code)
"""
EXEC = """
import os, sys
from guestctl.sandbox.settings import SandboxOptions
from guestctl.sandbox.serve import run_under
def refused(code, why):
    print(code, why, file=sys.stderr)
sys.exit(run_under(SandboxOptions(**eval(sys.argv[1])), sys.argv[2:], os.environ, cannot_run=refused))
"""


@contextmanager
def python(code: str, *argv: str, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """Start Python in a session of its own, as a CI job does, so that our terminal plays no part.

    A process that hangs prints its stack and is not waited for.
    """
    with subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", code, *argv],
        text=True,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            yield process
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)
            _, stacks = process.communicate(timeout=PATIENCE)
            raise AssertionError(f"stuck:\n{stacks}") from None
        finally:
            process.kill()


@contextmanager
def served(**options: Any) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    with python(SERVE, repr(options)) as process:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())


def until(true: Callable[[], object]) -> None:
    """Wait for an effect in another process. The test fails only if it never comes."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def run(*command: str, environ: Mapping[str, str] | None = None, **options: Any) -> tuple[int, str, str]:
    with python(EXEC, repr(options), *command, env={**os.environ, **(environ or {})}) as process:
        out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, err


def alive(pid: int) -> bool:
    """Return whether a process runs. One that has ended and waits to be reaped does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")


class Guest:
    """An independent guest on the web-messaging socket, with literal frames."""

    def __init__(self, found: Mapping[str, str], token: str = "4f1b8b0e-6f61-4e29-b1ce-6b1b0f1f2a9d") -> None:
        self.token = token
        url = f"{found['socket_url']}?deploymentId={DEPLOYMENT_ID}"
        trust = {"ca_certs": found["ca"]} if "ca" in found else {}
        self.socket: Any = websocket.create_connection(url, timeout=PATIENCE, sslopt=trust)
        self.write({"action": "configureSession", "deploymentId": DEPLOYMENT_ID, "startNew": False})
        assert self.read()["class"] == "SessionResponse"

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.shutdown()

    def write(self, frame: dict[str, Any]) -> None:
        self.socket.send(json.dumps({"token": self.token, "tracingId": "t1", **frame}))

    def say(self, text: str) -> None:
        self.write({"action": "onMessage", "message": {"type": "Text", "text": text}})

    def read(self) -> Any:
        return json.loads(self.socket.recv())

    def hear(self) -> Any:
        """Return the body of the next frame that is not an echo."""
        while (body := self.read()["body"])["direction"] == "Inbound":
            pass
        return body


# serve


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_serve_prints_its_addresses_once_and_stops_on_a_signal(number: signal.Signals) -> None:
    with served() as (process, found):
        assert set(found) == {
            "url",
            "socket_url",
            "config_url",
            "admin_url",
            "admin_key",
            "deployment_id",
            "client_id",
            "client_secret",
            "deduplicates",
            "limits",
            "sockets",
            "deployment_url",
            "oauth_url",
        }
        assert (found["deployment_id"], found["client_id"], found["client_secret"]) == (
            DEPLOYMENT_ID,
            CLIENT_ID,
            CLIENT_SECRET,
        )
        assert found["socket_url"] == found["url"].replace("http", "ws") + "/v1"
        with Guest(found) as guest:
            guest.say("hi")
        assert found["sockets"]["web-messaging"] == [found["socket_url"]]
        assert found["sockets"]["guests"] == [
            f"ws{found['url'][4:]}/api/v2/guests/{{guestId}}/sessions/{{sessionId}}/ws"
        ]
        assert requests.get(found["deployment_url"], timeout=PATIENCE).json()["messenger"]
        client = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
        assert requests.post(found["oauth_url"], data=client, timeout=PATIENCE).json()["access_token"]
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out, err) == (0 if number == signal.SIGTERM else 128 + number, "", "")
    with pytest.raises(requests.ConnectionError):
        requests.get(found["url"], timeout=PATIENCE)


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    with python(ignoring + SERVE, "{}") as process:
        assert process.stdout is not None
        found = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGHUP)
        with Guest(found) as guest:
            guest.say("still there?")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def test_with_tls_serve_prints_its_ca_and_removes_it_at_the_end() -> None:
    pytest.importorskip("cryptography")
    with served(tls=True) as (process, found):
        assert found["url"].startswith("https://127.0.0.1:")
        with Guest(found) as guest:
            guest.say("hi")
            assert guest.hear()["text"] == "echo: hi"
        admin = SandboxAdmin(found["url"], Secret(found["admin_key"]), found["ca"])
        assert len(admin.sessions()) == 1
        with pytest.raises(NetworkError) as caught:
            SandboxAdmin(found["url"], Secret(found["admin_key"])).sessions()
        assert caught.value.code == "network.tls"
        process.terminate()
        process.wait(PATIENCE)
    assert not Path(found["ca"]).parent.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"faults": ("dorp",)}, 'did you mean "drop"?'),
        ({"script": Path("/nowhere/bot.yaml")}, "cannot be read"),
        ({"state": Path("/nowhere/state.db")}, "state.db"),
    ],
)
def test_a_failed_start_is_reported_in_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(CannotServe) as caught, running(SandboxOptions(**options)):
        pass
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pipe_as_script_is_refused(tmp_path: Path) -> None:
    """Opening a pipe would wait for its writer, and no signal would end that."""
    pipe = tmp_path / "bot.yaml"
    os.mkfifo(pipe)
    with pytest.raises(CannotServe) as caught, running(SandboxOptions(script=pipe)):
        pass
    assert str(caught.value) == f"{pipe}: not a regular file"


def test_an_unusable_address_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for options in ({"port": port}, {"host": "192.0.2.1"}):
            with python(SERVE, repr(options)) as process:
                _, err = process.communicate(timeout=PATIENCE)
            where = f"{options.get('host', '127.0.0.1')}:{options.get('port', 0)}"
            assert f"CannotServe: cannot listen on {where}: " in err.splitlines()[-1]


def test_a_script_from_a_file_answers(tmp_path: Path) -> None:
    script = tmp_path / "bot.yaml"
    script.write_text(
        """
        rules:
          - {equals: human, reply: One moment, handover: Mina}
          - {equals: who, after_handover: true, reply: "It is me, ${text}"}
        otherwise: {reply: Pick, quickReplies: [Billing]}
        """
    )
    options = SandboxOptions(script=script, fast=True)
    with running(options) as sandbox, Guest({"socket_url": sandbox.socket_url}) as guest:
        guest.say("hello")
        body = guest.hear()
        assert (body["text"], body["originatingEntity"]) == ("Pick", "Bot")
        assert body["content"] == [
            {"contentType": "QuickReply", "quickReply": {"text": "Billing", "payload": "Billing", "action": "Message"}}
        ]
        guest.say("human")
        assert guest.hear()["text"] == "One moment"
        guest.say("who")
        body = guest.hear()
        assert (body["text"], body["originatingEntity"]) == ("It is me, who", "Human")
        assert body["channel"]["from"] == {"nickname": "Mina"}


# the agent


def test_a_person_answers_as_the_agent() -> None:
    with served(agent=True) as (process, found), ExitStack() as stack:
        assert process.stdin is not None
        assert process.stdout is not None

        def type_in(*lines: str) -> None:
            assert process.stdin is not None
            process.stdin.write("".join(line + "\n" for line in lines))
            process.stdin.flush()

        def shown() -> str:
            assert process.stdout is not None
            return process.stdout.readline().rstrip("\n")

        assert "/to ID" in shown()
        type_in("anybody?")
        assert shown() == "there is no conversation yet; nothing was sent"
        ada = stack.enter_context(Guest(found))
        ada.say("help \x1b[31mme\u202e")
        first = shown()
        assert first.endswith(" guest: help \\x1b[31mme\\u202e")
        bob = stack.enter_context(Guest(found, token="9d1f0c7a-b3e2-4f6f-8f3a-5a2f0b7c6d10"))
        bob.say("me too")
        assert shown().endswith(" guest: me too")
        type_in("hello Bob", "/typing")  # two lines at once: both must be read
        body = bob.hear()
        assert (body["text"], body["originatingEntity"]) == ("hello Bob", "Human")
        assert bob.hear()["events"][0]["eventType"] == "Typing"
        ada_id = next(iter(SandboxAdmin(found["url"], Secret(found["admin_key"])).sessions()))["id"]
        type_in(f"/to {ada_id}", "hello Ada", "/end", "gone?", "/to", "still Bob", "/to zzz", "/nonsense")
        assert shown() == f"lines now go to {str(ada_id)[:8]}"
        assert ada.hear()["text"] == "hello Ada"
        assert ada.hear()["events"][0]["presence"]["type"] == "Disconnect"
        assert shown().startswith("that conversation has ended")
        assert bob.hear()["text"] == "still Bob"
        assert shown() == 'no conversations start with "zzz"'
        assert shown().startswith('unknown command "/nonsense"')
        process.stdin.close()
        bob.say("are you there?")
        assert shown().endswith("are you there?")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130


# exec

TALK = """
import json, os, sys, urllib.request
names = ("PROFILE", "API", "SANDBOX_URL", "SANDBOX_ADMIN_KEY", "STATE", "DEPLOYMENT_ID", "SANDBOX_CA")
told = {name: os.environ.get("GUESTCTL_" + name) for name in names}
told["mode"] = os.stat(told["STATE"]).st_mode
url = told["SANDBOX_URL"] + "/sandbox/admin/sessions"
request = urllib.request.Request(url, headers={"Authorization": "Bearer " + told["SANDBOX_ADMIN_KEY"]})
told["answer"] = json.load(urllib.request.urlopen(request))
print(json.dumps(told))
sys.exit(7)
"""


def test_exec_gives_a_command_a_sandbox_and_returns_its_exit_code() -> None:
    strange = {"GUESTCTL_DEPLOYMENT_ID": "elsewhere", "GUESTCTL_SANDBOX_CA": "/x", "GUESTCTL_STATE": "/mine"}
    code, out, err = run(sys.executable, "-c", TALK, environ=strange, api="guests")
    assert (code, err) == (7, "")
    told = json.loads(out)
    assert (told["PROFILE"], told["API"]) == ("sandbox", "guests")
    assert (told["DEPLOYMENT_ID"], told["SANDBOX_CA"]) == (None, None)
    assert stat.S_IMODE(told["mode"]) == 0o700
    assert told["answer"]["sessions"] == []
    assert not Path(told["STATE"]).exists()
    with pytest.raises(requests.ConnectionError):
        requests.get(told["SANDBOX_URL"], timeout=PATIENCE)


def test_with_tls_the_command_gets_the_ca() -> None:
    pytest.importorskip("cryptography")
    code, out, err = run("sh", "-c", 'test -s "$GUESTCTL_SANDBOX_CA" && echo "$GUESTCTL_SANDBOX_CA"', tls=True)
    assert (code, err) == (0, "")
    assert not Path(out.strip()).exists()


def test_the_command_inherits_input_and_output() -> None:
    with python(EXEC, "{}", "sh", "-c", "tr a-z A-Z; echo talk >&2") as process:
        assert process.communicate("hello", timeout=PATIENCE) == ("HELLO", "talk\n")


@pytest.mark.parametrize(
    ("command", "wanted", "words"),
    [
        (["true"], 0, ""),
        (["sh", "-c", "exit 255"], 255, ""),
        (["sh", "-c", "kill -9 $$"], 137, ""),
        (["sh", "-c", "kill -TERM $$"], 143, ""),
        (["no-such-command-anywhere"], 127, "127 No such file or directory\n"),
        (["/"], 126, "126 Permission denied\n"),
        (["a\0b"], 126, "126 embedded null byte\n"),
    ],
)
def test_exit_codes_are_those_of_a_shell(command: list[str], wanted: int, words: str) -> None:
    if "\0" in command[0]:  # argv cannot contain it, but a library may pass it
        code = EXEC.replace("sys.argv[2:]", repr(command))
        with python(code, "{}") as process:
            _, err = process.communicate(timeout=PATIENCE)
            assert (process.returncode, err) == (wanted, words)
        return
    code_, _, err = run(*command)
    assert (code_, err) == (wanted, words)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_command_and_the_sandbox_is_removed(number: signal.Signals, tmp_path: Path) -> None:
    script = f"""
        trap 'echo got {number.name}; exit 5' {number.name[3:]}
        echo "$GUESTCTL_STATE"
        while :; do sleep 0.05; done
    """
    with python(EXEC, "{}", "sh", "-c", script) as process:
        assert process.stdout is not None
        state = process.stdout.readline().strip()
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out) == (5, f"got {number.name}\n")
        assert err in ("", "Terminated\n")  # some shells report how their child ended
    assert not Path(state).exists()


TERMINAL = """
import os, pty, sys
sys.exit(os.waitstatus_to_exitcode(pty.spawn([sys.executable, "-c", *sys.argv[1:]])))
"""


@pytest.mark.parametrize(
    ("script", "keys", "wanted", "shown"),
    [
        ("trap 'echo got; exit 4' INT; echo ready; while :; do sleep 0.05; done", "\x03", 4, "got"),
        ("echo ready; exec sleep 100", "\x03", 130, ""),
        ("echo ready; read line </dev/tty; echo got $line", "hello\n", 0, "got hello"),
    ],
)
def test_at_a_terminal_keys_reach_the_command_once(script: str, keys: str, wanted: int, shown: str) -> None:
    with python(TERMINAL, EXEC, "{}", "sh", "-c", script) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        while "ready" not in (line := process.stdout.readline()):
            assert line
        process.stdin.write(keys)
        process.stdin.flush()
        out = process.stdout.read()
        assert process.wait(PATIENCE) == wanted
        assert shown in out


def test_a_command_ended_by_a_forwarded_signal_returns_its_code() -> None:
    with python(EXEC, "{}", "sh", "-c", "echo ready; exec sleep 100") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 143


@pytest.mark.parametrize("stubborn", ["", "trap '' TERM;"])
def test_processes_left_by_the_command_are_ended(stubborn: str, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    left = f"({stubborn} sh -c 'echo $$ >{note}; while :; do sleep 0.05; done') </dev/null >/dev/null 2>&1 &"
    code, _, _ = run("sh", "-c", f"{left} while ! test -s {note}; do sleep 0.01; done; exit 3")
    assert code == 3
    until(lambda: not alive(int(note.read_text())))


def test_an_invalid_script_starts_no_command(tmp_path: Path) -> None:
    script = tmp_path / "bot.yaml"
    script.write_text("ruls: []")
    with pytest.raises(CannotServe, match='did you mean "rules'), running(SandboxOptions(script=script)):
        pass


# the admin client


@pytest.fixture
def admin() -> Iterator[SandboxAdmin]:
    with running(SandboxOptions()) as sandbox:
        yield SandboxAdmin(sandbox.url, Secret(sandbox.admin_key))


def socket_of(admin: SandboxAdmin) -> dict[str, str]:
    return {"socket_url": admin.url.replace("http", "ws") + "/v1"}


def test_pushes_reach_the_guest_and_are_counted(admin: SandboxAdmin) -> None:
    assert admin.push("nobody here") == 0
    with Guest(socket_of(admin)) as guest:
        assert admin.push("hello from the agent") == 1
        assert guest.hear()["text"] == "hello from the agent"
        (session,) = admin.sessions()
        assert session["sockets"] == 1
        frame = '{"type":"message","class":"Strange","code":200,"body":{}}'
        assert admin.push(frame=frame, to=str(session["id"])) == 1
        assert guest.read()["class"] == "Strange"


def test_faults_are_armed_together_or_not_at_all(admin: SandboxAdmin) -> None:
    with pytest.raises(UsageError, match='did you mean "drop'):
        admin.add_faults(["delay", "dorp"])
    assert admin.faults() == []
    assert admin.add_faults(["duplicate:times=1"]) == ["duplicate:times=1"]
    assert admin.add_faults(["lag"]) == ["duplicate:times=1", "lag"]
    admin.clear_faults()
    assert admin.faults() == []


def test_conversations_end_and_sessions_expire(admin: SandboxAdmin) -> None:
    with Guest(socket_of(admin)) as guest:
        (session,) = admin.sessions()
        name = str(session["id"])
        assert admin.expire(to=name) == 1
        assert guest.read()["class"] == "SessionExpiredEvent"
        assert admin.expire() == 0
    with Guest(socket_of(admin), token="2d2b4c0e-70f5-4a8e-9d41-6a0c8f1b2e33") as other:
        assert admin.disconnect() == 1
        said = other.read()["body"]
        assert said["events"] == [{"eventType": "Presence", "presence": {"type": "Disconnect"}}]
        assert said["metadata"]["readOnly"] == "true"
    with pytest.raises(Refused, match="no session has this id"):
        admin.push("hi", to="nobody")
    with pytest.raises(Conflict):
        admin.push("hi", to=name)


def test_a_wrong_key_and_a_dead_address_raise_different_errors(admin: SandboxAdmin) -> None:
    with pytest.raises(Unauthorised, match="admin key"):
        SandboxAdmin(admin.url, Secret("wrong")).sessions()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(NetworkError, match="no sandbox answers at") as caught:
        SandboxAdmin(f"http://127.0.0.1:{port}", Secret("wrong")).sessions()
    assert caught.value.code == "network.connect"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b'HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{"sessions": 17}',
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"",
    ],
)
def test_another_server_at_the_address_is_reported(answer: bytes) -> None:
    from threading import Thread

    with socket.create_server(("127.0.0.1", 0)) as stranger:

        def once() -> None:
            connection, _ = stranger.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = Thread(target=once)
        thread.start()
        with pytest.raises((Unreadable, NetworkError)) as caught:
            SandboxAdmin(f"http://127.0.0.1:{stranger.getsockname()[1]}", Secret("k")).sessions()
        thread.join()
    assert isinstance(caught.value, Failure)


def test_the_admin_client_finds_the_sandbox() -> None:
    running_one: dict[str, Any] = {"url": "http://127.0.0.1:1", "admin_key": "k1", "ca": None}
    both = {"GUESTCTL_SANDBOX_URL": "http://127.0.0.1:2/", "GUESTCTL_SANDBOX_ADMIN_KEY": "k2"}
    found = SandboxAdmin.locate(both, lambda: running_one)
    assert (found.url, found.key.reveal()) == ("http://127.0.0.1:2", "k2")
    found = SandboxAdmin.locate({}, lambda: running_one, timeout=None)
    assert (found.url, found.key.reveal(), found.timeout) == ("http://127.0.0.1:1", "k1", 30.0)
    found = SandboxAdmin.locate({"GUESTCTL_SANDBOX_URL": "http://127.0.0.1:1"}, lambda: running_one)
    assert found.key.reveal() == "k1"
    assert "k2" not in repr(SandboxAdmin.locate(both, lambda: None))


@pytest.mark.parametrize(
    ("environ", "registered", "words"),
    [
        ({}, None, "no sandbox is running here"),
        ({"GUESTCTL_SANDBOX_URL": "http://x"}, None, "set GUESTCTL_SANDBOX_ADMIN_KEY"),
        ({"GUESTCTL_SANDBOX_URL": "http://x"}, {"url": "http://y", "admin_key": "k"}, "was not started here"),
        ({"GUESTCTL_SANDBOX_URL": "x:1", "GUESTCTL_SANDBOX_ADMIN_KEY": "k"}, None, "looks like http://127.0.0.1:PORT"),
        (
            {"GUESTCTL_SANDBOX_URL": "http://[", "GUESTCTL_SANDBOX_ADMIN_KEY": "k"},
            None,
            "is not the address of a sandbox",
        ),
    ],
)
def test_no_sandbox_is_a_usage_error(environ: dict[str, str], registered: dict[str, Any] | None, words: str) -> None:
    with pytest.raises(UsageError) as refused:
        SandboxAdmin.locate(environ, lambda: registered)
    assert words in f"{refused.value.message} {refused.value.hint}"
