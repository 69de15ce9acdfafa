"""`session export` and `session attach`: hand a session over from one client to another.

Knows: the record that carries a session, and the variables that can carry it instead. No secret comes from the command
line. Must not know: how a session is attached.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from guestctl.cli.invocation import Invocation
from guestctl.cli.options import command, session_name
from guestctl.cli.parameters import CommandOption
from guestctl.core.clock import epoch_of
from guestctl.core.errors import SessionOver, UsageError
from guestctl.core.model import Credential, Secret
from guestctl.engine.connect import refuse_over
from guestctl.output.records import session_export_record, session_record

#: Variable -> the id that it holds.
_IDS = {
    "GUESTCTL_ATTACH_CONVERSATION": "conversation",
    "GUESTCTL_ATTACH_GUEST": "guest",
    "GUESTCTL_ATTACH_SESSION": "session",
}
_TOKEN = "GUESTCTL_ATTACH_TOKEN"
#: Bytes of stdin that are read at most. A record has a few hundred.
_LONGEST = 1 << 16
_EXPORT = "`guestctl session export --show-token | guestctl session attach`"


class _Given(NamedTuple):
    """A session as another client describes it. Times are in epoch seconds, None where it states none."""

    token: Secret
    ids: Mapping[str, str | None]
    token_expires_at: float | None = None
    expires_at: float | None = None
    sign_in: Credential | None = None


@command(
    "guestctl session export --show-token > session.json",
    "guestctl session export -s cart --show-token | guestctl session attach --as copy",
    connects=False,
)
def export(
    run: Invocation,
    show_token: Annotated[
        bool, CommandOption("--show-token", help="print the token too; treat the output as a secret")
    ] = False,
) -> None:
    """Print a session as one record, for `session attach` on another machine or for another program.

    Without --show-token the record has no token, so nobody can use the session with it.
    """
    session = run.client.session()
    refuse_over(session)
    if session.credential("guest") is None:
        raise SessionOver(
            f'the token of session "{session.name}" was not stored', code="session.no_token", api=session.api
        )
    profile, addresses = run.client.profile, run.client.dialect.addresses()
    run.out.one(
        session_export_record(session, deployment_id=profile.deployment_id, addresses=addresses, show_token=show_token)
    )
    if not show_token:
        run.out.notice("note: the record has no token; `session attach` needs --show-token")


@command(
    "guestctl session attach --as browser < session.json",
    "guestctl session export -s cart --show-token | guestctl session attach --as copy -o table",
)
def attach(
    run: Invocation,
    as_: Annotated[
        str | None, CommandOption("--as", metavar="NAME", help="name to store the session under (default: default)")
    ] = None,
) -> None:
    """Take over a session that a browser, a middleware or another guestctl created.

    Stdin has the record that `session export --show-token` prints, or any JSON object {"token", "ids": {"conversation",
    "guest", "session"}} with the ids that the API needs. Instead of stdin, GUESTCTL_ATTACH_TOKEN and
    GUESTCTL_ATTACH_GUEST (and so on) can describe the session. guestctl attaches to the session once before it stores
    it. A stored session of the same name is never replaced: the exit code is then 6.
    """
    if as_ is not None and run.options.session not in {None, as_}:
        raise UsageError("--as and --session name different sessions", hint="use one of them")
    name = run.session_name or "default" if as_ is None else session_name("--as", as_)
    given = _from_variables(run) or _from_stdin(run)
    session = run.client.attach(
        given.token,
        ids=given.ids,
        name=name,
        token_expires_at=given.token_expires_at,
        expires_at=given.expires_at,
        sign_in=given.sign_in,
    )
    run.out.one(session_record(session))


def _from_variables(run: Invocation) -> _Given | None:
    """Return the session that the variables describe, None if none of them is set."""
    environ = run.world.environ
    ids: dict[str, str | None] = {name: value for variable, name in _IDS.items() if (value := environ.get(variable))}
    token = environ.get(_TOKEN)
    if token is None:
        if ids:
            raise UsageError(f"{_TOKEN} is not set", hint="set it too, or unset the other GUESTCTL_ATTACH_* variables")
        return None
    run.redactor.add(token)
    return _Given(Secret(token), ids)


def _from_stdin(run: Invocation) -> _Given:
    """Return the session on stdin. Raises UsageError without quoting any of it: it may hold a token."""
    if run.out.terminal.stdin:
        raise UsageError("no session on stdin", hint=f"{_EXPORT}, or set {_TOKEN}")
    data = run.world.read_bytes(_LONGEST)
    try:
        record = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise UsageError("stdin: expected a JSON object", hint=f"{_EXPORT} (with -o json, if an output mode is set)")
    sign_in = _object(record, "sign_in")
    secrets = [record.get("token"), sign_in.get("token"), sign_in.get("refresh_token")]
    for secret in secrets:
        if isinstance(secret, str):
            run.redactor.add(secret)
    token = _text(record, "token")
    if token is None:
        raise UsageError('stdin: "token" is missing', hint=f'{_EXPORT}; of another client: {{"token": …, "ids": …}}')
    _check_origin(run, record)
    given = _object(record, "ids")
    ids = {name: _text(given, name, "ids.") for name in given}
    return _Given(
        Secret(token),
        ids,
        token_expires_at=_moment(record, "token_expires_at"),
        expires_at=_moment(record, "expires_at"),
        sign_in=_sign_in(sign_in),
    )


def _check_origin(run: Invocation, record: Mapping[str, Any]) -> None:
    """Raise UsageError if the record names another API, deployment or address than the profile has.

    A token is never sent to an address that it was not made for.
    """
    client = run.client
    expected = {
        "api": client.dialect.name,
        "deployment_id": client.profile.deployment_id,
        "addresses": list(client.dialect.addresses()),
    }
    for member, value in expected.items():
        found = record.get(member)
        if found is not None and found != value:
            raise UsageError(
                f'the session belongs to another service than profile "{client.profile.name}": {member} is '
                f"{json.dumps(found, ensure_ascii=False)} there and {json.dumps(value, ensure_ascii=False)} here",
                hint="use the profile that the session was made with (-p, --api), or remove this member if both are "
                "the same service",
            )


def _sign_in(record: Mapping[str, Any]) -> Credential | None:
    if not record:
        return None
    token, refresh = _text(record, "token", "sign_in."), _text(record, "refresh_token", "sign_in.")
    if token is None:
        raise UsageError('stdin: "sign_in.token" is missing', hint=_EXPORT)
    return Credential(
        "sign-in",
        Secret(token),
        _moment(record, "expires_at"),
        refresh=None if refresh is None else Secret(refresh),
    )


def _object(record: Mapping[str, Any], member: str) -> Mapping[str, Any]:
    value = record.get(member)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UsageError(f'stdin: "{member}" is not an object', hint=_EXPORT)
    return value


def _text(record: Mapping[str, Any], member: str, within: str = "") -> str | None:
    value = record.get(member)
    if value is not None and not isinstance(value, str):
        raise UsageError(f'stdin: "{within}{member}" is not a text', hint=_EXPORT)
    return value


def _moment(record: Mapping[str, Any], member: str) -> float | None:
    """Return a time of the record in epoch seconds."""
    value = _text(record, member)
    try:
        return None if value is None else epoch_of(value)
    except (ValueError, OverflowError):
        raise UsageError(f'stdin: "{member}" is not a time', hint="expected RFC 3339, or null") from None
