"""Outcomes as lines for people and logs.

Knows: outcomes, how remote text is made harmless. Must not know: streams, colours, how scenarios
run. The same result gives the same lines, except for times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from guestctl.checks.ai.interval import percent
from guestctl.checks.outcomes import JudgedCriterion, Outcome, TranscriptLine, Trouble, Verdict, rates, usage_of
from guestctl.output.terminal import distinct, visible

#: The label of each verdict, all of one width.
MARKS: dict[Verdict, str] = {
    "passed": "ok   ",
    "failed": "FAIL ",
    "undecided": "UNDEC",
    "customer_failed": "CUST ",
    "error": "ERROR",
}
#: The verdicts in words.
NAMES: dict[Verdict, str] = {
    "passed": "passed",
    "failed": "failed",
    "undecided": "undecided",
    "customer_failed": "customer failed",
    "error": "error",
}


def clean(text: str) -> str:
    """Return remote text as one line of a log, with control characters and commands of CI runners escaped."""
    return visible(text).replace("##[", "# #[")


def exact(text: str) -> str:
    """Return remote text like `clean`, for comparison: two different texts never look the same."""
    return clean(distinct(text))


def headline(outcome: Outcome) -> str:
    """Return the outcome in one line. At its end is how long the last attempt took, unless none was started."""
    again = f" (attempt {outcome.attempts})" if outcome.attempts > 1 else ""
    run = f" (run {outcome.repetition})" if outcome.repetition else ""
    took = f" ({outcome.seconds:.2f} s)" if outcome.attempts else ""
    return f"{MARKS[outcome.verdict]} {clean(outcome.script)}: {clean(outcome.name)}{run}{again}{took}"


def reason(outcome: Outcome) -> str:
    """Return in one line why a scenario did not pass, with the most important part first, because it may be cut."""
    trouble = outcome.trouble
    if trouble is None:
        return "passed"
    return exact(trouble.message.partition("\n")[0] if trouble.expected is None else f"expected {trouble.expected}")


def explanation(outcome: Outcome, *, conversation: bool = True) -> Iterator[str]:
    """Yield what was expected, what came instead and the conversation; nothing for a scenario that passed."""
    trouble = outcome.trouble
    if trouble is None:
        return
    yield from trouble_lines(outcome, trouble)
    for judged in outcome.judged:
        yield from _judged(judged)
    ids = ", ".join(f"{name} {clean(value)}" for name, value in outcome.ids.items() if value)
    if ids:
        yield f"ids: {ids}"
    yield from (f"remark: {clean(remark)}" for remark in outcome.remarks)
    if outcome.transcript and conversation:
        yield "conversation:"
        yield from (f"  {line}" for line in transcript(outcome.transcript))


def trouble_lines(outcome: Outcome, trouble: Trouble) -> Iterator[str]:
    """Yield the step that failed and why."""
    step = f": {clean(trouble.step)}" if trouble.step else ""
    yield f"{clean(outcome.script)}:{trouble.line}{step}"
    first, *more = trouble.message.split("\n")
    yield clean(first)
    # The mark keeps remote text from the start of a line, where `::` is a command of a CI runner.
    yield from (f"| {exact(line)}" for line in more)
    if trouble.expected is not None:
        yield f"expected: {exact(trouble.expected)}"
        if not trouble.came:
            yield "came: nothing"
        for line in trouble.came:
            yield f"came: {_line(line, exact)}"
            yield from _unmet(line)
        if trouble.waited and not (trouble.late or trouble.came):
            yield f"late: nothing in the next {trouble.waited:g} s"
        for line in trouble.late:
            yield f"late: {_line(line, exact)}"
            yield from _unmet(line)
        yield from (f"missing: {exact(one)}" for one in trouble.missing)
    if trouble.failure is not None:
        yield f"code: {trouble.failure.code} (exit {int(trouble.failure.exit)})"
        if trouble.failure.hint:
            yield f"next: {clean(trouble.failure.hint)}"


def _unmet(line: TranscriptLine) -> Iterator[str]:
    """Yield the conditions that a reply did not meet, in one line."""
    if line.unmet:
        yield f"  not met: {'; '.join(map(exact, line.unmet))}"


def _judged(judged: JudgedCriterion) -> Iterator[str]:
    """Yield a judgement with its votes and the messages that it quotes."""
    yield f"{'never' if judged.never else 'criterion'}: {clean(judged.text)}: {judged.decision} ({judged.tally})"
    if judged.why:
        yield f"  why: {clean(judged.why)}"
    yield from (f"  quoted: {_line(line)}" for line in judged.quoted)


def transcript(lines: Sequence[TranscriptLine]) -> Iterator[str]:
    """Yield a conversation with times and ids."""
    for line in lines:
        yield _line(line)
        yield from (f"    {clean(text)}" for text in line.content)
        yield from (f"    [{n}] {clean(option)}" for n, option in enumerate(line.options, 1))
        yield from (f"    (file) {clean(name)}" for name in line.files)


def _line(line: TranscriptLine, shown: Callable[[str], str] = clean) -> str:
    if line.who is None:
        return f"{line.at:.3f} s * {shown(line.text)}"
    mark = ">" if line.who == "guest" else "<"
    identity = f"  ({clean(line.id)})" if line.id else ""
    return f"{line.at:.3f} s {mark} {clean(line.who)}: {shown(line.text)}{identity}"


def tally(outcomes: Sequence[Outcome]) -> str:
    """Return the number of scenarios with each verdict, in one line."""
    count = {verdict: sum(outcome.verdict == verdict for outcome in outcomes) for verdict in MARKS}
    uncertain = [(count["undecided"], "undecided"), (count["customer_failed"], "customer failed")]
    more = "".join(f", {number} {name}" for number, name in uncertain if number)
    return f"{count['passed']} passed, {count['failed']} failed{more}, {plural(count['error'], 'error')}"


def usage(outcomes: Sequence[Outcome]) -> str | None:
    """Return what the model calls have used, in one line; None if no model took part."""
    found = usage_of(outcomes)
    if found is None:
        return None
    return f"model: {plural(found.calls, 'call')}, {plural(found.tokens, 'token')}, {found.seconds:.1f} s"


def pass_rates(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield the pass rate of each repeated scenario with its 95 % interval."""
    for rate in rates(outcomes):
        name = f"{clean(rate.script)}: {clean(rate.scenario)}"
        rest = rate.runs - rate.decided
        without = f"; {plural(rest, 'run')} neither passed nor failed" if rest else ""
        if rate.rate is None:
            yield f"rate  {name}: no run passed or failed{without}"
        else:
            low, high = rate.interval
            share = f"{percent(rate.rate)}, 95 % interval {percent(low)} to {percent(high)}"
            yield f"rate  {name}: passed {rate.passed} of {rate.decided} ({share}){without}"


def not_started(count: int) -> str:
    """Return in one line how many scenarios an interrupted run never started."""
    return f"{MARKS['error']} {plural(count, 'scenario')} not started"


def plural(count: int, word: str) -> str:
    """Return a number and a noun, in the plural where it belongs."""
    return f"{count} {word}" + ("" if count == 1 else "s")
