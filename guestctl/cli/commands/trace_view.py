"""`trace view`: recorded traces on the inspector's page.

Knows: the options, when the server stops. Must not know: the page, how a trace becomes what it shows.
"""

from __future__ import annotations

import select
import webbrowser
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

from guestctl.cli.commands.sandbox import Port
from guestctl.cli.commands.trace import write_new
from guestctl.cli.invocation import Invocation
from guestctl.cli.options import NO_TIME_LIMIT, command
from guestctl.cli.parameters import CommandArgument, CommandOption
from guestctl.core.errors import UsageError
from guestctl.core.stop_signals import exit_code_of, stop_signals

#: Options that this server refuses, with the message and the hint.
_NO_TRACE = dict.fromkeys(
    ("--trace", "--trace-append"),
    ("a server writes no trace", "trace the client: `guestctl -p sandbox ask hi --trace FILE`"),
)


@command(
    "guestctl trace view bug.trace",
    "guestctl trace view before.trace after.trace --html both.html",
    needs="nothing",
    timeout=None,
    refuses=_NO_TRACE | NO_TIME_LIMIT,
)
def view(
    run: Invocation,
    files: Annotated[
        list[Path], CommandArgument(metavar="FILE...", help="trace written by --trace; several are shown together")
    ],
    html: Annotated[
        Path | None,
        CommandOption("--html", metavar="FILE", help="write one HTML file instead of serving; - is stdout"),
    ] = None,
    port: Port = 0,
    open_browser: Annotated[bool, CommandOption("--open", help="open the address in your browser")] = False,
) -> int | None:
    """Show recorded traces in a browser: sessions, requests, frames and their details.

    guestctl serves the page on this machine until Ctrl-C, and prints its address. The address contains a token: only
    who has it can read the page. With --html, the page and the traces are written to one file, which opens from disk
    and loads nothing from the network; an existing FILE is not replaced. Events are in the order of their times. A
    session is a guest or a command of a trace; with several traces, the name of the file comes first.
    """
    if html is not None and open_browser:
        raise UsageError("--open cannot be combined with --html", hint="open the file yourself, or remove --html")
    from guestctl.inspector.trace_page import TraceServer, html_of
    from guestctl.transport.recorded_trace import lines_in_use, read_trace

    traces = {str(file): read_trace(run.world.cwd / file) for file in files}

    if html is not None:
        with lines_in_use(*files):
            page = html_of(traces)
        if str(html) == "-":
            run.out.verbatim(page.decode("utf-8"))
        else:
            write_new(run.world.cwd / html, page, "--html")
        return None
    with ExitStack() as stack:
        stopper = stack.enter_context(stop_signals())
        with lines_in_use(*files):
            server = TraceServer(traces, port=port)
        try:
            server.start()
        except OSError as error:
            raise UsageError(
                f"cannot listen on 127.0.0.1:{port}: {error.strerror or error}",
                hint="choose another --port; 0 chooses a free one",
            ) from error
        stack.callback(server.stop)
        _print_ready(run, server.address, list(traces))
        if open_browser and not webbrowser.open(server.address):
            run.out.warning("cannot open a browser; open the address yourself")
        select.select([stopper], [], [])
        return exit_code_of(stopper.recv(1)[0])


def _print_ready(run: Invocation, address: str, files: list[str]) -> None:
    if run.out.mode in {"json", "jsonl", "yaml"}:
        run.out.one({"kind": "trace-view", "ui_url": address, "files": files})
    else:
        run.out.verbatim(f"inspector at {address}\n")
