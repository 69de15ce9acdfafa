"""How a failure is described to a reader of the relay, who sends requests and has no command line.

Knows: the failure codes that a request can meet, and what its sender can do about each. Must not know: HTTP, gRPC.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from guestctl.core.errors import Failure, UsageError
from guestctl.output.records import error_record

#: Failure code -> the next step of a reader. A failure of any other code has a hint only if it was made for requests.
_HINTS = {
    "conflict.key": "use another idempotency key, or repeat exactly what was sent with this one",
    "network.lost": "repeat the request later",
    "rate.limited": "repeat the request later",
    "service.attributes": "shorten or remove attributes",
    "service.down": "repeat the request later",
    "service.too_long": "shorten the text, or send it as several messages",
    "state.unusable": "repeat the request later; the relay's machine cannot store it now",
    "timeout": "repeat the request later",
    "usage.text": "leave out the characters that cannot be encoded",
}
#: The next step after a send that may be repeated, by its delivery.
_REPEAT = {
    "not_sent": "repeat the request with the same idempotency key",
    "in_doubt": "repeat the request with the same idempotency key: it is not sent again, and its outcome is the answer",
}
#: Failures of a message that breaks a limit, and so cannot be sent as it is.
_FINAL = frozenset({"service.attributes", "service.too_long", "usage.text"})
#: Words of a hint for the command line: a command, an option, a variable.
_COMMAND_LINE = re.compile(r"guestctl|(?<!\w)--?[a-z]|[A-Z]+_[A-Z]+")
#: An option before a message, such as `--since: …`. The parameters of requests have the same names.
_OPTION = re.compile(r"^--([a-z-]+)(?=:)")


def is_final(failure: Failure | None) -> bool:
    """Return whether a repetition of the request has no prospect: the message breaks a limit."""
    return failure is not None and failure.code in _FINAL


def reader_message(failure: Failure) -> str:
    """Return the message of a failure for a reader."""
    return _OPTION.sub(r"\1", failure.message)


def reader_hint(failure: Failure, delivery: str | None = None) -> str:
    """Return the next step of a reader, empty if there is none that a reader can take.

    `delivery` is the outcome of a send, None for any other request.
    """
    if delivery in _REPEAT and not is_final(failure):
        return _REPEAT[delivery]
    known = _HINTS.get(failure.code)
    if known is not None:
        return known
    own = isinstance(failure, UsageError) and not _COMMAND_LINE.search(failure.hint)
    return failure.hint if own else ""


def reader_error(failure: Failure, delivery: str | None = None) -> dict[str, Any]:
    """Return the error record of a failure for a reader. Without a hint, it has no such member."""
    error: Mapping[str, object] = error_record(failure)["error"]
    changed = {"message": reader_message(failure), "hint": reader_hint(failure, delivery)}
    return {"error": {name: changed.get(name, value) for name, value in error.items() if changed.get(name, True)}}
