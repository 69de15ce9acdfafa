"""The model server: answers that are garbage, slow, large, refused or redirected, and a key that the server repeats."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.checks.ai_front import CUSTOMER, JUDGE, Bench, benches, good, script
from tests.checks.model_server import KEY, Asked, Raw, completion, say
from tests.integration.front import InstantClock

SHORT = script(CUSTOMER, head="ai: {model: small, timeout: 5s}\nscenarios:\n")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from benches(tmp_path)


def error(message: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": "t"}}).encode()


#: Answer -> exit code, failure code, requests that are made.
BAD: dict[str, tuple[Any, int, str, int]] = {
    "html": (Raw(200, b"<html>sign in</html>"), 11, "ai.answer", 1),
    "nothing": (Raw(200, b""), 11, "ai.answer", 1),
    "not utf-8": (Raw(200, b"\xff\xfe{}"), 11, "ai.answer", 1),
    "a list": (Raw(200, b"[]"), 11, "ai.answer", 1),
    "deep": (Raw(200, b'{"choices":' + b"[" * 5000 + b"]" * 5000 + b"}"), 11, "ai.answer", 1),
    "no choices": ({"choices": []}, 11, "ai.answer", 1),
    "choices of another type": ({"choices": {"0": {}}}, 11, "ai.answer", 1),
    "content of another type": (completion(["text"]), 11, "ai.answer", 1),
    "an error with 200": ({"error": {"message": "no such model"}}, 3, "ai.refused", 1),
    "a redirect": (Raw(302, b"", (("Location", "http://127.0.0.1:1/"),)), 11, "ai.answer", 1),
    "400": (Raw(400, error("unknown parameter")), 3, "ai.refused", 1),
    "401": (Raw(401, error("bad key")), 4, "ai.key", 1),
    "403": (Raw(403, b""), 4, "ai.key", 1),
    "404": (Raw(404, b"not found"), 3, "ai.refused", 1),
    "429": (Raw(429, error("slow down")), 7, "ai.limited", 3),
    "429 with a wait": (Raw(429, b"", (("Retry-After", "1"),)), 7, "ai.limited", 3),
    "429 with a long wait": (Raw(429, b"", (("Retry-After", "3600"),)), 7, "ai.limited", 1),
    "500": (Raw(500, error("oops")), 8, "ai.down", 3),
    "a body that is cut off": (Raw(200, b"{", (("Content-Length", "100"),)), 8, "network.lost", 3),
    "a gigabyte": (Raw(200, b" " * (11 << 20), (("Content-Length", str(1 << 30)),)), 11, "ai.answer", 1),
}


@pytest.mark.parametrize("name", BAD)
def test_an_unusable_answer_is_an_infrastructure_failure(bench: Bench, name: str) -> None:
    answer, code, failure, requests = BAD[name]
    found = bench(lambda asked: answer)
    clock = InstantClock()
    result, run = found.record(SHORT, clock=clock)
    (scenario,) = run["scenarios"]
    assert (result.code, scenario["verdict"], scenario["trouble"]["error"]["code"]) == (code, "error", failure)
    assert len(found.model.asked) == requests
    assert scenario["trouble"]["message"].startswith("the model server")


def test_a_hanging_server_is_a_network_failure(bench: Bench) -> None:
    release = threading.Event()
    found = bench(lambda asked: Raw(hang=release))
    try:
        result, run = found.record(SHORT.replace("5s", "300ms"))
    finally:
        release.set()
    # A busy machine may not even connect in this time.
    assert run["scenarios"][0]["trouble"]["error"]["code"] in {"network.lost", "network.connect"}
    assert result.code == 8
    assert "timed out" in run["scenarios"][0]["trouble"]["message"]
    error = run["scenarios"][0]["trouble"]["error"]
    assert error["code"] == "network.connect" or "`ai.timeout`" in error["hint"]


def test_a_passing_fault_is_tried_again(bench: Bench) -> None:
    answers = iter([Raw(500, b""), Raw(429, b"")])
    clock = InstantClock()
    found = bench(lambda asked: next(answers, None) or good(asked))
    assert found.check(script(CUSTOMER), clock=clock).code == 0
    assert clock.sleeps == [1.0, 2.0]


LEAKS = {
    "an error": Raw(401, error(f"Incorrect API key provided: {KEY}")),
    "an error of another form": Raw(400, json.dumps({"error": f"{KEY[:3]}: Bearer {KEY}"}).encode()),
    "the answer": completion(json.dumps({"say": f"{KEY} 4711"})),
    "the reason": completion(json.dumps({"stop": KEY})),
    "garbage": completion(f"not JSON: {KEY}"),
    "a header": Raw(302, b"", (("Location", f"https://evil.example/?key={KEY}"), ("X-Key", KEY))),
}


@pytest.mark.parametrize("name", LEAKS)
def test_the_key_is_in_no_output_recording_or_trace(bench: Bench, tmp_path: Path, name: str) -> None:
    found = bench(lambda asked: LEAKS[name])
    steps = script(CUSTOMER, JUDGE)
    options = ("--model-record", "rec", "--trace", str(tmp_path / "trace.jsonl"), "--debug", "-vv")
    result = found.check(steps, "--junit", str(tmp_path / "out.xml"), *options)
    assert result.code != 0
    assert found.model.asked[0].headers["Authorization"] == f"Bearer {KEY}"
    written = [result.out, result.err]
    written += [
        path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".db"
    ]
    assert any('"route":"model"' in text for text in written)
    assert [text for text in written if KEY in text] == []


def test_the_key_can_be_in_the_profile_but_in_no_script_and_no_option(bench: Bench, tmp_path: Path) -> None:
    found = bench()
    front = found.front()
    (tmp_path / "profiles.yaml").write_text(
        f"profiles:\n  shop:\n    base_url: {found.sandbox.url}\n    socket_url: "
        f"{found.sandbox.url.replace('http', 'ws')}\n"
        "    deployment_id: 5a4db0c5-0000-4000-8000-677565737463\n    origin: http://localhost\n"
        f"    ai: {{base_url: {found.model.base_url}, key: '${{MODEL_KEY}}', model: from-profile}}\n"
    )
    (tmp_path / "talk.yaml").write_text(script(CUSTOMER, head="scenarios:\n"))
    bare: dict[str, Any] = {"GUESTCTL_PROFILE": "", "GUESTCTL_AI_BASE_URL": "", "GUESTCTL_AI_KEY": "", "MODEL_KEY": KEY}
    options = ("--profiles", str(tmp_path / "profiles.yaml"), "-p", "shop")
    assert front("check", str(tmp_path / "talk.yaml"), *options, **bare).code == 0
    assert {asked.headers["Authorization"] for asked in found.model.asked} == {f"Bearer {KEY}"}
    assert {asked.body["model"] for asked in found.model.asked} == {"from-profile"}
    shown = front("profile", "show", *options, "-o", "json", **bare)
    assert KEY not in shown.out
    for words in (
        ("profile", "set", "shop", "--set", f"ai.key={KEY}"),
        ("profile", "add", "x", "--set", f"ai.key={KEY}"),
    ):
        result = front(*words, "--profiles", str(tmp_path / "profiles.yaml"), **bare)
        assert (result.code, KEY in result.err) == (2, False)
    assert front("check", str(tmp_path / "talk.yaml"), "--ai-key", KEY).code == 2


def test_a_short_key_is_refused_because_it_cannot_be_masked(bench: Bench) -> None:
    result = bench().check(SHORT, GUESTCTL_AI_KEY="abc")
    assert (result.code, "at least 6 ASCII characters" in result.err) == (2, True)


def test_without_a_key_no_authorisation_is_sent(bench: Bench) -> None:
    found = bench()
    assert found.check(SHORT, GUESTCTL_AI_KEY="").code == 0
    assert all("Authorization" not in asked.headers for asked in found.model.asked)


def test_an_address_without_tls_on_another_machine_is_refused(bench: Bench) -> None:
    result, run = bench().record(SHORT, GUESTCTL_AI_BASE_URL="http://model.example/v1")
    assert (result.code, run["scenarios"][0]["trouble"]["error"]["code"]) == (2, "config.cleartext")


def test_a_number_of_tokens_that_no_server_means_is_estimated(bench: Bench) -> None:
    answers = [completion(say("it is 4711"), tokens=tokens) for tokens in (-5, 10**18)]
    answers[1]["usage"] = {"total_tokens": "many"}

    def answer(asked: Asked) -> Any:
        return answers[0] if asked.turn == 2 else good(asked)

    _, run = bench(answer).record(SHORT)
    assert 100 < run["model"]["tokens"] < 5000
