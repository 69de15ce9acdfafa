"""Writes the generated parts of README and `docs/`: `python -m tools.readme`.

`tests/test_readme.py` checks that they are current.

Knows: which part belongs to which page, and how values that differ between runs are replaced. Must not
know: what a command prints.
"""

from __future__ import annotations

import io
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from guestctl.checks.script_keys import table
from guestctl.cli.commands.explanations import everything
from guestctl.cli.invocation import Environment
from guestctl.cli.main import run
from guestctl.cli.registry import COMMANDS
from guestctl.dialects import NAMES, dialect_class
from guestctl.dialects.capabilities import Ability, Standing
from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from guestctl.sandbox.subshell import MARK, greeting
from tests.cli.conftest import Front
from tests.cli.shell import Shell
from tools.statements import table as statement_table

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
WIDTH = "100"

#: The bot of the README's transcripts.
BOT = """
rules:
  - {contains: parcel, reply: Your parcel is on its way., quickReplies: [Track it, Send it back]}
  - {equals: hi, reply: "May we ask you some questions?"}
  - {equals: "Yes", reply: Then the next question...}
  - {equals: order, reply: We are closed}
otherwise: "echo: ${text}"
"""


def output_of(*argv: str) -> str:
    """Return what a command prints on a terminal."""
    out = io.StringIO()
    world = Environment(stdin=io.StringIO(), stdout=out, stderr=io.StringIO(), environ={"COLUMNS": WIDTH})
    assert run(list(argv), world) == 0, argv
    return out.getvalue()


@contextmanager
def _guest(options: SandboxOptions) -> Iterator[tuple[Front, Sandbox]]:
    """Yield the command line in an empty directory, on a fresh sandbox."""
    with tempfile.TemporaryDirectory() as place, running(options) as sandbox:
        environ = {"GUESTCTL_PROFILE": "sandbox", "GUESTCTL_SANDBOX_URL": sandbox.url, "COLUMNS": WIDTH}
        environ |= {"GUESTCTL_SANDBOX_ADMIN_KEY": sandbox.admin_key, "GUESTCTL_STATE": f"{place}/state"}
        yield Front(environ, Path(place)), sandbox


_TYPED = (
    'guestctl ask "Where is my parcel?"',
    'guestctl send "Are you still there?" --wait | jq -r .delivery',
    "guestctl history | jq -s length",
)
_FAULT = "--fault drop:code=1006,after=1,on=send"
_CONFIGURES = "echo configures $(guestctl sandbox sessions | jq .configures)"


def session() -> str:
    """Return a real session, typed into a shell that `sandbox exec` starts."""
    command = "guestctl sandbox exec -- bash"
    script = "".join(f"echo {shlex.quote(f'{MARK}$ {line}')}\n{line}\n" for line in _TYPED)
    entered = greeting("http://127.0.0.1:49213", "web-messaging")
    return f"```console\n$ {command}\n{entered}\n{_printed(command, script, opened=len(_TYPED))}```\n"


def fault() -> str:
    """Return a question on a service that breaks the connection before it acknowledges the message."""
    command = f"guestctl sandbox exec {_FAULT} --"
    line = 'guestctl ask "Are you still there?"'
    return f"```console\n$ {command} {line}\n{_printed(f'{command} bash', line, opened=2)}```\n"


def _printed(command: str, script: str, *, opened: int) -> str:
    """Return what the script prints in a shell. Check how many sockets it opened."""
    with tempfile.TemporaryDirectory() as place:
        shell = Shell(Front({"GUESTCTL_STATE": f"{place}/state"}, Path(place)))
        printed = shell(f"{command} -c {shlex.quote(script.strip() + chr(10) + _CONFIGURES)}")
    printed, _, configures = printed.rpartition("configures ")
    assert int(configures) == opened, f"{configures.strip()} sockets were opened"
    return printed


def report() -> str:
    """Return the report of `check` on the README's script and a bot that fails half of it."""
    text = README.read_text(encoding="utf-8")
    script = re.search(r"^```yaml\n(# smoke\.yaml\n.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert script is not None
    with tempfile.TemporaryDirectory() as place:
        bot = Path(place) / "bot.yaml"
        bot.write_text(BOT, encoding="utf-8")
        with _guest(SandboxOptions(fast=True, script=bot)) as (guest, _):
            (guest.cwd / "smoke.yaml").write_text(script[1], encoding="utf-8")
            shown = Shell(guest)("guestctl check smoke.yaml --parallel 10 --junit report.xml", code=1)
            assert "<testsuite" in (guest.cwd / "report.xml").read_text(encoding="utf-8")
    shown = re.sub(r"\([0-9a-f-]{4,}…?\)", "(21f9…)", shown)
    shown = re.sub(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "8d1f4c7e-5b0a-4e36-9c52-70a1e6d3b948", shown)
    shown = re.sub(r"\b\d+\.\d{3} s\b", "0.031 s", shown)
    shown = re.sub(r"^(ok .*)\(\d+\.\d\d s\)$", r"\1(0.07 s)", shown, flags=re.MULTILINE)
    shown = re.sub(r"^(FAIL .*)\(\d+\.\d\d s\)$", r"\1(4.03 s)", shown, flags=re.MULTILINE)
    shown = re.sub(r" in \d+\.\d s$", " in 4.1 s", shown, flags=re.MULTILINE)
    return f"```console\n$ guestctl check smoke.yaml --parallel 10 --junit report.xml\n{shown}```\n"


def doctor() -> str:
    """Return the report of `doctor` on a profile whose origin has a typing error."""
    with _guest(SandboxOptions(origins=("shop.example",))) as (guest, sandbox):
        written = f"base_url: '{sandbox.url}', deployment_id: {sandbox.deployment_id}, origin: 'https://shop.exmaple'"
        (guest.cwd / "profiles.yaml").write_text(f"profiles:\n  staging: {{{written}}}\n")
        shown = guest("-p", "staging", "doctor", "-o", "table")
        assert shown.code == 1, shown.err
        text = shown.out.replace(str(guest.cwd / "state"), "~/.local/state/guestctl")
    text = re.sub(r"^. (clock +).*", r"✓ \1agrees with the service's (4 ms)", text, flags=re.MULTILINE)
    text = re.sub(r"\(\d+(\.\d+)? ms\)", "(4 ms)", re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:49213", text))
    return f"```console\n$ guestctl -p staging doctor\n{text}```\n"


def apis() -> str:
    """Return one row per API with its documented and its assumed operations."""
    rows = ["| API | documented | assumed |", "|---|---|---|"]
    for name in NAMES:
        abilities = dialect_class(name).abilities
        columns = (
            ", ".join(ability.value for ability in Ability if abilities.get(ability) is standing) or "–"
            for standing in (Standing.DOCUMENTED, Standing.ASSUMED)
        )
        rows.append(f"| `{name}` | {' | '.join(columns)} |")
    return "\n".join(rows) + "\n"


def exits() -> str:
    rows = ["| code | meaning |", "|---|---|"]
    rows += [f"| {entry.code} | {entry.meaning} |" for entry in everything() if entry.kind == "exit code"]
    return "\n".join(rows) + "\n"


def help_pages() -> str:
    """Return the help of every command. Common options are shown once, at the end."""
    pages, shared = [], ""
    for words in COMMANDS:
        page = output_of(*words, "--help")
        found = re.search(r"Common options:\n.*?\n\n", page, re.DOTALL)
        if found is not None:
            page = page.replace(found[0], "")
            shared = max(shared, found[0], key=len)
        pages.append(_headed(f"guestctl {' '.join(words)}", page))
    pages.append(_headed("guestctl COMMAND", shared))
    return "\n".join(pages)


def _headed(title: str, text: str) -> str:
    return f"## {title}\n\n```text\n{text.rstrip()}\n```\n"


#: Page -> the parts of it that are generated, by the name they are marked with.
PAGES: dict[Path, dict[str, Callable[[], str]]] = {
    README: {"session": session, "report": report, "apis": apis},
    ROOT / "docs" / "contract.md": {"exits": exits},
    ROOT / "docs" / "checks.md": {"check-keys": table},
    ROOT / "docs" / "commands.md": {"help": help_pages},
    ROOT / "docs" / "debugging.md": {"doctor": doctor, "fault": fault},
    ROOT / "docs" / "protocol" / "sources.md": {"statements": statement_table},
}


def parts(text: str, name: str) -> tuple[str, str, str]:
    """Return the text before a generated part, the part, and the text after it."""
    mark = f"<!-- generated: {name} -->\n"
    assert text.count(mark) == 1, f"{text.count(mark)} parts are called {name}"
    before, _, rest = text.partition(mark)
    part, end, after = rest.partition("<!-- end -->")
    return before + mark, part, end + after


if __name__ == "__main__":
    for page, made in PAGES.items():
        text = page.read_text(encoding="utf-8")
        for name, make in made.items():
            before, _, after = parts(text, name)
            text = before + make() + after
        page.write_text(text, encoding="utf-8")
