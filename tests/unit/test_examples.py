"""Every literal wire example, seen from the client: it says exactly this, and reads exactly that.

Knows: how to start an operation of a dialect and how the client's values are written. Must not know: the
sandbox, any path or field of any API; those are in `tests/wire`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import cache
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import pytest

from guestctl.core.errors import Failure, NetworkError, Unreadable
from guestctl.core.model import (
    UNREADABLE,
    Attachment,
    Credential,
    Deployment,
    Limits,
    NewSession,
    Option,
    Outgoing,
    Position,
    Profile,
    Secret,
    Sender,
    Session,
    SignIn,
    Unknown,
)
from guestctl.core.values import Json
from guestctl.core.wire import Frame, Request, SocketAddress
from guestctl.dialects import dialect_class
from guestctl.dialects.base import Dialect, HistoryPage
from guestctl.dialects.flows import Flow, FrameRequest, HttpRequest, Incoming
from tests.examples import (
    Answer,
    Example,
    ExampleError,
    corrupted,
    everything,
    fill,
    match,
    parse,
    shown,
    with_unknown_members,
)
from tests.fakes import START, FlowDriver, ids, reply

T = TypeVar("T")

REST = "https://api.example.test"
SOCKET = "wss://api.example.test"
DEPLOYMENT = "0b7d2c5e-1f63-4b9a-9a35-4d3f1f6a7b10"
#: Members that hold the service's own words over again; they are found in the answer, not spelt twice.
COPIES = {"raw", "content", "body"}
#: Written without the name of their class: what they are is said by where they stand.
PLAIN = (Sender, Option, Attachment, Limits, Credential)
SIGN_IN_SECRETS = {"code", "code_verifier", "id_token"}

EXAMPLES = [example for example in everything() if not example.sandbox_only]

Alter = Callable[[int, int, Answer, Json], Json]


# --- the client's values as the examples write them ---


def written(value: Any, before: Any = None) -> Json:
    """A value as `means:` shows it: `{Class: {member: value}}` with the members that say something.

    A member is left out when it has its default; of a session, when the verb did not change it.
    """
    if isinstance(value, Failure):
        return {type(value).__name__: _failure(value)}
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, (list, tuple)):
        return [written(item) for item in value]
    if isinstance(value, Mapping):
        return {key: written(member) for key, member in value.items()}
    if not is_dataclass(value) or isinstance(value, type):
        return value
    told = {}
    for field in fields(value):
        member = getattr(value, field.name)
        if field.name in COPIES or not field.compare:
            continue
        if before is not None:
            unsaid = member == getattr(before, field.name)
        else:
            default = field.default if field.default_factory is MISSING else field.default_factory()
            unsaid = default is not MISSING and member == default
        if not unsaid:
            told[field.name] = written(member)
    return told if isinstance(value, PLAIN) else {type(value).__name__: told}


def _failure(failure: Failure) -> dict[str, Json]:
    told: dict[str, Json] = {"code": failure.code, "exit": int(failure.exit), "says": failure.message}
    for name in ("service_code", "http_status", "retry_after"):
        if getattr(failure, name) is not None:
            told[name] = getattr(failure, name)
    if isinstance(failure, NetworkError):
        told["written"] = failure.written
    return told


def compared(expected: Json, value: Any, names: dict[str, Json], before: Any = None) -> list[str]:
    """What the value is not. `says` of a failure need only be contained in its message."""
    return match(_loosened(expected, actual := written(value, before), names), actual, names)


def _loosened(expected: Json, actual: Json, names: Mapping[str, Json]) -> Json:
    if isinstance(expected, dict) and isinstance(actual, dict):
        loose = {key: _loosened(member, actual.get(key), names) for key, member in expected.items()}
        if {"code", "exit"} <= actual.keys() and isinstance(actual.get("says"), str):
            words = expected.get("says", "")
            if fill(words, names) in actual["says"]:
                loose["says"] = actual["says"]
        return loose
    if isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        return [_loosened(one, other, names) for one, other in zip(expected, actual, strict=True)]
    return expected


def has_unreadable_entry(result: object) -> bool:
    """Return whether a page of history marks an entry as unreadable instead of reading it."""
    return isinstance(result, HistoryPage) and any(
        isinstance(item, Unknown) and item.label == UNREADABLE for item in result.items
    )


def copies(value: Any) -> Iterator[Json]:
    """What the value quotes of the answer."""
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from copies(item)
    elif is_dataclass(value) and not isinstance(value, type) and getattr(value, "label", None) != UNREADABLE:
        for field in fields(value):
            member = getattr(value, field.name)
            if field.name == "content":
                yield from member
            elif field.name in COPIES:
                yield member
            else:
                yield from copies(member)


def within(part: Json, whole: Json) -> bool:
    if part == whole or part is None or part == {}:
        return True
    if isinstance(whole, dict):
        return any(within(part, member) for member in whole.values())
    return isinstance(whole, list) and any(within(part, member) for member in whole)


# --- verbs ---


def part(one: T | None) -> T:
    assert one is not None, "this API has no such part"
    return one


def begin(dialect: Dialect, session: Session, verb: str, given: dict[str, Json]) -> Flow[Any]:
    """The flow of a verb, with the example's arguments made into ours."""
    if verb == "create":
        return dialect.create(NewSession(**given))
    if verb == "send":
        picks = tuple(Option(**pick) for pick in given.pop("picks", ()))
        return dialect.send(session, Outgoing(**given, picks=picks))
    if verb == "history":
        after = given.pop("after", None)
        position = Position(**after) if after else None
        return dialect.history(session, **{"after": position, "cursor": None, "limit": dialect.page_size, **given})
    if verb == "auto_start":
        return part(dialect.deployment_configuration).auto_start(
            session, Deployment(**given.pop("deployment")), NewSession(**given)
        )
    if verb == "obtain":
        return dialect.obtain(given["kind"], session)
    if verb == "upload":
        return part(dialect.files).upload(session, given["name"], given["mime"], given["content"].encode())
    if verb == "heartbeat":
        return _one_turn(dialect.heartbeat(session))
    if verb == "configuration":
        return _understood(dialect)
    if verb == "sign_in":
        proof: Any = {name: Secret(v) if name in SIGN_IN_SECRETS else v for name, v in given.items()}
        return part(dialect.signing_in).sign_in(SignIn(**proof))
    if verb == "oauth":
        return dialect.oauth()
    if verb in ("download", "discard"):
        asked: Flow[Any] = getattr(part(dialect.files), verb)(session, **given)
        return asked
    if verb == "sign_out":
        return part(dialect.signing_in).sign_out(session)
    if verb == "attach" and "start_new" in given:
        given["start_new"] = NewSession(**given["start_new"])
    if verb in ("attach", "reattach", "typing", "end", "clear", "sync"):
        flow: Flow[Any] = getattr(dialect, verb)(session, **given)
        return flow
    raise ExampleError(f"no verb {verb!r}")


def _understood(dialect: Dialect) -> Flow[Deployment]:
    published = part(dialect.deployment_configuration)
    return published.parse((yield from published.fetch()))


def _one_turn(turn: FrameRequest | None) -> Flow[Incoming]:
    assert turn is not None, "this API has no heartbeat"
    heard: Incoming = yield turn
    return heard


# --- performing an example ---


class CorruptedAnswerUsed(Exception):
    """Raised after the corrupted answer was used; `problem` is what the client reported."""

    def __init__(self, problem: str | None) -> None:
        super().__init__(problem)
        self.problem = problem


class Performance:
    """One example, performed by the client against the answers written in it.

    `asked` and `read` list the differences in what the client sent and read. `alter` may change an answer;
    `corrupted_at` names the answer after which the run stops with CorruptedAnswerUsed.
    """

    def __init__(
        self, example: Example, *, alter: Alter | None = None, corrupted_at: tuple[int, int] | None = None
    ) -> None:
        self.example = example
        self.asked: list[str] = []
        self.read: list[str] = []
        self.requests: list[tuple[str, Request]] = []  # each with the verb it was made for
        self.names: dict[str, Json] = {
            "rest": REST,
            "socket": SOCKET,
            "deployment": DEPLOYMENT,
            **example.samples,
        }
        self._alter = alter
        self._corrupted_at = corrupted_at
        profile = Profile(name="example", api=example.dialect, base_url=REST, deployment_id=DEPLOYMENT)
        given: Any = {k: Secret(v) if k == "client_secret" else v for k, v in example.profile.items()}
        self._dialect = dialect_class(example.dialect)(replace(profile, **given), new_id=ids())
        self._session = Session(api=example.dialect, profile="example")
        self._before = self._session
        self._hand: FlowDriver[Any] | None = None
        self._verb = ""
        self._door: Request | None = None

    def run(self) -> Performance:
        for number, step in enumerate((*self.example.prelude, *self.example.steps)):
            self._number, self._step = number, step
            own = step.stranger is None
            if own and step.verb == "connect":
                self._open()
            elif own:
                self._perform()
            elif step.stranger == "own":
                for index, answer in enumerate(step.hears):
                    self._decode(index, answer)
        if self._hand is not None and self._hand.step is not None:
            self._wrong(self.asked, f"the client still wants {self._hand.step}")
        return self

    def _wrong(self, where: list[str], what: str) -> None:
        where.append(f"{self._step.where}: {what}")

    def _perform(self) -> None:
        step = self._step
        if step.verb is not None:
            if self._hand is not None and self._hand.step is not None:
                self._wrong(self.asked, f"the verb before still wants {self._hand.step}")
            self._verb = step.verb
            arguments = fill(dict(step.arguments), self.names)
            self._before = self._session
            self._hand = FlowDriver(begin(self._dialect, self._session, step.verb, arguments))
        if step.request is not None:
            self._call()
        elif step.frame is not None or step.hears:
            self._turn()
        hand = self._hand
        if step.verb is None and (
            hand is None or (step.request is None and step.frame is None and not step.has_meaning)
        ):
            return
        if hand is not None and hand.step is None:
            self._finish(hand)
        elif step.has_meaning:
            self._wrong(self.read, "the verb has not come to its end")

    def _finish(self, hand: FlowDriver[Any]) -> None:
        step = self._step
        value = hand.failure if hand.failure is not None else hand.result
        if not step.has_meaning:
            self._wrong(self.read, f"the verb ended with {written(value)}, which `means:` does not say")
        is_session = isinstance(value, Session)
        if isinstance(value, Session):
            assert (value.api, value.profile) == (self._session.api, self._session.profile)
        for line in compared(step.means, value, self.names, self._before if is_session else None):
            self._wrong(self.read, line)
        if isinstance(value, Session):
            self._session = value
        elif isinstance(value, Credential) and value.kind != "oauth":
            self._session = self._session.having(value)

    # --- HTTP ---

    def _call(self) -> None:
        step, hand = self._step, self._hand
        assert step.request is not None
        assert step.reply is not None
        if hand is None or not isinstance(hand.step, HttpRequest):
            self._wrong(self.asked, f"the client wants {_wanted(hand)}, not a request")
            return
        self.requests.append((self._verb, hand.request))
        self._compare_request(hand.request, step.request)
        body = step.reply.text if step.reply.text is not None else step.reply.body
        body = self._altered(-1, step.reply, fill(body, self.names))
        answer = reply(step.reply.status or 0, body, fill(dict(step.reply.headers), self.names))
        if answer.ok:
            hand.answer(answer)
        else:
            hand.fail(self._dialect.refusal(hand.request, answer))
        if self._corrupted_at == (self._number, -1):
            if hand.step is None and (isinstance(hand.failure, Unreadable) or has_unreadable_entry(hand.result)):
                raise CorruptedAnswerUsed(None)
            raise CorruptedAnswerUsed(f"read as {written(hand.failure or hand.result)}, wants {hand.step}")
        for copy in copies(hand.result):
            if not within(copy, body):
                self._wrong(self.read, f"{copy!r} is not in the answer")

    def _compare_request(self, request: Request, expected: Mapping[str, Json]) -> None:
        headers = dict(request.headers)
        if request.credential == "oauth":
            headers["Authorization"] = "Bearer " + self.names["oauth_token"]
        elif request.credential is not None:
            headers["Authorization"] = f"Bearer {self._session.token(request.credential)}"
        said: dict[str, Json] = {"method": request.method}
        if "url" in expected:
            said["url"] = request.url
        else:
            base, path = request.url[: len(REST)], request.url[len(REST) :]
            if base != REST:
                self._wrong(self.asked, f"the address {request.url} is not under {REST}")
            said["path"] = path
        said |= {"query": dict(request.query), "headers": headers, "json": request.json, "form": request.form}
        said["content"] = None if request.content is None else request.content.decode()
        said = {key: value for key, value in said.items() if value not in (None, {}) or key in expected}
        for line in match(dict(expected), said, self.names):
            self._wrong(self.asked, line)

    def _open(self) -> None:
        """The socket's address and headers; the answer to the upgrade."""
        step = self._step
        assert step.request is not None
        assert step.reply is not None
        door = self._dialect.socket_address(self._session)
        assert isinstance(door, SocketAddress)
        parts = urlsplit(door.url)
        headers = dict(door.headers)
        if door.credential is not None:
            headers["Authorization"] = f"Bearer {self._session.token(door.credential)}"
        said: dict[str, Json] = {"method": "GET", "path": parts.path, "upgrade": True}
        if parts.query:
            said["query"] = dict(parse_qsl(parts.query, keep_blank_values=True))
        if headers:
            said["headers"] = headers
        if f"{parts.scheme}://{parts.netloc}" != SOCKET:
            self._wrong(self.asked, f"{door.url} is not under {SOCKET}")
        for line in match(dict(step.request), said, self.names):
            self._wrong(self.asked, line)
        if step.reply.status != 101:
            asked = Request("GET", door.url, "socket", idempotent=True)
            answer = reply(step.reply.status or 0, fill(step.reply.body, self.names), dict(step.reply.headers))
            for line in compared(step.means, self._dialect.refusal(asked, answer), self.names):
                self._wrong(self.read, line)

    # --- the socket ---

    def _turn(self) -> None:
        step, hand = self._step, self._hand
        waiting = hand if hand is not None and isinstance(hand.step, FrameRequest) else None
        if step.frame is not None:
            if waiting is None:
                self._wrong(self.asked, f"the client wants {_wanted(hand)}, not to say a frame")
                return
            for line in match(step.frame, waiting.sent, self.names):
                self._wrong(self.asked, line)
        elif waiting is not None and waiting.sent is not None:
            self._wrong(self.asked, f"the client says {waiting.sent}, which is not written")
        answered = False
        for index, answer in enumerate(step.hears):
            corrupted_here = self._corrupted_at == (self._number, index)
            heard = self._decode(index, answer)
            if waiting is not None and not answered:
                answered = waiting.receive(heard)
                if corrupted_here and answered:
                    unreadable = isinstance(waiting.failure, Unreadable)
                    raise CorruptedAnswerUsed(
                        None if unreadable else f"read as {written(waiting.failure or waiting.result)}"
                    )
            if corrupted_here:
                raise CorruptedAnswerUsed(f"read as {written(heard)}")
        if waiting is not None and not answered:
            turn = waiting.step
            assert isinstance(turn, FrameRequest)
            if turn.answers is not None and turn.timeout is None:
                self._wrong(self.read, "nothing heard was taken for the answer")
                self._hand = None
            else:
                waiting.time_out()

    def _decode(self, index: int, answer: Answer) -> list[Incoming]:
        frame = self._altered(index, answer, fill(answer.body, self.names))
        text = frame if isinstance(frame, str) else json.dumps(frame, ensure_ascii=False)
        corrupted_here = self._corrupted_at == (self._number, index)
        try:
            heard = list(self._dialect.decode(Frame(text, START), self._session))
        except Unreadable as failure:
            if corrupted_here:
                raise CorruptedAnswerUsed(None) from failure
            if answer.has_meaning:
                for line in compared(answer.means, [failure], self.names):
                    self._wrong(self.read, line)
            else:
                self._wrong(self.read, f"unreadable: {failure.message}")
            return []
        if corrupted_here and all(isinstance(one, Unknown) for one in heard):
            raise CorruptedAnswerUsed(None)
        if answer.has_meaning and not corrupted_here:
            expected = answer.means if isinstance(answer.means, list) else [answer.means]
            for line in compared(expected, heard, self.names):
                self._wrong(self.read, line)
        elif self._hand is None or self._hand.step is None:
            self._wrong(self.read, f"`means:` does not say what frame {index + 1} means: {written(heard)}")
        for copy in copies(heard):
            if not within(copy, frame):
                self._wrong(self.read, f"{copy!r} is not in the frame")
        return heard

    def _altered(self, index: int, answer: Answer, body: Json) -> Json:
        return body if self._alter is None else self._alter(self._number, index, answer, body)


def _wanted(hand: FlowDriver[Any] | None) -> object:
    return None if hand is None else hand.step


@cache
def performed(example_id: str) -> Performance:
    return Performance(next(example for example in EXAMPLES if example.id == example_id)).run()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.id)
def test_the_client_says_exactly_this(example: Example) -> None:
    assert not performed(example.id).asked


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.id)
def test_the_client_reads_exactly_that(example: Example) -> None:
    assert not performed(example.id).read


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.id)
def test_a_member_added_later_troubles_nobody(example: Example) -> None:
    def grow(number: int, index: int, answer: Answer, body: Json) -> Json:
        return with_unknown_members(body, answer.open)

    grown = Performance(example, alter=grow).run()
    assert (grown.asked, grown.read) == ([], [])


#: Corrupted answers the client is known to read all the same. Strict: an entry goes when it no longer does.
DEVIATIONS: dict[str, str] = {}


def _vital() -> Iterator[Any]:
    for example in EXAMPLES:
        for number, step in enumerate(example.steps, len(example.prelude)):
            answers = [(-1, step.reply)] if step.reply is not None else []
            for index, answer in [*answers, *enumerate(step.hears)]:
                for path in answer.vital:
                    name = f"{example.dialect}/{step.where}-{shown(path)}"
                    known = DEVIATIONS.get(name)
                    marks = [pytest.mark.xfail(reason=known, strict=True)] if known else []
                    yield pytest.param(example, number, index, path, id=name, marks=marks)


@pytest.mark.parametrize(("example", "number", "index", "path"), list(_vital()))
def test_a_corrupted_answer_is_rejected(example: Example, number: int, index: int, path: tuple[str | int, ...]) -> None:
    wrong = []
    for how in range(3):
        names: list[str] = []

        def spoil(at: int, which: int, answer: Answer, body: Json, how: int = how, names: list[str] = names) -> Json:
            if (at, which) != (number, index):
                return body
            name, changed = list(corrupted(body, path))[how]
            names.append(name)
            return changed

        try:
            Performance(example, alter=spoil, corrupted_at=(number, index)).run()
        except CorruptedAnswerUsed as outcome:
            if outcome.problem is not None:
                wrong.append(f"{names[0]}: {outcome.problem}")
        else:
            wrong.append(f"{names}: the spoilt answer was never taken")
    assert not wrong


# --- the examples themselves ---


def test_an_example_without_a_source_fails() -> None:
    with pytest.raises(ExampleError, match="source"):
        parse("examples: [{name: x, steps: [{do: create}]}]", "web-messaging", "file")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("examples: []", "no examples"),
        ("examples: [{name: x, sauce: y, steps: [{do: create}]}]", "unknown key 'sauce'"),
        ("examples: [{name: x, source: hearsay, steps: [{do: create}]}]", "source"),
        ("source: 'other-apis.md, x'\nexamples: [{name: x, steps: []}]", "no steps"),
        ("source: 'other-apis.md, x'\nexamples: [{name: x, steps: [{frame: {a: 1}}]}]", "silent"),
        ("source: 'other-apis.md, x'\nexamples: [{name: x, steps: [{request: {method: GET}}]}]", "together"),
        ("source: 'other-apis.md, x'\nsamples: {y: 1}\nexamples: [{name: x, steps: [{do: create}]}]", "never used"),
        ("source: 'other-apis.md, x'\nsource: 'other-apis.md, y'\nexamples: []", "twice"),
        ("source: &a 'other-apis.md, x'\nexamples: [*a]", "anchors"),
    ],
)
def test_a_sloppy_example_fails(text: str, complaint: str) -> None:
    with pytest.raises(ExampleError, match=complaint):
        parse(text, "web-messaging", "file")


def test_no_example_is_of_an_unknown_api() -> None:
    from guestctl.dialects import NAMES

    assert {example.dialect for example in everything()} <= set(NAMES)
