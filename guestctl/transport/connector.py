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
    from guestctl.core.model import TraceContext
    from guestctl.transport.http import Http
    from guestctl.transport.network import Network, Observer
    from guestctl.transport.propagation import Propagation

#: The `User-Agent` header of every request and of every socket upgrade.
USER_AGENT = f"guestctl/{__version__}"


@dataclass(repr=False, eq=False)
class Connector:
    """One network and one HTTP session, both made on first use.

    `network` returns the network settings. `observer` receives every request and answer; None: no observer.
    `propagation` chooses the trace context of each request; None: that of the session.
    """

    network: Callable[[], Network]
    clock: Clock
    observer: Observer | None = None
    _http: Http | None = None
    propagation: Propagation | None = None

    @property
    def http(self) -> Http:
        """The HTTP session, opened on first use."""
        if self._http is None:
            from guestctl.transport.http import Http

            self._http = Http(self.network(), self.clock, observer=self.observer, user_agent=USER_AGENT)
        return self._http

    def trace_context(self, stored: TraceContext | None) -> TraceContext | None:
        """Return the trace context of a session, which has `stored` one of an earlier command."""
        return stored if self.propagation is None else self.propagation.context(stored)

    def trace_headers(self, stored: TraceContext | None) -> dict[str, str]:
        """Return the headers that the next request of a session, or its next socket, has for its trace context."""
        if self.propagation is not None:
            return self.propagation.headers(stored)
        if stored is None:
            return {}
        return {"traceparent": stored.traceparent, **({"tracestate": stored.tracestate} if stored.tracestate else {})}

    def trace_attributes(self, stored: TraceContext | None) -> dict[str, str]:
        """Return the custom attribute of messages that states the trace id, empty if none is wanted.

        Raises UsageError if there is no trace context.
        """
        return {} if self.propagation is None else self.propagation.attributes(stored)

    def close(self) -> None:
        """Close the HTTP session, if one was opened."""
        if self._http is not None:
            self._http.close()
