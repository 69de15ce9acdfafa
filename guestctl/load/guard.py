"""The guard of load tests: which host they may be aimed at.

Knows: the hosts of a profile, the vendor's rule. Must not know: options, Locust.
"""

from __future__ import annotations

from guestctl.core.errors import UsageError
from guestctl.core.model import Profile
from guestctl.dialects import dialect_class
from guestctl.transport.hosts import is_loopback, target

#: What the vendor asks for before a load test.
VENDOR_RULE = (
    "the vendor allows load tests only with a ticket that was opened at least two weeks ahead and approved, "
    "and only at night, from 23:00 to 5:00 in the time zone of the region"
)


def target_hosts(profile: Profile) -> list[str]:
    """Return the hosts that guests of this profile talk to. Raises UsageError for an unusable profile."""
    dialect = dialect_class(profile.api)(profile, new_id=str)
    dialect.check_profile()
    hosts: dict[str, None] = {}
    for address in dialect.addresses():
        if address:
            hosts[target(address)[1].lower()] = None
    return list(hosts)


def target_host(profile: Profile) -> str:
    """Return the host that a load test must name: that of the socket, unless only another one is not this machine."""
    hosts = target_hosts(profile)
    return next((host for host in reversed(hosts) if not is_loopback(host)), hosts[-1])


def check_target(profile: Profile, confirmed: str | None, seconds: float | None) -> bool:
    """Return whether the target is another machine. Raises UsageError unless it was confirmed and the time is
    limited."""
    host = target_host(profile)
    if is_loopback(host):
        if confirmed is not None:
            raise UsageError(
                f"--yes-load-test: the target is this machine ({host})",
                hint="remove the option, or choose a profile: -p",
            )
        return False
    if confirmed is None:
        raise UsageError(f"{host} is not this machine; {VENDOR_RULE}", code="load.guard")
    if confirmed.lower().rstrip(".") != host:
        raise UsageError(f'--yes-load-test names "{confirmed}", but the target is {host}', code="load.guard")
    if seconds is None:
        raise UsageError(
            f"a load test of {host} needs a time limit", code="load.guard", hint="add --for, such as --for 10m"
        )
    return True
