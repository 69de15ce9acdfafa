"""What a load test does, as one value that every process of the test gets.

Knows: the members of a plan, and how they travel to another process. Must not know: Locust, the command line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from guestctl.core.model import Profile, Retry, Secret

#: The think time of scripts without one, in seconds.
DEFAULT_THINK = 1.0
#: Seconds of one slot in the charts; a longer test has longer slots.
SLOT, MOST_SLOTS = 1.0, 600
#: Share of throttled attempts at which a test stops, in the last `THROTTLE_WINDOW` seconds, of at least so many
#: attempts.
THROTTLED, THROTTLE_WINDOW, THROTTLE_ATTEMPTS = 0.05, 30.0, 20
#: Seconds that guests have to end their conversations when the test stops.
STOP_TIMEOUT = 5.0


@dataclass(frozen=True)
class LoadPlan:
    """One load test. `script` is the path of a check script or a locustfile; `ramp` is in guests per second; `seconds`
    is the duration and `conversations` how many conversations end it, None for no limit. `role` is that of the process:
    `local` runs guests by itself, `master` leads workers and `worker` runs guests for the master at `host` and `port`.
    `workers` is how many workers the master waits for.
    """

    script: str
    profile: Profile
    guests: int = 1
    ramp: float = 1.0
    seconds: float | None = None
    conversations: int | None = None
    role: str = "local"
    workers: int = 0
    host: str = "127.0.0.1"
    port: int = 0
    wait: float = 30.0
    variables: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    slot: float = SLOT

    @property
    def is_locustfile(self) -> bool:
        return self.script.endswith(".py")

    def text(self) -> str:
        """Return the plan as one line of JSON. It contains the secrets of the profile."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        values["profile"] = {name: _plain(getattr(self.profile, name)) for name in Profile.__dataclass_fields__}
        return json.dumps(values)

    @classmethod
    def read(cls, text: str) -> LoadPlan:
        """Return the plan of a line that `text` returned."""
        values = json.loads(text)
        profile = {name: _value(name, value) for name, value in values["profile"].items()}
        return cls(**{**values, "profile": Profile(**profile), "tags": tuple(values["tags"])})


def slot_of(seconds: float | None) -> float:
    """Return the length of a slot for a test of this duration."""
    return SLOT if seconds is None else max(SLOT, seconds / MOST_SLOTS)


def _plain(value: Any) -> Any:
    if isinstance(value, Secret):
        return {"secret": value.reveal()}
    if isinstance(value, Retry):
        return asdict(value)
    return dict(value) if isinstance(value, Mapping) else value


def _value(name: str, value: Any) -> Any:
    if name == "retry":
        return Retry(**value)
    if name in {"client_secret", "ai_key"} and value is not None:
        return Secret(value["secret"])
    return value
