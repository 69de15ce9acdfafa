"""Load tests: check scripts, or a locustfile, run by Locust with many guests at once.

Knows, module by module: `plan` what a test does, `slo` what it must reach, `pace` how fast it may connect,
`measurements` what is counted, `turn_meter` when a turn begins and ends, `wire_ledger` what the service delivered,
`guest_run` one conversation, `users` the classes that Locust runs, `process` the process of Locust, `supervisor` the
processes of a test, `summary` the results. Must not know: command-line arguments, the exit of the process, any API's
wire.

`from guestctl.load import GuestUser` is the user class for a locustfile. Locust needs to patch the standard library
before `ssl` is imported, so importing this package imports neither Locust nor any other module of guestctl.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guestctl.load.users import GuestUser

__all__ = ["GuestUser"]


def __getattr__(name: str) -> Any:
    if name == "GuestUser":
        from guestctl.load.users import GuestUser

        return GuestUser
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
