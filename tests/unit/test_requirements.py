"""requirements.txt, the locks and pyproject.toml name the same packages in the same versions."""

from __future__ import annotations

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from flight_delays.settings import PROJECT


def read(path: Path) -> list[Requirement]:
    lines = path.read_text().splitlines()
    return [Requirement(line.removesuffix("\\")) for line in lines if not line.startswith((" ", "#"))]


def pins(path: Path) -> set[tuple[str, str, str]]:
    """Name, version and environment marker of each package in a requirements file."""
    assert all([each.operator for each in requirement.specifier] == ["=="] for requirement in read(path))
    return {(each.name, str(each.specifier), str(each.marker or "")) for each in read(path)}


DIRECT = pins(PROJECT / "requirements.txt")
LOCKED = pins(PROJECT / "requirements.lock")


def test_requirements_txt_pins_what_pyproject_asks_for() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    wanted = {each.name: each for each in map(Requirement, project["dependencies"])}
    assert {name for name, _, _ in DIRECT} == set(wanted), "run make lock"
    for name, pin, _ in DIRECT:
        assert wanted[name].specifier.contains(pin.removeprefix("==")), name
    asked = {(each.name, frozenset(each.extras)) for each in wanted.values()}
    assert {(each.name, frozenset(each.extras)) for each in read(PROJECT / "requirements.txt")} == asked


def test_pip_with_requirements_txt_installs_the_versions_of_the_lock() -> None:
    assert DIRECT <= LOCKED, "run make lock"


@pytest.mark.parametrize("name", ["requirements-dev.lock", "docker/requirements.lock"])
def test_another_lock_agrees_with_the_lock(name: str) -> None:
    other = pins(PROJECT / name)
    shared = {package for package, _, _ in other} & {package for package, _, _ in LOCKED}
    assert {pin for pin in other if pin[0] in shared} <= LOCKED, "run make lock"


def test_the_development_lock_has_the_lock_and_the_development_tools() -> None:
    groups = tomllib.loads((PROJECT / "pyproject.toml").read_text())["dependency-groups"]
    tools = {Requirement(each).name for group in groups.values() for each in group if isinstance(each, str)}
    developing = pins(PROJECT / "requirements-dev.lock")
    assert developing >= LOCKED
    assert {name for name, _, _ in developing} >= tools, "run make lock"


def test_the_version_is_in_one_place() -> None:
    release = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    assert version("flight-delays") == release
    newest = next(line for line in (PROJECT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert newest.split()[1] == release
