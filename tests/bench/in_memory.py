"""`listen -o jsonl --no-state`: create a session and listen in one process. argv: the number of messages."""

from __future__ import annotations

import sys
import time

from guestctl import Client
from guestctl.core.clock import SystemClock
from guestctl.core.model import Message
from guestctl.output.records import message_record
from guestctl.output.terminal import Terminal
from guestctl.output.writer import Output
from guestctl.storage.state import State


def main() -> None:
    left = int(sys.argv[1])
    out = Output(sys.stdout, sys.stderr, Terminal(), mode="jsonl", now=time.time)
    with Client("sandbox", state=State.open(None, SystemClock())) as guest:
        name = guest.create().name
        for event in guest.listen():
            if isinstance(event, Message):
                out.event(message_record(event, name))
                left -= 1
                if not left:
                    return


if __name__ == "__main__":
    main()
