"""Read a long history completely, from a service that answers with bytes it has prepared."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import websocket

from guestctl.core.clock import SystemClock
from guestctl.storage.state import State
from tests.bench.figures import Figure, Sample, Scale, side_by_side
from tests.bench.processes import bare, environment, guestctl, module, peak, run, serving, timed

SIZE = 100


def history(scale: Scale) -> Iterator[Figure]:
    with TemporaryDirectory() as place:
        environ = environment(Path(place) / "state")
        with serving(module("tests.bench.seeded", "--prepared"), environ) as (found, service):
            environ["GUESTCTL_SANDBOX_URL"] = found["url"]
            run(guestctl("session", "create"), environ)
            some = max(SIZE, scale.kept // 10)
            fill(service, some)
            ours = guestctl("history", "--all", "-o", "jsonl")
            short = peak(ours, environ)
            fill(service, scale.kept - some)
            whole = peak(ours, environ)
            yield side_by_side(
                f"history --all of {scale.kept:,}, messages/s",
                lambda: _rate(scale.kept, timed(ours, environ)),
                lambda: _rate(scale.kept, timed(bare("history", *page_of(found, environ)), environ)),
                runs=scale.rounds,
                aim=0.87,
                ceiling=False,
                baseline="requests, page by page, a line each",
                unit="/s",
                warm=0,
            )
            name = f"history, peak memory of {scale.kept:,}"
            yield Figure(name, f"of {some:,}", whole, short, "MB", whole - short, 5.0, kind="more")


def _rate(count: int, run: Sample) -> Sample:
    """Return a run as messages per second."""
    return replace(run, value=count / run.value * 1000)


def page_of(found: Mapping[str, str], environ: Mapping[str, str]) -> tuple[str, str, str]:
    return f"{found['url']}/api/v2/webmessaging/messages", _jwt(found, environ), str(SIZE)


def fill(service: subprocess.Popen[bytes], count: int) -> None:
    assert service.stdin is not None
    assert service.stdout is not None
    service.stdin.write(b"%d\n" % count)
    service.stdin.flush()
    assert service.stdout.readline() == b"filled\n"


def _jwt(found: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """Return a token for the history of the stored session."""
    with State.open(Path(environ["GUESTCTL_STATE"]), SystemClock()) as state:
        [(_, session)] = state.sessions()
    socket = websocket.create_connection(f"{found['socket_url']}?deploymentId={found['deployment_id']}")
    said = {"token": session.token(), "tracingId": "1", "deploymentId": found["deployment_id"], "startNew": False}
    for action, kind in (("configureSession", "SessionResponse"), ("getJwt", "JwtResponse")):
        socket.send(json.dumps({"action": action, **said}))
        while (frame := json.loads(socket.recv()))["class"] != kind:
            pass
    socket.close()
    return str(frame["body"]["jwt"])
