"""The settings of a sandbox.

Knows: every setting, its default and bounds, and the bot and the faults that the settings ask for. Must not know:
sockets, conversations, the wire of any API.
"""

from __future__ import annotations

import math
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from guestctl.core.suggestions import did_you_mean

if TYPE_CHECKING:
    from guestctl.core.clock import Clock
    from guestctl.sandbox.bot.bots import Bot
    from guestctl.sandbox.faults import Faults

REFRESH_STYLES = ("guest-refresh", "guest-token")
KEYS = ("returned", "withheld")
#: The hosts of the service below the domain of a region (web-messaging.md §1.2).
SERVICE_HOSTS = ("webmessaging", "api", "api-cdn", "login")
_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


class OptionError(ValueError):
    """A setting has an invalid value; the text is one line."""


#: The APIs of the sandbox, in the order in which it lists them. `apis.APIS` implements them.
API_NAMES = (
    "web-messaging",
    "guest-sessions",
    "external-contacts",
    "conversation-guests",
    "messaging-conversations",
    "guests",
    "webmessaging-conversations",
)


@dataclass(frozen=True)
class SandboxOptions:
    """The settings of one sandbox (contract.md §7). Raises OptionError for an invalid value.

    Times are in seconds. `api` is the API that `-p sandbox` uses. All APIs are always served.
    """

    port: int = 0  # 0: the system chooses a free port
    host: str = "127.0.0.1"
    api: str = "web-messaging"
    script: Path | None = None  # YAML of the scripted bot; None: the echo bot
    agent: bool = False  # a person answers; without a script there is no bot
    faults: tuple[str, ...] = ()  # fault specs (contract.md §7)
    state: Path | None = None  # SQLite file that outlives the process; None: in memory
    tls: bool = False
    fast: bool = False  # no rate limits, and the bot answers at once except for delays in its script
    token_life: float | None = None  # None: the default of each API
    refresh_style: str | None = None  # None: serve both
    origins: tuple[str, ...] = ()  # allowed domains; empty: all
    domain: str | None = None  # serve the hosts of a region with this domain, too
    keys: str = "withheld"  # or returned: history and pushed messages show the client key of a guest's message
    deduplicates: str = "no"  # or yes: store a client key once in its conversation
    answers: str = "full"  # or published: create and send answer with the published members only
    unknown_deployment: str = "answered"  # or refused: what a socket for an unknown deployment gets (§2.4)
    strict_attributes: bool = False  # ignore customAttributes in the legacy place (web-messaging.md §5.5)
    bot_delay: float = 0.6  # between the echo of a message and the bot's reply, unless a script sets another

    auto_start: bool = False
    typing: bool = True
    clear: bool = True
    sign_in: bool = False  # guests may sign in, at the start or later (§7.2, §10.9)
    disconnect: str = "ReadOnly"  # or Send: what an ended conversation still allows (§10.6)
    session_life: float = 259_200.0
    idle_timeout: float = 600.0  # for sockets; 0: no timeout (§2.5)
    socket_life: float = 7_200.0  # 0: no limit
    head_timeout: float = 30.0  # for the head of a request, and for idle connections
    body_timeout: float = 60.0  # for the body of a request
    frame_limit: int = 32 * 1024  # bytes of one frame from a guest
    message_limit: int = 128 * 1024
    text_limit: int = 4096  # characters (§9)
    attributes_limit: int = 2048  # bytes of keys and values (§5.5)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise OptionError(f"port {self.port} is not between 0 and 65535")
        _one_of("api", self.api, API_NAMES)
        if self.refresh_style is not None:
            _one_of("refresh style", self.refresh_style, REFRESH_STYLES)
        _one_of("keys", self.keys, KEYS)
        _one_of("deduplicates", self.deduplicates, ("yes", "no"))
        _one_of("answers", self.answers, ("full", "published"))
        _one_of("unknown deployment", self.unknown_deployment, ("answered", "refused"))
        _one_of("disconnect", self.disconnect, ("Send", "ReadOnly"))
        if self.domain is not None and not (len(self.domain) < 230 and _DOMAIN.fullmatch(self.domain)):
            raise OptionError(f'domain "{self.domain}" is not a host name in lower case')
        if self.token_life is not None and not (math.isfinite(self.token_life) and self.token_life > 0):
            raise OptionError(f"token life {self.token_life:g} s is not above 0")
        if not (math.isfinite(self.session_life) and self.session_life > 0):
            raise OptionError(f"session life {self.session_life:g} s is not above 0")
        for name in ("bot_delay", "idle_timeout", "socket_life"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise OptionError(f"{name.replace('_', ' ')} {value:g} s is below 0")

    @property
    def domain_hosts(self) -> tuple[str, ...]:
        """Return the host names of the region with the domain of the settings, empty without one."""
        return tuple(f"{name}.{self.domain}" for name in SERVICE_HOSTS) if self.domain is not None else ()

    def make_bot(self) -> Bot:
        """Return the bot for these settings. Raises script.ScriptError for an invalid or unreadable script."""
        from guestctl.sandbox.bot.bot_script import SCRIPT_LIMIT, ScriptError, load
        from guestctl.sandbox.bot.bots import EchoBot, QuietBot

        delay = 0.0 if self.fast else self.bot_delay
        if self.script is not None:
            try:
                # Opening a pipe waits for its writer, and no signal interrupts that.
                if not stat.S_ISREG(self.script.stat().st_mode):
                    raise ScriptError(f"{self.script}: not a regular file")
                with self.script.open("rb") as file:
                    script = file.read(SCRIPT_LIMIT + 1)
            except OSError as error:
                raise ScriptError(f"{self.script}: cannot be read: {error.strerror}") from None
            return load(script, str(self.script), delay=delay)
        return QuietBot() if self.agent else EchoBot(delay)

    def make_faults(self, clock: Clock) -> Faults:
        """Return the faults of these settings, armed. Raises faults.FaultError."""
        from guestctl.sandbox.faults import Faults

        faults = Faults(clock)
        for spec in self.faults:
            faults.add(spec)
        return faults


def _one_of(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value in choices:
        return
    raise OptionError(f'unknown {what} "{value}"; choose one of {", ".join(choices)}{did_you_mean(value, choices)}')
