"""The answers of a judge: what one vote says, and whether it counts.

Knows: the form of an answer, and the evidence that a vote needs. Must not know: prompts, models, how votes are counted.

A vote counts only if its answer can be read and if it names messages of the conversation where it needs evidence: a
"yes" to a criterion, and a "yes" to what must never happen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from guestctl.checks.ai.model_client import ModelAnswer
from guestctl.core.values import Json

VoteVerdict: TypeAlias = Literal["yes", "no", "cannot tell", "invalid"]

#: Characters of a reason that a report shows.
_REASON = 500
_FENCE = re.compile(r"```[A-Za-z0-9_-]*\s*\n(.*?)\n?\s*```", re.DOTALL)
_THOUGHT = re.compile(r"\s*<think>.*?</think>", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Vote:
    """One vote.

    `problem` states why it counts for no side; None if it counts. `messages` are ids of the conversation.
    """

    verdict: VoteVerdict
    messages: tuple[str, ...] = ()
    why: str = ""
    problem: str | None = None

    @property
    def counts(self) -> bool:
        return self.problem is None


class NotOneObject(ValueError):
    """An answer is not exactly one JSON object."""


def json_object(text: str) -> dict[str, Json]:
    """Return the one JSON object of an answer. A code fence, a thought before it and words around it are ignored.

    Raises NotOneObject for anything else: an answer with two objects could mean either.
    """
    text = _THOUGHT.sub("", text, count=1)
    fenced = _FENCE.findall(text)
    if len(fenced) == 1:
        text = fenced[0]
    start = text.find("{")
    if start < 0:
        raise NotOneObject("it has no JSON object")
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        raise NotOneObject("its JSON is broken") from error
    if "{" in text[end:] or "[" in text[:start].strip()[-1:]:
        raise NotOneObject("it has more than one JSON object")
    assert isinstance(value, dict)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is repeated")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def vote_of(answer: ModelAnswer, *, name: str, text: str, known: Collection[str]) -> Vote:
    """Return the vote in an answer about the criterion `name` with this `text`. `known` are the ids of the messages."""
    if answer.refused:
        return Vote("invalid", problem="the model refused to answer")
    if answer.cut:
        return Vote("invalid", problem="the answer was cut off")
    try:
        found = json_object(answer.text)
    except NotOneObject as error:
        return Vote("invalid", problem=f"the answer cannot be read: {error}")
    why = found.get("why")
    reason = why[:_REASON] if isinstance(why, str) else ""
    verdict = found.get("verdict")
    said = verdict.strip().lower().replace("_", " ") if isinstance(verdict, str) else ""
    if said not in ("yes", "no", "cannot tell"):
        return Vote("invalid", why=reason, problem="the verdict is not yes, no or cannot tell")
    about = found.get("criterion", name)
    if not isinstance(about, str) or about.strip().casefold() not in {name.casefold(), text.strip().casefold()}:
        return Vote("invalid", why=reason, problem="the answer is about another criterion")
    if said == "cannot tell":
        return Vote("cannot tell", why=reason, problem="the judge cannot tell")
    listed = found.get("messages", [])
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        return Vote("invalid", why=reason, problem="the messages are not a list of ids")
    named = tuple(dict.fromkeys(one.strip() for one in listed))
    real = tuple(one for one in named if one in known)
    if named and not real:
        return Vote("invalid", why=reason, problem=f"no message has the id {named[0]!r}"[:100].replace("'", '"'))
    if said == "yes":
        return Vote("yes", real, reason, None if real else "the vote names no message")
    return Vote("no", real, reason)
