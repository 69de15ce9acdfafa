"""The reader of bot scripts: YAML in, a bot out, or one line that says what is wrong and where.

Knows: the script language, but for the content of replies (`bot_replies`). Must not know: files,
frames, sessions, the clock.

A script:

    name: Helper                  # the bot's name, if it has one
    delay: 30ms                   # before each message without its own delay; default 30 ms
    greeting: Hello!              # an answer: a text, a list of replies, or a mapping as in a rule
    rules:                        # the first matching rule answers
      - match: parcel (\\d+)       # JavaScript regular expression, found anywhere, in any case
        reply: Parcel ${1} is on its way, ${attr.name}
      - contains: colour          # or: equals, both in any case; payload: exactly what a button sends
        times: 1                  # maximum matches per conversation
        after_handover: false     # only before (false) or only after (true) an agent took over
        typing: true
        delay: 1s
        reply: Which one?
        quickReplies: [Red, {text: Blue, payload: "colour:blue"}]
      - equals: human
        replies: [One moment, {text: Connecting you to an agent, delay: 500ms}]
        handover: {name: Mina}    # from here on the agent answers
      - equals: bye
        reply: Goodbye
        disconnect: true          # ends the conversation
    otherwise: I do not understand ${text}

`${1}` and `${name}` are captures of `match`; `${0}`, `${text}`, `${payload}`, `${count}` (of the
guest's messages) and `${attr.KEY}` always have a value; `$${` is a literal `${`. A reply is a text
or a mapping of `text`, `delay`, `typing` and at most one of `quickReplies`, `card`, `carousel`,
`datePicker`, `listPicker`, `form`, `attachment`. In a rule these keys next to `reply` or `replies`
belong to its last reply. `bot_replies` documents the short forms of content.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from guestctl.core.errors import UsageError
from guestctl.core.patterns import PatternError, compiled
from guestctl.core.strict_yaml import MAX_BYTES, parse, parse_bytes
from guestctl.core.suggestions import did_you_mean
from guestctl.core.yaml_fields import YamlField
from guestctl.sandbox.bot.bot_replies import content_items
from guestctl.sandbox.bot.bots import DEFAULT_DELAY, REFERENCE, BotAnswer, BotReply, Rule, ScriptedBot

SCRIPT_LIMIT = MAX_BYTES
_LONGEST_DELAY = 3600.0  # seconds

TRIGGERS = ("match", "contains", "equals", "payload")
_CONTENT = ("quickReplies", "card", "carousel", "datePicker", "listPicker", "form", "attachment")
_REPLY = ("text", "delay", "typing", *_CONTENT)
ANSWER = ("reply", "replies", "delay", "typing", *_CONTENT, "handover", "disconnect")
HANDOVER = ("name",)
_ALWAYS_KNOWN = ("0", "text", "payload", "count")


class ScriptError(ValueError):
    """A wrong script, in one line: file, line, key, what is wrong and what would be right."""


def load(script: str | bytes, name: str, *, delay: float = DEFAULT_DELAY) -> ScriptedBot:
    """Return the bot that a script describes.

    `name` is the file's name for errors. `delay` is the delay, in seconds, of messages for which the
    script gives none. Raises ScriptError and nothing else.
    """
    try:
        root = parse(script, name) if isinstance(script, str) else parse_bytes(script, name)
        return _Script(delay).bot(YamlField(root, name))
    except UsageError as error:
        raise ScriptError(error.message) from None


class _Script:
    """Turns fields into a bot."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        #: The names that templates of the present rule may use.
        self._captures: tuple[str, ...] = _ALWAYS_KNOWN

    def bot(self, root: YamlField) -> ScriptedBot:
        if root.value is None:
            raise root.error("the script is empty; it needs `rules` or `otherwise`")
        top = root.mapping(("name", "delay", "greeting", "rules", "otherwise"))
        if not ({"rules", "otherwise", "greeting"} & top.keys()):
            raise root.error("the bot never answers; the script needs `rules`, `otherwise` or `greeting`")
        if "delay" in top:
            self._delay = _delay(top["delay"])
        greeting = self._answer(top["greeting"]) if "greeting" in top else BotAnswer()
        if greeting.handover is not None:
            raise top["greeting"].error("a greeting cannot hand over; a rule can")
        entries = top["rules"].items() if "rules" in top else []
        rules = [self._rule(number, entry) for number, entry in enumerate(entries, 1)]
        self._captures = _ALWAYS_KNOWN
        return ScriptedBot(
            greeting,
            rules,
            self._answer(top["otherwise"]) if "otherwise" in top else BotAnswer(),
            top["name"].text() if "name" in top else None,
        )

    def _rule(self, number: int, field: YamlField) -> Rule:
        keys = field.mapping((*TRIGGERS, "times", "after_handover", *ANSWER))
        triggers = [key for key in TRIGGERS if key in keys]
        if len(triggers) != 1:
            found = f"it has {' and '.join(triggers)}" if triggers else "it has none"
            raise field.error(f"a rule needs exactly one of {', '.join(TRIGGERS)}; {found}")
        trigger = triggers[0]
        text = keys[trigger].text()
        pattern = None
        self._captures = _ALWAYS_KNOWN
        if trigger == "match":
            try:
                pattern = compiled(text, any_case=True)
            except PatternError as error:
                raise keys[trigger].error(f"not a regular expression: {error}") from None
            self._captures += tuple(str(n) for n in range(1, pattern.group_count + 1)) + pattern.names
        elif not text:
            raise keys[trigger].error("the text is empty; use `otherwise` to answer every message")
        answer = self._answer_of(field, {key: member for key, member in keys.items() if key in ANSWER})
        times = keys["times"].whole_number(1, 1_000_000) if "times" in keys else None
        after = keys["after_handover"].flag() if "after_handover" in keys else None
        return Rule(number, trigger, text, pattern, answer, times, after)

    def _answer(self, field: YamlField) -> BotAnswer:
        """Return an answer: a text, a list of replies, or a mapping."""
        if field.is_list:
            return BotAnswer(tuple(self._reply(entry) for entry in field.items()))
        if not field.is_mapping:
            return BotAnswer((self._reply(field),))
        return self._answer_of(field, field.mapping(ANSWER))

    def _answer_of(self, field: YamlField, keys: Mapping[str, YamlField]) -> BotAnswer:
        """Return the answer of a mapping with these answer keys."""
        if "reply" in keys and "replies" in keys:
            raise keys["replies"].error("give `reply` or `replies`, not both")
        if not keys:
            raise field.error("no answer; give `reply`, or `replies: []` for silence")
        own = {key: member for key, member in keys.items() if key in _REPLY}
        entries = [keys["reply"]] if "reply" in keys else []
        if "replies" in keys and (own or keys["replies"].value != []):
            entries = keys["replies"].items()
        replies = [self._reply(entry) for entry in entries[:-1]]
        if entries:
            last = entries[-1]
            inner = _reply_keys(last)
            for key in own.keys() & inner.keys():
                raise own[key].error(f"the last reply has its own `{key}`")
            replies.append(self._reply_of(last, {**inner, **own}))
        elif own:
            replies.append(self._reply_of(field, own))
        handover = _handover(keys["handover"]) if "handover" in keys else None
        disconnect = "disconnect" in keys and keys["disconnect"].flag()
        return BotAnswer(tuple(replies), handover, disconnect)

    def _reply(self, field: YamlField) -> BotReply:
        return self._reply_of(field, _reply_keys(field))

    def _reply_of(self, field: YamlField, keys: Mapping[str, YamlField]) -> BotReply:
        """Return the reply of these keys. `field` is its place for errors."""
        found = [key for key in _CONTENT if key in keys]
        if len(found) > 1:
            raise keys[found[1]].error(
                f"a reply has at most one of {', '.join(_CONTENT)}; it has {' and '.join(found)}"
            )
        typing = "typing" in keys and keys["typing"].flag()
        if not found and "text" not in keys and not typing:
            raise field.error(f"the reply is empty; give `text` or one of {', '.join(_CONTENT)}")
        content = content_items(found[0], keys[found[0]]) if found else ()
        self._check_references(field, content)
        text = keys["text"].text() if "text" in keys else None
        self._check_references(keys.get("text", field), text)
        default = self._delay if found or text is not None else 0.0  # a typing indicator alone is shown at once
        return BotReply(_delay(keys["delay"]) if "delay" in keys else default, typing, text, content)

    def _check_references(self, field: YamlField, value: Any) -> None:
        """Check that every `${name}` in a value, however deep, has a value when the bot answers."""
        if isinstance(value, list | tuple):
            for entry in value:
                self._check_references(field, entry)
        elif isinstance(value, dict):
            for entry in value.values():
                self._check_references(field, entry)
        elif isinstance(value, str):
            slip = re.search(r"(?<!\$)\$\{[A-Za-z_][\w.]*(?![\w.]|\})", value)
            if slip is not None:
                raise field.error(f"{slip[0]} is not closed; a literal is $${{")
            for found in REFERENCE.finditer(value):
                name = found[2]
                if not found[1] and not (name.startswith("attr.") and len(name) > 5) and name not in self._captures:
                    known = ", ".join((*self._captures, "attr.KEY"))
                    raise field.error(
                        f"${{{name}}} has no value{did_you_mean(name, self._captures)} (known names: {known})"
                    )


def _reply_keys(field: YamlField) -> Mapping[str, YamlField]:
    return field.mapping(_REPLY) if field.is_mapping else {"text": field}


def _handover(field: YamlField) -> str:
    return field.required(field.mapping(HANDOVER), "name").text() if field.is_mapping else field.text()


def _delay(field: YamlField) -> float:
    return field.duration(_LONGEST_DELAY, zero=True)
