"""The service under test, and what its guests share.

Knows: how a script's `config` and the profile combine, and the one network and one in-memory state
of all guests of a run. Must not know: scenarios, reports. Guests share what belongs to the profile
(the deployment's configuration, an OAuth token, the request budget), but no guest data.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

from guestctl.checks.outcomes import Outcome
from guestctl.checks.script import Script
from guestctl.client import Client
from guestctl.config.profiles import Resolved
from guestctl.core.clock import Clock, Deadline
from guestctl.core.errors import Failure, UsageError
from guestctl.core.model import Credential, Profile, Secret
from guestctl.core.redact import Redactor
from guestctl.core.wire import Request
from guestctl.dialects import NAMES, dialect_class
from guestctl.storage.state import State

if TYPE_CHECKING:
    from guestctl.transport.http import Http
    from guestctl.transport.network import Network, Observer
    from guestctl.transport.span_tree import SpanTree

#: Seconds that a lookup of a conversation id may take, and seconds between two requests. The platform
#: knows a message only a moment after it was sent.
_LOOKUP_TIMEOUT = 5.0
_LOOKUP_INTERVAL = 0.5


#: Key of a script's `config` -> key of a profile.
CONFIG: Mapping[str, str] = {"deploymentId": "deployment_id", "region": "region", "origin": "origin", "api": "api"}


def profile_for(
    script: Script,
    resolve: Callable[[], Resolved],
    options: Mapping[str, str],
    environ: Mapping[str, str],
    *,
    trusted: bool = False,
) -> Profile:
    """Return the profile that a script runs with: option > environment > the script's `config` > profile.

    `resolve` returns the chosen profile. Without one, a `config` with a `deploymentId` is enough.
    `options` are the options by profile key. The built-in sandbox has one deployment at one address,
    which `config` cannot change. There `config` overrides GUESTCTL_API, because `sandbox exec` sets that
    variable for every command. A script that is not `trusted` may not name a host outside the vendor's domains.
    """
    stronger = _stronger(options, environ)

    def config() -> dict[str, str]:
        return {key: value for key, value in script.config.items() if CONFIG[key] not in stronger}

    try:
        profile = resolve().profile
    except UsageError as error:
        if error.code != "config.profile" or "deploymentId" not in script.config:
            raise
        if "region" in config() and not trusted:
            _refuse_untrusted_address(script)
        profile = Profile(name=script.path.stem)
        return replace(profile, **_configured(script, config()), **_given(stronger))
    if profile.sandbox:
        stronger = {**stronger, "deployment_id": "", "region": ""}
        if "api" not in options:
            stronger.pop("api", None)
    if "region" in config() and not trusted:
        _refuse_untrusted_address(script)
    profile = replace(profile, **_configured(script, config()))
    if "region" in config():
        # A region determines every address; those of the profile belong to another region.
        cleared: dict[str, Any] = dict.fromkeys({"base_url", "socket_url", "config_url"} - stronger.keys())
        profile = replace(profile, **cleared)
    return profile


def _refuse_untrusted_address(script: Script) -> None:
    """Refuse a region outside the vendor's domains, and one with a variable: the script may not be trusted."""
    from guestctl.config.profiles import elsewhere

    region = str(_configured(script, {"region": script.config["region"]})["region"])
    if host := elsewhere("region", region):
        problem = f"sends to {host}, which is not a domain of the vendor"
    elif "region" in script.expanded:
        problem = "takes an address from a variable"
    else:
        return
    raise UsageError(
        f"{script.path}:{script.lines.get('region', 1)}: config.region {problem}",
        code="config.untrusted",
        hint="read the script, then add --trust, or give the region yourself: guestctl check --region",
    )


def _stronger(options: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the profile values of the options and the environment, as text by key."""
    from guestctl.config.profile_keys import KEYS

    named = (key for key, rule in KEYS.items() if not rule.file_only)
    variables = {key: environ.get("GUESTCTL_" + key.replace(".", "_").upper()) for key in named}
    return {**{key: value for key, value in variables.items() if value}, **options}


def _configured(script: Script, config: Mapping[str, str]) -> dict[str, Any]:
    """Return a script's `config` as fields of a profile. Raises UsageError for an invalid value."""
    fields: dict[str, Any] = {}
    for key, text in config.items():
        where = f"{script.path}:{script.lines.get(key, 1)}: config.{key}"
        fields |= _field(CONFIG[key], text, where, "config.file", "`guestctl check --keys` lists every key of a script")
    return fields


def _given(values: Mapping[str, str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for key, text in values.items():
        fields |= _field(key, text, key, "config.key", "correct the option or the GUESTCTL_* variable")
    return fields


def _field(key: str, text: str, where: str, code: str, hint: str) -> dict[str, Any]:
    """Return a text as a field of a profile. Raises UsageError for an invalid value."""
    from guestctl.config.profile_keys import KEYS

    try:
        value = KEYS[key].read(text)
    except ValueError as error:
        raise UsageError(f'{where} "{text}": {error}', code=code, hint=hint) from error
    return {} if KEYS[key].field is None else {str(KEYS[key].field): value}


def model_profile(resolve: Callable[[], Resolved], environ: Mapping[str, str]) -> Profile:
    """Return a profile with the address, key and name of the model, for a command that needs no service."""
    try:
        return resolve().profile
    except UsageError as error:
        if error.code not in ("config.profile", "sandbox.absent"):
            raise
    given = {key: text for key, text in _stronger({}, environ).items() if key.startswith("ai.")}
    return replace(Profile(name="model"), **_given(given))


def check_abilities(script: Script, profile: Profile) -> None:
    """Refuse a step that this API has no operation or field for, before anything is sent. Raises UsageError."""
    dialect = dialect_class(profile.api)
    for scenario in script.scenarios:
        for ability, line in scenario.required_abilities():
            if ability not in dialect.abilities:
                able = [name for name in NAMES if ability in dialect_class(name).abilities]
                raise _not_supported(script, line, f"the {profile.api} API has no `{ability.value}`", able)
        where = scenario.first_message_attributes()
        if where is not None and "attr" not in dialect.send_fields:
            able = [name for name in NAMES if "attr" in dialect_class(name).send_fields]
            raise _not_supported(script, where, f"messages of the {profile.api} API have no attributes", able)
        if scenario.attributes and "attr" not in dialect.fields:
            able = [name for name in NAMES if "attr" in dialect_class(name).fields]
            raise _not_supported(script, scenario.line, f"sessions of the {profile.api} API have no attributes", able)


def _not_supported(script: Script, line: int, what: str, able: list[str]) -> UsageError:
    return UsageError(f"{script.path}:{line}: {what} (APIs that do: {', '.join(able) or 'none'})", code="usage.option")


class ServiceUnderTest:
    """Makes the guests of one profile. `network` and `state` are shared; nothing is written to disk."""

    def __init__(
        self,
        profile: Profile,
        *,
        clock: Clock,
        environ: Mapping[str, str],
        observer: Observer | None = None,
        traceparent: str | None = None,
        propagate_baggage: bool = False,
        trace_attribute: str | None = None,
        spans: Callable[[str], SpanTree | None] = lambda scenario: None,
        notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        from guestctl.transport.network import Network

        self.profile = profile
        self.clock = clock
        self._environ = environ
        self._observer = observer
        self._trace: dict[str, Any] = {
            "traceparent": traceparent,
            "propagate_baggage": propagate_baggage,
            "trace_attribute": trace_attribute,
        }
        self._spans = spans
        self._notice = notice
        self._network: Network = Network(ca=profile.ca, environ=environ, cleartext=profile.cleartext)
        self._state = State.open(None, clock)
        self._first = threading.Lock()
        self._configured = False
        self._numbers = count(1)
        self._notice_lock = threading.Lock()
        self._noticed: set[str] = set()
        self._oauth: Credential | None = None
        #: The failure that keeps every guest out; set after the first guest failed to connect.
        self.unusable: Failure | None = None
        self.reached = False

    def guest(self, timeout: float, scenario: str, also: Observer | None = None) -> Client:
        """Return the client of a new guest with a name of its own. Raises UsageError for an unusable profile.

        `also` is an observer of this guest alone.
        """
        with self._first:
            name = f"check-{next(self._numbers)}"
        client = Client(
            self.profile,
            session=name,
            state=self._state,
            timeout=timeout,
            notice=self._notice_once,
            observer=self._of(name, also),
            **self._trace,
            spans=self._spans(scenario),
            clock=self.clock,
            environ=self._environ,
            network=self._network,
        )
        with self._first:
            # The other guests read the deployment's configuration from the state.
            if not self._configured:
                self._configured = True
                client.deployment()
        return client

    def _of(self, guest: str, also: Observer | None) -> Observer | None:
        """Return the observer of one guest. It states the guest, because all share a trace."""
        observer = self._observer
        if observer is None:
            return also

        def observe(kind: str, data: Mapping[str, Any]) -> None:
            observer(kind, {"guest": guest, **data})
            if also is not None:
                also(kind, data)

        return observe

    def release(self, client: Client, outcome: Outcome | None) -> None:
        """Close a client and delete its session, so that memory does not grow with the number of guests.

        `outcome` is that of its scenario, for its span; None: it has not ended.
        """
        try:
            client.close()
            if client.spans is not None:
                verdict = "unfinished" if outcome is None else outcome.verdict
                failure = outcome.trouble.failure if outcome is not None and outcome.trouble is not None else None
                error = None if verdict == "passed" else verdict if failure is None else failure.code
                client.spans.end(error=error, attributes={"guestctl.verdict": verdict})
        finally:
            self._state.forget(client.scope, client.session_name)

    def redactor(self) -> Redactor:
        """Return a redactor that knows the profile's secrets."""
        redactor = Redactor()
        redactor.add_pair(self.profile.client_id, self.profile.client_secret)
        redactor.add(self.profile.ai_key)
        redactor.add_proxies(self._environ)
        return redactor

    def close(self) -> None:
        self._state.close()

    def _notice_once(self, text: str) -> None:
        """Pass on a notice once, because every guest of a deployment causes the same notices."""
        with self._notice_lock:
            if text not in self._noticed:
                self._noticed.add(text)
                self._notice(text)

    # --- the platform ---

    def conversation_of(self, message_id: str) -> str | None:
        """Return the id under which an administrator finds the conversation of a guest's message.

        The platform is asked with the profile's OAuth client (web-messaging.md §7.5). Return None if the
        id cannot be found.
        """
        if not (self.profile.client_id and self.profile.client_secret) or not message_id:
            return None
        from urllib.parse import quote

        from guestctl.transport.connector import USER_AGENT
        from guestctl.transport.http import Http

        http = Http(self._network, self.clock, observer=self._observer, user_agent=USER_AGENT)
        deadline = Deadline.after(self.clock, _LOOKUP_TIMEOUT)
        dialect = dialect_class(self.profile.api)(self.profile, new_id=str)
        url = dialect.rest(f"/api/v2/conversations/messages/{quote(message_id, safe='')}/details")
        try:
            headers = {"Authorization": f"Bearer {self._token(http, deadline).reveal()}"}
            request = Request("GET", url, "history", idempotent=True)
            while True:
                reply = http.perform(request, headers=headers, deadline=deadline)
                if reply.status != 404 or self.profile.sandbox or deadline.expired:
                    break
                self.clock.sleep(deadline.bound(_LOOKUP_INTERVAL))
            found = reply.object().get("conversationId") if reply.ok else None
        except Failure as failure:
            if not self.profile.sandbox:  # a sandbox has no administrators
                self._notice_once(f"cannot look up the conversation id: {failure.message}")
            return None
        finally:
            http.close()
        return found if isinstance(found, str) and found else None

    def _token(self, http: Http, deadline: Deadline) -> Secret:
        """Return an access token of the profile's OAuth client. Raises a Failure if the platform refuses."""
        import base64

        from guestctl.dialects.tokens import expiry

        profile = self.profile
        with self._first:
            if self._oauth is not None and self._oauth.fresh_at(self.clock.now(), 30.0):
                return self._oauth.secret
            assert profile.client_id is not None
            assert profile.client_secret is not None
            pair = base64.b64encode(f"{profile.client_id}:{profile.client_secret.reveal()}".encode()).decode()
            base = profile.base_url.rstrip("/") if profile.base_url else f"https://login.{profile.region}"
            request = Request(
                "POST", f"{base}/oauth/token", "oauth", form={"grant_type": "client_credentials"}, idempotent=True
            )
            reply = http.perform(request, headers={"Authorization": f"Basic {pair}"}, deadline=deadline)
            body = reply.object() if reply.ok else {}
            token = body.get("access_token")
            if not isinstance(token, str):
                from guestctl.core.errors import Unauthorised

                raise Unauthorised(f"the platform refused the OAuth client (HTTP {reply.status})", code="auth.oauth")
            secret = Secret(token)
            expires = body.get("expires_in")
            life = {"expiresIn": expires} if isinstance(expires, (int, float)) else {}
            self._oauth = Credential("oauth", secret, expiry(life, secret, reply))
            return secret
