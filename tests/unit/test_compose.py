"""docker-compose.yaml, its Dockerfile and its .env: valid, closed to the outside, equal to the embedded stack."""

from __future__ import annotations

import http.server
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from cryptography.fernet import Fernet

from flight_delays.settings import PROJECT, Settings
from stack.secrets import Secrets
from stack.services import _shared, airflow_environment, services

VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")
TEXT = (PROJECT / "docker-compose.yaml").read_text()
DOCKERFILE = (PROJECT / "docker" / "Dockerfile").read_text()
PROJECT_IMAGE = "flight-delays:local"
HOME, CODE = "/var/lib/flight-delays", "/opt/flight-delays"
ONCE = {"airflow-init", "airflow-start"}

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(
    VARIABLE.sub(lambda match: match[3] if match[2] == "-" else f"<{match[1]}>", TEXT)
)["services"]
"""The services with each secret as the name of its variable: `<MONGO_PASSWORD>`."""

every_service = pytest.mark.parametrize("name", sorted(SERVICES))
long_running = pytest.mark.parametrize("name", sorted(SERVICES.keys() - ONCE))


def environment(name: str) -> dict[str, str]:
    """With what its file says; Compose reads no more into a line than `_shared` does."""
    file = SERVICES[name].get("env_file")
    shared = _shared(Path(file).name) if file else {}
    return {**shared, **SERVICES[name].get("environment", {})}


# --- the file --------------------------------------------------------------------------------------------------------


def test_the_file_follows_the_compose_specification() -> None:
    schema = json.loads((PROJECT / "tests" / "data" / "compose-spec.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(yaml.safe_load(TEXT))


@every_service
def test_what_a_service_names_exists(name: str) -> None:
    service = SERVICES[name]
    for other, wanted in service.get("depends_on", {}).items():
        condition = "service_completed_successfully" if other in ONCE else "service_healthy"
        assert wanted["condition"] == condition, f"{name} waits for {other}"
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        assert (PROJECT / source).is_file() if source.startswith("./") else source in yaml.safe_load(TEXT)["volumes"]
    if service["image"] == PROJECT_IMAGE:
        words = " ".join([*service["command"], *service.get("healthcheck", {}).get("test", [])])
        for script in re.findall(r"[\w./]+\.py\b", words):
            assert (PROJECT / script).is_file(), script


@every_service
def test_ports_are_published_on_loopback_and_can_be_moved(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)
        assert re.search(rf"127\.0\.0\.1:\$\{{FLIGHTS_PORT_\w+:-\d+\}}:{port.split(':')[2]}\b", TEXT), port
    assert SERVICES[name].get("network_mode", "") in ("", "service:airflow-apiserver")


@every_service
def test_each_service_is_bounded_and_without_privileges(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    assert "docker.sock" not in str(service)
    assert service["logging"]["options"]["max-size"]
    user = re.findall(r"^USER (.+)$", DOCKERFILE, re.M)[-1] if service["image"] == PROJECT_IMAGE else service["user"]
    assert user not in ("root", "0")


@long_running
def test_what_runs_on_is_restarted_and_asked_for_its_health(name: str) -> None:
    assert SERVICES[name]["restart"] == "unless-stopped"
    assert SERVICES[name]["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")


def test_images_are_pinned() -> None:
    bases = [base for base in re.findall(r"^FROM (\S+)", DOCKERFILE, re.M) if base != "base"]
    for image in {*(service["image"] for service in SERVICES.values()), *bases} - {PROJECT_IMAGE}:
        assert re.fullmatch(r"[\w./-]+:\d+\.\d+(\.\d+)?(-[\w-]+)?", image), image
    assert [name for name, service in SERVICES.items() if "build" in service] == ["spark-connect"]
    assert SERVICES["spark-connect"]["image"] == PROJECT_IMAGE
    kafka = re.search(r'name="kafka_2.13" rev="([\d.]+)"', (PROJECT / "stack" / "ivy.xml").read_text())
    assert kafka is not None
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{kafka[1]}"


def test_flights_variables_are_settings() -> None:
    known = {f"FLIGHTS_{field.upper()}" for field in Settings.model_fields}
    used = set(re.findall(r"\bFLIGHTS_\w+", TEXT + DOCKERFILE))
    assert used
    assert used <= known


# --- secrets ---------------------------------------------------------------------------------------------------------


@every_service
def test_every_secret_comes_from_the_environment(name: str) -> None:
    for key, value in environment(name).items():
        if re.search(r"PASSWORD$|SECRET|_KEY$", key):
            assert re.fullmatch(r"<\w+>", value), f"{key} of {name} is written out"
        for password in re.findall(r"://[^/@]*:([^@]*)@", value) + re.findall(r'"password": "([^"]*)"', value):
            assert re.fullmatch(r"<\w+>", password), f"{key} of {name} has a password written out"


@pytest.fixture
def make_env(tmp_path: Path) -> Path:
    (tmp_path / "docker").mkdir()
    return Path(shutil.copy(PROJECT / "docker" / "make-env", tmp_path / "docker"))


def generate(script: Path) -> dict[str, str]:
    subprocess.run([script], check=True, capture_output=True)
    lines = (script.parents[1] / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_the_generated_env_is_complete_and_private(make_env: Path) -> None:
    made = generate(make_env)
    assert (make_env.parents[1] / ".env").stat().st_mode & 0o777 == 0o600
    assert made.keys() == {match[1] for match in VARIABLE.finditer(TEXT) if match[2] == "?"}
    assert len(set(made.values())) == len(made)
    Fernet(made["AIRFLOW_FERNET_KEY"])
    for name, value in made.items():  # they stand in URLs and in JSON
        assert re.fullmatch(r"[\w-]{40,}=?", value, re.ASCII), name
    # What is asked for is asked for with the way to get it.
    assert {match[3] for match in VARIABLE.finditer(TEXT) if match[2] == "?"} == {"run docker/make-env"}
    assert all(match[2] for match in VARIABLE.finditer(TEXT))


def test_the_generated_env_is_never_overwritten(make_env: Path) -> None:
    env = make_env.parents[1] / ".env"
    env.write_text("FLIGHTS_PORT_WEB=5001\nMONGO_PASSWORD=mine")  # by hand: no newline at its end, readable by all
    env.chmod(0o644)
    first = generate(make_env)
    assert (first["FLIGHTS_PORT_WEB"], first["MONGO_PASSWORD"]) == ("5001", "mine")
    assert "AIRFLOW_PASSWORD" in first
    assert env.stat().st_mode & 0o777 == 0o600
    assert generate(make_env) == first


# --- the image -------------------------------------------------------------------------------------------------------


def test_what_the_dockerfile_copies_exists_and_is_not_ignored() -> None:
    ignore = (PROJECT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in ignore if line.startswith("!")}
    assert "*" in ignore
    copied = [words.split()[:-1] for words in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.M)]
    for source in (source for sources in copied for source in sources):
        assert (PROJECT / source).exists(), source
        assert Path(source).parts[0] in allowed, source
    packages = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied_folders = {source for sources in copied for source in sources}
    assert {Path(package).parts[0] for package in packages["packages"]} | {"dags"} <= copied_folders


def test_start_finds_what_it_takes_from_make_up() -> None:
    spec = importlib.util.spec_from_file_location("start", PROJECT / "docker" / "start.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


# --- the same as the embedded stack ----------------------------------------------------------------------------------


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("MONGO_URI", environment("airflow-scheduler")["MONGO_URI"].replace("<", "").replace(">", ""))
    return Settings(home=tmp_path, kafka_bootstrap="kafka:9092", spark_connect_url="sc://spark-connect:15002")


SECRETS = Secrets(
    airflow_fernet_key="<AIRFLOW_FERNET_KEY>",
    airflow_secret_key="<AIRFLOW_SECRET_KEY>",
    airflow_jwt_secret="<AIRFLOW_JWT_SECRET>",
)


@pytest.mark.parametrize(
    "name", sorted(name for name in SERVICES if name.startswith("airflow") and name != "airflow-start")
)
def test_airflow_is_configured_as_in_the_embedded_stack(name: str, embedded: Settings) -> None:
    wanted = {
        key: value.replace(str(embedded.home), HOME).replace(str(PROJECT), CODE)
        for key, value in airflow_environment(embedded, SECRETS).items()
        if key.startswith("AIRFLOW") or key == "SPARK_LOCAL_IP"
    }
    database = "postgresql+psycopg2://airflow:<POSTGRES_PASSWORD>@postgres:5432/airflow"
    wanted["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = database
    wanted["AIRFLOW_CONN_AIRFLOW_DATABASE"] = json.dumps(
        {"conn_type": "generic", "extra": {"secret_address": database}}
    )
    wanted["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] = "http://airflow-apiserver:9090/execution/"
    wanted["AIRFLOW_CONN_MONGO_DEFAULT"] = wanted["AIRFLOW_CONN_MONGO_DEFAULT"].replace(
        "MONGO_PASSWORD", "<MONGO_PASSWORD>"
    )
    found = {key: value for key, value in environment(name).items() if key in wanted or key.startswith("AIRFLOW__")}
    for key in [key for key in wanted if key.startswith("AIRFLOW_CONN_")]:
        assert json.loads(found.pop(key)) == json.loads(wanted.pop(key))
    assert found == wanted


def test_kafka_is_configured_as_in_the_embedded_stack(embedded: Settings) -> None:
    services(Settings(home=embedded.home), SECRETS)
    lines = (embedded.home / "kafka" / "server.properties").read_text().splitlines()
    wanted = dict(line.split("=", 1) for line in lines) | {
        "listeners": "PLAINTEXT://0.0.0.0:9092,CONTROLLER://127.0.0.1:9093",
        "advertised.listeners": "PLAINTEXT://kafka:9092",
        "log.dirs": "/var/lib/kafka/data",
    }
    # As the image does it: KAFKA_LOG_DIRS is log.dirs; these three are the launcher's.
    launcher = {"KAFKA_HEAP_OPTS", "KAFKA_JVM_PERFORMANCE_OPTS", "KAFKA_LOG4J_ROOT_LOGLEVEL"}
    found = {
        key.removeprefix("KAFKA_").lower().replace("_", "."): value
        for key, value in environment("kafka").items()
        if key not in launcher
    }
    assert found == wanted


def test_spark_connect_is_configured_as_in_the_embedded_stack(embedded: Settings) -> None:
    found = services(Settings(home=embedded.home), SECRETS)
    [service] = [service for service in found if service.name == "spark-connect"]
    wanted = options(shlex.split(service.command[-1].partition("exec ")[2])[1:])
    found = options(SERVICES["spark-connect"]["command"][1:])
    # In place of SPARK_LOCAL_IP, which would also hide the UI: only the gRPC port and the UI leave loopback.
    assert found.pop("spark.driver.bindAddress") == found.pop("spark.driver.host") == "127.0.0.1"
    wanted |= {
        "spark.connect.grpc.binding.address": "0.0.0.0",
        "spark.local.dir": "/tmp/spark",
        "spark.driver.defaultJavaOptions": "-Djava.io.tmpdir=/tmp",
        "spark.sql.warehouse.dir": "/tmp/warehouse",
    }
    wanted["--properties-file"] = wanted["--properties-file"].replace(str(PROJECT), CODE)
    wanted.pop("--jars")  # in the image they lie beside Spark's own
    assert found == wanted


def options(command: list[str]) -> dict[str, str]:
    """The options of a spark-submit, `--name value` or `--name=value`; those of `--conf` by their keys."""
    found: dict[str, str] = {}
    words = iter(command)
    for word in words:
        if word.startswith("--"):
            name, _, value = word.partition("=")
            value = value or next(words)
            key, _, setting = value.partition("=")
            found |= {key: setting} if name == "--conf" else {name: value}
    return found


# --- the health check ------------------------------------------------------------------------------------------------


@pytest.fixture
def health_url() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503 if self.path == "/unhealthy" else 200)
            self.end_headers()
            states = {"scheduler": {"status": "healthy"}, "triggerer": {"status": None}}
            self.wfile.write(json.dumps(states).encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("path", "component", "healthy"),
    [
        ("/", None, True),
        ("/", "scheduler", True),
        ("/", "triggerer", False),
        ("/", "absent", False),
        ("/unhealthy", None, False),
    ],
)
def test_the_health_check_fails_where_unhealthy(
    health_url: str, path: str, component: str | None, *, healthy: bool
) -> None:
    command = [sys.executable, str(PROJECT / "docker" / "healthcheck.py"), health_url + path]
    done = subprocess.run([*command, *([component] if component else [])], capture_output=True, check=False)
    assert (done.returncode == 0) is healthy
