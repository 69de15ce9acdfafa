"""`typing`, `download` and `guest sync`: small things a guest does.

Knows: their words. Must not know: the wire.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from guestctl.cli.commands.dry_run import PrintCurl, PrintFrames, printed
from guestctl.cli.invocation import Invocation
from guestctl.cli.options import command, pairs
from guestctl.core.errors import UsageError
from guestctl.core.model import Sender, Typing
from guestctl.output.records import event_record


@command("guestctl typing", "guestctl typing && sleep 2 && guestctl send hello")
def typing(run: Invocation, print_frames: PrintFrames = False, print_curl: PrintCurl = False) -> None:
    """Show that the guest is typing; at most once in five seconds for a session."""
    if printed(run, print_frames, print_curl, lambda plan: plan.typing()):
        return
    run.client.typing()
    run.out.event(event_record(Typing(Sender("guest")), run.client.session_name, at=run.now()))


@command("guestctl download 3b1f --to invoices/", "guestctl download 3b1f -o json | jq -r .path")
def download(
    run: Invocation,
    id_: Annotated[str, typer.Argument(metavar="ID", help="the attachment's id, as shown with its message")],
    to: Annotated[str, typer.Option("--to", metavar="PATH", help="folder, or new file name")] = ".",
) -> None:
    """Fetch an attachment. Nothing is ever overwritten.

    Into a folder it goes under its own name, of which everything is taken that is more than a name.
    """
    place = run.world.cwd / to
    if to.endswith(("/", os.sep)) and not place.is_dir():
        raise UsageError(f"--to {to}: there is no such folder", hint="Make it first, or leave the slash away.")
    path = run.client.download(id_, place, progress=run.out.progress("downloading", run.clock.monotonic))
    if run.out.human:
        run.out.text(str(path))
    else:
        run.out.one({"kind": "download", "id": id_, "path": str(path), "size": path.stat().st_size})


@command(
    "guestctl guest sync --provider shop --email ann@shop.example",
    "guestctl guest sync --provider shop --email ann@shop.example --attr tier=gold",
)
def sync(
    run: Invocation,
    provider: Annotated[str, typer.Option("--provider", metavar="P", help="who knows the guest")],
    email: Annotated[str, typer.Option("--email", metavar="E", help="under which address")],
    attr: Annotated[list[str] | None, typer.Option("--attr", metavar="K=V", help="one more attribute")] = None,
) -> None:
    """Merge attributes into the guest's profile, where the API has one."""
    own = {"external_provider_id": provider, "external_email": email, "synced_at": run.now()}
    more = pairs("--attr", attr)
    for key in more:
        if key in own:
            raise UsageError(f"--attr {key}: `guest sync` says that itself", code="usage.option")
    merged = run.client.sync({**own, **more})
    run.out.one({"kind": "guest", "session": run.client.session_name, "attributes": merged})
