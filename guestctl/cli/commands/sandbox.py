"""`sandbox …`: the embedded service, and the control room of a running one.

Knows: its options and how they are said. Must not know: how anything is served.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guestctl.cli.invocation import Invocation
from guestctl.cli.options import Completes, command, duration
from guestctl.core.errors import UsageError
from guestctl.output.records import Record

if TYPE_CHECKING:
    from guestctl.sandbox.settings import SandboxOptions
    from guestctl.sandbox_tools.admin_client import SandboxAdmin


Port = Annotated[int, typer.Option("--port", metavar="N", min=0, max=65535, help="fixed port (0: a free one)")]
Api = Annotated[str, typer.Option("--api", metavar="NAME", help="API family of `-p sandbox`; all are served")]
Script = Annotated[Path | None, typer.Option("--script", metavar="BOT.yaml", help="scripted bot: `guestctl help bots`")]
Agent = Annotated[bool, typer.Option("--agent", help="no bot: you answer as the agent (of serve)")]
Faults = Annotated[list[str] | None, typer.Option("--fault", metavar="SPEC", help="misbehave: `guestctl help faults`")]
StateFile = Annotated[Path | None, typer.Option("--state", metavar="FILE", help="keep it across restarts")]
Tls = Annotated[bool, typer.Option("--tls", help="https and wss, with a throw-away CA")]
Origins = Annotated[list[str] | None, typer.Option("--origin", metavar="HOST", help="the only Origins allowed")]
TokenLife = Annotated[str | None, typer.Option("--token-life", metavar="TIME", help="how long tokens last")]
Fast = Annotated[bool, typer.Option("--fast", help="the bot answers at once, no rate limits")]
Style = Annotated[str | None, typer.Option("--refresh-style", metavar="STYLE", help="guest-refresh or guest-token")]
Host = Annotated[str, typer.Option("--host", metavar="ADDRESS", help="address to bind")]
AutoStart = Annotated[bool, typer.Option("--auto-start", help="the deployment starts conversations by itself")]
SignIn = Annotated[bool, typer.Option("--sign-in", help="guests may sign in: any code but `bad` is good")]
Disconnect = Annotated[str, typer.Option("--disconnect", metavar="HOW", help="after an end: ReadOnly or Send")]
To = Annotated[
    str | None, typer.Option("--to", metavar="ID", help="only this session, as `sandbox sessions` prints it")
]


@command("guestctl sandbox serve", "guestctl sandbox serve --fault drop:after=3 -o json", needs="nothing", timeout=None)
def serve(
    run: Invocation,
    port: Port = 0,
    host: Host = "127.0.0.1",
    api: Api = "web-messaging",
    script: Script = None,
    agent: Agent = False,
    fault: Faults = None,
    state: StateFile = None,
    tls: Tls = False,
    origin: Origins = None,
    token_life: TokenLife = None,
    refresh_style: Style = None,
    auto_start: AutoStart = False,
    sign_in: SignIn = False,
    disconnect: Disconnect = "ReadOnly",
    fast: Fast = False,
) -> int:
    """Run the embedded service until Ctrl-C; one line says when it is ready.

    Its address and key are remembered, so that `-p sandbox` and `sandbox push` find it.
    """
    from guestctl.sandbox.serve import serve as serve_until_stopped

    options = _options(
        port=port,
        host=host,
        api=api,
        script=script,
        agent=agent,
        faults=fault,
        state=state,
        tls=tls,
        origins=origin,
        token_life=token_life,
        refresh_style=refresh_style,
        auto_start=auto_start,
        sign_in=sign_in,
        disconnect=disconnect,
        fast=fast,
    )
    registered: list[str] = []

    def ready(found: Any) -> None:
        run.state.put_sandbox({**found, "api": api})
        registered.append(found["url"])

    try:
        with cannot_serve_is_usage():
            return serve_until_stopped(
                options,
                out=run.world.stdout,
                ready_json=run.out.mode in {"json", "jsonl", "yaml"},  # JSON is YAML
                agent_out=run.world.stderr,
                agent_in=run.world.stdin if agent else None,
                on_ready=ready,
                clock=run.clock,
            )
    finally:
        for url in registered:
            run.state.forget_sandbox(url)


@command(
    'guestctl sandbox exec -- guestctl ask "opening hours?"',
    "guestctl sandbox exec --fast --script bot.yaml -- sh tests/talk.sh",
    needs="nothing",
    timeout=None,
)
def exec_(
    run: Invocation,
    words: Annotated[list[str], typer.Argument(metavar="-- CMD...", help="the command and its arguments")],
    port: Port = 0,
    api: Api = "web-messaging",
    script: Script = None,
    agent: Agent = False,
    fault: Faults = None,
    state: StateFile = None,
    tls: Tls = False,
    origin: Origins = None,
    token_life: TokenLife = None,
    refresh_style: Style = None,
    auto_start: AutoStart = False,
    sign_in: SignIn = False,
    disconnect: Disconnect = "ReadOnly",
    fast: Fast = False,
) -> int:
    """Run a command against a fresh sandbox; exits with the command's own code.

    Plain `guestctl` inside uses this sandbox, with a state of its own that is gone afterwards.
    """
    from guestctl.sandbox.serve import run_under

    if run.options.trace is not None:
        hint = "`guestctl sandbox exec -- guestctl ask hi --trace FILE`"
        raise UsageError("--trace goes behind the command whose exchange it is", hint=hint)
    options = _options(
        port=port,
        api=api,
        script=script,
        agent=agent,
        faults=fault,
        state=state,
        tls=tls,
        origins=origin,
        token_life=token_life,
        refresh_style=refresh_style,
        auto_start=auto_start,
        sign_in=sign_in,
        disconnect=disconnect,
        fast=fast,
    )
    with cannot_serve_is_usage():
        return run_under(options, words, run.world.environ, err=run.world.stderr, clock=run.clock)


@command(
    'guestctl sandbox push "hello from the agent"',
    'guestctl sandbox push --frame \'{"type":"message"}\'',
    needs="nothing",
)
def push(
    run: Invocation,
    text: Annotated[list[str] | None, typer.Argument(metavar="[TEXT...]", help="what the agent says")] = None,
    frame: Annotated[str | None, typer.Option("--frame", metavar="JSON", help="a frame as it is")] = None,
    to: To = None,
) -> None:
    """Let the agent say something to every session that has not ended, connected or not."""
    if (frame is None) == (not text):
        raise UsageError("give the text to say, or --frame JSON")
    if frame is not None:
        _json(frame)
    count = _admin(run).push(" ".join(text) if text else None, frame=frame, to=to)
    _done(run, f"pushed to {_sessions(count)}", {"pushed": count})


@command("guestctl sandbox fault drop:after=2 delay:ms=200", "guestctl sandbox fault --clear", needs="nothing")
def fault(
    run: Invocation,
    specs: Annotated[
        list[str] | None, typer.Argument(metavar="[SPEC...]", help="kind[:key=value,...]"), Completes("fault")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="behave again")] = False,
) -> None:
    """Make the sandbox misbehave on purpose, or list what it is armed with.

    `guestctl help faults` has the kinds and their keys.
    """
    admin = _admin(run)
    if clear:
        admin.clear_faults()
    armed = admin.add_faults(specs) if specs else admin.faults()
    _done(run, "\n".join(armed) or "no faults", {"specs": armed})


@command("guestctl sandbox sessions", "guestctl sandbox sessions -o json | jq '.[0].messages'", needs="nothing")
def sessions(run: Invocation) -> None:
    """List what the sandbox has seen: sessions, accepted messages in order, sockets, requests."""
    with run.out.listing() as add:
        for found in _admin(run).sessions():
            add({"kind": "sandbox-session", **found})


@command("guestctl sandbox disconnect", "guestctl sandbox disconnect --to ID", needs="nothing")
def disconnect(run: Invocation, to: To = None) -> None:
    """Let the agent end the conversation: what the deployment makes of that (read-only, say) then holds.

    To break connections instead, see `sandbox fault drop`.
    """
    count = _admin(run).disconnect(to=to)
    _done(run, f"{count} conversation{'s' * (count != 1)} ended", {"ended": count})


@command("guestctl sandbox expire", "guestctl sandbox expire --token", needs="nothing")
def expire(
    run: Invocation,
    to: To = None,
    token: Annotated[bool, typer.Option("--token", help="only the credential")] = False,
) -> None:
    """Let sessions expire, or only their credentials."""
    count = _admin(run).expire(to=to, token=token)
    what = f"{count} credential{'s' * (count != 1)}" if token else _sessions(count)
    _done(run, f"{what} expired", {"expired": count})


def _options(**given: Any) -> SandboxOptions:
    from guestctl.sandbox.settings import OptionError, SandboxOptions

    life = given.pop("token_life")
    for name in ("faults", "origins"):
        given[name] = tuple(given[name] or ())
    try:
        return SandboxOptions(**given, token_life=None if life is None else duration("--token-life", life, zero=False))
    except OptionError as error:
        raise UsageError(str(error)) from None


@contextlib.contextmanager
def cannot_serve_is_usage() -> Iterator[None]:
    """A sandbox that cannot start is a wrong command or configuration."""
    from guestctl.sandbox.serve import CannotServe

    try:
        yield
    except CannotServe as error:
        raise UsageError(str(error), hint=_described(error.__cause__)) from None


def _described(cause: BaseException | None) -> str | None:
    """Where the language is described in which there was an error."""
    from guestctl.sandbox.bot.bot_script import ScriptError
    from guestctl.sandbox.faults import FaultError

    if isinstance(cause, ScriptError):
        return "`guestctl help bots` has the keys of a script, and one that works."
    return "`guestctl help faults` has the kinds and their keys." if isinstance(cause, FaultError) else None


def _admin(run: Invocation) -> SandboxAdmin:
    from guestctl.sandbox_tools.admin_client import SandboxAdmin

    admin = SandboxAdmin.locate(run.world.environ, run.running_sandbox, timeout=run.options.timeout)
    run.redactor.add(admin.key)
    return replace(admin, observer=run.watcher)


def _done(run: Invocation, said: str, record: Record) -> None:
    if run.out.human:
        run.out.text(said)
    else:
        run.out.one({"kind": "sandbox", **record})


def _sessions(count: int) -> str:
    return f"{count} session{'s' * (count != 1)}"


def _json(text: str) -> None:
    try:
        json.loads(text)
    except ValueError as error:
        raise UsageError(f"--frame: not JSON: {error}") from None
