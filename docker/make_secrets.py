"""Makes the passwords and keys of the containers, a file each in the volume `secrets`, at the first start.

A file is readable by one group, and a service is in the groups of what it needs. A value in .env comes first; what is
in the volume already stays. Standard library only.
"""

from __future__ import annotations

import base64
import os
import secrets
from pathlib import Path

FOLDER = Path("/run/secrets")
GIVEN = Path("/given")
"""The variables of .env, NAME=value a line; without a value where .env does not name them."""
POSTGRES, MONGO, CLIENTS, AIRFLOW = range(11001, 11005)
"""The groups, as in docker-compose.yaml."""
GROUPS = {
    "postgres_password": POSTGRES,
    "mongo_root_password": MONGO,
    "mongo_password": MONGO,
    "airflow_password": AIRFLOW,
    "airflow_fernet_key": AIRFLOW,
    "airflow_secret_key": AIRFLOW,
    "airflow_jwt_secret": AIRFLOW,
}


def main() -> None:
    """Writes what is missing or differs from .env, then what is derived: the addresses with a password in them."""
    given = dict(line.split("=", 1) for line in GIVEN.read_text().splitlines() if "=" in line)
    kept = {name: given[name.upper()] or _read(name) or _new(name) for name in GROUPS}
    for name, group in GROUPS.items():
        _write(name, kept[name], group)
    database = "agile_data_science"
    mongo = f"mongodb://flights:{kept['mongo_password']}@mongo:27017/{database}?authSource={database}"
    _write("mongo_uri", mongo, CLIENTS)
    postgres = f"postgresql+psycopg2://airflow:{kept['postgres_password']}@postgres:5432/airflow"
    _write("airflow_database", postgres, AIRFLOW)


def _new(name: str) -> str:
    """URL-safe, as addresses contain it."""
    if name == "airflow_fernet_key":  # with its padding
        return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    return secrets.token_urlsafe(12 if name == "airflow_password" else 64)  # people type that one; HS512 wants 64 bytes


def _read(name: str) -> str:
    path = FOLDER / name
    return path.read_text() if path.exists() else ""


def _write(name: str, value: str, group: int) -> None:
    if _read(name) == value:
        return
    path = FOLDER / f".{name}"
    path.unlink(missing_ok=True)
    path.touch(0o600)
    path.write_text(value)
    os.chown(path, -1, group)
    path.chmod(0o440)
    path.replace(FOLDER / name)


if __name__ == "__main__":
    main()
