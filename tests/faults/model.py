"""Run one schedule: a process that sends, a process that listens, an agent, and the scheduled faults.

Knows: the client's methods, the sandbox, the proxy. Must not know: what is right or wrong (`oracles`).
The truth is what the sandbox stored. A `Run` records what the clients reported at the time.

Time is real, because the faults concern real connections. The client's own waits (heartbeats, repeated reads
of history, jitter) are shortened in proportion by `SHORT` and `shortened_waits`, so a run takes a second or two.
"""

from __future__ import annotations

import json
import os
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias
from unittest.mock import patch

from guestctl.cli.commands.cursor import CursorFile
from guestctl.client import Client
from guestctl.config.profiles import resolve
from guestctl.core.clock import Clock, SystemClock
from guestctl.core.errors import Failure
from guestctl.core.model import Connection, Event, Gap, Message, Profile, Retry, Session
from guestctl.core.timings import Timings
from guestctl.dialects import NAMES, dialect_class
from guestctl.dialects.capabilities import Rate
from guestctl.proxy.proxy_server import RecordingProxy
from guestctl.proxy.target import Target
from guestctl.sandbox.apis import guest_sessions
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.service_state import Conversation
from guestctl.sandbox.service_state import StoredMessage as Stored
from guestctl.storage.state import OutboxRow, State
from guestctl.transport.network import Network
from guestctl.transport.span_tree import SpanTree
from tests.faults.proxy import Proxy
from tests.faults.schedules import LISTENER, SENDER, WATCHER, Crash, Hook, Schedule, Step

#: Seconds one command of the guest may take, and one step of the listener.
TIMEOUT = 3.0
#: Seconds a command may take after the last fault: the default of the command line.
PATIENCE = 30.0
#: `RECOVERY`: seconds in which a listener must show everything after the last fault. `AFTERWARDS`: seconds in
#: which it is then watched for duplicates. Both are counted in checks, one every `LOOK` seconds. On a busy
#: machine the checks are late too, so the time does not run out early. A listener that hangs still gets no more.
RECOVERY = 12.0
LOOK = 0.02
AFTERWARDS = 0.12

Record: TypeAlias = dict[str, Any]

#: Reports to an observer that stand for nothing on the wire: a process is not killed at them.
_NOT_ON_THE_WIRE = frozenset({"connected", "attached", "closed", "turn"})


#: The span above all of a guest's, in the trace context of each client.
ABOVE = "00f067aa0ba902b7"


class Killed(BaseException):
    """The process was killed: none of its code may continue."""


#: The client's timings, shortened in proportion, for runs on real sockets.
SHORT = Timings(
    ping_interval=0.25,
    tick=0.05,
    second_look=0.3,
    lag_patience=0.6,
    poll_min=0.05,
    poll_max=0.2,
    stable_connection=1.0,
    missing_window=0.2,
    settling_pause=0.25,
)


class ShortJitter(Random):
    """Random numbers with jitter shortened to a twentieth."""

    def uniform(self, a: float, b: float) -> float:
        return super().uniform(a / 20, b / 20)


@contextmanager
def shortened_waits() -> Iterator[None]:
    """Shorten the lock of guest-sessions, the pages and the rate limits of each API, in the whole process."""
    with ExitStack() as patches:
        for where, name, value in (
            (guest_sessions, "LOCK", 0.2),
            # Small pages, so that a few messages fill several pages.
            *((dialect_class(name), "page_size", 5) for name in NAMES),
            *((dialect_class(name), "send_rate", Rate(200, 1.0)) for name in NAMES if dialect_class(name).send_rate),
        ):
            patches.enter_context(patch.object(where, name, value))
        yield


@dataclass
class SendResult:
    """One message of the guest and the outcome that its sender got.

    `delivery` is "killed" if the process was killed before the outcome, and "unreported" if a failure had none.
    `limit` is the time that the command was given, and `took` the time that it needed, in seconds. It began at `begun`,
    in epoch seconds. `exit` is the exit code, None if no command line was run.
    """

    text: str
    key: str
    delivery: str
    id: str | None
    failure: Failure | None
    took: float
    limit: float = TIMEOUT
    begun: float = 0.0
    exit: int | None = None


@dataclass
class Watch:
    """One `listen --for`, which had no cursor.

    `begin` is the number of messages that the service had stored before. `received` are texts of the agent in the
    frames that the client read. `output` are its lines: messages, gaps and states of the connection, each with the
    number of messages that the service had `stored` by then. `code` is the exit code.
    """

    begin: int
    received: set[str] = field(default_factory=set)
    output: list[Record] = field(default_factory=list)
    code: int = 0


@dataclass
class Resumed:
    """One `resume`: the records in `missed`, its exit code, and the seconds it took and was given."""

    missed: list[Record]
    code: int
    took: float
    limit: float


@dataclass
class Read:
    """One read of history: the ids in their order, the failure that ended it, and the number of messages that the
    service had stored before and after."""

    ids: list[str]
    failure: Failure | None
    before: int
    after: int


@dataclass
class Run:
    """What happened in a schedule: the input of the oracles."""

    schedule: Schedule
    #: When the first step began, in epoch seconds (counted time only).
    begun: float = 0.0
    #: The service's messages in their order, each with id, key, direction, text and time.
    log: list[Record] = field(default_factory=list)
    sends: list[SendResult] = field(default_factory=list)
    read: list[Read] = field(default_factory=list)
    #: Lines that all listener processes wrote: messages and gaps.
    output: list[Record] = field(default_factory=list)
    watches: list[Watch] = field(default_factory=list)
    resumed: list[Resumed] = field(default_factory=list)
    outbox: list[OutboxRow] = field(default_factory=list)
    #: `crashes`: unexpected exceptions, as text. `ended`: failures of the listener. `notices`: all that was printed
    #: on stderr.
    crashes: list[str] = field(default_factory=list)
    ended: list[Failure] = field(default_factory=list)
    settled: Failure | None = None
    notices: list[str] = field(default_factory=list)
    secrets: set[str] = field(default_factory=set)
    conversations: int = 0
    identities: set[tuple[str, ...]] = field(default_factory=set)
    #: When (epoch seconds) the last byte of a message was first handed over, by its client key (counted time only).
    handed_over: dict[str, float] = field(default_factory=dict)
    connections: int = 0
    fault_counts: Counter[str] = field(default_factory=Counter)
    sound: bool = True


class Environment:
    """A sandbox, a clock and a state directory. Creates the clients of both actors."""

    url = "http://127.0.0.1:1"
    timings = Timings()
    #: Returns what makes the spans of a client with this trace id.
    spans: Callable[[str], SpanTree | None] = staticmethod(lambda who: None)
    #: Seconds that one command, or one step of the listener, may take.
    timeout = TIMEOUT

    def __init__(self, schedule: Schedule, run: Run, directory: Path, sandbox: Sandbox, clock: Clock) -> None:
        self.schedule, self.run = schedule, run
        self.directory, self.sandbox, self.clock = directory, sandbox, clock
        self._ids = {who: Random(f"{who}/{schedule.seed}") for who in (SENDER, LISTENER, WATCHER)}
        self.profile = replace(self._profile(), deduplicates=schedule.deduplicates)

    def _profile(self) -> Profile:
        return resolve(
            "sandbox",
            options={"api": self.schedule.api},
            environ={"GUESTCTL_SANDBOX_URL": self.url},
            cwd=self.directory,
            profiles_option=None,
            sandbox=lambda: None,
        ).profile

    def down(self, seconds: float) -> None:
        """Break all connections and refuse new ones for some seconds."""
        raise NotImplementedError

    def client(self, who: str, *, observer: Any = None, timeout: float | None = None) -> Client:
        """Return a client as a new process creates it, with its own connection to the shared state database."""
        state = State.open(self.directory / "state", self.clock, notice=self.run.notices.append)
        return Client(
            self.profile,
            state=state,
            timeout=timeout or self.timeout,
            notice=self.run.notices.append,
            observer=observer,
            traceparent=f"00-{who}-{ABOVE}-01",
            spans=self.spans(who),
            clock=self.clock,
            random=self.random(),
            new_id=lambda: self.new_id(who),
            environ={},
            timings=self.timings,
        )

    def random(self) -> Random:
        return Random(self.schedule.seed)

    def service_time(self) -> float:
        """Return the time in epoch seconds by the service's clock."""
        return self.clock.now()

    def new_id(self, who: str = SENDER) -> str:
        """Return an id from a generator of this actor, so that ids do not depend on which actor is faster."""
        return str(uuid.UUID(int=self._ids[who].getrandbits(128), version=4))

    def log(self) -> list[Record]:
        """Return the messages that the service has stored."""
        return self.sandbox.call(lambda: [one for c in self.reports() for one in c["messages"]])

    def reports(self) -> list[Record]:
        return list(self.sandbox.admin.sessions()["sessions"])

    def fault(self, spec: str) -> None:
        self.sandbox.call(lambda: self.sandbox.faults.add(spec))

    def expire_token(self) -> None:
        def expire() -> None:
            for conversation in tuple(self.sandbox.service.conversations.values()):
                self.sandbox.service.expire_token(conversation)

        self.sandbox.call(expire)

    def fired(self) -> Counter[str]:
        """Return how often each kind of sandbox fault fired."""
        return self.sandbox.call(self._fired)

    def _fired(self) -> Counter[str]:
        count: Counter[str] = Counter()
        for armed in self.sandbox.faults._armed:
            count[armed.fault.kind] += sum(tally.fired for tally in armed.tallies.values())
        return count

    def outcome(self, created: Session, scope: str) -> None:
        """Record the end state: the outbox, whether the database is intact, the ids of the session and all secrets."""
        run = self.run
        with State.open(self.directory / "state", self.clock) as state:
            run.outbox = state.outbox(scope, created)
            run.sound = state._rows("PRAGMA quick_check") == [("ok",)] and not list(
                (self.directory / "state").glob("*.damaged-*")
            )
            for _, session in state.sessions():
                run.identities.add(identity(session))
                run.secrets |= {held.secret.reveal() for held in session.credentials.values()}
        run.identities.add(identity(created))
        run.conversations = len(self.sandbox.call(self.reports))


class RealEnvironment(Environment):
    """Real sockets with the proxy in front of the sandbox, and the faults of the schedule."""

    timings = SHORT

    def __init__(self, schedule: Schedule, stack: ExitStack, run: Run) -> None:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="guestctl-faults-")))
        self.proxy = Proxy()
        self.url = self.proxy.url
        self._hooks = list(schedule.hooks)
        self._inbound = 0
        sandbox = Sandbox(
            fast=True,
            also_hosts=[self.proxy.address],
            watch=self._stored,
            keys="returned" if schedule.keys_return else "withheld",
            deduplicates="yes" if schedule.deduplicates else "no",
        )
        super().__init__(schedule, run, directory, stack.enter_context(sandbox), SystemClock())
        self.proxy.start(self.sandbox.port)
        stack.callback(self.proxy.stop)
        if schedule.recorded:
            network = Network(ca=None, environ={})
            recorder = RecordingProxy(
                Target.of_url(self.proxy.url), network, clock=SystemClock(), observer=lambda kind, data: None
            )
            self.url = stack.enter_context(recorder).url

    def _profile(self) -> Profile:
        return replace(super()._profile(), retry=Retry(base=0.4, cap=2.0))

    def random(self) -> Random:
        return ShortJitter(self.schedule.seed)

    def down(self, seconds: float) -> None:
        self.proxy.down(seconds)

    def heal(self) -> None:
        """Remove all faults, including hooks that wait for a message which only the next run sends again."""
        self.sandbox.call(self._hooks.clear)
        self.proxy.heal()
        self.sandbox.call(self.sandbox.faults.clear)

    def _stored(self, conversation: Conversation, message: Stored) -> None:
        """Run the hooks for a stored message. Called in the sandbox's thread before any client gets the message."""
        if message.direction != "inbound":
            return
        self._inbound += 1
        for hook in [hook for hook in self._hooks if hook.count == self._inbound]:
            self._hooks.remove(hook)
            self._inject(hook)

    def _inject(self, hook: Hook) -> None:
        self.proxy.inject(hook.action, hook.who, hook.kind, hook.seconds)


def kill_client(client: Client) -> None:
    """Do what the kernel does for a killed process: release sockets and locks without a close frame."""
    exchange = client._sessions.engine
    if exchange is not None and exchange.socket is not None:
        line, exchange.socket = exchange.socket, None
        with line.resources:
            line.socket.abort()
    client._connector.close()
    client.state.close()


class Listener:
    """Listens like `listen --cursor FILE >> OUTPUT`. It is killed and started again as scheduled.

    `crashes` maps line numbers, counted over all its processes, to crashes. `tick` is the time in seconds after
    which the client returns control when nothing arrives. `ending`: the process ends in order at its next event.
    """

    tick: float | None = None
    ending = False

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self.crashes = {crash.line: crash for crash in environment.schedule.crashes}
        self.lines = 0
        self.live = threading.Event()
        self._out = environment.directory / "output.jsonl"
        self._out.touch()

    def processes(self) -> Generator[None, None, None]:
        """Run one process after the other. Yield at every event and every tick."""
        run = self._environment.run
        while True:
            client = self._environment.client(LISTENER)
            try:
                yield from self._live(client)
            except Killed:
                pass
            except Failure as failure:
                run.ended.append(failure)
                if len(run.ended) > 20:
                    return
                self._environment.clock.sleep(0.05)
            except Exception:
                run.crashes.append(traceback.format_exc())
                return
            finally:
                kill_client(client)

    def output(self) -> list[Record]:
        """Return the lines so far. A line that is no JSON gets the kind "torn"; an unfinished last line is left out."""
        found: list[Record] = []
        for line in self._out.read_text("utf-8").splitlines(keepends=True):
            try:
                found += [json.loads(line)] if line.endswith("\n") else []
            except ValueError:
                found.append({"kind": "torn", "text": line})
        return found

    def _live(self, client: Client) -> Iterator[None]:
        environment = self._environment
        session = client.session()
        with open(self._out, "ab", buffering=0) as out:
            cursor = CursorFile(environment.directory / "cursor", client.state, client.scope, session, out)
            after = cursor.after
            events = client.listen(after=after, from_start=after is None, forever=True, wake=lambda: self.tick)
            for event in events:
                yield
                self._show(cursor, out.fileno(), event)
                if self.ending:
                    break
            self.ending = False
            for event in events.rest():
                self._show(cursor, out.fileno(), event)
                if isinstance(event, Gap):
                    break  # as the command does: what follows is left to the next process

    def _show(self, cursor: CursorFile, out: int, event: Event | None) -> None:
        if isinstance(event, Message):
            self._write(cursor, out, event)
        elif isinstance(event, Gap):
            os.write(out, (json.dumps(record_of(event, self._environment)) + "\n").encode())
        elif isinstance(event, Connection):
            self._environment.run.notices.append(event.detail or "")
            if event.state == "live":
                self.live.set()

    def _write(self, cursor: CursorFile, out: int, message: Message) -> None:
        line = (json.dumps(record_of(message, self._environment)) + "\n").encode()
        self.lines += 1
        crash = self.crashes.pop(self.lines, None)
        _die_at(crash, "before")
        cursor.writing(message, len(line))
        _die_at(crash, "intent")
        if crash is not None and crash.moment == "torn":
            os.write(out, line[: len(line) // 2])
            raise Killed
        os.write(out, line)
        _die_at(crash, "line")
        cursor.written(message)


def record_of(event: Message | Gap, environment: Environment) -> Record:
    """Return the line for a message or a gap. A gap notes how many messages the service had stored by then."""
    if isinstance(event, Message):
        return {
            "kind": "message",
            "id": event.id,
            "text": event.text,
            "direction": event.direction,
            "source": event.source,
        }
    stored = len(environment.log())
    return {"kind": "gap", "after": event.after, "before": event.before, "reason": event.reason, "stored": stored}


def _die_at(crash: Crash | None, moment: str) -> None:
    if crash is not None and crash.moment == moment:
        raise Killed


class ListenerThread(threading.Thread):
    """Runs a listener in its own thread."""

    def __init__(self, listener: Listener) -> None:
        super().__init__(name="listener", daemon=True)
        self._listener = listener
        self._ending = threading.Event()
        listener.tick = 0.05

    def run(self) -> None:
        with closing(self._listener.processes()) as steps:
            for _ in steps:
                if self._ending.is_set():
                    return

    def finish(self) -> None:
        self._ending.set()
        self.join(TIMEOUT + 5)


class Sender:
    """The process that sends: it performs one step after the other."""

    def __init__(self, environment: Environment, listener: Listener) -> None:
        self._environment = environment
        self._listener = listener
        self._client: Client | None = None
        self._fuse = 0
        #: Seconds one command may take.
        self.timeout = environment.timeout

    def do(self, step: Step) -> None:
        environment = self._environment
        if step.kind in ("send", "kill"):
            self._send(step)
        elif step.kind == "push":
            environment.sandbox.call(lambda: environment.sandbox.admin.push(step.text))
        elif step.kind == "pause":
            environment.clock.sleep(step.seconds)
        elif step.kind == "wait_until_live":
            self._listener.live.wait(TIMEOUT)
        elif step.kind == "history":
            self.read()
        elif step.kind == "restart":
            self.restart()
        elif step.kind == "down":
            environment.down(step.seconds)
        elif step.kind == "fault":
            environment.fault(step.text)
        else:
            environment.expire_token()

    @property
    def client(self) -> Client:
        if self._client is None:
            self._client = self._environment.client(SENDER, observer=self._burn, timeout=self.timeout)
        return self._client

    def restart(self) -> None:
        """Kill the process. The next command starts another one."""
        if self._client is not None:
            client, self._client = self._client, None
            kill_client(client)

    def close(self) -> None:
        """End the process in the normal way."""
        if self._client is not None:
            self._client.close()
            self._client.state.close()
            self._client = None

    def _burn(self, kind: str, data: object) -> None:
        if self._fuse and kind not in _NOT_ON_THE_WIRE:
            self._fuse -= 1
            if not self._fuse:
                raise Killed

    def _send(self, step: Step) -> None:
        key, begun = self._environment.new_id(), self._environment.clock.monotonic()
        result = SendResult(step.text, key, "killed", None, None, 0.0, self.timeout, self._environment.service_time())
        self._environment.run.sends.append(result)
        client = self.client
        self._fuse = step.count if step.kind == "kill" else 0
        try:
            sent = client.send(step.text, key=key)
            result.delivery, result.id = sent.delivery, sent.message.id if sent.message else None
        except Failure as failure:
            result.delivery, result.failure = failure.delivery or "not_sent", failure
            result.delivery = result.delivery if failure.delivery else "unreported"
        except Killed:
            self.restart()
        except Exception:
            result.delivery = "crashed"
            self._environment.run.crashes.append(traceback.format_exc())
        finally:
            self._fuse = 0
            result.took = self._environment.clock.monotonic() - begun
        if step.kind == "kill":
            self.restart()

    def read(self) -> None:
        """Read all of history, as far as possible, and record the result."""
        run, before, ids, failure = self._environment.run, len(self._environment.log()), [], None
        try:
            for item in self.client.history(all=True):
                if isinstance(item, Message):
                    ids.append(item.id)
        except Failure as caught:
            failure = caught
        except Exception:
            run.crashes.append(traceback.format_exc())
            return
        run.read.append(Read(ids, failure, before, len(self._environment.log())))

    def settle(self) -> None:
        """Start the next run, without faults and with the default timeout: it must settle all open messages."""
        self.timeout = PATIENCE
        self.restart()
        try:
            self.client.resume()
        except Failure as failure:
            self._environment.run.settled = failure
        except Exception:
            self._environment.run.crashes.append(traceback.format_exc())


def run_schedule(schedule: Schedule) -> Run:
    """Run one schedule to its end and return what happened. Call it inside `shortened_waits`."""
    run = Run(schedule)
    with ExitStack() as stack:
        environment = RealEnvironment(schedule, stack, run)
        with environment.client(SENDER, timeout=60.0) as client:
            created = client.create()
            scope = client.scope
        client.state.close()
        environment.proxy.arm(schedule.rules)
        for spec in schedule.faults:
            environment.fault(spec)
        listener = Listener(environment)
        sender, listener_thread = Sender(environment, listener), ListenerThread(listener)
        listener_thread.start()
        try:
            for step in schedule.steps:
                sender.do(step)
            run.fault_counts.update(environment.fired())
            sender.restart() if schedule.seed % 2 else sender.close()
            environment.heal()
            sender.settle()
            sender.read()
            run.log = environment.log()
            _await_all(listener, listener_thread, run.log)
        finally:
            listener_thread.finish()
            sender.close()
        run.log = environment.log()
        run.output = listener.output()
        run.connections = environment.proxy.accepted[LISTENER]
        run.fault_counts.update(environment.proxy.fault_counts)
        run.fault_counts["kill"] += sum(result.delivery == "killed" for result in run.sends) + len(schedule.crashes)
        environment.outcome(created, scope)
    return run


def identity(session: Session) -> tuple[str, ...]:
    """Return the conversation and the guest of a session. Ids that a token renewal replaces are left out."""
    return tuple(f"{name} {session.ids.get(name)}" for name in ("conversation", "guest"))


def _await_all(listener: Listener, listener_thread: ListenerThread, wanted: list[Record]) -> None:
    """Wait until the listener has shown all wanted messages, or until its time is over."""
    for _ in range(round(RECOVERY / LOOK)):
        shown = {line.get("id") for line in listener.output()}
        if not listener_thread.is_alive() or all(one["id"] in shown for one in wanted):
            break
        time.sleep(LOOK)
    time.sleep(AFTERWARDS)
