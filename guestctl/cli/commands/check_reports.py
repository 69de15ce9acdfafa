"""The reports of `check` that are files: JUnit and HTML.

Knows: which options name them, when each is written, pipes and stdout. Must not know: the formats, how a scenario runs.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from guestctl.cli.invocation import Invocation
from guestctl.core.errors import UsageError

if TYPE_CHECKING:
    from guestctl.checks.outcomes import Outcome

Document: TypeAlias = "Callable[[Sequence[Outcome], float, float], bytes]"
"""Makes a report of outcomes, of the seconds that the run took, and of the time in epoch seconds."""


def _junit(outcomes: Sequence[Outcome], seconds: float, now: float) -> bytes:
    from guestctl.checks.reports.junit import document

    return document(outcomes)


def _html(outcomes: Sequence[Outcome], seconds: float, now: float) -> bytes:
    from guestctl.checks.reports.html import document

    return document(outcomes, seconds, now)


@dataclass(frozen=True)
class ReportFile:
    """One report. `option` names it on the command line."""

    option: str
    path: Path
    document: Document

    @property
    def to_stdout(self) -> bool:
        return str(self.path) == "-"


def named_reports(junit: Path | None, html: Path | None) -> list[ReportFile]:
    """Return the reports that the options name."""
    named: list[tuple[str, Path | None, Document]] = [("--junit", junit, _junit), ("--html", html, _html)]
    return [ReportFile(option, path, document) for option, path, document in named if path is not None]


def check_places(run: Invocation, reports: Sequence[ReportFile], *, tap: bool) -> None:
    """Refuse reports that cannot be written, or that take each other's place. Raises UsageError."""
    on_stdout = [report.option for report in reports if report.to_stdout]
    if on_stdout and (tap or run.out.mode in {"json", "jsonl", "yaml"} or len(on_stdout) > 1):
        option = on_stdout[0]
        raise UsageError(f"{option} - takes stdout, which another report takes too", hint=f"give {option} a file name")
    files = [report for report in reports if not report.to_stdout]
    for report in files:
        option, path = report.option, report.path
        if not path.absolute().parent.is_dir():
            raise UsageError(
                f'{option}: no directory "{path.absolute().parent}"',
                code="output.failed",
                hint="create it first: mkdir -p " + shlex.quote(str(path.parent)),
            )
        if path.is_dir():
            name = "report.xml" if option == "--junit" else "report.html"
            raise UsageError(
                f'{option}: "{path}" is a directory', code="output.failed", hint=f"give a file: {path / name}"
            )
    if len({os.path.realpath(report.path) for report in files}) < len(files):
        raise UsageError("--junit and --html name the same file", hint="give each report a file of its own")


def names_in(arguments: Sequence[str]) -> list[ReportFile]:
    """Return the reports that arguments name which cannot be parsed."""
    found: dict[str, Path] = {}
    for at, word in enumerate(arguments):
        if word == "--":
            break
        for option in ("--junit", "--html"):
            if word == option and at + 1 < len(arguments):
                found[option] = Path(arguments[at + 1])
            elif word.startswith(f"{option}="):
                found[option] = Path(word.partition("=")[2])
    return named_reports(found.get("--junit"), found.get("--html"))


def write_refusal(reports: Sequence[ReportFile], outcome: Outcome, now: float) -> None:
    """Write reports of a run that did not begin, because older reports could say that all passed."""
    from guestctl.checks.discovery import SUFFIXES
    from guestctl.transport.output_files import is_pipe

    for report in reports:
        # If the name of the report is missing, the option has taken that of a script.
        if report.to_stdout or report.path.suffix in SUFFIXES or is_pipe(report.path):
            continue
        with suppress(OSError):
            report.path.write_bytes(report.document([outcome], 0.0, now))


class ReportWriter:
    """Writes the reports of one run. Pipes are opened now, because a command must not wait for a reader later.

    Raises UsageError `output.failed`.
    """

    def __init__(self, run: Invocation, reports: Sequence[ReportFile], stack: ExitStack) -> None:
        self._clock = run.clock
        self._writes = [(report, _write_function(run, report, stack)) for report in reports]

    def write_unfinished(self, outcomes: Sequence[Outcome]) -> None:
        """Write reports in which no scenario has passed, before the run starts.

        A run that is killed cannot write a report, and an older report could say that all passed. Only regular files
        are written, because only they can be written again. Raises UsageError `output.failed`.
        """
        for report, write in self._writes:
            if not report.to_stdout and (report.path.is_file() or not report.path.exists()):
                write(report.document(outcomes, 0.0, self._clock.now()))

    def write(self, outcomes: Sequence[Outcome], seconds: float) -> UsageError | None:
        """Write all reports. Return the first failure: the other reports are written all the same."""
        first: UsageError | None = None
        for report, write in self._writes:
            try:
                write(report.document(outcomes, seconds, self._clock.now()))
            except UsageError as failure:
                first = first or failure
        return first

    def write_failure(self, outcome: Outcome) -> None:
        """Write reports of a run that ends before its first scenario. Raises UsageError `output.failed`."""
        failure = self.write([outcome], 0.0)
        if failure is not None:
            raise failure


def _write_function(run: Invocation, report: ReportFile, stack: ExitStack) -> Callable[[bytes], None]:
    """Return the function that writes one report."""
    from guestctl.transport.output_files import is_pipe, open_output, write_all

    if report.to_stdout:
        return stack.enter_context(run.out.on_stderr())
    path, descriptor = report.path, None
    if is_pipe(path):
        descriptor = open_output(path, report.option)
        stack.callback(os.close, descriptor)

    def write(data: bytes) -> None:
        try:
            if descriptor is None:
                path.write_bytes(data)
            else:
                write_all(descriptor, data)
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror or error}", code="output.failed") from error

    return write
