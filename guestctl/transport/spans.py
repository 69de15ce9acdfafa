"""The export of spans with the SDK of OpenTelemetry, over OTLP and HTTP.

Knows: OpenTelemetry's packages (the extra `guestctl[otel]`), which are imported only here. Must not know: what the
spans mean (`span_tree`), the command line. The SDK reads the OTEL_* variables: the endpoint, the headers, the sampler,
the resource, the limits.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from guestctl.core.errors import UsageError
from guestctl.core.version import __version__
from guestctl.transport.span_tree import Span, SpanTree

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExportResult

#: Seconds that the end of a command waits for the last spans.
FLUSH_TIMEOUT = 1.0
#: The only protocol that this module speaks.
PROTOCOL = "http/protobuf"
EXTRA = "install it: `pip install 'guestctl[otel]'`"


class SpanExport:
    """Exports spans while the command runs. `endpoint` replaces that of the environment.

    Raises UsageError (config.key) without the packages of the extra.
    """

    def __init__(self, environ: Mapping[str, str], *, endpoint: str | None = None) -> None:
        protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        if protocol and protocol.strip() != PROTOCOL and endpoint is None:
            raise UsageError(
                f'the protocol "{protocol}" of OTEL_EXPORTER_OTLP_PROTOCOL is not supported',
                code="config.key",
                hint=f"set it to {PROTOCOL}, and the endpoint to the collector's HTTP port (usually 4318)",
            )
        # The SDK logs each failed export with a traceback. `problem` reports the first one in one line.
        logger = logging.getLogger("opentelemetry")
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
        try:
            self._provider, self._ids = _provider(self._exported, endpoint)
        except ImportError as error:
            raise UsageError(
                f"spans need the extra guestctl[otel] ({error.name or error} is missing)",
                code="config.key",
                hint=EXTRA,
            ) from error
        self._tracer = self._provider.get_tracer("guestctl", __version__)
        self._lock = threading.Lock()
        self._failed = False

    def tree(self, name: str, *, now: Callable[[], float], **more: Any) -> SpanTree:
        """Return the observer that makes the spans of one command or scenario (see `SpanTree`)."""
        return SpanTree(name, now=now, finished=self.add, sampled=self._sampled, **more)

    def add(self, span: Span) -> None:
        """Export a span that has ended. It is sent in the background, together with others."""
        from opentelemetry.trace import Link, SpanKind, Status, StatusCode

        if not span.sampled:
            return
        with self._lock:
            self._ids.trace_id, self._ids.span_id = int(span.trace_id, 16), int(span.span_id, 16)
            made = self._tracer.start_span(
                span.name,
                context=_below(span),
                kind=SpanKind.CLIENT if span.kind == "client" else SpanKind.INTERNAL,
                attributes=span.attributes,
                links=[Link(_context(span, link)) for link in span.links],
                start_time=_nanoseconds(span.start),
            )
        for event in span.events:
            made.add_event(event.name, event.attributes, _nanoseconds(event.time))
        if span.error is not None:
            made.set_status(Status(StatusCode.ERROR, span.error))
        made.end(_nanoseconds(span.end))

    def close(self, timeout: float = FLUSH_TIMEOUT) -> str | None:
        """Send the last spans, for `timeout` seconds at most. Return what went wrong in one line, None for nothing."""
        sending = threading.Thread(target=self._provider.shutdown, name="spans", daemon=True)
        sending.start()
        sending.join(timeout)
        if self._failed:
            return "the spans could not be exported: the collector did not accept them"
        return f"the last spans were not exported within {timeout:g} s" if sending.is_alive() else None

    def _sampled(self, trace_id: str) -> bool:
        found = self._provider.sampler.should_sample(None, int(trace_id, 16), "guestctl")
        return bool(found.decision.is_sampled())

    def _exported(self, success: bool) -> None:
        self._failed = self._failed or not success


def _provider(exported: Callable[[bool], None], endpoint: str | None) -> tuple[TracerProvider, Any]:
    """Return the SDK's provider, which exports in batches, and the source of its ids."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
    from opentelemetry.sdk.trace.id_generator import IdGenerator

    class Ids(IdGenerator):
        """The ids of the spans, which were chosen when their contexts were sent."""

        trace_id = span_id = 0

        def generate_trace_id(self) -> int:
            return self.trace_id

        def generate_span_id(self) -> int:
            return self.span_id

    class Exporter(OTLPSpanExporter):
        """Reports whether each batch was accepted."""

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            result = super().export(spans)
            exported(result is SpanExportResult.SUCCESS)
            return result

    resource = Resource.create({"service.version": __version__})
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "guestctl"}))
    ids = Ids()
    provider = TracerProvider(resource=resource, id_generator=ids, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Exporter(endpoint=endpoint)))
    return provider, ids


def _below(span: Span) -> Context:
    """Return the context of a span's parent, which is empty for the first span of a trace."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context

    if span.parent_id is None:
        return Context()
    return set_span_in_context(NonRecordingSpan(_context(span, span.parent_id)), Context())


def _context(span: Span, span_id: str) -> Any:
    from opentelemetry.trace import SpanContext, TraceFlags, TraceState

    state = TraceState.from_header([span.trace_state]) if span.trace_state else None
    return SpanContext(
        int(span.trace_id, 16),
        int(span_id, 16),
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
        trace_state=state,
    )


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1_000_000_000)
