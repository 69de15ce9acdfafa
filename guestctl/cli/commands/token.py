"""`refresh-token` and `token inspect`.

Knows: where a token is read from, which is never the command line. Must not know: how a token is renewed.
"""

from __future__ import annotations

from typing import Annotated

from guestctl.cli.commands.dry_run import PrintCurl, PrintFrames, printed
from guestctl.cli.invocation import Invocation
from guestctl.cli.options import command, duration
from guestctl.cli.parameters import CommandArgument, CommandOption
from guestctl.core.errors import Failure, Unauthorised, UsageError
from guestctl.core.model import Secret
from guestctl.output.records import session_record


@command("guestctl refresh-token", "guestctl refresh-token --if-expiring 60 -q")
def refresh(
    run: Invocation,
    if_expiring: Annotated[
        str | None, CommandOption("--if-expiring", metavar="TIME", help="renew only if less than TIME is left")
    ] = None,
    print_frames: PrintFrames = False,
    print_curl: PrintCurl = False,
) -> None:
    """Renew the session's token and store it.

    If several processes do this at once, one renews the token and the others wait for it and use the same one.
    """
    margin = None if if_expiring is None else duration("--if-expiring", if_expiring)
    if printed(run, print_frames, print_curl, lambda plan: plan.refresh()):
        return
    run.out.one(session_record(run.client.refresh_token(if_expiring=margin)))


@command("guestctl token inspect", "pbpaste | guestctl token inspect - -o json | jq .seconds_left", connects=False)
def inspect(
    run: Invocation,
    source: Annotated[
        str | None, CommandArgument(metavar="[-]", help="- reads the token from stdin (default: the session's token)")
    ] = None,
) -> None:
    """Show the kind, the claims and the remaining seconds of a token.

    The signature is not verified, and the token itself is not printed. The exit code is 4 if the token has expired
    or lacks a claim that its API needs.
    """
    from guestctl.core import jwt_claims

    if source not in {None, "-"}:
        raise UsageError(
            "a token cannot be an argument, where other users could read it",
            hint="`… | guestctl token inspect -`",
        )
    expiry: float | None = None
    if source == "-":
        token = Secret(run.world.read().strip())
    else:
        held = run.client.session().credential("guest")
        if held is None:
            raise Unauthorised("the session has no token", api=run.client.dialect.name)
        token, expiry = held.secret, held.expires_at
    run.redactor.add(token)
    found = jwt_claims.inspect(token, run.clock.now(), required=_required(run), known_expiry=expiry)
    run.out.one(found.record(run.clock.now()))
    run.out.notice("note: the signature was not verified")
    if found.problems:
        raise Unauthorised(f"token not usable: {', '.join(found.problems)}", code="auth.refused")


def _required(run: Invocation) -> tuple[str, ...]:
    """Return the claims that the API's tokens must have. A token from stdin needs no profile."""
    from guestctl.dialects import dialect_class

    try:
        api = run.resolved.profile.api
    except Failure:
        if run.options.profile or run.options.overrides:
            raise
        return ()
    return dialect_class(api).token_claims
