"""The oracles: what must be true of every run, in spite of all faults (reliability.md §5.3).

Knows: the service's log, what the clients reported, and the promises. Must not know: how a run is performed.
Nothing is sorted before it is compared. A reported doubt is no violation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from guestctl.core.errors import Exit
from tests.examples import numbered
from tests.faults.model import Record, Resumed, Run, SendResult, Watch

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
    for resumed in run.resumed:
        _resumed(run, resumed, slack, report)
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
    _heard(run, run.output, report)
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
    if result.exit is not None:
        expected = {"accepted": Exit.DONE, "in_doubt": Exit.IN_DOUBT}.get(result.delivery)
        refused = expected is None and result.exit not in (Exit.DONE, Exit.IN_DOUBT)
        if result.exit != expected and not refused:
            report("O1 exit code", f"{result.text!r} was {result.delivery}, the exit code is {result.exit}")


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


def _heard(run: Run, lines: list[Record], report: Report) -> None:
    """Check the lines of a listener: each stored message at most once, unchanged and in order."""
    place = {one["id"]: n for n, one in enumerate(run.log)}
    seen: set[str] = set()
    last, inversions = -1, 0
    for n, line in enumerate(lines):
        if line["kind"] in ("gap", "connection"):
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
            found_late = line["source"] == "replayed" and _in_a_gap(lines[:n], place, place[identity])
            inversions += not found_late
        if line["text"] != run.log[place[identity]]["text"]:
            report("O3 altered", f"{line['text']!r} instead of {run.log[place[identity]]['text']!r}")
        seen.add(identity)
        last = max(last, place[identity])
    # Without sequence numbers the order of delivery counts, so a swap injected into the service is allowed.
    if inversions and (numbered(run.schedule.api) or inversions > run.schedule.swaps):
        report("O3 out of order", f"shown {_texts(lines)}, stored {_texts(run.log)}")


def _shown(run: Run, report: Report) -> None:
    """Check that every message was shown, except those that a gap covers."""
    missing = _missing(run, run.output, 0, len(run.log))
    if missing:
        report("O3 lost", f"{_texts(missing)} were never shown; the listener failed with {run.ended}")


def _missing(run: Run, lines: list[Record], begin: int, end: int) -> list[Record]:
    """Return the messages between two places in the log that were not shown and that no gap covers."""
    place = {one["id"]: n for n, one in enumerate(run.log)}
    seen = {line["id"] for line in lines if line["kind"] == "message"}
    return [
        one
        for at, one in enumerate(run.log[begin:end], begin)
        if one["id"] not in seen and not _in_a_gap(lines, place, at)
    ]


def _watched(run: Run, watch: Watch, report: Report) -> None:
    """Check what a listener without a cursor has printed when it ended.

    It knows that it has missed something if it has printed a later message, or if its connection broke later. It need
    not know what an open connection has not brought yet, nor what was stored before it was live for the first time:
    where history lagged then, such a message may be printed after later ones.
    """
    lines = watch.output
    place = {one["id"]: n for n, one in enumerate(run.log)}
    states = [line for line in lines if line["kind"] == "connection"]
    live = next((line["stored"] for line in states if line["state"] == "live"), None)
    since = watch.begin if live is None else live
    _heard(run, [line for line in lines if line["kind"] != "message" or place.get(line["id"], since) >= since], report)
    received = [one["text"] for one in _missing(run, lines, watch.begin, len(run.log)) if one["text"] in watch.received]
    if received:
        report("O3 dropped", f"{received} were received and not shown when the listener ended")
    if live is None:
        return
    shown = max((place[line["id"]] for line in lines if line["kind"] == "message" and line["id"] in place), default=0)
    broke = max((line["stored"] for line in states if line["state"] == "lost"), default=0)
    missing = _missing(run, lines, live, broke) or _missing(run, lines, live, shown)
    if len(missing) > run.schedule.swaps:
        report("O3 lost", f"{_texts(missing)} were not shown by a listener, which printed {_texts(lines)}")


def _resumed(run: Run, resumed: Resumed, slack: float, report: Report) -> None:
    """Check a `resume`: it prints what is stored, once and in order, leaves nothing out, and ends in time."""
    if resumed.took > resumed.limit + slack:
        report("O8 bounds", f"`resume --timeout {resumed.limit:g}` took {resumed.took:.1f} s")
    lines = resumed.missed
    _heard(run, lines, report)
    place = {one["id"]: n for n, one in enumerate(run.log)}
    places = [place[line["id"]] for line in lines if line["kind"] == "message" and line["id"] in place]
    own = {result.key for result in run.sends}
    left_out = [one for one in _missing(run, lines, places[0], places[-1]) if one["key"] not in own] if places else []
    if left_out:
        report("O3 lost", f"{_texts(left_out)} were left out by `resume`, which printed {_texts(lines)}")


def gaps_with_a_loss(run: Run, lines: list[Record]) -> int:
    """Return how many gap records cover a message that was never shown."""
    place = {one["id"]: n for n, one in enumerate(run.log)}
    shown = {place.get(line["id"]) for line in lines if line["kind"] == "message"}
    return sum(any(at not in shown for at in range(begin, end)) for begin, end in _gaps(lines, place))


def _in_a_gap(lines: list[Record], place: Mapping[str, int], at: int) -> bool:
    """Return whether a gap record covers this message."""
    return any(begin <= at < end for begin, end in _gaps(lines, place))


def _gaps(lines: list[Record], place: Mapping[str, int]) -> Iterator[tuple[int, int]]:
    """Yield the part of the log that each gap record covers. It never covers what the service stored after it."""
    begin = 0
    for line in lines:
        if line["kind"] == "gap":
            yield begin, line["stored"] if line["before"] is None else place.get(line["before"], line["stored"])
        elif line["kind"] == "message":
            begin = max(begin, place.get(line["id"], -1) + 1)


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
    failures = [result.failure for result in run.sends if result.failure] + run.ended
    notices = [*run.notices, *(f"{one.message} {one.hint}" for one in failures)]
    for text in notices:
        if any(secret in text for secret in run.secrets if len(secret) > 8):
            report("O9 secret", text)


def _texts(records: list[Record]) -> list[str]:
    return [one.get("text", f"({one.get('kind')})") for one in records]
