"""A `redis-server` of its own for a test: started, killed, stopped and started again on the same port and files.

Knows: the server's options, the client for Redis. Must not know: guestctl.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from guestctl.sandbox.tls import Certificates

PROGRAM = shutil.which("redis-server")
needs_redis = pytest.mark.skipif(
    PROGRAM is None or find_spec("redis") is None,
    reason="redis-server (apt install redis-server) or the package redis is not installed",
)
#: Seconds after which something that must happen counts as stuck. Nothing waits that long.
STUCK = 60


class RedisServer:
    """One server. With `durable` it loses nothing that it has confirmed, not even when it is killed.

    With `tls` it serves TLS only, with these certificates.
    """

    def __init__(
        self, directory: Path, *, durable: bool = True, password: str | None = None, tls: Certificates | None = None
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._directory, self._password, self._tls = directory, password, tls
        self._options = ["--appendonly", "yes", "--appendfsync", "always"] if durable else ["--appendonly", "no"]
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir()
        self.start()

    @property
    def url(self) -> str:
        return f"{'redis' if self._tls is None else 'rediss'}://127.0.0.1:{self.port}/chat"

    def start(self) -> None:
        """Start the server, and return when it answers."""
        assert PROGRAM is not None
        port = ["--port", str(self.port)]
        if self._tls is not None:
            port = ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
            port += ["--tls-cert-file", str(self._tls.certificate), "--tls-key-file", str(self._tls.key)]
            port += ["--tls-ca-cert-file", str(self._tls.ca)]
        options = [*port, "--bind", "127.0.0.1", "--dir", str(self._directory), "--save", ""]
        if self._password is not None:
            options += ["--requirepass", self._password]
        self._process = process = subprocess.Popen(
            [PROGRAM, *options, *self._options, "--daemonize", "no"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if b"eady to accept connections" in line:
                return
        raise AssertionError(b"".join(lines).decode())

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop the server, or kill it."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.communicate(timeout=STUCK)
            self._process = None

    def client(self) -> Any:
        """Return a client for the server."""
        import redis

        secure: dict[str, Any] = {} if self._tls is None else {"ssl": True, "ssl_ca_certs": str(self._tls.ca)}
        return redis.Redis(
            port=self.port, password=self._password, decode_responses=True, socket_timeout=STUCK, **secure
        )

    def entries(self, until: str) -> list[tuple[str, dict[str, str]]]:
        """Return the entries of the stream up to a message with this text, as soon as it is there."""
        found: list[tuple[str, dict[str, str]]] = []
        with self.client() as client:
            while True:
                last = found[-1][0] if found else "0-0"
                answer = client.xread({"chat": last}, block=STUCK * 1000, count=1000)
                assert answer, f"{until!r} does not come after {last}"
                for entry in answer[0][1]:
                    found.append(entry)
                    if f'"text":"{until}"' in entry[1]["record"].replace('": "', '":"'):
                        return found
