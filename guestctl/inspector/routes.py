"""The inspector: its page, its feed and its commands, as routes for the port of a source.

Knows: paths, and how access, history, feed and desk belong together. Must not know: tornado, what a source is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from guestctl.core.clock import Clock
from guestctl.core.redact import Redactor
from guestctl.inspector.desk import CannotDo, Controls, Desk
from guestctl.inspector.feed import Feed
from guestctl.inspector.page_access import PATH, PageAccess, json_body, refusal
from guestctl.inspector.retained import Retained
from guestctl.pages.assets import asset, names
from guestctl.transport.web_routes import MountedRoutes, WebReply, WebRequest, WebRoute, WebSocketRoute, WebStream

PAGE = "inspector.html"
#: Limits in bytes of the bodies of a login and of a command. A file is sent in Base64.
_LOGIN_LIMIT, _COMMAND_LIMIT = 1024, 16 << 20


class Inspector:
    """What a page in a browser shows of one source, and how it controls it.

    `source` is `sandbox`, `proxy` or `trace`. `controls` is what the page may control. `port` returns the port of the
    source once it is known. `secure` says whether that port has TLS. `watched` is called with True before the first
    page reads and with False after the last one has left. `problem` is called with each exception that a request did
    not expect.
    """

    def __init__(
        self,
        *,
        source: str,
        title: str,
        clock: Clock,
        redactor: Redactor,
        controls: Controls,
        port: Callable[[], int],
        secure: bool = False,
        watched: Callable[[bool], None] = lambda watched: None,
        problem: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        self._source = source
        self._title = title
        self._controls = controls
        self._desk = Desk(controls)
        self._access = PageAccess(secure=secure, port=port)
        redactor.add(self._access.token)
        self._retained = Retained(clock.now, redactor)
        self._feed = Feed(
            self._retained, hello=self._hello, sessions=controls.sessions, faults=self._faults, watched=watched
        )
        self._mounted = MountedRoutes(
            self.routes, scheme=self._access.scheme, is_own_host=self._access.is_own_host, problem=problem
        )

    @property
    def rules(self) -> list[Any]:
        """The rules for the tornado application of the source. They come before its own."""
        return self._mounted.rules(rf"{PATH}(?:/.*)?")

    def address(self, base_url: str) -> str:
        """Return the address for the user. It contains the token, which is a secret."""
        return self._access.address(base_url)

    @property
    def observe(self) -> Callable[[str, Mapping[str, Any]], None]:
        """What takes the events of the source, in the thread of the server's event loop."""
        return self._retained.add

    def end(self) -> None:
        """Tell the pages that the source ends. Called in the thread of the server's event loop."""
        self._feed.end()

    @property
    def routes(self) -> list[WebRoute | WebSocketRoute]:
        """The routes, for a web server that serves nothing else."""
        access = self._access
        routes: list[WebRoute | WebSocketRoute] = [
            WebRoute("GET", f"{PATH}/", self._page),
            WebRoute("GET", PATH, self._moved),
            WebRoute("POST", f"{PATH}/login", self._log_in, access.check_login, _LOGIN_LIMIT),
            WebRoute("POST", f"{PATH}/api/send", self._send, access.check_command, _COMMAND_LIMIT),
            WebRoute("POST", f"{PATH}/api/faults", self._change_faults, access.check_command, _COMMAND_LIMIT),
            WebSocketRoute(f"{PATH}/feed", self._admit, self._opened),
        ]
        routes += [WebRoute("GET", f"{PATH}/static/{name}", self._asset) for name in sorted(names())]
        return routes

    def _hello(self) -> Mapping[str, Any]:
        guest = self._controls.guest
        return {
            "type": "hello",
            "source": self._source,
            "title": self._title,
            "can": list(self._controls.can),
            "instance": self._access.instance,
            **({} if guest is None else {"guest": guest}),
        }

    def _faults(self) -> Mapping[str, Any] | None:
        if "faults" not in self._controls.can:
            return None
        return {"type": "faults", "armed": list(self._controls.armed()), "kinds": list(self._controls.kinds())}

    async def _page(self, request: WebRequest) -> WebReply:
        return self._file(request, PAGE)

    async def _asset(self, request: WebRequest) -> WebReply:
        return self._file(request, request.path.rpartition("/")[2])

    async def _moved(self, request: WebRequest) -> WebReply:
        return WebReply(308, headers={"Location": f"{PATH}/"})  # browsers retain the fragment

    def _file(self, request: WebRequest, name: str) -> WebReply:
        found = asset(name)
        return WebReply(200, found.body, {**self._access.headers(request), "Content-Type": found.content_type})

    async def _log_in(self, request: WebRequest) -> WebReply:
        return self._access.log_in(request)

    async def _send(self, request: WebRequest) -> WebReply:
        return self._perform(request, self._desk.send, "agent")

    async def _change_faults(self, request: WebRequest) -> WebReply:
        return self._perform(request, self._desk.faults, "faults")

    def _perform(self, request: WebRequest, what: Callable[[Mapping[str, Any]], None], ability: str) -> WebReply:
        if ability not in self._controls.can:
            raise refusal(404, f"a {self._source} has no {ability}")
        try:
            what(json_body(request))
        except CannotDo as refused:
            raise refusal(422, str(refused)) from None
        self._feed.refresh()
        return WebReply(204, headers=self._access.headers(request))

    def _admit(self, request: WebRequest) -> str | None:
        self._access.check_own_page(request)
        self._access.check_cookie(request)
        if not self._feed.has_room:
            raise refusal(503, "too many pages are open")
        return None

    def _opened(self, request: WebRequest, stream: WebStream) -> None:
        self._feed.open(stream)
