"""Retention of files; that of documents is tested on a real server."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from flight_delays import maintenance
from flight_delays.data import records
from flight_delays.errors import DataError
from flight_delays.model import registry
from flight_delays.settings import get_settings
from flight_delays_airflow import maintenance as tasks


def aged(path: Path, days: float, text: str = "x") -> Path:
    """A file (or, without text, a folder) last written so many days ago."""
    if text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    then = time.time() - days * 86_400
    os.utime(path, (then, then))
    return path


def test_old_files_go_with_their_empty_folders(tmp_path: Path) -> None:
    old = aged(tmp_path / "dag_id=a" / "run_id=1" / "attempt=1.log", 15, "four")
    young = aged(tmp_path / "dag_id=a" / "run_id=2" / "attempt=1.log", 13)
    elsewhere = aged(tmp_path.parent / f"{tmp_path.name}-elsewhere" / "kept.log", 400)
    (tmp_path / "latest").symlink_to(elsewhere.parent)
    fresh = tmp_path / "dag_id=b"
    fresh.mkdir()  # somebody is about to write into it
    aged(old.parent, 15, "")
    assert maintenance.prune_files(tmp_path, 14, dry_run=True) == (1, 4)
    assert old.exists()
    assert maintenance.prune_files(tmp_path, 14) == (1, 4)
    assert not old.parent.exists()
    assert young.exists()
    assert fresh.exists()
    assert elsewhere.exists()
    assert maintenance.prune_files(tmp_path, 14) == (0, 0)
    assert maintenance.prune_files(tmp_path / "missing", 14) == (0, 0)


def test_staging_folders_of_killed_runs_go(tmp_path: Path) -> None:
    for root, sweep in ((tmp_path / "staging", records.sweep), (tmp_path / registry.STAGING, registry.sweep)):
        aged(root / "old" / "file", 3)
        aged(root / "old", 3, "")
        aged(root / "new" / "file", 0.1)
        assert sweep(tmp_path, dry_run=True) == ["old"]
        assert (root / "old").exists()
        assert sweep(tmp_path) == ["old"]
        assert [path.name for path in root.iterdir()] == ["new"]


@pytest.mark.parametrize("task", [tasks.answers, tasks.replays, tasks.rejected])
def test_nothing_is_forgotten_that_kafka_may_bring_again(task: Any) -> None:
    days = get_settings().topic_retention_days - 1
    with pytest.raises(DataError, match="Kafka keeps messages"):
        task({"answer_days": days, "replay_days": days, "rejected_days": days, "dry_run": False})
