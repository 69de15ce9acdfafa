"""`trace export --otlp`: a recorded trace as spans, as a collector gets them."""

from __future__ import annotations

import pytest

from tests.integration.front import Guest, check
from tests.otel.collector import Collector

pytest.importorskip(
    "opentelemetry.exporter.otlp.proto.http.trace_exporter", reason="the packages of tests/otel are not installed"
)

TRACE, ABOVE = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize("api", ["web-messaging", "guests", "webmessaging-conversations"])
def test_a_recorded_trace_has_the_spans_of_the_command(guest: Guest, collector: Collector) -> None:
    guest.ok("session", "create")
    argv = ("ask", "hi", "--trace", "ask.trace")
    guest.ok(*argv[:-1], str(guest.cwd / "ask.trace"), OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    live = sorted(span.name for span in collector.spans)
    collector.spans.clear()
    found = guest("trace", "export", "ask.trace", "--otlp", collector.url)
    assert (found.code, found.out) == (0, "")
    assert f"sent {len(live)} spans" in found.err
    root = collector.one("trace ask.trace")
    assert sorted(span.name for span in collector.spans if span is not root) == [
        name for name in live if name != "guestctl ask"
    ]
    assert collector.orphans(above=[root.parent_id]) == []
    turn = collector.one("turn")
    assert sorted(name for name, _ in turn.events) == ["accepted", "first_reply", "write"]
    first = [span.span_id for span in collector.spans]
    guest.ok("trace", "export", "ask.trace", "--otlp", f"{collector.url}/v1/traces")
    assert [span.span_id for span in collector.spans] == first * 2, "a repeated export has the same ids"


@pytest.mark.parametrize("api", ["conversation-guests"])
def test_the_context_that_was_sent_is_above_the_tree(guest: Guest, collector: Collector) -> None:
    path = str(guest.cwd / "new.trace")
    guest.ok("session", "create", "--trace", path, TRACEPARENT=f"00-{TRACE}-{ABOVE}-00")
    guest.ok("trace", "export", "new.trace", "--otlp", collector.url)
    root = collector.one("trace new.trace")
    assert (root.trace_id, root.parent_id) == (TRACE, ABOVE)
    assert collector.orphans(above=[ABOVE]) == []


@pytest.mark.parametrize("api", ["conversation-guests"])
def test_a_collector_that_refuses_fails_the_command(guest: Guest, collector: Collector) -> None:
    guest.ok("session", "create", "--trace", str(guest.cwd / "new.trace"))
    collector.status = 400
    found = guest("trace", "export", "new.trace", "--otlp", collector.url, "-o", "json")
    check(found, 8, "trace.refused", collector.url)
