"""Bot scripts: YAML in, a bot out, or one line that says what is wrong and where.

Knows: the script language, and the content items of web-messaging.md §6.4 exactly as they are on
the wire. Must not know: files, frames, sessions, the clock.

A script:

    name: Helper                  # the bot's name, if it has one
    delay: 30ms                   # before each message that has none of its own; 30 ms when absent
    greeting: Hello!              # an answer: a text, a list of replies, or a mapping as in a rule
    rules:                        # the first that fits answers
      - match: parcel (\\d+)       # regular expression, found anywhere, case-blind
        reply: Parcel ${1} is on its way, ${attr.name}
      - contains: colour          # or: equals, both case-blind; payload: exactly what a button sends
        times: 1                  # at most so often in one conversation
        after_handover: false     # only before (false) or only after (true) an agent took over
        typing: true
        delay: 1s
        reply: Which one?
        quickReplies: [Red, {text: Blue, payload: "colour:blue"}]
      - equals: human
        replies: [One moment, {text: I fetch somebody, delay: 500ms}]
        handover: {name: Mina}    # from here on the agent answers
      - equals: bye
        reply: Goodbye
        disconnect: true          # ends the conversation
    otherwise: I do not understand ${text}

`${1}` and `${name}` are captures of `match`; `${0}`, `${text}`, `${payload}`, `${count}` (of the
guest's messages) and `${attr.KEY}` are always there; `$${` is a literal `${`. A reply is a text or a
mapping of `text`, `delay`, `typing` and at most one of `quickReplies`, `card`, `carousel`,
`datePicker`, `listPicker`, `form`, `attachment`; in a rule these keys beside `reply` or `replies`
belong to its last reply. See `_content` below for the short forms.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from guestctl.core.clock import epoch_of, rfc3339
from guestctl.core.humanize import parse_duration
from guestctl.core.suggestions import did_you_mean
from guestctl.sandbox.bot.bots import DEFAULT_DELAY, REFERENCE, BotAnswer, BotReply, Content, Rule, ScriptedBot

SCRIPT_LIMIT = 256 * 1024  # bytes
DEPTH_LIMIT = 20
_LONGEST = 3600.0


class ScriptError(ValueError):
    """A script that is wrong: file and line, key, what is wrong, what would be right; one line."""


def load(script: str | bytes, name: str, *, delay: float = DEFAULT_DELAY) -> ScriptedBot:
    """The bot a script describes. `name` is the file's, for messages; `delay`, in seconds, is that of
    messages for which the script gives none. Raises ScriptError and nothing else.
    """
    return _Script(name, delay).bot(_parse(script, name))


@dataclass
class _Node:
    """A YAML value and where it stands. A mapping's value is a dict of key -> _Node."""

    line: int
    where: str
    value: Any = None
    key_lines: dict[str, int] = field(default_factory=dict)


def _parse(script: str | bytes, name: str) -> _Node:
    """The script as nodes. No anchors, aliases, tags, merge keys or doubled keys; bounded in size and depth."""
    import yaml

    raw = script.encode("utf-8", "surrogatepass") if isinstance(script, str) else script
    if len(raw) > SCRIPT_LIMIT:
        raise ScriptError(f"{name}: a script has at most {SCRIPT_LIMIT // 1024} KiB; this one is longer")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ScriptError(f"{name}:{line}: not UTF-8; save the file in that encoding") from None
    try:
        loader = yaml.SafeLoader(text)
        try:
            return _Composer(loader, name).document()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark is not None else 1
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        if mark is not None and text[mark.index : mark.index + 1] == "\t":
            problem = "a tab; YAML is indented with spaces"
        raise ScriptError(f"{name}:{line}: not YAML: {problem}") from None


class _Composer:
    """Builds nodes from YAML's events, so that what is not allowed is refused before it costs anything."""

    def __init__(self, loader: Any, name: str) -> None:
        self._loader = loader
        self._name = name

    def document(self) -> _Node:
        import yaml

        self._loader.get_event()  # the stream's start
        if self._loader.check_event(yaml.StreamEndEvent):
            raise ScriptError(f"{self._name}:1: the script is empty; it needs `rules` or `otherwise`")
        self._loader.get_event()  # the document's start
        node = self._node("", 1)
        self._loader.get_event()  # and its end
        if not self._loader.check_event(yaml.StreamEndEvent):
            line = self._loader.peek_event().start_mark.line + 1
            raise ScriptError(f"{self._name}:{line}: a second document; a script is one")
        return node

    def _node(self, where: str, depth: int) -> _Node:
        import yaml

        event = self._loader.get_event()
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise self._error(line, where, "anchors and aliases are not allowed; write the value out")
        if depth > DEPTH_LIMIT:
            raise self._error(line, where, f"nested deeper than {DEPTH_LIMIT} levels")
        if isinstance(event, yaml.ScalarEvent):
            if event.tag is not None:
                raise self._error(line, where, f"tags such as {event.tag} are not allowed; drop it")
            tag = self._loader.resolve(yaml.ScalarNode, event.value, event.implicit)
            return _Node(line, where, self._scalar(tag, event.value, line, where))
        if event.tag is not None:
            raise self._error(line, where, f"tags such as {event.tag} are not allowed; drop it")
        if isinstance(event, yaml.SequenceStartEvent):
            entries: list[_Node] = []
            while not self._loader.check_event(yaml.SequenceEndEvent):
                entries.append(self._node(f"{where}[{len(entries) + 1}]", depth + 1))
            self._loader.get_event()
            return _Node(line, where, entries)
        mapping: dict[str, _Node] = {}
        lines: dict[str, int] = {}
        while not self._loader.check_event(yaml.MappingEndEvent):
            key = self._node(where, depth + 1)
            if key.value == "<<":
                raise self._error(key.line, where, "merge keys (<<) are not allowed; write the keys out")
            if not isinstance(key.value, str):
                raise self._error(key.line, where, "a key must be a plain word")
            if key.value in mapping:
                raise self._error(key.line, f"{where}.{key.value}".lstrip("."), "the key is given twice")
            lines[key.value] = key.line
            mapping[key.value] = self._node(f"{where}.{key.value}".lstrip("."), depth + 1)
        self._loader.get_event()
        return _Node(line, where, mapping, lines)

    def _scalar(self, tag: str, text: str, line: int, where: str) -> Any:
        match tag.rpartition(":")[2]:
            case "null":
                return None
            case "bool":
                return text.lower() in ("yes", "true", "on")
            case "int" if re.fullmatch(r"[-+]?[0-9]{1,15}", text):
                return int(text)
            case "float" if re.fullmatch(r"[-+]?[0-9]{1,15}\.[0-9]{1,15}", text):
                return float(text)
            case "int" | "float":  # 0x1f, 1_000, 10:30: numbers to YAML, hardly to the author
                raise self._error(line, where, f"YAML reads {text[:40]} as a number; put it in quotes")
        return text

    def _error(self, line: int, where: str, problem: str) -> ScriptError:
        return ScriptError(f"{self._name}:{line}: {where + ': ' if where else ''}{problem}")


_TRIGGERS = ("match", "contains", "equals", "payload")
_RICH = ("quickReplies", "card", "carousel", "datePicker", "listPicker", "form", "attachment")
_REPLY = ("text", "delay", "typing", *_RICH)
_ANSWER = ("reply", "replies", "delay", "typing", *_RICH, "handover", "disconnect")
#: What the parts of an answer may say, by the key they stand under.
PARTS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "quickReplies": (("text", "payload", "image"), ("title", "replies")),
    "card": (("title", "description", "image", "video", "actions", "defaultAction"), ("text", "payload", "url")),
    "datePicker": (("title", "subtitle", "image", "times", "min", "max", "format", "id"), ("at", "duration")),
    "listPicker": (
        ("title", "subtitle", "id", "reply", "multiple", "items", "sections"),
        ("title", "multiple", "items"),
        ("id", "title", "subtitle", "image"),
    ),
    "form": (
        ("id", "title", "subtitle", "image", "button", "summary", "received", "reply", "fields", "pages"),
        ("title", "subtitle", "fields"),
        ("id", "type", "title", "subtitle", "required", "placeholder", "keyboard", "autocomplete"),
    ),
    "attachment": (("url", "name", "type", "size", "text", "id"),),
    "handover": (("name",),),
}
_KEYBOARDS = ("Default", "Decimal", "Email", "Number", "NumberPunctuation", "Phone", "URL", "Websearch")
_DATE_FORMATS = ("dayMonthYear", "monthDayYear", "yearMonthDay")
_MEDIA = {"image": "Image", "audio": "Audio", "video": "Video"}
_ALWAYS_KNOWN = ("0", "text", "payload", "count")


class _Script:
    """Turns nodes into a bot; every complaint names file, line and key."""

    def __init__(self, name: str, delay: float) -> None:
        self._file = name
        self._delay = delay
        self._captures: tuple[str, ...] = _ALWAYS_KNOWN

    def bot(self, root: _Node) -> ScriptedBot:
        top = self._mapping(root, ("name", "delay", "greeting", "rules", "otherwise"))
        if not ({"rules", "otherwise", "greeting"} & top.keys()):
            raise self._error(root, "the script says nothing; it needs `rules`, `otherwise` or `greeting`")
        if "delay" in top:
            self._delay = self._seconds(top["delay"])
        greeting = self._answer(top["greeting"]) if "greeting" in top else BotAnswer()
        if greeting.handover is not None:
            raise self._error(top["greeting"], "a greeting cannot hand over; a rule can")
        entries = self._list(top["rules"]) if "rules" in top else []
        rules = [self._rule(number, node) for number, node in enumerate(entries, 1)]
        self._captures = _ALWAYS_KNOWN
        return ScriptedBot(
            greeting,
            rules,
            self._answer(top["otherwise"]) if "otherwise" in top else BotAnswer(),
            self._text(top["name"]) if "name" in top else None,
        )

    def _rule(self, number: int, node: _Node) -> Rule:
        keys = self._mapping(node, (*_TRIGGERS, "times", "after_handover", *_ANSWER))
        triggers = [key for key in _TRIGGERS if key in keys]
        if len(triggers) != 1:
            found = f"it has {' and '.join(triggers)}" if triggers else "it has none"
            raise self._error(node, f"a rule has exactly one of {', '.join(_TRIGGERS)}; {found}")
        trigger = triggers[0]
        wanted = self._text(keys[trigger])
        pattern = None
        self._captures = _ALWAYS_KNOWN
        if trigger == "match":
            try:
                pattern = re.compile(wanted, re.IGNORECASE)
            except (re.error, OverflowError, RecursionError) as error:
                raise self._error(keys[trigger], f"not a regular expression: {error}") from None
            self._captures += tuple(str(n) for n in range(1, pattern.groups + 1)) + tuple(pattern.groupindex)
        elif not wanted:
            raise self._error(keys[trigger], "is empty; use `otherwise` for everything")
        answer = self._answer(_Node(node.line, node.where, {k: v for k, v in keys.items() if k in _ANSWER}))
        times = self._whole(keys["times"], 1, 1_000_000) if "times" in keys else None
        after = self._truth(keys["after_handover"]) if "after_handover" in keys else None
        return Rule(number, trigger, wanted, pattern, answer, times, after)

    def _answer(self, node: _Node) -> BotAnswer:
        """An answer: a text, a list of replies, or a mapping with `reply`/`replies` and what goes with them."""
        if isinstance(node.value, list):
            return BotAnswer(tuple(self._reply(entry) for entry in self._list(node)))
        if not isinstance(node.value, dict):
            return BotAnswer((self._reply(node),))
        keys = self._mapping(node, _ANSWER)
        if "reply" in keys and "replies" in keys:
            raise self._error(keys["replies"], "give `reply` or `replies`, not both")
        if not keys:
            raise self._error(node, "does nothing; give `reply`, or `replies: []` for silence")
        own = {key: value for key, value in keys.items() if key in _REPLY}
        entries = [keys["reply"]] if "reply" in keys else []
        if "replies" in keys and (own or keys["replies"].value != []):
            entries = self._list(keys["replies"])
        replies = [self._reply(entry) for entry in entries[:-1]]
        if entries:
            last = entries[-1]
            if not isinstance(last.value, dict):
                last = _Node(last.line, last.where, {"text": last})
            for key in own.keys() & last.value.keys():
                raise self._error(own[key], f"the last reply has a `{key}` of its own")
            replies.append(self._reply(_Node(last.line, last.where, {**last.value, **own})))
        elif own:
            replies.append(self._reply(_Node(node.line, node.where, own)))
        handover = self._handover(keys["handover"]) if "handover" in keys else None
        disconnect = "disconnect" in keys and self._truth(keys["disconnect"])
        return BotAnswer(tuple(replies), handover, disconnect)

    def _handover(self, node: _Node) -> str:
        if isinstance(node.value, str):
            return self._text(node)
        keys = self._mapping(node, PARTS["handover"][0])
        return self._text(self._needed(node, keys, "name"))

    def _reply(self, node: _Node) -> BotReply:
        if not isinstance(node.value, dict):
            return BotReply(self._delay, False, self._template(node), ())
        keys = self._mapping(node, _REPLY)
        rich = [key for key in _RICH if key in keys]
        if len(rich) > 1:
            raise self._error(
                keys[rich[1]], f"a reply has one of {', '.join(_RICH)}; this one has {' and '.join(rich)}"
            )
        typing = "typing" in keys and self._truth(keys["typing"])
        if not rich and "text" not in keys and not typing:
            raise self._error(node, f"the reply says nothing; give `text` or one of {', '.join(_RICH)}")
        content = self._content(rich[0], keys[rich[0]]) if rich else ()
        self._check_references(node, content)
        text = self._template(keys["text"]) if "text" in keys else None
        usual = self._delay if rich or text is not None else 0.0  # typing alone comes at once
        return BotReply(self._seconds(keys["delay"]) if "delay" in keys else usual, typing, text, content)

    # The short forms. Each gives the wire's items with every field §6.4 marks * or †.

    def _content(self, key: str, node: _Node) -> Content:
        """Content items from their short form:

        quickReplies: [LABEL | {text, payload, image}, ...], or {title, replies: [...]} for one item with a title
        card: {title, description, image, video, actions: [LABEL | {text, payload} | {text, url}, ...], defaultAction}
        carousel: [card, ...]
        datePicker: {title, subtitle, image, times: [ISO | {at, duration}, ...], min, max, format, id}
        listPicker: {title, subtitle, id, reply: {title, subtitle}, multiple, items: [TITLE | {id, title, subtitle,
            image}, ...]} or, for several sections, sections: [{title, multiple, items}, ...]
        form: {id, title, subtitle, image, button, summary, received, reply, fields: [field, ...]} or, for several
            pages, pages: [{title, subtitle, fields}, ...]; field: {id, type: text|multiline|date|list|wheel, title,
            subtitle, required, placeholder, keyboard, autocomplete} and what a date or list picker takes
        attachment: URL or {url, name, type, size, text, id}
        """
        reader: Callable[[_Node], list[dict[str, Any]]] = {
            "quickReplies": self._quick_replies,
            "card": lambda node: [{"contentType": "Card", "card": self._card(node)}],
            "carousel": self._carousel,
            "datePicker": lambda node: [{"contentType": "DatePicker", "datePicker": self._date_picker(node)}],
            "listPicker": lambda node: [{"contentType": "ListPicker", "listPicker": self._list_picker(node)}],
            "form": self._form,
            "attachment": self._attachment,
        }[key]
        return tuple(reader(node))

    def _quick_replies(self, node: _Node) -> list[dict[str, Any]]:
        if isinstance(node.value, dict):
            keys = self._mapping(node, PARTS["quickReplies"][1])
            group = {
                "title": self._text(self._needed(node, keys, "title")),
                "actions": [one["quickReply"] for one in self._quick_replies(self._needed(node, keys, "replies"))],
            }
            return [{"contentType": "QuickReplyV2", "quickReplyV2": group}]
        items: list[dict[str, Any]] = []
        for entry in self._list(node):
            keys = self._short(entry, "text", PARTS["quickReplies"][0])
            text = self._text(self._needed(entry, keys, "text"))
            reply = {"text": text, "payload": self._text(keys["payload"]) if "payload" in keys else text}
            reply |= {"action": "Message", **self._optional(keys, {"image": "image"})}
            items.append({"contentType": "QuickReply", "quickReply": reply})
        return items

    def _card(self, node: _Node) -> dict[str, Any]:
        keys = self._mapping(node, PARTS["card"][0])
        card: dict[str, Any] = {
            "title": self._text(self._needed(node, keys, "title")),
            "description": self._text(keys["description"]) if "description" in keys else "",
            "actions": [self._card_action(entry) for entry in self._list(keys["actions"])] if "actions" in keys else [],
        }
        if "defaultAction" in keys:
            card["defaultAction"] = self._card_action(keys["defaultAction"])
        return card | self._optional(keys, {"image": "image", "video": "video"})

    def _card_action(self, node: _Node) -> dict[str, Any]:
        keys = self._short(node, "text", PARTS["card"][1])
        text = self._text(self._needed(node, keys, "text"))
        if "url" in keys:
            if "payload" in keys:
                raise self._error(node, "an action has a `url` (a link) or a `payload` (a button), not both")
            return {"type": "Link", "text": text, "url": self._text(keys["url"])}
        return {"type": "Postback", "text": text, "payload": self._text(keys["payload"]) if "payload" in keys else text}

    def _carousel(self, node: _Node) -> list[dict[str, Any]]:
        cards = [self._card(entry) for entry in self._list(node)]
        return [{"contentType": "Carousel", "carousel": {"cards": cards}}]

    def _date_picker(self, node: _Node, also: tuple[str, ...] = ()) -> dict[str, Any]:
        keys = self._mapping(node, (*PARTS["datePicker"][0], *also))
        picker: dict[str, Any] = {"title": self._text(self._needed(node, keys, "title"))}
        picker |= self._optional(keys, {"subtitle": "subtitle", "image": "imageUrl", "id": "id"})
        if "times" in keys:
            picker["availableTimes"] = [self._slot(entry) for entry in self._list(keys["times"])]
        for key, wire in (("min", "dateMinimum"), ("max", "dateMaximum")):
            if key in keys:
                picker[wire] = self._moment(keys[key])
        if "format" in keys:
            picker["dateDisplayFormat"] = self._choice(keys["format"], _DATE_FORMATS)
        return picker

    def _slot(self, node: _Node) -> dict[str, Any]:
        keys = self._short(node, "at", PARTS["datePicker"][1])
        duration = self._seconds(keys["duration"], 31 * 86_400.0) if "duration" in keys else 3600.0
        return {"dateTime": self._moment(self._needed(node, keys, "at")), "duration": round(duration)}

    def _list_picker(self, node: _Node) -> dict[str, Any]:
        keys = self._mapping(node, PARTS["listPicker"][0])
        title = self._text(self._needed(node, keys, "title"))
        received = {"title": title, **self._optional(keys, {"subtitle": "subtitle"})}
        reply = {"title": title, "subtitle": title}
        if "reply" in keys:
            words = self._short(keys["reply"], "subtitle", ("title", "subtitle"))
            reply |= self._optional(words, {"title": "title", "subtitle": "subtitle"})
        picker = {"sections": self._sections(node, keys, title), "receivedMessage": received, "replyMessage": reply}
        return picker | self._optional(keys, {"id": "id"})

    def _sections(self, node: _Node, keys: Mapping[str, _Node], title: str) -> list[dict[str, Any]]:
        if ("items" in keys) == ("sections" in keys):
            raise self._error(node, "give `items`, or `sections` with items of their own")
        if "items" in keys:
            return [self._section(title, keys)]
        if "multiple" in keys:
            raise self._error(keys["multiple"], "with `sections` this belongs into each of them")
        sections = []
        for entry in self._list(keys["sections"]):
            inner = self._mapping(entry, PARTS["listPicker"][1])
            self._needed(entry, inner, "items")
            sections.append(self._section(self._text(self._needed(entry, inner, "title")), inner))
        return sections

    def _section(self, title: str, keys: Mapping[str, _Node]) -> dict[str, Any]:
        multiple = "multiple" in keys and self._truth(keys["multiple"])
        return {"title": title, "multipleSelection": multiple, "items": self._items(keys["items"])}

    def _items(self, node: _Node, extra: str | None = None) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        allowed = ("id", "title", extra) if extra else PARTS["listPicker"][2]
        for entry in self._list(node):
            keys = self._short(entry, "title", allowed)
            title = self._text(self._needed(entry, keys, "title"))
            item = {"id": self._text(keys["id"]) if "id" in keys else _slug(title), "title": title}
            item |= self._optional(keys, {"subtitle": "subtitle", "image": "imageUrl", "value": "value"})
            if any(item["id"] == other["id"] for other in items):
                raise self._error(entry, f"a second item with the id {item['id']}; give it an `id` of its own")
            items.append(item)
        return items

    def _form(self, node: _Node) -> list[dict[str, Any]]:
        keys = self._mapping(node, PARTS["form"][0])
        title = self._text(self._needed(node, keys, "title"))
        button = self._text(keys["button"]) if "button" in keys else "Start"
        introduction = {"title": title, "buttonText": button}
        introduction |= self._optional(keys, {"subtitle": "subtitle", "image": "imageUrl"})
        if ("fields" in keys) == ("pages" in keys):
            raise self._error(node, "give `fields`, or `pages` with fields of their own")
        seen: set[str] = set()
        if "fields" in keys:
            pages = [self._page(title, "", keys["fields"], seen)]
        else:
            pages = []
            for entry in self._list(keys["pages"]):
                page = self._mapping(entry, PARTS["form"][1])
                subtitle = self._text(page["subtitle"]) if "subtitle" in page else ""
                name = self._text(self._needed(entry, page, "title"))
                pages.append(self._page(name, subtitle, self._needed(entry, page, "fields"), seen))
        form = {
            "cannedResponseId": self._text(keys["id"]) if "id" in keys else str(uuid5(NAMESPACE_URL, f"form:{title}")),
            "introduction": introduction,
            "formPages": pages,
            "showSummary": "summary" in keys and self._truth(keys["summary"]),
            "receivedMessage": {"title": self._text(keys["received"]) if "received" in keys else title},
            "replyMessage": {"title": self._text(keys["reply"]) if "reply" in keys else title},
        }
        return [{"contentType": "Form", "form": form}]

    def _page(self, title: str, subtitle: str, fields: _Node, seen: set[str]) -> dict[str, Any]:
        components = [self._field(entry, seen) for entry in self._list(fields)]
        return {"title": title, "subtitle": subtitle, "pageComponents": components}

    def _field(self, node: _Node, seen: set[str]) -> dict[str, Any]:
        given = node.value if isinstance(node.value, dict) else {}
        kinds = ("text", "multiline", "date", "list", "wheel")
        kind = self._choice(given["type"], kinds) if "type" in given else "text"
        identifier = self._text(self._needed(node, given, "id")) if isinstance(node.value, dict) else ""
        if identifier in seen:
            raise self._error(node, f"a second field with the id {identifier}")
        seen.add(identifier)
        rest = _Node(node.line, node.where, {key: entry for key, entry in given.items() if key != "type"})
        rest.key_lines = node.key_lines
        if kind == "date":
            return {"formComponentType": "DatePicker", "datePicker": self._date_picker(rest)}
        if kind == "list":
            return {"formComponentType": "ListPicker", "listPicker": self._list_picker(rest)}
        if kind == "wheel":
            keys = self._mapping(rest, ("id", "items"))
            items = self._items(self._needed(rest, keys, "items"), "value")
            return {"formComponentType": "WheelPicker", "wheelPicker": {"id": identifier, "items": items}}
        allowed = tuple(key for key in PARTS["form"][2] if key != "type")
        keys = self._mapping(rest if isinstance(node.value, dict) else node, allowed)
        field = {
            "id": identifier,
            "isRequired": "required" in keys and self._truth(keys["required"]),
            "isMultipleLine": kind == "multiline",
            "keyboardType": self._choice(keys["keyboard"], _KEYBOARDS) if "keyboard" in keys else "Default",
        }
        names = {"title": "title", "subtitle": "subtitle", "placeholder": "placeholderText"}
        field |= self._optional(keys, names | {"autocomplete": "autoCompleteType"})
        return {"formComponentType": "Input", "input": field}

    def _attachment(self, node: _Node) -> list[dict[str, Any]]:
        from mimetypes import guess_type
        from urllib.parse import unquote, urlsplit

        keys = self._short(node, "url", PARTS["attachment"][0])
        url = self._text(self._needed(node, keys, "url"))
        try:
            path = urlsplit(url).path
        except ValueError:
            raise self._error(node, "not a URL") from None
        name = self._text(keys["name"]) if "name" in keys else unquote(path.rpartition("/")[2])
        if not name:
            raise self._error(node, "the URL has no file name; add `name`")
        mime = self._text(keys["type"]) if "type" in keys else guess_type(name)[0]
        attachment: dict[str, Any] = {
            "id": self._text(keys["id"]) if "id" in keys else str(uuid5(NAMESPACE_URL, f"{url} {name}")),
            "mediaType": _MEDIA.get((mime or "").partition("/")[0], "File"),
            "url": url,
            "filename": name,
        }
        if mime:
            attachment["mime"] = mime
        if "size" in keys:
            attachment["fileSize"] = self._whole(keys["size"], 0, 1 << 40)
        attachment |= self._optional(keys, {"text": "text"})
        return [{"contentType": "Attachment", "attachment": attachment}]

    # Single values.

    def _mapping(self, node: _Node, allowed: Sequence[str]) -> dict[str, _Node]:
        if not isinstance(node.value, dict):
            raise self._error(node, f"must be a mapping; its keys are {', '.join(allowed)}")
        for key, entry in node.value.items():
            if key not in allowed:
                line = node.key_lines.get(key, entry.line)
                near = did_you_mean(key, allowed)
                raise ScriptError(
                    f"{self._file}:{line}: {entry.where}: unknown key; known are {', '.join(allowed)}{near}"
                )
        return dict(node.value)

    def _short(self, node: _Node, key: str, allowed: Sequence[str]) -> dict[str, _Node]:
        """A mapping, or a plain value that stands for its main key."""
        return self._mapping(node, allowed) if isinstance(node.value, dict) else {key: node}

    def _needed(self, node: _Node, keys: Mapping[str, _Node], key: str) -> _Node:
        if key not in keys:
            raise self._error(node, f"misses `{key}`")
        return keys[key]

    def _list(self, node: _Node) -> list[_Node]:
        if not isinstance(node.value, list):
            raise self._error(node, "must be a list")
        if not node.value:
            raise self._error(node, "is an empty list")
        return node.value

    def _optional(self, keys: Mapping[str, _Node], names: Mapping[str, str]) -> dict[str, Any]:
        return {wire: self._text(keys[key]) for key, wire in names.items() if key in keys}

    def _text(self, node: _Node) -> str:
        if not isinstance(node.value, str):
            found = {bool: "true or false", int: "a number", float: "a number", dict: "a mapping", list: "a list"}
            what = found.get(type(node.value), "nothing")
            hint = "; put it in quotes" if isinstance(node.value, bool | int | float) else ""
            raise self._error(node, f"must be text and is {what}{hint}")
        return node.value

    def _template(self, node: _Node) -> str:
        text = self._text(node)
        self._check_references(node, text)
        return text

    def _check_references(self, node: _Node, value: Any) -> None:
        if isinstance(value, list | tuple):
            for entry in value:
                self._check_references(node, entry)
        elif isinstance(value, dict):
            for entry in value.values():
                self._check_references(node, entry)
        elif isinstance(value, str):
            slip = re.search(r"(?<!\$)\$\{[A-Za-z_][\w.]*(?![\w.]|\})", value)
            if slip is not None:
                raise self._error(node, f"{slip[0]} is not closed; a literal is $${{")
            for found in REFERENCE.finditer(value):
                name = found[2]
                if not found[1] and not (name.startswith("attr.") and len(name) > 5) and name not in self._captures:
                    known = ", ".join((*self._captures, "attr.KEY"))
                    raise self._error(
                        node, f"${{{name}}} is unknown here; known are {known}{did_you_mean(name, self._captures)}"
                    )

    def _truth(self, node: _Node) -> bool:
        if not isinstance(node.value, bool):
            raise self._error(node, "must be true or false")
        return node.value

    def _whole(self, node: _Node, low: int, high: int) -> int:
        if not isinstance(node.value, int) or isinstance(node.value, bool) or not low <= node.value <= high:
            raise self._error(node, f"must be a whole number from {low} to {high}")
        return node.value

    def _seconds(self, node: _Node, longest: float = _LONGEST) -> float:
        value = node.value
        if isinstance(value, str):
            try:
                value = parse_duration(value)
            except ValueError:
                value = None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= longest:
            raise self._error(node, f"must be a time such as 1s, 500ms or 2m, at most {longest:g} s")
        return float(value)

    def _moment(self, node: _Node) -> str:
        try:
            return rfc3339(epoch_of(self._text(node)))
        except (ValueError, OverflowError, OSError) as error:
            if isinstance(error, ScriptError):
                raise
            raise self._error(node, "must be a time such as 2026-03-09T08:00:00Z") from None

    def _choice(self, node: _Node, choices: Sequence[str]) -> str:
        text = self._text(node)
        if text not in choices:
            raise self._error(node, f"{text!r} is not one of {', '.join(choices)}{did_you_mean(text, choices)}")
        return text

    def _error(self, node: _Node, problem: str) -> ScriptError:
        return ScriptError(f"{self._file}:{node.line}: {node.where + ': ' if node.where else ''}{problem}")


def _slug(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower()).strip("-") or "item"
