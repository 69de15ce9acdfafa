"""Recorded traces on the inspector's page: as one HTML file, or served to a browser on this machine.

Knows: how traces become what the page reads. Must not know: how a trace is read, options, when the server stops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from guestctl.core.clock import SystemClock
from guestctl.core.redact import Redactor
from guestctl.inspector.recorded import RecordedControls, Traffic, recorded_events, recorded_traffic
from guestctl.inspector.routes import Inspector
from guestctl.pages import assets, single_file
from guestctl.transport.recorded_trace import TraceLine
from guestctl.transport.web_server import WebServer

Traces = Mapping[str, Sequence[TraceLine]]
"""The lines of each trace, by a name for people."""


def title_of(traces: Traces) -> str:
    """Return the title of the page: the name of the trace, or how many there are."""
    return next(iter(traces)) if len(traces) == 1 else f"{len(traces)} traces"


def html_of(traces: Traces) -> bytes:
    """Return the HTML file. Raises LookupError, TypeError or AttributeError for a line without its fields."""
    title = title_of(traces)
    data = {
        "hello": {"title": title, "source": "trace"},
        "events": recorded_events(recorded_traffic(traces), Redactor()),
    }
    script = single_file.joined("viewer.js", lambda name: assets.asset(name).body.decode())
    return single_file.document(f"{title} · guestctl", script, data, plain=title)


class TraceServer:
    """The page of recorded traces on a loopback port. `address`, with a secret token, is valid once it has started.

    Raises LookupError, TypeError or AttributeError for a line without its fields.
    """

    def __init__(self, traces: Traces, *, port: int) -> None:
        clock = _ClockOfTrace()
        self._inspector = Inspector(
            source="trace",
            title=title_of(traces),
            clock=clock,
            redactor=Redactor(),
            controls=RecordedControls(),
            port=lambda: self._server.port,
        )
        for event in recorded_traffic(traces):
            self._inspector.observe(*clock.at(event))
        self._server = WebServer(self._inspector.routes, host="127.0.0.1", port=port)

    @property
    def address(self) -> str:
        return self._inspector.address(self._server.url)

    def start(self) -> None:
        """Start to serve. Raises OSError."""
        self._server.start()

    def stop(self) -> None:
        self._server.stop(self._inspector.end)


class _ClockOfTrace(SystemClock):
    """A clock that shows the time of the event that was recorded."""

    def __init__(self) -> None:
        self._time = 0.0

    def at(self, event: Traffic) -> tuple[str, dict[str, object]]:
        """Set the clock to the time of an event, and return the rest of it."""
        self._time, kind, data = event
        return kind, data

    def now(self) -> float:
        return self._time
