"""Passwords and keys of one installation, generated at its first start, and who may read its home."""

from __future__ import annotations

import base64
import json
import secrets
import stat
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from flight_delays.infra.files import write_private
from flight_delays.settings import Settings
from stack import state
from stack.steps import StepFailedError


def _token() -> str:
    return secrets.token_urlsafe(64)  # HS512 wants 64 bytes


@dataclass(frozen=True)
class Secrets:
    """What must differ between installations and be known to nobody else."""

    airflow_password: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    airflow_secret_key: str = field(default_factory=_token)
    airflow_jwt_secret: str = field(default_factory=_token)
    airflow_fernet_key: str = field(default_factory=lambda: base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())
    spark_connect_token: str = field(default_factory=_token)  # since release 0.2.0: an older home has none


def load_secrets(settings: Settings) -> Secrets:
    """The secrets under `settings.home`; generated, with mode 0600, for a new home.

    Raises StepFailedError where the file is damaged, or missing in a home that has state.
    """
    path = settings.home / "secrets.json"
    if not path.exists() and state.found_format(settings) is not None:
        hint = f"put it back from a backup, or have new ones generated: echo {{}} > {path}"
        raise StepFailedError(f"{path} with the passwords and keys of this state is missing", hint=hint)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        found = read_secrets(path) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise StepFailedError(f"{path.name} is damaged: {error}", hint="put it back from a backup") from error
    secrets = Secrets(**{each.name: found[each.name] for each in fields(Secrets) if each.name in found})
    write_private(path, json.dumps(asdict(secrets), indent=2))
    return secrets


def read_secrets(path: Path) -> dict[str, str]:
    """The secrets by name, as the file has them. Raises OSError or ValueError where it is none of secrets."""
    found = json.loads(path.read_text())
    if not isinstance(found, dict) or not all(value and isinstance(value, str) for value in found.values()):
        raise ValueError("expected a JSON object of passwords and keys")
    return found


def make_private(settings: Settings) -> None:
    """Takes an existing home and its secrets from other users, and says so in a line each.

    Raises StepFailedError where this user may not, or where the folder is for all users, e.g. /tmp.
    """
    own = "name a folder of your own: FLIGHTS_HOME=FOLDER"
    for path in (settings.home, settings.home / "secrets.json"):
        with suppress(FileNotFoundError):
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & stat.S_ISVTX:
                raise StepFailedError(f"{path} is a folder of all users", hint=own)
            if mode & 0o077:
                try:
                    path.chmod(mode & 0o700)
                except PermissionError as error:
                    raise StepFailedError(f"other users may read {path}, and it is not yours", hint=own) from error
                print(f"Other users could read {path} (mode {mode:o}); now only you can.", file=sys.stderr)
