"""A locustfile with `GuestUser`, under `guestctl load` and under Locust alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from guestctl.sandbox.server import Sandbox
from tests.load.conftest import Room

LOCUSTFILE = """
import gevent
from locust import task

from guestctl.load import GuestUser


class Customer(GuestUser):
    think = (0.05, 0.1)
    timeout = 20
    attributes = {"tier": "gold"}

    @task
    def talk(self):
        reply = self.ask("hi", contains="ECHO: hi")
        assert reply.text == "echo: hi"
        self.say("costs ${nothing}")
        assert self.wait_for_reply().text == "echo: costs ${nothing}"
        assert self.client.session().state == "active"
        self.new_session()
"""

WRONG = """
from locust import task

from guestctl.load import GuestUser


class Customer(GuestUser):
    think = 0.05
    timeout = 0.3

    @task
    def is_not_answered(self):
        self.ask("hi", contains="never")

    @task
    def is_wrong(self):
        raise KeyError("a mistake of the locustfile")
"""


@pytest.fixture
def at_served(at_sandbox: Callable[[Sandbox], Room], served: Sandbox) -> Room:
    room = at_sandbox(served)
    room.write("locustfile.py", LOCUSTFILE)
    return room


def test_the_guests_of_a_locustfile_are_measured(at_served: Room) -> None:
    done = at_served.run("load locustfile.py --guests 2 --ramp 100/s --conversations 6 -o json")
    found = done.record
    assert (done.code, found["failures"]) == (0, []), done.err
    assert found["passed"] > 2
    assert found["turns"] >= 2 * found["passed"]
    assert found["times"]["reply"]["count"] >= 2 * found["passed"]


def test_locust_alone_gets_the_times_as_requests(at_served: Room) -> None:
    ending = """self.new_session()
        self.left -= 1
        if not self.left:
            gevent.spawn(self.environment.runner.quit)  # not in the guest, which this ends
"""
    text = LOCUSTFILE.replace("self.new_session()", ending).replace("timeout = 20", "left = 3")
    at_served.write("locustfile.py", text)
    command = "-m locust -f locustfile.py --headless -u 2 -r 2 --only-summary"
    done = subprocess.run(
        [sys.executable, *command.split()],
        cwd=at_served.path,
        env=dict(at_served.environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "Traceback" not in said
    for name in ("connect", "create", "accepted", "reply", "last_reply"):
        assert f"guest    {name}" in said


def test_failures_and_exceptions_of_tasks_are_counted(at_served: Room) -> None:
    at_served.write("wrong.py", WRONG)
    done = at_served.run("load wrong.py --guests 2 --ramp 100/s --conversations 4 -o json")
    found = done.record
    assert done.code == 0, done.err
    assert found["failed"] == found["not_passed"] > 0
    counted = {one["what"]: one["count"] for one in found["failures"]}
    assert counted.keys() == {"timed out waiting for a matching reply", "a task raised KeyError"}
    [line] = [line for line in done.err.splitlines() if "KeyError" in line]  # once, however often it happens
    assert line.startswith("a task raised KeyError: 'a mistake of the locustfile' (")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x = 1\n", "no user class; derive one from GuestUser"),
        ("import no_such_module\n", "ModuleNotFoundError"),
        (LOCUSTFILE.replace("timeout = 20", 'profile = "staging"'), "needs the profile"),
    ],
)
def test_a_locustfile_that_cannot_be_used_is_one_error(at_served: Room, text: str, why: str) -> None:
    at_served.write("locustfile.py", text)
    done = at_served.run("load locustfile.py --for 2s -o json")
    assert (done.code, done.out) == (2, ""), done.err
    assert '"code":"load.locustfile"' in done.err
    assert why in done.err
