"""requests, told to do only what it is asked: no redirects, cookies, netrc, environment, retries.

Knows: requests' and urllib3's extension points. Must not know: guestctl's requests and replies.
Connections come from `Network`; only plain HTTP through a proxy uses requests' own forwarding.
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

from guestctl.transport.network import Network, Proxy, authority, dial
from guestctl.transport.stream import Limit


def session(network: Network, limit: Limit) -> requests.Session:
    """A session whose connections obey `limit` and take no decision of their own."""
    made = _Session()
    made.trust_env = False
    made.headers.clear()
    made.auth = _AsGiven()
    made.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    made.mount("https://", _Adapter(network, limit))
    made.mount("http://", _Adapter(network, limit))
    return made


class Upload(io.BytesIO):
    """A body that tells how far it has been read."""

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
    """Without an auth object requests puts netrc entries, or the URL's user, in place of the header."""

    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        return r


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """None, always: a redirect is an answer like any other. requests would read its whole body."""


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
        """Nothing: the stream is verified by its one context. requests would add certifi's roots."""


def _pool_classes(network: Network, limit: Limit) -> dict[str, type[HTTPConnectionPool]]:
    class Plain(HTTPConnection):
        def connect(self) -> None:
            if self.proxy is None:
                self.sock = network.open(f"http://{authority(self.host, self.port)}", limit)
            else:  # host and port are the proxy's
                self.sock = dial(self.host, self.port, limit, proxy=Proxy(self.host, self.port))

    class Secure(HTTPSConnection):
        def connect(self) -> None:
            self.sock = network.open(f"https://{authority(self.host, self.port)}", limit)
            self.is_verified = True

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}
