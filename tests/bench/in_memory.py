"""`listen -o jsonl --no-state`: create a session and listen in one process. argv: the number of messages."""

from __future__ import annotations

import gc
import sys

from guestctl.__main__ import GARBAGE_EVERY
from guestctl.cli.commands.listen_history import listen
from guestctl.cli.invocation import Environment, Invocation
from guestctl.cli.options import Common
from guestctl.output.terminal import Terminal
from guestctl.output.writer import Output


def main() -> None:
    world = Environment()
    out = Output(world.stdout, world.stderr, Terminal(), mode="jsonl", now=world.clock.now)
    run = Invocation(Common(no_state=True), world, out)
    try:
        run.client.create()
        listen.function(run, max_=int(sys.argv[1]))
    finally:
        run.close()


if __name__ == "__main__":
    gc.set_threshold(GARBAGE_EVERY)
    main()
