"""The front door of these tests: argv in; exit code, stdout and stderr out; and the room behind it.

Knows: how to run guestctl in this process and what the sandbox's admin endpoint can do. Must not know:
any API's wire. Nothing here sleeps: `Hurried` time passes at once, and what a test wants to happen
while a command runs happens when the command has printed the line it names.
"""

from __future__ import annotations

import io
import json
import threading
import time
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


class Hurried:
    """The machine's clock, but a sleep is over at once: the time it would have taken is added instead.

    Client and sandbox share one, so that locks, lives of tokens and waits agree.
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
        time.sleep(0)  # whoever holds what is waited for may go on

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._ahead += seconds


class _Tapped(io.BytesIO):
    """Keeps what is written, and tells of each complete line."""

    def __init__(self, on_record: OnRecord) -> None:
        super().__init__()
        self._tell = on_record
        self._rest = b""
        #: What the callback raised: the test's own failure, never guestctl's.
        self.failure: BaseException | None = None

    def write(self, data: Any) -> int:
        written = super().write(data)
        *lines, self._rest = (self._rest + bytes(data)).split(b"\n")
        for line in lines:
            try:
                self._tell(json.loads(line) if line.startswith(b"{") else {"line": line.decode()})
            except Exception as problem:
                self.failure = self.failure or problem
        return written


class _Tap(Stream):
    """A stdout that tells of each record as it is printed."""

    def __init__(self, on_record: OnRecord) -> None:
        self.tapped = _Tapped(on_record)
        self.kept: io.BytesIO = self.tapped
        self._terminal = False
        io.TextIOWrapper.__init__(self, self.kept, encoding="utf-8")


@dataclass(frozen=True)
class Guest:
    """`guest("send", "hi")` runs guestctl in this process, for one API on one sandbox."""

    api: str
    environ: Mapping[str, str]
    cwd: Path
    clock: Hurried

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

    def __call__(self, *argv: str, stdin: str = "", on: OnRecord | None = None, **more: Any) -> Result:
        """`on` hears of each record as soon as it is printed, in this thread; of what is no JSON, of its `line`."""
        out = Stream() if on is None else _Tap(on)
        err = Stream()
        world = Environment(Stream(stdin.encode()), out, err, {**self.environ, **more}, self.cwd, self.clock, TIMINGS)
        result = Result(int(run(argv, world)), out.text(), err.text())
        if isinstance(out, _Tap) and out.tapped.failure is not None:
            raise out.tapped.failure
        return result

    def ok(self, *argv: str, **more: Any) -> Result:
        """A command that must succeed."""
        result = self(*argv, **more)
        assert result.code == 0, (argv, result.code, result.out, result.err)
        return result

    def traced(self, *argv: str, **more: Any) -> tuple[Result, list[Record]]:
        """A command and what it exchanged with the service."""
        file = self.cwd / "trace"
        file.unlink(missing_ok=True)
        result = self(*argv, "--trace", str(file), **more)
        return result, [json.loads(line) for line in file.read_text().splitlines()]

    def token(self) -> str:
        return str(self.ok("session", "show", "--show-token").record["token"])


class Room:
    """The sandbox from behind: what it holds, and what befalls it."""

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
        """The only one."""
        (found,) = self.sessions()
        return found

    @property
    def requests(self) -> dict[str, int]:
        """All requests of guests, by route."""
        return dict(self._ask("GET", "/sessions")["requests"])

    def texts(self, direction: str | None = None) -> list[str]:
        """What the only session holds."""
        return [m["text"] for m in self.session["messages"] if direction in (None, m["direction"])]

    def say(self, *texts: str) -> None:
        """The agent says many things at once, to the only session, of which nobody is told."""

        def each() -> None:
            (conversation,) = self.sandbox.service.conversations.values()
            for text in texts:
                self.sandbox.service.send(conversation, text, notify=False)

        self.sandbox.call(each)


def able(ability: Ability) -> list[str]:
    """The APIs that declare it."""
    from guestctl.dialects import NAMES

    return [name for name in NAMES if ability in dialect_class(name).abilities]


def check_lacking(result: Result, ability: Ability) -> None:
    """A whole command the API lacks: exit 12, naming those that have it."""
    assert result.code == 12, (result.out, result.err)
    assert result.error["code"] == "api.unsupported"
    named = result.error["message"].partition("these have it: ")[2].split(", ")
    assert named == able(ability)


def check(result: Result, exit_code: int, code: str, *words: str) -> Record:
    """A failure: its exit code, its stable code, words of its message. Returns the error object."""
    assert result.code == exit_code, (result.code, result.out, result.err)
    # In a stream, remarks have gone out with the data before it.
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
    **more: str,
) -> Result:
    """`listen`, connection events included: the nth of `lives` happens when the stream is live for the nth
    time, what `said` has for a text when that has been printed."""
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
