"""The keys of a check script as tables, which the reader, its suggestions and the documentation share.

Knows: every key, the value it takes and what it means. Must not know: how a script is read or run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class ScriptKey(NamedTuple):
    """One key: the kind of its value, and what it does."""

    value: str
    meaning: str


#: Members of the file itself.
SCRIPT: Mapping[str, ScriptKey] = {
    "config": ScriptKey("mapping", "the service to test, instead of the profile: the keys below"),
    "scenarios": ScriptKey("name → steps", "the conversations; a list of steps, or a mapping with the keys below"),
    "variables": ScriptKey("name → text", "defaults for `${name}`; `--var name=text` overrides them"),
    "setup": ScriptKey("steps", "run before the steps of every scenario"),
    "teardown": ScriptKey("steps", "run after the steps, even if they failed, unless the conversation has ended"),
    "attributes": ScriptKey(
        "name → text", "custom attributes of every session; `IsAutomatedTest: null` removes the one that marks a test"
    ),
    "tags": ScriptKey("list", "tags of every scenario"),
    "timeout": ScriptKey("time", "maximum duration of every scenario"),
    "retries": ScriptKey("number", "retries of a scenario that did not pass, each as a new guest"),
    "golden": ScriptKey("true", "compare every scenario with its golden transcript"),
    "ai": ScriptKey("mapping", "the models of the steps `customer` and `judge`: the keys below"),
    "load": ScriptKey(
        "mapping", "weights and think times for `guestctl load`, which `check` does not use: the keys below"
    ),
}

#: Members of `load`.
LOAD: Mapping[str, ScriptKey] = {
    "think": ScriptKey(
        "time or mapping", "time between two messages of a guest (default 1s); `{min: 1s, max: 5s}` draws it at random"
    ),
    "scenarios": ScriptKey("name → mapping", "`weight` and `think` of single scenarios"),
}

#: Members of a scenario in `load`.
LOAD_SCENARIO: Mapping[str, ScriptKey] = {
    "weight": ScriptKey("number", "how often the scenario is chosen, compared with the others (default 1)"),
    "think": ScriptKey("time or mapping", "its think time, instead of that of the file"),
}

#: Members of `think`.
THINK = ("min", "max")

#: Members of `ai`.
AI: Mapping[str, ScriptKey] = {
    "model": ScriptKey("name", "the model; address and key come from the profile or the environment"),
    "judge_model": ScriptKey("name", "another model for the judge"),
    "budget": ScriptKey("mapping", "`calls` and `tokens` that all scenarios of the file may use together"),
    "scenario_budget": ScriptKey("mapping", "`calls` and `tokens` that each conversation may use"),
    "timeout": ScriptKey("time", "maximum duration of one call (default 60s)"),
    "parameters": ScriptKey(
        "name → value",
        "members of every request: `temperature`, `top_p`, `seed`, `max_tokens`, `max_completion_tokens`, "
        "`reasoning_effort`, `frequency_penalty`, `presence_penalty`; null removes one",
    ),
}

#: Members of `budget` and `scenario_budget`.
BUDGET: Mapping[str, ScriptKey] = {
    "calls": ScriptKey("number", "the most model calls"),
    "tokens": ScriptKey("number", "the most tokens, such as `300k` or `1M`"),
}

#: Members of `customer`.
CUSTOMER: Mapping[str, ScriptKey] = {
    "goal": ScriptKey("text", "what the customer wants"),
    "persona": ScriptKey("text", "how the customer writes"),
    "knows": ScriptKey("name → text", "the facts that the customer may state; any other number or address is invented"),
    "opening": ScriptKey("text", "the first message, which no model writes"),
    "until": ScriptKey("text or conditions", "ends the conversation as soon as a reply meets these conditions"),
    "turns": ScriptKey("number", "the most messages of the customer (default 10)"),
    "silence": ScriptKey("time", "time without another reply after which the customer answers (default 500ms)"),
}

#: Members of `judge`.
JUDGE: Mapping[str, ScriptKey] = {
    "criteria": ScriptKey("list", "what must be true of the conversation; a yes must name the messages that show it"),
    "never": ScriptKey("list", "what must not happen; a violation must name the messages that show it"),
    "votes": ScriptKey("number", "votes on each of them, of which a strict majority decides (default 3)"),
    "silence": ScriptKey("time", "time without another reply after which the judge begins (default 500ms)"),
}

CONFIG: Mapping[str, ScriptKey] = {
    "deploymentId": ScriptKey("id", "the deployment"),
    "region": ScriptKey("region or domain", "its region"),
    "origin": ScriptKey("URL", "the Origin header to send"),
    "api": ScriptKey("name", "the API family (`guestctl apis`)"),
    "ai": ScriptKey("mapping", "the model in a script of the web-messaging tester: `provider` and `config`"),
}

#: Members of a scenario that is a mapping.
SCENARIO: Mapping[str, ScriptKey] = {
    "steps": ScriptKey("steps", "the conversation"),
    "setup": ScriptKey("steps", "run before the steps, after the file's setup"),
    "teardown": ScriptKey("steps", "run after the steps, before the file's teardown"),
    "tags": ScriptKey("list", "selected with `--tag`"),
    "matrix": ScriptKey(
        "name → list, or rows", "one scenario for every combination (or row) of values; `${name}` is the value"
    ),
    "attributes": ScriptKey("name → text", "custom attributes of the session"),
    "timeout": ScriptKey("time", "maximum duration of the scenario; a longer one fails"),
    "retries": ScriptKey("number", "retries, each as a new guest"),
    "golden": ScriptKey("true", "compare the whole conversation with its golden transcript (`--bless` writes it)"),
}

#: The actions; every step has one.
ACTIONS: Mapping[str, ScriptKey] = {
    "say": ScriptKey("text", "send a message and wait until the service accepts it"),
    "waitForReplyContaining": ScriptKey("text", "wait for a reply that contains the text, in any case"),
    "waitForReplyMatching": ScriptKey("regex", "wait for a reply that matches the pattern, in any case"),
    "expect": ScriptKey(
        "text or conditions", "wait for a reply that meets every condition; a text stands for `contains`"
    ),
    "expectNone": ScriptKey("time or conditions", "fail if a reply (that meets the conditions) arrives in this time"),
    "expectDisconnect": ScriptKey(
        "nothing, or a time", "wait until the service ends the conversation, at most for this time"
    ),
    "pick": ScriptKey(
        "label, payload or number",
        "wait for a quick reply or card action and choose it; `{number: N}` always means the place",
    ),
    "attach": ScriptKey("file", "send a file, with a path relative to the script; with `say`: in the same message"),
    "attributes": ScriptKey(
        "name → text", "custom attributes of the message; in a step of its own: those of the next message"
    ),
    "typing": ScriptKey("–", "send a typing indicator"),
    "pause": ScriptKey("time", "wait (no other step needs a pause)"),
    "customer": ScriptKey("mapping", "a conversation in which a model writes the guest's messages: the keys below"),
    "judge": ScriptKey("mapping", "votes of a model on the conversation so far: the keys below"),
}

#: Keys that may accompany an action.
MODIFIERS: Mapping[str, ScriptKey] = {
    "timeout": ScriptKey("time", "maximum duration of this step, instead of `--timeout`"),
    "saveAs": ScriptKey(
        "name", "save the match as `${name}`: the first group of a regex, else the whole match, else the reply's text"
    ),
}

#: Members of `expect`. `not` and `expectNone` take those of `OF_A_REPLY`.
CONDITIONS: Mapping[str, ScriptKey] = {
    "contains": ScriptKey(
        "text", "the reply contains this text, in any case; a list: one reply for each text, in this order"
    ),
    "matches": ScriptKey("regex", "the reply matches this pattern, in any case; a list as above"),
    "equals": ScriptKey("text", "the reply is exactly this text, except for surrounding space; a list as above"),
    "not": ScriptKey("text or conditions", "the reply does not meet these conditions; a list: none of them"),
    "from": ScriptKey("bot or agent", "the sender, if the API reports it"),
    "options": ScriptKey("list", "quick replies or actions of the reply, by label or payload"),
    "card": ScriptKey("true or text", "the reply has a card, with this text in its title or description"),
    "attachment": ScriptKey("true or text", "the reply has a file, with this text in its name or type"),
    "within": ScriptKey("time", "maximum time to wait, instead of `--timeout`"),
    "count": ScriptKey("number", "number of such replies"),
    "in_order": ScriptKey(
        "false", "accept replies in any order, including earlier ones of this turn that met no expectation"
    ),
    "saveAs": ScriptKey("name", "as in a step"),
    "for": ScriptKey("time", "in `expectNone`: duration of the silence"),
}

#: The conditions for one reply.
OF_A_REPLY = ("contains", "matches", "equals", "not", "from", "options", "card", "attachment")
IN_EXPECT = (*OF_A_REPLY, "within", "count", "in_order", "saveAs")
IN_EXPECT_NONE = (*OF_A_REPLY, "for")

#: Actions that need no value and may be a plain word.
BARE = ("typing", "expectDisconnect")


#: The tables in reading order, with their titles.
PARTS: tuple[tuple[str, Mapping[str, ScriptKey]], ...] = (
    ("Steps", {**ACTIONS, **MODIFIERS}),
    ("Inside `expect` and `expectNone`", CONDITIONS),
    ("A scenario that is a mapping", SCENARIO),
    ("The file", SCRIPT),
    ("Inside `config`", CONFIG),
    ("Inside `customer`", CUSTOMER),
    ("Inside `judge`", JUDGE),
    ("Inside `ai`", AI),
    ("Inside `budget` and `scenario_budget`", BUDGET),
    ("Inside `load`", LOAD),
    ("Inside `scenarios` of `load`", LOAD_SCENARIO),
)


def table() -> str:
    """Return every key as Markdown tables."""
    return "\n\n".join(f"**{title}**\n\n{_rows(keys)}" for title, keys in PARTS) + "\n"


def _rows(keys: Mapping[str, ScriptKey]) -> str:
    rows = [f"| `{name}` | {key.value} | {key.meaning} |" for name, key in keys.items()]
    return "\n".join(["| Key | Value | Meaning |", "| --- | --- | --- |", *rows])
