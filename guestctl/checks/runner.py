"""The runner: runs many scenarios in parallel and yields their outcomes in the order of the script.

Knows: threads, retries, when a service cannot be tested at all. Must not know: steps, report
formats, YAML. Memory grows with the number of outcomes, not with the length of conversations.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, replace

from guestctl.checks.ai.budget import ModelUsage
from guestctl.checks.ai.model_calls import ConversationCalls, ModelCalls
from guestctl.checks.outcomes import Attempt, Details, Outcome, Trouble, usage_sum
from guestctl.checks.scenario import RunStopped, ScenarioRun, steps_of
from guestctl.checks.script import Scenario, Script
from guestctl.checks.service import ServiceUnderTest
from guestctl.checks.variables import is_secret
from guestctl.checks.wire_log import WireLog
from guestctl.core.errors import Exit, Failure, Forbidden, NetworkError, Unauthorised, UsageError, bug
from guestctl.core.redact import Redactor

#: Failures to connect whose cause is the service or the profile, not one scenario.
_UNUSABLE = (NetworkError, Unauthorised, Forbidden, UsageError)


class Interrupted(Failure):
    """The run was interrupted before this scenario had a verdict."""

    exit = Exit.INTERRUPTED
    default_code = "interrupted"

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="run the check again: unfinished scenarios have no verdict")


class RunTerminated(Interrupted):
    """The run was terminated by SIGTERM before this scenario had a verdict."""

    exit = Exit.TERMINATED


class RunHungUp(Interrupted):
    """The terminal was closed (SIGHUP) before this scenario had a verdict."""

    exit = Exit.HUNG_UP


@dataclass(frozen=True)
class Job:
    """One scenario to run. `golden`: its golden transcript; None without one.

    `calls` asks the models of its AI steps. `repetition` counts from 1 if every scenario runs several times, and is 0
    otherwise.
    """

    script: Script
    scenario: Scenario
    service: ServiceUnderTest
    golden: tuple[str, ...] | None = None
    calls: ModelCalls | None = None
    repetition: int = 0


@dataclass(frozen=True)
class Rules:
    """How scenarios run. `wait`: seconds that a step may take; `retries`: minimum number of retries per scenario.

    `detailed`: outcomes have details.
    """

    wait: float = 30.0
    parallel: int = 1
    retries: int = 0
    bless: bool = False
    detailed: bool = False


def selected(script: Script, tags: Collection[str]) -> tuple[Scenario, ...]:
    """Return the scenarios with any of these tags, or all without tags. A tag `-name` excludes scenarios."""
    included = {tag for tag in tags if not tag.startswith("-")}
    excluded = {tag[1:] for tag in tags if tag.startswith("-")}
    return tuple(
        scenario
        for scenario in script.scenarios
        if (not included or scenario.tags & included) and not scenario.tags & excluded
    )


class Runner:
    """Runs jobs. `environ` gives variables that neither the script nor the command line sets."""

    def __init__(self, rules: Rules, environ: Mapping[str, str]) -> None:
        self._rules = rules
        self._environ = environ
        self._stopping = threading.Event()
        #: By job number: outcomes not yet yielded, and scenarios that are running, with the number of the attempt.
        self._done: dict[int, Outcome | BaseException] = {}
        self._tried: dict[int, tuple[int, ScenarioRun | None]] = {}
        #: By job number: what the model calls of the attempts before the current one have used.
        self._used_before: dict[int, ModelUsage | None] = {}
        #: By job number: the attempts that have ended, if outcomes have details.
        self._ended: dict[int, list[Attempt]] = {}

    def run(self, jobs: Sequence[Job]) -> Generator[Outcome, None, None]:
        """Yield the outcomes in the order of the jobs, each as soon as it and those before it are known.

        Closing the generator early stops the running scenarios. An internal error in a scenario becomes its
        outcome. Anything else that a thread raises is raised here.
        """
        done = self._done
        change = threading.Condition()
        waiting = iter(range(len(jobs)))

        def work() -> None:
            while True:
                with change:
                    number = next(waiting, None)
                if number is None or self._stopping.is_set():
                    return
                result: Outcome | BaseException
                try:
                    result = self._outcome_of(jobs[number], number)
                except RunStopped:
                    return
                except BaseException as error:  # raised again in the thread that waits for the result
                    result = error
                with change:
                    done[number] = result
                    self._tried.pop(number, None)
                    self._used_before.pop(number, None)
                    self._ended.pop(number, None)
                    change.notify_all()

        # Daemon threads, because an interrupted run must not wait for them.
        for n in range(min(self._rules.parallel, len(jobs))):
            threading.Thread(target=work, name=f"check-{n}", daemon=True).start()
        try:
            for number in range(len(jobs)):
                with change:
                    while number not in done:
                        change.wait()
                    result = done[number]
                if isinstance(result, BaseException):
                    raise result
                yield result
                del done[number]
        finally:
            self._stopping.set()

    def remaining(self, jobs: Sequence[Job], given: int, cause: type[Interrupted] = Interrupted) -> list[Outcome]:
        """Return the other outcomes of a run that was interrupted after the first `given` outcomes.

        An interrupted run never passes. Unfinished scenarios are reported as errors. A scenario that has
        finished since then keeps its outcome.
        """
        return [self._remaining(number, jobs[number], cause) for number in range(given, len(jobs))]

    def _remaining(self, number: int, job: Job, cause: type[Interrupted]) -> Outcome:
        # Looked up before `_done`, because a finished scenario leaves this mapping.
        tried = self._tried.get(number)
        used_before = self._used_before.get(number)
        ended = list(self._ended.get(number, ()))
        done = self._done.get(number)
        if isinstance(done, Outcome):
            return done
        if tried is not None:
            outcome = self._interrupted(job, tried, cause("interrupted while the scenario ran"))
            return replace(_with_attempts(outcome, ended), usage=usage_sum([used_before, outcome.usage]))
        return replace(self._not_run(job, cause("interrupted before the scenario started")), attempts=0)

    def _interrupted(self, job: Job, tried: tuple[int, ScenarioRun | None], failure: Failure) -> Outcome:
        attempt, run = tried
        outcome = self._not_run(job, failure) if run is None else run.interrupted(failure)
        return replace(outcome, attempts=attempt, repetition=job.repetition)

    def _outcome_of(self, job: Job, number: int) -> Outcome:
        """Run one scenario. An internal error becomes its outcome."""
        try:
            return self.one(job, number)
        except RunStopped:
            raise
        except Exception as error:
            outcome = self._interrupted(job, self._tried[number], bug(error))
            outcome = _with_attempts(outcome, self._ended.get(number, ()))
            return replace(outcome, usage=usage_sum([self._used_before.get(number), outcome.usage]))

    def one(self, job: Job, number: int = 0) -> Outcome:
        """Run one scenario, with its retries. Raises RunStopped, and any exception that is an internal error."""
        tries = 1 + max(self._rules.retries, job.scenario.retries)
        for attempt in range(1, tries + 1):
            outcome = self._try(job, number, attempt)
            # A report counts what was paid for, also in the attempts that do not decide.
            used = usage_sum([self._used_before.get(number), outcome.usage])
            outcome = replace(outcome, attempts=attempt, repetition=job.repetition, usage=used)
            outcome = _with_attempts(outcome, self._ended.get(number, ()))
            failure = None if outcome.trouble is None else outcome.trouble.failure
            useless = isinstance(failure, UsageError) or (failure is not None and failure.code == "ai.budget")
            if outcome.verdict == "passed" or attempt == tries or useless or job.service.unusable is not None:
                break
            self._used_before[number] = used
            if outcome.details is not None:
                self._ended[number] = list(outcome.details.attempts)
        return self._with_conversation_id(job, outcome)

    def _try(self, job: Job, number: int, attempt: int) -> Outcome:
        service, scenario = job.service, job.scenario
        self._tried[number] = attempt, None
        if service.unusable is not None:
            return self._not_run(job, service.unusable, "not run: ")
        wire = WireLog(service.clock) if self._rules.detailed else None
        try:
            client = service.guest(self._rules.wait, scenario.name, wire)
        except Failure as failure:
            return self._not_run(job, failure, "not run: ")
        values = {**self._environ, **job.script.variables}
        run = ScenarioRun(
            script=str(job.script.path),
            scenario=scenario,
            client=client,
            wait=self._rules.wait,
            folder=job.script.path.parent,
            values=values,
            redactor=self._redactor(job),
            golden=job.golden,
            bless=self._rules.bless and scenario.golden,
            stopping=self._stopping.is_set,
            calls=_calls(job, attempt),
            repetition=max(1, job.repetition),
            wire=wire,
        )
        self._tried[number] = attempt, run
        finished: Outcome | None = None
        try:
            outcome = finished = run.run()
        finally:
            service.release(client, finished)
        if run.opened:
            service.reached = True
        elif not service.reached and outcome.trouble and isinstance(outcome.trouble.failure, _UNUSABLE):
            service.unusable = outcome.trouble.failure
        return outcome

    def _redactor(self, job: Job) -> Redactor:
        """Return a redactor that knows the secrets of the profile and the variables with secret names."""
        redactor = job.service.redactor()
        for name, value in {**self._environ, **job.script.variables, **job.scenario.values}.items():
            if is_secret(name):
                redactor.add(value)
        return redactor

    def _not_run(self, job: Job, failure: Failure, prefix: str = "") -> Outcome:
        scenario = job.scenario
        return Outcome(
            script=str(job.script.path),
            name=scenario.name,
            line=scenario.line,
            tags=tuple(sorted(scenario.tags)),
            verdict="error",
            seconds=0.0,
            repetition=job.repetition,
            trouble=Trouble(f"{prefix}{failure.message}", scenario.line, "", failure=failure),
            details=Details(tuple(steps_of(scenario, self._redactor(job)))) if self._rules.detailed else None,
        )

    def _with_conversation_id(self, job: Job, outcome: Outcome) -> Outcome:
        """Look up the id of a conversation that did not pass, if the API does not report it."""
        if outcome.verdict == "passed" or outcome.ids.get("conversation"):
            return outcome
        message_id = next((line.id for line in outcome.transcript if line.id and line.who is not None), None)
        conversation = job.service.conversation_of(message_id) if message_id else None
        return replace(outcome, ids={**outcome.ids, "conversation": conversation}) if conversation else outcome


def _with_attempts(outcome: Outcome, ended: Sequence[Attempt]) -> Outcome:
    """Return an outcome whose details have the attempts before it and itself."""
    if outcome.details is None:
        return outcome
    reason = "" if outcome.trouble is None else outcome.trouble.short
    attempts = (*ended, Attempt(outcome.verdict, outcome.seconds, reason))
    return replace(outcome, details=replace(outcome.details, attempts=attempts))


def _calls(job: Job, attempt: int) -> ConversationCalls | None:
    """Return the model calls of one attempt, under the place that recordings know it by."""
    if job.calls is None:
        return None
    place = {
        "script": job.script.path.name,
        "scenario": job.scenario.name,
        "run": max(1, job.repetition),
        "attempt": attempt,
    }
    return job.calls.conversation(place)
