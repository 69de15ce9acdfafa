"""The trace context and the baggage that go with each request and each socket (W3C Trace Context, W3C Baggage).

Knows: which context applies, and which headers carry it. Must not know: sessions, any API, how spans are exported.
A client imports this module only if there is something to send.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from guestctl.core.errors import UsageError
from guestctl.core.model import TraceContext
from guestctl.core.wire import is_trace_context

if TYPE_CHECKING:
    from guestctl.transport.span_tree import SpanTree

#: A member of a `tracestate` list (W3C Trace Context §3.3.1.3), and the maximum number of members.
_STATE_MEMBER = re.compile(r"[a-z0-9][a-z0-9_\-*/@]{0,255}=[ -+\--<>-~]{0,255}[!-+\--<>-~]")
_STATE_MEMBERS = 32
#: A member of a `baggage` list (W3C Baggage §3.2): name, value and properties. The limits are those of §3.3.2.
_BAGGAGE_MEMBER = re.compile(
    r"[!#-'*+\-.^-z|~A-Z0-9]+\s*=\s*[!#-+\--:<-\[\]-~]*(\s*;\s*[!#-'*+\-.^-z|~A-Z0-9]+(\s*=\s*[!#-+\--:<-\[\]-~]*)?)*"
)
_BAGGAGE_MEMBERS, _BAGGAGE_LENGTH = 64, 8192


class Propagation:
    """What a client sends of traces.

    `given` is the context of this command, which precedes that of a session. `baggage` is the value of the `baggage`
    header. `attribute` is the name of the custom attribute of messages that states the trace id. With `spans`, each
    request and each connection gets a span id of its own.
    """

    def __init__(
        self,
        given: TraceContext | None = None,
        *,
        baggage: str | None = None,
        attribute: str | None = None,
        spans: SpanTree | None = None,
    ) -> None:
        self._given = given
        self._attribute = attribute
        self._baggage = baggage
        self._spans = spans

    def context(self, stored: TraceContext | None) -> TraceContext | None:
        """Return the context of a session that has a `stored` one. With spans there always is one."""
        found = self._given or stored
        return found if self._spans is None else self._spans.begin(found)

    def headers(self, stored: TraceContext | None) -> dict[str, str]:
        """Return the headers of the next request, or of the next socket."""
        context = self.context(stored)
        if self._spans is not None:
            context = self._spans.next()
        found = {}
        if context is not None:
            found["traceparent"] = context.traceparent
            if context.tracestate:
                found["tracestate"] = context.tracestate
        if self._baggage:
            found["baggage"] = self._baggage
        return found

    def attributes(self, stored: TraceContext | None) -> dict[str, str]:
        """Return the custom attribute that states the trace id, empty if none is wanted. Raises UsageError."""
        if self._attribute is None:
            return {}
        context = self.context(stored)
        if context is None:
            raise UsageError(
                f'the attribute "{self._attribute}" has no value: there is no trace context',
                hint="give --traceparent or TRACEPARENT, or export spans (OTEL_EXPORTER_OTLP_ENDPOINT)",
            )
        return {self._attribute: context.trace_id}


def propagation(
    traceparent: str | None,
    environ: Mapping[str, str],
    *,
    baggage: bool = False,
    attribute: str | None = None,
    spans: SpanTree | None = None,
    notice: Callable[[str], None] = lambda text: None,
) -> Propagation:
    """Return what to send, from an option or argument (`traceparent`) and the environment.

    Raises UsageError for a `traceparent` or a baggage list that is not valid. A TRACEPARENT or TRACESTATE that is not
    valid is reported with `notice` and is not sent: it comes from the program around this one.
    """
    found = _given(traceparent, environ, notice)
    members = _baggage(environ.get("BAGGAGE", "")) if baggage else None
    return Propagation(found, baggage=members, attribute=attribute, spans=spans)


def _given(traceparent: str | None, environ: Mapping[str, str], notice: Callable[[str], None]) -> TraceContext | None:
    around = environ.get("TRACEPARENT") or None
    if traceparent is not None and not is_trace_context(traceparent):
        raise UsageError(f'traceparent: "{traceparent}" is not a W3C trace context')
    if traceparent is None and around is not None and not is_trace_context(around):
        notice("TRACEPARENT is not a W3C trace context and is not passed on")
        return None
    found = traceparent or around
    if found is None:
        return None
    state = environ.get("TRACESTATE", "").strip()
    if not state or around not in {None, found}:  # it belongs to the TRACEPARENT next to it
        return TraceContext(found)
    if not _is_trace_state(state):
        notice("TRACESTATE is not a W3C trace state and is not passed on")
        return TraceContext(found)
    return TraceContext(found, state)


def _is_trace_state(text: str) -> bool:
    members = [member.strip(" \t") for member in text.split(",")]
    named = [member for member in members if member]
    keys = {member.partition("=")[0] for member in named}
    return len(keys) == len(named) <= _STATE_MEMBERS and all(map(_STATE_MEMBER.fullmatch, named))


def _baggage(text: str) -> str | None:
    members = [member.strip(" \t") for member in text.split(",") if member.strip(" \t")]
    if len(members) > _BAGGAGE_MEMBERS or len(text) > _BAGGAGE_LENGTH:
        raise UsageError(f"BAGGAGE has more than {_BAGGAGE_MEMBERS} members or {_BAGGAGE_LENGTH} characters")
    for member in members:
        if not _BAGGAGE_MEMBER.fullmatch(member):
            raise UsageError(f'BAGGAGE: "{member}" is not a member of W3C baggage', hint="expected NAME=VALUE,…")
    return ",".join(members) or None
