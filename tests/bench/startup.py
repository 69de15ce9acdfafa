"""Short commands, measured from the start of the process to its exit."""

from __future__ import annotations

import json
import statistics
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

from guestctl import dialects
from guestctl.core.clock import SystemClock
from guestctl.core.model import Session
from guestctl.storage.state import State
from tests.bench.figures import Figure, Sample, Scale, side_by_side
from tests.bench.processes import bare, environment, guestctl, run, sandbox, timed
from tests.examples import Json, fill, load, match

TYPER = (sys.executable, "-c", "import typer")


def version(scale: Scale) -> Iterator[Figure]:
    yield from _compared_with_typer(scale, "--version")


def help_(scale: Scale) -> Iterator[Figure]:
    yield from _compared_with_typer(scale, "--help")


def _compared_with_typer(scale: Scale, *words: str) -> Iterator[Figure]:
    with TemporaryDirectory() as place:
        environ = environment(Path(place))
        yield side_by_side(
            f"guestctl {' '.join(words)}",
            lambda: timed(guestctl(*words), environ),
            lambda: timed(TYPER, environ),
            runs=scale.runs,
            aim=1.3,
            baseline="python -c 'import typer'",
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
    """Return a function that yields the names in turn, again and again."""
    return cycle(names).__next__


NAMES = [f"guest-{number}" for number in range(8)]


def ask(scale: Scale) -> Iterator[Figure]:
    """Measure a question and the first message of its reply: on stored sessions, on new ones, and in their place."""
    with places(NAMES) as (environ, found, turn):
        url = f"{found['socket_url']}?deploymentId={found['deployment_id']}"
        token = str(uuid.uuid4())
        theirs = bare("ask", url, token, "hello")

        def on_fresh_state() -> Sample:
            with TemporaryDirectory() as place:
                fresh = {**environ, "GUESTCTL_STATE": str(Path(place) / "state"), "GUESTCTL_SANDBOX_URL": found["url"]}
                return timed(guestctl("ask", "--first", "hello"), fresh)

        without = {**environ, "GUESTCTL_SANDBOX_URL": found["url"]}
        for name, aim, ours in (
            ("ask --first", 1.6, lambda: timed(guestctl("-s", turn(), "ask", "--first", "hello"), environ)),
            ("ask --first, fresh state", 1.9, on_fresh_state),
            ("ask --first --no-state", 1.9, lambda: timed(guestctl("--no-state", "ask", "--first", "hello"), without)),
            ("ask --first --new", 1.9, lambda: timed(guestctl("-s", turn(), "ask", "--new", "--first", "hi"), environ)),
        ):
            yield side_by_side(
                name,
                ours,
                lambda: timed(theirs, environ),
                runs=scale.runs,
                aim=aim,
                baseline="websocket-client, the same frames",
                warm=2,
            )


def send(scale: Scale) -> Iterator[Figure]:
    """Measure one message until it is accepted, on a socket and on every REST API."""
    with places(NAMES) as (environ, found, turn):
        url = f"{found['socket_url']}?deploymentId={found['deployment_id']}"
        token = str(uuid.uuid4())
        yield side_by_side(
            "send, web-messaging",
            lambda: timed(guestctl("-s", turn(), "send", "hello"), environ),
            lambda: timed(bare("send_socket", url, token, "hello"), environ),
            runs=scale.runs,
            aim=1.8,
            baseline="websocket-client, the same frames",
            warm=2,
        )
    for api in dialects.NAMES:
        if not dialects.dialect_class(api).sends_on_socket:
            yield from _send(scale, api)


def table(scale: Scale) -> Iterator[Figure]:
    """Measure what drawing with rich adds to a command, in milliseconds of processor time."""
    with places(NAMES[:1]) as (environ, _, _):
        run(guestctl("send", "hello"), environ)
        pairs = []
        for _ in range(scale.runs + 1):
            drawn, plain = (timed(guestctl("history", "-o", form), environ).cpu * 1000 for form in ("table", "json"))
            pairs.append((drawn, plain))
    ours, theirs = (statistics.median(side) for side in zip(*pairs[1:], strict=True))
    value = statistics.median(drawn - plain for drawn, plain in pairs[1:])
    yield Figure("history -o table, CPU", "history -o json", ours, theirs, "ms", value, 60.0, kind="more")


def _first_words(api: str, session: Session) -> tuple[str, Json, str]:
    """Return the first message in the examples of an API for this session: path, body and text."""
    told = load(api).values()
    example, step = next((example, step) for example in told for step in example.steps if step.verb == "send")
    assert step.request is not None
    created = next(step for step in example.prelude if step.verb == "create")
    names = {"key": str(uuid.uuid4())}
    assert not match(created.means["Session"]["ids"], dict(session.ids), names)
    return fill(step.request["path"], names), fill(step.request["json"], names), step.arguments["text"]


def _send(scale: Scale, api: str) -> Iterator[Figure]:
    with places(NAMES, "--api", api) as (environ, found, turn):
        with State.open(Path(environ["GUESTCTL_STATE"]), SystemClock()) as state:
            session = next(one for _, one in state.sessions() if one.name == NAMES[-1])
        path, _, text = _first_words(api, session)
        url, token = found["url"] + path, session.token()
        yield side_by_side(
            f"send, {api}",
            lambda: timed(guestctl("--api", api, "-s", turn(), "send", text), environ),
            lambda: timed(bare("send", url, token, json.dumps(_first_words(api, session)[1])), environ),
            runs=scale.runs,
            aim=1.3,
            baseline="one POST by requests",
            warm=2,
        )
