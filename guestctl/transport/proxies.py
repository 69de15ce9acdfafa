"""Proxies: their addresses in the proxy variables, and the tunnels that they open.

Knows: HTTP_PROXY and its relatives, NO_PROXY, CONNECT, SOCKS. Must not know: TLS, requests, which URL is opened when.

`http://` and `https://` proxies take CONNECT; the connection to the latter has TLS. SOCKS needs PySocks (the extra
`guestctl[socks]`), which is imported only when a SOCKS proxy is used. `socks5h` and `socks4a` leave the name of the
service to the proxy; with `socks5` and `socks4` this machine resolves it.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from guestctl.core.errors import NetworkError, UsageError
from guestctl.core.interrupts import INTERRUPTS
from guestctl.core.model import Secret
from guestctl.core.values import immutable
from guestctl.transport.hosts import address_of, authority, is_loopback, resolve, target, why
from guestctl.transport.stream import Limit, Stream

if TYPE_CHECKING:
    from guestctl.transport.stream import AnyStream

#: The default port of each kind of proxy.
_PORTS = {"http": 80, "https": 443, "socks5h": 1080, "socks5": 1080, "socks4a": 1080, "socks4": 1080}
_FORM = f"use the form SCHEME://[user:password@]host:port; SCHEME is one of {', '.join(_PORTS)}"
#: PySocks writes a length of more than one byte as UTF-8.
_LONGEST = 127
#: The answers after which another try may succeed: general failure, network or host unreachable, connection refused,
#: TTL expired; of SOCKS4, failed.
_PASSING = ("0x01", "0x03", "0x04", "0x05", "0x06", "0x5b")
_HOST_NAME = re.compile(r"[\w.-]+")


@immutable
class Proxy:
    """A proxy. Its text form does not contain the credentials. `scheme` is one of those above."""

    host: str
    port: int
    username: str = ""
    password: Secret | None = None
    variable: str = "HTTPS_PROXY"
    scheme: str = "http"

    def __str__(self) -> str:
        return authority(self.host, self.port)

    @property
    def forwards(self) -> bool:
        """Whether it forwards plain HTTP requests, instead of tunnelling them."""
        return not self.scheme.startswith("socks")

    @property
    def authorization(self) -> str | None:
        """The value of `Proxy-Authorization`, which is a secret; None without credentials."""
        if not self.username:
            return None
        password = self.password.reveal() if self.password else ""
        return "Basic " + base64.b64encode(f"{self.username}:{password}".encode()).decode()


# --- which proxy ---


def configured(environ: Mapping[str, str], *, secure: bool) -> Proxy | None:
    """Return the proxy that the variables name for addresses with or without TLS. Raises UsageError."""
    for name in ("https_proxy" if secure else "http_proxy", "all_proxy"):
        value = _variable(environ, name)
        if value:
            return _proxy(value, name.upper())
    return None


def proxy_for(environ: Mapping[str, str], url: str) -> Proxy | None:
    """Return the proxy for a URL, or None for a direct connection. Raises UsageError for an unusable proxy.

    ws counts as http, wss as https. An entry of NO_PROXY is a host (including its subdomains), an address or a
    network, each with or without a port, or `*`. Connections to loopback addresses never use a proxy.
    """
    secure, host, port = target(url)
    if is_loopback(host):
        return None
    if any(_matches(entry, host, port) for entry in _variable(environ, "no_proxy").replace(",", " ").split()):
        return None
    return configured(environ, secure=secure)


def _variable(environ: Mapping[str, str], name: str) -> str:
    return (environ.get(name) or environ.get(name.upper()) or "").strip()


def _proxy(value: str, variable: str) -> Proxy:
    wrong = "not the address of a proxy"
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        host, port = parts.hostname or "", parts.port
        if parts.path not in {"", "/"} or parts.query or parts.fragment:
            # The rest may be a part of the password, and what looks like the host another one.
            wrong, host = "not the address of a proxy; write / ? # in a password as %2F %3F %23", ""
        elif host and parts.scheme not in _PORTS:
            wrong, host = f"{parts.scheme}:// proxies are not supported", ""
        elif port == 0 or not (_HOST_NAME.fullmatch(host) or address_of(host)):
            host = ""
    except ValueError:
        host = ""
    if not host:
        raise UsageError(f"{variable}: {wrong}", code="config.key", hint=_FORM)
    username, password = unquote(parts.username or ""), parts.password
    if parts.scheme.startswith("socks"):
        _check_socks(parts.scheme, variable, username, unquote(password or ""))
    return Proxy(
        host,
        port or _PORTS[parts.scheme],
        username,
        None if password is None else Secret(unquote(password)),
        variable,
        parts.scheme,
    )


def _check_socks(scheme: str, variable: str, username: str, password: str) -> None:
    """Raise UsageError for credentials that the protocol cannot carry, or that PySocks would drop in silence."""
    wrong = None
    if scheme.startswith("socks5") and bool(username) != bool(password):
        wrong = "a SOCKS5 proxy takes a user name and a password, or neither"
    elif scheme.startswith("socks4") and password:
        wrong = "a SOCKS4 proxy takes no password"
    elif any(len(text.encode()) > _LONGEST for text in (username, password)):
        wrong = f"a user name or password of a SOCKS proxy has at most {_LONGEST} bytes"
    if wrong is not None:
        raise UsageError(f"{variable}: {wrong}", code="config.key", hint=_FORM)


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
    address = address_of(host)
    if address is not None:
        try:
            return address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    entry = entry.removeprefix("*").lstrip(".")
    return bool(entry) and (host == entry or host.endswith("." + entry))


# --- tunnels ---


def failed(proxy: Proxy, what: str, *, transient: bool = True, http_status: int | None = None) -> NetworkError:
    """Return the failure of a connection to or through a proxy; the hint names its variable."""
    failure = NetworkError(
        f"the proxy {proxy} {what}", code="network.proxy", transient=transient, http_status=http_status
    )
    known = "the proxy variable (HTTPS_PROXY, HTTP_PROXY or ALL_PROXY)"
    failure.hint = failure.hint.replace(known, f"{proxy.variable} (its address and credentials)")
    return failure


def connect_tunnel(stream: AnyStream, proxy: Proxy, place: str) -> None:
    """Ask an HTTP proxy for a tunnel to host:port. Raises NetworkError (network.proxy)."""
    import http.client

    lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    try:
        stream.sendall("\r\n".join([*lines, "", ""]).encode())
        answer = http.client.HTTPResponse(stream)  # type: ignore[arg-type]
        try:
            answer.begin()
        finally:
            answer.close()
    except (OSError, http.client.HTTPException) as error:
        raise failed(proxy, f"did not open a tunnel to {place}: {why(error)}") from error
    if not 200 <= answer.status < 300:
        raise failed(
            proxy,
            f"refused the connection to {place}: HTTP {answer.status}",
            transient=answer.status in (502, 503, 504),
            http_status=answer.status,
        )


def socks_tunnel(proxy: Proxy, host: str, port: int, limit: Limit) -> Stream:
    """Open a tunnel to host:port through a SOCKS proxy. Raises NetworkError (network.proxy, network.dns).

    Raises UsageError when PySocks is not installed.
    """
    try:
        import socks
    except ImportError as error:
        raise UsageError(
            f"{proxy.variable}: a SOCKS proxy needs the extra guestctl[socks]",
            code="config.key",
            hint="install it: pip install PySocks",
        ) from error
    place = authority(host, port)
    host = _for_socks(proxy, host, port, limit)
    last: OSError = OSError("no address")
    addresses = _addresses(proxy, limit)
    for tried, (family, *_, address) in enumerate(addresses):
        made: Any = socks.socksocket(family)
        try:
            left = limit.remaining()
            seconds = None if left is None else left / (len(addresses) - tried)
            _negotiate(socks, made, proxy, address[0], (host, port), seconds)
        except socks.ProxyConnectionError as error:  # another address of the proxy may work
            made.close()
            last = error.socket_err
            continue
        except OSError as error:
            made.close()
            raise _refused(proxy, place, error) from error
        except BaseException:
            made.close()
            raise
        stream = Stream(family, fileno=made.detach())
        stream.adopt(limit)
        stream.prepare()
        return stream
    raise failed(proxy, f"of {proxy.variable}: {why(last).lower()}") from last


def _negotiate(
    socks: Any, made: Any, proxy: Proxy, address: str, destination: tuple[str, int], seconds: float | None
) -> None:
    """Connect to the proxy and ask it for the tunnel, within `seconds`. Raises OSError.

    PySocks limits each read, so that a timer has to end the whole exchange.
    """
    kind = socks.SOCKS5 if proxy.scheme.startswith("socks5") else socks.SOCKS4
    password = proxy.password.reveal() if proxy.password else None
    # Never let PySocks resolve a name: nothing could interrupt that.
    made.set_proxy(kind, address, proxy.port, True, proxy.username or None, password)
    made.settimeout(seconds)
    over = threading.Event()

    def end() -> None:
        over.set()
        with suppress(OSError):
            made.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(threading.TIMEOUT_MAX if seconds is None else seconds, end)
    timer.daemon = True
    timer.start()
    try:
        with INTERRUPTS.allowed():
            made.connect(destination)
    except OSError as error:
        if over.is_set():
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()


def _addresses(proxy: Proxy, limit: Limit) -> list[tuple[Any, ...]]:
    try:
        return resolve(proxy.host, proxy.port, limit.remaining())
    except TimeoutError as error:
        raise failed(proxy, f"of {proxy.variable}: timed out resolving the name") from error
    except (OSError, UnicodeError) as error:
        passing = isinstance(error, OSError) and error.errno == socket.EAI_AGAIN
        what = f"of {proxy.variable}: the name does not resolve ({why(error)})"
        raise failed(proxy, what, transient=passing) from error


def _for_socks(proxy: Proxy, host: str, port: int, limit: Limit) -> str:
    """Return the service's host in the form that the proxy receives: a name, or an address that is resolved here."""
    only_ipv4 = proxy.scheme.startswith("socks4")
    found: list[str] = [host]
    if proxy.scheme in {"socks5", "socks4"} or address_of(host) is not None:
        try:
            addresses = resolve(host, port, limit.remaining())
        except TimeoutError as error:
            raise NetworkError(f"{authority(host, port)}: timed out resolving the name", code="network.dns") from error
        except (OSError, UnicodeError) as error:
            message = f"{authority(host, port)}: the name does not resolve ({why(error)})"
            raise NetworkError(message, code="network.dns") from error
        found = [str(a[4][0]) for a in addresses if not only_ipv4 or a[0] == socket.AF_INET]
    if not found:
        raise failed(proxy, f"cannot reach {authority(host, port)}: SOCKS4 knows no IPv6 addresses", transient=False)
    if len(found[0]) > _LONGEST:
        raise failed(proxy, f"cannot reach {authority(host, port)}: the name is too long for SOCKS", transient=False)
    return found[0]


def _refused(proxy: Proxy, place: str, error: OSError) -> NetworkError:
    """Return the failure that an exception of PySocks stands for. Those nest: the innermost has the reason."""
    while isinstance(inner := getattr(error, "socket_err", None), OSError):
        error = inner
    said = str(getattr(error, "msg", "") or "")
    code, colon, text = said.partition(": ")
    if colon and code.startswith("0x"):
        return failed(proxy, f"refused the connection to {place}: {_lower(text)}", transient=code in _PASSING)
    if type(error).__name__ == "SOCKS5AuthError":
        return failed(proxy, f"refused the connection to {place}: {_lower(said)}", transient=False)
    return failed(proxy, f"did not open a tunnel to {place}: {_lower(said) if said else why(error).lower()}")


def _lower(text: str) -> str:
    """Return the text of an error without a capital at its start, unless that belongs to an abbreviation."""
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]
