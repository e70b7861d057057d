"""What the Markdown files name exists: linked files and headings, commands of the Makefile."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flight_delays.settings import PROJECT

PAGES = [*sorted(PROJECT.glob("*.md")), *sorted(PROJECT.glob("docs/*.md"))]
TARGETS = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.M))


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
        found = page.parent / target if target else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_make_commands_exist(page: Path) -> None:
    commands = re.findall(r"(?:`|^\$ |^    )(?:\w+=\S+ )*make ([a-z][a-z -]*[a-z])", page.read_text(), re.M)
    assert {target for command in commands for target in command.split()} <= TARGETS


@pytest.mark.parametrize("page", [*PAGES, *sorted(PROJECT.glob("dags/*.md"))], ids=lambda page: page.name)
def test_files_exist(page: Path) -> None:
    for name in re.findall(
        r"`((?:bench|dags|docker|docs|include|spark_jobs|stack|tests|webapp)/[\w/.]+)`", page.read_text()
    ):
        assert (PROJECT / name).exists(), name


def test_the_readme_is_short() -> None:
    assert len((PROJECT / "README.md").read_text().splitlines()) <= 110
