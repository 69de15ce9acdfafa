"""Bytes from outside, of any kind: what reads them answers, or raises a typed failure.

Knows: every parser of remote or foreign text, by name. Must not know: what the right answer is.
`python -m tests.security.fuzz --examples N [--only NAME]` is the long run; the test suite runs a short one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from guestctl import jwt_claims
from guestctl.checking import script as check_script
from guestctl.cli.cursor import CursorFile
from guestctl.dialects import NAMES, dialect_class
from guestctl.dialects.base import Dialect, Position, retry_after
from guestctl.errors import Failure, TimedOut
from guestctl.model import Opening, Profile, Secret, Session
from guestctl.output import Output
from guestctl.profiles import load
from guestctl.records import event_record
from guestctl.redact import Redactor
from guestctl.replay import load as load_trace
from guestctl.sandbox.faults import FaultError
from guestctl.sandbox.faults import parse as parse_fault
from guestctl.sandbox.script import ScriptError
from guestctl.sandbox.script import load as load_bot
from guestctl.terminal import Terminal
from guestctl.wire import Call, Frame, Reply, Turn, load_json
from tests.cli.conftest import Stream
from tests.fakes import FakeClock

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
#: Names that mean something somewhere, so that random objects get past the first look.
WORDS = tuple(
    """
    type class code body text message messages id messageId tracingId direction channel from to time timestamp
    events eventType presence content contentType attachment attachments url fileName mime mediaType quickReply
    card carousel listPicker datePicker form sections items title payload actions metadata correlationId token jwt
    expires expiresAt expirationDate entities pageNumber pageCount total data sender role participant guest
    session sessionId conversation conversationId connected newSession readOnly allowedMedia maxFileSize inbound
    sequence seq more cursor nextUri MESSAGE_RECEIVED ERROR handshake TypingIndicator StructuredMessage
    SessionResponse JwtResponse typing SessionExpiredEvent ConnectionClosedEvent TooManyRequestsErrorMessage
    retryAfter error status reason Text Event Structured Inbound Outbound Message Disconnect Join Presence
    nickname name firstName lastName availableTimes duration
    """.split()  # noqa: SIM905
)
STRANGE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.sampled_from(
        [10**30, -1, 0, 1e308, 200, 401, 4029, "", "200", "2026-03-04T09:15:27.412Z", "9999999999999999", "\ud800"]
    ),
    st.text(max_size=20),
    st.sampled_from(WORDS),
)
VALUES = st.recursive(
    STRANGE,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(WORDS), st.text(max_size=6)), inner, max_size=8),
    ),
    max_leaves=25,
)
OBJECTS = st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=10)


def _known_frames() -> list[str]:
    """Frames of the published examples: good ones to damage."""
    root = Path(__file__).parent.parent / "wire"
    import yaml

    found: list[str] = []

    def gather(value: Any) -> None:
        if isinstance(value, dict):
            if len(value) > 1:
                found.append(json_text(value))
            for inner in value.values():
                gather(inner)
        elif isinstance(value, list):
            for inner in value:
                gather(inner)

    for path in sorted(root.rglob("*.yaml")):
        gather(yaml.safe_load(path.read_text()))
    return found


def json_text(value: Any) -> str:
    import json

    return json.dumps(value, default=str)


KNOWN = _known_frames()


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A published object with some members replaced, removed or renamed."""
    import json

    value = json.loads(draw(st.sampled_from(KNOWN)))
    for _ in range(draw(st.integers(0, 3))):
        at = value
        while isinstance(at, (dict, list)) and at:
            key: Any = draw(st.sampled_from(sorted(at))) if isinstance(at, dict) else draw(st.integers(0, len(at) - 1))
            if not isinstance(at[key], (dict, list)) or draw(st.booleans()):
                if draw(st.booleans()) or isinstance(at, list):
                    at[key] = draw(VALUES)
                else:
                    del at[key]
                break
            at = at[key]
    return json.dumps(value)


TEXTS = st.one_of(damaged(), OBJECTS.map(json_text), VALUES.map(json_text), st.text(max_size=200))
CLOCK = FakeClock()


def _dialect(name: str) -> Dialect:
    return dialect_class(name)(PROFILE, new_id=lambda: "0b7d2c5e-1f63-4b9a-9a35-4d3f1f6a7b10")


def _session(dialect: Dialect) -> Session:
    from guestctl.model import Credential

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
    """Drawn on a terminal and written as JSON, too."""
    try:
        record = event_record(heard, "s", at="2026-03-04T09:15:27.412Z", raw=True)
    except KeyError:  # a signal, which nobody is shown
        return
    for terminal in (True, False):
        out = Stream(terminal=terminal)
        screen = Terminal(stdout=terminal, colour=False, width=60 if terminal else None)
        Output(out, Stream(), screen, now=CLOCK.now).event(record)


def _flows(name: str) -> Callable[[tuple[list[str], int]], None]:
    """Every flow of a dialect, its requests answered with anything."""

    def read(given: tuple[list[str], int]) -> None:
        texts, status = given
        for make in _FLOWS:
            dialect = _dialect(name)
            session = _session(dialect)
            try:
                flow = make(dialect, session)
                step = next(flow)
                for text in texts:
                    if isinstance(step, Call):
                        reply = Reply(
                            status, {"retry-after": text[:30]}, text.encode("utf-8", "replace"), 0.0, "http://x/"
                        )
                        step = flow.send(reply) if reply.ok else flow.throw(dialect.refusal(step.request, reply))
                    elif isinstance(step, Turn):
                        heard = [h for h in dialect.decode(Frame(text, 0.0), session) if _claims(step, h)]
                        if heard or step.answers is None:
                            step = flow.send(heard[0] if heard else None)
                        else:
                            step = flow.throw(TimedOut("nothing came"))
            except (Failure, StopIteration, KeyError) as end:
                if isinstance(end, KeyError) and not _missing_id(end):
                    raise

    return read


def _claims(step: Turn, heard: Any) -> bool:
    return step.answers is not None and step.answers(heard)


def _missing_id(error: KeyError) -> bool:
    """An id of *our* session that this made-up one lacks."""
    return bool(error.args) and isinstance(error.args[0], str) and error.args[0] not in WORDS


_FLOWS: tuple[Callable[[Dialect, Session], Any], ...] = (
    lambda dialect, session: dialect.create(Opening(name="s")),
    lambda dialect, session: dialect.attach(session),
    lambda dialect, session: dialect.history(session, after=None, cursor=None, limit=10),
    lambda dialect, session: dialect.history(session, after=Position("m"), cursor="2", limit=10),
    lambda dialect, session: dialect.obtain("guest", session),
    lambda dialect, session: dialect.obtain("history", session),
    lambda dialect, session: dialect.oauth(),
    lambda dialect, session: dialect.configuration(),
    lambda dialect, session: dialect.download(session, "a"),
)


def _token(text: str) -> None:
    jwt_claims.inspect(Secret(text), 0.0, required=("aud",)).record(0.0)


@st.composite
def tokens(draw: st.DrawFn) -> str:
    import base64

    parts = draw(st.lists(st.one_of(VALUES.map(json_text), st.text(max_size=30)), min_size=1, max_size=4))
    return ".".join(base64.urlsafe_b64encode(p.encode("utf-8", "replace")).decode().rstrip("=") for p in parts)


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
    from guestctl.state import State

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
    found = retry_after(Reply(429, {"retry-after": text}, b"", 1_772_615_727.0, "http://x/"))
    assert found is None or 0 <= found < 1e12


def _redacted(text: str) -> None:
    redactor = Redactor()
    redactor.add("0123456789-secret")
    assert "0123456789-secret" not in redactor.text(text + "0123456789-secret" + text[::-1])


YAML_LIKE = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace")),
    VALUES.map(lambda value: json_text(value).encode()),
    OBJECTS.map(lambda value: json_text({"profiles": {"p": value}, "default": "p"}).encode()),
    OBJECTS.map(lambda value: json_text({"config": value, "scenarios": {"s": [value]}}).encode()),
    OBJECTS.map(lambda value: json_text({"rules": [value], "greeting": value, "on": value}).encode()),
)
DATES = st.one_of(
    st.text(max_size=40),
    st.integers().map(str),
    st.from_regex(r"[A-Z][a-z]{2}, \d{1,5} [A-Z][a-z]{2} \d{1,9} \d\d:\d\d:\d\d (GMT|[+-]\d{4,9})", fullmatch=True),
)

#: Parser -> what it is given, and the reading. Only a Failure may come out.
TARGETS: Mapping[str, tuple[st.SearchStrategy[Any], Callable[[Any], None]]] = {
    **{f"frames of {name}": (TEXTS, _frames(name)) for name in NAMES},
    **{
        f"answers of {name}": (
            st.tuples(st.lists(TEXTS, min_size=1, max_size=3), st.sampled_from([200, 200, 200, 400, 401, 429, 503])),
            _flows(name),
        )
        for name in NAMES
    },
    "JSON": (
        st.one_of(st.text(), TEXTS, st.integers(1, 3000).map(lambda n: "[" * n + "]" * n)),
        lambda t: load_json(t, "x"),
    ),
    "tokens": (st.one_of(tokens(), st.text(max_size=80)), _token),
    "Retry-After": (DATES, _retry),
    "profiles": (YAML_LIKE, _written(load)),
    "check scripts": (YAML_LIKE, _written(lambda path: check_script.load(path, {}, {}))),
    "bot scripts": (YAML_LIKE, _written(lambda path: load_bot(path.read_bytes(), path.name), ScriptError)),
    "traces": (YAML_LIKE, _written(lambda path: load_trace([path]))),
    "cursors": (st.binary(max_size=300), _cursor),
    "fault specs": (st.text(max_size=60), _faults),
    "redaction": (st.one_of(TEXTS, st.text(alphabet="\\\"'{}:token=&? eyJ.https/", max_size=200)), _redacted),
}


def fuzz(name: str, examples: int) -> None:
    """Run one target. Raises whatever is no Failure, with the smallest example found."""
    strategy, read = TARGETS[name]

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=examples <= 100,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
    )
    @given(strategy)
    def attempt(given_: Any) -> None:
        try:
            read(given_)
        except Failure as failure:
            if failure.code == "bug":
                raise AssertionError("a failure nobody named") from failure

    attempt()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.security.fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=2000, help="for each parser")
    parser.add_argument("--only", action="append", help="parsers whose name contains this")
    given_ = parser.parse_args()
    bad = 0
    for name in _chosen(given_.only):
        begun = time.monotonic()
        try:
            fuzz(name, given_.examples)
            said = "only typed failures"
        except Exception as error:
            bad += 1
            said = f"{type(error).__name__}: {error}"
            import traceback

            traceback.print_exc(limit=-6)
        print(f"{name:<40} {given_.examples:>8} examples {time.monotonic() - begun:7.1f} s  {said}", flush=True)
    return 1 if bad else 0


def _chosen(only: list[str] | None) -> Iterator[str]:
    return (name for name in TARGETS if not only or any(word in name for word in only))


if __name__ == "__main__":
    sys.exit(main())
