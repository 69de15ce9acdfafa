"""How a person names an option, and how a form is filled in (web-messaging.md §5.4, §6.4).

Knows: numbers, labels, payloads and dates as people write them; which items may be picked together; the fields of
a form. Must not know: frames, sessions, the command line. Each UsageError lists the available options.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime

from guestctl.core.clock import epoch_of, rfc3339
from guestctl.core.errors import UsageError
from guestctl.core.model import FormField, Message, Option, Outgoing
from guestctl.core.values import Json, objects, text_of
from guestctl.dialects.features import RichContent
from guestctl.dialects.web_messaging.content import date_slots, list_items


class WebContent(RichContent):
    """The options and forms in web-messaging messages, and the answers to them."""

    def answer(
        self, outgoing: Outgoing, message: Message, pick: Sequence[str | int], form: Mapping[str, Json] | None
    ) -> Outgoing | None:
        return answer(outgoing, message, pick, form)

    def form_fields(self, message: Message) -> tuple[FormField, ...]:
        return form_fields(message)

    def history_omits(self, message: Message) -> bool:
        """Return True for forms and QuickReplyV2, which §7.1 does not list among the content in history."""
        kinds = {item.get("contentType") for item in message.content if isinstance(item, dict)}
        return message.direction == "outbound" and not message.attachments and bool(kinds & {"Form", "QuickReplyV2"})


_PICK_HINT = "pick one of these by its number, label or payload"
_FORM_HINT = "run `guestctl history --last 5 -o table` to see the form and its fields"
#: Maximum number of options listed in an error.
_MOST_LISTED = 30


def answer(
    outgoing: Outgoing, message: Message, pick: Sequence[str | int], form: Mapping[str, Json] | None
) -> Outgoing | None:
    """Return `outgoing` as the answer to `message`, or None if the message has no options or no form.

    Each value of `pick` is a label, a payload, a number (from 1), or a date if the message asks for one. Several
    values must be items of one list. `form` maps a field's id or title to one value or a list of values. If
    `outgoing` has no text, the answer has the text that the message suggests. Raises UsageError for an option or a
    field that the message does not have.
    """
    if form is not None:
        found = _inner(message, "form")
        if found is None:
            return None
        text = outgoing.text or text_of(_reply(found), "title")
        return replace(outgoing, text=text, form=_submission(message, found, form), picks_from=message.id)
    if not message.options and _free_date(message) is None:
        return None
    picks = _together(message, [picked(message, wanted) for wanted in pick])
    lists = _inner(message, "listPicker") if picks[0].kind == "ListPicker" else None
    text = outgoing.text or (text_of(_reply(lists), "subtitle") if lists is not None else "")
    return replace(outgoing, text=text, picks=picks, picks_from=message.id)


def picked(message: Message, wanted: str | int) -> Option:
    """Return the option that `wanted` names; an int is its place, from 1.

    Raises UsageError that lists the available options, also if several options have this label or payload.
    """
    names = [(option.text, option.payload) for option in message.options]
    found = _place(wanted, len(names)) if isinstance(wanted, int) else _named(names, wanted)
    if found is not None:
        return message.options[found]
    wanted = str(wanted)
    slots = [option for option in message.options if option.kind == "DatePicker"]
    slot = _slot(slots, wanted)
    if slot is not None:
        return slot
    picker = _free_date(message)
    if picker is not None:
        when = _any_date(picker, wanted)
        if when is not None:
            return Option(when[0], when[1], "DatePicker", group=text_of(picker, "title") or None)
    offered = _listed([option.text for option in message.options])
    if picker is not None:
        offered = ", ".join(part for part in (offered, _dates(picker)) if part)
    raise UsageError(f'no option "{wanted}"; available: {offered}', code="usage.option", hint=_PICK_HINT)


def form_fields(message: Message) -> tuple[FormField, ...]:
    """Return the fields of the form in a message, page by page; empty if it has no form."""
    form = _inner(message, "form")
    return () if form is None else tuple(field for field, _ in _fields(form))


# --- picks ---


def _together(message: Message, picks: Sequence[Option]) -> tuple[Option, ...]:
    """Return each pick once. Raises UsageError if one answer cannot carry them together."""
    chosen = tuple(dict.fromkeys(picks))
    kinds = {option.kind for option in chosen}
    if "Link" in kinds:
        raise UsageError(
            "a link cannot be picked: it opens in a browser and sends nothing", code="usage.option", hint=_PICK_HINT
        )
    if len(chosen) > 1 and kinds != {"ListPicker"}:
        raise UsageError("only items of one list can be picked together", code="usage.option", hint=_PICK_HINT)
    if kinds == {"ListPicker"}:
        pickers = [item["listPicker"] for item in objects(list(message.content)) if "listPicker" in item]
        holding = [p for p in objects(pickers) if {o.payload for o in chosen} <= {o.payload for o in list_items(p)}]
        if not holding:
            raise UsageError("only items of one list can be picked together", code="usage.option", hint=_PICK_HINT)
        _check_single_selection(holding[0], {option.payload for option in chosen})
    return chosen


def _check_single_selection(picker: Mapping[str, Json], chosen: set[str]) -> None:
    for section in objects(picker.get("sections")):
        here = [entry for entry in objects(section.get("items")) if text_of(entry, "id") in chosen]
        if len(here) > 1 and section.get("multipleSelection") is not True:
            title = text_of(section, "title")
            raise UsageError(f'only one item of "{title}" can be picked', code="usage.option", hint=_PICK_HINT)


def _place(number: int, count: int) -> int | None:
    return number - 1 if 1 <= number <= count else None


def _named(offered: Sequence[tuple[str, str]], wanted: str) -> int | None:
    """Return the index of the (label, payload) that is meant: exactly, else ignoring case, else by its place.

    Raises UsageError if several options that are not the same have this label or payload.
    """
    for exact in (str, str.casefold):
        found = [index for index, names in enumerate(offered) if exact(wanted) in map(exact, names)]
        if len({offered[index] for index in found}) > 1:
            choices = ", ".join(f'{index + 1} "{offered[index][0]}" ({offered[index][1]})' for index in found)
            raise UsageError(
                f'"{wanted}" names several options: {choices}',
                code="usage.option",
                hint="pick one by its payload, or by its place: --pick-number N",
                delivery="not_sent",
            )
        if found:
            return found[0]
    return _place(int(wanted), len(offered)) if wanted.isascii() and wanted.isdigit() and len(wanted) < 7 else None


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _MOST_LISTED} more" if len(texts) > _MOST_LISTED else ""
    return ", ".join(f'{n} "{text}"' for n, text in enumerate(texts[:_MOST_LISTED], 1)) + more


# --- dates ---


def _moment(text: str) -> float | None:
    """Return the epoch seconds of an ISO 8601 date and time, or None. Without a zone, it is local time."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.timestamp() if moment.tzinfo is None else epoch_of(text)
    except (ValueError, OverflowError, OSError):
        pass
    try:
        return epoch_of(text)
    except (ValueError, OverflowError, OSError):
        return None


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text) if len(text) == 10 else None
    except ValueError:
        return None


def _slot(slots: Sequence[Option], wanted: str) -> Option | None:
    """Return the fixed time that matches a time, or the only one on a (local) day."""
    day, moment = _day(wanted), _moment(wanted)
    times = [(slot, _moment(slot.payload)) for slot in slots]
    if day is not None:
        fitting = [slot for slot, at in times if at is not None and datetime.fromtimestamp(at).date() == day]
        return fitting[0] if len(fitting) == 1 else None
    return next((slot for slot, at in times if moment is not None and at == moment), None)


def _free_date(message: Message) -> Mapping[str, Json] | None:
    """Return the first date picker in a message, if it accepts any date."""
    picker = _inner(message, "datePicker")
    return None if picker is None or any(date_slots(picker)) else picker


def _any_date(picker: Mapping[str, Json], wanted: str) -> tuple[str, str] | None:
    """Return text and payload of a date within the picker's bounds, else None. A day stands for its midnight in UTC."""
    day, moment = _day(wanted), _moment(wanted)
    if moment is None:
        return None
    payload = f"{day}T00:00:00.000Z" if day is not None else rfc3339(moment)
    least, most = text_of(picker, "dateMinimum"), text_of(picker, "dateMaximum")
    if day is not None:
        inside = (not least or least[:10] <= str(day)) and (not most or str(day) <= most[:10])
        return (str(day), payload) if inside else None
    earliest, latest = _moment(least), _moment(most)
    inside = (earliest is None or earliest <= moment) and (latest is None or moment <= latest)
    return (payload, payload) if inside else None


def _dates(picker: Mapping[str, Json]) -> str:
    least, most = text_of(picker, "dateMinimum")[:10], text_of(picker, "dateMaximum")[:10]
    bounds = "".join(f" {word} {bound}" for word, bound in (("from", least), ("to", most)) if bound)
    return f"any date{bounds}, such as 2026-03-09 or 2026-03-09T08:00:00Z"


# --- forms ---


def _submission(message: Message, form: Mapping[str, Json], given: Mapping[str, Json]) -> dict[str, Json]:
    fields = list(_fields(form))
    known = {name for field, _ in fields for name in (field.id, field.title) if name}
    for name in given:
        if name not in known:
            there = ", ".join(field.id for field, _ in fields) or "none"
            raise UsageError(f'the form has no field "{name}"; available: {there}', hint=_FORM_HINT)
    response = []
    for field, inner in fields:
        value = given.get(field.id, given.get(field.title))
        values = [str(one) for one in (value if isinstance(value, list) else [value]) if one not in (None, "")]
        if not values:
            if field.required:
                title = field.title or "no title"
                raise UsageError(f'the form requires the field "{field.id}" ({title})', hint=_FORM_HINT)
            continue
        for text, payload in _filled(field, inner, values):
            button = {"type": "Form", "text": text, "payload": payload}
            response.append({"id": field.id, "component": {"contentType": "ButtonResponse", "buttonResponse": button}})
    submission: dict[str, Json] = {"originatingMessageId": message.id, "response": response}
    if "cannedResponseId" in form:
        submission["cannedResponseId"] = form["cannedResponseId"]
    return submission


def _filled(field: FormField, inner: Mapping[str, Json], values: Sequence[str]) -> list[tuple[str, str]]:
    """Return text and payload of each value of one field. Raises UsageError for a value that the field rejects."""
    if len(values) > 1 and not field.several:
        raise UsageError(f'form field "{field.id}" takes one value, not {len(values)}', hint=_FORM_HINT)
    if field.kind == "date" and not field.items:
        found = _any_date(inner, values[0])
        if found is None:
            raise UsageError(f'form field "{field.id}": "{values[0]}" is not {_dates(inner)}', hint=_FORM_HINT)
        return [found]
    if not field.items:
        return [(values[0], values[0])]
    indexes = [_index(field, value) for value in dict.fromkeys(values)]
    chosen = [field.items[index] for index in dict.fromkeys(indexes)]
    if field.kind == "list":
        _check_single_selection(inner, {payload for _, payload in chosen})
    return chosen


def _index(field: FormField, value: str) -> int:
    found = _named(field.items, value)
    if found is None and field.kind == "date":
        slots = [Option(text, payload, "DatePicker") for text, payload in field.items]
        slot = _slot(slots, value)
        found = slots.index(slot) if slot is not None else None
    if found is None:
        offered = _listed([title for title, _ in field.items])
        raise UsageError(f'form field "{field.id}": no option "{value}"; available: {offered}', hint=_FORM_HINT)
    return found


def _fields(form: Mapping[str, Json]) -> Iterator[tuple[FormField, Mapping[str, Json]]]:
    """Return each field with its component on the wire."""
    for page in objects(form.get("formPages")):
        for component in objects(page.get("pageComponents")):
            for key in ("input", "datePicker", "listPicker", "wheelPicker"):
                inner = component.get(key)
                if isinstance(inner, dict) and text_of(inner, "id"):
                    yield _field(key, inner, text_of(page, "title")), inner


def _field(key: str, inner: Mapping[str, Json], page: str) -> FormField:
    title = text_of(inner, "title") or page
    if key == "input":
        lines = inner.get("isMultipleLine") is True
        required = inner.get("isRequired") is True
        return FormField(text_of(inner, "id"), title, "lines" if lines else "line", required)
    if key == "datePicker":
        slots = tuple((option.text, option.payload) for option in date_slots(inner))
        return FormField(text_of(inner, "id"), title, "date", items=slots)
    if key == "wheelPicker":
        items = tuple((text_of(item, "title"), text_of(item, "id")) for item in objects(inner.get("items")))
        return FormField(text_of(inner, "id"), title, "wheel", items=items)
    received = inner.get("receivedMessage")
    title = (text_of(received, "title") if isinstance(received, dict) else "") or title
    sections = list(objects(inner.get("sections")))
    several = len(sections) > 1 or any(section.get("multipleSelection") is True for section in sections)
    offered = tuple((option.text, option.payload) for option in list_items(inner))
    return FormField(text_of(inner, "id"), title, "list", items=offered, several=several)


# --- content ---


def _inner(message: Message, key: str) -> Mapping[str, Json] | None:
    """Return the first content item of a kind."""
    found = next((item[key] for item in objects(list(message.content)) if isinstance(item.get(key), dict)), None)
    return found if isinstance(found, dict) else None


def _reply(source: Mapping[str, Json]) -> Mapping[str, Json]:
    reply = source.get("replyMessage")
    return reply if isinstance(reply, dict) else {}
