"""A guest messaging service on loopback, written from the protocol documents.

Knows: the documented names that every sandbox shares. Must not know: the client, or any module that describes the
protocol.

The sandbox imports only general modules of `core`: clock, errors, values, strict YAML, durations. Client and sandbox
meet over sockets and in literal examples, so that one cannot hide an error of the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guestctl.sandbox.server import Sandbox

#: The deployment and the OAuth client of every sandbox (contract.md §7). They are public, not secret.
DEPLOYMENT_ID = "5a4db0c5-0000-4000-8000-677565737463"
CLIENT_ID = "sandbox-client"
CLIENT_SECRET = "sandbox-secret"

__all__ = ["CLIENT_ID", "CLIENT_SECRET", "DEPLOYMENT_ID", "Sandbox"]


def __getattr__(name: str) -> Any:
    # Importing the names above must not load the server library.
    if name == "Sandbox":
        from guestctl.sandbox.server import Sandbox

        return Sandbox
    raise AttributeError(name)
