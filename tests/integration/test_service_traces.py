"""A trace that the sandbox writes has several guests: it can be replayed and exported for each of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from guestctl.core.redact import Redactor
from guestctl.sandbox.serve import running
from guestctl.sandbox.settings import SandboxOptions
from guestctl.sandbox_tools.replay import load, replay_apis
from guestctl.transport.har import har_of
from guestctl.transport.recorded_trace import by_run, guests_of, read_trace, spans_of
from guestctl.transport.trace import TraceFile, Watcher
from tests.integration.conftest import Enter, Serve
from tests.integration.front import Guest, InstantClock

Replayed = Callable[[Path], AbstractContextManager[Any]]


@pytest.fixture
def trace(serve: Serve, enter: Enter, api: str, time: InstantClock, tmp_path: Path) -> Path:
    """The trace of a sandbox with two guests, who take turns. Both ask, and read their history."""
    path = tmp_path / "service.trace"
    with TraceFile(path) as file:
        sandbox = serve(observer=Watcher(time, Redactor(), file, None))
        first, second = enter(sandbox, api, state="first"), enter(sandbox, api, state="second")
        for command in ("ask {}", "ask more-{}", "history"):
            for guest, name in ((first, "one"), (second, "two")):
                guest.ok(*command.format(name).split())
        sandbox.stop()
    return path


def sessions_in(path: Path) -> list[str]:
    lines = (json.loads(line) for line in path.read_text().splitlines())
    return list(dict.fromkeys(line["session"] for line in lines if "session" in line))


def test_every_line_of_a_guest_is_found(trace: Path) -> None:
    """The lines before a session became known belong to it, too."""
    sessions = sessions_in(trace)
    assert len(sessions) == 2
    runs = {run[0].run[1]: run for run in by_run(read_trace(trace))}
    assert set(runs) - {""} == set(sessions)
    for session in sessions:
        assert runs[session][0].kind in {"connect", "request"}
        other = "two" if "echo: one" in str([line.data for line in runs[session]]) else "one"
        assert f"more-{other}" not in str([line.data for line in runs[session]])
    assert all(line.data.get("route") in {"oauth", "configuration"} for line in runs.get("", ()))


def test_it_becomes_har_and_spans(trace: Path) -> None:
    lines = read_trace(trace)
    entries = har_of(lines)["log"]["entries"]
    assert len(entries) == sum(line.kind in {"request", "connect"} for line in lines)
    assert all(entry["response"]["status"] in {101, 200, 201, 204} for entry in entries)
    frames = [message["data"] for entry in entries for message in entry.get("_webSocketMessages", ())]
    assert len(frames) == sum(line.kind in {"frame_in", "frame_out"} for line in lines)
    spans = spans_of(trace, lines)
    assert {span.name for span in spans} >= {f"trace service.trace {session}" for session in sessions_in(trace)}


def replies(guest: Guest, text: str) -> str:
    return guest.ok("ask", text).out.strip()


def test_each_of_two_guests_meets_another_recorded_guest(trace: Path, enter: Enter, api: str) -> None:
    """The second guest of a replay repeats the second guest of the trace, and both go on with their own."""
    with running(SandboxOptions(fast=True), apis=replay_apis(load([trace]))) as sandbox:
        first, second = enter(sandbox, api, state="a"), enter(sandbox, api, state="b")
        assert [replies(first, "x"), replies(second, "x")] == ["echo: one", "echo: two"]
        assert [replies(first, "x"), replies(second, "x")] == ["echo: more-one", "echo: more-two"]
        shown = [
            [record["text"] for record in guest.ok("history", "-o", "jsonl").records if record.get("text")]
            for guest in (first, second)
        ]
    assert shown == [
        ["one", "echo: one", "more-one", "echo: more-one"],
        ["two", "echo: two", "more-two", "echo: more-two"],
    ]


def test_a_replay_can_be_run_again(trace: Path, enter: Enter, api: str) -> None:
    with running(SandboxOptions(fast=True), apis=replay_apis(load([trace]))) as sandbox:
        found = [replies(enter(sandbox, api, state=f"run {number}"), "x") for number in range(4)]
    assert found == ["echo: one", "echo: two"] * 2


def test_sessions_that_share_sockets_in_a_circle_are_one_guest() -> None:
    pairs = [(1, "a"), (2, "b"), (2, "a"), (1, "b"), (3, "c"), (4, None)]
    lines = [(1, {"socket": number, **({} if name is None else {"session": name})}) for number, name in pairs]
    assert guests_of(lines) == ["b", "b", "b", "b", "c", "socket 4"]
