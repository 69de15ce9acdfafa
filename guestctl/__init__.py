"""guestctl: the guest of a Genesys Cloud web-messaging conversation, from Python.

`from guestctl import Client` is the library; the command line is an ordinary user of it.
Importing this package opens no socket, writes no file and loads no network library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guestctl.core.version import __version__

__all__ = ["Client", "Failure", "__version__"]

if TYPE_CHECKING:
    from guestctl.client import Client
    from guestctl.core.errors import Failure


def __getattr__(name: str) -> Any:
    if name == "Client":
        from guestctl.client import Client

        return Client
    if name == "Failure":
        from guestctl.core.errors import Failure

        return Failure
    raise AttributeError(f"module 'guestctl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
