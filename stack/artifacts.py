"""Fetches the JVM parts of the embedded stack with the Ivy that pyspark ships, and checks them against their pins."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from flight_delays.infra.files import locked, sha256_of
from flight_delays.settings import PROJECT, Settings
from stack.steps import StepFailedError

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "EmbeddedMongo.java"
PINS = HERE / "jars.sha256"
"""`<sha256>  <conf>/<file>` a line, as `sha256sum --check` reads it."""


def spark_home() -> Path:
    """The installed pyspark folder: `spark-submit` in a virtual environment's bin may not find it by itself."""
    spec = importlib.util.find_spec("pyspark")
    if spec is None or spec.origin is None:
        raise RuntimeError("pyspark is not installed in this environment; run `make up` to install it")
    return Path(spec.origin).parent


JARS = Path(sys.prefix) / "jars"
"""The fetched jars, a folder a configuration of `ivy.xml`: in the virtual environment, as other dependencies are."""


def classpath(conf: str) -> str:
    """The class path of one configuration, for `java -cp`."""
    return str(JARS / conf / "*")


def fetch(settings: Settings) -> str:
    """Brings the pinned jars and the compiled embedded MongoDB into `JARS`; says in a word what was done.

    What is there is used only where every file is as it was fetched; else all are fetched again.
    Raises StepFailedError where a download fails, RuntimeError where a file is not the pinned one.
    """
    if _is_complete():
        return "cached"
    with locked(JARS.with_name(".jars.lock")):  # Ivy's cache takes one at a time; nobody replaces what another starts
        if _is_complete():
            return "cached"
        staging = JARS.with_name(f".jars-{os.getpid()}")
        shutil.rmtree(staging, ignore_errors=True)
        retrieve(HERE / "ivy.xml", PINS, staging, settings)
        _compile(staging)
        (staging / ".complete").write_text(_digest(staging))
        shutil.rmtree(JARS, ignore_errors=True)
        staging.rename(JARS)
    return f"{len(PINS.read_text().splitlines())} files, checked"


def _is_complete() -> bool:
    stamp = JARS / ".complete"
    return stamp.is_file() and stamp.read_text() == _digest(JARS)  # 40 ms for 59 MB


def _digest(folder: Path) -> str:
    """Of all that was fetched and compiled, and of what it was made from."""
    digest = hashlib.sha256(PINS.read_bytes() + SOURCE.read_bytes())
    for path in sorted(folder.glob("*/*")):
        digest.update(f"{path.relative_to(folder)} {sha256_of(path)}".encode())
    return digest.hexdigest()


def retrieve(module: Path, pins: Path, target: Path, settings: Settings) -> None:
    """Brings the jars of an Ivy module file into `target` and checks each against its pin.

    Raises StepFailedError where a download fails, RuntimeError where a file is not the pinned one.
    """
    _download(module, target, settings.ivy_settings)
    pinned = {name: digest for digest, name in (line.split() for line in pins.read_text().splitlines())}
    found = {str(path.relative_to(target)): sha256_of(path) for path in target.glob("*/*.jar")}
    if wrong := {name for name, _ in pinned.items() ^ found.items()}:
        raise RuntimeError(
            f"these JVM artifacts are not the pinned ones: {', '.join(sorted(wrong))}; delete them from Ivy's cache "
            f"(~/.ivy2/cache) and try again, or compare {module.relative_to(PROJECT)} with {pins.relative_to(PROJECT)}"
        )


def _download(module: Path, target: Path, ivy_settings: str) -> None:
    ivy = next((spark_home() / "jars").glob("ivy-*.jar"))
    target.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        command = ["java", *_network(Path(folder)), "-jar", str(ivy), "-ivy", str(module)]
        # Relative, for in a pattern parentheses mean that what is between them may be left out.
        command += ["-types", "jar", "bundle", "-warn", "-retrieve", "[conf]/[artifact]-[revision].[ext]"]
        if ivy_settings:
            command += ["-settings", os.path.abspath(ivy_settings) if os.path.isfile(ivy_settings) else ivy_settings]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=target)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise StepFailedError(
            f"the JVM artifacts could not be fetched:\n{tail}",
            hint="check the network; a proxy is named in HTTPS_PROXY, the certificates of one that inspects TLS in "
            "SSL_CERT_FILE, a mirror, or a proxy with a password, in an Ivy settings file (FLIGHTS_IVY_SETTINGS)",
        )


def _network(folder: Path) -> list[str]:
    """What other programs read of the environment, and a JVM does not: home, proxies, certificates."""
    options = {"user.home": os.path.expanduser("~"), **_proxies(getproxies()), **_certificates(folder)}
    return [f"-D{name}={value}" for name, value in options.items()]


def _proxies(proxies: dict[str, str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for scheme in ("http", "https"):
        address = proxies.get(scheme) or proxies.get("all") or ""
        proxy = urlsplit(address if "://" in address else f"http://{address}")
        name = "socksProxy" if proxy.scheme.startswith("socks") else f"{scheme}.proxy"
        if proxy.hostname:
            options |= {f"{name}Host": proxy.hostname, f"{name}Port": str(proxy.port or 1080)}
    past = [host for host in proxies.get("no", "").split(",") if host]
    options["http.nonProxyHosts"] = "|".join(f"*{host}" if host.startswith(".") else host for host in past)
    return options


def _certificates(folder: Path) -> dict[str, str]:
    from cryptography.hazmat.primitives.serialization import NoEncryption, pkcs12
    from cryptography.x509 import load_pem_x509_certificates

    if not (certificates := os.environ.get("SSL_CERT_FILE")):
        return {}
    with warnings.catch_warnings(action="ignore"):  # every system's bundle has odd ones
        found = load_pem_x509_certificates(Path(certificates).read_bytes())
    trusted = [pkcs12.PKCS12Certificate(one, str(number).encode()) for number, one in enumerate(found)]
    store = folder / "trusted.p12"
    store.write_bytes(pkcs12.serialize_java_truststore(trusted, NoEncryption()))
    return {"javax.net.ssl.trustStore": str(store), "javax.net.ssl.trustStoreType": "PKCS12"}


def _compile(folder: Path) -> None:
    # For the oldest JDK that is accepted: the next start may find that one.
    command = ["javac", "--release", "17", "-cp", str(folder / "mongo" / "*")]
    command += ["-d", str(folder / "embedded-mongo"), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StepFailedError(f"{SOURCE.name} does not compile:\n{done.stdout}{done.stderr}")
