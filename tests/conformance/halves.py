"""Run the suite against the client or against the sandbox.

Knows: which end the suite plays for each half. Must not know: the cases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.conformance.autobahn import AGENT, Results, fuzz_server, fuzzing_server, results
from tests.conformance.echo import EchoSandbox, converse


def client(python: str, room: Path, cases: Sequence[str], excluded: Sequence[str]) -> Results:
    with fuzzing_server(python, room, cases, excluded) as url:
        (count,) = converse(f"{url}/getCaseCount", echo=False)
        for case in range(1, int(count) + 1):
            converse(f"{url}/runCase?case={case}&agent={AGENT}", echo=True)
        converse(f"{url}/updateReports?agent={AGENT}", echo=False)
    return results(room)


def server(python: str, room: Path, cases: Sequence[str], excluded: Sequence[str]) -> Results:
    with EchoSandbox() as sandbox:
        fuzz_server(python, room, f"ws://127.0.0.1:{sandbox.port}/", cases, excluded)
    return results(room)


HALVES: Mapping[str, Callable[[str, Path, Sequence[str], Sequence[str]], Results]] = {
    "client": client,
    "server": server,
}
