"""A requests session without redirects, cookies, netrc, environment variables and retries.

Knows: the extension points of requests and urllib3. Must not know: guestctl's requests and responses.
`Network` opens the connections. Only plain HTTP through a proxy uses the forwarding of requests itself.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection

from guestctl.transport.hosts import authority
from guestctl.transport.network import Network
from guestctl.transport.stream import Limit


def session(network: Network, limit: Limit) -> requests.Session:
    """Return a session whose connections obey `limit` and whose requests are sent as given."""
    made = _Session()
    made.trust_env = False
    made.headers.clear()
    made.auth = _AsGiven()
    made.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    made.mount("https://", _Adapter(network, limit))
    made.mount("http://", _Adapter(network, limit))
    return made


class Upload(io.BytesIO):
    """A request body that reports how much of it has been read."""

    def __init__(self, content: bytes, progress: Callable[[int, int], None]) -> None:
        super().__init__(content)
        self._total = len(content)
        self._progress = progress

    def read(self, size: int | None = -1) -> bytes:
        piece = super().read(size)
        if piece:
            self._progress(self.tell(), self._total)
        return piece


class _AsGiven(AuthBase):
    """Keeps guestctl's Authorization header. Without it, requests would use netrc entries or the URL's user."""

    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        return r


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None: a redirect is a response like any other. requests would read its whole body."""


class _Adapter(HTTPAdapter):
    def __init__(self, network: Network, limit: Limit) -> None:
        self._pools = _pool_classes(network, limit)
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> PoolManager:
        manager: PoolManager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = self._pools
        return manager

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Do nothing: the stream's own context verifies it. requests would add certifi's authorities."""


def _pool_classes(network: Network, limit: Limit) -> dict[str, type[HTTPConnectionPool]]:
    class Plain(HTTPConnection):
        def connect(self) -> None:
            if self.proxy is None:
                self.sock = network.open(f"http://{authority(self.host, self.port)}", limit)
            else:
                self.sock = network.open_forwarding(limit)

    class Secure(HTTPSConnection):
        def connect(self) -> None:
            self.sock = network.open(f"https://{authority(self.host, self.port)}", limit)
            self.is_verified = True

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}
