"""A guest messaging service on loopback, written from the protocol documents.

Knows: the documented names every sandbox shares. Must not know: the client. Nothing under this
package imports guestctl except `clock`; client and sandbox meet only over sockets and in literal
examples, so that an error in one cannot hide in the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guestctl.sandbox.server import Sandbox

#: Every sandbox has this deployment and this OAuth client (contract.md §7). Public, not secret.
DEPLOYMENT_ID = "5a4db0c5-0000-4000-8000-677565737463"
CLIENT_ID = "sandbox-client"
CLIENT_SECRET = "sandbox-secret"

__all__ = ["CLIENT_ID", "CLIENT_SECRET", "DEPLOYMENT_ID", "Sandbox"]


def __getattr__(name: str) -> Any:
    # Who only wants the names above must not pay for the server library.
    if name == "Sandbox":
        from guestctl.sandbox.server import Sandbox

        return Sandbox
    raise AttributeError(name)
