"""The mirror in MLflow, on MLflow's own store in a file."""

import logging
import socket
import sys

import pytest

from flight_delays.model import mlflow_mirror, promotion, registry
from flight_delays.settings import get_settings
from tests.versions import WORSE, beside, stage


@pytest.fixture(autouse=True)
def _folder(home, monkeypatch):
    monkeypatch.chdir(home)  # where MLflow's store in a file puts its artifacts
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def use(monkeypatch, address):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    get_settings.cache_clear()


def run_through(home, name, day, **changes):
    version = promotion.register(str(stage(home / name, day=day, **changes)))
    if promotion.judge(version, {"force": False})["passed"]:
        promotion.promote(version)
    return version


def test_runs_verdicts_and_the_champion_are_mirrored(home, monkeypatch):
    from mlflow import MlflowClient

    address = f"sqlite:///{home}/mlflow.db"
    use(monkeypatch, address)
    first = run_through(home, "first", 1)
    worse = run_through(home, "worse", 2, comparison=beside(first, ours=WORSE))
    client = MlflowClient(address)
    experiment = client.get_experiment_by_name(mlflow_mirror.EXPERIMENT).experiment_id
    runs = {run.data.tags["version"]: run for run in client.search_runs([experiment])}
    assert set(runs) == {first, worse}
    assert runs[first].data.metrics["log_loss"] == 1.0
    assert runs[first].data.metrics["commonest_bucket_log_loss"] == 1.2
    assert runs[first].data.params["trees"] == "20"
    assert '"passed":true' in runs[first].data.tags["verdict"]
    assert "promoted by the training DAG" in runs[first].data.tags["verdict"]
    assert '"passed":false' in runs[worse].data.tags["verdict"]
    names = {artifact.path for artifact in client.list_artifacts(runs[first].info.run_id)}
    assert names == {"metadata.json", "model_card.html"}
    assert list(client.search_registered_models()) == [], "without a model, loading a version fails"

    def champion():
        [run] = client.search_runs([experiment], "tags.champion = 'true'")
        return run.data.tags["version"]

    assert champion() == first
    promotion.roll_back({"version": worse})
    assert champion() == worse
    mlflow_mirror.mirror(worse)
    assert len(client.search_runs([experiment])) == 2, "again: nothing is doubled"


def test_mlflow_down_is_a_warning(home, monkeypatch, caplog):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        use(monkeypatch, f"http://127.0.0.1:{closed.getsockname()[1]}")
        with caplog.at_level(logging.WARNING, mlflow_mirror.__name__):
            version = run_through(home, "first", 1)
    assert registry.read_pointer(home / "models").champion == version
    assert f"has no copy of model {version}" in caplog.text


def test_mlflow_not_installed_is_a_warning(home, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    use(monkeypatch, f"sqlite:///{home}/mlflow.db")
    version = run_through(home, "first", 1)
    assert registry.read_pointer(home / "models").champion == version
    assert "mlflow" in caplog.text


def test_without_an_address_mlflow_is_not_even_imported(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setattr(mlflow_mirror, "_mirror", lambda *_: pytest.fail("asked"))
    run_through(home, "first", 1)
