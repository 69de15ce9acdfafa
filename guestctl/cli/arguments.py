"""What is wrong with the arguments of a command, in guestctl's words.

Knows: the errors of Typer's parser. Must not know: what a command does, how errors are printed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from guestctl.core.suggestions import nearest


def problem(error: Any) -> str:
    """Return what an error of Typer's parser says, in the form of guestctl's own errors."""
    kind, parameter = type(error).__name__, getattr(error, "param", None)
    message = str(error.message).rstrip(".")
    if kind == "NoSuchOption":
        return f"no such option: {error.option_name}"
    if kind == "BadOptionUsage":
        return f"{error.option_name} {'takes no' if 'not take' in message else 'needs a'} value"
    if kind == "MissingParameter" and parameter is not None:
        is_argument = parameter.param_type_name == "argument"
        return f'missing argument "{parameter.metavar}"' if is_argument else f"missing option {parameter.opts[-1]}"
    found = re.match(r"'?(.*?)'? is not (?:a valid int|in the range)", message)
    if kind == "BadParameter" and parameter is not None and found:
        return f'{parameter.opts[-1]}: "{found[1]}" is not a whole number{_range(parameter.type)}'
    if found := re.match(r"Got unexpected extra arguments? ?(?:\(s\) )?\((.*)\)$", message):
        return f'unexpected argument "{found[1]}"'
    return message[:1].lower() + message[1:]


def similar_option(name: str, options: Iterable[str]) -> str | None:
    """Return the option that a misspelled or shortened one most likely stands for.

    The dashes, which all options have, are not compared.
    """
    names = {option.lstrip("-"): option for option in options}
    started = [full for full in names if full.startswith(name.lstrip("-"))]
    found = started if len(started) == 1 else nearest(name.lstrip("-"), names)
    return names[found[0]] if found else None


def _range(kind: Any) -> str:
    least, most = getattr(kind, "min", None), getattr(kind, "max", None)
    if least is None or most is None:
        return "" if least is None else f" of at least {least}"
    return f" from {least} to {most}"
