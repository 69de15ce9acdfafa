"""Replaces secrets in text and JSON with placeholders.

Knows: the names of members that contain secrets, the form of a signed address and of a JWT, and the literal
secrets that callers add. Must not know: where the result goes. Traces, `raw` records and error bodies use it.
guestctl's own values are wrapped in `model.Secret` and do not need it.

The placeholder is `***` and a digest, the same for equal secrets, so that a reader can still see that two
frames carried the same token.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

from guestctl.core.model import Secret
from guestctl.core.values import Json

#: A member whose name ends like this, ignoring all but letters, contains a secret.
_SECRET_ENDINGS = (
    "token",
    "jwt",
    "secret",
    "password",
    "authorization",
    "cookie",
    "codeverifier",
    "adminkey",
    "apikey",
    "authcode",
    "signature",
    "websocketprotocol",
)
#: A query parameter with one of these in its name makes the address a secret.
_SIGNING = ("signature", "token", "credential", "jwt", "secret", "keyid", "password")
# The patterns are texts, which `re` compiles when it uses them: few commands do, and compiling them takes time.
_URL = r"\b(?:https?|wss?)://[^\s\"'<>\\]+\?[^\s\"'<>\\]+"
_JWT = r"\beyJ[\w-]{4,}\.[\w-]+\.[\w-]*"
_BEARER = r"(?i)\b(Bearer|Basic)\s+([^\s\"',]+)"
#: Truncated JSON, or JSON inside other text, cannot be parsed. Its secret members are found by name, at any depth
#: of escaping, up to the closing quote or the end.
_MEMBER = (
    r"""(?is)(?P<quote>\\{0,7}["'])[\w.-]{0,64}?(?:token|jwt|secret|password|authorization|cookie|code[\W_]?verifier|"""
    r"""signature|auth[\W_]?code|(?:admin|api)[\W_]?key)[\d_.-]{0,8}(?P=quote)\s*:\s*\[?\s*(?P=quote)(?P<value>(?:(?!(?P=quote))(?:\\.|.))*)"""
)
#: The same for a form or a query, also in a damaged address that `_URL` does not match.
_PAIR = (
    r"""(?i)(?:token|jwt|secret|password|signature|credential|keyid|api[_-]?key|code_?verifier|"""
    r"""auth|authorization|auth_?code)=(?P<value>[^&\s"'<>\\]+)"""
)
#: The code of a sign-in, in a query or a form that also has one of the other parameters of a sign-in.
_CODE = r"""(?:^|[?&\s"'])code=(?P<value>[^&#\s"'<>\\]+)"""
_SIGNS_IN = r"(?:grant_type|redirect_uri|state|session_state)="
#: The password in an address.
_USERINFO = r"""(?<=://)[^\s:/?#@"'<>\\]*:(?P<value>[^\s/?#@"'<>\\]+)(?=@)"""
#: The member that most frames of guests have.
_TOKEN_MEMBER = r'("token"\s*:\s*")([^"]*)(?=")'
#: Minimum length of a literal secret: a shorter one would match parts of ordinary words.
_SHORTEST = 6


class Redactor:
    """Replaces secrets in text and JSON values.

    It learns literal secrets from `add` and from every member with a secret name, and then masks the same value
    wherever it occurs.
    """

    def __init__(self) -> None:
        self._literals: dict[str, str] = {}

    def copy(self) -> Redactor:
        """Return another redactor, which knows the same secrets. It learns others on its own."""
        other = Redactor()
        other._literals.update(self._literals)
        return other

    def add(self, secret: Secret | str | None) -> None:
        """Mask this value wherever it occurs."""
        value = secret.reveal() if isinstance(secret, Secret) else secret
        if value and len(value) >= _SHORTEST:
            self._literals[value] = _mask(value)
            for written in (json.dumps(value)[1:-1], quote(value, safe="", errors="surrogatepass")):
                self._literals.setdefault(written, _mask(value))

    def add_pair(self, name: str | None, secret: Secret | None) -> None:
        """Mask this secret, and its HTTP Basic form with the name (RFC 7617)."""
        self.add(secret)
        if secret:
            self.add(base64.b64encode(f"{name or ''}:{secret.reveal()}".encode()).decode("ascii"))

    def add_proxies(self, environ: Mapping[str, str]) -> None:
        """Mask the passwords in the addresses of proxies."""
        for name, address in environ.items():
            if name.lower() in {"http_proxy", "https_proxy", "all_proxy"} and "@" in address:
                user, _, password = address.rpartition("@")[0].rpartition("//")[2].partition(":")
                self.add(password)
                self.add_pair(unquote(user), Secret(unquote(password)))

    def text(self, text: str) -> str:
        """Return free text or JSON text without its secrets."""
        if text.startswith(("{", "[")):
            try:
                return json.dumps(self.value(json.loads(text)), ensure_ascii=False, separators=(",", ":"))
            except (ValueError, RecursionError):
                pass  # no JSON, or nested too deep
        return self._plain(text)

    def json_text(self, text: str) -> str:
        """Return the same as `text`, faster for JSON without escapes, whose white space it retains.

        In such a text, quotes only begin and end strings, and a string before a colon is the name of a member.
        """
        if not (text.startswith("{") and text.endswith("}")) or text.count('"') % 2:
            return self.text(text)
        if "\\" in text or "=" in text or "://" in text or "eyJ" in text:
            return self.text(text)
        lower = text.lower()
        if "bearer" in lower or "basic" in lower or ("'" in text and re.search(r"'\s*:", text)):
            return self.text(text)
        names = [string for string, colon in re.findall(r'"([^"]*)"(\s*:)?', text) if colon]
        if "code" in names and not {"redirectUri", "codeVerifier"}.isdisjoint(names):
            return self.text(text)
        for name in {name for name in names if _names_secret(name)}:
            pattern = rf'("{re.escape(name)}"\s*:\s*")([^"]*)(?=")' if name != "token" else _TOKEN_MEMBER
            hidden, count = re.subn(pattern, self._hidden_member, text)
            if count != names.count(name):
                return self.text(text)  # a secret that is no string
            text = hidden
        for literal, mask in self._literals.items():
            if literal in text:
                text = text.replace(literal, mask)
        return text

    def value(self, value: Json) -> Json:
        """Return a copy of a JSON value without its secrets. Bytes are read as UTF-8."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Secret):
            return value.placeholder
        if isinstance(value, (bytes, bytearray)):
            return self.text(bytes(value).decode("utf-8", errors="replace"))
        if isinstance(value, Mapping):
            signs_in = "code" in value and not {"redirectUri", "codeVerifier"}.isdisjoint(value)
            return {
                str(key): self._hide(member)
                if _names_secret(str(key)) or (signs_in and key == "code")
                else self.value(member)
                for key, member in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.value(item) for item in value]
        if value is None or isinstance(value, (bool, int, float)):
            return value
        return self._plain(str(value))

    def _hide(self, value: Json) -> Json:
        if isinstance(value, str):
            scheme = re.fullmatch(_BEARER, value)
            secret = scheme[2] if scheme else value
            self.add(secret)
            return f"{scheme[1]} {_mask(secret)}" if scheme else _mask(secret) if secret else value
        if isinstance(value, Mapping):
            return {str(key): self._hide(member) for key, member in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._hide(item) for item in value]
        return self.value(value)

    def _plain(self, text: str) -> str:
        for literal, mask in self._literals.items():
            if literal in text:
                text = text.replace(literal, mask)
        if "://" in text:
            text = re.sub(_URL, lambda found: _unsigned(found[0]), text)
            if "@" in text:
                text = re.sub(_USERINFO, self._hidden, text)
        text = re.sub(_MEMBER, self._hidden, text)
        if "=" in text:
            text = re.sub(_PAIR, self._hidden, text)
            if "code=" in text and re.search(_SIGNS_IN, text):
                text = re.sub(_CODE, self._hidden, text)
        if "eyJ" in text:
            text = re.sub(_JWT, lambda found: _mask(found[0]), text)
        return re.sub(_BEARER, lambda found: f"{found[1]} {_masked_once(found[2])}", text)

    def _hidden_member(self, found: re.Match[str]) -> str:
        value = found[2]
        return found[1] + (value if value.startswith("***") else self._literals.get(value) or str(self._hide(value)))

    def _hidden(self, found: re.Match[str]) -> str:
        value = found["value"]
        shown = self._hide(value) if value and not value.startswith("***") else value
        return found[0][: found.start("value") - found.start()] + str(shown)


def without(secret: Secret | None, value: Any) -> Json:
    """Return a value in which each text that equals the secret is masked, however short it is."""
    if isinstance(value, Secret):
        return value.placeholder
    if isinstance(value, Mapping):
        return {str(key): without(secret, member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [without(secret, member) for member in value]
    same: bool = secret is not None and value == secret.reveal() != ""
    return _mask(value) if same else value


def is_signed(url: str) -> bool:
    """Return whether an address is a secret as a whole: who has it needs no other permission."""
    return _unsigned(url) != url or re.search(_JWT, url) is not None


def _mask(value: str) -> str:
    return Secret(value).placeholder


def _masked_once(value: str) -> str:
    return value if value.startswith("***") else _mask(value)


@lru_cache(maxsize=2048)
def _names_secret(key: str) -> bool:
    return "".join(filter(str.isalpha, key)).lower().endswith(_SECRET_ENDINGS)


def _unsigned(url: str) -> str:
    """Return an address with its whole query masked if a parameter makes it a secret."""
    parts = urlsplit(url)
    names = [
        name.lower().replace("-", "").replace("_", "") for name, _ in parse_qsl(parts.query, keep_blank_values=True)
    ]
    if not any(name == "sig" or any(word in name for word in _SIGNING) for name in names):
        return url
    return urlunsplit((parts.scheme, parts.netloc, parts.path, _masked_once(parts.query), ""))
