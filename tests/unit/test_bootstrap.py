"""`make up` on a virtual environment that is half made, moved, of another Python, or of an older lock."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stack import bootstrap
from stack.steps import Step, StepFailedError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real virtual environment with pip."""
    folder = tmp_path_factory.mktemp("project") / ".venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    return folder


@pytest.fixture
def venv(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment, stamped as complete."""
    place(made, monkeypatch)
    for name in bootstrap.REQUIREMENTS:
        bootstrap._stamp(name).write_text(bootstrap._wanted(name))
    return made


def place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "VENV", folder)
    monkeypatch.setattr(bootstrap, "PYTHON", folder / "bin" / "python")


def commands(monkeypatch: pytest.MonkeyPatch, *, fail_at: str = "\0") -> list[str]:
    """What `install` runs, instead of running it; stops as a kill would at the command that contains `fail_at`."""
    found: list[str] = []

    def run(command: list[str], hint: str = "") -> None:
        found.append(" ".join(command))
        if fail_at in found[-1]:
            raise StepFailedError("killed")

    monkeypatch.setattr(bootstrap, "_run", run)
    return found


def remakes(monkeypatch: pytest.MonkeyPatch) -> bool:
    ran = commands(monkeypatch)
    bootstrap.install("requirements.lock", Step("packages"))
    return any("-m venv --clear" in command for command in ran)


def test_a_whole_environment_is_left_alone(venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = commands(monkeypatch)
    bootstrap.install("requirements.lock", Step("packages"))
    assert ran == []


def test_a_broken_environment_is_made_again(venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = venv.parent / "moved"
    shutil.copytree(venv, moved, symlinks=True)
    place(moved, monkeypatch)
    assert remakes(monkeypatch), "its scripts name the old place"
    place(venv, monkeypatch)
    assert not remakes(monkeypatch)
    [packages] = venv.glob("lib/python*/site-packages")
    packages.parent.rename(packages.parents[1] / "python3.1")
    assert remakes(monkeypatch), "its packages are another Python's"
    (packages.parents[1] / "python3.1").rename(packages.parent)
    assert not remakes(monkeypatch)
    (venv / "bin" / "python").rename(venv / "bin" / "gone")
    assert remakes(monkeypatch), "its Python is gone"
    (venv / "bin" / "gone").rename(venv / "bin" / "python")
    assert not remakes(monkeypatch)
    place(venv.parent / "none", monkeypatch)
    assert not bootstrap._venv_is_whole()


def test_an_install_that_was_killed_is_done_again_even_back_on_the_old_lock(
    venv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = bootstrap._wanted
    monkeypatch.setattr(bootstrap, "_wanted", lambda name: f"new {name}")
    ran = commands(monkeypatch, fail_at="--require-hashes --compile-bytecode")
    with pytest.raises(StepFailedError):
        bootstrap.install("requirements.lock", Step("packages"))
    assert not any("venv --clear" in command for command in ran)
    for wanted in (bootstrap._wanted, old):
        monkeypatch.setattr(bootstrap, "_wanted", wanted)
        for name in bootstrap.REQUIREMENTS:
            ran = commands(monkeypatch, fail_at="uv")
            with pytest.raises(StepFailedError):
                bootstrap.install(name, Step("packages"))
            assert ran, f"half of another lock is installed, yet {name} counts as installed"
