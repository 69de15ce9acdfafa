"""Connections to a host: direct or through a proxy, with TLS where the address asks for it.

Knows: certificate authorities, TLS, time limits of connecting. The same rules apply to HTTP and WebSocket
(reliability.md W14). Must not know: either library, how a proxy is asked (`proxies`), tokens, retries.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from guestctl.core.errors import NetworkError, UsageError
from guestctl.transport.hosts import address_of, authority, is_loopback, resolve, target, why
from guestctl.transport.proxies import Proxy, configured, connect_tunnel, failed, proxy_for, socks_tunnel
from guestctl.transport.stream import AnyStream, Limit, NestedTlsStream, Stream, TlsStream

if TYPE_CHECKING:
    from guestctl.core.waker import Waker

Observer: TypeAlias = Callable[[str, Mapping[str, Any]], None]
"""Receives everything that is sent and received, for traces. It gets the secrets, too, and must redact them.

Kinds: request, response, lost (a request without a complete response), connect, connected (TCP and TLS), upgrade,
frame_out, frame_in, ping, pong, close (1006 if no close frame arrived), closed (the connection is over). The engine
adds attached (the service has confirmed the session on the socket), turn (the progress of a guest's message, and each
reply), retry, page and limit (a wait for the rate limit)."""

#: Maximum seconds to resolve a name, connect and complete the TLS handshake, even if the deadline allows more.
CONNECT_TIMEOUT = 10.0


class Network:
    """The certificate authorities and proxies of one profile, and the connections that use them.

    `ca` is a PEM file or a directory that replaces all other authorities. `environ` provides SSL_CERT_FILE,
    REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE and the proxy variables. `cleartext` permits connections to other machines
    without TLS. `waker` ends a wait for the next message of a socket early.
    """

    def __init__(
        self, *, ca: str | None, environ: Mapping[str, str], cleartext: bool = False, waker: Waker | None = None
    ) -> None:
        self.waker = waker
        self._ca = ca
        self._cleartext = cleartext
        self._environ = environ

    def ssl_context(self) -> ssl.SSLContext:
        """Return the TLS context. It verifies certificates and host names, and demands TLS 1.2 or later.

        Raises UsageError (config.tls) if the authorities cannot be read.
        """
        return self._context

    @cached_property
    def _context(self) -> ssl.SSLContext:
        origin, path = self.authorities()
        try:
            if path is None:
                context = ssl.create_default_context()
            elif os.path.isdir(path):
                context = ssl.create_default_context(capath=path)
            else:
                context = ssl.create_default_context(cafile=path)
        except (OSError, ValueError) as error:  # a file without certificates raises SSLError, an OSError
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "no certificate in it"
            raise UsageError(f"{origin}: cannot read certificates from {path}: {reason}", code="config.tls") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.hostname_checks_common_name = False  # a name only in CN is no host name (RFC 9110 §4.3.4)
        context.set_alpn_protocols(["http/1.1"])
        context.sslsocket_class = TlsStream
        return context

    def authorities(self) -> tuple[str, str | None]:
        """Return the setting that names the certificate authorities, and its file or directory (None: the system)."""
        if self._ca is not None:
            return "tls.ca", self._ca
        for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            if path := self._environ.get(name):
                return name, path
        return "default", None

    def proxy_for(self, url: str) -> Proxy | None:
        """Return the proxy for a URL, or None for a direct connection (see `proxies.proxy_for`). Raises UsageError."""
        return proxy_for(self._environ, url)

    def permit(self, url: str) -> None:
        """Raise UsageError (config.cleartext) for an address that may not be used without TLS."""
        secure, host, port = target(url)
        if not (secure or self._cleartext or is_loopback(host)):
            raise UsageError(
                f"{authority(host, port)} has no TLS: anyone on the network path could read the tokens",
                code="config.cleartext",
            )

    def open(self, url: str, limit: Limit) -> AnyStream:
        """Open a stream to the URL's host, with TLS for https and wss. Raises NetworkError (`written` False).

        `limit` has the deadline, in addition to CONNECT_TIMEOUT. The stream keeps this limit.
        """
        self.permit(url)
        secure, host, port = target(url)
        proxy = self.proxy_for(url)
        stream: AnyStream | None = None
        with _connect_limit(limit):
            try:
                if proxy is None:
                    stream = dial(host, port, limit)
                elif proxy.forwards:
                    stream = self._to_proxy(proxy, limit)
                    connect_tunnel(stream, proxy, authority(host, port))
                else:
                    stream = socks_tunnel(proxy, host, port, limit)
                return self._secured(stream, host, limit) if secure else stream
            except BaseException:
                if stream is not None:
                    stream.close()
                raise

    def open_forwarding(self, limit: Limit) -> AnyStream:
        """Open a stream to the proxy that forwards plain HTTP requests. Raises NetworkError (network.proxy)."""
        proxy = configured(self._environ, secure=False)
        assert proxy is not None, "the caller has found out that requests go through a proxy"
        with _connect_limit(limit):
            return self._to_proxy(proxy, limit)

    def _to_proxy(self, proxy: Proxy, limit: Limit) -> AnyStream:
        stream = dial(proxy.host, proxy.port, limit, proxy=proxy)
        if proxy.scheme != "https":
            return stream
        with ExitStack() as on_failure:
            on_failure.callback(stream.close)
            try:
                secured = self._secured(stream, proxy.host, limit)
            except NetworkError as failure:
                reason = failure.message.removeprefix(f"{proxy.host}: ")
                raise failed(proxy, f"of {proxy.variable}: {reason}", transient=failure.transient) from failure
            on_failure.pop_all()
        return secured

    def _secured(self, stream: AnyStream, host: str, limit: Limit) -> TlsStream | NestedTlsStream:
        tls: TlsStream | NestedTlsStream
        if isinstance(stream, Stream):
            wrapped = self.ssl_context().wrap_socket(stream, server_hostname=host, do_handshake_on_connect=False)
            assert isinstance(wrapped, TlsStream)
            tls = wrapped
        else:
            assert isinstance(stream, TlsStream), "there is at most one proxy"
            tls = NestedTlsStream(stream, self.ssl_context(), host)
        try:
            tls.adopt(limit)
            tls.shake_hands()
        except BaseException as error:
            tls.close()
            if not isinstance(error, OSError):
                raise
            raise _insecure(host, error) from error
        return tls


def checked(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers if they can be sent unchanged. Raises UsageError, whose text omits the value."""
    for name, value in headers.items():
        if not (value.isascii() and value.replace("\t", " ").isprintable() and value == value.strip()):
            code = "auth.secret" if name.lower() == "authorization" else "usage"
            raise UsageError(f"the {name} header contains characters that a header may not contain", code=code)
    return dict(headers)


def dial(host: str, port: int, limit: Limit, *, proxy: Proxy | None = None) -> Stream:
    """Open a TCP connection to the first address that accepts. Raises NetworkError (dns, connect or proxy)."""

    def failure(what: str, code: str, *, transient: bool = True) -> NetworkError:
        if proxy is not None:
            return failed(proxy, f"of {proxy.variable}: {what}", transient=transient)
        return NetworkError(f"{authority(host, port)}: {what}", code=code, transient=transient)

    try:
        addresses = resolve(host, port, limit.remaining())
    except TimeoutError as error:
        if address_of(host) is None:
            raise failure("timed out resolving the name", "network.dns") from error
        raise failure("no time left to connect", "network.connect") from error
    except (OSError, UnicodeError) as error:
        passing = isinstance(error, OSError) and error.errno == socket.EAI_AGAIN
        raise failure(f"the name does not resolve ({why(error)})", "network.dns", transient=passing) from error
    last = OSError(errno.EADDRNOTAVAIL, "no address")
    with _connect_limit(limit):
        for tried, address in enumerate(addresses):
            try:
                left = limit.remaining()
                return _connected(address, limit, None if left is None else left / (len(addresses) - tried))
            except OSError as error:
                last = error
    raise failure(why(last).lower(), "network.connect") from last


@contextmanager
def _connect_limit(limit: Limit) -> Iterator[None]:
    """Limit connecting to CONNECT_TIMEOUT, and leave its bytes out of the count of sent bytes."""
    whole = limit.deadline
    limit.begin(whole.sooner(CONNECT_TIMEOUT))
    try:
        yield
    finally:
        limit.begin(whole)


def _connected(info: tuple[Any, ...], limit: Limit, seconds: float | None) -> Stream:
    family, kind, protocol, _, address = info
    stream = Stream(family, kind, protocol)
    try:
        stream.adopt(limit)
        stream.prepare()
        problem = stream.connect_ex(address)
        if problem in (errno.EINPROGRESS, errno.EWOULDBLOCK):
            if not stream.wait(seconds, selectors.EVENT_WRITE):
                raise TimeoutError
            problem = stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if problem:
            raise OSError(problem, os.strerror(problem))
    except BaseException:
        stream.close()
        raise
    return stream


def _insecure(host: str, error: OSError) -> NetworkError:
    """Return the failure that a failed TLS handshake stands for."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return NetworkError(f"{host}: {error.verify_message}", code="network.tls", transient=False)
    if isinstance(error, TimeoutError):
        return NetworkError(f"{host}: timed out in the TLS handshake", code="network.connect")
    # After an alert or invalid data, a retry would fail again. After a lost connection, it may succeed.
    transient = not isinstance(error, ssl.SSLError) or isinstance(error, ssl.SSLEOFError)
    return NetworkError(f"{host}: the TLS handshake failed ({why(error)})", code="network.tls", transient=transient)
