"""Faults on demand: parses fault specs, and decides which fault is due now.

Knows: the grammar of fault specs (contract.md §7) and counting. Must not know: sockets, HTTP, any API. It decides what
goes wrong; the server carries it out. The clock is passed in.

A spec is `kind[:key=value,...]`. Keys of every kind:

    after=N   fire for the first time at the Nth frame or request (from 1); default: the first, or with
              `every` the Nth of `every`
    every=N   then fire at each Nth only
    times=N   fire N times in all; default: once with `after`, else without limit
    on=WHAT   count and affect only create, send, history, socket, refresh, typing or upload

Counting starts when the fault is armed and covers the whole sandbox, all sessions and sockets. Frames to guests, frames
from guests, HTTP requests of guests and upgrades are counted separately, and `times` applies to each. Admin requests,
CORS preflights and the public deployment configuration are not counted.

`KINDS` has a row for every kind: its syntax, its effect and what it affects. A message is stored even if a fault
affects its frame. A fault on an action is answered with a refusal frame of the API.

A window opens when the fault fires and affects everything that matches until it ends. `times` counts windows; the
default is 1. If several faults are due for one request, the one with the lowest rank fires; the others fire at the
next chance. For a frame, all due faults are returned in the order in which they were armed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from math import ceil
from typing import Any, Literal, TypeAlias

from guestctl.core.clock import Clock
from guestctl.core.humanize import parse_duration
from guestctl.core.suggestions import did_you_mean

ON = ("create", "send", "history", "socket", "refresh", "typing", "upload")
_LONGEST = 86_400.0
_MOST = 1_000_000_000


class FaultError(ValueError):
    """An invalid spec. The text is one line: what is wrong, and what would be right."""


@dataclass(frozen=True)
class Fault:
    """One parsed spec. When returned by `Faults`, `seconds` is the time that is left."""

    spec: str
    kind: str
    after: int | None = None
    every: int | None = None
    times: int | None = None
    on: str | None = None
    code: int = 1006  # drop
    status: int = 0  # refuse, http and the other refusals
    seconds: float = 0.0  # delay, lag, late; for a window: its length
    retry_after: int | None = None  # ratelimit; None: as HTTP-date

    @property
    def message(self) -> str:
        """The text of the answer that this fault causes."""
        return f"Fault on demand: {self.spec}"

    def retry_after_header(self, now: float) -> str:
        """Return the Retry-After value; `now` is epoch seconds. A date is at least one whole second ahead."""
        return str(self.retry_after) if self.retry_after is not None else formatdate(ceil(now) + 1, usegmt=True)


def _count(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", value) or not 1 <= int(value) <= _MOST:
        raise ValueError("a whole number from 1")
    return int(value)


def _on(value: str) -> str:
    if value not in ON:
        raise ValueError(f"one of {', '.join(ON)}{did_you_mean(value, ON)}")
    return value


def _between(low: int, high: int) -> Callable[[str], int]:
    def read(value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,5}", value) or not low <= int(value) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(value)

    return read


def _milliseconds(value: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", value) or float(value) / 1000 > _LONGEST:
        raise ValueError("milliseconds, at most a day")
    return float(value) / 1000


def _duration(value: str) -> float:
    try:
        seconds = parse_duration(value)
    except ValueError:
        seconds = 0.0
    if 0 < seconds <= _LONGEST:
        return seconds
    raise ValueError("a time such as 2s, 500ms or 1m, at most a day")


def _retry_after(value: str) -> int | None:
    if value == "date":
        return None
    if not re.fullmatch(r"[0-9]{1,5}", value) or int(value) > _LONGEST:
        raise ValueError("whole seconds, or `date` for the HTTP-date form")
    return int(value)


#: What is counted separately: frames to guests, their requests, actions on a socket, upgrades, reads of history, and
#: frames from guests.
Stream: TypeAlias = Literal["frame", "request", "action", "upgrade", "history", "received"]


@dataclass(frozen=True)
class Kind:
    """Everything that is particular to one kind of fault."""

    written: str  # the syntax of its own keys, with their defaults
    does: str
    hits: tuple[Stream, ...]
    named: tuple[Stream, ...] = ()  # affected only if the fault names the action with `on`
    keys: Mapping[str, tuple[str, Callable[[str], Any]]] = field(default_factory=dict)  # -> field of Fault, reader
    defaults: Mapping[str, Any] = field(default_factory=dict)
    rank: int = 0  # if several are due for a request: the lowest fires, then the first in the table
    window: bool = False
    on: tuple[str, ...] = ON  # with any other it would never fire
    elsewhere: str = ""  # what to use instead


_REQUESTS = tuple(what for what in ON if what != "socket")
_NO_REQUEST = "{kind} concerns requests; use refuse for upgrades, drop for sockets"
_FRAMES = tuple(what for what in ON if what != "history")
_NO_FRAME = "{kind} concerns frames and history comes over HTTP; use http, delay, lag, truncate or garbage"

KINDS: dict[str, Kind] = {
    "drop": Kind(
        "drop:code=1006",  # 1005: a close frame without a status; any other code is sent in a close frame
        "close the socket instead of sending; 1006 breaks it without a close frame",
        hits=("frame",),
        keys={"code": ("code", _between(1, 65535))},
        on=_FRAMES,
        elsewhere=_NO_FRAME,
    ),
    "refuse": Kind(
        "refuse:status=403",
        "refuse the socket's upgrade",
        hits=("upgrade",),
        keys={"status": ("status", _between(200, 599))},
        defaults={"status": 403},
        on=("socket",),
        elsewhere="{kind} concerns upgrades only; drop on={on}, or use http",
    ),
    "http": Kind(
        "http:status=503",
        "answer a request with this status",
        hits=("request", "action"),
        named=("action",),
        keys={"status": ("status", _between(300, 599))},
        defaults={"status": 503},
        on=_REQUESTS,
        elsewhere=_NO_REQUEST,
    ),
    "unauthorized": Kind(
        "unauthorized",
        "answer a request with 401",
        hits=("request", "action"),
        named=("action",),
        defaults={"status": 401},
        on=_REQUESTS,
        elsewhere=_NO_REQUEST,
    ),
    "conflict": Kind(
        "conflict:for=2s",
        "answer requests with 409 for a while",
        hits=("request", "action"),
        named=("action",),
        keys={"for": ("seconds", _duration)},
        defaults={"status": 409, "seconds": 2.0},
        window=True,
        on=_REQUESTS,
        elsewhere=_NO_REQUEST,
    ),
    "ratelimit": Kind(
        "ratelimit:retry_after=1",
        "answer 429 with Retry-After; `retry_after=date` sends a date",
        hits=("request", "action"),
        named=("action",),
        keys={"retry_after": ("retry_after", _retry_after)},
        defaults={"status": 429, "retry_after": 1},
        on=_REQUESTS,
        elsewhere=_NO_REQUEST,
    ),
    "delay": Kind(
        "delay:ms=200",  # later frames of the socket wait, too
        "send a frame or an answer later, in the same order",
        hits=("frame", "request"),
        keys={"ms": ("seconds", _milliseconds)},
        defaults={"seconds": 0.2},
        rank=2,
    ),
    "duplicate": Kind("duplicate", "send a frame twice", hits=("frame",), on=_FRAMES, elsewhere=_NO_FRAME),
    "swap": Kind(
        "swap",  # or alone if no frame follows soon
        "send a frame after the next one",
        hits=("frame",),
        on=_FRAMES,
        elsewhere=_NO_FRAME,
    ),
    "silence": Kind(
        "silence:for=5s",  # a stalled network: TCP loses nothing in mid-stream, and the delayed frames follow in order
        "send nothing for a while, pongs included",
        hits=("frame", "request"),
        named=("request",),
        keys={"for": ("seconds", _duration)},
        defaults={"seconds": 5.0},
        rank=1,
        window=True,
    ),
    "truncate": Kind("truncate", "send half of a frame", hits=("frame", "request"), named=("request",), rank=1),
    "garbage": Kind("garbage", "send a frame that is not JSON", hits=("frame", "request"), named=("request",), rank=1),
    "lag": Kind(
        "lag:ms=500",
        "leave newer messages out of history",
        hits=("history",),
        keys={"ms": ("seconds", _milliseconds)},
        defaults={"seconds": 0.5},
        on=("history",),
        elsewhere="{kind} concerns history only; drop on={on}",
    ),
    "late": Kind(
        "late:ms=2000",  # it happens even if the guest's connection has broken in the meantime
        "process a guest's frame or request later; later ones may overtake it",
        hits=("received", "request"),
        keys={"ms": ("seconds", _milliseconds)},
        defaults={"seconds": 2.0},
        rank=2,
        on=_REQUESTS,
        elsewhere="{kind} concerns requests and frames of a guest; name the action, or use refuse for upgrades",
    ),
}
_ORDER = {kind: number for number, kind in enumerate(KINDS)}
_COMMON: dict[str, Callable[[str], Any]] = {"after": _count, "every": _count, "times": _count, "on": _on}


def parse(spec: str) -> Fault:
    """Parse a spec (contract.md §7). Raises FaultError."""
    shown = _quoted(spec if len(spec) <= 80 else spec[:77] + "...")
    kind, colon, rest = spec.strip().partition(":")
    if kind not in KINDS:
        raise FaultError(f"fault {shown}: unknown kind; kinds are {', '.join(KINDS)}{did_you_mean(kind, tuple(KINDS))}")
    row = KINDS[kind]
    keys = (*row.keys, *_COMMON)
    values: dict[str, Any] = dict(row.defaults)
    given: set[str] = set()
    for part in rest.split(",") if colon else ():
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if key not in keys:
            raise FaultError(
                f"fault {shown}: {kind} has no key {_quoted(key)}; keys are {', '.join(keys)}{did_you_mean(key, keys)}"
            )
        if not equals or not value:
            raise FaultError(f"fault {shown}: {key} has no value; write {key}=VALUE")
        if key in given:
            raise FaultError(f"fault {shown}: {key} is given twice")
        given.add(key)
        name, read = row.keys[key] if key in row.keys else (key, _COMMON[key])
        try:
            values[name] = read(value)
        except ValueError as error:
            raise FaultError(f"fault {shown}: {key}={value} is not {error}") from None
    fault = Fault(spec=spec.strip(), kind=kind, **values)
    if fault.on is not None and fault.on not in row.on:
        raise FaultError(f"fault {shown}: {row.elsewhere.format(kind=kind, on=fault.on)}")
    if fault.times is None and (fault.after is not None or row.window):
        return replace(fault, times=1)
    return fault


def kinds_report() -> list[dict[str, Any]]:
    """Return `kind`, `example`, `keys` (its own and the common ones), `on` and `about` of every kind."""
    return [
        {
            "kind": kind,
            "example": row.written,
            "keys": [*row.keys, *_COMMON],
            "on": list(row.on),
            "about": row.does,
        }
        for kind, row in KINDS.items()
    ]


def _quoted(text: str) -> str:
    """Return text in double quotes, with escapes for what a terminal must not receive."""
    return '"' + repr(text)[1:-1] + '"'


@dataclass
class _Tally:
    """How often one fault was counted, and fired, in one stream."""

    seen: int = 0
    fired: int = 0
    open_until: float | None = None


@dataclass
class _Armed:
    fault: Fault
    tallies: dict[str, _Tally] = field(default_factory=dict)

    def count(self, stream: str, now: float) -> bool:
        """Count one more and return whether the fault is due for it."""
        fault = self.fault
        tally = self.tallies.setdefault(stream, _Tally())
        tally.seen += 1
        if tally.open_until is not None and now < tally.open_until:
            return True
        if fault.times is not None and tally.fired >= fault.times:
            return False
        first = fault.after or fault.every or 1
        return tally.seen >= first and (tally.seen - first) % (fault.every or 1) == 0

    @property
    def fired(self) -> int:
        """How often the fault has fired; a window counts once."""
        return sum(tally.fired for tally in self.tallies.values())

    @property
    def times_left(self) -> int | None:
        """How often it can still fire, None without a limit. Of several streams, the one with the most left counts."""
        if self.fault.times is None:
            return None
        return max((self.fault.times - tally.fired for tally in self.tallies.values()), default=self.fault.times)

    def fire(self, stream: str, now: float) -> Fault:
        """Return the fault as it fires now."""
        fault, tally = self.fault, self.tallies[stream]
        if not KINDS[fault.kind].window:
            tally.fired += 1
            return fault
        if tally.open_until is None or now >= tally.open_until:
            tally.open_until = now + fault.seconds
            tally.fired += 1
        return replace(fault, seconds=tally.open_until - now)


class Faults:
    """The armed faults. Ask once per frame or request: each question counts."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._armed: tuple[_Armed, ...] = ()

    def add(self, spec: str) -> Fault:
        """Arm one more fault. Raises FaultError."""
        fault = parse(spec)
        self._armed = (*self._armed, _Armed(fault))
        return fault

    def add_all(self, specs: Sequence[str], check: Callable[[str], Fault] = parse) -> None:
        """Arm all of these, or none if `check` raises FaultError for one."""
        for spec in specs:
            check(spec)
        for spec in specs:
            self.add(spec)

    def remove(self, spec: str) -> bool:
        """Disarm the first fault with this spec and close its window. Return whether there was one."""
        for position, armed in enumerate(self._armed):
            if armed.fault.spec == spec.strip():
                self._armed = (*self._armed[:position], *self._armed[position + 1 :])
                return True
        return False

    def clear(self) -> None:
        """Disarm all faults and close their windows."""
        self._armed = ()

    def report(self) -> list[dict[str, Any]]:
        """Return `spec`, `kind`, `times_left` (None: no limit) and `fired` of each armed fault, in order."""
        return [
            {"spec": one.fault.spec, "kind": one.fault.kind, "times_left": one.times_left, "fired": one.fired}
            for one in self._armed
        ]

    def http(self, route: str | None) -> Fault | None:
        """Return the fault on this guest HTTP request: a refusal, a damaged reply, a delay, or None.

        `route` is one of `ON`, or None for a request that belongs to none of them.
        """
        return self._worst("request", route)

    def action(self, route: str | None) -> Fault | None:
        """Return the fault that refuses this action on a socket. Only faults that name it with `on` apply."""
        return self._worst("action", route)

    def upgrade(self) -> Fault | None:
        """Return the fault that refuses this upgrade."""
        return self._worst("upgrade", "socket")

    def frame(self, route: str | None) -> Sequence[Fault]:
        """Return all faults on this frame, which is about to be sent to a guest.

        `route` is the action that it answers, None for a push. Every frame belongs to `socket`, too.
        """
        if not self._armed:
            return ()
        now = self._clock.monotonic()
        return [armed.fire("frame", now) for armed in self._due("frame", now, "socket", route)]

    def late(self, route: str | None) -> float:
        """Return by how many seconds the processing of this frame of a guest is postponed."""
        fault = self._worst("received", route)
        return fault.seconds if fault is not None else 0.0

    def lag(self) -> float:
        """Return how many seconds this history request is behind. Call it in addition to `http("history")`."""
        now = self._clock.monotonic()
        due = self._due("history", now, "history")
        return max((armed.fire("history", now).seconds for armed in due), default=0.0)

    def silence(self) -> float:
        """Return for how many seconds nothing, pongs included, may be sent. It does not count."""
        if not self._armed:
            return 0.0
        now = self._clock.monotonic()
        ends = [
            tally.open_until
            for armed in self._armed
            if armed.fault.kind == "silence" and (tally := armed.tallies.get("frame")) is not None
            if tally.open_until is not None
        ]
        return max((end - now for end in ends if end > now), default=0.0)

    def list(self) -> tuple[str, ...]:
        """Return the armed specs in order."""
        return tuple(armed.fault.spec for armed in self._armed)

    def _worst(self, stream: Stream, route: str | None) -> Fault | None:
        if not self._armed:
            return None
        now = self._clock.monotonic()
        due = self._due(stream, now, route)
        return min(due, key=_precedence).fire(stream, now) if due else None

    def _due(self, stream: Stream, now: float, *routes: str | None) -> Sequence[_Armed]:
        """Count one more item of a stream for every fault that could affect it, and return the due faults.

        `routes` are the names in `ON` to which the item belongs.
        """
        return [
            armed
            for armed in self._armed
            if _hits(armed.fault, stream) and armed.fault.on in (None, *routes) and armed.count(stream, now)
        ]


def _hits(fault: Fault, stream: Stream) -> bool:
    kind = KINDS[fault.kind]
    return stream in kind.hits and (fault.on is not None or stream not in kind.named)


def _precedence(armed: _Armed) -> tuple[int, int]:
    return KINDS[armed.fault.kind].rank, _ORDER[armed.fault.kind]
