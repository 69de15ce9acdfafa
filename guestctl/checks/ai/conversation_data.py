"""What a model sees of a conversation: numbered messages as data between marks that no text can close.

Knows: how a message becomes one line of JSON, and which characters are escaped. Must not know: prompts, models,
clients.

The ids are `m1`, `m2` and so on, in the order of the conversation, because the service's ids differ from run to run.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from guestctl.core.values import Json

#: Characters of a message that a model sees; the rest is cut off.
SHOWN_LENGTH = 4000

_PLAIN = re.compile(r"[ -;=?-~]*")

#: Characters that are drawn as nothing although they are letters, marks or symbols: those that Unicode calls
#: Default_Ignorable_Code_Point, and the empty Braille pattern.
_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)


@dataclass(frozen=True)
class NumberedMessage:
    """One message. `sender` is customer, bot, agent, system or service; `more` are the lines of cards and files."""

    id: str
    sender: str
    text: str
    options: tuple[str, ...] = ()
    more: tuple[str, ...] = ()

    def members(self) -> dict[str, Json]:
        """Return the message as the members of its line."""
        found: dict[str, Json] = {"id": self.id, "from": self.sender, "text": self.text[:SHOWN_LENGTH]}
        if len(self.text) > SHOWN_LENGTH:
            found["cut"] = True
        if self.options:
            found["options"] = list(self.options)
        if self.more:
            found["more"] = list(self.more)
        return found


def block(mark: str, lines: Iterable[Json]) -> str:
    """Return values as lines of JSON between `<mark>` and `</mark>`. No value can contain either of them."""
    return "\n".join([f"<{mark}>", *(line(value) for value in lines), f"</{mark}>"])


def conversation(messages: Sequence[NumberedMessage]) -> str:
    """Return a conversation as a block."""
    return block("conversation", (message.members() for message in messages))


def line(value: Json) -> str:
    """Return a value as one line of JSON without angle brackets, look-alikes of them, and invisible characters."""
    text = json.dumps(value, ensure_ascii=False, separators=(", ", ": "))
    # Everything but letters in strings is ASCII punctuation of JSON, so each escaped character stands in a string.
    return text if _PLAIN.fullmatch(text) else "".join(map(_escaped, text))


def _escaped(char: str) -> str:
    if char not in "<>\x7f" and (char.isascii() or not _is_doubtful(char)):
        return char
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))


def is_invisible(char: str) -> bool:
    """Return whether a character is drawn as nothing or controls how others are drawn. A space is visible."""
    return unicodedata.category(char) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} or _BLANK.match(char) is not None


def _is_doubtful(char: str) -> bool:
    """Return whether a character is invisible, or looks like an angle bracket."""
    return is_invisible(char) or char in _BRACKETS or not {"<", ">"}.isdisjoint(unicodedata.normalize("NFKC", char))


#: Characters that are drawn like angle brackets and have no compatible form among ASCII.
_BRACKETS = frozenset("‹›〈〉《》〈〉⟨⟩⟪⟫❬❭❮❯❰❱⧼⧽˂˃ᐸᐳ≺≻⪡⪢≪≫«»⦑⦒⋖⋗˱˲ᚲ")
