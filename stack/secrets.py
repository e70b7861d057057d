"""Passwords and keys of one installation, generated at its first start."""

from __future__ import annotations

import base64
import json
import os
import secrets
import stat
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from flight_delays.settings import Settings


def _token() -> str:
    return secrets.token_urlsafe(64)  # HS512 wants 64 bytes


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


@dataclass(frozen=True)
class Secrets:
    """What must differ between installations and be known to nobody else."""

    airflow_password: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    airflow_secret_key: str = field(default_factory=_token)
    airflow_jwt_secret: str = field(default_factory=_token)
    airflow_fernet_key: str = field(default_factory=_fernet_key)
    supervisor_password: str = field(default_factory=_token)


def load_secrets(settings: Settings) -> Secrets:
    """The secrets under `settings.home`; made, with mode 0600, where there are none yet."""
    path = settings.home / "secrets.json"
    try:
        return Secrets(**json.loads(path.read_text()))
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
    made = Secrets()
    write_private(path, json.dumps(asdict(made), indent=2))
    return made


def write_private(path: os.PathLike[str], text: str) -> None:
    """Writes a file that only its owner may read, whole or not at all; one with that text is left alone.

    So on a full disk the commands that only look still work.
    """
    with suppress(FileNotFoundError):
        there = Path(path)
        if stat.S_IMODE(there.stat().st_mode) == 0o600 and there.read_text() == text:
            return
    staged = f"{os.fspath(path)}.{os.getpid()}"
    with os.fdopen(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    os.replace(staged, path)
