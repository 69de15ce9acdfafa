"""Whether the tests notice a change: mutmut's mutants of a module against the module's own tests.

Knows: which modules are held to it, and the share of mutants their tests must kill. Must not know: how a mutant is
made or run. `python -m tools.mutation [MODULE…]` works on a copy of the tree, prints each mutant that lived and the
share that did not; it takes minutes a module and is no part of the suite. mutmut changes the bodies of functions, not
constants, patterns or what is decorated. A mutant that writes SQL in other letters is none and is not counted: SQL's
words and names have no case.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tools.coverage import OWN, ROOT

#: Per cent of a module's mutants that its own tests must kill; one that never ends is killed by the clock.
ENOUGH = 90.0
_COPIED = ("guestctl", "tests", "pyproject.toml", "README.md")
_SQL = re.compile(
    r"\b(?:AND|SELECT|INSERT|UPDATE|DELETE|VALUES|WHERE|CONFLICT|PRAGMA|BEGIN|COMMIT|ROLLBACK|VACUUM|excluded)\b"
)


def same(change: Sequence[str]) -> bool:
    """Whether the lines of a diff differ only in the letters of SQL, and not in what that quotes."""
    before, after = ([line[1:] for line in change if line[:1] == sign] for sign in "-+")
    if len(before) != 1 or len(after) != 1 or not _SQL.search(before[0]):
        return False
    quoted = (re.findall("'[^']*'", line) for line in (*before, *after))
    return before[0].lower() == after[0].lower() and next(quoted) == next(quoted)


def survivors(module: str, tests: Sequence[str], room: Path, words: Sequence[str]) -> tuple[int, int]:
    """Mutants in all, and those that lived, each printed as a diff."""
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, room / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, room / name)
    settings = {
        "source_paths": ["guestctl"],
        "only_mutate": [module],
        "also_copy": ["README.md"],
        "pytest_add_cli_args_test_selection": list(tests),
        "pytest_add_cli_args": ["-p", "no:cacheprovider", "-p", "tools.mutation"],
        "use_git_change_detection": False,
        "track_dependencies": False,
    }
    with (room / "pyproject.toml").open("a", encoding="utf-8") as file:
        # JSON's strings, lists and booleans are TOML's, too.
        print(
            "\n[tool.mutmut]", *(f"{key} = {json.dumps(value)}" for key, value in settings.items()), sep="\n", file=file
        )

    def mutmut(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "mutmut", *words], cwd=room, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"mutmut {words[0]}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    mutmut("run", *words)
    found = (line.strip().rsplit(": ", 1) for line in mutmut("results", "--all", "true").splitlines())
    verdicts = {name: verdict for name, verdict in found if verdict != "not checked"}
    lived = 0
    for name in sorted(name for name, verdict in verdicts.items() if verdict not in {"killed", "timeout"}):
        change = [line for line in mutmut("show", name).splitlines() if re.match(r"[-+](?!--|\+\+)|@", line)]
        if same(change):
            del verdicts[name]
        else:
            print(f"{name}: {verdicts[name]}", *change, sep="\n", flush=True)
            lived += 1
    return len(verdicts), lived


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """As a plugin of mutmut's pytest: what makes a mutant take seconds instead of minutes.

    The quick tests come first, since a mutant is done with at the first that fails; and one that waits for what a
    mutant never does is stopped when it has taken far longer than without, which fails it, too.
    """
    try:
        took = json.loads(Path("mutmut-stats.json").read_text(encoding="utf-8"))["duration_by_test"]
    except FileNotFoundError:  # they are being measured just now
        return
    items.sort(key=lambda item: took.get(item.nodeid, 0.0))
    for item in items:
        item.add_marker(pytest.mark.timeout(5.0 + 5.0 * took.get(item.nodeid, 0.0)))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.mutation", description=__doc__)
    parser.add_argument("module", nargs="*", help="some of " + " ".join(OWN))
    parser.add_argument("--max-children", help="mutants at once (the machine's cores)")
    parser.add_argument("--only", help="mutants whose name fits this, such as '*0', about a tenth of them")
    given = parser.parse_args()
    if unknown := set(given.module) - OWN.keys():
        parser.error(f"no module with tests of its own: {' '.join(sorted(unknown))}")
    words = ["--max-children", given.max_children] if given.max_children else []
    words += [given.only] if given.only else []
    enough = True
    for module in given.module or OWN:
        with tempfile.TemporaryDirectory() as room:
            total, lived = survivors(module, OWN[module], Path(room), words)
        score = 100 * (total - lived) / total
        enough &= score >= ENOUGH
        print(f"{module:<32}{total:6} mutants {total - lived:6} killed {score:7.1f} %", flush=True)
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
