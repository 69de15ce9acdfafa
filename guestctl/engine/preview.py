"""The steps of `--print`: what a command would send, without sending it.

Knows: flows, and how to write a step as a frame, a request or a shell command. Must not know: sockets, HTTP, the
state database, any dialect. What a command decides before it sends is decided by `send`, for both. Secrets are names
of shell variables from the start, so there is nothing to redact.

A flow is followed until a step depends on an answer of the service.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import quote, urlencode

from guestctl.core.errors import Failure
from guestctl.core.model import Credential, CredentialKind, NewSession, Outgoing, Profile, Secret, Session, SignIn
from guestctl.core.values import Json
from guestctl.core.wire import Request, check_outgoing
from guestctl.dialects.base import Dialect
from guestctl.dialects.capabilities import Ability
from guestctl.dialects.flows import Flow, FrameRequest, Granted, HttpRequest, Incoming, Opened, Step
from guestctl.engine.local_files import LocalFile, inspect_file
from guestctl.engine.send import (
    check_not_empty,
    continues_stored_session,
    messages_with_files,
    needs_new_session,
    needs_socket_first,
)

T = TypeVar("T")

#: Placeholders for secrets and ids. In a shell command they are variables.
VARIABLES: dict[CredentialKind, str] = {
    "guest": "$GUEST_TOKEN",
    "history": "$HISTORY_TOKEN",
    "oauth": "$OAUTH_TOKEN",
    "sign-in": "$SIGN_IN_TOKEN",
}
_IDS = {"conversation": "$CONVERSATION_ID", "guest": "$GUEST_ID", "session": "$SESSION_ID"}
ATTACHMENT = "$ATTACHMENT_ID"
_CLIENT_SECRET, _AUTH_CODE, _CODE_VERIFIER, _ID_TOKEN = "$CLIENT_SECRET", "$AUTH_CODE", "$CODE_VERIFIER", "$ID_TOKEN"
_PROOFS = (_AUTH_CODE, _CODE_VERIFIER, _ID_TOKEN)
_NAMES = (*VARIABLES.values(), *_IDS.values(), ATTACHMENT, _CLIENT_SECRET, *_PROOFS)


@dataclass(frozen=True, slots=True)
class Planned:
    """One step: a socket that would be opened, a frame that would be sent on it, or a request."""

    step: Literal["connect", "frame", "request"]
    url: str = ""
    method: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Json = None


def without_secrets(profile: Profile) -> Profile:
    """Return the profile with placeholders instead of its secrets."""
    return replace(profile, client_secret=Secret(_CLIENT_SECRET) if profile.client_secret else None)


def stand_in(dialect: Dialect, stored: Session | None) -> Session:
    """Return the stored session with placeholders for its secrets; without one, with placeholders for its ids too."""
    session = stored or Session(dialect.name, dialect.profile.name, ids=_IDS, state="active")
    kinds = [kind for kind in VARIABLES if kind == "guest" or (kind == "sign-in" and kind in session.credentials)]
    return replace(session, credentials={kind: Credential(kind, Secret(VARIABLES[kind])) for kind in kinds})


class Plan:
    """Everything that one command would send, as `steps`.

    `dialect` was made with a profile from `without_secrets`. `stored` is the stored session, if there is one.
    `complete` adds the profile's values to a new session. `trace` has the headers, and the attributes of
    messages, for the trace context.
    """

    def __init__(
        self,
        dialect: Dialect,
        stored: Session | None,
        complete: Callable[[NewSession], NewSession],
        trace: tuple[Mapping[str, str], Mapping[str, str]] = ({}, {}),
    ) -> None:
        self.steps: list[Planned] = []
        self.complete = complete
        self._dialect = dialect
        self._stored = stored
        self._trace, self._attributes = trace
        self._needs_new_token = stored is not None and dialect.needs_new_token(stored)
        self._session = stand_in(dialect, stored)
        self._connected = False
        self._authorised: set[CredentialKind] = set()

    # --- verbs ---

    def create(self, opening: NewSession, *, new: bool = False, sign_in: SignIn | None = None) -> None:
        """Plan a new session; with `new` on an API that supports it, the stored guest's next conversation."""
        again = continues_stored_session(self._dialect, self._stored, new=new, signs_in=sign_in is not None)
        created = self._session if again else self._follow(self._dialect.create(opening))
        if sign_in is not None:
            signing_in = self._feature(self._dialect.signing_in, Ability.SIGN_IN)
            self._follow(signing_in.sign_in(_named_proof(sign_in)))
        self._needs_new_token = False
        if created is None:
            self._session = stand_in(self._dialect, None)
        else:
            self._session = stand_in(self._dialect, created)
            if sign_in is not None:
                self._session = self._session.having(Credential("sign-in", Secret(VARIABLES["sign-in"])))
            self._connect(start_new=opening if again else None)

    def ask(self, message: Outgoing, *, new: bool = False) -> None:
        """Plan a message, in a new session when there is none or `new` asks for one."""
        if needs_new_session(self._stored, new=new):
            self.create(self.complete(NewSession()), new=new)
        self.send([message], awaited=True)

    def send(self, messages: Sequence[Outgoing], files: Sequence[Path] = (), *, awaited: bool = False) -> None:
        """Plan messages one after the other. `awaited` says that the command waits for each reply."""
        self._need(Ability.SEND)
        for message in messages:
            check_not_empty(message, more=bool(files))
            if needs_socket_first(self._dialect, self._session, awaited=awaited, files=bool(files)):
                self._connect()
            local_files = [inspect_file(path) for path in files]
            for carrying, file in messages_with_files(message, local_files, self._dialect.new_id):
                self._upload(file)
                self._send(replace(carrying, attachment_id=ATTACHMENT))
            if not files:
                self._send(message)

    def _send(self, message: Outgoing) -> None:
        message = replace(message, attributes={**message.attributes, **self._attributes})
        check_outgoing(asdict(message))
        self._dialect.check_message(self._session, message)
        self._follow(self._dialect.send(self._session, message))
        self._session = self._dialect.after_acceptance(self._session)

    def _upload(self, file: LocalFile) -> None:
        files = self._feature(self._dialect.files, Ability.FILES)
        self._follow(files.upload(self._session, file.name, file.mime, file.read()))

    def history(self) -> None:
        """Plan the request for the first page of history."""
        self._need(Ability.HISTORY)
        size = self._dialect.page_size
        self._follow(self._dialect.history(self._session, after=None, cursor=None, limit=size))

    def refresh(self) -> None:
        """Plan the renewal of the session's token."""
        kind = self._dialect.refreshable(self._session)
        if kind is None:
            raise self._dialect.unsupported(Ability.REFRESH)
        self._follow(self._dialect.obtain(kind, self._session))

    def typing(self) -> None:
        """Plan a typing indicator."""
        self._need(Ability.TYPING)
        self._follow(self._dialect.typing(self._session))

    def _need(self, ability: Ability) -> None:
        if ability not in self._dialect.abilities:
            raise self._dialect.unsupported(ability)

    def _feature(self, feature: T | None, ability: Ability) -> T:
        if feature is None:
            raise self._dialect.unsupported(ability)
        return feature

    # --- driving flows ---

    def _follow(self, flow: Flow[T]) -> T | None:
        """Record a flow's steps and return its result; None when a step depends on an answer of the service."""
        try:
            step = next(flow)
            while True:
                answer = self._record(step)
                if answer is None:
                    flow.close()
                    return None
                step = flow.send(answer)
        except StopIteration as stop:
            result: T = stop.value
            return result
        except Failure:
            if self.steps:
                return None  # the flow rejected a made-up answer
            raise

    def _record(self, step: Step) -> Incoming | None:
        if isinstance(step, HttpRequest):
            self._request(step.request)
            return None
        self._connect()
        self._send_frame(step)
        return _likely(step)

    def _request(self, request: Request) -> None:
        headers = {"Accept": "application/json", **request.headers}
        body: Json = request.json
        if request.json is not None:
            headers["Content-Type"] = "application/json"
        elif request.form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            body = urlencode(request.form, safe="$")
        elif request.content is not None:
            body = f"({len(request.content)} bytes)"
        if request.credential is not None:
            self._authorise(request.credential)
            headers["Authorization"] = f"Bearer {VARIABLES[request.credential]}"
        headers |= self._trace
        query = f"?{urlencode(request.query, quote_via=quote)}" if request.query else ""
        self.steps.append(Planned("request", _named(request.url + query), request.method, headers, body))

    def _authorise(self, kind: CredentialKind) -> None:
        """Plan the requests for a credential that the session does not have yet."""
        if kind in self._authorised or self._session.credential(kind) is not None:
            return
        self._authorised.add(kind)
        self._follow(self._dialect.oauth() if kind == "oauth" else self._dialect.obtain(kind, self._session))

    def _connect(self, *, start_new: NewSession | None = None) -> None:
        """Plan the socket's upgrade and the frames that attach the session."""
        if self._connected:
            return
        self._connected = True
        if self._needs_new_token:
            self._follow(self._dialect.obtain("guest", self._session))
        address = self._dialect.socket_address(self._session)
        if address is None:
            return
        headers = dict(address.headers)
        if address.credential is not None:
            headers["Authorization"] = f"Bearer {VARIABLES[address.credential]}"
        headers |= self._trace
        self.steps.append(Planned("connect", _named(address.url), headers=headers))
        traceparent = self._trace.get("traceparent")
        attached = self._follow(self._dialect.attach(self._session, start_new=start_new, traceparent=traceparent))
        if start_new is not None and attached is not None:
            self._session = attached

    def _send_frame(self, turn: FrameRequest) -> None:
        if turn.text is not None:
            self.steps.append(Planned("frame", body=json.loads(turn.text)))


def _likely(turn: FrameRequest) -> Incoming | None:
    """Return an answer that the flow accepts and that carries no information; None if there is none."""
    for answer in (Opened({"connected": True}), Granted("history", Secret(VARIABLES["history"]), None)):
        if turn.answers is not None and turn.answers(answer):
            return answer
    return None


def _named_proof(proof: SignIn) -> SignIn:
    return replace(
        proof,
        code=Secret(_AUTH_CODE) if proof.code else None,
        code_verifier=Secret(_CODE_VERIFIER) if proof.code_verifier else None,
        id_token=Secret(_ID_TOKEN) if proof.id_token else None,
    )


def _named(url: str) -> str:
    for name in _NAMES:
        url = url.replace(quote(name, safe=""), name)
    return url


# --- as shell commands ---


def shell(steps: list[Planned]) -> list[str]:
    """Return the steps as commands, one line each: for curl, and for websocat where a socket is needed."""
    lines: list[str] = []
    frames: list[str] = []
    for step in reversed(steps):
        if step.step == "frame":
            frames.insert(0, json.dumps(step.body, ensure_ascii=False, separators=(",", ":")))
        elif step.step == "connect":
            lines.insert(0, _websocat(step, frames))
            frames = []
        else:
            lines.insert(0, _curl(step))
    return lines


def _curl(step: Planned) -> str:
    words = ["curl", "-sS"]
    if step.method != "GET":
        words += ["-X", step.method]
    words.append(_quoted(step.url))
    for name, value in step.headers.items():
        words += ["-H", _quoted(f"{name}: {value}")]
    if step.body is not None:
        text = step.body if isinstance(step.body, str) else _compact(step.body)
        words += ["--data-raw", _quoted(text)]
    return " ".join(words)


def _websocat(step: Planned, frames: list[str]) -> str:
    """Return a websocat command. Each frame is a line of stdin, which stays open long enough for the answers."""
    frames_in = " ".join(["printf '%s\\n'", *(_quoted(frame) for frame in frames)]) + "; " if frames else ""
    # `-H=` in one word: otherwise websocat 1 takes the address for another header.
    headers = "".join(f" -H={_quoted(f'{name}: {value}')}" for name, value in step.headers.items())
    return f"({frames_in}sleep 5) | websocat{headers} {_quoted(step.url)}"


def _compact(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _quoted(text: str) -> str:
    """Return one shell word in which only the placeholders are variables."""
    names = [name for name in _NAMES if name in text]
    if not names:
        return shlex.quote(text)
    first = min(names, key=text.index)
    before, _, after = text.partition(first)
    return (shlex.quote(before) if before else "") + f'"{first}"' + (_quoted(after) if after else "")
