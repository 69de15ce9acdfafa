"""One schedule carried out: a guest who speaks, one who listens, an agent, and everything that goes wrong.

Knows: the client's verbs, the sandbox, the proxy. Must not know: what is right or wrong (`oracles`).
The truth is what the sandbox stored; the journal is what the clients said of it, at the time.

Time is real: the faults are of real connections. What the client waits for by design (heartbeats,
second looks, jitter) is shortened by `SHORT` and `hurried`, all in proportion, so that a run takes a second or two.
"""

from __future__ import annotations

import json
import os
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Generator, Iterator
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
from guestctl.core.model import Connection, Gap, Message, Profile, Retry, Session
from guestctl.core.timings import Timings
from guestctl.dialects import NAMES, dialect_class
from guestctl.dialects.capabilities import Rate
from guestctl.sandbox.apis import guest_sessions
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.service_state import Conversation
from guestctl.sandbox.service_state import StoredMessage as Stored
from guestctl.storage.state import OutboxRow, State
from tests.faults.proxy import Proxy
from tests.faults.schedules import LISTENER, SENDER, Crash, Hook, Schedule, Step

#: Seconds one verb of the guest may take, and the listener's each step.
TIMEOUT = 3.0
#: Seconds it may take once nothing goes wrong any more: what the command line gives it.
PATIENCE = 30.0
#: Seconds within which a listener must have everything once nothing goes wrong any more, and how long
#: it is then watched for what comes too often. They are counted in looks at what it has, one every `LOOK`
#: seconds: where a busy machine keeps this process waiting, whoever looks waits as well, and its time does
#: not run out. A listener that hangs or spins while others run still has no more than this.
RECOVERY = 12.0
LOOK = 0.02
AFTERWARDS = 0.12

Record: TypeAlias = dict[str, Any]


class Killed(BaseException):
    """The process is no more: nothing of it may run on."""


#: The client's own waits, shortened in proportion, for runs on real sockets.
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


class Brisk(Random):
    """Jitter, a twentieth as long."""

    def uniform(self, a: float, b: float) -> float:
        return super().uniform(a / 20, b / 20)


@contextmanager
def hurried() -> Iterator[None]:
    """Shorten the service's one wait, and the pages and rates of each API. Concerns the whole process."""
    with ExitStack() as patches:
        for where, name, value in (
            (guest_sessions, "LOCK", 0.2),
            # Small pages, so that these few messages fill several.
            *((dialect_class(name), "page_size", 5) for name in NAMES),
            *((dialect_class(name), "send_rate", Rate(200, 1.0)) for name in NAMES if dialect_class(name).send_rate),
        ):
            patches.enter_context(patch.object(where, name, value))
        yield


@dataclass
class Said:
    """One message of the guest and what its sender was told. `delivery` "killed": it did not live to hear."""

    text: str
    key: str
    delivery: str
    id: str | None
    failure: Failure | None
    took: float


@dataclass
class Read:
    """One reading of history: ids in the order given, the failure that ended it, and how much the
    service had stored before and after."""

    ids: list[str]
    failure: Failure | None
    before: int
    after: int


@dataclass
class Run:
    """What came of a schedule."""

    schedule: Schedule
    #: The service's messages, in order: id, key, direction, text, time.
    log: list[Record] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)
    read: list[Read] = field(default_factory=list)
    #: Lines the listener wrote, over all its lives: messages and gaps.
    heard: list[Record] = field(default_factory=list)
    outbox: list[OutboxRow] = field(default_factory=list)
    #: Untyped exceptions, as text; failures of the listener; everything anybody was told.
    crashes: list[str] = field(default_factory=list)
    ended: list[Failure] = field(default_factory=list)
    settled: Failure | None = None
    told: list[str] = field(default_factory=list)
    secrets: set[str] = field(default_factory=set)
    conversations: int = 0
    identities: set[tuple[str, ...]] = field(default_factory=set)
    connections: int = 0
    struck: Counter[str] = field(default_factory=Counter)
    sound: bool = True


class Scene:
    """A sandbox, a clock and a state directory; the actors' clients are made here."""

    url = "http://127.0.0.1:1"
    timings = Timings()

    def __init__(self, schedule: Schedule, run: Run, directory: Path, sandbox: Sandbox, clock: Clock) -> None:
        self.schedule, self.run = schedule, run
        self.directory, self.sandbox, self.clock = directory, sandbox, clock
        self._ids = {who: Random(f"{who}/{schedule.seed}") for who in (SENDER, LISTENER)}
        self.profile = self._profile()

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
        """Everything breaks, and whoever comes within so many seconds is turned away."""
        raise NotImplementedError

    def client(self, who: str, *, observer: Any = None, timeout: float = TIMEOUT) -> Client:
        """A client as a fresh process has one; its state is its own connection to the shared database."""
        state = State.open(self.directory / "state", self.clock, notice=self.run.told.append)
        return Client(
            self.profile,
            state=state,
            timeout=timeout,
            notice=self.run.told.append,
            observer=observer,
            traceparent=f"00-{who}-{'00f067aa0ba902b7'}-01",
            clock=self.clock,
            random=self.random(),
            new_id=lambda: self.new_id(who),
            environ={},
            timings=self.timings,
        )

    def random(self) -> Random:
        return Random(self.schedule.seed)

    def new_id(self, who: str = SENDER) -> str:
        """From a source of each actor's own, so that ids do not depend on who is faster."""
        return str(uuid.UUID(int=self._ids[who].getrandbits(128), version=4))

    def log(self) -> list[Record]:
        """The one conversation's messages as the service has them."""
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

    def outcome(self, created: Session, scope: str) -> None:
        """What the state directory says at the end: the outbox, who the session is, what is secret."""
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


class Theatre(Scene):
    """A scene on real sockets, with a proxy before the sandbox; what the schedule asks for is armed."""

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
            deployment={"return_message_id": schedule.keys_return},
        )
        super().__init__(schedule, run, directory, stack.enter_context(sandbox), SystemClock())
        self.proxy.start(self.sandbox.port)
        stack.callback(self.proxy.stop)

    def _profile(self) -> Profile:
        return replace(super()._profile(), retry=Retry(base=0.4, cap=2.0))

    def random(self) -> Random:
        return Brisk(self.schedule.seed)

    def down(self, seconds: float) -> None:
        self.proxy.down(seconds)

    def heal(self) -> None:
        """No more faults, nor those that waited for a message which only the next run says again."""
        self.sandbox.call(self._hooks.clear)
        self.proxy.heal()
        self.sandbox.call(self.sandbox.faults.clear)

    def _stored(self, conversation: Conversation, message: Stored) -> None:
        """In the sandbox's thread, before anybody is told."""
        if message.direction != "inbound":
            return
        self._inbound += 1
        for hook in [hook for hook in self._hooks if hook.count == self._inbound]:
            self._hooks.remove(hook)
            self._strike(hook)

    def _strike(self, hook: Hook) -> None:
        self.proxy.strike(hook.action, hook.who, hook.kind, hook.seconds)

    def fired(self) -> Counter[str]:
        """How often each kind of the sandbox's faults has fired."""
        return self.sandbox.call(self._fired)

    def _fired(self) -> Counter[str]:
        count: Counter[str] = Counter()
        for armed in self.sandbox.faults._armed:
            count[armed.fault.kind] += sum(tally.fired for tally in armed.tallies.values())
        return count


def die(client: Client) -> None:
    """What the kernel does for a process that was killed: sockets and locks go, nothing is said."""
    exchange = client._sessions.engine
    if exchange is not None and exchange.socket is not None:
        line, exchange.socket = exchange.socket, None
        with line.resources:
            line.socket.abort()
    client._connector.close()
    client.state.close()


class Listener:
    """Listens as `listen --cursor FILE` does with stdout in a regular file, and is killed now and then.

    `crashes` by line, counted over all its lives; `tick`: seconds after which it wants control.
    """

    tick: float | None = None

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.crashes = {crash.line: crash for crash in scene.schedule.crashes}
        self.lines = 0
        self.live = threading.Event()
        self._out = scene.directory / "heard.jsonl"
        self._out.touch()

    def lives(self) -> Generator[None, None, None]:
        """One process after the other; whoever carries it out gets control at every event and every tick."""
        run = self._scene.run
        while True:
            client = self._scene.client(LISTENER)
            try:
                yield from self._live(client)
            except Killed:
                pass
            except Failure as failure:
                run.ended.append(failure)
                if len(run.ended) > 20:
                    return
                self._scene.clock.sleep(0.05)
            except Exception:
                run.crashes.append(traceback.format_exc())
                return
            finally:
                die(client)

    def heard(self) -> list[Record]:
        """Its lines so far; what is no record is `torn`. A last line without its end is none yet."""
        found: list[Record] = []
        for line in self._out.read_text("utf-8").splitlines(keepends=True):
            try:
                found += [json.loads(line)] if line.endswith("\n") else []
            except ValueError:
                found.append({"kind": "torn", "text": line})
        return found

    def _live(self, client: Client) -> Iterator[None]:
        scene = self._scene
        session = client.session()
        with open(self._out, "ab", buffering=0) as out:
            cursor = CursorFile(scene.directory / "cursor", client.state, client.scope, session, out)
            after = cursor.after
            events = client.listen(after=after, from_start=after is None, forever=True, wake=lambda: self.tick)
            for event in events:
                yield
                if isinstance(event, Message):
                    self._write(cursor, out.fileno(), event)
                elif isinstance(event, Gap):
                    gap = {"kind": "gap", "after": event.after, "before": event.before}
                    os.write(out.fileno(), (json.dumps(gap) + "\n").encode())
                elif isinstance(event, Connection):
                    scene.run.told.append(event.detail or "")
                    if event.state == "live":
                        self.live.set()

    def _write(self, cursor: CursorFile, out: int, message: Message) -> None:
        record = {"kind": "message", "id": message.id, "text": message.text, "direction": message.direction}
        line = (json.dumps(record) + "\n").encode()
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


def _die_at(crash: Crash | None, moment: str) -> None:
    if crash is not None and crash.moment == moment:
        raise Killed


class Audience(threading.Thread):
    """A listener in a thread of its own."""

    def __init__(self, listener: Listener) -> None:
        super().__init__(name="listener", daemon=True)
        self._listener = listener
        self._ending = threading.Event()
        listener.tick = 0.05

    def run(self) -> None:
        with closing(self._listener.lives()) as lives:
            for _ in lives:
                if self._ending.is_set():
                    return

    def finish(self) -> None:
        self._ending.set()
        self.join(TIMEOUT + 5)


class Speaker:
    """The guest who speaks, one command after the other."""

    def __init__(self, scene: Scene, listener: Listener) -> None:
        self._scene = scene
        self._listener = listener
        self._client: Client | None = None
        self._fuse = 0
        #: Seconds a verb may take.
        self.timeout = TIMEOUT

    def do(self, step: Step) -> None:
        scene = self._scene
        if step.does in ("send", "kill"):
            self._send(step)
        elif step.does == "push":
            scene.sandbox.call(lambda: scene.sandbox.admin.push(step.text))
        elif step.does == "pause":
            scene.clock.sleep(step.seconds)
        elif step.does == "attend":
            self._listener.live.wait(TIMEOUT)
        elif step.does == "history":
            self.read()
        elif step.does == "restart":
            self.restart()
        elif step.does == "down":
            scene.down(step.seconds)
        elif step.does == "fault":
            scene.fault(step.text)
        else:
            scene.expire_token()

    @property
    def client(self) -> Client:
        if self._client is None:
            self._client = self._scene.client(SENDER, observer=self._burn, timeout=self.timeout)
        return self._client

    def restart(self) -> None:
        """The process is killed; the next command is another one."""
        if self._client is not None:
            client, self._client = self._client, None
            die(client)

    def close(self) -> None:
        """The process ends as it should."""
        if self._client is not None:
            self._client.close()
            self._client.state.close()
            self._client = None

    def _burn(self, kind: str, data: object) -> None:
        if self._fuse:
            self._fuse -= 1
            if not self._fuse:
                raise Killed

    def _send(self, step: Step) -> None:
        key, begun = self._scene.new_id(), self._scene.clock.monotonic()
        said = Said(step.text, key, "killed", None, None, 0.0)
        self._scene.run.said.append(said)
        client = self.client
        self._fuse = step.count if step.does == "kill" else 0
        try:
            sent = client.send(step.text, key=key)
            said.delivery, said.id = sent.delivery, sent.message.id if sent.message else None
        except Failure as failure:
            said.delivery, said.failure = failure.delivery or "not_sent", failure
            said.delivery = said.delivery if failure.delivery else "untold"
        except Killed:
            self.restart()
        except Exception:
            said.delivery = "crashed"
            self._scene.run.crashes.append(traceback.format_exc())
        finally:
            self._fuse = 0
            said.took = self._scene.clock.monotonic() - begun
        if step.does == "kill":
            self.restart()

    def read(self) -> None:
        """All of history, as far as it can be read."""
        run, before, ids, failure = self._scene.run, len(self._scene.log()), [], None
        try:
            for item in self.client.history(all=True):
                if isinstance(item, Message):
                    ids.append(item.id)
        except Failure as caught:
            failure = caught
        except Exception:
            run.crashes.append(traceback.format_exc())
            return
        run.read.append(Read(ids, failure, before, len(self._scene.log())))

    def settle(self) -> None:
        """The next run, in peace and with a user's patience: whatever was left open comes to its end."""
        self.timeout = PATIENCE
        self.restart()
        try:
            self.client.resume()
        except Failure as failure:
            self._scene.run.settled = failure
        except Exception:
            self._scene.run.crashes.append(traceback.format_exc())


def carry_out(schedule: Schedule) -> Run:
    """Run one schedule to its end. Must run `hurried`."""
    run = Run(schedule)
    with ExitStack() as stack:
        theatre = Theatre(schedule, stack, run)
        with theatre.client(SENDER, timeout=60.0) as client:
            created = client.create()
            scope = client.scope
            client.state.close()
        theatre.proxy.arm(schedule.rules)
        for spec in schedule.faults:
            theatre.fault(spec)
        listener = Listener(theatre)
        speaker, audience = Speaker(theatre, listener), Audience(listener)
        audience.start()
        try:
            for step in schedule.steps:
                speaker.do(step)
            run.struck.update(theatre.fired())
            speaker.restart() if schedule.seed % 2 else speaker.close()
            theatre.heal()
            speaker.settle()
            speaker.read()
            run.log = theatre.log()
            _await_all(listener, audience, run.log)
        finally:
            audience.finish()
            speaker.close()
        run.log = theatre.log()
        run.heard = listener.heard()
        run.connections = theatre.proxy.accepted[LISTENER]
        run.struck.update(theatre.proxy.struck)
        run.struck["kill"] += sum(said.delivery == "killed" for said in run.said) + len(schedule.crashes)
        theatre.outcome(created, scope)
    return run


def identity(session: Session) -> tuple[str, ...]:
    """Who and where this is. What a renewal of the token gives anew is not part of it."""
    return tuple(f"{name} {session.ids.get(name)}" for name in ("conversation", "guest"))


def _await_all(listener: Listener, audience: Audience, wanted: list[Record]) -> None:
    """Until the listener has all this, or has had the time to."""
    for _ in range(round(RECOVERY / LOOK)):
        heard = {line.get("id") for line in listener.heard()}
        if not audience.is_alive() or all(one["id"] in heard for one in wanted):
            break
        time.sleep(LOOK)
    time.sleep(AFTERWARDS)
