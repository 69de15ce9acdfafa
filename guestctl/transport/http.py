"""HTTP requests: one request, one complete response, within one deadline.

Knows: requests (through `adapter`), bodies, sizes, and what a failure proves. Must not know: any dialect, the
meaning of tokens, retry policy. Every status counts as a response. Redirects are never followed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from guestctl.core.clock import Clock, Deadline
from guestctl.core.errors import Failure, NetworkError, Unreadable, UsageError
from guestctl.core.wire import HttpResponse, Request, utf8
from guestctl.transport.hosts import authority, target, why
from guestctl.transport.network import Network, Observer, checked
from guestctl.transport.proxies import failed
from guestctl.transport.stream import Limit

if TYPE_CHECKING:
    import requests

#: Maximum size of a response in bytes, after decompression.
MAX_BODY = 10 << 20
#: Bytes per read. Decompression may turn one read into 16 MiB at most.
_PIECE = 16 << 10

Progress = Callable[[int, int], None]
"""Receives the number of bytes done and in total (0: not known)."""


class Http:
    """The HTTP requests of one profile, on connections that stay open between requests.

    `observer` receives each "request" and "response" with its secrets, and must redact them.
    """

    def __init__(self, network: Network, clock: Clock, *, observer: Observer | None = None, user_agent: str) -> None:
        self._network = network
        self._clock = clock
        self._observer = observer
        self._user_agent = user_agent
        self._limit = Limit(Deadline(clock, None))
        self._made: requests.Session | None = None

    def perform(
        self,
        request: Request,
        *,
        headers: Mapping[str, str],
        deadline: Deadline,
        progress: Progress | None = None,
    ) -> HttpResponse:
        """Send a request and return its complete response. `headers` override the request's own.

        Raises NetworkError (`written` False: its last byte was never handed over), Unreadable (not HTTP,
        larger than MAX_BODY, broken compression) and UsageError (the request cannot be sent).
        """
        response = self._answer(request, headers, deadline, "application/json", progress)
        with response:
            body = self._whole(request, response)
        return self._reply(request, response, body)

    def download(
        self,
        request: Request,
        *,
        headers: Mapping[str, str],
        deadline: Deadline,
        write: Callable[[bytes], object],
        limit: int,
        progress: Progress | None = None,
    ) -> HttpResponse:
        """Stream a 2xx response into `write`; the returned response then has an empty body. Raises like `perform`.

        A response of more than `limit` bytes raises Unreadable: at once if it announces its size.
        """
        response = self._answer(request, {"Accept-Encoding": "identity", **headers}, deadline, "*/*", None)
        with response:
            if not 200 <= response.status_code < 300:
                return self._reply(request, response, self._whole(request, response))
            total = response.raw.length_remaining or 0  # None if the response does not announce its size
            done = 0
            if total > limit:
                raise _too_large(response, limit)
            for piece in self._pieces(request, response):
                done += len(piece)
                if done > limit:
                    raise _too_large(response, limit)
                write(piece)
                if progress is not None:
                    progress(done, total)
        return self._reply(request, response, b"")

    def close(self) -> None:
        """Close all connections."""
        if self._made is not None:
            self._made.close()

    def _answer(
        self,
        request: Request,
        headers: Mapping[str, str],
        deadline: Deadline,
        accept: str,
        progress: Progress | None,
    ) -> requests.Response:
        """Return the response without its body, which the caller must read."""
        import requests

        from guestctl.transport.adapter import Upload

        self._network.permit(request.url)
        kind, body = _body(request)
        sent = {"User-Agent": self._user_agent, "Accept": accept, "Accept-Encoding": "gzip"}
        if kind is not None:
            sent["Content-Type"] = kind
        for given in (request.headers, headers):
            names = {name.lower() for name in given}
            sent = {name: value for name, value in sent.items() if name.lower() not in names} | dict(given)
        sent = checked(sent)
        url = request.url
        place = _place(url)
        if request.query:
            url += ("&" if urlsplit(url).query else "?") + urlencode(request.query, quote_via=quote)
        if self._observer is not None:
            told = {"route": request.route, "method": request.method, "url": url, "headers": sent, "body": body}
            self._observer("request", told)
        data: Any = Upload(body, progress) if body and progress is not None else body
        proxy = self._network.proxy_for(url) if url.startswith("http:") else None
        if proxy is not None and not proxy.forwards:
            proxy = None  # the connection itself goes through it
        self._limit.begin(deadline)
        try:
            prepared = requests.Request(request.method, url, headers=sent, data=data, auth=self._session.auth).prepare()
            proxies = {}
            if proxy is not None:
                proxies["http"] = f"http://{proxy}"
                if proxy.authorization:  # in the URL it would appear in error messages of the libraries
                    prepared.headers["Proxy-Authorization"] = proxy.authorization
            response = self._session.send(prepared, stream=True, allow_redirects=False, verify=True, proxies=proxies)
        except (requests.RequestException, ValueError, OSError) as error:
            raise self._unanswered(request, error) from error
        if proxy is not None and response.status_code == 407:
            response.close()
            # The proxy refused the request, so the service has not received any of it.
            raise failed(proxy, f"refused the connection to {place}: HTTP 407", transient=False, http_status=407)
        return response

    @property
    def _session(self) -> requests.Session:
        if self._made is None:
            from guestctl.transport.adapter import session

            self._made = session(self._network, self._limit)
        return self._made

    def _whole(self, request: Request, response: requests.Response) -> bytes:
        body = bytearray()
        for piece in self._pieces(request, response):
            body += piece
            if len(body) > MAX_BODY:
                raise _too_large(response, MAX_BODY)
        return bytes(body)

    def _pieces(self, request: Request, response: requests.Response) -> Iterator[bytes]:
        import requests

        try:
            # An exception of the consumer of these pieces is raised elsewhere, not in this block.
            yield from response.iter_content(_PIECE)
        except (requests.RequestException, OSError) as error:
            raise self._unanswered(request, error) from error

    def _unanswered(self, request: Request, error: BaseException) -> Failure:
        failure = self._failure(request, error)
        if self._observer is not None:
            told = {"route": request.route, "method": request.method, "why": failure.message}
            self._observer("lost", {**told, "code": failure.code})
        return failure

    def _reply(self, request: Request, response: requests.Response, body: bytes) -> HttpResponse:
        # The query of a presigned URL is a secret, so the response does not repeat it.
        url = request.url.partition("#")[0].partition("?")[0]
        headers = {name.lower(): value for name, value in response.headers.items()}
        reply = HttpResponse(response.status_code, headers, body, self._clock.now(), url)
        if self._observer is not None:
            told = {"route": request.route, "method": request.method, "url": url}
            self._observer("response", {**told, "status": reply.status, "headers": headers, "body": body})
        return reply

    def _failure(self, request: Request, error: BaseException) -> Failure:
        """Return the failure that a library's exception means. Its text is not used: it may contain the URL's query."""
        import http.client

        import urllib3

        place = _place(request.url)
        causes = list(_causes(error))
        written = self._limit.sent > 0 and self._limit.whole
        for cause in causes:
            if isinstance(cause, TimeoutError):
                code = "network.lost" if written else "network.connect"
                return NetworkError(f"{place}: timed out before the response was complete", code=code, written=written)
            if isinstance(cause, (ConnectionError, http.client.IncompleteRead)):
                return NetworkError(f"{place}: the connection broke ({why(cause)})", written=written)
            if isinstance(cause, (http.client.HTTPException, urllib3.exceptions.DecodeError)):
                return Unreadable(f"{place}: the response is not valid HTTP ({why(cause)})")
            if isinstance(cause, urllib3.exceptions.InvalidHeader):
                return Unreadable(f"{place}: the response has a header that contradicts itself")
        if isinstance(error, ValueError) and not written:  # InvalidURL, InvalidSchema and the like
            return UsageError(f"a {request.method} request to this address cannot be sent ({why(error)})")
        return NetworkError(f"{place}: the connection broke ({why(causes[-1])})", written=written)


def _body(request: Request) -> tuple[str | None, bytes | None]:
    """Return content type and bytes of a request body. Raises UsageError for text that UTF-8 cannot encode."""
    if request.content is not None:
        return None, request.content
    if request.form is not None:
        return "application/x-www-form-urlencoded", urlencode(request.form).encode()
    if request.json is None:
        return None, None
    return "application/json", utf8(json.dumps(request.json, ensure_ascii=False, separators=(",", ":")))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and all exceptions that it wraps or was raised from. Libraries nest three levels.

    Do not follow `__context__`: it leads to exceptions that our caller was handling.
    """
    found: list[object] = [error]
    seen: set[int] = set()
    for one in found:  # grows in the loop
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            found += [*one.args, one.__cause__]


def _place(url: str) -> str:
    _, host, port = target(url)
    return authority(host, port)


def _too_large(response: requests.Response, limit: int) -> Unreadable:
    return Unreadable(f"the response is larger than {limit} bytes", http_status=response.status_code)
