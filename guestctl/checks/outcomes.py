"""The outcome of a scenario, as values and as the record of `-o json`.

Knows: verdicts, expected and actual replies, the transcript, ids. Must not know: how a scenario
runs, any report format but the record. Secrets are masked in every text of an `Outcome`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from guestctl.checks.ai.budget import ModelUsage
from guestctl.checks.ai.interval import wilson
from guestctl.checks.ai.judge import Decision, Judgement
from guestctl.checks.ai.verdict_failures import CustomerFailed, Undecided
from guestctl.checks.content_lines import content_lines
from guestctl.checks.script import Action
from guestctl.checks.timeline import TimelineEntry
from guestctl.checks.wire_log import WireEvent
from guestctl.core.errors import Exit, Failure
from guestctl.core.redact import Redactor

Record: TypeAlias = dict[str, Any]

Verdict: TypeAlias = Literal["passed", "failed", "undecided", "customer_failed", "error"]
"""failed: an expectation was not met; undecided: the votes of a judge decide nothing; customer_failed: the customer of
the test left its role, which is no fault of the bot; error: the expectations could not be tested."""
VERDICTS: tuple[Verdict, ...] = ("passed", "failed", "undecided", "customer_failed", "error")

#: Most lines of a transcript in a report; older ones are dropped.
MOST_LINES = 200


@dataclass(frozen=True)
class TranscriptLine:
    """One line of a transcript. `at`: seconds since the start of the scenario; `who` is None for a remark;
    `content`: the lines of cards, pickers and forms; `unmet`: the conditions that a reply did not meet."""

    at: float
    who: str | None
    text: str
    id: str | None = None
    options: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    content: tuple[str, ...] = ()
    unmet: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trouble:
    """Why a scenario did not pass. `line` is the line of the step; `came` are the replies that came instead;
    `late` are those that came in the `waited` seconds after the step had failed; `missing` are those of several
    expected replies that none of them is.

    `failure` is set unless an expectation was not met.
    """

    message: str
    line: int
    step: str
    expected: str | None = None
    came: tuple[TranscriptLine, ...] = ()
    failure: Failure | None = None
    late: tuple[TranscriptLine, ...] = ()
    waited: float = 0.0
    missing: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The verdict of a scenario with this trouble."""
        if self.failure is None:
            return "failed"
        if isinstance(self.failure, Undecided):
            return "undecided"
        return "customer_failed" if isinstance(self.failure, CustomerFailed) else "error"

    @property
    def short(self) -> str:
        """The reason in one line."""
        first = self.message.split("\n")[0]
        return first if self.expected is None else f"{first}: {self.expected}"


@dataclass(frozen=True)
class JudgedVote:
    """One vote as a report shows it. `messages` are the service's ids; `problem` states why the vote does not count."""

    verdict: str
    messages: tuple[str | None, ...]
    why: str
    problem: str | None


@dataclass(frozen=True)
class JudgedCriterion:
    """The judgement on one criterion as a report shows it. `never`: it is a thing that must not happen.

    `tally` are the votes in words, `quoted` the messages that the deciding votes name.
    """

    text: str
    never: bool
    decision: Decision
    tally: str
    why: str
    votes: tuple[JudgedVote, ...]
    quoted: tuple[TranscriptLine, ...]


@dataclass(frozen=True)
class StepRun:
    """One step of an attempt. `verdict`, `at` and `seconds` are None for a step that did not run.

    `at`: seconds since the start of the scenario. `teardown`: it is a step of the teardown.
    """

    action: Action
    line: int
    text: str
    teardown: bool
    verdict: Verdict | None = None
    at: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Attempt:
    """The result of one attempt at a scenario. `reason` is empty if it passed."""

    verdict: Verdict
    seconds: float
    reason: str


@dataclass(frozen=True)
class Details:
    """What only a detailed report shows of a scenario.

    `conversation` is there for a scenario that passed, too. `wire` is the traffic since the guest's last action before
    the failure; none of a scenario that passed. `attempts` has every attempt, and the last one decides.
    """

    steps: tuple[StepRun, ...]
    conversation: tuple[TranscriptLine, ...] = ()
    wire: tuple[WireEvent, ...] = ()
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """The result of one scenario. `ids` are the service's ids, with `conversation` if it is known.

    `attempts` is 0 for a scenario that was never started. `repetition` counts from 1 with --repeat, and is 0 without.
    `usage` is what the model calls of all its attempts have used, None if no model takes part.
    """

    script: str
    name: str
    line: int
    tags: tuple[str, ...]
    verdict: Verdict
    seconds: float
    attempts: int = 1
    trouble: Trouble | None = None
    transcript: tuple[TranscriptLine, ...] = ()
    ids: Mapping[str, str | None] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    #: The golden transcript to write, with --bless; else None.
    blessed: tuple[str, ...] | None = None
    judged: tuple[JudgedCriterion, ...] = ()
    usage: ModelUsage | None = None
    repetition: int = 0
    #: None unless a report needs it.
    details: Details | None = None


def judged(judgement: Judgement, entries: Mapping[str, TimelineEntry], redactor: Redactor) -> JudgedCriterion:
    """Return a judgement for reports. `entries`: the id that the judge knows a message by -> the message."""

    def service_id(name: str) -> str | None:
        message = entries[name].message
        return None if message is None else message.id or None

    votes = (
        JudgedVote(
            vote.verdict,
            tuple(service_id(name) for name in vote.messages),
            redactor.text(vote.why),
            None if vote.problem is None else redactor.text(vote.problem),
        )
        for vote in judgement.votes
    )
    return JudgedCriterion(
        redactor.text(judgement.text),
        judgement.never,
        judgement.decision,
        judgement.tally,
        redactor.text(judgement.why),
        tuple(votes),
        tuple(transcript_line(entries[name], redactor) for name in judgement.quoted),
    )


def transcript_line(entry: TimelineEntry, redactor: Redactor) -> TranscriptLine:
    """Return an entry of the timeline as a line of a transcript, with secrets masked."""
    at = round(entry.at, 3)
    message = entry.message
    if message is None:
        return TranscriptLine(at, None, redactor.text(entry.remark or ""))
    role = "guest" if message.direction == "inbound" else message.sender.role or "service"
    return TranscriptLine(
        at,
        role,
        redactor.text(message.text),
        message.id or None,
        tuple(redactor.text(option.text) for option in message.options),
        tuple(redactor.text(file.name or file.mime or "unnamed") for file in message.attachments),
        tuple(redactor.text(line) for line in content_lines(message.content)),
    )


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """Return 0 if all passed, 1 if an expectation failed, else 9 for undecided, 2 for a customer that failed, else the
    exit code of the first error."""
    verdicts = {outcome.verdict for outcome in outcomes}
    if "failed" in verdicts:
        return Exit.NO
    for verdict in ("undecided", "customer_failed", "error"):
        for outcome in outcomes:
            if outcome.verdict == verdict and outcome.trouble is not None and outcome.trouble.failure is not None:
                return int(outcome.trouble.failure.exit)
    return Exit.DONE


def record(outcome: Outcome) -> Record:
    """Return the outcome of a scenario as a JSON object."""
    return {
        "kind": "check",
        "script": outcome.script,
        "scenario": outcome.name,
        "line": outcome.line,
        "tags": list(outcome.tags),
        "verdict": outcome.verdict,
        "seconds": outcome.seconds,
        "attempts": outcome.attempts,
        "trouble": None if outcome.trouble is None else _trouble(outcome.trouble),
        "ids": dict(outcome.ids),
        "transcript": [_line_record(line) for line in outcome.transcript],
        "remarks": list(outcome.remarks),
        "judged": [_judged_record(one) for one in outcome.judged],
        "model": None if outcome.usage is None else _usage_record(outcome.usage),
        "repetition": outcome.repetition or None,
    }


def summary(outcomes: Sequence[Outcome], seconds: float) -> Record:
    """Return the outcome of a run as one JSON object."""
    return {**totals(outcomes, seconds), "scenarios": [record(outcome) for outcome in outcomes]}


def totals(outcomes: Sequence[Outcome], seconds: float) -> Record:
    """Return the number of scenarios with each verdict."""
    count = {verdict: sum(o.verdict == verdict for o in outcomes) for verdict in VERDICTS}
    used = usage_of(outcomes)
    return {
        "kind": "check-run",
        "passed": count["passed"],
        "failed": count["failed"],
        "undecided": count["undecided"],
        "customer_failed": count["customer_failed"],
        "errors": count["error"],
        "seconds": round(seconds, 3),
        "model": None if used is None else _usage_record(used),
        "rates": [_rate_record(rate) for rate in rates(outcomes)],
    }


def usage_of(outcomes: Sequence[Outcome]) -> ModelUsage | None:
    """Return what all model calls have used together; None if no model took part."""
    return usage_sum(outcome.usage for outcome in outcomes)


def usage_sum(parts: Iterable[ModelUsage | None]) -> ModelUsage | None:
    """Return what several parts have used together; None if no model took part in any of them."""
    found = [part for part in parts if part is not None]
    if not found:
        return None
    total = round(sum(one.seconds for one in found), 3)
    return ModelUsage(sum(one.calls for one in found), sum(one.tokens for one in found), total)


@dataclass(frozen=True)
class PassRate:
    """How often a scenario passed, of the runs in which it passed or failed.

    `low` and `high` bound the 95 % interval.
    """

    script: str
    scenario: str
    runs: int
    passed: int
    failed: int

    @property
    def decided(self) -> int:
        return self.passed + self.failed

    @property
    def rate(self) -> float | None:
        return self.passed / self.decided if self.decided else None

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.passed, self.decided)


def rates(outcomes: Sequence[Outcome]) -> list[PassRate]:
    """Return the pass rate of each scenario that ran several times, in the order of the scripts."""
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for outcome in outcomes:
        if outcome.repetition:
            groups.setdefault((outcome.script, outcome.name), []).append(outcome.verdict)
    return [
        PassRate(script, name, len(found), found.count("passed"), found.count("failed"))
        for (script, name), found in groups.items()
    ]


def _rate_record(rate: PassRate) -> Record:
    low, high = rate.interval
    return {
        "script": rate.script,
        "scenario": rate.scenario,
        "runs": rate.runs,
        "passed": rate.passed,
        "failed": rate.failed,
        "rate": None if rate.rate is None else round(rate.rate, 4),
        "low": round(low, 4),
        "high": round(high, 4),
    }


def _usage_record(usage: ModelUsage) -> Record:
    return {"calls": usage.calls, "tokens": usage.tokens, "seconds": round(usage.seconds, 3)}


def _judged_record(one: JudgedCriterion) -> Record:
    return {
        "criterion": one.text,
        "never": one.never,
        "decision": one.decision,
        "why": one.why,
        "votes": [
            {"verdict": vote.verdict, "messages": list(vote.messages), "why": vote.why, "problem": vote.problem}
            for vote in one.votes
        ],
        "quoted": [_line_record(line) for line in one.quoted],
    }


def _trouble(trouble: Trouble) -> Record:
    from guestctl.output.records import error_record

    return {
        "message": trouble.message,
        "line": trouble.line,
        "step": trouble.step,
        "expected": trouble.expected,
        "came": [{**_line_record(line), "unmet": list(line.unmet)} for line in trouble.came],
        "late": [{**_line_record(line), "unmet": list(line.unmet)} for line in trouble.late],
        "missing": list(trouble.missing),
        "error": None if trouble.failure is None else error_record(trouble.failure)["error"],
    }


def _line_record(line: TranscriptLine) -> Record:
    return {
        "at": line.at,
        "who": line.who,
        "text": line.text,
        "id": line.id,
        "options": list(line.options),
        "files": list(line.files),
        "content": list(line.content),
    }
