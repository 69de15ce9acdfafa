"""The lock pins the whole development set, with hashes, in fitting versions, for every supported Python."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8")
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PYTHONS = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PROJECT)
SYSTEMS = {
    "linux": {"os_name": "posix", "sys_platform": "linux", "platform_system": "Linux"},
    "mac": {"os_name": "posix", "sys_platform": "darwin", "platform_system": "Darwin"},
    "windows": {"os_name": "nt", "sys_platform": "win32", "platform_system": "Windows"},
}


class Pin(NamedTuple):
    """One line of the lock."""

    requirement: Requirement
    version: str
    hashes: int


def _pins(text: str) -> Iterator[Pin]:
    joined = re.sub(r"\\\n", " ", "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")))
    for line in filter(str.strip, joined.splitlines()):
        stated, *hashes = line.split("--hash=sha256:")
        requirement = Requirement(stated.strip())
        [exact] = requirement.specifier
        assert exact.operator == "==", line
        yield Pin(requirement, exact.version, len(hashes))


PINS = list(_pins(LOCK))
_PLACES = [pytest.param(python, system, id=f"{python} on {system}") for python in PYTHONS for system in SYSTEMS]


def _environment(python: str, system: str) -> dict[str, str]:
    machine: dict[str, Any] = dict(default_environment())
    return {**machine, **SYSTEMS[system], "python_version": python, "python_full_version": f"{python}.9", "extra": ""}


def _locked(environment: dict[str, str]) -> dict[str, str]:
    """Return what would be installed there: name -> version."""
    return _chosen(PINS, environment)


def _chosen(pins: Iterable[Pin], environment: dict[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pin in pins:
        if pin.requirement.marker is None or pin.requirement.marker.evaluate(environment):
            name = canonicalize_name(pin.requirement.name)
            assert name not in found, f"{name} is pinned twice for {environment['python_version']}"
            found[name] = pin.version
    return found


def _listed(name: str) -> list[Requirement]:
    """Return the requirements in one list of pyproject.toml. Python 3.10 has no tomllib."""
    found = re.search(rf"^{name} = \[(.*?)\]$", PROJECT, re.DOTALL | re.MULTILINE)
    assert found is not None, name
    return [Requirement(text) for text in re.findall(r'"([^"]+)"', found[1])]


def _required_by(lock: Path) -> list[Requirement]:
    """Return what a lock file of tests is made from: an extra of the project, or its own list."""
    if f"\n{lock.parent.name} = [" in PROJECT:
        return _listed(lock.parent.name)
    own = lock.with_name("requirements.in").read_text(encoding="utf-8").splitlines()
    stated = [line.partition("#")[0].strip() for line in own]
    return [Requirement(text) for text in stated if text and not text.startswith("-")]


def _direct() -> Iterator[Requirement]:
    for name in ("requires", "dependencies", "tls", "dev"):
        yield from (found for found in _listed(name) if found.name != "guestctl")


def test_every_pin_has_hashes_and_no_address() -> None:
    assert PINS
    assert all(pin.hashes for pin in PINS), [pin.requirement.name for pin in PINS if not pin.hashes]
    assert "://" not in LOCK
    assert not re.search(r"^\s*-(?!-hash=)", LOCK, re.MULTILINE), "the lock contains an option"


@pytest.mark.parametrize(("python", "system"), _PLACES)
def test_direct_requirements_are_locked(python: str, system: str) -> None:
    """This covers the base, both extras and the build backend."""
    environment = _environment(python, system)
    assert _unmet(_direct(), environment, _locked(environment)) == []


@pytest.mark.parametrize(("python", "system"), _PLACES)
def test_indirect_requirements_are_locked(python: str, system: str) -> None:
    """The installed packages state them; their versions can differ on other systems."""
    environment = _environment(python, system)
    locked = _locked(environment)
    missing = []
    for name in locked:
        try:
            stated = [Requirement(text) for text in requires(name) or ()]
        except PackageNotFoundError:  # it is for another Python or system
            continue
        names = [Requirement(found.name + (f"; {found.marker}" if found.marker else "")) for found in stated]
        missing += [f"{name}: {unmet}" for unmet in _unmet(names, environment, locked)]
    assert missing == []


@pytest.mark.parametrize("lock", sorted(ROOT.glob("tests/*/requirements.txt")), ids=lambda lock: lock.parent.name)
def test_the_lock_of_an_extra_pins_what_it_requires(lock: Path) -> None:
    """Its packages go next to those of the development set, so both have the same versions."""
    pins = list(_pins(lock.read_text(encoding="utf-8")))
    assert all(pin.hashes for pin in pins)
    for python in PYTHONS:
        environment = _environment(python, "linux")
        locked = _chosen(pins, environment)
        assert _unmet(_required_by(lock), environment, locked) == []
        known = _locked(environment)
        assert {name: version for name, version in locked.items() if known.get(name, version) != version} == {}
    [command] = re.findall(r"^#    (uv pip compile .*)$", lock.read_text(encoding="utf-8"), re.MULTILINE)
    assert f"`{command}`" in CONTRIBUTING


def _unmet(required: Iterable[Requirement], environment: dict[str, str], locked: dict[str, str]) -> list[str]:
    there = [found for found in required if found.marker is None or found.marker.evaluate(environment)]
    return [
        str(found)
        for found in there
        if canonicalize_name(found.name) not in locked
        or not SpecifierSet(str(found.specifier)).contains(locked[canonicalize_name(found.name)], prereleases=True)
    ]


def test_the_command_that_renews_the_lock_is_documented() -> None:
    """The lock itself and CONTRIBUTING.md name the same command."""
    [command] = re.findall(r"^#    (uv pip compile .*)$", LOCK, re.MULTILINE)
    assert f"`{command}`" in CONTRIBUTING
    assert "--python-version 3.10 " in command
    assert 'requires-python = ">=3.10"' in PROJECT


def test_the_second_command_of_the_readme_installs_from_the_lock() -> None:
    second = re.findall(r"^```sh\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)[1]
    assert "install -q --require-hashes -r requirements-dev.txt" in second
    assert "install -q --no-deps --no-build-isolation -e ." in second
