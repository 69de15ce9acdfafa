"""One run of one scenario: a new guest takes its steps one after another.

Knows: what each step does with a `Client`, and when an expectation is met or has failed. Must not
know: YAML, other scenarios, report formats, the wire. Nothing sleeps: waiting means listening, and a
step ends with the event that meets its condition.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from guestctl.checks import golden
from guestctl.checks.ai.conversation_data import NumberedMessage
from guestctl.checks.ai.customer import Customer, GoalMissed
from guestctl.checks.ai.judge import Judgement, first_request, judgements
from guestctl.checks.ai.masking import Masking
from guestctl.checks.ai.model_calls import ConversationCalls
from guestctl.checks.ai.plans import REPLAY_PATIENCE, JudgePlan
from guestctl.checks.ai.verdict_failures import Undecided
from guestctl.checks.content_lines import content_lines
from guestctl.checks.expectation import Conditions, assigned, offers_choice
from guestctl.checks.outcomes import (
    MOST_LINES,
    Details,
    JudgedCriterion,
    Outcome,
    StepRun,
    TranscriptLine,
    Trouble,
    Verdict,
    judged,
    transcript_line,
)
from guestctl.checks.script import TEST_MARK, Scenario, Step
from guestctl.checks.timeline import Timeline, TimelineEntry
from guestctl.checks.variables import filled, is_secret, needed
from guestctl.checks.wire_log import WireEvent, WireLog
from guestctl.client import Client
from guestctl.core.errors import Conflict, Failure, InDoubt, NetworkError, SessionOver
from guestctl.core.model import Connection, Event, Gap, Message, NewSession, Presence, SessionEvent
from guestctl.core.redact import Redactor
from guestctl.core.results import Sent
from guestctl.dialects.capabilities import Ability

T = TypeVar("T")

#: Seconds to listen after the end of a conversation, for replies that arrive after it.
AFTER_END = 1.0
#: With --bless: seconds of silence after which a conversation counts as complete.
SETTLED = 1.0
#: Seconds to listen after a step has timed out, but never longer than the step itself had. The report then
#: shows whether the bot is late or silent.
LATE = 2.0

#: Session changes that end the conversation.
_ENDS = frozenset({"read_only", "ended", "expired", "cleared", "logged_out"})


#: Codes of a session that is over although the service did not end the conversation.
_SESSION_LOST = frozenset({"session.evicted", "session.no_token", "session.none"})
#: Codes of a request to a conversation that has ended.
_ENDED = frozenset({"conflict.read_only", "conflict.ended"})


#: Actions with which the guest sends: the traffic since then belongs to the next expectation.
_SENDS = frozenset({"say", "pick", "attach", "customer"})


class RunStopped(Exception):
    """The run was interrupted; there is no verdict."""


class _Unmet(Exception):
    """An expectation failed. `late`: the replies that came in the `waited` seconds after that. `conditions`: returns
    the texts of the conditions that a reply does not meet. `missing`: the expected replies that no reply is."""

    def __init__(
        self,
        message: str,
        expected: str | None,
        came: Sequence[TimelineEntry],
        *,
        late: Sequence[TimelineEntry] = (),
        waited: float = 0.0,
        conditions: Callable[[Message], Iterable[str]] = lambda message: (),
        missing: Iterable[str] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.expected = expected
        self.came = came
        self.late = late
        self.waited = waited
        self.conditions = conditions
        self.missing = missing


@dataclass
class ScenarioRun:
    """One attempt at one scenario with a new client. `wait`: seconds that a step without its own timeout may take.

    `golden`: the golden transcript to compare with, None without one; `bless`: write one instead.
    `values` are the variables; `folder` is the directory of files to attach. `calls` asks the models of AI steps, and
    `repetition` counts the runs of the scenario from 1. With `wire`, the outcome has details.
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
    calls: ConversationCalls | None = None
    repetition: int = 1
    wire: WireLog | None = None
    timeline: Timeline = field(default_factory=Timeline)

    def __post_init__(self) -> None:
        self._clock = self.client.clock
        self._begun = self._clock.monotonic()
        self._captured: dict[str, str] = {}
        self._remarks: list[str] = []
        self._pending: dict[str, str] = {}
        self._events: Generator[Event | None, None, None] | None = None
        self._until: float | None = None
        #: When the service ended the conversation (monotonic), and the entry that reports it.
        self._ended_at: float | None = None
        self._end_entry: TimelineEntry | None = None
        #: The failure that ended the event stream. Nothing can be received after it.
        self._stream_failure: Failure | None = None
        self._step: Step | None = None
        self._judged: list[JudgedCriterion] = []
        #: The steps that have begun. The last one may still run.
        self._progress: list[StepRun] = []
        #: The traffic before the first failure.
        self._wire_of_failure: tuple[WireEvent, ...] | None = None
        limit = self.scenario.timeout
        self._end = None if limit is None else self._begun + limit

    @property
    def opened(self) -> bool:
        """Whether the guest has a session."""
        return self._events is not None

    # --- the scenario as a whole ---

    def run(self) -> Outcome:
        """Run the scenario. Raises RunStopped, but no failure that a service can cause."""
        try:
            trouble = self._run_steps()
        finally:
            if self._events is not None:
                self._events.close()
        self._mask_secrets()
        return self._outcome(trouble)

    def interrupted(self, failure: Failure) -> Outcome:
        """Return the outcome of a scenario that is still running, called from another thread."""
        line, text = (self._step.line, self._step.text) if self._step else (self.scenario.line, "")
        return self._outcome(Trouble(failure.message, line, self.redactor.text(text), failure=failure))

    def _outcome(self, trouble: Trouble | None) -> Outcome:
        verdict = "passed" if trouble is None else trouble.verdict
        lines = [transcript_line(entry, self.redactor) for entry in list(self.timeline.entries)]
        blessed = golden.lines(lines, self._captured) if self.bless and verdict == "passed" else None
        return Outcome(
            script=self.script,
            name=self.scenario.name,
            line=self.scenario.line,
            tags=tuple(sorted(self.scenario.tags)),
            verdict=verdict,
            seconds=round(self._now(), 3),
            trouble=trouble,
            transcript=() if verdict == "passed" else tuple(lines[-MOST_LINES:]),
            ids=_ids_of(self.client),
            remarks=tuple(self.redactor.text(remark) for remark in self._remarks),
            blessed=blessed,
            judged=tuple(self._judged),
            usage=None if self.calls is None or not self.scenario.has_models else self.calls.usage,
            details=None if self.wire is None else self._details(self.wire, lines, verdict),
        )

    def _details(self, wire: WireLog, lines: Sequence[TranscriptLine], verdict: Verdict) -> Details:
        seen = () if verdict == "passed" else self._wire_of_failure or wire.events()
        return Details(
            tuple(steps_of(self.scenario, self.redactor, list(self._progress))),
            tuple(lines[-MOST_LINES:]),
            tuple(WireEvent(one.at, one.kind, self.redactor.value(one.data)) for one in seen),
        )

    def _run_steps(self) -> Trouble | None:
        trouble = self._guarded(self._open)
        if trouble is not None:
            return trouble
        for step in self.scenario.steps:
            trouble = self._do(step)
            if trouble is not None:
                break
        if trouble is None and self.scenario.golden:
            self._step = None
            trouble = self._guarded(lambda: _compare_with_golden(self))
        for step in self.scenario.teardown if self._stream_failure is None else ():
            after = self._do(step, teardown=True)
            if after is not None and trouble is None and self._ended_at is None:
                trouble = after
            elif after is not None:
                self._remarks.append(f"teardown, line {after.line}: {after.message}")
        return trouble

    def _open(self) -> None:
        self.client.timeout = self._time_left(self.wait)
        attributes = {key: self._text(value) for key, value in self.scenario.attributes.items()}
        if self.scenario.marked and "attr" in self.client.dialect.fields:
            attributes.setdefault(TEST_MARK, "true")
        self.client.create(NewSession(name=self.client.session_name, attributes=attributes))
        self._mask_secrets()
        self._events = self.client.listen(just_created=True, left=self._seconds_left)
        self._wait_until_live(self._bounded(self.wait))

    def _wait_until_live(self, until: float) -> None:
        """Wait until the connection is live, so that no reply to the first message is missed."""
        reason, late = "no answer", False
        for event in self._events or ():
            self._handle(event)
            if isinstance(event, Connection):
                if event.state == "live":
                    break
                late = late or event.state == "connecting"
                reason = event.detail or reason
            if self.stopping():
                raise RunStopped
            if self._clock.monotonic() >= until:
                raise NetworkError(f"not connected in time: {reason}")
        if late and self.client.dialect.has_socket:
            # The session existed before this socket was open, so earlier messages are only in history.
            try:
                for item in self.client.history():
                    self._handle(item)
            except Failure as failure:
                self.timeline.remark(f"cannot read history: {failure.message}", self._now())

    def _do(self, step: Step, *, teardown: bool = False) -> Trouble | None:
        self._step = step
        if self.wire is not None and self._wire_of_failure is None and step.action in _SENDS:
            self.wire.clear()
        running = StepRun(step.action, step.line, step.text, teardown, "error", round(self._now(), 3))
        self._progress.append(running)
        self.client.timeout = self._time_left(step.timeout or self.wait)
        begun = self._now()
        trouble = self._guarded(lambda: _ACTIONS[step.action](self, step))
        verdict = "passed" if trouble is None else trouble.verdict
        self._progress[-1] = replace(running, verdict=verdict, seconds=round(self._now() - begun, 3))
        if trouble is not None and self.wire is not None and self._wire_of_failure is None:
            self._wire_of_failure = self.wire.events()
        return trouble

    def _guarded(self, act: Callable[[], None]) -> Trouble | None:
        """Call `act` and return its failure as a report shows it; None without a failure."""
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
                self._last_lines(unmet.came, unmet.conditions),
                late=self._last_lines(unmet.late, unmet.conditions),
                waited=unmet.waited,
                missing=tuple(self.redactor.text(one) for one in unmet.missing),
            )
        except Failure as failure:
            self._mask_secrets()
            failure.message = self.redactor.text(failure.message)
            failure.body = None if failure.body is None else self.redactor.text(failure.body)
            if self._step is None or not self._conversation_ended(failure):
                return Trouble(failure.message, line, self.redactor.text(text), failure=failure)
            return Trouble(
                "the service had ended the conversation",
                line,
                self.redactor.text(text),
                "an open conversation",
                self._last_lines(
                    [entry for entry, _ in self.timeline.since_last_match()] + [*filter(None, [self._end_entry])]
                ),
            )
        return None

    def _last_lines(
        self, entries: Sequence[TimelineEntry], conditions: Callable[[Message], Iterable[str]] = lambda message: ()
    ) -> tuple[TranscriptLine, ...]:
        """Return the last entries as lines, each with the conditions that it does not meet."""
        lines = []
        for entry in entries[-20:]:
            unmet: tuple[str, ...] = ()
            with suppress(Failure):  # a pattern that takes too long this time
                unmet = () if entry.message is None else tuple(map(self.redactor.text, conditions(entry.message)))
            lines.append(replace(transcript_line(entry, self.redactor), unmet=unmet))
        return tuple(lines)

    def _conversation_ended(self, failure: Failure) -> bool:
        """Return whether a step failed because the conversation has ended.

        APIs report this in different ways. The event that reports the end may arrive after the failure, so
        listen for it.
        """
        if not isinstance(failure, (Conflict, SessionOver, InDoubt, NetworkError)) or failure.code in _SESSION_LOST:
            return False
        until = self._bounded(AFTER_END)
        while self._ended_at is None and self._next_event(until):
            pass
        if self._ended_at is None and (isinstance(failure, SessionOver) or failure.code in _ENDED):
            self._note_end(f"the conversation has ended: {failure.message}")
        return self._ended_at is not None

    def _mask_secrets(self) -> None:
        """Mask the secrets that the service has given to this guest."""
        for secret in self.client.secrets():
            self.redactor.add(secret)

    # --- what the guest does ---

    def _say(self, step: Step) -> None:
        files = [self.folder / self._text(step.file)] if step.file is not None else []
        self._sent(self.client.send(self._text(step.message or ""), attributes=self._attributes(step), files=files))

    def _sent(self, sent: Sent) -> None:
        """Add an accepted message. Where an API accepts messages after an end, the conversation continues."""
        self._ended_at = self._end_entry = None
        if sent.message is not None:
            self.timeline.add_sent(sent.message, self._now())

    def _pick(self, step: Step) -> None:
        text = self._text(step.message or "").strip()
        choice = int(text) if step.by_place else text

        def offered() -> Message | None:
            return next((message for message in self.timeline.offers() if offers_choice(message, choice)), None)

        expected = f"option {text}" if text.isascii() and text.isdigit() else f'an option "{text}"'
        message = self._await(offered, step, expected, awaited="an option to pick")
        self.timeline.expect()
        self._sent(self.client.send(attributes=self._attributes(step), pick=[choice], answering=message))

    def _attributes_for_next(self, step: Step) -> None:
        self._pending.update(self._filled(step.attributes))

    def _typing(self, step: Step) -> None:
        self.client.typing()

    def _pause(self, step: Step) -> None:
        until = self._bounded(step.seconds)
        while self._next_event(until):
            pass
        self._check_time()

    def _attributes(self, step: Step) -> dict[str, str]:
        given, self._pending = {**self._pending, **self._filled(step.attributes)}, {}
        return given

    # --- what is expected ---

    def _expect(self, step: Step) -> None:
        replies = _ExpectedReplies([one.bound(self._known()) for one in step.expected], step.in_order, self.timeline)
        self.timeline.expect()
        try:
            found = self._await(replies.found, step, str(replies), replies.misplaced)
        except _Unmet as unmet:
            unmet.conditions, unmet.missing = replies.unmet_by, replies.missing()
            raise
        self.timeline.mark_met(found)
        for conditions, entry in zip(replies.expected, found, strict=True):
            assert entry.message is not None
            self._captured.update(conditions.captured(entry.message, step.save_as))

    def _expect_none(self, step: Step) -> None:
        excluded = [conditions.bound(self._known()) for conditions in step.expected]
        self.timeline.expect()
        until = self._bounded(step.seconds)
        while True:
            unexpected = [
                entry
                for entry, message in self.timeline.since_last_match()
                if any(conditions.met_by(message) for conditions in excluded)
            ]
            if unexpected:
                raise _Unmet(
                    "a reply came, but none was expected",
                    f"{', '.join(map(_none_of, excluded))} for {step.seconds:g} s",
                    unexpected,
                    conditions=lambda message: [_none_of(one) for one in excluded if one.met_by(message)],
                )
            if not self._next_event(until):
                break
        if self._stream_failure is not None and self._ended_at is None:
            raise self._stream_failure
        self._check_time()

    def _expect_disconnect(self, step: Step) -> None:
        self.timeline.expect()
        self._await(lambda: self._ended_at, step, "the end of the conversation", awaited="the end of the conversation")

    # --- waiting ---

    def _await(
        self,
        found: Callable[[], T | None],
        step: Step,
        expected: str,
        misplaced: Callable[[], str | None] = lambda: None,
        awaited: str = "a matching reply",
    ) -> T:
        """Return the result of `found`, called after every event until the step times out.

        `misplaced` returns a more specific reason for a failure than a timeout. `awaited` names what
        `found` looks for.
        """
        within = step.timeout or self.wait
        until = self._bounded(within)
        while True:
            limit = until if self._ended_at is None else min(until, self._ended_at + AFTER_END)
            result = found()
            if result is None and not self._next_event(limit):
                result = found()
                if result is None:
                    break
            if result is not None:
                return result
        came = [entry for entry, _ in self.timeline.candidates(in_order=False)]
        wrong = misplaced()
        if wrong is None and self._ended_at is not None:
            raise _Unmet(f"the conversation ended before {awaited} came", expected, came)
        if self._stream_failure is not None and self._ended_at is None:
            raise self._stream_failure
        self._check_time(expected, came)
        expected = f"{expected}, within {within:g} s"
        if wrong is not None:
            raise _Unmet(f"{wrong} (`in_order: false` accepts any order)", expected, came)
        late, waited = self._listen_for_late(found, min(within, LATE))
        missing = found() is None
        what = f"timed out waiting for {awaited}" if missing else f"{awaited} came too late"
        raise _Unmet(what, expected, came, late=late, waited=waited)

    def _listen_for_late(self, found: Callable[[], object], seconds: float) -> tuple[list[TimelineEntry], float]:
        """Return what comes after a step has timed out, until `found` finds a result or the seconds are over."""
        before, begun, until = list(self.timeline.entries), self._now(), self._bounded(seconds)
        while found() is None and self._next_event(until):
            pass
        late = [entry for entry in self.timeline.entries if entry.message is not None and entry not in before]
        return late, round(self._now() - begun, 1)

    def _next_event(self, until: float) -> bool:
        """Handle the next event. Return False when `until` (monotonic) has come, or no event can come any more."""
        if self.stopping():
            raise RunStopped
        if self._stream_failure is not None or self._events is None or self._clock.monotonic() >= until:
            return False
        self._until = until
        try:
            self._handle(next(self._events))
        except Failure as failure:
            self._stream_failure = failure
            if isinstance(failure, SessionOver) and failure.code not in _SESSION_LOST:
                self._note_end(f"the conversation has ended: {failure.message}")
            return self._ended_at is None
        return True

    def _seconds_left(self) -> float | None:
        """Return how long `listen` may block before it yields None."""
        return None if self._until is None else max(0.0, self._until - self._clock.monotonic())

    def _handle(self, event: Event | None) -> None:
        if isinstance(event, Message):
            self.timeline.add_received(event, self._now())
        elif (end := _end_of(event)) is not None:
            self._note_end(end)
        elif (remark := _remark_of(event)) is not None:
            self.timeline.remark(remark, self._now())

    def _note_end(self, reason: str) -> None:
        entry = self.timeline.remark(reason, self._now())
        if self._ended_at is None:
            self._ended_at, self._end_entry = self._clock.monotonic(), entry

    # --- time and texts ---

    def _now(self) -> float:
        return self._clock.monotonic() - self._begun

    def _bounded(self, seconds: float) -> float:
        """Return the monotonic time at which these seconds, or the time of the scenario, are over."""
        until = self._clock.monotonic() + seconds
        return until if self._end is None else min(until, self._end)

    def _time_left(self, seconds: float) -> float:
        return max(0.001, self._bounded(seconds) - self._clock.monotonic())

    def _check_time(self, expected: str | None = None, came: Sequence[TimelineEntry] = ()) -> None:
        """Raise a failure if the time of the scenario is over."""
        if self._end is not None and self._clock.monotonic() >= self._end:
            raise _Unmet(f"the scenario took longer than its timeout of {self.scenario.timeout:g} s", expected, came)

    def _known(self) -> dict[str, str]:
        return {**self.values, **self.scenario.values, **self._captured}

    def _text(self, text: str) -> str:
        return filled(text, self._known())

    def _filled(self, texts: Mapping[str, str]) -> dict[str, str]:
        return {key: self._text(value) for key, value in texts.items()}


@dataclass(frozen=True)
class _ExpectedReplies:
    """The replies that one step expects, and those of the timeline that meet its conditions."""

    expected: Sequence[Conditions]
    in_order: bool
    timeline: Timeline

    def __str__(self) -> str:
        first = self.expected[0]
        if len(self.expected) == 1:
            return str(first)
        if all(one == first for one in self.expected):
            return f"{len(self.expected)} times {first}"
        return (", then " if self.in_order else " and ").join(str(one) for one in self.expected)

    def found(self) -> list[TimelineEntry] | None:
        """Return one reply for each expected one, None if some have not come. Raises PatternTimeout."""
        return self._assigned(in_order=self.in_order)

    def misplaced(self) -> str | None:
        """Return which order is wrong if all replies have come, but not where they are expected."""
        if self.found() or not self._assigned(in_order=False):
            return None
        if len(self.expected) > 1:
            return "the expected replies came in another order"
        return "the expected reply came before the reply that met the last expectation"

    def unmet_by(self, message: Message) -> Iterable[str]:
        """Return the conditions that a reply does not meet; of several expected replies it could be any."""
        return self.expected[0].unmet_by(message) if len(self.expected) == 1 else ()

    def missing(self) -> list[str]:
        """Return those of several expected replies that no reply is."""
        replies = [message for _, message in self.timeline.candidates(in_order=False)]
        several = self.expected if len(self.expected) > 1 else []
        with suppress(Failure):  # a pattern that takes too long this time
            return [str(one) for one in several if not any(one.met_by(message) for message in replies)]
        return []

    def _assigned(self, *, in_order: bool) -> list[TimelineEntry] | None:
        return assigned(self.expected, self.timeline.candidates(in_order=in_order), in_order=in_order)


def _compare_with_golden(run: ScenarioRun) -> None:
    if run.bless:
        _settle(run)
        return
    if run.golden is None:
        raise _Unmet("no golden transcript yet; --bless writes it", None, [])
    until = run._bounded(run.wait)
    while len(came := _golden_lines(run)) < len(run.golden) and run._next_event(until):
        pass
    if came != run.golden:
        what = "the conversation differs from its golden transcript:"
        if run.golden == golden.without_content(came):
            what = (
                "the golden transcript was written by a version that left out cards, pickers and forms; "
                "review the new lines, then use --bless:"
            )
        raise _Unmet(f"{what}\n{golden.differences(run.golden, came)}", None, [])


def _settle(run: ScenarioRun, seconds: float = SETTLED) -> None:
    """Listen until no event has come for a while."""
    count, until = len(run.timeline.entries), run._bounded(seconds)
    while run._next_event(until):
        if count != len(run.timeline.entries):
            count, until = len(run.timeline.entries), run._bounded(seconds)


def _golden_lines(run: ScenarioRun) -> tuple[str, ...]:
    return golden.lines((transcript_line(entry, run.redactor) for entry in run.timeline.entries), run._captured)


# --- AI steps ---


@dataclass
class _Part:
    """The conversation as the customer and the judge of a step see it."""

    run: ScenarioRun
    step: Step
    masking: Masking
    #: The entries that were there when the step began.
    earlier: tuple[TimelineEntry, ...] = ()

    def send(self, text: str) -> None:
        """Send a message of the customer, as a pick if it is an option of the bot's last message."""
        run = self.run
        run.client.timeout = run._time_left(run.wait)  # the step's own time limits the answer of the bot
        offer = next(run.timeline.offers(), None)
        wanted = text.strip().casefold()
        same = [one for one in offer.options if one.text.strip().casefold() == wanted] if offer is not None else []
        attributes = run._attributes(self.step)
        if len(same) == 1 and Ability.PICK in run.client.dialect.abilities:
            run._sent(run.client.send(attributes=attributes, pick=[same[0].text], answering=offer))
        else:
            run._sent(run.client.send(text, attributes=attributes))

    def replies(self) -> Sequence[Message]:
        """Return the replies since the step began."""
        new = (entry for entry in self.run.timeline.entries if entry not in self.earlier)
        return [entry.message for entry in new if entry.message is not None and entry.message.is_reply]

    def shown(self) -> list[tuple[NumberedMessage, TimelineEntry]]:
        """Return each message as a model sees it, with its entry."""
        found: list[tuple[NumberedMessage, TimelineEntry]] = []
        for entry in self.run.timeline.entries:
            message = entry.message
            if message is None or not (message.is_reply or message.direction == "inbound"):
                continue
            sender = "customer" if message.direction == "inbound" else message.sender.role or "service"
            more = [*content_lines(message.content), *(f"(file) {one.name or one.mime}" for one in message.attachments)]
            numbered = NumberedMessage(
                f"m{len(found) + 1}",
                sender,
                self.masking.hide(message.text),
                tuple(self.masking.hide(option.text) for option in message.options),
                tuple(map(self.masking.hide, more)),
            )
            found.append((numbered, entry))
        return found

    def numbered(self) -> list[NumberedMessage]:
        """Return the whole conversation, without secrets."""
        return [message for message, _ in self.shown()]

    def next_event(self, until: float) -> bool:
        return self.run._next_event(until)

    def ended_at(self) -> float | None:
        return self.run._ended_at

    def now(self) -> float:
        return self.run._clock.monotonic()

    def until(self, seconds: float) -> float:
        return self.run._bounded(seconds)

    def seconds_left(self) -> float | None:
        end = self.run._end
        return None if end is None else max(0.001, end - self.now())


def _part(run: ScenarioRun, step: Step) -> _Part:
    """Return the conversation for an AI step. Masked are the secret variables that can be in it, however short."""
    known = run._known()
    used = {
        name for one in (*run.scenario.steps, *run.scenario.teardown) for text in one.texts() for name in needed(text)
    }
    used |= run.scenario.values.keys() | run._captured.keys()
    secrets = {name: value for name, value in known.items() if is_secret(name) and name in used}
    return _Part(run, step, Masking(run.redactor, secrets))


def _customer(run: ScenarioRun, step: Step) -> None:
    assert step.customer is not None
    assert run.calls is not None, "a script with AI steps has calls"
    part = _part(run, step)
    part.earlier = tuple(run.timeline.entries)
    plan = step.customer.filled(run._text, run._known(), run.repetition)
    run.timeline.expect()
    try:
        Customer(plan, part, run.calls, part.masking, step.timeout or run.wait).run(AFTER_END)
    except GoalMissed as missed:
        run._check_time()
        entries = [entry for entry in run.timeline.entries if entry not in part.earlier and entry.message is not None]
        came = [entry for entry in entries if entry.message is not None and entry.message.is_reply]
        unless = (lambda message: ()) if plan.until is None else plan.until.unmet_by
        raise _Unmet(
            missed.what, "an answer" if plan.until is None else str(plan.until), came, conditions=unless
        ) from None
    run._check_time()


def _judge(run: ScenarioRun, step: Step) -> None:
    assert step.judge is not None
    assert run.calls is not None, "a script with AI steps has calls"
    part = _part(run, step)
    plan = step.judge.filled(run._text, run.repetition)
    shown = plan.hidden(part.masking.hide)
    calls = run.calls
    _await_recorded(part, shown, calls)
    conversation = part.shown()
    messages = [message for message, _ in conversation]
    if not messages:
        raise Undecided("undecided: there is no message to judge")
    found = judgements(shown, messages, calls.settings, lambda request: calls.ask(request, part.seconds_left()))
    entries = {message.id: entry for message, entry in conversation}
    run._judged += [judged(one, entries, run.redactor) for one in found]
    run._check_time()
    for decision, failure in (("failed", _judged_failed), ("undecided", _judged_undecided)):
        for one in found:
            if one.decision == decision:
                raise failure(one)


def _await_recorded(part: _Part, plan: JudgePlan, calls: ConversationCalls) -> None:
    """Listen until the bot is silent; in a replay, until the conversation is the recorded one."""
    run = part.run
    if not calls.replaying:
        _settle(run, plan.silence)
        return
    until = run._bounded(REPLAY_PATIENCE * plan.silence)
    while not calls.is_recorded(first_request(plan, part.numbered(), calls.settings)) and run._next_event(until):
        pass


def _judged_failed(one: Judgement) -> Exception:
    what = "happened, but must never happen" if one.never else "is not met"
    return _Unmet(f'"{one.text}" {what} ({one.tally}){f": {one.why}" if one.why else ""}', None, [])


def _judged_undecided(one: Judgement) -> Exception:
    return Undecided(f'undecided: "{one.text}" ({one.tally}): {one.why}')


_ACTIONS: Mapping[str, Callable[[ScenarioRun, Step], None]] = {
    "say": ScenarioRun._say,
    "attach": ScenarioRun._say,
    "pick": ScenarioRun._pick,
    "attributes": ScenarioRun._attributes_for_next,
    "typing": ScenarioRun._typing,
    "pause": ScenarioRun._pause,
    "expect": ScenarioRun._expect,
    "expectNone": ScenarioRun._expect_none,
    "expectDisconnect": ScenarioRun._expect_disconnect,
    "customer": _customer,
    "judge": _judge,
}


def steps_of(scenario: Scenario, redactor: Redactor, begun: Sequence[StepRun] = ()) -> Iterator[StepRun]:
    """Yield every step of a scenario: those that have begun as they are, then those that have not."""
    for teardown, steps in ((False, scenario.steps), (True, scenario.teardown)):
        ran = [one for one in begun if one.teardown is teardown]
        yield from (replace(one, text=redactor.text(one.text)) for one in ran)
        for step in steps[len(ran) :]:
            yield StepRun(step.action, step.line, redactor.text(step.text), teardown)


def _end_of(event: Event | None) -> str | None:
    """Return how an event ended the conversation; None if it did not."""
    if isinstance(event, Presence) and event.presence == "Disconnect" and event.direction == "outbound":
        return f"presence: {event.presence}"
    if isinstance(event, SessionEvent) and event.change in _ENDS:
        return f"session {event.change.replace('_', ' ')}"
    return None


def _remark_of(event: Event | None) -> str | None:
    """Return what the transcript reports of an event that is not a message; None for nothing."""
    if isinstance(event, Presence):
        return f"presence: {event.presence}"
    if isinstance(event, SessionEvent):
        return f"session {event.change.replace('_', ' ')}"
    if isinstance(event, Gap):
        return f"gap: {event.reason}"
    if isinstance(event, Connection) and event.state in {"lost", "gave_up"}:
        return f"connection lost: {event.detail}"
    return None


def _ids_of(client: Client) -> dict[str, str | None]:
    try:
        return dict(client.session().ids)
    except Failure:
        return {}


def _none_of(conditions: Conditions) -> str:
    return "no" + str(conditions).removeprefix("a")
