"""What must be true of a run, whatever went wrong in it (reliability.md §5.3).

Knows: the log, the journal, what was promised. Must not know: how a run is carried out. Nothing is
sorted before it is compared, and a doubt that was admitted is no lie.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from tests.examples import numbered
from tests.faults.model import TIMEOUT, Record, Run, Said

#: Seconds by which a verb may overrun its deadline: closing sockets takes one or two, the rest is for a machine
#: that is busy with other things. On counted time (`machine`) it is two in all.
SLACK = 10.0
#: Connections a listener may need for one schedule.
MOST_CONNECTIONS = 400


Broken: TypeAlias = Callable[[str, str], None]
"""Told which promise was broken, and how."""


@dataclass(frozen=True)
class Violation:
    """A promise that was broken: which, and how."""

    oracle: str
    what: str

    def __str__(self) -> str:
        return f"{self.oracle}: {self.what}"


def judge(run: Run, *, slack: float = SLACK) -> list[Violation]:
    """Every violation of a run. `slack`: seconds by which a verb may overrun its deadline."""
    found, broken = _collected()
    in_log = Counter(one["text"] for one in run.log)
    _so_far(run, in_log, broken)
    _settled(run, in_log, broken)
    _shown(run, broken)
    _history(run, broken)
    if run.conversations != 1 or len(run.identities) != 1:
        broken("O5 identity", f"{run.conversations} conversations, ids {sorted(run.identities)}")
    if not run.sound:
        broken("O6 state", "the state database is damaged")
    for said in run.said:
        if said.took > TIMEOUT + slack:
            broken("O8 bounds", f"{said.text!r} took {said.took:.1f} s")
    if run.connections > MOST_CONNECTIONS:
        broken("O8 bounds", f"the listener connected {run.connections} times")
    return found


def so_far(run: Run) -> list[Violation]:
    """Every violation of a run that is still under way: what holds at any moment."""
    found, broken = _collected()
    _so_far(run, Counter(one["text"] for one in run.log), broken)
    return found


def _collected() -> tuple[list[Violation], Broken]:
    found: list[Violation] = []

    def broken(oracle: str, what: str) -> None:
        found.append(Violation(oracle, what))

    return found, broken


def _so_far(run: Run, in_log: Counter[str], broken: Broken) -> None:
    for said in run.said:
        _outcome(run, said, in_log, broken)
    _own_order(run, in_log, broken)
    _heard(run, broken)
    _clean(run, broken)


def _outcome(run: Run, said: Said, in_log: Counter[str], broken: Broken) -> None:
    there = in_log[said.text]
    if said.delivery == "accepted":
        if not there:
            broken("O1 lost", f"{said.text!r} was accepted and is not in the log")
        elif not any(one["text"] == said.text and one["id"] == said.id for one in run.log):
            broken("O1 outcome", f"{said.text!r} was accepted as {said.id}, which is another message")
    elif said.delivery in ("rejected", "not_sent"):
        if there:
            broken("O1 outcome", f"{said.text!r} was {said.delivery} and is in the log ({said.failure})")
    elif said.delivery not in ("in_doubt", "killed"):
        broken("O1 outcome", f"{said.text!r} ended {said.delivery}: {said.failure!r}")


def _own_order(run: Run, in_log: Counter[str], broken: Broken) -> None:
    for text, times in in_log.items():
        if times > 1 and text.startswith("guest "):
            broken("O2 doubled", f"{text!r} is in the log {times} times")
    certain = [said.text for said in run.said if said.delivery == "accepted"]
    stored = [one["text"] for one in run.log if one["text"] in certain]
    if list(dict.fromkeys(stored)) != [text for text in certain if text in in_log]:
        broken("O2 out of order", f"said {certain}, stored {stored}")


def _settled(run: Run, in_log: Counter[str], broken: Broken) -> None:
    """The next run has settled what was left open, and its word is as good as the first one's."""
    if run.settled is not None:
        broken("O1 settling", f"the next run failed: {run.settled!r}")
        return
    texts = {said.key: said.text for said in run.said}
    known_keys = run.schedule.keys_return
    for row in run.outbox:
        text = texts.get(row.key)
        if text is None:
            continue
        if row.state == "accepted" and not in_log[text]:
            broken("O1 lost", f"{text!r} is accepted in the outbox and not in the log")
        elif row.state in ("rejected", "not_sent") and in_log[text]:
            broken("O1 settling", f"{text!r} is {row.state} in the outbox and in the log")
        elif row.state in ("queued", "writing") or (row.state == "in_doubt" and known_keys):
            broken("O1 settling", f"{text!r} is still {row.state}")


def _heard(run: Run, broken: Broken) -> None:
    place = {one["id"]: n for n, one in enumerate(run.log)}
    seen: set[str] = set()
    last, inversions = -1, 0
    for line in run.heard:
        if line["kind"] == "gap":
            continue
        if line["kind"] == "torn":
            broken("O3 torn", repr(line["text"]))
            continue
        identity = line["id"]
        if identity not in place:
            broken("O3 phantom", f"{line} was never stored")
            continue
        if identity in seen:
            broken("O3 doubled", f"{line['text']!r} was shown again")
        elif place[identity] < last:
            inversions += 1
        if line["text"] != run.log[place[identity]]["text"]:
            broken("O3 altered", f"{line['text']!r} instead of {run.log[place[identity]]['text']!r}")
        seen.add(identity)
        last = max(last, place[identity])
    # Without numbers the service's own order of delivery stands: a swap it was told to make is its doing.
    if inversions and (numbered(run.schedule.api) or inversions > run.schedule.swaps):
        broken("O3 out of order", f"shown {_texts(run.heard)}, stored {_texts(run.log)}")


def _shown(run: Run, broken: Broken) -> None:
    """Everything, but what a gap was declared for."""
    place = {one["id"]: n for n, one in enumerate(run.log)}
    seen = {line["id"] for line in run.heard if line["kind"] == "message"}
    missing = [one for one in run.log if one["id"] not in seen and not _admitted(run, place, place[one["id"]])]
    if missing:
        broken("O3 lost", f"{_texts(missing)} never shown; ended {run.ended}")


def _admitted(run: Run, place: dict[str, int], at: int) -> bool:
    """Whether a gap was declared where this message should have been."""
    before = -1
    for line in run.heard:
        if line["kind"] == "gap":
            if before < at and (line["before"] is None or place.get(line["before"], at + 1) > at):
                return True
        else:
            before = max(before, place.get(line.get("id", ""), -1))
    return False


def _history(run: Run, broken: Broken) -> None:
    ids = [one["id"] for one in run.log]
    for n, read in enumerate(run.read):
        if read.ids != ids[: len(read.ids)]:
            broken("O4 history", f"{read.ids} is no beginning of {ids}")
        lagged = n < len(run.read) - 1 and any("lag" in spec for spec in _specs(run))
        if read.failure is None and not lagged and not read.before <= len(read.ids) <= read.after:
            broken("O4 history", f"{len(read.ids)} of {read.before} to {read.after} messages, and no failure")
    if not run.read or (run.read[-1].failure is not None):
        broken("O4 history", f"cannot be read in peace: {run.read[-1].failure if run.read else 'not read'!r}")


def _specs(run: Run) -> list[str]:
    return [*run.schedule.faults, *(step.text for step in run.schedule.steps if step.does == "fault")]


def _clean(run: Run, broken: Broken) -> None:
    for crash in run.crashes:
        broken("O9 traceback", crash)
    failures = [said.failure for said in run.said if said.failure] + run.ended
    told = [*run.told, *(f"{one.message} {one.hint}" for one in failures)]
    for text in told:
        if any(secret in text for secret in run.secrets if len(secret) > 8):
            broken("O9 secret", text)


def _texts(records: list[Record]) -> list[str]:
    return [one.get("text", "(gap)") for one in records]
