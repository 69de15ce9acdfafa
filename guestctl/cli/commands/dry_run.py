"""`--print-frames` and `--print-curl`: print what a command would send.

Knows: the two options and their output. Must not know: what a command sends.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from guestctl.cli.invocation import Invocation
from guestctl.cli.parameters import CommandOption
from guestctl.core.errors import UsageError

if TYPE_CHECKING:
    from guestctl.engine.preview import Plan

PrintFrames = Annotated[
    bool, CommandOption("--print-frames", help="print the frames and requests without secrets; send nothing")
]
PrintCurl = Annotated[
    bool, CommandOption("--print-curl", help="print them as curl and websocat commands; send nothing")
]


def printed(
    run: Invocation, frames: bool, curl: bool, plan: Callable[[Plan], object], *, session: str | None = None
) -> bool:
    """Print the plan if an option asks for it, and return whether it did. Sends and stores nothing.

    `session` names the session that the command works on, if it is not the current one.
    """
    if not frames and not curl:
        return False
    if frames and curl:
        raise UsageError("--print-frames and --print-curl print the same plan", hint="use one of them")
    if curl and run.options.output is not None:
        raise UsageError("--print-curl cannot be combined with --output", hint="remove --output, or use --print-frames")
    from guestctl.dialects import dialect_class
    from guestctl.engine.preview import Plan, shell, without_secrets

    client = run.client
    dialect = dialect_class(client.profile.api)(without_secrets(client.profile), new_id=lambda: str(uuid.uuid4()))
    stored = run.state.get(client.scope, session or client.session_name)
    planned = Plan(dialect, stored, client.completed, client.trace(stored))
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
