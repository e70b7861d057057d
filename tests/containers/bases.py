"""The images that the project's files name, where they cannot be pulled: made of Debian's packages and the pinned jars.

They bear the official images' names, and do what the project asks of those; docs/containers.md says what they lack.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

from flight_delays.settings import PROJECT, Settings
from stack import artifacts
from tests.containers.engine import run

HERE = Path(__file__).parent / "bases"
DEBIAN = "debian:bookworm-slim"
CERTIFICATES = "/usr/local/share/machine-certificates.crt"
OF_THE_MACHINE = {
    "/etc/pip.conf": "/etc/pip.conf",
    "/etc/apt/sources.list": "/etc/apt/sources.list",
    "/etc/apt/sources.list.d": "/etc/apt/sources.list.d",
    "/etc/apt/auth.conf.d": "/etc/apt/auth.conf.d",
    os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"): CERTIFICATES,
    **{str(path): str(path) for path in Path("/etc/apt/apt.conf.d").glob("99*")},
}
"""How this machine reaches its package index: what is built on it must reach it, too."""


def services(file: Path = PROJECT / "docker-compose.yaml") -> dict[str, Any]:
    """The services of the compose file, with 0 in place of its variables."""
    return dict(yaml.safe_load(re.sub(r"\$\{[^}]*\}", "0", file.read_text()))["services"])


def images() -> set[str]:
    """What the files name, but for the image that is built."""
    named = [service["image"] for service in services().values()]
    bases = re.findall(r"^FROM (\S+:\S+)", (PROJECT / "docker" / "Dockerfile").read_text(), re.M)
    return {name for name in {*named, *bases} if not name.startswith("flight-delays:")}


def provide() -> set[str]:
    """Pulls each image, or makes it. Returns those that stand in for an official one."""
    missing = [name for name in sorted(images()) if not _has(name) and not _pulled(name)]
    for name in missing:
        _make(name)
    return {name for name in images() if _has(name, "stands-in")}


def _has(name: str, label: str = "") -> bool:
    template = f'{{{{index .Config.Labels "{label}"}}}}' if label else "x"
    done = subprocess.run(
        ["docker", "image", "inspect", "-f", template, name], capture_output=True, text=True, check=False
    )
    return done.returncode == 0 and done.stdout.strip() not in ("", "<no value>")


def _pulled(name: str) -> bool:
    return subprocess.run(["docker", "pull", "--quiet", name], capture_output=True, check=False).returncode == 0


def _make(name: str) -> None:
    kind = name.rpartition("/")[2].partition(":")[0]
    if not _has(DEBIAN):
        _debian()
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder) / kind
        shutil.copytree(HERE / kind, context)
        if kind in ("kafka", "mongo"):
            artifacts.fetch(Settings())
            shutil.copytree(artifacts.JARS / kind, context / "jars")
        if kind == "mongo":
            source = (PROJECT / "stack" / "EmbeddedMongo.java").read_text()
            (context / "EmbeddedMongo.java").write_text(
                source.replace('InetSocketAddress("127.0.0.1"', 'InetSocketAddress("0.0.0.0"')
            )
            run("javac", "-cp", f"{context}/jars/*", "-d", f"{context}/classes", f"{context}/EmbeddedMongo.java")
        run("docker", "build", "--network=host", "--label=stands-in=yes", "--tag", name, str(context))


def _debian() -> None:
    """Debian's smallest system, with the machine's own package sources and certificates."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        run("debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", str(root), timeout=900)
        (root / "etc/apt/sources.list").unlink(missing_ok=True)
        for here, there in OF_THE_MACHINE.items():
            if Path(here).exists():
                run("cp", "-rLT", "--remove-destination", here, f"{root}{there}")
        for useless in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
            shutil.rmtree(root / useless, ignore_errors=True)
        tar = subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE)
        environment = [f"--change=ENV {name}={CERTIFICATES}" for name in ("SSL_CERT_FILE", "PIP_CERT")]
        environment += [f"--change=ENV {key}={value}" for key, value in os.environ.items() if key == "UV_DEFAULT_INDEX"]
        subprocess.run(
            ["docker", "import", *environment, "-", DEBIAN], stdin=tar.stdout, check=True, capture_output=True
        )
        tar.wait()
