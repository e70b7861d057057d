"""The original system's faults, and the tests that fail should one of them come back."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from flight_delays.settings import PROJECT
from webapp import create_app

HERE = "tests/unit/test_original_faults.py"
FAULTS = {
    "DayOfWeek is 1 = Monday .. 7 = Sunday in the records, but was 0..6 in serving": [
        "tests/unit/test_contract.py::test_a_week_is_one_to_seven",
        "tests/integration/test_training.py::test_dates_are_the_same_in_python_and_spark",
        "tests/integration/test_no_drift.py::test_days_are_served_as_they_were_learned",
    ],
    "the string indexers were not applied in the stream: carrier, airports and route did not count": [
        "tests/integration/test_training.py::test_every_input_counts",
        "tests/integration/test_no_drift.py::test_every_text_counts_in_the_stream",
        "tests/integration/test_no_drift.py::test_batch_and_stream_give_the_same_digits",
    ],
    "accuracy was measured on the rows that the model had learned from": [
        "tests/integration/test_training.py::test_the_holdout_is_the_last_months",
        "tests/integration/test_training.py::test_metadata_say_where_the_model_comes_from_and_how_good_it_is",
    ],
    "probabilities were dropped before MongoDB": [
        "tests/unit/test_sink.py::test_an_answer_keeps_all_fields_and_gets_dates",
        "tests/integration/test_line.py::test_a_flight_from_the_form_is_predicted",
    ],
    "the model was overwritten in place": [
        "tests/unit/test_registry.py::test_files_are_read_only",
        "tests/unit/test_registry.py::test_promote_keeps_the_champion_before_as_previous",
        "tests/integration/test_line.py::test_a_new_champion_replaces_the_query",
    ],
    "the producer was never flushed": [
        "tests/web/test_submit.py::test_accepted_flight_is_on_the_topic",
        "tests/web/test_submit.py::test_kafka_away",
    ],
    "an unknown route gave a 500": [
        "tests/web/test_submit.py::test_pair_without_a_distance_gets_the_great_circle",
        "tests/integration/test_line.py::test_the_originals_example_is_answered_with_a_remark",
        "tests/integration/test_training.py::test_what_was_never_seen_gets_an_answer",
    ],
    "/shutdown was open to all": ["tests/web/test_app.py::test_errors_are_json"],
    "debug mode on 0.0.0.0": [
        f"{HERE}::test_no_debug_mode_and_no_open_address",
        "tests/web/test_app.py::test_internal_error_shows_no_trace",
        "tests/integration/test_line.py::test_every_socket_listens_on_loopback_only",
    ],
    "paths and passwords in the code": [
        f"{HERE}::test_no_path_and_no_password_in_the_code",
        "tests/unit/test_compose.py::test_no_environment_has_a_secret",
        "tests/unit/test_stack.py::test_secrets_are_made_once_and_private",
    ],
}

PATH = re.compile(r"""["'](/home|/root|/Users|/opt|/tmp|/usr|/var|/mnt|[A-Z]:\\)""")
PASSWORD = re.compile(
    r"""(?i)(password|passwd|secret|token|api_?key)\w*["']?\s*[:=]\s*f?["'][^"'${<]|://[^/@\s{]+:[^/@\s{]+@"""
)
OPEN = re.compile(r"debug\s*=\s*True|set_debug|FLASK_DEBUG|use_reloader|0\.0\.0\.0")


def code() -> Iterator[tuple[str, str]]:
    """Every line of Python outside the tests, with its place."""
    for folder in ("dags", "docker", "docs", "include", "plugins", "spark_jobs", "stack", "webapp"):
        for path in sorted((PROJECT / folder).rglob("*.py")):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                yield f"{path.relative_to(PROJECT)}:{number}", line


def found(pattern: re.Pattern[str]) -> list[str]:
    return [f"{place}: {line.strip()}" for place, line in code() if pattern.search(line)]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_fault_has_tests(fault: str) -> None:
    for test in FAULTS[fault]:
        path, name = test.split("::")
        tree = ast.parse(Path(PROJECT / path).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test


def test_no_path_and_no_password_in_the_code() -> None:
    assert len(list(code())) > 3000, "the code was looked at"
    assert found(PATH) == []
    assert found(PASSWORD) == []


def test_no_debug_mode_and_no_open_address() -> None:
    assert found(OPEN) == []
    app = create_app()
    assert not app.debug
    assert not app.testing


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (PATH, 'base_path = "/home/someone/practica"'),
        (PASSWORD, 'MONGO_PASSWORD = "agile"'),
        (PASSWORD, '"mongodb://root:example@mongo:27017"'),
        (OPEN, 'app.run(debug=True, host="127.0.0.1")'),
        (OPEN, 'app.run(host="0.0.0.0", port=5001)'),
    ],
)
def test_what_the_original_had_would_be_found(pattern: re.Pattern[str], line: str) -> None:
    assert pattern.search(line)
