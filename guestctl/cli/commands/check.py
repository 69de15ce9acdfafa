"""`check`: scripted conversations as tests.

Knows: the options, which report goes where, the exit code. Must not know: how a scenario is run.
"""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guestctl.cli.invocation import Invocation
from guestctl.cli.options import command, pairs
from guestctl.core.errors import Failure, UsageError
from guestctl.output.writer import ClosedPipe

if TYPE_CHECKING:
    from guestctl.checks.outcomes import Outcome
    from guestctl.checks.runner import Interrupted, Job, Progress
    from guestctl.checks.script import Script
    from guestctl.checks.service import ServiceUnderTest
    from guestctl.core.model import Profile


@command(
    "guestctl check tests/*.yaml --parallel 10 --junit report.xml",
    "guestctl sandbox exec --script bot.yaml -- guestctl check bot.check.yaml",
    needs="profile",
)
def check(
    run: Invocation,
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE...", help="check scripts (YAML)")] = None,
    parallel: Annotated[
        int, typer.Option("--parallel", metavar="N", min=1, max=1000, help="scenarios at once", show_default=True)
    ] = 1,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="write a JUnit XML report")] = None,
    tap: Annotated[bool, typer.Option("--tap", help="print TAP 14 instead of lines")] = False,
    retries: Annotated[
        int, typer.Option("--retries", metavar="N", min=0, max=100, help="further tries of what did not pass")
    ] = 0,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="NAME", help="only scenarios with this tag; -NAME without it")
    ] = None,
    var: Annotated[list[str] | None, typer.Option("--var", metavar="K=V", help="a variable, ${K} in scripts")] = None,
    bless: Annotated[bool, typer.Option("--bless", help="write the golden transcripts of what passes")] = False,
    show_keys: Annotated[bool, typer.Option("--keys", help="list every key of a script")] = False,
) -> int | None:
    """Run scripted conversations and say which did not go as they should.

    Scripts are validated whole before anything is sent. Every scenario is a guest of its own. Exit 0:
    all passed; 1: an expectation failed; 2: a script is wrong; another code: the service could not be
    tested. --timeout is what one step may take.
    """
    if show_keys:
        if run.options.output is not None:
            raise UsageError("--keys is an output of its own: drop --output")
        from guestctl.checks.script_keys import table

        run.out.verbatim(table())
        return None
    if not files:
        raise UsageError("no script was named", hint="`guestctl check FILE.yaml`; `guestctl check --keys` lists keys.")
    if tap and run.options.output is not None:
        raise UsageError("--tap is an output of its own: drop --output")
    if junit is not None and not junit.absolute().parent.is_dir():
        raise UsageError(
            f"--junit {junit}: there is no directory {junit.absolute().parent}",
            code="output.failed",
            hint="Make it first: mkdir -p " + shlex.quote(str(junit.parent)),
        )
    if junit is not None and junit.is_dir():
        raise UsageError(
            f"--junit {junit}: it is a directory", code="output.failed", hint=f"Name a file: {junit / 'report.xml'}"
        )

    from guestctl.checks.outcomes import exit_code
    from guestctl.checks.reports import junit as junit_report
    from guestctl.checks.runner import Rules, Runner

    scripts = _loaded(files, pairs("--var", var), run)
    with ExitStack() as stack:
        jobs = _jobs(run, scripts, tag or (), bless, stack)
        report = _report(run, len(jobs), tap=tap)
        outcomes: list[Outcome] = []
        begun = run.clock.monotonic()
        cut_off: BaseException | None = None
        with _watching(run, jobs, tap=tap) as progress:
            runner = Runner(Rules(run.options.timeout or 30.0, parallel, retries, bless), run.world.environ, progress)
            if junit is not None:
                junit_report.promise(junit, runner.left(jobs, 0))
            try:
                with closing(runner.run(jobs)) as running:
                    for outcome in running:
                        outcomes.append(outcome)
                        report.add(outcome)
            except BaseException as error:
                cut_off = error
                outcomes += runner.left(jobs, len(outcomes), _cause(error))
        unwritten: UsageError | None = None
        if junit is not None:
            try:
                junit_report.write(junit, outcomes)
            except UsageError as failure:
                unwritten = failure  # told last: what is printed is the only report now
        if run.options.debug:
            _trace_bugs(run, jobs, outcomes)
        if cut_off is not None:
            if not isinstance(cut_off, (ClosedPipe, Failure)):
                report.cut_off(outcomes, run.clock.monotonic() - begun)
                _annotate(run, outcomes, tap=tap)
            raise cut_off
        if bless:
            _bless(run, scripts, outcomes)
        report.end(outcomes, run.clock.monotonic() - begun)
        _annotate(run, outcomes, tap=tap)
        if unwritten is not None:
            raise unwritten
        return exit_code(outcomes) or None


def _cause(error: BaseException) -> type[Interrupted]:
    from guestctl.checks.runner import Interrupted, RunTerminated
    from guestctl.cli.signals import Terminated as Sigterm

    return RunTerminated if isinstance(error, Sigterm) else Interrupted


def _loaded(files: Sequence[Path], variables: Mapping[str, str], run: Invocation) -> list[Script]:
    from guestctl.checks.reader import load

    return [load(file, variables, run.world.environ) for file in dict.fromkeys(files)]


def _jobs(run: Invocation, scripts: Sequence[Script], tags: Sequence[str], bless: bool, stack: ExitStack) -> list[Job]:
    """Everything that will be run, with the service each runs against."""
    from guestctl.checks import golden
    from guestctl.checks.runner import Job, chosen
    from guestctl.checks.service import check_abilities, profile_for

    services: list[tuple[Profile, ServiceUnderTest]] = []
    jobs: list[Job] = []
    for script in scripts:
        scenarios = chosen(script, tags)
        profile = profile_for(script, lambda: run.resolved, run.options.overrides, run.world.environ)
        check_abilities(script, profile)
        transcripts = golden.load(script.golden) if any(scenario.golden for scenario in scenarios) else {}
        service = next((made for known, made in services if known == profile), None)
        if service is None:
            service = _service(run, profile)
            stack.callback(service.close)
            services.append((profile, service))
        jobs += [Job(script, scenario, service, transcripts.get(scenario.name)) for scenario in scenarios]
    if not jobs:
        raise UsageError(f"no scenario has the tag {' or '.join(tags)}")
    if bless and not any(job.scenario.golden for job in jobs):
        raise UsageError("--bless: no scenario says `golden: true`")
    return jobs


def _service(run: Invocation, profile: Profile) -> ServiceUnderTest:
    from guestctl.checks.service import ServiceUnderTest

    return ServiceUnderTest(
        profile,
        clock=run.clock,
        environ=run.world.environ,
        observer=_one_at_a_time(run.watcher) if run.watcher is not None else None,
        traceparent=run.options.traceparent,
        notice=_one_at_a_time(run.out.say),
    )


def _one_at_a_time(act: Callable[..., Any]) -> Callable[..., None]:
    """The same, for many threads."""
    turn = threading.Lock()

    def taken(*words: Any, **named: Any) -> None:
        with turn:
            act(*words, **named)

    return taken


@contextmanager
def _watching(run: Invocation, jobs: Sequence[Job], *, tap: bool) -> Iterator[Callable[[Progress], None]]:
    """A live table on a terminal; elsewhere nothing is told before it is final."""
    if not run.out.terminal.stderr or run.options.quiet or tap or run.out.mode not in {"auto", "table"}:
        yield lambda progress: None
        return
    from guestctl.cli.commands.check_screen import Screen

    names = [job.scenario.name for job in jobs]
    with Screen(run.world.stderr, run.out.terminal.for_talk(), names, run.clock) as screen:
        yield screen.told


def _bless(run: Invocation, scripts: Sequence[Script], outcomes: Sequence[Outcome]) -> None:
    """Write what passed; what did not keeps the transcript it had."""
    from guestctl.checks import golden
    from guestctl.checks.reports.console import plural

    for script in scripts:
        fresh = {o.name: o.blessed for o in outcomes if o.script == str(script.path) and o.blessed is not None}
        if not fresh:
            continue
        known = golden.load(script.golden)
        names = [scenario.name for scenario in script.scenarios if scenario.golden]
        both = {**known, **fresh}
        golden.save(script.golden, {name: both[name] for name in names if name in both})
        run.out.say(f"{script.golden}: {plural(len(fresh), 'golden transcript')} written")


def _trace_bugs(run: Invocation, jobs: Sequence[Job], outcomes: Sequence[Outcome]) -> None:
    """Where scenarios died of a bug of ours, as --debug shows it for any command."""
    for job, outcome in zip(jobs, outcomes, strict=False):
        failure = outcome.trouble and outcome.trouble.failure
        if failure and failure.code == "bug" and failure.__cause__ is not None:
            run.out.traceback(failure.__cause__, job.service.redactor().text)


def _annotate(run: Invocation, outcomes: Sequence[Outcome], *, tap: bool) -> None:
    from guestctl.checks.reports import github

    if not github.wanted(run.world.environ):
        return
    for line in github.errors(outcomes, run.world.environ):
        if tap or run.out.mode in {"json", "jsonl", "yaml"}:
            run.out.diagnostic(line)  # stdout is somebody else's data; the runner reads both
        else:
            run.out.verbatim(line + "\n")


# --- what is printed ---


class _Report:
    """What goes to stdout: told of each outcome in order, and of the end."""

    def __init__(self, run: Invocation) -> None:
        self.run = run
        self.told = 0

    def add(self, outcome: Outcome) -> None:
        """One more."""
        self._one(outcome)
        self.told += 1

    def _one(self, outcome: Outcome) -> None: ...

    def end(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        """That was all."""

    def cut_off(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        """The run was interrupted; `outcomes` are those of every scenario, told or not."""
        for outcome in outcomes[self.told :]:
            self.add(outcome)
        self.end(outcomes, seconds)


class _Lines(_Report):
    """A line for each scenario, and everything about those that did not pass. On a terminal all of it
    comes at the end, when the live table has gone."""

    @property
    def _at_the_end(self) -> bool:
        return self.run.out.terminal.stderr and not self.run.options.quiet

    def _one(self, outcome: Outcome) -> None:
        if not self._at_the_end:
            self._print(outcome)

    def end(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        if self._at_the_end:
            for outcome in outcomes:
                self._print(outcome)
        self._sum(outcomes, seconds)

    def cut_off(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        """Of what never began there is only the number to tell."""
        from guestctl.checks.reports.console import not_begun

        begun = [outcome for outcome in outcomes if outcome.attempts]
        for outcome in begun[0 if self._at_the_end else self.told :]:
            self._print(outcome)
        if len(begun) < len(outcomes):
            self.run.out.verbatim(not_begun(len(outcomes) - len(begun)) + "\n")
        self._sum(outcomes, seconds, ", interrupted")

    def _sum(self, outcomes: Sequence[Outcome], seconds: float, how: str = "") -> None:
        from guestctl.checks.reports.console import tally

        if self.run.options.quiet:
            return
        took = f" in {seconds:.1f} s" if self.run.out.terminal.stdout else ""
        self.run.out.verbatim(f"{tally(outcomes)}{how}{took}\n")

    def _print(self, outcome: Outcome) -> None:
        from guestctl.checks.reports.console import MARKS, explanation, headline

        if self.run.options.quiet and outcome.verdict == "passed":
            return
        out = self.run.out
        head = headline(outcome)
        if out.terminal.colour:
            mark = MARKS[outcome.verdict]
            head = f"\x1b[{'32' if outcome.verdict == 'passed' else '31'}m{mark}\x1b[0m{head.removeprefix(mark)}"
        took = f" ({outcome.seconds:.2f} s)" if out.terminal.stdout else ""
        out.verbatim(f"{head}{took}\n")
        for line in explanation(outcome):
            out.verbatim("      " + self._folded(line) + "\n")

    def _folded(self, line: str) -> str:
        from guestctl.output.terminal import block

        return block(line, 10, self.run.out.terminal.width)


class _Tap(_Report):
    def __init__(self, run: Invocation, count: int) -> None:
        from guestctl.checks.reports.tap import header

        super().__init__(run)
        self._write(header(count))

    def _one(self, outcome: Outcome) -> None:
        self._point(self.told + 1, outcome)

    def cut_off(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        """What never began has no point: that is what bailing out says."""
        from guestctl.checks.reports.tap import bail_out

        for number, outcome in enumerate(outcomes[self.told :], self.told + 1):
            if outcome.attempts:
                self._point(number, outcome)
        self._write(bail_out())

    def _point(self, number: int, outcome: Outcome) -> None:
        from guestctl.checks.reports.tap import point

        self._write(point(number, outcome))

    def _write(self, lines: Iterator[str]) -> None:
        self.run.out.verbatim("".join(f"{line}\n" for line in lines))


class _Records(_Report):
    """`-o json`, `yaml`: one object; `-o jsonl`: one line for each scenario and one for the run."""

    def _one(self, outcome: Outcome) -> None:
        from guestctl.checks.outcomes import record

        if self.run.out.mode == "jsonl":
            self.run.out.event(record(outcome))

    def end(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        from guestctl.checks.outcomes import summary, totals

        if self.run.out.mode == "jsonl":
            self.run.out.event(totals(outcomes, seconds))
        else:
            self.run.out.one(summary(outcomes, seconds))


def _report(run: Invocation, count: int, *, tap: bool) -> _Report:
    if tap:
        return _Tap(run, count)
    return _Records(run) if run.out.mode in {"json", "jsonl", "yaml"} else _Lines(run)
