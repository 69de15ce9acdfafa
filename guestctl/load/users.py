"""The classes that Locust runs: a guest that runs the scenarios of a check script, and one for a locustfile.

Knows: Locust's users, and how a conversation begins and ends. Must not know: the command line, processes, any API's
wire.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import gevent
from locust import User, task
from locust.exception import StopUser

from guestctl.checks.expectation import Conditions
from guestctl.checks.outcomes import Trouble
from guestctl.checks.scenario import RunStopped
from guestctl.checks.script import Scenario, Step, ThinkTime
from guestctl.checks.variables import is_secret
from guestctl.client import Client
from guestctl.core.clock import SystemClock
from guestctl.core.errors import CheckFailed, Failure, UsageError, bug
from guestctl.core.model import Message
from guestctl.load.guest_run import GuestObserver, GuestRun
from guestctl.load.measurements import Measurements
from guestctl.load.pace import Governor
from guestctl.load.plan import DEFAULT_THINK, LoadPlan
from guestctl.load.worker_context import WorkerContext

#: Seconds to wait after a conversation that could not begin, so that a service that is down is not flooded.
RETRY_AFTER = 1.0


class _Current:
    """The context of this process."""

    context: WorkerContext | None = None


def use(context: WorkerContext) -> None:
    """Make this the context of all users of this process."""
    _Current.context = context


def current(profile: str | None, environment: Any) -> WorkerContext:
    """Return the context of this process. A locustfile that runs without `guestctl load` gets one of its own."""
    if _Current.context is None:
        _Current.context = _context_of_locust(profile, environment)
    return _Current.context


class _LocustRequests(Measurements):
    """Passes what is measured on to Locust's own statistics."""

    def __init__(self, environment: Any) -> None:
        super().__init__()
        self._environment = environment

    def time(self, name: str, seconds: float) -> None:
        self._fire(name, seconds, None)

    def failure(self, text: str, number: int = 1) -> None:
        self._fire("turn", 0.0, RuntimeError(text))

    def _fire(self, name: str, seconds: float, error: Exception | None) -> None:
        self._environment.events.request.fire(
            request_type="guest",
            name=name,
            response_time=seconds * 1000,
            response_length=0,
            exception=error,
            context={},
        )


class _LocustContext(WorkerContext):
    """The context of a locustfile that runs without `guestctl load`."""

    requests: _LocustRequests

    def measurements(self) -> Measurements:
        return self.requests


def _context_of_locust(name: str | None, environment: Any) -> WorkerContext:
    from guestctl.config.profiles import resolve
    from guestctl.load.guard import target_host
    from guestctl.storage.state import State
    from guestctl.transport.hosts import is_loopback

    clock = SystemClock()
    with State.open(State.directory(os.environ), clock) as state:
        found = resolve(
            name, options={}, environ=os.environ, cwd=Path.cwd(), profiles_option=None, sandbox=state.sandbox
        )
    host = target_host(found.profile)
    if not is_loopback(host):
        raise UsageError(
            f"{host} is not this machine: Locust alone does not keep the limits of the deployment",
            code="load.guard",
        )
    plan = LoadPlan("locustfile.py", found.profile)
    context = _LocustContext(plan, clock=clock, environ=os.environ, ask=Governor(clock).take)
    context.requests = _LocustRequests(environment)
    environment.events.test_stopping.add_listener(lambda **_: setattr(context, "stopping", True))
    environment.events.test_start.add_listener(lambda **_: setattr(context, "stopping", False))
    return context


class GuestUser(User):
    """A guest for a locustfile.

    Locust calls the methods with `@task` again and again. Each guest has a session from `on_start` on; `new_session`
    begins another one. `ask` sends a message and returns the first reply, and `say` sends one without waiting for a
    reply. Both wait for the planned time of the message, which is `think` seconds after that of the message before it:
    a number, or (least, most). `timeout` is the limit of each step in seconds, and `attributes` are those of the
    session. `profile` names a profile (default: that of the command line). `client` is the guest's `Client`, for
    everything else; what it does is not measured as a turn.

    A failure is counted and raised again: Locust reports it, and goes on with the next task.
    """

    abstract = True
    profile: ClassVar[str | None] = None
    think: ClassVar[float | tuple[float, float]] = DEFAULT_THINK
    timeout: ClassVar[float | None] = None
    attributes: ClassVar[dict[str, str]] = {}

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.context = current(self.profile, environment)
        check_profile(type(self), self.context.plan.profile.name)
        self._conversation: _Conversation | None = None

    @property
    def client(self) -> Client:
        """The client of the present session."""
        return self._open().run.client

    def on_start(self) -> None:
        """Begin the first session. A class that replaces this method calls it."""
        with suppress(Failure):  # it was counted, and the first task tries again
            self.new_session()

    def on_stop(self) -> None:
        """End the last session. A class that replaces this method calls it."""
        self._end()

    def new_session(self) -> None:
        """End the present session, and begin one as a new guest. Raises a Failure."""
        self._end()
        scenario = Scenario(type(self).__name__, 0, (), attributes=self.attributes)
        least, most = self.think if isinstance(self.think, tuple) else (self.think, self.think)
        opened = _Conversation(self.context, scenario, ThinkTime(least, most), None, script="", timeout=self.timeout)
        self._conversation = opened
        trouble = self._unless_stopped(opened.begin)
        if trouble is not None:
            self._conversation = None
            opened.close(trouble)
            gevent.sleep(RETRY_AFTER)
            raise _failure(trouble)

    def say(self, text: str) -> None:
        """Send a message at its planned time, and return once the service has accepted it. Raises a Failure."""
        self._do(Step("say", 0, f"say: {text}", message=_literal(text)))

    def ask(self, text: str, contains: str | None = None) -> Message:
        """Send a message at its planned time, and return the first reply (that contains a text, in any case).

        Raises CheckFailed if none comes in time, and the failure of a message that is not accepted.
        """
        self.say(text)
        return self.wait_for_reply(contains)

    def wait_for_reply(self, contains: str | None = None) -> Message:
        """Return the next reply (that contains a text, in any case). Raises CheckFailed if none comes in time."""
        wanted = Conditions(contains=None if contains is None else _literal(contains))
        self._do(Step("expect", 0, "expect", expected=(wanted,)))
        found = self._open().run.timeline.last_match
        assert found is not None
        return found

    def _open(self) -> _Conversation:
        if self._conversation is None:
            self.new_session()
        assert self._conversation is not None
        return self._conversation

    def _do(self, step: Step) -> None:
        conversation = self._open()
        trouble = self._unless_stopped(lambda: conversation.do(step))
        if trouble is not None:
            self._conversation = None
            conversation.close(trouble)
            raise _failure(trouble)

    def _unless_stopped(self, act: Callable[[], Trouble | None]) -> Trouble | None:
        """Return what went wrong in a part of the conversation. Ends the guest if the test is stopping."""
        try:
            return act()
        except RunStopped:
            self._end()
            raise StopUser from None

    def _end(self) -> None:
        conversation, self._conversation = self._conversation, None
        if conversation is not None:
            conversation.close(None)


def check_profile(found: type[Any], name: str) -> None:
    """Raise UsageError if a class names another profile than that of the test."""
    wanted = getattr(found, "profile", None)
    if wanted is not None and wanted != name:
        raise UsageError(
            f'{found.__name__} needs the profile "{wanted}", and the test runs with "{name}"', code="load.locustfile"
        )


class ScenarioUser(User):
    """A guest that runs scenarios of a check script, each as a new guest."""

    abstract = True

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.context = current(None, environment)

    @task  # type: ignore[untyped-decorator]
    def conversation(self) -> None:
        """Run one scenario."""
        context = self.context
        choice = context.choose()
        assert context.script is not None
        opened = _Conversation(context, choice.scenario, choice.think, choice.golden, script=str(context.script.path))
        trouble = opened.run_scenario()
        if not context.stopping:
            think = context.seconds(choice.think)
            gevent.sleep(think if trouble is None or opened.run.opened else max(think, RETRY_AFTER))


@dataclass
class _Conversation:
    """One session of one guest, from the connection to the end."""

    context: WorkerContext
    scenario: Scenario
    think: ThinkTime
    golden: tuple[str, ...] | None
    script: str
    timeout: float | None = None

    def __post_init__(self) -> None:
        context, script = self.context, self.context.script
        wait = self.timeout or context.plan.wait
        observer = GuestObserver(context.measurements, context.clock.monotonic)
        values = {**context.environ, **({} if script is None else script.variables)}
        redactor = context.guests.redactor()
        for name, value in {**values, **self.scenario.values}.items():
            if is_secret(name):
                redactor.add(value)
        self.run = GuestRun(
            script=self.script,
            scenario=self.scenario,
            client=context.guests.new(observer, timeout=wait, created=self._created),
            wait=wait,
            folder=Path() if script is None else script.path.parent,
            values=values,
            redactor=redactor,
            golden=self.golden,
            stopping=lambda: context.stopping,
            observer=observer,
            measurements=context.measurements,
            think=lambda: context.seconds(self.think),
            before_connect=context.guests.before_connect,
        )

    def _created(self, seconds: float) -> None:
        self.context.measurements().time("create", seconds)

    def run_scenario(self) -> Trouble | None:
        """Run the whole scenario and close the conversation. Return what went wrong; None if it passed or was
        stopped."""
        try:
            trouble = self._measured(self.run.run_scenario)
        except RunStopped:
            trouble = None
        self.close(trouble)
        return trouble

    def begin(self) -> Trouble | None:
        """Connect and create the session."""
        return self._measured(self.run.begin)

    def do(self, step: Step) -> Trouble | None:
        """Perform one step."""
        return self._measured(lambda: self.run.perform(step))

    def _measured(self, act: Callable[[], Trouble | None]) -> Trouble | None:
        """Return what went wrong in a part of the conversation, and count it. Whatever interrupts it closes it.

        Raises RunStopped if the test is stopping.
        """
        try:
            trouble = act()
        except RunStopped:
            raise
        except Exception as error:
            self.context.measurements().count("errors")
            self.run.meter.fail_turn()
            self.close(Trouble(f"internal error: {type(error).__name__}", self.scenario.line, "", failure=bug(error)))
            raise
        except BaseException:  # Locust kills a guest that has not ended in time
            self.close(None, unfinished=True)
            raise
        if trouble is not None:
            self.context.note(trouble, opened=self.run.opened)
        return trouble

    def close(self, trouble: Trouble | None, *, unfinished: bool = False) -> None:
        """End the conversation and count it. `unfinished`: it was cut off in the middle."""
        context = self.context
        unfinished = unfinished or (context.stopping and trouble is None)
        try:
            with suppress(Failure, RunStopped):
                self.run.end(unfinished=unfinished)
        finally:
            found = context.measurements()
            found.count("conversations")
            found.count("unfinished" if unfinished else "passed" if trouble is None else "not_passed")
            with suppress(Failure):
                context.guests.release(self.run.client)
            self.run.count_lost()


def _literal(text: str) -> str:
    """Return a text in which no variable is replaced."""
    return text.replace("${", "$${")


def _failure(trouble: Trouble) -> Failure:
    return trouble.failure or CheckFailed(trouble.message, code="check.failed")


def classes(found: Iterable[Any]) -> list[type[User]]:
    """Return those of the members of a locustfile that Locust can run."""
    users = [one for one in found if isinstance(one, type) and issubclass(one, User)]
    return [one for one in users if not one.__dict__.get("abstract", False)]
