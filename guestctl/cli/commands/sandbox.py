"""`sandbox …`: start a sandbox, or control a running one.

Knows: the options and how results are shown. Must not know: how the sandbox serves an API.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from guestctl.cli.invocation import Invocation
from guestctl.cli.options import NO_TIME_LIMIT, command, duration
from guestctl.cli.parameters import CommandArgument, CommandOption
from guestctl.core.errors import UsageError
from guestctl.output.records import Record

if TYPE_CHECKING:
    from guestctl.sandbox.settings import SandboxOptions
    from guestctl.sandbox_tools.admin_client import SandboxAdmin


Port = Annotated[
    int, CommandOption("--port", metavar="N", min=0, max=65535, help="port to listen on; 0 chooses a free one")
]
Api = Annotated[
    str,
    CommandOption(
        "--api", metavar="NAME", help="API that `-p sandbox` uses; the sandbox serves all of them", completes="api"
    ),
]
Script = Annotated[
    Path | None,
    CommandOption("--script", metavar="BOT.yaml", help="bot script, see `guestctl help bots` (default: echo)"),
]
Agent = Annotated[bool, CommandOption("--agent", help="answer as the agent yourself, without a bot")]
Faults = Annotated[
    list[str] | None, CommandOption("--fault", metavar="SPEC", help="inject a fault, see `guestctl help faults`")
]
StateFile = Annotated[
    Path | None, CommandOption("--state", metavar="FILE", help="store the sandbox's state in FILE across restarts")
]
Tls = Annotated[bool, CommandOption("--tls", help="serve https and wss with a temporary CA")]
Origins = Annotated[
    list[str] | None, CommandOption("--origin", metavar="HOST", help="allow only this Origin (default: any)")
]
Answers = Annotated[
    str, CommandOption("--answers", metavar="HOW", help="answers to create and send: full, or published fields only")
]
UnknownDeployment = Annotated[
    str,
    CommandOption(
        "--unknown-deployment", metavar="HOW", help="a socket for an unknown deployment is answered or refused"
    ),
]
Domain = Annotated[
    str | None, CommandOption("--domain", metavar="NAME", help="also serve the hosts of a region with this domain")
]
BotDelay = Annotated[
    str, CommandOption("--bot-delay", metavar="TIME", help="pause before each reply of the bot; none with --fast")
]
TokenLife = Annotated[str | None, CommandOption("--token-life", metavar="TIME", help="lifetime of a token")]
Fast = Annotated[bool, CommandOption("--fast", help="answer without delays and rate limits")]
Style = Annotated[
    str | None,
    CommandOption(
        "--refresh-style",
        metavar="STYLE",
        help="token renewal: guest-refresh or guest-token",
        completes=("guest-refresh", "guest-token"),
    ),
]
Keys = Annotated[
    str, CommandOption("--keys", metavar="HOW", help="client keys in history and pushed messages: returned or withheld")
]
Deduplicates = Annotated[
    str, CommandOption("--deduplicates", metavar="YES|NO", help="whether a repeated client key is stored once")
]
Host = Annotated[str, CommandOption("--host", metavar="ADDRESS", help="address to listen on")]
AutoStart = Annotated[bool, CommandOption("--auto-start", help="start a conversation as soon as a guest joins")]
SignIn = Annotated[bool, CommandOption("--sign-in", help="let guests sign in with any code but `bad`")]
Disconnect = Annotated[
    str,
    CommandOption(
        "--disconnect",
        metavar="HOW",
        help="an ended conversation is ReadOnly, or still open to Send",
        completes=("ReadOnly", "Send"),
    ),
]
Ui = Annotated[
    bool, CommandOption("--ui", help="serve a page for the browser: live traffic, an agent desk, switches for faults")
]
To = Annotated[
    str | None, CommandOption("--to", metavar="ID", help="only the session with this id (default: all sessions)")
]

_NO_TIME_LIMIT_OF_EXEC = {
    "--timeout": ("`sandbox exec` waits for its command", "give the inner command its own --timeout")
}
_AGENT_REFUSED = (
    "--agent needs a terminal, which `sandbox exec` leaves to its command",
    "run `guestctl sandbox serve --agent`, and the command with `-p sandbox` in another terminal",
)


@command(
    "guestctl sandbox serve",
    "guestctl sandbox serve --fault drop:after=3 -o json",
    needs="nothing",
    timeout=None,
    refuses=NO_TIME_LIMIT,
)
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
    domain: Domain = None,
    bot_delay: BotDelay = "600ms",
    answers: Answers = "full",
    unknown_deployment: UnknownDeployment = "answered",
    keys: Keys = "withheld",
    deduplicates: Deduplicates = "no",
    fast: Fast = False,
    ui: Ui = False,
) -> int:
    """Run a sandbox until Ctrl-C.

    guestctl prints one line with the addresses when the sandbox is ready. It stores them and the key, so that
    `-p sandbox` and `sandbox push` find it.

    -v prints a line on stderr for every request and frame of every guest, and -vv also their bodies. --trace records
    them, for `replay` and `trace export`; GUESTCTL_TRACE is for the guests only. If the trace cannot be written any
    more, guestctl reports it at once, serves on, and exits with 2.
    """
    from guestctl.cli.commands.traffic_log import TrafficLog
    from guestctl.inspector.of_sandbox import inspector_of
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
        domain=domain,
        bot_delay=bot_delay,
        answers=answers,
        unknown_deployment=unknown_deployment,
        keys=keys,
        deduplicates=deduplicates,
        fast=fast,
    )
    if ui:
        _check_loopback(host)
    registered: list[str] = []

    def ready(found: Any) -> None:
        run.state.put_sandbox({**found, "api": api})
        registered.append(found["url"])

    log = TrafficLog(run)
    try:
        with cannot_serve_is_usage():
            code = serve_until_stopped(
                options,
                out=run.world.stdout,
                ready_json=run.out.mode in {"json", "jsonl", "yaml"},  # JSON is YAML
                agent_out=run.world.stderr,
                agent_in=run.world.stdin if agent else None,
                on_ready=ready,
                wrapped=run.out.wrapped,
                clock=run.clock,
                page=inspector_of if ui else None,
                observer=log.observer,
            )
    finally:
        for url in registered:
            run.state.forget_sandbox(url)
    return log.exit_code(code)


@command(
    'guestctl sandbox exec -- guestctl ask "opening hours?"',
    "guestctl sandbox exec --fast --script bot.yaml -- sh tests/chat.sh",
    needs="nothing",
    timeout=None,
    refuses={"--agent": _AGENT_REFUSED, **_NO_TIME_LIMIT_OF_EXEC},
)
def exec_(
    run: Invocation,
    words: Annotated[list[str], CommandArgument(metavar="-- CMD...", help="command to run, with its arguments")],
    port: Port = 0,
    api: Api = "web-messaging",
    script: Script = None,
    fault: Faults = None,
    state: StateFile = None,
    tls: Tls = False,
    origin: Origins = None,
    token_life: TokenLife = None,
    refresh_style: Style = None,
    auto_start: AutoStart = False,
    sign_in: SignIn = False,
    disconnect: Disconnect = "ReadOnly",
    domain: Domain = None,
    bot_delay: BotDelay = "600ms",
    answers: Answers = "full",
    unknown_deployment: UnknownDeployment = "answered",
    keys: Keys = "withheld",
    deduplicates: Deduplicates = "no",
    fast: Fast = False,
    ui: Ui = False,
) -> int:
    """Run a command against a new sandbox and exit with the command's exit code.

    A `guestctl` in the command uses this sandbox without any option. The sessions that it stores are deleted
    afterwards. A shell without arguments, such as `-- bash`, shows the sandbox in its prompt.

    -v and --trace show and record what the sandbox exchanges with its guests, as with `sandbox serve`. A trace that
    cannot be written any more turns exit code 0 into 2.
    """
    from guestctl.cli.commands.traffic_log import TrafficLog
    from guestctl.inspector.of_sandbox import inspector_of
    from guestctl.sandbox.serve import run_under

    options = _options(
        port=port,
        api=api,
        script=script,
        faults=fault,
        state=state,
        tls=tls,
        origins=origin,
        token_life=token_life,
        refresh_style=refresh_style,
        auto_start=auto_start,
        sign_in=sign_in,
        disconnect=disconnect,
        domain=domain,
        bot_delay=bot_delay,
        answers=answers,
        unknown_deployment=unknown_deployment,
        keys=keys,
        deduplicates=deduplicates,
        fast=fast,
    )

    def cannot_run(code: int, reason: str) -> None:
        failure = UsageError(
            f'cannot run "{words[0]}": {reason}', hint="the words after `--` are the command and its arguments"
        )
        vars(failure)["exit"] = code  # a shell's code, which no other failure has
        run.out.failure(failure)

    log = TrafficLog(run)
    with cannot_serve_is_usage():
        code = run_under(
            options,
            words,
            run.world.environ,
            cannot_run=cannot_run,
            entered=run.out.notice,
            clock=run.clock,
            page=inspector_of if ui else None,
            observer=log.observer,
        )
    return log.exit_code(code, replaces=False)


@command(
    'guestctl sandbox push "hello from the agent"',
    'guestctl sandbox push --frame \'{"type":"message"}\'',
    needs="nothing",
)
def push(
    run: Invocation,
    text: Annotated[list[str] | None, CommandArgument(metavar="[TEXT...]", help="text of the agent's message")] = None,
    frame: Annotated[str | None, CommandOption("--frame", metavar="JSON", help="frame to send unchanged")] = None,
    to: To = None,
) -> None:
    """Send a message from the agent.

    By default it goes to every session that has not ended, even if the guest is not connected.
    """
    if (frame is None) == (not text):
        raise UsageError("expected either a text or --frame JSON")
    if frame is not None:
        _json(frame)
    count = _admin(run).push(" ".join(text) if text else None, frame=frame, to=to)
    _print_result(run, f"pushed to {_sessions(count)}", {"pushed": count})


@command("guestctl sandbox fault drop:after=2 delay:ms=200", "guestctl sandbox fault --clear", needs="nothing")
def fault(
    run: Invocation,
    specs: Annotated[
        list[str] | None,
        CommandArgument(metavar="[SPEC...]", help="fault to inject: kind[:key=value,...]", completes="fault"),
    ] = None,
    clear: Annotated[bool, CommandOption("--clear", help="remove all faults")] = False,
) -> None:
    """Inject faults into the sandbox.

    Without a SPEC it lists the active faults. `guestctl help faults` lists the kinds and their keys.
    """
    admin = _admin(run)
    if clear:
        admin.clear_faults()
    armed = admin.add_faults(specs) if specs else admin.faults()
    _print_result(run, "\n".join(armed) or "no faults", {"specs": armed})


@command("guestctl sandbox sessions --watch", "guestctl sandbox sessions -o json | jq '.[0].messages'", needs="nothing")
def sessions(
    run: Invocation,
    watch: Annotated[
        bool, CommandOption("-w", "--watch", help="show the sessions as they change, until Ctrl-C")
    ] = False,
) -> None:
    """List the sandbox's sessions with their messages, sockets and requests.

    With --watch, a terminal shows a table that follows every change, and anything else gets one JSON object for each
    changed session. If the sandbox is stopped, guestctl waits until one is started again.
    """
    if watch:
        from guestctl.cli.commands.session_watch import watch_sessions

        watch_sessions(run, lambda: _admin(run))
        return
    there = _admin(run).sessions()
    if not there and run.out.human:
        run.out.notice("the sandbox has no sessions")
    with run.out.listing() as add:
        for found in there:
            add({"kind": "sandbox-session", **found})


@command("guestctl sandbox disconnect", "guestctl sandbox disconnect --to ID", needs="nothing")
def disconnect(run: Invocation, to: To = None) -> None:
    """End the conversation as the agent.

    By default it ends every conversation, and --disconnect of `sandbox serve` decides what follows. To break
    connections instead, use `sandbox fault drop`.
    """
    count = _admin(run).disconnect(to=to)
    _print_result(run, f"{count} conversation{'s' * (count != 1)} ended", {"ended": count})


@command("guestctl sandbox expire", "guestctl sandbox expire --token", needs="nothing")
def expire(
    run: Invocation,
    to: To = None,
    token: Annotated[bool, CommandOption("--token", help="expire only the token")] = False,
) -> None:
    """Expire sessions or their tokens.

    By default it expires every session.
    """
    count = _admin(run).expire(to=to, token=token)
    what = f"{count} token{'s' * (count != 1)}" if token else _sessions(count)
    _print_result(run, f"{what} expired", {"expired": count})


def _check_loopback(host: str) -> None:
    from guestctl.transport.hosts import is_loopback

    if not is_loopback(host):
        raise UsageError(
            f'--ui needs a loopback address, and --host is "{host}"',
            hint="leave --host out; for a browser on another machine, forward the same port with `ssh -L`",
        )


def _options(**given: Any) -> SandboxOptions:
    from guestctl.sandbox.settings import OptionError, SandboxOptions

    life = given.pop("token_life")
    for name in ("faults", "origins"):
        given[name] = tuple(given[name] or ())
    given["bot_delay"] = duration("--bot-delay", given["bot_delay"])
    try:
        return SandboxOptions(**given, token_life=None if life is None else duration("--token-life", life, zero=False))
    except OptionError as error:
        raise UsageError(str(error)) from None


@contextlib.contextmanager
def cannot_serve_is_usage() -> Iterator[None]:
    """Turn a sandbox that cannot start into a UsageError."""
    from guestctl.sandbox.serve import CannotServe

    try:
        yield
    except CannotServe as error:
        raise UsageError(str(error), hint=_help_for(error.__cause__)) from None


def _help_for(cause: BaseException | None) -> str | None:
    """Return the hint of an address, or of the language that the error is in."""
    from guestctl.sandbox.bot.bot_script import ScriptError
    from guestctl.sandbox.faults import FaultError

    if isinstance(cause, OSError):
        return "choose another --port or --host; `--port 0` chooses a free port"
    if isinstance(cause, ScriptError):
        return "`guestctl help bots` lists the keys of a bot script and shows an example"
    return "`guestctl help faults` lists the kinds and their keys" if isinstance(cause, FaultError) else None


def _admin(run: Invocation) -> SandboxAdmin:
    from guestctl.sandbox_tools.admin_client import SandboxAdmin

    admin = SandboxAdmin.locate(run.world.environ, run.running_sandbox, timeout=run.options.timeout)
    run.redactor.add(admin.key)
    return replace(admin, observer=run.watcher)


def _print_result(run: Invocation, text: str, record: Record) -> None:
    if run.out.human:
        run.out.text(text, prose=True)
    else:
        run.out.one({"kind": "sandbox", **record})


def _sessions(count: int) -> str:
    return f"{count} session{'s' * (count != 1)}"


def _json(text: str) -> None:
    try:
        json.loads(text)
    except ValueError as error:
        raise UsageError(f"--frame: not JSON: {error}") from None
