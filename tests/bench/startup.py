"""Short commands: from the start of the process to its exit."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

from guestctl.clock import SystemClock
from guestctl.model import Session
from guestctl.state import State
from tests.bench.figures import Figure, Scale, side_by_side
from tests.bench.processes import bare, environment, guestctl, run, sandbox, wall

TYPER = (sys.executable, "-c", "import typer")


def version(scale: Scale) -> Iterator[Figure]:
    yield from _beside_typer(scale, "--version")


def help_(scale: Scale) -> Iterator[Figure]:
    yield from _beside_typer(scale, "--help")


def _beside_typer(scale: Scale, *words: str) -> Iterator[Figure]:
    with TemporaryDirectory() as place:
        environ = environment(Path(place))
        yield side_by_side(
            f"guestctl {' '.join(words)}",
            lambda: wall(guestctl(*words), environ),
            lambda: wall(TYPER, environ),
            runs=scale.runs,
            aim=1.3,
            beside="python -c 'import typer'",
        )


@contextmanager
def places(names: list[str], *options: str) -> Iterator[tuple[dict[str, str], dict[str, str], Callable[[], str]]]:
    """A sandbox, an environment that finds it, and whose turn it is among sessions of these names.

    Several sessions, because one may send only two messages a second.
    """
    with TemporaryDirectory() as place:
        environ = environment(Path(place) / "state")
        with sandbox(environ) as (found, _):
            for name in names:
                run(guestctl("session", "create", "--as", name, *options), environ)
            turn = turns(names)
            yield environ, found, turn


def turns(names: list[str]) -> Callable[[], str]:
    """Each name in its turn, over and over."""
    return cycle(names).__next__


NAMES = [f"guest-{number}" for number in range(8)]


def ask(scale: Scale) -> Iterator[Figure]:
    with places(NAMES) as (environ, found, turn):
        url = f"{found['socket_url']}?deploymentId={found['deployment_id']}"
        token = str(uuid.uuid4())
        yield side_by_side(
            "ask",
            lambda: wall(guestctl("-s", turn(), "ask", "hello"), environ),
            lambda: wall(bare("ask", url, token, "hello"), environ),
            runs=scale.runs,
            aim=2.0,
            beside="websocket-client, the same frames",
            warm=2,
        )


#: REST API -> the path of its message request, and its body.
REST: dict[str, tuple[Callable[[Session], str], Callable[[Session], dict[str, object]]]] = {
    "guest-sessions": (
        lambda s: f"/api/v2/guest/webmessaging/sessions/{_id(s, 'session')}/messages",
        lambda s: {"messageId": str(uuid.uuid4()), "text": "hello"},
    ),
    "external-contacts": (
        lambda s: f"/api/v2/conversations/messaging/external-contacts/{_id(s, 'guest')}/messages",
        lambda s: {"messageId": str(uuid.uuid4()), "text": "hello"},
    ),
    "webmessaging-conversations": (
        lambda s: f"/api/v2/webmessaging/conversations/{_id(s, 'conversation')}/messages",
        lambda s: {"type": "text", "guestId": s.ids["guest"], "messageId": str(uuid.uuid4()), "text": "hello"},
    ),
}


def _id(session: Session, name: str) -> str:
    return quote(str(session.ids[name]), safe="")


def send(scale: Scale) -> Iterator[Figure]:
    for api in REST:
        yield from _send(scale, api)


def _send(scale: Scale, api: str) -> Iterator[Figure]:
    path, body = REST[api]
    with places(NAMES, "--api", api) as (environ, found, turn):
        with State.open(Path(environ["GUESTCTL_STATE"]), SystemClock()) as state:
            session = next(one for _, one in state.sessions() if one.name == NAMES[-1])
        url, token = found["url"] + path(session), session.token()
        yield side_by_side(
            f"send, {api}",
            lambda: wall(guestctl("--api", api, "-s", turn(), "send", "hello"), environ),
            lambda: wall(bare("send", url, token, json.dumps(body(session))), environ),
            runs=scale.runs,
            aim=1.6,
            beside="one POST by requests",
            warm=2,
        )
