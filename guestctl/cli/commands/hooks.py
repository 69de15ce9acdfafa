"""`listen --exec` and `--forward-to`: pass each record to a command or to an address.

Knows: which records hooks receive, how a command is started, and what it finds on stdin and in its environment. Must
not know: how a record is posted (`engine/forwarding.py`), how it is printed, the cursor.
"""

from __future__ import annotations

import io
import json
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Any

from guestctl.cli.invocation import Invocation
from guestctl.core.clock import Deadline
from guestctl.core.errors import Failure, UsageError
from guestctl.core.interrupts import INTERRUPTS
from guestctl.core.model import Secret
from guestctl.output.records import Record

#: The senders that `--from` accepts.
ROLES = ("bot", "agent", "guest", "system")
#: Variables that commands do not get.
_SECRETS = frozenset({"GUESTCTL_FORWARD_SECRET", "GUESTCTL_RELAY_KEY"})
#: Seconds that a command may take to end after guestctl has asked it to.
_GRACE = 2.0


class Hooks:
    """The hooks of one `listen`. `forward_to` receives a record first: it must succeed, and a command need not.

    `own`: whether the guest's own records are passed, too. Without that a command that answers would answer itself.
    Raises UsageError for a command or an address that cannot be used.
    """

    def __init__(self, run: Invocation, command: str | None, forward_to: str | None, *, own: bool) -> None:
        self._run = run
        self._own = own
        self._words = None if command is None else _words(run, command)
        self._forwarder = None if forward_to is None else _forwarder(run, forward_to)

    def wants(self, record: Record) -> bool:
        """Return whether the hooks receive this record."""
        return self._own or sender(record) != "guest"

    def pass_on(self, record: Record) -> None:
        """Post the record, then run the command for it.

        A command that fails is reported. Raises the failure of a post that did not succeed.
        """
        if self._forwarder is not None:
            body = json.dumps(record, separators=(",", ":")).encode()
            status = self._forwarder.post(body, Deadline.after(self._run.clock, self._run.options.timeout))
            self._run.out.detail(f"forwarded {_named(record)}: HTTP {status}")
        if self._words is not None:
            self._execute(self._words, record)

    def close(self) -> None:
        """Close the connection to the receiver."""
        if self._forwarder is not None:
            self._forwarder.close()

    def _execute(self, words: Sequence[str], record: Record) -> None:
        """Run the command and wait for its end. It ends with guestctl, if guestctl is stopped."""
        environ = {**self._environ(), **_variables(record, self._conversation)}
        text = record["text"] + "\n" if record["kind"] == "message" else ""
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                # Our own stdout has the records only.
                stdout=_descriptor(self._run.world.stderr),
                stderr=_descriptor(self._run.world.stderr),
                cwd=self._run.world.cwd,
                env=environ,
            )
        except OSError as error:
            self._run.out.warning(f"--exec: {words[0]} did not start: {error.strerror or error}")
            return
        try:
            with INTERRUPTS.allowed():
                process.communicate(text.encode("utf-8", "backslashreplace"))
        finally:
            _end(process)
        if process.returncode:
            code = process.returncode
            ended = f"was ended by signal {-code}" if code < 0 else f"exited {code}"
            self._run.out.warning(f"--exec: {words[0]} {ended} ({_named(record)})")

    @property
    def _conversation(self) -> str | None:
        with suppress(Failure):  # a reader of a relay needs no session
            return self._run.client.session().ids.get("conversation")
        return None

    def _environ(self) -> dict[str, str]:
        """Return our environment, with the profile and the session of this command, and without the secret.

        A guestctl that the command starts then works on the same session.
        """
        from guestctl.config.profile_keys import variable

        run = self._run
        own = {variable(key): value for key, value in run.options.overrides.items()}
        with suppress(Failure):  # a reader of a relay needs neither
            own |= {"GUESTCTL_PROFILE": run.resolved.profile.name, "GUESTCTL_SESSION": run.client.session_name}
        if run.options.profiles is not None:
            own["GUESTCTL_PROFILES"] = run.options.profiles
        return {name: value for name, value in run.world.environ.items() if name not in _SECRETS} | own


def sender(record: Record) -> str | None:
    """Return the role of a record's sender; None without a sender, or where the API does not name it."""
    given = record.get("from")
    role = given["role"] if isinstance(given, Mapping) else None
    return "guest" if role is None and record.get("direction") == "inbound" else role


def comes_from(record: Record, roles: frozenset[str]) -> bool:
    """Return whether `--from` with these roles selects the record.

    It selects among records with a sender. One that the API does not name may be a bot or an agent.
    """
    if "from" not in record:
        return True
    role = sender(record)
    return bool(roles & {"bot", "agent"}) if role is None else role in roles


def roles(text: str | None) -> frozenset[str] | None:
    """Return the roles that `--from` names, None without the option. Raises UsageError."""
    if text is None:
        return None
    found = frozenset(word.strip() for word in text.split(",") if word.strip())
    unknown = sorted(found - set(ROLES))
    if unknown or not found:
        what = f'no sender "{", ".join(unknown)}"' if unknown else "no sender named"
        raise UsageError(f"--from: {what}", hint=f"available senders: {', '.join(ROLES)}")
    return found


def _words(run: Invocation, command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        message = f"--exec: cannot split the command into words: {str(error).lower()}"
        raise UsageError(message, hint="close each quote; no shell reads the command") from error
    if not words:
        raise UsageError("--exec: no command", hint='name a program: --exec "./answer.sh"')
    environ = run.world.environ
    if shutil.which(words[0], path=environ.get("PATH")) is None:
        hint = "no shell reads the command; for shell syntax: --exec \"sh -c '…'\""
        raise UsageError(f'--exec: no program "{words[0]}"', hint=hint)
    return words


def _forwarder(run: Invocation, url: str) -> Any:
    from guestctl.engine.forwarding import Forwarder, check_address
    from guestctl.engine.retry import RetryPolicy
    from guestctl.transport.connector import USER_AGENT
    from guestctl.transport.http import Http
    from guestctl.transport.network import Network

    check_address("--forward-to", url)
    secret = run.world.environ.get("GUESTCTL_FORWARD_SECRET")
    if not secret:
        raise UsageError(
            "--forward-to: GUESTCTL_FORWARD_SECRET is not set",
            hint="set it to the secret that the receiver checks `Guestctl-Signature` with",
        )
    run.redactor.add(secret)
    client = run.client
    # The profile's certificate authorities and its permission for cleartext are those of the service.
    network = Network(ca=None, environ=run.world.environ)
    policy = RetryPolicy(client.dialect, run.clock, client.random, run.out.notice, lock_patience=0.0)
    return Forwarder(url, Secret(secret), Http(network, run.clock, user_agent=USER_AGENT), run.clock, policy)


def _variables(record: Record, conversation: str | None) -> dict[str, str]:
    """Return the variables that describe a record. The record's text is not among them."""
    values = {
        "GUESTCTL_RECORD_KIND": record["kind"],
        "GUESTCTL_RECORD_ID": record.get("id"),
        "GUESTCTL_RECORD_KEY": record.get("key"),
        "GUESTCTL_RECORD_ROLE": sender(record),
        "GUESTCTL_RECORD_CONVERSATION": conversation,
    }
    # A variable cannot contain a zero byte or half of a surrogate pair, which an id of the service might.
    return {name: (value or "").replace("\0", "").encode("utf-8", "replace").decode() for name, value in values.items()}


def _named(record: Record) -> str:
    return f"{record['kind']} {record['id']}" if record.get("id") else str(record["kind"])


def _descriptor(stream: IO[Any]) -> int:
    try:
        return stream.fileno()
    except (OSError, ValueError, io.UnsupportedOperation):
        return subprocess.DEVNULL


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that is still running, because guestctl was interrupted."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
