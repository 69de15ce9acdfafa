"""The spans of commands, as a collector gets them: arguments in, OTLP out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from guestctl.dialects import NAMES
from guestctl.storage.state import State
from tests.integration.front import Guest, Room, check, listen
from tests.integration.test_compliance import break_off
from tests.otel.collector import Collector

pytest.importorskip(
    "opentelemetry.exporter.otlp.proto.http.trace_exporter", reason="the packages of tests/otel are not installed"
)

TRACE, ABOVE = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{ABOVE}-01"
SOCKETS = ["web-messaging", "guest-sessions", "conversation-guests", "messaging-conversations", "guests"]
INTERNAL, CLIENT = 1, 3


@pytest.fixture
def traced(guest: Guest, collector: Collector) -> Guest:
    """A guest whose commands export spans."""
    environ = {**guest.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    return Guest(guest.api, environ, guest.cwd, guest.clock)


def sent_ids(room: Room) -> dict[str, list[str]]:
    """Return the trace id and the span id of the context that the service got last on each route."""
    return {route: context.split("-")[1:3] for route, context in room.session["traceparents"].items()}


@pytest.mark.parametrize("api", NAMES)
def test_a_question_is_a_tree(traced: Guest, room: Room, collector: Collector) -> None:
    """Command > turn > requests and connections, in one trace; the turn has the steps of the message."""
    traced.ok("session", "create")
    collector.spans.clear()
    traced.ok("ask", "Where is my parcel?")
    root, turn = collector.one("guestctl ask"), collector.one("turn")
    assert {span.trace_id for span in collector.spans} == {root.trace_id}
    assert collector.orphans(above=[root.parent_id]) == []
    assert (turn.parent_id, root.kind, turn.kind) == (root.span_id, INTERNAL, INTERNAL)
    events = [name for name, _ in turn.events]
    assert events[0] == "write"
    assert sorted(events) == ["accepted", "first_reply", "write"]
    assert (turn.attributes["guestctl.delivery"], turn.attributes["guestctl.replies"]) == ("accepted", 1)
    question = next(message for message in room.session["messages"] if message["direction"] == "inbound")
    assert turn.attributes["guestctl.message.id"] == question["id"]
    assert (root.attributes["process.exit.code"], root.failed, turn.failed) == (0, False, False)
    assert root.resource["service.name"] == "guestctl"
    if traced.dialect.has_socket:
        socket = collector.one("websocket")
        assert socket.parent_id == turn.span_id
        assert collector.below(socket) == ["connect", "upgrade", "configure"]
        assert socket.attributes["http.response.status_code"] == 101
        assert socket.attributes["server.port"] == socket.attributes["network.peer.port"] == room.sandbox.port
    for span in collector.spans:
        assert span.start <= span.end
        assert "text" not in json.dumps(span.attributes)


@pytest.mark.parametrize("api", NAMES)
def test_what_is_sent_names_the_span_that_sends_it(traced: Guest, room: Room, collector: Collector) -> None:
    traced.ok("session", "create")
    traced.ok("send", "hi")
    traced.ok("history")
    ids = {span.span_id: span for span in collector.spans}
    for route, (trace_id, span_id) in sent_ids(room).items():
        assert ids[span_id].trace_id == trace_id
        assert ids[span_id].name == "websocket" or ids[span_id].attributes["guestctl.route"] == route
    assert ids[sent_ids(room)["history"][1]].name == "GET history"


@pytest.mark.parametrize("api", ["web-messaging", "guests", "external-contacts"])
def test_all_commands_of_a_session_are_one_trace(traced: Guest, room: Room, collector: Collector) -> None:
    """The context that the first command makes is stored with the session."""
    traced.ok("session", "create")
    traced.ok("send", "hi")
    traced.ok("history")
    created = collector.one("guestctl session create")
    assert created.parent_id == ""
    assert {span.trace_id for span in collector.spans} == {created.trace_id}
    for name in ("guestctl send", "guestctl history"):
        assert collector.one(name).parent_id == created.span_id
    assert collector.orphans() == []


@pytest.mark.parametrize("api", ["web-messaging", "webmessaging-conversations"])
def test_a_given_context_is_above_the_command(traced: Guest, room: Room, collector: Collector) -> None:
    traced.ok("session", "create", TRACEPARENT=PARENT, TRACESTATE="rojo=1")
    assert {span.trace_id for span in collector.spans} == {TRACE}
    assert collector.one("guestctl session create").parent_id == ABOVE
    assert collector.orphans(above=[ABOVE]) == []
    assert {trace for trace, _ in sent_ids(room).values()} <= {TRACE}


@pytest.mark.parametrize("api", ["conversation-guests"])
def test_a_context_that_is_not_sampled_exports_nothing(traced: Guest, room: Room, collector: Collector) -> None:
    traced.ok("session", "create", TRACEPARENT=PARENT[:-1] + "0")
    assert collector.spans == []
    assert room.session["traceparents"]["create"].startswith(f"00-{TRACE}-")
    assert room.session["traceparents"]["create"].endswith("-00")


@pytest.mark.parametrize("api", SOCKETS)
def test_a_reconnect_links_to_the_broken_connection(traced: Guest, room: Room, collector: Collector) -> None:
    """Each connection has a span of its own, and states it in its header and its first frame."""
    traced.ok("session", "create")
    collector.spans.clear()
    trace = traced.cwd / "trace"

    def lose() -> None:
        break_off(traced, room)
        room.push("back")

    listen(traced, "--max", "1", "--trace", str(trace), lives=[lose])
    first, *refused, second = sorted(collector.named("websocket"), key=lambda span: span.start)
    assert (first.links, second.links) == ([], [first.span_id])
    assert (first.failed, second.failed) == (True, False)
    for attempt in refused:  # guest-sessions locks the session for a while
        assert (attempt.links, attempt.attributes["error.type"]) == ([first.span_id], "409")
    assert first.attributes["error.type"] == str(first.attributes["guestctl.close.code"])
    root = collector.one("guestctl listen")
    assert {first.parent_id, second.parent_id} == {root.span_id}
    assert root.attributes["guestctl.messages"] == 1
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    upgrades = [line["request_headers"]["traceparent"].split("-")[2] for line in lines if line["kind"] == "upgrade"]
    frames = [json.loads(line["text"]) for line in lines if line["kind"] == "frame_out"]
    first_frames = [frame["traceparent"].split("-")[2] for frame in frames if "traceparent" in frame]
    assert upgrades == [first.span_id, *(attempt.span_id for attempt in refused), second.span_id]
    assert first_frames in ([], [first.span_id, second.span_id])


@pytest.mark.parametrize("api", ["web-messaging", "webmessaging-conversations"])
def test_failures_are_marked(traced: Guest, room: Room, collector: Collector) -> None:
    traced.ok("session", "create")
    collector.spans.clear()
    room.faults("http:status=403,on=history")
    check(traced("history"), 5, "forbidden")
    root, request = collector.one("guestctl history"), collector.one("GET history")
    assert (root.failed, root.attributes["error.type"], root.attributes["process.exit.code"]) == (True, "forbidden", 5)
    assert (request.failed, request.attributes["error.type"]) == (True, "403")
    assert request.attributes["http.response.status_code"] == 403


@pytest.mark.parametrize("api", ["webmessaging-conversations", "guests"])
def test_a_repeated_request_is_counted(traced: Guest, room: Room, collector: Collector) -> None:
    traced.ok("session", "create")
    collector.spans.clear()
    room.faults("http:status=503,on=history,times=2")
    traced.ok("history")
    requests = sorted(collector.named("GET history"), key=lambda span: span.start)
    assert [span.attributes.get("http.request.resend_count") for span in requests] == [None, 1, 2]
    assert [name for name, _ in collector.one("guestctl history").events] == ["retry", "retry"]


@pytest.mark.parametrize("api", ["web-messaging", "guest-sessions"])
def test_text_is_exported_only_on_request(traced: Guest, collector: Collector) -> None:
    traced.ok("ask", "Where is my parcel?")
    assert not any(b"parcel" in body for body in collector.bodies)
    traced.ok("ask", "Where is my parcel?", GUESTCTL_SPAN_TEXT="yes")
    turn = collector.named("turn")[-1]
    assert dict(turn.events)["write"]["guestctl.text"] == "Where is my parcel?"
    assert dict(turn.events)["first_reply"]["guestctl.text"] == "echo: Where is my parcel?"


@pytest.mark.parametrize("api", NAMES)
def test_no_secret_is_exported(traced: Guest, collector: Collector) -> None:
    traced.ok("session", "create", GUESTCTL_SPAN_TEXT="yes")
    traced.ok("ask", "hi", GUESTCTL_SPAN_TEXT="yes")
    with State.open(traced.cwd / "state", traced.clock) as state:
        tokens = [held.secret.reveal() for _, session in state.sessions() for held in session.credentials.values()]
    assert tokens
    assert not any(token.encode() in body for token in tokens for body in collector.bodies)


@pytest.mark.parametrize("api", ["web-messaging", "external-contacts"])
def test_every_scenario_of_a_check_is_a_trace(traced: Guest, collector: Collector) -> None:
    script = traced.cwd / "two.yaml"
    script.write_text("scenarios: {one: [say: hi, expect: {contains: hi}], two: [say: hi, expect: {contains: never}]}")
    assert traced("check", str(script), "--parallel", "2", "--timeout", "1").code == 1
    one, two = collector.one("scenario one"), collector.one("scenario two")
    assert one.trace_id != two.trace_id
    assert (one.attributes["guestctl.verdict"], one.failed) == ("passed", False)
    assert (two.attributes["guestctl.verdict"], two.failed) == ("failed", True)
    assert {span.parent_id for span in collector.named("turn")} == {one.span_id, two.span_id}
    assert collector.orphans() == []


@pytest.mark.parametrize("api", ["web-messaging"])
def test_every_line_of_send_is_a_turn(traced: Guest, collector: Collector) -> None:
    traced.ok("session", "create")
    collector.spans.clear()
    sent = traced.ok("send", "-", "--lines", stdin="one\ntwo\nthree\n").records
    assert [turn.attributes["guestctl.message.key"] for turn in collector.named("turn")] == [r["key"] for r in sent]
    assert collector.one("websocket").parent_id == collector.named("turn")[0].span_id


# --- on and off ---


@pytest.mark.parametrize("api", ["conversation-guests"])
@pytest.mark.parametrize(
    ("environ", "exported"),
    [
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": ""}, True),
        ({"OTEL_SDK_DISABLED": "TRUE"}, False),
        ({"OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_TRACES_EXPORTER": "console"}, False),
    ],
)
def test_variables_switch_the_export(
    traced: Guest, collector: Collector, environ: dict[str, Any], exported: bool
) -> None:
    traced.ok("session", "create", **environ)
    assert bool(collector.spans) == exported


@pytest.mark.parametrize("api", ["conversation-guests"])
def test_the_endpoint_for_traces_is_used_as_it_is(
    traced: Guest, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{collector.url}/own/path")
    traced.ok("session", "create")
    assert set(collector.paths) == {"/own/path"}


@pytest.mark.parametrize("api", ["conversation-guests"])
def test_another_protocol_is_a_warning(traced: Guest, collector: Collector) -> None:
    found = traced("session", "create", OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    assert (found.code, collector.spans) == (0, [])
    assert found.err.count("\n") == 1
    assert "http/protobuf" in found.err


@pytest.mark.parametrize("api", ["conversation-guests"])
@pytest.mark.parametrize("status", [400, 503])
def test_a_collector_that_refuses_changes_nothing_but_one_warning(
    traced: Guest, collector: Collector, status: int
) -> None:
    collector.status = status
    found = traced("session", "create")
    assert (found.code, found.record["state"]) == (0, "active")
    assert len(found.err.splitlines()) == 1, found.err
    assert "spans" in found.err


@pytest.mark.parametrize("api", ["conversation-guests"])
def test_a_collector_that_hangs_delays_the_end_by_a_second_at_most(traced: Guest, collector: Collector) -> None:
    """The command ends while the collector still has the request."""
    collector.release.clear()
    found = traced("session", "create")
    assert collector.spans == []
    assert (found.code, found.record["state"]) == (0, "active")
    assert "not exported within 1 s" in found.err
