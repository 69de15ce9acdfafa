"""Who may open the page, read the feed and send commands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import requests
import websocket

from guestctl.inspector.of_sandbox import inspector_of
from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from tests.cli.conftest import Front
from tests.inspector.page import STUCK, Page, serving
from tests.sandbox.stranger import Stranger


def status_of_feed(page: Page, origin: str | None, cookie: str | None, host: str | None = None) -> int:
    """Return the status that answers an upgrade to the feed."""
    try:
        socket: Any = websocket.create_connection(
            "ws" + page.address[4:] + "feed",
            header=[f"Cookie: {cookie}"] if cookie else [],
            origin=origin,
            suppress_origin=origin is None,
            host=host,
            timeout=STUCK,
        )
    except websocket.WebSocketBadStatusException as refused:
        return int(refused.status_code)
    socket.shutdown()
    return 101


def test_the_page_has_a_strict_policy_and_no_secret(page: Page) -> None:
    answer = requests.get(page.address, timeout=STUCK)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert page.token not in answer.text
    policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["Content-Security-Policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "connect-src": f"'self' ws{page.origin[4:]}",
        "img-src": "'self' data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    for name in re.findall(r'src="([^"]+)"', answer.text):
        asset = requests.get(page.address + name, timeout=STUCK)
        assert (asset.status_code, asset.headers["Content-Type"]) == (200, "text/javascript; charset=utf-8")
    assert requests.get(page.address + "static/../feed", timeout=STUCK).status_code != 200
    assert requests.get(page.address + "static/secret.js", timeout=STUCK).status_code == 404
    assert requests.get(page.address[:-1], timeout=STUCK, allow_redirects=False).headers["Location"] == "/_inspector/"


def test_the_token_is_long_and_buys_a_cookie_that_scripts_and_other_sites_cannot_use(
    sandbox: Sandbox, page: Page
) -> None:
    assert re.fullmatch(r"[\w-]{32}", page.token)  # 192 bits in Base64
    assert page.token != sandbox.admin_key
    answer = page.post("login", {"token": page.token}, {"Cookie": ""})
    name, *attributes = answer.headers["Set-Cookie"].split("; ")
    assert attributes == ["Path=/_inspector", "HttpOnly", "SameSite=Strict"]
    assert name.startswith(f"guestctl-inspector-{page.next()['instance']}=")
    assert page.token not in name
    for wrong in (page.token[:-1], page.token + "x", "", None, 7, "é" * 32, "x" * 500):
        refused = page.post("login", {"token": wrong}, {"Cookie": ""})
        assert (refused.status_code, refused.headers.get("Set-Cookie")) == (403, None)
        assert page.token not in refused.text


def test_two_inspectors_have_different_tokens_and_cookies(page: Page) -> None:
    with running(SandboxOptions(fast=True), page=inspector_of) as other, Page(str(other.ui_url)) as second:
        assert page.token != second.token
        assert page.cookie.partition("=")[0] != second.cookie.partition("=")[0]
        assert status_of_feed(second, second.origin, page.cookie) == 401
        assert status_of_feed(second, second.origin, f"other=1; {page.cookie}; {second.cookie}; x") == 101


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1:1", "localhost.evil:{port}", "{port}"]
)
def test_a_rebound_host_is_refused_everywhere(page: Page, host: str) -> None:
    host = host.format(port=page.origin.rpartition(":")[2])
    for path in ("", "static/app.js", "feed", "nothing"):
        assert requests.get(page.address + path, headers={"Host": host}, timeout=STUCK).status_code == 403
    for path in ("login", "api/send", "api/faults"):
        headers = {"Host": host, "Origin": f"http://{host}"}
        assert page.post(path, {"token": page.token}, headers).status_code == 403
    assert status_of_feed(page, f"http://{host}", page.cookie, host) == 403


def test_localhost_is_another_name_of_the_same_page(page: Page) -> None:
    host = f"localhost:{page.origin.rpartition(':')[2]}"
    assert status_of_feed(page, f"http://{host}", page.cookie, host) == 101
    assert status_of_feed(page, page.origin, page.cookie, host) == 403


def test_the_feed_needs_the_cookie_and_its_own_origin(page: Page) -> None:
    port = int(page.origin.rpartition(":")[2])
    assert status_of_feed(page, page.origin, page.cookie) == 101
    assert status_of_feed(page, page.origin, None) == 401
    assert status_of_feed(page, page.origin, page.cookie[:-1]) == 401
    for origin in (f"http://127.0.0.1:{port + 1}", "https://evil.example", "null", f"https://127.0.0.1:{port}", None):
        assert status_of_feed(page, origin, page.cookie) == 403, origin


def test_commands_need_cookie_origin_and_json(sandbox: Sandbox, page: Page) -> None:
    """A form or a script of another page can send each of these, with the cookie of the same site."""
    for headers, status in (
        ({"Cookie": ""}, 401),
        ({"Origin": ""}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": ""}, 415),
    ):
        assert page.post("api/faults", {"add": ["delay"]}, headers).status_code == status, headers
        assert page.post("api/send", {"session": "x", "text": "y"}, headers).status_code == status, headers
    assert requests.get(page.address + "api/faults", timeout=STUCK).status_code == 405
    assert (
        requests.options(page.address + "api/faults", timeout=STUCK).headers.get("Access-Control-Allow-Origin") is None
    )
    assert sandbox.call(sandbox.faults.list) == ()
    page.do("faults", add=["delay"])
    assert sandbox.call(sandbox.faults.list) == ("delay",)


def test_a_large_body_is_not_read_without_the_cookie(page: Page) -> None:
    large = {"session": "x", "text": "y" * 2_000_000}
    assert page.post("api/send", large, {"Cookie": ""}).status_code == 401
    assert page.post("login", large, {"Cookie": ""}).status_code == 413
    assert page.post("api/send", {"session": "x", "text": "y" * (17 << 20)}).status_code == 413


def test_guests_are_served_next_to_the_page_and_pages_only_with_ui(sandbox: Sandbox, page: Page) -> None:
    with Stranger(sandbox) as guest:
        guest.configure()
        assert guest.jwt()
    with running(SandboxOptions(fast=True)) as plain:
        assert plain.ui_url is None
        assert requests.get(f"{plain.url}/_inspector/", timeout=STUCK).status_code == 404


def test_the_command_prints_the_address_once_and_does_not_store_it(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, ready), Page(ready["ui_url"]) as page:
        assert ready["ui_url"].startswith(f"{ready['url']}/_inspector/#")
        stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        assert ready["admin_key"].encode() in stored
        assert page.token.encode() not in stored


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "inspector.example"])
def test_only_a_loopback_address_shows_a_page(alone: Front, host: str) -> None:
    refused = alone("sandbox", "serve", "--ui", "--host", host)
    assert refused.code == 2
    assert f'--ui needs a loopback address, and --host is "{host}"' in refused.err
