"""The trace context of a session: which one is sent, where it goes, and that it is stored."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from guestctl.cli import registry
from guestctl.dialects import NAMES, dialect_class
from guestctl.sandbox.server import Sandbox
from tests.cli.receiver import receiving
from tests.integration.conftest import Enter
from tests.integration.front import Guest, Room, check, listen
from tests.integration.test_compliance import break_off

FIRST = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SECOND = "00-5bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
THIRD = "00-6bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"

#: APIs whose messages have custom attributes.
ATTRIBUTED = [name for name in NAMES if "attr" in dialect_class(name).send_fields]


def sent(room: Room) -> set[str]:
    """Return the contexts that the service got last, on each route."""
    return set(room.session["traceparents"].values())


def test_the_context_is_stored_with_the_session(guest: Guest, room: Room) -> None:
    """Later commands without one of their own send it, in headers and frames, also after a reconnect."""
    guest.ok("session", "create", "--traceparent", FIRST)
    guest.ok("send", "hi")
    guest.ok("history")
    assert sent(room) == {FIRST}

    def lose() -> None:
        break_off(guest, room)
        room.push("back")

    trace = guest.cwd / "trace"
    listen(guest, "--max", "1", "--trace", str(trace), lives=[lose])
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    upgrades = [line["request_headers"]["traceparent"] for line in lines if line["kind"] == "upgrade"]
    first_frames = [json.loads(line["text"]).get("traceparent") for line in lines if line["kind"] == "frame_out"]
    assert set(upgrades) == ({FIRST} if guest.dialect.has_socket else set())
    assert len(upgrades) >= 2 * guest.dialect.has_socket
    assert {found for found in first_frames if found} <= {FIRST}
    assert sent(room) == {FIRST}


def test_an_option_precedes_the_environment_which_precedes_the_stored_context(guest: Guest, room: Room) -> None:
    guest.ok("session", "create", "--traceparent", FIRST)
    guest.ok("history", TRACEPARENT=SECOND)
    assert room.session["traceparents"]["history"] == SECOND
    guest.ok("history", "--traceparent", THIRD, TRACEPARENT=SECOND)
    assert room.session["traceparents"]["history"] == THIRD
    guest.ok("history")
    assert room.session["traceparents"]["history"] == FIRST


@pytest.mark.parametrize("api", ["web-messaging", "conversation-guests"])
def test_a_session_without_a_context_stores_the_first_one(guest: Guest, room: Room) -> None:
    guest.ok("session", "create")
    guest.ok("send", "one")
    assert sent(room) == set()
    guest.ok("send", "two", TRACEPARENT=SECOND)
    guest.ok("history")
    assert room.session["traceparents"]["history"] == SECOND


@pytest.mark.parametrize("api", ["guests", "messaging-conversations"])
def test_a_new_session_gets_a_context_of_its_own(guest: Guest, room: Room) -> None:
    guest.ok("session", "create", "--traceparent", FIRST)
    guest.ok("session", "create", "--as", "other", "--traceparent", SECOND)
    guest.ok("history", "-s", "default")
    guest.ok("history", "-s", "other")
    assert [one["traceparents"]["history"] for one in room.sessions()] == [FIRST, SECOND]


@pytest.mark.parametrize("api", ["web-messaging", "guests"])
def test_a_session_that_was_taken_over_stores_its_context(guest: Guest, room: Room, enter: Enter) -> None:
    guest.ok("session", "create")
    record = guest.ok("session", "export", "--show-token").out
    copy = enter(room.sandbox, guest.api, state="copy")
    copy.ok("session", "attach", "--traceparent", FIRST, stdin=record)
    copy.ok("history")
    assert room.session["traceparents"]["history"] == FIRST


@pytest.mark.parametrize("api", ["webmessaging-conversations", "conversation-guests"])
@pytest.mark.parametrize(
    ("given", "state"),
    [
        ({"TRACEPARENT": FIRST, "TRACESTATE": "rojo=00f067aa0ba902b7, congo=t61rcWkgMzE"}, True),
        ({"TRACEPARENT": FIRST, "TRACESTATE": "Rojo=1"}, False),
        ({"TRACEPARENT": FIRST, "TRACESTATE": "a=1,a=2"}, False),
        ({"TRACEPARENT": "00-xyz", "TRACESTATE": "rojo=1"}, False),
        ({"TRACESTATE": "rojo=1"}, False),
    ],
)
def test_trace_state_goes_only_with_a_valid_trace_parent(guest: Guest, given: dict[str, Any], state: bool) -> None:
    headers = on_the_wire(guest, "session", "create", **given)
    assert headers.get("tracestate") == (given["TRACESTATE"] if state else None)
    assert ("traceparent" in headers) == (given.get("TRACEPARENT") == FIRST)


@pytest.mark.parametrize("api", ["webmessaging-conversations"])
def test_the_trace_state_of_another_context_is_not_sent(guest: Guest) -> None:
    """It belongs to TRACEPARENT, and an option replaces both."""
    argv = ("session", "create", "--traceparent", SECOND)
    assert "tracestate" not in on_the_wire(guest, *argv, TRACEPARENT=FIRST, TRACESTATE="rojo=1")
    assert on_the_wire(guest, *argv, TRACESTATE="rojo=1")["tracestate"] == "rojo=1"


@pytest.mark.parametrize("api", ["webmessaging-conversations", "conversation-guests"])
def test_baggage_is_sent_only_on_request(guest: Guest) -> None:
    baggage: dict[str, Any] = {"BAGGAGE": "userId=alice,serverNode=DF%2028;secure"}
    assert "baggage" not in on_the_wire(guest, "session", "create", **baggage)
    assert on_the_wire(guest, "session", "create", "--propagate-baggage", **baggage)["baggage"] == baggage["BAGGAGE"]
    assert "baggage" not in on_the_wire(guest, "session", "create", "--propagate-baggage")
    check(guest("session", "create", "--propagate-baggage", BAGGAGE="no member"), 2, "usage", "BAGGAGE")


def on_the_wire(guest: Guest, *argv: str, **environ: Any) -> Any:
    """Return the headers of the first request of a command, as a server got them."""
    with receiving() as server:
        address: dict[str, Any] = {"GUESTCTL_SANDBOX_URL": server.url.removesuffix("/hook")}
        assert guest(*argv, "--new", "--timeout", "1", **address, **environ).code
        return server.posts[0].headers


@pytest.mark.parametrize("api", ATTRIBUTED)
@pytest.mark.parametrize("words", [("send", "hi"), ("ask", "hi")])
def test_the_trace_id_is_an_attribute_of_messages(guest: Guest, room: Room, words: tuple[str, ...]) -> None:
    guest.ok("session", "create", "--attr", "plan=gold", "--traceparent", FIRST)
    guest.ok(*words, "--trace-attribute", "traceId")
    assert room.session["attributes"] == {"plan": "gold", "traceId": FIRST.split("-")[1]}


@pytest.mark.parametrize("api", ATTRIBUTED)
def test_a_check_states_the_trace_id_in_the_messages(guest: Guest, room: Room) -> None:
    script = guest.cwd / "one.yaml"
    script.write_text("scenarios: {one: [say: hi]}")
    guest.ok("check", str(script), "--trace-attribute", "traceId", TRACEPARENT=FIRST)
    assert room.session["attributes"]["traceId"] == FIRST.split("-")[1]


@pytest.mark.parametrize("api", ATTRIBUTED)
def test_an_attribute_without_a_trace_is_a_usage_error(guest: Guest, room: Room) -> None:
    guest.ok("session", "create")
    check(guest("send", "hi", "--trace-attribute", "traceId"), 2, "usage", "there is no trace context")
    assert room.texts() == []


@pytest.mark.parametrize("api", ["guests", "guest-sessions"])
def test_an_api_without_attributes_refuses_the_option(guest: Guest) -> None:
    guest.ok("session", "create")
    found = guest("send", "hi", "--trace-attribute", "traceId", TRACEPARENT=FIRST)
    check(found, 2, "usage.option", "--trace-attribute")


@pytest.mark.parametrize("api", ["conversation-guests", "web-messaging"])
def test_the_plan_of_a_command_has_the_context(guest: Guest) -> None:
    guest.ok("session", "create", "--traceparent", FIRST)
    steps = guest.ok("send", "hi", "--print-frames").records
    assert [step["headers"]["traceparent"] for step in steps if step["step"] == "connect"] == [FIRST]
    assert [step["body"].get("traceparent") for step in steps if step["step"] == "frame"] == [FIRST, None]


@pytest.mark.parametrize("api", ["web-messaging", "webmessaging-conversations"])
def test_spans_without_the_packages_are_one_warning(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    found = guest("session", "create", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")
    assert (found.code, found.record["state"]) == (0, "active")
    (line,) = found.err.splitlines()
    assert "guestctl[otel]" in line


def test_ask_imports_nothing_for_traces(sandbox: Sandbox, enter: Enter) -> None:
    """Without OTEL_* variables and without a context, there is nothing to pay for."""
    guest = enter(sandbox, "web-messaging")
    code = "import sys; from guestctl.__main__ import main; main(); print(*sys.modules)"
    argv = [sys.executable, "-c", code, "ask", "hi"]
    environ = {"PATH": "/usr/bin:/bin", **guest.environ}
    done = subprocess.run(argv, env=environ, cwd=guest.cwd, capture_output=True, text=True, check=True)
    modules = done.stdout.splitlines()[-1].split()
    assert "guestctl.client" in modules
    unwanted = ("opentelemetry", "google.protobuf", "guestctl.transport.span", "guestctl.transport.propagation")
    assert [name for name in modules if name.startswith(unwanted)] == []


def test_commands_that_send_nothing_as_a_guest_have_no_option_for_a_context(sandbox: Sandbox, enter: Enter) -> None:
    guest = enter(sandbox, "web-messaging")
    offline = [words for words, entry in registry.COMMANDS.items() if not entry.load().connects]
    assert {("sandbox", "serve"), ("replay",), ("apis",), ("session", "show")} <= set(offline)
    for words in offline:
        check(guest(*words, "--traceparent", FIRST, "-o", "json"), 2, "usage", "no such option: --traceparent")
