"""Every literal wire example from the service's side: it accepts the requests and answers in the shape shown.

Knows: plain requests, plain websocket-client, the sandbox's settings and its admin endpoint. Must not know: the
client. Everything is sent exactly as written in `tests/wire`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests
import websocket

from guestctl.sandbox.server import Sandbox
from tests.client_keys import RETURNED
from tests.examples import Answer, Example, Json, Step, everything, fill, form, match

PATIENCE = 5.0
#: Seconds to wait for a frame that must not arrive.
QUIET = 0.05
#: Defaults below the example's own settings: no greeting, and no delay.
OPTIONS: Mapping[str, Any] = {"fast": True, "agent": True}

EXAMPLES = [example for example in everything() if not example.client_only]


def refused(frame: Json) -> bool:
    """Return whether a frame is a refusal, in any API."""
    if not isinstance(frame, dict):
        return False
    code = frame.get("code")
    if isinstance(code, int) and code >= 300:
        return True
    return frame.get("class") == "GenerateUrlError" or str(frame.get("type")).lower() == "error"


class Rehearsal:
    """One example, performed against a sandbox of its own.

    `refusals` lists requests that were not answered as written, `shapes` answers of another shape, `accepted` the
    damaged requests that should have been refused.
    """

    def __init__(self, example: Example, folder: Path, *, spoil: bool = False) -> None:
        self.example = example
        self.refusals: list[str] = []
        self.shapes: list[str] = []
        self.accepted: list[str] = []
        self._spoil = spoil
        self._names: dict[str, Json] = {}
        self._sockets: dict[str, websocket.WebSocket] = {}
        self._stack = ExitStack()
        self._door: Mapping[str, Json] | None = None
        self._sandbox = self._stack.enter_context(
            Sandbox(**{**RETURNED, "unknown_deployment": "refused", **self._settings(folder)})
        )

    def _settings(self, folder: Path) -> dict[str, Any]:
        given = self.example.setting
        settings = {**OPTIONS, **given.get("options", {})}
        for name in ("origins", "faults"):
            if name in settings:
                settings[name] = tuple(settings[name])
        if "script" in given:
            script = folder / "script.yaml"
            script.write_text(given["script"], encoding="utf-8")
            settings["script"] = script
        if "deployment" in given:
            overlay = {name: tuple(v) if isinstance(v, list) else v for name, v in given["deployment"].items()}
            settings["deployment"] = overlay
        return settings

    def run(self) -> Rehearsal:
        self._names |= {
            "rest": self._sandbox.url,
            "socket": "ws" + self._sandbox.url[4:],
            "deployment": self._sandbox.deployment_id,
        }
        with self._stack:
            for step in self.example.prelude:
                self._perform(step, judged=False)
            for step in self.example.steps:
                self._perform(step, judged=True)
            for name, socket in self._sockets.items():
                left = self._receive(socket, QUIET)
                if left is not None:
                    self.shapes.append(f"{self.example.name}: {name} also hears {left}")
            sessions = self._sandbox.call(self._sandbox.admin.sessions)["sessions"]
            complaints = [complaint for session in sessions for complaint in session["complaints"]]
            self.shapes += match(list(self.example.complaints), complaints, {}, at=(self.example.name, "complaints"))
        return self

    def _perform(self, step: Step, *, judged: bool) -> None:
        for operation, body in step.stage:
            self._behind_the_scenes(operation, body)
        socket = step.stranger or "own"
        spoiling = judged and self._spoil and not self._expects_refusal(step)
        if step.request is not None and step.request.get("upgrade"):
            self._connect_socket(socket, step, spoiling)
        elif step.request is not None:
            self._ask(step, spoiling)
        if step.frame is not None:
            self._say(socket, step, spoiling)
        for number, answer in enumerate(step.hears, 1):
            heard = self._receive(self._socket(socket), PATIENCE)
            where = f"{step.where}.hears[{number}]"
            if heard is None:
                self.refusals.append(f"{where}: nothing came")
                return
            if refused(heard) and not refused(fill_known(answer.body, self._names)):
                self.refusals.append(f"{where}: refused: {heard}")
            shape = self._shape(answer, heard)
            self.shapes += [f"{where}: {line}" for line in shape if judged]

    def _expects_refusal(self, step: Step) -> bool:
        if step.reply is not None and step.reply.status != 101 and (step.reply.status or 0) >= 300:
            return True
        return any(refused(fill_known(answer.body, self._names)) for answer in step.hears)

    # --- sending ---

    def _filled(self, value: Json) -> Json:
        """Return the value to send. What the guest chooses is the sample, or a new value."""
        return fill(value, _Choosing(self._names, self.example.samples))

    def _socket(self, name: str) -> websocket.WebSocket:
        if name not in self._sockets:
            assert self._door is not None, "no step has opened a socket yet"
            self._sockets[name] = self._connect(self._door)
        return self._sockets[name]

    def _connect(self, request: Mapping[str, Json]) -> websocket.WebSocket:
        headers = {name: str(value) for name, value in (request.get("headers") or {}).items()}
        origin = headers.pop("Origin", None)
        asked = requests.Request("GET", self._names["socket"].replace("ws", "http", 1) + request["path"])
        asked.params = request.get("query") or {}
        url = (asked.prepare().url or "").replace("http", "ws", 1)
        options = {"origin": origin} if origin else {"suppress_origin": True}
        socket = websocket.create_connection(url, timeout=PATIENCE, header=headers, **options)
        self._stack.callback(socket.shutdown)
        return socket

    def _connect_socket(self, name: str, step: Step, spoiling: bool) -> None:
        assert step.request is not None
        assert step.reply is not None
        request = self._filled(dict(step.request))
        if spoiling:
            for what, changed in step.corruptions(request):
                try:
                    self._connect(changed)
                except websocket.WebSocketBadStatusException:
                    continue
                self.accepted.append(f"{step.where}: {what}")
        try:
            self._sockets[name] = self._connect(request)
            self._door, status, body, headers = request, 101, b"", {}
        except websocket.WebSocketBadStatusException as error:
            status, body, headers = error.status_code, error.resp_body or b"", dict(error.resp_headers or {})
        self._judge(step, status, headers, body)

    def _ask(self, step: Step, spoiling: bool) -> None:
        assert step.request is not None
        request = self._filled(dict(step.request))
        if spoiling:
            for what, changed in step.corruptions(request):
                if self._http(changed).status_code < 400:
                    self.accepted.append(f"{step.where}: {what}")
        answer = self._http(request)
        self._judge(step, answer.status_code, answer.headers, answer.content)

    def _http(self, request: Mapping[str, Json]) -> requests.Response:
        content = request.get("content")
        url = request.get("url") or self._names["rest"] + request["path"]
        assert url.startswith(self._names["rest"] + "/"), f"{url} is not the sandbox's: it has not said this address"
        return requests.request(
            request["method"],
            url,
            params=request.get("query"),
            headers={name: str(value) for name, value in (request.get("headers") or {}).items()},
            json=request.get("json"),
            data=content.encode() if content is not None else request.get("form"),
            timeout=PATIENCE,
            allow_redirects=False,
        )

    def _say(self, name: str, step: Step, spoiling: bool) -> None:
        socket = self._socket(name)
        frame = self._filled(step.frame)
        if spoiling:
            for what, changed in step.corruptions(frame):
                socket.send(json.dumps(changed))
                heard = self._receive(socket, PATIENCE)
                if not refused(heard):
                    self.accepted.append(f"{step.where}: {what}: {heard}")
        socket.send(json.dumps(frame, ensure_ascii=False))

    def _behind_the_scenes(self, operation: str, body: Json) -> None:
        key = {"Authorization": f"Bearer {self._sandbox.admin_key}"}
        done = requests.post(f"{self._sandbox.admin_url}/{operation}", json=body or {}, headers=key, timeout=PATIENCE)
        assert done.status_code == 200, done.text

    # --- receiving ---

    def _receive(self, socket: websocket.WebSocket, patience: float) -> Json:
        socket.settimeout(patience)
        try:
            text = socket.recv()
        except websocket.WebSocketTimeoutException:
            return None
        except websocket.WebSocketConnectionClosedException:
            return None
        return json.loads(text) if text else None

    def _judge(self, step: Step, status: int, headers: Mapping[str, str], body: bytes) -> None:
        assert step.reply is not None
        if status != step.reply.status:
            self.refusals.append(f"{step.where}: HTTP {status} instead of {step.reply.status}: {body[:300]!r}")
            return
        for name, value in step.reply.headers.items():
            found = match(value, headers.get(name), self._names)
            self.shapes += [f"{step.where}: header {name}: {line}" for line in found]
        if step.reply.text is not None:
            self.shapes += [f"{step.where}: {line}" for line in match(step.reply.text, body.decode(), self._names)]
        elif step.reply.body is not None:
            self.shapes += [f"{step.where}: {line}" for line in self._shape(step.reply, json.loads(body))]

    def _shape(self, answer: Answer, heard: Json) -> list[str]:
        """Return whether keys and constants are equal; where the service chooses a value, compare the form of the
        sample.
        """
        known = set(self._names)
        found = match(answer.body, heard, self._names, extra=answer.extra)
        for name in self._names.keys() - known:
            if name in self.example.samples:
                lines = form(self.example.samples[name], self._names[name])
                found += [f"${name}: {line}" for line in lines]
        return found


class _Choosing(dict[str, Json]):
    """The known names. A name that is not known yet is chosen when asked for, and known from then on."""

    def __init__(self, names: dict[str, Json], samples: Mapping[str, Json]) -> None:
        super().__init__(names)
        self._names = names
        self._samples = samples

    def __missing__(self, name: str) -> Json:
        self[name] = self._names[name] = self._samples.get(name, str(uuid4()))
        return self[name]


def fill_known(value: Json, names: Mapping[str, Json]) -> Json:
    """Replace the names that have values; leave the others as written."""

    class Known(dict[str, Json]):
        def __missing__(self, name: str) -> Json:
            return f"${name}"

    return fill(value, Known(names))


@cache
def rehearsed(example_id: str, folder: Path) -> Rehearsal:
    return Rehearsal(_named(example_id), folder).run()


def _named(example_id: str) -> Example:
    return next(example for example in EXAMPLES if example.id == example_id)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scripts")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.id)
def test_the_sandbox_accepts_the_example(example: Example, folder: Path) -> None:
    assert not rehearsed(example.id, folder).refusals


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.id)
def test_the_sandbox_answers_in_the_shape_of_the_example(example: Example, folder: Path) -> None:
    assert not rehearsed(example.id, folder).shapes


#: Damaged requests that the sandbox accepts. Strict: an entry is removed when the sandbox refuses it.
DEVIATIONS = {
    "web-messaging/files.announced": "errorsAsJson that is no boolean",
    "web-messaging/connect.unknown-deployment-on-the-socket": "an unknown deployment is answered on the socket",
}

SPOILABLE = [
    pytest.param(
        example,
        id=example.id,
        marks=[pytest.mark.xfail(reason=DEVIATIONS[example.id], strict=True)] if example.id in DEVIATIONS else [],
    )
    for example in EXAMPLES
    if any(step.corruptible() or step.typed for step in example.steps)
]


@pytest.mark.parametrize("example", SPOILABLE)
def test_the_sandbox_refuses_a_damaged_request_without_side_effects(example: Example, folder: Path) -> None:
    """Each damaged request is sent on a session that is then used as written: a refusal changes nothing."""
    rehearsal = Rehearsal(example, folder, spoil=True).run()
    assert not rehearsal.accepted
    assert not rehearsal.refusals
    assert not rehearsal.shapes
