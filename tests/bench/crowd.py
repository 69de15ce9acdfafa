"""The sandbox with many guests, and many clients in one process."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from tests.bench.figures import Figure, Scale, side_by_side
from tests.bench.processes import bare, environment, module, resident, run, sandbox, serving


def idle(scale: Scale) -> Iterator[Figure]:
    with TemporaryDirectory() as place:
        environ = environment(Path(place) / "state")
        with sandbox(environ) as (found, service):
            before = resident(service.pid)
            with serving(guests(found, scale.idle, 0, ""), environ) as (told, _):
                each = (resident(service.pid) - before) / scale.idle * 1024
        held = float(told["held"])
        note = f"{each:.0f} kB of the service's memory each"
        name, share = "sandbox, idle guests held", held / scale.idle
        yield Figure(name, "asked for", held, scale.idle, "guests", share, 1.0, ceiling=False, note=note)


def echo(scale: Scale) -> Iterator[Figure]:
    with TemporaryDirectory() as place:
        environ = environment(Path(place) / "state")
        with sandbox(environ) as (ours, _), serving(bare("echo"), environ) as (theirs, _):
            yield side_by_side(
                f"sandbox, echo round trips/s of {scale.guests}",
                lambda: _trips(ours, scale, environ, '"direction":"Outbound"'),
                lambda: _trips(theirs, scale, environ, "onMessage"),
                runs=scale.rounds,
                aim=0.5,
                ceiling=False,
                baseline="a bare tornado echo",
                unit="/s",
            )


def guests(found: Mapping[str, str], count: int, trips: int, answer: str) -> list[str]:
    """Return the words of a program that connects guests, who say something and wait for the answer, in turn."""
    place = urlsplit(found["socket_url"])
    words = (str(place.hostname), str(place.port), place.path, found["deployment_id"], str(count), str(trips), answer)
    return bare("guests", *words)


def _trips(found: Mapping[str, str], scale: Scale, environ: Mapping[str, str], answer: str) -> float:
    with serving(guests(found, scale.guests, scale.trips, answer), environ) as (told, _):
        return float(told["second"])


def clients(scale: Scale) -> Iterator[Figure]:
    with TemporaryDirectory() as place:
        environ = environment(Path(place) / "state")
        with sandbox(environ) as (found, _):
            environ["GUESTCTL_SANDBOX_URL"] = found["url"]
            url = f"{found['socket_url']}?deploymentId={found['deployment_id']}"
            count = str(scale.clients)
            yield side_by_side(
                f"{scale.clients} clients in one process",
                lambda: _seconds(module("tests.bench.many", count), environ),
                lambda: _seconds(bare("many", url, count), environ),
                runs=scale.rounds,
                aim=6.0,
                baseline="as many websocket-client connections",
                unit="s",
                warm=0,
                note="all open at once, no descriptor and no thread left behind",
            )


def _seconds(argv: list[str], environ: Mapping[str, str]) -> float:
    return float(json.loads(run(argv, environ))["seconds"])
