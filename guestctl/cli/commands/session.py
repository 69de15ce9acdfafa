"""`session …`: the stored guest sessions.

Knows: session names and confirmations. Must not know: how a session is created or ended.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from guestctl.cli.commands.dry_run import PrintCurl, PrintFrames, printed
from guestctl.cli.commands.sign_in_proof import AuthCode, CodeVerifier, IdToken, Nonce, RedirectUri, read_proof
from guestctl.cli.invocation import Invocation
from guestctl.cli.options import command, pairs, session_name
from guestctl.cli.parameters import CommandArgument, CommandOption
from guestctl.core.clock import rfc3339
from guestctl.core.errors import UsageError
from guestctl.core.jwt_claims import expiry_of
from guestctl.core.model import NewSession, Session
from guestctl.dialects.capabilities import Ability
from guestctl.output.records import ended_record, report_record, session_record, unreadable_record

if TYPE_CHECKING:
    from guestctl.engine.preview import Plan

Name = Annotated[str, CommandArgument(metavar="NAME", help="name of a stored session", completes="session")]
Yes = Annotated[bool, CommandOption("--yes", "-y", help="skip the confirmation")]


@command("guestctl session create --as cart --attr plan=gold", "guestctl session create --new")
def create(
    run: Invocation,
    as_: Annotated[
        str | None, CommandOption("--as", metavar="NAME", help="name to store the session under (default: default)")
    ] = None,
    attr: Annotated[
        list[str] | None, CommandOption("--attr", metavar="K=V", help="custom attribute of the session")
    ] = None,
    queue: Annotated[
        str | None, CommandOption("--queue", metavar="ID", help="queue to route the conversation to")
    ] = None,
    skill: Annotated[
        str | None, CommandOption("--skill", metavar="ID", help="skill to route the conversation by")
    ] = None,
    language: Annotated[str | None, CommandOption("--language", metavar="L", help="language of the guest")] = None,
    email: Annotated[str | None, CommandOption("--email", metavar="E", help="e-mail address of the guest")] = None,
    guest_name: Annotated[str | None, CommandOption("--name", metavar="N", help="name of the guest")] = None,
    new: Annotated[bool, CommandOption("--new", help="replace a stored session of the same name")] = False,
    auth_code: AuthCode = None,
    redirect_uri: RedirectUri = None,
    code_verifier: CodeVerifier = None,
    id_token: IdToken = None,
    nonce: Nonce = None,
    print_frames: PrintFrames = False,
    print_curl: PrintCurl = False,
) -> None:
    """Create a guest session and store it.

    Later commands use this session until another is created or chosen. An option for which the API has no field
    fails with exit code 2 before anything is sent. With --auth-code or --id-token the guest signs in first, where
    the API has sign-in.
    """
    if as_ is not None and run.options.session not in {None, as_}:
        raise UsageError("--as and --session name different sessions", hint="use one of them")
    name = run.session_name or "default" if as_ is None else session_name("--as", as_)
    opening = NewSession(
        name=name,
        attributes=pairs("--attr", attr),
        queue=queue,
        skill=skill,
        language=language,
        email=email,
        guest_name=guest_name,
    )
    sign_in = read_proof(
        run, code=auth_code, redirect_uri=redirect_uri, verifier=code_verifier, id_token=id_token, nonce=nonce
    )

    def plan(planned: Plan) -> None:
        planned.create(run.client.completed(opening), new=new, sign_in=sign_in)

    if printed(run, print_frames, print_curl, plan, session=name):
        return
    run.out.one(session_record(run.client.create(opening, new=new, sign_in=sign_in)))


@command(
    "guestctl session sign-in --auth-code CODE --redirect-uri https://shop.example/cb",
    "pass show id-token | guestctl session sign-in --id-token -",
)
def sign_in(
    run: Invocation,
    auth_code: AuthCode = None,
    redirect_uri: RedirectUri = None,
    code_verifier: CodeVerifier = None,
    id_token: IdToken = None,
    nonce: Nonce = None,
) -> None:
    """Sign in the guest of an anonymous session (step-up).

    The authorization code or the id token comes from the identity provider. Other devices on the session are
    disconnected, and `listen` there exits 10. The session cannot become anonymous again.
    """
    given = read_proof(
        run, code=auth_code, redirect_uri=redirect_uri, verifier=code_verifier, id_token=id_token, nonce=nonce
    )
    if given is None:
        raise UsageError(
            "--auth-code or --id-token is missing",
            hint="`guestctl session sign-in --auth-code CODE --redirect-uri URI`",
        )
    run.out.one(session_record(run.client.sign_in(given)))


@command("guestctl session sign-out", "guestctl session sign-out -s cart")
def sign_out(run: Invocation) -> None:
    """Sign the guest out and end the session on every device."""
    run.out.one(session_record(run.client.sign_out()))


@command("guestctl session list", "guestctl -p staging session list -o json", needs="profile", connects=False)
def list_(run: Invocation) -> None:
    """List the sessions stored for this profile, API and deployment."""
    current = run.client.session_name
    sessions = list(run.client.sessions())
    if not sessions and run.out.human:
        run.out.notice(f'no session is stored for profile "{run.client.profile.name}"')
    with run.out.listing(kind="session") as add:
        for session in sessions:
            record = session_record(as_of_now(run, session))
            # Only in the table: `session show` prints the current session for scripts.
            add({**record, "current": session.name == current} if run.out.human else record)


@command("guestctl session show", "guestctl session show -s cart --show-token -o json", connects=False)
def show(
    run: Invocation,
    show_token: Annotated[
        bool, CommandOption("--show-token", help="print the token too; treat the output as a secret")
    ] = False,
) -> None:
    """Show one session with all its details and its remaining time."""
    session = as_of_now(run, run.client.session())
    run.out.one(session_record(session, show_token=show_token), more=_details(session, run.clock.now()))


def as_of_now(run: Invocation, session: Session) -> Session:
    """Return the session as expired when its token is of no use, whatever was stored.

    The token has expired and cannot be renewed, or the service refused it the last time.
    """
    if session.state not in {"active", "read_only"}:
        return session
    now, held = run.clock.now(), session.credential("guest")
    ends = [session.expires_at, expiry_of(held, now) if held else None]
    refused = held is not None and held.secret.placeholder == session.refused_token
    renewable = run.client.dialect.refreshable(session) == "guest"
    past = not renewable and any(end and end <= now for end in ends)
    return replace(session, state="expired") if refused or past else session


@command("guestctl session use cart", "guestctl session use default -q", needs="profile", connects=False)
def use(run: Invocation, name: Name) -> None:
    """Choose the stored session that later commands use."""
    run.out.one(session_record(run.client.use(name)))


@command("guestctl session report", "guestctl session report -s cart -o json | jq .duration_ms", connects=False)
def report(run: Invocation) -> None:
    """Show the duration of the session and a log of its activity."""
    run.out.one(report_record(run.client.report()))


@command("guestctl session end", "guestctl session end -s cart --yes")
def end(run: Invocation, yes: Yes = False) -> None:
    """End the conversation as the guest, and print the session's report on stderr.

    On an API where a guest can only end a conversation by clearing it, the transcript is deleted too. guestctl
    then asks for confirmation first; without a terminal, --yes is required.
    """
    session = run.client.session()
    # An API with both operations has one frame for the two.
    if {Ability.END, Ability.CLEAR} <= set(run.client.dialect.abilities):
        run.confirmed(f'Ending session "{session.name}" also deletes the transcript. Continue?', yes)
    _print_ended(run, run.client.end())


@command("guestctl session clear", "guestctl session clear --yes")
def clear(run: Invocation, yes: Yes = False) -> None:
    """Clear the conversation, delete its transcript, and print the session's report on stderr.

    guestctl asks for confirmation first; without a terminal, --yes is required.
    """
    session = run.client.session()
    if Ability.CLEAR in run.client.dialect.abilities:
        run.confirmed(f'Clearing session "{session.name}" deletes the transcript permanently. Continue?', yes)
    _print_ended(run, run.client.clear())


def _print_ended(run: Invocation, session: Session) -> None:
    """Print a session that has ended, with its report: on stderr for people, and as a member of the record."""
    report = report_record(run.client.report())
    run.out.one(session_record(session) if run.out.human else ended_record(session, report))
    run.out.card_notice(report)


@command("guestctl session forget cart", "guestctl session forget default", needs="profile", connects=False)
def forget(run: Invocation, name: Name) -> None:
    """Delete the stored session. The service is not contacted."""
    session = run.client.forget(name)
    profile = run.client.profile
    run.out.one(session_record(session) if session is not None else unreadable_record(name, profile.api, profile.name))


def _details(session: Session, now: float) -> dict[str, Any]:
    """Return the details for the table: the session's limits and its credentials."""
    from guestctl.output.times import when

    limits = session.limits
    return {
        "attribute_bytes": limits.attribute_bytes,
        "text_length": limits.text_length,
        "file_kilobytes": limits.file_kilobytes,
        "file_types": ", ".join(limits.file_types),
        "blocked_extensions": ", ".join(limits.blocked_extensions),
        "credentials": ", ".join(
            f"{kind} {'until' if held.expires_at > now else 'expired'} {when(rfc3339(held.expires_at))}"
            if held.expires_at
            else kind
            for kind, held in session.credentials.items()
        ),
    }
