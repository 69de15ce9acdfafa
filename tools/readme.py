"""Writes the generated parts of README, ARCHITECTURE and `docs/`: `python -m tools.readme`. `tests/test_readme.py`
holds them to it.

Knows: which part stands on which page, and how what differs from run to run is made equal. Must not
know: what a command prints.
"""

from __future__ import annotations

import ast
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
from guestctl.dialects.capabilities import Ability
from guestctl.sandbox.serve import running
from guestctl.sandbox.server import Sandbox
from guestctl.sandbox.settings import SandboxOptions
from tests.cli.conftest import Front
from tests.cli.shell import Shell

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


def spoken(*argv: str) -> str:
    """What a command prints for a person."""
    out = io.StringIO()
    world = Environment(stdin=io.StringIO(), stdout=out, stderr=io.StringIO(), environ={"COLUMNS": WIDTH})
    assert run(list(argv), world) == 0, argv
    return out.getvalue()


@contextmanager
def _guest(options: SandboxOptions) -> Iterator[tuple[Front, Sandbox]]:
    """The front door in an empty directory, on a sandbox of its own."""
    with tempfile.TemporaryDirectory() as place, running(options) as sandbox:
        environ = {"GUESTCTL_PROFILE": "sandbox", "GUESTCTL_SANDBOX_URL": sandbox.url, "COLUMNS": WIDTH}
        environ |= {"GUESTCTL_SANDBOX_ADMIN_KEY": sandbox.admin_key, "GUESTCTL_STATE": f"{place}/state"}
        yield Front(environ, Path(place)), sandbox


#: The README's first lines: a service that breaks the connection once, and what a guest sees of it.
_DOOR = "guestctl sandbox exec --fault drop:code=1006,after=2,on=send -- bash"
_TYPED = (
    'guestctl ask "Where is my parcel?"',
    "guestctl send \"Are you still there?\" --wait | jq -r '.delivery, .reply.text'",
    "guestctl history | jq -s length",
)

_INTRODUCED = "echo introduced $(guestctl sandbox sessions | jq .configures)"


def session() -> str:
    """A real session, typed into a bash that the first command starts."""
    with tempfile.TemporaryDirectory() as place:
        shell = Shell(Front({"GUESTCTL_STATE": f"{place}/state"}, Path(place)))
        script = "".join(f"echo {shlex.quote('$ ' + line)}\n{line}\n" for line in _TYPED)
        told = shell(f"{_DOOR} -c {shlex.quote(script + _INTRODUCED)}")
    told, _, introduced = told.rpartition("introduced ")
    assert int(introduced) > 2, "the connection was meant to break, and did not"
    return f"```console\n$ {_DOOR}\n{told}```\n"


def report() -> str:
    """What `check` says of the README's script and a bot that fails half of it."""
    text = README.read_text(encoding="utf-8")
    script = re.search(r"^```yaml\n(# smoke\.yaml\n.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert script is not None
    with tempfile.TemporaryDirectory() as place:
        bot = Path(place) / "bot.yaml"
        bot.write_text(BOT, encoding="utf-8")
        with _guest(SandboxOptions(fast=True, script=bot)) as (guest, _):
            (guest.cwd / "smoke.yaml").write_text(script[1], encoding="utf-8")
            told = Shell(guest)("guestctl check smoke.yaml --parallel 10 --junit report.xml", code=1)
            assert "<testsuite" in (guest.cwd / "report.xml").read_text(encoding="utf-8")
    told = re.sub(r"\([0-9a-f-]{4,}…?\)", "(21f9…)", told)
    told = re.sub(r"\b\d+\.\d{3} s\b", "0.031 s", told)
    return f"```console\n$ guestctl check smoke.yaml --parallel 10 --junit report.xml\n{told}```\n"


def doctor() -> str:
    """Of a profile whose origin has a typing error in it."""
    with _guest(SandboxOptions(origins=("shop.example",))) as (guest, sandbox):
        written = f"base_url: '{sandbox.url}', deployment_id: {sandbox.deployment_id}, origin: 'https://shop.exmaple'"
        (guest.cwd / "profiles.yaml").write_text(f"profiles:\n  staging: {{{written}}}\n")
        told = guest("-p", "staging", "doctor", "-o", "table")
        assert told.code == 1, told.err
        text = told.out.replace(str(guest.cwd / "state"), "~/.local/state/guestctl")
    text = re.sub(r"^. (clock +).*", r"✓ \1agrees with the service's (4 ms)", text, flags=re.MULTILINE)
    text = re.sub(r"\(\d+(\.\d+)? ms\)", "(4 ms)", re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:49213", text))
    return f"```console\n$ guestctl -p staging doctor\n{text}```\n"


def apis() -> str:
    rows = ["| operation | " + " | ".join(f"`{name}`" for name in NAMES) + " |", "|---" * (len(NAMES) + 1) + "|"]
    for ability in Ability:
        marks = [dialect_class(name).abilities.get(ability) for name in NAMES]
        rows.append(f"| {ability.value} | " + " | ".join(mark.value if mark else "–" for mark in marks) + " |")
    return "\n".join(rows) + "\n"


def exits() -> str:
    rows = ["| code | meaning |", "|---|---|"]
    rows += [f"| {entry.code} | {entry.meaning} |" for entry in everything() if entry.kind == "exit code"]
    return "\n".join(rows) + "\n"


def help_pages() -> str:
    """Every command's help; the options all of them take are shown once, at the end."""
    pages, shared = [], ""
    for words, entry in COMMANDS.items():
        if entry.hidden:
            continue
        page = spoken(*words, "--help")
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
def modules() -> str:
    """The map: every module with the first line of its docstring, which says what it is."""
    package = ROOT / "guestctl"
    pieces = []
    for folder in [package, *sorted(path for path in package.rglob("*") if (path / "__init__.py").exists())]:
        rows = []
        for path in sorted(folder.glob("*.py")):
            first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
            rows.append(f"| `{path.name}` | {first.replace('|', chr(92) + '|')} |")
        pieces.append(f"**{folder.relative_to(ROOT)}/**\n\n| file | |\n|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(pieces)


PAGES: dict[Path, dict[str, Callable[[], str]]] = {
    README: {"session": session, "report": report, "apis": apis, "exits": exits},
    ROOT / "ARCHITECTURE.md": {"map": modules},
    ROOT / "docs" / "checks.md": {"check-keys": table},
    ROOT / "docs" / "commands.md": {"help": help_pages},
    ROOT / "docs" / "debugging.md": {"doctor": doctor},
}


def parts(text: str, name: str) -> tuple[str, str, str]:
    """What stands before, in and behind a generated part."""
    mark = f"<!-- generated: {name} -->\n"
    assert text.count(mark) == 1, f"there are {text.count(mark)} parts called {name}"
    before, _, rest = text.partition(mark)
    part, end, behind = rest.partition("<!-- end -->")
    return before + mark, part, end + behind


if __name__ == "__main__":
    for page, made in PAGES.items():
        text = page.read_text(encoding="utf-8")
        for name, make in made.items():
            before, _, behind = parts(text, name)
            text = before + make() + behind
        page.write_text(text, encoding="utf-8")
