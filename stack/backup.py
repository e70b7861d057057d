"""`make backup` and `make restore`: one consistent snapshot of the stopped stack's home, in one tar file.

In it is what `PARTS` names. Not in it: logs, downloads, and the data of a MongoDB or Kafka of the user's own.
"""

from __future__ import annotations

import datetime as dt
import gzip
import os
import posixpath
import shutil
import tarfile
import tempfile
import zlib
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

from flight_delays.infra.files import move_durably
from flight_delays.settings import Settings
from stack import launch, state
from stack.secrets import Secrets, load_secrets, read_secrets
from stack.steps import StepFailedError, step
from stack.supervisor import Supervisor
from stack.up import PredictorStoppedError, down, locked, up

_KAFKA, _MONGO = ("kafka/cluster.id", "kafka/limited", "kafka/data"), ("mongo",)
_OURS = ("state.json", "secrets.json", "models", "checkpoints", "data/flight_records", "data/weather")
PARTS = (*_OURS, "airflow/airflow.db", "airflow/airflow.db-wal", *_KAFKA, *_MONGO)
"""What a backup holds, each where it is in the home."""
_STAGING, _REPLACED = ".restoring", ".replaced"
_STAYS = {".lock", "backups", "logs", "run", state.UNFINISHED_RESTORE, _STAGING, _REPLACED}
"""In the home: no state, or not of one state."""
_STATELESS = ("web",)
"""Goes on during a backup, and answers 503."""


def backup(settings: Settings, path: Path | None, *, may_stop: bool = True) -> Path:
    """Writes the backup, readable by its owner only, whole or not at all; returns its path. Raises StepFailedError.

    Without `path`: `backups/<UTC time>.tar.gz` in the home. A running stack is stopped for it and started again, also
    after a failure; without `may_stop` it is a reason to refuse.
    """
    path = path or settings.home / "backups" / f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}.tar.gz"
    path = path.expanduser().absolute()
    if path.exists():
        raise StepFailedError(f"{path} is there already", hint="name another file: make backup BACKUP=FILE")
    if state.found_format(settings) is None:
        raise StepFailedError(f"there is no state in {settings.home}", hint="make up")
    load_secrets(settings)  # adds what a home of release 0.1.0 lacks: `restore` takes nothing less than all
    if not Supervisor(settings).running():
        _write(settings, path)
    elif not may_stop:
        raise StepFailedError("the stack is running, and only a stopped stack can be backed up", hint="make down")
    elif changed := state.changed_since_start(settings):
        why = f"the running stack was started with other {' and '.join(changed)}, and would not come back as it is"
        raise StepFailedError(why, hint="make down backup up")
    else:
        print("The stack stops for the backup and starts again after it.", flush=True)
        try:
            down(settings, keep=_STATELESS)
            _write(settings, path)
        finally:
            with suppress(PredictorStoppedError):  # it was stopped before
                up(settings)
    print("\nThe backup holds passwords: keep it where nobody else reads it.\nBack with it: make restore BACKUP=FILE")
    return path


def _write(settings: Settings, path: Path) -> None:
    external = (_KAFKA if settings.kafka_is_external else ()) + (_MONGO if settings.mongo_is_external else ())
    with locked(settings), step("backup") as current:
        state.check(settings)
        if alive := [name for name in launch.left_behind(settings.home / "run") if name not in _STATELESS]:
            raise StepFailedError(f"without a process manager, {', '.join(alive)} still runs", hint="make up")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(prefix=".backup-", dir=path.parent) as folder:
            part = Path(folder, path.name)
            with tarfile.open(part, mode="w:gz", compresslevel=6, dereference=True) as archive:
                for name in PARTS:
                    if name not in external and (settings.home / name).exists():
                        current.say(name)
                        archive.add(settings.home / name, name)
            part.chmod(0o600)
            move_durably(part, path)
        current.result = f"{path.stat().st_size / 1e6:.1f} MB in {path}"


def restore(settings: Settings, path: Path, *, force: bool) -> None:
    """Makes the home what the backup holds. Raises StepFailedError, and then the home is what it was.

    All is unpacked and checked beside the state before anything is moved. Without `force`, an existing state is a
    reason to refuse. Where not all data are from the backup, `make up` finishes it (`state.finish_restore`).
    """
    staging = settings.home / _STAGING
    with locked(settings):
        try:
            with step("archive") as current:
                _refuse_what_is_in_use(settings, force=force)
                _unpack(path, staging)
                _check(settings, settings.model_copy(update={"home": staging}), path)
                current.result = "whole"
            with step("state") as current:
                _put_in_place(settings, staging)
                current.result = "in " + str(settings.home)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    print("\nRestored. Next: make up")


def _refuse_what_is_in_use(settings: Settings, *, force: bool) -> None:
    if Supervisor(settings).running():
        raise StepFailedError("the stack is running", hint="make down")
    found = {path.name for path in settings.home.iterdir()} - _STAYS
    if found - {"secrets.json"} and not (settings.home / state.UNFINISHED_RESTORE).exists() and not force:
        raise StepFailedError(
            f"there is a state in {settings.home} already: {', '.join(sorted(found))}",
            hint="back it up and `make clean`, or replace it: make restore BACKUP=FILE FORCE=1",
        )


def _unpack(source: Path, staging: Path) -> None:
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(mode=0o700)
    try:
        with gzip.open(source) as whole:
            with tarfile.open(fileobj=whole, mode="r|") as archive:
                archive.extractall(staging, filter=_known)  # noqa: S202 - the filter is stricter than "data"
            while whole.read(1 << 20):  # its checksum is at the end, where tarfile does not look
                pass
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError) as error:
        raise _not_whole(source, error) from error


def _not_whole(source: Path, why: object) -> StepFailedError:
    return StepFailedError(f"{source} is no whole backup: {why}", hint="name another one: make restore BACKUP=FILE")


def _known(member: tarfile.TarInfo, target: str) -> tarfile.TarInfo:
    """Lets a member of a backup pass, readable by this user only; raises TarError for any other, e.g. code."""
    name = posixpath.normpath(member.name)
    if not (member.isfile() or member.isdir()) or not any(f"{name}/".startswith(f"{part}/") for part in PARTS):
        raise tarfile.TarError(f"{member.name} is no part of a backup (dumps made before release 0.2.0 are unreadable)")
    return tarfile.data_filter(member, target).replace(mode=0o700 if member.isdir() else 0o600, deep=False)


def _check(settings: Settings, staged: Settings, source: Path) -> None:
    """Refuses a state that this code cannot go on with, and notes in it where it is not the whole state."""
    if state.found_format(staged) is None:
        raise _not_whole(source, "it holds no state")
    try:
        missing = {each.name for each in fields(Secrets)} - read_secrets(staged.home / "secrets.json").keys()
    except (OSError, ValueError) as error:
        raise _not_whole(source, f"secrets.json: {error}") from error
    if missing:
        raise _not_whole(source, f"secrets.json has no {', '.join(sorted(missing))}")
    state.check(staged)
    external = settings.kafka_is_external or settings.mongo_is_external or settings.spark_connect_is_external
    if external or not all((staged.home / part).exists() for part in ("kafka/data", "mongo")):
        (staged.home / state.RESTORED_IN_PART).touch()


def _put_in_place(settings: Settings, staging: Path) -> None:
    """Moves the new state in for the old one. Cut off, it leaves a file that `make up` refuses."""
    replaced, unfinished = settings.home / _REPLACED, settings.home / state.UNFINISHED_RESTORE
    os.sync()
    replaced.mkdir(exist_ok=True)
    unfinished.touch()
    for path in settings.home.iterdir():
        if path.name not in _STAYS:
            shutil.rmtree(replaced / path.name, ignore_errors=True)
            path.rename(replaced / path.name)
    for path in staging.iterdir():
        path.rename(settings.home / path.name)
    unfinished.unlink()
    shutil.rmtree(replaced)
