"""Times as people read them: local, next to their distance from now or with their offset from UTC.

Knows: RFC 3339 and the local time zone. Must not know: records, terminals.
"""

from __future__ import annotations

from datetime import datetime

from guestctl.core.clock import epoch_of
from guestctl.core.humanize import format_duration
from guestctl.output.terminal import visible

#: Names of the months, which do not depend on the locale.
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def when(time: str) -> str:
    """Return a time as local time with its offset from UTC. A text that is not a time is returned as it is."""
    moment = _local(time)
    return visible(time) if moment is None else moment.astimezone().isoformat(" ", "seconds")


def stamp(time: str | None, now: float) -> str:
    """Return a local time in at most 12 columns: the time of day, or the date if it is not today.

    `now` is in epoch seconds. A date of another year has no time of day.
    """
    moment = _local(time)
    if moment is None:
        return "--:--:--"
    today = datetime.fromtimestamp(now)
    if moment.date() == today.date():
        return f"{moment:%H:%M:%S}"
    day = f"{_MONTHS[moment.month - 1]} {moment:%d}"
    return f"{day} {moment:%H:%M}" if moment.year == today.year else f"{day} {moment.year}"


def relative(time: str, now: float) -> str:
    """Return the distance of a time from now in one unit: `in 2 h`, `3 min ago`. Return `?` if it is not a time."""
    try:
        seconds = epoch_of(time) - now
    except (ValueError, OverflowError):
        return "?"
    if abs(seconds) < 1:
        return "now"
    distance = format_duration(abs(seconds), units=1)
    return f"in {distance}" if seconds > 0 else f"{distance} ago"


def distance(time: str, now: float, *, ends: bool, over: bool) -> str:
    """Return the distance from now in brackets. `ends`: the time is an expiry. `over`: the session has ended."""
    try:
        seconds = epoch_of(time) - now
    except (ValueError, OverflowError):
        return " (?)"
    if seconds > 0:
        return "" if ends and over else f" (in {format_duration(seconds)})"
    return f" ({'expired ' if ends else ''}{format_duration(-seconds)} ago)"


def _local(time: str | None) -> datetime | None:
    try:
        return None if time is None else datetime.fromtimestamp(epoch_of(time))
    except (ValueError, OverflowError, OSError):
        return None
