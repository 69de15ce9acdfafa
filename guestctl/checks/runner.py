"""Many scenarios: which ones, how many at once, how often; their outcomes in the script's order.

Knows: threads, retries, when a service is beyond testing. Must not know: steps, report formats,
YAML. Memory does not grow with the number of scenarios, but for what is reported of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, replace

from guestctl.checks.outcomes import Outcome, Trouble
from guestctl.checks.scenario import Play, Stopped
from guestctl.checks.script import Scenario, Script
from guestctl.checks.service import ServiceUnderTest
from guestctl.core.errors import Exit, Failure, Forbidden, NetworkError, Unauthorised, UsageError, bug

#: Failures at the door that tell of the service or the profile, not of one scenario.
_CLOSED = (NetworkError, Unauthorised, Forbidden, UsageError)

#: A variable so called is not shown, whatever it holds.
_SECRET_NAMES = ("password", "secret", "token", "jwt", "pin", "passwd", "apikey", "api_key", "credential")


class Interrupted(Failure):
    """The run was cut off before this scenario had a verdict."""

    exit = Exit.INTERRUPTED
    default_code = "interrupted"

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="Run the check again: what was cut off has no verdict.")


class RunTerminated(Interrupted):
    """The same, by SIGTERM."""

    exit = Exit.TERMINATED


@dataclass(frozen=True)
class Job:
    """One scenario to be run. `golden`: its transcript, None when there is none."""

    script: Script
    scenario: Scenario
    service: ServiceUnderTest
    golden: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Progress:
    """What is happening to job number `number`: the step being done, or its outcome."""

    number: int
    doing: str = ""
    attempt: int = 1
    outcome: Outcome | None = None


@dataclass(frozen=True)
class Rules:
    """How scenarios are run. `wait`: seconds a step may take; `retries`: at least so many further tries."""

    wait: float = 30.0
    parallel: int = 1
    retries: int = 0
    bless: bool = False


def chosen(script: Script, tags: Collection[str]) -> tuple[Scenario, ...]:
    """The scenarios that have any of these tags, all when there are none; `-name` leaves some out."""
    wanted = {tag for tag in tags if not tag.startswith("-")}
    unwanted = {tag[1:] for tag in tags if tag.startswith("-")}
    return tuple(
        scenario
        for scenario in script.scenarios
        if (not wanted or scenario.tags & wanted) and not scenario.tags & unwanted
    )


class Runner:
    """Runs jobs. `environ` gives variables that neither script nor command line do; `progress` is told
    from the threads that do the work."""

    def __init__(
        self,
        rules: Rules,
        environ: Mapping[str, str],
        progress: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self._rules = rules
        self._environ = environ
        self._progress = progress
        self._stopping = threading.Event()
        #: By number: outcomes that wait for their turn, and scenarios being tried, for which time and how.
        self._done: dict[int, Outcome | BaseException] = {}
        self._tried: dict[int, tuple[int, Play | None]] = {}

    def run(self, jobs: Sequence[Job]) -> Generator[Outcome, None, None]:
        """The outcomes in the order of the jobs, each as soon as it and those before it are there.

        Closing the generator early stops what is running. A scenario that dies of a bug of ours has that for
        its outcome; what else goes wrong in a thread is raised here.
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
                    result = self._one_or_bug(jobs[number], number)
                except Stopped:
                    return
                except BaseException as error:  # told by whoever waits for it
                    result = error
                with change:
                    done[number] = result
                    self._tried.pop(number, None)
                    change.notify_all()

        # Daemons: whatever one of them waits for, an interrupted run does not wait for it.
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

    def left(self, jobs: Sequence[Job], given: int, cause: type[Interrupted] = Interrupted) -> list[Outcome]:
        """What is left of a run that was cut off when it had `given` so many outcomes: what has finished
        meanwhile has its own."""
        return [self._left(number, jobs[number], cause) for number in range(given, len(jobs))]

    def _left(self, number: int, job: Job, cause: type[Interrupted]) -> Outcome:
        tried = self._tried.get(number)  # asked first: what is done is not among them any more
        done = self._done.get(number)
        if isinstance(done, Outcome):
            return done
        if tried is not None:
            return self._cut_off(job, tried, cause("interrupted while it ran"))
        return replace(self._not_run(job, cause("interrupted before it began")), attempts=0)

    def _cut_off(self, job: Job, tried: tuple[int, Play | None], failure: Failure) -> Outcome:
        attempt, play = tried
        outcome = self._not_run(job, failure) if play is None else play.cut_off(failure)
        return replace(outcome, attempts=attempt)

    def _one_or_bug(self, job: Job, number: int) -> Outcome:
        try:
            return self.one(job, number)
        except Stopped:
            raise
        except Exception as error:
            outcome = self._cut_off(job, self._tried[number], bug(error))
            self._progress(Progress(number, outcome=outcome))
            return outcome

    def one(self, job: Job, number: int = 0) -> Outcome:
        """One scenario, as often as it may be tried. Raises Stopped, and whatever is a bug of ours."""
        tries = 1 + max(self._rules.retries, job.scenario.retries)
        for attempt in range(1, tries + 1):
            outcome = replace(self._try(job, number, attempt), attempts=attempt)
            hopeless = outcome.trouble is not None and isinstance(outcome.trouble.failure, UsageError)
            if outcome.verdict == "passed" or attempt == tries or hopeless or job.service.closed is not None:
                break
        outcome = self._found(job, outcome)
        self._progress(Progress(number, attempt=outcome.attempts, outcome=outcome))
        return outcome

    def _try(self, job: Job, number: int, attempt: int) -> Outcome:
        service, scenario = job.service, job.scenario
        self._tried[number] = attempt, None
        if service.closed is not None:
            return self._not_run(job, service.closed, "not run: ")
        try:
            client = service.guest(self._rules.wait)
        except Failure as failure:
            return self._not_run(job, failure, "not run: ")
        values = {**self._environ, **job.script.variables}
        redactor = service.redactor()
        for name, value in {**values, **scenario.values}.items():
            if any(word in name.lower() for word in _SECRET_NAMES):
                redactor.add(value)
        play = Play(
            script=str(job.script.path),
            scenario=scenario,
            client=client,
            wait=self._rules.wait,
            folder=job.script.path.parent,
            values=values,
            redactor=redactor,
            golden=job.golden,
            bless=self._rules.bless and scenario.golden,
            stopping=self._stopping.is_set,
            doing=lambda step: self._progress(Progress(number, step, attempt)),
        )
        self._progress(Progress(number, "connecting", attempt))
        self._tried[number] = attempt, play
        try:
            outcome = play.run()
        finally:
            service.done(client)
        if play.opened:
            service.reached = True
        elif not service.reached and outcome.trouble and isinstance(outcome.trouble.failure, _CLOSED):
            service.closed = outcome.trouble.failure
        return outcome

    def _not_run(self, job: Job, failure: Failure, said: str = "") -> Outcome:
        scenario = job.scenario
        return Outcome(
            script=str(job.script.path),
            name=scenario.name,
            line=scenario.line,
            tags=tuple(sorted(scenario.tags)),
            verdict="error",
            seconds=0.0,
            trouble=Trouble(f"{said}{failure.message}", scenario.line, "", failure=failure),
        )

    def _found(self, job: Job, outcome: Outcome) -> Outcome:
        """With the conversation's id, when something is wrong and the API has not told it."""
        if outcome.verdict == "passed" or outcome.ids.get("conversation"):
            return outcome
        ours = next((line.id for line in outcome.transcript if line.id and line.who is not None), None)
        conversation = job.service.conversation_of(ours) if ours else None
        return replace(outcome, ids={**outcome.ids, "conversation": conversation}) if conversation else outcome
