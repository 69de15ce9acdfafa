"""A tour of guestctl on a real sandbox: a session, a broken connection, no message lost.

Knows: the client's verbs and the sandbox's admin endpoint. Must not know: streams, the command line, colours. Every
number it shows is measured: sent and received messages are compared with those that the sandbox accepted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from guestctl.client import Client
from guestctl.config.profiles import SANDBOX, resolve
from guestctl.core.clock import Clock
from guestctl.core.errors import CheckFailed
from guestctl.core.humanize import format_duration
from guestctl.core.model import Message, NewSession, Secret
from guestctl.sandbox.serve import running
from guestctl.sandbox.settings import SandboxOptions
from guestctl.sandbox_tools.admin_client import SandboxAdmin
from guestctl.storage.state import State

if TYPE_CHECKING:
    from guestctl.transport.network import Observer

_ASKED = ("Where is my parcel?", "Are you still there?")
#: The connection breaks instead of the echo of the next message.
_BREAK = "drop:code=1006,after=1,on=send"

NEXT = (
    ("guestctl sandbox serve", "keep a service running to try things on (-p sandbox)"),
    ("guestctl profile add NAME --region REGION --deployment-id ID", "talk to your own deployment"),
    ("guestctl --help", "every command"),
)


def tour(
    clock: Clock, environ: Mapping[str, str], notices: list[str], observer: Observer | None = None
) -> Iterator[str]:
    """Yield the lines of the tour as they happen. The client's notices go to `notices`, its traffic to `observer`.

    Raises CheckFailed if a message was lost or duplicated, and every error of the client.
    """
    started = clock.monotonic()
    with running(SandboxOptions(), clock=clock) as sandbox, State.open(None, clock) as state:
        yield f"sandbox on {sandbox.url.partition('//')[2]}, ready in {clock.monotonic() - started:.1f} s"
        profile = resolve(
            SANDBOX,
            options={},
            environ={"GUESTCTL_SANDBOX_URL": sandbox.url},
            cwd=Path.cwd(),
            profiles_option=None,
            sandbox=lambda: None,
        ).profile
        admin = SandboxAdmin(sandbox.url, Secret(sandbox.admin_key))
        with Client(
            profile, state=state, clock=clock, notice=notices.append, observer=observer, environ=environ
        ) as guest:
            session = guest.create(NewSession(name="demo"))
            minutes = None if session.expires_at is None else round((session.expires_at - clock.now()) / 60)
            left = "" if minutes is None else f", good for {format_duration(60 * minutes)}"
            yield f"session {session.name} created{left}"
            first, second = _ASKED
            received = [guest.ask(first)]
            yield from (_line(">", first), _line("<", received[0].text))
            admin.add_faults([_BREAK])
            yield "(dropping the connection on purpose, before the next message is acknowledged)"
            opened, broken = _configured(admin), clock.monotonic()
            sent = guest.send(second, wait=True)
            assert sent.reply is not None
            received.append(sent.reply)
            if _configured(admin) == opened:
                raise CheckFailed("the connection did not break as planned")
            yield f"reconnected and settled in {clock.monotonic() - broken:.1f} s: {sent.delivery}, sent once"
            yield from (_line(">", second), _line("<", sent.reply.text))
            history = [item for item in guest.history() if isinstance(item, Message)]
            yield f"history: {len(history)} messages, in order"
            guest.refresh_token()
            yield "token refreshed"
        lost, duplicated = _compare(admin, history, received)
        yield f"{len(_ASKED)} sent, {len(received)} received, {lost} lost, {duplicated} duplicated"
        if lost or duplicated:
            raise CheckFailed("the sandbox and the client have different messages")


def _line(mark: str, text: str) -> str:
    return f"{mark} {text}"


def _configured(admin: SandboxAdmin) -> int:
    """Return how often a socket has been configured."""
    return sum(int(session["configures"]) for session in admin.sessions())


def _compare(admin: SandboxAdmin, history: list[Message], received: list[Message]) -> tuple[int, int]:
    """Return how many messages of the sandbox the client lacks, and how many are duplicated on either side."""
    accepted = [message for session in admin.sessions() for message in session["messages"]]
    known = {message.id for message in history} | {message.id for message in received}
    asked = Counter(message["text"] for message in accepted if message["direction"] == "inbound")
    lost = sum(message["id"] not in known for message in accepted) + sum(text not in asked for text in _ASKED)
    counters = [Counter(message.id for message in history), Counter(message.id for message in received), asked]
    return lost, sum(count - 1 for counter in counters for count in counter.values())
