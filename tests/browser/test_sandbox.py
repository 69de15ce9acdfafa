"""The inspector of a real `guestctl sandbox serve --ui`, in a browser, with guests of guestctl."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.inspector.page import ROOT, serving

Opened = Callable[..., Any]
#: Seconds after which something that must happen counts as stuck.
STUCK = 60.0


class Guests:
    """Runs guestctl as guests of one sandbox."""

    def __init__(self, place: Path, ready: Mapping[str, Any]) -> None:
        self.ui_url: str = ready["ui_url"]
        self._place = place
        self._environ = {
            "GUESTCTL_STATE": str(place / "state"),
            "XDG_CONFIG_HOME": str(place),
            "GUESTCTL_PROFILE": "sandbox",
            "PATH": os.defpath,
            "PYTHONPATH": str(ROOT),
        }

    def __call__(self, *argv: str) -> None:
        """Run a command to its end."""
        subprocess.run(**self._process(*argv), check=True, timeout=STUCK, stdout=subprocess.DEVNULL)

    @contextmanager
    def running(self, *argv: str) -> Iterator[subprocess.Popen[str]]:
        with subprocess.Popen(**self._process(*argv), stdout=subprocess.PIPE) as process:
            yield process
            process.terminate()

    def _process(self, *argv: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "guestctl", *argv]
        return {"args": command, "cwd": self._place, "env": self._environ, "text": True, "stdin": subprocess.DEVNULL}


@pytest.fixture
def guests(tmp_path: Path) -> Iterator[Guests]:
    with serving(tmp_path, "--fast") as (_, ready):
        yield Guests(tmp_path, ready)


def row(page: Any, text: str) -> Any:
    return page.locator(".entry", has_text=text)


def tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def test_a_conversation_appears_and_the_desk_reaches_the_guest(guests: Guests, opened: Opened) -> None:
    page = opened(guests.ui_url)
    page.locator(".status.good").wait_for()
    guests("session", "create")
    guests("ask", "Where is my parcel?")
    row(page, "guest: Where is my parcel?").wait_for()
    row(page, "echo: Where is my parcel?").first.wait_for()
    page.locator("gc-sessions li").nth(1).wait_for()
    tab(page, "Agent desk")
    page.locator("gc-desk .bubble", has_text="Where is my parcel?").first.wait_for()
    with guests.running("listen") as listen:
        row(page, "SessionResponse").nth(2).wait_for()
        page.get_by_label("Answer as the agent").fill("On its way")
        page.get_by_label("Answer as the agent").press("Enter")
        assert listen.stdout is not None
        assert any(json.loads(line).get("text") == "On its way" for line in listen.stdout)
    page.locator("gc-desk .bubble.service", has_text="On its way").wait_for()


def test_a_fault_that_is_switched_on_affects_the_next_frame(guests: Guests, opened: Opened) -> None:
    page = opened(guests.ui_url)
    tab(page, "Faults")
    switch = page.get_by_role("switch", name="duplicate")
    page.get_by_label("next of duplicate", exact=True).fill("1")
    page.get_by_label("keys of duplicate", exact=True).fill("on=send")
    switch.click()
    page.get_by_text("fired 0 times, 1 left").wait_for()
    guests("session", "create")
    guests("ask", "hi")
    page.get_by_text("fired 1 time, 0 left").wait_for()
    echoes = page.locator(".entry .summary", has_text=re.compile("^echo: hi$"))
    echoes.nth(1).wait_for()
    assert echoes.count() == 2


def test_the_guest_of_the_page_converses(guests: Guests, opened: Opened) -> None:
    page = opened(guests.ui_url)
    tab(page, "Try it")
    page.get_by_label("Message of the guest").fill("Hello from the page")
    page.get_by_label("Message of the guest").press("Enter")
    widget = page.locator("gc-try-it")
    widget.locator(".bubble.service", has_text="echo: Hello from the page").wait_for()
    assert widget.locator(".bubble").count() == 2
    tab(page, "Agent desk")
    page.get_by_label("Answer as the agent").fill("Pizza?")
    page.get_by_text("Quick replies").click()
    page.get_by_label("Labels, with commas between").fill("Yes, No")
    page.get_by_role("button", name="Send").click()
    page.locator("gc-desk .bubble.service", has_text="Pizza?").wait_for()
    tab(page, "Try it")
    widget.get_by_role("button", name="Yes").click()
    widget.locator(".bubble.guest", has_text="Yes").wait_for()
    # The connection is closed and opened again: every message is there once.
    widget.get_by_role("button", name="Disconnect").click()
    widget.get_by_role("button", name="Start").click()
    widget.get_by_text("Connected").wait_for()
    texts = widget.locator(".bubble .text").all_inner_texts()
    assert sorted(set(texts)) == sorted(texts)
    tab(page, "Agent desk")
    page.get_by_role("button", name="End conversation").click()
    tab(page, "Try it")
    widget.get_by_text("The conversation has ended").wait_for()
