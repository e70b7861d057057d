"""`make backup` and `make restore`: what cannot be made again, in one file.

In it: answers, rejected messages, distances, the predictor's events and generation, models with their pointer, the
published flight records, passwords and keys. Each of these is whole at any time and only grows, so the stack may run.
Not in it: what the DAG flight_context makes again of the records; and Kafka's messages, the query's checkpoints and
Airflow's history, which would have to be of one moment. So a request that was not answered when the backup was made is
not in it, and after a restore the champion is deployed anew.

    backup.json                       written last: what is in the file
    secrets.json, state.json, models/, data/flight_records/
    mongo/<collection>/<page>.bson    as mongodump writes them, page 0 with the newest documents
"""

from __future__ import annotations

import datetime as dt
import gzip
import io
import json
import os
import posixpath
import re
import shutil
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flight_delays.contract import DATABASE, Collection
from flight_delays.data import records
from flight_delays.infra import mongo
from flight_delays.infra.files import sha256_of
from flight_delays.model import registry
from flight_delays.settings import Settings
from stack import artifacts, state
from stack.secrets import load_secrets, read_secrets
from stack.services import services
from stack.steps import Step, StepFailedError, step
from stack.supervisor import Supervisor
from stack.up import await_ready, locked

if TYPE_CHECKING:
    from pymongo.database import Database

FORMAT = 1
COLLECTIONS = tuple(name for name in Collection if name not in (Collection.CANARIES, Collection.CONTEXT))
UNFINISHED = state.UNFINISHED_RESTORE
_PAGE = 100
"""Documents: rejected ones of release 0.1.0 can have 64 KiB each, and the embedded server's heap is small."""
_STAGING, _REPLACED = ".restoring", ".replaced"
_STAYS = {".lock", "backups", "logs", "run", UNFINISHED, _STAGING, _REPLACED}
"""In the home: no state, or not of one state."""
_MEMBERS = re.compile(r"(backup|secrets|state)\.json\Z|(models|data/flight_records|mongo)(/|\Z)")
_DUPLICATE_KEY = 11000


def backup(settings: Settings, target: Path | None) -> Path:
    """Writes the backup, readable by its owner only, whole or not at all; returns its path. Raises StepFailedError.

    Without `target`: `backups/<UTC time>.tar.gz` in the home. MongoDB is started for it where the stack does not run.
    """
    path = target or settings.home / "backups" / f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}.tar.gz"
    path = path.expanduser().absolute()
    if path.exists():
        raise StepFailedError(f"{path} is there already", hint="name another file: make backup BACKUP=FILE")
    if state.found_format(settings) is None:
        raise StepFailedError(f"there is no state in {settings.home}", hint="make up")
    with (
        locked(settings),
        step("backup", hint="run it again; if a run of flight_records was at work, after it") as current,
    ):
        state.check(settings)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with (
                _mongo(settings, current) as db,
                os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file,
            ):
                with tarfile.open(fileobj=file, mode="w:gz", compresslevel=6) as archive:
                    _pack(settings, db, archive, current)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        current.result = f"{path.stat().st_size / 1e6:.1f} MB"
    return path


def restore(settings: Settings, source: Path, *, force: bool) -> None:
    """Makes the home what the backup holds. Raises StepFailedError, and then the home is what it was.

    All is unpacked and checked beside the state, and MongoDB's documents are loaded there, before anything is moved.
    A MongoDB of one's own (`MONGO_URI`) is written to in place, after all checks. Without `force`, an existing state or
    documents in that MongoDB are a reason to refuse.
    """
    with locked(settings):
        staging = settings.home / _STAGING
        with step("archive") as current:
            _refuse_what_is_in_use(settings, force=force)
            shutil.rmtree(staging, ignore_errors=True)
            contents = _unpack(settings, source, staging)
            current.result = f"of {contents['created_at'][:19]} UTC, release {contents['release']}: whole"
        try:
            with step("JVM artifacts") as current:
                current.result = artifacts.fetch(settings)
            with step("documents", hint="make restore again") as current:
                staged = settings if settings.mongo_is_external else _at(settings, staging)
                with _mongo(staged, current) as db:
                    if settings.mongo_is_external:
                        _empty(db, force=force)
                    current.result = _load(settings, db, staging / "dump", contents)
                shutil.rmtree(staging / "dump")
        except BaseException:
            shutil.rmtree(staging)  # the state in the home is what it was
            raise
        with step("state") as current:
            _put_in_place(settings, staging)
            current.result = "in " + str(settings.home)


# --- making it -------------------------------------------------------------------------------------------------------


def _pack(settings: Settings, db: Database[dict[str, Any]], archive: tarfile.TarFile, current: Step) -> None:
    for name in ("secrets.json", "state.json"):
        if (settings.home / name).is_file():
            archive.add(settings.home / name, name)
    current.say("models")
    pointer = registry.read_pointer(settings.models)  # first: what it names is there, and stays
    if pointer.champion:
        _add(archive, f"models/{registry.POINTER}", pointer.model_dump_json(indent=2).encode())
    for version in registry.versions(settings.models):
        archive.add(settings.models / version, f"models/{version}")
        if (verdict := registry.read_verdict(settings.models, version)) is not None:
            _add(archive, f"models/{registry.VERDICTS}/{version}.json", verdict.model_dump_json(indent=2).encode())
    current.say("flight records")
    if (manifest := records.read_manifest(settings.records)) is not None:
        folder = settings.records.relative_to(settings.home)
        for month in manifest.months:
            archive.add(settings.records / month.path, str(folder / month.path))
        _add(archive, str(folder / "manifest.json"), manifest.model_dump_json(indent=1).encode())
    documents = {}
    for collection in COLLECTIONS:
        current.say(str(collection))
        documents[str(collection)] = 0
        for number, page in enumerate(_pages(db, collection)):
            _add(archive, f"mongo/{collection}/{number:06}.bson", b"".join(document.raw for document in page))
            documents[str(collection)] += len(page)
    contents = {
        "format": FORMAT,
        "created_at": dt.datetime.now(dt.UTC).isoformat(),
        "release": state.release(),
        "documents": documents,
    }
    _add(archive, "backup.json", json.dumps(contents, indent=1).encode())


def _pages(db: Database[dict[str, Any]], collection: Collection) -> Iterator[list[Any]]:
    """A collection's documents, newest first.

    In pages from the end: documents that are inserted meanwhile then only bring some of a page a second time, and
    expired ones, from the beginning, nothing.
    """
    from bson.codec_options import CodecOptions
    from bson.raw_bson import RawBSONDocument
    from pymongo import DESCENDING

    source = db.get_collection(str(collection), codec_options=CodecOptions(document_class=RawBSONDocument))
    done = 0
    while page := list(source.find({}).sort("$natural", DESCENDING).skip(done).limit(_PAGE)):
        yield page
        done += len(page)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = len(content), int(time.time()), 0o600
    archive.addfile(member, io.BytesIO(content))


# --- taking it back --------------------------------------------------------------------------------------------------


def _refuse_what_is_in_use(settings: Settings, *, force: bool) -> None:
    if Supervisor(settings).running():
        raise StepFailedError("the stack is running", hint="make down")
    found = {path.name for path in settings.home.iterdir()} - _STAYS
    if found - {"secrets.json"} and not (settings.home / UNFINISHED).exists() and not force:
        raise StepFailedError(
            f"there is a state in {settings.home} already: {', '.join(sorted(found))}",
            hint="back it up and `make clean`, or replace it: make restore BACKUP=FILE FORCE=1",
        )


def _unpack(settings: Settings, source: Path, staging: Path) -> dict[str, Any]:
    """Unpacks into `staging` and checks everything that can be; returns `backup.json`. Leaves nothing on failure."""
    staging.mkdir(mode=0o700)
    try:
        try:
            with gzip.open(source) as whole:  # its checksum stands at the end, where tarfile does not look
                while whole.read(1 << 20):
                    pass
            with tarfile.open(source) as archive:
                archive.extractall(staging, filter=_known)  # noqa: S202 - the filter is stricter than "data"
            contents: dict[str, Any] = json.loads((staging / "backup.json").read_text())
        except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError) as error:
            raise StepFailedError(
                f"{source} is no whole backup: {error}", hint="name another one: make restore BACKUP=FILE"
            ) from error
        if contents["format"] > FORMAT:
            raise StepFailedError(
                f"{source} was made by release {contents['release']}, in a format that this one does not know",
                hint="check out that release or a later one",
            )
        (staging / "backup.json").unlink()
        if (staging / "mongo").exists():
            (staging / "mongo").rename(staging / "dump")
        staged = _at(settings, staging)
        state.check(staged)
        read_secrets(staging / "secrets.json", complete=True)
        for version in registry.versions(staged.models):
            registry.verify(staged.models, version)
        if champion := registry.read_pointer(staged.models).champion:
            registry.verify(staged.models, champion)
        manifest = records.read_manifest(staged.records)
        for month in manifest.months if manifest else []:
            if sha256_of(staged.records / month.path) != month.sha256:
                raise StepFailedError(f"{month.path} in {source} is damaged", hint="take another backup")
    except BaseException:
        shutil.rmtree(staging)
        raise
    return contents


def _known(member: tarfile.TarInfo, target: str) -> tarfile.TarInfo:
    """Lets a member of a backup pass, readable by this user only; raises TarError for any other, such as code."""
    name = posixpath.normpath(member.name)
    if not (member.isfile() or member.isdir()) or not _MEMBERS.match(name):
        raise tarfile.TarError(f"{member.name} is no part of a backup")
    return tarfile.data_filter(member, target).replace(mode=0o700 if member.isdir() else 0o600, deep=False)


def _empty(db: Database[dict[str, Any]], *, force: bool) -> None:
    filled = [name for name in COLLECTIONS if db[name].find_one({}, {"_id": 1}) is not None]
    if filled and not force:
        raise StepFailedError(
            f"the MongoDB at MONGO_URI has documents in {DATABASE} already: {', '.join(filled)}",
            hint="name another MongoDB, or replace them: make restore BACKUP=FILE FORCE=1",
        )
    for name in Collection:
        db.drop_collection(name)


def _load(settings: Settings, db: Database[dict[str, Any]], dump: Path, contents: dict[str, Any]) -> str:
    """Inserts the documents, oldest first as they came."""
    from bson.raw_bson import RawBSONDocument
    from pymongo.errors import BulkWriteError

    def without_deployment(document: Any) -> dict[str, Any]:
        return {**document, "serving": None, "candidate": None, "retiring": []}  # their checkpoints are not there

    def at_an_old_place(document: Any) -> dict[str, Any]:
        """Its `_id` is a place on a topic, and an empty Kafka will give that place to another message."""
        place = str(document["_id"])
        return {**document, "_id": place if "@" in place else f"{place}@{contents['created_at']}"}

    changes: dict[str, Callable[[Any], Any]] = {Collection.STATE: without_deployment}
    if not settings.kafka_is_external:
        changes[Collection.REJECTED] = at_an_old_place
    mongo.ensure_indexes(db)
    wanted: dict[str, int] = contents["documents"]
    for collection, count in wanted.items():
        found, change = 0, changes.get(collection, lambda document: document)
        for page in sorted((dump / collection).glob("*.bson"), reverse=True):
            documents: list[Any] = [change(RawBSONDocument(raw)) for raw in _split(page.read_bytes())]
            found += len(documents)
            try:
                db[collection].insert_many(reversed(documents), ordered=False)
            except BulkWriteError as error:  # some of a page may be in the next one, too
                if any(failure["code"] != _DUPLICATE_KEY for failure in error.details["writeErrors"]):
                    raise
        if found != count:
            raise StepFailedError(f"the backup has {found} documents of {collection}, but should have {count}")
    return ", ".join(f"{count:,} of {name}" for name, count in wanted.items() if count)


def _split(content: bytes) -> Iterator[bytes]:
    """The documents of a .bson file: each begins with its length in bytes (bsonspec.org, `int32`)."""
    place = 0
    while place < len(content):
        length = int.from_bytes(content[place : place + 4], "little")
        yield content[place : place + length]
        place += length


def _put_in_place(settings: Settings, staging: Path) -> None:
    """Moves the new state in for the old one. Cut off, it leaves `UNFINISHED`, which `make up` refuses."""
    replaced = settings.home / _REPLACED
    replaced.mkdir(exist_ok=True)
    (settings.home / UNFINISHED).touch()
    for path in settings.home.iterdir():
        if path.name not in _STAYS:
            shutil.rmtree(replaced / path.name, ignore_errors=True)
            path.rename(replaced / path.name)
    for path in staging.iterdir():
        if path.name not in _STAYS:
            path.rename(settings.home / path.name)
    (settings.home / UNFINISHED).unlink()
    shutil.rmtree(staging)
    shutil.rmtree(replaced)


def _at(settings: Settings, home: Path) -> Settings:
    """The same settings for another home."""
    return settings.model_copy(update={"home": home})


@contextmanager
def _mongo(settings: Settings, current: Step) -> Iterator[Database[dict[str, Any]]]:
    """The installation's database; its own MongoDB is started, and stopped again, where the stack does not run."""
    secrets = load_secrets(settings)
    supervisor = Supervisor(settings)
    started = [] if supervisor.running() else [each for each in services(settings, secrets) if each.name == "mongo"]
    if started:
        artifacts.fetch(settings)
        supervisor.start(started)
    try:
        for service in started:
            await_ready(settings, supervisor, service, current)
        db = mongo.connect(settings, socketTimeoutMS=60_000)
        yield db
        db.client.close()
    finally:
        if started:
            supervisor.stop()
