"""`replay`: serve a trace as a sandbox. Knows: the options. Must not know: how a trace is served."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from guestctl.cli.commands.sandbox import Host, Port, cannot_serve_is_usage
from guestctl.cli.invocation import Invocation
from guestctl.cli.options import NO_TIME_LIMIT, command
from guestctl.cli.parameters import CommandArgument, CommandOption


@command(
    "guestctl replay bug.trace",
    "guestctl replay golden.trace --port 4010 -o json",
    needs="nothing",
    timeout=None,
    refuses=NO_TIME_LIMIT,
)
def replay(
    run: Invocation,
    files: Annotated[
        list[Path], CommandArgument(metavar="FILE...", help="trace written by --trace; several are served in order")
    ],
    port: Port = 0,
    host: Host = "127.0.0.1",
    pace: Annotated[
        bool, CommandOption("--pace", help="keep the pauses of the trace (default: answer at once)")
    ] = False,
    strict: Annotated[
        bool, CommandOption("--strict", help="also compare texts and queries; refuse and report what was not recorded")
    ] = False,
) -> int:
    """Serve a trace as a sandbox until Ctrl-C.

    guestctl prints one line when the sandbox is ready. `-p sandbox` then connects to it with the API of the trace;
    with GUESTCTL_SANDBOX_URL, choose the API with --api. Requests are matched in order by method and path, frames
    by their action. Texts, hosts and ids are not compared. A guest may skip steps, and may start again. With --strict,
    a request whose content differs is answered with 400, such a frame closes its socket (1008), and stderr names both.
    -v and --trace show and record what guests send to the replay, as with `sandbox serve`.
    """
    from guestctl.cli.commands.traffic_log import TrafficLog
    from guestctl.sandbox.serve import serve
    from guestctl.sandbox.settings import SandboxOptions
    from guestctl.sandbox_tools.replay import apis_of, load, replay_apis

    recording = load([run.world.cwd / file for file in files])
    spoken = apis_of(recording)
    registered: list[str] = []

    def ready(found: Any) -> None:
        run.state.put_sandbox({**found, "api": spoken[0]} if len(spoken) == 1 else found)
        registered.append(found["url"])
        run.out.notice(f"{len(recording.actions)} guest actions, recorded on {' or '.join(spoken) or 'an unknown API'}")

    log = TrafficLog(run)
    try:
        with cannot_serve_is_usage():
            code = serve(
                SandboxOptions(port=port, host=host, fast=True, idle_timeout=0, socket_life=0),
                out=run.world.stdout,
                ready_json=run.out.mode in {"json", "jsonl", "yaml"},  # JSON is YAML
                agent_out=run.world.stderr,
                on_ready=ready,
                wrapped=run.out.wrapped,
                clock=run.clock,
                apis=replay_apis(recording, pace=pace, strict=strict, refused=run.out.diagnostic),
                observer=log.observer,
            )
    finally:
        for url in registered:
            run.state.forget_sandbox(url)
    return log.exit_code(code)
