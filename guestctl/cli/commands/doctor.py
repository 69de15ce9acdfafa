"""The `doctor` command. Knows: how findings are printed. Must not know: how anything is checked."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

from guestctl.cli.invocation import Invocation
from guestctl.cli.options import command
from guestctl.cli.parameters import CommandArgument
from guestctl.core.errors import Exit, Failure, UsageError
from guestctl.output.columns import Column

if TYPE_CHECKING:
    from guestctl.core.model import Session
    from guestctl.core.redact import Redactor
    from guestctl.dialects.base import Dialect
    from guestctl.doctor.findings import EffectiveProfile, Finding, Result
    from guestctl.doctor.probes import RealProbes
    from guestctl.output.record_types import DoctorRecord
    from guestctl.storage.state import State
    from guestctl.transport.network import Network

#: Result -> the mark at the start of the line, and its style.
_MARKS = {"ok": ("✓", "service"), "warning": ("!", "warn"), "failed": ("✗", "bad"), "skipped": ("–", "dim")}


@command("guestctl -p staging doctor", "guestctl doctor wss://webmessaging.mypurecloud.de/v1")
def doctor(
    run: Invocation,
    urls: Annotated[
        list[str] | None, CommandArgument(metavar="[URL...]", help="addresses to check instead of the profile")
    ] = None,
) -> int:
    """Check everything that a conversation needs, one line for each check.

    ✓ passed, ! warning, ✗ failed (with the next step), – skipped. Exits 1 if a check failed. doctor starts no
    conversation: it configures a session with a throw-away token only where guests and agents cannot see
    it, and reads the history of the stored session. With a URL, doctor reports which API it belongs to and
    whether its host can be reached.
    """
    counts: Counter[Result] = Counter()

    def counted() -> Iterator[Finding]:
        for finding in _findings(run, urls or []):
            counts[finding.result] += 1
            yield finding

    if not run.out.human:
        with run.out.listing() as add:
            for finding in counted():
                add(_record(finding))
    else:
        for finding in _combined(counted()):
            _show(run, finding)
        run.out.notice(f"{counts['ok']} passed, {_count(counts['warning'], 'warning')}, {counts['failed']} failed")
    return Exit.NO if counts["failed"] else Exit.DONE


def _findings(run: Invocation, urls: list[str]) -> Iterator[Finding]:
    from guestctl.doctor.checks import examine, examine_address

    sources = _Sources(run)
    probes = sources.probes
    try:
        if not urls:
            yield from _masked(examine(probes, run.clock), probes, run.redactor)
        for url in urls:
            yield from _masked(examine_address(_checked(url), probes, run.clock, api=sources.api), probes, run.redactor)
    finally:
        probes.close()


def _masked(findings: Iterator[Finding], probes: RealProbes, redactor: Redactor) -> Iterator[Finding]:
    """Mask secrets: a finding quotes the service, which may quote a token that guestctl sent."""
    for finding in findings:
        for secret in probes.secrets():
            redactor.add(secret)
        fix = None if finding.fix is None else redactor.text(finding.fix)
        target = None if finding.target is None else redactor.text(finding.target)
        yield replace(finding, found=redactor.text(finding.found), target=target, fix=fix)


class _Sources:
    """The command's profile, state and stored session. Each is made on first use, so that a failure is
    reported by the check that needs it and by no other."""

    def __init__(self, run: Invocation) -> None:
        self._run = run

    @cached_property
    def probes(self) -> RealProbes:
        from guestctl.core.clock import Deadline
        from guestctl.doctor.probes import RealProbes
        from guestctl.transport.propagation import propagation

        return RealProbes(
            profile=self._profile,
            open_state=self._open_state,
            make_dialect=lambda: self._dialect,
            find_session=self._find_session,
            network=lambda: self._network,
            clock=self._run.clock,
            deadline=Deadline.after(self._run.clock, self._run.options.timeout),
            observer=self._run.watcher,
            propagation=propagation(
                self._run.options.traceparent,
                self._run.world.environ,
                baggage=self._run.options.propagate_baggage,
                notice=self._run.out.notice,
            ),
        )

    @property
    def api(self) -> str | None:
        """The profile's API, None without a profile."""
        try:
            return self._run.resolved.profile.api
        except Failure:
            if self._run.options.profile or self._run.options.overrides:
                raise
            return None

    @cached_property
    def _network(self) -> Network:
        from guestctl.transport.network import Network

        ca, cleartext = None, False
        with suppress(Failure):
            ca, cleartext = self._run.resolved.profile.ca, self._run.resolved.profile.cleartext
        return Network(ca=ca, environ=self._run.world.environ, cleartext=cleartext)

    def _profile(self) -> EffectiveProfile:
        from guestctl.doctor.findings import EffectiveProfile

        found = self._run.resolved
        values = {key: (value, found.origins[key]) for key, value in self._run.shown_values(found).items()}
        self._dialect.check_profile()
        return EffectiveProfile(found.profile.name, values, tuple(found.warnings))

    @cached_property
    def _dialect(self) -> Dialect:
        from guestctl.dialects import dialect_class

        profile = self._run.resolved.profile
        return dialect_class(profile.api)(profile, new_id=lambda: str(uuid.uuid4()))

    def _open_state(self) -> tuple[State, str]:
        state = self._run.state
        if self._run.options.no_state:
            return state, "in memory (--no-state)"
        return state, str(state.directory(self._run.world.environ))

    def _find_session(self) -> tuple[str, Session | None]:
        from guestctl.client import former_scope_of, scope_of

        profile, dialect = self._run.resolved.profile, self._dialect
        state, scope = self._open_state()[0], scope_of(profile, dialect)
        state.profiles.adopt(former_scope_of(profile, dialect), scope, profile.name)
        name = self._run.session_name or state.current(scope) or "default"
        session = state.get(scope, name)
        for credential in session.credentials.values() if session else ():
            self._run.redactor.add(credential.secret)
            self._run.redactor.add(credential.refresh)
        return scope, session


def _checked(url: str) -> str:
    from guestctl.transport.hosts import target

    try:
        target(url)
    except UsageError as error:
        raise UsageError(
            f'"{url.partition("?")[0]}" is not a URL', hint="give an address with http://, https://, ws:// or wss://"
        ) from error
    return url


def _combined(findings: Iterator[Finding]) -> Iterator[Finding]:
    """Combine successive checks that are skipped for the same reason into one line.

    Checks that do not exist on this API come last, together.
    """
    elsewhere: list[Finding] = []

    def applying() -> Iterator[Finding]:
        for finding in findings:
            if finding.applies:
                yield finding
            else:
                elsewhere.append(finding)

    for _, alike in groupby(
        applying(), lambda found: (found.found, found.target) if found.result == "skipped" else found
    ):
        first, *others = alike
        yield replace(first, check=f"{first.check} … {others[-1].check}") if others else first
    if elsewhere:
        yield replace(elsewhere[0], check="not on this API", found=", ".join(found.check for found in elsewhere))


def _show(run: Invocation, finding: Finding) -> None:
    took = f" ({finding.seconds * 1000:.0f} ms)" if finding.seconds is not None else ""
    target = f"{finding.target}: " if finding.target else ""
    mark, style = _MARKS[finding.result]
    rest = max(10, run.out.terminal.drawing_width - 23)
    columns = [Column("", 1, gap=1), Column("", 20, breaks=True, gap=1), Column("", rest, breaks=True)]
    run.out.row(columns, [(mark, style), (finding.check, style), (f"{target}{finding.found}{took}", "")])
    if finding.fix:
        fixes = [Column("", 22, gap=1), Column("", 1, gap=1), Column("", rest - 2, breaks=True)]
        run.out.row(fixes, [("", ""), ("→", ""), (finding.fix, "")])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _record(finding: Finding) -> DoctorRecord:
    return {
        "kind": "doctor",
        "check": finding.check,
        "target": finding.target,
        "result": finding.result,
        "found": finding.found,
        "failure": finding.failure,
        "fix": finding.fix,
        "took_ms": None if finding.seconds is None else round(finding.seconds * 1000, 3),
        "details": dict(finding.details),
    }
