"""Backup and restore on real services: what was there is there again, and nothing is taken from a bad file."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from confluent_kafka import Producer

from flight_delays.answers.store import last_predictions
from flight_delays.contract import REQUEST_TOPIC, Collection
from flight_delays.data import records
from flight_delays.model import registry
from flight_delays.predictor.control import Result, reconcile
from flight_delays.predictor.state import read_state
from flight_delays.predictor.workload import CANARY
from stack import backup, console, state
from stack.secrets import load_secrets
from stack.steps import StepFailedError
from stack.supervisor import Supervisor
from stack.up import submit_flight
from tests.conftest import Stack, settings_in
from tests.integration.old_state import EXPECTED, running, unpack
from tests.web.form import RESPONSE

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An installation with answers, a model, records: stopped."""
    settings = settings_in(tmp_path_factory.mktemp("backup"), 4_000)
    unpack(settings)
    secrets = load_secrets(settings)
    return Stack(settings, Supervisor(settings), secrets)


def everything(stack: Stack) -> dict[str, Any]:
    """All that a backup has to keep."""
    settings = stack.settings
    with backup._mongo(settings, backup.Step("look")) as db:  # the MongoDB alone, where the stack does not run
        documents = {name: list(db[name].find({})) for name in backup.COLLECTIONS if name is not Collection.STATE}
        for document in documents[Collection.REJECTED]:  # a place on a topic; that topic is gone after a restore
            document["_id"] = document["_id"].partition("@")[0]
        generation = read_state(db).generation
        newest = [document["_id"] for document in last_predictions(db, 3)]
    files = {
        str(path.relative_to(settings.home)): path.read_bytes()
        for folder in (settings.models, settings.records)
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (".lock", "manifest.previous.json")
    }
    pointer = registry.read_pointer(settings.models)
    manifest = records.read_manifest(settings.records)
    files = {name: content for name, content in files.items() if not name.endswith(("pointer.json", "manifest.json"))}
    secrets = load_secrets(settings)
    return {"documents": documents, "generation": generation, "newest": newest, "files": files, "pointer": pointer} | {
        "manifest": manifest,
        "secrets": secrets,
    }


def walk(path: Path) -> list[Path]:
    return [path] if path.is_file() else [found for found in path.rglob("*") if found.is_file()]


def test_a_backup_brings_everything_back(old: Stack, tmp_path: Path) -> None:
    settings = old.settings
    before = everything(old)
    assert len(before["documents"][Collection.RESPONSES]) == 5
    assert len(before["documents"][Collection.DISTANCES]) == EXPECTED["distances"]
    path = backup.backup(settings, tmp_path / "all.tar.gz")
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(StepFailedError, match="already"):
        backup.restore(settings, path, force=False)
    console.clean(settings, assume_yes=True)
    assert not settings.models.exists()
    backup.restore(settings, path, force=False)
    assert everything(old) == before
    files = [path for name in ("secrets.json", "models", "data") for path in walk(settings.home / name)]
    assert len(files) > 10
    assert not [path for path in files if path.stat().st_mode & 0o077]

    with running(settings) as stack:
        with pytest.raises(StepFailedError, match="running"):
            backup.restore(settings, path, force=True)
        outcome = reconcile(settings)
        assert outcome.result is Result.STARTED
        assert outcome.deployment.version == EXPECTED["champion"]
        assert outcome.deployment.generation > before["generation"], "two deployments never share a number"
        answer = submit_flight(settings, 60)
        assert answer["prediction"]["ModelVersion"] == EXPECTED["champion"]
        # an old request that comes once more: the answer that could be read stays
        uuid, known = next(iter(EXPECTED["answers"].items()))
        again = CANARY | {"UUID": uuid, "Timestamp": "2026-01-01T00:00:00Z", "DepDelay": 300.0}
        stack.answered_by_the_query(REQUEST_TOPIC, uuid, again)
        assert httpx.get(f"{stack.web_url}{RESPONSE}{uuid}").json() == known
        # messages that stand where rejected ones of the old Kafka stood
        producer = Producer({"bootstrap.servers": settings.kafka_bootstrap})
        bad = [str(uuid4()) for _ in range(16)]
        for number, key in enumerate(bad):
            producer.produce(REQUEST_TOPIC, key=key, value="{", partition=number % 2)
        assert producer.flush(10) == 0
        for key in bad:
            found = httpx.get(f"{stack.web_url}{RESPONSE}{key}", params={"wait": 20}, timeout=30).json()
            assert found["status"] == "REJECTED", found
        running_copy = backup.backup(settings, tmp_path / "running.tar.gz")
    with tarfile.open(running_copy) as archive:
        assert "backup.json" in archive.getnames()
    backup.restore(settings, running_copy, force=True)
    assert len(everything(old)["documents"][Collection.RESPONSES]) == 6


def test_a_bad_backup_changes_nothing(old: Stack, tmp_path: Path) -> None:
    good = backup.backup(old.settings, tmp_path / "good.tar.gz")
    before = everything(old)
    data = good.read_bytes()
    bad = tmp_path / "bad.tar.gz"
    for damaged in (
        data[: len(data) // 2],
        data[:-3],
        data[:5000] + bytes([data[5000] ^ 1]) + data[5001:],
        b"no archive",
    ):
        bad.write_bytes(damaged)
        with pytest.raises(StepFailedError, match="no whole backup"):
            backup.restore(old.settings, bad, force=True)
    with tarfile.open(good) as whole, tarfile.open(bad, "w:gz") as changed:  # whole as a file, but not what it was
        for member in whole:
            content = whole.extractfile(member) if member.isfile() else None
            if "pipeline/metadata/part-" not in member.name:
                changed.addfile(member, content)
    with pytest.raises(StepFailedError, match="damaged"):
        backup.restore(old.settings, bad, force=True)
    with tarfile.open(bad, "w:gz") as archive:
        archive.add(good, "../escaped")
    with pytest.raises(StepFailedError, match="no whole backup"):
        backup.restore(old.settings, bad, force=True)
    for name in ("airflow/config/airflow_local_settings.py", "models/../airflow/webserver_config.py", "run/x.conf"):
        with tarfile.open(good) as whole, tarfile.open(bad, "w:gz") as changed:
            changed.addfile(tarfile.TarInfo(name))
            for member in whole:
                changed.addfile(member, whole.extractfile(member))
        with pytest.raises(StepFailedError, match="is no part of a backup"):
            backup.restore(old.settings, bad, force=True)
    for secrets in (b"{}", json.dumps(asdict(old.secrets) | {"airflow_fernet_key": ""}).encode()):
        with tarfile.open(good) as whole, tarfile.open(bad, "w:gz") as changed:
            for member in whole:
                content = whole.extractfile(member)
                if member.name == "secrets.json":
                    member.size, content = len(secrets), io.BytesIO(secrets)
                changed.addfile(member, content)
        with pytest.raises(StepFailedError, match=r"secrets\.json"):
            backup.restore(old.settings, bad, force=True)
    with pytest.raises(StepFailedError, match="no whole backup"):
        backup.restore(old.settings, tmp_path / "missing.tar.gz", force=True)
    assert everything(old) == before
    assert not (old.settings.home / backup.UNFINISHED).exists()


def test_a_restore_that_was_cut_off_is_refused_by_make_up_and_can_be_run_again(
    old: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = backup.backup(old.settings, tmp_path / "good.tar.gz")
    before = everything(old)
    rename = Path.rename

    def killed_at_models(path: Path, target: Path) -> Path:
        if target == old.settings.models:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed_at_models)
        with pytest.raises(KeyboardInterrupt):
            backup.restore(old.settings, good, force=True)
    with pytest.raises(StepFailedError, match="cut off"):
        state.migrate(old.settings)
    (tmp_path / "bad.tar.gz").write_bytes(b"no archive")
    with pytest.raises(StepFailedError, match="no whole backup"):
        backup.restore(old.settings, tmp_path / "bad.tar.gz", force=False)
    with pytest.raises(StepFailedError, match="cut off"):
        state.migrate(old.settings)
    backup.restore(old.settings, good, force=False)
    assert everything(old) == before
    assert not {".replaced", ".restoring", ".restore"} & {path.name for path in old.settings.home.iterdir()}


def test_pages_of_a_large_collection_keep_their_order(old: Stack, tmp_path: Path) -> None:
    with backup._mongo(old.settings, backup.Step("fill")) as db:
        db[Collection.EVENTS].delete_many({})
        db[Collection.EVENTS].insert_many([{"_id": n} for n in range(5_001)])
    path = backup.backup(old.settings, tmp_path / "many.tar.gz")
    with backup._mongo(old.settings, backup.Step("empty")) as db:
        db[Collection.EVENTS].delete_many({})
    backup.restore(old.settings, path, force=True)
    with backup._mongo(old.settings, backup.Step("look")) as db:
        assert [document["_id"] for document in db[Collection.EVENTS].find({})] == list(range(5_001))
