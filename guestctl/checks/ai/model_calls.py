"""The model calls of a script: asked, recorded or replayed, within the budgets.

Knows: which of a server and a directory answers, the budget of the script and of each scenario. Must not know: what is
asked, what an answer means.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from guestctl.checks.ai.budget import CallBudget, CallGate, ModelUsage
from guestctl.checks.ai.model_client import ModelAddress, ModelAnswer, ModelClient, ModelRequest
from guestctl.checks.ai.plans import AiSettings
from guestctl.checks.ai.recordings import Recorder, Recordings, canonical, digest
from guestctl.core.clock import Clock, Deadline
from guestctl.core.errors import UsageError
from guestctl.core.model import Profile
from guestctl.core.values import Json
from guestctl.transport.network import Observer


class ModelCalls:
    """What all scenarios of a script share. With `recordings` there is no client, and no connection to a model."""

    def __init__(
        self,
        settings: AiSettings,
        *,
        clock: Clock,
        client: ModelClient | None,
        recorder: Recorder | None = None,
        recordings: Recordings | None = None,
        name: str = "the script",
    ) -> None:
        assert (client is None) != (recordings is None), "either a server answers or a directory"
        self.settings = settings
        self.clock = clock
        self.client = client
        self.recorder = recorder
        self.recordings = recordings
        self.gate = CallGate()
        self.budget = CallBudget(name, settings.run)

    def conversation(self, place: Mapping[str, Json]) -> ConversationCalls:
        """Return the calls of one conversation. `place` identifies it among the recordings."""
        return ConversationCalls(self, place)


class ConversationCalls:
    """The calls of one conversation, with what they have used."""

    def __init__(self, shared: ModelCalls, place: Mapping[str, Json]) -> None:
        self._shared = shared
        self._place = dict(place)
        self._budget = CallBudget("the scenario", shared.settings.scenario)
        self._asked: Counter[str] = Counter()

    @property
    def settings(self) -> AiSettings:
        return self._shared.settings

    @property
    def usage(self) -> ModelUsage:
        return self._budget.used

    @property
    def replaying(self) -> bool:
        """Whether the answers come from recordings."""
        return self._shared.recordings is not None

    def is_recorded(self, request: ModelRequest) -> bool:
        """Return whether a replay knows this call."""
        assert self._shared.recordings is not None
        return self._shared.recordings.has(self._placed(request))

    def ask(self, request: ModelRequest, seconds: float | None = None) -> ModelAnswer:
        """Return the answer, within `seconds` and the budgets. Raises a Failure."""
        placed = self._placed(request)
        shared = self._shared
        deadline = Deadline.after(shared.clock, shared.settings.timeout).sooner(seconds)
        with shared.gate.passed((shared.budget, self._budget), request.most_tokens) as result:
            if shared.recordings is not None:
                answer = shared.recordings.answer(placed)
            else:
                assert shared.client is not None
                answer = shared.client.complete(request, deadline)
            result.tokens, result.seconds = answer.tokens, answer.seconds
        if shared.recorder is not None:
            shared.recorder.store(placed, answer)
        self._asked[digest(canonical(request))] += 1
        return answer

    def _placed(self, request: ModelRequest) -> ModelRequest:
        """Return the request with the conversation it belongs to. Equal calls of a conversation are counted."""
        count = self._asked[digest(canonical(request))] + 1
        role = {"role": request.parts.get("role")}
        parts = {**role, **self._place, "call": count, **request.parts}
        return replace(request, parts=parts)


def calls_for(
    name: str,
    settings: AiSettings,
    profile: Profile,
    *,
    clock: Clock,
    environ: Mapping[str, str],
    observer: Observer | None = None,
    recorder: Recorder | None = None,
    recordings: Recordings | None = None,
) -> ModelCalls:
    """Return the calls of a script with the profile's address and key. Raises UsageError (config.key).

    `name` is the script, as errors name it.
    """
    if settings.model is None:
        settings = replace(settings, model=profile.ai_model)
    if settings.model is None:
        raise UsageError(
            f"{name}: no model for the AI steps",
            code="config.key",
            hint="write `ai: {model: NAME}` in the script, or set GUESTCTL_AI_MODEL",
        )
    client = None
    if recordings is None:
        if profile.ai_base_url is None:
            raise UsageError(
                f"{name}: no address of a model for the AI steps",
                code="config.key",
                hint="set `ai: {base_url: URL}` in the profile, or GUESTCTL_AI_BASE_URL; --model-replay needs none",
            )
        address = ModelAddress(profile.ai_base_url, profile.ai_key)
        client = ModelClient(address, clock, environ, observer)
    return ModelCalls(settings, clock=clock, client=client, recorder=recorder, recordings=recordings, name=name)
