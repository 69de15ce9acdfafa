"""The numbers of a relay for Prometheus, in the OpenMetrics format.

Knows: prometheus_client, and where each number is. Must not know: HTTP, how the numbers come about.

The numbers are read when they are asked for, so that counting costs nothing elsewhere. Other servers of readers
register collectors of their own in `Metrics.registry`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    StateSetMetricFamily,
)
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest

from guestctl.relay.relay import Relay

CONTENT_TYPE: str = CONTENT_TYPE_LATEST
#: States of an upstream: those of a record of kind connection, and `ended`.
_STATES = ("connecting", "live", "lost", "retrying", "gave_up", "ended")


class Metrics:
    """The metrics of one relay, and of this process."""

    def __init__(self, relay: Relay) -> None:
        self.registry: Any = CollectorRegistry()
        self.registry.register(_RelayCollector(relay))
        ProcessCollector(registry=self.registry)

    def text(self) -> bytes:
        """Return all metrics in the OpenMetrics format."""
        generate: Any = generate_latest
        found: bytes = generate(self.registry)
        return found


class _RelayCollector:
    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def collect(self) -> Iterator[Any]:
        yield from self._upstream()
        yield from self._readers()
        sends = CounterMetricFamily(
            "guestctl_relay_sends", "Messages sent for readers, by delivery.", labels=["session", "delivery"]
        )
        replies = HistogramMetricFamily(
            "guestctl_relay_reply_seconds",
            "Time from a message of the guest to the next message to the guest.",
            labels=["session"],
        )
        for session in self._relay.sessions:
            for delivery, count in sorted(session.sends.counts.items()):
                sends.add_metric([session.name, delivery], count)
            buckets, total = session.upstream.reply_times.cumulative()
            replies.add_metric([session.name], buckets, total)
        yield sends
        yield replies

    def _upstream(self) -> Iterator[Any]:
        state = StateSetMetricFamily(
            "guestctl_relay_upstream", "State of the connection to the service.", labels=["session"]
        )
        reconnects = CounterMetricFamily(
            "guestctl_relay_reconnects", "Connections to the service that were lost.", labels=["session"]
        )
        events = CounterMetricFamily("guestctl_relay_events", "Stored events, by kind.", labels=["session", "kind"])
        gaps = CounterMetricFamily("guestctl_relay_gaps", "Gaps in what the service delivered.", labels=["session"])
        for session in self._relay.sessions:
            state.add_metric([session.name], {known: session.upstream.state == known for known in _STATES})
            reconnects.add_metric([session.name], session.upstream.reconnects)
            for kind, count in sorted(session.hub.stored.items()):
                events.add_metric([session.name, kind], count)
            gaps.add_metric([session.name], session.hub.stored["gap"])
        yield from (state, reconnects, events, gaps)

    def _readers(self) -> Iterator[Any]:
        present = GaugeMetricFamily(
            "guestctl_relay_readers", "Connected readers, by protocol.", labels=["session", "protocol"]
        )
        lag = GaugeMetricFamily(
            "guestctl_relay_reader_lag_events", "Events that the slowest reader has not taken.", labels=["session"]
        )
        slow = CounterMetricFamily(
            "guestctl_relay_slow_readers", "Readers that were cut because they fell behind.", labels=["session"]
        )
        missed = CounterMetricFamily(
            "guestctl_relay_reader_gaps",
            "Gaps that readers got because the log had dropped events.",
            labels=["session"],
        )
        for session in self._relay.sessions:
            readers = session.hub.readers
            for protocol, count in sorted(Counter(reader.protocol for reader in readers).items()):
                present.add_metric([session.name, protocol], count)
            lag.add_metric([session.name], max((reader.lag for reader in readers), default=0))
            slow.add_metric([session.name], session.hub.cut)
            missed.add_metric([session.name], session.hub.gaps)
        yield from (present, lag, slow, missed)
