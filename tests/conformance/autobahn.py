"""Find and run the Autobahn test suite, and read its report.

Knows: `wstest`, its specifications and its reports. Must not know: anything of guestctl.

The suite is Python 2 code, so it lives in an environment of its own:
`python2.7 -m virtualenv ENV && ENV/bin/python -m pip install autobahntestsuite==0.8.2`.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: The Python 2.7 that has the suite, unless the command line names one.
VARIABLE = "WSTEST_PYTHON27"
AGENT = "guestctl"
#: Compression, which neither side negotiates.
EXCLUDED = ("12.*", "13.*")
#: Its section of speed: sixteen-megabyte messages and sixty thousand fragments.
SPEED = "9.*"
PATIENCE = 30.0


class Missing(Exception):
    """No Python interpreter with the suite was found."""


@dataclass(frozen=True)
class Results:
    """The suite's verdict on each case and on the close that ended it."""

    cases: Mapping[str, tuple[str, str]]

    @property
    def bad(self) -> list[str]:
        """Return the cases that failed or ended with a wrong close."""
        fine = {"OK", "NON-STRICT", "INFORMATIONAL"}
        return [case for case, said in self.cases.items() if not fine.issuperset(said)]

    def table(self) -> str:
        """Return the counts, then the cases that are not OK."""
        behaviour, close = (Counter(said[n] for said in self.cases.values()) for n in (0, 1))
        lines = [f"cases {len(self.cases)}", _counted("behaviour", behaviour), _counted("close", close)]
        lines += [f"  {case:<10}{one}, close {two}" for case, (one, two) in self.cases.items() if {one, two} != {"OK"}]
        return "\n".join(lines)


def _counted(what: str, counts: Counter[str]) -> str:
    return f"{what:<10}" + ", ".join(f"{name} {count}" for name, count in counts.most_common())


def interpreter(given: str | None) -> str:
    """Return the Python interpreter that runs the suite. Raise Missing if there is none."""
    python = given or os.environ.get(VARIABLE)
    if not python:
        raise Missing(f"no Python 2.7 with autobahntestsuite: give --python27 PATH or set {VARIABLE}")
    try:
        subprocess.run([python, "-c", "import autobahntestsuite"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        raise Missing(f"{python} cannot import autobahntestsuite") from None
    return python


@contextmanager
def fuzzing_server(python: str, room: Path, cases: Sequence[str], excluded: Sequence[str]) -> Iterator[str]:
    """Run the suite as a server. Yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"ws://127.0.0.1:{port}"
    process = _wstest(python, room, "fuzzingserver", {"url": url, "options": {"failByDrop": False}}, cases, excluded)
    try:
        _await_port(process, port)
        yield url
    finally:
        process.terminate()
        process.wait()


def fuzz_server(python: str, room: Path, url: str, cases: Sequence[str], excluded: Sequence[str]) -> None:
    """Run the suite as a client of the server at `url` until all cases are done."""
    server = {"agent": AGENT, "url": url, "options": {"version": 18}}
    more = {"servers": [server], "options": {"failByDrop": False}}
    _wstest(python, room, "fuzzingclient", more, cases, excluded).wait()


def results(room: Path) -> Results:
    """Return the suite's report in its own order. Raise OSError if it wrote none."""
    found = json.loads((room / "index.json").read_text())[AGENT]
    order = sorted(found, key=lambda case: [int(part) for part in case.split(".")])
    return Results({case: (found[case]["behavior"], found[case]["behaviorClose"]) for case in order})


def _wstest(
    python: str, room: Path, mode: str, more: Mapping[str, Any], cases: Sequence[str], excluded: Sequence[str]
) -> subprocess.Popen[bytes]:
    lists = {"cases": list(cases), "exclude-cases": list(excluded), "exclude-agent-cases": {}}
    spec = room / "spec.json"
    spec.write_text(json.dumps({"outdir": str(room), **more, **lists}))
    words = [python, "-W", "ignore", "-m", "autobahntestsuite.wstest", "-m", mode, "-s", str(spec), "-u", "0"]
    with (room / "wstest.log").open("wb") as log:
        return subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def _await_port(process: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise Missing("wstest does not listen")
