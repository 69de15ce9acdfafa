"""`Client`: what a guest can do, as a typed library. The command line uses it as any other program does.

Knows: the operations, their deadlines, and which part of the engine performs each. Must not know: any API's wire, argv,
printing, exit codes. One client belongs to one thread; a process may have many.

    with Client("staging") as guest:
        guest.create()
        print(guest.ask("Where is my parcel?").text)
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Any, Literal

from guestctl.core.clock import Clock, Deadline, SystemClock
from guestctl.core.errors import UsageError
from guestctl.core.model import (
    Credential,
    Delivery,
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
from guestctl.dialects import dialect_class
from guestctl.dialects.base import Dialect, HistoryPage
from guestctl.dialects.capabilities import Ability, Rate
from guestctl.engine.catch_up import PASSING_FAILURES
from guestctl.engine.exchange import SessionEngine
from guestctl.engine.history import Fetch, position_before_last, selection
from guestctl.engine.listener import EventStream, Listener
from guestctl.engine.local_files import inspect_file
from guestctl.engine.send import Answer, Awaited, check_not_empty, send_message
from guestctl.engine.sessions import (
    Sessions,
    completed,
    create_missing,
    last_shown,
    need,
    no_field,
    require,
    unsupported,
)
from guestctl.storage.state import State
from guestctl.transport.connector import Connector

if TYPE_CHECKING:
    from guestctl.core.patterns import Pattern
    from guestctl.transport.network import Network, Observer
    from guestctl.transport.span_tree import SpanTree

#: Seconds between two typing indicators (web-messaging.md §9).
TYPING_EVERY = 5.0
#: The attribute with the provider that knows the guest.
_PROVIDER_ID = "external_provider_id"


class Client:
    """One guest under one profile.

    `profile` is a `Profile` or the name of one (default: the profile that the command line would use). `session` names
    the stored session (default: the current one). `state` is the database of sessions (default: the user's), which
    several clients may share. `timeout` is the limit of each method call in seconds, None for no limit; `history` and
    `listen` apply it to each answer of the service. `notice` is called with one line of text for each retry, reconnect
    or warning, and `observer` with every request, answer and frame. `traceparent` is the W3C trace context to send
    (default: TRACEPARENT, else the one that the session was first used with). `propagate_baggage` also sends BAGGAGE,
    and `trace_attribute` names the custom attribute of messages that states the trace id. `spans` makes a span of each
    message, connection and request. `environ` replaces the environment variables of the process. Clients with equal
    network settings may share a `network`. `clock`, `random`, `new_id` and `timings` replace those of the client, for
    tests.

    A client belongs to one thread. Raises UsageError if the profile cannot be used.
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
        propagate_baggage: bool = False,
        trace_attribute: str | None = None,
        spans: SpanTree | None = None,
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
        application = given.application or f"guestctl-{__version__}"
        self.profile = replace(given, application=application, locale=given.locale or _locale(environ))
        self._new_id = new_id
        self.dialect: Dialect = dialect_class(self.profile.api)(self.profile, new_id=new_id)
        self.dialect.check_profile()
        self.scope = scope_of(self.profile, self.dialect)
        self.state.profiles.adopt(former_scope_of(self.profile, self.dialect), self.scope, self.profile.name)
        self._given_network = network
        self._timings = timings or Timings()
        if trace_attribute is not None and "attr" not in self.dialect.send_fields:
            raise no_field(self.dialect, "attr", "send_fields", option="trace-attribute")
        self.spans = spans
        self._connector = Connector(self._network, self.clock, observers(observer, spans))
        # Without any of these there is nothing to send, and nothing to import for it.
        if traceparent or environ.get("TRACEPARENT") or propagate_baggage or trace_attribute or spans:
            from guestctl.transport.propagation import propagation

            self._connector.propagation = propagation(
                traceparent,
                environ,
                baggage=propagate_baggage,
                attribute=trace_attribute,
                spans=spans,
                notice=notice,
            )
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

    def trace(self, session: Session | None) -> tuple[dict[str, str], dict[str, str]]:
        """Return what a request of a session would have for its trace: headers, and attributes of a message."""
        stored = None if session is None else session.trace_context
        return self._connector.trace_headers(stored), self._connector.trace_attributes(stored)

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
        """Close the socket with the close frame of the API, and everything else that the client opened."""
        self._sessions.close_socket()
        self._connector.close()
        if self._own_state:
            self.state.close()

    # --- stored sessions ---

    @property
    def session_name(self) -> str:
        """The name of the session that the methods use: the given one, else the one created or chosen last."""
        return self._sessions.name

    def session(self, name: str | None = None) -> Session:
        """Return a stored session (default: the current one). Raises SessionOver if none has that name."""
        return self._sessions.get(name)

    def sessions(self) -> list[Session]:
        """Return every session stored for this profile, API, deployment and address."""
        return [session for _, session in self.state.sessions(self.scope, tell=True)]

    def secrets(self) -> Iterator[Secret]:
        """Yield every token that this client has, so that the caller can mask it."""
        return self._sessions.secrets()

    def use(self, name: str) -> Session:
        """Make a stored session the current one, and return it. Raises SessionOver if none has that name."""
        return self._sessions.use(name)

    def forget(self, name: str) -> Session | None:
        """Delete the local record of a session and return it, or None if the record could not be read.

        The service is not contacted. Raises SessionOver if no session has that name.
        """
        return self._sessions.forget(name)

    def report(self) -> Report:
        """Return the duration of the session and a log of its activity."""
        return self._sessions.report()

    # --- opening ---

    def create(self, opening: NewSession | None = None, *, new: bool = False, sign_in: SignIn | None = None) -> Session:
        """Create a session, store it, and return it once the service has confirmed it.

        The new session becomes the current one. It stays the current one if a later step fails (the join that some
        deployments require), unless the session has already ended. A live session of the same name is kept under
        another name. With `new` it is replaced: on an API that supports this, the same guest starts a new conversation,
        and the old one is no longer reachable. `sign_in` signs in the guest of the new session.
        """
        opening = opening or NewSession(name=self._sessions.given_name or "default")
        credential = None if sign_in is None else self._sessions.signing_in().sign_in(sign_in)
        return self._sessions.create(opening, self._deadline(), new=new, credential=credential)

    def create_missing(self) -> Session | None:
        """Create the session in use if none is stored, and return it; None if there is one.

        Clients that do so at the same time take turns, so that only one of them creates the session.
        """
        return create_missing(self._sessions, self._deadline())

    def attach(
        self,
        token: Secret | str,
        *,
        ids: Mapping[str, str | None] | None = None,
        name: str | None = None,
        token_expires_at: float | None = None,
        expires_at: float | None = None,
        sign_in: Credential | None = None,
    ) -> Session:
        """Take over a session that another client created, such as a browser or a middleware, and return it.

        The client attaches to the session once before it stores it under `name`. The session then becomes the current
        one. `ids` has the ids that the API needs: `conversation`, `guest` and `session`. The times are in epoch
        seconds, None if unknown; the expiry in a JWT is read from the token. `sign_in` is the credential of a signed-in
        guest. Raises Conflict (`conflict.name`) if a session with this name is stored.
        """
        from guestctl.engine.take_over import foreign_session, take_over

        deadline = self._deadline()
        secret = token if isinstance(token, Secret) else Secret(token)
        foreign = foreign_session(
            self.dialect,
            name or self._sessions.given_name or "default",
            Credential("guest", secret, token_expires_at),
            ids=ids or {},
            now=self.clock.now(),
            expires_at=expires_at,
            sign_in=sign_in,
        )
        return take_over(self._sessions, foreign, deadline)

    def completed(self, opening: NewSession) -> NewSession:
        """Return `opening` with missing values taken from the profile.

        Raises UsageError for a field that this API does not have.
        """
        return completed(self.dialect, opening)

    def sign_in(self, proof: SignIn) -> Session:
        """Sign in the guest of the stored session, authorised by the session's own token (step-up)."""
        return self._sessions.sign_in(proof, self._deadline())

    def sign_out(self) -> Session:
        """Sign the guest out. This ends the session on every device."""
        return self._sessions.sign_out(self._deadline())

    def deployment(self) -> Deployment:
        """Return the deployment's settings, cached for an hour, or the defaults if they cannot be read."""
        return self._sessions.deployment(self._deadline())

    def resume(self, *, on_conflict: Literal["wait", "new", "fail"] = "wait") -> Resumed:
        """Attach to the session again, settle messages in doubt, and return the missed messages.

        If the session is locked, `wait` retries for a while and `fail` raises Conflict at once. If the session is
        locked or has ended, `new` creates another session in its place. Raises SessionOver if it has ended.
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
        """Send one message, and return once the service has accepted it; with `wait`, once a reply has arrived.

        `attributes` are custom attributes of the message. `key` is the client key, a UUID (default: random). `pick`
        has labels, payloads or places of options, and `form` maps fields to values. `answering` is the message that
        offers them (default: the newest in history). Each of `files` makes a message of its own: the text goes with
        the first, and any outbound message after that one is a reply. `expect` waits for a reply that matches this
        JavaScript regular expression. `progress` is called with (bytes done, bytes in all) during an upload. `resend`
        sends another copy of the message in doubt that has this `key`.

        Raises the failure that the send ended with. Its `delivery` is the outcome of the message, and its `sent` is
        the record (contract.md §5).
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

    def outcome(self, key: str) -> Delivery | None:
        """Return the outcome of the message with this client key, None if it was never begun.

        Nothing is sent: the outcome is what this machine knows.
        """
        row = self.state.sent(self.scope, self._sessions.get(), key)
        if row is None:
            return None
        return {"queued": "not_sent", "writing": "in_doubt"}.get(row.state, row.state)  # type: ignore[return-value]

    def ask(self, text: str, *, new: bool = False, opening: NewSession | None = None) -> Message:
        """Send a question and return the first message of the reply.

        A session is created if there is none, or if the stored one has ended. The guest of an expired session stays
        signed in. `new` starts a new session in any case, and `opening` has its options. Raises TimedOut if no reply
        arrives, or the failure that prevented one.
        """
        return self._ask(text, Awaited(), new, opening)[0]

    def ask_all(
        self, text: str, *, new: bool = False, opening: NewSession | None = None, silence: float | None = None
    ) -> list[Message]:
        """Send a question and return all messages of the reply, at least one (see `ask`).

        The reply is complete when no other message has arrived for `silence` seconds (default: 0.5), when the
        conversation ends, or at the client's timeout.
        """
        silence = self._timings.reply_silence if silence is None else silence
        return self._ask(text, Awaited(silence=silence), new, opening)

    def _ask(self, text: str, awaited: Awaited, new: bool, opening: NewSession | None) -> list[Message]:
        sent = self._sessions.ask(text, self._deadline(), awaited, new=new, opening=opening)
        assert sent.reply is not None
        return [sent.reply, *sent.following]

    def typing(self) -> None:
        """Send a typing indicator. Waits if the session sent one less than five seconds ago."""
        deadline = self._deadline()
        need(self.dialect, Ability.TYPING)
        engine = self._sessions.open()
        engine.wait_for_budget("typing", Rate(1, TYPING_EVERY), deadline)
        engine.wait_to_send(deadline)
        engine.perform(self.dialect.typing(engine.session), deadline)

    def end(self) -> Session:
        """End the conversation as the guest."""
        return self._finish(Ability.END)

    def clear(self) -> Session:
        """Clear the conversation and delete its transcript."""
        return self._finish(Ability.CLEAR)

    def _finish(self, ability: Ability) -> Session:
        deadline = self._deadline()
        need(self.dialect, ability)
        engine = self._sessions.open()
        engine.attached(deadline)
        engine.wait_to_send(deadline)
        flow = self.dialect.end if ability is Ability.END else self.dialect.clear
        ended = engine.perform(flow(engine.session), deadline)
        self._sessions.close_socket(self.dialect.end_close_frame)
        engine.record.store(ended)
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

        An entry that cannot be read is `Unknown`. `all` adds earlier conversations and presence events. `last` limits
        the result to that number of the newest messages. `since` and `until` are RFC 3339 times or message ids; `since`
        excludes its message, `until` includes it. The client's timeout applies to each page, and `waiting` is called
        before a page is requested.
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
        shared: bool = False,
        wake: Callable[[], float | None] = lambda: None,
        left: Callable[[], float | None] = lambda: None,
    ) -> EventStream:
        """Return an iterator over the live events, each once and in order, across reconnects.

        The iterator yields None when some time has passed without an event (0.5 s, or less if `wake` asks for it), so
        that the caller gets control. It ends only by raising a failure.

        By default the first event is the first one that arrives after the client has attached. `replay` yields the
        last N messages first, `after` starts after a message, and `from_start` starts at the beginning of the
        conversation. `just_created` states that this client created the session a moment ago: its socket received
        everything, so history is not read. `forever` reconnects without a limit. With `shared`, this client only
        listens: all such listeners of the session use one socket, also in several processes. `wake` returns the seconds
        after which the caller wants control again, and `left` the seconds until the caller stops listening; None stands
        for no limit.

        A caller that stops early calls `rest()` of the iterator. It yields received messages that still wait for an
        earlier one, and a `Gap` if messages may be missing.
        """

        def start() -> Listener:
            need(self.dialect, Ability.LISTEN)
            engine = self._sessions.open()
            first, begin, unread = after, from_start, None
            if replay > 0:
                try:
                    before = position_before_last(self._fetch(engine, left=left), self.dialect.paging, replay)
                    first, begin = before or after, from_start or before is None
                except PASSING_FAILURES as failure:
                    # A listener that cannot read history listens all the same, and reports what it cannot show.
                    engine.notice(f"cannot read history: {failure.message}")
                    unread = failure.message
            listener = Listener(
                engine,
                position=first,
                baseline=not just_created,
                from_start=begin,
                unread=unread,
                forever=forever,
                step=self.timeout,
                wake=wake,
                left=left,
            )
            if replay > 0 and first is not None:
                listener.ignore_before(first)
            if self.dialect.has_socket:
                listener.catch_up.reader.share()
                if shared:
                    listener.share_socket()
            return listener

        return EventStream(start)

    def seen_up_to(self) -> Position | None:
        """Return the position of the last message that any listener of this session has shown."""
        return last_shown(self.state, self.scope, self.session())

    # --- credentials, files, profile ---

    def refresh_token(self, *, if_expiring: float | None = None) -> Session:
        """Renew the session's credential and store it; with `if_expiring`, only if fewer seconds are left."""
        deadline = self._deadline()
        engine = self._sessions.open()
        kind = self.dialect.refreshable(engine.session)
        if kind is None:
            raise unsupported(self.dialect, Ability.REFRESH)
        held = engine.session.credential(kind)
        if if_expiring is not None and held is not None:
            from guestctl.core.jwt_claims import expiry_of

            # The user's own margin applies, not the dialect's.
            expires_at = expiry_of(held, self.clock.now())
            if expires_at is None or expires_at - self.clock.now() > if_expiring:
                return engine.session
        engine.credentials.renew(kind, deadline, stale=held)
        return engine.session

    def download(self, attachment_id: str, to: Path, *, progress: Callable[[int, int], None] | None = None) -> Path:
        """Save an attachment in the folder `to`, or as the new file `to`, and return the path of the file.

        Nothing is overwritten. `progress` is called with (bytes done, bytes in all).
        """
        from guestctl.engine.downloads import download

        deadline = self._deadline()
        files = require(self.dialect, self.dialect.files, Ability.FILES)
        return download(self._sessions.open(), files, attachment_id, to, deadline, progress=progress)

    def sync(self, attributes: Mapping[str, Json]) -> Mapping[str, Json]:
        """Merge attributes into the guest's profile at the service. Return them with those that the API adds."""
        deadline = self._deadline()
        need(self.dialect, Ability.SYNC)
        engine = self._sessions.open()
        merged = engine.perform(self.dialect.sync(engine.session, attributes), deadline)
        engine.record.log("profile_synced", provider_id=merged.get(_PROVIDER_ID))
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


def observers(first: Observer | None, second: Observer | None) -> Observer | None:
    """Return an observer that passes everything on to both, or the one that there is."""
    if first is None or second is None:
        return first or second
    one, other = first, second

    def observe(kind: str, data: Mapping[str, Any]) -> None:
        one(kind, data)
        other(kind, data)

    return observe


def scope_of(profile: Profile, dialect: Dialect) -> str:
    """Return what a stored session belongs to: profile, API, deployment and every address (contract.md §2)."""
    return _scope(profile, dialect, (dialect.name, profile.deployment_id or "", *dialect.addresses()))


def former_scope_of(profile: Profile, dialect: Dialect) -> str:
    """Return the scope of the same session in version 0.1.0, whose digest contained the profile's name, too."""
    return _scope(profile, dialect, (profile.name, dialect.name, profile.deployment_id or "", *dialect.addresses()))


def _scope(profile: Profile, dialect: Dialect, parts: Sequence[str]) -> str:
    return f"{profile.name}/{dialect.name}/" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _locale(environ: Mapping[str, str]) -> str | None:
    """Return the language tag of this process's locale (`de_DE.UTF-8`: `de-DE`), None without one (`C`)."""
    named = next((environ[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if environ.get(name)), "")
    tag = re.split("[.@]", named)[0].replace("_", "-")
    return tag if re.fullmatch("[a-z]{2,3}(-[A-Z]{2})?", tag) else None


def _compiled(pattern: str | None) -> Pattern | None:
    if pattern is None:
        return None
    from guestctl.core.patterns import PatternError, compiled

    try:
        return compiled(pattern)
    except PatternError as error:
        raise UsageError(f'expect: "{pattern}" is not a regular expression: {error}') from error
