"""The oracles of the relay: what must be true of every run, whatever was broken and killed.

Knows: what the service stored, what the log committed, what each reader and each sender got. Must not know: how a run
is performed, the relay.

R1 commit: a reader only gets what was committed, and an id always names the same event.
R2 order: the ids of a reader increase. Nothing comes twice.
R3 lost: a gap stands for everything that a reader misses, and for each message of the service that the log misses.
R4 gap: a gap names events that the log has really dropped.
R5 epoch: a new log has a later epoch, and a reader of the old one gets a gap.
R6 send: a key is sent at most once, every answer is true, and an answer that is final stays.
R7 crash: nothing fails in an unexpected way, and the relay recovers by itself.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import TypeAlias

from tests.faults.model import Record
from tests.faults.oracles import Violation, _heard, _missing
from tests.faults.relay_readers import Reader
from tests.faults.relay_run import Outcome

Report: TypeAlias = Callable[[str, str], None]
_ID = re.compile(r"([0-9]+)-([0-9]+)")
#: Kinds of records that the relay makes for one reader.
_OWN = ("slow", "end")


def judge_relay(outcome: Outcome) -> list[Violation]:
    """Return every violation of a finished run."""
    found: list[Violation] = []

    def report(oracle: str, what: str) -> None:
        found.append(Violation(oracle, what))

    committed = _committed(outcome, report)
    for number, reader in enumerate(outcome.readers):
        _reader(outcome, f"reader {number} ({reader.plan.protocol})", reader, committed, report)
    _service(outcome, report)
    _sends(outcome, report)
    for crash in outcome.crashes:
        report("R7 crash", crash)
    if not outcome.complete:
        report("R7 recovery", f"not everything arrived after the last fault; processes ended with {outcome.ended}")
    return found


def _committed(outcome: Outcome, report: Report) -> dict[tuple[str, int], Record]:
    """Return the committed events by id, and check that ids and epochs increase and that the disk agrees."""
    found: dict[tuple[str, int], Record] = {}
    epochs: list[str] = []
    for epoch, number, record in outcome.committed:
        if (epoch, number) in found:
            report("R1 commit", f"{epoch}-{number} was committed twice")
        found[epoch, number] = record
        if not epochs or epochs[-1] != epoch:
            if epoch in epochs:
                report("R5 epoch", f"epoch {epoch} came back after {epochs[-1]}")
            epochs.append(epoch)
        elif (epoch, number - 1) not in found:
            report("R1 commit", f"{epoch}-{number} follows a hole")
    damaged = any(kind.startswith("log ") for kind in outcome.counts)
    if [*map(_order, epochs)] != sorted(map(_order, epochs)) and not _may_go_back(outcome):
        report("R5 epoch", f"the epochs do not increase: {epochs}")
    for epoch, rows in outcome.on_disk:
        for number, record in rows.items():
            known = found.get((epoch, number))
            if known is not None and not _same(known, record):
                report("R1 commit", f"{epoch}-{number} on the disk is not what was committed")
            if known is None and not damaged:
                report("R1 commit", f"{epoch}-{number} is on the disk and was not committed")
    if outcome.on_disk and outcome.on_disk[-1][0] == epochs[-1] and not damaged:
        stored, kept = set(outcome.on_disk[-1][1]), outcome.kept(epochs[-1])
        if stored != kept:
            report("R4 gap", f"the disk has {sorted(stored)}, and the log keeps {sorted(kept)}")
    return found


def _may_go_back(outcome: Outcome) -> bool:
    """Return whether nothing was left of the log that shows its epoch, and the clock was set back."""
    return outcome.plan.set_back is not None and any(
        outcome.counts[f"log {damage}"] for damage in ("removed", "overwritten", "truncated", "torn page")
    )


def _order(epoch: str) -> int:
    return int(epoch)


def _same(one: Record, other: Record) -> bool:
    return {name: one[name] for name in one if name != "stored"} == other


def _reader(
    outcome: Outcome, who: str, reader: Reader, committed: dict[tuple[str, int], Record], report: Report
) -> None:
    place: tuple[str, int] | None = None
    # What a gap covers, by epoch: the last number.
    covered: dict[str, int] = {}
    replaced = False
    for one in reader.received:
        record = one.record
        if record["kind"] in _OWN:
            _own_record(who, reader, place, one.id, record, committed, report)
            continue
        if record["kind"] == "gap" and "first_missing" in record:
            replaced = replaced or record["reason"] == "other_log"
            if record["last_missing"] is not None:
                epoch, number = _id(record["last_missing"])
                covered[epoch] = max(covered.get(epoch, 0), number)
            _gap(outcome, who, place, record, committed, report)
            if one.id is not None:
                if place is not None and place[0] == _id(one.id)[0] and _id(one.id)[1] <= place[1]:
                    report("R2 order", f"{who} got the gap {one.id} after {place}")
                place = _id(one.id)
            continue
        if one.id is None:
            report("R1 commit", f"{who} got a {record['kind']} without an id")
            continue
        epoch, number = _id(one.id)
        known = committed.get((epoch, number))
        if known is None or not _same(known, record):
            report("R1 commit", f"{who} got {one.id}, which was not committed like that")
        if place is None or place[0] != epoch:
            if place is not None and not replaced:
                report("R5 epoch", f"{who} got {one.id} after {place[0]}-{place[1]} without a gap")
            if place is not None and _order(epoch) <= _order(place[0]) and not _may_go_back(outcome):
                report("R5 epoch", f"{who} got {one.id} after {place[0]}-{place[1]}, an epoch that is not earlier")
            begin = covered.get(epoch, 0) if place is not None else number - 1 if reader.plan.after == "last" else 0
            if place is None and begin == 0:
                begin = covered.get(epoch, _first_kept(outcome, number))
        elif number <= place[1]:
            report("R2 order", f"{who} got {one.id} after {place[0]}-{place[1]}")
            continue
        else:
            begin = place[1]
        replaced = False
        missed = [
            n
            for n in range(begin + 1, number)
            if n > covered.get(epoch, 0) and committed.get((epoch, n), {"kind": "message"})["kind"] in reader.kinds
        ]
        if missed:
            report("R3 lost", f"{who} got {one.id} and never {epoch}-{missed[0]} (of {len(missed)})")
        place = (epoch, number)
    _end(outcome, who, reader, place, committed, report)


def _first_kept(outcome: Outcome, number: int) -> int:
    """Return the number after which `first` may begin: the log keeps only the newest events."""
    return 0 if outcome.plan.retain >= 10_000 else number - 1


def _own_record(
    who: str,
    reader: Reader,
    place: tuple[str, int] | None,
    id_: str | None,
    record: Record,
    committed: dict[tuple[str, int], Record],
    report: Report,
) -> None:
    if id_ is not None:
        report("R1 commit", f"{who} got a {record['kind']} with an id")
    epoch, number = _id(record["resume_after"])
    if place is None or place[0] != epoch:
        return
    if number < place[1]:
        report("R2 order", f"{who} shall resume after {number}, and has {place[1]}")
    unknown = {"kind": "message"}
    missed = range(place[1] + 1, number + 1)
    skipped = [n for n in missed if committed.get((epoch, n), unknown)["kind"] in reader.kinds]
    if skipped:
        report("R3 lost", f"{who} shall resume after {number}, and never got {skipped}")


def _gap(
    outcome: Outcome,
    who: str,
    place: tuple[str, int] | None,
    record: Record,
    committed: dict[tuple[str, int], Record],
    report: Report,
) -> None:
    if record["reason"] != "not_retained":
        return
    epoch, last = _id(record["last_missing"])
    newest = max((number for known, number in committed if known == epoch), default=0)
    first = last if record["first_missing"] is None else _id(record["first_missing"])[1]
    kept = outcome.kept(epoch) & set(range(first, last + 1))
    if kept:
        report("R4 gap", f"{who} misses {record['last_missing']}, and the log keeps {sorted(kept)} of {newest}")
    if last > newest:
        report("R4 gap", f"{who} misses {record['last_missing']}, and the log has {newest}")


def _end(
    outcome: Outcome,
    who: str,
    reader: Reader,
    place: tuple[str, int] | None,
    committed: dict[tuple[str, int], Record],
    report: Report,
) -> None:
    """Check that the reader has everything at the end."""
    epoch, last, _ = outcome.committed[-1]
    numbers = [number for known, number in committed if known == epoch]
    wanted = [number for number in numbers if committed[epoch, number]["kind"] in reader.kinds]
    left = [number for number in wanted if place is None or place[0] != epoch or number > place[1]]
    kept = outcome.kept(epoch)
    settled = [number for number in left if place is not None or number in kept]
    if place is None and reader.plan.after == "last":
        return
    if settled and outcome.complete:
        report("R3 lost", f"{who} ended at {place} and never got {epoch}-{settled[0]} to {epoch}-{last}")


def _id(text: str) -> tuple[str, int]:
    found = _ID.fullmatch(text)
    assert found is not None, text
    return found[1], int(found[2])


def _service(outcome: Outcome, report: Report) -> None:
    """Check each log as the output of one listener: every message of the service once, unchanged, and in order."""

    def as_relay(oracle: str, what: str) -> None:
        names = {"O3 lost": "R3 lost", "O3 duplicated": "R2 order", "O3 out of order": "R2 order"}
        report(names.get(oracle, "R1 commit"), f"the log: {what}")

    epochs = list(dict.fromkeys(epoch for epoch, _, _ in outcome.committed))
    for epoch in epochs:
        lines = outcome.lines(epoch)
        run = replace(outcome.run, output=lines)
        _heard(run, lines, as_relay)
        place = {one["id"]: n for n, one in enumerate(run.log)}
        shown = [place[line["id"]] for line in lines if line["kind"] == "message" and line["id"] in place]
        end = len(run.log) if epoch == epochs[-1] and outcome.complete else max(shown, default=0)
        missing = _missing(run, lines, 0, end)
        if missing:
            as_relay("O3 lost", f"{[one['text'] for one in missing]} are not in the log of {epoch}")


def _sends(outcome: Outcome, report: Report) -> None:
    stored = Counter(one["key"] for one in outcome.run.log if one["key"] is not None)
    texts = Counter(one["text"] for one in outcome.run.log if one["direction"] == "inbound")
    for plan in outcome.plan.sends:
        asked = [one for one in outcome.asked if one.key == plan.key]
        known = {one.text for one in asked}
        copies = max(stored[plan.key], sum(texts[text] for text in known))
        if copies > 1:
            report("R6 send", f"{plan.text!r} is at the service {copies} times")
        answers = [one.answer for one in sorted(asked, key=lambda one: one.ended or 0.0) if one.answer is not None]
        delivered = [answer for answer in answers if answer != "conflict"]
        if "crashed" in answers:
            report("R6 send", f"{plan.text!r}: {answers}")
        for before, after in pairwise(delivered):
            unsure = after == "in_doubt" and any(kind.startswith("log ") for kind in outcome.counts)
            if before in ("accepted", "rejected") and after != before and not unsure:
                report("R6 send", f"{plan.text!r} was {before} and then {after}: {answers}")
            if before == "in_doubt" and after == "not_sent" and copies:
                report("R6 send", f"{plan.text!r} was in doubt and then not sent, and is at the service")
        if not delivered:
            continue
        if "accepted" in delivered and not copies:
            report("R6 send", f"{plan.text!r} was accepted and is not at the service: {answers}")
        if delivered[-1] in ("rejected", "not_sent") and copies:
            report("R6 send", f"{plan.text!r} was {delivered[-1]} and is at the service: {answers}")
