"""Faults on demand: what a spec means, and which fault is due now.

Knows: the grammar of fault specs (contract.md §7) and counting. Must not know: sockets, HTTP, any
dialect; it says what shall go wrong, the server does it. Time comes from the clock handed in.

A spec is `kind[:key=value,...]`. Keys every kind takes:

    after=N   fire first before the Nth is delivered (N from 1); without it, at the first (or, with
              `every`, at the Nth of `every`)
    every=N   then at each Nth only
    times=N   fire N times in all; 1 with `after`, else unlimited
    on=WHAT   count and hit only what belongs to create, send, history, socket, refresh, typing or upload

Counting starts when the fault is armed and runs over the whole sandbox, whichever session or socket
is served. Frames (to guests), requests (HTTP, of guests) and upgrades are counted apart; admin
traffic, CORS preflights and the public deployment configuration are not counted.

Frames; the message concerned is stored whatever happens to its frame:

    drop:code=1006     close the socket instead of sending: 1006 breaks TCP without a close frame, 1005
                       closes without a status, any other code is sent in a close frame
    delay:ms=200       send later; later frames of the socket wait behind it, so order stays
    duplicate          send twice
    swap               send after the socket's next frame, or alone when none follows soon
    silence:for=5s     send nothing to anybody, pongs included, until the window has passed; what was
                       held follows in order (a network that stalls: TCP loses nothing in mid-stream)
    truncate           send the first half of the text
    garbage            send something that is not JSON

Requests, refused before anything is done:

    http:status=503    answer with this status
    unauthorized       answer 401
    conflict:for=2s    answer 409 until the window has passed
    ratelimit:retry_after=1   answer 429 with Retry-After, in seconds, or `date` for the HTTP-date form

Others:

    refuse:status=403  refuse the upgrade with this status
    lag:ms=500         history omits messages younger than this (counts history requests)

`delay` hits requests too (their answer is late). `silence`, `truncate` and `garbage` with an `on`
other than `socket` hit the answers to such requests too. The four refusals with an `on` hit such
actions too when they come over a socket, refused in that dialect's own frame. Each of these streams
has its own count and its own `times`.

A window (`conflict`, `silence`) opens at the first firing and hits everything that matches until its
end; `times` counts windows and is 1 unless given. Of several faults due for one request the refusals
come first, then damage, then delay; one that had to stand back fires at its next chance. For a frame
all that are due are returned, in the order they were armed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from email.utils import formatdate
from math import ceil
from typing import Any

from guestctl.clock import Clock

ON = ("create", "send", "history", "socket", "refresh", "typing", "upload")
_COMMON = ("after", "every", "times", "on")
_REFUSALS = ("http", "unauthorized", "conflict", "ratelimit")
_DAMAGE = ("silence", "truncate", "garbage")
_WINDOWS = ("conflict", "silence")
_ORDER = (*_REFUSALS, *_DAMAGE, "delay")
_LONGEST = 86_400.0
_MOST = 1_000_000_000


class FaultError(ValueError):
    """A spec that cannot be understood: what is wrong, what would be right, in one line."""


@dataclass(frozen=True)
class Fault:
    """One parsed spec. As an answer of `Faults`, `seconds` is the time still to wait."""

    spec: str
    kind: str
    after: int | None = None
    every: int | None = None
    times: int | None = None
    on: str | None = None
    code: int = 1006  # drop
    status: int = 0  # refuse, http and the refusals
    seconds: float = 0.0  # delay, lag; of a window: its length
    retry_after: int | None = None  # ratelimit; None: as HTTP-date

    def retry_after_header(self, now: float) -> str:
        """The Retry-After value; `now` is epoch seconds. A date lies at least one whole second ahead."""
        return str(self.retry_after) if self.retry_after is not None else formatdate(ceil(now) + 1, usegmt=True)


def _count(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", value) or not 1 <= int(value) <= _MOST:
        raise ValueError("a whole number from 1")
    return int(value)


def _on(value: str) -> str:
    if value not in ON:
        raise ValueError(f"one of {', '.join(ON)}{_guess(value, ON)}")
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
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|)", value)
    if found is not None:
        seconds = float(found[1]) * {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}[found[2]]
        if 0 < seconds <= _LONGEST:
            return seconds
    raise ValueError("a time such as 2s, 500ms or 1m, at most a day")


def _retry_after(value: str) -> int | None:
    if value == "date":
        return None
    if not re.fullmatch(r"[0-9]{1,5}", value) or int(value) > _LONGEST:
        raise ValueError("whole seconds, or `date` for the HTTP-date form")
    return int(value)


#: kind -> its own keys (key -> field of Fault, reader) and the defaults of those fields
_KINDS: dict[str, tuple[dict[str, tuple[str, Callable[[str], Any]]], dict[str, Any]]] = {
    "drop": ({"code": ("code", _between(1, 65535))}, {}),
    "refuse": ({"status": ("status", _between(200, 599))}, {"status": 403}),
    "http": ({"status": ("status", _between(300, 599))}, {"status": 503}),
    "unauthorized": ({}, {"status": 401}),
    "conflict": ({"for": ("seconds", _duration)}, {"status": 409, "seconds": 2.0}),
    "ratelimit": ({"retry_after": ("retry_after", _retry_after)}, {"status": 429, "retry_after": 1}),
    "delay": ({"ms": ("seconds", _milliseconds)}, {"seconds": 0.2}),
    "duplicate": ({}, {}),
    "swap": ({}, {}),
    "silence": ({"for": ("seconds", _duration)}, {"seconds": 5.0}),
    "truncate": ({}, {}),
    "garbage": ({}, {}),
    "lag": ({"ms": ("seconds", _milliseconds)}, {"seconds": 0.5}),
}
KINDS = tuple(_KINDS)
_COMMON_READERS: dict[str, Callable[[str], Any]] = {"after": _count, "every": _count, "times": _count, "on": _on}


def parse(spec: str) -> Fault:
    """A spec as contract.md §7 writes it. Raises FaultError and nothing else."""
    shown = repr(spec if len(spec) <= 80 else spec[:77] + "...")
    kind, colon, rest = spec.strip().partition(":")
    if kind not in _KINDS:
        raise FaultError(f"fault {shown}: unknown kind; kinds are {', '.join(KINDS)}{_guess(kind, KINDS)}")
    own, defaults = _KINDS[kind]
    keys = (*own, *_COMMON)
    values: dict[str, Any] = dict(defaults)
    given: set[str] = set()
    for part in rest.split(",") if colon else ():
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if key not in keys:
            raise FaultError(f"fault {shown}: {kind} has no key {key!r}; keys are {', '.join(keys)}{_guess(key, keys)}")
        if not equals or not value:
            raise FaultError(f"fault {shown}: {key} has no value; write {key}=VALUE")
        if key in given:
            raise FaultError(f"fault {shown}: {key} is given twice")
        given.add(key)
        name, read = own[key] if key in own else (key, _COMMON_READERS[key])
        try:
            values[name] = read(value)
        except ValueError as error:
            raise FaultError(f"fault {shown}: {key}={value} is not {error}") from None
    fault = Fault(spec=spec.strip(), kind=kind, **values)
    _refuse_pointless(fault, shown)
    if fault.times is None and (fault.after is not None or kind in _WINDOWS):
        return replace(fault, times=1)
    return fault


def _refuse_pointless(fault: Fault, shown: str) -> None:
    """An `on` under which the fault could never fire is an error, not a fault that never comes."""
    if fault.on is None:
        return
    if fault.kind == "lag" and fault.on != "history":
        raise FaultError(f"fault {shown}: lag concerns history only; drop on={fault.on}")
    if fault.kind == "refuse" and fault.on != "socket":
        raise FaultError(f"fault {shown}: refuse concerns upgrades only; drop on={fault.on}, or use http")
    if fault.kind in _REFUSALS and fault.on == "socket":
        raise FaultError(f"fault {shown}: {fault.kind} concerns requests; use refuse for upgrades, drop for sockets")


def _guess(word: str, choices: Sequence[str]) -> str:
    near = get_close_matches(word.lower(), choices, 1)
    return f"; did you mean {near[0]}?" if near else ""


@dataclass
class _Tally:
    """How often one fault was asked about, and fired, in one stream."""

    seen: int = 0
    fired: int = 0
    open_until: float | None = None


@dataclass
class _Armed:
    fault: Fault
    tallies: dict[str, _Tally] = field(default_factory=dict)

    def count(self, stream: str, now: float) -> bool:
        """Counts one more; True when the fault is due for it."""
        fault = self.fault
        tally = self.tallies.setdefault(stream, _Tally())
        tally.seen += 1
        if tally.open_until is not None and now < tally.open_until:
            return True
        if fault.times is not None and tally.fired >= fault.times:
            return False
        first = fault.after or fault.every or 1
        return tally.seen >= first and (tally.seen - first) % (fault.every or 1) == 0

    def fire(self, stream: str, now: float) -> Fault:
        """The fault as it strikes now."""
        fault, tally = self.fault, self.tallies[stream]
        if fault.kind not in _WINDOWS:
            tally.fired += 1
            return fault
        if tally.open_until is None or now >= tally.open_until:
            tally.open_until = now + fault.seconds
            tally.fired += 1
        return replace(fault, seconds=tally.open_until - now)


class Faults:
    """The armed faults. Ask each question exactly once per thing that happens: asking counts."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._armed: tuple[_Armed, ...] = ()

    def add(self, spec: str) -> Fault:
        """Arms one more fault. Raises FaultError."""
        fault = parse(spec)
        self._armed = (*self._armed, _Armed(fault))
        return fault

    def clear(self) -> None:
        """Disarms all, open windows included."""
        self._armed = ()

    def http(self, route: str | None) -> Fault | None:
        """What befalls this guest HTTP request: a refusal, damage to its answer, a delay, or nothing.

        `route` is one of `ON`, or None for a request that belongs to none of them.
        """
        return self._worst("request", route, _ORDER, self._hits_requests)

    def action(self, route: str | None) -> Fault | None:
        """What refuses this action a guest sent over a socket; only faults that name it with `on`."""
        return self._worst("action", route, _REFUSALS, lambda fault: fault.kind in _REFUSALS and fault.on is not None)

    def upgrade(self) -> Fault | None:
        """What refuses this upgrade."""
        return self._worst("upgrade", "socket", ("refuse",), lambda fault: fault.kind == "refuse")

    def frame(self, route: str | None) -> Sequence[Fault]:
        """All that befalls this frame, about to be sent to a guest.

        `route` is the action it answers, None for a push; every frame also belongs to `socket`.
        """
        if not self._armed:
            return ()
        now = self._clock.monotonic()
        return [
            armed.fire("frame", now)
            for armed in self._armed
            if self._hits_frames(armed.fault)
            and armed.fault.on in (None, "socket", route)
            and armed.count("frame", now)
        ]

    def lag(self) -> float:
        """Seconds by which this history request is behind; asked beside `http("history")`."""
        now = self._clock.monotonic()
        due = [armed for armed in self._armed if armed.fault.kind == "lag" and armed.count("request", now)]
        return max((armed.fire("request", now).seconds for armed in due), default=0.0)

    def silence(self) -> float:
        """Seconds for which nothing, pongs included, may be sent: of an open window; asking does not count."""
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
        """The armed specs, in order."""
        return tuple(armed.fault.spec for armed in self._armed)

    def _worst(
        self, stream: str, route: str | None, order: Sequence[str], hits: Callable[[Fault], bool]
    ) -> Fault | None:
        if not self._armed:
            return None
        now = self._clock.monotonic()
        due = [
            armed
            for armed in self._armed
            if hits(armed.fault) and armed.fault.on in (None, route) and armed.count(stream, now)
        ]
        return min(due, key=lambda armed: order.index(armed.fault.kind)).fire(stream, now) if due else None

    @staticmethod
    def _hits_requests(fault: Fault) -> bool:
        if fault.kind in _REFUSALS:
            return True
        if fault.kind == "delay":
            return fault.on != "socket"
        return fault.kind in _DAMAGE and fault.on not in (None, "socket")

    @staticmethod
    def _hits_frames(fault: Fault) -> bool:
        return fault.kind not in _REFUSALS and fault.kind not in ("refuse", "lag")
