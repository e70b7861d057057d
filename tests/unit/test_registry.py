"""The model registry on real folders, with crashes in the middle."""

import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from flight_delays.errors import RegistryError
from flight_delays.model import promotion_checks, registry
from flight_delays.model.registry import Pointer
from tests.versions import UNREADABLE, metadata, stage


@pytest.fixture
def models(tmp_path):
    return tmp_path / "models"


@pytest.fixture
def first(models, tmp_path):
    return registry.register(models, stage(tmp_path / "first", day=1))


@pytest.fixture
def second(models, tmp_path):
    return registry.register(models, stage(tmp_path / "second", day=2))


def weights(models: Path, version: str) -> Path:
    return registry.pipeline_path(models, version) / "stages" / "0_Forest" / "data" / "part-00000.parquet"


def test_a_version_is_time_in_utc_and_content(models, first):
    assert first.startswith("20260101T030007Z-")
    assert registry.versions(models) == [first]
    registry.verify(models, first)
    assert registry.load_metadata(models, first).vocabulary == {"Carrier": ["AA", "UA"]}
    assert weights(models, first).read_text() == "weights"


def test_the_same_content_gives_the_same_version_once(models, first, tmp_path):
    before = (models / first).stat().st_ino
    assert registry.register(models, tmp_path / "first") == first, "a retry with the same folder"
    assert registry.register(models, stage(tmp_path / "copy", day=1)) == first
    assert registry.versions(models) == [first]
    assert (models / first).stat().st_ino == before, "not written again"
    other = registry.register(models, stage(tmp_path / "other", day=1, weights="others"))
    assert other != first
    assert other[:16] == first[:16]


def test_a_copy_without_sparks_marker_files_is_the_same_version(models, first, tmp_path):
    copy = stage(tmp_path / "copy", day=1)
    for path in [*copy.rglob("*.crc"), *copy.rglob("_SUCCESS")]:
        path.unlink()
    assert registry.register(models, copy) == first
    assert not [*models.rglob("*.crc"), *models.rglob("_SUCCESS")]


def test_files_are_read_only(models, first):
    assert {path.stat().st_mode & 0o777 for path in (models / first).rglob("*") if path.is_file()} == {0o444}


@pytest.mark.parametrize("missing", ["metadata.json", "pipeline"])
def test_half_a_model_is_not_registered(models, tmp_path, missing):
    staged = stage(tmp_path / "staged")
    shutil.move(staged / missing, tmp_path / "away")
    with pytest.raises(RegistryError, match=f"incomplete: {missing}"):
        registry.register(models, staged)
    assert registry.versions(models) == []


def test_unreadable_metadata_name_the_field(models, tmp_path):
    staged = stage(tmp_path / "staged")
    content = json.loads((staged / "metadata.json").read_text())
    del content["metrics"]["log_loss"]
    (staged / "metadata.json").write_text(json.dumps(content))
    with pytest.raises(RegistryError, match=r"metrics\.log_loss"):
        registry.register(models, staged)


def damage(path: Path) -> None:
    path.chmod(0o644)
    path.write_text("damaged")


def test_damage_is_seen_and_fixed_by_registering_again(models, first, tmp_path):
    damage(weights(models, first))
    with pytest.raises(RegistryError, match="damaged: its content hashes to"):
        registry.verify(models, first)
    assert registry.register(models, tmp_path / "first") == first
    registry.verify(models, first)
    assert weights(models, first).read_text() == "weights"


def test_verify_says_what_is_wrong_in_one_sentence(models, first):
    for version, words in [("20200101T000000Z-00000000", "missing"), ("../first", "is no model version")]:
        with pytest.raises(RegistryError, match=words) as caught:
            registry.verify(models, version)
        assert "\n" not in str(caught.value)
    (models / first / "extra").touch()
    with pytest.raises(RegistryError, match="damaged"):
        registry.verify(models, first)
    shutil.rmtree(models / first / "pipeline")
    with pytest.raises(RegistryError, match="incomplete"):
        registry.verify(models, first)


def test_no_pointer_yet(models):
    assert registry.read_pointer(models) == Pointer(champion=None, previous=None, updated_at=None)
    assert registry.versions(models) == []


def test_promote_keeps_the_champion_before_as_previous(models, first, second):
    assert registry.promote(models, first).previous is None
    pointer = registry.promote(models, second)
    assert (pointer.champion, pointer.previous) == (second, first)
    assert registry.read_pointer(models) == pointer
    assert registry.promote(models, second) == pointer, "the champion again: nothing changes, previous least of all"
    back = registry.promote(models, first)
    assert (back.champion, back.previous) == (first, second)
    assert registry.versions(models) == [second, first], "newest first, whatever serves"


def test_a_damaged_version_is_not_promoted(models, first, second):
    before = registry.promote(models, first)
    damage(weights(models, second))
    with pytest.raises(RegistryError, match="damaged"):
        registry.promote(models, second)
    assert registry.read_pointer(models) == before


@pytest.mark.parametrize("act", ["promote", "prune"])
def test_nothing_is_promoted_or_pruned_while_the_pointer_is_unreadable(models, first, act):
    (models / "pointer.json").write_text('{"champion": 3}')
    with pytest.raises(RegistryError, match=r"pointer\.json is damaged"):
        registry.promote(models, first) if act == "promote" else registry.prune(models, 0, set())
    assert registry.versions(models) == [first]


VERSION = "20260101T030000Z-1a2b3c4d"
READERS = {
    registry.POINTER: registry.read_pointer,
    f"{registry.VERDICTS}/{VERSION}.json": lambda models: registry.read_verdict(models, VERSION),
    f"{VERSION}/{registry.METADATA}": lambda models: registry.verify(models, VERSION),
}


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.parametrize("name", READERS)
def test_what_cannot_be_read_is_named_in_one_sentence(models, name, kind):
    (models / name).parent.mkdir(parents=True)
    UNREADABLE[kind](models / name)
    with pytest.raises(RegistryError, match=name) as caught:
        READERS[name](models)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("champion", ["../../etc", "latest", ""])
def test_a_pointer_names_versions_only(models, champion):
    models.mkdir()
    (models / registry.POINTER).write_text(json.dumps({"champion": champion}))
    with pytest.raises(RegistryError, match="champion"):
        registry.read_pointer(models)


def test_readers_never_see_half_a_pointer(models, first, second):
    registry.promote(models, first)
    seen, done = set(), threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(registry.read_pointer(models).champion)

    reader = threading.Thread(target=read)
    reader.start()
    for version in [second, first] * 50:
        registry.promote(models, version)
    done.set()
    reader.join()
    assert seen <= {first, second}


def test_a_crash_before_the_rename_leaves_nothing_that_looks_like_a_model(models, first, tmp_path, monkeypatch):
    registry.promote(models, first)
    staged = stage(tmp_path / "staged", day=3)

    def crash(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", crash)
        with pytest.raises(KeyboardInterrupt):
            registry.register(models, staged)
    assert registry.versions(models) == [first]
    assert registry.read_pointer(models).champion == first
    assert registry.register(models, staged) in registry.versions(models)


def test_staging_is_emptied_for_a_retry_and_old_leftovers_go(models, first):
    folder = registry.stage(models, "scheduled__2026-01-05T04:00:00+00:00/../x")
    assert folder.parent == models / ".staging"
    (folder / "half").touch()
    old = registry.stage(models, "old")
    os.utime(old, (0, 0))
    assert registry.stage(models, "scheduled__2026-01-05T04:00:00+00:00/../x") == folder
    assert list(folder.iterdir()) == []
    assert not old.exists()
    assert registry.versions(models) == [first]


def test_pruning_keeps_the_newest_and_whatever_is_in_use(models, tmp_path):
    versions = [registry.register(models, stage(tmp_path / str(day), day=day)) for day in range(1, 9)]
    registry.promote(models, versions[0])
    registry.promote(models, versions[1])
    for version in (versions[2], versions[3]):
        registry.save_verdict(models, promotion_checks.judge(version, metadata(), None, limit=1, force=False))
    assert registry.prune(models, 2, {versions[3]}, dry_run=True) == [versions[5], versions[4], versions[2]]
    assert len(registry.versions(models)) == 8
    assert registry.prune(models, 2, {versions[3]}) == [versions[5], versions[4], versions[2]]
    assert sorted(registry.versions(models)) == [versions[n] for n in (0, 1, 3, 6, 7)]
    assert registry.prune(models, 2, {versions[3]}) == []
    assert list((models / registry.STAGING).iterdir()) == []
    registry.verify(models, versions[0])
    assert [path.stem for path in (models / registry.VERDICTS).iterdir()] == [versions[3]]


def test_what_release_0_1_0_wrote_is_still_read(models, first):
    content = json.loads((models / first / registry.METADATA).read_text())
    for field in ("metrics_without_conditions", "calibration", "confusion", "by_carrier", "by_origin", "importances"):
        del content[field]
    del content["golden"], content["comparison"]
    (models / first / registry.METADATA).chmod(0o644)
    (models / first / registry.METADATA).write_text(json.dumps(content))
    assert registry.load_metadata(models, first).by_carrier == {}
    assert registry.read_verdict(models, first) is None
