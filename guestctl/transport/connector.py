"""One place that opens HTTP connections for a client or a probe.

Knows: the network settings, the observer and the user agent that every request carries. Must not know: any API,
sessions, tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from guestctl.core.clock import Clock
from guestctl.core.version import __version__

if TYPE_CHECKING:
    from guestctl.transport.http import Http
    from guestctl.transport.network import Network, Observer

#: The `User-Agent` header of every request and of every socket upgrade.
USER_AGENT = f"guestctl/{__version__}"


@dataclass
class Connector:
    """One network and one HTTP session, both made on first use.

    `network` returns the network settings. `observer` receives every request and answer; None: no observer.
    """

    network: Callable[[], Network]
    clock: Clock
    observer: Observer | None = None
    _http: Http | None = None

    @property
    def http(self) -> Http:
        """The HTTP session, opened on first use."""
        if self._http is None:
            from guestctl.transport.http import Http

            self._http = Http(self.network(), self.clock, observer=self.observer, user_agent=USER_AGENT)
        return self._http

    def close(self) -> None:
        """Close the HTTP session, if one was opened."""
        if self._http is not None:
            self._http.close()
