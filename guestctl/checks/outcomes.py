"""What came of a scenario, as values and as the one record of `-o json`.

Knows: verdicts, what was expected and what came, the transcript, ids. Must not know: how anything
was run, any report format but the record. Every text of an `Outcome` has had its secrets masked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from guestctl.checks.content_lines import shown
from guestctl.checks.timeline import TimelineEntry
from guestctl.core.errors import Exit, Failure
from guestctl.core.redact import Redactor

Record: TypeAlias = dict[str, Any]

Verdict: TypeAlias = Literal["passed", "failed", "error"]
"""failed: an expectation was not met; error: it could not be found out whether one was."""

#: Lines of a transcript that a report keeps, the newest.
KEPT = 200


@dataclass(frozen=True)
class Said:
    """One line of a transcript. `at`: seconds since the scenario began; `who` is None for a remark;
    `content`: what cards, pickers and forms say."""

    at: float
    who: str | None
    text: str
    id: str | None = None
    options: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    content: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trouble:
    """Why a scenario did not pass. `line` is that of the step; `came` what came instead, with times;
    `late` what came in the `waited` seconds after the step had failed.

    `failure` is there when it is an error.
    """

    message: str
    line: int
    step: str
    expected: str | None = None
    came: tuple[Said, ...] = ()
    failure: Failure | None = None
    late: tuple[Said, ...] = ()
    waited: float = 0.0

    @property
    def short(self) -> str:
        """In one line."""
        first = self.message.split("\n")[0]
        return first if self.expected is None else f"{first}: {self.expected}"


@dataclass(frozen=True)
class Outcome:
    """One scenario's result. `ids`: the service's own, `conversation` among them where it is known.

    `attempts` is 0 for one that never began."""

    script: str
    name: str
    line: int
    tags: tuple[str, ...]
    verdict: Verdict
    seconds: float
    attempts: int = 1
    trouble: Trouble | None = None
    transcript: tuple[Said, ...] = ()
    ids: Mapping[str, str | None] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    #: The whole conversation as a golden transcript has it, when it was asked to be written.
    blessed: tuple[str, ...] | None = None


def said(entry: TimelineEntry, redactor: Redactor) -> Said:
    """An entry of the timeline, its secrets masked."""
    at = round(entry.at, 3)
    message = entry.message
    if message is None:
        return Said(at, None, redactor.text(entry.remark or ""))
    role = "guest" if message.direction == "inbound" else message.sender.role or "service"
    return Said(
        at,
        role,
        redactor.text(message.text),
        message.id or None,
        tuple(redactor.text(option.text) for option in message.options),
        tuple(redactor.text(file.name or file.mime or "unnamed") for file in message.attachments),
        tuple(redactor.text(line) for line in shown(message.content)),
    )


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """0 all passed; 1 the bot failed somewhere; else the code of the first error: nothing the bot did."""
    if any(outcome.verdict == "failed" for outcome in outcomes):
        return Exit.NO
    for outcome in outcomes:
        if outcome.trouble is not None and outcome.trouble.failure is not None and outcome.verdict == "error":
            return int(outcome.trouble.failure.exit)
    return Exit.DONE


def record(outcome: Outcome) -> Record:
    """A scenario's result as JSON-able members."""
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
        "transcript": [_said(line) for line in outcome.transcript],
        "remarks": list(outcome.remarks),
    }


def summary(outcomes: Sequence[Outcome], seconds: float) -> Record:
    """The whole run as one object."""
    return {**totals(outcomes, seconds), "scenarios": [record(outcome) for outcome in outcomes]}


def totals(outcomes: Sequence[Outcome], seconds: float) -> Record:
    """How many there were of each verdict."""
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
        "came": [_said(line) for line in trouble.came],
        "late": [_said(line) for line in trouble.late],
        "error": None if trouble.failure is None else error_record(trouble.failure)["error"],
    }


def _said(line: Said) -> Record:
    return {
        "at": line.at,
        "who": line.who,
        "text": line.text,
        "id": line.id,
        "options": list(line.options),
        "files": list(line.files),
        "content": list(line.content),
    }
