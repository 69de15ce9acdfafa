"""The outcome of a scenario, as values and as the record of `-o json`.

Knows: verdicts, expected and actual replies, the transcript, ids. Must not know: how a scenario
runs, any report format but the record. Secrets are masked in every text of an `Outcome`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from guestctl.checks.content_lines import content_lines
from guestctl.checks.timeline import TimelineEntry
from guestctl.core.errors import Exit, Failure
from guestctl.core.redact import Redactor

Record: TypeAlias = dict[str, Any]

Verdict: TypeAlias = Literal["passed", "failed", "error"]
"""failed: an expectation was not met; error: the expectations could not be tested."""

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

    `failure` is set for the verdict `error`.
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
    def short(self) -> str:
        """The reason in one line."""
        first = self.message.split("\n")[0]
        return first if self.expected is None else f"{first}: {self.expected}"


@dataclass(frozen=True)
class Outcome:
    """The result of one scenario. `ids` are the service's ids, with `conversation` if it is known.

    `attempts` is 0 for a scenario that was never started.
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
    """Return 0 if all passed, 1 if an expectation failed, else the exit code of the first error."""
    if any(outcome.verdict == "failed" for outcome in outcomes):
        return Exit.NO
    for outcome in outcomes:
        if outcome.trouble is not None and outcome.trouble.failure is not None and outcome.verdict == "error":
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
    }


def summary(outcomes: Sequence[Outcome], seconds: float) -> Record:
    """Return the outcome of a run as one JSON object."""
    return {**totals(outcomes, seconds), "scenarios": [record(outcome) for outcome in outcomes]}


def totals(outcomes: Sequence[Outcome], seconds: float) -> Record:
    """Return the number of scenarios with each verdict."""
    count = {verdict: sum(o.verdict == verdict for o in outcomes) for verdict in ("passed", "failed", "error")}
    return {
        "kind": "check-run",
        "passed": count["passed"],
        "failed": count["failed"],
        "errors": count["error"],
        "seconds": round(seconds, 3),
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
