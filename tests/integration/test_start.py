"""Where people start the stack: odd paths, proxies, certificates, locales, MongoDBs of their own."""

from __future__ import annotations

import datetime as dt
import http.server
import ipaddress
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from pymongo import MongoClient

from flight_delays.infra import mongo
from flight_delays.settings import LOOPBACK, PROJECT, Settings
from stack import artifacts, up
from stack.airflow_api import retrying
from stack.secrets import Secrets
from stack.services import Service, airflow_environment, inherited_environment, spark_environment
from stack.steps import StepFailedError
from stack.supervisor import Supervisor
from tests.conftest import NO_MOUNT, ODD, Stack, settings_in
from tests.integration.line import until

pytestmark = pytest.mark.integration

NOBODY = f"http://{LOOPBACK}:9"
PROXIES = {"HTTP_PROXY": NOBODY, "http_proxy": NOBODY, "HTTPS_PROXY": NOBODY, "https_proxy": NOBODY}
PROXIES |= {"ALL_PROXY": f"socks5://{LOOPBACK}:9", "all_proxy": f"socks5://{LOOPBACK}:9"}


def run(program: str, *arguments: str, **changes: str | None) -> str:
    """What a Python program prints that was started in an environment with these changes (None: without it)."""
    environment = {name: value for name, value in (os.environ | changes).items() if value is not None}
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- paths -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Callable[[list[Service]], Supervisor]]:
    """Starts a process manager with these services in an odd folder; at the end it is stopped."""
    settings = settings_in(tmp_path / ODD, 1_500)
    supervisor = Supervisor(settings)

    def start(services: list[Service]) -> Supervisor:
        supervisor.start(services)
        return supervisor

    yield start
    if supervisor.running():
        supervisor.stop()


def service(name: str, program: str, *arguments: str, **environment: str) -> Service:
    command = [sys.executable, "-c", program, *arguments]
    return Service(name, command, lambda settings: None, environment, stop_seconds=60)


def test_a_service_gets_every_word_whatever_is_in_it(manager: Callable[..., Supervisor], tmp_path: Path) -> None:
    words = ["a b", "%2F %(ENV_HOME)s", "a ;b #c", "it's", '"q"', "línea", "$HOME", '{"a": "it\'s"}', ""]
    program = "import json, os, sys, time; print(json.dumps([*sys.argv[1:], os.environ['ODD']])); sys.stdout.flush()"
    value = '{"key": "it\'s %2F ;x"}'
    supervisor = manager([service("odd", program + "; time.sleep(600)", *words, ODD=value)])
    log = supervisor.logs / "odd.log"
    printed = until(lambda: log.is_file() and log.read_text(encoding="utf-8").endswith("\n") and log, 30, "a line")
    assert json.loads(printed.read_text(encoding="utf-8")) == [*words, value]
    assert value not in (supervisor.logs.parent / "run" / "supervisord.conf").read_text(encoding="utf-8")


def test_the_services_are_stopped_all_at_once(manager: Callable[..., Supervisor], tmp_path: Path) -> None:
    """Each ends only when all were told to; but those that the others write into are told last."""
    program = """
import pathlib, signal, sys, time
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
def stop(*_):
    (folder / f"{name}.told").touch()
    while len(list(folder.glob("*.told"))) < int(sys.argv[3]):
        time.sleep(0.05)
    time.sleep(1)
    if int(sys.argv[3]) == 3 and (folder / "kafka.told").exists():
        sys.exit("kafka was told before all others had ended")
    (folder / f"{name}.ended").touch()
    sys.exit()
signal.signal(signal.SIGTERM, stop)
(folder / f"{name}.started").touch()
while True:
    time.sleep(1)
"""
    others = [service(name, program, str(tmp_path), name, "3") for name in "xyz"]
    supervisor = manager([service("kafka", program, str(tmp_path), "kafka", "4"), *others])
    until(lambda: len(list(tmp_path.glob("*.started"))) == 4, 30, "all run")
    supervisor.stop()
    assert len(list(tmp_path.glob("*.ended"))) == 4
    assert not supervisor.running()


def test_kafka_and_mongodb_write_within_their_home(stack: Stack) -> None:
    assert stack.settings.home.name.startswith(ODD)
    assert (stack.settings.home / "kafka" / "data" / "meta.properties").is_file()
    assert (stack.settings.home / "mongo" / "embedded.mv.db").is_file()
    # Java reads properties as Latin-1: Kafka made a folder of its own beside the home.
    beside = [path.name for path in stack.settings.home.parent.iterdir() if path.name.startswith(ODD[:4])]
    assert all(name.startswith(ODD) for name in beside)


@pytest.mark.parametrize(
    ("folder", "home", "named"),
    [
        ("a:b", None, "this checkout is in .* in a path with :"),
        ("a,b{c}", None, r"this checkout is in .* in a path with , \{ \}"),
        ("plain", "/tmp/a\nb", "FLIGHTS_HOME is in .* a control character"),
        ("plain", "/tmp/$HOME", r"FLIGHTS_HOME is in .* with \$"),
    ],
)
def test_a_path_that_cannot_work_is_refused_before_anything_starts(
    folder: str, home: str | None, named: str, tmp_path: Path
) -> None:
    for package in ("stack", "include"):
        shutil.copytree(PROJECT / package, tmp_path / folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    environment = os.environ | ({"FLIGHTS_HOME": home} if home else {})
    command = [sys._base_executable, "stack/bootstrap.py", "up"]  # type: ignore[attr-defined]
    done = subprocess.run(command, cwd=tmp_path / folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(named, done.stderr), done.stderr
    assert not (tmp_path / folder / ".venv").exists()


# --- proxies, certificates, locales ----------------------------------------------------------------------------------


def test_loopback_goes_past_every_proxy(web_app: Callable[..., Any]) -> None:
    """Web requests and Spark Connect's gRPC, which reads `no_proxy` in lower case only."""
    methods = {"ReleaseSession": grpc.unary_unary_rpc_method_handler(lambda *_: b"")}  # by which `ping` is answered
    handler = grpc.method_handlers_generic_handler("spark.connect.SparkConnectService", methods)
    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[handler])
    port = server.add_insecure_port(f"{LOOPBACK}:0")
    server.start()
    program = """
import sys
import stack
from flight_delays.predictor.engine import ping
from flight_delays.settings import Settings
from stack.services import _get
_get(sys.argv[1])
ping(Settings(spark_connect_url=sys.argv[2]))
"""
    try:
        with web_app() as url:
            unset = {"no_proxy": None, "NO_PROXY": "corp.example"}
            run(program, f"{url}/flights/delays/predict_kafka", f"sc://{LOOPBACK}:{port}", **PROXIES, **unset)
    finally:
        server.stop(None)


def test_the_environment_is_the_same_for_all(tmp_path: Path) -> None:
    program = "import json, os, stack; print(json.dumps(dict(os.environ)))"
    certificates = tmp_path / "ca.pem"
    certificates.touch()
    changes = {"NO_PROXY": "corp.example", "no_proxy": ".lower.example", "LC_ALL": "C", "JAVA_HOME": "/nowhere"}
    changes |= {"SSL_CERT_FILE": None, "PIP_CERT": str(certificates), "HOME": "/nowhere"}  # type: ignore[dict-item]
    found = json.loads(run(program, **changes))
    assert found["NO_PROXY"] == found["no_proxy"] == "corp.example,.lower.example,127.0.0.1,localhost,::1"
    assert found["LC_ALL"] == "C.UTF-8"
    assert "JAVA_HOME" not in found, "there is no java, so Spark would not start"
    assert found["SSL_CERT_FILE"] == str(certificates)
    assert os.access(found["HOME"], os.W_OK)
    java = tmp_path / "jdk" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.touch(0o755)
    found = json.loads(run(program, JAVA_HOME=str(java.parent.parent)))
    assert shutil.which("java", path=found["PATH"]) == str(java), "the java that is checked is the one that Spark takes"


@pytest.mark.parametrize("locale", ["C", "xx_XX.ISO-8859-1", "C.UTF-8"])
def test_every_command_reads_paths_and_text_as_utf_8(locale: str) -> None:
    """Before it reads its own path: in the C locale, Python cannot even find its packages in one beyond ASCII."""
    command = ["make", "--no-print-directory", "--eval", "shown: ; @echo $$LC_ALL", "shown"]
    environment = os.environ | {"LC_ALL": locale}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "C.UTF-8"


def test_spark_starts_on_a_machine_whose_name_is_no_hosts(tmp_path: Path) -> None:
    """A `_` in it, as Docker Compose once wrote them: Spark makes a URI of the name that 127.0.0.1 has."""
    hosts = tmp_path / "hosts"
    hosts.write_text(f"{LOOPBACK} my_host localhost\n", encoding="utf-8")
    namespace = ["unshare", "--uts", "--mount", "sh", "-c"]
    setup = f"mount --bind {hosts} /etc/hosts && echo my_host > /proc/sys/kernel/hostname"
    if subprocess.run([*namespace, setup], capture_output=True, check=False).returncode != 0:
        pytest.skip(NO_MOUNT)
    session = "SparkSession.builder.master('local[1]').config('spark.ui.enabled', 'false').getOrCreate()"
    program = f"from pyspark.sql import SparkSession; print({session}.range(3).count())"
    command = [*namespace, f'{setup} && exec "$0" -c "$1"', sys.executable, program]
    environment = inherited_environment() | spark_environment()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "3", done.stderr[-3000:]


MODULE = """<ivy-module version="2.0"><info organisation="tests" module="tests"/>
<configurations><conf name="all"/></configurations>
<dependencies><dependency org="org.example" name="thing" rev="1" conf="all->master"/></dependencies></ivy-module>"""
POM = """<project><modelVersion>4.0.0</modelVersion>
<groupId>org.example</groupId><artifactId>thing</artifactId><version>1</version></project>"""


@contextmanager
def repository(asked: list[str], certificate: Path | None = None) -> Iterator[int]:
    """A Maven repository with one jar, and so a proxy to one; gives its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self, with_body: bool = True) -> None:
            asked.append(self.path)
            body = {"jar": b"PK", "pom": POM.encode()}.get(self.path.rpartition(".")[2])
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            if with_body:
                self.wfile.write(body or b"")

        def do_HEAD(self) -> None:
            self.do_GET(with_body=False)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer((LOOPBACK, 0), Handler) as server:
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def fetch(folder: Path, root: str) -> Path:
    """Has Ivy fetch the jar from the repository at `root`, with a cache of its own; returns where it must be."""
    (folder / "ivy.xml").write_text(MODULE, encoding="utf-8")
    resolver = f'<resolvers><ibiblio name="tests" m2compatible="true" root="{root}"/></resolvers>'
    caches = f'<caches defaultCacheDir="{folder / "cache"}"/><settings defaultResolver="tests"/>'
    (folder / "settings.xml").write_text(f"<ivysettings>{caches}{resolver}</ivysettings>", encoding="utf-8")
    target = folder / "app-main (1)" / "jars"
    artifacts._download(folder / "ivy.xml", target, str(folder / "settings.xml"))
    return target / "all" / "thing-1.jar"


def test_the_jars_come_through_the_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    with repository(asked) as port:
        for name in PROXIES:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HTTP_PROXY", f"http://{LOOPBACK}:{port}")
        assert fetch(tmp_path, "http://repository.example/maven/").is_file()
    assert "http://repository.example/maven/org/example/thing/1/thing-1.jar" in asked


def test_one_certificate_file_is_enough_for_the_jars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = self_signed(tmp_path / "certificate.pem")
    with repository([], certificate) as port:
        with pytest.raises(StepFailedError) as caught:
            fetch(tmp_path, f"https://localhost:{port}/")
        assert "SSL_CERT_FILE" in caught.value.hint
        shutil.rmtree(tmp_path / "app-main (1)")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert fetch(tmp_path, f"https://localhost:{port}/").is_file()


def self_signed(path: Path) -> Path:
    """A certificate of localhost with its key, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(LOOPBACK))])
    now = dt.datetime.now(dt.UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=1))
    signed = made.add_extension(names, critical=False).sign(key, hashes.SHA256())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(signed.public_bytes(Encoding.PEM) + private)
    return path


# --- services of the user's own --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://root:example@h:27017/",
        "mongodb://root:p%40s%3As+%2Fx@h/flights",
        "mongodb://ann:secret@a:27017,b_2:27018,[::1]:27019/?replicaSet=rs0&authSource=people&readPreference=nearest",
        "mongodb://h",
        "mongodb://h/?tls=true&tlsAllowInvalidCertificates=true",
        "mongodb://CN%3Dann@h/?authMechanism=MONGODB-X509&tls=true",
    ],
)
def test_airflow_logs_into_mongodb_as_the_others_do(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.providers.mongo.hooks.mongo import MongoHook

    settings = Settings(home=tmp_path, mongo_uri=uri)
    environment = airflow_environment(settings, Secrets())
    monkeypatch.setenv("AIRFLOW_CONN_MONGO_DEFAULT", environment["AIRFLOW_CONN_MONGO_DEFAULT"])
    hook = MongoHook("mongo_default")
    hook.extras["connect"] = False
    with hook, MongoClient(uri, connect=False) as own, mongo.connect(settings, connect=False).client as ours:
        theirs = hook.get_conn()
        assert theirs._topology_settings.seeds == own._topology_settings.seeds == ours._topology_settings.seeds
        assert _login(theirs) == _login(own) == _login(ours)
        assert theirs.options._options == ours.options._options
    if "@" in uri and "X509" not in uri:
        assert "ann:" not in hook.connection.host, "only what is in the field of the password is masked"


def _login(client: MongoClient[Any]) -> Any:
    return client.options.pool_options._credentials


def test_airflow_finds_the_hosts_of_a_mongodb_by_dns_as_the_others_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.providers.mongo.hooks.mongo import MongoHook

    uri = "mongodb+srv://ann:se%40cret@cluster.example/?authSource=admin"
    settings = Settings(home=tmp_path).model_copy(update={"mongo_uri": uri})  # its check asks the DNS
    environment = airflow_environment(settings, Secrets())
    monkeypatch.setenv("AIRFLOW_CONN_MONGO_DEFAULT", environment["AIRFLOW_CONN_MONGO_DEFAULT"])
    assert MongoHook("mongo_default").uri == uri


def test_the_web_app_is_found_on_every_address_that_it_may_listen_on(web_app: Callable[..., Any]) -> None:
    with web_app(FLIGHTS_WEB_BIND="::", FLIGHTS_WEB_PROXIES="1") as url:
        settings = Settings(web_bind="::", web_proxies=1, port_web=httpx.URL(url).port)
        assert settings.web_url.startswith("http://[::1]:")
        assert httpx.get(settings.web_url + "/flights/delays/predict_kafka").is_success
    assert Settings(web_bind="0.0.0.0", web_proxies=1, port_web=5001).web_url == f"http://{LOOPBACK}:5001"
    assert Settings(web_bind="192.0.2.7", web_proxies=1, port_web=5001).web_url == "http://192.0.2.7:5001"


# --- what is away for a moment ---------------------------------------------------------------------------------------


def test_up_waits_for_a_mongodb_that_restarts(stack: Stack) -> None:
    stack.supervisor.stop_service("mongo")
    back = threading.Timer(4, stack.supervisor.start_service, ["mongo"])
    back.start()
    try:
        with pytest.raises(Exception, match="Connection refused"):
            retrying(0)(lambda: mongo.connect(stack.settings).command("ping"))
        assert up._state(stack.settings).generation == 0
    finally:
        back.join()
        stack.await_ready("mongo")
