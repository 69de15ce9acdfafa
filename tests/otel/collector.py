"""A collector: an OTLP/HTTP receiver that decodes what it gets with `opentelemetry-proto`.

Knows: OTLP over HTTP. Must not know: guestctl.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Received:
    """One span as it was received. `links` are ids of spans; `events` have name and attributes."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    start: int
    end: int
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]
    links: list[str]
    failed: bool
    resource: dict[str, Any]


@dataclass
class Collector:
    """`status` is what it answers. `release` lets a request wait until it is set."""

    url: str
    spans: list[Received] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    status: int = 200
    release: threading.Event = field(default_factory=threading.Event)

    def named(self, name: str) -> list[Received]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> Received:
        (found,) = self.named(name)
        return found

    def below(self, parent: Received) -> list[str]:
        """Return the names of the spans directly below one, in order."""
        inner = [span for span in self.spans if span.parent_id == parent.span_id]
        return [span.name for span in sorted(inner, key=lambda span: span.start)]

    def orphans(self, above: Sequence[str] = ()) -> list[Received]:
        """Return the spans whose parent was not received. `above` are ids of spans of other programs."""
        known = {"", *above, *(span.span_id for span in self.spans)}
        return [span for span in self.spans if span.parent_id not in known]


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector on loopback."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = ExportTraceServiceRequest.FromString(body)
            found.release.wait(10)
            with lock:
                found.paths.append(self.path)
                found.bodies.append(body)
                found.spans += _spans(request)
            self.send_response(found.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found = Collector(f"http://127.0.0.1:{server.server_address[1]}")
    found.release.set()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield found
    finally:
        found.release.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _spans(request: Any) -> Iterator[Received]:
    for group in request.resource_spans:
        resource = _attributes(group.resource.attributes)
        for scope in group.scope_spans:
            for span in scope.spans:
                yield Received(
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.kind,
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    _attributes(span.attributes),
                    [(event.name, _attributes(event.attributes)) for event in span.events],
                    [link.span_id.hex() for link in span.links],
                    span.status.code == 2,
                    resource,
                )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
