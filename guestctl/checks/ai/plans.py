"""The AI steps of a script as values: the settings, the customer and the judge.

Knows: what each consists of, and how many model calls they may cause. Must not know: YAML, prompts, models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from guestctl.checks.expectation import Conditions
from guestctl.core.values import Json

#: Guest messages of a customer, if the script states no number.
TURNS = 10
#: Votes on each criterion, if the script states no number.
VOTES = 3
#: Seconds without another reply after which the bot's turn counts as complete.
SILENCE = 0.5
#: How many times longer than that a replay waits for a message of the bot that the recording has.
REPLAY_PATIENCE = 4
#: Seconds that one model call may take.
CALL_TIMEOUT = 60.0
#: Tokens that an answer may have, unless `parameters` states another limit.
ANSWER_TOKENS = 1000


@dataclass(frozen=True)
class Spending:
    """The most calls and tokens that may be used. None means no limit."""

    calls: int | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class AiSettings:
    """The key `ai` of a script. `timeout`: seconds that one model call may take.

    `run` limits all scenarios of the script together, `scenario` each of them. `parameters` are further members of
    every request; null removes a member that guestctl sends otherwise.
    """

    model: str | None = None
    judge_model: str | None = None
    run: Spending = Spending()
    scenario: Spending = Spending()
    timeout: float = CALL_TIMEOUT
    parameters: Mapping[str, Json] = field(default_factory=dict)

    def members(self) -> dict[str, Json]:
        """Return the members that every request has besides the model and the messages."""
        members = {"max_tokens": ANSWER_TOKENS, **self.parameters}
        if members.get("max_completion_tokens") is not None and "max_tokens" not in self.parameters:
            del members["max_tokens"]
        return {name: value for name, value in members.items() if value is not None}

    @property
    def answer_tokens(self) -> int:
        """The most tokens that an answer may have."""
        members = self.members()
        limits = [members.get(name) for name in ("max_tokens", "max_completion_tokens")]
        return max([limit for limit in limits if isinstance(limit, int)], default=ANSWER_TOKENS)


@dataclass(frozen=True)
class CustomerPlan:
    """The step `customer`. `until` ends the conversation as soon as a reply meets it; `silence` is in seconds.

    `prompt` is the prompt of a script of the web-messaging tester, whose `stop_phrases` end the customer's part.
    `placeholders` are the values of its `{NAME}`, of which each run takes the next.
    """

    goal: str = ""
    persona: str = ""
    knows: Mapping[str, str] = field(default_factory=dict)
    opening: str | None = None
    until: Conditions | None = None
    turns: int = TURNS
    silence: float = SILENCE
    prompt: str | None = None
    stop_phrases: tuple[str, ...] = ()
    placeholders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def texts(self) -> tuple[str, ...]:
        """Return every text that may contain references, except those of `until`."""
        return (self.goal, self.persona, *self.knows.values(), self.opening or "", self.prompt or "")

    @property
    def most_calls(self) -> int:
        """The most model calls of one run: one for each turn that the script does not write itself."""
        return self.turns - (self.opening is not None)

    def filled(self, text: Callable[[str], str], values: Mapping[str, str], run: int) -> CustomerPlan:
        """Return the plan with every reference replaced; `run` counts from 1 and chooses the placeholders."""
        prompt = None if self.prompt is None else text(with_placeholders(self.prompt, self.placeholders, run))
        return replace(
            self,
            goal=text(self.goal),
            persona=text(self.persona),
            knows={name: text(value) for name, value in self.knows.items()},
            opening=None if self.opening is None else text(self.opening),
            until=None if self.until is None else self.until.bound(values),
            prompt=prompt,
        )

    def hidden(self, hide: Callable[[str], str]) -> CustomerPlan:
        """Return the plan as a model may see it; `hide` removes the secrets of a text."""
        return replace(
            self,
            goal=hide(self.goal),
            persona=hide(self.persona),
            knows={name: hide(value) for name, value in self.knows.items()},
            opening=None if self.opening is None else hide(self.opening),
            prompt=None if self.prompt is None else hide(self.prompt),
        )


@dataclass(frozen=True)
class JudgePlan:
    """The step `judge`, which begins after `silence` seconds without a reply.

    `instructions` is the prompt of a script of the web-messaging tester that the criteria cite.
    """

    criteria: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    votes: int = VOTES
    silence: float = SILENCE
    instructions: str | None = None
    placeholders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def texts(self) -> tuple[str, ...]:
        """Return every text that may contain references."""
        return (*self.criteria, *self.never, self.instructions or "")

    @property
    def most_calls(self) -> int:
        """The number of model calls: one for each criterion and vote."""
        return self.votes * (len(self.criteria) + len(self.never))

    def filled(self, text: Callable[[str], str], run: int) -> JudgePlan:
        """Return the plan with every reference replaced; `run` counts from 1 and chooses the placeholders."""
        instructions = self.instructions
        if instructions is not None:
            instructions = text(with_placeholders(instructions, self.placeholders, run))
        return replace(
            self,
            criteria=tuple(map(text, self.criteria)),
            never=tuple(map(text, self.never)),
            instructions=instructions,
        )

    def hidden(self, hide: Callable[[str], str]) -> JudgePlan:
        """Return the plan as a model may see it; `hide` removes the secrets of a text."""
        return replace(
            self,
            criteria=tuple(map(hide, self.criteria)),
            never=tuple(map(hide, self.never)),
            instructions=None if self.instructions is None else hide(self.instructions),
        )


def with_placeholders(text: str, placeholders: Mapping[str, tuple[str, ...]], run: int) -> str:
    """Return the text with each `{NAME}` replaced by the value of this run; the values are taken in turn."""
    for name, values in placeholders.items():
        if values:
            text = text.replace("{" + name + "}", values[(run - 1) % len(values)])
    return text
