"""Recorded and replayed model calls: equal reports, no connection to a model, and misses that name the difference."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.checks.ai_front import CUSTOMER, JUDGE, PARCEL_BOT, AiBench, Bench, benches, good, script
from tests.checks.model_server import Asked, verdict

TALK = script(CUSTOMER, JUDGE)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from benches(tmp_path)


def unreachable(asked: Asked) -> str:
    raise AssertionError("a replay asks no model")


def replayed(recorded: AiBench, replaying: AiBench, text: str, *options: str, **more: Any) -> Any:
    """Replay the recordings of one bench on the bot of another, whose model must not be asked."""
    result = replaying.check(text, "--model-replay", str(recorded.room / "rec"), *options, **more)
    assert replaying.model.connections == 0
    return result


def masked(report: str) -> str:
    """Return a JSON report without times, durations and the service's ids."""
    report = re.sub(r'"(at|seconds)": ?[\d.]+', r'"\1": 0', report)
    return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{32}", "ID", report)


def many(count: int) -> str:
    """Return a script of many scenarios with customers that differ."""
    found = ["ai: {model: small}\n", "scenarios:\n"]
    for n in range(count):
        steps = CUSTOMER.replace("Impatient", f"Customer {n}, impatient") + JUDGE
        found.append(f'  "Scenario {n}":\n{steps}')
    return "".join(found)


def replay_many(bench: Bench, count: int, times: int) -> None:
    found, other = bench(), bench(unreachable)
    recording = found.check(many(count), "--model-record", "rec", "--parallel", "8")
    assert recording.code == 0
    assert f"\n{count} passed, 0 failed, 0 errors in " in recording.out
    assert len(list((found.room / "rec").glob("*.json"))) == len(found.model.asked) == 8 * count
    reports = {masked(replayed(found, other, many(count), "-o", "json", "--parallel", "8").out) for _ in range(times)}
    assert len(reports) == 1


def test_replays_have_equal_reports_and_ask_no_model(bench: Bench) -> None:
    replay_many(bench, 4, 3)


@pytest.mark.timeout(1800)
def test_a_hundred_scenarios_are_replayed_twenty_times(bench: Bench) -> None:
    replay_many(bench, 100, 20)


def test_a_replay_needs_no_address_and_no_key(bench: Bench) -> None:
    found = bench()
    assert found.check(TALK, "--model-record", "rec").code == 0
    result = found.check(TALK, "--model-replay", "rec", GUESTCTL_AI_BASE_URL="", GUESTCTL_AI_KEY="")
    assert (result.code, len(found.model.asked)) == (0, 8)


def test_a_replay_is_never_switched_on_by_a_recording(bench: Bench) -> None:
    found = bench()
    assert found.check(TALK, "--model-record", "rec").code == 0
    assert found.check(TALK, "--model-record", "rec").code == 0
    assert len(found.model.asked) == 16


#: What is changed, the old text, the new one, and how the error names the first difference.
CHANGES = {
    "persona": ("Impatient", "Patient", r'persona: "Patient, short [^"]*" instead of "Impatient, short'),
    "goal": ("parcel 4711 arrives", "parcel 4711 leaves", r'goal: "…[^"]*leaves\.?" instead of "…[^"]*arrives'),
    "knows": ('postcode: "10115"', 'postcode: "10117"', r'knows.postcode: "10117" instead of "10115"'),
    "criterion": ("a day of arrival", "a time of arrival", r'criterion: "[^"]*a time of ar[^"]*" instead of'),
    "never": ("postcode twice", "postcode thrice", r'never: "…[^"]*thrice\." instead of "…[^"]*twice'),
    "votes": ("votes: 3", "votes: 5", r"votes: 5 instead of 3"),
    "model": ("model: small", "model: other", r'model: "other" instead of "small"'),
    "opening": (
        "where is my parcel?",
        "and where is my parcel?",
        r'conversation\[1\].text: "and where is my parcel\?"',
    ),
}


@pytest.mark.parametrize("name", [*CHANGES, "bot"])
def test_a_change_misses_and_names_the_first_difference(bench: Bench, name: str) -> None:
    old, new, difference = CHANGES.get(name, ("", "", r'conversation\[2\].text: "Which parcel id is it\?" instead of'))
    bot = PARCEL_BOT.replace("parcel number", "parcel id") if name == "bot" else PARCEL_BOT
    found, other = bench(), bench(unreachable, bot)
    assert found.check(TALK, "--model-record", "rec").code == 0
    assert old in TALK
    result = replayed(found, other, TALK.replace(old, new, 1))
    assert result.code == 2
    assert re.search(
        rf"the nearest recording is [0-9a-f]{{64}}\.json, and the first difference is {difference}", result.out
    )
    assert "code: ai.recording (exit 2)" in result.out


def mutated(text: str, chance: random.Random) -> str:
    """Return a text with one letter changed."""
    at = chance.choice([n for n, char in enumerate(text) if char.isalpha()])
    return (
        text[:at] + chance.choice([c for c in "abcdefghijklmnopqrstuvwxyz" if c != text[at].lower()]) + text[at + 1 :]
    )


def miss_mutations(bench: Bench, count: int, seed: int) -> None:
    """Mutate persona, criterion, model and bot text; a mutation of the bot's text needs a bot of its own."""
    found = bench()
    assert found.check(TALK, "--model-record", "rec").code == 0
    chance = random.Random(seed)
    parts = {
        "persona": "Impatient, short lower-case sentences.",
        "criterion": "The bot named a day of arrival.",
        "model": "small",
    }
    same_bot = bench(unreachable)
    for _ in range(count):
        name = chance.choice([*parts, "bot"])
        text, bot = TALK, PARCEL_BOT
        if name == "bot":
            said = "Which parcel number is it?"
            bot = PARCEL_BOT.replace(said, mutated(said, chance))
        else:
            text = TALK.replace(parts[name], mutated(parts[name], chance), 1)
        other = bench(unreachable, bot) if name == "bot" else same_bot
        result = replayed(found, other, text)
        expected = {"bot": r"conversation\[2\].text", "criterion": "criterion"}.get(name, name)
        assert result.code == 2, (name, result.out)
        assert re.search(rf"the first difference is {expected}: ", result.out), (name, result.out)


def test_a_few_mutations_miss(bench: Bench) -> None:
    miss_mutations(bench, 8, seed=1)


@pytest.mark.timeout(1800)
def test_five_hundred_mutations_miss(bench: Bench) -> None:
    miss_mutations(bench, 500, seed=2)


def test_ids_and_moments_of_the_bot_do_not_matter(bench: Bench) -> None:
    reply = "Ticket {} of {} arrives on Monday."
    one = reply.format("0b5e4d6c-1111-4222-8333-123456789abc", "2026-11-30T10:00:00Z")
    two = reply.format("ffffffff-2222-4333-9444-cba987654321", "2027-01-02T23:59:59.123+01:00")
    found = bench(bot=PARCEL_BOT.replace("Parcel 4711 arrives on Monday.", one))
    other = bench(unreachable, PARCEL_BOT.replace("Parcel 4711 arrives on Monday.", two))
    assert found.check(TALK, "--model-record", "rec").code == 0
    assert replayed(found, other, TALK).code == 0


def test_broken_and_foreign_files_are_no_recordings(bench: Bench) -> None:
    found = bench()
    assert found.check(TALK, "--model-record", "rec").code == 0
    files = sorted((found.room / "rec").glob("*.json"))
    changed = files[0].read_bytes().replace(b'"tokens": 10', b'"tokens": "x"')
    contents = [b"", b"{", b"\xff", b"[]", b'{"format": 2}', changed]
    for content in contents:
        for path in files:
            path.write_bytes(content)
        result = found.check(TALK, "--model-replay", "rec")
        assert (result.code, "not a usable recording" in result.out) == (2, True), content
    for path in files:
        path.unlink()
    result = found.check(TALK, "--model-replay", "rec")
    assert (result.code, "which has no usable recording" in result.out) == (2, True)


def test_a_pipe_or_a_device_is_no_recording(bench: Bench) -> None:
    """Reading one might never end."""
    found = bench()
    assert found.check(TALK, "--model-record", "rec").code == 0
    os.mkfifo(found.room / "rec" / "foreign.json")
    assert found.check(TALK, "--model-replay", "rec").code == 0
    for path in sorted((found.room / "rec").glob("*.json")):
        path.unlink()
        os.mkfifo(path)
    result = found.check(TALK, "--model-replay", "rec")
    assert (result.code, "which has no usable recording" in result.out) == (2, True)


def test_a_recording_under_another_name_is_refused(bench: Bench) -> None:
    found = bench()
    assert found.check(TALK, "--model-record", "rec").code == 0
    files = sorted((found.room / "rec").glob("*.json"))
    contents = [path.read_bytes() for path in files]
    for path, content in zip(files, contents[1:] + contents[:1], strict=True):
        path.write_bytes(content)
    result = found.check(TALK, "--model-replay", "rec")
    assert (result.code, "its name is not the hash of its call" in result.out) == (2, True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_reported_before_anything_is_sent(bench: Bench) -> None:
    found = bench()
    (found.room / "rec").mkdir(mode=0o500)
    result = found.check(TALK, "--model-record", "rec")
    assert (result.code, "Permission denied" in result.err, len(found.model.asked)) == (2, True, 0)


def test_a_directory_that_is_none_is_reported_before_anything_is_sent(bench: Bench) -> None:
    found = bench()
    (found.room / "file").write_text("")
    for option, name in (("--model-record", "file"), ("--model-replay", "file"), ("--model-replay", "absent")):
        result = found.check(TALK, option, name)
        assert (result.code, result.out) == (2, ""), result
        assert option in result.err
    both = found.check(TALK, "--model-record", "a", "--model-replay", "b")
    assert (both.code, "cannot be combined" in both.err) == (2, True)
    assert len(found.model.asked) == 0


def test_each_repetition_and_each_retry_has_recordings_of_its_own(bench: Bench) -> None:
    votes = iter(["no", "yes", "yes", "no", "no"])

    def answer(asked: Asked) -> str:
        if not asked.is_judge:
            return good(asked)
        return verdict(next(votes), ["m6"])

    found = bench(answer)
    text = script(CUSTOMER, "    - judge: {criteria: [The bot named a day.], votes: 1, silence: 20ms}\n")
    options = ("--repeat", "3", "--retries", "1", "-o", "json")
    recording = found.check(text, "--model-record", "rec", *options)
    assert [one["attempts"] for one in recording.record["scenarios"]] == [2, 1, 2]
    again = found.check(text, "--model-replay", "rec", *options)
    assert masked(again.out) == masked(recording.out)


def test_a_recording_can_be_read_by_people(bench: Bench) -> None:
    found = bench()
    assert found.check(TALK, "--model-record", "rec").code == 0
    for path in (found.room / "rec").glob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        assert list(content) == ["format", "call", "answer"]
        assert content["call"]["parts"]["scenario"] == "Finds out when the parcel comes"
        assert "127.0.0.1" not in path.read_text(encoding="utf-8")
