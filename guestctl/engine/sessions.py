"""Session policy: how stored sessions are created, replaced, resumed and signed in.

Knows: the stored sessions of one profile, which of them is current, what a new session takes from the profile, when
one session takes another's place. Must not know: any API's wire, argv, printing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, suppress
from dataclasses import asdict, replace
from random import Random
from typing import Any, Literal, TypeVar

from guestctl.core.clock import Clock, Deadline
from guestctl.core.errors import (
    Conflict,
    Failure,
    NetworkError,
    SessionOver,
    Unauthorised,
    Unsupported,
    UsageError,
)
from guestctl.core.model import (
    OVER,
    Credential,
    Deployment,
    Gap,
    Message,
    NewSession,
    Outgoing,
    Position,
    Profile,
    Secret,
    Session,
    SignIn,
    Unknown,
)
from guestctl.core.results import Report, Resumed, Sent
from guestctl.core.timings import Timings
from guestctl.core.values import Json
from guestctl.dialects import NAMES, dialect_class
from guestctl.dialects.base import Dialect
from guestctl.dialects.capabilities import Ability, Paging
from guestctl.dialects.features import SigningIn
from guestctl.dialects.flows import Flow, done
from guestctl.engine.catch_up import TOO_LONG
from guestctl.engine.connect import open_socket, refuse_over
from guestctl.engine.credentials import not_stored, oauth_scope
from guestctl.engine.delivery import settle_open
from guestctl.engine.exchange import SessionEngine
from guestctl.engine.listener import Listener
from guestctl.engine.send import Awaited, check_not_empty, continues_stored_session, needs_new_session, send_message
from guestctl.engine.session_record import traced
from guestctl.storage.state import LedgerEntry, State, replaced
from guestctl.transport.connector import Connector

T = TypeVar("T")

#: Seconds for which a deployment's configuration is cached.
CONFIGURATION_AGE = 3600.0
#: Seconds to wait for the greeting of a guest who has just joined, before the first question is sent.
GREETING = 2.0


class Sessions:
    """The stored sessions of one profile, and the engine of the one in use.

    `scope` is the profile, API and addresses they belong to. `name` is the session that commands work on; None: the
    current one. `new_id` makes client keys. `notice` receives one line of text for the user.
    """

    def __init__(
        self,
        dialect: Dialect,
        scope: str,
        *,
        name: str | None,
        state: State,
        connector: Connector,
        clock: Clock,
        random: Random,
        notice: Callable[[str], None],
        timings: Timings,
        new_id: Callable[[], str],
    ) -> None:
        self.dialect = dialect
        self.scope = scope
        self.state = state
        self.engine: SessionEngine | None = None
        self._connector = connector
        self._clock = clock
        self._random = random
        self._notice = notice
        self._timings = timings
        self._new_id = new_id
        #: The name given, or used by this client since; None: the current session.
        self.given_name = name
        #: The name under which the engine's session was asked for. Another command may have renamed it since.
        self._engine_name = ""
        #: Secrets that were stored when `secrets` was first called, and those of engines closed since.
        self._known_secrets: list[Secret] | None = None

    # --- stored sessions ---

    @property
    def name(self) -> str:
        """The name of the session that commands work on: the one given, else the last one created or chosen."""
        return self.given_name or self.state.current(self.scope) or "default"

    def get(self, name: str | None = None) -> Session:
        """Return a stored session. Raises SessionOver `session.none` when there is none of that name."""
        wanted = name or self.name
        found = self.state.get(self.scope, wanted)
        if found is None:
            profile = self.dialect.profile.name
            raise SessionOver(
                f'there is no session "{wanted}" under profile "{profile}" ({self.dialect.name})',
                code="session.none",
                api=self.dialect.name,
            )
        return found

    def use(self, name: str) -> Session:
        """Make a stored session the current one. Raises SessionOver when there is none of that name."""
        found = self.get(name)
        self.state.use(self.scope, name)
        return found

    def forget(self, name: str) -> Session | None:
        """Delete the local record of a session and return it; None when the record could not be read.

        Raises SessionOver when there is none of that name.
        """
        found = None
        with suppress(UsageError):
            found = self.get(name)
        if self.engine is not None and self.engine.session.name == name:
            self._close_engine()
        self.state.forget(self.scope, name)
        return found

    def report(self) -> Report:
        """Return how long the session has lasted and what happened in it."""
        session = self.get()
        log = tuple(self.state.activity(self.scope, session))
        ended = [entry.at for entry in log if entry.event == "session_terminated"]
        end = ended[0] if ended and session.state in OVER else self._clock.now()
        return Report(session, round((end - session.created_at) * 1000), log)

    def secrets(self) -> Iterator[Secret]:
        """Yield every token held here, so that the caller can redact it.

        Stored tokens are read once: there may be a thousand sessions, and this is called for each line of output.
        """
        if self._known_secrets is None:
            self._known_secrets = list(_stored_secrets(self.state, self.scope, self.dialect.profile))
        yield from self._known_secrets
        if self.engine is not None:
            yield from self.engine.credentials.secrets()

    # --- the engine ---

    def open(self, session: Session | None = None) -> SessionEngine:
        """Return the engine of a session, with its open socket if it has one. Default: the session in use.

        Raises SessionOver when the session was replaced by another command, or its token was never stored.
        """
        session = self.get() if session is None else session
        engine = self.engine
        names = set() if engine is None else {engine.session.name, self._engine_name}
        if engine is not None and session.name in names and session.state != "draft":
            if engine.session.created_at != session.created_at:
                self._close_engine()
                raise replaced(engine.session)
            # Tokens that are never stored (`store_tokens: memory`) exist only in the engine.
            session = replace(session, credentials={**engine.session.credentials, **session.credentials})
            engine.session = session
            return engine
        without_token = session.state not in {"draft", *OVER} and session.credential("guest") is None
        if without_token and self.dialect.refreshable(session) != "guest":
            raise not_stored(session)
        self._close_engine()
        self.engine, self._engine_name = self._new_engine(session), session.name
        self.engine.record.trace_with(self._connector.trace_context(session.trace_context))
        return self.engine

    def _new_engine(self, session: Session) -> SessionEngine:
        engine = SessionEngine(
            dialect=self.dialect,
            connector=self._connector,
            state=self.state,
            scope=self.scope,
            clock=self._clock,
            random=self._random,
            notice=self._notice,
            session=session,
            timings=self._timings,
        )
        engine.open_socket = lambda deadline: open_socket(engine, deadline)
        return engine

    def _any_engine(self) -> SessionEngine:
        """Return the engine in use, else one without a session, for requests that need none."""
        return self.engine or self.open(Session(api=self.dialect.name, profile=self.dialect.profile.name))

    def close_socket(self, close_frame: tuple[int, str] | None = None) -> None:
        """Close the socket, if one is open: with this code and reason, by default as this API's guests do."""
        if self.engine is not None and self.engine.socket is not None:
            socket, self.engine.socket = self.engine.socket, None
            socket.close(close_frame)

    def _close_engine(self) -> None:
        """Close the socket and drop the engine. Its secrets are remembered, because they must still be redacted."""
        self.close_socket()
        if self.engine is not None and self._known_secrets is not None:
            self._known_secrets += self.engine.credentials.secrets()
        self.engine = None

    # --- creating ---

    def create(
        self, asked: NewSession, deadline: Deadline, *, new: bool = False, credential: Flow[Credential] | None = None
    ) -> Session:
        """Create a session, store it and make it the current one (see `Client.create`).

        `credential` is the flow that signs the new session's guest in. Commands that create a session of the same
        name at the same time take turns, so that none loses the session of another.
        """
        with creation_lock(self.state, self.scope, asked.name, deadline):
            return self._create(asked, deadline, new=new, credential=credential)

    def _create(
        self, asked: NewSession, deadline: Deadline, *, new: bool = False, credential: Flow[Credential] | None = None
    ) -> Session:
        opening = completed(self.dialect, asked)
        need(self.dialect, Ability.CREATE)
        self.close_socket()
        earlier = self.state.get(self.scope, opening.name)
        alive = earlier is not None and earlier.state not in OVER
        engine = None
        if earlier is not None and continues_stored_session(
            self.dialect, earlier, new=new, signs_in=credential is not None
        ):
            engine = self._start_next_conversation(earlier, opening, deadline)
        if engine is None:
            engine = self._create_next_to(opening, earlier, deadline, credential, keep=alive and not new)
        before = self.given_name, self.state.current(self.scope)
        self.state.use(self.scope, engine.session.name)
        self.given_name = engine.session.name
        try:
            _begin(self, engine, asked, opening, deadline)
        except SessionOver:
            self.given_name, current = before
            self.state.use(self.scope, current)
            raise
        return engine.session

    def _start_next_conversation(
        self, earlier: Session, opening: NewSession, deadline: Deadline
    ) -> SessionEngine | None:
        """Start the same guest's next conversation; None when the service no longer accepts that guest."""
        engine = self.open(earlier)
        try:
            engine.socket = open_socket(engine, deadline, start_new=opening)
        except Unauthorised as refused:
            self._notice(f'{refused.message}; another guest takes the place of session "{earlier.name}"')
            return None
        # The stored record belongs to the earlier conversation and is replaced with it.
        begun = traced(engine.session, self._connector.trace_context(earlier.trace_context))
        begun = replace(begun, name=opening.name, created_at=self._clock.now())
        engine.session = replace(begun, state="draft")  # nothing is stored of the new one yet
        root = earlier.created_at if earlier.root is None else earlier.root
        engine.record.store(replace(begun, root=root, offer=None))
        return engine

    def _create_next_to(
        self,
        opening: NewSession,
        earlier: Session | None,
        deadline: Deadline,
        credential: Flow[Credential] | None,
        *,
        keep: bool,
    ) -> SessionEngine:
        """Create a session next to an earlier one of the same name.

        The earlier one is renamed until the service has confirmed the new one. After that `keep` decides whether it
        stays or is deleted; on a failure it gets its name back.
        """
        draft = Session(api=self.dialect.name, profile=self.dialect.profile.name, name=opening.name)
        engine = self.open(draft)
        created = engine.perform(self.dialect.create(opening), deadline)
        created = traced(created, engine.session.trace_context)
        created = replace(created, name=opening.name, created_at=self._clock.now())
        if credential is not None:
            created = created.having(engine.perform(credential, deadline))
        kept_as = _rename_aside(self.state, self.scope, earlier) if earlier is not None else None
        try:
            if created.state == "draft":
                engine.session = created
                engine.socket = open_socket(engine, deadline)
            else:
                engine.record.store(created)
        except BaseException:
            if kept_as is not None:
                self.state.rename(self.scope, kept_as, opening.name)
            raise
        if kept_as is not None and keep:
            self._notice(f'the earlier session "{opening.name}" is kept as "{kept_as}"')
        elif kept_as is not None:
            self.state.forget(self.scope, kept_as)
        return engine

    def deployment(self, deadline: Deadline) -> Deployment:
        """Return the deployment's configuration, cached for an hour; the usual one when it cannot be read."""
        published = self.dialect.deployment_configuration
        if published is None:
            return Deployment()
        cached = self.state.deployment(self.scope, CONFIGURATION_AGE)
        if cached is not None:
            return published.parse(json.loads(cached))
        try:
            raw = self._any_engine().perform(published.fetch(), deadline.sooner(5.0))
        except Failure as failure:
            self._notice(f"the deployment's configuration cannot be read: {failure.message}")
            return Deployment()
        self.state.put_deployment(self.scope, json.dumps(raw))
        return published.parse(raw)

    # --- signing in ---

    def signing_in(self) -> SigningIn:
        """Return the API's sign-in. Raises Unsupported for an API without one."""
        return require(self.dialect, self.dialect.signing_in, Ability.SIGN_IN)

    def sign_in(self, proof: SignIn, deadline: Deadline) -> Session:
        """Sign the guest of the stored session in, authorised by the session's own token ("step up")."""
        flow = self.signing_in().sign_in(proof)
        engine = self.open()
        if engine.session.credential("sign-in") is None:
            engine.attached(deadline)  # a step up needs the guest's present identity on the socket (§10.9)
        signed_in = engine.session.having(engine.perform(flow, deadline))
        if engine.socket is None:
            engine.record.store(signed_in)
            engine.attached(deadline)
        else:
            engine.record.store(engine.attach_again(signed_in, engine.socket, deadline))
        engine.record.log("signed_in")
        return engine.session

    def sign_out(self, deadline: Deadline) -> Session:
        """Revoke the guest's sign-in. This ends the session."""
        signing_in = self.signing_in()
        engine = self.open()
        if engine.session.credential("sign-in") is None:
            raise UsageError(f'session "{engine.session.name}" is not signed in')
        try:
            signed_out = engine.perform(signing_in.sign_out(engine.session), deadline)
        except Unauthorised as refused:  # the sign-in has expired: there is nothing left to revoke (§7.2)
            self._notice(f"{refused.message}: the sign-in was over already")
            signed_out = replace(engine.session, state="ended").without("sign-in").without("history")
        self.close_socket()
        engine.record.store(signed_out)
        return engine.session

    # --- resuming ---

    def resume(self, on_conflict: Literal["wait", "new", "fail"], deadline: Deadline) -> Resumed:
        """Re-attach the session (see `Client.resume`)."""
        session = self.get()
        if session.state in OVER and on_conflict == "new":
            return self._resume_with_new(session, deadline)
        refuse_over(session)
        engine = self.open(session)
        if on_conflict == "fail":
            engine.retry.lock_patience = 0.0
        try:
            missed = self._reattach(engine, deadline)
        except Conflict:
            if on_conflict != "new":
                raise
            return self._resume_with_new(engine.session, deadline)
        engine.record.store(replace(engine.session, new_session=False))
        engine.record.log("session_resumed", missed=sum(isinstance(item, Message) for item in missed))
        return Resumed(engine.session, tuple(missed))

    def _resume_with_new(self, session: Session, deadline: Deadline) -> Resumed:
        """Create another session in place of `session`, and return it with the messages it already has."""
        self.create(_opened_with(session), deadline, new=True)
        engine = self._any_engine()
        missed = self._reattach(engine, deadline)
        engine.record.store(replace(engine.session, new_session=True))
        return Resumed(engine.session, tuple(missed))

    def _reattach(self, engine: SessionEngine, deadline: Deadline) -> list[Message | Unknown | Gap]:
        """Attach, settle messages in doubt, and return the messages that were not shown yet."""
        if self.dialect.has_socket:
            engine.attached(deadline)
        with engine.record.lock("send", deadline):
            settle_open(engine, deadline)
        position = last_shown(self.state, self.scope, engine.session)
        listener = Listener(engine, position=position, step=deadline.remaining(), left=deadline.remaining)
        found = listener.read_after(position)
        if not found.anchored:
            self._notice("the last message seen is not in history any more: some may be missing")
        entries = [item for item in found.items if isinstance(item, (Message, Unknown))]
        ours = {row.message_id for row in self.state.outbox(self.scope, engine.session, "accepted")}
        shown = [LedgerEntry(m.id, m.key, m.sequence, m.time) for m in entries if isinstance(m, Message)]
        self.state.record(self.scope, engine.session, shown)
        missed: list[Message | Unknown | Gap] = [
            replace(item, source="replayed") if isinstance(item, Message) else item
            for item in entries
            if item.id is None or item.id not in ours
        ]
        if not found.complete:
            _insert_gap(missed, entries, position, newest_first=self.dialect.paging is Paging.BY_PAGE_NUMBER)
        return missed

    # --- asking ---

    def ask(self, text: str, deadline: Deadline, awaited: Awaited, *, new: bool, opening: NewSession | None) -> Sent:
        """Send a question, in a new session when there is none, and return it with its reply (see `Client.ask`)."""

        def put(question: Outgoing) -> Sent:
            return send_message(self.open(), question, deadline, new_id=self._new_id, awaited=awaited)

        check_not_empty(question := Outgoing(key=self._new_id(), text=text), more=False)
        need(self.dialect, Ability.SEND)
        self.given_name = name = self.name if opening is None else opening.name
        stored = self.state.get(self.scope, name)
        if opening is None:
            opening = NewSession(name=name) if new or stored is None else _opened_with(stored)
        with ExitStack() as turn:
            if needs_new_session(stored, new=new):
                turn.enter_context(creation_lock(self.state, self.scope, name, deadline))
                stored = self.state.get(self.scope, name)  # another command may have created it in the meantime
                if needs_new_session(stored, new=new):
                    if not new and stored is not None:
                        over = f'session "{opening.name}" is no longer active ({stored.state})'
                        self._notice(f"{over}; starting another under the same name")
                    self._create_to_ask(opening, deadline, None if new else stored, new=new)
            if new:
                # Another --new would end this conversation before its question is answered: they take turns.
                return put(question)
        used = self.state.get(self.scope, name)
        try:
            sent = put(question)
        except (SessionOver, Conflict) as over:
            # Another session helps only if the service has ended this one and did not accept the question.
            elsewhere = over.code in {"session.evicted", "session.replaced"}
            busy = isinstance(over, Conflict) and over.code != "conflict.ended"
            if elsewhere or busy or over.delivery == "accepted":
                raise
            self._notice(f"{over.message}; starting another session under the same name")
            with creation_lock(self.state, self.scope, name, deadline):
                stored = self.state.get(self.scope, name)
                replaced = stored is not None and used is not None and stored.created_at != used.created_at
                if not replaced or needs_new_session(stored, new=False):
                    self._create_to_ask(opening, deadline, stored)
            sent = put(replace(question, key=self._new_id()))
        return sent

    def _create_to_ask(
        self, opening: NewSession, deadline: Deadline, instead_of: Session | None, *, new: bool = False
    ) -> None:
        """Create a session for a question, in place of `instead_of`.

        Who was signed in in an expired session stays signed in. The greeting of a guest who joins is no answer to
        the question, so it is waited for briefly.
        """
        expired = instead_of is not None and instead_of.state == "expired"
        signed_in = instead_of.credential("sign-in") if instead_of is not None and expired else None
        self._create(opening, deadline, new=new, credential=None if signed_in is None else done(signed_in))
        engine = self._any_engine()
        if not self.dialect.began_with_join(engine.session):
            return
        left = deadline.remaining()
        within = deadline.sooner(GREETING if left is None else min(GREETING, left / 3))
        listener = Listener(engine, baseline=False, record=False, step=within.remaining(), left=within.remaining)
        listener.attach(within)
        with suppress(NetworkError), closing(listener.events()) as events:
            for event in events:
                if within.expired or (isinstance(event, Message) and event.is_reply):
                    return


# --- what an API can do ---


def need(dialect: Dialect, ability: Ability) -> None:
    """Raise Unsupported unless the API has this ability."""
    if ability not in dialect.abilities:
        raise unsupported(dialect, ability)


def require(dialect: Dialect, feature: T | None, ability: Ability) -> T:
    """Return a feature that only some APIs have. Raises Unsupported when it is None."""
    if feature is None:
        raise unsupported(dialect, ability)
    return feature


def unsupported(dialect: Dialect, ability: Ability) -> Unsupported:
    """Return the failure for an ability that the API lacks. It names the APIs that have it."""
    able = [name for name in NAMES if ability in dialect_class(name).abilities]
    return Unsupported(
        f"the {dialect.name} API has no `{ability.value}`; these have it: {', '.join(able) or 'none'}",
        api=dialect.name,
    )


def no_field(
    dialect: Dialect, field: str, of: Literal["fields", "send_fields"] = "fields", *, option: str | None = None
) -> UsageError:
    """Return the failure for an option that the API has no field for. It names the APIs that have one.

    `option` is its name without the dashes, by default that of the field.
    """
    able = [name for name in NAMES if field in getattr(dialect_class(name), of)]
    return UsageError(
        f"the {dialect.name} API has no field for --{option or field}; these have one: {', '.join(able) or 'none'}",
        code="usage.option",
        api=dialect.name,
    )


# --- how a session is opened ---


def create_missing(sessions: Sessions, deadline: Deadline) -> Session | None:
    """Create the session in use if none is stored, and return it; None if there is one.

    Commands that do so at the same time take turns: one creates the session, and the others use it.
    """
    name = sessions.name
    if sessions.state.get(sessions.scope, name) is not None:
        return None
    with creation_lock(sessions.state, sessions.scope, name, deadline):
        if sessions.state.get(sessions.scope, name) is not None:
            return None
        return sessions._create(NewSession(name=name), deadline)


def completed(dialect: Dialect, opening: NewSession) -> NewSession:
    """Return `opening` with the profile's values where it has none.

    Raises UsageError for a field that this API does not have.
    """
    profile, fields = dialect.profile, dialect.fields
    _check_fields(dialect, opening)
    language = opening.language or (profile.language if "language" in fields else None)
    defaults = dialect.default_attributes(replace(opening, language=language))
    return replace(
        opening,
        attributes={**defaults, **profile.attributes, **opening.attributes} if "attr" in fields else opening.attributes,
        queue=opening.queue or (profile.queue if "queue" in fields else None),
        skill=opening.skill or (profile.skill if "skill" in fields else None),
        language=language,
        email=opening.email or (profile.email if "email" in fields else None),
        guest_name=opening.guest_name or (profile.guest_name if "name" in fields else None),
    )


def _check_fields(dialect: Dialect, opening: NewSession) -> None:
    given = {
        "attr": opening.attributes,
        "queue": opening.queue,
        "skill": opening.skill,
        "language": opening.language,
        "email": opening.email,
        "name": opening.guest_name,
    }
    for field, value in given.items():
        if value and field not in dialect.fields:
            raise no_field(dialect, field)


def _dump(asked: NewSession) -> dict[str, Json] | None:
    """Return what the caller asked for when the session was opened; None: nothing."""
    given = {field: value for field, value in asdict(asked).items() if value and field != "name"}
    return given or None


def _opened_with(session: Session) -> NewSession:
    """Return what the session was opened with, for the session that takes its place."""
    given: Any = session.opening
    return NewSession(**{**(given if isinstance(given, dict) else {}), "name": session.name})


def _stored_secrets(state: State, scope: str, profile: Profile) -> Iterator[Secret]:
    stored = state.get_credential(oauth_scope(scope, profile), "oauth")
    if stored is not None:
        yield stored.secret
    for _, session in state.sessions(scope):
        for held in session.credentials.values():
            yield held.secret
            if held.refresh is not None:
                yield held.refresh


def last_shown(state: State, scope: str, session: Session) -> Position | None:
    """Return the position of the last message shown to any listener of a session."""
    entry = state.last_position(scope, session)
    return Position(entry.id, entry.sequence, entry.time) if entry else None


def creation_lock(state: State, scope: str, name: str, deadline: Deadline) -> AbstractContextManager[None]:
    """Return the lock under which sessions of one name are created, shared by all processes."""
    return state.lock("create", deadline, owner=f"{scope}/{name}")


def _insert_gap(
    missed: list[Message | Unknown | Gap],
    entries: Sequence[Message | Unknown],
    position: Position | None,
    *,
    newest_first: bool,
) -> None:
    """Insert the gap of a history that was too long to be read whole, at the end that was not read."""
    ids = [item.id for item in entries if item.id is not None]
    last = position.id if position is not None else None
    if newest_first:
        missed.insert(0, Gap(last, ids[0], TOO_LONG))
    else:
        missed.append(Gap(ids[-1], None, TOO_LONG))


def _rename_aside(state: State, scope: str, earlier: Session) -> str:
    taken = state.names(scope)
    number = next(n for n in range(1, 10_000) if f"{earlier.name}-{n}" not in taken)
    state.rename(scope, earlier.name, f"{earlier.name}-{number}")
    return f"{earlier.name}-{number}"


def _begin(
    sessions: Sessions, engine: SessionEngine, asked: NewSession, opening: NewSession, deadline: Deadline
) -> None:
    """Start the log of a confirmed new session, and join where the deployment expects that."""
    engine.record.store(replace(engine.session, new_session=True, opening=_dump(asked)))
    engine.record.log("session_started", api=sessions.dialect.name)
    deployment = sessions.deployment(deadline)
    if not deployment.active:
        sessions._notice("the deployment's configuration says it is inactive")
    if deployment.auto_start:
        engine.wait_to_send(deadline)
    configuration = sessions.dialect.deployment_configuration
    if configuration is not None:
        begun = configuration.auto_start(engine.session, deployment, opening)
        engine.record.store(engine.perform(begun, deadline))
