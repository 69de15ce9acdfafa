"""Run guestctl in this process (`Guest`) and control its sandbox (`Room`).

Knows: how to run guestctl in this process and what the sandbox's admin endpoint can do. Must not know:
any API's wire format. Nothing sleeps: `InstantClock` skips every wait. An action that must happen while a
command runs is bound to a line that the command prints.
"""

from __future__ import annotations

import io
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from guestctl.cli.invocation import Environment
from guestctl.cli.main import run
from guestctl.core.timings import Timings
from guestctl.dialects import dialect_class
from guestctl.dialects.base import Dialect
from guestctl.dialects.capabilities import Ability
from guestctl.sandbox.server import Sandbox
from tests.cli.conftest import Result, Stream
from tests.sandbox.stranger import Control

Record: TypeAlias = dict[str, Any]
OnRecord: TypeAlias = Callable[[Record], object]

#: The wait on an open socket takes real time, so it is short.
TIMINGS = Timings(second_look=0.2)


class InstantClock:
    """The machine's clock, except that a sleep returns at once and its time is added.

    Client and sandbox share one, so that locks, expiry of tokens and waits agree.
    """

    def __init__(self) -> None:
        self._ahead = 0.0
        self._lock = threading.Lock()
        self.sleeps: list[float] = []

    def now(self) -> float:
        return time.time() + self._ahead

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.sleeps.append(seconds)
        self.advance(seconds)
        time.sleep(0)  # let the thread continue that this one waits for

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._ahead += seconds


class _ObservedBytes(io.BytesIO):
    """Records what is written and passes each complete line to a callback."""

    def __init__(self, on_record: OnRecord) -> None:
        super().__init__()
        self._on_record = on_record
        self._rest = b""
        #: What the callback raised: the test's own failure, never guestctl's.
        self.failure: BaseException | None = None

    def write(self, data: Any) -> int:
        written = super().write(data)
        *lines, self._rest = (self._rest + bytes(data)).split(b"\n")
        for line in lines:
            try:
                self._on_record(json.loads(line) if line.startswith(b"{") else {"line": line.decode()})
            except Exception as problem:
                self.failure = self.failure or problem
        return written


class _ObservedStream(Stream):
    """A stdout that passes each record to a callback as it is printed."""

    def __init__(self, on_record: OnRecord) -> None:
        self.observed = _ObservedBytes(on_record)
        self.kept: io.BytesIO = self.observed
        self._terminal = False
        io.TextIOWrapper.__init__(self, self.kept, encoding="utf-8")


@dataclass(frozen=True)
class Guest:
    """`guest("send", "hi")` runs guestctl in this process, for one API on one sandbox."""

    api: str
    environ: Mapping[str, str]
    cwd: Path
    clock: InstantClock

    @property
    def dialect(self) -> type[Dialect]:
        return dialect_class(self.api)

    def can(self, ability: Ability) -> bool:
        return ability in self.dialect.abilities

    @property
    def renews(self) -> str | None:
        """The kind of credential `refresh-token` renews."""
        if not self.can(Ability.REFRESH):
            return None
        return "history" if "history" in self.dialect.renewal_margins else "guest"

    def __call__(
        self, *argv: str, stdin: str | Path = "", on: OnRecord | None = None, tty: bool = False, **more: Any
    ) -> Result:
        """Run a command. `on` is called with each printed record, in this thread, or with a `line` that is no JSON.

        `stdin` is a text, or the path of a file. `tty`: stderr is a terminal.
        """
        out = Stream() if on is None else _ObservedStream(on)
        err = Stream(terminal=tty)
        given = stdin.open() if isinstance(stdin, Path) else Stream(stdin.encode())
        world = Environment(given, out, err, {**self.environ, **more}, self.cwd, self.clock, TIMINGS)
        with given:
            result = Result(int(run(argv, world)), out.text(), err.text())
        if isinstance(out, _ObservedStream) and out.observed.failure is not None:
            raise out.observed.failure
        return result

    def ok(self, *argv: str, **more: Any) -> Result:
        """Run a command that must succeed."""
        result = self(*argv, **more)
        assert result.code == 0, (argv, result.code, result.out, result.err)
        return result

    def traced(self, *argv: str, **more: Any) -> tuple[Result, list[Record]]:
        """Run a command and return its result and its trace."""
        file = self.cwd / "trace"
        file.unlink(missing_ok=True)
        result = self(*argv, "--trace", str(file), **more)
        return result, [json.loads(line) for line in file.read_text().splitlines()]

    def token(self) -> str:
        return str(self.ok("session", "show", "--show-token").record["token"])


class Room:
    """Controls the sandbox through its admin endpoint: reads its sessions and makes things happen."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._ask = Control(sandbox)

    def push(self, text: str, **more: Any) -> None:
        self._ask("POST", "/push", text=text, **more)

    def frame(self, frame: Any) -> None:
        self._ask("POST", "/push", frame=frame)

    def faults(self, *specs: str) -> None:
        self._ask("POST", "/faults", specs=specs)

    def clear(self) -> None:
        self._ask("DELETE", "/faults")

    def disconnect(self, code: int = 1006) -> None:
        self._ask("POST", "/disconnect", code=code)

    def expire(self, **more: Any) -> None:
        self._ask("POST", "/expire", **more)

    def end(self) -> None:
        self._ask("POST", "/end")

    def sessions(self) -> list[Any]:
        return self._ask.sessions()

    @property
    def session(self) -> Any:
        """The only session."""
        (found,) = self.sessions()
        return found

    @property
    def requests(self) -> Counter[str]:
        """The number of guests' requests, by route."""
        return Counter(self._ask("GET", "/sessions")["requests"])

    def texts(self, direction: str | None = None) -> list[str]:
        """Return the texts of the only session."""
        return [m["text"] for m in self.session["messages"] if direction in (None, m["direction"])]

    def say(self, *texts: str) -> None:
        """Store many messages of the agent in the only session without notifying the guest."""

        def each() -> None:
            (conversation,) = self.sandbox.service.conversations.values()
            for text in texts:
                self.sandbox.service.send(conversation, text, notify=False)

        self.sandbox.call(each)


def able(ability: Ability) -> list[str]:
    """Return the APIs that declare an ability."""
    from guestctl.dialects import NAMES

    return [name for name in NAMES if ability in dialect_class(name).abilities]


def check_lacking(result: Result, ability: Ability) -> None:
    """Check that the command is unsupported: exit code 12, with the names of the APIs that support it."""
    assert result.code == 12, (result.out, result.err)
    assert result.error["code"] == "api.unsupported"
    named = result.error["message"].partition("these have it: ")[2].split(", ")
    assert named == able(ability)


def check(result: Result, exit_code: int, code: str, *words: str) -> Record:
    """Check a failure: exit code, error code and words of its message. Return the error object."""
    assert result.code == exit_code, (result.code, result.out, result.err)
    # A stream may print notices before the error.
    error: Record = json.loads(result.err.splitlines()[-1])["error"]
    assert (error["exit"], error["code"]) == (exit_code, code), error
    assert error["hint"]
    for word in words:
        assert word in error["message"], error["message"]
    return error


def messages(result: Result) -> list[Record]:
    return [record for record in result.records if record["kind"] == "message"]


def texts(result: Result) -> list[str]:
    return [message["text"] for message in messages(result)]


def listen(
    guest: Guest,
    *argv: str,
    lives: Sequence[Callable[[], object]] = (),
    said: Mapping[str, Callable[[], object]] | None = None,
    **more: Any,
) -> Result:
    """Run `listen` with connection events.

    The nth action of `lives` runs when the stream is live for the nth time. An action of `said` runs when a
    message with its text is printed.
    """
    left = list(lives)

    def happened(record: Record) -> None:
        if record["kind"] == "connection" and record["state"] == "live" and left:
            left.pop(0)()
        elif record["kind"] == "message" and said and record["text"] in said:
            said[record["text"]]()

    kinds = "message,presence,session,gap,unknown,connection"
    result = guest("listen", "--only", kinds, "-o", "jsonl", *argv, on=happened, **more)
    assert not left, (f"the stream was not live {len(lives)} times", result)
    return result
