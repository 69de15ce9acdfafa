"""Readers of all four kinds at once. `python -m tests.grpc.crowd` runs 20 of them with 300 messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("grpc", reason="guestctl[grpc] is not installed (CONTRIBUTING.md has the command)")

from tests.grpc import crowd
from tests.grpc.crowd import run
from tests.relay.processes import RelayProcess


@pytest.mark.parametrize("seed", [0, 1])
def test_readers_of_all_four_kinds_have_what_the_log_has(seed: int) -> None:
    problems, figures = run(readers=8, away=3, seconds=0, messages=60, resets=2, seed=seed)
    assert problems == []
    assert figures.startswith("8 readers (2 sse, 2 json lines, 2 websocket, 2 grpc), 3 of them away")


def test_a_lost_and_a_repeated_event_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = crowd.stream_of

    @contextmanager
    def dishonest(relay: RelayProcess, protocol: str, after: str) -> Iterator[Iterator[tuple[str, dict[str, Any]]]]:
        with honest(relay, protocol, after) as events:
            copies = {("grpc", 7): 0, ("sse", 9): 2}
            yield (event for n, event in enumerate(events) for _ in range(copies.get((protocol, n), 1)))

    monkeypatch.setattr(crowd, "stream_of", dishonest)
    problems, _ = run(readers=4, away=0, seconds=0, messages=30, resets=0, seed=0)
    assert [problem.partition(";")[0] for problem in problems] == [
        "reader 0 (sse) got 32 of 31 events",
        "reader 3 (grpc) got 30 of 31 events",
    ]
