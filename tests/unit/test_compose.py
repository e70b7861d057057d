"""docker-compose.yaml, its Dockerfile and its secrets: valid, closed to the outside, equal to the embedded stack."""

from __future__ import annotations

import http.server
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
import yaml
from cryptography.fernet import Fernet

from flight_delays.settings import PROJECT, Settings
from stack import containers
from stack.secrets import Secrets
from stack.services import _shared, airflow_environment, services

VARIABLE = re.compile(r"\$\{(\w+)(:-)([^}]*)\}")
TEXT = (PROJECT / "docker-compose.yaml").read_text()
DOCKERFILE = (PROJECT / "docker" / "Dockerfile").read_text()
PROJECT_IMAGE = "flight-delays:local"
CODE = "/opt/flight-delays"
ONCE = {"secrets", "airflow-init", "airflow-start"}
FOR_COMPOSE_ALONE = {"FLIGHTS_PORT_SPARK_QUERY"}
"""Variables that reach no container."""

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(VARIABLE.sub(lambda match: match[3], TEXT))["services"]
"""The services with the default of each variable."""

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
        assert (PROJECT / source).exists() if source.startswith("./") else source in yaml.safe_load(TEXT)["volumes"]
    if service["image"] == PROJECT_IMAGE:
        words = " ".join([*service["command"], *service.get("healthcheck", {}).get("test", [])])
        for script in re.findall(r"[\w./]+\.py\b", words):
            assert (PROJECT / script).is_file(), script


@every_service
def test_ports_are_published_on_loopback_and_can_be_moved(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)
        assert re.search(rf"127\.0\.0\.1:\$\{{FLIGHTS_PORT_\w+:-\d+\}}:{port.split(':')[2]}\b", TEXT), port
    assert SERVICES[name].get("network_mode", "") in ("", "none", "service:airflow-apiserver")


@every_service
def test_each_service_is_bounded_and_without_privileges(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    assert service["read_only"] or name in {"kafka", "secrets", "spark-master", "spark-worker"}
    assert "docker.sock" not in str(service)
    assert service["logging"]["options"]["max-size"]
    user = service.get("user") or re.findall(r"^USER (.+)$", DOCKERFILE, re.M)[-1]
    assert user.split(":")[0] not in ("root", "0")
    assert "user" in service or service["image"] == PROJECT_IMAGE


def test_the_limits_of_memory_add_up_to_12_gib() -> None:
    mib = {"m": 1, "g": 1024}
    limits = [(int(s["mem_limit"][:-1]) * mib[s["mem_limit"][-1]], s.get("scale", 1)) for s in SERVICES.values()]
    assert sum(limit * copies for limit, copies in limits) <= 12 * 1024


@long_running
def test_what_runs_on_is_restarted_and_asked_for_its_health(name: str) -> None:
    assert SERVICES[name]["restart"] == "unless-stopped"
    test = " ".join(SERVICES[name]["healthcheck"]["test"])
    assert test.startswith("CMD ")
    assert not re.search(r"java|mongosh|kafka-|pyspark|engine", test), "a check that takes seconds"


def test_images_are_pinned() -> None:
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", DOCKERFILE, re.M))
    bases = set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)) - stages
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
    assert used <= known | FOR_COMPOSE_ALONE
    assert not FOR_COMPOSE_ALONE & {key for name in SERVICES for key in environment(name)}


# --- secrets ---------------------------------------------------------------------------------------------------------


@every_service
def test_no_environment_has_a_secret(name: str) -> None:
    for key, value in environment(name).items():
        assert not re.search(r"(PASSWORD|SECRET|_KEY|_URI|_CONN)$", key), f"{key} of {name} is written out"
        assert not re.search(r"://[^/@]*:[^@]*@", value), f"{key} of {name} has a password"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """Runs docker/make_secrets.py with some variables in .env; returns what the volume then holds."""
    secrets = load("make_secrets")
    owners: dict[str, int] = {}
    monkeypatch.setattr(secrets, "FOLDER", tmp_path / "volume")
    monkeypatch.setattr(secrets, "GIVEN", tmp_path / "given")
    monkeypatch.setattr(secrets.os, "chown", lambda path, _, group: owners.update({path.name[1:]: group}))
    (tmp_path / "volume").mkdir()

    def make(**given: str) -> dict[str, str]:
        content = yaml.safe_load(TEXT)["configs"]["given"]["content"]
        (tmp_path / "given").write_text(VARIABLE.sub(lambda match: given.get(match[1], match[3]), content))
        secrets.main()
        files = list((tmp_path / "volume").iterdir())
        assert {path.stat().st_mode & 0o777 for path in files} == {0o440}
        assert owners.keys() == {path.name for path in files}
        return {path.name: path.read_text() for path in files}

    return make


def test_secrets_are_made_once(made: Callable[..., dict[str, str]]) -> None:
    first = made()
    assert len(set(first.values())) == len(first) == 9
    Fernet(first["airflow_fernet_key"])
    for name in first.keys() - {"mongo_uri", "airflow_database"}:  # they are in addresses
        assert re.fullmatch(r"[\w-]{16,}=?", first[name], re.ASCII), name
    assert made() == first


def test_secrets_of_an_env_file_come_first(made: Callable[..., dict[str, str]]) -> None:
    own = "of-my-own"
    first, second = made(), made(MONGO_PASSWORD=own)
    assert second["mongo_password"] == own
    assert f":{own}@" in second["mongo_uri"]
    changed = {name for name in first if first[name] != second[name]}
    assert changed == {"mongo_password", "mongo_uri"}


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - {"secrets"}))
def test_a_service_reads_the_secrets_of_its_groups(name: str) -> None:
    groups, mounted = (
        SERVICES[name].get("group_add", []),
        "secrets:/run/secrets:ro" in SERVICES[name].get("volumes", []),
    )
    assert bool(groups) == mounted
    known = {str(getattr(load("make_secrets"), group)) for group in ("POSTGRES", "MONGO", "CLIENTS", "AIRFLOW")}
    assert set(groups) <= known
    assert set(SERVICES["secrets"]["group_add"]) == known


# --- the image -------------------------------------------------------------------------------------------------------


def test_what_the_dockerfile_copies_exists_and_is_not_ignored() -> None:
    ignore = (PROJECT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in ignore if line.startswith("!")}
    assert "*" in ignore
    copied = [words.split()[:-1] for words in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.M)]
    for source in (source for sources in copied for source in sources):
        assert source == "." or list(PROJECT.glob(source)), source
        assert source == "." or Path(source).parts[0] in allowed, source
    packages = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {Path(package).parts[0] for package in packages["packages"]} | {"dags", "docker", "plugins"} <= allowed


def load(name: str) -> ModuleType:
    """A script of docker/."""
    spec = importlib.util.spec_from_file_location(f"docker_{name}", PROJECT / "docker" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the same as the embedded stack ----------------------------------------------------------------------------------


@pytest.fixture
def embedded(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, kafka_bootstrap="kafka:9092", spark_connect_url="sc://spark-connect:15002")


SECRETS = Secrets()


@pytest.mark.parametrize("name", sorted(name for name in SERVICES if name.startswith("airflow")))
def test_airflow_is_configured_as_in_the_embedded_stack_but_for_addresses(
    name: str, embedded: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in [variable for variable in os.environ if variable.startswith("AIRFLOW")]:
        monkeypatch.delenv(variable)
    for variable, value in environment(name).items():
        monkeypatch.setenv(variable, value)
    database = "postgresql+psycopg2://airflow:secret@postgres:5432/airflow"
    (tmp_path / "airflow_database").write_text(database)
    (tmp_path / "airflow_fernet_key").write_text("key")
    found, wanted = containers.environment(embedded, tmp_path), airflow_environment(embedded, SECRETS)
    differ = {key for key in wanted if key.startswith("AIRFLOW_") and found[key] != wanted[key]}
    assert found["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == database
    assert found["AIRFLOW__CORE__FERNET_KEY"] == "key"
    addresses = {"AIRFLOW__CORE__EXECUTION_API_SERVER_URL"} if name != "airflow-start" else set()
    secret = {"AIRFLOW__CORE__FERNET_KEY", "AIRFLOW__API__SECRET_KEY", "AIRFLOW__API_AUTH__JWT_SECRET"}
    stored = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW_CONN_AIRFLOW_DATABASE"}
    assert differ == addresses | secret | stored


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
    command = SERVICES["spark-connect"]["command"]
    found = options([word for word in command[1:] if word != "--load-spark-defaults"])
    wanted.pop("--jars")  # in the image they lie beside Spark's own
    wanted.pop("--master")
    wanted["--properties-file"] = wanted["--properties-file"].replace(str(PROJECT), CODE)
    wanted |= {
        "spark.connect.grpc.binding.address": "0.0.0.0",
        "spark.local.dir": "/tmp/spark",
        "spark.driver.defaultJavaOptions": "-Djava.io.tmpdir=/tmp",
        "spark.sql.warehouse.dir": "/tmp/warehouse",
        "spark.ui.port": "4040",
        # A driver of a cluster, in place of SPARK_LOCAL_IP: executors call it back.
        "spark.driver.bindAddress": "0.0.0.0",
        "spark.driver.host": "spark-connect",
        "spark.authenticate": "false",
    }
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
