"""What a model never sees: the values of masked variables, tokens and keys.

Knows: how a secret becomes a mark, and a mark the secret again. Must not know: which variables are secret, prompts.

A customer who knows a PIN must be able to send it to the bot. The model writes the mark `[[pin]]`, and guestctl
replaces the mark on this machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from guestctl.core.redact import Redactor


class Masking:
    """Replaces secrets in what is sent to a model. `secrets`: name of the variable -> its value, of any length."""

    def __init__(self, redactor: Redactor, secrets: Mapping[str, str]) -> None:
        self._redactor = redactor
        self._marks = {value: f"[[{name}]]" for name, value in secrets.items() if value}
        self._values = {mark: value for value, mark in self._marks.items()}
        longest_first = sorted(self._marks, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def hide(self, text: str) -> str:
        """Return a text without any secret."""
        if self._pattern is not None:
            text = self._pattern.sub(lambda found: self._marks[found[0]], text)
        return self._redactor.text(text)

    def reveal(self, text: str, given: str) -> str:
        """Return a text of the customer with the secrets in place of their marks.

        `given` is what the customer was given. Marks that are not in it stay: a bot may have written them.
        """
        for mark, value in self._values.items():
            if mark in given:
                text = text.replace(mark, value)
        return text
