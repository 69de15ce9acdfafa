"""The reader of the AI keys of a script: `ai`, `customer` and `judge`.

Knows: how their values are read and validated. Must not know: the other keys of a script, clients, models. References
in texts are checked by the reader of the script.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from guestctl.checks import script_keys
from guestctl.checks.ai.plans import CALL_TIMEOUT, SILENCE, TURNS, VOTES, AiSettings, CustomerPlan, JudgePlan, Spending
from guestctl.checks.expectation import Conditions
from guestctl.core.values import Json
from guestctl.core.yaml_fields import YamlField

#: The most turns, votes and criteria of one step.
MOST_TURNS, MOST_VOTES, MOST_CRITERIA = 50, 15, 50
#: The longest that one model call may take, in seconds, and the longest silence.
_LONGEST_CALL, _LONGEST_SILENCE = 3600.0, 600.0
#: The most calls and tokens of a budget.
_MOST = 10**9
_NUMBER = re.compile(r"([0-9]{1,10}(?:\.[0-9]{1,6})?)\s*([kKmM]?)", re.ASCII)
_UNITS = {"": 1, "k": 1_000, "m": 1_000_000}

#: Members of a request that a script may set, and the types of their values. Tools are not among them.
PARAMETERS: Mapping[str, tuple[type, ...]] = {
    "temperature": (int, float),
    "top_p": (int, float),
    "seed": (int,),
    "max_tokens": (int,),
    "max_completion_tokens": (int,),
    "reasoning_effort": (str,),
    "frequency_penalty": (int, float),
    "presence_penalty": (int, float),
}
#: The limits of an answer: the dry run counts with them.
_LIMITS = ("max_tokens", "max_completion_tokens")


def settings(field: YamlField | None, filled: Callable[[YamlField, str], str]) -> AiSettings:
    """Return the value of `ai`. `filled` replaces the references in a text."""
    if field is None:
        return AiSettings()
    members = field.mapping(script_keys.AI)

    def text(key: str) -> str | None:
        if key not in members:
            return None
        value = filled(members[key], members[key].text()).strip()
        if not value:
            raise members[key].error("the name of the model is empty")
        return value

    return AiSettings(
        model=text("model"),
        judge_model=text("judge_model"),
        run=_spending(members.get("budget")),
        scenario=_spending(members.get("scenario_budget")),
        timeout=members["timeout"].duration(_LONGEST_CALL) if "timeout" in members else CALL_TIMEOUT,
        parameters=_parameters(members.get("parameters")),
    )


def customer(field: YamlField, conditions: Callable[[YamlField], Conditions]) -> CustomerPlan:
    """Return the value of `customer`. `conditions` reads the conditions of one reply."""
    members = field.mapping(script_keys.CUSTOMER)
    goal = field.required(members, "goal").text()
    if not goal.strip():
        raise members["goal"].error("the goal is empty")
    opening = members["opening"].text() if "opening" in members else None
    if opening is not None and not opening.strip():
        raise members["opening"].error("the message is empty")
    knows = {name: member.text() for name, member in members["knows"].members().items()} if "knows" in members else {}
    for name in knows:
        if any(character in name for character in "[]\n"):
            raise members["knows"].error(f'"{name}" cannot be a name: square brackets and line breaks are not allowed')
    return CustomerPlan(
        goal=goal,
        persona=members["persona"].text() if "persona" in members else "",
        knows=knows,
        opening=opening,
        until=conditions(members["until"]) if "until" in members else None,
        turns=members["turns"].whole_number(1, MOST_TURNS) if "turns" in members else TURNS,
        silence=members["silence"].duration(_LONGEST_SILENCE) if "silence" in members else SILENCE,
    )


def judge(field: YamlField) -> JudgePlan:
    """Return the value of `judge`."""
    members = field.mapping(script_keys.JUDGE)
    criteria = _criteria(members.get("criteria"))
    never = _criteria(members.get("never"))
    if not criteria and not never:
        raise field.error("give `criteria`, `never` or both")
    silence = members["silence"].duration(_LONGEST_SILENCE) if "silence" in members else SILENCE
    return JudgePlan(criteria, never, votes_of(members.get("votes")), silence)


def votes_of(field: YamlField | None) -> int:
    """Return a number of votes."""
    return VOTES if field is None else field.whole_number(1, MOST_VOTES)


def _criteria(field: YamlField | None) -> tuple[str, ...]:
    if field is None:
        return ()
    texts = field.texts()
    if len(texts) > MOST_CRITERIA:
        raise field.error(f"{len(texts)} criteria; the maximum is {MOST_CRITERIA}")
    if any(not text.strip() for text in texts):
        raise field.error("a criterion is empty")
    if len(set(texts)) != len(texts):
        raise field.error("a criterion is repeated")
    return texts


def _spending(field: YamlField | None) -> Spending:
    if field is None:
        return Spending()
    members = field.mapping(script_keys.BUDGET)
    if not members:
        raise field.error("give `calls`, `tokens` or both")
    return Spending(*(_amount(members[key]) if key in members else None for key in ("calls", "tokens")))


def _amount(field: YamlField) -> int:
    """Return a whole number such as 200, 300k or 1.5M."""
    found = _NUMBER.fullmatch(field.text().strip())
    amount = round(float(found[1]) * _UNITS[found[2].lower()]) if found is not None else 0
    if not 1 <= amount <= _MOST:
        raise field.error("must be a number of 1 or more, such as 200, 300k or 1M")
    return amount


def _parameters(field: YamlField | None) -> dict[str, Json]:
    if field is None:
        return {}
    found: dict[str, Json] = {}
    for name, member in field.mapping(PARAMETERS).items():
        value = member.value
        if value is not None and (isinstance(value, bool) or not isinstance(value, PARAMETERS[name])):
            raise member.error("must be a text" if PARAMETERS[name] == (str,) else "must be a number")
        if name in _LIMITS and value is not None:
            value = member.whole_number(1, _MOST)
        found[name] = value
    return found
