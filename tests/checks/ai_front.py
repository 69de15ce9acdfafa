"""The front door for AI checks: a bot, a fake model, scripts in; stdout, stderr, exit code and requests out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guestctl.core.clock import Clock
from guestctl.sandbox.bot.bot_script import load as load_bot
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from tests.checks.model_server import KEY, Asked, FakeModel, completion, say, serving, verdict
from tests.cli.conftest import Front, Result
from tests.ports import lasting_port

#: A bot that asks for the number and the postcode, and then names a day.
PARCEL_BOT = """\
rules:
  - match: "parcel\\\\?$"
    reply: Which parcel number is it?
  - contains: "4711"
    reply: Thank you. And the postcode?
  - contains: "10115"
    reply: Parcel 4711 arrives on Monday.
  - contains: bye
    reply: Goodbye!
otherwise: Sorry?
"""

CUSTOMER = """\
    - customer:
        persona: Impatient, short lower-case sentences.
        goal: Learn on which day parcel 4711 arrives.
        knows: {parcel: "4711", postcode: "10115"}
        opening: where is my parcel?
        until: {contains: arrives}
        turns: 6
        silence: 40ms
"""
JUDGE = """\
    - judge:
        criteria: [The bot named a day of arrival.]
        never: [The bot asked for the postcode twice.]
        votes: 3
        silence: 20ms
"""
HEAD = "ai: {model: small}\nscenarios:\n"


def script(*steps: str, name: str = "Finds out when the parcel comes", head: str = HEAD) -> str:
    return f'{head}  "{name}":\n' + "".join(steps)


def good_customer(asked: Asked) -> str:
    """Answer what the bot asks."""
    last = asked.conversation[-1]["text"]
    return say("10115" if "postcode" in last else "it is 4711")


def good_judge(asked: Asked) -> str:
    """Find the day, and no second question for the postcode."""
    if asked.statement["criterion"].startswith("n"):
        return verdict("no", criterion=asked.statement["criterion"])
    days = [one["id"] for one in asked.conversation if "Monday" in one["text"] and one["from"] == "bot"]
    return verdict("yes" if days else "no", days)


def good(asked: Asked) -> str:
    return good_judge(asked) if asked.is_judge else good_customer(asked)


@dataclass
class AiBench:
    """One bot and one fake model. `check` writes a script and runs it."""

    room: Path
    sandbox: Sandbox
    model: FakeModel
    environ: Mapping[str, str]

    def front(self, clock: Clock | None = None) -> Front:
        return Front(self.environ, self.room) if clock is None else Front(self.environ, self.room, clock=clock)

    def check(
        self, text: str, *options: str, file: str = "talk.yaml", clock: Clock | None = None, **more: Any
    ) -> Result:
        (self.room / file).write_text(text, encoding="utf-8")
        return self.front(clock)("check", str(self.room / file), "--timeout", "10s", *options, **more)

    def record(self, text: str, *options: str, **more: Any) -> tuple[Result, dict[str, Any]]:
        """Return the result and the record of a run."""
        result = self.check(text, "-o", "json", *options, **more)
        return result, result.record


Bench = Callable[..., AiBench]


def benches(room: Path) -> Iterator[Bench]:
    """Yield the function that starts a bot and a model."""
    with ExitStack() as stack:

        def start(answer: Callable[[Asked], Any] = good, bot: str = PARCEL_BOT, **settings: Any) -> AiBench:
            scripted = load_bot(bot, "bot.yaml", delay=0.0)
            sandbox = Sandbox(SandboxOptions(fast=True, port=lasting_port(), **settings), bot=scripted)
            stack.callback(sandbox.stop)
            sandbox.start()
            model = stack.enter_context(serving(answer))
            environ = {
                "GUESTCTL_PROFILE": "sandbox",
                "GUESTCTL_SANDBOX_URL": sandbox.url,
                "GUESTCTL_SANDBOX_LIMITS": "none",
                "GUESTCTL_STATE": str(room / "state"),
                "XDG_CONFIG_HOME": str(room / "config"),
                "GUESTCTL_AI_BASE_URL": model.base_url,
                "GUESTCTL_AI_KEY": KEY,
            }
            return AiBench(room, sandbox, model, environ)

        yield start


__all__ = ["CUSTOMER", "HEAD", "JUDGE", "AiBench", "Bench", "benches", "completion", "good", "script"]
