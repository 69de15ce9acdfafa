"""The bots that answer guests: the echo bot, the silent bot and the bot that follows rules.

Knows: what a bot can do, and which answers are valid for its options. Must not know: YAML
(`bot_script`), frames, sockets, sessions, the clock; it does no I/O. State between two messages is
in the `memory` dict that a bot receives, one per conversation, which must be valid JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from guestctl.core.patterns import Pattern

DEFAULT_DELAY = 0.03  # seconds; some tens of milliseconds are usual between echo and answer (web-messaging.md §11.3)
TYPING_SHOWN = 5000  # milliseconds, the default on the wire (web-messaging.md §6.5)

Content = tuple[dict[str, Any], ...]
Memory = dict[str, Any]


@dataclass(frozen=True)
class BotAction:
    """One action of a bot, `delay` seconds after the one before it (or after the guest's message)."""

    kind: Literal["message", "typing", "disconnect", "handover"]
    delay: float = 0.0
    text: str | None = None
    content: Content = ()  # web-messaging content items
    role: Literal["bot", "agent"] = "bot"
    name: str | None = None  # the sender; for a handover: the agent
    duration: int = TYPING_SHOWN  # of a typing indicator, in milliseconds as on the wire


class Bot(Protocol):
    """Something that answers guests. It has no state but `memory`."""

    def greeting(self, attributes: Mapping[str, str]) -> list[BotAction]:
        """Return the first actions, for a conversation that the service starts."""

    def reply_to(
        self, text: str, *, payload: str | None, attributes: Mapping[str, str], count: int, memory: Memory
    ) -> list[BotAction]:
        """Return the answer to one message. `payload` comes from a button; `count` counts messages from 1.

        Raises SlowMatch if the answer is not known at once, before anything has changed; call it again once the match
        has finished. Raises PatternTimeout if there is no answer, because a pattern takes too long.
        """


class EchoBot:
    """Answers every text with `echo: TEXT`, and a button without a text with its payload."""

    def __init__(self, delay: float = DEFAULT_DELAY) -> None:
        self._delay = delay

    def greeting(self, attributes: Mapping[str, str]) -> list[BotAction]:
        return []

    def reply_to(
        self, text: str, *, payload: str | None, attributes: Mapping[str, str], count: int, memory: Memory
    ) -> list[BotAction]:
        answered = text or payload
        return [BotAction("message", self._delay, f"echo: {answered}")] if answered else []


class QuietBot:
    """Never answers, because a person does."""

    def greeting(self, attributes: Mapping[str, str]) -> list[BotAction]:
        return []

    def reply_to(
        self, text: str, *, payload: str | None, attributes: Mapping[str, str], count: int, memory: Memory
    ) -> list[BotAction]:
        return []


def payload_of(content: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the payloads of the buttons or form in an answer, joined by commas; None without any."""
    payloads = [str(response.get("payload", "")) for response in _responses(content)]
    return ",".join(payloads) if payloads else None


def wrong_answers(
    answer: Iterable[Mapping[str, Any]], offered: Iterable[tuple[str, Sequence[Mapping[str, Any]]]]
) -> list[str]:
    """Return the problems of an answer; empty for a valid one.

    Buttons, dates, items and form fields must have been offered, one item of a list unless it allows
    several, and required fields must be filled. `offered` has the id and content of each message to the
    guest. An answer with an `originatingMessageId` is compared with that message only
    (web-messaging.md §5.4).
    """
    answer, offered = list(answer), list(offered)
    offers_by_message = [(identifier, choices(content)) for identifier, content in offered]
    problems: list[str] = []
    for item in answer:
        kind = item.get("contentType")
        if kind not in ("ButtonResponse", "Form"):
            continue
        body = item.get("buttonResponse" if kind == "ButtonResponse" else "form")
        if not isinstance(body, Mapping):
            problems.append(f"{kind} without its object")
            continue
        origin = body.get("originatingMessageId")
        offers = [offer for identifier, found in offers_by_message for offer in found if origin in (None, identifier)]
        if kind == "Form":
            answers = [("Form", body.get("cannedResponseId"))]
            parts = body.get("response")
            parts = parts if isinstance(parts, list) else []
            answers += [("Field", part.get("id")) for part in parts if isinstance(part, Mapping)]
        else:
            answers = [(str(body.get("type")), body.get("payload"))]
        for pair in answers:
            # A date picker without fixed times accepts any date. Its offer has the payload None.
            if pair not in offers and not (pair[0] == "DatePicker" and ("DatePicker", None) in offers):
                where = f" in message {origin}" if origin is not None else ""
                problems.append(f'{pair[0]} "{pair[1]}" was not offered{where}')
    if problems:
        return problems
    bodies = [body for item in answer for body in (item.get("buttonResponse"), item.get("form"))]
    named = [body.get("originatingMessageId") for body in bodies if isinstance(body, Mapping)]
    origins = {origin for origin in named if isinstance(origin, str)}
    items = [item for identifier, content in offered if not origins or identifier in origins for item in content]
    return [*_too_many_picks(answer, items), *_wrong_forms(answer, items)]


def _too_many_picks(answer: Sequence[Mapping[str, Any]], offered: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a problem for each list of which more than one item was picked, though it allows one."""
    picked = [response.get("payload") for response in _responses(answer) if response.get("type") == "ListPicker"]
    return [
        f'only one item of "{section.get("title")}" can be picked'
        for item in offered
        if item.get("contentType") == "ListPicker"
        for section in item["listPicker"].get("sections", ())
        if section.get("multipleSelection") is not True
        and len([entry for entry in section.get("items", ()) if entry.get("id") in picked]) > 1
    ]


def _wrong_forms(answer: Sequence[Mapping[str, Any]], offered: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a problem for each field of a form that is missing or has a value that its list does not offer."""
    problems: list[str] = []
    forms = {
        item["form"].get("cannedResponseId"): item["form"] for item in offered if item.get("contentType") == "Form"
    }
    for item in answer:
        form = item.get("form") if item.get("contentType") == "Form" else None
        if not isinstance(form, Mapping) or form.get("cannedResponseId") not in forms:
            continue
        offer = forms[form.get("cannedResponseId")]
        given: dict[str, list[Any]] = {}
        parts = form.get("response")
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, Mapping):
                payloads = [response.get("payload") for response in _responses([{"form": {"response": [part]}}])]
                given.setdefault(str(part.get("id")), []).extend(payloads)
        for page in offer.get("formPages", ()):
            for component in page.get("pageComponents", ()):
                problems += _wrong_field(component, given)
    return problems


def _wrong_field(component: Mapping[str, Any], given: Mapping[str, Sequence[Any]]) -> list[str]:
    match component:
        case {"input": {"id": identifier, "isRequired": True}}:
            return [] if any(given.get(identifier, ())) else [f'Field "{identifier}" is required']
        case {"wheelPicker": {"id": identifier, "items": [*items]}}:
            ids = [entry.get("id") for entry in items]
        case {"listPicker": {"id": identifier, "sections": [*sections]}}:
            ids = [entry.get("id") for section in sections for entry in section.get("items", ())]
        case _:
            return []
    return [f'Field "{identifier}": "{one}" was not offered' for one in given.get(identifier, ()) if one not in ids]


def _responses(content: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    """Yield every buttonResponse, including those of form fields."""
    for item in content:
        response = item.get("buttonResponse")
        if isinstance(response, Mapping):
            yield response
        form = item.get("form")
        parts = form.get("response") if isinstance(form, Mapping) else None
        for part in parts if isinstance(parts, list) else ():
            component = part.get("component") if isinstance(part, Mapping) else None
            if isinstance(component, Mapping):
                yield from _responses([component])


def choices(content: Sequence[Mapping[str, Any]]) -> list[tuple[str, Any]]:
    """Return (buttonResponse.type, payload) of everything that the guest can choose in these items."""
    found: list[tuple[str, Any]] = []
    for item in content:
        match item:
            case {"contentType": "QuickReply", "quickReply": {"payload": payload}}:
                found.append(("QuickReply", payload))
            case {"contentType": "QuickReplyV2", "quickReplyV2": {"actions": [*actions]}}:
                found += [("QuickReply", action.get("payload")) for action in actions]
            case {"contentType": "Card", "card": card}:
                found += _cardchoices(card)
            case {"contentType": "Carousel", "carousel": {"cards": [*cards]}}:
                found += [offer for card in cards for offer in _cardchoices(card)]
            case {"contentType": "DatePicker", "datePicker": picker}:
                times = picker.get("availableTimes") or [{"dateTime": None}]
                found += [("DatePicker", time.get("dateTime")) for time in times]
            case {"contentType": "ListPicker", "listPicker": {"sections": [*sections]}}:
                found += [("ListPicker", entry.get("id")) for section in sections for entry in section.get("items", ())]
            case {"contentType": "Form", "form": form}:
                found.append(("Form", form.get("cannedResponseId")))
                for page in form.get("formPages", ()):
                    for component in page.get("pageComponents", ()):
                        found += [("Field", part.get("id")) for part in component.values() if isinstance(part, dict)]
    return found


def _cardchoices(card: Mapping[str, Any]) -> list[tuple[str, Any]]:
    actions = [*card.get("actions", ()), *([card["defaultAction"]] if "defaultAction" in card else [])]
    return [("Button", action.get("payload")) for action in actions if action.get("type") == "Postback"]


@dataclass(frozen=True)
class BotReply:
    """One reply of a scripted bot, with templates. `delay` is in seconds."""

    delay: float
    typing: bool
    text: str | None
    content: Content


@dataclass(frozen=True)
class BotAnswer:
    """The answer to one message. `handover`: name of the agent who takes over."""

    replies: tuple[BotReply, ...] = ()
    handover: str | None = None
    disconnect: bool = False


@dataclass(frozen=True)
class Rule:
    """One rule. `trigger` and `text` say which messages match; `times`: maximum matches per conversation."""

    number: int
    trigger: str
    text: str
    pattern: Pattern | None
    answer: BotAnswer
    times: int | None
    after_handover: bool | None

    def captures(self, message: str, payload: str | None) -> dict[str, str] | None:
        """Return the values of `${1}`, `${name}` and so on; None if the message does not match.

        Raises SlowMatch if the caller has to wait for the answer, and PatternTimeout if there is none.
        """
        if self.pattern is not None:
            found = self.pattern.search_at_once(message)
            if found is None:
                return None
            groups = {str(n): group or "" for n, group in enumerate((found.whole, *found.groups))}
            return groups | {name: group or "" for name, group in found.named.items()}
        matches = {
            "contains": self.text.casefold() in message.casefold(),
            "equals": self.text.strip().casefold() == message.strip().casefold(),
            "payload": self.text == payload,
        }[self.trigger]
        return {"0": message} if matches else None


class ScriptedBot:
    """A bot that follows rules (`bot_script` reads them from YAML)."""

    def __init__(self, greeting: BotAnswer, rules: Sequence[Rule], otherwise: BotAnswer, name: str | None) -> None:
        self._greeting = greeting
        self._rules = rules
        self._otherwise = otherwise
        self._name = name

    def greeting(self, attributes: Mapping[str, str]) -> list[BotAction]:
        return self._act(self._greeting, {"0": "", "text": "", "payload": "", "count": "0"}, attributes, {})

    def reply_to(
        self, text: str, *, payload: str | None, attributes: Mapping[str, str], count: int, memory: Memory
    ) -> list[BotAction]:
        known = {"0": text, "text": text, "payload": payload or "", "count": str(count)}
        used = memory.setdefault("used", {})
        for rule in self._rules:
            number = str(rule.number)  # a string, because JSON keys are strings
            if rule.times is not None and used.get(number, 0) >= rule.times:
                continue
            if rule.after_handover is not None and rule.after_handover != ("agent" in memory):
                continue
            captured = rule.captures(text, payload)
            if captured is not None:
                if rule.times is not None:
                    used[number] = used.get(number, 0) + 1
                return self._act(rule.answer, known | captured, attributes, memory)
        return self._act(self._otherwise, known, attributes, memory)

    def _act(
        self, answer: BotAnswer, known: Mapping[str, str], attributes: Mapping[str, str], memory: Memory
    ) -> list[BotAction]:
        role: Literal["bot", "agent"] = "agent" if "agent" in memory else "bot"
        name = memory.get("agent", self._name)
        actions: list[BotAction] = []
        for reply in answer.replies:
            has_message = reply.text is not None or bool(reply.content)
            if reply.typing:
                actions.append(BotAction("typing", 0.0 if has_message else reply.delay, role=role, name=name))
            if has_message:
                text = None if reply.text is None else _fill(reply.text, known, attributes)
                content = tuple(_filled_in(item, known, attributes) for item in reply.content)
                actions.append(BotAction("message", reply.delay, text, content, role, name))
        if answer.handover is not None:
            memory["agent"] = name = answer.handover
            role = "agent"
            actions.append(BotAction("handover", role=role, name=name))
        if answer.disconnect:
            actions.append(BotAction("disconnect", role=role, name=name))
        return actions


#: `${name}` in a template, with a first group for the `$` of an escaped `$${`.
REFERENCE = re.compile(r"(\$?)\$\{([^{}]*)\}")


def _fill(template: str, known: Mapping[str, str], attributes: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        if found[1]:
            return found[0][1:]
        name = found[2]
        return attributes.get(name[5:], "") if name.startswith("attr.") else known.get(name, "")

    return REFERENCE.sub(value, template)


def _filled_in(value: Any, known: Mapping[str, str], attributes: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _fill(value, known, attributes)
    if isinstance(value, list):
        return [_filled_in(entry, known, attributes) for entry in value]
    if isinstance(value, dict):
        return {key: _filled_in(entry, known, attributes) for key, entry in value.items()}
    return value
