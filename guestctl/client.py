"""`Client`: what a guest can do, as a typed library. The command line is an ordinary user of it.

Knows: the verbs, stored sessions and how the layers fit together. Must not know: any API's wire,
argv, printing, exit codes. A client is for one thread; many may live in one process.

    with Client("staging") as guest:
        guest.create()
        print(guest.ask("Where is my parcel?").text)
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, replace
from pathlib import Path
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

from guestctl.core.clock import Clock, Deadline, SystemClock
from guestctl.core.errors import (
    Conflict,
    Failure,
    NetworkError,
    Refused,
    SessionOver,
    Unauthorised,
    Unsupported,
    UsageError,
)
from guestctl.core.jwt_claims import expiry_of
from guestctl.core.model import (
    OVER,
    Credential,
    Deployment,
    Event,
    Message,
    NewSession,
    Outgoing,
    Position,
    Presence,
    Profile,
    Secret,
    Session,
    SignIn,
)
from guestctl.core.results import Report, Resumed, Sent
from guestctl.core.timings import Timings
from guestctl.core.values import Json
from guestctl.core.version import __version__
from guestctl.core.wire import Request, is_trace_context
from guestctl.dialects import NAMES, dialect_class
from guestctl.dialects.base import Dialect, HistoryPage
from guestctl.dialects.capabilities import Ability
from guestctl.dialects.features import FileTransfer, SigningIn
from guestctl.dialects.flows import Flow, done
from guestctl.engine.connect import open_socket, refuse_over
from guestctl.engine.credentials import not_stored, oauth_scope
from guestctl.engine.delivery import settle_open
from guestctl.engine.exchange import SessionEngine
from guestctl.engine.history import Window, current, following, newest, no_message, whole
from guestctl.engine.listener import Listener
from guestctl.engine.local_files import looked_at
from guestctl.engine.send import Answer, Awaited, check_said, goes_on, needs_another, recent, say
from guestctl.engine.session_socket import SessionSocket
from guestctl.storage.state import LedgerEntry, State, replaced
from guestctl.transport.connector import Connector

if TYPE_CHECKING:
    from guestctl.transport.network import Network, Observer

T = TypeVar("T")

#: Seconds a deployment's configuration is remembered.
CONFIGURATION_AGE = 3600.0
#: Seconds for the words that greet a guest who has just joined, where a question follows at once.
GREETING = 2.0
#: Seconds between two typing indicators (web-messaging.md §9).
TYPING_EVERY = 5.0
#: Bytes a download may have.
DOWNLOAD_LIMIT = 64 * 1024 * 1024


class Client:
    """One guest under one profile. `session` names the stored session (default: the current one).

    `timeout` in seconds bounds each verb as a whole. `notice` hears what happens on the way
    (reconnects, retries). `environ` is the process's own unless given. `network` is shared by clients
    of one process that would make equal ones. `timings` replaces the client's own waits (tests).
    Raises UsageError when the profile cannot be used.
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
        self._timings = timings or Timings()
        self._environ = environ = os.environ if environ is None else environ
        self._own_state = state is None
        self.state = state or State.open(State.directory(environ), self.clock, notice=notice)
        given = profile if isinstance(profile, Profile) else self._resolved(profile)
        self.profile = given if given.application else replace(given, application=f"guestctl-{__version__}")
        self._new_id = new_id
        self.dialect: Dialect = dialect_class(self.profile.api)(
            self.profile, new_id=new_id, traceparent=traceparent or self._traced()
        )
        self.dialect.check_profile()
        self.scope = scope_of(self.profile, self.dialect)
        self._connector = Connector(self._network, self.clock, observer)
        self._networked = network
        self._session_name = session
        self._exchange: SessionEngine | None = None
        #: Secrets that were stored when they were asked for first, and of sessions left since.
        self._met: list[Secret] | None = None
        #: What its session was called when it was asked for: another command may have renamed it since.
        self._asked_for = ""

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

    def _traced(self) -> str | None:
        """The trace context this process was started in (W3C Trace Context §3.2), if TRACEPARENT holds one."""
        given = self._environ.get("TRACEPARENT")
        if given and not is_trace_context(given):
            self.notice("TRACEPARENT holds no W3C trace context and is not passed on")
            return None
        return given or None

    def _network(self) -> Network:
        if self._networked is None:
            from guestctl.transport.network import Network

            self._networked = Network(ca=self.profile.ca, environ=self._environ, cleartext=self.profile.cleartext)
        return self._networked

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket as the API's guests do, and what else was opened."""
        self._hang_up()
        self._connector.close()
        if self._own_state:
            self.state.close()

    def _hang_up(self, words: tuple[int, str] | None = None) -> None:
        """Close the socket: with these code and reason, else as this API's guests do."""
        if self._exchange is not None and self._exchange.socket is not None:
            line, self._exchange.socket = self._exchange.socket, None
            line.close(words)

    # --- stored sessions ---

    @property
    def session_name(self) -> str:
        """The name commands work on: the one given, else the last created or chosen."""
        return self._session_name or self.state.current(self.scope) or "default"

    def session(self, name: str | None = None) -> Session:
        """A stored session. Raises SessionOver `session.none` when there is none of that name."""
        wanted = name or self.session_name
        found = self.state.get(self.scope, wanted)
        if found is None:
            raise SessionOver(
                f"there is no session {wanted!r} under profile {self.profile.name!r} ({self.dialect.name})",
                code="session.none",
                api=self.dialect.name,
            )
        return found

    def sessions(self) -> list[Session]:
        """Every session stored for this profile, API, deployment and address."""
        return [session for _, session in self.state.sessions(self.scope, tell=True)]

    def secrets(self) -> Iterator[Secret]:
        """Every token this client holds, for whoever must keep them from being shown. What was stored is read
        once: there may be a thousand sessions, and this is asked for each line that is told."""
        if self._met is None:
            self._met = list(self._stored_secrets())
        yield from self._met
        if self._exchange is not None:
            yield from self._exchange.credentials.secrets()

    def _stored_secrets(self) -> Iterator[Secret]:
        stored = self.state.get_credential(oauth_scope(self.scope, self.profile), "oauth")
        if stored is not None:
            yield stored.secret
        for _, session in self.state.sessions(self.scope):
            for held in session.credentials.values():
                yield held.secret
                if held.refresh is not None:
                    yield held.refresh

    def _leave_exchange(self) -> None:
        """Hang up, and keep in mind what must not be shown of it."""
        self._hang_up()
        if self._exchange is not None and self._met is not None:
            self._met += self._exchange.credentials.secrets()
        self._exchange = None

    def use(self, name: str) -> Session:
        """Make a stored session the one commands work on."""
        found = self.session(name)
        self.state.use(self.scope, name)
        return found

    def forget(self, name: str) -> Session | None:
        """Delete the local record only; returns it, None where it could not be read. Raises SessionOver
        when there is none."""
        found: Session | None
        try:
            found = self.session(name)
        except UsageError:
            found = None
        if self._exchange is not None and self._exchange.session.name == name:
            self._leave_exchange()
        self.state.forget(self.scope, name)
        return found

    def report(self) -> Report:
        """How long the session has lasted and what happened in it."""
        session = self.session()
        log = tuple(self.state.activity(self.scope, session))
        ended = [line.at for line in log if line.event == "session_terminated"]
        end = ended[0] if ended and session.state in OVER else self.clock.now()
        return Report(session, round((end - session.created_at) * 1000), log)

    # --- opening ---

    def create(self, opening: NewSession | None = None, *, new: bool = False, sign_in: SignIn | None = None) -> Session:
        """Open a session and store it; returns it once the service has confirmed it. From then on it is the
        current one, also when what follows (joining, where the deployment says so) fails; but for one that
        turns out to be over already.

        A live session of the same name is kept under another name. With `new` it is replaced: on an
        API that can, the same guest starts a new conversation and the old one is no longer reachable.
        """
        opening = opening or NewSession(name=self._session_name or "default")
        credential = None if sign_in is None else self._signing_in().sign_in(sign_in)
        return self._create(opening, self._deadline(), new=new, credential=credential)

    def _create(
        self, opening: NewSession, deadline: Deadline, *, new: bool = False, credential: Flow[Credential] | None = None
    ) -> Session:
        said, opening = opening, self.completed(opening)
        self._need(Ability.CREATE)
        self._hang_up()
        standing = self.state.get(self.scope, opening.name)
        alive = standing is not None and standing.state not in OVER
        exchange = None
        if standing is not None and goes_on(self.dialect, standing, new=new, signs_in=credential is not None):
            exchange = self._restarted(standing, opening, deadline)
        if exchange is None:
            exchange = self._create_beside(opening, standing, deadline, credential, keep=alive and not new)
        before = self._session_name, self.state.current(self.scope)
        self.state.use(self.scope, exchange.session.name)
        self._session_name = exchange.session.name
        try:
            self._began(exchange, said, opening, deadline)
        except SessionOver:
            self._session_name, current = before
            self.state.use(self.scope, current)
            raise
        return exchange.session

    def _restarted(self, standing: Session, opening: NewSession, deadline: Deadline) -> SessionEngine | None:
        """The same guest's next conversation; None when the service does not let that guest in any more."""
        exchange = self._exchange_for(standing)
        try:
            exchange.socket = open_socket(exchange, deadline, start_new=opening)
        except Unauthorised as refused:
            self.notice(f"{refused.message}; another guest takes the place of session {standing.name!r}")
            return None
        # What was recorded belongs to the conversation left behind, and goes with it.
        begun = replace(exchange.session, name=opening.name, created_at=self.clock.now())
        exchange.session = replace(begun, state="draft")  # nothing is stored of it yet
        root = standing.created_at if standing.root is None else standing.root
        exchange.record.store(replace(begun, root=root, offer=None))
        return exchange

    def _create_beside(
        self,
        opening: NewSession,
        standing: Session | None,
        deadline: Deadline,
        credential: Flow[Credential] | None,
        *,
        keep: bool,
    ) -> SessionEngine:
        """A new session, given the `credential` its guest signs in for; the one of that name is out of the way
        until the new one is confirmed, and `keep` says whether it stays then."""
        draft = Session(api=self.dialect.name, profile=self.profile.name, name=opening.name)
        exchange = self._exchange_for(draft)
        created = exchange.perform(self.dialect.create(opening), deadline)
        created = replace(created, name=opening.name, created_at=self.clock.now())
        if credential is not None:
            created = created.having(exchange.perform(credential, deadline))
        kept_as = self._set_aside(standing) if standing is not None else None
        try:
            if created.state == "draft":
                exchange.session = created
                exchange.socket = open_socket(exchange, deadline)
            else:
                exchange.record.store(created)
        except BaseException:
            if kept_as is not None:
                self.state.rename(self.scope, kept_as, opening.name)
            raise
        if kept_as is not None and keep:
            self.notice(f"the earlier session {opening.name!r} is kept as {kept_as!r}")
        elif kept_as is not None:
            self.state.forget(self.scope, kept_as)
        return exchange

    def sign_in(self, proof: SignIn) -> Session:
        """Step up: the guest of the stored session signs in, on the session's own token."""
        deadline = self._deadline()
        flow = self._signing_in().sign_in(proof)
        exchange = self._exchange_for(self.session())
        if exchange.session.credential("sign-in") is None:
            exchange.attached(deadline)  # a step up: as whoever the guest has been (§10.9)
        signed_in = exchange.session.having(exchange.perform(flow, deadline))
        if exchange.socket is None:
            exchange.record.store(signed_in)
            exchange.attached(deadline)
        else:
            exchange.record.store(exchange.perform(self.dialect.attach(signed_in), deadline))
        exchange.record.log("signed_in")
        return exchange.session

    def sign_out(self) -> Session:
        """Revoke the guest's sign-in; the session is over with it."""
        deadline = self._deadline()
        signing_in = self._signing_in()
        exchange = self._exchange_for(self.session())
        if exchange.session.credential("sign-in") is None:
            raise UsageError(f"session {exchange.session.name!r} is not signed in")
        try:
            signed_out = exchange.perform(signing_in.sign_out(exchange.session), deadline)
        except Unauthorised as refused:  # it is good for nothing any more: there is nothing left to revoke (§7.2)
            self.notice(f"{refused.message}: the sign-in was over already")
            signed_out = replace(exchange.session, state="ended").without("sign-in").without("history")
        exchange.record.store(signed_out)
        self._hang_up()
        return exchange.session

    def _signing_in(self) -> SigningIn:
        return self._part(self.dialect.signing_in, Ability.SIGN_IN)

    def _set_aside(self, standing: Session) -> str:
        taken = self.state.names(self.scope)
        number = next(n for n in range(1, 10_000) if f"{standing.name}-{n}" not in taken)
        self.state.rename(self.scope, standing.name, f"{standing.name}-{number}")
        return f"{standing.name}-{number}"

    def _began(self, exchange: SessionEngine, said: NewSession, opening: NewSession, deadline: Deadline) -> None:
        """What follows a confirmed new session: its log begins, and a guest joins where that is expected."""
        exchange.record.store(replace(exchange.session, new_session=True, opening=_dump(said)))
        exchange.record.log("session_started", api=self.dialect.name)
        deployment = self.deployment(deadline)
        if not deployment.active:
            self.notice("the deployment's configuration says it is inactive")
        if deployment.auto_start:
            exchange.wait_to_send(deadline)
        if self.dialect.deployment_configuration is not None:
            begun = self.dialect.deployment_configuration.auto_start(exchange.session, deployment, opening)
            exchange.record.store(exchange.perform(begun, deadline))

    def completed(self, opening: NewSession) -> NewSession:
        """Profile values where none was given. Raises UsageError for a field this API does not have."""
        profile = self.profile
        fields = self.dialect.fields
        self._check_fields(opening)
        return replace(
            opening,
            attributes={**profile.attributes, **opening.attributes} if "attr" in fields else opening.attributes,
            queue=opening.queue or (profile.queue if "queue" in fields else None),
            skill=opening.skill or (profile.skill if "skill" in fields else None),
            language=opening.language or (profile.language if "language" in fields else None),
            email=opening.email or (profile.email if "email" in fields else None),
            guest_name=opening.guest_name or (profile.guest_name if "name" in fields else None),
        )

    def _check_fields(self, opening: NewSession) -> None:
        given = {
            "attr": opening.attributes,
            "queue": opening.queue,
            "skill": opening.skill,
            "language": opening.language,
            "email": opening.email,
            "name": opening.guest_name,
        }
        for field, value in given.items():
            if value and field not in self.dialect.fields:
                raise self._no_field(field)

    def _no_field(self, field: str, of: Literal["fields", "send_fields"] = "fields") -> UsageError:
        able = [name for name in NAMES if field in getattr(dialect_class(name), of)]
        return UsageError(
            f"the {self.dialect.name} API has no field for --{field}; {', '.join(able) or 'none'} has it",
            code="usage.option",
            api=self.dialect.name,
        )

    def deployment(self, deadline: Deadline | None = None) -> Deployment:
        """The deployment's configuration, remembered for an hour. Without one, what is usual."""
        published = self.dialect.deployment_configuration
        if published is None:
            return Deployment()
        cached = self.state.deployment(self.scope, CONFIGURATION_AGE)
        if cached is not None:
            return published.parse(json.loads(cached))
        within = (deadline or self._deadline()).sooner(5.0)
        try:
            raw = self._any_exchange().perform(published.fetch(), within)
        except Failure as failure:
            self.notice(f"the deployment's configuration cannot be read: {failure.message}")
            return Deployment()
        self.state.put_deployment(self.scope, json.dumps(raw))
        return published.parse(raw)

    def resume(self, *, on_conflict: Literal["wait", "new", "fail"] = "wait") -> Resumed:
        """Re-attach: prove the session alive, settle what is open, and say what was missed.

        On a conflict `wait` asks again for a while, `fail` raises at once, `new` starts another session.
        """
        deadline = self._deadline()
        self._need(Ability.RESUME)
        session = self.session()
        if session.state in OVER and on_conflict == "new":
            return self._anew(session, deadline)
        refuse_over(session)
        exchange = self._exchange_for(session)
        if on_conflict == "fail":
            exchange.retry.lock_patience = 0.0
        try:
            missed = self._reattach(exchange, deadline)
        except Conflict:
            if on_conflict != "new":
                raise
            return self._anew(exchange.session, deadline)
        exchange.record.store(replace(exchange.session, new_session=False))
        exchange.record.log("session_resumed", missed=len(missed))
        return Resumed(exchange.session, tuple(missed))

    def _anew(self, session: Session, deadline: Deadline) -> Resumed:
        """Another in its place, and what is said in it already."""
        self._create(_opened_with(session), deadline, new=True)
        exchange = self._any_exchange()
        missed = self._reattach(exchange, deadline)
        exchange.record.store(replace(exchange.session, new_session=True))
        return Resumed(exchange.session, tuple(missed))

    def _reattach(self, exchange: SessionEngine, deadline: Deadline) -> list[Message]:
        if self.dialect.has_socket:
            exchange.attached(deadline)
        with exchange.record.lock("send", deadline):
            settle_open(exchange, deadline)
        entry = self.state.last_position(self.scope, exchange.session)
        position = Position(entry.id, entry.sequence, entry.time) if entry else None
        listener = Listener(exchange, position=position, step=deadline.remaining())
        found, proved = listener.read_after(position)
        if not proved:
            self.notice("the last message seen is not in history any more: some may be missing")
        ours = {row.message_id for row in self.state.outbox(self.scope, exchange.session, "accepted")}
        missed = [replace(m, source="replayed") for m in found if isinstance(m, Message) and m.id not in ours]
        entries = [LedgerEntry(m.id, m.key, m.sequence, m.time) for m in found if isinstance(m, Message)]
        self.state.record(self.scope, exchange.session, entries)
        return missed

    # --- saying ---

    def send(
        self,
        text: str = "",
        *,
        attributes: Mapping[str, str] | None = None,
        key: str | None = None,
        pick: Sequence[str] = (),
        answering: Message | None = None,
        files: Sequence[Path] = (),
        form: Mapping[str, Json] | None = None,
        wait: bool = False,
        expect: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Sent:
        """Send one message; returns once the service has accepted it, with `wait` once it was answered.

        `expect` waits for a reply that matches the regular expression. Several files make several
        messages; the text goes with the first, and whatever follows that is a reply. `answering` is the
        message that offers what is picked, where the caller has it; else it is looked for in history.
        Raises the failure it ended with; its `delivery` says what became of the message and its `sent`
        holds the record (contract.md §5).
        """
        deadline = self._deadline()
        pattern = _compiled(expect)
        self._need(Ability.SEND)
        if attributes and "attr" not in self.dialect.send_fields:
            raise self._no_field("attr", "send_fields")
        exchange = self._exchange_for(self.session())
        outgoing = Outgoing(key=key or self._new_id(), text=text, attributes=dict(attributes or {}))
        if (bool(pick), form is not None, bool(files)).count(True) > 1:
            raise UsageError("a message holds a pick, a form or files: send them one after the other")
        answer = Answer(pick, form, answering) if pick or form is not None else None
        check_said(outgoing, more=answer is not None or bool(files))
        if files:
            self._part(self.dialect.files, Ability.FILES)
        if answer is not None:
            self._part(self.dialect.rich_content, Ability.PICK)
        return say(
            exchange,
            outgoing,
            deadline,
            new_id=self._new_id,
            answer=answer,
            files=[looked_at(path) for path in files],
            awaited=Awaited(pattern) if wait or expect is not None else None,
            progress=progress,
        )

    def ask(self, text: str, *, new: bool = False, opening: NewSession | None = None) -> Message:
        """Create or resume, send, and return the first complete reply. Raises TimedOut without one, or what kept us
        from hearing it. Who was signed in is so in a session that takes the place of an expired one, too."""
        deadline = self._deadline()
        question = Outgoing(key=self._new_id(), text=text)
        check_said(question, more=False)
        self._need(Ability.SEND)
        name = self.session_name if opening is None else opening.name
        self._session_name = name
        stored = self.state.get(self.scope, name)
        if opening is None:
            opening = NewSession(name=name) if new or stored is None else _opened_with(stored)
        if needs_another(stored, new=new):
            if not new and stored is not None:
                self.notice(f"session {opening.name!r} is over ({stored.state}); starting another under the same name")
            self._begin(opening, deadline, None if new else stored, new=new)
        try:
            sent = self._ask(question, deadline)
        except (SessionOver, Conflict) as over:
            there = over.code in {"session.evicted", "session.replaced"}
            if there or over.delivery == "accepted" or (isinstance(over, Conflict) and over.code != "conflict.ended"):
                raise
            self.notice(f"{over.message}; starting another session under the same name")
            self._begin(opening, deadline, self.state.get(self.scope, opening.name))
            sent = self._ask(replace(question, key=self._new_id()), deadline)
        assert sent.reply is not None
        return sent.reply

    def _ask(self, question: Outgoing, deadline: Deadline) -> Sent:
        return say(self._exchange_for(self.session()), question, deadline, new_id=self._new_id, awaited=Awaited(None))

    def _begin(self, opening: NewSession, deadline: Deadline, instead_of: Session | None, *, new: bool = False) -> None:
        """A session to ask something in. What greets whoever joins is no answer, and is waited for a moment."""
        expired = instead_of is not None and instead_of.state == "expired"
        signed_in = instead_of.credential("sign-in") if instead_of is not None and expired else None
        self._create(opening, deadline, new=new, credential=None if signed_in is None else done(signed_in))
        exchange = self._any_exchange()
        if not self.dialect.began_with_join(exchange.session):
            return
        left = deadline.remaining()
        within = deadline.sooner(GREETING if left is None else min(GREETING, left / 3))
        listener = Listener(exchange, baseline=False, record=False, step=within.remaining(), left=within.remaining)
        listener.attach(within)
        with suppress(NetworkError), closing(listener.events()) as events:
            for event in events:
                if within.expired or (isinstance(event, Message) and event.direction == "outbound"):
                    return

    def typing(self) -> None:
        """Say that the guest is typing; at most once in five seconds for one session."""
        deadline = self._deadline()
        self._need(Ability.TYPING)
        exchange = self._exchange_for(self.session())
        exchange.wait_for_budget("typing", 1, TYPING_EVERY, deadline)
        exchange.wait_to_send(deadline)
        exchange.perform(self.dialect.typing(exchange.session), deadline)

    def end(self) -> Session:
        """End the conversation as the guest."""
        return self._finish(Ability.END)

    def clear(self) -> Session:
        """Clear the conversation; its transcript goes with it."""
        return self._finish(Ability.CLEAR)

    def _finish(self, ability: Ability) -> Session:
        deadline = self._deadline()
        self._need(ability)
        exchange = self._exchange_for(self.session())
        exchange.attached(deadline)
        exchange.wait_to_send(deadline)
        flow = self.dialect.end if ability is Ability.END else self.dialect.clear
        exchange.record.store(exchange.perform(flow(exchange.session), deadline))
        self._hang_up(self.dialect.end_close_frame)
        return exchange.session

    # --- hearing ---

    def history(
        self,
        *,
        last: int | None = None,
        since: str | None = None,
        until: str | None = None,
        all: bool = False,
        waiting: Callable[[], None] = lambda: None,
    ) -> Iterator[Message | Presence]:
        """The current conversation in order, page by page; `all` adds earlier ones and events.

        `since` and `until` are RFC 3339 times or message ids (`since` excludes its message, `until`
        includes it). Each answer of the service has the client's timeout; `waiting` is called before
        one is waited for.
        """
        self._need(Ability.HISTORY)
        exchange = self._exchange_for(self.session())
        fetch = self._fetch(exchange, waiting)
        paging, size = self.dialect.paging, self.dialect.page_size
        window = Window(since, until)

        def wanted(item: Message | Presence) -> bool:
            return all or isinstance(item, Message)

        items: Iterator[Message | Presence]
        if last is not None and not window:
            items = iter(newest(fetch, paging, last, wanted))
        elif window.after is not None:
            found, proved = following(fetch, paging, window.after, size)
            if not proved:
                raise no_message("--since", window.after.id)
            items = iter(found)
        elif all:
            items = whole(fetch, paging, size)
        else:
            items = current(fetch, paging, size)
        chosen = items if all else filter(wanted, items)
        if window:
            chosen = window.of(chosen)
            chosen = chosen if last is None else iter(deque(chosen, maxlen=last))
        yield from chosen

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
    ) -> Generator[Event | None, None, None]:
        """Live events, each once and in order, through every reconnect; None when a tick brought nothing.

        Starts with what arrives after it has attached; `replay` shows the last N first, `after`
        starts behind a message, `from_start` at the beginning. `just_created`: the session was created
        by this client a moment ago, so that its socket has heard everything and history need not be
        asked. `wake` tells in how many seconds the caller wants control again, `left` in how many it will
        stop listening. Ends only by raising.
        """
        self._need(Ability.LISTEN)
        exchange = self._exchange_for(self.session())
        if replay > 0:
            fetch = self._fetch(exchange, left=left)
            before = newest(fetch, self.dialect.paging, replay + 1, lambda item: isinstance(item, Message))
            if len(before) > replay:
                first = before[0]
                assert isinstance(first, Message)
                after = Position(first.id, first.sequence, first.time)
            else:
                from_start = True
        listener = Listener(
            exchange,
            position=after,
            baseline=not just_created,
            from_start=from_start,
            forever=forever,
            step=self.timeout,
            wake=wake,
            left=left,
        )
        if replay > 0 and after is not None:
            listener.nothing_before(after)
        yield from listener.events()

    def seen_up_to(self) -> Position | None:
        """The last message shown to anybody listening under this session."""
        entry = self.state.last_position(self.scope, self.session())
        return Position(entry.id, entry.sequence, entry.time) if entry else None

    # --- credentials, files, profile ---

    def refresh_token(self, *, if_expiring: float | None = None) -> Session:
        """A new credential for the session, stored. With `if_expiring`, only when it has fewer seconds left."""
        deadline = self._deadline()
        exchange = self._exchange_for(self.session())
        kind = self.dialect.refreshable(exchange.session)
        if kind is None:
            raise self._unsupported(Ability.REFRESH)
        held = exchange.session.credential(kind)
        if if_expiring is not None and held is not None:
            # As the user says: not bounded by the token's life, as renewing ahead of use is.
            expires_at = expiry_of(held, self.clock.now())
            if expires_at is None or expires_at - self.clock.now() > if_expiring:
                return exchange.session
        exchange.credentials.renew(kind, deadline, stale=held)
        return exchange.session

    def download(self, attachment_id: str, to: Path, *, progress: Callable[[int, int], None] | None = None) -> Path:
        """Save an attachment into the folder (or under the new name) `to`; never overwrites.

        The service is asked for an address that is good now; one that has gone stale meanwhile is asked
        for once more. A file the service gives no address of is fetched from where history shows it.
        """
        from guestctl.engine.downloads import Stale, save
        from guestctl.transport.network import is_loopback

        deadline = self._deadline()
        files = self._part(self.dialect.files, Ability.FILES)
        exchange = self._exchange_for(self.session())
        local = is_loopback(urlsplit(self.dialect.rest("/")).hostname or "")

        def fetched() -> Path:
            located = self._located(exchange, files, attachment_id, deadline)
            return save(
                self._connector.http,
                located,
                attachment_id,
                to,
                deadline,
                limit=DOWNLOAD_LIMIT,
                local=local,
                progress=progress,
            )

        try:
            return fetched()
        except Stale:
            return fetched()

    def _located(
        self, exchange: SessionEngine, files: FileTransfer, attachment_id: str, deadline: Deadline
    ) -> tuple[Request, str | None]:
        """The request that fetches an attachment, and the name offered for it."""
        try:
            return exchange.perform(files.download(exchange.session, attachment_id), deadline)
        except Refused as refusal:
            for message in reversed(recent(exchange, deadline)):
                for found in message.attachments:
                    if found.id == attachment_id and found.url is not None:
                        return Request("GET", found.url.reveal(), "download", idempotent=True), found.name
            raise refusal

    def sync(self, attributes: Mapping[str, Json]) -> Mapping[str, Json]:
        """Merge attributes into the guest's profile; returns them with what the API adds."""
        deadline = self._deadline()
        self._need(Ability.SYNC)
        exchange = self._exchange_for(self.session())
        merged = exchange.perform(self.dialect.sync(exchange.session, attributes), deadline)
        exchange.record.log("profile_synced")
        return merged

    # --- inside ---

    def _deadline(self) -> Deadline:
        return Deadline.after(self.clock, self.timeout)

    def _exchange_for(self, session: Session) -> SessionEngine:
        """The exchange of this session, with its open socket if it has one."""
        known = self._exchange
        known_as = set() if known is None else {known.session.name, self._asked_for}
        if known is not None and session.name in known_as and session.state != "draft":
            if known.session.created_at != session.created_at:
                self._leave_exchange()
                raise replaced(known.session)
            # Tokens that are never stored (store_tokens: memory) are only here.
            session = replace(session, credentials={**known.session.credentials, **session.credentials})
            known.session = session
            return known
        useless = session.state not in {"draft", *OVER} and session.credential("guest") is None
        if useless and self.dialect.refreshable(session) != "guest":
            raise not_stored(session)
        self._leave_exchange()
        exchange = SessionEngine(
            dialect=self.dialect,
            connector=self._connector,
            state=self.state,
            scope=self.scope,
            clock=self.clock,
            random=self.random,
            notice=self.notice,
            session=session,
            timings=self._timings,
        )

        def attach(deadline: Deadline) -> SessionSocket:
            return open_socket(exchange, deadline)

        exchange.open_socket = attach
        self._exchange, self._asked_for = exchange, session.name
        return exchange

    def _any_exchange(self) -> SessionEngine:
        return self._exchange or self._exchange_for(Session(api=self.dialect.name, profile=self.profile.name))

    def _fetch(
        self,
        exchange: SessionEngine,
        waiting: Callable[[], None] = lambda: None,
        left: Callable[[], float | None] = lambda: None,
    ) -> Callable[[Position | None, str | None], HistoryPage]:
        def fetch(after: Position | None, cursor: str | None) -> HistoryPage:
            waiting()
            return exchange.page(after, cursor, self._deadline().sooner(left()))

        return fetch

    def _need(self, ability: Ability) -> None:
        if ability not in self.dialect.abilities:
            raise self._unsupported(ability)

    def _part(self, part: T | None, ability: Ability) -> T:
        """A part that only some APIs have. Raises Unsupported naming those."""
        if part is None:
            raise self._unsupported(ability)
        return part

    def _unsupported(self, ability: Ability) -> Unsupported:
        able = [name for name in NAMES if ability in dialect_class(name).abilities]
        return Unsupported(
            f"the {self.dialect.name} API has no `{ability.value}`; these have it: {', '.join(able) or 'none'}",
            api=self.dialect.name,
        )


def scope_of(profile: Profile, dialect: Dialect) -> str:
    """What a stored session belongs to: profile, API, deployment and every address (contract.md §2)."""
    parts = (profile.name, dialect.name, profile.deployment_id or "", *dialect.addresses())
    return f"{profile.name}/{dialect.name}/" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _dump(opening: NewSession) -> dict[str, Json] | None:
    """What was said of a session when it was opened; None: nothing."""
    said = {field: value for field, value in asdict(opening).items() if value and field != "name"}
    return said or None


def _opened_with(session: Session) -> NewSession:
    """What was said when it was opened, for the one that takes its place."""
    said: Any = session.opening
    return NewSession(**{**(said if isinstance(said, dict) else {}), "name": session.name})


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UsageError(f"--expect: {pattern!r} is not a regular expression: {error}") from error
