"""The services of the embedded stack: how each is started, and how it is asked whether it is ready."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote, unquote_plus, urlsplit

from flight_delays.contract import CLIENT_ID
from flight_delays.infra.files import write_private
from flight_delays.infra.mongo import CLIENT_OPTIONS
from flight_delays.settings import LOOPBACK, PROJECT, Settings
from stack import artifacts, state
from stack.secrets import Secrets

BIN = Path(sys.executable).parent
MIB = 1024 * 1024


@dataclass(frozen=True)
class Service:
    """One process under the process manager; `ready` raises, with a reason, until the service answers."""

    name: str
    command: list[str]
    ready: Callable[[Settings], None]
    environment: dict[str, str] = field(default_factory=dict)
    stop_seconds: int = 20
    autostart: bool = True
    ports: tuple[str, ...] = ()
    """The settings fields of the ports it listens on."""


def services(settings: Settings, secrets: Secrets) -> list[Service]:
    """Every service of this installation, in the order in which they depend on each other."""
    mongo = [] if settings.mongo_is_external else [_mongo(settings)]
    airflow = airflow_environment(settings, secrets)
    in_part = (settings.home / state.RESTORED_IN_PART).exists()  # its offsets are reset first
    return [
        *mongo,
        _kafka(settings),
        _spark_connect(settings, secrets),
        Service("sink", [sys.executable, "-m", "flight_delays.answers.sink"], _sink_ready, autostart=not in_part),
        Service(
            "web",
            [str(BIN / "gunicorn"), "--config", str(PROJECT / "webapp" / "gunicorn.conf.py"), "webapp:create_app()"],
            _web_ready,
            ports=("port_web",),
        ),
        *(
            Service(
                f"airflow-{name}",
                [str(BIN / "airflow"), *arguments],
                ready,
                environment=airflow,
                autostart=False,  # after the metadata database is migrated
                stop_seconds=30,
                ports=ports,
            )
            for name, arguments, ready, ports in (
                # The tasks' API is a process of its own: the other one writes its log of people's actions while it can
                # do nothing else. With SQLite's one writer at a time it then waits for a task's request in the same
                # process, which waits for it: both for 5 s, until one fails with status 500 (docs/architecture.md).
                (
                    "execution-api",
                    _api_server("execution", settings.port_airflow_execution),
                    _execution_api_ready,
                    ("port_airflow_execution",),
                ),
                (
                    "api-server",
                    _api_server("core", settings.port_airflow),
                    _airflow_ready("metadatabase"),
                    ("port_airflow",),
                ),
                ("scheduler", ["scheduler", "--skip-serve-logs"], _airflow_ready("scheduler"), ()),
                ("dag-processor", ["dag-processor"], _airflow_ready("dag_processor"), ()),
                ("triggerer", ["triggerer", "--skip-serve-logs"], _airflow_ready("triggerer"), ()),
            )
        ),
    ]


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
    from flight_delays.infra import mongo

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
    listeners = f"PLAINTEXT://{LOOPBACK}:{settings.port_kafka},CONTROLLER://{LOOPBACK}:{settings.port_kafka_controller}"
    properties = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{LOOPBACK}:{settings.port_kafka_controller}",
        "controller.listener.names": "CONTROLLER",
        "listeners": listeners,
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{settings.port_kafka}",
        "log.dirs": str(folder / "data"),
        "compression.type": "uncompressed",  # as infra.topics.CONFIG, for topics without a setting of their own
        "auto.create.topics.enable": "false",  # topics are made by the DAG, with the contract's partitions
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",  # one consumer a group: nobody to wait for
        "log.segment.bytes": str(128 * MIB),
        "log.cleaner.dedupe.buffer.size": str(8 * MIB),
        "num.network.threads": "2",
        "num.io.threads": "4",
        # One broker, one disk: an acknowledged request must survive the machine, not only the process. By itself
        # log.flush.interval.ms does nothing: nobody looks.
        "log.flush.interval.ms": "1000",
        "log.flush.scheduler.interval.ms": "1000",
        "log.initial.task.delay.ms": "1000",  # not only 30 s after a start
        "log.flush.offset.checkpoint.interval.ms": "10000",  # what was on disk then need not be checked after a crash
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
    storage = [*java, "kafka.tools.StorageTool", "format", "--ignore-formatted"]
    storage += ["--cluster-id", cluster.read_text(), "--config", str(folder / "server.properties")]
    start = [*java, "kafka.Kafka", str(folder / "server.properties")]
    if (folder / "data" / "meta.properties").exists():
        command = start
    else:
        command = ["sh", "-c", f"{_quoted(storage)} && exec {_quoted(start)}"]
    return Service("kafka", command, _kafka_ready, stop_seconds=30, ports=("port_kafka", "port_kafka_controller"))


def _quoted(command: list[str]) -> str:
    import shlex

    return shlex.join(command)


def _kafka_ready(settings: Settings) -> None:
    from confluent_kafka.admin import AdminClient

    client = AdminClient({"bootstrap.servers": settings.kafka_bootstrap, "log_level": 0})
    client.list_topics(timeout=2)
    _limit_clients(settings)


def _limit_clients(settings: Settings) -> None:
    """Has the broker slow down who floods it; once, as it remembers. Our own producers, by their name, may go on."""
    stamp = settings.home / "kafka" / "limited"
    if settings.kafka_is_external or (stamp.exists() and stamp.read_text() == str(CLIENT_BYTES_PER_SECOND)):
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
        # A session without a call for an hour would end, and its query with it.
        "spark.connect.session.manager.defaultSessionTimeout": "-1",
        "spark.ui.port": str(settings.port_spark_ui),
        # Any web page can send the GETs that kill a job, or halt the server while it counts its objects.
        "spark.ui.killEnabled": "false",
        "spark.ui.heapHistogramEnabled": "false",
        "spark.authenticate": "true",  # its driver's own ports, by a secret that it makes for itself
        "spark.port.maxRetries": "0",
        "spark.log.level": "WARN",
        "spark.ui.showConsoleProgress": "false",
        "spark.ui.retainedJobs": "50",
        "spark.ui.retainedStages": "50",
        "spark.ui.retainedTasks": "1000",
        "spark.sql.ui.retainedExecutions": "50",
        "spark.sql.streaming.numRecentProgressUpdates": "10",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "2",
        "spark.local.dir": str(folder / "tmp"),
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        # One method of the code that Spark generates for the query has more than 8,000 bytes: too long for the JVM to
        # compile, unless told to. Interpreted, a request costs half as much again.
        "spark.driver.extraJavaOptions": "-XX:+UseSerialGC -XX:+ExitOnOutOfMemoryError -XX:-DontCompileHugeMethods",
        # Its cache of models lies in the temporary folder, under a name that is the same for every user of a machine.
        "spark.driver.defaultJavaOptions": f'"-Djava.io.tmpdir={folder / "tmp"}"',  # split at blanks, but in quotes
    }
    command = [str(artifacts.spark_home() / "bin" / "spark-submit")]
    command += ["--class", "org.apache.spark.sql.connect.service.SparkConnectServer"]
    command += ["--master", f"local[{max(SPARK_CONNECT_SLOTS, 3 * settings.topic_partitions)}]"]
    command += ["--driver-memory", "768m", "--name", "flight-delay-predictor"]
    command += ["--jars", ",".join(str(jar) for jar in sorted((artifacts.JARS / "spark").glob("*.jar")))]
    for key, value in conf.items():
        command += ["--conf", f"{key}={value}"]
    # What a killed server left behind is in nobody's use: each start sweeps the folder, which is this server's alone.
    sweep = f"find {_quoted([str(folder / 'tmp')])} -mindepth 1 -delete; exec "
    return Service(
        "spark-connect",
        ["sh", "-c", sweep + _quoted([*command, "spark-internal"])],
        _spark_connect_ready,
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


def _spark_connect_ready(settings: Settings) -> None:
    from flight_delays.predictor.engine import ping

    ping(settings)


# --- our own ---------------------------------------------------------------------------------------------------------


def _sink_ready(settings: Settings) -> None:
    from flight_delays.answers.sink import check

    check(settings)


def _web_ready(settings: Settings) -> None:
    _get(f"{settings.web_url}/healthz")


def _get(url: str) -> str:
    import httpx

    response = httpx.get(url, timeout=5)
    if response.is_error:
        raise RuntimeError(f"{url} answers {response.status_code}: {response.text[:300]}")
    return response.text


# --- Airflow ---------------------------------------------------------------------------------------------------------


def _airflow_ready(component: str) -> Callable[[Settings], None]:
    def ready(settings: Settings) -> None:
        health = json.loads(_get(f"http://{LOOPBACK}:{settings.port_airflow}/api/v2/monitor/health"))
        state = (health.get(component) or {}).get("status")
        if state != "healthy":
            raise RuntimeError(f"Airflow's {component} is {state}")

    return ready


def _execution_api_ready(settings: Settings) -> None:
    _get(f"http://{LOOPBACK}:{settings.port_airflow_execution}/execution/health/ping")


def _api_server(apps: str, port: int) -> list[str]:
    return ["api-server", "--apps", apps, "--host", LOOPBACK, "--port", str(port), "--workers", "1"]


def airflow_environment(settings: Settings, secrets: Secrets) -> dict[str, str]:
    """Airflow's configuration and connections, as its own variables: the same for start-up, tests and the console."""
    home = settings.home / "airflow"
    home.mkdir(parents=True, exist_ok=True)
    passwords = home / "passwords.json"
    write_private(passwords, json.dumps({"admin": secrets.airflow_password}))
    api = f"http://{LOOPBACK}:{settings.port_airflow}"
    options = {
        "CORE__DAGS_FOLDER": PROJECT / "dags",
        "CORE__PLUGINS_FOLDER": PROJECT / "plugins",
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": 5,  # a replay may hold one for hours
        "CORE__LOAD_EXAMPLES": False,
        "CORE__FERNET_KEY": secrets.airflow_fernet_key,
        "CORE__EXECUTION_API_SERVER_URL": f"http://{LOOPBACK}:{settings.port_airflow_execution}/execution/",
        "CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": passwords,
        "API__BASE_URL": api,
        "API__SECRET_KEY": secrets.airflow_secret_key,
        "API_AUTH__JWT_SECRET": secrets.airflow_jwt_secret,
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{quote(str(home / 'airflow.db'))}",
        "DATABASE__LOAD_DEFAULT_CONNECTIONS": False,
        "LOGGING__BASE_LOG_FOLDER": home / "logs",
        # The default with a % in it would be a folder {AIRFLOW_HOME}.
        "LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": home / "logs" / "dag_processor",
        "LOGGING__COLORED_CONSOLE_LOG": False,
        "CORE__DAGBAG_IMPORT_TIMEOUT": 120,  # on a busy machine
        "DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": 180,
        "LOGGING__FILE_TASK_HANDLER_NEW_FILE_PERMISSIONS": "0o600",
        "LOGGING__FILE_TASK_HANDLER_NEW_FOLDER_PERMISSIONS": "0o700",
        "DAG_PROCESSOR__PARSING_PROCESSES": 1,
        "DAG_PROCESSOR__REFRESH_INTERVAL": 60,
        "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": 60,
        "DAG_PROCESSOR__PRINT_STATS_INTERVAL": 0,
        "SCHEDULER__USE_JOB_SCHEDULE": True,
        # A task whose worker was killed is tried again after this many seconds; it gives a sign of life every 5.
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": 60,
        # That holds for this scheduler's tasks. A killed one's are looked for when the next one starts, which is too
        # early (it counts as alive for 30 s), and then so often: by default every 5 minutes.
        "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": 10,
        "USAGE_DATA_COLLECTION__ENABLED": False,
    }
    spark = {
        "conn_type": "spark",
        "host": settings.spark_master,
        "extra": {"deploy-mode": "client", "spark-binary": "spark-submit"},
    }
    connections = {
        "SPARK_DEFAULT": spark,
        "MONGO_DEFAULT": _mongo_connection(settings),
        "SMTP_DEFAULT": _smtp_connection(settings),
        **_kafka_connections(settings),
        # For `airflow db clean`, which a task of the DAG `maintenance` runs; by this name no log shows it.
        "AIRFLOW_DATABASE": {
            "conn_type": "generic",
            "extra": {"secret_address": options["DATABASE__SQL_ALCHEMY_CONN"]},
        },
    }
    return {
        "AIRFLOW_HOME": str(home),
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
    return {"conn_type": "mongo", "host": host, "extra": {"srv": scheme == "mongodb+srv", **CLIENT_OPTIONS}, **known}


def _smtp_connection(settings: Settings) -> dict[str, object]:
    address = urlsplit(settings.smtp_url)
    login = (
        {"login": unquote(address.username), "password": unquote(address.password or "")} if address.username else {}
    )
    return {
        "conn_type": "smtp",
        "host": address.hostname,
        "port": address.port or (465 if address.scheme == "smtps" else 25),
        "extra": {"disable_ssl": address.scheme != "smtps", "disable_tls": not address.username},
        **login,
    }


def _kafka_connections(settings: Settings) -> dict[str, dict[str, object]]:
    servers = {"bootstrap.servers": settings.kafka_bootstrap}
    consumer = {"group.id": "flight_delay_predictor_health", "enable.auto.commit": False, "auto.offset.reset": "latest"}
    return {
        "KAFKA_DEFAULT": {
            "conn_type": "kafka",
            "extra": {
                **servers,
                "client.id": CLIENT_ID,
                "partitioner": "consistent",
                "enable.idempotence": True,
                "message.timeout.ms": 10_000,
            },
        },
        "KAFKA_CANARY": {"conn_type": "kafka", "extra": {**servers, **consumer}},
    }
