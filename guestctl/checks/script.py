"""Check scripts as values: a script, its scenarios and their steps.

Knows: what a step and a scenario consist of. Must not know: YAML, clients, how a scenario runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from guestctl.checks.ai.plans import AiSettings, CustomerPlan, JudgePlan
from guestctl.checks.expectation import Conditions
from guestctl.dialects.capabilities import Ability

Action: TypeAlias = Literal[
    "say",
    "expect",
    "expectNone",
    "expectDisconnect",
    "pick",
    "attach",
    "attributes",
    "typing",
    "pause",
    "customer",
    "judge",
]


#: The attribute by which flows recognise a test; other testers of these services send it too.
TEST_MARK = "IsAutomatedTest"


@dataclass(frozen=True)
class Step:
    """One step. `text` is the step as written, for reports. Durations are in seconds. Texts may hold `${name}`.

    say, pick: `message` · attach: `file` · expect, expectNone: `expected` · pause, expectNone: `seconds` ·
    customer, judge: the field of that name.
    """

    action: Action
    line: int
    text: str
    message: str | None = None
    #: Whether `message` of a pick is a place, whatever the labels are.
    by_place: bool = False
    file: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    expected: tuple[Conditions, ...] = ()
    in_order: bool = True
    seconds: float = 0.0
    timeout: float | None = None
    save_as: str | None = None
    customer: CustomerPlan | None = None
    judge: JudgePlan | None = None

    def texts(self) -> Iterator[str]:
        """Yield every text of the step that may contain references."""
        yield from (text for text in (self.message, self.file) if text is not None)
        yield from self.attributes.values()
        for expected in self.expected:
            yield from expected.texts()
        if self.customer is not None:
            yield from self.customer.texts()
            if self.customer.until is not None:
                yield from self.customer.until.texts()
        if self.judge is not None:
            yield from self.judge.texts()

    @property
    def most_calls(self) -> int:
        """The most model calls that one run of the step makes."""
        return sum(plan.most_calls for plan in (self.customer, self.judge) if plan is not None)


@dataclass(frozen=True)
class Scenario:
    """One conversation. `line` is its first line in the script; `values` come from the matrix."""

    name: str
    line: int
    steps: tuple[Step, ...]
    teardown: tuple[Step, ...] = ()
    tags: frozenset[str] = frozenset()
    attributes: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    timeout: float | None = None
    retries: int = 0
    golden: bool = False
    #: Whether the session gets the attribute `TEST_MARK`.
    marked: bool = True
    #: The name before the matrix is applied.
    base: str = ""

    @property
    def has_models(self) -> bool:
        """Whether the scenario has AI steps."""
        return any(step.action in ("customer", "judge") for step in (*self.steps, *self.teardown))

    @property
    def most_calls(self) -> int:
        """The most model calls that one run of the scenario makes."""
        return sum(step.most_calls for step in (*self.steps, *self.teardown))

    def required_abilities(self) -> Iterator[tuple[Ability, int]]:
        """Yield what the API must be able to do, with the line that needs it."""
        abilities = {"pick": Ability.PICK, "attach": Ability.FILES, "typing": Ability.TYPING}
        for step in (*self.steps, *self.teardown):
            if step.action in abilities:
                yield abilities[step.action], step.line
            if step.file is not None:
                yield Ability.FILES, step.line

    def first_message_attributes(self) -> int | None:
        """Return the first line whose message has attributes of its own; None without one."""
        return next((step.line for step in (*self.steps, *self.teardown) if step.attributes), None)


@dataclass(frozen=True)
class ThinkTime:
    """The time between two messages of a guest: at random from `least` to `most` seconds, both ends included."""

    least: float
    most: float


@dataclass(frozen=True)
class LoadSettings:
    """What `load:` sets. `line` is the line of the key, 0 without it.

    `weights` has the weights by the name of a scenario before its matrix is applied (default: 1), and `thinks` the
    think times by the same names. `think` is that of all others, None for the default.
    """

    line: int = 0
    think: ThinkTime | None = None
    weights: Mapping[str, int] = field(default_factory=dict)
    thinks: Mapping[str, ThinkTime] = field(default_factory=dict)


@dataclass(frozen=True)
class Script:
    """A whole file. `path` is as given; `config` and `variables` hold what the file sets."""

    path: Path
    config: Mapping[str, str]
    variables: Mapping[str, str]
    scenarios: tuple[Scenario, ...]
    #: Key of `config` -> its line.
    lines: Mapping[str, int] = field(default_factory=dict)
    #: Keys of `config` whose value contains a variable.
    expanded: frozenset[str] = frozenset()
    ai: AiSettings = field(default_factory=AiSettings)
    #: What a script of the web-messaging tester asks for and guestctl does otherwise, each stated once.
    deviations: tuple[str, ...] = ()
    #: Only `guestctl load` uses these.
    load: LoadSettings = field(default_factory=LoadSettings)

    @property
    def golden(self) -> Path:
        """The file of the script's golden transcripts."""
        return self.path.with_suffix(".golden.json")
