"""Check scripts are read, and errors in them are reported, before anything is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from guestctl.checks import script_keys
from guestctl.checks.reader import load
from guestctl.checks.script import Script
from guestctl.core.errors import UsageError
from tests.checks import scripts


def read(tmp_path: Path, text: str, **variables: str) -> Script:
    path = tmp_path / "s.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, variables, {"HOME": "/home/x"})


def steps(tmp_path: Path, text: str) -> Script:
    indented = "".join(f"    {line}\n" for line in text.strip("\n").split("\n"))
    return read(tmp_path, f"scenarios:\n  a:\n{indented}")


def test_a_script_of_the_web_messaging_tester_is_read_unchanged(tmp_path: Path) -> None:
    script = read(tmp_path, scripts.PASSING)
    assert script.config == {"deploymentId": "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", "region": "xxxx.pure.cloud"}
    assert [scenario.name for scenario in script.scenarios] == [
        "Takes the survey",
        "Leaves the survey",
        "Is not understood",
    ]
    first, second = script.scenarios[0].steps, script.scenarios[1].steps
    assert [step.action for step in first] == ["say", "expect", "say", "expect"]
    assert first[3].expected[0].matches == r"Thanks! On to question [0-9]+[\.]+"
    assert second[2].message == "No"
    assert script.scenarios[1].line == 10


@pytest.mark.parametrize("text", ["No", "007", "12:30", "true", "null", "1e3", "2026-03-04"])
def test_a_message_is_sent_as_written(tmp_path: Path, text: str) -> None:
    assert steps(tmp_path, f"- say: {text}").scenarios[0].steps[0].message == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "1: the script is empty"),
        ("scenario: {}", '1: unknown key "scenario"; did you mean "scenarios"?'),
        ("config: {region: x}", "`scenarios` is missing"),
        ("scenarios: {}", "scenarios: there are no scenarios"),
        ("scenarios:\n  a: []", '2: scenario "a": the list is empty'),
        ("scenarios:\n  a:\n    - sya: hi", '3: scenario "a", step 1: unknown key "sya"; did you mean "say"?'),
        ("scenarios:\n  a:\n    - say:", '3: scenario "a", step 1: say: the value is missing'),
        ("scenarios:\n  a:\n    - say: hi\n      pick: 1", "a step has one action; this one has `say` and `pick`"),
        ("scenarios:\n  a:\n    - hello", "a step is `key: value`"),
        ("scenarios:\n  a:\n    - timeout: 1s", "a step needs one of say"),
        ("scenarios:\n  a:\n    - say: hi\n    - waitForReply: x", '4: scenario "a", step 2: unknown key'),
        (
            "scenarios:\n  a:\n    - waitForReplyMatching: '(x'",
            '3: scenario "a", step 1: waitForReplyMatching: "(x" is not',
        ),
        ("scenarios:\n  a:\n    - expect: {contain: x}", 'unknown key "contain"; did you mean "contains"?'),
        ("scenarios:\n  a:\n    - expect: {}", "no condition"),
        ("scenarios:\n  a:\n    - expect: {within: 2s}", "no condition"),
        ("scenarios:\n  a:\n    - expect: {contains: x, within: soon}", "must be a duration such as 2s"),
        ("scenarios:\n  a:\n    - expect: {contains: x, count: 0}", "a whole number from 1"),
        ("scenarios:\n  a:\n    - expect: {contains: [a, b], equals: [c]}", "only one of contains, equals"),
        ("scenarios:\n  a:\n    - expect: {contains: [a, b], count: 2}", "a list of replies already has a count"),
        ("scenarios:\n  a:\n    - expect: {contains: x, from: human}", '"human" is not one of bot, agent'),
        ("scenarios:\n  a:\n    - expect: {contains: x, in_order: perhaps}", "must be true or false"),
        ("scenarios:\n  a:\n    - expect: {contains: x, within: 1s}\n      timeout: 2s", "give `timeout` or `within`"),
        ("scenarios:\n  a:\n    - expectNone: {contains: x}", "`for` is missing"),
        ("scenarios:\n  a:\n    - expectNone: 0s", "must be a duration"),
        ("scenarios:\n  a:\n    - say: hi\n      saveAs: x", "`saveAs` may accompany an expectation"),
        ("scenarios:\n  a:\n    - typing: true\n      attach: x", "`attach` may accompany say"),
        ("scenarios:\n  a:\n    - attach: absent.png", 'no file "absent.png" in the directory of the script'),
        ("scenarios:\n  a:\n    - say: ${nmae}", "step 1: ${nmae} has no value"),
        ("variables: {name: x}\nscenarios:\n  a:\n    - say: ${nmae}", 'did you mean "name"?'),
        ("scenarios:\n  a:\n    - say: ${x}\n    - expect: {contains: y, saveAs: x}", "step 1: ${x} has no value"),
        ("scenarios:\n  a: {steps: [{say: x}], matrix: {c: []}}", "the list is empty"),
        ("scenarios:\n  a: {steps: [{say: x}], matrix: [{a: 1}, {b: 2}]}", "every row needs the same names"),
        ("scenarios:\n  a: {steps: [{say: x}], step: 1}", 'unknown key "step"; did you mean "steps"?'),
        ("scenarios:\n  a: {tags: [x]}", "`steps` is missing"),
        ("config: {deploymentID: x}\nscenarios: {a: [{say: x}]}", 'did you mean "deploymentId"?'),
        ("scenarios:\n  a: [{say: x}]\n  a: [{say: y}]", "already set in line 2"),
        ("scenarios:\n  a:\n    - typing: 5s", "step 1: typing: takes no value"),
        ("scenarios:\n  a:\n    - typing: false", "step 1: typing: takes no value"),
        ("scenarios:\n  a:\n    - expectDisconnect: soon", "must be a duration such as 2s"),
        ("scenarios:\n  a:\n    - expectDisconnect: 2s\n      timeout: 1s", "give `timeout` or `within`"),
        ("scenarios:\n  a:\n    - pick: {number: 0}", "step 1: pick.number: must be a whole number from 1 to 999999"),
        (
            "scenarios:\n  a:\n    - say: x\n    - attributes: {k: v}\n    - expect: y",
            ':4: scenario "a": `attributes` apply',
        ),
        ("scenarios:\n  a:\n    - say: ${nope", "step 1: ${nope is not closed: write ${nope}"),
        ("scenarios:\n  a:\n    - say: ${nope and more}", "step 1: ${nope is not closed"),
        ("config:\n  api: foo\nscenarios: {a: [{say: x}]}", '2: config.api: no API "foo"'),
    ],
)
def test_an_error_names_file_line_and_key(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    assert caught.value.code == "config.file"
    assert complaint in caught.value.message
    assert caught.value.message.startswith(str(tmp_path / "s.yaml") + ":")


def test_a_matrix_makes_a_scenario_of_every_combination(tmp_path: Path) -> None:
    script = read(
        tmp_path, "scenarios:\n  a:\n    matrix: {city: [Rome, Oslo], n: [1, 2]}\n    steps: [{say: '${city} ${n}'}]"
    )
    assert [scenario.name for scenario in script.scenarios] == [
        "a [city=Rome, n=1]",
        "a [city=Rome, n=2]",
        "a [city=Oslo, n=1]",
        "a [city=Oslo, n=2]",
    ]


def test_a_matrix_may_be_rows(tmp_path: Path) -> None:
    script = read(
        tmp_path,
        "scenarios:\n  a:\n    matrix: [{q: x, a: y}, {q: z, a: w}]\n    steps: [{say: '${q}'}, {expect: '${a}'}]",
    )
    assert [dict(scenario.values) for scenario in script.scenarios] == [{"q": "x", "a": "y"}, {"q": "z", "a": "w"}]


def test_variables_come_from_the_script_the_command_line_the_environment_and_captures(tmp_path: Path) -> None:
    script = read(
        tmp_path,
        "variables: {v: a}\nscenarios:\n  a:\n"
        "    - say: ${v} ${given} ${HOME} ${absent:-default} $${literal} $${open ${5} ${\n"
        "    - expect: {matches: 'no (?<order>\\d+)'}\n"
        "    - say: ${order}\n",
        given="b",
    )
    assert script.variables == {"v": "a", "given": "b"}


def test_settings_of_the_file_apply_to_every_scenario(tmp_path: Path) -> None:
    script = read(
        tmp_path,
        "setup: [{say: first}]\nteardown: [{say: last}]\ntags: [all]\nretries: 2\ntimeout: 1m\n"
        "scenarios:\n  a:\n    setup: [{say: second}]\n    steps: [{say: third}]\n    tags: own\n    retries: 0\n",
    )
    (scenario,) = script.scenarios
    assert [step.message for step in scenario.steps] == ["first", "second", "third"]
    assert [step.message for step in scenario.teardown] == ["last"]
    assert scenario.tags == {"all", "own"}
    assert (scenario.retries, scenario.timeout) == (0, 60.0)


def test_the_table_has_a_row_for_every_key() -> None:
    table = script_keys.table()
    for name in (
        *script_keys.ACTIONS,
        *script_keys.MODIFIERS,
        *script_keys.CONDITIONS,
        *script_keys.SCENARIO,
        *script_keys.SCRIPT,
        *script_keys.CONFIG,
    ):
        assert f"| `{name}` |" in table
    assert set(script_keys.IN_EXPECT) | set(script_keys.IN_EXPECT_NONE) == set(script_keys.CONDITIONS)
