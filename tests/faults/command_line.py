"""Commands of guestctl in the simulation: arguments in; exit code, records and the time of each line out.

Knows: the command line and what it prints. Must not know: what is right or wrong (`oracles`).

Every command is a process of its own: it shares nothing with the others but the state directory. Its random numbers
and ids follow from the seed.
"""

from __future__ import annotations

import io
import json
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

from guestctl.cli.invocation import Environment as World
from guestctl.cli.main import run
from guestctl.core.errors import Exit
from guestctl.sandbox.service_state import Conversation
from tests.cli.conftest import Stream
from tests.faults.model import Record, Resumed, Run, SendResult, Watch
from tests.faults.schedules import SENDER, WATCHER, Schedule, Step
from tests.faults.simulation import Simulation


class _Lines(io.BytesIO):
    """Passes each complete line to a callback as it is written."""

    def __init__(self, on_line: Callable[[str], object]) -> None:
        super().__init__()
        self._on_line, self._rest = on_line, b""

    def write(self, data: Any) -> int:
        *lines, self._rest = (self._rest + bytes(data)).split(b"\n")
        for line in lines:
            self._on_line(line.decode())
        return len(data)


@dataclass
class Ended:
    """A command that has ended: its exit code, the records on stdout, and stderr."""

    code: int
    records: list[Record]
    err: str


@dataclass
class Took(Ended):
    """A command that has ended, and the seconds that it took."""

    seconds: float


class CommandLine:
    """Runs commands as the guest's shell does."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._process = count()
        #: The `listen --for` that is running.
        self._watch: Watch | None = None
        #: When (monotonic) it has to end. What it still reads while it closes its socket arrived too late.
        self._until = 0.0
        simulation.on_frame = self._frame_read

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let random numbers and ids of commands follow from the seed."""
        simulation = self._simulation
        random = lambda: Random(f"{simulation.schedule.seed}/{next(self._process)}")  # noqa: E731
        with ExitStack() as patches:
            patches.enter_context(patch("guestctl.client.SystemRandom", random))
            patches.enter_context(patch("guestctl.client.uuid", types.SimpleNamespace(uuid4=simulation.new_id)))
            yield

    def send(self, step: Step) -> None:
        """Run `send` and record its outcome: the delivery of its record, or of its error."""
        simulation, time = self._simulation, self._simulation.time
        key, begun = simulation.new_id(), time.monotonic()
        result = SendResult(step.text, key, "unreported", None, None, 0.0, step.seconds, time.now())
        simulation.run.sends.append(result)
        ended = self.run(SENDER, "send", step.text, "--id", key, "--timeout", f"{step.seconds:g}", "-o", "json")
        result.took, result.exit = time.monotonic() - begun, ended.code
        for record in ended.records:
            result.delivery, result.id = record["delivery"], record.get("id")

    def resume(self, step: Step) -> None:
        """Run `resume` and record what it printed."""
        simulation, begun = self._simulation, self._simulation.time.monotonic()
        ended = self.run(SENDER, "resume", "--timeout", f"{step.seconds:g}", "-o", "json")
        took, stored = simulation.time.monotonic() - begun, len(simulation.log())
        missed = [{**line, "stored": stored} for record in ended.records for line in record["missed"]]
        simulation.run.resumed.append(Resumed(missed, ended.code, took, step.seconds))

    def listen(self, step: Step) -> None:
        """Run `listen --for` and record its lines, with the number of messages that the service had stored by then."""
        simulation = self._simulation
        watch = self._watch = Watch(len(simulation.log()))
        self._until = simulation.time.monotonic() + step.seconds
        simulation.run.watches.append(watch)

        def printed(line: str) -> None:
            watch.output.append({**json.loads(line), "stored": len(simulation.log())})

        kinds = "message,gap,connection"
        ended = self.run(
            WATCHER, "listen", "--for", f"{step.seconds:g}", "--only", kinds, "-o", "jsonl", on_line=printed
        )
        self._watch, watch.code = None, ended.code

    def run(self, who: str, *argv: str, on_line: Callable[[str], object] | None = None) -> Ended:
        simulation = self._simulation
        schedule, directory = simulation.schedule, simulation.directory
        environ = {
            "GUESTCTL_PROFILE": "sandbox",
            "GUESTCTL_API": schedule.api,
            "GUESTCTL_SANDBOX_URL": simulation.url,
            "GUESTCTL_SANDBOX_DEDUPLICATES": "yes" if schedule.deduplicates else "no",
            "GUESTCTL_STATE": str(directory / "state"),
            "XDG_CONFIG_HOME": str(directory / "config"),
            "TRACEPARENT": f"00-{who}-00f067aa0ba902b7-01",
        }
        lines: list[str] = []
        out = io.TextIOWrapper(_Lines(on_line or lines.append), encoding="utf-8", write_through=True)
        err = Stream()
        world = World(Stream(), out, err, environ, directory, simulation.clock)
        code = int(run(argv, world))
        out.flush()
        simulation.run.notices.append(err.text())
        if code == Exit.BUG:
            simulation.run.crashes.append(f"{argv}: {err.text()}")
        return Ended(code, [json.loads(line) for line in lines if line], err.text())

    def _frame_read(self, who: str, text: str) -> None:
        """Note which messages of the agent a frame has that `listen` reads."""
        if who == WATCHER and self._watch is not None and self._simulation.time.monotonic() < self._until:
            pushed = (event.text for event in self._simulation.schedule.events if event.kind == "push")
            self._watch.received |= {name for name in pushed if f'"{name}"' in text}


class CountedGuest:
    """A guest with a session. `guest("resume")` runs a command on counted time, on a service that withholds keys."""

    def __init__(self, api: str, directory: Path) -> None:
        schedule = Schedule(0, api, (), keys_return=False)
        self.simulation = Simulation(schedule, Run(schedule), directory)
        self._command_line = CommandLine(self.simulation)

    @contextmanager
    def installed(self) -> Iterator[CountedGuest]:
        """Replace the client's transport, and create the session."""
        with self.simulation.installed(), self._command_line.installed():
            with self.simulation.client(SENDER) as client:
                client.create()
            client.state.close()
            yield self

    @property
    def conversation(self) -> Conversation:
        [conversation] = self.simulation.sandbox.service.conversations.values()
        return conversation

    def __call__(self, *argv: str) -> Took:
        begun = self.simulation.time.monotonic()
        ended = self._command_line.run(SENDER, *argv)
        assert not self.simulation.run.crashes
        return Took(ended.code, ended.records, ended.err, self.simulation.time.monotonic() - begun)
