"""Pages, docs and forms use the field's words: no private coinage, no old-fashioned turn of phrase."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from flight_delays.settings import PROJECT

INSTEAD = {
    r"mend(s|ed|ing)?": "fix, fixed",
    r"anew|once more": 'again; "recreated" of a topic, "retrained" of a model',
    r"ill|illness(es)?": "unhealthy, the reason",
    r"(?<!as )well": "healthy",
    r"sets? aside|setting aside": "quarantine",
    r"(around|through|from|to|of|against) (the|that|this) (whole )?line(?! of)": "the pipeline",
    r"so (long|many)(?! as)": "timeout for ... in seconds, maximum number of ...",
    r"(moment of the whole|one and the same moment|of one moment)": "a consistent snapshot",
    r"stands? (in|beside)": "is in, is next to",
    r"what (came|comes|became|becomes) of|come of it": "the result",
    r"what counts": "feature importance",
    r"forest's chance": "Random seed",
    r"levels of a tree": "Maximum tree depth",
    r"half done": "in progress",
    r"how (it|the predictor|the query) (does|is doing)": "the status",
    r"for ever": "without a limit, endlessly",
}
"""A pattern of words, and what conventions for this project's prose ask for instead."""

IN_HINTS = {r"such as": "e.g."}
"""For what a form shows: hints, Params, the values that an error message names."""

TEXTS = ["*.md", "docs/**/*.md", "dags/*.md", ".github/**/*.md", "include/**/*.md"]
HINTS = ["webapp/templates/*.html", "webapp/static/*.js", "include/**/*.html"]
CODE = ("dags", "include", "plugins", "spark_jobs", "stack", "webapp", "docker", "bench", "docs")
MODULES = [f"{folder}/**/*.py" for folder in CODE]
"""Python files of which all texts are checked: docstrings, Params, messages."""


def files(patterns: list[str]) -> list[Path]:
    found = [path for pattern in patterns for path in sorted(PROJECT.glob(pattern)) if path.is_file()]
    assert found
    return list(dict.fromkeys(found))


def texts_of(module: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def findings(text: str, words: dict[str, str]) -> Iterator[str]:
    for pattern, instead in words.items():
        for match in re.finditer(rf"(?<![\w`-])({pattern})(?![\w`-])", re.sub(r"\s+", " ", text), re.IGNORECASE):
            around = match.string[max(0, match.start() - 40) : match.end() + 30]
            yield f"...{around}...: instead of {match[0]!r} write {instead}"


@pytest.mark.parametrize("path", files([*TEXTS, *HINTS]), ids=lambda path: str(path.relative_to(PROJECT)))
def test_a_page_uses_the_fields_words(path: Path) -> None:
    words = INSTEAD if path.suffix == ".md" else INSTEAD | IN_HINTS
    assert not list(findings(path.read_text(), words))


@pytest.mark.parametrize("path", files(MODULES), ids=lambda path: str(path.relative_to(PROJECT)))
def test_a_module_uses_the_fields_words(path: Path) -> None:
    found = [f"line {line}: {each}" for line, text in texts_of(path) for each in findings(text, INSTEAD | IN_HINTS)]
    assert not found
