"""Performs a plan: real relays on counted time, one after the other, killed and started again.

Knows: the relay's classes, the simulation, the plan. Must not know: what is right or wrong (`relay_oracles`).

Everything happens in one thread. The thread of the upstream is called instead of started, and whatever else happens
(readers, requests, faults, kills) happens while it waits. A kill copies the state directory as it is at that moment,
so nothing that the dying process still does can reach the disk, the network or a reader; the next one starts on the
copy.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from guestctl.client import Client
from guestctl.core.errors import Failure, TimedOut
from guestctl.core.waker import Waker
from guestctl.dialects import NAMES, dialect_class
from guestctl.relay.http_api import HttpApi
from guestctl.relay.log import Arrival, EventLog, LogEntry
from guestctl.relay.metrics import Metrics
from guestctl.relay.relay import Relay, RelaySession
from guestctl.relay.sends import SendAnswer, WantedMessage
from tests.faults.counted import MEMORY, PAGE, RECOVERY, happen
from tests.faults.model import PATIENCE, Killed, Record, Run, SendResult, kill_client
from tests.faults.oracles import _missing as missing
from tests.faults.relay_plans import Damage, Kill, Moment, Plan, SendPlan
from tests.faults.relay_readers import PlainServer, Reader
from tests.faults.schedules import LISTENER, LONGEST, SENDER
from tests.faults.simulation import Simulation, Time

#: Seconds between two attempts of a supervisor to start a relay that has ended, and of a reader whose send was cut.
RESTART = 1.0
#: Seconds for which readers are watched after they have everything.
AFTERWARDS = 5.0


class MortalTime(Time):
    """A clock on which the running process can be killed: it then gets no more time."""

    killed = False

    def until(self, at: float, over: Callable[[], bool] = lambda: False) -> None:
        if self.killed:
            raise Killed
        super().until(at, over)


@dataclass
class Asked:
    """One request to send: its key, text and answer. `answer` is None if the relay was killed before."""

    key: str
    text: str
    begun: float
    answer: str | None = None
    ended: float | None = None


@dataclass
class Outcome:
    """What happened in a plan: the input of the oracles."""

    plan: Plan
    run: Run
    readers: list[Reader] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    #: Every event that was committed, in order: its epoch, its number, its record.
    committed: list[tuple[str, int, Record]] = field(default_factory=list)
    #: What was read from the disk after each process, by epoch: the numbers and the records.
    on_disk: list[tuple[str, dict[int, Record]]] = field(default_factory=list)
    #: Why processes ended by themselves.
    ended: list[str] = field(default_factory=list)
    #: Unexpected exceptions, as text.
    crashes: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    #: Whether everything had arrived in time after the last fault.
    complete: bool = False

    def lines(self, epoch: str) -> list[Record]:
        """Return the messages and gaps of one log, as a listener prints them."""
        return [
            record for known, _, record in self.committed if known == epoch and record["kind"] in ("message", "gap")
        ]

    def kept(self, epoch: str) -> set[int]:
        """Return the numbers of the events that a log must have at the end.

        They are the last `retain` events without typing and connection, and those that follow the newest event which is
        not among them, except for all but the last `retain` of the kinds typing and connection.
        """
        kinds = {number: record["kind"] for known, number, record in self.committed if known == epoch}
        passing = [number for number, kind in kinds.items() if kind in ("connection", "typing")]
        usual = [number for number, kind in kinds.items() if kind not in ("connection", "typing")]
        dropped = max(usual[: -self.plan.retain], default=0)
        return {number for number in (*usual, *passing[-self.plan.retain :]) if number > dropped}


class Process:
    """One process of the relay."""

    def __init__(self, owner: RelayRun) -> None:
        self.time, self.dead = owner.time, False
        self.readers: set[Reader] = set()
        self.clients: list[Client] = []
        self.waker: Waker | None = None
        plan, simulation = owner.plan, owner.simulation

        def open_client(waker: Waker | None, observer: Any) -> Client:
            client = simulation.client(LISTENER, observer=observer, timeout=PATIENCE)
            self.clients.append(client)
            if waker is not None:
                self.waker = waker
            return client

        directory = simulation.directory / "state"
        self.session = RelaySession(directory, open_client, owner.clock, retain=plan.retain, queue=plan.queue)
        self.key = self.session.keys.key("read").reveal()
        relay = Relay([self.session], capacity=100)
        self.api = HttpApi(relay, Metrics(relay), timeout=PATIENCE)
        server: Any = PlainServer(self.time, lambda: self.dead)
        self.api.attach(server)
        self.api.started()

    def run(self) -> None:
        """Run until the upstream ends, or raise Killed."""
        self.session.upstream._run()

    def kill(self) -> None:
        """Close what the dead process has left open, without any effect on the disk that counts."""
        self.dead = True
        for reader in tuple(self.readers):
            reader.killed()

    def clear(self) -> None:
        for client in self.clients:
            with suppress(Exception, Killed):
                kill_client(client)
        for connection in (self.session.log._reader, self.session.log._writer):
            with suppress(Exception):
                connection.close()
        with suppress(Exception):
            self.session._release()
        if self.waker is not None:
            self.waker.close()


class RelayRun:
    """One plan on counted time."""

    def __init__(self, plan: Plan, directory: Path) -> None:
        self.plan = plan
        self.run = Run(plan.schedule)
        self.outcome = Outcome(plan, self.run)
        self.time = MortalTime()
        self._base = directory
        self._lives = 0
        self._set_back = 0.0
        self.simulation = Simulation(plan.schedule, self.run, self._directory(), self.time)
        self.simulation.timeout = PATIENCE
        self.clock = _SetBack(self)
        self.process: Process | None = None
        self._armed: Kill | None = None
        self._killed_by: Kill | None = None
        self._ending = False
        self._full = False

    def _directory(self) -> Path:
        return self._base / str(self._lives)

    # --- the run ---

    def perform(self) -> None:
        simulation, outcome, plan = self.simulation, self.outcome, self.plan
        simulation.directory.mkdir()
        with simulation.client(SENDER) as client:
            created, scope = client.create(), client.scope
        client.state.close()
        simulation.woken = lambda: bool(self.process and self.process.waker and self.process.waker.take())
        simulation.on_sent = lambda: self.reach("sent")
        outcome.readers = [Reader(one, self.time, lambda: self.process) for one in plan.readers]
        for event in plan.schedule.events:
            self.time.later(event.at, partial(happen, simulation, event))
        for send in plan.sends:
            for at in send.at:
                self.time.later(at, partial(self._ask, send, send.text))
            for at in send.other:
                self.time.later(at, partial(self._ask, send, f"{send.text} {send.text}"))
        for kill in plan.kills:
            self.time.later(kill.at, partial(self._arm, kill))
        for at in plan.stops:
            self.time.later(at, self._stop)
        if plan.full is not None:
            self.time.later(plan.full[0], partial(self._fill, True))
            self.time.later(plan.full[1], partial(self._fill, False))
        if plan.set_back is not None:
            self.time.later(plan.set_back[0], lambda: setattr(self, "_set_back", plan.set_back[1]))  # type: ignore[index]
        self.time.later(plan.end, self._heal)
        while not self._ending:
            self._live()
        self.run.log = simulation.log()
        simulation.outcome(created, scope)

    def _live(self) -> None:
        """Run one process to its end, and wait until the supervisor starts the next one."""
        try:
            process = Process(self)
        except Failure as failure:
            self.outcome.ended.append(f"start: {failure.message}")
            self.time.sleep(RESTART)
            self._ending = self.time.monotonic() > self.plan.end + 2 * (LONGEST + RECOVERY)
            return
        self.process = process
        self._apply_fullness()
        try:
            process.run()
            self._finish(process)
        except Killed:
            self.time.killed = False
            self.process = None
            process.clear()
            self.outcome.counts["kills"] += 1
            kill, self._killed_by = self._killed_by, None
            assert kill is not None
            self._read_disk()
            self._damage(kill.damage)
            self.time.sleep(kill.down)
        else:
            self.process = None
            process.clear()
            self._read_disk()
            self.time.sleep(RESTART)

    def _finish(self, process: Process) -> None:
        """End a process whose upstream has ended, as the command does."""
        failure = process.session.upstream.failure
        if failure is None:
            self.outcome.counts["stops"] += 1
        else:
            self.outcome.ended.append(f"{failure.code}: {failure.message}")
            if failure.message.startswith("internal error"):
                self.outcome.crashes.append("".join(traceback.format_exception(failure)))
        process.session.hub.end()
        self.time.sleep(RESTART)  # readers get their last event
        process.kill()
        with suppress(Failure):
            process.session.close()

    def _stop(self) -> None:
        """Stop in the orderly way."""
        if self.process is not None:
            self.process.session.upstream.stop(0.0)

    def _heal(self) -> None:
        """End all faults and kills, repeat every send once, and look for the end."""
        self._armed = None
        self.run.fault_counts.update(self.simulation.fired())
        self.simulation.heal()
        self._fill(False)
        self._until = self.time.monotonic() + LONGEST + RECOVERY
        self.time.later(LONGEST, self._repeat)

    def _repeat(self) -> None:
        """What was late has arrived: ask once more for the outcome of every send that was asked for."""
        live = self.process is not None and self.process.session.upstream.state == "live"
        if not live and self.time.monotonic() < self._until:
            self.time.later(1.0, self._repeat)
            return
        for send in self.plan.sends:
            self._ask(send, send.text, last=True)
        self._look()

    def _look(self) -> None:
        """End the run when the log and the readers have everything, or when the time is up."""
        if self._complete():
            self.outcome.complete = True
        elif self.time.monotonic() < self._until:
            self.time.later(1.0, self._look)
            return
        self.time.later(AFTERWARDS, self._end)

    def _complete(self) -> bool:
        if self.process is None or any(one.answer is None and one.ended is None for one in self.outcome.asked):
            return False
        log = self.process.session.log
        lines = self.outcome.lines(log.epoch)
        everything = replace(self.run, log=self.simulation.log(), output=lines)
        return not missing(everything, lines, 0, len(everything.log)) and all(
            self._has_all(reader, log.epoch) for reader in self.outcome.readers
        )

    def _has_all(self, reader: Reader, epoch: str) -> bool:
        """Return whether a reader has the newest event of its kinds. One that began at the end may have none."""
        kept = self.outcome.kept(epoch) if reader.last is None else None
        newest = max(
            (
                number
                for known, number, record in self.outcome.committed
                if known == epoch and (kept is None or number in kept) and record["kind"] in reader.kinds
            ),
            default=0,
        )
        if reader.last is None:
            return reader.plan.after == "last" or not newest
        known, _, number = reader.last.partition("-")
        return known == epoch and int(number) >= newest

    def _end(self) -> None:
        if self.process is None:
            self.time.later(1.0, self._end)
            return
        self._ending = True
        self._stop()

    # --- kills ---

    def _arm(self, kill: Kill) -> None:
        if self.process is not None and self._armed is None:
            self._armed = kill
            self.reach("now")

    def reach(self, moment: Moment) -> None:
        """Kill the process if its kill is due at this moment."""
        if self._armed is None or self._armed.moment != moment or self.process is None or self.process.dead:
            return
        self._killed_by, self._armed = self._armed, None
        self._lives += 1
        shutil.copytree(self.simulation.directory, self._directory())
        self.simulation.directory = self._directory()
        for name in self.simulation.directory.rglob("*-shm"):
            name.unlink()
        for socket in self.simulation.open_sockets():
            socket.inject("late", 0.01)  # what was handed to the system still arrives
        self.process.kill()
        self.time.killed = True
        raise Killed

    def _damage(self, damage: Damage) -> None:
        if damage == "none":
            return
        self.outcome.counts[f"log {damage}"] += 1
        for path in (self.simulation.directory / "state" / "relay").glob("*.db*"):
            if damage == "removed" or path.suffix != ".db":
                path.unlink()
            elif damage == "overwritten":
                path.write_bytes(b"no database " * 1000)
            elif damage == "truncated":
                path.write_bytes(path.read_bytes()[:5000])
            else:
                data = bytearray(path.read_bytes())
                data[4096 * 2 : 4096 * 3] = b"\xff" * 4096
                path.write_bytes(data)

    def _read_disk(self) -> None:
        """Read the events on the disk, with nothing of the relay's own code."""
        for path in (self.simulation.directory / "state" / "relay").glob("*.db"):
            with suppress(sqlite3.DatabaseError):
                database = sqlite3.connect(path)
                try:
                    ((epoch,),) = database.execute("SELECT value FROM meta WHERE name = 'epoch'")
                    rows = {
                        number: json.loads(body) for number, body in database.execute("SELECT number, body FROM event")
                    }
                    self.outcome.on_disk.append((epoch, rows))
                finally:
                    database.close()

    def _fill(self, full: bool) -> None:
        self._full = full
        if self.process is not None:
            self._apply_fullness()

    def _apply_fullness(self) -> None:
        """Let SQLite find no more room for the log."""
        assert self.process is not None
        with suppress(sqlite3.Error):
            self.process.session.log._writer.execute(f"PRAGMA max_page_count={1 if self._full else 1_000_000}")

    # --- sends ---

    def _ask(self, plan: SendPlan, text: str, *, last: bool = False) -> None:
        process = self.process
        if process is None or process.dead or process.session.hub.end_entry is not None:
            self.time.later(RESTART, partial(self._ask, plan, text, last=last))
            return
        asked = Asked(plan.key, text, self.time.monotonic())
        self.outcome.asked.append(asked)
        if not any(result.key == plan.key for result in self.run.sends):
            self.run.sends.append(SendResult(text, plan.key, "killed", None, None, 0.0))
        message = WantedMessage(text)
        future = process.session.sends.submit(plan.key, message)

        def done(future: Future[SendAnswer]) -> None:
            if process.dead or asked.ended is not None:
                return
            self.outcome.counts["answers"] += 1
            asked.ended = self.time.monotonic()
            if future.cancelled():
                gave_up = TimedOut("the relay is not connected to the service")
                asked.answer = process.session.sends.not_sent(plan.key, message, gave_up).delivery
                return
            try:
                asked.answer = future.result().delivery
            except Failure as failure:
                asked.answer = (
                    "conflict"
                    if failure.code == "conflict.key"
                    else process.session.sends.not_sent(plan.key, message, failure).delivery
                )
            except BaseException as error:
                asked.answer = "crashed"
                self.outcome.crashes.append("".join(traceback.format_exception(error)))

        def patience_ends() -> None:
            if asked.ended is not None:
                return
            if process.dead:
                asked.ended = self.time.monotonic()
                self._ask(plan, text, last=last)
            elif not future.cancel():
                self.time.later(RESTART, patience_ends)  # a send that has begun is waited for

        future.add_done_callback(done)
        self.time.later(PATIENCE if last else plan.patience, patience_ends)

    # --- moments ---

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Note what the log commits, and let kills happen around that."""
        append, begin, settle = EventLog.append, EventLog.begin_send, EventLog.settle_send
        publish_from = self

        def noted(log: EventLog, arrivals: Sequence[Arrival], at: float) -> list[LogEntry]:
            publish_from.reach("before append")
            entries = append(log, arrivals, at)
            for entry in entries:
                record = json.loads(entry.body)
                if entry.kind == "gap":
                    record["stored"] = len(publish_from.simulation.log())
                assert entry.id is not None
                publish_from.outcome.committed.append((entry.id.epoch, entry.id.number, record))
            publish_from.reach("after append")
            return entries

        def begun(log: EventLog, *values: str) -> None:
            publish_from.reach("before begin")
            begin(log, *values)
            publish_from.reach("after begin")

        def settled(log: EventLog, *values: str) -> None:
            publish_from.reach("before settle")
            settle(log, *values)
            publish_from.reach("after settle")

        with ExitStack() as stack:
            stack.enter_context(self.simulation.installed())
            stack.enter_context(patch.object(EventLog, "append", noted))
            stack.enter_context(patch.object(EventLog, "begin_send", begun))
            stack.enter_context(patch.object(EventLog, "settle_send", settled))
            stack.enter_context(patch("guestctl.relay.upstream.threading.Thread", _NoThread))
            yield


class _SetBack:
    """The relay's clock, which may be set back. Its monotonic time is not affected."""

    def __init__(self, run: RelayRun) -> None:
        self._run = run

    def now(self) -> float:
        return self._run.simulation.clock.now() - self._run._set_back

    def monotonic(self) -> float:
        return self._run.time.monotonic()

    def sleep(self, seconds: float) -> None:
        self._run.time.sleep(seconds)


class _NoThread:
    """Stands for the thread of the upstream, which the run calls itself."""

    def __init__(self, **options: Any) -> None:
        pass

    def join(self, seconds: float) -> None:
        """The caller runs while the upstream waits, so there is nothing to wait for."""

    def is_alive(self) -> bool:
        return False


def perform(plan: Plan) -> Outcome:
    """Perform a plan and return what happened."""
    with ExitStack() as stack:
        for name in NAMES:
            stack.enter_context(patch.object(dialect_class(name), "page_size", PAGE))
        place = MEMORY if MEMORY.is_dir() else None
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="guestctl-relay-", dir=place)))
        run = RelayRun(plan, directory)
        stack.enter_context(run.installed())
        run.perform()
    return run.outcome
