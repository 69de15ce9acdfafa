"""What proves who a signed-in guest is, read from words, stdin and environment.

Knows: which of it may stand on a command line: a code, which is good once and for a minute. Must not
know: what is done with it.
"""

from __future__ import annotations

from typing import Annotated

import typer

from guestctl.cli.invocation import Invocation
from guestctl.core.errors import UsageError
from guestctl.core.model import Secret, SignIn

AuthCode = Annotated[
    str | None, typer.Option("--auth-code", metavar="CODE|-", help="authorization code; - reads stdin")
]
RedirectUri = Annotated[
    str | None, typer.Option("--redirect-uri", metavar="URI", help="the redirect URI the code was issued for")
]
CodeVerifier = Annotated[
    str | None, typer.Option("--code-verifier", metavar="-", help="PKCE verifier from stdin [GUESTCTL_CODE_VERIFIER]")
]
IdToken = Annotated[
    str | None, typer.Option("--id-token", metavar="-", help="id token (implicit flow) from stdin [GUESTCTL_ID_TOKEN]")
]
Nonce = Annotated[str | None, typer.Option("--nonce", metavar="TEXT", help="the nonce of the id token")]

_VARIABLES = {"--code-verifier": "GUESTCTL_CODE_VERIFIER", "--id-token": "GUESTCTL_ID_TOKEN"}


def proof(
    run: Invocation,
    *,
    code: str | None,
    redirect_uri: str | None,
    verifier: str | None,
    id_token: str | None,
    nonce: str | None,
) -> SignIn | None:
    """The proof given, None when there is none. Raises UsageError for one that is not whole, or that should
    not stand on a command line."""
    for option, value in (("--code-verifier", verifier), ("--id-token", id_token)):
        if value not in {None, "-"}:
            raise UsageError(
                f"{option}: a secret is never taken from the command line",
                hint=f"Give {option} - and pipe it in, or set {_VARIABLES[option]}.",
            )
    if [code, verifier, id_token].count("-") > 1:
        raise UsageError("stdin holds one secret", hint="Give the others in their GUESTCTL_* variables.")
    environ = run.world.environ
    given_verifier = _read(run, verifier) or environ.get("GUESTCTL_CODE_VERIFIER") or None
    given_token = _read(run, id_token)
    if given_token is None and code is None:
        given_token = environ.get("GUESTCTL_ID_TOKEN") or None
    given_code = _read(run, code) if code == "-" else code
    if given_code is None and given_token is None:
        if redirect_uri or verifier or nonce:
            raise UsageError("--redirect-uri, --code-verifier and --nonce go with --auth-code or --id-token")
        return None
    if given_code is not None and given_token is not None:
        raise UsageError("--auth-code and --id-token are two ways to sign in: give one of them")
    for secret in (given_code, given_verifier, given_token):
        run.redactor.add(secret)
    if given_token is not None:
        if redirect_uri or verifier:
            raise UsageError("--redirect-uri and --code-verifier go with --auth-code")
        return SignIn(id_token=Secret(given_token), nonce=nonce)
    if not redirect_uri:
        raise UsageError("--auth-code needs --redirect-uri: the one the code was issued for")
    assert given_code is not None
    hidden = Secret(given_verifier) if given_verifier else None
    return SignIn(code=Secret(given_code), redirect_uri=redirect_uri, code_verifier=hidden, nonce=nonce)


def _read(run: Invocation, given: str | None) -> str | None:
    """One secret from stdin, where `-` says so. Raises UsageError when nothing comes."""
    if given != "-":
        return None
    text = run.world.read().strip()
    if not text:
        raise UsageError("stdin is empty: no secret came")
    return text
