"""The customer: the turns of one step, with the model as the writer and guestctl as the one that decides.

Knows: when a turn begins and ends, and why a conversation ends. Must not know: YAML, the wire, reports.

guestctl decides whatever needs no model: whether `until` is met, how many turns there are, whether a text picks an
option, whether the bot is silent, and whether the service has ended the conversation. No word in a text of the bot
ends anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

from guestctl.checks.ai.conversation_data import NumberedMessage, is_invisible
from guestctl.checks.ai.customer_faults import fault_in, gave_up
from guestctl.checks.ai.evidence import NotOneObject, json_object
from guestctl.checks.ai.masking import Masking
from guestctl.checks.ai.model_calls import ConversationCalls
from guestctl.checks.ai.model_client import ModelAnswer, ModelRequest
from guestctl.checks.ai.plans import REPLAY_PATIENCE, CustomerPlan
from guestctl.checks.ai.prompts import customer_request
from guestctl.checks.ai.verdict_failures import CustomerFailed
from guestctl.core.model import Message

#: Why listening after a message of the customer ended.
TurnEnd: TypeAlias = Literal["met", "replied", "silent", "ended"]


class GoalMissed(Exception):
    """The bot did not do what the step expects. `what`: in one line."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class CustomerGuest(Protocol):
    """What the customer needs of the running scenario."""

    def send(self, text: str) -> None:
        """Send a message. A text that is an option of the bot's last message picks it."""

    def replies(self) -> Sequence[Message]:
        """Return the replies since the step began."""

    def numbered(self) -> list[NumberedMessage]:
        """Return the whole conversation, without secrets."""

    def next_event(self, until: float) -> bool:
        """Handle one event. Return False when `until` (monotonic) has come, or nothing can come any more."""

    def ended_at(self) -> float | None:
        """Return when (monotonic) the service ended the conversation, None if it did not."""

    def now(self) -> float:
        """Return the monotonic time."""

    def until(self, seconds: float) -> float:
        """Return the monotonic time when these seconds, or the scenario's time, are over."""

    def seconds_left(self) -> float | None:
        """Return the seconds that the scenario has left, None without a limit."""


class Customer:
    """One step `customer`. `plan` is filled; `wait`: seconds within which the bot must answer."""

    def __init__(
        self, plan: CustomerPlan, guest: CustomerGuest, calls: ConversationCalls, masking: Masking, wait: float
    ) -> None:
        self._plan = plan
        self._shown = plan.hidden(masking.hide)
        self._guest = guest
        self._calls = calls
        self._masking = masking
        self._wait = wait

    def run(self, after_end: float) -> None:
        """Take the turns. Raises GoalMissed, CustomerFailed, and what a model call raises.

        `after_end`: seconds to listen after the end of a conversation.
        """
        for turn in range(1, self._plan.turns + 1):
            text = self._next_text(turn)
            if text is None:
                return
            self._guest.send(text)
            end = self._listen(turn, after_end)
            if end == "met":
                return
            if end == "ended":
                self._missed("the service ended the conversation before a reply met `until`")
                return
            if end == "silent":
                raise GoalMissed(f"the bot did not answer the customer within {self._wait:g} s")
        self._missed(f"no reply met `until` in {self._plan.turns} turn{'s' * (self._plan.turns != 1)}")

    def _missed(self, what: str) -> None:
        """Raise the failure of a conversation that ended before `until` was met. Without `until`, any end will do."""
        if self._plan.until is None:
            return
        if (fault := gave_up(self._shown, self._guest.numbered())) is not None:
            raise CustomerFailed(f"the customer failed: {fault}")
        raise GoalMissed(what)

    # --- what the customer writes ---

    def _next_text(self, turn: int) -> str | None:
        """Return the next message; None if the customer has nothing left to say and need not go on."""
        if turn == 1 and self._plan.opening is not None:
            return self._plan.opening
        messages = self._guest.numbered()
        request = self._request(turn)
        answer = self._calls.ask(request, self._guest.seconds_left())
        text = self._text_of(answer)
        if text is None or self._is_stop_phrase(text):
            if self._plan.until is not None:
                raise CustomerFailed("the customer failed: it gave up before a reply met `until`")
            return None
        if (fault := fault_in(text, self._shown, messages)) is not None:
            raise CustomerFailed(f"the customer failed: {fault}: {_excerpt(text)}")
        return self._masking.reveal(text, "\n".join(self._shown.texts()))

    def _request(self, turn: int) -> ModelRequest:
        return customer_request(self._shown, self._guest.numbered(), self._calls.settings, turn=turn)

    def _text_of(self, answer: ModelAnswer) -> str | None:
        """Return the message in an answer, None for `stop`. Raises CustomerFailed for anything else."""
        if answer.refused:
            raise CustomerFailed("the customer failed: the model refused to answer")
        if answer.cut:
            raise CustomerFailed("the customer failed: its answer was cut off at the limit of tokens")
        try:
            found = json_object(answer.text)
        except NotOneObject as error:
            why = "it wrote nothing" if not answer.text.strip() else f"its answer cannot be read: {error}"
            raise CustomerFailed(f"the customer failed: {why}") from None
        if "say" not in found and isinstance(found.get("stop"), str):
            return None
        text = found.get("say")
        if not isinstance(text, str) or "stop" in found:
            raise CustomerFailed("the customer failed: its answer has neither `say` nor `stop`")
        return sanitised(text)

    def _is_stop_phrase(self, text: str) -> bool:
        """Return whether the whole message is a phrase with which the customer of the tester ends its part."""
        bare = text.strip().strip(".!\"'").casefold()
        return bare in {phrase.strip().casefold() for phrase in self._plan.stop_phrases}

    # --- what the bot answers ---

    def _listen(self, turn: int, after_end: float) -> TurnEnd:
        """Listen until the bot's turn is complete."""
        guest, plan = self._guest, self._plan
        before = len(guest.replies())
        limit = guest.until(self._wait)
        silence = plan.silence * (REPLAY_PATIENCE if self._calls.replaying else 1)
        seen, quiet = before, limit
        while True:
            replies = guest.replies()
            if plan.until is not None and any(plan.until.met_by(reply) for reply in replies[before:]):
                return "met"
            if len(replies) > seen:
                seen, quiet = len(replies), min(limit, guest.until(silence))
                if self._is_next_recorded(turn):
                    return "replied"
            ended = guest.ended_at()
            until = quiet if ended is None else min(quiet, ended + after_end)
            if not guest.next_event(until):
                if len(guest.replies()) > seen:
                    continue
                if guest.ended_at() is not None:
                    return "ended"
                return "replied" if seen > before else "silent"

    def _is_next_recorded(self, turn: int) -> bool:
        """Return whether a replay knows the next call: then no further message of the bot has to be waited for."""
        if not self._calls.replaying or turn == self._plan.turns:
            return False
        return self._calls.is_recorded(self._request(turn + 1))


def sanitised(text: str) -> str:
    """Return a text of a model without control and invisible characters, as a message that can be sent."""
    # A space takes its place, because without it two parts could join into something that neither of them is.
    kept = (char if char == "\n" or not is_invisible(char) else " " for char in text)
    return "".join(kept).strip()


def _excerpt(text: str) -> str:
    return f'"{text[:120]}{"…" if len(text) > 120 else ""}"'
