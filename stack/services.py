"""The services of the embedded stack: how each is started, and how it is asked whether it is ready."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import quote, unquote, unquote_plus, urlsplit

import httpx
from confluent_kafka.admin import AdminClient

from flight_delays.answers import sink
from flight_delays.contract import CLIENT_ID
from flight_delays.infra import mongo
from flight_delays.infra.files import write_private
from flight_delays.infra.kafka import PARTITIONER, client_options
from flight_delays.predictor import engine
from flight_delays.settings import LOOPBACK, PROJECT, Settings
from stack import artifacts, state
from stack.secrets import Secrets

BIN = Path(sys.executable).parent
MIB = 1024 * 1024
Ready = Callable[[Settings], object]


@dataclass(frozen=True)
class Service:
    """One process under the process manager; `ready` raises, with a reason, until the service answers."""

    name: str
    command: list[str]
    ready: Ready
    environment: dict[str, str] = field(default_factory=dict)
    stop_seconds: int = 20
    autostart: bool = True
    ports: tuple[str, ...] = ()
    """The settings fields of the ports it listens on."""


def services(settings: Settings, secrets: Secrets) -> list[Service]:
    """Every service of this installation, in the order in which they depend on each other; none that is external."""
    environment = airflow_environment(settings, secrets)

    def airflow(name: str, words: list[str], ready: Ready, *ports: str) -> Service:  # after the database is migrated
        command = [str(BIN / "airflow"), *words]
        return Service(f"airflow-{name}", command, ready, environment, 30, autostart=False, ports=ports)

    def api_server(name: str, apps: str, port: str, ready: Ready) -> Service:
        words = ["api-server", "--apps", apps, "--host", LOOPBACK, "--port", str(getattr(settings, port))]
        return airflow(name, [*words, "--workers", "1"], ready, port)

    gunicorn = [str(BIN / "gunicorn"), "--config", str(PROJECT / "webapp" / "gunicorn.conf.py")]
    in_part = (settings.home / state.RESTORED_IN_PART).exists()  # its offsets are reset first
    return [
        *([] if settings.mongo_is_external else [_mongo(settings)]),
        *([] if settings.kafka_is_external else [_kafka(settings)]),
        *([] if settings.spark_connect_is_external else [_spark_connect(settings, secrets)]),
        Service("sink", [sys.executable, "-m", "flight_delays.answers.sink"], sink.check, autostart=not in_part),
        Service("web", [*gunicorn, "webapp:create_app()"], _web_ready, ports=("port_web",)),
        # The tasks' API is a process of its own: the other one writes its log of people's actions while it can do
        # nothing else. With SQLite's one writer at a time it then waits for a task's request in the same process, which
        # waits for it: both for 5 s, until one fails with status 500 (docs/architecture.md).
        api_server("execution-api", "execution", "port_airflow_execution", _execution_api_ready),
        api_server("api-server", "core", "port_airflow", partial(_airflow_ready, "metadatabase")),
        airflow("scheduler", ["scheduler", "--skip-serve-logs"], partial(_airflow_ready, "scheduler")),
        airflow("dag-processor", ["dag-processor"], partial(_airflow_ready, "dag_processor")),
        airflow("triggerer", ["triggerer", "--skip-serve-logs"], partial(_airflow_ready, "triggerer")),
    ]


def _web_ready(settings: Settings) -> None:
    _get(f"{settings.web_url}/healthz")


def _execution_api_ready(settings: Settings) -> None:
    _get(f"http://{LOOPBACK}:{settings.port_airflow_execution}/execution/health/ping")


def _get(url: str) -> str:
    response = httpx.get(url, timeout=5)
    if response.is_error:
        raise RuntimeError(f"{url} answers {response.status_code}: {response.text[:300]}")
    return response.text


def _shared(name: str) -> dict[str, str]:
    """The options in a file of this folder, which docker-compose.yaml reads, too."""
    lines = (PROJECT / "stack" / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


# --- MongoDB ---------------------------------------------------------------------------------------------------------


def _mongo(settings: Settings) -> Service:
    folder = settings.home / "mongo"
    folder.mkdir(parents=True, exist_ok=True)
    embedded = folder / "embedded.mv.db"
    if (mongod := shutil.which("mongod")) is not None and not embedded.exists():  # the answers are where they are
        command = [mongod, "--dbpath", str(folder), "--bind_ip", LOOPBACK, "--port", str(settings.port_mongo)]
    else:
        classpath = f"{artifacts.JARS / 'embedded-mongo'}:{artifacts.classpath('mongo')}"
        command = [*_java(128, start_mib=32), "-cp", classpath, "EmbeddedMongo"]
        command += [str(settings.port_mongo), str(embedded)]
    return Service("mongo", command, _mongo_ready, ports=("port_mongo",))


def _mongo_ready(settings: Settings) -> None:
    with mongo.database(settings, serverSelectionTimeoutMS=1000) as db:
        db.command("ping")


# --- Kafka -----------------------------------------------------------------------------------------------------------


CLIENT_BYTES_PER_SECOND = MIB
"""What a client of the embedded Kafka may send, beyond a burst of 10 s of it: some 2,600 requests a second, which is
what the sink can store. A client is who names itself so: this stops accidents, no attacker."""


def _java(heap_mib: int, *, start_mib: int = 64) -> list[str]:
    """The Java launcher with a bounded heap; the serial collector is the smallest, more gains little on 2 cores."""
    return ["java", f"-Xms{start_mib}m", f"-Xmx{heap_mib}m", "-XX:+UseSerialGC"]


def _kafka(settings: Settings) -> Service:
    folder = settings.home / "kafka"
    folder.mkdir(parents=True, exist_ok=True)
    broker, controller = f"{LOOPBACK}:{settings.port_kafka}", f"{LOOPBACK}:{settings.port_kafka_controller}"
    shared = _shared("kafka.env").items()
    properties = {
        **{name.removeprefix("KAFKA_").lower().replace("_", "."): value for name, value in shared},
        "controller.quorum.voters": f"1@{controller}",
        "listeners": f"PLAINTEXT://{broker},CONTROLLER://{controller}",
        "advertised.listeners": f"PLAINTEXT://{broker}",
        "log.dirs": str(folder / "data"),
    }
    # Java reads Latin-1 here, and the same escapes as JSON's.
    lines = (f"{key}={json.dumps(value)[1:-1]}\n" for key, value in properties.items())
    write_private(folder / "server.properties", "".join(lines))
    cluster = folder / "cluster.id"
    if not cluster.exists():
        cluster.write_text(uuid.uuid4().hex[:22])
    # Kafka does not end where its memory does: it refuses a batch that needs more once unpacked, and serves on. It ends
    # where a full disk has no room for a page of an index, a fault in mapped memory: else it goes on, writes the same
    # batch again, and no group coordinator ever loads that log.
    java = [*_java(512), "-XX:+UnlockDiagnosticVMOptions", "-XX:AbortVMOnException=java.lang.InternalError"]
    java += ["-XX:-CreateCoredumpOnCrash", f"-XX:ErrorFile={os.devnull}"]
    java += [f"-Dlog4j2.configurationFile={PROJECT / 'stack' / 'log4j2.properties'}"]
    java += ["-cp", artifacts.classpath("kafka")]
    command = [*java, "kafka.Kafka", str(folder / "server.properties")]
    if not (folder / "data" / "meta.properties").exists():
        storage = [*java, "kafka.tools.StorageTool", "format", "--ignore-formatted"]
        storage += ["--cluster-id", cluster.read_text(), "--config", str(folder / "server.properties")]
        command = ["sh", "-c", f"{shlex.join(storage)} && exec {shlex.join(command)}"]
    return Service("kafka", command, _kafka_ready, stop_seconds=30, ports=("port_kafka", "port_kafka_controller"))


def _kafka_ready(settings: Settings) -> None:
    AdminClient(client_options(settings)).list_topics(timeout=2)
    _limit_clients(settings)


def _limit_clients(settings: Settings) -> None:
    """Has the broker slow down who floods it; once, as it remembers. Our own producers, by their name, may go on."""
    stamp = settings.home / "kafka" / "limited"
    if stamp.exists() and stamp.read_text() == str(CLIENT_BYTES_PER_SECOND):
        return
    tool = [*_java(64, start_mib=16), "-cp", artifacts.classpath("kafka"), "kafka.admin.ConfigCommand"]
    tool += ["--bootstrap-server", settings.kafka_bootstrap, "--alter", "--entity-type", "clients"]
    for client, rate in ((["--entity-name", CLIENT_ID], 2**53), (["--entity-default"], CLIENT_BYTES_PER_SECOND)):
        command = [*tool, *client, "--add-config", f"producer_byte_rate={rate}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode != 0:
            raise RuntimeError(f"Kafka takes no limit for its clients: {(done.stdout + done.stderr).strip()[-500:]}")
    stamp.write_text(str(CLIENT_BYTES_PER_SECOND))


# --- Spark Connect ---------------------------------------------------------------------------------------------------

SPARK_CONNECT_SLOTS = 64
"""Task slots: a real-time query holds one a partition while it runs, twice that during a swap.

A slot costs nothing until it is used; so there are enough for a topic that gets more partitions while the server runs.
"""


def _spark_connect(settings: Settings, secrets: Secrets) -> Service:
    folder = settings.home / "spark"
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    conf = {
        "spark.connect.grpc.binding.address": LOOPBACK,
        "spark.connect.grpc.binding.port": str(settings.port_spark_connect),
        "spark.ui.port": str(settings.port_spark_ui),
        "spark.local.dir": str(folder / "tmp"),
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        # Its cache of models lies in the temporary folder, under a name that is the same for every user of a machine.
        "spark.driver.defaultJavaOptions": f'"-Djava.io.tmpdir={folder / "tmp"}"',  # split at blanks, but in quotes
    }
    command = [str(artifacts.spark_home() / "bin" / "spark-submit")]
    command += ["--class", "org.apache.spark.sql.connect.service.SparkConnectServer"]
    command += ["--master", f"local[{max(SPARK_CONNECT_SLOTS, 3 * settings.topic_partitions)}]"]
    command += ["--properties-file", str(PROJECT / "stack" / "spark-connect.conf")]
    command += ["--jars", ",".join(str(jar) for jar in sorted((artifacts.JARS / "spark").glob("*.jar")))]
    for key, value in conf.items():
        command += ["--conf", f"{key}={value}"]
    # What a killed server left behind is in nobody's use: each start sweeps the folder, which is this server's alone.
    sweep = f"find {shlex.quote(str(folder / 'tmp'))} -mindepth 1 -delete; exec "
    return Service(
        "spark-connect",
        ["sh", "-c", sweep + shlex.join([*command, "spark-internal"])],
        engine.ping,
        environment={**spark_environment(), "SPARK_CONNECT_AUTHENTICATE_TOKEN": secrets.spark_connect_token},
        ports=("port_spark_connect", "port_spark_ui"),
    )


def inherited_environment() -> dict[str, str]:
    """This process's environment without Spark's: a Spark Connect client's would make the training job one, too.

    The virtual environment's programs come first on the PATH.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_"))}
    return kept | {"PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}


def spark_environment() -> dict[str, str]:
    """What every Spark driver needs: its home, the project's Python, and loopback only."""
    return {
        "SPARK_HOME": str(artifacts.spark_home()),
        "SPARK_LOCAL_IP": LOOPBACK,
        "SPARK_LOCAL_HOSTNAME": LOOPBACK,  # the machine's own name may have a _, which no URI takes
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
    }


# --- Airflow ---------------------------------------------------------------------------------------------------------


def _airflow_ready(component: str, settings: Settings) -> None:
    health = json.loads(_get(f"http://{LOOPBACK}:{settings.port_airflow}/api/v2/monitor/health"))
    state = (health.get(component) or {}).get("status")
    if state != "healthy":
        raise RuntimeError(f"Airflow's {component} is {state}")


def airflow_environment(settings: Settings, secrets: Secrets) -> dict[str, str]:
    """Airflow's configuration and connections, as its own variables: the same for start-up, tests and the console."""
    home = settings.home / "airflow"
    home.mkdir(parents=True, exist_ok=True)
    passwords, database = home / "passwords.json", f"sqlite:///{quote(str(home / 'airflow.db'))}"
    write_private(passwords, json.dumps({"admin": secrets.airflow_password}))
    options = {
        "CORE__DAGS_FOLDER": PROJECT / "dags",
        "CORE__PLUGINS_FOLDER": PROJECT / "plugins",
        "CORE__FERNET_KEY": secrets.airflow_fernet_key,
        "CORE__EXECUTION_API_SERVER_URL": f"http://{LOOPBACK}:{settings.port_airflow_execution}/execution/",
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": passwords,
        "API__BASE_URL": f"http://{LOOPBACK}:{settings.port_airflow}",
        "API__SECRET_KEY": secrets.airflow_secret_key,
        "API_AUTH__JWT_SECRET": secrets.airflow_jwt_secret,
        "DATABASE__SQL_ALCHEMY_CONN": database,
        "LOGGING__BASE_LOG_FOLDER": home / "logs",
        # The default with a % in it would be a folder {AIRFLOW_HOME}.
        "LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": home / "logs" / "dag_processor",
    }
    servers = {"bootstrap.servers": settings.kafka_bootstrap}
    producer = {"client.id": CLIENT_ID, "partitioner": PARTITIONER, "enable.idempotence": True}
    spark = {"deploy-mode": "client", "spark-binary": "spark-submit"}
    connections = {
        "SPARK_DEFAULT": {"conn_type": "spark", "host": settings.spark_master, "extra": spark},
        "MONGO_DEFAULT": _mongo_connection(settings),
        "SMTP_DEFAULT": _smtp_connection(settings),
        "KAFKA_DEFAULT": {"conn_type": "kafka", "extra": {**servers, **producer, "message.timeout.ms": 10_000}},
        # For `airflow db clean`, which a task of the DAG `maintenance` runs; by this name no log shows it.
        "AIRFLOW_DATABASE": {"conn_type": "generic", "extra": {"secret_address": database}},
    }
    return {
        "AIRFLOW_HOME": str(home),
        **_shared("airflow.env"),
        **{f"AIRFLOW__{name}": str(value) for name, value in options.items()},
        **{f"AIRFLOW_CONN_{name}": json.dumps(value) for name, value in connections.items()},
        **spark_environment(),
        "PYTHONDONTWRITEBYTECODE": "",
        "SPT_NOENV": "1",  # a process that changes its title keeps its environment readable
    }


def _mongo_connection(settings: Settings) -> dict[str, object]:
    """The parts from which the hook makes `mongo_uri` again, so that all log in alike: its host is all but the login.

    A database in its URI would be where it looks the user up (`authSource`).
    """
    scheme, _, rest = settings.mongo_uri.partition("://")
    authority = re.split("[/?]", rest, maxsplit=1)[0]
    login, colon, password = authority.rpartition("@")[0].partition(":")
    known = {"login": unquote_plus(login), "password": unquote_plus(password)} if colon else {}
    host = rest.removeprefix(f"{login}:{password}@") if colon else rest
    extra = {"srv": scheme == "mongodb+srv", **mongo.CLIENT_OPTIONS}
    return {"conn_type": "mongo", "host": host, "extra": extra, **known}


def _smtp_connection(settings: Settings) -> dict[str, object]:
    address = urlsplit(settings.smtp_url)
    user, tls = address.username, address.scheme == "smtps"
    login = {"login": unquote(user), "password": unquote(address.password or "")} if user else {}
    extra = {"disable_ssl": not tls, "disable_tls": not user}
    port = address.port or (465 if tls else 25)
    return {"conn_type": "smtp", "host": address.hostname, "port": port, "extra": extra, **login}
