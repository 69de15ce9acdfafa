"""The built package installs into an empty environment, runs there, and uninstalls completely."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

from guestctl.core.version import __version__

ROOT = Path(__file__).parents[2]
_SOURCE = (
    "guestctl", "tests", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "profiles.example.yaml",
    "requirements-dev.txt", "docs", "tools", "CHANGELOG.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "Dockerfile",
    ".dockerignore",
)  # fmt: skip
#: The time of the files in the archives. Without it they have the time of the build.
_EPOCH = "1700000000"
#: Seconds for one step, in which pip may download the requirements.
_PATIENCE = 240


def run(*words: object, cwd: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a clean environment that keeps only the variables with which pip and uv reach their index."""
    kept = ("PIP_", "UV_", "SSL_CERT_")
    environ = {name: value for name, value in os.environ.items() if name.startswith(kept) or "PROXY" in name.upper()}
    environ |= {"PATH": os.defpath, "HOME": str(home), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    environ["SOURCE_DATE_EPOCH"] = _EPOCH
    environ.setdefault("PIP_CACHE_DIR", f"{home}-cache")
    return subprocess.run(
        [str(word) for word in words], cwd=cwd, env=environ, capture_output=True, text=True, timeout=_PATIENCE
    )


def done(*words: object, cwd: Path, home: Path) -> str:
    found = run(*words, cwd=cwd, home=home)
    assert found.returncode == 0, f"{words}: {found.stdout}{found.stderr}"
    return found.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the sdist and the wheel made from it, built with the locked build backend."""
    place = tmp_path_factory.mktemp("package")
    source = place / "source"
    source.mkdir()
    leave = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*")
    for name in _SOURCE:
        found = ROOT / name
        if found.is_dir():
            shutil.copytree(found, source / name, ignore=leave)
        else:
            shutil.copy(found, source)
    _build(place / "dist", source)
    return place / "dist"


def _build(to: Path, source: Path, *what: str) -> None:
    words = (sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", to, source)
    done(*words, cwd=to.parent, home=to.parent)


def test_the_version_is_stated_once() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["version"]' in text
    assert __version__ not in re.findall(r'"([^"]*)"', text)
    assert f"## {__version__}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.timeout(2 * _PATIENCE)
def test_the_archives_contain_the_expected_files(built: Path) -> None:
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "profiles.example.yaml", "tests/wire/README.md"} <= names
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "wire").rglob("*.yaml")} <= names

    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = f"guestctl-{__version__}.dist-info/"
        metadata = message_from_string(archive.read(f"{info}METADATA").decode())
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "guestctl").rglob("*.py")} <= names
    assert {"guestctl/py.typed", f"{info}licenses/LICENSE", f"{info}entry_points.txt"} <= names
    data = f"guestctl-{__version__}.data"
    assert {name.partition("/")[0] for name in names} == {"guestctl", info.rstrip("/"), data}
    assert [name for name in names if name.startswith(data)] == [f"{data}/data/share/man/man1/guestctl.1"]
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.10"
    assert set(metadata.get_all("Provides-Extra", [])) == {"tls", "socks", "dev"}
    assert 'cryptography>=43; extra == "tls"' in metadata.get_all("Requires-Dist", [])


@pytest.mark.timeout(2 * _PATIENCE)
def test_the_wheel_is_reproducible(built: Path, tmp_path: Path) -> None:
    """A wheel from the files of the sdist, built in another directory later, is equal byte for byte."""
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    [source] = (tmp_path / "unpacked").iterdir()
    _build(tmp_path / "dist", source, "--wheel")
    [first], [second] = built.glob("*.whl"), (tmp_path / "dist").glob("*.whl")
    assert first.name == second.name
    assert hashlib.sha256(first.read_bytes()).digest() == hashlib.sha256(second.read_bytes()).digest()


@pytest.mark.timeout(4 * _PATIENCE)
def test_the_wheel_installs_runs_and_uninstalls(built: Path, tmp_path: Path) -> None:
    """The environment contains only pip, and nothing of the development set."""
    home = tmp_path / "home"
    home.mkdir()
    done(sys.executable, "-m", "venv", tmp_path / "fresh", cwd=tmp_path, home=home)
    scripts = tmp_path / "fresh" / "bin"
    before = _ours(tmp_path / "fresh")
    [wheel] = built.glob("*.whl")
    installed = run(scripts / "pip", "install", "-q", wheel, cwd=tmp_path, home=home)
    if installed.returncode:
        index = run(scripts / "pip", "download", "-q", "--no-deps", "requests", cwd=tmp_path, home=home)
        if index.returncode:
            pytest.skip("the package index cannot be reached")
    assert installed.returncode == 0, installed.stderr

    assert done(scripts / "guestctl", "--version", cwd=tmp_path, home=home) == f"guestctl {__version__}\n"
    assert (
        done(scripts / "python", "-m", "guestctl", "--version", cwd=tmp_path, home=home) == f"guestctl {__version__}\n"
    )
    answer = "import guestctl; from guestctl import Client; print(guestctl.__version__, Client.__name__)"
    assert done(scripts / "python", "-c", answer, cwd=tmp_path, home=home) == f"{__version__} Client\n"
    asked = done(
        scripts / "guestctl", "sandbox", "exec", "--", scripts / "guestctl", "ask", "hi", cwd=tmp_path, home=home
    )
    assert asked == "echo: hi\n"
    missing = run(scripts / "guestctl", "sandbox", "serve", "--tls", cwd=tmp_path, home=home)
    assert (missing.returncode, "guestctl[tls]" in missing.stderr) == (2, True)
    if shutil.which("man", path=os.defpath) is not None:
        found = done(
            "/usr/bin/env", f"PATH={scripts}:{os.defpath}", "man", "--where", "guestctl", cwd=tmp_path, home=home
        )
        assert found == f"{tmp_path}/fresh/share/man/man1/guestctl.1\n"
    packages = json.loads(done(scripts / "pip", "list", "--format", "json", cwd=tmp_path, home=home))
    assert not {"pytest", "hypothesis", "cryptography", "mypy"} & {package["name"] for package in packages}
    assert list(home.iterdir()) == [], "a command that stores nothing created a file"

    done(scripts / "pip", "uninstall", "-q", "-y", "guestctl", cwd=tmp_path, home=home)
    assert _ours(tmp_path / "fresh") == before


@pytest.mark.timeout(2 * _PATIENCE)
@pytest.mark.parametrize("installer", [("pipx", "install"), ("uv", "tool", "install")], ids=["pipx", "uv"])
def test_an_installer_of_tools_installs_from_a_clone(built: Path, tmp_path: Path, installer: tuple[str, ...]) -> None:
    program = shutil.which(installer[0])
    if program is None:
        pytest.skip(f"{installer[0]} is not installed here")
    home = tmp_path / "home"
    home.mkdir()
    installed = run(program, *installer[1:], built.parent / "source", cwd=tmp_path, home=home)
    if installed.returncode and run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "requests",
                                    cwd=tmp_path, home=home).returncode:  # fmt: skip
        pytest.skip("the package index cannot be reached")
    assert installed.returncode == 0, installed.stderr
    command = home / ".local" / "bin" / "guestctl"
    assert done(command, "--version", cwd=tmp_path, home=home) == f"guestctl {__version__}\n"
    assert done(command, "sandbox", "exec", "--", command, "ask", "hi", cwd=tmp_path, home=home) == "echo: hi\n"


# --- the container image ---

_STAGE = re.compile(r"^FROM (\S+)(?: AS \w+)?\n(.*?)(?=^FROM |\Z)", re.DOTALL | re.MULTILINE)


def _stages() -> list[tuple[str, list[list[str]]]]:
    """Return the image that each stage starts from, and its instructions as words."""
    found = _STAGE.findall((ROOT / "Dockerfile").read_text(encoding="utf-8"))
    return [(image, [line.split() for line in text.splitlines() if line[:1].isupper()]) for image, text in found]


def test_the_image_is_slim_and_its_user_is_not_root() -> None:
    stages = _stages()
    assert [image for image, _ in stages] == ["python:3.12-slim", "python:3.12-slim"]
    names = [words[0] for words in stages[-1][1]]
    [user] = [words[1] for words in stages[-1][1] if words[0] == "USER"]
    assert int(user) > 0
    assert "RUN" not in names[names.index("USER") :]
    assert ["ENTRYPOINT", '["guestctl"]'] in stages[-1][1]


@pytest.mark.timeout(2 * _PATIENCE)
def test_the_image_has_all_files_that_the_build_needs(built: Path, tmp_path: Path) -> None:
    """The files that the first stage copies, without those of `.dockerignore`, give the same wheel."""
    context, allowed = tmp_path / "context", (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    context.mkdir()
    for *sources, target in (words[1:] for words in _stages()[0][1] if words[0] == "COPY"):
        for name in sources:
            assert f"!{name}" in allowed, f".dockerignore leaves out {name}"
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, context / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                (context / target).mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, context / target)
    _build(tmp_path / "dist", context, "--wheel")
    [ours], [theirs] = (tmp_path / "dist").glob("*.whl"), built.glob("*.whl")
    with zipfile.ZipFile(ours) as archive, zipfile.ZipFile(theirs) as other:
        assert set(archive.namelist()) == set(other.namelist())


@pytest.mark.timeout(4 * _PATIENCE)
def test_the_image_builds_and_runs(tmp_path: Path) -> None:
    docker = shutil.which("docker")
    if docker is None or run(docker, "info", cwd=tmp_path, home=tmp_path).returncode:
        pytest.skip("no container daemon runs here")
    done(docker, "build", "-q", "-t", "guestctl-test", ROOT, cwd=tmp_path, home=tmp_path)
    image = (docker, "run", "--rm", "guestctl-test")
    assert done(*image, "--version", cwd=tmp_path, home=tmp_path) == f"guestctl {__version__}\n"
    asked = done(*image, "sandbox", "exec", "--tls", "--", "guestctl", "ask", "hi", cwd=tmp_path, home=tmp_path)
    assert asked == "echo: hi\n"
    user = (docker, "run", "--rm", "--entrypoint", "id", "guestctl-test", "-u")
    assert done(*user, cwd=tmp_path, home=tmp_path) == "10001\n"


def _ours(environment: Path) -> set[Path]:
    return {path for path in environment.rglob("*") if "guestctl" in str(path.relative_to(environment))}
