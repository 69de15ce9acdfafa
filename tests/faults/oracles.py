"""The oracles: what must be true of every run, in spite of all faults (reliability.md §5.3).

Knows: the service's log, what the clients reported, and the promises. Must not know: how a run is performed.
Nothing is sorted before it is compared. A reported doubt is no violation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from guestctl.core.errors import Failure
from tests.examples import numbered
from tests.faults.model import Record, Run, SendResult, Watch

#: Seconds by which a command may exceed its deadline. Closing sockets takes one or two, the rest allows for a busy
#: machine. On counted time (`machine`) two seconds are enough.
SLACK = 10.0
#: Maximum number of connections of a listener in one schedule.
MOST_CONNECTIONS = 400


Report: TypeAlias = Callable[[str, str], None]
"""Called with the oracle and a description of the violation."""


@dataclass(frozen=True)
class Violation:
    """A broken promise: the oracle that found it and a description."""

    oracle: str
    what: str

    def __str__(self) -> str:
        return f"{self.oracle}: {self.what}"


def judge(run: Run, *, slack: float = SLACK) -> list[Violation]:
    """Return every violation of a finished run. `slack`: seconds by which a command may exceed its deadline."""
    found, report = _collected()
    in_log = _keys(run)
    _judge_so_far(run, in_log, report)
    _settled(run, in_log, report)
    _shown(run, report)
    for watch in run.watches:
        _watched(run, watch, report)
    _history(run, report)
    if run.conversations != 1 or len(run.identities) != 1:
        report("O5 identity", f"{run.conversations} conversations, ids {sorted(run.identities)}")
    if not run.sound:
        report("O6 state", "the state database is damaged")
    for result in run.sends:
        if result.took > result.limit + slack:
            report("O8 bounds", f"{result.text!r} took {result.took:.1f} s")
    if run.connections > MOST_CONNECTIONS:
        report("O8 bounds", f"the listener connected {run.connections} times")
    return found


def judge_so_far(run: Run) -> list[Violation]:
    """Return every violation of an unfinished run. Checks only what must hold at any moment."""
    found, report = _collected()
    _judge_so_far(run, _keys(run), report)
    return found


def _collected() -> tuple[list[Violation], Report]:
    found: list[Violation] = []

    def report(oracle: str, what: str) -> None:
        found.append(Violation(oracle, what))

    return found, report


def _keys(run: Run) -> Counter[str]:
    """Return how often each client key is in the log. The log has it even if the service withholds it."""
    return Counter(one["key"] for one in run.log if one["key"] is not None)


def _judge_so_far(run: Run, in_log: Counter[str], report: Report) -> None:
    for result in run.sends:
        _outcome(run, result, in_log, report)
    _own_order(run, in_log, report)
    _heard(run, report)
    _clean(run, report)


def _outcome(run: Run, result: SendResult, in_log: Counter[str], report: Report) -> None:
    there = in_log[result.key]
    if result.delivery == "accepted":
        if not there:
            report("O1 lost", f"{result.text!r} was accepted and is not in the log")
        elif not any(one["key"] == result.key and one["id"] == result.id for one in run.log):
            report("O1 outcome", f"{result.text!r} was accepted as {result.id}, which is another message")
    elif result.delivery in ("rejected", "not_sent"):
        if there:
            report("O1 outcome", f"{result.text!r} was {result.delivery} and is in the log ({result.failure})")
    elif result.delivery not in ("in_doubt", "killed"):
        report("O1 outcome", f"{result.text!r} ended {result.delivery}: {result.failure!r}")


def _own_order(run: Run, in_log: Counter[str], report: Report) -> None:
    texts = {result.key: result.text for result in run.sends}
    for key, times in in_log.items():
        if times > 1:
            report("O2 duplicated", f"{texts.get(key)!r} is in the log {times} times")
    accepted = [result.key for result in run.sends if result.delivery == "accepted"]
    stored = [one["key"] for one in run.log if one["key"] in accepted]
    if list(dict.fromkeys(stored)) != [key for key in accepted if key in in_log]:
        report("O2 out of order", f"sent {[texts[key] for key in accepted]}, stored {[texts[key] for key in stored]}")


def _settled(run: Run, in_log: Counter[str], report: Report) -> None:
    """Check that the next run has found every stored message, and that its outcomes match the log.

    A message that never arrived stays in doubt: that it is absent proves nothing.
    """
    if run.settled is not None:
        report("O1 settling", f"the next run failed: {run.settled!r}")
        return
    texts = {result.key: result.text for result in run.sends}
    known_keys = run.schedule.keys_return
    for row in run.outbox:
        text = texts.get(row.key)
        if text is None:
            continue
        if row.state == "accepted" and not in_log[row.key]:
            report("O1 lost", f"{text!r} is accepted in the outbox and not in the log")
        elif row.state in ("rejected", "not_sent") and in_log[row.key]:
            report("O1 settling", f"{text!r} is {row.state} in the outbox and in the log")
        elif row.state in ("queued", "writing") or (row.state == "in_doubt" and known_keys and in_log[row.key]):
            report("O1 settling", f"{text!r} is still {row.state}")


def _heard(run: Run, report: Report) -> None:
    place = {one["id"]: n for n, one in enumerate(run.log)}
    seen: set[str] = set()
    last, inversions = -1, 0
    for n, line in enumerate(run.output):
        if line["kind"] == "gap":
            continue
        if line["kind"] == "torn":
            report("O3 torn", repr(line["text"]))
            continue
        identity = line["id"]
        if identity not in place:
            report("O3 phantom", f"{line} was never stored")
            continue
        if identity in seen:
            report("O3 duplicated", f"{line['text']!r} was shown again")
        elif place[identity] < last:
            # What history shows after a gap was declared is printed late.
            found_late = line["source"] == "replayed" and _in_a_gap(run.output[:n], place, place[identity])
            inversions += not found_late
        if line["text"] != run.log[place[identity]]["text"]:
            report("O3 altered", f"{line['text']!r} instead of {run.log[place[identity]]['text']!r}")
        seen.add(identity)
        last = max(last, place[identity])
    # Without sequence numbers the order of delivery counts, so a swap injected into the service is allowed.
    if inversions and (numbered(run.schedule.api) or inversions > run.schedule.swaps):
        report("O3 out of order", f"shown {_texts(run.output)}, stored {_texts(run.log)}")


def _shown(run: Run, report: Report) -> None:
    """Check that every message was shown, except those that a gap covers."""
    place = {one["id"]: n for n, one in enumerate(run.log)}
    seen = {line["id"] for line in run.output if line["kind"] == "message"}
    missing = [one for one in run.log if one["id"] not in seen and not _in_a_gap(run.output, place, place[one["id"]])]
    if missing:
        report("O3 lost", f"{_texts(missing)} were never shown; the listener failed with {run.ended}")


def _watched(run: Run, watch: Watch, report: Report) -> None:
    """Check that a listener that ended in order has shown all that it received, except what a gap covers."""
    place = {one["id"]: n for n, one in enumerate(run.log)}
    lines = [line for line in watch.output if line["kind"] == "message"]
    for identity, times in Counter(line["id"] for line in lines).items():
        if times > 1 or identity not in place:
            report("O3 duplicated" if identity in place else "O3 phantom", f"a listener has shown {identity}")
    shown = {line["id"] for line in lines}
    dropped = [
        one["text"]
        for at, one in enumerate(run.log[watch.begin :], watch.begin)
        if one["text"] in watch.received and one["id"] not in shown and not _in_a_gap(watch.output, place, at)
    ]
    if dropped:
        report("O3 dropped", f"{dropped} were received and not shown when the listener ended")


def _in_a_gap(lines: list[Record], place: Mapping[str, Any], at: int) -> bool:
    """Return whether a gap record covers this message. It never covers what the service stored after it."""
    before = -1
    for line in lines:
        if line["kind"] == "gap":
            end = line["stored"] if line["before"] is None else place.get(line["before"], line["stored"])
            if before < at < end:
                return True
        else:
            before = max(before, place.get(line.get("id", ""), -1))
    return False


def _history(run: Run, report: Report) -> None:
    ids = [one["id"] for one in run.log]
    for n, read in enumerate(run.read):
        if read.ids != ids[: len(read.ids)]:
            report("O4 history", f"{read.ids} is not a prefix of {ids}")
        lagged = n < len(run.read) - 1 and any("lag" in spec for spec in run.schedule.specs)
        if read.failure is None and not lagged and not read.before <= len(read.ids) <= read.after:
            report("O4 history", f"{len(read.ids)} of {read.before} to {read.after} messages without a failure")
    if not run.read or (run.read[-1].failure is not None):
        report("O4 history", f"cannot be read without faults: {run.read[-1].failure if run.read else 'not read'!r}")


def _clean(run: Run, report: Report) -> None:
    for crash in run.crashes:
        report("O9 traceback", crash)
    ended = [failure for failure in run.watch_failures if isinstance(failure, Failure)]
    for failure in run.watch_failures:
        if not isinstance(failure, Failure):
            report("O9 traceback", repr(failure))
    failures = [result.failure for result in run.sends if result.failure] + run.ended + ended
    notices = [*run.notices, *(f"{one.message} {one.hint}" for one in failures)]
    for text in notices:
        if any(secret in text for secret in run.secrets if len(secret) > 8):
            report("O9 secret", text)


def _texts(records: list[Record]) -> list[str]:
    return [one.get("text", "(gap)") for one in records]
