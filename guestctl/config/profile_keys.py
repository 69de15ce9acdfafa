"""The keys of a profile: the name of each, its field in the model, and how its text is read.

Knows: single values. Must not know: files, lines, the environment, which of two values takes precedence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from guestctl.config.regions import domain_of
from guestctl.core.errors import UsageError
from guestctl.core.humanize import parse_duration
from guestctl.core.model import Secret
from guestctl.core.suggestions import did_you_mean
from guestctl.core.values import Json, immutable

#: Half a character. Python decodes bytes in the environment that are not UTF-8 to these.
SURROGATE = re.compile("[\ud800-\udfff]")


def _text(text: str) -> str:
    if any(ord(character) < 32 or 127 <= ord(character) < 160 for character in text):
        raise ValueError("control characters (a line break?) are not allowed")
    if SURROGATE.search(text):
        raise ValueError("it is not valid UTF-8")
    return text


def _word(text: str) -> str:
    if not _text(text).strip() or any(character.isspace() for character in text):
        raise ValueError("expected one word without spaces")
    return text


def _label(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,250}[A-Za-z0-9])?", text, re.ASCII):
        raise ValueError("expected part of a host name: only letters, digits, dots and hyphens")
    return text


def _email(text: str) -> str:
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", _text(text)):
        raise ValueError("expected an e-mail address")
    return text


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII):
        raise ValueError("expected a whole number, 0 or more")
    return int(text)


def _path(text: str) -> str:
    if not _word(text).startswith("/"):
        raise ValueError("expected a path that starts with /")
    return text


def _secret(text: str) -> Secret:
    return Secret(_word(text))


def _model_key(text: str) -> Secret:
    if len(_word(text)) < 6 or not text.isascii():
        raise ValueError("expected at least 6 ASCII characters, because a shorter key cannot be masked")
    return Secret(text)


def _url(*schemes: str) -> Callable[[str], str]:
    def checked(text: str) -> str:
        parts = urlsplit(_word(text))
        _ = parts.port  # raises ValueError if the port is invalid
        if parts.scheme not in schemes or not parts.hostname:
            raise ValueError(f"expected an address that starts with {' or '.join(s + '://' for s in schemes)}")
        if parts.query or parts.fragment or parts.username is not None or parts.password is not None:
            raise ValueError("the address may not contain credentials, a query or a fragment")
        return text

    return checked


def _one_of(*choices: str) -> Callable[[str], str]:
    def checked(text: str) -> str:
        if text not in choices:
            raise ValueError(f'expected one of {", ".join(choices)}, found "{text}"{did_you_mean(text, choices)}')
        return text

    return checked


def _api(text: str) -> str:
    from guestctl.dialects import NAMES

    return _one_of(*NAMES)(text)


def _region(text: str) -> str:
    try:
        return domain_of(text)
    except UsageError as error:
        raise ValueError(error.message) from error


def _object(text: str) -> dict[str, Json]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("expected a JSON object") from error
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")
    return value


def _texts(text: str) -> dict[str, str]:
    found = _object(text)
    if not all(isinstance(value, str) for value in found.values()):
        raise ValueError("expected a JSON object with text values only")
    return found


def _yes_or_no(text: str) -> bool:
    return _one_of("true", "false")(text) == "true"


@immutable
class ProfileKey:
    """One profile key: its field in `model.Profile` (None: part of `retry`) and the function that reads its text.

    `read` raises ValueError, whose text says what was expected. `tree`: a mapping in the file, JSON elsewhere.
    `file_only`: neither an option nor a variable sets it.
    """

    field: str | None
    read: Callable[[str], Any]
    tree: bool = False
    file_only: bool = False


#: Every key in the order of display. A nested key contains a dot.
KEYS: Mapping[str, ProfileKey] = {
    "api": ProfileKey("api", _api),
    "region": ProfileKey("region", _region),
    "base_url": ProfileKey("base_url", _url("https", "http")),
    "socket_url": ProfileKey("socket_url", _url("wss", "ws")),
    "config_url": ProfileKey("config_url", _url("https", "http")),
    "deployment_id": ProfileKey("deployment_id", _word),
    "origin": ProfileKey("origin", _word),
    "attributes": ProfileKey("attributes", _texts, tree=True),
    "tls.ca": ProfileKey("ca", _text),
    "tls.cleartext": ProfileKey("cleartext", _yes_or_no, file_only=True),
    "service.deduplicates": ProfileKey("deduplicates", _yes_or_no, file_only=True),
    "retry.attempts": ProfileKey(None, _count),
    "retry.base": ProfileKey(None, parse_duration),
    "retry.cap": ProfileKey(None, parse_duration),
    "name": ProfileKey("guest_name", _text),
    "email": ProfileKey("email", _email),
    "queue": ProfileKey("queue", _text),
    "skill": ProfileKey("skill", _text),
    "language": ProfileKey("language", _text),
    "environment": ProfileKey("environment", _label),
    "org": ProfileKey("org", _label),
    "aws_region": ProfileKey("aws_region", _label),
    "socket_path": ProfileKey("socket_path", _path),
    "refresh_style": ProfileKey("refresh_style", _one_of("guest-refresh", "guest-token")),
    "store_tokens": ProfileKey("store_tokens", _one_of("database", "memory")),
    "journey_context": ProfileKey("journey_context", _object, tree=True),
    "application": ProfileKey("application", _text),
    "oauth.client_id": ProfileKey("client_id", _word),
    "oauth.client_secret": ProfileKey("client_secret", _secret),
    "ai.base_url": ProfileKey("ai_base_url", _url("https", "http")),
    "ai.key": ProfileKey("ai_key", _model_key),
    "ai.model": ProfileKey("ai_model", _word),
}
#: Keys whose values are secrets.
SECRETS = ("oauth.client_secret", "ai.key")
GROUPS = {key.partition(".")[0] for key in KEYS if "." in key}


def variable(key: str) -> str:
    """Return the name of the environment variable that sets a key."""
    return f"GUESTCTL_{key.replace('.', '_').upper()}"


def unknown_key(key: str) -> str:
    """Return the error text for an unknown key, with a suggestion if a known key is similar."""
    inside = [name for name in KEYS if name.rpartition(".")[2] == key.rpartition(".")[2] and name != key]
    return f'unknown key "{key}"' + (f'; did you mean "{inside[0]}"?' if inside else did_you_mean(key, KEYS))


def read_value(key: str, text: str, where: str, *, code: str, hint: str | None = None) -> Any:
    """Return the value of a key's text. Raises UsageError; `where` names the source of the text."""
    try:
        return KEYS[key].read(text)
    except ValueError as error:
        raise UsageError(f"{where}: {error}", code=code, hint=hint) from error
