"""The AI scripts of the web-messaging tester, run under our rules.

Knows: the keys of such a script, and which of our steps they stand for. Must not know: clients, models, reports.

There, the customer judges itself: it writes a phrase that passes or fails the test. Here, such a phrase only ends the
customer's part, and a judge decides with evidence. The value of a placeholder follows from the number of the run,
where the tester draws one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from guestctl.checks.ai.plans import AiSettings, CustomerPlan, JudgePlan
from guestctl.core.values import Json
from guestctl.core.yaml_fields import YamlField

#: The keys of a scenario, of its parts, and of `config.ai`.
_SCENARIO = ("setup", "followUp")
_PART = ("prompt", "placeholders", "terminatingPhrases")
_AI = ("provider", "config")
#: Members of `config.ai.config` that the chat-completions wire has under another name or the same.
_PARAMETERS = {"temperature": "temperature", "topP": "top_p", "top_p": "top_p", "seed": "seed"}
#: Turns of a customer. The tester has no limit.
_TURNS = 20

SELF_JUDGED = (
    "the prompt lets the customer judge itself: here its phrases only end the customer's part, and a judge decides "
    "with evidence"
)
ADDRESS = "`config.ai.provider` is not used: the address and the key come from the profile"


def is_scenario(field: YamlField) -> bool:
    """Return whether a scenario is one of the tester's AI scenarios: its `setup` has a prompt."""
    if not field.is_mapping:
        return False
    setup = field.members().get("setup")
    return setup is not None and setup.is_mapping and "prompt" in setup.members()


def steps(field: YamlField) -> tuple[tuple[CustomerPlan, YamlField], tuple[JudgePlan, YamlField]]:
    """Return the customer and the judge that a scenario stands for, each with its place."""
    members = field.mapping(_SCENARIO, ": ")
    setup = members["setup"].mapping(_PART)
    prompt = members["setup"].required(setup, "prompt").text()
    placeholders = _placeholders(setup.get("placeholders"))
    passing, failing = _phrases(members["setup"], setup)
    criteria, never = [_criterion(passing)], [_criterion(failing)]
    instructions = prompt
    if "followUp" in members:
        after = members["followUp"].mapping(_PART)
        more = members["followUp"].required(after, "prompt").text()
        passing_after, failing_after = _phrases(members["followUp"], after)
        placeholders |= _placeholders(after.get("placeholders"))
        instructions = f"{prompt}\n\nAfter the conversation:\n{more}"
        criteria.append(_criterion(passing_after))
        never.append(_criterion(failing_after))
    customer = CustomerPlan(prompt=prompt, turns=_TURNS, stop_phrases=(*passing, *failing), placeholders=placeholders)
    # A test that passes unless a fail phrase is earned has criteria that nothing in the prompt mentions.
    kept = tuple(dict.fromkeys(one for one in criteria if any(_mentioned(phrase, instructions) for phrase in one[1])))
    judge = JudgePlan(
        criteria=tuple(text for text, _ in kept) or (_FINISHED,),
        never=tuple(dict.fromkeys(text for text, _ in never)),
        instructions=instructions,
        placeholders=placeholders,
    )
    return (customer, members["setup"]), (judge, members["setup"])


_FINISHED = "The customer could do in the conversation what the instructions describe."


def settings(field: YamlField, script: AiSettings) -> AiSettings:
    """Return the settings in `config.ai`; those of the key `ai` take precedence."""
    members = field.mapping(_AI)
    inner = members["config"].members() if "config" in members else {}
    model = inner["model"].text() if "model" in inner else None
    parameters: dict[str, Json] = {}
    for name, member in inner.items():
        if name in _PARAMETERS and isinstance(member.value, (int, float)) and not isinstance(member.value, bool):
            parameters[_PARAMETERS[name]] = member.value
    return replace(script, model=script.model or model, parameters={**parameters, **script.parameters})


def deviations(field: YamlField | None, *, has_scenarios: bool) -> tuple[str, ...]:
    """Return what a script asks for and guestctl does otherwise, each once."""
    found = [SELF_JUDGED] if has_scenarios else []
    if field is not None and "provider" in field.members():
        found.append(ADDRESS)
    return tuple(found)


def _phrases(part: YamlField, members: Mapping[str, YamlField]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    both = part.required(members, "terminatingPhrases")
    phrases = both.mapping(("pass", "fail"))
    return both.required(phrases, "pass").texts(), both.required(phrases, "fail").texts()


def _placeholders(field: YamlField | None) -> dict[str, tuple[str, ...]]:
    return {} if field is None else {name: member.texts() for name, member in field.members().items()}


def _criterion(phrases: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Return the statement that the instructions' condition for a phrase is met, and the phrases."""
    named = " or ".join(f'"{phrase}"' for phrase in phrases)
    text = f"The conversation meets the condition for which the instructions tell the customer to write {named}."
    return text, phrases


def _mentioned(phrase: str, instructions: str) -> bool:
    return phrase.casefold() in instructions.casefold()
