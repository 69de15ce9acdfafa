"""The measurement of a judge: conversations with labels of your own, and how the judge's decisions compare with them.

Knows: the file of labels, and the counts. Must not know: the wire, the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from guestctl.checks.ai.conversation_data import NumberedMessage
from guestctl.checks.ai.interval import wilson
from guestctl.checks.ai.judge import Judgement, judgements
from guestctl.checks.ai.model_client import ModelAnswer, ModelRequest
from guestctl.checks.ai.plans import AiSettings, JudgePlan
from guestctl.core.yaml_fields import YamlField

_SENDERS = ("customer", "bot", "agent", "system")


@dataclass(frozen=True)
class Label:
    """One statement and what a person says about it."""

    text: str
    never: bool
    value: bool


@dataclass(frozen=True)
class LabelledConversation:
    """A conversation and the labels of it."""

    name: str
    messages: tuple[NumberedMessage, ...]
    labels: tuple[Label, ...]


@dataclass(frozen=True)
class JudgedLabel:
    """A label and the judgement on the same statement. `verdict` is None if the votes decide nothing."""

    conversation: str
    label: Label
    judgement: Judgement

    @property
    def verdict(self) -> bool | None:
        if self.judgement.decision == "undecided":
            return None
        return (self.judgement.decision == "passed") != self.label.never


@dataclass(frozen=True)
class JudgeMeasure:
    """How the judge's decisions compare with the labels."""

    judged: tuple[JudgedLabel, ...]

    def count(self, label: bool, verdict: bool | None) -> int:
        """Return the number of labels of this value that the judge answered so."""
        return sum(one.label.value is label and one.verdict is verdict for one in self.judged)

    @property
    def agreed(self) -> int:
        return self.count(True, True) + self.count(False, False)

    @property
    def decided(self) -> int:
        return sum(one.verdict is not None for one in self.judged)

    @property
    def agreement(self) -> float | None:
        return self.agreed / self.decided if self.decided else None

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.agreed, self.decided)


def conversations(field: YamlField) -> tuple[LabelledConversation, ...]:
    """Return the value of `conversations`. Raises UsageError."""
    members = field.members()
    if not members:
        raise field.error("there are no conversations")
    return tuple(_conversation(name, member) for name, member in members.items())


def _conversation(name: str, field: YamlField) -> LabelledConversation:
    members = field.mapping(("messages", "labels"))
    messages = tuple(_message(number, item) for number, item in enumerate(_items(field, members, "messages"), 1))
    labels = tuple(_label(item) for item in _items(field, members, "labels"))
    if len({(label.text, label.never) for label in labels}) != len(labels):
        raise members["labels"].error("a statement is labelled twice")
    return LabelledConversation(name, messages, labels)


def _items(field: YamlField, members: Mapping[str, YamlField], key: str) -> list[YamlField]:
    return field.required(members, key).items()


def _message(number: int, field: YamlField) -> NumberedMessage:
    members = field.mapping(_SENDERS)
    if len(members) != 1:
        raise field.error(f"a message is `sender: text` (senders: {', '.join(_SENDERS)})")
    ((sender, text),) = members.items()
    return NumberedMessage(f"m{number}", sender, text.text())


def _label(field: YamlField) -> Label:
    members = field.mapping(("criterion", "never", "label"))
    if ("criterion" in members) == ("never" in members):
        raise field.error("give one of `criterion` and `never`")
    text = members["never" if "never" in members else "criterion"].text()
    if not text.strip():
        raise field.error("the statement is empty")
    answer = field.required(members, "label")
    words = {"yes": True, "true": True, "no": False, "false": False}
    value = words.get(answer.text().strip().lower())
    if value is None:
        raise answer.error("must be yes (the statement is true of the conversation) or no")
    return Label(text, "never" in members, value)


def measured(
    found: Sequence[LabelledConversation],
    votes: int,
    settings: AiSettings,
    ask: Callable[[str, ModelRequest], ModelAnswer],
) -> JudgeMeasure:
    """Judge every labelled statement. `ask` receives the name of the conversation, too."""
    judged: list[JudgedLabel] = []
    for one in found:
        criteria = tuple(label.text for label in one.labels if not label.never)
        never = tuple(label.text for label in one.labels if label.never)
        plan = JudgePlan(criteria, never, votes)
        name = one.name
        results = judgements(plan, one.messages, settings, lambda request, name=name: ask(name, request))  # type: ignore[misc]
        by_text = {(result.text, result.never): result for result in results}
        judged += [JudgedLabel(name, label, by_text[label.text, label.never]) for label in one.labels]
    return JudgeMeasure(tuple(judged))
