"""The embedded stack: one machine, no containers, every service under a process manager.

Importing it prepares the environment of this process and of all that it starts. Standard library only: `bootstrap`
imports it under the system's Python.
"""

import locale
import os
import shutil
from pathlib import Path

_CERTIFICATES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def _prepare(environment: "os._Environ[str]") -> None:
    # Loopback never goes through a proxy. Each program reads one of the two spellings; gRPC the lower one only.
    hosts = [environment.get(name, "") for name in ("NO_PROXY", "no_proxy")]
    hosts = [host.strip() for host in ",".join([*hosts, "127.0.0.1,localhost,::1"]).split(",")]
    environment["NO_PROXY"] = environment["no_proxy"] = ",".join(dict.fromkeys(filter(None, hosts)))
    # Python and Java read paths and text as the locale says.
    if locale.nl_langinfo(locale.CODESET).upper() != "UTF-8":
        environment["LC_ALL"] = "C.UTF-8"
    # One JDK for all: `java` on the PATH is what bootstrap checks, and JAVA_HOME what Spark starts.
    if java_home := environment.get("JAVA_HOME"):
        java = str(Path(java_home, "bin"))
        if not shutil.which("java", path=java):
            del environment["JAVA_HOME"]
        elif not environment["PATH"].startswith(java + os.pathsep):
            environment["PATH"] = f"{java}{os.pathsep}{environment['PATH']}"
    # Behind a TLS-inspecting proxy one certificate file is enough, by whatever tool's name.
    if certificates := next(filter(os.path.isfile, (environment.get(name, "") for name in _CERTIFICATES)), None):
        environment["SSL_CERT_FILE"] = certificates
    # Caches need a home; without one they are in the virtual environment, as all that is installed.
    if not os.access(os.path.expanduser("~"), os.W_OK):
        environment["HOME"] = str(Path(__file__).resolve().parent.parent / ".venv")


_prepare(os.environ)
