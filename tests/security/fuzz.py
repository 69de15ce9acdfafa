"""Fuzz every parser of foreign bytes: it returns a result or raises a typed failure.

Knows: every parser of remote or foreign text, by name. Must not know: what the right answer is.
`python -m tests.security.fuzz [--examples N] [--seed N] [--only NAME]` is the long run; the test suite has a short one.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from guestctl.checks import reader as check_reader
from guestctl.cli.commands.cursor import CursorFile
from guestctl.config.profiles import load
from guestctl.core import jwt_claims
from guestctl.core.errors import Failure, TimedOut
from guestctl.core.model import NewSession, Position, Profile, Secret, Session
from guestctl.core.redact import Redactor
from guestctl.core.wire import Frame, HttpResponse, load_json
from guestctl.dialects import NAMES, dialect_class
from guestctl.dialects.base import Dialect
from guestctl.dialects.flows import FrameRequest, HttpRequest, done
from guestctl.dialects.refusals import retry_after
from guestctl.output.records import event_record
from guestctl.output.terminal import Terminal
from guestctl.output.writer import Output
from guestctl.sandbox.bot.bot_script import ScriptError
from guestctl.sandbox.bot.bot_script import load as load_bot
from guestctl.sandbox.faults import KINDS, FaultError
from guestctl.sandbox.faults import parse as parse_fault
from guestctl.sandbox_tools.replay import load as load_trace
from tests.cli.conftest import Stream
from tests.fakes import FakeClock
from tests.security import strange
from tests.security.memory import peak
from tests.security.strange import WORDS

PROFILE = Profile(
    name="p",
    region="mypurecloud.de",
    deployment_id="d",
    origin="https://shop.example",
    environment="acme",
    org="acme",
    aws_region="us-east-1",
    queue="q",
    email="a@b.example",
    client_id="c",
    client_secret=Secret("s"),
)
IDS = {"conversation": "c", "guest": "g", "session": "s", "member": "m", "customer": "c", "connection": "x"}
#: MiB by which the peak may grow after the first parser (reliability: each input is small).
GROWTH = 32
CLOCK = FakeClock()


def _dialect(name: str) -> Dialect:
    return dialect_class(name)(PROFILE, new_id=lambda: "0b7d2c5e-1f63-4b9a-9a35-4d3f1f6a7b10")


def _session(dialect: Dialect) -> Session:
    from guestctl.core.model import Credential

    held = {kind: Credential(kind, Secret("tttttttt")) for kind in ("guest", "history", "oauth")}
    names = {*IDS, *(getattr(dialect, "id_names", ()))}
    return Session(api=dialect.name, profile="p", ids=dict.fromkeys(names, "x"), credentials=held)


def _frames(name: str) -> Callable[[str], None]:
    def read(text: str) -> None:
        dialect = _dialect(name)
        for heard in dialect.decode(Frame(text, 0.0), _session(dialect)):
            _shown(heard)

    return read


def _shown(heard: Any) -> None:
    """Write an event for a terminal and as JSON."""
    try:
        record = event_record(heard, "s", at="2026-03-04T09:15:27.412Z", raw=True)
    except KeyError:  # a signal, which is never printed
        return
    for terminal in (True, False):
        out = Stream(terminal=terminal)
        screen = Terminal(stdout=terminal, colour=False, width=60 if terminal else None)
        Output(out, Stream(), screen, now=CLOCK.now).event(record)


def _flows(name: str) -> Callable[[tuple[list[str], int]], None]:
    """Drive every flow of a dialect with random answers."""

    def read(given: tuple[list[str], int]) -> None:
        texts, status = given
        for make in _FLOWS:
            dialect = _dialect(name)
            session = _session(dialect)
            try:
                flow = make(dialect, session)
                step = next(flow)
                for text in texts:
                    if isinstance(step, HttpRequest):
                        reply = HttpResponse(
                            status, {"retry-after": text[:30]}, text.encode("utf-8", "replace"), 0.0, "http://x/"
                        )
                        step = flow.send(reply) if reply.ok else flow.throw(dialect.refusal(step.request, reply))
                    elif isinstance(step, FrameRequest):
                        heard = [h for h in dialect.decode(Frame(text, 0.0), session) if _claims(step, h)]
                        if heard or step.answers is None:
                            step = flow.send(heard[0] if heard else None)
                        else:
                            step = flow.throw(TimedOut("nothing came"))
            except (Failure, StopIteration, KeyError) as end:
                if isinstance(end, KeyError) and not _missing_id(end):
                    raise

    return read


def _claims(step: FrameRequest, heard: Any) -> bool:
    return step.answers is not None and step.answers(heard)


def _missing_id(error: KeyError) -> bool:
    """The random session lacks an id of the client's session."""
    return bool(error.args) and isinstance(error.args[0], str) and error.args[0] not in WORDS


_FLOWS: tuple[Callable[[Dialect, Session], Any], ...] = (
    lambda dialect, session: dialect.create(NewSession(name="s")),
    lambda dialect, session: dialect.attach(session),
    lambda dialect, session: dialect.history(session, after=None, cursor=None, limit=10),
    lambda dialect, session: dialect.history(session, after=Position("m"), cursor="2", limit=10),
    lambda dialect, session: dialect.obtain("guest", session),
    lambda dialect, session: dialect.obtain("history", session),
    lambda dialect, session: dialect.oauth(),
    lambda dialect, session: (
        dialect.deployment_configuration.fetch() if dialect.deployment_configuration else done(None)
    ),
    lambda dialect, session: dialect.files.download(session, "a") if dialect.files else done(None),
)


def _token(text: str) -> None:
    jwt_claims.inspect(Secret(text), 0.0, required=("aud",)).record(0.0)


def _made_token(chance: Random) -> str:
    if chance.random() < 0.3:
        return strange.text(chance, 80)
    parts = [json.dumps(strange.value(chance)) if chance.random() < 0.8 else strange.text(chance, 30) for _ in "hbs"]
    if chance.random() < 0.5:
        parts[1] = json.dumps({name: strange.leaf(chance) for name in ("exp", "iat", "nbf", "aud", "iss", "sub")})
    parts = parts[: 1 + chance.randrange(4)]
    return ".".join(base64.urlsafe_b64encode(p.encode("utf-8", "replace")).decode().rstrip("=") for p in parts)


def _made_date(chance: Random) -> str:
    if chance.random() < 0.4:
        return strange.text(chance, 40)
    if chance.random() < 0.3:
        return str(chance.choice((chance.getrandbits(80) - (1 << 79), chance.uniform(-1e9, 1e9), "1e999", "-0", "٣")))
    zone = chance.choice(("GMT", "UTC", "", "+0000", "-9999", "+99999999"))
    year, day = chance.choice((0, 1, 1970, 2026, 9999, 10000, 10**9)), chance.choice((0, 1, 28, 31, 32, 99999))
    clock = ":".join(f"{chance.randrange(70):02}" for _ in range(3))
    return f"{chance.choice(('Mon, ', 'Xyz, ', ''))}{day} {chance.choice(('Jan', 'Feb', 'Foo'))} {year} {clock} {zone}"


def _made_fault(chance: Random) -> str:
    if chance.random() < 0.3:
        return strange.text(chance, 60)
    keys = ("after", "every", "times", "on", "code", "ms", "for", "status", "retry_after", "s", "")
    said = [f"{chance.choice(keys)}={chance.choice((strange.leaf(chance), 3, '400ms', 'send', '1s'))}" for _ in "abc"]
    return f"{chance.choice((*KINDS, 'nothing'))}:{','.join(said[: chance.randrange(4)])}"


def _made_json(chance: Random) -> str:
    if chance.random() < 0.1:
        depth = chance.randrange(1, 3000)
        return chance.choice(("[", '{"a":')) * depth + "]" * depth
    return strange.speech(chance)


def _made_secret_text(chance: Random) -> str:
    if chance.random() < 0.5:
        return strange.speech(chance)
    return "".join(chance.choices("\\\"'{}:token=&? eyJ.https/", k=chance.randrange(200)))


def _made_answers(chance: Random, api: str) -> tuple[list[str], int]:
    status = chance.choice((200, 200, 200, 201, 400, 401, 409, 429, 503))
    return [strange.speech(chance, api) for _ in range(1 + chance.randrange(3))], status


def _written(read: Callable[[Path], object], *expected: type[Exception]) -> Callable[[bytes], None]:
    def look(content: bytes) -> None:
        with tempfile.TemporaryDirectory() as room:
            path = Path(room) / "file.yaml"
            path.write_bytes(content)
            try:
                read(path)
            except expected:
                pass

    return look


def _cursor(content: bytes) -> None:
    from guestctl.storage.state import State

    with tempfile.TemporaryDirectory() as room, State.open(None, CLOCK) as state:
        path = Path(room) / "cursor"
        path.write_bytes(content)
        CursorFile(path, state, "scope", Session("api", "p"), Stream())


def _faults(text: str) -> None:
    try:
        parse_fault(text)
    except FaultError:
        pass


def _retry(text: str) -> None:
    found = retry_after(HttpResponse(429, {"retry-after": text}, b"", 1_772_615_727.0, "http://x/"))
    assert found is None or 0 <= found < 1e12


def _redacted(text: str) -> None:
    redactor = Redactor()
    redactor.add("0123456789-secret")
    assert "0123456789-secret" not in redactor.text(text + "0123456789-secret" + text[::-1])


#: Parser -> what it is given, and the reading. Only a Failure may come out.
TARGETS: Mapping[str, tuple[Callable[[Random], Any], Callable[[Any], None]]] = {
    **{f"frames of {name}": (partial(strange.speech, api=name), _frames(name)) for name in NAMES},
    **{f"answers of {name}": (partial(_made_answers, api=name), _flows(name)) for name in NAMES},
    "JSON": (_made_json, lambda text: load_json(text, "x")),
    "tokens": (_made_token, _token),
    "Retry-After": (_made_date, _retry),
    "profiles": (strange.file, _written(load)),
    "check scripts": (strange.file, _written(lambda path: check_reader.load(path, {}, {}))),
    "bot scripts": (strange.file, _written(lambda path: load_bot(path.read_bytes(), path.name), ScriptError)),
    "traces": (strange.file, _written(lambda path: load_trace([path]))),
    "cursors": (strange.file, _cursor),
    "fault specs": (_made_fault, _faults),
    "redaction": (_made_secret_text, _redacted),
}


class Finding(AssertionError):
    """A parser raised something other than a Failure. The seed alone repeats the example."""


def fuzz(name: str, examples: int, seed: int = 0) -> None:
    """Run one target with a separate seed for each example. Raise Finding for a violation."""
    make, read = TARGETS[name]
    for number in range(seed, seed + examples):
        given = make(Random(number))
        try:
            read(given)
        except Failure as failure:
            if failure.code == "bug":
                raise Finding(f"--only {name!r} --seed {number}: a failure nobody named: {given!r}") from failure
        except Exception as error:
            raise Finding(f"--only {name!r} --seed {number}: {error!r}: {given!r}") from error


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.security.fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=1_000_000, help="for all parsers together")
    parser.add_argument("--seed", type=int, default=0, help="of each parser's first example")
    parser.add_argument("--only", action="append", help="parsers whose name contains this")
    given = parser.parse_args()
    names = [name for name in TARGETS if not given.only or any(word in name for word in given.only)]
    each, bad, first = math.ceil(given.examples / len(names)), 0, 0.0
    for name in names:
        begun = time.process_time()
        try:
            fuzz(name, each, given.seed)
            said = "only typed failures"
        except Finding as finding:
            bad += 1
            said = str(finding)
            traceback.print_exception(finding.__cause__, limit=-6)
        print(f"{name:<36} {each:>8} examples {time.process_time() - begun:7.1f} s  {said}", flush=True)
        first = first or peak()
    grown = peak() - first
    print(f"{each * len(names)} examples, {bad} parsers with a finding; peak memory +{grown:.1f} MiB after the first")
    return 1 if bad or grown > GROWTH else 0


if __name__ == "__main__":
    sys.exit(main())
