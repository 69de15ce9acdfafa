"""`load`: runs check scripts or a locustfile with many guests at once.

Knows: the options, and what a test does with them. Must not know: Locust, how anything is measured or shown.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from guestctl.cli.invocation import Invocation
from guestctl.cli.options import command, duration, pairs
from guestctl.cli.parameters import CommandArgument, CommandOption
from guestctl.core.errors import UsageError

if TYPE_CHECKING:
    from guestctl.core.model import Profile
    from guestctl.load.plan import LoadPlan
    from guestctl.load.slo import Objective

_RAMP = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)/(s|m)", re.ASCII)
#: The most guests that may start in a second: Locust cannot start more in one worker.
_FASTEST = 100.0

#: The traffic of many guests, in several processes, would slow down what is measured.
_NO_TRAFFIC = (
    "load records no traffic",
    "run the script once with `guestctl check --trace FILE`, or look at the page of `--html`",
)


@command(
    "guestctl load smoke.yaml --guests 100 --for 10m --slo 'reply p95 < 2s'",
    "guestctl sandbox exec --fast -- guestctl load smoke.yaml --guests 20 --for 30s",
    needs="profile",
    connects=False,
    refuses=dict.fromkeys(("--trace", "--trace-append", "-v", "--verbose"), _NO_TRAFFIC),
)
def load(
    run: Invocation,
    file: Annotated[Path, CommandArgument(metavar="FILE", help="check script (YAML), or locustfile (.py)")],
    guests: Annotated[
        int | None,
        CommandOption("--guests", metavar="N", min=1, max=1_000_000, help="guests at the same time (default: 10)"),
    ] = None,
    ramp: Annotated[
        str | None, CommandOption("--ramp", metavar="N/s", help="guests that start in each second (default: 10/s)")
    ] = None,
    time_: Annotated[
        str | None,
        CommandOption("--for", metavar="TIME", help="duration, such as 10m (default: until Ctrl-C)"),
    ] = None,
    conversations: Annotated[
        int | None,
        CommandOption("--conversations", metavar="N", min=1, help="end as soon as N conversations have ended"),
    ] = None,
    workers: Annotated[
        int | None,
        CommandOption(
            "--workers", metavar="N", min=1, max=1000, help="worker processes; with --master: how many to wait for"
        ),
    ] = None,
    slo: Annotated[
        list[str] | None,
        CommandOption("--slo", metavar="TEXT", help="what must be reached, such as 'reply p95 < 2s, failed < 0.5%'"),
    ] = None,
    csv: Annotated[Path | None, CommandOption("--csv", metavar="FILE", help="write a row for each second")] = None,
    html: Annotated[
        Path | None, CommandOption("--html", metavar="FILE", help="write a page with charts, which opens from disk")
    ] = None,
    tag: Annotated[
        list[str] | None,
        CommandOption("--tag", metavar="NAME", help="use only scenarios with this tag; -NAME: without it"),
    ] = None,
    var: Annotated[
        list[str] | None, CommandOption("--var", metavar="K=V", help="set a variable, ${K} in scripts")
    ] = None,
    trust: Annotated[
        bool, CommandOption("--trust", help="let the script name a host outside the vendor's domains")
    ] = False,
    master: Annotated[
        bool, CommandOption("--master", help="lead workers on other machines, and run no guests here")
    ] = False,
    bind: Annotated[
        str | None,
        CommandOption("--bind", metavar="HOST:PORT", help="address of the master (default: 127.0.0.1:5557)"),
    ] = None,
    worker: Annotated[
        str | None, CommandOption("--worker", metavar="HOST[:PORT]", help="run guests for the master on this host")
    ] = None,
    yes_load_test: Annotated[
        str | None,
        CommandOption(
            "--yes-load-test", metavar="HOST", help="allow a target that is not this machine: its exact host"
        ),
    ] = None,
) -> int | None:
    """Run the scenarios of a check script with many guests at once, and measure the service.

    Every guest runs one scenario after another, each as a new guest, until the time is over. `load:` in the script sets
    weights and think times. The time to the first reply counts from the moment when the message should have been sent.
    Needs guestctl[load]. Exit codes: 0 every objective was met, 1 one was missed or a worker was lost, 7 the service
    throttled more than 5 % of the attempts; if no conversation began, that of the first failure.
    """
    from guestctl.load import slo as objectives_of
    from guestctl.load.installation import check_installed

    objectives: list[Objective] = []
    try:
        for text in slo or ():
            objectives += objectives_of.parse(text)
    except objectives_of.SloError as error:
        raise UsageError(
            f"--slo: {error}", hint="separate objectives by commas: reply p95 < 2s, failed < 0.5%"
        ) from None
    seconds = None if time_ is None else duration("--for", time_, zero=False)
    role = _role(
        master,
        bind,
        worker,
        {
            "--guests": guests,
            "--ramp": ramp,
            "--for": time_,
            "--conversations": conversations,
            "--workers": workers,
            "--slo": slo,
            "--csv": csv,
            "--html": html,
        },
    )
    host, port = _address(bind, worker)
    rate = 10.0 if ramp is None else _ramp(ramp)
    from guestctl.load.plan import LoadPlan, slot_of

    profile, path = _profile(run, file, pairs("--var", var), tag, trusted=trust)
    plan = LoadPlan(
        script=str(path),
        profile=profile,
        guests=guests or 10,
        ramp=rate,
        seconds=seconds,
        conversations=conversations,
        role=role,
        workers=(workers or 1) if role == "master" else 0,
        host=host,
        port=port,
        wait=run.options.timeout or 30.0,
        variables=pairs("--var", var),
        tags=tuple(tag or ()),
        slot=slot_of(seconds),
    )
    _check_plan(run, plan, yes_load_test)
    check_installed()
    from guestctl.cli.commands.load_run import LoadRun

    processes = workers if role == "local" and workers is not None and workers > 1 else 0
    return LoadRun(run, plan, processes, objectives, csv=csv, html=html).go()


def _role(master: bool, bind: str | None, worker: str | None, others: dict[str, object]) -> str:
    """Return the role of this process. Raises UsageError for options that do not go together."""
    if master and worker is not None:
        raise UsageError(
            "--master cannot be combined with --worker", hint="one machine is the master, the others are workers"
        )
    if bind is not None and not master:
        raise UsageError("--bind is the address of a master", hint="add --master, or remove --bind")
    if worker is None:
        return "master" if master else "local"
    for option, value in others.items():
        if value is not None:
            raise UsageError(f"{option} cannot be combined with --worker", hint=f"give {option} to the master")
    return "worker"


def _address(bind: str | None, worker: str | None) -> tuple[str, int]:
    """Return the address of the master. Raises UsageError."""
    text = bind if bind is not None else worker
    if text is None:
        return "127.0.0.1", 5557
    option = "--bind" if bind is not None else "--worker"
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\[\]:\s]+)(?::([0-9]{1,5}))?", text)
    if found is None or int(found[2] or 5557) >= 1 << 16:
        raise UsageError(
            f'{option}: "{text}" is not an address', hint="give a host, or a host and a port: 10.0.0.5:5557"
        )
    return found[1].strip("[]"), int(found[2] or 5557)


def _ramp(text: str) -> float:
    """Return guests per second. Raises UsageError."""
    found = _RAMP.fullmatch(text.strip())
    rate = 0.0 if found is None else float(found[1]) / (1 if found[2] == "s" else 60)
    if not 0 < rate <= _FASTEST:
        raise UsageError(
            f'--ramp: "{text}" is not a rate',
            hint=f"give guests per second or minute, at most {_FASTEST:g}/s: 10/s or 30/m",
        )
    return rate


def _profile(
    run: Invocation, file: Path, variables: dict[str, str], tags: Sequence[str] | None, *, trusted: bool
) -> tuple[Profile, Path]:
    """Return the profile that the guests use, and the path of the script. Raises UsageError."""
    if not file.is_file():
        raise UsageError(f'no file "{file}"', hint="name a check script or a locustfile: `guestctl load smoke.yaml`")
    if file.suffix == ".py":
        for option, given in (("--tag", tags), ("--var", variables), ("--trust", trusted)):
            if given:
                raise UsageError(f"{option} is for check scripts", hint="a locustfile reads its own settings")
        return run.resolved.profile, file
    from guestctl.checks.reader import load as read
    from guestctl.checks.service import profile_for

    script = read(file, variables, run.world.environ)
    profile = profile_for(script, lambda: run.resolved, run.options.overrides, run.world.environ, trusted=trusted)
    return profile, file


def _check_plan(run: Invocation, plan: LoadPlan, confirmed: str | None) -> None:
    """Check the target and the script before any process starts. Raises UsageError."""
    from guestctl.load.guard import VENDOR_RULE, check_target
    from guestctl.load.scenario_choice import read_script

    seconds = plan.seconds if plan.role != "worker" else 0.0  # the master limits the time of its workers
    if check_target(plan.profile, confirmed, seconds):
        run.out.warning(VENDOR_RULE)
    if not plan.is_locustfile:
        script, _ = read_script(plan, run.world.environ)
        for deviation in script.deviations:
            run.out.notice(f"{script.path}: {deviation}")
