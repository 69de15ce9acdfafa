"""`Client`: what a guest can do, as a typed library. The command line is an ordinary user of it.

Knows: the verbs, their deadlines, and which part of the engine performs each. Must not know: any API's wire, argv,
printing, exit codes. One client belongs to one thread; a process may have many.

    with Client("staging") as guest:
        guest.create()
        print(guest.ask("Where is my parcel?").text)
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Literal

from guestctl.core.clock import Clock, Deadline, SystemClock
from guestctl.core.errors import UsageError
from guestctl.core.jwt_claims import expiry_of
from guestctl.core.model import (
    Deployment,
    Message,
    NewSession,
    Outgoing,
    Position,
    Presence,
    Profile,
    Secret,
    Session,
    SignIn,
    Unknown,
)
from guestctl.core.results import Report, Resumed, Sent
from guestctl.core.timings import Timings
from guestctl.core.values import Json
from guestctl.core.version import __version__
from guestctl.core.wire import is_trace_context
from guestctl.dialects import dialect_class
from guestctl.dialects.base import Dialect, HistoryPage
from guestctl.dialects.capabilities import Ability
from guestctl.engine.exchange import SessionEngine
from guestctl.engine.history import Fetch, position_before_last, selection
from guestctl.engine.listener import EventStream, Listener
from guestctl.engine.local_files import inspect_file
from guestctl.engine.send import Answer, Awaited, check_not_empty, send_message
from guestctl.engine.sessions import Sessions, completed, last_shown, need, no_field, require, unsupported
from guestctl.storage.state import State
from guestctl.transport.connector import Connector

if TYPE_CHECKING:
    from guestctl.core.patterns import Pattern
    from guestctl.transport.network import Network, Observer

#: Seconds between two typing indicators (web-messaging.md §9).
TYPING_EVERY = 5.0


class Client:
    """One guest under one profile. `session` names the stored session (default: the current one).

    `timeout` is the limit in seconds for each verb as a whole. `notice` receives one line of text for each thing
    that happens on the way (a retry, a reconnect, a warning), `observer` every request, answer and frame. `environ`
    is the process's environment unless given. `network` may be shared by clients with equal network settings.
    `timings` replaces the client's own waits (for tests). Raises UsageError when the profile cannot be used.
    """

    def __init__(
        self,
        profile: Profile | str | None = None,
        *,
        session: str | None = None,
        state: State | None = None,
        timeout: float | None = 30.0,
        notice: Callable[[str], None] = lambda text: None,
        observer: Observer | None = None,
        traceparent: str | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
        environ: Mapping[str, str] | None = None,
        network: Network | None = None,
        timings: Timings | None = None,
    ) -> None:
        self.clock = clock or SystemClock()
        self.random = random or SystemRandom()
        self.notice = notice
        self.timeout = timeout
        self._environ = environ = os.environ if environ is None else environ
        self._own_state = state is None
        self.state = state or State.open(State.directory(environ), self.clock, notice=notice)
        given = profile if isinstance(profile, Profile) else self._resolved(profile)
        self.profile = given if given.application else replace(given, application=f"guestctl-{__version__}")
        self._new_id = new_id
        self.dialect: Dialect = dialect_class(self.profile.api)(
            self.profile, new_id=new_id, traceparent=traceparent or self._trace_context()
        )
        self.dialect.check_profile()
        self.scope = scope_of(self.profile, self.dialect)
        self._given_network = network
        self._timings = timings or Timings()
        self._connector = Connector(self._network, self.clock, observer)
        self._sessions = Sessions(
            self.dialect,
            self.scope,
            name=session,
            state=self.state,
            connector=self._connector,
            clock=self.clock,
            random=self.random,
            notice=notice,
            timings=self._timings,
            new_id=new_id,
        )

    def _resolved(self, name: str | None) -> Profile:
        from guestctl.config.profiles import resolve

        found = resolve(
            name,
            options={},
            environ=self._environ,
            cwd=Path.cwd(),
            profiles_option=None,
            sandbox=self.state.sandbox,
        )
        for warning in found.warnings:
            self.notice(warning)
        return found.profile

    def _trace_context(self) -> str | None:
        """Return the trace context of this process (W3C Trace Context §3.2) from TRACEPARENT, if it is valid."""
        given = self._environ.get("TRACEPARENT")
        if given and not is_trace_context(given):
            self.notice("TRACEPARENT is not a W3C trace context and is not passed on")
            return None
        return given or None

    def _network(self) -> Network:
        if self._given_network is None:
            from guestctl.transport.network import Network

            self._given_network = Network(ca=self.profile.ca, environ=self._environ, cleartext=self.profile.cleartext)
        return self._given_network

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket as the API's guests do, and everything else that the client opened."""
        self._sessions.close_socket()
        self._connector.close()
        if self._own_state:
            self.state.close()

    # --- stored sessions ---

    @property
    def session_name(self) -> str:
        """The name of the session the verbs work on: the one given, else the last one created or chosen."""
        return self._sessions.name

    def session(self, name: str | None = None) -> Session:
        """Return a stored session. Raises SessionOver `session.none` when there is none of that name."""
        return self._sessions.get(name)

    def sessions(self) -> list[Session]:
        """Return every session stored for this profile, API, deployment and address."""
        return [session for _, session in self.state.sessions(self.scope, tell=True)]

    def secrets(self) -> Iterator[Secret]:
        """Yield every token this client holds, so that the caller can redact it."""
        return self._sessions.secrets()

    def use(self, name: str) -> Session:
        """Make a stored session the one the verbs work on. Raises SessionOver when there is none of that name."""
        return self._sessions.use(name)

    def forget(self, name: str) -> Session | None:
        """Delete the local record of a session and return it; None when the record could not be read.

        The service is not asked. Raises SessionOver when there is none of that name.
        """
        return self._sessions.forget(name)

    def report(self) -> Report:
        """Return how long the session has lasted and what happened in it."""
        return self._sessions.report()

    # --- opening ---

    def create(self, opening: NewSession | None = None, *, new: bool = False, sign_in: SignIn | None = None) -> Session:
        """Create a session, store it, and return it once the service has confirmed it.

        It is the current session from then on, even when a later step fails (the join that the deployment may ask
        for), unless the session turns out to be over already. A live session of the same name is kept under another
        name. With `new` it is replaced: on an API that supports it, the same guest starts a new conversation and the
        old one is no longer reachable. `sign_in` signs the new session's guest in.
        """
        opening = opening or NewSession(name=self._sessions.given_name or "default")
        credential = None if sign_in is None else self._sessions.signing_in().sign_in(sign_in)
        return self._sessions.create(opening, self._deadline(), new=new, credential=credential)

    def completed(self, opening: NewSession) -> NewSession:
        """Return `opening` with the profile's values where it has none.

        Raises UsageError for a field that this API does not have.
        """
        return completed(self.dialect, opening)

    def sign_in(self, proof: SignIn) -> Session:
        """Sign the guest of the stored session in, authorised by the session's own token ("step up")."""
        return self._sessions.sign_in(proof, self._deadline())

    def sign_out(self) -> Session:
        """Revoke the guest's sign-in. The session is over with it."""
        return self._sessions.sign_out(self._deadline())

    def deployment(self) -> Deployment:
        """Return the deployment's configuration, cached for an hour; the usual one when it cannot be read."""
        return self._sessions.deployment(self._deadline())

    def resume(self, *, on_conflict: Literal["wait", "new", "fail"] = "wait") -> Resumed:
        """Re-attach the session: prove it alive, settle messages in doubt, and return what was missed.

        When the session is locked or over, `wait` retries for a while, `fail` raises at once, and `new` creates
        another session in its place.
        """
        deadline = self._deadline()
        need(self.dialect, Ability.RESUME)
        return self._sessions.resume(on_conflict, deadline)

    # --- sending ---

    def send(
        self,
        text: str = "",
        *,
        attributes: Mapping[str, str] | None = None,
        key: str | None = None,
        pick: Sequence[str | int] = (),
        answering: Message | None = None,
        files: Sequence[Path] = (),
        form: Mapping[str, Json] | None = None,
        wait: bool = False,
        expect: str | None = None,
        progress: Callable[[int, int], None] | None = None,
        resend: bool = False,
    ) -> Sent:
        """Send one message, and return once the service has accepted it; with `wait`, once it was answered.

        `expect` waits for a reply that matches the JavaScript regular expression. Each file makes a message of its
        own; the text goes with the first, and any outbound message after that one is a reply. `answering` is the
        message that offers what is picked; by default it is looked for in history. `progress` is called with (bytes
        done, bytes in all) during an upload. `resend` sends another copy of the message in doubt that has this
        `key`. Raises the failure that the send ended with; its `delivery` is the outcome of the message, its `sent` the
        record (contract.md §5).
        """
        deadline = self._deadline()
        pattern = _compiled(expect)
        need(self.dialect, Ability.SEND)
        if attributes and "attr" not in self.dialect.send_fields:
            raise no_field(self.dialect, "attr", "send_fields")
        engine = self._sessions.open()
        outgoing = Outgoing(key=key or self._new_id(), text=text, attributes=dict(attributes or {}))
        if (bool(pick), form is not None, bool(files)).count(True) > 1:
            raise UsageError("a message holds a pick, a form or files: send them one after the other")
        answer = Answer(pick, form, answering) if pick or form is not None else None
        check_not_empty(outgoing, more=answer is not None or bool(files))
        if files:
            require(self.dialect, self.dialect.files, Ability.FILES)
        if answer is not None:
            require(self.dialect, self.dialect.rich_content, Ability.PICK)
        return send_message(
            engine,
            outgoing,
            deadline,
            new_id=self._new_id,
            answer=answer,
            files=[inspect_file(path) for path in files],
            awaited=Awaited(pattern) if wait or expect is not None else None,
            progress=progress,
            resend=resend,
        )

    def ask(self, text: str, *, new: bool = False, opening: NewSession | None = None) -> Message:
        """Send a question and return the first complete reply. The session is created when there is none.

        A guest who was signed in in an expired session stays signed in in the one that replaces it. Raises TimedOut
        when no reply came, or the failure that kept the client from receiving one.
        """
        return self._ask(text, Awaited(), new, opening)[0]

    def ask_all(
        self, text: str, *, new: bool = False, opening: NewSession | None = None, silence: float | None = None
    ) -> list[Message]:
        """Send a question and return all messages of the reply, at least one (see `ask`).

        The reply is complete when no other message has come for `silence` seconds (default: 0.5), when the
        conversation has ended, or at the client's timeout.
        """
        silence = self._timings.reply_silence if silence is None else silence
        return self._ask(text, Awaited(silence=silence), new, opening)

    def _ask(self, text: str, awaited: Awaited, new: bool, opening: NewSession | None) -> list[Message]:
        sent = self._sessions.ask(text, self._deadline(), awaited, new=new, opening=opening)
        assert sent.reply is not None
        return [sent.reply, *sent.following]

    def typing(self) -> None:
        """Send a typing indicator; at most one in five seconds for each session."""
        deadline = self._deadline()
        need(self.dialect, Ability.TYPING)
        engine = self._sessions.open()
        engine.wait_for_budget("typing", 1, TYPING_EVERY, deadline)
        engine.wait_to_send(deadline)
        engine.perform(self.dialect.typing(engine.session), deadline)

    def end(self) -> Session:
        """End the conversation as the guest."""
        return self._finish(Ability.END)

    def clear(self) -> Session:
        """Clear the conversation. Its transcript is deleted."""
        return self._finish(Ability.CLEAR)

    def _finish(self, ability: Ability) -> Session:
        deadline = self._deadline()
        need(self.dialect, ability)
        engine = self._sessions.open()
        engine.attached(deadline)
        engine.wait_to_send(deadline)
        flow = self.dialect.end if ability is Ability.END else self.dialect.clear
        engine.record.store(engine.perform(flow(engine.session), deadline))
        self._sessions.close_socket(self.dialect.end_close_frame)
        return engine.session

    # --- receiving ---

    def history(
        self,
        *,
        last: int | None = None,
        since: str | None = None,
        until: str | None = None,
        all: bool = False,
        waiting: Callable[[], None] = lambda: None,
    ) -> Iterator[Message | Presence | Unknown]:
        """Yield the messages of the current conversation in order, page by page.

        An entry that cannot be read is `Unknown`. `all` adds earlier conversations and presence events. `last` keeps
        that many of the newest. `since` and `until` are RFC 3339 times or message ids (`since` excludes its message,
        `until` includes it). The client's timeout applies to each page; `waiting` is called before one is requested.
        """
        need(self.dialect, Ability.HISTORY)
        fetch = self._fetch(self._sessions.open(), waiting)
        paging, size = self.dialect.paging, self.dialect.page_size
        yield from selection(fetch, paging, size, last=last, since=since, until=until, all=all)

    def listen(
        self,
        *,
        replay: int = 0,
        after: Position | None = None,
        from_start: bool = False,
        just_created: bool = False,
        forever: bool = False,
        wake: Callable[[], float | None] = lambda: None,
        left: Callable[[], float | None] = lambda: None,
    ) -> EventStream:
        """Return the live events, each once and in order, across reconnects; None when a tick brought nothing.

        The stream starts with what arrives after the client has attached. `replay` yields the last N messages first,
        `after` starts after a message, `from_start` at the beginning. `just_created` says that this client created
        the session a moment ago, so that its socket received everything and history is not needed. `forever`
        reconnects without limit. `wake` returns the seconds after which the caller wants control again, `left` the
        seconds until it stops listening. The stream ends only by raising. A caller that stops before that asks for the
        stream's `rest`, which has the messages that wait for their place, and a gap if completeness is unproved.
        """

        def start() -> Listener:
            need(self.dialect, Ability.LISTEN)
            engine = self._sessions.open()
            first, begin = after, from_start
            if replay > 0:
                before = position_before_last(self._fetch(engine, left=left), self.dialect.paging, replay)
                first, begin = before or after, from_start or before is None
            listener = Listener(
                engine,
                position=first,
                baseline=not just_created,
                from_start=begin,
                forever=forever,
                step=self.timeout,
                wake=wake,
                left=left,
            )
            if replay > 0 and first is not None:
                listener.ignore_before(first)
            return listener

        return EventStream(start)

    def seen_up_to(self) -> Position | None:
        """Return the position of the last message shown to any listener of this session."""
        return last_shown(self.state, self.scope, self.session())

    # --- credentials, files, profile ---

    def refresh_token(self, *, if_expiring: float | None = None) -> Session:
        """Renew the session's credential and store it. With `if_expiring`, only when it has fewer seconds left."""
        deadline = self._deadline()
        engine = self._sessions.open()
        kind = self.dialect.refreshable(engine.session)
        if kind is None:
            raise unsupported(self.dialect, Ability.REFRESH)
        held = engine.session.credential(kind)
        if if_expiring is not None and held is not None:
            # The user's own margin applies, not the dialect's.
            expires_at = expiry_of(held, self.clock.now())
            if expires_at is None or expires_at - self.clock.now() > if_expiring:
                return engine.session
        engine.credentials.renew(kind, deadline, stale=held)
        return engine.session

    def download(self, attachment_id: str, to: Path, *, progress: Callable[[int, int], None] | None = None) -> Path:
        """Save an attachment into the folder (or under the new name) `to`, and return the path written.

        Nothing is overwritten. `progress` is called with (bytes done, bytes in all).
        """
        from guestctl.engine.downloads import download

        deadline = self._deadline()
        files = require(self.dialect, self.dialect.files, Ability.FILES)
        return download(self._sessions.open(), files, attachment_id, to, deadline, progress=progress)

    def sync(self, attributes: Mapping[str, Json]) -> Mapping[str, Json]:
        """Merge attributes into the guest's profile, and return them with what the API adds."""
        deadline = self._deadline()
        need(self.dialect, Ability.SYNC)
        engine = self._sessions.open()
        merged = engine.perform(self.dialect.sync(engine.session, attributes), deadline)
        engine.record.log("profile_synced")
        return merged

    # --- helpers ---

    def _deadline(self) -> Deadline:
        return Deadline.after(self.clock, self.timeout)

    def _fetch(
        self,
        engine: SessionEngine,
        waiting: Callable[[], None] = lambda: None,
        left: Callable[[], float | None] = lambda: None,
    ) -> Fetch:
        def fetch(after: Position | None, cursor: str | None) -> HistoryPage:
            waiting()
            return engine.page(after, cursor, self._deadline().sooner(left()))

        return fetch


def scope_of(profile: Profile, dialect: Dialect) -> str:
    """Return what a stored session belongs to: profile, API, deployment and every address (contract.md §2)."""
    parts = (profile.name, dialect.name, profile.deployment_id or "", *dialect.addresses())
    return f"{profile.name}/{dialect.name}/" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _compiled(pattern: str | None) -> Pattern | None:
    if pattern is None:
        return None
    from guestctl.core.patterns import PatternError, compiled

    try:
        return compiled(pattern)
    except PatternError as error:
        raise UsageError(f'expect: "{pattern}" is not a regular expression: {error}') from error
