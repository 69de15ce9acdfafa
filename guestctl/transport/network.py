"""Connections to a host: name resolution, proxies and TLS.

Knows: certificate authorities, proxy variables, name resolution, CONNECT. The same rules apply to HTTP and
WebSocket (reliability.md W14). Must not know: either library, tokens, retries.
"""

from __future__ import annotations

import base64
import errno
import ipaddress
import os
import queue
import selectors
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

from guestctl.core.errors import NetworkError, UsageError
from guestctl.core.model import Secret
from guestctl.core.values import immutable
from guestctl.transport.stream import Limit, Stream, TlsStream

Observer: TypeAlias = Callable[[str, Mapping[str, Any]], None]
"""Receives everything that is sent and received, for traces. It gets the secrets, too, and must redact them.

Kinds: request, response, lost (a request without a complete response), connect, upgrade, frame_out, frame_in, ping,
pong, close (1006 if no close frame arrived), retry (reported by the engine)."""

#: Maximum seconds to resolve a name, connect and complete the TLS handshake, even if the deadline allows more.
CONNECT_TIMEOUT = 10.0

_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


@immutable
class Proxy:
    """An HTTP proxy. Its text form does not contain the credentials."""

    host: str
    port: int
    username: str = ""
    password: Secret | None = None
    variable: str = "HTTPS_PROXY"

    def __str__(self) -> str:
        return authority(self.host, self.port)

    @property
    def authorization(self) -> str | None:
        """The value of `Proxy-Authorization`, which is a secret; None without credentials."""
        if not self.username:
            return None
        password = self.password.reveal() if self.password else ""
        return "Basic " + base64.b64encode(f"{self.username}:{password}".encode()).decode()


class Network:
    """The certificate authorities and proxies of one profile, and the connections that use them.

    `ca` is a PEM file or a directory that replaces all other authorities. `environ` provides SSL_CERT_FILE,
    REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE and the proxy variables. `cleartext` permits connections to other machines
    without TLS.
    """

    def __init__(self, *, ca: str | None, environ: Mapping[str, str], cleartext: bool = False) -> None:
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
        """Return the proxy for a URL, or None for a direct connection. Raises UsageError for an unusable proxy.

        ws counts as http, wss as https. An entry of NO_PROXY is a host (including its subdomains), an address or a
        network, each with or without a port, or `*`. Connections to loopback addresses never use a proxy.
        """
        secure, host, port = target(url)
        if is_loopback(host):
            return None
        for name in ("https_proxy" if secure else "http_proxy", "all_proxy"):
            value = self._variable(name)
            if value:
                return None if self._bypassed(host, port) else _proxy(value, name.upper())
        return None

    def _variable(self, name: str) -> str:
        return (self._environ.get(name) or self._environ.get(name.upper()) or "").strip()

    def _bypassed(self, host: str, port: int) -> bool:
        return any(_matches(entry, host, port) for entry in self._variable("no_proxy").replace(",", " ").split())

    def permit(self, url: str) -> None:
        """Raise UsageError (config.cleartext) for an address that may not be used without TLS."""
        secure, host, port = target(url)
        if not (secure or self._cleartext or is_loopback(host)):
            raise UsageError(
                f"{authority(host, port)} has no TLS: anyone on the network path could read the tokens",
                code="config.cleartext",
            )

    def open(self, url: str, limit: Limit) -> Stream | TlsStream:
        """Open a stream to the URL's host, with TLS for https and wss. Raises NetworkError (`written` False).

        `limit` has the deadline, in addition to CONNECT_TIMEOUT. The stream keeps this limit.
        """
        self.permit(url)
        secure, host, port = target(url)
        proxy = self.proxy_for(url)
        stream: Stream | TlsStream | None = None
        with _connect_limit(limit):
            try:
                if proxy is None:
                    stream = dial(host, port, limit)
                else:
                    stream = dial(proxy.host, proxy.port, limit, proxy=proxy)
                    _tunnel(stream, proxy, authority(host, port))
                return self._secured(stream, host, limit) if secure else stream
            except BaseException:
                if stream is not None:
                    stream.close()
                raise

    def _secured(self, stream: Stream, host: str, limit: Limit) -> TlsStream:
        tls = self.ssl_context().wrap_socket(stream, server_hostname=host, do_handshake_on_connect=False)
        assert isinstance(tls, TlsStream)
        try:
            tls.adopt(limit)
            tls.shake_hands()
        except BaseException as error:
            tls.close()
            if not isinstance(error, OSError):
                raise
            raise _insecure(host, error) from error
        return tls


def target(url: str) -> tuple[bool, str, int]:
    """Return whether a URL asks for TLS, its host and its port. Raises UsageError, whose text omits the URL."""
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError) as error:
        raise UsageError("an address is not an http, https, ws or wss URL") from error
    if not host:
        raise UsageError("an address has no host")
    return parts.scheme in ("https", "wss"), host, port


def is_loopback(host: str) -> bool:
    """Return whether a host name or an address stands for this machine."""
    host = host.strip("[]").rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def authority(host: str, port: int) -> str:
    """Return host:port as in a URL, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def checked(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers if they can be sent unchanged. Raises UsageError, whose text omits the value."""
    for name, value in headers.items():
        if not (value.isascii() and value.replace("\t", " ").isprintable() and value == value.strip()):
            code = "auth.secret" if name.lower() == "authorization" else "usage"
            raise UsageError(f"the {name} header contains characters that a header may not contain", code=code)
    return dict(headers)


def why(error: BaseException) -> str:
    """Return a short cause, without the URLs and headers that the texts of library errors contain."""
    # An SSLError created by Python code lacks this attribute.
    if isinstance(error, ssl.SSLError) and (reason := getattr(error, "reason", None)):
        return str(reason).replace("_", " ").lower()
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return {"TimeoutError": "timed out", "RemoteDisconnected": "closed without a response"}.get(
        type(error).__name__, type(error).__name__
    )


def dial(host: str, port: int, limit: Limit, *, proxy: Proxy | None = None) -> Stream:
    """Open a TCP connection to the first address that accepts. Raises NetworkError (dns, connect or proxy)."""
    place = authority(host, port)
    subject, code = (f"the proxy {proxy} of {proxy.variable}", "network.proxy") if proxy else (place, "")
    try:
        addresses = resolve(host, port, limit.remaining())
    except TimeoutError as error:
        named = _address(host) is None
        message = f"{subject}: timed out resolving the name" if named else f"{subject}: no time left to connect"
        raise NetworkError(message, code=code or ("network.dns" if named else "network.connect")) from error
    except (OSError, UnicodeError) as error:
        passing = isinstance(error, OSError) and error.errno == socket.EAI_AGAIN
        message = f"{subject}: the name does not resolve ({why(error)})"
        raise NetworkError(message, code=code or "network.dns", transient=passing) from error
    last = OSError(errno.EADDRNOTAVAIL, "no address")
    with _connect_limit(limit):
        for tried, address in enumerate(addresses):
            try:
                left = limit.remaining()
                return _connected(address, limit, None if left is None else left / (len(addresses) - tried))
            except OSError as error:
                last = error
    raise NetworkError(f"{subject}: {why(last).lower()}", code=code or "network.connect") from last


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
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
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


def resolve(host: str, port: int, seconds: float | None) -> list[tuple[Any, ...]]:
    """Return the addresses of a host like `socket.getaddrinfo`. Raises OSError, UnicodeError, TimeoutError.

    A thread waits for the resolver, because nothing can interrupt the resolver.
    """
    if _address(host) is not None:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    answer: queue.SimpleQueue[list[tuple[Any, ...]] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answer.put(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except Exception as error:
            answer.put(error)

    threading.Thread(target=ask, name="resolver", daemon=True).start()
    try:
        addresses = answer.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(addresses, Exception):
        raise addresses
    return addresses


def _tunnel(stream: Stream, proxy: Proxy, place: str) -> None:
    """Ask the proxy for a tunnel to host:port. Raises NetworkError (network.proxy)."""
    import http.client

    lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    try:
        stream.sendall("\r\n".join([*lines, "", ""]).encode())
        answer = http.client.HTTPResponse(stream)
        try:
            answer.begin()
        finally:
            answer.close()
    except (OSError, http.client.HTTPException) as error:
        raise NetworkError(
            f"the proxy {proxy} did not open a tunnel to {place}: {why(error)}", code="network.proxy"
        ) from error
    if not 200 <= answer.status < 300:
        raise NetworkError(
            f"the proxy {proxy} refused the connection to {place}: HTTP {answer.status}",
            code="network.proxy",
            transient=answer.status in (502, 503, 504),
            http_status=answer.status,
        )


def _proxy(value: str, variable: str) -> Proxy:
    wrong = "not the address of a proxy"
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        host, port = parts.hostname or "", parts.port or 80
        if parts.path not in {"", "/"} or parts.query or parts.fragment:
            # The rest may be a part of the password, and what looks like the host another one.
            wrong, host = "not the address of a proxy; write / ? # in a password as %2F %3F %23", ""
        elif host and parts.scheme != "http":
            wrong, host = f"{parts.scheme}:// proxies are not supported", ""
    except ValueError:
        host = ""
    if not host:
        raise UsageError(
            f"{variable}: {wrong}", code="config.key", hint="use the form http://[user:password@]host:port"
        )
    password = None if parts.password is None else Secret(unquote(parts.password))
    return Proxy(host, port, unquote(parts.username or ""), password, variable)


def _matches(entry: str, host: str, port: int) -> bool:
    """Return whether a NO_PROXY entry covers the host."""
    if entry == "*":
        return True
    entry = entry.lower()
    name, colon, digits = entry.rpartition(":")
    if colon and digits.isdecimal() and (":" not in name or name.endswith("]")):
        if int(digits) != port:
            return False
        entry = name
    entry = entry.strip("[]").rstrip(".")
    address = _address(host)
    if address is not None:
        try:
            return address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    entry = entry.removeprefix("*").lstrip(".")
    return bool(entry) and (host == entry or host.endswith("." + entry))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
