"""A real `guestctl relay serve` in a process of its own, and plain HTTP and WebSocket clients as its readers.

Knows: how the relay is started, its ready object, SSE, JSON Lines. Must not know: guestctl's own client and relay.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import requests
import websocket

from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from tests.cli.conftest import Front
from tests.sandbox.stranger import Control

ROOT = Path(__file__).parents[2]
#: Seconds after which something that must happen counts as stuck. Nothing waits that long.
STUCK = 60.0
Record: TypeAlias = dict[str, Any]


class RelayProcess:
    """One relay. `keys` are the keys of its sessions, by name; `url` is its base address."""

    def __init__(self, front: Front, process: subprocess.Popen[bytes], ready: Record) -> None:
        self.front = front
        self.process = process
        self.ready = ready
        self.url: str = ready["url"]
        #: Readers that are closed with the relay.
        self.opened: list[Reader] = []
        self.keys = {name: front("relay", "key", "-s", name).out.strip() for name in ready["sessions"]}
        self.send_keys = {name: front("relay", "key", "-s", name, "--send").out.strip() for name in ready["sessions"]}

    @property
    def key(self) -> str:
        return next(iter(self.keys.values()))

    @property
    def send_key(self) -> str:
        return next(iter(self.send_keys.values()))

    def wait_until_attached(self) -> None:
        """Wait until the relay has read history and is live."""
        if not self.url.startswith("http:"):
            return
        for name in self.keys:
            reader = EventReader(self, f"?after=first&kinds=connection&session={name}", key=self.keys[name])
            next(record for _, record in reader if record.get("state") == "live")
            reader.close()

    def get(self, path: str, key: str | None = None, **headers: str) -> requests.Response:
        """Return the complete answer to a GET."""
        sent = {"Authorization": f"Bearer {self.key if key is None else key}", **headers}
        return requests.get(self.url + path, headers=sent, timeout=STUCK)

    def post(self, body: Any, idempotency_key: str, path: str = "/v1/messages", **headers: str) -> requests.Response:
        """Send a message."""
        sent = {"Authorization": f"Bearer {self.send_key}", "Idempotency-Key": idempotency_key, **headers}
        return requests.post(self.url + path, json=body, headers=sent, timeout=STUCK)

    def post_until_connected(self, body: Any, idempotency_key: str) -> requests.Response:
        """Repeat a send while the relay is not connected. The key makes that safe."""
        while (answer := self.post(body, idempotency_key)).status_code == 503:
            pass
        return answer

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Stop the relay, and return its exit code and what it wrote to stderr."""
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=STUCK)
        return self.process.returncode, err.decode()


@contextmanager
def relaying_alone(*options: str) -> Iterator[tuple[Sandbox, RelayProcess]]:
    """Run a sandbox of its own and a relay of its one session, in a directory of their own."""
    with tempfile.TemporaryDirectory() as folder, running(SandboxOptions(fast=True, agent=True)) as sandbox:
        place = Path(folder)
        environ = {
            "GUESTCTL_PROFILE": "sandbox",
            "GUESTCTL_SANDBOX_URL": sandbox.url,
            "GUESTCTL_SANDBOX_ADMIN_KEY": sandbox.admin_key,
            "GUESTCTL_SANDBOX_LIMITS": "none",
            "GUESTCTL_STATE": str(place / "state"),
            "XDG_CONFIG_HOME": str(place / "config"),
        }
        front = Front(environ, place)
        assert front("session", "create", "--as", "default", "-q").code == 0
        assert front("send", "hello", "-q").code == 0
        with relaying(front, *options) as relay:
            yield sandbox, relay


@contextmanager
def relaying(
    front: Front, *options: str, sessions: tuple[str, ...] = ("default",), attached: bool = True
) -> Iterator[RelayProcess]:
    """Run a relay on a free port until the block ends. With `attached`, wait until it has read history and is live."""
    named = [word for name in sessions for word in ("-s", name)]
    paths = [Path(path).resolve() for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    with subprocess.Popen(
        [sys.executable, "-m", "guestctl", "relay", "serve", *named, "--http", "127.0.0.1:0", "-o", "json", *options],
        cwd=front.cwd,
        env={**front.environ, "PYTHONPATH": os.pathsep.join(map(str, [ROOT, *paths])), "PATH": os.defpath},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            line = process.stdout.readline()
            assert line, process.stderr.read().decode()
            relay = RelayProcess(front, process, json.loads(line))
            try:
                if attached:
                    relay.wait_until_attached()
                yield relay
            finally:
                for reader in relay.opened:
                    reader.close()
        finally:
            process.kill()
            process.communicate()


class EventReader:
    """A reader of `/v1/events`: SSE, or JSON Lines with `lines`. Iterating yields (relay id, record).

    `buffer` is the size of the system's receive buffer.
    """

    def __init__(
        self,
        relay: RelayProcess,
        query: str = "",
        *,
        lines: bool = False,
        key: str | None = None,
        buffer: int | None = None,
        **headers: str,
    ) -> None:
        self.lines = lines
        relay.opened.append(self)
        host, _, port = relay.url.removeprefix("http://").rpartition(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=STUCK)
        if buffer is not None:
            self._connection.sock = raw = socket.socket()
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            raw.settimeout(STUCK)
            raw.connect((host, int(port)))
        sent = {"Authorization": f"Bearer {key or relay.key}"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        if lines:
            sent["Accept"] = "application/x-ndjson"
        self._connection.request("GET", f"/v1/events{query}", headers=sent)
        self.response = self._connection.getresponse()

    def __iter__(self) -> Iterator[tuple[str | None, Record]]:
        return self._lines() if self.lines else self._events()

    def _lines(self) -> Iterator[tuple[str | None, Record]]:
        for line in self.response:
            record = json.loads(line)
            yield record.pop("relay_id"), record

    def _events(self) -> Iterator[tuple[str | None, Record]]:
        fields: dict[str, str] = {}
        for raw in self.response:
            name, _, value = raw.decode().rstrip("\n").partition(": ")
            if name:
                fields[name] = value
            elif "data" in fields:
                record = json.loads(fields["data"])
                assert fields["event"] == record["kind"]
                yield fields.get("id"), record
                fields = {}
            else:
                fields = {}

    def close(self) -> None:
        self.response.close()
        self._connection.close()


class SocketReader:
    """A reader of `/v1/ws`. Iterating yields (relay id, record) until the relay closes; `code` is its close code."""

    def __init__(self, relay: RelayProcess, query: str = "", **options: Any) -> None:
        self.code: int | None = None
        relay.opened.append(self)
        url = f"ws{relay.url.removeprefix('http')}/v1/ws{query}"
        given = {"header": [f"Authorization: Bearer {relay.key}"], **options}
        self.socket: Any = None
        self.socket = websocket.create_connection(url, timeout=STUCK, **given)

    def __iter__(self) -> Iterator[tuple[str | None, Record]]:
        while True:
            opcode, data = self.socket.recv_data()
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                self.code = int.from_bytes(data[:2], "big")
                return
            record = json.loads(data)
            yield record.pop("relay_id"), record

    def close(self) -> None:
        if self.socket is not None:
            self.socket.shutdown()


Reader: TypeAlias = EventReader | SocketReader

#: The kinds of readers: a function that opens one.
READERS: Mapping[str, Callable[..., Reader]] = {
    "sse": EventReader,
    "json lines": lambda relay, query="", **more: EventReader(relay, query, lines=True, **more),
    "websocket": SocketReader,
}


def texts_until(reader: Reader, last: str) -> list[str]:
    """Return the texts of the messages from a reader, up to and with one text."""
    found = []
    for _, record in reader:
        if record["kind"] == "message":
            found.append(record["text"])
            if record["text"] == last:
                break
    return found


def push(sandbox: Sandbox, *texts: str) -> None:
    """Send messages of the agent to every session of the sandbox."""
    control = Control(sandbox)
    for text in texts:
        control("POST", "/push", text=text)


def flood(sandbox: Sandbox, texts: Sequence[str]) -> None:
    """Send many messages of the agent, at once, to the only session of the sandbox."""

    def each() -> None:
        (conversation,) = sandbox.service.conversations.values()
        for text in texts:
            sandbox.service.send(conversation, text, role="agent")

    sandbox.call(each)


def sockets(sandbox: Sandbox) -> int:
    """Return how many sockets are open at the service."""
    return sum(int(session["sockets"]) for session in Control(sandbox).sessions())
