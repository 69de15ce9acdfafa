"""What the tests see, by coverage.py with branches.

Knows: which tests are a module's own, and how much of it they must run. Must not know: what any of them asserts;
`tools.mutation` asks whether they would notice.

`python -m tools.coverage [MODULE…]`: each module below, every line and branch of it from its own tests alone (one
run of them all, each line remembered with the test module that ran it; the test suite does this). With `--overall`:
the whole suite, the commands it starts included, and the figure for all of guestctl.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import coverage

ROOT = Path(__file__).parent.parent
#: Per cent of all of guestctl that the whole suite must run.
OVERALL = 95.0

#: Module -> the test modules that must run all of it.
OWN: Mapping[str, Sequence[str]] = {
    "guestctl/storage/database.py": ("tests/unit/test_database.py", "tests/unit/test_locks.py"),
    "guestctl/engine/downloads.py": ("tests/unit/test_downloads.py",),
    "guestctl/core/jwt_claims.py": ("tests/unit/test_jwt_claims.py",),
    "guestctl/core/redact.py": ("tests/unit/test_redact.py",),
    "guestctl/storage/locks.py": ("tests/unit/test_locks.py",),
    "guestctl/storage/private_files.py": ("tests/unit/test_private_files.py",),
    "guestctl/storage/state.py": ("tests/unit/test_state.py",),
    "guestctl/core/strict_yaml.py": ("tests/unit/test_strict_yaml.py",),
    "guestctl/output/terminal.py": ("tests/unit/test_terminal.py",),
    "guestctl/transport/adapter.py": (
        "tests/transport/test_transport_http.py",
        "tests/transport/test_transport_proxy.py",
    ),
    "guestctl/transport/frame_reader.py": ("tests/transport/test_transport_frames.py",),
    "guestctl/transport/http.py": (
        "tests/transport/test_transport_http.py",
        "tests/transport/test_transport_proxy.py",
    ),
    "guestctl/transport/network.py": (
        "tests/transport/test_transport_network.py",
        "tests/transport/test_transport_proxy.py",
        "tests/transport/test_transport_tls.py",
        "tests/unit/test_network.py",
    ),
    "guestctl/transport/socket.py": (
        "tests/transport/test_transport_proxy.py",
        "tests/transport/test_transport_socket.py",
    ),
    "guestctl/transport/stream.py": (
        "tests/transport/test_transport_proxy.py",
        "tests/transport/test_transport_stream.py",
        "tests/transport/test_transport_tls.py",
    ),
}


class _ByTestModule:
    """Tells coverage.py which test module is running; what is run at import counts for all."""

    def __init__(self, measured: coverage.Coverage) -> None:
        self._measured = measured

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._measured.switch_context(nodeid.partition("::")[0])

    def pytest_runtest_logfinish(self) -> None:
        self._measured.switch_context("")


def own(modules: Iterable[str]) -> int:
    """Run the modules' own tests and print what they leave out of them. 0 when that is nothing."""
    import coverage

    chosen = {module: OWN[module] for module in modules}
    with tempfile.TemporaryDirectory() as room:
        measured = coverage.Coverage(
            data_file=os.path.join(room, "data"),
            branch=True,
            include=[str(ROOT / module) for module in chosen],
            config_file=False,
        )
        # Before pytest: its plugins import guestctl. And the modules themselves now, not when some test happens to.
        measured.start()
        for module in chosen:
            __import__(module.removesuffix(".py").replace("/", "."))
        import pytest
        from hypothesis import settings

        settings.register_profile("coverage", max_examples=10, deadline=None)  # more find faults, not lines
        tests = sorted({test for tests in chosen.values() for test in tests})
        failed = pytest.main(
            ["-p", "no:cacheprovider", "--hypothesis-profile=coverage", "-m", "slow or not slow", *tests],
            plugins=[_ByTestModule(measured)],
        )
        measured.stop()
        measured.save()
        return max([int(failed), *(_left_out(measured, module, tests) for module, tests in chosen.items())])


def _left_out(measured: coverage.Coverage, module: str, tests: Sequence[str]) -> int:
    from coverage.exceptions import NoDataError

    said = io.StringIO()
    contexts = ["^$", *(f"^{re.escape(test)}$" for test in tests)]
    try:
        percent = measured.report(include=[str(ROOT / module)], contexts=contexts, show_missing=True, file=said)
    except NoDataError:
        percent = 0.0
    missing = "" if percent == 100 else said.getvalue().splitlines()[2].partition("%")[2].strip()
    print(f"{module:<32}{percent:7.2f} %  {missing}".rstrip())
    return int(percent < 100)


def overall(words: Sequence[str]) -> int:
    """The whole suite and all it starts. 0 when it passes and enough of guestctl was run."""
    with tempfile.TemporaryDirectory() as room:
        config = Path(room) / "settings"
        config.write_text(
            f"[run]\nbranch = true\nparallel = true\nsource_pkgs = guestctl\ndata_file = {room}/data\n"
            # What a command starts and what ends by a signal counts, too.
            "patch = subprocess, _exit\nsigterm = true\n"
            "[report]\nshow_missing = true\nskip_covered = true\n"
        )

        def run(*words: str) -> int:
            return subprocess.run(
                [sys.executable, "-m", "coverage", words[0], f"--rcfile={config}", *words[1:]], cwd=ROOT, check=False
            ).returncode

        failed = run("run", "-m", "pytest", *(words or ("-n", "2")))
        run("combine", "--quiet")
        return failed or run("report", f"--fail-under={OVERALL}")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.coverage", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("module", nargs="*", help="some of " + " ".join(OWN))
    parser.add_argument("--overall", action="store_true", help="the whole suite; other words are pytest's (-n 2)")
    given, words = parser.parse_known_args()
    if given.overall:
        return overall([*given.module, *words])
    if unknown := {*given.module, *words} - OWN.keys():
        parser.error(f"no module with tests of its own: {' '.join(sorted(unknown))}")
    return own(given.module or OWN)


if __name__ == "__main__":
    sys.exit(main())
