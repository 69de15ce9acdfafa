"""How long the client waits in each situation, as one value that is passed to `Client`.

Knows: the defaults, in seconds. Must not know: where they are used, any clock, any API.

Tests and the fault harness pass shorter times instead of patching modules.
"""

from __future__ import annotations

from guestctl.core.values import immutable


@immutable
class Timings:
    """The client's own waits in seconds. They do not include the waits that an API prescribes."""

    # --- requests and credentials ---

    lock_patience: float = 5.0
    """How long a request is repeated while another connection locks the session (other-apis.md, "guest-sessions")."""

    lag_patience: float = 5.0
    """How long history is read again while it lags behind what the service has reported."""

    lag_pause: float = 0.25
    """Pause between two reads of a lagging history."""

    early_renewal: float = 5.0
    """Limit for one renewal of a token that is still valid."""

    early_renewal_share: float = 0.25
    """The same limit, as a share of the time that the command has left. The smaller of the two applies."""

    early_renewal_pause: float = 15.0
    """Pause before a failed early renewal is tried again."""

    renewal: float = 15.0
    """Limit for a renewal that a request waits for, when the command has no deadline."""

    # --- the socket ---

    ping_interval: float = 9.5
    """How long a socket may be quiet before the client sends a ping."""

    heartbeat_interval: float = 240.0
    """Time between two application heartbeats."""

    # --- sending ---

    settling_reserve: float = 5.0
    """Part of a send's time limit that is reserved for looking up a message in doubt in history."""

    settling_pause: float = 1.0
    """Pause between two reads of history that do not show a message in doubt."""

    reply_silence: float = 0.5
    """How long no other message may arrive before `ask` considers the reply complete."""

    # --- listening ---

    stable_connection: float = 10.0
    """How long a connection must last before the count of reconnects starts again."""

    tick: float = 0.5
    """The longest time for which `listen` does not return control to its caller."""

    look_min: float = 0.25
    """Pause after the first read of history that lacks something which the service has stored. It grows."""

    look_max: float = 30.0
    """The longest such pause."""

    quiet_look: float = 2.0
    """Pause after the first read of history when nothing shows that it lags. It grows."""

    quiet_look_max: float = 120.0
    """The longest such pause."""

    page_pause: float = 0.1
    """Pause between two requests for history after a reconnect."""

    fill_deadline: float = 10.0
    """How long a live message waits for a history that does not show it, before a gap is reported."""

    second_look: float = 2.0
    """Pause after a read of history that failed, and before the last read when the session has ended."""

    poll_min: float = 0.5
    """Time between two polls of an API without a socket while messages arrive."""

    poll_max: float = 5.0
    """The same while nothing arrives."""

    # --- order ---

    quiet_window: float = 0.001
    """How long a message is held for an earlier one while the stream is in order."""

    late_window: float = 2.0
    """The same, at most, after messages arrived out of order."""

    missing_window: float = 1.0
    """How long a message is held while the sequence number before it is missing."""
