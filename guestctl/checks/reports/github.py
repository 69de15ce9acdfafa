"""Annotations for GitHub Actions: workflow commands that mark the line of the failed step.

Knows: the syntax and escapes of the commands, and that only about ten of a kind are shown. Must not
know: how scenarios run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from guestctl.checks.outcomes import Outcome, TranscriptLine
from guestctl.output.ci_commands import runs_in_actions
from guestctl.output.terminal import distinct, visible

MOST = 10


def wanted(environ: Mapping[str, str]) -> bool:
    """Return whether this runs in an Actions job."""
    return runs_in_actions(environ)


def errors(outcomes: Sequence[Outcome], environ: Mapping[str, str]) -> Iterator[str]:
    """Yield an `::error` for each of the first ten scenarios that did not pass, then the number of the others."""
    bad = [outcome for outcome in outcomes if outcome.trouble is not None]
    for outcome in bad[:MOST]:
        trouble = outcome.trouble
        assert trouble is not None
        parts = [trouble.message]
        if trouble.expected is not None:
            parts.append(f"expected: {trouble.expected}")
            parts += [_came(line) for line in trouble.came[-3:]] or ["came: nothing"]
            parts += [f"missing: {one}" for one in trouble.missing]
        location = f"file={_property(_from_root(outcome.script, environ))},line={trouble.line}"
        message = _data("\n".join(visible(distinct(line), lines=True) for line in parts))
        yield f"::error {location},title={_property(outcome.name)}::{message}"
    if len(bad) > MOST:
        yield f"::notice::and {len(bad) - MOST} more scenarios that did not pass"


def _came(line: TranscriptLine) -> str:
    unmet = f" (not met: {'; '.join(line.unmet)})" if line.unmet else ""
    return f"came: {line.text}{unmet}"


def _from_root(script: str, environ: Mapping[str, str]) -> str:
    """Return the path from the root of the repository."""
    root = environ.get("GITHUB_WORKSPACE")
    if root and os.path.isabs(script) and Path(script).is_relative_to(root):
        return str(Path(script).relative_to(root))
    return script


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(visible(text)).replace(":", "%3A").replace(",", "%2C")
