"""`typing`, `download` and `guest sync`.

Knows: their options and records. Must not know: the wire.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from guestctl.cli.commands.dry_run import PrintCurl, PrintFrames, printed
from guestctl.cli.invocation import Invocation
from guestctl.cli.options import command, pairs
from guestctl.cli.parameters import CommandArgument, CommandOption
from guestctl.core.errors import UsageError
from guestctl.core.model import Sender, Typing
from guestctl.output.records import event_record


@command("guestctl typing", "guestctl typing && sleep 2 && guestctl send hello")
def typing(run: Invocation, print_frames: PrintFrames = False, print_curl: PrintCurl = False) -> None:
    """Send a typing indicator.

    guestctl sends at most one every five seconds per session.
    """
    if printed(run, print_frames, print_curl, lambda plan: plan.typing()):
        return
    run.client.typing()
    run.out.event(event_record(Typing(Sender("guest")), run.client.session_name, at=run.now()))


@command("guestctl download 3b1f --to invoices/", "guestctl download 3b1f -o json | jq -r .path")
def download(
    run: Invocation,
    id_: Annotated[str, CommandArgument(metavar="ID", help="id of the attachment, as shown with its message")],
    to: Annotated[str, CommandOption("--to", metavar="PATH", help="folder or new file name; - is stdout")] = ".",
) -> None:
    """Download an attachment without overwriting any file.

    By default the file is saved in the current folder. In a folder it keeps its own name, stripped of any path.
    """
    if to == "-":
        _download_to_stdout(run, id_)
        return
    place = run.world.cwd / to
    if to.endswith(("/", os.sep)) and not place.is_dir():
        raise UsageError(
            f"--to {to}: there is no such folder", hint="create the folder first, or remove the final slash"
        )
    path = run.client.download(id_, place, progress=run.out.progress("downloading", run.clock.monotonic))
    if run.out.human:
        run.out.text(str(path))
    else:
        run.out.one({"kind": "download", "id": id_, "path": str(path), "size": path.stat().st_size})


def _download_to_stdout(run: Invocation, id_: str) -> None:
    """Write an attachment to stdout when it is complete."""
    if run.options.output is not None:
        raise UsageError("--to - cannot be combined with --output", hint="remove one of the two options")
    if run.out.terminal.stdout:
        raise UsageError("--to -: stdout is a terminal", hint="redirect stdout, or give a file or a folder")
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="guestctl-") as folder:
        path = run.client.download(id_, Path(folder), progress=run.out.progress("downloading", run.clock.monotonic))
        run.out.raw(path.read_bytes())


@command(
    "guestctl guest sync --provider shop --email ann@shop.example",
    "guestctl guest sync --provider shop --email ann@shop.example --attr tier=gold",
)
def sync(
    run: Invocation,
    provider: Annotated[str, CommandOption("--provider", metavar="P", help="external provider that knows the guest")],
    email: Annotated[str, CommandOption("--email", metavar="E", help="e-mail address of the guest at the provider")],
    attr: Annotated[list[str] | None, CommandOption("--attr", metavar="K=V", help="attribute to merge")] = None,
) -> None:
    """Merge attributes into the guest's profile at the service, where the API has one."""
    own = {"external_provider_id": provider, "external_email": email, "synced_at": run.now()}
    more = pairs("--attr", attr)
    for key in more:
        if key in own:
            raise UsageError(f"--attr {key}: `guest sync` sets this attribute itself", code="usage.option")
    merged = run.client.sync({**own, **more})
    run.out.one({"kind": "guest", "session": run.client.session_name, "attributes": merged})
