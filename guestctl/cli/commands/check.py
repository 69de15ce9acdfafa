"""`check`: runs scripted conversations as tests.

Knows: the options, the reports on stdout, the exit code. Must not know: how a scenario runs, the reports that are files
(`check_reports`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from guestctl.cli.commands.check_reports import (
    ReportFile,
    ReportWriter,
    check_places,
    named_reports,
    names_in,
    write_refusal,
)
from guestctl.cli.invocation import Invocation
from guestctl.cli.options import command, pairs
from guestctl.cli.parameters import CommandArgument, CommandOption, ModelRecord, ModelReplay, TraceAttribute
from guestctl.core.clock import SystemClock
from guestctl.core.errors import Failure, UsageError
from guestctl.output.writer import ClosedPipe

if TYPE_CHECKING:
    from guestctl.checks.ai.model_calls import ModelCalls
    from guestctl.checks.ai.recordings import Recorder, Recordings
    from guestctl.checks.outcomes import Outcome
    from guestctl.checks.runner import Interrupted, Job
    from guestctl.checks.script import Script
    from guestctl.checks.service import ServiceUnderTest
    from guestctl.core.model import Profile


_STDIN, _STDIN_NAME = Path("-"), Path("stdin")
#: Stands for the script in a report of a run without one.
_NO_SCRIPT = Path("check")
#: How many skipped files of a directory are named.
_MOST_NAMED = 5


@command(
    "guestctl check tests --parallel 10 --junit report.xml",
    "guestctl sandbox exec --script bot.yaml -- guestctl check bot.check.yaml",
    needs="profile",
)
def check(
    run: Invocation,
    files: Annotated[
        list[Path] | None,
        CommandArgument(metavar="FILE...", help="check scripts (YAML or JSON), directories of them, or - for stdin"),
    ] = None,
    parallel: Annotated[
        int,
        CommandOption(
            "--parallel", metavar="N", min=1, max=1000, help="number of scenarios to run at once", show_default=True
        ),
    ] = 1,
    junit: Annotated[
        Path | None,
        CommandOption("--junit", metavar="FILE", help="write a JUnit XML report; - is stdout, the lines go to stderr"),
    ] = None,
    html: Annotated[
        Path | None,
        CommandOption("--html", metavar="FILE", help="write one HTML file with every conversation; - is stdout"),
    ] = None,
    tap: Annotated[bool, CommandOption("--tap", help="print TAP 14")] = False,
    retries: Annotated[
        int, CommandOption("--retries", metavar="N", min=0, max=100, help="retries of a scenario that did not pass")
    ] = 0,
    tag: Annotated[
        list[str] | None,
        CommandOption("--tag", metavar="NAME", help="run only scenarios with this tag; -NAME: without it"),
    ] = None,
    var: Annotated[
        list[str] | None, CommandOption("--var", metavar="K=V", help="set a variable, ${K} in scripts")
    ] = None,
    trust: Annotated[
        bool, CommandOption("--trust", help="let scripts name hosts outside the vendor's domains")
    ] = False,
    bless: Annotated[
        bool, CommandOption("--bless", help="write the golden transcripts of scenarios that pass")
    ] = False,
    trace_attribute: TraceAttribute = None,
    repeat: Annotated[
        int | None,
        CommandOption(
            "--repeat", metavar="N", min=1, max=1000, help="run every scenario N times and report pass rates"
        ),
    ] = None,
    model_record: ModelRecord = None,
    model_replay: ModelReplay = None,
    dry_run: Annotated[
        bool, CommandOption("--dry-run", help="send nothing; print how many model calls the scripts can make")
    ] = False,
    show_keys: Annotated[bool, CommandOption("--keys", help="print every key of a script")] = False,
) -> int | None:
    """Run scripted conversations and report which do not go as expected.

    All scripts are validated before anything is sent. Every scenario runs as a new guest. Exit codes:
    0 all passed, 1 an expectation failed, else 9 a judge decided nothing, 2 a customer of the test was at
    fault or a script is wrong, another code: the service could not be tested. --timeout is the maximum
    duration of one step.
    """
    run.trace_attribute = trace_attribute
    if show_keys:
        if run.options.output is not None:
            raise UsageError("--keys cannot be combined with --output", hint="remove one of the two options")
        from guestctl.checks.script_keys import table

        run.out.verbatim(table())
        return None
    reports = named_reports(junit, html)
    try:
        files = _usable(run, files, reports, tap=tap)
        _check_recordings(model_record, model_replay, repeat, bless=bless)
    except UsageError as failure:
        write_refusal(reports, _nothing_ran((files or [_NO_SCRIPT])[0], failure), run.clock.now())
        raise

    from guestctl.checks.outcomes import exit_code
    from guestctl.checks.reader import load
    from guestctl.checks.runner import Rules, Runner

    with ExitStack() as stack:
        writer = ReportWriter(run, reports, stack)
        file = files[0]
        scripts: list[Script] = []
        try:
            named = pairs("--var", var)
            for file, content in _contents(files, run).items():
                scripts.append(load(file, named, run.world.environ, content))
                _mask_variables(run, scripts[-1])
            if dry_run:
                _print_plan(run, scripts, tag or (), retries, repeat)
                return None
            models = _Models(run, model_record, model_replay)
            jobs = _jobs(run, scripts, tag or (), bless, stack, models, repeat, trusted=trust)
        except Failure as failure:
            writer.write_failure(_nothing_ran(file, failure))  # an older report could say that all passed
            raise
        report = _report(run, len(jobs), tap=tap)
        outcomes: list[Outcome] = []
        begun = run.clock.monotonic()
        interruption: BaseException | None = None
        rules = Rules(run.options.timeout or 30.0, parallel, retries, bless, detailed=html is not None)
        runner = Runner(rules, run.world.environ)
        writer.write_unfinished(runner.remaining(jobs, 0))
        try:
            with closing(runner.run(jobs)) as running:
                for outcome in running:
                    outcomes.append(outcome)
                    report.add(outcome)
        except BaseException as error:
            interruption = error
            outcomes += runner.remaining(jobs, len(outcomes), _cause(error))
        # Raised last: what is printed is the only report now.
        unwritten = writer.write(outcomes, run.clock.monotonic() - begun)
        if run.options.debug:
            _trace_bugs(run, jobs, outcomes)
        if interruption is not None:
            if not isinstance(interruption, (ClosedPipe, Failure)):
                report.interrupted(outcomes, run.clock.monotonic() - begun)
                _annotate(run, outcomes, tap=tap)
            raise interruption
        if bless:
            _bless(run, scripts, outcomes)
        report.end(outcomes, run.clock.monotonic() - begun)
        _annotate(run, outcomes, tap=tap)
        if unwritten is not None:
            raise unwritten
        return exit_code(outcomes) or None


def _check_recordings(record: Path | None, replay: Path | None, repeat: int | None, *, bless: bool) -> None:
    if record is not None and replay is not None:
        raise UsageError(
            "--model-record cannot be combined with --model-replay",
            hint="record with the first option, then replay with the second one",
        )
    if bless and repeat is not None:
        raise UsageError("--bless cannot be combined with --repeat", hint="remove one of the two options")


def _mask_variables(run: Invocation, script: Script) -> None:
    """Mask the values of variables with secret names in the trace, as reports do."""
    from guestctl.checks.variables import is_secret

    for values in (run.world.environ, script.variables, *(scenario.values for scenario in script.scenarios)):
        for name, value in values.items():
            if is_secret(name):
                run.redactor.add(value)


class _Models:
    """Makes the model calls of each script that has AI steps. A directory is opened when it is first needed."""

    def __init__(self, run: Invocation, record: Path | None, replay: Path | None) -> None:
        self._run = run
        self._record = record
        self._replay = replay

    def calls(self, script: Script, profile: Profile) -> ModelCalls:
        """Return the calls of a script. Raises UsageError before anything is sent."""
        from guestctl.checks.ai.model_calls import calls_for

        run = self._run
        run.redactor.add(profile.ai_key)
        for deviation in script.deviations:
            run.out.notice(f"{script.path}: {deviation}")
        return calls_for(
            str(script.path),
            script.ai,
            profile,
            clock=run.clock,
            environ=run.world.environ,
            observer=_one_at_a_time(run.watcher) if run.watcher is not None else None,
            recorder=self.recorder,
            recordings=self.recordings,
        )

    @cached_property
    def recorder(self) -> Recorder | None:
        from guestctl.checks.ai.recordings import Recorder

        return None if self._record is None else Recorder(self._run.world.cwd / self._record)

    @cached_property
    def recordings(self) -> Recordings | None:
        from guestctl.checks.ai.recordings import Recordings

        return None if self._replay is None else Recordings(self._run.world.cwd / self._replay)


def _print_plan(
    run: Invocation, scripts: Sequence[Script], tags: Sequence[str], retries: int, repeat: int | None
) -> None:
    """Print the most model calls that the scripts can make."""
    from guestctl.checks.reports.console import clean, plural
    from guestctl.checks.runner import selected

    found: list[dict[str, Any]] = []
    for script in scripts:
        scenarios = selected(script, tags)
        most = {one.name: one.most_calls * (1 + max(retries, one.retries)) * (repeat or 1) for one in scenarios}
        limit = script.ai.run.calls
        calls = sum(most.values()) if limit is None else min(limit, sum(most.values()))
        found.append(
            {
                "script": str(script.path),
                "scenarios": [{"scenario": name, "calls": count} for name, count in most.items()],
                "calls": calls,
                "answer_tokens": calls * script.ai.answer_tokens,
                "token_budget": script.ai.run.tokens,
            }
        )
    total = {
        "kind": "check-plan",
        "calls": sum(one["calls"] for one in found),
        "answer_tokens": sum(one["answer_tokens"] for one in found),
        "scripts": found,
    }
    if run.out.mode in {"json", "jsonl", "yaml"}:
        run.out.one(total)
        return
    for one in found:
        for scenario in one["scenarios"]:
            name = f"{clean(one['script'])}: {clean(scenario['scenario'])}"
            run.out.verbatim(f"{name}: at most {plural(scenario['calls'], 'model call')}\n")
        tokens = one["token_budget"]
        budget = "" if tokens is None else f", and at most {plural(tokens, 'token')} in all"
        run.out.verbatim(
            f"{clean(one['script'])}: at most {plural(one['calls'], 'model call')} with at most "
            f"{plural(one['answer_tokens'], 'token')} of answers{budget}\n"
        )


def _usable(run: Invocation, files: list[Path] | None, reports: Sequence[ReportFile], *, tap: bool) -> list[Path]:
    """Return the files. Raises UsageError if there are none, or if the options for reports do not go together."""
    if not files:
        raise UsageError(
            "no script given", hint="run `guestctl check FILE.yaml`; `guestctl check --keys` lists the keys of a script"
        )
    if tap and run.options.output is not None:
        raise UsageError("--tap cannot be combined with --output", hint="remove one of the two options")
    check_places(run, reports, tap=tap)
    return files


def refused(arguments: Sequence[str], failure: Failure) -> None:
    """Write the reports of `check` for arguments that cannot be parsed."""
    write_refusal(names_in(arguments), _nothing_ran(_NO_SCRIPT, failure), SystemClock().now())


def _nothing_ran(file: Path, failure: Failure) -> Outcome:
    """Return the outcome of a run that ends before its first scenario."""
    from guestctl.checks.outcomes import Outcome, Trouble

    trouble = Trouble(failure.message, 1, "", failure=failure)
    return Outcome(str(file), "guestctl check", 1, (), "error", 0.0, attempts=0, trouble=trouble)


def _cause(error: BaseException) -> type[Interrupted]:
    from guestctl.checks.runner import Interrupted, RunHungUp, RunTerminated
    from guestctl.cli.signals import HungUp, Terminated

    if isinstance(error, HungUp):
        return RunHungUp
    return RunTerminated if isinstance(error, Terminated) else Interrupted


def _contents(files: Sequence[Path], run: Invocation) -> dict[Path, bytes | None]:
    """Return the scripts that the arguments name, each once: a directory is all scripts below it.

    The content of stdin is read here; that of a file (None) is not.
    """
    found: dict[Path, bytes | None] = {}
    for file in files:
        if file == _STDIN:
            found[_STDIN_NAME] = found.get(_STDIN_NAME) or _stdin_script(run)
        else:
            found.update(dict.fromkeys(_scripts_of(file, run) if file.is_dir() else [file]))
    return found


def _stdin_script(run: Invocation) -> bytes:
    from guestctl.core.strict_yaml import MAX_BYTES

    try:
        return run.world.read_bytes(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"stdin: {error.strerror or error}", code="config.file") from error


def _scripts_of(directory: Path, run: Invocation) -> list[Path]:
    from guestctl.checks.discovery import scripts_below

    scripts, others = scripts_below(directory)
    if others:
        names = ", ".join(str(path.relative_to(directory)) for path in others[:_MOST_NAMED])
        more = f" and {len(others) - _MOST_NAMED} more" if len(others) > _MOST_NAMED else ""
        run.out.notice(f"{directory}: skipped files without `scenarios`: {names}{more}")
    return scripts


def _jobs(
    run: Invocation,
    scripts: Sequence[Script],
    tags: Sequence[str],
    bless: bool,
    stack: ExitStack,
    models: _Models,
    repeat: int | None,
    *,
    trusted: bool,
) -> list[Job]:
    """Return every scenario to run, with its service."""
    from guestctl.checks import golden
    from guestctl.checks.runner import Job, selected
    from guestctl.checks.service import check_abilities, profile_for

    services: list[tuple[Profile, ServiceUnderTest]] = []
    jobs: list[Job] = []
    for script in scripts:
        scenarios = selected(script, tags)
        profile = profile_for(script, lambda: run.resolved, run.options.overrides, run.world.environ, trusted=trusted)
        check_abilities(script, profile)
        transcripts = golden.load(script.golden) if any(scenario.golden for scenario in scenarios) else {}
        service = next((made for known, made in services if known == profile), None)
        if service is None:
            service = _service(run, profile)
            stack.callback(service.close)
            services.append((profile, service))
        calls = models.calls(script, profile) if any(scenario.has_models for scenario in scenarios) else None
        jobs += [
            Job(script, scenario, service, transcripts.get(scenario.name), calls, number)
            for scenario in scenarios
            for number in (range(1, repeat + 1) if repeat is not None else [0])
        ]
    if not jobs:
        raise UsageError("no scenario has the tag " + " or ".join(f'"{tag}"' for tag in tags))
    if bless and not any(job.scenario.golden for job in jobs):
        raise UsageError("--bless: no scenario has `golden: true`")
    return jobs


def _service(run: Invocation, profile: Profile) -> ServiceUnderTest:
    from guestctl.checks.service import ServiceUnderTest

    return ServiceUnderTest(
        profile,
        clock=run.clock,
        environ=run.world.environ,
        observer=_one_at_a_time(run.watcher) if run.watcher is not None else None,
        traceparent=run.options.traceparent,
        propagate_baggage=run.options.propagate_baggage,
        trace_attribute=run.trace_attribute,
        spans=lambda scenario: run.spans_of(f"scenario {scenario}", {"guestctl.scenario": scenario}),
        notice=_one_at_a_time(run.out.notice),
    )


def _one_at_a_time(act: Callable[..., Any]) -> Callable[..., None]:
    """Return `act` behind a lock, for calls from many threads."""
    lock = threading.Lock()

    def locked(*positional: Any, **named: Any) -> None:
        with lock:
            act(*positional, **named)

    return locked


def _bless(run: Invocation, scripts: Sequence[Script], outcomes: Sequence[Outcome]) -> None:
    """Write the golden transcripts of scenarios that passed. The others keep theirs."""
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
        run.out.notice(f"{script.golden}: {plural(len(fresh), 'golden transcript')} written")


def _trace_bugs(run: Invocation, jobs: Sequence[Job], outcomes: Sequence[Outcome]) -> None:
    """Print the tracebacks of internal errors in scenarios, as --debug does for every command."""
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
            run.out.diagnostic(line, command=True)  # stdout is data; the CI runner reads both streams
        else:
            run.out.verbatim(line + "\n", command=True)


# --- reports on stdout ---


class _Report:
    """The report on stdout. It receives the outcomes in order, then the end of the run."""

    def __init__(self, run: Invocation) -> None:
        self.run = run
        self.added = 0

    def add(self, outcome: Outcome) -> None:
        """Add the next outcome."""
        self._one(outcome)
        self.added += 1

    def _one(self, outcome: Outcome) -> None: ...

    def end(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        """End the report."""

    def interrupted(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        """End the report of an interrupted run. `outcomes` has every scenario, already added or not."""
        for outcome in outcomes[self.added :]:
            self.add(outcome)
        self.end(outcomes, seconds)


class _Lines(_Report):
    """A line for each scenario, and an explanation of those that did not pass."""

    def _one(self, outcome: Outcome) -> None:
        from guestctl.checks.reports.console import MARKS, explanation, headline

        if self.run.options.quiet and outcome.verdict == "passed":
            return
        out = self.run.out
        mark = MARKS[outcome.verdict]
        rest = headline(outcome).removeprefix(mark)
        out.parts((mark, "service" if outcome.verdict == "passed" else "bad"), (rest, ""), hanging=6)
        for line in explanation(outcome):
            out.parts(("      " + line, ""), hanging=10)

    def end(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        self._sum(outcomes, seconds)

    def interrupted(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        """End the report with the number of scenarios that were not started."""
        from guestctl.checks.reports.console import not_started

        started = [outcome for outcome in outcomes if outcome.attempts]
        for outcome in started[self.added :]:
            self._one(outcome)
        if len(started) < len(outcomes):
            self.run.out.verbatim(not_started(len(outcomes) - len(started)) + "\n")
        self._sum(outcomes, seconds, ", interrupted")

    def _sum(self, outcomes: Sequence[Outcome], seconds: float, how: str = "") -> None:
        from guestctl.checks.reports.console import tally

        if self.run.options.quiet:
            return
        from guestctl.checks.reports.console import pass_rates, usage

        for line in pass_rates(outcomes):
            self.run.out.verbatim(f"{line}\n")
        if (used := usage(outcomes)) is not None:
            self.run.out.verbatim(f"{used}\n")
        self.run.out.verbatim(f"{tally(outcomes)}{how} in {seconds:.1f} s\n")


class _Tap(_Report):
    def __init__(self, run: Invocation, count: int) -> None:
        from guestctl.checks.reports.tap import header

        super().__init__(run)
        self._write(header(count))

    def _one(self, outcome: Outcome) -> None:
        self._point(self.added + 1, outcome)

    def end(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        from guestctl.checks.reports.console import pass_rates, usage

        comments = [*pass_rates(outcomes), *filter(None, [usage(outcomes)])]
        self._write(f"# {line}" for line in comments)

    def interrupted(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        """Bail out: scenarios that were not started have no test point."""
        from guestctl.checks.reports.tap import bail_out

        for number, outcome in enumerate(outcomes[self.added :], self.added + 1):
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
