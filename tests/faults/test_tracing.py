"""Spans under random faults: every message in one turn, every reconnect linked, no orphan."""

from __future__ import annotations

import pytest

from tests.faults.counted import make_counted
from tests.faults.schedules import APIS, OVER_REST, SENDER, Schedule, Step
from tests.faults.tracing import judge_spans, run_traced

#: Schedules of the default run, and of the slow suite.
FEW, MANY = 7, 1000

pytestmark = pytest.mark.timeout(600)


def judged(first: int, count: int) -> tuple[int, int]:
    """Judge some schedules, of each API in turn. Return how many reconnects and turns they had."""
    reconnects = turns = 0
    for seed in range(first, first + count):
        schedule = make_counted(seed, APIS[seed % len(APIS)], "withholding")
        run, clients = run_traced(schedule)
        assert judge_spans(run, clients) == [], f"seed {seed}, {schedule.api}"
        reconnects += sum(max(0, len(client.named("websocket")) - 1) for client in clients)
        turns += sum(len(client.named("turn")) for client in clients)
    return reconnects, turns


def test_a_few_random_schedules_with_spans() -> None:
    reconnects, turns = judged(0, FEW)
    assert reconnects > 0
    assert turns > 0


def test_a_wrong_tree_is_found() -> None:
    """The judge would see a missing link, an orphan, and a message with two turns."""
    seeds = (seed for seed in range(100) if APIS[seed % len(APIS)] == "web-messaging")
    for seed in seeds:
        run, clients = run_traced(make_counted(seed, "web-messaging", "withholding"))
        sockets = [socket for client in clients for socket in client.named("websocket") if socket.links]
        turns = [turn for client in clients for turn in client.named("turn")]
        if sockets and len(turns) > 1:
            break
    assert judge_spans(run, clients) == []
    sockets[0].links.clear()
    assert any("links to" in problem for problem in judge_spans(run, clients))
    turns[0].parent_id = "f" * 16
    assert any("orphan" in problem for problem in judge_spans(run, clients))
    turns[0].attributes["guestctl.message.key"] = turns[1].attributes["guestctl.message.key"]
    assert any("has 2 turns" in problem for problem in judge_spans(run, clients))


@pytest.mark.parametrize("part", range(10))
def test_a_thousand_random_schedules_with_spans(part: int) -> None:
    reconnects, turns = judged(part * MANY // 10, MANY // 10)
    assert reconnects > 10
    assert turns > 100


@pytest.mark.parametrize("api", [api for api in APIS if api not in OVER_REST])
def test_a_message_whose_connection_breaks_is_one_turn(api: str) -> None:
    """Both connections belong to the turn, and the second links to the first."""
    steps = (Step("send", "guest 0", at=1.0), Step("send", "guest 1", at=40.0))
    events = (Step("stored", who=SENDER, how="cut", at=20.0),)
    run, clients = run_traced(Schedule(0, api, steps, counted=True, keys_return=False, events=events))
    assert judge_spans(run, clients) == []
    assert [result.delivery for result in run.sends] == ["accepted", "accepted"]
    sender = next(client for client in clients if client.named("turn"))
    _, second = sender.named("turn")
    assert [event.name for event in second.events if event.name != "retry"][-1] == "accepted"
