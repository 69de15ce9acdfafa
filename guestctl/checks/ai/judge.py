"""The judge: votes on each criterion, of which a strict majority decides.

Knows: how votes are collected and counted. Must not know: the wire, scenarios, reports.

One call asks about one criterion. The order of the criteria and of the possible answers differs from vote to vote.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from guestctl.checks.ai.conversation_data import NumberedMessage
from guestctl.checks.ai.evidence import Vote, vote_of
from guestctl.checks.ai.model_client import ModelAnswer, ModelRequest
from guestctl.checks.ai.plans import AiSettings, JudgePlan
from guestctl.checks.ai.prompts import judge_request

Decision: TypeAlias = Literal["passed", "failed", "undecided"]


@dataclass(frozen=True)
class Judgement:
    """The votes on one criterion. `never`: whether it is a thing that must not happen."""

    text: str
    never: bool
    votes: tuple[Vote, ...]

    def count(self, verdict: str) -> int:
        """Return how many votes with this verdict count."""
        return sum(vote.counts and vote.verdict == verdict for vote in self.votes)

    @property
    def decision(self) -> Decision:
        """What a strict majority of all votes decides. Votes that do not count make a majority harder to reach."""
        if 2 * self.count("yes") > len(self.votes):
            return "failed" if self.never else "passed"
        if 2 * self.count("no") > len(self.votes):
            return "passed" if self.never else "failed"
        return "undecided"

    @property
    def _deciding(self) -> list[Vote]:
        verdict = "yes" if (self.decision == "passed") != self.never else "no"
        return [vote for vote in self.votes if vote.counts and vote.verdict == verdict]

    @property
    def quoted(self) -> tuple[str, ...]:
        """The ids of the messages that the deciding votes name; none without a decision."""
        if self.decision == "undecided":
            return ()
        return tuple(dict.fromkeys(one for vote in self._deciding for one in vote.messages))

    @property
    def why(self) -> str:
        """The reason of the first deciding vote, or why there is no decision."""
        if self.decision != "undecided":
            return next((vote.why for vote in self._deciding if vote.why), "")
        problems = dict.fromkeys(vote.problem for vote in self.votes if vote.problem)
        return "; ".join(problems) or "the votes differ"

    @property
    def tally(self) -> str:
        """The votes in words: `2 yes, 1 no`."""
        rest = sum(not vote.counts for vote in self.votes)
        counts = {"yes": self.count("yes"), "no": self.count("no"), "without effect": rest}
        return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def judgements(
    plan: JudgePlan,
    messages: Sequence[NumberedMessage],
    settings: AiSettings,
    ask: Callable[[ModelRequest], ModelAnswer],
) -> list[Judgement]:
    """Return the judgement on each criterion, in the order of the plan. Raises what `ask` raises."""
    items = _items(plan)
    known = {message.id for message in messages}
    votes: dict[str, list[Vote]] = {name: [] for name, _, _ in items}
    for number in range(1, plan.votes + 1):
        for name, text, never in _permuted(items, number):
            request = judge_request(plan, messages, settings, name=name, text=text, never=never, vote=number)
            votes[name].append(vote_of(ask(request), name=name, text=text, known=known))
    return [Judgement(text, never, tuple(votes[name])) for name, text, never in items]


def first_request(plan: JudgePlan, messages: Sequence[NumberedMessage], settings: AiSettings) -> ModelRequest:
    """Return the first request of a judgement. The plan has at least one criterion."""
    name, text, never = _permuted(_items(plan), 1)[0]
    return judge_request(plan, messages, settings, name=name, text=text, never=never, vote=1)


def _items(plan: JudgePlan) -> list[tuple[str, str, bool]]:
    """Return each criterion with its name and whether it is a thing that must not happen."""
    items = [(f"c{n}", text, False) for n, text in enumerate(plan.criteria, 1)]
    return items + [(f"n{n}", text, True) for n, text in enumerate(plan.never, 1)]


def _permuted(items: Sequence[tuple[str, str, bool]], vote: int) -> list[tuple[str, str, bool]]:
    """Return the items in an order that depends on the number of the vote alone, so that a replay has the same."""
    shuffled = list(items)
    random.Random(vote).shuffle(shuffled)
    return shuffled
