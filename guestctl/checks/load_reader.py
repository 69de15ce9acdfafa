"""The reader of `load:`, the part of a check script that only `guestctl load` uses.

Knows: weights and think times. Must not know: how a load test runs.
"""

from __future__ import annotations

from collections.abc import Collection

from guestctl.checks import script_keys
from guestctl.checks.script import LoadSettings, ThinkTime
from guestctl.core.suggestions import did_you_mean
from guestctl.core.yaml_fields import YamlField

#: The longest think time, in seconds.
LONGEST_THINK = 3600.0
#: The largest weight.
MOST_WEIGHT = 1000


def settings(field: YamlField | None, names: Collection[str]) -> LoadSettings:
    """Return what `load:` sets for the scenarios with these names. Raises UsageError with file, line and key."""
    if field is None or field.value is None:
        return LoadSettings()
    top = field.mapping(script_keys.LOAD)
    weights: dict[str, int] = {}
    thinks: dict[str, ThinkTime] = {}
    for name, member in top["scenarios"].members().items() if "scenarios" in top else ():
        if name not in names:
            raise member.named("load.scenarios").error(f'no scenario "{name}"{did_you_mean(name, names)}')
        own = member.mapping(script_keys.LOAD_SCENARIO)
        if "weight" in own:
            weights[name] = own["weight"].whole_number(1, MOST_WEIGHT)
        if "think" in own:
            thinks[name] = think_time(own["think"])
    return LoadSettings(field.line, think_time(top["think"]) if "think" in top else None, weights, thinks)


def think_time(field: YamlField) -> ThinkTime:
    """Return a think time: one duration, or `min` and `max`. Raises UsageError."""
    if not field.is_mapping:
        seconds = field.duration(LONGEST_THINK, zero=True)
        return ThinkTime(seconds, seconds)
    members = field.mapping(script_keys.THINK)
    least = field.required(members, "min").duration(LONGEST_THINK, zero=True)
    most = field.required(members, "max").duration(LONGEST_THINK, zero=True)
    if least > most:
        raise members["min"].error("`min` is more than `max`")
    return ThinkTime(least, most)
