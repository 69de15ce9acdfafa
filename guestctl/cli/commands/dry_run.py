"""`--print-frames` and `--print-curl`: what a command would send. Knows: how that is asked for and shown.
Must not know: what any command sends."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from guestctl.cli.invocation import Invocation
from guestctl.core.errors import UsageError

if TYPE_CHECKING:
    from guestctl.engine.preview import Plan

PrintFrames = Annotated[
    bool, typer.Option("--print-frames", help="show the frames and requests, secrets left out; send nothing")
]
PrintCurl = Annotated[bool, typer.Option("--print-curl", help="the same as commands for curl and websocat")]


def printed(
    run: Invocation, frames: bool, curl: bool, plan: Callable[[Plan], object], *, session: str | None = None
) -> bool:
    """Whether the command was only to be shown; if so, that is done. Nothing is sent and nothing stored.
    `session`: the one it is about, where it is not the one that commands work on."""
    if not frames and not curl:
        return False
    if frames and curl:
        raise UsageError("--print-frames and --print-curl show the same: give one of them")
    if curl and run.options.output is not None:
        raise UsageError("--print-curl is an output of its own: drop --output", hint="--print-frames prints records.")
    from guestctl.dialects import dialect_class
    from guestctl.engine.preview import Plan, shell, without_secrets

    client = run.client
    dialect = dialect_class(client.profile.api)(
        without_secrets(client.profile), new_id=lambda: str(uuid.uuid4()), traceparent=client.dialect.traceparent
    )
    stored = run.state.get(client.scope, session or client.session_name)
    planned = Plan(dialect, stored, client.completed)
    plan(planned)
    if curl:
        for line in shell(planned.steps):
            run.out.text(line)
        return True
    with run.out.listing() as add:
        for step in planned.steps:
            add(
                {
                    "kind": "step",
                    "step": step.step,
                    "method": step.method or None,
                    "url": step.url or None,
                    "headers": dict(step.headers),
                    "body": step.body,
                }
            )
    return True
