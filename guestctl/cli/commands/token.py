"""`refresh-token` and `token inspect`.

Knows: where a token is read from; never from argv. Must not know: how one is renewed.
"""

from __future__ import annotations

from typing import Annotated

import typer

from guestctl.cli.commands.dry_run import PrintCurl, PrintFrames, printed
from guestctl.cli.invocation import Invocation
from guestctl.cli.options import command, duration
from guestctl.core.errors import Failure, Unauthorised, UsageError
from guestctl.core.model import Secret
from guestctl.output.records import session_record


@command("guestctl refresh-token", "guestctl refresh-token --if-expiring 60 -q")
def refresh(
    run: Invocation,
    if_expiring: Annotated[
        str | None, typer.Option("--if-expiring", metavar="TIME", help="only when it has less than this left")
    ] = None,
    print_frames: PrintFrames = False,
    print_curl: PrintCurl = False,
) -> None:
    """Get a new credential for the session and store it.

    One process refreshes; others that ask at the same time wait for it and use the same.
    """
    margin = None if if_expiring is None else duration("--if-expiring", if_expiring)
    if printed(run, print_frames, print_curl, lambda plan: plan.refresh()):
        return
    run.out.one(session_record(run.client.refresh_token(if_expiring=margin)))


@command("guestctl token inspect", "pbpaste | guestctl token inspect - -o json | jq .seconds_left")
def inspect(
    run: Invocation,
    source: Annotated[str | None, typer.Argument(metavar="[-]", help="- reads a token from stdin")] = None,
) -> None:
    """Show what the session's token says of itself: kind, claims, seconds left.

    Nothing is verified, and the token itself is never printed. Exits 4 when it has expired or a claim
    its API needs is missing.
    """
    from guestctl.core import jwt_claims

    if source not in {None, "-"}:
        raise UsageError("a token is never taken from the command line", hint="Give - and pipe it in.")
    expiry: float | None = None
    if source == "-":
        token = Secret(run.world.read().strip())
    else:
        held = run.client.session().credential("guest")
        if held is None:
            raise Unauthorised("the session holds no token", api=run.client.dialect.name)
        token, expiry = held.secret, held.expires_at
    run.redactor.add(token)
    found = jwt_claims.inspect(token, run.clock.now(), required=_required(run), known_expiry=expiry)
    run.out.one(found.record(run.clock.now()))
    run.out.say("the signature was not verified")
    if found.problems:
        raise Unauthorised(f"this token: {', '.join(found.problems)}", code="auth.refused")


def _required(run: Invocation) -> tuple[str, ...]:
    """Claims the API's tokens must have. A token from stdin can be read without any profile."""
    from guestctl.dialects import dialect_class

    try:
        api = run.resolved.profile.api
    except Failure:
        if run.options.profile or run.options.overrides:
            raise
        return ()
    return dialect_class(api).token_claims
