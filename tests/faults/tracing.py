"""Random schedules on counted time with spans, and what must be true of the spans.

Knows: the trees of all clients of a schedule. Must not know: how spans are exported. A process that is killed leaves
its tree as it is; the tree is ended afterwards, so that it can be judged, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from unittest.mock import patch

from guestctl.cli.invocation import Invocation
from guestctl.transport.span_tree import Span, SpanTree
from tests.faults.counted import run_counted
from tests.faults.model import ABOVE, Environment, Run
from tests.faults.schedules import SENDER, Schedule


@dataclass
class TracedClient:
    """The spans of one client, in the order in which they ended. `who` is the trace id that it was given."""

    who: str
    tree: SpanTree
    spans: list[Span] = field(default_factory=list)

    def named(self, name: str) -> list[Span]:
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.start)


@contextmanager
def traced_clients() -> Iterator[list[TracedClient]]:
    """Give every client a tree of spans: those of the library, and those of the command line."""
    clients: list[TracedClient] = []

    def traced(environment: Environment, who: str, name: str) -> SpanTree:
        spans: list[Span] = []
        random = Random(f"{environment.schedule.seed}/spans/{len(clients)}")
        tree = SpanTree(name, now=environment.clock.now, finished=spans.append, random=random)
        clients.append(TracedClient(who, tree, spans))
        return tree

    current: list[Environment] = []

    def of_client(environment: Environment, who: str) -> SpanTree:
        current[:] = [environment]
        return traced(environment, who, "client")

    def of_command(run: Invocation, name: str) -> SpanTree:
        return traced(current[0], run.world.environ["TRACEPARENT"].split("-")[1], name)

    with patch.object(Environment, "spans", of_client), patch.object(Invocation, "spans", of_command):
        yield clients


def run_traced(schedule: Schedule) -> tuple[Run, list[TracedClient]]:
    """Run a schedule with spans."""
    with traced_clients() as clients:
        run = run_counted(schedule)
    for client in clients:
        client.tree.end()
    return run, clients


def judge_spans(run: Run, clients: list[TracedClient]) -> list[str]:
    """Return what is wrong with the spans of a schedule, one sentence each."""
    found = [problem for client in clients for problem in (*_orphans(client), *_unlinked(client), *_replies(client))]
    return found + list(_messages(run, clients))


def _orphans(client: TracedClient) -> Iterator[str]:
    known = {span.span_id for span in client.spans}
    if len(known) != len(client.spans):
        yield "two spans have one id"
    for span in client.spans:
        if span.trace_id != client.who:
            yield f"{span.name} is in another trace"
        if span.parent_id not in known and span.parent_id != ABOVE:
            yield f"{span.name} is an orphan"
        if span.end < span.start:
            yield f"{span.name} ends before it starts"
    if sum(span.parent_id == ABOVE for span in client.spans) != 1:
        yield "a tree has one root"


def _unlinked(client: TracedClient) -> Iterator[str]:
    """Every reconnect links to the last connection that was accepted."""
    accepted: Span | None = None
    for socket in client.named("websocket"):
        if accepted is not None and socket.links != [accepted.span_id]:
            yield f"a reconnect links to {socket.links} instead of {accepted.span_id}"
        if socket.attributes.get("http.response.status_code") == 101:
            accepted = socket


def _replies(client: TracedClient) -> Iterator[str]:
    """A reply is in one turn only, and is not there twice."""
    replies = Counter(
        event.attributes["guestctl.message.id"]
        for turn in client.named("turn")
        for event in turn.events
        if event.name in {"first_reply", "reply"}
    )
    for message, count in replies.items():
        if count > 1:
            yield f"the reply {message} is in the turns of one client {count} times"


def _messages(run: Run, clients: list[TracedClient]) -> Iterator[str]:
    """Every message of the guest has exactly one turn, which states its outcome."""
    turns: dict[object, list[Span]] = {}
    for client in clients:
        for turn in client.named("turn"):
            turns.setdefault(turn.attributes["guestctl.message.key"], []).append(turn)
            if client.who != SENDER:
                yield "a client that sends nothing has a turn"
    for result in run.sends:
        own = turns.pop(result.key, [])
        # Without a session that can be opened, nothing is begun.
        if len(own) > 1 or (not own and result.delivery != "not_sent"):
            yield f"{result.text} ({result.delivery}) has {len(own)} turns"
        for turn in own:
            if result.delivery not in {"killed", turn.attributes.get("guestctl.delivery")}:
                yield f"{result.text} is {result.delivery}, and its turn {turn.attributes.get('guestctl.delivery')}"
            ids = [event.attributes["guestctl.message.id"] for event in turn.events if event.name == "accepted"]
            if result.delivery == "accepted" and ids != [result.id]:
                yield f"{result.text} was accepted as {result.id}, and its turn has {ids}"
    if turns:
        yield f"turns of no message: {list(turns)}"
