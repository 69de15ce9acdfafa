"""Readers of all four kinds at once. `python -m tests.grpc.crowd` runs 20 of them with 300 messages."""

from __future__ import annotations

import pytest

pytest.importorskip("grpc", reason="guestctl[grpc] is not installed (CONTRIBUTING.md has the command)")

from tests.grpc.crowd import run


@pytest.mark.parametrize("seed", [0, 1])
def test_readers_of_all_four_kinds_have_what_the_log_has(seed: int) -> None:
    problems, figures = run(readers=8, away=3, seconds=0, messages=60, resets=2, seed=seed)
    assert problems == []
    assert figures.startswith("8 readers (2 sse, 2 json lines, 2 websocket, 2 grpc), 3 of them away")
