"""The tests of the pages in a real browser: Chromium, driven by Playwright. CONTRIBUTING.md has the command.

Every page is watched: a script error, a message in the console, a violation of the page's policy or a request to
anything but this machine fails the test.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.browser.feed_server import FeedServer, feeding

#: Where `npm ci --prefix tests/node` installs packages.
MODULES = Path(__file__).parent.parent / "node" / "node_modules"
#: Reports violations of the policy, also those that the console leaves out.
_WATCH = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective + event.blockedURI));
"""


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A Chromium for the whole run. Skips the tests if there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (CONTRIBUTING.md)")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with api.sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--js-flags=--expose-gc"]
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open an address in a page of its own: `opened(address, color_scheme="dark", …)`."""
    pages: list[tuple[Any, list[str], bool]] = []

    def open_page(address: str, *, watched: bool = True, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        context.set_default_timeout(30_000)
        page = context.new_page()
        faults: list[str] = []
        page.on("console", lambda message: faults.append(f"console: {message.type}: {message.text}"))
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on("request", lambda request: faults.extend(_foreign(request.url)))
        page.add_init_script(_WATCH)
        page.goto(address)
        pages.append((page, faults, watched))
        return page

    yield open_page
    for page, faults, watched in pages:
        violations = page.evaluate("window.violations")
        page.context.close()
        if watched:
            assert (faults, violations) == ([], [])


def _foreign(url: str) -> list[str]:
    parts = urlsplit(url)
    own = parts.scheme in {"data", "blob", "file"} or parts.hostname == "127.0.0.1"
    return [] if own else [f"request: {url}"]


@pytest.fixture
def feed() -> Iterator[FeedServer]:
    """A feed that the test writes."""
    with feeding() as server:
        yield server
