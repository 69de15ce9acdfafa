"""The examples of docs/deployment.md run as printed: units of systemd, and the jobs of two CI servers."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from tests.cli.conftest import Front
from tests.cli.shell import Shell
from tests.cli.test_signals import listening, started, until

PAGE = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text(encoding="utf-8")
#: A bot, and a script of which it passes one half.
BOT = "rules: [{equals: hi, reply: Hello!}]\notherwise: We are closed\n"
SMOKE = (
    "scenarios:\n  greets: [{say: hi}, {expect: Hello}]\n"
    "  takes orders: [{say: order}, {expect: {contains: Pizza, within: 100ms}}]\n"
)


def blocks(language: str) -> dict[str, str]:
    """Return the code blocks of a language by the file that their first line names."""
    found = re.findall(rf"^```{language}\n# (\S+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return dict(reversed(found))  # of two with one name, the first


UNITS = blocks("ini")


def unit(text: str) -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read_string(text)
    return parsed


def here(text: str, cwd: Path) -> str:
    """Return a text of a unit with the directories of this test."""
    return text.replace("/var/lib/guestctl", str(cwd)).replace("/etc/guestctl", str(cwd))


@pytest.mark.parametrize("name", UNITS)
def test_a_service_that_systemd_stops_has_not_failed(front: Front, sandbox: Sandbox, name: str) -> None:
    """Its command runs with its variables, and its exit code after SIGTERM counts as success."""
    service = unit(UNITS[name])["Service"]
    cwd = front.cwd
    profile = f"{{base_url: '{sandbox.url}', deployment_id: {sandbox.deployment_id}}}"
    (cwd / "profiles.yaml").write_text(f"profiles: {{staging: {profile}}}\n")
    variables = dict(pair.split("=", 1) for pair in here(service["Environment"], cwd).split())
    kept = ("PATH", "XDG_CONFIG_HOME", "GUESTCTL_SANDBOX_URL", "GUESTCTL_SANDBOX_ADMIN_KEY")
    own = Front({key: front.environ[key] for key in kept} | variables, cwd)
    program, *words = shlex.split(here(service["ExecStart"], cwd))
    assert program == "/opt/guestctl/bin/guestctl"
    listens = "listen" in words
    if listens:
        assert own("session", "create", "-p", "staging", "--as", "cart").code == 0
    else:
        words[words.index("--port") + 1] = "0"
    with started(own, *words) as process:
        if listens:
            until(lambda: listening(front))
        else:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(b"sandbox ready at ")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
    assert process.returncode == (143 if listens else 0), err
    assert process.returncode in {0, *map(int, service.get("SuccessExitStatus", "0").split())}


@pytest.mark.parametrize("name", UNITS)
def test_systemd_accepts_a_unit(tmp_path: Path, name: str) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed here")
    file = tmp_path / Path(name).name
    file.write_text(UNITS[name].replace("/opt/guestctl/bin/guestctl", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", str(file)], capture_output=True, text=True, timeout=60
    )
    complaints = [line for line in done.stderr.splitlines() if file.name in line]
    assert complaints == []


@pytest.fixture
def shell(sandboxed: Callable[[Sandbox], Front], tmp_path: Path) -> Iterator[Shell]:
    (tmp_path / "bot.yaml").write_text(BOT)
    (tmp_path / "smoke.yaml").write_text(SMOKE)
    with running(SandboxOptions(fast=True, script=tmp_path / "bot.yaml")) as served:
        yield Shell(sandboxed(served))


def test_the_github_job_runs(shell: Shell) -> None:
    [job] = yaml.safe_load(blocks("yaml")[".github/workflows/bot.yml"])["jobs"].values()
    install, check = [step["run"] for step in job["steps"] if "run" in step]
    assert install == "pip install ./guestctl"
    printed = shell(check, {"GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(shell.cwd)}, code=1)
    assert "\n::error file=smoke.yaml,line=3,title=takes orders::" in printed
    [uploaded] = [step["with"]["path"] for step in job["steps"] if "upload" in step.get("uses", "")]
    assert 'tests="2"' in (shell.cwd / uploaded).read_text()


@pytest.mark.parametrize("number", [0, 1])
def test_a_gitlab_job_runs(shell: Shell, number: int) -> None:
    found: list[str] = re.findall(r"^```yaml\n# \.gitlab-ci\.yml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    job: dict[str, Any] = yaml.safe_load(found[number])["smoke"]
    *install, check = job["script"]
    assert install == ["pip install ./guestctl"][number:]
    shell(check, {"CI": "true"}, code=1)
    assert 'tests="2"' in (shell.cwd / job["artifacts"]["reports"]["junit"]).read_text()
    assert job["artifacts"]["when"] == "always"


def test_the_command_of_the_container_serves(alone: Front) -> None:
    service = yaml.safe_load(blocks("yaml")["compose.yaml"])["services"]["sandbox"]
    words = service["command"]
    assert f"guestctl {' '.join(words)}\n" in PAGE  # the same with `docker run`
    assert service["ports"] == ["127.0.0.1:{0}:{0}".format(words[words.index("--port") + 1])]
    words[words.index("--port") + 1] = "0"
    with started(alone, *words) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"sandbox ready at http://127.0.0.1:")
        assert alone("-p", "sandbox", "ask", "hi").out == "echo: hi\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
