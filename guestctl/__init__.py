"""guestctl: the guest of a Genesys Cloud web-messaging conversation, from Python.

`from guestctl import Client, Message` is the library. Every public type and every error can be imported from here.
`docs/api.md` documents them. Importing this package loads no other module of guestctl and no third-party library:
a name is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guestctl.core.version import __version__

if TYPE_CHECKING:
    from guestctl.client import Client
    from guestctl.core.errors import (
        CheckFailed,
        Conflict,
        Exit,
        Failure,
        Forbidden,
        InDoubt,
        NetworkError,
        RateLimited,
        Refused,
        SessionOver,
        TimedOut,
        Unauthorised,
        Unreadable,
        Unsupported,
        UsageError,
    )
    from guestctl.core.model import (
        Attachment,
        Connection,
        ConnectionState,
        Credential,
        CredentialKind,
        Delivery,
        Deployment,
        Direction,
        Event,
        FormField,
        Gap,
        Limits,
        Message,
        NewSession,
        Option,
        Outgoing,
        ParticipantEvent,
        ParticipantEventKind,
        Position,
        Presence,
        Profile,
        Retry,
        Role,
        Secret,
        Sender,
        ServiceError,
        Session,
        SessionChange,
        SessionEvent,
        SessionState,
        SignIn,
        Source,
        TraceContext,
        Typing,
        Unknown,
    )
    from guestctl.core.results import (
        Activity,
        Report,
        Resumed,
        Sent,
    )
    from guestctl.core.timings import Timings
    from guestctl.core.values import Json

__all__ = [
    "Activity",
    "Attachment",
    "CheckFailed",
    "Client",
    "Conflict",
    "Connection",
    "ConnectionState",
    "Credential",
    "CredentialKind",
    "Delivery",
    "Deployment",
    "Direction",
    "Event",
    "Exit",
    "Failure",
    "Forbidden",
    "FormField",
    "Gap",
    "InDoubt",
    "Json",
    "Limits",
    "Message",
    "NetworkError",
    "NewSession",
    "Option",
    "Outgoing",
    "ParticipantEvent",
    "ParticipantEventKind",
    "Position",
    "Presence",
    "Profile",
    "RateLimited",
    "Refused",
    "Report",
    "Resumed",
    "Retry",
    "Role",
    "Secret",
    "Sender",
    "Sent",
    "ServiceError",
    "Session",
    "SessionChange",
    "SessionEvent",
    "SessionOver",
    "SessionState",
    "SignIn",
    "Source",
    "TimedOut",
    "Timings",
    "TraceContext",
    "Typing",
    "Unauthorised",
    "Unknown",
    "Unreadable",
    "Unsupported",
    "UsageError",
    "__version__",
]

#: The modules that define the public names, cheapest first. The last one loads all of guestctl.
_MODULES = ("core.errors", "core.model", "core.results", "core.timings", "core.values", "client")


def __getattr__(name: str) -> Any:
    if name in __all__:
        from importlib import import_module

        for module in _MODULES:
            found = vars(import_module(f"guestctl.{module}"))
            if name in found:
                globals()[name] = found[name]
                return found[name]
    raise AttributeError(f"module 'guestctl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
