"""What a check script may say, as data: the validator, its suggestions and the README share these tables.

Knows: every key, the value it takes and what it means. Must not know: how a script is read or run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class ScriptKey(NamedTuple):
    """One key: what its value looks like, and what it does."""

    value: str
    meaning: str


#: Members of the file itself.
SCRIPT: Mapping[str, ScriptKey] = {
    "config": ScriptKey("mapping", "where to talk, instead of the profile: the keys below"),
    "scenarios": ScriptKey("name → steps", "the conversations; a list of steps, or a mapping with the keys below"),
    "variables": ScriptKey("name → text", "defaults for `${name}`; `--var name=text` wins"),
    "setup": ScriptKey("steps", "said before the steps of every scenario"),
    "teardown": ScriptKey("steps", "said after them, whatever became of them, unless the conversation is over"),
    "attributes": ScriptKey("name → text", "custom attributes of every session"),
    "tags": ScriptKey("list", "tags of every scenario"),
    "timeout": ScriptKey("time", "for every scenario as a whole"),
    "retries": ScriptKey("number", "further tries of a scenario that did not pass, each as a new guest"),
    "golden": ScriptKey("true", "hold every scenario against its golden transcript"),
}

CONFIG: Mapping[str, ScriptKey] = {
    "deploymentId": ScriptKey("id", "the deployment"),
    "region": ScriptKey("region or domain", "its region"),
    "origin": ScriptKey("URL", "the Origin to send"),
    "api": ScriptKey("name", "the API family (`guestctl apis`)"),
}

#: Members of a scenario that is a mapping.
SCENARIO: Mapping[str, ScriptKey] = {
    "steps": ScriptKey("steps", "the conversation"),
    "setup": ScriptKey("steps", "said before them, after the script's own setup"),
    "teardown": ScriptKey("steps", "said after them, before the script's own teardown"),
    "tags": ScriptKey("list", "chosen with `--tag`"),
    "matrix": ScriptKey("name → list, or rows", "one scenario for every combination (or row), as `${name}`"),
    "attributes": ScriptKey("name → text", "custom attributes of the session"),
    "timeout": ScriptKey("time", "for the scenario as a whole; when it is over, the scenario has failed"),
    "retries": ScriptKey("number", "further tries, each as a new guest"),
    "golden": ScriptKey("true", "hold the whole conversation against its golden transcript (`--bless` writes it)"),
}

#: What a step does; every step has one of these.
ACTIONS: Mapping[str, ScriptKey] = {
    "say": ScriptKey("text", "send it, and go on once the service has accepted it"),
    "waitForReplyContaining": ScriptKey("text", "wait for a reply that contains it, in any case"),
    "waitForReplyMatching": ScriptKey("regex", "wait for a reply that matches it, in any case"),
    "expect": ScriptKey("text or conditions", "wait for a reply that meets every condition; a text is `contains`"),
    "expectNone": ScriptKey("time or conditions", "no reply (that meets the conditions) comes `for` this time"),
    "expectDisconnect": ScriptKey(
        "nothing, or a time", "wait until the conversation is ended by the other side, no longer than this"
    ),
    "pick": ScriptKey("number, label or payload", "choose a quick reply or card action, waiting until it is offered"),
    "attach": ScriptKey("file", "send a file, its path seen from the script; beside `say` they go together"),
    "attributes": ScriptKey("name → text", "custom attributes of the message; alone: of the next one"),
    "typing": ScriptKey("–", "show that the guest is typing"),
    "pause": ScriptKey("time", "do nothing for a while (nothing else needs one)"),
}

#: What may stand beside an action.
MODIFIERS: Mapping[str, ScriptKey] = {
    "timeout": ScriptKey("time", "how long this step may take, instead of `--timeout`"),
    "saveAs": ScriptKey(
        "name", "keep what was matched as `${name}`: the first group of a regex, else the reply's text"
    ),
}

#: Members of `expect`, and but for the last five of `not` and `expectNone`.
CONDITIONS: Mapping[str, ScriptKey] = {
    "contains": ScriptKey(
        "text", "it contains this, in any case; a list: replies that contain one each, in this order"
    ),
    "matches": ScriptKey("regex", "it matches this, in any case; a list as above"),
    "equals": ScriptKey("text", "it is exactly this but for space around it; a list as above"),
    "not": ScriptKey("text or conditions", "and does not meet these; a list: none of them"),
    "from": ScriptKey("bot or agent", "who says it, where the API tells"),
    "options": ScriptKey("list", "quick replies or actions it offers, by label or payload"),
    "card": ScriptKey("true or text", "it has a card, with this in its title or description"),
    "attachment": ScriptKey("true or text", "it has a file, with this in its name or type"),
    "within": ScriptKey("time", "how long to wait, instead of `--timeout`"),
    "count": ScriptKey("number", "so many such replies"),
    "in_order": ScriptKey(
        "false", "replies may come in any order, and those passed over in this turn of the guest count too"
    ),
    "saveAs": ScriptKey("name", "as beside a step"),
    "for": ScriptKey("time", "in `expectNone`: how long the silence lasts"),
}

#: Which of them describe one reply.
OF_A_REPLY = ("contains", "matches", "equals", "not", "from", "options", "card", "attachment")
IN_EXPECT = (*OF_A_REPLY, "within", "count", "in_order", "saveAs")
IN_EXPECT_NONE = (*OF_A_REPLY, "for")

#: Actions that need no value and may stand as a word.
BARE = ("typing", "expectDisconnect")


#: The tables as they are read, with their titles.
PARTS: tuple[tuple[str, Mapping[str, ScriptKey]], ...] = (
    ("Steps", {**ACTIONS, **MODIFIERS}),
    ("Inside `expect` and `expectNone`", CONDITIONS),
    ("A scenario that is a mapping", SCENARIO),
    ("The file", SCRIPT),
    ("Inside `config`", CONFIG),
)


def table() -> str:
    """Every key as Markdown tables."""
    return "\n\n".join(f"**{title}**\n\n{_rows(keys)}" for title, keys in PARTS) + "\n"


def _rows(keys: Mapping[str, ScriptKey]) -> str:
    rows = [f"| `{name}` | {key.value} | {key.meaning} |" for name, key in keys.items()]
    return "\n".join(["| Key | Value | Meaning |", "| --- | --- | --- |", *rows])
