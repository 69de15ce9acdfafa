"""One scenario: a guest of its own, the steps one after another, and what came of it.

Knows: what each step does with a `Client`, when an expectation is met or has failed. Must not know:
YAML, other scenarios, report formats, the wire. Nothing sleeps: a step goes on with the event
that meets its condition, and waiting is listening.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from guestctl.checks import golden
from guestctl.checks.expectation import Conditions, assigned, offer
from guestctl.checks.outcomes import KEPT, Outcome, Said, Trouble, Verdict, said
from guestctl.checks.script import Scenario, Step
from guestctl.checks.timeline import Timeline, TimelineEntry
from guestctl.checks.variables import filled
from guestctl.client import Client
from guestctl.core.errors import Conflict, Failure, InDoubt, NetworkError, SessionOver
from guestctl.core.model import Connection, Event, Gap, Message, NewSession, Presence, SessionEvent
from guestctl.core.redact import Redactor
from guestctl.core.results import Sent

T = TypeVar("T")

#: Seconds a conversation that has ended is still listened to, for replies that its end overtook.
STRAGGLERS = 1.0
#: Seconds of silence after which a conversation that is being blessed counts as complete.
SETTLED = 1.0
#: Seconds, and never more than the step itself had, that a step which has failed for want of a reply is
#: listened on for: only to tell a bot that is late from one that is silent.
LATE = 2.0

_ENDS = frozenset({"read_only", "ended", "expired", "cleared", "logged_out"})


#: Codes of a session that is over though nobody ended the conversation.
_NOT_THE_END = frozenset({"session.evicted", "session.no_token", "session.none"})
_ENDED = frozenset({"conflict.read_only", "conflict.ended"})


class Stopped(Exception):
    """The run was interrupted; there is no verdict."""


class _Unmet(Exception):
    """An expectation failed. `late`: what came in the `waited` seconds after that."""

    def __init__(
        self,
        message: str,
        expected: str | None,
        came: Sequence[TimelineEntry],
        *,
        late: Sequence[TimelineEntry] = (),
        waited: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.expected = expected
        self.came = came
        self.late = late
        self.waited = waited


@dataclass
class Play:
    """One try of one scenario on a fresh client. `wait`: seconds a step may take unless it says otherwise.

    `golden`: the transcript to hold it against, None when there is none; `bless`: write one instead.
    `values` are the variables; `folder` is where files to attach are looked for.
    """

    script: str
    scenario: Scenario
    client: Client
    wait: float
    folder: Path
    values: Mapping[str, str]
    redactor: Redactor
    golden: tuple[str, ...] | None = None
    bless: bool = False
    stopping: Callable[[], bool] = lambda: False
    doing: Callable[[str], None] = lambda step: None
    timeline: Timeline = field(default_factory=Timeline)

    def __post_init__(self) -> None:
        self._clock = self.client.clock
        self._begun = self._clock.monotonic()
        self._captured: dict[str, str] = {}
        self._remarks: list[str] = []
        self._pending: dict[str, str] = {}
        self._events: Generator[Event | None, None, None] | None = None
        self._until: float | None = None
        #: When the other side ended the conversation, and what tells so; what ended our listening for good.
        self._over: float | None = None
        self._end_of_it: TimelineEntry | None = None
        self._deaf: Failure | None = None
        self._step: Step | None = None
        limit = self.scenario.timeout
        self._end = None if limit is None else self._begun + limit

    @property
    def opened(self) -> bool:
        """Whether the service let the guest in."""
        return self._events is not None

    # --- the whole ---

    def run(self) -> Outcome:
        """Play it to its end. Raises Stopped, and nothing that a service can cause."""
        try:
            trouble = self._steps_of_all()
        finally:
            if self._events is not None:
                self._events.close()
        self._learn()
        return self._outcome(trouble)

    def cut_off(self, failure: Failure) -> Outcome:
        """What there is to tell of it while it is still being played, by whoever will not wait for its end."""
        line, text = (self._step.line, self._step.text) if self._step else (self.scenario.line, "")
        return self._outcome(Trouble(failure.message, line, self.redactor.text(text), failure=failure))

    def _outcome(self, trouble: Trouble | None) -> Outcome:
        verdict: Verdict = "passed"
        if trouble is not None:
            verdict = "failed" if trouble.failure is None else "error"
        told = [said(entry, self.redactor) for entry in list(self.timeline.entries)]
        blessed = golden.lines(told, self._captured) if self.bless and verdict == "passed" else None
        return Outcome(
            script=self.script,
            name=self.scenario.name,
            line=self.scenario.line,
            tags=tuple(sorted(self.scenario.tags)),
            verdict=verdict,
            seconds=round(self._now(), 3),
            trouble=trouble,
            transcript=() if verdict == "passed" else tuple(told[-KEPT:]),
            ids=self._ids(),
            remarks=tuple(self.redactor.text(remark) for remark in self._remarks),
            blessed=blessed,
        )

    def _steps_of_all(self) -> Trouble | None:
        trouble = self._guarded(self._open)
        if trouble is not None:
            return trouble
        for step in self.scenario.steps:
            trouble = self._do(step)
            if trouble is not None:
                break
        if trouble is None and self.scenario.golden:
            self._step = None
            trouble = self._guarded(self._held_against_golden)
        for step in self.scenario.teardown if self._deaf is None else ():
            after = self._do(step)
            if after is not None and trouble is None and self._over is None:
                trouble = after
            elif after is not None:
                self._remarks.append(f"teardown, line {after.line}: {after.message}")
        return trouble

    def _open(self) -> None:
        self.client.timeout = self._bound(self.wait)
        attributes = {key: self._text(value) for key, value in self.scenario.attributes.items()}
        self.client.create(NewSession(name=self.client.session_name, attributes=attributes))
        self._learn()
        self._events = self.client.listen(just_created=True, left=self._wake)
        self._hear_from(self._bounded(self.wait))

    def _hear_from(self, until: float) -> None:
        """Be connected before anything is said, so that no reply is missed."""
        why, late = "nothing answers", False
        for event in self._events or ():
            self._take(event)
            if isinstance(event, Connection):
                if event.state == "live":
                    break
                late = late or event.state == "connecting"
                why = event.detail or why
            if self.stopping():
                raise Stopped
            if self._clock.monotonic() >= until:
                raise NetworkError(f"not connected in time: {why}")
        if late and self.client.dialect.has_socket:
            # Creating opened no socket: what was said before this one was open is only in history.
            try:
                for item in self.client.history():
                    self._take(item)
            except Failure as failure:
                self.timeline.remark(f"history cannot be read: {failure.message}", self._now())

    def _do(self, step: Step) -> Trouble | None:
        self._step = step
        self.doing(step.text)
        self.client.timeout = self._bound(step.timeout or self.wait)
        return self._guarded(lambda: _ACTIONS[step.action](self, step))

    def _guarded(self, act: Callable[[], None]) -> Trouble | None:
        """Do it; what went wrong, told as a report tells it."""
        line, text = (self._step.line, self._step.text) if self._step else (self.scenario.line, "")
        try:
            self._check_time()
            act()
        except _Unmet as unmet:
            expected = None if unmet.expected is None else self.redactor.text(unmet.expected)
            return Trouble(
                self.redactor.text(unmet.message),
                line,
                self.redactor.text(text),
                expected,
                self._last_of(unmet.came),
                late=self._last_of(unmet.late),
                waited=unmet.waited,
            )
        except Failure as failure:
            self._learn()
            failure.message = self.redactor.text(failure.message)
            failure.body = None if failure.body is None else self.redactor.text(failure.body)
            if self._step is None or not self._ended_meanwhile(failure):
                return Trouble(failure.message, line, self.redactor.text(text), failure=failure)
            return Trouble(
                "the other side had ended the conversation",
                line,
                self.redactor.text(text),
                "that the conversation goes on",
                self._last_of([entry for entry, _ in self.timeline.since_last()] + [*filter(None, [self._end_of_it])]),
            )
        return None

    def _last_of(self, entries: Sequence[TimelineEntry]) -> tuple[Said, ...]:
        return tuple(said(entry, self.redactor) for entry in entries[-20:])

    def _ended_meanwhile(self, failure: Failure) -> bool:
        """Whether a step failed because the conversation is over, however this API says it. The word of it may
        still be on its way to us, so it is listened for."""
        if not isinstance(failure, (Conflict, SessionOver, InDoubt, NetworkError)) or failure.code in _NOT_THE_END:
            return False
        until = self._bounded(STRAGGLERS)
        while self._over is None and self._pump(until):
            pass
        if self._over is None and (isinstance(failure, SessionOver) or failure.code in _ENDED):
            self._ended(f"the conversation is over: {failure.message}")
        return self._over is not None

    def _learn(self) -> None:
        """What the service has given this guest meanwhile is secret, too."""
        for secret in self.client.secrets():
            self.redactor.add(secret)

    # --- what the guest does ---

    def _say(self, step: Step) -> None:
        files = [self.folder / self._text(step.file)] if step.file is not None else []
        self._sent(self.client.send(self._text(step.message or ""), attributes=self._attributes(step), files=files))

    def _sent(self, sent: Sent) -> None:
        """It was accepted; where that goes after an end, too, a conversation goes on."""
        self._over = self._end_of_it = None
        if sent.message is not None:
            self.timeline.said(sent.message, self._now())

    def _pick(self, step: Step) -> None:
        wanted = self._text(step.message or "")

        def offered() -> Message | None:
            return next((message for message in self.timeline.offers() if offer(message, wanted)), None)

        numbered = wanted.isascii() and wanted.isdigit()
        asked = f"something to pick {f'as number {wanted}' if numbered else f'called {wanted!r}'}"
        message = self._await(offered, step, asked)
        self.timeline.expecting()
        self._sent(self.client.send(attributes=self._attributes(step), pick=[wanted.strip()], answering=message))

    def _later(self, step: Step) -> None:
        self._pending.update(self._filled(step.attributes))

    def _typing(self, step: Step) -> None:
        self.client.typing()

    def _pause(self, step: Step) -> None:
        until = self._bounded(step.seconds)
        while self._pump(until):
            pass
        self._check_time()

    def _attributes(self, step: Step) -> dict[str, str]:
        given, self._pending = {**self._pending, **self._filled(step.attributes)}, {}
        return given

    # --- what is expected ---

    def _expect(self, step: Step) -> None:
        wanted = [conditions.bound(self._known()) for conditions in step.expected]
        self.timeline.expecting()

        def met() -> list[TimelineEntry] | None:
            return assigned(wanted, self.timeline.candidates(in_order=step.in_order), in_order=step.in_order)

        def misplaced() -> str | None:
            if met() or not assigned(wanted, self.timeline.candidates(in_order=False), in_order=False):
                return None
            if len(wanted) > 1:
                return "what was awaited came in another order"
            return "what was awaited came before the reply that met the last expectation"

        found = self._await(met, step, _all_of(wanted, in_order=step.in_order), misplaced)
        self.timeline.take(found)
        for conditions, entry in zip(wanted, found, strict=True):
            assert entry.message is not None
            self._captured.update(conditions.captured(entry.message, step.save_as))

    def _expect_none(self, step: Step) -> None:
        wanted = [conditions.bound(self._known()) for conditions in step.expected]
        self.timeline.expecting()
        until = self._bounded(step.seconds)
        while True:
            came = [
                entry
                for entry, message in self.timeline.since_last()
                if any(conditions.met_by(message) for conditions in wanted)
            ]
            if came:
                what = ", ".join("no" + str(conditions).removeprefix("a") for conditions in wanted)
                raise _Unmet("a reply came where none should", f"{what} for {step.seconds:g} s", came)
            if not self._pump(until):
                break
        if self._deaf is not None and self._over is None:
            raise self._deaf
        self._check_time()

    def _expect_disconnect(self, step: Step) -> None:
        self.timeline.expecting()
        self._await(lambda: self._over, step, "the conversation to be ended")

    def _held_against_golden(self) -> None:
        if self.bless:
            self._settle()
            return
        if self.golden is None:
            raise _Unmet("there is no golden transcript of it yet; --bless writes it", None, [])
        until = self._bounded(self.wait)
        while len(came := self._lines()) < len(self.golden) and self._pump(until):
            pass
        if came != self.golden:
            what = "the conversation differs from its golden transcript:"
            if self.golden == golden.without_content(came):
                what = (
                    "its golden transcript was written by a guestctl that did not hold what cards, pickers and forms "
                    "say; read what is new, then --bless:"
                )
            raise _Unmet(f"{what}\n{golden.differences(self.golden, came)}", None, [])

    def _settle(self) -> None:
        """Until nothing has come for a while: only to write a golden transcript."""
        heard, until = len(self.timeline.entries), self._bounded(SETTLED)
        while self._pump(until):
            if heard != len(self.timeline.entries):
                heard, until = len(self.timeline.entries), self._bounded(SETTLED)

    def _lines(self) -> tuple[str, ...]:
        return golden.lines((said(entry, self.redactor) for entry in self.timeline.entries), self._captured)

    # --- waiting ---

    def _await(
        self,
        found: Callable[[], T | None],
        step: Step,
        expected: str,
        misplaced: Callable[[], str | None] = lambda: None,
    ) -> T:
        """What `found` finds, looked for at every event, until the step's time is over. `misplaced` may know
        better than that nothing came."""
        within = step.timeout or self.wait
        until = self._bounded(within)
        while True:
            limit = until if self._over is None else min(until, self._over + STRAGGLERS)
            result = found()
            if result is None and not self._pump(limit):
                result = found()
                if result is None:
                    break
            if result is not None:
                return result
        came = [entry for entry, _ in self.timeline.candidates(in_order=False)]
        wrong = misplaced()
        if wrong is None and self._over is not None:
            raise _Unmet("the conversation was ended before what was awaited came", expected, came)
        if self._deaf is not None and self._over is None:
            raise self._deaf
        self._check_time(expected, came)
        expected = f"{expected}, within {within:g} s"
        if wrong is not None:
            raise _Unmet(f"{wrong} (`in_order: false` takes any)", expected, came)
        late, waited = self._heard_late(found, min(within, LATE))
        what = "what was awaited came too late" if found() is not None else "what was awaited did not come in time"
        raise _Unmet(what, expected, came, late=late, waited=waited)

    def _heard_late(self, found: Callable[[], object], seconds: float) -> tuple[list[TimelineEntry], float]:
        """What comes after a step has failed, until it is what was awaited or so many seconds are over."""
        before, begun, until = list(self.timeline.entries), self._now(), self._bounded(seconds)
        while found() is None and self._pump(until):
            pass
        late = [entry for entry in self.timeline.entries if entry.message is not None and entry not in before]
        return late, round(self._now() - begun, 1)

    def _pump(self, until: float) -> bool:
        """Take in the next event; False when `until` (monotonic) has come, or nothing can any more."""
        if self.stopping():
            raise Stopped
        if self._deaf is not None or self._events is None or self._clock.monotonic() >= until:
            return False
        self._until = until
        try:
            self._take(next(self._events))
        except Failure as failure:
            self._deaf = failure
            if isinstance(failure, SessionOver) and failure.code not in _NOT_THE_END:
                self._ended(f"the conversation is over: {failure.message}")
            return self._over is None
        return True

    def _wake(self) -> float | None:
        return None if self._until is None else max(0.0, self._until - self._clock.monotonic())

    def _take(self, event: Event | None) -> None:
        if isinstance(event, Message):
            self.timeline.heard(event, self._now())
        elif isinstance(event, Presence):
            if event.presence == "Disconnect" and event.direction == "outbound":
                self._ended(f"presence: {event.presence}")
            else:
                self.timeline.remark(f"presence: {event.presence}", self._now())
        elif isinstance(event, SessionEvent):
            if event.change in _ENDS:
                self._ended(f"session {event.change.replace('_', ' ')}")
            else:
                self.timeline.remark(f"session {event.change.replace('_', ' ')}", self._now())
        elif isinstance(event, Gap):
            self.timeline.remark(f"gap: {event.reason}", self._now())
        elif isinstance(event, Connection) and event.state in {"lost", "gave_up"}:
            self.timeline.remark(f"connection lost: {event.detail}", self._now())

    def _ended(self, why: str) -> None:
        entry = self.timeline.remark(why, self._now())
        if self._over is None:
            self._over, self._end_of_it = self._clock.monotonic(), entry

    # --- means ---

    def _now(self) -> float:
        return self._clock.monotonic() - self._begun

    def _bounded(self, seconds: float) -> float:
        """When this many seconds are over, or the scenario's time is, in monotonic seconds."""
        until = self._clock.monotonic() + seconds
        return until if self._end is None else min(until, self._end)

    def _bound(self, seconds: float) -> float:
        return max(0.001, self._bounded(seconds) - self._clock.monotonic())

    def _check_time(self, expected: str | None = None, came: Sequence[TimelineEntry] = ()) -> None:
        """Fail when the scenario's own time is over."""
        if self._end is not None and self._clock.monotonic() >= self._end:
            raise _Unmet(f"the scenario took longer than its {self.scenario.timeout:g} s", expected, came)

    def _known(self) -> dict[str, str]:
        return {**self.values, **self.scenario.values, **self._captured}

    def _text(self, text: str) -> str:
        return filled(text, self._known())

    def _filled(self, texts: Mapping[str, str]) -> dict[str, str]:
        return {key: self._text(value) for key, value in texts.items()}

    def _ids(self) -> dict[str, str | None]:
        try:
            return dict(self.client.session().ids)
        except Failure:
            return {}


_ACTIONS: Mapping[str, Callable[[Play, Step], None]] = {
    "say": Play._say,
    "attach": Play._say,
    "pick": Play._pick,
    "attributes": Play._later,
    "typing": Play._typing,
    "pause": Play._pause,
    "expect": Play._expect,
    "expectNone": Play._expect_none,
    "expectDisconnect": Play._expect_disconnect,
}


def _all_of(wanted: list[Conditions], *, in_order: bool) -> str:
    if len(wanted) == 1:
        return str(wanted[0])
    if all(one == wanted[0] for one in wanted):
        return f"{len(wanted)} times {wanted[0]}"
    return (", then " if in_order else " and ").join(str(one) for one in wanted)
