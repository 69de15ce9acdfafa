"""`profile …`: the profiles in the YAML file.

Knows: which profile is meant and how it is shown. Must not know: how the file is read or written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from guestctl.cli.invocation import Invocation
from guestctl.cli.options import command, pairs
from guestctl.cli.parameters import CommandArgument, CommandOption
from guestctl.config import edits, profiles
from guestctl.core.errors import UsageError
from guestctl.core.humanize import as_written
from guestctl.output.columns import Column

Name = Annotated[str, CommandArgument(metavar="NAME", help="name of the profile", completes="profile")]
NewName = Annotated[str, CommandArgument(metavar="NAME", help="name of the new profile")]


@command("guestctl profile list", "guestctl profile list -o json", needs="nothing")
def list_(run: Invocation) -> None:
    """List the profiles in the file and the built-in one."""
    file = profiles.find(run.options.profiles, run.world.environ, run.world.cwd)
    with run.out.listing(kind="profile") as add:
        for name in file.names:
            values = {key: found.text for key, found in file.values(name).items()}
            address = values.get("base_url") or values.get("region") or values.get("environment") or values.get("org")
            add(_list_record(name, name == file.default, values.get("api") or "web-messaging", address))
        if profiles.SANDBOX not in file.names:
            add(_list_record(profiles.SANDBOX, file.default == profiles.SANDBOX, "web-messaging", "built in"))


def _list_record(name: str, default: bool, api: str, address: str | None) -> dict[str, Any]:
    return {"kind": "profile", "name": name, "default": default, "api": api, "address": address}


@command(
    "guestctl profile show staging",
    "guestctl profile show -o json | jq .values.region",
    needs="profile",
    connects=False,
)
def show(
    run: Invocation,
    name: Annotated[
        str | None,
        CommandArgument(
            metavar="[NAME]", help="name of the profile (default: the profile that commands use)", completes="profile"
        ),
    ] = None,
) -> None:
    """Show each value of a profile and where it comes from.

    A variable is shown as written if it is not set, or if the file is not trusted.
    """
    if name is not None:
        run.chosen_profile = name
    found = run.resolve_to_show()
    values = run.shown_values(found)
    if run.out.human:
        rows = [
            [key, "-" if value is None else as_written(value), found.origins[key]]
            for key, value in values.items()
            if value is not None or found.origins[key] != "default"
        ]
        first = ["profile", found.profile.name, str(found.path or "built in")]
        columns = [Column("KEY", 16, 20), Column("VALUE", 20, 60, breaks=True), Column("FROM", 20, 40, breaks=True)]
        run.out.grid(columns, [first, *rows])
        return
    run.out.one(
        {
            "kind": "profile",
            "name": found.profile.name,
            "values": {key: {"value": value, "origin": found.origins[key]} for key, value in values.items()},
        }
    )


@command(
    "guestctl profile add staging --region mypurecloud.de --deployment-id ID",
    "guestctl profile add staging --region eu-central-1 --set oauth.client_secret='${GUEST_SECRET}'",
    needs="profile",
    connects=False,
)
def add(
    run: Invocation,
    name: NewName,
    set_: Annotated[
        list[str] | None,
        CommandOption("--set", metavar="KEY=VALUE", help="any other key; a nested key is written with dots"),
    ] = None,
) -> None:
    """Add a profile to the file.

    The comments and the order of the file are kept. The file is created if it does not exist.
    """
    values = _values(run, "--set", set_)
    if not values:
        hint = f"`guestctl profile add {name} --region REGION --deployment-id ID`; keys: `guestctl help profiles`"
        raise UsageError(f'no values for profile "{name}"', hint=hint)
    path, _ = profiles.locate(run.options.profiles, run.world.environ, run.world.cwd)
    edits.add(path, name, values, run.clock, run.world.environ)
    _print_change(run, "added", name, str(path))


def _values(run: Invocation, source: str, given: list[str] | None) -> dict[str, str]:
    """Return the values of a profile that options and `KEY=VALUE` words name."""
    others = pairs(source, given)
    for key in run.options.overrides.keys() & others.keys():
        raise UsageError(f"{key} is set twice, by its option and by {source}", hint="use one of them")
    return {**run.options.overrides, **others}


@command(
    "guestctl profile set staging queue=billing attributes.plan=gold",
    "guestctl profile set staging --region eu-central-1 --unset origin",
    needs="profile",
    connects=False,
)
def set_(
    run: Invocation,
    name: Name,
    values: Annotated[
        list[str] | None,
        CommandArgument(metavar="[KEY=VALUE...]", help="values; a nested key is written with dots"),
    ] = None,
    unset: Annotated[
        list[str] | None, CommandOption("--unset", metavar="KEY", help="remove a key (repeatable)")
    ] = None,
) -> None:
    """Change values of a profile in the file.

    The comments and the order of the file are kept. Stored sessions belong to the region, deployment and addresses
    that they were created for. After you change one of these, commands do not find them until you restore the old
    value.
    """
    chosen = _values(run, "KEY=VALUE", values)
    for key in chosen.keys() & set(unset or ()):
        raise UsageError(f"{key} is both set and unset", hint="use one of them")
    if not chosen and not unset:
        hint = f"`guestctl profile set {name} KEY=VALUE`; keys: `guestctl help profiles`"
        raise UsageError(f'nothing to change in profile "{name}"', hint=hint)
    path, _ = profiles.locate(run.options.profiles, run.world.environ, run.world.cwd)
    edits.change_values(path, name, chosen, unset or (), run.clock, run.world.environ)
    _print_change(run, "changed", name, str(path))


@command("guestctl profile remove staging", "guestctl profile remove staging --yes", needs="nothing")
def remove(
    run: Invocation,
    name: Name,
    yes: Annotated[bool, CommandOption("--yes", help="do not ask for confirmation")] = False,
) -> None:
    """Remove a profile from the file, and its stored sessions.

    If it has stored sessions, guestctl asks for confirmation first. The service is not contacted, so their
    conversations do not end.
    """
    path, _ = profiles.locate(run.options.profiles, run.world.environ, run.world.cwd)
    profiles.load(path).values(name)
    count = run.state.profiles.sessions(name)
    if count:
        run.confirmed(f'remove profile "{name}" and its {_sessions(count)}?', yes)
    with run.state.profiles.renaming(name, None) as removed:
        was_default = edits.remove(path, name, run.clock, run.world.environ)
    if was_default:
        run.out.notice("the file has no default any more: `guestctl profile use NAME` chooses one")
    _print_change(run, "removed", name, str(path), sessions=removed)


@command("guestctl profile rename staging test", "guestctl profile rename staging test -o json", needs="nothing")
def rename(
    run: Invocation,
    name: Name,
    new: Annotated[str, CommandArgument(metavar="NEW", help="new name of the profile")],
) -> None:
    """Rename a profile. Its stored sessions and the file's default change with it.

    The file and the sessions change together or not at all. If a crash interrupts the command, run it again.
    """
    path, _ = profiles.locate(run.options.profiles, run.world.environ, run.world.cwd)
    names = profiles.load(path).names
    with run.state.profiles.renaming(name, new) as moved:
        # A run that was killed may have changed the file and not the sessions. Then only those are left to move.
        if not (moved and name not in names and new in names):
            edits.rename(path, name, new, run.clock, run.world.environ)
    _print_change(run, "renamed", new, str(path), sessions=moved, former_name=name)


def _sessions(count: int) -> str:
    return f"{count} stored session{'s' * (count != 1)}"


@command("guestctl profile use staging", "guestctl profile use sandbox", needs="nothing")
def use(run: Invocation, name: Name) -> None:
    """Make a profile the default of the file."""
    path, _ = profiles.locate(run.options.profiles, run.world.environ, run.world.cwd)
    edits.use(path, name, run.clock, run.world.environ)
    _print_change(run, "default", name, str(path))


def _print_change(run: Invocation, what: str, name: str, path: str, **more: Any) -> None:
    if run.out.human:
        with_sessions = f", with {_sessions(more['sessions'])}" if more.get("sessions") else ""
        run.out.notice(f"{name}: {what} in {path}{with_sessions}")
    else:
        run.out.one({"kind": "profile", "name": name, "change": what, "path": path, **more})


@command("guestctl profile path", '$EDITOR "$(guestctl profile path)"', needs="nothing")
def path(run: Invocation) -> None:
    """Print the path of the profile file, and on stderr the reason for it."""
    found, why = profiles.locate(run.options.profiles, run.world.environ, run.world.cwd)
    if run.out.mode in {"auto", "table"}:
        run.out.text(str(found))
        run.out.notice(f"{why}{'' if found.exists() else '; it does not exist yet'}")
    else:
        run.out.one({"kind": "profile-path", "path": str(found), "origin": why, "exists": found.exists()})


@command("guestctl profile check", "guestctl profile check --profiles team.yaml", needs="nothing")
def check(run: Invocation) -> None:
    """Check the whole profile file: keys, values, variables, and what each profile's API needs.

    The exit code is 2 if anything is wrong; the error names the file, the line and the key. A variable that is not
    set is a warning.
    """
    from guestctl.dialects import dialect_class

    file = profiles.find(run.options.profiles, run.world.environ, run.world.cwd)
    if not file.path.exists():
        looked = f"./{profiles.FILE} and {file.path}"
        hint = "add a profile with `guestctl profile add`, or name a file with --profiles"
        raise UsageError(f"no profile file (looked for {looked})", code="config.file", hint=hint)
    warnings: list[str] = []
    for name in file.names:
        found = profiles.resolve(
            name,
            options={},
            environ=run.world.environ,
            cwd=run.world.cwd,
            profiles_option=run.options.profiles,
            sandbox=lambda: None,
            as_written=True,
            to_show=True,
        )
        dialect_class(found.profile.api)(found.profile, new_id=str).check_profile()
        warnings += found.warnings
    if run.options.profile is not None and run.options.profile not in {*file.names, profiles.SANDBOX}:
        raise UsageError(f'no profile "{run.options.profile}" in {file.path}', code="config.profile")
    for warning in warnings:
        run.out.warning(warning)
    record = {"kind": "profile-check", "path": str(file.path), "profiles": list(file.names), "warnings": warnings}
    if run.out.human:
        run.out.text(f"{file.path}: {len(file.names)} profile{'s' * (len(file.names) != 1)}, all valid", prose=True)
    else:
        run.out.one(record)


@command("guestctl profile trust ./profiles.yaml", "guestctl profile trust profiles.yaml -o json", needs="nothing")
def trust(
    run: Invocation,
    path: Annotated[Path, CommandArgument(metavar="PATH", help="profile file of a working directory")],
) -> None:
    """Trust a profile file that commands find in the working directory.

    Without trust such a file may not send to hosts outside the vendor's domains, read variables, allow cleartext, or
    name certificate authorities. Trust applies to the present content of the file; `profile add` and the other commands
    that change the file renew it. A file that is named with --profiles or GUESTCTL_PROFILES needs no trust.
    """
    from guestctl.config.trust import record

    file = profiles.load(run.world.cwd / path.expanduser())
    record(file.digest, run.world.environ)
    if run.out.human:
        for name in file.names:
            does = profiles.needs_trust(file, name, {})
            run.out.text(f"{name}: {' and '.join(does) or 'needs no trust'}", prose=True)
        run.out.notice(f"trusted: {file.path}")
    else:
        run.out.one({"kind": "profile-trust", "path": str(file.path), "sha256": file.digest})
