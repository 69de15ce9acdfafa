"""Outcomes as JUnit XML, which CI servers read.

Knows: the elements and attributes that consumers agree on (there is no official schema). Must not
know: how scenarios run. `failure` is an expectation that was not met, `error` everything else. The property `outcome`
names the verdict, because the format has no element for "undecided" and for a customer that failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as Tree

from guestctl.checks.outcomes import Outcome
from guestctl.checks.reports.console import explanation, transcript
from guestctl.output.terminal import distinct, visible


def document(outcomes: Sequence[Outcome]) -> bytes:
    """Return a document with a `testsuite` for each script and a `testcase` for each scenario."""
    scripts: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        scripts.setdefault(outcome.script, []).append(outcome)
    root = Tree.Element("testsuites", {"name": "guestctl check", **_counts(outcomes)})
    for script, found in scripts.items():
        suite = Tree.SubElement(root, "testsuite", {"name": _xml(script), **_counts(found)})
        for outcome in found:
            suite.append(_case(outcome))
    Tree.indent(root)
    text: bytes = Tree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _counts(outcomes: Sequence[Outcome]) -> dict[str, str]:
    return {
        "tests": str(len(outcomes)),
        "failures": str(sum(outcome.verdict == "failed" for outcome in outcomes)),
        "errors": str(sum(outcome.verdict not in ("passed", "failed") for outcome in outcomes)),
        "skipped": "0",
        "time": f"{sum(outcome.seconds for outcome in outcomes):.3f}",
    }


def _case(outcome: Outcome) -> Tree.Element:
    case = Tree.Element(
        "testcase",
        {
            "name": _xml(outcome.name + (f" (run {outcome.repetition})" if outcome.repetition else "")),
            "classname": _xml(_class_name(outcome.script)),
            "file": _xml(outcome.script),
            "line": str(outcome.line),
            "time": f"{outcome.seconds:.3f}",
        },
    )
    named = {**{f"id.{name}": value for name, value in outcome.ids.items() if value}}
    if outcome.attempts > 1:
        named["attempts"] = str(outcome.attempts)
    if outcome.repetition:
        named["run"] = str(outcome.repetition)
    if outcome.usage is not None:
        named["outcome"] = outcome.verdict
        named["model.calls"] = str(outcome.usage.calls)
        named["model.tokens"] = str(outcome.usage.tokens)
        named["model.seconds"] = f"{outcome.usage.seconds:.3f}"
    if outcome.tags:
        named["tags"] = ",".join(outcome.tags)
    if named:
        properties = Tree.SubElement(case, "properties")
        for name, value in named.items():
            Tree.SubElement(properties, "property", {"name": _xml(name), "value": _xml(value)})
    trouble = outcome.trouble
    if trouble is not None:
        failure = trouble.failure
        kind = "failure" if failure is None else "error"
        code = "check.failed" if failure is None else failure.code
        element = Tree.SubElement(case, kind, {"message": _xml(distinct(trouble.short)), "type": code})
        # The conversation is in `system-out`.
        element.text = _xml("\n".join(explanation(outcome, conversation=False)))
    if outcome.transcript:
        Tree.SubElement(case, "system-out").text = _xml("\n".join(transcript(outcome.transcript)))
    return case


def _class_name(script: str) -> str:
    """Return the path without its suffix, with dots, so that equal file names in two folders differ."""
    path = Path(script)
    parts = [part for part in (*path.parts[:-1], path.stem) if part not in ("", "..", path.anchor)]
    return ".".join(part.replace(".", "_") for part in parts) or "guestctl"


def _xml(text: str) -> str:
    """Return text that XML 1.0 allows: other characters are escaped."""
    return visible(text, lines=True)
