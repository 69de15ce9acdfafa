"""Outcomes as lines for people and logs: the same for the same result, but for times of what failed.

Knows: outcomes, how remote text is made harmless. Must not know: streams, colours, how anything ran.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from guestctl.checks.outcomes import Outcome, Said, Trouble, Verdict
from guestctl.output.terminal import visible

#: How a verdict is written, all of one width.
MARKS: dict[Verdict, str] = {"passed": "ok   ", "failed": "FAIL ", "error": "ERROR"}


def clean(text: str) -> str:
    """Remote text for one line of a log: controls written out, and no runner's command in it."""
    return visible(text).replace("##[", "# #[")


def headline(outcome: Outcome) -> str:
    """The result in one line, without a time: it is the same in every run."""
    again = f" (attempt {outcome.attempts})" if outcome.attempts > 1 else ""
    return f"{MARKS[outcome.verdict]} {clean(outcome.script)}: {clean(outcome.name)}{again}"


def reason(outcome: Outcome) -> str:
    """Why it did not pass, in one line, what matters most first: it may be cut."""
    trouble = outcome.trouble
    if trouble is None:
        return "passed"
    return clean(trouble.message.partition("\n")[0] if trouble.expected is None else f"expected {trouble.expected}")


def explanation(outcome: Outcome) -> Iterator[str]:
    """What was expected, what came instead and the whole conversation; nothing for one that passed."""
    trouble = outcome.trouble
    if trouble is None:
        return
    yield from told(outcome, trouble)
    ids = ", ".join(f"{name} {clean(value)}" for name, value in outcome.ids.items() if value)
    if ids:
        yield f"ids: {ids}"
    yield from (f"remark: {clean(remark)}" for remark in outcome.remarks)
    if outcome.transcript:
        yield "conversation:"
        yield from (f"  {line}" for line in transcript(outcome.transcript))


def told(outcome: Outcome, trouble: Trouble) -> Iterator[str]:
    """The trouble itself."""
    step = f": {clean(trouble.step)}" if trouble.step else ""
    yield f"{clean(outcome.script)}:{trouble.line}{step}"
    first, *more = trouble.message.split("\n")
    yield clean(first)
    # Marked, so that no line of it begins as it likes: `::` at a line's beginning is a runner's command.
    yield from (f"| {clean(line)}" for line in more)
    if trouble.expected is not None:
        yield f"expected: {clean(trouble.expected)}"
        if not trouble.came:
            yield "came: nothing"
        for line in trouble.came:
            yield f"came: {_line(line)}"
        if trouble.waited and not (trouble.late or trouble.came):
            yield f"late: nothing in the {trouble.waited:g} s after"
        for line in trouble.late:
            yield f"late: {_line(line)}"
    if trouble.failure is not None:
        yield f"code: {trouble.failure.code} (exit {int(trouble.failure.exit)})"
        if trouble.failure.hint:
            yield f"next: {clean(trouble.failure.hint)}"


def transcript(lines: Sequence[Said]) -> Iterator[str]:
    """A conversation, with times and ids."""
    for line in lines:
        yield _line(line)
        yield from (f"    {clean(words)}" for words in line.content)
        yield from (f"    [{n}] {clean(option)}" for n, option in enumerate(line.options, 1))
        yield from (f"    (file) {clean(name)}" for name in line.files)


def _line(line: Said) -> str:
    if line.who is None:
        return f"{line.at:.3f} s * {clean(line.text)}"
    mark = ">" if line.who == "guest" else "<"
    identity = f"  ({clean(line.id)})" if line.id else ""
    return f"{line.at:.3f} s {mark} {clean(line.who)}: {clean(line.text)}{identity}"


def tally(outcomes: Sequence[Outcome]) -> str:
    """How many of each, in one line."""
    count = {verdict: sum(outcome.verdict == verdict for outcome in outcomes) for verdict in MARKS}
    return f"{count['passed']} passed, {count['failed']} failed, {plural(count['error'], 'error')}"


def not_begun(count: int) -> str:
    """What a run that was cut off never came to, in one line."""
    return f"{MARKS['error']} {plural(count, 'scenario')} had not begun"


def plural(count: int, word: str) -> str:
    """A number of things, of one as one speaks of one."""
    return f"{count} {word}" + ("" if count == 1 else "s")
