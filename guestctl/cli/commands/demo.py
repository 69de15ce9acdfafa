"""`demo`. Knows: how the tour is printed. Must not know: what happens in it."""

from __future__ import annotations

from guestctl.cli.help import columns
from guestctl.cli.invocation import Invocation
from guestctl.cli.options import command


@command("guestctl demo", "guestctl demo -v", needs="nothing")
def demo(run: Invocation) -> None:
    """Run a short tour against a sandbox, without an account or a network.

    It starts a sandbox, has a conversation, breaks the connection and counts the messages. It takes a few seconds.
    """
    from guestctl.sandbox_tools.demo import NEXT, tour

    notices: list[str] = []
    lines = tour(run.clock, run.world.environ, notices, run.watcher)
    if run.out.mode not in {"auto", "table"}:
        with run.out.listing() as add:
            for line in lines:
                add({"kind": "demo", "text": line})
        return
    for line in lines:
        run.out.text(f"  {line}", prose=True)
        while notices:
            run.out.detail(notices.pop(0))
    run.out.text("Next:")
    run.out.verbatim(columns(NEXT, run.out.terminal.width))
