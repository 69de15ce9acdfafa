"""The way to a host: its name resolved, through the proxy if there is one, into TLS if it is asked for.

Knows: certificate authorities, proxy variables, name resolution, CONNECT; one set of rules for
HTTP and WebSocket (reliability.md W14). Must not know: either library, tokens, retries.
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
"""Told what passes over the wire, for traces. It gets secrets as they are and must redact them.

Kinds: request, response, lost (a request without a whole answer), connect, upgrade, frame_out,
frame_in, ping, pong, close (1006 where none came), retry (told by whoever tries again)."""

#: Seconds to resolve, connect and shake hands, whatever the command's own deadline allows.
CONNECT_PATIENCE = 10.0

_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


@immutable
class Proxy:
    """An HTTP proxy. Prints without its credentials."""

    host: str
    port: int
    username: str = ""
    password: Secret | None = None

    def __str__(self) -> str:
        return authority(self.host, self.port)

    @property
    def authorization(self) -> str | None:
        """The value of `Proxy-Authorization`, a secret; None without credentials."""
        if not self.username:
            return None
        password = self.password.reveal() if self.password else ""
        return "Basic " + base64.b64encode(f"{self.username}:{password}".encode()).decode()


class Network:
    """Certificate authorities and proxies of one profile, and connections made by them.

    `ca`: PEM file or directory that replaces every other authority. `environ`: the environment to
    read SSL_CERT_FILE, REQUESTS_CA_BUNDLE and the proxy variables from. `cleartext`: other machines
    may be spoken to without TLS.
    """

    def __init__(self, *, ca: str | None, environ: Mapping[str, str], cleartext: bool = False) -> None:
        self._ca = ca
        self._cleartext = cleartext
        self._environ = environ

    def ssl_context(self) -> ssl.SSLContext:
        """The one TLS context: verification on, host names checked, TLS 1.2 at least.

        Raises UsageError (config.tls) when the authorities cannot be read.
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
        except (OSError, ValueError) as error:  # SSLError is an OSError: a file without certificates
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "no certificate in it"
            raise UsageError(f"{origin}: cannot read certificates from {path}: {reason}", code="config.tls") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.sslsocket_class = TlsStream
        return context

    def authorities(self) -> tuple[str, str | None]:
        """Who named the certificate authorities, and the file or directory; None: the system's own."""
        if self._ca is not None:
            return "tls.ca", self._ca
        for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
            if path := self._environ.get(name):
                return name, path
        return "default", None

    def proxy_for(self, url: str) -> Proxy | None:
        """The proxy for a URL, or None for a direct way. Raises UsageError for a proxy we cannot use.

        ws counts as http, wss as https. NO_PROXY entries are a host (with its subdomains), an
        address, a network, any of them with a port, or `*`. Loopback is never proxied.
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
        """Raises UsageError (config.cleartext) for an address nothing may be sent to."""
        secure, host, port = target(url)
        if not (secure or self._cleartext or is_loopback(host)):
            raise UsageError(
                f"{authority(host, port)} would be reached without TLS: whoever is on the way could read the tokens",
                code="config.cleartext",
            )

    def open(self, url: str, limit: Limit) -> Stream | TlsStream:
        """A stream to the URL's host, in TLS for https and wss. Raises NetworkError, nothing written.

        `limit` holds the deadline (CONNECT_PATIENCE bounds it further) and stays the stream's.
        """
        self.permit(url)
        secure, host, port = target(url)
        proxy = self.proxy_for(url)
        stream: Stream | TlsStream | None = None
        with _hurried(limit):
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
    """Whether a URL asks for TLS, its host and its port. Raises UsageError, without showing the URL."""
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError) as error:
        raise UsageError("an address is not a URL of http, https, ws or wss") from error
    if not host:
        raise UsageError("an address names no host")
    return parts.scheme in ("https", "wss"), host, port


def is_loopback(host: str) -> bool:
    """Whether a host name or address literal is this machine."""
    host = host.strip("[]").rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def authority(host: str, port: int) -> str:
    """host:port as it is written in URLs, IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def checked(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers, if they can be sent as they are. Raises UsageError without showing the value."""
    for name, value in headers.items():
        if not (value.isascii() and value.replace("\t", " ").isprintable() and value == value.strip()):
            code = "auth.secret" if name.lower() == "authorization" else "usage"
            raise UsageError(f"the {name} header would have characters that a header cannot carry", code=code)
    return dict(headers)


def why(error: BaseException) -> str:
    """A cause in a few words, without the URL and header texts that library errors carry."""
    # One made by Python code has no such attribute.
    if isinstance(error, ssl.SSLError) and (reason := getattr(error, "reason", None)):
        return str(reason).replace("_", " ").lower()
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return {"TimeoutError": "timed out", "RemoteDisconnected": "closed without an answer"}.get(
        type(error).__name__, type(error).__name__
    )


def dial(host: str, port: int, limit: Limit, *, proxy: Proxy | None = None) -> Stream:
    """A TCP connection, each address tried in turn. Raises NetworkError: dns, connect or proxy."""
    place = authority(host, port)
    subject, code = (f"the proxy {proxy}", "network.proxy") if proxy else (place, "")
    try:
        addresses = resolve(host, port, limit.remaining())
    except TimeoutError as error:
        named = _address(host) is None
        message = (
            f"{subject}: the name was not resolved in time" if named else f"{subject}: no time was left to connect"
        )
        raise NetworkError(message, code=code or ("network.dns" if named else "network.connect")) from error
    except (OSError, UnicodeError) as error:
        passing = isinstance(error, OSError) and error.errno == socket.EAI_AGAIN
        message = f"{subject}: the name does not resolve ({why(error)})"
        raise NetworkError(message, code=code or "network.dns", transient=passing) from error
    last = OSError(errno.EADDRNOTAVAIL, "no address")
    with _hurried(limit):
        for tried, address in enumerate(addresses):
            try:
                left = limit.remaining()
                return _connected(address, limit, None if left is None else left / (len(addresses) - tried))
            except OSError as error:
                last = error
    raise NetworkError(f"{subject}: {why(last).lower()}", code=code or "network.connect") from last


@contextmanager
def _hurried(limit: Limit) -> Iterator[None]:
    """For finding the way: CONNECT_PATIENCE at most, and nothing of it counts as a request's bytes."""
    whole = limit.deadline
    limit.begin(whole.sooner(CONNECT_PATIENCE))
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
    """What a failed handshake means."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return NetworkError(f"{host}: {error.verify_message}", code="network.tls", transient=False)
    if isinstance(error, TimeoutError):
        return NetworkError(f"{host}: timed out in the TLS handshake", code="network.connect")
    # An alert or nonsense stays what it is; a dropped connection may heal.
    heals = not isinstance(error, ssl.SSLError) or isinstance(error, ssl.SSLEOFError)
    return NetworkError(f"{host}: the TLS handshake failed ({why(error)})", code="network.tls", transient=heals)


def resolve(host: str, port: int, seconds: float | None) -> list[tuple[Any, ...]]:
    """Addresses of a host, as `socket.getaddrinfo` gives them. Raises OSError, UnicodeError, TimeoutError.
    The resolver cannot be interrupted, so a thread waits for it, not we."""
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
        got = answer.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(got, Exception):
        raise got
    return got


def _tunnel(stream: Stream, proxy: Proxy, place: str) -> None:
    """Ask the proxy for a way to host:port. Raises NetworkError network.proxy."""
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
        raise NetworkError(f"the proxy {proxy} gave no way to {place}: {why(error)}", code="network.proxy") from error
    if not 200 <= answer.status < 300:
        raise NetworkError(
            f"the proxy {proxy} refused the way to {place}: HTTP {answer.status}",
            code="network.proxy",
            transient=answer.status in (502, 503, 504),
            http_status=answer.status,
        )


def _proxy(value: str, variable: str) -> Proxy:
    wrong = "not the address of a proxy"
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        host, port = parts.hostname or "", parts.port or 80
        if host and parts.scheme != "http":
            wrong, host = f"{parts.scheme}:// proxies are not supported", ""
    except ValueError:
        host = ""
    if not host:
        raise UsageError(f"{variable}: {wrong}", code="config.key", hint="Give it as http://[user:password@]host:port.")
    password = None if parts.password is None else Secret(unquote(parts.password))
    return Proxy(host, port, unquote(parts.username or ""), password)


def _matches(entry: str, host: str, port: int) -> bool:
    """Whether a NO_PROXY entry covers the host."""
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
