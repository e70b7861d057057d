"""From a bare machine to the project's virtual environment: Python, JDK, `.venv`, the locked requirements.

Runs under the system's Python, so with the standard library only. Ends by handing over to `python -m stack`.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "include")]

from stack.steps import TAIL_LINES, Step, StepFailedError, explain, step  # noqa: E402 - the path above comes first

VENV = PROJECT / ".venv"
PYTHON = VENV / "bin" / "python"
JDK_VERSIONS = (17, 21)
JDK_COMMANDS = {
    "apt-get": "apt-get install -y -qq --no-install-recommends default-jdk-headless",
    "dnf": "dnf install -y java-21-openjdk-devel",
    "zypper": "zypper install -y java-21-openjdk-devel",
    "pacman": "pacman -S --noconfirm jdk21-openjdk",
    "apk": "apk add openjdk21-jdk",
    "brew": "brew install openjdk@21",
}
REQUIREMENTS = ("requirements.lock", "requirements-dev.lock")
NETWORK = (
    "check the network; a mirror is named in UV_DEFAULT_INDEX, a proxy in HTTPS_PROXY (pip takes no SOCKS), and the "
    "certificates of one that inspects TLS in SSL_CERT_FILE"
)


def main(arguments: list[str]) -> None:
    """`bootstrap.py [--dev] [ARGUMENTS]`: prepares, then runs `python -m stack ARGUMENTS` where there are any."""
    dev = "--dev" in arguments
    command = [argument for argument in arguments if argument != "--dev"]
    try:
        check_paths()
        with step("Python", hint="install Python 3.11 or newer and name it: make up PYTHON=python3.12") as current:
            if sys.version_info < (3, 11):  # noqa: UP036 - this is the check
                raise StepFailedError(f"Python {platform.python_version()} is too old: 3.11 or newer is needed")
            current.result = platform.python_version()
        with step("JDK") as current:
            current.result = f"{find_jdk(current)}, {shutil.which('java')}"
        with step("Python packages", hint=NETWORK) as current:
            install("requirements-dev.lock" if dev else "requirements.lock", current)
    except StepFailedError as error:
        raise SystemExit(explain(error)) from None
    except KeyboardInterrupt:
        raise SystemExit("Interrupted. The same command goes on from here.") from None
    if command:
        os.execv(PYTHON, [str(PYTHON), "-m", "stack", *command])


def check_paths() -> None:
    """Raises StepFailedError where this checkout or the folder of all state is in a path that some part would split."""
    for name, path in (("this checkout", str(PROJECT)), ("FLIGHTS_HOME", os.environ.get("FLIGHTS_HOME", ""))):
        # Class path and PATH (:), Spark's lists (,) and globs, Airflow's variables ($), Java's and make's escapes.
        if refused := sorted(set(re.findall(r"""[:,*?{}\[\]$#"\\\x00-\x1f\x7f\ud800-\udfff]""", path))):
            shown = " ".join("a control character" if not char.isprintable() else char for char in refused)
            raise StepFailedError(
                f"{name} is in {path!r}, and not all programs can work in a path with {shown}",
                hint="use another folder; blanks, letters of any language and other signs are fine",
            )


def find_jdk(current: Step) -> str:
    """Puts a fitting JDK first on the PATH and returns its version; installs one where this user may."""
    version = _jdk_version()
    if version in JDK_VERSIONS:
        return f"JDK {version}"
    commands = [command for tool, command in JDK_COMMANDS.items() if shutil.which(tool)]
    command = next(iter(commands), "see your system's packages for OpenJDK 21")
    if version is None and command.startswith("apt-get") and os.geteuid() == 0:
        current.say("installing with apt-get")
        subprocess.run(["apt-get", "update", "-qq"], check=False, stdout=subprocess.DEVNULL)
        subprocess.run(command.split(), check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if (version := _jdk_version()) in JDK_VERSIONS:
            return f"JDK {version}"
    found = "none was found" if version is None else f"found is {version}"
    wanted = " or ".join(map(str, JDK_VERSIONS))
    raise StepFailedError(
        f"a JDK {wanted} (java and javac) is needed; {found}",
        hint=f"install one ({command}), or name its folder in JAVA_HOME (now {os.environ.get('JAVA_HOME')})",
    )


def _jdk_version() -> int | None:
    versions = set()
    for tool in ("java", "javac"):
        if shutil.which(tool) is None:
            return None
        done = subprocess.run([tool, "-version"], capture_output=True, text=True, check=False)
        match = re.search(r"(?:version \"|javac )(\d+)", done.stdout + done.stderr)
        versions.add(int(match[1]) if match else 0)
    return versions.pop() if len(versions) == 1 else 0


def install(requirements: str, current: Step) -> None:
    """Makes `.venv` hold the locked packages and the project itself; does nothing where it does already."""
    whole = _venv_is_whole()
    if whole and _stamp(requirements).is_file() and _stamp(requirements).read_text() == _wanted(requirements):
        current.result = "as locked"
        return
    if not whole:
        current.say("making .venv")
        _run([sys.executable, "-m", "venv", "--clear", str(VENV)], "install the package python3-venv")
    for name in REQUIREMENTS:  # else, were this run killed, a stamp of an older lock could come true again
        if _stamp(name).is_file() and _stamp(name).read_text() != _wanted(name):
            _stamp(name).unlink()
    current.say("installing the installer")
    _run([str(PYTHON), "-m", "pip", "install", "-q", "--require-hashes", "-r", "stack/uv.txt"])
    uv = [str(VENV / "bin" / "uv"), "pip", "install", "--quiet", "--python", str(PYTHON)]
    current.say(f"installing {requirements}")
    _run([*uv, "--require-hashes", "--compile-bytecode", "-r", requirements])
    _run([*uv, "--no-deps", "--no-build-isolation", "--editable", "."])
    _stamp(requirements).write_text(_wanted(requirements))
    current.result = f"{requirements} installed"


def _stamp(requirements: str) -> Path:
    """Says which lock the virtual environment holds: written last."""
    return VENV / f".{requirements}.sha256"


def _wanted(requirements: str) -> str:
    inputs = [PROJECT / requirements, PROJECT / "pyproject.toml", PROJECT / "stack" / "uv.txt"]
    return hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest()


def _venv_is_whole() -> bool:
    """Whether `.venv` works: not one cut off while it was made, moved, or of a Python that is gone or was replaced."""
    try:  # its pip is found by the Python that made it only, and the scripts name that Python by its whole path
        done = subprocess.run([str(PYTHON), "-c", "import pip"], capture_output=True, check=False)
        script = (VENV / "bin" / "pip").read_bytes()
    except OSError:
        return False
    return done.returncode == 0 and re.search(rb"[!\s'\"]" + re.escape(os.fsencode(VENV / "bin")), script) is not None


def _run(command: list[str], hint: str = "") -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-TAIL_LINES:])
        raise StepFailedError(f"`{' '.join(command)}` failed:\n{tail}", hint=hint)


if __name__ == "__main__":
    main(sys.argv[1:])
