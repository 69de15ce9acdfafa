"""Read single pages of a history that grows: a page must cost the same in a long conversation."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import requests

from tests.bench.archive import SIZE, fill, page_of
from tests.bench.figures import Figure, Scale
from tests.bench.processes import environment, guestctl, module, run, serving

#: How many times as long the longer conversation is.
GROWTH = 6


def pages(scale: Scale) -> Iterator[Figure]:
    """Compare the newest, the middle and the oldest page of a conversation with those of a longer one."""
    short = max(SIZE * 2, scale.kept // 10)
    with TemporaryDirectory() as place:
        environ = environment(Path(place) / "state")
        with serving(module("tests.bench.seeded"), environ) as (found, service):
            environ["GUESTCTL_SANDBOX_URL"] = found["url"]
            run(guestctl("session", "create"), environ)
            fill(service, short)
            before = _milliseconds(*page_of(found, environ), short, scale.rounds)
            fill(service, short * (GROWTH - 1))
            after = _milliseconds(*page_of(found, environ), short * GROWTH, scale.rounds)
    for name, theirs, ours in zip(("newest", "middle", "oldest"), before, after, strict=True):
        yield Figure(
            f"sandbox: {name} page of {short * GROWTH:,}", f"of {short:,}", ours, theirs, "ms", ours / theirs, 1.5
        )


def _milliseconds(url: str, jwt: str, size: str, length: int, rounds: int) -> list[float]:
    """Return the median time of the newest, the middle and the oldest page."""
    last = length // int(size)
    with requests.Session() as client:
        client.headers["Authorization"] = f"Bearer {jwt}"
        return [
            statistics.median(_time(client, url, number, size) for _ in range(10 * rounds))
            for number in (1, max(1, last // 2), last)
        ]


def _time(client: requests.Session, url: str, number: int, size: str) -> float:
    answer = client.get(url, params={"pageNumber": str(number), "pageSize": size}, timeout=30)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["entities"]) == int(size)
    return answer.elapsed.total_seconds() * 1000
