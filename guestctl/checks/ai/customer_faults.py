"""When the customer of a test, and not the bot, is at fault.

Knows: what a customer must not write, as far as it can be decided without a model. Must not know: clients, models,
the wire.

The phrases are those of English, with a few of other languages. A fault that they do not contain is not found:
`docs/ai-checks.md` states how to measure that with your own model.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

from guestctl.checks.ai.conversation_data import NumberedMessage
from guestctl.checks.ai.plans import CustomerPlan

#: The longest message of a customer, in characters.
LONGEST_MESSAGE = 600
#: How alike two messages are that count as the same, from 0 to 1.
_ALIKE = 0.9

_FAREWELL = re.compile(
    r"\b(good ?bye|bye|see you (soon|later|around|then|next)|take care|farewell|cheerio|ciao|"
    r"have a (very )?(nice|good|great|lovely|wonderful|pleasant) "
    r"(day|one|evening|afternoon|morning|weekend|night|time)|"
    r"(that('s| is| was|s)|that will be|that'll be) (all|everything|it)\b( for (now|today))?|"
    r"no (further|more|other) questions|nothing (else|more|further)|i('m| am) (all set|done|good now)|"
    r"thank(s| you)( so much| very much| a lot)? for (your|the|all|everything)|"
    r"i('ve| have)( got)? (all|everything|what) i need(ed)?|i('m| am) leaving( now)?|"
    r"(gotta|i have to|i must) go( now)?|"
    r"never ?mind|(talk|speak|write) to you (soon|later|again)|until next time|"
    r"tsch(ü|ue)ss|auf wiedersehen|sch(ö|oe)nen tag|au revoir|bonne journ(é|e)e|adi(ó|o)s|hasta luego|"
    r"arrivederci|tot ziens)\b|\bsee (you|ya)\W*$",
    re.IGNORECASE,
)
_OTHER_ROLE = re.compile(
    r"^\s*(bot|agent|assistant|support|customer (service|support)|chatbot|system|ai)\s*:|"
    r"\n\s*(bot|agent|assistant|support|customer|user|guest|system)\s*:|"
    r"\b(how|what|where) (can|may|could|might) (i|we) (help|assist|do for|be of)|"
    r"\b(can|may|could|shall|should) (i|we) (help|assist) (you|with)|"
    r"anything else (that )?(i|we) (can|could|may) (help|do|assist)|"
    r"\b(i('m| am|'d be| would be)|we('re| are)) (here|happy|glad|pleased|delighted) to "
    r"(help|assist|hear|inform|tell you)|"
    r"\b(as|i('m| am)) an? (ai|a\.i\.|language model|large language model|virtual|automated|digital) ?(assistant|agent|"
    r"model|system)?\b|\bi('m| am) (your|the) (virtual |digital |automated |support )?(assistant|agent|bot|chatbot|"
    r"representative)\b|thank(s| you) for (contacting|reaching out|calling|choosing|your "
    r"(patience|order|enquiry|inquiry|"
    r"message|interest)|being a)|"
    r"\b(let me|i('ll| will|'m going to)|we('ll| will)) (check|look|look up|pull up|find|verify|locate|track|see) "
    r"(that |this |it |into |up |on )*(the status of )?(your|for you)|"
    r"\byour "
    r"(order|parcel|package|shipment|delivery|account|request|ticket|refund|appointment|case|booking|reservation) "
    r"(is|has|was|will|should|can|number is)\b|"
    r"\b(please|kindly|can you|could you|would you|may i|can i|could i|will you)( please)? "
    r"(provide|confirm|share|enter|give|send|tell|have|get|verify)( me| us)?( with)? your "
    r"(order|parcel|tracking|account|customer|postcode|post code|zip|postal|date of birth|booking|policy|invoice|"
    r"full name|shipping|delivery)\b|"
    r"\byour (order|parcel|package|shipment|delivery) (left|arrived|shipped|went|returned|got|could)\b|"
    r"\bwelcome to\b|\bdear (customer|valued)|\bvalued customer|\b(our|one of our) (agents?|team|colleagues|"
    r"representatives|records|systems?|database|warehouse|support)\b|"
    r"\bwe( sincerely| deeply| do)? (apologi[sz]e|regret|appreciate your|value your)\b|"
    r"\byou('re| are) (now )?(speaking|chatting|talking|connected) (with|to)\b|"
    r"\b(this|my name) is \w+ (from|with|of) (the |our )?(customer|support|service|parcel|delivery|help|care)\b|"
    r"\bwie kann ich (ihnen|dir) (weiter)?helfen|\bkann ich (ihnen|dir) (sonst|noch|weiter)",
    re.IGNORECASE,
)
#: A number or a code: letters and digits with at least one digit, in groups that are joined by one separator.
_CODE = re.compile(r"[^\W_]*\d[^\W_]*(?:[ .,:/\-][^\W_]*\d[^\W_]*)*")
_ORDINAL = re.compile(r"\d(st|nd|rd|th)")
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+")
_ADDRESS = re.compile(r"\bhttps?://\S+|\bwww\.\S+", re.IGNORECASE)
_MARK = re.compile(r"\[\[[^\[\]]*\]\]")
_GREETING = re.compile(r"^(hi|hello|hey|good (morning|afternoon|evening)|hallo|guten tag)\b[\s,.!-]*", re.IGNORECASE)


def fault_in(text: str, plan: CustomerPlan, messages: Sequence[NumberedMessage]) -> str | None:
    """Return what is wrong with a customer's next message, None for nothing."""
    if not text.strip():
        return "it wrote nothing"
    if len(text) > LONGEST_MESSAGE:
        return f"it wrote {len(text)} characters; a customer's message has at most {LONGEST_MESSAGE}"
    if re.search(r"</?(conversation|customer|facts)>", text) or '{"id"' in text:
        return "it left its role: it repeated the form of its instructions"
    if _OTHER_ROLE.search(text) or _echoes_the_bot(text, messages):
        return "it left its role: it wrote what the company would write"
    if (invented := invented_in(text, plan, messages)) is not None:
        return f'it invented a fact: "{invented}" is not in `knows` and not in the conversation'
    own = [message.text for message in messages if message.sender == "customer"]
    if _is_farewell(text) and own and _is_farewell(own[-1]):
        return "it gave up: it said goodbye twice"
    return _repetition(text, plan, messages)


def gave_up(plan: CustomerPlan, messages: Sequence[NumberedMessage]) -> str | None:
    """Return how the customer ended a conversation that did not reach its goal, None if the bot may be at fault."""
    own = [message.text for message in messages if message.sender == "customer"]
    if not own:
        return None
    if _is_farewell(own[-1]):
        return "it gave up: it said goodbye before the goal was reached"
    repeated = any(same(own[-1], earlier) for earlier in own[:-1])
    return "it repeated itself" if repeated and not _answers_again(own[-1], plan, messages) else None


def _repetition(text: str, plan: CustomerPlan, messages: Sequence[NumberedMessage]) -> str | None:
    own = [message.text for message in messages if message.sender == "customer"]
    before = [number for number, earlier in enumerate(own) if same(text, earlier)]
    if not before:
        return None
    if before[0] == 0 and len(own) > 1:
        return "it started the conversation again"
    if _answers_again(text, plan, messages):
        return None
    # A bot that greets first, or asks again, may need to read the same text a second time.
    if len(before) > 1 or (len(_words(text)) > 3 and before[-1] != len(own) - 1):
        return "it repeated itself"
    return None


def _answers_again(text: str, plan: CustomerPlan, messages: Sequence[NumberedMessage]) -> bool:
    """Return whether a repetition can be the fault of a bot that repeats itself or asks for a fact again."""
    known = text.casefold()
    return _bot_loops(messages) or any(value.casefold() in known for value in plan.knows.values() if value)


def _bot_loops(messages: Sequence[NumberedMessage]) -> bool:
    """Return whether the bot's last message is one that it has sent before: then a repetition answers a repetition."""
    said = [message.text for message in messages if message.sender != "customer"]
    return bool(said) and any(same(said[-1], earlier) for earlier in said[:-1])


def _echoes_the_bot(text: str, messages: Sequence[NumberedMessage]) -> bool:
    if len(_words(text)) < 4:
        return False
    offered = {option.casefold() for message in messages for option in message.options}
    if text.strip().casefold() in offered:
        return False
    return any(same(text, message.text) for message in messages if message.sender != "customer")


def invented_in(text: str, plan: CustomerPlan, messages: Iterable[NumberedMessage]) -> str | None:
    """Return the first number, code, e-mail or web address that the customer cannot know; None without one."""
    given = [plan.goal, plan.persona, plan.prompt or "", plan.opening or "", *plan.knows.values()]
    given += [part for one in messages for part in (one.text, *one.options, *one.more)]
    known = _ascii_digits("\n".join(given)).casefold()
    codes = {_squeezed(part) for found in _CODE.findall(known) for part in (found, *re.split(r"[ .,:/\-]", found))}
    codes |= {_squeezed(_ascii_digits(value).casefold()) for value in plan.knows.values()}
    marks = set(_MARK.findall("\n".join(plan.texts())))
    own = _MARK.sub(lambda found: " " if found[0] in marks else found[0], _ascii_digits(text))
    for pattern in (_EMAIL, _ADDRESS):
        for found in pattern.finditer(own):
            if found[0].casefold().rstrip(".,;:!?)") not in known:
                return found[0]
    for found in _CODE.finditer(own):
        whole = found[0].casefold()
        if _squeezed(whole) in codes:
            continue
        for part in re.split(r"[ .,:/\-]", whole):
            if len(part) > 1 and part not in codes and not _ORDINAL.fullmatch(part):
                return found[0]
    return None


def _squeezed(text: str) -> str:
    return re.sub(r"[\W_]", "", text)


def _ascii_digits(text: str) -> str:
    """Return a text whose digits of any script are ASCII."""
    return "".join(
        char if char.isascii() or not char.isdecimal() else str(unicodedata.decimal(char))
        for char in unicodedata.normalize("NFKC", text)
    )


def _is_farewell(text: str) -> bool:
    return "?" not in text and _FAREWELL.search(text) is not None


def same(one: str, other: str) -> bool:
    """Return whether two messages say the same, apart from a greeting, case and punctuation."""
    a, b = " ".join(_words(one)), " ".join(_words(other))
    if a == b:
        return True
    return min(len(a), len(b)) > 12 and SequenceMatcher(None, a, b, autojunk=False).ratio() >= _ALIKE


def _words(text: str) -> list[str]:
    found = re.findall(r"\w+", _GREETING.sub("", text.strip()).casefold())
    return found or re.findall(r"\w+", text.casefold())
