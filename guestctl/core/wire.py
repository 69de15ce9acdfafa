"""HTTP requests and responses, WebSocket frames, and the reading of JSON from the service.

Knows: what a request, a response, a frame and a socket address consist of. Must not know: requests,
websocket-client, any dialect, the profile.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import field
from typing import Literal, TypeAlias, TypeVar

from guestctl.core.errors import Unreadable, UsageError
from guestctl.core.model import CredentialKind
from guestctl.core.values import Json, immutable

T = TypeVar("T")

#: Maximum depth of nesting in JSON from the service. Deeper input is hostile and is refused.
MAX_DEPTH = 100

#: Characters of the longest integer that fits into 64 bits, with its sign.
_LONGEST_NUMBER = 20
_LARGEST = 2**63 - 1
#: The longest wait that a service may ask for, in seconds. More is a mistake.
LONGEST_WAIT = 86_400.0
#: The last epoch second that has a four-digit year.
LATEST = 253_402_300_799
#: From here on (the year 5138 in seconds, 1973 in milliseconds) a time is in milliseconds.
_MILLISECONDS = 1e11

#: Version ff is forbidden, and ids that consist of zeros are invalid (W3C Trace Context §3.2).
_TRACE_CONTEXT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

Route: TypeAlias = Literal[
    "create",
    "send",
    "history",
    "socket",
    "refresh",
    "typing",
    "upload",
    "download",
    "configuration",
    "oauth",
    "sync",
    "sign-in",
    "forward",
    "model",
]
"""The purpose of a request, as named in traces and errors."""


def is_trace_context(text: str) -> bool:
    """Return whether the text is valid as a `traceparent` header."""
    return _TRACE_CONTEXT.fullmatch(text) is not None


@immutable
class Request:
    """One HTTP request.

    The body is `json`, `form` or `content` (raw bytes); at most one of them is set. `credential` is the kind of
    credential that authorises the request; the engine adds the header. `idempotent` is True if repeating
    the request does no harm.
    """

    method: str
    url: str
    route: Route
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Json = None
    form: Mapping[str, str] | None = None
    content: bytes | None = None
    credential: CredentialKind | None = None
    idempotent: bool = False


@immutable
class HttpResponse:
    """An HTTP response with its complete body. Header names are lower case. `at` is the arrival in epoch seconds."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    at: float
    url: str = ""

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def text(self) -> str:
        return self.body.decode("utf-8", errors="replace")

    def json(self) -> Json:
        """Return the body as JSON. Raises Unreadable for anything else (HTML, truncated or too deeply nested JSON)."""
        try:
            text = self.body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Unreadable(f"HTTP {self.status}: the body is not UTF-8", http_status=self.status) from error
        return load_json(text, f"HTTP {self.status} body", status=self.status)

    def object(self) -> dict[str, Json]:
        """Return the body as a JSON object. Raises Unreadable for anything else."""
        value = self.json()
        if not isinstance(value, dict):
            raise Unreadable(
                f"HTTP {self.status}: expected a JSON object, got {type(value).__name__}",
                http_status=self.status,
                body=self.text()[:500],
            )
        return value


def load_json(text: str, what: str, *, status: int | None = None) -> Json:
    """Parse JSON from the service; `what` names it. Raises Unreadable for anything else (reliability.md §2.5)."""
    try:
        # `raw_decode` is faster, but does not allow blanks around the value.
        value, end = _DECODER.raw_decode(text) if text.startswith(("{", "[")) else (None, -1)
        if end != len(text):
            value = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(
            f"{what} is not JSON ({error.__class__.__name__})", http_status=status, body=text[:500]
        ) from error
    # JSON with at most that many brackets cannot nest deeper. This test spares most answers the walk.
    if text.count("{") + text.count("[") > MAX_DEPTH and _deeper(value, MAX_DEPTH):
        raise Unreadable(f"{what} nests deeper than {MAX_DEPTH} levels", http_status=status, body=text[:500])
    return value


def _deeper(value: Json, depth: int) -> bool:
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(depth):
        # One expression, without a function call for each member: a page of history has thousands of members.
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _whole_number(text: str) -> int | str:
    """Return an integer of the service, or its digits as text if it does not fit into 64 bits."""
    number = int(text) if len(text) <= _LONGEST_NUMBER else None
    return text if number is None or not -_LARGEST - 1 <= number <= _LARGEST else number


def _decimal_number(text: str) -> float | str:
    """Return a number of the service, or its digits as text if a float cannot hold it."""
    number = float(text)
    return number if math.isfinite(number) else text


#: One decoder for all frames: with `parse_constant`, `json.loads` would create one per call. A number that no field
#: can have stays text: a reader of numbers then finds the wrong type, and a record still shows the digits.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_whole_number, parse_float=_decimal_number)


_MISSING = object()


def required(source: Mapping[str, Json], key: str, kind: type[T] | tuple[type[T], ...], what: str) -> T:
    """Return a member of an answer. Raises Unreadable if it is missing or has another type; `what` names the answer."""
    value = source.get(key, _MISSING)
    if value is _MISSING or value is None:
        raise Unreadable(f"{what}: `{key}` is missing", body=json.dumps(source, default=str)[:500])
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise Unreadable(f"{what}: `{key}` has the wrong type ({type(value).__name__})")
    return value


def optional(source: Mapping[str, Json], key: str, kind: type[T], default: T | None = None) -> T | None:
    """Return a member of an answer, or `default` if it is missing or has another type."""
    value = source.get(key)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        return default
    return value


# --- text: half of a surrogate pair, which an escape in JSON can name and UTF-8 cannot encode ---


def utf8(text: str) -> bytes:
    """Return outgoing text as bytes. Raises UsageError (`not_sent`) for text that UTF-8 cannot encode."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"the text has half of a surrogate pair (U+{ord(text[error.start]):04X}) at position {error.start + 1}",
            code="usage.text",
            delivery="not_sent",
        ) from error


def utf8_size(text: str) -> int:
    """Return how many bytes a received text took as UTF-8. Half of a surrogate pair, which came escaped, counts 3."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def check_outgoing(*values: Json) -> None:
    """Check every text in these values before anything is written. Raises UsageError as `utf8` does."""
    for value in values:
        if isinstance(value, str):
            if not value.isascii():
                utf8(value)
        elif isinstance(value, Mapping):
            check_outgoing(*value.keys(), *value.values())
        elif isinstance(value, (list, tuple)):
            check_outgoing(*value)


def identifier(source: Mapping[str, Json], key: str, what: str) -> str:
    """Return an id or a token, which guestctl stores and sends back. Raises Unreadable as `required` does."""
    value = required(source, key, str, what)
    if not _is_encodable(value):
        raise Unreadable(f"{what}: `{key}` has half of a surrogate pair")
    return value


def optional_identifier(source: Mapping[str, Json], key: str) -> str | None:
    """Return an id, or None if it is missing, has another type or cannot be encoded."""
    value = optional(source, key, str)
    return value if value is not None and _is_encodable(value) else None


def _is_encodable(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


# --- numbers of the service: what no field can have counts as absent ---


def number(value: Json) -> float | None:
    """Return a number of the service, or None for anything else; true, false and text are no numbers."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) else None


def integer(value: Json) -> int | None:
    """Return an integer of the service, or None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def count(value: Json) -> int | None:
    """Return an integer of the service that is not negative, or None for anything else."""
    found = integer(value)
    return found if found is not None and found >= 0 else None


def size(value: Json) -> int | None:
    """Return a limit of the service in whole units, or None if it is not a number above zero."""
    found = number(value)
    return int(found) if found is not None and 0 < found <= _LARGEST else None


def duration(value: Json) -> float | None:
    """Return a wait that the service asks for, in seconds, or None if it is not a number of up to a day."""
    found = number(value)
    return float(found) if found is not None and 0 <= found <= LONGEST_WAIT else None


def epoch_seconds(value: Json) -> float | None:
    """Return a time as epoch seconds, or None if it is not a time before the year 10000.

    The service sends numbers or text, in seconds or in milliseconds; milliseconds are recognised by their size.
    """
    try:
        found = None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if found is not None and found > _MILLISECONDS:
        found /= 1000
    return found if found is not None and 0 < found <= LATEST else None


@immutable
class Frame:
    """One text frame from the socket. `at` is its arrival in epoch seconds."""

    text: str
    at: float


@immutable
class SocketAddress:
    """Where to open a socket: URL, headers, and the kind of credential to send as `Authorization`."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    credential: CredentialKind | None = None
