"""The proof that a guest signs in with: an authorization code or an id token.

Knows: where each part is read from. A code may be an argument, because it is valid once and for a minute; the
other secrets come from stdin or the environment. Must not know: how the guest is signed in.
"""

from __future__ import annotations

from typing import Annotated

from guestctl.cli.invocation import Invocation
from guestctl.cli.parameters import CommandOption
from guestctl.core.errors import UsageError
from guestctl.core.model import Secret, SignIn

AuthCode = Annotated[
    str | None, CommandOption("--auth-code", metavar="CODE|-", help="authorization code; - reads it from stdin")
]
RedirectUri = Annotated[
    str | None, CommandOption("--redirect-uri", metavar="URI", help="redirect URI that the code was issued for")
]
CodeVerifier = Annotated[
    str | None,
    CommandOption("--code-verifier", metavar="-", help="PKCE verifier, read from stdin [GUESTCTL_CODE_VERIFIER]"),
]
IdToken = Annotated[
    str | None,
    CommandOption("--id-token", metavar="-", help="id token of the implicit flow, read from stdin [GUESTCTL_ID_TOKEN]"),
]
Nonce = Annotated[str | None, CommandOption("--nonce", metavar="TEXT", help="nonce of the id token")]

_VARIABLES = {"--code-verifier": "GUESTCTL_CODE_VERIFIER", "--id-token": "GUESTCTL_ID_TOKEN"}


def read_proof(
    run: Invocation,
    *,
    code: str | None,
    redirect_uri: str | None,
    verifier: str | None,
    id_token: str | None,
    nonce: str | None,
) -> SignIn | None:
    """Return the proof that the options give, None without one.

    Raises UsageError if the proof is incomplete, or if a secret is an argument.
    """
    for option, value in (("--code-verifier", verifier), ("--id-token", id_token)):
        if value not in {None, "-"}:
            raise UsageError(
                f"{option}: a secret cannot be an argument, where other users could read it",
                hint=f"pipe the secret to {option} -, or set {_VARIABLES[option]}",
            )
    if [code, verifier, id_token].count("-") > 1:
        raise UsageError("stdin can hold only one secret", hint="set the GUESTCTL_* variables of the others")
    environ = run.world.environ
    given_verifier = _read(run, verifier) or environ.get("GUESTCTL_CODE_VERIFIER") or None
    given_token = _read(run, id_token)
    if given_token is None and code is None:
        given_token = environ.get("GUESTCTL_ID_TOKEN") or None
    given_code = _read(run, code) if code == "-" else code
    if given_code is None and given_token is None:
        if redirect_uri or verifier or nonce:
            raise UsageError("--redirect-uri, --code-verifier and --nonce need --auth-code or --id-token")
        return None
    if given_code is not None and given_token is not None:
        raise UsageError("--auth-code and --id-token are two ways to sign in", hint="use one of them")
    for secret in (given_code, given_verifier, given_token):
        run.redactor.add(secret)
    if given_token is not None:
        if redirect_uri or verifier:
            raise UsageError("--redirect-uri and --code-verifier need --auth-code")
        return SignIn(id_token=Secret(given_token), nonce=nonce)
    if not redirect_uri:
        raise UsageError("--auth-code needs --redirect-uri", hint="add the redirect URI that the code was issued for")
    assert given_code is not None
    hidden = Secret(given_verifier) if given_verifier else None
    return SignIn(code=Secret(given_code), redirect_uri=redirect_uri, code_verifier=hidden, nonce=nonce)


def _read(run: Invocation, given: str | None) -> str | None:
    """Return the secret on stdin if the option is `-`. Raises UsageError if stdin is empty."""
    if given != "-":
        return None
    text = run.world.read().strip()
    if not text:
        raise UsageError("stdin is empty", hint="pipe the secret in")
    return text
