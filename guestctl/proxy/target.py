"""The service behind the proxy: which host serves which path, and which hosts belong to it.

Knows: the documented addresses of every API, and the addresses of a profile. Must not know: sockets, the content of
requests.

Clients see one address, a real deployment has several. The path decides where it is unambiguous. For every other host
of the target, the path starts with `/_host/HOST`. Hosts that do not belong to the target are never reached.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit, urlunsplit

from guestctl.config.regions import REGIONS
from guestctl.core.errors import UsageError
from guestctl.core.model import Profile
from guestctl.core.redact import is_signed
from guestctl.dialects import NAMES, dialect_class
from guestctl.transport.hosts import address_of, authority, is_loopback, target

#: The start of a path that names its host.
HOST_PREFIX = "/_host/"
#: Hosts of every region (web-messaging.md §1.1).
_SERVICES = ("api", "webmessaging", "api-cdn", "login", "apps")
_CONFIGURATION = "/webdeployments/v1/"
_OAUTH = "/oauth/token"
#: Most addresses outside the target's own hosts that are remembered: the newest.
_MOST_NAMED = 10_000
_SECURE = {"https": True, "wss": True, "http": False, "ws": False}


class ServiceAddress(NamedTuple):
    """Where a request goes: whether with TLS, the host, the port, and the path with its query."""

    secure: bool
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The Host header: without the port if it is the usual one."""
        usual = 443 if self.secure else 80
        if self.port == usual:
            return f"[{self.host}]" if ":" in self.host else self.host
        return authority(self.host, self.port)

    def url(self, *, socket: bool = False) -> str:
        """Return the whole address."""
        scheme = ("wss" if self.secure else "ws") if socket else ("https" if self.secure else "http")
        return f"{scheme}://{self.authority}{self.path}"


class _Rule(NamedTuple):
    """A documented path, and the base address that serves it. `whole`: the base is the address itself."""

    pattern: re.Pattern[str]
    socket: bool
    base: ServiceAddress
    whole: bool


class Target:
    """One deployment or sandbox.

    `profile` has its addresses: its own API decides first where several APIs have the same path. Raises UsageError
    if no API has an address.
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._rules: list[_Rule] = []
        self._bases: dict[tuple[str, int], bool] = {}
        self._named: OrderedDict[tuple[str, int, str], bool] = OrderedDict()
        self._rest = self._socket = ""
        self._login = None if profile.base_url or not profile.region else f"https://login.{profile.region}"
        for name in dict.fromkeys((profile.api, *NAMES)):
            self._add(name)
        if not self._rest:
            raise UsageError(
                f'profile "{profile.name}": has no address of a service',
                code="config.key",
                hint="set region or base_url in the profile",
            )
        self._config = self._override(socket=False, configuration=True) or (
            f"https://api-cdn.{profile.region}" if profile.region else self._rest
        )
        self._domain = profile.region if not profile.sandbox else None
        for base in (self._config, self._login or self._rest):
            self._note(base)
        by_socket = bool(self._socket) and not urlsplit(self._socket).path
        self._default = _address(self._rest)
        self._default_socket = _address(self._socket if by_socket else self._rest)
        self._configuration = _address(self._config)
        self._platform = None if self._login is None else _address(self._login)
        known = (
            self._default,
            self._default_socket,
            self._configuration,
            self._platform,
            *(r.base for r in self._rules),
        )
        #: Hosts whose base address is one of the target's, so that the path alone leads to them.
        self._hosts_by_path = {(one.host, one.port) for one in known if one is not None and not one.path}

    @classmethod
    def of_url(cls, url: str) -> Target:
        """Return the target of one address. For a host of a known region, all hosts of the region belong to it.

        Raises UsageError for anything but an http, https, ws or wss address without credentials, query and fragment.
        """
        secure, host, _ = target(url)
        parts = urlsplit(url)
        if parts.query or parts.fragment or "@" in parts.netloc:
            raise UsageError(f'--to: "{parts.hostname}" has credentials, a query or a fragment', hint="give an address")
        service, _, domain = host.partition(".")
        if service in _SERVICES and secure and parts.path in ("", "/") and parts.port in (None, 443):
            for region in REGIONS:
                if region.domain == domain:
                    return cls(Profile(name="proxy", region=domain, aws_region=region.aws))
        base = f"http{'s' if secure else ''}://{parts.netloc}{parts.path}".rstrip("/")
        return cls(Profile(name="proxy", base_url=base))

    @property
    def name(self) -> str:
        """The address of the target as people know it."""
        return self._rest

    @property
    def bases(self) -> list[str]:
        """Every base address that has a rule."""
        named = (self._rest, self._socket, self._config, *(rule.base.url(socket=rule.socket) for rule in self._rules))
        return list(dict.fromkeys(named))

    def _add(self, name: str) -> None:
        """Add the documented addresses of an API, as far as the profile has what they need."""
        for _, pattern in dialect_class(name).documented_addresses:
            parts = urlsplit(pattern)
            if parts.path == _OAUTH and self._login is not None and name != self.profile.api:
                continue
            socket, configuration = parts.scheme == "wss", parts.path.startswith(_CONFIGURATION)
            base = self._override(socket=socket, configuration=configuration) or self._filled(parts)
            if base is None:
                continue
            if socket:
                self._socket = self._socket or base
            elif not configuration:
                self._rest = self._rest or base
            whole = socket and bool(urlsplit(base).path) and self.profile.socket_url is not None
            self._rules.append(_Rule(_compiled(parts.path), socket, _address(base), whole))
            self._note(base)

    def _override(self, *, socket: bool, configuration: bool) -> str | None:
        """Return the base address that the profile states, None if it follows from the region and the like."""
        profile = self.profile
        found = profile.base_url
        if socket:
            found = profile.socket_url or (None if found is None else _socket_base(found))
        elif configuration:
            found = profile.config_url or found
        return None if found is None else found.rstrip("/")

    def _filled(self, parts: SplitResult) -> str | None:
        """Return the base of a documented address with the profile's values, None if one is missing."""
        profile = self.profile
        values = {
            "region": profile.region,
            "domain": profile.region,
            "org": profile.org,
            "environment": profile.environment,
            "aws_region": profile.aws_region,
        }
        needed = re.findall(r"\{(\w+)\}", parts.netloc)
        if not all(values.get(name) for name in needed):
            return None
        return f"{parts.scheme}://{parts.netloc.format(**values)}"

    def _note(self, base: str) -> None:
        secure, host, port = target(base)
        self._bases[host, port] = secure

    def locate(self, path: str, *, socket: bool) -> ServiceAddress | None:
        """Return where a request for `path` (with its query) goes, None if its host does not belong to the target."""
        if path.startswith(HOST_PREFIX):
            return self._at_host(path)
        plain, _, query = path.partition("?")
        for rule in self._rules:
            if rule.socket == socket and rule.pattern.fullmatch(plain):
                return _joined(rule.base, ("?" + query if query else "") if rule.whole else path)
        if plain.startswith(_CONFIGURATION):
            return _joined(self._configuration, path)
        if plain == _OAUTH and self._platform is not None:
            return _joined(self._platform, path)
        return _joined(self._default_socket if socket else self._default, path)

    def _at_host(self, path: str) -> ServiceAddress | None:
        place, slash, rest = path[len(HOST_PREFIX) :].partition("/")
        try:
            _, host, port = target(f"https://{place}")
        except UsageError:
            return None
        rest = slash + rest
        secure = self._bases.get((host, port))
        if secure is None and port == 443 and self.owns(host, port):
            secure = True
        if secure is None:
            secure = self._named.get((host, port, rest.partition("?")[0]))
        return None if secure is None else ServiceAddress(secure, host, port, rest or "/")

    def owns(self, host: str, port: int) -> bool:
        """Return whether a host is one of the target's own."""
        if (host, port) in self._bases:
            return True
        return self._domain is not None and port == 443 and (host == self._domain or host.endswith("." + self._domain))

    def admit(self, url: str) -> bool:
        """Remember a presigned address that the target named, and return whether it may be reached through the proxy.

        Only this path of its host is admitted, only with TLS, and no address of a private network.
        """
        secure, host, port = target(url)
        if not secure or is_loopback(host) or address_of(host) is not None or not is_signed(url):
            return False
        self._named[host, port, urlsplit(url).path] = True
        while len(self._named) > _MOST_NAMED:
            self._named.popitem(last=False)
        return True

    def through(self, url: str, own: str, *, secure: bool) -> str | None:
        """Return an address of the target as a client of the proxy must use it; None for any other address.

        `own` is the host and port of the proxy as the client writes it, `secure` whether the proxy has TLS.
        """
        try:
            _, host, port = target(url)
            parts = urlsplit(url)
        except (UsageError, ValueError):
            return None
        socket = parts.scheme in ("ws", "wss")
        if not (self.owns(host, port) or self.admit(url)):
            return None
        rest = url[url.index("//") + 2 + len(parts.netloc) :]
        place = "" if self._leads_back(host, port, rest, socket=socket) else HOST_PREFIX + _written(url, host, port)
        scheme = ("wss" if secure else "ws") if socket else ("https" if secure else "http")
        return f"{scheme}://{own}{place}{rest}"

    def _leads_back(self, host: str, port: int, rest: str, *, socket: bool) -> bool:
        """Return whether the path alone leads to this host. A base address without a path is one that has rules."""
        if not rest.startswith("/") or rest == "/":
            return (host, port) in self._hosts_by_path
        found = self.locate(rest, socket=socket)
        return found is not None and (found.host, found.port, found.path) == (host, port, rest)


def _socket_base(base: str) -> str:
    """Return the socket address that follows from a REST address: the same host, without its path."""
    parts = urlsplit(base)
    return urlunsplit(("wss" if parts.scheme == "https" else "ws", parts.netloc, "", "", ""))


def _written(url: str, host: str, port: int) -> str:
    usual = 443 if _SECURE[urlsplit(url).scheme] else 80
    return host if port == usual == 443 else authority(host, port)


def _address(base: str) -> ServiceAddress:
    """Return a base address whose path has no slash at its end."""
    return ServiceAddress(*target(base), urlsplit(base).path.rstrip("/"))


def _joined(base: ServiceAddress, path: str) -> ServiceAddress:
    return ServiceAddress(base.secure, base.host, base.port, base.path + path or "/")


def _compiled(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{\w+\\}", "[^/?]+", re.escape(path)))
