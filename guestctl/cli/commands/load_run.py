"""One run of `load`: the processes, the files of the report, the exit code.

Knows: signals, files, which failure a result stands for. Must not know: options, how results are drawn.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guestctl.cli.commands.load_view import ProgressView, print_results
from guestctl.cli.invocation import Invocation
from guestctl.core.errors import CheckFailed, Failure, RateLimited, UsageError
from guestctl.core.humanize import format_duration

if TYPE_CHECKING:
    from guestctl.load.load_results import LoadResults
    from guestctl.load.plan import LoadPlan
    from guestctl.load.slo import Objective


class LoadRun:
    """Runs a test and reports it. `workers` is the number of worker processes to start, 0 for none."""

    def __init__(
        self,
        run: Invocation,
        plan: LoadPlan,
        workers: int,
        objectives: Sequence[Objective],
        *,
        csv: Path | None,
        html: Path | None,
    ) -> None:
        self._run = run
        self._plan = plan
        self._workers = workers
        self._objectives = objectives
        self._files: list[tuple[str, Path, Callable[[LoadResults], bytes]]] = [
            (option, path, content)
            for option, path, content in (("--csv", csv, _csv), ("--html", html, self._html))
            if path is not None
        ]
        self._view = ProgressView(run, plan, objectives)

    def go(self) -> int | None:
        """Run the test and return the exit code. Raises a Failure for a test that proves nothing."""
        from guestctl.core.stop_signals import stop_signals
        from guestctl.load.supervisor import Supervisor

        self._run.out.print_held()  # the vendor's rule, before anything is sent
        with ExitStack() as stack:
            writers = [(stack.enter_context(_opened(option, path)), content) for option, path, content in self._files]
            stopper = stack.enter_context(stop_signals())
            supervisor = Supervisor(
                plan=self._plan,
                workers=self._workers,
                clock=self._run.clock,
                stopper=stopper,
                notice=self._notice,
                listening=self._listening,
                started=self._started,
                progress=self._view.show,
            )
            with self._view.drawing():
                results = supervisor.run()
            if self._plan.role == "worker":
                return _signal_code(supervisor.signal)
            for write, content in writers:
                write(content(results))
        record = results.record(self._objectives)
        if self._run.out.human:
            print_results(self._run, record)
        else:
            self._run.out.one(record)
        return self._verdict(results) if supervisor.signal is None else _signal_code(supervisor.signal)

    def _html(self, results: LoadResults) -> bytes:
        from guestctl.load.load_page import document

        return document(results, self._objectives, self._run.clock.now())

    # --- notices ---

    def _notice(self, text: str) -> None:
        with self._view.hidden():
            self._run.out.notice(self._run.redactor.text(text))
            self._run.out.print_held()

    def _listening(self, host: str, port: int) -> None:
        workers = "1 worker" if self._plan.workers == 1 else f"{self._plan.workers} workers"
        self._notice(f"master: listening on {host} port {port}, waiting for {workers}")

    def _started(self) -> None:
        from guestctl.load.guard import target_host

        plan = self._plan
        if plan.role == "worker":
            self._notice(f"worker: connected to the master at {plan.host} port {plan.port}")
            return
        guests = "1 guest" if plan.guests == 1 else f"{plan.guests} guests"
        until = "until Ctrl-C" if plan.seconds is None else f"for {format_duration(plan.seconds)}"
        self._notice(f"running {guests} against {target_host(plan.profile)} {until}")

    # --- the outcome ---

    def _verdict(self, results: LoadResults) -> int | None:
        """Return the exit code. Raises the failure of a test that was stopped, or whose result is not good."""
        if results.first_failure is not None and not results.count("messages"):
            raise _as_failure(results.first_failure)
        if results.throttled_off:
            raise RateLimited("the service throttled more than 5 % of the attempts", code="load.throttled")
        if not results.complete:
            raise CheckFailed("the result is not complete: a worker of the test is gone", code="load.worker")
        missed = results.missed(self._objectives)
        if missed:
            raise CheckFailed("missed: " + ", ".join(objective.text for objective in missed), code="load.slo")
        return None


def _as_failure(found: Mapping[str, Any]) -> Failure:
    from guestctl.load.supervisor import ChildFailed

    return ChildFailed(found)


def _signal_code(number: int | None) -> int | None:
    return None if number is None else 128 + number


def _csv(results: LoadResults) -> bytes:
    import csv

    text = StringIO(newline="")
    csv.writer(text).writerows(results.rows())
    return text.getvalue().encode()


@contextmanager
def _opened(option: str, path: Path) -> Iterator[Callable[[bytes], None]]:
    """Yield the function that writes a file. The file is emptied now, so that it never has an older result.

    Raises UsageError `output.failed`.
    """
    from guestctl.transport.output_files import open_output, write_all

    descriptor = open_output(path, option, os.O_CREAT | os.O_TRUNC)

    def write(data: bytes) -> None:
        try:
            write_all(descriptor, data)
        except OSError as error:
            raise UsageError(f"{option} {path}: {error.strerror or error}", code="output.failed") from error

    try:
        yield write
    finally:
        os.close(descriptor)
