"""The model registry: immutable version folders and one pointer file that says which of them serves.

    models/
      20260101T030000Z-1a2b3c4d/   pipeline/ (a Spark PipelineModel), metadata.json, model_card.html
      pointer.json                 champion and previous; written last, atomically: the only truth about what serves
      verdicts/                    <version>.json: why a version serves, or does not
      .staging/                    what is being made; never read as a model, leftovers are swept

A version's name is the time of its training and the first 8 hex digits of a hash over its content, so that damage is
seen and registering the same folder twice gives one version.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pydantic import AwareDatetime, BaseModel, Field

from flight_delays.errors import DataError, RegistryError
from flight_delays.infra import files
from flight_delays.infra.files import locked, read_json, sha256_of, sync, write_atomically

POINTER = "pointer.json"
METADATA = "metadata.json"
PIPELINE = "pipeline"
VERDICTS = "verdicts"
STAGING = ".staging"
STAGING_DAYS = 2
"""Staging folders older than this belong to no run any more (a training run ends within hours)."""

VERSION_PATTERN = r"\d{8}T\d{6}Z-[0-9a-f]{8}"
"""A version's name, as a regular expression."""
_VERSION = re.compile(VERSION_PATTERN)
_Model = TypeVar("_Model", bound=BaseModel)


class Params(BaseModel, frozen=True):
    """What a person may choose for a training run, and what followed from it (`max_bins`)."""

    trees: int
    depth: int
    seed: int
    holdout_months: int
    max_bins: int


class Period(BaseModel, frozen=True):
    """The flights of one side of the split: first and last `FlightDate`, and how many."""

    first: dt.date
    last: dt.date
    rows: int


class Scores(BaseModel, frozen=True):
    """What a model reached on `rows` flights. Higher is better for the first two, lower for the other three.

    `macro_f1` is the plain mean of the four buckets' F1, `log_loss` is in nats, `brier` sums over the buckets (0 .. 2),
    `calibration_error` is the expected calibration error of the most likely bucket.
    """

    rows: int
    accuracy: float
    macro_f1: float
    log_loss: float
    brier: float
    calibration_error: float

    def __str__(self) -> str:
        return (
            f"accuracy {self.accuracy:.3f}, macro-F1 {self.macro_f1:.3f}, log-loss {self.log_loss:.3f}, "
            f"Brier {self.brier:.3f}, calibration error {self.calibration_error:.3f}"
        )


class Bin(BaseModel, frozen=True):
    """One point of the calibration curve: `rows` flights whose most likely bucket had about the same probability."""

    confidence: float
    """Mean probability of the most likely bucket."""
    accuracy: float
    """Share of the flights in which that bucket came true; the same as `confidence` in a calibrated model."""
    rows: int


class Comparison(BaseModel, frozen=True):
    """The champion of that time beside the new version, on holdout rows that neither has learned from, if there are.

    `seen` says that the champion has learned from them, as there are no others. Scores are None where the champion
    could not be asked; `error` says why.
    """

    version: str
    champion: Scores | None = None
    challenger: Scores | None = None
    seen: bool = False
    error: str | None = None


class Metadata(BaseModel, frozen=True):
    """`metadata.json`: where a model comes from and how good it is on the holdout.

    What has a default was not written by release 0.1.0. `confusion` counts flights, a row for each bucket that came
    true, a column for each that was most likely; `golden` are the answers to the golden requests, by name.
    """

    trained_at: AwareDatetime
    params: Params
    categorical: tuple[str, ...]
    numeric: tuple[str, ...]
    vocabulary: dict[str, list[str]]
    training: Period
    holdout: Period
    fingerprint: str
    code_version: str
    spark_version: str
    metrics: Scores
    baselines: dict[str, Scores]
    training_seconds: float
    metrics_without_conditions: Scores | None = None
    """`metrics` without all conditions, where the model knows any."""
    calibration: tuple[Bin, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    by_carrier: dict[str, Scores] = {}
    by_origin: dict[str, Scores] = {}
    importances: dict[str, float] = {}
    golden: dict[str, tuple[float, ...]] = {}
    comparison: Comparison | None = None


class Verdict(BaseModel, frozen=True):
    """`verdicts/<version>.json`: whether a version may serve, and its history."""

    version: str
    judged_at: AwareDatetime
    passed: bool
    reasons: tuple[str, ...]
    """Why it did not pass; where it did, the reasons that `force` overruled."""
    champion: str | None
    """The champion that it was compared with."""
    forced: bool = False
    history: tuple[str, ...] = ()
    """What happened later, in sentences, oldest first."""


class Pointer(BaseModel, frozen=True):
    """`pointer.json`: which version serves, and which did before. All None while no model was ever promoted."""

    champion: str | None = Field(default=None, pattern=f"^{VERSION_PATTERN}$")
    previous: str | None = Field(default=None, pattern=f"^{VERSION_PATTERN}$")
    updated_at: AwareDatetime | None = None


def stage(models: Path, name: str) -> Path:
    """An empty staging folder for a run; the same name gives the same folder. Sweeps the leftovers of old runs."""
    staging = models / STAGING
    staging.mkdir(parents=True, exist_ok=True)
    sweep(models)
    folder = staging / re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip(".")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def sweep(models: Path, *, dry_run: bool = False) -> list[str]:
    """Removes the staging folders of runs that are long over; returns their names."""
    return files.sweep(models / STAGING, STAGING_DAYS * 86_400, dry_run=dry_run)


def register(models: Path, staged: Path) -> str:
    """Copies a staged folder into the registry as a new immutable version, and returns the version.

    Returns after all of it is on disk. The same content gives the same version, so a retry changes nothing (`staged`
    stays where it is for that). A damaged version of the same name is replaced. Raises RegistryError where the staged
    folder is no complete model.
    """
    with locked(models / ".lock"):
        version = _version_of(staged)
        target = models / version
        with suppress(RegistryError):
            verify(models, version)
            return version
        (models / STAGING).mkdir(exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix="register-", dir=models / STAGING))
        try:
            # Spark's checksum and marker files hold nothing that the content hash does not guard better.
            shutil.copytree(staged, work / "new", ignore=shutil.ignore_patterns("*.crc", "_SUCCESS"))
            for path in sorted((work / "new").rglob("*"), reverse=True):
                if path.is_file():
                    path.chmod(0o444)
                sync(path)
            sync(work / "new")
            if target.exists():
                target.rename(work / "damaged")
            (work / "new").rename(target)
            sync(models)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return version


def promote(models: Path, version: str) -> Pointer:
    """Makes a version the champion; the champion so far becomes `previous`. Promoting the champion changes nothing.

    Raises RegistryError where the version is missing, incomplete or damaged, or the pointer file is unreadable; the
    pointer stays as it was.
    """
    with locked(models / ".lock"):  # verified under the lock: `prune` cannot take it away in between
        verify(models, version)
        before = read_pointer(models)
        if before.champion == version:
            return before
        after = Pointer(champion=version, previous=before.champion, updated_at=dt.datetime.now(dt.UTC))
        write_atomically(models / POINTER, after.model_dump_json(indent=2) + "\n")
        return after


def save_verdict(models: Path, verdict: Verdict) -> None:
    """Writes or replaces the verdict on a version."""
    (models / VERDICTS).mkdir(parents=True, exist_ok=True)
    write_atomically(models / VERDICTS / f"{verdict.version}.json", verdict.model_dump_json(indent=2) + "\n")


def read_verdict(models: Path, version: str) -> Verdict | None:
    """The verdict on a version; None where it was never judged (release 0.1.0). Raises RegistryError on damage."""
    advice = "delete it: the version then counts as never judged"
    return _read(models / VERDICTS / f"{version}.json", Verdict, advice)


def prune(models: Path, keep: int, deployed: set[str], *, dry_run: bool = False) -> list[str]:
    """Removes versions but the `keep` newest, the pointer's two and the `deployed` ones; returns the removed.

    A version goes at once, by a rename; what a killed run leaves of it is swept. Raises RegistryError where the
    pointer is unreadable; nothing is removed then.
    """
    with locked(models / ".lock"):
        pointer = read_pointer(models)
        kept = {pointer.champion, pointer.previous, *deployed, *versions(models)[:keep]}
        old = [version for version in versions(models) if version not in kept]
        (models / STAGING).mkdir(exist_ok=True)
        for version in [] if dry_run else old:
            gone = models / STAGING / f"pruned-{version}"
            shutil.rmtree(gone, ignore_errors=True)
            (models / version).rename(gone)
            shutil.rmtree(gone)
            (models / VERDICTS / f"{version}.json").unlink(missing_ok=True)
        return old


def read_pointer(models: Path) -> Pointer:
    """Which version serves and which did before; an empty `Pointer` where none was ever promoted.

    Raises RegistryError where the file is unreadable.
    """
    advice = "expected is JSON with champion, previous and updated_at: delete it and promote a version"
    return _read(models / POINTER, Pointer, advice) or Pointer()


def verify(models: Path, version: str) -> None:
    """Raises RegistryError, in one sentence, where the version is missing, incomplete or not what was registered."""
    folder = models / version
    if not _VERSION.fullmatch(version):
        raise RegistryError(f"{version!r} is no model version; expected one like 20260101T030000Z-1a2b3c4d")
    if not folder.is_dir():
        raise RegistryError(f"Model {version} is missing in {models}: choose another version or train a new one")
    if (found := _version_of(folder)) != version:
        raise RegistryError(
            f"Model {version} is damaged: its content hashes to {found}; promote another version or train a new one"
        )


def load_metadata(models: Path, version: str) -> Metadata:
    """The version's `metadata.json`. Raises RegistryError where it is missing or unreadable."""
    folder = models / version
    if (found := _read(folder / METADATA, Metadata, "train a new model")) is None:
        raise RegistryError(f"Model folder {folder} is incomplete: {METADATA} is missing; train a new one")
    return found


def _read(path: Path, kind: type[_Model], advice: str) -> _Model | None:
    """The file's content; None where there is no such file. Raises RegistryError, with the advice, on damage."""
    try:
        return read_json(path, kind)
    except FileNotFoundError:
        return None
    except DataError as error:
        raise RegistryError(f"{error}; {advice}") from error


def versions(models: Path) -> list[str]:
    """All versions, newest first; not verified."""
    if not models.is_dir():
        return []
    return sorted((path.name for path in models.iterdir() if _VERSION.fullmatch(path.name)), reverse=True)


def pipeline_path(models: Path, version: str) -> Path:
    """The folder that `PipelineModel.load` takes."""
    return models / version / PIPELINE


def _version_of(folder: Path) -> str:
    """The name that a complete model folder must have."""
    metadata = load_metadata(folder.parent, folder.name)
    if not (folder / PIPELINE / "stages").is_dir():
        raise RegistryError(f"Model folder {folder} is incomplete: {PIPELINE}/ is no saved pipeline; train a new one")
    digest = hashlib.sha256()
    try:
        for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
            if path.is_file() and path.suffix != ".crc" and path.name != "_SUCCESS":
                digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256_of(path)}\n".encode())
    except OSError as error:
        raise RegistryError(f"Model folder {folder} is unreadable ({error}): correct it, or train a new one") from error
    return f"{metadata.trained_at.astimezone(dt.UTC):%Y%m%dT%H%M%SZ}-{digest.hexdigest()[:8]}"
