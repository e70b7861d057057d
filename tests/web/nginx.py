"""nginx with docker/nginx.conf itself, on ports of this test and with the names of its containers."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import dns.flags
import dns.message
import dns.rrset
import pytest

from flight_delays.settings import LOOPBACK, PROJECT
from tests.conftest import free_port

CONFIGURATION = PROJECT / "docker" / "nginx.conf"
TLS_EXAMPLE = PROJECT / "docker" / "tls" / "tls.conf.example"
NOBODY = 65534


@dataclass
class Names:
    """A DNS server, as Docker has one for its networks: names and addresses may change at any time."""

    addresses: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def served(self) -> Iterator[int]:
        """Gives its port."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind((LOOPBACK, 0))
            thread = threading.Thread(target=self._serve, args=(server,))
            thread.start()
            yield server.getsockname()[1]
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"", server.getsockname())
            thread.join()

    def _serve(self, server: socket.socket) -> None:
        while (received := server.recvfrom(4096))[0]:
            question = dns.message.from_wire(received[0])
            answer = dns.message.make_response(question, recursion_available=True)
            name = question.question[0].name
            if address := self.addresses.get(name.to_text(omit_final_dot=True)):
                answer.answer.append(dns.rrset.from_text(name, 600, "IN", "A", address))
            else:
                answer.set_rcode(dns.rcode.NXDOMAIN)
            server.sendto(answer.to_wire(), received[1])


@dataclass(frozen=True)
class Nginx:
    """A running one."""

    port: int
    airflow: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"


def _replace(text: str, replaced: Mapping[str, str]) -> str:
    for ours, here in replaced.items():
        text = text.replace(ours, here)
    return text


@contextmanager
def running_nginx(names: Names, *, web: int, airflow: int = 1, tls: Path | None = None) -> Iterator[Nginx]:
    """In front of these ports of `web` and `airflow-apiserver`, without privileges, as in its container.

    `tls`: a folder with cert.pem and key.pem.
    """
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed (Debian: apt-get install nginx-light)")
    with tempfile.TemporaryDirectory(prefix="flights-nginx-") as name, names.served() as resolver:
        folder = Path(name)
        found = Nginx(free_port(), free_port(), folder / "log")
        replaced = {
            "listen 5000": f"listen {LOOPBACK}:{found.port}",
            "listen 9090": f"listen {LOOPBACK}:{found.airflow}",
            " 127.0.0.11 ": f" {LOOPBACK}:{resolver} ",
            " web:5000;": f" web:{web};",
            " airflow-apiserver:9090;": f" airflow-apiserver:{airflow};",
            " /tmp/": f" {folder}/",
            " /etc/nginx/tls/": f" {folder}/tls/",
        }
        text = CONFIGURATION.read_text()
        assert all(text.count(ours) for ours in replaced)
        (folder / "nginx.conf").write_text(_replace(text, replaced))
        if tls:
            shutil.copytree(tls, folder / "tls")
            (folder / "tls" / "tls.conf").write_text(_replace(TLS_EXAMPLE.read_text(), replaced))
        user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
        for each in (folder, *folder.rglob("*")) if user else ():
            os.chown(each, NOBODY, NOBODY)
        command = [program, "-e", "stderr", "-c", folder / "nginx.conf", "-g", "daemon off;"]
        with found.log.open("w") as log:
            if user:
                os.chown(found.log, NOBODY, NOBODY)
            process = subprocess.Popen(command, stdout=log, stderr=log, **user)
        try:
            deadline = time.monotonic() + 30
            while True:
                with suppress(ConnectionError):
                    socket.create_connection((LOOPBACK, found.port)).close()
                    break
                assert process.poll() is None, found.log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield found
        finally:
            process.terminate()
            process.wait(20)
