"""Who may use the inspector: the token of the printed address, the cookie, the page's own origin, and its policy.

Knows: tokens, cookies, Host and Origin headers, response headers. Must not know: the feed, what a page may control.

The token is in the fragment of the printed address, which browsers do not send. The page posts it once, and gets a
cookie. Cookies are the same for all ports of a host, so the name of the cookie contains the instance's id: two
inspectors do not replace each other's. A page on another port of this machine is of the same site, for which the
browser sends the cookie; so the feed and every request that changes something also need the inspector's own Origin.

Logins need no rate limit: guessing 192 random bits is hopeless at any rate, and a wrong token costs one comparison.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Callable

from guestctl.transport.hosts import address_of
from guestctl.transport.web_routes import JSON, WebRefusal, WebReply, WebRequest, error_body

PATH = "/_inspector"
_TOKEN_BYTES = 24
_LONGEST = 200

#: Nothing but the page's own files and connections. Styles come from scripts (`adoptedStyleSheets`).
_POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self' {sockets}; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


class PageAccess:
    """The token and the cookie of one inspector. `secure` says whether it is served over TLS."""

    def __init__(self, *, secure: bool, port: Callable[[], int]) -> None:
        self.instance = secrets.token_hex(8)
        self.token = secrets.token_urlsafe(_TOKEN_BYTES)
        self._secure = secure
        self._port = port
        self._cookie = f"guestctl-inspector-{self.instance}"
        self._value = secrets.token_urlsafe(_TOKEN_BYTES)

    @property
    def scheme(self) -> str:
        return "https" if self._secure else "http"

    def address(self, base_url: str) -> str:
        """Return the address for the user, with the token."""
        return f"{base_url}{PATH}/#{self.token}"

    def is_own_host(self, host: str) -> bool:
        """Return whether a Host header is a loopback name with this port. Any other may be a DNS rebinding attack."""
        usual = 443 if self._secure else 80
        name, port = host, str(usual)
        if not host.endswith("]") and ":" in host:
            name, _, port = host.rpartition(":")
        address = address_of(name.strip("[]"))
        loopback = name.lower() == "localhost" or (address is not None and address.is_loopback)
        return loopback and port == str(self._port())

    def headers(self, request: WebRequest) -> dict[str, str]:
        """Return the headers of every answer to the page."""
        host = request.headers.get("Host", "")
        sockets = f"{'wss' if self._secure else 'ws'}://{host}"
        return {
            "Content-Security-Policy": _POLICY.format(sockets=sockets),
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
        }

    def log_in(self, request: WebRequest) -> WebReply:
        """Return the answer to the token: the cookie. Raises WebRefusal for a wrong one."""
        body = json_body(request)
        token = body.get("token")
        if not (isinstance(token, str) and _same(token, self.token)):
            raise refusal(403, "the token is not the one of this inspector; use the address that it printed")
        secure = "; Secure" if self._secure else ""
        cookie = f"{self._cookie}={self._value}; Path={PATH}; HttpOnly; SameSite=Strict{secure}"
        return WebReply(204, headers={**self.headers(request), "Set-Cookie": cookie})

    def check_own_page(self, request: WebRequest) -> None:
        """Raise WebRefusal for a request that does not come from the inspector's own page."""
        host = request.headers.get("Host", "")
        if request.origin is None or request.origin.lower() != f"{self.scheme}://{host}".lower():
            raise refusal(403, "only the inspector's own page may do this")

    def check_cookie(self, request: WebRequest) -> None:
        """Raise WebRefusal for a request without the cookie of a login."""
        # `http.cookies` gives up at a cookie of another program that it cannot read.
        pairs = (pair.strip().partition("=") for pair in request.headers.get("Cookie", "").split(";"))
        if not any(name == self._cookie and _same(value, self._value) for name, _, value in pairs):
            raise refusal(401, "log in first: open the address that the inspector printed")

    def check_command(self, request: WebRequest) -> None:
        """Raise WebRefusal for a request that may change nothing: wrong origin, no JSON, no cookie."""
        self.check_login(request)
        self.check_cookie(request)

    def check_login(self, request: WebRequest) -> None:
        """Raise WebRefusal for a login of another page, or one that a form could send."""
        self.check_own_page(request)
        kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind != JSON:
            raise refusal(415, f"the content type is not {JSON}")


def json_body(request: WebRequest) -> dict[str, object]:
    """Return the JSON object in a body. Raises WebRefusal, also for a text that UTF-8 cannot encode."""
    try:
        body = _DECODER.decode(request.body.decode())
        # An escape can write half of a surrogate pair, which no guest's frame and no answer can contain.
        json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise refusal(400, "the body is not JSON") from None
    if not isinstance(body, dict):
        raise refusal(400, "the body is not a JSON object")
    return body


def _no_number(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_number)


def refusal(status: int, message: str) -> WebRefusal:
    """Return a refusal with an error message in JSON."""
    return WebRefusal(WebReply(status, error_body(message), {"Content-Type": JSON}))


def _same(given: str, expected: str) -> bool:
    """Compare in constant time. Longer texts than any secret are not compared."""
    if len(given) > _LONGEST:
        return False
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())
