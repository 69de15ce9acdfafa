"""`session …`: stored guest sessions.

Knows: names and confirmations. Must not know: how a session is opened or ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from guestctl.cli.commands.dry_run import PrintCurl, PrintFrames, printed
from guestctl.cli.commands.proof import AuthCode, CodeVerifier, IdToken, Nonce, RedirectUri, proof
from guestctl.cli.invocation import Invocation
from guestctl.cli.options import Completes, command, pairs, session_name
from guestctl.core.clock import rfc3339
from guestctl.core.errors import UsageError
from guestctl.core.model import NewSession, Session
from guestctl.dialects.capabilities import Ability
from guestctl.output.records import report_record, session_record, unreadable_record

if TYPE_CHECKING:
    from guestctl.engine.preview import Plan

Name = Annotated[str, typer.Argument(metavar="NAME", help="a stored session"), Completes("session")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="do not ask")]


@command("guestctl session create --as cart --attr plan=gold", "guestctl session create --new")
def create(
    run: Invocation,
    as_: Annotated[str | None, typer.Option("--as", metavar="NAME", help="store it under this name (default)")] = None,
    attr: Annotated[list[str] | None, typer.Option("--attr", metavar="K=V", help="custom attribute")] = None,
    queue: Annotated[str | None, typer.Option("--queue", metavar="ID", help="queue to route to")] = None,
    skill: Annotated[str | None, typer.Option("--skill", metavar="ID", help="skill to route by")] = None,
    language: Annotated[str | None, typer.Option("--language", metavar="L", help="the guest's language")] = None,
    email: Annotated[str | None, typer.Option("--email", metavar="E", help="the guest's e-mail address")] = None,
    guest_name: Annotated[str | None, typer.Option("--name", metavar="N", help="the guest's own name")] = None,
    new: Annotated[bool, typer.Option("--new", help="replace a stored session of that name")] = False,
    auth_code: AuthCode = None,
    redirect_uri: RedirectUri = None,
    code_verifier: CodeVerifier = None,
    id_token: IdToken = None,
    nonce: Nonce = None,
    print_frames: PrintFrames = False,
    print_curl: PrintCurl = False,
) -> None:
    """Open a guest session through the profile's API and store it.

    Later commands use the session created or chosen last. An option the API has no field for exits 2
    before anything is sent. With --auth-code or --id-token the guest signs in first (sign-in APIs only).
    """
    if as_ is not None and run.options.session not in {None, as_}:
        raise UsageError("--as and --session name two different sessions: give one of them")
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
    sign_in = proof(
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
    """Sign in the guest of a session that began without (step-up).

    The code, or the id token, is what the identity provider gave. Other devices on the session lose their
    place (`listen` there exits 10), and it cannot become anonymous again.
    """
    given = proof(
        run, code=auth_code, redirect_uri=redirect_uri, verifier=code_verifier, id_token=id_token, nonce=nonce
    )
    if given is None:
        raise UsageError("nothing proves who the guest is: give --auth-code or --id-token")
    run.out.one(session_record(run.client.sign_in(given)))


@command("guestctl session sign-out", "guestctl session sign-out -s cart")
def sign_out(run: Invocation) -> None:
    """Sign the guest out: the session is over with it, here and on every other device."""
    run.out.one(session_record(run.client.sign_out()))


@command("guestctl session list", "guestctl -p staging session list -o json", needs="profile")
def list_(run: Invocation) -> None:
    """List the sessions stored for this profile, API and deployment."""
    current = run.client.session_name
    with run.out.listing() as add:
        for session in run.client.sessions():
            record = session_record(session)
            # For people only: machines ask `session show` for the current one.
            add({**record, "current": session.name == current} if run.out.human else record)


@command("guestctl session show", "guestctl session show -s cart --show-token -o json")
def show(
    run: Invocation,
    show_token: Annotated[
        bool, typer.Option("--show-token", help="the token itself, too: keep it to yourself")
    ] = False,
) -> None:
    """Show one session in full, with the time left."""
    session = run.client.session()
    run.out.one(session_record(session, show_token=show_token), more=_details(session, run.clock.now()))


@command("guestctl session use cart", "guestctl session use default -q", needs="profile")
def use(run: Invocation, name: Name) -> None:
    """Make a stored session the one that commands use."""
    run.out.one(session_record(run.client.use(name)))


@command("guestctl session report", "guestctl session report -s cart -o json | jq .duration_ms")
def report(run: Invocation) -> None:
    """Tell how long the session has lasted and what happened in it."""
    run.out.one(report_record(run.client.report()))


@command("guestctl session end", "guestctl session end -s cart --yes")
def end(run: Invocation, yes: Yes = False) -> None:
    """End the conversation as the guest.

    Where the API's only guest-side end clears the conversation, its transcript goes too; that is
    asked first, or confirmed with --yes off a terminal.
    """
    session = run.client.session()
    # An API with both has one frame for them.
    if {Ability.END, Ability.CLEAR} <= set(run.client.dialect.abilities):
        run.confirmed(f"Ending {session.name!r} clears the conversation, transcript included. Go on?", yes)
    run.out.one(session_record(run.client.end()))


@command("guestctl session clear", "guestctl session clear --yes")
def clear(run: Invocation, yes: Yes = False) -> None:
    """Clear the conversation; its transcript is gone."""
    session = run.client.session()
    if Ability.CLEAR in run.client.dialect.abilities:
        run.confirmed(f"Clearing {session.name!r} removes the transcript for good. Go on?", yes)
    run.out.one(session_record(run.client.clear()))


@command("guestctl session forget cart", "guestctl session forget default", needs="profile")
def forget(run: Invocation, name: Name) -> None:
    """Delete the local record of a session; the service is not told."""
    session = run.client.forget(name)
    profile = run.client.profile
    run.out.one(session_record(session) if session is not None else unreadable_record(name, profile.api, profile.name))


def _details(session: Session, now: float) -> dict[str, Any]:
    """What people want to know besides the record: what the session accepts, which secrets it holds."""
    from guestctl.output.views import when

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
