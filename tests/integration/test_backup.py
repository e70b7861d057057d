"""Backup and restore on real services: what was there is there again, and nothing is taken from a bad file."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from confluent_kafka import Producer
from pymongo.errors import PyMongoError

from flight_delays.contract import REQUEST_TOPIC, Collection
from flight_delays.infra import mongo
from flight_delays.predictor.events import Kind
from flight_delays.predictor.state import read_state
from flight_delays.settings import PROJECT, Settings
from stack import backup, console, state
from stack.secrets import Secrets, load_secrets
from stack.services import services
from stack.steps import StepFailedError
from stack.supervisor import Supervisor
from stack.up import submit_flight
from tests.conftest import Stack, settings_in
from tests.integration.line import answer, reconcile, until
from tests.integration.old_state import EXPECTED, running, unpack
from tests.web.form import FLIGHT, SUBMIT

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """An installation with answers, a model, records: stopped."""
    settings = settings_in(tmp_path_factory.mktemp("backup"), 4_000)
    unpack(settings)
    return Stack(settings, Supervisor(settings), load_secrets(settings))


def everything(stack: Stack) -> dict[str, bytes]:
    """All that a backup has to keep: the stopped stack's files."""
    home = stack.settings.home
    found = [path for part in backup.PARTS for path in (home / part, *(home / part).rglob("*")) if path.is_file()]
    return {str(path.relative_to(home)): path.read_bytes() for path in found}


def names(path: Path) -> set[str]:
    with tarfile.open(path) as archive:
        return set(archive.getnames())


def test_a_backup_brings_everything_back(old: Stack, tmp_path: Path) -> None:
    settings = old.settings
    before = everything(old)
    assert {"secrets.json", "mongo/embedded.mv.db", "kafka/cluster.id"} < before.keys()
    path = backup.backup(settings, tmp_path / "all.tar.gz")
    assert path.stat().st_mode & 0o777 == 0o600
    assert not [name for name in names(path) if name.startswith(("logs", "run", "airflow/logs", "data/downloads"))]
    with pytest.raises(StepFailedError, match="already"):
        backup.restore(settings, path, force=False)
    console.clean(settings, assume_yes=True)
    assert not settings.models.exists()
    backup.restore(settings, path, force=False)
    assert everything(old) == before
    files = [settings.home / name for name in before]
    assert len(files) > 10
    assert not [path for path in files if path.stat().st_mode & 0o077]

    with running(settings) as stack:
        with pytest.raises(StepFailedError, match="running"):
            backup.restore(settings, path, force=True)
        with pytest.raises(StepFailedError, match="running"):
            backup.backup(settings, tmp_path / "hot.tar.gz", may_stop=False)
        with pytest.raises(StepFailedError, match="started with other code"):
            backup.backup(settings, tmp_path / "hot.tar.gz")
        outcome = reconcile(settings)
        assert outcome.result is Kind.REPAIRED, "it goes on from its checkpoint"
        assert outcome.deployment.version == EXPECTED["champion"]
        for uuid in EXPECTED["pending"]:  # sent before the backup, and not answered yet
            assert answer(stack, uuid)["status"] == "OK"
        for uuid, known in EXPECTED["answers"].items():
            assert answer(stack, uuid) == known


def test_a_backup_of_a_state_of_release_0_1_0_can_be_restored(tmp_path: Path) -> None:
    settings = settings_in(tmp_path / "home", 4_000)
    unpack(settings)
    path = backup.backup(settings, tmp_path / "all.tar.gz")
    assert "state.json" not in names(path)
    console.clean(settings, assume_yes=True)
    backup.restore(settings, path, force=False)
    assert settings.models.exists()


@contextmanager
def own_mongodb(settings: Settings) -> Iterator[None]:
    """The MongoDB of these settings, outside of any stack."""
    service = next(each for each in services(settings, Secrets()) if each.name == "mongo")
    with subprocess.Popen(service.command) as process:

        def ready() -> bool:
            try:
                service.ready(settings)
            except PyMongoError:
                return False
            return True

        until(ready, 60, "MongoDB")
        try:
            yield
        finally:
            process.terminate()


@pytest.fixture
def external(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """As `old`, but all documents are in a MongoDB of the user's own."""
    own = settings_in(tmp_path / "own", 4_200)
    unpack(own)
    with own_mongodb(own):
        monkeypatch.setenv("MONGO_URI", own.mongo_uri)
        settings = settings_in(tmp_path / "home", 4_000)
        unpack(settings)
        yield Stack(settings, Supervisor(settings), load_secrets(settings))


def test_an_own_mongodb_older_than_the_backup_gets_all_answers_that_kafka_holds(
    external: Stack, tmp_path: Path
) -> None:
    settings = external.settings
    with running(settings, "spark"):  # the sink has delivered
        pass
    path = backup.backup(settings, tmp_path / "backup.tar.gz")
    assert not [name for name in names(path) if name.startswith("mongo")]
    with mongo.database(settings) as db:
        gone = [db[name].delete_many({}).deleted_count for name in (Collection.RESPONSES, Collection.REJECTED)]
        assert sum(gone) == len(EXPECTED["answers"])
        assert read_state(db).serving is not None
        backup.restore(settings, path, force=True)
        with running(settings, "spark") as stack:
            for uuid, known in EXPECTED["answers"].items():
                assert answer(stack, uuid) == known
        found = read_state(db)
        assert (found.serving, found.candidate, found.retiring) == (None, None, ())
        assert found.generation == EXPECTED["generation"]
        with running(settings, "spark"):
            assert read_state(db) == found, "once is enough"


def test_an_own_mongodb_newer_than_the_backup_keeps_its_answers(external: Stack, tmp_path: Path) -> None:
    settings = external.settings
    path = backup.backup(settings, tmp_path / "backup.tar.gz")
    with running(settings) as stack:
        assert reconcile(settings).result is Kind.REPAIRED
        submitted = submit_flight(settings, 60)["prediction"]["UUID"]
        known = {uuid: answer(stack, uuid) for uuid in (submitted, *EXPECTED["pending"])}
    backup.restore(settings, path, force=True)
    with running(settings) as stack:
        outcome = reconcile(settings)
        assert outcome.result is Kind.STARTED
        assert outcome.deployment.generation == EXPECTED["generation"] + 2, "two deployments never share a number"
        new = submit_flight(settings, 60)["prediction"]
        assert (new["ModelVersion"], new["Deployment"]) == (EXPECTED["champion"], outcome.deployment.generation)
        for uuid, first in {**known, **EXPECTED["answers"]}.items():
            assert answer(stack, uuid) == first
        # messages at the places of some that the restored Kafka never got
        producer = Producer({"bootstrap.servers": settings.kafka_bootstrap})
        bad = [str(uuid4()) for _ in range(16)]
        for number, key in enumerate(bad):
            producer.produce(REQUEST_TOPIC, key=key, value="{", partition=number % 2)
        assert producer.flush(10) == 0
        for key in bad:
            assert answer(stack, key)["status"] == "REJECTED"


def test_services_without_a_process_manager_are_not_copied(old: Stack, tmp_path: Path) -> None:
    run = old.settings.home / "run"
    run.mkdir(exist_ok=True)
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    with subprocess.Popen(command, cwd=PROJECT, start_new_session=True) as kafka:
        try:
            (run / "kafka.group").write_text(str(os.getpgid(kafka.pid)))
            with pytest.raises(StepFailedError, match="kafka still runs"):
                backup.backup(old.settings, tmp_path / "hot.tar.gz")
        finally:
            kafka.kill()
    assert backup.backup(old.settings, tmp_path / "cold.tar.gz").is_file()


def test_a_running_stack_is_stopped_copied_and_started_again(
    line: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "running.tar.gz"
    copied: set[str] = set()
    statuses = []
    replace = Path.replace

    def interrupted(part: Path, target: Path) -> Path:
        """A person presses Ctrl-C when all is copied."""
        if target != path:
            return replace(part, target)
        copied.update(names(part))
        statuses.append(httpx.post(line.web_url + SUBMIT, data=FLIGHT, timeout=20).status_code)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        backup.backup(line.settings, path)
    assert {"state.json", "airflow/airflow.db", "kafka/data", "mongo", "checkpoints", "data/weather"} < copied
    assert statuses == [503]
    assert not list(tmp_path.iterdir())
    assert submit_flight(line.settings, 20)["status"] == "OK"


def test_a_bad_backup_changes_nothing(old: Stack, tmp_path: Path) -> None:
    good = backup.backup(old.settings, tmp_path / "good.tar.gz")
    before = everything(old)
    data = good.read_bytes()
    bad = tmp_path / "bad.tar.gz"

    def refused(match: str) -> None:
        with pytest.raises(StepFailedError, match=match):
            backup.restore(old.settings, bad, force=True)

    def add(name: str) -> None:
        with tarfile.open(good) as whole, tarfile.open(bad, "w:gz") as archive:
            archive.addfile(tarfile.TarInfo(name))
            for member in whole:
                archive.addfile(member, whole.extractfile(member))

    refused("no whole backup")  # there is none
    for damaged in (
        data[: len(data) // 2],
        data[:-3],
        data[:5000] + bytes([data[5000] ^ 1]) + data[5001:],
        b"no archive",
    ):
        bad.write_bytes(damaged)
        refused("no whole backup")
    for name in (
        "../escaped",
        "airflow/config/airflow_local_settings.py",
        "models/../airflow/webserver_config.py",
        "run/x.conf",
        "backup.json",  # of the dumps between two releases
    ):
        add(name)
        refused("is no part of a backup")
    for parts, match in {
        (): "it holds no state",
        ("secrets.json",): "it holds no state",
        ("models",): r"secrets\.json: .*No such file",
        ("models", "secrets.json"): r"secrets\.json has no airflow_fernet_key, .*spark_connect_token",
    }.items():
        with tarfile.open(bad, "w:gz") as archive:
            for name in parts:
                member = tarfile.TarInfo(name)
                if name == "models":
                    member.type = tarfile.DIRTYPE
                member.size = 0 if name == "models" else 2
                archive.addfile(member, BytesIO(b"{}"))
        refused(f"no whole backup: {match}")
    assert everything(old) == before
    assert not (old.settings.home / state.UNFINISHED_RESTORE).exists()


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
