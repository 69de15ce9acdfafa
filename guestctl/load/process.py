"""What the process of Locust does: it runs guests, leads workers, or both.

Knows: Locust's runners, how the workers report to the master. Must not know: the command line, terminals, what is done
with the results.

The process's stdin has the plan as the first line, and later a line `stop`. The end of stdin stops it, too, so that it
never outlives its parent. Its stdout has one JSON object in each line (`_Parent`). What a locustfile prints goes to
stderr.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cache
from hashlib import sha256
from typing import Any

import gevent
import gevent.event
import gevent.fileobject
import gevent.lock
import locust.runners
from locust.env import Environment
from locust.rpc.protocol import Message
from locust.runners import STATE_MISSING

from guestctl.core.clock import SystemClock
from guestctl.core.errors import Failure, UsageError, bug
from guestctl.load import users
from guestctl.load.guard import target_host
from guestctl.load.measurements import Measurements, SlottedMeasurements
from guestctl.load.pace import Governor
from guestctl.load.plan import STOP_TIMEOUT, LoadPlan
from guestctl.load.worker_context import WorkerContext
from guestctl.transport.hosts import is_loopback

#: Seconds between two reports to the parent, and to the master.
REPORT = 1.0
#: Seconds to wait for the last report of workers that have not stopped, in addition to `STOP_TIMEOUT`.
LAST_REPORTS = 10.0
#: Seconds in which Locust tells the master that a worker has stopped.
FAREWELL = 1.0
#: Seconds after which a worker reports that it waits for its master.
QUIET_MASTER = 3.0
#: Different warnings of Locust and of tasks that are passed on.
MOST_NOTICES = 50
#: Names of our messages between the master and its workers.
TURN, TURN_ANSWER, LAST = "guestctl_turn", "guestctl_turn_answer", "guestctl_last"


class _Parent:
    """Writes to the process that started this one: a line for each report."""

    def __init__(self, descriptor: int) -> None:
        self._file = gevent.fileobject.FileObjectPosix(descriptor, "wb", bufsize=0)
        self._lock = gevent.lock.RLock()

    def write(self, kind: str, **values: Any) -> None:
        line = json.dumps({"kind": kind, **values}).encode() + b"\n"
        with self._lock:
            try:
                self._file.write(line)
            except OSError:
                os._exit(1)  # the parent is gone


class _Logs(logging.Handler):
    """Passes Locust's warnings on to the parent, and each exception of a task once."""

    def __init__(self, parent: _Parent) -> None:
        super().__init__(logging.WARNING)
        self._parent = parent
        self._seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        error = record.args[0] if isinstance(record.args, tuple) and record.args else None
        if isinstance(error, Failure):
            return  # it was counted
        text = record.getMessage().strip()
        if isinstance(error, Exception):
            found = traceback.extract_tb(error.__traceback__)
            place = f" ({found[-1].filename}, line {found[-1].lineno})" if found else ""
            text = f"a task raised {type(error).__name__}: {error}{place}"
        if text not in self._seen and len(self._seen) < MOST_NOTICES:
            self._seen.add(text)
            gevent.spawn(self._parent.write, "notice", text=text)


def main() -> None:
    """Run the plan that stdin has."""
    parent = _Parent(os.dup(1))
    os.dup2(2, 1)
    commands = gevent.fileobject.FileObjectPosix(os.dup(0), "rb")
    plan = LoadPlan.read(commands.readline().decode())
    logging.basicConfig(handlers=[_Logs(parent)], level=logging.WARNING)
    stop = gevent.event.Event()
    gevent.spawn(_wait_for_stop, commands, stop)
    try:
        roles: dict[str, type[_Process]] = {"local": _Local, "master": _Master, "worker": _Worker}
        roles[plan.role](plan, parent, stop).run()
    except Failure as failure:
        parent.write("failure", exit=int(failure.exit), code=failure.code, message=failure.message, hint=failure.hint)
    except Exception as error:
        found = bug(error)
        parent.write("failure", exit=int(found.exit), code=found.code, message=found.message, hint=found.hint)
    sys.stderr.flush()
    os._exit(0)  # the threads of libraries are not waited for


def _wait_for_stop(commands: Any, stop: gevent.event.Event) -> None:
    while commands.readline().strip() not in (b"", b"stop"):
        pass
    stop.set()


class _Process(ABC):
    """What every role does: load the guests' classes, and make Locust's environment."""

    def __init__(self, plan: LoadPlan, parent: _Parent, stop: gevent.event.Event) -> None:
        self.plan = plan
        self.parent = parent
        self.stop = stop
        self.clock = SystemClock()

    def context(self, ask: Callable[..., float]) -> WorkerContext:
        """Return the context of this process's guests."""
        context = WorkerContext(self.plan, clock=self.clock, environ=dict(os.environ), ask=ask)
        users.use(context)
        if not self.plan.is_locustfile:
            context.load_script()
        return context

    def environment(self) -> Environment:
        environment = Environment(
            user_classes=_user_classes(self.plan), stop_timeout=STOP_TIMEOUT, catch_exceptions=True
        )
        environment.reset_stats = False
        environment.events.user_error.add_listener(_count_error)
        return environment

    @abstractmethod
    def run(self) -> None:
        """Do the work of the role, and return when the test is over."""


class _Leader(_Process):
    """What both a local process and a master do: start, report, and end."""

    runner: Any
    #: Conversations that have ended by themselves.
    ended = 0

    def lead(self, total: SlottedMeasurements) -> None:
        """Run the test until its time is over or it is stopped, and report."""
        plan, runner = self.plan, self.runner
        begun = self.clock.monotonic()
        until = None if plan.seconds is None else begun + plan.seconds
        spawning = gevent.spawn(runner.start, plan.guests, plan.ramp)
        while not self.stop.is_set() and not self.over() and not self.enough():
            left = REPORT if until is None else min(REPORT, until - self.clock.monotonic())
            if left <= 0:
                break
            self.stop.wait(left)
            self.collect()
            self.report(total, begun)
        spawning.kill(block=False)
        self.ended_after = self.clock.monotonic() - begun
        runner.stop()
        self.finish()
        self.collect()
        self.report(total, begun)

    def over(self) -> bool:
        """Return whether the test cannot go on."""
        return False

    def enough(self) -> bool:
        """Return whether as many conversations have ended as the test shall have."""
        return self.plan.conversations is not None and self.ended >= self.plan.conversations

    def collect(self) -> None:
        """Move what this process has measured to the total."""

    def finish(self) -> None:
        """Wait for the last measurements."""

    def report(self, total: SlottedMeasurements, begun: float) -> None:
        """Send the parent the slots that have changed since the last report."""
        changed = total.take()
        self.ended += sum(found.counts["passed"] + found.counts["not_passed"] for found in changed.values())
        self.parent.write(
            "progress",
            seconds=round(self.clock.monotonic() - begun, 3),
            guests=int(self.runner.user_count),
            slots={str(number): found.encoded() for number, found in changed.items()},
            **self.extra(),
        )

    def extra(self) -> dict[str, Any]:
        return {}


class _Local(_Leader):
    """One process that runs all guests."""

    def run(self) -> None:
        context = self.context(Governor(self.clock).take)
        environment = self.environment()
        self.runner = environment.create_local_runner()
        total = SlottedMeasurements(self.plan.slot)
        environment.events.test_stopping.add_listener(lambda **_: setattr(context, "stopping", True))
        self.collect = lambda: total.add(context.slots.take())  # type: ignore[method-assign]
        self.extra = lambda: {"first_failure": context.first_failure}  # type: ignore[method-assign]
        self.parent.write("ready")
        context.start()
        self.lead(total)
        self.parent.write("end", seconds=round(self.ended_after, 3), workers=0, lost_workers=0)


class _Master(_Leader):
    """Leads workers. It runs no guests by itself."""

    def run(self) -> None:
        plan = self.plan
        if plan.is_locustfile:
            # The classes of a locustfile may ask for the context when they are imported.
            users.use(WorkerContext(plan, clock=self.clock, environ=dict(os.environ), ask=Governor(self.clock).take))
        environment = self.environment()
        try:
            self.runner = environment.create_master_runner(plan.host, plan.port)
        except SystemExit as error:
            raise UsageError(f"cannot listen on {plan.host} port {plan.port}", code="load.address") from error
        except Exception as error:
            raise UsageError(f"cannot listen on {plan.host} port {plan.port}: {error}", code="load.address") from error
        self.governor = Governor(self.clock)
        self.total = SlottedMeasurements(plan.slot)
        self.first_failure: dict[str, Any] | None = None
        self.dead: set[str] = set()
        self.known: set[str] = set()
        self.finished: set[str] = set()
        self.warned = False
        self.runner.register_message(TURN, self._turn)
        self.runner.register_message(LAST, self._last)
        environment.events.worker_report.add_listener(self._worker_report)
        self.parent.write("listening", host=plan.host, port=self.runner.server.port)
        while self.runner.worker_count < plan.workers:
            if self.stop.wait(0.05):
                self.parent.write("end", seconds=0.0, workers=self.runner.worker_count, lost_workers=0)
                return
        self.known = {node.id for node in self.runner.clients.all}
        self.parent.write("ready")
        self.lead(self.total)
        self.parent.write(
            "end", seconds=round(self.ended_after, 3), workers=len(self.known), lost_workers=len(self.dead)
        )
        self.runner.quit()

    def over(self) -> bool:
        self._find_dead()
        return bool(self.known) and self.dead >= self.known

    def _find_dead(self) -> None:
        alive = {node.id for node in self.runner.clients.all if node.state != STATE_MISSING}
        for gone in self.known - alive - self.dead - self.finished:
            self.dead.add(gone)
            self.parent.write("worker_lost", number=len(self.dead))

    def finish(self) -> None:
        until = self.clock.monotonic() + STOP_TIMEOUT + LAST_REPORTS
        while not self.finished >= self.known - self.dead and self.clock.monotonic() < until:
            gevent.sleep(0.05)
        for silent in self.known - self.dead - self.finished:
            self.dead.add(silent)
            self.parent.write("worker_lost", number=len(self.dead))

    def extra(self) -> dict[str, Any]:
        return {"first_failure": self.first_failure}

    def _turn(self, environment: Environment, msg: Message, **_: Any) -> None:
        """Answer a worker that asks for a place in a shared rate limit."""
        number, bucket, count, period, burst, within = msg.data
        wait = self.governor.take(bucket, count, period, burst=burst, within=within)
        self.runner.send_message(TURN_ANSWER, [number, wait, self.plan.seconds], msg.node_id)

    def _worker_report(self, client_id: str, data: Mapping[str, Any]) -> None:
        self._add(data.get("guestctl"))

    def _last(self, environment: Environment, msg: Message, **_: Any) -> None:
        self._add(msg.data)
        self.finished.add(msg.node_id)

    def _add(self, report: Any) -> None:
        if not isinstance(report, dict):
            return
        try:
            # The worker of another command does not know the duration of the test, so its slots may be shorter.
            width = float(report["width"])
            for number, found in report["slots"].items():
                self.total.at(int(number) * width).add(Measurements.decoded(found))
        except (ValueError, KeyError, TypeError, AttributeError):
            self.parent.write("notice", text="a worker sent a report that cannot be read; do all run the same version?")
            return
        if report.get("script") != _digest(self.plan.script) and not self.warned:
            self.warned = True
            self.parent.write("notice", text="a worker runs another version of the script")
        if self.first_failure is None and isinstance(report.get("first_failure"), dict):
            self.first_failure = report["first_failure"]


class _Worker(_Process):
    """Runs guests for a master."""

    def run(self) -> None:
        locust.runners.WORKER_REPORT_INTERVAL = REPORT
        self._answers: dict[int, gevent.event.AsyncResult] = {}
        self._numbers = 0
        context = self.context(self._ask)
        environment = self.environment()
        events = environment.events
        events.test_start.add_listener(lambda **_: context.start())
        events.test_stopping.add_listener(lambda **_: setattr(context, "stopping", True))
        events.report_to_master.add_listener(lambda client_id, data: data.update(guestctl=self._report(context)))
        waiting = gevent.spawn(self._wait_for_master)
        try:
            runner = environment.create_worker_runner(self.plan.host, self.plan.port)
        except ConnectionError as error:
            raise UsageError(
                f"no master answers at {self.plan.host} port {self.plan.port}", code="load.address"
            ) from error
        waiting.kill()
        self.runner = runner
        runner.register_message(TURN_ANSWER, self._turn_answer)
        ended = gevent.event.Event()

        def last_report(**_: Any) -> None:
            runner.send_message(LAST, self._report(context))
            ended.set()

        events.test_stop.add_listener(last_report)
        self.parent.write("ready")
        gone = gevent.spawn(runner.greenlet.join)  # the master asked this worker to quit, or does not answer any more
        gevent.wait([gone, ended, self.stop], count=1)
        if ended.is_set():
            gevent.sleep(FAREWELL)
        elif not gone.dead:
            runner.quit()
        else:
            self.parent.write("notice", text="the master does not answer any more")
        self.parent.write("end", seconds=0.0, workers=0, lost_workers=0)

    def _wait_for_master(self) -> None:
        """Report that the master does not answer, and end this process when it is stopped. Locust would try on."""
        if not self.stop.wait(QUIET_MASTER):
            self.parent.write("notice", text=f"waiting for the master at {self.plan.host} port {self.plan.port}")
        self.stop.wait()
        self.parent.write("end", seconds=0.0, workers=0, lost_workers=0)
        os._exit(0)

    def _report(self, context: WorkerContext) -> dict[str, Any]:
        slots = {str(number): found.encoded() for number, found in context.slots.take().items()}
        return {
            "slots": slots,
            "width": self.plan.slot,
            "first_failure": context.first_failure,
            "script": _digest(self.plan.script),
        }

    def _ask(
        self, bucket: str, count: int, period: float, *, burst: int | None = None, within: float | None = 0.0
    ) -> float:
        """Ask the master for a place in a shared rate limit."""
        self._numbers += 1
        number, answer = self._numbers, gevent.event.AsyncResult()
        self._answers[number] = answer
        try:
            self.runner.send_message(TURN, [number, bucket, count, period, burst, within])
            return float(answer.get())
        finally:
            del self._answers[number]

    def _fail(self, failure: UsageError) -> None:
        """Report a failure and end this worker at once."""
        self.parent.write(
            "failure", exit=int(failure.exit), code=failure.code, message=failure.message, hint=failure.hint
        )
        os._exit(1)

    def _turn_answer(self, environment: Environment, msg: Message, **_: Any) -> None:
        number, wait, seconds = msg.data
        if seconds is None and not is_loopback(target_host(self.plan.profile)):
            self._fail(UsageError("the master has no time limit: give it --for", code="load.guard"))
        waiting = self._answers.get(number)
        if waiting is not None:
            waiting.set(wait)


def _count_error(user_instance: Any, exception: Exception, tb: Any) -> None:
    """Count an exception of a task. A failure of guestctl was counted where it happened."""
    user = getattr(user_instance, "user", user_instance)  # Locust passes a set of tasks, too
    if not isinstance(exception, Failure) and isinstance(user, users.GuestUser):
        user.context.measurements().failure(f"a task raised {type(exception).__name__}")


@cache
def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return sha256(file.read()).hexdigest()


def _user_classes(plan: LoadPlan) -> list[type[Any]]:
    """Return the classes that Locust runs. Raises UsageError for a locustfile without one."""
    if not plan.is_locustfile:

        class Guest(users.ScenarioUser):
            abstract = False

        return [Guest]
    import importlib.util

    spec = importlib.util.spec_from_file_location("locustfile", plan.script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["locustfile"] = module
    sys.path.insert(0, os.path.dirname(os.path.abspath(plan.script)))
    try:
        spec.loader.exec_module(module)
    except Failure:
        raise
    except BaseException as error:
        traceback.print_exc()
        raise UsageError(f"{plan.script}: {type(error).__name__}: {error}", code="load.locustfile") from error
    found = users.classes(vars(module).values())
    if not found:
        raise UsageError(f"{plan.script}: no user class; derive one from GuestUser", code="load.locustfile")
    for one in found:
        users.check_profile(one, plan.profile.name)
    return found
