"""`replay`: a trace as a sandbox. Knows: its options. Must not know: how a recording is served."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from guestctl.cli.commands.sandbox import Host, Port, cannot_serve_is_usage
from guestctl.cli.invocation import Invocation
from guestctl.cli.options import command


@command(
    "guestctl replay bug.trace",
    "guestctl replay golden.trace --port 4010 -o json",
    needs="nothing",
    timeout=None,
)
def replay(
    run: Invocation,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="what --trace wrote; several in their order")],
    port: Port = 0,
    host: Host = "127.0.0.1",
    pace: Annotated[bool, typer.Option("--pace", help="keep the recorded pauses")] = False,
) -> int:
    """Serve a recorded exchange back as a sandbox, until Ctrl-C; one line says when it is ready.

    `-p sandbox` leads guestctl there, and speaks the recorded API; so does GUESTCTL_SANDBOX_URL, with --api
    to choose it. What the guest does is matched with what was done, in order: a request by method and
    path, a frame by what it does. Texts, hosts and ids are not compared; steps may be left out, and
    all of it may be run again.
    """
    from guestctl.sandbox.serve import serve
    from guestctl.sandbox.settings import SandboxOptions
    from guestctl.sandbox_tools.replay import apis_of, load, replay_apis

    recording = load([run.world.cwd / file for file in files])
    spoken = apis_of(recording)
    registered: list[str] = []

    def ready(found: Any) -> None:
        run.state.put_sandbox({**found, "api": spoken[0]} if len(spoken) == 1 else found)
        registered.append(found["url"])
        run.out.say(f"{len(recording.actions)} acts of a guest, recorded on {' or '.join(spoken) or 'an unknown API'}")

    try:
        with cannot_serve_is_usage():
            return serve(
                SandboxOptions(port=port, host=host, fast=True, idle_timeout=0, socket_life=0),
                out=run.world.stdout,
                ready_json=run.out.mode in {"json", "jsonl", "yaml"},  # JSON is YAML
                agent_out=run.world.stderr,
                on_ready=ready,
                clock=run.clock,
                apis=replay_apis(recording, pace=pace),
            )
    finally:
        for url in registered:
            run.state.forget_sandbox(url)
